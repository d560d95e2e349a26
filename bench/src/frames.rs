//! The wire: cutting a byte stream into frames, reading the packets a client receives, writing those it sends.
//! Called by `client`. Packets of the handshake go through mqttbytes, whole frames only; what comes per message
//! is read and written here, because mqttbytes allocates for it and turns down packets that brokers do send
//! (DISCONNECT of two bytes, unknown reason codes). Keeps no state.

mod encode;

pub use encode::{ConnectWith, PublishHead, connect, disconnect, subscribe};

use crate::plan::Version;
use crate::reason::Reason;
use bytes::BytesMut;

/// Why a frame cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

fn malformed(what: &str) -> Malformed {
    Malformed(what.to_owned())
}

/// Packet types a client may receive (MQTT 5.0 section 2.1.2).
pub mod kind {
    #![allow(missing_docs)]
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBACK: u8 = 9;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
}

/// One whole control packet at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// All of it, fixed header included.
    pub bytes: &'a [u8],
    /// What follows the fixed header.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Packet type, the upper half of the first byte.
    pub fn kind(&self) -> u8 {
        self.bytes[0] >> 4
    }
}

/// What stands at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front<'a> {
    /// A whole frame.
    Whole(Frame<'a>),
    /// A frame of this many bytes in all, not yet here.
    Partial(usize),
    /// Too little to tell.
    Unknown,
}

/// Looks at the front of `bytes`. Fails if the remaining length takes more than four bytes.
#[inline]
pub fn front(bytes: &[u8]) -> Result<Front<'_>, Malformed> {
    // Most packets are short, and this is done for each.
    match bytes {
        [_, length @ 0..=0x7F, ..] => {
            let total = 2 + usize::from(*length);
            Ok(match bytes.get(..total) {
                Some(whole) => Front::Whole(Frame { bytes: whole, body: &whole[2..] }),
                None => Front::Partial(total),
            })
        }
        _ => front_of_long(bytes),
    }
}

fn front_of_long(bytes: &[u8]) -> Result<Front<'_>, Malformed> {
    let mut length = 0_usize;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let head = 2 + at;
            let total = head + length;
            return Ok(match bytes.get(..total) {
                Some(whole) => Front::Whole(Frame { bytes: whole, body: &whole[head..] }),
                None => Front::Partial(total),
            });
        }
    }
    if bytes.len() >= 5 {
        return Err(malformed("remaining length of more than four bytes"));
    }
    Ok(Front::Unknown)
}

/// A received PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// 0 to 2.
    pub qos: u8,
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// The application message.
    pub payload: &'a [u8],
}

/// Reads a PUBLISH.
#[inline]
pub fn publish<'a>(version: Version, frame: &Frame<'a>) -> Result<Publish<'a>, Malformed> {
    let qos = frame.bytes[0] >> 1 & 3;
    if qos == 3 {
        return Err(malformed("PUBLISH with QoS 3"));
    }
    let (_topic, mut rest) = prefixed(frame.body).ok_or_else(|| malformed("PUBLISH cut in its topic"))?;
    let mut packet_id = 0;
    if qos > 0 {
        (packet_id, rest) = number(rest).ok_or_else(|| malformed("PUBLISH cut in its packet id"))?;
        if packet_id == 0 {
            return Err(malformed("PUBLISH with packet id 0"));
        }
    }
    if version == Version::V5 {
        rest = after_properties(rest).ok_or_else(|| malformed("PUBLISH cut in its properties"))?;
    }
    Ok(Publish { qos, packet_id, payload: rest })
}

/// Reads the packet id and reason code of PUBACK, PUBREC, PUBREL or PUBCOMP. An absent reason is success
/// (MQTT 5.0 section 3.4.2.1).
#[inline]
pub fn ack(frame: &Frame<'_>) -> Result<(u16, u8), Malformed> {
    let (packet_id, rest) =
        number(frame.body).ok_or_else(|| malformed("acknowledgement without packet id"))?;
    Ok((packet_id, rest.first().copied().unwrap_or(0)))
}

/// Reads a SUBACK: one code per filter.
pub fn suback<'a>(version: Version, frame: &Frame<'a>) -> Result<&'a [u8], Malformed> {
    let cut = || malformed("SUBACK cut short");
    let (_packet_id, mut rest) = number(frame.body).ok_or_else(cut)?;
    if version == Version::V5 {
        rest = after_properties(rest).ok_or_else(cut)?;
    }
    Ok(rest)
}

