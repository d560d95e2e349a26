//! Moves the slots of a session, in order of arrival. Only `settle` calls it, for sessions with
//! something new: a verdict, the answer of a retained topic's owner, room in a lane, the barrier of
//! a SUBACK, the end of a connection.

use std::rc::Rc;
use std::sync::Arc;

use grapnel_plugin_abi::raw::Ticket;
use smallvec::SmallVec;

use super::connect::granted_expiry;
use super::hooks::Answer;
use super::{
    authorize, ending, filters, hooks, on_behalf, plugin_publish, puback, publish_decision, reading, route,
    wake,
};
use crate::clients::reading::{Pause, Reading};
use crate::clock::Deadline;
use crate::codec::DecodeError;
use crate::flow::publish_decision::{Decision, SlotId};
use crate::flow::route::Effect;
use crate::hook::draft::{Draft, DraftRules};
use crate::hook::tickets::OpenTicket;
use crate::id::{ConnKey, SessionKey};
use crate::message::Message;
use crate::packet::DisconnectRequest;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::publish::{Authorization, OrderingLimit, Verdict};
use crate::session::{EndCause, Identity, ReleaseWait, Slot, SlotBody, Source, Stage, Storage};
use crate::shared_message::SharedMessage;

/// Moves all slots of a session that can move.
pub(crate) fn pump_slots(parts: &mut Parts, session_key: SessionKey) {
    while pump_front(parts, session_key) {
        if parts.work.run().is_used_up() {
            // Behind the sessions that wait already.
            wake::wake_slots(parts, session_key);
            break;
        }
    }
    unblock(parts, session_key);
    reading::resume_if_room(parts, session_key);
    ending::queue_teardown(parts, session_key);
    on_behalf::settle_request_queue(parts, session_key);
}

/// Moves the front slot. Returns whether there may be more to do.
fn pump_front(parts: &mut Parts, session_key: SessionKey) -> bool {
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let Some(front) = session.slots.front() else { return false };
    parts.counters.flow_steps += 1;
    parts.work.run().spend(1);
    match &front.body {
        SlotBody::Publish(publish) => match &publish.stage {
            stage if stage.ticket().is_some() => false,
            Stage::Decided { storage: Storage::Requested(_), .. } => false,
            Stage::Unstarted if session.waits_for_release(parts.setup.limits.awaiting_rel_max) => {
                watch_release(parts, session_key);
                false
            }
            Stage::Unstarted | Stage::Authorize(_) | Stage::Chain(_) => {
                let number = session.slots.front_number();
                advance_publish(parts, session_key, number);
                true
            }
            Stage::Decided { .. } => {
                reauthorize_front(parts, session_key) || finish_front(parts, session_key)
            }
        },
        SlotBody::Refused(_) => {
            if let Some(Slot { conn, body: SlotBody::Refused(refused), .. }) = session.slots.pop() {
                match refused.behalf {
                    Some(behalf) => on_behalf::ended(parts, session_key, *behalf, refused.verdict.code),
                    None => puback::conclude(parts, session_key, conn, refused.metadata, &refused.verdict),
                }
            }
            true
        }
        SlotBody::Filters(_) => filters::pump_filters(parts, session_key),
        SlotBody::Disconnect(_) => {
            if let Some(Slot { conn: Some(conn), body: SlotBody::Disconnect(leave), .. }) =
                session.slots.pop()
            {
                pump_disconnect(parts, session_key, conn, leave);
            }
            true
        }
        SlotBody::End(..) => {
            if let Some(Slot { body: SlotBody::End(end), .. }) = session.slots.pop() {
                ending::connection_over(parts, session_key, *end, true);
            }
            true
        }
    }
}

/// Arms the timer that ends the front publish's wait for a PUBREL: its client may be paused
/// meanwhile.
fn watch_release(parts: &mut Parts, session_key: SessionKey) {
    let due_ms = parts.clock.now().mono_ms + parts.setup.limits.awaiting_rel_timeout_ms;
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if session.rare().release_wait == ReleaseWait::NotTimed {
        let timer = parts.clock.arm_deadline(due_ms, Deadline::Release(session_key));
        session.set_rare().release_wait = ReleaseWait::Timed(timer);
    }
}

