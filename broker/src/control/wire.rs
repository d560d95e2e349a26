//! The JSON types of the API. The broker writes them and `grapnel-ctl` reads them. Programs depend
//! on the field names: fields are added, never changed.

mod clients;
mod config;

use grapnel_engine::shard;
use grapnel_plugin_abi::verb::Column;
use serde::{Deserialize, Serialize};

pub use clients::{Client, ClientDetails, ClientTls, Clients, Kicked, Subscription, Subscriptions};
pub use config::{ConfigSetting, ConfigSettings};

use crate::plugin::PluginVerbs;

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One sentence: what happened, to which thing, and what to do.
    pub error: String,
    /// The consequences that the change would have had, if it removed hooks from chains: one
    /// sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<String>,
}

/// A shard that did not answer in time. Its data is missing from the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnansweredShard {
    /// Which shard.
    pub shard: u8,
    /// The error message.
    pub error: String,
}

/// `GET /api/v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the broker.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How the shards wait for their sockets: `io_uring` or `epoll`.
    pub io: String,
    /// When it started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// How long it has been up, seconds.
    pub uptime_s: u64,
    /// Connections now.
    pub connections: u64,
    /// Sessions now, connected or stored.
    pub sessions: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Retained messages now.
    pub retained_messages: u64,
    /// Application messages taken from clients since the start.
    pub messages_received: u64,
    /// Deliveries queued for clients since the start.
    pub messages_sent: u64,
    /// Messages and deliveries dropped since the start.
    pub messages_dropped: u64,
    /// Memory that clients make the broker use.
    pub memory: Memory,
    /// The shards that answered.
    pub shards: Vec<ShardStatus>,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Names of the plugins that are loaded.
    pub plugins: Vec<String>,
    /// Names of plugins that could not be loaded.
    pub plugins_failed: Vec<String>,
    /// The control socket.
    pub control_socket: String,
    /// The same API on TCP.
    pub control_http: Option<String>,
    /// The configuration file, if there is one.
    pub config_file: Option<String>,
    /// Where plugins are looked up by name.
    pub plugins_dir: String,
    /// Folder of what is stored between two starts.
    pub state_dir: String,
    /// Lines of the log that could not be written since the start.
    pub log_lines_lost: u64,
    /// Counters of the allocator; only in a broker that was built with counting.
    pub allocations: Option<Allocations>,
    /// Shards that did not answer.
    pub unanswered: Vec<UnansweredShard>,
}

/// Memory that the process has allocated, plugins not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    /// Allocations that have not been freed.
    pub live: u64,
    /// Their requested bytes.
    pub live_bytes: u64,
    /// Allocations since the start.
    pub total: u64,
    /// Bytes requested since the start, including growth by reallocation.
    pub total_bytes: u64,
}

/// One shard in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Which shard.
    pub shard: u8,
    /// Connections now.
    pub connections: u64,
    /// Sessions now.
    pub sessions: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Messages taken from its clients.
    pub messages_received: u64,
    /// Deliveries queued for its clients.
    pub messages_sent: u64,
    /// Version of its chain table.
    pub chain_generation: u64,
    /// Memory that its clients make it use.
    pub memory: Memory,
}

/// Bytes that clients make a shard, or the broker, use. Retained messages are not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What counts against `shard_bytes_max`: the sum of the other fields, with `messages` in place
    /// of `queues` and `in_flight`.
    pub total: u64,
    /// Received bytes that are not a whole packet yet, or not processed.
    pub read_buffers: u64,
    /// Bytes queued for sockets, acknowledgements included.
    pub outbound: u64,
    /// Connections with their topic aliases, and CONNECT packets that are not decided yet.
    pub connections: u64,
    /// Received packets that wait for their turn.
    pub slots: u64,
    /// Messages in the queues of sessions. A message that several sessions share counts for each.
    pub queues: u64,
    /// Messages sent and not acknowledged, counted in the same way.
    pub in_flight: u64,
    /// Sessions with their subscriptions, wills and readers of retained messages.
    pub sessions: u64,
    /// Messages in queues and in flight, each counted once per shard.
    pub messages: u64,
    /// Pages of retained messages that plugins read on behalf of clients, and those that wait for
    /// their plugin.
    pub pages: u64,
    /// Last bytes for connections that have ended.
    pub closing: u64,
}

