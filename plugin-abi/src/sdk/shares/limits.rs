//! The limits of [`Shares`](super::Shares), and which of them a value would exceed.

use std::fmt;

use crate::counted;

/// The limits of [`Shares`](super::Shares). 0 allows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareLimits {
    /// Maximum number of entries of all owners together.
    pub entries_max: u64,
    /// Maximum bytes of all owners together.
    pub bytes_max: u64,
    /// Maximum number of entries of one owner.
    pub owner_entries_max: u64,
    /// Maximum bytes of one owner.
    pub owner_bytes_max: u64,
}

/// The limit that an entry would exceed. If several are exceeded, it is the owner's, then the
/// account's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The owner has the maximum number of entries.
    OwnerEntries(u64),
    /// The owner's bytes would exceed its maximum.
    OwnerBytes(u64),
    /// The owners of the account have as many entries together as they may at the moment.
    AccountEntries(u64),
    /// The bytes of the owners of the account would exceed what they may have at the moment.
    AccountBytes(u64),
    /// There are as many entries as the total limit allows.
    Entries(u64),
    /// The bytes in total would exceed the maximum.
    Bytes(u64),
}

impl Full {
    /// Whether only a limit of this owner or of its account is exceeded, so that others are not
    /// affected.
    pub const fn is_of_owner(self) -> bool {
        !matches!(self, Full::Entries(_) | Full::Bytes(_))
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Full::OwnerEntries(max) => write!(f, "one client may have {max} at a time"),
            Full::OwnerBytes(max) => {
                write!(f, "one client may have {} at a time", counted(*max, "byte"))
            }
            Full::AccountEntries(max) => {
                write!(f, "the clients of one user or address may have {max} together at the moment")
            }
            Full::AccountBytes(max) => {
                let bytes = counted(*max, "byte");
                write!(f, "the clients of one user or address may have {bytes} together at the moment")
            }
            Full::Entries(max) => write!(f, "there may be {max} of all clients at a time"),
            Full::Bytes(max) => {
                write!(f, "there may be {} of all clients at a time", counted(*max, "byte"))
            }
        }
    }
}

impl ShareLimits {
    /// Whether an owner with this many entries and bytes exceeds its limits.
    pub(super) fn is_owner_over_limit(self, entries: u64, bytes: u64) -> bool {
        entries > self.owner_entries_max || bytes > self.owner_bytes_max
    }

    /// The first limit that is exceeded. `owner` is the owner's number of entries before the
    /// insertion and its bytes after it; `total` is the same for all owners.
    pub(super) fn find_full(self, owner: (u64, u64), total: (u64, u64)) -> Option<Full> {
        if owner.0 >= self.owner_entries_max {
            Some(Full::OwnerEntries(self.owner_entries_max))
        } else if owner.1 > self.owner_bytes_max {
            Some(Full::OwnerBytes(self.owner_bytes_max))
        } else if total.0 >= self.entries_max {
            Some(Full::Entries(self.entries_max))
        } else if total.1 > self.bytes_max {
            Some(Full::Bytes(self.bytes_max))
        } else {
            None
        }
    }
}
