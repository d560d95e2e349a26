//! Retained messages for a new subscriber (MQTT 5.0 section 3.3.1.3): all of them, each once, none
//! after a newer one, for any number of shards, message size and client window.

use grapnel_engine::packet::{
    Filters, Packet, Properties, QoS, RetainHandling, Subscribe, SubscriptionOptions, Version,
    push_subscription,
};

use crate::world::*;

fn retain(world: &mut World, publisher: ClientId, topic: &str, payload: &str) {
    world.publish_with(publisher, topic, payload, QoS::AtMostOnce, 0, true, &[]);
}

/// A SUBSCRIBE with several filters.
fn subscribe_all(world: &mut World, client: ClientId, filters: &[&str], qos: QoS) {
    let mut payload = Vec::new();
    for filter in filters {
        push_subscription(&mut payload, filter, SubscriptionOptions::of_qos(qos));
    }
    let filters = Filters::from_encoded(&payload);
    let subscribe = Subscribe { packet_id: id(7), properties: Properties::default(), filters };
    world.send(client, &Packet::Subscribe(subscribe));
}

/// Everything that a client receives while it acknowledges each message, until nothing more
/// arrives.
fn read_all(world: &mut World, client: ClientId) -> Vec<Got> {
    let mut all = Vec::new();
    loop {
        let got = world.take(client);
        if got.is_empty() {
            return all;
        }
        for one in &got {
            match one {
                Got::Publish { qos: 1, id, .. } => world.ack(client, Packet::PubAck, *id),
                Got::Publish { qos: 2, id, .. } => world.ack(client, Packet::PubRec, *id),
                Got::Ack("PUBREL", id, _) => world.ack(client, Packet::PubComp, *id),
                _ => {}
            }
        }
        all.extend(got);
    }
}

fn topics(got: &[Got]) -> Vec<String> {
    let topics = got.iter().filter_map(|got| match got {
        Got::Publish { topic, .. } => Some(topic.clone()),
        _ => None,
    });
    topics.collect()
}

fn distinct(got: &[Got]) -> usize {
    topics(got).into_iter().collect::<std::collections::HashSet<_>>().len()
}

fn stored(topic: &str, payload: &str) -> Got {
    match message(topic, payload, 0) {
        Got::Publish { topic, payload, qos, dup, id, ids, .. } => {
            Got::Publish { topic, payload, qos, retain: true, dup, id, ids }
        }
        other => other,
    }
}

#[test]
fn all_of_many_retained_messages_arrive_with_any_number_of_shards() {
    for shards in [1, 2, 4, 8] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut world = World::new(shards);
            let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
            for n in 0..4000 {
                world.publish_with(publisher, &format!("r/{n}"), "v", qos, 1, true, &[]);
                world.take(publisher);
                world.ack(publisher, Packet::PubRel, 1);
            }
            let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
            subscribe_all(&mut world, sub, &["r/#"], qos);
            let got = topics(&read_all(&mut world, sub));
            assert_eq!(got.len(), 4000, "{shards} shards, QoS {}", qos.as_u8());
            let distinct: std::collections::HashSet<_> = got.into_iter().collect();
            assert_eq!(distinct.len(), 4000);
        }
    }
}

#[test]
fn the_retained_messages_of_six_filters_of_one_subscribe_all_arrive() {
    for shards in [1, 2, 4, 8] {
        let mut world = World::new(shards);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        for n in 0..6000 {
            world.publish_with(publisher, &format!("{}/{n}", n % 6), "v", QoS::AtLeastOnce, 1, true, &[]);
        }
        let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
        let filters = ["0/#", "1/+", "2/#", "3/+", "4/#", "5/+"];
        subscribe_all(&mut world, sub, &filters, QoS::AtLeastOnce);
        let got = read_all(&mut world, sub);
        assert_eq!((topics(&got).len(), distinct(&got)), (6000, 6000), "{shards} shards");
    }
}

#[test]
fn large_retained_messages_all_arrive_at_a_reading_client() {
    for (shards, count, bytes) in [(1, 3, 900_000), (2, 3, 900_000), (1, 40, 200_000), (4, 40, 200_000)] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let mut world = World::new(shards);
            let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
            let payload = "x".repeat(bytes);
            for n in 0..count {
                world.publish_with(publisher, &format!("r/{n}"), &payload, qos, 1, true, &[]);
            }
            let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
            subscribe_all(&mut world, sub, &["r/#"], qos);
            let got = read_all(&mut world, sub);
            assert_eq!(topics(&got).len(), count, "{count} of {bytes} bytes, QoS {}", qos.as_u8());
        }
    }
}

