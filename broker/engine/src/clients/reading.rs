//! Whether a connection is read, and why it is not: one state with one reason, for the engine and the shell.

/// Whether a connection is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reading {
    /// As bytes come.
    #[default]
    Reading,
    /// Not for now, for this reason.
    Paused(Pause),
}

impl Reading {
    /// The reason in one word; nothing for a connection that is read.
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
    /// A plugin decides about its CONNECT. The ticket has a deadline.
    Admission,
    /// As many packets of its session wait as may. They drain as their tickets, owners and lanes answer.
    Slots,
    /// As many bytes wait for its socket as may. They leave, or the shell ends it for its stall.
    Outbound,
    /// What it has sent is more work than one step does. It is read on in the next turn.
    Work,
    /// The shard is near its limit of memory, and much of its session waits. It drains, or the shard finds room.
    Memory,
}
