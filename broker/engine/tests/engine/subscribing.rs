//! SUBSCRIBE and UNSUBSCRIBE with many filters: limits, slices and costs.

use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{Packet, Property, QoS, SubscriptionOptions, Version};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, allow, later};
use crate::hooks::{Call, Log, complete, link, mount};
use crate::world::*;

/// SUBSCRIBE of packet identifier 7 with `count` filters `f/0`, `f/1` and so on, with this suffix.
fn subscribe_bytes(version: Version, count: usize, suffix: &str) -> Vec<u8> {
    filters_bytes(0x82, 7, version, (0..count).map(|n| format!("f/{n}{suffix}")), &[0])
}

/// UNSUBSCRIBE of packet identifier 8 from the same filters.
fn unsubscribe_bytes(version: Version, count: usize, suffix: &str) -> Vec<u8> {
    filters_bytes(0xA2, 8, version, (0..count).map(|n| format!("f/{n}{suffix}")), &[])
}

/// A packet with filters, each followed by its options.
fn filters_bytes(
    first: u8,
    packet_id: u8,
    version: Version,
    filters: impl Iterator<Item = String>,
    options: &[u8],
) -> Vec<u8> {
    let mut payload = vec![0, packet_id];
    if version == Version::V5 {
        payload.push(0);
    }
    for filter in filters {
        payload.extend((filter.len() as u16).to_be_bytes());
        payload.extend(filter.bytes());
        payload.extend(options);
    }
    framed(first, &payload)
}

