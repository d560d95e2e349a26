//! What a run counts. Clients and the poll loop write it, `report` reads it. Adding to it never allocates,
//! except for an error of a kind not seen before.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// One hour: nothing that takes longer is a latency.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Counts and distributions of one run; times are nanoseconds since its start.
#[derive(Debug)]
pub struct Stats {
    /// Connects begun.
    pub started: u32,
    /// CONNACKs with success.
    pub connected: u32,
    /// Clients that came to the end of their handshake, SUBACK included.
    pub ready: u32,
    /// Clients that did not.
    pub failed: u32,
    /// Connections lost after the CONNACK, other than by the end of the run.
    pub disconnects: u32,
    /// Messages written, each once.
    pub sent: u64,
    /// QoS 1 and 2 messages whose PUBACK or PUBCOMP came.
    pub acked: u64,
    /// QoS 1 and 2 messages that the broker turned down with a reason code.
    pub refused: u64,
    /// QoS 1 and 2 messages accepted with "no matching subscribers".
    pub unmatched: u64,
    /// Messages received; a QoS 2 message counts once.
    pub received: u64,
    /// Their payload bytes.
    pub received_bytes: u64,
    /// QoS 2 messages that came again before their PUBREL.
    pub redelivered: u64,
    /// Messages stamped later than they arrived: the clocks of two machines disagree.
    pub from_the_future: u64,
    /// First connect begun.
    pub first_connect_ns: Option<u64>,
    /// Last CONNACK.
    pub last_connack_ns: u64,
    /// First and last message sent.
    pub sending: Span,
    /// First message sent or received, last acknowledgement.
    pub acking: Span,
    /// First and last message received.
    pub receiving: Span,
    /// From due to received, of stamped messages.
    pub latency: Histogram<u64>,
    /// From sent to acknowledged.
    pub ack_latency: Histogram<u64>,
    /// From connect to CONNACK.
    pub connect_latency: Histogram<u64>,
    /// What went wrong how often, in words.
    pub errors: BTreeMap<String, u64>,
}

/// When something happened first and last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    first_ns: Option<u64>,
    last_ns: u64,
}

impl Span {
    /// It happens now.
    #[inline]
    pub fn touch(&mut self, now_ns: u64) {
        self.first_ns.get_or_insert(now_ns);
        self.last_ns = now_ns;
    }

    /// When it happened last, if ever.
    pub fn last_ns(&self) -> Option<u64> {
        self.first_ns.map(|_| self.last_ns)
    }

    /// Seconds between first and last.
    pub fn seconds(&self) -> f64 {
        let first = self.first_ns.unwrap_or(self.last_ns);
        as_seconds(self.last_ns.saturating_sub(first))
    }
}

/// Nanoseconds to seconds.
pub fn as_seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

impl Stats {
    /// All zero.
    pub fn new() -> Self {
        Self {
            started: 0,
            connected: 0,
            ready: 0,
            failed: 0,
            disconnects: 0,
            sent: 0,
            acked: 0,
            refused: 0,
            unmatched: 0,
            received: 0,
            received_bytes: 0,
            redelivered: 0,
            from_the_future: 0,
            first_connect_ns: None,
            last_connack_ns: 0,
            sending: Span::default(),
            acking: Span::default(),
            receiving: Span::default(),
            latency: histogram(),
            ack_latency: histogram(),
            connect_latency: histogram(),
            errors: BTreeMap::new(),
        }
    }

    /// Counts an error; true if it is the first of its kind.
    pub fn error(&mut self, what: &str) -> bool {
        count_error(&mut self.errors, what)
    }
}

/// Counts an error among `errors`, by its words; true if it is the first of its kind.
pub fn count_error(errors: &mut BTreeMap<String, u64>, what: &str) -> bool {
    if let Some(count) = errors.get_mut(what) {
        *count += 1;
        return false;
    }
    errors.insert(what.to_owned(), 1);
    true
}

/// An empty histogram of nanoseconds.
pub fn histogram() -> Histogram<u64> {
    // Three digits from 1 ns to an hour, allocated here once.
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid")
}

/// Records a latency, cut at an hour.
#[inline]
pub fn record(histogram: &mut Histogram<u64>, ns: u64) {
    histogram.saturating_record(ns);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind() {
        let mut stats = Stats::new();
        assert!(stats.error("a"));
        assert!(!stats.error("a"));
        assert!(stats.error("b"));
        assert_eq!(stats.errors, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
    }

    #[test]
    fn a_span_runs_from_the_first_to_the_last_touch() {
        let mut span = Span::default();
        assert_eq!((span.last_ns(), span.seconds()), (None, 0.0));
        span.touch(1_000_000_000);
        span.touch(2_000_000_000);
        span.touch(3_500_000_000);
        assert_eq!((span.last_ns(), span.seconds()), (Some(3_500_000_000), 2.5));
    }
}
