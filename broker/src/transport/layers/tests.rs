//! The stack of layers, with layers that are simple enough to see through.

use std::sync::Arc;

use super::*;
use crate::transport::address_list::AddressList;
use crate::transport::proxy::{ProxyProtocol, ProxySettings};
use crate::transport::websocket::{WebSocket, WebSocketSettings};

/// A layer whose handshake is the byte `H`, answered with `A`. Then each byte comes as a record of
/// two: its key and the byte combined with it. `.` closes, `?` is a violation; both stand in place
/// of a record. Its own close is `.`.
struct Toy {
    key: u8,
    open: bool,
    half: bool,
}

fn toy(key: u8) -> Option<Box<dyn Layer>> {
    Some(Box::new(Toy { key, open: false, half: false }))
}

impl Layer for Toy {
    fn receive(&mut self, input: &[u8], above: &mut Vec<u8>, below: &mut Vec<u8>) -> Result<(), LayerError> {
        for &byte in input {
            if !self.open {
                assert_eq!(byte, b'H');
                self.open = true;
                below.push(b'A');
            } else if self.half {
                self.half = false;
                above.push(byte ^ self.key);
            } else if byte == self.key {
                self.half = true;
            } else if byte == b'.' {
                return Err(LayerError::Closed);
            } else {
                below.push(b'?');
                return Err(LayerError::Refused(format!("toy {}", self.key)));
            }
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], below: &mut Vec<u8>) -> Result<(), LayerError> {
        assert!(self.open);
        below.extend(bytes.iter().flat_map(|byte| [self.key, byte ^ self.key]));
        Ok(())
    }

