//! The table of hook points times actions of a link: each point, each flow, one plugin and each
//! place among three, MQTT 3.1.1 and 5. The expected results are computed here from the design's
//! section on hook points, not from the broker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use grapnel_engine::hook::notification::BrokerView;
use grapnel_engine::hook::{FaultPolicy, HookPoint, Kind, Link};
use grapnel_engine::packet::{Ack, Packet, Property, QoS, SubscriptionOptions, Version};
use grapnel_engine::shard::OwnedChange;
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{Change, Field, Flow, Slice, Status, Ticket};

use crate::hooks::{Call, complete, link, mount};
use crate::world::{ClientId, ConnectRequest, Got, World};

/// An action of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Returns this at once, with or without a change.
    Returns(Flow, bool),
    /// Defers, and answers this later.
    Defers(Flow, bool),
    /// Makes a change, defers, and answers this later.
    ChangesAndDefers(Flow),
    /// Defers, with or without a change, and never answers.
    Deadline(bool),
}

const ACTS: [Act; 15] = [
    Act::Returns(Flow::CONTINUE, false),
    Act::Returns(Flow::CONTINUE, true),
    Act::Returns(Flow::STOP, false),
    Act::Returns(Flow::STOP, true),
    Act::Returns(Flow::FAULT, true),
    Act::Defers(Flow::CONTINUE, false),
    Act::Defers(Flow::CONTINUE, true),
    Act::Defers(Flow::STOP, false),
    Act::Defers(Flow::STOP, true),
    Act::Defers(Flow::FAULT, true),
    Act::ChangesAndDefers(Flow::CONTINUE),
    Act::ChangesAndDefers(Flow::STOP),
    Act::ChangesAndDefers(Flow::FAULT),
    Act::Deadline(false),
    Act::Deadline(true),
];

/// The visible result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    AsItWas,
    Changed,
    Refused,
}

/// A point: how its event is produced, what can be changed there, and how a change is visible.
struct Row {
    point: HookPoint,
    /// Before the links act.
    prepare: fn(&mut World, Version),
    /// Produces the event, once.
    provoke: fn(&mut World, Version),
    changes: fn() -> Vec<OwnedChange>,
    /// The visible result of the event.
    outcome: fn(&mut World, Version) -> Outcome,
}

fn change(field: Field, number: u64, text: &str) -> OwnedChange {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    OwnedChange { field, index: 0, number, bytes, key: Bytes::new() }
}

fn user_property() -> Vec<OwnedChange> {
    let index = grapnel_plugin_abi::raw::APPEND;
    let (bytes, key) = (Bytes::from_static(b"value-of-it"), Bytes::from_static(b"key"));
    vec![OwnedChange { field: Field::USER_PROPERTY, index, number: 0, bytes, key }]
}

/// The clients of every world, in order: an MQTT 5 subscriber, and the client of the event.
const SUBSCRIBER: ClientId = 0;
const CLIENT: ClientId = 1;

fn request<'a>(version: Version) -> ConnectRequest<'a> {
    ConnectRequest { keep_alive_s: 60, ..ConnectRequest::v(version) }
}

fn persistent<'a>(version: Version) -> ConnectRequest<'a> {
    let properties = if version.is_v5() { vec![Property::SessionExpiry(100)] } else { Vec::new() };
    ConnectRequest { clean: false, properties, ..request(version) }
}

fn nothing(_: &mut World, _: Version) {}

fn connect(world: &mut World, version: Version) {
    let client = world.open(version);
    assert_eq!(client, CLIENT);
    world.send_connect(client, "client", &request(version));
}

fn connected(world: &mut World, version: Version) {
    assert_eq!(world.connect("client", &request(version)), CLIENT);
}

fn stored(world: &mut World, version: Version) {
    assert_eq!(world.connect("client", &persistent(version)), CLIENT);
}

fn publish(world: &mut World, _: Version) {
    world.publish(CLIENT, "t", "own", QoS::AtLeastOnce, 9);
}

fn no_changes() -> Vec<OwnedChange> {
    Vec::new()
}

fn always(_: &mut World, _: Version) -> Outcome {
    Outcome::AsItWas
}

