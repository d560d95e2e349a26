//! What a shard records of a connection that it has described to a worker, or is about to.

use std::sync::Arc;

use super::described::{Given, More, Written, described_as};
use super::{ClientSlot, Who};
use crate::call_queue::Writing;
use crate::queue::{About, Named};

/// Most bytes of CONNECT data that are stored; longer data is sent once only.
pub(super) const KEPT_MAX: usize = 1024;

/// What was sent about a connection, and to which process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// Hash of all that was sent.
    pub(super) print: u64,
    /// Whether it contained data that is known only while the client connects.
    pub(super) entering: bool,
    /// Hash of the peer's address and port: another connection may take over the identifier.
    pub(super) origin: u64,
    /// The process that it was sent to.
    pub(super) epoch: u64,
    /// Whether that process saw the client connect.
    pub(super) saw: bool,
    /// Whether login data has arrived since.
    pub(super) late: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct DescribedClient {
    pub(super) number: u64,
    pub(super) said: Said,
    /// The CONNECT data as pairs of a description, without the password.
    pub(super) connect_data: Option<Written>,
    /// Its description, for calls that are sent to another process than planned. `None` where the
    /// description has a password.
    pub(super) about: Option<Arc<About>>,
    /// When it became the client, as an increasing number; 0 if that was not seen.
    pub(super) since: u64,
    /// Number of gaps at its last event, or first.
    pub(super) gaps: u64,
    /// The session of its last event, or that under its identifier before it is in; 0 for none.
    pub(super) session: u64,
}

/// The record of a client before a call was built.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) slot: ClientSlot,
    pub(super) said: Said,
    /// Set if they belong to another connection than the call.
    pub(super) connect_data: Option<Option<Written>>,
    pub(super) about: Option<Arc<About>>,
}

impl DescribedClient {
    /// The record before it is described as a connection from `origin`.
    pub(super) fn before(&mut self, slot: ClientSlot, origin: u64) -> Before {
        Before {
            slot,
            said: self.said,
            connect_data: (self.said.origin != origin).then(|| self.connect_data.take()),
            about: self.about.clone(),
        }
    }

    /// Stores the CONNECT data, if there is some.
    pub(super) fn keep(&mut self, written: Option<Written>) {
        if let Some(written) = written {
            self.connect_data = Some(written).filter(|written| written.bytes.len() <= KEPT_MAX);
        }
    }

    /// Describes the client. The returned name includes a description for calls that another
    /// process may get. If the description has a password, the name does not include it.
    pub(super) fn describe(&mut self, line: &mut Writing<'_>, who: &Who<'_>, described: Vec<u8>) -> Named {
        let named = Named { about: None, ..self.named() };
        if self.said.entering {
            line.describe(named.clone(), &described);
            self.about = None;
            return Named { about: Some(About::new(described)), ..named };
        }
        // The login data is added when another process gets the call: it may have changed by then.
        let earlier =
            self.connect_data.as_ref().map(|kept| described_as(who, More::Earlier(kept), &Given::default()));
        line.describe(named, &described);
        self.about = Some(About::new(earlier.unwrap_or(described)));
        self.named()
    }

    /// As calls name it.
    pub(super) fn named(&self) -> Named {
        Named { number: self.number, about: self.about.clone(), session: self.session }
    }
}
