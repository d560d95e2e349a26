//! SUBSCRIBE and UNSUBSCRIBE: codes, options, identifiers, overlaps, and the guarantee of SUBACK.

use std::thread;

use grapnel_tests::wire::property::*;
use grapnel_tests::wire::{NO_LOCAL, Value};
use grapnel_tests::{Broker, Client, Publish, Subscribe, Version, scenario};

scenario! {
    /// [MQTT-3.8.4-6], -7: one code for each filter, in order, granting the requested QoS.
    fn one_code_for_each_filter(broker, version) {
        let mut client = Client::hello(broker, version, "c");
        let codes = client.subscribe_all(&Subscribe::to("a", 0).and("b/+", 1).and("c/#", 2).and("a", 2));
        assert_eq!(codes, [0, 1, 2, 2]);
    }
}

scenario! {
    /// Section 4.7.1: filters with misplaced wildcards are refused (0x8F or 0x80) or end the
    /// connection, and match nothing.
    fn bad_filters_are_refused(broker, version) {
        for filter in ["sport/tennis#", "sport/tennis/#/ranking", "sport+", "+a", "a/b+/c", "#/a", "", "##", "a/+#"] {
            let mut client = Client::hello(broker, version, "c");
            let id = client.fresh_id();
            client.send(&Subscribe::to(filter, 1).encode(version, id));
            match client.next(grapnel_tests::PATIENCE) {
                grapnel_tests::client::Event::Packet(grapnel_tests::Packet::Suback { codes, .. }) => {
                    assert_eq!(codes.len(), 1);
                    assert!(codes[0] >= 0x80, "{filter:?} was granted {:#04x}", codes[0]);
                }
                grapnel_tests::client::Event::Packet(grapnel_tests::Packet::Disconnect { code, .. }) => {
                    assert!([0x81, 0x82, 0x8F].contains(&code), "{filter:?}: {code:#04x}");
                }
                other => assert_eq!(other, grapnel_tests::client::Event::Closed, "{filter:?}"),
            }
        }
    }
}

scenario! {
    /// Bad share names: empty, with wildcards, without a filter ([MQTT-4.8.2-1], -2).
    fn bad_share_names_are_refused(broker) {
        for filter in ["$share//a", "$share/g+/a", "$share/#/a", "$share/g/", "$share/g"] {
            let mut client = Client::hello(broker, Version::V5, "c");
            let id = client.fresh_id();
            client.send(&Subscribe::to(filter, 1).encode(Version::V5, id));
            match client.next(grapnel_tests::PATIENCE) {
                grapnel_tests::client::Event::Packet(grapnel_tests::Packet::Suback { codes, .. }) => {
                    if !(codes[0] < 0x80 && broker.mosquitto_differs("[MQTT-4.8.2-2]", filter)) {
                        assert!(codes[0] >= 0x80, "{filter:?} was granted {:#04x}", codes[0]);
                    }
                }
                grapnel_tests::client::Event::Packet(grapnel_tests::Packet::Disconnect { code, .. }) => {
                    assert!([0x81, 0x82, 0x8F].contains(&code), "{filter:?}: {code:#04x}");
                }
                other => assert_eq!(other, grapnel_tests::client::Event::Closed, "{filter:?}"),
            }
        }
    }
}

scenario! {
    /// [MQTT-3.8.3-3]: No Local excludes the client's own messages, and no others.
    fn no_local(broker) {
        let mut client = Client::hello(broker, Version::V5, "self");
        client.subscribe("t", 1 | NO_LOCAL);
        client.subscribe("fence", 1);
        let mut other = Client::hello(broker, Version::V5, "other");
        client.publish(&Publish::new("t", "mine").qos(1));
        other.publish(&Publish::new("t", "theirs").qos(1));
        assert_eq!(client.message().text(), "theirs");
        client.publish(&Publish::new("fence", "last").qos(1));
        assert_eq!(client.messages_until("last"), []);
    }
}

