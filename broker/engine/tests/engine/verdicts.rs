//! Missing verdicts, and verdicts given under other rules or for another client: they allow nothing
//! new, and remove nothing that was granted (the engine's rules about unanswered verdicts).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{
    Filters, Packet, Properties, Property, QoS, Subscribe, SubscriptionOptions, Version, push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{OwnedChange, Scope};
use grapnel_plugin_abi::raw::{Field, Flow, Status, Ticket};

use crate::deferral::{DeferredTickets, allow, deny};
use crate::hooks::{Call, Log, complete, link, mount, number};
use crate::world::{ConnectRequest, Got, World, id, message};

const AUTHORIZE: HookPoint = HookPoint::ClientAuthorize;

/// A plugin that answers one request after the other, after a delay. It sees the oldest request
/// that it has not answered.
#[derive(Clone, Default)]
struct SlowAuthorizer {
    waiting: Rc<RefCell<VecDeque<(String, Ticket)>>>,
    most: Rc<Cell<usize>>,
}

impl SlowAuthorizer {
    /// The plugin's link. It defers what `about` returns text for, and allows everything else.
    fn link(&self, about: impl Fn(&Call<'_>) -> bool + 'static) -> Link {
        let authorizer = self.clone();
        let slow = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if !about(call) {
                call.set(Field::VERDICT, 1, "", "");
                return Flow::CONTINUE;
            }
            let Ok(ticket) = call.defer() else { return Flow::FAULT };
            let mut waiting = authorizer.waiting.borrow_mut();
            waiting.push_back((format!("{} {}", call.client_id(), call.topic()), ticket));
            authorizer.most.set(authorizer.most.get().max(waiting.len()));
            Flow::DEFER
        });
        Link { deadline_ms: 5000, deliver: true, ..slow }
    }

    fn next(&self) -> Option<(String, Ticket)> {
        self.waiting.borrow_mut().pop_front()
    }

    /// The next request, and the seconds until it arrived.
    fn wait(&self, world: &mut World) -> (u64, String, Ticket) {
        for seconds in 0..200 {
            if let Some((about, ticket)) = self.next() {
                return (seconds, about, ticket);
            }
            world.pass_ms(1_000);
        }
        panic!("nothing is asked about");
    }

    /// Answers all requests, including those that follow from the answers.
    fn answer_all(&self, world: &mut World, changes: fn() -> Vec<OwnedChange>) -> usize {
        let mut answered = 0;
        while let Some((_, ticket)) = self.next() {
            complete(world, ticket, Flow::STOP, changes());
            answered += 1;
        }
        answered
    }
}

fn subscribes(call: &Call<'_>) -> bool {
    call.action() == 2
}

fn delivers(call: &Call<'_>) -> bool {
    call.action() == 3
}

/// Clients `c0`, `c1` and so on, each with filters `f/0`, `f/1` and so on.
fn connect_subscribers(world: &mut World, clients: usize, filters: usize) -> Vec<usize> {
    let all: Vec<usize> =
        (0..clients).map(|n| world.connect(&format!("c{n}"), &ConnectRequest::v(Version::V5))).collect();
    for client in &all {
        for filter in 0..filters {
            assert_eq!(world.subscribe(*client, &format!("f/{filter}"), QoS::AtLeastOnce), [1]);
        }
    }
    all
}

/// One SUBSCRIBE with many filters.
fn send_many(world: &mut World, client: usize, count: usize) {
    let mut payload = Vec::new();
    for n in 0..count {
        push_subscription(&mut payload, &format!("t/{n}"), SubscriptionOptions::of_qos(QoS::AtMostOnce));
    }
    let filters = Filters::from_encoded(&payload);
    let properties = Properties::default();
    world.send(client, &Packet::Subscribe(Subscribe { packet_id: id(7), properties, filters }));
}

/// Six thousand subscriptions and a new authorizer that takes 2 ms for each, one after the other.
/// All together take longer than a deadline, and every subscription stays.
#[test]
fn a_slow_authorizer_revokes_nothing_at_a_reload() {
    let mut world = World::new(1);
    connect_subscribers(&mut world, 60, 100);
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(subscribes))]);
    world.drive();
    let mut answered = 0;
    for _ in 0..15_000 {
        if let Some((_, ticket)) = authorizer.next() {
            world.shards[0].complete(grapnel_engine::shard::Completion {
                ticket: ticket.0,
                flow: Flow::STOP,
                changes: allow(),
            });
            answered += 1;
        }
        world.pass_ms(2);
    }
    let counters = *world.shards[0].counters();
    assert_eq!((counters.subscriptions_count, counters.subscriptions_revoked), (6000, 0));
    assert_eq!(
        (answered, counters.tickets_expired),
        (6000, 0),
        "each is asked about once, and answered in time"
    );
}

/// A bounded number of rechecks waits for a plugin at a time, whatever the size of the ticket
/// table.
#[test]
fn no_more_rechecks_than_rechecks_max_run_at_a_time() {
    for (window, tickets, most) in [(1, 100, 1), (8, 100, 8), (100, 3, 3), (39, 100, 39), (41, 100, 40)] {
        let mut world = World::with(1, |limits| {
            limits.rechecks_max = window;
            limits.tickets_max = tickets;
        });
        connect_subscribers(&mut world, 4, 10);
        let authorizer = SlowAuthorizer::default();
        mount(&mut world, vec![(AUTHORIZE, authorizer.link(subscribes))]);
        world.drive();
        assert_eq!(authorizer.answer_all(&mut world, allow), 40, "window {window}, {tickets} tickets");
        assert_eq!(authorizer.most.get(), most);
        assert_eq!(world.shards[0].counters().subscriptions_count, 40);
        assert!(!world.shards[0].has_work());
    }
}

/// A subscription whose recheck is not answered stays, is rechecked again at growing intervals, and
/// ends when a plugin denies it.
#[test]
fn an_unanswered_recheck_is_repeated_and_changes_nothing() {
    for silence in ["deadline", "fault", "unanswered", "nonsense"] {
        let mut world = World::new(1);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.subscribe(client, "t", QoS::AtMostOnce);
        let authorizer = SlowAuthorizer::default();
        mount(&mut world, vec![(AUTHORIZE, authorizer.link(subscribes))]);
        world.drive();
        let mut pauses_s = Vec::new();
        for _ in 0..3 {
            let (pause_s, about, ticket) = authorizer.wait(&mut world);
            assert_eq!(about, "c t");
            pauses_s.push(pause_s);
            match silence {
                "deadline" => world.pass_ms(5_010),
                "fault" => complete(&mut world, ticket, Flow::FAULT, Vec::new()),
                "unanswered" => complete(&mut world, ticket, Flow::UNANSWERED, deny(0x87)),
                _ => complete(&mut world, ticket, Flow::STOP, vec![number(Field::VERDICT, 77)]),
            }
            assert!(authorizer.next().is_none(), "not at once");
            world.publish(client, "t", "x", QoS::AtMostOnce, 0);
            assert_eq!(world.take(client), [message("t", "x", 0)], "{silence}: it stays");
        }
        let (pause_s, _, ticket) = authorizer.wait(&mut world);
        pauses_s.push(pause_s);
        assert_eq!(pauses_s, [0, 1, 2, 4], "{silence}");
        assert_eq!(world.shards[0].counters().rechecks_unanswered, 3);
        complete(&mut world, ticket, Flow::STOP, deny(0x87));
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        assert_eq!(world.take(client), [], "an answer takes it");
        world.pass_ms(200_000);
        assert!(authorizer.next().is_none());
        assert_eq!(world.shards[0].counters().subscriptions_revoked, 1);
    }
}

