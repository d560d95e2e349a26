//! PUBLISH on the wire (section 3.3): decoding, and encoding once for many subscribers. `codec`
//! calls it, and the flows and the session for each message and delivery. Only the growth of `out`
//! allocates.

use std::num::NonZeroU16;

use super::{Frame, begin, frame_bytes, packet_id, properties, put_section, section_len};
use crate::packet::wire::{DecodeError, Reader, put_string, put_varint, string_len, varint_len};
use crate::packet::{
    PacketType, Properties, PropertiesIter, Property, PropertyId, PropertyOwner, Publish, QoS, Version,
    push_property,
};
use crate::reason::ReasonCode;
use crate::topic::TopicError;

const DUP: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

/// Reads a frame whose type is PUBLISH. The payload format indicator is not compared with the
/// payload (section 3.3.2.3.2: MAY).
///
/// # Errors
/// The first rule that the packet breaks: see [`DecodeError`].
pub fn decode_publish<'a>(frame: &Frame<'a>, version: Version) -> Result<Publish<'a>, DecodeError> {
    let qos = QoS::from_u8(frame.first >> 1 & 0b11)
        .ok_or(DecodeError::malformed("both QoS bits of PUBLISH are set [MQTT-3.3.1-4]"))?;
    let dup = frame.first & DUP != 0;
    if dup && qos == QoS::AtMostOnce {
        // Section 2.1.3 makes invalid flags a malformed packet.
        return Err(DecodeError::malformed("DUP is set on a QoS 0 PUBLISH [MQTT-3.3.1-2]"));
    }
    let mut reader = Reader::new(frame.body);
    let (topic, has_wildcard) = reader.string_and_wildcard()?;
    // QoS 0 has no packet identifier [MQTT-2.2.1-2].
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(packet_id(&mut reader)?) };
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::Publish), version)?;
    // The length and U+0000 were checked with the string.
    if has_wildcard {
        return Err(topic_invalid(TopicError::Wildcard));
    }
    // The alias names the topic (section 3.3.2.3.4).
    if topic.is_empty() && !properties.has(PropertyId::TopicAlias) {
        return Err(if version.is_v5() {
            DecodeError::protocol("an empty topic name without a topic alias [section 3.3.2.1]")
        } else {
            topic_invalid(TopicError::Empty)
        });
    }
    let retain = frame.first & RETAIN != 0;
    Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload: reader.rest() })
}

#[cold]
fn topic_invalid(error: TopicError) -> DecodeError {
    DecodeError {
        reason: ReasonCode::TOPIC_NAME_INVALID,
        detail: match error {
            TopicError::Empty => "the topic name is empty [MQTT-4.7.3-1]",
            _ => "the topic name contains wildcards [MQTT-3.3.2-2]",
        },
    }
}

/// An outgoing PUBLISH without its payload, which the caller appends or sends after it.
#[derive(Clone, Copy, Debug)]
pub struct PublishHeader<'a> {
    /// A valid topic name, or empty with a `topic_alias` that the receiver has stored.
    pub topic: &'a str,
    /// The QoS of this transfer.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Whether this is a retransmission [MQTT-3.3.1-1]; ignored with QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// The packet identifier, ignored with QoS 0. `None` with a higher QoS writes 0, to be patched
    /// later.
    pub packet_id: Option<NonZeroU16>,
    /// The identifiers of the matching subscriptions, each from 1 to 268,435,455 [MQTT-3.3.4-4].
    pub subscription_ids: &'a [u32],
    /// The alias to set or use, from 1 to the receiver's maximum.
    pub topic_alias: Option<u16>,
    /// The rest of the message expiry interval, seconds [MQTT-3.3.2-6]: replaces the one in
    /// `properties`, or is added.
    pub message_expiry_s: Option<u32>,
    /// The encoded properties from [`forwardable_properties`], without alias and subscription
    /// identifiers.
    pub properties: &'a [u8],
    /// The bytes of the payload that will follow.
    pub payload_len: usize,
}

impl PublishHeader<'_> {
    fn expiry(&self) -> Option<Property<'static>> {
        self.message_expiry_s.map(Property::MessageExpiry)
    }

    fn alias(&self) -> Option<Property<'static>> {
        self.topic_alias.map(Property::TopicAlias)
    }

    /// The position of the message expiry value in `properties`, if it is to be replaced there.
    fn expiry_at(&self) -> Option<usize> {
        self.message_expiry_s?;
        let mut properties = PropertiesIter::new(self.properties);
        properties.find(|property| property.id() == PropertyId::MessageExpiry)?;
        // The property has just been read; its value is its last four bytes.
        Some(self.properties.len() - properties.rest().len() - 4)
    }

    fn section_bytes(&self, expiry_at: Option<usize>) -> usize {
        let ids: usize =
            self.subscription_ids.iter().map(|&id| Property::SubscriptionId(id).encoded_len()).sum();
        let expiry = if expiry_at.is_some() { None } else { self.expiry() };
        self.properties.len()
            + ids
            + expiry.map_or(0, |property| property.encoded_len())
            + self.alias().map_or(0, |property| property.encoded_len())
    }

    fn remaining(&self, section_bytes: usize, version: Version) -> usize {
        let id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let section = if version.is_v5() { varint_len(section_bytes) + section_bytes } else { 0 };
        string_len(self.topic) + id + section + self.payload_len
    }
}

