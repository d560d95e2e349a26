//! Memory is charged to its holder: what the broker stores for a client counts for its connection
//! or session. At its limit the connection is not read; if the limit of a shard is exceeded, the
//! clients with the most bytes are disconnected. In every test, `World::drive` compares each ledger
//! with a fresh count.

use grapnel_engine::packet::{
    Ack, Filters, Packet, Properties, Property, QoS, Subscribe, SubscriptionOptions, Version, push_property,
    push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Ledger, OwnedChange, Pause, Reading};

use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, allow, deny, later};
use crate::hooks::{Call, complete, link, mount};
use crate::world::{ClientId, ConnectRequest, Got, World, id};

const V5: Version = Version::V5;
const SMALL: u64 = 4096;

fn ledger(world: &mut World, shard: usize) -> Ledger {
    world.shards[shard].settle_memory();
    world.shards[shard].ledger()
}

fn counter(world: &mut World, name: &str) -> u64 {
    let rows = world.shards.iter_mut().flat_map(|shard| shard.counters().rows());
    rows.filter(|(found, ..)| *found == name).map(|(_, value, _)| value).sum()
}

/// So many copies of the same packet, in one segment.
fn flood(world: &mut World, client: ClientId, packet: &[u8], times: usize) {
    world.send_bytes(client, &packet.repeat(times));
}

#[test]
fn unsent_acknowledgements_are_limited_and_their_client_is_not_read() {
    let mut world = World::with(1, |limits| limits.outbound_bytes_max = SMALL);
    let client = world.connect("floods", &ConnectRequest::v(V5));
    world.takes(client, Some(0));
    // PUBREL packets with unknown identifiers, enough for a megabyte of PUBCOMP with 0x92.
    let pubrels: Vec<u8> = (0..200_000_u32).flat_map(|n| [0x62, 2, (n >> 8) as u8, n as u8 | 1]).collect();
    world.send_bytes(client, &pubrels);
    let outbound = ledger(&mut world, 0).outbound;
    assert!(outbound <= 2 * SMALL, "{outbound} bytes for one socket");
    assert_eq!(world.reading(client), Reading::Paused(Pause::Outbound));
    assert_eq!(counter(&mut world, "pauses_outbound"), 1);
    // The engine continues exactly where it stopped, once the socket accepts the waiting bytes.
    world.takes(client, None);
    assert_eq!(world.reading(client), Reading::Reading);
    let answers = world.take(client);
    assert_eq!(answers.len(), 200_000);
    assert_eq!(answers[0], Got::Ack("PUBCOMP", 1, ReasonCode::PACKET_ID_NOT_FOUND.0));
}

#[test]
fn pingresp_counts_against_the_limit_of_unsent_bytes() {
    for version in [Version::V31, Version::V311, V5] {
        let mut world = World::with(1, |limits| limits.outbound_bytes_max = SMALL);
        let client = world.connect("pings", &ConnectRequest::v(version));
        world.takes(client, Some(0));
        flood(&mut world, client, &[0xC0, 0], 100_000);
        assert!(ledger(&mut world, 0).outbound <= 2 * SMALL);
        assert_eq!(
            counter(&mut world, "packets_pingresp_sent") * 2,
            SMALL,
            "one less than the limit is taken"
        );
        world.takes(client, None);
        assert_eq!(world.take(client).len(), 100_000);
    }
}

#[test]
fn a_queue_that_is_never_empty_frees_removed_entries() {
    let mut world = World::new(1);
    let client = world.connect("slow", &ConnectRequest::v(V5));
    world.takes(client, Some(0));
    flood(&mut world, client, &[0xC0, 0], 200_000);
    for _ in 0..40 {
        // The socket accepts a part of the waiting bytes, and the client causes as many new ones.
        world.takes(client, Some(200_000));
        flood(&mut world, client, &[0xC0, 0], 100_000);
        let held = ledger(&mut world, 0).outbound;
        assert!(held <= 1_300_000, "{held} bytes are held for one socket");
    }
}

