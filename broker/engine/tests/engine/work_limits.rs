//! Work for one client is sliced, bounded and charged to that client: large fan-outs, many filters
//! with slow plugins, deep filters.

use grapnel_engine::codec;
use grapnel_engine::hook::{FaultPolicy, HookPoint, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::packet::{
    Disconnect, Filters, Packet, Properties, Property, Publish, QoS, Subscribe, SubscriptionOptions,
    TopicFilters, Unsubscribe, Version, push_filter, push_property, push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Command, Lane, Pause, Reading, Scope};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, later};
use crate::hooks::{Call, complete, link, mount};
use crate::world::{ClientId, ConnectRequest, Got, World, id};

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(packet, version, &mut bytes);
    bytes
}

/// SUBSCRIBE with many filters, QoS 0.
fn subscribe_bytes(filters: impl Iterator<Item = String>) -> Vec<u8> {
    let mut payload = Vec::new();
    for filter in filters {
        push_subscription(&mut payload, &filter, SubscriptionOptions::of_qos(QoS::AtMostOnce));
    }
    let filters = Filters::from_encoded(&payload);
    let subscribe = Subscribe { packet_id: id(7), properties: Properties::default(), filters };
    encoded(&Packet::Subscribe(subscribe), Version::V311)
}

fn publish_bytes(topic: &str, payload: &[u8]) -> Vec<u8> {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        properties: Properties::default(),
        payload,
    };
    encoded(&Packet::Publish(publish), Version::V311)
}

fn in_force(world: &World, client: &str) -> usize {
    world.shards[0].subscriptions(Some(client), 0, 1_000_000).0.len()
}

fn many_subscribers(world: &mut World, count: usize) -> Vec<ClientId> {
    let mut all = Vec::new();
    for n in 0..count {
        let client = world.connect(&format!("s{n}"), &ConnectRequest::v(Version::V5));
        world.subscribe(client, "all", QoS::AtMostOnce);
        all.push(client);
    }
    all
}

#[test]
fn one_read_processes_no_more_publishes_than_a_step_allows() {
    let mut world = World::with(1, |limits| limits.turn_budget_deliveries = 64);
    let subs = many_subscribers(&mut world, 20);
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    let before = world.shards[0].counters().messages_sent;
    world.offer_bytes(publisher, &publish_bytes("all", b"1").repeat(100));
    // Three fan-outs of 20 are within 64, the fourth exceeds it.
    assert_eq!(world.shards[0].counters().messages_sent - before, 80);
    assert_eq!(world.reading(publisher), Reading::Paused(Pause::Work));
    assert!(world.shards[0].has_work());
    world.drive();
    assert_eq!(world.reading(publisher), Reading::Reading);
    for sub in subs {
        assert_eq!(world.take_plain(sub).len(), 100);
    }
}

#[test]
fn a_publisher_waits_for_its_large_fan_outs_and_they_are_charged() {
    let mut world = World::with(1, |limits| limits.turn_budget_deliveries = 64);
    let subs = many_subscribers(&mut world, 100);
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    for _ in 0..200 {
        world.offer_bytes(publisher, &publish_bytes("all", &[b'x'; 10_000]));
    }
    assert_eq!(world.reading(publisher), Reading::Paused(Pause::Work));
    let messages = world.shards[0].ledger().messages;
    assert!((150_000..400_000).contains(&messages), "{messages} bytes of fan-outs");
    world.drive();
    for sub in subs {
        assert_eq!(world.take_plain(sub).len(), 200);
    }
}

#[test]
fn a_sliced_fan_out_delivers_nothing_after_unsuback() {
    let mut world = World::with(1, |limits| limits.turn_budget_deliveries = 64);
    let subs = many_subscribers(&mut world, 200);
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    world.offer_bytes(publisher, &publish_bytes("all", b"1"));
    let mut payload = Vec::new();
    push_filter(&mut payload, "all");
    let filters = TopicFilters::from_encoded(&payload);
    let unsubscribe = Unsubscribe { packet_id: id(8), properties: Properties::default(), filters };
    world.offer_bytes(subs[199], &encoded(&Packet::Unsubscribe(unsubscribe), Version::V5));
    world.drive();
    let got = world.take_plain(subs[199]);
    assert!(matches!(got[..], [Got::UnsubAck(..)]), "{got:?}");
    assert_eq!(world.take_plain(subs[198]).len(), 1);
}

