//! A container for values that a plugin stores for clients. It has limits in total and for each
//! owner, in entries and in allocated bytes, so that one client cannot use all the memory. Use it
//! in the instances of shards, or behind a lock from other threads.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::drop_queue::DropQueue;
use super::host::Host;
use super::weigh::{Weigh, allocated, tree_entry_bytes};

mod accounts;
mod limits;
mod metrics;
mod over_limit;
mod over_oldest;

use accounts::Accounts;
pub use limits::{Full, ShareLimits};
use metrics::Metrics;
use over_limit::OverLimit;
pub use over_oldest::EVICTED_AT_ONCE;

/// A value that was not stored, and the limit.
#[derive(Debug)]
pub struct Rejected<V> {
    /// The limit that it would exceed.
    pub full: Full,
    /// The value.
    pub value: V,
}

/// The number of an entry. Numbers grow with each entry; none is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId(pub u64);

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    /// The part of the bytes that was charged later, with [`Shares::charge`].
    charged: u64,
    owner: Arc<str>,
    account: Option<Arc<str>>,
    /// The owner's previous and next entry; 0 for none.
    older: u64,
    newer: u64,
}

#[derive(Debug)]
struct Owner {
    entries: u64,
    bytes: u64,
    /// Its oldest and newest entry.
    first: u64,
    last_entry: u64,
    /// Its key in `turns`.
    turn: u64,
    /// The account that is charged with its name: that of its first entry.
    account: Option<Arc<str>>,
}

/// Values that are stored for owners. An owner is any text: a client identifier, an address, a user
/// name. Several owners may have one account ([`Shares::insert_for`]), which has a limit too.
///
/// An entry is charged with its whole memory: the value and its heap ([`Weigh`]), the entry's
/// bookkeeping, and the plugin's index entry for it ([`Shares::beside_each`]). The first entry of
/// an owner is also charged with the owner's name. A refused value is returned and nothing is
/// changed. No operation iterates over all entries: each costs a few look-ups in a balanced tree.
/// Memory is freed when entries are removed.
#[derive(Debug)]
pub struct Shares<V> {
    limits: ShareLimits,
    beside_each: u64,
    beside_owner: u64,
    entries: BTreeMap<u64, Box<Entry<V>>>,
    owners: BTreeMap<Arc<str>, Owner>,
    accounts: Accounts,
    /// The order of owners for [`Shares::take_next_in_turn`].
    turns: BTreeMap<u64, Arc<str>>,
    last_number: u64,
    last_turn: u64,
    bytes: u64,
    over_limit: OverLimit,
    work: u64,
    metrics: Metrics,
}

impl<V: Weigh> Shares<V> {
    /// Bytes of an entry, without its value's heap and the plugin's index.
    const ENTRY_BYTES: u64 = allocated(size_of::<Entry<V>>()) + tree_entry_bytes(16);

    /// An empty container with these limits.
    pub fn new(limits: ShareLimits) -> Shares<V> {
        Shares {
            limits,
            beside_each: 0,
            beside_owner: 0,
            entries: BTreeMap::new(),
            owners: BTreeMap::new(),
            accounts: Accounts::default(),
            turns: BTreeMap::new(),
            last_number: 0,
            last_turn: 0,
            bytes: 0,
            over_limit: OverLimit::default(),
            work: 0,
            metrics: Metrics::default(),
        }
    }

    /// Charges each entry with additional bytes, for example for an index of the plugin
    /// ([`tree_entry_bytes`] gives the size of an index entry). Call it before the first entry.
    #[must_use]
    pub fn beside_each(self, bytes: u64) -> Shares<V> {
        Shares { beside_each: bytes, ..self }
    }

    /// Charges each owner with additional bytes, for data that the plugin stores for each owner.
    /// Call it before the first entry.
    #[must_use]
    pub fn beside_owner(self, bytes: u64) -> Shares<V> {
        Shares { beside_owner: bytes, ..self }
    }

    /// Shows the usage in the broker's `/metrics`: the gauges `NAME`, `NAME_bytes` and
    /// `NAME_owners`, and the counters `NAME_refused_owner`, `NAME_refused_total` and
    /// `NAME_evicted`. The values of all shards are added. A metric that the broker refuses is
    /// omitted, and logged. Call it before the first entry.
    #[must_use]
    pub fn with_metrics(self, host: &Host, name: &str) -> Shares<V> {
        Shares { metrics: Metrics::of(*host, name), ..self }
    }

