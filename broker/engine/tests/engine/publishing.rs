//! A PUBLISH while an earlier packet waits, while its session is taken over, while a lane is full,
//! or with an invalid change of a hook (MQTT 5.0 sections 3.3, 3.4, 3.5 and 4.6).

use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{Packet, Property, QoS, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Pause, Reading};
use grapnel_plugin_abi::raw::{Field, Flow, Status};

use crate::deferral::{DeferredTickets, deny};
use crate::hooks::{Call, complete, link, mount, pair};
use crate::world::{ConnectRequest, Got, World, message};

/// A link that defers the publishes of one topic and continues for every other.
fn later_for(topic: &'static str, tickets: &DeferredTickets) -> Link {
    let tickets = tickets.clone();
    link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        if call.topic() != topic {
            return Flow::CONTINUE;
        }
        tickets.note(topic, call.defer().expect("the point may wait"));
        Flow::DEFER
    })
}

fn stored_with_will(payload: &str) -> ConnectRequest<'_> {
    ConnectRequest {
        clean: false,
        will: Some(("will", payload, QoS::AtMostOnce, false)),
        properties: vec![Property::SessionExpiry(100)],
        ..ConnectRequest::v(Version::V5)
    }
}

/// Each takeover of a session with a waiting publish adds a will behind that publish. As many
/// takeovers are accepted as the session may have packets waiting; the others are refused with
/// "server busy". All wills are published once, in order.
#[test]
fn takeovers_behind_a_waiting_publish_are_limited() {
    let (mut world, subscriber, _) = pair();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later_for("t", &tickets))]);
    let mut last = world.connect("c", &stored_with_will("0"));
    world.publish(last, "t", "x", QoS::AtLeastOnce, 1);
    let mut served = 0;
    for n in 1..=3000 {
        let payload = n.to_string();
        let (client, connack) = world.try_connect("c", &stored_with_will(&payload));
        match connack {
            Some(Got::ConnAck { present: true, code: 0 }) => {
                served += 1;
                assert_eq!(served, n, "none is served after one that was refused");
                last = client;
            }
            Some(Got::ConnAck { present: false, code: 0x89 }) => {
                assert!(world.is_closed(client) && !world.is_closed(last), "the one that is in stays in");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(served, 127, "with the publish they are slots_max");
    assert_eq!(world.take(subscriber), []);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    let mut expected = vec![message("t", "x", 1)];
    expected.extend((0..served).map(|n| message("will", &n.to_string(), 0)));
    assert_eq!(world.take_plain(subscriber), expected);
    // There is space again.
    assert_eq!(
        world.try_connect("c", &stored_with_will("-")).1,
        Some(Got::ConnAck { present: true, code: 0 })
    );
}

/// Any number of wills behind a publish are published one after the other, without recursion.
#[test]
fn many_wills_behind_a_waiting_publish_are_sent_in_order() {
    let mut world = World::with(1, |limits| limits.slots_max = 4000);
    let subscriber = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(subscriber, "#", QoS::AtMostOnce);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later_for("t", &tickets))]);
    let first = world.connect("c", &stored_with_will("0"));
    world.publish(first, "t", "x", QoS::AtLeastOnce, 1);
    for n in 1..=3000 {
        let (_, connack) = world.try_connect("c", &stored_with_will(&n.to_string()));
        assert_eq!(connack, Some(Got::ConnAck { present: true, code: 0 }));
    }
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    let mut expected = vec![message("t", "x", 0)];
    expected.extend((0..3000).map(|n| message("will", &n.to_string(), 0)));
    assert_eq!(world.take_plain(subscriber), expected);
}

