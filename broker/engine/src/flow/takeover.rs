//! Session takeover by a new connection. Called by a CONNECT that is decided.

use super::{ending, notify};
use crate::hook::HookPoint;
use crate::id::{ConnKey, SessionKey};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::{EndCause, EndReason, Identity, Session};

/// Ends the connection of a session that another connection takes over.
pub(crate) fn take_over(parts: &mut Parts, session_key: SessionKey, old: ConnKey) {
    let reason = ReasonCode::SESSION_TAKEN_OVER;
    if parts.sessions.get(session_key).is_some_and(Session::is_persistent) {
        let end = Some((EndReason::Takenover.word(), reason));
        notify::notify_session(parts, HookPoint::SessionTakenover, session_key, end);
    }
    parts.counters.session_takenover += 1;
    ending::end_connection(parts, old, EndCause::ByBroker(reason), Some((reason, None)));
}

/// Whether a session belongs to another principal.
pub(crate) fn is_foreign(parts: &Parts, session: SessionKey, identity: &Identity) -> bool {
    parts.sessions.get(session).is_some_and(|session| session.identity.principal() != identity.principal())
}
