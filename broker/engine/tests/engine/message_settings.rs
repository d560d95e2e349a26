//! Settings for clients' messages: queue_full, maximum_qos, retain_available, payload_bytes_max,
//! reason_strings.

use grapnel_engine::codec;
use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_engine::limits::QueueFull;
use grapnel_engine::message::Message;
use grapnel_engine::packet::{Packet, Property, PropertyId, QoS, Version};
use grapnel_plugin_abi::raw::{Field, Flow, Status};

use crate::hooks::{Call, link, mount};
use crate::world::{ClientId, ConnectRequest, Got, World, message};

/// The value of a property in the CONNACK.
fn connack_has(world: &mut World, request: &ConnectRequest<'_>, id: PropertyId) -> Option<String> {
    let client = world.open(request.version);
    world.send_connect(client, &format!("c{client}"), request);
    first_has(world, client, id)
}

/// The value of a property in the next packet that the client received.
fn first_has(world: &mut World, client: ClientId, id: PropertyId) -> Option<String> {
    let bytes = world.take_raw(client);
    let frame = codec::frame(&bytes, u32::MAX).expect("a packet").expect("a whole one");
    let packet = codec::decode(&frame, Version::V5).expect("a valid one");
    let properties = match &packet {
        Packet::ConnAck(connack) => connack.properties,
        Packet::PubAck(ack) | Packet::PubRec(ack) => ack.properties,
        Packet::Disconnect(disconnect) => disconnect.properties,
        other => panic!("{other:?}"),
    };
    properties.find(id).map(|property| format!("{property:?}"))
}

/// drop_newest keeps the oldest messages, drop_oldest the newest. Each drop is counted, in messages
/// and in bytes, and a message that does not fit an empty queue drops only itself.
#[test]
fn a_full_queue_drops_the_newest_or_the_oldest() {
    let bytes = (size_of::<Message>() + 2) as u64;
    for (choice, by_bytes, expected) in [
        (QueueFull::DropNewest, false, ["1", "2", "3"]),
        (QueueFull::DropOldest, false, ["4", "5", "6"]),
        (QueueFull::DropNewest, true, ["1", "2", "3"]),
        (QueueFull::DropOldest, true, ["4", "5", "6"]),
    ] {
        let mut world = World::with(1, |limits| {
            limits.choices.queue_full = choice;
            if by_bytes {
                limits.session_queue_bytes_max = 3 * bytes;
            } else {
                limits.session_queue_messages_max = 3;
            }
        });
        let request = ConnectRequest {
            clean: false,
            properties: vec![Property::SessionExpiry(100)],
            ..ConnectRequest::v(Version::V5)
        };
        let sub = world.connect("sub", &request);
        world.subscribe(sub, "t", QoS::AtLeastOnce);
        world.lose(sub);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        for n in 1..=6 {
            world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, n);
        }
        assert_eq!(world.shards[0].counters().messages_dropped_queue_full, 3);
        if by_bytes {
            let large = "x".repeat(3 * bytes as usize);
            world.publish(publisher, "t", &large, QoS::AtLeastOnce, 7);
            assert_eq!(world.shards[0].counters().messages_dropped_queue_full, 4);
        }
        let sub = world.connect("sub", &request);
        assert_eq!(world.take_plain(sub), expected.map(|payload| message("t", payload, 1)), "{choice:?}");
    }
}

/// A QoS up to maximum_qos is accepted; a higher one ends the connection, also in a will. SUBSCRIBE
/// may request any QoS.
#[test]
fn maximum_qos_is_announced_and_enforced() {
    let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for maximum in all {
        let mut world = World::with(1, |limits| limits.choices.maximum_qos = maximum);
        let notified = connack_has(&mut world, &ConnectRequest::v(Version::V5), PropertyId::MaximumQos);
        let expected = (maximum < QoS::ExactlyOnce).then(|| format!("MaximumQos({})", maximum.as_u8()));
        assert_eq!(notified, expected, "[MQTT-3.2.2-9]");
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        assert_eq!(world.subscribe(sub, "#", QoS::ExactlyOnce), [2], "[MQTT-3.2.2-10]");
        for (qos, version) in all.into_iter().flat_map(|qos| [(qos, Version::V5), (qos, Version::V311)]) {
            let client = world.connect("c", &ConnectRequest::v(version));
            let id = u16::from(qos != QoS::AtMostOnce);
            world.publish(client, "t", "x", qos, id);
            let fine = qos <= maximum;
            assert_eq!(world.is_closed(client), !fine, "[MQTT-3.2.2-11]");
            assert_eq!(world.take(sub).len(), usize::from(fine));
            if !fine && version == Version::V5 {
                assert_eq!(world.take(client), [Got::Disconnect(0x9B)]);
            }
            let will = Some(("w", "x", qos, false));
            let (client, connack) =
                world.try_connect("w", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
            let code = if fine { 0 } else { 0x9B };
            assert_eq!(connack, Some(Got::ConnAck { present: false, code }), "[MQTT-3.2.2-12]");
            world.disconnect(client, grapnel_engine::reason::ReasonCode::SUCCESS);
        }
    }
}

/// Without retain_available neither clients nor plugins can retain a message.
#[test]
fn retain_available_is_announced_and_enforced() {
    let mut world = World::with(1, |limits| limits.choices.retain_available = false);
    let notified = connack_has(&mut world, &ConnectRequest::v(Version::V5), PropertyId::RetainAvailable);
    assert_eq!(notified.as_deref(), Some("RetainAvailable(false)"));
    for version in [Version::V5, Version::V311] {
        let client = world.connect("c", &ConnectRequest::v(version));
        world.publish_with(client, "t", "x", QoS::AtMostOnce, 0, true, &[]);
        assert!(world.is_closed(client), "[MQTT-3.2.2-14]");
        let expected = if version == Version::V5 { vec![Got::Disconnect(0x9A)] } else { vec![] };
        assert_eq!(world.take(client), expected);
    }
    let will = Some(("w", "x", QoS::AtMostOnce, true));
    let connack = world.try_connect("w", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) }).1;
    assert_eq!(connack, Some(Got::ConnAck { present: false, code: 0x9A }), "[MQTT-3.2.2-13]");
    let retains = link(1, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
        assert_eq!(call.set(Field::RETAIN, 1, "", ""), Status::OK);
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::MessagePublish, retains)]);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x10)]);
    assert_eq!(world.shards[0].counters().messages_retained_count, 0);
    let mut world = World::new(1);
    assert_eq!(connack_has(&mut world, &ConnectRequest::v(Version::V5), PropertyId::RetainAvailable), None);
}

