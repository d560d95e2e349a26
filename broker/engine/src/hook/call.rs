//! The hook that a shard is calling at this moment, for the watchdog on another thread. It costs
//! one plain store for each link.

use std::sync::atomic::{AtomicU64, Ordering};

use super::breaker::FaultTally;
use super::{HookPoint, LinkIdentity, PluginHandle};

/// A call of a plugin outside of events. The numbers differ from those of hook points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Callback {
    /// A timer is due.
    Timer = 0x1_0000,
    /// An instance message has come.
    InstanceMessage = 0x1_0001,
}

/// What is being called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Called {
    /// A hook, in any version of its plugin.
    Hook(LinkIdentity),
    /// A plugin, outside of events.
    Plugin(PluginHandle),
}

/// The half of the word that names the call.
const NUMBER: u64 = u32::MAX as u64;

/// The name of what is called, from its number in the word.
fn name_of(number: u64) -> Option<&'static str> {
    match number {
        number if number == Callback::Timer as u64 => Some("on_timer"),
        number if number == Callback::InstanceMessage as u64 => Some("on_instance_message"),
        number => {
            let point = u16::try_from(number.checked_sub(1)?).ok()?;
            HookPoint::from_number(point).map(HookPoint::name)
        }
    }
}

/// Set around the calls of a chain on the shard's thread. A reader may see only one of the two
/// stores, so the value is good for a log line only.
#[derive(Debug)]
pub struct CallCell {
    /// Identity of the link; outside of events the handle of the plugin.
    link: AtomicU64,
    /// Low half: number of the hook point plus one, 0 while nothing is called. High half: count of
    /// the runs.
    word: AtomicU64,
    /// Ancestry of the running event.
    ancestry: AtomicU64,
    /// Number of plugin timers armed on the shard.
    timers: AtomicU64,
    /// Faults in the running step.
    faults: FaultTally,
    /// Duration from which a timed call counts as slow, nanoseconds.
    slow_from_ns: AtomicU64,
    /// Number of slow calls, and the last of them: identity of the link, number of the hook point
    /// plus one, nanoseconds.
    slow: [AtomicU64; 4],
    /// A monotonic clock, nanoseconds, for the duration of calls.
    ticks_ns: fn() -> u64,
}

impl Default for CallCell {
    /// With a clock that never advances.
    fn default() -> CallCell {
        CallCell::new(|| 0)
    }
}

impl CallCell {
    /// With this monotonic clock, nanoseconds; the engine itself has no clock.
    pub fn new(ticks_ns: fn() -> u64) -> CallCell {
        CallCell {
            link: AtomicU64::new(0),
            word: AtomicU64::new(0),
            ancestry: AtomicU64::new(0),
            timers: AtomicU64::new(0),
            faults: FaultTally::default(),
            slow_from_ns: AtomicU64::new(u64::MAX),
            slow: Default::default(),
            ticks_ns,
        }
    }

    /// Faults in the running step. Only for the shard's own thread.
    pub fn faults(&self) -> &FaultTally {
        &self.faults
    }

    /// Monotonic time for the duration of calls, nanoseconds.
    #[inline]
    pub fn ticks_ns(&self) -> u64 {
        (self.ticks_ns)()
    }

    /// Before the links of a chain are called. `ancestry` has a bit for each plugin that led to the
    /// event.
    #[inline]
    pub fn enter(&self, point: HookPoint, ancestry: u64) {
        self.ancestry.store(ancestry, Ordering::Relaxed);
        self.begin(point as u64 + 1);
    }

    /// Sets the link that is called next.
    #[inline]
    pub fn turn_of(&self, link: LinkIdentity) {
        self.link.store(u64::from(link.0), Ordering::Relaxed);
    }

    #[inline]
    fn begin(&self, number: u64) {
        let count = (self.word.load(Ordering::Relaxed) & !NUMBER).wrapping_add(NUMBER + 1);
        self.word.store(count | number, Ordering::Relaxed);
    }

    /// The number of the current run of a chain, unique among about four billion runs; `None` while
    /// none runs.
    pub fn number(&self) -> Option<u64> {
        Some(self.word.load(Ordering::Relaxed)).filter(|word| word & NUMBER != 0)
    }

    /// Sets the duration from which a call counts as slow, nanoseconds.
    pub fn set_slow_from_ns(&self, ns: u64) {
        self.slow_from_ns.store(ns, Ordering::Relaxed);
    }

    /// Records the duration of a timed call.
    #[inline]
    pub fn timed(&self, link: LinkIdentity, point: HookPoint, ns: u64) {
        if ns >= self.slow_from_ns.load(Ordering::Relaxed) {
            self.note_slow(link, point, ns);
        }
    }

