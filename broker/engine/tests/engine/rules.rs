//! Authorization requests under way when the rules change: no request is decided partly by the old
//! rules.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use grapnel_engine::hook::view::Action;
use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint, Link, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::limits::Limits;
use grapnel_engine::packet::{
    Filters, Packet, Properties, QoS, Subscribe, SubscriptionOptions, Version, push_subscription,
};
use grapnel_engine::shard::{BehalfAction, BehalfClient, Command, Lane, OnBehalf, OwnedChange, Scope};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, allow};
use crate::hooks::{Call, Log, complete, link, mount};
use crate::lanes::on_shard;
use crate::on_behalf::publish;
use crate::world::{ClientId, ConnectRequest, Got, World, message};

/// A client, a subscriber to everything, and three links at client.authorize. The first has rules
/// that forbid topics beginning with `b` once they are strict. The second defers topics beginning
/// with `a`. The third returns no decision.
struct Fixture {
    world: World,
    client: ClientId,
    subscriber: ClientId,
    tickets: DeferredTickets,
    strict: Rc<Cell<bool>>,
}

impl Fixture {
    fn new() -> Fixture {
        let mut world = World::new(1);
        let subscriber = world.connect("subscriber", &ConnectRequest::v(Version::V5));
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        let (tickets, strict) = (DeferredTickets::default(), Rc::<Cell<bool>>::default());
        let is_strict = Rc::clone(&strict);
        let rules = link(1, 20, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            let forbidden = is_strict.get() && call.topic().starts_with('b');
            call.set(Field::VERDICT, if forbidden { 2 } else { 1 }, "", "");
            if forbidden { Flow::STOP } else { Flow::CONTINUE }
        });
        let inner = tickets.clone();
        let slow = link(2, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if !call.topic().starts_with('a') {
                return Flow::CONTINUE;
            }
            inner.note(call.topic(), call.defer().expect("a ticket"));
            Flow::DEFER
        });
        let silent = link(3, 0, FaultPolicy::Deny, |_: &mut Call<'_>| Flow::CONTINUE);
        let at = |link: Link| (HookPoint::ClientAuthorize, link);
        mount(&mut world, vec![at(rules), at(slow), at(silent)]);
        world.pass_ms(10);
        Fixture { world, client, subscriber, tickets, strict }
    }

    /// Makes the rules strict. The deferring link then allows everything that waits.
    fn change_rules(&mut self) {
        self.strict.set(true);
        self.world.shards[0].invalidate(Scope::All);
        let mut at = 0;
        while at < self.tickets.about().len() {
            complete(&mut self.world, self.tickets.ticket(at), Flow::CONTINUE, allow());
            at += 1;
        }
        self.world.pass_ms(1_500);
    }

    fn action(&mut self, action: BehalfAction) {
        let client = BehalfClient::Client("c".into());
        let request = OnBehalf { plugin: PluginHandle(9), client, answer: None, action };
        self.world.shards[0].command(Command::As(Box::new(request)));
        self.world.drive();
    }
}

/// The second PUBLISH has passed the first link and waits behind a PUBLISH that the second link has
/// deferred. It is authorized by the new rules.
#[test]
fn a_publish_behind_another_is_authorized_by_the_new_rules_alone() {
    let mut fixture = Fixture::new();
    fixture.world.publish(fixture.client, "a", "1", QoS::AtLeastOnce, 1);
    fixture.world.publish(fixture.client, "b", "2", QoS::AtLeastOnce, 2);
    assert_eq!(fixture.tickets.about(), ["a"]);
    fixture.change_rules();
    assert_eq!(fixture.world.take(fixture.client), [Got::Ack("PUBACK", 1, 0), Got::Ack("PUBACK", 2, 0x87)]);
    assert_eq!(fixture.world.take_plain(fixture.subscriber), [message("a", "1", 0)]);
}

