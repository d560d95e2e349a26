//! The run queue: sessions that are ready to go on, each at most once, and the only loop that moves
//! them. Code that makes a session ready (a verdict, an answer of another shard, room in a lane, an
//! acknowledgement, the end of a connection) adds it here and moves nothing itself, so that calls
//! never nest. Each public input of the shard begins with `begin_step` and ends with `settle`.

use super::{deliver, pump, retained, route};
use crate::id::{SessionKey, ShardId};
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::parts::Parts;

/// Moves the sessions that are ready, as far as this step's budget goes.
#[inline]
pub(crate) fn settle(parts: &mut Parts) {
    if has_ready(parts) {
        settle_ready(parts);
    }
}

fn settle_ready(parts: &mut Parts) {
    while !parts.work.run().is_used_up() {
        parts.work.run().spend(1);
        if let Some(key) = next_lane_turn(parts) {
            parts.work.lanes().begin_turn(key);
            pump::pump_slots(parts, key);
            parts.work.lanes().passed();
            continue;
        }
        let Some(key) = parts.work.run().pop() else { return };
        // The session has been taken down meanwhile.
        let Some(session) = parts.sessions.get_mut(key) else { continue };
        let ready = std::mem::take(&mut session.ready);
        if ready.slots {
            pump::pump_slots(parts, key);
        }
        if ready.queue {
            deliver::pump_queue(parts, key);
            retained::pull_retained(parts, key);
        }
    }
}

/// Whether a session is ready to go on.
#[inline]
pub(crate) fn has_ready(parts: &Parts) -> bool {
    parts.work.has_ready()
}

/// The next session that waits for a lane with room.
fn next_lane_turn(parts: &mut Parts) -> Option<SessionKey> {
    while let Some(lane) = parts.work.lanes().first_open() {
        if route::lane_is_full(parts, lane) {
            parts.work.lanes().close(lane);
            continue;
        }
        let key = parts.work.lanes().pop(lane);
        if let Some(session) = key.and_then(|key| parts.sessions.get_mut(key)) {
            session.take_rare(|rare| rare.lanes_waited.remove(lane));
            return key;
        }
    }
    None
}

/// Lets publishers continue that waited for room in a lane, first come first served, as many as
/// there is room for. Called once a turn, after envelopes have left the staging of a lane.
pub(crate) fn lanes_moved(parts: &mut Parts) {
    let (limits, out) = (&parts.setup.limits, &parts.out);
    parts.work.lanes().open_lanes(|lane| lane_is_low(limits, out, lane));
}

fn lane_is_low(limits: &Limits, out: &Outbox, lane: ShardId) -> bool {
    let index = lane.index();
    out.data[index].len() as u64 <= limits.lane_envelopes_max / 2
        && out.data_bytes[index] as u64 <= limits.lane_bytes_max / 2
}
