//! When each hook point is called, in which order, and with which fields (the design's table of
//! hook points).

use grapnel_engine::hook::notification::BrokerView;
use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{Packet, Property, QoS, SubscriptionOptions, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{Field, Flow, Status, Value};

use crate::hooks::{Call, Log, link, mount, noting};
use crate::world::{ConnectRequest, World};

impl Call<'_> {
    pub fn value(&self, field: Field, index: u32) -> Result<Value, Status> {
        let mut value = Value::EMPTY;
        // SAFETY: the context is that of the running event.
        match unsafe { (host_api(1, 1).get)(self.event.ctx, field, index, &mut value) } {
            Status::OK => Ok(value),
            status => Err(status),
        }
    }

    pub fn number(&self, field: Field) -> Result<u64, Status> {
        self.value(field, 0).map(|value| value.number)
    }

    pub fn text(&self, field: Field) -> String {
        self.text_at(field, 0)
    }

    /// The text of a field, or `-`.
    pub fn text_at(&self, field: Field, index: u32) -> String {
        // SAFETY: the view is of the running event.
        self.value(field, index).map_or("-".into(), |value| unsafe { value.bytes.text().to_owned() })
    }

    pub fn client(&self) -> &str {
        // SAFETY: the view is of the running event.
        unsafe { self.event.client_id.text() }
    }

    pub fn point(&self) -> HookPoint {
        HookPoint::from_number(self.event.point).expect("the engine knows its points")
    }
}

/// A link at each of these points that logs the text of `say` for each call.
pub fn notified(
    log: &Log,
    points: &[HookPoint],
    say: impl Fn(&Call<'_>) -> String + Copy + 'static,
) -> Vec<(HookPoint, Link)> {
    let one = |(place, point): (usize, &HookPoint)| {
        let log = log.clone();
        let act = move |call: &mut Call<'_>| {
            log.note(say(call));
            Flow::CONTINUE
        };
        (*point, link(place as u32 + 1, 0, FaultPolicy::Ignore, act))
    };
    points.iter().enumerate().map(one).collect()
}

const LIFE: [HookPoint; 11] = [
    HookPoint::ClientConnect,
    HookPoint::ClientAuthenticate,
    HookPoint::ClientConnack,
    HookPoint::ClientConnected,
    HookPoint::ClientDisconnected,
    HookPoint::SessionCreated,
    HookPoint::SessionResumed,
    HookPoint::SessionDiscarded,
    HookPoint::SessionTakenover,
    HookPoint::SessionTerminated,
    HookPoint::SessionUnsubscribed,
];

fn stored(clean: bool) -> ConnectRequest<'static> {
    ConnectRequest { clean, properties: vec![Property::SessionExpiry(60)], ..ConnectRequest::v(Version::V5) }
}

