//! Subscriptions: options, identifiers, retained messages, shared subscriptions, the SUBACK barrier (MQTT 5.0 sections 3.8,
//! 3.10, 4.7, 4.8).

use grapnel_engine::packet::{Packet, QoS, RetainHandling, SubscriptionOptions, Version};

use crate::world::{ConnectRequest, Got, World, message};

fn retained(topic: &str, payload: &str, qos: u8) -> Got {
    match message(topic, payload, qos) {
        Got::Publish { topic, payload, qos, dup, id, ids, .. } => {
            Got::Publish { topic, payload, qos, retain: true, dup, id, ids }
        }
        other => other,
    }
}

#[test]
fn a_new_subscriber_gets_the_retained_message_of_any_shard() {
    for shards in [1, 2, 8] {
        let mut world = World::new(shards);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
        for n in 0..20 {
            world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtLeastOnce, n + 1, true, &[]);
        }
        assert_eq!(world.take(publisher).len(), 20, "each is acknowledged once its owner has it");
        let one = world.connect("one", &ConnectRequest::v(Version::V311));
        world.subscribe(one, "r/7", QoS::AtMostOnce);
        assert_eq!(world.take_plain(one), [retained("r/7", "v", 0)]);
        let all = world.connect("all", &ConnectRequest::v(Version::V5));
        world.subscribe(all, "r/#", QoS::AtLeastOnce);
        assert_eq!(world.take(all).len(), 20);
        world.publish_with(publisher, "r/7", "", QoS::AtLeastOnce, 1, true, &[]);
        let two = world.connect("two", &ConnectRequest::v(Version::V311));
        world.subscribe(two, "r/7", QoS::AtMostOnce);
        assert_eq!(world.take(two), [], "an empty payload clears [MQTT-3.3.1-6]");
        let live = world.take_plain(one);
        assert_eq!(live, [message("r/7", "", 0)], "live messages carry no RETAIN [MQTT-3.3.1-12]");
    }
}

#[test]
fn retain_handling_decides_when_retained_messages_are_sent() {
    // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
    let mut world = World::new(2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish_with(publisher, "r", "v", QoS::AtMostOnce, 0, true, &[]);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    let with = |handling| SubscriptionOptions {
        retain_handling: handling,
        ..SubscriptionOptions::of_qos(QoS::AtMostOnce)
    };
    world.subscribe_with(sub, "r", with(RetainHandling::DoNotSend), None);
    assert_eq!(world.take(sub), []);
    world.subscribe_with(sub, "r", with(RetainHandling::SendIfNew), None);
    assert_eq!(world.take(sub), [], "the subscription existed");
    world.subscribe_with(sub, "r", with(RetainHandling::Send), None);
    assert_eq!(world.take(sub), [retained("r", "v", 0)]);
    world.unsubscribe(sub, "r");
    world.take(sub);
    world.subscribe_with(sub, "r", with(RetainHandling::SendIfNew), None);
    assert_eq!(world.take(sub), [retained("r", "v", 0)]);
}

#[test]
fn retain_as_published_and_no_local_are_respected() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let own = SubscriptionOptions { no_local: true, ..SubscriptionOptions::of_qos(QoS::AtMostOnce) };
    world.subscribe_with(client, "a", own, None);
    world.publish(client, "a", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.take(client), [], "[MQTT-3.8.3-3]");
    let other = world.connect("o", &ConnectRequest::v(Version::V5));
    let options =
        SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::of_qos(QoS::AtMostOnce) };
    world.subscribe_with(other, "b", options, None);
    world.publish_with(client, "b", "x", QoS::AtMostOnce, 0, true, &[]);
    assert_eq!(world.take(other), [retained("b", "x", 0)], "[MQTT-3.3.1-13]");
}

