//! What SUBACK waits for: the other shards know of the subscriptions, and the owners of retained
//! messages have set their marks. After SUBACK no shard misses a message for them.

use std::num::NonZeroU16;

use super::filter_slot::{ClientState, SlotId, Step};
use super::{retained, send, subscriptions, wake};
use crate::clock::Deadline;
use crate::id::{ConnKey, SessionKey};
use crate::packet::{Packet, Properties, SubAck};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::filters::{FilterPacket, FilterStep};

/// Begins the wait for the other shards to acknowledge what is in force.
pub(crate) fn announce_filters(parts: &mut Parts, packet: &mut FilterPacket) -> Step {
    let seq = packet.granted.iter().map(|granted| granted.barrier_seq).max().unwrap_or(0);
    let until_ms = parts.clock.now().mono_ms + parts.setup.limits.subscribe_barrier_ms;
    packet.step = FilterStep::Barrier(seq, until_ms);
    Step::Goes
}

pub(crate) fn await_barrier(
    parts: &mut Parts,
    slot: SlotId,
    packet: &mut FilterPacket,
    (seq, until_ms): (u64, u64),
    state: ClientState,
) -> Step {
    let barrier = parts.router.barrier();
    let is_there = state != ClientState::Ended;
    if is_there && seq > barrier && parts.clock.now().mono_ms < until_ms {
        parts.work.await_barrier(seq, slot.session);
        watch(parts, slot.session, until_ms);
        return Step::Waits;
    }
    if seq > barrier {
        parts.work.forget_barrier(seq, slot.session);
    }
    if is_there && packet.packet_id.is_some() {
        // A shard has not answered: it may miss messages, so these subscriptions are refused.
        let unknown = packet.granted.extract_if(.., |granted| granted.barrier_seq > barrier);
        for granted in unknown.collect::<Vec<_>>() {
            parts.counters.subscribe_barrier_timeouts += 1;
            packet.codes[granted.place] = ReasonCode::UNSPECIFIED_ERROR.0;
            subscriptions::withdraw(parts, slot.session, &granted);
            packet.in_batch = packet.in_batch.min(packet.granted.len());
        }
    }
    if is_there && packet.granted.iter().any(|granted| granted.reader != 0) {
        packet.step = FilterStep::Marks(until_ms);
        retained::request_marks(parts, slot.session, packet);
    } else {
        retained::forget_batch(parts, slot.session, packet);
        packet.step = FilterStep::Marks(0);
    }
    Step::Goes
}

/// Has a session check at `until_ms` or earlier whether its wait is over. A session has one such
/// timer.
fn watch(parts: &mut Parts, key: SessionKey, until_ms: u64) {
    if let Some(session) = parts.sessions.get_mut(key)
        && session.rare().barrier_timer.is_none()
    {
        let timer = parts.clock.arm_deadline(until_ms, Deadline::Barrier(key));
        session.set_rare().barrier_timer = Some(timer);
    }
}

/// The timer has expired.
pub(crate) fn barrier_due(parts: &mut Parts, key: SessionKey) {
    if let Some(session) = parts.sessions.get_mut(key) {
        let _ = session.take_rare(|rare| rare.barrier_timer.take());
        wake::wake_slots(parts, key);
    }
}

/// Wakes the sessions whose change all other shards have acknowledged.
pub(crate) fn barrier_moved(parts: &mut Parts) {
    let barrier = parts.router.barrier();
    while let Some(session) = parts.work.pop_before_barrier(barrier) {
        wake::wake_slots(parts, session);
    }
}

pub(crate) fn await_marks(
    parts: &mut Parts,
    slot: SlotId,
    packet: &mut FilterPacket,
    until_ms: u64,
    state: ClientState,
) -> Step {
    // If an owner does not answer in time, only the wait for its retained messages ends. The
    // subscription stays.
    if state != ClientState::Ended
        && parts.clock.now().mono_ms < until_ms
        && !retained::is_marked(parts, slot.session, packet.batch)
    {
        watch(parts, slot.session, until_ms);
        return Step::Waits;
    }
    // A SUBACK is not sent on another connection.
    if let (Some(packet_id), Some(conn), ClientState::Connected) = (packet.packet_id, slot.conn, state) {
        send_suback(parts, conn, packet_id, &packet.codes);
    }
    retained::begin_batch(parts, slot.session, packet.batch);
    packet.step = FilterStep::Notify(0);
    Step::Goes
}

fn send_suback(parts: &mut Parts, conn: ConnKey, packet_id: NonZeroU16, codes: &[u8]) {
    send::send(parts, conn, &Packet::SubAck(SubAck { packet_id, properties: Properties::default(), codes }));
}