    /// Changes the limits. Entries that exceed them stay until [`Shares::evict_over_limit`] is
    /// called.
    pub fn set_limits(&mut self, limits: ShareLimits) {
        self.limits = limits;
        self.over_limit.check_all_owners();
    }

    /// The current limits.
    pub fn limits(&self) -> ShareLimits {
        self.limits
    }

    /// Bytes that this value would be charged with, without the owner's name.
    pub fn bytes_of(&self, value: &V) -> u64 {
        Self::ENTRY_BYTES + self.beside_each + value.heap_bytes()
    }

    /// Bytes that an owner is charged with in addition to its entries.
    fn owner_bytes(&self, owner: &str) -> u64 {
        let places = tree_entry_bytes(size_of::<(Arc<str>, Owner)>()) + tree_entry_bytes(24);
        allocated(16 + owner.len()) + places + over_limit::BYTES_OF_OWNER + self.beside_owner
    }

    /// Stores a value for an owner.
    ///
    /// # Errors
    /// The value, with the limit that it would exceed: the owner's or the total. The refusal is
    /// counted.
    pub fn insert(&mut self, owner: &str, value: V) -> Result<EntryId, Rejected<V>> {
        self.insert_for(None, owner, value)
    }

    /// As [`Shares::insert`], for an owner that may be one of many of the same account: the client
    /// identifiers of one user. All owners of an account together may have as much as one owner,
    /// and beyond that no more than is still free, so that others find room however many owners
    /// somebody makes. The events of the SDK name the account, as [`crate::Publish::account`] does.
    ///
    /// # Errors
    /// As [`Shares::insert`], and for the limit of the account.
    pub fn insert_for(
        &mut self,
        account: Option<&str>,
        owner: &str,
        value: V,
    ) -> Result<EntryId, Rejected<V>> {
        let bytes = self.bytes_of(&value);
        match self.find_full(account, owner, bytes) {
            Some(full) => {
                self.metrics.refused(full);
                Err(Rejected { full, value })
            }
            None => Ok(self.put((account, owner), value, bytes)),
        }
    }

    /// Stores a value without checking the limits, for values that were accepted before, as in
    /// `import_state` with a new configuration.
    pub fn restore(&mut self, owner: &str, value: V) -> EntryId {
        self.restore_for(None, owner, value)
    }

    /// As [`Shares::restore`], for a value that was stored with [`Shares::insert_for`].
    pub fn restore_for(&mut self, account: Option<&str>, owner: &str, value: V) -> EntryId {
        let bytes = self.bytes_of(&value);
        self.put((account, owner), value, bytes)
    }

    /// As [`Shares::restore`], with the number from the previous version. The number must be higher
    /// than those of all existing entries; otherwise it returns false and changes nothing.
    pub fn restore_as(&mut self, id: EntryId, owner: &str, value: V) -> bool {
        if self.newest().map_or(0, |newest| newest.0) >= id.0 {
            return false;
        }
        let (bytes, given) = (self.bytes_of(&value), self.last_number);
        self.last_number = id.0 - 1;
        self.put((None, owner), value, bytes);
        // No number is used twice.
        self.last_number = given.max(id.0);
        true
    }

