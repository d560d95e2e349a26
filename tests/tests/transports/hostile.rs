//! Peers that misuse TLS, WebSocket and the PROXY protocol. Each is refused or ends in its time,
//! the broker's memory stays bounded, its log gets about one line a second and shard, and clients
//! beside them are served ([`Bystanders::beside`] fails if one waits for three seconds).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use grapnel_tests::bystander::Bystanders;
use grapnel_tests::layers::{Layers, websocket};
use grapnel_tests::{Client, Connect, Kind, PATIENCE, Site, Version};
use rustls::ClientConnection;

/// Most that the broker may grow in one of these tests, bytes.
const GROWN_MAX: u64 = 64 << 20;

/// Runs `attack` beside clients that must be served, and checks memory and log.
#[track_caller]
fn beside(site: &Site, what: &str, attack: impl FnOnce()) {
    let lines = || site.broker().process().lines(|line| line.contains(" WARN ").then_some(())).len();
    let bystanders = Bystanders::start(site.broker());
    let (before, begun) = (lines(), Instant::now());
    let felt = bystanders.beside("", what, attack);
    bystanders.finish();
    let (logged, seconds) = (lines() - before, begun.elapsed().as_secs() as usize);
    // Each shard has a limit of its own for each kind of line, of which two can appear here.
    let most = 2 * site.broker().shards() * (seconds + 2);
    assert!(logged <= most, "{what}: {logged} lines in {seconds} s");
    assert!(felt.grown_max() < GROWN_MAX, "{what}: the broker grew by {} bytes", felt.grown_max());
}

