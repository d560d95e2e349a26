//! Deferred verdicts at every point that allows them: order, deadlines, what ends with a
//! connection, and authentication in rounds (the design's sections on slots and on deferred
//! verdicts).

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{
    Auth, Filters, Packet, Properties, Property, QoS, Subscribe, SubscriptionOptions, Version, push_property,
    push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{ConnectLimit, ConnectRefused, OwnedChange};
use grapnel_plugin_abi::raw::{FLAG_SUPERUSER, Field, Flow, Ticket};

use crate::hooks::{Call, Log, complete, link, mount, number, pair};
use crate::world::{ConnectRequest, Got, World, message};

/// The tickets that a link has taken, in order, each with its subject.
#[derive(Clone, Default)]
pub struct DeferredTickets(Rc<RefCell<Vec<(String, Ticket)>>>);

impl DeferredTickets {
    pub fn note(&self, about: &str, ticket: Ticket) {
        self.0.borrow_mut().push((about.to_owned(), ticket));
    }

    pub fn about(&self) -> Vec<String> {
        self.0.borrow().iter().map(|(about, _)| about.clone()).collect()
    }

    pub fn ticket(&self, place: usize) -> Ticket {
        self.0.borrow()[place].1
    }
}

/// A link that defers everything.
pub fn later(identity: u32, priority: i32, policy: FaultPolicy, tickets: &DeferredTickets) -> Link {
    let tickets = tickets.clone();
    link(identity, priority, policy, move |call: &mut Call<'_>| {
        if call.action() == 2 && call.topic() == "#" {
            // The subscription in force of `pair`, which is rechecked when a link is mounted.
            call.set(Field::VERDICT, 1, "", "");
            return Flow::CONTINUE;
        }
        let about = if call.topic().is_empty() { call.client_id() } else { call.topic() };
        let about = about.to_owned();
        tickets.0.borrow_mut().push((about, call.defer().expect("the point may wait")));
        Flow::DEFER
    })
}

fn text(field: Field, index: u32, text: &str) -> OwnedChange {
    OwnedChange { field, index, number: 0, bytes: Bytes::copy_from_slice(text.as_bytes()), key: Bytes::new() }
}

pub fn deny(reason: u8) -> Vec<OwnedChange> {
    vec![number(Field::REASON_CODE, u64::from(reason)), number(Field::VERDICT, 2)]
}

pub fn allow() -> Vec<OwnedChange> {
    vec![number(Field::VERDICT, 1)]
}

/// A SUBSCRIBE with several filters.
fn send_filters(world: &mut World, client: usize, filters: &[(&str, QoS)], packet_id: u16) {
    let mut payload = Vec::new();
    for (filter, qos) in filters {
        let options = SubscriptionOptions::from_byte(qos.as_u8()).expect("options of a QoS alone");
        push_subscription(&mut payload, filter, options);
    }
    let packet_id = std::num::NonZeroU16::new(packet_id).expect("an identifier");
    let filters = Filters::from_encoded(&payload);
    world.send(
        client,
        &Packet::Subscribe(Subscribe { packet_id, properties: Properties::default(), filters }),
    );
}

/// client.connect may defer. Its changes and refusals count as if it had answered at once, and the
/// next link follows.
#[test]
fn client_connect_can_be_deferred() {
    for refuse in [false, true] {
        let mut world = World::new(1);
        let (tickets, log) = (DeferredTickets::default(), Log::default());
        let seen = log.clone();
        let next = link(2, 0, FaultPolicy::Ignore, move |_| {
            seen.note("next");
            Flow::CONTINUE
        });
        mount(
            &mut world,
            vec![
                (HookPoint::ClientConnect, later(1, 1, FaultPolicy::Ignore, &tickets)),
                (HookPoint::ClientConnect, next),
            ],
        );
        let (client, connack) = world.try_connect("c", &ConnectRequest::v(Version::V5));
        assert_eq!((connack, log.take().len()), (None, 0), "nothing before the answer");
        let changes = if refuse { deny(0x8A) } else { vec![number(Field::KEEP_ALIVE_S, 7)] };
        complete(&mut world, tickets.ticket(0), if refuse { Flow::STOP } else { Flow::CONTINUE }, changes);
        let code = if refuse { 0x8A } else { 0 };
        assert_eq!(world.take(client), [Got::ConnAck { present: false, code }]);
        assert_eq!(log.take().len(), usize::from(!refuse));
        if !refuse {
            // One and a half times the keep alive that the plugin set [MQTT-3.1.2-22].
            world.pass_ms(12_000);
            assert!(world.is_closed(client));
        }
    }
}

