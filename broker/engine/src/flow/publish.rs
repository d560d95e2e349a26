//! PUBLISH (MQTT 5.0 section 3.3): alias, authorization, message.publish, effect and
//! acknowledgement. A publish that can pass at once is not copied. One that must wait becomes a
//! slot and continues from there in order of arrival.

use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::authorize::RequestOutcome;
use super::hooks::Walked;
use super::{authorize, ending, hooks, notify, plugin_publish, reading, route, send, user_properties, wake};
use crate::codec::DecodeError;
use crate::counters::DropReason;
use crate::delivery::SHARED_PAYLOAD_BYTES;
use crate::flow::route::Effect;
use crate::hook::HookPoint;
use crate::hook::draft::{Disposition, Draft, Extras};
use crate::hook::suspended::Suspended;
use crate::hook::tickets::Waiter;
use crate::hook::view::Request;
use crate::id::{ConnKey, SessionKey};
use crate::message::{Message, MessageView, Origin, Payload};
use crate::packet::{Ack, Packet, PacketType, Properties, Property, Publish, QoS, push_property};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::publish::{AsSent, Authorization, OrderingLimit, PublishMetadata, Refused, Verdict};
use crate::session::{EndCause, Identity, PublishSlot, Slot, SlotBody, Source, Stage};
use crate::{codec, topic};

