//! The slots of a session at work: whatever can move moves, in order of arrival. Called by `settle` alone, for sessions for which
//! something has come: a verdict, the owner of a retained topic, room in a lane, the barrier of a SUBACK, the end of a connection.

use std::rc::Rc;

use grapnel_plugin_abi::raw::Flow;
use smallvec::SmallVec;

use super::authorize::Asked;
use super::connect::granted_expiry;
use super::hooks::Answer;
use super::{authorize, ending, filters, hooks, plugin_publish, publish, reading, route, wake};
use crate::clock::Deadline;
use crate::codec;
use crate::codec::DecodeError;
use crate::flow::publish::{Decision, Place, Verdict};
use crate::flow::route::Effect;
use crate::held::Held;
use crate::hook::draft::{Disposition, Draft};
use crate::hook::message::{MessageFold, Rules};
use crate::hook::tickets::{Before, OpenTicket, OwnedChange};
use crate::hook::view::ClientView;
use crate::hook::{FaultPolicy, HookPoint, Refusal};
use crate::id::{ConnKey, SessionKey};
use crate::message::MessageView;
use crate::packet::{Disconnect, Packet};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::{EndCause, Slot, SlotBody, Source, Stage};

/// Moves on whatever of a session's slots can move.
pub(crate) fn pump_slots(parts: &mut Parts, session_key: SessionKey) {
    while pump_front(parts, session_key) {
        if parts.work.run.is_spent() {
            // Behind those that wait already.
            wake::wake_slots(parts, session_key);
            break;
        }
    }
    unblock(parts, session_key);
    reading::resume_if_room(parts, session_key);
    ending::queue_takedown(parts, session_key);
}

/// Deals with the packet in front; whether there may be more to do.
fn pump_front(parts: &mut Parts, session_key: SessionKey) -> bool {
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let Some(front) = session.slots.front() else { return false };
    parts.counters.flow_steps += 1;
    parts.work.run.spend(1);
    match &front.body {
        SlotBody::Publish(publish) => match publish.stage {
            Stage::Authorizing(_) | Stage::Deferred(_) | Stage::Storing(_) => false,
            Stage::Unstarted if session.waits_for_release(parts.setup.limits.awaiting_rel_max) => {
                watch_release(parts, session_key);
                false
            }
            Stage::Unstarted | Stage::Queueing | Stage::Blocked => advance_publish(parts, session_key, None),
            Stage::Decided | Stage::Stored(_) => finish_front(parts, session_key),
        },
        SlotBody::Filters(_) => filters::pump_filters(parts, session_key),
        SlotBody::Packet(_) => pump_packet(parts, session_key),
        SlotBody::End(..) => {
            if let Some(Slot { body: SlotBody::End(cause, will), .. }) = session.slots.pop() {
                ending::connection_over(parts, session_key, cause, will, true);
            }
            true
        }
    }
}

/// Sees to it that a client which is not read, because a publish of its waits for a PUBREL, is not waited for without end.
fn watch_release(parts: &mut Parts, session_key: SessionKey) {
    let due_ms = parts.clock.now().mono_ms + parts.setup.limits.awaiting_rel_timeout_ms;
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if !session.release_watched {
        session.release_watched = true;
        parts.clock.arm_deadline(due_ms, Deadline::Release(session_key));
    }
}

/// Ends the connection of a session whose publish in front waits for a PUBREL, if nothing has been read of it for too long:
/// the PUBREL may be behind what is not read.
pub(crate) fn release_due(parts: &mut Parts, session_key: SessionKey) {
    let (rel_max, timeout_ms) =
        (parts.setup.limits.awaiting_rel_max, parts.setup.limits.awaiting_rel_timeout_ms);
    let now_ms = parts.clock.now().mono_ms;
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    session.release_watched = false;
    if !session.waits_for_release(rel_max) {
        return;
    }
    let Some(key) = session.conn else { return };
    let Some(conn) = parts.connections.get(key) else { return };
    if conn.is_paused() && now_ms >= conn.last_received_ms + timeout_ms {
        let reason = ReasonCode::QUOTA_EXCEEDED;
        ending::end_connection(parts, key, EndCause::ByBroker(reason), Some((reason, None)));
    } else {
        watch_release(parts, session_key);
    }
}

