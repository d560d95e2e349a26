//! What becomes possible goes into the run queue here, once; and what was done is counted here. Nothing is moved.

use crate::clients::admission::Step;
use crate::clients::connection::State;
use crate::id::{ConnKey, SessionKey, ShardId};
use crate::parts::Parts;

/// A public input begins: it may do so much work beside its own.
#[inline]
pub(crate) fn begin_step(parts: &mut Parts) {
    parts.work.run().begin_step(parts.setup.limits.turn_budget_deliveries);
}

/// The packets that wait in a session's slots may go on.
pub(crate) fn wake_slots(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if !session.ready.is_queued() {
        parts.work.run().push(key);
    }
    session.ready.slots = true;
}

/// More may be sent to a session's client. Where nothing waits for that, this is nothing.
#[inline]
pub(crate) fn wake_queue(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if !session.has_outgoing() {
        return;
    }
    if !session.ready.is_queued() {
        parts.work.run().push(key);
    }
    session.ready.queue = true;
}

/// Has a session wait for a lane, behind those that wait already. One that waits for it keeps its place.
pub(crate) fn wait_for_lane(parts: &mut Parts, key: SessionKey, lane: ShardId) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if session.lanes_waited.contains(lane) {
        return;
    }
    session.lanes_waited.insert(lane);
    parts.work.lanes().wait(key, lane);
}

/// Notes work that was done, in units: links called, nodes visited, entries moved.
pub(crate) fn spend(parts: &mut Parts, units: u64) {
    parts.counters.work_units += units;
    parts.work.spend_turn(units);
}

/// A number for a batch or a reader of retained messages.
pub(crate) fn next_reader(parts: &mut Parts) -> u64 {
    parts.work.next_reader()
}

/// A session may have come to rest that somebody waits for.
pub(crate) fn wake_heir(parts: &mut Parts, session_key: SessionKey) {
    if let Some(session) = parts.sessions.get(session_key)
        && let Some(heir) = session.heir
        && !session.is_busy()
    {
        queue_heir(parts, heir);
    }
}

/// Has a CONNECT that waits for the session of another principal, and not for a plugin, go on in a next turn.
pub(crate) fn queue_heir(parts: &mut Parts, key: ConnKey) {
    if let Some(State::Admitting(admission)) = parts.connections.get_mut(key).map(|conn| &mut conn.state)
        && admission.step == Step::Inherit
        && admission.ticket().is_none()
        && !admission.queued
    {
        admission.queued = true;
        parts.work.push_heir(key);
    }
}
