//! Publishers that wait for a lane to another shard: which are woken, in which order, and at what
//! cost; and the order within a shared subscription over several shards.

use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint};
use grapnel_engine::packet::{Packet, Property, QoS, Version};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::hooks::{Call, Log, link};
use crate::world::{ClientId, ConnectRequest, Got, World, message};

/// A client whose home is this shard.
pub(crate) fn on_shard(
    world: &mut World,
    shard: usize,
    name: &str,
    request: &ConnectRequest<'_>,
) -> ClientId {
    for n in 0..200 {
        let client = world.connect(&format!("{name}{n}"), request);
        if world.shard_of(client) == shard {
            return client;
        }
        world.disconnect(client, grapnel_engine::reason::ReasonCode::SUCCESS);
    }
    panic!("no identifier in 200 belongs to shard {shard}")
}

fn steps(world: &mut World) -> u64 {
    world.shards[0].counters().flow_steps
}

/// Three shards: the lane to a blocked one is full, and `waiting` publishers wait for it. Returns
/// the cost of 100 messages to the other one.
fn cost_beside(waiting: usize) -> u64 {
    let mut world = World::with(3, |limits| limits.lane_envelopes_max = 4);
    let held = on_shard(&mut world, 2, "held", &ConnectRequest::v(Version::V5));
    let other = on_shard(&mut world, 1, "other", &ConnectRequest::v(Version::V5));
    world.subscribe(held, "held", QoS::AtMostOnce);
    world.subscribe(other, "other", QoS::AtMostOnce);
    let publishers: Vec<ClientId> = (0..waiting)
        .map(|n| on_shard(&mut world, 0, &format!("p{n}-"), &ConnectRequest::v(Version::V5)))
        .collect();
    let publisher = on_shard(&mut world, 0, "q", &ConnectRequest::v(Version::V5));
    world.shards_held = vec![2];
    for client in publishers {
        world.publish(client, "held", "x", QoS::AtLeastOnce, 1);
    }
    let before = steps(&mut world);
    for n in 1..=100 {
        world.publish(publisher, "other", "x", QoS::AtLeastOnce, n);
    }
    assert_eq!(world.take(publisher).len(), 100);
    assert_eq!(world.take(other).len(), 100);
    steps(&mut world) - before
}

/// Publishers that wait for a blocked shard add no cost to publishes to another shard, however many
/// wait.
#[test]
fn publishers_that_wait_for_one_lane_cost_no_work_while_others_continue() {
    assert_eq!((cost_beside(10), cost_beside(200)), (0, 0));
}