/// The next link sees what an answer sets for the client, also in the flags of its event.
#[test]
fn a_later_link_sees_the_superuser_flag_that_a_deferred_link_has_set() {
    let mut world = World::new(1);
    let (tickets, log) = (DeferredTickets::default(), Log::default());
    let seen = log.clone();
    let next = link(2, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        seen.note((call.flags() & FLAG_SUPERUSER != 0).to_string());
        Flow::CONTINUE
    });
    let first = later(1, 1, FaultPolicy::Deny, &tickets);
    let point = HookPoint::ClientAuthenticate;
    mount(&mut world, vec![(point, first), (point, next)]);
    world.try_connect("c", &ConnectRequest::v(Version::V5));
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, vec![number(Field::IS_SUPERUSER, 1)]);
    assert_eq!(log.take(), ["true"]);
}

/// Clients beyond `connects_pending_max` are refused with "server busy" without a call of a plugin.
/// Each client that is answered or leaves frees its place.
#[test]
fn pending_clients_are_limited() {
    for (version, busy) in [(Version::V5, 0x89), (Version::V311, 3)] {
        let mut world = World::with(1, |limits| limits.connects_pending_max = 2);
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::ClientAuthenticate, later(1, 0, FaultPolicy::Deny, &tickets))]);
        let request = ConnectRequest::v(version);
        let (first, _) = world.try_connect("first", &request);
        let (second, _) = world.try_connect("second", &request);
        let refused = Some(Got::ConnAck { present: false, code: busy });
        assert_eq!(world.try_connect("third", &request).1, refused);
        assert_eq!(tickets.about(), ["first", "second"], "nobody was asked about the third");
        complete(&mut world, tickets.ticket(0), Flow::STOP, allow());
        assert_eq!(world.take(first), [Got::ConnAck { present: false, code: 0 }]);
        assert_eq!(world.try_connect("fourth", &request).1, None);
        assert_eq!(world.try_connect("fifth", &request).1, refused);
        world.lose(second);
        assert_eq!(world.try_connect("sixth", &request).1, None);
        assert_eq!(world.try_connect("seventh", &request).1, refused);
    }
}

/// Clients of one address beyond `connects_pending_per_address_max` are refused, and those of other
/// addresses are admitted. However a client stops waiting, its place is free.
#[test]
fn pending_clients_of_one_address_are_limited() {
    type End = fn(&mut World, usize, Ticket);
    let ends: [End; 4] = [
        |world, _, ticket| complete(world, ticket, Flow::STOP, allow()),
        |world, _, ticket| complete(world, ticket, Flow::STOP, deny(0x87)),
        |world, client, _| world.lose(client),
        |world, _, _| world.pass_ms(6_000),
    ];
    for (version, busy) in [(Version::V5, 0x89), (Version::V311, 3)] {
        for (number, end) in ends.iter().enumerate() {
            let mut world = World::with(1, |limits| limits.connects_pending_per_address_max = 2);
            let tickets = DeferredTickets::default();
            mount(
                &mut world,
                vec![(HookPoint::ClientAuthenticate, later(1, 0, FaultPolicy::Deny, &tickets))],
            );
            let request = ConnectRequest::v(version);
            let refused = Some(Got::ConnAck { present: false, code: busy });
            let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|host| host.parse().expect("an address"));
            world.host = one;
            let (first, _) = world.try_connect("first", &request);
            world.try_connect("second", &request);
            assert_eq!(world.try_connect("third", &request).1, refused);
            assert_eq!(world.shards[0].counters().connects_pending_address_refused, 1);
            let logged = world.shards[0].outbox().connect_refused.take();
            assert_eq!(logged, Some(ConnectRefused { limit: ConnectLimit::Address(one), unlogged: 0 }));
            world.host = other;
            assert_eq!(world.try_connect("other", &request).1, None);
            assert_eq!(tickets.about(), ["first", "second", "other"], "nobody was asked about the third");
            end(&mut world, first, tickets.ticket(0));
            world.host = one;
            assert_eq!(world.try_connect("fourth", &request).1, None, "end {number}");
        }
    }
}

