//! Which plugin a shard is calling at this moment, for who watches it from another thread. Two plain stores a link.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{HookPoint, PluginHandle};

/// Set around the links of a chain on the shard's thread; a reader may see the two stores in part, which is good enough for a
/// log line and for nothing else.
#[derive(Debug)]
pub struct CallCell {
    plugin: AtomicU64,
    /// The point's number plus one; 0 while none is called.
    point: AtomicU64,
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
        CallCell { plugin: AtomicU64::new(0), point: AtomicU64::new(0), ticks_ns }
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
