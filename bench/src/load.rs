//! `pub`, `sub` and `conn`: one kind of client, until a limit, a time or a signal. `cli` makes a
//! [`Load`] of the arguments, `main` calls [`drive`], `report` prints the result. It only decides
//! when the run ends; the engine does the work.

use crate::cli::CommonArgs;
use crate::clock::nanos;
use crate::engine::counts::Counts;
use crate::engine::{Engine, MessageRecord};
use crate::plan::{Pace, Setup};
use crate::sequence::Tracker;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the clients do once connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Publish.
    Pub,
    /// Subscribe and count.
    Sub,
    /// Stay connected.
    Conn,
}

impl Role {
    /// The command's name in the summary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pub => "pub",
            Self::Sub => "sub",
            Self::Conn => "conn",
        }
    }
}

/// A load with its end conditions and its output.
#[derive(Debug)]
pub struct Load {
    /// What the clients do once connected.
    pub role: Role,
    /// The clients.
    pub setup: Setup,
    /// As given; what concerns the clients is in `setup`.
    pub options: CommonArgs,
    /// Ends the run this long after the last message was received.
    pub idle: Option<Duration>,
    /// Messages in all: to send for publishers, to receive for subscribers.
    pub limit: Option<u64>,
    /// Publish only when all are connected.
    pub wait_for_all: bool,
    /// Remembered gaps per publisher and receiver.
    pub gaps_max: usize,
    /// Count messages without a header as errors.
    pub header_expected: bool,
}

/// Result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The counts.
    pub counts: Counts,
    /// Sequence numbers that receivers saw.
    pub trackers: Vec<Tracker>,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// Nanoseconds from start to end.
    pub elapsed_ns: u64,
}

/// Carries out `load`. Ends it early, but cleanly, when `stop` becomes true.
pub fn drive(load: &Load, stop: &AtomicBool) -> Result<Outcome> {
    load.withdraw_ready()?;
    let mut engine = Engine::new(&load.setup, load.record())?;
    engine.shared.counts.measure(true);
    engine.publishing = !load.wait_for_all;
    let mut run = Run { load, engine, phase: Phase::Running, settled_ns: None, interrupted: false };
    while run.phase != Phase::Over {
        run.engine.turn(false, u64::MAX)?;
        run.advance(stop)?;
        run.show_progress();
    }
    run.engine.progress.clear();
    let elapsed_ns = run.engine.clock.now_ns();
    let MessageRecord::Headers { trackers, .. } = run.engine.shared.record else {
        unreachable!("see `record`")
    };
    Ok(Outcome { counts: run.engine.shared.counts, trackers, interrupted: run.interrupted, elapsed_ns })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The load runs.
    Running,
    /// Nothing new is published; acknowledgements are awaited until then.
    Draining(u64),
    /// DISCONNECT is sent; the ends of the connections are awaited until then.
    Closing(u64),
    Over,
}

#[derive(Debug)]
struct Run<'l> {
    load: &'l Load,
    engine: Engine<'l>,
    phase: Phase,
    /// When every client was ready or had failed.
    settled_ns: Option<u64>,
    interrupted: bool,
}

