//! The report of a scenario. Only this file converts readings into rates and costs. Built by the
//! loops at their end.

mod table;

use super::target::{Broker, End, Target};
use super::usage::{Memory, Times};
use super::{Kind, Scenario, Waiting};
use crate::engine::counts::{Counts, Handshakes, Latency, as_seconds};
use crate::engine::{MessageRecord, Shared};
use crate::plan::{Pace, Shape};
use serde::Serialize;
use std::collections::BTreeMap;

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Nanoseconds since the start.
    pub at_ns: u64,
    /// Messages sent.
    pub sent: u64,
    /// Deliveries, each once.
    pub delivered: u64,
    /// Bytes of their payloads.
    pub delivered_bytes: u64,
    /// Nanoseconds in which the generator was idle.
    pub idle_ns: u64,
    /// CPU time of the broker.
    pub used: Option<Times>,
    /// CPU time of the processes that the broker has started.
    pub children: Option<Times>,
    /// CPU time of the generator.
    pub own: Option<Times>,
}

/// Readings of a loop.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Nanoseconds from the first connect until all clients were ready.
    pub connect_ns: u64,
    /// CPU time of the broker before the first connect, and when all clients were ready.
    pub before: Option<Times>,
    /// See `before`.
    pub connected: Option<Times>,
    /// Reading at the start of the measured window.
    pub start: Option<Reading>,
    /// Reading at its end.
    pub end: Option<Reading>,
    /// Memory of the broker before the first connect.
    pub memory_before: Option<Memory>,
    /// Memory of the broker at the end of the window.
    pub memory: Option<Memory>,
    /// System calls of the broker in their own window, or why they were not counted, if requested.
    pub syscalls: Option<Result<Syscalls, String>>,
}

/// Report of a scenario. README.md describes the keys; a value that could not be measured is null.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub scenario: Kind,
    pub broker: Broker,
    pub options: Options,
    pub connects: Connects,
    #[serde(flatten)]
    pub window: Window,
    pub lost: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    pub stray: u64,
    pub refused: u64,
    pub unacked: u64,
    pub disconnects: u32,
    pub latency_from: Option<&'static str>,
    pub latency_us: Option<Latency>,
    pub ack_latency_us: Option<Latency>,
    pub memory: Option<MemoryUse>,
    pub syscalls: Option<Syscalls>,
    pub syscalls_why_not: Option<String>,
    pub interrupted: bool,
    pub errors: BTreeMap<String, u64>,
    pub broker_log: Option<String>,
}

/// The measured window; empty if a run ended before its end.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Window {
    pub measured_s: Option<f64>,
    pub sent: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub sent_per_s: Option<f64>,
    pub delivered_per_s: Option<f64>,
    pub delivered_bytes_per_s: Option<f64>,
    pub cpu: Option<Cpu>,
    /// Of the processes that the broker has started, such as workers of its plugins, if they used
    /// any.
    pub children: Option<Used>,
    pub bench: Option<Bench>,
}

/// The options of the load.
#[derive(Debug, Clone, Serialize)]
pub struct Options {
    /// mqtt, mqtts, ws or wss.
    pub scheme: &'static str,
    pub version: u8,
    pub qos: u8,
    pub size: usize,
    pub window: Option<u32>,
    pub burst: Option<u32>,
    pub rate: Option<u64>,
    pub publishers: u32,
    pub subscribers: u32,
    pub connections: u32,
    pub filters: u32,
    pub waiting: Waiting,
}

/// How the clients connected.
#[derive(Debug, Clone, Serialize)]
pub struct Connects {
    pub started: u32,
    pub connected: u32,
    pub failed: u32,
    /// TLS handshakes; null without TLS.
    pub handshakes: Option<Handshakes>,
    pub per_s: Option<f64>,
    pub latency_us: Option<Latency>,
    pub cpu_us_each: Option<f64>,
}

/// CPU time in the measured window.
#[derive(Debug, Clone, Serialize)]
pub struct Used {
    pub total_s: f64,
    /// Fraction of one CPU: 1 is all of it.
    pub share: f64,
    pub us_per_delivery: Option<f64>,
}

