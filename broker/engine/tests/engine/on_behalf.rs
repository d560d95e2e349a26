//! Requests of plugins on behalf of clients. They are authorized like the client's own packets,
//! whether the client is connected, gone, or replaced by another principal. They stay in order and
//! bounded, and a missing verdict never allows one.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

use bytes::Bytes;
use grapnel_engine::hook::view::Action;
use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint, InstanceEntry, Link, PluginHandle};
use grapnel_engine::message::Message;
use grapnel_engine::packet::{Property, QoS, SubscriptionOptions, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::session::Identity;
use grapnel_engine::shard::{BehalfAction, BehalfClient, BehalfRefused, Command, OnBehalf, Scope};
use grapnel_plugin_abi::host::ClientIdentity;
use grapnel_plugin_abi::raw::{FLAG_SUPERUSER, FROM_BROKER, Field, Flow, Slice, Status};

use crate::deferral::{DeferredTickets, allow, deny};
use crate::hooks::{Call, Log, complete, link};
use crate::world::{ClientId, ConnectRequest, World, message};

/// The plugin that makes requests on behalf of clients.
const MAKER: PluginHandle = PluginHandle(9);

/// Identities that the plugin's hook has stored, by client identifier.
type Kept = Rc<RefCell<Vec<(String, Vec<u8>)>>>;

/// Request numbers and codes of the answers that an instance has received.
#[derive(Default)]
struct Answers(RefCell<Vec<(u64, u8)>>);

unsafe extern "C" fn on_timer(_instance: *mut c_void, _timer: u64, _number: u64) {}

unsafe extern "C" fn on_instance_message(instance: *mut c_void, from: u32, number: u64, bytes: Slice) {
    // SAFETY: the instance is a leaked `Answers` of this thread, and the bytes are alive during the
    // call.
    let (answers, bytes) = unsafe { (&*instance.cast::<Answers>(), bytes.bytes()) };
    assert_eq!((from, bytes.len()), (FROM_BROKER, 1));
    answers.0.borrow_mut().push((number, bytes[0]));
}

fn instance() -> (&'static Answers, InstanceEntry) {
    let answers: &'static Answers = Box::leak(Box::default());
    let pointer = std::ptr::from_ref(answers).cast_mut().cast();
    // SAFETY: never freed, and the test has one thread.
    (answers, unsafe { InstanceEntry::new(on_timer, on_instance_message, pointer) })
}

struct Fixture {
    world: World,
    subscriber: ClientId,
    kept: Kept,
    /// Answers that the requesting plugin has received.
    notified: &'static Answers,
    maker: InstanceEntry,
}

impl Fixture {
    /// A scene with these links beside those of the requesting plugin. That plugin stores the
    /// identity of each client that publishes to `keep`. A subscriber receives every other topic.
    fn with(
        links: Vec<(HookPoint, Link)>,
        limits: impl FnOnce(&mut grapnel_engine::limits::Limits),
    ) -> Fixture {
        Fixture::over(World::with(1, limits), links)
    }

    fn over(mut world: World, links: Vec<(HookPoint, Link)>) -> Fixture {
        let (notified, maker) = instance();
        let subscriber = world.connect("subscriber", &ConnectRequest::v(Version::V5));
        for filter in ["secret/#", "open/#"] {
            world.send_subscribe(subscriber, filter, SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
        }
        world.take(subscriber);
        let mut fixture = Fixture { world, subscriber, kept: Kept::default(), notified, maker };
        fixture.mount(links);
        fixture
    }

    fn mount(&mut self, mut links: Vec<(HookPoint, Link)>) {
        let kept = Rc::clone(&self.kept);
        let storing_link = link(9, 100, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            if call.topic() == "keep" {
                let identity = call.identity().expect("the client is in");
                kept.borrow_mut().push((call.client_id().to_owned(), identity));
                call.set(Field::DISPOSITION, 1, "", "");
                return Flow::STOP;
            }
            Flow::CONTINUE
        });
        links.push((HookPoint::MessagePublish, Link { bit: 9, ..storing_link }));
        let table = ChainTable::compile(1, links).with_instances(vec![(MAKER, self.maker)]);
        self.world.shards[0].swap_chains(table);
        self.world.drive();
    }

    /// Connects a client and has the plugin store its identity.
    fn client(&mut self, client_id: &str, request: &ConnectRequest<'_>) -> ClientId {
        let client = self.world.connect(client_id, request);
        self.world.publish(client, "keep", "", QoS::AtMostOnce, 0);
        client
    }

    fn behalf_client(&self, client_id: &str) -> BehalfClient {
        let kept = self.kept.borrow();
        let (_, bytes) = kept.iter().find(|(id, _)| id == client_id).expect("it has been kept");
        let kept = ClientIdentity::decode(bytes).expect("an identity");
        BehalfClient::Identity(Box::new(Identity::from_stored(&kept).expect("a client's")))
    }

    fn action(&mut self, client: BehalfClient, answer: u64, action: BehalfAction) {
        self.world.shards[0].command(Command::As(Box::new(OnBehalf {
            plugin: MAKER,
            client,
            answer: Some(answer),
            action,
        })));
        self.world.drive();
    }

    fn publish_as(&mut self, client_id: &str, answer: u64, topic: &str) {
        let client = self.behalf_client(client_id);
        self.action(client, answer, publish(topic));
    }

    /// Request numbers and codes of the answers so far.
    fn notified(&self) -> Vec<(u64, u8)> {
        self.notified.0.take()
    }

    fn got(&mut self) -> Vec<String> {
        let got = self.world.take(self.subscriber);
        got.into_iter()
            .map(|got| match got {
                crate::world::Got::Publish { topic, .. } => topic,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn refused(&mut self) -> u64 {
        self.world.shards[0].counters().behalf_refused
    }
}

pub(crate) fn publish(topic: &str) -> BehalfAction {
    BehalfAction::Publish(Message {
        id: 0,
        topic: topic.into(),
        payload: Bytes::from("x"),
        properties: Box::default(),
        qos: QoS::AtMostOnce,
        retain: false,
        from: "said".into(),
        origin: None,
        expires_at_ms: None,
        wall_ms: 0,
        ancestry: 1 << 9,
        flow: None,
    })
}

/// A link that refuses topics of `secret` and logs each identity.
fn guard(log: &Log) -> (HookPoint, Link) {
    let log = log.clone();
    let judge = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.client_id() == "subscriber" {
            return Flow::CONTINUE;
        }
        let superuser = if call.flags() & FLAG_SUPERUSER != 0 { " superuser" } else { "" };
        let user = call.get_text(Field::USERNAME);
        let host = call.get_text(Field::PEER_HOST);
        log.note(format!("{} {user} {host} {} {}{superuser}", call.client_id(), call.action(), call.topic()));
        if call.topic().starts_with("secret") {
            call.set(Field::VERDICT, 2, "", "");
            return Flow::STOP;
        }
        Flow::CONTINUE
    });
    (HookPoint::ClientAuthorize, judge)
}

fn named<'a>(username: Option<&'a str>) -> ConnectRequest<'a> {
    ConnectRequest { username, ..ConnectRequest::v(Version::V5) }
}