/// A hook whose process or database is unavailable reports that, at once or later. Its fault policy
/// decides the current request, and its plugin is not tripped for this as it is for faults.
#[test]
fn a_plugin_is_not_tripped_for_reporting_no_answer() {
    for (flow, policy, tripped) in [
        (Flow::UNANSWERED, FaultPolicy::Deny, false),
        (Flow::UNANSWERED, FaultPolicy::Ignore, false),
        (Flow::FAULT, FaultPolicy::Deny, true),
    ] {
        for later in [false, true] {
            let mut world = World::with(1, |limits| limits.breaker_faults_max = 3);
            let client = world.connect("c", &ConnectRequest::v(Version::V5));
            let tickets = Rc::new(RefCell::new(VecDeque::new()));
            let inner = Rc::clone(&tickets);
            let away = link(1, 0, policy, move |call: &mut Call<'_>| {
                call.set(Field::VERDICT, 1, "", "");
                if !later {
                    return flow;
                }
                inner.borrow_mut().extend(call.defer().ok());
                Flow::DEFER
            });
            mount(&mut world, vec![(AUTHORIZE, away)]);
            world.drive();
            let mut trips = 0;
            for packet in 1..=5 {
                world.publish(client, "t", "x", QoS::AtLeastOnce, packet);
                if let Some(ticket) = tickets.borrow_mut().pop_front() {
                    complete(&mut world, ticket, flow, allow());
                }
                let denied = policy == FaultPolicy::Deny;
                let expected = [Got::Ack("PUBACK", packet, if denied { 0x87 } else { 0x10 })];
                assert_eq!(world.take(client), expected, "{flow:?}, later: {later}");
                trips += world.shards[0].outbox().tripped.drain(..).count();
            }
            assert_eq!(trips > 0, tripped, "{flow:?}, later: {later}");
        }
    }
}

/// A hook that gets no ticket is not tripped for it, whether it returns Defer or the error. This
/// applies to the one call: a hook that fails for another reason is tripped, also later in the same
/// chain.
#[test]
fn a_plugin_is_not_tripped_for_a_missing_ticket() {
    for point in [AUTHORIZE, HookPoint::MessagePublish, HookPoint::ClientSubscribe] {
        for flow in [Flow::DEFER, Flow::FAULT, Flow::CONTINUE] {
            for behind in [Flow::CONTINUE, Flow::FAULT] {
                let mut world = World::with(1, |limits| {
                    limits.tickets_max = 1;
                    limits.breaker_faults_max = 3;
                });
                let (holder, client) = (
                    world.connect("h", &ConnectRequest::v(Version::V5)),
                    world.connect("c", &ConnectRequest::v(Version::V5)),
                );
                let holds = link(1, 9, FaultPolicy::Ignore, |call: &mut Call<'_>| {
                    if call.topic() != "hold" {
                        return Flow::CONTINUE;
                    }
                    call.defer().map_or(Flow::FAULT, |_| Flow::DEFER)
                });
                let seeks = link(2, 1, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
                    if call.client_id() == "h" {
                        return Flow::CONTINUE;
                    }
                    assert_eq!(call.defer(), Err(Status::FULL));
                    flow
                });
                let last = link(3, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
                    if call.client_id() == "h" { Flow::CONTINUE } else { behind }
                });
                mount(&mut world, vec![(HookPoint::MessagePublish, holds), (point, seeks), (point, last)]);
                world.publish(holder, "hold", "x", QoS::AtMostOnce, 0);
                let mut tripped = Vec::new();
                for packet in 1..=5 {
                    if point == HookPoint::ClientSubscribe {
                        world.subscribe(client, "t", QoS::AtMostOnce);
                    } else {
                        world.publish(client, "t", "x", QoS::AtLeastOnce, packet);
                    }
                    tripped.extend(world.shards[0].outbox().tripped.drain(..).map(|plugin| plugin.0));
                }
                let expected = if behind == Flow::FAULT { vec![3] } else { vec![] };
                assert_eq!(tripped, expected, "{point:?}, {flow:?}, then {behind:?}");
            }
        }
    }
}

/// After a new table of links, unanswered rechecks are repeated at once, as after a plugin is armed
/// again.
#[test]
fn an_unanswered_recheck_is_repeated_after_a_change_of_links() {
    let mut world = World::with(1, |limits| limits.breaker_faults_max = 1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.subscribe(client, "t", QoS::AtMostOnce);
    let works = Rc::new(Cell::new(false));
    let inner = Rc::clone(&works);
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 2, "", "");
        if inner.get() { Flow::STOP } else { Flow::FAULT }
    });
    mount(&mut world, vec![(AUTHORIZE, guard.clone())]);
    world.drive();
    assert_eq!(world.subscribe(client, "new", QoS::AtMostOnce), [0x87], "what is new is not granted");
    assert_eq!(world.shards[0].counters().subscriptions_count, 1, "what was granted stays");
    works.set(true);
    mount(&mut world, vec![(AUTHORIZE, guard)]);
    world.drive();
    assert_eq!(world.shards[0].counters().subscriptions_count, 0);
}

/// With `authorization.no_match = "deny"`, the unloading of an authorizer removes no subscription.
/// If an authorizer is called and returns no decision, the operator's setting applies.
#[test]
fn a_recheck_is_unanswered_by_an_unloaded_plugin_and_answered_by_one_that_continues() {
    let mut world = World::with_setup(1, |_| {}, false);
    let open = Rc::new(Cell::new(true));
    let inner = Rc::clone(&open);
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if inner.get() {
            call.set(Field::VERDICT, 1, "", "");
        }
        Flow::CONTINUE
    });
    mount(&mut world, vec![(AUTHORIZE, guard.clone())]);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    assert_eq!(world.subscribe(client, "t", QoS::AtMostOnce), [0]);
    mount(&mut world, Vec::new());
    world.pass_ms(10);
    assert_eq!(world.shards[0].counters().subscriptions_count, 1, "nobody was asked");
    assert_eq!(world.subscribe(client, "u", QoS::AtMostOnce), [0x87], "nothing new");
    open.set(false);
    mount(&mut world, vec![(AUTHORIZE, guard)]);
    world.pass_ms(10);
    assert_eq!(world.shards[0].counters().subscriptions_count, 0, "every link has passed");
}

