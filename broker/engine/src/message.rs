//! Application messages: a borrowed view on the way through the flows, an owned one for whatever outlives the step.
//! Used by hooks, sessions, retained store and mesh; decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::id::{SessionKey, ShardId};
use crate::packet::QoS;

/// Which session a message came from, for No Local [MQTT-3.8.3-3].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Home shard of the publisher.
    pub shard: ShardId,
    /// Its session there.
    pub session: SessionKey,
}

/// A payload in a buffer that is about to be reused, or in one that can be shared.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Must be copied to be kept.
    Borrowed(&'a [u8]),
    /// Can be kept by reference.
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

    /// The bytes to keep; copies only what cannot be shared.
    pub fn to_bytes(self) -> Bytes {
        match self {
            Payload::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Payload::Shared(bytes) => bytes.clone(),
        }
    }
}

/// A message in passing.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    /// Its number; no other message of this run of the broker has it.
    pub id: u64,
    /// Valid topic name.
    pub topic: &'a str,
    /// The payload.
    pub payload: Payload<'a>,
    /// Encoded properties that go on to subscribers (no alias, no subscription identifiers).
    pub properties: &'a [u8],
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN as it was published.
    pub retain: bool,
    /// Client identifier of the publisher; empty where the broker is.
    pub from: &'a Arc<str>,
    /// Session of the publisher.
    pub origin: Option<Origin>,
    /// Monotonic milliseconds from which on it must not be delivered any more.
    pub expires_at_ms: Option<u64>,
    /// When it came in, milliseconds since 1970.
    pub wall_ms: u64,
    /// Plugins that led to it, a bit for each: they do not see it.
    pub ancestry: u64,
    /// The number under which the owner of its topic has stored it, or has cleared the topic; 0 where neither has happened.
    pub stored: u64,
    /// Its part in the count of a flow of a plugin's.
    pub flow: Option<&'a Arc<FlowPart>>,
}

/// One message in the count of those that a plugin has published together and that are still held: whoever lets it go last takes it
/// out of the count, on whatever shard.
#[derive(Debug)]
pub struct FlowPart(Arc<AtomicU64>);

impl FlowPart {
    /// One more in this count.
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

/// The same count.
impl PartialEq for FlowPart {
    fn eq(&self, other: &FlowPart) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for FlowPart {}

/// A message that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number; no other message of this run of the broker has it.
    pub id: u64,
    /// Valid topic name.
    pub topic: Box<str>,
    /// The payload.
    pub payload: Bytes,
    /// Encoded properties that go on to subscribers.
    pub properties: Box<[u8]>,
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN as it was published.
    pub retain: bool,
    /// Client identifier of the publisher.
    pub from: Arc<str>,
    /// Session of the publisher.
    pub origin: Option<Origin>,
    /// Monotonic milliseconds from which on it must not be delivered any more.
    pub expires_at_ms: Option<u64>,
    /// When it came in, milliseconds since 1970.
    pub wall_ms: u64,
    /// Plugins that led to it, a bit for each: they do not see it.
    pub ancestry: u64,
    /// Its part in the count of a flow of a plugin's.
    pub flow: Option<Arc<FlowPart>>,
}

impl MessageView<'_> {
    /// What a copy of it would count against byte limits.
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

    /// Whether it is the broker's own.
    pub fn is_sys(&self) -> bool {
        self.from.is_empty()
    }

    /// Seconds of the message expiry interval that are left, rounded up; `None` where it never expires [MQTT-3.3.2-6].
    pub fn expiry_left_s(&self, now_ms: u64) -> Option<u32> {
        let left_ms = self.expires_at_ms?.saturating_sub(now_ms);
        Some(left_ms.div_ceil(1000).min(u64::from(u32::MAX)) as u32)
    }

    /// Whether its time has run out [MQTT-3.3.2-5].
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now_ms)
    }
}

impl Message {
    /// The message in passing.
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

    /// What it counts against byte limits.
    pub fn bytes(&self) -> usize {
        size_of::<Message>() + self.topic.len() + self.payload.len() + self.properties.len()
    }
}
