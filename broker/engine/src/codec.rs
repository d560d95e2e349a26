//! The wire codec of MQTT 3.1, 3.1.1 and 5.0: bytes to borrowed packets and back, in both
//! directions. The shell calls it for every frame and the session for every packet it sends.
//! Decoding copies and allocates nothing; encoding appends to a `Vec`. It checks every rule that
//! one packet alone can break. The session checks rules that depend on the direction or on state
//! (second CONNECT, limits of topic aliases, who may send a subscription identifier or an AUTH).

mod ack;
mod connect;
mod publish;
mod subscribe;

pub use ack::{ack_len, encode_ack};
pub use connect::connect_version;
pub use publish::{
    EncodedPublish, PublishHeader, decode_publish, encode_publish, forwardable_properties, patch_packet_id,
    publish_len,
};

pub use crate::packet::DecodeError;
use crate::packet::wire::{Reader, VARINT_MAX, put_varint, varint, varint_len};
use crate::packet::{Packet, PacketType, Properties, PropertyOwner, Version};
use crate::reason::ReasonCode;

/// A packet in the read buffer: complete and with a known type; its content is not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// The first byte: type and flags.
    pub first: u8,
    /// The bytes after the fixed header.
    pub body: &'a [u8],
    /// The bytes of the whole frame, to remove from the buffer after processing.
    pub len: usize,
}

impl Frame<'_> {
    /// The type; `None` for the reserved number 0, which [`frame`] refuses.
    pub const fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_u8(self.first >> 4)
    }
}

/// Finds the first frame of `buf`; `Ok(None)` means that more bytes are needed. Reads only the
/// fixed header.
///
/// `max_bytes` limits the whole frame. It is checked as soon as the header is complete, so that a
/// frame that will be refused is not buffered. `u32::MAX` is no limit.
///
/// # Errors
/// 0x81 for packet type 0 or a bad remaining length, 0x95 for a frame beyond `max_bytes`.
pub fn frame(buf: &[u8], max_bytes: u32) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some((first, header_len, remaining)) = fixed_header(buf)? else { return Ok(None) };
    let len = header_len + remaining as usize;
    if len > max_bytes as usize {
        return Err(DecodeError {
            reason: ReasonCode::PACKET_TOO_LARGE,
            detail: "the packet is larger than the limit [section 3.1.2.11.4]",
        });
    }
    Ok(buf.get(header_len..len).map(|body| Frame { first, body, len }))
}

/// The bytes of the first frame of `buf`, once its fixed header is complete and well-formed; the
/// rest may still be missing.
pub fn frame_len(buf: &[u8]) -> Option<usize> {
    let (_, header_len, remaining) = fixed_header(buf).ok()??;
    Some(header_len + remaining as usize)
}

/// First byte, header length and remaining length (section 2.1).
fn fixed_header(buf: &[u8]) -> Result<Option<(u8, usize, u32)>, DecodeError> {
    let Some((&first, rest)) = buf.split_first() else { return Ok(None) };
    if first >> 4 == 0 {
        return Err(DecodeError::malformed("packet type 0 is reserved [section 2.1.2]"));
    }
    Ok(varint(rest)?.map(|(remaining, len)| (first, 1 + len, remaining)))
}

