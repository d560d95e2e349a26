//! When the shell must check a connection again: for a write that stalls, or a connection that is
//! closing. One heap per shard, served by the one timer of the turn. When an alarm is set again,
//! its old entry stays in the heap and is ignored when it is due, or removed when there are many.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::conn::Token;

/// An alarm of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Alarm {
    /// Millisecond at which it is due.
    pub at_ms: u64,
    /// The connection.
    pub token: Token,
    /// Distinguishes the connection from a later one with the same token.
    pub serial: u32,
}

/// Number of alarms that are never swept.
const SPARE: usize = 64;

/// All alarms of a shard.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    heap: BinaryHeap<Reverse<Alarm>>,
}

impl Alarms {
    /// Sets an alarm.
    pub fn set(&mut self, alarm: Alarm) {
        self.heap.push(Reverse(alarm));
    }

    /// Removes the alarms that are not current any more, if there may be more of them than of current
    /// ones. `connections` is how many there are, each with at most one current alarm. The work is
    /// that of the alarms set since the last time.
    pub fn sweep(&mut self, connections: usize, is_current: impl Fn(&Alarm) -> bool) {
        if self.heap.len() > 2 * connections + SPARE {
            self.heap.retain(|Reverse(alarm)| is_current(alarm));
            self.heap.shrink_to(2 * self.heap.len());
        }
    }

    /// When the next alarm is due, milliseconds.
    pub fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(alarm)| alarm.at_ms)
    }

    /// Takes the next alarm that is due.
    pub fn due(&mut self, now_ms: u64) -> Option<Alarm> {
        self.next_ms().filter(|at_ms| *at_ms <= now_ms)?;
        self.heap.pop().map(|Reverse(alarm)| alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_come_in_order_of_their_time_and_not_before() {
        let mut alarms = Alarms::default();
        for at_ms in [30, 10, 20] {
            alarms.set(Alarm { at_ms, token: at_ms as usize, serial: 1 });
        }
        assert_eq!(alarms.next_ms(), Some(10));
        assert_eq!(alarms.due(9), None);
        assert_eq!(alarms.due(25).map(|alarm| alarm.token), Some(10));
        assert_eq!(alarms.due(25).map(|alarm| alarm.token), Some(20));
        assert_eq!(alarms.due(25), None);
        assert_eq!(alarms.next_ms(), Some(30));
    }

    #[test]
    fn alarms_of_connections_that_have_gone_are_swept() {
        let mut alarms = Alarms::default();
        let mut looked_at = 0;
        for serial in 0..10_000 {
            alarms.set(Alarm { at_ms: 1_000_000, token: 1, serial });
            let looks = std::cell::Cell::new(0);
            alarms.sweep(1, |alarm| {
                looks.set(looks.get() + 1);
                alarm.serial == serial
            });
            looked_at += looks.get();
            assert!(alarms.heap.len() <= 2 + SPARE, "{}", alarms.heap.len());
        }
        assert!(looked_at <= 2 * 10_000, "{looked_at} looks for 10,000 alarms");
        assert!(alarms.heap.capacity() <= 4 * SPARE, "{}", alarms.heap.capacity());
    }
}
