//! Data that crosses the boundary between a shard's engine and the shell: setup, inputs and
//! results. The outbox has its own module.

mod command;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use command::{
    BehalfAction, BehalfClient, Command, FROM_A_THREAD, FROM_THE_BROKER, OnBehalf, Outcome, Scope, Search,
};

use crate::clients::reading::Reading;
use crate::hook::tickets::OwnedChange;
use crate::id::ShardId;
use crate::limits::Limits;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its name, for conn info.
    pub name: Arc<str>,
    /// Whether to admit a client that no link of client.authenticate has decided on: one without a
    /// user name, and, where no link is mounted, also one with a user name.
    pub allow_anonymous: bool,
}

/// Addresses of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its listener.
    pub listener: Arc<ListenerInfo>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The local address.
    pub local: SocketAddr,
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
    /// Name of its listener.
    pub listener: Option<String>,
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