/// CPU time of the broker in the measured window.
#[derive(Debug, Clone, Serialize)]
pub struct Cpu {
    #[serde(flatten)]
    pub all: Used,
    pub user_s: Option<f64>,
    pub system_s: Option<f64>,
    /// Time in which its threads were ready but had no CPU, as a fraction of the window.
    pub waited: f64,
    pub user_us_per_delivery: Option<f64>,
    pub system_us_per_delivery: Option<f64>,
}

/// The generator in the measured window.
#[derive(Debug, Clone, Serialize)]
pub struct Bench {
    /// Fraction of the time in which it had work.
    pub busy: f64,
    /// Fraction of the time in which it was ready but had no CPU.
    pub waited: Option<f64>,
}

/// Memory of the broker at the end of the measured window.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryUse {
    #[serde(flatten)]
    pub now: Memory,
    pub rss_before_bytes: Option<u64>,
    pub bytes_per_connection: Option<f64>,
}

/// System calls of the broker, counted in a window after the measured one.
#[derive(Debug, Clone, Serialize)]
pub struct Syscalls {
    pub count: u64,
    pub delivered: u64,
    pub per_delivery: Option<f64>,
}

impl Report {
    /// The report of a run that has ended.
    pub fn new(
        scenario: &Scenario,
        target: &Target,
        shared: &Shared<'_>,
        measured: Measured,
        interrupted: bool,
    ) -> Self {
        let counts = &shared.counts;
        let MessageRecord::Ledger(ledger) = &shared.record else {
            unreachable!("a scenario follows every message")
        };
        let found = ledger.tally();
        let latency_us = counts.latency.latency();
        let latency_from = if matches!(scenario.pace, Pace::Rate(_)) { "schedule" } else { "send" };
        let window = measured.start.zip(measured.end);
        let connects = Connects::of(counts, &measured);
        let memory = MemoryUse::of(scenario, &measured, counts.connected);
        let (syscalls, syscalls_why_not) = match measured.syscalls {
            Some(Ok(syscalls)) => (Some(syscalls), None),
            Some(Err(why_not)) => (None, Some(why_not)),
            None => (None, None),
        };
        Self {
            scenario: scenario.kind,
            broker: target.broker.clone(),
            options: Options::of(scenario, &shared.setup.shape),
            connects,
            window: window.map_or_else(Window::default, |(start, end)| Window::of(scenario.kind, start, end)),
            lost: ledger.outstanding(),
            duplicated: found.duplicated,
            out_of_order: found.out_of_order,
            stray: ledger.stray,
            refused: counts.refused,
            unacked: counts.unacked(),
            disconnects: counts.disconnects,
            latency_from: latency_us.is_some().then_some(latency_from),
            latency_us,
            ack_latency_us: counts.ack_latency.latency(),
            memory,
            syscalls,
            syscalls_why_not,
            interrupted,
            errors: counts.errors.clone(),
            broker_log: None,
        }
    }

    /// The broker ended by itself: an error, whatever was measured.
    pub fn broker_ended(&mut self, end: &End) {
        self.errors.insert(end.what.clone(), 1);
        self.broker_log = Some(end.log.clone());
    }

    /// Whether no connection failed, and every message was received by all its subscribers, once.
    pub fn is_success(&self) -> bool {
        self.fault().is_empty()
    }

