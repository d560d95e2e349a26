//! Owners of sessions: rights belong to the principal that logged in, not to a client identifier,
//! which any client can use.

use std::cell::Cell;
use std::rc::Rc;

use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::limits::SessionOwner;
use grapnel_engine::packet::{Packet, Property, QoS, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Command, Input, Next, Scope};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, allow, later};
use crate::hooks::{Call, Log, complete, link, mount};
use crate::world::{ClientId, ConnectRequest, Got, World, message};

fn stored<'a>(version: Version, username: Option<&'a str>) -> ConnectRequest<'a> {
    let properties = if version.is_v5() { vec![Property::SessionExpiry(1000)] } else { Vec::new() };
    ConnectRequest { clean: false, username, properties, ..ConnectRequest::v(version) }
}

/// A client that connects with another principal's client identifier gets a new session, and
/// nothing of the old one: neither queued messages, nor those in flight, nor later ones.
#[test]
fn another_user_gets_a_new_session() {
    for version in [Version::V311, Version::V5] {
        for (old, new) in [(Some("ann"), Some("bob")), (Some("ann"), None), (None, Some("bob"))] {
            for leaves in [false, true] {
                let mut world = World::new(2);
                let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
                let ann = world.connect("dashboard", &stored(version, old));
                world.subscribe(ann, "secret/#", QoS::AtLeastOnce);
                world.publish(publisher, "secret/1", "in flight", QoS::AtLeastOnce, 1);
                assert_eq!(world.take_plain(ann), [message("secret/1", "in flight", 1)]);
                if leaves {
                    world.disconnect(ann, ReasonCode::SUCCESS);
                    world.publish(publisher, "secret/1", "queued", QoS::AtLeastOnce, 2);
                }
                let (bob, got) = world.try_connect("dashboard", &stored(version, new));
                assert_eq!(got, Some(Got::ConnAck { present: false, code: 0 }), "{old:?} {new:?}");
                assert!(world.is_closed(ann));
                let taken_over = [Got::Disconnect(0x8E)];
                let notified = if leaves || !version.is_v5() { &[] } else { &taken_over[..] };
                assert_eq!(world.take(ann), notified);
                world.publish(publisher, "secret/1", "live", QoS::AtLeastOnce, 3);
                assert_eq!(world.take(bob), [], "{old:?} {new:?} {leaves}");
                // The old session is deleted permanently.
                world.disconnect(bob, ReasonCode::SUCCESS);
                let (ann, got) = world.try_connect("dashboard", &stored(version, old));
                assert_eq!(got, Some(Got::ConnAck { present: false, code: 0 }));
                assert_eq!(world.take(ann), []);
            }
        }
    }
}

/// The same principal resumes its session, from any address and with any password.
#[test]
fn the_same_user_resumes_its_session() {
    for username in [None, Some("ann")] {
        let mut world = World::new(1);
        let ann =
            world.connect("c", &ConnectRequest { password: Some(b"a"), ..stored(Version::V5, username) });
        world.subscribe(ann, "t", QoS::AtLeastOnce);
        let (ann, got) =
            world.try_connect("c", &ConnectRequest { password: Some(b"b"), ..stored(Version::V5, username) });
        assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
        world.publish(ann, "t", "x", QoS::AtMostOnce, 0);
        assert_eq!(world.take_plain(ann), [message("t", "x", 0)]);
    }
}

fn counters(world: &mut World) -> [u64; 3] {
    let counters = world.shards[0].counters();
    [counters.session_owner_discarded, counters.session_owner_refused, counters.session_owner_inherited]
}

/// Only a discarded session of another principal is counted, and only if the client tried to resume
/// it.
#[test]
fn sessions_discarded_for_another_user_are_counted() {
    let mut world = World::new(1);
    let ann = stored(Version::V5, Some("ann"));
    let bob = stored(Version::V5, Some("bob"));
    world.connect("c", &ann);
    world.connect("c", &ann);
    assert_eq!(counters(&mut world), [0, 0, 0]);
    world.connect("c", &bob);
    assert_eq!(counters(&mut world), [1, 0, 0]);
    world.connect("c", &ConnectRequest { clean: true, ..ann });
    assert_eq!(counters(&mut world), [1, 0, 0]);
    // A session that ends with its connection cannot be inherited.
    world.connect("d", &ConnectRequest { username: Some("ann"), ..ConnectRequest::v(Version::V5) });
    world.connect("d", &bob);
    assert_eq!(counters(&mut world), [1, 0, 0]);
}