/// The same where the publish waits for the owner of its retained topic, which has no deadline, and
/// where MQTT 3 clients get the code of their version.
#[test]
fn takeovers_while_a_retained_message_is_stored_are_limited() {
    let mut world = World::new(2);
    let request = |_| ConnectRequest {
        clean: false,
        will: Some(("w", "", QoS::AtMostOnce, false)),
        ..ConnectRequest::v(Version::V311)
    };
    let client = world.connect("c", &request(0));
    world.lanes_open = false;
    // One of these topics is owned by the other shard.
    for n in 0..8 {
        world.publish_with(client, &format!("t{n}"), "x", QoS::AtMostOnce, 0, true, &[]);
    }
    let codes: Vec<u8> = (0..3000)
        .map(|n| match world.try_connect("c", &request(n)).1 {
            Some(Got::ConnAck { code, .. }) => code,
            other => panic!("{other:?}"),
        })
        .collect();
    let served = codes.iter().filter(|code| **code == 0).count();
    assert!((100..128).contains(&served), "{served} served");
    assert!(codes[served..].iter().all(|code| *code == 3), "server unavailable");
    world.lanes_open = true;
    world.drive();
    assert_eq!(
        world.shards.iter_mut().map(|shard| shard.counters().messages_wills).sum::<u64>(),
        served as u64
    );
}

/// The bytes of waiting wills are counted.
#[test]
fn the_bytes_of_waiting_wills_are_limited() {
    let mut world = World::with(1, |limits| limits.slot_bytes_max = 4096);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later_for("t", &tickets))]);
    let will = "w".repeat(1500);
    let client = world.connect("c", &stored_with_will(&will));
    world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    let codes: Vec<u8> = (0..4)
        .map(|_| match world.try_connect("c", &stored_with_will(&will)).1 {
            Some(Got::ConnAck { code, .. }) => code,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        codes,
        [0, 0, 0x89, 0x89],
        "two wills of 1,500 bytes with their messages' own and the publish"
    );
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.shards[0].counters().messages_wills, 2);
    assert!(matches!(world.try_connect("c", &stored_with_will(&will)).1, Some(Got::ConnAck { code: 0, .. })));
}

/// Acknowledgements are sent in the order of the publishes, also one that refuses a topic with too
/// many levels or too many user properties [MQTT-4.6.0-2] [MQTT-4.6.0-3].
#[test]
fn a_refusal_is_sent_after_the_answers_to_earlier_publishes() {
    let (mut world, subscriber, publisher) = pair();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later_for("t", &tickets))]);
    let deep = "a/".repeat(200);
    let many: Vec<Property<'_>> = vec![Property::User("k", "v"); 65];
    world.publish(publisher, "t", "1", QoS::AtLeastOnce, 1);
    world.publish(publisher, &deep, "2", QoS::AtLeastOnce, 2);
    world.publish(publisher, &deep, "3", QoS::ExactlyOnce, 3);
    world.publish_with(publisher, "u", "4", QoS::AtLeastOnce, 4, false, &many);
    world.publish(publisher, "u", "5", QoS::AtLeastOnce, 5);
    assert_eq!((world.take(publisher), world.take(subscriber)), (vec![], vec![]));
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    let expected = [
        Got::Ack("PUBACK", 1, 0),
        Got::Ack("PUBACK", 2, 0x90),
        Got::Ack("PUBREC", 3, 0x90),
        Got::Ack("PUBACK", 4, 0x97),
        Got::Ack("PUBACK", 5, 0),
    ];
    assert_eq!(world.take(publisher), expected);
    assert_eq!(world.take_plain(subscriber), [message("t", "1", 1), message("u", "5", 1)]);
    assert_eq!(world.shards[0].counters().packets_publish_error, 3);
}

/// A resend joins a refused publish that still waits, and the refusal ends a QoS 2 exchange
/// [MQTT-4.3.3-9].
#[test]
fn a_resent_publish_shares_the_pending_refusal() {
    let (mut world, _, publisher) = pair();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later_for("t", &tickets))]);
    let deep = "a/".repeat(200);
    world.publish(publisher, "t", "1", QoS::AtLeastOnce, 1);
    world.publish(publisher, &deep, "2", QoS::ExactlyOnce, 2);
    world.publish(publisher, &deep, "2", QoS::ExactlyOnce, 2);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0), Got::Ack("PUBREC", 2, 0x90)]);
    world.ack(publisher, Packet::PubRel, 2);
    assert_eq!(world.take(publisher), [Got::Ack("PUBCOMP", 2, 0x92)]);
}

