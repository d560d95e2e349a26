//! What was not kept of logins for want of room, for the log. `LoginStore` counts it, the worker's thread says it now and then.

use std::fmt;

/// So many logins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotStored {
    /// Longer than one may be.
    pub too_long: u64,
    /// Of a user who has as much as one may have.
    pub of_user: u64,
    /// All together have as much as there is room for.
    pub of_all: u64,
    /// Of clients that have not come in, for others that have not: too many, or too much at their address.
    pub of_coming: u64,
    /// Doubted, and in the way of others: their connections may be there still.
    pub of_doubted: u64,
    /// What the worker of a version before, or of this one, said in a reload, and the broker did not take.
    pub handed_over: u64,
    /// Logins without room that were not told apart from others of their addresses; they are counted above, or were not kept by the
    /// worker.
    pub untold: u64,
}

impl NotStored {
    /// All of them.
    pub fn count(&self) -> u64 {
        self.too_long + self.of_user + self.of_all + self.of_coming + self.of_doubted + self.handed_over
    }

    /// Adds what has been lost since.
    pub fn add(&mut self, more: NotStored) {
        self.too_long += more.too_long;
        self.of_user += more.of_user;
        self.of_all += more.of_all;
        self.of_coming += more.of_coming;
        self.of_doubted += more.of_doubted;
        self.handed_over += more.handed_over;
        self.untold += more.untold;
    }
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = [
            (self.too_long, "longer than login_bytes_max"),
            (self.of_user, "of users who have an eighth of what is free (logins_bytes_max)"),
            (self.of_all, "beyond logins_bytes_max"),
            (
                self.of_coming,
                "of clients on their way in, of which there are too many (clients_max, logins_bytes_max)",
            ),
            (
                self.of_doubted,
                "of sessions of which it was not known whether they are there, as the room was needed (logins_bytes_max)",
            ),
            (self.handed_over, "lost in a reload"),
            (
                self.untold,
                "of addresses with so many of them that for 10 minutes whoever goes on with a session from there may be one",
            ),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
        write!(
            f,
            "what {} logins gave is not kept for the next worker, where hooks that look for it fail: {}",
            self.count().max(self.untold),
            parts.join(", ")
        )
    }
}
