//! Timers of plugins. One that falls due while its plugin is suspended waits for it.

use super::PluginStore;
use crate::hook::PluginHandle;
use crate::timer::Timer;

/// A timer of a plugin.
#[derive(Debug)]
pub(super) struct PluginTimer {
    plugin: PluginHandle,
    /// How long to wait for a plugin that is in no chain table.
    until_ms: u64,
    armed: Timer,
    /// Its key among the suspended timers.
    suspended: Option<u64>,
}

impl PluginStore {
    /// Stores an armed timer. If its plugin is in no chain table, the timer waits for it until
    /// `until_ms`.
    pub(crate) fn arm_timer(&mut self, timer: u64, plugin: PluginHandle, until_ms: u64, armed: Timer) {
        self.timers.insert(timer, PluginTimer { plugin, until_ms, armed, suspended: None });
    }

    /// Arms a timer again.
    pub(crate) fn rearm_timer(&mut self, timer: u64, armed: Timer) {
        if let Some(known) = self.timers.get_mut(&timer) {
            known.armed = armed;
        }
    }

    /// Removes a timer of this plugin; the caller cancels the returned timer in the clock.
    pub(crate) fn cancel_timer(&mut self, timer: u64, plugin: PluginHandle) -> Option<Timer> {
        self.timers.get(&timer).filter(|known| known.plugin == plugin)?;
        let gone = self.timers.remove(&timer)?;
        gone.suspended.map(|place| self.suspended_timers.remove(&place));
        Some(gone.armed)
    }

    /// The plugin of a timer, and how long to wait for it; `None` if the timer is not armed.
    pub(crate) fn timer(&self, timer: u64) -> Option<(PluginHandle, u64)> {
        self.timers.get(&timer).map(|known| (known.plugin, known.until_ms))
    }

    /// Removes a timer that has run, or whose plugin is gone.
    pub(crate) fn end_timer(&mut self, timer: u64) {
        self.timers.remove(&timer);
    }

    /// The clock's timer for a timer of a plugin.
    pub(crate) fn armed(&self, timer: u64) -> Option<Timer> {
        self.timers.get(&timer).map(|known| known.armed)
    }

    /// The clock's timers for all of them.
    pub(crate) fn timers(&self) -> impl Iterator<Item = Timer> {
        self.timers.values().map(|timer| timer.armed)
    }

    /// Number of armed timers.
    pub(crate) fn timers_len(&self) -> usize {
        self.timers.len()
    }

    /// A timer is due while its plugin is suspended.
    pub(crate) fn suspend_timer(&mut self, timer: u64, number: u64) {
        if let Some(known) = self.timers.get_mut(&timer) {
            self.suspended_timers_count += 1;
            known.suspended = Some(self.suspended_timers_count);
            self.suspended_timers.insert(self.suspended_timers_count, (timer, number));
        }
    }

    /// Takes the suspended timers in order, each with the number of its plugin.
    pub(crate) fn take_suspended_timers(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.suspended_timers).into_values().collect()
    }

    /// Removes the timers of these versions.
    pub(super) fn take_timers(&mut self, of: &[PluginHandle]) -> Vec<Timer> {
        if of.is_empty() {
            return Vec::new();
        }
        let held = &mut self.suspended_timers;
        let timers = self.timers.extract_if(|_, timer| of.contains(&timer.plugin));
        let timers = timers.map(|(_, timer)| {
            timer.suspended.map(|place| held.remove(&place));
            timer.armed
        });
        timers.collect()
    }
}
