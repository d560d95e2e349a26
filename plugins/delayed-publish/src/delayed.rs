//! A delayed message, and its encoding as bytes. Independent of the clock and the broker.

use grapnel_plugin_abi::{Identity, OnBehalf, Outgoing};

/// A delayed message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayedMessage {
    /// Client identifier of the publisher.
    pub from: String,
    /// The publisher's identity, for authorization at the due time; `None` for a message of an
    /// older version.
    pub identity: Option<Identity>,
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub payload_format: Option<u8>,
    /// Seconds; 0 for none.
    pub expiry_s: u32,
    /// May be present and empty, as may the correlation data.
    pub content_type: Option<String>,
    /// Empty for none.
    pub response_topic: String,
    pub correlation_data: Option<Vec<u8>>,
    pub user_properties: Vec<(String, String)>,
}

impl DelayedMessage {
    /// The encoded message, for storage and for the transfer in a reload.
    pub fn bytes(&self) -> Box<[u8]> {
        let mut out = Vec::new();
        self.write(&mut out);
        out.into()
    }

    /// The client that it is published on behalf of.
    pub fn client(&self) -> OnBehalf<'_> {
        match &self.identity {
            Some(identity) => OnBehalf::of(identity),
            None => OnBehalf::client(&self.from),
        }
    }

    /// The account of the publisher.
    pub fn account(&self) -> Option<String> {
        self.identity.as_ref().and_then(Identity::account)
    }

    /// The message to publish.
    pub fn outgoing(&self) -> Outgoing {
        let mut message = Outgoing::new(self.topic.as_str(), self.payload.as_slice())
            .qos(self.qos)
            .retain(self.retain)
            .message_expiry_s(self.expiry_s)
            .response_topic(self.response_topic.as_str());
        if let Some(format) = self.payload_format {
            message = message.payload_format(format);
        }
        if let Some(content_type) = &self.content_type {
            message = message.content_type(content_type.as_str());
        }
        if let Some(data) = &self.correlation_data {
            message = message.correlation_data(data.as_slice());
        }
        let pairs = self.user_properties.iter();
        pairs.fold(message, |message, (key, value)| message.user_property(key.as_str(), value.as_str()))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.qos, u8::from(self.retain), self.payload_format.unwrap_or(NO_FORMAT)]);
        out.extend(self.expiry_s.to_le_bytes());
        for part in [self.from.as_bytes(), self.topic.as_bytes(), &self.payload] {
            put(out, part);
        }
        put_if(out, self.content_type.as_ref().map(String::as_bytes));
        put(out, self.response_topic.as_bytes());
        put_if(out, self.correlation_data.as_deref());
        out.extend((self.user_properties.len() as u32).to_le_bytes());
        for (key, value) in &self.user_properties {
            put(out, key.as_bytes());
            put(out, value.as_bytes());
        }
        put(out, self.identity.as_ref().map_or(&[], Identity::as_bytes));
    }

    /// Decodes [`DelayedMessage::bytes`]; `None` for any other bytes.
    pub fn of(bytes: &[u8]) -> Option<DelayedMessage> {
        let mut reader = Reader(bytes);
        DelayedMessage::read(&mut reader).filter(|_| reader.0.is_empty())
    }

    fn read(reader: &mut Reader<'_>) -> Option<DelayedMessage> {
        let [qos, retain, format] = reader.array()?;
        let mut delayed = DelayedMessage {
            qos,
            retain: retain != 0,
            payload_format: (format != NO_FORMAT).then_some(format),
            expiry_s: u32::from_le_bytes(reader.array()?),
            from: reader.text()?,
            identity: None,
            topic: reader.text()?,
            payload: reader.part()?.to_vec(),
            content_type: if reader.is_there()? { Some(reader.text()?) } else { None },
            response_topic: reader.text()?,
            correlation_data: if reader.is_there()? { Some(reader.part()?.to_vec()) } else { None },
            user_properties: Vec::new(),
        };
        for _ in 0..u32::from_le_bytes(reader.array()?) {
            delayed.user_properties.push((reader.text()?, reader.text()?));
        }
        delayed.identity = match reader.part()? {
            [] => None,
            bytes => Some(Identity::from_bytes(bytes).ok()?),
        };
        Some(delayed)
    }
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend((part.len() as u32).to_le_bytes());
    out.extend(part);
}

/// Appends an optional part: its first byte is the presence flag ([`Reader::is_there`]).
fn put_if(out: &mut Vec<u8>, part: Option<&[u8]>) {
    out.push(u8::from(part.is_some()));
    if let Some(part) = part {
        put(out, part);
    }
}

/// A message without a payload format indicator.
const NO_FORMAT: u8 = 255;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        let (part, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(part)
    }

    fn is_there(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            [_] => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.part()?.to_vec()).ok()
    }
}
