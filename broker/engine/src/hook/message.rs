//! Events about a message: publish and delivered. The accumulator is the message; what a link changes lies in a draft over
//! it, so that a message nobody changes is never copied.

use std::num::NonZeroU32;

use bytes::Bytes;
use grapnel_plugin_abi::host::{EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, FLAG_DUP, FLAG_RETAIN, FLAG_SYS, Field, Slice, Status, Ticket};
use smallvec::SmallVec;

use super::chain::Fold;
use super::client::{ClientView, user_property};
use super::section::{put, put_text, put_user, takes_out};
use super::tickets::{Before, TicketDesk};
use super::{HookPoint, Link, PluginHandle};
use crate::id::ShardId;
use crate::limits::Limits;
use crate::message::{Message, MessageView, Payload};
use crate::packet::{Properties, Property, PropertyId, QoS};
use crate::reason::ReasonCode;
use crate::time::Now;
use crate::topic;

impl<'a> MessageView<'a> {
    /// One of the fields that every message has for hooks; `None` for a field that is none of a message's.
    pub(super) fn field(
        &self,
        field: Field,
        index: u32,
        now_ms: u64,
    ) -> Option<Result<FieldValue<'a>, Status>> {
        let properties = || Properties::from_encoded(self.properties);
        let number = |value: Option<u64>| value.map(FieldValue::Number).ok_or(Status::ABSENT);
        let bytes = |value: Option<&'a [u8]>| value.map(FieldValue::Bytes).ok_or(Status::ABSENT);
        Some(match field {
            Field::TOPIC => Ok(FieldValue::Bytes(self.topic.as_bytes())),
            Field::PAYLOAD => Ok(FieldValue::Bytes(self.payload.as_slice())),
            Field::QOS => number(Some(u64::from(self.qos.as_u8()))),
            Field::RETAIN => number(Some(u64::from(self.retain))),
            Field::SYS => number(Some(u64::from(self.is_sys()))),
            Field::MESSAGE_ID => number(Some(self.id)),
            Field::FROM if self.is_sys() => Err(Status::ABSENT),
            Field::FROM => Ok(FieldValue::Bytes(self.from.as_bytes())),
            Field::TIMESTAMP_MS => number(Some(self.wall_ms)),
            Field::CONTENT_TYPE => bytes(properties().content_type().map(str::as_bytes)),
            Field::RESPONSE_TOPIC => bytes(properties().response_topic().map(str::as_bytes)),
            Field::CORRELATION_DATA => bytes(properties().correlation_data()),
            Field::MESSAGE_EXPIRY_S => number(self.expiry_left_s(now_ms).map(u64::from)),
            Field::PAYLOAD_FORMAT => number(properties().payload_format().map(u64::from)),
            Field::USER_PROPERTY | Field::USER_PROPERTIES => user_property(properties(), field, index),
            _ => return None,
        })
    }
}

/// What is to become of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Disposition {
    /// Route it; deliver it.
    #[default]
    Pass,
    /// Drop it and acknowledge; veto the delivery.
    Drop,
    /// Reject it with the reason.
    Reject,
    /// Disconnect its sender with the reason.
    Disconnect,
}

/// Changes of a message; what is `None` is as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// New topic name.
    pub topic: Option<Bytes>,
    /// New payload.
    pub payload: Option<Bytes>,
    /// New QoS.
    pub qos: Option<QoS>,
    /// New RETAIN.
    pub retain: Option<bool>,
    /// New encoded properties.
    pub properties: Option<Bytes>,
    /// New message expiry interval, seconds; it is in `properties` too.
    pub expiry_s: Option<NonZeroU32>,
    /// What becomes of the message.
    pub disposition: Disposition,
    /// With which reason.
    pub reason: Option<ReasonCode>,
    /// And text.
    pub reason_string: Option<Bytes>,
    /// Messages that links have added, to be published after this one.
    pub extra: Option<Box<Vec<Extra>>>,
}

/// A message that a link has added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Whose it is.
    pub plugin: PluginHandle,
    /// The message; its ancestry names the plugin.
    pub message: Message,
}

