//! Retained messages: stored, replaced, removed, and sent as the subscription options say.

use grapnel_tests::wire::{RETAIN_AS_PUBLISHED, RETAINED_IF_NEW, RETAINED_NEVER};
use grapnel_tests::{Client, Publish, Subscribe, Version, scenario};

fn retain(broker: &grapnel_tests::Broker, version: Version, topic: &str, payload: &str) {
    let mut client = Client::hello(broker, version, "keeper");
    client.publish(&Publish::new(topic, payload).qos(1).retain());
    client.disconnect();
}

scenario! {
    /// [MQTT-3.3.1-5], -6, -7, -8: one message per topic; the newest one is stored; QoS 0 may be
    /// stored, and is here; an empty one removes it and is itself not stored.
    fn one_message_for_a_topic(broker, version) {
        retain(broker, version, "r/a", "old");
        retain(broker, version, "r/a", "new");
        retain(broker, version, "r/b", "b");
        retain(broker, version, "r/gone", "x");
        retain(broker, version, "r/gone", "");
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("r/zero", "zero").retain());
        publisher.publish(&Publish::new("r/b", "not retained").qos(1));
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("r/#", 1);
        let mut got: Vec<(String, String)> =
            (0..3).map(|_| subscriber.message()).map(|m| { assert!(m.retain); (m.topic.clone(), m.text()) }).collect();
        got.sort();
        let expected = [("r/a", "new"), ("r/b", "b"), ("r/zero", "zero")];
        assert_eq!(got, expected.map(|(t, p)| (t.to_owned(), p.to_owned())));
        subscriber.expect_no_message();
    }
}

scenario! {
    /// Section 3.3.1.3: live deliveries have RETAIN 0, unless the subscription has Retain As
    /// Published ([MQTT-3.3.1-12], -13).
    fn retain_flag_of_live_messages(broker) {
        let mut plain = Client::hello(broker, Version::V5, "plain");
        plain.subscribe("r", 1);
        let mut as_published = Client::hello(broker, Version::V5, "rap");
        as_published.subscribe("r", 1 | RETAIN_AS_PUBLISHED);
        let mut old = Client::hello(broker, Version::V311, "old");
        old.subscribe("r", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        publisher.publish(&Publish::new("r", "kept").qos(1).retain());
        publisher.publish(&Publish::new("r", "live").qos(1));
        publisher.publish(&Publish::new("r", "").qos(1).retain());
        let flags = |client: &mut Client| (0..3).map(|_| client.message().retain).collect::<Vec<bool>>();
        assert_eq!(flags(&mut plain), [false, false, false]);
        assert_eq!(flags(&mut old), [false, false, false]);
        assert_eq!(flags(&mut as_published), [true, false, true]);
    }
}

scenario! {
    /// [MQTT-3.3.1-9], -10, -11: Retain Handling 0 sends on every SUBSCRIBE, 1 on new ones only, 2
    /// never.
    fn retain_handling(broker) {
        retain(broker, Version::V5, "r", "kept");
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("r", 1 | RETAINED_NEVER);
        client.expect_no_message();
        client.subscribe("r", 1 | RETAINED_IF_NEW);
        client.expect_no_message();
        client.subscribe("r", 1);
        assert_eq!(client.message().text(), "kept");
        client.subscribe("r", 1);
        assert_eq!(client.message().text(), "kept");
        client.unsubscribe(&["r"]);
        client.subscribe("r", 1 | RETAINED_IF_NEW);
        assert_eq!(client.message().text(), "kept");
        client.expect_no_message();
    }
}

scenario! {
    /// [MQTT-3.8.4-3] of 3.1.1: subscribing again sends the retained messages again.
    fn a_repeated_subscribe_sends_retained_again(broker, version) {
        retain(broker, version, "r", "kept");
        let mut client = Client::hello(broker, version, "c");
        for _ in 0..3 {
            client.subscribe("r", 0);
            assert_eq!(client.message().text(), "kept");
        }
    }
}

scenario! {
    /// Section 3.8.4: several filters in one SUBSCRIBE work like several SUBSCRIBEs: each receives
    /// its retained messages.
    fn many_filters_in_one_subscribe(broker, version) {
        for n in 0..20 {
            retain(broker, version, &format!("r/{n}"), &n.to_string());
        }
        let mut client = Client::hello(broker, version, "c");
        let codes = client.subscribe_all(&Subscribe::to("r/1", 0).and("r/2", 1).and("r/+", 2));
        assert_eq!(codes, [0, 1, 2]);
        let mut got: Vec<u32> = (0..22).map(|_| client.message().text().parse().unwrap()).collect();
        got.sort_unstable();
        let mut expected: Vec<u32> = (0..20).chain([1, 2]).collect();
        expected.sort_unstable();
        assert_eq!(got, expected);
        client.expect_no_message();
    }
}

scenario! {
    /// Section 3.8.4: no retained messages for a shared subscription ([MQTT-3.8.4-4] and 4.8.2).
    fn a_shared_subscription_gets_no_retained_messages(broker) {
        retain(broker, Version::V5, "r", "kept");
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("$share/g/r", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        publisher.publish(&Publish::new("r", "last").qos(1));
        let before = client.messages_until("last");
        if !broker.mosquitto_differs("section 4.8.2", "sends retained messages to a shared subscription") {
            assert_eq!(before, []);
        }
    }
}

scenario! {
    /// Many retained messages and one wildcard: all are delivered once, and none after a newer one
    /// while they change.
    fn a_wildcard_finds_them_all_while_they_change(broker) {
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for n in 0..500 {
            publisher.publish(&Publish::new(&format!("many/{n}"), "0").retain());
        }
        publisher.ping();
        publisher.publish(&Publish::new("fence", "x").qos(1));
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        let id = subscriber.fresh_id();
        subscriber.send(&Subscribe::to("many/#", 1).and("end", 1).encode(Version::V5, id));
        for n in 0..500 {
            publisher.publish(&Publish::new(&format!("many/{n}"), "1").qos(1).retain());
        }
        publisher.publish(&Publish::new("end", "last").qos(1));
        let mut newest = std::collections::HashMap::new();
        let mut ended = false;
        while !ended || newest.len() < 500 || newest.values().any(|value| *value < 1) {
            let message = subscriber.message();
            if message.topic == "end" {
                ended = true;
                continue;
            }
            let value: u32 = message.text().parse().unwrap();
            let earlier = newest.insert(message.topic.clone(), value).unwrap_or(0);
            assert!(value >= earlier, "{}: {value} after {earlier}", message.topic);
        }
    }
}

scenario! {
    /// The retained QoS counts: delivered with the smaller of stored and granted QoS (section
    /// 3.8.4).
    fn retained_qos_is_the_smaller(broker, version) {
        let mut publisher = Client::hello(broker, version, "p");
        for qos in 0..=2 {
            publisher.publish(&Publish::new(&format!("r/{qos}"), "x").qos(qos).retain());
        }
        publisher.ping();
        for granted in 0..=2u8 {
            for stored in 0..=2u8 {
                let mut client = Client::hello(broker, version, "c");
                client.subscribe(&format!("r/{stored}"), granted);
                assert_eq!(client.message().qos, granted.min(stored));
                client.disconnect();
            }
        }
    }
}
