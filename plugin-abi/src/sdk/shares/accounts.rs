//! The accounts of [`Shares`]: what all owners of one user or address use together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Full, Shares};
use crate::sdk::drop_queue::DropQueue;
use crate::sdk::weigh::{allocated, tree_entry_bytes};

/// What an account is charged with: the entries, and the names of its owners.
#[derive(Default, Debug)]
struct Account {
    entries: u64,
    bytes: u64,
}

/// All accounts with entries.
#[derive(Default, Debug)]
pub(super) struct Accounts(BTreeMap<Arc<str>, Account>);

impl Accounts {
    /// Bytes of an account itself.
    fn bytes_of(account: &str) -> u64 {
        allocated(16 + account.len()) + tree_entry_bytes(size_of::<(Arc<str>, Account)>())
    }

    /// The bytes that an entry for this account needs beside it.
    pub(super) fn new_bytes(&self, account: &str) -> u64 {
        if self.0.contains_key(account) { 0 } else { Accounts::bytes_of(account) }
    }

    pub(super) fn used_by(&self, account: &str) -> (u64, u64) {
        self.0.get(account).map_or((0, 0), |account| (account.entries, account.bytes))
    }

    /// The shared name of an account, which the caller charges next.
    pub(super) fn add(&mut self, account: &str) -> Arc<str> {
        if let Some((name, _)) = self.0.get_key_value(account) {
            return Arc::clone(name);
        }
        let name = Arc::<str>::from(account);
        self.0.insert(Arc::clone(&name), Account::default());
        name
    }

    /// Charges an account with more.
    pub(super) fn charge(&mut self, account: &str, entries: u64, bytes: u64) {
        if let Some(known) = self.0.get_mut(account) {
            known.entries += entries;
            known.bytes += bytes;
        }
    }

    /// Removes all accounts; `left` frees them.
    pub(super) fn clear_into(self, left: &mut DropQueue) {
        left.add(self.0);
    }

    /// Takes a charge back. Returns the bytes of the account itself if nothing is left of it.
    pub(super) fn take_back(&mut self, account: &str, entries: u64, bytes: u64) -> u64 {
        let Some(known) = self.0.get_mut(account) else { return 0 };
        known.entries -= entries;
        known.bytes -= bytes;
        if (known.entries, known.bytes) != (0, 0) {
            return 0;
        }
        self.0.remove(account);
        Accounts::bytes_of(account)
    }
}

impl<V> Shares<V> {
    /// The account of an entry, if it was stored for one.
    pub fn account_of(&self, id: super::EntryId) -> Option<&str> {
        self.entries.get(&id.0)?.account.as_deref()
    }

    /// The number of entries and bytes of all owners of an account.
    pub fn used_by_account(&self, account: &str) -> (u64, u64) {
        self.accounts.used_by(account)
    }

    /// How many more bytes an account may use: the rest of what one owner may have, or so many that
    /// as much is free then as the account has, whichever is more.
    pub(super) fn free_bytes_of_account(&self, account: &str) -> u64 {
        let (_, held) = self.accounts.used_by(account);
        let free = self.limits.bytes_max.saturating_sub(self.bytes);
        self.limits.owner_bytes_max.saturating_sub(held).max(free.saturating_sub(held) / 2)
    }

    /// The limit of an account that an entry with these bytes, owner and account included, would
    /// exceed: as much as one owner may have, or as much as is free, whichever is more. So no
    /// account has more than half of the total, unless one owner may have that.
    pub(super) fn find_account_full(&self, account: &str, bytes: u64) -> Option<Full> {
        let (entries, held) = self.accounts.used_by(account);
        let free = self.limits.entries_max.saturating_sub(self.entries.len() as u64);
        let entries_max = self.limits.owner_entries_max.max(free);
        let free = self.limits.bytes_max.saturating_sub(self.bytes);
        let bytes_max = self.limits.owner_bytes_max.max(free);
        if entries >= entries_max {
            Some(Full::AccountEntries(entries_max))
        } else if held.saturating_add(bytes) > bytes_max {
            Some(Full::AccountBytes(bytes_max))
        } else {
            None
        }
    }
}