#[test]
fn three_hundred_retained_messages_of_20_kb_arrive_at_a_reading_client() {
    for shards in [1, 2, 8] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let mut world = World::new(shards);
            let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
            let payload = "x".repeat(20_000);
            for n in 0..300 {
                world.publish_with(publisher, &format!("r/{n}"), &payload, qos, 1, true, &[]);
            }
            let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
            subscribe_all(&mut world, sub, &["#"], qos);
            let got = read_all(&mut world, sub);
            assert_eq!(topics(&got).len(), 300, "{shards} shards, QoS {}", qos.as_u8());
        }
    }
}

/// A live message without RETAIN replaces no retained one [MQTT-3.3.1-8]: the retained one is still
/// delivered, and first.
#[test]
fn a_new_message_without_retain_does_not_replace_the_retained_one() {
    let mut world = World::new(1);
    let one = world.connect("one", &ConnectRequest::v(Version::V5));
    retain(&mut world, one, "r", "r");
    world.send_bytes(one, &[0x82, 7, 0, 1, 0, 0, 1, b'r', 0, 0x30, 5, 0, 1, b'r', 0, b'l']);
    assert_eq!(world.take(one), [Got::SubAck(1, vec![0]), stored("r", "r"), message("r", "l", 0)]);
}

/// The same where the retained message belongs to another shard: both are delivered, in any order.
#[test]
fn a_new_message_without_retain_does_not_replace_a_retained_one_of_another_shard() {
    for n in 0..16 {
        let topic = format!("r/{n}");
        let mut world = World::new(2);
        let one = world.connect("one", &ConnectRequest::v(Version::V311));
        let two = world.connect("two", &ConnectRequest::v(Version::V311));
        retain(&mut world, two, &topic, "r");
        world.lanes_open = false;
        world.send_subscribe(one, &topic, SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
        world.publish(one, &topic, "l", QoS::AtMostOnce, 0);
        world.lanes_open = true;
        world.drive();
        let got = world.take(one);
        assert!(got.contains(&stored(&topic, "r")), "{topic}: {got:?}");
        assert!(got.contains(&message(&topic, "l", 0)), "{topic}: {got:?}");
    }
}

/// A retained message that is published during a SUBSCRIBE is delivered once, live or retained
/// [4.3.3].
#[test]
fn a_retained_message_published_during_a_subscribe_arrives_once() {
    let mut kinds = [0, 0];
    for shards in [1, 2, 3, 8] {
        for seed in 0..400_u64 {
            let mut world = World::new(shards);
            let publisher = world.connect(&format!("p{}", seed % 7), &ConnectRequest::v(Version::V5));
            let sub = world.connect(&format!("s{}", seed % 5), &ConnectRequest::v(Version::V5));
            let (topic, filter) = (format!("r/{}", seed % 11), ["r/+", "#", "r/#"][seed as usize % 3]);
            let filter = if seed % 4 == 0 { &topic[..] } else { filter };
            world.lanes_open = false;
            let options = SubscriptionOptions::of_qos(QoS::ExactlyOnce);
            if seed % 2 == 0 {
                world.send_subscribe(sub, filter, options, None);
                world.publish_with(publisher, &topic, "v", QoS::ExactlyOnce, 1, true, &[]);
            } else {
                world.publish_with(publisher, &topic, "v", QoS::ExactlyOnce, 1, true, &[]);
                world.send_subscribe(sub, filter, options, None);
            }
            world.lanes_open = true;
            world.drive_shuffled(seed + 1);
            let got = read_all(&mut world, sub);
            assert_eq!(topics(&got).len(), 1, "{shards} shards, seed {seed}: {got:?}");
            let live = got.iter().any(|got| matches!(got, Got::Publish { retain: false, .. }));
            kinds[usize::from(live)] += 1;
        }
    }
    assert!(kinds[0] > 50 && kinds[1] > 50, "both ways are seen: {kinds:?}");
}

/// The last message of a topic that a client receives is the last one published, whenever it
/// subscribed.
#[test]
fn no_old_value_arrives_after_a_new_one() {
    for shards in [1, 2, 3, 8] {
        for seed in 0..300_u64 {
            let mut world = World::new(shards);
            let publisher = world.connect(&format!("p{}", seed % 7), &ConnectRequest::v(Version::V5));
            let sub = world.connect(&format!("s{}", seed % 5), &ConnectRequest::v(Version::V5));
            for n in 0..20 {
                retain(&mut world, publisher, &format!("r/{n}"), "0");
            }
            world.lanes_open = false;
            world.send_subscribe(sub, "r/#", SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
            for value in 1..4 {
                for n in 0..5 {
                    retain(&mut world, publisher, &format!("r/{n}"), &value.to_string());
                }
            }
            world.lanes_open = true;
            world.drive_shuffled(seed + 1);
            let mut last = std::collections::HashMap::new();
            for got in read_all(&mut world, sub) {
                if let Got::Publish { topic, payload, .. } = got {
                    let before = last.insert(topic.clone(), payload.clone());
                    assert!(before < Some(payload), "{shards} shards, seed {seed}: {topic} goes back");
                }
            }
            assert_eq!(last.len(), 20, "{shards} shards, seed {seed}");
            for n in 0..5 {
                assert_eq!(last[&format!("r/{n}")], b"3", "{shards} shards, seed {seed}");
            }
        }
    }
}

/// After UNSUBACK only messages in flight are delivered [MQTT-3.10.4-2] [MQTT-3.10.4-3].
#[test]
fn after_an_unsubscribe_only_messages_in_flight_arrive() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        for n in 0..3000 {
            world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, 1, true, &[]);
        }
        let properties = vec![grapnel_engine::packet::Property::ReceiveMaximum(5)];
        let sub = world.connect("sub", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
        subscribe_all(&mut world, sub, &["r/#"], QoS::AtLeastOnce);
        let before = world.take(sub);
        assert_eq!(topics(&before).len(), 5, "its Receive Maximum");
        world.unsubscribe(sub, "r/#");
        assert_eq!(world.take(sub), [Got::UnsubAck(8, vec![0])]);
        for got in &before {
            if let Got::Publish { id, .. } = got {
                world.ack(sub, Packet::PubAck, *id);
            }
        }
        assert_eq!(read_all(&mut world, sub), [], "{shards} shards");
    }
}

