//! Each counter counts what its name says, once. A row is a scenario with its expected counters:
//! those that it does not name must be 0.

use std::collections::BTreeMap;

use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_engine::limits::Limits;
use grapnel_engine::packet::{Ack, Packet, Property, QoS, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, deny, later};
use crate::hooks::{Call, complete, link, mount};
use crate::world::{ClientId, ConnectRequest, Got, World};

const V5: Version = Version::V5;

/// Not covered by the scenarios: amounts of work, and gauges, which have their own test.
const ELSEWHERE: [&str; 9] = [
    "work_units",
    "flow_steps",
    "memory_bytes",
    "bytes_received",
    "bytes_sent",
    "hook_calls",
    "connections_count",
    "sessions_count",
    "subscriptions_count",
];

fn persistent<'a>(expiry_s: u32) -> ConnectRequest<'a> {
    ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(expiry_s)],
        ..ConnectRequest::v(V5)
    }
}

/// Counters of all shards that are not 0.
fn counted(world: &mut World) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for shard in &mut world.shards {
        for (name, value, _) in shard.counters().rows() {
            *all.entry(name).or_default() += value;
        }
    }
    all.retain(|name, value| *value > 0 && !ELSEWHERE.contains(name));
    all
}

/// Differences of the counters since `before`.
fn since(world: &mut World, before: &BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    let mut now = counted(world);
    for (name, value) in before {
        *now.entry(name).or_default() -= value;
    }
    now.retain(|_, value| *value > 0);
    now
}

fn assert_counts(world: &mut World, before: &BTreeMap<&'static str, u64>, expected: &[(&'static str, u64)]) {
    assert_eq!(since(world, before), expected.iter().copied().collect());
}

fn publishes(got: Vec<Got>) -> Vec<u16> {
    got.iter().filter(|got| matches!(got, Got::Publish { .. })).map(Got::id).collect()
}

#[test]
fn every_packet_of_an_exchange_is_counted_by_its_kind() {
    let mut world = World::new(1);
    let subscriber = world.connect("subscriber", &ConnectRequest::v(V5));
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 2);
    world.ack(publisher, Packet::PubRel, 2);
    let ids = publishes(world.take(subscriber));
    world.ack(subscriber, Packet::PubAck, ids[1]);
    world.ack(subscriber, Packet::PubRec, ids[2]);
    world.ack(subscriber, Packet::PubComp, ids[2]);
    world.unsubscribe(subscriber, "t");
    world.send(publisher, &Packet::PingReq);
    world.disconnect(publisher, ReasonCode::SUCCESS);
    world.disconnect(subscriber, ReasonCode::SUCCESS);
    assert_counts(
        &mut world,
        &BTreeMap::new(),
        &[
            ("client_auth_anonymous", 2),
            ("client_connect", 2),
            ("client_connected", 2),
            ("client_disconnected", 2),
            ("messages_acked", 2),
            ("messages_qos0_received", 1),
            ("messages_qos0_sent", 1),
            ("messages_qos1_received", 1),
            ("messages_qos1_sent", 1),
            ("messages_qos2_received", 1),
            ("messages_qos2_sent", 1),
            ("messages_received", 3),
            ("messages_sent", 3),
            ("packets_connack_sent", 2),
            ("packets_connect_received", 2),
            ("packets_disconnect_received", 2),
            ("packets_pingreq_received", 1),
            ("packets_pingresp_sent", 1),
            ("packets_puback_received", 1),
            ("packets_puback_sent", 1),
            ("packets_pubcomp_received", 1),
            ("packets_pubcomp_sent", 1),
            ("packets_publish_received", 3),
            ("packets_publish_sent", 3),
            ("packets_pubrec_received", 1),
            ("packets_pubrec_sent", 1),
            ("packets_pubrel_received", 1),
            ("packets_pubrel_sent", 1),
            ("packets_received", 14),
            ("packets_sent", 12),
            ("packets_suback_sent", 1),
            ("packets_subscribe_received", 1),
            ("packets_unsuback_sent", 1),
            ("packets_unsubscribe_received", 1),
            ("session_created", 2),
            ("session_terminated", 2),
        ],
    );
}

