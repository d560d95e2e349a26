//! The command `trace client ID`, for the shell.

use crate::interface::TraceLine;
use crate::parts::Parts;

/// Begins to record the packets of a client, which may connect later. At most `trace_lines_max`
/// lines are stored.
pub(crate) fn trace_start(parts: &mut Parts, client_id: &str) {
    parts.connections.traces().start(client_id);
    set_traced(parts, client_id, true);
}

/// Takes what was recorded since the last call, and the number of lines lost to the limit.
pub(crate) fn trace_take(parts: &mut Parts, client_id: &str) -> (Vec<TraceLine>, u64) {
    parts.connections.traces().take(client_id)
}

/// Ends a trace and drops its lines.
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
