//! The end of a run for people and programs: the same summary as a table or as one JSON object.
//! Built by `main` from the outcome of the poll loop.

use crate::engine::counts::{Meter, Span, as_seconds};
use crate::load::{Load, Outcome, Role};
use crate::sequence::Tally;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Publishers listed by name, the worst first.
const PUBLISHERS_SHOWN_MAX: usize = 20;

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Summary {
    command: &'static str,
    clients: usize,
    /// CONNACKs with success.
    connected: u32,
    /// Clients ready: connected, and for `sub` subscribed.
    ready: u32,
    /// Clients that did not become ready.
    failed: u32,
    /// Unexpected ends of ready connections.
    disconnects: u32,
    sent: u64,
    acked: u64,
    /// Turned down by the broker with a reason code.
    refused: u64,
    /// Sent with QoS 1 or 2, never acknowledged.
    unacked: u64,
    /// Acknowledged with "no matching subscribers".
    unmatched: u64,
    received: u64,
    received_bytes: u64,
    /// QoS 2 messages that came again before their PUBREL.
    redelivered: u64,
    /// Counts from sequence numbers; null without any.
    #[serde(flatten)]
    sequence: Sequence,
    /// Messages short of `--limit`, if another end came first.
    short_of_limit: u64,
    interrupted: bool,
    /// Seconds from start to end.
    elapsed_s: f64,
    connects_per_s: Option<f64>,
    sent_per_s: Option<f64>,
    acked_per_s: Option<f64>,
    received_per_s: Option<f64>,
    /// From due to received, of stamped messages.
    latency_us: Option<Latency>,
    /// From sent to acknowledged.
    ack_latency_us: Option<Latency>,
    /// From connect to CONNACK.
    connect_latency_us: Option<Latency>,
    /// Stamped later than received: clocks disagree.
    from_the_future: u64,
    /// What went wrong how often.
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize)]
struct Sequence {
    lost: Option<u64>,
    duplicated: Option<u64>,
    out_of_order: Option<u64>,
    before_first: Option<u64>,
    publishers_seen: Option<usize>,
    /// Publishers with anything wrong, the worst first.
    publishers: Vec<PublisherTally>,
}

#[derive(Debug, Serialize)]
struct PublisherTally {
    publisher: String,
    #[serde(flatten)]
    tally: Tally,
}

/// A distribution in microseconds.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
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

impl Summary {
    /// Sums an outcome up.
    pub fn new(load: &Load, outcome: &Outcome) -> Self {
        let counts = &outcome.counts;
        let reached = if load.role == Role::Pub { counts.sent } else { counts.received };
        let connecting_s =
            as_seconds(counts.last_connack_ns.saturating_sub(counts.first_connect_ns.unwrap_or(0)));
        Self {
            command: load.role.name(),
            clients: load.setup.shape.clients(),
            connected: counts.connected,
            ready: counts.ready,
            failed: counts.failed,
            disconnects: counts.disconnects,
            sent: counts.sent,
            acked: counts.acked,
            refused: counts.refused,
            unacked: counts.unacked(),
            unmatched: counts.unmatched,
            received: counts.received,
            received_bytes: counts.received_bytes,
            redelivered: counts.redelivered,
            sequence: Sequence::of(outcome),
            short_of_limit: load.limit.map_or(0, |limit| limit.saturating_sub(reached)),
            interrupted: outcome.interrupted,
            elapsed_s: as_seconds(outcome.elapsed_ns),
            connects_per_s: per_second(u64::from(counts.connected), connecting_s),
            sent_per_s: rate(counts.sent, counts.sending),
            acked_per_s: rate(counts.acked, counts.acking),
            received_per_s: rate(counts.received, counts.receiving),
            latency_us: Latency::of(&counts.latency),
            ack_latency_us: Latency::of(&counts.ack_latency),
            connect_latency_us: Latency::of(&counts.connect_latency),
            from_the_future: counts.from_the_future,
            errors: counts.errors.clone(),
        }
    }

    /// Whether every connection held and every message was taken; losses at QoS 0 are no failure.
    pub fn is_success(&self) -> bool {
        self.failed == 0
            && self.disconnects == 0
            && self.unacked == 0
            && self.errors.is_empty()
            && (self.short_of_limit == 0 || self.interrupted)
    }