/// A client without a name that a plugin allowed is another principal than an anonymous client.
#[test]
fn a_nameless_client_allowed_by_a_plugin_is_not_anonymous() {
    let mut world = World::new(1);
    let vouches = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 1, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(HookPoint::ClientAuthenticate, vouches)]);
    let (client, _) = world.try_connect("c", &stored(Version::V5, None));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let (_, got) = world.try_connect("c", &stored(Version::V5, None));
    assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
    mount(&mut world, Vec::new());
    let (_, got) = world.try_connect("c", &stored(Version::V5, None));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 0 }));
}

/// `session_owner = "refuse"`: another principal is refused and changes nothing, with or without a
/// clean start.
#[test]
fn with_refuse_another_user_is_refused() {
    for (version, code) in [(Version::V5, 0x87), (Version::V311, 5)] {
        for (clean, leaves) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut world = World::with(1, |limits| limits.choices.session_owner = SessionOwner::Refuse);
            let ann = world.connect("c", &stored(version, Some("ann")));
            world.subscribe(ann, "t", QoS::AtLeastOnce);
            if leaves {
                world.disconnect(ann, ReasonCode::SUCCESS);
            }
            let (bob, got) =
                world.try_connect("c", &ConnectRequest { clean, ..stored(version, Some("bob")) });
            assert_eq!(got, Some(Got::ConnAck { present: false, code }), "{version:?} {clean} {leaves}");
            assert!(world.is_closed(bob));
            assert_eq!(world.is_closed(ann), leaves);
            assert_eq!(counters(&mut world), [0, 1, 0]);
            let (_, got) = world.try_connect("c", &stored(version, Some("ann")));
            assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
        }
    }
}

/// A link at client.authorize that allows `shared/#` to every client, everything to ann and root,
/// and nothing else.
fn guard(log: &Log) -> Link {
    let log = log.clone();
    link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        let user = call.get_text(Field::USERNAME);
        if user != "ann" {
            log.note(format!("{user} {} {}", call.action(), call.topic()));
        }
        let may = user == "ann" || call.topic().starts_with("shared/");
        call.set(Field::VERDICT, if may { 1 } else { 2 }, "", "");
        Flow::STOP
    })
}

/// A world with `session_owner = "inherit"`. Ann's session has a message in flight and a waiting
/// one, each of a topic that others may receive and of one that they may not. `deliver` says
/// whether deliveries are authorized one by one.
struct InheritWorld {
    world: World,
    log: Log,
    publisher: ClientId,
    ann: ClientId,
}

impl InheritWorld {
    fn new(deliver: bool) -> InheritWorld {
        let mut world = World::with(1, |limits| {
            limits.choices.session_owner = SessionOwner::Inherit;
            limits.inflight_max = 2;
        });
        let log = Log::default();
        mount(&mut world, vec![(HookPoint::ClientAuthorize, Link { deliver, ..guard(&log) })]);
        let publisher =
            world.connect("pub", &ConnectRequest { username: Some("ann"), ..ConnectRequest::v(Version::V5) });
        let ann = world.connect("c", &stored(Version::V5, Some("ann")));
        for filter in ["shared/#", "secret/#", "+/both"] {
            assert_eq!(world.subscribe(ann, filter, QoS::AtLeastOnce), [1]);
        }
        for (id, topic) in [(1, "shared/1"), (2, "secret/1"), (3, "shared/2"), (4, "secret/2")] {
            world.publish(publisher, topic, topic, QoS::AtLeastOnce, id);
        }
        assert_eq!(world.take(ann).len(), 2);
        world.take(publisher);
        log.take();
        InheritWorld { world, log, publisher, ann }
    }

    fn of(client: &str, world: &World) -> Vec<String> {
        let (rows, _) = world.shards[0].subscriptions(Some(client), 0, 10);
        let mut filters: Vec<String> = rows.into_iter().map(|row| row.filter).collect();
        filters.sort();
        filters
    }
}

fn topics(got: Vec<Got>) -> Vec<(String, bool)> {
    let publish = |got| match got {
        Got::Publish { topic, dup, .. } => (topic, dup),
        other => panic!("{other:?}"),
    };
    got.into_iter().map(publish).collect()
}