/// `user_properties_max` user properties are accepted, one more is not: an acknowledged publish is
/// refused with a code, any other packet ends its connection with the same code.
#[test]
fn user_properties_of_a_publish_are_limited() {
    for (count, code) in [(0, 0), (63, 0), (64, 0), (65, 0x97), (20_000, 0x97)] {
        let (mut world, subscriber, publisher) = pair();
        let many: Vec<Property<'_>> = vec![Property::User("k", "v"); count];
        world.publish_with(publisher, "t", "x", QoS::AtLeastOnce, 1, false, &many);
        world.publish_with(publisher, "t", "x", QoS::ExactlyOnce, 2, false, &many);
        let expected = [Got::Ack("PUBACK", 1, code), Got::Ack("PUBREC", 2, code)];
        assert_eq!(world.take(publisher), expected, "{count}");
        assert_eq!(world.take(subscriber).len(), if code == 0 { 2 } else { 0 });
        world.publish_with(publisher, "t", "x", QoS::AtMostOnce, 0, false, &many);
        assert_eq!(world.is_closed(publisher), code != 0);
        if code != 0 {
            assert_eq!(world.take(publisher), [Got::Disconnect(code)]);
        }
    }
}

#[test]
fn user_properties_of_other_packets_are_limited() {
    use grapnel_engine::packet::{
        Ack, Disconnect, Filters, Properties, Subscribe, SubscriptionOptions, TopicFilters, Unsubscribe,
        push_filter, push_property, push_subscription,
    };
    use grapnel_engine::reason::ReasonCode;
    let mut section = Vec::new();
    (0..65).for_each(|_| push_property(&mut section, Property::User("k", "v")));
    let properties = Properties::from_encoded(&section);
    let (mut subscription, mut filter) = (Vec::new(), Vec::new());
    push_subscription(&mut subscription, "t", SubscriptionOptions::default());
    push_filter(&mut filter, "t");
    let packet_id = crate::world::id(1);
    let filters = Filters::from_encoded(&subscription);
    let packets = [
        Packet::Subscribe(Subscribe { packet_id, properties, filters }),
        Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties,
            filters: TopicFilters::from_encoded(&filter),
        }),
        Packet::PubRel(Ack { properties, ..Ack::new(packet_id, ReasonCode::SUCCESS) }),
        Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties }),
    ];
    for packet in packets {
        let mut world = World::new(1);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.send(client, &packet);
        assert_eq!(world.take(client), [Got::Disconnect(0x97)], "{packet:?}");
        assert!(world.is_closed(client));
    }
    let mut world = World::new(1);
    let request =
        ConnectRequest { properties: vec![Property::User("k", "v"); 65], ..ConnectRequest::v(Version::V5) };
    assert_eq!(world.try_connect("c", &request).1, Some(Got::ConnAck { present: false, code: 0x97 }));
    let request =
        ConnectRequest { properties: vec![Property::User("k", "v"); 64], ..ConnectRequest::v(Version::V5) };
    world.connect("c", &request);
}

/// A message that is exactly as large as the client's Maximum Packet Size without an alias is
/// delivered without one [MQTT-3.1.2-24] [MQTT-3.1.2-25]. One byte more is not delivered. An
/// existing alias saves the bytes of the topic.
#[test]
fn a_topic_alias_is_left_out_if_the_packet_would_be_too_large() {
    let mut world = World::new(1);
    let properties = vec![Property::MaximumPacketSize(20), Property::TopicAliasMaximum(10)];
    let sub = world.connect("sub", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    world.publish(publisher, "topic", "0123456789", QoS::AtMostOnce, 0);
    world.publish(publisher, "topic", "0123456789+", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub), [message("topic", "0123456789", 0)]);
    assert_eq!(world.shards[0].counters().messages_dropped_too_large, 1);
    // With three bytes less the alias is set, and the topic needs no bytes after that.
    world.publish(publisher, "topic", "0123456", QoS::AtMostOnce, 0);
    world.publish(publisher, "topic", "0123456789+", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub), [message("topic", "0123456", 0), message("", "0123456789+", 0)]);
}

