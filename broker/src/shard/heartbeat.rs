//! The heartbeat of a shard for other threads: since when it has been in its current step, and
//! which plugin it is calling. Written by the shard with plain stores, read by the watchdog. A
//! reader may see one store of two; that is sufficient for a log line.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread::Thread;
use std::time::Instant;

use grapnel_engine::hook::CallCell;
use grapnel_engine::time::Now;

/// The process's clock, which all shards read so that their milliseconds compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts a clock. Made once, before the first shard.
    pub fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    /// Milliseconds since the clock began, and since 1970.
    pub fn now(&self) -> Now {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A system clock before 1970 counts as 1970.
        Now { mono_ms: self.mono_ms(), wall_ms: wall.map_or(0, |since| since.as_millis() as u64) }
    }

    /// Milliseconds since the clock began.
    pub fn mono_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Time from now until that millisecond of the clock; zero if it has passed.
    pub fn until(&self, mono_ms: u64) -> std::time::Duration {
        std::time::Duration::from_millis(mono_ms).saturating_sub(self.started.elapsed())
    }
}

/// The heartbeat of a shard.
#[derive(Debug)]
pub struct Heartbeat {
    /// Steps begun since the start.
    steps: AtomicU64,
    /// When the current step began, in milliseconds of the clock plus one; 0 between steps.
    began: AtomicU64,
    call: Arc<CallCell>,
    watchdog: OnceLock<Thread>,
    /// The watchdog waits until a shard wakes it.
    watchdog_sleeps: AtomicBool,
}

/// The clock that calls of plugins are timed with, nanoseconds.
fn ticks_ns() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGIN.elapsed().as_nanos() as u64
}

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        Heartbeat {
            steps: AtomicU64::new(0),
            watchdog: OnceLock::new(),
            watchdog_sleeps: AtomicBool::new(false),
            began: AtomicU64::new(0),
            call: Arc::new(CallCell::new(ticks_ns)),
        }
    }
}

impl Heartbeat {
    /// Begins a step of the shard at this millisecond of the clock.
    pub(crate) fn begin(&self, mono_ms: u64) {
        // Only the shard writes, so that a load and a store are sufficient.
        self.steps.store(self.steps.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.began.store(mono_ms + 1, Ordering::Relaxed);
    }

    /// The step is over.
    pub(crate) fn end(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    /// For the watchdog: its thread, which [`Heartbeat::wake_watchdog`] wakes.
    pub(crate) fn set_watchdog(&self, watchdog: Thread) {
        // There is one watchdog.
        let _ = self.watchdog.set(watchdog);
    }

    /// For the watchdog: it is about to sleep. It must look at the shard once more after this.
    pub(crate) fn watchdog_sleeps(&self) {
        self.watchdog_sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Whether the watchdog sleeps, or is about to.
    #[cfg(test)]
    pub(crate) fn watchdog_is_asleep(&self) -> bool {
        self.watchdog_sleeps.load(Ordering::Relaxed)
    }

    /// For the shard, after the begin of a step: wakes the watchdog if it sleeps.
    pub(crate) fn wake_watchdog(&self) {
        fence(Ordering::SeqCst);
        if self.watchdog_sleeps.load(Ordering::Relaxed)
            && self.watchdog_sleeps.swap(false, Ordering::Relaxed)
            && let Some(watchdog) = self.watchdog.get()
        {
            watchdog.unpark();
        }
    }

    /// Steps since the start.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Duration of the current step so far, milliseconds; `None` between steps.
    pub fn step_ms(&self, now_mono_ms: u64) -> Option<u64> {
        let began = self.began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now_mono_ms.saturating_sub(began))
    }

    /// Which plugin the shard is calling.
    pub fn call(&self) -> &Arc<CallCell> {
        &self.call
    }
}

#[cfg(test)]
mod tests {
    use grapnel_engine::hook::{Called, HookPoint, LinkIdentity};

    use super::*;

    #[test]
    fn a_step_lasts_from_its_begin_to_its_end() {
        let heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.step_ms(5), None);
        heartbeat.begin(0);
        assert_eq!((heartbeat.step_ms(0), heartbeat.step_ms(300)), (Some(0), Some(300)));
        heartbeat.end();
        assert_eq!(heartbeat.step_ms(300), None);
        assert_eq!(heartbeat.steps(), 1);
    }

    #[test]
    fn a_call_is_named_while_it_lasts() {
        let cell = CallCell::default();
        assert_eq!(cell.current(), None);
        cell.enter(HookPoint::ClientConnect, 0);
        cell.turn_of(LinkIdentity(7));
        assert_eq!(cell.current(), Some((Called::Hook(LinkIdentity(7)), HookPoint::ClientConnect)));
        cell.leave();
        assert_eq!(cell.current(), None);
    }
}
