//! PUBLISH (MQTT 5.0 section 3.3): alias, limits, and what becomes of it. A publish that can pass at
//! once is not copied. One that must wait becomes a slot, and `pump.rs` continues from there in order
//! of arrival. Hooks decide in `publish_decision.rs`.

use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::publish_decision::{Decision, Progress, SlotId};
use super::{plugin_publish, puback, publish_decision, reading, route, send, user_properties, wake};
use crate::clients::connection::Aliases;
use crate::codec::DecodeError;
use crate::delivery::SHARED_PAYLOAD_BYTES;
use crate::flow::route::Effect;
use crate::hook::HookPoint;
use crate::hook::draft::Extras;
use crate::id::{ConnKey, SessionKey};
use crate::message::{Message, MessageView, Origin, Payload};
use crate::packet::{PacketType, PropertyId, Publish, QoS};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::publish::{OrderingLimit, OriginalPublish, PublishMetadata, Refused, Verdict};
use crate::session::{Identity, PublishSlot, Slot, SlotBody, Source, Stage};
use crate::{codec, topic};

pub(crate) fn on_publish(
    parts: &mut Parts,
    key: ConnKey,
    publish: &Publish<'_>,
    owner: Option<&Bytes>,
) -> Result<(), DecodeError> {
    parts.counters.packets_publish_received += 1;
    let topic_buffer = if publish.properties.is_empty() { None } else { resolve_alias(parts, key, publish)? };
    let topic = topic_buffer.as_deref().unwrap_or(publish.topic);
    let Some(session_key) = reading::session_of(parts, key) else { return Ok(()) };
    let Some(session) = parts.sessions.get(session_key) else { return Ok(()) };
    let identity = Rc::clone(&session.identity);
    match &identity.mount {
        None => take(parts, (key, session_key), &identity, publish, topic, owner),
        Some(mount) => {
            let mut mounted = parts.encoder.take_topic();
            mount.put_topic(topic, &mut mounted);
            let taken = take(parts, (key, session_key), &identity, publish, &mounted, owner);
            parts.encoder.give_back_topic(mounted);
            taken
        }
    }
}

/// Takes a publish to this topic of the broker.
fn take(
    parts: &mut Parts,
    (key, session_key): (ConnKey, SessionKey),
    identity: &Rc<Identity>,
    publish: &Publish<'_>,
    topic: &str,
    owner: Option<&Bytes>,
) -> Result<(), DecodeError> {
    check_offers(parts, publish)?;
    let mut admission = Admission::New;
    if let Some(packet_id) = publish.packet_id {
        admission = admit_publish(parts, key, session_key, packet_id, publish.qos)?;
        if admission == Admission::Repeated {
            return Ok(());
        }
    }
    let metadata =
        PublishMetadata { packet_id: publish.packet_id, packet_qos: publish.qos, dup: publish.dup };
    if let Err(beyond) = check_limits(parts, publish, topic) {
        return refuse_publish(parts, key, session_key, metadata, beyond);
    }
    count_message(parts, publish.qos);
    let mut forwarded = None;
    let properties = forwarded_properties(parts, publish, &mut forwarded);
    let id = parts.numbers.message_id();
    // A large payload in a buffer of its own is stored without a copy.
    let shared = owner
        .filter(|_| publish.payload.len() >= SHARED_PAYLOAD_BYTES)
        .map(|owner| owner.slice_ref(publish.payload));
    let view = MessageView {
        id,
        topic,
        payload: shared.as_ref().map_or(Payload::Borrowed(publish.payload), Payload::Shared),
        properties,
        qos: publish.qos,
        retain: publish.retain,
        from: &identity.client_id,
        origin: Some(Origin { shard: parts.setup.id, session: session_key }),
        expires_at_ms: publish
            .properties
            .message_expiry_s()
            .map(|s| parts.clock.now().mono_ms + u64::from(s) * 1000),
        wall_ms: parts.clock.now().wall_ms,
        ancestry: 0,
        stored: 0,
        flow: None,
    };
    if admission == Admission::AwaitsRelease {
        let slot = slot_of(parts, &view, metadata, Stage::Unstarted);
        push_publish(parts, session_key, key, slot);
        wake::wake_slots(parts, session_key);
    } else {
        take_publish(parts, key, session_key, identity, &view, metadata);
    }
    if let Some(forwarded) = forwarded {
        parts.encoder.give_back_scratch(forwarded);
    }
    Ok(())
}

