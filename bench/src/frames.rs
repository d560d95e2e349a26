//! The packets of a client: decodes those that it receives; `encode` writes those that it sends.
//! Called by `engine::client` for every packet. It has no state.

mod encode;

pub use encode::{PublishPrefix, connect, disconnect, subscribe};
pub use grapnel_floor::frame::{Frame, Front, Incomplete, Malformed, front};
pub use grapnel_floor::wire::{publish, push_ack};

use crate::plan::Version;
use crate::reason::Reason;
use grapnel_floor::wire::Fields;

/// Packet types a client may receive (MQTT 5.0 section 2.1.2).
pub mod kind {
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

/// Decodes the packet id and reason code of PUBACK, PUBREC, PUBREL or PUBCOMP. An absent reason is
/// success (MQTT 5.0 section 3.4.2.1).
#[inline]
pub fn ack(frame: &Frame<'_>) -> Result<(u16, u8), Malformed> {
    let mut fields = Fields(frame.body);
    let packet_id = fields.number()?;
    Ok((packet_id, fields.0.first().copied().unwrap_or(0)))
}

/// Reads a SUBACK: one code per filter.
pub fn suback<'a>(version: Version, frame: &Frame<'a>) -> Result<&'a [u8], Malformed> {
    let mut fields = Fields(frame.body);
    let _packet_id = fields.number()?;
    if version == Version::V5 {
        fields.skip_properties()?;
    }
    Ok(fields.0)
}

/// Decodes the reason of a DISCONNECT; two bytes mean a normal one (MQTT 5.0 section 3.14.2.1).
pub fn disconnect_reason(frame: &Frame<'_>) -> Reason {
    Reason::Code(frame.body.first().copied().unwrap_or(0))
}

/// Settings of a CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connack {
    /// Maximum number of QoS 1 and 2 messages in flight to the broker.
    pub receive_maximum: u16,
    /// Highest QoS that the broker accepts.
    pub maximum_qos: u8,
    /// Whether it accepts retained messages.
    pub retain_available: bool,
    /// Largest packet it accepts, in bytes.
    pub maximum_packet_size: u32,
    /// The keep alive that it sets, in seconds.
    pub server_keep_alive_s: Option<u16>,
}

impl Connack {
    /// Values for absent properties.
    const PLAIN: Self = Self {
        receive_maximum: u16::MAX,
        maximum_qos: 2,
        retain_available: true,
        maximum_packet_size: u32::MAX,
        server_keep_alive_s: None,
    };
}

/// Decodes a CONNACK. Returns its settings, or why the connection was refused.
pub fn connack(version: Version, frame: &Frame<'_>) -> Result<Result<Connack, Reason>, Malformed> {
    let mut fields = Fields(frame.body);
    let (_flags, code) = (fields.byte()?, fields.byte()?);
    let mut connack = Connack::PLAIN;
    if version != Version::V5 {
        return Ok(if code == 0 { Ok(connack) } else { Err(Reason::ReturnCode(code)) });
    }
    if code != 0 {
        // A broker that does not speak MQTT 5 answers in the form of MQTT 3 (MQTT 5.0 section
        // 3.1.2.2).
        let old_form = frame.body.len() == 2 && code < 0x80;
        return Ok(Err(if old_form { Reason::ReturnCode(code) } else { Reason::Code(code) }));
    }
    fields.properties(|id, mut value| {
        match id {
            0x13 => connack.server_keep_alive_s = Some(value.number()?),
            0x21 => connack.receive_maximum = value.number()?.max(1),
            0x24 => connack.maximum_qos = value.byte()?,
            0x25 => connack.retain_available = value.byte()? != 0,
            0x27 => {
                connack.maximum_packet_size = u32::from(value.number()?) << 16 | u32::from(value.number()?);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(Ok(connack))
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
