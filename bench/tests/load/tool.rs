//! The program as users run it: a process with its output, and what it reported. Every wait is
//! bounded.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Timeout of a tool that hangs, so that the test fails instead.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `grapnel-bench`, which ends with the test.
pub struct Tool {
    pub child: Child,
    pub stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    done: Sender<()>,
}

/// How it ended, and its output after what the test has read before.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Tool {
    /// One that loads a broker and reports as JSON.
    pub fn start(addr: SocketAddr, arguments: &str) -> Self {
        let port = addr.port().to_string();
        // The defaults of this test come first: the last value of a repeated option counts.
        let (subcommand, options) = arguments.split_once(' ').unwrap_or((arguments, ""));
        let usual = [subcommand, "-h", "127.0.0.1", "-p", &port, "--json"];
        let patience = ["--connect-timeout", "20", "--drain-timeout", "20"];
        Self::spawn(usual.into_iter().chain(patience).chain(options.split_whitespace()))
    }

    /// One with exactly these arguments.
    pub fn spawn<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grapnel-bench"));
        command.args(arguments);
        Self::of(command)
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (done, finished) = channel();
        std::thread::spawn(move || {
            if finished.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr, done }
    }

    /// Waits for the line that reports that every client is ready.
    pub fn ready(mut self) -> Self {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready: "), "said instead: {line}");
        self
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn end(mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code();
        let _ = self.done.send(());
        Ended { code, stdout, stderr }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }

    pub fn succeeded(self) -> Value {
        assert_eq!(self.code, Some(0), "{} {}", self.stdout, self.stderr);
        self.json()
    }

    pub fn failed(self) -> Value {
        assert_eq!(self.code, Some(1), "{} {}", self.stdout, self.stderr);
        self.json()
    }
}

/// Loads a broker until the end of the run.
pub fn run(addr: SocketAddr, arguments: &str) -> Ended {
    Tool::start(addr, arguments).end()
}

/// Checks counts of a report.
#[track_caller]
pub fn expect_counts(report: &Value, of: &str, counts: &[(&str, u64)]) {
    for (name, count) in counts {
        assert_eq!(report[name], *count, "{name} of {of}: {report}");
    }
}