/// What a fold needs to know of the shard.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Its bounds.
    pub limits: &'a Limits,
    /// The time of the step.
    pub now: Now,
}

impl Draft {
    /// What a fault makes of a message where it denies.
    pub fn denied() -> Draft {
        Draft {
            disposition: Disposition::Reject,
            reason: Some(ReasonCode::IMPLEMENTATION_SPECIFIC),
            ..Draft::default()
        }
    }

    /// Whether the message itself is as it was.
    pub fn leaves_message(&self) -> bool {
        self.topic.is_none()
            && self.payload.is_none()
            && self.qos.is_none()
            && self.retain.is_none()
            && self.properties.is_none()
    }

    /// The topic as text; it was checked when it was set.
    pub fn topic_text(&self) -> Option<&str> {
        self.topic.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The message with the changes.
    pub fn view<'a>(&'a self, base: MessageView<'a>, now_ms: u64) -> MessageView<'a> {
        MessageView {
            topic: self.topic_text().unwrap_or(base.topic),
            payload: self.payload.as_ref().map_or(base.payload, Payload::Shared),
            properties: self.properties.as_deref().unwrap_or(base.properties),
            qos: self.qos.unwrap_or(base.qos),
            retain: self.retain.unwrap_or(base.retain),
            expires_at_ms: self
                .expiry_s
                .map_or(base.expires_at_ms, |s| Some(now_ms + u64::from(s.get()) * 1000)),
            ..base
        }
    }

    /// Makes the changes part of an owned message, and leaves only what becomes of it.
    pub fn apply(&mut self, message: &mut Message, now_ms: u64) {
        if let Some(topic) = self.topic_text() {
            message.topic = topic.into();
        }
        self.topic = None;
        if let Some(payload) = self.payload.take() {
            message.payload = payload;
        }
        if let Some(properties) = self.properties.take() {
            message.properties = properties.as_ref().into();
        }
        message.qos = self.qos.take().unwrap_or(message.qos);
        message.retain = self.retain.take().unwrap_or(message.retain);
        if let Some(expiry_s) = self.expiry_s.take() {
            message.expires_at_ms = Some(now_ms + u64::from(expiry_s.get()) * 1000);
        }
    }
}

/// A message's event on its way along a chain.
#[derive(Debug)]
pub struct MessageFold<'a> {
    point: HookPoint,
    client: ClientView<'a>,
    base: MessageView<'a>,
    rules: Rules<'a>,
    /// The running link.
    running: Option<&'a Link>,
    /// What the links before have left; the chain's answer at the end.
    pub draft: Draft,
    overlay: Option<Draft>,
    /// What was replaced during the event: a view a hook took of it stays valid.
    replaced: SmallVec<[Bytes; 2]>,
    desk: Option<TicketDesk<'a>>,
}