/// A payload of payload_bytes_max is accepted and one byte more is not: from a client, its will,
/// and a hook.
#[test]
fn payloads_above_payload_bytes_max_are_refused() {
    for (bytes, fine) in [(0, true), (9, true), (10, true), (11, false), (5_000, false)] {
        let mut world = World::with(1, |limits| limits.payload_bytes_max = 10);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
        world.subscribe(sub, "#", QoS::AtMostOnce);
        let payload = "x".repeat(bytes);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.publish(client, "t", &payload, QoS::AtLeastOnce, 1);
        world.publish(client, "t", &payload, QoS::ExactlyOnce, 2);
        let code = if fine { 0 } else { 0x97 };
        assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, code), Got::Ack("PUBREC", 2, code)]);
        world.publish(client, "t", &payload, QoS::AtMostOnce, 0);
        assert_eq!(world.is_closed(client), !fine, "nothing else can say so");
        assert_eq!(world.take(sub).len(), if fine { 3 } else { 0 });
        let will = Some(("w", &*payload, QoS::AtMostOnce, false));
        let connack = world.try_connect("w", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) }).1;
        assert_eq!(connack, Some(Got::ConnAck { present: false, code }));
        let makes = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            let status = call.set(Field::PAYLOAD, 0, &payload, "");
            assert_eq!(status == Status::OK, fine);
            Flow::CONTINUE
        });
        mount(&mut world, vec![(HookPoint::MessagePublish, makes)]);
        let client = world.connect("d", &ConnectRequest::v(Version::V5));
        world.publish(client, "t", "short", QoS::AtMostOnce, 0);
        let expected = if fine { "x".repeat(bytes) } else { "short".into() };
        assert_eq!(world.take(sub), [message("t", &expected, 0)]);
    }
}

/// With reason_strings = false no packet has a reason string, whatever its source; otherwise each
/// has one.
#[test]
fn reason_strings_can_be_switched_off() {
    for notified in [true, false] {
        let mut world = World::with(1, |limits| limits.choices.reason_strings = notified);
        let rejects = link(1, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
            call.set(Field::REASON_STRING, 0, "because", "");
            call.set(Field::DISPOSITION, 2, "", "");
            Flow::STOP
        });
        let explains = link(2, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
            assert_eq!(call.set(Field::REASON_STRING, 0, "welcome", ""), Status::OK);
            Flow::CONTINUE
        });
        mount(&mut world, vec![(HookPoint::MessagePublish, rejects), (HookPoint::ClientConnack, explains)]);
        let id = PropertyId::ReasonString;
        assert_eq!(
            connack_has(&mut world, &ConnectRequest::v(Version::V5), id).is_some(),
            notified,
            "CONNACK"
        );
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
        assert_eq!(first_has(&mut world, client, id).is_some(), notified, "PUBACK");
        // A publish to a topic with a wildcard is a protocol error.
        world.publish(client, "a/+", "x", QoS::AtMostOnce, 0);
        assert_eq!(first_has(&mut world, client, id).is_some(), notified, "DISCONNECT");
    }
}

/// Control characters and noncharacters end the connection if the operator refuses them, and are
/// accepted otherwise [MQTT-1.5.4-2]: in topics, filters, names and properties, not in payloads.
#[test]
fn control_characters_are_accepted_or_refused_by_the_setting() {
    for refuses in [false, true] {
        let mut world = World::with(1, |limits| limits.choices.refuses_control_characters = refuses);
        for (version, name) in [(Version::V311, "a\u{7}b"), (Version::V5, "a\u{FFFE}b")] {
            let client = world.open(version);
            world.send_connect(client, name, &ConnectRequest::v(version));
            assert_eq!(world.is_closed(client), refuses, "client identifier");
            let client = world.connect("plain", &ConnectRequest::v(version));
            world.publish(client, name, "x", QoS::AtMostOnce, 0);
            assert_eq!(world.is_closed(client), refuses, "topic");
            let client = world.connect("other", &ConnectRequest::v(version));
            world.publish(client, "t", "x\u{1}", QoS::AtMostOnce, 0);
            assert!(!world.is_closed(client), "payload");
            world.send(client, &Packet::PingReq);
            assert!(!world.is_closed(client));
        }
    }
}
