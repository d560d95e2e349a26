//! Names of a broker's codes, for messages and the error counts. Those of MQTT 5 are the engine's.

use grapnel_engine::reason::ReasonCode;
use std::fmt;

/// In place of a name.
const UNKNOWN: &str = "unknown code";

/// A code of the broker, with its name in the protocol version of the packet.
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
            Self::Code(code) => {
                let known = Some(ReasonCode(code)).filter(|code| code.is_defined());
                write!(f, "{} (0x{code:02X})", known.map_or(UNKNOWN, ReasonCode::name))
            }
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
        _ => UNKNOWN,
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
