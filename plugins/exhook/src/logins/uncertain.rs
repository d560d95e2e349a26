//! Entries whose sessions may have ended without a notification. While hooks of the plugin are not
//! called (it is disabled or tripped, or the operator has removed hooks), nobody reports which
//! sessions begin and end. Such a period is a gap. An entry is shown for its own session only, so
//! that one of an ended session is shown to nobody. But it would stay for ever: so all entries from
//! before a gap are doubted after it, until an event shows that their session still exists. Doubted
//! entries are charged to nobody, and are evicted first when room is needed.

use std::ops::Bound;

use super::Connection;
use super::live::{Live, LiveSessions};
use super::state::{Bounds, Login, Logins, SLICE, State};

/// No gap has this number, so an entry with it is always doubted.
const NEVER: u64 = u64::MAX;

impl Logins {
    /// Whether the session of a login may have ended without a notification.
    pub(super) fn is_uncertain(&self, login: &Login) -> bool {
        login.gap != self.gap
    }
}

impl State {
    /// A gap begins on this shard: forgets which clients are connected, and doubts all entries
    /// without visiting them.
    pub fn begin_gap(&mut self, shard: u32) {
        let logins = self.of(shard);
        logins.gap += 1;
        logins.live = LiveSessions::default();
        if logins.unlisted.replace("".into()).is_none() {
            self.unlisted += 1;
        }
    }

    /// Lists a batch of doubted entries, so that they can be evicted.
    pub(super) fn list_uncertain(&mut self) {
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
        for (name, _) in names.iter().filter(|(_, is_uncertain)| *is_uncertain) {
            self.mark_uncertain(shard, name);
        }
    }

    /// Doubts one entry and lists it, so that it can be evicted from now on.
    pub(super) fn mark_uncertain(&mut self, shard: u32, client_id: &str) {
        let login = self.shards.get_mut(&shard).and_then(|logins| logins.by_client.get_mut(client_id));
        let Some(login) = login else { return };
        login.gap = NEVER;
        if !std::mem::replace(&mut login.yields, true) {
            let (owner, cost) = (login.owner, login.cost);
            self.uncertain.insert((owner, shard, client_id.into()));
            self.give_back(owner, cost);
        }
    }

    /// A client's session has this number. An entry of an earlier one is removed, since that one
    /// has ended. The entry of this one is no longer doubted.
    pub(super) fn is_there(&mut self, shard: u32, client_id: &str, session: u64) {
        let logins = self.of(shard);
        let gap = logins.gap;
        let Some(login) = logins.by_client.get_mut(client_id) else { return };
        if login.session != session {
            if login.session < session {
                self.remove(shard, client_id);
            }
            return;
        }
        login.gap = gap;
        if std::mem::take(&mut login.yields) {
            // Its room was granted before.
            let (owner, cost) = (login.owner, login.cost);
            self.uncertain.remove(&(owner, shard, client_id.into()));
            self.charge(owner, cost);
        }
    }

    /// An event shows that this connection is in, or was: data of its session is stored from now
    /// on. It is doubted where the connection was not known before, because it may have gone.
    pub fn confirm(&mut self, bounds: &Bounds, connection: Connection<'_>, shard: u32, live: Live) {
        let logins = self.of(shard);
        let live = match logins.live(connection.client_id) {
            // A late event of an earlier session.
            Some(before) if before.session > live.session => return,
            // The last connection is known. This may be an earlier one, for which a plugin publishes.
            Some(before) if before.session == live.session && before.was_seen => before,
            Some(before) if before.session == live.session => {
                let goes_on = before.goes_on && before.connection == live.connection;
                Live { is_uncertain: live.is_uncertain && before.is_uncertain, goes_on, ..live }
            }
            // It may never be reported that it has ended.
            None if live.is_uncertain && logins.live.len() >= bounds.pending_max => return,
            _ => live,
        };
        self.is_live(bounds, shard, connection.client_id, live);
        self.is_there(shard, connection.client_id, live.session);
    }

    /// Number of entries that are doubted and listed.
    #[cfg(test)]
    pub fn uncertain(&self) -> usize {
        self.uncertain.len()
    }
}