/// A publish on behalf of a client goes through client.authorize with the stored identity: while
/// the client is connected, when it has gone, and when another principal has its client identifier.
#[test]
fn a_publish_on_behalf_of_a_client_is_authorized_for_this_client() {
    for version in [Version::V311, Version::V5] {
        for after in ["connected", "gone", "stored", "replaced", "back"] {
            let log = Log::default();
            let mut fixture = Fixture::with(vec![guard(&log)], |_| {});
            let expiry = [Property::SessionExpiry(1000)];
            let stays = after == "stored" || after == "back";
            let properties = if version.is_v5() && stays { expiry.to_vec() } else { Vec::new() };
            let clean = !stays;
            let request = ConnectRequest {
                version,
                clean,
                properties,
                username: Some("ann"),
                ..ConnectRequest::v(version)
            };
            let client = fixture.client("c", &request);
            match after {
                "gone" | "stored" => fixture.world.disconnect(client, ReasonCode::SUCCESS),
                "replaced" => drop(fixture.world.connect("c", &named(Some("bob")))),
                "back" => drop(fixture.world.connect("c", &request)),
                _ => {}
            }
            log.take();
            fixture.publish_as("c", 1, "secret/y");
            fixture.publish_as("c", 2, "open/y");
            let (secret, open) = ("c ann 127.0.0.1 1 secret/y", "c ann 127.0.0.1 1 open/y");
            assert_eq!(log.take(), [secret, open], "{after} {version:?}");
            assert_eq!(fixture.got(), ["open/y"], "{after}");
            // [MQTT-3.4.2-1]: the codes of a PUBACK.
            assert_eq!(fixture.notified(), [(1, 0x87), (2, 0)], "{after}");
            assert_eq!(fixture.refused(), 1);
        }
    }
}

/// The message has the client's identifier, whatever the plugin sets, and the hooks of the
/// requesting plugin do not see it.
#[test]
fn a_message_published_on_behalf_of_a_client_shows_this_client() {
    let log = Log::default();
    let seen = log.clone();
    let looks = link(2, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        seen.note(format!("{} {}", call.client_id(), call.get_text(Field::FROM)));
        Flow::CONTINUE
    });
    let mut fixture = Fixture::with(vec![(HookPoint::MessagePublish, looks)], |_| {});
    fixture.client("c", &named(None));
    fixture.publish_as("c", 1, "open/y");
    assert_eq!(log.take(), ["c c"]);
    assert_eq!(fixture.world.take_plain(fixture.subscriber), [message("open/y", "x", 0)]);
}

/// A topic that message.publish sets is authorized too.
#[test]
fn a_topic_set_by_a_hook_is_authorized_too() {
    let log = Log::default();
    let moves = link(2, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        call.set(Field::TOPIC, 0, "secret/moved", "");
        Flow::CONTINUE
    });
    let mut fixture = Fixture::with(vec![guard(&log), (HookPoint::MessagePublish, moves)], |_| {});
    fixture.client("c", &named(None));
    fixture.publish_as("c", 1, "open/y");
    assert_eq!(fixture.got(), [""; 0]);
    assert_eq!((fixture.notified(), fixture.refused()), (vec![(1, 0x87)], 1));
}

/// Without a mounted authorizer the configuration decides.
#[test]
fn without_a_link_no_match_decides_requests_on_behalf_of_clients() {
    // A subscription is not allowed either in the second case; 0x10: no matching subscribers.
    for (no_match_allow, code) in [(true, 0), (false, 0x87)] {
        let mut fixture = Fixture::over(World::with_setup(1, |_| {}, no_match_allow), Vec::new());
        fixture.world.connect("c", &named(None));
        fixture.action(BehalfClient::Client("c".into()), 1, publish("open/y"));
        assert_eq!(fixture.notified(), [(1, code)]);
    }
}

/// A request for a superuser is not authorized, like its packets. The session decides whether it is
/// one; without a session the stored identity does.
#[test]
fn a_superuser_is_not_authorized_while_its_session_has_the_flag() {
    for (stays, notified) in [(true, 0x87), (false, 0)] {
        let log = Log::default();
        let superuser = Rc::new(std::cell::Cell::new(true));
        let is = Rc::clone(&superuser);
        let vouches = link(3, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 1, "", "");
            call.set(Field::IS_SUPERUSER, u64::from(is.get()), "", "");
            Flow::CONTINUE
        });
        let links = vec![guard(&log), (HookPoint::ClientAuthenticate, vouches)];
        let mut fixture = Fixture::with(links, |_| {});
        let client = fixture.client("c", &named(Some("root")));
        if stays {
            superuser.set(false);
            fixture.world.connect("c", &named(Some("root")));
        } else {
            fixture.world.disconnect(client, ReasonCode::SUCCESS);
        }
        fixture.publish_as("c", 1, "secret/y");
        assert_eq!(fixture.notified(), [(1, notified)]);
        assert_eq!(fixture.got().len(), usize::from(!stays));
    }
}

/// A link at client.authorize that defers topics beginning with `later`, and allows all others.
fn slow(tickets: &DeferredTickets) -> (HookPoint, Link) {
    let tickets = tickets.clone();
    let judge = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.client_id() == "subscriber" || !call.topic().contains("later") {
            call.set(Field::VERDICT, 1, "", "");
            return Flow::CONTINUE;
        }
        tickets.note(call.topic(), call.defer().expect("a ticket"));
        Flow::DEFER
    });
    (HookPoint::ClientAuthorize, judge)
}