/// The same holds for a subscription on behalf of the client: it does not come into force.
#[test]
fn a_subscription_on_behalf_of_a_client_is_authorized_by_the_new_rules_alone() {
    let mut fixture = Fixture::new();
    let topic = |topic: &str| BehalfAction::Authorize {
        action: Action::Publish,
        topic: topic.into(),
        qos: QoS::AtMostOnce,
        retain: false,
    };
    let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
    fixture.action(topic("a"));
    fixture.action(BehalfAction::Subscribe { filter: "b".into(), options, id: 0 });
    assert_eq!(fixture.tickets.about(), ["a"]);
    fixture.change_rules();
    let (rows, _) = fixture.world.shards[0].subscriptions(Some("c"), 0, 100);
    assert_eq!(rows, []);
    assert_eq!(fixture.world.shards[0].counters().behalf_refused, 1);
}

/// A will is authorized again too: the client is not admitted if only the old rules allowed its
/// will.
#[test]
fn a_waiting_will_is_authorized_by_the_new_rules_alone() {
    let mut fixture = Fixture::new();
    let tickets = DeferredTickets::default();
    let inner = tickets.clone();
    let strict = Rc::clone(&fixture.strict);
    let rules = link(1, 20, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        call.set(Field::VERDICT, if strict.get() && call.topic() == "will" { 2 } else { 1 }, "", "");
        if strict.get() { Flow::STOP } else { Flow::CONTINUE }
    });
    let slow = link(2, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.topic() != "will" {
            return Flow::CONTINUE;
        }
        inner.note(call.topic(), call.defer().expect("a ticket"));
        Flow::DEFER
    });
    mount(&mut fixture.world, vec![(HookPoint::ClientAuthorize, rules), (HookPoint::ClientAuthorize, slow)]);
    fixture.world.pass_ms(10);
    let request = ConnectRequest {
        will: Some(("will", "gone", QoS::AtMostOnce, false)),
        ..ConnectRequest::v(Version::V5)
    };
    let (client, connack) = fixture.world.try_connect("w", &request);
    assert_eq!((connack, tickets.about()), (None, vec!["will".to_owned()]));
    fixture.strict.set(true);
    fixture.world.shards[0].invalidate(Scope::All);
    complete(&mut fixture.world, tickets.ticket(0), Flow::CONTINUE, allow());
    assert!(
        matches!(fixture.world.take(client)[..], [Got::ConnAck { code: 0x87, .. }]),
        "what the first link said counts no more"
    );
}

/// A client of the user `ann` and a subscriber to everything. At client.authorize, one link forbids
/// topics beginning with `b` once the rules are strict, and another one defers topics beginning
/// with `a`. At message.publish, a link defers topics that end with `later`.
struct Turn {
    world: World,
    client: ClientId,
    subscriber: ClientId,
    /// Authorization requests for the client that the rules have seen.
    requested: Log,
    tickets: DeferredTickets,
    strict: Rc<Cell<bool>>,
}