/// A failure with policy ignore is no verdict either: what was granted stays, even if no other link
/// allows it.
#[test]
fn an_ignored_failure_revokes_nothing() {
    let mut world = World::with_setup(1, |_| {}, false);
    let works = Rc::new(Cell::new(true));
    let inner = Rc::clone(&works);
    let guard = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 1, "", "");
        if inner.get() { Flow::CONTINUE } else { Flow::FAULT }
    });
    mount(&mut world, vec![(AUTHORIZE, guard)]);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    assert_eq!(world.subscribe(client, "t", QoS::AtMostOnce), [0]);
    works.set(false);
    world.shards[0].invalidate(Scope::All);
    world.drive();
    assert_eq!(world.shards[0].counters().subscriptions_count, 1);
    assert_eq!(world.subscribe(client, "u", QoS::AtMostOnce), [0x87], "as if the link had not been there");
}

/// Rules that change continuously do not prevent the recheck of the last session.
#[test]
fn frequent_rule_changes_block_no_request() {
    let mut world = World::with(1, |limits| limits.rechecks_max = 1);
    connect_subscribers(&mut world, 20, 1);
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(subscribes))]);
    world.drive();
    for _ in 0..19 {
        let (_, ticket) = authorizer.next().expect("one waits");
        complete(&mut world, ticket, Flow::STOP, allow());
        world.shards[0].invalidate(Scope::All);
        world.drive();
    }
    let mut seen = std::collections::HashSet::new();
    for _ in 0..45 {
        let Some((about, ticket)) = authorizer.next() else { break };
        seen.insert(about);
        complete(&mut world, ticket, Flow::STOP, allow());
    }
    assert_eq!(seen.len(), 20, "everybody is asked about after the last change");
    assert!(authorizer.next().is_none(), "and then it is over");
}

/// If a subscriber leaves, unsubscribes or subscribes again during its recheck, the recheck and its
/// ticket are freed.
#[test]
fn a_recheck_ends_with_its_subscription() {
    type Act = fn(&mut World, usize);
    let leave: [(&str, Act); 4] = [
        ("unsubscribes", |world, client| world.unsubscribe(client, "t")),
        ("ends", |world, client| world.disconnect(client, ReasonCode::SUCCESS)),
        ("is lost", World::lose),
        ("subscribes anew", |world, client| {
            world.send_subscribe(client, "t", SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
        }),
    ];
    for (what, act) in leave {
        let mut world = World::with(1, |limits| limits.rechecks_max = 1);
        let client = world.connect("a", &ConnectRequest::v(Version::V5));
        world.subscribe(client, "t", QoS::AtMostOnce);
        let other = world.connect("b", &ConnectRequest::v(Version::V5));
        world.subscribe(other, "t", QoS::AtMostOnce);
        let authorizer = SlowAuthorizer::default();
        let first = Rc::new(Cell::new(2));
        mount(
            &mut world,
            vec![(
                AUTHORIZE,
                authorizer.link(move |call| subscribes(call) && first.replace(first.get() - 1) > 0),
            )],
        );
        world.drive();
        let (about, ticket) = authorizer.next().expect("the first is asked about");
        assert_eq!(about, "a t");
        if what == "subscribes anew" {
            world.take(client);
        }
        act(&mut world, client);
        world.pass_ms(20);
        if what == "subscribes anew" {
            let (_, own) = authorizer.next().expect("the SUBSCRIBE is asked about too");
            complete(&mut world, own, Flow::STOP, allow());
            assert_eq!(world.take(client), [Got::SubAck(7, vec![0])]);
        } else {
            assert_eq!(authorizer.next().expect("the window is free").0, "b t", "{what}");
        }
        complete(&mut world, ticket, Flow::STOP, deny(0x87));
        assert_eq!(world.shards[0].counters().tickets_stale, 1, "{what}: its ticket is closed");
        assert_eq!(world.shards[0].counters().subscriptions_revoked, 0);
    }
}

/// The verdict of a recheck for one connection does not apply to the next.
#[test]
fn a_recheck_applies_only_to_the_connection_it_was_requested_for() {
    let mut world = World::new(1);
    let stored = |username| ConnectRequest {
        clean: false,
        username: Some(username),
        properties: vec![Property::SessionExpiry(60)],
        ..ConnectRequest::v(Version::V5)
    };
    let client = world.connect("c", &stored("ann"));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(subscribes))]);
    world.drive();
    let (_, first) = authorizer.next().expect("it is asked about");
    world.lose(client);
    world.connect("c", &stored("ann"));
    complete(&mut world, first, Flow::STOP, deny(0x87));
    assert_eq!(world.shards[0].counters().subscriptions_count, 1);
    let (_, second) = authorizer.next().expect("it is asked about for the new connection");
    complete(&mut world, second, Flow::STOP, deny(0x87));
    assert_eq!(world.shards[0].counters().subscriptions_count, 0);
}

/// A filter that was allowed while others of its packet waited is authorized again if the rules
/// have changed meanwhile. No recheck covers it, since it is not in force yet.
#[test]
fn a_filter_is_granted_by_the_current_rules() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(subscribes))]);
    send_many(&mut world, client, 2);
    let (about, first) = authorizer.next().expect("the first filter");
    assert_eq!(about, "c t/0");
    complete(&mut world, first, Flow::STOP, allow());
    let (_, second) = authorizer.next().expect("the second filter");
    world.shards[0].invalidate(Scope::All);
    world.drive();
    complete(&mut world, second, Flow::STOP, allow());
    let mut requested = Vec::new();
    while let Some((about, ticket)) = authorizer.next() {
        let answer = if about == "c t/0" { deny(0x87) } else { allow() };
        requested.push(about);
        complete(&mut world, ticket, Flow::STOP, answer);
    }
    requested.sort();
    assert_eq!(requested, ["c t/0", "c t/1"]);
    assert_eq!(world.take(client), [Got::SubAck(7, vec![0x87, 0])]);
}

/// Sends a SUBSCRIBE with this many filters; a plugin refuses those from `first` on through a
/// ticket. Returns what the client receives.
fn refused_later(world: &mut World, count: usize, first: u32, code: u64) -> Vec<Got> {
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let tickets = DeferredTickets::default();
    let inner = tickets.clone();
    let later = link(1, 0, HookPoint::ClientSubscribe.fault_policy(), move |call: &mut Call<'_>| {
        inner.note("", call.defer().expect("it may wait"));
        Flow::DEFER
    });
    mount(world, vec![(HookPoint::ClientSubscribe, later)]);
    send_many(world, client, count);
    let refuse = |index| {
        [(Field::REASON_CODE, code), (Field::VERDICT, 2)]
            .map(|(field, value)| OwnedChange { index, ..number(field, value) })
    };
    complete(world, tickets.ticket(0), Flow::STOP, (first..count as u32).flat_map(refuse).collect());
    world.take(client)
}

