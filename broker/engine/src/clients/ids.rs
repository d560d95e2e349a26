//! The session of each client identifier. Many small maps grow and shrink separately, so that no
//! single rehash takes long enough for a client to notice. Used at CONNECT and by the operator.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::SessionKey;
use crate::shrink;

/// Number of maps: with a million identifiers each has about sixteen thousand.
const MAPS: usize = 64;
/// Minimum capacity of a map.
const SPARE: usize = 32;

type Map = HashMap<Arc<str>, SessionKey, ahash::RandomState>;

#[derive(Debug)]
pub(super) struct ClientIds {
    hasher: ahash::RandomState,
    maps: Box<[Map]>,
}

impl ClientIds {
    pub(super) fn new(hasher: &ahash::RandomState) -> ClientIds {
        let map = || HashMap::with_hasher(hasher.clone());
        ClientIds { hasher: hasher.clone(), maps: std::iter::repeat_with(map).take(MAPS).collect() }
    }

    // Uses bits of the hash that the maps themselves use last.
    fn at(&self, client_id: &str) -> usize {
        (self.hasher.hash_one(client_id) >> 40) as usize % MAPS
    }

    pub(super) fn get(&self, client_id: &str) -> Option<SessionKey> {
        self.maps[self.at(client_id)].get(client_id).copied()
    }

    pub(super) fn insert(&mut self, client_id: Arc<str>, key: SessionKey) {
        let at = self.at(&client_id);
        self.maps[at].insert(client_id, key);
    }

    /// Removes an identifier, if it leads to this session.
    pub(super) fn remove(&mut self, client_id: &str, key: SessionKey) {
        let at = self.at(client_id);
        let map = &mut self.maps[at];
        match map.remove_entry(client_id) {
            Some((client_id, other)) if other != key => {
                // It leads to a later session.
                map.insert(client_id, other);
            }
            _ => shrink::map(map, SPARE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> SessionKey {
        SessionKey { index, generation: 1 }
    }

    #[test]
    fn an_identifier_leads_to_its_last_session_and_a_storm_leaves_nothing() {
        let mut ids = ClientIds::new(&ahash::RandomState::with_seeds(1, 2, 3, 4));
        let name = |index: u32| format!("client-{index}");
        (0..10_000).for_each(|index| ids.insert(name(index).into(), key(index)));
        assert!((0..10_000).all(|index| ids.get(&name(index)) == Some(key(index))));
        ids.insert(name(7).into(), key(70_000));
        ids.remove(&name(7), key(7));
        assert_eq!(ids.get(&name(7)), Some(key(70_000)), "the session before has ended late");
        (0..10_000).for_each(|index| ids.remove(&name(index), key(index)));
        ids.remove(&name(7), key(70_000));
        let left: usize = ids.maps.iter().map(HashMap::capacity).sum();
        assert!(left <= MAPS * SPARE, "room for {left}");
        assert_eq!(ids.get(&name(8)), None);
    }

    /// No map has much more than its share, so that no rehash is long.
    #[test]
    fn identifiers_are_spread_over_the_maps() {
        let mut ids = ClientIds::new(&ahash::RandomState::with_seeds(5, 6, 7, 8));
        (0..64_000).for_each(|index| ids.insert(format!("{index}").into(), key(index)));
        assert!(ids.maps.iter().all(|map| (800..1_200).contains(&map.len())));
    }
}
