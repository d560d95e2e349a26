//! The end of a connection for its session: the will and its delay, expiry, teardown in slices, and
//! the messages that move to other members of a shared subscription.

use std::rc::Rc;
use std::sync::Arc;

use super::{deliver_rights, hooks, notify, reading, retained, route, send, subscriptions, wake};
use crate::clients::connection::State;
use crate::clock::{Clock, Overdue};
use crate::codec::DecodeError;
use crate::hook::HookPoint;
use crate::id::{ConnKey, SessionKey};
use crate::interface::Ended;
use crate::outbox::Closing;
use crate::packet::QoS;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::publish::PublishMetadata;
use crate::session::{
    Delivery, End, EndCause, EndReason, LifecycleState, Phase, PublishSlot, Session, Slot, SlotBody, Source,
    Stage, Will,
};

/// Subscriptions taken down in one slice of work.
const SLICE: usize = 512;

/// Detaches an ended connection from its session. The will and the rest follow behind the publishes
/// that still wait.
pub(crate) fn detach(parts: &mut Parts, session_key: SessionKey, conn: ConnKey, cause: EndCause) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    session.conn = None;
    session.since_wall_ms = parts.clock.now().wall_ms;
    session.epoch = session.epoch.wrapping_add(1);
    parts.clock.cancel_deadline(session.end_release_wait());
    let will = session.will.take();
    subscriptions::update_groups(parts, session_key);
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let end = End { cause, will, ended_ms: parts.clock.now().mono_ms, returned_ms: None };
    if session.slots.is_empty() {
        connection_over(parts, session_key, end, false);
    } else {
        session.slots.push(Slot::new(Some(conn), SlotBody::End(Box::new(end))));
        // Nothing waits for the connection itself any more: marks of retained messages, a plugin's
        // verdict on a SUBSCRIBE, a PUBREL.
        wake::wake_slots(parts, session_key);
    }
}

/// Ends a connection whose packets have all taken effect: publishes its will and arms the session's
/// expiry. With `behind` the will goes before the packets of a later connection.
pub(crate) fn connection_over(parts: &mut Parts, session_key: SessionKey, end: End, behind: bool) {
    let now_ms = parts.clock.now().mono_ms;
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    // Another connection of the session is there, or has come and gone meanwhile: that one decides
    // about the session.
    let resumed = end.returned_ms.is_some();
    let ends = session.lifecycle == LifecycleState::Ends || (!resumed && session.expiry_s == 0);
    if let Some(will) = end.will.filter(|_| end.cause.sends_will()) {
        // The will is due when its delay is over or the session ends, whichever is first
        // [MQTT-3.1.3-9]. A client that was back by then has cancelled it.
        let due_ms = end.ended_ms + u64::from(will.delay_s) * 1000;
        let is_due = due_ms <= end.returned_ms.unwrap_or(now_ms);
        if is_due || ends {
            publish_will(parts, session_key, *will, behind);
        } else if !resumed && let Some(session) = parts.sessions.get_mut(session_key) {
            let rare = session.set_rare();
            rare.delayed_will = Some(will);
            parts.clock.cancel_overdue(rare.will_timer.take());
            rare.will_timer = Some(parts.clock.arm_overdue(due_ms, Overdue::Will(session_key)));
        }
    }
    if resumed {
        return;
    }
    if ends {
        retire(parts, session_key, EndReason::Closed(end.cause.reason()));
    } else if let Some(session) = parts.sessions.get_mut(session_key)
        && session.expiry_s != u32::MAX
    {
        let due_ms = end.ended_ms + u64::from(session.expiry_s) * 1000;
        parts.clock.cancel_overdue(session.expiry_timer.take());
        session.expiry_timer = Some(parts.clock.arm_overdue(due_ms, Overdue::Expiry(session_key)));
    }
}

/// The delay of a will is over.
pub(crate) fn will_due(parts: &mut Parts, session_key: SessionKey) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let due = session.take_rare(|rare| (rare.will_timer.take(), rare.delayed_will.take()));
    if let (_, Some(will)) = due {
        publish_will(parts, session_key, *will, false);
    }
}

/// Ends a session that has had no connection for its expiry interval [MQTT-3.1.2-23].
pub(crate) fn expiry_due(parts: &mut Parts, session_key: SessionKey) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    session.expiry_timer = None;
    parts.counters.session_expired += 1;
    retire(parts, session_key, EndReason::Expired);
}

/// Cancels expiry and delayed will of a session: its client is back, or it ends for another reason.
pub(crate) fn cancel_end(clock: &mut Clock, session: &mut Session) {
    clock.cancel_overdue(session.take_rare(|rare| rare.will_timer.take()));
    clock.cancel_overdue(session.expiry_timer.take());
}