#[test]
fn keep_alive_pauses_while_a_client_is_not_read_and_restarts_after() {
    let mut world = World::with(1, |limits| limits.outbound_bytes_max = SMALL);
    let client = world.connect("patient", &ConnectRequest { keep_alive_s: 10, ..ConnectRequest::v(V5) });
    world.takes(client, Some(0));
    flood(&mut world, client, &[0xC0, 0], 10_000);
    assert_eq!(world.reading(client), Reading::Paused(Pause::Outbound));
    world.pass_ms(100_000);
    assert!(!world.is_closed(client), "it is the broker that does not read [MQTT-3.1.2-22]");
    world.takes(client, None);
    assert_eq!(world.take(client).len(), 10_000);
    world.pass_ms(14_000);
    assert!(!world.is_closed(client), "one and a half times the keep alive begins at the resume");
    world.pass_ms(2_500);
    assert!(world.is_closed(client));
}

#[test]
fn the_end_of_a_connection_is_noticed_while_it_is_not_read() {
    let mut world = World::with(1, |limits| limits.outbound_bytes_max = SMALL);
    let request =
        ConnectRequest { will: Some(("will", "gone", QoS::AtMostOnce, false)), ..ConnectRequest::v(V5) };
    let client = world.connect("leaves", &request);
    let watcher = world.connect("watcher", &ConnectRequest::v(V5));
    world.subscribe(watcher, "will", QoS::AtMostOnce);
    world.takes(client, Some(0));
    flood(&mut world, client, &[0xC0, 0], 10_000);
    assert_eq!(world.reading(client), Reading::Paused(Pause::Outbound));
    world.lose(client);
    assert_eq!(world.take_plain(watcher), [crate::world::message("will", "gone", 0)]);
    assert_eq!(ledger(&mut world, 0).outbound, 0);
}

#[test]
fn bytes_before_connect_have_their_own_limit() {
    let mut world = World::with(1, |limits| limits.connect_bytes_max = 1000);
    // A header that announces one byte more than the limit, and nothing after it.
    let client = world.open(V5);
    world.send_bytes(client, &[0x10, 0xE6, 0x07]);
    assert!(world.is_closed(client), "1,001 bytes with their header are refused at once");
    let client = world.open(V5);
    world.send_bytes(client, &[0x10, 0xE5, 0x07]);
    assert!(!world.is_closed(client), "1,000 are not");
    // After CONNACK the other limit applies to its packets.
    for version in [Version::V311, V5] {
        let client = world.connect("in", &ConnectRequest::v(version));
        world.publish(client, "t", &"x".repeat(100_000), QoS::AtMostOnce, 0);
        assert!(!world.is_closed(client));
    }
}

#[test]
fn pending_connections_over_the_memory_limit_are_ended_largest_first() {
    let mut world = World::with(1, |limits| {
        limits.connects_pending_bytes_max = 65536;
        limits.connect_bytes_max = 131_072;
    });
    let known = world.connect("known", &ConnectRequest::v(V5));
    // Half a packet of a connected client.
    let mut half = vec![0x30, 0x80, 0x80, 0x02];
    half.extend([b'x'; 30_000]);
    world.send_bytes(known, &half);
    let connect = |bytes: usize| [vec![0x10, 0xFF, 0xFF, 0x06], vec![0; bytes]].concat();
    let light = world.open(V5);
    world.send_bytes(light, &connect(5_000));
    let heavy = world.open(V5);
    world.send_bytes(heavy, &connect(50_000));
    assert!(!world.is_closed(heavy));
    let other = world.open(V5);
    world.send_bytes(other, &connect(40_000));
    world.pass_ms(1);
    assert!(world.is_closed(heavy), "it holds most");
    assert!(!world.is_closed(light) && !world.is_closed(other) && !world.is_closed(known));
    assert_eq!(counter(&mut world, "connections_evicted"), 1);
}

