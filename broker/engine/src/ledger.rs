//! The memory of a shard that clients cause, and the tables of its holders. Each table records the
//! changed holders, so that only those are weighed again, and finds the holder with the largest
//! charge.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ConnKey, Key, Table};
use crate::limits::Limits;
use crate::shared_message::Pool;

#[cfg(test)]
mod tests;

/// Bytes that a shard holds for clients, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Received bytes that are not a whole packet or not taken yet.
    pub read_buffers: u64,
    /// Bytes on their way to sockets, acknowledgements included.
    pub outbound: u64,
    /// Connections with their topic aliases, and CONNECT packets that are not decided.
    pub connections: u64,
    /// Received packets that wait in slots, with the wills behind them.
    pub slots: u64,
    /// Messages in the queues of sessions; each session is charged in full for its own.
    pub queues: u64,
    /// Messages sent and not acknowledged; each session is charged in full for its own.
    pub in_flight: u64,
    /// Sessions with their subscriptions, wills and readers of retained messages.
    pub sessions: u64,
    /// Messages in queues and in flight, each counted once even if many sessions hold it.
    pub messages: u64,
    /// Pages of retained messages for plugins on behalf of clients, being filled or stored.
    pub pages: u64,
    /// Last bytes of ended connections, held by the shell.
    pub closing: u64,
}

impl Ledger {
    /// Bytes that count against `shard_bytes_max`: a message that many sessions hold counts once.
    pub fn total(&self) -> u64 {
        self.read_buffers
            + self.outbound
            + self.connections
            + self.slots
            + self.sessions
            + self.messages
            + self.pages
            + self.closing
    }

    /// Adds the bytes of another shard.
    pub fn add(&mut self, other: &Ledger) {
        for ((_, sum), (_, part)) in self.rows_mut().into_iter().zip(other.rows()) {
            *sum += part;
        }
    }

    /// Name and bytes of each part, in a fixed order.
    pub fn rows(&self) -> [(&'static str, u64); 10] {
        let mut copy = *self;
        copy.rows_mut().map(|(name, bytes)| (name, *bytes))
    }

    fn rows_mut(&mut self) -> [(&'static str, &mut u64); 10] {
        [
            ("read_buffers", &mut self.read_buffers),
            ("outbound", &mut self.outbound),
            ("connections", &mut self.connections),
            ("slots", &mut self.slots),
            ("queues", &mut self.queues),
            ("in_flight", &mut self.in_flight),
            ("sessions", &mut self.sessions),
            ("messages", &mut self.messages),
            ("pages", &mut self.pages),
            ("closing", &mut self.closing),
        ]
    }
}

/// Indexes in [`Weight::parts`] of a connection.
pub(crate) const READ: usize = 0;

pub(crate) const OUTBOUND: usize = 1;

/// Indexes in [`Weight::parts`] of a session.
pub(crate) const SLOTS: usize = 0;

pub(crate) const QUEUE: usize = 1;

pub(crate) const IN_FLIGHT: usize = 2;

/// The rest of a holder's charge.
pub(crate) const OWN: usize = 3;

/// The charge of a holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Bytes by purpose.
    pub(crate) parts: [usize; 4],
    /// The bytes of a connection that is not admitted, as part of these.
    pub(crate) pending: usize,
    /// The bytes that the client causes, without the fixed bytes of every holder.
    pub(crate) chosen: usize,
    /// Bytes on their way to its socket beyond `outbound_bytes_max`.
    pub(crate) burst: usize,
    /// Whether it is ended before all holders without this flag.
    pub(crate) first: bool,
    /// Whether it is ended before others of its size, because no client loses anything by that.
    pub(crate) yields: bool,
    /// Whether there is anything that can be ended.
    pub(crate) ends: bool,
}

/// A [`Weight`] as every holder stores it, in a third of the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Charge {
    parts: [u32; 4],
    burst: u32,
    /// What the client does not cause: all parts without `chosen`.
    fixed: u16,
    /// [`Charge::FIRST`], [`Charge::YIELDS`], [`Charge::ENDS`], or [`Charge::HUGE`] alone.
    flags: u8,
    /// Whether the holder has changed since it was last weighed.
    touched: bool,
}

impl Charge {
    const FIRST: u8 = 1;
    const YIELDS: u8 = 2;
    const ENDS: u8 = 4;
    /// The weight does not fit, and is stored elsewhere.
    const HUGE: u8 = 8;

    #[inline]
    fn of(weight: &Weight) -> Charge {
        Charge::fitted(weight).unwrap_or(Charge { flags: Charge::HUGE, ..Charge::default() })
    }

