//! Contents and effects of a PUBLISH: topics, properties, aliases, expiry, sizes.

use grapnel_tests::wire::property::*;
use grapnel_tests::wire::{Properties, Value};
use grapnel_tests::{Broker, Client, Connect, Publish, Version, scenario};

fn all_publish_properties() -> Properties {
    Properties(vec![
        (PAYLOAD_FORMAT, Value::Byte(1)),
        (MESSAGE_EXPIRY, Value::U32(1000)),
        (CONTENT_TYPE, Value::text("text/plain")),
        (RESPONSE_TOPIC, Value::text("answers/ä")),
        (CORRELATION_DATA, Value::Binary(vec![0, 255, 1, 254])),
        (USER_PROPERTY, Value::pair("key", "first")),
        (USER_PROPERTY, Value::pair("key", "second")),
        (USER_PROPERTY, Value::pair("", "")),
    ])
}

fn sorted(mut properties: Properties) -> Properties {
    // Only the order of user properties is significant ([MQTT-3.3.2-18]); a stable sort keeps it.
    properties.0.sort_by_key(|(id, _)| *id);
    properties
}

/// A broker whose clients may publish to topics that begin with `$`.
fn dollar_topics() -> grapnel_tests::broker::Builder {
    Broker::builder().config("[mqtt]\nallow_dollar_topics = true\n")
}

scenario! {
    /// Every property of PUBLISH is forwarded unaltered ([MQTT-3.3.2-4], -15, -16, -17, -18, -20),
    /// live, retained and queued.
    fn all_properties_arrive_unaltered(broker) {
        let queued = Connect::new(Version::V5, "queued").persistent();
        let mut sleeper = Client::connect(broker, &queued);
        sleeper.subscribe("p", 1);
        sleeper.drop_connection();
        let mut live = Client::hello(broker, Version::V5, "live");
        live.subscribe("p", 1);
        let mut publisher = Client::hello(broker, Version::V5, "publisher");
        let sent = Publish { properties: all_publish_properties(), ..Publish::new("p", "x").qos(1).retain() };
        publisher.publish(&sent);

        let mut sleeper = Client::connect(broker, &queued);
        let mut late = Client::hello(broker, Version::V5, "late");
        late.subscribe("p", 1);
        for (name, client) in [("live", &mut live), ("queued", &mut sleeper), ("retained", &mut late)] {
            let mut properties = client.message().properties;
            // [MQTT-3.3.2-6]: the expiry is the remaining time.
            let expiry = properties.number(MESSAGE_EXPIRY).expect("message expiry is forwarded");
            assert!((990..=1000).contains(&expiry), "{name}: {expiry} s left");
            for (id, value) in &mut properties.0 {
                if *id == MESSAGE_EXPIRY {
                    *value = Value::U32(1000);
                }
            }
            assert_eq!(sorted(properties), all_publish_properties(), "{name}");
        }
    }
}

scenario! {
    /// A publish of one version reaches subscribers of the others, without properties that their
    /// version does not have.
    fn clients_of_different_versions_exchange_messages(broker) {
        let mut subscribers: Vec<Client> =
            Version::ALL.iter().map(|v| Client::hello(broker, *v, &format!("s{v:?}"))).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("mix", 2);
        }
        for version in Version::ALL {
            let mut publisher = Client::hello(broker, version, "p");
            let mut publish = Publish::new("mix", format!("{version:?}")).qos(2);
            if version.is_5() {
                publish = publish.with(USER_PROPERTY, Value::pair("a", "b"));
            }
            publisher.publish(&publish);
            for subscriber in &mut subscribers {
                let message = subscriber.message();
                assert_eq!(message.text(), format!("{version:?}"));
                let expected = usize::from(version.is_5() && subscriber.version().is_5());
                assert_eq!(message.properties.0.len(), expected);
            }
        }
    }
}

