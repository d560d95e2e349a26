//! Counters of a worker, as metrics of the plugin: `grapnel-ctl exhook drivers` and `/metrics` show
//! them. They may be updated on any thread.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use grapnel_plugin_abi::{Counter, Gauge, GaugePart, Histogram, HookPoint, Host};

use crate::queue::{Full, Kind, Usage};

/// Upper bounds of the buckets for answer times, microseconds.
const ANSWER_US: [i64; 25] = [
    50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000,
    50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
];

/// The metrics of one worker. `None` for a metric that the broker has no room for.
#[derive(Clone, Debug)]
pub struct WorkerStats {
    calls: Option<Counter>,
    dropped: Option<Counter>,
    dropped_client: Option<Counter>,
    dropped_address: Option<Counter>,
    dropped_account: Option<Counter>,
    refused: Option<Counter>,
    /// Dropped notifications of the driver's workers, by hook point.
    kinds: Arc<Kinds>,
    failed: Option<Counter>,
    timeouts: Option<Counter>,
    restarts: Option<Counter>,
    commands_failed: Option<Counter>,
    queue: Option<Gauge>,
    queue_bytes: Option<Gauge>,
    loaded: Option<Gauge>,
    answer_us: Option<Histogram>,
}

impl WorkerStats {
    /// The metrics of a worker, by driver and index; `kinds` are those of its driver.
    pub fn new(host: Host, driver: &str, index: u32, kinds: Arc<Kinds>) -> WorkerStats {
        let name = |what: &str| format!("worker_{driver}_{index}_{what}");
        let counter = |what: &str, help: &str| host.counter(&name(what), help).ok();
        let stats = WorkerStats {
            calls: counter("calls", "Calls handed over to the worker"),
            dropped: counter("dropped", "Notifications that were dropped"),
            dropped_client: counter("dropped_client", "Of them, those whose client had no room left"),
            dropped_address: counter("dropped_address", "Of them, those whose address had no room left"),
            dropped_account: counter("dropped_account", "Of them, those whose user had no room left"),
            refused: counter("refused", "Questions that found no room"),
            kinds,
            failed: counter("failed", "Calls that ended by their policy"),
            timeouts: counter("timeouts", "Of them, those without an answer in time"),
            restarts: counter("restarts", "Processes started after the first"),
            commands_failed: counter("commands_failed", "Commands of the worker that were not done"),
            loaded: host.gauge(&name("loaded"), "Whether the plugin has the worker now").ok(),
            queue: host.gauge(&name("queue"), "Calls that wait for the worker").ok(),
            queue_bytes: host.gauge(&name("queue_bytes"), "Bytes of memory that they take").ok(),
            answer_us: host
                .histogram(&name("answer_us"), "Microseconds until an answer was there", &ANSWER_US)
                .ok(),
        };
        if stats.answer_us.is_none() {
            host.warn(format_args!(
                "not all metrics of worker {driver}/{index} are counted; limits.plugin_metrics_max is too small"
            ));
        }
        stats
    }

    /// Metrics that are not counted.
    #[cfg(test)]
    pub fn none() -> WorkerStats {
        WorkerStats {
            calls: None,
            dropped: None,
            dropped_client: None,
            dropped_address: None,
            dropped_account: None,
            refused: None,
            kinds: Arc::default(),
            failed: None,
            timeouts: None,
            restarts: None,
            commands_failed: None,
            queue: None,
            queue_bytes: None,
            loaded: None,
            answer_us: None,
        }
    }

    /// The present values, over all versions of the plugin.
    pub fn totals(&self) -> Totals {
        let counted = |counter: Option<Counter>| counter.map_or(0, Counter::value);
        let shown = |gauge: Option<Gauge>| gauge.map_or(0, Gauge::value);
        let buckets = self.answer_us.map(Histogram::buckets).unwrap_or_default();
        let bounds = ANSWER_US.iter().copied().chain([i64::MAX]);
        Totals {
            calls: counted(self.calls),
            failed: counted(self.failed),
            timeouts: counted(self.timeouts),
            dropped: counted(self.dropped),
            dropped_client: counted(self.dropped_client),
            dropped_address: counted(self.dropped_address),
            dropped_account: counted(self.dropped_account),
            refused: counted(self.refused),
            restarts: counted(self.restarts),
            commands_failed: counted(self.commands_failed),
            queue: shown(self.queue),
            queue_bytes: shown(self.queue_bytes),
            answers: bounds.zip(buckets).collect(),
        }
    }

    /// Counts calls that were sent.
    pub fn called(&self, count: usize) {
        add(self.calls, count);
    }

    /// Counts an event that the worker does not get, for lack of room or because no calls are
    /// taken. `lost` is for the log.
    pub fn lost(&self, lost: &mut Lost, kind: Kind, point: HookPoint, full: Option<Full>) {
        if kind == Kind::Question {
            add(self.failed, 1);
            add(self.refused, usize::from(full.is_some()));
        } else {
            add(self.dropped, 1);
            add(self.dropped_client, usize::from(full == Some(Full::Client)));
            add(self.dropped_address, usize::from(full == Some(Full::Address)));
            add(self.dropped_account, usize::from(full == Some(Full::Account)));
            self.kinds.dropped(point);
        }
        let Some(full) = full else { return };
        let by_point = if kind == Kind::Question { &mut lost.questions } else { &mut lost.notifications };
        *by_point.entry(point).or_default() += 1;
        match full {
            Full::Client => lost.of_client += 1,
            Full::Address => lost.of_address += 1,
            Full::Account => lost.of_account += 1,
            Full::All => lost.of_all += 1,
        }
    }