/// Allows every waiting authorization, including those that begin meanwhile.
fn allow_all(world: &mut World, tickets: &DeferredTickets) {
    let mut at = 0;
    while at < tickets.about().len() {
        complete(world, tickets.ticket(at), Flow::CONTINUE, allow());
        at += 1;
    }
}

/// With deferred verdicts, requests on behalf of a client keep their order, and all waiting ones
/// are authorized at once.
#[test]
fn requests_that_wait_for_verdicts_keep_their_order() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
    fixture.client("a", &named(None));
    fixture.publish_as("a", 1, "open/later/1");
    fixture.publish_as("a", 2, "open/2");
    fixture.publish_as("a", 3, "open/later/3");
    assert_eq!(tickets.about(), ["open/later/1", "open/later/3"], "the second does not wait for the first");
    complete(&mut fixture.world, tickets.ticket(1), Flow::CONTINUE, allow());
    assert_eq!((fixture.got(), fixture.notified()), (Vec::<String>::new(), Vec::new()));
    complete(&mut fixture.world, tickets.ticket(0), Flow::CONTINUE, deny(0x87));
    assert_eq!(fixture.got(), ["open/2", "open/later/3"]);
    assert_eq!(fixture.notified(), [(1, 0x87), (2, 0), (3, 0)]);
}

/// A missing verdict never allows a request, and no request waits forever: it is refused with a
/// code that differs from that of an explicit refusal.
#[test]
fn a_request_without_a_verdict_is_refused() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
    fixture.client("a", &named(None));
    fixture.publish_as("a", 1, "open/later");
    fixture.publish_as("a", 2, "open/next");
    fixture.world.pass_ms(1_500);
    assert_eq!(fixture.got(), ["open/next"]);
    assert_eq!(fixture.notified(), [(1, 0x88), (2, 0)]);
    assert_eq!(fixture.refused(), 1);
    // The verdict comes too late.
    complete(&mut fixture.world, tickets.ticket(0), Flow::CONTINUE, allow());
    assert_eq!((fixture.got(), fixture.notified()), (Vec::<String>::new(), Vec::new()));
}

/// Requests for one client that wait for verdicts delay neither requests for another client nor the
/// plugin's own publishes.
#[test]
fn slow_verdicts_for_one_client_delay_no_other_client() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
    fixture.client("slow", &named(None));
    fixture.client("other", &named(None));
    let sessions = fixture.world.shards[0].counters().sessions_count;
    // As many requests as one client may have, and one more.
    for number in 0..=128 {
        fixture.publish_as("slow", number, &format!("open/later/{number}"));
    }
    assert_eq!(fixture.notified(), [(128, 0x97)], "behalf_client_requests_max");
    fixture.publish_as("other", 200, "open/other");
    let BehalfAction::Publish(own) = publish("open/own") else { return };
    let own = Message { from: "plugin9".into(), ..own };
    fixture.world.shards[0].command(Command::Publish { plugin: MAKER, message: own });
    fixture.world.drive();
    assert_eq!(fixture.got(), ["open/other", "open/own"]);
    assert_eq!(fixture.notified(), [(200, 0)]);
    assert_eq!(fixture.world.shards[0].counters().sessions_count, sessions, "lines are nobody's sessions");
    allow_all(&mut fixture.world, &tickets);
    assert_eq!(fixture.notified().len(), 128);
}

/// Each client may use an eighth of the free space, so that a client with few requests is still
/// served. Each request without space is answered.
#[test]
fn clients_with_many_requests_leave_room_for_others() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |limits| limits.behalf_requests_max = 64);
    let names: Vec<String> = (0..10).map(|number| format!("greedy{number}")).collect();
    for name in &names {
        fixture.client(name, &named(None));
    }
    fixture.client("modest", &named(None));
    let mut waiting = 0;
    for name in &names {
        for number in 0..20 {
            fixture.publish_as(name, number, "open/later");
        }
        let refused = fixture.notified();
        assert!(refused.iter().all(|(_, code)| *code == 0x97), "{refused:?}");
        waiting += 20 - refused.len() as u64;
    }
    let counters = *fixture.world.shards[0].counters();
    assert_eq!((counters.behalf_no_room, counters.behalf_refused), (200 - waiting, 200 - waiting));
    assert!((40..64).contains(&waiting), "{waiting} wait");
    fixture.publish_as("modest", 1, "open/modest");
    assert_eq!((fixture.notified(), fixture.got()), (vec![(1, 0)], vec!["open/modest".to_owned()]));
    allow_all(&mut fixture.world, &tickets);
    assert_eq!(fixture.notified().len() as u64, waiting);
    // There is space again.
    fixture.publish_as("greedy0", 7, "open/again");
    assert_eq!(fixture.notified(), [(7, 0)]);
}

/// The cost of a request does not depend on the number of other clients that wait.
#[test]
fn a_request_costs_the_same_however_many_others_wait() {
    let cost = |others: usize| {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
        for number in 0..others {
            let name = format!("c{number}");
            fixture.client(&name, &named(None));
            fixture.publish_as(&name, 0, "open/later");
        }
        fixture.client("c", &named(None));
        let before = *fixture.world.shards[0].counters();
        fixture.publish_as("c", 1, "open/y");
        let after = *fixture.world.shards[0].counters();
        assert_eq!(fixture.notified(), [(1, 0)]);
        (after.flow_steps - before.flow_steps, after.work_units - before.work_units)
    };
    assert_eq!(cost(1_000), cost(500));
}

/// Call queues leave nothing behind: not in the ledger, sessions, timers or tickets.
#[test]
fn request_queues_leave_nothing_behind() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
    let names: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
    for name in &names {
        fixture.client(name, &named(None));
    }
    fixture.world.pass_ms(1);
    let before = fixture.world.shards[0].ledger();
    for name in &names {
        fixture.publish_as(name, 1, "open/later");
        let client = fixture.behalf_client(name);
        fixture.action(client, 2, BehalfAction::Unsubscribe { filter: "open/a".into() });
    }
    fixture.world.pass_ms(1);
    let during = fixture.world.shards[0].ledger();
    assert_eq!(during, fixture.world.shards[0].recount());
    assert!(during.slots > before.slots && during.sessions > before.sessions, "it is charged while it waits");
    allow_all(&mut fixture.world, &tickets);
    fixture.world.pass_ms(1);
    assert_eq!(fixture.notified().len(), 200);
    assert_eq!(fixture.world.shards[0].ledger(), before);
    assert_eq!(fixture.world.shards[0].recount(), before);
    let (armed, held) = fixture.world.shards[0].timers();
    assert_eq!(armed, held);
}

