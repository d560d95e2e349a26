//! The tables behind `LoginStore`, for each shard: entries of sessions, entries of pending logins,
//! and who is charged. Used under its lock; each step takes a few look-ups, or [`SLICE`] of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::ops::Bound;
use std::time::Instant;

use grapnel_plugin_abi::address_share;

use super::live::{Live, LiveSessions};
use super::lost::{Lost, LostLogin, number_of};
use super::pending::{NO_CLIENT_ID, Order, PendingData};
use super::{Connection, HandedOver, LoginData, NotStored};

/// Memory of an entry besides its data, bytes.
pub(super) const ENTRY: usize = 128;

/// Most entries that are visited under one lock.
pub(super) const SLICE: usize = 512;

/// One owner gets at most this fraction (one eighth) of what the others leave free.
const SHARE: usize = 8;

/// Limits of the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub one_max: usize,
    pub all_max: usize,
    pub pending_max: usize,
    /// Sessions of a shard whose clients have connected.
    pub live_max: usize,
}

/// The data of a login.
#[derive(Debug)]
pub(super) struct Login {
    /// The connection that logged in.
    pub host: Box<str>,
    pub port: u16,
    pub bytes: Box<[u8]>,
    /// The process that has the data itself.
    pub epoch: u64,
    /// The client's number, and whether the version before assigned it.
    pub number: u64,
    pub is_handed_over: bool,
    /// The session that it belongs to; 0 while the login is pending. It is shown for no other.
    pub session: u64,
    /// Number of gaps when it was last known that the session exists, see `mark_uncertain.rs`.
    pub gap: u64,
    /// Whether it is listed as doubted: then nobody is charged for it.
    pub yields: bool,
    pub owner: u64,
    pub cost: usize,
}

/// Why a login's data is not stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    TooLong,
    OfUser,
    OfAll,
}

/// The entries of a shard's clients, one for each session at most.
#[derive(Debug, Default)]
pub(super) struct Logins {
    pub by_client: BTreeMap<Box<str>, Login>,
    /// By client and connection, see [`key_of`].
    pub pending: BTreeMap<Box<str>, PendingData>,
    /// The sessions of clients that have connected, by hash of the client identifier.
    pub(super) live: LiveSessions,
    /// Number of gaps so far, and the client after which doubted entries are still to be listed.
    pub(super) gap: u64,
    pub(super) unlisted: Option<Box<str>>,
    /// The clients whose entries have changed; `None` while nobody reads the changes.
    pub changed: Option<BTreeSet<Box<str>>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub shards: BTreeMap<u32, Logins>,
    /// Bytes of all entries, those of them that an owner is charged for, and the charge of each
    /// owner.
    bytes: usize,
    charged: usize,
    owners: HashMap<u64, usize>,
    pub count: usize,
    pub(super) order: Order,
    pub(super) lost: Lost,
    /// The doubted entries, by owner, shard and client identifier: they are evicted first. And the
    /// number of shards with more entries to list.
    pub(super) uncertain: BTreeSet<(u64, u32, Box<str>)>,
    pub(super) unlisted: usize,
    pub not_stored: NotStored,
}

/// Who is charged for a login: its user, or its address where the user name was not verified. The
/// address is grouped as for waiting calls. It is the same in the next version.
pub fn owner_of(user: Option<&str>, address: &str) -> u64 {
    let address = if user.is_some() { "".into() } else { address_share(address) };
    BuildHasherDefault::<DefaultHasher>::default().hash_one((user, address))
}

/// The key of a connection. Keys sort by client identifier, which contains no U+0000.
pub(super) fn key_of(connection: Connection<'_>) -> Box<str> {
    format!("{}\0{}\0{}", connection.client_id, connection.host, connection.port).into()
}

/// The client identifier of a key.
pub(super) fn client_of(key: &str) -> &str {
    key.split_once('\0').map_or(key, |(client_id, _)| client_id)
}

impl Login {
    pub fn is_of(&self, connection: Connection<'_>) -> bool {
        (&*self.host, self.port) == (connection.host, connection.port)
    }

