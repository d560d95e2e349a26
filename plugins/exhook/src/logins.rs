//! Login data: the bytes that login hooks of one worker return for storage. This store keeps them
//! for as long as the session lasts, for the next process of the worker and the next version of the
//! plugin. Shards read it when they describe a client, and report which clients connect and which
//! sessions end. The worker's thread writes it. Nothing here interprets the bytes.

mod live;
mod lost;
mod not_stored;
mod pending;
mod state;
mod uncertain;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use grapnel_plugin_abi::Counter;
use rmpv::ValueRef;

use crate::wire::{Writer, flag_of, get, text_ref};
use live::{LIVE_LEAST, Live};
use lost::LostLogin;
pub use lost::hash_of;
pub use not_stored::NotStored;
pub use pending::{NO_CLIENT_ID, PENDING_TIME_MAX};
pub use state::owner_of;
use state::{Bounds, Logins, State};

/// See the module.
#[derive(Debug)]
pub struct LoginStore {
    state: Mutex<State>,
    /// Number of entries, so that a lookup in an empty store takes no lock.
    count: AtomicUsize,
    /// Number of gaps so far (see `mark_uncertain.rs`).
    gaps: AtomicU64,
    bounds: Bounds,
    /// Counts the logins whose data could not be stored.
    counter: Option<Counter>,
}

/// A client identifier and the connection that uses it.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The client identifier.
    pub client_id: &'a str,
    /// Address of the peer.
    pub host: &'a str,
    /// Port of the peer.
    pub port: u16,
}

/// The data of one login.
#[derive(Clone, Copy, Debug)]
pub struct LoginData<'a> {
    /// The connection that logged in.
    pub connection: Connection<'a>,
    /// What it gave.
    pub bytes: &'a [u8],
    /// The data to use instead if the broker starts a new session. Only for a pending login that
    /// requested to resume an existing session.
    pub new_session: Option<&'a [u8]>,
    /// The process that has the data itself; 0 for none.
    pub epoch: u64,
    /// The client's number in this version of the plugin.
    pub number: u64,
}

/// The login of a connection that was seen before its client connected.
#[derive(Clone, Copy, Debug)]
pub struct OwnLogin {
    /// As [`LoginData::number`].
    pub number: u64,
    /// The session under its client identifier at that time; 0 for none.
    pub session: u64,
}

/// An entry that is handed over to another version of the plugin.
#[derive(Clone, Copy, Debug)]
pub struct HandedOver<'a> {
    /// The connection, and its data; `None` where the data could not be stored.
    pub connection: Connection<'a>,
    pub bytes: Option<&'a [u8]>,
    /// As [`LoginData::new_session`].
    pub new_session: Option<&'a [u8]>,
    /// Who is charged for it. For an entry of `lost.rs` (no client identifier): its number there.
    pub owner: u64,
    /// Whether the login is still pending.
    pub is_pending: bool,
    /// Whether its session may have ended without a notification.
    pub is_uncertain: bool,
    /// As [`LoginData::number`]; 0 where it is not known. For an entry of `lost.rs` (no client
    /// identifier): its address there.
    pub number: u64,
    /// The session that it belongs to; 0 while the login is pending. For an entry of `lost.rs` (no
    /// client identifier): the hash of the client identifier, or 0 for all of an address.
    pub session: u64,
}

impl HandedOver<'_> {
    /// An entry of `lost.rs`.
    fn lost(lost: LostLogin) -> HandedOver<'static> {
        let LostLogin { number: owner, share: number, client: session } = lost;
        let connection = Connection { client_id: NO_CLIENT_ID, host: "", port: 0 };
        let (bytes, new_session, is_pending, is_uncertain) = (None, None, true, false);
        HandedOver { connection, bytes, new_session, owner, is_pending, is_uncertain, number, session }
    }

    /// The hash of the client identifier; `None` for an entry of a whole address.
    pub fn client(&self) -> Option<u64> {
        match (self.connection.client_id, self.session) {
            (NO_CLIENT_ID, 0) => None,
            (NO_CLIENT_ID, client) => Some(client),
            (client_id, _) => Some(hash_of(client_id)),
        }
    }
}

