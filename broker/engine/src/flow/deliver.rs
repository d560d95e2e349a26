//! Delivery of a message to a session: message.delivered, window, queue, encoding. A delivery is
//! sent, queued or dropped, and never blocks the publisher.

use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::hooks::Answer;
use super::{authorize, deliver_rights, hooks, live, notify, send, subscriptions, wake};
use crate::clients::connection::{Aliases, Connection, count_sent};
use crate::counters::DropReason;
use crate::delivery::{SHARED_PAYLOAD_BYTES, Shape};
use crate::hook::HookPoint;
use crate::hook::draft::Disposition;
use crate::hook::tickets::OpenTicket;
use crate::id::{ConnKey, SessionKey};
use crate::limits::QueueFull;
use crate::message::{MessageView, Origin, Payload};
use crate::packet::{PacketType, QoS};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::route::{GroupId, SubOptions, Target};
use crate::session::delivery::{DeliveryOptions, delivery_of, lower, options_of};
use crate::session::{Delivery, LifecycleState, Phase, Session};
use crate::shared_message::{SharedMessage, shared_message};

enum Sent {
    Yes,
    /// The outbound queue is full.
    NoRoom,
    /// It exceeds the client's Maximum Packet Size.
    TooLarge,
}

/// Delivers to a plain subscriber: its matching subscriptions are one delivery with the highest QoS
/// and all identifiers [MQTT-3.3.4-2] [MQTT-3.3.4-4].
pub(crate) fn serve_target(
    parts: &mut Parts,
    target: &Target,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) {
    let me = parts.setup.id;
    let is_own = || view.origin == Some(Origin { shard: me, session: target.session });
    let mut qos = None;
    let mut retain = false;
    let mut subscription_ids = SmallVec::new();
    for sub in &target.subs {
        let options = &sub.options;
        // [MQTT-3.8.3-3]
        if options.no_local && is_own() {
            continue;
        }
        if view.stored != 0 && live::is_delivered_from_store(parts, target.session, sub.filter, view) {
            continue;
        }
        qos = qos.max(Some(options.qos));
        // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        retain |= options.retain_as_published && view.retain;
        if options.subscription_id != 0 {
            subscription_ids.push(options.subscription_id);
        }
    }
    let Some(qos) = qos else { return };
    if view.stored != 0 {
        live::note_live(parts, target.session, view);
    }
    let qos = lower(view.qos, qos);
    let manner = DeliveryOptions { qos, retain, subscription_ids, group: None, reader: 0, cached: true };
    deliver(parts, target.session, manner, view, shared);
}

/// Delivers to the picked member of a shared subscription.
pub(crate) fn serve_member(
    parts: &mut Parts,
    session: SessionKey,
    options: SubOptions,
    group: Option<GroupId>,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) {
    let mut subscription_ids = SmallVec::new();
    if options.subscription_id != 0 {
        subscription_ids.push(options.subscription_id);
    }
    let manner = DeliveryOptions {
        qos: lower(view.qos, options.qos),
        retain: options.retain_as_published && view.retain,
        subscription_ids,
        group,
        reader: 0,
        cached: true,
    };
    deliver(parts, session, manner, view, shared);
}

/// Delivers a message to a session, or drops it and counts why.
#[inline]
pub(crate) fn deliver(
    parts: &mut Parts,
    key: SessionKey,
    options: DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) {
    let Some(session) = parts.sessions.get(key) else { return };
    if session.lifecycle == LifecycleState::Ends {
        return;
    }
    if session.conn.is_none() && options.qos == QoS::AtMostOnce {
        // QoS 0 gives no guarantee to a disconnected client (section 4.1).
        return;
    }
    let recipient = Recipient::of(session, options.qos);
    let one_by_one = session.deliveries.is_some() || deliver_rights::authorizes_deliveries(parts);
    if !one_by_one && parts.hooks.chain(HookPoint::MessageDelivered).is_empty() {
        deliver_as(parts, recipient, &options, view, shared);
        return;
    }
    if one_by_one && !deliver_rights::may_deliver(parts, key, &options, view, shared) {
        return;
    }
    deliver_checked(parts, key, options, view, shared);
}

