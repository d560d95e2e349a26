//! Connections and sessions: CONNECT, takeover, resume, expiry, keep alive, wills (MQTT 5.0
//! sections 3.1, 3.2, 4.1).

use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_engine::packet::{Packet, Property, QoS, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_plugin_abi::raw::Flow;

use crate::deferral::{DeferredTickets, later};
use crate::hooks::{complete, mount};
use crate::world::{ConnectRequest, Got, World, message};

fn stored(version: Version) -> ConnectRequest<'static> {
    let properties = if version == Version::V5 { vec![Property::SessionExpiry(60)] } else { Vec::new() };
    ConnectRequest { clean: false, properties, ..ConnectRequest::v(version) }
}

#[test]
fn a_resumed_session_gets_the_messages_of_the_meantime() {
    for shards in [1, 2, 8] {
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut world = World::new(shards);
            let sub = world.connect("sub", &stored(version));
            world.subscribe(sub, "t", QoS::AtLeastOnce);
            world.disconnect(sub, ReasonCode::SUCCESS);
            assert!(world.is_closed(sub));
            let publisher = world.connect("pub", &ConnectRequest::v(version));
            world.publish(publisher, "t", "1", QoS::AtLeastOnce, 1);
            world.publish(publisher, "t", "gone", QoS::AtMostOnce, 0);
            world.publish(publisher, "t", "2", QoS::AtLeastOnce, 2);
            let (sub, connack) = world.try_connect("sub", &stored(version));
            assert_eq!(connack, Some(Got::ConnAck { present: version != Version::V31, code: 0 }));
            assert_eq!(world.take_plain(sub), [message("t", "1", 1), message("t", "2", 1)]);
        }
    }
}

#[test]
fn unacknowledged_messages_are_resent_with_dup_and_the_same_identifier() {
    // [MQTT-4.4.0-1]
    let mut world = World::new(2);
    let sub = world.connect("sub", &stored(Version::V5));
    world.subscribe(sub, "t", QoS::ExactlyOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "t", "1", QoS::ExactlyOnce, 1);
    world.publish(publisher, "t", "2", QoS::ExactlyOnce, 2);
    let before = world.take(sub);
    world.ack(sub, Packet::PubRec, before[0].id());
    world.take(sub);
    world.lose(sub);
    let sub = world.connect("sub", &stored(Version::V5));
    let after = world.take(sub);
    let Got::Publish { payload, dup, id, .. } = &after[1] else { panic!("{after:?}") };
    assert_eq!(after[0], Got::Ack("PUBREL", before[0].id(), 0), "the first was received already");
    assert_eq!((&payload[..], *dup, *id), (&b"2"[..], true, before[1].id()));
}

#[test]
fn a_second_connection_takes_the_session_over() {
    for shards in [1, 2, 8] {
        let mut world = World::new(shards);
        let first = world.connect("c", &stored(Version::V5));
        world.subscribe(first, "t", QoS::AtLeastOnce);
        let (second, connack) = world.try_connect("c", &stored(Version::V5));
        // [MQTT-3.1.4-3]
        assert_eq!(world.take(first), [Got::Disconnect(0x8E)]);
        assert!(world.is_closed(first));
        assert_eq!(connack, Some(Got::ConnAck { present: true, code: 0 }));
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
        assert_eq!(world.take_plain(second), [message("t", "x", 1)]);
    }
}

#[test]
fn a_clean_start_discards_the_session() {
    let mut world = World::new(1);
    let first = world.connect("c", &stored(Version::V5));
    world.subscribe(first, "t", QoS::AtLeastOnce);
    let (second, connack) = world.try_connect("c", &ConnectRequest::v(Version::V5));
    assert_eq!(connack, Some(Got::ConnAck { present: false, code: 0 }));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(second), []);
    world.pass_ms(10);
    assert_eq!(world.shards[0].counters().sessions_count, 2);
    assert_eq!(world.shards[0].counters().subscriptions_count, 0);
}

#[test]
fn a_session_expires_after_its_expiry_interval() {
    // [MQTT-3.1.2-23]
    let mut world = World::new(1);
    let client = world.connect("c", &stored(Version::V5));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    world.lose(client);
    world.pass_ms(59_000);
    assert_eq!(world.shards[0].counters().sessions_count, 1);
    world.pass_ms(2_000);
    assert_eq!(world.shards[0].counters().sessions_count, 0);
    assert_eq!(world.shards[0].counters().session_expired, 1);
    let (_, connack) = world.try_connect("c", &stored(Version::V5));
    assert_eq!(connack, Some(Got::ConnAck { present: false, code: 0 }));
}