/// A missed deadline at client.connect is a fault that is ignored: the client is admitted.
#[test]
fn a_deferred_client_connect_ends_at_its_deadline() {
    let mut world = World::new(1);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientConnect, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    let (client, _) = world.try_connect("c", &ConnectRequest::v(Version::V311));
    world.pass_ms(1_100);
    assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0 }]);
}

/// A will is authorized before CONNACK, and a will that is denied refuses the client.
#[test]
fn the_authorization_of_a_will_can_be_deferred() {
    for (answer, code) in [(allow(), 0), (deny(0x87), 0x87)] {
        let mut world = World::new(1);
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::ClientAuthorize, later(1, 0, FaultPolicy::Deny, &tickets))]);
        let request = ConnectRequest {
            will: Some(("will/topic", "gone", QoS::AtMostOnce, false)),
            ..ConnectRequest::v(Version::V5)
        };
        let (client, connack) = world.try_connect("c", &request);
        assert_eq!((connack, tickets.about()), (None, vec!["will/topic".to_owned()]));
        complete(&mut world, tickets.ticket(0), Flow::STOP, answer);
        assert_eq!(world.take(client), [Got::ConnAck { present: false, code }]);
    }
}

/// Publishes are authorized concurrently; they take effect and are acknowledged in order of
/// arrival.
#[test]
fn publishes_that_wait_for_authorization_keep_their_order() {
    let (mut world, subscriber, publisher) = pair();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientAuthorize, later(1, 0, FaultPolicy::Deny, &tickets))]);
    for (id, topic) in [(1, "a"), (2, "b"), (3, "c")] {
        world.publish(publisher, topic, "x", QoS::AtLeastOnce, id);
    }
    assert_eq!(tickets.about(), ["a", "b", "c"], "none waits for the one in front");
    complete(&mut world, tickets.ticket(2), Flow::STOP, allow());
    complete(&mut world, tickets.ticket(1), Flow::STOP, deny(0x87));
    assert_eq!((world.take(publisher), world.take_plain(subscriber)), (vec![], vec![]));
    complete(&mut world, tickets.ticket(0), Flow::STOP, allow());
    assert_eq!(
        world.take(publisher),
        [Got::Ack("PUBACK", 1, 0), Got::Ack("PUBACK", 2, 0x87), Got::Ack("PUBACK", 3, 0),]
    );
    assert_eq!(world.take_plain(subscriber), [message("a", "x", 1), message("c", "x", 1)]);
}

/// Every link sees the publishes of a connection in order, at client.authorize and then at
/// message.publish.
#[test]
fn each_link_is_called_for_publishes_in_their_order() {
    let (mut world, _subscriber, publisher) = pair();
    let (tickets, log) = (DeferredTickets::default(), Log::default());
    let noting = |identity, name: &'static str| {
        let log = log.clone();
        link(identity, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            log.note(format!("{name} {}", call.topic()));
            Flow::CONTINUE
        })
    };
    mount(
        &mut world,
        vec![
            (HookPoint::ClientAuthorize, later(1, 1, FaultPolicy::Deny, &tickets)),
            (HookPoint::ClientAuthorize, noting(2, "second")),
            (HookPoint::MessagePublish, noting(3, "publish")),
        ],
    );
    // The subscription in force has been rechecked.
    world.pass_ms(10);
    log.take();
    world.publish(publisher, "a", "x", QoS::AtLeastOnce, 1);
    world.publish(publisher, "b", "x", QoS::AtLeastOnce, 2);
    complete(&mut world, tickets.ticket(1), Flow::CONTINUE, allow());
    assert_eq!(log.take(), Vec::<String>::new(), "b waits for a at the next link");
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, allow());
    assert_eq!(log.take(), ["second a", "publish a", "second b", "publish b"]);
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0), Got::Ack("PUBACK", 2, 0)]);
}

