//! Time as the engine sees it: an argument, never a clock it reads. The shell makes one [`Now`] per step.

/// The time of one step: monotonic for intervals, wall clock for what is stored and shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the process started; never goes back.
    pub mono_ms: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z; may jump.
    pub wall_ms: u64,
}

impl Now {
    /// Both clocks further on, for tests and simulations.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Now {
        Now { mono_ms: self.mono_ms + ms, wall_ms: self.wall_ms + ms }
    }
}