/// Through a ticket client.subscribe may refuse every filter that a packet can have.
#[test]
fn a_deferred_answer_can_refuse_every_filter_of_a_packet() {
    for count in [129, 1000] {
        let mut world = World::new(1);
        assert_eq!(refused_later(&mut world, count, 0, 0x87), [Got::SubAck(7, vec![0x87; count])]);
        assert_eq!(world.shards[0].counters().subscriptions_count, 0);
    }
}

/// In an answer about any number of filters, each filter gets its own result. An invalid answer has
/// no effect on any of them.
#[test]
fn a_deferred_answer_about_a_thousand_filters_is_applied_completely() {
    let mut world = World::new(1);
    let mut codes = vec![0x8F; 1000];
    codes[0] = 0;
    assert_eq!(refused_later(&mut world, 1000, 1, 0x8F), [Got::SubAck(7, codes)]);
    assert_eq!(world.shards[0].counters().hook_answers_refused, 0);
}

/// client.subscribe fails closed: a link that fails, answers too late or sends an invalid answer
/// allows no filter.
#[test]
fn a_failed_client_subscribe_refuses_the_subscription() {
    for silence in ["fault", "late fault", "deadline", "nonsense"] {
        let mut world = World::new(1);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        let tickets = DeferredTickets::default();
        let inner = tickets.clone();
        let guard = link(1, 0, HookPoint::ClientSubscribe.fault_policy(), move |call: &mut Call<'_>| {
            if silence == "fault" {
                return Flow::FAULT;
            }
            inner.note("", call.defer().expect("it may wait"));
            Flow::DEFER
        });
        mount(&mut world, vec![(HookPoint::ClientSubscribe, guard)]);
        send_many(&mut world, client, 3);
        match silence {
            "fault" => {}
            "late fault" => complete(&mut world, tickets.ticket(0), Flow::FAULT, Vec::new()),
            "deadline" => world.pass_ms(1_100),
            _ => {
                let refuse = OwnedChange { index: 1, ..number(Field::VERDICT, 2) };
                let broken = OwnedChange { index: 3, ..number(Field::VERDICT, 2) };
                complete(&mut world, tickets.ticket(0), Flow::STOP, vec![refuse, broken]);
            }
        }
        assert_eq!(world.take(client), [Got::SubAck(7, vec![0x87; 3])], "{silence}");
        assert_eq!(world.shards[0].counters().subscriptions_count, 0);
    }
}

/// An invalid answer is refused as a whole and counted, and the outbox names the plugin and the
/// reason.
#[test]
fn an_invalid_answer_is_counted_and_logged() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let tickets = DeferredTickets::default();
    let inner = tickets.clone();
    let later = link(3, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        inner.note("", call.defer().expect("it may wait"));
        Flow::DEFER
    });
    mount(&mut world, vec![(HookPoint::ClientSubscribe, later)]);
    send_many(&mut world, client, 2);
    // The shell refuses it: the ticket stays open, and a smaller answer is accepted.
    world.shards[0].refuse_answer(tickets.ticket(0).0, "9 changes, more than 8");
    let refused = std::mem::take(&mut world.shards[0].outbox().refused);
    let named: Vec<_> =
        refused.iter().map(|r| (r.plugin.0, r.link.as_deref(), r.point, r.reason.as_str())).collect();
    let point = HookPoint::ClientSubscribe;
    assert_eq!(named, [(3, Some("plugin3.hook"), point, "9 changes, more than 8")]);
    complete(&mut world, tickets.ticket(0), Flow::STOP, vec![number(Field::VERDICT, 2)]);
    assert_eq!(world.take(client), [Got::SubAck(7, vec![0x87, 0])]);
    world.shards[0].refuse_answer(tickets.ticket(0).0, "too late");
    // The engine refuses it.
    send_many(&mut world, client, 2);
    complete(
        &mut world,
        tickets.ticket(1),
        Flow::STOP,
        vec![number(Field::VERDICT, 2), number(Field::QOS, 1)],
    );
    let refused = std::mem::take(&mut world.shards[0].outbox().refused);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].reason, "change 1, of QOS, is UNSUPPORTED");
    assert_eq!(world.shards[0].counters().hook_answers_refused, 2);
}

/// A client, its publisher, and a link that authorizes deliveries. The link defers those for which
/// `about` is true.
fn guarded(
    change: impl FnOnce(&mut grapnel_engine::limits::Limits),
    qos: QoS,
) -> (World, usize, usize, SlowAuthorizer) {
    let mut world = World::with(1, change);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.subscribe(client, "t/#", qos);
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(delivers))]);
    world.drive();
    (world, publisher, client, authorizer)
}

/// A delivery without a verdict is dropped, but not remembered as refused: the next one is
/// authorized again.
#[test]
fn an_unanswered_delivery_is_dropped_and_not_cached() {
    let (mut world, publisher, client, authorizer) = guarded(|_| {}, QoS::AtMostOnce);
    for silence in ["deadline", "fault"] {
        world.publish(publisher, "t/a", silence, QoS::AtMostOnce, 0);
        let (_, ticket) = authorizer.next().expect("it is asked about");
        match silence {
            "deadline" => world.pass_ms(5_100),
            _ => complete(&mut world, ticket, Flow::FAULT, Vec::new()),
        }
        assert_eq!(world.take(client), []);
    }
    world.publish(publisher, "t/a", "1", QoS::AtMostOnce, 0);
    authorizer.answer_all(&mut world, allow);
    world.publish(publisher, "t/a", "2", QoS::AtMostOnce, 0);
    assert_eq!(world.take(client), [message("t/a", "1", 0), message("t/a", "2", 0)]);
    assert_eq!(world.shards[0].counters().messages_dropped_not_authorized, 2);
}

/// Deliveries behind an unanswered one count towards the limits of the session's queue, in messages
/// and in bytes.
#[test]
fn waiting_deliveries_are_limited() {
    let payload = "x".repeat(10_000);
    for (messages_max, bytes_max, stored) in
        [(4, 1 << 20, 4), (1000, 45_000, 4), (1000, 1024, 1), (1, 1 << 20, 1)]
    {
        let (mut world, publisher, client, authorizer) = guarded(
            |limits| {
                limits.session_queue_messages_max = messages_max;
                limits.session_queue_bytes_max = bytes_max;
            },
            QoS::AtMostOnce,
        );
        for _ in 0..10 {
            world.publish(publisher, "t/a", &payload, QoS::AtMostOnce, 0);
        }
        let dropped = world.shards[0].counters().messages_dropped_queue_full;
        assert_eq!(dropped, 10 - stored, "{messages_max} messages, {bytes_max} bytes");
        authorizer.answer_all(&mut world, allow);
        assert_eq!(world.take(client).len() as u64, stored);
        // All of the space is free again.
        for _ in 0..3 {
            world.publish(publisher, "t/a", &payload, QoS::AtMostOnce, 0);
        }
        assert_eq!(world.take(client).len(), 3);
    }
}

