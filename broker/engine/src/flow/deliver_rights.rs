//! Deliveries that are authorized one by one: cached verdicts, deliveries that wait, and their
//! order.

use std::rc::Rc;

use super::hooks::ChainOutcome;
use super::{authorize, hooks, notify};
use crate::counters::DropReason;
use crate::hook::HookPoint;
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::Waiter;
use crate::hook::view::{Action, Request};
use crate::id::SessionKey;
use crate::message::MessageView;
use crate::parts::Parts;
use crate::session::Delivery;
use crate::session::deliveries::Deliveries;
use crate::session::delivery::{DeliveryOptions, delivery_of};
use crate::shared_message::SharedMessage;

/// Whether a session may get a message now. If the delivery must wait or is refused, it is queued
/// or dropped here. The caller has checked that a link authorizes deliveries, or that the session
/// has such deliveries.
pub(crate) fn may_deliver(
    parts: &mut Parts,
    key: SessionKey,
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) -> bool {
    let Some(session) = parts.sessions.get(key) else { return false };
    let waits = session.deliveries.as_ref().is_some_and(|deliveries| !deliveries.is_empty());
    if waits {
        // No delivery may overtake one that waits.
        enqueue(parts, key, options, view, shared);
        return false;
    }
    if let Some(may) = cached_right(parts, key, view) {
        return may;
    }
    if may_authorize_delivery(parts) {
        return reauthorize(parts, key, options, view, shared);
    }
    enqueue(parts, key, options, view, shared);
    queue_for_authorization(parts, key);
    false
}

/// Authorizes a delivery that has waited for its turn; true if the message may go.
pub(crate) fn may_deliver_now(
    parts: &mut Parts,
    key: SessionKey,
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) -> bool {
    cached_right(parts, key, view).unwrap_or_else(|| reauthorize(parts, key, options, view, shared))
}

/// The cached verdict; `None` if links must be called. A refused message is dropped and counted.
fn cached_right(parts: &mut Parts, key: SessionKey, view: &MessageView<'_>) -> Option<bool> {
    let may = remembered(parts, key, view)?;
    if !may {
        notify::count_drop(parts, DropReason::NotAuthorized, view, Some(key));
    }
    Some(may)
}

fn reauthorize(
    parts: &mut Parts,
    key: SessionKey,
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) -> bool {
    let Some(session) = parts.sessions.get(key) else { return false };
    let request = authorize::new_request(parts, &Rc::clone(&session.identity));
    authorize_delivery(parts, key, request, options, view, shared)
}

/// Runs the request, unless the client is a superuser; true if the message may go.
pub(crate) fn authorize_delivery(
    parts: &mut Parts,
    key: SessionKey,
    mut auth_request: AuthorizationRequest,
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) -> bool {
    let Some(session) = parts.sessions.get(key) else { return false };
    let client = Rc::clone(&session.identity);
    if client.superuser {
        return true;
    }
    let request =
        Request { action: Action::Deliver, topic: view.topic, qos: options.qos, retain: options.retain };
    let waiter = Waiter::Deliver(key);
    if let ChainOutcome::Completed =
        authorize::ask(parts, &mut auth_request, (&client, request), None, waiter)
    {
        return delivery_decided(parts, key, view, &auth_request);
    }
    let delivery = delivery_of(options, view, shared);
    parts.memory.pool().count(&delivery.message);
    if let Some(deliveries) = deliveries_of(parts, key) {
        deliveries.bytes += delivery.message.bytes();
        deliveries.pending = Some((auth_request, delivery));
        parts.hooks.rechecks().delivery_waits();
    }
    false
}

pub(crate) fn deliveries_of(parts: &mut Parts, key: SessionKey) -> Option<&mut Deliveries> {
    parts.sessions.get_mut(key)?.deliveries.as_deref_mut()
}

/// Whether deliveries are authorized one by one.
#[inline]
pub(crate) fn authorizes_deliveries(parts: &Parts) -> bool {
    parts.hooks.chain(HookPoint::ClientAuthorize).delivers()
}