impl Turn {
    fn new() -> Turn {
        Turn::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Limits)) -> Turn {
        Turn::beside(Vec::new(), change)
    }

    /// The same with these links in addition.
    fn beside(links: Vec<(HookPoint, Link)>, change: impl FnOnce(&mut Limits)) -> Turn {
        let mut world = World::with(1, change);
        let subscriber = world.connect("subscriber", &ConnectRequest::v(Version::V5));
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        let (requested, tickets, strict) =
            (Log::default(), DeferredTickets::default(), Rc::<Cell<bool>>::default());
        let (log, is_strict) = (requested.clone(), Rc::clone(&strict));
        let rules = link(1, 20, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if call.client_id() == "subscriber" {
                call.set(Field::VERDICT, 1, "", "");
                return Flow::STOP;
            }
            log.note(call.topic());
            let forbidden = is_strict.get() && call.topic().starts_with('b');
            call.set(Field::VERDICT, if forbidden { 2 } else { 1 }, "", "");
            if forbidden { Flow::STOP } else { Flow::CONTINUE }
        });
        let defers = |identity, is_meant: fn(&str) -> bool| {
            let inner = tickets.clone();
            link(identity, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
                if !is_meant(call.topic()) {
                    return Flow::CONTINUE;
                }
                inner.note(call.topic(), call.defer().expect("a ticket"));
                Flow::DEFER
            })
        };
        let mut all = vec![
            (HookPoint::ClientAuthorize, rules),
            (HookPoint::ClientAuthorize, defers(2, |topic| topic.starts_with('a'))),
            (HookPoint::MessagePublish, defers(3, |topic| topic.ends_with("later"))),
        ];
        all.extend(links);
        mount(&mut world, all);
        world.pass_ms(10);
        let request = ConnectRequest {
            username: Some("ann"),
            will: Some(("b/later", "gone", QoS::AtMostOnce, false)),
            ..ConnectRequest::v(Version::V5)
        };
        let client = world.connect("c", &request);
        requested.take();
        Turn { world, client, subscriber, requested, tickets, strict }
    }

    fn change(&mut self, scope: Scope) {
        self.strict.set(true);
        self.world.shards[0].invalidate(scope);
        self.world.drive();
    }

    /// Allows everything that waits, with these changes, until nothing waits.
    fn answer(&mut self, changes: &[OwnedChange]) {
        let mut at = 0;
        while at < self.tickets.about().len() {
            complete(&mut self.world, self.tickets.ticket(at), Flow::CONTINUE, changes.to_vec());
            at += 1;
        }
        let ledger = self.world.shards[0].recount();
        self.world.shards[0].settle_memory();
        assert_eq!(self.world.shards[0].ledger(), ledger);
    }

    fn got(&mut self) -> Vec<Got> {
        self.world.take_plain(self.subscriber)
    }
}

/// Whether a change of the rules concerns a topic of the client.
type Concerns = fn(&str) -> bool;

/// Scopes of a change, and which of the client's topics each concerns.
fn scopes() -> [(Scope, Concerns); 6] {
    [
        (Scope::All, |_| true),
        (Scope::Topics("b/#".into()), |topic| topic.starts_with('b')),
        (Scope::Client("c".into()), |_| true),
        (Scope::User("ann".into()), |_| true),
        (Scope::Client("ann".into()), |_| false),
        (Scope::User("c".into()), |_| false),
    ]
}

/// An allowed publish that waits behind a deferred one is authorized again at its turn, by the
/// rules of then, and only if they have changed for this client.
#[test]
fn an_allowed_publish_is_authorized_again_by_the_rules_of_its_turn() {
    for (scope, concerns) in scopes() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut turn = Turn::new();
            let id = |number| if qos == QoS::AtMostOnce { 0 } else { number };
            for (number, topic) in [(1, "a"), (2, "b"), (3, "d")] {
                turn.world.publish(turn.client, topic, "x", qos, id(number));
            }
            assert_eq!(
                (turn.requested.take(), turn.tickets.about().len()),
                (vec!["a".into(), "b".into(), "d".into()], 1)
            );
            turn.change(scope.clone());
            turn.answer(&allow());
            let got = turn.got();
            let again: Vec<&str> = ["a", "b", "d"].into_iter().filter(|topic| concerns(topic)).collect();
            assert_eq!(turn.requested.take(), again, "{scope:?}");
            let concerns = concerns("b");
            let topics: &[&str] = if concerns { &["a", "d"] } else { &["a", "b", "d"] };
            assert_eq!(
                got,
                topics.iter().map(|topic| message(topic, "x", 0)).collect::<Vec<_>>(),
                "{scope:?}"
            );
            let kind = if qos == QoS::AtLeastOnce { "PUBACK" } else { "PUBREC" };
            let code = if concerns { 0x87 } else { 0 };
            let acks = [(1, 0), (2, code), (3, 0)].map(|(number, code)| Got::Ack(kind, number, code));
            let acks = if qos == QoS::AtMostOnce { &[][..] } else { &acks[..] };
            assert_eq!(turn.world.take(turn.client), acks);
        }
    }
}

