//! A hash table from topics to their subscribers, for the one lookup that every message needs.
//! Owned by `routes`. The standard library's map with ahash would also work; with it a message from
//! one client to one took 352 instructions instead of 324 when the two were compared. Here hash and
//! comparison are inlined, a hit needs one probe, and entries are never removed one by one.

use super::group::Group;
use std::hash::{BuildHasher, RandomState};

/// Topics seen so far.
#[derive(Debug)]
pub struct Topics {
    /// The length is a power of two; at most half of the slots are used.
    slots: Vec<Slot>,
    used: usize,
    seed: u64,
}

#[derive(Debug, Default)]
struct Slot {
    hash: u64,
    /// Empty in an unused slot: no topic is empty.
    topic: Box<[u8]>,
    groups: Vec<Group>,
}

const SLOTS_MIN: usize = 64;

impl Topics {
    /// Without topics.
    pub fn new() -> Self {
        let mut topics = Self { slots: Vec::new(), used: 0, seed: RandomState::new().hash_one(0_u8) };
        topics.clear();
        topics
    }

    /// Number of topics.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Removes all topics.
    pub fn clear(&mut self) {
        if self.used > 0 || self.slots.is_empty() {
            self.slots.clear();
            self.slots.resize_with(SLOTS_MIN, Slot::default);
            self.used = 0;
        }
    }

    /// The subscribers of a topic, if it has been seen.
    #[inline]
    pub fn find(&self, topic: &[u8]) -> Option<&[Group]> {
        let hash = hash(topic, self.seed);
        let slot = &self.slots[self.first_place(hash)];
        if slot.hash == hash && *slot.topic == *topic {
            Some(&slot.groups)
        } else {
            self.find_further(hash, topic)
        }
    }

    #[cold]
    #[inline(never)]
    fn find_further(&self, hash: u64, topic: &[u8]) -> Option<&[Group]> {
        let mut at = self.first_place(hash);
        while !self.slots[at].topic.is_empty() {
            let slot = &self.slots[at];
            if slot.hash == hash && *slot.topic == *topic {
                return Some(&slot.groups);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }

    /// Adds a topic that is not in the table and not empty.
    pub fn insert(&mut self, topic: &[u8], groups: Vec<Group>) {
        if 2 * (self.used + 1) > self.slots.len() {
            let mut wider = Vec::new();
            wider.resize_with(2 * self.slots.len(), Slot::default);
            for slot in std::mem::replace(&mut self.slots, wider) {
                if !slot.topic.is_empty() {
                    self.put(slot);
                }
            }
        }
        self.used += 1;
        self.put(Slot { hash: hash(topic, self.seed), topic: topic.into(), groups });
    }

    fn put(&mut self, slot: Slot) {
        let mut at = self.first_place(slot.hash);
        while !self.slots[at].topic.is_empty() {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = slot;
    }

    #[inline]
    fn first_place(&self, hash: u64) -> usize {
        // The truncation is intended: the lowest bits select the slot.
        #[allow(clippy::cast_possible_truncation)]
        let place = hash as usize;
        place & (self.slots.len() - 1)
    }
}

/// Folds sixteen bytes at a time into a product of 128 bits, as wyhash and ahash do.
#[inline]
fn hash(topic: &[u8], seed: u64) -> u64 {
    let state = seed ^ (topic.len() as u64).wrapping_mul(ODD);
    // The last words may overlap: the length is part of the state.
    let (low, high) = match topic {
        [_, _, _, _, _, _, _, _, ..] => {
            if topic.len() > 16 {
                return hash_long(topic, state);
            }
            (word(&topic[..8]), word(&topic[topic.len() - 8..]))
        }
        [_, _, _, _, ..] => (half(&topic[..4]), half(&topic[topic.len() - 4..])),
        [first, .., last] => (u64::from(*first), u64::from(topic[1]) << 8 | u64::from(*last)),
        [only] => (u64::from(*only), 0),
        // Never found: an unused slot has the hash 0.
        [] => return 1,
    };
    fold(low ^ state, high ^ ODD)
}

#[inline(never)]
fn hash_long(topic: &[u8], mut state: u64) -> u64 {
    let mut rest = topic;
    while rest.len() > 16 {
        state = fold(word(rest) ^ state, word(&rest[8..]) ^ ODD);
        rest = &rest[16..];
    }
    // The last sixteen bytes may overlap bytes that are already hashed.
    let last = &topic[topic.len() - 16..];
    fold(word(last) ^ state, word(&last[8..]) ^ ODD)
}

/// The golden ratio in 64 bits.
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    // The truncation is intended: the two halves are folded.
    #[allow(clippy::cast_possible_truncation)]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline]
fn half(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<4>().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::group::Grant;
    use std::collections::HashSet;

    const GRANT: Grant = Grant { v5: false, qos: 0, packet_bytes_max: u32::MAX, no_local: false };

    #[test]
    fn inserted_topics_are_found_and_no_others() {
        let mut topics = Topics::new();
        let name = |number: u32| "x/".repeat(number as usize % 20) + &number.to_string();
        for number in 0..5_000 {
            assert_eq!(topics.find(name(number).as_bytes()), None);
            topics.insert(name(number).as_bytes(), vec![Group::new(GRANT, vec![number])]);
        }
        assert_eq!(topics.len(), 5_000);
        for number in 0..5_000 {
            assert_eq!(topics.find(name(number).as_bytes()).unwrap()[0].to, [number]);
        }
        topics.clear();
        assert_eq!((topics.find(b"0"), topics.find(b""), topics.len()), (None, None, 0));
    }

    #[test]
    fn every_byte_of_a_topic_of_any_length_counts() {
        for length in 1..70 {
            let base = vec![b'a'; length];
            let mut hashes = HashSet::from([hash(&base, 1)]);
            for at in 0..length {
                let mut other = base.clone();
                other[at] = b'b';
                assert!(hashes.insert(hash(&other, 1)), "byte {at} of {length}");
            }
            assert!(hashes.insert(hash(&vec![b'a'; length + 1], 1)), "the length {length}");
            assert!(hashes.insert(hash(&base, 1 << 40)), "the seed");
        }
    }

    #[test]
    fn numbered_topics_spread_over_the_table() {
        // Topic names of the load tool; a half-full table has long probe sequences only if the hash
        // is poor.
        let places: HashSet<u64> =
            (0..1024).map(|n| hash(format!("bench/{n}").as_bytes(), 7) & 2047).collect();
        assert!(places.len() > 700, "{} places for 1024 topics", places.len());
    }
}
