//! A load of pairs of clients that checks every message while it runs: order, loss, duplicates, and
//! the stamp of a plugin. Used by the load tests. One thread publishes and one receives, so that
//! the broker has most of the machine.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::line::Line;
use crate::{Broker, Client, PATIENCE, Publish, Version, pause};

mod publishing;
mod receiving;

/// What to publish and what to expect.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pairs of a publisher and a subscriber.
    pub pairs: usize,
    /// Messages per second of all publishers together.
    pub per_second: u32,
    /// Publisher N publishes to this topic followed by `/N`.
    pub original: String,
    /// The topic that a plugin moves it to, likewise; equal to `original` for a plugin that does
    /// not move it.
    pub rewritten: String,
    /// The user property that a plugin adds.
    pub stamp: String,
}

/// Expected form of messages during a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// No plugin: no stamp, the original topic.
    Plain,
    /// A plugin, old or new: exactly one stamp, the rewritten topic.
    Stamped,
    /// Exactly one stamp, the same in all messages, and different from those of earlier phases.
    StampedByOne,
    /// During a load or unload: one of the two forms, but never a mixture.
    Changing,
}

/// Counters of the load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages published.
    pub published: u64,
    /// Number of them that were acknowledged.
    pub acknowledged: u64,
    /// Messages received.
    pub received: u64,
    /// Number of them with a stamp.
    pub stamped: u64,
    /// Different stamps.
    pub generations: usize,
    /// Messages per second, over the whole time.
    pub rate: f64,
    /// Maximum time from sending to receiving.
    pub longest: Duration,
}

#[derive(Default)]
struct Assessment {
    phases: Vec<Phase>,
    /// Stamps seen in the current phase where there may be only one, and in all before it.
    current: BTreeSet<String>,
    earlier: BTreeSet<String>,
    wrong: Vec<String>,
    longest: Duration,
}

struct Shared {
    plan: Plan,
    start: Instant,
    phase: AtomicU64,
    /// Messages that were sent and received within the current phase.
    settled: AtomicU64,
    published: AtomicU64,
    acknowledged: AtomicU64,
    received: AtomicU64,
    stamped: AtomicU64,
    stop: AtomicBool,
    /// Nothing more is published, and every publish is acknowledged.
    published_all: AtomicBool,
    judgement: Mutex<Assessment>,
}

impl Shared {
    fn judgement(&self) -> MutexGuard<'_, Assessment> {
        self.judgement.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wrong(&self, what: String) {
        let mut judgement = self.judgement();
        if judgement.wrong.len() < 20 {
            judgement.wrong.push(what);
        }
    }
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A payload contains its publisher, its number, its time, and its phase. Little endian, 8 bytes
/// each.
fn payload(pair: u64, place: u64, sent_us: u64, phase: u64) -> Vec<u8> {
    [pair, place, sent_us, phase].iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn read_payload(bytes: &[u8]) -> Option<[u64; 4]> {
    let numbers: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|eight| u64::from_le_bytes(eight.try_into().expect("chunks of eight")))
        .collect();
    numbers.try_into().ok()
}

impl Load {
    /// Connects all clients, with MQTT 5 and QoS 1, and begins in [`Phase::Plain`].
    #[track_caller]
    pub fn start(broker: &Broker, plan: Plan) -> Load {
        let connect = |kind: &str, n: usize| Client::hello(broker, Version::V5, &format!("load {kind} {n}"));
        let subscribers = (0..plan.pairs).map(|n| {
            let mut client = connect("subscriber", n);
            client.subscribe(&format!("{}/{n}", plan.original), 1);
            client.subscribe(&format!("{}/{n}", plan.rewritten), 1);
            Line::new(client)
        });
        let subscribers: Vec<Line> = subscribers.collect();
        let publishers = (0..plan.pairs).map(|n| Line::new(connect("publisher", n))).collect();
        let shared = Arc::new(Shared {
            plan,
            start: Instant::now(),
            phase: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            published: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            received: AtomicU64::new(0),
            stamped: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            published_all: AtomicBool::new(false),
            judgement: Mutex::new(Assessment { phases: vec![Phase::Plain], ..Assessment::default() }),
        });
        let (publishing, receiving) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || publishing::run(&publishing, publishers)),
            std::thread::spawn(move || receiving::run(&receiving, subscribers)),
        ];
        Load { shared, threads }
    }

    /// Sets the expected form of messages. Call it right before a change begins and right after it
    /// is complete.
    pub fn enter(&self, phase: Phase) {
        let mut judgement = self.shared.judgement();
        judgement.phases.push(phase);
        let current = std::mem::take(&mut judgement.current);
        judgement.earlier.extend(current);
        self.shared.settled.store(0, Ordering::SeqCst);
        self.shared.phase.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until this many messages have been sent and received in the current phase.
    ///
    /// # Panics
    /// If they do not arrive in time, or an error was found.
    #[track_caller]
    pub fn settle(&self, messages: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.shared.settled.load(Ordering::SeqCst) < messages {
            self.check();
            assert!(Instant::now() < deadline, "too few messages came in this phase: {:?}", self.report());
            pause(Duration::from_millis(1));
        }
        self.check();
    }

    /// Stops publishing, waits until every publish has been acknowledged and received, and
    /// disconnects.
    ///
    /// # Panics
    /// If an error was found, or a message was lost or duplicated.
    #[track_caller]
    pub fn finish(mut self) -> Report {
        self.shared.stop.store(true, Ordering::SeqCst);
        let rate = self.rate();
        let deadline = Instant::now() + PATIENCE;
        while !self.threads.iter().all(JoinHandle::is_finished) {
            self.check();
            assert!(Instant::now() < deadline, "messages are missing: {:?}", self.report());
            pause(Duration::from_millis(1));
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("the load's threads collect what is wrong and do not panic");
        }
        self.check();
        let report = Report { rate, ..self.report() };
        assert_eq!(report.published, report.received, "everything once");
        assert_eq!(report.published, report.acknowledged, "everything acknowledged");
        report
    }

    #[track_caller]
    fn check(&self) {
        let judgement = self.shared.judgement();
        assert!(judgement.wrong.is_empty(), "{}\n{:?}", judgement.wrong.join("\n"), self.counts(&judgement));
    }

    fn rate(&self) -> f64 {
        self.shared.published.load(Ordering::SeqCst) as f64 / self.shared.start.elapsed().as_secs_f64()
    }

    fn report(&self) -> Report {
        let judgement = self.shared.judgement();
        self.counts(&judgement)
    }

    fn counts(&self, judgement: &Assessment) -> Report {
        Report {
            published: self.shared.published.load(Ordering::SeqCst),
            acknowledged: self.shared.acknowledged.load(Ordering::SeqCst),
            received: self.shared.received.load(Ordering::SeqCst),
            stamped: self.shared.stamped.load(Ordering::SeqCst),
            generations: judgement.earlier.union(&judgement.current).count(),
            rate: self.rate(),
            longest: judgement.longest,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn message(shared: &Shared, pair: usize, place: u64, id: u16) -> Vec<u8> {
    let sent_us = shared.start.elapsed().as_micros() as u64;
    let body = payload(pair as u64, place, sent_us, shared.phase.load(Ordering::SeqCst));
    Publish::new(&format!("{}/{pair}", shared.plan.original), body).qos(1).id(id).encode(Version::V5)
}
