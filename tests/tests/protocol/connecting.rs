//! CONNECT and CONNACK: client identifiers, session present, keep alive, and the first packet.

use std::time::{Duration, Instant};

use grapnel_tests::wire::property::*;
use grapnel_tests::wire::{Properties, Value};
use grapnel_tests::{Broker, Client, Connect, Packet, Version, Will, scenario};

scenario! {
    /// [MQTT-3.1.3-6], [MQTT-3.1.3-7]: a client with an empty identifier gets a unique one, with
    /// which it can resume its session.
    fn an_empty_identifier_is_assigned(broker) {
        let connect = Connect::new(Version::V5, "").with(SESSION_EXPIRY, Value::U32(60));
        let (first, connack) = Client::attempt(broker, &connect);
        assert_eq!(connack.code, 0);
        let assigned = connack.properties.string(ASSIGNED_CLIENT_ID).expect("[MQTT-3.1.3-7]");
        assert!(!assigned.is_empty());
        let (_second, other) = Client::attempt(broker, &connect);
        assert_ne!(other.properties.string(ASSIGNED_CLIENT_ID), Some(assigned.clone()));

        first.drop_connection();
        let mut back = Connect::new(Version::V5, &assigned);
        back.clean = false;
        let (_client, connack) = Client::attempt(broker, &back);
        assert!(connack.session_present, "the session of the assigned identifier {assigned}");
        assert_eq!(connack.properties.string(ASSIGNED_CLIENT_ID), None, "not assigned this time");
    }
}

scenario! {
    /// MQTT 3.1.1 [MQTT-3.1.3-8]: an empty identifier with clean session 0 is refused with 2; with
    /// 1 it is accepted ([MQTT-3.1.3-6]). MQTT 3.1 (section 3.1): the identifier has at least one
    /// character, otherwise 2.
    fn an_empty_identifier_before_mqtt_5(broker) {
        let mut connect = Connect::new(Version::V311, "");
        assert_eq!(Client::attempt(broker, &connect).1.code, 0);
        connect.clean = false;
        let (mut client, connack) = Client::attempt(broker, &connect);
        assert_eq!(connack.code, 2);
        client.end();

        let (mut client, connack) = Client::attempt(broker, &Connect::new(Version::V31, ""));
        assert_eq!(connack.code, 2);
        client.end();
    }
}

scenario! {
    /// Identifiers of 23 bytes must be accepted ([MQTT-3.1.3-5]); we also accept longer ones and
    /// other characters than letters and digits.
    fn long_and_unusual_identifiers_are_accepted(broker, version) {
        for id in ["0123456789ABCDEFGHIJKLM", "a/b", "mit Umlaut ä", &"x".repeat(200), "$SYS", "#"] {
            Client::hello(broker, version, id).ping();
        }
    }
}

scenario! {
    /// [MQTT-3.1.0-1]: the first packet must be CONNECT; anything else ends the connection, without
    /// an answer.
    fn anything_before_connect_ends_the_connection(broker, version) {
        let publish = grapnel_tests::Publish::new("a", "b").encode(version);
        let subscribe = grapnel_tests::Subscribe::to("a", 0).encode(version, 1);
        for first in [&publish[..], &subscribe, &[0xC0, 0], &[0xE0, 0], &[0x40, 2, 0, 1], &[0xF0, 0], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut client = Client::dial(broker, version);
            client.send_anyway(first);
            assert_eq!(client.end(), None, "after {first:02x?}");
        }
    }
}

scenario! {
    /// [MQTT-3.1.0-2]: a second CONNECT is a protocol error.
    fn a_second_connect_ends_the_connection(broker, version) {
        let mut client = Client::hello(broker, version, "twice");
        client.send_anyway(&Connect::new(version, "twice").encode());
        let reason = client.end();
        if version.is_5() && !broker.mosquitto_differs("section 4.13.1", "closes without DISCONNECT") {
            assert_eq!(reason, Some(0x82), "section 4.13.1");
        }
    }
}

scenario! {
    /// [MQTT-3.1.2-1], -2: an unknown protocol level is refused with 1 in the 3.x form or 0x84, or
    /// just closed.
    fn an_unknown_level_is_refused(broker) {
        for level in [0u8, 1, 2, 6, 127] {
            let mut bytes = Connect::new(Version::V311, "old").encode();
            bytes[8] = level;
            let mut client = Client::dial(broker, Version::V311);
            client.send_anyway(&bytes);
            let answer = client.raw_until_closed();
            // A client with an unknown version may be answered in either form, or not at all.
            let forms: [&[u8]; 3] = [&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0], &[]];
            assert!(forms.contains(&answer.as_slice()), "level {level}: {answer:02x?}");
        }
    }
}