    fn close(&mut self, below: &mut Vec<u8>) {
        below.push(b'.');
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn memory_bytes(&self) -> usize {
        1000
    }

    fn describe(&self, facts: &mut PeerFacts) {
        facts.local = Some(([127, 0, 0, 1], u16::from(self.key)).into());
    }
}

fn encoded(keys: &[u8], bytes: &[u8]) -> Vec<u8> {
    keys.iter().fold(bytes.to_vec(), |bytes, key| bytes.iter().flat_map(|byte| [*key, byte ^ key]).collect())
}

/// What a peer sends to open toys of keys 1 (below) and 2 (above), and what it gets.
fn handshake() -> (Vec<u8>, Vec<u8>) {
    ([b"H".to_vec(), encoded(&[1], b"H")].concat(), [b"A".to_vec(), encoded(&[1], b"A")].concat())
}

fn open_pair() -> Layers {
    let mut layers = Layers::new(None, toy(1), toy(2));
    let (mut decoded, mut output) = (Vec::new(), Vec::new());
    layers.receive(&handshake().0, &mut decoded, &mut output).unwrap();
    assert!(layers.is_open());
    layers
}

fn feed(layers: &mut Layers, input: &[u8]) -> (Result<(), LayerError>, Vec<u8>, Vec<u8>) {
    let (mut decoded, mut output) = (Vec::new(), Vec::new());
    let result = layers.receive(input, &mut decoded, &mut output);
    (result, decoded, output)
}

#[test]
fn a_connection_without_layers_is_plain() {
    let mut layers = Layers::new(None, None, None);
    assert!(layers.is_plain() && layers.is_open());
    assert_eq!(feed(&mut layers, b"abc"), (Ok(()), b"abc".to_vec(), vec![]));
    let mut output = b"x".to_vec();
    layers.send(b"def", &mut output).unwrap();
    layers.close(&mut output);
    assert_eq!(output, b"xdef");
}

#[test]
fn answers_of_an_upper_layer_pass_through_the_lower_one() {
    let mut layers = Layers::new(None, toy(1), toy(2));
    let (input, answer) = handshake();
    let (result, decoded, output) =
        feed(&mut layers, &[input, encoded(&[2, 1], b"connect"), encoded(&[2, 1], b"more")].concat());
    assert_eq!((result, decoded, output), (Ok(()), b"connectmore".to_vec(), answer));
    let mut output = Vec::new();
    layers.send(b"connack", &mut output).unwrap();
    assert_eq!(output, encoded(&[2, 1], b"connack"));
    assert_eq!(layers.describe().local, Some(std::net::SocketAddr::from(([127, 0, 0, 1], 2))));
    assert!(!layers.is_plain());
}

#[test]
fn input_may_be_cut_anywhere_and_continue_on_another_thread() {
    let input = [handshake().0, encoded(&[2, 1], b"connect, publish")].concat();
    for cut in 0..=input.len() {
        let mut layers = Layers::new(None, toy(1), toy(2));
        let (first, second) = input.split_at(cut);
        let (result, decoded, output) = feed(&mut layers, first);
        assert_eq!(result, Ok(()));
        let second = second.to_vec();
        let rest = std::thread::spawn(move || feed(&mut layers, &second)).join().unwrap();
        assert_eq!([decoded, rest.1].concat(), b"connect, publish", "cut at {cut}");
        assert_eq!([output, rest.2].concat(), handshake().1, "cut at {cut}");
    }
}

#[test]
fn closing_begins_at_the_top() {
    let mut layers = open_pair();
    let mut output = Vec::new();
    layers.close(&mut output);
    assert_eq!(output, [encoded(&[1], b"."), b".".to_vec()].concat());
    layers.close(&mut output);
    assert_eq!(output.len(), 3, "the second time does nothing");
    assert!(!layers.is_open());
    assert_eq!(layers.send(b"late", &mut output), Err(LayerError::Closed));
    assert_eq!(output.len(), 3);
}

#[test]
fn closing_in_a_handshake_says_only_what_can_be_carried() {
    let mut layers = Layers::new(None, toy(1), toy(2));
    let mut output = Vec::new();
    layers.close(&mut output);
    assert_eq!(output, b".", "the upper layer has no one to carry its words");
}

#[test]
fn after_closing_the_peer_is_read_on_and_not_answered() {
    let mut layers = open_pair();
    layers.close(&mut Vec::new());
    let (result, _, output) = feed(&mut layers, &encoded(&[2, 1], b"late"));
    assert_eq!((result, output), (Ok(()), vec![]));
    let (result, _, output) = feed(&mut layers, &encoded(&[1], b"?"));
    assert_eq!((result, output), (Err(LayerError::Refused("toy 2".into())), vec![]));
    // Nor by the lowest layer itself, with another above it and alone.
    let mut layers = open_pair();
    layers.close(&mut Vec::new());
    assert_eq!(feed(&mut layers, b"?").2, b"");
    let mut layers = Layers::new(None, toy(1), None);
    feed(&mut layers, b"H").0.unwrap();
    layers.close(&mut Vec::new());
    assert_eq!(feed(&mut layers, b"?").2, b"");
}

#[test]
fn a_violation_above_is_told_through_the_layers_below() {
    let mut layers = open_pair();
    let input = [encoded(&[2, 1], b"publish"), encoded(&[1], b"?"), encoded(&[2, 1], b"lost")].concat();
    let (result, decoded, output) = feed(&mut layers, &input);
    assert_eq!(result, Err(LayerError::Refused("toy 2".into())));
    assert_eq!(decoded, b"publish", "what came before counts");
    assert_eq!(output, [encoded(&[1], b"?"), b".".to_vec()].concat());
    assert_eq!(feed(&mut layers, &encoded(&[2, 1], b"x")), (Err(LayerError::Closed), vec![], vec![]));
    let mut output = Vec::new();
    layers.close(&mut output);
    assert_eq!(output, b"", "everything has been said");
}

#[test]
fn a_violation_below_loses_nothing_that_came_before() {
    let mut layers = open_pair();
    // MQTT's DISCONNECT and the end of TLS in one piece: without DISCONNECT a will would be sent.
    let (result, decoded, output) =
        feed(&mut layers, &[encoded(&[2, 1], b"disconnect"), b".".to_vec()].concat());
    assert_eq!((result, decoded, output), (Err(LayerError::Closed), b"disconnect".to_vec(), vec![]));
    let mut layers = open_pair();
    let (result, decoded, output) =
        feed(&mut layers, &[encoded(&[2, 1], b"publish"), b"?".to_vec()].concat());
    assert_eq!(result, Err(LayerError::Refused("toy 1".into())));
    assert_eq!((decoded, output), (b"publish".to_vec(), b"?".to_vec()));
}

#[test]
fn answers_cannot_pass_a_lower_layer_that_has_failed() {
    let mut layers = Layers::new(None, toy(1), toy(2));
    let (result, _, output) = feed(&mut layers, &[handshake().0, b"?".to_vec()].concat());
    assert_eq!(result, Err(LayerError::Refused("toy 1".into())));
    assert_eq!(output, b"A?", "the answer of the upper layer is dropped");
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "not open"))]
fn bytes_before_the_handshake_are_dropped() {
    let mut layers = Layers::new(None, toy(1), None);
    let mut output = Vec::new();
    layers.send(b"early", &mut output).unwrap();
    assert_eq!(output, b"");
}

#[test]
fn an_idle_connection_holds_no_buffers() {
    let mut layers = open_pair();
    let idle = layers.memory_bytes();
    assert_eq!(idle, size_of::<Layers>() + 2000);
    feed(&mut layers, &encoded(&[2, 1], &[7; 100_000])).0.unwrap();
    assert_eq!(layers.memory_bytes(), idle);
}

