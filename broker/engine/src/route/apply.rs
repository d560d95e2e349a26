//! Applies another shard's batch. `Routes::apply` calls it for each change in order. It notifies no
//! shard: only its own shard sends interest.

use super::{Change, GroupChange, MemberCount, Routes, SPARE};
use crate::id::ShardId;
use crate::shrink;

impl Routes {
    pub(super) fn apply_change(&mut self, from: ShardId, change: &Change) {
        match change {
            Change::AddLiteral(fingerprint) => {
                self.literal_interest.entry(*fingerprint).or_default().insert(from);
                self.cache.forget(*fingerprint);
            }
            Change::RemoveLiteral(fingerprint) => {
                let Some(shards) = self.literal_interest.get_mut(fingerprint) else { return };
                shards.remove(from);
                if shards.is_empty() {
                    self.literal_interest.remove(fingerprint);
                    shrink::map(&mut self.literal_interest, SPARE);
                }
                self.cache.forget(*fingerprint);
            }
            Change::AddWildcard(filter) => {
                let at = self.filters.obtain(filter);
                self.filters.get_mut(at).shards.insert(from);
                self.outdate(at);
            }
            Change::RemoveWildcard(filter) => {
                let Some(at) = self.filters.find(filter) else { return };
                self.filters.get_mut(at).shards.remove(from);
                self.outdate(at);
                self.filters.release(at);
            }
            Change::Group(change) => self.apply_group(from, change),
        }
    }

    fn apply_group(&mut self, from: ShardId, change: &GroupChange) {
        let count = MemberCount { connected: change.connected, total: change.total };
        let known = self.groups.find(change.id);
        let key = match known {
            None if count.total == 0 => return,
            None => self.obtain_group(change.id, &change.group, &change.filter),
            Some(key) => key,
        };
        if let Some(group) = self.groups.get_mut(key) {
            group.set_other(from, count);
            self.settle_group(key);
        }
    }
}
