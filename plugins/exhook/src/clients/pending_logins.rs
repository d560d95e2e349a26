//! Pending logins, limited in number and in bytes of their descriptions, since the worker stores as
//! much. A new one evicts the oldest of the address with the most, so that one address cannot evict
//! others. The broker does not report that a connection has closed before it was in, so a pending
//! login without events expires.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::{ClientLimits, DescribedClient};
use crate::call_queue::QueueWriter;
use crate::shrink;

/// Memory of a pending login besides its description, bytes.
const ENTRY: usize = 512;

/// A pending login.
#[derive(Debug)]
pub(super) struct PendingLogin {
    pub(super) described: DescribedClient,
    /// Hash of its address.
    address: u64,
    /// When it came, as an increasing number; 0 if that was not seen.
    pub(super) came: u64,
    /// Whether one packet has come that is not part of a login. After a second one it is in.
    pub(super) packet_seen: bool,
    /// The client whose queue has its calls, once it is in.
    pub(super) client: Option<Box<str>>,
    bytes: usize,
    /// The time of its last event.
    since: Instant,
}

impl PendingLogin {
    /// A pending login from this address.
    pub(super) fn new(known: DescribedClient, address: u64, came: u64) -> PendingLogin {
        PendingLogin {
            described: known,
            address,
            came,
            packet_seen: false,
            client: None,
            bytes: ENTRY,
            since: Instant::now(),
        }
    }

    /// Notifies the process that this number will not be used again.
    pub(super) fn is_forgotten(&self, writer: &mut QueueWriter<'_>) {
        writer.forget(self.client.as_deref(), self.described.number, self.described.sent.epoch);
    }
}

/// The pending logins of an address: visits by number, and their bytes.
#[derive(Debug, Default)]
struct Address {
    numbers: BTreeMap<u64, u64>,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct PendingLogins {
    /// By hash of identifier, address and port.
    all: HashMap<u64, PendingLogin>,
    of_address: HashMap<u64, Address>,
    /// Addresses by number of pending logins, and by their bytes.
    counts: BTreeSet<(usize, u64)>,
    weights: BTreeSet<(usize, u64)>,
    bytes: usize,
    /// In the order of their last events.
    order: BTreeSet<(Instant, u64)>,
    max: usize,
    bytes_max: usize,
    pending_time_max: Duration,
}

impl PendingLogins {
    /// An empty table with room for at least one.
    pub(super) fn new(limits: ClientLimits) -> PendingLogins {
        PendingLogins {
            all: HashMap::new(),
            of_address: HashMap::new(),
            counts: BTreeSet::new(),
            weights: BTreeSet::new(),
            bytes: 0,
            order: BTreeSet::new(),
            max: limits.pending_max.max(1),
            bytes_max: limits.pending_bytes_max,
            pending_time_max: limits.pending_time_max,
        }
    }

    pub(super) fn get(&self, login_key: u64) -> Option<&PendingLogin> {
        self.all.get(&login_key)
    }

    pub(super) fn get_mut(&mut self, login_key: u64) -> Option<&mut PendingLogin> {
        self.all.get_mut(&login_key)
    }

    /// As `get_mut`, on an event of it.
    pub(super) fn touch(&mut self, login_key: u64, now: Instant) -> Option<&mut PendingLogin> {
        let login = self.all.get_mut(&login_key)?;
        self.order.remove(&(login.since, login_key));
        self.order.insert((now, login_key));
        login.since = now;
        Some(login)
    }

    /// Inserts one that is not there. Returns the one that was evicted.
    pub(super) fn insert(&mut self, login_key: u64, login: PendingLogin) -> Option<PendingLogin> {
        let fullest = if self.all.len() < self.max { None } else { self.counts.last().copied() };
        let removed = fullest.and_then(|(_, address)| self.first_of(address, None));
        let removed = removed.and_then(|login_key| self.remove(login_key));
        let number = login.described.number;
        self.change(login.address, login.bytes as isize, |numbers| {
            numbers.insert(number, login_key);
        });
        self.order.insert((login.since, login_key));
        self.all.insert(login_key, login);
        removed
    }

    pub(super) fn remove(&mut self, login_key: u64) -> Option<PendingLogin> {
        let login = self.all.remove(&login_key)?;
        self.order.remove(&(login.since, login_key));
        self.change(login.address, -(login.bytes as isize), |numbers| {
            numbers.remove(&login.described.number);
        });
        if shrink::table(&mut self.all, shrink::TABLE_MIN) {
            self.of_address.shrink_to(self.of_address.len() * 2);
        }
        Some(login)
    }

    /// Adds the bytes of a description.
    pub(super) fn weigh(&mut self, login_key: u64, described: usize) {
        let Some(login) = self.all.get_mut(&login_key) else { return };
        // The worker still stores what was sent once and is not repeated.
        let more = (ENTRY + described).saturating_sub(login.bytes);
        login.bytes += more;
        let address = login.address;
        self.change(address, more as isize, |_| {});
    }

    /// Evicts one while all of them take too many bytes, except `but`.
    pub(super) fn too_many_bytes(&mut self, but: u64) -> Option<PendingLogin> {
        if self.bytes <= self.bytes_max {
            return None;
        }
        let removed =
            self.weights.iter().rev().take(2).find_map(|(_, address)| self.first_of(*address, Some(but)))?;
        self.remove(removed)
    }

    /// Takes out one without recent events.
    pub(super) fn expired(&mut self, now: Instant) -> Option<PendingLogin> {
        let (since, login_key) = *self.order.first()?;
        if now.saturating_duration_since(since) <= self.pending_time_max {
            return None;
        }
        self.remove(login_key)
    }

    /// The oldest one of an address, except `but`.
    fn first_of(&self, address: u64, but: Option<u64>) -> Option<u64> {
        self.of_address.get(&address)?.numbers.values().find(|login_key| Some(**login_key) != but).copied()
    }

    fn change(&mut self, address: u64, more: isize, change: impl FnOnce(&mut BTreeMap<u64, u64>)) {
        let of = self.of_address.entry(address).or_default();
        self.counts.remove(&(of.numbers.len(), address));
        self.weights.remove(&(of.bytes, address));
        change(&mut of.numbers);
        (of.bytes, self.bytes) =
            (of.bytes.saturating_add_signed(more), self.bytes.saturating_add_signed(more));
        if of.numbers.is_empty() {
            self.of_address.remove(&address);
        } else {
            self.counts.insert((of.numbers.len(), address));
            self.weights.insert((of.bytes, address));
        }
    }

    /// Number of pending logins.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let of_address = || self.of_address.values();
        assert_eq!(of_address().map(|of| of.numbers.len()).sum::<usize>(), self.all.len());
        assert_eq!(of_address().map(|of| of.bytes).sum::<usize>(), self.bytes);
        assert_eq!(self.all.values().map(|login| login.bytes).sum::<usize>(), self.bytes);
        assert_eq!([self.counts.len(), self.weights.len()], [self.of_address.len(); 2]);
        assert_eq!(self.order.len(), self.all.len());
        self.all.len()
    }

    /// Bytes of all of them.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