scenario! {
    /// [MQTT-3.3.4-3], -4, -5: a message has the identifiers of all matching subscriptions, in one
    /// copy or in several.
    fn deliveries_have_the_subscription_identifier(broker) {
        let mut client = Client::hello(broker, Version::V5, "c");
        let subscribe = |filter: &str, id: u32| Subscribe::to(filter, 1).with(SUBSCRIPTION_ID, Value::Variable(id));
        client.subscribe_all(&subscribe("a/+", 1));
        client.subscribe_all(&subscribe("a/#", 268_435_455));
        client.subscribe_all(&Subscribe::to("+/b", 1));
        let mut publisher = Client::hello(broker, Version::V5, "p");
        publisher.publish(&Publish::new("a/b", "x").qos(1));
        publisher.publish(&Publish::new("a/b/c", "one").qos(1));
        let mut ids = Vec::new();
        let single = loop {
            let message = client.message();
            let mine = message.properties.all(SUBSCRIPTION_ID);
            if message.text() == "one" {
                break mine;
            }
            ids.extend(mine);
        };
        assert_eq!(single, [Value::Variable(268_435_455)]);
        ids.sort_by_key(|id| format!("{id:?}"));
        assert_eq!(ids, [Value::Variable(1), Value::Variable(268_435_455)]);

        // Section 3.8.4: a repeated filter replaces the options, and with them the identifier.
        client.subscribe_all(&subscribe("a/#", 7));
        publisher.publish(&Publish::new("a/b/c", "two").qos(1));
        assert_eq!(client.message().properties.all(SUBSCRIPTION_ID), [Value::Variable(7)]);
        client.subscribe_all(&Subscribe::to("a/#", 1));
        publisher.publish(&Publish::new("a/b/c", "three").qos(1));
        assert_eq!(client.message().properties.all(SUBSCRIPTION_ID), []);
    }
}

scenario! {
    /// [MQTT-3.3.4-2] and section 3.3.4: overlapping subscriptions deliver with the largest granted
    /// QoS; this broker sends one copy, as Mosquitto does.
    fn overlapping_subscriptions_deliver_the_largest_qos(broker, version) {
        let mut client = Client::hello(broker, version, "c");
        client.subscribe("a/#", 0);
        client.subscribe("a/+", 2);
        client.subscribe("a/b", 1);
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("a/b", "x").qos(2));
        publisher.publish(&Publish::new("a/b", "last").qos(2));
        let messages = client.messages_until("last");
        if broker.mosquitto_differs("[MQTT-3.3.4-2]", "takes the QoS of the first match; sends several copies in MQTT 5") {
            return;
        }
        assert_eq!(messages.iter().map(|m| m.qos).collect::<Vec<u8>>(), [2], "one copy for one client");
    }
}

scenario! {
    /// [MQTT-3.8.4-3]: a repeated filter replaces the subscription; there is never a second one.
    fn a_repeated_filter_replaces_the_subscription(broker, version) {
        let mut client = Client::hello(broker, version, "c");
        client.subscribe("t", 0);
        client.subscribe("t", 2);
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("t", "two").qos(2));
        // With two clients, only what one has received is certain to be before an action of the
        // other.
        let two = client.message();
        assert_eq!((two.text(), two.qos), ("two".to_owned(), 2));
        client.subscribe("t", 0);
        publisher.publish(&Publish::new("t", "zero").qos(2));
        publisher.publish(&Publish::new("t", "last").qos(2));
        let got: Vec<(String, u8)> = client.messages_until("last").iter().map(|m| (m.text(), m.qos)).collect();
        assert_eq!(got, [("zero".to_owned(), 0)]);
    }
}

scenario! {
    /// Section 3.10.4: UNSUBSCRIBE ends exactly the given filter; in MQTT 5 its code shows whether
    /// it existed ([MQTT-3.11.3-1]).
    fn unsubscribe_ends_only_the_same_filter(broker, version) {
        let mut client = Client::hello(broker, version, "c");
        client.subscribe("a/+", 1);
        client.subscribe("a/b", 1);
        let codes = client.unsubscribe(&["a/b", "a/#", "a/c"]);
        if version.is_5() {
            assert_eq!(codes, [0x00, 0x11, 0x11]);
        }
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("a/b", "x").qos(1));
        assert_eq!(client.message().text(), "x");
        client.unsubscribe(&["a/+"]);
        publisher.publish(&Publish::new("a/b", "y").qos(1));
        client.subscribe("fence", 1);
        publisher.publish(&Publish::new("fence", "last").qos(1));
        assert_eq!(client.messages_until("last"), []);
    }
}

