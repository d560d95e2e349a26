//! One property of MQTT 5.0 (section 2.2.2): its identifier, type, value rules, and the packets
//! that may carry it. Used by `Properties` and by code that builds a property section.

use super::PacketType;
use super::wire::{
    DecodeError, Reader, VARINT_MAX, binary_len, put_binary, put_string, put_varint, string_len, varint_len,
};
use crate::reason::ReasonCode;
use crate::topic;

/// The owner of a property section: a packet, or the will inside a CONNECT (section 3.1.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PropertyOwner {
    /// The will properties in the payload of CONNECT.
    Will,
    /// The variable header of a packet.
    Packet(PacketType),
}

impl PropertyOwner {
    const fn bit(self) -> u16 {
        match self {
            Self::Will => 1,
            Self::Packet(kind) => 1 << kind as u8,
        }
    }
}

macro_rules! property_ids {
    ($($name:ident = $id:literal, $text:literal, [$($owner:ident)*];)*) => {
        /// The identifier of a property (section 2.2.2.2, table 2-4).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum PropertyId { $(#[doc = $text] $name = $id,)* }

        impl PropertyId {
            /// All identifiers, in the order of the specification's table.
            pub const ALL: &'static [PropertyId] = &[$(Self::$name,)*];

            /// The identifier with this number on the wire.
            pub const fn from_u8(id: u8) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }

            /// The name in the specification.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            const fn owners(self) -> u16 {
                const ALL: u16 = !0;
                const WILL: u16 = PropertyOwner::Will.bit();
                const CONNECT: u16 = 1 << PacketType::Connect as u8;
                const CONNACK: u16 = 1 << PacketType::ConnAck as u8;
                const PUBLISH: u16 = 1 << PacketType::Publish as u8;
                const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u8;
                const DISCONNECT: u16 = 1 << PacketType::Disconnect as u8;
                const AUTH: u16 = 1 << PacketType::Auth as u8;
                const ACKS: u16 = 1 << PacketType::PubAck as u8
                    | 1 << PacketType::PubRec as u8
                    | 1 << PacketType::PubRel as u8
                    | 1 << PacketType::PubComp as u8
                    | 1 << PacketType::SubAck as u8
                    | 1 << PacketType::UnsubAck as u8;
                match self { $(Self::$name => 0 $(| $owner)*,)* }
            }
        }
    };
}

property_ids! {
    PayloadFormat = 0x01, "payload format indicator", [PUBLISH WILL];
    MessageExpiry = 0x02, "message expiry interval", [PUBLISH WILL];
    ContentType = 0x03, "content type", [PUBLISH WILL];
    ResponseTopic = 0x08, "response topic", [PUBLISH WILL];
    CorrelationData = 0x09, "correlation data", [PUBLISH WILL];
    SubscriptionId = 0x0B, "subscription identifier", [PUBLISH SUBSCRIBE];
    SessionExpiry = 0x11, "session expiry interval", [CONNECT CONNACK DISCONNECT];
    AssignedClientId = 0x12, "assigned client identifier", [CONNACK];
    ServerKeepAlive = 0x13, "server keep alive", [CONNACK];
    AuthMethod = 0x15, "authentication method", [CONNECT CONNACK AUTH];
    AuthData = 0x16, "authentication data", [CONNECT CONNACK AUTH];
    RequestProblemInfo = 0x17, "request problem information", [CONNECT];
    WillDelay = 0x18, "will delay interval", [WILL];
    RequestResponseInfo = 0x19, "request response information", [CONNECT];
    ResponseInfo = 0x1A, "response information", [CONNACK];
    ServerReference = 0x1C, "server reference", [CONNACK DISCONNECT];
    ReasonString = 0x1F, "reason string", [CONNACK ACKS DISCONNECT AUTH];
    ReceiveMaximum = 0x21, "receive maximum", [CONNECT CONNACK];
    TopicAliasMaximum = 0x22, "topic alias maximum", [CONNECT CONNACK];
    TopicAlias = 0x23, "topic alias", [PUBLISH];
    MaximumQos = 0x24, "maximum QoS", [CONNACK];
    RetainAvailable = 0x25, "retain available", [CONNACK];
    User = 0x26, "user property", [ALL];
    MaximumPacketSize = 0x27, "maximum packet size", [CONNECT CONNACK];
    WildcardAvailable = 0x28, "wildcard subscription available", [CONNACK];
    SubscriptionIdAvailable = 0x29, "subscription identifier available", [CONNACK];
    SharedAvailable = 0x2A, "shared subscription available", [CONNACK];
}

impl PropertyId {
    /// Whether a section of `owner` may hold the property (table 2-4).
    pub const fn allowed_in(self, owner: PropertyOwner) -> bool {
        self.owners() & owner.bit() != 0
    }

    /// Whether a section of `owner` may hold it more than once: user properties everywhere (section
    /// 3.1.2.11.8 and others), the subscription identifier only in PUBLISH (3.3.2.3.8).
    pub const fn repeats_in(self, owner: PropertyOwner) -> bool {
        match self {
            Self::User => true,
            Self::SubscriptionId => matches!(owner, PropertyOwner::Packet(PacketType::Publish)),
            _ => false,
        }
    }