/// The connection ends while some filters of a SUBSCRIBE are in force and the others are authorized
/// again.
#[test]
fn an_interrupted_reauthorization_leaves_the_granted_filters_in_force() {
    let mut world = World::with(1, |limits| {
        limits.turn_budget_deliveries = 64;
        limits.session_queue_messages_max = 4;
    });
    let request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
    let sub = world.connect("sub", &request);
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    world.offer_bytes(sub, &subscribe_bytes((0..100).map(|n| format!("f/{n:03}"))));
    let now = world.now;
    for _ in 0..100 {
        if in_force(&world, "sub") > 0 {
            break;
        }
        world.shards[0].advance(now);
    }
    assert!((1..100).contains(&in_force(&world, "sub")), "{} in force", in_force(&world, "sub"));
    world.shards[0].command(Command::Invalidate(Scope::All));
    world.shards[0].advance(now);
    world.lose(sub);
    let sub = world.connect("sub", &request);
    world.forget(sub);
    world.pass_ms(60_000);
    for n in 0..10 {
        world.publish_with(publisher, "f/000", &n.to_string(), QoS::AtMostOnce, 0, true, &[]);
    }
    assert_eq!(world.take_plain(sub).len(), 10);
}

#[test]
fn a_subscribe_keeps_to_defer_window_and_its_end_frees_its_tickets() {
    let mut world = World::with(1, |limits| {
        limits.tickets_max = 100;
        limits.defer_window = 64;
    });
    let one = world.connect("one", &ConnectRequest::v(Version::V311));
    let two = world.connect("two", &ConnectRequest::v(Version::V311));
    let tickets = DeferredTickets::default();
    let slow = |point, identity| {
        let tickets = tickets.clone();
        let mut link = link(identity, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if let Ok(ticket) = call.defer() {
                tickets.note("", ticket);
            }
            Flow::DEFER
        });
        link.plugin = PluginHandle(1);
        (point, link)
    };
    let slow = vec![slow(HookPoint::ClientAuthenticate, 1), slow(HookPoint::ClientAuthorize, 2)];
    mount(&mut world, slow);
    let filters = || subscribe_bytes((0..1000).map(|n| n.to_string()));
    world.send_bytes(one, &filters());
    assert_eq!(tickets.about().len(), 64, "its window");
    world.lose(one);
    world.send_bytes(two, &filters());
    assert_eq!(tickets.about().len(), 128, "the tickets of the first are free");
    // 36 are left. A missing ticket is no fault of the plugin.
    for n in 0..200 {
        let client = world.open(Version::V5);
        world.send_connect(
            client,
            &format!("c{n}"),
            &ConnectRequest { username: Some("ann"), ..ConnectRequest::v(Version::V5) },
        );
    }
    assert_eq!(world.shards[0].outbox().tripped, []);
}

#[test]
fn the_filters_of_a_subscribe_are_authorized_within_defer_window() {
    let mut world = World::with(1, |limits| limits.defer_window = 8);
    let client = world.connect("c", &ConnectRequest::v(Version::V311));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientAuthorize, later(1, 0, FaultPolicy::Deny, &tickets))]);
    world.send_bytes(client, &subscribe_bytes((0..100).map(|n| n.to_string())));
    let mut place = 0;
    while place < tickets.about().len() {
        assert!(tickets.about().len() - place <= 8);
        complete(&mut world, tickets.ticket(place), Flow::STOP, crate::deferral::allow());
        place += 1;
    }
    assert_eq!(world.take(client), [Got::SubAck(7, vec![0; 100])]);
}

#[test]
fn levels_of_filters_with_wildcards_are_charged() {
    let mut world = World::new(1);
    let charged = |world: &mut World, client: ClientId, filter: &str| {
        world.shards[0].settle_memory();
        let before = world.shards[0].ledger().sessions;
        world.subscribe(client, filter, QoS::AtMostOnce);
        world.shards[0].settle_memory();
        world.shards[0].ledger().sessions - before
    };
    // Two clients, so that each has its first subscription.
    let first = world.connect("c", &ConnectRequest::v(Version::V311));
    let second = world.connect("d", &ConnectRequest::v(Version::V311));
    let deep = "x/".repeat(60);
    let (literal, wild) =
        (charged(&mut world, first, &format!("{deep}y")), charged(&mut world, second, &format!("{deep}#")));
    assert_eq!(wild - literal, 61 * 56);
}

/// A DISCONNECT that sets an expiry after 0 at CONNECT is a protocol error [MQTT-3.14.2-2], also if
/// its connection closes before its turn: the will is sent.
#[test]
fn an_invalid_disconnect_that_waits_does_not_delete_the_will() {
    for lost in [false, true] {
        let mut world = World::new(1);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "w", QoS::AtMostOnce);
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
        let will = Some(("w", "gone", QoS::AtMostOnce, false));
        let client = world.connect("c", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        let mut section = Vec::new();
        push_property(&mut section, Property::SessionExpiry(50));
        let properties = Properties::from_encoded(&section);
        world.send(client, &Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties }));
        if lost {
            world.lose(client);
        }
        let mut place = 0;
        while place < tickets.about().len() {
            complete(&mut world, tickets.ticket(place), Flow::CONTINUE, Vec::new());
            place += 1;
        }
        assert_eq!(world.take_plain(sub).len(), 1, "lost: {lost}");
    }
}