/// Queues of requests do not count towards `sessions_max`.
#[test]
fn plugin_sessions_do_not_count_for_sessions_max() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |limits| limits.sessions_max = 4);
    fixture.client("a", &named(None));
    fixture.client("b", &named(None));
    fixture.publish_as("a", 1, "open/later");
    fixture.publish_as("b", 1, "open/later");
    fixture.client("c", &named(None));
    allow_all(&mut fixture.world, &tickets);
    assert_eq!(fixture.world.shards[0].counters().sessions_count, 4);
    assert_eq!(fixture.world.shards[0].counters().sessions_refused, 0);
}

/// An unsubscription waits behind an earlier subscription, also if that subscription is authorized
/// again because the rules have changed.
#[test]
fn an_unsubscription_does_not_overtake_a_subscription() {
    for rules_change in [false, true] {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
        fixture.client("c", &named(None));
        let client = fixture.behalf_client("c");
        fixture.action(client, 1, subscribe("open/later/a"));
        let client = fixture.behalf_client("c");
        // This one is decided at once, but waits behind the one before.
        fixture.action(client, 2, subscribe("open/b"));
        for (number, filter) in [(3, "open/later/a"), (4, "open/b")] {
            let client = fixture.behalf_client("c");
            fixture.action(client, number, BehalfAction::Unsubscribe { filter: filter.into() });
        }
        assert_eq!((fixture.notified(), subscriptions(&fixture, "c")), (Vec::new(), Vec::new()));
        if rules_change {
            fixture.world.shards[0].invalidate(Scope::All);
        }
        allow_all(&mut fixture.world, &tickets);
        fixture.world.pass_ms(1_500);
        assert_eq!(fixture.notified(), [(1, 1), (2, 1), (3, 0), (4, 0)], "{rules_change}");
        assert_eq!(subscriptions(&fixture, "c"), [""; 0], "{rules_change}");
    }
}

/// A missing answer also has its own code if a hook of message.publish fails with policy deny, and
/// if an authorization fails.
#[test]
fn a_missing_answer_has_another_code_than_a_refusal() {
    let fails = link(2, 0, FaultPolicy::Deny, |_: &mut Call<'_>| Flow::UNANSWERED);
    let refuses = link(2, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::DISPOSITION, 2, "", "");
        Flow::STOP
    });
    for (hook, code) in [(fails, 0x88), (refuses, 0x87)] {
        let mut fixture = Fixture::with(Vec::new(), |_| {});
        fixture.client("c", &named(None));
        fixture.mount(vec![(HookPoint::MessagePublish, hook)]);
        fixture.publish_as("c", 1, "open/y");
        assert_eq!((fixture.notified(), fixture.got().len()), (vec![(1, code)], 0));
    }
    for (flow, code) in [(Flow::UNANSWERED, 0x88), (Flow::STOP, 0x87)] {
        let judge = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if flow == Flow::STOP {
                call.set(Field::VERDICT, 2, "", "");
            }
            flow
        });
        let mut fixture = Fixture::with(Vec::new(), |_| {});
        fixture.client("c", &named(None));
        fixture.mount(vec![(HookPoint::ClientAuthorize, judge)]);
        let (action, topic) = (Action::Publish, "open/y".into());
        let client = fixture.behalf_client("c");
        fixture.action(
            client,
            1,
            BehalfAction::Authorize { action, topic, qos: QoS::AtMostOnce, retain: false },
        );
        assert_eq!(fixture.notified(), [(1, code)]);
    }
}

/// A message larger than a client's limit for waiting bytes is published if the client has no other
/// one waiting.
#[test]
fn a_large_message_is_accepted_if_nothing_else_waits() {
    let mut fixture = Fixture::with(Vec::new(), |limits| {
        (limits.behalf_bytes_max, limits.behalf_client_bytes_max) = (65_536, 1_024);
    });
    fixture.client("c", &named(None));
    let BehalfAction::Publish(plain) = publish("open/y") else { return };
    let client = fixture.behalf_client("c");
    fixture.action(
        client,
        1,
        BehalfAction::Publish(Message { payload: vec![b'x'; 200_000].into(), ..plain }),
    );
    assert_eq!((fixture.notified(), fixture.got()), (vec![(1, 0)], vec!["open/y".to_owned()]));
}

/// If requests on behalf of clients exceed the memory limit of a shard, those of the client with
/// the most bytes are refused. No client with fewer bytes is disconnected.
#[test]
fn waiting_requests_are_refused_over_the_memory_limit() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |limits| limits.shard_bytes_max = 1 << 20);
    let bystander = fixture
        .world
        .connect("bystander", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V5) });
    fixture.world.subscribe(bystander, "q", QoS::AtLeastOnce);
    fixture.world.lose(bystander);
    let publisher = fixture.client("publisher", &named(None));
    fixture.world.publish(publisher, "q", &"q".repeat(20_000), QoS::AtLeastOnce, 1);
    for (number, bytes) in [(1, 300_000), (2, 400_000), (3, 200_000), (4, 300_000)] {
        let name = format!("c{number}");
        fixture.client(&name, &named(None));
        let BehalfAction::Publish(message) = publish("open/later") else { panic!("a publish") };
        let client = fixture.behalf_client(&name);
        fixture.action(
            client,
            number,
            BehalfAction::Publish(Message { payload: vec![0; bytes].into(), ..message }),
        );
        fixture.world.pass_ms(10);
    }
    assert_eq!(fixture.notified(), [(2, 0x97)]);
    let counters = fixture.world.shards[0].counters();
    let ended = (counters.sessions_evicted, counters.connections_evicted);
    assert_eq!((counters.behalf_no_room, counters.behalf_refused, ended), (1, 1, (0, 0)));
    allow_all(&mut fixture.world, &tickets);
    let mut notified = fixture.notified();
    notified.sort_unstable();
    assert_eq!(notified, [(1, 0), (3, 0), (4, 0)]);
    assert_eq!(fixture.got().len(), 3);
}

