//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK and their payloads (sections 3.8 to 3.11). Views over
//! checked bytes; other modules decide whether a subscription is granted.

use std::num::NonZeroU16;

use super::wire::{DecodeError, Reader, put_string};
use super::{Properties, QoS};

/// A request for subscriptions (section 3.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscribe<'a> {
    /// The identifier that SUBACK repeats.
    pub packet_id: NonZeroU16,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// The filters with their options, at least one.
    pub filters: Filters<'a>,
}

/// The answer to SUBSCRIBE (section 3.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubAck<'a> {
    /// The identifier of the SUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// One v5 reason code for each filter, in their order. Written to a 3.x client, every failure
    /// becomes 0x80.
    pub codes: &'a [u8],
}

/// A request to end subscriptions (section 3.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsubscribe<'a> {
    /// The identifier that UNSUBACK repeats.
    pub packet_id: NonZeroU16,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// The filters, at least one.
    pub filters: TopicFilters<'a>,
}

/// The answer to UNSUBSCRIBE (section 3.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnsubAck<'a> {
    /// The identifier of the UNSUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// One reason code for each filter, in their order; 3.x has none.
    pub codes: &'a [u8],
}

/// When a new subscription gets retained messages (section 3.8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE [MQTT-3.3.1-9]; the only option in 3.x.
    #[default]
    Send = 0,
    /// Only if the subscription did not exist [MQTT-3.3.1-10].
    SendIfNew = 1,
    /// Never [MQTT-3.3.1-11].
    DoNotSend = 2,
}

/// The options of one subscription (section 3.8.3.1). The default is that of 3.x at QoS 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SubscriptionOptions {
    /// The highest QoS for deliveries.
    pub qos: QoS,
    /// Whether the client's own messages are excluded [MQTT-3.8.3-3].
    pub no_local: bool,
    /// Whether forwarded messages keep their RETAIN flag [MQTT-3.3.1-13].
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// The options of a 3.x subscription: only the QoS.
    pub const fn of_qos(qos: QoS) -> Self {
        Self { qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send }
    }

    /// The options byte of v5; in 3.x only its lower two bits exist.
    pub const fn to_byte(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }

    /// Reads the options byte of v5.
    ///
    /// # Errors
    /// [`DecodeError`]: 0x81 when a reserved bit is set, 0x82 for QoS 3 or retain handling 3.
    pub const fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        if byte & 0b1100_0000 != 0 {
            return Err(DecodeError::malformed(
                "a reserved bit of the subscription options is set [MQTT-3.8.3-5]",
            ));
        }
        let Some(qos) = QoS::from_u8(byte & 0b11) else {
            return Err(DecodeError::protocol("a subscription asks for QoS 3 [section 3.8.3.1]"));
        };
        let retain_handling = match byte >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => {
                return Err(DecodeError::protocol(
                    "the retain handling of a subscription is 3 [section 3.8.3.1]",
                ));
            }
        };
        Ok(Self {
            qos,
            no_local: byte & 0b100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling,
        })
    }
}

/// The payload of SUBSCRIBE: an iterator over `(filter, options)`. In 3.x the options are only the
/// QoS.
///
/// `topic::parse_filter` parses filters of the form `$share/…`.
#[derive(Clone, Copy)]
pub struct Filters<'a> {
    reader: Reader<'a>,
}

impl<'a> Filters<'a> {
    /// A payload written with [`push_subscription`] or checked before. Nothing is validated; the
    /// iterator ends at bytes that are not a filter with its options.
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes) }
    }

    /// Number of filters left. Iterates over them.
    #[allow(clippy::len_without_is_empty)] // a SUBSCRIBE without a filter does not get here
    pub fn len(&self) -> usize {
        self.count()
    }

    /// The encoded filters that are left.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

impl<'a> Iterator for Filters<'a> {
    type Item = (&'a str, SubscriptionOptions);

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let mut read = || {
            Ok::<_, DecodeError>((self.reader.string()?, SubscriptionOptions::from_byte(self.reader.u8()?)?))
        };
        let item = read().ok();
        if item.is_none() {
            self.reader = Reader::new(&[]);
        }
        item
    }
}

/// The payload of UNSUBSCRIBE: an iterator over filters.
#[derive(Clone, Copy)]
pub struct TopicFilters<'a> {
    reader: Reader<'a>,
}

impl<'a> TopicFilters<'a> {
    /// A payload written with [`push_filter`] or checked before. Nothing is validated; the iterator
    /// ends at bytes that are not a filter.
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes) }
    }

    /// Number of filters left. Iterates over them.
    #[allow(clippy::len_without_is_empty)] // an UNSUBSCRIBE without a filter does not get here
    pub fn len(&self) -> usize {
        self.count()
    }

    /// The encoded filters that are left.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

impl<'a> Iterator for TopicFilters<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.reader.is_empty() {
            return None;
        }
        let item = self.reader.string().ok();
        if item.is_none() {
            self.reader = Reader::new(&[]);
        }
        item
    }
}

macro_rules! view {
    ($($name:ident)*) => {$(
        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.as_bytes() == other.as_bytes()
            }
        }

        impl Eq for $name<'_> {}

        impl std::fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_list().entries(*self).finish()
            }
        }
    )*};
}

view!(Filters TopicFilters);

/// Appends a filter with its options to the payload of a SUBSCRIBE. A filter beyond 65,535 bytes is
/// cut.
pub fn push_subscription(out: &mut Vec<u8>, filter: &str, options: SubscriptionOptions) {
    put_string(out, filter);
    out.push(options.to_byte());
}

/// Appends a filter to the payload of an UNSUBSCRIBE. A filter beyond 65,535 bytes is cut.
pub fn push_filter(out: &mut Vec<u8>, filter: &str) {
    put_string(out, filter);
}