    /// Counts a call that ended by its policy.
    pub fn failed(&self) {
        add(self.failed, 1);
    }

    /// Counts a call that got no answer in time.
    pub fn timed_out(&self) {
        add(self.timeouts, 1);
    }

    /// Counts a restart.
    pub fn restarted(&self) {
        add(self.restarts, 1);
    }

    /// Counts a command that failed.
    pub fn command_failed(&self) {
        add(self.commands_failed, 1);
    }

    /// Shows that the plugin has this worker until the result is dropped. In a reload a new version
    /// sets its part before the old one removes its own.
    pub fn loaded(&self) -> GaugePart {
        let mut loaded = GaugePart::of(self.loaded);
        loaded.set(1);
        loaded
    }

    /// The gauges of the queue, at zero.
    pub fn waiting(&self) -> Waiting {
        Waiting { calls: GaugePart::of(self.queue), bytes: GaugePart::of(self.queue_bytes) }
    }

    /// Records the time of an answer.
    pub fn answered(&self, after: Duration) {
        if let Some(histogram) = self.answer_us {
            histogram.record(i64::try_from(after.as_micros()).unwrap_or(i64::MAX));
        }
    }
}

/// The metrics of a worker at one moment; `grapnel-ctl exhook drivers stats` explains each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub calls: i64,
    pub failed: i64,
    pub timeouts: i64,
    pub dropped: i64,
    pub dropped_client: i64,
    pub dropped_address: i64,
    pub dropped_account: i64,
    pub refused: i64,
    pub restarts: i64,
    pub commands_failed: i64,
    pub queue: i64,
    pub queue_bytes: i64,
    /// Answers by time: the bucket's upper bound in microseconds, and the count in the bucket.
    pub answers: Vec<(i64, i64)>,
}

/// Counters of dropped notifications of a driver, one for each hook point, created at first use.
#[derive(Debug, Default)]
pub struct Kinds {
    host: Option<(Host, &'static str)>,
    counters: BTreeMap<HookPoint, OnceLock<Option<Counter>>>,
}

impl Kinds {
    /// The counters of a driver.
    pub fn new(host: Host, driver: &'static str) -> Kinds {
        let counters = HookPoint::ALL.iter().map(|point| (*point, OnceLock::new())).collect();
        Kinds { host: Some((host, driver)), counters }
    }

    fn dropped(&self, point: HookPoint) {
        let Some(((host, driver), counter)) = self.host.zip(self.counters.get(&point)) else { return };
        let counter = counter.get_or_init(|| {
            let name = format!("dropped_{driver}_{}", point.name().replace('.', "_"));
            host.counter(&name, &format!("Notifications of {} that were dropped", point.name())).ok()
        });
        add(*counter, 1);
    }
}

/// Losses, for the log.
#[derive(Debug, Default)]
pub struct Lost {
    notifications: BTreeMap<HookPoint, u64>,
    questions: BTreeMap<HookPoint, u64>,
    of_client: u64,
    of_address: u64,
    of_account: u64,
    of_all: u64,
}

impl Lost {
    /// Whether nothing has been lost.
    pub fn is_empty(&self) -> bool {
        self.notifications.is_empty() && self.questions.is_empty()
    }

    /// Adds later losses.
    pub fn add(&mut self, more: Lost) {
        for (into, from) in
            [(&mut self.notifications, more.notifications), (&mut self.questions, more.questions)]
        {
            from.into_iter().for_each(|(point, count)| *into.entry(point).or_default() += count);
        }
        self.of_client += more.of_client;
        self.of_address += more.of_address;
        self.of_account += more.of_account;
        self.of_all += more.of_all;
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = String::new();
        for (what, counts) in [
            ("notifications are dropped", &self.notifications),
            ("questions end by their policy", &self.questions),
        ] {
            let all: u64 = counts.values().sum();
            if all > 0 {
                let by_point: Vec<_> =
                    counts.iter().map(|(point, count)| format!("{} {count}", point.name())).collect();
                write!(said, "{all} {what} ({}); ", by_point.join(", "))?;
            }
        }
        for (count, whose, settings) in [
            (self.of_client, "its client", "client_queue_max, client_queue_bytes_max"),
            (self.of_address, "its address", "address_queue_max, address_queue_bytes_max"),
            (
                self.of_account,
                "all clients of its user, or without one of its address",
                "client_queue_max, client_queue_bytes_max, queue_max, queue_bytes_max",
            ),
            (self.of_all, "all together", "queue_max, queue_bytes_max"),
        ] {
            if count > 0 {
                write!(said, "{count} found no room left of {whose} ({settings}); ")?;
            }
        }
        f.write_str(said.trim_end_matches("; "))
    }
}

/// The gauges of the queue. In a reload the parts of both versions add up.
#[derive(Debug)]
pub struct Waiting {
    calls: GaugePart,
    bytes: GaugePart,
}

impl Waiting {
    /// Sets the present values.
    pub fn set(&mut self, usage: Usage) {
        for (part, value) in [(&mut self.calls, usage.calls), (&mut self.bytes, usage.bytes)] {
            part.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

fn add(counter: Option<Counter>, count: usize) {
    if let Some(counter) = counter.filter(|_| count > 0) {
        counter.add(u32::try_from(count).unwrap_or(u32::MAX));
    }
}
