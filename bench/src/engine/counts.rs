//! The counters of a run: connections, messages, acknowledgements, errors, and times. Clients and
//! loop write them, the reports read them. An addition allocates nothing, except for an error of a
//! new kind.

use hdrhistogram::Histogram;
use rustls::HandshakeKind;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// One hour, the maximum latency.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Counts and distributions of one run; times are nanoseconds since its start. Fields that are not
/// skipped are part of the summary of `pub`, `sub` and `conn`.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    /// Connects begun.
    #[serde(skip)]
    pub started: u32,
    /// CONNACKs with success.
    pub connected: u32,
    /// Clients that completed their handshake, SUBACK included.
    pub ready: u32,
    /// Clients whose handshake failed.
    pub failed: u32,
    /// Connections of ready clients lost, other than by the end of the run.
    pub disconnects: u32,
    /// TLS handshakes; zero without TLS.
    #[serde(rename = "tls_handshakes")]
    pub handshakes: Handshakes,
    /// Messages written, each once.
    pub sent: u64,
    /// QoS 1 and 2 messages whose PUBACK or PUBCOMP has arrived.
    pub acked: u64,
    /// QoS 1 and 2 messages that the broker refused with a reason code.
    pub refused: u64,
    /// QoS 1 and 2 messages accepted with "no matching subscribers".
    pub unmatched: u64,
    /// QoS 1 and 2 messages not yet acknowledged, over all open connections.
    #[serde(skip)]
    pub in_flight: u64,
    /// The same for connections that have ended.
    #[serde(skip)]
    pub abandoned: u64,
    /// Messages received; a QoS 2 message counts once.
    pub received: u64,
    /// Payload bytes of the messages received.
    pub received_bytes: u64,
    /// QoS 2 messages that arrived again before their PUBREL.
    pub redelivered: u64,
    /// Messages with a stamp later than their arrival: the clocks of two machines differ.
    pub from_the_future: u64,
    /// First connect begun.
    #[serde(skip)]
    pub first_connect_ns: Option<u64>,
    /// Last CONNACK.
    #[serde(skip)]
    pub last_connack_ns: u64,
    /// First and last message sent.
    #[serde(skip)]
    pub sending: Span,
    /// First and last acknowledgement.
    #[serde(skip)]
    pub acking: Span,
    /// First and last message received.
    #[serde(skip)]
    pub receiving: Span,
    /// From sent, or due, to received.
    #[serde(rename = "latency_us")]
    pub latency: Meter,
    /// From sent to PUBACK or PUBCOMP.
    #[serde(rename = "ack_latency_us")]
    pub ack_latency: Meter,
    /// From connect to CONNACK.
    #[serde(rename = "connect_latency_us")]
    pub connect_latency: Meter,
    /// Number of errors, by text.
    pub errors: BTreeMap<String, u64>,
}

impl Counts {
    /// All counters zero, with the latency meters of messages off.
    pub fn new() -> Self {
        let mut counts = Self::default();
        counts.connect_latency.on = true;
        counts
    }

    /// Counts an error; true if it is the first of its kind.
    pub fn error(&mut self, what: &str) -> bool {
        if let Some(count) = self.errors.get_mut(what) {
            *count += 1;
            return false;
        }
        self.errors.insert(what.to_owned(), 1);
        true
    }

    /// Switches the latency meters of messages.
    pub fn measure(&mut self, on: bool) {
        (self.latency.on, self.ack_latency.on) = (on, on);
    }

    /// QoS 1 and 2 messages that were never acknowledged.
    pub fn unacked(&self) -> u64 {
        self.in_flight + self.abandoned
    }
}

/// Numbers of TLS handshakes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Handshakes {
    /// Full ones.
    pub full: u32,
    /// Those that resumed an earlier session.
    pub resumed: u32,
}

impl Handshakes {
    /// Counts the handshake of a connection, if it had one.
    pub fn add(&mut self, kind: Option<HandshakeKind>) {
        match kind {
            Some(HandshakeKind::Resumed) => self.resumed += 1,
            Some(_) => self.full += 1,
            None => {}
        }
    }

    /// `None` if there were none.
    pub fn any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

impl fmt::Display for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} full, {} resumed", self.full, self.resumed)
    }
}

/// Time of the first and of the last event of a kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    first_ns: Option<u64>,
    last_ns: u64,
}

impl Span {
    /// Records an event at this time.
    #[inline]
    pub fn touch(&mut self, now_ns: u64) {
        self.first_ns.get_or_insert(now_ns);
        self.last_ns = now_ns;
    }

    /// Time of the last event, if any.
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

/// A histogram that records only while it is on.
#[derive(Debug)]
pub struct Meter {
    histogram: Histogram<u64>,
    on: bool,
}

impl Default for Meter {
    fn default() -> Self {
        // Three digits from 1 ns to an hour, allocated here once.
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid");
        Self { histogram, on: false }
    }
}

impl Meter {
    /// Records one value in nanoseconds, at most an hour, if it is on.
    #[inline]
    pub fn record(&mut self, value: u64) {
        if self.on {
            self.histogram.saturating_record(value);
        }
    }

    /// The recorded values, or `None` if there are none.
    pub fn latency(&self) -> Option<Latency> {
        let histogram = &self.histogram;
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile: f64| us(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Latency {
            count: histogram.len(),
            min: us(histogram.min()),
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: us(histogram.max()),
        })
    }

    /// The same as a histogram in nanoseconds.
    #[cfg(test)]
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }
}

impl Serialize for Meter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.latency().serialize(serializer)
    }
}

/// A distribution in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, mean, p50, p90, p99, p999, max, .. } = self;
        write!(
            f,
            "min {min:.0}  mean {mean:.0}  p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p999:.0}  max {max:.0} µs"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_records_every_value_of_its_time_and_none_else() {
        let mut meter = Meter::default();
        for (on, values) in [(false, &[5][..]), (true, &[7, 7, 7, 9, 7]), (false, &[11])] {
            meter.on = on;
            values.iter().for_each(|value| meter.record(*value));
        }
        let recorded = meter.histogram().iter_recorded();
        let recorded: Vec<_> = recorded.map(|at| (at.value_iterated_to(), at.count_at_value())).collect();
        assert_eq!(recorded, [(7, 4), (9, 1)]);
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let mut counts = Counts::new();
        assert!(counts.error("a") && !counts.error("a") && counts.error("b"));
        assert_eq!(counts.errors, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
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
