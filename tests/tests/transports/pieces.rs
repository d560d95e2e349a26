//! Packets that arrive in pieces: cut at each byte of a record or frame, and each byte by itself.
//! [MQTT-6.0.0-2]: a packet may begin and end anywhere in frames.

use grapnel_tests::layers::websocket;
use grapnel_tests::{Client, Connect, Io, Kind, Packet, Publish, Site, Subscribe, Version};

/// CONNECT, SUBSCRIBE and a PUBLISH to itself.
fn script() -> Vec<u8> {
    let mut bytes = Connect::new(Version::V5, "cut").encode();
    bytes.extend(Subscribe::to("a", 0).encode(Version::V5, 1));
    bytes.extend(Publish::new("a", "b").encode(Version::V5));
    bytes
}

#[track_caller]
fn check_answers(client: &mut Client, how: &str) {
    assert!(matches!(client.receive(), Packet::Connack { code: 0, .. }), "{how}");
    assert!(matches!(client.receive(), Packet::Suback { .. }), "{how}");
    assert_eq!(client.receive_publish().text(), "b", "{how}");
}

/// Sends `bytes` in two pieces. A ping of another client between them has its answer when the
/// only shard has read the first piece.
#[track_caller]
fn in_two(client: &mut Client, other: &mut Client, bytes: &[u8], at: usize) {
    client.send_encoded(&bytes[..at]);
    other.ping();
    client.send_encoded(&bytes[at..]);
}

#[track_caller]
fn cut_everywhere(io: Io, kind: Kind) {
    let site = Site::plan(io).shards(1).start();
    let mut other = site.hello(Kind::Tcp, Version::V5, "other");
    let mut at = 1;
    loop {
        let mut client = site.dial(kind, Version::V5);
        let bytes = client.encoded(&script());
        if at == bytes.len() {
            break;
        }
        in_two(&mut client, &mut other, &bytes, at);
        check_answers(&mut client, &format!("{kind:?} cut at {at}"));
        client.disconnect();
        at += 1;
    }
}

#[test]
fn records_are_cut_anywhere_ring() {
    cut_everywhere(Io::Ring, Kind::Tls);
}

#[test]
fn records_are_cut_anywhere_epoll() {
    cut_everywhere(Io::Epoll, Kind::Tls);
}

#[test]
fn frames_are_cut_anywhere_ring() {
    cut_everywhere(Io::Ring, Kind::Ws);
}

#[test]
fn frames_in_records_are_cut_anywhere_epoll() {
    cut_everywhere(Io::Epoll, Kind::Wss);
}

/// The header of the PROXY protocol and what follows it, in two pieces.
#[test]
fn proxy_headers_are_cut_anywhere() {
    let site = Site::plan(Io::Ring).shards(1).start();
    let mut other = site.hello(Kind::Tcp, Version::V5, "other");
    let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 1883\r\n".to_vec();
    // Section 2.2 of the specification: signature, PROXY over TCP4, 12 bytes of addresses.
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C".to_vec();
    v2.extend([192, 0, 2, 7, 192, 0, 2, 1, 0x9C, 0x40, 0x07, 0x5B]);
    for header in [v1, v2] {
        for at in 1..=header.len() {
            let mut client = Client::over(site.socket(Kind::Proxy), None, Version::V5);
            let bytes = [&header[..], &script()].concat();
            in_two(&mut client, &mut other, &bytes, at);
            check_answers(&mut client, &format!("header cut at {at}"));
            let shown = site.broker().ctl_json(&["clients", "show", "cut"]);
            assert_eq!(shown["peer"], "192.0.2.7:40000");
            client.disconnect();
        }
    }
}

on_both! {
    /// One byte in each record, and one in each frame.
    fn every_byte_has_a_record_or_frame_of_its_own(site) {
        for kind in [Kind::Tls, Kind::Ws, Kind::Wss] {
            let mut client = site.dial(kind, Version::V5);
            for byte in script() {
                client.send(&[byte]);
            }
            check_answers(&mut client, &format!("{kind:?}"));
            client.disconnect();
        }
    }
}

on_both! {
    /// RFC 6455 section 5.4: a message in fragments, with control frames between them.
    fn messages_in_fragments_with_pings_between(site) {
        for kind in [Kind::Ws, Kind::Wss] {
            let mut client = site.dial(kind, Version::V5);
            let script = script();
            let mut bytes = Vec::new();
            for (place, part) in script.chunks(7).enumerate() {
                let opcode = if place == 0 { websocket::BINARY } else { websocket::CONTINUATION };
                let is_final = (place + 1) * 7 >= script.len();
                bytes.extend(websocket::frame(opcode, is_final, part));
                bytes.extend(websocket::frame(websocket::PING, true, &[place as u8]));
            }
            let bytes = client.layers().encode_below(&bytes);
            client.send_encoded(&bytes);
            check_answers(&mut client, &format!("{kind:?}"));
            client.ping();
            // Section 5.5.3: at least the most recent ping is answered.
            let last = script.len().div_ceil(7) - 1;
            assert_eq!(client.layers().pongs().last(), Some(&vec![last as u8]), "{kind:?}");
            client.disconnect();
        }
    }
}
