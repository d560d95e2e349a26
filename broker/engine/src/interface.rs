//! Data that crosses the boundary between a shard's engine and the shell: setup, inputs and
//! results. The outbox has its own module.

mod command;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

pub use command::{
    BehalfAction, BehalfClient, Command, FROM_A_THREAD, FROM_THE_BROKER, OnBehalf, Outcome, Scope, Search,
};

use crate::clients::reading::Reading;
use crate::hook::tickets::OwnedChange;
use crate::id::ShardId;
use crate::limits::Limits;
use crate::mount_point::MountPoint;
use crate::packet::Version;

pub use crate::transport::{CertificateFacts, TlsFacts, Transport};

/// Setup of a shard. All shards have the same, except for `id` and `seed`.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This shard.
    pub id: ShardId,
    /// Number of shards, 1 to 64.
    pub shards: usize,
    /// All bounds.
    pub limits: Arc<Limits>,
    /// `authorization.no_match`: whether to allow what no link has decided.
    pub no_match_allow: bool,
    /// Keys of the hashes that shards must agree on; random per process.
    pub keys: [u64; 4],
    /// Seed of this shard's own randomness.
    pub seed: u64,
}

/// Properties of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its name, for conn info.
    pub name: Arc<str>,
    /// Whether to admit a client that no link of client.authenticate has decided on: one without a
    /// user name, and, where no link is mounted, also one with a user name.
    pub allow_anonymous: bool,
    /// How its clients reach the broker.
    pub transport: Transport,
    /// The protocol versions that it accepts. A CONNECT of another one is refused with 0x84,
    /// unsupported protocol version (MQTT 3: return code 1), before any hook decides on it.
    pub versions: Versions,
    /// The longest keep alive of its clients, seconds, if it is shorter than
    /// [`Limits::keep_alive_max_s`]. An MQTT 5 client with a longer one, or with none, gets this one
    /// as Server Keep Alive. An MQTT 3 client keeps its own, because it could not be told.
    pub keep_alive_max_s: Option<NonZeroU16>,
    /// What is put in front of all topics of its clients; `None` for nothing.
    pub mount_point: Option<MountPoint>,
}

/// Protocol versions that a listener accepts; all by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// MQTT 3.1.
    pub v31: bool,
    /// MQTT 3.1.1.
    pub v311: bool,
    /// MQTT 5.0.
    pub v5: bool,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions { v31: true, v311: true, v5: true }
    }
}

impl Versions {
    /// Whether a version is among them.
    pub fn has(self, version: Version) -> bool {
        match version {
            Version::V31 => self.v31,
            Version::V311 => self.v311,
            Version::V5 => self.v5,
        }
    }
}

/// What is known of a connection below MQTT. All of it moves along if another shard is the home of
/// the client.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its listener.
    pub listener: Arc<ListenerInfo>,
    /// The client's address, as the socket or a trusted proxy says. `None` for a client of a Unix
    /// socket; all of these together count as one address.
    pub peer: Option<SocketAddr>,
    /// The address that the client connected to; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// Its TLS connection, once the handshake is over or a proxy has told of it.
    pub tls: Option<Arc<TlsFacts>>,
    /// The user name that the listener takes from the client's verified certificate. It is the
    /// client's user name, whatever CONNECT says, and the client is authenticated by it: it comes in
    /// unless a link of client.authenticate refuses it. Set it only if the listener is configured
    /// so. A client that shows a certificate without such a name must be disconnected, because with
    /// `None` it would be treated like a client without a certificate.
    pub username: Option<Arc<str>>,
}

impl Peer {
    /// A connection before the bytes of its first layer: with the addresses of its socket alone.
    pub fn new(
        listener: Arc<ListenerInfo>,
        peer: impl Into<Option<SocketAddr>>,
        local: impl Into<Option<SocketAddr>>,
    ) -> Peer {
        Peer { listener, peer: peer.into(), local: local.into(), tls: None, username: None }
    }

    /// The client's address without its port.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip())
    }
}

/// Bytes read from a connection, beginning at a packet's first byte.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// In the shard's scratch buffer. The engine copies what it stores.
    Scratch(&'a [u8]),
    /// In a buffer of their own. The engine stores a large payload without a copy.
    Owned(&'a Bytes),
}

/// Result of [`Shard::receive`](crate::shard::Shard::receive).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes consumed. The shell must offer the rest again, with more behind it.
    pub consumed: usize,
    /// The next action of the shell.
    pub next: Next,
}

