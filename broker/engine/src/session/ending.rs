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
    /// Whether the will is due: only a normal DISCONNECT deletes it [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.14.4-3].
    pub fn sends_will(self) -> bool {
        self != EndCause::ByClient(ReasonCode::SUCCESS)
    }

    /// The reason that client.disconnected is told.
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
    /// What to publish; its expiry begins when it is published.
    pub message: Message,
    /// Message expiry interval, seconds.
    pub expiry_s: Option<u32>,
    /// Will delay interval, seconds.
    pub delay_s: u32,
    /// Version of the rules it was authorised under.
    pub epoch: u64,
}

impl Will {
    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<Will>() + self.message.bytes()
    }
}

/// Why a session ends, where its end is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// Its connection has ended, in this way, and it does not outlive it.
    Closed(ReasonCode),
    /// It has been without a connection for its expiry interval.
    Expired,
    /// The operator or a plugin ended it.
    Kicked,
    /// Another connection came, and it does not outlive its own.
    Takenover,
    /// A clean start threw it away, which has been told already.
    Discarded,
}

impl EndReason {
    /// The word for hooks.
    pub fn word(self) -> &'static str {
        match self {
            EndReason::Closed(_) => "closed",
            EndReason::Expired => "expired",
            EndReason::Kicked => "kicked",
            EndReason::Takenover => "takenover",
            EndReason::Discarded => "discarded",
        }
    }

    /// The reason code that goes with it.
    pub fn reason(self) -> ReasonCode {
        match self {
            EndReason::Closed(reason) => reason,
            EndReason::Expired | EndReason::Discarded => ReasonCode::SUCCESS,
            EndReason::Kicked => ReasonCode::ADMINISTRATIVE_ACTION,
            EndReason::Takenover => ReasonCode::SESSION_TAKEN_OVER,
        }
    }
}

/// The end of a connection, behind what its client had sent.
#[derive(Debug)]
pub struct End {
    /// How it has ended.
    pub cause: EndCause,
    /// The will of the connection.
    pub will: Option<Box<Will>>,
    /// When, monotonic milliseconds: delays and expiry count from then.
    pub ended_ms: u64,
    /// When the next connection of the session came, monotonic milliseconds; `None` while there is none.
    pub returned_ms: Option<u64>,
}

/// What is to happen once the slots of a session without a connection have drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LifecycleState {
    /// It stays for its expiry interval.
    Stays,
    /// It ends: nobody can reach it any more.
    Ends,
}