/// A parked packet whose turn has come.
fn pump_packet(parts: &mut Parts, session_key: SessionKey) -> bool {
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let version = session.identity.version;
    let expiry_max_s = parts.setup.limits.session_expiry_max_s;
    let Some(Slot { conn: Some(conn), body: SlotBody::Packet(bytes), .. }) = session.slots.pop() else {
        return true;
    };
    let Ok(Some(frame)) = codec::frame(&bytes, u32::MAX) else { return true };
    let Ok(packet) = codec::decode(&frame, version) else { return true };
    let alive = session.conn == Some(conn);
    match &packet {
        Packet::Disconnect(disconnect) if !alive => {
            let is_last = session.conn.is_none() && session.slots.last_end() == Some(conn);
            session.slots.mark_end(conn, EndCause::ByClient(disconnect.reason));
            // What CONNECT said to be 0 stays 0 [MQTT-3.14.2-2]; the client is past hearing that it was wrong. A connection since has
            // said something else.
            if let Some(expiry_s) = disconnect.properties.session_expiry_s()
                && is_last
                && session.identity.asked_expiry_s != 0
                // Nor does it bring back a session that was thrown away since.
                && session.last.is_none()
            {
                session.expiry_s = granted_expiry(expiry_s, expiry_max_s);
            }
        }
        packet if alive => {
            if let Err(error) = handle_in_turn(parts, conn, packet) {
                ending::broken_rule(parts, conn, error);
            }
        }
        // SUBSCRIBE and UNSUBSCRIBE die with their connection.
        _ => {}
    }
    true
}

/// Lets the publishes behind a waiting one go as far as it has come.
fn unblock(parts: &mut Parts, session_key: SessionKey) {
    let Some(session) = parts.sessions.get(session_key) else { return };
    let first = session.slots.front_number();
    let blocked: SmallVec<[u64; 8]> = (first..session.slots.next_number())
        .zip(session.slots.iter())
        .filter(|(_, slot)| matches!(&slot.body, SlotBody::Publish(p) if matches!(p.stage, Stage::Blocked | Stage::Queueing)))
        .map(|(number, _)| number)
        .collect();
    for number in blocked {
        parts.counters.flow_steps += 1;
        parts.work.run.spend(1);
        advance_publish(parts, session_key, Some(number));
    }
}

/// Goes on with a publish that has not been through the chain: the one in front (`None`) or a blocked one.
fn advance_publish(parts: &mut Parts, session_key: SessionKey, number: Option<u64>) -> bool {
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let identity = Rc::clone(&session.identity);
    let number = number.unwrap_or(session.slots.front_number());
    let behind = session.slots.in_front(number);
    let Some(publish) = session.slots.publish_mut(number) else { return false };
    let (stage, source) = (publish.stage, publish.source);
    let head = publish.head();
    let visited = publish.visited.clone();
    let draft = std::mem::take(&mut publish.draft);
    let ask = publish.ask.take();
    // The message leaves its slot while hooks look at it, so that nothing of the session is borrowed.
    let message = publish.message.clone();
    let view = message.view();
    let at = Place { session: session_key, number, source, head };
    let decision = match (stage, ask) {
        (Stage::Queueing, Some(ask)) => {
            let (ask, through) = *ask;
            publish::authorize_on(parts, &identity, view, at, (ask, through), (visited, draft), &behind)
        }
        // A will was authorised at CONNECT, and nobody authorises a plugin.
        (Stage::Unstarted, _) if source == Source::Client => {
            publish::decide(parts, &identity, view, at, &behind)
        }
        _ => publish::walk(parts, &identity, view, at, draft, (&visited, behind.publish.as_deref())),
    };
    settle_publish(parts, session_key, number, decision);
    true
}

fn settle_publish(parts: &mut Parts, session_key: SessionKey, number: u64, decision: Decision) {
    let now_ms = parts.clock.now().mono_ms;
    if let Some(publish) = parts.sessions.get_mut(session_key).and_then(|s| s.slots.publish_mut(number)) {
        publish.settle(decision, now_ms);
    }
}