/// The properties that subscribers get. Those that differ from the packet's are in `forwarded`, a
/// buffer of the encoder that the caller gives back.
#[inline]
fn forwarded_properties<'a>(
    parts: &mut Parts,
    publish: &Publish<'a>,
    forwarded: &'a mut Option<Vec<u8>>,
) -> &'a [u8] {
    if publish.properties.is_empty() {
        return &[];
    }
    let buffer = forwarded.insert(parts.encoder.take_scratch());
    match codec::forwardable_properties(&publish.properties, buffer) {
        true => publish.properties.as_bytes(),
        false => buffer,
    }
}

fn count_message(parts: &mut Parts, qos: QoS) {
    parts.counters.messages_received += 1;
    match qos {
        QoS::AtMostOnce => parts.counters.messages_qos0_received += 1,
        QoS::AtLeastOnce => parts.counters.messages_qos1_received += 1,
        QoS::ExactlyOnce => parts.counters.messages_qos2_received += 1,
    }
}

/// Resolves the alias of a packet, or sets it (section 3.3.2.3.4). `None`: use the topic in the
/// packet.
fn resolve_alias(
    parts: &mut Parts,
    key: ConnKey,
    publish: &Publish<'_>,
) -> Result<Option<Rc<str>>, DecodeError> {
    if publish.properties.has(PropertyId::SubscriptionId) {
        // [MQTT-3.3.4-6]
        return Err(DecodeError {
            reason: ReasonCode::PROTOCOL_ERROR,
            detail: "a client's PUBLISH with a subscription identifier",
        });
    }
    let Some(alias) = publish.properties.topic_alias() else { return Ok(None) };
    let invalid = |detail| DecodeError { reason: ReasonCode::TOPIC_ALIAS_INVALID, detail };
    let Some(conn) = parts.connections.get_mut(key) else { return Ok(None) };
    if alias > conn.inbound_aliases_max {
        // [MQTT-3.3.2-9]
        return Err(invalid("topic alias above the Topic Alias Maximum"));
    }
    let place = usize::from(alias) - 1;
    if publish.topic.is_empty() {
        let aliases = conn.aliases.as_ref();
        let known = aliases.and_then(|aliases| aliases.inbound.get(place).cloned().flatten());
        return known.map(Some).ok_or(DecodeError {
            reason: ReasonCode::PROTOCOL_ERROR,
            detail: "topic alias that was never set",
        });
    }
    let empty = || Box::new(Aliases::new(parts.numbers.hasher()));
    let aliases = conn.aliases.get_or_insert_with(empty);
    if aliases.inbound.len() <= place {
        aliases.inbound.resize(place + 1, None);
    }
    if aliases.inbound[place].as_deref() != Some(publish.topic) {
        let before = aliases.inbound[place].as_ref().map_or(0, |topic| topic.len());
        aliases.bytes = aliases.bytes + publish.topic.len() - before;
        aliases.inbound[place] = Some(Rc::from(publish.topic));
    }
    Ok(None)
}

/// Checks a publish against the windows of its client, and whether it begins a new exchange.
fn admit_publish(
    parts: &mut Parts,
    key: ConnKey,
    session_key: SessionKey,
    packet_id: NonZeroU16,
    qos: QoS,
) -> Result<Admission, DecodeError> {
    let receive_max = parts.connections.get(key).map_or(0, |conn| u64::from(conn.receive_maximum));
    let awaiting_max = parts.setup.limits.awaiting_rel_max;
    let Some(session) = parts.sessions.get(session_key) else { return Ok(Admission::Repeated) };
    if session.slots.has_publish(packet_id) {
        // It is pending: the resend joins it, and one acknowledgement answers both.
        return Ok(Admission::Repeated);
    }
    if qos == QoS::ExactlyOnce && session.awaiting_rel.contains(&packet_id) {
        // It was taken, and PUBREC got lost [MQTT-4.3.3-10].
        send::send_ack(parts, key, PacketType::PubRec, packet_id, ReasonCode::SUCCESS);
        return Ok(Admission::Repeated);
    }
    let v5 = session.identity.version.is_v5();
    let owed = session.unacknowledged_publishes() as u64;
    // [MQTT-3.3.4-7]; a 3.x client has no such maximum.
    if v5 && owed >= receive_max {
        return Err(DecodeError {
            reason: ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
            detail: "more unacknowledged publishes than Receive Maximum",
        });
    }
    if !v5 && qos == QoS::ExactlyOnce {
        let open = (session.awaiting_rel.len() + session.slots.exactly_once()) as u64;
        if open >= awaiting_max {
            return Ok(Admission::AwaitsRelease);
        }
    }
    Ok(Admission::New)
}

