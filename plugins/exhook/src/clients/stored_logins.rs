//! What the store of login data learns from the events of a shard, and what is read from it.

use std::hash::BuildHasher;

use super::{Clients, EventClient};
use crate::call_queue::QueueWriter;
use crate::logins::{Connection, OwnLogin};

impl Clients {
    /// The first event of a connection, or the first one after events were missed, shows which
    /// session it has. If the connection was not known before, this may be the last event of a
    /// session that has ended.
    pub(super) fn confirm(&mut self, who: &EventClient<'_>) {
        let (gaps, origin) = (self.logins.gaps(), self.origin(who));
        let known = self.described.get_mut(who.client_id).filter(|known| known.sent.origin == origin);
        let was_known = known.is_some();
        let is_first = known.is_none_or(|known| std::mem::replace(&mut known.gaps, gaps) != gaps);
        if is_first && self.stores_logins && who.session > 0 {
            self.logins.confirm(who.connection(), self.shard, who.session(), was_known);
        }
    }

    /// A client has connected; `goes_on` says whether it resumed a session.
    pub fn enter(&self, who: &EventClient<'_>, goes_on: bool) {
        self.logins.enter(who.connection(), self.shard, who.session(), goes_on);
    }

    /// A client has connected, and its CONNACK was not seen. `connection` is the number of its
    /// network connection, by which its login is found.
    pub fn enter_unanswered(&self, who: &EventClient<'_>, connection: u64) {
        let own = self.own_login(who, connection);
        self.logins.enter_unanswered(who.connection(), self.shard, who.session(), own);
    }

    /// The login of this network connection, if it was seen, and no event was missed since.
    fn own_login(&self, who: &EventClient<'_>, connection: u64) -> Option<OwnLogin> {
        let known = match self.pending_logins.get(self.login_key(who)) {
            Some(login) => &login.described,
            // An event before this one has shown that it is in.
            None => {
                self.described.get(who.client_id).filter(|known| known.sent.origin == self.origin(who))?
            }
        };
        let seen = known.login.filter(|seen| seen.connection == connection && connection > 0)?;
        let own = OwnLogin { number: known.number, session: seen.session };
        (seen.gaps == self.logins.gaps()).then_some(own)
    }

    /// A login from the same address and port under the same client identifier shows that the
    /// connection before it has closed. What was stored of that one's login is not of this one.
    pub(super) fn end_earlier_login(
        &mut self,
        writer: &mut QueueWriter<'_>,
        who: &EventClient<'_>,
        (login_key, connection): (u64, u64),
    ) {
        let seen = self.pending_logins.get(login_key).and_then(|login| login.described.login);
        if seen.is_some_and(|seen| seen.connection != connection)
            && let Some(removed) = self.pending_logins.remove(login_key)
        {
            removed.is_forgotten(writer);
            self.refused(who);
        }
    }

    /// The login data of a connection.
    pub(super) fn login(&self, who: &EventClient<'_>) -> Option<Box<[u8]>> {
        self.logins.of(who.connection(), self.shard, who.session())
    }

    /// A client was refused.
    pub fn refused(&self, who: &EventClient<'_>) {
        self.logins.refused(who.connection(), self.shard);
    }

    /// A client was let in, but did not connect after all.
    pub fn forget_login(&self, who: &EventClient<'_>) {
        let _ = self.logins.forget(who.connection(), self.shard);
    }

    /// A session of a client has ended: its data is removed, whether the worker is notified or not.
    pub fn session_ended(&self, who: &EventClient<'_>) {
        self.logins.over(who.client_id, self.shard, who.session);
    }

    /// Login data of a connection has arrived late, from the version before. The next call
    /// describes the client with it. Returns whether that client is in already.
    pub fn login_came(&mut self, whose: Connection<'_>) -> bool {
        let origin = self.hasher.hash_one((Some(whose.host), Some(whose.port)));
        let known = self.described.get_mut(whose.client_id).filter(|known| known.sent.origin == origin);
        let Some(known) = known.filter(|known| !known.sent.connecting) else { return false };
        known.sent.late = true;
        true
    }
}