/// Reads the reason of a DISCONNECT; two bytes mean a normal one (MQTT 5.0 section 3.14.2.1).
pub fn disconnect_reason(frame: &Frame<'_>) -> Reason {
    Reason::Code(frame.body.first().copied().unwrap_or(0))
}

/// What a CONNACK settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connack {
    /// How many QoS 1 and 2 messages may be in flight towards the broker.
    pub receive_maximum: u16,
    /// Highest QoS the broker takes.
    pub maximum_qos: u8,
    /// Whether it takes retained messages.
    pub retain_available: bool,
    /// Largest packet it takes, in bytes.
    pub maximum_packet_size: u32,
    /// The keep alive it insists on, in seconds.
    pub server_keep_alive_s: Option<u16>,
}

impl Connack {
    /// What holds where the broker says nothing.
    const PLAIN: Self = Self {
        receive_maximum: u16::MAX,
        maximum_qos: 2,
        retain_available: true,
        maximum_packet_size: u32::MAX,
        server_keep_alive_s: None,
    };
}

/// Reads a CONNACK: what it settles, or why the connection was refused.
pub fn connack(version: Version, frame: &Frame<'_>) -> Result<Result<Connack, Reason>, Malformed> {
    let &[_flags, code, ..] = frame.body else { return Err(malformed("CONNACK cut short")) };
    if version != Version::V5 {
        return Ok(if code == 0 { Ok(Connack::PLAIN) } else { Err(Reason::ReturnCode(code)) });
    }
    if code != 0 {
        // A broker that does not speak MQTT 5 answers in the form of MQTT 3 (MQTT 5.0 section 3.1.2.2).
        let old_form = frame.body.len() == 2 && code < 0x80;
        return Ok(Err(if old_form { Reason::ReturnCode(code) } else { Reason::Code(code) }));
    }
    let packet = mqttbytes::v5::read(&mut BytesMut::from(frame.bytes), frame.body.len());
    let Ok(mqttbytes::v5::Packet::ConnAck(packet)) = packet else {
        return Err(Malformed(format!("CONNACK that cannot be read: {packet:?}")));
    };
    let Some(properties) = packet.properties else { return Ok(Ok(Connack::PLAIN)) };
    Ok(Ok(Connack {
        receive_maximum: properties.receive_max.unwrap_or(Connack::PLAIN.receive_maximum).max(1),
        maximum_qos: properties.max_qos.unwrap_or(Connack::PLAIN.maximum_qos),
        retain_available: properties.retain_available != Some(0),
        maximum_packet_size: properties.max_packet_size.unwrap_or(Connack::PLAIN.maximum_packet_size),
        server_keep_alive_s: properties.server_keep_alive,
    }))
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(usize::from(length))
}

