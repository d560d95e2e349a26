//! Subscriptions by filter, and for each published topic the list of its subscribers. Owned by
//! `relay`. A list is made when its topic is first seen, and found by one hash lookup after that;
//! any change of subscriptions clears all lists.

use super::group::{Grant, Group};
use super::wire::{self, Malformed};
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};

/// Memory for topics and their lists; when it is used up, all are cleared and made again as needed.
const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Maximum number of subscriptions of all clients together.
const SUBSCRIPTIONS_MAX: usize = 4_000_000;

type Filters = HashMap<Box<[u8]>, BTreeMap<u32, Grant>>;

/// All subscriptions.
#[derive(Debug)]
pub struct Routes {
    exact: Filters,
    wild: Filters,
    subscriptions: usize,
    /// Contains only valid topics, so that a topic found here need not be checked again.
    cache: HashMap<Box<[u8]>, Vec<Group>, RandomState>,
    cache_bytes: usize,
}

impl Routes {
    /// Without subscriptions.
    pub fn new() -> Self {
        Self {
            exact: Filters::new(),
            wild: Filters::new(),
            subscriptions: 0,
            cache: HashMap::default(),
            cache_bytes: 0,
        }
    }

    /// The subscribers of `topic`; `None` if they have not been computed yet.
    #[inline]
    pub fn find(&self, topic: &[u8]) -> Option<&[Group]> {
        self.cache.get(topic).map(Vec::as_slice)
    }

    /// Computes the subscribers of `topic`. Fails for an invalid topic name.
    #[cold]
    #[inline(never)]
    pub fn learn(&mut self, topic: &[u8]) -> Result<(), Malformed> {
        if !wire::is_topic(topic) {
            return Err(wire::Malformed("PUBLISH to something that is no topic"));
        }
        let wild = self.wild.iter().filter(|(filter, _)| wire::matches(filter, topic)).map(|(_, to)| to);
        let mut merged: BTreeMap<u32, Grant> = BTreeMap::new();
        for (to, grant) in self.exact.get(topic).into_iter().chain(wild).flatten() {
            merged
                .entry(*to)
                .and_modify(|held| {
                    // One copy for each client, with the highest QoS of its subscriptions (section
                    // 3.3.4).
                    held.qos = held.qos.max(grant.qos);
                    held.no_local &= grant.no_local;
                })
                .or_insert(*grant);
        }
        let mut groups: Vec<Group> = Vec::new();
        let bytes = topic.len() + 8 * merged.len() + 4 * size_of::<Vec<Group>>();
        for (to, grant) in merged {
            match groups.iter_mut().find(|group| group.grant == grant) {
                Some(group) => group.to.push(to),
                None => groups.push(Group::new(grant, vec![to])),
            }
        }
        if self.cache_bytes + bytes > CACHE_BYTES_MAX {
            self.forget();
        }
        self.cache_bytes += bytes;
        self.cache.insert(topic.into(), groups);
        Ok(())
    }

    /// Adds or changes a subscription. Returns whether it is new, or `None` at the maximum number.
    pub fn subscribe(&mut self, filter: &[u8], to: u32, grant: Grant) -> Option<bool> {
        if self.subscriptions >= SUBSCRIPTIONS_MAX {
            return None;
        }
        self.forget();
        let filters = if is_wild(filter) { &mut self.wild } else { &mut self.exact };
        let subscribers = match filters.get_mut(filter) {
            Some(subscribers) => subscribers,
            None => filters.entry(filter.into()).or_default(),
        };
        let is_new = subscribers.insert(to, grant).is_none();
        self.subscriptions += usize::from(is_new);
        Some(is_new)
    }

    /// Ends a subscription. Returns whether it existed.
    pub fn unsubscribe(&mut self, filter: &[u8], to: u32) -> bool {
        let filters = if is_wild(filter) { &mut self.wild } else { &mut self.exact };
        let Some(subscribers) = filters.get_mut(filter) else { return false };
        let was_there = subscribers.remove(&to).is_some();
        if subscribers.is_empty() {
            filters.remove(filter);
        }
        if was_there {
            self.subscriptions -= 1;
            self.forget();
        }
        was_there
    }

    fn forget(&mut self) {
        self.cache.clear();
        self.cache_bytes = 0;
    }
}

fn is_wild(filter: &[u8]) -> bool {
    filter.iter().any(|byte| matches!(byte, b'+' | b'#'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GRANT: Grant = Grant { v5: false, qos: 0, packet_bytes_max: u32::MAX, no_local: false };

    /// Connection and QoS of every subscriber of `topic`.
    fn found(routes: &mut Routes, topic: &str) -> Vec<(u32, u8)> {
        if routes.find(topic.as_bytes()).is_none() {
            routes.learn(topic.as_bytes()).unwrap();
        }
        let groups = routes.find(topic.as_bytes()).unwrap();
        groups.iter().flat_map(|group| group.to.iter().map(|to| (*to, group.grant.qos))).collect()
    }

    #[test]
    fn a_change_of_subscriptions_applies_to_cached_topics() {
        let mut routes = Routes::new();
        assert_eq!(found(&mut routes, "a/b"), []);
        assert_eq!(routes.subscribe(b"a/b", 1, GRANT), Some(true));
        assert_eq!(found(&mut routes, "a/b"), [(1, 0)]);
        assert_eq!(routes.subscribe(b"a/+", 2, GRANT), Some(true));
        assert_eq!(found(&mut routes, "a/b"), [(1, 0), (2, 0)]);
        assert_eq!(routes.subscribe(b"a/+", 2, Grant { qos: 1, ..GRANT }), Some(false));
        assert_eq!(found(&mut routes, "a/b"), [(1, 0), (2, 1)]);
        assert!(routes.unsubscribe(b"a/b", 1));
        assert!(!routes.unsubscribe(b"a/b", 1));
        assert_eq!(found(&mut routes, "a/b"), [(2, 1)]);
        assert!(routes.unsubscribe(b"a/+", 2));
        assert_eq!(found(&mut routes, "a/b"), []);
        assert_eq!((routes.subscriptions, routes.wild.len(), routes.exact.len()), (0, 0, 0));
    }

    #[test]
    fn overlapping_filters_of_one_client_deliver_one_copy_with_the_highest_qos() {
        let mut routes = Routes::new();
        for (filter, qos) in [("a/#", 2), ("a/+", 0), ("a/b", 1)] {
            routes.subscribe(filter.as_bytes(), 7, Grant { qos, ..GRANT });
        }
        assert_eq!(found(&mut routes, "a/b"), [(7, 2)]);
        assert_eq!(found(&mut routes, "a/c"), [(7, 2)]);
    }

    #[test]
    fn an_invalid_topic_is_never_cached() {
        let mut routes = Routes::new();
        for bad in [&b""[..], b"a/+", b"#", b"a\0", b"\xFF"] {
            assert!(routes.find(bad).is_none() && routes.learn(bad).is_err(), "{bad:?}");
            assert!(routes.find(bad).is_none(), "{bad:?} the second time");
        }
        assert_eq!(routes.cache.len(), 0);
    }

    #[test]
    fn the_cache_is_limited() {
        let mut routes = Routes::new();
        let topic = |number: u32| format!("{number:060000}").into_bytes();
        for number in 0..2_000 {
            routes.learn(&topic(number)).unwrap();
            assert!(routes.cache_bytes <= CACHE_BYTES_MAX);
        }
        assert!(routes.cache.len() < 2_000);
    }
}