/// Ends the front publish's wait for a PUBREL if its client was paused for too long because of full
/// slots or memory: the PUBREL may be among the bytes that are not read. Exchanges beyond
/// `awaiting_rel_max` are limited by the packet identifiers and charged to the session.
pub(crate) fn release_due(parts: &mut Parts, session_key: SessionKey) {
    let (rel_max, timeout_ms) =
        (parts.setup.limits.awaiting_rel_max, parts.setup.limits.awaiting_rel_timeout_ms);
    let now_ms = parts.clock.now().mono_ms;
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let _ = session.end_release_wait();
    if !session.waits_for_release(rel_max) {
        return;
    }
    let Some(key) = session.conn else { return };
    let Some(conn) = parts.connections.get(key) else { return };
    let holds = matches!(conn.reading, Reading::Paused(Pause::Slots | Pause::Memory));
    if holds && now_ms >= conn.last_received_ms + timeout_ms {
        session.set_rare().release_wait = ReleaseWait::Over;
        wake::wake_slots(parts, session_key);
    } else {
        watch_release(parts, session_key);
    }
}

/// Executes a DISCONNECT that waited in a slot.
fn pump_disconnect(parts: &mut Parts, session_key: SessionKey, conn: ConnKey, leave: DisconnectRequest) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if session.conn == Some(conn) {
        if let Err(error) = self::leave(parts, conn, leave) {
            ending::broken_rule(parts, conn, error);
        }
        return;
    }
    parts.counters.packets_disconnect_received += 1;
    if !leave.forbidden {
        session.slots.mark_end(conn, EndCause::ByClient(leave.reason));
    }
}

/// Lets the publishes behind a waiting one advance as far as the ordering limit allows.
fn unblock(parts: &mut Parts, session_key: SessionKey) {
    let Some(session) = parts.sessions.get(session_key) else { return };
    let first = session.slots.front_number();
    let blocked: SmallVec<[u64; 8]> = (first..session.slots.next_number())
        .zip(session.slots.iter())
        .filter(|(_, slot)| matches!(&slot.body, SlotBody::Publish(publish) if publish.stage.is_blocked()))
        .map(|(number, _)| number)
        .collect();
    // A client that has so many tickets open is paused. Requests of plugins are not read from a
    // socket, so they wait here.
    let window = usize::try_from(parts.setup.limits.defer_window).unwrap_or(usize::MAX);
    let mut open = if blocked.is_empty() { 0 } else { session.slots.tickets() };
    for number in blocked {
        if open >= window {
            return;
        }
        parts.counters.flow_steps += 1;
        parts.work.run().spend(1);
        advance_publish(parts, session_key, number);
        let session = parts.sessions.get_mut(session_key);
        let publish = session.and_then(|session| session.slots.publish_mut(number));
        open += usize::from(publish.is_some_and(|publish| publish.stage.ticket().is_some()));
    }
}

/// The state for a step of a waiting publish. It borrows nothing of the session while hooks run.
struct Step {
    identity: Rc<Identity>,
    message: Arc<Message>,
    at: SlotId,
    /// Version of the rules that allowed it.
    epoch: u64,
    /// Whether hooks have changed its topic.
    is_moved: bool,
    stage: Stage,
    limit: OrderingLimit,
}

/// Takes the state of a publish that has not been through the chains and waits for `ticket`
/// (`None`: for no ticket). The slot gets its stage back when the step is settled.
fn begin_step(
    parts: &mut Parts,
    session_key: SessionKey,
    number: u64,
    ticket: Option<Ticket>,
) -> Option<Step> {
    let session = parts.sessions.get_mut(session_key)?;
    let limit = session.slots.in_front(number);
    let publish = session.slots.publish_mut(number)?;
    if matches!(publish.stage, Stage::Decided { .. }) || publish.stage.ticket() != ticket {
        return None;
    }
    let (source, metadata, rounds) = (publish.source, publish.metadata, publish.rounds);
    let at = SlotId { session: session_key, number, source, metadata, rounds };
    let (epoch, is_moved) = (publish.epoch, publish.as_sent.is_some());
    let stage = std::mem::replace(&mut publish.stage, Stage::Unstarted);
    let message = Arc::clone(&publish.message);
    let kept = publish.behalf.as_ref().map(|behalf| Rc::clone(&behalf.identity));
    let identity = match kept {
        Some(kept) => on_behalf::current_identity(parts, kept),
        None => Rc::clone(&session.identity),
    };
    Some(Step { identity, message, at, epoch, is_moved, stage, limit })
}

