//! The sessions of the clients that have connected on one shard. Data of a login is stored for the
//! last connection of a session that is recorded here. A session is removed when its end is
//! reported, which may never come: while the hooks that report it are unmounted, the session whose
//! client connected first makes room for a new one.

use std::collections::HashMap;

use super::Connection;
use super::lost::number_of;
use super::state::key_of;
use crate::shrink;

/// Capacity that the table may retain, whatever its size.
const TABLE_MIN: usize = 1024;

/// Most sessions of one shard that are recorded for one worker, if `clients_max` is lower.
pub(super) const LIVE_LEAST: usize = 16_384;

/// The session of a connected client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    /// Who is charged for its data.
    pub owner: u64,
    /// Its number.
    pub session: u64,
    /// Its last connection, see `lost.rs`.
    pub connection: u64,
    /// Whether the client resumed it when it last connected.
    pub goes_on: bool,
    /// Whether that connection was seen to come in. Then every later one is seen too, until the next
    /// gap.
    pub was_seen: bool,
    /// Whether it may have ended already without a notification.
    pub is_uncertain: bool,
}

impl Live {
    /// The session of a connection that has just been let in.
    pub fn of(connection: Connection<'_>, session: u64, owner: u64, goes_on: bool) -> Live {
        let connection = number_of(&key_of(connection));
        Live { owner, session, connection, goes_on, was_seen: true, is_uncertain: false }
    }
}

/// A session in the order of their clients' connecting: the keys of those before and after it.
#[derive(Debug)]
struct Entry {
    live: Live,
    older: Option<u64>,
    newer: Option<u64>,
}

/// See the module. The key of a session is the hash of its client identifier. The order is a list
/// through the table, so that dropping it visits no entries.
#[derive(Debug, Default)]
pub(super) struct LiveSessions {
    sessions: HashMap<u64, Entry>,
    first: Option<u64>,
    last: Option<u64>,
}

impl LiveSessions {
    pub fn get(&self, key: u64) -> Option<Live> {
        self.sessions.get(&key).map(|entry| entry.live)
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Records a session as the last one. Returns whether another one was removed, because there
    /// would have been more than `max`.
    pub fn insert(&mut self, key: u64, live: Live, max: usize) -> bool {
        self.take(key);
        let first = self.first.filter(|_| self.sessions.len() >= max);
        if let Some(first) = first {
            self.take(first);
        }
        let older = self.last.replace(key);
        match older.and_then(|older| self.sessions.get_mut(&older)) {
            Some(older) => older.newer = Some(key),
            None => self.first = Some(key),
        }
        self.sessions.insert(key, Entry { live, older, newer: None });
        first.is_some()
    }

    pub fn remove(&mut self, key: u64) {
        self.take(key);
        shrink::table(&mut self.sessions, TABLE_MIN);
    }

    fn take(&mut self, key: u64) {
        let Some(Entry { older, newer, .. }) = self.sessions.remove(&key) else { return };
        match older.and_then(|older| self.sessions.get_mut(&older)) {
            Some(older) => older.newer = newer,
            None => self.first = newer,
        }
        match newer.and_then(|newer| self.sessions.get_mut(&newer)) {
            Some(newer) => newer.older = older,
            None => self.last = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(session: u64) -> Live {
        Live::of(Connection { client_id: "c", host: "10.0.0.1", port: 1 }, session, 7, false)
    }

    /// The numbers of the sessions, first to last.
    fn all(sessions: &LiveSessions) -> Vec<u64> {
        let next = |key: &u64| sessions.sessions[key].newer;
        let keys: Vec<u64> = std::iter::successors(sessions.first, next).collect();
        let previous = |key: &u64| sessions.sessions[key].older;
        assert!(keys.iter().rev().copied().eq(std::iter::successors(sessions.last, previous)));
        assert_eq!(keys.len(), sessions.len());
        keys.iter().map(|key| sessions.get(*key).map_or(0, |live| live.session)).collect()
    }

    #[test]
    fn the_client_that_connected_first_makes_room() {
        let mut sessions = LiveSessions::default();
        for key in 0..3 {
            assert!(!sessions.insert(key, session(10 + key), 3));
        }
        // A client that connects again takes nobody's place, and is the last one.
        assert!(!sessions.insert(0, session(20), 3));
        assert_eq!(all(&sessions), [11, 12, 20]);
        assert!(sessions.insert(5, session(15), 3));
        assert_eq!(all(&sessions), [12, 20, 15]);
        sessions.remove(0);
        sessions.remove(9);
        assert_eq!(all(&sessions), [12, 15]);
        sessions.remove(2);
        sessions.remove(5);
        assert_eq!((all(&sessions), sessions.first, sessions.last), (vec![], None, None));
        assert!(!sessions.insert(1, session(31), 1) && sessions.insert(2, session(32), 1));
        assert_eq!(all(&sessions), [32]);
    }
}
