//! Logins on their way in of which nothing could be kept: what the session of such a client had before is not taken for it when it
//! comes in. Each is a number that stands for its connection, so that they take little room and are charged to nobody. Of more than
//! [`LOST_MAX`] at a time it is not known whose they were: then whoever comes in without a login of its own here may be one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Instant;

use super::Connection;
use super::coming::ON_THE_WAY_MAX;
use super::state::key_of;

/// Most that are told apart, of one worker: some 400 KiB.
pub(super) const LOST_MAX: usize = 4096;

/// Stands for all connections.
const ANYBODY: u64 = 0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// By shard and number: when that was.
    of: BTreeMap<(u32, u64), Instant>,
    order: BTreeSet<(Instant, u32, u64)>,
    /// Since when there have been more.
    anybody: Option<Instant>,
}

/// What stands for a connection, by its key; the same in the next version.
pub(super) fn number_of(key: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key).max(ANYBODY + 1)
}

impl Lost {
    /// Nothing is kept of this one.
    pub fn note(&mut self, shard: u32, number: u64, now: Instant) {
        if number == ANYBODY || self.of.len() >= LOST_MAX && !self.of.contains_key(&(shard, number)) {
            self.anybody = Some(now);
            return;
        }
        if let Some(before) = self.of.insert((shard, number), now) {
            self.order.remove(&(before, shard, number));
        }
        self.order.insert((now, shard, number));
    }

    /// What became of a connection is known; whether it was one of them, or may have been.
    pub fn take(&mut self, whose: Connection<'_>, shard: u32) -> bool {
        self.remove(shard, number_of(&key_of(whose))) || self.anybody.is_some()
    }

    fn remove(&mut self, shard: u32, number: u64) -> bool {
        let since = self.of.remove(&(shard, number));
        since.is_some_and(|since| self.order.remove(&(since, shard, number)))
    }

    /// Those whose time is over are on their way no more.
    pub fn expire(&mut self, now: Instant) {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= ON_THE_WAY_MAX;
        while let Some((_, shard, number)) = self.order.first().copied().filter(|first| is_over(first.0)) {
            self.remove(shard, number);
        }
        self.anybody = self.anybody.filter(|since| !is_over(*since));
    }

    /// Those of a shard, for the next version.
    pub fn of_shard(&self, shard: u32) -> impl Iterator<Item = u64> {
        let mine = self.of.range((shard, 0)..=(shard, u64::MAX)).map(|((_, number), _)| *number);
        mine.chain(self.anybody.map(|_| ANYBODY))
    }

    /// Forgets those of a shard.
    pub fn clear(&mut self, shard: u32) {
        let mine: Vec<u64> = self.of_shard(shard).collect();
        for number in mine {
            self.remove(shard, number);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.of.len() + usize::from(self.anybody.is_some())
    }
}