    /// Whether late data of the version before under this number belongs to a later connection from
    /// the same port.
    pub fn is_before(&self, number: u64) -> bool {
        self.is_handed_over && self.number < number
    }

    fn handed_over<'a>(
        &'a self,
        client_id: &'a str,
        new_session: Option<&'a [u8]>,
        is_pending: bool,
    ) -> HandedOver<'a> {
        let Login { host, port, bytes, owner, number, session, .. } = self;
        let connection = Connection { client_id, host, port: *port };
        // Only numbers of the same version can be compared.
        let (owner, number) = (*owner, if self.is_handed_over { 0 } else { *number });
        let (bytes, session, is_uncertain) = (Some(&**bytes), *session, false);
        HandedOver { connection, bytes, new_session, owner, is_pending, is_uncertain, number, session }
    }
}

impl Logins {
    fn hash(&self, client_id: &str) -> u64 {
        self.hasher.hash_one(client_id)
    }

    /// The session of a client that has connected.
    pub fn live(&self, client_id: &str) -> Option<Live> {
        self.live.get(self.hash(client_id))
    }

    /// The same, if this is its last connection.
    pub fn live_of(&self, connection: Connection<'_>) -> Option<Live> {
        self.live(connection.client_id).filter(|live| live.connection == number_of(&key_of(connection)))
    }

    /// Records the session of a client. Returns whether another one was removed for it.
    fn is_live(&mut self, client_id: &str, live: Live, max: usize) -> bool {
        let hash = self.hash(client_id);
        self.live.insert(hash, live, max)
    }

    /// A session has ended.
    pub fn over(&mut self, client_id: &str, session: u64) {
        let hash = self.hash(client_id);
        if self.live.get(hash).is_some_and(|live| live.session == session) {
            self.live.remove(hash);
        }
    }

    pub(super) fn note(&mut self, client_id: &str) {
        if let Some(changed) = &mut self.changed {
            changed.insert(client_id.into());
        }
    }

    /// The next client with a pending login, after `after` in the order of identifiers.
    pub fn next_pending(&self, after: Option<&str>) -> Option<&str> {
        let from = after.map_or(String::new(), |after| format!("{after}\u{1}"));
        let range = (Bound::Included(&*from), Bound::Unbounded);
        self.pending.range::<str, _>(range).next().map(|(key, _)| client_of(key))
    }

    /// Any client with an entry.
    pub fn first(&self) -> Option<Box<str>> {
        self.by_client.keys().next().map(|name| &**name).or_else(|| self.next_pending(None)).map(Box::from)
    }

    fn pending_of(&self, client_id: &str) -> impl Iterator<Item = (&str, &PendingData)> {
        let (from, to) = (format!("{client_id}\0"), format!("{client_id}\u{1}"));
        let range = (Bound::Included(&*from), Bound::Excluded(&*to));
        self.pending.range::<str, _>(range).map(|(key, pending)| (&**key, pending))
    }

    pub fn each_of(&self, client_id: &str, call: &mut dyn FnMut(HandedOver<'_>)) {
        if let Some(login) = self.by_client.get(client_id) {
            let is_uncertain = self.is_uncertain(login);
            call(HandedOver { is_uncertain, ..login.handed_over(client_id, None, false) });
        }
        for (_, PendingData { login, new_session, .. }) in self.pending_of(client_id) {
            call(login.handed_over(client_id, new_session.as_deref(), true));
        }
    }
}

impl State {
    pub fn of(&mut self, shard: u32) -> &mut Logins {
        self.shards.entry(shard).or_default()
    }

    /// The entry of a client, whichever session it belongs to.
    pub fn there(&self, shard: u32, client_id: &str) -> Option<&Login> {
        self.shards.get(&shard)?.by_client.get(client_id)
    }

    /// The entry of a client, if it belongs to this session.
    pub fn get(&self, shard: u32, client_id: &str, session: u64) -> Option<&Login> {
        self.there(shard, client_id).filter(|login| login.session == session && session > 0)
    }

