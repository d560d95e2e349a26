//! Connections that want to come in, in a table that is bounded in their number and in the bytes of their descriptions, of which the
//! worker keeps as many. For one more, the one described first makes room of those at the address that has most: whoever has one address
//! takes nobody else's place. Nobody says that a connection has closed before it was in, so one of which nothing is heard leaves after
//! some time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::{DescribedClient, Places};
use crate::call_queue::Writing;
use crate::shrink;

/// What a visitor takes besides its description, bytes.
const ENTRY: usize = 512;

/// A visitor.
#[derive(Debug)]
pub(super) struct PendingLogin {
    pub(super) described: DescribedClient,
    /// Of the address that it comes from.
    address: u64,
    /// When it was seen to come, as a number that grows; 0 where it was not.
    pub(super) came: u64,
    /// Whether a packet has come from it that is none of a login: with a second one it is in.
    pub(super) packet_seen: bool,
    /// The client in whose queue calls of it are, once it is in.
    pub(super) client: Option<Box<str>>,
    /// What it takes.
    bytes: usize,
    /// When an event of it has come last.
    since: Instant,
}

impl PendingLogin {
    /// Of this address.
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

    /// It will not be named again.
    pub(super) fn is_forgotten(&self, line: &mut Writing<'_>) {
        line.forget(self.client.as_deref(), self.described.number, self.described.said.epoch);
    }
}

/// Those of an address: by their numbers, and what they take.
#[derive(Debug, Default)]
struct Address {
    numbers: BTreeMap<u64, u64>,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct PendingLogins {
    /// By what makes them one: identifier and where they come from.
    all: HashMap<u64, PendingLogin>,
    of_address: HashMap<u64, Address>,
    /// Addresses by how many they have, and by what those take.
    counts: BTreeSet<(usize, u64)>,
    weights: BTreeSet<(usize, u64)>,
    bytes: usize,
    /// In the order in which they were heard of last.
    order: BTreeSet<(Instant, u64)>,
    max: usize,
    bytes_max: usize,
    visit_max: Duration,
}

impl PendingLogins {
    /// None, with room for at least one.
    pub(super) fn new(places: Places) -> PendingLogins {
        PendingLogins {
            all: HashMap::new(),
            of_address: HashMap::new(),
            counts: BTreeSet::new(),
            weights: BTreeSet::new(),
            bytes: 0,
            order: BTreeSet::new(),
            max: places.visitors_max.max(1),
            bytes_max: places.visitors_bytes_max,
            visit_max: places.visit_max,
        }
    }

    pub(super) fn get(&self, visit: u64) -> Option<&PendingLogin> {
        self.all.get(&visit)
    }

    pub(super) fn get_mut(&mut self, visit: u64) -> Option<&mut PendingLogin> {
        self.all.get_mut(&visit)
    }

    /// The same where an event of it has come.
    pub(super) fn hear(&mut self, visit: u64, now: Instant) -> Option<&mut PendingLogin> {
        let login = self.all.get_mut(&visit)?;
        self.order.remove(&(login.since, visit));
        self.order.insert((now, visit));
        login.since = now;
        Some(login)
    }

    /// Puts one in that is not there. Gives the one that had to make room.
    pub(super) fn insert(&mut self, visit: u64, login: PendingLogin) -> Option<PendingLogin> {
        let fullest = if self.all.len() < self.max { None } else { self.counts.last().copied() };
        let gone = fullest.and_then(|(_, address)| self.first_of(address, None));
        let gone = gone.and_then(|visit| self.remove(visit));
        let number = login.described.number;
        self.change(login.address, login.bytes as isize, |numbers| {
            numbers.insert(number, visit);
        });
        self.order.insert((login.since, visit));
        self.all.insert(visit, login);
        gone
    }

    pub(super) fn remove(&mut self, visit: u64) -> Option<PendingLogin> {
        let login = self.all.remove(&visit)?;
        self.order.remove(&(login.since, visit));
        self.change(login.address, -(login.bytes as isize), |numbers| {
            numbers.remove(&login.described.number);
        });
        if shrink::table(&mut self.all, shrink::TABLE_MIN) {
            self.of_address.shrink_to(self.of_address.len() * 2);
        }
        Some(login)
    }

    /// It was described with so many bytes.
    pub(super) fn weigh(&mut self, visit: u64, described: usize) {
        let Some(login) = self.all.get_mut(&visit) else { return };
        // What was said once, and not again, the worker still knows.
        let more = (ENTRY + described).saturating_sub(login.bytes);
        login.bytes += more;
        let address = login.address;
        self.change(address, more as isize, |_| {});
    }

    /// Takes out one where all of them take too much, but for this one.
    pub(super) fn too_many_bytes(&mut self, but: u64) -> Option<PendingLogin> {
        if self.bytes <= self.bytes_max {
            return None;
        }
        let gone =
            self.weights.iter().rev().take(2).find_map(|(_, address)| self.first_of(*address, Some(but)))?;
        self.remove(gone)
    }

    /// Takes out one of which nothing has been heard for too long.
    pub(super) fn expired(&mut self, now: Instant) -> Option<PendingLogin> {
        let (since, visit) = *self.order.first()?;
        if now.saturating_duration_since(since) <= self.visit_max {
            return None;
        }
        self.remove(visit)
    }

    /// The one of an address that was described first, but for one.
    fn first_of(&self, address: u64, but: Option<u64>) -> Option<u64> {
        self.of_address.get(&address)?.numbers.values().find(|visit| Some(**visit) != but).copied()
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

    /// How many there are.
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

    /// What they take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
