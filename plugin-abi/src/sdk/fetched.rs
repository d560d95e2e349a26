//! Retained messages that a plugin reads on behalf of a client, one page at a time: the request,
//! and the pages. The function itself is [`Host::fetch_as`].

use super::behalf::OnBehalf;
use super::error::Refused;
use super::host::Host;
use super::outgoing::Outgoing;
use crate::host::Parts;
use crate::raw::{Field, Slice};

/// A request for a page of the retained messages that a client would get with a subscription to a
/// filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch<'a> {
    filter: &'a str,
    qos: u8,
    place: &'a [u8],
    messages_max: u32,
    bytes_max: u32,
}

impl<'a> Fetch<'a> {
    /// The first page for this filter: QoS 0, at most 64 messages and 65,536 bytes.
    pub fn new(filter: &'a str) -> Fetch<'a> {
        Fetch { filter, qos: 0, place: &[], messages_max: 64, bytes_max: 65_536 }
    }

    /// Reads as a subscription with this QoS, 0 to 2: no message of the page has a higher one.
    #[must_use]
    pub fn qos(self, qos: u8) -> Fetch<'a> {
        Fetch { qos, ..self }
    }

    /// Continues where an earlier page ended, with the value of its [`next`](Fetched::next).
    #[must_use]
    pub fn place(self, place: &'a [u8]) -> Fetch<'a> {
        Fetch { place, ..self }
    }

    /// Limits the number of messages, from 1. The broker also limits it to
    /// `behalf_page_messages_max`.
    #[must_use]
    pub fn messages_max(self, messages_max: u32) -> Fetch<'a> {
        Fetch { messages_max, ..self }
    }

    /// Limits the bytes of topics, payloads and properties, from 1. The broker also limits them to
    /// `behalf_page_bytes_max` and to the bytes that may wait for one client. The first message may
    /// exceed the limit if nothing else waits for the client.
    #[must_use]
    pub fn bytes_max(self, bytes_max: u32) -> Fetch<'a> {
        Fetch { bytes_max, ..self }
    }
}

/// A page of retained messages, read on behalf of a client. A page without messages is not
/// necessarily the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetched<'a> {
    /// The number that was passed to [`Host::fetch_as`].
    pub number: u64,
    next: &'a [u8],
    messages: &'a [u8],
}

impl<'a> Fetched<'a> {
    /// Reads a page from the bytes of a message of the broker; `None` if they are not a page.
    pub(crate) fn read(number: u64, bytes: &'a [u8]) -> Option<Fetched<'a>> {
        let (0, rest) = bytes.split_first()? else { return None };
        let mut parts = Parts(rest);
        Some(Fetched { number, next: parts.part()?, messages: parts.0 })
    }

    /// The start of the next page, for [`Fetch::place`]; `None` if this is the last page. The bytes
    /// are opaque, and not valid after a restart of the broker.
    pub fn next(&self) -> Option<&'a [u8]> {
        (!self.next.is_empty()).then_some(self.next)
    }

    /// The messages of the page, in the broker's order.
    pub fn messages(&self) -> impl Iterator<Item = FetchedMessage<'a>> + use<'a> {
        let mut parts = Parts(self.messages);
        std::iter::from_fn(move || parts.part().map(|fields| FetchedMessage { fields }))
    }
}

/// A retained message of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchedMessage<'a> {
    fields: &'a [u8],
}

impl<'a> FetchedMessage<'a> {
    fn values(&self, wanted: Field) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut parts = Parts(self.fields);
        std::iter::from_fn(move || Some((Field(parts.number()?), parts.part()?)))
            .filter_map(move |(field, value)| (field == wanted).then_some(value))
    }

    fn bytes(&self, field: Field) -> Option<&'a [u8]> {
        self.values(field).next()
    }

    fn text(&self, field: Field) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(field)?).ok()
    }

    fn number(&self, field: Field) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(field)?.try_into().ok()?))
    }

    /// Topic name.
    pub fn topic(&self) -> &'a str {
        self.text(Field::TOPIC).unwrap_or("")
    }

    /// Payload.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes(Field::PAYLOAD).unwrap_or(&[])
    }

    /// Quality of service that the client would receive it with, 0 to 2.
    pub fn qos(&self) -> u8 {
        self.number(Field::QOS).unwrap_or(0) as u8
    }

    /// Client identifier of the publisher; `None` for a message of the broker itself.
    pub fn from(&self) -> Option<&'a str> {
        self.text(Field::FROM)
    }

    /// When the message came in, milliseconds since 1970.
    pub fn timestamp_ms(&self) -> Option<u64> {
        self.number(Field::TIMESTAMP_MS)
    }

    /// The rest of its message expiry interval, seconds.
    pub fn message_expiry_s(&self) -> Option<u32> {
        self.number(Field::MESSAGE_EXPIRY_S).map(|seconds| seconds as u32)
    }

    /// Payload format indicator: 0 bytes, 1 text.
    pub fn payload_format(&self) -> Option<u8> {
        self.number(Field::PAYLOAD_FORMAT).map(|format| format as u8)
    }

    /// Content type.
    pub fn content_type(&self) -> Option<&'a str> {
        self.text(Field::CONTENT_TYPE)
    }

    /// Response topic.
    pub fn response_topic(&self) -> Option<&'a str> {
        self.text(Field::RESPONSE_TOPIC)
    }

    /// Correlation data.
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        self.bytes(Field::CORRELATION_DATA)
    }

    /// User properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.values(Field::USER_PROPERTY).filter_map(|pair| {
            let mut parts = Parts(pair);
            let key = std::str::from_utf8(parts.part()?).ok()?;
            Some((key, std::str::from_utf8(parts.0).ok()?))
        })
    }

    /// The same message for another topic, with its payload, QoS, properties and remaining expiry.
    pub fn to_outgoing(self, topic: impl Into<String>) -> Outgoing {
        let mut message = Outgoing::new(topic, self.payload())
            .qos(self.qos())
            .message_expiry_s(self.message_expiry_s().unwrap_or(0))
            .response_topic(self.response_topic().unwrap_or(""));
        if let Some(content_type) = self.content_type() {
            message = message.content_type(content_type);
        }
        if let Some(data) = self.correlation_data() {
            message = message.correlation_data(data);
        }
        if let Some(format) = self.payload_format() {
            message = message.payload_format(format);
        }
        self.user_properties().fold(message, |message, (key, value)| message.user_property(key, value))
    }
}

