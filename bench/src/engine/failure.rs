//! The state of a connection, and the reason of its end. Clients, publishers and links return
//! failures; the engine counts them by text.

use crate::frames::Malformed;
use crate::reason::Reason;

/// State of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// TCP is being connected.
    Connecting,
    /// TLS and WebSocket shake hands.
    Opening,
    /// CONNECT is sent.
    AwaitConnack,
    /// SUBSCRIBE is sent.
    AwaitSuback,
    /// The handshake is over.
    Ready,
    /// DISCONNECT is sent.
    Closing,
    /// Without a socket.
    Ended,
}

impl State {
    /// What the state waits for, as text.
    fn awaited(self) -> &'static str {
        match self {
            Self::Opening => "TLS or WebSocket handshake",
            Self::AwaitConnack => "CONNACK",
            Self::AwaitSuback => "SUBACK",
            _ => "TCP connection",
        }
    }
}

/// Why a connection ended; its text is the kind for the counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// connect() failed.
    #[error("connect: {0}")]
    Connect(String),
    /// TLS refused, or was refused.
    #[error("TLS: {0}")]
    Tls(String),
    /// The WebSocket was not opened, or broke its rules.
    #[error("WebSocket: {0}")]
    WebSocket(String),
    /// The handshake took longer than the connect timeout.
    #[error("no {} within the connect timeout", .0.awaited())]
    Timeout(State),
    /// CONNACK with a code other than success.
    #[error("CONNACK: {0}")]
    Refused(Reason),
    /// CONNACK, or MQTT itself, does not allow the load.
    #[error("CONNACK: {0}")]
    Unsupported(String),
    /// SUBACK with a failure code.
    #[error("SUBACK: {0}")]
    SubscribeRefused(Reason),
    /// End of the stream.
    #[error("connection closed by the broker")]
    Closed,
    /// The broker sent the reason with DISCONNECT.
    #[error("DISCONNECT: {0}")]
    Disconnected(Reason),
    /// Reading or writing failed.
    #[error("connection lost: {0}")]
    Io(String),
    /// PINGREQ was not answered within the keep alive.
    #[error("no PINGRESP within the keep alive")]
    NoPingresp,
    /// A packet that cannot be decoded.
    #[error("broker sent a malformed packet: {0}")]
    Malformed(&'static str),
    /// A packet that is not allowed in this state.
    #[error("broker sent a packet of type {0} that has no place here")]
    Unexpected(u8),
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// A packet of the load cannot be encoded.
impl From<anyhow::Error> for Failure {
    fn from(why: anyhow::Error) -> Self {
        Self::Unsupported(format!("{why:#}"))
    }
}