/// At nearly the same size, a plugin's request is refused before a client is disconnected.
#[test]
fn waiting_requests_are_refused_before_a_client_of_the_same_size_is_ended() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |limits| limits.shard_bytes_max = 500_000);
    let publisher = fixture.client("publisher", &named(None));
    let BehalfAction::Publish(message) = publish("open/later") else { panic!("a publish") };
    let client = fixture.behalf_client("publisher");
    fixture.action(client, 1, BehalfAction::Publish(Message { payload: vec![0; 300_000].into(), ..message }));
    fixture.world.pass_ms(10);
    assert_eq!(fixture.notified(), []);
    let holder =
        fixture.world.connect("holder", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
    fixture.world.subscribe(holder, "q", QoS::AtLeastOnce);
    fixture.world.lose(holder);
    fixture.world.publish(publisher, "q", &"q".repeat(310_000), QoS::AtLeastOnce, 1);
    fixture.world.pass_ms(10);
    assert_eq!(fixture.notified(), [(1, 0x97)]);
    let counters = fixture.world.shards[0].counters();
    assert_eq!((counters.sessions_evicted, counters.connections_evicted), (0, 0));
}

/// At most `defer_window` requests of a client wait for verdicts at a time, and at most
/// `behalf_client_requests_max` wait at all.
#[test]
fn waiting_requests_are_limited() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |limits| {
        (limits.defer_window, limits.behalf_client_requests_max) = (2, 4)
    });
    fixture.client("a", &named(None));
    for number in 0..5 {
        fixture.publish_as("a", number, &format!("open/later/{number}"));
    }
    assert_eq!(tickets.about().len(), 2);
    assert_eq!(fixture.notified(), [(4, 0x97)], "one beyond");
    for number in 0..4 {
        complete(&mut fixture.world, tickets.ticket(number), Flow::CONTINUE, allow());
        assert_eq!(tickets.about().len(), (number + 3).min(4), "an answer makes room");
    }
    assert_eq!(fixture.notified(), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!((fixture.got().len(), fixture.refused()), (4, 1));
    assert_eq!(fixture.world.shards[0].ledger(), fixture.world.shards[0].recount());
}

/// A waiting request survives a takeover of its client by another principal, and the unloading of
/// the plugin that made it or of the authorizer.
#[test]
fn a_waiting_request_outlives_its_client_and_its_plugin() {
    for change in ["taken over", "maker unloaded", "authorizer unloaded", "drained"] {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
        fixture.client("c", &named(Some("ann")));
        fixture.publish_as("c", 1, "open/later");
        match change {
            "taken over" => drop(fixture.world.connect("c", &named(Some("bob")))),
            "maker unloaded" => {
                drop(fixture.world.shards[0].swap_chains(ChainTable::compile(1, [slow(&tickets)])))
            }
            "authorizer unloaded" => fixture.mount(Vec::new()),
            _ => fixture.world.shards[0].drain(),
        }
        allow_all(&mut fixture.world, &tickets);
        fixture.world.pass_ms(100);
        if change == "drained" {
            assert!(fixture.world.shards[0].drained());
        } else {
            assert_eq!(fixture.got(), ["open/later"], "{change}");
        }
        let notified = if change == "maker unloaded" { vec![] } else { vec![(1, 0)] };
        assert_eq!(fixture.notified(), notified, "{change}");
        let (armed, held) = fixture.world.shards[0].timers();
        assert_eq!(armed, held, "{change}");
    }
}

/// The answer to a request goes to the version that has the plugin's state by then. A version that
/// took over no state receives no answer: its request numbers may differ.
#[test]
fn an_answer_goes_to_the_version_that_has_the_state() {
    for handed in [true, false] {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
        fixture.client("c", &named(None));
        fixture.publish_as("c", 1, "open/later");
        let next = PluginHandle(1 << 32 | MAKER.0);
        let (notified, entry) = instance();
        if handed {
            fixture.world.shards[0].redirect_answers(MAKER, next);
        }
        let table = ChainTable::compile(2, vec![slow(&tickets)]).with_instances(vec![(next, entry)]);
        drop(fixture.world.shards[0].swap_chains(table));
        // The answer was under way when the shard swapped the chain.
        fixture.publish_as("c", 2, "open/y");
        allow_all(&mut fixture.world, &tickets);
        assert_eq!(fixture.got(), ["open/later", "open/y"]);
        fixture.world.shards[0].forget_plugin(MAKER);
        assert_eq!(
            notified.0.take(),
            if handed { vec![(1, 0), (2, 0)] } else { vec![] },
            "handed over: {handed}"
        );
        assert_eq!(fixture.notified(), []);
        let stale = fixture.world.shards[0].counters().plugin_mail_stale;
        assert_eq!(stale, if handed { 0 } else { 2 });
    }
}

/// No answer for a disabled plugin is lost, even beyond the limit of waiting instance messages. The
/// answers pass to the next version with the state.
#[test]
fn answers_wait_for_a_suspended_plugin() {
    let mut fixture = Fixture::with(Vec::new(), |_| {});
    fixture.client("c", &named(None));
    let table =
        |plugin: PluginHandle, entry| ChainTable::compile(1, []).with_instances(vec![(plugin, entry)]);
    let maker = fixture.maker;
    drop(fixture.world.shards[0].swap_chains(table(MAKER, maker).with_suspended_plugins(vec![MAKER])));
    for number in 0..2_000 {
        fixture.publish_as("c", number, "open/y");
    }
    let next = PluginHandle(1 << 32 | MAKER.0);
    let (notified, entry) = instance();
    fixture.world.shards[0].redirect_answers(MAKER, next);
    drop(fixture.world.shards[0].swap_chains(table(next, entry)));
    assert_eq!(notified.0.borrow().len(), 1_024, "a slice in one job");
    // A request made meanwhile is answered after those that wait.
    let client = fixture.behalf_client("c");
    let requested = OnBehalf { plugin: next, client, answer: Some(2_000), action: publish("open/y") };
    fixture.world.shards[0].command(Command::As(Box::new(requested)));
    fixture.world.drive();
    assert_eq!(notified.0.take(), (0..=2_000).map(|number| (number, 0)).collect::<Vec<_>>());
    assert_eq!(fixture.world.shards[0].counters().plugin_mail_stale, 0);
}

