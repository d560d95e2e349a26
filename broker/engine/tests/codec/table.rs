//! Valid packets: bytes, and their meaning. Every expectation is taken from the specification, none
//! from our own output. The rows of 3.1 and 3.1.1 are here, those of 5.0 in `table_v5`; the other
//! tests of this folder use all of them.

use std::num::NonZeroU16;

use grapnel_engine::codec::{Frame, decode, encode, encoded_len, frame, frame_len};
use grapnel_engine::packet::{
    Ack, ConnAck, Connect, Disconnect, Filters, Packet, PacketType, Properties, Publish, QoS, SubAck,
    Subscribe, TopicFilters, UnsubAck, Unsubscribe, Version, Will,
};
use grapnel_engine::reason::ReasonCode;

use crate::notation::{bytes, leaked};

pub struct Row {
    /// The section that gives the layout, or the example in it.
    pub section: &'static str,
    pub version: Version,
    pub bytes: Vec<u8>,
    pub packet: Packet<'static>,
    /// Whether we choose this encoding where the specification allows several.
    pub canonical: bool,
}

pub fn row(version: Version, section: &'static str, notation: &str, packet: Packet<'static>) -> Row {
    Row { section, version, bytes: bytes(notation), packet, canonical: true }
}

/// A row that we decode but would encode differently.
pub fn read_only(version: Version, section: &'static str, notation: &str, packet: Packet<'static>) -> Row {
    Row { canonical: false, ..row(version, section, notation, packet) }
}

pub fn id(value: u16) -> NonZeroU16 {
    NonZeroU16::new(value).unwrap()
}

pub fn properties(notation: &str) -> Properties<'static> {
    Properties::from_encoded(leaked(notation))
}

pub fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "abc",
        username: None,
        password: None,
        will: None,
        properties: Properties::default(),
    }
}

pub fn publish(topic: &'static str, payload: &'static [u8]) -> Publish<'static> {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        properties: Properties::default(),
        payload,
    }
}

pub fn all() -> Vec<Row> {
    let mut rows = connection_v3();
    rows.extend(messages_v3());
    rows.extend(subscriptions_v3());
    rows.extend(crate::table_v5::all());
    rows
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn connection_v3() -> Vec<Row> {
    use Version::{V31, V311};
    let will = Will {
        topic: "w",
        payload: b"gone",
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: Properties::default(),
    };
    let connack = |session_present, code| {
        Packet::ConnAck(ConnAck { session_present, code, properties: Properties::default() })
    };
    let disconnect =
        Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::default() });
    vec![
        row(V311, "3.1.1: 3.1", "10 0F|0004 'MQTT' 04 02 003C|0003 'abc'", Packet::Connect(connect(V311))),
        row(
            V311,
            "3.1.1: 3.1.3.1, no client identifier",
            "10 0C|0004 'MQTT' 04 02 0000|0000",
            Packet::Connect(Connect { client_id: "", keep_alive_s: 0, ..connect(V311) }),
        ),
        row(
            V311,
            "3.1.1: 3.1.3.1, no client identifier and no clean session: the server's decision [MQTT-3.1.3-8]",
            "10 0C|0004 'MQTT' 04 00 003C|0000",
            Packet::Connect(Connect { client_id: "", clean_start: false, ..connect(V311) }),
        ),
        row(
            V311,
            "3.1.1: 3.1.2, the example in figure 3.6, without clean session",
            "10 1F|0004 'MQTT' 04 EC 000A|0003 'abc'|0001 'w'|0004 'gone'|0002 'me'|0001 FF",
            Packet::Connect(Connect {
                clean_start: false,
                keep_alive_s: 10,
                username: Some("me"),
                password: Some(b"\xFF"),
                will: Some(will),
                ..connect(V311)
            }),
        ),
        row(
            V311,
            "3.1.1: 3.1.3.3, a will without payload",
            "10 14|0004 'MQTT' 04 16 003C|0003 'abc'|0001 'w'|0000",
            Packet::Connect(Connect {
                will: Some(Will { payload: b"", qos: QoS::ExactlyOnce, retain: false, ..will }),
                ..connect(V311)
            }),
        ),
        row(
            V31,
            "3.1: 3.1, the example of the variable header",
            "10 21|0006 'MQIsdp' 03 CE 000A|0003 'abc'|0001 'w'|0004 'gone'|0002 'me'|0001 'p'",
            Packet::Connect(Connect {
                keep_alive_s: 10,
                username: Some("me"),
                password: Some(b"p"),
                will: Some(Will { retain: false, ..will }),
                ..connect(V31)
            }),
        ),
        read_only(
            V31,
            "3.1: 3.1, user name and password announced and missing",
            "10 11|0006 'MQIsdp' 03 C2 003C|0003 'abc'",
            Packet::Connect(connect(V31)),
        ),
        read_only(
            V31,
            "3.1: 3.1, the password announced and missing",
            "10 15|0006 'MQIsdp' 03 C2 003C|0003 'abc'|0002 'me'",
            Packet::Connect(Connect { username: Some("me"), ..connect(V31) }),
        ),
        read_only(
            V31,
            "3.1: 3.1, unused flags are set",
            "1F 11|0006 'MQIsdp' 03 03 003C|0003 'abc'",
            Packet::Connect(connect(V31)),
        ),
        row(V311, "3.1.1: 3.2", "20 02 00 00", connack(false, 0)),
        row(V311, "3.1.1: 3.2.2.2", "20 02 01 00", connack(true, 0)),
        row(V311, "3.1.1: 3.2.2.3, table 3.1", "20 02 00 05", connack(false, 5)),
        row(V31, "3.1: 3.2", "20 02 00 04", connack(false, 4)),
        read_only(V31, "3.1: 3.2, the reserved byte", "20 02 80 00", connack(false, 0)),
        row(V311, "3.1.1: 3.12", "C0 00", Packet::PingReq),
        row(V311, "3.1.1: 3.13", "D0 00", Packet::PingResp),
        row(V311, "3.1.1: 3.14", "E0 00", disconnect),
        row(V31, "3.1: 3.14", "E0 00", disconnect),
    ]
}