    /// One line of JSON.
    pub fn to_json(&self) -> Result<String> {
        let mut json = serde_json::to_string(self).context("cannot write the summary as JSON")?;
        json.push('\n');
        Ok(json)
    }
}

impl Sequence {
    fn of(outcome: &Outcome) -> Self {
        let mut publishers = BTreeMap::new();
        let mut sum = Tally::default();
        for (publisher, tally) in outcome.trackers.iter().flat_map(|tracker| tracker.tallies()) {
            sum.add(tally);
            publishers.entry(publisher).or_insert_with(Tally::default).add(tally);
        }
        if publishers.is_empty() {
            return Self::default();
        }
        let publishers_seen = Some(publishers.len());
        let mut worst: Vec<_> = publishers.into_iter().filter(|(_, tally)| tally.weight() > 0).collect();
        worst.sort_by_key(|(publisher, tally)| (std::cmp::Reverse(tally.weight()), *publisher));
        worst.truncate(PUBLISHERS_SHOWN_MAX);
        let named = |(publisher, tally): (crate::header::Publisher, Tally)| PublisherTally {
            publisher: publisher.to_string(),
            tally,
        };
        Self {
            lost: Some(sum.lost),
            duplicated: Some(sum.duplicated),
            out_of_order: Some(sum.out_of_order),
            before_first: Some(sum.before_first),
            publishers_seen,
            publishers: worst.into_iter().map(named).collect(),
        }
    }
}

impl Latency {
    /// Of what was recorded in nanoseconds; `None` if nothing was.
    pub fn of(meter: &Meter) -> Option<Self> {
        let histogram = meter.histogram();
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile: f64| us(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
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
}

fn rate(messages: u64, span: Span) -> Option<f64> {
    per_second(messages, span.seconds())
}

/// Nothing can be said of a single moment.
fn per_second(count: u64, seconds: f64) -> Option<f64> {
    (count > 1 && seconds > 0.0).then(|| count as f64 / seconds)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<24}{value}");
        let rate = |rate: Option<f64>| rate.map(|rate| format!("  ({rate:.0}/s)")).unwrap_or_default();
        row(
            "clients",
            &format!("{} connected of {}{}", self.connected, self.clients, rate(self.connects_per_s)),
        )?;
        row("failed", &self.failed)?;
        row("disconnects", &format!("{} unexpected", self.disconnects))?;
        if self.command == "pub" {
            row("sent", &format!("{}{}", self.sent, rate(self.sent_per_s)))?;
            row("acked", &format!("{}{}", self.acked, rate(self.acked_per_s)))?;
            row("refused", &self.refused)?;
            row("unacked", &self.unacked)?;
            row("no matching subscriber", &self.unmatched)?;
        }
        if self.command == "sub" || self.received > 0 {
            row("received", &format!("{}{}", self.received, rate(self.received_per_s)))?;
            row("received bytes", &self.received_bytes)?;
        }
        let sequence = &self.sequence;
        for (name, count) in [
            ("lost", sequence.lost),
            ("duplicated", sequence.duplicated),
            ("out of order", sequence.out_of_order),
            ("before the first", sequence.before_first),
        ] {
            if let Some(count) = count {
                row(name, &count)?;
            }
        }
        for PublisherTally { publisher, tally } in &sequence.publishers {
            let Tally { lost, duplicated, out_of_order, before_first } = tally;
            let counts = format!(
                "lost {lost}, duplicated {duplicated}, out of order {out_of_order}, before the first {before_first}"
            );
            row(&format!("  publisher {publisher}"), &counts)?;
        }
        if self.short_of_limit > 0 {
            row("short of the limit", &self.short_of_limit)?;
        }
        if self.from_the_future > 0 {
            row("stamped in the future", &format!("{}; the clocks disagree", self.from_the_future))?;
        }
        row("elapsed", &format!("{:.3} s", self.elapsed_s))?;
        for (name, latency) in [
            ("latency", &self.latency_us),
            ("ack latency", &self.ack_latency_us),
            ("connect latency", &self.connect_latency_us),
        ] {
            if let Some(latency) = latency {
                row(name, latency)?;
            }
        }
        for (error, count) in &self.errors {
            row("error", &format!("{count} × {error}"))?;
        }
        Ok(())
    }
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
