//! Measured scenarios. Publishers and subscribers of one load are in one process and one loop, so
//! that every message can be tracked from its publisher to all receivers. `main` calls it for
//! `run`; `compare` calls [`run`] once per round. It measures only loads that it produces itself.

pub mod args;
mod phases;
mod report;
mod shape;
mod syscalls;
pub mod target;
mod usage;

pub use report::Report;
#[cfg(test)]
pub use shape::shape_of;
pub use target::Target;

use crate::header::{Fields, random_run};
use crate::plan::{Messages, Names, Pace, Setup, Sources};
use crate::transport::Transport;
use anyhow::Result;
use args::LoadArgs;
use clap::ValueEnum;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Header of every message: publisher, sequence number, and when it was sent or due.
pub const FIELDS: Fields = Fields { cnt: true, ts: true };

/// The scenarios; the comments are what `run list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// 1 publisher to 1 subscriber, at most 512 messages outstanding, sent 64 at once
    OneToOne,
    /// 1 publisher to 1 subscriber, one message outstanding
    PingPong,
    /// 50 pairs, at most 16 messages outstanding in each, sent 8 at once
    Pairs,
    /// 50 pairs, one message outstanding in each
    PairsOne,
    /// 1 publisher to 500 subscribers, one message outstanding
    FanOut,
    /// 1 publisher to 500 subscribers, at most 16 messages outstanding, sent 8 at once
    FanOutBurst,
    /// 200 publishers to 1 subscriber with a + filter, at most 4 messages outstanding of each, sent 4 at once
    FanIn,
    /// 1 publisher to 1 subscriber, 5000 messages a second at even intervals (open loop)
    Paced,
    /// 10 publishers to a tree of topics, 1000 filters with + and # on about 50 subscribers
    Wildcards,
    /// 20000 clients that connect and disconnect after CONNACK, at most 64 at the same time
    ConnectStorm,
    /// 10000 connections that do nothing, to measure the memory of each and the broker's CPU time
    Idle,
}

/// How the generator waits for the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// Polls without sleeping: exact times, and the broker is not charged for waking the generator
    Spin,
    /// Sleeps until the next event, as clients do
    Sleep,
}

impl Waiting {
    /// Spinning, if there is a CPU for it.
    fn usual() -> Self {
        if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
            Self::Spin
        } else {
            Self::Sleep
        }
    }
}

/// One load, with all settings.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Publishers and subscribers.
    pub kind: Kind,
    /// As given; values that depend on the kind are set below.
    pub options: LoadArgs,
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
    /// How the generator waits between events.
    pub waiting: Waiting,
    /// What carries MQTT.
    pub transport: Transport,
    /// Show progress on a terminal.
    pub progress: bool,
}

impl Kind {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn is_pairs(self) -> bool {
        matches!(self, Self::OneToOne | Self::PingPong | Self::Pairs | Self::PairsOne | Self::Paced)
    }

    /// Whether messages are published.
    pub fn has_messages(self) -> bool {
        !matches!(self, Self::ConnectStorm | Self::Idle)
    }
}

impl Scenario {
    /// A scenario with the defaults of its kind.
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
            options: LoadArgs::default(),
            pace,
            publishers,
            subscribers,
            connections: match kind {
                Kind::ConnectStorm => 20_000,
                Kind::Idle => 10_000,
                _ => 0,
            },
            filters: if kind == Kind::Wildcards { 1000 } else { 0 },
            waiting: Waiting::usual(),
            transport: Transport::default(),
            progress: false,
        }
    }

    /// The load for a broker, below topics that no other run uses.
    pub fn setup(&self, broker: SocketAddr) -> Setup {
        let run = random_run();
        Setup {
            broker,
            transport: self.transport.fresh(),
            sources: Sources::AsNeeded,
            version: self.options.version,
            // With the number at most 23 characters, the maximum of MQTT 3.1.
            names: Names { prefix: format!("run_{run:08x}_"), ..Names::default() },
            keep_alive_s: self.keep_alive_s(),
            clean: true,
            session_expiry_s: None,
            shape: shape::shape_of(self, run),
            leaves: self.kind == Kind::ConnectStorm,
            messages: Messages {
                qos: self.options.qos,
                retain: false,
                payload: vec![b'a'; self.options.size].into(),
                fields: FIELDS,
                run,
                window: match self.pace {
                    Pace::Credit { window, .. } => u16::try_from(window).unwrap_or(u16::MAX),
                    Pace::Rate(_) | Pace::Interval { .. } => u16::MAX,
                },
            },
            pace: self.pace,
            connect_gap: Duration::ZERO,
            connects_pending_max: self.options.connects_pending_max as usize,
            connect_timeout: self.options.patience,
            talks: self.progress,
        }
    }

    /// Twice the maximum time of the run, so that no client has to ping.
    fn keep_alive_s(&self) -> u16 {
        let LoadArgs { warm_up, duration, patience, .. } = self.options;
        let run_s = (warm_up + duration * 2 + patience * 2).as_secs();
        u16::try_from(run_s * 2 + 300).unwrap_or(u16::MAX)
    }
}

/// Runs `scenario` against `target` and returns a report; ends early, but cleanly, when `stop`
/// becomes true. Fails only if nothing can be measured; failed connections and messages are in the
/// report. The calling thread does all the work: pin it before, see [`target::pin`].
pub fn run(scenario: &Scenario, target: &mut Target, stop: &AtomicBool) -> Result<Report> {
    let setup = scenario.setup(target.broker.address);
    let mut report = phases::drive(scenario, &setup, target, stop)?;
    // Its connections end a moment before the process does.
    let is_broken = report.disconnects > 0 || report.connects.failed > 0;
    let within = if is_broken { Duration::from_secs(1) } else { Duration::ZERO };
    if let Some(end) = target.ended(within) {
        report.broker_ended(&end);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keep_alive_of_zero_needs_no_ping() {
        let mut scenario = Scenario::new(Kind::Idle);
        assert!(scenario.keep_alive_s() > 300);
        scenario.options.duration = Duration::from_secs(1_000_000);
        assert_eq!(scenario.keep_alive_s(), u16::MAX);
    }
}