/// What the shell does after [`Shard::receive`](crate::shard::Shard::receive).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Read on. The rest, if any, is the beginning of a packet.
    Read,
    /// Read nothing until the outbox lists the connection in `resume`. Then offer the rest again
    /// before reading.
    Pause,
    /// The client's home is another shard. Move the socket there with all bytes from `consumed` on,
    /// then `open` and offer them there. The key is stale.
    Handoff(ShardId),
    /// The connection has ended and the key is stale. What is still to be sent is in the outbox
    /// under `closing`.
    Closed,
}

/// Why the shell reports the end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The peer closed, or the socket failed: the will is sent.
    ByPeer,
    /// Nothing could be written for too long.
    Stuck,
    /// The shell is out of memory for partial packets.
    Overload,
}

/// A deferred verdict on its way to its shard. The shell's ticket issuer makes it on any thread.
#[derive(Debug)]
pub struct Completion {
    /// The ticket's number as its shard gave it out; see [`ticket_shard`].
    pub ticket: u64,
    /// CONTINUE, STOP or FAULT.
    pub flow: grapnel_plugin_abi::raw::Flow,
    /// Changes of the accumulator, owned.
    pub changes: Vec<OwnedChange>,
}

/// The shard that issued a ticket: its highest byte.
pub const fn ticket_shard(ticket: u64) -> ShardId {
    ShardId((ticket >> 56) as u8)
}

/// Progress of the rechecks of subscriptions in force, after the rules of client.authorize have
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rechecks {
    /// Subscriptions revoked since the shard started.
    pub revoked: u64,
    /// Whether some are still to be rechecked, or wait for a plugin.
    pub under_way: bool,
    /// Whether some were not answered: they stay in force, and are rechecked after a pause.
    pub unanswered: bool,
}

/// A client or stored session in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSummary {
    /// Client identifier.
    pub client_id: String,
    /// User name, if any.
    pub username: Option<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Remote address and port, while connected.
    pub peer: Option<std::net::SocketAddr>,
    /// Name of its listener, while connected.
    pub listener: Option<Arc<str>>,
    /// How it has reached the broker, while connected.
    pub transport: Option<Transport>,
    /// Its TLS connection, while connected.
    pub tls: Option<Arc<TlsFacts>>,
    /// 3, 4 or 5.
    pub protocol: u8,
    /// Keep alive in force, seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Session expiry in force, seconds; 4294967295 is never.
    pub expiry_s: u32,
    /// Time of connection (or disconnection), milliseconds since 1970.
    pub since_ms: u64,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// QoS 1 and 2 messages sent and not acknowledged.
    pub inflight: usize,
    /// Messages in its queue.
    pub queued: usize,
    /// Home shard.
    pub shard: u8,
}

/// Details of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientDetails {
    /// As in lists.
    pub summary: ClientSummary,
    /// Whether CONNECT requested a clean start.
    pub clean_start: bool,
    /// Its Receive Maximum.
    pub receive_maximum: u16,
    /// Its Maximum Packet Size; 0 where it set none.
    pub packet_bytes_max: u32,
    /// Topic aliases that the broker may set for it.
    pub topic_alias_max: u16,
    /// Whether client.authenticate made it a superuser.
    pub superuser: bool,
    /// Whether it has a will.
    pub has_will: bool,
    /// QoS 2 publishes of it that wait for PUBREL.
    pub awaiting_rel: usize,
    /// Packets of it that wait in slots.
    pub slots: usize,
    /// Bytes queued for its socket.
    pub outbound_bytes: usize,
    /// Bytes charged for its connection, its session, and requests of plugins on its behalf.
    pub memory_bytes: usize,
    /// Whether its connection is read, if there is one.
    pub reading: Option<Reading>,
    /// Messages dropped for it so far.
    pub dropped: u64,
    /// When its session was created, milliseconds since 1970.
    pub created_at_ms: u64,
}

/// A subscription in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// The client.
    pub client_id: String,
    /// Topic filter, with $share prefix where it has one.
    pub filter: String,
    /// Granted QoS.
    pub qos: u8,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling, 0 to 2.
    pub retain_handling: u8,
    /// Subscription identifier; 0 where there is none.
    pub subscription_id: u32,
    /// Home shard of the client.
    pub shard: u8,
}

/// A packet of a traced client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceLine {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Whether the client sent it.
    pub inbound: bool,
    /// Packet, its identifiers, flags, topic and sizes, such as `PUBLISH q1 r0 d0 m12 'a/b' (5 bytes)`.
    pub text: String,
}