// The points are called in the order that the design lists: the end of the old session, the end of
// the old connection, the new connection, and then its session.
#[test]
fn the_hook_points_of_a_connect_run_in_the_listed_order() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        notified(&log, &LIFE, |call| match call.text(Field::CAUSE).as_str() {
            "-" => call.point().name().to_owned(),
            cause => format!("{} {cause}", call.point().name()),
        }),
    );
    let begin = ["client.connect", "client.authenticate"];
    let with = |more: &[&str]| begin.iter().chain(more).map(|s| (*s).to_owned()).collect::<Vec<_>>();

    let first = world.connect("c", &stored(true));
    assert_eq!(log.take(), with(&["client.connack", "client.connected", "session.created"]), "a new session");

    world.connect("c", &stored(false));
    let takeover = [
        "session.takenover takenover",
        "client.disconnected",
        "client.connack",
        "client.connected",
        "session.resumed",
    ];
    assert_eq!(log.take(), with(&takeover), "a takeover");
    assert!(world.is_closed(first));

    let third = world.connect("c", &stored(true));
    let discard = [
        "session.discarded discarded",
        "client.disconnected",
        "client.connack",
        "client.connected",
        "session.created",
    ];
    assert_eq!(log.take(), with(&discard), "a clean start over a connection");

    world.lose(third);
    assert_eq!(log.take(), ["client.disconnected"]);
    let fourth = world.connect("c", &stored(false));
    assert_eq!(log.take(), with(&["client.connack", "client.connected", "session.resumed"]), "a resume");

    world.lose(fourth);
    log.take();
    world.connect("c", &ConnectRequest::v(Version::V5));
    let discard = ["session.discarded discarded", "client.connack", "client.connected", "session.created"];
    assert_eq!(log.take(), with(&discard), "a clean start over a stored session");

    world.connect("c", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V5) });
    let takeover = [
        "client.disconnected",
        "session.terminated takenover",
        "client.connack",
        "client.connected",
        "session.created",
    ];
    assert_eq!(log.take(), with(&takeover), "a session that does not outlive its connection is not kept");

    let method =
        ConnectRequest { properties: vec![Property::AuthMethod("none")], ..ConnectRequest::v(Version::V5) };
    world.shards[0].swap_chains(ChainTable::empty());
    let early = notified(&log, &LIFE[2..], |call| call.point().name().to_owned());
    mount(&mut world, early);
    world.try_connect("c", &method);
    assert_eq!(log.take(), ["client.connack"], "a refusal before the first link");
}

// A client that a link refuses also causes CONNACK, and nothing after it.
#[test]
fn a_refusal_runs_connack_and_nothing_after_it() {
    for point in [HookPoint::ClientConnect, HookPoint::ClientAuthenticate] {
        let mut world = World::new(1);
        let log = Log::default();
        let mut links = notified(&log, &LIFE, |call| call.point().name().to_owned());
        let act = |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 2, "", "");
            Flow::CONTINUE
        };
        links.push((point, link(99, -1, FaultPolicy::Deny, act)));
        mount(&mut world, links);
        world.try_connect("c", &ConnectRequest::v(Version::V5));
        let before: &[&str] = match point {
            HookPoint::ClientConnect => &["client.connect"],
            _ => &["client.connect", "client.authenticate"],
        };
        assert_eq!(log.take(), [before, &["client.connack"]].concat());
    }
}

// session.terminated is called once and gives the reason.
#[test]
fn the_end_of_a_session_is_notified_once_with_its_reason() {
    let mut world = World::new(1);
    let log = Log::default();
    let points = [HookPoint::SessionTerminated, HookPoint::SessionDiscarded];
    mount(
        &mut world,
        notified(&log, &points, |call| {
            format!("{} {} {:02x}", call.client(), call.text(Field::CAUSE), call.event.reason_code)
        }),
    );
    let gone = world.connect("gone", &ConnectRequest::v(Version::V5));
    world.disconnect(gone, ReasonCode::SUCCESS);
    assert_eq!(log.take(), ["gone closed 00"]);
    let lost = world.connect("lost", &ConnectRequest::v(Version::V5));
    world.lose(lost);
    assert_eq!(log.take(), ["lost closed 80"]);
    let late = world.connect("late", &stored(true));
    world.lose(late);
    world.pass_ms(59_000);
    assert_eq!(log.take(), Vec::<String>::new());
    world.pass_ms(2_000);
    assert_eq!(log.take(), ["late expired 00"]);
    world.connect("kicked", &stored(true));
    world.shards[0].kick("kicked", ReasonCode::ADMINISTRATIVE_ACTION, true);
    world.drive();
    assert_eq!(log.take(), ["kicked kicked 98"]);
    let away = world.connect("away", &stored(true));
    world.lose(away);
    world.shards[0].kick("away", ReasonCode::ADMINISTRATIVE_ACTION, true);
    world.drive();
    assert_eq!(log.take(), ["away kicked 98"]);
}