/// A reason string that does not fit is left out of the acknowledgement [MQTT-3.4.2-2]
/// [MQTT-3.5.2-2]; one that fits is not.
#[test]
fn a_reason_string_is_left_out_if_the_packet_would_be_too_large() {
    for (bytes, fits) in [(10, true), (91, true), (92, false), (200, false)] {
        let mut world = World::new(1);
        let properties = vec![Property::MaximumPacketSize(100)];
        let client = world.connect("c", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
        let text = "r".repeat(bytes);
        let refuses = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            call.set(Field::REASON_STRING, 0, &text, "");
            call.set(Field::REASON_CODE, 0x87, "", "");
            call.set(Field::DISPOSITION, 2, "", "");
            Flow::STOP
        });
        mount(&mut world, vec![(HookPoint::MessagePublish, refuses)]);
        for (qos, name, id) in [(QoS::AtLeastOnce, "PUBACK", 1), (QoS::ExactlyOnce, "PUBREC", 2)] {
            world.publish(client, "t", "x", qos, id);
            let raw = world.take_raw(client);
            // Fixed header, identifier, reason code, length of properties, string with identifier
            // and length.
            assert_eq!(raw.len(), if fits { 2 + 2 + 1 + 1 + 3 + bytes } else { 5 }, "{name} {bytes}");
            assert_eq!(raw[4], 0x87, "{name}");
        }
    }
}

/// QoS 2 publishes beyond `awaiting_rel_max`, of a client without a Receive Maximum, wait until a
/// PUBREL makes space.
#[test]
fn a_v3_client_beyond_awaiting_rel_max_waits() {
    for version in [Version::V31, Version::V311] {
        let mut world = World::with(1, |limits| limits.awaiting_rel_max = 3);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "#", QoS::AtMostOnce);
        let publisher = world.connect("pub", &ConnectRequest::v(version));
        for n in 1..=6 {
            world.publish(publisher, "t", &n.to_string(), QoS::ExactlyOnce, n);
        }
        let recs = |from: u16, to: u16| (from..=to).map(|n| Got::Ack("PUBREC", n, 0)).collect::<Vec<_>>();
        assert_eq!(world.take(publisher), recs(1, 3));
        assert_eq!(world.take(sub).len(), 3);
        // A resend of a waiting publish joins it.
        world.publish(publisher, "t", "4", QoS::ExactlyOnce, 4);
        world.publish(publisher, "t", "behind", QoS::AtLeastOnce, 9);
        world.send(publisher, &Packet::PingReq);
        assert_eq!(world.take(publisher), [Got::PingResp]);
        world.ack(publisher, Packet::PubRel, 2);
        assert_eq!(world.take(publisher), [Got::Ack("PUBCOMP", 2, 0), Got::Ack("PUBREC", 4, 0)]);
        for n in [1, 3, 4] {
            world.ack(publisher, Packet::PubRel, n);
        }
        let got = world.take(publisher);
        let expected = [
            Got::Ack("PUBCOMP", 1, 0),
            Got::Ack("PUBREC", 5, 0),
            Got::Ack("PUBCOMP", 3, 0),
            Got::Ack("PUBREC", 6, 0),
            Got::Ack("PUBACK", 9, 0),
            Got::Ack("PUBCOMP", 4, 0),
        ];
        assert_eq!(got, expected);
        let payloads: Vec<Got> = ["4", "5", "6", "behind"].iter().map(|p| message("t", p, 0)).collect();
        assert_eq!(world.take_plain(sub), payloads);
    }
}

