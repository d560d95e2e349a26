//! The changes of links to a message so far: the accumulator of the hook points for messages, and
//! the checks of a change.

use std::num::NonZeroU32;

use bytes::Bytes;
use grapnel_plugin_abi::host::FieldChange;
use grapnel_plugin_abi::raw::{Field, Status};

use super::section::{Replaced, Section, takes_out};
use super::{CannotTake, FaultPolicy, HookPoint, PluginHandle};
use crate::limits::Limits;
use crate::message::{Message, MessageView, Payload};
use crate::packet::{Property, PropertyId, QoS};
use crate::reason::ReasonCode;
use crate::topic;

/// What happens to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Disposition {
    /// Route it; deliver it.
    #[default]
    Pass,
    /// Drop it and acknowledge it; at a delivery, do not deliver it.
    Drop,
    /// Reject it with the reason.
    Reject,
    /// Disconnect its sender with the reason.
    Disconnect,
}

/// Changes of a message; `None` means unchanged.
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
    /// New properties.
    pub properties: Option<Section>,
    /// New message expiry interval, seconds; also in `properties`.
    pub expiry_s: Option<NonZeroU32>,
    /// What happens to the message.
    pub disposition: Disposition,
    /// Reason code of that.
    pub reason: Option<ReasonCode>,
    /// Reason string of that.
    pub reason_string: Option<Bytes>,
    /// Whether it is refused because a link gave no answer.
    pub is_unanswered: bool,
    /// Messages that links have added; they are published after this one.
    pub extra: Extras,
}

/// Messages that links have added; boxed, so that a draft without any is small.
pub type Extras = Option<Box<Vec<Extra>>>;

/// A message that a link has added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// The plugin that added it.
    pub plugin: PluginHandle,
    /// The message; its ancestry names the plugin.
    pub message: Message,
}

/// Bytes of messages that links have added.
pub fn extra_bytes(extra: &Extras) -> usize {
    let messages = extra.iter().flat_map(|extra| extra.iter());
    messages.map(|extra| size_of::<Extra>() - size_of::<Message>() + extra.message.bytes()).sum()
}

impl Draft {
    /// The draft after a fault whose policy is to deny.
    pub fn denied() -> Draft {
        Draft {
            disposition: Disposition::Reject,
            reason: Some(ReasonCode::IMPLEMENTATION_SPECIFIC),
            is_unanswered: true,
            ..Draft::default()
        }
    }

    /// Bytes of the changes.
    pub fn bytes(&self) -> usize {
        let parts = [&self.topic, &self.payload, &self.reason_string];
        let properties = self.properties.as_ref().map_or(0, Section::len);
        parts.into_iter().flatten().map(Bytes::len).sum::<usize>() + properties + extra_bytes(&self.extra)
    }

    /// A link gave no answer. If its policy is to deny, the message is refused.
    pub fn fail(&mut self, policy: FaultPolicy) {
        if policy == FaultPolicy::Deny {
            *self = Draft::denied();
        }
    }

    /// Whether the message itself is unchanged.
    pub fn leaves_message(&self) -> bool {
        self.topic.is_none()
            && self.payload.is_none()
            && self.qos.is_none()
            && self.retain.is_none()
            && self.properties.is_none()
    }

    /// The topic as text; it was checked when it was set.
    #[inline]
    pub fn topic_text(&self) -> Option<&str> {
        self.topic.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The message with the changes.
    pub fn view<'a>(&'a self, base: MessageView<'a>, now_ms: u64) -> MessageView<'a> {
        let properties = self.properties.as_ref().map_or(base.properties, Section::as_bytes);
        MessageView { properties, ..self.view_beside(base, now_ms) }
    }

    /// The message with the changes, except for its properties.
    pub(super) fn view_beside<'a>(&'a self, base: MessageView<'a>, now_ms: u64) -> MessageView<'a> {
        MessageView {
            topic: self.topic_text().unwrap_or(base.topic),
            payload: self.payload.as_ref().map_or(base.payload, Payload::Shared),
            qos: self.qos.unwrap_or(base.qos),
            retain: self.retain.unwrap_or(base.retain),
            expires_at_ms: self
                .expiry_s
                .map_or(base.expires_at_ms, |s| Some(now_ms + u64::from(s.get()) * 1000)),
            ..base
        }
    }

    /// Applies the changes to an owned message. Only the disposition stays in the draft.
    pub fn apply(&mut self, message: &mut Message, now_ms: u64) {
        if let Some(topic) = self.topic_text() {
            message.topic = topic.into();
        }
        self.topic = None;
        if let Some(payload) = self.payload.take() {
            message.payload = payload;
        }
        if let Some(properties) = self.properties.take() {
            message.properties = properties.as_bytes().into();
        }
        message.qos = self.qos.take().unwrap_or(message.qos);
        message.retain = self.retain.take().unwrap_or(message.retain);
        if let Some(expiry_s) = self.expiry_s.take() {
            message.expires_at_ms = Some(now_ms + u64::from(expiry_s.get()) * 1000);
        }
    }
}

/// What is needed to check a change of a message.
#[derive(Clone, Copy, Debug)]
pub struct DraftRules<'a> {
    /// The limits of the shard.
    pub limits: &'a Limits,
    /// The encoded properties of the message when its event began.
    pub properties: &'a [u8],
}

