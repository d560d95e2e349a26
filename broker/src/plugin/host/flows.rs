//! How many messages of the flows of a plugin are in flight. Used by `commands`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of messages in flight for each flow of a generation.
#[derive(Default)]
pub(super) struct Flows {
    pub(super) counts: HashMap<u32, Arc<AtomicU64>>,
    /// The number of flows at which those without messages in flight are removed.
    sweep_at: usize,
}

impl Flows {
    /// The counter of a flow. The table has at most 64 flows, or twice as many as had messages in
    /// flight at the last removal.
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
