//! Checks a message from a plugin and converts it to a message of the broker. Used for messages
//! that a hook adds to a publish and for those that a plugin publishes itself.

use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::host::PluginMessage;
use grapnel_plugin_abi::raw::Status;

use crate::limits::Limits;
use crate::message::Message;
use crate::packet::{Property, QoS, push_property};
use crate::topic;

/// The message, if a client could publish it; `from` is the sender if it names none. Its id and its
/// times are set when it is published.
///
/// # Errors
/// INVALID for a topic or property that no message may have, FULL for a message beyond the packet
/// size limit.
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
    if let Some(content_type) = message.content_type {
        push_property(&mut properties, Property::ContentType(super::short_text(content_type)?));
    }
    if !message.response_topic.is_empty() {
        let response = super::short_text(message.response_topic)?;
        topic::validate_name(response).map_err(|_| Status::INVALID)?;
        push_property(&mut properties, Property::ResponseTopic(response));
    }
    if let Some(data) = message.correlation_data {
        if data.len() > usize::from(u16::MAX) {
            return Err(Status::INVALID);
        }
        push_property(&mut properties, Property::CorrelationData(data));
    }
    if message.user_properties.len() as u64 > limits.user_properties_max {
        return Err(Status::FULL);
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
        // Set when it is published, like the time.
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
        flow: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> PluginMessage<'static> {
        PluginMessage {
            topic: b"a/b",
            payload: b"x",
            qos: 1,
            retain: false,
            store_only: false,
            payload_format: None,
            message_expiry_s: 0,
            flow: 0,
            content_type: None,
            response_topic: b"",
            correlation_data: None,
            from: b"",
            user_properties: Vec::new(),
        }
    }

    fn limits() -> Limits {
        Limits { topic_bytes_max: 64, topic_levels_max: 3, payload_bytes_max: 100, ..Limits::default() }
    }

    fn made(message: &PluginMessage<'_>) -> Result<Message, Status> {
        message_of(message, "plugin", 5, &limits())
    }

    #[test]
    fn a_message_of_a_plugin_is_published_with_all_its_fields() {
        let given = PluginMessage {
            retain: true,
            payload_format: Some(1),
            message_expiry_s: 7,
            content_type: Some(b"text"),
            response_topic: b"answer",
            correlation_data: Some(b"id"),
            from: b"somebody",
            user_properties: vec![(b"k", b"v")],
            ..message()
        };
        let made = made(&given).expect("it is in order");
        let mut properties = Vec::new();
        for property in [
            Property::PayloadFormat(1),
            Property::MessageExpiry(7),
            Property::ContentType("text"),
            Property::ResponseTopic("answer"),
            Property::CorrelationData(b"id"),
            Property::User("k", "v"),
        ] {
            push_property(&mut properties, property);
        }
        assert_eq!((&*made.topic, &made.payload[..], &*made.properties), ("a/b", &b"x"[..], &properties[..]));
        assert_eq!((made.qos, made.retain, &*made.from), (QoS::AtLeastOnce, true, "somebody"));
        assert_eq!((made.expires_at_ms, made.ancestry), (Some(7_000), 5));
    }

    /// An empty property is different from a missing one [MQTT-3.3.2-16, MQTT-3.3.2-20].
    #[test]
    fn an_empty_property_differs_from_a_missing_one() {
        let none = made(&message()).expect("it is in order");
        assert_eq!(&*none.properties, b"");
        let given = PluginMessage {
            payload_format: Some(0),
            content_type: Some(b""),
            correlation_data: Some(b""),
            user_properties: vec![(b"", b"")],
            ..message()
        };
        let mut properties = Vec::new();
        for property in [
            Property::PayloadFormat(0),
            Property::ContentType(""),
            Property::CorrelationData(b""),
            Property::User("", ""),
        ] {
            push_property(&mut properties, property);
        }
        assert_eq!(&*made(&given).expect("it is in order").properties, &properties[..]);
    }

    #[test]
    fn it_has_no_more_user_properties_than_a_packet_may() {
        let most = limits().user_properties_max as usize;
        let with = |count: usize| {
            made(&PluginMessage { user_properties: vec![(&b"k"[..], &b"v"[..]); count], ..message() })
                .map(|made| made.properties.len())
        };
        assert_eq!(with(most), Ok(most * 7));
        assert_eq!(with(most + 1), Err(Status::FULL));
    }

    #[test]
    fn omitted_fields_are_empty() {
        let made = made(&message()).expect("it is in order");
        assert_eq!((made.properties.len(), made.retain, made.expires_at_ms), (0, false, None));
        assert_eq!(&*made.from, "plugin", "whoever it is");
    }

    #[test]
    fn as_much_is_taken_as_the_limits_say() {
        let (topic, payload, data) = ([b't'; 65], [0; 101], [0; 65_536]);
        let of_topic = |topic| made(&PluginMessage { topic, ..message() }).map(drop);
        assert_eq!((of_topic(&topic[..64]), of_topic(&topic)), (Ok(()), Err(Status::INVALID)));
        assert_eq!((of_topic(b"a/b/c"), of_topic(b"a/b/c/d")), (Ok(()), Err(Status::INVALID)));
        for wrong in [&b""[..], b"a/+", b"a/#", b"a\0", b"\xFF"] {
            assert_eq!(of_topic(wrong), Err(Status::INVALID));
        }
        let of_payload = |payload| made(&PluginMessage { payload, ..message() }).map(drop);
        assert_eq!((of_payload(&payload[..100]), of_payload(&payload)), (Ok(()), Err(Status::FULL)));
        let correlation = |data| made(&PluginMessage { correlation_data: Some(data), ..message() }).map(drop);
        assert_eq!((correlation(&data[..65_535]), correlation(&data)), (Ok(()), Err(Status::INVALID)));
        let content = |text| made(&PluginMessage { content_type: Some(text), ..message() }).map(drop);
        let text = [b'x'; 65_536];
        assert_eq!((content(&text[..65_535]), content(&text)), (Ok(()), Err(Status::INVALID)));
        let of_qos = |qos| made(&PluginMessage { qos, ..message() }).map(drop);
        assert_eq!((of_qos(2), of_qos(3)), (Ok(()), Err(Status::INVALID)));
        let response = |response_topic| made(&PluginMessage { response_topic, ..message() }).map(drop);
        assert_eq!((response(b"a"), response(b"a/#")), (Ok(()), Err(Status::INVALID)));
    }

    #[test]
    fn topic_payload_and_properties_together_are_a_packet() {
        let given = PluginMessage { content_type: Some(b"12345"), ..message() };
        // Topic 3, payload 1, content type 8 with its identifier and length.
        for (packet_bytes_max, expected) in [(11, Err(Status::FULL)), (12, Ok(()))] {
            let limits = Limits { packet_bytes_max, ..limits() };
            assert_eq!(message_of(&given, "plugin", 0, &limits).map(drop), expected);
        }
    }
}
