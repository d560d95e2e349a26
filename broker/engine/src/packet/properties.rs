//! A property section of a v5 packet as a view over its bytes, checked once and read by iterator.
//! `codec` makes it, and code that builds a section with `push_property`. It never owns or changes
//! bytes.

use super::property::{Property, PropertyId, PropertyOwner};
use super::wire::{DecodeError, Reader};

/// The properties of one packet or will: the section without its length. The default is the empty
/// section.
#[derive(Clone, Copy, Default)]
pub struct Properties<'a> {
    bytes: &'a [u8],
    /// One bit for each identifier that occurs, so that a look-up of an absent one is cheap.
    present: u64,
}

impl<'a> Properties<'a> {
    /// Checks `bytes` as the properties of `owner`, by every rule of the specification that needs
    /// no other field.
    ///
    /// # Errors
    /// [`DecodeError`] with 0x81 for an unknown or misplaced identifier or a bad value encoding,
    /// 0x82 for a repeated property or a forbidden value, 0x94 for a topic alias of 0.
    pub fn check(bytes: &'a [u8], owner: PropertyOwner) -> Result<Self, DecodeError> {
        let mut present = 0u64;
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let property = Property::read(&mut reader)?;
            let id = property.id();
            if !id.allowed_in(owner) {
                return Err(DecodeError::malformed(
                    "a property is not valid for its packet [section 2.2.2.2]",
                ));
            }
            if present & id.bit() != 0 && !id.repeats_in(owner) {
                return Err(DecodeError::protocol("a property occurs more than once [section 2.2.2.2]"));
            }
            property.check()?;
            present |= id.bit();
        }
        Ok(Self { bytes, present })
    }

    /// A section that was written with [`super::push_property`] or checked before. Nothing is
    /// validated; the iterator ends at bytes that are not a property.
    pub fn from_encoded(bytes: &'a [u8]) -> Self {
        let present = Iter::new(bytes).fold(0, |bits, property| bits | property.id().bit());
        Self { bytes, present }
    }

    /// A section with the identifiers that occur in it, from [`Properties::present`].
    pub(super) const fn with_present(bytes: &'a [u8], present: u64) -> Self {
        Self { bytes, present }
    }

    /// One bit for each identifier that occurs.
    pub(super) const fn present(&self) -> u64 {
        self.present
    }

    /// The encoded section, without its length.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there is no property.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All properties in their order, which matters for user properties [MQTT-3.3.2-18].
    pub const fn iter(&self) -> Iter<'a> {
        Iter::new(self.bytes)
    }

    /// Whether the property occurs.
    pub const fn has(&self, id: PropertyId) -> bool {
        self.present & id.bit() != 0
    }

    /// The first property of that identifier.
    #[inline]
    pub fn find(&self, id: PropertyId) -> Option<Property<'a>> {
        if self.has(id) { self.first_of(id) } else { None }
    }

    fn first_of(&self, id: PropertyId) -> Option<Property<'a>> {
        self.iter().find(|property| property.id() == id)
    }

    /// The user properties in their order.
    pub fn user(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::User(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The subscription identifiers: at most one in SUBSCRIBE, any number in PUBLISH.
    pub fn subscription_ids(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionId(id) => Some(id),
            _ => None,
        })
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $variant:ident -> $type:ty;)*) => {
        impl<'a> Properties<'a> {
            $($(#[$doc])*
            pub fn $name(&self) -> Option<$type> {
                match self.find(PropertyId::$variant) {
                    Some(Property::$variant(value)) => Some(value),
                    _ => None,
                }
            })*
        }
    };
}

getters! {
    /// 1 when the payload is UTF-8 text, 0 when it is unspecified bytes.
    payload_format: PayloadFormat -> u8;
    /// Lifetime of the message in seconds.
    message_expiry_s: MessageExpiry -> u32;
    /// Content type, chosen by the publisher.
    content_type: ContentType -> &'a str;
    /// Topic for a response.
    response_topic: ResponseTopic -> &'a str;
    /// Identifies the request that a response belongs to.
    correlation_data: CorrelationData -> &'a [u8];
    /// The subscription identifier of a SUBSCRIBE.
    subscription_id: SubscriptionId -> u32;
    /// Session expiry interval in seconds; `u32::MAX` means never.
    session_expiry_s: SessionExpiry -> u32;
    /// The client identifier that the server chose.
    assigned_client_id: AssignedClientId -> &'a str;
    /// The keep alive that the server requests, seconds.
    server_keep_alive_s: ServerKeepAlive -> u16;
    /// Name of the enhanced authentication method.
    auth_method: AuthMethod -> &'a str;
    /// Data of the enhanced authentication method.
    auth_data: AuthData -> &'a [u8];
    /// Whether the client wants reason strings and user properties on failures; absent means yes
    /// (section 3.1.2.11.7).
    request_problem_info: RequestProblemInfo -> bool;
    /// Seconds from the end of the connection to the will.
    will_delay_s: WillDelay -> u32;
    /// Whether the client wants response information; absent means no.
    request_response_info: RequestResponseInfo -> bool;
    /// Basis for response topics.
    response_info: ResponseInfo -> &'a str;
    /// Another server to use.
    server_reference: ServerReference -> &'a str;
    /// Text for logs.
    reason_string: ReasonString -> &'a str;
    /// Maximum number of QoS 1 and 2 messages in flight to the sender of this property; absent
    /// means 65,535.
    receive_maximum: ReceiveMaximum -> u16;
    /// The highest topic alias that the sender of this property accepts; absent means 0.
    topic_alias_maximum: TopicAliasMaximum -> u16;
    /// The alias of the topic of a PUBLISH.
    topic_alias: TopicAlias -> u16;
    /// The highest QoS that the server supports; absent means 2.
    maximum_qos: MaximumQos -> u8;
    /// Whether the server supports retained messages; absent means yes.
    retain_available: RetainAvailable -> bool;
    /// The largest packet that the sender of this property accepts, bytes; absent means only the
    /// protocol's limit.
    maximum_packet_size: MaximumPacketSize -> u32;
    /// Whether the server supports wildcard filters; absent means yes.
    wildcard_available: WildcardAvailable -> bool;
    /// Whether the server supports subscription identifiers; absent means yes.
    subscription_id_available: SubscriptionIdAvailable -> bool;
    /// Whether the server supports shared subscriptions; absent means yes.
    shared_available: SharedAvailable -> bool;
}

impl PartialEq for Properties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Properties<'_> {}

impl std::fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The properties of a section, one after the other.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iter<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes) }
    }

    /// The bytes of the section that have not been read.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        if self.reader.is_empty() {
            return None;
        }
        let property = Property::read(&mut self.reader).ok();
        if property.is_none() {
            // The section is not one that was checked, so the iterator ends here.
            self.reader = Reader::new(&[]);
        }
        property
    }
}