/// The same where live messages are in the queue before retained ones.
#[test]
fn after_an_unsubscribe_no_retained_message_arrives() {
    let mut world = World::new(2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 0..300 {
        world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, 1, true, &[]);
    }
    let properties = vec![grapnel_engine::packet::Property::ReceiveMaximum(5)];
    let sub = world.connect("sub", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
    subscribe_all(&mut world, sub, &["live"], QoS::AtLeastOnce);
    for _ in 0..20 {
        world.publish(publisher, "live", "l", QoS::AtLeastOnce, 1);
    }
    subscribe_all(&mut world, sub, &["r/#"], QoS::AtLeastOnce);
    world.unsubscribe(sub, "r/#");
    let got = topics(&read_all(&mut world, sub));
    assert_eq!(got, vec!["live"; 20]);
}

#[test]
fn a_subscriber_whose_queue_never_empties_gets_its_retained_messages() {
    let mut world = World::new(2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 0..100 {
        world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, 1, true, &[]);
    }
    let properties = vec![grapnel_engine::packet::Property::ReceiveMaximum(2)];
    let sub = world.connect("sub", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
    subscribe_all(&mut world, sub, &["live"], QoS::AtLeastOnce);
    for _ in 0..100 {
        world.publish(publisher, "live", "l", QoS::AtLeastOnce, 1);
    }
    subscribe_all(&mut world, sub, &["r/#"], QoS::AtLeastOnce);
    let (mut retained, mut rounds) = (0, 0);
    while retained < 100 {
        rounds += 1;
        assert!(rounds < 3000, "{retained} of 100 came");
        for got in world.take(sub) {
            let Got::Publish { topic, id, .. } = got else { continue };
            retained += usize::from(topic != "live");
            world.publish(publisher, "live", "l", QoS::AtLeastOnce, 1);
            world.ack(sub, Packet::PubAck, id);
        }
    }
}

/// If a queue has space, but not for the next stored message, that message is not offered again and
/// again.
#[test]
fn a_client_that_does_not_acknowledge_causes_no_work() {
    for shards in [1, 2] {
        let mut world = World::with(shards, |limits| {
            limits.session_queue_bytes_max = 4096;
            limits.inflight_max = 1;
        });
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        for n in 0..4 {
            let topic = format!("r/{n}");
            world.publish_with(publisher, &topic, &"v".repeat(3000), QoS::AtLeastOnce, 1, true, &[]);
        }
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "live", QoS::AtLeastOnce);
        for id in 1..3 {
            world.publish(publisher, "live", &"l".repeat(2000), QoS::AtLeastOnce, id);
        }
        let options = SubscriptionOptions::from_byte(1).expect("QoS 1");
        world.send_subscribe(sub, "r/#", options, None);
        world.drive();
        let before = world.work_units();
        world.pass_ms(1000);
        let spent = world.work_units() - before;
        assert!(spent < 100, "{shards} shards spent {spent} units on a client that waits");
        let (mut count, mut rounds) = (0, 0);
        while count < 6 {
            rounds += 1;
            assert!(rounds < 100, "{count} of 6 came");
            for got in world.take(sub) {
                let Got::Publish { id, .. } = got else { continue };
                count += 1;
                world.ack(sub, Packet::PubAck, id);
            }
        }
    }
}

/// The readers of a session continue after its connection has ended.
#[test]
fn sending_retained_messages_continues_after_a_resume() {
    for shards in [1, 2, 4] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let mut world = World::new(shards);
            let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
            for n in 0..900 {
                world.publish_with(publisher, &format!("r/{n}"), &"v".repeat(4000), qos, 1, true, &[]);
            }
            let request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
            let sub = world.connect("sub", &request);
            subscribe_all(&mut world, sub, &["r/#"], QoS::AtLeastOnce);
            let mut got = std::collections::HashSet::new();
            for _ in 0..10 {
                for one in world.take(sub) {
                    if let Got::Publish { topic, qos, id, .. } = one {
                        got.insert(topic);
                        if qos == 1 {
                            world.ack(sub, Packet::PubAck, id);
                        }
                    }
                }
            }
            world.lose(sub);
            world.pass_ms(5_000);
            let sub = world.connect("sub", &request);
            got.extend(topics(&read_all(&mut world, sub)));
            assert_eq!(got.len(), 900, "{shards} shards, QoS {}", qos.as_u8());
        }
    }
}