#[test]
fn a_client_that_reconnects_stops_the_expiry_of_its_session() {
    let mut world = World::new(1);
    let client = world.connect("c", &stored(Version::V5));
    world.lose(client);
    world.pass_ms(50_000);
    let client = world.connect("c", &stored(Version::V5));
    world.pass_ms(50_000);
    assert!(!world.is_closed(client));
    world.lose(client);
    world.pass_ms(50_000);
    let (_, connack) = world.try_connect("c", &stored(Version::V5));
    assert_eq!(connack, Some(Got::ConnAck { present: true, code: 0 }));
}

#[test]
fn a_client_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    // [MQTT-3.1.2-22]
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest { keep_alive_s: 10, ..ConnectRequest::v(Version::V5) });
    world.pass_ms(14_000);
    world.send(client, &Packet::PingReq);
    assert_eq!(world.take(client), [Got::PingResp]);
    world.pass_ms(14_000);
    assert!(!world.is_closed(client));
    world.pass_ms(3_000);
    assert_eq!(world.take(client), [Got::Disconnect(0x8D)]);
    assert!(world.is_closed(client));
}

#[test]
fn a_connection_without_connect_is_closed_after_its_timeout() {
    let mut world = World::with(1, |limits| limits.connect_timeout_ms = 1000);
    let client = world.open(Version::V311);
    world.pass_ms(900);
    assert!(!world.is_closed(client));
    world.pass_ms(200);
    assert!(world.is_closed(client));
}

#[test]
fn bytes_that_arrived_during_a_stall_count_as_received() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest { keep_alive_s: 10, ..ConnectRequest::v(Version::V5) });
    world.hold_ms(60_000, &[(client, &[0xC0, 0])]);
    assert_eq!(world.take(client), [Got::PingResp]);
    world.pass_ms(14_000);
    assert!(!world.is_closed(client), "its silence begins anew with what was read");
    world.pass_ms(3_000);
    assert_eq!(world.take(client), [Got::Disconnect(0x8D)]);
    assert_eq!(world.shards[0].counters().client_keepalive_timeout, 1);
}

#[test]
fn an_unfinished_packet_does_not_extend_the_keep_alive() {
    // [MQTT-3.1.2-22]: a packet counts as received when it is complete.
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest { keep_alive_s: 10, ..ConnectRequest::v(Version::V5) });
    world.hold_ms(60_000, &[(client, &[0xC0])]);
    assert_eq!(world.take(client), [Got::Disconnect(0x8D)]);
}

#[test]
fn a_connect_that_arrived_while_the_shard_stalled_is_in_time() {
    let mut world = World::with(1, |limits| limits.connect_timeout_ms = 1000);
    let whole = world.open(Version::V311);
    let begun = world.open(Version::V311);
    let connect = |client_id: &str| {
        let mut bytes = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01".to_vec();
        bytes.extend_from_slice(client_id.as_bytes());
        bytes
    };
    world.hold_ms(5_000, &[(whole, &connect("a")), (begun, &connect("b")[..10])]);
    assert_eq!(world.take(whole), [Got::ConnAck { present: false, code: 0 }]);
    assert!(world.is_closed(begun), "half a CONNECT is none");
    // The connection has no keep alive, and the time limit for CONNECT no longer applies.
    world.hold_ms(1_000_000, &[]);
    assert!(!world.is_closed(whole));
}

#[test]
fn an_empty_client_identifier_is_allowed_by_version_and_clean_start() {
    // [MQTT-3.1.3-6] [MQTT-3.1.3-8]
    let mut world = World::new(8);
    let (_, got) = world.try_connect("", &ConnectRequest::v(Version::V5));
    assert!(matches!(got, Some(Got::ConnAck { code: 0, .. })));
    let (_, got) = world.try_connect("", &ConnectRequest::v(Version::V311));
    assert!(matches!(got, Some(Got::ConnAck { code: 0, .. })));
    let (client, got) = world.try_connect("", &stored(Version::V311));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 2 }));
    assert!(world.is_closed(client));
    let (_, got) = world.try_connect("", &ConnectRequest::v(Version::V31));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 2 }));
}

