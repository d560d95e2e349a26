//! What all clients of one account are charged together. One user may have many client identifiers,
//! and somebody whose user name was not verified may have any.

use std::collections::HashMap;

use super::call::Kind;
use super::room::{Limits, Usage};
use crate::shrink;

/// The account of a client: a hash of its verified user name, otherwise of its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Account(pub u64);

impl Account {
    /// The account of all publishers whose messages an event shows without their client.
    pub const PUBLISHERS: Account = Account(0);
}

/// All accounts with charges.
#[derive(Default, Debug)]
pub(super) struct Accounts(HashMap<Account, Usage>);

impl Accounts {
    /// Memory of an account: its place in a table that has doubled.
    pub const COST: u64 = 2 * size_of::<(Account, Usage)>() as u64;

    /// Whether this many calls and bytes more fit. An account may have as much as one client, or as
    /// much as is free of what all have in use, whichever is more. Notifications may use half of
    /// that.
    pub fn fits(
        &self,
        account: Option<Account>,
        (limits, all): (&Limits, Usage),
        kind: Kind,
        more: (u64, u64),
    ) -> bool {
        let Some(account) = account else { return true };
        let usage = self.0.get(&account).copied().unwrap_or_default();
        let calls_max = limits.client_calls_max.max(limits.calls_max.saturating_sub(all.calls));
        let bytes_max = limits.client_bytes_max.max(limits.bytes_max.saturating_sub(all.bytes));
        usage.fits(kind, more, (calls_max, bytes_max))
    }

    pub fn add(&mut self, account: Option<Account>, kind: Kind, calls: u64, bytes: u64) {
        if let Some(account) = account
            && kind != Kind::Forgotten
        {
            self.0.entry(account).or_default().add(kind, calls, bytes);
        }
    }

    pub fn take(&mut self, account: Option<Account>, kind: Kind, calls: u64, bytes: u64) {
        let Some(account) = account else { return };
        let Some(usage) = self.0.get_mut(&account) else { return };
        usage.take(kind, calls, bytes);
        if *usage == Usage::default() {
            self.0.remove(&account);
            shrink::table(&mut self.0, shrink::TABLE_MIN);
        }
    }

    /// Whether nothing is charged.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
