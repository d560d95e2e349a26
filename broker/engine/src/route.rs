//! Routing of one shard: which sessions here and which other shards have subscriptions for a topic,
//! and the retained messages that it owns.
//!
//! The flows call it. It delivers nothing, uses sessions only as keys, runs no hook, reads no clock
//! and draws no random number.
//!
//! The order of calls: `subscribe*`, `unsubscribe*` and `set_connected` as clients act. Once a turn
//! [`Routes::take_changes`], whose batch goes to every other shard, and [`Routes::sweep`].
//! [`Routes::apply`] for each batch that arrives; its sender passes the returned number to
//! [`Routes::acked`]. [`Routes::matches`] for each message.

mod apply;
mod cache;
mod filters;
mod group;
mod hash;
mod interest;
mod matched;
pub mod retained;
mod set;
mod shared;
mod subscriber_set;
mod trie;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;

pub use cache::CacheStats;
pub use group::{GroupId, GroupRef, MemberCount};
pub use interest::{Change, GroupChange, Interest, InterestBatch};
pub use matched::{Matched, MatchedSub, MatchedSubs, Target};
pub use set::FilterSet;

use crate::id::{SessionKey, ShardId, ShardSet};
use cache::TopicCache;
use filters::{Filters, is_wildcard};
use group::Groups;
use hash::{HashedMap, Hashes};
use interest::Outbox;
use subscriber_set::Subscriber;

/// Entries that a table of routing may have capacity for, whatever its size.
const SPARE: usize = 1024;

/// The options of a subscription (MQTT 5.0 section 3.8.3.1) that are used at delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubOptions {
    /// Maximum QoS, 0 to 2.
    pub qos: u8,
    /// Whether the client's own messages are excluded.
    pub no_local: bool,
    /// Whether the RETAIN flag stays as published.
    pub retain_as_published: bool,
    /// Subscription identifier, 1 to 268,435,455; 0 = none.
    pub subscription_id: u32,
}

/// Limits of one shard's routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLimits {
    /// Maximum number of topics in the cache. 0 = no cache.
    pub topic_cache_entries_max: usize,
    /// Maximum bytes of the cache. A topic that needs more than a quarter is not cached.
    pub topic_cache_bytes_max: usize,
    /// Maximum number of subscriptions of this shard's sessions, plain and shared; see
    /// [`Routes::is_full`].
    pub shard_subscriptions_max: usize,
    /// Maximum number of filters without subscriber before the sweep; beyond it, unsubscribing
    /// sweeps.
    pub idle_filters_max: usize,
}

impl Default for RouteLimits {
    fn default() -> Self {
        RouteLimits {
            topic_cache_entries_max: 65_536,
            topic_cache_bytes_max: 32 << 20,
            shard_subscriptions_max: 4_000_000,
            idle_filters_max: 65_536,
        }
    }
}

/// The result of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Whether it is new; otherwise its options were replaced [MQTT-3.8.4-3].
    pub is_new: bool,
    /// Whether the other shards have acknowledged the interest.
    pub interest: Interest,
    /// SUBACK waits until [`Routes::barrier`] has reached this number; 0 = no wait.
    pub barrier_seq: u64,
    /// Number of the filter while the session has the subscription: see [`MatchedSub::filter`].
    pub filter: u32,
}

/// Counts of one shard's routing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteStats {
    /// Subscriptions of this shard's sessions, plain and shared.
    pub subscriptions: usize,
    /// Filters stored, with those of other shards' wildcards and of groups.
    pub filters: usize,
    /// Nodes of the trie of wildcard filters.
    pub trie_nodes: usize,
    /// Literal filters with subscribers on other shards.
    pub literal_interest: usize,
    /// Shared subscriptions stored.
    pub groups: usize,
    /// Filters that wait for the sweep.
    pub idle_filters: usize,
    /// The topic cache.
    pub cache: CacheStats,
}

/// The routing of one shard.
pub struct Routes {
    me: ShardId,
    shards: usize,
    limits: RouteLimits,
    hashes: Hashes,
    filters: Filters,
    groups: Groups,
    /// Fingerprint of a literal filter → the other shards with plain subscribers.
    literal_interest: HashedMap<u64, ShardSet>,
    outbox: Outbox,
    /// Groups whose counts are sent in the next batch.
    dirty_groups: Vec<GroupRef>,
    /// Filters without a subscriber whose removal was not sent yet, oldest first.
    idle: VecDeque<u32>,
    subscriptions: usize,
    cache: TopicCache,
    /// Numbers of the matching filters during a cache miss.
    found: Vec<u32>,
    nothing: Rc<Matched>,
}

