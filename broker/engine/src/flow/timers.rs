//! Handles deadlines: tickets, silent clients, delayed wills, expired sessions. The deadline of a
//! client is checked only after the bytes in its socket have been read: a shard that was blocked
//! for longer than a keep alive must not take its own delay for silence of the client.

use grapnel_plugin_abi::raw::Ticket;

use super::{
    admission, authority, commands, connack, deliver, ending, filter_barrier, filter_rights, filters, hooks,
    instance_message, on_behalf, pump, reading, renewal, retained,
};
use crate::clients::connection::State;
use crate::clock::{Deadline, Overdue};
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::id::ConnKey;
use crate::interface::Completion;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::EndCause;
use crate::timer::Timer;

/// Runs what is due, as far as the turn's budget goes: half of it for each wheel.
pub(crate) fn run_timers(parts: &mut Parts) {
    parts.clock.look();
    let most = (parts.setup.limits.turn_budget_deliveries / 2).max(1);
    for _ in 0..most {
        let Some((timer, deadline)) = parts.clock.pop_deadline() else { break };
        parts.counters.work_units += 1;
        if holds_deadline(parts, timer, deadline) {
            run_deadline(parts, deadline);
        }
    }
    for _ in 0..most {
        let Some((timer, entry)) = parts.clock.pop_overdue() else { break };
        parts.counters.work_units += 1;
        if holds_overdue(parts, timer, entry) {
            run_overdue(parts, entry);
        }
    }
}

/// Whether the timer is still current. Its owner may have ended or armed another one since it
/// became due.
fn holds_deadline(parts: &mut Parts, timer: Timer, deadline: Deadline) -> bool {
    let held = match deadline {
        Deadline::Ticket(ticket) => parts.hooks.open_ticket(ticket).and_then(|open| open.timer),
        Deadline::Connection(conn) => watch_of(parts, conn, true),
        Deadline::Barrier(key) => parts.sessions.get(key).and_then(|session| session.rare().barrier_timer),
        Deadline::Release(key) => {
            parts.sessions.get(key).and_then(|session| session.rare().release_wait.timer())
        }
        Deadline::Recheck => parts.hooks.rechecks().timer(),
        Deadline::Plugin { timer, .. } => parts.hooks.plugins_mut().armed(timer),
    };
    held == Some(timer)
}

fn holds_overdue(parts: &mut Parts, timer: Timer, entry: Overdue) -> bool {
    let held = match entry {
        Overdue::Connection(conn) => watch_of(parts, conn, false),
        Overdue::Expiry(key) => parts.sessions.get(key).and_then(|session| session.expiry_timer),
        Overdue::Will(key) => parts.sessions.get(key).and_then(|session| session.rare().will_timer),
        Overdue::Settled => parts.work.settling().timer(),
        Overdue::InstanceMessages => parts.hooks.plugins_mut().lateness().map(|(_, timer)| timer),
    };
    held == Some(timer)
}

fn watch_of(parts: &Parts, key: ConnKey, is_exact: bool) -> Option<Timer> {
    let watch = parts.connections.get(key).and_then(|conn| conn.watch);
    watch.filter(|watch| watch.is_exact == is_exact).map(|watch| watch.timer)
}

fn run_deadline(parts: &mut Parts, deadline: Deadline) {
    match deadline {
        Deadline::Ticket(ticket) => ticket_due(parts, ticket),
        Deadline::Connection(conn) => connection_due(parts, conn),
        Deadline::Barrier(session) => filter_barrier::barrier_due(parts, session),
        Deadline::Release(session) => pump::release_due(parts, session),
        Deadline::Recheck => authority::recheck_now(parts),
        Deadline::Plugin { timer, number } => commands::plugin_timer_due(parts, timer, number),
    }
}