// Session info has its counts at every point that has a session.
#[test]
fn session_info_counts_what_the_session_holds() {
    let mut world = World::with(1, |limits| limits.inflight_max = 1);
    let log = Log::default();
    mount(
        &mut world,
        notified(&log, &[HookPoint::SessionResumed], |call| {
            let number = |field| call.number(field).expect("every session has it");
            format!(
                "persistent {} expiry {} subscriptions {} inflight {} queued {} awaiting {} created {}",
                number(Field::SESSION_PERSISTENT),
                number(Field::SESSION_EXPIRY_S),
                number(Field::SESSION_SUBSCRIPTIONS),
                number(Field::SESSION_INFLIGHT),
                number(Field::SESSION_QUEUED),
                number(Field::SESSION_AWAITING_REL),
                number(Field::SESSION_CREATED_AT_MS),
            )
        }),
    );
    let created = world.now.wall_ms;
    let client = world.connect("c", &stored(true));
    world.subscribe(client, "a", QoS::AtLeastOnce);
    world.subscribe(client, "b", QoS::AtLeastOnce);
    world.publish(client, "x", "1", QoS::ExactlyOnce, 5);
    let publisher = world.connect("p", &ConnectRequest::v(Version::V5));
    for n in 0..3 {
        world.publish(publisher, "a", &n.to_string(), QoS::AtLeastOnce, n + 1);
    }
    world.lose(client);
    world.pass_ms(1000);
    world.connect("c", &stored(false));
    let counts = "subscriptions 2 inflight 1 queued 2 awaiting 1";
    assert_eq!(log.take(), [format!("persistent 1 expiry 60 {counts} created {created}")]);
}

// session.subscribed is called once SUBACK has granted the filter, with the filter, its options,
// and whether it is new; session.unsubscribed when the subscription has ended.
#[test]
fn subscriptions_are_notified_once_they_are_granted() {
    let mut world = World::new(1);
    let log = Log::default();
    let mut links = notified(&log, &[HookPoint::SessionSubscribed, HookPoint::SessionUnsubscribed], |call| {
        let number = |field| call.number(field).map_or("-".to_owned(), |number| number.to_string());
        format!(
            "{} {} options {} id {} group {} new {} cause {}",
            call.point().name(),
            call.topic(),
            number(Field::FILTER_OPTIONS),
            number(Field::SUBSCRIPTION_ID),
            call.text(Field::SHARE_GROUP),
            number(Field::IS_NEW),
            call.text(Field::CAUSE),
        )
    });
    let deny = |call: &mut Call<'_>| {
        let verdict = if call.topic() == "secret" { 2 } else { 1 };
        call.set(Field::VERDICT, verdict, "", "");
        Flow::CONTINUE
    };
    links.push((HookPoint::ClientAuthorize, link(9, 0, FaultPolicy::Deny, deny)));
    mount(&mut world, links);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::of_qos(QoS::AtLeastOnce) };
    world.subscribe_with(client, "a/+", options, Some(7));
    assert_eq!(log.take(), ["session.subscribed a/+ options 5 id 7 group - new 1 cause -"]);
    world.subscribe(client, "a/+", QoS::AtMostOnce);
    assert_eq!(log.take(), ["session.subscribed a/+ options 0 id - group - new 0 cause -"]);
    world.subscribe(client, "$share/g/t", QoS::AtMostOnce);
    assert_eq!(log.take(), ["session.subscribed $share/g/t options 0 id - group g new 1 cause -"]);
    assert_eq!(world.subscribe(client, "secret", QoS::AtMostOnce), [0x87]);
    world.unsubscribe(client, "nothing");
    assert_eq!(log.take(), Vec::<String>::new(), "what was refused or never there is not told");
    world.unsubscribe(client, "a/+");
    assert_eq!(log.take(), ["session.unsubscribed a/+ options 0 id - group - new - cause unsubscribe"]);
}