/// Advances a publish that has not been through the chains and waits for no ticket.
fn advance_publish(parts: &mut Parts, session_key: SessionKey, number: u64) {
    let Some(step) = begin_step(parts, session_key, number, None) else { return };
    let Step { identity, message, at, epoch, is_moved, stage, limit: behind } = step;
    let view = message.view();
    // A will was authorized at CONNECT, and a plugin's own publish needs no authorization.
    let needs_nobody = match at.source {
        Source::Will => authorize::is_current(parts, epoch, &identity, Some(view.topic)),
        Source::Plugin | Source::Store => true,
        Source::Client | Source::Behalf | Source::AuthorizationRequest(_) => false,
    };
    let check = match &stage {
        Stage::Unstarted if needs_nobody => None,
        stage => AuthorizationCheck::of(stage, is_moved),
    };
    let decision = match stage {
        Stage::Authorize(authorization) => {
            publish_decision::authorize_on(parts, &identity, &view, at, *authorization, &behind)
        }
        Stage::Chain(chain) => publish_decision::walk(parts, &identity, &view, at, chain, &behind),
        _ if needs_nobody => publish_decision::begin_walk(parts, &identity, &view, at, &behind),
        _ => publish_decision::decide(parts, &identity, &view, at, &behind),
    };
    drop(message);
    settle_publish(parts, session_key, number, (decision, check));
}

/// An authorization request under the current rules.
struct AuthorizationCheck {
    /// How often it was restarted.
    rounds: u8,
    /// Whether it has been deferred.
    was_open: bool,
    /// Whether all verdicts on the publish come from the current rules. If hooks have changed the
    /// topic, the verdict on the first topic may be older.
    is_whole: bool,
}

impl AuthorizationCheck {
    /// The request at a stage of a publish. `is_moved` says that hooks have changed its topic
    /// already.
    fn of(stage: &Stage, is_moved: bool) -> Option<AuthorizationCheck> {
        match stage {
            Stage::Unstarted => Some(AuthorizationCheck { rounds: 0, was_open: false, is_whole: true }),
            Stage::Authorize(authorization) => {
                let Authorization { request: auth_request, after, first } = &**authorization;
                let moved = after.as_ref().filter(|draft| is_moved || draft.topic_text().is_some());
                let (rounds, was_open) = (auth_request.rounds(), auth_request.ticket().is_some());
                Some(AuthorizationCheck { rounds, was_open, is_whole: moved.is_none() || first.is_some() })
            }
            Stage::Chain(_) | Stage::Decided { .. } => None,
        }
    }
}

/// Settles a step of a publish; `check` is the authorization request that led to the decision.
fn settle_publish(
    parts: &mut Parts,
    session_key: SessionKey,
    number: u64,
    (decision, check): (Decision, Option<AuthorizationCheck>),
) {
    let now = parts.hooks.authz_epoch();
    if let Some(AuthorizationCheck { rounds, was_open, is_whole }) = check
        && let Some(session) = parts.sessions.get_mut(session_key)
        && let Some(publish) = session.slots.publish_mut(number)
    {
        let epoch = if is_whole { now } else { publish.epoch };
        (publish.epoch, publish.rounds) = (epoch, publish.rounds.max(rounds));
        publish.was_open |= was_open;
        let rounds = publish.rounds;
        publish.behalf.iter_mut().for_each(|behalf| (behalf.epoch, behalf.rounds) = (epoch, rounds));
    }
    let now_ms = parts.clock.now().mono_ms;
    if let Err(verdict) = &decision {
        on_behalf::decided(parts, session_key, number, verdict.code);
    }
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    match decision {
        Err(verdict) => session.slots.refuse(number, verdict),
        Ok(progress) => {
            if let Some(publish) = session.slots.publish_mut(number) {
                publish.stage = progress.stage(&mut publish.message, &mut publish.as_sent, now_ms);
                session.slots.recharge(number);
            }
        }
    }
}