/// The same holds for a publish that waits for a later hook of its own: the hook's changes stay,
/// and the new rules allow or refuse it.
#[test]
fn a_deferred_publish_is_authorized_by_the_rules_of_its_turn() {
    let payload = || OwnedChange {
        field: Field::PAYLOAD,
        index: 0,
        number: 0,
        bytes: "made".into(),
        key: Bytes::new(),
    };
    for (topic, code) in [("b/later", 0x87), ("d/later", 0)] {
        let mut turn = Turn::new();
        turn.world.publish(turn.client, topic, "x", QoS::AtLeastOnce, 1);
        assert_eq!(turn.tickets.about(), [topic]);
        turn.change(Scope::Client("c".into()));
        turn.answer(&[payload()]);
        assert_eq!(turn.requested.take(), [topic, topic], "once by each of the rules");
        assert_eq!(turn.world.take(turn.client), [Got::Ack("PUBACK", 1, code)]);
        let got = if code == 0 { vec![message(topic, "made", 0)] } else { Vec::new() };
        assert_eq!(turn.got(), got);
    }
}

/// A hook that moves `b/move` to `moved`, and `b/move/a` to `a/moved`, which client.authorize
/// defers.
fn mover() -> (HookPoint, Link) {
    let moves = link(4, 5, FaultPolicy::Deny, |call: &mut Call<'_>| {
        let to = match call.topic() {
            "b/move" => "moved",
            "b/move/a" => "a/moved",
            _ => return Flow::CONTINUE,
        };
        call.set(Field::TOPIC, 0, to, "");
        Flow::CONTINUE
    });
    (HookPoint::MessagePublish, moves)
}

/// A publish that a hook has moved must be allowed under both topics at its turn. Rules that now
/// forbid the first topic refuse it.
#[test]
fn a_moved_publish_is_authorized_for_both_topics() {
    let topic =
        || OwnedChange { field: Field::TOPIC, index: 0, number: 0, bytes: "moved".into(), key: Bytes::new() };
    for (waits_behind, sent, scope) in [
        (true, "b/move", Scope::All),
        (true, "b/move", Scope::Topics("b/#".into())),
        (true, "d", Scope::All),
        (false, "b/move/later", Scope::All),
        (false, "b/move/later", Scope::Topics("b/#".into())),
        (false, "d/later", Scope::All),
        (false, "b/move/a", Scope::All),
        (false, "b/move/a", Scope::Topics("b/#".into())),
    ] {
        let forbidden = sent.starts_with('b');
        let mut turn = Turn::beside(vec![mover()], |_| {});
        if waits_behind {
            turn.world.publish(turn.client, "a", "1", QoS::AtLeastOnce, 1);
        }
        turn.world.publish(turn.client, sent, "2", QoS::AtLeastOnce, 2);
        turn.requested.take();
        turn.change(scope.clone());
        if sent.ends_with("later") {
            turn.answer(&[topic()]);
        } else {
            turn.answer(&allow());
        }
        let code = if forbidden { 0x87 } else { 0 };
        let acks = [Got::Ack("PUBACK", 1, 0), Got::Ack("PUBACK", 2, code)];
        let acks = if waits_behind { &acks[..] } else { &acks[1..] };
        assert_eq!(turn.world.take(turn.client), acks, "{sent} {scope:?}");
        let mut got = if waits_behind { vec![message("a", "1", 0)] } else { Vec::new() };
        let topic = if sent == "d" { "d" } else { "moved" };
        got.extend((!forbidden).then(|| message(topic, "2", 0)));
        assert_eq!(turn.got(), got, "{sent} {scope:?}");
    }
}

