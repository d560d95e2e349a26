//! Removes entries of [`Shares`] that exceed the limits, in slices: after a reload with lower
//! limits, or after a value that was larger than one call may remove.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::{EntryId, Shares};
use crate::sdk::leftovers::Leftovers;
use crate::sdk::weigh::tree_entry_bytes;

/// Bytes that an owner may use in this list.
pub(super) const BYTES_OF_OWNER: u64 = tree_entry_bytes(size_of::<Arc<str>>());

/// Owners that exceed their limits.
#[derive(Default, Debug)]
pub(super) struct Beyond {
    owners: BTreeSet<Arc<str>>,
    /// After a change of the limits: the last owner that was checked.
    looked_upto: Option<Bound<Arc<str>>>,
}

impl Beyond {
    /// Every owner may exceed the new limits.
    pub(super) fn look_at_all(&mut self) {
        self.looked_upto = Some(Bound::Unbounded);
    }

    pub(super) fn has_owners(&self) -> bool {
        !self.owners.is_empty()
    }

    pub(super) fn clear_into(self, left: &mut Leftovers) {
        left.add(self.owners);
    }
}

impl<V> Shares<V> {
    /// Removes entries that exceed the limits, in a slice of bounded time: at most `count` entries
    /// and checked owners. Removes the oldest entries of an owner that exceeds its limits, or the
    /// oldest of all if the total is exceeded. Calls `gone` with each entry and counts it as
    /// evicted. Returns whether more remains: call it again soon, from a timer.
    pub fn evict_beyond(&mut self, count: usize, mut gone: impl FnMut(EntryId, V)) -> bool {
        for _ in 0..count {
            let oldest = match self.beyond.owners.first().map(Arc::clone) {
                Some(owner) => {
                    // New limits may have been set since; the owner may no longer exceed them.
                    self.look_at_owner(&owner);
                    if !self.beyond.owners.contains(&owner) {
                        continue;
                    }
                    self.oldest_of(&owner)
                }
                None if self.beyond.looked_upto.is_some() => {
                    self.look_at_next();
                    continue;
                }
                None if self.is_total_beyond() => self.oldest(),
                None => return false,
            };
            let Some(id) = oldest else { return false };
            self.evict(id, &mut gone);
        }
        self.is_beyond()
    }

    /// Whether the limits may be exceeded. True after [`Shares::set_limits`] until all owners are
    /// checked.
    pub fn is_beyond(&self) -> bool {
        self.beyond.has_owners() || self.beyond.looked_upto.is_some() || self.is_total_beyond()
    }

    fn is_total_beyond(&self) -> bool {
        self.entries.len() as u64 > self.limits.entries_max || self.bytes > self.limits.bytes_max
    }

    /// Notes whether an owner exceeds its limits.
    pub(super) fn look_at_owner(&mut self, owner: &Arc<str>) {
        let (entries, bytes) = self.used_by(owner);
        if entries > 0 && self.limits.is_owner_beyond(entries, bytes) {
            self.work += 1;
            self.beyond.owners.insert(Arc::clone(owner));
        } else if self.beyond.owners.remove(owner) && self.beyond.owners.is_empty() {
            // An empty tree still has a node.
            self.beyond.owners = BTreeSet::new();
        }
    }

    fn look_at_next(&mut self) {
        let Some(from) = self.beyond.looked_upto.take() else { return };
        let next = self.owners.range::<Arc<str>, _>((from, Bound::Unbounded)).next();
        if let Some(name) = next.map(|(name, _)| Arc::clone(name)) {
            self.look_at_owner(&name);
            self.beyond.looked_upto = Some(Bound::Excluded(name));
        }
    }

    pub(super) fn evict(&mut self, id: EntryId, gone: &mut impl FnMut(EntryId, V)) {
        if let Some(value) = self.remove(id) {
            self.metrics.evicted();
            gone(id, value);
        }
    }
}
