//! Data that crosses the boundary between a shard's engine and the shell: setup, inputs and
//! results. The outbox has its own module.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::{ALL_SHARDS, FROM_BROKER};

use crate::clients::reading::Reading;
use crate::hook::PluginHandle;
use crate::hook::tickets::OwnedChange;
use crate::hook::view::Action;
use crate::id::ShardId;
use crate::limits::Limits;
use crate::message::Message;
use crate::packet::{QoS, SubscriptionOptions};
use crate::reason::ReasonCode;
use crate::session::Identity;
use crate::session::fetch::Fetch;

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

/// Whose authorization is checked again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All clients.
    All,
    /// The client with this identifier.
    Client(Box<str>),
    /// Clients with this user name.
    User(Box<str>),
    /// Subscriptions that overlap this topic filter.
    Topics(Box<str>),
}

/// Outcome of a command about a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// No shard has that client.
    Absent,
    /// The client exists, but the command is not possible.
    Refused,
}

/// A command about a client that all shards get, because the client's shard is not known. After the
/// last shard has dropped it, the outcome is reported, unless a shard has executed it.
pub struct Search {
    outcome: std::sync::atomic::AtomicU8,
    over: Box<dyn Fn(Outcome) + Send + Sync>,
}

impl Search {
    /// `over` is called once, on the last shard's thread, if no shard has executed the command.
    pub fn new(over: impl Fn(Outcome) + Send + Sync + 'static) -> Search {
        Search { outcome: (Outcome::Absent as u8).into(), over: Box::new(over) }
    }

