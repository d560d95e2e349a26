//! Where a connection stands, and why it came to its end. Clients, publishers and links fail with it; the engine counts it
//! by its text.

use crate::frames::Malformed;
use crate::reason::Reason;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// TCP is being connected.
    Connecting,
    /// CONNECT is sent.
    AwaitConnack,
    /// SUBSCRIBE is sent.
    AwaitSuback,
    /// The handshake is over.
    Ready,
    /// DISCONNECT is sent.
    Closing,
    /// No socket any more.
    Ended,
}

impl State {
    /// What is awaited in it, for people.
    fn awaited(self) -> &'static str {
        match self {
            Self::AwaitConnack => "CONNACK",
            Self::AwaitSuback => "SUBACK",
            _ => "TCP connection",
        }
    }
}

/// Why a connection came to its end; as text, the kind it is counted under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// connect() failed.
    #[error("connect: {0}")]
    Connect(String),
    /// The handshake took longer than the connect timeout.
    #[error("no {} within the connect timeout", .0.awaited())]
    Timeout(State),
    /// CONNACK with a code other than success.
    #[error("CONNACK: {0}")]
    Refused(Reason),
    /// The CONNACK, or MQTT, rules out what the load asks for.
    #[error("CONNACK: {0}")]
    Unsupported(String),
    /// SUBACK with a failure code.
    #[error("SUBACK: {0}")]
    SubscribeRefused(Reason),
    /// End of the stream.
    #[error("connection closed by the broker")]
    Closed,
    /// The broker said why, with DISCONNECT.
    #[error("DISCONNECT: {0}")]
    Disconnected(Reason),
    /// Reading or writing failed.
    #[error("connection lost: {0}")]
    Io(String),
    /// PINGREQ was not answered within the keep alive.
    #[error("no PINGRESP within the keep alive")]
    NoPingresp,
    /// A packet that cannot be read.
    #[error("broker sent a malformed packet: {0}")]
    Malformed(&'static str),
    /// A packet that has no place here.
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

/// A packet that a load asks for cannot be written.
impl From<anyhow::Error> for Failure {
    fn from(why: anyhow::Error) -> Self {
        Self::Unsupported(format!("{why:#}"))
    }
}