    /// Checks whether a value would be accepted for an owner; counts nothing.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn has_room(&self, owner: &str, value: &V) -> Result<(), Full> {
        self.find_full(None, owner, self.bytes_of(value)).map_or(Ok(()), Err)
    }

    fn find_full(&self, account: Option<&str>, owner: &str, bytes: u64) -> Option<Full> {
        let (entries, held, new) = match self.owners.get(owner) {
            Some(known) => (known.entries, known.bytes, bytes),
            None => (0, 0, bytes + self.owner_bytes(owner)),
        };
        let all = new.saturating_add(account.map_or(0, |account| self.accounts.new_bytes(account)));
        let full = self.limits.find_full(
            (entries, held.saturating_add(new)),
            (self.entries.len() as u64, self.bytes.saturating_add(all)),
        );
        // The owner's limit comes first, and that of the account before the total.
        let of_owner = full.filter(|full| full.is_of_owner());
        of_owner.or_else(|| self.find_account_full(account?, all)).or(full)
    }

    fn put(&mut self, (account, owner): (Option<&str>, &str), value: V, bytes: u64) -> EntryId {
        self.last_number += 1;
        let number = self.last_number;
        self.work += 2;
        let account = account.map(|account| self.add_account(account));
        let name = match self.owners.get_key_value(owner) {
            Some((name, _)) => Arc::clone(name),
            None => self.add_owner(owner, account.clone()),
        };
        if let Some(account) = &account {
            self.accounts.charge(account, 1, bytes);
        }
        let mut older = 0;
        if let Some(known) = self.owners.get_mut(&name) {
            older = std::mem::replace(&mut known.last_entry, number);
            if known.entries == 0 {
                known.first = number;
            }
            known.entries += 1;
            known.bytes += bytes;
        }
        if let Some(entry) = self.entries.get_mut(&older) {
            entry.newer = number;
        }
        self.check_owner(&name);
        let entry = Entry { value, bytes, charged: 0, owner: name, account, older, newer: 0 };
        self.entries.insert(number, Box::new(entry));
        self.bytes += bytes;
        self.metrics.moved(1, bytes as i64, 0);
        EntryId(number)
    }

    fn add_account(&mut self, account: &str) -> Arc<str> {
        let bytes = self.accounts.new_bytes(account);
        self.work += 1;
        self.bytes += bytes;
        self.metrics.moved(0, bytes as i64, 0);
        self.accounts.add(account)
    }

    fn add_owner(&mut self, owner: &str, account: Option<Arc<str>>) -> Arc<str> {
        let (name, bytes) = (Arc::<str>::from(owner), self.owner_bytes(owner));
        self.last_turn += 1;
        self.turns.insert(self.last_turn, Arc::clone(&name));
        if let Some(account) = &account {
            self.accounts.charge(account, 0, bytes);
        }
        let known = Owner { entries: 0, bytes, first: 0, last_entry: 0, turn: self.last_turn, account };
        self.owners.insert(Arc::clone(&name), known);
        self.bytes += bytes;
        self.metrics.moved(0, bytes as i64, 1);
        name
    }
}

impl<V> Shares<V> {
    /// Removes a value and returns it; `None` if there is no such entry.
    pub fn remove(&mut self, id: EntryId) -> Option<V> {
        let entry = *self.entries.remove(&id.0)?;
        self.work += 4;
        if let Some(older) = self.entries.get_mut(&entry.older) {
            older.newer = entry.newer;
        }
        if let Some(newer) = self.entries.get_mut(&entry.newer) {
            newer.older = entry.older;
        }
        let mut gone = None;
        if let Some(owner) = self.owners.get_mut(&entry.owner) {
            owner.entries -= 1;
            owner.bytes -= entry.bytes;
            if owner.first == id.0 {
                owner.first = entry.newer;
            }
            if owner.last_entry == id.0 {
                owner.last_entry = entry.older;
            }
            gone = (owner.entries == 0).then_some((owner.turn, owner.bytes));
        }
        let mut bytes = entry.bytes;
        if let Some(account) = &entry.account {
            bytes += self.accounts.take_back(account, 1, entry.bytes);
        }
        if self.over_limit.has_owners() {
            self.check_owner(&entry.owner);
        }
        if let Some((turn, owner_bytes)) = gone {
            let account = self.owners.remove(&entry.owner).and_then(|owner| owner.account);
            bytes += account.map_or(0, |account| self.accounts.take_back(&account, 0, owner_bytes));
            self.turns.remove(&turn);
            bytes += owner_bytes;
        }
        self.bytes -= bytes;
        self.metrics.moved(-1, -(bytes as i64), -i64::from(gone.is_some()));
        if self.entries.is_empty() {
            // An empty tree still has a node.
            (self.entries, self.owners, self.turns, self.over_limit) = Default::default();
            self.accounts = Accounts::default();
        }
        Some(entry.value)
    }

    /// Removes the oldest value of the next owner, with the owner's name. Owners take turns,
    /// however many values each of them has.
    pub fn take_next_in_turn(&mut self) -> Option<(Arc<str>, V)> {
        let (turn, name) = self.turns.pop_first()?;
        self.work += 2;
        let owner = self.owners.get_mut(&name)?;
        let first = EntryId(owner.first);
        // After all others. If this was the owner's last entry, `remove` removes its turn.
        self.last_turn = self.last_turn.max(turn) + 1;
        owner.turn = self.last_turn;
        self.turns.insert(self.last_turn, Arc::clone(&name));
        self.remove(first).map(|value| (name, value))
    }

