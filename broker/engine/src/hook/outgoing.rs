//! A message of a plugin's, checked and made one of ours: for what a hook adds to a publish, and for what a plugin publishes of
//! its own accord.

use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::host::PluginMessage;
use grapnel_plugin_abi::raw::Status;

use crate::limits::Limits;
use crate::message::Message;
use crate::packet::{Property, QoS, push_property};
use crate::topic;

/// The message, if a client could have published it; `from` is who it comes from where it names nobody. It gets its number, and
/// its times count, when it is published.
///
/// # Errors
/// INVALID for a topic or property that no message may have, FULL for one beyond the limits of a packet.
pub fn message_of(
    message: &PluginMessage<'_>,
    from: &str,
    ancestry: u64,
    limits: &Limits,
) -> Result<Message, Status> {
    let topic = super::short_text(message.topic)?;
    if topic::validate_name(topic).is_err()
        || topic.len() as u64 > limits.topic_bytes_max
        || topic::check_levels(topic, limits.topic_levels_max as u16).is_err()
    {
        return Err(Status::INVALID);
    }
    let from = match super::short_text(message.from)? {
        "" => from,
        given => given,
    };
    let mut properties = Vec::new();
    if let Some(format) = message.payload_format {
        push_property(&mut properties, Property::PayloadFormat(format));
    }
    if message.message_expiry_s > 0 {
        push_property(&mut properties, Property::MessageExpiry(message.message_expiry_s));
    }
    if !message.content_type.is_empty() {
        push_property(&mut properties, Property::ContentType(super::short_text(message.content_type)?));
    }
    if !message.response_topic.is_empty() {
        let response = super::short_text(message.response_topic)?;
        topic::validate_name(response).map_err(|_| Status::INVALID)?;
        push_property(&mut properties, Property::ResponseTopic(response));
    }
    if !message.correlation_data.is_empty() {
        if message.correlation_data.len() > usize::from(u16::MAX) {
            return Err(Status::INVALID);
        }
        push_property(&mut properties, Property::CorrelationData(message.correlation_data));
    }
    for (key, value) in &message.user_properties {
        push_property(&mut properties, Property::User(super::short_text(key)?, super::short_text(value)?));
    }
    if message.payload.len() as u64 > limits.payload_bytes_max {
        return Err(Status::FULL);
    }
    if (topic.len() + message.payload.len() + properties.len()) as u64 > limits.packet_bytes_max {
        return Err(Status::FULL);
    }
    Ok(Message {
        // Given when it is published, like the time.
        id: 0,
        topic: topic.into(),
        payload: Bytes::copy_from_slice(message.payload),
        properties: properties.into(),
        qos: QoS::from_u8(message.qos).ok_or(Status::INVALID)?,
        retain: message.retain,
        from: Arc::from(from),
        origin: None,
        expires_at_ms: (message.message_expiry_s > 0).then(|| u64::from(message.message_expiry_s) * 1000),
        wall_ms: 0,
        ancestry,
    })
}
