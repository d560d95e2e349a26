//! What clients make a shard hold, and tables of those who hold it: what was changed in them is known, so that it can be weighed
//! anew, and so is who holds most.

use std::collections::BTreeSet;

use crate::id::{ConnKey, Key, Table};
use crate::limits::Limits;
use crate::shared_message::Pool;

/// Bytes that clients make a shard hold, by what they are held for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Received, and not a whole packet yet or not taken.
    pub read_buffers: u64,
    /// On the way to sockets, acknowledgements included.
    pub outbound: u64,
    /// Connections with their topic aliases, and CONNECT packets that are not decided yet.
    pub connections: u64,
    /// Received packets that wait for their turn, with wills that wait behind them.
    pub slots: u64,
    /// Messages that wait in the queues of sessions; each session is charged for all of its own.
    pub queues: u64,
    /// Messages that have been sent and not acknowledged; likewise.
    pub in_flight: u64,
    /// Sessions with their subscriptions, wills and readers of retained messages.
    pub sessions: u64,
    /// Messages in queues and in flight, each once however many sessions hold it.
    pub messages: u64,
    /// Pages of retained messages that plugins read on behalf of clients, with those that wait for their plugin.
    pub pages: u64,
    /// Last bytes for connections that have ended; the shell has them.
    pub closing: u64,
}

impl Ledger {
    /// What counts against `shard_bytes_max`: a message that many sessions hold counts once.
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

    /// Adds another shard's.
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

/// Places in [`Weight::parts`] of a connection.
pub(crate) const READ: usize = 0;

pub(crate) const OUTBOUND: usize = 1;

/// Places in [`Weight::parts`] of a session.
pub(crate) const SLOTS: usize = 0;

pub(crate) const QUEUE: usize = 1;

pub(crate) const IN_FLIGHT: usize = 2;

/// Whatever else a holder has.
pub(crate) const OWN: usize = 3;

/// What a holder is charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Bytes by what they are for.
    pub(crate) parts: [usize; 4],
    /// Of these, bytes of a connection that has not been let in.
    pub(crate) pending: usize,
    /// Bytes of these that its client has chosen; what every holder has is left out.
    pub(crate) chosen: usize,
    /// Bytes on the way to its socket beyond what each may have.
    pub(crate) burst: usize,
    /// Whether it is ended before all that are not.
    pub(crate) first: bool,
    /// Whether it is ended before others of its size: no client loses anything by that.
    pub(crate) yields: bool,
    /// Whether there is anything to be ended.
    pub(crate) ends: bool,
}

/// A connection or session.
pub(crate) trait Holder {
    /// Whether holders are also listed by their first part alone.
    const BY_FIRST_PART: bool;
    /// What it is charged for, from sums that it keeps.
    fn weight(&self, limits: &Limits) -> Weight;
    /// The parts of it, counted anew piece by piece.
    fn recount(&self) -> [usize; 4];
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    touched: bool,
    weight: Weight,
}

/// Connections or sessions by key, weighed: as [`Table`], but what was changed is known.
#[derive(Debug)]
pub(crate) struct Holders<K, T> {
    table: Table<Entry<T>>,
    /// What was changed since it was weighed, each once.
    touched: Vec<K>,
    /// Sums of what all are charged for, as of the last time they were weighed.
    parts: [usize; 4],
    pending: usize,
    burst: usize,
    /// By size, those that are ended first behind all others; what holds little is left out.
    by_weight: BTreeSet<(u16, K)>,
    /// The same by the first part alone.
    by_first_part: BTreeSet<(u16, K)>,
}

impl<K, T> Default for Holders<K, T> {
    fn default() -> Self {
        Holders {
            table: Table::default(),
            touched: Vec::new(),
            parts: [0; 4],
            pending: 0,
            burst: 0,
            by_weight: BTreeSet::new(),
            by_first_part: BTreeSet::new(),
        }
    }
}

/// Bytes below which a holder that has been let in is not among the heavy.
const LIGHT_BYTES: usize = 1024;

