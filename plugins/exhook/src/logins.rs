//! What logins gave to the hooks of one worker: bytes of the worker's own that are kept here for the process after it, and for the
//! version of the plugin after this one, as long as the session lasts. Shards look here when they describe a client, and say who comes
//! in and whose session is over; the worker's thread brings what the worker says. Nothing here knows what the bytes mean.

mod coming;
mod doubt;
mod lost;
mod not_stored;
mod state;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use grapnel_plugin_abi::Counter;
use rmpv::ValueRef;

use crate::wire::{Writer, flag_of, get, text_ref};
pub use coming::{OF_NOBODY, ON_THE_WAY_MAX};
pub use not_stored::NotStored;
pub use state::owner_of;
use state::{Bounds, Live, Login, Logins, State, TakesLate};

/// See the module.
#[derive(Debug)]
pub struct LoginStore {
    state: Mutex<State>,
    /// How many there are, so that who looks for none takes no lock; and whether some of them are doubted.
    count: AtomicUsize,
    has_doubted: AtomicBool,
    /// Whether nobody says which sessions end: all is doubted then.
    away: AtomicBool,
    /// How many gaps there were.
    gaps: AtomicU64,
    bounds: Bounds,
    /// Of what found no room.
    counter: Option<Counter>,
}

/// A client, by its identifier and the connection that is meant.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Its identifier.
    pub client_id: &'a str,
    /// Where it comes from.
    pub host: &'a str,
    /// Its port there.
    pub port: u16,
}

/// What a login gave, of whom.
#[derive(Clone, Copy, Debug)]
pub struct Gave<'a> {
    /// Whose login.
    pub whose: Connection<'a>,
    /// What it gave.
    pub bytes: &'a [u8],
    /// The same where its client begins another session, of one that is on its way in and wants to go on with the one that is there.
    pub anew: Option<&'a [u8]>,
    /// The process that has it itself; 0 for none.
    pub epoch: u64,
    /// The client's number, as this version knows it.
    pub number: u64,
}

/// What goes over to another version of the plugin.
#[derive(Clone, Copy, Debug)]
pub struct HandedOver<'a> {
    /// Whose, and what; `None` where it found no room.
    pub whose: Connection<'a>,
    pub bytes: Option<&'a [u8]>,
    /// As [`Gave::anew`].
    pub anew: Option<&'a [u8]>,
    /// Who is charged for it; without a client identifier the number of one in `lost.rs`.
    pub owner: u64,
    /// Whether its client has not come in yet.
    pub is_coming: bool,
    /// Whether its session may have ended unseen.
    pub is_doubted: bool,
    /// As [`Gave::number`]; 0 where that is not known. Without a client identifier the address of one in `lost.rs`.
    pub number: u64,
}

impl HandedOver<'_> {
    /// Of a connection in `lost.rs`, and its address.
    fn lost((owner, number): (u64, u64)) -> HandedOver<'static> {
        let whose = Connection { client_id: OF_NOBODY, host: "", port: 0 };
        let (bytes, anew, is_coming, is_doubted) = (None, None, true, false);
        HandedOver { whose, bytes, anew, owner, is_coming, is_doubted, number }
    }
}

impl LoginStore {
    /// None yet: at most so many bytes of one login, and of all, and of so many clients that are on their way in. `counter` counts
    /// what finds no room.
    pub fn new(
        (one_max, all_max): (usize, usize),
        coming_max: usize,
        counter: Option<Counter>,
    ) -> LoginStore {
        let bounds = Bounds { one_max, all_max, coming_max };
        let [has_doubted, away] = [const { AtomicBool::new(false) }; 2];
        let (count, gaps) = (AtomicUsize::new(0), AtomicU64::new(0));
        LoginStore { state: Mutex::default(), count, has_doubted, away, gaps, bounds, counter }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the state, after which it is known how much there is; what found no room is counted.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let before = state.not_stored.count();
        let result = change(&mut state);
        self.count.store(state.count + state.lost.len(), Ordering::Relaxed);
        self.has_doubted.store(state.has_doubted(), Ordering::Relaxed);
        let lost = state.not_stored.count() - before;
        if let Some(counter) = self.counter.filter(|_| lost > 0) {
            counter.add(u32::try_from(lost).unwrap_or(u32::MAX));
        }
        result
    }

