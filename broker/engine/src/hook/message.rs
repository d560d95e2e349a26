//! Events about a message: publish and delivered. The accumulator is the message; what a link changes lies in a draft over
//! it, so that a message nobody changes is never copied.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::host::{EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, FLAG_DUP, FLAG_RETAIN, FLAG_SYS, Field, Slice, Status, Ticket};
use smallvec::SmallVec;

use super::chain::Fold;
use super::draft::{Disposition, Draft, Extra};
use super::section::{put, put_text, put_user, takes_out};
use super::tickets::{Before, TicketDesk};
use super::view::{ClientView, user_property};
use super::{FaultPolicy, HookPoint, Link, Refusal};
use crate::id::ShardId;
use crate::limits::Limits;
use crate::message::MessageView;
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

/// What a fold needs to know of the shard.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Its bounds.
    pub limits: &'a Limits,
    /// The time of the step.
    pub now: Now,
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
    /// What the running link has set that cannot be, and has not set to something else since.
    refused: Option<(Field, &'static str)>,
    /// What of that has undone a call of a link, for the log.
    pub refusals: Vec<Refusal>,
    /// How many of them are faults that nobody else has counted.
    pub refused_faults: u64,
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
            refused: None,
            refusals: Vec::new(),
            refused_faults: 0,
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
        let checked = match change.field {
            Field::TOPIC => self.check_topic(change.bytes),
            Field::PAYLOAD => self.check_payload(change.bytes),
            _ => return self.take(change),
        };
        if let Err(reason) = checked {
            self.refused = Some((change.field, reason));
            return Err(Status::INVALID);
        }
        // A hook may set something else instead of what was refused.
        self.refused = self.refused.filter(|(field, _)| *field != change.field);
        self.take(change)
    }

    fn check_topic(&self, bytes: &[u8]) -> Result<(), &'static str> {
        let limits = self.rules.limits;
        // Before anything looks at all of it.
        if bytes.len() > usize::from(u16::MAX) {
            return Err("the topic is longer than 65,535 bytes [MQTT-4.7.3-3]");
        }
        let name = std::str::from_utf8(bytes).map_err(|_| "the topic is not UTF-8")?;
        topic::validate_name(name).map_err(|error| match error {
            topic::TopicError::Empty => "the topic is empty [MQTT-4.7.3-1]",
            topic::TopicError::Null => "the topic contains U+0000 [MQTT-4.7.3-2]",
            topic::TopicError::TooLong => "the topic is longer than 65,535 bytes [MQTT-4.7.3-3]",
            _ => "the topic contains # or + [MQTT-4.7.0-1]",
        })?;
        if name.len() as u64 > limits.topic_bytes_max {
            return Err("the topic is longer than topic_bytes_max");
        }
        topic::check_levels(name, limits.topic_levels_max as u16)
            .map_err(|_| "the topic has more levels than topic_levels_max")
    }

    fn check_payload(&self, bytes: &[u8]) -> Result<(), &'static str> {
        if bytes.len() as u64 > self.rules.limits.packet_bytes_max {
            return Err("the payload is larger than packet_bytes_max");
        }
        if bytes.len() as u64 > self.rules.limits.payload_bytes_max {
            return Err("the payload is larger than payload_bytes_max");
        }
        Ok(())
    }

    /// Why a change could not be taken, where it is the kind that is told of.
    pub fn refusal(&self) -> Option<&'static str> {
        self.refused.map(|(_, reason)| reason)
    }

    fn take(&mut self, change: &FieldChange<'_>) -> Result<(), Status> {
        let mut next = self.current().clone();
        match change.field {
            Field::TOPIC => next.topic = Some(Bytes::copy_from_slice(change.bytes)),
            Field::PAYLOAD => next.payload = Some(Bytes::copy_from_slice(change.bytes)),
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
        let message =
            super::outgoing::message_of(message, "", ancestry, self.rules.limits).inspect_err(|_| {
                self.refused =
                    Some((Field::MESSAGE_ID, "a message it adds is none that a client may publish"))
            })?;
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

    fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    fn note_refused(&mut self) {
        self.refused_faults += 1;
    }

    fn rollback(&mut self) {
        if let (Some((_, reason)), Some(link)) = (self.refused.take(), self.running) {
            let (plugin, name) = (link.plugin, Arc::clone(&link.name));
            self.refusals.push(Refusal { plugin, link: link.identity, name, reason });
        }
        self.overlay = None;
        if let Some(desk) = &mut self.desk {
            desk.rollback();
        }
    }

    #[inline]
    fn ticket(&self) -> Option<Ticket> {
        self.desk.as_ref().and_then(|desk| desk.taken)
    }

    fn fail(&mut self, policy: FaultPolicy) {
        if policy == FaultPolicy::Deny {
            self.draft = Draft::denied();
        }
    }
}
