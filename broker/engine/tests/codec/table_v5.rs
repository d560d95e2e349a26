//! Valid packets of MQTT 5.0: bytes, and their meaning. Every expectation is taken from the
//! specification. Part of the table in `table`.

use grapnel_engine::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Filters, Packet, Properties, Property, Publish, QoS,
    RetainHandling, SubAck, Subscribe, SubscriptionOptions, TopicFilters, UnsubAck, Unsubscribe, Version,
    Will, push_subscription,
};
use grapnel_engine::reason::ReasonCode;

use crate::notation::leaked;
use crate::table::{Row, connect, id, properties, publish, read_only, row};

const V5: Version = Version::V5;

pub fn all() -> Vec<Row> {
    let mut rows = connect_rows();
    rows.extend(connack_rows());
    rows.extend(publish_rows());
    rows.extend(ack_rows());
    rows.extend(subscription_rows());
    rows.extend(end_rows());
    rows
}

/// Every property of CONNECT (section 3.1.2.11), user properties twice with the same name.
pub const CONNECT_ALL: &str = "11 0000000A|21 0014|27 00010000|22 000A|19 01|17 00|26 0001 'k' 0001 'v'|26 0001 'k' 0000\
                               |15 0005 'SCRAM'|16 0002 00FF";
/// Every property of a will (section 3.1.3.2).
pub const WILL_ALL: &str =
    "18 00000005|01 01|02 0000000A|03 0004 'text'|08 0003 'r/t'|09 0002 00FF|26 0001 'k' 0001 'v'";
/// Every property of CONNACK (section 3.2.2.3).
pub const CONNACK_ALL: &str = "11 FFFFFFFF|21 FFFF|24 01|25 00|27 00000001|12 0003 'xyz'|22 FFFF|1F 0002 'ok'\
                               |26 0000 0000|28 00|29 01|2A 00|13 003C|1A 0001 'i'|1C 0001 's'|15 0001 'm'|16 0000";
/// Every property of PUBLISH (section 3.3.2.3), with the subscription identifiers that a server
/// adds.
pub const PUBLISH_ALL: &str = "01 00|02 00000000|23 0001|08 0001 'r'|09 0000|26 0001 'k' 0001 'v'|26 0001 'a' 0001 'b'\
                               |0B 01|0B FFFFFF7F|0B 8001|03 0000";
/// Properties of acknowledgements, SUBACK and UNSUBACK.
pub const ACK_ALL: &str = "1F 0003 'why'|26 0001 'k' 0001 'v'|26 0001 'k' 0001 'v'";

fn connect_rows() -> Vec<Row> {
    let will = Will {
        topic: "w",
        payload: b"gone",
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: Properties::default(),
    };
    vec![
        row(
            V5,
            "3.1, no properties",
            "10 10|0004 'MQTT' 05 02 003C|00|0003 'abc'",
            Packet::Connect(connect(V5)),
        ),
        row(
            V5,
            "3.1.2.12, the example of the variable header",
            "10 [0004 'MQTT' 05 CE 000A|05 11 0000000A|0003 'abc'|00|0001 'w'|0004 'gone'|0002 'me'|0001 'p']",
            Packet::Connect(Connect {
                keep_alive_s: 10,
                username: Some("me"),
                password: Some(b"p"),
                will: Some(Will { retain: false, ..will }),
                properties: properties("11 0000000A"),
                ..connect(V5)
            }),
        ),
        row(
            V5,
            "3.1.2.11 and 3.1.3.2, every property",
            &format!("10 [0004 'MQTT' 05 2C FFFF [{CONNECT_ALL}] 0000 [{WILL_ALL}] 0001 'w' 0004 'gone']"),
            Packet::Connect(Connect {
                clean_start: false,
                keep_alive_s: u16::MAX,
                client_id: "",
                will: Some(Will { properties: properties(WILL_ALL), ..will }),
                properties: properties(CONNECT_ALL),
                ..connect(V5)
            }),
        ),
        row(
            V5,
            "3.1.2.9, a password without a user name",
            "10 [0004 'MQTT' 05 40 0000|00|0003 'abc'|0003 FF00FE]",
            Packet::Connect(Connect {
                clean_start: false,
                keep_alive_s: 0,
                password: Some(b"\xFF\0\xFE"),
                ..connect(V5)
            }),
        ),
    ]
}

