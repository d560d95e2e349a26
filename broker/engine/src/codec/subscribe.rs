//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK on the wire (sections 3.8 to 3.11).
//! Called by `codec`.

use super::{begin, first_byte, packet_id, properties, put_section, section_len};
use crate::packet::wire::{DecodeError, Reader, put_string, string_len};
use crate::packet::{
    Filters, PacketType, PropertyOwner, QoS, SubAck, Subscribe, SubscriptionOptions, TopicFilters, UnsubAck,
    Unsubscribe, Version,
};
use crate::reason::ReasonCode;
use crate::topic::{self, TopicError};

pub(super) fn decode_subscribe(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<Subscribe<'_>, DecodeError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::Subscribe), version)?;
    let filters = Filters::from_encoded(reader.rest());
    if reader.is_empty() {
        return Err(DecodeError::protocol("SUBSCRIBE without a filter [MQTT-3.8.3-2]"));
    }
    while !reader.is_empty() {
        let shared = check_filter(reader.string()?, version)?;
        let options = check_options(reader.u8()?, version)?;
        if shared && options.no_local {
            return Err(DecodeError::protocol("no local on a shared subscription [MQTT-3.8.3-4]"));
        }
    }
    Ok(Subscribe { packet_id, properties, filters })
}

/// Checks a filter. Returns whether it is a shared subscription, which only v5 has.
fn check_filter(filter: &str, version: Version) -> Result<bool, DecodeError> {
    let checked = if version.is_v5() {
        topic::parse_filter(filter).map(|parsed| parsed.share.is_some())
    } else {
        topic::validate_filter(filter).map(|()| false)
    };
    checked.map_err(|error| DecodeError {
        reason: ReasonCode::TOPIC_FILTER_INVALID,
        detail: match error {
            TopicError::Empty => "a topic filter is empty [MQTT-4.7.3-1]",
            TopicError::MultiLevel => "# is not alone in the last level of a topic filter [MQTT-4.7.1-1]",
            TopicError::SingleLevel => "+ is not alone in its level of a topic filter [MQTT-4.7.1-2]",
            TopicError::ShareName => "a share name is empty or contains + or # [MQTT-4.8.2-1] [MQTT-4.8.2-2]",
            TopicError::ShareFilter => "a shared subscription has no topic filter [MQTT-4.8.2-2]",
            // The string decoder refuses the first ones; the last one needs a limit that is not
            // passed here.
            TopicError::TooLong
            | TopicError::Null
            | TopicError::Wildcard
            | TopicError::TooManyLevels { .. } => "a topic filter is not valid [section 4.7]",
        },
    })
}

fn check_options(byte: u8, version: Version) -> Result<SubscriptionOptions, DecodeError> {
    if version.is_v5() {
        return SubscriptionOptions::from_byte(byte);
    }
    // 3.x treats reserved bits and QoS 3 alike.
    QoS::from_u8(byte)
        .map(SubscriptionOptions::of_qos)
        .ok_or(DecodeError::malformed("a requested QoS is not 0, 1 or 2 [MQTT-3-8.3-4 of 3.1.1]"))
}

pub(super) fn decode_unsubscribe(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<Unsubscribe<'_>, DecodeError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::Unsubscribe), version)?;
    let filters = TopicFilters::from_encoded(reader.rest());
    if reader.is_empty() {
        return Err(DecodeError::protocol("UNSUBSCRIBE without a filter [MQTT-3.10.3-2]"));
    }
    while !reader.is_empty() {
        check_filter(reader.string()?, version)?;
    }
    Ok(Unsubscribe { packet_id, properties, filters })
}

pub(super) fn decode_suback(mut reader: Reader<'_>, version: Version) -> Result<SubAck<'_>, DecodeError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::SubAck), version)?;
    let codes = reader.rest();
    if codes.is_empty() {
        return Err(DecodeError::protocol("SUBACK without a reason code [MQTT-3.8.4-6]"));
    }
    // Table 3-8; 3.1.1 has 0x80 and the three QoS [MQTT-3.9.3-2 of 3.1.1].
    let known = |code: &u8| match version {
        Version::V5 => {
            matches!(*code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
        }
        Version::V31 | Version::V311 => matches!(*code, 0..=2 | 0x80),
    };
    if !codes.iter().all(known) {
        return Err(DecodeError::protocol("SUBACK does not know this reason code [MQTT-3.9.3-2]"));
    }
    Ok(SubAck { packet_id, properties, codes })
}

