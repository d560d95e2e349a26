//! Names of packet types and of disconnect reasons, and the reason in a CONNACK.

use grapnel_plugin_abi::Reason;

/// Packet types that are sent before a client has connected, or may be (MQTT 5.0, table 2-1).
pub(super) const CONNECT: u8 = 1;
/// See [`CONNECT`].
pub(super) const CONNACK: u8 = 2;
/// See [`CONNECT`].
pub(super) const DISCONNECT: u8 = 14;
/// See [`CONNECT`].
pub(super) const AUTH: u8 = 15;

/// The reason in a CONNACK (section 3.2.2).
pub(super) fn connack_reason(connack: &[u8]) -> Option<u8> {
    // The flags and the reason follow the length, which has at most four bytes.
    let length = connack.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0)?;
    connack.get(length + 3).copied()
}

/// Why a connection has ended, in the terms of MQTT 5, section 2.4.
pub(super) fn ended(reason: Reason) -> &'static str {
    match reason.0 {
        0x00 => "normal",
        0x04 => "disconnect_with_will",
        0x81 => "malformed_packet",
        0x82 => "protocol_error",
        0x83 => "implementation_specific_error",
        0x87 => "not_authorized",
        0x89 => "server_busy",
        0x8B => "server_shutting_down",
        0x8D => "keepalive_timeout",
        0x8E => "takenover",
        0x93 => "receive_maximum_exceeded",
        0x95 => "packet_too_large",
        0x96 => "message_rate_too_high",
        0x97 => "quota_exceeded",
        0x98 => "kicked",
        0x9C => "use_another_server",
        0x9D => "server_moved",
        _ => "closed",
    }
}

#[cfg(test)]
mod tests {
    use super::connack_reason;

    #[test]
    fn a_connack_of_any_length_has_its_reason() {
        for (connack, expected) in [
            (&[0x20, 2, 0, 0][..], Some(0)),
            (&[0x20, 2, 1, 0], Some(0)),
            (&[0x20, 2, 0, 5], Some(5)),
            (&[0x20, 0x83, 0x01, 1, 0, 0], Some(0)),
            (&[0x20, 0x83, 0x01, 0, 0x87], Some(0x87)),
            (&[0x20, 2, 0], None),
            (&[0x20, 0x80, 0x80, 0x80, 0x80, 0x80], None),
            (&[], None),
        ] {
            assert_eq!(connack_reason(connack), expected, "{connack:?}");
        }
    }
}