#[test]
fn a_thread_keeps_few_buffers_and_none_that_are_large() {
    let kept = || SCRATCH.with_borrow(|kept| kept.iter().map(Vec::capacity).collect::<Vec<_>>());
    let mut lent: Vec<Scratch> = (0..5).map(|_| Scratch::take()).collect();
    lent.iter_mut().for_each(|scratch| scratch.0.push(1));
    drop(lent);
    assert_eq!(kept().len(), SCRATCH_BUFFERS_MAX);
    let mut large = Scratch::take();
    large.0.reserve_exact(SCRATCH_KEPT_BYTES_MAX + 1);
    drop(large);
    assert_eq!(kept().len(), SCRATCH_BUFFERS_MAX - 1);
    let mut fits = Scratch::take();
    fits.0 = Vec::with_capacity(SCRATCH_KEPT_BYTES_MAX);
    fits.0.push(1);
    drop(fits);
    assert!(kept().contains(&SCRATCH_KEPT_BYTES_MAX));
    assert!(Scratch::take().0.is_empty(), "a buffer is lent empty");
}

const HEADER: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 8084\r\n";
const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\nX-Forwarded-For: 198.51.100.4\r\n\r\n";

/// PROXY protocol and WebSocket, and a toy in place of TLS. The socket's peer is 10.0.0.1, which may
/// send the header of the PROXY protocol; `trusted` may send `X-Forwarded-For`.
fn three_layers(trusted: &str) -> Layers {
    let peer = std::net::SocketAddr::from(([10, 0, 0, 1], 40_000));
    let sources = AddressList::parse(["10.0.0.0/8"]).unwrap();
    let proxy = ProxySettings { sources, header_bytes_max: ProxySettings::HEADER_BYTES_MAX_DEFAULT };
    let websocket = WebSocketSettings {
        trusted_proxies: AddressList::parse([trusted]).unwrap(),
        ..WebSocketSettings::default()
    };
    Layers::new(
        Some(Box::new(ProxyProtocol::new(&Arc::new(proxy), peer).unwrap())),
        toy(1),
        Some(Box::new(WebSocket::new(Arc::new(websocket), peer))),
    )
}

#[test]
fn all_three_layers_cut_at_every_byte() {
    // A ping, and a binary frame with "hi"; both with a mask of zeros.
    let frames = b"\x89\x80\0\0\0\0\x82\x82\0\0\0\0hi";
    let input = [HEADER, b"H", &encoded(&[1], UPGRADE), &encoded(&[1], frames)].concat();
    let (mut whole, mut parts) = (three_layers("::1"), three_layers("::1"));
    let (result, decoded, output) = feed(&mut whole, &input);
    assert_eq!((result, decoded.as_slice()), (Ok(()), &b"hi"[..]));
    let (mut decoded_parts, mut output_parts) = (Vec::new(), Vec::new());
    let before = parts.memory_bytes();
    for byte in &input {
        parts.receive(&[*byte], &mut decoded_parts, &mut output_parts).unwrap();
    }
    assert_eq!((decoded_parts, &output_parts), (decoded, &output));
    assert!(output.ends_with(&encoded(&[1], b"\x8a\0")), "the pong passes through the toy");
    assert!(parts.memory_bytes() < before, "the PROXY protocol is gone after its header");
    let mut last = Vec::new();
    parts.close(&mut last);
    assert_eq!(last, [encoded(&[1], b"\x88\x02\x03\xe8"), b".".to_vec()].concat());
}

#[test]
fn an_upper_layer_believes_a_proxy_only_if_it_is_the_peer() {
    let input = [HEADER, b"H", &encoded(&[1], UPGRADE)].concat();
    // The socket's peer is trusted, but the header of the PROXY protocol shows a client behind it,
    // who could write anything into X-Forwarded-For.
    let mut layers = three_layers("10.0.0.1");
    feed(&mut layers, &input).0.unwrap();
    let facts = layers.describe();
    assert_eq!(facts.peer, Some(std::net::SocketAddr::from(([203, 0, 113, 9], 4711))));
    // The peer that the PROXY protocol shows is itself a proxy that is trusted.
    let mut layers = three_layers("203.0.113.9");
    feed(&mut layers, &input).0.unwrap();
    assert_eq!(layers.describe().peer, Some(std::net::SocketAddr::from(([198, 51, 100, 4], 0))));
}

#[test]
fn a_header_alone_opens_a_plain_connection() {
    let sources = AddressList::parse(["10.0.0.0/8"]).unwrap();
    let settings = Arc::new(ProxySettings { sources, header_bytes_max: 4096 });
    let proxy = ProxyProtocol::new(&settings, std::net::SocketAddr::from(([10, 0, 0, 1], 1))).unwrap();
    let mut layers = Layers::new(Some(Box::new(proxy)), None, None);
    assert!(!layers.is_plain() && !layers.is_open());
    let (result, decoded, output) = feed(&mut layers, &[HEADER, b"connect"].concat());
    assert_eq!((result, decoded, output), (Ok(()), b"connect".to_vec(), vec![]));
    assert!(layers.is_plain() && layers.is_open());
    assert_eq!(layers.describe().local, Some(std::net::SocketAddr::from(([192, 0, 2, 1], 8084))));
    assert_eq!(layers.memory_bytes(), size_of::<Layers>());
}