/// A publish that waits for PUBREL takes effect when its connection is gone, whether the session
/// ends or not. Nothing is delivered twice.
#[test]
fn a_publish_that_waits_for_pubrel_does_not_keep_a_session_alive() {
    for clean in [true, false] {
        let mut world = World::with(1, |limits| limits.awaiting_rel_max = 1);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "#", QoS::AtMostOnce);
        let request = ConnectRequest { clean, ..ConnectRequest::v(Version::V311) };
        let publisher = world.connect("pub", &request);
        for n in 1..=3 {
            world.publish(publisher, "t", &n.to_string(), QoS::ExactlyOnce, n);
        }
        world.lose(publisher);
        let expected: Vec<Got> = ["1", "2", "3"].iter().map(|p| message("t", p, 0)).collect();
        assert_eq!(world.take_plain(sub), expected);
        assert_eq!(world.shards[0].counters().sessions_count, if clean { 1 } else { 2 });
        let publisher = world.connect("pub", &request);
        for n in 1..=3 {
            world.publish(publisher, "t", &n.to_string(), QoS::ExactlyOnce, n);
        }
        assert_eq!(
            world.take_plain(sub).len(),
            usize::from(clean),
            "the resends of a stored session are known"
        );
    }
}

/// A client may be paused because its session has too many packets waiting, while the PUBREL that
/// would help is among the bytes not read. After a while it is read again, whatever it has sent
/// before the PUBREL, and then waits as before.
#[test]
fn a_v3_client_whose_pubrel_is_unread_is_read_again_after_a_timeout() {
    let mut world = World::with(1, |limits| {
        limits.awaiting_rel_max = 1;
        limits.slots_max = 2;
    });
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 1..=40 {
        world.publish(publisher, "t", &n.to_string(), QoS::ExactlyOnce, n);
    }
    world.ack(publisher, Packet::PubRel, 1);
    assert_eq!(world.take(publisher), [Got::Ack("PUBREC", 1, 0)]);
    assert_eq!(world.reading(publisher), Reading::Paused(Pause::Slots));
    world.pass_ms(4_900);
    assert_eq!(world.take(publisher), []);
    world.pass_ms(200);
    let mut expected: Vec<Got> = (2..=40).map(|n| Got::Ack("PUBREC", n, 0)).collect();
    expected.push(Got::Ack("PUBCOMP", 1, 0));
    assert_eq!(world.take(publisher), expected);
    let payloads: Vec<Got> = (1..=40).map(|n| message("t", &n.to_string(), 0)).collect();
    assert_eq!(world.take_plain(sub), payloads, "each once, in order");
    // Once it has released these, the limit applies again.
    (2..=40).for_each(|n| world.ack(publisher, Packet::PubRel, n));
    world.take(publisher);
    for n in 1..=4 {
        world.publish(publisher, "t", "x", QoS::ExactlyOnce, n);
    }
    assert_eq!(world.take(publisher), [Got::Ack("PUBREC", 1, 0)]);
    assert_eq!(world.reading(publisher), Reading::Paused(Pause::Slots));
    world.pass_ms(4_900);
    assert_eq!(world.take(publisher), []);
    world.pass_ms(200);
    assert_eq!(world.take(publisher), (2..=4).map(|n| Got::Ack("PUBREC", n, 0)).collect::<Vec<_>>());
}

/// After a DISCONNECT no PUBREL can follow: a publish that waits for one takes effect, and the
/// connection ends at once.
#[test]
fn a_disconnect_behind_publishes_that_wait_for_pubrel_ends_the_connection() {
    let mut world = World::with(1, |limits| limits.awaiting_rel_max = 1);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    (1..=3).for_each(|n| world.publish(publisher, "t", &n.to_string(), QoS::ExactlyOnce, n));
    world.disconnect(publisher, ReasonCode::SUCCESS);
    assert!(world.is_closed(publisher));
    let payloads: Vec<Got> = (1..=3).map(|n| message("t", &n.to_string(), 0)).collect();
    assert_eq!(world.take_plain(sub), payloads);
}

/// A connection that was allowed more than `awaiting_rel_max` does not give this to the next one.
#[test]
fn the_next_connection_of_a_session_waits_for_pubrel_too() {
    let mut world = World::with(1, |limits| {
        limits.awaiting_rel_max = 1;
        limits.slots_max = 2;
    });
    let request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
    let publisher = world.connect("pub", &request);
    (1..=4).for_each(|n| world.publish(publisher, "t", "x", QoS::ExactlyOnce, n));
    world.pass_ms(5_100);
    assert_eq!(world.take(publisher).len(), 4);
    world.lose(publisher);
    let publisher = world.connect("pub", &request);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 9);
    assert_eq!(world.take(publisher), []);
    (1..=4).for_each(|n| world.ack(publisher, Packet::PubRel, n));
    assert_eq!(world.take(publisher).last(), Some(&Got::Ack("PUBREC", 9, 0)));
}

