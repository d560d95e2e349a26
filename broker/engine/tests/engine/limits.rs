//! Every limit at its boundary: the limit itself is accepted, and one more is not. A row of a table
//! produces a given amount in a world of its own, and returns whether all of it was accepted.

use std::sync::Arc;

use grapnel_engine::limits::Limits;
use grapnel_engine::packet::SubscriptionOptions;
use grapnel_engine::packet::{
    Ack, Filters, Packet, Properties, Property, QoS, Subscribe, TopicFilters, Unsubscribe, Version,
    push_filter, push_subscription,
};
use grapnel_engine::reason::ReasonCode;

use crate::world::{ClientId, ConnectRequest, Got, World, id};

const V5: Version = Version::V5;
const V311: Version = Version::V311;

/// A limit, a small value that it may have, and a function that returns whether an amount is
/// accepted.
type Row = (&'static str, u64, fn(&mut World, u64) -> bool);

fn persistent<'a>() -> ConnectRequest<'a> {
    ConnectRequest { clean: false, properties: vec![Property::SessionExpiry(1000)], ..ConnectRequest::v(V5) }
}

fn letters(count: u64) -> String {
    "x".repeat(count as usize)
}

fn levels(count: u64) -> String {
    vec!["l"; count as usize].join("/")
}

/// Whether PUBACK accepts a publish.
fn publishes(world: &mut World, topic: &str, payload: &str, properties: &[Property<'_>]) -> bool {
    let client = world.connect("publisher", &ConnectRequest::v(V5));
    world.publish_with(client, topic, payload, QoS::AtLeastOnce, 1, false, properties);
    match world.take(client)[..] {
        [Got::Ack("PUBACK", 1, code)] => code < 0x80,
        ref other => panic!("{other:?}"),
    }
}

/// Whether SUBACK grants a filter.
fn subscribes(world: &mut World, filter: &str) -> bool {
    let client = world.connect("subscriber", &ConnectRequest::v(V5));
    world.subscribe(client, filter, QoS::AtLeastOnce)[0] < 0x80
}

/// Whether a CONNECT with this will is accepted.
fn leaves_will(world: &mut World, topic: &str, payload: &str) -> bool {
    let request =
        ConnectRequest { will: Some((topic, payload, QoS::AtMostOnce, false)), ..ConnectRequest::v(V5) };
    connects(world, "c", &request)
}

fn connects(world: &mut World, client_id: &str, request: &ConnectRequest<'_>) -> bool {
    match world.try_connect(client_id, request).1 {
        Some(Got::ConnAck { code, .. }) => code == 0,
        other => panic!("{other:?}"),
    }
}

fn properties<'a>(count: u64) -> Vec<Property<'a>> {
    (0..count).map(|_| Property::User("name", "value")).collect()
}

/// Filters `f/0`, `f/1` and so on, in the form of SUBSCRIBE and of UNSUBSCRIBE.
fn filters(count: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut with_options, mut alone) = (Vec::new(), Vec::new());
    for n in 0..count {
        let filter = format!("f/{n}");
        push_subscription(&mut with_options, &filter, SubscriptionOptions::of_qos(QoS::AtMostOnce));
        push_filter(&mut alone, &filter);
    }
    (with_options, alone)
}

fn subscribes_at_once(world: &mut World, count: u64) -> bool {
    let client = world.connect("c", &ConnectRequest::v(V5));
    let (payload, _) = filters(count);
    let filters = Filters::from_encoded(&payload);
    world.send(
        client,
        &Packet::Subscribe(Subscribe { packet_id: id(7), properties: Properties::default(), filters }),
    );
    match &world.take(client)[..] {
        [Got::SubAck(7, codes)] => codes.len() as u64 == count && codes.iter().all(|code| *code < 0x80),
        other => panic!("{other:?}"),
    }
}

fn unsubscribe_at_once(world: &mut World, version: Version, count: u64) -> ClientId {
    let client = world.connect("c", &ConnectRequest::v(version));
    let (_, payload) = filters(count);
    let filters = TopicFilters::from_encoded(&payload);
    let properties = Properties::default();
    world.send(client, &Packet::Unsubscribe(Unsubscribe { packet_id: id(7), properties, filters }));
    client
}

/// Publishes so many QoS 1 messages for an absent client, with their numbers as payload. Returns
/// those that the client receives.
fn queued(world: &mut World, count: u64, payload: &str) -> Vec<usize> {
    let away = world.connect("away", &persistent());
    world.subscribe(away, "t", QoS::AtLeastOnce);
    world.lose(away);
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    for n in 0..count {
        world.publish(publisher, "t", &format!("{n}{payload}"), QoS::AtLeastOnce, n as u16 + 1);
    }
    let away = world.connect("away", &persistent());
    let got = world.take(away);
    let number = |payload: &[u8]| usize::from(payload[0] - b'0');
    got.iter()
        .filter_map(|got| match got {
            Got::Publish { payload, .. } => Some(number(payload)),
            _ => None,
        })
        .collect()
}

/// Whether a new subscriber receives as many retained messages as were published.
fn retains(world: &mut World, count: u64, payload: &str) -> bool {
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    for n in 0..count {
        world.publish_with(publisher, &format!("r/{n}"), payload, QoS::AtMostOnce, 0, true, &[]);
    }
    let subscriber = world.connect("subscriber", &ConnectRequest::v(V5));
    world.subscribe(subscriber, "r/#", QoS::AtMostOnce);
    world.take(subscriber).len() as u64 == count
}

const ROWS: [Row; 26] = [
    ("topic_bytes_max", 64, |world, n| publishes(world, &letters(n), "x", &[])),
    ("topic_bytes_max", 64, |world, n| subscribes(world, &letters(n))),
    ("topic_bytes_max", 64, |world, n| leaves_will(world, &letters(n), "x")),
    ("topic_levels_max", 5, |world, n| publishes(world, &levels(n), "x", &[])),
    ("topic_levels_max", 5, |world, n| subscribes(world, &levels(n))),
    ("topic_levels_max", 5, |world, n| leaves_will(world, &levels(n), "x")),
    ("payload_bytes_max", 100, |world, n| publishes(world, "t", &letters(n), &[])),
    ("payload_bytes_max", 100, |world, n| leaves_will(world, "t", &letters(n))),
    ("user_properties_max", 3, |world, n| publishes(world, "t", "x", &properties(n))),
    ("user_properties_max", 3, |world, n| {
        connects(world, "c", &ConnectRequest { properties: properties(n), ..ConnectRequest::v(V5) })
    }),
    ("packet_bytes_max", 200, |world, n| {
        let client = world.connect("c", &ConnectRequest::v(V311));
        // A header of three bytes, a topic of three.
        world.publish(client, "t", &letters(n - 6), QoS::AtMostOnce, 0);
        !world.is_closed(client)
    }),
    ("client_id_bytes_max", 30, |world, n| connects(world, &letters(n), &ConnectRequest::v(V5))),
    ("filters_per_subscribe_max", 3, subscribes_at_once),
    ("filters_per_unsubscribe_max", 3, |world, n| {
        let client = unsubscribe_at_once(world, V5, n);
        match &world.take(client)[..] {
            [Got::UnsubAck(7, codes)] => codes.len() as u64 == n && codes.iter().all(|code| *code < 0x80),
            other => panic!("{other:?}"),
        }
    }),
    // Its UNSUBACK has no codes for that.
    ("filters_per_unsubscribe_max", 3, |world, n| {
        let client = unsubscribe_at_once(world, V311, n);
        !world.is_closed(client)
    }),
    ("subscriptions_max", 3, subscribes_at_once),
    ("shard_subscriptions_max", 3, |world, n| {
        let clients =
            [world.connect("a", &ConnectRequest::v(V5)), world.connect("b", &ConnectRequest::v(V5))];
        (0..n).all(|one| {
            let client = clients[one as usize % 2];
            world.subscribe(client, &format!("f/{one}"), QoS::AtMostOnce)[0] < 0x80
        })
    }),
    ("connections_max", 3, |world, n| {
        (0..n).all(|_| {
            let peer = world.peer();
            world.shards[0].open(peer).is_some()
        })
    }),
    ("connections_total_max", 3, |world, n| {
        (0..n).all(|_| {
            let peer = world.peer();
            world.shards[0].open(peer).is_some()
        })
    }),
    ("sessions_max", 3, |world, n| (0..n).all(|one| connects(world, &format!("c{one}"), &persistent()))),
    ("sessions_total_max", 3, |world, n| {
        (0..n).all(|one| connects(world, &format!("c{one}"), &persistent()))
    }),
    ("session_queue_messages_max", 5, |world, n| queued(world, n, "").len() as u64 == n),
    ("retained_messages_max", 3, |world, n| retains(world, n, "x")),
    ("retained_client_messages_max", 3, |world, n| retains(world, n, "x")),
    ("topic_alias_max", 3, |world, n| {
        let client = world.connect("c", &ConnectRequest::v(V5));
        world.publish_with(client, "t", "x", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(n as u16)]);
        !world.is_closed(client)
    }),
    ("inflight_max", 3, |world, n| {
        let client = world.connect("c", &ConnectRequest::v(V5));
        world.subscribe(client, "t", QoS::AtLeastOnce);
        for _ in 0..n {
            let publisher = world.connect("publisher", &ConnectRequest::v(V5));
            world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
        }
        world.take(client).len() as u64 == n
    }),
];

