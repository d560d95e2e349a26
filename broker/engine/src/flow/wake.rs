//! Adds ready sessions to the run queue, each once, and counts work. Moves nothing itself.

use crate::clients::admission::Step;
use crate::id::{ConnKey, SessionKey, ShardId};
use crate::parts::Parts;
use crate::session::Session;

/// Begins a step for a public input and sets its work budget.
#[inline]
pub(crate) fn begin_step(parts: &mut Parts) {
    parts.work.run().begin_step(parts.setup.limits.turn_budget_deliveries);
}

/// Marks the slots of a session as ready to go on.
pub(crate) fn wake_slots(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if !session.ready.is_queued() {
        parts.work.run().push(key);
    }
    session.ready.slots = true;
}

/// Marks the outbound queue of a session as ready to send. No effect if nothing waits there.
#[inline]
pub(crate) fn wake_queue(parts: &mut Parts, key: SessionKey) {
    if !parts.sessions.get(key).is_some_and(Session::has_outgoing) {
        return;
    }
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if !session.ready.is_queued() {
        parts.work.run().push(key);
    }
    session.ready.queue = true;
}

/// Has a session wait for a lane, behind those that wait already. A session that waits for the lane
/// keeps its place.
pub(crate) fn wait_for_lane(parts: &mut Parts, key: SessionKey, lane: ShardId) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if session.rare().lanes_waited.contains(lane) {
        return;
    }
    session.set_rare().lanes_waited.insert(lane);
    parts.work.lanes().wait(key, lane);
}

/// Counts work in units: links called, nodes visited, entries moved.
pub(crate) fn spend(parts: &mut Parts, units: u64) {
    parts.counters.work_units += units;
    parts.work.charge_turn(units);
}

/// Returns a new number for a batch or a reader of retained messages.
pub(crate) fn next_reader(parts: &mut Parts) -> u64 {
    parts.work.next_reader()
}

/// Queues the CONNECT that waits for a session, if the session is idle now.
pub(crate) fn wake_takeover(parts: &mut Parts, session_key: SessionKey) {
    if let Some(session) = parts.sessions.get(session_key)
        && let Some(pending_takeover) = session.rare().pending_takeover
        && !session.is_busy()
    {
        queue_takeover(parts, pending_takeover);
    }
}

/// Has a CONNECT that waits for the session of another principal, and not for a plugin, go on in
/// the next turn.
pub(crate) fn queue_takeover(parts: &mut Parts, key: ConnKey) {
    if let Some(handshake) = parts.connections.get_mut(key).and_then(|conn| conn.handshake_mut())
        && let Some(admission) = &mut handshake.admission
        && admission.step == Step::Inherit
        && admission.ticket().is_none()
        && !admission.queued
    {
        admission.queued = true;
        parts.work.push_takeover(key);
    }
}
