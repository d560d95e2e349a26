//! The topic cache: topic name → its matches, so that a repeated topic costs one look-up. `Routes`
//! calls it. An entry is valid while the version of its topic's first level is unchanged. It does
//! not match itself.

use std::rc::Rc;

use super::Matched;
use super::hash::{HashedMap, Hashes};
use crate::topic::levels;

/// Number of versions that all first levels share.
const VERSIONS: usize = 1024;
/// An entry may use at most this part of the bytes, so that one huge fan-out does not empty the
/// cache.
const LARGEST_PART: usize = 4;

struct Entry {
    fingerprint: u64,
    topic: Box<str>,
    version: u16,
    /// Whether it was made or looked up since the hand last passed.
    used: bool,
    /// Sum of both versions when it was made. Both only rise, so an equal sum means that both are
    /// equal.
    stamp: u64,
    matched: Rc<Matched>,
}

impl Entry {
    fn bytes(topic: &str, matched: &Matched) -> usize {
        // The map's 16 bytes for each entry, at its usual load.
        size_of::<Entry>() + 24 + topic.len() + matched.bytes()
    }
}

/// Counters of the topic cache since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Topics stored now, outdated ones included.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Look-ups with a valid entry.
    pub hits: u64,
    /// Look-ups without one.
    pub misses: u64,
    /// Entries that were removed to make room.
    pub evictions: u64,
}

pub(super) struct TopicCache {
    places: HashedMap<u64, u32>,
    entries: Vec<Entry>,
    /// Position of the clock hand.
    hand: usize,
    entries_max: usize,
    bytes_max: usize,
    /// Raised when a filter with a first level of this hash changes.
    versions: Box<[u64]>,
    /// Raised when a filter that begins with a wildcard changes.
    version_of_all: u64,
    hashes: Hashes,
    stats: CacheStats,
}

impl TopicCache {
    pub(super) fn new(hashes: &Hashes, entries_max: usize, bytes_max: usize) -> Self {
        TopicCache {
            places: HashedMap::default(),
            entries: Vec::new(),
            hand: 0,
            entries_max,
            bytes_max,
            versions: vec![0; VERSIONS].into_boxed_slice(),
            version_of_all: 0,
            hashes: hashes.clone(),
            stats: CacheStats::default(),
        }
    }

    /// The cached matches of a topic, if they are valid. Allocates nothing.
    pub(super) fn get(&mut self, fingerprint: u64, topic: &str) -> Option<Rc<Matched>> {
        if let Some(place) = self.places.get(&fingerprint) {
            let entry = &mut self.entries[*place as usize];
            let stamp = self.versions[usize::from(entry.version)] + self.version_of_all;
            if entry.stamp == stamp && *entry.topic == *topic {
                entry.used = true;
                self.stats.hits += 1;
                return Some(Rc::clone(&entry.matched));
            }
        }
        self.stats.misses += 1;
        None
    }

    /// Stores the matches of a topic.
    pub(super) fn put(&mut self, fingerprint: u64, topic: &str, matched: &Rc<Matched>) {
        self.forget(fingerprint);
        let bytes = Entry::bytes(topic, matched);
        if self.entries_max == 0 || bytes > self.bytes_max / LARGEST_PART {
            return;
        }
        while self.entries.len() >= self.entries_max || self.stats.bytes + bytes > self.bytes_max {
            self.evict_one();
        }
        let version = self.version_of(topic);
        let stamp = self.versions[version] + self.version_of_all;
        self.places.insert(fingerprint, self.entries.len() as u32);
        self.entries.push(Entry {
            fingerprint,
            topic: topic.into(),
            version: version as u16,
            used: true,
            stamp,
            matched: Rc::clone(matched),
        });
        self.stats.bytes += bytes;
    }

    /// A literal filter changed: only the topic with the same name is affected.
    pub(super) fn forget(&mut self, fingerprint: u64) {
        if let Some(place) = self.places.get(&fingerprint) {
            self.remove(*place as usize);
        }
    }

    /// A wildcard filter changed: topics with its first level are affected, or all if that is a
    /// wildcard.
    pub(super) fn outdate(&mut self, filter: &str) {
        if filter.starts_with(['+', '#']) {
            self.version_of_all += 1;
        } else {
            let version = self.version_of(filter);
            self.versions[version] += 1;
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        CacheStats { entries: self.entries.len(), ..self.stats }
    }

    fn version_of(&self, name: &str) -> usize {
        let first = levels(name).next().unwrap_or(name);
        self.hashes.fingerprint(first) as usize % VERSIONS
    }

    /// Second chance: outdated entries and those not used since the last round are removed first.
    /// There is at least one entry. The newest entry moves into the gap, and the hand skips it, so
    /// that it is not among the next to be removed.
    fn evict_one(&mut self) {
        loop {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let entry = &mut self.entries[self.hand];
            let stamp = self.versions[usize::from(entry.version)] + self.version_of_all;
            if entry.used && entry.stamp == stamp {
                entry.used = false;
                self.hand += 1;
            } else {
                self.stats.evictions += 1;
                self.remove(self.hand);
                self.hand += 1;
                return;
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let gone = self.entries.swap_remove(place);
        self.places.remove(&gone.fingerprint);
        self.stats.bytes -= Entry::bytes(&gone.topic, &gone.matched);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.fingerprint, place as u32);
        }
    }
}
