//! Data of pending logins, in order of arrival and charged to their addresses. Most entries last
//! only until the client connects or is refused. The broker does not report that a connection has
//! closed before that, so a new entry evicts the oldest one of its address, and no entry lasts
//! longer than [`ON_THE_WAY_MAX`]. An entry that has no room, or was evicted, is recorded in
//! `lost.rs`: otherwise its client would get the data of the login that began its session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::lost::{LostLogin, hash_of, number_of, share_of};
use super::state::{Bounds, Full, Login, SLICE, State, client_of, key_of};
use super::{Connection, Gave};

/// How long a login may be pending after its last event: the longest time that the broker can be
/// configured to wait for a client's next AUTH (`limits.connect_timeout_ms`).
pub const ON_THE_WAY_MAX: Duration = Duration::from_secs(600);

/// No client has this identifier: entries of `lost.rs` are handed over under it.
pub const OF_NOBODY: &str = "";

/// The data of one pending login.
#[derive(Debug)]
pub(super) struct Coming {
    pub login: Login,
    /// Used instead if the broker starts a new session although the client requested to resume one.
    pub anew: Option<Box<[u8]>>,
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

    pub fn remove(&mut self, coming: &Coming) {
        self.places.remove(&coming.number);
        self.of_owner.remove(&(coming.login.owner, coming.number));
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
    pub fn put_coming(
        &mut self,
        bounds: &Bounds,
        (whose, shard): (Connection<'_>, u32),
        gave: Option<Gave<'_>>,
        (owner, granted, now): (u64, Option<usize>, Instant),
    ) {
        let before = self.take_coming(whose, shard).filter(|coming| coming.login.owner == owner);
        let granted = granted.unwrap_or_else(|| before.map_or(0, |coming| coming.login.cost));
        while gave.is_some()
            && self.order.len() >= bounds.coming_max
            && let Some((shard, oldest)) = self.order.first()
        {
            self.lose_coming(shard, &oldest, now);
        }
        let key = key_of(whose);
        let room = gave.map(|gave| (gave, self.room_on_the_way(bounds, gave, (owner, granted), now)));
        let Some((Gave { anew, .. }, Some(login))) = room else {
            return self.lose(shard, &key, now);
        };
        let number = self.order.push(owner, (shard, key.clone()));
        let coming = Coming { login, anew: anew.map(Box::from), number, since: now };
        self.of(shard).coming.insert(key, coming);
        self.of(shard).note(whose.client_id);
    }

    /// Makes room for one entry by evicting older ones of its address. Their connections are most
    /// likely closed: the answers to their logins have been sent.
    fn room_on_the_way(
        &mut self,
        bounds: &Bounds,
        gave: Gave<'_>,
        (owner, granted): (u64, usize),
        now: Instant,
    ) -> Option<Login> {
        loop {
            let full = match self.made_room(bounds, gave, owner, granted) {
                Ok(login) => return Some(login),
                Err(full) => full,
            };
            match self.order.first_of(owner).filter(|_| full != Full::TooLong) {
                Some((shard, oldest)) => self.lose_coming(shard, &oldest, now),
                None => {
                    self.count_unkept(full);
                    return None;
                }
            }
        }
    }

    /// Evicts a pending login that may still succeed.
    fn lose_coming(&mut self, shard: u32, key: &str, now: Instant) {
        self.not_stored.of_coming += 1;
        self.drop_coming(shard, key);
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
        self.not_stored.untold += u64::from(self.lost.note(shard, of, now));
        self.of(shard).note(OF_NOBODY);
    }

    pub(super) fn drop_coming(&mut self, shard: u32, key: &str) -> Option<Coming> {
        let logins = self.of(shard);
        let coming = logins.coming.remove(key)?;
        logins.note(client_of(key));
        self.order.remove(&coming);
        self.release(&coming.login);
        Some(coming)
    }

    /// Takes out the entry of a pending login.
    pub fn take_coming(&mut self, whose: Connection<'_>, shard: u32) -> Option<Coming> {
        self.drop_coming(shard, &key_of(whose))
    }

    /// As `take_coming`, for a login whose result is known. Also returns whether data of it was
    /// lost.
    pub(super) fn end_coming(&mut self, whose: Connection<'_>, shard: u32) -> (Option<Coming>, bool) {
        let is_lost = self.lost.take(whose, shard);
        if is_lost {
            self.of(shard).note(OF_NOBODY);
        }
        (self.take_coming(whose, shard), is_lost)
    }

    /// Removes a batch of pending logins that are too old, and lists a batch of doubted entries.
    pub fn expire(&mut self, now: Instant) {
        self.list_doubted();
        self.lost.expire(now);
        for _ in 0..SLICE {
            let Some((shard, key)) = self.order.first() else { break };
            let since = self.shards.get(&shard).and_then(|logins| logins.coming.get(&key));
            if since.is_some_and(|coming| now.saturating_duration_since(coming.since) < ON_THE_WAY_MAX) {
                break;
            }
            self.drop_coming(shard, &key);
        }
    }
}