/// Sizes in steps of an eighth, of each first what `yields` to the others; 0 is not listed at all.
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
        let key = self.table.insert_with(|key| Entry {
            value: make(key),
            touched: true,
            weight: Weight::default(),
        });
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
        if !entry.touched {
            entry.touched = true;
            self.touched.push(key);
        }
        Some(&mut entry.value)
    }

    /// Drops one; whether it was there.
    pub(crate) fn discard(&mut self, key: K) -> bool {
        let Some(Entry { weight, .. }) = self.table.remove(key) else { return false };
        self.weigh_anew(key, weight, Weight::default());
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

    /// Bytes that a holder is charged for, as of the last time it was weighed.
    pub(crate) fn charged(&self, key: K) -> usize {
        self.table.get(key).map_or(0, |entry| entry.weight.parts.iter().sum())
    }

    /// Weighs what was changed.
    pub(crate) fn settle(&mut self, limits: &Limits) {
        while let Some(key) = self.touched.pop() {
            let Some(entry) = self.table.get_mut(key) else { continue };
            entry.touched = false;
            let now = entry.value.weight(limits);
            let before = std::mem::replace(&mut entry.weight, now);
            self.weigh_anew(key, before, now);
        }
    }

    fn weigh_anew(&mut self, key: K, before: Weight, now: Weight) {
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
        list_anew(&mut self.by_weight, key, by_weight(before), by_weight(now));
        if T::BY_FIRST_PART {
            let by_first_part = |weight: Weight| class(weight.parts[0], weight.first, false);
            list_anew(&mut self.by_first_part, key, by_first_part(before), by_first_part(now));
        }
    }

    /// Bytes that all are charged for, by what they are for; see [`Weight::parts`].
    pub(crate) fn bytes_by_part(&self) -> [usize; 4] {
        self.parts
    }

    /// Bytes of those that have not been let in.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending
    }

    /// Bytes on the way to sockets beyond what each may have.
    pub(crate) fn burst_bytes(&self) -> usize {
        self.burst
    }

    /// The heaviest of all, those that are ended first before the others, with a size to compare.
    pub(crate) fn heaviest(&self) -> Option<(u16, K)> {
        self.by_weight.last().copied()
    }

    /// The heaviest by its first part alone.
    pub(crate) fn heaviest_by_first_part(&self) -> Option<K> {
        self.by_first_part.last().map(|(_, key)| *key)
    }

    /// The heaviest of those that are ended first.
    pub(crate) fn first(&self) -> Option<K> {
        self.by_weight.last().filter(|(class, _)| class >> 15 == 1).map(|(_, key)| *key)
    }
}

fn list_anew<K: Ord + Copy>(list: &mut BTreeSet<(u16, K)>, key: K, before: u16, now: u16) {
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

/// What a shard keeps of its own about memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Messages that sessions hold.
    pool: Pool,
    /// What one connection may have queued beyond `outbound_bytes_max` while its socket takes bytes.
    burst_room: usize,
    /// Whether the shard is near its limit, so that publishers with much that waits are not read.
    tight: bool,
    /// Connections that are not read for that.
    waiters: BTreeSet<ConnKey>,
    /// Last bytes for connections that have ended.
    closing: usize,
}

impl Memory {
    /// Where messages are counted that sessions hold.
    #[inline]
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bytes of messages that sessions hold, each message once.
    pub(crate) fn message_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Bytes that one connection may have queued beyond `outbound_bytes_max` while its socket takes bytes.
    #[inline]
    pub(crate) fn burst_room(&self) -> usize {
        self.burst_room
    }

    /// Whether the shard is near its limit, so that publishers with much that waits are not read.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.tight
    }

    /// Bytes of connections that have ended, which the shell still has.
    pub(crate) fn charge_closing(&mut self, bytes: usize) {
        self.closing = bytes;
    }

    /// The same, as they were noted last.
    pub(crate) fn closing_bytes(&self) -> usize {
        self.closing
    }

    /// A connection is not read until the shard is not near its limit any more. `conns` are those that there are.
    pub(crate) fn wait(&mut self, key: ConnKey, conns: usize, is_there: impl Fn(ConnKey) -> bool) {
        if self.waiters.len() > conns {
            // Some have ended since.
            self.waiters.retain(|waiter| is_there(*waiter));
        }
        self.waiters.insert(key);
    }

    /// Notes what is left for bursts, and whether the shard is near its limit. Hands over who may be read again for that.
    pub(crate) fn weighed(&mut self, burst_left: usize, tight: bool) -> BTreeSet<ConnKey> {
        // Half of what is left: whoever comes next finds room too.
        self.burst_room = burst_left / 2;
        self.tight = tight;
        if tight { BTreeSet::new() } else { std::mem::take(&mut self.waiters) }
    }
}
