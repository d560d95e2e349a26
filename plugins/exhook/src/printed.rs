//! Logs what a worker prints or sends for the log: line by line, under its name, and at a limited
//! rate.

use std::collections::VecDeque;
use std::io::Read;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{Host, Level};

/// Most lines per second of one worker.
const LINES_MAX: u32 = 1000;
/// Lines that are logged at once during a shutdown, and the pause after them.
const PACE: (usize, Duration) = (50, Duration::from_millis(20));
/// Longest printed line, bytes; a longer one is split.
const PRINTED_MAX: usize = 8 << 10;

/// Logs the lines of a worker; lines above the limit are counted.
pub struct Lines {
    host: Host,
    name: String,
    second: Instant,
    count: u32,
    /// During shutdown: lines that wait instead of being dropped, and when some were logged last.
    paced: Option<(VecDeque<(Level, String)>, Instant)>,
}

impl Lines {
    /// Nothing logged yet.
    pub fn new(host: Host, name: String) -> Lines {
        Lines { host, name, second: Instant::now(), count: 0, paced: None }
    }

    /// From now on lines wait until the log can take them, because they are the last ones and are
    /// stored nowhere else. While some wait, the caller should read no more.
    pub fn begin_shutdown(&mut self) {
        self.new_second();
        self.paced = Some((VecDeque::new(), Instant::now()));
    }

    /// Logs what it can now. Returns whether lines still wait.
    pub fn go_on(&mut self) -> bool {
        let Some((waiting, last)) = &mut self.paced else { return false };
        if !waiting.is_empty() && last.elapsed() >= PACE.1 {
            *last = Instant::now();
            for (level, text) in waiting.drain(..waiting.len().min(PACE.0)) {
                self.host.log(level, format_args!("{}: {text}", self.name));
            }
        }
        !waiting.is_empty()
    }

    /// Ends the shutdown: logs what is left, up to the limit per second.
    pub fn end_shutdown(&mut self) {
        for (level, text) in self.paced.take().into_iter().flat_map(|(waiting, _)| waiting) {
            self.log(level, &text);
        }
        self.new_second();
    }

    /// Logs one line.
    pub fn log(&mut self, level: Level, text: &str) {
        if let Some((waiting, _)) = &mut self.paced {
            return waiting.push_back((level, text.to_owned()));
        }
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.new_second();
        }
        self.count += 1;
        if self.count <= LINES_MAX {
            self.host.log(level, format_args!("{}: {text}", self.name));
        }
    }

    /// Logs how many lines were dropped.
    pub fn new_second(&mut self) {
        if self.count > LINES_MAX {
            let left_out = self.count - LINES_MAX;
            self.host.warn(format_args!("{}: {left_out} further lines are left out", self.name));
        }
        (self.second, self.count) = (Instant::now(), 0);
    }
}

/// Printed bytes of a line that is not complete.
#[derive(Default)]
pub struct Printed {
    bytes: Vec<u8>,
    /// Whether the worker has closed the pipe.
    pub closed: bool,
}

impl Printed {
    /// Reads what is there, at most `times` times so that a worker which prints without end does
    /// not block the thread. Calls `line` with each complete line. Returns whether something was
    /// read.
    pub fn read(
        &mut self,
        from: &mut impl Read,
        (buffer, times): (&mut [u8], usize),
        mut line: impl FnMut(&str),
    ) -> bool {
        let mut came = false;
        for _ in 0..times {
            match from.read(buffer) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    came = true;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            let mut at = 0;
            while let Some(len) = self.bytes[at..].iter().position(|byte| *byte == b'\n') {
                line(String::from_utf8_lossy(&self.bytes[at..at + len]).trim_end());
                at += len + 1;
            }
            self.bytes.drain(..at);
            if self.bytes.len() >= PRINTED_MAX {
                line(&String::from_utf8_lossy(&self.bytes));
                self.bytes.clear();
            }
        }
        came
    }

    /// Calls `line` with the last line if it is not terminated.
    pub fn unterminated(&mut self, mut line: impl FnMut(&str)) {
        if !self.bytes.is_empty() {
            line(String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(printed: &mut Printed, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        printed.read(&mut bytes, (&mut [0; 16], 16), |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_come_whole_however_they_are_read() {
        let mut printed = Printed::default();
        assert_eq!(lines(&mut printed, b"a\n\nlonger than a read\r\nbeg"), ["a", "", "longer than a read"]);
        assert!(printed.closed, "the slice has ended");
        assert_eq!(lines(&mut printed, b"in\n"), ["begin"]);
        assert!(lines(&mut printed, b"no end").is_empty());
        let mut rest = Vec::new();
        printed.unterminated(|line| rest.push(line.to_owned()));
        assert_eq!(rest, ["no end"]);
    }

    #[test]
    fn invalid_text_and_endless_lines_are_shown() {
        let mut printed = Printed::default();
        assert_eq!(lines(&mut printed, b"\xff\n"), ["\u{fffd}"]);
        let mut count = 0;
        let mut endless = std::io::repeat(b'x').take(3 * PRINTED_MAX as u64);
        printed.read(&mut endless, (&mut [0; 1024], 16), |line| count += line.len());
        assert_eq!(count, 2 * PRINTED_MAX, "16 reads of 1,024 bytes at a time");
    }
}
