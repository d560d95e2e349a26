//! What a session stores and for how long: byte limits of queue and slots and their accounting, a
//! waiting DISCONNECT, topic aliases that are set again, packets in flight across connections, and
//! the countdown of expiry intervals.

use grapnel_engine::codec;
use grapnel_engine::hook::requested::Requested;
use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_engine::message::Message;
use grapnel_engine::packet::{Disconnect, Packet, Properties, Property, QoS, Version, push_property};
use grapnel_engine::reason::ReasonCode;
use grapnel_plugin_abi::raw::Flow;

use crate::deferral::{DeferredTickets, later};
use crate::hooks::{complete, mount};
use crate::world::{ClientId, ConnectRequest, Got, World, message};

fn stored(properties: &[Property<'static>]) -> ConnectRequest<'static> {
    let mut all = vec![Property::SessionExpiry(1000)];
    all.extend_from_slice(properties);
    ConnectRequest { clean: false, properties: all, ..ConnectRequest::v(Version::V5) }
}

/// Bytes that a message to `t` counts towards limits, in addition to its payload.
const fn overhead() -> u64 {
    size_of::<Message>() as u64 + 1
}

/// As many messages wait as `session_queue_bytes_max` allows. Messages that leave the queue make
/// space for as many again.
#[test]
fn the_bytes_of_a_session_queue_are_limited() {
    for (limit, fits) in [(3 * (overhead() + 100), 3), (3 * (overhead() + 100) - 1, 2), (overhead() + 99, 0)]
    {
        let mut world = World::with(1, |limits| limits.session_queue_bytes_max = limit);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        let sub = world.connect("sub", &stored(&[]));
        world.subscribe(sub, "t", QoS::AtLeastOnce);
        world.lose(sub);
        for round in 1..=3 {
            for n in 1..=5 {
                world.publish(publisher, "t", &"x".repeat(100), QoS::AtLeastOnce, n);
            }
            let dropped = world.shards[0].counters().messages_dropped_queue_full;
            assert_eq!(dropped, round * (5 - fits), "{limit}");
            let sub = world.connect("sub", &stored(&[]));
            let got = world.take(sub);
            assert_eq!(got.len() as u64, fits);
            got.iter().for_each(|one| world.ack(sub, Packet::PubAck, one.id()));
            world.lose(sub);
        }
    }
}

/// When a session ends, the bytes of its queue are freed: they do not count for the next session.
#[test]
fn a_session_queue_holds_as_many_messages_as_its_limit_and_no_more() {
    let mut world = World::with(1, |limits| limits.session_queue_messages_max = 2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    let sub = world.connect("sub", &stored(&[]));
    world.subscribe(sub, "t", QoS::ExactlyOnce);
    world.lose(sub);
    for (n, dropped) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, n);
        assert_eq!(world.shards[0].counters().messages_dropped_queue_full, dropped);
    }
    let sub = world.connect("sub", &stored(&[]));
    assert_eq!(world.take_plain(sub), [message("t", "1", 1), message("t", "2", 1)]);
}

/// Publishes wait up to `slot_bytes_max`. The connection is then not read until half of it is free.
/// Bytes that have left no longer count.
#[test]
fn the_bytes_of_waiting_publishes_are_limited() {
    let mut world = World::with(1, |limits| limits.slot_bytes_max = 4 * (overhead() + 100));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    let mut completed = 0;
    for round in 1..=3 {
        for n in 1..=6 {
            world.publish(publisher, "t", &"x".repeat(100), QoS::AtLeastOnce, n);
        }
        let before = (round - 1) * 6;
        assert_eq!(tickets.about().len(), before + 4, "the fifth is not read");
        complete(&mut world, tickets.ticket(completed), Flow::CONTINUE, Vec::new());
        assert_eq!(tickets.about().len(), before + 4, "more than half is taken");
        complete(&mut world, tickets.ticket(completed + 1), Flow::CONTINUE, Vec::new());
        assert_eq!(tickets.about().len(), before + 6, "half is free");
        (2..6).for_each(|n| complete(&mut world, tickets.ticket(completed + n), Flow::CONTINUE, Vec::new()));
        completed += 6;
        assert_eq!(world.take(publisher).len(), 6);
    }
}

/// A waiting SUBSCRIBE counts with its stored filters and properties.
#[test]
fn the_bytes_of_waiting_packets_are_limited() {
    for (version, id) in [(Version::V311, None), (Version::V5, Some(1))] {
        let properties = if id.is_some() { 2 } else { 0 };
        let each = (size_of::<Requested>() + 13) as u64 + properties;
        let mut world = World::with(1, |limits| limits.slot_bytes_max = overhead() + 1 + 3 * each);
        let client = world.connect("c", &ConnectRequest::v(version));
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        let options = grapnel_engine::packet::SubscriptionOptions::default();
        for n in 0..4 {
            world.send_subscribe(client, &format!("filter/{n:06}"), options, id);
        }
        world.send(client, &Packet::PingReq);
        assert_eq!(world.take(client), [], "the fourth SUBSCRIBE and PINGREQ are not read");
        complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
        assert_eq!(world.take(client).len(), 5);
    }
}

/// The session expiry of a waiting DISCONNECT applies from the time it was received: after 0, a
/// CONNECT finds no session, and the will is no longer delayed [MQTT-3.1.3-9].
#[test]
fn a_connect_waits_until_the_earlier_disconnect_has_changed_the_session() {
    for (expiry_s, present) in [(0, false), (50, true)] {
        let mut world = World::new(1);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "#", QoS::AtMostOnce);
        let request = ConnectRequest {
            will: Some(("will", "w", QoS::AtMostOnce, false)),
            will_delay_s: 10,
            ..stored(&[])
        };
        let client = world.connect("c", &request);
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
        world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
        let mut section = Vec::new();
        push_property(&mut section, Property::SessionExpiry(expiry_s));
        let properties = Properties::from_encoded(&section);
        let reason = ReasonCode::DISCONNECT_WITH_WILL;
        world.send(client, &Packet::Disconnect(Disconnect { reason, properties }));
        let (_, connack) = world.try_connect("c", &stored(&[]));
        assert_eq!(connack, Some(Got::ConnAck { present, code: 0 }));
        mount(&mut world, Vec::new());
        complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
        let mut expected = vec![message("t", "x", 0)];
        // Its client returns within the delay.
        expected.extend((!present).then(|| message("will", "w", 0)));
        assert_eq!(world.take(sub), expected, "{expiry_s}");
    }
}

