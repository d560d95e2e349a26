//! The queues of requests of plugins on behalf of clients: one for each plugin and client, in the
//! slots of a session without a client. This module stores the session, the amount that waits and
//! the open pages of retained messages, and checks whether there is room for more.
//! `flow/on_behalf.rs` opens and closes the queues.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::SessionKey;
use crate::limits::Limits;

/// One client may use this fraction of the free room: so some room stays free for clients with
/// small needs.
const SHARE: usize = 8;
/// Minimum capacity of the map of a plugin.
const SPARE: usize = 32;

/// All request queues of a shard.
#[derive(Debug, Default)]
pub(crate) struct RequestQueues {
    plugins: HashMap<u64, OfPlugin>,
}

/// The queues of a plugin, by client identifier.
#[derive(Debug, Default)]
struct OfPlugin {
    queues: HashMap<Arc<str>, RequestQueue>,
    /// The sums over all of them.
    sums: Sums,
}

#[derive(Debug, Default)]
struct RequestQueue {
    /// The session in whose slots the requests wait; `None` if only pages are open.
    session: Option<SessionKey>,
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

    /// What a plugin has requested for all clients, and for this one.
    fn sums(&self, plugin: u64, client_id: &str) -> (Sums, Sums) {
        let known = self.plugins.get(&plugin);
        let own = known.and_then(|known| known.queues.get(client_id)).map(|queue| queue.sums);
        (known.map(|known| known.sums).unwrap_or_default(), own.unwrap_or_default())
    }

    /// Number of open requests and pages of a plugin.
    pub(crate) fn under_way(&self, plugin: u64) -> usize {
        self.plugins.get(&plugin).map_or(0, |known| known.sums.waiting.requests + known.sums.pages)
    }

    /// Whether there is room for a request of this many bytes.
    pub(crate) fn has_room(&self, plugin: u64, client_id: &str, bytes: usize, limits: &Limits) -> bool {
        let (all, own) = self.sums(plugin, client_id);
        let requests = free(limits.behalf_requests_max, all.waiting.requests);
        requests > 0
            && (own.waiting.requests as u64) < limits.behalf_client_requests_max
            && own.waiting.requests < (requests / SHARE).max(1)
            && has_room_for_bytes((all, own), bytes, limits)
    }

    /// Whether there is room for a page of up to this many bytes.
    pub(crate) fn has_room_for_page(
        &self,
        plugin: u64,
        client_id: &str,
        bytes: usize,
        limits: &Limits,
    ) -> bool {
        let (all, own) = self.sums(plugin, client_id);
        (all.pages as u64) < limits.behalf_pages_max
            && (own.pages as u64) < limits.behalf_client_pages_max
            && has_room_for_bytes((all, own), bytes, limits)
    }

    /// Whether an open page, which is counted already, may grow to this many bytes.
    pub(crate) fn has_room_for_grown_page(
        &self,
        plugin: u64,
        client_id: &str,
        bytes: usize,
        limits: &Limits,
    ) -> bool {
        let (mut all, mut own) = self.sums(plugin, client_id);
        for sums in [&mut all, &mut own] {
            sums.pages -= 1;
            sums.pages_bytes -= bytes;
        }
        has_room_for_bytes((all, own), bytes, limits)
    }

