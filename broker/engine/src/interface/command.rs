//! Commands of plugins to shards, also those about a client and on behalf of one.

use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::{ALL_SHARDS, FROM_BROKER};

use crate::hook::PluginHandle;
use crate::hook::view::Action;
use crate::message::Message;
use crate::packet::{QoS, SubscriptionOptions};
use crate::reason::ReasonCode;
use crate::session::Identity;
use crate::session::fetch::Fetch;

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
    pub client: BehalfClient,
    /// The number for the answer, if the plugin wants one.
    pub answer: Option<u64>,
    /// The requested action.
    pub action: BehalfAction,
}

/// The client of a request on behalf of a client.
#[derive(Debug)]
pub enum BehalfClient {
    /// An identity that the plugin has stored.
    Identity(Box<Identity>),
    /// The current client with this identifier.
    Client(Box<str>),
}

/// The action of a request on behalf of a client.
#[derive(Debug)]
pub enum BehalfAction {
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
            Command::As(request) => size_of::<OnBehalf>() + request.client.bytes() + request.action.bytes(),
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

impl BehalfClient {
    /// Its client identifier.
    pub(crate) fn client_id(&self) -> &str {
        match self {
            BehalfClient::Identity(identity) => &identity.client_id,
            BehalfClient::Client(client_id) => client_id,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            BehalfClient::Identity(identity) => identity.bytes(),
            BehalfClient::Client(client_id) => client_id.len(),
        }
    }
}

impl BehalfAction {
    fn bytes(&self) -> usize {
        match self {
            BehalfAction::Publish(message) => message.bytes(),
            BehalfAction::Subscribe { filter, .. } | BehalfAction::Unsubscribe { filter } => filter.len(),
            BehalfAction::Fetch(fetch) => fetch.bytes(),
            BehalfAction::Authorize { topic, .. } => topic.len(),
        }
    }
}

/// The sender of an instance message from a thread that is no shard.
pub const FROM_A_THREAD: u32 = ALL_SHARDS;
/// The sender of an instance message that answers a request on behalf of a client.
pub const FROM_THE_BROKER: u32 = FROM_BROKER;
