//! What logins gave whose clients have not come in yet: in the order in which they came, charged to their addresses. Most of them stay
//! for a moment, until their client comes in or is refused. Nobody says that a connection has closed before that, so the oldest of an
//! address makes room for a new one there, and none stays longer than [`ON_THE_WAY_MAX`]. Of one that has no room a marker stays, for
//! which nobody is charged: without it, its client would be taken for the one that its session is from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::state::{Bounds, Full, Login, SLICE, State, client_of, key_of};
use super::{Connection, Gave};

/// How long a connection may be on its way in after it was heard of last: as long as the broker may be told to wait for a client's next
/// AUTH (`limits.connect_timeout_ms`).
pub const ON_THE_WAY_MAX: Duration = Duration::from_secs(600);

/// One on its way in.
#[derive(Debug)]
pub(super) struct Coming {
    pub login: Login,
    /// In the place of it where the client begins another session than the one that it wants to go on with.
    pub anew: Option<Box<[u8]>>,
    /// False for a marker, where what it gave could not be kept: what its session had before is not taken for it then.
    pub is_known: bool,
    pub number: u64,
    pub since: Instant,
}

/// In which order they came, of all shards; each place is a shard and a key of its table.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: BTreeMap<u64, (u32, Box<str>)>,
    /// Those that somebody is charged for, and the markers.
    of_owner: BTreeSet<(u64, u64)>,
    markers: BTreeSet<u64>,
    next: u64,
}

impl Order {
    /// Puts one at the end; its number.
    pub fn push(&mut self, owner: u64, place: (u32, Box<str>), is_known: bool) -> u64 {
        self.next += 1;
        self.places.insert(self.next, place);
        if is_known {
            self.of_owner.insert((owner, self.next));
        } else {
            self.markers.insert(self.next);
        }
        self.next
    }

    pub fn remove(&mut self, coming: &Coming) {
        self.places.remove(&coming.number);
        self.of_owner.remove(&(coming.login.owner, coming.number));
        self.markers.remove(&coming.number);
    }

    /// One becomes a marker, and keeps its place.
    fn mark(&mut self, owner: u64, number: u64) {
        self.of_owner.remove(&(owner, number));
        self.markers.insert(number);
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The one that came first.
    pub fn first(&self) -> Option<(u32, Box<str>)> {
        self.places.first_key_value().map(|(_, place)| place.clone())
    }

    /// The one that makes room where there are too many: no marker takes the place of what is known.
    fn first_to_go(&self) -> Option<(u32, Box<str>)> {
        let marker = self.markers.first().and_then(|number| self.places.get(number).cloned());
        marker.or_else(|| self.first())
    }

    /// The one of this owner that came first, and is no marker.
    pub fn first_of(&self, owner: u64) -> Option<(u32, Box<str>)> {
        let (_, number) = self.of_owner.range((owner, 0)..=(owner, u64::MAX)).next()?;
        self.places.get(number).cloned()
    }
}

impl State {
    /// What a login gave whose client is on its way in; without `bytes` the word that it cannot be kept. What had been `granted` so many
    /// bytes before needs no share of the owner's for as many; where that is not said, it is what is there.
    pub fn put_coming(
        &mut self,
        bounds: &Bounds,
        (whose, shard): (Connection<'_>, u32),
        (bytes, anew, epoch): (Option<&[u8]>, Option<&[u8]>, u64),
        (owner, granted, now): (u64, Option<usize>, Instant),
    ) {
        let before = self.take_coming(whose, shard).filter(|coming| coming.login.owner == owner);
        let granted = granted.unwrap_or_else(|| before.map_or(0, |coming| coming.login.cost));
        while self.order.len() >= bounds.coming_max
            && let Some((shard, oldest)) = self.order.first_to_go()
        {
            let gone = self.drop_coming(shard, &oldest);
            self.unkept.of_coming += u64::from(gone.is_some_and(|gone| gone.is_known));
        }
        let login = bytes.and_then(|bytes| {
            let gave = Gave { whose, bytes, anew, epoch };
            self.room_on_the_way(bounds, gave, owner, granted)
        });
        let is_known = login.is_some();
        let login = login.unwrap_or_else(|| self.marker(whose, owner));
        let anew = anew.filter(|_| is_known).map(Box::from);
        let key = key_of(whose);
        let number = self.order.push(owner, (shard, key.clone()), is_known);
        self.of(shard).coming.insert(key, Coming { login, anew, is_known, number, since: now });
        self.of(shard).note(whose.client_id);
    }

    /// Room for one, once those of its address have made room that came before it, and most likely are closed by now: the answers to
    /// their logins have gone out.
    fn room_on_the_way(
        &mut self,
        bounds: &Bounds,
        gave: Gave<'_>,
        owner: u64,
        granted: usize,
    ) -> Option<Login> {
        loop {
            let full = match self.made_room(bounds, gave, owner, granted) {
                Ok(login) => return Some(login),
                Err(full) => full,
            };
            match self.order.first_of(owner).filter(|_| full != Full::TooLong) {
                Some((shard, oldest)) => self.mark_coming(shard, &oldest),
                None => {
                    self.count_unkept(full);
                    return None;
                }
            }
        }
    }

    /// Leaves a marker of one on its way in.
    fn mark_coming(&mut self, shard: u32, key: &str) {
        self.unkept.of_coming += 1;
        let Some(coming) = self.of(shard).coming.get_mut(key) else { return };
        let (owner, number, cost) = (coming.login.owner, coming.number, coming.login.cost);
        (coming.login.bytes, coming.login.cost) = (Box::default(), 0);
        (coming.anew, coming.is_known) = (None, false);
        self.order.mark(owner, number);
        self.give_back(owner, cost);
        self.of(shard).note(client_of(key));
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

    /// Lets go of those on their way in whose time is over, some at a time, and of which sessions have ended where nobody asks for that
    /// any more.
    pub fn expire(&mut self, now: Instant) {
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
