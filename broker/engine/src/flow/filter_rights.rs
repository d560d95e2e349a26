//! client.authorize for each filter of a SUBSCRIBE. As many filters as publishes of a session wait
//! for plugins at a time.

use std::rc::Rc;

use super::authorize::RequestOutcome;
use super::filter_slot::{SlotId, Step};
use super::hooks::Answer;
use super::{authorize, filter_slot, subscriptions, wake};
use crate::hook::HookPoint;
use crate::hook::requested::Requested;
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::hook::view::{Action, Request};
use crate::id::SessionKey;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::Identity;
use crate::session::filters::{Answered, FilterDecision, FilterPacket, FilterStep};

/// Cost of an authorization request in units of a turn's budget: a plugin may need as much time for
/// it as the engine needs for this many filters.
const QUESTION: u64 = 32;

/// Authorizes each filter. A deferred verdict does not block the other filters.
pub(crate) fn authorize_filters(
    parts: &mut Parts,
    slot: SlotId,
    packet: &mut FilterPacket,
    mut open: usize,
) -> Step {
    let Some(session) = parts.sessions.get(slot.session) else { return Step::Over };
    let identity = Rc::clone(&session.identity);
    let window = filters_window(parts);
    while let Some(request) = packet.requested.get(packet.decisions.len()) {
        if open >= window {
            return Step::Waits;
        }
        if parts.work.is_turn_spent() {
            return Step::Later;
        }
        wake::spend(parts, 1);
        let decision = match (request.refused, subscriptions::filter_of(parts, request)) {
            (Some(reason), _) | (None, Err(reason)) => done(parts, Err(reason), 0),
            (None, Ok(_)) => {
                let auth_request = authorize::new_request(parts, &identity);
                decide(parts, &identity, slot, packet.decisions.len(), request, auth_request)
            }
        };
        open += usize::from(matches!(decision, FilterDecision::Open(_)));
        packet.decisions.push(decision);
        packet.step = FilterStep::Authorize(open);
    }
    if open > 0 {
        return Step::Waits;
    }
    // Filters that older rules allowed, while others of the packet waited, are authorized again:
    // they are not in force yet, so a recheck did not cover them.
    for index in packet.codes.len()..packet.decisions.len() {
        let FilterDecision::Done(Answered { answer: Ok(()), epoch, rounds }) = &mut packet.decisions[index]
        else {
            continue;
        };
        let filter = packet.requested[index].topics();
        if authorize::is_current(parts, *epoch, &identity, Some(filter)) {
            *epoch = parts.hooks.authz_epoch();
            continue;
        }
        if open >= window {
            return Step::Waits;
        }
        if parts.work.is_turn_spent() {
            return Step::Later;
        }
        let auth_request = authorize::new_request(parts, &identity).after_rounds(rounds.saturating_add(1));
        wake::spend(parts, 1);
        let decision = decide(parts, &identity, slot, index, &packet.requested[index], auth_request);
        open += usize::from(matches!(decision, FilterDecision::Open(_)));
        packet.decisions[index] = decision;
        packet.step = FilterStep::Authorize(open);
    }
    if open > 0 {
        return Step::Waits;
    }
    packet.step = FilterStep::Apply;
    Step::Goes
}

/// Filters of a packet that may wait for plugins at a time: as many as publishes of a session.
fn filters_window(parts: &Parts) -> usize {
    usize::try_from(parts.setup.limits.defer_window).unwrap_or(usize::MAX).max(1)
}

fn decide(
    parts: &mut Parts,
    identity: &Identity,
    slot: SlotId,
    index: usize,
    request: &Requested,
    auth_request: AuthorizationRequest,
) -> FilterDecision {
    let links = parts.hooks.chain(HookPoint::ClientAuthorize).links.len() as u64;
    wake::spend(parts, links);
    parts.work.charge_turn(if links > 0 { QUESTION } else { 0 });
    let asked = Request {
        action: Action::Subscribe,
        topic: request.topics(),
        qos: request.options.qos,
        retain: false,
    };
    let waiter = Waiter::Filter(slot.session, slot.number, index as u32);
    let rounds = auth_request.rounds();
    match authorize::authorize(parts, identity, asked, auth_request, None, waiter) {
        RequestOutcome::Answered(answer) => done(parts, answer, rounds),
        RequestOutcome::Unanswered(reason) => done(parts, Err(reason), rounds),
        RequestOutcome::Waits(auth_request) => FilterDecision::Open(Box::new(auth_request)),
    }
}

/// A verdict under the current rules.
fn done(parts: &Parts, answer: Result<(), ReasonCode>, rounds: u8) -> FilterDecision {
    FilterDecision::Done(Answered { answer, epoch: parts.hooks.authz_epoch(), rounds })
}

/// Takes a deferred client.authorize verdict on one filter of a SUBSCRIBE.
pub(crate) fn filter_answered(
    parts: &mut Parts,
    (session_key, number, index): (SessionKey, u64, u32),
    ticket: &OpenTicket,
    answer: Answer<'_>,
) {
    let Some(identity) = parts.sessions.get(session_key).map(|session| Rc::clone(&session.identity)) else {
        return;
    };
    let index = index as usize;
    let Some(packet) = filter_slot::filters_at(parts, session_key, number) else { return };
    let (Some(FilterDecision::Open(auth_request)), Some(request)) =
        (packet.decisions.get(index), packet.requested.get(index))
    else {
        return;
    };
    let (mut auth_request, request) = (AuthorizationRequest::clone(auth_request), request.clone());
    let about = (&*identity, request.topics());
    let decision = if authorize::request_answered(parts, about, &mut auth_request, ticket, answer) {
        done(parts, authorize::verdict_of(parts, &auth_request), auth_request.rounds())
    } else {
        let slot = SlotId { session: session_key, number, conn: None };
        decide(parts, &identity, slot, index, &request, auth_request)
    };
    let is_done = matches!(decision, FilterDecision::Done(_));
    let window = filters_window(parts);
    let Some(packet) = filter_slot::filters_at(parts, session_key, number) else { return };
    packet.decisions[index] = decision;
    if let (FilterStep::Authorize(open), true) = (&mut packet.step, is_done) {
        *open -= 1;
        if *open == 0 || *open + 1 == window {
            wake::wake_slots(parts, session_key);
        }
    }
}
