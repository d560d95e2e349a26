//! What happens when time passes: missed deadlines, silent clients, delayed wills, expired sessions. A deadline of a client is
//! judged when what its socket holds has been read: a shard that was held for longer than a keep alive must not take its own
//! absence for the client's.

use grapnel_plugin_abi::raw::Ticket;

use super::{
    admission, authority, commands, connack, deliver, ending, filters, hooks, pump, reading, retained,
};
use crate::clients::connection::State;
use crate::clock::{Deadline, Overdue};
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::id::ConnKey;
use crate::interface::Completion;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::EndCause;

pub(crate) fn run_timers(parts: &mut Parts) {
    for deadline in parts.clock.take_deadlines() {
        match deadline {
            Deadline::Ticket(ticket) => ticket_due(parts, ticket),
            Deadline::Barrier(session) => filters::barrier_due(parts, session),
            Deadline::Release(session) => pump::release_due(parts, session),
            Deadline::Connect(conn) => connect_due(parts, conn),
            Deadline::Recheck => authority::recheck_now(parts),
            Deadline::Plugin { timer, number } => commands::plugin_timer_due(parts, timer, number),
        }
    }
    for entry in parts.clock.take_overdue() {
        match entry {
            Overdue::KeepAlive(conn) => keep_alive_due(parts, conn),
            Overdue::Expiry(session) => ending::expiry_due(parts, session),
            Overdue::Will(session) => ending::will_due(parts, session),
            Overdue::Settled => retained::settle_due(parts),
        }
    }
}

/// When `advance` has something to do at the latest, in monotonic milliseconds; `None` while nothing is armed.
pub(crate) fn next_deadline_ms(parts: &Parts) -> Option<u64> {
    parts.clock.next_due_ms()
}

fn connect_due(parts: &mut Parts, key: ConnKey) {
    let now_ms = parts.clock.now().mono_ms;
    // An earlier packet's time is of no interest any more.
    let Some(conn) = parts.connections.get_mut(key).filter(|conn| conn.is_late(now_ms)) else { return };
    match (&conn.state, conn.is_paused()) {
        // It is not the client that is waited for, but the session of another principal.
        (State::Admitting(_), true) => {
            connack::refuse(parts, key, ReasonCode::SERVER_BUSY, None);
        }
        // Its time does not run while we refuse to read.
        (_, true) => reading::expect_packet(parts, key),
        _ => {
            conn.overdue = true;
            parts.out.overdue.push(key);
        }
    }
}

fn keep_alive_due(parts: &mut Parts, key: ConnKey) {
    if is_silent(parts, key)
        && let Some(conn) = parts.connections.get_mut(key)
    {
        conn.overdue = true;
        conn.silent = true;
        parts.out.overdue.push(key);
    }
}

/// Whether a connection has sent nothing for too long; if not, looks again when it may have.
fn is_silent(parts: &mut Parts, key: ConnKey) -> bool {
    let now_ms = parts.clock.now().mono_ms;
    let Some(conn) = parts.connections.get_mut(key) else { return false };
    let due = conn.last_received_ms + conn.silence_max_ms;
    let silent = now_ms >= due && !conn.is_paused();
    if !silent {
        // It does not run while we refuse to read.
        let again = if conn.is_paused() { now_ms + conn.silence_max_ms } else { due };
        conn.keep_alive = Some(parts.clock.arm_overdue(again, Overdue::KeepAlive(key)));
    }
    silent
}

/// Everything that the socket of a connection in `overdue` held when it was listed has been offered: one that is still
/// silent ends, whatever came later. A stale key is ignored, and so is one that is not overdue.
pub(crate) fn heard_out(parts: &mut Parts, key: ConnKey) {
    let now_ms = parts.clock.now().mono_ms;
    let Some(conn) = parts.connections.get_mut(key) else { return };
    if !std::mem::take(&mut conn.overdue) {
        return;
    }
    let (late, live) = (conn.is_late(now_ms) && !conn.is_paused(), matches!(conn.state, State::Live));
    let silent = std::mem::take(&mut conn.silent);
    if late && live {
        // It has begun to re-authenticate, and has not gone on: that has failed [MQTT-4.12.1-2].
        parts.counters.client_auth_denied += 1;
        admission::end_renewal(parts, key, ReasonCode::NOT_AUTHORIZED);
    } else if late {
        ending::end_connection(parts, key, EndCause::ByBroker(ReasonCode::MAXIMUM_CONNECT_TIME), None);
    } else if silent && is_silent(parts, key) {
        // [MQTT-3.1.2-22]
        parts.counters.client_keepalive_timeout += 1;
        let reason = ReasonCode::KEEP_ALIVE_TIMEOUT;
        ending::end_connection(parts, key, EndCause::ByBroker(reason), Some((reason, None)));
    }
}

fn ticket_due(parts: &mut Parts, ticket: Ticket) {
    if let Some(open) = hooks::close_ticket(parts, ticket) {
        parts.counters.tickets_expired += 1;
        answer(parts, &open, None);
    }
}

/// A deferred verdict. Late or doubled ones are counted and ignored.
pub(crate) fn complete(parts: &mut Parts, completion: Completion) {
    match hooks::close_ticket(parts, Ticket(completion.ticket)) {
        Some(open) => answer(parts, &open, Some(completion)),
        None => parts.counters.tickets_stale += 1,
    }
}

fn answer(parts: &mut Parts, open: &OpenTicket, completion: Option<Completion>) {
    let answer = completion.as_ref().map(|completion| (completion.flow, &completion.changes[..]));
    match open.waiter {
        Waiter::Connect(conn) | Waiter::Authenticate(conn) | Waiter::Will(conn) => {
            admission::admission_answered(parts, conn, open, answer);
        }
        Waiter::Renewal(conn) => admission::renewal_answered(parts, conn, open, answer),
        Waiter::Publish(session, number, _) => pump::publish_answered(parts, session, number, open, answer),
        Waiter::Filters(session, number, _) => {
            filters::filters_answered(parts, session, number, open, answer)
        }
        Waiter::Deliver(session) => deliver::delivery_answered(parts, session, open, answer),
        Waiter::Recheck(id) => authority::recheck_answered(parts, id, open, answer),
        Waiter::Filter(session, number, index) => {
            filters::filter_answered(parts, (session, number, index), open, answer);
        }
    }
}
