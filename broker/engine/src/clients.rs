//! Who is here: network connections, and sessions by key and by client identifier.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::id::{ConnKey, SessionKey};
use crate::ledger::Holders;
use crate::session::Session;
use crate::totals::Totals;

pub(crate) mod admission;
pub(crate) mod connection;
pub(crate) mod reading;
mod weight;

pub(crate) use connection::Connection;

/// The network connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    table: Holders<ConnKey, Connection>,
    /// How many have a CONNECT that waits for an answer.
    pub(crate) admitting: u64,
    /// What all shards of the process hold together.
    pub(crate) totals: Arc<Totals>,
    /// Whether no new one is taken.
    pub(crate) draining: bool,
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
    by_client: HashMap<Arc<str>, SessionKey, ahash::RandomState>,
}

impl Sessions {
    pub(crate) fn new(hasher: &ahash::RandomState) -> Sessions {
        Sessions { table: Holders::default(), by_client: HashMap::with_hasher(hasher.clone()) }
    }

    /// The session that a client identifier leads to.
    pub(crate) fn by_client_id(&self, client_id: &str) -> Option<SessionKey> {
        self.by_client.get(client_id).copied()
    }

    /// A client identifier leads to this session from now on.
    pub(crate) fn name(&mut self, client_id: Arc<str>, key: SessionKey) {
        self.by_client.insert(client_id, key);
    }

    /// A client identifier leads nowhere any more, if it led to this session.
    pub(crate) fn free_client_id(&mut self, client_id: &str, key: SessionKey) {
        if let Some((name, other)) = self.by_client.remove_entry(client_id)
            && other != key
        {
            self.by_client.insert(name, other);
        }
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
