//! Whether a connection is read, and why not. The shell sees this state as `Next::Pause` and the
//! outbox's `resume`. Each reason for a pause ends: with a verdict or its deadline, when slots
//! drain, when bytes are written or the stalled socket is closed, when memory is released.

use std::rc::Rc;

use crate::clients::Connection;
use crate::clients::connection::Watch;
use crate::clients::reading::{Pause, Reading};
use crate::clock::{Clock, Deadline, Overdue};
use crate::id::{ConnKey, SessionKey};
use crate::limits::Limits;
use crate::parts::Parts;
use crate::session::{Identity, Session};

/// When memory is tight, a client is paused at this fraction of its slot limit.
const SHARE: u64 = 16;

/// Why to pause a connection. `part` divides each limit: a paused connection resumes only well
/// below the limit.
#[inline]
fn too_much(
    conn: &Connection,
    session: Option<&Session>,
    limits: &Limits,
    tight: bool,
    part: u64,
) -> Option<Pause> {
    if conn.out.len() as u64 * part >= limits.outbound_bytes_max + (part - 1) {
        return Some(Pause::Outbound);
    }
    let slots = &session?.slots;
    if slots.is_empty() {
        return None;
    }
    let beyond = |value: u64, max: u64| value * part >= max + (part - 1);
    if beyond(slots.len() as u64, limits.slots_max)
        || beyond(slots.bytes() as u64, limits.slot_bytes_max)
        || beyond(slots.deferred() as u64, limits.defer_window)
    {
        return Some(Pause::Slots);
    }
    (tight && slots.bytes() as u64 * part * SHARE >= limits.slot_bytes_max).then_some(Pause::Memory)
}

/// Whether a connection is read; `None` for a stale key.
pub(crate) fn reading(parts: &Parts, conn: ConnKey) -> Option<Reading> {
    parts.connections.get(conn).map(|conn| conn.reading)
}

/// Pauses a connection at its limits: packets of its session that wait, or bytes that its socket
/// does not accept, including acknowledgements and PINGRESP.
pub(crate) fn pause_if_full(parts: &mut Parts, key: ConnKey) -> Handled {
    let Some(conn) = parts.connections.get(key) else { return Handled::Closed };
    if conn.is_paused() {
        return Handled::Pause;
    }
    let session = conn.session.and_then(|session| parts.sessions.get(session));
    let Some(why) = too_much(conn, session, &parts.setup.limits, parts.memory.is_tight(), 1) else {
        return Handled::Next;
    };
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.pause(why);
    }
    note_pause(parts, key, why);
    Handled::Pause
}

#[cold]
fn note_pause(parts: &mut Parts, key: ConnKey, why: Pause) {
    match why {
        Pause::Admission | Pause::Work => {}
        Pause::Slots => parts.counters.pauses_slots += 1,
        Pause::Outbound => parts.counters.pauses_outbound += 1,
        Pause::Memory => {
            parts.counters.pauses_memory += 1;
            let conns = &parts.connections;
            parts.memory.wait(key, conns.len(), |waiter| conns.get(waiter).is_some());
        }
    }
}

/// Resumes the connection of a session that has room again.
pub(crate) fn resume_if_room(parts: &mut Parts, session: SessionKey) {
    if let Some(conn) = parts.sessions.get(session).and_then(|session| session.conn) {
        resume_if_free(parts, conn);
    }
}

/// Resumes a connection that was paused for this reason, if no other reason applies.
pub(crate) fn resume_from(parts: &mut Parts, key: ConnKey, why: Pause) {
    if parts.connections.get(key).is_some_and(|conn| conn.reading == Reading::Paused(why)) {
        if why == Pause::Admission {
            // An admission pause ends with the verdict, however much is queued for the socket.
            read_on(parts, key);
        } else {
            resume_if_free(parts, key);
        }
    }
}

/// Resumes a connection if no reason for a pause is left. One that waits for a plugin's verdict
/// stays paused.
pub(crate) fn resume_if_free(parts: &mut Parts, key: ConnKey) {
    let Some(conn) = parts.connections.get(key) else { return };
    let Reading::Paused(before) = conn.reading else { return };
    if matches!(before, Pause::Admission | Pause::Work) {
        return;
    }
    let session = conn.session.and_then(|session| parts.sessions.get(session));
    // Half of the limit, so that a connection does not pause and resume all the time.
    match too_much(conn, session, &parts.setup.limits, parts.memory.is_tight(), 2) {
        None => read_on(parts, key),
        Some(why) if why != before => {
            if let Some(conn) = parts.connections.get_mut(key) {
                conn.pause(why);
            }
            note_pause(parts, key, why);
        }
        Some(_) => {}
    }
}

