//! Data of pending logins, in order of arrival and charged to their addresses. Most entries last
//! only until the client connects or is refused. The broker does not report that a connection has
//! closed before that, so a new entry evicts the oldest one of its address, and no entry lasts
//! longer than [`PENDING_TIME_MAX`]. An entry that has no room, or was evicted, is recorded in
//! `lost.rs`: otherwise its client would get the data of the login that began its session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::live::Live;
use super::lost::{LostLogin, hash_of, number_of, share_of};
use super::state::{Bounds, Full, Login, SLICE, State, client_of, key_of};
use super::{Connection, LoginData};

/// How long a login may be pending after its last event: the longest time that the broker can be
/// configured to wait for a client's next AUTH (`limits.connect_timeout_ms`).
pub const PENDING_TIME_MAX: Duration = Duration::from_secs(600);

/// No client has this identifier: entries of `lost.rs` are handed over under it.
pub const NO_CLIENT_ID: &str = "";

/// The data of one pending login.
#[derive(Debug)]
pub(super) struct PendingData {
    pub login: Login,
    /// Used instead if the broker starts a new session although the client requested to resume one.
    pub new_session: Option<Box<[u8]>>,
    pub number: u64,
    pub since: Instant,
}

/// The order of arrival, over all shards. A place is a shard and a key of its table.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: BTreeMap<u64, (u32, Box<str>)>,
    of_owner: BTreeSet<(u64, u64)>,
    next: u64,
}

impl Order {
    /// Appends an entry; returns its number.
    pub fn push(&mut self, owner: u64, place: (u32, Box<str>)) -> u64 {
        self.next += 1;
        self.places.insert(self.next, place);
        self.of_owner.insert((owner, self.next));
        self.next
    }

