//! Progress messages, all on stderr: a line per second on a terminal, and the first error of each
//! kind. Standard output is for the report.

use super::counts::as_seconds;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;

const SECOND_NS: u64 = 1_000_000_000;

/// The progress line, if there is a terminal to show it on.
#[derive(Debug)]
pub struct Progress {
    talks: bool,
    line: bool,
    next_ns: u64,
    shown_ns: u64,
    shown: [u64; 2],
}

impl Progress {
    /// Shows nothing unless `talks`, and no line in a pipe.
    pub fn new(talks: bool) -> Self {
        let line = talks && std::io::stderr().is_terminal();
        Self { talks, line, next_ns: SECOND_NS, shown_ns: 0, shown: [0; 2] }
    }

    /// Updates the line once a second; `text` gets the increase of each of `counts` per second.
    pub fn show(&mut self, now_ns: u64, counts: [u64; 2], text: impl FnOnce([f64; 2]) -> String) {
        if !self.line || now_ns < self.next_ns {
            return;
        }
        let passed_s = as_seconds(now_ns - self.shown_ns);
        let rates = [0, 1].map(|at| counts[at].saturating_sub(self.shown[at]) as f64 / passed_s);
        self.line(&format!("{:>4.0} s  {}", as_seconds(now_ns), text(rates)));
        (self.shown_ns, self.shown) = (now_ns, counts);
        self.next_ns = now_ns + SECOND_NS;
    }

    /// Sets the text of the line.
    pub fn line(&self, text: &str) {
        if self.line {
            write(&format!("\r\x1b[K{text}"));
        }
    }

    /// Removes the line, so that something else can be written.
    pub fn clear(&self) {
        self.line("");
    }

    /// Prints a permanent message.
    pub fn say(&self, text: &str) {
        if self.talks {
            self.clear();
            write(&format!("{text}\n"));
        }
    }

    /// Prints the first error of its kind; the report counts the others.
    pub fn complain(&self, client_id: &str, broker: SocketAddr, what: &str) {
        self.say(&format!("client {client_id} to {broker}: {what}"));
    }
}

fn write(text: &str) {
    // Without an open stderr the message is lost.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
