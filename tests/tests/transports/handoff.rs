//! Connections that go to another shard, with their layers, in the middle of a record or a frame.
//! The home of a client is a keyed hash of its identifier, so that of many clients some stay and
//! some go.

use std::collections::BTreeSet;

use grapnel_tests::bystander::homes;
use grapnel_tests::layers::websocket;
use grapnel_tests::{Client, Connect, Io, Kind, Publish, Site, Version};

const CLIENTS: usize = 24;

/// What follows CONNECT in the tests.
fn ping_and_message(n: usize) -> Vec<u8> {
    let mut bytes = vec![0xC0, 0];
    bytes.extend(Publish::new("moved", n.to_string()).encode(Version::V5));
    bytes
}

/// CONNECT with its next packets as a few bytes that travel: all, and where to cut them so that the
/// end of CONNECT has come and the last record or frame has not.
fn bytes_of(client: &mut Client, kind: Kind, n: usize) -> (Vec<u8>, usize) {
    let connect = Connect::new(Version::V5, &format!("moving {n}")).encode();
    let next = ping_and_message(n);
    if kind.has_websocket() && n.is_multiple_of(2) {
        // One frame with all of it. In TLS its first part is a record of its own.
        let whole = websocket::frame(websocket::BINARY, true, &[&connect[..], &next].concat());
        let cut = whole.len() - next.len() + 3;
        let first = client.layers().encode_below(&whole[..cut]);
        let rest = client.layers().encode_below(&whole[cut..]);
        return ([&first[..], &rest].concat(), first.len());
    }
    let first = client.encoded(&connect);
    let rest = client.encoded(&next);
    ([&first[..], &rest].concat(), first.len() + rest.len() / 2)
}

#[track_caller]
fn clients_move(io: Io, shards: usize) {
    let site = Site::plan(io).shards(shards).start();
    let mut plain = site.hello(Kind::Tcp, Version::V5, "plain");
    plain.subscribe("moved", 0);
    for kind in [Kind::Tls, Kind::Mutual, Kind::Ws, Kind::Wss, Kind::Unix, Kind::ProxyTls] {
        let mut clients: Vec<Client> = Vec::new();
        for n in 0..CLIENTS {
            let mut client = site.dial(kind, Version::V5);
            let (bytes, cut) = bytes_of(&mut client, kind, n);
            client.send_encoded(&bytes[..cut]);
            // CONNACK comes from the home shard, so the client has moved.
            client.receive_where("CONNACK", |packet| {
                matches!(packet, grapnel_tests::Packet::Connack { code: 0, .. }).then_some(())
            });
            client.send_encoded(&bytes[cut..]);
            client.receive_where("PINGRESP", |packet| {
                matches!(packet, grapnel_tests::Packet::Pingresp).then_some(())
            });
            assert_eq!(plain.message().text(), n.to_string(), "{kind:?}");
            clients.push(client);
        }
        let homes: BTreeSet<usize> = homes(site.broker()).into_values().collect();
        assert!(homes.len() > 1, "all clients have the same home: {homes:?}");
        for mut client in clients {
            client.ping();
            client.disconnect();
        }
    }
}

#[test]
fn clients_move_ring_2_shards() {
    clients_move(Io::Ring, 2);
}

#[test]
fn clients_move_ring_8_shards() {
    clients_move(Io::Ring, 8);
}

#[test]
fn clients_move_epoll_2_shards() {
    clients_move(Io::Epoll, 2);
}

#[test]
fn clients_move_epoll_8_shards() {
    clients_move(Io::Epoll, 8);
}

/// A client that moves has sent much more than CONNECT: nothing is lost or changes its order.
#[test]
fn what_was_sent_behind_connect_moves_too() {
    let site = Site::plan(Io::Ring).start();
    for kind in [Kind::Tls, Kind::Ws, Kind::Wss] {
        let mut plain = site.hello(Kind::Tcp, Version::V5, "plain");
        plain.subscribe("burst", 0);
        for n in 0..8 {
            let mut client = site.dial(kind, Version::V5);
            let mut packets = Connect::new(Version::V5, &format!("burst {n}")).encode();
            for m in 0..500 {
                packets.extend(Publish::new("burst", format!("{n} {m} {:200}", "")).encode(Version::V5));
            }
            packets.extend([0xE0, 0]);
            client.send(&packets);
            for m in 0..500 {
                let text = plain.message().text();
                assert!(text.starts_with(&format!("{n} {m} ")), "{kind:?}: {text}");
            }
        }
        plain.disconnect();
    }
}
