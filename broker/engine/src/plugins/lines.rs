//! The lines in which waits what plugins ask for on behalf of clients: one for each plugin and client, in the slots of a session
//! that no client has. Here stand which session that is, how much waits, and whether there is room for more; `flow/on_behalf.rs`
//! opens and closes them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::SessionKey;
use crate::limits::Limits;

/// A client may hold one part in so many of what is free: however many others take as much as they may, something is left for
/// one that asks for little.
const SHARE: usize = 8;
/// The lines of a plugin keep room for so many.
const SPARE: usize = 32;

/// All lines of a shard.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    plugins: HashMap<u64, OfPlugin>,
}

/// Those of a plugin, by client identifier.
#[derive(Debug, Default)]
struct OfPlugin {
    lines: HashMap<Arc<str>, Line>,
    /// What waits in all of them.
    waiting: Waiting,
}

#[derive(Debug)]
struct Line {
    session: SessionKey,
    waiting: Waiting,
}

/// What waits in a line, or in all lines of a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

impl Lines {
    /// The session that has the line of a client, if there is one. Plugins are named by the number of their name.
    pub(crate) fn session(&self, plugin: u64, client_id: &str) -> Option<SessionKey> {
        Some(self.plugins.get(&plugin)?.lines.get(client_id)?.session)
    }

    /// Whether a request of so many bytes may wait behind what waits already.
    pub(crate) fn has_room(&self, plugin: u64, client_id: &str, bytes: usize, limits: &Limits) -> bool {
        let known = self.plugins.get(&plugin);
        let all = known.map(|known| known.waiting).unwrap_or_default();
        let line = known.and_then(|known| known.lines.get(client_id));
        let own = line.map(|line| line.waiting).unwrap_or_default();
        let free =
            |max: u64, waiting: usize| usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(waiting);
        let requests = free(limits.behalf_requests_max, all.requests);
        let room = free(limits.behalf_bytes_max, all.bytes);
        let fits =
            (own.bytes + bytes) as u64 <= limits.behalf_client_bytes_max && own.bytes + bytes <= room / SHARE;
        // One of any size passes where the client has no other and half of the room is free: it would be refused for ever.
        let passes = own.requests == 0 && all.bytes as u64 <= limits.behalf_bytes_max / 2;
        requests > 0
            && (own.requests as u64) < limits.behalf_client_requests_max
            && own.requests < (requests / SHARE).max(1)
            && (fits || passes)
    }

    /// A client has a line from now on, in which nothing waits yet.
    pub(crate) fn open(&mut self, plugin: u64, client_id: Arc<str>, session: SessionKey) {
        let line = Line { session, waiting: Waiting::default() };
        self.plugins.entry(plugin).or_default().lines.insert(client_id, line);
    }

    /// So much waits in a line now.
    pub(crate) fn count(&mut self, plugin: u64, client_id: &str, now: Waiting) {
        let Some(known) = self.plugins.get_mut(&plugin) else { return };
        let Some(line) = known.lines.get_mut(client_id) else { return };
        let before = std::mem::replace(&mut line.waiting, now);
        known.waiting.requests = known.waiting.requests - before.requests + now.requests;
        known.waiting.bytes = known.waiting.bytes - before.bytes + now.bytes;
    }

    /// Nothing waits in a line any more: it is gone.
    pub(crate) fn close(&mut self, plugin: u64, client_id: &str) {
        self.count(plugin, client_id, Waiting::default());
        let Some(known) = self.plugins.get_mut(&plugin) else { return };
        known.lines.remove(client_id);
        if known.lines.is_empty() {
            self.plugins.remove(&plugin);
            self.plugins.shrink_to(SPARE);
        } else if known.lines.capacity() > SPARE.max(4 * known.lines.len()) {
            // A quarter, so that as many must come again before it grows.
            known.lines.shrink_to(2 * known.lines.len());
        }
    }
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