#[test]
fn a_first_packet_other_than_connect_ends_the_connection() {
    // [MQTT-3.1.0-1]
    let mut world = World::new(1);
    let client = world.open(Version::V311);
    world.send(client, &Packet::PingReq);
    assert!(world.is_closed(client));
    assert_eq!(world.take(client), []);
}

#[test]
fn an_unknown_protocol_level_is_answered_with_its_connack() {
    // [MQTT-3.1.2-2]
    let cases = [
        (*b"MQTT", 9, Version::V5, vec![Got::ConnAck { present: false, code: 0x84 }]),
        (*b"MQTT", 2, Version::V311, vec![Got::ConnAck { present: false, code: 1 }]),
        (*b"HTTP", 4, Version::V311, vec![]),
    ];
    for (name, level, version, expected) in cases {
        let mut world = World::new(1);
        let client = world.open(version);
        let [a, b, c, d] = name;
        world.send_bytes(client, &[0x10, 13, 0, 4, a, b, c, d, level, 2, 0, 0, 0, 1, b'c']);
        assert!(world.is_closed(client));
        assert_eq!(world.take(client), expected);
    }
}

fn with_will(delay_s: u32, expiry_s: u32) -> ConnectRequest<'static> {
    ConnectRequest {
        clean: expiry_s == 0,
        will: Some(("will", "bye", QoS::AtLeastOnce, false)),
        will_delay_s: delay_s,
        properties: vec![Property::SessionExpiry(expiry_s)],
        ..ConnectRequest::v(Version::V5)
    }
}

fn watcher(world: &mut World) -> usize {
    let watcher = world.connect("watcher", &ConnectRequest::v(Version::V5));
    world.subscribe(watcher, "will", QoS::AtLeastOnce);
    watcher
}

#[test]
fn a_will_is_published_when_the_connection_is_lost_and_not_when_it_is_ended() {
    // [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.14.4-3]
    for shards in [1, 2, 8] {
        let mut world = World::new(shards);
        let watcher = watcher(&mut world);
        let client = world.connect("a", &with_will(0, 0));
        world.disconnect(client, ReasonCode::SUCCESS);
        assert_eq!(world.take(watcher), []);
        let client = world.connect("b", &with_will(0, 0));
        world.lose(client);
        assert_eq!(world.take_plain(watcher), [message("will", "bye", 1)]);
        let client = world.connect("c", &with_will(0, 0));
        world.disconnect(client, ReasonCode::DISCONNECT_WITH_WILL);
        assert_eq!(world.take_plain(watcher), [message("will", "bye", 1)]);
    }
}

#[test]
fn a_will_waits_for_its_delay_and_is_cancelled_by_a_return() {
    // [MQTT-3.1.3-9]
    let mut world = World::new(2);
    let watcher = watcher(&mut world);
    let client = world.connect("c", &with_will(10, 60));
    world.lose(client);
    world.pass_ms(5_000);
    let client = world.connect("c", &with_will(10, 60));
    world.pass_ms(20_000);
    assert_eq!(world.take(watcher), [], "the client came back in time");
    world.lose(client);
    world.pass_ms(9_000);
    assert_eq!(world.take(watcher), []);
    world.pass_ms(2_000);
    assert_eq!(world.take_plain(watcher), [message("will", "bye", 1)]);
}

#[test]
fn a_session_that_ends_does_not_wait_for_the_will_delay() {
    let mut world = World::new(1);
    let watcher = watcher(&mut world);
    let client = world.connect("c", &with_will(100, 5));
    world.lose(client);
    world.pass_ms(4_000);
    assert_eq!(world.take(watcher), []);
    world.pass_ms(3_000);
    assert_eq!(world.take_plain(watcher), [message("will", "bye", 1)]);
}

#[test]
fn a_takeover_sends_the_will_that_has_no_delay() {
    let mut world = World::new(1);
    let watcher = watcher(&mut world);
    world.connect("c", &with_will(0, 60));
    world.connect("c", &with_will(10, 60));
    assert_eq!(world.take_plain(watcher), [message("will", "bye", 1)]);
    world.connect("c", &with_will(10, 60));
    world.pass_ms(30_000);
    assert_eq!(world.take(watcher), [], "the delayed one was cancelled by the resume");
}

