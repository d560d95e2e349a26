//! Connections and sessions of all shards together, which have bounds of their own. Shards count here when one comes and when it
//! goes, never on the path of a packet.

use std::sync::atomic::{AtomicU64, Ordering};

/// What all shards of a process hold together.
#[derive(Debug, Default)]
pub struct Totals {
    connections: Count,
    sessions: Count,
}

impl Totals {
    pub(crate) fn connections(&self) -> &Count {
        &self.connections
    }

    pub(crate) fn sessions(&self) -> &Count {
        &self.sessions
    }
}

/// How many there are. Nothing else is read by it, so no order is needed.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Counts one more, if there are fewer than `max`.
    pub(crate) fn take(&self, max: u64) -> bool {
        let more = |count: u64| (count < max).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one less.
    pub(crate) fn give_back(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "what is given back was taken");
    }
}
