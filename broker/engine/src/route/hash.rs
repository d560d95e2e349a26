//! Keyed hashes of routing: fingerprints of topics and filters, group ids, hashers of the tables.
//! Everything under `route` calls it. The keys come from outside and are the same on every shard of
//! the process.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use ahash::RandomState;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::GroupId;
use crate::id::ShardId;

/// A map whose keys are hashes already.
pub(super) type HashedMap<K, V> = HashMap<K, V, BuildHasherDefault<PassThrough>>;

/// A map with keyed hashes.
pub(super) type KeyedMap<K, V> = HashMap<K, V, RandomState>;

/// The hash functions of one process.
#[derive(Clone)]
pub(super) struct Hashes {
    state: RandomState,
    sip: (u64, u64),
    /// The bits of fingerprints that tests keep, so that filters collide.
    #[cfg(test)]
    mask: u64,
}

impl Hashes {
    pub(super) fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        // The two kinds of hash must not share a key: one must reveal nothing about the other.
        let sip = (a.rotate_left(17) ^ c.wrapping_mul(0x9E37_79B9_7F4A_7C15), b.rotate_left(41) ^ !d);
        Hashes {
            state: RandomState::with_seeds(a, b, c, d),
            sip,
            #[cfg(test)]
            mask: u64::MAX,
        }
    }

    #[cfg(test)]
    pub(super) fn colliding(mask: u64) -> Self {
        Hashes { mask, ..Hashes::new([1, 2, 3, 4]) }
    }

    /// The key of a literal filter, and of the topic name equal to it, in flat tables.
    pub(super) fn fingerprint(&self, topic: &str) -> u64 {
        let fingerprint = self.state.hash_one(topic);
        #[cfg(test)]
        let fingerprint = fingerprint & self.mask;
        fingerprint
    }

    /// The id of a group. A group name has no `/` [MQTT-4.8.2-1], so the pair is unambiguous.
    pub(super) fn group_id(&self, group: &str, filter: &str) -> GroupId {
        let mut hasher = SipHasher13::new_with_keys(self.sip.0, self.sip.1);
        hasher.write(group.as_bytes());
        hasher.write(b"/");
        hasher.write(filter.as_bytes());
        GroupId(hasher.finish128().as_u128())
    }

    pub(super) fn map<K, V>(&self) -> KeyedMap<K, V> {
        HashMap::with_hasher(self.state.clone())
    }
}

/// The shard that owns a fingerprint. Uses other bits than the tables do.
pub(super) fn shard_of(fingerprint: u64, shards: usize) -> ShardId {
    ShardId((((fingerprint >> 16 & 0xFFFF_FFFF) * shards as u64) >> 32) as u8)
}

/// Uses a key that is already a keyed hash as its own hash.
#[derive(Default)]
pub(super) struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // The keys of these maps are integers only; other data still gets a hash, but a weaker one.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}