impl<'a> MessageFold<'a> {
    /// An event at `point` about a message of, or for, a client; a desk lets links defer.
    pub fn new(
        point: HookPoint,
        client: ClientView<'a>,
        base: MessageView<'a>,
        draft: Draft,
        rules: Rules<'a>,
        desk: Option<TicketDesk<'a>>,
    ) -> MessageFold<'a> {
        MessageFold {
            point,
            client,
            base,
            rules,
            running: None,
            draft,
            overlay: None,
            replaced: SmallVec::new(),
            desk,
        }
    }

    /// The event that goes with it.
    pub fn event(&self, shard: ShardId, wall_ms: u64, dup: bool) -> Event {
        let mut event = self.client.event(self.point, shard, wall_ms);
        self.show(&mut event);
        if dup {
            event.flags |= FLAG_DUP;
        }
        if self.base.is_sys() {
            event.flags |= FLAG_SYS;
        }
        event
    }

    fn show(&self, event: &mut Event) {
        let view = self.draft.view(self.base, self.rules.now.mono_ms);
        event.topic = Slice::of(view.topic.as_bytes());
        event.payload = Slice::of(view.payload.as_slice());
        event.qos = view.qos.as_u8();
        event.flags = if view.retain { event.flags | FLAG_RETAIN } else { event.flags & !FLAG_RETAIN };
    }

    fn current(&self) -> &Draft {
        self.overlay.as_ref().unwrap_or(&self.draft)
    }

    fn properties(&self) -> Properties<'_> {
        Properties::from_encoded(self.current().properties.as_deref().unwrap_or(self.base.properties))
    }

    /// Takes one change into the overlay; also for changes that come with a completion.
    ///
    /// # Errors
    /// UNSUPPORTED for what cannot be changed here, INVALID for a value that no message may have.
    pub fn change(&mut self, change: &FieldChange<'_>) -> Result<(), Status> {
        let mut next = self.current().clone();
        match change.field {
            Field::TOPIC => {
                let name = super::text(change.bytes)?;
                let valid = name.len() as u64 <= self.rules.limits.topic_bytes_max
                    && topic::validate_name(name).is_ok();
                if !valid {
                    return Err(Status::INVALID);
                }
                next.topic = Some(Bytes::copy_from_slice(change.bytes));
            }
            Field::PAYLOAD => {
                if change.bytes.len() > crate::packet::PACKET_BYTES_MAX as usize / 2 {
                    return Err(Status::INVALID);
                }
                next.payload = Some(Bytes::copy_from_slice(change.bytes));
            }
            Field::QOS => {
                let qos = u8::try_from(change.number).ok().and_then(QoS::from_u8).ok_or(Status::INVALID)?;
                next.qos = Some(qos);
            }
            Field::RETAIN if self.point == HookPoint::MessagePublish => {
                next.retain = Some(change.number != 0)
            }
            Field::DISPOSITION => next.disposition = self.disposition(change.number)?,
            Field::REASON_CODE if self.point == HookPoint::MessagePublish => {
                let code = ReasonCode(u8::try_from(change.number).map_err(|_| Status::INVALID)?);
                if !code.is_defined() || !code.is_error() {
                    return Err(Status::INVALID);
                }
                next.reason = Some(code);
            }
            Field::REASON_STRING if self.point == HookPoint::MessagePublish => {
                super::text(change.bytes)?;
                next.reason_string = Some(Bytes::copy_from_slice(change.bytes));
            }
            Field::USER_PROPERTY
            | Field::CONTENT_TYPE
            | Field::RESPONSE_TOPIC
            | Field::CORRELATION_DATA
            | Field::MESSAGE_EXPIRY_S
            | Field::PAYLOAD_FORMAT => {
                let encoded = changed_properties(self.properties(), change)?;
                if change.field == Field::MESSAGE_EXPIRY_S {
                    next.expiry_s = NonZeroU32::new(u32::try_from(change.number).unwrap_or(0));
                }
                next.properties = Some(encoded);
            }
            _ => return Err(Status::UNSUPPORTED),
        }
        if let Some(before) = self.overlay.replace(next) {
            let parts = [before.topic, before.payload, before.properties, before.reason_string];
            self.replaced.extend(parts.into_iter().flatten());
        }
        Ok(())
    }

    fn disposition(&self, number: u64) -> Result<Disposition, Status> {
        match (number, self.point) {
            (0, _) => Ok(Disposition::Pass),
            (1, _) => Ok(Disposition::Drop),
            (2, HookPoint::MessagePublish) => Ok(Disposition::Reject),
            (3, HookPoint::MessagePublish) => Ok(Disposition::Disconnect),
            _ => Err(Status::INVALID),
        }
    }

    /// Keeps the overlay, for changes that came with a completion.
    pub fn keep(&mut self) {
        if let Some(next) = self.overlay.take() {
            self.replaced.extend(
                [self.draft.topic.take(), self.draft.payload.take(), self.draft.properties.take()]
                    .into_iter()
                    .flatten(),
            );
            self.draft = next;
        }
    }
}