/// The connection may end while a SUBSCRIBE waits for another shard, for the barrier or for the
/// marks. The subscription is in force, so the session receives the retained messages when it is
/// resumed, before or after those arrive.
#[test]
fn retained_messages_arrive_after_a_resume_if_the_subscribe_was_waiting() {
    for n in 0..8 {
        let (known, back_early, stays) = (n & 1 > 0, n & 2 > 0, n & 4 > 0);
        let mut world = World::new(2);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        for n in 0..40 {
            world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, 1, true, &[]);
        }
        let request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
        let mut sub = world.connect("sub", &request);
        if known {
            // It has passed the barrier and waits for the marks alone.
            let first = world.connect_at(world.shard_of(sub), "f", &ConnectRequest::v(Version::V311));
            world.subscribe(first, "r/#", QoS::AtMostOnce);
        }
        world.lanes_open = false;
        world.send_subscribe(sub, "r/#", SubscriptionOptions::of_qos(QoS::AtLeastOnce), None);
        assert_eq!(world.take(sub), []);
        world.lose(sub);
        // The session ends with its next connection, or not.
        let again = ConnectRequest {
            clean: false,
            ..ConnectRequest::v(if stays { Version::V311 } else { Version::V5 })
        };
        if back_early {
            sub = world.connect("sub", &again);
            assert_eq!(world.take(sub), []);
        }
        world.lanes_open = true;
        world.drive();
        if !back_early {
            sub = world.connect("sub", &again);
        }
        let got = read_all(&mut world, sub);
        assert_eq!((topics(&got).len(), distinct(&got)), (40, 40), "{known} {back_early} {stays}: {got:?}");
    }
}

/// A message retained while its subscriber is away is delivered once, live or from the store.
#[test]
fn a_message_retained_after_an_interrupted_subscribe_is_delivered_once() {
    for shards in [1, 2, 4] {
        let mut world = World::new(shards);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        let put = |world: &mut World, n: usize, payload: &str| {
            world.publish_with(publisher, &format!("r/{n}"), payload, QoS::AtLeastOnce, 1, true, &[]);
        };
        (0..20).for_each(|n| put(&mut world, n, "old"));
        let request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
        let sub = world.connect("sub", &request);
        world.lanes_open = false;
        world.send_subscribe(sub, "r/#", SubscriptionOptions::of_qos(QoS::AtLeastOnce), None);
        world.lose(sub);
        world.lanes_open = true;
        (10..30).for_each(|n| put(&mut world, n, "new"));
        let sub = world.connect("sub", &request);
        let got = read_all(&mut world, sub);
        let of = |n: usize| {
            let topic = format!("r/{n}");
            let payloads = got.iter().filter_map(|got| match got {
                Got::Publish { topic: of, payload, .. } if *of == topic => Some(payload.clone()),
                _ => None,
            });
            payloads.collect::<Vec<_>>()
        };
        for n in 0..30 {
            let last = if n < 10 { "old" } else { "new" };
            assert_eq!(of(n).last().map(Vec::as_slice), Some(last.as_bytes()), "r/{n} on {shards} shards");
            assert!(of(n).iter().filter(|payload| **payload == last.as_bytes()).count() == 1, "r/{n}");
        }
    }
}

/// An interrupted SUBSCRIBE that other shards do not answer in time is taken back, as with a
/// connected client. If its session has ended, it does not wait.
#[test]
fn an_interrupted_subscribe_does_not_wait_forever() {
    for (clean, again) in [(false, false), (false, true), (true, false)] {
        let mut world = World::new(2);
        let request = ConnectRequest { clean, ..ConnectRequest::v(Version::V311) };
        let sub = world.connect("sub", &request);
        let home = world.shard_of(sub);
        world.lanes_open = false;
        world.send_subscribe(sub, "r/#", SubscriptionOptions::of_qos(QoS::AtLeastOnce), None);
        world.lose(sub);
        let counts = |world: &mut World| {
            let counters = world.shards[home].counters();
            (counters.sessions_count, counters.subscriptions_count)
        };
        if clean {
            assert_eq!(counts(&mut world), (0, 0));
            continue;
        }
        assert_eq!(counts(&mut world), (1, 1));
        if again {
            // Another one without a session that can be resumed.
            world.connect("sub", &ConnectRequest::v(Version::V311));
            world.drive();
            assert_eq!(counts(&mut world), (1, 0));
            continue;
        }
        world.pass_ms(5_100);
        assert_eq!(counts(&mut world), (1, 0));
    }
}