#[test]
fn every_byte_is_counted() {
    let mut world = World::new(1);
    let client = world.open(V5);
    // CONNECT without a client identifier, SUBSCRIBE to `t` with QoS 2, PUBLISH with a payload that
    // is sent without a copy.
    let connect = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0];
    let subscribe = [0x82, 7, 0, 7, 0, 0, 1, b't', 2];
    let small = [&[0x30, 5, 0, 1, b't', 0, b'x'][..]].concat();
    let large = [&[0x30, 0xA4, 0x9C, 0x01, 0, 1, b't', 0][..], &[b'x'; 20_000]].concat();
    let mut sent = 0;
    for packet in [&connect[..], &subscribe, &small, &large, &[0xC0, 0]] {
        world.send_bytes(client, packet);
        sent += packet.len() as u64;
    }
    let received = world.take_raw(client).len() as u64;
    assert!(received > 20_000);
    let counters = world.shards[0].counters();
    assert_eq!((counters.bytes_received, counters.bytes_sent), (sent, received));
}

#[test]
fn ends_of_sessions_are_counted() {
    let mut world = World::new(1);
    let first = world.connect("c", &persistent(100));
    let before = counted(&mut world);
    // Another connection resumes the session.
    let second = world.connect("c", &persistent(100));
    assert!(world.is_closed(first));
    let in_and_out = [
        ("client_auth_anonymous", 1),
        ("client_connect", 1),
        ("client_connected", 1),
        ("packets_connack_sent", 1),
        ("packets_connect_received", 1),
        ("packets_received", 1),
    ];
    let resumed = [
        ("client_disconnected", 1),
        ("packets_disconnect_sent", 1),
        ("packets_sent", 2),
        ("session_resumed", 1),
        ("session_takenover", 1),
    ];
    assert_counts(&mut world, &before, &[&in_and_out[..], &resumed].concat());
    // It disconnects, and returns with a clean start.
    world.lose(second);
    let before = counted(&mut world);
    let third = world.connect("c", &ConnectRequest::v(V5));
    let discarded =
        [("packets_sent", 1), ("session_created", 1), ("session_discarded", 1), ("session_terminated", 1)];
    assert_counts(&mut world, &before, &[&in_and_out[..], &discarded].concat());
    // A session without an expiry interval ends with its connection.
    let before = counted(&mut world);
    world.lose(third);
    assert_counts(&mut world, &before, &[("client_disconnected", 1), ("session_terminated", 1)]);
    // A session with an interval ends when the interval is over.
    let fourth = world.connect("c", &persistent(10));
    world.lose(fourth);
    let before = counted(&mut world);
    world.pass_ms(9_000);
    assert_counts(&mut world, &before, &[]);
    world.pass_ms(2_000);
    assert_counts(&mut world, &before, &[("session_expired", 1), ("session_terminated", 1)]);
    // The operator discards a stored session.
    let fifth = world.connect("c", &persistent(100));
    world.lose(fifth);
    let before = counted(&mut world);
    assert!(world.shards[0].kick("c", ReasonCode::ADMINISTRATIVE_ACTION, true));
    assert_counts(&mut world, &before, &[("session_discarded", 1), ("session_terminated", 1)]);
}

/// Mounts a hook that does one thing at a point.
fn hook(world: &mut World, point: HookPoint, act: impl FnMut(&mut Call<'_>) -> Flow + 'static) {
    mount(world, vec![(point, link(1, 0, FaultPolicy::Deny, act))]);
}

#[test]
fn refusals_are_counted_by_their_cause() {
    // client.authenticate.
    let mut world = World::new(1);
    hook(&mut world, HookPoint::ClientAuthenticate, |call| {
        call.set(Field::VERDICT, 2, "", "");
        Flow::STOP
    });
    world.try_connect("c", &ConnectRequest::v(V5));
    let refused = [
        ("client_auth_denied", 1),
        ("client_connect", 1),
        ("packets_connack_error", 1),
        ("packets_connack_sent", 1),
        ("packets_connect_received", 1),
        ("packets_received", 1),
        ("packets_sent", 1),
    ];
    assert_counts(&mut world, &BTreeMap::new(), &refused);
    // client.authorize, of a publish and of a filter.
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(V5));
    hook(&mut world, HookPoint::ClientAuthorize, |call| {
        call.set(Field::VERDICT, 2, "", "");
        Flow::STOP
    });
    let before = counted(&mut world);
    world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
    let publish = [
        ("messages_qos1_received", 1),
        ("messages_received", 1),
        ("packets_puback_sent", 1),
        ("packets_publish_auth_error", 1),
        ("packets_publish_error", 1),
        ("packets_publish_received", 1),
        ("packets_received", 1),
        ("packets_sent", 1),
    ];
    assert_counts(&mut world, &before, &publish);
    world.take(client);
    let before = counted(&mut world);
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let filter = [
        ("packets_received", 1),
        ("packets_sent", 1),
        ("packets_suback_sent", 1),
        ("packets_subscribe_auth_error", 1),
        ("packets_subscribe_received", 1),
    ];
    assert_counts(&mut world, &before, &filter);
}