fn messages_v3() -> Vec<Row> {
    use Version::{V31, V311};
    let ack = |packet_id| Ack {
        packet_id: id(packet_id),
        reason: ReasonCode::SUCCESS,
        properties: Properties::default(),
    };
    vec![
        row(V311, "3.1.1: 3.3", "30 07|0003 'a/b'|'hi'", Packet::Publish(publish("a/b", b"hi"))),
        row(V311, "3.1.1: 3.3.3, no payload", "31 03|0001 'a'", {
            Packet::Publish(Publish { retain: true, ..publish("a", b"") })
        }),
        row(
            V311,
            "3.1.1: 3.3.2, the example in table 3.3",
            "32 07|0003 'a/b'|000A",
            Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                packet_id: Some(id(10)),
                ..publish("a/b", b"")
            }),
        ),
        row(
            V311,
            "3.1.1: 3.3.1, every flag",
            "3D 08|0003 'a/b'|FFFF|00",
            Packet::Publish(Publish {
                dup: true,
                qos: QoS::ExactlyOnce,
                retain: true,
                packet_id: Some(id(0xFFFF)),
                ..publish("a/b", b"\0")
            }),
        ),
        row(
            V31,
            "3.1: 3.3",
            "3A 07|0003 'a/b'|000A",
            Packet::Publish(Publish {
                dup: true,
                qos: QoS::AtLeastOnce,
                packet_id: Some(id(10)),
                ..publish("a/b", b"")
            }),
        ),
        row(
            V311,
            "3.1.1: 1.5.3.1, figure 1.2: A and U+2A6D4",
            "30 07|0005 41 F0AA9B94",
            Packet::Publish(publish("A\u{2A6D4}", b"")),
        ),
        row(
            V311,
            "3.1.1: 1.5.3 [MQTT-1.5.3-3], U+FEFF stays",
            "30 06|0004 EFBBBF 41",
            Packet::Publish(publish("\u{FEFF}A", b"")),
        ),
        row(
            V311,
            "3.1.1: 2.2.3, 128 bytes need two bytes of length",
            &format!("30 8001|0001 'a'{}", "58".repeat(125)),
            Packet::Publish(publish("a", leaked(&"58".repeat(125)))),
        ),
        row(V311, "3.1.1: 3.4", "40 02 1234", Packet::PubAck(ack(0x1234))),
        row(V311, "3.1.1: 3.5", "50 02 0001", Packet::PubRec(ack(1))),
        row(V311, "3.1.1: 3.6", "62 02 0001", Packet::PubRel(ack(1))),
        row(V311, "3.1.1: 3.7", "70 02 FFFF", Packet::PubComp(ack(0xFFFF))),
        read_only(V31, "3.1: 3.6, a repeated PUBREL has DUP", "6A 02 0001", Packet::PubRel(ack(1))),
    ]
}