impl LoginStore {
    /// An empty store. It holds at most `one_max` bytes for one login, `all_max` bytes in all, the
    /// data of `pending_max` pending logins, and as many sessions of each shard, but at least
    /// [`LIVE_LEAST`]. `counter` counts the logins whose data could not
    /// be stored.
    pub fn new(
        (one_max, all_max): (usize, usize),
        pending_max: usize,
        counter: Option<Counter>,
    ) -> LoginStore {
        let bounds = Bounds { one_max, all_max, pending_max, live_max: pending_max.max(LIVE_LEAST) };
        let (count, gaps) = (AtomicUsize::new(0), AtomicU64::new(0));
        LoginStore { state: Mutex::default(), count, gaps, bounds, counter }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on the state, then updates the number of entries and counts what could not be
    /// stored.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let before = state.not_stored.count();
        let result = change(&mut state);
        self.count.store(state.count + state.lost.len(), Ordering::Relaxed);
        let lost = state.not_stored.count() - before;
        if let Some(counter) = self.counter.filter(|_| lost > 0) {
            counter.add(u32::try_from(lost).unwrap_or(u32::MAX));
        }
        result
    }

    /// Stores the data of a login. It replaces the earlier data of that client, so that a client
    /// has one entry at most. If there is no room, the failure is counted and the earlier data is
    /// removed, since it is outdated. Nothing is stored if this is not the last connection of its
    /// session. Returns who is charged, and the session, if a version that takes over must be
    /// informed.
    pub fn store(&self, data: LoginData<'_>, shard: u32) -> Option<(u64, u64)> {
        self.change(|state| {
            let live = state.of(shard).live_of(data.connection)?;
            state.put(&self.bounds, data, shard, live);
            state.of(shard).changed.is_some().then_some((live.owner, live.session))
        })
    }

    /// Stores the data of a pending login until [`LoginStore::enter`] or [`LoginStore::refused`],
    /// or until other logins from its address need the room. Call it only while the worker's answer
    /// to the login is awaited: the end of a connection that has already closed would never be
    /// reported. Returns the same as [`LoginStore::store`].
    pub fn store_of_login(&self, data: LoginData<'_>, shard: u32, now: Instant) -> Option<(u64, u64)> {
        self.put_pending((data.connection, shard), Some(data), now)
    }

    /// As [`LoginStore::store_of_login`], for data that cannot be stored.
    pub fn pending_without_data(
        &self,
        connection: Connection<'_>,
        shard: u32,
        now: Instant,
    ) -> Option<(u64, u64)> {
        self.put_pending((connection, shard), None, now)
    }

    fn put_pending(
        &self,
        connection: (Connection<'_>, u32),
        data: Option<LoginData<'_>>,
        now: Instant,
    ) -> Option<(u64, u64)> {
        let owner = owner_of(None, connection.0.host);
        self.change(|state| {
            state.put_pending(&self.bounds, connection, data, (owner, None, now));
            state.of(connection.1).changed.is_some().then_some((owner, 0))
        })
    }

    /// A client of this owner has connected and has session `session`, which it has resumed
    /// (`goes_on`) or begun. The data of its login belongs to that session from now on.
    pub fn enter(&self, connection: Connection<'_>, shard: u32, (session, owner): (u64, u64), goes_on: bool) {
        let live = Live::of(connection, session, owner, goes_on);
        self.change(|state| state.enter(&self.bounds, connection, shard, live));
    }

    /// As [`LoginStore::enter`], where the CONNACK was not seen. If there is a pending login from
    /// this address, and it is not `own`, the one of this connection, nothing is stored of this login.
    pub fn enter_unanswered(
        &self,
        connection: Connection<'_>,
        shard: u32,
        (session, owner): (u64, u64),
        own: Option<OwnLogin>,
    ) {
        self.change(|state| {
            if let Some(own) = own.filter(|own| state.is_pending(connection, shard, own.number)) {
                let goes_on = state.goes_on(connection, shard, (own.session, session));
                let live = Live::of(connection, session, owner, goes_on);
                return state.enter(&self.bounds, connection, shard, live);
            }
            let (pending, is_lost) = state.end_pending(connection, shard);
            if pending.is_some() || is_lost {
                state.remove(shard, connection.client_id);
            }
            state.enter(&self.bounds, connection, shard, Live::of(connection, session, owner, false));
        });
    }

    /// The data of a login has arrived after its client connected.
    pub fn enter_again(&self, connection: Connection<'_>, shard: u32) {
        self.change(|state| {
            if let Some(live) = state.of(shard).live_of(connection) {
                state.enter(&self.bounds, connection, shard, live);
            }
        });
    }

    /// A client was refused.
    pub fn refused(&self, connection: Connection<'_>, shard: u32) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.change(|state| drop(state.end_pending(connection, shard)));
        }
    }