/// The same holds for a publish without deferral that waits for a lane. If the rules have changed
/// for none of its topics, it is not authorized again.
#[test]
fn a_moved_publish_that_waits_for_a_lane_is_authorized_for_both_topics() {
    for (topics, requested) in [("b/#", &["b/move"][..]), ("moved", &["b/move", "moved"]), ("other", &[])] {
        let mut world = World::with(2, |limits| limits.lane_envelopes_max = 4);
        let request = ConnectRequest::v(Version::V5);
        let [subscriber, client, filler] = [(1, "subscriber"), (0, "c"), (0, "filler")]
            .map(|(shard, name)| on_shard(&mut world, shard, name, &request));
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        let (log, strict) = (Log::default(), Rc::<Cell<bool>>::default());
        let (inner, is_strict) = (log.clone(), Rc::clone(&strict));
        let rules = link(1, 20, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            inner.note(call.topic());
            let forbidden = is_strict.get() && call.topic() == "b/move";
            call.set(Field::VERDICT, if forbidden { 2 } else { 1 }, "", "");
            Flow::STOP
        });
        let links = vec![(HookPoint::ClientAuthorize, rules), mover()];
        world.shards[0].swap_chains(ChainTable::compile(1, links));
        world.drive();
        world.lanes_open = false;
        (0..4).for_each(|_| world.publish(filler, "fill", "x", QoS::AtMostOnce, 0));
        world.publish(client, "b/move", "x", QoS::AtLeastOnce, 1);
        log.take();
        strict.set(topics == "b/#");
        world.shards[0].invalidate(Scope::Topics(topics.into()));
        world.lanes_open = true;
        world.drive();
        assert_eq!(log.take(), requested, "{topics}");
        let code = if strict.get() { 0x87 } else { 0 };
        assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, code)], "{topics}");
        let has_arrived = world.take_plain(subscriber).contains(&message("moved", "x", 0));
        assert_eq!(has_arrived, !strict.get());
    }
}

/// A will that was allowed at CONNECT is authorized again at its turn if the rules have changed
/// since, also while a hook defers it.
#[test]
fn a_will_is_authorized_by_the_rules_of_its_turn() {
    for (scope, concerns) in scopes() {
        let concerns = concerns("b/later");
        for late in [false, true] {
            let mut turn = Turn::new();
            if late {
                turn.world.lose(turn.client);
                assert_eq!(turn.tickets.about(), ["b/later"]);
                turn.change(scope.clone());
            } else {
                turn.change(scope.clone());
                turn.world.lose(turn.client);
                assert_eq!(
                    turn.tickets.about().len(),
                    usize::from(!concerns),
                    "hooks see no will that is refused"
                );
            }
            turn.answer(&[]);
            let got = if concerns { Vec::new() } else { vec![message("b/later", "gone", 0)] };
            assert_eq!(turn.got(), got, "{scope:?} {late}");
        }
    }
}

/// A plugin that continuously changes the rules of single clients, users or topics does not restart
/// other authorization requests.
#[test]
fn changes_for_other_clients_and_topics_restart_no_authorization() {
    for what in ["publish", "subscribe", "connect"] {
        let mut turn = Turn::new();
        let mut waiting = turn.client;
        match what {
            "publish" => turn.world.publish(turn.client, "a", "x", QoS::AtLeastOnce, 1),
            "subscribe" => {
                turn.world.send_subscribe(
                    turn.client,
                    "a",
                    SubscriptionOptions::of_qos(QoS::AtMostOnce),
                    None,
                );
            }
            _ => {
                let will = Some(("a", "gone", QoS::AtMostOnce, false));
                waiting = turn
                    .world
                    .try_connect("new", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) })
                    .0;
            }
        }
        for number in 0..20 {
            turn.change(Scope::Client(format!("busy{number}").into()));
            turn.change(Scope::User(format!("busy{number}").into()));
            turn.change(Scope::Topics(format!("busy{number}/#").into()));
        }
        turn.answer(&allow());
        assert_eq!((turn.tickets.about().len(), turn.requested.take()), (1, vec!["a".to_owned()]), "{what}");
        let expected = match what {
            "publish" => Got::Ack("PUBACK", 1, 0),
            "subscribe" => Got::SubAck(7, vec![0]),
            _ => Got::ConnAck { present: false, code: 0 },
        };
        assert_eq!(turn.world.take(waiting), [expected]);
    }
}

