//! The order of requests: clients take turns, and each has a limited number of answers in progress,
//! as have all clients of one account together. Independent of the broker.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use grapnel_plugin_abi::{EntryId, tree_entry_bytes};

/// Bytes that a request uses here.
pub const BYTES_OF_EACH: u64 =
    2 * size_of::<EntryId>() as u64 + tree_entry_bytes(size_of::<(EntryId, u64)>());

/// Bytes that a client uses here, with an account of its own.
pub const BYTES_OF_CLIENT: u64 = tree_entry_bytes(size_of::<(Arc<str>, Client)>())
    + tree_entry_bytes(size_of::<(u64, Account)>())
    + tree_entry_bytes(size_of::<(u64, Arc<str>)>())
    + 2 * size_of::<Arc<str>>() as u64
    + 64;

#[derive(Debug, Default)]
struct Client {
    /// Its waiting requests, in order.
    waiting: VecDeque<EntryId>,
    in_progress: u64,
    /// Hash of the account of its first request; it stays until the client has no request.
    account: u64,
    place: Place,
}

/// Where a client waits for its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    #[default]
    Nowhere,
    /// In the queue.
    Queued,
    /// Among the blocked clients of its account, under this number.
    Blocked(u64),
}

#[derive(Debug, Default)]
struct Account {
    in_progress: u64,
    /// Clients whose turn came while the account was at its limit, in order.
    blocked: BTreeMap<u64, Arc<str>>,
}

/// Waiting requests, by client.
#[derive(Debug)]
pub struct Turns {
    each_max: u64,
    account_max: u64,
    clients: BTreeMap<Arc<str>, Client>,
    /// The accounts with answers in progress.
    accounts: BTreeMap<u64, Account>,
    /// Clients with a request that may be answered, in order.
    queue: VecDeque<Arc<str>>,
    /// The start of the wait of each request, in order of arrival.
    since_ms: BTreeMap<EntryId, u64>,
    last_blocked: u64,
    hasher: RandomState,
}

impl Turns {
    /// An order with this many answers of one client at a time, of `answers_max` in all. All clients
    /// of one account have at most three quarters of these, but never fewer than one client.
    pub fn new(each_max: u64, answers_max: u64) -> Turns {
        Turns {
            each_max,
            account_max: each_max.max(answers_max - answers_max / 4),
            clients: BTreeMap::new(),
            accounts: BTreeMap::new(),
            queue: VecDeque::new(),
            since_ms: BTreeMap::new(),
            last_blocked: 0,
            hasher: RandomState::new(),
        }
    }

    /// Adds a waiting request. A client without an account is charged by itself.
    pub fn push(&mut self, account: Option<&str>, client: &Arc<str>, request: EntryId, now_ms: u64) {
        self.since_ms.insert(request, now_ms);
        let hasher = &self.hasher;
        let known = self.clients.entry(Arc::clone(client)).or_insert_with(|| Client {
            account: hasher.hash_one((account.is_some(), account.unwrap_or(client))),
            ..Client::default()
        });
        known.waiting.push_back(request);
        self.settle(client);
    }