/// As `deliver`, for a message that client.authorize has allowed.
pub(crate) fn deliver_checked(
    parts: &mut Parts,
    key: SessionKey,
    mut options: DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) {
    let Some(session) = parts.sessions.get(key) else { return };
    if session.conn.is_none() && options.qos == QoS::AtMostOnce {
        // The session has ended while its delivery was authorized.
        return;
    }
    let recipient = Recipient::of(session, options.qos);
    if parts.hooks.chain(HookPoint::MessageDelivered).is_empty() {
        deliver_as(parts, recipient, &options, view, shared);
        return;
    }
    let identity = Rc::clone(&session.identity);
    let draft = hooks::run_delivered(parts, &identity, *view);
    if draft.disposition != Disposition::Pass {
        notify::count_drop(parts, DropReason::Hook, view, Some(key));
        return;
    }
    if draft.leaves_message() {
        deliver_as(parts, recipient, &options, view, shared);
        return;
    }
    options.cached = false;
    if let Some(qos) = draft.qos {
        options.qos = lower(options.qos, qos.as_u8());
    }
    let changed = draft.view(*view, parts.clock.now().mono_ms);
    deliver_as(parts, recipient, &options, &changed, &mut None);
}

/// A session that gets a delivery.
#[derive(Clone, Copy)]
struct Recipient {
    key: SessionKey,
    conn: Option<ConnKey>,
    /// Whether its window has room and nothing waits for that; not set for QoS 0.
    has_room: bool,
}

impl Recipient {
    #[inline]
    fn of(session: &Session, qos: QoS) -> Recipient {
        let has_room = qos != QoS::AtMostOnce && session.queue.is_empty() && session.inflight.has_room();
        Recipient { key: session.key, conn: session.conn, has_room }
    }
}

/// Sends or queues a delivery that nothing refuses.
#[inline]
fn deliver_as(
    parts: &mut Parts,
    Recipient { key, conn, has_room }: Recipient,
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) {
    let now_ms = parts.clock.now().mono_ms;
    if view.is_expired(now_ms) {
        notify::count_drop(parts, DropReason::Expired, view, Some(key));
        return;
    }
    if options.qos == QoS::AtMostOnce {
        match write_publish(parts, conn, options, view, None, false, shared) {
            Sent::Yes => {}
            Sent::NoRoom => notify::count_drop(parts, DropReason::QueueFull, view, Some(key)),
            // Discarded as if it had been delivered [MQTT-3.1.2-25].
            Sent::TooLarge => notify::count_drop(parts, DropReason::TooLarge, view, Some(key)),
        }
        return;
    }
    let at_once = has_room && conn.is_some_and(|conn| conn_has_room(parts, conn));
    let delivery = delivery_of(options, view, shared);
    if at_once {
        publish_now(parts, key, options, delivery, view, shared);
        return;
    }
    enqueue(parts, key, delivery, view);
}

/// Appends a delivery to a session's queue. If the queue is full, drops this delivery or the oldest
/// ones.
fn enqueue(parts: &mut Parts, key: SessionKey, delivery: Delivery, view: &MessageView<'_>) {
    let limits = std::sync::Arc::clone(&parts.setup.limits);
    let (messages_max, bytes_max) = (limits.session_queue_messages_max, limits.session_queue_bytes_max);
    let fits_alone = delivery.message.bytes() as u64 <= bytes_max;
    if limits.choices.queue_full == QueueFull::DropOldest && fits_alone {
        while let Some(session) = parts.sessions.get_mut(key)
            && !session.has_queue_room(&delivery, messages_max, bytes_max)
            && let Some(oldest) = session.dequeue()
        {
            notify::count_drop(parts, DropReason::QueueFull, &oldest.message.view(), Some(key));
        }
    }
    if let Some(session) = parts.sessions.get_mut(key)
        && !session.enqueue(delivery, messages_max, bytes_max)
    {
        notify::count_drop(parts, DropReason::QueueFull, view, Some(key));
    }
}

fn publish_now(
    parts: &mut Parts,
    key: SessionKey,
    options: &DeliveryOptions,
    delivery: Delivery,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    let (conn, packet_id) = (session.conn, session.inflight.next_packet_id());
    match write_publish(parts, conn, options, view, Some(packet_id), false, shared) {
        Sent::Yes | Sent::NoRoom => {
            if let Some(session) = parts.sessions.get_mut(key) {
                session.in_flight(packet_id, delivery);
            }
        }
        Sent::TooLarge => notify::count_drop(parts, DropReason::TooLarge, view, Some(key)),
    }
}

/// What is in front of a topic as the client of a connection sees it, bytes. A topic that is not
/// below its mount point is sent as it is, as in EMQX.
#[cold]
fn mount_bytes(conn: &Connection, topic: &str) -> usize {
    let mount = conn.identity.as_ref().and_then(|identity| identity.mount.as_ref());
    mount.map_or(0, |mount| mount.prefix_bytes(topic))
}

/// Whether a connection's outbound queue has room.
#[inline]
fn conn_has_room(parts: &Parts, conn: ConnKey) -> bool {
    let conn = parts.connections.get(conn);
    conn.is_some_and(|conn| (conn.out.len() as u64) < parts.setup.limits.outbound_bytes_max)
}

