//! Counts the logins whose data was not stored for lack of room. `LoginStore` counts; the worker's
//! thread logs the counts from time to time.

use std::fmt;

use grapnel_plugin_abi::counted;

/// Number of logins, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotStored {
    /// The data was longer than the limit for one login.
    pub too_long: u64,
    /// The user's share was used up.
    pub of_user: u64,
    /// The limit for all logins was reached.
    pub of_all: u64,
    /// Pending logins that were evicted for other pending ones: too many, or too many bytes from
    /// one address.
    pub of_pending: u64,
    /// Doubted entries that were evicted; their connections may still exist.
    pub of_uncertain: u64,
    /// Sessions that are not recorded any more, because too many are: what their present connections
    /// give later is not stored.
    pub of_sessions: u64,
    /// Data from a worker of the version before, or of this one, that could not be handed over in a
    /// reload.
    pub handed_over: u64,
    /// Logins without room that could not be distinguished from others of their address. They are
    /// also counted above, or the worker did not store them.
    pub indistinguishable: u64,
}

impl NotStored {
    /// All of them, each once.
    pub fn count(&self) -> u64 {
        let of_others = self.of_pending + self.of_uncertain + self.of_sessions;
        self.too_long + self.of_user + self.of_all + of_others + self.handed_over
    }

    /// Adds later losses.
    pub fn add(&mut self, more: NotStored) {
        self.too_long += more.too_long;
        self.of_user += more.of_user;
        self.of_all += more.of_all;
        self.of_pending += more.of_pending;
        self.of_uncertain += more.of_uncertain;
        self.of_sessions += more.of_sessions;
        self.handed_over += more.handed_over;
        self.indistinguishable += more.indistinguishable;
    }
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = [
            (self.too_long, "longer than login_bytes_max"),
            (self.of_user, "beyond the share of one user, an eighth of the free space (logins_bytes_max)"),
            (self.of_all, "beyond logins_bytes_max"),
            (
                self.of_pending,
                "of clients whose login was pending, because too many were (clients_max, logins_bytes_max)",
            ),
            (
                self.of_uncertain,
                "of sessions that may have ended, because the space was needed (logins_bytes_max)",
            ),
            (
                self.of_sessions,
                "of sessions that are not recorded any more, because more than clients_max are; their ends are not seen \
                 while session.discarded or session.terminated is unmounted",
            ),
            (self.handed_over, "lost in a reload"),
            (
                self.indistinguishable,
                "that cannot be told apart from others of their address: any session that is resumed from there within \
                 10 minutes may be one of them",
            ),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
        write!(
            f,
            "data of {} is not stored for the next worker, where hooks that need it fail: {}",
            counted(self.count().max(self.indistinguishable), "login"),
            parts.join(", ")
        )
    }
}