    /// The charge of a weight; `None` if that does not fit.
    #[inline]
    fn fitted(weight: &Weight) -> Option<Charge> {
        let Weight { parts: [a, b, c, d], burst, .. } = *weight;
        if (a | b | c | d | burst) >> 32 != 0
            || weight.pending != if weight.first { weight.chosen } else { 0 }
        {
            return None;
        }
        let fixed = (a + b + c + d).checked_sub(weight.chosen)?;
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        Some(Charge {
            parts: [a as u32, b as u32, c as u32, d as u32],
            burst: burst as u32,
            fixed: u16::try_from(fixed).ok()?,
            flags: flag(weight.first, Charge::FIRST)
                | flag(weight.yields, Charge::YIELDS)
                | flag(weight.ends, Charge::ENDS),
            touched: false,
        })
    }

    #[inline]
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The weight, unless it is huge.
    #[inline]
    fn weight(self) -> Weight {
        let parts = self.parts.map(|part| part as usize);
        let (chosen, first) =
            (parts.iter().sum::<usize>() - usize::from(self.fixed), self.has(Charge::FIRST));
        Weight {
            parts,
            pending: if first { chosen } else { 0 },
            chosen,
            burst: self.burst as usize,
            first,
            yields: self.has(Charge::YIELDS),
            ends: self.has(Charge::ENDS),
        }
    }
}

/// A connection or session.
pub(crate) trait Holder {
    /// Whether holders are also ordered by their first part alone.
    const BY_FIRST_PART: bool;
    /// The charge, from its running sums.
    fn weight(&self, limits: &Limits) -> Weight;
    /// Recomputes the parts piece by piece.
    fn recount(&self) -> [usize; 4];
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    charge: Charge,
}

/// Connections or sessions by key, with their charges: a [`Table`] that records changed entries.
#[derive(Debug)]
pub(crate) struct Holders<K, T> {
    table: Table<Entry<T>>,
    /// Keys of the entries changed since they were last weighed, each once.
    touched: Vec<K>,
    /// Weights of the entries that are too heavy for a [`Charge`].
    huge: BTreeMap<K, Weight>,
    /// Sums of all charges, as of the last weighing.
    parts: [usize; 4],
    pending: usize,
    burst: usize,
    /// By size, those that are ended first at the end; light holders are left out.
    by_weight: BTreeSet<(u16, K)>,
    /// The same, by the first part alone.
    by_first_part: BTreeSet<(u16, K)>,
}

impl<K, T> Default for Holders<K, T> {
    fn default() -> Self {
        Holders {
            table: Table::default(),
            touched: Vec::new(),
            huge: BTreeMap::new(),
            parts: [0; 4],
            pending: 0,
            burst: 0,
            by_weight: BTreeSet::new(),
            by_first_part: BTreeSet::new(),
        }
    }
}

/// An admitted holder below this number of bytes is left out of the order.
const LIGHT_BYTES: usize = 1024;

/// Size class, in steps of an eighth. Within a step those with `yields` are heavier. 0 is left out
/// of the order.
pub(crate) fn class(bytes: usize, first: bool, yields: bool) -> u16 {
    if bytes == 0 || (!first && bytes < LIGHT_BYTES) {
        return 0;
    }
    let bits = usize::BITS - bytes.leading_zeros();
    let steps = (bytes << 3) >> (bits - 1) & 7;
    (u16::from(first) << 15) | (bits as u16) << 4 | (steps as u16) << 1 | u16::from(yields)
}