#[test]
fn unfinished_packets_over_the_limit_end_pending_connections_then_the_largest() {
    let mut world = World::with(1, |limits| limits.partial_bytes_max = 100_000);
    let begin = |bytes: usize| [vec![0x30, 0x80, 0x80, 0x10], vec![b'x'; bytes]].concat();
    let small = world.connect("small", &ConnectRequest::v(V5));
    world.send_bytes(small, &begin(30_000));
    let large = world.connect("large", &ConnectRequest::v(V5));
    world.send_bytes(large, &begin(60_000));
    let stranger = world.open(V5);
    world.send_bytes(stranger, &[vec![0x10, 0xFF, 0xFF, 0x06], vec![0; 20_000]].concat());
    world.pass_ms(1);
    assert!(world.is_closed(stranger) && !world.is_closed(large) && !world.is_closed(small));
    let third = world.connect("third", &ConnectRequest::v(V5));
    world.send_bytes(third, &begin(20_000));
    world.pass_ms(1);
    assert!(world.is_closed(large) && !world.is_closed(small) && !world.is_closed(third));
    assert_eq!(world.take(large).last(), Some(&Got::Disconnect(ReasonCode::QUOTA_EXCEEDED.0)));
}

#[test]
fn above_the_memory_limit_of_the_shard_only_the_largest_session_ends() {
    let mut world = World::with(1, |limits| limits.shard_bytes_max = 1 << 20);
    let persistent = || ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(1000)],
        ..ConnectRequest::v(V5)
    };
    let heavy = world.connect("heavy", &persistent());
    world.subscribe(heavy, "heavy", QoS::AtLeastOnce);
    let light = world.connect("light", &persistent());
    world.subscribe(light, "light", QoS::AtLeastOnce);
    world.lose(heavy);
    world.lose(light);
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    world.publish(publisher, "light", "kept", QoS::AtMostOnce, 0);
    world.publish(publisher, "light", "kept", QoS::AtLeastOnce, 1);
    for n in 0..40_u16 {
        world.publish(publisher, "heavy", &"x".repeat(50_000), QoS::AtLeastOnce, n + 2);
        world.pass_ms(1);
        assert!(ledger(&mut world, 0).total() <= 1 << 20);
    }
    assert_eq!(counter(&mut world, "sessions_evicted"), 1);
    assert!(counter(&mut world, "messages_dropped_queue_full") >= 18);
    let (_, connack) = world.try_connect("light", &persistent());
    assert_eq!(connack, Some(Got::ConnAck { present: true, code: 0 }));
    let (_, connack) = world.try_connect("heavy", &persistent());
    assert_eq!(connack, Some(Got::ConnAck { present: false, code: 0 }));
}

#[test]
fn a_message_of_many_sessions_is_charged_once_to_the_shard_and_in_full_to_each_session() {
    let mut world = World::new(1);
    let persistent = || ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(1000)],
        ..ConnectRequest::v(V5)
    };
    for n in 0..20 {
        let client = world.connect(&format!("away-{n}"), &persistent());
        world.subscribe(client, "all", QoS::AtLeastOnce);
        world.lose(client);
    }
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    let before = ledger(&mut world, 0);
    world.publish(publisher, "all", &"x".repeat(100_000), QoS::AtLeastOnce, 1);
    let after = ledger(&mut world, 0);
    assert!((100_000..110_000).contains(&(after.messages - before.messages)));
    assert!((2_000_000..2_100_000).contains(&(after.queues - before.queues)));
    assert!(after.total() - before.total() < 120_000);
}

