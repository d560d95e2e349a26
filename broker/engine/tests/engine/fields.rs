//! Fields that a link may read, at points of each kind: every field of the ABI is read, and those
//! with a value are listed. A field that is not listed is absent, or does not belong to the point.

use grapnel_engine::hook::notification::BrokerView;
use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_engine::packet::{Packet, Property, QoS, SubscriptionOptions, Version};
use grapnel_plugin_abi::raw::{Field, Flow, Status};

use crate::hooks::{Call, Log, link, mount};
use crate::points::notified;
use crate::world::{ClientId, ConnectRequest, World};

fn sorted(lines: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().map(Into::into).collect();
    lines.sort();
    lines
}

/// Every field that has a value: its name and value. The number of the connection may be any but 0.
fn everything(call: &Call<'_>) -> String {
    let one = |(name, number): &(&str, u32)| {
        let value = match call.value(Field(*number), 0) {
            Ok(value) => value,
            Err(Status::ABSENT) => return Some(format!("{name} absent")),
            Err(_) => return None,
        };
        // SAFETY: the views are of the running event.
        let (key, text) = unsafe { (value.key.text(), value.bytes.text()) };
        if *name == "CONNECTION" {
            return Some(format!("{name} {}", u64::from(value.number > 0)));
        }
        Some(match (key, text) {
            ("", "") => format!("{name} {}", value.number),
            ("", text) => format!("{name} '{text}'"),
            (key, text) => format!("{name} '{key}' '{text}'"),
        })
    };
    sorted(Field::NAMES.iter().filter_map(one)).join("\n")
}

/// A client with a value in every field, some of which the broker reduces.
fn client(world: &mut World) -> ClientId {
    let request = ConnectRequest {
        clean: false,
        keep_alive_s: 60,
        username: Some("ann"),
        password: Some(b"secret"),
        will: Some(("will/topic", "gone", QoS::AtLeastOnce, true)),
        properties: vec![
            Property::SessionExpiry(500),
            Property::ReceiveMaximum(9),
            Property::MaximumPacketSize(5_000),
            Property::TopicAliasMaximum(7),
            Property::RequestResponseInfo(true),
            Property::User("key", "value"),
        ],
        ..ConnectRequest::v(Version::V5)
    };
    world.try_connect("c", &request).0
}

fn world() -> World {
    World::with(1, |limits| {
        limits.keep_alive_max_s = 30;
        limits.session_expiry_max_s = 100;
        limits.receive_max = 12;
        limits.packet_bytes_max = 6_000;
        limits.topic_alias_max = 5;
    })
}

/// The log of a point, without the fields of the client that every point has.
fn at(world: &mut World, point: HookPoint, happen: impl FnOnce(&mut World)) -> Vec<String> {
    let log = Log::default();
    mount(world, notified(&log, &[point], everything));
    happen(world);
    let first = log.take().into_iter().next().expect("the point was called");
    let common = [
        "CLIENT_ID ",
        "USERNAME ",
        "PEER_",
        "SOCK_",
        "LISTENER ",
        "PROTO_",
        "TLS_",
        "TRANSPORT ",
        "USERNAME_CERTIFIED ",
        "CONNECT_USERNAME ",
        "MOUNTPOINT ",
        "WILL_",
        "AUTH_",
    ];
    let own = first.lines().filter(|line| !common.iter().any(|common| line.starts_with(common)));
    own.map(str::to_owned).collect()
}

