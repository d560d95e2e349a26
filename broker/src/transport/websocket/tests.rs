//! WebSocket in memory. Section numbers are those of RFC 6455 unless another document is named.

use super::forwarded::ForwardedHeader;
use super::*;
use crate::transport::address_list::AddressList;

mod forwarded;
mod frames;
mod hostile;
mod peer;
mod upgrade;

const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);

fn layer(settings: WebSocketSettings) -> WebSocket {
    WebSocket::new(Arc::new(settings), std::net::SocketAddr::from(PEER))
}

/// The headers of a client that does everything as it should.
const HEADERS: [(&str, &str); 6] = [
    ("Host", "broker.example"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Protocol", "mqtt"),
];

/// A request of such a client with `changes`: a value replaces that of the header or adds one, and
/// an empty value takes the header away.
fn request(line: &str, changes: &[(&str, &str)]) -> Vec<u8> {
    let kept = HEADERS.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let changed = changes.iter().filter(|(_, value)| !value.is_empty());
    let lines: String = kept.chain(changed).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line}\r\n{lines}\r\n").into_bytes()
}

fn good() -> Vec<u8> {
    request("GET /mqtt HTTP/1.1", &[])
}

/// What a layer does with one input: its result, bytes for above, bytes for below.
type Fed = (Result<(), LayerError>, Vec<u8>, Vec<u8>);

fn feed(layer: &mut WebSocket, input: &[u8]) -> Fed {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    let result = layer.receive(input, &mut above, &mut below);
    assert!(above.len() <= input.len(), "never more bytes than received");
    (result, above, below)
}

/// A layer after its upgrade.
fn open() -> WebSocket {
    let mut layer = layer(WebSocketSettings::default());
    feed(&mut layer, &good()).0.unwrap();
    assert!(layer.is_open());
    layer
}

const FINAL: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame of a client, written as section 5.2 has it. `first` is the first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, payload.len() as u8];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

/// A close frame of the broker with `code`.
fn close_frame(code: u16) -> Vec<u8> {
    [&[0x88, 2], &code.to_be_bytes()[..]].concat()
}
