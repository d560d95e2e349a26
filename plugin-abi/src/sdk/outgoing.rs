//! A message that a plugin publishes, or adds to a received publish.

use super::weigh::Weigh;
use crate::host::{FetchedWriter, FieldValue};
use crate::raw::{Field, MESSAGE_HAS_CONTENT_TYPE, MESSAGE_HAS_CORRELATION_DATA, NewMessage, Pair, Slice};

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
    content_type: Option<String>,
    response_topic: String,
    correlation_data: Option<Vec<u8>>,
    from: String,
    user_properties: Vec<(String, String)>,
}

impl Outgoing {
    /// A message of QoS 0 that is not retained. Topic and properties are checked when it is
    /// published.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Outgoing {
        Outgoing { topic: topic.into(), payload: payload.into(), ..Outgoing::default() }
    }

    /// Sets the quality of service, 0 to 2.
    #[must_use]
    pub fn qos(self, qos: u8) -> Outgoing {
        Outgoing { qos, ..self }
    }

    /// Sets the retain flag.
    #[must_use]
    pub fn retain(self, retain: bool) -> Outgoing {
        Outgoing { retain, ..self }
    }

    /// Only stores the message as the retained message of its topic, or with an empty payload
    /// removes that. It is not delivered to subscribers.
    #[must_use]
    pub fn store_only(self) -> Outgoing {
        Outgoing { retain: true, store_only: true, ..self }
    }

    /// Sets the payload format indicator: 0 bytes, 1 text.
    #[must_use]
    pub fn payload_format(self, format: u8) -> Outgoing {
        Outgoing { payload_format: Some(format), ..self }
    }

    /// Sets the message expiry interval, seconds; 0 for none.
    #[must_use]
    pub fn message_expiry_s(self, seconds: u32) -> Outgoing {
        Outgoing { message_expiry_s: seconds, ..self }
    }

    /// Counts the message in the flow of this number, which the plugin chooses.
    /// [`Host::in_flight`](crate::Host::in_flight) returns how many of them the broker still
    /// stores. 0 for none.
    #[must_use]
    pub fn flow(self, flow: u32) -> Outgoing {
        Outgoing { flow, ..self }
    }

    /// Sets the content type, which may be empty.
    #[must_use]
    pub fn content_type(self, content_type: impl Into<String>) -> Outgoing {
        Outgoing { content_type: Some(content_type.into()), ..self }
    }

    /// Sets the response topic; empty for none.
    #[must_use]
    pub fn response_topic(self, topic: impl Into<String>) -> Outgoing {
        Outgoing { response_topic: topic.into(), ..self }
    }

    /// Sets the correlation data, which may be empty.
    #[must_use]
    pub fn correlation_data(self, data: impl Into<Vec<u8>>) -> Outgoing {
        Outgoing { correlation_data: Some(data.into()), ..self }
    }

    /// Sets this client as the publisher; by default it is the plugin.
    #[must_use]
    pub fn from_client(self, client_id: impl Into<String>) -> Outgoing {
        Outgoing { from: client_id.into(), ..self }
    }

    /// Appends a user property.
    #[must_use]
    pub fn user_property(mut self, key: impl Into<String>, value: impl Into<String>) -> Outgoing {
        self.user_properties.push((key.into(), value.into()));
        self
    }

    /// Writes the message into a page of retained messages, for tests of plugins.
    pub(crate) fn write_to_page(&self, page: &mut FetchedWriter) {
        // Lists all fields by name, so that the compiler finds a new field that is missing here.
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
            (Field::FROM, Some(from.as_bytes()).filter(|from| !from.is_empty())),
            (Field::CONTENT_TYPE, content_type.as_ref().map(String::as_bytes)),
            (Field::RESPONSE_TOPIC, Some(response_topic.as_bytes()).filter(|topic| !topic.is_empty())),
            (Field::CORRELATION_DATA, correlation_data.as_deref()),
        ] {
            if let Some(bytes) = bytes {
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
        let given = |there, flag| if there { flag } else { 0 };
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
            content_type: Slice::of(self.content_type.as_deref().unwrap_or_default().as_bytes()),
            response_topic: Slice::of(self.response_topic.as_bytes()),
            correlation_data: Slice::of(self.correlation_data.as_deref().unwrap_or_default()),
            from: Slice::of(self.from.as_bytes()),
            user_properties: pairs.as_ptr(),
            user_properties_len: pairs.len(),
            flags: given(self.content_type.is_some(), MESSAGE_HAS_CONTENT_TYPE)
                | given(self.correlation_data.is_some(), MESSAGE_HAS_CORRELATION_DATA),
            reserved: 0,
        };
        call(&raw const table)
    }
}

