//! The most frequent packets, decoded and encoded.

use std::hint::black_box;
use std::num::NonZeroU16;

use grapnel_engine::codec;
use grapnel_engine::packet::{
    ConnAck, Connect, Filters, Packet, Properties, Property, Publish, QoS, Subscribe, SubscriptionOptions,
    Version, Will, push_property, push_subscription,
};

use super::Unit;

/// A typical payload of a sensor.
pub const PAYLOAD: [u8; 64] = [b'7'; 64];
/// Five properties, typical of bridges and request/response clients.
const PUBLISH_PROPERTIES: [Property<'static>; 5] = [
    Property::PayloadFormat(1),
    Property::MessageExpiry(3600),
    Property::ContentType("application/json"),
    Property::ResponseTopic("replies/17"),
    Property::User("site", "north"),
];

pub fn section(properties: &[Property<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    properties.iter().for_each(|property| push_property(&mut bytes, *property));
    bytes
}

fn publish(properties: &[u8]) -> Publish<'_> {
    Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "sensors/17/temperature",
        packet_id: NonZeroU16::new(17),
        properties: Properties::from_encoded(properties),
        payload: &PAYLOAD,
    }
}

pub fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(packet, version, &mut bytes);
    bytes
}

fn decoding(bytes: Vec<u8>, version: Version) -> impl Unit {
    move || {
        let frame = codec::frame(black_box(&bytes), u32::MAX).unwrap().unwrap();
        let packet = codec::decode(&frame, version).unwrap();
        black_box(&packet);
        frame.len as u64
    }
}

pub fn decode_publish_v311() -> impl Unit {
    decoding(encoded(&Packet::Publish(publish(&[])), Version::V311), Version::V311)
}

pub fn decode_publish_v5() -> impl Unit {
    let properties = section(&PUBLISH_PROPERTIES);
    decoding(encoded(&Packet::Publish(publish(&properties)), Version::V5), Version::V5)
}

pub fn decode_connect_v5() -> impl Unit {
    let properties = section(&[Property::SessionExpiry(3600), Property::ReceiveMaximum(100)]);
    let will = Will {
        topic: "status/17",
        payload: b"gone",
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: Properties::default(),
    };
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "sensor-17",
        username: Some("sensor"),
        password: Some(b"secret"),
        will: Some(will),
        properties: Properties::from_encoded(&properties),
    };
    decoding(encoded(&Packet::Connect(connect), Version::V5), Version::V5)
}

pub fn decode_subscribe_v5() -> impl Unit {
    let mut filters = Vec::new();
    for filter in ["sensors/17/temperature", "sensors/+/alarm", "site/north/#"] {
        push_subscription(&mut filters, filter, SubscriptionOptions::of_qos(QoS::AtLeastOnce));
    }
    let properties = section(&[Property::SubscriptionId(7)]);
    let subscribe = Subscribe {
        packet_id: NonZeroU16::MIN,
        properties: Properties::from_encoded(&properties),
        filters: Filters::from_encoded(&filters),
    };
    decoding(encoded(&Packet::Subscribe(subscribe), Version::V5), Version::V5)
}

pub fn encode_publish_v311() -> impl Unit {
    let mut out = Vec::new();
    move || {
        out.clear();
        codec::encode(&Packet::Publish(black_box(publish(&[]))), Version::V311, &mut out);
        out.len() as u64
    }
}

pub fn encode_publish_v5() -> impl Unit {
    let properties = section(&PUBLISH_PROPERTIES);
    let mut out = Vec::new();
    move || {
        out.clear();
        codec::encode(&Packet::Publish(black_box(publish(&properties))), Version::V5, &mut out);
        out.len() as u64
    }
}

pub fn encode_connack_v5() -> impl Unit {
    let properties = section(&[Property::ReceiveMaximum(100), Property::TopicAliasMaximum(10)]);
    let mut out = Vec::new();
    move || {
        out.clear();
        let connack =
            ConnAck { session_present: false, code: 0, properties: Properties::from_encoded(&properties) };
        codec::encode(&Packet::ConnAck(black_box(connack)), Version::V5, &mut out);
        out.len() as u64
    }
}