    /// Makes room for a login and charges it. Doubted entries are evicted for it, the owner's own
    /// first. The first `granted` bytes do not count against the owner's share.
    pub(super) fn make_room(
        &mut self,
        bounds: &Bounds,
        LoginData { connection, bytes, new_session, epoch, number }: LoginData<'_>,
        owner: u64,
        granted: usize,
    ) -> Result<Login, Full> {
        let cost = ENTRY
            + connection.client_id.len()
            + connection.host.len()
            + bytes.len()
            + new_session.map_or(0, <[u8]>::len);
        let own = self.owners.get(&owner).copied().unwrap_or(0);
        let free = bounds.all_max.saturating_sub(self.charged - own);
        if bytes.len().max(new_session.map_or(0, <[u8]>::len)) > bounds.one_max {
            return Err(Full::TooLong);
        } else if own + cost > free {
            return Err(Full::OfAll);
        } else if own > 0 && cost > granted && own + cost > free / SHARE {
            return Err(Full::OfUser);
        }
        while self.bytes + cost > bounds.all_max {
            let own = self.uncertain.range((owner, 0, "".into())..).next().filter(|first| first.0 == owner);
            let first = own.or_else(|| self.uncertain.first()).cloned();
            let Some((_, shard, client_id)) = first else { return Err(Full::OfAll) };
            self.remove(shard, &client_id);
            self.not_stored.of_uncertain += 1;
        }
        self.bytes += cost;
        self.count += 1;
        self.charge(owner, cost);
        let (host, port, bytes) = (connection.host.into(), connection.port, bytes.into());
        let (is_handed_over, session, gap, yields) = (false, 0, 0, false);
        Ok(Login { host, port, bytes, epoch, number, is_handed_over, session, gap, yields, owner, cost })
    }

    pub(super) fn count_unkept(&mut self, full: Full) {
        let count = match full {
            Full::TooLong => &mut self.not_stored.too_long,
            Full::OfUser => &mut self.not_stored.of_user,
            Full::OfAll => &mut self.not_stored.of_all,
        };
        *count += 1;
    }

    pub(super) fn release(&mut self, login: &Login) {
        self.count -= 1;
        self.bytes -= login.cost;
        if !login.yields {
            self.give_back(login.owner, login.cost);
        }
    }

    pub(super) fn charge(&mut self, owner: u64, cost: usize) {
        self.charged += cost;
        *self.owners.entry(owner).or_default() += cost;
    }

    /// Reduces the charge of an owner.
    pub(super) fn give_back(&mut self, owner: u64, cost: usize) {
        self.charged -= cost;
        if let Some(own) = self.owners.get_mut(&owner) {
            *own -= cost;
            if *own == 0 {
                self.owners.remove(&owner);
            }
        }
    }

    /// Replaces the entry of a client.
    pub fn put(&mut self, bounds: &Bounds, data: LoginData<'_>, shard: u32, live: Live) {
        let before = self.there(shard, data.connection.client_id).filter(|login| login.owner == live.owner);
        let granted = before.map_or(0, |login| login.cost);
        self.put_granted(bounds, data, shard, (live, granted));
    }

    fn put_granted(
        &mut self,
        bounds: &Bounds,
        data: LoginData<'_>,
        shard: u32,
        (live, granted): (Live, usize),
    ) {
        let client_id = data.connection.client_id;
        let Live { owner, session, is_uncertain, .. } = live;
        self.remove(shard, client_id);
        match self.make_room(bounds, data, owner, granted) {
            Ok(login) => {
                let logins = self.of(shard);
                let login = Login { session, gap: logins.gap, ..login };
                logins.by_client.insert(client_id.into(), login);
            }
            Err(full) => self.count_unkept(full),
        }
        if is_uncertain {
            self.mark_uncertain(shard, client_id);
        }
        self.of(shard).note(client_id);
    }

    /// Records the session of a client, and counts one that was removed for it.
    pub(super) fn is_live(&mut self, bounds: &Bounds, shard: u32, client_id: &str, live: Live) {
        let is_full = self.of(shard).is_live(client_id, live, bounds.live_max);
        self.not_stored.of_sessions += u64::from(is_full);
    }