fn connack_rows() -> Vec<Row> {
    let connack = ConnAck { session_present: false, code: 0, properties: Properties::default() };
    vec![
        row(V5, "3.2", "20 03 00 00 00", Packet::ConnAck(connack)),
        row(V5, "3.2.2.1.1", "20 03 01 00 00", Packet::ConnAck(ConnAck { session_present: true, ..connack })),
        row(V5, "3.2.2.2", "20 03 00 9F 00", Packet::ConnAck(ConnAck { code: 0x9F, ..connack })),
        row(
            V5,
            "3.2.2.3, every property",
            &format!("20 [01 00 [{CONNACK_ALL}]]"),
            Packet::ConnAck(ConnAck {
                session_present: true,
                properties: properties(CONNACK_ALL),
                ..connack
            }),
        ),
    ]
}

fn publish_rows() -> Vec<Row> {
    vec![
        row(
            V5,
            "3.3.2.4, the example of the variable header",
            "32 08|0003 'a/b'|000A|00",
            Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                packet_id: Some(id(10)),
                ..publish("a/b", b"")
            }),
        ),
        row(V5, "3.3, no identifier", "30 08|0003 'a/b'|00|'hi'", Packet::Publish(publish("a/b", b"hi"))),
        row(V5, "3.3.2.3, every property", &format!("3D [0003 'a/b' 0001 [{PUBLISH_ALL}] 'hi']"), {
            Packet::Publish(Publish {
                dup: true,
                qos: QoS::ExactlyOnce,
                retain: true,
                packet_id: Some(id(1)),
                properties: properties(PUBLISH_ALL),
                ..publish("a/b", b"hi")
            })
        }),
        row(V5, "3.3.2.3.4, the alias stands for the topic", "30 [0000 [23 FFFF] 'hi']", {
            Packet::Publish(Publish { properties: properties("23 FFFF"), ..publish("", b"hi") })
        }),
        row(V5, "3.3.2.3.2, a payload that is not what its format says", "30 [0001 'a' [01 01] FF]", {
            Packet::Publish(Publish { properties: properties("01 01"), ..publish("a", b"\xFF") })
        }),
        row(V5, "1.5.4, figure 1-2: A and U+2A6D4", "30 [0005 41 F0AA9B94 00]", {
            Packet::Publish(publish("A\u{2A6D4}", b""))
        }),
        row(
            V5,
            "2.2.2.1, properties of more than 127 bytes",
            &format!("30 [0001 'a' [09 0080 {}]]", "00".repeat(128)),
            {
                let section = format!("09 0080 {}", "00".repeat(128));
                Packet::Publish(Publish { properties: properties(&section), ..publish("a", b"") })
            },
        ),
    ]
}

fn ack_rows() -> Vec<Row> {
    let success = Ack::new(id(0x1234), ReasonCode::SUCCESS);
    let with = |reason, section| Ack { reason, properties: properties(section), ..success };
    vec![
        row(V5, "3.4.2.1, remaining length 2", "40 02 1234", Packet::PubAck(success)),
        row(V5, "3.4.2.2.1, remaining length 3", "40 03 1234 10", {
            Packet::PubAck(with(ReasonCode::NO_MATCHING_SUBSCRIBERS, ""))
        }),
        read_only(V5, "3.4.2.1, success spelt out", "40 03 1234 00", Packet::PubAck(success)),
        read_only(V5, "3.4.2.2.1, no properties spelt out", "40 04 1234 00 00", Packet::PubAck(success)),
        row(V5, "3.4.2.2, every property", &format!("40 [1234 97 [{ACK_ALL}]]"), {
            Packet::PubAck(with(ReasonCode::QUOTA_EXCEEDED, ACK_ALL))
        }),
        row(V5, "3.4.2.2, success with properties", &format!("40 [1234 00 [{ACK_ALL}]]"), {
            Packet::PubAck(with(ReasonCode::SUCCESS, ACK_ALL))
        }),
        row(V5, "3.5.2.1, remaining length 2", "50 02 1234", Packet::PubRec(success)),
        row(V5, "3.5.2.2.1, remaining length 3", "50 03 1234 91", {
            Packet::PubRec(with(ReasonCode::PACKET_ID_IN_USE, ""))
        }),
        row(V5, "3.5.2.2, every property", &format!("50 [1234 87 [{ACK_ALL}]]"), {
            Packet::PubRec(with(ReasonCode::NOT_AUTHORIZED, ACK_ALL))
        }),
        row(V5, "3.6.2.1, remaining length 2", "62 02 1234", Packet::PubRel(success)),
        row(V5, "3.6.2.2.1, remaining length 3", "62 03 1234 92", {
            Packet::PubRel(with(ReasonCode::PACKET_ID_NOT_FOUND, ""))
        }),
        row(V5, "3.6.2.2, every property", &format!("62 [1234 00 [{ACK_ALL}]]"), {
            Packet::PubRel(with(ReasonCode::SUCCESS, ACK_ALL))
        }),
        row(V5, "3.7.2.1, remaining length 2", "70 02 1234", Packet::PubComp(success)),
        row(V5, "3.7.2.2.1, remaining length 3", "70 03 1234 92", {
            Packet::PubComp(with(ReasonCode::PACKET_ID_NOT_FOUND, ""))
        }),
        row(V5, "3.7.2.2, every property", &format!("70 [1234 92 [{ACK_ALL}]]"), {
            Packet::PubComp(with(ReasonCode::PACKET_ID_NOT_FOUND, ACK_ALL))
        }),
    ]
}

