//! What is counted of a worker, as metrics of the plugin: `grapnel-ctl exhook drivers` and `/metrics` show them. Any thread counts.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use grapnel_plugin_abi::{Counter, Gauge, GaugePart, Histogram, HookPoint, Host};

use crate::queue::{Full, Kind, Usage};

/// Upper bounds of the times of answers, microseconds.
const ANSWER_US: [i64; 25] = [
    50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000,
    50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
];

/// The metrics of one worker. One that the broker has no room for is not counted.
#[derive(Clone, Debug)]
pub struct WorkerStats {
    calls: Option<Counter>,
    dropped: Option<Counter>,
    dropped_client: Option<Counter>,
    dropped_address: Option<Counter>,
    refused: Option<Counter>,
    /// What the workers of the driver have dropped, by hook point.
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
    /// Those of a worker, by driver and number; `kinds` is that of its driver.
    pub fn new(host: Host, driver: &str, index: u32, kinds: Arc<Kinds>) -> WorkerStats {
        let name = |what: &str| format!("worker_{driver}_{index}_{what}");
        let counter = |what: &str, help: &str| host.counter(&name(what), help).ok();
        let stats = WorkerStats {
            calls: counter("calls", "Calls handed over to the worker"),
            dropped: counter("dropped", "Notifications that were dropped"),
            dropped_client: counter("dropped_client", "Of them, those whose client had no room left"),
            dropped_address: counter("dropped_address", "Of them, those whose address had no room left"),
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

    /// Those of a worker that nobody counts.
    #[cfg(test)]
    pub fn none() -> WorkerStats {
        WorkerStats {
            calls: None,
            dropped: None,
            dropped_client: None,
            dropped_address: None,
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

    /// What it has come to, over all versions of the plugin.
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
            refused: counted(self.refused),
            restarts: counted(self.restarts),
            commands_failed: counted(self.commands_failed),
            queue: shown(self.queue),
            queue_bytes: shown(self.queue_bytes),
            answers: bounds.zip(buckets).collect(),
        }
    }

    /// Calls were handed over.
    pub fn called(&self, count: usize) {
        add(self.calls, count);
    }

    /// An event is lost to the worker: for want of room, or since nobody takes calls. `lost` is for the log.
    pub fn lost(&self, lost: &mut Lost, kind: Kind, point: HookPoint, full: Option<Full>) {
        if kind == Kind::Question {
            add(self.failed, 1);
            add(self.refused, usize::from(full.is_some()));
        } else {
            add(self.dropped, 1);
            add(self.dropped_client, usize::from(full == Some(Full::Client)));
            add(self.dropped_address, usize::from(full == Some(Full::Address)));
            self.kinds.dropped(point);
        }
        let Some(full) = full else { return };
        let by_point = if kind == Kind::Question { &mut lost.questions } else { &mut lost.notifications };
        *by_point.entry(point).or_default() += 1;
        match full {
            Full::Client => lost.of_client += 1,
            Full::Address => lost.of_address += 1,
            Full::All => lost.of_all += 1,
        }
    }

    /// A call ended by its policy.
    pub fn failed(&self) {
        add(self.failed, 1);
    }

    /// A call that ended by its policy got no answer in time.
    pub fn timed_out(&self) {
        add(self.timeouts, 1);
    }

    /// Another process was started.
    pub fn restarted(&self) {
        add(self.restarts, 1);
    }

    /// A command of the worker's was not done.
    pub fn command_failed(&self) {
        add(self.commands_failed, 1);
    }

    /// The plugin has the worker, until what comes back is dropped. A version that replaces another has it before that has not.
    pub fn loaded(&self) -> GaugePart {
        let mut loaded = GaugePart::of(self.loaded);
        loaded.set(1);
        loaded
    }

    /// What is to show how much waits, nothing yet.
    pub fn waiting(&self) -> Waiting {
        Waiting { calls: GaugePart::of(self.queue), bytes: GaugePart::of(self.queue_bytes) }
    }

    /// An answer came after so long.
    pub fn answered(&self, after: Duration) {
        if let Some(histogram) = self.answer_us {
            histogram.record(i64::try_from(after.as_micros()).unwrap_or(i64::MAX));
        }
    }
}

/// What the metrics of a worker show at one moment; `grapnel-ctl exhook drivers stats` says what each is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub calls: i64,
    pub failed: i64,
    pub timeouts: i64,
    pub dropped: i64,
    pub dropped_client: i64,
    pub dropped_address: i64,
    pub refused: i64,
    pub restarts: i64,
    pub commands_failed: i64,
    pub queue: i64,
    pub queue_bytes: i64,
    /// Answers by how long they took: the upper bound in microseconds, and how many there were up to it, above the one before.
    pub answers: Vec<(i64, i64)>,
}

/// Counters of what the workers of a driver have dropped, one for each hook point, made when the first is.
#[derive(Debug, Default)]
pub struct Kinds {
    host: Option<(Host, &'static str)>,
    counters: BTreeMap<HookPoint, OnceLock<Option<Counter>>>,
}

impl Kinds {
    /// Those of a driver.
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

/// What has found no room, for the log.
#[derive(Debug, Default)]
pub struct Lost {
    notifications: BTreeMap<HookPoint, u64>,
    questions: BTreeMap<HookPoint, u64>,
    of_client: u64,
    of_address: u64,
    of_all: u64,
}

impl Lost {
    /// Whether nothing has been lost.
    pub fn is_empty(&self) -> bool {
        self.notifications.is_empty() && self.questions.is_empty()
    }

    /// Adds what has been lost since.
    pub fn add(&mut self, more: Lost) {
        for (into, from) in
            [(&mut self.notifications, more.notifications), (&mut self.questions, more.questions)]
        {
            from.into_iter().for_each(|(point, count)| *into.entry(point).or_default() += count);
        }
        self.of_client += more.of_client;
        self.of_address += more.of_address;
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
            (self.of_all, "all together", "queue_max, queue_bytes_max"),
        ] {
            if count > 0 {
                write!(said, "{count} found no room left of {whose} ({settings}); ")?;
            }
        }
        f.write_str(said.trim_end_matches("; "))
    }
}

/// How much waits for the worker, as it is shown. In a reload the lines of both versions add up.
#[derive(Debug)]
pub struct Waiting {
    calls: GaugePart,
    bytes: GaugePart,
}

impl Waiting {
    /// So much does now.
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