impl Host {
    /// Reads a page of the retained messages that a client would get with a subscription to the
    /// filter, if `client.authorize` allows the subscription. If hooks are mounted for deliveries,
    /// each message is authorized too, and omitted if it is refused. `client.subscribe` and
    /// `message.delivered` are not called, because nothing is subscribed and nothing is sent to the
    /// client. Any thread.
    ///
    /// The page arrives at [`super::Plugin::on_fetched`] with this number, on the shard of the
    /// client. A refusal arrives at [`super::Plugin::on_answer`]: with
    /// [`super::Reason::QUOTA_EXCEEDED`] if `behalf_pages_max` pages of the plugin or
    /// `behalf_client_pages_max` pages for the client are being read, or if too many bytes wait for
    /// the client (`behalf_client_bytes_max`); with 0x88 if there was no verdict for a message.
    ///
    /// Nothing is read ahead. Each page needs its own call, which is authorized again.
    ///
    /// # Errors
    /// [`Refused`] for an invalid filter, a shared subscription, limits out of range, and bytes
    /// that are not a start of a page.
    pub fn fetch_as<'a>(
        self,
        client: impl Into<OnBehalf<'a>>,
        fetch: Fetch<'_>,
        number: u64,
    ) -> Result<(), Refused> {
        let (filter, place) = (Slice::of(fetch.filter.as_bytes()), Slice::of(fetch.place));
        let (qos, messages_max, bytes_max) = (u32::from(fetch.qos), fetch.messages_max, fetch.bytes_max);
        client.into().answered(number).with_table(|behalf| {
            // SAFETY: may be called from any thread, and the table, the text and the bytes are
            // alive during the call.
            Host::done(unsafe {
                (self.api().fetch_as)(self.handle(), behalf, filter, qos, place, messages_max, bytes_max)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::{FetchedWriter, FieldValue};

    fn page() -> Vec<u8> {
        let mut page = FetchedWriter::new(b"next");
        page.begin_message();
        page.field(Field::TOPIC, FieldValue::Bytes(b"a/b"));
        page.field(Field(9_999), FieldValue::Bytes(b"of a later version"));
        page.field(Field::PAYLOAD, FieldValue::Bytes(b"x"));
        page.field(Field::QOS, FieldValue::Number(1));
        page.field(Field::FROM, FieldValue::Bytes(b"c"));
        page.field(Field::MESSAGE_EXPIRY_S, FieldValue::Number(7));
        page.field(Field::PAYLOAD_FORMAT, FieldValue::Number(1));
        page.field(Field::CONTENT_TYPE, FieldValue::Bytes(b"text"));
        page.field(Field::USER_PROPERTY, FieldValue::Pair(b"k", b"1"));
        page.field(Field::USER_PROPERTY, FieldValue::Pair(b"k", b""));
        page.end_message();
        page.begin_message();
        page.field(Field::TOPIC, FieldValue::Bytes(b"c"));
        page.end_message();
        page.finish()
    }

    #[test]
    fn a_written_page_is_read_unchanged() {
        let bytes = page();
        let page = Fetched::read(5, &bytes).unwrap();
        assert_eq!((page.number, page.next()), (5, Some(&b"next"[..])));
        let messages: Vec<_> = page.messages().collect();
        let [first, second] = messages[..] else { panic!("{messages:?}") };
        assert_eq!((first.topic(), first.payload(), first.qos()), ("a/b", &b"x"[..], 1));
        assert_eq!(
            (first.from(), first.message_expiry_s(), first.response_topic()),
            (Some("c"), Some(7), None)
        );
        assert_eq!(first.user_properties().collect::<Vec<_>>(), [("k", "1"), ("k", "")]);
        let expected = Outgoing::new("answer", "x")
            .qos(1)
            .message_expiry_s(7)
            .payload_format(1)
            .content_type("text")
            .user_property("k", "1")
            .user_property("k", "");
        assert_eq!(first.to_outgoing("answer"), expected);
        assert_eq!((second.topic(), second.payload(), second.timestamp_ms()), ("c", &b""[..], None));
        let last = FetchedWriter::new(b"").finish();
        let last = Fetched::read(6, &last).unwrap();
        assert_eq!((last.next(), last.messages().count()), (None, 0));
    }

    #[test]
    fn of_truncated_bytes_the_complete_messages_are_read() {
        let bytes = page();
        for len in 0..bytes.len() {
            let Some(page) = Fetched::read(5, &bytes[..len]) else {
                assert!(len < 9, "{len}");
                continue;
            };
            assert!(page.messages().count() < 2);
        }
        assert_eq!(Fetched::read(5, &[0x87]), None, "a refusal");
    }
}