/// The first message of a TLS client.
fn client_hello(site: &Site) -> Vec<u8> {
    let config = site.certificates().client_config(false, rustls::DEFAULT_VERSIONS);
    let mut tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

/// How a connection of these kinds begins, without its last byte.
fn beginning(site: &Site, kind: Kind) -> Vec<u8> {
    let mut bytes = match kind {
        Kind::Tls | Kind::Mutual | Kind::Wss => client_hello(site),
        Kind::Ws => websocket::request("/mqtt").into_bytes(),
        Kind::Proxy | Kind::ProxyTls => b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 1883\r\n".to_vec(),
        Kind::Tcp | Kind::Unix => Connect::new(Version::V5, "slow").encode(),
    };
    bytes.pop();
    bytes
}

/// Whether the broker has closed a socket; does not wait.
fn is_closed(socket: &mut TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    match socket.read(&mut [0; 4096]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

on_both! {
    /// Handshakes that never end: silent ones, and ones that send a byte now and then until the last
    /// byte is missing. Neither delays its deadline: that of TLS comes first, and then that of CONNECT.
    fn slow_handshakes_end_at_their_deadline(site in |plan| plan
        .tls("handshake_timeout_ms = 1500").config("[limits]\nconnect_timeout_ms = 5000"))
    {
        beside(site, "slow handshakes", || {
            let begun = Instant::now();
            let mut open: Vec<(Kind, TcpStream, Vec<u8>)> = Vec::new();
            for kind in Kind::ALL.into_iter().cycle().take(160) {
                let bytes = if open.len() < 80 { beginning(site, kind) } else { Vec::new() };
                open.push((kind, site.socket(kind), bytes));
            }
            let mut sent = 0;
            while !open.is_empty() {
                // A byte in 10 ms: the end of most beginnings is not reached in time.
                if begun.elapsed().as_millis() / 10 > sent {
                    sent += 1;
                    for (_, socket, left) in open.iter_mut().filter(|(_, _, left)| !left.is_empty()) {
                        // It may be closed, which is seen below.
                        drop(socket.write_all(&[left.remove(0)]));
                    }
                }
                open.retain_mut(|(_, socket, _)| !is_closed(socket));
                if open.len() < 80 {
                    assert!(open.iter().all(|(kind, ..)| !kind.has_tls()), "a handshake goes on");
                }
                let kinds = || open.iter().map(|(kind, ..)| *kind).collect::<Vec<_>>();
                assert!(begun.elapsed() < PATIENCE, "still open: {:?}", kinds());
                std::thread::yield_now();
            }
            assert!(begun.elapsed() > Duration::from_millis(1400), "they had their time");
        });
        site.hello(Kind::Wss, Version::V5, "after").disconnect();
    }
}

on_both! {
    /// 1,000 handshakes whose first messages are sent before the first answer is read.
    fn a_thousand_handshakes_at_once(site) {
        let config = site.certificates().client_config(false, rustls::DEFAULT_VERSIONS);
        beside(site, "1,000 TLS handshakes at once", || {
            let mut all: Vec<(TcpStream, ClientConnection)> = (0..1000).map(|_| {
                let tls = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
                (site.socket(Kind::Tls), tls)
            }).collect();
            for (stream, tls) in &mut all {
                tls.write_tls(stream).unwrap();
            }
            for (stream, tls) in &mut all {
                while tls.is_handshaking() {
                    tls.complete_io(stream).unwrap();
                }
            }
        });
    }
}

/// What a peer sends into a listener, and that the connection ends because of it.
#[track_caller]
fn ends(site: &Site, kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let mut socket = site.socket(kind);
    // It may be closed before all is sent.
    drop(socket.write_all(bytes));
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{kind:?}: {error}"),
        _ => answer,
    }
}

on_both! {
    /// Whatever stands in place of TLS ends the connection with an alert or without an answer.
    fn garbage_ends_tls(site) {
        let hello = client_hello(site);
        let garbage: Vec<u8> = (0..20_000).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mqtt = Connect::new(Version::V5, "plain").encode();
        // A handshake record of the largest size whose message never ends (RFC 8446 section 5.1).
        let endless = [&[22, 3, 1, 0x40, 0, 1, 0xFF, 0xFF, 0xFF][..], &[0; 0x4000 - 4]].concat();
        let endless = [&endless[..], &[&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat().repeat(3)].concat();
        beside(site, "garbage in place of TLS", || {
            for _ in 0..20 {
                for kind in [Kind::Tls, Kind::Mutual, Kind::Wss] {
                    ends(site, kind, &garbage);
                    ends(site, kind, &mqtt);
                    ends(site, kind, &endless);
                    ends(site, kind, &[&hello[..], &garbage].concat());
                    ends(site, kind, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                }
            }
        });
        site.hello(Kind::Tls, Version::V5, "after").disconnect();
    }
}

/// Puts each byte of the records into a record of its own (RFC 8446 section 5.1 allows it for
/// handshake messages).
fn in_small_records(records: &[u8]) -> Vec<u8> {
    let mut small = Vec::new();
    let mut rest = records;
    while let [kind, major, minor, high, low, after @ ..] = rest {
        let (content, next) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        for byte in content {
            small.extend([*kind, *major, *minor, 0, 1, *byte]);
        }
        rest = next;
    }
    small
}

on_both! {
    /// A ClientHello in records of one byte is a valid one.
    fn records_of_one_byte(site) {
        let config = site.certificates().client_config(false, rustls::DEFAULT_VERSIONS);
        beside(site, "records of one byte", || {
            for _ in 0..20 {
                let mut stream = site.socket(Kind::Tls);
                let mut tls = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
                let mut hello = Vec::new();
                tls.write_tls(&mut hello).unwrap();
                stream.write_all(&in_small_records(&hello)).unwrap();
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream).unwrap();
                }
            }
        });
    }
}

/// Sends a frame that breaks the protocol. Returns the code of the close frame.
#[track_caller]
fn close_code(site: &Site, kind: Kind, frames: &[u8]) -> Option<u16> {
    let mut client = site.dial(kind, Version::V5);
    let bytes = client.layers().encode_below(frames);
    client.send_encoded(&bytes);
    assert_eq!(client.end(), None);
    client.end_of_layers().close_code
}

on_both! {
    /// RFC 6455: 5.1 (mask), 5.2 (reserved bits, opcodes, lengths), 5.4 (fragments), 5.5 (control
    /// frames), 7.4.1 (codes); [MQTT-6.0.0-1] (text frames).
    fn broken_frames_end_websocket(site) {
        use websocket::{BINARY, CLOSE, CONTINUATION, PING, TEXT, frame};
        let mut reserved = frame(BINARY, true, b"x");
        reserved[0] |= 0x40;
        // A length of 2 in eight bytes, and one with the highest bit.
        let long_form = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4][..], b"xy"].concat();
        let highest = [&[0x82, 0xFF][..], &[0xFF; 8], &[1, 2, 3, 4]].concat();
        let cases: Vec<(&str, Vec<u8>, u16)> = vec![
            ("unmasked", websocket::unmasked(BINARY, b"x"), 1002),
            ("reserved bit", reserved, 1002),
            ("unknown opcode", frame(3, true, b"x"), 1002),
            ("ping in fragments", frame(PING, false, b"x"), 1002),
            ("ping of 126 bytes", frame(PING, true, &[0; 126]), 1002),
            ("continuation of nothing", frame(CONTINUATION, true, b"x"), 1002),
            ("message in a message", [frame(BINARY, false, b""), frame(BINARY, true, b"")].concat(), 1002),
            ("length in too many bytes", long_form, 1002),
            ("length of more than 63 bits", highest, 1002),
            ("half a close code", frame(CLOSE, true, &[3]), 1002),
            ("close code 1006", frame(CLOSE, true, &1006u16.to_be_bytes()), 1002),
            ("text", frame(TEXT, true, b"x"), 1003),
        ];
        beside(site, "broken frames", || {
            for kind in [Kind::Ws, Kind::Wss] {
                for (what, frames, code) in &cases {
                    assert_eq!(close_code(site, kind, frames), Some(*code), "{kind:?}: {what}");
                }
            }
        });
    }
}

