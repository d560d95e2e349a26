//! Which plugin a shard is calling at this moment, for who watches it from another thread. Two plain stores a link.

use std::sync::atomic::{AtomicU64, Ordering};

use super::breaker::FaultTally;
use super::{HookPoint, PluginHandle};

/// What is called of a plugin outside of events; the numbers are none of a hook point's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Untimely {
    /// A timer is due.
    Timer = 0x1_0000,
    /// Mail has come.
    Mail = 0x1_0001,
}

/// Set around the links of a chain on the shard's thread; a reader may see the two stores in part, which is good enough for a
/// log line and for nothing else.
#[derive(Debug)]
pub struct CallCell {
    plugin: AtomicU64,
    /// The point's number plus one; 0 while none is called.
    point: AtomicU64,
    /// Ancestry of the event that runs.
    ancestry: AtomicU64,
    /// Timers of plugins that are armed on the shard.
    timers: AtomicU64,
    /// Faults of the running step.
    faults: FaultTally,
    /// A monotonic clock, nanoseconds: what calls are timed with.
    ticks_ns: fn() -> u64,
}

impl Default for CallCell {
    /// With a clock that stands still.
    fn default() -> CallCell {
        CallCell::new(|| 0)
    }
}

impl CallCell {
    /// With this monotonic clock, nanoseconds, which the engine has none of.
    pub fn new(ticks_ns: fn() -> u64) -> CallCell {
        CallCell {
            plugin: AtomicU64::new(0),
            point: AtomicU64::new(0),
            ancestry: AtomicU64::new(0),
            timers: AtomicU64::new(0),
            faults: FaultTally::default(),
            ticks_ns,
        }
    }

    /// Faults of the running step. On the shard's own thread.
    pub fn faults(&self) -> &FaultTally {
        &self.faults
    }

    /// The time that calls are measured with, nanoseconds.
    #[inline]
    pub fn ticks_ns(&self) -> u64 {
        (self.ticks_ns)()
    }

    /// A call begins.
    #[inline]
    pub fn enter(&self, plugin: PluginHandle, point: HookPoint) {
        self.plugin.store(plugin.0, Ordering::Relaxed);
        self.point.store(point as u64 + 1, Ordering::Relaxed);
    }

    /// A call outside of an event begins.
    pub fn enter_untimely(&self, plugin: PluginHandle, what: Untimely) {
        self.plugin.store(plugin.0, Ordering::Relaxed);
        self.point.store(what as u64, Ordering::Relaxed);
    }

    /// The plugins that led to the event that runs, a bit for each.
    #[inline]
    pub fn set_ancestry(&self, ancestry: u64) {
        self.ancestry.store(ancestry, Ordering::Relaxed);
    }

    /// The plugins that led to the event that runs. On the shard's own thread, inside a call.
    pub fn ancestry(&self) -> u64 {
        self.ancestry.load(Ordering::Relaxed)
    }

    /// Notes how many timers of plugins are armed.
    pub fn set_timers(&self, timers: u64) {
        self.timers.store(timers, Ordering::Relaxed);
    }

    /// How many timers of plugins are armed.
    pub fn timers(&self) -> u64 {
        self.timers.load(Ordering::Relaxed)
    }

    /// Which function of which plugin runs, for people: the name of a hook point, or of a function outside of events.
    pub fn current_name(&self) -> Option<(PluginHandle, &'static str)> {
        let name = match self.point.load(Ordering::Relaxed) {
            number if number == Untimely::Timer as u64 => "on_timer",
            number if number == Untimely::Mail as u64 => "on_mail",
            _ => self.current()?.1.name(),
        };
        Some((PluginHandle(self.plugin.load(Ordering::Relaxed)), name))
    }

    /// Whether a plugin's function runs. On the shard's own thread it is exact.
    pub fn is_calling(&self) -> bool {
        self.point.load(Ordering::Relaxed) != 0
    }

    /// The call is over.
    #[inline]
    pub fn leave(&self) {
        self.point.store(0, Ordering::Relaxed);
    }

    /// The call that is going on, if one is.
    pub fn current(&self) -> Option<(PluginHandle, HookPoint)> {
        let number = self.point.load(Ordering::Relaxed).checked_sub(1)?;
        let point = HookPoint::from_number(u16::try_from(number).ok()?)?;
        Some((PluginHandle(self.plugin.load(Ordering::Relaxed)), point))
    }
}