/// Checks that a publish uses only what CONNACK has offered. On an error the connection ends.
fn check_offers(parts: &Parts, publish: &Publish<'_>) -> Result<(), DecodeError> {
    let choices = &parts.setup.limits.choices;
    if publish.qos > choices.maximum_qos {
        // [MQTT-3.2.2-11]
        return Err(DecodeError { reason: ReasonCode::QOS_NOT_SUPPORTED, detail: "a QoS above maximum_qos" });
    }
    if publish.retain && !choices.retain_available {
        // [MQTT-3.2.2-14]
        let detail = "a message to be retained, which retain_available forbids";
        return Err(DecodeError { reason: ReasonCode::RETAIN_NOT_SUPPORTED, detail });
    }
    Ok(())
}

/// Checks a publish against the configured limits.
fn check_limits(parts: &Parts, publish: &Publish<'_>, topic: &str) -> Result<(), DecodeError> {
    let limits = &parts.setup.limits;
    if topic.len() as u64 > limits.topic_bytes_max
        || topic::check_levels(topic, limits.topic_levels_max as u16).is_err()
    {
        return Err(DecodeError {
            reason: ReasonCode::TOPIC_NAME_INVALID,
            detail: "topic longer than topic_bytes_max or deeper than topic_levels_max",
        });
    }
    if publish.payload.len() as u64 > limits.payload_bytes_max {
        let detail = "a payload larger than payload_bytes_max";
        return Err(DecodeError { reason: ReasonCode::QUOTA_EXCEEDED, detail });
    }
    user_properties::check_user_properties(&publish.properties, limits)
}

/// Refuses a publish beyond the limits: in order where the version has a reason code for it,
/// otherwise the connection ends.
fn refuse_publish(
    parts: &mut Parts,
    key: ConnKey,
    session_key: SessionKey,
    metadata: PublishMetadata,
    beyond: DecodeError,
) -> Result<(), DecodeError> {
    let v5 = parts.connections.get(key).is_some_and(|conn| conn.version.is_v5());
    let Some(session) = parts.sessions.get(session_key).filter(|_| v5 && metadata.packet_id.is_some()) else {
        return Err(beyond);
    };
    let verdict = Verdict::code(beyond.reason);
    if session.slots.is_empty() {
        puback::conclude(parts, session_key, Some(key), metadata, &verdict);
    } else {
        push_publish(parts, session_key, key, refused(metadata, verdict));
    }
    Ok(())
}

/// Takes a valid publish. It passes at once if nothing is in front of it and nothing makes it wait.
fn take_publish(
    parts: &mut Parts,
    key: ConnKey,
    session_key: SessionKey,
    identity: &Rc<Identity>,
    view: &MessageView<'_>,
    metadata: PublishMetadata,
) {
    let Some(session) = parts.sessions.get(session_key) else { return };
    let number = session.slots.next_number();
    let (alone, limit) = if session.slots.is_empty() {
        (true, OrderingLimit::default())
    } else if session.slots.only_publishes() {
        (false, session.slots.in_front(number))
    } else {
        let slot = slot_of(parts, view, metadata, Stage::Unstarted);
        push_publish(parts, session_key, key, slot);
        return;
    };
    let at = SlotId { session: session_key, number, source: Source::Client, metadata, rounds: 0 };
    let reserved = publish_decision::is_reserved(parts, identity.seen(view.topic));
    if alone && is_everybody_silent(parts, identity) && !reserved {
        take_effect(parts, key, at, (view, view), None);
        return;
    }
    match publish_decision::decide(parts, identity, view, at, &limit) {
        Err(verdict) if alone => puback::conclude(parts, session_key, Some(key), metadata, &verdict),
        Ok(Progress::Pass(mut draft)) if alone => {
            let extra = draft.extra.take();
            let changed = draft.view(*view, parts.clock.now().mono_ms);
            take_effect(parts, key, at, (view, &changed), extra);
        }
        decision => {
            let slot = slot_from(parts, decision, view, metadata);
            push_publish(parts, session_key, key, slot);
        }
    }
}

