//! What layers do when a client ends them at once, does not take their answers, or says nothing:
//! the client is gone wherever its home is, and pays itself.

use std::io::Write;
use std::net::TcpStream;

use grapnel_tests::layers::websocket;
use grapnel_tests::wire::Will;
use grapnel_tests::{Connect, Io, Kind, PATIENCE, Site, Version};

/// Clients that connect and close their layers in one segment.
const CLIENTS: usize = 24;

/// A client may close WebSocket or TLS right behind CONNECT. Its will is published [MQTT-3.1.2-8], and
/// the connection ends, also if its home is another shard than the one that has read both.
fn closes_behind_connect(io: Io) {
    let site = Site::plan(io).shards(8).start();
    for kind in [Kind::Ws, Kind::Wss, Kind::Tls] {
        let mut watcher = site.hello(Kind::Tcp, Version::V5, "watcher");
        watcher.subscribe("gone", 1);
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let mut client = site.dial(kind, Version::V5);
            let will = Will::new("gone", &n.to_string());
            let connect = Connect::new(Version::V5, &format!("{kind:?} {n}")).will(will).encode();
            let mut bytes = client.encoded(&connect);
            let normal = 1000_u16.to_be_bytes();
            let end = match kind {
                Kind::Tls => client.layers().close_notify(),
                _ => client.layers().encode_below(&websocket::frame(websocket::CLOSE, true, &normal)),
            };
            bytes.extend(end);
            client.send_encoded(&bytes);
            clients.push(client);
        }
        let mut wills: Vec<usize> = (0..CLIENTS).map(|_| watcher.message().text().parse().unwrap()).collect();
        wills.sort_unstable();
        assert_eq!(wills, (0..CLIENTS).collect::<Vec<_>>(), "{kind:?}");
        for client in &mut clients {
            client.raw_until_closed();
        }
        let list = site.broker().ctl_json(&["clients", "list"]);
        assert_eq!(list["clients"].as_array().unwrap().len(), 1, "{kind:?}: {list}");
        watcher.disconnect();
    }
}

#[test]
fn a_client_that_closes_behind_connect_is_gone_ring() {
    closes_behind_connect(Io::Ring);
}

#[test]
fn a_client_that_closes_behind_connect_is_gone_epoll() {
    closes_behind_connect(Io::Epoll);
}

on_both! {
    /// `handshakes_max` is about the listener that has it: connections to another one, which have
    /// layers and say nothing, do not count.
    fn silent_connections_elsewhere_stop_no_handshake(site in |plan| plan.tls("handshakes_max = 4")) {
        let silent: Vec<TcpStream> =
            [Kind::Ws, Kind::Proxy].into_iter().cycle().take(64).map(|kind| site.socket(kind)).collect();
        for n in 0..4 {
            site.hello(Kind::Tls, Version::V5, &format!("tls {n}")).disconnect();
            site.hello(Kind::Wss, Version::V5, &format!("wss {n}")).disconnect();
        }
        drop(silent);
    }
}

on_both! {
    /// A client that floods the broker with pings and reads nothing meanwhile costs it no memory:
    /// only the last ping of what was read at once is answered (RFC 6455 section 5.5.3), and a client
    /// that does not take the answers is not read. Later it goes on as before.
    fn a_flood_of_pings_is_not_kept(site) {
        let mut client = site.hello(Kind::Ws, Version::V5, "pings");
        let ping = websocket::frame(websocket::PING, true, &[7; 125]);
        let before = grapnel_tests::bystander::resident(site.broker());
        let mut socket = client.stream().try_clone().unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        // One by one, so that many are answered, and then many at once.
        for _ in 0..20_000 {
            socket.write_all(&ping).unwrap();
        }
        let many = ping.repeat(1000);
        for _ in 0..200 {
            socket.write_all(&many).unwrap();
        }
        let grown = grapnel_tests::bystander::resident(site.broker()).saturating_sub(before);
        assert!(grown < 8 << 20, "the broker has grown by {} KiB", grown >> 10);
        site.hello(Kind::Ws, Version::V5, "other").ping();
        client.ping();
    }
}
