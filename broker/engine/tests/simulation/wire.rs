//! Packets of the clients as bytes, and helpers to read what the broker sends.

use std::num::NonZeroU16;

use grapnel_engine::codec;
use grapnel_engine::packet::{
    Ack, Auth, Connect, Disconnect, Filters, Packet, PacketType, Properties, Property, Publish, QoS,
    Subscribe, SubscriptionOptions, TopicFilters, Unsubscribe, Version, Will, push_filter, push_property,
    push_subscription,
};
use grapnel_engine::reason::ReasonCode;

use crate::op::{self, FILTERS, USERS, WILL_TOPICS};

/// The authentication method of clients that use one.
pub const METHOD: &str = "rounds";

pub fn qos(number: u8) -> QoS {
    QoS::from_u8(number % 3).unwrap_or_default()
}

/// The payload of a message: its number, then filling.
pub fn payload(number: u32, size: u32) -> Vec<u8> {
    if size == 0 {
        return Vec::new();
    }
    let mut payload = vec![b'.'; size.max(4) as usize];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    payload
}

/// The number in a payload.
pub fn number_of(payload: &[u8]) -> Option<u32> {
    let bytes = payload.get(..4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(packet, version, &mut bytes);
    bytes
}

fn section(properties: &[Property<'_>], version: Version) -> Vec<u8> {
    let mut section = Vec::new();
    if version.is_v5() {
        properties.iter().for_each(|property| push_property(&mut section, *property));
    }
    section
}

fn nonzero(id: u16) -> NonZeroU16 {
    NonZeroU16::new(id).unwrap_or(NonZeroU16::MIN)
}

pub fn connect(client_id: &str, request: &op::Connect, will_number: u32) -> Vec<u8> {
    let mut properties = Vec::new();
    properties.extend(request.expiry_s.map(Property::SessionExpiry));
    properties.extend(request.receive_maximum.map(Property::ReceiveMaximum));
    properties.extend(request.packet_bytes_max.map(Property::MaximumPacketSize));
    if request.alias_max > 0 {
        properties.push(Property::TopicAliasMaximum(request.alias_max));
    }
    if request.auth {
        properties.push(Property::AuthMethod(METHOD));
        properties.push(Property::AuthData(b"0"));
    }
    let properties = section(&properties, request.version);
    let delay = request.will.as_ref().map_or(0, |will| will.delay_s);
    let will_properties =
        if delay > 0 { section(&[Property::WillDelay(delay)], request.version) } else { Vec::new() };
    let will_payload = payload(will_number, 4);
    let will = request.will.as_ref().map(|will| Will {
        topic: WILL_TOPICS[usize::from(will.retain)],
        payload: &will_payload,
        qos: qos(will.qos),
        retain: will.retain,
        properties: Properties::from_encoded(&will_properties),
    });
    let packet = Packet::Connect(Connect {
        version: request.version,
        clean_start: request.clean,
        keep_alive_s: request.keep_alive_s,
        client_id,
        username: USERS[usize::from(request.user) % USERS.len()],
        password: None,
        will,
        properties: Properties::from_encoded(&properties),
    });
    encoded(&packet, request.version)
}

/// The parts of a PUBLISH.
pub struct Publication<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub id: u16,
    pub alias: u16,
    pub expiry_s: Option<u32>,
}

pub fn publish(publication: &Publication<'_>, version: Version) -> Vec<u8> {
    let mut properties = Vec::new();
    properties.extend(publication.expiry_s.map(Property::MessageExpiry));
    if publication.alias > 0 {
        properties.push(Property::TopicAlias(publication.alias));
    }
    let properties = section(&properties, version);
    let packet = Packet::Publish(Publish {
        dup: publication.dup,
        qos: qos(publication.qos),
        retain: publication.retain,
        topic: publication.topic,
        packet_id: NonZeroU16::new(publication.id),
        properties: Properties::from_encoded(&properties),
        payload: publication.payload,
    });
    encoded(&packet, version)
}

/// Options that are valid on the wire.
pub fn options(byte: u8) -> SubscriptionOptions {
    SubscriptionOptions::from_byte(byte & 0b0011_1111).unwrap_or_default()
}

pub fn subscribe(filters: &[(u8, u8)], id: u16, subscription_id: u32, version: Version) -> Vec<u8> {
    let mut payload = Vec::new();
    for (filter, byte) in filters {
        let options =
            if version.is_v5() { options(*byte) } else { SubscriptionOptions::of_qos(qos(*byte & 3)) };
        push_subscription(&mut payload, FILTERS[usize::from(*filter)], options);
    }
    let ids = if subscription_id > 0 { vec![Property::SubscriptionId(subscription_id)] } else { Vec::new() };
    let properties = section(&ids, version);
    let packet = Packet::Subscribe(Subscribe {
        packet_id: nonzero(id),
        properties: Properties::from_encoded(&properties),
        filters: Filters::from_encoded(&payload),
    });
    encoded(&packet, version)
}

pub fn unsubscribe(filters: &[(u8, u8)], id: u16, version: Version) -> Vec<u8> {
    let mut payload = Vec::new();
    filters.iter().for_each(|(filter, _)| push_filter(&mut payload, FILTERS[usize::from(*filter)]));
    let packet = Packet::Unsubscribe(Unsubscribe {
        packet_id: nonzero(id),
        properties: Properties::default(),
        filters: TopicFilters::from_encoded(&payload),
    });
    encoded(&packet, version)
}

pub fn acknowledgement(kind: PacketType, id: u16, version: Version) -> Vec<u8> {
    let ack = Ack::new(nonzero(id), ReasonCode::SUCCESS);
    let packet = match kind {
        PacketType::PubAck => Packet::PubAck(ack),
        PacketType::PubRec => Packet::PubRec(ack),
        PacketType::PubRel => Packet::PubRel(ack),
        _ => Packet::PubComp(ack),
    };
    encoded(&packet, version)
}

pub fn disconnect(reason: u8, expiry_s: Option<u32>, version: Version) -> Vec<u8> {
    let expiry: Vec<Property<'_>> = expiry_s.map(Property::SessionExpiry).into_iter().collect();
    let properties = section(&expiry, version);
    let reason = if version.is_v5() { ReasonCode(reason) } else { ReasonCode::SUCCESS };
    encoded(
        &Packet::Disconnect(Disconnect { reason, properties: Properties::from_encoded(&properties) }),
        version,
    )
}

pub fn auth(reason: ReasonCode, version: Version) -> Vec<u8> {
    let properties = section(&[Property::AuthMethod(METHOD), Property::AuthData(b"1")], version);
    encoded(&Packet::Auth(Auth { reason, properties: Properties::from_encoded(&properties) }), version)
}

pub fn ping() -> Vec<u8> {
    vec![0xC0, 0]
}
