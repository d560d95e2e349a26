//! The broker's side against another implementation as the client: tungstenite, in memory.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use proptest::prelude::*;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::{CloseCode as PeerCode, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::{Message, WebSocket as Peer};

use super::*;

/// Both directions between the client and the layer.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<(Vec<u8>, Vec<u8>)>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, to_client) = &mut *self.0.borrow_mut();
        if to_client.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = buffer.len().min(to_client.len());
        buffer[..count].copy_from_slice(&to_client[..count]);
        to_client.drain(..count);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Both sides after the upgrade.
struct Pair {
    client: Peer<Wire>,
    wire: Wire,
    broker: WebSocket,
    /// What the broker has decoded.
    data: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let wire = Wire::default();
        let mut request = "ws://broker.example/mqtt".into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
        let Err(HandshakeError::Interrupted(waiting)) = tungstenite::client::client(request, wire.clone())
        else {
            panic!("the client must wait for the answer")
        };
        let mut broker = layer(WebSocketSettings::default());
        let input = std::mem::take(&mut wire.0.borrow_mut().0);
        let (result, above, below) = feed(&mut broker, &input);
        assert_eq!((result, above), (Ok(()), vec![]));
        wire.0.borrow_mut().1 = below;
        // The client checks the accept key and the subprotocol itself.
        let (client, answer) = waiting.handshake().unwrap();
        assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "mqtt");
        Pair { client, wire, broker, data: Vec::new() }
    }

    /// Gives the broker what the client has written, in parts of `step` bytes.
    fn deliver(&mut self, step: usize) -> Result<(), LayerError> {
        let input = std::mem::take(&mut self.wire.0.borrow_mut().0);
        for part in input.chunks(step) {
            let (result, mut above, below) = feed(&mut self.broker, part);
            self.data.append(&mut above);
            self.wire.0.borrow_mut().1.extend(below);
            result?;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut below = Vec::new();
        self.broker.send(bytes, &mut below).unwrap();
        self.wire.0.borrow_mut().1.extend(below);
    }
}

#[test]
fn a_ping_of_the_client_is_answered() {
    let mut pair = Pair::new();
    pair.client.send(Message::Ping("x".into())).unwrap();
    pair.deliver(1).unwrap();
    assert_eq!(pair.client.read().unwrap(), Message::Pong("x".into()));
}

#[test]
fn the_client_closes() {
    let mut pair = Pair::new();
    pair.client.close(Some(CloseFrame { code: PeerCode::Away, reason: "bye".into() })).unwrap();
    assert_eq!(pair.deliver(7), Err(LayerError::Closed));
    let Message::Close(Some(answer)) = pair.client.read().unwrap() else { panic!("no close frame") };
    assert_eq!(answer.code, PeerCode::Away);
}

#[test]
fn the_broker_closes() {
    let mut pair = Pair::new();
    let mut below = Vec::new();
    pair.broker.close(&mut below);
    pair.wire.0.borrow_mut().1.extend(below);
    let Message::Close(Some(close)) = pair.client.read().unwrap() else { panic!("no close frame") };
    assert_eq!(close.code, PeerCode::Normal);
    // The client answers while it reads on; the broker then knows that both sides are done.
    assert!(matches!(pair.client.read(), Err(Error::Io(_) | Error::ConnectionClosed)));
    assert_eq!(pair.deliver(1), Err(LayerError::Closed));
}

/// [MQTT-6.0.0-1]
#[test]
fn text_of_the_client_is_refused() {
    let mut pair = Pair::new();
    pair.client.send(Message::Text("connect".into())).unwrap();
    assert!(matches!(pair.deliver(1), Err(LayerError::Refused(_))));
    let Message::Close(Some(close)) = pair.client.read().unwrap() else { panic!("no close frame") };
    assert_eq!(close.code, PeerCode::Unsupported);
}

#[test]
fn the_client_reads_the_refusal_of_a_request() {
    let wire = Wire::default();
    let Err(HandshakeError::Interrupted(waiting)) =
        tungstenite::client::client("ws://broker.example/other", wire.clone())
    else {
        panic!("the client must wait for the answer")
    };
    let input = std::mem::take(&mut wire.0.borrow_mut().0);
    wire.0.borrow_mut().1 = feed(&mut layer(WebSocketSettings::default()), &input).2;
    let Err(HandshakeError::Failure(Error::Http(answer))) = waiting.handshake() else {
        panic!("not an answer in HTTP")
    };
    assert_eq!(answer.status(), 404);
}

#[test]
fn the_client_takes_no_frame_that_is_masked() {
    // Shows that the client of these tests is strict, so that what it accepts says something.
    let pair = Pair::new();
    pair.wire.0.borrow_mut().1.extend(frame(FINAL | BINARY, b"x"));
    let mut client = pair.client;
    assert!(matches!(client.read(), Err(Error::Protocol(ProtocolError::MaskedFrameFromServer))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What either side sends, the other gets, whatever the sizes and cuts.
    #[test]
    fn both_directions(
        sizes in proptest::collection::vec(prop_oneof![0..300_usize, 65_530..65_540_usize], 1..12),
        fragment in 1..40_000_usize,
        step in prop_oneof![1..20_usize, 1000..90_000_usize],
    ) {
        let mut pair = Pair::new();
        let mut expected = Vec::new();
        for (at, size) in sizes.iter().enumerate() {
            let bytes: Vec<u8> = (0..*size).map(|index| (index * 31 + at) as u8).collect();
            let fragments: Vec<&[u8]> = bytes.chunks(fragment).collect();
            for (index, part) in fragments.iter().enumerate() {
                let opcode = if index == 0 { Data::Binary } else { Data::Continue };
                let is_final = index + 1 == fragments.len();
                let header = FrameHeader { is_final, opcode: OpCode::Data(opcode), ..FrameHeader::default() };
                let frame = Frame::from_payload(header, part.to_vec().into());
                pair.client.send(Message::Frame(frame)).unwrap();
            }
            pair.deliver(step).unwrap();
            expected.extend_from_slice(&bytes);
            pair.send(&bytes);
            prop_assert_eq!(pair.client.read().unwrap(), Message::Binary(bytes.into()));
        }
        prop_assert_eq!(pair.data, expected);
    }
}
