//! The interest protocol: what shards tell each other about their subscriptions, and how far they have been heard.
//! Called by `Routes`; the batches travel on the control lanes, in order. Holds no subscription itself.

use super::GroupId;
use crate::id::ShardId;

/// One shard's changes since its last batch. One and the same batch goes to every other shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterestBatch {
    /// Number of the batch among those of its shard, from 1 on without gaps.
    pub seq: u64,
    /// What changed, in order.
    pub changes: Box<[Change]>,
}

/// One change of a shard's interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The shard has a plain subscriber to the literal filter with this fingerprint.
    AddLiteral(u64),
    /// It has none any more to any literal filter with this fingerprint.
    RemoveLiteral(u64),
    /// The shard has a plain subscriber to this wildcard filter.
    AddWildcard(Box<str>),
    /// It has none any more.
    RemoveWildcard(Box<str>),
    /// How many members of a shared subscription the shard has now.
    Group(GroupChange),
}

/// A shard's part in a shared subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange {
    /// The fingerprint of both names.
    pub id: GroupId,
    /// The group's name.
    pub group: Box<str>,
    /// The filter, without the `$share` prefix.
    pub filter: Box<str>,
    /// Members that are connected.
    pub connected: u32,
    /// All members, those of sessions without a connection included.
    pub total: u32,
}

/// Whether the other shards know what a subscription needs them to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every other shard has acknowledged it, or there is none: SUBACK need not wait.
    Acknowledged,
    /// It is on its way or will leave with the next batch: SUBACK waits for the sequence number beside this.
    Pending,
}

/// Changes that wait for the next batch, and the acknowledgements of those that have left.
pub(super) struct Outbox {
    pending: Vec<Change>,
    /// Number of the last batch taken.
    taken: u64,
    /// What each shard has acknowledged; the own shard and places beyond the last shard hold the maximum.
    acked: Box<[u64]>,
    /// The lowest of them.
    barrier: u64,
    /// What has been applied of each other shard's batches.
    applied: Box<[u64]>,
}

impl Outbox {
    pub(super) fn new(me: ShardId, shards: usize) -> Self {
        let mut acked = vec![0; shards].into_boxed_slice();
        if let Some(own) = acked.get_mut(me.index()) {
            *own = u64::MAX;
        }
        let barrier = acked.iter().copied().min().unwrap_or(u64::MAX);
        Outbox { pending: Vec::new(), taken: 0, acked, barrier, applied: vec![0; shards].into_boxed_slice() }
    }

    /// The number of the batch that the next change will be in.
    pub(super) fn next_seq(&self) -> u64 {
        self.taken + 1
    }

    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn push(&mut self, change: Change) {
        self.pending.push(change);
    }

    pub(super) fn take(&mut self) -> Option<InterestBatch> {
        if self.pending.is_empty() {
            return None;
        }
        self.taken += 1;
        let changes = std::mem::take(&mut self.pending).into_boxed_slice();
        Some(InterestBatch { seq: self.taken, changes })
    }

    /// Whether a batch is the next of its shard. One that was applied before is not; a gap cannot be, lanes lose nothing.
    pub(super) fn accept(&mut self, from: ShardId, seq: u64) -> bool {
        let Some(applied) = self.applied.get_mut(from.index()) else { return false };
        debug_assert!(seq <= *applied + 1, "interest batch {} of shard {from} got lost", *applied + 1);
        let fresh = seq > *applied;
        *applied = seq.max(*applied);
        fresh
    }

    pub(super) fn applied(&self, from: ShardId) -> u64 {
        self.applied.get(from.index()).copied().unwrap_or(0)
    }

    pub(super) fn acked(&mut self, from: ShardId, seq: u64) {
        debug_assert!(seq <= self.taken, "shard {from} acknowledged a batch that was never sent");
        let Some(acked) = self.acked.get_mut(from.index()) else { return };
        if *acked < seq.min(self.taken) {
            *acked = seq.min(self.taken);
            self.barrier = self.acked.iter().copied().min().unwrap_or(u64::MAX);
        }
    }

    pub(super) fn barrier(&self) -> u64 {
        self.barrier
    }

    /// What a SUBACK waits for that needs batch `seq` to have been heard.
    pub(super) fn wait_for(&self, seq: u64) -> (Interest, u64) {
        if seq <= self.barrier { (Interest::Acknowledged, 0) } else { (Interest::Pending, seq) }
    }
}
