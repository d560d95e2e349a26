//! Data of a shard for the control plane: owned rows that borrow nothing.

use std::sync::Arc;

use super::memory;
use crate::id::{ConnKey, SessionKey};
use crate::interface::{ClientDetails, ClientSummary, SubscriptionRow};
use crate::parts::Parts;
use crate::session::Session;

fn summary(parts: &Parts, session: &Session) -> ClientSummary {
    let identity = &session.identity;
    ClientSummary {
        client_id: identity.client_id.to_string(),
        username: identity.username.as_deref().map(str::to_owned),
        connected: session.conn.is_some(),
        peer: session.conn.and(identity.peer.get()),
        listener: session.conn.map(|_| Arc::clone(&identity.entrance.listener)),
        transport: session.conn.and(identity.transport),
        tls: session.conn.and(identity.tls.clone()),
        protocol: identity.version.level(),
        keep_alive_s: identity.keep_alive_s,
        expiry_s: session.expiry_s,
        since_ms: session.since_wall_ms,
        subscriptions: session.subscriptions.len(),
        inflight: session.inflight.len(),
        queued: session.queue.len(),
        shard: parts.setup.id.0,
    }
}

/// Connected clients and stored sessions in no particular order: up to `limit`, beginning at
/// position `cursor`. Also returns the next cursor if there may be more.
pub(crate) fn clients(parts: &Parts, cursor: usize, limit: usize) -> (Vec<ClientSummary>, Option<usize>) {
    let mut rows = Vec::new();
    for place in cursor..parts.sessions.places() {
        if rows.len() >= limit {
            return (rows, Some(place));
        }
        let session = parts.sessions.key_at(place).and_then(|key: SessionKey| parts.sessions.get(key));
        rows.extend(session.filter(|session| !session.detached).map(|session| summary(parts, session)));
    }
    (rows, None)
}

/// Details of one client, if this shard has it.
/// The client identifier of a connection, once it has been admitted.
pub(crate) fn client_id_of(parts: &Parts, key: ConnKey) -> Option<&str> {
    let session = parts.connections.get(key)?.session?;
    Some(&parts.sessions.get(session)?.identity.client_id)
}

pub(crate) fn client(parts: &Parts, client_id: &str) -> Option<ClientDetails> {
    let session = parts.sessions.get(parts.sessions.by_client_id(client_id)?)?;
    let conn = session.conn.and_then(|key| parts.connections.get(key));
    let packet_bytes_max = conn.map_or(0, |conn| conn.packet_bytes_max);
    // Requests of plugins on its behalf are charged to it too.
    let behalf = parts.hooks.plugins();
    let lines: usize = behalf.request_queues_of(client_id).map(|line| parts.sessions.charged(line)).sum();
    Some(ClientDetails {
        summary: summary(parts, session),
        clean_start: session.identity.clean_start,
        receive_maximum: session.identity.receive_maximum,
        packet_bytes_max: if packet_bytes_max == u32::MAX { 0 } else { packet_bytes_max },
        topic_alias_max: conn.map_or(0, |conn| conn.outbound_aliases_max),
        superuser: session.identity.superuser,
        has_will: session.will.is_some() || session.rare().delayed_will.is_some(),
        awaiting_rel: session.awaiting_rel.len(),
        slots: session.slots.len(),
        outbound_bytes: conn.map_or(0, |conn| conn.out.len()),
        memory_bytes: parts.sessions.charged(session.key)
            + session.conn.map_or(0, |conn| parts.connections.charged(conn))
            + lines
            + behalf.pages_bytes_of(client_id),
        reading: conn.map(|conn| conn.reading),
        dropped: u64::from(session.dropped),
        created_at_ms: session.created_wall_ms,
    })
}

/// Subscriptions of one client or of all, beginning at session `cursor`: at least `limit` if there
/// are that many. Also returns the next cursor if there may be more.
pub(crate) fn subscriptions(
    parts: &Parts,
    client_id: Option<&str>,
    cursor: usize,
    limit: usize,
) -> (Vec<SubscriptionRow>, Option<usize>) {
    let mut rows = Vec::new();
    if let Some(client_id) = client_id {
        let session = parts.sessions.by_client_id(client_id).and_then(|key| parts.sessions.get(key));
        rows.extend(session.into_iter().flat_map(|session| rows_of(parts, session)));
        return (rows, None);
    }
    for place in cursor..parts.sessions.places() {
        if rows.len() >= limit {
            return (rows, Some(place));
        }
        let session = parts.sessions.key_at(place).and_then(|key: SessionKey| parts.sessions.get(key));
        rows.extend(session.filter(|session| !session.detached).into_iter().flat_map(|s| rows_of(parts, s)));
    }
    (rows, None)
}

fn rows_of<'a>(parts: &'a Parts, session: &'a Session) -> impl Iterator<Item = SubscriptionRow> + 'a {
    session.subscriptions.iter().map(|(filter, subscription)| SubscriptionRow {
        client_id: session.identity.client_id.to_string(),
        filter: filter.to_string(),
        qos: subscription.options.qos.as_u8(),
        no_local: subscription.options.no_local,
        retain_as_published: subscription.options.retain_as_published,
        retain_handling: subscription.options.retain_handling as u8,
        subscription_id: subscription.id,
        shard: parts.setup.id.0,
    })
}

/// Brings the gauges among the counters up to date.
pub(crate) fn gauges(parts: &mut Parts) {
    let memory_bytes = memory::ledger(parts).total();
    let counters = &mut parts.counters;
    counters.connections_count = parts.connections.len() as u64;
    counters.sessions_count = parts.sessions.clients_len() as u64;
    counters.subscriptions_count = parts.router.stats().subscriptions as u64;
    counters.messages_retained_count = parts.retained.len() as u64;
    counters.messages_retained_bytes = parts.retained.bytes() as u64;
    counters.hook_calls = parts.hooks.calls_count();
    counters.memory_bytes = memory_bytes;
}
