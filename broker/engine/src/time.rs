//! Time in the engine: an argument, because the engine reads no clock. The shell makes one [`Now`]
//! for each step.

/// The time of one step: monotonic for intervals, wall clock for stored and displayed times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the process started; never goes back.
    pub mono_ms: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z; may jump.
    pub wall_ms: u64,
}

impl Now {
    /// Both clocks moved forward, for tests and simulations.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Now {
        Now { mono_ms: self.mono_ms + ms, wall_ms: self.wall_ms + ms }
    }
}
