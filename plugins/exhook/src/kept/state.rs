//! The tables behind `Kept`: those of sessions and those of clients on their way in, of each shard, and who is charged for them. Under
//! its lock; each step is a few look-ups.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::ops::Bound;
use std::time::Instant;

use grapnel_plugin_abi::address_share;

use super::{Connection, Gave, HandedOver, Unkept};

/// What an entry costs besides its bytes.
pub(super) const ENTRY: usize = 128;

/// One owner has at most this part of what the others leave free.
const SHARE: usize = 8;

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub one_max: usize,
    pub all_max: usize,
    pub coming_max: usize,
}

/// What a login gave.
#[derive(Debug)]
pub(super) struct Login {
    /// The connection that it was, or is.
    pub host: Box<str>,
    pub port: u16,
    pub bytes: Box<[u8]>,
    /// The process that has it itself.
    pub epoch: u64,
    owner: u64,
    cost: usize,
}

/// One on its way in; nothing where there was no room, so that what its session had before is not taken for it.
#[derive(Debug)]
struct Coming {
    login: Option<Login>,
    number: u64,
}

/// Those of a shard's clients, one for each session at most.
#[derive(Debug, Default)]
pub(super) struct Logins {
    pub by_client: BTreeMap<Box<str>, Login>,
    /// By client and connection, see [`key_of`]; and the same in the order in which they came.
    coming: BTreeMap<Box<str>, Coming>,
    order: BTreeMap<u64, Box<str>>,
    /// The sessions that there are of those that have come in, by their client identifiers, with who is charged.
    live: HashMap<u64, u64>,
    /// Client identifiers whose sessions have ended since this version has taken over, as long as the worker of the one before may say
    /// something of them.
    ended: Option<Ended>,
    /// While somebody wants to know: whose have changed.
    pub changed: Option<BTreeSet<Box<str>>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Ended {
    until: Instant,
    clients: HashSet<u64>,
    /// More than are noted: whatever is said is too late then.
    too_many: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub shards: BTreeMap<u32, Logins>,
    bytes: usize,
    /// What each owner is charged with.
    owners: HashMap<u64, usize>,
    pub count: usize,
    next: u64,
    pub unkept: Unkept,
}

/// Who is charged for a login: its user, or where nobody has vouched for one, its address, as it is charged for what waits. The
/// same in the next version.
pub fn owner_of(user: Option<&str>, address: &str) -> u64 {
    let address = if user.is_some() { "".into() } else { address_share(address) };
    BuildHasherDefault::<DefaultHasher>::default().hash_one((user, address))
}

/// A connection in order of client identifiers, which have no U+0000.
fn key_of(whose: Connection<'_>) -> Box<str> {
    format!("{}\0{}\0{}", whose.client_id, whose.host, whose.port).into()
}

/// The client identifier of a key.
fn client_of(key: &str) -> &str {
    key.split_once('\0').map_or(key, |(client_id, _)| client_id)
}

impl Login {
    pub fn is_of(&self, whose: Connection<'_>) -> bool {
        (&*self.host, self.port) == (whose.host, whose.port)
    }
}

impl Logins {
    fn hash(&self, client_id: &str) -> u64 {
        self.hasher.hash_one(client_id)
    }

    /// Who is charged for a client that has a session.
    pub fn owner(&self, client_id: &str) -> Option<u64> {
        self.live.get(&self.hash(client_id)).copied()
    }

    /// A session has ended.
    pub fn over(&mut self, client_id: &str, noted_max: usize) {
        let hash = self.hash(client_id);
        self.live.remove(&hash);
        if self.live.capacity() > 1024 && self.live.len() * 8 < self.live.capacity() {
            self.live.shrink_to(self.live.len() * 2);
        }
        if let Some(ended) = &mut self.ended {
            if ended.clients.len() < noted_max {
                ended.clients.insert(hash);
            } else {
                ended.too_many = true;
            }
        }
    }

    /// Whether what the version before says of a client comes too late.
    pub fn is_over(&mut self, client_id: &str, now: Instant) -> bool {
        let hash = self.hash(client_id);
        self.ended = self.ended.take().filter(|ended| now <= ended.until);
        self.ended.as_ref().is_none_or(|ended| ended.too_many || ended.clients.contains(&hash))
    }

    pub fn expect_more(&mut self, until: Instant) {
        self.ended = Some(Ended { until, clients: HashSet::new(), too_many: false });
    }