fn framed(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = payload.len();
    loop {
        let low = (left % 128) as u8;
        left /= 128;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    bytes.extend(payload);
    bytes
}

#[test]
fn filters_beyond_the_limit_are_refused_one_by_one() {
    for (version, refusal) in [(Version::V5, 0x97), (Version::V311, 0x80)] {
        for shards in [1, 2] {
            for count in [1023, 1024, 1025, 8000] {
                let mut world = World::new(shards);
                let sub = world.connect("sub", &ConnectRequest::v(version));
                world.send_bytes(sub, &subscribe_bytes(version, count, "/+"));
                let [Got::SubAck(7, codes)] = &world.take(sub)[..] else { panic!("one SUBACK") };
                assert_eq!(codes.len(), count);
                let tickets = count.min(1024);
                assert!(codes[..tickets].iter().all(|code| *code == 0));
                assert!(codes[tickets..].iter().all(|code| *code == refusal), "{:?}", codes.last());
                let home = world.shard_of(sub);
                assert_eq!(world.shards[home].counters().subscriptions_count, tickets as u64);
            }
        }
    }
}

/// If SUBACK exceeds the client's Maximum Packet Size [MQTT-3.1.2-24], no filter is subscribed.
#[test]
fn a_subscribe_whose_suback_would_be_too_large_subscribes_nothing() {
    for (filters, fits) in [(15, true), (16, false), (20, false)] {
        let mut world = World::new(1);
        let properties = vec![Property::MaximumPacketSize(20)];
        let sub = world.connect("sub", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
        world.send_bytes(sub, &subscribe_bytes(Version::V5, filters, ""));
        if fits {
            assert_eq!(world.take(sub), [Got::SubAck(7, vec![0; filters])]);
            continue;
        }
        assert_eq!(&world.take_raw(sub)[..], [0xE0, 1, 0x95]);
        assert!(world.is_closed(sub));
        assert_eq!(world.shards[0].counters().subscriptions_count, 0);
    }
}

/// UNSUBACK does not have the code 0x97 [MQTT-3.11.3-2], and MQTT 3 has no codes there.
#[test]
fn filters_beyond_the_limit_of_an_unsubscribe_stay() {
    for count in [1024, 1025] {
        let mut world = World::with(1, |limits| limits.filters_per_subscribe_max = 2000);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.send_bytes(sub, &subscribe_bytes(Version::V5, 1100, ""));
        world.take(sub);
        world.send_bytes(sub, &unsubscribe_bytes(Version::V5, count, ""));
        let [Got::UnsubAck(8, codes)] = &world.take(sub)[..] else { panic!("one UNSUBACK") };
        assert_eq!(codes.len(), count);
        assert!(codes[..1024].iter().all(|code| *code == 0));
        assert!(codes[1024..].iter().all(|code| *code == 0x80));
        assert_eq!(world.shards[0].counters().subscriptions_count, 76);

        let sub = world.connect("sub3", &ConnectRequest::v(Version::V311));
        world.send_bytes(sub, &subscribe_bytes(Version::V311, 1100, ""));
        world.take(sub);
        world.send_bytes(sub, &unsubscribe_bytes(Version::V311, count, ""));
        assert_eq!(world.is_closed(sub), count > 1024);
    }
}

/// Units of work for one SUBSCRIBE of `count` filters and all its consequences.
fn units_of_subscribe(shards: usize, count: usize, suffix: &str, retained: usize) -> u64 {
    let mut world = World::with(shards, |limits| {
        limits.filters_per_subscribe_max = 65_535;
        limits.subscriptions_max = 1_000_000;
    });
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 0..retained {
        world.publish_with(publisher, &format!("f/{n}/x"), "v", QoS::AtMostOnce, 0, true, &[]);
    }
    let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
    let before = world.work_units();
    world.send_bytes(sub, &subscribe_bytes(Version::V311, count, suffix));
    let got = world.take(sub);
    assert!(matches!(got[0], Got::SubAck(7, _)));
    assert_eq!(got.len() - 1, if suffix.is_empty() { 0 } else { retained.min(count) });
    world.work_units() - before
}

#[test]
fn twice_the_filters_take_at_most_twice_the_work() {
    for shards in [1, 2, 4] {
        for (suffix, retained) in [("", 0), ("", 500), ("/+", 0), ("/#", 500), ("/+", 8000)] {
            let units = [1000, 2000, 4000].map(|count| units_of_subscribe(shards, count, suffix, retained));
            for pair in units.windows(2) {
                assert!(pair[1] <= 2 * pair[0] + 128, "{shards} shards, f/n{suffix}, {retained}: {units:?}");
            }
            assert!(units[0] >= 1000, "every filter counts: {units:?}");
        }
    }
}

#[test]
fn twice_the_subscribers_that_wait_take_at_most_twice_the_work() {
    let units = [500, 1000, 2000].map(|count| {
        let mut world = World::new(2);
        let clients: Vec<_> =
            (0..count).map(|n| world.connect(&format!("c{n}"), &ConnectRequest::v(Version::V311))).collect();
        let before = world.work_units();
        world.lanes_open = false;
        for (n, client) in clients.iter().enumerate() {
            let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
            world.send_subscribe(*client, &format!("f/{n}"), options, None);
            assert_eq!(world.take(*client), [], "the other shard has not heard of it");
        }
        world.lanes_open = true;
        world.drive();
        for client in clients {
            assert_eq!(world.take(client), [Got::SubAck(7, vec![0])]);
        }
        world.work_units() - before
    });
    for pair in units.windows(2) {
        assert!(pair[1] <= 2 * pair[0] + 128, "{units:?}");
    }
    assert!(units[0] > 500, "{units:?}");
}

/// A turn works on a long SUBSCRIBE within its budget, and other clients are served between two
/// turns.
#[test]
fn a_long_subscribe_takes_several_turns() {
    for (shards, count) in [(1, 20_000), (2, 8000)] {
        let budget = 512;
        let mut world = World::with(shards, |limits| {
            limits.filters_per_subscribe_max = 65_535;
            limits.subscriptions_max = 1_000_000;
            limits.slot_bytes_max = 100_000_000;
            limits.turn_budget_deliveries = budget;
        });
        let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
        let home = world.shard_of(sub);
        let other = world.connect_at(home, "o", &ConnectRequest::v(Version::V311));
        let before = world.work_units();
        world.offer_bytes(sub, &subscribe_bytes(Version::V311, count, "/+"));
        let mut most = world.work_units() - before;
        let mut turns = 0;
        while world.shards[home].has_work() {
            let before = world.shards[home].counters().work_units;
            world.shards[home].advance(world.now);
            most = most.max(world.shards[home].counters().work_units - before);
            turns += 1;
            if turns == 3 {
                world.offer_bytes(other, &[0xC0, 0]);
            }
        }
        assert!(most <= budget + 16, "{most} units in a turn");
        assert!(turns as u64 > count as u64 / budget, "{turns} turns");
        world.drive();
        assert_eq!(world.take(other), [Got::PingResp]);
        let [Got::SubAck(7, codes)] = &world.take(sub)[..] else { panic!("one SUBACK") };
        assert!(codes.len() == count && codes.iter().all(|code| *code == 0));
    }
}

/// A call of a plugin may take long: a turn makes few of them.
#[test]
fn a_turn_makes_few_calls_to_client_authorize() {
    let mut world = World::new(1);
    let log = Log::default();
    let seen = log.clone();
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        seen.note(call.topic());
        call.set(Field::VERDICT, 1, "", "");
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, guard)]);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.pass_ms(10);
    log.take();
    world.offer_bytes(sub, &subscribe_bytes(Version::V5, 1000, ""));
    let mut requested = vec![log.take().len()];
    while world.shards[0].has_work() {
        world.shards[0].advance(world.now);
        requested.push(log.take().len());
    }
    assert_eq!(requested.iter().sum::<usize>(), 1000);
    assert!(requested.iter().all(|count| *count <= 128), "{requested:?}");
    world.drive();
    assert_eq!(world.take(sub), [Got::SubAck(7, vec![0; 1000])]);
}