#[test]
fn qos_0_above_the_limit_is_queued_for_a_reading_client_and_dropped_for_a_stalled_one() {
    let mut world = World::with(1, |limits| {
        limits.outbound_bytes_max = SMALL;
        limits.outbound_burst_bytes_max = 1 << 20;
    });
    let reader = world.connect("reader", &ConnectRequest::v(V5));
    let stuck = world.connect("stuck", &ConnectRequest::v(V5));
    for client in [reader, stuck] {
        world.subscribe(client, "t", QoS::AtMostOnce);
        world.takes(client, Some(0));
    }
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    for round in 0..10 {
        for n in 0..10 {
            world.publish(publisher, "t", &format!("{round}{n}{}", "x".repeat(1000)), QoS::AtMostOnce, 0);
        }
        world.takes(reader, Some(5_000));
        world.pass_ms(500);
    }
    world.takes(reader, None);
    let read = world.take(reader);
    let got: Vec<String> = read
        .into_iter()
        .map(|got| match got {
            Got::Publish { payload, .. } => String::from_utf8(payload[..2].to_vec()).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    let all: Vec<String> = (0..100).map(|n| format!("{n:02}")).collect();
    assert_eq!(got, all, "one that keeps up gets all, in order");
    world.takes(stuck, None);
    let stuck_got = world.take(stuck).len();
    // Two seconds' worth, and one more up to the limit itself.
    assert!((40..=55).contains(&stuck_got), "{stuck_got}");
    assert_eq!(counter(&mut world, "messages_dropped_queue_full") as usize, 100 - stuck_got);
}

#[test]
fn without_room_in_the_shard_the_limit_of_the_connection_holds() {
    let mut world = World::with(1, |limits| {
        limits.outbound_bytes_max = SMALL;
        limits.outbound_burst_bytes_max = 0;
    });
    let reader = world.connect("reader", &ConnectRequest::v(V5));
    world.subscribe(reader, "t", QoS::AtMostOnce);
    world.takes(reader, Some(0));
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    for _ in 0..10 {
        world.publish(publisher, "t", &"x".repeat(1000), QoS::AtMostOnce, 0);
    }
    world.takes(reader, None);
    assert_eq!(world.take(reader).len(), 5, "the fifth begins below the limit");
}

#[test]
fn the_parts_of_a_ledger_show_the_memory_of_a_client() {
    let mut world = World::with(1, |limits| limits.inflight_max = 1);
    let nobody = ledger(&mut world, 0);
    assert_eq!(nobody.total(), 0);
    let request = ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(1000), Property::TopicAliasMaximum(10)],
        will: Some(("will", "message", QoS::AtMostOnce, false)),
        ..ConnectRequest::v(V5)
    };
    let client = world.connect("client", &request);
    let connected = ledger(&mut world, 0);
    assert!(connected.connections > 0 && connected.sessions > 0);
    world.subscribe(client, &"filter/".repeat(10), QoS::AtLeastOnce);
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let subscribed = ledger(&mut world, 0);
    assert!(subscribed.sessions >= connected.sessions + 2 * 70);
    let topic = Property::TopicAlias(3);
    world.publish_with(client, "t", "first", QoS::AtLeastOnce, 1, false, &[topic]);
    world.publish(client, "t", "second", QoS::AtLeastOnce, 2);
    let sent = ledger(&mut world, 0);
    assert!(sent.in_flight > 0 && sent.queues > 0 && sent.messages > 0);
    assert!(sent.connections > subscribed.connections, "an alias each way");
    world.send_bytes(client, &[0x30, 100, 0]);
    assert!(ledger(&mut world, 0).read_buffers >= 3);
    world.send_bytes(client, &[[1, b't', 0].as_slice(), &[0; 96]].concat());
    assert_eq!(ledger(&mut world, 0).read_buffers, 0);
    let first = world.take(client).into_iter().rfind(|got| matches!(got, Got::Publish { qos: 1, .. }));
    world.send(client, &Packet::PubAck(Ack::new(id(first.unwrap().id()), ReasonCode::SUCCESS)));
    let acked = ledger(&mut world, 0);
    assert!(acked.queues == 0 && acked.in_flight > 0);
    world.disconnect(client, ReasonCode::SUCCESS);
    let (client, _) = world.try_connect("client", &ConnectRequest::v(V5));
    world.disconnect(client, ReasonCode::SUCCESS);
    world.pass_ms(10);
    assert_eq!(ledger(&mut world, 0).total(), 0, "nothing is left");
}