    fn note(&mut self, client_id: &str) {
        if let Some(changed) = &mut self.changed {
            changed.insert(client_id.into());
        }
    }

    /// The client behind this one, in order of their names, of those on their way in.
    pub fn next_coming(&self, after: Option<&str>) -> Option<&str> {
        let from = after.map_or(String::new(), |after| format!("{after}\u{1}"));
        let range = (Bound::Included(&*from), Bound::Unbounded);
        self.coming.range::<str, _>(range).next().map(|(key, _)| client_of(key))
    }

    /// Some client that something is kept of.
    pub fn first(&self) -> Option<Box<str>> {
        self.by_client.keys().next().map(|name| &**name).or_else(|| self.next_coming(None)).map(Box::from)
    }

    fn coming_of(&self, client_id: &str) -> impl Iterator<Item = (&str, &Coming)> {
        let (from, to) = (format!("{client_id}\0"), format!("{client_id}\u{1}"));
        let range = (Bound::Included(&*from), Bound::Excluded(&*to));
        self.coming.range::<str, _>(range).map(|(key, coming)| (&**key, coming))
    }

    pub fn each_of(&self, client_id: &str, call: &mut dyn FnMut(HandedOver<'_>)) {
        if let Some(Login { host, port, bytes, owner, .. }) = self.by_client.get(client_id) {
            let whose = Connection { client_id, host, port: *port };
            call(HandedOver { whose, bytes: Some(bytes), owner: *owner, is_coming: false });
        }
        for (key, coming) in self.coming_of(client_id) {
            let mut parts = key.rsplitn(3, '\0');
            let (Some(port), Some(host)) = (parts.next().and_then(|port| port.parse().ok()), parts.next())
            else {
                continue;
            };
            let (bytes, owner) = (coming.login.as_ref().map(|login| &*login.bytes), owner_of(None, host));
            let whose = Connection { client_id, host, port };
            call(HandedOver { whose, bytes, owner, is_coming: true });
        }
    }
}

impl State {
    pub fn of(&mut self, shard: u32) -> &mut Logins {
        self.shards.entry(shard).or_default()
    }

    pub fn get(&self, shard: u32, client_id: &str) -> Option<&Login> {
        self.shards.get(&shard)?.by_client.get(client_id)
    }

    /// A login for which there is room, which is taken; counted where there is none. What had been `granted` so many bytes before
    /// needs no share of the owner's for as many.
    fn room(
        &mut self,
        bounds: &Bounds,
        Gave { whose, bytes, epoch }: Gave<'_>,
        owner: u64,
        granted: usize,
    ) -> Option<Login> {
        let cost = ENTRY + whose.client_id.len() + whose.host.len() + bytes.len();
        let own = self.owners.get(&owner).copied().unwrap_or(0);
        let free = bounds.all_max.saturating_sub(self.bytes - own);
        let full = if bytes.len() > bounds.one_max {
            &mut self.unkept.too_long
        } else if own + cost > free {
            &mut self.unkept.of_all
        } else if own > 0 && cost > granted && own + cost > free / SHARE {
            &mut self.unkept.of_user
        } else {
            self.bytes += cost;
            self.count += 1;
            *self.owners.entry(owner).or_default() += cost;
            return Some(Login {
                host: whose.host.into(),
                port: whose.port,
                bytes: bytes.into(),
                epoch,
                owner,
                cost,
            });
        };
        *full += 1;
        None
    }

    fn release(&mut self, login: &Login) {
        self.bytes -= login.cost;
        self.count -= 1;
        if let Some(own) = self.owners.get_mut(&login.owner) {
            *own -= login.cost;
            if *own == 0 {
                self.owners.remove(&login.owner);
            }
        }
    }

    /// In the place of what there was.
    pub fn put(&mut self, bounds: &Bounds, gave: Gave<'_>, shard: u32, owner: u64) {
        let before = self.get(shard, gave.whose.client_id).filter(|login| login.owner == owner);
        let granted = before.map_or(0, |login| login.cost);
        self.put_granted(bounds, gave, shard, (owner, granted));
    }

    fn put_granted(&mut self, bounds: &Bounds, gave: Gave<'_>, shard: u32, (owner, granted): (u64, usize)) {
        let client_id = gave.whose.client_id;
        self.remove(shard, client_id);
        if let Some(login) = self.room(bounds, gave, owner, granted) {
            self.of(shard).by_client.insert(client_id.into(), login);
        }
        self.of(shard).note(client_id);
    }