#[test]
fn client_connect_shows_the_values_that_would_be_granted() {
    let mut world = world();
    let log = Log::default();
    mount(&mut world, notified(&log, &[HookPoint::ClientAuthenticate], everything));
    client(&mut world);
    let expected = "\
CLIENT_ID 'c'
USERNAME 'ann'
PASSWORD 'secret'
PEER_HOST '127.0.0.1'
PEER_PORT 40000
SOCK_PORT 1883
LISTENER 'test'
PROTO_VER 5
CLEAN_START 0
KEEP_ALIVE_S 30
SESSION_EXPIRY_S 100
RECEIVE_MAXIMUM 9
CONNECTED_AT_MS 1700000000000
AUTH_METHOD absent
AUTH_DATA absent
IS_SUPERUSER 0
VERDICT 0
REASON_CODE 134
REASON_STRING absent
PROTO_NAME 'MQTT'
SOCK_HOST '127.0.0.1'
TRANSPORT 'tcp'
TLS_VERSION absent
TLS_CIPHER absent
TLS_SERVER_NAME absent
TLS_SUBJECT absent
TLS_COMMON_NAME absent
TLS_ALTERNATIVE_NAME absent
TLS_ALTERNATIVE_NAMES absent
TLS_ISSUER absent
TLS_SERIAL absent
TLS_FINGERPRINT absent
USERNAME_CERTIFIED 0
CONNECT_USERNAME 'ann'
MOUNTPOINT absent
ANONYMOUS 1
MAXIMUM_PACKET_SIZE 5000
TOPIC_ALIAS_MAXIMUM 7
REQUEST_RESPONSE_INFO 1
REQUEST_PROBLEM_INFO 1
SESSION_PRESENT 0
WILL_TOPIC 'will/topic'
WILL_PAYLOAD 'gone'
WILL_QOS 1
WILL_RETAIN 1
USER_PROPERTY 'key' 'value'
USER_PROPERTIES 1
CONNECTION 1
SESSION absent
SESSION_OWNER absent";
    assert_eq!(log.take(), [sorted(expected.lines()).join("\n")]);
}

#[test]
fn client_connack_shows_the_granted_values() {
    let mut world = world();
    let shown = at(&mut world, HookPoint::ClientConnack, |world| {
        client(world);
    });
    let expected = [
        "PASSWORD absent",
        "CLEAN_START 0",
        "KEEP_ALIVE_S 30",
        "SESSION_EXPIRY_S 100",
        "RECEIVE_MAXIMUM 12",
        "CONNECTED_AT_MS 1700000000000",
        "IS_SUPERUSER 0",
        "REASON_CODE 0",
        "REASON_STRING absent",
        "ANONYMOUS 1",
        "MAXIMUM_PACKET_SIZE 6000",
        "TOPIC_ALIAS_MAXIMUM 5",
        "REQUEST_RESPONSE_INFO 1",
        "REQUEST_PROBLEM_INFO 1",
        "RESPONSE_INFO absent",
        "SERVER_REFERENCE absent",
        "SESSION_PRESENT 0",
        "ASSIGNED_CLIENT_ID absent",
        "USER_PROPERTY absent",
        "USER_PROPERTIES 0",
        "CONNECTION 1",
        "SESSION 1",
    ];
    assert_eq!(shown, sorted(expected));
}

/// Fields of the client that every point after CONNACK has.
const CLIENT: [&str; 14] = [
    "PASSWORD absent",
    "CLEAN_START 0",
    "KEEP_ALIVE_S 30",
    "SESSION_EXPIRY_S 100",
    "RECEIVE_MAXIMUM 9",
    "CONNECTED_AT_MS 1700000000000",
    "IS_SUPERUSER 0",
    "ANONYMOUS 1",
    "MAXIMUM_PACKET_SIZE 5000",
    "TOPIC_ALIAS_MAXIMUM 7",
    "REQUEST_RESPONSE_INFO 1",
    "REQUEST_PROBLEM_INFO 1",
    "CONNECTION 1",
    "SESSION 1",
];

/// Fields of a point in addition to those of the client.
fn beside_client(shown: &[String]) -> Vec<&str> {
    shown.iter().map(String::as_str).filter(|line| !CLIENT.contains(line)).collect()
}