on_both! {
    /// A frame may be longer than any packet; the packet in it may not: [MQTT-3.2.2-15], 0x95.
    fn a_huge_frame_costs_nothing(site) {
        let mut client = site.hello(Kind::Ws, Version::V5, "huge");
        client.send_encoded(&websocket::only_header(websocket::BINARY, 1 << 40));
        let masked = |bytes: &[u8]| websocket::frame(websocket::BINARY, true, bytes);
        // The same mask as that of `only_header`, without the header of 6 bytes.
        client.send_encoded(&masked(&[0xC0, 0])[6..]);
        client.receive_where("PINGRESP", |packet| matches!(packet, grapnel_tests::Packet::Pingresp).then_some(()));
        // In MQTT a PUBLISH of the largest size; the mask goes on after 2 bytes.
        let packet = masked(&[0, 0, 0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
        client.send_encoded(&packet[8..]);
        assert_eq!(client.end(), Some(0x95), "packet too large");
    }
}

on_both! {
    /// Pings of a client that reads no pong.
    fn a_flood_of_pings(site in |plan| plan.config("[limits]\nwrite_stall_timeout_ms = 1000")) {
        let ping = websocket::frame(websocket::PING, true, &[7; 125]);
        beside(site, "a flood of WebSocket pings", || {
            for kind in [Kind::Ws, Kind::Wss] {
                let mut client = site.hello(kind, Version::V5, "flood");
                let begun = Instant::now();
                // One ping in each write, and only for a while: a client that is not closed may go on.
                while begun.elapsed() < Duration::from_secs(3) {
                    let bytes = client.layers().encode_below(&ping);
                    client.stream().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
                    if client.stream().write_all(&bytes).is_err() {
                        break;
                    }
                }
            }
        });
    }
}

/// A connection from 127.0.0.2, which is no proxy.
fn stranger(site: &Site, kind: Kind) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    connect(&socket, &site.address(kind)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

on_both! {
    /// Strangers are closed without an answer; so are headers that are too long, before they are
    /// stored, and malformed ones.
    fn headers_of_the_proxy_protocol(site) {
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 1883\r\n";
        let connect = Connect::new(Version::V5, "spoofed").encode();
        let v2 = |length: u16, kept: usize| {
            let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![0; kept]);
            bytes
        };
        beside(site, "headers of the PROXY protocol", || {
            for _ in 0..50 {
                for kind in [Kind::Proxy, Kind::ProxyTls] {
                    let mut socket = stranger(site, kind);
                    drop(socket.write_all(&[&header[..], &connect].concat()));
                    let mut answer = Vec::new();
                    // It may be reset, because nobody has read what was sent.
                    drop(socket.read_to_end(&mut answer));
                    assert_eq!(answer, b"", "a stranger at {kind:?}");
                    for bytes in [
                        v2(10_000, 0),
                        v2(10_000, 10_000),
                        [&b"PROXY TCP4 "[..], &[b'1'; 10_000]].concat(),
                        b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 1883\n".to_vec(),
                        b"PROXY TCP4 300.0.2.7 192.0.2.1 40000 1883\r\n".to_vec(),
                        connect.clone(),
                    ] {
                        assert_eq!(ends(site, kind, &bytes), b"", "{kind:?}");
                    }
                }
            }
        });
        assert!(!site.broker().ctl(&["clients", "show", "spoofed"]).success, "nobody has logged in");
        site.hello(Kind::ProxyTls, Version::V5, "after").disconnect();
    }
}

on_both! {
    /// Requests that are no upgrade: refused with a status, and closed.
    fn requests_that_are_no_upgrade(site) {
        let whole = websocket::request("/mqtt");
        let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
        let long = format!("X: {}\r\n", "y".repeat(9_000));
        let with = |more: &str| whole.replacen("\r\n\r\n", &format!("\r\n{more}\r\n"), 1);
        let cases = [
            ("another path", whole.replace("/mqtt ", "/other "), "404"),
            ("another method", whole.replace("GET ", "POST "), "405"),
            ("no upgrade", whole.replace("Upgrade: websocket\r\n", ""), "426"),
            ("another version", whole.replace("Version: 13", "Version: 8"), "426"),
            ("no subprotocol", whole.replace("Sec-WebSocket-Protocol: mqtt\r\n", ""), "400"),
            ("many headers", with(&many), "431"),
            ("long headers", with(&long), "431"),
            ("a body", with("Content-Length: 5\r\n"), "400"),
            ("no HTTP", "\x10\x0Cxxxxxxxxxxxx".to_owned(), "400"),
        ];
        beside(site, "requests that are no upgrade", || {
            for _ in 0..20 {
                for (what, request, status) in &cases {
                    let answer = ends(site, Kind::Ws, request.as_bytes());
                    let answer = String::from_utf8_lossy(&answer);
                    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
                }
            }
        });
    }
}

on_both! {
    /// Connections that come and go in the middle of each layer leave nothing behind.
    fn connections_that_break_off(site) {
        let config = site.certificates().client_config(false, rustls::DEFAULT_VERSIONS);
        beside(site, "connections that break off", || {
            for n in 0..600 {
                let kind = Kind::ALL[n % Kind::ALL.len()];
                let mut bytes = beginning(site, kind);
                bytes.truncate(bytes.len() * (n % 7) / 6);
                let mut socket = site.socket(kind);
                socket.write_all(&bytes).unwrap();
                if kind == Kind::Wss && n % 2 == 0 {
                    let mut socket = site.socket(kind);
                    drop(Layers::open(&mut socket, Some(config.clone()), None).unwrap());
                }
            }
        });
        let until = Instant::now() + PATIENCE;
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", site.broker().process().id())).unwrap().count();
        while descriptors() > 200 {
            assert!(Instant::now() < until, "{} descriptors are left open", descriptors());
            std::thread::yield_now();
        }
        let mut client: Client = site.hello(Kind::Wss, Version::V5, "after");
        client.ping();
    }
}
