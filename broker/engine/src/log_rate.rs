//! A line of the log that could repeat without end: it is written once in a while, with how many times it was not. Held by whoever
//! counts what the line is about.

/// How often such a line is written at most, milliseconds, where nothing else is said.
pub const EVERY_MS: u64 = 10_000;

/// When a line is written again, and what has not been said since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRate {
    next_ms: u64,
    unsaid: u64,
}

impl LogRate {
    /// There is something to be said at this time, monotonic milliseconds. `None`, and it is counted, within [`EVERY_MS`] of the last
    /// line; otherwise it is said now, with how many have not been before it.
    pub fn say(&mut self, now_ms: u64) -> Option<u64> {
        self.say_within(EVERY_MS, now_ms)
    }

    /// The same where a line is written every so many milliseconds at most.
    pub fn say_within(&mut self, every_ms: u64, now_ms: u64) -> Option<u64> {
        self.say_many(1, every_ms, now_ms).map(|times| times - 1)
    }

    /// There are so many things to be said: all that have not been, these among them, if a line is written now.
    pub fn say_many(&mut self, times: u64, every_ms: u64, now_ms: u64) -> Option<u64> {
        self.unsaid = self.unsaid.saturating_add(times);
        if now_ms < self.next_ms {
            return None;
        }
        self.next_ms = now_ms.saturating_add(every_ms);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_in_a_while_with_those_that_were_not() {
        let mut rate = LogRate::default();
        assert_eq!(rate.say(5), Some(0), "the first one at once");
        assert_eq!((rate.say(6), rate.say(10_004)), (None, None));
        assert_eq!((rate.say(10_005), rate.say(20_005)), (Some(2), Some(0)));
    }

    #[test]
    fn other_times_and_numbers_count_in_the_same_way() {
        let mut rate = LogRate::default();
        assert_eq!((rate.say_within(100, 0), rate.say_within(100, 99)), (Some(0), None));
        assert_eq!(rate.say_within(100, 100), Some(1));
        assert_eq!(rate.say_many(7, 100, 199), None);
        assert_eq!(rate.say_many(2, 100, 200), Some(9), "these are among them");
        assert_eq!(rate.say_many(u64::MAX, 100, 201), None);
        assert_eq!(rate.say_many(1, 100, 300), Some(u64::MAX));
        assert_eq!(rate.say_within(u64::MAX, 400), Some(0));
        assert_eq!(rate.say(u64::MAX - 1), None);
    }
}
