//! Creates sessions that no client identifier maps to yet.

use std::rc::Rc;

use crate::id::SessionKey;
use crate::parts::Parts;
use crate::session::{Identity, Session};

/// Creates a session.
pub(crate) fn new_session(parts: &mut Parts, identity: &Rc<Identity>) -> SessionKey {
    let pool = parts.memory.pool().clone();
    let (now, window) = (parts.clock.now(), parts.setup.limits.inflight_max as usize);
    parts.sessions.insert_with(|key| Session::new(key, identity, now, window, pool.clone()))
}

/// Creates a session without a client for requests and publishes of plugins. Lists do not show it.
pub(crate) fn of_plugin(parts: &mut Parts, identity: &Rc<Identity>) -> SessionKey {
    let key = new_session(parts, identity);
    parts.sessions.give_to_plugin(key);
    key
}
