//! Sessions that outlive connections: session present, queues, expiry, discard, takeover.

use grapnel_tests::wire::property::*;
use grapnel_tests::wire::{Properties, Value};
use grapnel_tests::{Broker, Client, Connect, Packet, Publish, Version, scenario};

scenario! {
    /// [MQTT-3.2.2-2], -3 and [MQTT-3.1.2-4], -5, -6: session present is correct; a clean start
    /// discards the session.
    fn session_present_is_correct(broker, version) {
        let persistent = Connect::new(version, "who").persistent();
        let present = |connect: &Connect| {
            let (client, connack) = Client::attempt(broker, connect);
            assert_eq!(connack.code, 0);
            client.disconnect();
            connack.session_present
        };
        // MQTT 3.1 has no such flag: the byte is reserved (section 3.2 of 3.1).
        let yes = version != Version::V31;
        assert!(!present(&persistent));
        assert_eq!(present(&persistent), yes);
        assert!(!present(&Connect::new(version, "who")), "[MQTT-3.2.2-2]");
        assert!(!present(&persistent), "a clean session left nothing");
    }
}

scenario! {
    /// Subscriptions and QoS 1 and 2 messages are stored for an absent client, in order; QoS 0 need
    /// not be (section 4.1).
    fn messages_wait_for_a_stored_session(broker, version) {
        let connect = Connect::new(version, "away").persistent();
        let mut client = Client::connect(broker, &connect);
        client.subscribe("t/#", 2);
        client.disconnect();
        let mut publisher = Client::hello(broker, version, "p");
        for n in 0..100 {
            publisher.publish(&Publish::new(&format!("t/{n}"), n.to_string()).qos(1 + n % 2));
        }
        let mut client = Client::connect(broker, &connect);
        for n in 0..100 {
            let message = client.message();
            assert_eq!((message.text(), message.qos), (n.to_string(), 1 + n % 2));
        }
        publisher.publish(&Publish::new("t/live", "live").qos(1));
        assert_eq!(client.message().text(), "live");
    }
}

scenario! {
    /// A clean start discards subscriptions and queued messages ([MQTT-3.1.2-4]).
    fn a_clean_start_discards_the_session(broker, version) {
        let mut client = Client::connect(broker, &Connect::new(version, "fresh").persistent());
        client.subscribe("t", 1);
        client.drop_connection();
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("t", "missed").qos(1));
        let mut client = Client::hello(broker, version, "fresh");
        publisher.publish(&Publish::new("t", "unsubscribed").qos(1));
        client.subscribe("fence", 1);
        publisher.publish(&Publish::new("fence", "last").qos(1));
        assert_eq!(client.messages_until("last"), []);
    }
}

scenario! {
    /// [MQTT-3.1.2-23]: with a session expiry the session survives that long and no longer; absent
    /// is 0.
    fn session_expiry(broker) {
        let connect = |id: &str, seconds: Option<u32>| {
            let mut connect = Connect::new(Version::V5, id);
            connect.clean = false;
            if let Some(seconds) = seconds {
                connect.properties.push(SESSION_EXPIRY, Value::U32(seconds));
            }
            connect
        };
        let present = |connect: &Connect| {
            let (client, connack) = Client::attempt(broker, connect);
            client.drop_connection();
            connack.session_present
        };
        present(&connect("none", None));
        present(&connect("zero", Some(0)));
        present(&connect("second", Some(1)));
        present(&connect("minute", Some(60)));
        assert!(!present(&connect("none", None)));
        assert!(!present(&connect("zero", Some(0))));
        assert!(present(&connect("minute", Some(60))));
        // An expired keep alive of three seconds takes four and a half by the broker's own clock.
        let mut clock = Client::connect(broker, &Connect::new(Version::V311, "clock").keep_alive(3));
        clock.end();
        if !broker.mosquitto_differs("[MQTT-3.1.2-23]", "looks for expired sessions every five seconds or later") {
            assert!(!present(&connect("second", Some(1))), "[MQTT-4.1.0-2]");
        }
        assert!(present(&connect("minute", Some(60))));
    }
}