impl Weigh for Outgoing {
    fn heap_bytes(&self) -> u64 {
        let texts = [&self.topic, &self.response_topic, &self.from];
        let texts: u64 = texts.into_iter().map(Weigh::heap_bytes).sum();
        texts
            + self.payload.heap_bytes()
            + self.content_type.heap_bytes()
            + self.correlation_data.heap_bytes()
            + self.user_properties.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::PluginMessage;
    use crate::raw::Status;
    use crate::sdk::Fetched;

    /// Each property absent, empty, and with a value.
    fn messages() -> [Outgoing; 3] {
        let empty = Outgoing::new("a", "").payload_format(0).content_type("").correlation_data([]);
        let full = Outgoing::new("a", "x").payload_format(1).content_type("x").correlation_data([1]);
        [
            Outgoing::new("a", ""),
            empty.user_property("", ""),
            full.user_property("k", "v").response_topic("r").message_expiry_s(7),
        ]
    }

    #[test]
    fn each_property_reaches_the_broker_unchanged() {
        for (message, expected) in messages().into_iter().zip([None, Some(&b""[..]), Some(b"x")]) {
            message.with_table(|table| {
                // SAFETY: the table and what it points to live through the call.
                let received = unsafe { PluginMessage::of(table) }.unwrap();
                assert_eq!(received.content_type, expected);
                assert_eq!(received.correlation_data, message.correlation_data.as_deref());
                assert_eq!(received.payload_format, message.payload_format);
                assert_eq!(received.user_properties.len(), message.user_properties.len());
                let (response, expiry) = (message.response_topic.as_bytes(), message.message_expiry_s);
                assert_eq!((received.response_topic, received.message_expiry_s), (response, expiry));
            });
        }
    }

    #[test]
    fn each_property_passes_a_page_unchanged() {
        for message in messages() {
            let mut page = FetchedWriter::new(b"");
            message.write_to_page(&mut page);
            let bytes = page.finish();
            let page = Fetched::read(1, &bytes).unwrap();
            assert_eq!(page.messages().next().unwrap().to_outgoing("a"), message);
        }
    }

    /// A plugin in C sets a flag for a property that is present and empty. A property that is not
    /// empty needs no flag; other flags are invalid.
    #[test]
    fn flags_mark_properties_that_are_empty() {
        let read_back = |message: &Outgoing, flags| {
            message.with_table(|table| {
                // SAFETY: the table and what it points to live through the call.
                let table = unsafe { NewMessage { flags, ..std::ptr::read(table) } };
                // SAFETY: likewise.
                let read_back = unsafe { PluginMessage::of(&raw const table) }?;
                Ok((read_back.content_type.is_some(), read_back.correlation_data.is_some()))
            })
        };
        let [none, _, full] = messages();
        assert_eq!(
            [0, 1, 2, 3].map(|flags| read_back(&none, flags)),
            [(false, false), (true, false), (false, true), (true, true)].map(Ok)
        );
        assert_eq!((read_back(&full, 0), read_back(&none, 4)), (Ok((true, true)), Err(Status::INVALID)));
    }
}
