//! Functions that each delivery uses: a PUBLISH that is encoded once and patched, acknowledgements,
//! properties passed on; and the answer to a CONNECT of an unsupported version.

use grapnel_engine::codec::{
    PublishHeader, ack_len, connect_version, decode, encode, encode_ack, encode_pingreq, encode_pingresp,
    encode_publish, encoded_len, forwardable_properties, patch_packet_id, publish_len,
};
use grapnel_engine::packet::{
    Ack, ConnAck, Disconnect, Filters, Packet, PacketType, Property, Publish, QoS, SubAck, Subscribe,
    UnsubAck, Version,
};
use grapnel_engine::reason::ReasonCode;
use proptest::prelude::*;

use crate::notation::{bytes, leaked};
use crate::table::{id, properties, publish, whole};

const HEADER: PublishHeader<'static> = PublishHeader {
    topic: "a/b",
    qos: QoS::AtLeastOnce,
    retain: false,
    dup: false,
    packet_id: None,
    subscription_ids: &[],
    topic_alias: None,
    message_expiry_s: None,
    properties: &[],
    payload_len: 2,
};

/// The complete packet. Checks that the reported lengths are correct.
fn written(header: &PublishHeader<'_>, version: Version, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0xAA; 3];
    let encoded = encode_publish(header, version, &mut out);
    out.extend_from_slice(payload);
    assert_eq!(encoded.len, out.len() - 3);
    assert_eq!(publish_len(header, version), encoded.len);
    out.split_off(3)
}

#[test]
fn a_publish_is_written_once_and_patched() {
    let mut out = vec![0xAA; 3];
    let encoded = encode_publish(&HEADER, Version::V5, &mut out);
    out.extend_from_slice(b"hi");
    let at = encoded.packet_id_at.expect("QoS 1 has a packet identifier");
    patch_packet_id(&mut out, at, id(0x1234));
    assert_eq!(out[3..], bytes("32 [0003 'a/b' 1234 00 'hi']"));
    assert_eq!(encoded.len, out.len() - 3);
    // A place beyond the end is ignored.
    let before = out.clone();
    patch_packet_id(&mut out, before.len() - 1, id(1));
    patch_packet_id(&mut out, usize::MAX, id(1));
    assert_eq!(out, before);
}

#[test]
fn the_first_byte_contains_dup_qos_and_retain() {
    let header = PublishHeader { packet_id: Some(id(7)), ..HEADER };
    for (qos, retain, dup, first) in [
        (QoS::AtMostOnce, false, false, 0x30),
        (QoS::AtMostOnce, true, false, 0x31),
        // A QoS 0 message never carries DUP [MQTT-3.3.1-2], nor a packet identifier [MQTT-2.2.1-2].
        (QoS::AtMostOnce, false, true, 0x30),
        (QoS::AtLeastOnce, false, true, 0x3A),
        (QoS::ExactlyOnce, true, true, 0x3D),
    ] {
        let out = written(&PublishHeader { qos, retain, dup, ..header }, Version::V311, b"hi");
        assert_eq!(out[0], first);
        let packet_id = (qos != QoS::AtMostOnce).then_some(id(7));
        let dup = dup && qos != QoS::AtMostOnce;
        let expected = Publish { dup, qos, retain, packet_id, ..publish("a/b", b"hi") };
        assert_eq!(decode(&whole(&out), Version::V311), Ok(Packet::Publish(expected)));
    }
}

#[test]
fn properties_of_the_delivery_join_those_of_the_message() {
    let message = leaked("03 0001 't'|02 0000000A|26 0001 'k' 0001 'v'");
    let header = PublishHeader {
        qos: QoS::AtMostOnce,
        subscription_ids: &[1, 200],
        topic_alias: Some(3),
        message_expiry_s: Some(9),
        properties: message,
        ..HEADER
    };
    // The expiry is replaced in place [MQTT-3.3.2-6]; user properties keep their order
    // [MQTT-3.3.2-18].
    assert_eq!(
        written(&header, Version::V5, b"hi"),
        bytes("30 [0003 'a/b' [23 0003|03 0001 't'|02 00000009|26 0001 'k' 0001 'v'|0B 01|0B C801] 'hi']")
    );
    // An expiry is added if the properties have none, and stays if there is no new one.
    let plain = PublishHeader { subscription_ids: &[], topic_alias: None, ..header };
    assert_eq!(
        written(&PublishHeader { properties: leaked("01 01"), ..plain }, Version::V5, b"hi"),
        bytes("30 [0003 'a/b' [01 01 02 00000009] 'hi']")
    );
    assert_eq!(
        written(&PublishHeader { message_expiry_s: None, ..plain }, Version::V5, b"hi"),
        bytes("30 [0003 'a/b' [03 0001 't'|02 0000000A|26 0001 'k' 0001 'v'] 'hi']")
    );
    // 3.x has no properties.
    for version in [Version::V31, Version::V311] {
        assert_eq!(written(&header, version, b"hi"), bytes("30 [0003 'a/b' 'hi']"));
    }
    // An existing alias stands for the topic (section 3.3.2.3.4).
    let aliased =
        PublishHeader { topic: "", topic_alias: Some(3), message_expiry_s: None, properties: &[], ..plain };
    assert_eq!(written(&aliased, Version::V5, b"hi"), bytes("30 [0000 [23 0003] 'hi']"));
}

