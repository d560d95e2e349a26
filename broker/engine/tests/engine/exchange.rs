//! Publishing and delivery: each QoS both ways, windows, order, aliases, expiry, sizes (MQTT 5.0
//! sections 3.3, 4.3, 4.4).

use grapnel_engine::packet::{Packet, Property, QoS, SubscriptionOptions, Version};
use grapnel_engine::reason::ReasonCode;

use crate::world::{ConnectRequest, Got, World, message};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

#[test]
fn a_message_is_delivered_with_the_lower_qos_of_publish_and_subscription() {
    for shards in [1, 2, 8] {
        for version in VERSIONS {
            for sub_qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                for pub_qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    let mut world = World::new(shards);
                    let sub = world.connect("sub", &ConnectRequest::v(version));
                    let publisher = world.connect("pub", &ConnectRequest::v(version));
                    assert_eq!(world.subscribe(sub, "a/+", sub_qos), [sub_qos.as_u8()]);
                    world.publish(
                        publisher,
                        "a/b",
                        "x",
                        pub_qos,
                        if pub_qos == QoS::AtMostOnce { 0 } else { 5 },
                    );
                    let expected = message("a/b", "x", pub_qos.as_u8().min(sub_qos.as_u8()));
                    assert_eq!(world.take_plain(sub), [expected], "{shards} shards, {version:?}");
                    let acks = world.take(publisher);
                    match pub_qos {
                        QoS::AtMostOnce => assert_eq!(acks, []),
                        QoS::AtLeastOnce => assert_eq!(acks, [Got::Ack("PUBACK", 5, 0)]),
                        QoS::ExactlyOnce => {
                            assert_eq!(acks, [Got::Ack("PUBREC", 5, 0)]);
                            world.ack(publisher, Packet::PubRel, 5);
                            assert_eq!(world.take(publisher), [Got::Ack("PUBCOMP", 5, 0)]);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_repeated_qos_2_publish_is_delivered_once() {
    // [MQTT-4.3.3-10]
    let mut world = World::new(2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtMostOnce);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 9);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 9);
    assert_eq!(world.take(sub).len(), 1);
    assert_eq!(world.take(publisher), [Got::Ack("PUBREC", 9, 0), Got::Ack("PUBREC", 9, 0)]);
    world.ack(publisher, Packet::PubRel, 9);
    world.publish(publisher, "t", "y", QoS::ExactlyOnce, 9);
    assert_eq!(world.take(sub).len(), 1, "after PUBREL the identifier names a new message");
}

#[test]
fn pubrel_of_an_unknown_identifier_is_answered_with_0x92() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.ack(client, Packet::PubRel, 77);
    assert_eq!(world.take(client), [Got::Ack("PUBCOMP", 77, 0x92)]);
}

#[test]
fn no_matching_subscribers_is_reported_in_mqtt_5() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.publish(client, "nobody", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x10)]);
}

#[test]
fn the_receive_maximum_of_the_client_bounds_what_is_in_flight() {
    // [MQTT-3.3.4-9]
    let mut world = World::new(1);
    let request =
        ConnectRequest { properties: vec![Property::ReceiveMaximum(2)], ..ConnectRequest::v(Version::V5) };
    let sub = world.connect("sub", &request);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtLeastOnce);
    for n in 1..=5 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, n);
    }
    let first = world.take(sub);
    assert_eq!(first.len(), 2);
    world.ack(sub, Packet::PubAck, first[0].id());
    let second = world.take_plain(sub);
    assert_eq!(second, [message("t", "3", 1)], "one leaves, one moves up, in order");
}

#[test]
fn more_publishes_than_our_receive_maximum_end_the_connection() {
    // [MQTT-3.3.4-7]
    let mut world = World::with(1, |limits| limits.receive_max = 2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    for n in 1..=2 {
        world.publish(publisher, "t", "x", QoS::ExactlyOnce, n);
    }
    world.take(publisher);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 3);
    assert_eq!(world.take(publisher), [Got::Disconnect(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED.0)]);
    assert!(world.is_closed(publisher));
}

#[test]
fn a_topic_alias_stands_for_its_topic_and_an_unknown_one_ends_the_connection() {
    let mut world = World::new(2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    world.publish_with(publisher, "long/topic", "1", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(3)]);
    world.publish_with(publisher, "", "2", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(3)]);
    let expected = [message("long/topic", "1", 0), message("long/topic", "2", 0)];
    assert_eq!(world.take(sub), expected);
    world.publish_with(publisher, "", "3", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(4)]);
    assert_eq!(world.take(publisher), [Got::Disconnect(ReasonCode::PROTOCOL_ERROR.0)]);
}

