//! Wills: when they are sent, when not, delayed, retained, with their properties.

use std::time::{Duration, Instant};

use grapnel_tests::wire::property::*;
use grapnel_tests::wire::{Properties, Value};
use grapnel_tests::{Broker, Client, Connect, Packet, Publish, Version, Will, scenario};

fn watcher(broker: &Broker) -> Client {
    let mut watcher = Client::hello(broker, Version::V5, "watcher");
    watcher.subscribe("will/#", 2);
    watcher.subscribe("fence", 1);
    watcher
}

/// Checks that no will has arrived by now.
fn no_will(broker: &Broker, watcher: &mut Client) {
    let mut publisher = Client::hello(broker, Version::V5, "fence publisher");
    publisher.publish(&Publish::new("fence", "last").qos(1));
    assert_eq!(watcher.messages_until("last"), [], "no will was due");
}

scenario! {
    /// [MQTT-3.1.2-8], -10: the will is sent once if the connection ends without DISCONNECT, and
    /// deleted by a normal DISCONNECT.
    fn a_will_is_sent_unless_its_client_disconnects(broker, version) {
        let mut watcher = watcher(broker);
        for qos in 0..=2 {
            let mut will = Will::new("will/x", "gone");
            will.qos = qos;
            Client::connect(broker, &Connect::new(version, "proper").will(will.clone())).disconnect();
            no_will(broker, &mut watcher);
            Client::connect(broker, &Connect::new(version, "vanishing").will(will)).drop_connection();
            let message = watcher.message();
            assert_eq!((message.text().as_str(), message.qos, message.retain), ("gone", qos, false));
            no_will(broker, &mut watcher);
        }
    }
}

scenario! {
    /// Section 3.1.2.5: the will is sent after a protocol error, an expired keep alive and a
    /// takeover.
    fn a_will_is_sent_after_an_error_a_timeout_or_a_takeover(broker, version) {
        let mut watcher = watcher(broker);
        let connect = Connect::new(version, "dying").will(Will::new("will/x", "gone"));
        let mut wrong = Client::connect(broker, &connect);
        wrong.send_anyway(&[0x00, 0x00]);
        wrong.end();
        assert_eq!(watcher.message().text(), "gone", "after a protocol error");

        let mut silent = Client::connect(broker, &connect.clone().keep_alive(1));
        silent.end();
        assert_eq!(watcher.message().text(), "gone", "after silence");

        let mut old = Client::connect(broker, &connect);
        let new = Client::hello(broker, version, "dying");
        old.end();
        assert_eq!(watcher.message().text(), "gone", "after a takeover");
        new.disconnect();
        no_will(broker, &mut watcher);
    }
}

scenario! {
    /// Section 3.14.2.1: DISCONNECT with 0x04 requests the will.
    fn a_will_is_sent_if_disconnect_requests_it(broker) {
        let mut watcher = watcher(broker);
        let mut client = Client::connect(broker, &Connect::new(Version::V5, "polite").will(Will::new("will/x", "gone")));
        client.send_packet(&Packet::Disconnect { code: 0x04, properties: Properties::default() });
        client.end();
        assert_eq!(watcher.message().text(), "gone");
    }
}

scenario! {
    /// [MQTT-3.1.2-14], -15: a retained will is stored as a retained message.
    fn a_retained_will_is_stored(broker, version) {
        let mut watcher = watcher(broker);
        let mut will = Will::new("will/status", "offline");
        (will.retain, will.qos) = (true, 1);
        Client::connect(broker, &Connect::new(version, "device").will(will)).drop_connection();
        assert_eq!(watcher.message().text(), "offline");
        let mut late = Client::hello(broker, version, "late");
        late.subscribe("will/status", 1);
        let message = late.message();
        assert_eq!((message.text().as_str(), message.retain), ("offline", true));
    }
}

