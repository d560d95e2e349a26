//! The end of a publish: PUBACK or PUBREC, or the end of the connection that it came on.

use super::{ending, send};
use crate::codec;
use crate::id::{ConnKey, SessionKey};
use crate::packet::{Ack, Packet, PacketType, Properties, Property, QoS, push_property};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::EndCause;
use crate::session::publish::{PublishMetadata, Verdict};

/// Ends a publish: acknowledges it, or disconnects its sender. `from` is the connection it came on.
/// A later connection of the session is not disconnected but gets the reason code, since it may
/// have sent the publish again.
pub(crate) fn conclude(
    parts: &mut Parts,
    session_key: SessionKey,
    from: Option<ConnKey>,
    metadata: PublishMetadata,
    verdict: &Verdict,
) {
    if verdict.disconnect
        && let Some(conn) = parts.sessions.get(session_key).and_then(|session| session.conn)
        && Some(conn) == from
    {
        let reason = verdict.code;
        ending::end_connection(parts, conn, EndCause::ByBroker(reason), Some((reason, None)));
        return;
    }
    if verdict.code.is_error() {
        parts.counters.packets_publish_error += 1;
    }
    acknowledge(parts, session_key, metadata, verdict);
}

/// Sends PUBACK or PUBREC [MQTT-4.3.2-4] [MQTT-4.3.3-8]. In 3.x a refused message is acknowledged
/// like any other [MQTT-3.3.5-2 of 3.1.1].
fn acknowledge(parts: &mut Parts, session_key: SessionKey, metadata: PublishMetadata, verdict: &Verdict) {
    let Some(packet_id) = metadata.packet_id else { return };
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let kind = match metadata.packet_qos {
        QoS::AtMostOnce => return,
        QoS::AtLeastOnce => PacketType::PubAck,
        QoS::ExactlyOnce => PacketType::PubRec,
    };
    let v5 = session.identity.version.is_v5();
    // A PUBREC with an error ends the exchange. 3.x has no such code, so PUBREL will come.
    if kind == PacketType::PubRec && !(v5 && verdict.code.is_error()) {
        session.awaiting_rel.make().insert(packet_id);
    }
    let Some(conn) = session.conn else { return };
    // A plugin may have set any reason code [MQTT-3.4.2-1] [MQTT-3.5.2-1].
    let code = verdict.code.fitted(ReasonCode::refuses_publish);
    let text = verdict.text.as_deref().filter(|_| v5).and_then(|text| std::str::from_utf8(text).ok());
    if let (Some(text), Some(open)) = (text, parts.connections.get(conn).filter(|conn| conn.takes_reasons()))
    {
        let mut section = Vec::new();
        push_property(&mut section, Property::ReasonString(text));
        let ack = Ack { packet_id, reason: code, properties: Properties::from_encoded(&section) };
        let packet = if kind == PacketType::PubAck { Packet::PubAck(ack) } else { Packet::PubRec(ack) };
        // Omitted where the packet would exceed the client's Maximum Packet Size [MQTT-3.4.2-2]
        // [MQTT-3.5.2-2].
        if codec::encoded_len(&packet, open.version) <= open.packet_bytes_max as usize {
            send::send(parts, conn, &packet);
            return;
        }
    }
    send::send_ack(parts, conn, kind, packet_id, code);
}