    /// Keeps what a login gave, in the place of what there was of that client, so that no client has more than one. Where there is no
    /// room that is counted, and what there was is gone, too, since it is no longer true. Of a client that has no session (any more)
    /// nothing is kept. Whether a version that takes over is to hear of it, and who is charged.
    pub fn store(&self, gave: Gave<'_>, shard: u32) -> Option<u64> {
        self.change(|state| {
            let owner = state.of(shard).owner(gave.whose.client_id)?;
            state.put(&self.bounds, gave, shard, owner);
            state.of(shard).changed.is_some().then_some(owner)
        })
    }

    /// Keeps what a login gave whose client has not come in yet: until [`LoginStore::enter`], [`LoginStore::refused`], or others of its address
    /// need the room. Only of a connection about whose login the worker is still asked: of one that has closed nobody would ever say
    /// what became of it. As [`LoginStore::store`].
    pub fn store_of_login(&self, gave: Gave<'_>, shard: u32, now: Instant) -> Option<u64> {
        self.put_coming((gave.whose, shard), Some(gave), now)
    }

    /// The same where what it gave cannot be kept.
    pub fn none_coming(&self, whose: Connection<'_>, shard: u32, now: Instant) -> Option<u64> {
        self.put_coming((whose, shard), None, now)
    }

    fn put_coming(&self, whose: (Connection<'_>, u32), gave: Option<Gave<'_>>, now: Instant) -> Option<u64> {
        let owner = owner_of(None, whose.0.host);
        self.change(|state| {
            state.put_coming(&self.bounds, whose, gave, (owner, None, now));
            state.of(whose.1).changed.is_some().then_some(owner)
        })
    }

    /// A client has come in, for whom this owner is charged: what its login gave is its session's from now on, which was there before
    /// or has just begun.
    pub fn enter(&self, whose: Connection<'_>, shard: u32, owner: u64, goes_on: bool) {
        self.change(|state| state.enter(&self.bounds, whose, shard, Live { owner, goes_on }));
    }

    /// What the login of a client that has come in already gave has come after that.
    pub fn enter_again(&self, whose: Connection<'_>, shard: u32) {
        self.change(|state| {
            if let Some(live) = state.of(shard).live(whose.client_id) {
                state.enter(&self.bounds, whose, shard, live);
            }
        });
    }

    /// A client was not let in.
    pub fn refused(&self, whose: Connection<'_>, shard: u32) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.change(|state| drop(state.end_coming(whose, shard)));
        }
    }

    /// The worker says that what that connection's login gave is no longer true. As [`LoginStore::store`].
    pub fn forget(&self, whose: Connection<'_>, shard: u32) -> Option<u64> {
        self.change(|state| {
            state.forget(whose, shard);
            state.of(shard).changed.is_some().then_some(0)
        })
    }

    /// The session of this client is over, whichever connection it was of.
    pub fn over(&self, client_id: &str, shard: u32) {
        self.change(|state| {
            state.remove(shard, client_id);
            state.of(shard).over(client_id, self.bounds.coming_max);
        });
    }

    /// Lets go of what is on its way in for too long, and of what is no longer asked for. Called now and then.
    pub fn expire(&self, now: Instant) {
        self.change(|state| state.expire(now));
    }

    /// Nobody says any more which sessions end, as while the plugin is disabled: what is kept is shown to nobody. In a reload, what
    /// the worker of this version says late is for the next version all the same.
    pub fn is_away(&self) {
        self.away.store(true, Ordering::Release);
    }

    /// Somebody says that again; of what is kept nobody knows whose it is.
    pub fn is_back(&self) {
        if !self.away.load(Ordering::Acquire) {
            return;
        }
        self.change(|state| {
            let shards: Vec<u32> = state.shards.keys().copied().collect();
            shards.into_iter().for_each(|shard| state.begin_doubt(shard));
        });
        self.gaps.fetch_add(1, Ordering::Relaxed);
        self.away.store(false, Ordering::Release);
    }