#[test]
fn broken_packets_are_counted() {
    // A reserved packet type from a connected client.
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(V5));
    let before = counted(&mut world);
    world.send_bytes(client, &[0x00, 0]);
    let broken = [
        ("client_disconnected", 1),
        ("packets_disconnect_sent", 1),
        ("packets_malformed", 1),
        ("packets_sent", 1),
        ("session_terminated", 1),
    ];
    assert_counts(&mut world, &before, &broken);
    // A CONNECT with a reserved flag [MQTT-3.1.2-3] does not count as a connection attempt.
    let mut world = World::new(1);
    let client = world.open(V5);
    world.send_bytes(client, &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 3, 0, 0, 0, 0, 1, b'c']);
    assert!(world.is_closed(client));
    let refused = [
        ("packets_connack_error", 1),
        ("packets_connack_sent", 1),
        ("packets_malformed", 1),
        ("packets_sent", 1),
    ];
    assert_counts(&mut world, &BTreeMap::new(), &refused);
}

/// A scenario of one QoS 0 publish of a connected client: the counters in addition to that of the
/// publish.
struct Drop {
    limits: fn(&mut Limits),
    /// Prepares the world before the publish.
    prepare: fn(&mut World) -> ClientId,
    expected: &'static [(&'static str, u64)],
}

const DROPS: [Drop; 4] = [
    // There is no subscriber.
    Drop {
        limits: |_| {},
        prepare: |world| world.connect("publisher", &ConnectRequest::v(V5)),
        expected: &[("messages_dropped", 1), ("messages_dropped_no_subscribers", 1)],
    },
    // A plugin drops the message.
    Drop {
        limits: |_| {},
        prepare: |world| {
            let publisher = world.connect("publisher", &ConnectRequest::v(V5));
            hook(world, HookPoint::MessagePublish, |call| {
                call.set(Field::DISPOSITION, 1, "", "");
                Flow::STOP
            });
            publisher
        },
        expected: &[("messages_dropped", 1), ("messages_dropped_hook", 1)],
    },
    // The packet exceeds the subscriber's Maximum Packet Size.
    Drop {
        limits: |_| {},
        prepare: |world| {
            let request =
                ConnectRequest { properties: vec![Property::MaximumPacketSize(20)], ..ConnectRequest::v(V5) };
            let subscriber = world.connect("subscriber", &request);
            world.subscribe(subscriber, "t", QoS::AtMostOnce);
            world.connect("publisher", &ConnectRequest::v(V5))
        },
        expected: &[("messages_dropped", 1), ("messages_dropped_too_large", 1)],
    },
    // A subscriber's socket accepts nothing, and its queue is full.
    Drop {
        limits: |limits| {
            limits.outbound_bytes_max = 4096;
            limits.outbound_burst_bytes_max = 0;
        },
        prepare: |world| {
            let subscriber = world.connect("subscriber", &ConnectRequest::v(V5));
            world.subscribe(subscriber, "#", QoS::AtMostOnce);
            let publisher = world.connect("publisher", &ConnectRequest::v(V5));
            world.takes(subscriber, Some(0));
            world.publish(publisher, "first", &"x".repeat(5000), QoS::AtMostOnce, 0);
            publisher
        },
        expected: &[("messages_dropped", 1), ("messages_dropped_queue_full", 1)],
    },
];

#[test]
fn dropped_messages_are_counted_by_reason() {
    for Drop { limits, prepare, expected } in DROPS {
        let mut world = World::with(1, limits);
        let publisher = prepare(&mut world);
        let before = counted(&mut world);
        world.publish(publisher, "t", &"x".repeat(20), QoS::AtMostOnce, 0);
        let publish = [
            ("messages_qos0_received", 1),
            ("messages_received", 1),
            ("packets_publish_received", 1),
            ("packets_received", 1),
        ];
        assert_counts(&mut world, &before, &[&publish[..], expected].concat());
    }
}

