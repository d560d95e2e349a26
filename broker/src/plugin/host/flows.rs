//! How many messages of the flows of a plugin are in flight. Used by `commands`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many messages of each flow of a generation are in flight.
#[derive(Default)]
pub(super) struct Flows {
    pub(super) counts: HashMap<u32, Arc<AtomicU64>>,
    /// At how many flows those that hold nothing are taken out again.
    sweep_at: usize,
}

impl Flows {
    /// The count of a flow. There are at most twice as many as hold something, and some.
    pub(super) fn count(&mut self, flow: u32) -> &Arc<AtomicU64> {
        if self.counts.len() >= self.sweep_at.max(64) {
            self.counts.retain(|_, count| count.load(Ordering::Relaxed) > 0);
            self.counts.shrink_to(2 * self.counts.len());
            self.sweep_at = 2 * self.counts.len();
        }
        self.counts.entry(flow).or_default()
    }

    pub(super) fn in_flight(&self, flow: u32) -> u64 {
        self.counts.get(&flow).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