/// All waiting publishers pass a moving lane in order of arrival, with work linear in their number.
#[test]
fn waiting_publishers_continue_in_order_at_linear_cost() {
    let mut costs = Vec::new();
    for waiting in [50, 100, 200] {
        let mut world = World::with(2, |limits| limits.lane_envelopes_max = 4);
        let sub = on_shard(&mut world, 1, "sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "t", QoS::AtMostOnce);
        let publishers: Vec<ClientId> = (0..waiting)
            .map(|n| on_shard(&mut world, 0, &format!("p{n}-"), &ConnectRequest::v(Version::V5)))
            .collect();
        world.lanes_open = false;
        let before = steps(&mut world);
        // Two each: the second of one publisher follows the first of all others.
        for round in 0..2 {
            for (n, client) in publishers.iter().enumerate() {
                let payload = format!("{round}/{n}");
                world.publish(*client, "t", &payload, QoS::AtLeastOnce, round + 1);
            }
        }
        assert_eq!(publishers.iter().map(|client| world.take(*client).len()).sum::<usize>(), 4);
        world.lanes_open = true;
        world.drive();
        let got = world.take(sub);
        assert_eq!(got.len(), 2 * waiting);
        let first: Vec<Got> = (0..waiting).map(|n| message("t", &format!("0/{n}"), 0)).collect();
        let of_first = |got: &&Got| matches!(got, Got::Publish { payload, .. } if payload.starts_with(b"0/"));
        assert_eq!(
            got.iter().filter(of_first).cloned().collect::<Vec<_>>(),
            first,
            "first come, first served"
        );
        assert!(publishers.iter().all(|client| !world.take(*client).is_empty()));
        costs.push(steps(&mut world) - before);
    }
    assert!(costs[1] <= 2 * costs[0] + 8 && costs[2] <= 2 * costs[1] + 8, "{costs:?}");
    assert!(costs[2] <= 200 * 2 * 3, "{costs:?}: no more than a few steps for each publish");
}

/// A later publisher does not pass those that wait, even if there is space at that moment.
#[test]
fn a_later_publisher_does_not_pass_waiting_ones() {
    let mut world = World::with(2, |limits| limits.lane_envelopes_max = 4);
    let sub = on_shard(&mut world, 1, "sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtMostOnce);
    let first = on_shard(&mut world, 0, "first", &ConnectRequest::v(Version::V311));
    let second = on_shard(&mut world, 0, "second", &ConnectRequest::v(Version::V311));
    world.lanes_open = false;
    for n in 0..6 {
        world.publish(first, "t", &n.to_string(), QoS::AtMostOnce, 0);
    }
    // The shell has moved one envelope, so the lane is still above its low mark.
    let mut batch = Vec::new();
    let to = grapnel_engine::id::ShardId(1);
    world.shards[0].outbox().take_batch(to, grapnel_engine::shard::Lane::Data, 1, &mut batch);
    world.shards[0].lanes_moved();
    world.publish(second, "t", "late", QoS::AtMostOnce, 0);
    for envelope in batch {
        world.shards[1].envelope(grapnel_engine::id::ShardId(0), envelope);
    }
    world.lanes_open = true;
    world.drive();
    let got = world.take(sub);
    assert_eq!(got.len(), 7);
    assert_eq!(got.iter().filter(|one| **one != message("t", "late", 0)).count(), 6);
    let late = got.iter().position(|one| *one == message("t", "late", 0)).expect("it came");
    assert!(late >= 5, "behind the fifth, which waited: {late}");
}

/// If the connection or session of a waiting publisher ends, or is taken over, its publishes are
/// still delivered, and those behind it are still served.
#[test]
fn waiting_publishers_that_disconnect_delay_no_other() {
    let mut world = World::with(2, |limits| limits.lane_envelopes_max = 2);
    let sub = on_shard(&mut world, 1, "sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtMostOnce);
    let clients: Vec<ClientId> =
        (0..6).map(|n| on_shard(&mut world, 0, &format!("p{n}-"), &ConnectRequest::v(Version::V5))).collect();
    world.lanes_open = false;
    for (n, client) in clients.iter().enumerate() {
        world.publish(*client, "t", &n.to_string(), QoS::AtLeastOnce, 1);
    }
    world.lose(clients[2]);
    world.lose(clients[4]);
    world.pass_ms(3_000);
    world.lanes_open = true;
    world.drive();
    let expected: Vec<Got> = (0..6).map(|n| message("t", &n.to_string(), 0)).collect();
    assert_eq!(world.take(sub), expected);
    assert_eq!(world.take(clients[5]), [Got::Ack("PUBACK", 1, 0)]);
    assert_eq!(world.shards[0].counters().sessions_count, 4, "the two that left are gone");
}

/// If the first answer of the other shards does not reach the barrier of a SUBACK, the SUBACK waits
/// for the next answer.
#[test]
fn each_answer_of_another_shard_is_processed() {
    for shards in [2, 4] {
        let mut world = World::new(shards);
        let clients: Vec<ClientId> = (0..4)
            .map(|n| on_shard(&mut world, 0, &format!("c{n}-"), &ConnectRequest::v(Version::V5)))
            .collect();
        world.lanes_open = false;
        let options = grapnel_engine::packet::SubscriptionOptions::default();
        for (n, client) in clients.iter().enumerate() {
            // Each is a batch of its own.
            world.send_subscribe(*client, &format!("t/{n}"), options, None);
            assert_eq!(world.take(*client), []);
        }
        world.lanes_open = true;
        world.drive();
        for client in clients {
            assert_eq!(world.take(client), [Got::SubAck(7, vec![0])]);
        }
    }
}

/// However many publishers could continue at once, a step does not exceed its budget. The others
/// continue in the next turns.
#[test]
fn a_step_moves_no_more_than_its_budget() {
    let mut world = World::with(2, |limits| {
        limits.lane_envelopes_max = 400;
        limits.turn_budget_deliveries = 64;
    });
    let sub = on_shard(&mut world, 1, "sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtMostOnce);
    let publishers: Vec<ClientId> = (0..200)
        .map(|n| on_shard(&mut world, 0, &format!("p{n}-"), &ConnectRequest::v(Version::V311)))
        .collect();
    world.lanes_open = false;
    for _ in 0..3 {
        publishers.iter().for_each(|client| world.publish(*client, "t", "x", QoS::AtMostOnce, 0));
    }
    let to = grapnel_engine::id::ShardId(1);
    let mut batch = Vec::new();
    world.shards[0].outbox().take_batch(to, grapnel_engine::shard::Lane::Data, 400, &mut batch);
    assert_eq!(batch.len(), 400);
    world.shards[0].lanes_moved();
    let moved = world.shards[0].outbox().data[1].len();
    assert!((16..=64).contains(&moved), "{moved} of 200");
    assert!(world.shards[0].has_work());
    let now = world.now;
    assert!(world.shards[0].advance(now), "there is still more");
    assert!(world.shards[0].outbox().data[1].len() <= 2 * 64);
    world.lanes_open = true;
    world.drive();
    assert!(!world.shards[0].has_work());
    assert_eq!(world.take(sub).len(), 200);
}

/// One publisher, and a shared subscription with members with small queues on all shards: each
/// member receives its messages in the order of publication [MQTT-4.6.0-5].
#[test]
fn a_shared_member_gets_each_publishers_messages_in_order() {
    for seed in 0..20 {
        let mut world = World::with(3, |limits| {
            limits.session_queue_messages_max = 2;
            limits.inflight_max = 2;
        });
        let request = ConnectRequest {
            properties: vec![Property::ReceiveMaximum(2)],
            ..ConnectRequest::v(Version::V5)
        };
        let members: Vec<ClientId> =
            (0..3).map(|shard| on_shard(&mut world, shard, &format!("m{seed}-{shard}-"), &request)).collect();
        for member in &members {
            world.subscribe(*member, "$share/g/t", QoS::AtLeastOnce);
        }
        let publishers: Vec<ClientId> = (0..2)
            .map(|n| on_shard(&mut world, n, &format!("p{seed}-{n}-"), &ConnectRequest::v(Version::V311)))
            .collect();
        let mut last = [[0_u32; 2]; 3];
        for n in 1..=120_u16 {
            world.lanes_open = n % 8 == 0;
            for (which, publisher) in publishers.iter().enumerate() {
                world.publish(*publisher, "t", &format!("{which}/{n}"), QoS::AtLeastOnce, n);
            }
            // The first two acknowledge at once, the third one rarely.
            for (place, member) in members.iter().enumerate() {
                if place == 2 && n % 40 != 0 {
                    continue;
                }
                for got in world.take(*member) {
                    let Got::Publish { payload, id, .. } = got else { panic!("{got:?}") };
                    let text = String::from_utf8(payload).expect("text");
                    let (which, number) = text.split_once('/').expect("two numbers");
                    let (which, number): (usize, u32) =
                        (which.parse().expect("a number"), number.parse().expect("a number"));
                    assert!(number > last[place][which], "{number} after {} of {which}", last[place][which]);
                    last[place][which] = number;
                    world.ack(*member, Packet::PubAck, id);
                }
            }
        }
    }
}

/// A lane is full at a limit of bytes as well as of envelopes, and publishers continue when half
/// has moved.
#[test]
fn publishers_wait_for_a_lane_at_its_limit_of_bytes() {
    let mut world = World::with(2, |limits| limits.lane_bytes_max = 65_536);
    let sub = on_shard(&mut world, 1, "sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtMostOnce);
    let publisher = on_shard(&mut world, 0, "publisher", &ConnectRequest::v(Version::V5));
    world.lanes_open = false;
    for packet_id in 1..=6 {
        world.publish(publisher, "t", &"x".repeat(30_000), QoS::AtLeastOnce, packet_id);
    }
    // 60,000 bytes and what envelopes add are less than the limit; 90,000 are not.
    assert_eq!(world.take(publisher).len(), 3);
    let to = grapnel_engine::id::ShardId(1);
    let mut batch = Vec::new();
    let mut move_one = |world: &mut World| {
        world.shards[0].outbox().take_batch(to, grapnel_engine::shard::Lane::Data, 1, &mut batch);
        world.shards[0].lanes_moved();
        world.drive();
        world.take(publisher).len()
    };
    assert_eq!(move_one(&mut world), 0, "60,000 are more than half");
    assert_eq!(move_one(&mut world), 2, "30,000 are not: two more fit");
    for envelope in batch {
        world.shards[1].envelope(grapnel_engine::id::ShardId(0), envelope);
    }
    world.lanes_open = true;
    world.drive();
    assert_eq!((world.take(publisher).len(), world.take(sub).len()), (1, 6));
}

/// Concurrent requests to store retained messages are answered one by one.
#[test]
fn retained_publishes_that_wait_for_one_owner_are_all_answered() {
    let mut world = World::new(2);
    let publishers: Vec<ClientId> = (0..10)
        .map(|n| on_shard(&mut world, 0, &format!("p{n}-"), &ConnectRequest::v(Version::V5)))
        .collect();
    world.shards_held = vec![1];
    for client in &publishers {
        for packet_id in 1..=10 {
            let topic = format!("r/{client}/{packet_id}");
            world.publish_with(*client, &topic, "kept", QoS::AtLeastOnce, packet_id, true, &[]);
        }
    }
    world.shards_held.clear();
    world.drive();
    for client in publishers {
        let got = world.take(client);
        let expected: Vec<Got> = (1..=10).map(|id| Got::Ack("PUBACK", id, 0x10)).collect();
        assert_eq!(got, expected);
    }
}

/// Two shards never give the same number to a message or a connection.
#[test]
fn two_shards_never_use_the_same_number() {
    let mut world = World::new(2);
    let log = Log::default();
    let noting = |identity: u32| {
        let log = log.clone();
        link(identity, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            let (message, connection) = (call.number(Field::MESSAGE_ID), call.number(Field::CONNECTION));
            log.note(format!("{} {}", message.unwrap_or(0) >> 56, connection.unwrap_or(0) >> 56));
            Flow::CONTINUE
        })
    };
    world.shards[1].swap_chains(ChainTable::compile(1, vec![(HookPoint::MessagePublish, noting(1))]));
    let client = on_shard(&mut world, 1, "c", &ConnectRequest::v(Version::V5));
    world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["1 1"], "the shard's own number in the highest byte");
}

/// A member that joins a shared subscription with nothing waiting is picked, whatever was recorded
/// of the others while it was away.
#[test]
fn a_shared_member_that_joins_without_waiting_messages_gets_its_share() {
    let mut world = World::with(2, |limits| {
        limits.inflight_max = 1;
        limits.session_queue_messages_max = 8;
    });
    let request = || ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
    let (slow, back) = (0..)
        .map(|n| format!("away{n}"))
        .find_map(|name| {
            let client = world.connect(&name, &request());
            let here = world.shard_of(client) == 1;
            if here {
                world.subscribe(client, "$share/g/t", QoS::AtLeastOnce);
            }
            world.lose(client);
            here.then_some(name)
        })
        .map(|name| (world.connect_at(1, "slow", &ConnectRequest::v(Version::V5)), name))
        .expect("some name has its home there");
    world.subscribe(slow, "$share/g/t", QoS::AtLeastOnce);
    let publisher = world.connect_at(0, "publisher", &ConnectRequest::v(Version::V5));
    for n in 1..=8 {
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, n);
    }
    // The slow member has many messages waiting, and leaves.
    world.unsubscribe(slow, "$share/g/t");
    let back = world.connect(&back, &request());
    let other = world.connect_at(0, "other", &ConnectRequest::v(Version::V5));
    world.subscribe(other, "$share/g/t", QoS::AtMostOnce);
    let mut got = 0;
    for round in 0..100 {
        world.publish(publisher, "t", "y", QoS::AtLeastOnce, round + 10);
        for one in world.take(back) {
            got += 1;
            world.ack(back, Packet::PubAck, one.id());
        }
    }
    assert!((20..=80).contains(&got), "{got} of 100");
}