scenario! {
    /// [MQTT-3.1.2-24] (3.1.2-22 of 5.0): a silence of one and a half times the keep alive ends the
    /// connection; PINGREQ prevents that.
    fn silence_beyond_the_keep_alive_ends_the_connection(broker, version) {
        let mut lively = Client::connect(broker, &Connect::new(version, "lively").keep_alive(1));
        let mut silent = Client::connect(broker, &Connect::new(version, "silent").keep_alive(1));
        let start = Instant::now();
        // The second client pings until the silent one has been disconnected: only its pings keep
        // it connected.
        let reason = loop {
            lively.ping();
            match silent.next(Duration::from_millis(200)) {
                grapnel_tests::client::Event::Silence => assert!(start.elapsed() < Duration::from_secs(15)),
                grapnel_tests::client::Event::Packet(Packet::Disconnect { code, .. }) => break Some(code),
                other => {
                    assert_eq!(other, grapnel_tests::client::Event::Closed);
                    break None;
                }
            }
        };
        assert!(start.elapsed() >= Duration::from_millis(1400), "ended after {:?}", start.elapsed());
        lively.ping();
        if version.is_5() && !broker.mosquitto_differs("section 3.1.2.10", "closes without DISCONNECT 0x8D") {
            assert_eq!(reason, Some(0x8D));
        }
    }
}

scenario! {
    /// Keep alive 0 disables it ([MQTT-3.1.2-22]; a test cannot wait for that: it only checks that
    /// 0 is accepted).
    fn keep_alive_zero_is_accepted(broker, version) {
        Client::connect(broker, &Connect::new(version, "forever")).ping();
    }
}

