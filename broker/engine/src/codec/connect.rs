//! CONNECT, CONNACK, DISCONNECT and AUTH on the wire (sections 3.1, 3.2, 3.14, 3.15).
//! Called by `codec`.

use super::{Frame, begin, check_flags, first_byte, properties, put_section, section_len};
use crate::packet::wire::{DecodeError, Reader, binary_len, put_binary, put_string, string_len};
use crate::packet::{
    Auth, ConnAck, Connect, Disconnect, PacketType, Properties, PropertyId, PropertyOwner, QoS, Version, Will,
};
use crate::reason::ReasonCode;
use crate::topic;

/// The connect flags (section 3.1.2.3).
mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USERNAME: u8 = 0x80;
}

const fn malformed<T>(detail: &'static str) -> Result<T, DecodeError> {
    Err(DecodeError::malformed(detail))
}

/// The version for the answer to a CONNECT that [`super::decode`] refused: v5 for a level above 5,
/// 3.1.1 for levels 1, 2 and unknown ones below. `None` if the bytes are no CONNECT or name another
/// protocol; then close without an answer.
pub fn connect_version(frame: &Frame<'_>) -> Option<Version> {
    if frame.packet_type() != Some(PacketType::Connect) {
        return None;
    }
    let mut reader = Reader::new(frame.body);
    match (reader.binary().ok()?, reader.u8().ok()?) {
        (b"MQIsdp", _) => Some(Version::V31),
        // The bridges of Mosquitto set the top bit of the level.
        (b"MQTT", level) if level & 0x7F >= 5 => Some(Version::V5),
        (b"MQTT", _) => Some(Version::V311),
        _ => None,
    }
}

fn version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let unsupported = |detail| DecodeError { reason: ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, detail };
    match (reader.binary()?, reader.u8()?) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT" | b"MQIsdp", _) => {
            Err(unsupported("the protocol version is not 3.1, 3.1.1 or 5.0 [MQTT-3.1.2-2]"))
        }
        _ => Err(unsupported("the protocol name is not MQTT [MQTT-3.1.2-1]")),
    }
}

pub(super) fn decode_connect<'a>(frame: &Frame<'a>) -> Result<Connect<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let version = version(&mut reader)?;
    check_flags(frame.first, PacketType::Connect, version)?;
    let flags = reader.u8()?;
    check_connect_flags(flags, version)?;
    let keep_alive_s = reader.u16()?;
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::Connect), version)?;
    if properties.has(PropertyId::AuthData) && !properties.has(PropertyId::AuthMethod) {
        return Err(DecodeError::protocol("authentication data without a method [section 3.1.2.11.10]"));
    }
    // The order of the payload is fixed [MQTT-3.1.3-1].
    let client_id = reader.string()?;
    let will = if flags & flag::WILL != 0 { Some(decode_will(&mut reader, flags, version)?) } else { None };
    // In MQTT 3.1 the remaining length overrides the flags: user name and password may be missing
    // at the end.
    let missing = |reader: &Reader<'_>| version == Version::V31 && reader.is_empty();
    let mut username = None;
    if flags & flag::USERNAME != 0 && !missing(&reader) {
        // [MQTT-3.1.2-17]
        username = Some(reader.string()?);
    }
    let mut password = None;
    if flags & flag::PASSWORD != 0 && !missing(&reader) {
        // [MQTT-3.1.2-19]
        password = Some(reader.binary()?);
    }
    // Fields without their flag are not allowed [MQTT-3.1.2-16] [MQTT-3.1.2-18].
    reader.finish()?;
    let clean_start = flags & flag::CLEAN_START != 0;
    Ok(Connect { version, clean_start, keep_alive_s, client_id, username, password, will, properties })
}

fn check_connect_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    // MQTT 3.1 does not use the lowest bit and does not forbid it.
    if flags & flag::RESERVED != 0 && version != Version::V31 {
        return malformed("the reserved connect flag is set [MQTT-3.1.2-3]");
    }
    let will_qos = flags >> 3 & 0b11;
    if flags & flag::WILL == 0 {
        if will_qos != 0 {
            return malformed("a will QoS without a will [MQTT-3.1.2-11]");
        }
        if flags & flag::WILL_RETAIN != 0 {
            return malformed("will retain without a will [MQTT-3.1.2-13]");
        }
    }
    if will_qos == 3 {
        return malformed("the will QoS is 3 [MQTT-3.1.2-12]");
    }
    // v5 allows a password alone (section 3.1.2.9); 3.1.1 forbids it [MQTT-3.1.2-22 of 3.1.1].
    if !version.is_v5() && flags & flag::PASSWORD != 0 && flags & flag::USERNAME == 0 {
        return malformed("a password without a user name [MQTT-3.1.2-22 of 3.1.1]");
    }
    Ok(())
}