/// The publish in front has been decided: its effect, or its refusal; whether it has left.
fn finish_front(parts: &mut Parts, session_key: SessionKey) -> bool {
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let number = session.slots.front_number();
    let conn = session.slots.front().and_then(|slot| slot.conn);
    let Some(publish) = session.slots.publish_mut(number) else { return false };
    let head = publish.head();
    let stored = match publish.stage {
        Stage::Stored(number) => Some(number),
        _ => None,
    };
    if let Some(code) = publish.refusal {
        let disconnect = publish.draft.disposition == Disposition::Disconnect;
        let verdict = Verdict { code, text: publish.draft.reason_string.take(), disconnect };
        session.slots.pop();
        publish::conclude(parts, session_key, conn, head, &verdict);
        return true;
    }
    let message = publish.message.clone();
    let mut held = Some(Held::new(std::sync::Arc::new(message).into()));
    let whole = held.as_ref().map(Rc::clone).expect("it was made one line above");
    match route::effect(parts, session_key, number, &whole.view(), &mut held, stored) {
        Effect::Done(code) => {
            let session = parts.sessions.get_mut(session_key);
            if let Some(Slot { body: SlotBody::Publish(mut publish), .. }) =
                session.and_then(|session| session.slots.pop())
            {
                plugin_publish::publish_extra(parts, publish.draft.extra.take());
            }
            publish::conclude(parts, session_key, conn, head, &Verdict::code(code));
            true
        }
        Effect::Waits(stage) => {
            if let Some(publish) =
                parts.sessions.get_mut(session_key).and_then(|s| s.slots.publish_mut(number))
            {
                publish.stage = stage;
            }
            false
        }
    }
}

/// The owner of a retained topic has answered.
pub(crate) fn stored(parts: &mut Parts, id: u64, number: u64) {
    let Some((session_key, slot)) = parts.work.stores.remove(&id) else { return };
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if let Some(publish) = session.slots.publish_mut(slot)
        && publish.stage == Stage::Storing(id)
    {
        publish.stage = Stage::Stored(number);
    }
    wake::wake_slots(parts, session_key);
}

/// A deferred message.publish has been answered, or missed its deadline (`None`).
pub(crate) fn publish_again(
    parts: &mut Parts,
    session_key: SessionKey,
    number: u64,
    ticket: &OpenTicket,
    answer: Option<(Flow, &[OwnedChange])>,
) {
    let setup_limits = std::sync::Arc::clone(&parts.setup.limits);
    let rules = Rules { limits: &setup_limits, now: parts.clock.now() };
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let identity = Rc::clone(&session.identity);
    let Some(publish) = session.slots.publish_mut(number) else { return };
    let message = publish.message.clone();
    let mut draft = std::mem::take(&mut publish.draft);
    let client = identity.view();
    let mut refused = None;
    let (flow, faulted) = match answer {
        Some((flow @ (Flow::CONTINUE | Flow::STOP), changes)) => {
            match changed(&draft, client, message.view(), rules, changes) {
                Ok(changed) => {
                    draft = changed;
                    (flow, false)
                }
                Err(reason) => {
                    refused = reason;
                    (Flow::CONTINUE, true)
                }
            }
        }
        _ => (Flow::CONTINUE, true),
    };
    if let (true, Some(Before::Message(before))) = (faulted, ticket.before.as_deref()) {
        draft.clone_from(before);
    }
    let deny = faulted && ticket.policy == FaultPolicy::Deny;
    if deny {
        draft = Draft::denied();
    }
    publish.stage = Stage::Blocked;
    let head = publish.head();
    let (visited, source) = (publish.visited.clone(), publish.source);
    let behind = session.slots.in_front(number);
    match refused {
        Some(reason) => count_refused(parts, ticket, reason),
        None if faulted => hooks::count_fault(parts, ticket, HookPoint::MessagePublish),
        None => {}
    }
    let stop = hooks::ends_chain(parts, ticket, HookPoint::MessagePublish, flow) || deny;
    let view = message.view();
    let at = Place { session: session_key, number, source, head };
    let decision = match stop {
        true => publish::judge(parts, &identity, view, at, draft, &visited),
        false => publish::walk(parts, &identity, view, at, draft, (&visited, behind.publish.as_deref())),
    };
    settle_publish(parts, session_key, number, decision);
    wake::wake_slots(parts, session_key);
}

