//! PUBLISH (MQTT 5.0 section 3.3): alias, authorisation, message.publish, effect and acknowledgement. A publish that can pass
//! at once is never copied; one that must wait becomes a slot, and goes on from there in order of arrival.

use std::num::NonZeroU16;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Shard;
use super::asking::Asked;
use super::hooks::PublishWalk;
use super::route::Effect;
use super::tell::Loss;
use crate::codec::{self, DecodeError};
use crate::delivery::SHARED_PAYLOAD_BYTES;
use crate::hook::chain::{Course, visited_until};
use crate::hook::client::{Action, Request};
use crate::hook::message::{Disposition, Draft};
use crate::hook::tickets::Waiter;
use crate::hook::{HookPoint, LinkIdentity};
use crate::id::{ConnKey, SessionKey};
use crate::message::{MessageView, Origin, Payload};
use crate::packet::{Ack, Packet, PacketType, Properties, Property, Publish, QoS, push_property};
use crate::reason::ReasonCode;
use crate::session::slots::{Ask, Behind};
use crate::session::{EndCause, Identity, PublishSlot, Slot, SlotBody, Source, Stage};
use crate::topic;

type Visited = SmallVec<[LinkIdentity; 4]>;

/// What is known of a publish apart from its message.
#[derive(Clone, Copy)]
pub(super) struct Head {
    packet_id: Option<NonZeroU16>,
    packet_qos: QoS,
    dup: bool,
}

/// The end of a publish.
pub(super) struct Verdict {
    pub(super) code: ReasonCode,
    pub(super) text: Option<Bytes>,
    pub(super) disconnect: bool,
}

impl Verdict {
    pub(super) fn code(code: ReasonCode) -> Verdict {
        Verdict { code, text: None, disconnect: false }
    }
}