fn subscription_rows() -> Vec<Row> {
    let subscribe = |section, filters| {
        let filters = Filters::from_encoded(leaked(filters));
        Packet::Subscribe(Subscribe { packet_id: id(10), properties: properties(section), filters })
    };
    let unsubscribe = |section, filters| {
        let filters = TopicFilters::from_encoded(leaked(filters));
        Packet::Unsubscribe(Unsubscribe { packet_id: id(10), properties: properties(section), filters })
    };
    let suback =
        |section, codes| Packet::SubAck(SubAck { packet_id: id(10), properties: properties(section), codes });
    let unsuback = |section, codes| {
        Packet::UnsubAck(UnsubAck { packet_id: id(10), properties: properties(section), codes })
    };
    vec![
        row(V5, "3.8.3, the example in figure 3-21", "82 0F|000A|00|0003 'a/b' 01|0003 'c/d' 02", {
            subscribe("", "0003 'a/b' 01|0003 'c/d' 02")
        }),
        row(
            V5,
            "3.8.2.1 and 3.8.3.1, every property, every option",
            "82 [000A [0B 8101|26 0001 'k' 0001 'v'] 0001 '#' 2E|0001 '+' 10|000D '$share/g/a/+/' 08]",
            subscribe("0B 8101|26 0001 'k' 0001 'v'", "0001 '#' 2E|0001 '+' 10|000D '$share/g/a/+/' 08"),
        ),
        row(V5, "3.9.3", "90 06|000A|00|01 02 00", suback("", &[1, 2, 0])),
        row(
            V5,
            "3.9.2.1 and 3.9.3, every property, every code",
            &format!("90 [000A [{ACK_ALL}] 00 01 02 80 83 87 8F 91 97 9E A1 A2]"),
            suback(ACK_ALL, &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
        ),
        row(V5, "3.10.3, the example in figure 3-28", "A2 0D|000A|00|0003 'a/b'|0003 'c/d'", {
            unsubscribe("", "0003 'a/b'|0003 'c/d'")
        }),
        row(V5, "3.10.2.1, every property", "A2 [000A [26 0001 'k' 0001 'v'] 000A '$share/g/a']", {
            unsubscribe("26 0001 'k' 0001 'v'", "000A '$share/g/a'")
        }),
        row(V5, "3.11.3, every code", "B0 [000A [] 00 11 80 83 87 8F 91]", {
            unsuback("", &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91])
        }),
        row(V5, "3.11.2.1, every property", &format!("B0 [000A [{ACK_ALL}] 00]"), unsuback(ACK_ALL, &[0])),
    ]
}

