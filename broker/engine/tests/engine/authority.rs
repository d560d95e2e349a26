//! Deliveries that are authorized one by one, and verdicts when the rules change (the design's
//! section on the semantics of client.authorize).

use std::cell::Cell;
use std::rc::Rc;

use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::limits::Revoke;
use grapnel_engine::packet::{QoS, Version};
use grapnel_engine::shard::{Command, Rechecks, Revoked, Scope};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, allow, deny, later};
use crate::hooks::{Call, Log, complete, link, mount};
use crate::world::{ConnectRequest, Got, World, message};

/// A link at client.authorize that also authorizes deliveries and logs each request. While `open`
/// is false it denies subscriptions and deliveries.
fn guard(log: &Log, open: &Rc<Cell<bool>>) -> (HookPoint, Link) {
    let (log, open) = (log.clone(), Rc::clone(open));
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        log.note(format!("{} {} {}", call.action(), call.client_id(), call.topic()));
        let publishes = call.action() == 1;
        call.set(Field::VERDICT, if open.get() || publishes { 1 } else { 2 }, "", "");
        Flow::CONTINUE
    });
    (HookPoint::ClientAuthorize, Link { deliver: true, ..guard })
}

fn subscribers() -> (World, usize, [usize; 2]) {
    let mut world = World::new(1);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let subscribers = ["one", "two"].map(|name| {
        let client = world.connect(name, &ConnectRequest::v(Version::V5));
        world.subscribe(client, "t/#", QoS::AtLeastOnce);
        client
    });
    (world, publisher, subscribers)
}

/// Deliveries are authorized once for each session and topic, and the verdict is remembered.
#[test]
fn deliveries_are_authorized_once_for_each_topic() {
    let (mut world, publisher, [one, two]) = subscribers();
    let (log, open) = (Log::default(), Rc::new(Cell::new(true)));
    mount(&mut world, vec![guard(&log, &open)]);
    // Mounting the link changed the rules: subscriptions are rechecked.
    world.pass_ms(10);
    log.take();
    world.publish(publisher, "t/a", "1", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["1 pub t/a", "3 one t/a", "3 two t/a"]);
    world.publish(publisher, "t/a", "2", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["1 pub t/a"]);
    open.set(false);
    world.publish(publisher, "t/b", "3", QoS::AtMostOnce, 0);
    for client in [one, two] {
        assert_eq!(world.take_plain(client), [message("t/a", "1", 0), message("t/a", "2", 0)]);
    }
    assert_eq!(world.shards[0].counters().messages_dropped_not_authorized, 2);
}

/// A link that has not requested deliveries is not called for them.
#[test]
fn deliveries_are_authorized_only_by_links_that_request_them() {
    let (mut world, publisher, [one, _]) = subscribers();
    let log = Log::default();
    let seen = log.clone();
    let plain = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        seen.note(format!("{} {}", call.action(), call.topic()));
        call.set(Field::VERDICT, 1, "", "");
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, plain)]);
    world.pass_ms(10);
    log.take();
    world.publish(publisher, "t/a", "1", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["1 t/a"]);
    assert_eq!(world.take_plain(one), [message("t/a", "1", 0)]);
}

/// A delivery that waits for a verdict blocks only the outgoing queue of its session, and keeps its
/// order there.
#[test]
fn a_delivery_that_waits_delays_only_its_session() {
    let (mut world, publisher, [one, two]) = subscribers();
    let (tickets, free) = (DeferredTickets::default(), Rc::new(Cell::new(false)));
    let inner = tickets.clone();
    let waiting = Rc::clone(&free);
    let slow = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.action() == 3 && call.client_id() == "one" && !waiting.get() {
            inner.note(call.topic(), call.defer().expect("a delivery may wait"));
            return Flow::DEFER;
        }
        call.set(Field::VERDICT, 1, "", "");
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, Link { deliver: true, ..slow })]);
    world.pass_ms(10);
    for payload in ["1", "2", "3"] {
        world.publish(publisher, "t/a", payload, QoS::AtMostOnce, 0);
    }
    assert_eq!(tickets.about(), ["t/a"], "one question at a time");
    let all = ["1", "2", "3"].map(|payload| message("t/a", payload, 0));
    assert_eq!((world.take_plain(one), world.take_plain(two)), (vec![], all.to_vec()));
    complete(&mut world, tickets.ticket(0), Flow::STOP, allow());
    assert_eq!(world.take_plain(one), all);
}

