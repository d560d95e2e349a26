//! Deliveries that are authorized one by one: what is remembered, what waits for an answer, and in which order it goes on.

use std::rc::Rc;

use super::hooks::Walked;
use super::{authorize, hooks, tell};
use crate::counters::Loss;
use crate::held::Held;
use crate::hook::HookPoint;
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::Waiter;
use crate::hook::view::{Action, Request};
use crate::id::SessionKey;
use crate::message::MessageView;
use crate::parts::Parts;
use crate::session::Delivery;
use crate::session::deliveries::Deliveries;
use crate::session::delivery::{Manner, delivery_of};

/// Whether a session may get a message now. What must wait for the answer, or may not come, is dealt with
/// here. The caller has seen that somebody asks for deliveries, or that the session has had such.
pub(crate) fn may_deliver(
    parts: &mut Parts,
    key: SessionKey,
    manner: &Manner,
    view: &MessageView<'_>,
    held: &mut Option<Held>,
) -> bool {
    let Some(session) = parts.sessions.get(key) else { return false };
    let waits = session.deliveries.as_ref().is_some_and(|deliveries| !deliveries.is_empty());
    if waits {
        // Nothing may pass a delivery that waits.
        put_behind(parts, key, manner, view, held);
        return false;
    }
    if let Some(may) = known_right(parts, key, view) {
        return may;
    }
    if may_ask_for_deliveries(parts) {
        return ask_anew(parts, key, manner, view, held);
    }
    put_behind(parts, key, manner, view, held);
    put_in_row(parts, key);
    false
}

/// A delivery that waited has its turn; true if the message may go.
pub(crate) fn may_deliver_now(
    parts: &mut Parts,
    key: SessionKey,
    manner: &Manner,
    view: &MessageView<'_>,
    held: &mut Option<Held>,
) -> bool {
    known_right(parts, key, view).unwrap_or_else(|| ask_anew(parts, key, manner, view, held))
}

/// Whether a message may go, as far as nobody need be asked. One that may not is counted.
fn known_right(parts: &mut Parts, key: SessionKey, view: &MessageView<'_>) -> Option<bool> {
    let may = remembered(parts, key, view)?;
    if !may {
        tell::count_drop(parts, Loss::NotAuthorized, view, Some(key));
    }
    Some(may)
}

fn ask_anew(
    parts: &mut Parts,
    key: SessionKey,
    manner: &Manner,
    view: &MessageView<'_>,
    held: &mut Option<Held>,
) -> bool {
    let Some(session) = parts.sessions.get(key) else { return false };
    let ask = authorize::new_ask(parts, &Rc::clone(&session.identity));
    ask_delivery(parts, key, ask, manner, view, held)
}

/// Runs the request, unless the client is a superuser; true if the message may go.
pub(crate) fn ask_delivery(
    parts: &mut Parts,
    key: SessionKey,
    mut ask: AuthorizationRequest,
    manner: &Manner,
    view: &MessageView<'_>,
    held: &mut Option<Held>,
) -> bool {
    let Some(session) = parts.sessions.get(key) else { return false };
    let client = Rc::clone(&session.identity);
    if client.superuser {
        return true;
    }
    let request =
        Request { action: Action::Deliver, topic: view.topic, qos: manner.qos, retain: manner.retain };
    let waiter = Waiter::Deliver(key);
    if let Walked::Through = hooks::go_on(parts, &mut ask, client.view(), Some(request), None, waiter) {
        return delivery_decided(parts, key, view, &ask);
    }
    let delivery = delivery_of(manner, view, held);
    parts.memory.pool().count(&delivery.message);
    if let Some(deliveries) = deliveries_of(parts, key) {
        deliveries.bytes += delivery.message.bytes();
        deliveries.asked = Some((ask, delivery));
        parts.hooks.reviews().delivery_waits();
    }
    false
}

pub(crate) fn deliveries_of(parts: &mut Parts, key: SessionKey) -> Option<&mut Deliveries> {
    parts.sessions.get_mut(key)?.deliveries.as_deref_mut()
}

/// Whether deliveries are authorized one by one.
#[inline]
pub(crate) fn asks_for_deliveries(parts: &Parts) -> bool {
    parts.hooks.chain(HookPoint::ClientAuthorize).delivers()
}