/// A DISCONNECT behind a waiting publish takes effect after it: 0x00 deletes the will
/// [MQTT-3.14.4-3], 0x04 sends it after the publish, and its session expiry counts.
#[test]
fn a_disconnect_waits_for_earlier_publishes() {
    for (reason, will) in [(ReasonCode::SUCCESS, false), (ReasonCode::DISCONNECT_WITH_WILL, true)] {
        for lost in [false, true] {
            let mut world = World::new(1);
            let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
            world.subscribe(sub, "#", QoS::AtMostOnce);
            let request = ConnectRequest { will: Some(("will", "w", QoS::AtMostOnce, false)), ..stored(&[]) };
            let client = world.connect("c", &request);
            let tickets = DeferredTickets::default();
            mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
            world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
            let mut section = Vec::new();
            push_property(&mut section, Property::SessionExpiry(3));
            let properties = Properties::from_encoded(&section);
            world.send(client, &Packet::Disconnect(Disconnect { reason, properties }));
            assert!(!world.is_closed(client), "it waits its turn");
            if lost {
                world.lose(client);
            }
            mount(&mut world, Vec::new());
            assert_eq!(world.take(sub), []);
            complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
            let mut expected = vec![message("t", "x", 0)];
            expected.extend(will.then(|| message("will", "w", 0)));
            assert_eq!(world.take(sub), expected);
            assert!(world.is_closed(client));
            world.pass_ms(2_000);
            assert_eq!(world.shards[0].counters().sessions_count, 2);
            world.pass_ms(2_100);
            assert_eq!(world.shards[0].counters().sessions_count, 1, "three seconds, not a thousand");
        }
    }
}