impl<K: Key + Ord, T: Holder> Holders<K, T> {
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(K) -> T) -> K {
        let charge = Charge { touched: true, ..Charge::default() };
        let key = self.table.insert_with(|key| Entry { value: make(key), charge });
        self.touched.push(key);
        key
    }

    #[inline]
    pub(crate) fn get(&self, key: K) -> Option<&T> {
        self.table.get(key).map(|entry| &entry.value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let entry = self.table.get_mut(key)?;
        if !entry.charge.touched {
            entry.charge.touched = true;
            self.touched.push(key);
        }
        Some(&mut entry.value)
    }

    /// Removes one. Returns whether it existed.
    pub(crate) fn discard(&mut self, key: K) -> bool {
        let Some(charge) = self.table.get(key).map(|entry| entry.charge) else { return false };
        self.table.discard(key);
        let before = self.weight_of(key, charge);
        if charge.has(Charge::HUGE) {
            self.huge.remove(&key);
        }
        self.reweigh(key, before, Weight::default());
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.table.iter().map(|(key, entry)| (key, &entry.value))
    }

    pub(crate) fn key_at(&self, index: usize) -> Option<K> {
        self.table.key_at(index)
    }

    pub(crate) fn places(&self) -> usize {
        self.table.places()
    }

    /// Charge of a holder in bytes, as of the last weighing.
    pub(crate) fn charged(&self, key: K) -> usize {
        let charge = self.table.get(key).map(|entry| entry.charge);
        charge.map_or(0, |charge| self.weight_of(key, charge).parts.iter().sum())
    }

    /// Weighs the changed entries again.
    pub(crate) fn settle(&mut self, limits: &Limits) {
        while let Some(key) = self.touched.pop() {
            let Some(entry) = self.table.get_mut(key) else { continue };
            let now = entry.value.weight(limits);
            let charge = Charge::of(&now);
            let before = std::mem::replace(&mut entry.charge, charge);
            if (Charge { touched: false, ..before }) == charge && !charge.has(Charge::HUGE) {
                continue;
            }
            let before = self.weight_of(key, before);
            if charge.has(Charge::HUGE) {
                self.huge.insert(key, now);
            } else if !self.huge.is_empty() {
                self.huge.remove(&key);
            }
            self.reweigh(key, before, now);
        }
    }

    /// The weight that a charge stands for.
    fn weight_of(&self, key: K, charge: Charge) -> Weight {
        if charge.has(Charge::HUGE) {
            self.huge.get(&key).copied().unwrap_or_default()
        } else {
            charge.weight()
        }
    }

    fn reweigh(&mut self, key: K, before: Weight, now: Weight) {
        if before == now {
            return;
        }
        for ((sum, before), now) in self.parts.iter_mut().zip(before.parts).zip(now.parts) {
            *sum = *sum - before + now;
        }
        self.pending = self.pending - before.pending + now.pending;
        self.burst = self.burst - before.burst + now.burst;
        let by_weight = |weight: Weight| match weight.ends {
            true => class(weight.chosen, weight.first, weight.yields),
            false => 0,
        };
        relist(&mut self.by_weight, key, by_weight(before), by_weight(now));
        if T::BY_FIRST_PART {
            let by_first_part = |weight: Weight| class(weight.parts[0], weight.first, false);
            relist(&mut self.by_first_part, key, by_first_part(before), by_first_part(now));
        }
    }

    /// Bytes of all holders by purpose; see [`Weight::parts`].
    pub(crate) fn bytes_by_part(&self) -> [usize; 4] {
        self.parts
    }

    /// Bytes of the connections that are not admitted.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending
    }

    /// Bytes on their way to sockets beyond `outbound_bytes_max` of each connection.
    pub(crate) fn burst_bytes(&self) -> usize {
        self.burst
    }

    /// The heaviest holder, and its size class. Those that are ended first come before the others.
    pub(crate) fn heaviest(&self) -> Option<(u16, K)> {
        self.by_weight.last().copied()
    }

    /// The heaviest by its first part alone.
    pub(crate) fn largest_by_first_part(&self) -> Option<K> {
        self.by_first_part.last().map(|(_, key)| *key)
    }

    /// The heaviest of those that are ended first.
    pub(crate) fn first(&self) -> Option<K> {
        self.by_weight.last().filter(|(class, _)| class >> 15 == 1).map(|(_, key)| *key)
    }
}

fn relist<K: Ord + Copy>(list: &mut BTreeSet<(u16, K)>, key: K, before: u16, now: u16) {
    if before == now {
        return;
    }
    if before != 0 {
        list.remove(&(before, key));
    }
    if now != 0 {
        list.insert((now, key));
    }
}

/// The memory state of a shard.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The pool of messages that sessions hold.
    pool: Pool,
    /// Bytes that one connection may queue beyond `outbound_bytes_max` while its socket accepts
    /// bytes.
    burst_room: usize,
    /// Whether the shard is near its limit; then publishers with much waiting are not read.
    tight: bool,
    /// Connections that are not read for this reason.
    waiters: BTreeSet<ConnKey>,
    /// Last bytes of ended connections.
    closing: usize,
}

impl Memory {
    /// The pool of messages that sessions hold.
    #[inline]
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bytes of messages that sessions hold, each message counted once.
    pub(crate) fn message_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Bytes that one connection may queue beyond `outbound_bytes_max` while its socket accepts
    /// bytes.
    #[inline]
    pub(crate) fn burst_room(&self) -> usize {
        self.burst_room
    }

    /// Whether the shard is near its limit; then publishers with much waiting are not read.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.tight
    }

    /// Sets the bytes of ended connections that the shell still has.
    pub(crate) fn charge_closing(&mut self, bytes: usize) {
        self.closing = bytes;
    }

    /// The bytes of ended connections, as last set.
    pub(crate) fn closing_bytes(&self) -> usize {
        self.closing
    }

    /// Records a connection that is not read until the shard is no longer near its limit. `conns`
    /// is the number of connections.
    pub(crate) fn wait(&mut self, key: ConnKey, conns: usize, is_there: impl Fn(ConnKey) -> bool) {
        if self.waiters.len() > conns {
            // Some of them have ended.
            self.waiters.retain(|waiter| is_there(*waiter));
        }
        self.waiters.insert(key);
    }

    /// Sets the room for bursts, and whether the shard is near its limit. Returns the connections
    /// that may be read again; `None` for none.
    pub(crate) fn weighed(&mut self, burst_left: usize, tight: bool) -> Option<BTreeSet<ConnKey>> {
        // Half of the rest, so that the next connection gets room too.
        self.burst_room = burst_left / 2;
        self.tight = tight;
        (!tight && !self.waiters.is_empty()).then(|| std::mem::take(&mut self.waiters))
    }
}
