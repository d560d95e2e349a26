//! A timer that wakes the loop's epoll with microsecond accuracy; epoll itself counts in
//! milliseconds.

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::{AsRawFd, OwnedFd};

/// Appears as an event without a connection.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    pub fn new(registry: &Registry) -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("cannot create a timer")?;
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), Token(usize::MAX), Interest::READABLE)
            .context("cannot wait for a timer")?;
        Ok(Self(timer))
    }

    /// Sets it again.
    pub fn ring_in(&self, ns: u64) -> Result<()> {
        let second = 1_000_000_000;
        // Zero would disable it.
        let ns = i64::try_from(ns.max(1)).unwrap_or(i64::MAX);
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: ns / second, tv_nsec: ns % second },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).context("cannot set a timer")?;
        Ok(())
    }
}
