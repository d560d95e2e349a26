//! Who is here: network connections, and sessions by key and by client identifier.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ids::ClientIds;

use crate::id::{ConnKey, SessionKey};
use crate::ledger::Holders;
use crate::session::{Host, Session, host_of};
use crate::totals::Totals;
use crate::traces::Traces;

pub(crate) mod admission;
pub(crate) mod connection;
mod ids;
pub(crate) mod reading;
pub(crate) mod waiting;
mod weight;

pub(crate) use connection::Connection;
use waiting::Waiting;

/// The network connections of a shard, and what is remembered of the packets of traced clients.
#[derive(Debug)]
pub(crate) struct Connections {
    table: Holders<ConnKey, Connection>,
    /// Those that have a CONNECT which waits for an answer.
    waiting: Waiting,
    /// What all shards of the process hold together.
    totals: Arc<Totals>,
    /// Whether no new one is taken.
    draining: bool,
    traces: Traces,
    /// Our end of the last connection as text: most have the same.
    local: Option<(IpAddr, Host)>,
}

impl Connections {
    pub(crate) fn new(hasher: &ahash::RandomState, totals: Arc<Totals>) -> Connections {
        Connections {
            table: Holders::default(),
            waiting: Waiting::new(hasher.clone()),
            totals,
            draining: false,
            traces: Traces::new(hasher.clone()),
            local: None,
        }
    }

    /// The host of our end of a connection as text.
    #[inline]
    pub(crate) fn local_host(&mut self, address: &SocketAddr) -> Host {
        match &self.local {
            Some((ip, host)) if *ip == address.ip() => *host,
            _ => self.local.insert((address.ip(), host_of(address))).1,
        }
    }

    /// Counts with all shards of the process from now on. Before the first connection.
    pub(crate) fn share_totals(&mut self, totals: Arc<Totals>) {
        self.totals = totals;
    }

    /// Counts one more in advance, if this shard has fewer than `max` and all shards together fewer than `total_max`.
    #[inline]
    pub(crate) fn reserve(&self, max: u64, total_max: u64) -> bool {
        (self.table.len() as u64) < max && self.totals.connections().take(total_max)
    }

    /// Drops a connection, and counts one less.
    #[inline]
    pub(crate) fn discard(&mut self, key: ConnKey) {
        if self.table.discard(key) {
            self.totals.connections().give_back();
        }
    }

    /// Those that have a CONNECT which waits for an answer, from when it does until it goes on or its connection has ended.
    #[inline]
    pub(crate) fn waiting(&mut self) -> &mut Waiting {
        &mut self.waiting
    }

    /// Takes no new connection any more.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether no new connection is taken.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// What is remembered of traced clients.
    #[inline]
    pub(crate) fn traces(&mut self) -> &mut Traces {
        &mut self.traces
    }
}

impl Deref for Connections {
    type Target = Holders<ConnKey, Connection>;
    fn deref(&self) -> &Holders<ConnKey, Connection> {
        &self.table
    }
}

impl DerefMut for Connections {
    fn deref_mut(&mut self) -> &mut Holders<ConnKey, Connection> {
        &mut self.table
    }
}

/// The sessions of a shard.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Holders<SessionKey, Session>,
    /// By client identifier.
    by_client: ClientIds,
    /// How many of them no client has: what plugins ask for waits in them.
    plugins: usize,
    /// What all shards of the process hold together.
    totals: Arc<Totals>,
}

impl Sessions {
    pub(crate) fn new(hasher: &ahash::RandomState, totals: Arc<Totals>) -> Sessions {
        Sessions { table: Holders::default(), by_client: ClientIds::new(hasher), plugins: 0, totals }
    }

    /// Counts with all shards of the process from now on. Before the first session.
    pub(crate) fn share_totals(&mut self, totals: Arc<Totals>) {
        self.totals = totals;
    }

    /// Counts one more in advance, if this shard has fewer than `max` and all shards together fewer than `total_max`.
    #[inline]
    pub(crate) fn reserve(&self, max: u64, total_max: u64) -> bool {
        (self.clients_len() as u64) < max && self.totals.sessions().take(total_max)
    }

    /// What was reserved is not used.
    #[inline]
    pub(crate) fn give_back(&self) {
        self.totals.sessions().give_back();
    }

    /// Drops a session, and counts one less.
    #[inline]
    pub(crate) fn discard(&mut self, key: SessionKey) {
        if self.table.discard(key) {
            self.totals.sessions().give_back();
        }
    }

    /// A session that was just made is a plugin's: it is none of those that clients have.
    pub(crate) fn give_to_plugin(&mut self, key: SessionKey) {
        if let Some(session) = self.table.get_mut(key) {
            session.detached = true;
            self.plugins += 1;
        }
    }

    /// Drops a session that a plugin has.
    pub(crate) fn discard_of_plugin(&mut self, key: SessionKey) {
        self.plugins -= usize::from(self.table.discard(key));
    }

    /// How many of them clients have.
    pub(crate) fn clients_len(&self) -> usize {
        self.table.len() - self.plugins
    }

    /// The session that a client identifier leads to.
    pub(crate) fn by_client_id(&self, client_id: &str) -> Option<SessionKey> {
        self.by_client.get(client_id)
    }

    /// A client identifier leads to this session from now on.
    pub(crate) fn name(&mut self, client_id: Arc<str>, key: SessionKey) {
        self.by_client.insert(client_id, key);
    }

    /// A client identifier leads nowhere any more, if it led to this session.
    pub(crate) fn free_client_id(&mut self, client_id: &str, key: SessionKey) {
        self.by_client.remove(client_id, key);
    }
}

impl Deref for Sessions {
    type Target = Holders<SessionKey, Session>;
    fn deref(&self) -> &Holders<SessionKey, Session> {
        &self.table
    }
}

impl DerefMut for Sessions {
    fn deref_mut(&mut self) -> &mut Holders<SessionKey, Session> {
        &mut self.table
    }
}