/// Whether a publish may pass without hooks: no link of client.authorize or message.publish is
/// mounted, and the default allows it.
#[inline]
fn is_everybody_silent(parts: &Parts, identity: &Identity) -> bool {
    (parts.setup.no_match_allow || identity.superuser)
        && parts.hooks.chain(HookPoint::ClientAuthorize).is_empty()
        && parts.hooks.chain(HookPoint::MessagePublish).is_empty()
}

/// Applies the effect of a publish with nothing in front, with the changes by hooks, or puts it
/// into a slot to wait.
fn take_effect(
    parts: &mut Parts,
    key: ConnKey,
    at: SlotId,
    (sent, view): (&MessageView<'_>, &MessageView<'_>),
    extra: Extras,
) {
    let mut shared = None;
    match route::effect(parts, at.session, (at.number, at.source), view, &mut shared, None) {
        Effect::Done(code) => {
            plugin_publish::publish_extra(parts, extra);
            puback::conclude(parts, at.session, Some(key), at.metadata, &Verdict::code(code));
        }
        Effect::Waits(storage) => {
            let (message, as_sent) =
                (Arc::new(view.to_message()), OriginalPublish::of_moved(sent, view.topic));
            let stage = Stage::Decided { storage, extra };
            let slot = clients_publish(parts, (message, as_sent), at.metadata, stage);
            push_publish(parts, at.session, key, slot);
        }
    }
}

fn push_publish(parts: &mut Parts, session_key: SessionKey, key: ConnKey, body: SlotBody) {
    if let Some(session) = parts.sessions.get_mut(session_key) {
        session.slots.push(Slot::new(Some(key), body));
    }
}

/// How a publish relates to the windows of its client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// A new exchange.
    New,
    /// A resend of a publish that was taken already.
    Repeated,
    /// A new exchange beyond the limit of QoS 2 exchanges without PUBREL: it waits for a PUBREL.
    AwaitsRelease,
}

fn slot_of(parts: &Parts, view: &MessageView<'_>, metadata: PublishMetadata, stage: Stage) -> SlotBody {
    clients_publish(parts, (Arc::new(view.to_message()), None), metadata, stage)
}

/// The slot of a client's publish that has come so far under the current rules.
fn clients_publish(
    parts: &Parts,
    (message, as_sent): (Arc<Message>, Option<Box<OriginalPublish>>),
    metadata: PublishMetadata,
    stage: Stage,
) -> SlotBody {
    let (source, epoch) = (Source::Client, parts.hooks.authz_epoch());
    let publish = PublishSlot { epoch, as_sent, ..PublishSlot::new(message, metadata, source, stage) };
    SlotBody::Publish(Box::new(publish))
}

fn refused(metadata: PublishMetadata, verdict: Verdict) -> SlotBody {
    SlotBody::Refused(Box::new(Refused { metadata, verdict, behalf: None }))
}

fn slot_from(
    parts: &Parts,
    decision: Decision,
    view: &MessageView<'_>,
    metadata: PublishMetadata,
) -> SlotBody {
    match decision {
        Ok(progress) => {
            let (mut message, mut as_sent) = (Arc::new(view.to_message()), None);
            let stage = progress.stage(&mut message, &mut as_sent, parts.clock.now().mono_ms);
            clients_publish(parts, (message, as_sent), metadata, stage)
        }
        Err(verdict) => refused(metadata, verdict),
    }
}