/// A topic that message.publish has changed is authorized again, and that may be deferred too.
#[test]
fn a_changed_topic_is_authorized_again_before_the_publish_goes_on() {
    let (mut world, subscriber, publisher) = pair();
    let tickets = DeferredTickets::default();
    let rewrite = link(2, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
        call.set(Field::TOPIC, 0, "new", "");
        Flow::CONTINUE
    });
    mount(
        &mut world,
        vec![
            (HookPoint::ClientAuthorize, later(1, 0, FaultPolicy::Deny, &tickets)),
            (HookPoint::MessagePublish, rewrite),
        ],
    );
    world.publish(publisher, "old", "x", QoS::AtLeastOnce, 1);
    complete(&mut world, tickets.ticket(0), Flow::STOP, allow());
    assert_eq!(tickets.about(), ["old", "new"]);
    assert_eq!(world.take(publisher), []);
    complete(&mut world, tickets.ticket(1), Flow::STOP, allow());
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0)]);
    assert_eq!(world.take_plain(subscriber), [message("new", "x", 1)]);
}

/// A publish belongs to its session: it takes effect when its verdict arrives, whatever the state
/// of the connection.
#[test]
fn a_publish_deferred_at_client_authorize_takes_effect_after_its_connection_has_ended() {
    let (mut world, subscriber, publisher) = pair();
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientAuthorize, later(1, 0, FaultPolicy::Deny, &tickets))]);
    world.publish(publisher, "a", "x", QoS::AtMostOnce, 0);
    world.disconnect(publisher, ReasonCode::SUCCESS);
    assert_eq!(world.take_plain(subscriber), []);
    complete(&mut world, tickets.ticket(0), Flow::STOP, allow());
    assert_eq!(world.take_plain(subscriber), [message("a", "x", 0)]);
}

/// client.subscribe may defer. The filters that its answer rewrites are authorized, and later
/// packets wait.
#[test]
fn client_subscribe_can_be_deferred() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let (tickets, log) = (DeferredTickets::default(), Log::default());
    let seen = log.clone();
    let requested = link(2, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        seen.note(call.topic());
        call.set(Field::VERDICT, 1, "", "");
        Flow::CONTINUE
    });
    mount(
        &mut world,
        vec![
            (HookPoint::ClientSubscribe, later(1, 0, FaultPolicy::Ignore, &tickets)),
            (HookPoint::ClientAuthorize, requested),
        ],
    );
    send_filters(&mut world, client, &[("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce)], 7);
    world.publish(client, "c/own", "x", QoS::AtLeastOnce, 8);
    assert_eq!((world.take(client), log.take()), (vec![], vec![]));
    let mut changes = vec![text(Field::FILTER, 0, "c/#")];
    changes.push(OwnedChange { index: 1, ..number(Field::VERDICT, 2) });
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, changes);
    assert_eq!(log.take(), ["c/#", "c/own"]);
    let got: Vec<Got> = world.take_plain(client);
    assert_eq!(got[0], Got::SubAck(7, vec![0, 0x87]));
    assert!(got.contains(&Got::Ack("PUBACK", 8, 0)) && got.contains(&message("c/own", "x", 0)), "{got:?}");
}

/// The filters of a SUBSCRIBE are authorized concurrently; SUBACK waits for the last and has the
/// codes in order [MQTT-3.8.4-6].
#[test]
fn all_filters_of_a_subscribe_are_authorized_at_the_same_time() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientAuthorize, later(1, 0, FaultPolicy::Deny, &tickets))]);
    send_filters(&mut world, client, &[("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce)], 7);
    assert_eq!(tickets.about(), ["a", "b"]);
    complete(&mut world, tickets.ticket(1), Flow::STOP, allow());
    assert_eq!(world.take(client), []);
    complete(&mut world, tickets.ticket(0), Flow::STOP, deny(0x87));
    assert_eq!(world.take(client), [Got::SubAck(7, vec![0x87, 1])]);
}

/// A waiting SUBSCRIBE ends with its connection. Earlier packets take effect, and a late answer has
/// no effect.
#[test]
fn a_subscribe_that_waits_is_dropped_when_its_connection_ends() {
    let mut world = World::new(1);
    let request = ConnectRequest {
        clean: false,
        properties: vec![Property::SessionExpiry(100)],
        ..ConnectRequest::v(Version::V5)
    };
    let client = world.connect("c", &request);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientSubscribe, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    send_filters(&mut world, client, &[("a", QoS::AtMostOnce)], 7);
    world.lose(client);
    let again = world.connect("c", &request);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    world.publish(again, "a", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(again), [Got::Ack("PUBACK", 1, 0x10)], "nobody has subscribed");
}

/// client.unsubscribe may defer, and may refuse a filter.
#[test]
fn client_unsubscribe_can_be_deferred() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.subscribe(client, "a", QoS::AtMostOnce);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::ClientUnsubscribe, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    world.unsubscribe(client, "a");
    assert_eq!(world.take(client), []);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, vec![number(Field::VERDICT, 2)]);
    assert!(matches!(&world.take(client)[..], [Got::UnsubAck(_, codes)] if codes[..] == [0x87]));
    world.publish(client, "a", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(client), [message("a", "x", 0)], "the subscription stays");
}