#[test]
fn a_session_expiry_of_zero_cannot_be_raised_at_disconnect() {
    // [MQTT-3.14.2-2]
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.send_bytes(client, &[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
    assert_eq!(world.take(client), [Got::Disconnect(0x82)]);
}

#[test]
fn a_kick_ends_the_connection_and_discards_the_session_on_demand() {
    let mut world = World::new(1);
    let client = world.connect("c", &stored(Version::V5));
    assert!(world.shards[0].kick("c", ReasonCode::ADMINISTRATIVE_ACTION, false));
    world.drive();
    assert_eq!(world.take(client), [Got::Disconnect(0x98)]);
    assert!(world.shards[0].client("c").is_some_and(|client| !client.summary.connected));
    assert!(world.shards[0].kick("c", ReasonCode::ADMINISTRATIVE_ACTION, true));
    world.drive();
    assert!(world.shards[0].client("c").is_none());
    assert!(!world.shards[0].kick("c", ReasonCode::ADMINISTRATIVE_ACTION, true));
}

#[test]
fn draining_notifies_mqtt_5_clients_and_accepts_no_new_ones() {
    let mut world = World::new(1);
    let five = world.connect("five", &ConnectRequest::v(Version::V5));
    let three = world.connect("three", &ConnectRequest::v(Version::V311));
    world.shards[0].drain();
    world.drive();
    assert_eq!(world.take(five), [Got::Disconnect(0x8B)]);
    assert_eq!(world.take(three), []);
    assert!(world.is_closed(three) && world.shards[0].drained());
}

#[test]
fn a_session_with_many_subscriptions_is_ended_in_slices() {
    let mut world = World::new(2);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    for n in 0..2000 {
        world.subscribe(client, &format!("t/{n}"), QoS::AtMostOnce);
    }
    world.lose(client);
    world.pass_ms(100);
    let total: u64 = world.shards.iter_mut().map(|shard| shard.counters().subscriptions_count).sum();
    assert_eq!(total, 0);
}

#[test]
fn connack_has_the_limits_and_the_chosen_values() {
    let mut world = World::with(1, |limits| {
        limits.keep_alive_max_s = 60;
        limits.session_expiry_max_s = 100;
    });
    let client = world.open(Version::V5);
    let request = ConnectRequest {
        keep_alive_s: 600,
        properties: vec![Property::SessionExpiry(1000)],
        ..ConnectRequest::v(Version::V5)
    };
    world.send_connect(client, "", &request);
    let bytes = world.take_raw(client);
    let frame = grapnel_engine::codec::frame(&bytes, u32::MAX).unwrap().unwrap();
    let Ok(Packet::ConnAck(connack)) = grapnel_engine::codec::decode(&frame, Version::V5) else {
        panic!("CONNACK")
    };
    assert_eq!(connack.properties.server_keep_alive_s(), Some(60));
    assert_eq!(connack.properties.session_expiry_s(), Some(100));
    assert!(connack.properties.assigned_client_id().is_some_and(|id| id.starts_with("grapnel-")));
    assert_eq!(connack.properties.maximum_packet_size(), Some(1_048_576));
}

#[test]
fn timers_are_removed_with_their_sessions_and_connections() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let armed =
            |world: &mut World| -> usize { world.shards.iter_mut().map(|shard| shard.timers().0).sum() };
        for n in 0..20 {
            // Keep alive, a delayed will and an expiry of many hours. The client returns, and
            // leaves for good.
            let name = n.to_string();
            let client =
                world.connect(&name, &ConnectRequest { keep_alive_s: 40_000, ..with_will(50_000, 60_000) });
            assert_eq!(armed(&mut world), 1, "keep alive");
            world.subscribe(client, "a/#", QoS::AtLeastOnce);
            world.lose(client);
            let away = armed(&mut world);
            assert!((2..=4).contains(&away), "{away}: a will, an expiry, and what looks after the SUBSCRIBE");
            let client =
                world.connect(&name, &ConnectRequest { keep_alive_s: 40_000, ..with_will(50_000, 60_000) });
            world.disconnect(client, ReasonCode::SUCCESS);
            let away = armed(&mut world);
            assert!((1..=3).contains(&away), "{away}: an expiry, and likewise");
            let client = world.connect(&name, &ConnectRequest::v(Version::V5));
            world.disconnect(client, ReasonCode::SUCCESS);
            // A connection that never sends CONNECT.
            let stranger = world.open(Version::V5);
            world.lose(stranger);
            assert_eq!(armed(&mut world), 0);
        }
    }
}