impl Draft {
    /// Applies one change, or nothing. Returns the replaced value, for views of it.
    ///
    /// # Errors
    /// UNSUPPORTED for a field that cannot be changed at this point, INVALID for a value that no
    /// message may have.
    pub(super) fn change(
        &mut self,
        point: HookPoint,
        change: &FieldChange<'_>,
        rules: DraftRules<'_>,
    ) -> Result<Replaced, CannotTake> {
        let publish = point == HookPoint::MessagePublish;
        match change.field {
            Field::TOPIC => {
                check_topic(change.bytes, rules.limits)?;
                return Ok([self.topic.replace(Bytes::copy_from_slice(change.bytes)), None]);
            }
            Field::PAYLOAD => {
                check_payload(change.bytes, rules.limits)?;
                return Ok([self.payload.replace(Bytes::copy_from_slice(change.bytes)), None]);
            }
            Field::QOS => {
                let qos = u8::try_from(change.number).ok().and_then(QoS::from_u8).ok_or(Status::INVALID)?;
                self.qos = Some(qos);
            }
            Field::RETAIN if publish => self.retain = Some(change.number != 0),
            Field::DISPOSITION => self.disposition = disposition(change.number, publish)?,
            Field::REASON_CODE if publish => {
                let code = ReasonCode(u8::try_from(change.number).map_err(|_| Status::INVALID)?);
                if !code.is_defined() || !code.is_error() {
                    return Err(Status::INVALID.into());
                }
                self.reason = Some(code);
            }
            Field::REASON_STRING if publish => {
                super::text(change.bytes)?;
                return Ok([self.reason_string.replace(Bytes::copy_from_slice(change.bytes)), None]);
            }
            Field::USER_PROPERTY
            | Field::CONTENT_TYPE
            | Field::RESPONSE_TOPIC
            | Field::CORRELATION_DATA
            | Field::MESSAGE_EXPIRY_S
            | Field::PAYLOAD_FORMAT => {
                let as_it_came = || Section::of(Bytes::copy_from_slice(rules.properties));
                let mut first = self.properties.is_none().then(as_it_came);
                let section = self.properties.as_mut().or(first.as_mut()).ok_or(Status::UNSUPPORTED)?;
                let before =
                    change_section(section, change, rules.limits).map_err(|status| match status {
                        Status::FULL => TOO_MUCH,
                        status => status.into(),
                    })?;
                if change.field == Field::MESSAGE_EXPIRY_S {
                    self.expiry_s = NonZeroU32::new(u32::try_from(change.number).unwrap_or(0));
                }
                if first.is_some() {
                    self.properties = first;
                }
                return Ok(before);
            }
            _ => return Err(Status::UNSUPPORTED.into()),
        }
        Ok([None, None])
    }
}

const TOO_MUCH: CannotTake = CannotTake {
    status: Status::FULL,
    reason: Some("the properties are more than user_properties_max, or longer than 1 MiB"),
};

fn check_topic(bytes: &[u8], limits: &Limits) -> Result<(), CannotTake> {
    // Checked first, because the other checks read all bytes.
    if bytes.len() > usize::from(u16::MAX) {
        return Err(CannotTake::because("the topic is longer than 65,535 bytes [MQTT-4.7.3-3]"));
    }
    let name = std::str::from_utf8(bytes).map_err(|_| CannotTake::because("the topic is not UTF-8"))?;
    topic::validate_name(name).map_err(|error| {
        CannotTake::because(match error {
            topic::TopicError::Empty => "the topic is empty [MQTT-4.7.3-1]",
            topic::TopicError::Null => "the topic contains U+0000 [MQTT-4.7.3-2]",
            topic::TopicError::TooLong => "the topic is longer than 65,535 bytes [MQTT-4.7.3-3]",
            _ => "the topic contains # or + [MQTT-4.7.0-1]",
        })
    })?;
    if name.len() as u64 > limits.topic_bytes_max {
        return Err(CannotTake::because("the topic is longer than topic_bytes_max"));
    }
    topic::check_levels(name, limits.topic_levels_max as u16)
        .map_err(|_| CannotTake::because("the topic has more levels than topic_levels_max"))
}

fn check_payload(bytes: &[u8], limits: &Limits) -> Result<(), CannotTake> {
    if bytes.len() as u64 > limits.packet_bytes_max {
        return Err(CannotTake::because("the payload is larger than packet_bytes_max"));
    }
    if bytes.len() as u64 > limits.payload_bytes_max {
        return Err(CannotTake::because("the payload is larger than payload_bytes_max"));
    }
    Ok(())
}

fn disposition(number: u64, publish: bool) -> Result<Disposition, Status> {
    match number {
        0 => Ok(Disposition::Pass),
        1 => Ok(Disposition::Drop),
        2 if publish => Ok(Disposition::Reject),
        3 if publish => Ok(Disposition::Disconnect),
        _ => Err(Status::INVALID),
    }
}

/// Changes, adds or removes a property. Returns the replaced value, for views of it.
fn change_section(
    section: &mut Section,
    change: &FieldChange<'_>,
    limits: &Limits,
) -> Result<Replaced, Status> {
    let property = match change.field {
        Field::USER_PROPERTY => return section.put_user(change, limits.user_properties_max as usize),
        Field::CONTENT_TYPE => return section.put_text(change, Property::ContentType),
        Field::RESPONSE_TOPIC => {
            if !takes_out(change) && topic::validate_name(super::short_text(change.bytes)?).is_err() {
                return Err(Status::INVALID);
            }
            return section.put_text(change, Property::ResponseTopic);
        }
        Field::CORRELATION_DATA if takes_out(change) => {
            return section.put(PropertyId::CorrelationData, None);
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
    section.put(property.id(), Some(property))
}
