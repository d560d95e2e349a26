//! Whether a connection is read, and why it is not: one state with one reason, for the engine and the shell.

use super::Connection;
use crate::limits::Limits;

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
    /// The shard is near its limit of memory, and much of its session waits. It drains, or the shard finds room.
    Memory,
}

impl Connection {
    /// Whether it is not read.
    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        self.reading != Reading::Reading
    }

    /// Has the shell read nothing more.
    pub(crate) fn pause(&mut self, why: Pause) {
        self.reading = Reading::Paused(why);
    }

    /// Whether QoS 0 may be queued although the socket has `outbound_bytes_max` to take: its reader keeps up, and the shard has
    /// room.
    pub(crate) fn may_burst(&self, now_ms: u64, limits: &Limits, room: usize) -> bool {
        let beyond = self.out.len() as u64 - limits.outbound_bytes_max;
        now_ms.saturating_sub(self.taken_ms) <= limits.outbound_burst_ms && beyond < room as u64
    }
}
