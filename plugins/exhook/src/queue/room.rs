//! Limits of the queue, and what is in use.

use super::call::Kind;

/// Limits of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls of all owners.
    pub calls_max: u64,
    /// Memory of all owners, bytes.
    pub bytes_max: u64,
    /// Calls of one client.
    pub client_calls_max: u64,
    /// Memory of one client's calls, bytes.
    pub client_bytes_max: u64,
    /// Calls of pending logins at one address.
    pub address_calls_max: u64,
    /// Memory of those calls, bytes.
    pub address_bytes_max: u64,
}

/// Why a call was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The client's limit is reached.
    Client,
    /// The address's limit is reached.
    Address,
    /// The limit of the client's account is reached.
    Account,
    /// The limit of all is reached.
    All,
}

/// Calls and memory in use, by one owner or in all.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Calls, without descriptions.
    pub calls: u64,
    /// Bytes of memory, descriptions included.
    pub bytes: u64,
    /// Notifications among the calls.
    pub notifications: u64,
    /// Memory of the notifications, bytes.
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

    /// Whether this many calls and bytes more fit: notifications may use at most half.
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