/// A change discards only those remembered delivery verdicts that it concerns.
#[test]
fn changes_for_other_clients_keep_cached_delivery_verdicts() {
    for (scope, concerns) in scopes() {
        let mut world = World::new(1);
        let subscriber =
            world.connect("c", &ConnectRequest { username: Some("ann"), ..ConnectRequest::v(Version::V5) });
        let publisher = world.connect("publisher", &ConnectRequest::v(Version::V5));
        let log = Log::default();
        let inner = log.clone();
        let rules = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if call.action() == 3 {
                inner.note(call.topic());
            }
            call.set(Field::VERDICT, 1, "", "");
            Flow::STOP
        });
        mount(&mut world, vec![(HookPoint::ClientAuthorize, Link { deliver: true, ..rules })]);
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        let publish = |world: &mut World| {
            world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
            (world.take_plain(subscriber), log.take().len())
        };
        let got = || vec![message("t", "x", 0)];
        assert_eq!((publish(&mut world), publish(&mut world)), ((got(), 1), (got(), 0)));
        world.shards[0].invalidate(scope.clone());
        world.pass_ms(10);
        assert_eq!(publish(&mut world), (got(), usize::from(concerns("t"))), "{scope:?}");
        assert_eq!(publish(&mut world), (got(), 0), "{scope:?}");
    }
}

/// Rules that change continuously do not block a SUBSCRIBE forever, however many of its filters are
/// authorized one after the other. After some restarts it counts as unanswered.
#[test]
fn a_subscribe_is_refused_if_the_rules_change_all_the_time() {
    let mut turn = Turn::with(|limits| limits.defer_window = 1);
    let mut filters = Vec::new();
    for filter in ["a/1", "a/2"] {
        push_subscription(&mut filters, filter, SubscriptionOptions::of_qos(QoS::AtMostOnce));
    }
    turn.world.send(
        turn.client,
        &Packet::Subscribe(Subscribe {
            packet_id: crate::world::id(7),
            properties: Properties::default(),
            filters: Filters::from_encoded(&filters),
        }),
    );
    let mut answered = 0;
    while answered < turn.tickets.about().len() && answered < 100 {
        if answered % 2 == 1 {
            turn.change(Scope::All);
        }
        complete(&mut turn.world, turn.tickets.ticket(answered), Flow::CONTINUE, allow());
        answered += 1;
    }
    let got = turn.world.take(turn.client);
    let Some(Got::SubAck(7, codes)) = got.first() else { panic!("{got:?} after {answered} answers") };
    assert!(codes.contains(&0x87), "{codes:?}");
}

/// If a plugin names many clients and users in one turn, only those are rechecked, once each. Names
/// of absent clients cost nothing.
#[test]
fn changes_for_many_clients_and_users_recheck_only_these() {
    let mut world = World::new(1);
    for n in 0..100 {
        for (name, username) in [("c", None), ("u", Some(format!("user{n}"))), ("other", None)] {
            let request = ConnectRequest { username: username.as_deref(), ..ConnectRequest::v(Version::V5) };
            let client = world.connect(&format!("{name}{n}"), &request);
            world.subscribe(client, "t", QoS::AtMostOnce);
        }
    }
    let log = Log::default();
    let inner = log.clone();
    let rules = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        inner.note(call.client_id());
        call.set(Field::VERDICT, 1, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, rules)]);
    world.pass_ms(10);
    assert_eq!(log.take().len(), 300, "who mounts it asks about everybody");
    for n in 0..100 {
        for scope in [
            Scope::Client(format!("c{n}").into()),
            Scope::Client(format!("absent{n}").into()),
            Scope::User(format!("user{n}").into()),
        ] {
            world.shards[0].invalidate(scope);
        }
    }
    world.drive();
    let mut requested = log.take();
    requested.sort();
    let mut named: Vec<String> = (0..100).flat_map(|n| [format!("c{n}"), format!("u{n}")]).collect();
    named.sort();
    assert_eq!(requested, named);
}

