//! An MQTT session (MQTT 5.0 section 4.1): what outlives the network connection. Subscriptions, the packets in flight both
//! ways, what waits to be sent, and the slots of what was received and waits for its turn. It decides packet identifiers and
//! windows; it knows neither hooks nor routes nor sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

use crate::hook::client::ClientView;
use crate::hook::told::SessionView;
use crate::id::{ConnKey, SessionKey};
use crate::message::Message;
use crate::packet::{QoS, SubscriptionOptions, Version};
use crate::reason::ReasonCode;
use crate::route::GroupId;

pub mod inflight;
pub mod slots;

pub use inflight::{Inflight, Outgoing, Phase};
pub use slots::{PublishSlot, Slot, SlotBody, Slots, Source, Stage};

/// A message that several sessions of a shard hold: one count for the shard (no atomic per holder), one for all shards.
pub type Held = Rc<Arc<Message>>;

/// Who a client is and how it came in; fixed for the life of a connection. Shared by connection and session, so that a hook's
/// view of the client borrows neither.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Client identifier.
    pub client_id: Arc<str>,
    /// User name.
    pub username: Option<Box<str>>,
    /// Whether authentication made it a superuser.
    pub superuser: bool,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The host part of it as text.
    pub peer_host: Box<str>,
    /// Our end.
    pub local: SocketAddr,
    /// The host part of it as text.
    pub local_host: Box<str>,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Protocol version.
    pub version: Version,
    /// Clean start.
    pub clean_start: bool,
    /// Keep alive in force, seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Session expiry interval granted, seconds.
    pub expiry_s: u32,
    /// Its Receive Maximum.
    pub receive_maximum: u16,
    /// Connected, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// Number of the network connection in this run; 0 for none.
    pub connection: u64,
    /// Whether it came in without anybody vouching for it.
    pub anonymous: bool,
    /// Encoded properties of CONNECT, without those of authentication.
    pub properties: Box<[u8]>,
}

impl Identity {
    /// What hooks see.
    pub fn view(&self) -> ClientView<'_> {
        ClientView {
            client_id: &self.client_id,
            username: self.username.as_deref(),
            password: None,
            peer: Some(self.peer),
            peer_host: &self.peer_host,
            local: Some(self.local),
            local_host: &self.local_host,
            listener: &self.listener,
            version: self.version,
            clean_start: self.clean_start,
            keep_alive_s: self.keep_alive_s,
            expiry_s: self.expiry_s,
            receive_maximum: self.receive_maximum,
            connected_at_ms: self.connected_at_ms,
            connection: self.connection,
            superuser: self.superuser,
            anonymous: self.anonymous,
            properties: &self.properties,
            will: None,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndCause {
    /// DISCONNECT of the client; whether it asks for the will.
    ByClient(bool),
    /// The socket closed without a DISCONNECT.
    Lost,
    /// The broker ended it, for this reason.
    ByBroker(ReasonCode),
}

impl EndCause {
    /// Whether the will is due [MQTT-3.1.2-8] [MQTT-3.1.2-10].
    pub fn sends_will(self) -> bool {
        !matches!(self, EndCause::ByClient(false))
    }

    /// The reason that client.disconnected is told.
    pub fn reason(self) -> ReasonCode {
        match self {
            EndCause::ByClient(true) => ReasonCode::DISCONNECT_WITH_WILL,
            EndCause::ByClient(false) => ReasonCode::SUCCESS,
            EndCause::Lost => ReasonCode::UNSPECIFIED_ERROR,
            EndCause::ByBroker(reason) => reason,
        }
    }
}

/// A subscription of a session, under its full filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// As granted.
    pub options: SubscriptionOptions,
    /// Subscription identifier, 0 where there is none.
    pub id: u32,
}

/// The will message (section 3.1.2.5), authorised at CONNECT.
#[derive(Debug)]
pub struct Will {
    /// What to publish; its expiry begins when it is published.
    pub message: Message,
    /// Message expiry interval, seconds.
    pub expiry_s: Option<u32>,
    /// Will delay interval, seconds.
    pub delay_s: u32,
    /// Version of the rules it was authorised under.
    pub epoch: u64,
}

/// A message on its way to this session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Held,
    /// QoS of the delivery.
    pub qos: QoS,
    /// RETAIN of the delivery.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: Box<[u32]>,
    /// The shared subscription it was drawn for.
    pub group: Option<GroupId>,
}

/// Why a session ends, where its end is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// Its connection has ended, in this way, and it does not outlive it.
    Closed(ReasonCode),
    /// It has been without a connection for its expiry interval.
    Expired,
    /// The operator or a plugin ended it.
    Kicked,
    /// Another connection came, and it does not outlive its own.
    Takenover,
    /// A clean start threw it away, which has been told already.
    Discarded,
}