#[test]
fn the_broker_sets_a_topic_alias_if_the_client_allows_one() {
    let mut world = World::new(1);
    let request =
        ConnectRequest { properties: vec![Property::TopicAliasMaximum(1)], ..ConnectRequest::v(Version::V5) };
    let sub = world.connect("sub", &request);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    for topic in ["a", "a", "b"] {
        world.publish(publisher, topic, "x", QoS::AtMostOnce, 0);
    }
    let topics: Vec<String> = world
        .take(sub)
        .into_iter()
        .map(|got| match got {
            Got::Publish { topic, .. } => topic,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(topics, ["a", "", "b"], "set, used, and none left for b");
}

#[test]
fn a_waiting_message_expires_or_is_sent_with_its_remaining_expiry() {
    // [MQTT-3.3.2-5] [MQTT-3.3.2-6]
    let mut world = World::new(1);
    let request = ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(100)],
        ..ConnectRequest::v(Version::V5)
    };
    let sub = world.connect("sub", &request);
    world.subscribe(sub, "t", QoS::AtLeastOnce);
    world.lose(sub);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish_with(publisher, "t", "short", QoS::AtLeastOnce, 1, false, &[Property::MessageExpiry(5)]);
    world.publish_with(publisher, "t", "long", QoS::AtLeastOnce, 2, false, &[Property::MessageExpiry(50)]);
    world.pass_ms(10_000);
    let sub = world.connect("sub", &request);
    assert_eq!(world.take_plain(sub), [message("t", "long", 1)]);
}

#[test]
fn a_packet_beyond_the_clients_maximum_is_never_sent() {
    // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    let mut world = World::new(1);
    let request = ConnectRequest {
        properties: vec![Property::MaximumPacketSize(30)],
        ..ConnectRequest::v(Version::V5)
    };
    let sub = world.connect("sub", &request);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtLeastOnce);
    world.publish(publisher, "t", &"x".repeat(100), QoS::AtLeastOnce, 1);
    world.publish(publisher, "t", "small", QoS::AtLeastOnce, 2);
    assert_eq!(world.take_plain(sub), [message("t", "small", 1)]);
}

#[test]
fn large_payloads_arrive_unchanged() {
    let mut world = World::new(2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    let other = world.connect("other", &ConnectRequest::v(Version::V311));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    world.subscribe(sub, "big", QoS::AtLeastOnce);
    world.subscribe(other, "big", QoS::AtMostOnce);
    let payload = "0123456789".repeat(50_000);
    world.publish(publisher, "big", &payload, QoS::AtLeastOnce, 1);
    assert_eq!(world.take_plain(sub), [message("big", &payload, 1)]);
    assert_eq!(world.take_plain(other), [message("big", &payload, 0)]);
}

#[test]
fn a_slow_subscriber_loses_qos_0_and_keeps_qos_1_within_its_queue() {
    let mut world = World::with(1, |limits| {
        limits.session_queue_messages_max = 3;
        limits.inflight_max = 1;
    });
    let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    world.subscribe(sub, "t", QoS::AtLeastOnce);
    for n in 1..=6 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, n);
    }
    assert_eq!(world.take(publisher).len(), 6, "the publisher is acknowledged whatever a subscriber does");
    assert_eq!(world.shards[0].counters().messages_dropped_queue_full, 2);
    let mut seen = Vec::new();
    loop {
        let got = world.take(sub);
        let Some(first) = got.first() else { break };
        seen.push(first.clone().plain());
        world.ack(sub, Packet::PubAck, first.id());
    }
    assert_eq!(seen, ["1", "2", "3", "4"].map(|n| message("t", n, 1)));
}

#[test]
fn publishes_of_one_client_arrive_in_order_across_shards() {
    let mut world = World::new(8);
    let subs: Vec<_> =
        (0..8).map(|n| world.connect(&format!("sub{n}"), &ConnectRequest::v(Version::V311))).collect();
    for &sub in &subs {
        world.subscribe(sub, "t/#", QoS::AtMostOnce);
    }
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 0..50 {
        world.publish(publisher, "t/x", &n.to_string(), QoS::AtMostOnce, 0);
    }
    let expected: Vec<Got> = (0..50).map(|n| message("t/x", &n.to_string(), 0)).collect();
    for sub in subs {
        assert_eq!(world.take(sub), expected);
    }
}

#[test]
fn a_publisher_waits_for_a_full_lane_and_no_message_is_lost() {
    let mut world = World::with(2, |limits| limits.lane_envelopes_max = 64);
    let (sub, publisher) = two_apart(&mut world);
    world.subscribe(sub, "t", QoS::AtLeastOnce);
    world.lanes_open = false;
    for n in 1..=100 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, n);
    }
    assert_eq!(world.take(publisher).len(), 64, "the rest waits in slots");
    world.lanes_open = true;
    world.drive();
    assert_eq!(world.take(publisher).len(), 36);
    let mut seen = 0;
    loop {
        let got = world.take(sub);
        if got.is_empty() {
            break;
        }
        for one in got {
            seen += 1;
            assert_eq!(one.clone().plain(), message("t", &seen.to_string(), 1));
            world.ack(sub, Packet::PubAck, one.id());
        }
    }
    assert_eq!(seen, 100);
}

