//! Whether a connection is read, and if not, why: one state with one reason, for engine and shell.

/// Whether a connection is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reading {
    /// It is read.
    #[default]
    Reading,
    /// It is not read, for this reason.
    Paused(Pause),
}

impl Reading {
    /// The reason in one word; `None` for a connection that is read.
    pub fn why(self) -> Option<&'static str> {
        match self {
            Reading::Reading => None,
            Reading::Paused(Pause::Admission) => Some("admission"),
            Reading::Paused(Pause::Slots) => Some("slots"),
            Reading::Paused(Pause::Outbound) => Some("outbound"),
            Reading::Paused(Pause::Work) => Some("work"),
            Reading::Paused(Pause::Memory) => Some("memory"),
        }
    }
}

/// Why a connection is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// A plugin decides on its CONNECT. The ticket has a deadline.
    Admission,
    /// The maximum number of packets of its session waits. They drain as tickets, owners and lanes
    /// answer.
    Slots,
    /// The maximum number of bytes waits for its socket. They are sent, or the shell ends the
    /// connection as stalled.
    Outbound,
    /// The client has sent more than one step may process. Reading continues in the next turn.
    Work,
    /// The shard is near its memory limit, and much of this session waits. It drains, or the shard
    /// frees memory.
    Memory,
}