/// The encoded properties with one changed, added or taken out.
fn changed_properties(before: Properties<'_>, change: &FieldChange<'_>) -> Result<Bytes, Status> {
    let property = match change.field {
        Field::USER_PROPERTY => return put_user(before, change),
        Field::CONTENT_TYPE => return put_text(before, change, Property::ContentType),
        Field::RESPONSE_TOPIC => {
            if !takes_out(change) && topic::validate_name(super::short_text(change.bytes)?).is_err() {
                return Err(Status::INVALID);
            }
            return put_text(before, change, Property::ResponseTopic);
        }
        Field::CORRELATION_DATA if takes_out(change) => {
            return put(before, PropertyId::CorrelationData, None, 0);
        }
        Field::CORRELATION_DATA if change.bytes.len() <= usize::from(u16::MAX) => {
            Property::CorrelationData(change.bytes)
        }
        Field::MESSAGE_EXPIRY_S => {
            let seconds = u32::try_from(change.number).ok().filter(|s| *s > 0).ok_or(Status::INVALID)?;
            Property::MessageExpiry(seconds)
        }
        Field::PAYLOAD_FORMAT if change.number <= 1 => Property::PayloadFormat(change.number as u8),
        _ => return Err(Status::INVALID),
    };
    put(before, property.id(), Some(property), 0)
}

impl EventAccess for MessageFold<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        let draft = self.current();
        let view = draft.view(self.base, self.rules.now.mono_ms);
        match field {
            Field::DISPOSITION => Ok(FieldValue::Number(draft.disposition as u64)),
            Field::REASON_CODE => {
                draft.reason.map(|reason| FieldValue::Number(u64::from(reason.0))).ok_or(Status::ABSENT)
            }
            Field::REASON_STRING => {
                draft.reason_string.as_deref().map(FieldValue::Bytes).ok_or(Status::ABSENT)
            }
            _ => view
                .field(field, index, self.rules.now.mono_ms)
                .unwrap_or_else(|| self.client.get(field, index)),
        }
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        self.change(&change)
    }

    fn add_message(&mut self, message: &PluginMessage<'_>) -> Result<(), Status> {
        let Some(link) = self.running else { return Err(Status::WRONG_MOMENT) };
        if self.point != HookPoint::MessagePublish {
            return Err(Status::UNSUPPORTED);
        }
        let added = self.current().extra.as_ref().map_or(0, |extra| extra.len());
        if added as u64 >= self.rules.limits.extra_messages_max {
            return Err(Status::FULL);
        }
        let ancestry = self.base.ancestry | link.ancestry_bit();
        // Whose it is, where it does not say, is filled in when it is published.
        let message = super::outgoing::message_of(message, "", ancestry, self.rules.limits)?;
        let extra = Extra { plugin: link.plugin, message };
        if self.overlay.is_none() {
            self.overlay = Some(self.draft.clone());
        }
        if let Some(next) = &mut self.overlay {
            next.extra.get_or_insert_default().push(extra);
        }
        Ok(())
    }

    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status> {
        let desk = self.desk.as_mut().ok_or(Status::UNSUPPORTED)?;
        desk.take(self.running.ok_or(Status::WRONG_MOMENT)?, deadline_ms)
    }
}

impl<'a> Fold<'a> for MessageFold<'a> {
    #[inline]
    fn begin(&mut self, link: &'a Link) {
        self.running = Some(link);
    }

    fn topic(&self) -> &str {
        self.draft.topic_text().unwrap_or(self.base.topic)
    }

    #[inline]
    fn commit(&mut self, event: &mut Event) -> bool {
        let Some(overlay) = &self.overlay else { return false };
        let moved = overlay.topic != self.draft.topic;
        self.keep();
        self.show(event);
        moved
    }

    fn park(&mut self) {
        if let (Some(next), Some(desk)) = (self.overlay.take(), &mut self.desk) {
            desk.keep(Before::Message(std::mem::replace(&mut self.draft, next)));
        }
    }

    fn rollback(&mut self) {
        self.overlay = None;
        if let Some(desk) = &mut self.desk {
            desk.rollback();
        }
    }

    #[inline]
    fn ticket(&self) -> Option<Ticket> {
        self.desk.as_ref().and_then(|desk| desk.taken)
    }

    fn deny(&mut self) {
        self.draft = Draft::denied();
    }
}