#[test]
fn a_message_that_a_full_store_refuses_is_still_delivered() {
    for shards in [1, 2] {
        for version in [Version::V311, Version::V5] {
            let mut world = World::with(shards, |limits| limits.retained_messages_max = 2);
            let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
            world.subscribe(sub, "#", QoS::AtLeastOnce);
            let publisher = world.connect("pub", &ConnectRequest::v(version));
            let mut codes = Vec::new();
            for n in 0..8 {
                world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, n + 1, true, &[]);
                match &world.take(publisher)[..] {
                    [Got::Ack("PUBACK", _, code)] => codes.push(*code),
                    other => panic!("one PUBACK, not {other:?}"),
                }
            }
            let stored: u64 = (0..shards).map(|n| world.shards[n].counters().messages_retained_count).sum();
            assert_eq!(topics(&read_all(&mut world, sub)).len(), 8, "all are delivered live");
            let refused = 8 - stored as usize;
            assert!(refused > 0);
            let notified = codes.iter().filter(|code| **code == 0x97).count();
            assert_eq!(notified, if version == Version::V5 { refused } else { 0 }, "{codes:?}");
            assert_eq!(codes.iter().filter(|code| **code == 0).count(), 8 - notified);
        }
    }
}

/// A subscription that is replaced stays in force meanwhile [MQTT-3.8.4-3]; its retained messages
/// are sent again.
#[test]
fn a_subscription_replaced_during_its_subscribe_loses_no_message() {
    for seed in 0..100_u64 {
        let mut world = World::new(3);
        let publisher = world.connect(&format!("p{}", seed % 7), &ConnectRequest::v(Version::V5));
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "r", QoS::ExactlyOnce);
        world.lanes_open = false;
        world.send_subscribe(sub, "r", SubscriptionOptions::of_qos(QoS::ExactlyOnce), None);
        for n in 1..4_u16 {
            world.publish_with(publisher, "r", &n.to_string(), QoS::ExactlyOnce, n, true, &[]);
        }
        world.lanes_open = true;
        world.drive_shuffled(seed + 1);
        let got = read_all(&mut world, sub);
        let live: Vec<_> = got
            .iter()
            .filter_map(|got| match got {
                Got::Publish { retain: false, payload, .. } => Some(payload.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(live, [b"1", b"2", b"3"], "seed {seed}: {got:?}");
    }
}

#[test]
fn a_subscription_without_retained_messages_gets_the_live_one_once() {
    for seed in 0..60_u64 {
        let mut world = World::new(2);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        retain(&mut world, publisher, "r", "old");
        world.lanes_open = false;
        let options = SubscriptionOptions {
            retain_handling: RetainHandling::DoNotSend,
            ..SubscriptionOptions::of_qos(QoS::AtMostOnce)
        };
        world.send_subscribe(sub, "r", options, None);
        world.lanes_open = true;
        world.drive_shuffled(seed + 1);
        retain(&mut world, publisher, "r", "new");
        assert_eq!(world.take(sub), [Got::SubAck(7, vec![0]), message("r", "new", 0)]);
    }
}

/// A session whose subscription comes and goes, with lost connections and small windows, while
/// retained messages of six topics change. The values of a topic only rise within a subscription,
/// and the last one is delivered in the end.
#[test]
fn the_last_retained_value_is_delivered_last_in_all_cases() {
    for seed in 1..400_u64 {
        life(seed);
    }
}

/// Messages of six topics that a client has received.
#[derive(Default)]
struct Seen {
    /// The highest value of each topic since SUBSCRIBE; `u32::MAX` if no further one may arrive.
    last: [u32; 6],
    newest: [u32; 6],
    /// Whether SUBACK has arrived, and whether the subscription may have existed before.
    answered: bool,
    again: bool,
}

impl Seen {
    /// Reads and acknowledges all packets.
    fn read(&mut self, world: &mut World, client: ClientId, when: &str) {
        for one in read_all(world, client) {
            match one {
                Got::UnsubAck(..) => self.last = [u32::MAX; 6],
                Got::SubAck(..) => self.answered = true,
                Got::Publish { topic, payload, dup, retain, .. } => {
                    let n: usize = topic[2..].parse().expect("a number");
                    let value: u32 = String::from_utf8(payload).expect("text").parse().expect("a number");
                    self.newest[n] = value;
                    // If the subscription existed, the stored value may arrive before the live ones
                    // that led to it.
                    if self.last[n] != u32::MAX && !(self.again && retain) {
                        assert!(
                            dup || value > self.last[n],
                            "{when}: {topic} {value} after {}",
                            self.last[n]
                        );
                        self.last[n] = value.max(self.last[n]);
                    }
                }
                Got::Ack("PUBREL", ..) => {}
                other => panic!("{when}: {other:?}"),
            }
        }
    }
}

#[allow(clippy::too_many_lines, reason = "one scenario")]
fn life(seed: u64) {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random_below = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    let shards = [1, 2, 3, 8][random_below(4) as usize];
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][random_below(3) as usize];
    let mut world = World::with(shards, |limits| {
        limits.retained_page_messages_max = [1, 2, 256][seed as usize % 3];
        limits.inflight_max = [1, 3, 32][seed as usize / 3 % 3];
        limits.turn_budget_deliveries = 64;
    });
    let publishers: Vec<_> =
        (0..6).map(|n| world.connect(&format!("p{n}"), &ConnectRequest::v(Version::V5))).collect();
    let request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
    let mut sub = world.connect("sub", &request);
    let (mut value, mut published) = (0, [0_u32; 6]);
    let mut subscribed = false;
    let mut seen = Seen::default();
    let mut order = seed | 1;
    world.lanes_open = false;
    for round in 0..60 {
        let settle = round == 59;
        match random_below(8) {
            _ if settle => {
                if !subscribed {
                    subscribe_all(&mut world, sub, &["r/#"], qos);
                    (subscribed, seen.last) = (true, [0; 6]);
                }
                world.lanes_open = true;
                world.drive();
            }
            0..4 => {
                let n = random_below(6) as usize;
                value += 1;
                published[n] = value;
                let text = format!("{value:05}");
                let packet_id = if qos == QoS::AtMostOnce { 0 } else { value as u16 };
                world.publish_with(publishers[n], &format!("r/{n}"), &text, qos, packet_id, true, &[]);
            }
            4 if subscribed => {
                // Its packets are answered before it continues, like those of any client that waits
                // for UNSUBACK.
                world.unsubscribe(sub, "r/#");
                world.drive_shuffled(order);
                world.lanes_open = false;
                subscribed = false;
            }
            4 | 5 if !subscribed => {
                subscribe_all(&mut world, sub, &["r/#"], qos);
                (subscribed, seen.last) = (true, [0; 6]);
                (seen.answered, seen.again) = (false, false);
            }
            6 if qos == QoS::AtLeastOnce && subscribed => {
                world.lose(sub);
                for _ in 0..random_below(40) {
                    world.step_shuffled(&mut order);
                }
                sub = world.connect("sub", &request);
                if !seen.answered {
                    // The subscription ended with its connection, or is in force: then a live
                    // message may arrive again as a retained one.
                    subscribe_all(&mut world, sub, &["r/#"], qos);
                    seen.again = true;
                }
            }
            _ => {}
        }
        for _ in 0..random_below(60) {
            world.step_shuffled(&mut order);
        }
        seen.read(&mut world, sub, &format!("seed {seed}, round {round}"));
    }
    for (n, value) in published.iter().enumerate() {
        assert_eq!(seen.newest[n], *value, "seed {seed}: r/{n}, QoS {}, {shards} shards", qos.as_u8());
    }
}

/// The cost of a publish, in work and in memory, does not depend on the number of open readers, of
/// one session or of many.
#[test]
fn a_publish_costs_no_work_for_open_readers() {
    for shards in [1, 2] {
        let units = [0, 2500, 5000].map(|readers| {
            let mut world = World::with(shards, |limits| limits.filters_per_subscribe_max = 5000);
            let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
            for n in 0..5000 {
                world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, 1, true, &[]);
            }
            let properties = vec![grapnel_engine::packet::Property::ReceiveMaximum(1)];
            let sub = world.connect("sub", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
            let filters: Vec<_> = (0..readers).map(|n| format!("r/{n}")).collect();
            let filters: Vec<_> = filters.iter().map(|filter| &**filter).collect();
            if !filters.is_empty() {
                subscribe_all(&mut world, sub, &filters, QoS::AtLeastOnce);
                assert_eq!(topics(&world.take(sub)).len(), 1, "its window is full, the readers stay open");
            }
            // The world has updated each ledger.
            let held = |world: &World| world.shards.iter().map(|shard| shard.ledger().total()).sum::<u64>();
            let before = (world.work_units(), held(&world));
            for n in 0..500 {
                world.publish_with(publisher, &format!("x/{n}"), "v", QoS::AtMostOnce, 0, n % 2 == 0, &[]);
            }
            (world.work_units() - before.0, held(&world) - before.1)
        });
        assert!(units.iter().all(|one| *one == units[0]), "{shards} shards: {units:?}");
    }
}

/// A hundred thousand wildcard filters without a matching retained message leave no work.
#[test]
fn subscribers_of_an_empty_store_cause_no_later_work() {
    for (shards, retained) in [(1, 0), (2, 0), (4, 0), (1, 100), (2, 100)] {
        let mut world = World::new(shards);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        for n in 0..retained {
            retain(&mut world, publisher, &format!("other/{n}"), "v");
        }
        for client in 0..100 {
            let sub = world.connect(&format!("s{client}"), &ConnectRequest::v(Version::V311));
            let filters: Vec<_> = (0..1000).map(|n| format!("f/{client}/{n}/+")).collect();
            let filters: Vec<_> = filters.iter().map(|filter| &**filter).collect();
            subscribe_all(&mut world, sub, &filters, QoS::AtMostOnce);
            assert_eq!(world.take(sub), [Got::SubAck(7, vec![0; 1000])]);
        }
        assert!(world.shards.iter().all(|shard| !shard.has_work()));
        let cost = |world: &mut World| {
            let before = world.work_units();
            for n in 0..100 {
                world.publish(publisher, &format!("f/7/{n}/x"), "v", QoS::AtMostOnce, 0);
            }
            world.work_units() - before
        };
        let first = cost(&mut world);
        // After this time the shard keeps no data that distinguishes stored from live messages.
        world.hold_ms(60_000, &[]);
        let later = cost(&mut world);
        assert!(first <= later + 4, "{shards} shards: {first} units, later {later}");
    }
}

/// For filters without a stored message, all work is done by the time of SUBACK.
#[test]
fn an_empty_store_is_not_searched_after_suback() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
        let filters: Vec<_> = (0..1000).map(|n| format!("f/{n}/+")).collect();
        let filters: Vec<_> = filters.iter().map(|filter| &**filter).collect();
        let before = world.work_units();
        subscribe_all(&mut world, sub, &filters, QoS::AtMostOnce);
        assert_eq!(world.take(sub), [Got::SubAck(7, vec![0; 1000])]);
        let units = world.work_units() - before;
        assert!(units <= 2100, "{shards} shards: {units} units, two for each filter and a few");
    }
}