    pub fn remove(&mut self, pending: &PendingData) {
        self.places.remove(&pending.number);
        self.of_owner.remove(&(pending.login.owner, pending.number));
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The oldest entry.
    pub fn first(&self) -> Option<(u32, Box<str>)> {
        self.places.first_key_value().map(|(_, place)| place.clone())
    }

    /// The oldest entry of this owner.
    pub fn first_of(&self, owner: u64) -> Option<(u32, Box<str>)> {
        let (_, number) = self.of_owner.range((owner, 0)..=(owner, u64::MAX)).next()?;
        self.places.get(number).cloned()
    }
}

impl State {
    /// Stores the data of a pending login; `None` records that it cannot be stored. The first
    /// `granted` bytes do not count against the owner's share. Without `granted`, the size of the
    /// present entry is used.
    pub fn put_pending(
        &mut self,
        bounds: &Bounds,
        (connection, shard): (Connection<'_>, u32),
        data: Option<LoginData<'_>>,
        (owner, granted, now): (u64, Option<usize>, Instant),
    ) {
        let before = self.take_pending(connection, shard).filter(|pending| pending.login.owner == owner);
        let granted = granted.unwrap_or_else(|| before.map_or(0, |pending| pending.login.cost));
        while data.is_some()
            && self.order.len() >= bounds.pending_max
            && let Some((shard, oldest)) = self.order.first()
        {
            self.evict_pending(shard, &oldest, now);
        }
        let key = key_of(connection);
        let room = data.map(|data| (data, self.make_pending_room(bounds, data, (owner, granted), now)));
        let Some((LoginData { new_session, .. }, Some(login))) = room else {
            return self.lose(shard, &key, now);
        };
        let number = self.order.push(owner, (shard, key.clone()));
        let pending = PendingData { login, new_session: new_session.map(Box::from), number, since: now };
        self.of(shard).pending.insert(key, pending);
        self.of(shard).note(connection.client_id);
    }

    /// Makes room for one entry by evicting older ones of its address. Their connections are most
    /// likely closed: the answers to their logins have been sent.
    fn make_pending_room(
        &mut self,
        bounds: &Bounds,
        data: LoginData<'_>,
        (owner, granted): (u64, usize),
        now: Instant,
    ) -> Option<Login> {
        loop {
            let full = match self.make_room(bounds, data, owner, granted) {
                Ok(login) => return Some(login),
                Err(full) => full,
            };
            match self.order.first_of(owner).filter(|_| full != Full::TooLong) {
                Some((shard, oldest)) => self.evict_pending(shard, &oldest, now),
                None => {
                    self.count_unkept(full);
                    return None;
                }
            }
        }
    }

    /// Evicts a pending login that may still succeed.
    fn evict_pending(&mut self, shard: u32, key: &str, now: Instant) {
        self.not_stored.of_pending += 1;
        self.drop_pending(shard, key);
        self.lose(shard, key, now);
    }

    /// Records that nothing is stored of a connection that may still connect.
    fn lose(&mut self, shard: u32, key: &str, now: Instant) {
        let host = key.split('\0').nth(1).unwrap_or("");
        let (number, share, client) = (number_of(key), share_of(host), hash_of(client_of(key)));
        self.note_lost(shard, LostLogin { number, share, client }, now);
    }

    /// As `lose`, without its key.
    pub(super) fn note_lost(&mut self, shard: u32, of: LostLogin, now: Instant) {
        self.not_stored.indistinguishable += u64::from(self.lost.note(shard, of, now));
        self.of(shard).note(NO_CLIENT_ID);
    }

    pub(super) fn drop_pending(&mut self, shard: u32, key: &str) -> Option<PendingData> {
        let logins = self.of(shard);
        let pending = logins.pending.remove(key)?;
        logins.note(client_of(key));
        self.order.remove(&pending);
        self.release(&pending.login);
        Some(pending)
    }

    /// Whether the data of this pending login is stored, by its number in this version.
    pub fn is_pending(&self, connection: Connection<'_>, shard: u32, number: u64) -> bool {
        let pending = self.shards.get(&shard).and_then(|logins| logins.pending.get(&key_of(connection)));
        pending.is_some_and(|pending| !pending.login.is_handed_over && pending.login.number == number)
    }

    /// Whether a connection has resumed `session`, and not begun it: at its login (`before`) the
    /// session was there, or another connection was seen in it since.
    pub fn goes_on(&self, connection: Connection<'_>, shard: u32, (before, session): (u64, u64)) -> bool {
        let live = self.shards.get(&shard).and_then(|logins| logins.live(connection.client_id));
        let is_of_another =
            |live: Live| live.session == session && live.connection != number_of(&key_of(connection));
        (before == session && session > 0) || live.is_some_and(is_of_another)
    }

    /// Takes out the entry of a pending login.
    pub fn take_pending(&mut self, connection: Connection<'_>, shard: u32) -> Option<PendingData> {
        self.drop_pending(shard, &key_of(connection))
    }

    /// As `take_pending`, for a login whose result is known. Also returns whether data of it was
    /// lost.
    pub(super) fn end_pending(
        &mut self,
        connection: Connection<'_>,
        shard: u32,
    ) -> (Option<PendingData>, bool) {
        let is_lost = self.lost.take(connection, shard);
        if is_lost {
            self.of(shard).note(NO_CLIENT_ID);
        }
        (self.take_pending(connection, shard), is_lost)
    }

    /// Removes a batch of pending logins that are too old, and lists a batch of doubted entries.
    pub fn expire(&mut self, now: Instant) {
        self.list_uncertain();
        self.lost.expire(now);
        for _ in 0..SLICE {
            let Some((shard, key)) = self.order.first() else { break };
            let since = self.shards.get(&shard).and_then(|logins| logins.pending.get(&key));
            if since.is_some_and(|pending| now.saturating_duration_since(pending.since) < PENDING_TIME_MAX) {
                break;
            }
            self.drop_pending(shard, &key);
        }
    }
}