/// At most `defer_window` publishes of a connection wait for plugins. Its further bytes are not
/// read; other connections are.
#[test]
fn defer_window_limits_the_publishes_that_wait_for_plugins() {
    let mut world = World::with(1, |limits| limits.defer_window = 2);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let other = world.connect("other", &ConnectRequest::v(Version::V5));
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    for id in 1..=4 {
        world.publish(publisher, "a", "x", QoS::AtLeastOnce, id);
    }
    assert_eq!(tickets.about().len(), 2);
    world.publish(other, "b", "x", QoS::AtLeastOnce, 1);
    assert_eq!(tickets.about(), ["a", "a", "b"]);
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0x10)]);
    assert_eq!(tickets.about(), ["a", "a", "b", "a"], "half of the window is free: the next is read");
}

fn auth<'a>(section: &'a mut Vec<u8>, reason: ReasonCode, method: &str, data: &str) -> Packet<'a> {
    push_property(section, Property::AuthMethod(method));
    push_property(section, Property::AuthData(data.as_bytes()));
    Packet::Auth(Auth { reason, properties: Properties::from_encoded(section) })
}

pub fn send_auth(world: &mut World, client: usize, reason: ReasonCode, method: &str, data: &str) {
    let mut section = Vec::new();
    let packet = auth(&mut section, reason, method, data);
    world.send(client, &packet);
}

/// A plugin that answers the data "hello" with the challenge "1?", "one" with "2?", admits "two",
/// and denies everything else.
fn challenge(log: &Log) -> Link {
    let log = log.clone();
    link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        let data = call.get_text(Field::AUTH_DATA);
        log.note(format!("{} {data}", call.get_text(Field::AUTH_METHOD)));
        let (verdict, answer) = match &*data {
            "hello" => (3, "1?"),
            "one" => (3, "2?"),
            "two" => (1, "welcome"),
            _ => (2, ""),
        };
        if verdict == 2 {
            // A reason code that only CONNACK has.
            call.set(Field::REASON_CODE, 0x86, "", "");
        }
        call.set(Field::AUTH_DATA, 0, answer, "");
        call.set(Field::VERDICT, verdict, "", "");
        Flow::STOP
    })
}

fn scram<'a>() -> ConnectRequest<'a> {
    ConnectRequest {
        properties: vec![Property::AuthMethod("M"), Property::AuthData(b"hello")],
        ..ConnectRequest::v(Version::V5)
    }
}

