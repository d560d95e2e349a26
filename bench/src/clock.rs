//! Time for the poll loop: a monotonic clock, and its wall time for the stamps in payloads. Read
//! once per turn or per read, never per message.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time since the start of the run, linked to wall time once, at the start.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    wall_at_start_ns: u64,
}

impl Clock {
    /// A clock that starts at zero.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), wall_at_start_ns: nanos(wall) }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// Nanoseconds since 1970 at `now_ns`. Comparable between processes of one machine, and between
    /// machines as far as their clocks agree.
    pub fn wall_ns(&self, now_ns: u64) -> u64 {
        self.wall_at_start_ns + now_ns
    }
}

/// A duration in nanoseconds, up to 584 years.
pub fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
