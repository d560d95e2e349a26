//! CONNACK (MQTT 5.0 section 3.2): the values that the broker grants, client.connack, and refusals.
//! Called by a CONNECT that is decided, and by all code that refuses one.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::reading::Handled;
use super::{ending, notify, send};
use crate::address::Address;
use crate::hook::HookPoint;
use crate::hook::chain::DispatchScope;
use crate::hook::connack::{ConnackFold, Grants};
use crate::id::ConnKey;
use crate::interface::Peer;
use crate::packet::{
    ConnAck, Connect, PACKET_BYTES_MAX, Packet, PacketType, Properties, Property, PropertyId, QoS,
    push_property,
};
use crate::parts::{ChainContext, Parts};
use crate::reason::ReasonCode;
use crate::session::{EndCause, Entrance, Identity};

fn grants(parts: &Parts) -> Grants {
    let limits = &parts.setup.limits;
    Grants {
        receive_maximum: limits.receive_max as u16,
        packet_bytes: limits.packet_bytes_max as u32,
        topic_aliases: limits.topic_alias_max as u16,
        session_expiry_s: u32::try_from(limits.session_expiry_max_s).unwrap_or(u32::MAX),
        user_properties: limits.user_properties_max as usize,
    }
}

/// The properties of a successful CONNACK, before client.connack.
pub(crate) fn connack_section(
    parts: &Parts,
    connect: &Connect<'_>,
    identity: &Identity,
    assigned: bool,
    auth_data: Option<&[u8]>,
) -> Bytes {
    if !connect.version.is_v5() {
        return Bytes::new();
    }
    let mut section = Vec::new();
    let grants = grants(parts);
    let requested_expiry_s = connect.properties.session_expiry_s().unwrap_or(0);
    if identity.expiry_s != requested_expiry_s {
        push_property(&mut section, Property::SessionExpiry(identity.expiry_s));
    }
    push_property(&mut section, Property::ReceiveMaximum(grants.receive_maximum));
    if grants.packet_bytes < PACKET_BYTES_MAX {
        push_property(&mut section, Property::MaximumPacketSize(grants.packet_bytes));
    }
    if assigned {
        push_property(&mut section, Property::AssignedClientId(&identity.client_id));
    }
    let choices = &parts.setup.limits.choices;
    if choices.maximum_qos != QoS::ExactlyOnce {
        // [MQTT-3.2.2-9]
        push_property(&mut section, Property::MaximumQos(choices.maximum_qos.as_u8()));
    }
    if !choices.retain_available {
        push_property(&mut section, Property::RetainAvailable(false));
    }
    if grants.topic_aliases > 0 {
        push_property(&mut section, Property::TopicAliasMaximum(grants.topic_aliases));
    }
    if identity.keep_alive_s != connect.keep_alive_s {
        push_property(&mut section, Property::ServerKeepAlive(identity.keep_alive_s));
    }
    if let Some(method) = connect.properties.auth_method() {
        // [MQTT-4.12.0-5]
        push_property(&mut section, Property::AuthMethod(method));
    }
    if let Some(data) = auth_data {
        push_property(&mut section, Property::AuthData(data));
    }
    section.into()
}

/// Runs client.connack. Changes by links have no effect on the CONNACK of a client older than MQTT
/// 5.
pub(crate) fn run_connack(
    parts: &mut Parts,
    identity: &Identity,
    reason: ReasonCode,
    session_present: bool,
    section: Bytes,
) -> Bytes {
    let grants = grants(parts);
    let point = HookPoint::ClientConnack;
    let ChainContext { chain, calls, .. } = parts.hooks.at(point);
    if chain.is_empty() {
        return section;
    }
    let before = Bytes::clone(&section);
    let mut fold = ConnackFold::new(identity.view(), reason, session_present, section, grants);
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms);
    chain.run((point, calls), DispatchScope::WHOLE, &mut event, &mut fold);
    if identity.version.is_v5() { fold.section.into_bytes() } else { before }
}