#[test]
fn overlapping_subscriptions_are_one_delivery_with_all_identifiers() {
    // [MQTT-3.3.4-2] [MQTT-3.3.4-4]
    let mut world = World::new(2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe_with(sub, "a/+", SubscriptionOptions::of_qos(QoS::AtMostOnce), Some(1));
    world.subscribe_with(sub, "a/#", SubscriptionOptions::of_qos(QoS::ExactlyOnce), Some(2));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "a/b", "x", QoS::ExactlyOnce, 1);
    let got = world.take(sub);
    let [Got::Publish { qos: 2, ids, .. }] = &got[..] else { panic!("{got:?}") };
    let mut ids = ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn a_leading_wildcard_does_not_match_topics_that_begin_with_a_dollar() {
    // [MQTT-4.7.2-1]
    let mut world = World::with(1, |limits| limits.choices.allow_dollar_topics = true);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    world.subscribe(sub, "+/x", QoS::AtMostOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "$own/x", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub), []);
    world.subscribe(sub, "$own/#", QoS::AtMostOnce);
    world.publish(publisher, "$own/x", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub).len(), 1);
}

#[test]
fn unsubscribe_ends_deliveries_and_reports_unknown_filters() {
    let mut world = World::new(2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtMostOnce);
    world.unsubscribe(sub, "t");
    assert_eq!(world.take(sub), [Got::UnsubAck(8, vec![0])]);
    world.unsubscribe(sub, "t");
    assert_eq!(world.take(sub), [Got::UnsubAck(8, vec![0x11])]);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub), []);
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_member() {
    for shards in [1, 2, 8] {
        let mut world = World::new(shards);
        let members: Vec<_> =
            (0..4).map(|n| world.connect(&format!("m{n}"), &ConnectRequest::v(Version::V5))).collect();
        for &member in &members {
            assert_eq!(world.subscribe(member, "$share/g/t/+", QoS::AtLeastOnce), [1]);
        }
        let plain = world.connect("plain", &ConnectRequest::v(Version::V5));
        world.subscribe(plain, "t/#", QoS::AtMostOnce);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        for n in 1..=100 {
            world.publish(publisher, "t/x", &n.to_string(), QoS::AtLeastOnce, n);
        }
        let mut seen = Vec::new();
        for &member in &members {
            let mut mine = 0;
            loop {
                let got = world.take(member);
                if got.is_empty() {
                    break;
                }
                for one in got {
                    mine += 1;
                    let Got::Publish { payload, id, .. } = one else { panic!("{one:?}") };
                    seen.push(String::from_utf8(payload).unwrap().parse::<u32>().unwrap());
                    world.ack(member, grapnel_engine::packet::Packet::PubAck, id);
                }
            }
            assert!(mine > 5, "a member got {mine} of 100 on {shards} shards");
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=100).collect::<Vec<_>>());
        assert_eq!(world.take(plain).len(), 100, "plain subscribers get every one");
    }
}

#[test]
fn unacknowledged_messages_of_a_leaving_member_go_to_another() {
    let mut world = World::new(2);
    let first = world.connect("first", &ConnectRequest::v(Version::V5));
    world.subscribe(first, "$share/g/t", QoS::AtLeastOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(first).len(), 1);
    let second = world.connect("second", &ConnectRequest::v(Version::V5));
    world.subscribe(second, "$share/g/t", QoS::AtLeastOnce);
    world.lose(first);
    world.pass_ms(10);
    assert_eq!(world.take_plain(second), [message("t", "x", 1)]);
}

#[test]
fn messages_published_after_suback_arrive() {
    // A message that is published after the SUBACK was read is delivered, on whatever shards.
    let mut world = World::new(8);
    for round in 0..100 {
        let sub = world.connect(&format!("s{round}"), &ConnectRequest::v(Version::V311));
        let publisher = world.connect(&format!("p{round}"), &ConnectRequest::v(Version::V311));
        let topic = format!("t/{round}");
        world.subscribe(sub, &topic, QoS::AtMostOnce);
        world.publish(publisher, &topic, "x", QoS::AtMostOnce, 0);
        assert_eq!(world.take(sub), [message(&topic, "x", 0)]);
    }
}

