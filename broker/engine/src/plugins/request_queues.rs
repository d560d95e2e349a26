//! The queues of requests of plugins on behalf of clients: one for each plugin and client, in the
//! slots of a session without a client. This module stores the session, the amount that waits and
//! the open pages of retained messages, and checks whether there is room for more.
//! `flow/on_behalf.rs` opens and closes the queues.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::id::SessionKey;
use crate::limits::Limits;
use crate::session::identity::Identity;
use crate::shrink;

/// One client may use this fraction of the free room: so some room stays free for clients with
/// small needs.
const SHARE: usize = 8;
/// Minimum capacity of the map of a plugin.
const SPARE: usize = 32;

/// All request queues of a shard.
#[derive(Debug, Default)]
pub(crate) struct RequestQueues {
    plugins: HashMap<u64, PluginQueues>,
    hasher: RandomState,
}

/// The client of a queue, and a keyed hash of its account: a user may have many client identifiers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOwner<'a> {
    pub(crate) client_id: &'a Arc<str>,
    account: u64,
}

/// The queues of a plugin, by client identifier.
#[derive(Debug, Default)]
struct PluginQueues {
    queues: HashMap<Arc<str>, RequestQueue>,
    /// The sums over the queues of each account.
    accounts: HashMap<u64, Sums>,
    /// The sums over all of them.
    sums: Sums,
}

#[derive(Debug, Default)]
struct RequestQueue {
    /// The session in whose slots the requests wait; `None` if only pages are open.
    session: Option<SessionKey>,
    /// The account of the first request; the queue has one as long as it is open.
    account: u64,
    sums: Sums,
}

/// What a plugin has requested on behalf of one client, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    waiting: Waiting,
    /// Open pages.
    pages: usize,
    /// Their maximum bytes.
    pages_bytes: usize,
}

impl Sums {
    fn bytes(&self) -> usize {
        self.waiting.bytes + self.pages_bytes
    }

    fn is_empty(&self) -> bool {
        self.waiting.requests == 0 && self.pages == 0
    }

    /// Adds the difference between two sums of a queue.
    fn follow(&mut self, before: Sums, now: Sums) {
        let sums = [
            (&mut self.waiting.requests, before.waiting.requests, now.waiting.requests),
            (&mut self.waiting.bytes, before.waiting.bytes, now.waiting.bytes),
            (&mut self.pages, before.pages, now.pages),
            (&mut self.pages_bytes, before.pages_bytes, now.pages_bytes),
        ];
        for (sum, before, now) in sums {
            *sum = *sum - before + now;
        }
    }
}

/// What a plugin has requested for all clients, for those of one account, and for one of them.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    all: Sums,
    account: Sums,
    own: Sums,
}

/// What waits in one queue, or in all queues of a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

impl RequestQueues {
    /// The session with the queue of a client, if there is one. `plugin` is the number of the
    /// plugin's name.
    pub(crate) fn session(&self, plugin: u64, client_id: &str) -> Option<SessionKey> {
        self.plugins.get(&plugin)?.queues.get(client_id)?.session
    }

    /// The sessions with the queues of a client, for all plugins.
    pub(crate) fn sessions_of(&self, client_id: &str) -> impl Iterator<Item = SessionKey> {
        self.plugins.values().filter_map(move |known| known.queues.get(client_id)?.session)
    }

