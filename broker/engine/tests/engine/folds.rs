//! Changes that links may make at the points with an accumulator other than a message: CONNECT,
//! CONNACK, SUBSCRIBE, UNSUBSCRIBE; and what they read of a connection there (the design's table of
//! hook points).

use grapnel_engine::codec;
use grapnel_engine::hook::{FaultPolicy, HookPoint};
use grapnel_engine::packet::{
    Filters, Packet, Properties, Property, QoS, Subscribe, SubscriptionOptions, Version, push_property,
    push_subscription,
};
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{Change, Field, Flow, Slice, Status};

use crate::hooks::{Call, Log, link, mount};
use crate::points::notified;
use crate::world::{ConnectRequest, Got, World, id, message};

// client.unsubscribe sees the filters of the packet, and its rewrites and refusals take effect.
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
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
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

// client.subscribe reads every filter with its group, and the packet's identifier and user
// properties.
#[test]
fn client_subscribe_sees_all_filters_and_properties() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        notified(&log, &[HookPoint::ClientSubscribe], |call| {
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
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let (mut payload, mut section) = (Vec::new(), Vec::new());
    push_subscription(&mut payload, "a/+", SubscriptionOptions::default());
    push_subscription(&mut payload, "$share/g/b", SubscriptionOptions::default());
    push_property(&mut section, Property::SubscriptionId(5));
    push_property(&mut section, Property::User("k", "v"));
    let (properties, filters) = (Properties::from_encoded(&section), Filters::from_encoded(&payload));
    world.send(client, &Packet::Subscribe(Subscribe { packet_id: id(7), properties, filters }));
    assert_eq!(log.take(), ["2 filters, a/+ group -, $share/g/b group g, id Ok(5), 1 properties"]);
}

/// The properties of the CONNACK that a client received, and its code.
fn connack(world: &mut World, client: usize) -> (u8, Vec<String>) {
    let bytes = world.take_raw(client);
    let frame = codec::frame(&bytes, u32::MAX).expect("it is whole").expect("CONNACK has come");
    let Ok(Packet::ConnAck(connack)) = codec::decode(&frame, Version::V5) else { panic!("no CONNACK") };
    (connack.code, connack.properties.iter().map(|property| format!("{property:?}")).collect())
}

fn request_connack(
    world: &mut World,
    client_id: &str,
    request: &ConnectRequest<'_>,
) -> (usize, u8, Vec<String>) {
    let client = world.open(request.version);
    world.send_connect(client, client_id, request);
    let (code, properties) = connack(world, client);
    (client, code, properties)
}

// The accumulator of client.connack contains the CONNACK's properties as they will be sent. Values
// that a link sets are sent, and apply.
#[test]
#[allow(clippy::too_many_lines, reason = "one scenario")]
fn values_that_links_set_in_connack_are_sent_and_apply() {
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
    let request = ConnectRequest {
        keep_alive_s: 60,
        properties: vec![Property::SessionExpiry(60), Property::RequestResponseInfo(true)],
        ..ConnectRequest::v(Version::V5)
    };
    let (client, code, properties) = request_connack(&mut world, "", &request);
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

    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.publish(client, "t", &"x".repeat(100), QoS::AtMostOnce, 0);
    assert_eq!(world.take(client), [Got::Disconnect(0x95)], "so does the Maximum Packet Size");
    let client = world.connect("d", &ConnectRequest::v(Version::V5));
    world.publish_with(client, "t", "x", QoS::AtMostOnce, 0, false, &[Property::TopicAlias(2)]);
    assert_eq!(world.take(client), [Got::Disconnect(0x94)], "so does the Topic Alias Maximum");
    let client = world.connect("e", &ConnectRequest::v(Version::V5));
    world.publish(client, "t", "x", QoS::ExactlyOnce, 1);
    world.publish(client, "t", "x", QoS::ExactlyOnce, 2);
    assert_eq!(
        world.take(client),
        [Got::Ack("PUBREC", 1, 0x10), Got::Disconnect(0x93)],
        "so does the Receive Maximum"
    );
}

// client.connack is also called for refusals, with the reason. The client gets a reason string,
// user properties and, if the reason is another server, its name. Clients of 3.1.1 get what their
// version has.
#[test]
fn links_can_fill_in_a_refusing_connack() {
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
    let (_, code, properties) = request_connack(&mut world, "c", &ConnectRequest::v(Version::V5));
    assert_eq!((code, properties), (0x9C, vec!["ServerReference(\"other:1883\")".to_owned()]));
    let (old, got) = world.try_connect("old", &ConnectRequest::v(Version::V311));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 3 }));
    assert!(world.is_closed(old));
    assert_eq!(log.take(), ["c 9c", "old 9c"]);
}