/// An invalidation discards verdicts and removes subscriptions that are no longer allowed, only for
/// those it names.
#[test]
fn subscriptions_that_are_no_longer_allowed_are_revoked() {
    let scopes = [
        (Scope::All, [false, false]),
        (Scope::Client("one".into()), [false, true]),
        (Scope::Topics("none".into()), [true, true]),
        (Scope::Topics("t/x".into()), [false, false]),
        (Scope::Topics("u/#".into()), [true, true]),
    ];
    for (scope, stay) in scopes {
        let (mut world, publisher, clients) = subscribers();
        let (log, open) = (Log::default(), Rc::new(Cell::new(true)));
        let (point, requested) = guard(&log, &open);
        mount(&mut world, vec![(point, Link { deliver: false, ..requested })]);
        world.pass_ms(10);
        open.set(false);
        world.shards[0].command(Command::Invalidate(scope.clone()));
        world.pass_ms(10);
        world.publish(publisher, "t/a", "1", QoS::AtMostOnce, 0);
        let got = clients.map(|client| world.take_plain(client) == [message("t/a", "1", 0)]);
        assert_eq!(got, stay, "{scope:?}");
    }
}

/// A remembered verdict on a delivery is requested again after an invalidation that concerns its
/// topic.
#[test]
fn a_cached_verdict_is_not_used_after_a_change_of_the_rules() {
    for (topics, ends) in [("none", false), ("t/+", true), ("t/b", false)] {
        let (mut world, publisher, [one, _]) = subscribers();
        let (log, open) = (Log::default(), Rc::new(Cell::new(true)));
        mount(&mut world, vec![guard(&log, &open)]);
        world.pass_ms(10);
        world.publish(publisher, "t/a", "1", QoS::AtMostOnce, 0);
        world.shards[0].command(Command::Invalidate(Scope::Topics(topics.into())));
        world.pass_ms(10);
        log.take();
        world.publish(publisher, "t/a", "2", QoS::AtMostOnce, 0);
        let requested: &[&str] = if ends { &["1 pub t/a", "3 one t/a", "3 two t/a"] } else { &["1 pub t/a"] };
        assert_eq!(log.take(), requested, "{topics}");
        assert_eq!(world.take_plain(one).len(), 2);
    }
}

/// A verdict that began under older rules is requested again, once.
#[test]
fn a_verdict_under_older_rules_is_requested_again() {
    let (mut world, publisher, [one, _]) = subscribers();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientAuthorize, later(1, 0, FaultPolicy::Deny, &tickets))]);
    // Their subscriptions are rechecked too, and stay without an answer.
    world.pass_ms(10);
    let requested = tickets.about().len();
    world.publish(publisher, "t/a", "1", QoS::AtLeastOnce, 1);
    world.shards[0].command(Command::Invalidate(Scope::Client("pub".into())));
    complete(&mut world, tickets.ticket(requested), Flow::STOP, allow());
    assert_eq!(world.take(publisher), [], "the links are asked again");
    assert_eq!(tickets.about().len(), requested + 2);
    complete(&mut world, tickets.ticket(requested + 1), Flow::STOP, allow());
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0)]);
    assert_eq!(world.take_plain(one), [message("t/a", "1", 1)]);
}

/// A will that was allowed at CONNECT is authorized again when it is due, if the rules have changed
/// since.
#[test]
fn a_will_is_authorized_again_when_the_rules_have_changed() {
    for moved in [false, true] {
        let mut world = World::new(1);
        let watcher = world.connect("watcher", &ConnectRequest::v(Version::V5));
        world.subscribe(watcher, "will", QoS::AtMostOnce);
        let request = ConnectRequest {
            will: Some(("will", "gone", QoS::AtMostOnce, false)),
            ..ConnectRequest::v(Version::V5)
        };
        let client = world.connect("c", &request);
        if moved {
            let denies = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
                call.set(Field::VERDICT, if call.action() == 4 { 2 } else { 1 }, "", "");
                Flow::CONTINUE
            });
            mount(&mut world, vec![(HookPoint::ClientAuthorize, denies)]);
            world.pass_ms(10);
        }
        world.lose(client);
        let expected = if moved { vec![] } else { vec![message("will", "gone", 0)] };
        assert_eq!(world.take_plain(watcher), expected);
    }
}