impl Last {
    /// The word for hooks.
    pub fn word(self) -> &'static str {
        match self {
            Last::Closed(_) => "closed",
            Last::Expired => "expired",
            Last::Kicked => "kicked",
            Last::Takenover => "takenover",
            Last::Discarded => "discarded",
        }
    }

    /// The reason code that goes with it.
    pub fn reason(self) -> ReasonCode {
        match self {
            Last::Closed(reason) => reason,
            Last::Expired | Last::Discarded => ReasonCode::SUCCESS,
            Last::Kicked => ReasonCode::ADMINISTRATIVE_ACTION,
            Last::Takenover => ReasonCode::SESSION_TAKEN_OVER,
        }
    }
}

/// What is to happen once the slots of a session without a connection have drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It stays for its expiry interval.
    Stays,
    /// It ends: nobody can reach it any more.
    Ends,
}

/// A fetch of retained messages for a new subscription.
#[derive(Debug)]
pub struct Fetch {
    /// Number in the shard.
    pub id: u64,
    /// The filter.
    pub filter: Rc<str>,
    /// The subscription's options.
    pub options: SubscriptionOptions,
    /// Its identifier.
    pub subscription_id: u32,
    /// Shards that have not said yet from which message on they leave the rest to live delivery. SUBACK waits for them.
    pub unmarked: crate::id::ShardSet,
    /// Whether SUBACK is out, so that pages may be asked for.
    pub begun: bool,
    /// Shards that have not finished answering.
    pub open: crate::id::ShardSet,
    /// Fingerprints of the topics that arrived live meanwhile: their stored message is older.
    pub live: std::collections::HashSet<u64, ahash::RandomState>,
    /// Pages that wait until the session has room.
    pub held_back: Vec<(crate::id::ShardId, crate::route::retained::Cursor)>,
}

/// One session on its home shard.
#[derive(Debug)]
pub struct Session {
    /// Its key.
    pub key: SessionKey,
    /// Who it is, as of the last CONNECT.
    pub identity: Rc<Identity>,
    /// The connection, if there is one.
    pub conn: Option<ConnKey>,
    /// Session expiry interval in force, seconds; `u32::MAX` is never.
    pub expiry_s: u32,
    /// Created, milliseconds since 1970.
    pub created_wall_ms: u64,
    /// Connected or disconnected since, milliseconds since 1970.
    pub since_wall_ms: u64,
    /// How often it has been connected and disconnected: timers of an earlier life find another number.
    pub epoch: u32,
    /// Why it ends, if that is known before its connection's end decides it.
    pub last: Option<Last>,
    /// Whether `Fate::Ends` was decided; it lives until its slots have drained.
    pub fate: Fate,
    /// Whether the client id no longer leads here: it drains its slots and is taken down.
    pub orphan: bool,
    /// Whether it stands in the row of those being taken down.
    pub takedown: bool,
    /// Subscriptions by full filter.
    pub subscriptions: std::collections::HashMap<Box<str>, Subscription, ahash::RandomState>,
    /// Packets sent and not acknowledged.
    pub inflight: Inflight,
    /// Messages that wait for the window or the connection.
    pub queue: VecDeque<Delivery>,
    /// Their bytes.
    pub queue_bytes: usize,
    /// Packet identifiers of QoS 2 publishes that wait for PUBREL.
    pub awaiting_rel: Vec<NonZeroU16>,
    /// Received packets that wait for their turn.
    pub slots: Slots,
    /// The will of the connection, until it ends.
    pub will: Option<Box<Will>>,
    /// The will of a connection that has ended, until its delay is over.
    pub delayed_will: Option<Box<Will>>,
    /// Retained messages on their way.
    pub fetches: Vec<Fetch>,
    /// Deliveries that are authorised one by one, where a plugin asks for that.
    pub deliveries: Option<Box<crate::pipeline::Deliveries>>,
    /// Messages dropped for it.
    pub dropped: u64,
}

impl Session {
    /// Whether the client's acknowledgements of these publishes are still owed by us: what counts against Receive Maximum.
    pub fn unacknowledged_publishes(&self) -> usize {
        self.awaiting_rel.len() + self.slots.acknowledgements_owed()
    }

    /// What hooks see of it.
    pub fn view(&self) -> SessionView {
        SessionView {
            created_at_ms: self.created_wall_ms,
            persistent: self.is_persistent(),
            expiry_s: self.expiry_s,
            subscriptions: self.subscriptions.len(),
            inflight: self.inflight.len(),
            queued: self.queue.len(),
            awaiting_rel: self.awaiting_rel.len(),
        }
    }

    /// Whether it outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// Puts a delivery at the end of the queue. False, and nothing done, when a limit is reached.
    pub fn enqueue(&mut self, delivery: Delivery, messages_max: u64, bytes_max: u64) -> bool {
        let bytes = delivery.message.bytes();
        let full = self.queue.len() as u64 >= messages_max || (self.queue_bytes + bytes) as u64 > bytes_max;
        if !full {
            self.queue_bytes += bytes;
            self.queue.push_back(delivery);
        }
        !full
    }

    /// Takes the first delivery of the queue.
    pub fn dequeue(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.queue_bytes -= delivery.message.bytes();
        if self.queue.is_empty() && self.queue.capacity() > 1024 {
            self.queue = VecDeque::new();
        }
        Some(delivery)
    }
}
