//! Application messages: a borrowed view within a step, and an owned message that outlives the
//! step. Used by hooks, sessions, retained store and mesh; it decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::id::{SessionKey, ShardId};
use crate::packet::QoS;

/// The session that published a message, for No Local [MQTT-3.8.3-3].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Home shard of the publisher.
    pub shard: ShardId,
    /// Its session there.
    pub session: SessionKey,
}

/// A payload in a buffer that will be reused, or in one that can be shared.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Must be copied to be stored.
    Borrowed(&'a [u8]),
    /// Can be stored by reference.
    Shared(&'a Bytes),
}

impl<'a> Payload<'a> {
    /// The bytes.
    pub fn as_slice(self) -> &'a [u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }

    /// The bytes to store; copies only what cannot be shared.
    pub fn to_bytes(self) -> Bytes {
        match self {
            Payload::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Payload::Shared(bytes) => bytes.clone(),
        }
    }
}

/// A borrowed message.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    /// Its number, unique in this run of the broker.
    pub id: u64,
    /// Valid topic name.
    pub topic: &'a str,
    /// The payload.
    pub payload: Payload<'a>,
    /// Encoded properties for subscribers, without alias and subscription identifiers.
    pub properties: &'a [u8],
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN as it was published.
    pub retain: bool,
    /// Client identifier of the publisher; empty for messages of the broker.
    pub from: &'a Arc<str>,
    /// Session of the publisher.
    pub origin: Option<Origin>,
    /// Time from which it must not be delivered, monotonic milliseconds.
    pub expires_at_ms: Option<u64>,
    /// When it was received, milliseconds since 1970.
    pub wall_ms: u64,
    /// Plugins that led to it, one bit for each; their links are skipped.
    pub ancestry: u64,
    /// The number under which the owner of its topic stored it or cleared the topic; 0 if neither
    /// happened.
    pub stored: u64,
    /// Its part in the message count of a plugin's flow.
    pub flow: Option<&'a Arc<FlowPart>>,
}

/// One message in the count of messages that a plugin published together and that are still stored.
/// The last owner, on any shard, removes it from the count.
#[derive(Debug)]
pub struct FlowPart(Arc<AtomicU64>);

impl FlowPart {
    /// Adds one to this count.
    pub fn of(count: &Arc<AtomicU64>) -> Arc<FlowPart> {
        count.fetch_add(1, Ordering::Relaxed);
        Arc::new(FlowPart(Arc::clone(count)))
    }
}

impl Drop for FlowPart {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Equal if the counts are the same object.
impl PartialEq for FlowPart {
    fn eq(&self, other: &FlowPart) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for FlowPart {}

/// An owned message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number, unique in this run of the broker.
    pub id: u64,
    /// Valid topic name.
    pub topic: Box<str>,
    /// The payload.
    pub payload: Bytes,
    /// Encoded properties for subscribers.
    pub properties: Box<[u8]>,
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN as it was published.
    pub retain: bool,
    /// Client identifier of the publisher.
    pub from: Arc<str>,
    /// Session of the publisher.
    pub origin: Option<Origin>,
    /// Time from which it must not be delivered, monotonic milliseconds.
    pub expires_at_ms: Option<u64>,
    /// When it was received, milliseconds since 1970.
    pub wall_ms: u64,
    /// Plugins that led to it, one bit for each; their links are skipped.
    pub ancestry: u64,
    /// Its part in the message count of a plugin's flow.
    pub flow: Option<Arc<FlowPart>>,
}

impl MessageView<'_> {
    /// Bytes that a copy of it would count against byte limits.
    pub fn bytes(&self) -> usize {
        size_of::<Message>() + self.topic.len() + self.payload.as_slice().len() + self.properties.len()
    }

    /// Copies what cannot be shared.
    pub fn to_message(&self) -> Message {
        Message {
            id: self.id,
            topic: self.topic.into(),
            payload: self.payload.to_bytes(),
            properties: self.properties.into(),
            qos: self.qos,
            retain: self.retain,
            from: Arc::clone(self.from),
            origin: self.origin,
            expires_at_ms: self.expires_at_ms,
            wall_ms: self.wall_ms,
            ancestry: self.ancestry,
            flow: self.flow.cloned(),
        }
    }

    /// Whether it is a message of the broker.
    pub fn is_sys(&self) -> bool {
        self.from.is_empty()
    }

    /// The rest of the message expiry interval in seconds, rounded up; `None` if it never expires
    /// [MQTT-3.3.2-6].
    pub fn expiry_left_s(&self, now_ms: u64) -> Option<u32> {
        let left_ms = self.expires_at_ms?.saturating_sub(now_ms);
        Some(left_ms.div_ceil(1000).min(u64::from(u32::MAX)) as u32)
    }

    /// Whether it has expired [MQTT-3.3.2-5].
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now_ms)
    }
}

impl Message {
    /// A borrowed view.
    pub fn view(&self) -> MessageView<'_> {
        MessageView {
            id: self.id,
            topic: &self.topic,
            payload: Payload::Shared(&self.payload),
            properties: &self.properties,
            qos: self.qos,
            retain: self.retain,
            from: &self.from,
            origin: self.origin,
            expires_at_ms: self.expires_at_ms,
            wall_ms: self.wall_ms,
            ancestry: self.ancestry,
            stored: 0,
            flow: self.flow.as_ref(),
        }
    }

    /// Bytes that it counts against byte limits.
    pub fn bytes(&self) -> usize {
        size_of::<Message>() + self.topic.len() + self.payload.len() + self.properties.len()
    }
}