#[test]
fn a_message_for_another_shard_is_counted_as_forwarded_once() {
    let mut world = World::new(2);
    let subscribers =
        [world.connect_at(1, "a", &ConnectRequest::v(V5)), world.connect_at(1, "b", &ConnectRequest::v(V5))];
    for subscriber in subscribers {
        world.subscribe(subscriber, "t", QoS::AtMostOnce);
    }
    let publisher = world.connect_at(0, "p", &ConnectRequest::v(V5));
    let before = counted(&mut world);
    world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    let expected = [
        ("messages_forwarded", 1),
        ("messages_qos0_received", 1),
        ("messages_qos0_sent", 2),
        ("messages_received", 1),
        ("messages_sent", 2),
        ("packets_publish_received", 1),
        ("packets_publish_sent", 2),
        ("packets_received", 1),
        ("packets_sent", 2),
    ];
    assert_counts(&mut world, &before, &expected);
}

#[test]
fn deferred_verdicts_and_their_ends_are_counted() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(V5));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    let publish = [
        ("messages_qos0_received", 1),
        ("messages_received", 1),
        ("packets_publish_received", 1),
        ("packets_received", 1),
    ];
    let before = counted(&mut world);
    world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    assert_counts(&mut world, &before, &[&publish[..], &[("hook_deferred", 1)]].concat());
    // Answered, and answered again.
    let before = counted(&mut world);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    let nobody = [("messages_dropped", 1), ("messages_dropped_no_subscribers", 1)];
    assert_counts(&mut world, &before, &nobody);
    let before = counted(&mut world);
    complete(&mut world, tickets.ticket(0), Flow::STOP, deny(0x87));
    assert_counts(&mut world, &before, &[("tickets_stale", 1)]);
    // Never answered.
    world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    let before = counted(&mut world);
    world.pass_ms(1_100);
    assert_counts(
        &mut world,
        &before,
        &[&nobody[..], &[("hook_faults", 1), ("tickets_expired", 1)]].concat(),
    );
}

#[test]
fn a_connection_that_reaches_its_limit_of_waiting_packets_is_counted_once_as_not_read() {
    let mut world = World::with(1, |limits| limits.slots_max = 2);
    let client = world.connect("c", &ConnectRequest::v(V5));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    let before = counted(&mut world);
    for _ in 0..3 {
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    }
    let read = [
        ("hook_deferred", 2),
        ("messages_qos0_received", 2),
        ("messages_received", 2),
        ("packets_publish_received", 2),
        ("packets_received", 2),
        ("pauses_slots", 1),
    ];
    assert_counts(&mut world, &before, &read);
}

#[test]
fn gauges_have_the_current_numbers() {
    let mut world = World::new(1);
    let gauges = |world: &mut World| {
        let counters = *world.shards[0].counters();
        let stored = (counters.messages_retained_count, counters.messages_retained_bytes);
        (counters.connections_count, counters.sessions_count, counters.subscriptions_count, stored)
    };
    assert_eq!(gauges(&mut world), (0, 0, 0, (0, 0)));
    let away = world.connect("away", &persistent(100));
    let there = world.connect("there", &ConnectRequest::v(V5));
    world.subscribe(away, "a", QoS::AtMostOnce);
    world.subscribe(away, "b", QoS::AtMostOnce);
    world.subscribe(there, "a", QoS::AtMostOnce);
    world.lose(away);
    world.publish_with(there, "r/1", "12345", QoS::AtMostOnce, 0, true, &[]);
    let (connections, sessions, subscriptions, (messages, bytes)) = gauges(&mut world);
    assert_eq!((connections, sessions, subscriptions, messages), (1, 2, 3, 1));
    assert!(bytes >= 8, "topic and payload");
    world.publish_with(there, "r/2", "12345", QoS::AtMostOnce, 0, true, &[]);
    assert_eq!(gauges(&mut world).3, (2, 2 * bytes));
    for topic in ["r/1", "r/2"] {
        world.publish_with(there, topic, "", QoS::AtMostOnce, 0, true, &[]);
    }
    world.unsubscribe(there, "a");
    world.lose(there);
    assert_eq!(gauges(&mut world), (0, 1, 2, (0, 0)));
    world.shards[0].settle_memory();
    let memory = world.shards[0].ledger().total();
    assert!(memory > 0);
    assert_eq!(world.shards[0].counters().memory_bytes, memory);
    world.shards[0].charge_closing(1000);
    assert_eq!(world.shards[0].ledger().total(), memory + 1000);
    world.shards[0].charge_closing(0);
}

#[test]
fn unexpected_acknowledgements_are_not_counted_as_deliveries() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(V5));
    let before = counted(&mut world);
    world.send(client, &Packet::PubAck(Ack::new(crate::world::id(9), ReasonCode::SUCCESS)));
    assert_counts(&mut world, &before, &[("packets_puback_received", 1), ("packets_received", 1)]);
}
