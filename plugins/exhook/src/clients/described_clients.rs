//! What a shard knows of a connection that it has described to a worker, or is about to.

use std::sync::Arc;

use super::described::{Given, More, Written, described_as};
use super::{ClientSlot, Who};
use crate::call_queue::Writing;
use crate::queue::{About, Named};

/// The most that is kept of what a CONNECT said, bytes; a longer one is told once alone.
pub(super) const KEPT_MAX: usize = 1024;

/// What was said of a connection, and to which process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// Of all that was said of it.
    pub(super) print: u64,
    /// Whether it was said with what is only known while it is being let in.
    pub(super) entering: bool,
    /// Of where it comes from: another connection may take the identifier over.
    pub(super) origin: u64,
    /// Of the process that was told.
    pub(super) epoch: u64,
    /// Whether that process was told while it came in.
    pub(super) saw: bool,
    /// Whether what its login gave has come after it was described.
    pub(super) late: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct DescribedClient {
    pub(super) number: u64,
    pub(super) said: Said,
    /// What its CONNECT said, as it is written into a description, but for the password.
    pub(super) connect_data: Option<Written>,
    /// Its description, for calls that another process is given than was told of it; none that has a password is kept.
    pub(super) about: Option<Arc<About>>,
    /// Since when it is the client, as a number that grows; 0 for one that was not seen to come in.
    pub(super) since: u64,
    /// How many gaps there had been when it was heard of last, or first.
    pub(super) gaps: u64,
}

/// What a worker knew of a client before a call was put together.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) slot: ClientSlot,
    pub(super) said: Said,
    /// Of another connection than the call was about.
    pub(super) connect_data: Option<Option<Written>>,
    pub(super) about: Option<Arc<About>>,
}

impl DescribedClient {
    /// What is known of it before it is described as a connection from `origin`.
    pub(super) fn before(&mut self, slot: ClientSlot, origin: u64) -> Before {
        Before {
            slot,
            said: self.said,
            connect_data: (self.said.origin != origin).then(|| self.connect_data.take()),
            about: self.about.clone(),
        }
    }

    /// Keeps what a CONNECT said, if there was one.
    pub(super) fn keep(&mut self, written: Option<Written>) {
        if let Some(written) = written {
            self.connect_data = Some(written).filter(|written| written.bytes.len() <= KEPT_MAX);
        }
    }

    /// Describes it like this. What calls are given besides is for a process that has not been told: with the password only the call
    /// that it is there for.
    pub(super) fn describe(&mut self, line: &mut Writing<'_>, who: &Who<'_>, described: Vec<u8>) -> Named {
        let number = self.number;
        if self.said.entering {
            line.describe(Named { number, about: None }, &described);
            self.about = None;
            return Named { number, about: Some(About::new(described)) };
        }
        // What its login gave is added when another process is given a call: it may have changed by then.
        let earlier =
            self.connect_data.as_ref().map(|kept| described_as(who, More::Earlier(kept), &Given::default()));
        let named = Named { number, about: None };
        line.describe(named, &described);
        self.about = Some(About::new(earlier.unwrap_or(described)));
        Named { number, about: self.about.clone() }
    }
}