/// `session_owner = "inherit"`: the new principal keeps those subscriptions, messages in flight and
/// waiting messages that it is allowed. All others are removed before they could be delivered.
#[test]
fn an_inherited_session_keeps_what_its_new_user_may_have() {
    for (deliver, leaves) in [(false, false), (false, true), (true, false), (true, true)] {
        let InheritWorld { mut world, log, publisher, ann } = InheritWorld::new(deliver);
        if leaves {
            world.disconnect(ann, ReasonCode::SUCCESS);
        }
        let (bob, got) = world.try_connect("c", &stored(Version::V5, Some("bob")));
        assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
        assert!(world.is_closed(ann));
        let mut requested = log.take();
        requested.sort();
        let mut expected = vec!["bob 2 +/both", "bob 2 secret/#", "bob 2 shared/#"];
        if deliver {
            expected.extend(["bob 3 secret/1", "bob 3 secret/2", "bob 3 shared/1", "bob 3 shared/2"]);
        }
        assert_eq!(requested, expected, "each is asked once");
        // The message keeps its identifier, its place and DUP of the session [MQTT-4.4.0-1].
        let got = topics(world.take(bob));
        assert_eq!(got, [("shared/1".to_owned(), true), ("shared/2".to_owned(), false)], "{deliver}");
        assert_eq!(InheritWorld::of("c", &world), ["shared/#"]);
        assert_eq!(world.shards[0].counters().messages_dropped_not_authorized, 2);
        assert_eq!(world.shards[0].counters().subscriptions_revoked, 2);
        assert_eq!(counters(&mut world), [0, 0, 1]);
        for (id, topic) in [(5, "secret/3"), (6, "x/both"), (7, "shared/both")] {
            world.publish(publisher, topic, "live", QoS::AtLeastOnce, id);
        }
        world.ack(bob, Packet::PubAck, 1);
        let got = topics(world.take(bob));
        assert_eq!(got, [("shared/both".to_owned(), false)]);
    }
}

/// Remembered delivery verdicts for the old principal do not apply to the new one, nor the other
/// way round.
#[test]
fn cached_delivery_verdicts_are_not_inherited() {
    let InheritWorld { mut world, log, publisher, ann } = InheritWorld::new(true);
    for id in [1, 2] {
        world.ack(ann, Packet::PubAck, id);
    }
    world.take(ann);
    // A principal that may have every filter, but only some of the deliveries.
    let seen = log.clone();
    let picky = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        let user = call.get_text(Field::USERNAME);
        let may = call.action() != 3 || user == "ann" || call.topic() == "shared/1";
        seen.note(format!("{user} {} {may}", call.topic()));
        call.set(Field::VERDICT, if may { 1 } else { 2 }, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, Link { deliver: true, ..picky })]);
    world.pass_ms(10);
    for (id, topic) in [(11, "shared/1"), (12, "secret/1")] {
        world.publish(publisher, topic, "to ann", QoS::AtMostOnce, id);
    }
    assert_eq!(world.take(ann).len(), 2);
    log.take();
    let (bob, _) = world.try_connect("c", &stored(Version::V5, Some("bob")));
    world.take(bob);
    log.take();
    for (id, topic) in [(13, "shared/1"), (14, "secret/1")] {
        world.publish(publisher, topic, "to bob", QoS::AtMostOnce, id);
    }
    let requested: Vec<String> = log.take().into_iter().filter(|line| line.starts_with("bob")).collect();
    assert_eq!(requested, ["bob shared/1 true", "bob secret/1 false"], "what ann may have is nothing to bob");
    assert_eq!(topics(world.take(bob)), [("shared/1".to_owned(), false)]);
}

/// Mounts a plugin that defers client.authorize and has allowed the existing subscriptions. Returns
/// the number of its requests.
fn mount_deferring_authorizer(world: &mut World) -> (DeferredTickets, usize) {
    let tickets = DeferredTickets::default();
    mount(world, vec![(HookPoint::ClientAuthorize, later(2, 0, FaultPolicy::Deny, &tickets))]);
    world.pass_ms(10);
    let before = tickets.about().len();
    for place in 0..before {
        complete(world, tickets.ticket(place), Flow::STOP, allow());
    }
    (tickets, before)
}

