//! The interest protocol: the notifications between shards about their subscriptions, and their
//! acknowledgements. `Routes` calls it; the batches are sent on the control lanes, in order. It
//! stores no subscription.

use super::GroupId;
use crate::id::ShardId;

/// One shard's changes since its last batch. The same batch goes to every other shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterestBatch {
    /// Number of the batch on its shard, from 1 without gaps.
    pub seq: u64,
    /// What changed, in order.
    pub changes: Box<[Change]>,
}

/// One change of a shard's interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The shard has a plain subscriber to the literal filter with this fingerprint.
    AddLiteral(u64),
    /// The shard has no more plain subscriber to any literal filter with this fingerprint.
    RemoveLiteral(u64),
    /// The shard has a plain subscriber to this wildcard filter.
    AddWildcard(Box<str>),
    /// The shard has no more plain subscriber to this wildcard filter.
    RemoveWildcard(Box<str>),
    /// The member count of a shared subscription on the shard.
    Group(GroupChange),
}

/// A shard's members of a shared subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange {
    /// The fingerprint of group name and filter.
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

/// Whether the other shards have acknowledged the interest that a subscription needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every other shard has acknowledged it, or there is none: SUBACK need not wait.
    Acknowledged,
    /// It is sent, or in the next batch: SUBACK waits for the sequence number beside this.
    Pending,
}

/// Changes for the next batch, and the acknowledgements of earlier batches.
pub(super) struct Outbox {
    pending: Vec<Change>,
    /// Number of the last batch taken.
    taken: u64,
    /// The number that each shard has acknowledged; the maximum for the own shard and unused
    /// indexes.
    acked: Box<[u64]>,
    /// The lowest of `acked`.
    barrier: u64,
    /// The last applied batch of each other shard.
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

    /// Whether a batch is the next of its shard. False for one that was applied before. There are
    /// no gaps, because lanes lose nothing.
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

    /// What a SUBACK waits for, if it needs the acknowledgement of batch `seq`.
    pub(super) fn wait_for(&self, seq: u64) -> (Interest, u64) {
        if seq <= self.barrier { (Interest::Acknowledged, 0) } else { (Interest::Pending, seq) }
    }
}