/// Puts a PUBLISH on the outbound queue of a session's connection, if it has one.
fn write_publish(
    parts: &mut Parts,
    conn: Option<ConnKey>,
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    packet_id: Option<std::num::NonZeroU16>,
    dup: bool,
    shared: &mut Option<SharedMessage>,
) -> Sent {
    let now_ms = parts.clock.now().mono_ms;
    let Some(conn_key) = conn else { return Sent::NoRoom };
    let Some(conn) = parts.connections.get_mut(conn_key) else { return Sent::NoRoom };
    // A packet with an identifier already occupies the window, so it must be sent.
    if packet_id.is_none()
        && conn.out.len() as u64 >= parts.setup.limits.outbound_bytes_max
        && !conn.may_burst(now_ms, &parts.setup.limits, parts.memory.burst_room())
    {
        return Sent::NoRoom;
    }
    if conn.out.is_empty() {
        conn.taken_ms = now_ms;
    }
    let mount_bytes = if conn.is_mounted { mount_bytes(conn, view.topic) } else { 0 };
    let topic = &view.topic[mount_bytes..];
    let alias = match conn.outbound_aliases_max {
        0 => None,
        max => alias_for(conn.aliases.as_deref(), topic, max),
    };
    let shape = Shape {
        version: conn.version,
        qos: options.qos,
        retain: options.retain,
        dup,
        subscription_ids: &options.subscription_ids,
        topic_alias: alias.map(|(alias, _)| alias),
        topic_known: alias.is_some_and(|(_, known)| known),
        mount_bytes,
    };
    let mut alias = alias;
    let mut frame = parts.encoder.frame(view, &shape, options.cached, now_ms);
    if frame.packet_len() > conn.packet_bytes_max as usize && alias.is_some_and(|(_, known)| !known) {
        // A new alias is omitted where the packet would exceed the client's Maximum Packet Size
        // [MQTT-3.1.2-25].
        alias = None;
        frame = parts.encoder.frame(view, &Shape { topic_alias: None, ..shape }, options.cached, now_ms);
    }
    if frame.packet_len() == 0 || frame.packet_len() > conn.packet_bytes_max as usize {
        return Sent::TooLarge;
    }
    conn.out.append(|buffer| frame.copy_to(buffer, packet_id));
    let (copied_bytes, sent_bytes) = (frame.copied_len(), frame.packet_len());
    let payload = view.payload.as_slice();
    if payload.len() >= SHARED_PAYLOAD_BYTES {
        let payload: Bytes = match view.payload {
            Payload::Shared(bytes) => bytes.clone(),
            Payload::Borrowed(_) => shared_message(view, shared).payload.clone(),
        };
        conn.out.append_shared(payload);
    }
    // The alias is established only when the packet that sets it is queued.
    if let Some((alias, false)) = alias {
        let empty = || Box::new(Aliases::new(parts.numbers.hasher()));
        let aliases = conn.aliases.get_or_insert_with(empty);
        aliases.bytes += topic.len();
        aliases.outbound.insert(topic.into(), alias);
    }
    conn.touch(&mut parts.out);
    parts.counters.bytes_sent += sent_bytes as u64;
    count_sent(PacketType::Publish, &mut parts.counters);
    parts.counters.messages_sent += 1;
    match options.qos {
        QoS::AtMostOnce => parts.counters.messages_qos0_sent += 1,
        QoS::AtLeastOnce => parts.counters.messages_qos1_sent += 1,
        QoS::ExactlyOnce => parts.counters.messages_qos2_sent += 1,
    }
    if conn.traced {
        let seen = MessageView { topic, ..*view };
        let text = crate::traces::describe_publish(&seen, options.qos, options.retain, dup, packet_id);
        send::trace(parts, conn_key, false, || text);
    }
    notify::notify_sent(parts, conn_key, PacketType::Publish, copied_bytes, sent_bytes);
    Sent::Yes
}

/// Sends what may be sent: first what an earlier connection left unacknowledged, with DUP and in
/// order [MQTT-4.4.0-1], then the queue, then retained messages.
pub(crate) fn pump_queue(parts: &mut Parts, key: SessionKey) {
    send_waiting(parts, key);
    let queue_max = parts.setup.limits.session_queue_messages_max;
    let drained = |session: &Session| session.in_full_group && session.queue.len() as u64 * 2 <= queue_max;
    if parts.sessions.get(key).is_some_and(drained) {
        subscriptions::end_full_groups(parts, key);
    }
}