impl Run<'_> {
    /// Begins the next phase once the current one is complete or its time is over.
    fn advance(&mut self, stop: &AtomicBool) -> Result<()> {
        let now_ns = self.engine.shared.now_ns;
        let patience_ns = nanos(self.load.options.drain_timeout);
        if self.phase == Phase::Running {
            self.settle()?;
            let deserted = self.engine.live == 0 && self.settled_ns.is_some();
            self.interrupted = stop.load(Ordering::Relaxed);
            if deserted || self.interrupted || self.is_complete() {
                (self.engine.connecting, self.engine.publishing) = (false, false);
                self.phase = Phase::Draining(now_ns + patience_ns);
            }
        }
        if let Phase::Draining(until_ns) = self.phase
            && (self.engine.is_drained() || now_ns >= until_ns)
        {
            self.engine.close_all();
            self.phase = Phase::Closing(now_ns + patience_ns);
        }
        if let Phase::Closing(until_ns) = self.phase
            && (self.engine.live == 0 || now_ns >= until_ns)
        {
            self.phase = Phase::Over;
        }
        Ok(())
    }

    /// Once every client is ready or has failed: reports that, and starts publishers that waited
    /// for it.
    fn settle(&mut self) -> Result<()> {
        if self.settled_ns.is_some() || !self.engine.is_settled() {
            return Ok(());
        }
        let now_ns = self.engine.shared.now_ns;
        self.settled_ns = Some(now_ns);
        self.announce()?;
        if self.load.wait_for_all {
            self.engine.publishing = true;
            let publishers = self.load.setup.shape.publishers.len();
            let Pace::Interval { gap, .. } = self.load.setup.pace else { return Ok(()) };
            // Spread over the first interval, so that the load is even from the start.
            let share_ns = nanos(gap) / publishers.max(1) as u64;
            for index in 0..publishers {
                self.engine.begin(index, now_ns + share_ns * index as u64);
            }
        }
        Ok(())
    }

    /// Whether the run has reached the end that its options set.
    fn is_complete(&self) -> bool {
        let Load { role, limit, idle, options, .. } = self.load;
        let shared = &self.engine.shared;
        let over = |since_ns: Option<u64>, length: Option<Duration>| match (since_ns, length) {
            (Some(since_ns), Some(length)) => shared.now_ns >= since_ns + nanos(length),
            _ => false,
        };
        let received = shared.counts.received;
        let received_all = *role != Role::Pub && limit.is_some_and(|limit| received >= limit);
        let sent_all = shared.remaining == Some(0) && self.settled_ns.is_some();
        sent_all
            || received_all
            || over(self.settled_ns, options.duration)
            || over(shared.counts.receiving.last_ns(), *idle)
    }

    /// Every client is ready or has failed: reports the numbers, and creates the ready file if none
    /// has failed.
    fn announce(&self) -> Result<()> {
        let Counts { ready, failed, .. } = self.engine.shared.counts;
        let done = if self.load.role == Role::Sub { "subscribed" } else { "connected" };
        let count = self.load.setup.shape.clients();
        self.engine.progress.say(&if failed == 0 {
            format!("ready: {ready} clients {done}")
        } else {
            format!("not ready: {failed} of {count} clients failed, {ready} {done}")
        });
        match &self.load.options.ready_file {
            Some(path) if failed == 0 => publish_ready(path),
            _ => Ok(()),
        }
    }

    fn show_progress(&mut self) {
        let (counts, live) = (&self.engine.shared.counts, self.engine.live);
        let Counts { ready, sent, acked, received, .. } = *counts;
        let failed = counts.failed + counts.disconnects;
        let now_ns = self.engine.shared.now_ns;
        self.engine.progress.show(now_ns, [sent, received], |[sent_per_s, received_per_s]| {
            format!(
                "live {live}  ready {ready}  failed {failed}  sent {sent} ({sent_per_s:.0}/s)  acked {acked}  \
                 received {received} ({received_per_s:.0}/s)"
            )
        });
    }
}

impl Load {
    /// One tracker for each plain subscriber, and a common one for the members of a shared
    /// subscription.
    fn record(&self) -> MessageRecord {
        let mut groups = HashMap::new();
        let mut count = 0;
        let mut tracker_of = Vec::new();
        for subscriber in &self.setup.shape.subscribers {
            let is_shared = subscriber.filters.iter().all(|filter| filter.starts_with("$share/"));
            let known = if is_shared { *groups.entry(&subscriber.filters).or_insert(count) } else { count };
            tracker_of.push(known);
            count = count.max(known + 1);
        }
        let mut trackers = Vec::new();
        trackers.resize_with(count, Tracker::default);
        MessageRecord::Headers {
            trackers,
            tracker_of,
            gaps_max: self.gaps_max,
            expected: self.header_expected,
        }
    }

    /// Removes the ready file of an earlier run.
    fn withdraw_ready(&self) -> Result<()> {
        let Some(path) = &self.options.ready_file else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove the old ready file {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

fn publish_ready(path: &Path) -> Result<()> {
    // Renamed at the end: the file is never visible without its contents.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    std::fs::write(&fresh, "ready\n")
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| format!("cannot create the ready file {}", path.display()))
}
