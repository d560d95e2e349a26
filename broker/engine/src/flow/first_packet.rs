//! The first packet of a connection: its version, its client identifier, and its home shard.

use super::reading::Handled;
use super::{admission, connack, ending, home, user_properties};
use crate::codec;
use crate::codec::Frame;
use crate::id::ConnKey;
use crate::packet::{Packet, Version};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::EndCause;

/// Handles the first packet of a connection.
pub(crate) fn first_packet(parts: &mut Parts, key: ConnKey, frame: &Frame<'_>, whole: &[u8]) -> Handled {
    let version = codec::connect_version(frame);
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.packet_came();
        conn.version = version.unwrap_or(conn.version);
    }
    if version.is_some_and(|version| !accepts(parts, key, version)) {
        return connack::refuse(parts, key, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, None);
    }
    let connect = match codec::decode(frame, Version::V5) {
        Ok(packet) if user_properties::refuses_controls(parts, &packet) => {
            parts.counters.packets_malformed += 1;
            if version == Some(Version::V5) {
                return connack::refuse(parts, key, ReasonCode::MALFORMED_PACKET, None);
            }
            ending::end_connection(parts, key, EndCause::ByBroker(ReasonCode::MALFORMED_PACKET), None);
            return Handled::Closed;
        }
        Ok(Packet::Connect(connect)) => connect,
        Ok(_) => {
            ending::end_connection(parts, key, EndCause::ByBroker(ReasonCode::PROTOCOL_ERROR), None);
            return Handled::Closed;
        }
        Err(error) => {
            parts.counters.packets_malformed += 1;
            // MQTT 5 and an unknown level get an answer [MQTT-3.1.2-2] [MQTT-3.1.4-1]. After a
            // malformed CONNECT of 3.x, or bytes that are not MQTT [MQTT-3.1.2-1], the connection
            // just ends.
            let unsupported = error.reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
            if version == Some(Version::V5) || (version.is_some() && unsupported) {
                return connack::refuse(parts, key, error.reason, None);
            }
            ending::end_connection(parts, key, EndCause::ByBroker(error.reason), None);
            return Handled::Closed;
        }
    };
    if let Some(conn) = parts.connections.get_mut(key) {
        // Needed for refusals too.
        conn.problem_info = connect.properties.request_problem_info().unwrap_or(true);
        conn.packet_bytes_max = connect.properties.maximum_packet_size().unwrap_or(u32::MAX);
    }
    if connect.client_id.len() as u64 > parts.setup.limits.client_id_bytes_max {
        return connack::refuse(parts, key, ReasonCode::CLIENT_ID_NOT_VALID, None);
    }
    let will = connect.will.map(|will| will.properties).unwrap_or_default();
    for properties in [&connect.properties, &will] {
        if let Err(beyond) = user_properties::check_user_properties(properties, &parts.setup.limits) {
            return connack::refuse(parts, key, beyond.reason, None);
        }
    }
    let assigned = connect.client_id.is_empty();
    if assigned {
        // 3.1 requires an identifier. 3.1.1 may omit it with a clean session only [MQTT-3.1.3-8], 5
        // always [MQTT-3.1.3-6].
        let refused = match connect.version {
            Version::V31 => true,
            Version::V311 => !connect.clean_start,
            Version::V5 => false,
        };
        if refused || !parts.setup.limits.choices.allow_empty_client_id {
            return connack::refuse(parts, key, ReasonCode::CLIENT_ID_NOT_VALID, None);
        }
    } else {
        let home = home::home_of(parts, connect.client_id);
        if home != parts.setup.id {
            return Handled::Handoff(home);
        }
    }
    parts.counters.packets_received += 1;
    parts.counters.packets_connect_received += 1;
    parts.counters.client_connect += 1;
    admission::admit(parts, key, &connect, whole, assigned)
}

/// Whether the listener of a connection accepts clients of this version [MQTT-3.1.2-2]. What is no
/// version of MQTT is left to the decoder.
fn accepts(parts: &Parts, key: ConnKey, version: Version) -> bool {
    let peer = parts.connections.get(key).and_then(|conn| conn.peer());
    peer.is_some_and(|peer| peer.listener.versions.has(version))
}
