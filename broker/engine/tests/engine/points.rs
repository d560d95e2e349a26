//! When each hook point is called, in which order, and what it says (the design's table of hook points).

use grapnel_engine::codec;
use grapnel_engine::hook::told::BrokerView;
use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{
    Filters, Packet, Properties, Property, QoS, Subscribe, SubscriptionOptions, Version, push_property,
    push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{Change, Field, Flow, Slice, Status, Value};

use crate::hooks::{Call, Log, link, mount, noting};
use crate::world::{Ask, Got, World, id, message};

impl Call<'_> {
    fn value(&self, field: Field, index: u32) -> Result<Value, Status> {
        let mut value = Value::EMPTY;
        // SAFETY: the context is that of the running event.
        match unsafe { (host_api(1, 1).get)(self.event.ctx, field, index, &mut value) } {
            Status::OK => Ok(value),
            status => Err(status),
        }
    }

    fn number(&self, field: Field) -> Result<u64, Status> {
        self.value(field, 0).map(|value| value.number)
    }

    fn text(&self, field: Field) -> String {
        self.text_at(field, 0)
    }

    /// What a field says, or `-`.
    fn text_at(&self, field: Field, index: u32) -> String {
        // SAFETY: the view is of the running event.
        self.value(field, index).map_or("-".into(), |value| unsafe { value.bytes.text().to_owned() })
    }

    fn client(&self) -> &str {
        // SAFETY: the view is of the running event.
        unsafe { self.event.client_id.text() }
    }

    fn point(&self) -> HookPoint {
        HookPoint::from_number(self.event.point).expect("the engine knows its points")
    }
}

/// A link on each of these points that notes what `say` makes of the call.
fn told(
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

fn stored(clean: bool) -> Ask<'static> {
    Ask { clean, properties: vec![Property::SessionExpiry(60)], ..Ask::v(Version::V5) }
}

// The points are called in the order that the design lists: the old session's fate, the old connection's end, the new
// connection, and then its session.
#[test]
fn the_points_of_a_connect_come_in_the_listed_order() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        told(&log, &LIFE, |call| match call.text(Field::CAUSE).as_str() {
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
    world.connect("c", &Ask::v(Version::V5));
    let discard = ["session.discarded discarded", "client.connack", "client.connected", "session.created"];
    assert_eq!(log.take(), with(&discard), "a clean start over a stored session");

    world.connect("c", &Ask { clean: false, ..Ask::v(Version::V5) });
    let takeover = [
        "client.disconnected",
        "session.terminated takenover",
        "client.connack",
        "client.connected",
        "session.created",
    ];
    assert_eq!(log.take(), with(&takeover), "a session that does not outlive its connection is not kept");

    let method = Ask { properties: vec![Property::AuthMethod("none")], ..Ask::v(Version::V5) };
    world.shards[0].swap_chains(ChainTable::empty());
    let early = told(&log, &LIFE[2..], |call| call.point().name().to_owned());
    mount(&mut world, early);
    world.try_connect("c", &method);
    assert_eq!(log.take(), ["client.connack"], "a refusal before the first link");
}

// A client that is refused by a link sees CONNACK run as well, and nothing after it.
#[test]
fn a_refusal_runs_connack_and_nothing_after_it() {
    for point in [HookPoint::ClientConnect, HookPoint::ClientAuthenticate] {
        let mut world = World::new(1);
        let log = Log::default();
        let mut links = told(&log, &LIFE, |call| call.point().name().to_owned());
        let act = |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 2, "", "");
            Flow::CONTINUE
        };
        links.push((point, link(99, -1, FaultPolicy::Deny, act)));
        mount(&mut world, links);
        world.try_connect("c", &Ask::v(Version::V5));
        let before: &[&str] = match point {
            HookPoint::ClientConnect => &["client.connect"],
            _ => &["client.connect", "client.authenticate"],
        };
        assert_eq!(log.take(), [before, &["client.connack"]].concat());
    }
}