/// Limits of what a client may leave outstanding.
const WINDOWS: [Row; 2] = [
    // A client of MQTT 5 is disconnected [MQTT-3.3.4-7].
    ("receive_max", 3, |world, n| {
        let client = world.connect("c", &ConnectRequest::v(V5));
        for packet_id in 1..=n {
            world.publish(client, "t", "x", QoS::ExactlyOnce, packet_id as u16);
        }
        !world.is_closed(client)
    }),
    // Packets of an MQTT 3 client wait for its PUBREL.
    ("awaiting_rel_max", 3, |world, n| {
        let client = world.connect("c", &ConnectRequest::v(V311));
        for packet_id in 1..=n {
            world.publish(client, "t", "x", QoS::ExactlyOnce, packet_id as u16);
        }
        let all = world.take(client).len() as u64 == n;
        world.ack(client, Packet::PubRel, 1);
        let after = world.take(client);
        assert!(after.contains(&Got::Ack("PUBCOMP", 1, 0)));
        assert_eq!(after.contains(&Got::Ack("PUBREC", n as u16, 0)), !all, "it comes in its turn");
        all
    }),
];

fn takes((name, _, takes): &Row, limit: u64, amount: u64) -> bool {
    let mut world = World::with(1, |limits| limits.set(name, limit).unwrap());
    takes(&mut world, amount)
}