fn subscriptions_v3() -> Vec<Row> {
    use Version::{V31, V311};
    let filters = leaked("0003 'a/b' 01|0003 'c/d' 02");
    let subscribe = Subscribe {
        packet_id: id(10),
        properties: Properties::default(),
        filters: Filters::from_encoded(filters),
    };
    let unsubscribe = Unsubscribe {
        packet_id: id(10),
        properties: Properties::default(),
        filters: TopicFilters::from_encoded(leaked("0003 'a/b'|0003 'c/d'")),
    };
    let suback = SubAck { packet_id: id(10), properties: Properties::default(), codes: &[0, 1, 2, 0x80] };
    let unsuback = UnsubAck { packet_id: id(10), properties: Properties::default(), codes: &[] };
    vec![
        row(
            V311,
            "3.1.1: 3.8.3, the example in figure 3.22",
            "82 0E|000A|0003 'a/b' 01|0003 'c/d' 02",
            Packet::Subscribe(subscribe),
        ),
        row(V311, "3.1.1: 3.8.3, a name that only v5 treats as shared", "82 0D|000A|0008 '$share/g' 00", {
            let filters = Filters::from_encoded(leaked("0008 '$share/g' 00"));
            Packet::Subscribe(Subscribe { filters, ..subscribe })
        }),
        read_only(
            V31,
            "3.1: 3.8, a repeated SUBSCRIBE has DUP",
            "8A 0E|000A|0003 'a/b' 01|0003 'c/d' 02",
            Packet::Subscribe(subscribe),
        ),
        row(V311, "3.1.1: 3.9.3", "90 06|000A|00 01 02 80", Packet::SubAck(suback)),
        row(
            V311,
            "3.1.1: 3.10.3, the example in figure 3.30",
            "A2 0C|000A|0003 'a/b'|0003 'c/d'",
            Packet::Unsubscribe(unsubscribe),
        ),
        row(V311, "3.1.1: 3.11", "B0 02|000A", Packet::UnsubAck(unsuback)),
    ]
}

/// The frame of complete bytes.
pub fn whole(bytes: &[u8]) -> Frame<'_> {
    let frame = frame(bytes, u32::MAX).expect("a good fixed header").expect("a complete frame");
    assert_eq!(frame.len, bytes.len());
    frame
}

#[test]
fn each_row_decodes_to_its_packet() {
    for row in all() {
        let packet = decode(&whole(&row.bytes), row.version);
        assert_eq!(packet, Ok(row.packet), "{} {}", row.version, row.section);
    }
}

#[test]
fn each_canonical_row_encodes_to_its_bytes() {
    for row in all().into_iter().filter(|row| row.canonical) {
        // Existing bytes of the buffer stay.
        let mut out = vec![0xAA];
        encode(&row.packet, row.version, &mut out);
        assert_eq!(out[1..], row.bytes, "{} {}", row.version, row.section);
        assert_eq!(encoded_len(&row.packet, row.version), row.bytes.len(), "{} {}", row.version, row.section);
    }
}

#[test]
fn non_canonical_rows_encode_to_the_same_meaning() {
    for row in all().into_iter().filter(|row| !row.canonical) {
        let mut out = Vec::new();
        encode(&row.packet, row.version, &mut out);
        assert_ne!(out, row.bytes, "{} {}", row.version, row.section);
        assert_eq!(decode(&whole(&out), row.version), Ok(row.packet), "{} {}", row.version, row.section);
    }
}

#[test]
fn a_decoder_waits_for_a_whole_packet_and_leaves_the_following_bytes() {
    for row in all() {
        for end in 0..row.bytes.len() {
            assert_eq!(frame(&row.bytes[..end], u32::MAX), Ok(None), "{} up to {end}", row.section);
        }
        let mut two = row.bytes.clone();
        two.extend_from_slice(&row.bytes);
        let first = frame(&two, u32::MAX).unwrap().unwrap();
        assert_eq!(first.len, row.bytes.len());
        assert_eq!(decode(&first, row.version), Ok(row.packet), "{}", row.section);
    }
}

#[test]
fn the_length_is_checked_when_the_header_has_arrived() {
    for row in all() {
        let len = row.bytes.len();
        let header = if len > 129 { 3 } else { 2 };
        assert_eq!(frame_len(&row.bytes[..header - 1]), None);
        assert_eq!(frame_len(&row.bytes[..header]), Some(len));
        let limit = u32::try_from(len).unwrap();
        assert!(frame(&row.bytes, limit).unwrap().is_some());
        let error = frame(&row.bytes[..header], limit - 1).unwrap_err();
        assert_eq!(error.reason, ReasonCode::PACKET_TOO_LARGE, "{}", row.section);
    }
}

#[test]
fn the_table_has_every_packet_of_every_version() {
    for version in [Version::V311, Version::V5] {
        for kind in PacketType::ALL {
            let known = all().iter().any(|row| row.version == version && row.packet.packet_type() == kind);
            assert_eq!(known, version.is_v5() || kind != PacketType::Auth, "{version} {kind}");
        }
    }
}