/// Remembers what was said, if somebody has said something, and drops what may not come.
pub(crate) fn delivery_decided(
    parts: &mut Parts,
    key: SessionKey,
    view: &MessageView<'_>,
    ask: &AuthorizationRequest,
) -> bool {
    let (epoch, most) = (parts.hooks.authz_epoch(), parts.setup.limits.deliver_verdicts_max as usize);
    let may = authorize::verdict_of(parts, ask).is_ok();
    let remembers = ask.accumulator.may_be_remembered() && most > 0;
    if let Some(deliveries) = deliveries_of(parts, key).filter(|_| remembers) {
        if deliveries.said.len() >= most {
            deliveries.said.clear();
            deliveries.said_bytes = 0;
        }
        if deliveries.said.insert(view.topic.into(), (may, epoch)).is_none() {
            deliveries.said_bytes += view.topic.len();
        }
    }
    if !may {
        tell::count_drop(parts, Loss::NotAuthorized, view, Some(key));
    }
    may
}

/// Has the first delivery of a session authorized in its turn, if one waits for that.
pub(crate) fn put_in_row(parts: &mut Parts, key: SessionKey) {
    if let Some(deliveries) = deliveries_of(parts, key)
        && deliveries.asked.is_none()
        && !deliveries.behind.is_empty()
        && !std::mem::replace(&mut deliveries.in_row, true)
    {
        parts.hooks.reviews().push_session(key);
    }
}

/// Puts a delivery behind those that wait, or drops it: it counts like what waits in the session's queue.
pub(crate) fn put_behind(
    parts: &mut Parts,
    key: SessionKey,
    manner: &Manner,
    view: &MessageView<'_>,
    held: &mut Option<Held>,
) {
    let hasher = parts.numbers.hasher();
    let (messages_max, bytes_max) =
        (parts.setup.limits.session_queue_messages_max, parts.setup.limits.session_queue_bytes_max);
    let Some(session) = parts.sessions.get_mut(key) else { return };
    let client = &session.identity;
    let deliveries =
        session.deliveries.get_or_insert_with(|| Box::new(Deliveries::new(Rc::clone(client), hasher)));
    let messages = session.queue.len() + deliveries.len();
    let bytes = session.queue_bytes + deliveries.bytes + view.bytes();
    if messages as u64 >= messages_max || bytes as u64 > bytes_max {
        tell::count_drop(parts, Loss::QueueFull, view, Some(key));
        return;
    }
    let delivery = delivery_of(manner, view, held);
    session.pool.count(&delivery.message);
    deliveries.push_back(delivery);
}

/// What is known of a session's right to a topic without asking; superusers have every right.
fn remembered(parts: &mut Parts, key: SessionKey, view: &MessageView<'_>) -> Option<bool> {
    if !asks_for_deliveries(parts) {
        return Some(true);
    }
    let hasher = parts.numbers.hasher();
    let session = parts.sessions.get_mut(key)?;
    if session.identity.superuser {
        return Some(true);
    }
    let client = &session.identity;
    let deliveries =
        session.deliveries.get_or_insert_with(|| Box::new(Deliveries::new(Rc::clone(client), hasher)));
    deliveries.belong_to(client);
    let (may, when) = deliveries.said.get_mut(view.topic)?;
    let (client_id, username) = (&client.client_id, client.username.as_deref());
    let holds = parts.hooks.rules_hold(*when, client_id, username, Some(view.topic));
    // The next time it is known at once.
    *when = if holds { parts.hooks.authz_epoch() } else { *when };
    holds.then_some(*may)
}

pub(crate) fn may_ask_for_deliveries(parts: &Parts) -> bool {
    parts.hooks.may_ask_for_deliveries(parts.setup.limits.deliver_requests_max)
}

/// Takes the deliveries from a session that is taken down, and closes the ticket that one of them waits
/// for.
pub(crate) fn take_unanswered(parts: &mut Parts, key: SessionKey) -> Vec<Delivery> {
    let deliveries = parts.sessions.get_mut(key).and_then(|session| session.deliveries.take());
    let Some(deliveries) = deliveries else { return Vec::new() };
    let Deliveries { asked, behind, .. } = *deliveries;
    let mut all = Vec::with_capacity(behind.len() + 1);
    if let Some((ask, delivery)) = asked {
        parts.hooks.reviews().delivery_goes_on();
        if let Some(ticket) = ask.ticket() {
            hooks::close_ticket(parts, ticket);
        }
        all.push(delivery);
    }
    all.extend(behind);
    all
}