/// What the subscriber received: nothing, the original message, or the changed one.
fn delivered(world: &mut World, _: Version) -> Outcome {
    match &world.take(SUBSCRIBER)[..] {
        [Got::Publish { payload, .. }] if payload == b"own" => Outcome::AsItWas,
        [Got::Publish { payload, .. }] if payload == b"new" => Outcome::Changed,
        [] => Outcome::Refused,
        other => panic!("{other:?}"),
    }
}

fn details(world: &World, of: fn(&grapnel_engine::shard::ClientDetails) -> bool) -> Outcome {
    match world.shards[0].client("client") {
        Some(client) if of(&client) => Outcome::Changed,
        Some(_) => Outcome::AsItWas,
        None => Outcome::Refused,
    }
}

fn filters(world: &World) -> Vec<String> {
    let (rows, _) = world.shards[0].subscriptions(Some("client"), 0, 10);
    rows.into_iter().map(|row| row.filter).collect()
}

fn notify_broker(point: HookPoint) -> impl Fn(&mut World) {
    move |world| {
        let broker = BrokerView { version: "1", uptime_ms: 1, listeners: &[] };
        world.shards[0].notify_broker(point, broker);
    }
}

#[allow(clippy::too_many_lines, reason = "it is the table")]
fn row(point: HookPoint) -> Row {
    let notified = |prepare, provoke| Row { point, prepare, provoke, changes: no_changes, outcome: always };
    match point {
        HookPoint::ClientConnect => Row {
            point,
            prepare: nothing,
            provoke: connect,
            changes: || vec![change(Field::KEEP_ALIVE_S, 7, "")],
            outcome: |world, _| details(world, |client| client.summary.keep_alive_s == 7),
        },
        HookPoint::ClientAuthenticate => Row {
            point,
            prepare: nothing,
            provoke: connect,
            changes: || vec![change(Field::VERDICT, 1, ""), change(Field::IS_SUPERUSER, 1, "")],
            outcome: |world, _| details(world, |client| client.superuser),
        },
        HookPoint::ClientAuthorize => Row {
            point,
            prepare: connected,
            provoke: publish,
            // An Allow is not visible, so the change is a refusal with its own code.
            changes: || vec![change(Field::REASON_CODE, 0x97, ""), change(Field::VERDICT, 2, "")],
            outcome: |world, version| match (&world.take(CLIENT)[..], delivered(world, version)) {
                ([Got::Ack("PUBACK", 9, 0x97)], Outcome::Refused) => Outcome::Changed,
                (_, outcome) => outcome,
            },
        },
        HookPoint::ClientConnack => Row {
            point,
            prepare: nothing,
            provoke: connect,
            changes: user_property,
            outcome: |world, _| {
                let raw = world.take_raw(CLIENT);
                let changed = raw.windows(11).any(|window| window == b"value-of-it");
                if changed { Outcome::Changed } else { Outcome::AsItWas }
            },
        },
        HookPoint::ClientConnected | HookPoint::SessionCreated => notified(nothing, connect),
        HookPoint::ClientDisconnected => notified(connected, |world, _| world.lose(CLIENT)),
        HookPoint::ClientSubscribe => Row {
            point,
            prepare: connected,
            provoke: |world, _| {
                world.send_subscribe(CLIENT, "as-it-was", SubscriptionOptions::default(), None)
            },
            changes: || vec![change(Field::FILTER, 0, "changed")],
            outcome: |world, _| match filters(world).first().map(String::as_str) {
                Some("changed") => Outcome::Changed,
                Some(_) => Outcome::AsItWas,
                None => Outcome::Refused,
            },
        },
        HookPoint::ClientUnsubscribe => Row {
            point,
            prepare: |world, version| {
                connected(world, version);
                world.subscribe(CLIENT, "as-it-was", QoS::AtMostOnce);
                world.subscribe(CLIENT, "changed", QoS::AtMostOnce);
            },
            provoke: |world, _| world.unsubscribe(CLIENT, "as-it-was"),
            changes: || vec![change(Field::FILTER, 0, "changed")],
            outcome: |world, _| match &filters(world)[..] {
                [stays] if stays == "changed" => Outcome::AsItWas,
                [stays] if stays == "as-it-was" => Outcome::Changed,
                _ => Outcome::Refused,
            },
        },
        HookPoint::SessionResumed => notified(
            |world, version| {
                stored(world, version);
                world.lose(CLIENT);
            },
            |world, version| drop(world.try_connect("client", &persistent(version))),
        ),
        HookPoint::SessionDiscarded => notified(stored, |world, version| {
            world.try_connect("client", &request(version));
        }),
        HookPoint::SessionTakenover => notified(stored, |world, version| {
            world.try_connect("client", &persistent(version));
        }),
        HookPoint::SessionTerminated => notified(connected, |world, _| {
            world.lose(CLIENT);
            world.pass_ms(10);
        }),
        HookPoint::SessionSubscribed => {
            notified(connected, |world, _| drop(world.subscribe(CLIENT, "a", QoS::AtMostOnce)))
        }
        HookPoint::SessionUnsubscribed => notified(
            |world, version| {
                connected(world, version);
                world.subscribe(CLIENT, "a", QoS::AtMostOnce);
            },
            |world, _| world.unsubscribe(CLIENT, "a"),
        ),
        HookPoint::MessagePublish => Row {
            point,
            prepare: connected,
            provoke: publish,
            changes: || vec![change(Field::PAYLOAD, 0, "new")],
            outcome: delivered,
        },
        HookPoint::MessageDelivered => Row {
            point,
            prepare: connected,
            provoke: publish,
            changes: || vec![change(Field::PAYLOAD, 0, "new")],
            outcome: delivered,
        },
        HookPoint::MessageAcked => notified(
            |world, version| {
                connected(world, version);
                publish(world, version);
            },
            |world, _| {
                let id = world.take(SUBSCRIBER).iter().map(Got::id).max().expect("a delivery");
                world.ack(SUBSCRIBER, |ack: Ack<'static>| Packet::PubAck(ack), id);
            },
        ),
        HookPoint::MessageDropped => notified(
            |world, version| {
                connected(world, version);
                world.unsubscribe(SUBSCRIBER, "#");
            },
            publish,
        ),
        HookPoint::MessageRetained => notified(connected, |world, _| {
            world.publish_with(CLIENT, "t", "kept", QoS::AtMostOnce, 0, true, &[]);
        }),
        HookPoint::PacketReceived | HookPoint::PacketSent => {
            notified(connected, |world, _| world.send(CLIENT, &Packet::PingReq))
        }
        HookPoint::BrokerStarting => {
            notified(nothing, |world, _| notify_broker(HookPoint::BrokerStarting)(world))
        }
        HookPoint::BrokerStarted => {
            notified(nothing, |world, _| notify_broker(HookPoint::BrokerStarted)(world))
        }
        HookPoint::BrokerStopping => {
            notified(nothing, |world, _| notify_broker(HookPoint::BrokerStopping)(world))
        }
        HookPoint::BrokerStopped => {
            notified(nothing, |world, _| notify_broker(HookPoint::BrokerStopped)(world))
        }
    }
}

/// The expected result: the links that are called, and what is visible.
fn expected(row: &Row, run: CaseRun) -> (Vec<usize>, Outcome) {
    let (point, CaseRun { act, policy, links, place, version }) = (row.point, run);
    let (flow, changed) = match act {
        Act::Returns(flow, changed) => (flow, changed),
        Act::Defers(flow, changed) if point.may_defer() => (flow, changed),
        Act::ChangesAndDefers(flow) if point.may_defer() => (flow, true),
        // A point that cannot wait gives no ticket, and a Defer without one is a fault.
        Act::Defers(..) | Act::ChangesAndDefers(_) | Act::Deadline(_) => (Flow::FAULT, false),
    };
    let denies = flow == Flow::FAULT && policy == FaultPolicy::Deny;
    let ends = flow == Flow::STOP || denies;
    let called = if ends { (0..=place).collect() } else { (0..links).collect() };
    // The changes of a failed link are discarded. A CONNACK of MQTT 3.1.1 has no properties to
    // change.
    let shows = !(row.changes)().is_empty() && (point != HookPoint::ClientConnack || version.is_v5());
    let outcome = match flow {
        // A notification and a CONNACK cannot be refused.
        Flow::FAULT if denies && point.kind() == Kind::Fold && point != HookPoint::ClientConnack => {
            Outcome::Refused
        }
        Flow::FAULT => Outcome::AsItWas,
        _ if changed && shows => Outcome::Changed,
        _ => Outcome::AsItWas,
    };
    // MQTT 3.1.1 has no reason code for a refused publish.
    let blind = point == HookPoint::ClientAuthorize && !version.is_v5() && outcome == Outcome::Changed;
    (called, if blind { Outcome::Refused } else { outcome })
}

fn set_all(call: &Call<'_>, changes: &[OwnedChange]) {
    for change in changes {
        let change = Change {
            field: change.field,
            index: change.index,
            number: change.number,
            bytes: Slice::of(&change.bytes),
            key: Slice::of(&change.key),
        };
        // SAFETY: the context is that of the running event, and what the change points to lives
        // through the call.
        let status = unsafe { (host_api(1, 1).set)(call.ctx(), &change) };
        assert_eq!(status, Status::OK);
    }
}

/// State that the links share.
#[derive(Default)]
struct Fixture {
    armed: Cell<bool>,
    called: RefCell<Vec<usize>>,
    ticket: Cell<Option<Ticket>>,
}

fn actor(
    fixture: &Rc<Fixture>,
    row: &Row,
    (act, policy): (Act, FaultPolicy),
    number: usize,
    acts: bool,
) -> Link {
    let fixture = Rc::clone(fixture);
    let changes = row.changes;
    link(number as u32 + 1, 0, policy, move |call: &mut Call<'_>| {
        if !fixture.armed.get() {
            return Flow::CONTINUE;
        }
        fixture.called.borrow_mut().push(number);
        match act {
            _ if !acts => Flow::CONTINUE,
            Act::Returns(flow, changed) => {
                if changed {
                    set_all(call, &changes());
                }
                flow
            }
            Act::Defers(..) | Act::ChangesAndDefers(_) | Act::Deadline(_) => {
                if matches!(act, Act::ChangesAndDefers(_) | Act::Deadline(true)) {
                    set_all(call, &changes());
                }
                fixture.ticket.set(call.defer().ok());
                Flow::DEFER
            }
        }
    })
}

