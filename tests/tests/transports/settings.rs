//! Settings of listeners, each on a listener with layers.

use std::io::Read;
use std::time::{Duration, Instant};

use grapnel_tests::certificates::CLIENT_NAME;
use grapnel_tests::client::Event;
use grapnel_tests::layers::websocket;
use grapnel_tests::wire::{Value, property};
use grapnel_tests::{Connect, Kind, Packet, Version};
use rustls::version::{TLS12, TLS13};

on_both! {
    /// `identity = "cn"`: the user name is that of the certificate, whatever CONNECT has.
    fn the_certificate_is_the_user_name(site) {
        for version in [&TLS12, &TLS13] {
            let mut client = site.try_dial(Kind::Mutual, Version::V5, &[version]).unwrap();
            let connack = client.log_in(&Connect::new(Version::V5, "device"));
            assert_eq!(connack.code, 0);
            let shown = site.broker().ctl_json(&["clients", "show", "device"]);
            assert_eq!((&shown["username"], &shown["listener"]), (&CLIENT_NAME.into(), &"mutual".into()));
            client.disconnect();
        }
    }
}

on_both! {
    /// `client_certificate = "required"`: without one the handshake ends (RFC 8446 section 4.4.2.4).
    fn a_client_without_certificate_is_refused(site) {
        for version in [&TLS12, &TLS13] {
            let mut stream = site.socket(Kind::Mutual);
            let config = site.certificates().client_config(false, &[version]);
            let refused = match grapnel_tests::layers::Layers::open(&mut stream, Some(config), None) {
                // In TLS 1.3 the client is done before the server has seen its answer.
                Ok(mut layers) => {
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).unwrap();
                    layers.decode(&bytes, &mut Vec::new()).unwrap_err()
                }
                Err(error) => error,
            };
            assert!(refused.contains("CertificateRequired") || refused.contains("HandshakeFailure"), "{refused}");
        }
    }
}

on_both! {
    /// [MQTT-3.1.2-2]: a version that the listener does not have.
    fn a_listener_has_its_versions(site in |plan| plan.listener(Kind::Wss, "versions = [\"5\"]")) {
        let (_, connack) = site.attempt(Kind::Wss, &Connect::new(Version::V311, "old"));
        assert_eq!(connack.code, 1, "unacceptable protocol version");
        site.hello(Kind::Wss, Version::V5, "new").disconnect();
        site.hello(Kind::Ws, Version::V311, "old").disconnect();
    }
}

on_both! {
    /// [MQTT-3.2.2-21]: a longer keep alive is lowered with Server Keep Alive.
    fn a_listener_lowers_the_keep_alive(site in |plan| plan.listener(Kind::Tls, "keep_alive_s_max = 30")) {
        for (sent, told) in [(0, Some(30)), (60, Some(30)), (30, None)] {
            let (client, connack) = site.attempt(Kind::Tls, &Connect::new(Version::V5, "c").keep_alive(sent));
            let said = connack.properties.find(property::SERVER_KEEP_ALIVE).cloned();
            assert_eq!(said, told.map(Value::U16), "keep alive {sent}");
            client.disconnect();
        }
    }
}

on_both! {
    /// One connection beyond `connections_max` is closed, and there is room when one has ended.
    fn a_listener_has_so_many_connections(site in |plan| plan.listener(Kind::Wss, "connections_max = 2")) {
        let first = site.hello(Kind::Wss, Version::V5, "first");
        let _second = site.hello(Kind::Wss, Version::V5, "second");
        assert!(site.try_dial(Kind::Wss, Version::V5, rustls::DEFAULT_VERSIONS).is_err(), "a third is closed");
        site.hello(Kind::Ws, Version::V5, "elsewhere").disconnect();
        first.disconnect();
        let until = Instant::now() + grapnel_tests::PATIENCE;
        while site.try_dial(Kind::Wss, Version::V5, rustls::DEFAULT_VERSIONS).is_err() {
            assert!(Instant::now() < until, "there is no room after one has ended");
        }
    }
}

on_both! {
    /// Those beyond `connects_per_second_max` wait, and all of them are served.
    fn a_listener_accepts_so_many_a_second(site in |plan| plan.listener(Kind::Tls, "connects_per_second_max = 4")) {
        let begun = Instant::now();
        let clients: Vec<_> = (0..12).map(|n| site.hello(Kind::Tls, Version::V5, &n.to_string())).collect();
        // 4 in each calendar second: the twelfth is in the third of them.
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(clients.len(), 12);
    }
}

on_both! {
    /// `allow_anonymous` is one listener's: without a plugin nobody else is let in there.
    fn a_listener_refuses_anonymous_clients(site in |plan| plan.listener(Kind::Ws, "allow_anonymous = false")) {
        let (_, connack) = site.attempt(Kind::Ws, &Connect::new(Version::V5, "nobody"));
        assert!(matches!(connack.code, 0x86 | 0x87), "{connack:?}");
        let (_, connack) = site.attempt(Kind::Ws, &Connect::new(Version::V311, "nobody"));
        assert!(matches!(connack.code, 4 | 5), "{connack:?}");
        site.hello(Kind::Wss, Version::V5, "anybody").disconnect();
    }
}

on_both! {
    /// [MQTT-3.1.2-22]: silence for one and a half times the keep alive ends the connection, and
    /// pings of WebSocket are no packets of MQTT.
    fn keep_alive_counts_packets_of_mqtt(site) {
        let mut client = site.connect(Kind::Wss, &Connect::new(Version::V5, "silent").keep_alive(1));
        let begun = Instant::now();
        let end = loop {
            let ping = client.layers().encode_below(&websocket::frame(websocket::PING, true, b"?"));
            // It may have been closed.
            drop(std::io::Write::write_all(&mut client.stream(), &ping));
            match client.next(Duration::from_millis(100)) {
                Event::Silence => assert!(begun.elapsed() < grapnel_tests::PATIENCE, "it is not closed"),
                other => break other,
            }
        };
        assert!(matches!(end, Event::Packet(Packet::Disconnect { code: 0x8D, .. })), "{end:?}");
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(1450), "{waited:?}");
        assert_eq!(client.next(grapnel_tests::PATIENCE), Event::Closed);
        assert_eq!(client.end_of_layers().close_code, Some(1000));
        assert!(client.end_of_layers().close_notify);
    }
}

on_both! {
    /// `version_min = "1.3"`.
    fn a_listener_has_its_versions_of_tls(site in |plan| plan.tls("version_min = \"1.3\"")) {
        let refused = site.try_dial(Kind::Tls, Version::V5, &[&TLS12]).err().unwrap();
        assert!(refused.contains("ProtocolVersion"), "{refused}");
        site.hello(Kind::Tls, Version::V5, "new").disconnect();
    }
}