    fn wait(lines: &mut Lines, client_id: &str, requests: usize, bytes: usize) {
        if lines.session(1, client_id).is_none() {
            lines.open(1, client_id.into(), key(7));
        }
        lines.count(1, client_id, Waiting { requests, bytes });
    }

    /// Puts requests of so many bytes into the line of a client until it has no room; how many that were.
    fn fill(lines: &mut Lines, client_id: &str, bytes: usize, limits: &Limits) -> usize {
        let mut requests = 0;
        while lines.has_room(1, client_id, bytes, limits) {
            requests += 1;
            wait(lines, client_id, requests, requests * bytes);
        }
        requests
    }

    #[test]
    fn a_client_that_asks_for_little_finds_room_beside_greedy_ones() {
        let limits = limits(1_024, 1 << 20);
        let mut lines = Lines::default();
        assert_eq!(fill(&mut lines, "first", 1, &limits), 113, "an eighth of what it leaves free");
        let others: Vec<usize> =
            (0..40).map(|number| fill(&mut lines, &format!("greedy {number}"), 1, &limits)).collect();
        assert!(others.is_sorted_by(|a, b| a >= b), "who comes later finds less: {others:?}");
        assert!(lines.has_room(1, "modest", 1, &limits));
        // Another plugin has room of its own.
        assert!(lines.has_room(2, "first", 1, &limits));
    }

    #[test]
    fn bytes_are_shared_like_requests() {
        let limits = limits(1 << 20, 1 << 20);
        let mut lines = Lines::default();
        for number in 0..30 {
            fill(&mut lines, &format!("greedy {number}"), 4_096, &limits);
        }
        assert!(lines.has_room(1, "modest", 512, &limits));
        assert!(!lines.has_room(1, "modest", 1 << 20, &limits), "no client takes all that is left");
    }

    #[test]
    fn the_bounds_of_a_client_and_of_a_plugin_hold() {
        let client =
            Limits { behalf_client_requests_max: 2, behalf_client_bytes_max: 100, ..limits(1_000, 1 << 20) };
        let mut lines = Lines::default();
        assert_eq!(fill(&mut lines, "c", 50, &client), 2);
        assert!(lines.has_room(1, "other", 101, &client), "alone it passes, whatever its size");
        wait(&mut lines, "other", 1, 51);
        assert!(lines.has_room(1, "other", 49, &client) && !lines.has_room(1, "other", 50, &client));
        // A large one takes all that is left, and the next waits until it has gone.
        let least = limits(1, 65_536);
        let mut lines = Lines::default();
        assert!(lines.has_room(1, "c", 1 << 30, &least));
        wait(&mut lines, "c", 1, 1 << 30);
        assert!(!lines.has_room(1, "other", 1, &least));
        lines.close(1, "c");
        assert!(lines.has_room(1, "other", 1 << 30, &least));
        // One each, and none beyond.
        let plugin = limits(3, 1 << 20);
        let mut lines = Lines::default();
        let filled: Vec<usize> =
            ["a", "b", "c", "d"].map(|client_id| fill(&mut lines, client_id, 1, &plugin)).into();
        assert_eq!(filled, [1, 1, 1, 0]);
        lines.close(1, "b");
        assert!(lines.has_room(1, "d", 1, &plugin));
    }

    #[test]
    fn lines_that_close_leave_nothing() {
        let mut lines = Lines::default();
        let name = |number: usize| format!("client {number}");
        (0..10_000).for_each(|number| wait(&mut lines, &name(number), 1, 10));
        assert_eq!(lines.plugins[&1].waiting, Waiting { requests: 10_000, bytes: 100_000 });
        (1..10_000).for_each(|number| lines.close(1, &name(number)));
        let left = &lines.plugins[&1];
        assert_eq!(left.waiting, Waiting { requests: 1, bytes: 10 });
        assert!(left.lines.capacity() <= 2 * SPARE, "room for {}", left.lines.capacity());
        lines.close(1, &name(0));
        assert!(lines.plugins.is_empty());
        lines.close(1, &name(0));
    }
}
