//! The order of requests: clients take turns, and each has a limited number of answers in progress.
//! Independent of the broker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use grapnel_plugin_abi::{EntryId, tree_entry_bytes};

/// Bytes that a request uses here.
pub const BYTES_OF_EACH: u64 =
    2 * size_of::<EntryId>() as u64 + tree_entry_bytes(size_of::<(EntryId, u64)>());

/// Bytes that a client uses here.
pub const BYTES_OF_CLIENT: u64 =
    tree_entry_bytes(size_of::<(Arc<str>, Client)>()) + 2 * size_of::<Arc<str>>() as u64 + 64;

#[derive(Debug, Default)]
struct Client {
    /// Its waiting requests, in order.
    waiting: VecDeque<EntryId>,
    in_progress: u64,
    /// Whether it is in `queue`.
    is_queued: bool,
}

/// Waiting requests, by client.
#[derive(Debug)]
pub struct Turns {
    each_max: u64,
    clients: BTreeMap<Arc<str>, Client>,
    /// Clients with a request that may be answered, in order.
    queue: VecDeque<Arc<str>>,
    /// The start of the wait of each request, in order of arrival.
    since_ms: BTreeMap<EntryId, u64>,
}

impl Turns {
    /// An order with this many answers of one client at a time.
    pub fn new(each_max: u64) -> Turns {
        Turns { each_max, clients: BTreeMap::new(), queue: VecDeque::new(), since_ms: BTreeMap::new() }
    }

    /// Adds a waiting request.
    pub fn push(&mut self, client: &Arc<str>, request: EntryId, now_ms: u64) {
        self.since_ms.insert(request, now_ms);
        self.clients.entry(Arc::clone(client)).or_default().waiting.push_back(request);
        self.settle(client);
    }

    /// The next request to answer; it is in progress from now on.
    pub fn next(&mut self) -> Option<EntryId> {
        loop {
            let client = self.queue.pop_front()?;
            let Some(known) = self.clients.get_mut(&client) else { continue };
            known.is_queued = false;
            let request = known.waiting.pop_front();
            if let Some(request) = request {
                self.since_ms.remove(&request);
                known.in_progress += 1;
            }
            // A client whose requests were all removed meanwhile is removed too.
            self.settle(&client);
            if request.is_some() {
                return request;
            }
        }
    }

    /// The request that has waited longest, and the start of its wait.
    pub fn first(&self) -> Option<(EntryId, u64)> {
        self.since_ms.first_key_value().map(|(request, since_ms)| (*request, *since_ms))
    }

    /// Removes a waiting request.
    pub fn remove(&mut self, client: &Arc<str>, request: EntryId) {
        self.since_ms.remove(&request);
        if let Some(known) = self.clients.get_mut(client)
            && let Ok(at) = known.waiting.binary_search(&request)
        {
            known.waiting.remove(at);
        }
        self.settle(client);
    }

    /// An answer of a client has ended.
    pub fn ended(&mut self, client: &Arc<str>) {
        if let Some(known) = self.clients.get_mut(client) {
            known.in_progress = known.in_progress.saturating_sub(1);
        }
        self.settle(client);
    }

    fn settle(&mut self, client: &Arc<str>) {
        let Some(known) = self.clients.get_mut(client) else { return };
        if known.waiting.is_empty() && known.in_progress == 0 && !known.is_queued {
            self.clients.remove(client);
            return;
        }
        if !known.is_queued && !known.waiting.is_empty() && known.in_progress < self.each_max {
            known.is_queued = true;
            self.queue.push_back(Arc::clone(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_and_none_has_more_than_its_share() {
        let mut turns = Turns::new(2);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for number in 0..5 {
            turns.push(&a, EntryId(number), number);
        }
        turns.push(&b, EntryId(10), 10);
        turns.push(&b, EntryId(11), 11);
        let next = |turns: &mut Turns| std::iter::from_fn(|| turns.next().map(|id| id.0)).collect::<Vec<_>>();
        assert_eq!(next(&mut turns), [0, 10, 1, 11]);
        turns.ended(&a);
        assert_eq!(next(&mut turns), [2]);
        turns.ended(&b);
        turns.ended(&b);
        assert_eq!((next(&mut turns), turns.clients.len()), (vec![], 1));
        for _ in 0..3 {
            turns.ended(&a);
        }
        assert_eq!(next(&mut turns), [3, 4]);
        turns.ended(&a);
        turns.ended(&a);
        assert!(turns.clients.is_empty() && turns.queue.is_empty());
    }

    #[test]
    fn requests_that_wait_too_long_are_removed() {
        let mut turns = Turns::new(1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for (client, number) in [(&a, 1), (&a, 2), (&b, 3)] {
            turns.push(client, EntryId(number), 10 * number);
        }
        assert_eq!((turns.next(), turns.first()), (Some(EntryId(1)), Some((EntryId(2), 20))));
        turns.remove(&a, EntryId(2));
        assert_eq!(turns.first(), Some((EntryId(3), 30)));
        turns.remove(&b, EntryId(3));
        assert_eq!((turns.next(), turns.first()), (None, None));
        turns.ended(&a);
        assert!(turns.clients.is_empty() && turns.queue.is_empty());
    }
}