/// Two shards with room for four envelopes between them, a subscriber of everything on the second
/// one, and two clients on the first one, whose identifiers begin with "c" and "filler".
fn with_a_narrow_lane() -> (World, [ClientId; 3]) {
    let mut world = World::with(2, |limits| (limits.lane_envelopes_max, limits.slots_max) = (4, 1_000));
    let request = ConnectRequest::v(Version::V5);
    let clients = [(1, "subscriber"), (0, "c"), (0, "filler")]
        .map(|(shard, name)| on_shard(&mut world, shard, name, &request));
    world.subscribe(clients[0], "#", QoS::AtMostOnce);
    (world, clients)
}

/// If rules change continuously while a publish waits for a full lane, the publish is authorized
/// again a bounded number of times; after that it counts as unanswered. This holds for the client's
/// own publishes and for those on its behalf.
#[test]
fn a_publish_behind_a_full_lane_is_reauthorized_a_bounded_number_of_times() {
    for on_behalf in [false, true] {
        let (mut world, [subscriber, client, filler]) = with_a_narrow_lane();
        let tickets = DeferredTickets::default();
        let inner = tickets.clone();
        let slow = link(2, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if call.topic() != "later" {
                call.set(Field::VERDICT, 1, "", "");
                return Flow::STOP;
            }
            inner.note(call.topic(), call.defer().expect("a ticket"));
            Flow::DEFER
        });
        world.shards[0].swap_chains(ChainTable::compile(1, vec![(HookPoint::ClientAuthorize, slow)]));
        world.drive();
        world.lanes_open = false;
        // Enough to fill the lane whenever it has space.
        (0..400).for_each(|_| world.publish(filler, "fill", "x", QoS::AtMostOnce, 0));
        if on_behalf {
            let mut names = (0..200).map(|n| format!("c{n}"));
            let name = names.find(|name| world.shards[0].client(name).is_some()).expect("it is there");
            let (client, action) = (BehalfClient::Client(name.into()), publish("later"));
            let request = OnBehalf { plugin: PluginHandle(9), client, answer: None, action };
            world.shards[0].command(Command::As(Box::new(request)));
            world.drive();
        } else {
            world.publish(client, "later", "x", QoS::AtLeastOnce, 1);
        }
        let (mut answered, mut batch) = (0, Vec::new());
        for _ in 0..80 {
            if answered < tickets.about().len() {
                complete(&mut world, tickets.ticket(answered), Flow::STOP, allow());
                answered += 1;
            }
            world.shards[0].invalidate(Scope::All);
            world.shards[0].outbox().take_batch(ShardId(1), Lane::Data, 4, &mut batch);
            world.shards[0].lanes_moved();
            world.shards[0].advance(world.now);
        }
        assert_eq!(answered, 9, "{on_behalf}");
        if on_behalf {
            assert_eq!(world.shards[0].counters().behalf_refused, 1);
        } else {
            world.drive();
            assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x87)]);
        }
        batch.drain(..).for_each(|envelope| world.shards[1].envelope(ShardId(0), envelope));
        world.lanes_open = true;
        world.drive();
        assert!(world.take_plain(subscriber).iter().all(|got| *got == message("fill", "x", 0)));
    }
}

