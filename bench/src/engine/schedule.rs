//! When the messages of an open loop are due: at even intervals, and never later because the broker
//! or this process was slow. The engine calls it; it uses no clock.

/// Messages at a fixed rate, assigned to the publishers in turn.
#[derive(Debug, Clone)]
pub struct Schedule {
    start_ns: u64,
    per_second: u64,
    publishers: u64,
    /// Number of messages assigned so far.
    dealt: u64,
}

impl Schedule {
    /// The first message is due at `start_ns`; `per_second` and `publishers` are at least 1.
    pub fn new(start_ns: u64, per_second: u64, publishers: usize) -> Self {
        Self { start_ns, per_second: per_second.max(1), publishers: publishers.max(1) as u64, dealt: 0 }
    }

    /// Nanosecond at which message `number`, counted from 0 over all publishers, is due.
    fn due(&self, number: u64) -> u64 {
        // Whole seconds are separate, so that the product fits 64 bits for any rate below 10^10.
        let (seconds, rest) = (number / self.per_second, number % self.per_second);
        self.start_ns + seconds * 1_000_000_000 + rest * 1_000_000_000 / self.per_second
    }

    /// When the next message is due.
    pub fn next_ns(&self) -> u64 {
        self.due(self.dealt)
    }

    /// The publisher whose message is due by now; call again until there is none.
    #[inline]
    pub fn deal(&mut self, now_ns: u64) -> Option<usize> {
        if self.next_ns() > now_ns {
            return None;
        }
        let publisher = self.dealt % self.publishers;
        self.dealt += 1;
        usize::try_from(publisher).ok()
    }

    /// Number of messages assigned to a publisher.
    pub fn assigned_to(&self, publisher: usize) -> u64 {
        let (rounds, rest) = (self.dealt / self.publishers, self.dealt % self.publishers);
        rounds + u64::from((publisher as u64) < rest)
    }

    /// When a publisher's message `sequence`, counted from 1, was due.
    #[inline]
    pub fn due_of(&self, publisher: usize, sequence: u64) -> u64 {
        self.due((sequence - 1) * self.publishers + publisher as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_evenly_and_dealt_in_turn() {
        let mut schedule = Schedule::new(1000, 4, 3);
        let mut dealt = Vec::new();
        for now_ns in [999, 1000, 250_000_999, 250_001_000] {
            dealt.extend(std::iter::from_fn(|| schedule.deal(now_ns)));
        }
        assert_eq!(dealt, [0, 1]);
        assert_eq!([0, 1, 2].map(|publisher| schedule.assigned_to(publisher)), [1, 1, 0]);
        assert_eq!(schedule.next_ns(), 500_001_000);
        assert_eq!(schedule.due_of(2, 1), 500_001_000);
        assert_eq!(schedule.due_of(0, 2), 750_001_000);
    }

    #[test]
    fn a_pause_does_not_move_what_was_due() {
        let mut schedule = Schedule::new(0, 1000, 1);
        assert_eq!(
            std::iter::from_fn(|| schedule.deal(2_000_000_000)).count(),
            2001,
            "all at once, after two seconds"
        );
        assert_eq!(schedule.due_of(0, 1), 0, "and stamped with when they were due");
        assert_eq!(schedule.due_of(0, 1500), 1_499_000_000);
    }

    #[test]
    fn rounding_does_not_add_up() {
        let schedule = Schedule::new(0, 3, 1);
        assert_eq!(schedule.due(3 * 3600 * 24), 3600 * 24 * 1_000_000_000);
        let fast = Schedule::new(0, 9_999_999_999, 1);
        assert_eq!(fast.due(9_999_999_999 * 1000), 1_000_000_000_000);
        assert!(fast.due(9_999_999_998) < 1_000_000_000);
    }
}
