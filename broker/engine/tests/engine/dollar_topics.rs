//! Topics that begin with `$` are the server's (MQTT 5.0 and 3.1.1, section 4.7.2): "the Server
//! SHOULD prevent Clients from using such Topic Names to exchange messages with other Clients"
//! [MQTT-4.7.2-1].

use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_engine::packet::{Packet, Property, QoS, Version};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, later};
use crate::hooks::{Call, complete, link, mount, number};
use crate::world::{ClientId, ConnectRequest, Got, World, message};

const PUBLISH: HookPoint = HookPoint::MessagePublish;

/// A shard with a subscriber to everything, `$` included, and a publisher.
fn world(version: Version) -> (World, ClientId, ClientId) {
    world_with(version, false)
}

fn world_with(version: Version, allowed: bool) -> (World, ClientId, ClientId) {
    let mut world = World::with(1, |limits| limits.choices.allow_dollar_topics = allowed);
    let subscriber = world.connect("subscriber", &ConnectRequest::v(Version::V5));
    for filter in ["#", "$SYS/#", "$other/#", "$/#"] {
        world.subscribe(subscriber, filter, QoS::AtLeastOnce);
    }
    let publisher = world.connect("publisher", &ConnectRequest::v(version));
    (world, subscriber, publisher)
}

fn refused(world: &mut World) -> u64 {
    world.shards[0].counters().packets_publish_dollar_error
}

/// Refused with 0x87 if the version has codes, otherwise acknowledged as usual. The publish is
/// counted, not delivered, and not stored.
#[test]
fn a_client_may_not_publish_to_topics_that_begin_with_a_dollar() {
    for version in [Version::V31, Version::V311, Version::V5] {
        for topic in ["$SYS/x", "$other/x", "$", "$share/g/t"] {
            for retain in [false, true] {
                let (mut world, subscriber, publisher) = world(version);
                let code = if version.is_v5() { 0x87 } else { 0 };
                world.publish_with(publisher, topic, "x", QoS::AtMostOnce, 0, retain, &[]);
                assert_eq!(world.take(publisher), [], "QoS 0 has no answer");
                world.publish_with(publisher, topic, "x", QoS::AtLeastOnce, 1, retain, &[]);
                assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, code)], "{version:?} {topic}");
                world.publish_with(publisher, topic, "x", QoS::ExactlyOnce, 2, retain, &[]);
                assert_eq!(world.take(publisher), [Got::Ack("PUBREC", 2, code)], "{version:?} {topic}");
                if !version.is_v5() {
                    // 3.x cannot refuse, so the exchange goes on.
                    world.ack(publisher, Packet::PubRel, 2);
                    assert_eq!(world.take(publisher), [Got::Ack("PUBCOMP", 2, 0)]);
                }
                assert_eq!(world.take(subscriber), []);
                let counters = *world.shards[0].counters();
                assert_eq!((counters.packets_publish_dollar_error, counters.messages_retained_count), (3, 0));
                world.publish(publisher, "x/$SYS", "x", QoS::AtLeastOnce, 3);
                assert_eq!(
                    world.take_plain(subscriber),
                    [message("x/$SYS", "x", 1)],
                    "only the first letter counts"
                );
            }
        }
    }
}

/// The topic of an alias is treated the same way [MQTT-3.3.2-12], and so is a publish that waits
/// behind another.
#[test]
fn a_dollar_topic_is_refused_also_by_an_alias_and_behind_a_waiting_publish() {
    let (mut world, subscriber, publisher) = world(Version::V5);
    let alias = [Property::TopicAlias(1)];
    world.publish_with(publisher, "$other/x", "1", QoS::AtLeastOnce, 1, false, &alias);
    world.publish_with(publisher, "", "2", QoS::AtLeastOnce, 2, false, &alias);
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0x87), Got::Ack("PUBACK", 2, 0x87)]);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(PUBLISH, later(1, 0, FaultPolicy::Deny, &tickets))]);
    world.publish(publisher, "a", "3", QoS::AtLeastOnce, 3);
    world.publish(publisher, "$other/x", "4", QoS::AtLeastOnce, 4);
    for ticket in 0..2 {
        complete(&mut world, tickets.ticket(ticket), Flow::CONTINUE, vec![]);
    }
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 3, 0), Got::Ack("PUBACK", 4, 0x87)]);
    assert_eq!((world.take_plain(subscriber), refused(&mut world)), (vec![message("a", "3", 1)], 3));
}