/// Two clients whose homes are different shards.
fn two_apart(world: &mut World) -> (usize, usize) {
    let first = world.connect("first", &ConnectRequest::v(Version::V311));
    for n in 0.. {
        let other = world.connect(&format!("other{n}"), &ConnectRequest::v(Version::V311));
        if world.shard_of(other) != world.shard_of(first) {
            return (first, other);
        }
    }
    unreachable!("the loop has no end")
}

#[test]
fn a_fan_out_beyond_a_turn_is_sliced_and_nothing_overtakes_it() {
    let mut world = World::with(1, |limits| limits.turn_budget_deliveries = 64);
    let subs: Vec<_> =
        (0..200).map(|n| world.connect(&format!("s{n}"), &ConnectRequest::v(Version::V311))).collect();
    for &sub in &subs {
        world.subscribe(sub, "all", QoS::AtMostOnce);
        world.subscribe(sub, &format!("one/{sub}"), QoS::AtMostOnce);
    }
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    let mut burst = Vec::new();
    for (topic, payload) in [("all", "1"), (&*format!("one/{}", subs[199]), "2")] {
        let packet = Packet::Publish(grapnel_engine::packet::Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic,
            packet_id: None,
            properties: grapnel_engine::packet::Properties::default(),
            payload: payload.as_bytes(),
        });
        grapnel_engine::codec::encode(&packet, Version::V311, &mut burst);
    }
    world.send_bytes(publisher, &burst);
    for (place, &sub) in subs.iter().enumerate() {
        let got = world.take(sub);
        assert_eq!(got[0], message("all", "1", 0));
        assert_eq!(got.len(), if place == 199 { 2 } else { 1 });
    }
}

#[test]
fn a_forbidden_packet_ends_the_connection() {
    let cases: [(&[u8], u8); 5] = [
        (&[0x20, 0x03, 0, 0, 0], 0x82),          // CONNACK
        (&[0xF0, 0x00], 0x82),                   // AUTH without a method [MQTT-4.12.0-6]
        (&[0x36, 0x04, 0, 1, b't', 0], 0x81),    // QoS 3 [MQTT-3.3.1-4]
        (&[0x82, 0x02, 0, 1], 0x81),             // SUBSCRIBE without properties
        (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], 0x81), // remaining length of five bytes
    ];
    for (bytes, reason) in cases {
        let mut world = World::new(1);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.send_bytes(client, bytes);
        assert_eq!(world.take(client), [Got::Disconnect(reason)], "{bytes:02x?}");
        assert!(world.is_closed(client));
    }
}

#[test]
fn properties_of_a_publish_are_forwarded_unchanged() {
    // [MQTT-3.3.2-17] [MQTT-3.3.2-18]
    let mut world = World::new(2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtMostOnce);
    let properties = [
        Property::PayloadFormat(1),
        Property::ContentType("text/plain"),
        Property::User("b", "1"),
        Property::User("a", "2"),
        Property::User("b", "3"),
        Property::ResponseTopic("r"),
        Property::CorrelationData(&[0, 255]),
    ];
    world.publish_with(publisher, "t", "x", QoS::AtMostOnce, 0, false, &properties);
    let bytes = world.take_raw(sub);
    let frame = grapnel_engine::codec::frame(&bytes, u32::MAX).unwrap().unwrap();
    let Ok(Packet::Publish(got)) = grapnel_engine::codec::decode(&frame, Version::V5) else {
        panic!("PUBLISH")
    };
    assert_eq!(got.properties.iter().collect::<Vec<_>>(), properties);
}

/// Only the parts that are the same for all subscribers are encoded once for all [MQTT-3.3.4-3].
#[test]
fn each_subscriber_gets_its_own_subscription_identifiers() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let subs: Vec<_> = [Some(7), None, Some(9), None]
            .into_iter()
            .enumerate()
            .map(|(n, id)| {
                let sub = world.connect(&n.to_string(), &ConnectRequest::v(Version::V5));
                world.subscribe_with(sub, "t", SubscriptionOptions::of_qos(QoS::AtMostOnce), id);
                (sub, id)
            })
            .collect();
        let publisher = world.connect("p", &ConnectRequest::v(Version::V5));
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        for (sub, id) in subs {
            let got = world.take(sub);
            let [Got::Publish { ids, .. }] = &got[..] else { panic!("{got:?}") };
            assert_eq!(*ids, id.into_iter().collect::<Vec<_>>());
        }
    }
}