#[test]
fn values_up_to_a_limit_are_accepted_and_larger_ones_refused() {
    for row in ROWS.iter().chain(&WINDOWS) {
        let (name, limit, _) = row;
        assert!(takes(row, *limit, *limit), "{name}: {limit} of {limit}");
        assert!(!takes(row, *limit, limit + 1), "{name}: {} of {limit}", limit + 1);
        assert!(takes(row, limit + 1, limit + 1), "{name}: it is another limit that was in the way");
    }
}

/// Limits of bytes. The least value for one message depends on how the engine stores it; two equal
/// messages need twice as much.
const BYTES: [Row; 3] = [
    ("session_queue_bytes_max", 2000, |world, n| queued(world, n, &letters(2000)).len() as u64 == n),
    ("retained_bytes_max", 0, |world, n| retains(world, n, &letters(2000))),
    ("retained_client_bytes_max", 0, |world, n| retains(world, n, &letters(2000))),
];

#[test]
fn two_messages_are_charged_twice_the_bytes_of_one() {
    for row in &BYTES {
        // The least limit that accepts so many.
        let least = |amount: u64| {
            let (mut low, mut high) = (row.1, 20_000);
            assert!(!takes(row, low, amount) && takes(row, high, amount));
            while high - low > 1 {
                let middle = (low + high) / 2;
                if takes(row, middle, amount) { high = middle } else { low = middle }
            }
            high
        };
        let one = least(1);
        assert!((2000..2500).contains(&one), "{}: {one} bytes for a message of 2,000", row.0);
        assert_eq!(least(2), 2 * one, "{}", row.0);
        assert_eq!(least(3), 3 * one, "{}", row.0);
    }
}

/// Limits of time: milliseconds until the effect, and their accuracy.
struct Time {
    name: &'static str,
    value: u64,
    due_ms: u64,
    granule_ms: u64,
    /// Starts the time.
    begin: fn(&mut World) -> ClientId,
    /// Whether the effect has happened.
    is_over: fn(&mut World, ClientId) -> bool,
}

