//! Calls that the broker waits for, in order of time: those in the queue, and those that a process
//! has.

use std::collections::btree_map::{BTreeMap, IntoValues};
use std::collections::{HashMap, hash_map};
use std::time::Instant;

use crate::shrink;
use crate::verdict::Ticket;

/// A call that the broker waits for.
#[derive(Debug)]
pub struct PendingCall<T = Ticket> {
    /// The suspended event.
    pub ticket: T,
    /// Since when it waits.
    pub since: Instant,
    /// The number of the client that it is about.
    pub client: u64,
}

/// Calls that are waited for, by call number, which is the order of time.
#[derive(Debug)]
pub struct PendingCalls<T = Ticket> {
    all: BTreeMap<u64, PendingCall<T>>,
    /// Number of calls about each client.
    of_client: HashMap<u64, usize>,
}

impl<T> Default for PendingCalls<T> {
    fn default() -> PendingCalls<T> {
        PendingCalls { all: BTreeMap::new(), of_client: HashMap::new() }
    }
}

impl<T> PendingCalls<T> {
    /// Empty.
    pub fn new() -> PendingCalls<T> {
        PendingCalls::default()
    }

    /// Adds a call. Returns the one that had this number before.
    pub fn insert(&mut self, id: u64, pending: PendingCall<T>) -> Option<PendingCall<T>> {
        *self.of_client.entry(pending.client).or_default() += 1;
        let before = self.all.insert(id, pending);
        if let Some(before) = &before {
            self.count_off(before.client);
        }
        before
    }

    /// Takes out a call.
    pub fn remove(&mut self, id: u64) -> Option<PendingCall<T>> {
        let pending = self.all.remove(&id)?;
        self.count_off(pending.client);
        Some(pending)
    }

    fn count_off(&mut self, client: u64) {
        if let hash_map::Entry::Occupied(mut count) = self.of_client.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        shrink::table(&mut self.of_client, shrink::TABLE_MIN);
    }

    /// The oldest call.
    pub fn first(&self) -> Option<&PendingCall<T>> {
        self.all.first_key_value().map(|(_, first)| first)
    }

    /// Takes out the oldest call if it has waited since `before` or longer.
    pub fn pop_overdue(&mut self, before: Instant) -> Option<PendingCall<T>> {
        let (id, _) = self.all.first_key_value().filter(|(_, first)| first.since <= before)?;
        self.remove(*id)
    }

    /// Adds the calls of `others`.
    pub fn extend(&mut self, others: PendingCalls<T>) {
        others.all.into_iter().for_each(|(id, pending)| drop(self.insert(id, pending)));
    }

    /// Whether any call is about this client.
    pub fn is_about(&self, client: u64) -> bool {
        self.of_client.contains_key(&client)
    }

    /// Whether there is no call.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Number of calls.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        assert_eq!(self.of_client.values().sum::<usize>(), self.all.len());
        self.all.len()
    }

    /// All tickets, in order of time.
    pub fn into_values(self) -> IntoValues<u64, PendingCall<T>> {
        self.all.into_values()
    }
}
