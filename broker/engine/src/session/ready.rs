//! The parts of a session that can continue.

/// The parts of a session that can continue. While one is set, the session is in the run queue
/// once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Received packets that wait in its slots.
    pub slots: bool,
    /// Messages that wait to be sent to its client.
    pub queue: bool,
}

impl Ready {
    pub(crate) fn is_queued(self) -> bool {
        self.slots || self.queue
    }
}
