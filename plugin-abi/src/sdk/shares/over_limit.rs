//! Removes entries of [`Shares`] that exceed the limits, in slices: after a reload with lower
//! limits, or after a value that was larger than one call may remove.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::{EntryId, Shares};
use crate::sdk::drop_queue::DropQueue;
use crate::sdk::weigh::tree_entry_bytes;

/// Bytes that an owner may use in this list.
pub(super) const BYTES_OF_OWNER: u64 = tree_entry_bytes(size_of::<Arc<str>>());

/// Owners that exceed their limits.
#[derive(Default, Debug)]
pub(super) struct OverLimit {
    owners: BTreeSet<Arc<str>>,
    /// After a change of the limits: the last owner that was checked.
    checked_up_to: Option<Bound<Arc<str>>>,
}

impl OverLimit {
    /// Every owner may exceed the new limits.
    pub(super) fn check_all_owners(&mut self) {
        self.checked_up_to = Some(Bound::Unbounded);
    }

    pub(super) fn has_owners(&self) -> bool {
        !self.owners.is_empty()
    }

    pub(super) fn clear_into(self, left: &mut DropQueue) {
        left.add(self.owners);
    }
}

impl<V> Shares<V> {
    /// Removes entries that exceed the limits, in a slice of bounded time: at most `count` entries
    /// and checked owners. Removes the oldest entries of an owner that exceeds its limits, or the
    /// oldest of all if the total is exceeded. Calls `gone` with each entry and counts it as
    /// evicted. Returns whether more remains: call it again soon, from a timer.
    pub fn evict_over_limit(&mut self, count: usize, mut gone: impl FnMut(EntryId, V)) -> bool {
        for _ in 0..count {
            let oldest = match self.over_limit.owners.first().map(Arc::clone) {
                Some(owner) => {
                    // New limits may have been set since; the owner may no longer exceed them.
                    self.check_owner(&owner);
                    if !self.over_limit.owners.contains(&owner) {
                        continue;
                    }
                    self.oldest_of(&owner)
                }
                None if self.over_limit.checked_up_to.is_some() => {
                    self.check_next_owner();
                    continue;
                }
                None if self.is_total_over_limit() => self.oldest(),
                None => return false,
            };
            let Some(id) = oldest else { return false };
            self.evict(id, &mut gone);
        }
        self.is_over_limit()
    }

    /// Whether the limits may be exceeded. True after [`Shares::set_limits`] until all owners are
    /// checked.
    pub fn is_over_limit(&self) -> bool {
        self.over_limit.has_owners() || self.over_limit.checked_up_to.is_some() || self.is_total_over_limit()
    }

    fn is_total_over_limit(&self) -> bool {
        self.entries.len() as u64 > self.limits.entries_max || self.bytes > self.limits.bytes_max
    }

    /// Notes whether an owner exceeds its limits.
    pub(super) fn check_owner(&mut self, owner: &Arc<str>) {
        let (entries, bytes) = self.used_by(owner);
        if entries > 0 && self.limits.is_owner_over_limit(entries, bytes) {
            self.work += 1;
            self.over_limit.owners.insert(Arc::clone(owner));
        } else if self.over_limit.owners.remove(owner) && self.over_limit.owners.is_empty() {
            // An empty tree still has a node.
            self.over_limit.owners = BTreeSet::new();
        }
    }

    fn check_next_owner(&mut self) {
        let Some(from) = self.over_limit.checked_up_to.take() else { return };
        let next = self.owners.range::<Arc<str>, _>((from, Bound::Unbounded)).next();
        if let Some(name) = next.map(|(name, _)| Arc::clone(name)) {
            self.check_owner(&name);
            self.over_limit.checked_up_to = Some(Bound::Excluded(name));
        }
    }

    pub(super) fn evict(&mut self, id: EntryId, gone: &mut impl FnMut(EntryId, V)) {
        if let Some(value) = self.remove(id) {
            self.metrics.evicted();
            gone(id, value);
        }
    }
}