    /// The queue of a client, for an identity of it.
    pub(crate) fn owner_of<'a>(&self, identity: &'a Identity) -> RequestOwner<'a> {
        RequestOwner { client_id: &identity.client_id, account: self.hasher.hash_one(identity.account()) }
    }

    fn used(&self, plugin: u64, owner: RequestOwner<'_>) -> Used {
        let Some(known) = self.plugins.get(&plugin) else { return Used::default() };
        let queue = known.queues.get(owner.client_id);
        let account = queue.map_or(owner.account, |queue| queue.account);
        Used {
            all: known.sums,
            account: known.accounts.get(&account).copied().unwrap_or_default(),
            own: queue.map(|queue| queue.sums).unwrap_or_default(),
        }
    }

    /// Number of open requests and pages of a plugin.
    pub(crate) fn under_way(&self, plugin: u64) -> usize {
        self.plugins.get(&plugin).map_or(0, |known| known.sums.waiting.requests + known.sums.pages)
    }

    /// Whether there is room for a request of this many bytes.
    pub(crate) fn has_room(
        &self,
        plugin: u64,
        owner: RequestOwner<'_>,
        bytes: usize,
        limits: &Limits,
    ) -> bool {
        let used = self.used(plugin, owner);
        let requests = free(limits.behalf_requests_max, used.all.waiting.requests);
        requests > 0
            && (used.own.waiting.requests as u64) < limits.behalf_client_requests_max
            && used.own.waiting.requests < (requests / SHARE).max(1)
            && used.account.waiting.requests < of_account(limits.behalf_client_requests_max, requests)
            && has_room_for_bytes(used, bytes, limits)
    }

    /// Whether there is room for a page of up to this many bytes.
    pub(crate) fn has_room_for_page(
        &self,
        plugin: u64,
        owner: RequestOwner<'_>,
        bytes: usize,
        limits: &Limits,
    ) -> bool {
        let used = self.used(plugin, owner);
        let pages = free(limits.behalf_pages_max, used.all.pages);
        pages > 0
            && (used.own.pages as u64) < limits.behalf_client_pages_max
            && used.account.pages < of_account(limits.behalf_client_pages_max, pages)
            && has_room_for_bytes(used, bytes, limits)
    }

    /// Whether an open page, which is counted already, may grow to this many bytes.
    pub(crate) fn has_room_for_grown_page(
        &self,
        plugin: u64,
        owner: RequestOwner<'_>,
        bytes: usize,
        limits: &Limits,
    ) -> bool {
        let mut used = self.used(plugin, owner);
        for sums in [&mut used.all, &mut used.account, &mut used.own] {
            sums.pages -= 1;
            sums.pages_bytes -= bytes;
        }
        has_room_for_bytes(used, bytes, limits)
    }

    /// Requests for a client wait in the slots of this session from now on. The slots are empty.
    pub(crate) fn open(&mut self, plugin: u64, owner: RequestOwner<'_>, session: SessionKey) {
        self.queue(plugin, owner).session = Some(session);
    }

    /// The queue of a client, which is made if there is none.
    fn queue(&mut self, plugin: u64, owner: RequestOwner<'_>) -> &mut RequestQueue {
        let queues = &mut self.plugins.entry(plugin).or_default().queues;
        let new = RequestQueue { session: None, account: owner.account, sums: Sums::default() };
        queues.entry(Arc::clone(owner.client_id)).or_insert(new)
    }

    /// Sets the amount that waits in a queue.
    pub(crate) fn count(&mut self, plugin: u64, client_id: &str, now: Waiting) {
        self.change(plugin, client_id, |sums| sums.waiting = now);
    }

    /// Closes a queue: its slots are empty and its session is gone.
    pub(crate) fn close(&mut self, plugin: u64, client_id: &str) {
        let queue = self.plugins.get_mut(&plugin).and_then(|known| known.queues.get_mut(client_id));
        if let Some(queue) = queue {
            queue.session = None;
        }
        self.count(plugin, client_id, Waiting::default());
        self.forget_if_empty(plugin, client_id);
    }

    /// Adds an open page of up to this many bytes.
    pub(crate) fn begin_page(&mut self, plugin: u64, owner: RequestOwner<'_>, bytes: usize) {
        self.queue(plugin, owner);
        self.change(plugin, owner.client_id, |sums| {
            sums.pages += 1;
            sums.pages_bytes += bytes;
        });
    }

    /// Changes the bytes of an open page.
    pub(crate) fn count_page(&mut self, plugin: u64, client_id: &str, before: usize, now: usize) {
        if before != now {
            self.change(plugin, client_id, |sums| sums.pages_bytes = sums.pages_bytes - before + now);
        }
    }

    /// Removes an open page of up to this many bytes.
    pub(crate) fn end_page(&mut self, plugin: u64, client_id: &str, bytes: usize) {
        self.change(plugin, client_id, |sums| {
            sums.pages -= 1;
            sums.pages_bytes -= bytes;
        });
        self.forget_if_empty(plugin, client_id);
    }

    fn change(&mut self, plugin: u64, client_id: &str, change: impl FnOnce(&mut Sums)) {
        let Some(known) = self.plugins.get_mut(&plugin) else { return };
        let Some(queue) = known.queues.get_mut(client_id) else { return };
        let before = queue.sums;
        change(&mut queue.sums);
        known.sums.follow(before, queue.sums);
        let account = known.accounts.entry(queue.account).or_default();
        account.follow(before, queue.sums);
        if account.is_empty() {
            known.accounts.remove(&queue.account);
            shrink::map(&mut known.accounts, SPARE);
        }
    }

    fn forget_if_empty(&mut self, plugin: u64, client_id: &str) {
        let Some(known) = self.plugins.get_mut(&plugin) else { return };
        if !known.queues.get(client_id).is_some_and(|queue| queue.session.is_none() && queue.sums.is_empty())
        {
            return;
        }
        known.queues.remove(client_id);
        if known.queues.is_empty() {
            self.plugins.remove(&plugin);
            self.plugins.shrink_to(SPARE);
        } else {
            shrink::map(&mut known.queues, SPARE);
        }
    }
}