/// A publish that client.authorize refuses, and that waits behind another, keeps its place but not
/// its message.
#[test]
fn a_refused_publish_that_waits_is_not_charged_for_its_message() {
    for resent in [false, true] {
        let mut world = World::new(1);
        let client = world.connect("client", &ConnectRequest::v(V5));
        let (published, authorized) = (DeferredTickets::default(), DeferredTickets::default());
        mount(
            &mut world,
            vec![
                (HookPoint::MessagePublish, later(1, 0, FaultPolicy::Deny, &published)),
                (HookPoint::ClientAuthorize, later(2, 0, FaultPolicy::Deny, &authorized)),
            ],
        );
        world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
        complete(&mut world, authorized.ticket(0), Flow::STOP, allow());
        let one = ledger(&mut world, 0).slots;
        world.publish(client, "no", &"x".repeat(100_000), QoS::AtLeastOnce, 2);
        assert!(ledger(&mut world, 0).slots > one + 100_000);
        complete(&mut world, authorized.ticket(1), Flow::STOP, deny(0x87));
        assert!(ledger(&mut world, 0).slots <= 2 * one, "its place alone");
        if resent {
            // A resend of it joins the waiting one.
            world.publish(client, "no", &"x".repeat(100_000), QoS::AtLeastOnce, 2);
        }
        assert_eq!(world.take(client), [], "acknowledged in order of arrival");
        complete(&mut world, published.ticket(0), Flow::CONTINUE, Vec::new());
        assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x10), Got::Ack("PUBACK", 2, 0x87)]);
        assert_eq!(ledger(&mut world, 0).slots, 0);
    }
}

/// A SUBSCRIBE that waits for a plugin is charged with its properties.
#[test]
fn the_properties_of_a_subscribe_that_waits_are_charged() {
    let mut world = World::new(1);
    let client = world.connect("client", &ConnectRequest::v(V5));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientSubscribe, later(1, 0, FaultPolicy::Deny, &tickets))]);
    let (mut section, mut payload) = (Vec::new(), Vec::new());
    push_property(&mut section, Property::User("key", &"x".repeat(10_000)));
    push_subscription(&mut payload, "filter", SubscriptionOptions::default());
    let properties = Properties::from_encoded(&section);
    let filters = Filters::from_encoded(&payload);
    world.send(client, &Packet::Subscribe(Subscribe { packet_id: id(7), properties, filters }));
    assert!(ledger(&mut world, 0).slots > 10_000);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(client).len(), 1);
    assert_eq!(ledger(&mut world, 0).slots, 0);
}

/// A shard near its limit because of messages for an absent client, and a publisher whose first
/// message waits for a plugin.
fn tight() -> (World, ClientId, DeferredTickets) {
    let mut world = World::with(1, |limits| {
        limits.shard_bytes_max = 1 << 20;
        limits.slot_bytes_max = 65536;
    });
    let persistent = ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(1000)],
        ..ConnectRequest::v(V5)
    };
    let away = world.connect("away", &persistent);
    world.subscribe(away, "away", QoS::AtLeastOnce);
    world.lose(away);
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    for n in 1.. {
        if ledger(&mut world, 0).total() >= (1 << 20) / 8 * 7 {
            break;
        }
        world.publish(publisher, "away", &"x".repeat(10_000), QoS::AtLeastOnce, n);
        world.take(publisher);
    }
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    world.publish(publisher, "light", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.reading(publisher), Reading::Reading, "it holds next to nothing");
    world.publish(publisher, "large", &"x".repeat(5_000), QoS::AtMostOnce, 0);
    assert_eq!(world.reading(publisher), Reading::Paused(Pause::Memory));
    assert_eq!(counter(&mut world, "pauses_memory"), 1);
    (world, publisher, tickets)
}

#[test]
fn near_the_memory_limit_clients_with_large_queues_are_paused() {
    let (mut world, publisher, tickets) = tight();
    for place in 0..2 {
        complete(&mut world, tickets.ticket(place), Flow::CONTINUE, Vec::new());
    }
    assert_eq!(world.reading(publisher), Reading::Reading);
}

#[test]
fn a_client_paused_for_memory_is_read_when_memory_is_free() {
    let (mut world, publisher, tickets) = tight();
    world.connect("away", &ConnectRequest::v(V5));
    world.pass_ms(10);
    assert_eq!(world.reading(publisher), Reading::Reading);
    assert_eq!(tickets.about(), ["light", "large"], "its messages wait as before");
}

