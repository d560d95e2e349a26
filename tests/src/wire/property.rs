//! Properties of MQTT 5 (section 2.2.2): the whole table, with the packets that may have each
//! property.

/// Payload Format Indicator, byte.
pub const PAYLOAD_FORMAT: u8 = 0x01;
/// Message Expiry Interval, four bytes, seconds.
pub const MESSAGE_EXPIRY: u8 = 0x02;
/// Content Type, text.
pub const CONTENT_TYPE: u8 = 0x03;
/// Response Topic, text.
pub const RESPONSE_TOPIC: u8 = 0x08;
/// Correlation Data, binary.
pub const CORRELATION_DATA: u8 = 0x09;
/// Subscription Identifier, variable byte integer.
pub const SUBSCRIPTION_ID: u8 = 0x0B;
/// Session Expiry Interval, four bytes, seconds.
pub const SESSION_EXPIRY: u8 = 0x11;
/// Assigned Client Identifier, text.
pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
/// Server Keep Alive, two bytes, seconds.
pub const SERVER_KEEP_ALIVE: u8 = 0x13;
/// Authentication Method, text.
pub const AUTH_METHOD: u8 = 0x15;
/// Authentication Data, binary.
pub const AUTH_DATA: u8 = 0x16;
/// Request Problem Information, byte.
pub const REQUEST_PROBLEM_INFO: u8 = 0x17;
/// Will Delay Interval, four bytes, seconds.
pub const WILL_DELAY: u8 = 0x18;
/// Request Response Information, byte.
pub const REQUEST_RESPONSE_INFO: u8 = 0x19;
/// Reason String, text.
pub const REASON_STRING: u8 = 0x1F;
/// Receive Maximum, two bytes.
pub const RECEIVE_MAXIMUM: u8 = 0x21;
/// Topic Alias Maximum, two bytes.
pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
/// Topic Alias, two bytes.
pub const TOPIC_ALIAS: u8 = 0x23;
/// Maximum QoS, byte.
pub const MAXIMUM_QOS: u8 = 0x24;
/// User Property, pair of texts.
pub const USER_PROPERTY: u8 = 0x26;
/// Maximum Packet Size, four bytes.
pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// A property's value by its type on the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One byte.
    Byte(u8),
    /// Two bytes.
    U16(u16),
    /// Four bytes.
    U32(u32),
    /// Variable byte integer.
    Variable(u32),
    /// UTF-8 string.
    Text(String),
    /// Binary data.
    Binary(Vec<u8>),
    /// String pair.
    Pair(String, String),
}

impl Value {
    /// A text.
    pub fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    /// A pair of texts.
    pub fn pair(key: &str, value: &str) -> Value {
        Value::Pair(key.to_owned(), value.to_owned())
    }
}

/// Properties in the order of the wire.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Properties(pub Vec<(u8, Value)>);

impl Properties {
    /// Adds one at the end.
    pub fn push(&mut self, id: u8, value: Value) {
        self.0.push((id, value));
    }

    /// The first with this identifier.
    pub fn find(&self, id: u8) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, value)| value)
    }

    /// All with this identifier.
    pub fn all(&self, id: u8) -> Vec<Value> {
        self.0.iter().filter(|(known, _)| *known == id).map(|(_, value)| value.clone()).collect()
    }

    /// The first with this identifier as a number.
    pub fn number(&self, id: u8) -> Option<u32> {
        match self.find(id)? {
            Value::Byte(n) => Some(u32::from(*n)),
            Value::U16(n) => Some(u32::from(*n)),
            Value::U32(n) | Value::Variable(n) => Some(*n),
            _ => None,
        }
    }

    /// The first with this identifier as text.
    pub fn string(&self, id: u8) -> Option<String> {
        match self.find(id)? {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// Values of the user properties with this key.
    pub fn user(&self, key: &str) -> Vec<String> {
        let pairs = self.all(USER_PROPERTY).into_iter();
        pairs
            .filter_map(|value| matches!(value, Value::Pair(ref k, _) if k == key).then(|| pair_value(value)))
            .collect()
    }
}

fn pair_value(value: Value) -> String {
    match value {
        Value::Pair(_, value) => value,
        _ => String::new(),
    }
}

/// Types on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One byte.
    Byte,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Variable byte integer.
    Variable,
    /// UTF-8 string.
    Text,
    /// Binary data.
    Binary,
    /// String pair.
    Pair,
}

/// Type of a property and the control packet types (high nibble of the first byte) in which a
/// *server* may send it, from table 2-4; `None` for an identifier that does not exist or that no
/// server sends.
pub fn from_server(id: u8) -> Option<(Kind, &'static [u8])> {
    const CONNACK: &[u8] = &[2];
    const PUBLISH: &[u8] = &[3];
    Some(match id {
        0x01 => (Kind::Byte, PUBLISH),
        0x02 => (Kind::U32, PUBLISH),
        0x03 | 0x08 => (Kind::Text, PUBLISH),
        0x09 => (Kind::Binary, PUBLISH),
        0x0B => (Kind::Variable, PUBLISH),
        // [MQTT-3.14.2-2]: no Session Expiry Interval in a server's DISCONNECT.
        0x11 => (Kind::U32, CONNACK),
        0x12 | 0x1A => (Kind::Text, CONNACK),
        0x13 => (Kind::U16, CONNACK),
        0x15 => (Kind::Text, &[2, 15]),
        0x16 => (Kind::Binary, &[2, 15]),
        0x1C => (Kind::Text, &[2, 14]),
        0x1F => (Kind::Text, &[2, 4, 5, 6, 7, 9, 11, 14, 15]),
        0x21 | 0x22 => (Kind::U16, CONNACK),
        0x23 => (Kind::U16, PUBLISH),
        0x24 | 0x25 | 0x28 | 0x29 | 0x2A => (Kind::Byte, CONNACK),
        0x26 => (Kind::Pair, &[2, 3, 4, 5, 6, 7, 9, 11, 14, 15]),
        0x27 => (Kind::U32, CONNACK),
        _ => return None,
    })
}
