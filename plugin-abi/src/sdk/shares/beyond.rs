//! Entries of [`Shares`] beyond its limits, which are removed in slices: after a reload with lower
//! limits, or after one value that was larger than what may be removed at once.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::{EntryId, Shares};
use crate::sdk::leftovers::Leftovers;
use crate::sdk::weigh::tree_entry_bytes;

/// Bytes that an owner may take in here.
pub(super) const BYTES_OF_OWNER: u64 = tree_entry_bytes(size_of::<Arc<str>>());

/// Owners that hold more than their share.
#[derive(Default, Debug)]
pub(super) struct Beyond {
    owners: BTreeSet<Arc<str>>,
    /// After other limits were set: the owner behind which nobody has been looked at yet.
    looked_upto: Option<Bound<Arc<str>>>,
}

impl Beyond {
    /// Every owner may hold more than its share.
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
    /// Lets go of what is beyond the limits, in steps that together take a bounded time: at most as many entries as that, owners that
    /// are looked at counted too. Of an owner that holds more than its share its oldest go, and where all hold too much the oldest of
    /// all. `gone` is called with each. Whether there is more to do: call it again soon, from a timer. Each is counted as evicted.
    pub fn evict_beyond(&mut self, count: usize, mut gone: impl FnMut(EntryId, V)) -> bool {
        for _ in 0..count {
            let oldest = match self.beyond.owners.first().map(Arc::clone) {
                Some(owner) => {
                    // It may be within other limits that were set since.
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

    /// Whether more is held than the limits allow, as far as is known: after [`Shares::set_limits`] it may be.
    pub fn is_beyond(&self) -> bool {
        self.beyond.has_owners() || self.beyond.looked_upto.is_some() || self.is_total_beyond()
    }

    fn is_total_beyond(&self) -> bool {
        self.entries.len() as u64 > self.limits.entries_max || self.bytes > self.limits.bytes_max
    }

    /// Notes whether an owner holds more than its share.
    pub(super) fn look_at_owner(&mut self, owner: &Arc<str>) {
        let (entries, bytes) = self.used_by(owner);
        if entries > 0 && self.limits.is_owner_beyond(entries, bytes) {
            self.work += 1;
            self.beyond.owners.insert(Arc::clone(owner));
        } else if self.beyond.owners.remove(owner) && self.beyond.owners.is_empty() {
            // An empty tree keeps a node.
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