// session.terminated says why, in a word, and is told once.
#[test]
fn the_end_of_a_session_is_told_once_with_its_cause() {
    let mut world = World::new(1);
    let log = Log::default();
    let points = [HookPoint::SessionTerminated, HookPoint::SessionDiscarded];
    mount(
        &mut world,
        told(&log, &points, |call| {
            format!("{} {} {:02x}", call.client(), call.text(Field::CAUSE), call.event.reason_code)
        }),
    );
    let gone = world.connect("gone", &Ask::v(Version::V5));
    world.disconnect(gone, ReasonCode::SUCCESS);
    assert_eq!(log.take(), ["gone closed 00"]);
    let lost = world.connect("lost", &Ask::v(Version::V5));
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

// Session info has its counts at every point about a session.
#[test]
fn session_info_counts_what_the_session_holds() {
    let mut world = World::with(1, |limits| limits.inflight_max = 1);
    let log = Log::default();
    mount(
        &mut world,
        told(&log, &[HookPoint::SessionResumed], |call| {
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
    let publisher = world.connect("p", &Ask::v(Version::V5));
    for n in 0..3 {
        world.publish(publisher, "a", &n.to_string(), QoS::AtLeastOnce, n + 1);
    }
    world.lose(client);
    world.pass_ms(1000);
    world.connect("c", &stored(false));
    let counts = "subscriptions 2 inflight 1 queued 2 awaiting 1";
    assert_eq!(log.take(), [format!("persistent 1 expiry 60 {counts} created {created}")]);
}

// session.subscribed comes once SUBACK has granted, with the filter, its options, and whether it is new;
// session.unsubscribed when it is gone.
#[test]
fn subscriptions_are_told_once_they_are_granted() {
    let mut world = World::new(1);
    let log = Log::default();
    let mut links = told(&log, &[HookPoint::SessionSubscribed, HookPoint::SessionUnsubscribed], |call| {
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
    let client = world.connect("c", &Ask::v(Version::V5));
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

// message.acked comes at PUBACK and at PUBCOMP, not before, with the message as it was delivered.
#[test]
fn an_acknowledged_message_is_told_at_puback_and_pubcomp() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        told(&log, &[HookPoint::MessageAcked], |call| {
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
    let sub = world.connect("sub", &Ask::v(Version::V5));
    world.subscribe(sub, "#", QoS::ExactlyOnce);
    let publisher = world.connect("pub", &Ask::v(Version::V5));
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
    told(log, &[HookPoint::MessageDropped], |call| {
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

// message.dropped says which message, for whom (`node` where it is for nobody), and why.
#[test]
fn every_drop_is_told_with_whom_and_why() {
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
    let publisher = world.connect("pub", &Ask::v(Version::V5));
    world.publish(publisher, "t", "nobody", QoS::AtMostOnce, 0);
    world.publish(publisher, "t", "hidden", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["t nobody by node of '' no_subscribers", "t hidden by node of '' hook"]);
    let small = Ask { properties: vec![Property::MaximumPacketSize(30)], ..Ask::v(Version::V5) };
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

// A shared message without an eligible member, and one that meets a full lane and cannot wait, are told as well.
#[test]
fn drops_between_shards_are_told() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(&mut world, drops(&log));
    let mut asks = Ask::v(Version::V5);
    asks.properties = vec![Property::SessionExpiry(60)];
    let member = world.connect("member", &asks);
    world.subscribe(member, "$share/g/t", QoS::AtLeastOnce);
    world.lose(member);
    let publisher = world.connect("pub", &Ask::v(Version::V5));
    for n in 0..1001 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, 1);
    }
    assert_eq!(log.take(), ["t 1000 by node of '' no_member"], "its queue is full");
}

// message.retained tells what was set, cleared and expired; clearing nothing is nothing.
#[test]
fn retained_messages_are_told_as_they_come_and_go() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        told(&log, &[HookPoint::MessageRetained], |call| {
            let change = call.number(Field::RETAINED_CHANGE).expect("it says which");
            format!("{change} {} {} from {}", call.topic(), call.payload(), call.text(Field::FROM))
        }),
    );
    let client = world.connect("c", &Ask::v(Version::V5));
    world.publish_with(client, "t", "a", QoS::AtMostOnce, 0, true, &[]);
    world.publish_with(client, "t", "", QoS::AtMostOnce, 0, true, &[]);
    world.publish_with(client, "t", "", QoS::AtMostOnce, 0, true, &[]);
    world.publish_with(client, "u", "b", QoS::AtMostOnce, 0, true, &[Property::MessageExpiry(1)]);
    world.pass_ms(3000);
    assert_eq!(log.take(), ["1 t a from c", "2 t a from c", "1 u b from c", "3 u b from c"]);
}

// packet.received and packet.sent are called with client, type and the raw bytes of every packet, CONNECT and CONNACK included.
#[test]
fn packets_are_told_with_their_bytes() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        told(&log, &[HookPoint::PacketReceived, HookPoint::PacketSent], |call| {
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
    let client = world.connect("c", &Ask::v(Version::V311));
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

// A link that stops a chain which only tells is the last one to hear of it.
#[test]
fn chains_that_only_tell_honour_stop() {
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
    world.connect("c", &Ask::v(Version::V5));
    assert_eq!(log.take(), ["first"]);
}

// Nothing can be changed at a point that only tells.
#[test]
fn what_is_told_cannot_be_changed() {
    let mut world = World::new(1);
    let log = Log::default();
    let seen = log.clone();
    let act = move |call: &mut Call<'_>| {
        seen.note(format!("{:?} {:?}", call.set(Field::TOPIC, 0, "u", ""), call.number(Field::VERDICT)));
        Flow::CONTINUE
    };
    mount(&mut world, vec![(HookPoint::MessageRetained, link(1, 0, FaultPolicy::Ignore, act))]);
    let client = world.connect("c", &Ask::v(Version::V5));
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
        told(&log, &points, |call| call.number(Field::MESSAGE_ID).expect("it has one").to_string()),
    );
    let sub = world.connect("sub", &Ask::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtLeastOnce);
    let publisher = world.connect("pub", &Ask::v(Version::V5));
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

// The broker's own points say its version, how long it has run, and where it listens.
#[test]
fn the_broker_tells_of_itself() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        told(&log, &[HookPoint::BrokerStarted], |call| {
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
    world.shards[0].tell_broker(HookPoint::BrokerStarted, broker);
    assert_eq!(log.take(), ["1.2.3 42 127.0.0.1:1883 [::1]:1883 -"]);
}

// client.unsubscribe sees the filters of the packet, and what it rewrites or refuses is what happens.
#[test]
fn filters_are_rewritten_and_refused_at_unsubscribe() {
    let mut world = World::new(1);
    let log = Log::default();
    let seen = log.clone();
    let act = move |call: &mut Call<'_>| {
        seen.note(format!(
            "{} of {} options {:?}",
            call.text(Field::FILTER),
            call.number(Field::FILTERS).expect("it says how many"),
            call.number(Field::FILTER_OPTIONS)
        ));
        let (field, number, bytes) = match call.text(Field::FILTER).as_str() {
            "a" => (Field::FILTER, 0, "inner/a"),
            "keep" => (Field::REASON_CODE, 0x83, ""),
            _ => return Flow::CONTINUE,
        };
        assert_eq!(change_at(call, Field::REASON_CODE, 0, 0x97, ""), Status::INVALID, "UNSUBACK has no 0x97");
        assert_eq!(change_at(call, field, 0, number, bytes), Status::OK);
        Flow::CONTINUE
    };
    mount(&mut world, vec![(HookPoint::ClientUnsubscribe, link(1, 0, FaultPolicy::Ignore, act))]);
    let client = world.connect("c", &Ask::v(Version::V5));
    for filter in ["a", "inner/a", "keep"] {
        world.subscribe(client, filter, QoS::AtMostOnce);
    }
    world.unsubscribe(client, "a");
    world.unsubscribe(client, "keep");
    world.unsubscribe(client, "other");
    assert_eq!(
        world.take(client),
        [Got::UnsubAck(8, vec![0]), Got::UnsubAck(8, vec![0x83]), Got::UnsubAck(8, vec![0x11])]
    );
    let unsupported = "options Err(UNSUPPORTED)";
    assert_eq!(log.take(), ["a", "keep", "other"].map(|filter| format!("{filter} of 1 {unsupported}")));
    for topic in ["a", "inner/a", "keep"] {
        world.publish(client, topic, "x", QoS::AtMostOnce, 0);
    }
    assert_eq!(world.take(client), [message("a", "x", 0), message("keep", "x", 0)]);
}

fn change_at(call: &Call<'_>, field: Field, index: u32, number: u64, bytes: &str) -> Status {
    let bytes = Slice::of(bytes.as_bytes());
    let change = Change { field, index, number, bytes, key: Slice::EMPTY };
    // SAFETY: the context is that of the running event.
    unsafe { (host_api(1, 1).set)(call.event.ctx, &change) }
}

// client.subscribe reads every filter with its group, and the packet's identifier and user properties.
#[test]
fn a_subscribe_is_read_whole() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        told(&log, &[HookPoint::ClientSubscribe], |call| {
            format!(
                "{} filters, {} group {}, {} group {}, id {:?}, {} properties",
                call.number(Field::FILTERS).expect("it says how many"),
                call.text_at(Field::FILTER, 0),
                call.text_at(Field::SHARE_GROUP, 0),
                call.text_at(Field::FILTER, 1),
                call.text_at(Field::SHARE_GROUP, 1),
                call.number(Field::SUBSCRIPTION_ID),
                call.number(Field::USER_PROPERTIES).expect("it says how many"),
            )
        }),
    );
    let client = world.connect("c", &Ask::v(Version::V5));
    let (mut payload, mut section) = (Vec::new(), Vec::new());
    push_subscription(&mut payload, "a/+", SubscriptionOptions::default());
    push_subscription(&mut payload, "$share/g/b", SubscriptionOptions::default());
    push_property(&mut section, Property::SubscriptionId(5));
    push_property(&mut section, Property::User("k", "v"));
    let (properties, filters) = (Properties::from_encoded(&section), Filters::from_encoded(&payload));
    world.send(client, &Packet::Subscribe(Subscribe { packet_id: id(7), properties, filters }));
    assert_eq!(log.take(), ["2 filters, a/+ group -, $share/g/b group g, id Ok(5), 1 properties"]);
}

/// The properties of the CONNACK that a client got, and its code.
fn connack(world: &mut World, client: usize) -> (u8, Vec<String>) {
    let bytes = world.take_raw(client);
    let frame = codec::frame(&bytes, u32::MAX).expect("it is whole").expect("CONNACK has come");
    let Ok(Packet::ConnAck(connack)) = codec::decode(&frame, Version::V5) else { panic!("no CONNACK") };
    (connack.code, connack.properties.iter().map(|property| format!("{property:?}")).collect())
}

fn ask_connack(world: &mut World, client_id: &str, ask: &Ask<'_>) -> (usize, u8, Vec<String>) {
    let client = world.open(ask.version);
    world.send_connect(client, client_id, ask);
    let (code, properties) = connack(world, client);
    (client, code, properties)
}

// The accumulator of client.connack is the CONNACK's properties as they will be sent; what a link sets there is sent, and holds.
#[test]
fn connack_is_sent_as_the_links_leave_it_and_what_it_grants_holds() {
    let mut world = World::new(1);
    let log = Log::default();
    let seen = log.clone();
    let act = move |call: &mut Call<'_>| {
        seen.note(format!(
            "present {:?} code {:?} assigned {} keep alive {:?} expiry {:?} receive {:?} aliases {:?}",
            call.number(Field::SESSION_PRESENT).expect("it says so"),
            call.number(Field::REASON_CODE).expect("it says so"),
            call.text(Field::ASSIGNED_CLIENT_ID).starts_with("grapnel-"),
            call.number(Field::KEEP_ALIVE_S).expect("it says so"),
            call.number(Field::SESSION_EXPIRY_S).expect("it says so"),
            call.number(Field::RECEIVE_MAXIMUM).expect("it says so"),
            call.number(Field::TOPIC_ALIAS_MAXIMUM).expect("it says so"),
        ));
        for (field, number) in [
            (Field::KEEP_ALIVE_S, 2),
            (Field::SESSION_EXPIRY_S, 5),
            (Field::RECEIVE_MAXIMUM, 1),
            (Field::TOPIC_ALIAS_MAXIMUM, 1),
            (Field::MAXIMUM_PACKET_SIZE, 100),
        ] {
            assert_eq!(change_at(call, field, 0, number, ""), Status::OK, "{field:?}");
        }
        for (field, number) in [
            (Field::RECEIVE_MAXIMUM, 65),
            (Field::RECEIVE_MAXIMUM, 0),
            (Field::TOPIC_ALIAS_MAXIMUM, 65),
            (Field::MAXIMUM_PACKET_SIZE, u64::MAX),
            (Field::MAXIMUM_PACKET_SIZE, 0),
        ] {
            assert_eq!(change_at(call, field, 0, number, ""), Status::INVALID, "{field:?}");
        }
        assert_eq!(change_at(call, Field::SERVER_REFERENCE, 0, 0, "b:1"), Status::INVALID);
        assert_eq!(change_at(call, Field::SESSION_PRESENT, 0, 1, ""), Status::UNSUPPORTED);
        assert_eq!(change_at(call, Field::REASON_STRING, 0, 0, "hello"), Status::OK);
        assert_eq!(call.set(Field::USER_PROPERTY, 0, "v", "k"), Status::OK);
        assert_eq!(call.number(Field::USER_PROPERTIES), Ok(1));
        let wanted = call.number(Field::REQUEST_RESPONSE_INFO) == Ok(1);
        let answer = if wanted { Status::OK } else { Status::INVALID };
        assert_eq!(change_at(call, Field::RESPONSE_INFO, 0, 0, "answers"), answer);
        Flow::CONTINUE
    };
    let silent = |call: &mut Call<'_>| {
        assert_eq!(change_at(call, Field::REASON_STRING, 0, 0, "lost"), Status::OK);
        Flow::FAULT
    };
    mount(
        &mut world,
        vec![
            (HookPoint::ClientConnack, link(1, 1, FaultPolicy::Ignore, act)),
            (HookPoint::ClientConnack, link(2, 0, FaultPolicy::Ignore, silent)),
        ],
    );
    let ask = Ask {
        keep_alive_s: 60,
        properties: vec![Property::SessionExpiry(60), Property::RequestResponseInfo(true)],
        ..Ask::v(Version::V5)
    };
    let (client, code, properties) = ask_connack(&mut world, "", &ask);
    let first = "present 0 code 0 assigned true keep alive 60 expiry 60 receive 64 aliases 64";
    assert_eq!((code, log.take()), (0, vec![first.to_owned()]));
    for expected in [
        "ReceiveMaximum(1)",
        "MaximumPacketSize(100)",
        "TopicAliasMaximum(1)",
        "ServerKeepAlive(2)",
        "SessionExpiry(5)",
        "ReasonString(\"hello\")",
        "User(\"k\", \"v\")",
        "ResponseInfo(\"answers\")",
    ] {
        assert_eq!(properties.iter().filter(|p| *p == expected).count(), 1, "{expected}: {properties:?}");
    }
    world.pass_ms(2000);
    assert!(!world.is_closed(client), "one and a half times two seconds are not over");
    world.pass_ms(2000);
    assert_eq!(world.take(client), [Got::Disconnect(0x8D)], "the keep alive that was granted holds");
    assert_eq!(world.shards[0].counters().sessions_count, 1);
    world.pass_ms(6000);
    assert_eq!(world.shards[0].counters().sessions_count, 0, "so does the session expiry");

    let client = world.connect("c", &Ask::v(Version::V5));
    world.publish(client, "t", &"x".repeat(100), QoS::AtMostOnce, 0);
    assert_eq!(world.take(client), [Got::Disconnect(0x95)], "so does the Maximum Packet Size");
    let client = world.connect("d", &Ask::v(Version::V5));
    world.publish_with(client, "t", "x", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(2)]);
    assert_eq!(world.take(client), [Got::Disconnect(0x94)], "so does the Topic Alias Maximum");
    let client = world.connect("e", &Ask::v(Version::V5));
    world.publish(client, "t", "x", QoS::ExactlyOnce, 1);
    world.publish(client, "t", "x", QoS::ExactlyOnce, 2);
    assert_eq!(
        world.take(client),
        [Got::Ack("PUBREC", 1, 0x10), Got::Disconnect(0x93)],
        "so does the Receive Maximum"
    );
}

// client.connack runs on refusals too, with the reason; the refused get a reason string, user properties and, where the reason
// is another server, its name. Clients of 3.1.1 get what they know.
#[test]
fn a_refusing_connack_is_the_links_to_fill_in() {
    let mut world = World::new(1);
    let refuse = |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 2, "", "");
        call.set(Field::REASON_CODE, 0x9C, "", "");
        Flow::STOP
    };
    let log = Log::default();
    let seen = log.clone();
    let fill = move |call: &mut Call<'_>| {
        let code = call.number(Field::REASON_CODE).expect("there is one");
        seen.note(format!("{} {code:02x}", call.client()));
        assert_eq!(change_at(call, Field::SERVER_REFERENCE, 0, 0, "other:1883"), Status::OK);
        assert_eq!(change_at(call, Field::KEEP_ALIVE_S, 0, 5, ""), Status::UNSUPPORTED);
        Flow::CONTINUE
    };
    mount(
        &mut world,
        vec![
            (HookPoint::ClientConnect, link(1, 0, FaultPolicy::Ignore, refuse)),
            (HookPoint::ClientConnack, link(2, 0, FaultPolicy::Ignore, fill)),
        ],
    );
    let (_, code, properties) = ask_connack(&mut world, "c", &Ask::v(Version::V5));
    assert_eq!((code, properties), (0x9C, vec!["ServerReference(\"other:1883\")".to_owned()]));
    let (old, got) = world.try_connect("old", &Ask::v(Version::V311));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 3 }));
    assert!(world.is_closed(old));
    assert_eq!(log.take(), ["c 9c", "old 9c"]);
}