scenario! {
    /// Section 4.7: levels, `+` and `#`, empty levels, and `a/#` also matching `a` ([MQTT-4.7.1-1],
    /// -2, -3).
    fn wildcards_match_as_the_specification_says(broker in dollar_topics(), version) {
        // Rows of section 4.7.1 and 4.7.3: filter, topics that match, topics that do not.
        let table: &[(&str, &[&str], &[&str])] = &[
            ("sport/tennis/player1/#", &["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"], &["sport/tennis/player2", "sport/tennis"]),
            ("sport/#", &["sport", "sport/x"], &["sports"]),
            ("#", &["a", "/", "a/b/c", "//"], &["$test/a"]),
            ("sport/tennis/+", &["sport/tennis/player1", "sport/tennis/"], &["sport/tennis/player1/ranking", "sport/tennis"]),
            ("sport/+", &["sport/"], &["sport"]),
            ("+/+", &["/finance"], &["finance", "/finance/x", "$test/x"]),
            ("/+", &["/finance"], &["finance", "//finance"]),
            ("+", &["finance"], &["/finance", "$test"]),
            ("+/monitor/clients", &["x/monitor/clients"], &["$test/monitor/clients"]),
            ("$test/#", &["$test", "$test/a"], &["test/a"]),
            ("$test/+/b", &["$test/a/b"], &["$test/b"]),
            ("a/+/#", &["a/b", "a/b/c"], &["a"]),
            ("+/b/+", &["a/b/c", "/b/"], &["a/b", "a/b/c/d"]),
            ("Accounts payable", &["Accounts payable"], &["ACCOUNTS PAYABLE", "Accounts"]),
            ("a//b", &["a//b"], &["a/b", "a/+/b2"]),
            ("ä/ö", &["ä/ö"], &["ä/o"]),
        ];
        let mut publisher = Client::hello(broker, version, "p");
        for (filter, matching, others) in table {
            let mut subscriber = Client::hello(broker, version, "s");
            subscriber.subscribe(filter, 1);
            subscriber.subscribe("fence", 1);
            for topic in matching.iter().chain(others.iter()).filter(|t| !t.contains(['+', '#'])) {
                publisher.publish(&Publish::new(topic, *topic).qos(1));
            }
            publisher.publish(&Publish::new("fence", "last").qos(1));
            let all = subscriber.messages_until("last");
            let mut got: Vec<&str> = all.iter().map(|m| m.topic.as_str()).filter(|t| *t != "fence").collect();
            got.dedup();
            assert_eq!(&got, matching, "filter {filter:?}");
            subscriber.disconnect();
        }
    }
}