#[test]
fn suback_waits_for_the_other_shards_and_gives_up_in_time() {
    let mut world = World::new(2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.lanes_open = false;
    world.send_subscribe(sub, "t", SubscriptionOptions::of_qos(QoS::AtLeastOnce), None);
    assert_eq!(world.take(sub), []);
    world.send(sub, &grapnel_engine::packet::Packet::PingReq);
    assert_eq!(world.take(sub), [Got::PingResp], "PINGREQ waits for nothing");
    world.pass_ms(6_000);
    assert_eq!(world.take(sub), [Got::SubAck(7, vec![0x80])]);
    world.lanes_open = true;
    world.drive();
    assert_eq!(world.subscribe(sub, "t", QoS::AtLeastOnce), [1]);
}

#[test]
fn invalid_filters_are_refused_one_by_one() {
    let mut world = World::with(1, |limits| limits.topic_levels_max = 3);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    assert_eq!(world.subscribe(sub, "a/b/c/d", QoS::AtMostOnce), [0x8F]);
    assert_eq!(world.subscribe(sub, "a/b/c", QoS::AtMostOnce), [0]);
}

#[test]
fn the_number_of_subscriptions_is_limited() {
    let mut world = World::with(1, |limits| limits.subscriptions_max = 2);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    assert_eq!(world.subscribe(sub, "1", QoS::AtMostOnce), [0]);
    assert_eq!(world.subscribe(sub, "2", QoS::AtMostOnce), [0]);
    assert_eq!(world.subscribe(sub, "3", QoS::AtMostOnce), [0x97]);
    assert_eq!(world.subscribe(sub, "2", QoS::AtLeastOnce), [1], "a replacement is no addition");
}

/// Section 3.3.1.3: a message retained after SUBACK was sent is delivered live, with RETAIN 0, and
/// once. The owner of the topic must have the subscription by then; otherwise it would find the new
/// message among the stored ones.
#[test]
fn suback_waits_until_retained_and_live_are_separated() {
    let (mut at_once, mut later) = (0, 0);
    for n in 0..20 {
        let topic = format!("r/{n}");
        let mut world = World::new(2);
        let clients: Vec<_> =
            (0..20).map(|n| world.connect(&format!("c{n}"), &ConnectRequest::v(Version::V311))).collect();
        let (here, there): (Vec<_>, Vec<_>) =
            clients.into_iter().partition(|client| world.shard_of(*client) == 0);
        let (first, sub, publisher) = (here[0], here[1], there[0]);
        // From here on the other shard has the filter, and SUBACK need not wait for that.
        world.subscribe(first, &topic, QoS::AtMostOnce);
        world.lanes_open = false;
        world.send_subscribe(sub, &topic, SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
        let acked = world.take(sub) == [Got::SubAck(7, vec![0])];
        world.publish_with(publisher, &topic, "v", QoS::AtMostOnce, 0, true, &[]);
        world.lanes_open = true;
        world.drive();
        let got = world.take_plain(sub);
        if acked {
            assert_eq!(got, [message(&topic, "v", 0)], "{topic} belongs to the subscriber's shard");
            at_once += 1;
        } else {
            assert_eq!(got[0], Got::SubAck(7, vec![0]), "{topic}");
            later += 1;
        }
        world.publish_with(publisher, &topic, "w", QoS::AtMostOnce, 0, true, &[]);
        assert_eq!(world.take_plain(sub), [message(&topic, "w", 0)]);
    }
    assert!(at_once > 0 && later > 0, "{at_once} topics of the subscriber's shard, {later} of the other");
}

#[test]
fn a_will_is_sent_if_its_connection_ends_while_suback_waits() {
    let mut world = World::new(2);
    let watcher = world.connect("watcher", &ConnectRequest::v(Version::V311));
    world.subscribe(watcher, "will", QoS::AtMostOnce);
    let request = ConnectRequest {
        will: Some(("will", "gone", QoS::AtMostOnce, false)),
        ..ConnectRequest::v(Version::V311)
    };
    for n in 0..8 {
        let sub = world.connect(&format!("s{n}"), &request);
        let on_the_watchers_shard = world.shard_of(sub) == world.shard_of(watcher);
        world.subscribe(sub, &format!("known/{n}"), QoS::AtMostOnce);
        world.lanes_open = false;
        // A filter that the other shard has: only its retained messages are requested.
        world.send_subscribe(sub, &format!("known/{n}"), SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
        world.lose(sub);
        if on_the_watchers_shard {
            assert_eq!(world.take(watcher), [message("will", "gone", 0)], "it waits for no other shard");
        }
        world.lanes_open = true;
        world.drive();
        if !on_the_watchers_shard {
            assert_eq!(world.take(watcher), [message("will", "gone", 0)]);
        }
    }
}

#[test]
fn the_subscriptions_of_a_shard_are_limited() {
    let mut world = World::with(1, |limits| limits.shard_subscriptions_max = 2);
    let one = world.connect("one", &ConnectRequest::v(Version::V5));
    let two = world.connect("two", &ConnectRequest::v(Version::V5));
    assert_eq!(world.subscribe(one, "1", QoS::AtMostOnce), [0]);
    assert_eq!(world.subscribe(two, "2", QoS::AtMostOnce), [0]);
    assert_eq!(world.subscribe(two, "3", QoS::AtMostOnce), [0x97]);
    world.unsubscribe(one, "1");
    world.take(one);
    assert_eq!(world.subscribe(two, "3", QoS::AtMostOnce), [0]);
}

#[test]
fn many_retained_messages_are_read_in_pages_as_the_session_has_room() {
    let mut world = World::with(2, |limits| limits.retained_page_messages_max = 10);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V311));
    for n in 0..500 {
        world.publish_with(publisher, &format!("r/{n}"), "v", QoS::AtMostOnce, 0, true, &[]);
    }
    let sub = world.connect("sub", &ConnectRequest::v(Version::V311));
    world.subscribe(sub, "r/+", QoS::AtMostOnce);
    assert_eq!(world.take(sub).len(), 500);
}

/// A member of a shared subscription whose queue is three quarters full receives no more while
/// another shard has a member that reads: nothing is dropped. It receives its share again when half
/// of the queue has been sent.
#[test]
fn a_shared_member_with_a_long_queue_is_skipped_before_its_queue_is_full() {
    let mut world = World::with(2, |limits| {
        limits.inflight_max = 1;
        limits.session_queue_messages_max = 8;
    });
    let reads = world.connect_at(0, "reads", &ConnectRequest::v(Version::V5));
    world.subscribe(reads, "$share/group/t", QoS::AtMostOnce);
    let slow = world.connect_at(1, "slow", &ConnectRequest::v(Version::V5));
    world.subscribe(slow, "$share/group/t", QoS::AtLeastOnce);
    let publisher = world.connect_at(0, "publisher", &ConnectRequest::v(Version::V5));
    let publish = |world: &mut World| {
        for packet_id in 1..=100 {
            world.publish(publisher, "t", "x", QoS::AtLeastOnce, packet_id);
        }
        world.take(publisher);
        let dropped: u64 = world.shards.iter_mut().map(|shard| shard.counters().messages_dropped).sum();
        (world.take(reads).len(), dropped)
    };
    // One in flight, and six of eight in the queue.
    assert_eq!(publish(&mut world), (93, 0));
    let queued = |world: &World| {
        let rows = world.shards[1].clients(0, 10).0;
        rows.iter().map(|row| (row.inflight, row.queued)).max()
    };
    assert_eq!(queued(&world), Some((1, 6)));
    assert_eq!(publish(&mut world), (100, 0));
    // Two are acknowledged, which leaves four in the queue: two more can follow.
    for _ in 0..2 {
        let packet_id = world.take(slow)[0].id();
        world.ack(slow, Packet::PubAck, packet_id);
    }
    assert_eq!(publish(&mut world), (98, 0));
    assert_eq!(queued(&world), Some((1, 6)));
}

/// A message may be sent to another shard whose last member has left meanwhile. It then goes to
/// another remaining member.
#[test]
fn a_message_for_a_member_that_has_left_goes_to_another_shard() {
    let mut world = World::new(2);
    let leaves = world.connect_at(1, "leaves", &ConnectRequest::v(Version::V5));
    let stays = world.connect_at(0, "stays", &ConnectRequest::v(Version::V5));
    for client in [leaves, stays] {
        world.subscribe(client, "$share/group/t", QoS::AtMostOnce);
    }
    let publisher = world.connect_at(0, "publisher", &ConnectRequest::v(Version::V5));
    world.lanes_open = false;
    for _ in 0..20 {
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    }
    let before = world.take(stays).len();
    assert!((1..20).contains(&before), "{before} of 20: both shards are drawn");
    world.lose(leaves);
    world.lanes_open = true;
    world.drive();
    assert_eq!(world.take(stays).len(), 20 - before);
    let dropped: u64 = world.shards.iter_mut().map(|shard| shard.counters().messages_dropped).sum();
    assert_eq!(dropped, 0);
}