impl From<shard::Ledger> for Memory {
    fn from(ledger: shard::Ledger) -> Memory {
        Memory {
            total: ledger.total(),
            read_buffers: ledger.read_buffers,
            outbound: ledger.outbound,
            connections: ledger.connections,
            slots: ledger.slots,
            queues: ledger.queues,
            in_flight: ledger.in_flight,
            sessions: ledger.sessions,
            messages: ledger.messages,
            pages: ledger.pages,
            closing: ledger.closing,
        }
    }
}

/// A listening address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Address and port as they are bound.
    pub address: String,
    /// Whether clients are let in that no plugin decides about.
    pub allow_anonymous: bool,
    /// What of a client's certificate is its user name and lets it in: `cn`, `san` or `subject`.
    #[serde(default)]
    pub identity: Option<String>,
}

/// Subscriptions that were revoked during a change, because client.authorize no longer allows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// How many, on all shards. Those revoked by another change at the same time are included.
    pub subscriptions: u64,
    /// Whether all rechecks have ended. If not, there may be more; the log names them.
    pub complete: bool,
}

/// The answer to a change, with its effect on existing subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed<T> {
    /// The state after the change.
    #[serde(flatten)]
    pub now: T,
    /// Subscriptions that were revoked.
    #[serde(default)]
    pub revoked: Revoked,
    /// The consequences, if hooks have left the chains: one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<String>,
}

/// `GET /api/v1/follows`: the consequences if a plugin, or a hook of it, were removed from the
/// chains now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// One sentence for each; empty if there are none.
    pub follows: Vec<String>,
}

/// `GET /api/v1/commands`: the verbs of all plugins that are loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginsVerbs {
    /// Plugins with verbs, in order of mounting.
    pub plugins: Vec<PluginVerbs>,
}

/// The answer of a plugin's verb.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerbAnswer {
    /// Lines for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The columns of a table for people; empty if there is no table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// Its rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Vec<String>>,
    /// The answer for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Exit code of `grapnel-ctl`.
    #[serde(default)]
    pub exit_code: u8,
    /// Subscriptions that were revoked, if the verb has changed hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// The consequences, if hooks have left the chains: one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<String>,
}

/// `POST /api/v1/authz/invalidate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidated {
    /// Number of shards that recheck.
    pub shards: usize,
    /// Shards that did not answer in time. They recheck later, when they run the request.
    pub unanswered: Vec<UnansweredShard>,
}

/// `GET /api/v1/metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Each metric of the shards, summed over those that answered. Then the metrics of the process,
    /// and those of plugins by name. A histogram has a row for each of its samples, with the names
    /// of the Prometheus format.
    pub metrics: Vec<Metric>,
    /// Shards that did not answer.
    pub unanswered: Vec<UnansweredShard>,
}

/// One metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, without the prefix that the Prometheus format adds.
    pub name: String,
    /// Its value.
    pub value: i64,
    /// The values of the shards that answered, in the order of their numbers. Empty for a metric of
    /// the whole process or of a plugin, which is not counted by shard.
    pub shards: Vec<u64>,
    /// Whether its value can decrease.
    pub gauge: bool,
    /// What it counts.
    pub help: String,
}

/// A line of `GET /api/v1/trace/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TraceLine {
    /// A packet.
    Packet {
        /// When, milliseconds since 1970.
        at_ms: u64,
        /// `in` from the client, `out` to it.
        direction: Direction,
        /// The packet in one line.
        packet: String,
        /// The client's home shard.
        shard: u8,
    },
    /// Packets that were dropped from the trace, because they came faster than they were read.
    Lost {
        /// How many.
        lost: u64,
    },
    /// Why the trace ended; the last line.
    Ended {
        /// A sentence.
        ended: String,
    },
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the client.
    In,
    /// To the client.
    Out,
}