/// Decodes the packet in a frame. CONNECT names its own version; every other packet is read as
/// `version`.
///
/// # Errors
/// The first rule that the packet breaks: see [`DecodeError`].
#[inline]
pub fn decode<'a>(frame: &Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
    let kind =
        frame.packet_type().ok_or(DecodeError::malformed("packet type 0 is reserved [section 2.1.2]"))?;
    if kind == PacketType::Publish {
        return decode_publish(frame, version).map(Packet::Publish);
    }
    // CONNECT checks its flags itself after it has read its version.
    if kind != PacketType::Connect {
        check_flags(frame.first, kind, version)?;
    }
    let reader = Reader::new(frame.body);
    match kind {
        PacketType::Connect => connect::decode_connect(frame).map(Packet::Connect),
        PacketType::ConnAck => connect::decode_connack(reader, version).map(Packet::ConnAck),
        PacketType::Publish => decode_publish(frame, version).map(Packet::Publish),
        PacketType::PubAck => ack::decode_ack(reader, kind, version).map(Packet::PubAck),
        PacketType::PubRec => ack::decode_ack(reader, kind, version).map(Packet::PubRec),
        PacketType::PubRel => ack::decode_ack(reader, kind, version).map(Packet::PubRel),
        PacketType::PubComp => ack::decode_ack(reader, kind, version).map(Packet::PubComp),
        PacketType::Subscribe => subscribe::decode_subscribe(reader, version).map(Packet::Subscribe),
        PacketType::SubAck => subscribe::decode_suback(reader, version).map(Packet::SubAck),
        PacketType::Unsubscribe => subscribe::decode_unsubscribe(reader, version).map(Packet::Unsubscribe),
        PacketType::UnsubAck => subscribe::decode_unsuback(reader, version).map(Packet::UnsubAck),
        PacketType::PingReq => reader.finish().map(|()| Packet::PingReq),
        PacketType::PingResp => reader.finish().map(|()| Packet::PingResp),
        PacketType::Disconnect => connect::decode_disconnect(reader, version).map(Packet::Disconnect),
        PacketType::Auth => connect::decode_auth(reader, version).map(Packet::Auth),
    }
}

/// Decodes a frame whose type is PUBACK, PUBREC, PUBREL or PUBCOMP.
///
/// # Errors
/// As [`decode`].
pub fn decode_ack<'a>(
    frame: &Frame<'a>,
    kind: PacketType,
    version: Version,
) -> Result<crate::packet::Ack<'a>, DecodeError> {
    check_flags(frame.first, kind, version)?;
    ack::decode_ack(Reader::new(frame.body), kind, version)
}

/// The reserved bits of the first byte (section 2.1.3).
fn check_flags(first: u8, kind: PacketType, version: Version) -> Result<(), DecodeError> {
    // MQTT 3.1 calls these bits unused and allows DUP in a repeated PUBREL, SUBSCRIBE or
    // UNSUBSCRIBE.
    if version == Version::V31 || first & 0x0F == kind.reserved_flags() {
        return Ok(());
    }
    Err(DecodeError::malformed(match kind {
        PacketType::PubRel => "the reserved flags of PUBREL are not 0010 [MQTT-3.6.1-1]",
        PacketType::Subscribe => "the reserved flags of SUBSCRIBE are not 0010 [MQTT-3.8.1-1]",
        PacketType::Unsubscribe => "the reserved flags of UNSUBSCRIBE are not 0010 [MQTT-3.10.1-1]",
        PacketType::Disconnect => "a reserved flag of DISCONNECT is set [MQTT-3.14.1-1]",
        PacketType::Auth => "a reserved flag of AUTH is set [MQTT-3.15.1-1]",
        _ => "a reserved flag of the fixed header is set [MQTT-2.1.3-1]",
    }))
}

/// Reads a property section with its length; 3.x has none.
fn properties<'a>(
    reader: &mut Reader<'a>,
    owner: PropertyOwner,
    version: Version,
) -> Result<Properties<'a>, DecodeError> {
    if !version.is_v5() {
        return Ok(Properties::default());
    }
    let len = reader.varint()?;
    Properties::check(reader.take(len as usize)?, owner)
}

/// A packet identifier: never 0.
fn packet_id(reader: &mut Reader<'_>) -> Result<std::num::NonZeroU16, DecodeError> {
    std::num::NonZeroU16::new(reader.u16()?)
        .ok_or(DecodeError::protocol("the packet identifier is 0 [MQTT-2.2.1-3] [MQTT-2.2.1-4]"))
}