/// The result of [`encode_publish`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncodedPublish {
    /// Position of the packet identifier in `out`, for [`patch_packet_id`]; `None` with QoS 0.
    pub packet_id_at: Option<usize>,
    /// The bytes of the whole packet, payload included. 0 if it is too large for MQTT; then nothing
    /// was appended.
    pub len: usize,
}

/// Appends a PUBLISH without its payload. 3.x gets no properties.
pub fn encode_publish(header: &PublishHeader<'_>, version: Version, out: &mut Vec<u8>) -> EncodedPublish {
    let expiry_at = if version.is_v5() { header.expiry_at() } else { None };
    let section_bytes = if version.is_v5() { header.section_bytes(expiry_at) } else { 0 };
    let remaining = header.remaining(section_bytes, version);
    let first = publish_first(header.qos, header.retain, header.dup);
    if !begin(out, first, remaining, remaining.saturating_sub(header.payload_len)) {
        return EncodedPublish { packet_id_at: None, len: 0 };
    }
    put_string(out, header.topic);
    let packet_id_at = put_packet_id(out, header.qos, header.packet_id);
    if version.is_v5() {
        put_varint(out, section_bytes);
        // The alias comes first, because a receiver needs it before the other properties.
        header.alias().into_iter().for_each(|property| push_property(out, property));
        let properties_at = out.len();
        out.extend_from_slice(header.properties);
        match (expiry_at, header.message_expiry_s) {
            (Some(at), Some(expiry_s)) => {
                let at = properties_at + at;
                out[at..at + 4].copy_from_slice(&expiry_s.to_be_bytes());
            }
            _ => header.expiry().into_iter().for_each(|property| push_property(out, property)),
        }
        for &id in header.subscription_ids {
            push_property(out, Property::SubscriptionId(id));
        }
    }
    EncodedPublish { packet_id_at, len: frame_bytes(remaining) }
}

/// The bytes of the whole packet that [`encode_publish`] begins, payload included, for the check
/// against the receiver's maximum packet size [MQTT-3.1.2-24]. 0 if it is too large for MQTT.
pub fn publish_len(header: &PublishHeader<'_>, version: Version) -> usize {
    let section_bytes = if version.is_v5() { header.section_bytes(header.expiry_at()) } else { 0 };
    frame_bytes(header.remaining(section_bytes, version))
}

/// Writes the packet identifier of one delivery into an encoded PUBLISH; `at` is
/// [`EncodedPublish::packet_id_at`]. No effect if `bytes` is too short.
pub fn patch_packet_id(bytes: &mut [u8], at: usize, packet_id: NonZeroU16) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(2)) {
        place.copy_from_slice(&packet_id.get().to_be_bytes());
    }
}

/// The properties of a received PUBLISH or will that are forwarded to subscribers: all but topic
/// alias, subscription identifiers and will delay, in their order [MQTT-3.3.2-18].
///
/// `true` means that all properties are forwarded: use `properties.as_bytes()`; nothing was
/// appended. `false` means that the forwarded ones were appended to `out`.
pub fn forwardable_properties(properties: &Properties<'_>, out: &mut Vec<u8>) -> bool {
    const DROPPED: [PropertyId; 3] =
        [PropertyId::TopicAlias, PropertyId::SubscriptionId, PropertyId::WillDelay];
    if properties.is_empty() || !DROPPED.iter().any(|&id| properties.has(id)) {
        return true;
    }
    let bytes = properties.as_bytes();
    let mut iter = properties.iter();
    let mut start = 0;
    while let Some(property) = iter.next() {
        let end = bytes.len() - iter.rest().len();
        if !DROPPED.contains(&property.id()) {
            out.extend_from_slice(&bytes[start..end]);
        }
        start = end;
    }
    false
}

fn publish_first(qos: QoS, retain: bool, dup: bool) -> u8 {
    let dup = dup && qos != QoS::AtMostOnce;
    (PacketType::Publish as u8) << 4
        | if dup { DUP } else { 0 }
        | qos.as_u8() << 1
        | if retain { RETAIN } else { 0 }
}

fn put_packet_id(out: &mut Vec<u8>, qos: QoS, packet_id: Option<NonZeroU16>) -> Option<usize> {
    if qos == QoS::AtMostOnce {
        return None;
    }
    let at = out.len();
    out.extend_from_slice(&packet_id.map_or(0, NonZeroU16::get).to_be_bytes());
    Some(at)
}

pub(super) fn whole_remaining(publish: &Publish<'_>, version: Version) -> usize {
    let id = if publish.qos == QoS::AtMostOnce { 0 } else { 2 };
    string_len(publish.topic) + id + section_len(&publish.properties, version) + publish.payload.len()
}

/// Appends a PUBLISH unchanged, with all its properties, as a client sends it.
pub(super) fn encode_whole(publish: &Publish<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = whole_remaining(publish, version);
    if !begin(out, publish_first(publish.qos, publish.retain, publish.dup), remaining, remaining) {
        return;
    }
    put_string(out, publish.topic);
    put_packet_id(out, publish.qos, publish.packet_id);
    put_section(out, &publish.properties, version);
    out.extend_from_slice(publish.payload);
}