impl Routes {
    /// An empty set of filters, for work on one session.
    pub fn filter_set(&self) -> FilterSet {
        FilterSet::new(&self.hashes)
    }

    /// The routing of shard `me` of `shards` (1 to 64). All shards of a process get the same secret
    /// seeds.
    pub fn new(me: ShardId, shards: usize, seeds: [u64; 4], limits: RouteLimits) -> Self {
        Routes::with_hashes(me, shards, Hashes::new(seeds), limits)
    }

    fn with_hashes(me: ShardId, shards: usize, hashes: Hashes, limits: RouteLimits) -> Self {
        debug_assert!(me.index() < shards && shards <= crate::id::SHARDS_MAX);
        Routes {
            me,
            shards,
            limits,
            filters: Filters::new(&hashes),
            groups: Groups::default(),
            literal_interest: HashedMap::default(),
            outbox: Outbox::new(me, shards),
            dirty_groups: Vec::new(),
            idle: VecDeque::new(),
            subscriptions: 0,
            cache: TopicCache::new(&hashes, limits.topic_cache_entries_max, limits.topic_cache_bytes_max),
            found: Vec::new(),
            nothing: Rc::default(),
            hashes,
        }
    }

    /// Replaces the limits, except those of the topic cache. Subscriptions stay, also if they are
    /// more than that.
    pub fn set_limits(&mut self, limits: RouteLimits) {
        self.limits = limits;
    }

    // --- subscriptions of this shard

    /// Whether `shard_subscriptions_max` is reached. The caller then refuses a new subscription
    /// with 0x97. A replacement of options is still allowed.
    pub fn is_full(&self) -> bool {
        self.subscriptions >= self.limits.shard_subscriptions_max
    }

    /// Subscribes a session to a valid filter, or replaces the options of its subscription
    /// [MQTT-3.8.4-3].
    pub fn subscribe(&mut self, filter: &str, session: SessionKey, options: SubOptions) -> Subscribed {
        let at = self.filters.obtain(filter);
        let is_new = self.filters.get_mut(at).subscribers.insert(Subscriber { session, options });
        self.subscriptions += usize::from(is_new);
        self.outdate(at);
        if self.filters.get(at).announced_seq == 0 && self.shards > 1 {
            self.filters.get_mut(at).announced_seq = self.outbox.next_seq();
            let change = match is_wildcard(filter) {
                true => Change::AddWildcard(filter.into()),
                false => Change::AddLiteral(self.hashes.fingerprint(filter)),
            };
            self.outbox.push(change);
        }
        let (interest, barrier_seq) = self.outbox.wait_for(self.filters.get(at).announced_seq);
        Subscribed { is_new, interest, barrier_seq, filter: at }
    }

    /// Ends a session's subscription; returns whether there was one [MQTT-3.10.4-1].
    ///
    /// [`Routes::sweep`] notifies the other shards, unless there is a new subscriber by then.
    pub fn unsubscribe(&mut self, filter: &str, session: SessionKey) -> bool {
        let Some(at) = self.filters.find(filter) else { return false };
        if !self.filters.get_mut(at).subscribers.remove(session) {
            return false;
        }
        self.subscriptions -= 1;
        self.outdate(at);
        let filter = self.filters.get_mut(at);
        if filter.subscribers.is_empty() && filter.announced_seq != 0 && !filter.idle {
            filter.idle = true;
            self.idle.push_back(at);
            if self.idle.len() > self.limits.idle_filters_max {
                self.sweep(2);
            }
        } else {
            self.filters.release(at);
        }
        true
    }

    /// Number of a stored plain filter, as in [`Subscribed::filter`].
    pub fn filter_number(&self, filter: &str) -> Option<u32> {
        self.filters.find(filter)
    }

    // --- interest of the other shards

    /// Whether there are changes that were not sent to the other shards.
    #[inline]
    pub fn has_changes(&self) -> bool {
        !self.dirty_groups.is_empty() || self.outbox.has_pending()
    }