/// The queue and the deliveries that wait for authorization share one limit: an absent client has
/// no more of both than of one.
#[test]
fn waiting_deliveries_and_queued_messages_share_one_limit() {
    let mut world = World::with(1, |limits| limits.session_queue_messages_max = 5);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let stored = ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(60)],
        ..ConnectRequest::v(Version::V5)
    };
    let client = world.connect("c", &stored);
    world.subscribe(client, "t/#", QoS::AtLeastOnce);
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(|call| delivers(call) && call.topic() == "t/slow"))]);
    world.drive();
    world.lose(client);
    for topic in ["t/a", "t/a", "t/a", "t/slow", "t/a", "t/a", "t/a"] {
        world.publish(publisher, topic, "x", QoS::AtLeastOnce, 1);
    }
    assert_eq!(world.shards[0].counters().messages_dropped_queue_full, 2);
    authorizer.answer_all(&mut world, allow);
    let client = world.connect("c", &stored);
    let topics = ["t/a", "t/a", "t/a", "t/slow", "t/a"];
    assert_eq!(world.take_plain(client), topics.map(|topic| message(topic, "x", 1)));
}

/// A bounded number of deliveries waits for a plugin at a time. The others wait behind them, and
/// all are sent in order.
#[test]
fn no_more_deliveries_than_deliver_requests_max_are_authorized_at_a_time() {
    for (window, tickets, most) in [(1, 100, 1), (3, 100, 3), (100, 2, 2)] {
        let mut world = World::with(1, |limits| {
            limits.deliver_requests_max = window;
            limits.tickets_max = tickets;
        });
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        let clients = connect_subscribers(&mut world, 10, 1);
        let authorizer = SlowAuthorizer::default();
        mount(&mut world, vec![(AUTHORIZE, authorizer.link(delivers))]);
        world.drive();
        for payload in ["1", "2"] {
            world.publish(publisher, "f/0", payload, QoS::AtMostOnce, 0);
        }
        assert_eq!(authorizer.answer_all(&mut world, allow), 10);
        assert_eq!(authorizer.most.get(), most);
        for client in clients {
            assert_eq!(world.take(client), [message("f/0", "1", 0), message("f/0", "2", 0)]);
        }
        assert!(!world.shards[0].has_work());
    }
}

/// If the link that defers a delivery is unloaded, later deliveries still wait behind it.
#[test]
fn later_deliveries_wait_behind_a_deferred_one_after_its_link_is_unloaded() {
    let (mut world, publisher, client, authorizer) = guarded(|_| {}, QoS::AtMostOnce);
    world.publish(publisher, "t/a", "1", QoS::AtMostOnce, 0);
    mount(&mut world, Vec::new());
    world.publish(publisher, "t/a", "2", QoS::AtMostOnce, 0);
    assert_eq!(world.take(client), []);
    authorizer.answer_all(&mut world, allow);
    assert_eq!(world.take(client), [message("t/a", "1", 0), message("t/a", "2", 0)]);
}

/// When a session ends, its waiting deliveries and their ticket are freed. Deliveries of shared
/// subscriptions go to another member.
#[test]
fn waiting_deliveries_end_with_their_session() {
    let mut world = World::new(1);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let first = world.connect("first", &ConnectRequest::v(Version::V5));
    world.subscribe(first, "$share/g/t", QoS::AtLeastOnce);
    let authorizer = SlowAuthorizer::default();
    mount(
        &mut world,
        vec![(AUTHORIZE, authorizer.link(|call| delivers(call) && call.client_id() == "first"))],
    );
    world.drive();
    for n in 1..=3 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, n);
    }
    let (_, ticket) = authorizer.next().expect("the first delivery is asked about");
    let second = world.connect("second", &ConnectRequest::v(Version::V5));
    world.subscribe(second, "$share/g/t", QoS::AtLeastOnce);
    world.disconnect(first, ReasonCode::SUCCESS);
    world.pass_ms(20);
    assert_eq!(world.take_plain(second), ["1", "2", "3"].map(|n| message("t", n, 1)));
    complete(&mut world, ticket, Flow::STOP, allow());
    assert_eq!(world.shards[0].counters().tickets_stale, 1, "the ticket was closed");
    assert!(authorizer.next().is_none());
}

/// A remembered verdict on a delivery applies to one connection: not to the client's next one, nor
/// to another client of the same session.
#[test]
fn a_cached_verdict_is_not_used_for_the_next_connection() {
    let mut world =
        World::with(1, |limits| limits.choices.session_owner = grapnel_engine::limits::SessionOwner::Inherit);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let stored = |username| ConnectRequest {
        clean: false,
        username: Some(username),
        properties: vec![Property::SessionExpiry(60)],
        ..ConnectRequest::v(Version::V5)
    };
    let client = world.connect("c", &stored("ann"));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let log = Log::default();
    let seen = log.clone();
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        let username = call.get_text(Field::USERNAME);
        if delivers(call) {
            seen.note(username.clone());
        }
        call.set(Field::VERDICT, if delivers(call) && username == "bob" { 2 } else { 1 }, "", "");
        Flow::CONTINUE
    });
    mount(&mut world, vec![(AUTHORIZE, Link { deliver: true, ..guard })]);
    world.drive();
    let mut client = client;
    for (username, delivered, requested) in
        [("ann", 1, 1), ("ann", 1, 0), ("ann", 1, 1), ("bob", 0, 1), ("ann", 1, 1)]
    {
        if requested == 1 {
            world.lose(client);
            client = world.connect("c", &stored(username));
        }
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        let got: Vec<_> = world.take(client);
        assert_eq!((got.len(), log.take().len()), (delivered, requested), "{username}");
    }
}

/// A delivery whose verdict is outstanding is authorized again for the next connection.
#[test]
fn a_waiting_delivery_is_authorized_again_for_the_next_connection() {
    let mut world = World::new(1);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let stored = ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(60)],
        ..ConnectRequest::v(Version::V5)
    };
    let client = world.connect("c", &stored);
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(delivers))]);
    world.drive();
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    let (_, first) = authorizer.next().expect("it is asked about");
    world.lose(client);
    let client = world.connect("c", &stored);
    complete(&mut world, first, Flow::STOP, allow());
    assert_eq!(world.take(client), [], "that was about the connection before");
    let (_, second) = authorizer.next().expect("it is asked about again");
    complete(&mut world, second, Flow::STOP, deny(0x87));
    assert_eq!(world.take(client), []);
    assert_eq!(world.shards[0].counters().messages_dropped_not_authorized, 1);
}

/// A verdict that forbids remembering is requested each time.
#[test]
fn a_verdict_that_may_not_be_cached_is_requested_again() {
    let mut world = World::new(1);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.subscribe(client, "t", QoS::AtMostOnce);
    let log = Log::default();
    let seen = log.clone();
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if delivers(call) {
            seen.note("asked");
        }
        call.set(Field::VERDICT, 1, "", "");
        call.set(Field::CACHEABLE, 0, "", "");
        Flow::CONTINUE
    });
    mount(&mut world, vec![(AUTHORIZE, Link { deliver: true, ..guard })]);
    world.drive();
    for _ in 0..3 {
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    }
    assert_eq!((world.take(client).len(), log.take().len()), (3, 3));
}