/// The broker stores as many bytes as a memory limit allows without ending a client. At one byte
/// more, the client with the most bytes is ended.
#[test]
fn a_client_is_ended_one_byte_above_a_memory_limit() {
    const BYTES: u64 = 70_000;
    for beyond in [false, true] {
        let more = usize::from(beyond);
        // Connected clients: bytes of an incomplete packet.
        let mut world = World::with(1, |limits| limits.partial_bytes_max = BYTES);
        let client = world.connect("c", &ConnectRequest::v(V5));
        let half = [vec![0x30, 0x80, 0x80, 0x10], vec![b'x'; BYTES as usize - 4 + more]].concat();
        world.send_bytes(client, &half);
        world.pass_ms(1);
        assert_eq!(ledger(&mut world, 0).read_buffers == BYTES, !beyond);
        assert_eq!(world.is_closed(client), beyond, "partial_bytes_max");
        // Clients that are not connected yet.
        let mut world = World::with(1, |limits| limits.connects_pending_bytes_max = BYTES);
        let client = world.open(V5);
        let half = [vec![0x10, 0xFF, 0xFF, 0x06], vec![0; BYTES as usize - 4 + more]].concat();
        world.send_bytes(client, &half);
        world.pass_ms(1);
        assert_eq!(world.is_closed(client), beyond, "connects_pending_bytes_max");
    }
    // The shard as a whole.
    let persistent = || ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(1000)],
        ..ConnectRequest::v(V5)
    };
    let mut world = World::with(1, |limits| limits.shard_bytes_max = 1 << 20);
    let away = world.connect("away", &persistent());
    world.subscribe(away, "t", QoS::AtLeastOnce);
    world.lose(away);
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    world.publish(publisher, "t", &"x".repeat(10_000), QoS::AtLeastOnce, 1);
    let room = (1 << 20) - ledger(&mut world, 0).total() as usize;
    for (bytes, evicted) in [(room, 0), (room + 1, 1)] {
        // Bytes that the shell still holds for ended connections count as well.
        world.shards[0].charge_closing(bytes);
        world.pass_ms(1);
        assert_eq!(counter(&mut world, "sessions_evicted"), evicted, "shard_bytes_max");
    }
}

/// Deliveries that wait for client.authorize are charged to the receiving session.
#[test]
fn deliveries_that_wait_for_a_verdict_are_charged() {
    let mut world = World::new(1);
    let subscriber = world.connect("subscriber", &ConnectRequest::v(V5));
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    let tickets = DeferredTickets::default();
    let waits = later(1, 0, FaultPolicy::Ignore, &tickets);
    let superuser = |call: &mut crate::hooks::Call<'_>| {
        if call.client_id() == "publisher" || call.topic() == "t" && call.action() == 2 {
            call.set(grapnel_plugin_abi::raw::Field::VERDICT, 1, "", "");
            return Flow::STOP;
        }
        Flow::CONTINUE
    };
    let first = crate::hooks::link(2, 1, FaultPolicy::Ignore, superuser);
    let waits = grapnel_engine::hook::Link { deliver: true, ..waits };
    let first = grapnel_engine::hook::Link { deliver: true, ..first };
    mount(&mut world, vec![(HookPoint::ClientAuthorize, first), (HookPoint::ClientAuthorize, waits)]);
    let before = ledger(&mut world, 0).sessions;
    for packet_id in 1..=3 {
        world.publish(publisher, "t", &"x".repeat(10_000), QoS::AtLeastOnce, packet_id);
    }
    assert_eq!(tickets.about(), ["t"], "the others wait behind");
    let waiting = ledger(&mut world, 0).sessions - before;
    assert!((30_000..32_000).contains(&waiting), "{waiting}");
    complete(&mut world, tickets.ticket(0), Flow::STOP, crate::deferral::allow());
    assert_eq!(world.take(subscriber).len(), 3, "it is said for the topic");
    let remembered = ledger(&mut world, 0).sessions - before;
    assert!((1..500).contains(&remembered), "{remembered}: what was said is remembered");
}

