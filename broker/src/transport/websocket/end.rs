//! Why a WebSocket connection ends: the codes of close frames (RFC 6455 section 7.4), and what a
//! close frame of a client may have. Called by `frames.rs` and what is below it.

/// Why a WebSocket connection ends (RFC 6455 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseCode(u16);

impl CloseCode {
    pub(super) const NORMAL: CloseCode = CloseCode(1000);
    pub(super) const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    pub(super) const UNSUPPORTED_DATA: CloseCode = CloseCode(1003);
    pub(super) const INVALID_TEXT: CloseCode = CloseCode(1007);

    /// As it stands in a frame.
    pub(super) fn to_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// Whether a peer may send it (sections 7.4.1 and 7.4.2, with what IANA has registered since).
    fn may_be_received(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// How the peer has broken the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub code: CloseCode,
    pub text: &'static str,
}

/// What most violations end with.
pub(super) const fn protocol_error(text: &'static str) -> Violation {
    Violation { code: CloseCode::PROTOCOL_ERROR, text }
}

/// Checks the payload of a close frame, and gives its code if it has one (section 5.5.1).
pub(super) fn check_close(payload: &[u8]) -> Result<Option<CloseCode>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(None),
            _ => Err(protocol_error("a close frame with half a code")),
        };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.may_be_received() {
        return Err(protocol_error("a close frame with a code that may not be sent"));
    }
    if std::str::from_utf8(reason).is_err() {
        // Section 8.1
        return Err(Violation {
            code: CloseCode::INVALID_TEXT,
            text: "a close frame whose reason is not UTF-8",
        });
    }
    Ok(Some(code))
}
