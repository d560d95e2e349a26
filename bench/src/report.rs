//! The summary of a run: as a table or as one JSON object. `main` builds it from the result of the
//! poll loop.

use crate::cli::LoadCommand;
use crate::engine::counts::{Counts, as_seconds};
use crate::load::{Load, Outcome};
use crate::sequence::Tally;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

/// Writes a report to standard output, as one line of JSON or as a table.
pub fn print(report: &(impl Serialize + fmt::Display), json: bool) -> Result<()> {
    let json = json.then(|| serde_json::to_string(report)).transpose().context("cannot write JSON")?;
    let text = json.map_or_else(|| report.to_string(), |line| line + "\n");
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the report")
}

/// A table of names and values.
pub struct Rows<'a, 'f> {
    /// The output.
    pub f: &'a mut fmt::Formatter<'f>,
    /// Width of a name, in characters.
    pub width: usize,
}

impl Rows<'_, '_> {
    /// One row.
    pub fn row(&mut self, name: &str, value: impl fmt::Display) -> fmt::Result {
        writeln!(self.f, "{name:<width$}{value}", width = self.width)
    }

    /// One row, if there is a value.
    pub fn some(&mut self, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.row(name, value))
    }

    /// The number of errors, by text.
    pub fn errors(&mut self, errors: &BTreeMap<String, u64>) -> fmt::Result {
        errors.iter().try_for_each(|(error, count)| self.row("error", format!("{count} × {error}")))
    }
}

/// A count that is shown only above zero.
pub fn above_zero(count: u64) -> Option<u64> {
    Some(count).filter(|count| *count > 0)
}

/// Maximum number of publishers listed by name, the worst first.
const PUBLISHERS_SHOWN_MAX: usize = 20;

/// Result of a run. README.md describes the keys.
#[derive(Debug, Serialize)]
pub struct Summary<'o> {
    command: &'static str,
    clients: usize,
    #[serde(flatten)]
    counts: &'o Counts,
    /// Sent with QoS 1 or 2, never acknowledged.
    unacked: u64,
    /// Counters from sequence numbers; null without any.
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
}

#[derive(Debug, Default, Serialize)]
struct Sequence {
    lost: Option<u64>,
    duplicated: Option<u64>,
    out_of_order: Option<u64>,
    before_first: Option<u64>,
    publishers_seen: Option<usize>,
    /// Publishers with any error, the worst first.
    publishers: Vec<PublisherTally>,
}

#[derive(Debug, Serialize)]
struct PublisherTally {
    publisher: String,
    #[serde(flatten)]
    tally: Tally,
}

impl<'o> Summary<'o> {
    /// Summarizes a result.
    pub fn new(load: &Load, outcome: &'o Outcome) -> Self {
        let counts = &outcome.counts;
        let is_pub = matches!(load.command, LoadCommand::Pub(_));
        let reached = if is_pub { counts.sent } else { counts.received };
        let connecting_s =
            as_seconds(counts.last_connack_ns.saturating_sub(counts.first_connect_ns.unwrap_or(0)));
        Self {
            command: load.command.name(),
            clients: load.setup.shape.clients(),
            counts,
            unacked: counts.unacked(),
            sequence: Sequence::of(outcome),
            short_of_limit: load.command.limit().map_or(0, |limit| limit.saturating_sub(reached)),
            interrupted: outcome.interrupted,
            elapsed_s: as_seconds(outcome.elapsed_ns),
            connects_per_s: per_second(u64::from(counts.connected), connecting_s),
            sent_per_s: per_second(counts.sent, counts.sending.seconds()),
            acked_per_s: per_second(counts.acked, counts.acking.seconds()),
            received_per_s: per_second(counts.received, counts.receiving.seconds()),
        }
    }

    /// Whether no connection failed and every message was accepted; losses at QoS 0 are no failure.
    pub fn is_success(&self) -> bool {
        self.counts.failed == 0
            && self.counts.disconnects == 0
            && self.unacked == 0
            && self.counts.errors.is_empty()
            && (self.short_of_limit == 0 || self.interrupted)
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

/// No rate can be given for a single moment.
fn per_second(count: u64, seconds: f64) -> Option<f64> {
    (count > 1 && seconds > 0.0).then(|| count as f64 / seconds)
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (counts, sequence) = (self.counts, &self.sequence);
        let mut rows = Rows { f, width: 24 };
        let rate = |rate: Option<f64>| rate.map(|rate| format!("  ({rate:.0}/s)")).unwrap_or_default();
        let connects = rate(self.connects_per_s);
        rows.row("clients", format!("{} connected of {}{connects}", counts.connected, self.clients))?;
        rows.some("TLS handshakes", counts.handshakes.any())?;
        rows.row("failed", counts.failed)?;
        rows.row("disconnects", format!("{} unexpected", counts.disconnects))?;
        if self.command == "pub" {
            rows.row("sent", format!("{}{}", counts.sent, rate(self.sent_per_s)))?;
            rows.row("acked", format!("{}{}", counts.acked, rate(self.acked_per_s)))?;
            rows.row("refused", counts.refused)?;
            rows.row("unacked", self.unacked)?;
            rows.row("no matching subscriber", counts.unmatched)?;
        }
        if self.command == "sub" || counts.received > 0 {
            rows.row("received", format!("{}{}", counts.received, rate(self.received_per_s)))?;
            rows.row("received bytes", counts.received_bytes)?;
        }
        rows.some("lost", sequence.lost)?;
        rows.some("duplicated", sequence.duplicated)?;
        rows.some("out of order", sequence.out_of_order)?;
        rows.some("before the first", sequence.before_first)?;
        for PublisherTally { publisher, tally } in &sequence.publishers {
            let Tally { lost, duplicated, out_of_order, before_first } = tally;
            let counts = format!(
                "lost {lost}, duplicated {duplicated}, out of order {out_of_order}, before the first {before_first}"
            );
            rows.row(&format!("  publisher {publisher}"), counts)?;
        }
        rows.some("short of the limit", above_zero(self.short_of_limit))?;
        let future = above_zero(counts.from_the_future);
        rows.some("stamped in the future", future.map(|count| format!("{count}; the clocks disagree")))?;
        rows.row("elapsed", format!("{:.3} s", self.elapsed_s))?;
        rows.some("latency", counts.latency.latency())?;
        rows.some("ack latency", counts.ack_latency.latency())?;
        rows.some("connect latency", counts.connect_latency.latency())?;
        rows.errors(&counts.errors)
    }
}