fn decode_will<'a>(reader: &mut Reader<'a>, flags: u8, version: Version) -> Result<Will<'a>, DecodeError> {
    let properties = properties(reader, PropertyOwner::Will, version)?;
    let topic = reader.string()?;
    topic::validate_name(topic).map_err(|error| DecodeError {
        reason: ReasonCode::TOPIC_NAME_INVALID,
        detail: match error {
            topic::TopicError::Empty => "the will topic is empty [MQTT-4.7.3-1]",
            _ => "the will topic contains wildcards [MQTT-4.7.0-1]",
        },
    })?;
    let payload = reader.binary()?;
    let qos =
        QoS::from_u8(flags >> 3 & 0b11).ok_or(DecodeError::malformed("the will QoS is 3 [MQTT-3.1.2-12]"))?;
    Ok(Will { topic, payload, qos, retain: flags & flag::WILL_RETAIN != 0, properties })
}

pub(super) fn decode_connack(mut reader: Reader<'_>, version: Version) -> Result<ConnAck<'_>, DecodeError> {
    let flags = reader.u8()?;
    let code = reader.u8()?;
    if version == Version::V31 {
        // MQTT 3.1 does not use the first byte.
        check_connack_code(code, version)?;
        reader.finish()?;
        return Ok(ConnAck { session_present: false, code, properties: Properties::default() });
    }
    if flags & !1 != 0 {
        return malformed("a reserved acknowledge flag of CONNACK is set [MQTT-3.2.2-1]");
    }
    check_connack_code(code, version)?;
    if flags == 1 && code != 0 {
        return Err(DecodeError::protocol("session present in a CONNACK that refuses [MQTT-3.2.2-6]"));
    }
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::ConnAck), version)?;
    reader.finish()?;
    Ok(ConnAck { session_present: flags == 1, code, properties })
}

/// The reason codes of CONNACK (table 3-1), the return codes of 3.x (table 3.1 of 3.1.1).
fn check_connack_code(code: u8, version: Version) -> Result<(), DecodeError> {
    let known = match version {
        Version::V5 => {
            matches!(code, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
        }
        Version::V31 | Version::V311 => code <= 5,
    };
    if known {
        Ok(())
    } else {
        Err(DecodeError::protocol("CONNACK does not know this reason code [MQTT-3.2.2-8]"))
    }
}

pub(super) fn decode_disconnect(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<Disconnect<'_>, DecodeError> {
    let mut disconnect = Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::default() };
    // A remaining length of 0 means normal disconnection without properties (section 3.14.2.1); 3.x
    // has no other form.
    if !version.is_v5() || reader.is_empty() {
        reader.finish()?;
        return Ok(disconnect);
    }
    disconnect.reason = ReasonCode(reader.u8()?);
    if !disconnect.reason.ends_connection() {
        return Err(DecodeError::protocol("DISCONNECT does not know this reason code [MQTT-3.14.2-1]"));
    }
    // A remaining length of 1 means no properties (section 3.14.2.2.1).
    if !reader.is_empty() {
        disconnect.properties =
            properties(&mut reader, PropertyOwner::Packet(PacketType::Disconnect), version)?;
        reader.finish()?;
    }
    Ok(disconnect)
}