// Reason string and user properties give way to the client's Maximum Packet Size [MQTT-3.2.2-19] [MQTT-3.2.2-20].
#[test]
fn a_connack_that_would_be_too_large_loses_its_texts() {
    let mut world = World::new(1);
    let long = "x".repeat(200);
    let fill = move |call: &mut Call<'_>| {
        assert_eq!(change_at(call, Field::REASON_STRING, 0, 0, &long), Status::OK);
        assert_eq!(call.set(Field::USER_PROPERTY, 0, &long, "k"), Status::OK);
        Flow::CONTINUE
    };
    mount(&mut world, vec![(HookPoint::ClientConnack, link(1, 0, FaultPolicy::Ignore, fill))]);
    let ask = Ask { properties: vec![Property::MaximumPacketSize(100)], ..Ask::v(Version::V5) };
    let (_, code, properties) = ask_connack(&mut world, "c", &ask);
    assert_eq!(code, 0);
    assert!(properties.iter().all(|p| !p.starts_with("User") && !p.starts_with("Reason")), "{properties:?}");
}

// Conn info is all that CONNECT said, while the connection lasts; what is secret and the will are for connect and authenticate.
#[test]
fn conn_info_is_what_connect_said() {
    let mut world = World::new(1);
    let log = Log::default();
    let points = [HookPoint::ClientConnect, HookPoint::ClientConnected, HookPoint::ClientDisconnected];
    mount(
        &mut world,
        told(&log, &points, |call| {
            let number =
                |field| call.number(field).map_or_else(|status| format!("{status:?}"), |n| n.to_string());
            [
                call.text(Field::PROTO_NAME),
                number(Field::PROTO_VER),
                call.text(Field::SOCK_HOST),
                number(Field::SOCK_PORT),
                call.text(Field::LISTENER),
                number(Field::MAXIMUM_PACKET_SIZE),
                number(Field::TOPIC_ALIAS_MAXIMUM),
                number(Field::REQUEST_RESPONSE_INFO),
                number(Field::REQUEST_PROBLEM_INFO),
                number(Field::USER_PROPERTIES),
                number(Field::ANONYMOUS),
                number(Field::TLS_SUBJECT),
                number(Field::MOUNTPOINT),
                call.text(Field::WILL_TOPIC),
                number(Field::WILL_QOS),
            ]
            .join(" ")
        }),
    );
    let ask = Ask {
        will: Some(("bye", "x", QoS::AtLeastOnce, true)),
        properties: vec![
            Property::MaximumPacketSize(5000),
            Property::TopicAliasMaximum(3),
            Property::RequestProblemInfo(false),
            Property::User("a", "1"),
            Property::User("b", "2"),
        ],
        ..Ask::v(Version::V5)
    };
    let client = world.connect("c", &ask);
    world.lose(client);
    let info = "MQTT 5 127.0.0.1 1883 test 5000 3 0 0 2 1 ABSENT ABSENT";
    let later = format!("{info} - ABSENT");
    assert_eq!(log.take(), [format!("{info} bye 1"), later.clone(), later]);
}

