//! What a worker prints or logs, in the broker's log: line by line, under its name, and not more than the log can take.

use std::io::Read;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{Host, Level};

/// Most lines of a worker's that the log takes in a second.
const LINES_MAX: u32 = 1000;
/// The longest line of what a worker prints; a longer one is cut into several.
const PRINTED_MAX: usize = 8 << 10;

/// Lines of a worker's that the log takes; those beyond are counted.
pub struct Lines {
    host: Host,
    name: String,
    second: Instant,
    count: u32,
}

impl Lines {
    /// None yet.
    pub fn new(host: Host, name: String) -> Lines {
        Lines { host, name, second: Instant::now(), count: 0 }
    }

    /// One line.
    pub fn say(&mut self, level: Level, text: &str) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.new_second();
        }
        self.count += 1;
        if self.count <= LINES_MAX {
            self.host.log(level, format_args!("{}: {text}", self.name));
        }
    }

    /// Says how many were left out.
    pub fn new_second(&mut self) {
        if self.count > LINES_MAX {
            let left_out = self.count - LINES_MAX;
            self.host.warn(format_args!("{}: {left_out} further lines are left out", self.name));
        }
        (self.second, self.count) = (Instant::now(), 0);
    }
}

/// Bytes that a worker prints, until a line is whole.
#[derive(Default)]
pub struct Printed {
    bytes: Vec<u8>,
    /// Whether the worker has closed it.
    pub closed: bool,
}

impl Printed {
    /// Reads what is there and gives each whole line to `line`.
    pub fn read(&mut self, from: &mut impl Read, buffer: &mut [u8], mut line: impl FnMut(&str)) {
        // Bounded, so that a worker that never stops printing does not keep the thread.
        for _ in 0..16 {
            match from.read(buffer) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                line(String::from_utf8_lossy(&self.bytes[..end]).trim_end());
                self.bytes.drain(..=end);
            }
            if self.bytes.len() >= PRINTED_MAX {
                line(&String::from_utf8_lossy(&self.bytes));
                self.bytes.clear();
            }
        }
    }

    /// What has no end of line.
    pub fn rest(&mut self, mut line: impl FnMut(&str)) {
        if !self.bytes.is_empty() {
            line(String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).trim_end());
        }
    }
}