/// A suspended plugin that continues to make requests receives the answer to each one that took
/// effect. Requests beyond the limit take no effect: they are refused, counted and logged, and the
/// plugin receives the refusal too.
#[test]
fn a_suspended_plugin_receives_the_answer_to_each_executed_request() {
    let mut fixture = Fixture::with(Vec::new(), |limits| {
        (limits.behalf_requests_max, limits.behalf_pages_max) = (4, 4);
    });
    fixture.client("c", &named(None));
    let table = || ChainTable::compile(1, []).with_instances(vec![(MAKER, fixture.maker)]);
    let (suspended, awake) = (table().with_suspended_plugins(vec![MAKER]), table());
    drop(fixture.world.shards[0].swap_chains(suspended));
    (0..40).for_each(|number| fixture.publish_as("c", number, "open/y"));
    assert_eq!(fixture.got().len(), 16);
    let logged = std::mem::take(&mut fixture.world.shards[0].outbox().behalf_refused);
    let logged: Vec<_> = logged.iter().map(|one| (one.plugin, one.what, &*one.topic, one.reason)).collect();
    assert_eq!(logged, [(MAKER, "a publish to", "open/y", ReasonCode::QUOTA_EXCEEDED)]);
    let counters = fixture.world.shards[0].counters();
    assert_eq!((counters.behalf_refused, counters.behalf_no_room), (24, 24));
    drop(fixture.world.shards[0].swap_chains(awake));
    fixture.world.drive();
    let code = |number| if number < 16 { 0 } else { ReasonCode::QUOTA_EXCEEDED.0 };
    assert_eq!(fixture.notified(), (0..40).map(|number| (number, code(number))).collect::<Vec<_>>());
    assert_eq!(fixture.world.shards[0].counters().plugin_mail_stale, 0);
    fixture.publish_as("c", 50, "open/y");
    assert_eq!(fixture.notified(), [(50, 0)], "there is room again");
}

/// A suspended plugin receives one answer to each request, however many there are and however often
/// its state is handed over. Answers that cannot be delivered are dropped with the version.
#[test]
fn each_request_of_a_suspended_plugin_is_answered_once() {
    for handed in [true, false] {
        let mut fixture = Fixture::with(Vec::new(), |limits| {
            (limits.behalf_requests_max, limits.behalf_pages_max) = (4, 4);
        });
        fixture.client("c", &named(None));
        let version = |generation: u64| PluginHandle(generation << 32 | MAKER.0);
        let table = |plugin| ChainTable::compile(1, []).with_instances(vec![(plugin, fixture.maker)]);
        let tables: Vec<_> = (0..4).map(|number| table(version(number))).collect();
        let mut number = 0;
        for (generation, table) in tables.into_iter().enumerate() {
            let plugin = version(generation as u64);
            let before = PluginHandle(plugin.0.saturating_sub(1 << 32));
            if handed && before != plugin {
                fixture.world.shards[0].redirect_answers(before, plugin);
            }
            drop(fixture.world.shards[0].swap_chains(table.with_suspended_plugins(vec![plugin])));
            if before != plugin {
                fixture.world.shards[0].forget_plugin(before);
            }
            for _ in 0..1_000 {
                let (client, action) = (fixture.behalf_client("c"), publish("open/y"));
                let requested = OnBehalf { plugin, client, answer: Some(number), action };
                fixture.world.shards[0].command(Command::As(Box::new(requested)));
                number += 1;
            }
            fixture.world.drive();
        }
        let last = ChainTable::compile(1, []).with_instances(vec![(version(3), fixture.maker)]);
        drop(fixture.world.shards[0].swap_chains(last));
        fixture.world.drive();
        let mut notified: Vec<u64> = fixture.notified().into_iter().map(|(number, _)| number).collect();
        notified.sort_unstable();
        let from = if handed { 0 } else { 3_000 };
        assert_eq!(notified, (from..4_000).collect::<Vec<_>>(), "handed over: {handed}");
        assert_eq!(fixture.world.shards[0].counters().plugin_mail_stale, from);
    }
}

/// Answers stored for a version that has left the chains use no space of the version that is
/// called.
#[test]
fn a_plugin_that_is_called_is_not_refused_for_another_version() {
    let mut fixture = Fixture::with(Vec::new(), |limits| {
        (limits.behalf_requests_max, limits.behalf_pages_max) = (4, 4);
    });
    fixture.client("c", &named(None));
    let next = PluginHandle(1 << 32 | MAKER.0);
    let (notified, entry) = instance();
    let table = ChainTable::compile(1, []).with_instances(vec![(next, entry)]);
    drop(fixture.world.shards[0].swap_chains(table));
    // The plugin's threads continue to make requests.
    (0..40).for_each(|number| fixture.publish_as("c", number, "open/y"));
    assert_eq!(fixture.got().len(), 16);
    let (client, action) = (fixture.behalf_client("c"), publish("open/y"));
    let requested = OnBehalf { plugin: next, client, answer: Some(50), action };
    fixture.world.shards[0].command(Command::As(Box::new(requested)));
    fixture.world.drive();
    assert_eq!((notified.0.take(), fixture.got().len()), (vec![(50, 0)], 1));
}