/// The readers of a session end with it, and with their subscriptions.
#[test]
fn readers_end_with_their_subscription_and_their_session() {
    let mut world = World::new(2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 0..200 {
        world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, 1, true, &[]);
    }
    let properties = vec![grapnel_engine::packet::Property::ReceiveMaximum(1)];
    let request = ConnectRequest { properties, ..ConnectRequest::v(Version::V5) };
    let sub = world.connect("sub", &request);
    subscribe_all(&mut world, sub, &["r/#", "r/+"], QoS::AtLeastOnce);
    let [Got::SubAck(..), Got::Publish { id: packet_id, .. }] = &world.take(sub)[..] else {
        panic!("SUBACK and one message")
    };
    let packet_id = *packet_id;
    world.unsubscribe(sub, "r/#");
    world.take(sub);
    world.ack(sub, Packet::PubAck, packet_id);
    let rest = topics(&read_all(&mut world, sub));
    assert_eq!(rest.len(), 200, "those of the other subscription");
    world.lose(sub);
    world.pass_ms(40_000);
    assert!(world.shards.iter().all(|shard| !shard.has_work()));
    let again = world.connect("sub", &request);
    assert_eq!(world.take(again), []);
}

/// Retained messages of a shard that does not answer in time are delivered when it answers.
#[test]
fn retained_messages_of_a_stalled_shard_arrive_when_it_continues() {
    let mut world = World::new(2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 0..40 {
        retain(&mut world, publisher, &format!("r/{n}"), "v");
    }
    let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
    let first = world.connect_at(world.shard_of(sub), "f", &ConnectRequest::v(Version::V311));
    world.subscribe(first, "r/#", QoS::AtMostOnce);
    world.lanes_open = false;
    world.send_subscribe(sub, "r/#", SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
    assert_eq!(world.take(sub), []);
    world.pass_ms(5_100);
    let got = world.take(sub);
    assert_eq!(got[0], Got::SubAck(7, vec![0]));
    let here = topics(&got).len();
    assert!(here > 0 && here < 40, "{here}: those of its own shard");
    world.lanes_open = true;
    world.drive();
    let there = topics(&read_all(&mut world, sub)).len();
    assert_eq!(here + there, 40);
}

/// A client at its limit of retained messages does not prevent others from storing theirs.
#[test]
fn a_client_at_its_limit_of_retained_messages_does_not_affect_others() {
    for by_bytes in [false, true] {
        let mut world = World::with(1, |limits| {
            limits.retained_client_messages_max = if by_bytes { 100 } else { 2 };
            limits.retained_client_bytes_max = if by_bytes { 1000 } else { 1_000_000 };
        });
        let [ann, bob] = ["ann", "bob"].map(|name| world.connect(name, &ConnectRequest::v(Version::V5)));
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "#", QoS::AtMostOnce);
        let payload = "v".repeat(200);
        let mut codes = |client, topic: &str, id| {
            world.publish_with(client, topic, &payload, QoS::AtLeastOnce, id, true, &[]);
            match &world.take(client)[..] {
                [Got::Ack("PUBACK", _, code)] => *code,
                other => panic!("one PUBACK, not {other:?}"),
            }
        };
        assert_eq!([1, 2, 3].map(|n| codes(ann, &format!("a/{n}"), n)), [0, 0, 0x97]);
        assert_eq!(codes(ann, "a/1", 4), 0, "what replaces its own fits");
        assert_eq!(codes(bob, "b/1", 1), 0);
        assert_eq!(topics(&world.take(sub)).len(), 5, "all are delivered");
        let counters = world.shards[0].counters();
        assert_eq!((counters.messages_retained_refused, counters.messages_retained_count), (1, 3));
    }
}

/// A full store is logged once in a while, not with every message.
#[test]
fn a_full_store_is_logged_at_a_limited_rate() {
    let mut world = World::with(1, |limits| limits.retained_messages_max = 0);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for (wait_ms, noted) in [(0, true), (0, false), (9_999, false), (1, true)] {
        world.pass_ms(wait_ms);
        retain(&mut world, publisher, "r", "v");
        assert_eq!(world.shards[0].outbox().retained_full.take().is_some(), noted, "after {wait_ms} ms");
    }
    assert_eq!(world.shards[0].counters().messages_retained_refused, 4);
}

/// If the space for a page is used when the page arrives, the page is requested again.
#[test]
fn a_page_that_no_longer_fits_is_requested_again() {
    for seed in 1..40_u64 {
        for loses in [false, true] {
            let mut world = World::with(3, |limits| limits.session_queue_messages_max = 2);
            let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
            let qos = if loses { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            for n in 0..20 {
                world.publish_with(publisher, &format!("r/{n}"), "v", qos, 1, true, &[]);
            }
            let mut request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V5) };
            request.properties.push(grapnel_engine::packet::Property::ReceiveMaximum(1));
            request.properties.push(grapnel_engine::packet::Property::SessionExpiry(1000));
            let mut sub = world.connect("sub", &request);
            let live = world.connect_at(world.shard_of(sub), "live", &ConnectRequest::v(Version::V311));
            world.subscribe(sub, "live", QoS::AtLeastOnce);
            world.lanes_open = false;
            subscribe_all(&mut world, sub, &["r/#"], QoS::AtLeastOnce);
            let mut order = seed;
            let mut got = Vec::new();
            while got.is_empty() {
                world.step_shuffled(&mut order);
                got = world.take(sub);
            }
            for _ in 0..seed % 7 {
                world.step_shuffled(&mut order);
            }
            got.extend(world.take(sub));
            if loses {
                world.lose(sub);
                world.lanes_open = true;
                world.drive();
                sub = world.connect("sub", &request);
            } else {
                let free = 3 - got.iter().filter(|got| matches!(got, Got::Publish { .. })).count();
                for n in 0..free {
                    world.publish(live, "live", "l", QoS::AtLeastOnce, n as u16 + 1);
                }
                world.lanes_open = true;
                world.drive();
            }
            for one in &got {
                if let Got::Publish { id, qos: 1, .. } = one {
                    world.ack(sub, Packet::PubAck, *id);
                }
            }
            got.extend(read_all(&mut world, sub));
            let retained = topics(&got).iter().filter(|topic| *topic != "live").count();
            assert_eq!(retained, 20, "seed {seed}, loses {loses}: {got:?}");
        }
    }
}