impl Shard {
    pub(super) fn on_publish(
        &mut self,
        key: ConnKey,
        publish: &Publish<'_>,
        owner: Option<&Bytes>,
    ) -> Result<(), DecodeError> {
        self.counters.packets_publish_received += 1;
        let topic_buffer = self.resolve_alias(key, publish)?;
        let topic = topic_buffer.as_deref().unwrap_or(publish.topic);
        let Some(session_key) = self.session_of(key) else { return Ok(()) };
        let Some(session) = self.sessions.get(session_key) else { return Ok(()) };
        let identity = Rc::clone(&session.identity);
        if let Some(packet_id) = publish.packet_id
            && self.is_repeated(key, session_key, packet_id, publish.qos)?
        {
            return Ok(());
        }
        let head = Head { packet_id: publish.packet_id, packet_qos: publish.qos, dup: publish.dup };
        let limits = &self.setup.limits;
        if topic.len() as u64 > limits.topic_bytes_max
            || topic::check_levels(topic, limits.topic_levels_max as u16).is_err()
        {
            return self.refuse_topic(key, session_key, head);
        }
        self.count_message(publish.qos);
        let mut forwarded = std::mem::take(&mut self.scratch);
        forwarded.clear();
        let properties = match codec::forwardable_properties(&publish.properties, &mut forwarded) {
            true => publish.properties.as_bytes(),
            false => &forwarded,
        };
        let id = self.next_message_id();
        // A large payload in a buffer of its own is kept without a copy.
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
            origin: Some(Origin { shard: self.setup.id, session: session_key }),
            expires_at_ms: publish
                .properties
                .message_expiry_s()
                .map(|s| self.now.mono_ms + u64::from(s) * 1000),
            wall_ms: self.now.wall_ms,
            ancestry: 0,
        };
        self.take_publish(key, session_key, &identity, view, head);
        self.scratch = forwarded;
        Ok(())
    }

    fn count_message(&mut self, qos: QoS) {
        self.counters.messages_received += 1;
        match qos {
            QoS::AtMostOnce => self.counters.messages_qos0_received += 1,
            QoS::AtLeastOnce => self.counters.messages_qos1_received += 1,
            QoS::ExactlyOnce => self.counters.messages_qos2_received += 1,
        }
    }

    /// The topic that an alias stands for, or the alias that a topic sets (section 3.3.2.3.4). `None`: the packet's own topic.
    fn resolve_alias(&mut self, key: ConnKey, publish: &Publish<'_>) -> Result<Option<Rc<str>>, DecodeError> {
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
        let Some(aliases) = self.conns.get_mut(key).and_then(|conn| conn.aliases.as_mut()) else {
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
            aliases.inbound[place] = Some(Rc::from(publish.topic));
        }
        Ok(None)
    }

    /// Whether the packet is a resend of one that was taken already; the windows of the client are checked here too.
    fn is_repeated(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        packet_id: NonZeroU16,
        qos: QoS,
    ) -> Result<bool, DecodeError> {
        let receive_max = self.conns.get(key).map_or(0, |conn| u64::from(conn.receive_maximum));
        let awaiting_max = self.limits().awaiting_rel_max;
        let Some(session) = self.sessions.get(session_key) else { return Ok(true) };
        if session.slots.has_publish(packet_id) {
            // It is pending: the resend joins it, and one acknowledgement answers both.
            return Ok(true);
        }
        if qos == QoS::ExactlyOnce && session.awaiting_rel.contains(&packet_id) {
            // Taken, and PUBREC got lost [MQTT-4.3.3-10].
            self.send_ack(key, PacketType::PubRec, packet_id, ReasonCode::SUCCESS);
            return Ok(true);
        }
        let v5 = session.identity.version.is_v5();
        let owed = session.unacknowledged_publishes() as u64;
        // [MQTT-3.3.4-7]; a 3.x client knows no such maximum.
        if v5 && owed >= receive_max {
            return Err(DecodeError {
                reason: ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
                detail: "more unacknowledged publishes than Receive Maximum",
            });
        }
        if !v5 && qos == QoS::ExactlyOnce && session.awaiting_rel.len() as u64 >= awaiting_max {
            return Err(DecodeError {
                reason: ReasonCode::QUOTA_EXCEEDED,
                detail: "more QoS 2 publishes without PUBREL than awaiting_rel_max",
            });
        }
        Ok(false)
    }

    /// A topic beyond the limits: refused where the version can say so, otherwise the connection ends.
    fn refuse_topic(&mut self, key: ConnKey, session_key: SessionKey, head: Head) -> Result<(), DecodeError> {
        let v5 = self.conns.get(key).is_some_and(|conn| conn.version.is_v5());
        if !v5 || head.packet_id.is_none() {
            return Err(DecodeError {
                reason: ReasonCode::TOPIC_NAME_INVALID,
                detail: "topic longer than topic_bytes_max or deeper than topic_levels_max",
            });
        }
        self.counters.packets_publish_error += 1;
        self.acknowledge(session_key, head, &Verdict::code(ReasonCode::TOPIC_NAME_INVALID));
        Ok(())
    }

    /// A publish whose packet is in order. It passes at once if nothing is in front and nothing makes it wait.
    fn take_publish(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        identity: &Rc<Identity>,
        view: MessageView<'_>,
        head: Head,
    ) {
        let Some(session) = self.sessions.get(session_key) else { return };
        let number = session.slots.next_number();
        let (alone, behind) = if session.slots.is_empty() {
            (true, Behind::default())
        } else if session.slots.only_publishes() {
            (false, session.slots.in_front(number))
        } else {
            let slot = PublishSlot { stage: Stage::Unstarted, ..slot_of(&view, head) };
            self.push_publish(session_key, key, slot);
            return;
        };
        let at = Place { session: session_key, number, source: Source::Client, head };
        let mut slot = None;
        match self.decide(identity, view, at, &behind) {
            Decision::Refused(verdict) if alone => self.conclude(session_key, head, &verdict),
            Decision::Pass(mut draft) if alone => {
                let extra = draft.extra.take();
                let changed = draft.view(view, self.now.mono_ms);
                let mut held = None;
                match self.effect(session_key, number, &changed, &mut held, false) {
                    Effect::Done(code) => {
                        self.publish_extra(extra);
                        self.conclude(session_key, head, &Verdict::code(code));
                    }
                    Effect::Refused(code) => self.conclude(session_key, head, &Verdict::code(code)),
                    Effect::Waits(stage) => {
                        let draft = Draft { extra, ..Draft::default() };
                        slot = Some(PublishSlot { stage, draft, ..slot_of(&changed, head) });
                    }
                }
            }
            decision => slot = Some(slot_from(decision, &view, head, self.now.mono_ms)),
        }
        if let Some(slot) = slot {
            self.push_publish(session_key, key, slot);
        }
    }

    fn push_publish(&mut self, session_key: SessionKey, key: ConnKey, slot: PublishSlot) {
        if let Some(session) = self.sessions.get_mut(session_key) {
            let bytes = slot.message.bytes();
            session.slots.push(Slot { conn: Some(key), bytes, body: SlotBody::Publish(Box::new(slot)) });
        }
    }

    /// Authorisation and the chain, for a publish that begins.
    pub(super) fn decide(
        &mut self,
        identity: &Rc<Identity>,
        view: MessageView<'_>,
        at: Place,
        behind: &Behind,
    ) -> Decision {
        let nothing = (Visited::new(), Draft::default());
        // What waits in front waits at client.authorize first.
        if self.chains.chain(HookPoint::ClientAuthorize).is_empty() && behind.authorize.is_none() {
            let answer = if self.setup.no_match_allow || identity.superuser {
                Ok(())
            } else {
                Err(ReasonCode::NOT_AUTHORIZED)
            };
            return self.authorized(
                identity,
                view,
                at,
                (Asked::Answered(answer, true), false),
                nothing,
                behind,
            );
        }
        let ask = self.new_ask(identity);
        self.authorize_on(identity, view, at, (ask, false), nothing, behind)
    }

    /// Goes on with client.authorize; `through` says that message.publish is through and has changed the topic.
    pub(super) fn authorize_on(
        &mut self,
        identity: &Rc<Identity>,
        view: MessageView<'_>,
        at: Place,
        (ask, through): (Ask, bool),
        so_far: (Visited, Draft),
        behind: &Behind,
    ) -> Decision {
        let changed = so_far.1.view(view, self.now.mono_ms);
        let action = if at.source == Source::Will { Action::Will } else { Action::Publish };
        let request = Request { action, topic: changed.topic, qos: changed.qos, retain: changed.retain };
        let limit = behind.authorize.as_deref().filter(|_| !through);
        let waiter = Waiter::Authorize(at.session, at.number);
        let asked = self.ask_authorize(identity, request, ask, limit, waiter);
        self.authorized(identity, view, at, (asked, through), so_far, behind)
    }

    /// What the answer of client.authorize means for a publish.
    pub(super) fn authorized(
        &mut self,
        identity: &Rc<Identity>,
        view: MessageView<'_>,
        at: Place,
        (asked, through): (Asked, bool),
        (visited, draft): (Visited, Draft),
        behind: &Behind,
    ) -> Decision {
        match asked {
            Asked::Answered(Err(reason), _) => {
                self.counters.packets_publish_auth_error += 1;
                Decision::Refused(Verdict::code(reason))
            }
            Asked::Answered(Ok(()), _) if through => Decision::Pass(draft),
            Asked::Answered(Ok(()), _) => {
                self.walk(identity, view, at, draft, (&visited, behind.publish.as_deref()))
            }
            Asked::Deferred(ticket, ask) => {
                Decision::Asks(Stage::Authorizing(ticket), Box::new((ask, through)), visited, draft)
            }
            Asked::Blocked(ask) => Decision::Asks(Stage::Queueing, Box::new((ask, through)), visited, draft),
        }
    }

    /// Goes along the publish chain as far as it can.
    pub(super) fn walk(
        &mut self,
        identity: &Rc<Identity>,
        view: MessageView<'_>,
        at: Place,
        mut draft: Draft,
        (visited, behind): (&[LinkIdentity], Option<&[LinkIdentity]>),
    ) -> Decision {
        if self.chains.chain(HookPoint::MessagePublish).is_empty() {
            return self.judge(identity, view, at, draft, visited);
        }
        let waiter = Waiter::Publish(at.session, at.number);
        let course = Course { visited, behind, ..Course::of_message(view.ancestry) };
        match self.run_publish(identity, view, &mut draft, course, waiter, at.head.dup) {
            PublishWalk::Decided => self.judge(identity, view, at, draft, visited),
            PublishWalk::Deferred(place, ticket) => {
                Decision::Waits(Stage::Deferred(ticket), self.visited(visited, place + 1), draft)
            }
            PublishWalk::Blocked(place) => {
                Decision::Waits(Stage::Blocked, self.visited(visited, place), draft)
            }
        }
    }

    fn visited(&self, before: &[LinkIdentity], until: usize) -> Visited {
        let mut visited: Visited = before.into();
        for link in visited_until(self.chains.chain(HookPoint::MessagePublish), until) {
            if !visited.contains(&link) {
                visited.push(link);
            }
        }
        visited
    }

    /// What the chain's answer means.
    pub(super) fn judge(
        &mut self,
        identity: &Rc<Identity>,
        view: MessageView<'_>,
        at: Place,
        draft: Draft,
        visited: &[LinkIdentity],
    ) -> Decision {
        let reason = draft.reason.unwrap_or(ReasonCode::NOT_AUTHORIZED);
        match draft.disposition {
            Disposition::Pass => {}
            Disposition::Drop => {
                self.count_drop(Loss::Hook, &draft.view(view, self.now.mono_ms), None);
                return Decision::Refused(Verdict::code(ReasonCode::SUCCESS));
            }
            Disposition::Reject => {
                return Decision::Refused(Verdict {
                    code: reason,
                    text: draft.reason_string,
                    disconnect: false,
                });
            }
            Disposition::Disconnect => {
                return Decision::Refused(Verdict { code: reason, text: None, disconnect: true });
            }
        }
        let moved = draft.topic_text().is_some_and(|topic| topic != view.topic);
        if moved && at.source != Source::Plugin {
            // A new topic is a new question.
            let ask = (self.new_ask(identity), true);
            return self.authorize_on(identity, view, at, ask, (visited.into(), draft), &Behind::default());
        }
        Decision::Pass(draft)
    }

    /// The publish has its end: it is acknowledged, or its sender disconnected.
    pub(super) fn conclude(&mut self, session_key: SessionKey, head: Head, verdict: &Verdict) {
        if verdict.disconnect {
            if let Some(conn) = self.sessions.get(session_key).and_then(|session| session.conn) {
                let reason = verdict.code;
                self.end_connection(conn, EndCause::ByBroker(reason), Some((reason, None)));
            }
            return;
        }
        if verdict.code.is_error() {
            self.counters.packets_publish_error += 1;
        }
        self.acknowledge(session_key, head, verdict);
    }

    /// PUBACK or PUBREC [MQTT-4.3.2-4] [MQTT-4.3.3-8]. In 3.x a refused message is acknowledged like any other
    /// [MQTT-3.3.5-2 of 3.1.1].
    fn acknowledge(&mut self, session_key: SessionKey, head: Head, verdict: &Verdict) {
        let Some(packet_id) = head.packet_id else { return };
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let kind = match head.packet_qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => PacketType::PubAck,
            QoS::ExactlyOnce => PacketType::PubRec,
        };
        let v5 = session.identity.version.is_v5();
        // After a refusing PUBREC the exchange is over; 3.x cannot refuse, so PUBREL will come.
        if kind == PacketType::PubRec && !(v5 && verdict.code.is_error()) {
            session.awaiting_rel.push(packet_id);
        }
        let Some(conn) = session.conn else { return };
        // A plugin may have named any [MQTT-3.4.2-1] [MQTT-3.5.2-1].
        let code = verdict.code.fitted(ReasonCode::refuses_publish);
        let problem_info = self.conns.get(conn).is_some_and(|conn| conn.problem_info);
        match &verdict.text {
            Some(text) if v5 && problem_info => {
                let mut section = Vec::new();
                push_property(&mut section, Property::ReasonString(std::str::from_utf8(text).unwrap_or("")));
                let properties = Properties::from_encoded(&section);
                let ack = Ack { packet_id, reason: code, properties };
                let packet =
                    if kind == PacketType::PubAck { Packet::PubAck(ack) } else { Packet::PubRec(ack) };
                self.send(conn, &packet);
            }
            _ => self.send_ack(conn, kind, packet_id, code),
        }
    }
}