scenario! {
    /// A connection that sends no CONNECT is closed after `connect_timeout_ms`, and so is one that
    /// sends half of it.
    fn a_connection_without_connect_is_closed(broker in Broker::builder().grapnel_only().config("[limits]\nconnect_timeout_ms = 300")) {
        let start = Instant::now();
        let mut silent = Client::dial(broker, Version::V5);
        let mut half = Client::dial(broker, Version::V5);
        half.send(&Connect::new(Version::V5, "half").encode()[..9]);
        let mut whole = Client::hello(broker, Version::V5, "whole");
        silent.end();
        half.end();
        assert!(start.elapsed() >= Duration::from_millis(290), "closed after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(10), "closed after {:?}", start.elapsed());
        whole.ping();
    }
}

scenario! {
    /// CONNECT in single bytes, and CONNECT with the next packets in one segment: TCP does not
    /// preserve packet boundaries.
    fn packets_may_arrive_in_any_segments(broker, version) {
        let mut slow = Client::dial(broker, version);
        for byte in Connect::new(version, "slow").encode() {
            slow.send(&[byte]);
        }
        assert!(matches!(slow.receive(), Packet::Connack { code: 0, .. }));

        let mut fast = Client::dial(broker, version);
        let mut all = Connect::new(version, "fast").encode();
        all.extend(grapnel_tests::Subscribe::to("a", 1).encode(version, 1));
        all.extend(grapnel_tests::Publish::new("a", "b").qos(1).id(2).encode(version));
        all.extend([0xC0, 0]);
        fast.send(&all);
        assert!(matches!(fast.receive(), Packet::Connack { code: 0, .. }));
        fast.receive_where("SUBACK", |p| matches!(p, Packet::Suback { .. }).then_some(()));
        fast.receive_where("PUBACK", |p| matches!(p, Packet::Puback(_)).then_some(()));
        fast.receive_where("PINGRESP", |p| matches!(p, Packet::Pingresp).then_some(()));
        assert_eq!(fast.message().text(), "b");
    }
}

scenario! {
    /// [MQTT-3.1.4-3]: CONNECT with an identifier in use ends the older connection, in MQTT 5 with
    /// DISCONNECT 0x8E.
    fn takeover_ends_the_older_connection(broker, version) {
        let mut first = Client::hello(broker, version, "same");
        for _ in 0..5 {
            let mut second = Client::hello(broker, version, "same");
            taken_over(broker, &mut first);
            second.ping();
            first = second;
        }
    }
}

scenario! {
    /// A takeover by a client of another version with the same identifier.
    fn takeover_works_across_versions(broker) {
        let mut first = Client::hello(broker, Version::V5, "polyglot");
        let mut second = Client::hello(broker, Version::V311, "polyglot");
        taken_over(broker, &mut first);
        let mut third = Client::hello(broker, Version::V31, "polyglot");
        taken_over(broker, &mut second);
        third.ping();
    }
}

/// [MQTT-3.1.4-3]: in MQTT 5 the older client receives the reason.
#[track_caller]
pub fn taken_over(broker: &Broker, client: &mut Client) {
    let reason = client.end();
    if !broker.mosquitto_differs("[MQTT-3.1.4-3]", "closes without DISCONNECT 0x8E") {
        assert_eq!(reason, client.version().is_5().then_some(0x8E));
    }
}

scenario! {
    /// Section 3.15.1: AUTH without an authentication method in CONNECT is a protocol error
    /// ([MQTT-4.12.0-6], -7).
    fn an_unexpected_auth_ends_the_connection(broker) {
        let mut client = Client::hello(broker, Version::V5, "auth");
        client.send(&[0xF0, 0]);
        let reason = client.end();
        if !broker.mosquitto_differs("section 4.13.1", "closes without DISCONNECT") {
            assert_eq!(reason, Some(0x82));
        }
    }
}

scenario! {
    /// Section 4.12: an unknown authentication method is refused with 0x8C.
    fn an_unknown_authentication_method_is_refused(broker) {
        let connect = Connect::new(Version::V5, "method").with(AUTH_METHOD, Value::text("NO-SUCH-METHOD"));
        let (mut client, connack) = Client::attempt(broker, &connect);
        assert_eq!(connack.code, 0x8C, "[MQTT-4.12.0-1]");
        client.end();
    }
}

scenario! {
    /// CONNACK of MQTT 5 contains a property only if it differs from the default (section 3.2.2.3),
    /// and never twice.
    fn connack_properties_are_valid(broker) {
        let (_client, connack) = Client::attempt(broker, &Connect::new(Version::V5, "curious"));
        let properties: &Properties = &connack.properties;
        assert_ne!(properties.number(RECEIVE_MAXIMUM), Some(0));
        assert_ne!(properties.number(MAXIMUM_PACKET_SIZE), Some(0));
        assert_eq!(properties.number(MAXIMUM_QOS), None, "QoS 2 is supported");
        assert_eq!(properties.string(ASSIGNED_CLIENT_ID), None);
        if !broker.mosquitto_differs("section 3.2.2.3.14", "sends 65535 for a client without keep alive") {
            assert_eq!(properties.find(SERVER_KEEP_ALIVE), None, "the client's keep alive stays");
        }
    }
}

scenario! {
    /// [MQTT-3.1.2-29]: Request Problem Information 0 allows reason strings and user properties on
    /// PUBLISH, CONNACK and DISCONNECT only.
    fn problem_information_can_be_declined(broker) {
        let connect = Connect::new(Version::V5, "terse").with(REQUEST_PROBLEM_INFO, Value::Byte(0));
        let mut client = Client::connect(broker, &connect);
        let id = client.fresh_id();
        client.send(&grapnel_tests::Subscribe::to("$share/g/ok", 0).encode(Version::V5, id));
        let Packet::Suback { properties, .. } = client.receive() else { panic!("SUBACK expected") };
        assert_eq!(properties.find(REASON_STRING), None);
        assert_eq!(properties.find(USER_PROPERTY), None);
    }
}

scenario! {
    /// A will's topic must be a topic name; QoS 3 in the flags is malformed ([MQTT-3.1.2-12]).
    fn a_bad_will_is_refused(broker, version) {
        let mut bytes = Connect::new(version, "w").will(Will::new("w", "x")).encode();
        bytes[9 + if version == Version::V31 { 2 } else { 0 }] |= 0x18;
        let mut client = Client::dial(broker, version);
        client.send(&bytes);
        refused_or_closed(&mut client, 0x81);

        let mut client = Client::dial(broker, version);
        client.send(&Connect::new(version, "w").will(Will::new("w/#", "x")).encode());
        refused_or_closed(&mut client, 0x90);
    }
}

/// Section 4.13.1: a server may answer a bad CONNECT with a CONNACK that carries the reason before
/// it closes.
fn refused_or_closed(client: &mut Client, code: u8) {
    if let grapnel_tests::client::Event::Packet(packet) = client.next(grapnel_tests::PATIENCE) {
        let Packet::Connack { code: got, .. } = packet else { panic!("{packet:?} instead of a refusal") };
        assert!(
            client.version().is_5() && (got == code || got == 0x81 || got == 0x82),
            "refused with {got:#04x}"
        );
        client.end();
    }
}