    /// The worker says that the data of this connection's login is no longer valid. Returns the
    /// same as [`LoginStore::store`].
    pub fn forget(&self, connection: Connection<'_>, shard: u32) -> Option<(u64, u64)> {
        self.change(|state| {
            state.forget(connection, shard);
            state.of(shard).changed.is_some().then_some((0, 0))
        })
    }

    /// This session of a client has ended, whichever connection it belonged to.
    pub fn over(&self, client_id: &str, shard: u32, session: u64) {
        self.change(|state| state.over(shard, client_id, session));
    }

    /// Removes pending logins that are too old, and lists doubted entries. Call it regularly.
    pub fn expire(&self, now: Instant) {
        self.change(|state| state.expire(now));
    }

    /// Session events of a shard were missed. Its entries are evicted first until an event confirms
    /// that their sessions exist.
    pub fn mark_uncertain(&self, shard: u32) {
        self.change(|state| state.begin_gap(shard));
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of gaps so far, of all shards.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    /// The first event of a connection after a gap, or at all. `was_known` is set for a connection
    /// that had events before the gap.
    pub fn confirm(
        &self,
        connection: Connection<'_>,
        shard: u32,
        (session, owner): (u64, u64),
        was_known: bool,
    ) {
        let live = Live::of(connection, session, owner, false);
        let live = Live { was_seen: false, is_uncertain: !was_known, ..live };
        self.change(|state| state.confirm(&self.bounds, connection, shard, live));
    }

    /// The data of this connection's login. The owner is compared too, because another user may
    /// later connect from the same port and inherit the session.
    pub fn of(
        &self,
        connection: Connection<'_>,
        shard: u32,
        (session, owner): (u64, u64),
    ) -> Option<Box<[u8]>> {
        if self.is_empty() {
            return None;
        }
        let state = self.lock();
        let login = state.get(shard, connection.client_id, session)?;
        (login.is_of(connection) && login.owner == owner).then(|| login.bytes.clone())
    }

    /// The data of the login that began this session of a client, unless process `epoch` has it
    /// already.
    pub fn stored(&self, client_id: &str, shard: u32, session: u64, epoch: u64) -> Option<Box<[u8]>> {
        if self.is_empty() {
            return None;
        }
        let state = self.lock();
        let login = state.get(shard, client_id, session).filter(|login| login.epoch != epoch);
        login.map(|login| login.bytes.clone())
    }

    /// A partial description that adds the login data to the client's description `about`.
    pub fn described(&self, about: &[u8], shard: u32, session: u64) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let value = rmpv::decode::read_value_ref(&mut { about }).ok()?;
        let (client_id, host) = (get(&value, "client_id")?, get(&value, "peer_host")?);
        let port = get(&value, "peer_port")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        let of = Connection { client_id: text_ref(client_id)?, host: text_ref(host)?, port };
        if is_connecting(&value) {
            return None;
        }
        let user = get(&value, "username").and_then(text_ref);
        let is_anonymous = get(&value, "anonymous").and_then(flag_of)?;
        let owner = owner_of(user.filter(|_| !is_anonymous), of.host);
        let login = self.of(of, shard, (session, owner))?;
        let mut bytes = Vec::new();
        let mut out = Writer(&mut bytes);
        out.map(4).text("client_id").text(of.client_id).text("peer_host").text(of.host);
        out.text("peer_port").number(of.port).text("login").bytes(&login);
        Some(bytes)
    }