/// Caches the verdict, if a link has given one. Drops and counts a refused message. Returns whether
/// it may go.
pub(crate) fn delivery_decided(
    parts: &mut Parts,
    key: SessionKey,
    view: &MessageView<'_>,
    request: &AuthorizationRequest,
) -> bool {
    let (epoch, most) = (parts.hooks.authz_epoch(), parts.setup.limits.deliver_verdicts_max as usize);
    let may = authorize::verdict_of(parts, request).is_ok();
    let remembers = request.accumulator.may_be_remembered() && most > 0;
    if let Some(deliveries) = deliveries_of(parts, key).filter(|_| remembers) {
        if deliveries.verdicts.len() >= most {
            deliveries.verdicts.clear();
            deliveries.verdicts_bytes = 0;
        }
        if deliveries.verdicts.insert(view.topic.into(), (may, epoch)).is_none() {
            deliveries.verdicts_bytes += view.topic.len();
        }
    }
    if !may {
        notify::count_drop(parts, DropReason::NotAuthorized, view, Some(key));
    }
    may
}

/// Queues a session for authorization of its first delivery, if that waits for it.
pub(crate) fn queue_for_authorization(parts: &mut Parts, key: SessionKey) {
    if let Some(deliveries) = deliveries_of(parts, key)
        && deliveries.pending.is_none()
        && !deliveries.waiting.is_empty()
        && !std::mem::replace(&mut deliveries.is_queued, true)
    {
        parts.hooks.rechecks().push_session(key);
    }
}

/// Queues a delivery behind those that wait, or drops it. It counts like the messages in the
/// session's queue.
pub(crate) fn enqueue(
    parts: &mut Parts,
    key: SessionKey,
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) {
    let hasher = parts.numbers.hasher();
    let (messages_max, bytes_max) =
        (parts.setup.limits.session_queue_messages_max, parts.setup.limits.session_queue_bytes_max);
    let Some(session) = parts.sessions.get_mut(key) else { return };
    let client = &session.identity;
    let deliveries =
        session.deliveries.get_or_insert_with(|| Box::new(Deliveries::new(Rc::clone(client), hasher)));
    let messages = session.queue.len() + deliveries.len();
    let bytes = session.queue.bytes() + deliveries.bytes + view.bytes();
    if messages as u64 >= messages_max || bytes as u64 > bytes_max {
        notify::count_drop(parts, DropReason::QueueFull, view, Some(key));
        return;
    }
    let delivery = delivery_of(options, view, shared);
    session.pool.count(&delivery.message);
    deliveries.push_back(delivery);
}

/// The verdict on a session's right to a topic, without a call of a link. Superusers have every
/// right.
fn remembered(parts: &mut Parts, key: SessionKey, view: &MessageView<'_>) -> Option<bool> {
    if !authorizes_deliveries(parts) {
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
    let (may, when) = deliveries.verdicts.get_mut(view.topic)?;
    let (client_id, username) = (&client.client_id, client.username.as_deref());
    let topic = client.seen(view.topic);
    let holds = parts.hooks.are_rules_current(*when, client_id, username, Some(topic));
    // The next check is faster.
    *when = if holds { parts.hooks.authz_epoch() } else { *when };
    holds.then_some(*may)
}

pub(crate) fn may_authorize_delivery(parts: &Parts) -> bool {
    parts.hooks.may_authorize_delivery(parts.setup.limits.deliver_requests_max)
}

/// Takes the deliveries out of a session that is taken down, and closes the ticket that one of them
/// waits for.
pub(crate) fn take_unanswered(parts: &mut Parts, key: SessionKey) -> Vec<Delivery> {
    let deliveries = parts.sessions.get_mut(key).and_then(|session| session.deliveries.take());
    let Some(deliveries) = deliveries else { return Vec::new() };
    let Deliveries { pending: asked, waiting: behind, .. } = *deliveries;
    let mut all = Vec::with_capacity(behind.len() + 1);
    if let Some((request, delivery)) = asked {
        parts.hooks.rechecks().delivery_goes_on();
        if let Some(ticket) = request.ticket() {
            hooks::close_ticket(parts, ticket);
        }
        all.push(delivery);
    }
    all.extend(behind);
    all
}