    /// Removes all entries without freeing them: they move to `left`, which frees them later.
    /// Numbers continue.
    pub fn clear_into(&mut self, left: &mut DropQueue)
    where
        V: Send + 'static,
    {
        self.metrics.moved(-(self.entries.len() as i64), -(self.bytes as i64), -(self.owners.len() as i64));
        self.bytes = 0;
        left.add(std::mem::take(&mut self.entries));
        left.add(std::mem::take(&mut self.owners));
        left.add(std::mem::take(&mut self.turns));
        std::mem::take(&mut self.accounts).clear_into(left);
        std::mem::take(&mut self.over_limit).clear_into(left);
    }

    /// Charges an entry with the bytes that the plugin uses for it at the moment. They are added to
    /// the initial charge and replace the previous such charge. Limits are not checked because the
    /// memory is in use already: call [`Shares::free_bytes`] before. Returns false if there is no
    /// such entry.
    pub fn charge(&mut self, id: EntryId, bytes: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&id.0) else { return false };
        let before = std::mem::replace(&mut entry.charged, bytes);
        if before == bytes {
            return true;
        }
        entry.bytes = entry.bytes - before + bytes;
        let owner = Arc::clone(&entry.owner);
        if let Some(account) = &entry.account {
            // The entry stays, so the account stays.
            self.accounts.charge(account, 0, bytes);
            self.accounts.take_back(account, 0, before);
        }
        self.work += 2;
        if let Some(known) = self.owners.get_mut(&owner) {
            known.bytes = known.bytes - before + bytes;
        }
        self.bytes = self.bytes - before + bytes;
        self.check_owner(&owner);
        self.metrics.moved(0, bytes as i64 - before as i64, 0);
        true
    }

    /// How many more bytes an owner with entries may use: the rest of its limit, of that of its
    /// account or of the total, whichever is least.
    pub fn free_bytes(&self, owner: &str) -> u64 {
        let of_owner = self.limits.owner_bytes_max.saturating_sub(self.used_by(owner).1);
        let account = self.owners.get(owner).and_then(|owner| owner.account.as_deref());
        let of_account = account.map_or(u64::MAX, |account| self.free_bytes_of_account(account));
        of_owner.min(of_account).min(self.limits.bytes_max.saturating_sub(self.bytes))
    }

    /// A value.
    pub fn get(&self, id: EntryId) -> Option<&V> {
        self.entries.get(&id.0).map(|entry| &entry.value)
    }

    /// The owner of an entry.
    pub fn owner_of(&self, id: EntryId) -> Option<&str> {
        self.entries.get(&id.0).map(|entry| &*entry.owner)
    }

    /// The owner as the shared name, to store it elsewhere without a copy.
    pub fn owner_name(&self, id: EntryId) -> Option<&Arc<str>> {
        self.entries.get(&id.0).map(|entry| &entry.owner)
    }

    /// The oldest entry of all.
    pub fn oldest(&self) -> Option<EntryId> {
        self.entries.first_key_value().map(|(number, _)| EntryId(*number))
    }

    /// The oldest entry of an owner.
    pub fn oldest_of(&self, owner: &str) -> Option<EntryId> {
        self.owners.get(owner).map(|owner| EntryId(owner.first))
    }

    /// The newest entry of all.
    pub fn newest(&self) -> Option<EntryId> {
        self.entries.last_key_value().map(|(number, _)| EntryId(*number))
    }

    /// All entries with their owners, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (EntryId, &str, &V)> {
        self.iter_after(EntryId(0))
    }

    /// The entries after this one, to continue an iteration. The entry itself may be removed
    /// already.
    pub fn iter_after(&self, id: EntryId) -> impl Iterator<Item = (EntryId, &str, &V)> {
        let behind = self.entries.range((Bound::Excluded(id.0), Bound::Unbounded));
        behind.map(|(number, entry)| (EntryId(*number), &*entry.owner, &entry.value))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many owners have entries.
    pub fn owners(&self) -> usize {
        self.owners.len()
    }

    /// The number of entries and bytes of an owner.
    pub fn used_by(&self, owner: &str) -> (u64, u64) {
        self.owners.get(owner).map_or((0, 0), |owner| (owner.entries, owner.bytes))
    }

    /// Number of tree look-ups for changes so far, for tests that measure the work.
    pub fn work(&self) -> u64 {
        self.work
    }
}