/// After any change of an authorize link by the operator, remembered verdicts are requested again.
/// A change without effect causes no request.
#[test]
fn a_cached_verdict_is_not_used_after_its_links_have_changed() {
    type Change = fn(&mut Vec<(HookPoint, Link)>);
    let changes: [(&str, Change, bool); 9] = [
        ("nothing", |_| {}, false),
        ("a deadline", |links| links[0].1.deadline_ms = 77, false),
        ("the order", |links| links[1].1.priority = 9, true),
        ("topics", |links| links[0].1.topics = Some(["t".into(), "u".into()].into()), true),
        ("the second link's topics", |links| links[1].1.topics = Some(["#".into()].into()), true),
        ("a policy", |links| links[1].1.policy = FaultPolicy::Ignore, true),
        ("what asks for deliveries", |links| links[1].1.deliver = true, true),
        ("a generation", |links| links[0].1.plugin = grapnel_engine::hook::PluginHandle(1 << 32 | 1), true),
        ("a link less", |links| links.truncate(1), true),
    ];
    for (what, change, again) in changes {
        let mut world = World::new(1);
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.subscribe(client, "t", QoS::AtMostOnce);
        let log = Log::default();
        let seen = log.clone();
        let guard = link(1, 5, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if delivers(call) {
                seen.note("asked");
            }
            call.set(Field::VERDICT, 1, "", "");
            Flow::CONTINUE
        });
        let passes = link(2, 0, FaultPolicy::Deny, |_| Flow::CONTINUE);
        let mut links = vec![(AUTHORIZE, Link { deliver: true, ..guard }), (AUTHORIZE, passes)];
        mount(&mut world, links.clone());
        world.drive();
        world.publish(publisher, "t", "1", QoS::AtMostOnce, 0);
        world.publish(publisher, "t", "2", QoS::AtMostOnce, 0);
        assert_eq!(log.take().len(), 1);
        change(&mut links);
        mount(&mut world, links);
        world.drive();
        world.publish(publisher, "t", "3", QoS::AtMostOnce, 0);
        assert_eq!(log.take().len(), usize::from(again), "{what}");
        assert_eq!(world.take(client).len(), 3);
    }
}

/// A link with another function is another link, even with the same name and plugin.
#[test]
fn a_cached_verdict_is_not_used_after_its_function_has_changed() {
    let mut world = World::new(1);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.subscribe(client, "t", QoS::AtMostOnce);
    for verdict in [1, 2] {
        let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            call.set(Field::VERDICT, if delivers(call) { verdict } else { 1 }, "", "");
            Flow::CONTINUE
        });
        mount(&mut world, vec![(AUTHORIZE, Link { deliver: true, ..guard })]);
        world.drive();
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        assert_eq!(world.take(client).len(), usize::from(verdict == 1));
    }
}

/// Requests of a superuser are not authorized and cannot be refused. A client that is no superuser
/// any more is rechecked.
#[test]
fn requests_of_a_superuser_are_allowed_without_authorization() {
    let mut world = World::with_setup(1, |_| {}, false);
    let log = Log::default();
    let seen = log.clone();
    let refuses = link(2, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.client_id() == "root" {
            seen.note(format!("{} {}", call.action(), call.topic()));
        }
        call.set(Field::VERDICT, if call.client_id() == "watch" { 1 } else { 2 }, "", "");
        Flow::STOP
    });
    let vouches = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        let root = call.client_id() == "root" && call.get_text(Field::AUTH_DATA) != "down";
        call.set(Field::VERDICT, 1, "", "");
        call.set(Field::IS_SUPERUSER, u64::from(root), "", "");
        Flow::STOP
    });
    let links =
        vec![(AUTHORIZE, Link { deliver: true, ..refuses }), (HookPoint::ClientAuthenticate, vouches)];
    mount(&mut world, links);
    let watch = world.connect("watch", &ConnectRequest::v(Version::V5));
    world.subscribe(watch, "#", QoS::AtMostOnce);
    let request = ConnectRequest {
        will: Some(("will", "bye", QoS::AtMostOnce, false)),
        properties: vec![Property::AuthMethod("M"), Property::AuthData(b"up")],
        ..ConnectRequest::v(Version::V5)
    };
    let root = world.connect("root", &request);
    world.take(root);
    assert_eq!(world.subscribe(root, "t", QoS::AtMostOnce), [0]);
    world.publish(root, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(root), [message("t", "x", 0), Got::Ack("PUBACK", 1, 0)]);
    world.shards[0].invalidate(Scope::All);
    world.pass_ms(10);
    world.publish(watch, "t", "y", QoS::AtMostOnce, 0);
    assert_eq!(world.take(root), [message("t", "y", 0)], "its subscription stays");
    assert_eq!(log.take(), Vec::<String>::new());
    // A re-authentication ends the status, and with it the subscriptions that depend on it.
    crate::deferral::send_auth(&mut world, root, ReasonCode::REAUTHENTICATE, "M", "down");
    assert_eq!(world.take(root), [Got::Auth(0, String::new())]);
    world.pass_ms(10);
    assert_eq!(log.take(), ["2 t"]);
    assert_eq!(world.shards[0].counters().subscriptions_revoked, 1);
    world.publish(root, "t", "z", QoS::AtLeastOnce, 2);
    assert_eq!(world.take(root), [Got::Ack("PUBACK", 2, 0x87)]);
}

/// The will of a superuser cannot be refused, at CONNECT or after a change of the rules.
#[test]
fn the_will_of_a_superuser_is_sent_without_authorization() {
    let mut world = World::new(1);
    let watch = world.connect("watch", &ConnectRequest::v(Version::V5));
    world.subscribe(watch, "#", QoS::AtMostOnce);
    let refuses = link(2, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::VERDICT, if call.client_id() == "root" { 2 } else { 1 }, "", "");
        Flow::STOP
    });
    let vouches = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 1, "", "");
        call.set(Field::IS_SUPERUSER, 1, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(AUTHORIZE, refuses), (HookPoint::ClientAuthenticate, vouches)]);
    world.drive();
    let request = ConnectRequest {
        will: Some(("will", "bye", QoS::AtMostOnce, false)),
        ..ConnectRequest::v(Version::V5)
    };
    let root = world.connect("root", &request);
    world.shards[0].invalidate(Scope::All);
    world.drive();
    world.lose(root);
    assert_eq!(world.take(watch), [message("will", "bye", 0)]);
}

