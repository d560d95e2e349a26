//! A message that a plugin publishes of its own, or adds to one that comes in.

use super::weigh::Weigh;
use crate::host::{FetchedWriter, FieldValue};
use crate::raw::{Field, NewMessage, Pair, Slice};

/// A message to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    store_only: bool,
    payload_format: Option<u8>,
    message_expiry_s: u32,
    flow: u32,
    content_type: String,
    response_topic: String,
    correlation_data: Vec<u8>,
    from: String,
    user_properties: Vec<(String, String)>,
}

impl Outgoing {
    /// A message of QoS 0 that is not retained. Topic and properties are checked when it is published.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Outgoing {
        Outgoing { topic: topic.into(), payload: payload.into(), ..Outgoing::default() }
    }

    /// With this quality of service, 0 to 2.
    #[must_use]
    pub fn qos(self, qos: u8) -> Outgoing {
        Outgoing { qos, ..self }
    }

    /// Retained, or not.
    #[must_use]
    pub fn retain(self, retain: bool) -> Outgoing {
        Outgoing { retain, ..self }
    }

    /// Only stored as the retained message of its topic, or with an empty payload only cleared: nobody who is subscribed gets it.
    #[must_use]
    pub fn store_only(self) -> Outgoing {
        Outgoing { retain: true, store_only: true, ..self }
    }

    /// With a payload format indicator: 0 bytes, 1 text.
    #[must_use]
    pub fn payload_format(self, format: u8) -> Outgoing {
        Outgoing { payload_format: Some(format), ..self }
    }

    /// With a message expiry interval, seconds; 0 for none.
    #[must_use]
    pub fn message_expiry_s(self, seconds: u32) -> Outgoing {
        Outgoing { message_expiry_s: seconds, ..self }
    }

    /// Counted in a flow of this number, which the plugin chooses: [`Host::in_flight`](crate::Host::in_flight) says how many of
    /// them the broker still holds. 0 for none.
    #[must_use]
    pub fn flow(self, flow: u32) -> Outgoing {
        Outgoing { flow, ..self }
    }

    /// With a content type.
    #[must_use]
    pub fn content_type(self, content_type: impl Into<String>) -> Outgoing {
        Outgoing { content_type: content_type.into(), ..self }
    }

    /// With a response topic.
    #[must_use]
    pub fn response_topic(self, topic: impl Into<String>) -> Outgoing {
        Outgoing { response_topic: topic.into(), ..self }
    }

    /// With correlation data.
    #[must_use]
    pub fn correlation_data(self, data: impl Into<Vec<u8>>) -> Outgoing {
        Outgoing { correlation_data: data.into(), ..self }
    }

    /// Said to come from this client; otherwise it comes from the plugin.
    #[must_use]
    pub fn from_client(self, client_id: impl Into<String>) -> Outgoing {
        Outgoing { from: client_id.into(), ..self }
    }

    /// With one more user property.
    #[must_use]
    pub fn user_property(mut self, key: impl Into<String>, value: impl Into<String>) -> Outgoing {
        self.user_properties.push((key.into(), value.into()));
        self
    }

    /// Writes it into a page of retained messages, for tests of plugins.
    pub(crate) fn write_to_page(&self, page: &mut FetchedWriter) {
        // All that a message has by name, so that what is new is not forgotten here.
        let Outgoing {
            topic,
            payload,
            qos,
            retain: _,
            store_only: _,
            payload_format,
            message_expiry_s,
            flow: _,
            content_type,
            response_topic,
            correlation_data,
            from,
            user_properties,
        } = self;
        page.begin_message();
        page.field(Field::QOS, FieldValue::Number(u64::from(*qos)));
        page.field(Field::TOPIC, FieldValue::Bytes(topic.as_bytes()));
        page.field(Field::PAYLOAD, FieldValue::Bytes(payload));
        for (field, bytes) in [
            (Field::FROM, from.as_bytes()),
            (Field::CONTENT_TYPE, content_type.as_bytes()),
            (Field::RESPONSE_TOPIC, response_topic.as_bytes()),
            (Field::CORRELATION_DATA, correlation_data),
        ] {
            if !bytes.is_empty() {
                page.field(field, FieldValue::Bytes(bytes));
            }
        }
        if *message_expiry_s > 0 {
            page.field(Field::MESSAGE_EXPIRY_S, FieldValue::Number(u64::from(*message_expiry_s)));
        }
        if let Some(format) = payload_format {
            page.field(Field::PAYLOAD_FORMAT, FieldValue::Number(u64::from(*format)));
        }
        for (key, value) in user_properties {
            page.field(Field::USER_PROPERTY, FieldValue::Pair(key.as_bytes(), value.as_bytes()));
        }
        page.end_message();
    }

    /// The table of the ABI, for one call.
    pub(super) fn with_table<R>(&self, call: impl FnOnce(*const NewMessage) -> R) -> R {
        let pairs: Vec<Pair> = self
            .user_properties
            .iter()
            .map(|(key, value)| Pair { key: Slice::of(key.as_bytes()), value: Slice::of(value.as_bytes()) })
            .collect();
        let table = NewMessage {
            size: size_of::<NewMessage>() as u32,
            qos: self.qos,
            retain: u8::from(self.retain),
            payload_format: self.payload_format.unwrap_or(255),
            store_only: u8::from(self.store_only),
            message_expiry_s: self.message_expiry_s,
            flow: self.flow,
            topic: Slice::of(self.topic.as_bytes()),
            payload: Slice::of(&self.payload),
            content_type: Slice::of(self.content_type.as_bytes()),
            response_topic: Slice::of(self.response_topic.as_bytes()),
            correlation_data: Slice::of(&self.correlation_data),
            from: Slice::of(self.from.as_bytes()),
            user_properties: pairs.as_ptr(),
            user_properties_len: pairs.len(),
        };
        call(&raw const table)
    }
}

impl Weigh for Outgoing {
    fn heap_bytes(&self) -> u64 {
        let texts = [&self.topic, &self.content_type, &self.response_topic, &self.from];
        let texts: u64 = texts.into_iter().map(Weigh::heap_bytes).sum();
        texts
            + self.payload.heap_bytes()
            + self.correlation_data.heap_bytes()
            + self.user_properties.heap_bytes()
    }
}
