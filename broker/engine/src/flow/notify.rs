//! The notification points. Each function checks first whether a link is mounted, so that without
//! one the cost is one length check. They decide nothing.

use std::rc::Rc;

use grapnel_plugin_abi::raw::FLAG_REPLAY;

use crate::counters::DropReason;
use crate::hook::chain::{DispatchScope, LinkFilter};
use crate::hook::notification::{About, BrokerView, Notification, RetainedChange, SubscriptionView};
use crate::hook::view::ClientView;
use crate::hook::{HookPoint, PluginHandle};
use crate::id::{ConnKey, SessionKey};
use crate::message::MessageView;
use crate::packet::PacketType;
use crate::parts::{ChainContext, Parts};
use crate::reason::ReasonCode;
use crate::session::Delivery;
use crate::session::filters::Granted;

/// The client that message.dropped names for a message without a target session.
const NODE: &str = "node";

/// Whether a link is mounted at a point.
#[inline]
pub(crate) fn has_links(parts: &Parts, point: HookPoint) -> bool {
    !parts.hooks.chain(point).is_empty()
}

/// Notifies a point. A flow whose event is expensive to build checks [`has_links`] first.
pub(crate) fn notify(parts: &mut Parts, point: HookPoint, client: Option<ClientView<'_>>, about: About<'_>) {
    let ChainContext { chain, calls, .. } = parts.hooks.at(point);
    if chain.is_empty() {
        return;
    }
    let mut notification = Notification::new(point, client, about, parts.clock.now().mono_ms);
    let mut event = notification.event(parts.setup.id, parts.clock.now().wall_ms);
    chain.run((point, calls), notification.scope(), &mut event, &mut notification);
}