scenario! {
    /// Section 3.14.2.2.2: DISCONNECT may change the expiry, for instance to end a session at once
    /// or to prolong it.
    fn disconnect_may_change_the_expiry(broker) {
        let goodbye = |expiry: u32| Packet::Disconnect {
            code: 0,
            properties: Properties(vec![(SESSION_EXPIRY, Value::U32(expiry))]),
        };
        let connect = Connect::new(Version::V5, "changing").persistent();
        let mut client = Client::connect(broker, &connect);
        client.send_packet(&goodbye(0));
        client.end();
        let (mut client, connack) = Client::attempt(broker, &connect);
        assert!(!connack.session_present, "ended by DISCONNECT");
        client.send_packet(&goodbye(120));
        client.end();
        assert!(Client::attempt(broker, &connect).1.session_present, "kept by DISCONNECT");
    }
}

scenario! {
    /// A takeover of a stored session: subscriptions, unacknowledged and queued messages go to the
    /// new connection ([MQTT-3.1.4-3], -4).
    fn a_takeover_keeps_the_session(broker, version) {
        let connect = Connect::new(version, "heir").persistent();
        let mut first = Client::connect(broker, &connect);
        first.subscribe("t", 1);
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("t", "in flight").qos(1));
        assert_eq!(first.receive_publish().text(), "in flight");

        let (mut second, connack) = Client::attempt(broker, &connect);
        assert_eq!(connack.session_present, version != Version::V31);
        crate::connecting::taken_over(broker, &mut first);
        let again = second.message();
        assert_eq!((again.text().as_str(), again.dup), ("in flight", true));
        publisher.publish(&Publish::new("t", "live").qos(1));
        assert_eq!(second.message().text(), "live");
        second.expect_no_message();
    }
}

scenario! {
    /// Messages published during takeovers of one session are not lost and, with QoS 2, not
    /// duplicated.
    fn no_message_is_lost_in_a_series_of_takeovers(broker, version) {
        let connect = Connect::new(version, "relay").persistent();
        let mut client = Client::connect(broker, &connect);
        client.subscribe("t", 2);
        let mut publisher = Client::hello(broker, version, "p");
        let mut got = Vec::new();
        for n in 0..20 {
            publisher.publish(&Publish::new("t", n.to_string()).qos(2));
            let mut next = Client::connect(broker, &connect);
            // Messages that the old connection had received completely are not sent again.
            std::mem::swap(&mut client, &mut next);
            got.push(client.message().text());
        }
        let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(got, expected);
        client.expect_no_message();
    }
}

scenario! {
    /// A full queue drops exactly the messages beyond its limit: the newest are refused, the older
    /// ones stay.
    fn a_full_queue_keeps_its_messages(broker in Broker::builder().config("[limits]\nsession_queue_messages_max = 10\ninflight_max = 5").mosquitto("max_queued_messages 10\nmax_inflight_messages 5")) {
        let connect = Connect::new(Version::V311, "full").persistent();
        let mut client = Client::connect(broker, &connect);
        client.subscribe("t", 1);
        client.disconnect();
        let mut publisher = Client::hello(broker, Version::V311, "p");
        for n in 0..40 {
            publisher.publish(&Publish::new("t", n.to_string()).qos(1));
        }
        let mut client = Client::connect(broker, &connect);
        client.subscribe("fence", 1);
        let mut got = Vec::new();
        for _ in 0..10 {
            got.push(client.message().text());
        }
        let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(got, expected);
        publisher.publish(&Publish::new("t", "after").qos(1));
        loop {
            // The broker may count places in flight in addition to those of the queue.
            let text = client.message().text();
            if text == "after" {
                break;
            }
            assert!(text.parse::<u32>().unwrap() < 15, "{text}");
        }
    }
}

scenario! {
    /// A session of MQTT 3.1.1 is resumed by MQTT 5 and back: one identifier, one session.
    fn a_session_can_be_resumed_with_another_version(broker) {
        let mut client = Client::connect(broker, &Connect::new(Version::V311, "upgrade").persistent());
        client.subscribe("t", 1);
        client.disconnect();
        let mut publisher = Client::hello(broker, Version::V5, "p");
        publisher.publish(&Publish::new("t", "x").qos(1).with(USER_PROPERTY, Value::pair("k", "v")));
        let (mut client, connack) = Client::attempt(broker, &Connect::new(Version::V5, "upgrade").persistent());
        assert!(connack.session_present);
        assert_eq!(client.message().properties.user("k"), ["v"]);
        client.drop_connection();
        publisher.publish(&Publish::new("t", "y").qos(1).with(USER_PROPERTY, Value::pair("k", "v")));
        let (mut client, connack) = Client::attempt(broker, &Connect::new(Version::V311, "upgrade").persistent());
        assert!(connack.session_present);
        assert_eq!(client.message().text(), "y");
    }
}