/// An answer to a used ticket is stale, also if its place in the table belongs to another ticket by
/// now.
#[test]
fn an_old_ticket_does_not_answer_a_later_request_in_its_slot() {
    let mut world = World::with(1, |limits| limits.tickets_max = 1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(|call| call.action() == 1))]);
    world.publish(client, "a", "x", QoS::AtLeastOnce, 1);
    let (_, stale) = authorizer.next().expect("the first is asked about");
    complete(&mut world, stale, Flow::STOP, deny(0x87));
    assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x87)]);
    world.publish(client, "b", "x", QoS::AtLeastOnce, 2);
    let (_, fresh) = authorizer.next().expect("the second is asked about");
    assert_eq!(fresh.0 & 0x00FF_FFFF, stale.0 & 0x00FF_FFFF, "in the same place");
    complete(&mut world, stale, Flow::STOP, deny(0x87));
    world.shards[0].refuse_answer(stale.0, "of the one before");
    assert_eq!(world.take(client), []);
    let counters = *world.shards[0].counters();
    assert_eq!((counters.tickets_stale, counters.hook_answers_refused), (1, 0));
    complete(&mut world, fresh, Flow::STOP, allow());
    assert_eq!(world.take(client), [Got::Ack("PUBACK", 2, 0x10)]);
}

/// A Defer without a ticket grants nothing new, and what was granted stays.
#[test]
fn a_request_without_a_free_ticket_is_unanswered() {
    let mut world = World::with(1, |limits| limits.tickets_max = 1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.subscribe(client, "t", QoS::AtMostOnce);
    let authorizer = SlowAuthorizer::default();
    mount(&mut world, vec![(AUTHORIZE, authorizer.link(|call| call.action() < 3))]);
    world.drive();
    assert_eq!(world.subscribe(client, "u", QoS::AtMostOnce), [0x87]);
    world.shards[0].invalidate(Scope::All);
    world.drive();
    assert!(authorizer.answer_all(&mut world, allow) > 1, "again, as the rules have moved");
    assert_eq!(world.shards[0].counters().subscriptions_count, 1);
}

/// The cost of a recheck is linear in the number of subscriptions: one walk examines each of them
/// once.
#[test]
fn a_recheck_calls_the_authorizer_once_for_each_subscription() {
    for filters in [250, 500, 1000] {
        let mut world = World::new(1);
        connect_subscribers(&mut world, 1, filters);
        let calls = Rc::new(Cell::new(0));
        let inner = Rc::clone(&calls);
        let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            inner.set(inner.get() + 1);
            call.set(Field::VERDICT, 1, "", "");
            Flow::CONTINUE
        });
        mount(&mut world, vec![(AUTHORIZE, guard)]);
        let mut turns = 0;
        while world.shards[0].has_work() {
            world.now = world.now.plus_ms(1);
            let before = calls.get();
            world.shards[0].advance(world.now);
            assert!(calls.get() - before <= 128, "a slice a turn");
            turns += 1;
        }
        assert_eq!(calls.get(), filters);
        assert!(turns <= filters / 64 + 2, "{turns} turns");
    }
}

/// A hook changes a pair of values.
fn change(call: &Call<'_>, field: Field, number: u64, bytes: &str) {
    let change = grapnel_plugin_abi::raw::Change {
        field,
        index: 0,
        number,
        bytes: grapnel_plugin_abi::raw::Slice::of(bytes.as_bytes()),
        key: grapnel_plugin_abi::raw::Slice::EMPTY,
    };
    // SAFETY: the context is that of the running event.
    let status = unsafe { (grapnel_plugin_abi::host::host_api(1, 1).set)(call.ctx(), &change) };
    assert_eq!(status, grapnel_plugin_abi::raw::Status::OK, "{field:?}");
}

/// A field that links may change at a point: the value of the first link, the value of the failing
/// link, and its text if it is text.
type FieldRow = (Field, u64, u64, &'static str, &'static str);

const fn figure(field: Field, first: u64, failed: u64) -> FieldRow {
    (field, first, failed, "", "")
}

const fn words(field: Field, first: &'static str, failed: &'static str) -> FieldRow {
    (field, 0, 0, first, failed)
}

/// Every accumulator with all its fields.
#[allow(clippy::too_many_lines, reason = "a table")]
fn accumulators() -> Vec<(HookPoint, Vec<FieldRow>)> {
    let message = vec![
        words(Field::TOPIC, "t/first", "t/failed"),
        words(Field::PAYLOAD, "first", "failed"),
        figure(Field::QOS, 1, 0),
        figure(Field::DISPOSITION, 0, 1),
        words(Field::CONTENT_TYPE, "first", "failed"),
        words(Field::RESPONSE_TOPIC, "r/first", "r/failed"),
        words(Field::CORRELATION_DATA, "first", "failed"),
        figure(Field::MESSAGE_EXPIRY_S, 10, 20),
        figure(Field::PAYLOAD_FORMAT, 1, 0),
    ];
    let mut publish = message.clone();
    publish.extend([
        figure(Field::RETAIN, 1, 0),
        figure(Field::REASON_CODE, 0x87, 0x99),
        words(Field::REASON_STRING, "first", "failed"),
    ]);
    vec![
        (
            HookPoint::ClientConnect,
            vec![
                figure(Field::VERDICT, 1, 2),
                figure(Field::REASON_CODE, 0x8A, 0x97),
                words(Field::REASON_STRING, "first", "failed"),
                figure(Field::KEEP_ALIVE_S, 11, 12),
                figure(Field::SESSION_EXPIRY_S, 21, 22),
                figure(Field::RECEIVE_MAXIMUM, 31, 32),
                figure(Field::MAXIMUM_PACKET_SIZE, 4100, 4200),
                figure(Field::TOPIC_ALIAS_MAXIMUM, 5, 6),
                figure(Field::REQUEST_RESPONSE_INFO, 1, 0),
                figure(Field::REQUEST_PROBLEM_INFO, 0, 1),
            ],
        ),
        (
            HookPoint::ClientAuthenticate,
            vec![
                figure(Field::VERDICT, 1, 2),
                figure(Field::REASON_CODE, 0x8A, 0x97),
                words(Field::REASON_STRING, "first", "failed"),
                figure(Field::IS_SUPERUSER, 1, 0),
            ],
        ),
        (
            HookPoint::ClientAuthorize,
            vec![
                figure(Field::VERDICT, 1, 2),
                figure(Field::REASON_CODE, 0x87, 0x99),
                words(Field::REASON_STRING, "first", "failed"),
                figure(Field::CACHEABLE, 0, 1),
            ],
        ),
        (
            HookPoint::ClientConnack,
            vec![
                figure(Field::KEEP_ALIVE_S, 11, 12),
                figure(Field::SESSION_EXPIRY_S, 21, 22),
                figure(Field::RECEIVE_MAXIMUM, 31, 32),
                figure(Field::MAXIMUM_PACKET_SIZE, 4100, 4200),
                figure(Field::TOPIC_ALIAS_MAXIMUM, 5, 6),
                words(Field::REASON_STRING, "first", "failed"),
            ],
        ),
        (
            HookPoint::ClientSubscribe,
            vec![
                words(Field::FILTER, "f/first", "f/failed"),
                figure(Field::FILTER_OPTIONS, 1, 2),
                figure(Field::REASON_CODE, 0x87, 0x97),
                figure(Field::VERDICT, 2, 1),
            ],
        ),
        (
            HookPoint::ClientUnsubscribe,
            vec![
                words(Field::FILTER, "f/first", "f/failed"),
                figure(Field::REASON_CODE, 0x87, 0x83),
                figure(Field::VERDICT, 2, 1),
            ],
        ),
        (HookPoint::MessagePublish, publish),
        (HookPoint::MessageDelivered, message),
    ]
}

