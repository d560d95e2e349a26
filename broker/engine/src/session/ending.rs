//! How connections and sessions end, and the will that follows.

use crate::message::Message;
use crate::reason::ReasonCode;

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndCause {
    /// DISCONNECT of the client, with this reason.
    ByClient(ReasonCode),
    /// The socket closed without a DISCONNECT.
    Lost,
    /// The broker ended it, for this reason.
    ByBroker(ReasonCode),
}

impl EndCause {
    /// Whether the will is to be published: only a normal DISCONNECT deletes it [MQTT-3.1.2-8]
    /// [MQTT-3.1.2-10] [MQTT-3.14.4-3].
    pub fn sends_will(self) -> bool {
        self != EndCause::ByClient(ReasonCode::SUCCESS)
    }

    /// The reason code for client.disconnected.
    pub fn reason(self) -> ReasonCode {
        match self {
            EndCause::ByClient(reason) | EndCause::ByBroker(reason) => reason,
            EndCause::Lost => ReasonCode::UNSPECIFIED_ERROR,
        }
    }
}

/// The will message (section 3.1.2.5), authorised at CONNECT.
#[derive(Debug)]
pub struct Will {
    /// The message to publish; its expiry interval begins when it is published.
    pub message: Message,
    /// Message expiry interval, seconds.
    pub expiry_s: Option<u32>,
    /// Will delay interval, seconds.
    pub delay_s: u32,
    /// Version of the rules under which it was authorized.
    pub epoch: u64,
}

impl Will {
    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<Will>() + self.message.bytes()
    }
}

/// The end reason of a session, for notifications.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// Its connection ended with this reason, and the session does not outlive it.
    Closed(ReasonCode),
    /// Its session expiry interval is over.
    Expired,
    /// The operator or a plugin ended it.
    Kicked,
    /// Another connection took over, and the session does not outlive its own.
    Takenover,
    /// A clean start discarded it; that notification has already been sent.
    Discarded,
}

impl EndReason {
    /// The name for hooks.
    pub fn word(self) -> &'static str {
        match self {
            EndReason::Closed(_) => "closed",
            EndReason::Expired => "expired",
            EndReason::Kicked => "kicked",
            EndReason::Takenover => "takenover",
            EndReason::Discarded => "discarded",
        }
    }

    /// The reason code that belongs to it.
    pub fn reason(self) -> ReasonCode {
        match self {
            EndReason::Closed(reason) => reason,
            EndReason::Expired | EndReason::Discarded => ReasonCode::SUCCESS,
            EndReason::Kicked => ReasonCode::ADMINISTRATIVE_ACTION,
            EndReason::Takenover => ReasonCode::SESSION_TAKEN_OVER,
        }
    }
}

/// The end of a connection; it is processed after the packets of its client.
#[derive(Debug)]
pub struct End {
    /// How the connection ended.
    pub cause: EndCause,
    /// The will of the connection.
    pub will: Option<Box<Will>>,
    /// When it ended, monotonic milliseconds: delays and expiry count from here.
    pub ended_ms: u64,
    /// When the session got its next connection, monotonic milliseconds; `None` if it has none.
    pub returned_ms: Option<u64>,
}

/// What happens once the slots of a session without a connection have drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LifecycleState {
    /// The session stays for its expiry interval.
    Stays,
    /// The session ends; it can no longer be resumed.
    Ends,
}
