//! The PROXY protocol. The headers in hexadecimal are what HAProxy 2.6 sends; section numbers are
//! those of its `doc/proxy-protocol.txt`.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::transport::TlsFacts;

mod extensions;

fn settings() -> Arc<ProxySettings> {
    let sources = AddressList::parse(["10.0.0.0/8", "::1"]).unwrap();
    Arc::new(ProxySettings { sources, header_bytes_max: ProxySettings::HEADER_BYTES_MAX_DEFAULT })
}

fn layer() -> ProxyProtocol {
    ProxyProtocol::new(&settings(), std::net::SocketAddr::from(([10, 0, 0, 1], 1))).unwrap()
}

/// Gives `input` whole. What follows the header and what the layer knows, or the refusal.
fn read(input: &[u8]) -> Result<(Vec<u8>, PeerFacts), String> {
    let mut layer = layer();
    let (mut above, mut below, mut facts) = (Vec::new(), Vec::new(), PeerFacts::default());
    let result = layer.receive(input, &mut above, &mut below);
    assert_eq!(below, b"", "nothing is ever answered");
    assert!(layer.memory_bytes() <= size_of::<ProxyProtocol>() + 2 * 4096);
    match result {
        Ok(()) => {
            assert!(layer.is_open(), "incomplete: {}", input.escape_ascii());
            layer.describe(&mut facts);
            Ok((above, facts))
        }
        Err(LayerError::Refused(text)) => {
            assert_eq!(above, b"");
            assert_eq!(layer.receive(b"more", &mut above, &mut below), Err(LayerError::Closed));
            Err(text)
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn facts(input: &[u8]) -> PeerFacts {
    read(input).unwrap().1
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
}

/// A header of version 2: byte 13, byte 14, what follows the length.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

const V4_ADDRESSES: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x67, 0x07, 0x5b];

fn v4_facts() -> PeerFacts {
    PeerFacts {
        peer: Some(std::net::SocketAddr::from(([203, 0, 113, 9], 4711))),
        local: Some(std::net::SocketAddr::from(([192, 0, 2, 1], 1883))),
        tls: None,
    }
}

#[test]
fn strangers_are_refused_before_they_send_anything() {
    let refused = |peer: SocketAddr| ProxyProtocol::new(&settings(), peer).is_err();
    assert!(refused(std::net::SocketAddr::from(([203, 0, 113, 9], 1))));
    assert!(refused((Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), 1).into()));
    assert!(!refused((Ipv6Addr::LOCALHOST, 1).into()));
    assert!(!refused((Ipv4Addr::new(10, 9, 8, 7).to_ipv6_mapped(), 1).into()));
    let nobody = Arc::new(ProxySettings { sources: AddressList::default(), header_bytes_max: 4096 });
    let error = ProxyProtocol::new(&nobody, std::net::SocketAddr::from(([10, 0, 0, 1], 1))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "10.0.0.1 is not in the list of proxies that may send a PROXY protocol header"
    );
}

/// Section 2.1
#[test]
fn version_1_names_both_addresses() {
    assert_eq!(facts(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 1883\r\n"), v4_facts());
    let six = facts(b"PROXY TCP6 2001:db8::9 2001:db8::1 65535 0\r\n");
    assert_eq!(six.peer, Some("[2001:db8::9]:65535".parse().unwrap()));
    assert_eq!(six.local, Some("[2001:db8::1]:0".parse().unwrap()));
    // As HAProxy sends it.
    let haproxy = hex("50524f58592054435036203a3a31203a3a312035353235302031393030350d0a48454c4c4f");
    let (rest, facts) = read(&haproxy).unwrap();
    assert_eq!((rest, facts.peer), (b"HELLO".to_vec(), Some("[::1]:55250".parse().unwrap())));
}

#[test]
fn an_ipv4_address_in_ipv6_is_ipv4() {
    let facts = facts(b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:192.0.2.1 4711 1883\r\n");
    assert_eq!(facts, v4_facts());
}

/// Section 2.1: "the receiver must ignore anything presented before the CRLF is found".
#[test]
fn unknown_keeps_the_addresses_of_the_socket() {
    assert_eq!(facts(b"PROXY UNKNOWN\r\n"), PeerFacts::default());
    assert_eq!(facts(b"PROXY UNKNOWN a b c d e f g h\r\n"), PeerFacts::default());
    // The longest of version 1, 107 bytes with its line end.
    let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
        ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), V1_BYTES_MAX);
    assert_eq!(facts(longest.as_bytes()), PeerFacts::default());
    let beyond = longest.replace("UNKNOWN ", "UNKNOWN  ");
    assert!(read(beyond.as_bytes()).unwrap_err().contains("no end within 107 bytes"));
}

#[test]
fn malformed_headers_of_version_1_are_refused() {
    for line in [
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 65536\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 -1\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 1883 5\r\n",
        "PROXY TCP4 203.0.113.9  192.0.2.1 4711 1883\r\n",
        "PROXY TCP4 ::1 ::1 4711 1883\r\n",
        "PROXY TCP6 203.0.113.9 192.0.2.1 4711 1883\r\n",
        "PROXY TCP4 203.0.113.256 192.0.2.1 4711 1883\r\n",
        "PROXY UDP4 203.0.113.9 192.0.2.1 4711 1883\r\n",
        "PROXY\r\nPROXY UNKNOWN\r\n",
        "PROXY \r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 1883\n",
        "PROXY TCP4 \u{b2}03.0.113.9 192.0.2.1 4711 1883\r\n",
    ] {
        assert!(read(line.as_bytes()).is_err(), "{line:?}");
    }
}

#[test]
fn a_header_is_required() {
    let connect = b"\x10\x10\0\x04MQTT\x05\x02\0\x3c\0\0\x03abc";
    assert!(read(connect).unwrap_err().contains("header is required"));
    assert!(read(b"GET / HTTP/1.1\r\n").unwrap_err().contains("header is required"));
    assert!(read(b"PROXXY UNKNOWN\r\n").unwrap_err().contains("header is required"));
    assert!(read(b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\0").unwrap_err().contains("header is required"));
    // At its first byte, not only when the deadline comes.
    assert!(read(b"\x10").unwrap_err().contains("header is required"));
}

/// Section 2.2
#[test]
fn version_2_names_both_addresses() {
    assert_eq!(facts(&v2(0x21, 0x11, &V4_ADDRESSES)), v4_facts());
    let mut six = [0; 36];
    six[15] = 9;
    six[31] = 1;
    six[32..].copy_from_slice(&[0x12, 0x67, 0x07, 0x5b]);
    let six = facts(&v2(0x21, 0x21, &six));
    assert_eq!(six.peer, Some("[::9]:4711".parse().unwrap()));
    assert_eq!(six.local, Some("[::1]:1883".parse().unwrap()));
}

#[test]
fn local_unix_and_unspecified_keep_the_addresses_of_the_socket() {
    // HAProxy's check of the server, and what it sends for a client on a unix socket.
    for haproxy in ["0d0a0d0a000d0a515549540a20000000", "0d0a0d0a000d0a515549540a20000007030004a9b87e8f"] {
        assert_eq!(facts(&hex(haproxy)), PeerFacts::default());
    }
    // LOCAL: the block and the family are discarded, whatever they are.
    assert_eq!(facts(&v2(0x20, 0x11, &V4_ADDRESSES)), PeerFacts::default());
    assert_eq!(facts(&v2(0x20, 0xff, b"anything")), PeerFacts::default());
    assert_eq!(facts(&v2(0x21, 0x31, &[7; 216])), PeerFacts::default());
    assert_eq!(facts(&v2(0x21, 0x00, b"")), PeerFacts::default());
}

#[test]
fn malformed_headers_of_version_2_are_refused() {
    for (header, why) in [
        (v2(0x11, 0x11, &V4_ADDRESSES), "no version 1"),
        (v2(0x31, 0x11, &V4_ADDRESSES), "no version 3"),
        (v2(0x22, 0x11, &V4_ADDRESSES), "malformed"),
        (v2(0x21, 0x41, &V4_ADDRESSES), "malformed"),
        (v2(0x21, 0x13, &V4_ADDRESSES), "malformed"),
        (v2(0x21, 0x12, &V4_ADDRESSES), "datagrams"),
        (v2(0x21, 0x11, &V4_ADDRESSES[..11]), "malformed"),
        (v2(0x21, 0x21, &[0; 35]), "malformed"),
        (v2(0x21, 0x31, &[0; 215]), "malformed"),
    ] {
        let error = read(&header).unwrap_err();
        assert!(error.contains(why), "{error} for {}", header.escape_ascii());
    }
}

#[test]
fn a_header_that_is_too_large_is_refused_by_its_length() {
    let padded = |whole: usize| {
        let noop = u16::try_from(whole - 16 - 12 - 3).unwrap().to_be_bytes();
        let block = [&V4_ADDRESSES[..], &[4], &noop, &vec![0; whole - 16 - 12 - 3]].concat();
        v2(0x21, 0x11, &block)
    };
    assert_eq!(facts(&padded(4096)), v4_facts());
    for whole in [4097, 10_000, 65_551] {
        let error = read(&padded(whole)).unwrap_err();
        assert_eq!(error, format!("the PROXY protocol header has {whole} bytes; at most 4096 are taken"));
        // The sixteenth byte is enough: nothing of the rest is waited for.
        assert_eq!(read(&padded(whole)[..16]).unwrap_err(), error);
    }
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 64 * 1024]].concat();
    assert!(read(&endless).unwrap_err().contains("no end within 107 bytes"));
}

#[test]
fn a_header_may_be_cut_anywhere_and_bytes_behind_it_pass() {
    let tls = extensions::haproxy_tls();
    for header in [&b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 1883\r\n"[..], b"PROXY UNKNOWN\r\n", &tls] {
        let input = [header, b"\x10\x00\r\nPROXY "].concat();
        let (rest, told) = read(&input).unwrap();
        assert_eq!(rest, b"\x10\x00\r\nPROXY ");
        for step in 1..=input.len() {
            let mut layer = layer();
            let (mut above, mut facts) = (Vec::new(), PeerFacts::default());
            for part in input.chunks(step) {
                layer.receive(part, &mut above, &mut Vec::new()).unwrap();
            }
            layer.describe(&mut facts);
            assert_eq!((&above, &facts), (&rest, &told), "in parts of {step}");
        }
    }
}

#[test]
fn nothing_is_open_or_known_before_the_end_of_the_header() {
    let header = v2(0x21, 0x11, &V4_ADDRESSES);
    let mut layer = layer();
    let mut above = Vec::new();
    layer.receive(&header[..header.len() - 1], &mut above, &mut Vec::new()).unwrap();
    let mut facts = PeerFacts::default();
    layer.describe(&mut facts);
    assert!(!layer.is_open());
    assert_eq!((above, facts), (vec![], PeerFacts::default()));
}

proptest! {
    /// Any bytes: no panic, bounded memory, and the same result however they are cut.
    #[test]
    fn any_bytes_in_any_parts(
        front in prop_oneof![
            Just(Vec::new()),
            Just(V1_PREFIX.to_vec()),
            Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
            Just([SIGNATURE, &[0x21, 0x11, 0, 40]].concat()),
            Just([SIGNATURE, &[0x21, 0x00, 0, 40, 0x20, 0, 30]].concat()),
        ],
        tail in proptest::collection::vec(any::<u8>(), 0..200),
        step in 1..20_usize,
    ) {
        let input = [front, tail].concat();
        let run = |parts: Vec<&[u8]>| {
            let (mut layer, mut above) = (layer(), Vec::new());
            let result = parts.into_iter().try_for_each(|part| layer.receive(part, &mut above, &mut Vec::new()));
            (result, above, layer.is_open())
        };
        prop_assert_eq!(run(vec![&input]), run(input.chunks(step).collect()));
    }
}
