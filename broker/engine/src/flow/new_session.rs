//! A new session, which no client identifier leads to yet.

use std::rc::Rc;

use crate::id::SessionKey;
use crate::parts::Parts;
use crate::session::{Identity, Session};

/// Makes it.
pub(crate) fn new_session(parts: &mut Parts, identity: &Rc<Identity>) -> SessionKey {
    let pool = parts.memory.pool().clone();
    let (now, window) = (parts.clock.now(), parts.setup.limits.inflight_max as usize);
    parts.sessions.insert_with(|key| Session::new(key, identity, now, window, pool.clone()))
}

/// Makes one that no client has: what a plugin asks for waits in it. No list shows it.
pub(crate) fn of_plugin(parts: &mut Parts, identity: &Rc<Identity>) -> SessionKey {
    let key = new_session(parts, identity);
    parts.sessions.give_to_plugin(key);
    key
}