/// If the connection ends in the middle of a SUBSCRIBE, the subscriptions in force stay with the
/// session, the others are dropped, and nothing waits forever.
#[test]
fn a_connection_that_ends_in_the_middle_of_a_long_subscribe_leaves_nothing_behind() {
    for clean in [true, false] {
        let mut world = World::with(2, |limits| limits.turn_budget_deliveries = 64);
        let request = ConnectRequest { clean, ..ConnectRequest::v(Version::V311) };
        let sub = world.connect("sub", &request);
        let home = world.shard_of(sub);
        world.offer_bytes(sub, &subscribe_bytes(Version::V311, 1000, "/+"));
        while world.shards[home].counters().subscriptions_count == 0 {
            world.shards[home].advance(world.now);
        }
        world.lose(sub);
        world.pass_ms(1000);
        let count = world.shards[home].counters().subscriptions_count;
        if clean {
            assert_eq!(count, 0);
            continue;
        }
        assert!(count > 0 && count < 1000, "{count}");
        let sub = world.connect("sub", &request);
        assert_eq!(world.subscribe(sub, "f/0/+", QoS::AtMostOnce), [0]);
        world.send(sub, &Packet::PingReq);
        assert_eq!(world.take(sub), [Got::PingResp]);
    }
}

/// If the other shards do not learn of one of several filters in time, only that filter is taken
/// back, with its code in its place.
#[test]
fn filters_that_other_shards_do_not_confirm_in_time_are_refused_alone() {
    let mut world = World::new(2);
    let first = world.connect("first", &ConnectRequest::v(Version::V5));
    let sub = world.connect_at(world.shard_of(first), "s", &ConnectRequest::v(Version::V5));
    let home = world.shard_of(first);
    // The other shard has f/1 and f/3 already.
    world.subscribe(first, "f/1", QoS::AtMostOnce);
    world.subscribe(first, "f/3", QoS::AtMostOnce);
    let known = world.shards[home].counters().subscriptions_count;
    world.lanes_open = false;
    world.send_bytes(sub, &subscribe_bytes(Version::V5, 5, ""));
    // SUBACK is not sent before that, whatever else moves the session's slots.
    world.send(sub, &Packet::PingReq);
    world.publish(sub, "x", "v", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(sub), [Got::PingResp]);
    world.pass_ms(4_900);
    assert_eq!(world.take(sub), []);
    world.pass_ms(200);
    assert_eq!(world.take(sub), [Got::SubAck(7, vec![0x80, 0, 0x80, 0, 0x80]), Got::Ack("PUBACK", 1, 0x10)]);
    assert_eq!(world.shards[home].counters().subscribe_barrier_timeouts, 3);
    assert_eq!(world.shards[home].counters().subscriptions_count, known + 2);
    world.lanes_open = true;
    world.drive();
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    for n in 0..5 {
        world.publish(publisher, &format!("f/{n}"), "v", QoS::AtMostOnce, 0);
    }
    assert_eq!(world.take(sub), [message("f/1", "v", 0), message("f/3", "v", 0)]);
}

/// A deferred SUBSCRIBE is not authorized again and not in force before its answer, whatever moves
/// its session.
#[test]
fn no_filter_is_granted_before_the_verdict() {
    let mut world = World::new(1);
    let tickets = DeferredTickets::default();
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    mount(&mut world, vec![(HookPoint::ClientSubscribe, later(1, 0, FaultPolicy::Deny, &tickets))]);
    world.send_bytes(sub, &subscribe_bytes(Version::V5, 3, ""));
    world.publish(sub, "x", "v", QoS::AtLeastOnce, 1);
    world.send(sub, &Packet::PingReq);
    world.publish(publisher, "f/1", "early", QoS::AtMostOnce, 0);
    world.pass_ms(500);
    assert_eq!(tickets.about(), ["sub"], "one question");
    assert_eq!(world.take(sub), [Got::PingResp]);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(sub), [Got::SubAck(7, vec![0, 0, 0]), Got::Ack("PUBACK", 1, 0x10)]);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, allow());
    world.publish(publisher, "f/1", "late", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub), [message("f/1", "late", 0)]);
}

/// If client.authorize defers every delivery of a retained message, all of them are delivered in
/// the end.
#[test]
fn retained_messages_wait_for_the_verdicts_on_their_deliveries() {
    let mut world = World::new(1);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    for n in 0..20 {
        world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtMostOnce, 0, true, &[]);
    }
    let tickets = DeferredTickets::default();
    let seen = tickets.clone();
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.action() != 3 {
            call.set(Field::VERDICT, 1, "", "");
            return Flow::CONTINUE;
        }
        seen.note(call.topic(), call.defer().expect("a delivery may wait"));
        Flow::DEFER
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, Link { deliver: true, ..guard })]);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    assert_eq!(world.subscribe(sub, "r/#", QoS::AtMostOnce), [0]);
    for n in 0..20 {
        assert_eq!(tickets.about().len(), n + 1, "one is asked about at a time, and nothing waits behind it");
        complete(&mut world, tickets.ticket(n), Flow::CONTINUE, allow());
        assert_eq!(world.take(sub).len(), 1);
    }
}
