#![allow(clippy::unwrap_used)]
use super::*;

const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: mqtt\r\n\r\n";

fn opened() -> WebSocket {
    let mut websocket = WebSocket::new("/mqtt", "a:1");
    assert!(!websocket.is_open() && websocket.goodbye().is_empty());
    websocket.read(ANSWER.as_bytes(), &mut Vec::new(), &mut Vec::new()).unwrap();
    assert!(websocket.is_open());
    websocket
}

/// A frame as a server sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let bytes = payload.len();
    let mut frame = vec![first];
    match bytes {
        0..=125 => frame.push(bytes as u8),
        126..=0xFFFF => {
            frame.push(126);
            frame.extend((bytes as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

#[test]
fn data_is_the_same_wherever_the_stream_is_cut() {
    let parts: [Vec<u8>; 5] = [vec![1], vec![2; 125], vec![3; 126], vec![], vec![4; 65_536]];
    let mut stream = ANSWER.as_bytes().to_vec();
    for (first, part) in [0x02, 0x00, 0x80, 0x82, 0x82].into_iter().zip(&parts) {
        stream.extend(frame(first, part));
        stream.extend(frame(0x89, b"ping"));
    }
    for piece in [1, 2, 7, 1000, stream.len()] {
        let mut websocket = WebSocket::new("/mqtt", "a:1");
        let (mut plain, mut replies) = (Vec::new(), Vec::new());
        for bytes in stream.chunks(piece) {
            websocket.read(bytes, &mut plain, &mut replies).unwrap();
        }
        assert!(plain == parts.concat(), "in pieces of {piece}");
        assert_eq!(replies.len(), 5 * (2 + 4 + 4), "each ping has its pong");
        assert_eq!(replies[..2], [0x8A, 0x84]);
    }
}

#[test]
fn sent_frames_have_their_length_and_a_mask() {
    let websocket = opened();
    for (bytes, head) in [(0, 6), (3, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
        let payload: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        let mut sent = payload.clone();
        let (front, length) = websocket.mask(&mut sent);
        assert_eq!((front[0], front[1] & 0x80, length), (0x82, 0x80, head));
        let said = match front[1] & 0x7F {
            126 => usize::from(u16::from_be_bytes([front[2], front[3]])),
            127 => u64::from_be_bytes(front[2..10].try_into().unwrap()) as usize,
            short => usize::from(short),
        };
        assert_eq!(said, bytes);
        let mask = &front[length - 4..length];
        let unmasked: Vec<u8> =
            sent.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert!(unmasked == payload, "{bytes} bytes");
    }
}

#[test]
fn what_a_server_must_not_send_is_named() {
    for (stream, part) in [
        (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "answered 404 Not Found; is --ws-path right?"),
        (b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: x\r\n\r\n", "does not fit to the request"),
        (b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "subprotocol mqtt"),
        (&[b'x'; ANSWER_BYTES_MAX + 1], "without an end"),
    ] {
        let mut websocket = WebSocket::new("/mqtt", "a:1");
        let failure = websocket.read(stream, &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(failure.to_string().contains(part), "{failure}");
    }
    for (stream, part) in [
        (&[0x81, 0][..], "of kind 1"),
        (&[0x82, 0x80], "with a mask"),
        (&[0xC2, 0], "reserved bits"),
        (&[0x09, 0], "of kind 9"),
        (&[0x89, 126, 0, 126], "of kind 9"),
        (&[0x88, 0], "closed by the broker"),
        (&[0x88, 6, 3, 0xE9, b'l', b'a', b't', b'e'], "closed by the broker with code 1001 late"),
    ] {
        let failure = opened().read(stream, &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(failure.to_string().contains(part), "{failure}");
    }
}
