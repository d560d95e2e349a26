//! Connections that want to come in, in a bounded table. For one more, the one described first makes room of those at the address that
//! has most: whoever has one address takes nobody else's place.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Known;

/// A visitor.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) known: Known,
    /// Of the address that it comes from.
    pub(super) address: u64,
    /// When it was seen to come, as a number that grows; 0 where it was not.
    pub(super) came: u64,
    /// Whether a packet has come from it that is none of a login: with a second one it is in.
    pub(super) heard: bool,
    /// Whether another user has the session that it wants to go on with.
    pub(super) inherits: bool,
    /// The client in whose queue calls of it are, once it is in.
    pub(super) client: Option<Box<str>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Visitors {
    /// By what makes them one: identifier and where they come from.
    all: HashMap<u64, Visitor>,
    /// Of each address, by number.
    of_address: HashMap<u64, BTreeMap<u64, u64>>,
    /// Addresses by how many they have.
    counts: BTreeSet<(usize, u64)>,
    max: usize,
}

impl Visitors {
    /// None, with room for so many, at least one.
    pub(super) fn new(max: usize) -> Visitors {
        Visitors { all: HashMap::new(), of_address: HashMap::new(), counts: BTreeSet::new(), max: max.max(1) }
    }

    pub(super) fn get(&self, visit: u64) -> Option<&Visitor> {
        self.all.get(&visit)
    }

    pub(super) fn get_mut(&mut self, visit: u64) -> Option<&mut Visitor> {
        self.all.get_mut(&visit)
    }

    /// Puts one in that is not there. Gives the one that had to make room.
    pub(super) fn insert(&mut self, visit: u64, visitor: Visitor) -> Option<Visitor> {
        let gone = if self.all.len() < self.max { None } else { self.first_of_fullest() };
        let gone = gone.and_then(|visit| self.remove(visit));
        let (address, number) = (visitor.address, visitor.known.number);
        self.change(address, |numbers| {
            numbers.insert(number, visit);
        });
        self.all.insert(visit, visitor);
        gone
    }

    pub(super) fn remove(&mut self, visit: u64) -> Option<Visitor> {
        let visitor = self.all.remove(&visit)?;
        self.change(visitor.address, |numbers| {
            numbers.remove(&visitor.known.number);
        });
        if self.all.capacity() > 64 && self.all.len() * 8 < self.all.capacity() {
            self.all.shrink_to(self.all.len() * 2);
            self.of_address.shrink_to(self.of_address.len() * 2);
        }
        Some(visitor)
    }

    fn first_of_fullest(&self) -> Option<u64> {
        let (_, address) = self.counts.last()?;
        self.of_address.get(address)?.first_key_value().map(|(_, visit)| *visit)
    }

    fn change(&mut self, address: u64, change: impl FnOnce(&mut BTreeMap<u64, u64>)) {
        let numbers = self.of_address.entry(address).or_default();
        self.counts.remove(&(numbers.len(), address));
        change(numbers);
        let count = numbers.len();
        if count == 0 {
            self.of_address.remove(&address);
        } else {
            self.counts.insert((count, address));
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.of_address.values().map(BTreeMap::len).sum::<usize>(), self.all.len());
        assert_eq!(self.counts.len(), self.of_address.len());
        self.all.len()
    }
}
