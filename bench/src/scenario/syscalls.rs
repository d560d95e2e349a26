//! Counts the system calls of the broker with `perf stat`, in a window of its own: tracing slows
//! each call down, so the CPU time is never measured at the same time. Used by the loop, which
//! continues meanwhile.

use super::target::{becomes_readable, end};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const EVENT: &str = "raw_syscalls:sys_enter";
/// Timeout for perf's answer to a command.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A running `perf stat`. It begins to count on command and reports when it does.
#[derive(Debug)]
pub struct Counter {
    child: Child,
    control: ChildStdin,
    answers: ChildStdout,
}

impl Counter {
    /// Attaches to every thread of a process, without counting yet.
    pub fn attach(pid: u32) -> Result<Self> {
        let mut child = Command::new("perf")
            .args(["stat", "-x,", "-D", "-1", "--control", "fd:0,1", "-e", EVENT, "-p", &pid.to_string()])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => anyhow::anyhow!("perf is not installed (Debian: linux-perf)"),
                _ => anyhow::anyhow!("perf cannot be started: {error}"),
            })?;
        let control = child.stdin.take().context("perf has no input")?;
        let answers = child.stdout.take().context("perf has no output")?;
        Ok(Self { child, control, answers })
    }

    /// Requests the begin or end of counting; [`Counter::has_answered`] returns whether it is done.
    pub fn ask(&mut self, begin: bool) -> Result<()> {
        let command = if begin { "enable\n" } else { "disable\n" };
        // A pipe accepts so few bytes at once. If perf has ended, the read of the count reports the
        // reason.
        self.control.write_all(command.as_bytes()).or_else(|_| bail!(self.complaint()))
    }

    /// Whether the last command was carried out; fails if perf has ended. Does not wait.
    pub fn has_answered(&mut self) -> Result<bool> {
        if !becomes_readable(&self.answers, Duration::ZERO) {
            return Ok(false);
        }
        let mut answer = [0; 64];
        match self.answers.read(&mut answer).context("cannot read what perf answers")? {
            0 => bail!(self.complaint()),
            read => Ok(answer[..read].contains(&b'\n')),
        }
    }

    /// Ends perf and reads the count.
    pub fn finish(mut self) -> Result<u64> {
        let said = self.end();
        parse(&said).with_context(|| format!("perf stat printed no count: {}", cause(&said)))
    }

    fn complaint(&mut self) -> String {
        format!("perf stat failed: {}", cause(&self.end()))
    }

    fn end(&mut self) -> String {
        end(&mut self.child, Signal::INT);
        let mut said = String::new();
        if let Some(errors) = &mut self.child.stderr {
            let _ = errors.read_to_string(&mut said);
        }
        said
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // It has ended already, unless the run was interrupted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line with the cause: perf prints it after `Error:`, or as the first line.
fn cause(text: &str) -> &str {
    let mut lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Events "));
    let named = lines.clone().find_map(|line| line.strip_prefix("Error:").map(str::trim));
    named.filter(|cause| !cause.is_empty()).or_else(|| lines.next()).unwrap_or("no reason given")
}

/// perf-stat(1), CSV FORMAT: counter value, unit, event, and more.
fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(EVENT))?;
    match line.split(',').next()?.trim() {
        // A process that slept all the time; perf has attached, or there would be no such line.
        "<not counted>" => Some(0),
        count => count.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_the_first_field_of_the_events_line() {
        let said = "Events disabled\nEvents enabled\nEvents disabled\n31415,,raw_syscalls:sys_enter,119688,100.00,,\n";
        assert_eq!(parse(said), Some(31_415));
        let asleep = "<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n";
        assert_eq!(parse(asleep), Some(0));
        assert_eq!(parse(&asleep.replace("counted", "supported")), None);
        assert_eq!(parse("Events disabled\n"), None);
    }

    #[test]
    fn a_failure_of_perf_is_reported_with_its_reason() {
        let forbidden =
            "event syntax error: 'x'\n   \\___ can't access\n\nError:\tNo permissions to read /sys/x\n";
        assert_eq!(cause(forbidden), "No permissions to read /sys/x");
        assert_eq!(
            cause("Events disabled\nProblems finding threads of monitor\n"),
            "Problems finding threads of monitor"
        );
        assert_eq!(cause(""), "no reason given");
    }
}