// message.acked is called at PUBACK and at PUBCOMP, not before, with the message as delivered.
#[test]
fn message_acked_is_notified_at_puback_and_pubcomp() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        notified(&log, &[HookPoint::MessageAcked], |call| {
            format!(
                "{} {} {} q{} from {}",
                call.client(),
                call.topic(),
                call.payload(),
                call.event.qos,
                call.text(Field::FROM)
            )
        }),
    );
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::ExactlyOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "t", "one", QoS::AtLeastOnce, 1);
    let packet_id = world.take(sub)[0].id();
    assert_eq!(log.take(), Vec::<String>::new());
    world.ack(sub, Packet::PubAck, packet_id);
    assert_eq!(log.take(), ["sub t one q1 from pub"]);
    world.publish(publisher, "t", "two", QoS::ExactlyOnce, 2);
    let packet_id = world.take(sub)[0].id();
    world.ack(sub, Packet::PubRec, packet_id);
    assert_eq!(log.take(), Vec::<String>::new());
    world.ack(sub, Packet::PubComp, packet_id);
    assert_eq!(log.take(), ["sub t two q2 from pub"]);
}

fn drops(log: &Log) -> Vec<(HookPoint, Link)> {
    notified(log, &[HookPoint::MessageDropped], |call| {
        format!(
            "{} {} by {} of '{}' {}",
            call.topic(),
            call.payload(),
            call.text(Field::DROPPED_BY),
            call.client(),
            call.text(Field::CAUSE)
        )
    })
}

// message.dropped gives the message, the receiver (`node` if there is none), and the reason.
#[test]
fn every_drop_is_notified_with_receiver_and_reason() {
    let mut world = World::with(1, |limits| {
        limits.inflight_max = 1;
        limits.session_queue_messages_max = 1;
    });
    let log = Log::default();
    let mut links = drops(&log);
    let act = |call: &mut Call<'_>| {
        let hidden = call.payload() == "hidden";
        if hidden {
            call.set(Field::DISPOSITION, 1, "", "");
        }
        Flow::CONTINUE
    };
    links.push((HookPoint::MessagePublish, link(8, 0, FaultPolicy::Ignore, act)));
    let act = |call: &mut Call<'_>| {
        if call.payload() == "vetoed" {
            call.set(Field::DISPOSITION, 1, "", "");
        }
        Flow::CONTINUE
    };
    links.push((HookPoint::MessageDelivered, link(9, 0, FaultPolicy::Ignore, act)));
    mount(&mut world, links);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "t", "nobody", QoS::AtMostOnce, 0);
    world.publish(publisher, "t", "hidden", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["t nobody by node of '' no_subscribers", "t hidden by node of '' hook"]);
    let small = ConnectRequest {
        properties: vec![Property::MaximumPacketSize(30)],
        ..ConnectRequest::v(Version::V5)
    };
    let sub = world.connect("sub", &small);
    world.subscribe(sub, "t", QoS::AtLeastOnce);
    world.publish(publisher, "t", "vetoed", QoS::AtMostOnce, 0);
    world.publish(publisher, "t", &"x".repeat(40), QoS::AtMostOnce, 0);
    let long = format!("t {} by sub of 'sub' too_large", "x".repeat(40));
    assert_eq!(log.take(), ["t vetoed by sub of 'sub' hook".to_owned(), long]);
    let expiry = [Property::MessageExpiry(1)];
    world.publish(publisher, "t", "flying", QoS::AtLeastOnce, 1);
    world.publish_with(publisher, "t", "old", QoS::AtLeastOnce, 2, false, &expiry);
    world.publish(publisher, "t", "full", QoS::AtLeastOnce, 3);
    assert_eq!(log.take(), ["t full by sub of 'sub' queue_full"]);
    world.pass_ms(2000);
    let packet_id = world.take(sub)[0].id();
    world.ack(sub, Packet::PubAck, packet_id);
    assert_eq!(log.take(), ["t old by sub of 'sub' expired"]);
    let dropped = *world.shards[0].counters();
    assert_eq!(dropped.messages_dropped, 6, "each is counted once");
}