    /// Notes the outcome on one shard, or why the command is not executed.
    pub fn note(&self, outcome: Outcome) {
        if outcome != Outcome::Absent {
            self.outcome.store(outcome as u8, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        let outcome = *self.outcome.get_mut();
        for missed in [Outcome::Absent, Outcome::Refused] {
            if outcome == missed as u8 {
                (self.over)(missed);
            }
        }
    }
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// A request of a plugin on behalf of a client. It goes through client.authorize as if the client
/// had sent it.
#[derive(Debug)]
pub struct OnBehalf {
    /// The plugin.
    pub plugin: PluginHandle,
    /// The client.
    pub whom: Whom,
    /// The number for the answer, if the plugin wants one.
    pub answer: Option<u64>,
    /// The requested action.
    pub wish: Wish,
}

/// The client of a request on behalf of a client.
#[derive(Debug)]
pub enum Whom {
    /// An identity that the plugin has stored.
    Identity(Box<Identity>),
    /// The current client with this identifier.
    Client(Box<str>),
}

/// The action of a request on behalf of a client.
#[derive(Debug)]
pub enum Wish {
    /// Publish a message that is checked already. Its ancestry names the plugin.
    Publish(Message),
    /// Subscribe the client; the filter is valid.
    Subscribe {
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
        /// Options.
        options: SubscriptionOptions,
        /// Subscription identifier, 0 for none.
        id: u32,
    },
    /// Unsubscribe the client.
    Unsubscribe {
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
    },
    /// Read a page of the retained messages that the client could get with a subscription.
    Fetch(Fetch),
    /// Return whether the client may do something.
    Authorize {
        /// The action: not a will.
        action: Action,
        /// Valid topic name, or valid topic filter for subscribe.
        topic: Box<str>,
        /// QoS of message or subscription.
        qos: QoS,
        /// RETAIN of the message.
        retain: bool,
    },
}

/// A command of a plugin to a shard.
#[derive(Debug)]
pub enum Command {
    /// A command about a client, sent to all shards.
    Sought {
        /// Collects the outcome.
        search: Arc<Search>,
        /// Kick, subscribe or unsubscribe.
        command: Box<Command>,
    },
    /// Store a message that is checked already, or clear its topic, without routing it. Its
    /// ancestry names the plugin.
    Store {
        /// The plugin: the command keeps its order among the plugin's publishes.
        plugin: PluginHandle,
        /// The message; its retain flag is set.
        message: Message,
    },
    /// Publish a message that is checked already. Its ancestry names the plugin.
    Publish {
        /// The plugin: its publishes keep their order.
        plugin: PluginHandle,
        /// The message.
        message: Message,
    },
    /// Do something on behalf of a client of this shard.
    As(Box<OnBehalf>),
    /// Disconnect a client of this shard.
    Kick {
        /// Client identifier.
        client_id: Box<str>,
        /// Reason.
        reason: ReasonCode,
        /// Whether its session ends too.
        discard: bool,
    },
    /// Subscribe a client of this shard; the filter is valid.
    Subscribe {
        /// Client identifier.
        client_id: Box<str>,
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
        /// Options.
        options: SubscriptionOptions,
        /// Subscription identifier, 0 for none.
        id: u32,
    },
    /// Unsubscribe a client of this shard.
    Unsubscribe {
        /// Client identifier.
        client_id: Box<str>,
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
    },
    /// Bytes for the plugin's instance on this shard.
    InstanceMessage {
        /// The plugin.
        plugin: PluginHandle,
        /// Sending shard, [`ALL_SHARDS`] for a thread.
        from: u32,
        /// The sender's number.
        number: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Call the instance after a time.
    Timer {
        /// The plugin.
        plugin: PluginHandle,
        /// Its number, unique in the process.
        timer: u64,
        /// Milliseconds from now.
        after_ms: u64,
        /// The plugin's number.
        number: u64,
    },
    /// Notify only this plugin of the existing sessions and subscriptions.
    Replay {
        /// The plugin.
        plugin: PluginHandle,
    },
    /// Authorize again.
    Invalidate(Scope),
    /// Forget a timer.
    CancelTimer {
        /// The plugin.
        plugin: PluginHandle,
        /// Its number.
        timer: u64,
    },
}

impl Command {
    /// Bytes charged for the command while it waits. Constant over its lifetime.
    pub fn bytes(&self) -> usize {
        let more = match self {
            Command::Sought { command, .. } => command.bytes(),
            Command::Store { message, .. } | Command::Publish { message, .. } => message.bytes(),
            Command::As(request) => size_of::<OnBehalf>() + request.whom.bytes() + request.wish.bytes(),
            Command::Kick { client_id, .. } => client_id.len(),
            Command::Subscribe { client_id, filter, .. } | Command::Unsubscribe { client_id, filter } => {
                client_id.len() + filter.len()
            }
            Command::InstanceMessage { bytes, .. } => bytes.len(),
            Command::Invalidate(Scope::Client(what) | Scope::User(what) | Scope::Topics(what)) => what.len(),
            Command::Invalidate(Scope::All)
            | Command::Timer { .. }
            | Command::Replay { .. }
            | Command::CancelTimer { .. } => 0,
        };
        size_of::<Command>() + more
    }
}

impl Whom {
    /// Its client identifier.
    pub(crate) fn client_id(&self) -> &str {
        match self {
            Whom::Identity(identity) => &identity.client_id,
            Whom::Client(client_id) => client_id,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Whom::Identity(identity) => identity.bytes(),
            Whom::Client(client_id) => client_id.len(),
        }
    }
}

impl Wish {
    fn bytes(&self) -> usize {
        match self {
            Wish::Publish(message) => message.bytes(),
            Wish::Subscribe { filter, .. } | Wish::Unsubscribe { filter } => filter.len(),
            Wish::Fetch(fetch) => fetch.bytes(),
            Wish::Authorize { topic, .. } => topic.len(),
        }
    }
}

/// The sender of an instance message from a thread that is no shard.
pub const FROM_A_THREAD: u32 = ALL_SHARDS;
/// The sender of an instance message that answers a request on behalf of a client.
pub const FROM_THE_BROKER: u32 = FROM_BROKER;

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