/// Has the front publish authorized again if the rules have changed for its client and its topic,
/// or for the topic that it had before hooks changed it. The changes by hooks stay. Returns whether
/// it is authorized again.
fn reauthorize_front(parts: &mut Parts, session_key: SessionKey) -> bool {
    let Some(session) = parts.sessions.get(session_key) else { return false };
    let number = session.slots.front_number();
    let Some(Slot { body: SlotBody::Publish(publish), .. }) = session.slots.front() else { return false };
    // A message that its owner has stored has begun to take effect.
    let is_decided = matches!(publish.stage, Stage::Decided { storage: Storage::NotRequested, .. });
    let identity = publish.behalf.as_ref().map_or(&session.identity, |behalf| &behalf.identity);
    let is_current = |topic: &str| authorize::is_current(parts, publish.epoch, identity, Some(topic));
    let first = publish.as_sent.clone();
    let holds =
        is_current(&publish.message.topic) && first.as_ref().is_none_or(|sent| is_current(&sent.topic));
    if !is_decided || !publish.source.is_clients() || holds {
        return false;
    }
    let request = authorize::new_request(parts, identity);
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let Some(publish) = session.slots.publish_mut(number) else { return false };
    // It counts as the same request, however often the lane is full meanwhile. A request that was
    // answered at once counts no round.
    publish.rounds = publish.rounds.saturating_add(std::mem::take(&mut publish.was_open).into());
    let request = request.after_rounds(publish.rounds);
    if let Stage::Decided { extra, .. } = &mut publish.stage {
        let after = Some(Draft { extra: extra.take(), ..Draft::default() });
        publish.stage = Stage::Authorize(Box::new(Authorization { request, after, first }));
        session.slots.recharge(number);
    }
    true
}

/// Applies the effect of the front publish, which has passed. Returns whether it has left the
/// slots.
fn finish_front(parts: &mut Parts, session_key: SessionKey) -> bool {
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let number = session.slots.front_number();
    let conn = session.slots.front().and_then(|slot| slot.conn);
    let Some(publish) = session.slots.publish_mut(number) else { return false };
    let metadata = publish.metadata;
    let slot = (number, publish.source);
    let stored = match publish.stage {
        Stage::Decided { storage: Storage::Answered(number), .. } => Some(number),
        _ => None,
    };
    let message = Arc::clone(&publish.message);
    let mut shared = Some(SharedMessage::new(Arc::clone(&message).into()));
    match route::effect(parts, session_key, slot, &message.view(), &mut shared, stored) {
        Effect::Done(code) => {
            let session = parts.sessions.get_mut(session_key);
            let mut behalf = None;
            if let Some(Slot { body: SlotBody::Publish(publish), .. }) =
                session.and_then(|session| session.slots.pop())
                && let Stage::Decided { extra, .. } = publish.stage
            {
                behalf = publish.behalf;
                plugin_publish::publish_extra(parts, extra);
            }
            match behalf {
                Some(behalf) => on_behalf::ended(parts, session_key, *behalf, code),
                None => puback::conclude(parts, session_key, conn, metadata, &Verdict::code(code)),
            }
            true
        }
        Effect::Waits(now) => {
            if let Some(publish) =
                parts.sessions.get_mut(session_key).and_then(|s| s.slots.publish_mut(number))
                && let Stage::Decided { storage, .. } = &mut publish.stage
            {
                *storage = now;
            }
            false
        }
    }
}

/// Takes the answer of the owner of a retained topic.
pub(crate) fn stored(parts: &mut Parts, id: u64, number: u64) {
    let Some((session_key, slot)) = parts.work.end_store(id) else { return };
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if let Some(publish) = session.slots.publish_mut(slot)
        && let Stage::Decided { storage, .. } = &mut publish.stage
        && *storage == Storage::Requested(id)
    {
        *storage = Storage::Answered(number);
    }
    wake::wake_slots(parts, session_key);
}