fn after_properties(bytes: &[u8]) -> Option<&[u8]> {
    let mut length = 0_usize;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes.get(at + 1 + length..);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn whole(bytes: &[u8]) -> Frame<'_> {
        match front(bytes).unwrap() {
            Front::Whole(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stream_is_cut_at_frame_borders_wherever_the_reads_end() {
        let mut stream = vec![0xD0, 0];
        stream.extend([0x40, 2, 0, 9]);
        stream.extend([0x30, 0xC8, 0x01]);
        stream.extend([7; 200]);
        let whole_stream = stream.len();
        stream.push(0xE0);

        let mut at = 0;
        let mut lengths = Vec::new();
        while let Front::Whole(frame) = front(&stream[at..]).unwrap() {
            lengths.push(frame.bytes.len());
            at += frame.bytes.len();
        }
        assert_eq!((lengths, at), (vec![2, 4, 203], whole_stream));
        assert_eq!(front(&stream[at..]).unwrap(), Front::Unknown);

        for cut in 9..whole_stream {
            assert_eq!(front(&stream[6..cut]).unwrap(), Front::Partial(203), "cut at {cut}");
        }
        assert_eq!(front(&stream[6..8]).unwrap(), Front::Unknown, "the length itself is cut");
        assert_eq!(front(&[]).unwrap(), Front::Unknown);
    }

    #[test]
    fn the_remaining_length_has_at_most_four_bytes() {
        assert_eq!(front(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).unwrap(), Front::Partial(268_435_455 + 5));
        assert!(front(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
        assert_eq!(front(&[0x30, 0x80, 0x80, 0x80]).unwrap(), Front::Unknown);
    }

    #[test]
    fn a_publish_is_read_in_every_version_and_qos() {
        let v4 = [0x30, 5, 0, 1, b't', b'h', b'i'];
        assert_eq!(
            publish(Version::V311, &whole(&v4)).unwrap(),
            Publish { qos: 0, packet_id: 0, payload: b"hi" }
        );
        let v5 = [0x3B, 12, 0, 1, b't', 0, 7, 5, 0x02, 0, 0, 0, 9, b'p'];
        assert_eq!(
            publish(Version::V5, &whole(&v5)).unwrap(),
            Publish { qos: 1, packet_id: 7, payload: b"p" }
        );
    }

    #[test]
    fn a_publish_that_lies_about_its_lengths_is_malformed() {
        for (version, bytes) in [
            (Version::V311, &[0x30, 3, 0, 9, b't'][..]),
            (Version::V311, &[0x36, 5, 0, 1, b't', 0, 1]),
            (Version::V311, &[0x32, 4, 0, 1, b't', 0]),
            (Version::V311, &[0x32, 5, 0, 1, b't', 0, 0]),
            (Version::V5, &[0x30, 4, 0, 1, b't', 9]),
            (Version::V5, &[0x30, 3, 0, 1, b't']),
        ] {
            assert!(publish(version, &whole(bytes)).is_err(), "{bytes:02x?}");
        }
    }

    #[test]
    fn an_acknowledgement_without_reason_is_a_success() {
        assert_eq!(ack(&whole(&[0x40, 2, 1, 2])).unwrap(), (0x0102, 0));
        assert_eq!(ack(&whole(&[0x40, 3, 0, 5, 0x87])).unwrap(), (5, 0x87));
        assert!(ack(&whole(&[0x40, 1, 0])).is_err());
    }

    #[test]
    fn a_disconnect_of_two_bytes_is_read() {
        assert_eq!(disconnect_reason(&whole(&[0xE0, 0])), Reason::Code(0));
        assert_eq!(disconnect_reason(&whole(&[0xE0, 2, 0x8E, 0])), Reason::Code(0x8E));
    }

    #[test]
    fn suback_codes_follow_the_properties() {
        assert_eq!(suback(Version::V311, &whole(&[0x90, 4, 0, 1, 1, 0x80])).unwrap(), [1, 0x80]);
        assert_eq!(suback(Version::V5, &whole(&[0x90, 8, 0, 1, 4, 0x1F, 0, 1, b'x', 2])).unwrap(), [2]);
    }

    #[test]
    fn connack_limits_and_refusals_are_read() {
        assert_eq!(connack(Version::V311, &whole(&[0x20, 2, 0, 0])).unwrap(), Ok(Connack::PLAIN));
        assert_eq!(connack(Version::V31, &whole(&[0x20, 2, 0, 5])).unwrap(), Err(Reason::ReturnCode(5)));
        assert_eq!(connack(Version::V5, &whole(&[0x20, 3, 0, 0x87, 0])).unwrap(), Err(Reason::Code(0x87)));
        assert_eq!(
            connack(Version::V5, &whole(&[0x20, 2, 0, 1])).unwrap(),
            Err(Reason::ReturnCode(1)),
            "a broker of MQTT 3.1.1 turns MQTT 5 down in its own form"
        );
        let full = [0x20, 13, 0, 0, 10, 0x21, 0, 20, 0x24, 1, 0x13, 0, 60, 0x25, 0];
        assert_eq!(
            connack(Version::V5, &whole(&full)).unwrap(),
            Ok(Connack {
                receive_maximum: 20,
                maximum_qos: 1,
                retain_available: false,
                server_keep_alive_s: Some(60),
                ..Connack::PLAIN
            })
        );
        assert!(connack(Version::V5, &whole(&[0x20, 2, 0, 0])).is_err(), "no property length");
        assert!(connack(Version::V311, &whole(&[0x20, 1, 0])).is_err());
    }
}