/// One case.
#[derive(Clone, Copy, Debug)]
struct CaseRun {
    act: Act,
    policy: FaultPolicy,
    links: usize,
    /// Index of the link that acts.
    place: usize,
    version: Version,
}

fn run(row: &Row, run: CaseRun) {
    let CaseRun { act, policy, links, place, version } = run;
    let mut world = World::new(1);
    let subscriber = world.connect("subscriber", &ConnectRequest::v(Version::V5));
    assert_eq!(subscriber, SUBSCRIBER);
    world.subscribe(subscriber, "#", QoS::AtLeastOnce);
    let fixture = Rc::new(Fixture::default());
    let chain =
        (0..links).map(|number| (row.point, actor(&fixture, row, (act, policy), number, number == place)));
    mount(&mut world, chain.collect());
    // The subscription in force is rechecked if the rules have changed.
    world.pass_ms(10);
    (row.prepare)(&mut world, version);
    // CONNACK and SUBACK are not part of the result.
    if row.point != HookPoint::MessageAcked {
        (0..=CLIENT).for_each(|client| world.forget(client));
    }
    fixture.armed.set(true);
    (row.provoke)(&mut world, version);
    if let (Some(ticket), true) = (fixture.ticket.get(), row.point.may_defer()) {
        match act {
            Act::Defers(flow, changed) => {
                let changes = if changed { (row.changes)() } else { Vec::new() };
                complete(&mut world, ticket, flow, changes);
            }
            Act::ChangesAndDefers(flow) => complete(&mut world, ticket, flow, Vec::new()),
            _ => world.pass_ms(1_100),
        }
    }
    fixture.armed.set(false);
    let outcome = (row.outcome)(&mut world, version);
    let seen = (fixture.called.take(), outcome);
    assert_eq!(seen, expected(row, run), "{} {run:?}", row.point.name());
}

#[test]
fn every_point_accepts_every_flow() {
    for point in HookPoint::ALL {
        let row = row(*point);
        assert!(point.kind() == Kind::Run || !(row.changes)().is_empty(), "{} has a change", point.name());
        for act in ACTS {
            for version in [Version::V311, Version::V5] {
                for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
                    for (links, place) in [(1, 0), (3, 0), (3, 1), (3, 2)] {
                        run(&row, CaseRun { act, policy, links, place, version });
                    }
                }
            }
        }
    }
}
