//! Measured scenarios. Publishers and subscribers of one load are in one process and one loop, so
//! that every message can be followed from its publisher to all receivers. `main` calls it for
//! `run`; `compare` calls [`run`] once per round. It never measures what it does not drive itself.

pub mod args;
mod client;
mod drive;
mod ledger;
mod report;
mod schedule;
mod shape;
mod storm;
mod syscalls;
mod tally;
pub mod target;
mod usage;

pub use report::Report;
pub use target::Target;

use crate::header::Fields;
use crate::plan::Version;
use anyhow::Result;
use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Header of every message: publisher, sequence number, and when it was sent or due.
pub const FIELDS: Fields = Fields { cnt: true, ts: true };

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One publisher, one subscriber, pipelined.
    OneToOne,
    /// As `OneToOne`, one message outstanding.
    PingPong,
    /// Pairs of one publisher and one subscriber, in bursts.
    Pairs,
    /// As `Pairs`, one message outstanding in each.
    PairsOne,
    /// One publisher, many subscribers, one message outstanding.
    FanOut,
    /// As `FanOut`, in bursts.
    FanOutBurst,
    /// Many publishers, one subscriber with a wildcard.
    FanIn,
    /// One publisher, one subscriber, at a fixed rate.
    Paced,
    /// Many overlapping wildcard filters over a tree of topics.
    Wildcards,
    /// Connect, CONNACK, DISCONNECT, over and over.
    ConnectStorm,
    /// Connections that do nothing.
    Idle,
}

/// When a publisher sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Closed loop: as long as fewer than `window` of a publisher's messages are with the broker, not yet received by
    /// all their subscribers; `burst` at once.
    Credit {
        /// Messages of one publisher, at least 1.
        window: u32,
        /// 1 to `window`.
        burst: u32,
    },
    /// Open loop: so many messages a second in all, whatever the broker does; at least 1.
    Rate(u64),
}

/// How the generator waits for the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// Asks again and again: exact times, and no wake-up that would be on the broker's account
    Spin,
    /// Sleeps until something comes, as clients do
    Sleep,
}

impl Waiting {
    /// Spinning, where there is a CPU to spin on.
    fn usual() -> Self {
        if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
            Self::Spin
        } else {
            Self::Sleep
        }
    }
}

/// One load, with everything settled.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Who talks to whom.
    pub kind: Kind,
    /// Of every client.
    pub version: Version,
    /// Of messages and subscriptions, 0 to 2.
    pub qos: u8,
    /// Payload bytes, at least those of the header.
    pub size: usize,
    /// When publishers send.
    pub pace: Pace,
    /// Publishing clients; each pair has one.
    pub publishers: u32,
    /// Subscribing clients; each pair has one.
    pub subscribers: u32,
    /// Clients of `Idle`, connects of `ConnectStorm`.
    pub connections: u32,
    /// Filters of `Wildcards`, over all subscribers.
    pub filters: u32,
    /// Load before measuring begins.
    pub warm_up: Duration,
    /// Measured time.
    pub duration: Duration,
    /// Connects under way at once.
    pub connects_pending_max: u32,
    /// Without any delivery for this long, what is outstanding counts as lost.
    pub patience: Duration,
    /// Count system calls in a second window.
    pub syscalls: bool,
    /// Between events.
    pub waiting: Waiting,
    /// Show progress on a terminal.
    pub progress: bool,
}