pub(crate) fn on_publish(
    parts: &mut Parts,
    key: ConnKey,
    publish: &Publish<'_>,
    owner: Option<&Bytes>,
) -> Result<(), DecodeError> {
    parts.counters.packets_publish_received += 1;
    let topic_buffer = resolve_alias(parts, key, publish)?;
    let topic = topic_buffer.as_deref().unwrap_or(publish.topic);
    let Some(session_key) = reading::session_of(parts, key) else { return Ok(()) };
    let Some(session) = parts.sessions.get(session_key) else { return Ok(()) };
    let identity = Rc::clone(&session.identity);
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
    let mut forwarded = parts.encoder.take_scratch();
    let properties = match codec::forwardable_properties(&publish.properties, &mut forwarded) {
        true => publish.properties.as_bytes(),
        false => &forwarded,
    };
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
        take_publish(parts, key, session_key, &identity, view, metadata);
    }
    parts.encoder.give_back_scratch(forwarded);
    Ok(())
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
    if publish.properties.is_empty() {
        return Ok(None);
    }
    if publish.properties.subscription_ids().next().is_some() {
        // [MQTT-3.3.4-6]
        return Err(DecodeError {
            reason: ReasonCode::PROTOCOL_ERROR,
            detail: "a client's PUBLISH with a subscription identifier",
        });
    }
    let Some(alias) = publish.properties.topic_alias() else { return Ok(None) };
    let invalid = |detail| DecodeError { reason: ReasonCode::TOPIC_ALIAS_INVALID, detail };
    let Some(aliases) = parts.connections.get_mut(key).and_then(|conn| conn.aliases.as_mut()) else {
        return Ok(None);
    };
    if alias > aliases.inbound_max {
        // [MQTT-3.3.2-9]
        return Err(invalid("topic alias above the Topic Alias Maximum"));
    }
    let place = usize::from(alias) - 1;
    if publish.topic.is_empty() {
        let known = aliases.inbound.get(place).cloned().flatten();
        return known.map(Some).ok_or(DecodeError {
            reason: ReasonCode::PROTOCOL_ERROR,
            detail: "topic alias that was never set",
        });
    }
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
        conclude(parts, session_key, Some(key), metadata, &verdict);
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
    view: MessageView<'_>,
    metadata: PublishMetadata,
) {
    let Some(session) = parts.sessions.get(session_key) else { return };
    let number = session.slots.next_number();
    let (alone, limit) = if session.slots.is_empty() {
        (true, OrderingLimit::default())
    } else if session.slots.only_publishes() {
        (false, session.slots.in_front(number))
    } else {
        let slot = slot_of(parts, &view, metadata, Stage::Unstarted);
        push_publish(parts, session_key, key, slot);
        return;
    };
    let at = SlotId { session: session_key, number, source: Source::Client, metadata, rounds: 0 };
    if alone && is_everybody_silent(parts, identity) && !is_reserved(parts, view.topic) {
        take_effect(parts, key, at, (&view, &view), None);
        return;
    }
    match decide(parts, identity, view, at, &limit) {
        Err(verdict) if alone => conclude(parts, session_key, Some(key), metadata, &verdict),
        Ok(Progress::Pass(mut draft)) if alone => {
            let extra = draft.extra.take();
            let changed = draft.view(view, parts.clock.now().mono_ms);
            take_effect(parts, key, at, (&view, &changed), extra);
        }
        decision => {
            let slot = slot_from(parts, decision, &view, metadata);
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

/// Whether clients may not publish to a topic because it is reserved for the server [MQTT-4.7.2-1].
#[inline]
fn is_reserved(parts: &Parts, topic: &str) -> bool {
    topic.as_bytes().first() == Some(&b'$') && !parts.setup.limits.choices.allow_dollar_topics
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
            conclude(parts, at.session, Some(key), at.metadata, &Verdict::code(code));
        }
        Effect::Waits(storage) => {
            let (message, as_sent) = (Arc::new(view.to_message()), AsSent::of_moved(sent, view.topic));
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

/// Authorization and the chain of a new publish.
pub(crate) fn decide(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: MessageView<'_>,
    at: SlotId,
    limit: &OrderingLimit,
) -> Decision {
    // A publish in front waits at client.authorize first.
    if parts.hooks.chain(HookPoint::ClientAuthorize).is_empty() && limit.authorize.is_none() {
        let answer = if parts.setup.no_match_allow || identity.superuser {
            Ok(())
        } else {
            Err(ReasonCode::NOT_AUTHORIZED)
        };
        return authorized(parts, identity, view, at, (RequestOutcome::Answered(answer), None, None), limit);
    }
    let request = authorize::new_request(parts, identity);
    let authorization = Authorization { request, after: None, first: None };
    authorize_on(parts, identity, view, at, authorization, limit)
}

/// Continues with client.authorize.
pub(crate) fn authorize_on(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: MessageView<'_>,
    at: SlotId,
    Authorization { request: ask, after, first }: Authorization,
    behind: &OrderingLimit,
) -> Decision {
    let now_ms = parts.clock.now().mono_ms;
    let changed = after.as_ref().map_or(view, |draft| draft.view(view, now_ms));
    let (topic, qos, retain) = match &first {
        Some(first) => (&*first.topic, first.qos, first.retain),
        None => (changed.topic, changed.qos, changed.retain),
    };
    let request = Request { action: at.source.action(), topic, qos, retain };
    let limit = behind.authorize.as_deref().filter(|_| after.is_none());
    let waiter = Waiter::Publish(at.session, at.number, HookPoint::ClientAuthorize);
    let at = SlotId { rounds: at.rounds.max(ask.rounds()), ..at };
    let outcome = authorize::authorize(parts, identity, request, ask, limit, waiter);
    authorized(parts, identity, view, at, (outcome, after, first), behind)
}

/// Applies the client.authorize verdict on a publish.
pub(crate) fn authorized(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: MessageView<'_>,
    at: SlotId,
    (outcome, after, first): (RequestOutcome, Option<Draft>, Option<Box<AsSent>>),
    limit: &OrderingLimit,
) -> Decision {
    let outcome = match outcome {
        // A plugin gets the code for "try again".
        RequestOutcome::Unanswered(_) if at.source.is_on_behalf() => {
            RequestOutcome::Answered(Err(ReasonCode::SERVER_UNAVAILABLE))
        }
        outcome => outcome,
    };
    match (outcome, after) {
        (RequestOutcome::Answered(Err(reason)) | RequestOutcome::Unanswered(reason), _) => {
            // A request of a plugin is no packet. It is counted where it ends.
            if matches!(at.source, Source::Client | Source::Will) {
                parts.counters.packets_publish_auth_error += 1;
            }
            Err(Verdict::code(reason))
        }
        // The request was only for authorization.
        (RequestOutcome::Answered(Ok(())), _) if matches!(at.source, Source::AuthorizationRequest(_)) => {
            Err(Verdict::code(ReasonCode::SUCCESS))
        }
        (RequestOutcome::Answered(Ok(())), after @ Some(_)) if first.is_some() => {
            // The topic as sent is allowed. Next is the topic that hooks have set.
            let request = authorize::new_request(parts, identity).after_rounds(at.rounds);
            let authorization = Authorization { request, after, first: None };
            authorize_on(parts, identity, view, at, authorization, limit)
        }
        (RequestOutcome::Answered(Ok(())), Some(draft)) => Ok(Progress::Pass(draft)),
        (RequestOutcome::Answered(Ok(())), None) => begin_walk(parts, identity, view, at, limit),
        (RequestOutcome::Waits(request), after) => {
            Ok(Progress::Authorize(Box::new(Authorization { request, after, first })))
        }
    }
}

/// Begins message.publish.
pub(crate) fn begin_walk(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: MessageView<'_>,
    at: SlotId,
    limit: &OrderingLimit,
) -> Decision {
    let chain = Suspended::new(HookPoint::MessagePublish, Draft::default(), parts.hooks.authz_epoch());
    walk(parts, identity, view, at, chain, limit)
}

/// Runs message.publish as far as possible.
pub(crate) fn walk(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: MessageView<'_>,
    at: SlotId,
    mut chain: Suspended<Draft>,
    limit: &OrderingLimit,
) -> Decision {
    if parts.hooks.chain(HookPoint::MessagePublish).is_empty() {
        return judge(parts, identity, view, at, chain.accumulator);
    }
    let waiter = Waiter::Publish(at.session, at.number, HookPoint::MessagePublish);
    let shown = hooks::Shown { view, dup: at.metadata.dup, will: at.source == Source::Will };
    let behind = limit.publish.as_deref();
    match hooks::run_publish(parts, &mut chain, identity, shown, behind, waiter) {
        Walked::Through => judge(parts, identity, view, at, chain.accumulator),
        Walked::Waits => Ok(Progress::Chain(chain)),
    }
}

/// Applies the result of message.publish.
pub(crate) fn judge(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: MessageView<'_>,
    at: SlotId,
    draft: Draft,
) -> Decision {
    let reason = match draft.reason {
        _ if draft.is_unanswered && at.source.is_on_behalf() => ReasonCode::SERVER_UNAVAILABLE,
        reason => reason.unwrap_or(ReasonCode::NOT_AUTHORIZED),
    };
    match draft.disposition {
        Disposition::Pass => {}
        Disposition::Drop => {
            notify::count_drop(parts, DropReason::Hook, &draft.view(view, parts.clock.now().mono_ms), None);
            return Err(Verdict::code(ReasonCode::SUCCESS));
        }
        Disposition::Reject => {
            return Err(Verdict { code: reason, text: draft.reason_string, disconnect: false });
        }
        Disposition::Disconnect => {
            return Err(Verdict { code: reason, text: None, disconnect: true });
        }
    }
    let moved = draft.topic_text().is_some_and(|topic| topic != view.topic);
    // A plugin's own publish needs no authorization.
    let is_clients = at.source.is_clients();
    if moved && is_clients {
        // The new topic is authorized too.
        let request = authorize::new_request(parts, identity).after_rounds(at.rounds);
        let authorization = Authorization { request, after: Some(draft), first: None };
        return authorize_on(parts, identity, view, at, authorization, &OrderingLimit::default());
    }
    // Checked after the chain, because a plugin may consume such topics, for example `$delayed/…`.
    if !moved && is_clients && is_reserved(parts, view.topic) {
        parts.counters.packets_publish_dollar_error += u64::from(at.source != Source::Behalf);
        return Err(Verdict::code(ReasonCode::NOT_AUTHORIZED));
    }
    Ok(Progress::Pass(draft))
}

/// Ends a publish: acknowledges it, or disconnects its sender. `from` is the connection it came on.
/// A later connection of the session is not disconnected but gets the reason code, since it may
/// have sent the publish again.
pub(crate) fn conclude(
    parts: &mut Parts,
    session_key: SessionKey,
    from: Option<ConnKey>,
    metadata: PublishMetadata,
    verdict: &Verdict,
) {
    if verdict.disconnect
        && let Some(conn) = parts.sessions.get(session_key).and_then(|session| session.conn)
        && Some(conn) == from
    {
        let reason = verdict.code;
        ending::end_connection(parts, conn, EndCause::ByBroker(reason), Some((reason, None)));
        return;
    }
    if verdict.code.is_error() {
        parts.counters.packets_publish_error += 1;
    }
    acknowledge(parts, session_key, metadata, verdict);
}

/// Sends PUBACK or PUBREC [MQTT-4.3.2-4] [MQTT-4.3.3-8]. In 3.x a refused message is acknowledged
/// like any other [MQTT-3.3.5-2 of 3.1.1].
fn acknowledge(parts: &mut Parts, session_key: SessionKey, metadata: PublishMetadata, verdict: &Verdict) {
    let Some(packet_id) = metadata.packet_id else { return };
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let kind = match metadata.packet_qos {
        QoS::AtMostOnce => return,
        QoS::AtLeastOnce => PacketType::PubAck,
        QoS::ExactlyOnce => PacketType::PubRec,
    };
    let v5 = session.identity.version.is_v5();
    // A PUBREC with an error ends the exchange. 3.x has no such code, so PUBREL will come.
    if kind == PacketType::PubRec && !(v5 && verdict.code.is_error()) {
        session.awaiting_rel.insert(packet_id);
    }
    let Some(conn) = session.conn else { return };
    // A plugin may have set any reason code [MQTT-3.4.2-1] [MQTT-3.5.2-1].
    let code = verdict.code.fitted(ReasonCode::refuses_publish);
    let text = verdict.text.as_deref().filter(|_| v5).and_then(|text| std::str::from_utf8(text).ok());
    if let (Some(text), Some(open)) = (text, parts.connections.get(conn).filter(|conn| conn.takes_reasons()))
    {
        let mut section = Vec::new();
        push_property(&mut section, Property::ReasonString(text));
        let ack = Ack { packet_id, reason: code, properties: Properties::from_encoded(&section) };
        let packet = if kind == PacketType::PubAck { Packet::PubAck(ack) } else { Packet::PubRec(ack) };
        // Omitted where the packet would exceed the client's Maximum Packet Size [MQTT-3.4.2-2]
        // [MQTT-3.5.2-2].
        if codec::encoded_len(&packet, open.version) <= open.packet_bytes_max as usize {
            send::send(parts, conn, &packet);
            return;
        }
    }
    send::send_ack(parts, conn, kind, packet_id, code);
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

/// How far a publish has come, or the verdict that refuses it.
pub(crate) type Decision = Result<Progress, Verdict>;

/// How far a publish has come that is not refused.
pub(crate) enum Progress {
    /// It takes effect, with these changes.
    Pass(Draft),
    /// It waits at a link of message.publish.
    Chain(Suspended<Draft>),
    /// It waits at a link of client.authorize.
    Authorize(Box<Authorization>),
}

impl Progress {
    /// The stage of a publish that waits in a slot. Once all changes are made, they are applied to
    /// `message`; if they change the topic, `as_sent` gets the original.
    pub(crate) fn stage(
        self,
        message: &mut Arc<Message>,
        as_sent: &mut Option<Box<AsSent>>,
        now_ms: u64,
    ) -> Stage {
        match self {
            Progress::Pass(mut draft) => {
                if !draft.leaves_message() {
                    let moved = draft.topic_text().and_then(|topic| AsSent::of_moved(&message.view(), topic));
                    *as_sent = as_sent.take().or(moved);
                    draft.apply(Arc::make_mut(message), now_ms);
                }
                Stage::decided(draft.extra)
            }
            Progress::Chain(chain) => Stage::Chain(chain),
            Progress::Authorize(authorization) => Stage::Authorize(authorization),
        }
    }
}

/// Identifies a publish: its source, and the slot that it has or would get.
#[derive(Clone, Copy)]
pub(crate) struct SlotId {
    pub(crate) session: SessionKey,
    pub(crate) number: u64,
    pub(crate) source: Source,
    pub(crate) metadata: PublishMetadata,
    /// How often its authorization request was restarted. The next request continues this count.
    pub(crate) rounds: u8,
}

fn slot_of(parts: &Parts, view: &MessageView<'_>, metadata: PublishMetadata, stage: Stage) -> SlotBody {
    clients_publish(parts, (Arc::new(view.to_message()), None), metadata, stage)
}

/// The slot of a client's publish that has come so far under the current rules.
fn clients_publish(
    parts: &Parts,
    (message, as_sent): (Arc<Message>, Option<Box<AsSent>>),
    metadata: PublishMetadata,
    stage: Stage,
) -> SlotBody {
    let (source, epoch) = (Source::Client, parts.hooks.authz_epoch());
    let publish = PublishSlot { epoch, as_sent, ..PublishSlot::new(message, metadata, source, stage) };
    SlotBody::Publish(Box::new(publish))
}

fn refused(metadata: PublishMetadata, verdict: Verdict) -> SlotBody {
    SlotBody::Refused(Box::new(Refused { head: metadata, verdict, behalf: None }))
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