#[test]
fn a_refused_connack_is_traced() {
    let mut world = World::new(1);
    let denies = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 2, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(HookPoint::ClientAuthenticate, denies)]);
    world.shards[0].trace_start("c");
    world.try_connect("c", &ConnectRequest::v(Version::V5));
    let lines = world.shards[0].trace_take("c").0;
    let inbound: Vec<_> = lines.iter().map(|line| line.inbound).collect();
    assert_eq!(inbound, [true, false], "{lines:?}");
}

#[test]
fn many_shared_subscriptions_of_a_session_are_updated_in_slices() {
    let mut world = World::with(1, |limits| limits.turn_budget_deliveries = 64);
    let request = ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) };
    let many = world.connect("many", &request);
    let other = world.connect("other", &ConnectRequest::v(Version::V311));
    for client in [many, other] {
        world.send_bytes(client, &subscribe_bytes((0..1000).map(|n| format!("$share/g/f/{n}"))));
        world.forget(client);
    }
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    let to_all = |world: &mut World| {
        (0..1000).for_each(|n| world.publish(publisher, &format!("f/{n}"), "x", QoS::AtMostOnce, 0));
    };
    let leave =
        Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::default() });
    let before = world.work_units();
    world.offer_bytes(many, &encoded(&leave, Version::V311));
    let at_once = world.work_units() - before;
    assert!(at_once <= 70, "{at_once} units of work in one step");
    assert!(world.shards[0].has_work());
    world.drive();
    let all = world.work_units() - before;
    assert!((1000..1100).contains(&all), "{all} units of work");
    to_all(&mut world);
    assert_eq!(world.take_plain(other).len(), 1000, "the one that is there gets all");
    // The client returns before all other clients have been notified of its end.
    let again = world.connect("many", &request);
    world.offer_bytes(again, &encoded(&leave, Version::V311));
    let again = world.connect("many", &request);
    to_all(&mut world);
    to_all(&mut world);
    assert_eq!((world.take_plain(again).len(), world.take_plain(other).len()), (1000, 1000), "each in turn");
}

#[test]
fn a_disconnected_shared_member_subscribed_by_a_plugin_is_picked_last() {
    let mut world = World::new(1);
    let away = world.connect("away", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
    world.lose(away);
    let here = world.connect("here", &ConnectRequest::v(Version::V311));
    world.subscribe(here, "$share/g/t", QoS::AtLeastOnce);
    world.shards[0].command(Command::Subscribe {
        client_id: "away".into(),
        filter: "$share/g/t".into(),
        options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
        id: 0,
    });
    world.drive();
    assert_eq!(in_force(&world, "away"), 1);
    for _ in 0..10 {
        world.publish(here, "t", "x", QoS::AtMostOnce, 0);
    }
    assert_eq!(world.take_plain(here).len(), 10);
}

#[test]
fn messages_of_other_shards_wait_during_large_fan_outs() {
    let mut world = World::with(2, |limits| limits.turn_budget_deliveries = 64);
    let subs: Vec<ClientId> = (0..100)
        .map(|n| {
            let sub = world.connect_at(1, &format!("s{n}-"), &ConnectRequest::v(Version::V311));
            world.subscribe(sub, "all", QoS::AtMostOnce);
            sub
        })
        .collect();
    let publisher = world.connect_at(0, "p", &ConnectRequest::v(Version::V311));
    for _ in 0..300 {
        world.offer_bytes(publisher, &publish_bytes("all", &[b'x'; 1_000]));
    }
    let mut tickets = 0;
    while world.shards[1].takes_messages() {
        let mut one = Vec::new();
        world.shards[0].outbox().take_batch(ShardId(1), Lane::Data, 1, &mut one);
        let Some(envelope) = one.pop() else { break };
        world.shards[1].envelope(ShardId(0), envelope);
        tickets += 1;
    }
    assert_eq!(tickets, 16, "fan-outs that may be under way");
    let now = world.now;
    while !world.shards[1].takes_messages() {
        assert!(world.shards[1].advance(now), "it goes on by itself");
    }
    world.drive();
    for sub in subs {
        assert_eq!(world.take_plain(sub).len(), 300);
    }
}

/// If every member of a shared subscription has reached its limit of waiting messages, each publish
/// examines all of them, and the work is counted.
#[test]
fn shared_members_without_room_that_a_publish_examines_count_as_work() {
    let mut world = World::with(1, |limits| {
        limits.turn_budget_deliveries = 64;
        limits.session_queue_messages_max = 1;
    });
    for n in 0..50 {
        let member = world
            .connect(&n.to_string(), &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
        world.subscribe(member, "$share/g/t", QoS::AtLeastOnce);
        world.lose(member);
    }
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    for packet_id in 1..=50 {
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, packet_id);
    }
    let before = world.work_units();
    world.offer_bytes(publisher, &publish_bytes("t", b"x").repeat(100));
    assert_eq!(world.reading(publisher), Reading::Paused(Pause::Work));
    let requested = world.work_units() - before;
    assert!((64..=150).contains(&requested), "{requested} members asked in a step of 64");
    world.drive();
    assert_eq!(world.reading(publisher), Reading::Reading);
}
