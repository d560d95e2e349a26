//! `pub`, `sub` and `conn`: one kind of client, until a limit, a time or a signal. `cli` makes a
//! [`Load`] of the arguments, `main` calls [`drive`], `report` prints the result. It only decides
//! when the run ends; the engine does the work.

use crate::cli::{LoadCommand, PubArgs, SubArgs};
use crate::clock::nanos;
use crate::engine::counts::Counts;
use crate::engine::{Engine, MessageRecord};
use crate::plan::{Pace, Setup};
use crate::sequence::Tracker;
use anyhow::{Context, Result};
use grapnel_plugin_abi::counted;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A load with its end conditions and its output.
#[derive(Debug)]
pub struct Load {
    /// The clients.
    pub setup: Setup,
    /// As given; what concerns the clients is in `setup`.
    pub command: LoadCommand,
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
    engine.publishing = !load.waits_for_all();
    let mut run = Run { load, engine, settled_ns: None };
    while !run.is_complete() && !stop.load(Ordering::Relaxed) {
        run.turn(u64::MAX)?;
        run.settle()?;
    }
    let interrupted = stop.load(Ordering::Relaxed);
    (run.engine.connecting, run.engine.publishing) = (false, false);
    let drain_timeout = load.command.common().drain_timeout;
    let until_ns = run.engine.shared.now_ns + nanos(drain_timeout);
    while !run.engine.is_drained() && run.engine.shared.now_ns < until_ns {
        run.turn(until_ns)?;
    }
    run.engine.close(drain_timeout)?;
    let elapsed_ns = run.engine.clock.now_ns();
    let MessageRecord::Headers { trackers, .. } = run.engine.shared.record else {
        unreachable!("see `record`")
    };
    Ok(Outcome { counts: run.engine.shared.counts, trackers, interrupted, elapsed_ns })
}

#[derive(Debug)]
struct Run<'l> {
    load: &'l Load,
    engine: Engine<'l>,
    /// When every client was ready or had failed.
    settled_ns: Option<u64>,
}

impl Run<'_> {
    fn turn(&mut self, until_ns: u64) -> Result<()> {
        self.engine.turn(false, until_ns)?;
        self.show_progress();
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
        if self.load.waits_for_all() {
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

    /// Whether the run has reached the end that its options set, or has no client left.
    fn is_complete(&self) -> bool {
        let command = &self.load.command;
        let idle = if let LoadCommand::Sub(SubArgs { idle, .. }) = command { *idle } else { None };
        let shared = &self.engine.shared;
        let over = |since_ns: Option<u64>, length: Option<Duration>| match (since_ns, length) {
            (Some(since_ns), Some(length)) => shared.now_ns >= since_ns + nanos(length),
            _ => false,
        };
        let received = shared.counts.received;
        let is_pub = matches!(command, LoadCommand::Pub(_));
        let received_all = !is_pub && command.limit().is_some_and(|limit| received >= limit);
        let sent_all = shared.remaining == Some(0) && self.settled_ns.is_some();
        let deserted = self.engine.live == 0 && self.settled_ns.is_some();
        deserted
            || sent_all
            || received_all
            || over(self.settled_ns, command.common().duration)
            || over(shared.counts.receiving.last_ns(), idle)
    }

    /// Every client is ready or has failed: reports the numbers, and creates the ready file if none
    /// has failed.
    fn announce(&self) -> Result<()> {
        let Counts { ready, failed, .. } = self.engine.shared.counts;
        let done = if matches!(self.load.command, LoadCommand::Sub(_)) { "subscribed" } else { "connected" };
        let clients = |count| counted(count, "client");
        let count = self.load.setup.shape.clients() as u64;
        self.engine.progress.say(&if failed == 0 {
            format!("ready: {} {done}", clients(ready.into()))
        } else {
            format!("not ready: {failed} of {} failed, {ready} {done}", clients(count))
        });
        match &self.load.command.common().ready_file {
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
        let (gaps_max, expected) = match &self.command {
            LoadCommand::Sub(args) => (args.gaps_max, !args.payload_hdrs.is_empty()),
            _ => (0, false),
        };
        MessageRecord::Headers { trackers, tracker_of, gaps_max, expected }
    }

    /// Whether publishing begins only when all are connected.
    fn waits_for_all(&self) -> bool {
        matches!(self.command, LoadCommand::Pub(PubArgs { wait_before_publishing: true, .. }))
    }

    /// Removes the ready file of an earlier run.
    fn withdraw_ready(&self) -> Result<()> {
        let Some(path) = &self.command.common().ready_file else { return Ok(()) };
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
