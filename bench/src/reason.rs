//! Names of the codes that a broker answers with, for messages to people and the error counts.

use std::fmt;

/// A code as the broker sent it, in words of the protocol version it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// CONNACK return code of MQTT 3.1 and 3.1.1 (3.1.1 section 3.2.2.3).
    ReturnCode(u8),
    /// Reason code of MQTT 5.0 (section 2.4).
    Code(u8),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ReturnCode(code) => write!(f, "{} (return code {code})", return_code_name(code)),
            Self::Code(code) => write!(f, "{} (0x{code:02X})", code_name(code)),
        }
    }
}

fn return_code_name(code: u8) -> &'static str {
    match code {
        0 => "connection accepted",
        1 => "unacceptable protocol version",
        2 => "identifier rejected",
        3 => "server unavailable",
        4 => "bad user name or password",
        5 => "not authorized",
        _ => "unknown code",
    }
}

fn code_name(code: u8) -> &'static str {
    match code {
        0x00 => "success",
        0x01 => "granted QoS 1",
        0x02 => "granted QoS 2",
        0x04 => "disconnect with will message",
        0x10 => "no matching subscribers",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => "unknown code",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_reads_differently_in_either_table() {
        assert_eq!(Reason::ReturnCode(5).to_string(), "not authorized (return code 5)");
        assert_eq!(Reason::Code(0x87).to_string(), "not authorized (0x87)");
        assert_eq!(Reason::Code(0x05).to_string(), "unknown code (0x05)");
    }
}
