//! What a run says while it runs: a line per second on a terminal, the first error of each kind, and that every
//! client is ready. All of it on stderr; stdout belongs to the summary.

use crate::client::Shared;
use crate::plan::{Plan, Role};
use crate::stats::{Stats, as_seconds};
use anyhow::{Context, Result};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const SECOND_NS: u64 = 1_000_000_000;

/// The progress line, if there is a terminal to show it on.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    line: bool,
    next_ns: u64,
    shown: Shown,
}

#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    at_ns: u64,
    sent: u64,
    received: u64,
}

impl Progress {
    /// Nothing is shown with `--quiet`, no line in a pipe.
    pub fn new(plan: &Plan) -> Self {
        let quiet = plan.output.quiet;
        let line = !quiet && std::io::stderr().is_terminal();
        Self { quiet, line, next_ns: SECOND_NS, shown: Shown::default() }
    }

    /// Renews the line once a second.
    pub fn show(&mut self, shared: &Shared, live: u32) {
        if !self.line || shared.now_ns < self.next_ns {
            return;
        }
        let (stats, before) = (&shared.stats, self.shown);
        let passed_s = as_seconds(shared.now_ns - before.at_ns);
        // A rate for people: whole messages.
        let rate = |now: u64, before: u64| (now - before) as f64 / passed_s;
        say(&format!(
            "\r\x1b[K{:>4.0} s  live {live}  ready {}  failed {}  sent {} ({:.0}/s)  acked {}  received {} ({:.0}/s)",
            as_seconds(shared.now_ns),
            stats.ready,
            stats.failed + stats.disconnects,
            stats.sent,
            rate(stats.sent, before.sent),
            stats.acked,
            stats.received,
            rate(stats.received, before.received),
        ));
        self.shown = Shown { at_ns: shared.now_ns, sent: stats.sent, received: stats.received };
        self.next_ns = shared.now_ns + SECOND_NS;
    }

    /// Removes the line, so that something else can be written.
    pub fn clear_line(&self) {
        if self.line {
            say("\r\x1b[K");
        }
    }

    /// The first error of its kind; the summary counts the others.
    pub fn complain(&self, client_id: &str, broker: SocketAddr, what: &str) {
        if !self.quiet {
            self.clear_line();
            say(&format!("client {client_id} to {broker}: {what}\n"));
        }
    }

    /// Every client is ready or has failed: says which, and creates the ready file if none has failed.
    pub fn announce(&self, plan: &Plan, stats: &Stats) -> Result<()> {
        let Stats { ready, failed, .. } = *stats;
        let done = if matches!(plan.role, Role::Subscribe(_)) { "subscribed" } else { "connected" };
        if !self.quiet {
            self.clear_line();
            let count = plan.count;
            say(&if failed == 0 {
                format!("ready: {ready} clients {done}\n")
            } else {
                format!("not ready: {failed} of {count} clients failed, {ready} {done}\n")
            });
        }
        match &plan.output.ready_file {
            Some(path) if failed == 0 => publish_ready(path),
            _ => Ok(()),
        }
    }
}

/// Removes the ready file of an earlier run.
pub fn withdraw_ready(plan: &Plan) -> Result<()> {
    let Some(path) = &plan.output.ready_file else { return Ok(()) };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the old ready file {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn publish_ready(path: &Path) -> Result<()> {
    // Renamed into place: whoever sees the file sees its contents.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    std::fs::write(&fresh, "ready\n")
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| format!("cannot create the ready file {}", path.display()))
}

fn say(text: &str) {
    // Whoever closed stderr does not want to know.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
