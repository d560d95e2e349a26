//! Logins on their way in of which nothing could be kept: what the session of such a client had before is not taken for it when it
//! comes in. Each is a number that stands for its connection, so that they take little room and are charged to nobody. Of more than
//! [`SHARE_MAX`] from one address, or of more than [`LOST_MAX`], it is not known whose they were: then whoever comes in from an address
//! of those without a login of its own here may be one of them. Only where there are too many of such addresses, too, may anybody be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Instant;

use super::Connection;
use super::coming::ON_THE_WAY_MAX;
use super::state::{key_of, owner_of};

/// Most that are told apart, of one worker: some 600 KiB.
pub(super) const LOST_MAX: usize = 4096;
/// Most that are told apart of one address, and most addresses of which there have been more.
pub(super) const SHARE_MAX: usize = LOST_MAX / 8;

/// Stands for all connections of an address.
const ANY: u64 = 0;
/// Stands for all addresses.
const ANYBODY: u64 = 0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// By shard and number: when that was, and whose share of [`LOST_MAX`] it takes.
    of: BTreeMap<(u32, u64), (Instant, u64)>,
    order: BTreeSet<(Instant, u32, u64)>,
    /// How many of them each address has.
    shares: HashMap<u64, usize>,
    /// The addresses of which there have been more, and since when; [`ANYBODY`] where there were too many of these, too.
    any: HashMap<u64, Instant>,
}

/// What stands for a connection, by its key; the same in the next version.
pub(super) fn number_of(key: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key).max(ANY + 1)
}

/// Who is charged for one of this address, as what it gives on its way in would be.
pub(super) fn share_of(host: &str) -> u64 {
    owner_of(None, host).max(ANYBODY + 1)
}

impl Lost {
    /// Nothing is kept of this one, from this address. Whether it cannot be told apart from others.
    pub fn note(&mut self, shard: u32, (number, share): (u64, u64), now: Instant) -> bool {
        self.remove(shard, number);
        let of_share = self.shares.get(&share).copied().unwrap_or(0);
        if number == ANY || of_share >= SHARE_MAX || self.of.len() >= LOST_MAX {
            let is_noted = self.any.len() < SHARE_MAX || self.any.contains_key(&share);
            self.any.insert(if is_noted { share } else { ANYBODY }, now);
            // The version before has said so.
            return number != ANY;
        }
        self.of.insert((shard, number), (now, share));
        self.order.insert((now, shard, number));
        *self.shares.entry(share).or_default() += 1;
        false
    }

    /// What became of a connection is known; whether it was one of them, or may have been.
    pub fn take(&mut self, whose: Connection<'_>, shard: u32) -> bool {
        let is_any = [share_of(whose.host), ANYBODY].iter().any(|share| self.any.contains_key(share));
        self.remove(shard, number_of(&key_of(whose))) || is_any
    }

    fn remove(&mut self, shard: u32, number: u64) -> bool {
        let Some((since, share)) = self.of.remove(&(shard, number)) else { return false };
        if let Some(count) = self.shares.get_mut(&share) {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&share);
            }
        }
        self.order.remove(&(since, shard, number))
    }

    /// Those whose time is over are on their way no more.
    pub fn expire(&mut self, now: Instant) {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= ON_THE_WAY_MAX;
        while let Some((_, shard, number)) = self.order.first().copied().filter(|first| is_over(first.0)) {
            self.remove(shard, number);
        }
        self.any.retain(|_, since| !is_over(*since));
    }

    /// Those of a shard with their addresses, for the next version.
    pub fn of_shard(&self, shard: u32) -> impl Iterator<Item = (u64, u64)> {
        let mine = self.of.range((shard, 0)..=(shard, u64::MAX));
        let mine = mine.map(|((_, number), (_, share))| (*number, *share));
        mine.chain(self.any.keys().map(|share| (ANY, *share)))
    }

    /// Forgets those of a shard.
    pub fn clear(&mut self, shard: u32) {
        let mine: Vec<u64> = self.of_shard(shard).map(|(number, _)| number).collect();
        for number in mine {
            self.remove(shard, number);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.of.len() + self.any.len()
    }
}