// message.dropped is also called for a shared message without an eligible member, and for one that
// meets a full lane and cannot wait.
#[test]
fn drops_between_shards_are_notified() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(&mut world, drops(&log));
    let mut request = ConnectRequest::v(Version::V5);
    request.properties = vec![Property::SessionExpiry(60)];
    let member = world.connect("member", &request);
    world.subscribe(member, "$share/g/t", QoS::AtLeastOnce);
    world.lose(member);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    for n in 0..1001 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, 1);
    }
    assert_eq!(log.take(), ["t 1000 by node of '' no_member"], "its queue is full");
}

// message.retained is called when a message is stored, cleared or expired, but not when there was
// nothing to clear.
#[test]
fn retained_messages_are_notified_when_stored_cleared_or_expired() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        notified(&log, &[HookPoint::MessageRetained], |call| {
            let change = call.number(Field::RETAINED_CHANGE).expect("it says which");
            format!("{change} {} {} from {}", call.topic(), call.payload(), call.text(Field::FROM))
        }),
    );
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.publish_with(client, "t", "a", QoS::AtMostOnce, 0, true, &[]);
    world.publish_with(client, "t", "", QoS::AtMostOnce, 0, true, &[]);
    world.publish_with(client, "t", "", QoS::AtMostOnce, 0, true, &[]);
    world.publish_with(client, "u", "b", QoS::AtMostOnce, 0, true, &[Property::MessageExpiry(1)]);
    world.pass_ms(3000);
    assert_eq!(log.take(), ["1 t a from c", "2 t a from c", "1 u b from c", "3 u b from c"]);
}

// packet.received and packet.sent are called with client, type and the raw bytes of every packet,
// CONNECT and CONNACK included.
#[test]
fn packets_are_notified_with_their_bytes() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        notified(&log, &[HookPoint::PacketReceived, HookPoint::PacketSent], |call| {
            // SAFETY: the view is of the running event.
            let bytes = unsafe { call.event.payload.bytes() };
            let len = call.number(Field::PACKET_BYTES).expect("a packet has a size");
            let way = if call.point() == HookPoint::PacketSent { "out" } else { "in" };
            assert_eq!(u64::from(bytes[0] >> 4), call.number(Field::PACKET_TYPE).expect("it has a type"));
            format!(
                "{way} {} {} {:02x?} of {len}",
                call.client(),
                call.event.action,
                &bytes[..bytes.len().min(6)]
            )
        }),
    );
    let client = world.connect("c", &ConnectRequest::v(Version::V311));
    assert_eq!(log.take(), ["in c 1 [10, 0d, 00, 04, 4d, 51] of 15", "out c 2 [20, 02, 00, 00] of 4"]);
    world.send(client, &Packet::PingReq);
    assert_eq!(log.take(), ["in c 12 [c0, 00] of 2", "out c 13 [d0, 00] of 2"]);
    world.take(client);
    world.subscribe(client, "t", QoS::AtMostOnce);
    log.take();
    world.publish(client, "t", "x", QoS::AtLeastOnce, 9);
    assert_eq!(
        log.take(),
        [
            "in c 3 [32, 06, 00, 01, 74, 00] of 8",
            "out c 3 [30, 04, 00, 01, 74, 78] of 6",
            "out c 4 [40, 02, 00, 09] of 4"
        ]
    );
    world.publish(client, "t", &"x".repeat(5000), QoS::AtMostOnce, 0);
    let large = log.take();
    assert_eq!(large[1], "out c 3 [30, 8b, 27, 00, 01, 74] of 5006", "a shared payload lies elsewhere");
}

// In a notification chain, a link that stops is the last one to be called.
#[test]
fn notification_chains_end_at_stop() {
    let mut world = World::new(1);
    let log = Log::default();
    let point = HookPoint::SessionCreated;
    mount(
        &mut world,
        vec![
            (point, link(1, 1, FaultPolicy::Ignore, noting(&log, "first", Flow::STOP))),
            (point, link(2, 0, FaultPolicy::Ignore, noting(&log, "second", Flow::CONTINUE))),
        ],
    );
    world.connect("c", &ConnectRequest::v(Version::V5));
    assert_eq!(log.take(), ["first"]);
}