    /// The changes since the last call as one batch for all other shards; `None` if there are none.
    pub fn take_changes(&mut self) -> Option<InterestBatch> {
        for key in std::mem::take(&mut self.dirty_groups) {
            let Some(group) = self.groups.get_mut(key) else { continue };
            group.dirty = false;
            let count = group.local();
            if count.total == 0 {
                group.announced_seq = 0;
            }
            self.outbox.push(Change::Group(GroupChange {
                id: group.id,
                group: group.name.clone(),
                filter: self.filters.get(group.filter).name.clone(),
                connected: count.connected,
                total: count.total,
            }));
            self.settle_group(key);
        }
        self.outbox.take()
    }

    /// Applies another shard's batch; returns the sequence number to acknowledge. A batch that was
    /// applied before has no effect.
    pub fn apply(&mut self, from: ShardId, batch: &InterestBatch) -> u64 {
        debug_assert!(from != self.me);
        if from != self.me && self.outbox.accept(from, batch.seq) {
            for change in &batch.changes {
                self.apply_change(from, change);
            }
        }
        self.outbox.applied(from)
    }

    /// Records that a shard has applied all batches up to `seq`.
    pub fn acked(&mut self, from: ShardId, seq: u64) {
        self.outbox.acked(from, seq);
    }

    /// The lowest sequence number that all others have acknowledged; `u64::MAX` on a single shard.
    pub fn barrier(&self) -> u64 {
        self.outbox.barrier()
    }

    /// Checks up to `budget` filters that have lost their last subscriber. Removals of those that
    /// still have none are sent in the next batch.
    pub fn sweep(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(at) = self.idle.pop_front() else { return };
            let filter = self.filters.get_mut(at);
            filter.idle = false;
            if !filter.subscribers.is_empty() {
                continue;
            }
            filter.announced_seq = 0;
            if filter.is_wildcard() {
                self.outbox.push(Change::RemoveWildcard(filter.name.clone()));
            } else {
                let fingerprint = self.hashes.fingerprint(&filter.name);
                if !self.filters.is_fingerprint_announced(fingerprint, at) {
                    self.outbox.push(Change::RemoveLiteral(fingerprint));
                }
            }
            self.filters.release(at);
        }
    }

    // --- matching

    /// Everything that matches a valid topic name. A repeated topic costs one look-up and no
    /// allocation.
    pub fn matches(&mut self, topic: &str) -> Rc<Matched> {
        let fingerprint = self.hashes.fingerprint(topic);
        if let Some(matched) = self.cache.get(fingerprint, topic) {
            return matched;
        }
        self.found.clear();
        self.filters.matches(fingerprint, topic, &mut self.found);
        let shards = self.literal_interest.get(&fingerprint).copied().unwrap_or_default();
        let mut matched = Rc::new(matched::gather(&self.filters, &self.found, shards));
        if matched.is_empty() {
            matched = Rc::clone(&self.nothing);
        }
        self.cache.put(fingerprint, topic, &matched);
        matched
    }

    /// Whether a session has a plain subscription with this number that matches the topic.
    pub fn is_subscribed(&self, session: SessionKey, filter: u32, topic: &str) -> bool {
        self.filters.get_live(filter).is_some_and(|filter| {
            filter.subscribers.has(session) && crate::topic::matches(&filter.name, topic)
        })
    }

    /// The matches for a message from another shard: as [`Routes::matches`], but the caller ignores
    /// `shards` and all groups that the envelope does not name.
    pub fn matches_local(&mut self, topic: &str) -> Rc<Matched> {
        self.matches(topic)
    }

    // --- the rest

    /// The shard that owns the topic's retained message and its publishes from outside the shards.
    pub fn owner_of(&self, topic: &str) -> ShardId {
        hash::shard_of(self.hashes.fingerprint(topic), self.shards)
    }

    /// Counts for metrics and for the detection of leaks.
    pub fn stats(&self) -> RouteStats {
        RouteStats {
            subscriptions: self.subscriptions,
            filters: self.filters.len(),
            trie_nodes: self.filters.trie_nodes(),
            literal_interest: self.literal_interest.len(),
            groups: self.groups.len(),
            idle_filters: self.idle.len(),
            cache: self.cache.stats(),
        }
    }

    /// Invalidates the cache for the topics that this filter matches.
    fn outdate(&mut self, at: u32) {
        let filter = self.filters.get(at);
        if filter.is_wildcard() {
            self.cache.outdate(&filter.name);
        } else {
            self.cache.forget(self.hashes.fingerprint(&filter.name));
        }
    }
}