/// A value of so many bytes that a client chooses.
type Chosen = (&'static str, fn(&mut World, &str));

const CHOSEN: [Chosen; 9] = [
    ("client identifier", |world, text| {
        world.connect(&format!("c{text}"), &ConnectRequest::v(V5));
    }),
    ("user name", |world, text| {
        world.connect("c", &ConnectRequest { username: Some(text), ..ConnectRequest::v(V5) });
    }),
    ("user property of CONNECT", |world, text| {
        world.connect(
            "c",
            &ConnectRequest { properties: vec![Property::User("k", text)], ..ConnectRequest::v(V5) },
        );
    }),
    ("topic of a will", |world, text| {
        let will = Some((text, "x", QoS::AtMostOnce, false));
        world.connect("c", &ConnectRequest { will, ..ConnectRequest::v(V5) });
    }),
    ("payload of a will", |world, text| {
        let will = Some(("will", text, QoS::AtMostOnce, false));
        world.connect("c", &ConnectRequest { will, ..ConnectRequest::v(V5) });
    }),
    ("delayed will", |world, text| {
        let will = Some(("will", text, QoS::AtMostOnce, false));
        let properties = vec![Property::SessionExpiry(1000)];
        let client = world
            .connect("c", &ConnectRequest { will, will_delay_s: 100, properties, ..ConnectRequest::v(V5) });
        world.lose(client);
    }),
    ("filter", |world, text| {
        let client = world.connect("c", &ConnectRequest::v(V5));
        world.subscribe(client, text, QoS::AtMostOnce);
    }),
    ("topic with an alias", |world, text| {
        let client = world.connect("c", &ConnectRequest::v(V5));
        world.publish_with(client, text, "x", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(1)]);
    }),
    ("identifiers of QoS 2 publishes", |world, text| {
        let client = world.connect("c", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
        for packet_id in 1..=text.len() as u16 {
            world.publish(client, "t", "x", QoS::ExactlyOnce, packet_id);
        }
    }),
];

/// Whatever a client chooses is charged to its connection or its session: 500 bytes more increase
/// the ledger by 500, or by a little more if copies or table entries are stored.
#[test]
fn everything_that_a_client_chooses_is_charged() {
    for (what, choose) in CHOSEN {
        let held = |bytes: usize| {
            let mut world = World::with(1, |limits| limits.awaiting_rel_max = 2000);
            choose(&mut world, &"x".repeat(bytes));
            let ledger = ledger(&mut world, 0);
            assert_eq!(ledger.queues + ledger.in_flight + ledger.slots + ledger.read_buffers, 0, "{what}");
            ledger.connections + ledger.sessions
        };
        let (few, some, many) = (held(10), held(510), held(1010));
        assert!((500..=5000).contains(&(some - few)), "{what}: {few}, {some}");
        assert_eq!(many - some, some - few, "{what}");
        assert!(few >= 400, "{what}: {few} with the connection or the session itself");
    }
}

#[test]
fn changes_of_hooks_to_a_waiting_publish_are_charged_to_its_slot() {
    let mut world = World::with(1, |limits| limits.slot_bytes_max = 50_000);
    let publisher = world.connect("p", &ConnectRequest::v(V5));
    let tickets = DeferredTickets::default();
    let grows = link(1, 10, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::PAYLOAD, 0, &"x".repeat(10_000), "");
        call.set(Field::USER_PROPERTY, 0, &"v".repeat(2_000), "k");
        Flow::CONTINUE
    });
    let point = HookPoint::MessagePublish;
    mount(&mut world, vec![(point, grows), (point, later(2, 0, FaultPolicy::Deny, &tickets))]);
    world.publish(publisher, "t", "small", QoS::AtLeastOnce, 1);
    let slots = ledger(&mut world, 0).slots;
    assert!((12_000..14_000).contains(&slots), "{slots} bytes for a publish of 12,000");
    assert_eq!(world.reading(publisher), Reading::Reading);
    for packet_id in 2..6 {
        world.publish(publisher, "t", "small", QoS::AtLeastOnce, packet_id);
    }
    assert_eq!(world.reading(publisher), Reading::Paused(Pause::Slots), "60,000 bytes wait");
    // The answer replaces the value by a smaller one, and nothing waits any more.
    for place in 0..5 {
        let smaller =
            OwnedChange { field: Field::PAYLOAD, index: 0, number: 0, bytes: "y".into(), key: "".into() };
        complete(&mut world, tickets.ticket(place), Flow::CONTINUE, vec![smaller]);
    }
    assert_eq!(world.reading(publisher), Reading::Reading);
    assert_eq!(ledger(&mut world, 0).slots, 0);
}