// Nothing can be changed at a notification point.
#[test]
fn notification_points_refuse_changes() {
    let mut world = World::new(1);
    let log = Log::default();
    let seen = log.clone();
    let act = move |call: &mut Call<'_>| {
        seen.note(format!("{:?} {:?}", call.set(Field::TOPIC, 0, "u", ""), call.number(Field::VERDICT)));
        Flow::CONTINUE
    };
    mount(&mut world, vec![(HookPoint::MessageRetained, link(1, 0, FaultPolicy::Ignore, act))]);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.publish_with(client, "t", "a", QoS::AtMostOnce, 0, true, &[]);
    assert_eq!(log.take(), ["UNSUPPORTED Err(UNSUPPORTED)"]);
}

// Every message has a number that no other one has, the same wherever it is seen.
#[test]
fn a_message_keeps_its_number_from_publish_to_acknowledgement() {
    let mut world = World::new(1);
    let log = Log::default();
    let points = [HookPoint::MessagePublish, HookPoint::MessageDelivered, HookPoint::MessageAcked];
    mount(
        &mut world,
        notified(&log, &points, |call| call.number(Field::MESSAGE_ID).expect("it has one").to_string()),
    );
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtLeastOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let mut numbers = Vec::new();
    for n in 1..=2 {
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, n);
        let packet_id = world.take(sub)[0].id();
        world.ack(sub, Packet::PubAck, packet_id);
        let seen = log.take();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|number| *number == seen[0]), "{seen:?}");
        numbers.push(seen[0].clone());
    }
    assert_ne!(numbers[0], numbers[1]);
}

// The broker's own points give its version, its uptime, and its listeners.
#[test]
fn broker_points_give_version_uptime_and_listeners() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        notified(&log, &[HookPoint::BrokerStarted], |call| {
            format!(
                "{} {} {} {} {}",
                call.text(Field::BROKER_VERSION),
                call.number(Field::BROKER_UPTIME_MS).expect("it has run for some time"),
                call.text(Field::BROKER_LISTENER),
                call.text_at(Field::BROKER_LISTENER, 1),
                call.text_at(Field::BROKER_LISTENER, 2)
            )
        }),
    );
    let listeners = ["127.0.0.1:1883".to_owned(), "[::1]:1883".to_owned()];
    let broker = BrokerView { version: "1.2.3", uptime_ms: 42, listeners: &listeners };
    world.shards[0].notify_broker(HookPoint::BrokerStarted, broker);
    assert_eq!(log.take(), ["1.2.3 42 127.0.0.1:1883 [::1]:1883 -"]);
}

/// The fields of an authorization request at client.authorize.
#[test]
fn an_authorization_request_has_all_its_fields() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let log = Log::default();
    let authorizer = {
        let log = log.clone();
        link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            let number = |field| call.number(field).unwrap_or(99);
            let (action, qos, retain) = (number(Field::ACTION), number(Field::QOS), number(Field::RETAIN));
            log.note(format!("{action} {} {qos} {retain}", call.text(Field::TOPIC)));
            call.set(Field::VERDICT, 1, "", "");
            Flow::CONTINUE
        })
    };
    mount(&mut world, vec![(HookPoint::ClientAuthorize, authorizer)]);
    world.publish_with(client, "a", "x", QoS::ExactlyOnce, 1, true, &[]);
    world.publish_with(client, "b", "x", QoS::AtLeastOnce, 2, false, &[]);
    world.forget(client);
    world.subscribe(client, "c/#", QoS::AtLeastOnce);
    assert_eq!(log.take(), ["1 a 2 1", "1 b 1 0", "2 c/# 1 0"]);
}