    /// The description of a client that is connecting, with the data of the login that began its
    /// session. `None` where there is nothing to add. `epoch` is the process that will read it.
    pub fn describe_connecting(&self, about: &[u8], shard: u32, session: u64, epoch: u64) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let value = rmpv::decode::read_value_ref(&mut { about }).ok()?;
        // Stored data of an earlier login must not affect a client that is already connected.
        if !is_connecting(&value) {
            return None;
        }
        let stored = self.stored(text_ref(get(&value, "client_id")?)?, shard, session, epoch)?;
        let ValueRef::Map(mut pairs) = value else { return None };
        pairs.retain(|(key, _)| text_ref(key) != Some("stored"));
        pairs.push((ValueRef::from("stored"), ValueRef::Binary(&stored)));
        let mut bytes = Vec::new();
        rmpv::encode::write_value_ref(&mut bytes, &ValueRef::Map(pairs)).ok()?;
        Some(bytes)
    }

    /// Whether nothing is stored.
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// What could not be stored since the last call.
    pub fn take_not_stored(&self) -> NotStored {
        std::mem::take(&mut self.lock().not_stored)
    }

    // Handover to and from other versions of the plugin

    /// The next client of a shard with an entry, after `after` in the order of identifiers.
    pub fn next(&self, shard: u32, after: Option<&str>) -> Option<String> {
        let state = self.lock();
        if after.is_none() && state.lost.of_shard(shard).next().is_some() {
            return Some(NO_CLIENT_ID.to_owned());
        }
        let logins = state.shards.get(&shard)?;
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let first =
            logins.by_client.range::<str, _>((behind, Bound::Unbounded)).next().map(|(name, _)| &**name);
        first.into_iter().chain(logins.next_pending(after)).min().map(str::to_owned)
    }

    /// Calls `call` with each entry of a client of a shard.
    pub fn each_of(&self, shard: u32, client_id: &str, mut call: impl FnMut(HandedOver<'_>)) {
        let state = self.lock();
        if client_id == NO_CLIENT_ID {
            state.lost.of_shard(shard).for_each(|of| call(HandedOver::lost(of)));
        } else if let Some(logins) = state.shards.get(&shard) {
            logins.each_of(client_id, &mut call);
        }
    }

    /// Takes over an entry of the version before.
    pub fn take_over(&self, shard: u32, over: HandedOver<'_>, now: Instant) {
        self.change(|state| state.take_over(&self.bounds, shard, over, now));
    }

    /// Takes over an entry that the worker of the version before reports after the handover.
    /// Returns whether it was taken: it is not taken if a later session or a later connection has an
    /// entry here. An entry without data says that the earlier data is no longer valid. Another
    /// connection may have come from the same port since; then the worker before has given it a
    /// higher number.
    pub fn take_late(&self, shard: u32, over: HandedOver<'_>, now: Instant) -> bool {
        let (connection, session) = (over.connection, over.session);
        self.change(|state| {
            let there = state.there(shard, connection.client_id);
            let is_connected =
                there.is_some_and(|login| login.is_of(connection) && !login.is_before(over.number));
            let is_later = there.is_some_and(|login| {
                login.session > session || login.session == session && !login.is_of(connection)
            });
            let live = state.of(shard).live(connection.client_id);
            if over.is_pending {
                if is_connected {
                    return false;
                }
            } else if over.bytes.is_some() && (is_later || live.is_some_and(|live| live.session > session)) {
                return false;
            }
            // If no event has shown its session here, it may have ended.
            let is_there = live.is_some_and(|live| live.session == session && !live.is_uncertain);
            let over = HandedOver { is_uncertain: over.is_uncertain || !is_there, ..over };
            state.take_over(&self.bounds, shard, over, now);
            true
        })
    }

    /// Whether there is a table of this shard.
    #[cfg(test)]
    pub fn has_shard(&self, shard: u32) -> bool {
        self.lock().shards.contains_key(&shard)
    }

    /// Counts an entry that could not be handed over.
    pub fn note_handover_loss(&self) {
        self.change(|state| state.not_stored.handed_over += 1);
    }

    /// Removes all entries of a client.
    pub fn forget_client(&self, client_id: &str, shard: u32) {
        self.change(|state| state.forget_client(client_id, shard));
    }

    /// Removes all entries of a shard.
    pub fn clear(&self, shard: u32) {
        self.change(|state| {
            state.lost.clear(shard);
            while let Some(name) = state.of(shard).first() {
                state.forget_client(&name, shard);
            }
        });
    }

    /// Starts or stops recording which clients of a shard have changed, for
    /// [`LoginStore::take_changes`].
    pub fn note_changes(&self, shard: u32, noted: bool) {
        let mut state = self.lock();
        let Logins { changed, .. } = state.of(shard);
        if !noted {
            *changed = None;
        } else if changed.is_none() {
            *changed = Some(BTreeSet::new());
        }
    }

    /// The clients of a shard whose entries have changed since the last call.
    pub fn take_changes(&self, shard: u32) -> BTreeSet<Box<str>> {
        self.lock().of(shard).changed.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Whether this describes a client that is connecting and whose login has no data yet.
fn is_connecting(described: &ValueRef<'_>) -> bool {
    get(described, "will").is_some() && get(described, "earlier").is_none()
}

#[cfg(test)]
mod tests;
