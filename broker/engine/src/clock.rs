//! The time of the running step, and the two wheels of what falls due: 10 ms for deadlines, 1 s for silent clients and expiry.

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
    /// A connection that must have sent CONNECT or AUTH.
    Connection(ConnKey),
    /// A SUBACK that waits for the other shards.
    Barrier(SessionKey),
    /// A publish that waits for a PUBREL.
    Release(SessionKey),
    /// Rechecks that nobody has answered.
    Recheck,
    /// A timer of a plugin's.
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
    /// A connection that must have sent something.
    Connection(ConnKey),
    /// A session without a connection.
    Expiry(SessionKey),
    /// A delayed will.
    Will(SessionKey),
    /// Sessions with what was stored before the marks of their subscriptions, and might have come live.
    Settled,
}

/// What a timer is charged for.
pub(crate) const TIMER_BYTES: usize = Wheel::<Deadline>::ENTRY_BYTES;

/// Memory for so many that were due at one time is kept.
const SPARE_DUE_MAX: usize = 1024;

fn give_back<T>(due: &mut VecDeque<T>) {
    if due.capacity() > SPARE_DUE_MAX && due.is_empty() {
        *due = VecDeque::new();
    }
}

/// A shard's time. It moves only between two steps.
#[derive(Debug)]
pub(crate) struct Clock {
    now: Now,
    /// 10 ms: tickets, barriers, CONNECT.
    deadlines: Wheel<Deadline>,
    /// 1 s: keep alive, expiry, delayed wills.
    seconds: Wheel<Overdue>,
    /// What was due and is worked off in slices.
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

    /// A step begins at this time.
    pub(crate) fn set(&mut self, now: Now) {
        self.now = now;
    }

    /// Has something fall due on the 10 ms wheel; monotonic milliseconds.
    pub(crate) fn arm_deadline(&mut self, due_ms: u64, deadline: Deadline) -> Timer {
        self.deadlines.arm(due_ms, deadline)
    }

    /// Has something fall due on the 1 s wheel; monotonic milliseconds.
    pub(crate) fn arm_overdue(&mut self, due_ms: u64, overdue: Overdue) -> Timer {
        self.seconds.arm(due_ms, overdue)
    }

    /// A deadline means nothing any more. One that has been due, or none, is nothing.
    pub(crate) fn cancel_deadline(&mut self, timer: Option<Timer>) {
        timer.map(|timer| self.deadlines.cancel(timer));
    }

    /// The same on the 1 s wheel.
    pub(crate) fn cancel_overdue(&mut self, timer: Option<Timer>) {
        timer.map(|timer| self.seconds.cancel(timer));
    }

    /// How many timers are armed.
    pub(crate) fn armed(&self) -> usize {
        self.deadlines.len() + self.seconds.len()
    }

    /// How many of these are on the 10 ms wheel and have not been due.
    pub(crate) fn count_deadlines(&self, timers: impl IntoIterator<Item = Timer>) -> usize {
        timers.into_iter().filter(|timer| self.deadlines.has(*timer)).count()
    }

    /// The same on the 1 s wheel.
    pub(crate) fn count_overdue(&self, timers: impl IntoIterator<Item = Timer>) -> usize {
        timers.into_iter().filter(|timer| self.seconds.has(*timer)).count()
    }

    /// Looks what is due by now.
    pub(crate) fn look(&mut self) {
        give_back(&mut self.due_deadlines);
        give_back(&mut self.due_seconds);
        self.deadlines.expire(self.now.mono_ms, &mut self.due_deadlines);
        self.seconds.expire(self.now.mono_ms, &mut self.due_seconds);
    }

    /// The next thing that was due on the 10 ms wheel. Nobody holds its timer any more if it means nothing by now.
    pub(crate) fn pop_deadline(&mut self) -> Option<(Timer, Deadline)> {
        self.due_deadlines.pop_front()
    }

    /// The same of the 1 s wheel.
    pub(crate) fn pop_overdue(&mut self) -> Option<(Timer, Overdue)> {
        self.due_seconds.pop_front()
    }

    /// Whether something was due and has not been taken.
    pub(crate) fn has_due(&self) -> bool {
        !self.due_deadlines.is_empty() || !self.due_seconds.is_empty()
    }

    /// When something falls due at the latest, monotonic milliseconds; `None` while nothing is armed.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        if self.has_due() {
            return Some(self.now.mono_ms);
        }
        let (a, b) = (self.deadlines.next_due_ms(), self.seconds.next_due_ms());
        a.into_iter().chain(b).min()
    }
}