/// A takeover with inheritance waits for deferred verdicts: nothing changes before the last one,
/// and a client that leaves changes nothing.
#[test]
fn an_inheritance_waits_for_deferred_verdicts() {
    for gives_up in [false, true] {
        let InheritWorld { mut world, publisher, .. } = InheritWorld::new(false);
        let (tickets, before) = mount_deferring_authorizer(&mut world);
        let (bob, got) = world.try_connect("c", &stored(Version::V5, Some("bob")));
        assert_eq!(got, None);
        for place in before..before + 2 {
            assert_eq!(tickets.about().len(), place + 1, "one at a time");
            complete(&mut world, tickets.ticket(place), Flow::STOP, allow());
            assert_eq!(world.take(bob), []);
        }
        world.publish(publisher, "shared/3", "x", QoS::AtMostOnce, 0);
        if gives_up {
            world.lose(bob);
            complete(&mut world, tickets.ticket(before + 2), Flow::STOP, allow());
            mount(&mut world, Vec::new());
            let (_, got) = world.try_connect("c", &stored(Version::V5, Some("ann")));
            assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }), "it is still ann's");
            assert_eq!(counters(&mut world), [0, 0, 0]);
        } else {
            complete(&mut world, tickets.ticket(before + 2), Flow::STOP, allow());
            let got = world.take(bob);
            assert_eq!(got[0], Got::ConnAck { present: true, code: 0 });
            assert_eq!(topics(got[1..].to_vec()).len(), 2);
            world.send(bob, &Packet::PingReq);
            assert!(world.take(bob).contains(&Got::PingResp), "it is read");
        }
    }
}

/// A failure of a plugin is no denial: the client is refused with "server unavailable", and the
/// session stays unchanged.
#[test]
fn an_inheritance_without_a_verdict_changes_nothing() {
    for answers in [true, false] {
        let InheritWorld { mut world, ann, .. } = InheritWorld::new(false);
        world.disconnect(ann, ReasonCode::SUCCESS);
        let (tickets, before) = mount_deferring_authorizer(&mut world);
        let (bob, _) = world.try_connect("c", &stored(Version::V5, Some("bob")));
        if answers {
            complete(&mut world, tickets.ticket(before), Flow::FAULT, Vec::new());
        } else {
            world.pass_ms(1_100);
        }
        assert_eq!(world.take(bob), [Got::ConnAck { present: false, code: 0x88 }]);
        assert_eq!(InheritWorld::of("c", &world), ["+/both", "secret/#", "shared/#"]);
        mount(&mut world, Vec::new());
        let (ann, got) = world.try_connect("c", &stored(Version::V5, Some("ann")));
        assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
        assert_eq!(world.take(ann).len(), 2);
    }
}

/// If the rules change meanwhile, the authorization is repeated, also for what the session has
/// received meanwhile.
#[test]
fn an_inheritance_is_authorized_by_the_current_rules() {
    let InheritWorld { mut world, .. } = InheritWorld::new(false);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientAuthorize, later(2, 0, FaultPolicy::Deny, &tickets))]);
    world.pass_ms(10);
    let mut place = tickets.about().len();
    for place in 0..place {
        complete(&mut world, tickets.ticket(place), Flow::STOP, allow());
    }
    let (bob, _) = world.try_connect("c", &stored(Version::V5, Some("bob")));
    complete(&mut world, tickets.ticket(place), Flow::STOP, allow());
    world.shards[0].command(Command::Invalidate(Scope::Topics("none".into())));
    let requested = |tickets: &DeferredTickets, from: usize| {
        let mut about: Vec<String> = tickets.about().split_off(from);
        about.sort();
        about
    };
    place += 1;
    let from = place + 1;
    for _ in 0..4 {
        assert_eq!(world.take(bob), []);
        complete(&mut world, tickets.ticket(place), Flow::STOP, allow());
        place += 1;
    }
    assert_eq!(requested(&tickets, from), ["+/both", "secret/#", "shared/#"], "all three are asked again");
    assert_eq!(world.take(bob)[0], Got::ConnAck { present: true, code: 0 });
}

/// A publish of the old principal that waits for a plugin is decided with the old principal's
/// rights. The new principal waits for it, for a bounded time.
#[test]
fn an_inheritance_waits_for_the_packets_of_the_old_user() {
    for answers in [true, false] {
        let mut world = World::with(1, |limits| {
            limits.choices.session_owner = SessionOwner::Inherit;
            limits.connect_timeout_ms = 500;
        });
        let (tickets, log) = (DeferredTickets::default(), Log::default());
        let seen = log.clone();
        let names = link(3, -1, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            seen.note(format!("{} {}", call.get_text(Field::USERNAME), call.topic()));
            Flow::CONTINUE
        });
        let waits = later(2, 0, FaultPolicy::Ignore, &tickets);
        mount(&mut world, vec![(HookPoint::MessagePublish, waits), (HookPoint::MessagePublish, names)]);
        let ann = world.connect("c", &stored(Version::V5, Some("ann")));
        world.publish(ann, "t", "x", QoS::AtLeastOnce, 1);
        let (bob, got) = world.try_connect("c", &stored(Version::V5, Some("bob")));
        assert_eq!(got, None);
        assert!(world.is_closed(ann));
        if answers {
            complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
            assert_eq!(log.take(), ["ann t"]);
            assert_eq!(world.take(bob), [Got::ConnAck { present: true, code: 0 }]);
        } else {
            world.pass_ms(600);
            assert_eq!(world.take(bob), [Got::ConnAck { present: false, code: 0x89 }]);
            world.pass_ms(1_000);
            let (_, got) = world.try_connect("c", &stored(Version::V5, Some("ann")));
            assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
        }
    }
}

