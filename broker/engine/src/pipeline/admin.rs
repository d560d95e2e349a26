//! What the control plane sees of a shard: plain owned rows, never a borrow.

use super::Shard;
use crate::id::SessionKey;
use crate::session::Session;

/// A client or stored session in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSummary {
    /// Client identifier.
    pub client_id: String,
    /// User name, if any.
    pub username: Option<String>,
    /// Whether a connection is there now.
    pub connected: bool,
    /// Address and port it came from, while connected.
    pub peer: Option<std::net::SocketAddr>,
    /// 3, 4 or 5.
    pub protocol: u8,
    /// Keep alive in force, seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Session expiry in force, seconds; 4294967295 is never.
    pub expiry_s: u32,
    /// Connected (or disconnected) since, milliseconds since 1970.
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

/// All about one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientDetails {
    /// As in lists.
    pub summary: ClientSummary,
    /// Through which listener.
    pub listener: Option<String>,
    /// Whether it asked for a clean start.
    pub clean_start: bool,
    /// Its Receive Maximum.
    pub receive_maximum: u16,
    /// Its Maximum Packet Size; 0 where it set none.
    pub packet_bytes_max: u32,
    /// Topic aliases it lets us set.
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
    /// Messages dropped for it so far.
    pub dropped: u64,
    /// When its session was created, milliseconds since 1970.
    pub created_at_ms: u64,
}

/// A subscription in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// Whose.
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
    /// From the client, or to it.
    pub inbound: bool,
    /// Packet, its identifiers, flags, topic and sizes, such as `PUBLISH q1 r0 d0 m12 'a/b' (5 bytes)`.
    pub text: String,
}

impl Shard {
    fn summary(&self, session: &Session) -> ClientSummary {
        let identity = &session.identity;
        ClientSummary {
            client_id: identity.client_id.to_string(),
            username: identity.username.as_deref().map(str::to_owned),
            connected: session.conn.is_some(),
            peer: session.conn.map(|_| identity.peer),
            protocol: identity.version.level(),
            keep_alive_s: identity.keep_alive_s,
            expiry_s: session.expiry_s,
            since_ms: session.since_wall_ms,
            subscriptions: session.subscriptions.len(),
            inflight: session.inflight.len(),
            queued: session.queue.len(),
            shard: self.setup.id.0,
        }
    }

    /// Connected clients and stored sessions, in no particular order, `limit` from the `cursor`-th place on, with the next
    /// cursor if there may be more.
    pub fn clients(&self, cursor: usize, limit: usize) -> (Vec<ClientSummary>, Option<usize>) {
        let mut rows = Vec::new();
        for place in cursor..self.sessions.places() {
            if rows.len() >= limit {
                return (rows, Some(place));
            }
            let session = self.sessions.key_at(place).and_then(|key: SessionKey| self.sessions.get(key));
            rows.extend(session.filter(|session| !session.orphan).map(|session| self.summary(session)));
        }
        (rows, None)
    }

    /// All about one client, if this shard has it.
    pub fn client(&self, client_id: &str) -> Option<ClientDetails> {
        let session = self.sessions.get(*self.by_client.get(client_id)?)?;
        let conn = session.conn.and_then(|key| self.conns.get(key));
        let aliases = conn.and_then(|conn| conn.aliases.as_ref());
        let packet_bytes_max = conn.map_or(0, |conn| conn.packet_bytes_max);
        Some(ClientDetails {
            summary: self.summary(session),
            listener: conn.map(|conn| conn.peer.listener.name.to_string()),
            clean_start: session.identity.clean_start,
            receive_maximum: session.identity.receive_maximum,
            packet_bytes_max: if packet_bytes_max == u32::MAX { 0 } else { packet_bytes_max },
            topic_alias_max: aliases.map_or(0, |aliases| aliases.outbound_max),
            superuser: session.identity.superuser,
            has_will: session.will.is_some() || session.delayed_will.is_some(),
            awaiting_rel: session.awaiting_rel.len(),
            slots: session.slots.len(),
            outbound_bytes: conn.map_or(0, |conn| conn.out.len()),
            dropped: session.dropped,
            created_at_ms: session.created_wall_ms,
        })
    }

    /// Subscriptions of one client or of all, at least `limit` of them from the `cursor`-th session on if there are that
    /// many, with the next cursor if there may be more.
    pub fn subscriptions(
        &self,
        client_id: Option<&str>,
        cursor: usize,
        limit: usize,
    ) -> (Vec<SubscriptionRow>, Option<usize>) {
        let mut rows = Vec::new();
        if let Some(client_id) = client_id {
            let session = self.by_client.get(client_id).and_then(|key| self.sessions.get(*key));
            rows.extend(session.into_iter().flat_map(|session| self.rows_of(session)));
            return (rows, None);
        }
        for place in cursor..self.sessions.places() {
            if rows.len() >= limit {
                return (rows, Some(place));
            }
            let session = self.sessions.key_at(place).and_then(|key: SessionKey| self.sessions.get(key));
            rows.extend(session.filter(|session| !session.orphan).into_iter().flat_map(|s| self.rows_of(s)));
        }
        (rows, None)
    }

    fn rows_of<'a>(&'a self, session: &'a Session) -> impl Iterator<Item = SubscriptionRow> + 'a {
        session.subscriptions.iter().map(|(filter, subscription)| SubscriptionRow {
            client_id: session.identity.client_id.to_string(),
            filter: filter.to_string(),
            qos: subscription.options.qos.as_u8(),
            no_local: subscription.options.no_local,
            retain_as_published: subscription.options.retain_as_published,
            retain_handling: subscription.options.retain_handling as u8,
            subscription_id: subscription.id,
            shard: self.setup.id.0,
        })
    }
}