#[test]
fn a_publish_longer_than_the_protocol_allows_is_not_encoded() {
    // Two bytes of topic length, three of topic, two of identifier.
    let largest = PublishHeader { payload_len: 268_435_455 - 7, ..HEADER };
    let mut out = Vec::new();
    assert_eq!(publish_len(&largest, Version::V311), 268_435_460);
    assert_eq!(encode_publish(&largest, Version::V311, &mut out).len, 268_435_460);
    assert_eq!(out, bytes("32 FFFFFF7F 0003 'a/b' 0000"));
    out.clear();
    for version in [Version::V311, Version::V5] {
        let header = PublishHeader { payload_len: 268_435_455 - 6, ..HEADER };
        assert_eq!(publish_len(&header, version), 0);
        assert_eq!(encode_publish(&header, version, &mut out).len, 0);
        assert!(out.is_empty());
    }
}

#[test]
fn topic_aliases_of_one_connection_are_not_forwarded() {
    let mut out = vec![0xAA];
    for (received, forwarded) in [
        ("", None),
        ("01 01|26 0001 'k' 0001 'v'|02 0000000A|08 0001 'r'|09 0001 FF|03 0001 't'", None),
        ("23 0001", Some("")),
        ("01 01|23 0001|26 0001 'k' 0001 'v'", Some("01 01|26 0001 'k' 0001 'v'")),
        ("0B 01|03 0001 't'|0B FFFFFF7F|26 0000 0000", Some("03 0001 't'|26 0000 0000")),
        // The delay of a will is for the broker, not for subscribers (section 3.1.3.2.2).
        ("18 00000005|01 01", Some("01 01")),
    ] {
        out.truncate(1);
        let as_is = forwardable_properties(&properties(received), &mut out);
        assert_eq!(as_is, forwarded.is_none(), "{received}");
        assert_eq!(out[1..], bytes(forwarded.unwrap_or_default()), "{received}");
    }
}

#[test]
fn acknowledgements_are_as_short_as_their_version_allows() {
    let mut out = Vec::new();
    for (kind, reason, version, expected) in [
        (PacketType::PubAck, ReasonCode::SUCCESS, Version::V5, "40 02 1234"),
        (PacketType::PubAck, ReasonCode::NO_MATCHING_SUBSCRIBERS, Version::V5, "40 03 1234 10"),
        (PacketType::PubAck, ReasonCode::QUOTA_EXCEEDED, Version::V311, "40 02 1234"),
        (PacketType::PubRec, ReasonCode::NOT_AUTHORIZED, Version::V5, "50 03 1234 87"),
        (PacketType::PubRel, ReasonCode::SUCCESS, Version::V31, "62 02 1234"),
        (PacketType::PubComp, ReasonCode::PACKET_ID_NOT_FOUND, Version::V5, "70 03 1234 92"),
    ] {
        out.clear();
        encode_ack(kind, id(0x1234), reason, version, &mut out);
        assert_eq!(out, bytes(expected));
        assert_eq!(ack_len(reason, version), out.len());
    }
    // 3.x has no properties, so the full form contains no more.
    out.clear();
    let ack = Ack { properties: properties("1F 0001 'x'"), ..Ack::new(id(1), ReasonCode::QUOTA_EXCEEDED) };
    encode(&Packet::PubAck(ack), Version::V311, &mut out);
    encode_pingreq(&mut out);
    encode_pingresp(&mut out);
    assert_eq!(out, bytes("40 02 0001 C0 00 D0 00"));
}