/// Authentication takes as many AUTH rounds as the plugin requests, all with CONNECT's method
/// [MQTT-4.12.0-2] [MQTT-4.12.0-5].
#[test]
fn a_login_may_take_several_auth_rounds() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(&mut world, vec![(HookPoint::ClientAuthenticate, challenge(&log))]);
    let (client, first) = world.try_connect("c", &scram());
    assert_eq!(first, Some(Got::Auth(0x18, "1?".into())));
    send_auth(&mut world, client, ReasonCode::CONTINUE_AUTHENTICATION, "M", "one");
    assert_eq!(world.take(client), [Got::Auth(0x18, "2?".into())]);
    send_auth(&mut world, client, ReasonCode::CONTINUE_AUTHENTICATION, "M", "two");
    assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0 }]);
    assert_eq!(log.take(), ["M hello", "M one", "M two"]);
    // Again, while the connection lives (section 4.12.1).
    send_auth(&mut world, client, ReasonCode::REAUTHENTICATE, "M", "one");
    assert_eq!(world.take(client), [Got::Auth(0x18, "2?".into())]);
    world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x10)], "everything else goes on meanwhile");
    send_auth(&mut world, client, ReasonCode::CONTINUE_AUTHENTICATION, "M", "two");
    assert_eq!(world.take(client), [Got::Auth(0, "welcome".into())]);
    // A failed re-authentication ends the connection [MQTT-4.12.1-2].
    send_auth(&mut world, client, ReasonCode::REAUTHENTICATE, "M", "wrong");
    assert_eq!(world.take(client), [Got::Disconnect(0x80)], "DISCONNECT has no 0x86 (section 3.14.2.1)");
    assert!(world.is_closed(client));
}

/// An AUTH with another method or out of turn, or another packet instead of it, ends the connection
/// [MQTT-4.12.0-3] [MQTT-4.12.0-6].
#[test]
fn a_login_with_a_wrong_or_missing_auth_ends_the_connection() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(&mut world, vec![(HookPoint::ClientAuthenticate, challenge(&log))]);
    let breaks: [fn(&mut World, usize); 3] = [
        |world, client| send_auth(world, client, ReasonCode::CONTINUE_AUTHENTICATION, "N", "one"),
        |world, client| send_auth(world, client, ReasonCode::REAUTHENTICATE, "M", "one"),
        |world, client| world.publish(client, "t", "x", QoS::AtMostOnce, 0),
    ];
    for (number, attempt) in breaks.into_iter().enumerate() {
        let (client, first) = world.try_connect(&format!("c{number}"), &scram());
        assert_eq!(first, Some(Got::Auth(0x18, "1?".into())));
        attempt(&mut world, client);
        assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0x82 }]);
        assert!(world.is_closed(client));
    }
    // A client that sends nothing more has the same time as for CONNECT.
    let (client, _) = world.try_connect("silent", &scram());
    world.pass_ms(10_100);
    assert!(world.is_closed(client));
    // Without a method in CONNECT there is no AUTH.
    mount(&mut world, Vec::new());
    let client = world.connect("plain", &ConnectRequest::v(Version::V5));
    send_auth(&mut world, client, ReasonCode::REAUTHENTICATE, "M", "one");
    assert_eq!(world.take(client), [Got::Disconnect(0x82)]);
}

/// Hooks cannot give a message more user properties than a packet may have.
#[test]
fn an_answer_with_more_user_properties_than_a_packet_may_have_is_refused_as_a_whole() {
    for (added, passes) in [(63, true), (64, false)] {
        let (mut world, sub, publisher) = pair();
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
        let one = [Property::User("own", "1")];
        world.publish_with(publisher, "t", "x", QoS::AtMostOnce, 0, false, &one);
        let property = || OwnedChange {
            field: Field::USER_PROPERTY,
            index: grapnel_plugin_abi::raw::APPEND,
            number: 0,
            bytes: "value".into(),
            key: "key".into(),
        };
        let changes = (0..added).map(|_| property()).chain([text(Field::PAYLOAD, 0, "changed")]).collect();
        complete(&mut world, tickets.ticket(0), Flow::CONTINUE, changes);
        let got = world.take_plain(sub);
        let expected = if passes { "changed" } else { "x" };
        assert_eq!(got.len(), 1);
        let Got::Publish { payload, .. } = &got[0] else { panic!("{got:?}") };
        assert_eq!(payload, expected.as_bytes(), "{added} added to one of its own, limit 64");
        assert_eq!(world.shards[0].counters().hook_changes_refused > 0, !passes);
    }
}