#[test]
fn the_filters_of_a_subscribe_are_charged_with_their_final_size() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(V5));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientSubscribe, later(1, 0, FaultPolicy::Deny, &tickets))]);
    let mut payload = Vec::new();
    for n in 0..100 {
        push_subscription(&mut payload, &format!("f/{n:03}"), SubscriptionOptions::of_qos(QoS::AtMostOnce));
    }
    let filters = Filters::from_encoded(&payload);
    let subscribe = Subscribe { packet_id: id(1), properties: Properties::default(), filters };
    world.send(client, &Packet::Subscribe(subscribe));
    let as_it_came = ledger(&mut world, 0).slots;
    let longer = OwnedChange {
        field: Field::FILTER,
        index: 7,
        number: 0,
        bytes: "x".repeat(1_000).into(),
        key: "".into(),
    };
    let second = link(2, -1, FaultPolicy::Deny, {
        let tickets = tickets.clone();
        move |call: &mut Call<'_>| {
            tickets.note("second", call.defer().expect("it may wait"));
            Flow::DEFER
        }
    });
    mount(
        &mut world,
        vec![
            (HookPoint::ClientSubscribe, later(1, 0, FaultPolicy::Deny, &tickets)),
            (HookPoint::ClientSubscribe, second),
        ],
    );
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, vec![longer]);
    assert_eq!(ledger(&mut world, 0).slots, as_it_came + 2 * (1_000 - 5), "its filter and that of the grant");
    complete(&mut world, tickets.ticket(1), Flow::CONTINUE, Vec::new());
    assert_eq!(ledger(&mut world, 0).slots, 0);
}

#[test]
fn topic_aliases_are_charged_with_the_entries_that_they_skip() {
    let mut world = World::with(1, |limits| limits.topic_alias_max = 65_535);
    let client = world.connect("c", &ConnectRequest::v(V5));
    let before = ledger(&mut world, 0).connections;
    let alias = [Property::TopicAlias(65_535)];
    world.publish_with(client, "t", "x", QoS::AtMostOnce, 0, false, &alias);
    let after = ledger(&mut world, 0).connections;
    assert!(after - before >= 65_535 * 16, "{} bytes for a table of 65,535", after - before);
}

#[test]
fn a_waiting_connect_is_charged_for_all_its_fields() {
    let mut world = World::new(1);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientConnect, later(1, 0, FaultPolicy::Deny, &tickets))]);
    let before = ledger(&mut world, 0).connections;
    let client = world.open(V5);
    let password = vec![b'x'; 40_000];
    let request =
        ConnectRequest { username: Some("ann"), password: Some(&password), ..ConnectRequest::v(V5) };
    world.send_connect(client, "c", &request);
    let waits = ledger(&mut world, 0).connections;
    assert!(waits - before > 40_000, "{} bytes for a CONNECT of 40,000", waits - before);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert!(ledger(&mut world, 0).connections < before + 4_000);
}

#[test]
fn the_accumulator_saved_by_a_ticket_is_charged() {
    let mut world = World::new(1);
    let publisher = world.connect("p", &ConnectRequest::v(V5));
    let tickets = DeferredTickets::default();
    let grows = link(1, 10, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::PAYLOAD, 0, &"x".repeat(100_000), "");
        Flow::CONTINUE
    });
    let shrinks = link(2, 0, FaultPolicy::Deny, {
        let tickets = tickets.clone();
        move |call: &mut Call<'_>| {
            call.set(Field::PAYLOAD, 0, "y", "");
            tickets.note("", call.defer().expect("it may wait"));
            Flow::DEFER
        }
    });
    let point = HookPoint::MessagePublish;
    mount(&mut world, vec![(point, grows), (point, shrinks)]);
    for packet_id in 1..=20 {
        world.publish(publisher, "t", "small", QoS::AtLeastOnce, packet_id);
    }
    let slots = ledger(&mut world, 0).slots;
    assert!((2_000_000..2_100_000).contains(&slots), "{slots} bytes, while tickets keep 2,000,000");
    for place in 0..20 {
        complete(&mut world, tickets.ticket(place), Flow::CONTINUE, Vec::new());
    }
    assert_eq!(ledger(&mut world, 0).slots, 0);
}