/// Two connections of one session have ended while packets of the first one still wait: the will of
/// the first was cancelled when the second connected [MQTT-3.1.3-9].
#[test]
fn a_delayed_will_is_cancelled_by_a_short_reconnect() {
    let mut world = World::new(1);
    let watcher = watcher(&mut world);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Deny, &tickets))]);
    let client = world.connect("c", &with_will(10, 60));
    world.publish(client, "t", "waits", QoS::AtLeastOnce, 1);
    world.lose(client);
    let without = ConnectRequest { will: None, will_delay_s: 0, ..with_will(0, 60) };
    let client = world.connect("c", &without);
    world.lose(client);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    // A will that is published now would be visible.
    mount(&mut world, Vec::new());
    world.pass_ms(30_000);
    assert_eq!(world.take(watcher), []);
    // The session ends when its own expiry is over, counted from now.
    let (client, connack) = world.try_connect("c", &without);
    assert_eq!(connack, Some(Got::ConnAck { present: true, code: 0 }));
    world.lose(client);
    world.pass_ms(62_000);
    let (_, connack) = world.try_connect("c", &without);
    assert_eq!(connack, Some(Got::ConnAck { present: false, code: 0 }));
}

/// Makes publishes wait up to ten minutes for a plugin.
fn hold_publishes(world: &mut World) -> DeferredTickets {
    let tickets = DeferredTickets::default();
    let mut waits = later(1, 0, FaultPolicy::Deny, &tickets);
    waits.deadline_ms = 600_000;
    mount(world, vec![(HookPoint::MessagePublish, waits)]);
    tickets
}

/// The will delay [MQTT-3.1.3-9] and the session expiry count from the end of the connection,
/// whenever the client's earlier packets take effect.
#[test]
fn will_delay_and_session_expiry_begin_at_the_end_of_the_connection() {
    for (away_ms, wills) in [(5_000, 0), (20_000, 1)] {
        let mut world = World::new(1);
        let watcher = watcher(&mut world);
        let tickets = hold_publishes(&mut world);
        let client = world.connect("c", &with_will(10, 60));
        world.publish(client, "t", "waits", QoS::AtLeastOnce, 1);
        world.lose(client);
        world.pass_ms(away_ms);
        let without = ConnectRequest { will: None, will_delay_s: 0, ..with_will(0, 60) };
        let client = world.connect("c", &without);
        mount(&mut world, Vec::new());
        complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
        assert_eq!(world.take(watcher).len(), wills, "{away_ms} ms away, delay 10 s");
        world.lose(client);
    }
    // The session of an absent client ends 60 s after its connection, although a publish of it has
    // waited for 50.
    let mut world = World::new(1);
    let tickets = hold_publishes(&mut world);
    let client = world.connect("c", &with_will(0, 60));
    world.publish(client, "t", "waits", QoS::AtLeastOnce, 1);
    world.lose(client);
    world.pass_ms(50_000);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    mount(&mut world, Vec::new());
    world.pass_ms(12_000);
    assert_eq!(world.shards[0].counters().session_expired, 1);
}

/// Sessions that expire in the same second are ended in slices, and a session that is resumed
/// meanwhile stays.
#[test]
fn sessions_that_expire_together_end_in_slices() {
    let mut world = World::with(1, |limits| limits.turn_budget_deliveries = 64);
    for n in 0..500 {
        let client = world.connect(&format!("c{n:03}"), &with_will(0, 10));
        world.disconnect(client, ReasonCode::SUCCESS);
    }
    world.now = world.now.plus_ms(20_000);
    let now = world.now;
    assert!(world.shards[0].advance(now), "there is more");
    let first = world.shards[0].counters().session_expired;
    assert!((1..=64).contains(&first), "{first} in one step");
    assert_eq!(world.shards[0].next_deadline_ms(), Some(now.mono_ms), "the rest is due at once");
    // The last client returns before its turn, and leaves again: its expiry begins again.
    let (client, connack) = world.try_connect("c499", &with_will(0, 10));
    let present = connack == Some(Got::ConnAck { present: true, code: 0 });
    world.disconnect(client, ReasonCode::SUCCESS);
    world.drive();
    let expired = world.shards[0].counters().session_expired;
    assert_eq!(expired, if present { 499 } else { 500 });
    world.pass_ms(12_000);
    assert_eq!(world.shards[0].counters().session_expired, expired + 1);
}
