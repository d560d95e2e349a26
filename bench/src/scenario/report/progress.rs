//! What a scenario says while it runs: a line per second on a terminal, and the first error of each kind. All of it on
//! stderr; stdout belongs to the report.

use crate::scenario::Scenario;
use crate::stats::as_seconds;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;

const SECOND_NS: u64 = 1_000_000_000;

/// The progress line, if there is a terminal to show it on.
#[derive(Debug)]
pub struct Progress {
    name: &'static str,
    line: bool,
    talks: bool,
    next_ns: u64,
    shown_ns: u64,
    shown: u64,
}

impl Progress {
    /// Without [`Scenario::progress`] it says nothing, in a pipe it shows no line.
    pub fn new(scenario: &Scenario) -> Self {
        let talks = scenario.progress;
        let line = talks && std::io::stderr().is_terminal();
        Self { name: scenario.kind.name(), line, talks, next_ns: SECOND_NS, shown_ns: 0, shown: 0 }
    }

    /// Renews the line once a second: where the run stands, and how much of `what` there is by now.
    pub fn show(&mut self, now_ns: u64, phase: &str, count: u64, what: &str) {
        if !self.line || now_ns < self.next_ns {
            return;
        }
        let rate = count.saturating_sub(self.shown) as f64 / as_seconds(now_ns - self.shown_ns);
        let (passed_s, name) = (as_seconds(now_ns), self.name);
        say(&format!("\r\x1b[K{passed_s:>4.0} s  {name}: {phase}  {count} {what} ({rate:.0}/s)"));
        (self.shown_ns, self.shown) = (now_ns, count);
        self.next_ns = now_ns + SECOND_NS;
    }

    /// Removes the line, so that something else can be written.
    pub fn clear(&self) {
        if self.line {
            say("\r\x1b[K");
        }
    }

    /// The first error of its kind; the report counts the others.
    pub fn complain(&self, client_id: &str, broker: SocketAddr, what: &str) {
        if self.talks {
            self.clear();
            say(&format!("client {client_id} to {broker}: {what}\n"));
        }
    }
}

fn say(text: &str) {
    // Whoever closed stderr does not want to know.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