    pub fn put_coming(&mut self, bounds: &Bounds, gave: Gave<'_>, shard: u32, owner: u64) {
        let before = self.take_coming(gave.whose, shard).flatten();
        let granted = before.filter(|login| login.owner == owner).map_or(0, |login| login.cost);
        self.put_coming_granted(bounds, gave, shard, (owner, granted));
    }

    fn put_coming_granted(
        &mut self,
        bounds: &Bounds,
        gave: Gave<'_>,
        shard: u32,
        (owner, granted): (u64, usize),
    ) {
        drop(self.take_coming(gave.whose, shard));
        let login = self.room(bounds, gave, owner, granted);
        self.add_coming(bounds, gave.whose, shard, login);
    }

    pub fn none_coming(&mut self, bounds: &Bounds, whose: Connection<'_>, shard: u32) {
        drop(self.take_coming(whose, shard));
        self.add_coming(bounds, whose, shard, None);
    }

    fn add_coming(&mut self, bounds: &Bounds, whose: Connection<'_>, shard: u32, login: Option<Login>) {
        if self.of(shard).coming.len() >= bounds.coming_max
            && let Some((_, oldest)) = self.of(shard).order.pop_first()
        {
            self.unkept.of_coming += 1;
            self.drop_coming(shard, &oldest);
        }
        self.next += 1;
        let (key, number) = (key_of(whose), self.next);
        let logins = self.of(shard);
        logins.order.insert(number, key.clone());
        logins.coming.insert(key, Coming { login, number });
        logins.note(whose.client_id);
    }

    fn drop_coming(&mut self, shard: u32, key: &str) -> Option<Coming> {
        let logins = self.of(shard);
        let coming = logins.coming.remove(key)?;
        logins.order.remove(&coming.number);
        logins.note(client_of(key));
        if let Some(login) = &coming.login {
            self.release(login);
        }
        Some(coming)
    }

    /// Takes out what there is of a connection on its way in: nothing, or what it gave if there was room.
    pub fn take_coming(&mut self, whose: Connection<'_>, shard: u32) -> Option<Option<Login>> {
        self.drop_coming(shard, &key_of(whose)).map(|coming| coming.login)
    }

    pub fn enter(&mut self, bounds: &Bounds, whose: Connection<'_>, shard: u32, owner: u64) {
        let coming = self.take_coming(whose, shard);
        let logins = self.of(shard);
        let hash = logins.hash(whose.client_id);
        logins.live.insert(hash, owner);
        match coming {
            Some(Some(login)) => {
                let gave = Gave { whose, bytes: &login.bytes, epoch: login.epoch };
                self.put(bounds, gave, shard, owner);
            }
            Some(None) => self.remove(shard, whose.client_id),
            None => {}
        }
    }

    /// Whoever had room in the version before has it here, whatever their shares are by now.
    pub fn take_over(&mut self, bounds: &Bounds, shard: u32, over: HandedOver<'_>) {
        let HandedOver { whose, bytes, owner, is_coming } = over;
        let gave = bytes.map(|bytes| Gave { whose, bytes, epoch: 0 });
        match (is_coming, gave) {
            (true, Some(gave)) => self.put_coming_granted(bounds, gave, shard, (owner, usize::MAX)),
            (true, None) => self.none_coming(bounds, whose, shard),
            (false, Some(gave)) => {
                let logins = self.of(shard);
                let hash = logins.hash(whose.client_id);
                logins.live.insert(hash, owner);
                self.put_granted(bounds, gave, shard, (owner, usize::MAX));
            }
            (false, None) => self.forget(whose, shard),
        }
    }

    /// What that connection's login gave.
    pub fn forget(&mut self, whose: Connection<'_>, shard: u32) {
        if self.get(shard, whose.client_id).is_some_and(|login| login.is_of(whose)) {
            self.remove(shard, whose.client_id);
        }
    }

    pub fn remove(&mut self, shard: u32, client_id: &str) {
        let logins = self.of(shard);
        if let Some(gone) = logins.by_client.remove(client_id) {
            logins.note(client_id);
            self.release(&gone);
        }
    }

    pub fn forget_client(&mut self, client_id: &str, shard: u32) {
        self.remove(shard, client_id);
        let logins = self.of(shard);
        let hash = logins.hash(client_id);
        logins.live.remove(&hash);
        let keys: Vec<Box<str>> = self.of(shard).coming_of(client_id).map(|(key, _)| key.into()).collect();
        for key in keys {
            self.drop_coming(shard, &key);
        }
    }

    /// What all of them take.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