/// An authorization that is decided at once does not use up these restarts: a publish that waits
/// for a lane is authorized by the rules of each moment, and is not refused because they change
/// often. This holds for the client's own publishes and for those on its behalf.
#[test]
fn a_publish_that_is_allowed_at_once_may_wait_for_a_lane_during_any_number_of_changes() {
    for on_behalf in [false, true] {
        let (mut world, [subscriber, client, filler]) = with_a_narrow_lane();
        let (tickets, log) = (DeferredTickets::default(), Log::default());
        let (inner, requested) = (tickets.clone(), log.clone());
        let rules = link(2, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if call.topic().starts_with("slow") {
                inner.note(call.topic(), call.defer().expect("a ticket"));
                return Flow::DEFER;
            }
            requested.note(call.topic().to_owned());
            call.set(Field::VERDICT, 1, "", "");
            Flow::STOP
        });
        world.shards[0].swap_chains(ChainTable::compile(1, vec![(HookPoint::ClientAuthorize, rules)]));
        world.drive();
        world.lanes_open = false;
        // The lane is full. Each verdict about a later publish makes the engine examine the first
        // one again.
        (0..8).for_each(|_| world.publish(filler, "fill", "x", QoS::AtMostOnce, 0));
        let topics: Vec<String> =
            std::iter::once("later".to_owned()).chain((0..20).map(|n| format!("slow/{n}"))).collect();
        let mut names = (0..200).map(|n| format!("c{n}"));
        let name = names.find(|name| world.shards[0].client(name).is_some()).expect("it is there");
        for (number, topic) in topics.iter().enumerate() {
            if on_behalf {
                let (client, action) = (BehalfClient::Client(name.as_str().into()), publish(topic));
                let request = OnBehalf { plugin: PluginHandle(9), client, answer: None, action };
                world.shards[0].command(Command::As(Box::new(request)));
                world.drive();
            } else {
                world.publish(client, topic, "x", QoS::AtLeastOnce, number as u16 + 1);
            }
        }
        for number in 0..20 {
            world.shards[0].invalidate(Scope::All);
            complete(&mut world, tickets.ticket(number), Flow::STOP, allow());
        }
        let times = log.take().iter().filter(|topic| *topic == "later").count();
        assert!(times > 10, "it was asked about {times} times");
        world.lanes_open = true;
        world.drive();
        assert_eq!(world.shards[0].counters().behalf_refused, 0);
        if !on_behalf {
            assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0)]);
        }
        let received =
            world.take_plain(subscriber).into_iter().filter(|got| *got == message("later", "x", 0));
        assert_eq!(received.count(), 1, "{on_behalf}");
    }
}

/// A publish that hooks move is authorized under both topics, and both requests share one count of
/// restarts: at the beginning, and if the publish is authorized again after it waited behind
/// another.
#[test]
fn both_authorizations_of_a_moved_publish_share_one_restart_limit() {
    for is_judged_anew in [false, true] {
        let mut world = World::new(1);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        let (tickets, held) = (DeferredTickets::default(), DeferredTickets::default());
        let inner = tickets.clone();
        let slow = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if call.topic() == "front" {
                call.set(Field::VERDICT, 1, "", "");
                return Flow::STOP;
            }
            inner.note(call.topic(), call.defer().expect("a ticket"));
            Flow::DEFER
        });
        let inner = held.clone();
        let moves = link(2, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if call.topic() == "front" {
                inner.note("front", call.defer().expect("a ticket"));
                return Flow::DEFER;
            }
            call.set(Field::TOPIC, 0, "moved", "");
            Flow::CONTINUE
        });
        mount(&mut world, vec![(HookPoint::ClientAuthorize, slow), (HookPoint::MessagePublish, moves)]);
        world.pass_ms(10);
        let answer = |world: &mut World, changes: usize| {
            for _ in 0..changes {
                world.shards[0].invalidate(Scope::All);
                complete(world, tickets.ticket(tickets.about().len() - 1), Flow::STOP, allow());
            }
        };
        if is_judged_anew {
            world.publish(client, "front", "x", QoS::AtMostOnce, 0);
        }
        world.publish(client, "later", "x", QoS::AtLeastOnce, 1);
        if is_judged_anew {
            for number in 0..2 {
                complete(&mut world, tickets.ticket(number), Flow::STOP, allow());
            }
            world.shards[0].invalidate(Scope::All);
            complete(&mut world, held.ticket(0), Flow::CONTINUE, Vec::new());
        }
        // The request about `later` restarts, which makes five restarts by now.
        answer(&mut world, if is_judged_anew { 4 } else { 5 });
        assert_eq!(tickets.about().last().map(String::as_str), Some("later"));
        complete(&mut world, tickets.ticket(tickets.about().len() - 1), Flow::STOP, allow());
        assert_eq!(tickets.about().last().map(String::as_str), Some("moved"));
        answer(&mut world, 3);
        assert_eq!(world.take(client), [], "{is_judged_anew}: eight times by now");
        answer(&mut world, 1);
        assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x87)], "{is_judged_anew}");
    }
}
