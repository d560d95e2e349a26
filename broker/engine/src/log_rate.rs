//! Rate limit of a log line that could repeat without end: it is written from time to time, with
//! the number of times it was left out. Stored by the code that counts the events.

/// Default interval of such a line, milliseconds.
pub const EVERY_MS: u64 = 10_000;

/// The next time at which the line may be written, and the events since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRate {
    next_ms: u64,
    suppressed: u64,
}

impl LogRate {
    /// Records one event; `now_ms` is monotonic. If the line is to be written, returns the number
    /// of events left out before this one. `None` within [`EVERY_MS`] of the last line.
    pub fn record(&mut self, now_ms: u64) -> Option<u64> {
        self.record_within(EVERY_MS, now_ms)
    }

    /// As [`LogRate::record`], with this interval.
    pub fn record_within(&mut self, every_ms: u64, now_ms: u64) -> Option<u64> {
        self.record_many(1, every_ms, now_ms).map(|times| times - 1)
    }

    /// Records several events. If the line is to be written, returns the number of events since the
    /// last line, these included.
    pub fn record_many(&mut self, times: u64, every_ms: u64, now_ms: u64) -> Option<u64> {
        self.suppressed = self.suppressed.saturating_add(times);
        if now_ms < self.next_ms {
            return None;
        }
        self.next_ms = now_ms.saturating_add(every_ms);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_in_a_while_with_those_that_were_not() {
        let mut rate = LogRate::default();
        assert_eq!(rate.record(5), Some(0), "the first one at once");
        assert_eq!((rate.record(6), rate.record(10_004)), (None, None));
        assert_eq!((rate.record(10_005), rate.record(20_005)), (Some(2), Some(0)));
    }

    #[test]
    fn other_times_and_numbers_count_in_the_same_way() {
        let mut rate = LogRate::default();
        assert_eq!((rate.record_within(100, 0), rate.record_within(100, 99)), (Some(0), None));
        assert_eq!(rate.record_within(100, 100), Some(1));
        assert_eq!(rate.record_many(7, 100, 199), None);
        assert_eq!(rate.record_many(2, 100, 200), Some(9), "these are among them");
        assert_eq!(rate.record_many(u64::MAX, 100, 201), None);
        assert_eq!(rate.record_many(1, 100, 300), Some(u64::MAX));
        assert_eq!(rate.record_within(u64::MAX, 400), Some(0));
        assert_eq!(rate.record(u64::MAX - 1), None);
    }
}