/// Pauses a connection until the next turn.
pub(crate) fn pause_for_work(parts: &mut Parts, key: ConnKey) {
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.pause(Pause::Work);
        parts.work.push_unread(key);
    }
}

/// At the end of a turn, resumes connections that were paused for too much work, unless they have
/// reached a limit meanwhile.
pub(crate) fn resume_reads_after_work(parts: &mut Parts) {
    if parts.work.has_many_fanouts() {
        return;
    }
    for key in parts.work.take_unread() {
        let Some(conn) = parts.connections.get_mut(key) else { continue };
        if conn.reading == Reading::Paused(Pause::Work) {
            conn.reading = Reading::Reading;
            if let Handled::Next = pause_if_full(parts, key) {
                read_on(parts, key);
            }
        }
    }
}

fn read_on(parts: &mut Parts, key: ConnKey) {
    let now_ms = parts.clock.now().mono_ms;
    let Some(conn) = parts.connections.get_mut(key) else { return };
    conn.reading = Reading::Reading;
    // Keep alive does not run while the broker does not read [MQTT-3.1.2-22].
    conn.last_received_ms = now_ms;
    parts.out.resume.push(key);
}

/// Takes the identity out of a connection, so that it can be changed without a copy. The caller
/// puts it back with `set_identity`.
pub(crate) fn take_identity(parts: &mut Parts, key: ConnKey) {
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.identity = None;
    }
}

pub(crate) fn set_identity(parts: &mut Parts, key: ConnKey, identity: Rc<Identity>) {
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.identity = Some(identity);
    }
}

/// The session of a live connection.
pub(crate) fn session_of(parts: &Parts, key: ConnKey) -> Option<crate::id::SessionKey> {
    parts.connections.get(key).and_then(|conn| conn.session)
}

/// Result of one packet.
pub(crate) enum Handled {
    /// Go on with the next.
    Next,
    /// Stop taking packets for now.
    Pause,
    /// The connection moves to another shard with this packet.
    Handoff(crate::id::ShardId),
    /// The connection has ended.
    Closed,
}

/// Removes a connection.
pub(crate) fn remove_connection(parts: &mut Parts, key: ConnKey) {
    let watch = parts.connections.get(key).and_then(|conn| conn.watch);
    cancel(&mut parts.clock, watch);
    parts.connections.discard(key);
}

/// The client must send CONNECT, or its next AUTH, within `connect_timeout_ms`.
pub(crate) fn expect_packet(parts: &mut Parts, key: ConnKey) {
    let due_ms = parts.clock.now().mono_ms + parts.setup.limits.connect_timeout_ms;
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.set_handshake().packet_due_ms = Some(due_ms);
        watch(&mut parts.clock, conn);
    }
}

/// Arms the only timer of a connection, for the time when its client may be late or silent, or
/// earlier.
pub(crate) fn watch(clock: &mut Clock, conn: &mut Connection) {
    let Some(due_ms) = conn.next_check_ms(clock.now().mono_ms) else { return };
    if conn.watch.is_some_and(|watch| watch.due_ms <= due_ms) {
        return;
    }
    cancel(clock, conn.watch);
    let is_exact = conn.is_packet_due(due_ms);
    let timer = if is_exact {
        clock.arm_deadline(due_ms, Deadline::Connection(conn.key))
    } else {
        clock.arm_overdue(due_ms, Overdue::Connection(conn.key))
    };
    conn.watch = Some(Watch { due_ms, timer, is_exact });
}

/// Takes the timer of CONNECT back and arms the one of the keep alive. A storm of connections would
/// otherwise be followed by one of timers that mean nothing.
pub(crate) fn watch_anew(clock: &mut Clock, conn: &mut Connection) {
    cancel(clock, conn.watch.take());
    watch(clock, conn);
}

fn cancel(clock: &mut Clock, watch: Option<Watch>) {
    match watch {
        Some(Watch { timer, is_exact: true, .. }) => clock.cancel_deadline(Some(timer)),
        Some(Watch { timer, is_exact: false, .. }) => clock.cancel_overdue(Some(timer)),
        None => {}
    }
}
