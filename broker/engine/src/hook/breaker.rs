//! The breaker of each plugin: it trips a plugin that has too many faults within a window. Links of
//! a tripped plugin are not called and apply their fault policy, until the loader compiles them
//! again. A chain counts the faults. The shard decides at the end of a step; other threads are only
//! notified.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CallCell, ChainTable, Entry, Link, LinkCounts, PluginHandle};

/// Number of plugins whose faults in one step are counted separately; further ones are added to the
/// last.
const PLACES: usize = 8;

/// Faults in the running step. Only the thread of the shard writes and takes them. They are atomics
/// because the call cell is shared with other threads.
#[derive(Debug, Default)]
pub struct FaultTally {
    waiting: AtomicU64,
    places: [(AtomicU64, AtomicU64); PLACES],
}

impl FaultTally {
    /// Counts a fault of a plugin.
    #[cold]
    pub fn count(&self, plugin: PluginHandle) {
        let mine = |place: &&(AtomicU64, AtomicU64)| {
            place.1.load(Ordering::Relaxed) == 0 || place.0.load(Ordering::Relaxed) == plugin.0
        };
        if let Some((name, count)) = self.places.iter().find(mine).or(self.places.last()) {
            name.store(plugin.0, Ordering::Relaxed);
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.waiting.store(1, Ordering::Relaxed);
        }
    }

    /// Whether a fault was counted since the last take.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Takes the counts and resets them.
    pub fn take(&self) -> impl Iterator<Item = (PluginHandle, u64)> {
        self.waiting.store(0, Ordering::Relaxed);
        let taken = self.places.iter().map(|(plugin, count)| {
            (PluginHandle(plugin.load(Ordering::Relaxed)), count.swap(0, Ordering::Relaxed))
        });
        taken.filter(|(_, count)| *count > 0)
    }
}

/// Counts the fault of a link, unless its plugin is tripped and was not called.
#[cold]
pub(super) fn count(link: &Link, count: &mut LinkCounts, calls: &CallCell) {
    if link.entry.is_tripped() {
        count.tripped += 1;
    } else {
        count.stats.faults += 1;
        calls.faults().count(link.plugin);
    }
}

/// The faults of a shard's plugins within their windows.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Times of the latest faults, monotonic milliseconds.
    recent: HashMap<PluginHandle, VecDeque<u64>>,
}

impl Breaker {
    /// Counts faults of a plugin. Returns whether it must be tripped: `faults_max` of them within
    /// `window_ms`. 0 never trips.
    pub fn note(
        &mut self,
        plugin: PluginHandle,
        count: u64,
        now_ms: u64,
        (faults_max, window_ms): (u64, u64),
    ) -> bool {
        if faults_max == 0 {
            return false;
        }
        let recent = self.recent.entry(plugin).or_default();
        recent.extend(std::iter::repeat_n(now_ms, count.min(faults_max) as usize));
        while recent.front().is_some_and(|at_ms| now_ms - at_ms >= window_ms) {
            recent.pop_front();
        }
        let tripped = recent.len() as u64 >= faults_max;
        if tripped {
            self.recent.remove(&plugin);
        }
        tripped
    }

    /// Removes the counts of a plugin.
    pub fn forget(&mut self, plugin: PluginHandle) {
        self.recent.remove(&plugin);
    }
}

impl ChainTable {
    /// Suspends a plugin in this table: its links apply their fault policies without a call, and
    /// its timers and instance messages wait.
    pub fn trip(&mut self, plugin: PluginHandle) {
        let links = self.chains.iter_mut().flat_map(|chain| chain.links.iter_mut());
        for link in links.filter(|link| link.plugin == plugin) {
            link.entry = Entry::tripped();
        }
        if !self.suspended_plugins.contains(&plugin) {
            self.suspended_plugins.push(plugin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUGIN: PluginHandle = PluginHandle(7);

    #[test]
    fn faults_within_the_window_trip_and_older_ones_are_forgotten() {
        let mut breaker = Breaker::default();
        let mut note = |count, now_ms| breaker.note(PLUGIN, count, now_ms, (3, 100));
        assert!(!note(2, 1_000));
        assert!(!note(1, 1_100), "the first two are as old as the window");
        assert!(!note(1, 1_150));
        assert!(note(1, 1_199), "the third within the window");
        assert!(!note(2, 1_200), "it counts anew");
        assert!(note(1_000_000, 1_200));
    }

    #[test]
    fn an_unloaded_plugin_leaves_nothing() {
        let mut breaker = Breaker::default();
        for generation in 0..1_000 {
            assert!(!breaker.note(PluginHandle(generation), 2, 5, (3, 100)));
            breaker.forget(PluginHandle(generation));
        }
        assert!(breaker.recent.is_empty());
    }

    #[test]
    fn a_fault_limit_of_zero_trips_no_plugin() {
        assert!(!Breaker::default().note(PLUGIN, 1_000, 5, (0, 100)));
    }

    #[test]
    fn faults_in_a_step_are_counted_by_plugin() {
        let tally = FaultTally::default();
        assert!(!tally.is_waiting());
        for plugin in [1, 2, 1] {
            tally.count(PluginHandle(plugin));
        }
        assert!(tally.is_waiting());
        assert_eq!(tally.take().collect::<Vec<_>>(), [(PluginHandle(1), 2), (PluginHandle(2), 1)]);
        assert!(!tally.is_waiting());
        (0..20).for_each(|plugin| tally.count(PluginHandle(plugin)));
        assert_eq!(tally.take().map(|(_, count)| count).sum::<u64>(), 20);
    }
}