    #[cold]
    fn note_slow(&self, link: LinkIdentity, point: HookPoint, ns: u64) {
        let [count, of, at, took] = &self.slow;
        of.store(u64::from(link.0), Ordering::Relaxed);
        at.store(point as u64 + 1, Ordering::Relaxed);
        took.store(ns, Ordering::Relaxed);
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// The number of slow calls, and the last of them: what was called, where, and nanoseconds.
    pub fn slow(&self) -> (u64, Option<(Called, &'static str, u64)>) {
        let [count, of, at, took] = &self.slow;
        let count = count.load(Ordering::Acquire);
        let last = name_of(at.load(Ordering::Relaxed))
            .map(|name| (hook(of.load(Ordering::Relaxed)), name, took.load(Ordering::Relaxed)));
        (count, last)
    }

    /// Before a call outside of events.
    pub fn enter_callback(&self, plugin: PluginHandle, what: Callback) {
        self.link.store(plugin.0, Ordering::Relaxed);
        self.begin(what as u64);
    }

    /// Ancestry of the running event. Only for the shard's own thread, during a call.
    pub fn ancestry(&self) -> u64 {
        self.ancestry.load(Ordering::Relaxed)
    }

    /// Sets the number of plugin timers armed.
    pub fn set_timers(&self, timers: u64) {
        self.timers.store(timers, Ordering::Relaxed);
    }

    /// Number of plugin timers armed.
    pub fn timers(&self) -> u64 {
        self.timers.load(Ordering::Relaxed)
    }

    /// What is called and where, for logs: at a hook point, or in a function outside of events.
    pub fn current_name(&self) -> Option<(Called, &'static str)> {
        let number = self.word.load(Ordering::Relaxed) & NUMBER;
        let link = self.link.load(Ordering::Relaxed);
        let untimely = number >= Callback::Timer as u64;
        Some((if untimely { Called::Plugin(PluginHandle(link)) } else { hook(link) }, name_of(number)?))
    }

    /// Whether a function of a plugin runs. Exact on the shard's own thread.
    pub fn is_calling(&self) -> bool {
        self.word.load(Ordering::Relaxed) & NUMBER != 0
    }

    /// After the calls.
    #[inline]
    pub fn leave(&self) {
        self.word.store(self.word.load(Ordering::Relaxed) & !NUMBER, Ordering::Relaxed);
    }

    /// The current call, if there is one.
    pub fn current(&self) -> Option<(Called, HookPoint)> {
        let number = (self.word.load(Ordering::Relaxed) & NUMBER).checked_sub(1)?;
        let point = HookPoint::from_number(u16::try_from(number).ok()?)?;
        Some((hook(self.link.load(Ordering::Relaxed)), point))
    }
}

fn hook(link: u64) -> Called {
    Called::Hook(LinkIdentity(link as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_number_of_its_own_while_it_lasts() {
        let cell = CallCell::default();
        assert_eq!(cell.number(), None);
        cell.enter(HookPoint::ClientConnect, 0);
        let first = cell.number();
        assert!(first.is_some());
        cell.leave();
        assert_eq!((cell.number(), cell.current(), cell.is_calling()), (None, None, false));
        cell.enter(HookPoint::ClientConnect, 0);
        assert!(cell.number().is_some() && cell.number() != first);
        cell.enter_callback(PluginHandle(8), Callback::InstanceMessage);
        assert_eq!(cell.current_name(), Some((Called::Plugin(PluginHandle(8)), "on_instance_message")));
        cell.leave();
    }

    #[test]
    fn slow_calls_are_counted_and_the_last_one_is_stored() {
        let cell = CallCell::default();
        cell.timed(LinkIdentity(7), HookPoint::MessagePublish, u64::MAX - 1);
        assert_eq!(cell.slow(), (0, None));
        cell.set_slow_from_ns(1_000);
        for ns in [999, 1_000, 2_000] {
            cell.timed(LinkIdentity(7), HookPoint::MessagePublish, ns);
        }
        assert_eq!(cell.slow(), (2, Some((Called::Hook(LinkIdentity(7)), "message.publish", 2_000))));
    }

    #[test]
    fn the_running_link_can_be_read_during_its_call() {
        let cell = CallCell::default();
        cell.enter(HookPoint::MessagePublish, 0b101);
        assert_eq!(cell.ancestry(), 0b101);
        for link in [LinkIdentity(7), LinkIdentity(9)] {
            cell.turn_of(link);
            assert_eq!(cell.current_name(), Some((Called::Hook(link), "message.publish")));
        }
    }
}