/// How far a publish came.
pub(super) enum Decision {
    /// It takes effect, with these changes.
    Pass(Draft),
    /// It has no effect.
    Refused(Verdict),
    /// It waits at a link of message.publish.
    Waits(Stage, Visited, Draft),
    /// It waits at a link of client.authorize.
    Asks(Stage, Box<(Ask, bool)>, Visited, Draft),
}

/// Which publish is meant: the slot it is in, or would be, and where it comes from.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) session: SessionKey,
    pub(super) number: u64,
    pub(super) source: Source,
    pub(super) head: Head,
}

impl PublishSlot {
    pub(super) fn head(&self) -> Head {
        Head { packet_id: self.packet_id, packet_qos: self.packet_qos, dup: self.dup }
    }
}

fn slot_of(view: &MessageView<'_>, head: Head) -> PublishSlot {
    PublishSlot {
        message: view.to_message(),
        packet_id: head.packet_id,
        packet_qos: head.packet_qos,
        dup: head.dup,
        source: Source::Client,
        stage: Stage::Decided,
        visited: SmallVec::new(),
        ask: None,
        draft: Draft::default(),
        refusal: None,
    }
}

fn slot_from(decision: Decision, view: &MessageView<'_>, head: Head, now_ms: u64) -> PublishSlot {
    let mut slot = slot_of(view, head);
    match decision {
        Decision::Pass(mut draft) => {
            draft.apply(&mut slot.message, now_ms);
            slot.draft.extra = draft.extra;
        }
        Decision::Refused(verdict) => {
            slot.draft.disposition =
                if verdict.disconnect { Disposition::Disconnect } else { Disposition::Reject };
            slot.draft.reason_string = verdict.text;
            slot.refusal = Some(verdict.code);
        }
        Decision::Waits(stage, visited, draft) => {
            slot.stage = stage;
            slot.visited = visited;
            slot.draft = draft;
        }
        Decision::Asks(stage, ask, visited, draft) => {
            slot.stage = stage;
            slot.ask = Some(ask);
            slot.visited = visited;
            slot.draft = draft;
        }
    }
    slot
}