/// Takes the verdict of a deferred message.publish or client.authorize on a publish; `None` if its
/// deadline has passed.
pub(crate) fn publish_answered(
    parts: &mut Parts,
    session_key: SessionKey,
    number: u64,
    ticket: &OpenTicket,
    answer: Answer<'_>,
) {
    let Some(step) = begin_step(parts, session_key, number, Some(ticket.number)) else { return };
    let Step { identity, message, at, epoch: _, is_moved, stage, limit: behind } = step;
    let view = message.view();
    let mut check = AuthorizationCheck::of(&stage, is_moved);
    let decision = match stage {
        Stage::Authorize(mut authorization) => {
            let Authorization { request: auth_request, after, first } = &mut *authorization;
            let moved = after.as_ref().and_then(Draft::topic_text);
            let topic = first.as_ref().map_or(moved.unwrap_or(view.topic), |sent| &*sent.topic);
            let ends = authorize::request_answered(parts, (&identity, topic), auth_request, ticket, answer);
            check.iter_mut().for_each(|check| check.rounds = auth_request.rounds());
            let at = SlotId { rounds: at.rounds.max(auth_request.rounds()), ..at };
            if ends {
                let outcome = authorize::outcome(parts, auth_request);
                let outcome = (outcome, after.take(), first.take());
                publish_decision::authorized(parts, &identity, &view, at, outcome, &behind)
            } else {
                publish_decision::authorize_on(parts, &identity, &view, at, *authorization, &behind)
            }
        }
        Stage::Chain(mut chain) => {
            let limits = Arc::clone(&parts.setup.limits);
            let rules = DraftRules { limits: &limits, properties: view.properties };
            match hooks::resume(parts, &mut chain, ticket, answer, rules) {
                Some(true) => {
                    publish_decision::apply_publish_verdict(parts, &identity, &view, at, chain.accumulator)
                }
                _ => publish_decision::walk(parts, &identity, &view, at, chain, &behind),
            }
        }
        // These wait for no ticket.
        Stage::Unstarted | Stage::Decided { .. } => return,
    };
    drop(message);
    settle_publish(parts, session_key, number, (decision, check));
    wake::wake_slots(parts, session_key);
}

/// Queues a DISCONNECT behind the slots. Its session expiry applies from now on, however the
/// connection ends. An expiry of 0 in CONNECT stays 0 [MQTT-3.14.2-2]; that error is answered when
/// the DISCONNECT is executed.
pub(crate) fn disconnect_waits(parts: &mut Parts, session_key: SessionKey, leave: DisconnectRequest) {
    let expiry_max_s = parts.setup.limits.session_expiry_max_s;
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if let Some(expiry_s) = leave.expiry_s
        && !leave.forbidden
    {
        session.expiry_s = granted_expiry(expiry_s, expiry_max_s);
    }
    // The publishes in front no longer wait for a PUBREL.
    wake::wake_slots(parts, session_key);
}

/// Executes a DISCONNECT with nothing in front of it.
pub(crate) fn leave(parts: &mut Parts, key: ConnKey, leave: DisconnectRequest) -> Result<(), DecodeError> {
    parts.counters.packets_disconnect_received += 1;
    let expiry_max_s = parts.setup.limits.session_expiry_max_s;
    let Some(session) = reading::session_of(parts, key).and_then(|session| parts.sessions.get_mut(session))
    else {
        return Ok(());
    };
    if leave.forbidden {
        return Err(DecodeError {
            reason: ReasonCode::PROTOCOL_ERROR,
            detail: "session expiry set at DISCONNECT, which was 0 at CONNECT",
        });
    }
    if let Some(expiry_s) = leave.expiry_s {
        session.expiry_s = granted_expiry(expiry_s, expiry_max_s);
    }
    ending::end_connection(parts, key, EndCause::ByClient(leave.reason), None);
    Ok(())
}
