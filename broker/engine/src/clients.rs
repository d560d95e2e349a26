//! The clients of a shard: network connections, and sessions by key and by client identifier.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ids::ClientIds;

use crate::id::{ConnKey, SessionKey};
use crate::ledger::Holders;
use crate::session::{Entrance, Session};
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

/// Maximum number of entrances that clients share: one for each address of each listener. Beyond it,
/// as where a proxy tells many addresses, each client has one of its own and is charged for it.
const ENTRANCES_MAX: usize = 16;

/// The network connections of a shard, and the recorded packets of traced clients.
#[derive(Debug)]
pub(crate) struct Connections {
    table: Holders<ConnKey, Connection>,
    /// Connections whose CONNECT waits for an answer.
    waiting: Waiting,
    /// The counts of all shards of the process.
    totals: Arc<Totals>,
    /// Whether new connections are refused.
    draining: bool,
    traces: Traces,
    /// The entrances that clients share, at most [`ENTRANCES_MAX`].
    entrances: Vec<Arc<Entrance>>,
}

impl Connections {
    pub(crate) fn new(hasher: &ahash::RandomState, totals: Arc<Totals>) -> Connections {
        Connections {
            table: Holders::default(),
            waiting: Waiting::new(hasher.clone()),
            totals,
            draining: false,
            traces: Traces::new(hasher.clone()),
            entrances: Vec::new(),
        }
    }

    /// Where a connection whose CONNECT was not accepted has entered the broker.
    pub(crate) fn entrance(&mut self, key: ConnKey) -> Option<Arc<Entrance>> {
        let peer = self.table.get(key)?.peer()?;
        let is_same =
            |known: &&Arc<Entrance>| known.listener == peer.listener.name && known.local.get() == peer.local;
        if let Some(known) = self.entrances.iter().find(is_same) {
            return Some(Arc::clone(known));
        }
        // Those of listeners that are gone, or of addresses that nobody uses any more.
        if self.entrances.len() == ENTRANCES_MAX {
            self.entrances.retain(|known| Arc::strong_count(known) > 1);
        }
        let is_shared = self.entrances.len() < ENTRANCES_MAX;
        let entrance = Arc::new(Entrance::new(Arc::clone(&peer.listener.name), peer.local, is_shared));
        if is_shared {
            self.entrances.push(Arc::clone(&entrance));
        }
        Some(entrance)
    }

    /// Shares the counts with all shards of the process. To be called before the first connection.
    pub(crate) fn share_totals(&mut self, totals: Arc<Totals>) {
        self.totals = totals;
    }

    /// Reserves a connection, if this shard has fewer than `max` and all shards together have fewer
    /// than `total_max`.
    #[inline]
    pub(crate) fn reserve(&self, max: u64, total_max: u64) -> bool {
        (self.table.len() as u64) < max && self.totals.connections().take(total_max)
    }

    /// Removes a connection and its count.
    #[inline]
    pub(crate) fn discard(&mut self, key: ConnKey) {
        if self.table.discard(key) {
            self.totals.connections().give_back();
        }
    }

    /// Connections whose CONNECT waits for an answer, until it goes on or the connection ends.
    #[inline]
    pub(crate) fn waiting(&mut self) -> &mut Waiting {
        &mut self.waiting
    }

    /// Refuses new connections from now on.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether new connections are refused.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// The records of traced clients.
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
    /// Keys by client identifier.
    by_client: ClientIds,
    /// Number of sessions without a client, for requests of plugins.
    plugins: usize,
    /// The last number of a session of a client.
    last_number: u64,
    /// The counts of all shards of the process.
    totals: Arc<Totals>,
}

impl Sessions {
    pub(crate) fn new(hasher: &ahash::RandomState, totals: Arc<Totals>) -> Sessions {
        Sessions {
            table: Holders::default(),
            by_client: ClientIds::new(hasher),
            plugins: 0,
            last_number: 0,
            totals,
        }
    }

    /// Shares the counts with all shards of the process. To be called before the first session.
    pub(crate) fn share_totals(&mut self, totals: Arc<Totals>) {
        self.totals = totals;
    }

    /// Reserves a session, if this shard has fewer than `max` and all shards together have fewer
    /// than `total_max`.
    #[inline]
    pub(crate) fn reserve(&self, max: u64, total_max: u64) -> bool {
        (self.clients_len() as u64) < max && self.totals.sessions().take(total_max)
    }

    /// A number that no session of this shard has had, from 1 on.
    #[inline]
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Releases a reservation that is not used.
    #[inline]
    pub(crate) fn give_back(&self) {
        self.totals.sessions().give_back();
    }

    /// Removes a session and its count.
    #[inline]
    pub(crate) fn discard(&mut self, key: SessionKey) {
        if self.table.discard(key) {
            self.totals.sessions().give_back();
        }
    }

    /// Gives a new session to a plugin; it does not count as a session of a client.
    pub(crate) fn give_to_plugin(&mut self, key: SessionKey) {
        if let Some(session) = self.table.get_mut(key) {
            session.detached = true;
            self.plugins += 1;
        }
    }

    /// Removes a session of a plugin.
    pub(crate) fn discard_of_plugin(&mut self, key: SessionKey) {
        self.plugins -= usize::from(self.table.discard(key));
    }

    /// Number of sessions of clients.
    pub(crate) fn clients_len(&self) -> usize {
        self.table.len() - self.plugins
    }

    /// The session of a client identifier.
    pub(crate) fn by_client_id(&self, client_id: &str) -> Option<SessionKey> {
        self.by_client.get(client_id)
    }

    /// Sets the session of a client identifier.
    pub(crate) fn name(&mut self, client_id: Arc<str>, key: SessionKey) {
        self.by_client.insert(client_id, key);
    }

    /// Removes a client identifier, if it leads to this session.
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