fn is_closed(world: &mut World, client: ClientId) -> bool {
    world.is_closed(client)
}

fn is_forgotten(world: &mut World, _: ClientId) -> bool {
    world.shards[0].client("c").is_none()
}

const TIMES: [Time; 7] = [
    Time {
        name: "connect_timeout_ms",
        value: 500,
        due_ms: 500,
        granule_ms: 10,
        begin: |world| world.open(V5),
        is_over: is_closed,
    },
    Time {
        name: "keep_alive_max_s",
        value: 10,
        // One and a half times [MQTT-3.1.2-22].
        due_ms: 15_000,
        granule_ms: 1000,
        begin: |world| world.connect("c", &ConnectRequest { keep_alive_s: 0, ..ConnectRequest::v(V5) }),
        is_over: is_closed,
    },
    Time {
        name: "session_expiry_max_s",
        value: 3,
        due_ms: 3000,
        granule_ms: 1000,
        begin: |world| {
            let client = world.connect("c", &persistent());
            world.lose(client);
            client
        },
        is_over: is_forgotten,
    },
    Time {
        name: "session_expiry_v3_s",
        value: 3,
        due_ms: 3000,
        granule_ms: 1000,
        begin: |world| {
            let client = world.connect("c", &ConnectRequest { clean: false, ..ConnectRequest::v(V311) });
            world.lose(client);
            client
        },
        is_over: is_forgotten,
    },
    Time {
        name: "will_delay_max_s",
        value: 3,
        due_ms: 3000,
        granule_ms: 1000,
        begin: |world| {
            let watcher = world.connect("watcher", &ConnectRequest::v(V5));
            world.subscribe(watcher, "will", QoS::AtMostOnce);
            let will = Some(("will", "gone", QoS::AtMostOnce, false));
            let client = world.connect("c", &ConnectRequest { will, will_delay_s: 100, ..persistent() });
            world.lose(client);
            watcher
        },
        is_over: |world, watcher| !world.take(watcher).is_empty(),
    },
    // An MQTT 3 client that is not read because too much waits behind a missing PUBREL is read
    // again.
    Time {
        name: "awaiting_rel_timeout_ms",
        value: 700,
        due_ms: 700,
        granule_ms: 10,
        begin: |world| {
            let client = world.connect("c", &ConnectRequest { clean: false, ..ConnectRequest::v(V311) });
            for packet_id in 1..=4 {
                world.publish(client, "t", "x", QoS::ExactlyOnce, packet_id);
            }
            assert_eq!(world.take(client).len(), 1);
            client
        },
        is_over: |world, client| !world.take(client).is_empty(),
    },
    // A socket that has accepted nothing for longer is too slow.
    Time {
        name: "outbound_burst_ms",
        value: 700,
        due_ms: 701,
        granule_ms: 0,
        begin: |world| {
            let reader = world.connect("c", &ConnectRequest::v(V5));
            world.subscribe(reader, "t", QoS::AtMostOnce);
            world.take(reader);
            world.takes(reader, Some(0));
            let publisher = world.connect("publisher", &ConnectRequest::v(V5));
            world.publish(publisher, "t", &letters(5000), QoS::AtMostOnce, 0);
            publisher
        },
        is_over: |world, publisher| {
            let before = world.shards[0].counters().messages_dropped_queue_full;
            world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
            world.shards[0].counters().messages_dropped_queue_full > before
        },
    },
];

#[test]
fn time_limits_are_exact() {
    for Time { name, value, due_ms, granule_ms, begin, is_over } in TIMES {
        let mut world = World::with(1, |limits: &mut Limits| {
            limits.set(name, value).unwrap();
            limits.awaiting_rel_max = 1;
            limits.slots_max = 3;
            limits.outbound_bytes_max = 4096;
        });
        let client = begin(&mut world);
        world.pass_ms(due_ms - 1);
        assert!(!is_over(&mut world, client), "{name}: it is early");
        world.pass_ms(1 + granule_ms);
        assert!(is_over(&mut world, client), "{name}: it is late");
    }
}

