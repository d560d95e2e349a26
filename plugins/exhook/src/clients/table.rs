//! A bounded table of connections that a worker has been told of: for one more, the one described first makes room.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::DescribedClient;

/// See the module.
#[derive(Debug)]
pub(super) struct Table<K> {
    described: HashMap<K, DescribedClient>,
    /// By their numbers, which is the order in which they were described first.
    order: BTreeMap<u64, K>,
    max: usize,
}

impl<K: Hash + Eq + Clone> Table<K> {
    /// Empty, with room for so many, at least one.
    pub(super) fn new(max: usize) -> Table<K> {
        Table { described: HashMap::new(), order: BTreeMap::new(), max: max.max(1) }
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&DescribedClient>
    where
        K: Borrow<Q>,
    {
        self.described.get(key)
    }

    pub(super) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut DescribedClient>
    where
        K: Borrow<Q>,
    {
        self.described.get_mut(key)
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<DescribedClient>
    where
        K: Borrow<Q>,
    {
        let known = self.described.remove(key)?;
        self.order.remove(&known.number);
        Some(known)
    }

    /// Puts one in, under a key that is free. Gives the one that had to make room.
    pub(super) fn insert(&mut self, key: K, known: DescribedClient) -> Option<(K, DescribedClient)> {
        let first = if self.described.len() < self.max { None } else { self.order.pop_first() };
        let gone = first.and_then(|(_, key)| self.described.remove_entry(&key));
        self.order.insert(known.number, key.clone());
        self.described.insert(key, known);
        gone
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.described.len(), self.order.len());
        self.described.len()
    }
}