scenario! {
    /// SUBACK is a guarantee: a message published after it was read is delivered, whatever the
    /// shards of publisher and subscriber.
    fn messages_published_after_suback_arrive(broker) {
        let mut publishers: Vec<Client> =
            (0..8).map(|n| Client::hello(broker, Version::V5, &format!("publisher {n}"))).collect();
        for round in 0..200 {
            let mut subscriber = Client::hello(broker, Version::V5, &format!("subscriber {round}"));
            let filter = if round % 2 == 0 { format!("promise/{round}") } else { format!("promise/{round}/#") };
            subscriber.subscribe(&filter, 0);
            let publisher = &mut publishers[round % 8];
            publisher.send_publish(&Publish::new(&format!("promise/{round}"), round.to_string()));
            assert_eq!(subscriber.message().text(), round.to_string());
        }
    }
}

scenario! {
    /// The second subscriber of a filter has the same guarantee as the first, while the first
    /// SUBACK is still under way.
    fn messages_published_after_suback_arrive_at_the_second_subscriber_too(broker) {
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for round in 0..50 {
            let topic = format!("pair/{round}");
            let mut pair: Vec<Client> =
                (0..4).map(|n| Client::hello(broker, Version::V5, &format!("{round} {n}"))).collect();
            let ids: Vec<u16> = pair.iter_mut().map(Client::fresh_id).collect();
            for (client, id) in pair.iter_mut().zip(&ids) {
                client.send(&Subscribe::to(&topic, 0).encode(Version::V5, *id));
            }
            // The last SUBACK is read first: its guarantee does not depend on the others.
            for client in pair.iter_mut().rev() {
                client.receive_where("SUBACK", |p| matches!(p, grapnel_tests::Packet::Suback { .. }).then_some(()));
                publisher.send_publish(&Publish::new(&topic, "x"));
                assert_eq!(client.message().text(), "x");
            }
        }
    }
}

scenario! {
    /// The guarantee holds for a filter that is subscribed again right after its end, although
    /// removal is deferred.
    fn a_filter_resubscribed_after_its_end_gets_every_message(broker) {
        let mut publisher = Client::hello(broker, Version::V5, "p");
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        for round in 0..100 {
            subscriber.subscribe("flicker/+", 0);
            publisher.send_publish(&Publish::new("flicker/x", round.to_string()));
            assert_eq!(subscriber.message().text(), round.to_string());
            subscriber.unsubscribe(&["flicker/+"]);
        }
    }
}

scenario! {
    /// Many clients subscribe and publish at the same time; each receives at least everything after
    /// its SUBACK, once.
    fn many_clients_subscribe_at_once(broker) {
        subscribe_at_once(broker);
    }
}

fn subscribe_at_once(broker: &Broker) {
    thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || {
                let mut client = Client::hello(broker, Version::ALL[n % 3], &format!("crowd {n}"));
                for round in 0..30 {
                    let topic = format!("crowd/{n}/{round}");
                    client.subscribe(&topic, 1);
                    client.publish(&Publish::new(&topic, "x").qos(1));
                    assert_eq!(client.message().topic, topic);
                }
                client.expect_no_message();
            });
        }
    });
}

scenario! {
    /// A client with many subscriptions receives each message once and can end all of them.
    fn a_thousand_subscriptions(broker, version) {
        let mut client = Client::hello(broker, version, "many");
        let filters: Vec<String> = (0..1000).map(|n| format!("m/{n}")).collect();
        let all = filters.iter().fold(Subscribe::default(), |subscribe, filter| subscribe.and(filter, 0));
        assert_eq!(client.subscribe_all(&all), vec![0; 1000]);
        let mut publisher = Client::hello(broker, version, "p");
        for n in [0, 499, 999] {
            publisher.publish(&Publish::new(&format!("m/{n}"), "x").qos(1));
            assert_eq!(client.message().topic, format!("m/{n}"));
        }
        let names: Vec<&str> = filters.iter().map(String::as_str).collect();
        client.unsubscribe(&names);
        publisher.publish(&Publish::new("m/1", "x").qos(1));
        client.subscribe("fence", 0);
        publisher.publish(&Publish::new("fence", "last").qos(1));
        assert_eq!(client.messages_until("last"), []);
    }
}