    /// A separate bit for each identifier; all are below 64.
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// A property and its value. Intervals are in seconds, sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // each is named and described by its `PropertyId`
pub enum Property<'a> {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(&'a str),
    ServerKeepAlive(u16),
    AuthMethod(&'a str),
    AuthData(&'a [u8]),
    RequestProblemInfo(bool),
    WillDelay(u32),
    RequestResponseInfo(bool),
    ResponseInfo(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardAvailable(bool),
    SubscriptionIdAvailable(bool),
    SharedAvailable(bool),
}

impl<'a> Property<'a> {
    /// The identifier before the value on the wire.
    pub const fn id(&self) -> PropertyId {
        match self {
            Self::PayloadFormat(_) => PropertyId::PayloadFormat,
            Self::MessageExpiry(_) => PropertyId::MessageExpiry,
            Self::ContentType(_) => PropertyId::ContentType,
            Self::ResponseTopic(_) => PropertyId::ResponseTopic,
            Self::CorrelationData(_) => PropertyId::CorrelationData,
            Self::SubscriptionId(_) => PropertyId::SubscriptionId,
            Self::SessionExpiry(_) => PropertyId::SessionExpiry,
            Self::AssignedClientId(_) => PropertyId::AssignedClientId,
            Self::ServerKeepAlive(_) => PropertyId::ServerKeepAlive,
            Self::AuthMethod(_) => PropertyId::AuthMethod,
            Self::AuthData(_) => PropertyId::AuthData,
            Self::RequestProblemInfo(_) => PropertyId::RequestProblemInfo,
            Self::WillDelay(_) => PropertyId::WillDelay,
            Self::RequestResponseInfo(_) => PropertyId::RequestResponseInfo,
            Self::ResponseInfo(_) => PropertyId::ResponseInfo,
            Self::ServerReference(_) => PropertyId::ServerReference,
            Self::ReasonString(_) => PropertyId::ReasonString,
            Self::ReceiveMaximum(_) => PropertyId::ReceiveMaximum,
            Self::TopicAliasMaximum(_) => PropertyId::TopicAliasMaximum,
            Self::TopicAlias(_) => PropertyId::TopicAlias,
            Self::MaximumQos(_) => PropertyId::MaximumQos,
            Self::RetainAvailable(_) => PropertyId::RetainAvailable,
            Self::User(..) => PropertyId::User,
            Self::MaximumPacketSize(_) => PropertyId::MaximumPacketSize,
            Self::WildcardAvailable(_) => PropertyId::WildcardAvailable,
            Self::SubscriptionIdAvailable(_) => PropertyId::SubscriptionIdAvailable,
            Self::SharedAvailable(_) => PropertyId::SharedAvailable,
        }
    }

    /// Reads the next property: identifier and a value of its type (section 2.2.2.2), without the
    /// rules of [`Self::check`].
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        // The identifier is a variable byte integer. All defined ones take one byte, so a longer
        // one is unknown.
        let id = PropertyId::from_u8(reader.u8()?)
            .ok_or(DecodeError::malformed("a property identifier is unknown [section 2.2.2.2]"))?;
        Ok(match id {
            PropertyId::PayloadFormat => Self::PayloadFormat(reader.u8()?),
            PropertyId::MessageExpiry => Self::MessageExpiry(reader.u32()?),
            PropertyId::ContentType => Self::ContentType(reader.string()?),
            PropertyId::ResponseTopic => Self::ResponseTopic(reader.string()?),
            PropertyId::CorrelationData => Self::CorrelationData(reader.binary()?),
            PropertyId::SubscriptionId => Self::SubscriptionId(reader.varint()?),
            PropertyId::SessionExpiry => Self::SessionExpiry(reader.u32()?),
            PropertyId::AssignedClientId => Self::AssignedClientId(reader.string()?),
            PropertyId::ServerKeepAlive => Self::ServerKeepAlive(reader.u16()?),
            PropertyId::AuthMethod => Self::AuthMethod(reader.string()?),
            PropertyId::AuthData => Self::AuthData(reader.binary()?),
            PropertyId::RequestProblemInfo => Self::RequestProblemInfo(flag(reader)?),
            PropertyId::WillDelay => Self::WillDelay(reader.u32()?),
            PropertyId::RequestResponseInfo => Self::RequestResponseInfo(flag(reader)?),
            PropertyId::ResponseInfo => Self::ResponseInfo(reader.string()?),
            PropertyId::ServerReference => Self::ServerReference(reader.string()?),
            PropertyId::ReasonString => Self::ReasonString(reader.string()?),
            PropertyId::ReceiveMaximum => Self::ReceiveMaximum(reader.u16()?),
            PropertyId::TopicAliasMaximum => Self::TopicAliasMaximum(reader.u16()?),
            PropertyId::TopicAlias => Self::TopicAlias(reader.u16()?),
            PropertyId::MaximumQos => Self::MaximumQos(reader.u8()?),
            PropertyId::RetainAvailable => Self::RetainAvailable(flag(reader)?),
            // Both strings obey the rules of strings [MQTT-1.5.7-1].
            PropertyId::User => Self::User(reader.string()?, reader.string()?),
            PropertyId::MaximumPacketSize => Self::MaximumPacketSize(reader.u32()?),
            PropertyId::WildcardAvailable => Self::WildcardAvailable(flag(reader)?),
            PropertyId::SubscriptionIdAvailable => Self::SubscriptionIdAvailable(flag(reader)?),
            PropertyId::SharedAvailable => Self::SharedAvailable(flag(reader)?),
        })
    }

    /// Checks the rules on the value that go beyond its type.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let broken = match *self {
            Self::PayloadFormat(2..) => "the payload format indicator is neither 0 nor 1 [section 3.3.2.3.2]",
            Self::MaximumQos(2..) => "the maximum QoS is neither 0 nor 1 [section 3.2.2.3.4]",
            Self::ReceiveMaximum(0) => "the receive maximum is 0 [section 3.1.2.11.3]",
            Self::MaximumPacketSize(0) => "the maximum packet size is 0 [section 3.1.2.11.4]",
            // The type already has the upper limit.
            Self::SubscriptionId(0) => "a subscription identifier is 0 [section 3.8.2.1.2]",
            Self::TopicAlias(0) => {
                let detail = "the topic alias is 0 [MQTT-3.3.2-8]";
                return Err(DecodeError { reason: ReasonCode::TOPIC_ALIAS_INVALID, detail });
            }
            Self::ResponseTopic(topic) => match topic::validate_name(topic) {
                Ok(()) => return Ok(()),
                Err(topic::TopicError::Wildcard) => "the response topic contains wildcards [MQTT-3.3.2-14]",
                Err(_) => "the response topic is not a topic name [MQTT-4.7.3-1]",
            },
            _ => return Ok(()),
        };
        Err(DecodeError::protocol(broken))
    }

    /// The bytes that [`push_property`] appends, identifier included.
    pub fn encoded_len(&self) -> usize {
        1 + match *self {
            Self::PayloadFormat(_)
            | Self::RequestProblemInfo(_)
            | Self::RequestResponseInfo(_)
            | Self::MaximumQos(_)
            | Self::RetainAvailable(_)
            | Self::WildcardAvailable(_)
            | Self::SubscriptionIdAvailable(_)
            | Self::SharedAvailable(_) => 1,
            Self::ServerKeepAlive(_)
            | Self::ReceiveMaximum(_)
            | Self::TopicAliasMaximum(_)
            | Self::TopicAlias(_) => 2,
            Self::MessageExpiry(_)
            | Self::SessionExpiry(_)
            | Self::WillDelay(_)
            | Self::MaximumPacketSize(_) => 4,
            Self::SubscriptionId(id) => varint_len(id.min(VARINT_MAX) as usize),
            Self::ContentType(text)
            | Self::ResponseTopic(text)
            | Self::AssignedClientId(text)
            | Self::AuthMethod(text)
            | Self::ResponseInfo(text)
            | Self::ServerReference(text)
            | Self::ReasonString(text) => string_len(text),
            Self::CorrelationData(bytes) | Self::AuthData(bytes) => binary_len(bytes),
            Self::User(name, value) => string_len(name) + string_len(value),
        }
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::protocol("a yes/no property is neither 0 nor 1 [sections 3.1.2.11, 3.2.2.3]")),
    }
}