/// A Disconnect verdict for a publish of a connection that was taken over never ends the new
/// connection.
#[test]
fn a_disconnect_verdict_never_ends_the_next_connection() {
    let (mut world, subscriber, _) = pair();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later_for("t", &tickets))]);
    let request = ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(100)],
        ..ConnectRequest::v(Version::V5)
    };
    let first = world.connect("c", &request);
    world.publish(first, "t", "x", QoS::AtLeastOnce, 1);
    let second = world.connect("c", &request);
    let mut changes = deny(0x87);
    changes.pop();
    changes.push(crate::hooks::number(Field::DISPOSITION, 3));
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, changes);
    assert!(!world.is_closed(second));
    // The new connection may have resent the publish, and the resend joined the waiting one. Its
    // refusal is then sent like any other.
    assert_eq!((world.take(second), world.take(subscriber)), (vec![Got::Ack("PUBACK", 1, 0x87)], vec![]));
    world.publish(second, "u", "y", QoS::AtLeastOnce, 2);
    assert_eq!(world.take(second), [Got::Ack("PUBACK", 2, 0)]);
}

/// A field, an invalid value, and a word of the reason.
type Impossible = (Field, fn() -> String, &'static str);

/// Invalid changes of a message. Each answer is refused as a whole, as the hook's fault, and
/// reported once with its reason.
const IMPOSSIBLE: [Impossible; 7] = [
    (Field::TOPIC, || "t/".repeat(2_000), "levels"),
    (Field::TOPIC, || "t/#".into(), "# or +"),
    (Field::TOPIC, || "+".into(), "# or +"),
    (Field::TOPIC, String::new, "empty"),
    (Field::TOPIC, || "a\0b".into(), "U+0000"),
    (Field::TOPIC, || "t".repeat(70_000), "65,535 bytes"),
    (Field::PAYLOAD, || "x".repeat((1 << 20) + 1), "packet_bytes_max"),
];

/// A hook that makes an invalid change of a message beside a valid one, and continues.
fn impossible(policy: FaultPolicy, (field, value, _): Impossible) -> Link {
    link(1, 1, policy, move |call: &mut Call<'_>| {
        call.set(Field::QOS, 0, "", "");
        assert_eq!(call.set(field, 0, &value(), ""), Status::INVALID);
        Flow::CONTINUE
    })
}

fn refusals(world: &mut World) -> Vec<(String, String)> {
    let refused = std::mem::take(&mut world.shards[0].outbox().refused);
    refused
        .iter()
        .map(|one| (one.link.as_deref().unwrap_or_default().to_owned(), one.reason.clone()))
        .collect()
}

fn assert_refused_once(world: &mut World, about: &str) {
    let notified = refusals(world);
    assert_eq!(notified.len(), 1, "{notified:?}");
    assert_eq!(notified[0].0, "plugin1.hook");
    assert!(notified[0].1.contains(about), "{notified:?} should speak of {about}");
    assert_eq!(world.shards[0].counters().hook_faults, 1);
    assert_eq!(world.shards[0].counters().hook_changes_refused, 1);
}

#[test]
fn an_invalid_change_undoes_all_changes_of_its_hook() {
    for case in IMPOSSIBLE {
        for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
            let (mut world, sub, publisher) = pair();
            let point = HookPoint::MessagePublish;
            mount(&mut world, vec![(point, impossible(policy, case))]);
            world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
            let denied = policy == FaultPolicy::Deny;
            let expected = if denied { vec![] } else { vec![message("t", "x", 1)] };
            assert_eq!(world.take_plain(sub), expected, "{}", case.2);
            assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, if denied { 0x83 } else { 0 })]);
            assert_refused_once(&mut world, case.2);
            let faults =
                world.shards[0].chains().chain(point).links().map(|(_, stats)| stats.faults).sum::<u64>();
            assert_eq!(faults, 1, "counted for the hook");
        }
    }
}