/// A topic below `$` is allowed if a plugin accepts it, at once or later, or if a plugin gives it
/// to a message.
#[test]
fn a_dollar_topic_that_a_plugin_accepts_is_allowed() {
    for defers in [false, true] {
        let (mut world, subscriber, publisher) = world(Version::V5);
        let tickets = DeferredTickets::default();
        let takes = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
            match call.topic() {
                "$delayed/1/a" => call.set(Field::DISPOSITION, 1, "", ""),
                "$other/in" => call.set(Field::TOPIC, 0, "in", ""),
                "out" => call.set(Field::TOPIC, 0, "$SYS/out", ""),
                _ => return Flow::CONTINUE,
            };
            Flow::STOP
        });
        let hook = if defers { later(1, 0, FaultPolicy::Deny, &tickets) } else { takes };
        mount(&mut world, vec![(PUBLISH, hook)]);
        let topic = |name: &'static str| grapnel_engine::shard::OwnedChange {
            bytes: name.into(),
            ..number(Field::TOPIC, 0)
        };
        let answers = [
            ("$delayed/1/a", number(Field::DISPOSITION, 1)),
            ("$other/in", topic("in")),
            ("out", topic("$SYS/out")),
        ];
        for (at, (published, answer)) in answers.into_iter().enumerate() {
            world.publish(publisher, published, "x", QoS::AtLeastOnce, at as u16 + 1);
            if defers {
                complete(&mut world, tickets.ticket(at), Flow::STOP, vec![answer]);
            }
        }
        let acks: Vec<Got> = (1..=3).map(|id| Got::Ack("PUBACK", id, 0)).collect();
        assert_eq!(world.take(publisher), acks, "deferred: {defers}");
        let expected = [message("in", "x", 1), message("$SYS/out", "x", 1)];
        assert_eq!((world.take_plain(subscriber), refused(&mut world)), (expected.to_vec(), 0));
    }
}

/// A will is a message of its client [MQTT-3.1.2-8]; a plugin's own publish is not.
#[test]
fn a_will_to_a_dollar_topic_is_refused_and_a_message_of_a_plugin_is_not() {
    let (mut world, subscriber, _) = world(Version::V5);
    for (topic, expected) in [("$SYS/will", vec![]), ("will", vec![message("will", "gone", 0)])] {
        let will = Some((topic, "gone", QoS::AtMostOnce, false));
        let client = world.connect("c", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
        world.lose(client);
        assert_eq!(world.take_plain(subscriber), expected);
    }
    assert_eq!(refused(&mut world), 1);
    world.shards[0].command(crate::commands::publish(7, "$SYS/own", "x", 0));
    world.drive();
    assert_eq!(world.take_plain(subscriber), [message("$SYS/own", "x", 0)]);
    assert_eq!(refused(&mut world), 1);
}

/// `allow_dollar_topics` allows them to clients; [MQTT-4.7.2-1] itself still applies.
#[test]
fn allow_dollar_topics_allows_dollar_topics() {
    let (mut world, subscriber, publisher) = world_with(Version::V5, true);
    world.publish(publisher, "$other/x", "x", QoS::AtLeastOnce, 1);
    world.publish(publisher, "$unsubscribed/x", "x", QoS::AtLeastOnce, 2);
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0), Got::Ack("PUBACK", 2, 0x10)]);
    assert_eq!(world.take_plain(subscriber), [message("$other/x", "x", 1)]);
}