/// The session answers with v5 codes; the codec maps them to those of each version.
#[test]
fn fields_that_a_version_does_not_have_are_omitted() {
    let section = properties("26 0001 'k' 0001 'v'");
    let filters = Filters::from_encoded(leaked("0001 'a' 2E|0001 'b' 1D"));
    let subscribe = Packet::Subscribe(Subscribe { packet_id: id(1), properties: section, filters });
    let suback = Packet::SubAck(SubAck { packet_id: id(1), properties: section, codes: &[0, 2, 0x87, 0x9E] });
    let unsuback = Packet::UnsubAck(UnsubAck { packet_id: id(1), properties: section, codes: &[0, 0x11] });
    let connack = Packet::ConnAck(ConnAck { session_present: true, code: 0, properties: section });
    let reason = ReasonCode::SERVER_SHUTTING_DOWN;
    let disconnect = Packet::Disconnect(Disconnect { reason, properties: section });
    let sent = Packet::Publish(Publish { properties: section, ..publish("a", b"x") });
    for (packet, version, expected) in [
        (subscribe, Version::V311, "82 [0001 0001 'a' 02 0001 'b' 01]"),
        // 3.1.1 has one code for every failure (section 3.9.3 of 3.1.1).
        (suback, Version::V311, "90 [0001 00 02 80 80]"),
        (unsuback, Version::V311, "B0 [0001]"),
        (connack, Version::V311, "20 [01 00]"),
        // 3.1 has no session present flag.
        (connack, Version::V31, "20 [00 00]"),
        (disconnect, Version::V311, "E0 []"),
        (sent, Version::V31, "30 [0001 'a' 'x']"),
    ] {
        let mut out = Vec::new();
        encode(&packet, version, &mut out);
        assert_eq!(out, bytes(expected), "{version} {packet:?}");
        assert_eq!(encoded_len(&packet, version), out.len(), "{version} {packet:?}");
    }
}

#[test]
fn a_refused_connect_is_answered_in_its_version() {
    for (notation, expected) in [
        ("10 [0004 'MQTT' 05 03 003C 00 0000]", Some(Version::V5)),
        ("10 [0004 'MQTT' 06 02 003C 00 0000]", Some(Version::V5)),
        ("10 [0004 'MQTT' 84 02 003C 0000]", Some(Version::V311)),
        ("10 [0004 'MQTT' 03 02 003C 0000]", Some(Version::V311)),
        ("10 [0004 'MQTT' 04 03]", Some(Version::V311)),
        ("10 [0006 'MQIsdp' 04 02 003C 0000]", Some(Version::V31)),
        ("10 [0004 'HTTP' 04]", None),
        ("10 [0004 'MQTT']", None),
        ("10 []", None),
        ("20 [0004 'MQTT' 05]", None),
    ] {
        assert_eq!(connect_version(&whole(&bytes(notation))), expected, "{notation}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A decoded delivery equals its source.
    #[test]
    fn an_encoded_delivery_decodes_to_the_same_values(
        ids in prop::collection::vec(1u32..=268_435_455, 0..4),
        alias in prop::option::of(1u16..),
        expiry in prop::option::of(any::<u32>()),
        old_expiry in prop::option::of(any::<u32>()),
        user in prop::collection::vec("[a-z]{0,70}", 0..4),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut section = Vec::new();
        let message: Vec<Property<'_>> = old_expiry
            .map(Property::MessageExpiry)
            .into_iter()
            .chain(user.iter().map(|value| Property::User("k", value)))
            .collect();
        for &property in &message {
            grapnel_engine::packet::push_property(&mut section, property);
        }
        let header = PublishHeader {
            packet_id: Some(id(9)),
            subscription_ids: &ids,
            topic_alias: alias,
            message_expiry_s: expiry,
            properties: &section,
            payload_len: payload.len(),
            ..HEADER
        };
        let out = written(&header, Version::V5, &payload);
        let Ok(Packet::Publish(read)) = decode(&whole(&out), Version::V5) else { panic!("{out:02X?}") };
        prop_assert_eq!(read.payload, payload);
        prop_assert_eq!(read.properties.subscription_ids().collect::<Vec<_>>(), ids);
        prop_assert_eq!(read.properties.topic_alias(), alias);
        prop_assert_eq!(read.properties.message_expiry_s(), expiry.or(old_expiry));
        prop_assert_eq!(read.properties.user().map(|(_, value)| value).collect::<Vec<_>>(), user);
    }
}
