//! The time of the running step, and two timer wheels: 10 ms for deadlines, 1 s for silent clients
//! and expiry.

use std::collections::VecDeque;

use grapnel_plugin_abi::raw::Ticket;

use crate::id::{ConnKey, SessionKey};
use crate::time::Now;
use crate::timer::{Timer, Wheel};

/// Entries of the 10 ms wheel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    /// A deferred verdict.
    Ticket(Ticket),
    /// A connection whose CONNECT or AUTH is due.
    Connection(ConnKey),
    /// A SUBACK that waits for the other shards.
    Barrier(SessionKey),
    /// A publish that waits for a PUBREL.
    Release(SessionKey),
    /// Rechecks that got no answer.
    Recheck,
    /// A timer of a plugin.
    Plugin {
        /// Its number.
        timer: u64,
        /// The plugin's number.
        number: u64,
    },
}

/// Entries of the 1 s wheel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Overdue {
    /// A connection whose client may be silent.
    Connection(ConnKey),
    /// A session without a connection.
    Expiry(SessionKey),
    /// A delayed will.
    Will(SessionKey),
    /// Sessions with batches that settle: no message from before their marks can come live any
    /// more.
    Settled,
    /// Stored instance messages for a version of a plugin that has not come.
    InstanceMessages,
}

/// Bytes that a timer is charged for.
pub(crate) const TIMER_BYTES: usize = Wheel::<Deadline>::ENTRY_BYTES;

/// Capacity that the lists of due timers keep.
const SPARE_DUE_MAX: usize = 1024;

fn give_back<T>(due: &mut VecDeque<T>) {
    if due.capacity() > SPARE_DUE_MAX && due.is_empty() {
        *due = VecDeque::new();
    }
}

/// The time of a shard. It changes only between two steps.
#[derive(Debug)]
pub(crate) struct Clock {
    now: Now,
    /// 10 ms: tickets, barriers, CONNECT.
    deadlines: Wheel<Deadline>,
    /// 1 s: keep alive, expiry, delayed wills.
    seconds: Wheel<Overdue>,
    /// Timers that are due and are processed in slices.
    due_deadlines: VecDeque<(Timer, Deadline)>,
    due_seconds: VecDeque<(Timer, Overdue)>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock {
            now: Now::default(),
            deadlines: Wheel::new(10),
            seconds: Wheel::new(1000),
            due_deadlines: VecDeque::new(),
            due_seconds: VecDeque::new(),
        }
    }

    /// The time of the running step.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        self.now
    }

    /// Sets the time of a new step.
    pub(crate) fn set(&mut self, now: Now) {
        self.now = now;
    }

    /// Arms a timer on the 10 ms wheel; `due_ms` is monotonic.
    pub(crate) fn arm_deadline(&mut self, due_ms: u64, deadline: Deadline) -> Timer {
        self.deadlines.arm(due_ms, deadline)
    }

    /// Arms a timer on the 1 s wheel; `due_ms` is monotonic.
    pub(crate) fn arm_overdue(&mut self, due_ms: u64, overdue: Overdue) -> Timer {
        self.seconds.arm(due_ms, overdue)
    }

    /// Cancels a timer of the 10 ms wheel. No effect for `None`, or for a timer that has been due.
    pub(crate) fn cancel_deadline(&mut self, timer: Option<Timer>) {
        timer.map(|timer| self.deadlines.cancel(timer));
    }

    /// Cancels a timer of the 1 s wheel, likewise.
    pub(crate) fn cancel_overdue(&mut self, timer: Option<Timer>) {
        timer.map(|timer| self.seconds.cancel(timer));
    }

    /// Number of armed timers.
    pub(crate) fn armed(&self) -> usize {
        self.deadlines.len() + self.seconds.len()
    }

    /// How many of these timers are armed on the 10 ms wheel.
    pub(crate) fn count_deadlines(&self, timers: impl IntoIterator<Item = Timer>) -> usize {
        timers.into_iter().filter(|timer| self.deadlines.has(*timer)).count()
    }

    /// How many of these timers are armed on the 1 s wheel.
    pub(crate) fn count_overdue(&self, timers: impl IntoIterator<Item = Timer>) -> usize {
        timers.into_iter().filter(|timer| self.seconds.has(*timer)).count()
    }

    /// Collects the timers that are due by now.
    pub(crate) fn look(&mut self) {
        give_back(&mut self.due_deadlines);
        give_back(&mut self.due_seconds);
        self.deadlines.expire(self.now.mono_ms, &mut self.due_deadlines);
        self.seconds.expire(self.now.mono_ms, &mut self.due_seconds);
    }

    /// The next due timer of the 10 ms wheel. If it was cancelled after it fell due, its owner no
    /// longer stores this timer.
    pub(crate) fn pop_deadline(&mut self) -> Option<(Timer, Deadline)> {
        self.due_deadlines.pop_front()
    }

    /// The next due timer of the 1 s wheel, likewise.
    pub(crate) fn pop_overdue(&mut self) -> Option<(Timer, Overdue)> {
        self.due_seconds.pop_front()
    }

    /// Whether a due timer has not been taken.
    pub(crate) fn has_due(&self) -> bool {
        !self.due_deadlines.is_empty() || !self.due_seconds.is_empty()
    }

    /// The time by which the next timer must be processed, monotonic milliseconds; `None` if none
    /// is armed.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        if self.has_due() {
            return Some(self.now.mono_ms);
        }
        let (a, b) = (self.deadlines.next_due_ms(), self.seconds.next_due_ms());
        a.into_iter().chain(b).min()
    }
}