// A client that somebody vouched for is not anonymous.
#[test]
fn a_client_that_was_allowed_is_not_anonymous() {
    let mut world = World::new(1);
    let log = Log::default();
    let mut links = told(&log, &[HookPoint::ClientConnected], |call| {
        call.number(Field::ANONYMOUS).expect("every client is or is not").to_string()
    });
    let allow = |call: &mut Call<'_>| {
        if call.client() == "known" {
            call.set(Field::VERDICT, 1, "", "");
        }
        Flow::CONTINUE
    };
    links.push((HookPoint::ClientAuthenticate, link(9, 0, FaultPolicy::Deny, allow)));
    mount(&mut world, links);
    world.connect("known", &Ask::v(Version::V5));
    world.connect("unknown", &Ask::v(Version::V5));
    assert_eq!(log.take(), ["0", "1"]);
}

// The accumulator of client.connect is the properties of CONNECT: what a link changes there, later links, later points and the
// connection itself see. What CONNECT could not say is refused.
#[test]
fn the_properties_of_connect_can_be_changed() {
    let mut world = World::new(1);
    let log = Log::default();
    let numbers = |call: &Call<'_>| {
        let number =
            |field| call.number(field).map_or_else(|status| format!("{status:?}"), |n| n.to_string());
        [
            call.point().name().to_owned(),
            number(Field::RECEIVE_MAXIMUM),
            number(Field::MAXIMUM_PACKET_SIZE),
            number(Field::TOPIC_ALIAS_MAXIMUM),
            number(Field::REQUEST_RESPONSE_INFO),
            number(Field::USER_PROPERTIES),
        ]
        .join(" ")
    };
    let mut links = told(&log, &[HookPoint::ClientConnected], numbers);
    let act = |call: &mut Call<'_>| {
        for (field, number) in [
            (Field::RECEIVE_MAXIMUM, 1),
            (Field::MAXIMUM_PACKET_SIZE, 60),
            (Field::TOPIC_ALIAS_MAXIMUM, 2),
            (Field::REQUEST_RESPONSE_INFO, 1),
        ] {
            assert_eq!(change_at(call, field, 0, number, ""), Status::OK, "{field:?}");
            assert_eq!(call.number(field), Ok(number));
        }
        assert_eq!(change_at(call, Field::RECEIVE_MAXIMUM, 0, 0, ""), Status::INVALID);
        assert_eq!(change_at(call, Field::MAXIMUM_PACKET_SIZE, 0, 0, ""), Status::INVALID);
        assert_eq!(change_at(call, Field::REQUEST_PROBLEM_INFO, 0, 2, ""), Status::INVALID);
        assert_eq!(change_at(call, Field::AUTH_METHOD, 0, 0, "other"), Status::UNSUPPORTED);
        assert_eq!(change_at(call, Field::REASON_CODE, 0, 0x8D, ""), Status::INVALID, "CONNACK has no 0x8D");
        assert_eq!(call.set(Field::USER_PROPERTY, 0, "v", "k"), Status::OK);
        Flow::CONTINUE
    };
    links.push((HookPoint::ClientConnect, link(50, 1, FaultPolicy::Ignore, act)));
    let fault = |call: &mut Call<'_>| {
        assert_eq!(change_at(call, Field::RECEIVE_MAXIMUM, 0, 9, ""), Status::OK);
        Flow::FAULT
    };
    links.push((HookPoint::ClientConnect, link(51, 0, FaultPolicy::Ignore, fault)));
    for point in [HookPoint::ClientConnect, HookPoint::ClientAuthenticate] {
        let log = log.clone();
        let see = move |call: &mut Call<'_>| {
            log.note(numbers(call));
            Flow::CONTINUE
        };
        links.push((point, link(52 + point as u32, -1, FaultPolicy::Ignore, see)));
    }
    mount(&mut world, links);
    let ask = Ask { properties: vec![Property::User("a", "1")], ..Ask::v(Version::V5) };
    let client = world.connect("c", &ask);
    let changed = ["client.connect", "client.authenticate", "client.connected"];
    assert_eq!(log.take(), changed.map(|point| format!("{point} 1 60 2 1 2")));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let publisher = world.connect("p", &Ask::v(Version::V311));
    world.publish(publisher, "t", "1", QoS::AtLeastOnce, 1);
    world.publish(publisher, "t", "2", QoS::AtLeastOnce, 2);
    world.publish(publisher, "t", &"x".repeat(60), QoS::AtMostOnce, 0);
    assert_eq!(world.take(client).len(), 1, "its Receive Maximum and its Maximum Packet Size hold");
}
