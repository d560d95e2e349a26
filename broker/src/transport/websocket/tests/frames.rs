//! Frames: their order, control frames, the end, and random cuts against a simple reference.

use proptest::prelude::*;

use super::*;

/// The close code with which `input` is refused by a layer that is open.
fn code(input: &[u8]) -> u16 {
    let mut layer = open();
    let (result, _, below) = feed(&mut layer, input);
    assert!(matches!(result, Err(LayerError::Refused(_))), "{result:?} for {}", input.escape_ascii());
    assert!(!layer.is_open());
    assert_eq!(feed(&mut layer, input), (Err(LayerError::Closed), vec![], vec![]));
    let [0x88, 2, high, low] = below[..] else { panic!("no close frame: {below:?}") };
    u16::from_be_bytes([high, low])
}

fn payload(input: &[u8]) -> Vec<u8> {
    let (result, above, below) = feed(&mut open(), input);
    assert_eq!((result, below), (Ok(()), vec![]));
    above
}

/// Section 5.7
#[test]
fn the_example_of_the_rfc() {
    let mut layer = open();
    let (_, above, _) = feed(&mut layer, b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(above, b"Hello");
    let (_, _, below) = feed(&mut layer, b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(below, b"\x8a\x05Hello");
}

/// [MQTT-6.0.0-2]: "The Server MUST NOT assume that MQTT Control Packets are aligned on WebSocket
/// frame boundaries".
#[test]
fn messages_and_fragments_are_one_stream_of_bytes() {
    let input = [
        frame(BINARY, b"ab"),
        frame(CONTINUATION, b""),
        frame(CONTINUATION, b"c"),
        frame(FINAL | CONTINUATION, b"d"),
        frame(FINAL | BINARY, b""),
        frame(FINAL | BINARY, b"efg"),
    ];
    assert_eq!(payload(&input.concat()), b"abcdefg");
}

#[test]
fn every_size_at_which_the_header_changes() {
    for size in [0, 1, 3, 4, 15, 16, 17, 125, 126, 127, 65_535, 65_536, 65_537, 200_000] {
        let bytes: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
        assert_eq!(payload(&frame(FINAL | BINARY, &bytes)), bytes, "{size}");
    }
}

/// [MQTT-6.0.0-1]
#[test]
fn text_frames_end_the_connection() {
    assert_eq!(code(&frame(FINAL | TEXT, b"connect")), 1003);
    assert_eq!(code(&frame(TEXT, b"")), 1003);
}

/// Sections 5.1, 5.2, 5.4, 5.5
#[test]
fn violations_are_refused_with_1002() {
    let unmasked = [0x82, 2, b'h', b'i'];
    assert_eq!(code(&unmasked), 1002);
    assert_eq!(code(&[0x8a, 0]), 1002, "a pong without mask");
    for reserved in [0x40, 0x20, 0x10, 0x70] {
        assert_eq!(code(&frame(FINAL | reserved | BINARY, b"x")), 1002, "{reserved:#x}");
        assert_eq!(code(&frame(FINAL | reserved | PING, b"x")), 1002, "{reserved:#x}");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(code(&frame(FINAL | opcode, b"x")), 1002, "opcode {opcode}");
    }
    assert_eq!(code(&frame(FINAL | CONTINUATION, b"x")), 1002);
    assert_eq!(code(&[frame(BINARY, b"x"), frame(FINAL | BINARY, b"y")].concat()), 1002);
    for control in [CLOSE, PING, PONG] {
        assert_eq!(code(&frame(control, b"")), 1002, "fragmented");
        assert_eq!(code(&frame(FINAL | control, &[7; 126])), 1002, "too long");
        assert_eq!(code(&[FINAL | control, 0x80 | 126]), 1002, "refused before its payload comes");
    }
}

/// Section 5.2: "the minimal number of bytes MUST be used", "the most significant bit MUST be 0".
#[test]
fn lengths_are_minimal_and_have_63_bits() {
    let long =
        |length: &[u8]| [&[0x82, if length.len() == 2 { 0xfe } else { 0xff }], length, &[0; 4]].concat();
    assert_eq!(code(&long(&125_u16.to_be_bytes())), 1002);
    assert_eq!(code(&long(&0_u16.to_be_bytes())), 1002);
    assert_eq!(code(&long(&65_535_u64.to_be_bytes())), 1002);
    assert_eq!(code(&long(&0_u64.to_be_bytes())), 1002);
    assert_eq!(code(&long(&(1_u64 << 63).to_be_bytes())), 1002);
    assert_eq!(code(&long(&u64::MAX.to_be_bytes())), 1002);
    for right in [126_u16.to_be_bytes().to_vec(), 65_536_u64.to_be_bytes().to_vec()] {
        assert_eq!(payload(&long(&right)), b"");
    }
    assert_eq!(payload(&long(&(u64::MAX >> 1).to_be_bytes())), b"", "costs nothing until it comes");
}

#[test]
fn what_came_before_a_violation_counts() {
    let input = [frame(FINAL | BINARY, b"disconnect"), frame(FINAL | TEXT, b"")].concat();
    let (result, above, below) = feed(&mut open(), &input);
    assert_eq!((above.as_slice(), below), (&b"disconnect"[..], close_frame(1003)));
    assert_eq!(
        result.unwrap_err().to_string(),
        "the client broke the WebSocket protocol: a text frame; MQTT is sent in binary frames"
    );
}

/// Sections 5.4 and 5.5
#[test]
fn control_frames_come_between_fragments() {
    let input = [
        frame(BINARY, b"ab"),
        frame(FINAL | PING, &[9; 125]),
        frame(FINAL | PONG, b"unasked"),
        frame(FINAL | CONTINUATION, b"cd"),
    ];
    let (result, above, below) = feed(&mut open(), &input.concat());
    assert_eq!((result, above.as_slice()), (Ok(()), &b"abcd"[..]));
    assert_eq!(below, [&[0x8a, 125][..], &[9; 125]].concat());
}

/// Section 5.5.3
#[test]
fn the_last_ping_of_an_input_is_answered() {
    let mut layer = open();
    let input = [frame(FINAL | PING, b"1"), frame(FINAL | PING, b""), frame(FINAL | PING, b"3")].concat();
    assert_eq!(feed(&mut layer, &input).2, b"\x8a\x013");
    assert_eq!(feed(&mut layer, &frame(FINAL | PING, b"")).2, b"\x8a\0");
    assert_eq!(feed(&mut layer, &frame(FINAL | BINARY, b"x")).2, b"", "once only");
}

/// Sections 5.5.1 and 7.4
#[test]
fn a_close_frame_is_answered_with_its_code() {
    let closed = |body: &[u8]| {
        let mut layer = open();
        let input = [frame(FINAL | BINARY, b"x"), frame(FINAL | CLOSE, body), frame(FINAL | BINARY, b"y")];
        let (result, above, below) = feed(&mut layer, &input.concat());
        assert_eq!((result, above.as_slice()), (Err(LayerError::Closed), &b"x"[..]), "{body:?}");
        assert!(!layer.is_open());
        below
    };
    assert_eq!(closed(b""), [0x88, 0]);
    for code in [1000_u16, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
        assert_eq!(closed(&code.to_be_bytes()), close_frame(code));
    }
    let with_reason = [&1000_u16.to_be_bytes()[..], "tschüß".as_bytes()].concat();
    assert_eq!(closed(&with_reason), close_frame(1000));
}

#[test]
fn close_frames_that_are_wrong() {
    assert_eq!(code(&frame(FINAL | CLOSE, &[3])), 1002, "half a code");
    for wrong in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        assert_eq!(code(&frame(FINAL | CLOSE, &wrong.to_be_bytes())), 1002, "{wrong}");
    }
    // Section 8.1
    assert_eq!(code(&frame(FINAL | CLOSE, b"\x03\xe8\xff")), 1007);
}

/// Sections 5.5.1 and 7.1.2
#[test]
fn the_broker_ends_the_connection() {
    let mut layer = open();
    let mut below = Vec::new();
    layer.close(&mut below);
    assert_eq!(below, close_frame(1000));
    assert!(!layer.is_open());
    assert_eq!(layer.send(b"late", &mut below), Err(LayerError::Closed));
    let late = [frame(FINAL | BINARY, b"late"), frame(FINAL | PING, b"")].concat();
    assert_eq!(feed(&mut layer, &late), (Ok(()), vec![], vec![]), "discarded and not answered");
    let echo = frame(FINAL | CLOSE, &1000_u16.to_be_bytes());
    assert_eq!(feed(&mut layer, &echo), (Err(LayerError::Closed), vec![], vec![]));
}

/// Section 5.1: "A server MUST NOT mask any frames that it sends".
#[test]
fn each_send_is_one_binary_frame() {
    let header = |size: usize| {
        let mut below = b"before".to_vec();
        let bytes = vec![7; size];
        open().send(&bytes, &mut below).unwrap();
        let frame = below.strip_prefix(b"before").unwrap();
        assert!(frame.ends_with(&bytes));
        frame[..frame.len() - size].to_vec()
    };
    assert_eq!(header(1), [0x82, 1]);
    assert_eq!(header(125), [0x82, 125]);
    assert_eq!(header(126), [0x82, 126, 0, 126]);
    assert_eq!(header(65_535), [0x82, 126, 0xff, 0xff]);
    assert_eq!(header(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

/// The payload of a fragment, and that of the control frame before it, if any, with whether it is a
/// ping.
type Fragment = (Vec<u8>, Option<(bool, Vec<u8>)>);

fn message() -> impl Strategy<Value = Vec<Fragment>> {
    let size = prop_oneof![0..20_usize, 120..130_usize, Just(65_536)];
    let bytes = size.prop_map(|size| (0..size).map(|at| (at * 7) as u8).collect());
    let control = proptest::option::of((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..126)));
    proptest::collection::vec((bytes, control), 1..4)
}

proptest! {
    /// Messages with any fragments and control frames, cut anywhere, give their bytes in order, and
    /// the last ping of each input as a pong.
    #[test]
    fn any_messages_in_any_parts(
        messages in proptest::collection::vec(message(), 1..5),
        steps in proptest::collection::vec(prop_oneof![1..9_usize, 1..70_000_usize], 1..9),
    ) {
        let (mut input, mut data, mut pings) = (Vec::new(), Vec::<u8>::new(), Vec::new());
        for fragments in &messages {
            for (at, (bytes, control)) in fragments.iter().enumerate() {
                if let Some((is_ping, body)) = control {
                    input.extend(frame(FINAL | if *is_ping { PING } else { PONG }, body));
                    if *is_ping {
                        pings.push((input.len(), body.clone()));
                    }
                }
                let opcode = if at == 0 { BINARY } else { CONTINUATION };
                let fin = if at + 1 == fragments.len() { FINAL } else { 0 };
                input.extend(frame(fin | opcode, bytes));
                data.extend(bytes);
            }
        }
        let (mut layer, mut above, mut end) = (open(), Vec::new(), 0);
        let mut steps = steps.iter().cycle();
        while end < input.len() {
            let begin = end;
            end = input.len().min(begin + steps.next().unwrap());
            let (result, mut decoded, below) = feed(&mut layer, &input[begin..end]);
            prop_assert_eq!(result, Ok(()));
            above.append(&mut decoded);
            let pong = pings.iter().rfind(|(at, _)| (begin + 1..=end).contains(at));
            let pong = pong.map(|(_, body)| [&[0x8a, body.len() as u8], &body[..]].concat());
            prop_assert_eq!(below, pong.unwrap_or_default());
            prop_assert!(layer.memory_bytes() <= size_of::<WebSocket>() + 256);
        }
        prop_assert_eq!(above, data);
        prop_assert_eq!(layer.memory_bytes(), size_of::<WebSocket>());
    }
}
