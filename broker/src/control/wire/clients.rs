//! JSON types of clients and their subscriptions.

use grapnel_engine::shard;
use serde::{Deserialize, Serialize};

use super::UnansweredShard;

/// `GET /api/v1/clients`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// A page of clients, in no particular order.
    pub clients: Vec<Client>,
    /// The `cursor` of the request for the next page; absent on the last page.
    pub next: Option<String>,
    /// Shards whose clients are missing.
    pub unanswered: Vec<UnansweredShard>,
}

/// A client or stored session in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Client identifier.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Address and port it came from.
    pub peer: Option<String>,
    /// Through which listener, while connected.
    pub listener: Option<String>,
    /// How it has reached the broker, while connected: `tcp`, `tls`, `ws`, `wss` or `unix`.
    pub transport: Option<String>,
    /// Its TLS connection, while connected.
    pub tls: Option<ClientTls>,
    /// 3, 4 or 5.
    pub protocol: u8,
    /// Keep alive in force, seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Session expiry in force, seconds; 4294967295 is never.
    pub expiry_s: u32,
    /// Connected, or disconnected, since: milliseconds since 1970.
    pub since_ms: u64,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// QoS 1 and 2 messages sent and not acknowledged.
    pub inflight: usize,
    /// Messages waiting.
    pub queued: usize,
    /// Home shard.
    pub shard: u8,
}

/// The TLS connection of a client, to the broker or to a proxy in front of it. What is not known is
/// absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientTls {
    /// Version of the protocol, such as `TLSv1.3`.
    pub version: Option<String>,
    /// Cipher suite, by its IANA name.
    pub cipher: Option<String>,
    /// The server name that the client asked for.
    pub server_name: Option<String>,
    /// Subject of its verified certificate, as RFC 4514 writes it.
    pub certificate_subject: Option<String>,
}

impl From<&shard::TlsFacts> for ClientTls {
    fn from(tls: &shard::TlsFacts) -> ClientTls {
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        ClientTls {
            version: known(&tls.version),
            cipher: known(&tls.cipher),
            server_name: known(&tls.server_name),
            certificate_subject: tls.certificate.as_ref().and_then(|certificate| known(&certificate.subject)),
        }
    }
}

impl From<shard::ClientSummary> for Client {
    fn from(row: shard::ClientSummary) -> Client {
        Client {
            client_id: row.client_id,
            username: row.username,
            connected: row.connected,
            peer: row.peer.map(|peer| peer.to_string()),
            listener: row.listener.map(|name| name.to_string()),
            transport: row.transport.map(|transport| transport.word().to_owned()),
            tls: row.tls.as_deref().map(ClientTls::from),
            protocol: row.protocol,
            keep_alive_s: row.keep_alive_s,
            expiry_s: row.expiry_s,
            since_ms: row.since_ms,
            subscriptions: row.subscriptions,
            inflight: row.inflight,
            queued: row.queued,
            shard: row.shard,
        }
    }
}

/// `GET /api/v1/clients/{id}`: details of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientDetails {
    /// As in lists.
    #[serde(flatten)]
    pub client: Client,
    /// Whether it asked for a clean start.
    pub clean_start: bool,
    /// Its Receive Maximum.
    pub receive_maximum: u16,
    /// Its Maximum Packet Size; 0 if it has set none.
    pub packet_bytes_max: u32,
    /// Topic aliases that the broker may set.
    pub topic_alias_max: u16,
    /// Whether client.authenticate made it a superuser.
    pub superuser: bool,
    /// Whether it left a will.
    pub has_will: bool,
    /// QoS 2 publishes of it that wait for PUBREL.
    pub awaiting_rel: usize,
    /// Packets of it that wait for their turn.
    pub slots: usize,
    /// Bytes queued for its socket.
    pub outbound_bytes: usize,
    /// Bytes used by its connection, its session and the requests of plugins on its behalf.
    pub memory_bytes: usize,
    /// Why its connection is not read for now: `admission`, `slots`, `outbound`,
    /// `work` or `memory`.
    pub paused: Option<String>,
    /// Messages dropped for it so far.
    pub dropped: u64,
    /// When its session was created, milliseconds since 1970.
    pub created_at_ms: u64,
}

impl From<shard::ClientDetails> for ClientDetails {
    fn from(all: shard::ClientDetails) -> ClientDetails {
        ClientDetails {
            client: all.summary.into(),
            clean_start: all.clean_start,
            receive_maximum: all.receive_maximum,
            packet_bytes_max: all.packet_bytes_max,
            topic_alias_max: all.topic_alias_max,
            superuser: all.superuser,
            has_will: all.has_will,
            awaiting_rel: all.awaiting_rel,
            slots: all.slots,
            outbound_bytes: all.outbound_bytes,
            memory_bytes: all.memory_bytes,
            paused: all.reading.and_then(shard::Reading::why).map(str::to_owned),
            dropped: all.dropped,
            created_at_ms: all.created_at_ms,
        }
    }
}

/// `DELETE /api/v1/clients/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kicked {
    /// The client that was disconnected.
    pub client_id: String,
    /// Whether its session was ended too.
    pub discarded: bool,
}

/// `GET /api/v1/subscriptions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriptions {
    /// A page of subscriptions, in no particular order.
    pub subscriptions: Vec<Subscription>,
    /// The `cursor` of the request for the next page; absent on the last page.
    pub next: Option<String>,
    /// Shards whose subscriptions are missing.
    pub unanswered: Vec<UnansweredShard>,
}

/// A subscription in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Client identifier.
    pub client_id: String,
    /// Topic filter, with its $share prefix if it has one.
    pub filter: String,
    /// Granted QoS.
    pub qos: u8,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling, 0 to 2.
    pub retain_handling: u8,
    /// Subscription identifier; 0 if there is none.
    pub subscription_id: u32,
    /// Home shard of the client.
    pub shard: u8,
}

impl From<shard::SubscriptionRow> for Subscription {
    fn from(row: shard::SubscriptionRow) -> Subscription {
        Subscription {
            client_id: row.client_id,
            filter: row.filter,
            qos: row.qos,
            no_local: row.no_local,
            retain_as_published: row.retain_as_published,
            retain_handling: row.retain_handling,
            subscription_id: row.subscription_id,
            shard: row.shard,
        }
    }
}
