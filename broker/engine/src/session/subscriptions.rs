//! The subscriptions of a session by their full filter, with the bytes that they are charged for.
//! All changes go through this type, so that the count is right. Reads go to the map.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};

use super::Subscription;
use crate::topic;

/// Ordered, so that it can be processed in slices.
type Map = BTreeMap<Box<str>, Subscription>;

/// What a subscription is charged for beside its filter, in the session and in the shard's tries.
const SUBSCRIPTION_BYTES: usize = 128;

/// Subscriptions by full filter.
#[derive(Debug, Default)]
pub struct Subscriptions {
    map: Map,
    bytes: usize,
}

/// What a level of a filter with wildcards is charged for: a node of the trie.
const LEVEL_BYTES: usize = 56;

/// Bytes that one is charged for: its filter is stored in the session and in a trie.
fn charge(filter: &str) -> usize {
    let levels = if topic::has_wildcard(filter) { topic::levels(filter).count() } else { 0 };
    SUBSCRIPTION_BYTES + 2 * filter.len() + LEVEL_BYTES * levels
}

impl Subscriptions {
    /// Inserts one; returns the earlier one with the same filter.
    pub fn insert(&mut self, filter: Box<str>, subscription: Subscription) -> Option<Subscription> {
        let bytes = charge(&filter);
        let before = self.map.insert(filter, subscription);
        if before.is_none() {
            self.bytes += bytes;
        }
        before
    }

    /// One of them, to change.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut Subscription> {
        self.map.get_mut(filter)
    }

    /// Takes one out.
    pub fn remove(&mut self, filter: &str) -> Option<Subscription> {
        let gone = self.map.remove(filter)?;
        self.bytes -= charge(filter);
        Some(gone)
    }

    /// Takes the first one out.
    pub fn pop_first(&mut self) -> Option<(Box<str>, Subscription)> {
        let (filter, gone) = self.map.pop_first()?;
        self.bytes -= charge(&filter);
        Some((filter, gone))
    }

    /// Full filters of the shared subscriptions in order, after this one.
    pub(crate) fn shared_after(&self, filter: Option<&str>) -> impl Iterator<Item = &str> {
        let from = filter.map_or(Bound::Included(topic::SHARE_PREFIX), Bound::Excluded);
        let rest = self.map.range::<str, _>((from, Bound::Unbounded)).map(|(filter, _)| &**filter);
        rest.take_while(|filter| filter.starts_with(topic::SHARE_PREFIX))
    }

    /// Bytes that they are charged for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Recomputes `bytes`.
    pub fn recount(&self) -> usize {
        self.map.keys().map(|filter| charge(filter)).sum()
    }
}

impl Deref for Subscriptions {
    type Target = Map;

    fn deref(&self) -> &Map {
        &self.map
    }
}