/// If no link authorizes deliveries, an authorization request for one is allowed, as the broker
/// itself would deliver.
#[test]
fn a_delivery_is_allowed_if_no_link_authorizes_deliveries() {
    for delivers in [false, true] {
        let silent = link(1, 0, FaultPolicy::Deny, |_: &mut Call<'_>| Flow::CONTINUE);
        let silent = (HookPoint::ClientAuthorize, Link { deliver: delivers, ..silent });
        let mut world = World::with_setup(1, |_| {}, false);
        let (notified, maker) = instance();
        world.connect("c", &named(None));
        let table = ChainTable::compile(1, vec![silent]).with_instances(vec![(MAKER, maker)]);
        world.shards[0].swap_chains(table);
        let action = BehalfAction::Authorize {
            action: Action::Deliver,
            topic: "open/y".into(),
            qos: QoS::AtMostOnce,
            retain: false,
        };
        let (client, answer) = (BehalfClient::Client("c".into()), Some(1));
        world.shards[0].command(Command::As(Box::new(OnBehalf { plugin: MAKER, client, answer, action })));
        world.drive();
        let code = if delivers { 0x87 } else { 0 };
        assert_eq!(notified.0.take(), [(1, code)], "asks for deliveries: {delivers}");
    }
}

fn subscribe(filter: &str) -> BehalfAction {
    BehalfAction::Subscribe {
        filter: filter.into(),
        options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
        id: 0,
    }
}

fn subscriptions(fixture: &Fixture, client_id: &str) -> Vec<String> {
    let (rows, _) = fixture.world.shards[0].subscriptions(Some(client_id), 0, 100);
    rows.into_iter().map(|row| row.filter).collect()
}

/// A subscription on behalf of a client is authorized like its SUBSCRIBE; for a shared one this is
/// the filter without the share. Only a session of the same principal gets it.
#[test]
fn a_subscription_on_behalf_of_a_client_is_authorized_and_made_for_this_client_only() {
    let log = Log::default();
    let mut fixture = Fixture::with(vec![guard(&log)], |_| {});
    fixture.client("c", &named(Some("ann")));
    log.take();
    for (number, filter) in [(1, "secret/#"), (2, "open/a"), (3, "$share/g/open/b")] {
        let client = fixture.behalf_client("c");
        fixture.action(client, number, subscribe(filter));
    }
    let requested = ["secret/#", "open/a", "open/b"].map(|filter| format!("c ann 127.0.0.1 2 {filter}"));
    assert_eq!(log.take(), requested);
    assert_eq!(fixture.notified(), [(1, 0x87), (2, 1), (3, 1)]);
    assert_eq!(subscriptions(&fixture, "c"), ["$share/g/open/b", "open/a"]);
    let client = fixture.behalf_client("c");
    fixture.action(client, 4, BehalfAction::Unsubscribe { filter: "open/a".into() });
    assert_eq!(
        (fixture.notified(), subscriptions(&fixture, "c")),
        (vec![(4, 0)], vec!["$share/g/open/b".to_owned()])
    );

    // Another principal has the identifier now: its session gets no subscription and loses none.
    fixture.world.connect("c", &named(Some("bob")));
    for (number, action) in
        [(5, subscribe("open/c")), (6, BehalfAction::Unsubscribe { filter: "open/c".into() })]
    {
        let client = fixture.behalf_client("c");
        fixture.action(client, number, action);
    }
    assert_eq!(fixture.notified(), [(5, 0x85), (6, 0x85)]);
    assert_eq!(subscriptions(&fixture, "c"), [""; 0]);
}

/// A subscription allowed under rules that have changed since is authorized again before it comes
/// into force.
#[test]
fn a_subscription_is_authorized_again_if_the_rules_have_changed() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
    fixture.client("c", &named(None));
    fixture.publish_as("c", 1, "open/later");
    let client = fixture.behalf_client("c");
    // This one is allowed at once, but waits behind the one before.
    fixture.action(client, 2, subscribe("open/a"));
    fixture.world.shards[0].invalidate(Scope::All);
    let log = Log::default();
    let seen = log.clone();
    let strict = link(4, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.topic() == "open/a" {
            seen.note("asked");
            call.set(Field::VERDICT, 2, "", "");
        }
        Flow::CONTINUE
    });
    fixture.mount(vec![slow(&tickets), (HookPoint::ClientAuthorize, strict)]);
    allow_all(&mut fixture.world, &tickets);
    fixture.world.pass_ms(1_500);
    assert_eq!(log.take(), ["asked"]);
    assert_eq!(subscriptions(&fixture, "c"), [""; 0]);
    assert_eq!(fixture.notified().last(), Some(&(2, 0x87)));
}

/// An allowed request that waits behind another is authorized again by the rules of its turn: a
/// publish and an authorization request like a subscription.
#[test]
fn a_request_allowed_before_its_turn_is_authorized_by_the_new_rules() {
    let (tickets, strict) = (DeferredTickets::default(), Rc::<std::cell::Cell<bool>>::default());
    let is_strict = Rc::clone(&strict);
    let rules = link(2, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if !is_strict.get() || call.topic() != "open/b" {
            return Flow::CONTINUE;
        }
        call.set(Field::VERDICT, 2, "", "");
        Flow::STOP
    });
    let mut fixture = Fixture::with(vec![slow(&tickets), (HookPoint::ClientAuthorize, rules)], |_| {});
    fixture.client("c", &named(None));
    fixture.publish_as("c", 1, "open/later");
    for topic in ["open/b", "open/c"] {
        fixture.publish_as("c", 2, topic);
        let (action, topic, client) = (Action::Publish, topic.into(), fixture.behalf_client("c"));
        fixture.action(
            client,
            3,
            BehalfAction::Authorize { action, topic, qos: QoS::AtMostOnce, retain: false },
        );
    }
    strict.set(true);
    fixture.world.shards[0].invalidate(Scope::All);
    allow_all(&mut fixture.world, &tickets);
    assert_eq!(fixture.notified(), [(1, 0), (2, 0x87), (3, 0x87), (2, 0), (3, 0)]);
    assert_eq!(fixture.got(), ["open/later", "open/c"]);
    assert_eq!(fixture.world.shards[0].ledger(), fixture.world.shards[0].recount());
}

/// Rules that change continuously do not block a request forever: after some restarts it counts as
/// unanswered.
#[test]
fn continuous_rule_changes_block_no_request_forever() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(vec![slow(&tickets)], |_| {});
    fixture.client("c", &named(None));
    fixture.publish_as("c", 1, "open/later");
    for round in 0..9 {
        assert_eq!((fixture.notified(), tickets.about().len()), (vec![], round + 1));
        fixture.world.shards[0].invalidate(Scope::All);
        complete(&mut fixture.world, tickets.ticket(round), Flow::CONTINUE, allow());
    }
    assert_eq!((fixture.notified(), tickets.about().len()), (vec![(1, 0x88)], 9));
    assert_eq!(fixture.got(), [""; 0]);
}