pub(super) fn decode_unsuback(mut reader: Reader<'_>, version: Version) -> Result<UnsubAck<'_>, DecodeError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::UnsubAck), version)?;
    if !version.is_v5() {
        reader.finish()?;
        return Ok(UnsubAck { packet_id, properties, codes: &[] });
    }
    let codes = reader.rest();
    if codes.is_empty() {
        return Err(DecodeError::protocol("UNSUBACK without a reason code [MQTT-3.11.3-2]"));
    }
    // Table 3-9.
    if !codes.iter().all(|code| matches!(*code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)) {
        return Err(DecodeError::protocol("UNSUBACK does not know this reason code [MQTT-3.11.3-2]"));
    }
    Ok(UnsubAck { packet_id, properties, codes })
}

pub(super) fn subscribe_remaining(subscribe: &Subscribe<'_>, version: Version) -> usize {
    let filters: usize = subscribe.filters.map(|(filter, _)| string_len(filter) + 1).sum();
    2 + section_len(&subscribe.properties, version) + filters
}

pub(super) fn encode_subscribe(subscribe: &Subscribe<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = subscribe_remaining(subscribe, version);
    if !begin(out, first_byte(PacketType::Subscribe), remaining, remaining) {
        return;
    }
    out.extend_from_slice(&subscribe.packet_id.get().to_be_bytes());
    put_section(out, &subscribe.properties, version);
    for (filter, options) in subscribe.filters {
        put_string(out, filter);
        out.push(if version.is_v5() { options.to_byte() } else { options.qos.as_u8() });
    }
}

pub(super) fn unsubscribe_remaining(unsubscribe: &Unsubscribe<'_>, version: Version) -> usize {
    2 + section_len(&unsubscribe.properties, version) + unsubscribe.filters.map(string_len).sum::<usize>()
}

pub(super) fn encode_unsubscribe(unsubscribe: &Unsubscribe<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = unsubscribe_remaining(unsubscribe, version);
    if !begin(out, first_byte(PacketType::Unsubscribe), remaining, remaining) {
        return;
    }
    out.extend_from_slice(&unsubscribe.packet_id.get().to_be_bytes());
    put_section(out, &unsubscribe.properties, version);
    for filter in unsubscribe.filters {
        put_string(out, filter);
    }
}

pub(super) const fn suback_remaining(suback: &SubAck<'_>, version: Version) -> usize {
    2 + section_len(&suback.properties, version) + suback.codes.len()
}

pub(super) fn encode_suback(suback: &SubAck<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = suback_remaining(suback, version);
    if !begin(out, first_byte(PacketType::SubAck), remaining, remaining) {
        return;
    }
    out.extend_from_slice(&suback.packet_id.get().to_be_bytes());
    put_section(out, &suback.properties, version);
    if version.is_v5() {
        out.extend_from_slice(suback.codes);
    } else {
        // The only failure code of 3.1.1 (section 3.9.3 of 3.1.1).
        out.extend(suback.codes.iter().map(|&code| code.min(ReasonCode::UNSPECIFIED_ERROR.0)));
    }
}

pub(super) fn unsuback_remaining(unsuback: &UnsubAck<'_>, version: Version) -> usize {
    2 + section_len(&unsuback.properties, version) + if version.is_v5() { unsuback.codes.len() } else { 0 }
}

pub(super) fn encode_unsuback(unsuback: &UnsubAck<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = unsuback_remaining(unsuback, version);
    if !begin(out, first_byte(PacketType::UnsubAck), remaining, remaining) {
        return;
    }
    out.extend_from_slice(&unsuback.packet_id.get().to_be_bytes());
    put_section(out, &unsuback.properties, version);
    if version.is_v5() {
        out.extend_from_slice(unsuback.codes);
    }
}