fn send_waiting(parts: &mut Parts, key: SessionKey) {
    loop {
        let Some(conn) = parts.sessions.get(key).and_then(|session| session.conn) else { return };
        if !conn_has_room(parts, conn) {
            return;
        }
        let Some(session) = parts.sessions.get_mut(key) else { return };
        if let Some(outgoing) = session.inflight.next_resend() {
            match outgoing.phase {
                Phase::Published(delivery) => resend(parts, key, conn, outgoing.packet_id, &delivery),
                Phase::Released(_) => {
                    send::send_ack(parts, conn, PacketType::PubRel, outgoing.packet_id, ReasonCode::SUCCESS);
                }
            }
            parts.work.run().spend(1);
            if parts.work.run().is_used_up() {
                wake::wake_queue(parts, key);
                return;
            }
            continue;
        }
        if !session.inflight.has_room() {
            return;
        }
        let Some(delivery) = session.dequeue() else { return };
        send_queued(parts, key, delivery);
        parts.work.run().spend(1);
        if parts.work.run().is_used_up() {
            wake::wake_queue(parts, key);
            return;
        }
    }
}

fn resend(
    parts: &mut Parts,
    key: SessionKey,
    conn: ConnKey,
    packet_id: std::num::NonZeroU16,
    delivery: &Delivery,
) {
    let options = options_of(delivery);
    let view = delivery.message.view();
    let mut shared = Some(Rc::clone(&delivery.message));
    if let Sent::TooLarge =
        write_publish(parts, Some(conn), &options, &view, Some(packet_id), true, &mut shared)
    {
        if let Some(session) = parts.sessions.get_mut(key) {
            // This connection's client does not accept so large a packet: treated as delivered.
            let _ = session.inflight.puback(packet_id).is_err()
                && session.inflight.pubrec_failed(packet_id).is_err();
        }
        notify::count_drop(parts, DropReason::TooLarge, &view, Some(key));
    }
}

fn send_queued(parts: &mut Parts, key: SessionKey, delivery: Delivery) {
    let message = Rc::clone(&delivery.message);
    let view = message.view();
    if view.is_expired(parts.clock.now().mono_ms) {
        notify::count_drop(parts, DropReason::Expired, &view, Some(key));
        return;
    }
    let options = options_of(&delivery);
    let mut shared = Some(Rc::clone(&message));
    publish_now(parts, key, &options, delivery, &view, &mut shared);
}

/// The alias for a topic, and whether the client has it already; `None` when all `max` are taken.
fn alias_for(aliases: Option<&Aliases>, topic: &str, max: u16) -> Option<(u16, bool)> {
    let Some(aliases) = aliases else { return Some((1, false)) };
    if let Some(alias) = aliases.outbound.get(topic) {
        return Some((*alias, true));
    }
    let next = aliases.outbound.len() as u16 + 1;
    (next <= max).then_some((next, false))
}

/// Takes a deferred verdict on a delivery: sends or drops it, then continues with the next one that
/// waits.
pub(crate) fn delivery_answered(parts: &mut Parts, key: SessionKey, ticket: &OpenTicket, answer: Answer<'_>) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    let (client, ends) = (Rc::clone(&session.identity), session.lifecycle == LifecycleState::Ends);
    let Some(deliveries) = session.deliveries.as_deref_mut() else { return };
    let Some((mut request, delivery)) =
        deliveries.pending.take_if(|(request, _)| request.waits_for(ticket.number))
    else {
        return;
    };
    parts.hooks.rechecks().delivery_goes_on();
    if ends {
        // A delivery for a shared subscription goes to another member when the session is taken
        // down.
        deliveries.waiting.push_front(delivery);
        return;
    }
    deliveries.bytes -= delivery.message.bytes();
    let same_client = Rc::ptr_eq(&deliveries.client, &client);
    deliveries.belong_to(&client);
    let mut decided =
        authorize::request_answered(parts, (&client, &delivery.message.topic), &mut request, ticket, answer);
    if !same_client {
        // The session has another connection by now. The verdict was about the earlier one.
        request = authorize::new_request(parts, &client);
        decided = false;
    }
    let options = options_of(&delivery);
    let message = Rc::clone(&delivery.message);
    let view = message.view();
    let mut held = Some(Rc::clone(&message));
    let may = match decided {
        true => deliver_rights::delivery_decided(parts, key, &view, &request),
        false => deliver_rights::authorize_delivery(parts, key, request, &options, &view, &mut held),
    };
    if may {
        deliver_checked(parts, key, options, &view, &mut held);
    }
    deliver_rights::queue_for_authorization(parts, key);
    wake::wake_queue(parts, key);
    wake::wake_takeover(parts, key);
}
