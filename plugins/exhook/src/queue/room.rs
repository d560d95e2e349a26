//! How much may wait, and how much does.

use super::call::Kind;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls of all together.
    pub calls_max: u64,
    /// Bytes of memory that they take.
    pub bytes_max: u64,
    /// Calls of one client.
    pub client_calls_max: u64,
    /// Bytes of memory that they take.
    pub client_bytes_max: u64,
    /// Calls of those at one address who have not come in.
    pub address_calls_max: u64,
    /// Bytes of memory that they take.
    pub address_bytes_max: u64,
}

/// Why a call was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The client has as much waiting as one may have.
    Client,
    /// The address has.
    Address,
    /// All together have.
    All,
}

/// How much somebody holds, or all do.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Calls; what only describes a client is none.
    pub calls: u64,
    /// Bytes of memory, descriptions included.
    pub bytes: u64,
    /// Calls among them that are notifications.
    pub notifications: u64,
    /// What those take.
    pub notification_bytes: u64,
}

impl Usage {
    pub(super) fn add(&mut self, kind: Kind, calls: u64, bytes: u64) {
        match kind {
            Kind::Forgotten => return,
            Kind::Question => {}
            Kind::Notification => {
                self.notifications += calls;
                self.notification_bytes += bytes;
            }
        }
        self.calls += calls;
        self.bytes += bytes;
    }

    pub(super) fn take(&mut self, kind: Kind, calls: u64, bytes: u64) {
        match kind {
            Kind::Forgotten => return,
            Kind::Question => {}
            Kind::Notification => {
                self.notifications = self.notifications.saturating_sub(calls);
                self.notification_bytes = self.notification_bytes.saturating_sub(bytes);
            }
        }
        self.calls = self.calls.saturating_sub(calls);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether so much more of a kind fits: notifications take at most half.
    pub(super) fn fits(
        &self,
        kind: Kind,
        (calls, bytes): (u64, u64),
        (calls_max, bytes_max): (u64, u64),
    ) -> bool {
        let half = kind != Kind::Notification
            || (self.notifications + calls <= calls_max / 2
                && self.notification_bytes + bytes <= bytes_max / 2);
        half && self.calls + calls <= calls_max && self.bytes + bytes <= bytes_max
    }
}