/// Appends one property, identifier and value. Strings and binary data beyond 65,535 bytes are cut
/// (strings at a character). A subscription identifier beyond its range becomes 268,435,455.
/// Nothing else is checked.
pub fn push_property(out: &mut Vec<u8>, property: Property<'_>) {
    out.push(property.id() as u8);
    match property {
        Property::PayloadFormat(byte) | Property::MaximumQos(byte) => out.push(byte),
        Property::RequestProblemInfo(yes)
        | Property::RequestResponseInfo(yes)
        | Property::RetainAvailable(yes)
        | Property::WildcardAvailable(yes)
        | Property::SubscriptionIdAvailable(yes)
        | Property::SharedAvailable(yes) => out.push(yes.into()),
        Property::ServerKeepAlive(value)
        | Property::ReceiveMaximum(value)
        | Property::TopicAliasMaximum(value)
        | Property::TopicAlias(value) => out.extend_from_slice(&value.to_be_bytes()),
        Property::MessageExpiry(value)
        | Property::SessionExpiry(value)
        | Property::WillDelay(value)
        | Property::MaximumPacketSize(value) => out.extend_from_slice(&value.to_be_bytes()),
        Property::SubscriptionId(id) => put_varint(out, id.min(VARINT_MAX) as usize),
        Property::ContentType(text)
        | Property::ResponseTopic(text)
        | Property::AssignedClientId(text)
        | Property::AuthMethod(text)
        | Property::ResponseInfo(text)
        | Property::ServerReference(text)
        | Property::ReasonString(text) => put_string(out, text),
        Property::CorrelationData(bytes) | Property::AuthData(bytes) => put_binary(out, bytes),
        Property::User(name, value) => {
            put_string(out, name);
            put_string(out, value);
        }
    }
}