/// An alias stands for the topic of its last use with a topic [section 3.3.2.3.4], up to the Topic
/// Alias Maximum [MQTT-3.3.2-9], within one connection [MQTT-3.3.2-7].
#[test]
fn a_topic_alias_can_be_set_again() {
    let mut world = World::with(1, |limits| limits.topic_alias_max = 3);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    let publisher = world.connect("pub", &stored(&[]));
    for (topic, alias, meant) in
        [("a", 1, "a"), ("b", 3, "b"), ("c", 1, "c"), ("", 3, "b"), ("", 1, "c"), ("b", 1, "b"), ("", 1, "b")]
    {
        let properties = [Property::TopicAlias(alias)];
        world.publish_with(publisher, topic, "x", QoS::AtMostOnce, 0, false, &properties);
        assert_eq!(world.take(sub), [message(meant, "x", 0)], "{topic} {alias}");
    }
    world.publish_with(publisher, "d", "x", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(4)]);
    assert_eq!(world.take(publisher), [Got::Disconnect(ReasonCode::TOPIC_ALIAS_INVALID.0)]);
    let publisher = world.connect("pub", &stored(&[]));
    world.publish_with(publisher, "", "x", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(1)]);
    assert_eq!(world.take(publisher), [Got::Disconnect(ReasonCode::PROTOCOL_ERROR.0)]);
}

