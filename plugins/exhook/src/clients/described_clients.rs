//! What a shard records of a connection that it has described to a worker, or is about to.

use std::sync::Arc;

use super::described::{ConnectData, ExtraFields, StoredData, described_as};
use super::{ClientSlot, EventClient};
use crate::call_queue::QueueWriter;
use crate::queue::{Description, NamedClient};

/// Most bytes of CONNECT data that are stored; longer data is sent once only.
pub(super) const STORED_BYTES_MAX: usize = 1024;

/// What was sent about a connection, and to which process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentDescription {
    /// Hash of all that was sent.
    pub(super) print: u64,
    /// Whether it contained data that is known only while the client connects.
    pub(super) connecting: bool,
    /// Hash of the peer's address and port: another connection may take over the identifier.
    pub(super) origin: u64,
    /// The process that it was sent to.
    pub(super) epoch: u64,
    /// Whether that process saw the client connect.
    pub(super) saw_connect: bool,
    /// Whether login data has arrived since.
    pub(super) late: bool,
}

/// A pending login, as its last event shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenLogin {
    /// Number of the network connection.
    pub(super) connection: u64,
    /// The session under its client identifier at that time; 0 for none.
    pub(super) session: u64,
    /// Number of gaps at that time.
    pub(super) gaps: u64,
}

/// A connection.
#[derive(Debug)]
pub(super) struct DescribedClient {
    pub(super) number: u64,
    pub(super) sent: SentDescription,
    /// The CONNECT data as pairs of a description, without the password.
    pub(super) connect_data: Option<ConnectData>,
    /// Its description, for calls that are sent to another process than planned. `None` where the
    /// description has a password.
    pub(super) about: Option<Arc<Description>>,
    /// When it became the client, as an increasing number; 0 if that was not seen.
    pub(super) since: u64,
    /// Number of gaps at its last event, or first.
    pub(super) gaps: u64,
    /// The session of its last event, or that under its identifier before it is in; 0 for none.
    pub(super) session: u64,
    /// Its login; `None` if that was not seen.
    pub(super) login: Option<SeenLogin>,
}

/// The record of a client before a call was built.
#[derive(Debug)]
pub(super) struct PreviousRecord {
    pub(super) slot: ClientSlot,
    pub(super) sent: SentDescription,
    /// Set if they belong to another connection than the call.
    pub(super) connect_data: Option<Option<ConnectData>>,
    pub(super) about: Option<Arc<Description>>,
}

impl DescribedClient {
    /// The record before it is described as a connection from `origin`.
    pub(super) fn before(&mut self, slot: ClientSlot, origin: u64) -> PreviousRecord {
        PreviousRecord {
            slot,
            sent: self.sent,
            connect_data: (self.sent.origin != origin).then(|| self.connect_data.take()),
            about: self.about.clone(),
        }
    }

    /// Stores the CONNECT data, if there is some.
    pub(super) fn store_connect_data(&mut self, written: Option<ConnectData>) {
        if let Some(written) = written {
            self.connect_data = Some(written).filter(|written| written.bytes.len() <= STORED_BYTES_MAX);
        }
    }

    /// Describes the client. The returned name includes a description for calls that another
    /// process may get. If the description has a password, the name does not include it.
    pub(super) fn describe(
        &mut self,
        writer: &mut QueueWriter<'_>,
        who: &EventClient<'_>,
        described: Vec<u8>,
    ) -> NamedClient {
        let named = NamedClient { about: None, ..self.named() };
        if self.sent.connecting {
            writer.describe(named.clone(), &described);
            self.about = None;
            return NamedClient { about: Some(Description::new(described)), ..named };
        }
        // The login data is added when another process gets the call: it may have changed by then.
        let earlier = self
            .connect_data
            .as_ref()
            .map(|kept| described_as(who, ExtraFields::Earlier(kept), &StoredData::default()));
        writer.describe(named, &described);
        self.about = Some(Description::new(earlier.unwrap_or(described)));
        self.named()
    }

    /// As calls name it.
    pub(super) fn named(&self) -> NamedClient {
        NamedClient { number: self.number, about: self.about.clone(), session: self.session }
    }
}
