//! Connections and sessions of all shards together, which have their own limits. Shards update them
//! when one is added or removed, never for a packet.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals of all shards of a process.
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

/// A count. No other data depends on it, so relaxed ordering is enough.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds one, if the count is below `max`.
    pub(crate) fn take(&self, max: u64) -> bool {
        let more = |count: u64| (count < max).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Subtracts one.
    pub(crate) fn give_back(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "what is given back was taken");
    }
}
