//! `trace client ID`, as the shell asks for it.

use crate::interface::TraceLine;
use crate::parts::Parts;

/// Begins to remember the packets of a client, also of one that is yet to connect; `trace_lines_max` bounds them.
pub(crate) fn trace_start(parts: &mut Parts, client_id: &str) {
    parts.connections.traces().start(client_id);
    set_traced(parts, client_id, true);
}

/// Takes what was remembered since the last call, with the number of lines lost to the bound.
pub(crate) fn trace_take(parts: &mut Parts, client_id: &str) -> (Vec<TraceLine>, u64) {
    parts.connections.traces().take(client_id)
}

/// Forgets a trace.
pub(crate) fn trace_stop(parts: &mut Parts, client_id: &str) {
    parts.connections.traces().stop(client_id);
    set_traced(parts, client_id, false);
}

fn set_traced(parts: &mut Parts, client_id: &str, traced: bool) {
    let session = parts.sessions.by_client_id(client_id).and_then(|key| parts.sessions.get(key));
    if let Some(conn) =
        session.and_then(|session| session.conn).and_then(|key| parts.connections.get_mut(key))
    {
        conn.traced = traced;
    }
}
