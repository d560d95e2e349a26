//! PUBLISH and the four acknowledgements of its delivery (sections 3.3 to 3.7).
//! Plain views; reading and writing them is in `codec`.

use std::num::NonZeroU16;

use super::{Properties, QoS};
use crate::reason::ReasonCode;

/// An application message on the wire (section 3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish<'a> {
    /// Whether this may be a re-delivery. Never with QoS 0.
    pub dup: bool,
    /// The QoS of this transfer.
    pub qos: QoS,
    /// Whether the message is to be retained, or was.
    pub retain: bool,
    /// A valid topic name; empty only in v5 and with a topic alias among the properties.
    pub topic: &'a str,
    /// The packet identifier, present exactly when the QoS is above 0.
    pub packet_id: Option<NonZeroU16>,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// The message.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP: only the type and the reason codes differ (sections 3.4 to
/// 3.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    /// The identifier of the PUBLISH it belongs to.
    pub packet_id: NonZeroU16,
    /// The outcome; always success in 3.x.
    pub reason: ReasonCode,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// An acknowledgement without properties.
    pub fn new(packet_id: NonZeroU16, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: Properties::default() }
    }
}