#[test]
fn the_fields_of_a_session_and_its_subscription_are_shown() {
    let mut world = world();
    let subscriber = client(&mut world);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    // One message in flight without acknowledgement, and one of the client that waits for PUBREL.
    world.publish(subscriber, "t", "x", QoS::AtLeastOnce, 1);
    world.publish(subscriber, "elsewhere", "x", QoS::ExactlyOnce, 2);
    world.take(subscriber);
    world.pass_ms(1_000);
    // QoS 2, Retain As Published, Retain Handling 1 (section 3.8.3.1).
    let options = SubscriptionOptions::from_byte(0b0001_1010).expect("options");
    let shown = at(&mut world, HookPoint::SessionSubscribed, |world| {
        world.subscribe_with(
            subscriber,
            "$share/group/f",
            SubscriptionOptions::of_qos(QoS::AtMostOnce),
            None,
        );
    });
    let session = [
        "SESSION_CREATED_AT_MS 1700000000000",
        "SESSION_PERSISTENT 1",
        "SESSION_SUBSCRIPTIONS 2",
        "SESSION_INFLIGHT 1",
        "SESSION_QUEUED 0",
        "SESSION_AWAITING_REL 1",
    ];
    let shared = ["TOPIC '$share/group/f'", "QOS 0", "FILTER '$share/group/f'", "FILTER_OPTIONS 0"];
    let rest = ["SUBSCRIPTION_ID absent", "SHARE_GROUP 'group'", "IS_NEW 1", "CAUSE absent", "FILTERS 1"];
    let user = ["USER_PROPERTY 'key' 'value'", "USER_PROPERTIES 1"];
    let of_subscription = |shown: &[String]| {
        let beside = beside_client(shown);
        let own = beside.iter().filter(|line| !user.contains(line)).map(|line| (*line).to_owned());
        own.collect::<Vec<_>>()
    };
    assert_eq!(of_subscription(&shown), sorted([&shared[..], &session, &rest].concat()));
    let shown = at(&mut world, HookPoint::SessionSubscribed, |world| {
        world.subscribe_with(subscriber, "t", options, Some(77));
    });
    let plain = ["TOPIC 't'", "QOS 2", "FILTER 't'", "FILTER_OPTIONS 26"];
    let rest = ["SUBSCRIPTION_ID 77", "SHARE_GROUP absent", "IS_NEW 0", "CAUSE absent", "FILTERS 1"];
    assert_eq!(of_subscription(&shown), sorted([&plain[..], &session, &rest].concat()));
    let shown = at(&mut world, HookPoint::SessionUnsubscribed, |world| {
        world.unsubscribe(subscriber, "t");
    });
    let rest =
        ["SUBSCRIPTION_ID 77", "SHARE_GROUP absent", "IS_NEW absent", "CAUSE 'unsubscribe'", "FILTERS 1"];
    let left =
        session.map(|line| if line.starts_with("SESSION_SUBS") { "SESSION_SUBSCRIPTIONS 1" } else { line });
    assert_eq!(of_subscription(&shown), sorted([&plain[..], &left, &rest].concat()));
}

/// A message with a value in every field.
fn publish(world: &mut World, client: ClientId, topic: &str, retain: bool) {
    let properties = [
        Property::PayloadFormat(1),
        Property::MessageExpiry(60),
        Property::ContentType("text"),
        Property::ResponseTopic("answer"),
        Property::CorrelationData(b"id"),
        Property::User("of", "message"),
    ];
    world.publish_with(client, topic, "payload", QoS::AtLeastOnce, 1, retain, &properties);
}

#[test]
fn message_publish_shows_all_fields_of_a_message() {
    let mut world = world();
    let publisher = client(&mut world);
    world.pass_ms(500);
    let message = |topic: &'static str, retain: &'static str, number: &'static str| {
        [
            topic,
            "PAYLOAD 'payload'",
            "QOS 1",
            retain,
            "CONTENT_TYPE 'text'",
            "RESPONSE_TOPIC 'answer'",
            "CORRELATION_DATA 'id'",
            "MESSAGE_EXPIRY_S 60",
            "PAYLOAD_FORMAT 1",
            "USER_PROPERTY 'of' 'message'",
            "FROM 'c'",
            "TIMESTAMP_MS 1700000000500",
            "SYS 0",
            number,
            "USER_PROPERTIES 1",
        ]
    };
    let shown = at(&mut world, HookPoint::MessagePublish, |world| publish(world, publisher, "t", false));
    let mut own = beside_client(&shown);
    own.retain(|line| {
        !["DUP 0", "DISPOSITION 0", "REASON_CODE absent", "REASON_STRING absent"].contains(line)
    });
    assert_eq!(own, sorted(message("TOPIC 't'", "RETAIN 0", "MESSAGE_ID 1")));
    let shown = at(&mut world, HookPoint::MessageDropped, |world| publish(world, publisher, "t", false));
    let dropped = ["CAUSE 'no_subscribers'", "DROPPED_BY 'node'"];
    let of_message = |shown: &[String], without: &[&str]| {
        let lines = shown.iter().filter(|line| !without.contains(&line.as_str()));
        lines.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of_message(&shown, &dropped), sorted(message("TOPIC 't'", "RETAIN 0", "MESSAGE_ID 2")));
    assert!(dropped.iter().all(|line| shown.iter().any(|one| one == line)), "{shown:?}");
    let shown = at(&mut world, HookPoint::MessageRetained, |world| publish(world, publisher, "r", true));
    let set = ["RETAINED_CHANGE 1"];
    assert_eq!(of_message(&shown, &set), sorted(message("TOPIC 'r'", "RETAIN 1", "MESSAGE_ID 3")));
    assert!(shown.iter().any(|line| line == set[0]), "{shown:?}");
    let shown = at(&mut world, HookPoint::MessageRetained, |world| {
        world.publish_with(publisher, "r", "", QoS::AtMostOnce, 0, true, &[]);
    });
    assert!(shown.iter().any(|line| line == "RETAINED_CHANGE 2"), "{shown:?}");
}