fn take_ids(world: &mut World, client: ClientId) -> Vec<(String, u8, bool, u16)> {
    let got = world.take(client);
    got.into_iter()
        .map(|one| match one {
            Got::Publish { payload, qos, dup, id, .. } => {
                (String::from_utf8(payload).expect("text"), qos, dup, id)
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

/// When a member of a shared subscription ends, its QoS 1 messages in flight and all its waiting
/// messages go to another member. Its QoS 2 messages in flight do not, with or without PUBREC
/// (section 4.8.2).
#[test]
fn qos_2_messages_in_flight_stay_with_their_shared_member() {
    let mut world = World::new(1);
    let first = world.connect(
        "first",
        &ConnectRequest { properties: vec![Property::ReceiveMaximum(3)], ..ConnectRequest::v(Version::V5) },
    );
    world.subscribe(first, "$share/g/t", QoS::ExactlyOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let all = [("1", 2), ("2", 1), ("3", 2), ("4", 2), ("5", 1)];
    for (n, (payload, qos)) in (1..).zip(all) {
        let qos = QoS::from_u8(qos).expect("a QoS");
        world.publish(publisher, "t", payload, qos, n);
    }
    let got = take_ids(&mut world, first);
    assert_eq!(got.len(), 3);
    world.ack(first, Packet::PubRec, got[0].3);
    let second = world.connect("second", &ConnectRequest::v(Version::V5));
    world.subscribe(second, "$share/g/t", QoS::ExactlyOnce);
    world.lose(first);
    let moved: Vec<(String, u8)> = take_ids(&mut world, second)
        .into_iter()
        .map(|(payload, qos, dup, _)| {
            assert!(!dup, "it is another exchange");
            (payload, qos)
        })
        .collect();
    assert_eq!(moved, [("2".to_owned(), 1), ("4".to_owned(), 2), ("5".to_owned(), 1)]);
}

/// A client that resumes with a smaller Receive Maximum receives its messages in flight again
/// within that limit, in order, and the others as it acknowledges [MQTT-3.3.4-9] [MQTT-4.4.0-1]
/// [MQTT-4.6.0-1].
#[test]
fn a_resume_with_a_smaller_receive_maximum_sends_less_at_a_time() {
    let mut world = World::new(1);
    let sub = world.connect("sub", &stored(&[Property::ReceiveMaximum(5)]));
    world.subscribe(sub, "t", QoS::ExactlyOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 1..=7 {
        let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        world.publish(publisher, "t", &n.to_string(), qos, n);
    }
    let before = take_ids(&mut world, sub);
    assert_eq!(before.len(), 5);
    world.ack(sub, Packet::PubRec, before[2].3);
    world.lose(sub);
    let sub = world.connect("sub", &stored(&[Property::ReceiveMaximum(2)]));
    let resent = |at: usize| (before[at].0.clone(), before[at].1, true, before[at].3);
    assert_eq!(take_ids(&mut world, sub), [resent(0), resent(1)]);
    // PUBREC alone makes no space; PUBCOMP does. Then the PUBREL for the third message is sent,
    // whose PUBREC arrived before the reconnect.
    world.ack(sub, Packet::PubRec, before[0].3);
    assert_eq!(world.take(sub), [Got::Ack("PUBREL", before[0].3, 0)]);
    world.ack(sub, Packet::PubComp, before[0].3);
    assert_eq!(world.take(sub), [Got::Ack("PUBREL", before[2].3, 0)]);
    world.ack(sub, Packet::PubAck, before[1].3);
    assert_eq!(take_ids(&mut world, sub), [resent(3)]);
    world.ack(sub, Packet::PubComp, before[2].3);
    assert_eq!(take_ids(&mut world, sub), [resent(4)]);
    world.ack(sub, Packet::PubAck, before[3].3);
    let new = take_ids(&mut world, sub);
    assert_eq!((new.len(), &*new[0].0, new[0].2), (1, "6", false), "the queue follows, without DUP");
}

fn expiry_of_first(world: &mut World, client: ClientId) -> Option<u32> {
    let bytes = world.take_raw(client);
    let frame = codec::frame(&bytes, u32::MAX).ok().flatten()?;
    match codec::decode(&frame, Version::V5).expect("a packet") {
        Packet::Publish(publish) => publish.properties.message_expiry_s(),
        other => panic!("{other:?}"),
    }
}

/// The expiry interval is sent less the waiting time of the message [MQTT-3.3.2-6], rounded up so
/// that nothing expires early. A message whose time is over is dropped [MQTT-3.3.2-5].
#[test]
fn the_expiry_interval_is_counted_down_and_rounded_up() {
    for (waited_ms, left) in [
        (0, Some(10)),
        (1, Some(10)),
        (999, Some(10)),
        (1_000, Some(9)),
        (3_200, Some(7)),
        (9_001, Some(1)),
        (9_999, Some(1)),
        (10_000, None),
        (10_001, None),
    ] {
        let mut world = World::new(1);
        let request = stored(&[Property::ReceiveMaximum(1)]);
        let sub = world.connect("sub", &request);
        world.subscribe(sub, "t", QoS::AtLeastOnce);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        world.publish(publisher, "t", "first", QoS::AtLeastOnce, 1);
        let expiry = [Property::MessageExpiry(10)];
        world.publish_with(publisher, "t", "x", QoS::AtLeastOnce, 2, false, &expiry);
        let first = take_ids(&mut world, sub);
        world.pass_ms(waited_ms);
        world.ack(sub, Packet::PubAck, first[0].3);
        assert_eq!(expiry_of_first(&mut world, sub), left, "after {waited_ms} ms in the queue");
        assert_eq!(world.shards[0].counters().messages_dropped_expired, u64::from(left.is_none()));
        if left == Some(9) {
            // A resend has less time left. Once sent, a message is resent even after its time is
            // over.
            world.lose(sub);
            world.pass_ms(2_500);
            let sub = world.connect("sub", &request);
            assert_eq!(expiry_of_first(&mut world, sub), Some(7));
        }
    }
}

/// The expiry interval also counts down while a message waits in a slot.
#[test]
fn the_expiry_interval_counts_while_a_publish_waits() {
    for (waited_ms, left) in [(700, Some(2)), (1_000, Some(1)), (2_000, None)] {
        let mut world = World::with(1, |limits| limits.defer_deadline_ms = 60_000);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "t", QoS::AtMostOnce);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        let tickets = DeferredTickets::default();
        let link =
            grapnel_engine::hook::Link { deadline_ms: 60_000, ..later(1, 0, FaultPolicy::Ignore, &tickets) };
        mount(&mut world, vec![(HookPoint::MessagePublish, link)]);
        world.publish_with(publisher, "t", "x", QoS::AtLeastOnce, 1, false, &[Property::MessageExpiry(2)]);
        world.pass_ms(waited_ms);
        complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
        assert_eq!(expiry_of_first(&mut world, sub), left, "after {waited_ms} ms");
        assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0)]);
    }
}