/// Appends a packet as `version`; CONNECT is written in its own version.
///
/// Strings and binary data beyond 65,535 bytes are cut. Nothing is appended for AUTH in 3.x, which
/// does not have it, nor for a packet beyond [`crate::packet::PACKET_BYTES_MAX`]; [`encoded_len`]
/// is 0 for both. The content is not checked.
pub fn encode(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) {
    match packet {
        Packet::Connect(connect) => connect::encode_connect(connect, out),
        Packet::ConnAck(connack) => connect::encode_connack(connack, version, out),
        Packet::Publish(publish) => publish::encode_whole(publish, version, out),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack::encode_full(packet.packet_type(), ack, version, out);
        }
        Packet::Subscribe(subscribe) => subscribe::encode_subscribe(subscribe, version, out),
        Packet::SubAck(suback) => subscribe::encode_suback(suback, version, out),
        Packet::Unsubscribe(unsubscribe) => subscribe::encode_unsubscribe(unsubscribe, version, out),
        Packet::UnsubAck(unsuback) => subscribe::encode_unsuback(unsuback, version, out),
        Packet::PingReq => encode_pingreq(out),
        Packet::PingResp => encode_pingresp(out),
        Packet::Disconnect(disconnect) => connect::encode_disconnect(disconnect, version, out),
        Packet::Auth(auth) => connect::encode_auth(auth, version, out),
    }
}

/// The bytes that [`encode`] appends, for the check against the peer's maximum packet size
/// [MQTT-3.1.2-24].
pub fn encoded_len(packet: &Packet<'_>, version: Version) -> usize {
    let remaining = match packet {
        Packet::Connect(connect) => connect::connect_remaining(connect),
        Packet::ConnAck(connack) => connect::connack_remaining(connack, version),
        Packet::Publish(publish) => publish::whole_remaining(publish, version),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack::ack_remaining(ack, version)
        }
        Packet::Subscribe(subscribe) => subscribe::subscribe_remaining(subscribe, version),
        Packet::SubAck(suback) => subscribe::suback_remaining(suback, version),
        Packet::Unsubscribe(unsubscribe) => subscribe::unsubscribe_remaining(unsubscribe, version),
        Packet::UnsubAck(unsuback) => subscribe::unsuback_remaining(unsuback, version),
        Packet::PingReq | Packet::PingResp => 0,
        Packet::Disconnect(disconnect) => connect::disconnect_remaining(disconnect, version),
        Packet::Auth(_) if !version.is_v5() => return 0,
        Packet::Auth(auth) => connect::auth_remaining(auth),
    };
    frame_bytes(remaining)
}

/// Appends PINGREQ.
pub fn encode_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[(PacketType::PingReq as u8) << 4, 0]);
}

/// Appends a CONNACK of 3.x, with its return code.
pub fn encode_connack_v3(session_present: bool, code: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[(PacketType::ConnAck as u8) << 4, 2, u8::from(session_present), code]);
}

/// Appends PINGRESP.
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[(PacketType::PingResp as u8) << 4, 0]);
}

/// The bytes of a frame with that remaining length; 0 if it is too large for MQTT.
const fn frame_bytes(remaining: usize) -> usize {
    if remaining > VARINT_MAX as usize { 0 } else { 1 + varint_len(remaining) + remaining }
}

/// Appends the fixed header and reserves `room` bytes after it. Returns `false` and appends nothing
/// if the packet is too large for MQTT.
#[must_use]
#[inline]
fn begin(out: &mut Vec<u8>, first: u8, remaining: usize, room: usize) -> bool {
    if remaining > VARINT_MAX as usize {
        return false;
    }
    out.reserve(1 + varint_len(remaining) + room);
    out.push(first);
    put_varint(out, remaining);
    true
}

/// The first byte of every type but PUBLISH.
const fn first_byte(kind: PacketType) -> u8 {
    (kind as u8) << 4 | kind.reserved_flags()
}

/// The bytes of a property section with its length; 3.x has none.
const fn section_len(properties: &Properties<'_>, version: Version) -> usize {
    if version.is_v5() { varint_len(properties.as_bytes().len()) + properties.as_bytes().len() } else { 0 }
}

/// Appends a property section with its length; a section without properties is a length of 0
/// [MQTT-2.2.2-1].
fn put_section(out: &mut Vec<u8>, properties: &Properties<'_>, version: Version) {
    if version.is_v5() {
        put_varint(out, properties.as_bytes().len());
        out.extend_from_slice(properties.as_bytes());
    }
}