fn run_overdue(parts: &mut Parts, entry: Overdue) {
    match entry {
        Overdue::Connection(conn) => connection_due(parts, conn),
        Overdue::Expiry(session) => ending::expiry_due(parts, session),
        Overdue::Will(session) => ending::will_due(parts, session),
        Overdue::Settled => retained::settle_due(parts),
        Overdue::InstanceMessages => instance_message::settle_stored_messages(parts),
    }
}

/// The latest time of the next `advance`, in monotonic milliseconds; `None` while no timer is
/// armed.
pub(crate) fn next_deadline_ms(parts: &Parts) -> Option<u64> {
    parts.clock.next_due_ms()
}

/// Checks a connection whose client may be late with CONNECT or AUTH, or silent for too long.
fn connection_due(parts: &mut Parts, key: ConnKey) {
    let now_ms = parts.clock.now().mono_ms;
    let Some(conn) = parts.connections.get_mut(key) else { return };
    conn.watch = None;
    match (conn.is_late(now_ms), conn.state, conn.is_paused()) {
        // It does not wait for the client but for the session of another principal.
        (true, State::Admitting, true) => {
            connack::refuse(parts, key, ReasonCode::SERVER_BUSY, None);
        }
        // The deadline is extended, because the broker is not reading.
        (true, _, true) => reading::expect_packet(parts, key),
        (false, ..) if !conn.is_silent(now_ms) => reading::watch(&mut parts.clock, conn),
        (is_late, ..) => {
            conn.overdue = true;
            conn.silent = !is_late;
            parts.out.overdue.push(key);
        }
    }
}

/// Checks the deadline of a connection in `overdue`, after all bytes that its socket held when it
/// was listed have been offered. Ends it if it is still silent. A key that is stale or not overdue
/// is ignored.
pub(crate) fn deadline_checked(parts: &mut Parts, key: ConnKey) {
    let now_ms = parts.clock.now().mono_ms;
    let Some(conn) = parts.connections.get_mut(key) else { return };
    if !std::mem::take(&mut conn.overdue) {
        return;
    }
    let (late, live) = (conn.is_late(now_ms) && !conn.is_paused(), conn.state == State::Live);
    let silent = std::mem::take(&mut conn.silent);
    if late && live {
        // The client has begun a re-authentication and not continued it: it has failed
        // [MQTT-4.12.1-2].
        parts.counters.client_auth_denied += 1;
        renewal::end_renewal(parts, key, ReasonCode::NOT_AUTHORIZED);
    } else if late {
        ending::end_connection(parts, key, EndCause::ByBroker(ReasonCode::MAXIMUM_CONNECT_TIME), None);
    } else if silent && conn.is_silent(now_ms) {
        // [MQTT-3.1.2-22]
        parts.counters.client_keepalive_timeout += 1;
        let reason = ReasonCode::KEEP_ALIVE_TIMEOUT;
        ending::end_connection(parts, key, EndCause::ByBroker(reason), Some((reason, None)));
    } else {
        reading::watch(&mut parts.clock, conn);
    }
}

fn ticket_due(parts: &mut Parts, ticket: Ticket) {
    if let Some(open) = hooks::close_ticket(parts, ticket) {
        parts.counters.tickets_expired += 1;
        answer(parts, &open, None);
    }
}

/// Handles a deferred verdict. A late or repeated one is counted and ignored.
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
        Waiter::Renewal(conn) => renewal::renewal_answered(parts, conn, open, answer),
        Waiter::Publish(session, number, _) => pump::publish_answered(parts, session, number, open, answer),
        Waiter::Filters(session, number, _) => {
            filters::filters_answered(parts, session, number, open, answer)
        }
        Waiter::Deliver(session) => deliver::delivery_answered(parts, session, open, answer),
        Waiter::Recheck(id) => authority::recheck_answered(parts, id, open, answer),
        Waiter::Filter(session, number, index) => {
            filter_rights::filter_answered(parts, (session, number, index), open, answer);
        }
        Waiter::Fetch(page) => on_behalf::fetch_answered(parts, page, open, answer),
    }
}