    /// Errors with messages, and their numbers.
    fn amiss(&self) -> [(&'static str, u64); 6] {
        [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("out of order", self.out_of_order),
            ("stray", self.stray),
            ("refused", self.refused),
            ("unacknowledged", self.unacked),
        ]
    }

    /// The errors in one sentence; empty without errors.
    pub fn fault(&self) -> String {
        let connections =
            [("disconnected", self.disconnects.into()), ("not connected", self.connects.failed.into())];
        let counts = self.amiss().into_iter().chain(connections).filter(|(_, count)| *count > 0);
        let counts = counts.map(|(what, count)| format!("{count} {what}"));
        let errors = self.errors.iter().map(|(error, count)| format!("{error} ({count}×)"));
        counts.chain(errors).collect::<Vec<_>>().join(", ")
    }
}

impl Window {
    /// What happened between two readings.
    fn of(kind: Kind, start: Reading, end: Reading) -> Self {
        let passed_ns = end.at_ns.saturating_sub(start.at_ns);
        let passed_s = as_seconds(passed_ns);
        let (sent, delivered) = (end.sent - start.sent, end.delivered - start.delivered);
        let delivered_bytes = end.delivered_bytes - start.delivered_bytes;
        let rate = |count: u64| ratio(count as f64, passed_s).filter(|_| kind.has_messages());
        let used = |of: fn(&Reading) -> Option<Times>| Some(of(&end)?.since(of(&start)?));
        let idle = ratio((end.idle_ns - start.idle_ns) as f64, passed_ns as f64);
        let own = used(|reading| reading.own);
        let children = used(|reading| reading.children).filter(|used| used.total_ns > 0);
        Self {
            measured_s: Some(passed_s),
            sent,
            delivered,
            delivered_bytes,
            sent_per_s: rate(sent),
            delivered_per_s: rate(delivered),
            delivered_bytes_per_s: rate(delivered_bytes),
            cpu: used(|reading| reading.used).map(|used| Cpu::of(used, passed_s, delivered)),
            children: children.map(|used| Used::of(used, passed_s, delivered)),
            bench: idle.map(|idle| Bench {
                busy: 1.0 - idle.min(1.0),
                waited: own.map(|own| as_seconds(own.waited_ns) / passed_s),
            }),
        }
    }
}

impl Options {
    fn of(scenario: &Scenario, shape: &Shape) -> Self {
        let (window, burst, rate) = match scenario.pace {
            Pace::Credit { window, burst } if scenario.kind.has_messages() => {
                (Some(window), Some(burst), None)
            }
            Pace::Rate(rate) => (None, None, Some(rate)),
            Pace::Credit { .. } | Pace::Interval { .. } => (None, None, None),
        };
        let count = |clients: usize| u32::try_from(clients).unwrap_or(u32::MAX);
        Self {
            scheme: scenario.transport.scheme(),
            version: scenario.options.version.level(),
            qos: scenario.options.qos,
            size: scenario.options.size,
            window,
            burst,
            rate,
            publishers: count(shape.publishers.len()),
            subscribers: count(shape.subscribers.len()),
            connections: scenario.connections,
            filters: scenario.filters,
            waiting: scenario.waiting,
        }
    }
}

impl Connects {
    fn of(counts: &Counts, measured: &Measured) -> Self {
        let used = measured.before.zip(measured.connected).map(|(before, after)| after.since(before));
        let connected = f64::from(counts.connected);
        Self {
            started: counts.started,
            connected: counts.connected,
            failed: counts.failed,
            handshakes: counts.handshakes.any(),
            per_s: ratio(connected, as_seconds(measured.connect_ns)),
            latency_us: counts.connect_latency.latency(),
            cpu_us_each: used.and_then(|used| ratio(as_seconds(used.total_ns) * 1e6, connected)),
        }
    }
}

impl MemoryUse {
    fn of(scenario: &Scenario, measured: &Measured, connected: u32) -> Option<Self> {
        let memory = measured.memory?;
        let before = measured.memory_before.map(|memory| memory.rss_bytes);
        // In the other scenarios the memory of connections and of messages cannot be separated.
        let only_connections = before.filter(|_| scenario.kind == Kind::Idle);
        let each = |before: u64| ratio(memory.rss_bytes as f64 - before as f64, f64::from(connected));
        Some(Self {
            now: memory,
            rss_before_bytes: before,
            bytes_per_connection: only_connections.and_then(each),
        })
    }
}

impl Syscalls {
    /// So many in a window with so many deliveries.
    pub fn of(count: u64, delivered: u64) -> Self {
        Self { count, delivered, per_delivery: ratio(count as f64, delivered as f64) }
    }
}

impl Used {
    fn of(used: Times, passed_s: f64, delivered: u64) -> Self {
        let total_s = as_seconds(used.total_ns);
        let us_per_delivery = ratio(total_s * 1e6, delivered as f64);
        Self { total_s, share: total_s / passed_s, us_per_delivery }
    }
}

impl Cpu {
    /// The exact total, split in the ratio of the ticks of user and system time.
    fn of(used: Times, passed_s: f64, delivered: u64) -> Self {
        let all = Used::of(used, passed_s, delivered);
        let user = used.user_share();
        let part = |of: f64| user.map(|user| of * user).zip(user.map(|user| of * (1.0 - user))).unzip();
        let (user_s, system_s) = part(all.total_s);
        let (user_us_per_delivery, system_us_per_delivery) =
            all.us_per_delivery.map(part).unwrap_or_default();
        let waited = as_seconds(used.waited_ns) / passed_s;
        Self { all, user_s, system_s, waited, user_us_per_delivery, system_us_per_delivery }
    }
}

fn ratio(of: f64, to: f64) -> Option<f64> {
    (to > 0.0).then(|| of / to)
}

#[cfg(test)]
impl Report {
    /// A report without measurements.
    pub fn empty_for_tests(scenario: &Scenario) -> Report {
        let target = Target::at(([127, 0, 0, 1], 1883).into(), None);
        let setup = scenario.setup(target.broker.address);
        let record = MessageRecord::Ledger(crate::engine::ledger::Ledger::new(&setup.shape, None));
        let engine = crate::engine::Engine::new(&setup, record).expect("a few hundred clients");
        Report::new(scenario, &target, &engine.shared, Measured::default(), false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn report() -> Report {
        Report::empty_for_tests(&Scenario::new(Kind::Pairs))
    }

    #[test]
    fn costs_are_those_of_the_window_per_delivery() {
        let used = |total_ns, user_ticks, system_ticks| {
            Some(Times { total_ns, waited_ns: total_ns / 2, user_ticks, system_ticks })
        };
        let start = Reading {
            at_ns: 1_000_000_000,
            sent: 100,
            delivered: 1000,
            idle_ns: 5,
            used: used(7, 1, 1),
            children: used(100_000_000, 0, 0),
            own: used(0, 0, 0),
            ..Reading::default()
        };
        let end = Reading {
            at_ns: 3_000_000_000,
            sent: 300,
            delivered: 401_000,
            delivered_bytes: 800,
            idle_ns: 500_000_005,
            used: used(1_000_000_007, 26, 76),
            children: used(500_000_000, 0, 0),
            own: used(1_000_000_000, 0, 0),
        };
        let window = Window::of(Kind::Pairs, start, end);
        assert_eq!((window.measured_s, window.sent, window.delivered), (Some(2.0), 200, 400_000));
        assert_eq!((window.delivered_per_s, window.delivered_bytes_per_s), (Some(200_000.0), Some(400.0)));
        let bench = window.bench.unwrap();
        assert_eq!((bench.busy, bench.waited), (0.75, Some(0.25)));
        let children = window.children.unwrap();
        assert_eq!((children.total_s, children.share, children.us_per_delivery), (0.4, 0.2, Some(1.0)));
        let cpu = window.cpu.unwrap();
        assert_eq!((cpu.all.total_s, cpu.all.share, cpu.all.us_per_delivery), (1.0, 0.5, Some(2.5)));
        assert_eq!((cpu.user_s, cpu.system_s), (Some(0.25), Some(0.75)));
        assert_eq!((cpu.user_us_per_delivery, cpu.system_us_per_delivery), (Some(0.625), Some(1.875)));
    }

    #[test]
    fn a_run_with_any_error_is_no_success() {
        assert!(report().is_success());
        let faults: [fn(&mut Report); 8] = [
            |report| report.lost = 1,
            |report| report.duplicated = 1,
            |report| report.out_of_order = 1,
            |report| report.stray = 1,
            |report| report.unacked = 1,
            |report| report.disconnects = 1,
            |report| report.connects.failed = 1,
            |report| report.errors = BTreeMap::from([("x".to_owned(), 1)]),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            let mut report = report();
            fault(&mut report);
            assert!(!report.is_success(), "fault {number}");
        }
    }
}