/// A shell that sleeps until the time given by a shard is always in time.
#[test]
fn a_shell_that_sleeps_until_the_next_deadline_misses_none() {
    for Time { name, value, due_ms, granule_ms, begin, is_over } in TIMES {
        if granule_ms == 0 {
            continue;
        }
        let mut world = World::with(1, |limits: &mut Limits| {
            limits.set(name, value).unwrap();
            limits.awaiting_rel_max = 1;
            limits.slots_max = 3;
        });
        let client = begin(&mut world);
        let until_ms = world.now.mono_ms + due_ms + granule_ms;
        let mut steps = 0;
        while let Some(next_ms) = world.shards[0].next_deadline_ms().filter(|next_ms| *next_ms <= until_ms) {
            let ms = next_ms.saturating_sub(world.now.mono_ms).max(1);
            world.now = world.now.plus_ms(ms);
            world.drive();
            steps += 1;
            assert!(steps < 30, "{name}: {steps} times awake for nothing");
        }
        assert!(is_over(&mut world, client), "{name}: it is late");
    }
    assert_eq!(World::new(1).shards[0].next_deadline_ms(), None);
}

#[test]
fn timers_from_before_a_resume_do_not_affect_the_session() {
    // It is away twice, each time for less than its session expiry and its will delay.
    let mut world = World::new(1);
    let watcher = world.connect("watcher", &ConnectRequest::v(V5));
    world.subscribe(watcher, "will", QoS::AtMostOnce);
    let will = Some(("will", "gone", QoS::AtMostOnce, false));
    let request = || ConnectRequest {
        will,
        will_delay_s: 10,
        properties: vec![Property::SessionExpiry(10)],
        ..persistent()
    };
    for _ in 0..3 {
        let client = world.connect("c", &request());
        world.lose(client);
        world.pass_ms(7_000);
    }
    let client = world.connect("c", &request());
    world.pass_ms(20_000);
    assert!(!world.is_closed(client));
    assert_eq!(world.take(watcher), [], "no will of an earlier life");
    world.lose(client);
    world.pass_ms(9_000);
    assert!(world.shards[0].client("c").is_some());
    world.send(watcher, &Packet::PubAck(Ack::new(id(1), ReasonCode::SUCCESS)));
    world.pass_ms(2_000);
    assert!(world.shards[0].client("c").is_none());
    assert_eq!(world.take(watcher).len(), 1);
}

/// A shard gets other limits while it runs: what is there stays, and what comes then is judged by
/// them. So is what no plugin decides.
#[test]
fn limits_and_the_rule_without_a_decision_change_while_the_shard_runs() {
    let set = |world: &mut World, change: fn(&mut Limits), allow: bool| {
        let mut limits = Limits::default();
        change(&mut limits);
        world.shards[0].set_rules(Arc::new(limits), allow);
    };
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(V5));
    let first = |world: &mut World, filter: &str| world.subscribe(client, filter, QoS::AtMostOnce)[0];
    assert_eq!((first(&mut world, "a"), first(&mut world, "b")), (0, 0));
    set(&mut world, |limits| limits.subscriptions_max = 1, true);
    assert_eq!((first(&mut world, "a"), first(&mut world, "c")), (0, 0x97), "what is there stays");
    set(&mut world, |limits| limits.shard_subscriptions_max = 2, true);
    assert_eq!(first(&mut world, "c"), 0x97);
    set(&mut world, |_| {}, true);
    assert_eq!(first(&mut world, "c"), 0);
    set(&mut world, |limits| limits.retained_messages_max = 0, true);
    world.publish_with(client, "kept", "1", QoS::AtMostOnce, 0, true, &[]);
    assert_eq!(first(&mut world, "kept"), 0);
    assert_eq!(world.take(client), [], "it was not stored");
    set(&mut world, |_| {}, true);
    world.publish_with(client, "later", "2", QoS::AtMostOnce, 0, true, &[]);
    assert_eq!(first(&mut world, "later"), 0);
    assert!(matches!(world.take(client)[..], [Got::Publish { .. }]), "it was stored");
    assert!(publishes(&mut world, "a", "x", &[]));
    world.take(client);
    set(&mut world, |_| {}, false);
    assert!(!publishes(&mut world, "a", "x", &[]));
    set(&mut world, |_| {}, true);
    assert!(publishes(&mut world, "a", "x", &[]));
}