/// Notifies about a session; `end` if it ends.
pub(crate) fn notify_session(
    parts: &mut Parts,
    point: HookPoint,
    key: SessionKey,
    end: Option<(&'static str, ReasonCode)>,
) {
    if !has_links(parts, point) {
        return;
    }
    let Some(session) = parts.sessions.get(key) else { return };
    let (identity, view) = (Rc::clone(&session.identity), session.view());
    notify(parts, point, Some(identity.view()), About::Session(view, end));
}

/// Notifies about a subscription that is now in force. `cause` is one word for who made it, if that
/// is not the client.
pub(crate) fn notify_subscribed(
    parts: &mut Parts,
    key: SessionKey,
    granted: &Granted,
    cause: Option<&'static str>,
) {
    let view = SubscriptionView {
        filter: &granted.filter,
        options: granted.options,
        id: granted.id,
        is_new: Some(granted.is_new),
        cause,
    };
    notify_subscription(parts, HookPoint::SessionSubscribed, key, view);
}

/// Notifies about a subscription that has ended; `cause` is one word for who did it or why.
pub(crate) fn notify_unsubscribed(
    parts: &mut Parts,
    key: SessionKey,
    filter: &str,
    gone: crate::session::Subscription,
    cause: &'static str,
) {
    let cause = Some(cause);
    let view = SubscriptionView { filter, options: gone.options, id: gone.id, is_new: None, cause };
    notify_subscription(parts, HookPoint::SessionUnsubscribed, key, view);
}

fn notify_subscription(
    parts: &mut Parts,
    point: HookPoint,
    key: SessionKey,
    subscription: SubscriptionView<'_>,
) {
    if !has_links(parts, point) {
        return;
    }
    let Some(session) = parts.sessions.get(key) else { return };
    let (identity, view) = (Rc::clone(&session.identity), session.view());
    notify(parts, point, Some(identity.view()), About::Subscription(view, subscription));
}

/// Notifies one plugin of an existing session and its subscriptions.
pub(crate) fn replay_session(parts: &mut Parts, plugin: PluginHandle, key: SessionKey) {
    let Some(session) = parts.sessions.get(key).filter(|session| !session.detached) else { return };
    let (identity, view, connected) = (Rc::clone(&session.identity), session.view(), session.conn.is_some());
    let client = Some(identity.view());
    let about = About::Session(view, None);
    if connected {
        notify_one(parts, plugin, HookPoint::ClientConnected, client, about);
    }
    notify_one(parts, plugin, HookPoint::SessionCreated, client, about);
    if !has_links(parts, HookPoint::SessionSubscribed) {
        return;
    }
    let Some(session) = parts.sessions.get(key) else { return };
    let subscriptions: Vec<_> =
        session.subscriptions.iter().map(|(filter, subscription)| (filter.clone(), *subscription)).collect();
    for (filter, subscription) in subscriptions {
        let subscription = SubscriptionView {
            filter: &filter,
            options: subscription.options,
            id: subscription.id,
            is_new: Some(false),
            cause: None,
        };
        let about = About::Subscription(view, subscription);
        notify_one(parts, plugin, HookPoint::SessionSubscribed, client, about);
    }
}

fn notify_one(
    parts: &mut Parts,
    plugin: PluginHandle,
    point: HookPoint,
    client: Option<ClientView<'_>>,
    about: About<'_>,
) {
    let mut notification = Notification::new(point, client, about, parts.clock.now().mono_ms);
    let mut event = notification.event(parts.setup.id, parts.clock.now().wall_ms);
    event.flags |= FLAG_REPLAY;
    let scope = DispatchScope { filter: LinkFilter::Plugin(plugin), ..DispatchScope::WHOLE };
    let ChainContext { chain, calls, .. } = parts.hooks.at(point);
    chain.run((point, calls), scope, &mut event, &mut notification);
}

/// Notifies about a message whose delivery a subscriber has fully acknowledged.
#[inline]
pub(crate) fn notify_acked(parts: &mut Parts, key: SessionKey, delivery: &Delivery) {
    if has_links(parts, HookPoint::MessageAcked) {
        notify_acked_cold(parts, key, delivery);
    }
}

#[cold]
fn notify_acked_cold(parts: &mut Parts, key: SessionKey, delivery: &Delivery) {
    let Some(session) = parts.sessions.get(key) else { return };
    let identity = Rc::clone(&session.identity);
    let view = MessageView { qos: delivery.qos, retain: delivery.retain, ..delivery.message.view() };
    notify(parts, HookPoint::MessageAcked, Some(identity.view()), About::Acked(view));
}

/// Counts and notifies a dropped message, for the client of session `of` if there is one.
pub(crate) fn count_drop(parts: &mut Parts, why: DropReason, view: &MessageView<'_>, of: Option<SessionKey>) {
    let counters = &mut parts.counters;
    counters.messages_dropped += 1;
    match why {
        DropReason::NoSubscribers => counters.messages_dropped_no_subscribers += 1,
        DropReason::QueueFull => counters.messages_dropped_queue_full += 1,
        DropReason::Expired => counters.messages_dropped_expired += 1,
        DropReason::TooLarge => counters.messages_dropped_too_large += 1,
        DropReason::Hook => counters.messages_dropped_hook += 1,
        DropReason::LaneFull => counters.messages_dropped_lane_full += 1,
        DropReason::NoMember => counters.messages_dropped_no_member += 1,
        DropReason::NotAuthorized => counters.messages_dropped_not_authorized += 1,
    }
    if let (DropReason::QueueFull | DropReason::TooLarge, Some(session)) =
        (why, of.and_then(|key| parts.sessions.get_mut(key)))
    {
        session.dropped = session.dropped.saturating_add(1);
    }
    if has_links(parts, HookPoint::MessageDropped) {
        notify_dropped(parts, why, view, of);
    }
}

#[cold]
fn notify_dropped(parts: &mut Parts, why: DropReason, view: &MessageView<'_>, of: Option<SessionKey>) {
    let session = of.and_then(|key| parts.sessions.get(key));
    let identity = session.map(|session| Rc::clone(&session.identity));
    let client = identity.as_deref().map(crate::session::Identity::view);
    let by = client.map_or(NODE, |client| client.client_id);
    notify(parts, HookPoint::MessageDropped, client, About::Dropped(*view, by, why.word()));
}

/// Notifies about a change of a retained message of a topic that this shard owns.
pub(crate) fn notify_retained(parts: &mut Parts, view: &MessageView<'_>, change: RetainedChange) {
    notify(parts, HookPoint::MessageRetained, None, About::Retained(*view, change));
}

/// Notifies about a packet that was read.
#[inline]
pub(crate) fn notify_received(parts: &mut Parts, key: ConnKey, kind: PacketType, whole: &[u8]) {
    if has_links(parts, HookPoint::PacketReceived) {
        notify_received_cold(parts, key, kind, whole);
    }
}

#[cold]
fn notify_received_cold(parts: &mut Parts, key: ConnKey, kind: PacketType, whole: &[u8]) {
    let Some(identity) = parts.connections.get(key).and_then(|conn| conn.identity.clone()) else { return };
    notify(parts, HookPoint::PacketReceived, Some(identity.view()), About::Packet(kind, whole, whole.len()));
}

/// Notifies about a queued packet of `len` bytes. `copied` of them are the last bytes copied into
/// the connection's queue; the rest is a shared payload.
#[inline]
pub(crate) fn notify_sent(parts: &mut Parts, key: ConnKey, kind: PacketType, copied: usize, len: usize) {
    if has_links(parts, HookPoint::PacketSent) {
        notify_sent_cold(parts, key, kind, copied, len);
    }
}

#[cold]
fn notify_sent_cold(parts: &mut Parts, key: ConnKey, kind: PacketType, copied: usize, len: usize) {
    let Some(conn) = parts.connections.get(key) else { return };
    let Some(identity) = conn.identity.clone() else { return };
    let point = HookPoint::PacketSent;
    let about = About::Packet(kind, conn.out.copied_tail(copied), len);
    let mut notification = Notification::new(point, Some(identity.view()), about, parts.clock.now().mono_ms);
    let mut event = notification.event(parts.setup.id, parts.clock.now().wall_ms);
    let ChainContext { chain, calls, .. } = parts.hooks.at(point);
    chain.run((point, calls), notification.scope(), &mut event, &mut notification);
}

/// Notifies one of the points named `broker.…`. The shell calls it on one shard only.
pub(crate) fn notify_broker(parts: &mut Parts, point: HookPoint, broker: BrokerView<'_>) {
    notify(parts, point, None, About::Broker(broker));
}
