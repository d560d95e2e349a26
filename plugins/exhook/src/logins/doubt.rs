//! Entries that may be outdated. While hooks of the plugin are not called (it is disabled or
//! tripped, or the operator has removed hooks), nobody reports which sessions begin and end. Such a
//! period is a gap. All entries from before a gap are doubted after it: they are hidden until an
//! event of their own connection shows that the session still exists. They are charged to nobody
//! meanwhile.

use std::collections::HashMap;
use std::ops::Bound;

use super::Connection;
use super::state::{Live, Login, Logins, SLICE, State};

/// No gap has this number, so an entry with it is always doubted.
const NEVER: u64 = u64::MAX;

impl Logins {
    /// Whether the session of a login may have ended without a notification.
    pub(super) fn is_doubted(&self, login: &Login) -> bool {
        login.gap != self.gap
    }
}

impl State {
    /// A gap begins on this shard: forgets which clients are connected, and doubts all entries
    /// without visiting them.
    pub fn begin_doubt(&mut self, shard: u32) {
        let logins = self.of(shard);
        logins.gap += 1;
        (logins.live, logins.ended) = (HashMap::new(), None);
        if logins.unlisted.replace("".into()).is_none() {
            self.unlisted += 1;
        }
    }

    /// Lists a batch of doubted entries, so that they can be evicted.
    pub(super) fn list_doubted(&mut self) {
        if self.unlisted == 0 {
            return;
        }
        let listing = self.shards.iter_mut().find_map(|(shard, logins)| {
            let after = logins.unlisted.take()?;
            let behind = (Bound::Excluded(&*after), Bound::Unbounded);
            let some = logins.by_client.range::<str, _>(behind).take(SLICE);
            let names: Vec<_> = some.map(|(name, login)| (name.clone(), login.gap != logins.gap)).collect();
            if names.len() == SLICE {
                logins.unlisted = names.last().map(|(name, _)| name.clone());
            }
            Some((*shard, names, logins.unlisted.is_none()))
        });
        let Some((shard, names, is_done)) = listing else { return };
        self.unlisted -= usize::from(is_done);
        for (name, _) in names.iter().filter(|(_, is_doubted)| *is_doubted) {
            self.doubt(shard, name);
        }
    }

    /// Doubts one entry and lists it, so that it can be evicted from now on.
    pub(super) fn doubt(&mut self, shard: u32, client_id: &str) {
        let login = self.shards.get_mut(&shard).and_then(|logins| logins.by_client.get_mut(client_id));
        let Some(login) = login else { return };
        login.gap = NEVER;
        if !std::mem::replace(&mut login.yields, true) {
            let (owner, cost) = (login.owner, login.cost);
            self.doubted.insert((owner, shard, client_id.into()));
            self.give_back(owner, cost);
        }
    }

    /// Whether any entry may be doubted.
    pub(super) fn has_doubted(&self) -> bool {
        self.unlisted > 0 || !self.doubted.is_empty()
    }

    /// This connection of this owner is in, so the data of its login is valid.
    pub fn confirm(&mut self, whose: Connection<'_>, shard: u32, owner: u64, is_first: bool) {
        let logins = self.of(shard);
        if is_first && logins.live(whose.client_id).is_none() {
            // Data that it returns from now on is stored, even if there was none before or an
            // earlier connection's.
            logins.is_live(whose.client_id, Live { owner, goes_on: true });
        }
        let Some(login) = logins.by_client.get_mut(whose.client_id) else { return };
        if login.gap == logins.gap || login.owner != owner || !login.is_of(whose) {
            return;
        }
        login.gap = logins.gap;
        let (yielded, cost) = (std::mem::take(&mut login.yields), login.cost);
        logins.is_live(whose.client_id, Live { owner, goes_on: true });
        if yielded {
            // Its room was granted before.
            self.doubted.remove(&(owner, shard, whose.client_id.into()));
            self.charge(owner, cost);
        }
    }

    /// Number of entries that are doubted and listed.
    #[cfg(test)]
    pub fn doubted(&self) -> usize {
        self.doubted.len()
    }
}