/// Publishes a will in a slot: behind the waiting packets of the session, or in front of them with
/// `before`, if the will has waited for its turn already.
fn publish_will(parts: &mut Parts, session_key: SessionKey, will: Will, before: bool) {
    let now = parts.clock.now();
    let id = parts.numbers.message_id();
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    parts.counters.messages_wills += 1;
    let mut message = will.message;
    message.id = id;
    message.wall_ms = now.wall_ms;
    message.expires_at_ms = will.expiry_s.map(|s| now.mono_ms + u64::from(s) * 1000);
    let metadata = PublishMetadata::of_message(&message);
    // It was allowed at CONNECT. In its turn it is authorized again if the rules have changed
    // since.
    let publish = PublishSlot::new(Arc::new(message), metadata, Source::Will, Stage::Unstarted);
    let publish = PublishSlot { epoch: will.epoch, ..publish };
    let slot = Slot::new(None, SlotBody::Publish(Box::new(publish)));
    if before {
        session.slots.push_front(slot);
    } else {
        session.slots.push(slot);
    }
    wake::wake_slots(parts, session_key);
}

/// Ends a session. Its client identifier is free at once; it is taken down in slices once its slots
/// have drained.
pub(crate) fn retire(parts: &mut Parts, session_key: SessionKey, last: EndReason) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if !session.detached {
        session.detached = true;
        let last = session.end_reason.unwrap_or(last);
        let identity = Rc::clone(&session.identity);
        parts.sessions.free_client_id(&identity.client_id, session_key);
        parts.counters.session_terminated += 1;
        if last != EndReason::Discarded {
            let end = Some((last.word(), last.reason()));
            notify::notify_session(parts, HookPoint::SessionTerminated, session_key, end);
        }
    }
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    session.lifecycle = LifecycleState::Ends;
    cancel_end(&mut parts.clock, session);
    // The end of a session does not wait for the delay [MQTT-3.1.3-9].
    if let Some(will) = session.take_rare(|rare| rare.delayed_will.take()) {
        publish_will(parts, session_key, *will, false);
    }
    if parts.sessions.get(session_key).is_some_and(|session| !session.slots.is_empty()) {
        // A SUBSCRIBE no longer waits for another shard.
        wake::wake_slots(parts, session_key);
    }
    queue_teardown(parts, session_key);
}

/// Has a session that ends and has nothing waiting taken down from the next turn on.
pub(crate) fn queue_teardown(parts: &mut Parts, session_key: SessionKey) {
    wake::wake_takeover(parts, session_key);
    if let Some(session) = parts.sessions.get_mut(session_key)
        && session.lifecycle == LifecycleState::Ends
        && session.slots.is_empty()
        && !session.in_teardown
    {
        session.in_teardown = true;
        parts.work.push_ending(session_key);
    }
}

/// Takes down a slice of the sessions that end.
pub(crate) fn end_sessions(parts: &mut Parts) {
    let mut left = SLICE;
    while left > 0 {
        let Some(key) = parts.work.pop_ending() else { break };
        if !end_session(parts, key, &mut left) {
            parts.work.put_back_ending(key);
        }
    }
}

/// Takes down a slice of a session. Returns whether it is finished.
fn end_session(parts: &mut Parts, key: SessionKey, left: &mut usize) -> bool {
    redistribute_shared(parts, key);
    while let Some(session) = parts.sessions.get_mut(key) {
        if *left == 0 && !session.subscriptions.is_empty() {
            return false;
        }
        let Some((filter, gone)) = session.subscriptions.pop_first() else { break };
        *left -= 1;
        subscriptions::forget_recheck(parts, Some(gone));
        subscriptions::unroute(parts, key, &filter);
    }
    if let Some(session) = parts.sessions.get_mut(key) {
        parts.clock.cancel_deadline(session.take_rare(|rare| rare.barrier_timer.take()));
        parts.clock.cancel_deadline(session.end_release_wait());
        let settles_ms = session.rare().settles_ms;
        retained::forget_settling(parts, key, settles_ms);
        parts.sessions.discard(key);
    }
    *left = left.saturating_sub(1);
    true
}

/// Gives deliveries for shared subscriptions of this session to other members: all that wait, and
/// QoS 1 in flight. QoS 2 in flight never moves (section 4.8.2).
fn redistribute_shared(parts: &mut Parts, key: SessionKey) {
    let unanswered = deliver_rights::take_unanswered(parts, key);
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if session.inflight.is_empty() && session.queue.is_empty() && unanswered.is_empty() {
        return;
    }
    let in_flight: Vec<Delivery> = session
        .inflight
        .drain()
        .filter_map(|outgoing| match outgoing.phase {
            Phase::Published(delivery) if delivery.qos == QoS::AtLeastOnce => Some(delivery),
            _ => None,
        })
        .collect();
    let waiting = session.queue.take();
    for delivery in in_flight.into_iter().chain(waiting).chain(unanswered) {
        if let Some(group) = delivery.group {
            // The lifecycle state of the leaving member excludes it from the pick.
            route::pick_again(parts, group, &delivery.message);
        }
    }
}

