//! What links have made of a message so far: the accumulator of the points where a message passes.

use std::num::NonZeroU32;

use bytes::Bytes;

use super::PluginHandle;
use crate::message::{Message, MessageView, Payload};
use crate::packet::QoS;
use crate::reason::ReasonCode;

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
