//! Durations of a link's calls: a histogram of the timed calls, small enough to be stored beside
//! the link's counts.

/// Buckets: two for each power of two, from 64 ns to about 51 s; longer ones are in the last.
const BUCKETS: usize = 60;
/// Upper bound of the first bucket, nanoseconds.
const FIRST_NS: u64 = 64;

/// Durations of calls; only a sample of the calls is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Number of timed calls.
    pub samples: u64,
    /// The longest duration, nanoseconds.
    pub max_ns: u64,
    buckets: [u32; BUCKETS],
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { samples: 0, max_ns: 0, buckets: [0; BUCKETS] }
    }
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (self.quantile_ns(0.5), self.quantile_ns(0.99));
        write!(f, "Latency({} samples, p50 {p50:?}, p99 {p99:?}, max {} ns)", self.samples, self.max_ns)
    }
}

impl Latency {
    /// Records one call.
    pub fn record(&mut self, ns: u64) {
        self.samples += 1;
        self.max_ns = self.max_ns.max(ns);
        let bucket = &mut self.buckets[bucket_of(ns)];
        *bucket = bucket.saturating_add(1);
    }

    /// Adds the records of another histogram.
    pub fn merge(&mut self, other: &Latency) {
        self.samples += other.samples;
        self.max_ns = self.max_ns.max(other.max_ns);
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket = bucket.saturating_add(more);
        }
    }

    /// The duration that this part (0 to 1) of the timed calls did not exceed, nanoseconds, up to
    /// 42 % too high; `None` without a sample.
    pub fn quantile_ns(&self, part: f64) -> Option<u64> {
        let wanted = ((self.samples as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Some(upper_ns(index).min(self.max_ns));
            }
        }
        (self.samples > 0).then_some(self.max_ns)
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns <= FIRST_NS {
        return 0;
    }
    // The power of two, and whether the duration is in its upper half.
    let above = ns - 1;
    let power = 63 - above.leading_zeros();
    let upper = (above >> (power - 1)) & 1;
    let index = (power - 6) as usize * 2 + upper as usize + 1;
    index.min(BUCKETS - 1)
}

/// The longest duration of a bucket.
fn upper_ns(index: usize) -> u64 {
    if index == 0 {
        return FIRST_NS;
    }
    let (power, upper) = (6 + (index - 1) / 2, (index - 1) % 2);
    let base = 1_u64 << power;
    if upper == 0 { base + base / 2 } else { base * 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_the_bucket_whose_bounds_hold_it() {
        for ns in (0..2000).chain([1 << 20, (1 << 20) + 1, 3 << 30, 1 << 35]) {
            let bucket = bucket_of(ns);
            assert!(ns <= upper_ns(bucket), "{ns} in bucket {bucket} up to {}", upper_ns(bucket));
            if bucket > 0 {
                assert!(ns > upper_ns(bucket - 1), "{ns} in bucket {bucket} from {}", upper_ns(bucket - 1));
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_samples() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile_ns(0.5), None);
        (0..99).for_each(|_| latency.record(100));
        latency.record(1_000_000);
        assert_eq!(latency.quantile_ns(0.5), Some(128));
        assert_eq!(latency.quantile_ns(0.99), Some(128));
        assert_eq!(latency.quantile_ns(1.0), Some(1_000_000));
        let mut both = latency;
        both.merge(&latency);
        assert_eq!((both.samples, both.max_ns), (200, 1_000_000));
    }
}