#[test]
fn invalid_deferred_changes_are_refused() {
    for (field, value, about) in IMPOSSIBLE {
        for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
            let (mut world, sub, publisher) = pair();
            let tickets = DeferredTickets::default();
            let later = Link { policy, ..later_for("t", &tickets) };
            mount(&mut world, vec![(HookPoint::MessagePublish, later)]);
            world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
            let change = grapnel_engine::shard::OwnedChange {
                bytes: value().into(),
                ..crate::hooks::number(field, 0)
            };
            complete(
                &mut world,
                tickets.ticket(0),
                Flow::CONTINUE,
                vec![crate::hooks::number(Field::QOS, 0), change],
            );
            let denied = policy == FaultPolicy::Deny;
            let expected = if denied { vec![] } else { vec![message("t", "x", 1)] };
            assert_eq!(world.take_plain(sub), expected, "{about}");
            assert_refused_once(&mut world, about);
        }
    }
}

/// As at every other point, an invalid answer is refused as a whole and reported to the log.
#[test]
fn an_invalid_answer_to_a_publish_is_refused_and_logged() {
    let (mut world, sub, publisher) = pair();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later_for("t", &tickets))]);
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    let changes = vec![crate::hooks::number(Field::RETAIN, 1), crate::hooks::number(Field::QOS, 3)];
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, changes);
    assert_eq!(world.take_plain(sub), [message("t", "x", 1)]);
    let notified = refusals(&mut world);
    assert_eq!(notified, [("plugin1.hook".to_owned(), "change 1, of QOS, is INVALID".to_owned())]);
    assert_eq!(world.shards[0].counters().hook_answers_refused, 1);
}

#[test]
fn invalid_changes_are_refused_at_delivery() {
    for case in IMPOSSIBLE {
        for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
            let (mut world, sub, publisher) = pair();
            mount(&mut world, vec![(HookPoint::MessageDelivered, impossible(policy, case))]);
            world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
            let expected = if policy == FaultPolicy::Deny { vec![] } else { vec![message("t", "x", 1)] };
            assert_eq!(world.take_plain(sub), expected, "{}", case.2);
            assert_refused_once(&mut world, case.2);
        }
    }
}

/// A topic and a payload at the limits are valid. A hook that replaces a refused value by a valid
/// one has no fault. Faults of this kind are reported once a second, with their number, and do not
/// trip the plugin, because clients may have chosen the topic.
#[test]
fn recorded_refusals_of_a_call_are_limited() {
    let (mut world, sub, publisher) = pair();
    let topics = ["t/".repeat(127) + "t", "t".repeat(4096)];
    let wanted = topics.clone();
    let hook = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        let payload = call.payload();
        match payload.as_str() {
            "deep" => assert_eq!(call.set(Field::TOPIC, 0, &wanted[0], ""), Status::OK),
            "long" => assert_eq!(call.set(Field::TOPIC, 0, &wanted[1], ""), Status::OK),
            "large" => assert_eq!(call.set(Field::PAYLOAD, 0, &"x".repeat(1 << 20), ""), Status::OK),
            "second" => {
                assert_eq!(call.set(Field::TOPIC, 0, "t/#", ""), Status::INVALID);
                assert_eq!(call.set(Field::TOPIC, 0, "t/other", ""), Status::OK);
            }
            _ => assert_eq!(call.set(Field::TOPIC, 0, "", ""), Status::INVALID),
        }
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::MessagePublish, hook)]);
    for payload in ["deep", "long", "large", "second"] {
        world.publish(publisher, "t", payload, QoS::AtMostOnce, 0);
    }
    let got = world.take_plain(sub);
    assert_eq!(got[0], message(&topics[0], "deep", 0));
    assert_eq!(got[1], message(&topics[1], "long", 0));
    assert_eq!(got[3], message("t/other", "second", 0));
    assert_eq!((got.len(), refusals(&mut world)), (4, vec![]));
    for _ in 0..300 {
        world.publish(publisher, "t", "bad", QoS::AtMostOnce, 0);
    }
    assert_eq!(refusals(&mut world).len(), 1);
    world.pass_ms(1_000);
    world.publish(publisher, "t", "bad", QoS::AtMostOnce, 0);
    let notified = refusals(&mut world);
    assert_eq!(notified.len(), 1);
    assert!(notified[0].1.ends_with("299 more were refused since the last line"), "{notified:?}");
    assert!(world.shards[0].outbox().tripped.is_empty());
    assert_eq!(world.shards[0].counters().hook_faults, 301);
    assert_eq!(world.take(sub).len(), 301);
}