scenario! {
    /// Section 3.3.2.3.4, from the client: an alias set by one PUBLISH stands for the topic until
    /// it is set again, on this connection only.
    fn a_clients_topic_alias_is_followed(broker) {
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("alias/#", 0);
        let (mut publisher, connack) = Client::attempt(broker, &Connect::new(Version::V5, "p"));
        let most = connack.properties.number(TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
        assert!(most >= 2, "this broker takes aliases");
        let alias = |topic: &str, alias: u16, text: &str| Publish::new(topic, text).with(TOPIC_ALIAS, Value::U16(alias));
        for publish in [
            alias("alias/one", 1, "set one"),
            alias("alias/two", most as u16, "set the last"),
            alias("", 1, "use one"),
            alias("", most as u16, "use the last"),
            alias("alias/three", 1, "set anew"),
            alias("", 1, "use anew").qos(1),
        ] {
            publisher.publish(&publish);
        }
        let topics: Vec<String> = (0..6).map(|_| subscriber.message()).map(|m| m.topic).collect();
        assert_eq!(topics, ["alias/one", "alias/two", "alias/one", "alias/two", "alias/three", "alias/three"]);

        // [MQTT-3.3.2-7]: it ends with the connection.
        let mut other = Client::hello(broker, Version::V5, "p2");
        other.send_anyway(&alias("", 1, "whose?").encode(Version::V5));
        assert!(matches!(other.end(), Some(0x82 | 0x94) | None));
    }
}

scenario! {
    /// Section 3.3.2.3.4, to the client: no alias above the client's maximum, none at all without
    /// one, and each stands for the topic it was set to ([MQTT-3.1.2-26], -27).
    fn the_servers_topic_aliases_are_right(broker) {
        let connect = Connect::new(Version::V5, "s").with(TOPIC_ALIAS_MAXIMUM, Value::U16(2));
        let mut aliased = Client::connect(broker, &connect);
        aliased.subscribe("t/#", 0);
        let mut plain = Client::hello(broker, Version::V5, "plain");
        plain.subscribe("t/#", 0);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        let mut known = std::collections::HashMap::new();
        for round in 0..40 {
            let topic = format!("t/{}", round % 5);
            publisher.publish(&Publish::new(&topic, &topic));
            let message = aliased.message();
            let alias = message.properties.number(TOPIC_ALIAS);
            assert!(alias.is_none_or(|a| (1..=2).contains(&a)), "{alias:?}");
            let means = match (message.topic.is_empty(), alias) {
                (true, Some(alias)) => known.get(&alias).cloned().expect("an alias that was set before"),
                (true, None) => panic!("neither topic nor alias"),
                (false, _) => message.topic.clone(),
            };
            if let Some(alias) = alias {
                known.insert(alias, means.clone());
            }
            assert_eq!(means, topic);
            let message = plain.message();
            assert_eq!((message.topic.as_str(), message.properties.find(TOPIC_ALIAS)), (topic.as_str(), None));
        }
    }
}

scenario! {
    /// [MQTT-3.3.2-5]: a queued message is delivered only if its expiry has not passed.
    fn an_expired_message_is_not_delivered(broker) {
        let connect = Connect::new(Version::V5, "late").persistent();
        let mut sleeper = Client::connect(broker, &connect);
        sleeper.subscribe("e/#", 1);
        sleeper.drop_connection();
        let mut publisher = Client::hello(broker, Version::V5, "p");
        let expiring = |topic: &str, seconds| Publish::new(topic, topic).qos(1).with(MESSAGE_EXPIRY, Value::U32(seconds));
        publisher.publish(&expiring("e/short", 1));
        publisher.publish(&expiring("e/long", 100));
        publisher.publish(&expiring("r", 1).retain());
        // Wait until a will with a delay of two seconds has arrived.
        wait_two_seconds(broker);
        let mut sleeper = Client::connect(broker, &connect);
        let message = sleeper.message();
        assert_eq!(message.topic, "e/long");
        let left = message.properties.number(MESSAGE_EXPIRY).unwrap();
        assert!((90..=98).contains(&left), "[MQTT-3.3.2-6]: {left} s left");

        let mut late = Client::hello(broker, Version::V5, "latecomer");
        late.subscribe("r", 1);
        late.expect_no_message();
    }
}

/// Waits two seconds without a sleep: the broker's own clock ends a silent client with that keep
/// alive.
fn wait_two_seconds(broker: &Broker) {
    let mut clock = Client::connect(broker, &Connect::new(Version::V311, "clock").keep_alive(2));
    clock.end();
}

scenario! {
    /// [MQTT-3.1.2-24], -25: a message above the client's Maximum Packet Size is not sent to it,
    /// and counts as delivered.
    fn the_clients_maximum_packet_size_is_respected(broker) {
        let connect = Connect::new(Version::V5, "small").with(MAXIMUM_PACKET_SIZE, Value::U32(100));
        let mut small = Client::connect(broker, &connect);
        small.subscribe("t", 1);
        let mut large = Client::hello(broker, Version::V5, "large");
        large.subscribe("t", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        publisher.publish(&Publish::new("t", vec![b'x'; 200]).qos(1));
        publisher.publish(&Publish::new("t", vec![b'x'; 200]));
        // First byte, remaining length, topic, id, properties: 1 + 1 + 3 + 2 + 1 around the
        // payload.
        publisher.publish(&Publish::new("t", vec![b'y'; 92]).qos(1));
        publisher.publish(&Publish::new("t", vec![b'z'; 93]).qos(1));
        publisher.publish(&Publish::new("t", "last").qos(1));
        let sizes: Vec<usize> = small.messages_until("last").iter().map(|m| m.payload.len()).collect();
        if !broker.mosquitto_differs("section 2.1.4", "sends a packet that is one byte too large") {
            assert_eq!(sizes, [92]);
        }
        let sizes: Vec<usize> = large.messages_until("last").iter().map(|m| m.payload.len()).collect();
        assert_eq!(sizes, [200, 200, 92, 93]);
    }
}

scenario! {
    /// One MiB in both directions, with each QoS, and empty payloads too ([MQTT-3.3.3]: zero length
    /// is valid).
    fn payloads_of_any_size(broker in Broker::builder().config("[limits]\npacket_bytes_max = 2000000\noutbound_bytes_max = 16000000"), version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("big", 2);
        let mut publisher = Client::hello(broker, version, "p");
        for size in [0, 1, 127, 128, 4095, 4096, 16_383, 16_384, 65_535, 65_536, 1_048_576] {
            for qos in 0..=2 {
                let payload: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
                publisher.publish(&Publish::new("big", &payload).qos(qos));
                let message = subscriber.message();
                assert_eq!(message.payload.len(), size);
                assert!(message.payload == payload, "{size} bytes with QoS {qos} arrived changed");
            }
        }
    }
}

scenario! {
    /// $-topics: if clients may use them, wildcards at the start do not match them
    /// ([MQTT-4.7.2-1]).
    fn wildcards_do_not_match_dollar_topics(broker in dollar_topics(), version) {
        let mut all = Client::hello(broker, version, "all");
        all.subscribe("#", 0);
        all.subscribe("+/x", 0);
        let mut own = Client::hello(broker, version, "own");
        own.subscribe("$own/#", 0);
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("$own/x", "mine").qos(1));
        publisher.publish(&Publish::new("fence", "last").qos(1));
        assert_eq!(own.message().text(), "mine");
        assert_eq!(all.messages_until("last"), []);
    }
}

scenario! {
    /// Otherwise clients cannot exchange messages through such topics (section 4.7.2): a publish is
    /// refused, and neither delivered nor stored.
    fn clients_cannot_publish_to_dollar_topics(broker in Broker::builder().grapnel_only()) {
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        for filter in ["$own/#", "$SYS/#", "fence"] {
            subscriber.subscribe(filter, 1);
        }
        for version in Version::ALL {
            let mut publisher = Client::hello(broker, version, "p");
            for (qos, topic) in [(0, "$SYS/x"), (1, "$SYS/x"), (2, "$own/x"), (1, "$own/x")] {
                let code = publisher.publish(&Publish::new(topic, "x").qos(qos).retain());
                assert_eq!(code, if version.is_5() && qos > 0 { 0x87 } else { 0 }, "{topic} {qos}");
            }
            publisher.publish(&Publish::new("fence", "last").qos(1));
            assert_eq!(subscriber.messages_until("last"), []);
        }
        let mut late = Client::hello(broker, Version::V5, "late");
        late.subscribe("$own/#", 1);
        late.expect_no_message();
        let metrics = broker.ctl_json(&["metrics"]);
        let refused = |row: &&serde_json::Value| row["name"] == "packets_publish_dollar_error";
        assert_eq!(metrics["metrics"].as_array().unwrap().iter().find(refused).unwrap()["value"], 12);
    }
}

scenario! {
    /// Fan-out to 500 clients: each receives every message once, in order.
    fn five_hundred_subscribers_get_everything(broker) {
        let mut subscribers: Vec<Client> =
            (0..500).map(|n| Client::hello(broker, Version::ALL[n % 3], &format!("s{n}"))).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("fan/out", 1);
        }
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for n in 0..10 {
            publisher.publish(&Publish::new("fan/out", n.to_string()).qos(n % 2));
        }
        for subscriber in &mut subscribers {
            let texts: Vec<String> = (0..10).map(|_| subscriber.message().text()).collect();
            assert_eq!(texts, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        }
    }
}

scenario! {
    /// Topics at the limits: 4 KiB long, 128 levels, every printable character.
    fn topics_at_the_limits(broker, version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("#", 0);
        let mut publisher = Client::hello(broker, version, "p");
        let deep = ["a"; 128].join("/");
        let long = "x".repeat(4096);
        for topic in [deep.as_str(), &long, "/", "//", " ", "a b", "日本語/тема", "!\"%&'()*,-.:;<=>?@[]^_`{|}~"] {
            publisher.publish(&Publish::new(topic, "x").qos(1));
            assert_eq!(subscriber.message().topic, topic);
        }
    }
}