pub(super) fn decode_auth(mut reader: Reader<'_>, version: Version) -> Result<Auth<'_>, DecodeError> {
    if !version.is_v5() {
        return malformed("packet type 15 is reserved in MQTT 3.x [section 2.2.1 of 3.1.1]");
    }
    // Success without properties may be left out (section 3.15.2.1), although the method is
    // mandatory (3.15.2.2.2).
    if reader.is_empty() {
        return Ok(Auth { reason: ReasonCode::SUCCESS, properties: Properties::default() });
    }
    let reason = ReasonCode(reader.u8()?);
    if !matches!(
        reason,
        ReasonCode::SUCCESS | ReasonCode::CONTINUE_AUTHENTICATION | ReasonCode::REAUTHENTICATE
    ) {
        return Err(DecodeError::protocol("AUTH does not know this reason code [MQTT-3.15.2-1]"));
    }
    let properties = properties(&mut reader, PropertyOwner::Packet(PacketType::Auth), version)?;
    reader.finish()?;
    if !properties.has(PropertyId::AuthMethod) {
        return Err(DecodeError::protocol("AUTH without an authentication method [section 3.15.2.2.2]"));
    }
    Ok(Auth { reason, properties })
}

pub(super) fn connect_remaining(connect: &Connect<'_>) -> usize {
    let version = connect.version;
    let will = connect.will.as_ref().map_or(0, |will| {
        section_len(&will.properties, version) + string_len(will.topic) + binary_len(will.payload)
    });
    // Name, level, flags, keep alive and properties, followed by the payload.
    string_len(version.protocol_name())
        + 4
        + section_len(&connect.properties, version)
        + string_len(connect.client_id)
        + will
        + connect.username.map_or(0, string_len)
        + connect.password.map_or(0, binary_len)
}

pub(super) fn encode_connect(connect: &Connect<'_>, out: &mut Vec<u8>) {
    let version = connect.version;
    let remaining = connect_remaining(connect);
    if !begin(out, first_byte(PacketType::Connect), remaining, remaining) {
        return;
    }
    let mut flags = 0;
    for (set, bit) in [
        (connect.clean_start, flag::CLEAN_START),
        (connect.will.is_some(), flag::WILL),
        (connect.will.is_some_and(|will| will.retain), flag::WILL_RETAIN),
        (connect.password.is_some(), flag::PASSWORD),
        (connect.username.is_some(), flag::USERNAME),
    ] {
        flags |= if set { bit } else { 0 };
    }
    flags |= connect.will.map_or(0, |will| will.qos.as_u8() << 3);
    put_string(out, version.protocol_name());
    out.push(version.level());
    out.push(flags);
    out.extend_from_slice(&connect.keep_alive_s.to_be_bytes());
    put_section(out, &connect.properties, version);
    put_string(out, connect.client_id);
    if let Some(will) = &connect.will {
        put_section(out, &will.properties, version);
        put_string(out, will.topic);
        put_binary(out, will.payload);
    }
    if let Some(username) = connect.username {
        put_string(out, username);
    }
    if let Some(password) = connect.password {
        put_binary(out, password);
    }
}

pub(super) const fn connack_remaining(connack: &ConnAck<'_>, version: Version) -> usize {
    2 + section_len(&connack.properties, version)
}

pub(super) fn encode_connack(connack: &ConnAck<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = connack_remaining(connack, version);
    if begin(out, first_byte(PacketType::ConnAck), remaining, remaining) {
        // MQTT 3.1 keeps this byte reserved.
        out.push((connack.session_present && version != Version::V31).into());
        out.push(connack.code);
        put_section(out, &connack.properties, version);
    }
}

pub(super) fn disconnect_remaining(disconnect: &Disconnect<'_>, version: Version) -> usize {
    match (version.is_v5(), disconnect.properties.is_empty(), disconnect.reason) {
        (false, _, _) | (true, true, ReasonCode::SUCCESS) => 0,
        (true, true, _) => 1,
        (true, false, _) => 1 + section_len(&disconnect.properties, version),
    }
}

pub(super) fn encode_disconnect(disconnect: &Disconnect<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = disconnect_remaining(disconnect, version);
    if !begin(out, first_byte(PacketType::Disconnect), remaining, remaining) {
        return;
    }
    if remaining > 0 {
        out.push(disconnect.reason.0);
    }
    if remaining > 1 {
        put_section(out, &disconnect.properties, version);
    }
}

pub(super) fn auth_remaining(auth: &Auth<'_>) -> usize {
    match (auth.reason, auth.properties.is_empty()) {
        (ReasonCode::SUCCESS, true) => 0,
        _ => 1 + section_len(&auth.properties, Version::V5),
    }
}

pub(super) fn encode_auth(auth: &Auth<'_>, version: Version, out: &mut Vec<u8>) {
    let remaining = auth_remaining(auth);
    if !version.is_v5() || !begin(out, first_byte(PacketType::Auth), remaining, remaining) {
        return;
    }
    if remaining > 0 {
        out.push(auth.reason.0);
        put_section(out, &auth.properties, version);
    }
}