/// Sends a CONNACK; `code` is the value on the wire.
pub(crate) fn send_connack(parts: &mut Parts, key: ConnKey, session_present: bool, code: u8, section: &[u8]) {
    let Some(conn) = parts.connections.get_mut(key) else { return };
    if !conn.version.is_v5() && !conn.traced {
        let sent = conn.send_connack_v3(session_present, code, &mut parts.out, &mut parts.counters);
        notify::notify_sent(parts, key, PacketType::ConnAck, sent, sent);
        return;
    }
    let mut properties = Properties::from_encoded(section);
    let mut silent = Vec::new();
    if !conn.reason_strings && properties.has(PropertyId::ReasonString) {
        // A reason string of a plugin is omitted like one of the broker.
        let stays = |property: &Property<'_>| property.id() != PropertyId::ReasonString;
        properties.iter().filter(stays).for_each(|property| push_property(&mut silent, property));
        properties = Properties::from_encoded(&silent);
    }
    let connack = ConnAck { session_present, code, properties };
    let packet = Packet::ConnAck(connack);
    if conn.takes(&packet) {
        send::send(parts, key, &packet);
        return;
    }
    let short = without_extras(&connack.properties);
    let properties = Properties::from_encoded(&short);
    send::send(parts, key, &Packet::ConnAck(ConnAck { properties, ..connack }));
}

/// Whether the client accepts the size of a successful CONNACK without its optional properties.
pub(crate) fn connack_fits(parts: &Parts, key: ConnKey, section: &[u8]) -> bool {
    let Some(conn) = parts.connections.get(key) else { return false };
    if conn.packet_bytes_max == u32::MAX {
        return true;
    }
    let short = without_extras(&Properties::from_encoded(section));
    let properties = Properties::from_encoded(&short);
    conn.takes(&Packet::ConnAck(ConnAck { session_present: false, code: 0, properties }))
}

/// Answers CONNECT with a refusal and ends the connection [MQTT-3.1.4-2].
pub(crate) fn refuse(parts: &mut Parts, key: ConnKey, reason: ReasonCode, text: Option<&[u8]>) -> Handled {
    parts.counters.packets_connack_error += 1;
    // A plugin may have set any reason code [MQTT-3.2.2-8].
    let reason = reason.fitted(ReasonCode::refuses_connect);
    if let Some(conn) = parts.connections.get(key) {
        let v5 = conn.version.is_v5();
        let mut section = Vec::new();
        if let (true, Some(text)) =
            (v5 && conn.takes_reasons(), text.and_then(|t| std::str::from_utf8(t).ok()))
        {
            push_property(&mut section, Property::ReasonString(text));
        }
        let stranger = |peer: &Peer| Rc::new(conn.stranger(peer, parts.clock.now().wall_ms));
        if let Some(identity) = conn.identity.clone().or_else(|| conn.peer().map(stranger)) {
            let section = run_connack(parts, &identity, reason, false, section.into());
            let code = if v5 { reason.0 } else { reason.connack_v3() };
            send_connack(parts, key, false, code, &section);
        }
    }
    ending::end_connection(parts, key, EndCause::ByBroker(reason), None);
    Handled::Closed
}

/// The properties of a CONNACK without the two that may be omitted to keep the client's Maximum
/// Packet Size [MQTT-3.2.2-19] [MQTT-3.2.2-20].
fn without_extras(properties: &Properties<'_>) -> Vec<u8> {
    let mut short = Vec::new();
    let stays =
        |property: &Property<'_>| !matches!(property.id(), PropertyId::User | PropertyId::ReasonString);
    properties.iter().filter(stays).for_each(|property| push_property(&mut short, property));
    short
}

impl crate::clients::connection::Connection {
    /// The identity of a client whose CONNECT could not be decoded.
    fn stranger(&self, peer: &Peer, wall_ms: u64) -> Identity {
        Identity {
            client_id: Arc::from(""),
            username: peer.username.as_deref().map(Box::from),
            is_certified: peer.username.is_some(),
            superuser: false,
            anonymous: true,
            peer: Address::new(peer.peer),
            entrance: Entrance::own(Arc::clone(&peer.listener.name), peer.local),
            transport: Some(peer.listener.transport),
            tls: peer.tls.clone(),
            version: self.version,
            clean_start: true,
            keep_alive_s: 0,
            expiry_s: 0,
            requested_expiry_s: 0,
            receive_maximum: u16::MAX,
            connected_at_ms: wall_ms,
            connection: 0,
            session: 0,
            properties: Box::default(),
            mount: None,
        }
    }
}