/// Values of every field that a link sees, and of the event's struct, which most hooks read.
fn sees(call: &Call<'_>, rows: &[FieldRow]) -> Vec<String> {
    let mut seen: Vec<String> = rows
        .iter()
        .map(|(field, _, _, text, _)| match text.is_empty() {
            true => format!("{field:?} {:?}", call.number(*field)),
            false => format!("{field:?} {}", call.text(*field)),
        })
        .collect();
    let user = call.number(Field::USER_PROPERTIES);
    let event = call.event;
    seen.push(format!(
        "user properties {user:?}, event {} {} {:?} q{} f{:x} r{}",
        call.topic(),
        call.payload(),
        event.action,
        event.qos,
        event.flags,
        event.reason_code
    ));
    seen
}

/// Produces an event of every fold point.
fn provoke(world: &mut World) {
    let will = Some(("t/will", "bye", QoS::AtMostOnce, false));
    let client = world.open(Version::V5);
    world.send_connect(client, "c", &ConnectRequest { will, keep_alive_s: 60, ..stored() });
    world.pass_ms(2_000);
    let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
    world.send_subscribe(client, "#", options, None);
    world.pass_ms(2_000);
    world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    world.pass_ms(2_000);
    world.unsubscribe(client, "#");
    world.pass_ms(2_000);
}

fn stored<'a>() -> ConnectRequest<'a> {
    ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(60)],
        ..ConnectRequest::v(Version::V5)
    }
}

/// After a failed link, the next link sees in every field of every accumulator the value without
/// that link. This holds for a failure at once, after a Defer, and by the deadline.
#[test]
fn no_field_keeps_a_change_of_a_failed_link() {
    for (point, rows) in accumulators() {
        let mut expected = None;
        for failure in ["not there", "at once", "later", "by its deadline"] {
            if matches!(failure, "later" | "by its deadline") && !point.may_defer() {
                continue;
            }
            let mut world = World::new(1);
            if point == HookPoint::MessageDelivered {
                world.connect("c", &stored());
            }
            let log = Log::default();
            let (first_rows, failed_rows, last_rows) = (rows.clone(), rows.clone(), rows.clone());
            let first = link(1, 3, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
                for (field, value, _, text, _) in &first_rows {
                    change(call, *field, *value, text);
                }
                Flow::CONTINUE
            });
            let tickets = DeferredTickets::default();
            let inner = tickets.clone();
            let fails = link(2, 2, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
                for (field, _, value, _, text) in &failed_rows {
                    change(call, *field, *value, text);
                }
                if failure == "at once" {
                    return Flow::FAULT;
                }
                inner.note("", call.defer().expect("the point may wait"));
                Flow::DEFER
            });
            let seen = log.clone();
            let last = link(3, 1, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
                seen.note(sees(call, &last_rows).join("\n"));
                Flow::CONTINUE
            });
            let mut links = vec![(point, first), (point, last)];
            if failure != "not there" {
                links.push((point, fails));
            }
            if failure == "later" {
                // A thread of the plugin reports a failure at once.
                let faults = tickets.clone();
                let done = Rc::new(Cell::new(0));
                mount(&mut world, links);
                provoke_with(&mut world, |world| {
                    while done.get() < faults.about().len() {
                        let ticket = faults.ticket(done.replace(done.get() + 1));
                        complete(world, ticket, Flow::FAULT, vec![number(Field::VERDICT, 2)]);
                    }
                });
            } else {
                mount(&mut world, links);
                provoke(&mut world);
            }
            let seen = log.take();
            assert!(!seen.is_empty(), "{}: it is called", point.name());
            let expected = expected.get_or_insert_with(|| seen[0].clone());
            assert_eq!(&seen[0], expected, "{} {failure}", point.name());
        }
    }
}

/// Like `provoke`, with an action of a plugin's thread after each packet.
fn provoke_with(world: &mut World, answer: impl Fn(&mut World)) {
    let will = Some(("t/will", "bye", QoS::AtMostOnce, false));
    let client = world.open(Version::V5);
    world.send_connect(client, "c", &ConnectRequest { will, keep_alive_s: 60, ..stored() });
    answer(world);
    world.send_subscribe(client, "#", SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
    answer(world);
    world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    answer(world);
    world.unsubscribe(client, "#");
    answer(world);
}

/// If one change of an answer is invalid, none of its changes takes effect.
#[test]
fn an_answer_is_applied_completely_or_not_at_all() {
    let text = |field, text: &'static str| OwnedChange { bytes: Bytes::from(text), ..number(field, 0) };
    let cases: [(HookPoint, Vec<OwnedChange>, OwnedChange); 4] = [
        (HookPoint::ClientConnect, vec![number(Field::KEEP_ALIVE_S, 7)], number(Field::RECEIVE_MAXIMUM, 0)),
        (HookPoint::ClientAuthenticate, vec![number(Field::IS_SUPERUSER, 1)], number(Field::VERDICT, 4)),
        (HookPoint::ClientAuthorize, vec![number(Field::CACHEABLE, 0)], number(Field::REASON_CODE, 0)),
        (HookPoint::MessagePublish, vec![text(Field::PAYLOAD, "new")], text(Field::TOPIC, "a/#")),
    ];
    for (point, good, bad) in cases {
        let mut world = World::new(1);
        let (tickets, log) = (DeferredTickets::default(), Log::default());
        let (inner, seen) = (tickets.clone(), log.clone());
        let later = link(1, 1, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            inner.note("", call.defer().expect("it may wait"));
            Flow::DEFER
        });
        let last = link(2, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            seen.note(format!(
                "{:?} {:?} {:?} {}",
                call.number(Field::KEEP_ALIVE_S),
                call.flags(),
                call.number(Field::CACHEABLE),
                call.payload()
            ));
            Flow::CONTINUE
        });
        mount(&mut world, vec![(point, later), (point, last)]);
        let done = Cell::new(0);
        let mut changes = good;
        changes.push(bad);
        provoke_with(&mut world, |world| {
            while done.get() < tickets.about().len() {
                complete(
                    world,
                    tickets.ticket(done.replace(done.get() + 1)),
                    Flow::CONTINUE,
                    changes.clone(),
                );
            }
        });
        let seen = log.take();
        let plain = seen.first().expect("the link behind is called");
        assert!(!plain.contains("Ok(7)") && !plain.contains("new") && !plain.contains("Ok(0)"), "{plain}");
        assert!(world.shards[0].counters().hook_answers_refused > 0 || point == HookPoint::MessagePublish);
    }
}
