//! What logins gave whose clients have not come in yet: in the order in which they came, charged to their addresses. Most of them stay
//! for a moment, until their client comes in or is refused. Nobody says that a connection has closed before that, so the oldest of an
//! address makes room for a new one there, and none stays longer than [`ON_THE_WAY_MAX`]. One that has no room, or no longer, is
//! noted in `lost.rs`: otherwise its client would be taken for the one that its session is from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::lost::{number_of, share_of};
use super::state::{Bounds, Full, Login, SLICE, State, client_of, key_of};
use super::{Connection, Gave};

/// How long a connection may be on its way in after it was heard of last: as long as the broker may be told to wait for a client's next
/// AUTH (`limits.connect_timeout_ms`).
pub const ON_THE_WAY_MAX: Duration = Duration::from_secs(600);

/// The client identifier that no client has, under which the next version hears of those in `lost.rs`.
pub const OF_NOBODY: &str = "";

/// One on its way in.
#[derive(Debug)]
pub(super) struct Coming {
    pub login: Login,
    /// In the place of it where the client begins another session than the one that it wants to go on with.
    pub anew: Option<Box<[u8]>>,
    pub number: u64,
    pub since: Instant,
}

/// In which order they came, of all shards; each place is a shard and a key of its table.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: BTreeMap<u64, (u32, Box<str>)>,
    of_owner: BTreeSet<(u64, u64)>,
    next: u64,
}

impl Order {
    /// Puts one at the end; its number.
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

    /// The one that came first.
    pub fn first(&self) -> Option<(u32, Box<str>)> {
        self.places.first_key_value().map(|(_, place)| place.clone())
    }

    /// The one of this owner that came first.
    pub fn first_of(&self, owner: u64) -> Option<(u32, Box<str>)> {
        let (_, number) = self.of_owner.range((owner, 0)..=(owner, u64::MAX)).next()?;
        self.places.get(number).cloned()
    }
}

impl State {
    /// What a login gave whose client is on its way in; without it the word that it cannot be kept. What had been `granted` so many
    /// bytes before needs no share of the owner's for as many; where that is not said, it is what is there.
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

    /// Room for one, once those of its address have made room that came before it, and most likely are closed by now: the answers to
    /// their logins have gone out.
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

    /// Lets one on its way in go that may still come in.
    fn lose_coming(&mut self, shard: u32, key: &str, now: Instant) {
        self.not_stored.of_coming += 1;
        self.drop_coming(shard, key);
        self.lose(shard, key, now);
    }

    /// Nothing is kept of a connection that may still come in.
    fn lose(&mut self, shard: u32, key: &str, now: Instant) {
        let host = key.split('\0').nth(1).unwrap_or("");
        self.note_lost(shard, (number_of(key), share_of(host)), now);
    }

    /// The same by its number and its address.
    pub(super) fn note_lost(&mut self, shard: u32, of: (u64, u64), now: Instant) {
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

    /// Takes out what there is of a connection on its way in.
    pub fn take_coming(&mut self, whose: Connection<'_>, shard: u32) -> Option<Coming> {
        self.drop_coming(shard, &key_of(whose))
    }

    /// The same of one whose fate is known; whether something was lost of it.
    pub(super) fn end_coming(&mut self, whose: Connection<'_>, shard: u32) -> (Option<Coming>, bool) {
        let is_lost = self.lost.take(whose, shard);
        if is_lost {
            self.of(shard).note(OF_NOBODY);
        }
        (self.take_coming(whose, shard), is_lost)
    }

    /// Lets go of those on their way in whose time is over, some at a time, and of which sessions have ended where nobody asks for that
    /// any more; and lists some of what is doubted.
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
        self.shards.values_mut().for_each(|logins| logins.forget_ends(now));
    }
}