impl Kind {
    /// Every kind, in the order of `run list`.
    pub const ALL: [Self; 11] = [
        Self::OneToOne,
        Self::PingPong,
        Self::Pairs,
        Self::PairsOne,
        Self::FanOut,
        Self::FanOutBurst,
        Self::FanIn,
        Self::Paced,
        Self::Wildcards,
        Self::ConnectStorm,
        Self::Idle,
    ];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneToOne => "one-to-one",
            Self::PingPong => "ping-pong",
            Self::Pairs => "pairs",
            Self::PairsOne => "pairs-one",
            Self::FanOut => "fan-out",
            Self::FanOutBurst => "fan-out-burst",
            Self::FanIn => "fan-in",
            Self::Paced => "paced",
            Self::Wildcards => "wildcards",
            Self::ConnectStorm => "connect-storm",
            Self::Idle => "idle",
        }
    }

    /// One line for people.
    pub fn about(self) -> &'static str {
        match self {
            Self::OneToOne => "1 publisher to 1 subscriber, pipelined: 512 messages outstanding, 64 at once",
            Self::PingPong => "1 publisher to 1 subscriber, one message outstanding",
            Self::Pairs => "50 pairs, 16 messages outstanding in each, 8 at once",
            Self::PairsOne => "50 pairs, one message outstanding in each",
            Self::FanOut => "1 publisher to 500 subscribers, one message outstanding",
            Self::FanOutBurst => "1 publisher to 500 subscribers, 16 messages outstanding, 8 at once",
            Self::FanIn => "200 publishers to 1 subscriber with a + filter, 4 messages outstanding each",
            Self::Paced => "1 publisher to 1 subscriber, one by one at 5000 messages a second (open loop)",
            Self::Wildcards => {
                "10 publishers over a topic tree, 1000 filters with + and # on some 50 clients"
            }
            Self::ConnectStorm => "20000 connects, CONNACK awaited, disconnected at once; 64 under way",
            Self::Idle => "10000 connections that do nothing: memory of each, CPU of the broker",
        }
    }

    fn is_pairs(self) -> bool {
        matches!(self, Self::OneToOne | Self::PingPong | Self::Pairs | Self::PairsOne | Self::Paced)
    }

    /// Whether messages are published.
    pub fn has_messages(self) -> bool {
        !matches!(self, Self::ConnectStorm | Self::Idle)
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Scenario {
    /// With the defaults of its kind.
    pub fn new(kind: Kind) -> Self {
        let credit = |window, burst| Pace::Credit { window, burst };
        let (pace, publishers, subscribers) = match kind {
            Kind::OneToOne => (credit(512, 64), 1, 1),
            Kind::PingPong => (credit(1, 1), 1, 1),
            Kind::Pairs => (credit(16, 8), 50, 50),
            Kind::PairsOne => (credit(1, 1), 50, 50),
            Kind::FanOut => (credit(1, 1), 1, 500),
            Kind::FanOutBurst => (credit(16, 8), 1, 500),
            Kind::FanIn => (credit(4, 4), 200, 1),
            Kind::Paced => (Pace::Rate(5000), 1, 1),
            Kind::Wildcards => (credit(8, 8), 10, 50),
            Kind::ConnectStorm | Kind::Idle => (credit(1, 1), 0, 0),
        };
        Self {
            kind,
            version: Version::V5,
            qos: 0,
            size: 64,
            pace,
            publishers,
            subscribers,
            connections: match kind {
                Kind::ConnectStorm => 20_000,
                Kind::Idle => 10_000,
                _ => 0,
            },
            filters: if kind == Kind::Wildcards { 1000 } else { 0 },
            warm_up: Duration::from_millis(500),
            duration: Duration::from_secs(3),
            connects_pending_max: 64,
            patience: Duration::from_secs(5),
            syscalls: false,
            waiting: Waiting::usual(),
            progress: false,
        }
    }
}

/// Drives `scenario` against `target` and tells what came of it; ends early, in order, when `stop` becomes true.
/// Fails only where nothing can be measured; connections and messages that fail are in the report. The calling thread
/// does all the work: pin it before, see [`target::pin`].
pub fn run(scenario: &Scenario, target: &mut Target, stop: &Arc<AtomicBool>) -> Result<Report> {
    let mut report = if scenario.kind == Kind::ConnectStorm {
        storm::drive(scenario, target, stop)?
    } else {
        drive::drive(scenario, target, stop)?
    };
    // Its connections end a moment before the process does.
    let is_broken = report.disconnects > 0 || report.connects.failed > 0;
    let within = if is_broken { Duration::from_secs(1) } else { Duration::ZERO };
    if let Some(end) = target.ended(within) {
        report.broker_ended(&end);
    }
    Ok(report)
}