/// A page contains no more than there is space for: a message without space is not examined twice.
#[test]
fn large_retained_messages_are_examined_about_once() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        let payload = "x".repeat(200_000);
        for n in 0..100 {
            retain(&mut world, publisher, &format!("r/{n}"), &payload);
        }
        let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
        let before = world.work_units();
        subscribe_all(&mut world, sub, &["r/#"], QoS::AtMostOnce);
        assert_eq!(topics(&world.take(sub)).len(), 100);
        let units = world.work_units() - before;
        assert!(units <= 700, "{shards} shards: {units} units for 100 messages");
    }
}

/// The data that distinguishes stored from live messages is kept only while one of them may be
/// under way. After that, a session uses as much memory as one that requested no retained messages.
#[test]
fn no_reader_state_is_stored_once_a_subscription_has_settled() {
    // Retain Handling 0 and 2 (section 3.8.3.1).
    let [(wants_before, wants), (none_before, none)] = [0, 2].map(|handling| {
        let mut world = World::new(2);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        let held = |world: &mut World| -> u64 {
            world.shards.iter_mut().map(|shard| shard.recount().sessions).sum()
        };
        let options = SubscriptionOptions::from_byte(handling << 4).expect("options");
        world.subscribe_with(client, "a/#", options, None);
        let before = held(&mut world);
        world.pass_ms(120_000);
        assert_eq!(world.shards.iter_mut().map(|shard| shard.timers().0).sum::<usize>(), 0);
        (before, held(&mut world))
    });
    assert!(wants_before > none_before, "{wants_before} and {none_before} bytes at first");
    assert_eq!(wants, none);
}