/// Disconnects a client with a reason (MQTT 5: DISCONNECT; 3.x: the socket closes). A persistent
/// session stays, unless `discard`. Returns false if the client is not here.
pub(crate) fn kick(parts: &mut Parts, client_id: &str, reason: ReasonCode, discard: bool) -> bool {
    let Some(session_key) = parts.sessions.by_client_id(client_id) else { return false };
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let conn = session.conn;
    if discard {
        session.expiry_s = 0;
        session.end_reason = Some(EndReason::Kicked);
    }
    match conn {
        Some(conn) => end_connection(parts, conn, EndCause::ByBroker(reason), Some((reason, None))),
        None if discard => {
            parts.counters.session_discarded += 1;
            retire(parts, session_key, EndReason::Kicked);
        }
        None => return false,
    }
    true
}

/// Disconnects all clients with 0x8B and accepts no new connections. The shell continues until
/// `drained`.
pub(crate) fn drain(parts: &mut Parts) {
    parts.connections.drain();
    let keys: Vec<ConnKey> = parts.connections.iter().map(|(key, _)| key).collect();
    let reason = ReasonCode::SERVER_SHUTTING_DOWN;
    for key in keys {
        end_connection(parts, key, EndCause::ByBroker(reason), Some((reason, None)));
    }
}

/// Whether no connection is left.
pub(crate) fn drained(parts: &Parts) -> bool {
    parts.connections.is_draining() && parts.connections.is_empty()
}

/// Ends the connection of a client that broke a rule. MQTT 5 gets the reason [MQTT-4.13.1-1].
pub(crate) fn broken_rule(parts: &mut Parts, key: ConnKey, error: DecodeError) {
    parts.counters.packets_malformed += 1;
    let Some(conn) = parts.connections.get(key) else { return };
    if conn.traced {
        send::trace(parts, key, true, || format!("(broken) {}: {}", error.reason, error.detail));
    }
    end_connection(parts, key, EndCause::ByBroker(error.reason), Some((error.reason, Some(error.detail))));
}

/// Ends a connection: queues the last packet, notifies hooks, and detaches its session.
pub(crate) fn end_connection(
    parts: &mut Parts,
    key: ConnKey,
    cause: EndCause,
    disconnect: Option<(ReasonCode, Option<&'static str>)>,
) {
    if let Some((reason, detail)) = disconnect {
        send::send_disconnect(parts, key, reason, detail);
    }
    let Some(conn) = parts.connections.get_mut(key) else { return };
    parts.out.closing.push(Closing { conn: key, outbound: std::mem::take(&mut conn.out) });
    // Its ticket is closed too: a later verdict is stale.
    let (is_admitting, ticket) = (conn.state == State::Admitting, conn.ticket());
    let (session, peer) = (conn.session, conn.address());
    reading::remove_connection(parts, key);
    ticket.map(|ticket| hooks::close_ticket(parts, ticket));
    if is_admitting {
        parts.connections.waiting().ends(peer);
        return;
    }
    let Some(session_key) = session else { return };
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    // A client whose DISCONNECT waits behind earlier packets has left in order [MQTT-3.14.4-3].
    let parked = session.slots.disconnect_of(key).map(|leave| EndCause::ByClient(leave.reason));
    if parked.is_some_and(|parked| !parked.sends_will()) {
        // The DISCONNECT was received, whatever else has ended the connection meanwhile
        // [MQTT-3.14.4-3].
        session.will = None;
    }
    let cause = match cause {
        EndCause::Lost => parked.unwrap_or(cause),
        cause => cause,
    };
    parts.counters.client_disconnected += 1;
    if !parts.hooks.chain(HookPoint::ClientDisconnected).is_empty()
        && let Some(session) = parts.sessions.get(session_key)
    {
        let identity = Rc::clone(&session.identity);
        hooks::notify_client(parts, HookPoint::ClientDisconnected, &identity, cause.reason());
    }
    detach(parts, session_key, key, cause);
}

/// Notes that the socket of a connection has ended. The key is stale afterwards; a stale key is
/// ignored.
pub(crate) fn closed(parts: &mut Parts, key: ConnKey, why: Ended) {
    let cause = match why {
        Ended::ByPeer => EndCause::Lost,
        Ended::Stuck => EndCause::ByBroker(ReasonCode::QUOTA_EXCEEDED),
        Ended::Overload => EndCause::ByBroker(ReasonCode::SERVER_BUSY),
    };
    end_connection(parts, key, cause, None);
    // The shell has closed the socket: nothing is left to send.
    if parts.out.closing.last().is_some_and(|closing| closing.conn == key) {
        parts.out.closing.pop();
    } else {
        parts.out.closing.retain(|closing| closing.conn != key);
    }
}
