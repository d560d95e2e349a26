//! PUBACK, PUBREC, PUBREL and PUBCOMP on the wire (sections 3.4 to 3.7), with the short forms of
//! v5. `codec` calls it; the fast path of the session calls [`encode_ack`].

use std::num::NonZeroU16;

use super::{begin, first_byte, packet_id, properties, put_section, section_len};
use crate::packet::wire::{DecodeError, Reader};
use crate::packet::{Ack, PacketType, Properties, PropertyOwner, Version};
use crate::reason::ReasonCode;

pub(super) fn decode_ack<'a>(
    mut reader: Reader<'a>,
    kind: PacketType,
    version: Version,
) -> Result<Ack<'a>, DecodeError> {
    let mut ack = Ack {
        packet_id: packet_id(&mut reader)?,
        reason: ReasonCode::SUCCESS,
        properties: Properties::default(),
    };
    // A remaining length of 2 means success without properties (section 3.4.2.1); 3.x has no other
    // form.
    if !version.is_v5() || reader.is_empty() {
        reader.finish()?;
        return Ok(ack);
    }
    ack.reason = ReasonCode(reader.u8()?);
    check_reason(ack.reason, kind)?;
    // A remaining length of 3 means no properties (section 3.4.2.2.1).
    if !reader.is_empty() {
        ack.properties = properties(&mut reader, PropertyOwner::Packet(kind), version)?;
        reader.finish()?;
    }
    Ok(ack)
}

fn check_reason(reason: ReasonCode, kind: PacketType) -> Result<(), DecodeError> {
    let (known, detail) = match kind {
        PacketType::PubAck => (is_receipt(reason), "PUBACK does not know this reason code [MQTT-3.4.2-1]"),
        PacketType::PubRec => (is_receipt(reason), "PUBREC does not know this reason code [MQTT-3.5.2-1]"),
        PacketType::PubRel => (is_release(reason), "PUBREL does not know this reason code [MQTT-3.6.2-1]"),
        _ => (is_release(reason), "PUBCOMP does not know this reason code [MQTT-3.7.2-1]"),
    };
    if known { Ok(()) } else { Err(DecodeError::protocol(detail)) }
}

/// The reason codes of PUBACK and PUBREC (tables 3-4 and 3-5).
const fn is_receipt(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::SUCCESS
            | ReasonCode::NO_MATCHING_SUBSCRIBERS
            | ReasonCode::UNSPECIFIED_ERROR
            | ReasonCode::IMPLEMENTATION_SPECIFIC
            | ReasonCode::NOT_AUTHORIZED
            | ReasonCode::TOPIC_NAME_INVALID
            | ReasonCode::PACKET_ID_IN_USE
            | ReasonCode::QUOTA_EXCEEDED
            | ReasonCode::PAYLOAD_FORMAT_INVALID
    )
}

/// The reason codes of PUBREL and PUBCOMP (tables 3-6 and 3-7).
const fn is_release(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::SUCCESS | ReasonCode::PACKET_ID_NOT_FOUND)
}

/// Appends an acknowledgement without properties: four bytes for success and in 3.x, five
/// otherwise.
///
/// `kind` is `PubAck`, `PubRec`, `PubRel` or `PubComp`.
pub fn encode_ack(
    kind: PacketType,
    packet_id: NonZeroU16,
    reason: ReasonCode,
    version: Version,
    out: &mut Vec<u8>,
) {
    debug_assert!(matches!(
        kind,
        PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp
    ));
    let [high, low] = packet_id.get().to_be_bytes();
    if version.is_v5() && reason != ReasonCode::SUCCESS {
        out.extend_from_slice(&[first_byte(kind), 3, high, low, reason.0]);
    } else {
        out.extend_from_slice(&[first_byte(kind), 2, high, low]);
    }
}

/// The bytes that [`encode_ack`] appends.
pub const fn ack_len(reason: ReasonCode, version: Version) -> usize {
    if version.is_v5() && reason.0 != ReasonCode::SUCCESS.0 { 5 } else { 4 }
}

pub(super) fn ack_remaining(ack: &Ack<'_>, version: Version) -> usize {
    if !version.is_v5() || ack.properties.is_empty() {
        return ack_len(ack.reason, version) - 2;
    }
    3 + section_len(&ack.properties, version)
}

pub(super) fn encode_full(kind: PacketType, ack: &Ack<'_>, version: Version, out: &mut Vec<u8>) {
    if !version.is_v5() || ack.properties.is_empty() {
        return encode_ack(kind, ack.packet_id, ack.reason, version, out);
    }
    let remaining = ack_remaining(ack, version);
    if begin(out, first_byte(kind), remaining, remaining) {
        out.extend_from_slice(&ack.packet_id.get().to_be_bytes());
        out.push(ack.reason.0);
        put_section(out, &ack.properties, version);
    }
}
