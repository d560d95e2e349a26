//! Counts the system calls of the broker with perf_event_open(2), in a window of its own: counting
//! slows each call down, so the CPU time is never measured at the same time.

use super::usage::process;
use anyhow::{Context, Result};
use perf_event::Builder;
use perf_event::events::Tracepoint;
use rustix::io::Errno;
use std::fs;

/// The number of the tracepoint that every system call passes.
const EVENT: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";

/// Counts the system calls of every thread of a process, and of threads and processes that these
/// start.
pub struct Counter(Vec<perf_event::Counter>);

impl Counter {
    /// Counts from now on.
    pub fn begin(pid: u32) -> Result<Self> {
        let number = fs::read_to_string(EVENT).with_context(|| {
            format!(
                "perf events need {EVENT}; be root, and mount it: mount -t tracefs none /sys/kernel/tracing"
            )
        })?;
        let event = Tracepoint::with_id(number.trim().parse().context("a tracepoint without a number")?);
        let mut counters = Vec::new();
        for thread in process(pid).and_then(|process| process.tasks())?.flatten() {
            let mut builder = Builder::new(event);
            builder.observe_pid(thread.tid).any_cpu().include_kernel().inherit(true);
            match builder.build() {
                // The thread has ended since it was listed.
                Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
                built => counters.push(built.context("perf_event_open was refused; it needs root")?),
            }
        }
        counters.iter_mut().try_for_each(perf_event::Counter::enable).context("perf cannot count")?;
        Ok(Self(counters))
    }

    /// The number of calls since the begin.
    pub fn count(mut self) -> Result<u64> {
        let counts = self.0.iter_mut().map(perf_event::Counter::read);
        counts.sum::<std::io::Result<u64>>().context("cannot read a perf counter")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn calls_of_every_thread_are_counted() {
        let pid = std::process::id();
        // Where perf is forbidden, the reason is what a report shows.
        let counter = match Counter::begin(pid) {
            Ok(counter) => counter,
            Err(error) => return assert!(format!("{error:#}").contains("perf"), "{error:#}"),
        };
        let calls = || (0..1000).for_each(|_| drop(fs::metadata("/")));
        calls();
        std::thread::spawn(calls).join().unwrap();
        assert!(counter.count().unwrap() >= 2000);
        assert!(Counter::begin(u32::MAX).is_err(), "there is no such process");
    }
}