fn end_rows() -> Vec<Row> {
    let disconnect =
        |reason, section| Packet::Disconnect(Disconnect { reason, properties: properties(section) });
    let auth = |reason, section| Packet::Auth(Auth { reason, properties: properties(section) });
    let all = "11 00000000|1F 0003 'why'|26 0001 'k' 0001 'v'|1C 0001 's'";
    let steps = "15 0001 'm'|16 0002 00FF|1F 0003 'why'|26 0001 'k' 0001 'v'";
    vec![
        row(V5, "3.12", "C0 00", Packet::PingReq),
        row(V5, "3.13", "D0 00", Packet::PingResp),
        row(V5, "3.14.2.1, remaining length 0", "E0 00", disconnect(ReasonCode::SUCCESS, "")),
        row(
            V5,
            "3.14.2.2.1, remaining length 1",
            "E0 01 04",
            disconnect(ReasonCode::DISCONNECT_WITH_WILL, ""),
        ),
        read_only(V5, "3.14.2.1, success spelt out", "E0 01 00", disconnect(ReasonCode::SUCCESS, "")),
        read_only(V5, "3.14.2.2.1, no properties spelt out", "E0 02 8B 00", {
            disconnect(ReasonCode::SERVER_SHUTTING_DOWN, "")
        }),
        row(V5, "2.4, table 2-6, which table 3-10 lacks", "E0 01 8C", {
            disconnect(ReasonCode::BAD_AUTHENTICATION_METHOD, "")
        }),
        row(V5, "3.14.2.2, every property", &format!("E0 [9C [{all}]]"), {
            disconnect(ReasonCode::USE_ANOTHER_SERVER, all)
        }),
        row(V5, "3.15.2.1, remaining length 0", "F0 00", auth(ReasonCode::SUCCESS, "")),
        row(V5, "3.15.2.2, every property", &format!("F0 [18 [{steps}]]"), {
            auth(ReasonCode::CONTINUE_AUTHENTICATION, steps)
        }),
        row(
            V5,
            "3.15.2.1, table 3-11",
            "F0 [19 [15 0001 'm']]",
            auth(ReasonCode::REAUTHENTICATE, "15 0001 'm'"),
        ),
    ]
}

#[test]
fn the_sections_named_all_have_every_property() {
    let names = |section| properties(section).iter().map(|property| property.id()).collect::<Vec<_>>();
    for (section, count) in
        [(CONNECT_ALL, 10), (WILL_ALL, 7), (CONNACK_ALL, 17), (PUBLISH_ALL, 11), (ACK_ALL, 3)]
    {
        assert_eq!(names(section).len(), count, "{section}");
    }
}

#[test]
fn properties_are_read_by_value() {
    let connect = properties(CONNECT_ALL);
    assert_eq!(
        connect.iter().collect::<Vec<_>>(),
        [
            Property::SessionExpiry(10),
            Property::ReceiveMaximum(20),
            Property::MaximumPacketSize(65_536),
            Property::TopicAliasMaximum(10),
            Property::RequestResponseInfo(true),
            Property::RequestProblemInfo(false),
            Property::User("k", "v"),
            Property::User("k", ""),
            Property::AuthMethod("SCRAM"),
            Property::AuthData(b"\0\xFF"),
        ]
    );
    assert_eq!(connect.session_expiry_s(), Some(10));
    assert_eq!(connect.request_problem_info(), Some(false));
    assert_eq!(connect.auth_data(), Some(b"\0\xFF".as_slice()));
    assert_eq!(connect.user().collect::<Vec<_>>(), [("k", "v"), ("k", "")]);
    assert_eq!(connect.topic_alias(), None);
    let will = properties(WILL_ALL);
    assert_eq!(
        (will.will_delay_s(), will.payload_format(), will.message_expiry_s()),
        (Some(5), Some(1), Some(10))
    );
    assert_eq!((will.content_type(), will.response_topic()), (Some("text"), Some("r/t")));
    let connack = properties(CONNACK_ALL);
    assert_eq!((connack.maximum_qos(), connack.retain_available()), (Some(1), Some(false)));
    assert_eq!((connack.assigned_client_id(), connack.server_keep_alive_s()), (Some("xyz"), Some(60)));
    let publish = properties(PUBLISH_ALL);
    assert_eq!(publish.subscription_ids().collect::<Vec<_>>(), [1, 268_435_455, 128]);
    assert_eq!(publish.correlation_data(), Some(b"".as_slice()));
}

#[test]
fn subscription_options_are_read_by_bit() {
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    // Table 3-7: retain handling in bits 5 and 4, retain as published in 3, no local in 2, QoS in 1
    // and 0.
    assert_eq!(options.to_byte(), 0b0010_1110);
    assert_eq!(SubscriptionOptions::from_byte(0b0010_1110), Ok(options));
    assert_eq!(
        SubscriptionOptions::from_byte(0b0001_0000).unwrap().retain_handling,
        RetainHandling::SendIfNew
    );
    for byte in 0..=u8::MAX {
        if let Ok(options) = SubscriptionOptions::from_byte(byte) {
            assert_eq!(options.to_byte(), byte);
        }
    }
    let mut out = Vec::new();
    push_subscription(&mut out, "a", options);
    assert_eq!(out, [0, 1, b'a', 0b0010_1110]);
    assert_eq!(Filters::from_encoded(&out).collect::<Vec<_>>(), [("a", options)]);
}