scenario! {
    /// Will properties arrive with the message (section 3.1.3.2), except Will Delay Interval.
    fn will_properties_are_forwarded(broker) {
        let mut watcher = watcher(broker);
        let properties = vec![
            (PAYLOAD_FORMAT, Value::Byte(1)),
            (CONTENT_TYPE, Value::text("text/plain")),
            (RESPONSE_TOPIC, Value::text("answer")),
            (CORRELATION_DATA, Value::Binary(vec![1, 2, 3])),
            (USER_PROPERTY, Value::pair("a", "1")),
            (USER_PROPERTY, Value::pair("a", "2")),
        ];
        let will = properties.iter().fold(Will::new("will/x", "gone"), |will, (id, value)| will.with(*id, value.clone()));
        Client::connect(broker, &Connect::new(Version::V5, "rich").will(will.with(WILL_DELAY, Value::U32(0)))).drop_connection();
        let mut got = watcher.message().properties;
        got.0.sort_by_key(|(id, _)| *id);
        assert_eq!(got, Properties(properties));
    }
}

scenario! {
    /// [MQTT-3.1.3-9] and section 3.1.3.2.2: a delayed will waits; a return in time cancels it; the
    /// session's end sends it at once.
    fn a_delayed_will_waits(broker) {
        let mut watcher = watcher(broker);
        let will = Will::new("will/late", "gone").with(WILL_DELAY, Value::U32(2));
        let connect = Connect::new(Version::V5, "delayed").persistent().will(will);
        Client::connect(broker, &connect).drop_connection();
        no_will(broker, &mut watcher);
        // The return in time cancels it.
        let client = Client::connect(broker, &connect);
        let mut clock = Client::connect(broker, &Connect::new(Version::V311, "clock").keep_alive(3));
        clock.end();
        no_will(broker, &mut watcher);

        let start = Instant::now();
        client.drop_connection();
        assert_eq!(watcher.message().text(), "gone");
        let after = start.elapsed();
        assert!(after >= Duration::from_millis(950), "a delay of two seconds ended after {after:?}");
    }
}

scenario! {
    /// Section 3.1.3.2.2: the earlier of the delay and the end of the session counts.
    fn a_delayed_will_is_sent_when_its_session_ends(broker) {
        let mut watcher = watcher(broker);
        let will = |text: &str| Will::new("will/cut", text).with(WILL_DELAY, Value::U32(60));
        if broker.mosquitto_differs("section 3.1.3.2.2", "checks expired sessions late") {
            return;
        }
        let mut short = Connect::new(Version::V5, "short").will(will("expired"));
        short.properties.push(SESSION_EXPIRY, Value::U32(1));
        Client::connect(broker, &short).drop_connection();
        assert_eq!(watcher.message().text(), "expired");

        Client::connect(broker, &Connect::new(Version::V5, "none").will(will("no session"))).drop_connection();
        assert_eq!(watcher.message().text(), "no session");

        let connect = Connect::new(Version::V5, "kept").persistent().will(will("discarded"));
        Client::connect(broker, &connect).drop_connection();
        Client::hello(broker, Version::V5, "kept").disconnect();
        assert_eq!(watcher.message().text(), "discarded");
    }
}

scenario! {
    /// A takeover of a stored session: the will without delay is sent, the delayed one is not
    /// (section 3.1.4, note).
    fn a_takeover_sends_the_will_without_delay_only(broker) {
        let mut watcher = watcher(broker);
        for (delay, sent) in [(0, true), (60, false)] {
            let will = Will::new("will/x", "taken").with(WILL_DELAY, Value::U32(delay));
            let connect = Connect::new(Version::V5, "moving").persistent();
            let mut old = Client::connect(broker, &connect.clone().will(will));
            let new = Client::connect(broker, &connect);
            old.end();
            if sent && !broker.mosquitto_differs("section 3.1.4", "sends no will at a takeover that keeps the session") {
                assert_eq!(watcher.message().text(), "taken");
            }
            no_will(broker, &mut watcher);
            new.disconnect();
        }
    }
}