/// Maximum bytes of a page: the limit of one client while nothing else is stored, so that one page
/// cannot use all the room.
pub(crate) fn page_bytes_max(limits: &Limits) -> u64 {
    limits
        .behalf_page_bytes_max
        .min(limits.behalf_client_bytes_max)
        .min(limits.behalf_bytes_max / SHARE as u64)
}

fn free(max: u64, taken: usize) -> usize {
    usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(taken)
}

/// What all clients of an account may have together: as much as one client, or as much as is free,
/// whichever is more. So a plugin has room for others however many client identifiers a user has.
fn of_account(client_max: u64, room: usize) -> usize {
    usize::try_from(client_max).unwrap_or(usize::MAX).max(room)
}

/// Whether this many more bytes may be stored for a client, beside those of all clients, of its
/// account and of this client.
fn has_room_for_bytes(Used { all, account, own }: Used, bytes: usize, limits: &Limits) -> bool {
    let then = own.bytes().saturating_add(bytes);
    let room = free(limits.behalf_bytes_max, all.bytes());
    let fits = then as u64 <= limits.behalf_client_bytes_max
        && then <= room / SHARE
        && account.bytes().saturating_add(bytes) <= of_account(limits.behalf_client_bytes_max, room);
    // A request of any size is allowed if the client has no other one and half of the room is free;
    // otherwise it would be refused for ever.
    let passes = own.is_empty() && all.bytes() as u64 <= limits.behalf_bytes_max / 2;
    fits || passes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> SessionKey {
        SessionKey { index, generation: 1 }
    }

    /// A client with an account of its own, or with the account before a `:`.
    fn of(name: &'static str) -> RequestOwner<'static> {
        let client_id: &'static Arc<str> = Box::leak(Box::new(name.into()));
        owner(client_id)
    }

    fn owner(client_id: &Arc<str>) -> RequestOwner<'_> {
        let account = client_id.split_once(':').map_or(&**client_id, |(account, _)| account);
        RequestOwner { client_id, account: account.bytes().fold(7, |hash, byte| hash * 31 + u64::from(byte)) }
    }

    fn limits(requests: u64, bytes: u64) -> Limits {
        Limits { behalf_requests_max: requests, behalf_bytes_max: bytes, ..Limits::default() }
    }

    fn wait(queues: &mut RequestQueues, client_id: &str, requests: usize, bytes: usize) {
        if queues.session(1, client_id).is_none() {
            queues.open(1, owner(&client_id.into()), key(7));
        }
        queues.count(1, client_id, Waiting { requests, bytes });
    }

    /// Adds requests of this many bytes for a client until there is no room; returns their number.
    fn fill(queues: &mut RequestQueues, client_id: &str, bytes: usize, limits: &Limits) -> usize {
        let mut requests = 0;
        while queues.has_room(1, owner(&client_id.into()), bytes, limits) {
            requests += 1;
            wait(queues, client_id, requests, requests * bytes);
        }
        requests
    }

    #[test]
    fn a_client_with_few_requests_has_room_beside_clients_with_many() {
        let limits = limits(1_024, 1 << 20);
        let mut queues = RequestQueues::default();
        assert_eq!(fill(&mut queues, "first", 1, &limits), 113, "an eighth of what it leaves free");
        let others: Vec<usize> =
            (0..40).map(|number| fill(&mut queues, &format!("greedy {number}"), 1, &limits)).collect();
        assert!(others.is_sorted_by(|a, b| a >= b), "who comes later finds less: {others:?}");
        assert!(queues.has_room(1, of("modest"), 1, &limits));
        // Another plugin has its own room.
        assert!(queues.has_room(2, of("first"), 1, &limits));
    }

    #[test]
    fn bytes_are_shared_like_requests() {
        let limits = limits(1 << 20, 1 << 20);
        let mut queues = RequestQueues::default();
        for number in 0..30 {
            fill(&mut queues, &format!("greedy {number}"), 4_096, &limits);
        }
        assert!(queues.has_room(1, of("modest"), 512, &limits));
        assert!(!queues.has_room(1, of("modest"), 1 << 20, &limits), "no client takes all that is left");
    }

    #[test]
    fn the_bounds_of_a_client_and_of_a_plugin_hold() {
        let client =
            Limits { behalf_client_requests_max: 2, behalf_client_bytes_max: 100, ..limits(1_000, 1 << 20) };
        let mut queues = RequestQueues::default();
        assert_eq!(fill(&mut queues, "c", 50, &client), 2);
        assert!(queues.has_room(1, of("other"), 101, &client), "alone it passes, whatever its size");
        wait(&mut queues, "other", 1, 51);
        assert!(
            queues.has_room(1, of("other"), 49, &client) && !queues.has_room(1, of("other"), 50, &client)
        );
        // A large one takes all that is left; the next waits until it is gone.
        let least = limits(1, 65_536);
        let mut queues = RequestQueues::default();
        assert!(queues.has_room(1, of("c"), 1 << 30, &least));
        wait(&mut queues, "c", 1, 1 << 30);
        assert!(!queues.has_room(1, of("other"), 1, &least));
        queues.close(1, "c");
        assert!(queues.has_room(1, of("other"), 1 << 30, &least));
        // One for each client, and no more.
        let plugin = limits(3, 1 << 20);
        let mut queues = RequestQueues::default();
        let filled: Vec<usize> =
            ["a", "b", "c", "d"].map(|client_id| fill(&mut queues, client_id, 1, &plugin)).into();
        assert_eq!(filled, [1, 1, 1, 0]);
        queues.close(1, "b");
        assert!(queues.has_room(1, of("d"), 1, &plugin));
    }

    /// However many clients an account has, others find room for as much.
    #[test]
    fn an_account_with_many_clients_leaves_room_for_others() {
        let limits = Limits { behalf_client_requests_max: 4, ..limits(100, 1 << 20) };
        let mut queues = RequestQueues::default();
        let mut requests = 0;
        for number in 0..100 {
            requests += fill(&mut queues, &format!("greedy:{number}"), 1, &limits);
        }
        assert_eq!(requests, 50);
        assert_eq!((0..9).map(|n| fill(&mut queues, &format!("other {n}"), 1, &limits)).max(), Some(4));
        // Another account has at least what one client may have, while there is room at all.
        let mut queues = RequestQueues::default();
        let few = Limits { behalf_client_requests_max: 4, behalf_requests_max: 4, ..limits };
        assert_eq!((0..9).map(|n| fill(&mut queues, &format!("one:{n}"), 1, &few)).sum::<usize>(), 4);
    }

    #[test]
    fn bytes_and_pages_of_an_account_leave_room_for_others() {
        let limits =
            Limits { behalf_client_bytes_max: 1_000, behalf_pages_max: 20, ..limits(1 << 20, 1 << 17) };
        let mut queues = RequestQueues::default();
        let mut requests = 0;
        for number in 0..1_000 {
            requests += fill(&mut queues, &format!("greedy:{number}"), 500, &limits);
        }
        // One request of any size may wait for a client as long as half of the room is free.
        assert_eq!(requests, 132, "66,000 of 131,072 bytes");
        assert!(
            queues.has_room(1, of("other"), 500, &limits)
                && !queues.has_room(1, of("greedy:x"), 500, &limits)
        );
        let mut queues = RequestQueues::default();
        let mut pages = 0;
        for number in 0..20 {
            let client_id = format!("greedy:{number}").into();
            if queues.has_room_for_page(1, owner(&client_id), 0, &limits) {
                queues.begin_page(1, owner(&client_id), 0);
                pages += 1;
            }
        }
        assert_eq!((pages, queues.plugins[&1].accounts.len()), (10, 1));
        assert!(queues.has_room_for_page(1, of("other"), 0, &limits));
        (0..10).for_each(|number| queues.end_page(1, &format!("greedy:{number}"), 0));
        assert!(queues.plugins.is_empty());
    }

    #[test]
    fn lines_that_close_leave_nothing() {
        let mut queues = RequestQueues::default();
        let name = |number: usize| format!("client {number}");
        (0..10_000).for_each(|number| wait(&mut queues, &name(number), 1, 10));
        assert_eq!(queues.plugins[&1].sums.waiting, Waiting { requests: 10_000, bytes: 100_000 });
        (1..10_000).for_each(|number| queues.close(1, &name(number)));
        let left = &queues.plugins[&1];
        assert_eq!(left.sums.waiting, Waiting { requests: 1, bytes: 10 });
        for capacity in [left.queues.capacity(), left.accounts.capacity()] {
            assert!(capacity <= 2 * SPARE, "room for {capacity}");
        }
        assert_eq!(left.accounts.len(), 1);
        queues.close(1, &name(0));
        assert!(queues.plugins.is_empty());
        queues.close(1, &name(0));
    }

    #[test]
    fn pages_are_bounded_like_requests_and_share_their_bytes() {
        let limits = Limits {
            behalf_pages_max: 3,
            behalf_client_pages_max: 2,
            behalf_client_bytes_max: 100,
            ..limits(1_000, 1 << 20)
        };
        let mut queues = RequestQueues::default();
        assert!(queues.has_room_for_page(1, of("c"), 101, &limits), "alone it passes, whatever its size");
        queues.begin_page(1, of("c"), 60);
        assert!(
            queues.has_room_for_page(1, of("c"), 40, &limits)
                && !queues.has_room_for_page(1, of("c"), 41, &limits)
        );
        assert!(
            queues.has_room(1, of("c"), 40, &limits) && !queues.has_room(1, of("c"), 41, &limits),
            "a request too"
        );
        wait(&mut queues, "c", 1, 30);
        assert!(
            queues.has_room_for_page(1, of("c"), 10, &limits)
                && !queues.has_room_for_page(1, of("c"), 11, &limits)
        );
        queues.count_page(1, "c", 60, 70);
        assert!(!queues.has_room_for_page(1, of("c"), 1, &limits), "it has become more");
        queues.close(1, "c");
        assert!(queues.session(1, "c").is_none() && queues.has_room_for_page(1, of("c"), 30, &limits));
        queues.begin_page(1, of("c"), 30);
        assert!(!queues.has_room_for_page(1, of("c"), 0, &limits), "as many as a client may have");
        queues.begin_page(1, of("d"), 0);
        assert!(!queues.has_room_for_page(1, of("e"), 0, &limits), "as many as a plugin may have");
        assert!(queues.has_room_for_page(2, of("e"), 0, &limits), "another plugin");
        queues.end_page(1, "d", 0);
        assert!(queues.has_room_for_page(1, of("e"), 0, &limits));
        queues.end_page(1, "c", 70);
        queues.end_page(1, "c", 30);
        assert!(queues.plugins.is_empty());
    }
}