    /// A connection is in this session.
    pub fn enter(&mut self, bounds: &Bounds, connection: Connection<'_>, shard: u32, live: Live) {
        let (pending, is_lost) = self.end_pending(connection, shard);
        if is_lost && pending.is_none() {
            // It belongs to an earlier login.
            self.remove(shard, connection.client_id);
        }
        self.is_there(shard, connection.client_id, live.session);
        self.is_live(bounds, shard, connection.client_id, live);
        if let Some(PendingData { login, new_session, .. }) = pending {
            let bytes = new_session.as_deref().filter(|_| !live.goes_on).unwrap_or(&login.bytes);
            let data =
                LoginData { connection, bytes, new_session: None, epoch: login.epoch, number: login.number };
            self.put(bounds, data, shard, live);
            if login.is_handed_over {
                self.is_handed_over(shard, connection.client_id);
            }
        }
    }

    /// Takes over an entry of the version before. What was stored there is stored here too,
    /// whatever the owner's share is now.
    pub fn take_over(&mut self, bounds: &Bounds, shard: u32, over: HandedOver<'_>, now: Instant) {
        let HandedOver { connection, bytes, new_session, owner, is_pending, is_uncertain, number, session } =
            over;
        let data = bytes.map(|bytes| LoginData { connection, bytes, new_session, epoch: 0, number });
        match data {
            _ if connection.client_id == NO_CLIENT_ID => {
                let lost = LostLogin { number: owner, share: number, client: session };
                self.note_lost(shard, lost, now);
            }
            data if is_pending => {
                self.put_pending(bounds, (connection, shard), data, (owner, Some(usize::MAX), now));
                if let Some(pending) = self.of(shard).pending.get_mut(&key_of(connection)) {
                    pending.login.is_handed_over = true;
                }
            }
            Some(data) => {
                // The result of its login has been handed over already.
                let live =
                    Live { was_seen: false, is_uncertain, ..Live::of(connection, session, owner, true) };
                self.put_granted(bounds, LoginData { new_session: None, ..data }, shard, (live, usize::MAX));
                self.is_handed_over(shard, connection.client_id);
                if !is_uncertain && self.of(shard).live(connection.client_id).is_none() {
                    self.is_live(bounds, shard, connection.client_id, live);
                }
            }
            None => self.forget(connection, shard),
        }
    }

    fn is_handed_over(&mut self, shard: u32, client_id: &str) {
        if let Some(login) = self.of(shard).by_client.get_mut(client_id) {
            login.is_handed_over = true;
        }
    }

    /// Removes the data of that connection's login.
    pub fn forget(&mut self, connection: Connection<'_>, shard: u32) {
        if self.there(shard, connection.client_id).is_some_and(|login| login.is_of(connection)) {
            self.remove(shard, connection.client_id);
        }
    }

    /// A session has ended.
    pub fn over(&mut self, shard: u32, client_id: &str, session: u64) {
        if self.get(shard, client_id, session).is_some() {
            self.remove(shard, client_id);
        }
        self.of(shard).over(client_id, session);
    }

    pub fn remove(&mut self, shard: u32, client_id: &str) {
        let logins = self.of(shard);
        if let Some(gone) = logins.by_client.remove(client_id) {
            logins.note(client_id);
            if gone.yields {
                self.uncertain.remove(&(gone.owner, shard, client_id.into()));
            }
            self.release(&gone);
        }
    }

    pub fn forget_client(&mut self, client_id: &str, shard: u32) {
        if client_id == NO_CLIENT_ID {
            return self.lost.clear(shard);
        }
        self.remove(shard, client_id);
        let logins = self.of(shard);
        let hash = logins.hash(client_id);
        logins.live.remove(hash);
        let keys: Vec<Box<str>> = self.of(shard).pending_of(client_id).map(|(key, _)| key.into()).collect();
        for key in keys {
            self.drop_pending(shard, &key);
        }
    }

    /// Bytes of all entries.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
