//! Pending logins whose data could not be stored. When such a client connects, the session's
//! earlier data must not be used for it. A connection is recorded as one number, so that it takes
//! little memory and is charged to nobody. Above [`SHARE_MAX`] connections of one address, or
//! [`LOST_MAX`] in all, only the address is recorded: then every client from there without login
//! data may be one of them. If there are too many addresses as well, every client may be one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Instant;

use super::Connection;
use super::pending::PENDING_TIME_MAX;
use super::state::{key_of, owner_of};

/// Most connections that are recorded one by one, for one worker: some 600 KiB.
pub(super) const LOST_MAX: usize = 4096;
/// Most connections of one address that are recorded one by one, and most addresses that are
/// recorded as a whole.
pub(super) const SHARE_MAX: usize = LOST_MAX / 8;

/// Stands for all connections of an address.
const ANY: u64 = 0;
/// Stands for all addresses.
const ANYBODY: u64 = 0;

/// A connection that is recorded; number 0 for all connections of an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostLogin {
    /// See [`number_of`], [`share_of`] and [`hash_of`].
    pub number: u64,
    pub share: u64,
    pub client: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// By shard and number: the time of the loss, the address whose share of [`LOST_MAX`] it uses,
    /// and the client.
    of: BTreeMap<(u32, u64), (Instant, u64, u64)>,
    order: BTreeSet<(Instant, u32, u64)>,
    /// Number of recorded connections of each address.
    shares: HashMap<u64, usize>,
    /// The addresses that are recorded as a whole, and since when; [`ANYBODY`] where there were too
    /// many of them.
    any: HashMap<u64, Instant>,
}

/// The number of a connection, from its key. It is the same in the next version.
pub(super) fn number_of(key: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key).max(ANY + 1)
}

/// The hash of a client identifier, by which its worker is chosen. It is the same in the next
/// version.
pub fn hash_of(client_id: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(client_id)
}

/// The share of an address: who is charged for its pending logins.
pub(super) fn share_of(host: &str) -> u64 {
    owner_of(None, host).max(ANYBODY + 1)
}

impl Lost {
    /// Records a connection without data, and its address. Returns whether it cannot be
    /// distinguished from others.
    pub fn note(&mut self, shard: u32, LostLogin { number, share, client }: LostLogin, now: Instant) -> bool {
        self.remove(shard, number);
        let of_share = self.shares.get(&share).copied().unwrap_or(0);
        if number == ANY || of_share >= SHARE_MAX || self.of.len() >= LOST_MAX {
            let is_noted = self.any.len() < SHARE_MAX || self.any.contains_key(&share);
            self.any.insert(if is_noted { share } else { ANYBODY }, now);
            // The version before has counted it.
            return number != ANY;
        }
        self.of.insert((shard, number), (now, share, client));
        self.order.insert((now, shard, number));
        *self.shares.entry(share).or_default() += 1;
        false
    }

    /// Removes a connection whose login has ended. Returns whether it was recorded, or may have
    /// been.
    pub fn take(&mut self, connection: Connection<'_>, shard: u32) -> bool {
        let is_any = [share_of(connection.host), ANYBODY].iter().any(|share| self.any.contains_key(share));
        self.remove(shard, number_of(&key_of(connection))) || is_any
    }

    fn remove(&mut self, shard: u32, number: u64) -> bool {
        let Some((since, share, _)) = self.of.remove(&(shard, number)) else { return false };
        if let Some(count) = self.shares.get_mut(&share) {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&share);
            }
        }
        self.order.remove(&(since, shard, number))
    }

    /// Removes what is too old to be still pending.
    pub fn expire(&mut self, now: Instant) {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= PENDING_TIME_MAX;
        while let Some((_, shard, number)) = self.order.first().copied().filter(|first| is_over(first.0)) {
            self.remove(shard, number);
        }
        self.any.retain(|_, since| !is_over(*since));
    }

    /// The connections of a shard, for the next version.
    pub fn of_shard(&self, shard: u32) -> impl Iterator<Item = LostLogin> {
        let mine = self.of.range((shard, 0)..=(shard, u64::MAX));
        let one = |((_, number), (_, share, client)): (&(u32, u64), &(Instant, u64, u64))| LostLogin {
            number: *number,
            share: *share,
            client: *client,
        };
        mine.map(one).chain(self.any.keys().map(|share| LostLogin { number: ANY, share: *share, client: 0 }))
    }

    /// Removes the connections of a shard.
    pub fn clear(&mut self, shard: u32) {
        let mine: Vec<u64> = self.of_shard(shard).map(|lost| lost.number).collect();
        for number in mine {
            self.remove(shard, number);
        }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.of.len() + self.any.len()
    }
}