    /// Requests for a client wait in the slots of this session from now on. The slots are empty.
    pub(crate) fn open(&mut self, plugin: u64, client_id: Arc<str>, session: SessionKey) {
        let lines = &mut self.plugins.entry(plugin).or_default().queues;
        lines.entry(client_id).or_default().session = Some(session);
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
    pub(crate) fn begin_page(&mut self, plugin: u64, client_id: &Arc<str>, bytes: usize) {
        self.plugins.entry(plugin).or_default().queues.entry(Arc::clone(client_id)).or_default();
        self.change(plugin, client_id, |sums| {
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
        let (all, now) = (&mut known.sums, queue.sums);
        all.waiting.requests = all.waiting.requests - before.waiting.requests + now.waiting.requests;
        all.waiting.bytes = all.waiting.bytes - before.waiting.bytes + now.waiting.bytes;
        all.pages = all.pages - before.pages + now.pages;
        all.pages_bytes = all.pages_bytes - before.pages_bytes + now.pages_bytes;
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
        } else if known.queues.capacity() > SPARE.max(4 * known.queues.len()) {
            // Only at a quarter, so that the map does not grow again soon.
            known.queues.shrink_to(2 * known.queues.len());
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

/// Whether this many more bytes may be stored for a client, beside those of all clients and of this
/// one.
fn has_room_for_bytes((all, own): (Sums, Sums), bytes: usize, limits: &Limits) -> bool {
    let then = own.bytes().saturating_add(bytes);
    let room = free(limits.behalf_bytes_max, all.bytes());
    let fits = then as u64 <= limits.behalf_client_bytes_max && then <= room / SHARE;
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

    fn limits(requests: u64, bytes: u64) -> Limits {
        Limits { behalf_requests_max: requests, behalf_bytes_max: bytes, ..Limits::default() }
    }

    fn wait(queues: &mut RequestQueues, client_id: &str, requests: usize, bytes: usize) {
        if queues.session(1, client_id).is_none() {
            queues.open(1, client_id.into(), key(7));
        }
        queues.count(1, client_id, Waiting { requests, bytes });
    }

    /// Adds requests of this many bytes for a client until there is no room; returns their number.
    fn fill(queues: &mut RequestQueues, client_id: &str, bytes: usize, limits: &Limits) -> usize {
        let mut requests = 0;
        while queues.has_room(1, client_id, bytes, limits) {
            requests += 1;
            wait(queues, client_id, requests, requests * bytes);
        }
        requests
    }

    #[test]
    fn a_client_that_asks_for_little_finds_room_beside_greedy_ones() {
        let limits = limits(1_024, 1 << 20);
        let mut queues = RequestQueues::default();
        assert_eq!(fill(&mut queues, "first", 1, &limits), 113, "an eighth of what it leaves free");
        let others: Vec<usize> =
            (0..40).map(|number| fill(&mut queues, &format!("greedy {number}"), 1, &limits)).collect();
        assert!(others.is_sorted_by(|a, b| a >= b), "who comes later finds less: {others:?}");
        assert!(queues.has_room(1, "modest", 1, &limits));
        // Another plugin has its own room.
        assert!(queues.has_room(2, "first", 1, &limits));
    }

    #[test]
    fn bytes_are_shared_like_requests() {
        let limits = limits(1 << 20, 1 << 20);
        let mut queues = RequestQueues::default();
        for number in 0..30 {
            fill(&mut queues, &format!("greedy {number}"), 4_096, &limits);
        }
        assert!(queues.has_room(1, "modest", 512, &limits));
        assert!(!queues.has_room(1, "modest", 1 << 20, &limits), "no client takes all that is left");
    }

    #[test]
    fn the_bounds_of_a_client_and_of_a_plugin_hold() {
        let client =
            Limits { behalf_client_requests_max: 2, behalf_client_bytes_max: 100, ..limits(1_000, 1 << 20) };
        let mut queues = RequestQueues::default();
        assert_eq!(fill(&mut queues, "c", 50, &client), 2);
        assert!(queues.has_room(1, "other", 101, &client), "alone it passes, whatever its size");
        wait(&mut queues, "other", 1, 51);
        assert!(queues.has_room(1, "other", 49, &client) && !queues.has_room(1, "other", 50, &client));
        // A large one takes all that is left; the next waits until it is gone.
        let least = limits(1, 65_536);
        let mut queues = RequestQueues::default();
        assert!(queues.has_room(1, "c", 1 << 30, &least));
        wait(&mut queues, "c", 1, 1 << 30);
        assert!(!queues.has_room(1, "other", 1, &least));
        queues.close(1, "c");
        assert!(queues.has_room(1, "other", 1 << 30, &least));
        // One for each client, and no more.
        let plugin = limits(3, 1 << 20);
        let mut queues = RequestQueues::default();
        let filled: Vec<usize> =
            ["a", "b", "c", "d"].map(|client_id| fill(&mut queues, client_id, 1, &plugin)).into();
        assert_eq!(filled, [1, 1, 1, 0]);
        queues.close(1, "b");
        assert!(queues.has_room(1, "d", 1, &plugin));
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
        assert!(left.queues.capacity() <= 2 * SPARE, "room for {}", left.queues.capacity());
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
        let client: Arc<str> = "c".into();
        assert!(queues.has_room_for_page(1, "c", 101, &limits), "alone it passes, whatever its size");
        queues.begin_page(1, &client, 60);
        assert!(
            queues.has_room_for_page(1, "c", 40, &limits) && !queues.has_room_for_page(1, "c", 41, &limits)
        );
        assert!(
            queues.has_room(1, "c", 40, &limits) && !queues.has_room(1, "c", 41, &limits),
            "a request too"
        );
        wait(&mut queues, "c", 1, 30);
        assert!(
            queues.has_room_for_page(1, "c", 10, &limits) && !queues.has_room_for_page(1, "c", 11, &limits)
        );
        queues.count_page(1, "c", 60, 70);
        assert!(!queues.has_room_for_page(1, "c", 1, &limits), "it has become more");
        queues.close(1, "c");
        assert!(queues.session(1, "c").is_none() && queues.has_room_for_page(1, "c", 30, &limits));
        queues.begin_page(1, &client, 30);
        assert!(!queues.has_room_for_page(1, "c", 0, &limits), "as many as a client may have");
        queues.begin_page(1, &"d".into(), 0);
        assert!(!queues.has_room_for_page(1, "e", 0, &limits), "as many as a plugin may have");
        assert!(queues.has_room_for_page(2, "e", 0, &limits), "another plugin");
        queues.end_page(1, "d", 0);
        assert!(queues.has_room_for_page(1, "e", 0, &limits));
        queues.end_page(1, "c", 70);
        queues.end_page(1, "c", 30);
        assert!(queues.plugins.is_empty());
    }
}