    /// The next request to answer; it is in progress from now on.
    pub fn next(&mut self) -> Option<EntryId> {
        loop {
            let client = self.queue.pop_front()?;
            let Some(known) = self.clients.get_mut(&client) else { continue };
            let account = self.accounts.entry(known.account).or_default();
            if account.in_progress >= self.account_max {
                self.last_blocked += 1;
                known.place = Place::Blocked(self.last_blocked);
                account.blocked.insert(self.last_blocked, client);
                continue;
            }
            known.place = Place::Nowhere;
            let request = known.waiting.pop_front();
            if let Some(request) = request {
                self.since_ms.remove(&request);
                known.in_progress += 1;
                account.in_progress += 1;
            }
            let account = known.account;
            // A client whose requests were all removed meanwhile is removed too.
            self.settle(&client);
            if request.is_some() {
                return request;
            }
            self.settle_account(account);
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
        let Some(known) = self.clients.get_mut(client) else { return };
        known.in_progress = known.in_progress.saturating_sub(1);
        let account = known.account;
        if let Some(account) = self.accounts.get_mut(&account) {
            account.in_progress = account.in_progress.saturating_sub(1);
        }
        self.settle(client);
        self.settle_account(account);
    }

    fn settle(&mut self, client: &Arc<str>) {
        let Some(known) = self.clients.get_mut(client) else { return };
        if known.waiting.is_empty()
            && let Place::Blocked(number) = known.place
        {
            known.place = Place::Nowhere;
            if let Some(account) = self.accounts.get_mut(&known.account) {
                account.blocked.remove(&number);
            }
        }
        if known.waiting.is_empty() && known.in_progress == 0 && known.place == Place::Nowhere {
            self.clients.remove(client);
            return;
        }
        if known.place == Place::Nowhere && !known.waiting.is_empty() && known.in_progress < self.each_max {
            known.place = Place::Queued;
            self.queue.push_back(Arc::clone(client));
        }
    }

    /// Queues one blocked client of an account that has room again, and removes an account without
    /// clients here.
    fn settle_account(&mut self, number: u64) {
        let Some(account) = self.accounts.get_mut(&number) else { return };
        if account.in_progress < self.account_max
            && let Some((_, client)) = account.blocked.pop_first()
            && let Some(known) = self.clients.get_mut(&client)
        {
            known.place = Place::Queued;
            self.queue.push_back(client);
        } else if account.in_progress == 0 && account.blocked.is_empty() {
            self.accounts.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_empty(turns: &Turns) {
        assert!(turns.clients.is_empty() && turns.accounts.is_empty() && turns.queue.is_empty());
        assert_eq!(turns.first(), None);
    }

    fn all(turns: &mut Turns) -> Vec<u64> {
        std::iter::from_fn(|| turns.next().map(|id| id.0)).collect()
    }

    #[test]
    fn the_clients_of_one_account_leave_answers_for_others() {
        let mut turns = Turns::new(2, 8);
        let clients: Vec<Arc<str>> = (0..10).map(|n| format!("c{n}").into()).collect();
        for (n, client) in (0..).zip(&clients) {
            turns.push(Some("user ann"), client, EntryId(n), n);
            turns.push(Some("user ann"), client, EntryId(100 + n), 100 + n);
        }
        assert_eq!(all(&mut turns), [0, 1, 2, 3, 4, 5], "three quarters of eight");
        let other: Arc<str> = "o".into();
        turns.push(Some("user eve"), &other, EntryId(50), 50);
        assert_eq!(all(&mut turns), [50]);
        // A blocked client whose requests are removed is forgotten, and blocks no other.
        turns.remove(&clients[6], EntryId(6));
        turns.remove(&clients[6], EntryId(106));
        assert!(!turns.clients.contains_key(&clients[6]));
        turns.ended(&clients[0]);
        assert_eq!(all(&mut turns), [7]);
        // All of the others are answered, one for each answer that ends.
        let mut in_progress = VecDeque::from([1, 2, 3, 4, 5, 7]);
        let mut answered = 0;
        while let Some(id) = in_progress.pop_front() {
            turns.ended(&clients[id as usize % 100]);
            let next = all(&mut turns);
            answered += next.len();
            assert!(next.len() <= 1, "{next:?}");
            in_progress.extend(next);
        }
        assert_eq!(answered, 11);
        turns.ended(&other);
        assert_empty(&turns);
    }

    /// A limit that allows one answer, or fewer than a client may have, is never zero.
    #[test]
    fn an_account_has_the_limits_of_one_client() {
        for answers_max in [1, 2, 3] {
            let mut turns = Turns::new(2, answers_max);
            let client: Arc<str> = "c".into();
            for n in 0..3 {
                turns.push(Some("user ann"), &client, EntryId(n), n);
            }
            assert_eq!(all(&mut turns).len(), 2);
        }
    }

    #[test]
    fn clients_take_turns_and_none_has_more_than_its_share() {
        let mut turns = Turns::new(2, 8);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for number in 0..5 {
            turns.push(None, &a, EntryId(number), number);
        }
        turns.push(None, &b, EntryId(10), 10);
        turns.push(None, &b, EntryId(11), 11);
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
        assert_empty(&turns);
    }

    #[test]
    fn requests_that_wait_too_long_are_removed() {
        let mut turns = Turns::new(1, 8);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for (client, number) in [(&a, 1), (&a, 2), (&b, 3)] {
            turns.push(None, client, EntryId(number), 10 * number);
        }
        assert_eq!((turns.next(), turns.first()), (Some(EntryId(1)), Some((EntryId(2), 20))));
        turns.remove(&a, EntryId(2));
        assert_eq!(turns.first(), Some((EntryId(3), 30)));
        turns.remove(&b, EntryId(3));
        assert_eq!((turns.next(), turns.first()), (None, None));
        turns.ended(&a);
        assert_empty(&turns);
    }
}
