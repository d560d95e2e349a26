//! What logins have given to hooks, as far as the clients of a shard are concerned.

use std::hash::BuildHasher;

use super::{Clients, Who};
use crate::logins::Connection;

impl Clients {
    /// A client has connected; `goes_on` says whether it resumed a session.
    pub fn enter(&self, who: &Who<'_>, goes_on: bool) {
        self.logins.enter(who.connection(), self.shard, who.owner(), goes_on);
    }

    /// The login data of a connection.
    pub(super) fn login(&self, who: &Who<'_>) -> Option<Box<[u8]>> {
        self.logins.of(who.connection(), self.shard, who.owner())
    }

    /// A client was refused.
    pub fn refused(&self, who: &Who<'_>) {
        self.logins.refused(who.connection(), self.shard);
    }

    /// A client was let in, but did not connect after all.
    pub fn forget_login(&self, who: &Who<'_>) {
        let _ = self.logins.forget(who.connection(), self.shard);
    }

    /// The session of a client has ended: its data is removed, whether the worker is notified or
    /// not.
    pub fn session_over(&self, client_id: &str) {
        self.logins.over(client_id, self.shard);
    }

    /// Login data of a connection has arrived late, from the version before. The next call
    /// describes the client with it. Returns whether that client is in already.
    pub fn login_came(&mut self, whose: Connection<'_>) -> bool {
        let origin = self.hasher.hash_one((Some(whose.host), Some(whose.port)));
        let known = self.described.get_mut(whose.client_id).filter(|known| known.said.origin == origin);
        let Some(known) = known.filter(|known| !known.said.entering) else { return false };
        known.said.late = true;
        true
    }
}
