//! What layers do when a client ends them at once, does not take their answers, or says nothing:
//! the client is gone wherever its home is, and pays itself.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

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

/// Writes the same bytes until the socket takes none for a second. Returns how many it took.
fn pour(socket: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    socket.set_nonblocking(true).unwrap();
    let (mut taken, mut at, mut last) = (0, 0, Instant::now());
    while last.elapsed() < Duration::from_secs(1) && taken < most {
        match socket.write(&bytes[at..]) {
            Ok(count) => {
                (taken, at, last) = (taken + count, (at + count) % bytes.len(), Instant::now());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(_) => break,
        }
    }
    taken
}

on_both! {
    /// Each ping is answered (RFC 6455 section 5.5.2), and a client that takes no pong is not read
    /// any more: what waits for it does not grow with what it sends. When it takes them, it is read.
    fn pings_without_a_reader_stop(site in |plan| plan.config("[limits]\nwrite_stall_timeout_ms = 60000")) {
        let mut client = site.hello(Kind::Ws, Version::V5, "pings");
        let ping = websocket::frame(websocket::PING, true, &[7; 125]);
        let pings = ping.repeat(500);
        let before = grapnel_tests::bystander::resident(site.broker());
        let mut socket = client.stream().try_clone().unwrap();
        // The buffers of both sockets take some megabytes.
        let taken = pour(&mut socket, &pings, 256 << 20);
        assert!(taken < 256 << 20, "all was read");
        let grown = grapnel_tests::bystander::resident(site.broker()).saturating_sub(before);
        assert!(grown < 8 << 20, "the broker has grown by {} KiB for {taken} bytes", grown >> 10);
        site.hello(Kind::Ws, Version::V5, "other").ping();
        // What is left of the last ping, so that the next frame begins where one can.
        socket.set_nonblocking(false).unwrap();
        let left = (ping.len() - taken % ping.len()) % ping.len();
        let writer = std::thread::spawn(move || socket.write_all(&ping[ping.len() - left..]));
        let begun = Instant::now();
        let mut pongs = 0;
        while pongs < taken / (125 + 6) {
            client.next(Duration::from_millis(20));
            pongs += client.layers().pongs().len();
            assert!(begun.elapsed() < PATIENCE, "{pongs} pongs for {taken} bytes");
        }
        writer.join().unwrap().unwrap();
        client.ping();
    }
}