/// If two clients request the same session, the last one gets it, and the other one is
/// disconnected.
#[test]
fn a_session_is_inherited_by_one_client_at_a_time() {
    let mut world = World::with(1, |limits| limits.choices.session_owner = SessionOwner::Inherit);
    let tickets = DeferredTickets::default();
    let waits = later(2, 0, FaultPolicy::Ignore, &tickets);
    mount(&mut world, vec![(HookPoint::MessagePublish, waits)]);
    let ann = world.connect("c", &stored(Version::V5, Some("ann")));
    world.publish(ann, "t", "x", QoS::AtLeastOnce, 1);
    let (bob, _) = world.try_connect("c", &stored(Version::V5, Some("bob")));
    let (eve, _) = world.try_connect("c", &stored(Version::V5, Some("eve")));
    assert_eq!((world.is_closed(bob), world.is_closed(eve)), (true, false));
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(eve), [Got::ConnAck { present: true, code: 0 }]);
}

/// A session with many subscriptions is authorized in slices: other clients are served between
/// them.
#[test]
fn a_large_inheritance_takes_several_turns() {
    let mut world = World::with(1, |limits| limits.choices.session_owner = SessionOwner::Inherit);
    let ann = world.connect("c", &stored(Version::V5, Some("ann")));
    for number in 0..300 {
        world.subscribe(ann, &format!("t/{number}"), QoS::AtLeastOnce);
    }
    let requested = Rc::new(Cell::new(0));
    let count = Rc::clone(&requested);
    let counts = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        count.set(count.get() + 1);
        call.set(Field::VERDICT, 1, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, counts)]);
    world.pass_ms(100);
    requested.set(0);
    let (peer, now) = (world.peer(), world.now);
    let shard = &mut world.shards[0];
    let bob = shard.open(peer).expect("there is room for a connection");
    // Session expiry 255 s, client "c", user name "bob".
    let connect = *b"\x10\x18\0\x04MQTT\x05\x80\0\0\x05\x11\0\0\0\xff\0\x01c\0\x03bob";
    let received = shard.receive(bob, Input::Scratch(&connect));
    assert_eq!((received.consumed, received.next), (connect.len(), Next::Pause));
    let mut before = 0;
    loop {
        let in_this_turn = requested.get() - before;
        assert!((1..=32).contains(&in_this_turn), "{in_this_turn} in a turn");
        before = requested.get();
        if !shard.advance(now) {
            break;
        }
    }
    assert_eq!(requested.get(), 300);
    assert_eq!(shard.outbox().resume, [bob]);
    let outbound = shard.outbound(bob).expect("it is there");
    assert_eq!(outbound.front()[..4], [0x20, outbound.front()[1], 1, 0]);
}

/// client.authenticate sees whether a session exists, and its owner; other points do not.
#[test]
fn client_authenticate_shows_the_user_of_the_existing_session() {
    let mut world = World::new(1);
    let log = Log::default();
    let shows = |point: HookPoint| {
        let log = log.clone();
        let link = link(point as u32, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            let (present, owner) = (call.number(Field::SESSION_PRESENT), call.text(Field::SESSION_OWNER));
            log.note(format!("{present:?} {owner}"));
            Flow::CONTINUE
        });
        (point, link)
    };
    mount(&mut world, vec![shows(HookPoint::ClientAuthenticate)]);
    world.try_connect("c", &stored(Version::V5, None));
    world.try_connect("c", &stored(Version::V5, None));
    assert_eq!(log.take(), ["Ok(0) -", "Ok(1) -"]);
    mount(&mut world, Vec::new());
    let ann = world.connect("c", &stored(Version::V5, Some("ann")));
    mount(&mut world, vec![shows(HookPoint::ClientAuthenticate), shows(HookPoint::ClientConnect)]);
    world.try_connect("c", &stored(Version::V5, Some("bob")));
    assert_eq!(log.take(), ["Err(UNSUPPORTED) -", "Ok(1) ann"]);
    assert!(!world.is_closed(ann), "a name that nobody knows changes nothing");
}
