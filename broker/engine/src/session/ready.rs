//! What of a session may go on.

/// What of a session may go on; while something may, the session stands in the run queue once.
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
