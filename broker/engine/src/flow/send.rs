//! Output of the flows: packets for a connection, envelopes for a shard, lines for a trace.

use std::num::NonZeroU16;

use super::notify;
use crate::clients::connection::State;
use crate::envelope::{Envelope, EnvelopeBody, Lane};
use crate::id::{ConnKey, ShardId};
use crate::interface::TraceLine;
use crate::outbox::Outbound;
use crate::packet::{Auth, Disconnect, Packet, PacketType, Properties, Property, Version, push_property};
use crate::parts::Parts;
use crate::reason::ReasonCode;

/// Queues a packet for a connection, if it still exists.
pub(crate) fn send(parts: &mut Parts, key: ConnKey, packet: &Packet<'_>) {
    let Some(conn) = parts.connections.get_mut(key) else { return };
    let sent = conn.send(packet, &mut parts.out, &mut parts.counters);
    if sent == 0 {
        return;
    }
    if conn.traced {
        trace(parts, key, false, || crate::traces::describe(packet));
    }
    notify::notify_sent(parts, key, packet.packet_type(), sent, sent);
}

/// Queues an acknowledgement for a connection, if it still exists.
#[inline]
pub(crate) fn send_ack(
    parts: &mut Parts,
    key: ConnKey,
    kind: PacketType,
    packet_id: NonZeroU16,
    reason: ReasonCode,
) {
    let Some(conn) = parts.connections.get_mut(key) else { return };
    let sent = conn.send_ack(kind, packet_id, reason, &mut parts.out, &mut parts.counters);
    if conn.traced {
        trace(parts, key, false, || format!("{} m{packet_id} rc{:02x}", kind.name(), reason.0));
    }
    notify::notify_sent(parts, key, kind, sent, sent);
}

/// Queues PINGRESP for a connection, if it still exists and its client accepts two bytes.
pub(crate) fn send_pingresp(parts: &mut Parts, key: ConnKey) {
    let Some(conn) = parts.connections.get_mut(key) else { return };
    let sent = conn.send_pingresp(&mut parts.out, &mut parts.counters);
    if sent == 0 {
        return;
    }
    if conn.traced {
        trace(parts, key, false, || crate::traces::describe(&Packet::PingResp));
    }
    notify::notify_sent(parts, key, PacketType::PingResp, sent, sent);
}

/// The outbound queue of a connection, to be looked at.
pub(crate) fn queued(parts: &Parts, conn: ConnKey) -> Option<&Outbound> {
    parts.connections.get(conn).map(|conn| &conn.out)
}

/// The outbound queue of a connection, to be written from the front and `advance`d.
pub(crate) fn outbound(parts: &mut Parts, conn: ConnKey) -> Option<&mut Outbound> {
    let conn = parts.connections.get_mut(conn)?;
    conn.dirty = false;
    Some(&mut conn.out)
}

pub(crate) fn push_envelope(parts: &mut Parts, to: ShardId, lane: Lane, body: EnvelopeBody) {
    parts.out.push(to, lane, Envelope { body });
}

/// Records a packet of a traced connection.
#[cold]
pub(crate) fn trace(parts: &mut Parts, key: ConnKey, inbound: bool, text: impl FnOnce() -> String) {
    let Some(conn) = parts.connections.get(key) else { return };
    let Some(identity) = &conn.identity else { return };
    let client_id = std::sync::Arc::clone(&identity.client_id);
    trace_client(parts, &client_id, inbound, text);
}

/// Records a packet of a client, if it is traced.
pub(crate) fn trace_client(parts: &mut Parts, client_id: &str, inbound: bool, text: impl FnOnce() -> String) {
    let wall_ms = parts.clock.now().wall_ms;
    let max = parts.setup.limits.trace_lines_max as usize;
    let line = || TraceLine { wall_ms, inbound, text: text() };
    parts.connections.traces().add(client_id, max, line);
}

/// Sends DISCONNECT on a live connection of MQTT 5. The reason string is omitted where it would
/// exceed the client's Maximum Packet Size [MQTT-3.14.2-3].
pub(crate) fn send_disconnect(
    parts: &mut Parts,
    key: ConnKey,
    reason: ReasonCode,
    detail: Option<&'static str>,
) {
    let Some(conn) = parts.connections.get(key) else { return };
    if conn.version != Version::V5 || conn.state != State::Live {
        return;
    }
    // A plugin may have set a reason code of other packets.
    let reason = reason.fitted(ReasonCode::ends_connection);
    let mut section = Vec::new();
    if let (Some(text), true) = (detail, conn.takes_reasons()) {
        push_property(&mut section, Property::ReasonString(text));
    }
    let properties = Properties::from_encoded(&section);
    let mut packet = Packet::Disconnect(Disconnect { reason, properties });
    if !conn.takes(&packet) {
        packet = Packet::Disconnect(Disconnect { reason, properties: Properties::default() });
    }
    send(parts, key, &packet);
}

/// Sends AUTH; false if the client does not accept one that large [MQTT-3.1.2-24]: no part may be
/// omitted.
pub(crate) fn send_auth(
    parts: &mut Parts,
    key: ConnKey,
    reason: ReasonCode,
    method: Option<&str>,
    data: Option<&[u8]>,
) -> bool {
    let mut section = Vec::new();
    // [MQTT-4.12.0-5]
    if let Some(method) = method {
        push_property(&mut section, Property::AuthMethod(method));
    }
    if let Some(data) = data {
        push_property(&mut section, Property::AuthData(data));
    }
    let packet = Packet::Auth(Auth { reason, properties: Properties::from_encoded(&section) });
    let fits = parts.connections.get(key).is_some_and(|conn| conn.takes(&packet));
    send(parts, key, &packet);
    fits
}