/// A recheck of a subscription in force may be deferred; the subscription stays until the answer.
#[test]
fn a_subscription_stays_until_its_recheck_is_answered() {
    let (mut world, publisher, [one, _]) = subscribers();
    let tickets = DeferredTickets::default();
    let lock = Rc::new(Cell::new(false));
    let (inner, locked) = (tickets.clone(), Rc::clone(&lock));
    let slow = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.action() == 2 && locked.get() {
            inner.note(call.client_id(), call.defer().expect("it may wait"));
            return Flow::DEFER;
        }
        call.set(Field::VERDICT, 1, "", "");
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, slow)]);
    world.pass_ms(10);
    lock.set(true);
    world.shards[0].command(Command::Invalidate(Scope::Client("one".into())));
    world.pass_ms(10);
    assert_eq!(tickets.about(), ["one"]);
    world.publish(publisher, "t/a", "1", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(one), [message("t/a", "1", 0)]);
    complete(&mut world, tickets.ticket(0), Flow::STOP, deny(0x87));
    world.publish(publisher, "t/a", "2", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(one), []);
}

/// Clients that lose a subscription stay connected, or are disconnected if so configured: with 0x87
/// in MQTT 5, and with the MQTT 3 equivalent. A session without a connection only loses the
/// subscription.
#[test]
fn a_client_that_loses_a_subscription_stays_or_is_disconnected() {
    for version in [Version::V31, Version::V311, Version::V5] {
        for revoke in [Revoke::Remove, Revoke::Disconnect] {
            let mut world = World::with(1, |limits| limits.choices.revoke = revoke);
            let request = || ConnectRequest { clean: false, ..ConnectRequest::v(version) };
            let clients = ["loses", "keeps", "away"].map(|name| world.connect(name, &request()));
            for (client, filter) in [(0, "t/a"), (0, "t/b"), (1, "kept"), (2, "t/c")] {
                world.subscribe(clients[client], filter, QoS::AtLeastOnce);
            }
            world.lose(clients[2]);
            let refuses = link(5, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
                call.set(Field::VERDICT, if call.topic() == "kept" { 1 } else { 2 }, "", "");
                Flow::CONTINUE
            });
            mount(&mut world, vec![(HookPoint::ClientAuthorize, refuses)]);
            world.pass_ms(10);
            let notified = if version.is_v5() { vec![Got::Disconnect(0x87)] } else { vec![] };
            let ends = revoke == Revoke::Disconnect;
            assert_eq!(world.take(clients[0]), if ends { notified } else { vec![] }, "{version:?}");
            assert_eq!((world.is_closed(clients[0]), world.is_closed(clients[1])), (ends, false));
            assert_eq!(revoked(&mut world), [(Some(5), 2 + u64::from(!version.is_v5()))]);
            let left: Vec<String> =
                world.shards[0].subscriptions(None, 0, 100).0.into_iter().map(|row| row.filter).collect();
            assert_eq!(left, ["kept"]);
        }
    }
}