/// A hook that reports a fault after a refused change is not tripped for it either. A valid value
/// for one field does not repair another.
#[test]
fn a_refused_change_stays_refused_until_a_valid_one_replaces_it() {
    let (mut world, sub, publisher) = {
        let mut world = World::with(1, |limits| limits.breaker_faults_max = 2);
        let (sub, publisher) = (
            world.connect("sub", &ConnectRequest::v(Version::V5)),
            world.connect("pub", &ConnectRequest::v(Version::V5)),
        );
        world.subscribe(sub, "#", QoS::AtLeastOnce);
        (world, sub, publisher)
    };
    let hook = link(1, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
        let large = "x".repeat((1 << 20) + 1);
        assert_eq!(call.set(Field::TOPIC, 0, "t/#", ""), Status::INVALID);
        match call.payload().as_str() {
            "fails" => return Flow::FAULT,
            "mends the other" => {
                assert_eq!(call.set(Field::PAYLOAD, 0, &large, ""), Status::INVALID);
                assert_eq!(call.set(Field::PAYLOAD, 0, "small", ""), Status::OK);
            }
            _ => {
                assert_eq!(call.set(Field::PAYLOAD, 0, &large, ""), Status::INVALID);
                assert_eq!(call.set(Field::TOPIC, 0, "t/other", ""), Status::OK);
                assert_eq!(call.set(Field::PAYLOAD, 0, "small", ""), Status::OK);
            }
        }
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::MessagePublish, hook)]);
    for payload in ["fails", "mends the other"] {
        for _ in 0..4 {
            world.publish(publisher, "t", payload, QoS::AtMostOnce, 0);
            assert_eq!(world.take_plain(sub), [message("t", payload, 0)]);
        }
    }
    world.publish(publisher, "t", "mends both", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(sub), [message("t/other", "small", 0)]);
    assert_eq!((world.shards[0].counters().hook_faults, refusals(&mut world).len()), (8, 1));
    assert_eq!(world.shards[0].outbox().tripped, []);
}

/// A panic of a hook counts as such, also if one of its changes was refused, since clients may have
/// caused the refusal.
#[test]
fn a_panic_trips_a_plugin_whose_change_was_refused() {
    for (flow, is_tripped) in [(Flow::FAULT, false), (Flow(u32::MAX), true)] {
        let mut world = World::with(1, |limits| limits.breaker_faults_max = 2);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        let hook = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            assert_eq!(call.set(Field::TOPIC, 0, "t/#", ""), Status::INVALID);
            flow
        });
        mount(&mut world, vec![(HookPoint::MessagePublish, hook)]);
        for _ in 0..2 {
            world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        }
        assert_eq!(world.shards[0].outbox().tripped.len(), usize::from(is_tripped), "{flow:?}");
        assert_eq!(world.shards[0].counters().hook_faults, 2, "{flow:?}");
    }
}

/// A message that a hook adds is checked in the same way, and an invalid one discards the hook's
/// other changes.
#[test]
fn an_invalid_added_message_undoes_all_changes_of_its_hook() {
    let (mut world, sub, publisher) = pair();
    let hook = link(1, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
        call.set(Field::TOPIC, 0, "changed", "");
        assert_eq!(crate::commands::add(call, "fine", "x"), Status::OK);
        assert_eq!(crate::commands::add(call, "a/+", "x"), Status::INVALID);
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::MessagePublish, hook)]);
    world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(sub), [message("t", "x", 0)]);
    assert_refused_once(&mut world, "a message it adds");
}
