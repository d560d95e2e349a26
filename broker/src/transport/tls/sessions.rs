//! Sessions that the broker remembers, so that clients without a ticket can resume them. rustls
//! bounds their number; here the bytes of each are bounded too, because a session has the client's
//! certificates in it.

use std::sync::Arc;

use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

/// A session that takes more is not remembered, bytes. Without a certificate of the client it takes
/// about 150 bytes.
pub(crate) const SESSION_BYTES_MAX: usize = 8 << 10;

/// A store of sessions, for all connections of one configuration. Any thread may use it.
#[derive(Debug)]
pub(super) struct Sessions(Arc<ServerSessionMemoryCache>);

impl Sessions {
    /// A store for `sessions_max` sessions, at least one. The oldest is forgotten first.
    pub(super) fn new(sessions_max: usize) -> Sessions {
        Sessions(ServerSessionMemoryCache::new(sessions_max))
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        key.len() + value.len() <= SESSION_BYTES_MAX && self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}