/// If a session ends with its connection, all its subscriptions end and are counted once, also if
/// packets of the client still wait and the session ends later.
#[test]
fn all_subscriptions_of_a_session_that_ends_by_a_revocation_are_counted() {
    for waits in [false, true] {
        let mut world = World::with(1, |limits| {
            limits.choices.revoke = Revoke::Disconnect;
            limits.rechecks_max = 1;
        });
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        for filter in ["a", "b", "kept", "z"] {
            world.subscribe(client, filter, QoS::AtLeastOnce);
        }
        let tickets = DeferredTickets::default();
        let refuses = link(5, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
            let refused = call.action() == 2 && call.topic() != "kept";
            call.set(Field::VERDICT, if refused { 2 } else { 1 }, "", "");
            Flow::CONTINUE
        });
        let slow = later(6, 0, FaultPolicy::Deny, &tickets);
        mount(&mut world, vec![(HookPoint::MessagePublish, slow.clone())]);
        if waits {
            world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
        }
        mount(&mut world, vec![(HookPoint::MessagePublish, slow), (HookPoint::ClientAuthorize, refuses)]);
        world.pass_ms(10);
        assert!(world.is_closed(client));
        if waits {
            complete(&mut world, tickets.ticket(0), Flow::CONTINUE, vec![]);
        }
        world.pass_ms(10);
        assert_eq!(revoked(&mut world), [(Some(5), 4)], "waits: {waits}");
        assert_eq!(world.shards[0].counters().subscriptions_revoked, 4);
        assert_eq!(world.shards[0].counters().sessions_count, 0);
    }
}

/// The refusing plugins and the numbers of refusals, as the shell takes them from the outbox.
fn revoked(world: &mut World) -> Vec<(Option<u64>, u64)> {
    let mut all: Vec<_> = world.shards[0]
        .outbox()
        .revoked
        .drain(..)
        .map(|Revoked { plugin, subscriptions }| (plugin.map(|plugin| plugin.0), subscriptions))
        .collect();
    all.sort_unstable();
    all
}

/// A revoked subscription counts for the plugin that refused it first, at once or later, and for no
/// plugin if no link allowed it.
#[test]
fn a_revoked_subscription_counts_for_the_plugin_that_refused_it() {
    let authorizer = |identity, priority, topic: &'static str, verdict| {
        link(identity, priority, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if call.topic() == topic {
                call.set(Field::VERDICT, verdict, "", "");
            }
            Flow::CONTINUE
        })
    };
    let mut world = World::with_setup(1, |_| {}, false);
    let open = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 1, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, open)]);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    for filter in ["first", "second", "both", "overruled", "nobody", "late"] {
        assert_eq!(world.subscribe(client, filter, QoS::AtMostOnce), [0]);
    }
    let tickets = DeferredTickets::default();
    let inner = tickets.clone();
    let late = link(9, -9, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.topic() != "late" {
            return Flow::CONTINUE;
        }
        inner.note(call.topic(), call.defer().expect("it may wait"));
        Flow::DEFER
    });
    let links = vec![
        authorizer(2, 9, "first", 2),
        authorizer(3, 8, "second", 2),
        authorizer(4, 7, "both", 2),
        authorizer(5, 6, "both", 2),
        authorizer(6, 5, "overruled", 2),
        authorizer(7, 4, "overruled", 1),
        late,
    ];
    mount(&mut world, links.into_iter().map(|link| (HookPoint::ClientAuthorize, link)).collect());
    world.pass_ms(10);
    assert_eq!(revoked(&mut world), [(None, 1), (Some(2), 1), (Some(3), 1), (Some(4), 1)]);
    let rechecks = world.shards[0].rechecks();
    assert_eq!(rechecks, Rechecks { revoked: 4, under_way: true, unanswered: false });
    complete(&mut world, tickets.ticket(0), Flow::STOP, deny(0x87));
    assert_eq!(revoked(&mut world), [(Some(9), 1)]);
    assert_eq!(world.shards[0].rechecks(), Rechecks { revoked: 5, under_way: false, unanswered: false });
}

/// A recheck without an answer stays known as unanswered until it is repeated.
#[test]
fn a_recheck_without_an_answer_is_reported_as_unanswered() {
    let (mut world, _, _) = subscribers();
    mount(&mut world, vec![(HookPoint::ClientAuthorize, link(1, 0, FaultPolicy::Deny, |_| Flow::FAULT))]);
    assert!(world.shards[0].rechecks().under_way, "the walk is in slices of turns");
    world.pass_ms(10);
    assert_eq!(world.shards[0].rechecks(), Rechecks { revoked: 0, under_way: false, unanswered: true });
    mount(&mut world, vec![]);
    world.pass_ms(10);
    assert_eq!(world.shards[0].rechecks(), Rechecks { revoked: 0, under_way: false, unanswered: false });
}