/// What a link of message.publish has answered later cannot be: its fault, which is told as if it had answered at once.
#[cold]
fn count_refused(parts: &mut Parts, ticket: &OpenTicket, reason: &'static str) {
    let chain = parts.hooks.chains.chain_mut(HookPoint::MessagePublish);
    let Some(place) = chain.links.iter().position(|link| link.identity == ticket.link) else { return };
    if let Some(stats) = chain.stats_mut(place) {
        stats.faults += 1;
    }
    let name = std::sync::Arc::clone(&chain.links[place].name);
    let refusal = Refusal { plugin: ticket.plugin, link: ticket.link, name, reason };
    hooks::note_refusals(parts, HookPoint::MessagePublish, vec![refusal], 1);
}

/// A deferred client.authorize for a publish has been answered, or has missed its deadline (`None`).
pub(crate) fn publish_authorized(
    parts: &mut Parts,
    session_key: SessionKey,
    number: u64,
    ticket: &OpenTicket,
    answer: Answer<'_>,
) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let identity = Rc::clone(&session.identity);
    let Some(publish) = session.slots.publish_mut(number) else { return };
    let Some(ask) = publish.ask.take() else { return };
    let (mut ask, through) = *ask;
    let (draft, visited) = (std::mem::take(&mut publish.draft), publish.visited.clone());
    let (message, source, head) = (publish.message.clone(), publish.source, publish.head());
    let behind = session.slots.in_front(number);
    let at = Place { session: session_key, number, source, head };
    let decision = if authorize::ask_answered(parts, &mut ask, ticket, answer) {
        let answer = Asked::Answered(authorize::verdict_of(parts, &ask));
        publish::authorized(
            parts,
            &identity,
            message.view(),
            at,
            (answer, through),
            (visited, draft),
            &behind,
        )
    } else {
        let asked = (ask, through);
        publish::authorize_on(parts, &identity, message.view(), at, asked, (visited, draft), &behind)
    };
    settle_publish(parts, session_key, number, decision);
    wake::wake_slots(parts, session_key);
}

/// The draft with the changes that came with a completion. An error if one of them cannot be taken, with the reason where it is
/// something that no message may be.
fn changed(
    draft: &Draft,
    client: ClientView<'_>,
    view: MessageView<'_>,
    rules: Rules<'_>,
    changes: &[OwnedChange],
) -> Result<Draft, Option<&'static str>> {
    let mut fold = MessageFold::new(HookPoint::MessagePublish, client, view, draft.clone(), rules, None);
    for change in changes {
        if fold.change(&change.borrow()).is_err() {
            return Err(fold.refusal());
        }
    }
    fold.keep();
    Ok(std::mem::take(&mut fold.draft))
}

/// A packet whose turn has come: SUBSCRIBE, UNSUBSCRIBE or DISCONNECT with nothing in front.
pub(crate) fn handle_in_turn(
    parts: &mut Parts,
    key: ConnKey,
    packet: &Packet<'_>,
) -> Result<(), DecodeError> {
    match packet {
        Packet::Subscribe(subscribe) => {
            filters::on_subscribe(parts, key, subscribe);
            Ok(())
        }
        Packet::Unsubscribe(unsubscribe) => {
            filters::on_unsubscribe(parts, key, unsubscribe);
            Ok(())
        }
        Packet::Disconnect(disconnect) => on_disconnect(parts, key, disconnect),
        _ => Ok(()),
    }
}

fn on_disconnect(parts: &mut Parts, key: ConnKey, disconnect: &Disconnect<'_>) -> Result<(), DecodeError> {
    parts.counters.packets_disconnect_received += 1;
    let expiry_max_s = parts.setup.limits.session_expiry_max_s;
    let Some(session) = reading::session_of(parts, key).and_then(|session| parts.sessions.get_mut(session))
    else {
        return Ok(());
    };
    if let Some(expiry_s) = disconnect.properties.session_expiry_s() {
        // What CONNECT said to be 0 stays 0, whatever was granted [MQTT-3.14.2-2].
        if session.identity.asked_expiry_s == 0 && expiry_s > 0 {
            return Err(DecodeError {
                reason: ReasonCode::PROTOCOL_ERROR,
                detail: "session expiry set at DISCONNECT, which was 0 at CONNECT",
            });
        }
        session.expiry_s = granted_expiry(expiry_s, expiry_max_s);
    }
    ending::end_connection(parts, key, EndCause::ByClient(disconnect.reason), None);
    Ok(())
}
