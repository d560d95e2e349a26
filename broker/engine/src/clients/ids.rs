//! Which session a client identifier leads to. In many small maps, each of which grows and gives capacity back for itself: none of
//! them has so much to move that a client would notice. Asked at CONNECT and by the operator.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::SessionKey;

/// So many maps: a million identifiers are some sixteen thousand in each.
const MAPS: usize = 64;
/// A map keeps room for so many.
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

    // By bits that the maps themselves look at last.
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

    /// An identifier leads nowhere any more, if it led to this session.
    pub(super) fn remove(&mut self, client_id: &str, key: SessionKey) {
        let at = self.at(client_id);
        let map = &mut self.maps[at];
        if map.get(client_id) != Some(&key) {
            return;
        }
        map.remove(client_id);
        // A quarter, so that as many must come again before it grows.
        if map.capacity() > SPARE.max(4 * map.len()) {
            map.shrink_to(2 * map.len());
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

    /// No map has much more than its share, so that none has much to move.
    #[test]
    fn identifiers_are_spread_over_the_maps() {
        let mut ids = ClientIds::new(&ahash::RandomState::with_seeds(5, 6, 7, 8));
        (0..64_000).for_each(|index| ids.insert(format!("{index}").into(), key(index)));
        assert!(ids.maps.iter().all(|map| (800..1_200).contains(&map.len())));
    }
}