/// A DISCONNECT that was read takes effect once, also if its connection has ended before its turn.
#[test]
fn a_disconnect_is_counted_once_also_if_it_waits() {
    for lost in [false, true] {
        let mut world = World::new(1);
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
        let client = world.connect("c", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
        world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
        world.disconnect(client, ReasonCode::SUCCESS);
        if lost {
            world.lose(client);
        }
        complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
        assert_eq!(world.shards[0].counters().packets_disconnect_received, 1, "lost {lost}");
    }
}

/// The result of a deferred answer counts for the link that gave it.
#[test]
fn late_answers_are_counted_for_their_link() {
    for (answer, stops, faults) in
        [(Some(Flow::CONTINUE), 0, 0), (Some(Flow::STOP), 1, 0), (Some(Flow::FAULT), 0, 1), (None, 0, 1)]
    {
        let (mut world, _, publisher) = pair();
        let tickets = DeferredTickets::default();
        let point = HookPoint::MessagePublish;
        let first = link(1, 10, FaultPolicy::Ignore, |_: &mut Call<'_>| Flow::CONTINUE);
        mount(&mut world, vec![(point, first), (point, later(2, 0, FaultPolicy::Ignore, &tickets))]);
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
        match answer {
            Some(flow) => complete(&mut world, tickets.ticket(0), flow, Vec::new()),
            None => world.pass_ms(60_000),
        }
        let stats: Vec<_> = world.shards[0]
            .chains()
            .chain(point)
            .links()
            .map(|(_, stats)| (stats.calls, stats.stops, stats.deferrals, stats.faults))
            .collect();
        assert_eq!(stats, [(1, 0, 0, 0), (1, stops, 1, faults)], "{answer:?}");
    }
}

/// A publish that waits behind another one passes the same links as that one, although neither has
/// taken effect.
#[test]
fn publishes_behind_a_waiting_one_pass_each_link_after_it() {
    let (mut world, sub, publisher) = pair();
    let (first, second) = (DeferredTickets::default(), DeferredTickets::default());
    let point = HookPoint::MessagePublish;
    mount(
        &mut world,
        vec![
            (point, later(1, 10, FaultPolicy::Ignore, &first)),
            (point, later(2, 0, FaultPolicy::Ignore, &second)),
        ],
    );
    for (packet_id, topic) in [(1, "a"), (2, "b")] {
        world.publish(publisher, topic, "x", QoS::AtLeastOnce, packet_id);
    }
    assert_eq!(first.about(), ["a", "b"]);
    complete(&mut world, first.ticket(1), Flow::CONTINUE, Vec::new());
    assert_eq!(second.about(), Vec::<String>::new(), "a has not been there");
    complete(&mut world, first.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(second.about(), ["a", "b"]);
    complete(&mut world, second.ticket(1), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(sub), [], "b is behind a");
    complete(&mut world, second.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take_plain(sub), [message("a", "x", 1), message("b", "x", 1)]);
}

/// The reason code of a refusal is a failure code of MQTT.
#[test]
fn a_publish_is_refused_only_with_a_reason_code_that_puback_may_have() {
    let (mut world, _, publisher) = pair();
    let log = Log::default();
    let act = {
        let log = log.clone();
        move |call: &mut Call<'_>| {
            for code in [0x00, 0x10, 0x7F, 0x85, 0xFE, 0x100, 0x99] {
                log.note(format!("{code:#x} {:?}", call.set(Field::REASON_CODE, code, "", "")));
            }
            call.set(Field::DISPOSITION, 2, "", "");
            Flow::STOP
        }
    };
    mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, act))]);
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(
        log.take(),
        [
            "0x0 INVALID",
            "0x10 INVALID",
            "0x7f INVALID",
            "0x85 OK",
            "0xfe INVALID",
            "0x100 INVALID",
            "0x99 OK"
        ]
    );
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0x99)]);
}