// Reason string and user properties are left out if CONNACK exceeds the client's Maximum Packet
// Size [MQTT-3.2.2-19] [MQTT-3.2.2-20].
#[test]
fn a_connack_that_would_be_too_large_is_sent_without_its_texts() {
    let mut world = World::new(1);
    let long = "x".repeat(200);
    let fill = move |call: &mut Call<'_>| {
        assert_eq!(change_at(call, Field::REASON_STRING, 0, 0, &long), Status::OK);
        assert_eq!(call.set(Field::USER_PROPERTY, 0, &long, "k"), Status::OK);
        Flow::CONTINUE
    };
    mount(&mut world, vec![(HookPoint::ClientConnack, link(1, 0, FaultPolicy::Ignore, fill))]);
    let request = ConnectRequest {
        properties: vec![Property::MaximumPacketSize(100)],
        ..ConnectRequest::v(Version::V5)
    };
    let (_, code, properties) = request_connack(&mut world, "c", &request);
    assert_eq!(code, 0);
    assert!(properties.iter().all(|p| !p.starts_with("User") && !p.starts_with("Reason")), "{properties:?}");
}

// Conn info has everything that CONNECT contained, while the connection lasts. Secrets and the will
// are visible only at connect and authenticate.
#[test]
fn conn_info_has_the_values_of_connect() {
    let mut world = World::new(1);
    let log = Log::default();
    let points = [HookPoint::ClientConnect, HookPoint::ClientConnected, HookPoint::ClientDisconnected];
    mount(
        &mut world,
        notified(&log, &points, |call| {
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
    let request = ConnectRequest {
        will: Some(("bye", "x", QoS::AtLeastOnce, true)),
        properties: vec![
            Property::MaximumPacketSize(5000),
            Property::TopicAliasMaximum(3),
            Property::RequestProblemInfo(false),
            Property::User("a", "1"),
            Property::User("b", "2"),
        ],
        ..ConnectRequest::v(Version::V5)
    };
    let client = world.connect("c", &request);
    world.lose(client);
    let info = "MQTT 5 127.0.0.1 1883 test 5000 3 0 0 2 1 ABSENT ABSENT";
    let later = format!("{info} - ABSENT");
    assert_eq!(log.take(), [format!("{info} bye 1"), later.clone(), later]);
}

// A client that a plugin allowed is not anonymous.
#[test]
fn a_client_that_was_allowed_is_not_anonymous() {
    let mut world = World::new(1);
    let log = Log::default();
    let mut links = notified(&log, &[HookPoint::ClientConnected], |call| {
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
    world.connect("known", &ConnectRequest::v(Version::V5));
    world.connect("unknown", &ConnectRequest::v(Version::V5));
    assert_eq!(log.take(), ["0", "1"]);
}

// The accumulator of client.connect contains the properties of CONNECT. Changes of a link are
// visible to later links, to later points and to the connection itself. A value that CONNECT could
// not have is refused.
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
    let mut links = notified(&log, &[HookPoint::ClientConnected], numbers);
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
    let request =
        ConnectRequest { properties: vec![Property::User("a", "1")], ..ConnectRequest::v(Version::V5) };
    let client = world.connect("c", &request);
    let changed = ["client.connect", "client.authenticate", "client.connected"];
    assert_eq!(log.take(), changed.map(|point| format!("{point} 1 60 2 1 2")));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    let publisher = world.connect("p", &ConnectRequest::v(Version::V311));
    world.publish(publisher, "t", "1", QoS::AtLeastOnce, 1);
    world.publish(publisher, "t", "2", QoS::AtLeastOnce, 2);
    world.publish(publisher, "t", &"x".repeat(60), QoS::AtMostOnce, 0);
    assert_eq!(world.take(client).len(), 1, "its Receive Maximum and its Maximum Packet Size hold");
}

// A plugin may refuse with any reason code; the client gets one that is valid for its packet
// [MQTT-3.4.2-1] [MQTT-3.9.3-2].
#[test]
fn a_refusal_reaches_the_client_with_a_code_that_its_packet_has() {
    let mut world = World::new(1);
    let deny = |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 2, "", "");
        let code = if call.topic() == "quota" { 0x97 } else { 0x8A };
        call.set(Field::REASON_CODE, code, "", "");
        Flow::STOP
    };
    mount(&mut world, vec![(HookPoint::ClientAuthorize, link(1, 0, FaultPolicy::Deny, deny))]);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    for (topic, code) in [("quota", 0x97), ("banned", 0x80)] {
        assert_eq!(world.subscribe(client, topic, QoS::AtMostOnce), [code]);
        world.publish(client, topic, "x", QoS::AtLeastOnce, 1);
        world.publish(client, topic, "x", QoS::ExactlyOnce, 2);
        assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, code), Got::Ack("PUBREC", 2, code)]);
    }
    let will =
        ConnectRequest { will: Some(("w", "x", QoS::AtMostOnce, false)), ..ConnectRequest::v(Version::V5) };
    let (_, got) = world.try_connect("w", &will);
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 0x8A }), "CONNACK has it");
}