/// A plugin may request an authorization alone, for data that it stores itself. The refusal counts
/// for nothing else.
#[test]
fn an_authorization_request_alone_is_answered_without_effect() {
    let log = Log::default();
    let mut fixture = Fixture::with(vec![guard(&log)], |_| {});
    fixture.client("c", &named(Some("ann")));
    log.take();
    for (number, action, topic, expected) in [
        (1, Action::Publish, "secret/y", 0x87),
        (2, Action::Publish, "open/y", 0),
        (3, Action::Subscribe, "$share/g/secret/#", 0x87),
        // No link authorizes deliveries.
        (4, Action::Deliver, "secret/y", 0),
    ] {
        let client = fixture.behalf_client("c");
        fixture.action(
            client,
            number,
            BehalfAction::Authorize { action, topic: topic.into(), qos: QoS::AtMostOnce, retain: false },
        );
        assert_eq!(fixture.notified(), [(number, expected)]);
    }
    assert_eq!(log.take().len(), 3);
    assert_eq!((fixture.got(), fixture.refused()), (Vec::<String>::new(), 0));
    assert_eq!(subscriptions(&fixture, "c"), [""; 0]);
}

/// A plugin can name the current owner of a client identifier. A name without a session is an
/// error.
#[test]
fn a_request_names_its_client_by_the_identifier() {
    let log = Log::default();
    let mut fixture = Fixture::with(vec![guard(&log)], |_| {});
    fixture.world.connect("c", &named(Some("bob")));
    fixture.action(BehalfClient::Client("c".into()), 1, publish("open/y"));
    fixture.action(BehalfClient::Client("nobody".into()), 2, publish("open/y"));
    assert_eq!(fixture.notified(), [(1, 0), (2, 0x85)]);
    assert_eq!(log.take(), ["c bob 127.0.0.1 1 open/y"]);
    assert_eq!((fixture.got(), fixture.refused()), (vec!["open/y".to_owned()], 1));
}

/// Limits that CONNACK announced apply as to the client's own PUBLISH [MQTT-3.2.2-14]; a QoS above
/// the maximum is lowered.
#[test]
fn limits_announced_in_connack_apply() {
    let mut fixture = Fixture::with(Vec::new(), |limits| {
        limits.choices.retain_available = false;
        limits.choices.maximum_qos = QoS::AtMostOnce;
    });
    fixture.client("c", &named(None));
    let BehalfAction::Publish(plain) = publish("open/y") else { return };
    let retained = Message { retain: true, ..plain.clone() };
    let above = Message { qos: QoS::ExactlyOnce, ..plain };
    for (number, one) in [(1, retained), (2, above)] {
        let client = fixture.behalf_client("c");
        fixture.action(client, number, BehalfAction::Publish(one));
    }
    assert_eq!(fixture.notified(), [(1, 0x9A), (2, 0)]);
    assert_eq!(fixture.world.take_plain(fixture.subscriber), [message("open/y", "x", 0)]);
}

/// For each plugin one refusal in ten seconds is logged, with the number since the last one. All
/// are counted.
#[test]
fn refusals_are_logged_at_a_limited_rate() {
    let log = Log::default();
    let mut fixture = Fixture::with(vec![guard(&log)], |_| {});
    fixture.client("c", &named(None));
    for number in 0..3 {
        fixture.publish_as("c", number, "secret/y");
    }
    // A request of another plugin, for a client that does not exist.
    let (plugin, client) = (PluginHandle(8), BehalfClient::Client("nobody".into()));
    let action = BehalfAction::Unsubscribe { filter: "open/a".into() };
    fixture.world.shards[0].command(Command::As(Box::new(OnBehalf { plugin, client, answer: None, action })));
    let logged = |fixture: &mut Fixture| {
        let refused = std::mem::take(&mut fixture.world.shards[0].outbox().behalf_refused);
        let text =
            |one: &BehalfRefused| format!("{} {} of {}: {}", one.what, one.topic, one.client_id, one.reason);
        refused.iter().map(|one| (one.plugin, text(one), one.unlogged)).collect::<Vec<_>>()
    };
    assert_eq!(
        logged(&mut fixture),
        [
            (MAKER, "a publish to secret/y of c: 0x87 not authorized".to_owned(), 0),
            (
                plugin,
                "an unsubscription from open/a of nobody: 0x85 client identifier not valid".to_owned(),
                0
            ),
        ]
    );
    fixture.world.pass_ms(10_000);
    fixture.publish_as("c", 4, "secret/y");
    let next = logged(&mut fixture);
    assert_eq!((next.len(), next[0].2, fixture.refused()), (1, 2, 5));
}

/// A plugin's own identity belongs to no client: a client with the same name gains and loses no
/// rights by it.
#[test]
fn an_identity_made_by_a_plugin_belongs_to_no_client() {
    let log = Log::default();
    let mut fixture = Fixture::with(vec![guard(&log)], |_| {});
    // The message of another plugin is stored with that plugin's own identity.
    let BehalfAction::Publish(own) = publish("keep") else { return };
    let own = Message { from: "plugin1".into(), ancestry: 0, ..own };
    fixture.world.shards[0].command(Command::Publish { plugin: PluginHandle(1), message: own });
    fixture.world.drive();
    fixture.world.connect("plugin1", &named(None));
    log.take();
    let client = fixture.behalf_client("plugin1");
    fixture.action(client, 1, publish("secret/y"));
    assert_eq!((log.take(), fixture.got()), (Vec::new(), vec!["secret/y".to_owned()]));
    let client = fixture.behalf_client("plugin1");
    fixture.action(client, 2, subscribe("open/a"));
    assert_eq!(fixture.notified(), [(1, 0), (2, 0x85)]);
}

/// A client has no identity to store before it is admitted.
#[test]
fn a_client_has_no_identity_before_its_login_has_succeeded() {
    for (point, expected) in [
        (HookPoint::ClientConnect, Some(Status::UNSUPPORTED)),
        (HookPoint::ClientAuthenticate, Some(Status::UNSUPPORTED)),
        (HookPoint::ClientConnack, Some(Status::UNSUPPORTED)),
        (HookPoint::ClientConnected, None),
        (HookPoint::SessionCreated, None),
    ] {
        let log = Log::default();
        let seen = log.clone();
        let looks = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            seen.note(format!("{:?}", call.identity().err()));
            Flow::CONTINUE
        });
        let mut world = World::new(1);
        crate::hooks::mount(&mut world, vec![(point, looks)]);
        world.connect("c", &ConnectRequest::v(Version::V5));
        assert_eq!(log.take(), [format!("{expected:?}")], "{point:?}");
    }
}