    /// There was a gap in what was said of a shard's sessions: what is kept of them is shown to nobody until it is known whose it is,
    /// and makes room for others.
    pub fn doubt(&self, shard: u32) {
        self.change(|state| state.begin_doubt(shard));
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// How many gaps there were, of all shards.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    /// The same where it is not the first one after a gap.
    #[cfg(test)]
    pub fn confirm(&self, whose: Connection<'_>, shard: u32, owner: impl FnOnce() -> u64) {
        self.confirm_once(whose, shard, false, owner);
    }

    /// An event of a connection has come that is in; whether it is the first one after a gap of one that was known before, so that it is
    /// noted again that it is in.
    pub fn confirm_once(
        &self,
        whose: Connection<'_>,
        shard: u32,
        is_first: bool,
        owner: impl FnOnce() -> u64,
    ) {
        if is_first || self.has_doubted.load(Ordering::Relaxed) {
            let owner = owner();
            self.change(|state| state.confirm(whose, shard, owner, is_first));
        }
    }

    /// What the login of that connection of this owner gave. Somebody else may come from the same port later, under the same identifier.
    pub fn of(&self, whose: Connection<'_>, shard: u32, owner: u64) -> Option<Box<[u8]>> {
        if self.shows_nothing() {
            return None;
        }
        let state = self.lock();
        let login = state.get(shard, whose.client_id)?;
        (login.is_of(whose) && login.owner == owner).then(|| login.bytes.clone())
    }

    /// What the login gave that the session of this client is from, unless process `epoch` has that itself.
    pub fn stored(&self, client_id: &str, shard: u32, epoch: u64) -> Option<Box<[u8]>> {
        if self.shows_nothing() {
            return None;
        }
        let state = self.lock();
        state.get(shard, client_id).filter(|login| login.epoch != epoch).map(|login| login.bytes.clone())
    }

    /// Of a client of a shard that is described so: a description that says what its login gave besides.
    pub fn described(&self, about: &[u8], shard: u32) -> Option<Vec<u8>> {
        if self.shows_nothing() {
            return None;
        }
        let value = rmpv::decode::read_value_ref(&mut { about }).ok()?;
        let (client_id, host) = (get(&value, "client_id")?, get(&value, "peer_host")?);
        let port = get(&value, "peer_port")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        let of = Connection { client_id: text_ref(client_id)?, host: text_ref(host)?, port };
        if is_entering(&value) {
            return None;
        }
        let user = get(&value, "username").and_then(text_ref);
        let is_anonymous = get(&value, "anonymous").and_then(flag_of)?;
        let login = self.of(of, shard, owner_of(user.filter(|_| !is_anonymous), of.host))?;
        let mut bytes = Vec::new();
        let mut out = Writer(&mut bytes);
        out.map(4).text("client_id").text(of.client_id).text("peer_host").text(of.host);
        out.text("peer_port").number(of.port).text("login").bytes(&login);
        Some(bytes)
    }

    /// Of a client of a shard that is coming in and was described so to another process than `epoch`: the description with what the
    /// login gave that the session is from. `None` where nothing is to be added.
    pub fn entering(&self, about: &[u8], shard: u32, epoch: u64) -> Option<Vec<u8>> {
        if self.shows_nothing() {
            return None;
        }
        let value = rmpv::decode::read_value_ref(&mut { about }).ok()?;
        // Who is in already is not judged by what others have left.
        if !is_entering(&value) {
            return None;
        }
        let stored = self.stored(text_ref(get(&value, "client_id")?)?, shard, epoch)?;
        let ValueRef::Map(mut pairs) = value else { return None };
        pairs.retain(|(key, _)| text_ref(key) != Some("stored"));
        pairs.push((ValueRef::from("stored"), ValueRef::Binary(&stored)));
        let mut bytes = Vec::new();
        rmpv::encode::write_value_ref(&mut bytes, &ValueRef::Map(pairs)).ok()?;
        Some(bytes)
    }

    /// Whether there is nothing that may be shown.
    fn shows_nothing(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0 || self.away.load(Ordering::Acquire)
    }

    /// What has found no room since this was asked last.
    pub fn take_not_stored(&self) -> NotStored {
        std::mem::take(&mut self.lock().not_stored)
    }

    // What goes over to the next version, and comes from the one before

    /// The client of a shard behind this one, in order of their names, that something is kept of.
    pub fn next(&self, shard: u32, after: Option<&str>) -> Option<String> {
        let state = self.lock();
        if after.is_none() && state.lost.of_shard(shard).next().is_some() {
            return Some(OF_NOBODY.to_owned());
        }
        let logins = state.shards.get(&shard)?;
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let first =
            logins.by_client.range::<str, _>((behind, Bound::Unbounded)).next().map(|(name, _)| &**name);
        first.into_iter().chain(logins.next_coming(after)).min().map(str::to_owned)
    }

    /// Calls with each that is kept of a client of a shard.
    pub fn each_of(&self, shard: u32, client_id: &str, mut call: impl FnMut(HandedOver<'_>)) {
        let state = self.lock();
        let is_away = self.away.load(Ordering::Acquire);
        if client_id == OF_NOBODY {
            state.lost.of_shard(shard).for_each(|of| call(HandedOver::lost(of)));
        } else if let Some(logins) = state.shards.get(&shard) {
            logins.each_of(client_id, &mut |over| {
                let is_doubted = over.is_doubted || is_away && !over.is_coming;
                call(HandedOver { is_doubted, ..over });
            });
        }
    }

    /// Takes over what the version before has kept, and may do so for as long as it lasts, until [`LoginStore::over`].
    pub fn take_over(&self, shard: u32, over: HandedOver<'_>, now: Instant) {
        self.change(|state| state.take_over(&self.bounds, shard, over, now));
    }

    /// Takes over what the worker of the version before says of a login after all has gone over, unless that session has ended here
    /// meanwhile; whether it did. Nothing is the word that it is no longer true. What is refused although its session may go on is
    /// counted. Of who had been let in before that, what became of its login has gone over, and what was doubted stays so. Another
    /// connection may have come from the same port since: the worker before has given it a higher number.
    pub fn take_late(&self, shard: u32, over: HandedOver<'_>, now: Instant) -> bool {
        self.change(|state| {
            let takes = state.of(shard).takes_late(over.whose.client_id, now);
            if !over.is_coming && takes != TakesLate::Yes {
                let is_lost = takes == TakesLate::NoLonger && over.bytes.is_some();
                state.not_stored.handed_over += u64::from(is_lost);
                return false;
            }
            let is_in = |login: &Login| login.is_of(over.whose) && !login.is_before(over.number);
            if over.is_coming && state.there(shard, over.whose.client_id).is_some_and(is_in) {
                return false;
            }
            let is_doubted = over.is_doubted || state.is_doubted(shard, over.whose.client_id);
            let over = HandedOver { is_doubted, ..over };
            state.take_over(&self.bounds, shard, over, now);
            true
        })
    }

    /// Whether there is a table of this shard.
    #[cfg(test)]
    pub fn has_shard(&self, shard: u32) -> bool {
        self.lock().shards.contains_key(&shard)
    }

    /// Until then the worker of the version before may say more.
    pub fn expect_more(&self, shard: u32, until: Instant) {
        self.lock().of(shard).expect_more(until);
    }

    /// What could not be given to the version that takes over is counted as well.
    pub fn lost_on_the_way(&self) {
        self.change(|state| state.not_stored.handed_over += 1);
    }

    /// Forgets what was kept of a client, all of it.
    pub fn forget_client(&self, client_id: &str, shard: u32) {
        self.change(|state| state.forget_client(client_id, shard));
    }

    /// Forgets those of a shard.
    pub fn clear(&self, shard: u32) {
        self.change(|state| {
            state.lost.clear(shard);
            while let Some(name) = state.of(shard).first() {
                state.forget_client(&name, shard);
            }
        });
    }

    /// From now on, or no longer, [`LoginStore::take_changes`] is asked for whose of a shard have changed.
    pub fn note_changes(&self, shard: u32, noted: bool) {
        let mut state = self.lock();
        let Logins { changed, .. } = state.of(shard);
        if !noted {
            *changed = None;
        } else if changed.is_none() {
            *changed = Some(BTreeSet::new());
        }
    }

    /// Whose of a shard have changed since this was asked last.
    pub fn take_changes(&self, shard: u32) -> BTreeSet<Box<str>> {
        self.lock().of(shard).changed.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Whether somebody is described so who wants to come in, and whose login has given nothing yet.
fn is_entering(described: &ValueRef<'_>) -> bool {
    get(described, "will").is_some() && get(described, "earlier").is_none()
}

#[cfg(test)]
mod tests;
