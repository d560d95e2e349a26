//! Messages, retained messages and wills on every kind of listener, and sessions that move between
//! them.

use grapnel_tests::layers::websocket;
use grapnel_tests::{Client, Connect, Kind, Publish, Version, Will};

on_both! {
    /// Section 4.3: each QoS, from each listener to a plain client and back.
    fn every_qos_passes_every_listener(site) {
        let mut plain = site.hello(Kind::Tcp, Version::V5, "plain");
        plain.subscribe("to/plain/#", 2);
        for kind in Kind::ALL {
            for version in [Version::V311, Version::V5] {
                let mut client = site.hello(kind, version, &format!("{} {}", kind.name(), version.level()));
                client.subscribe("from/plain", 2);
                for qos in 0..=2 {
                    let name = format!("{kind:?} {version:?} {qos}");
                    assert_eq!(client.publish(&Publish::new("to/plain/x", &name).qos(qos)), 0, "{name}");
                    let got = plain.message();
                    assert_eq!((got.text(), got.qos), (name.clone(), qos));
                    assert_eq!(plain.publish(&Publish::new("from/plain", &name).qos(qos)), 0, "{name}");
                    let got = client.message();
                    assert_eq!((got.text(), got.qos), (name, qos));
                }
                client.disconnect();
            }
        }
    }
}

on_both! {
    /// [MQTT-3.3.1-5] and [MQTT-3.3.1-6]: stored and removed, seen through another listener.
    fn retained_messages_pass_every_listener(site) {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            let other = Kind::ALL[(place + 3) % Kind::ALL.len()];
            let mut client = site.hello(kind, Version::V5, "writer");
            // 0x10 is a success without subscribers.
            let is_success = |reason| matches!(reason, 0 | 0x10);
            assert!(is_success(client.publish(&Publish::new("kept/x", kind.name()).qos(1).retain())));
            let mut reader = site.hello(other, Version::V5, "reader");
            reader.subscribe("kept/#", 1);
            let got = reader.message();
            assert_eq!((got.text().as_str(), got.retain), (kind.name(), true), "{kind:?} to {other:?}");
            reader.disconnect();
            assert!(is_success(client.publish(&Publish::new("kept/x", "").qos(1).retain())));
            let mut reader = site.hello(other, Version::V5, "reader");
            reader.subscribe("kept/#", 1);
            reader.expect_no_message();
            client.disconnect();
        }
    }
}

fn dying(site: &grapnel_tests::Site, kind: Kind) -> Client {
    let will = Will::new("will/x", kind.name());
    site.connect(kind, &Connect::new(Version::V5, "dying").will(will))
}

on_both! {
    /// [MQTT-3.1.2-8]: a connection that ends without DISCONNECT leaves its will, in whichever layer
    /// the end comes. [MQTT-3.14.4-3]: with DISCONNECT it leaves none.
    fn wills_follow_every_end_but_disconnect(site) {
        let mut watcher = site.hello(Kind::Tcp, Version::V5, "watcher");
        watcher.subscribe("will/#", 0);
        for kind in Kind::ALL {
            dying(site, kind).disconnect();
            dying(site, kind).drop_connection();
            assert_eq!(watcher.message().text(), kind.name());
            if kind.has_websocket() {
                let mut client = dying(site, kind);
                let close = websocket::frame(websocket::CLOSE, true, &1000u16.to_be_bytes());
                let close = client.layers().encode_below(&close);
                client.send_encoded(&close);
                assert_eq!(watcher.message().text(), kind.name(), "after a close frame");
                // RFC 6455 section 5.5.1: it is answered.
                assert_eq!(client.end(), None);
                assert_eq!(client.end_of_layers().close_code, Some(1000));
            }
            if kind.has_tls() {
                let mut client = dying(site, kind);
                let notify = client.layers().close_notify();
                client.send_encoded(&notify);
                assert_eq!(watcher.message().text(), kind.name(), "after close_notify");
                client.end();
            }
        }
        watcher.expect_no_message();
    }
}

on_both! {
    /// A mebibyte is more than any buffer on the way: both directions stop and go on.
    fn large_payloads_pass_every_listener(site in |plan| plan.config("[limits]\npacket_bytes_max = 2097152")) {
        let payload: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        let mut plain = site.hello(Kind::Tcp, Version::V5, "plain");
        plain.subscribe("up", 1);
        for kind in Kind::ALL {
            let mut client = site.hello(kind, Version::V5, "large");
            client.subscribe("down", 1);
            assert_eq!(client.publish(&Publish::new("up", &payload).qos(1)), 0);
            assert!(plain.message().payload == payload, "{kind:?}: up");
            assert_eq!(plain.publish(&Publish::new("down", &payload).qos(1)), 0);
            assert!(client.message().payload == payload, "{kind:?}: down");
            client.disconnect();
        }
    }
}

on_both! {
    /// [MQTT-3.1.4-3]: a second connection of a client ends the first, and [MQTT-4.4.0-1]: its
    /// session goes on, on whichever listener.
    fn sessions_move_between_listeners(site) {
        let connect = Connect::new(Version::V5, "moving").persistent();
        let mut publisher = site.hello(Kind::Tcp, Version::V5, "publisher");
        let mut before: Option<Client> = None;
        // The client of the mutual listener is another user, whose session is another one.
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Mutual) {
            let (mut client, connack) = site.attempt(kind, &connect);
            assert_eq!(connack.code, 0, "{kind:?}");
            assert_eq!(connack.session_present, before.is_some(), "{kind:?}");
            if let Some(mut before) = before.take() {
                assert_eq!(before.end(), Some(0x8E), "session taken over, when {kind:?} came");
            } else {
                client.subscribe("moving/#", 1);
            }
            publisher.publish(&Publish::new("moving/x", kind.name()).qos(1));
            assert_eq!(client.message().text(), kind.name());
            before = Some(client);
        }
    }
}