#[test]
fn packet_points_show_the_type_and_the_bytes() {
    let mut world = world();
    let client = client(&mut world);
    for (point, kind, bytes) in [(HookPoint::PacketReceived, 12, 2), (HookPoint::PacketSent, 13, 2)] {
        let shown = at(&mut world, point, |world| world.send(client, &Packet::PingReq));
        let of = |name: &str| shown.iter().find(|line| line.starts_with(name)).cloned();
        assert_eq!(of("PACKET_TYPE"), Some(format!("PACKET_TYPE {kind}")));
        assert_eq!(of("PACKET_BYTES"), Some(format!("PACKET_BYTES {bytes}")));
        assert!(of("PAYLOAD ").is_some());
    }
}

#[test]
fn broker_points_show_the_fields_of_the_broker() {
    let mut world = world();
    let listeners = ["127.0.0.1:1883".to_owned()];
    let shown = at(&mut world, HookPoint::BrokerStarted, |world| {
        let view = BrokerView { version: "1.2.3", uptime_ms: 45, listeners: &listeners };
        world.shards[0].notify_broker(HookPoint::BrokerStarted, view);
    });
    let expected = ["BROKER_VERSION '1.2.3'", "BROKER_UPTIME_MS 45", "BROKER_LISTENER '127.0.0.1:1883'"];
    assert_eq!(shown, sorted(expected));
}

/// A link at CONNACK sees what earlier links have granted, not the values before.
#[test]
fn a_link_at_connack_sees_the_values_that_the_previous_link_has_granted() {
    const GRANTS: [(Field, u64); 5] = [
        (Field::KEEP_ALIVE_S, 20),
        (Field::SESSION_EXPIRY_S, 50),
        (Field::RECEIVE_MAXIMUM, 11),
        (Field::MAXIMUM_PACKET_SIZE, 4_000),
        (Field::TOPIC_ALIAS_MAXIMUM, 3),
    ];
    let mut world = world();
    let log = Log::default();
    let seen = log.clone();
    let grants = link(1, 1, FaultPolicy::Ignore, |call: &mut Call<'_>| {
        for (field, number) in GRANTS {
            assert_eq!(call.set(field, number, "", ""), Status::OK);
        }
        Flow::CONTINUE
    });
    let next = link(2, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        for (field, _) in GRANTS {
            seen.note(call.number(field).map_or("-".into(), |number| number.to_string()));
        }
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::ClientConnack, grants), (HookPoint::ClientConnack, next)]);
    client(&mut world);
    assert_eq!(log.take(), GRANTS.map(|(_, number)| number.to_string()));
}

#[test]
fn a_message_shows_the_client_that_has_published_it() {
    let mut world = world();
    let publisher = client(&mut world);
    let shown = at(&mut world, HookPoint::MessagePublish, |world| publish(world, publisher, "t", false));
    for line in [
        "CLEAN_START 0",
        "KEEP_ALIVE_S 30",
        "SESSION_EXPIRY_S 100",
        "RECEIVE_MAXIMUM 9",
        "MAXIMUM_PACKET_SIZE 5000",
        "TOPIC_ALIAS_MAXIMUM 7",
        "REQUEST_RESPONSE_INFO 1",
        "REQUEST_PROBLEM_INFO 1",
        "CONNECTED_AT_MS 1700000000000",
        "IS_SUPERUSER 0",
        "ANONYMOUS 1",
        "CONNECTION 1",
        "SESSION 1",
    ] {
        assert!(shown.iter().any(|one| one == line), "{line} is not among {shown:?}");
    }
}
