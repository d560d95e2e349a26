//! A bounded table of the connections that a worker knows. A new one evicts the one that was
//! described first.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::DescribedClient;

/// See the module.
#[derive(Debug)]
pub(super) struct Table<K> {
    described: HashMap<K, DescribedClient>,
    /// By number, which is the order of their first descriptions.
    order: BTreeMap<u64, K>,
    max: usize,
}

impl<K: Hash + Eq + Clone> Table<K> {
    /// An empty table for at most `max` connections, at least one.
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

    /// Inserts one under a free key. Returns the one that was evicted.
    pub(super) fn insert(&mut self, key: K, known: DescribedClient) -> Option<(K, DescribedClient)> {
        let first = if self.described.len() < self.max { None } else { self.order.pop_first() };
        let removed = first.and_then(|(_, key)| self.described.remove_entry(&key));
        self.order.insert(known.number, key.clone());
        self.described.insert(key, known);
        removed
    }

    /// Number of connections.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.described.len(), self.order.len());
        self.described.len()
    }
}
