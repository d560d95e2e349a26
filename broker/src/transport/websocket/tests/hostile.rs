//! Clients that mean harm: what they send is bounded in memory, work and output.

use proptest::prelude::*;

use super::request::{HEADERS_MAX, REQUEST_BYTES_MAX};
use super::*;

/// Gives `input` in parts of `step` bytes until it is refused. The result, and how many bytes it took.
fn until_refused(input: &[u8], step: usize) -> (Option<LayerError>, usize) {
    let mut layer = layer(WebSocketSettings::default());
    for (at, part) in input.chunks(step).enumerate() {
        let (result, above, _) = feed(&mut layer, part);
        assert!(above.is_empty());
        assert!(layer.memory_bytes() <= size_of::<WebSocket>() + 2 * REQUEST_BYTES_MAX);
        if let Err(error) = result {
            return (Some(error), at * step + part.len());
        }
    }
    (None, input.len())
}

fn answer(input: &[u8]) -> String {
    let (result, _, below) = feed(&mut layer(WebSocketSettings::default()), input);
    assert!(result.is_err(), "{}", input.escape_ascii());
    String::from_utf8(below).unwrap()
}

/// A good request that is padded with one header to `size` bytes.
fn padded(size: usize) -> Vec<u8> {
    let line = "GET /mqtt HTTP/1.1";
    let missing = size - request(line, &[("X", "y")]).len();
    request(line, &[("X", &"y".repeat(missing + 1))])
}

#[test]
fn a_request_has_8_kib_at_most() {
    let fits = padded(REQUEST_BYTES_MAX);
    assert_eq!(fits.len(), REQUEST_BYTES_MAX);
    for step in [1, 1000, fits.len()] {
        assert_eq!(until_refused(&fits, step), (None, fits.len()));
        let (error, taken) = until_refused(&padded(REQUEST_BYTES_MAX + 1), step);
        assert!(error.unwrap().to_string().contains("8 KiB"));
        assert!(taken > REQUEST_BYTES_MAX, "not before the limit");
    }
    assert!(answer(&padded(REQUEST_BYTES_MAX + 1)).starts_with("HTTP/1.1 431 "));
    // What follows the request does not count to it.
    let followed = [fits, frame(FINAL | BINARY, &[0; 10_000])].concat();
    assert_eq!(feed(&mut layer(WebSocketSettings::default()), &followed).1.len(), 10_000);
}

#[test]
fn headers_and_lines_without_end_are_refused_at_the_limit() {
    let many = [b"GET /mqtt HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(100_000)].concat();
    let long_header = [b"GET /mqtt HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; 65_536]].concat();
    let long_line = [b"GET /".to_vec(), vec![b'x'; 65_536]].concat();
    let long_method = vec![b'G'; 65_536];
    for input in [many, long_header, long_line, long_method] {
        for step in [1, 4096] {
            let (error, taken) = until_refused(&input, step);
            assert!(error.unwrap().to_string().contains("8 KiB"));
            assert!(taken <= REQUEST_BYTES_MAX + step, "{taken}");
        }
    }
}

#[test]
fn a_request_has_64_headers_at_most() {
    let with = |count: usize| {
        let more: Vec<(&str, &str)> = vec![("A", "b"); count - HEADERS.len()];
        request("GET /mqtt HTTP/1.1", &more)
    };
    feed(&mut layer(WebSocketSettings::default()), &with(HEADERS_MAX)).0.unwrap();
    assert!(answer(&with(HEADERS_MAX + 1)).starts_with("HTTP/1.1 431 "));
}

/// RFC 9112 sections 2.2 and 5.2: where recipients differ, we refuse.
#[test]
fn what_recipients_read_differently_is_refused() {
    for head in [
        "GET /mqtt HTTP/1.1\nHost: a\n\n",
        "GET /mqtt HTTP/1.1\r\nHost: a\n\r\n",
        "GET /mqtt HTTP/1.1\r\nHost: a\r\n\n",
        "GET /mqtt HTTP/1.1\r\nHost: a\r\n continued\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\nHost: a\r\n\tcontinued\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\nHost\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\n: a\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\nHo\0st: a\r\n\r\n",
        "GET /mqtt HTTP/1.1\r\nHost: \0\r\n\r\n",
        "GET  /mqtt HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /mqtt HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /mq tt HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\r\n\r\n",
    ] {
        assert!(answer(head.as_bytes()).starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head:?}");
    }
    let (error, taken) = until_refused(b"GET /mqtt HTTP/1.1\nHost: a\n\n", 1);
    assert_eq!((error.is_some(), taken), (true, 19), "at the bare line feed");
}

#[test]
fn another_protocol_is_refused_at_its_first_byte() {
    for (first, text) in [(0x10, "not MQTT over TCP"), (0x16, "without TLS"), (0, "not an HTTP request")] {
        let (error, taken) = until_refused(&[first; 100], 1);
        assert!(error.unwrap().to_string().contains(text));
        assert_eq!(taken, 1);
    }
}

/// A frame of 200 MB, and one that announces all that fits: nothing is held of them.
#[test]
fn large_frames_pass_through() {
    let mut layer = open();
    let idle = layer.memory_bytes();
    let length = 200_000_000_u64;
    feed(&mut layer, &[&[0x82, 0xff], &length.to_be_bytes()[..], b"abcd"].concat()).0.unwrap();
    let part = vec![0; 1_000_003];
    let mut rest = length as usize;
    while rest > 0 {
        let part = &part[..part.len().min(rest)];
        // The mask turns with the payload, whose first byte is not always that of the mask.
        let turned = (length as usize - rest) % 4;
        let (result, above, below) = feed(&mut layer, part);
        assert_eq!((result, below), (Ok(()), vec![]));
        let mask = b"abcd".iter().cycle().skip(turned);
        assert!(above.len() == part.len() && above.iter().zip(mask).all(|(byte, mask)| byte == mask));
        assert_eq!(layer.memory_bytes(), idle);
        rest -= part.len();
    }
    assert_eq!(feed(&mut layer, &frame(FINAL | BINARY, b"next")).1, b"next");
    feed(&mut layer, &[&[0x82, 0xff], &(u64::MAX >> 1).to_be_bytes()[..], b"abcd"].concat()).0.unwrap();
    assert_eq!(feed(&mut layer, &[0; 8]).1, b"abcdabcd");
    assert_eq!(layer.memory_bytes(), idle);
}

#[test]
fn a_flood_of_pings_makes_one_pong_for_each_input() {
    let mut layer = open();
    let flood = frame(FINAL | PING, &[1; 125]).repeat(10_000);
    let (result, above, below) = feed(&mut layer, &flood);
    assert_eq!((result, above), (Ok(()), vec![]));
    assert_eq!(below.len(), 127);
    let (mut sent, mut received) = (0, 0);
    for byte in frame(FINAL | PING, b"").repeat(1000) {
        sent += 1;
        received += feed(&mut layer, &[byte]).2.len();
    }
    assert!(received < sent, "the smallest ping has 6 bytes, its pong 2");
    assert_eq!(layer.memory_bytes(), size_of::<WebSocket>());
}

#[test]
fn empty_frames_cost_nothing() {
    let mut layer = open();
    let fragments = [frame(BINARY, b""), frame(CONTINUATION, b"").repeat(100_000)].concat();
    assert_eq!(feed(&mut layer, &fragments), (Ok(()), vec![], vec![]));
    assert_eq!(layer.memory_bytes(), size_of::<WebSocket>());
}

/// What a layer that is open makes of `parts`: the data, and the error if there is one.
fn run<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<LayerError>) {
    let (mut layer, mut data) = (open(), Vec::new());
    for part in parts {
        let (result, mut above, below) = feed(&mut layer, part);
        data.append(&mut above);
        assert!(below.len() <= 127 + 4, "a pong and a close frame at most");
        assert!(layer.memory_bytes() <= size_of::<WebSocket>() + 256);
        if let Err(error) = result {
            return (data, Some(error));
        }
    }
    (data, None)
}

proptest! {
    /// Any bytes after the upgrade: no panic, bounded, and the same however they are cut.
    #[test]
    fn any_frames_in_any_parts(
        pieces in proptest::collection::vec(
            (any::<u8>(), prop_oneof![0x80..=0xff_u8, 0x80..0x90_u8], proptest::collection::vec(any::<u8>(), 0..24)),
            1..20,
        ),
        step in 1..30_usize,
    ) {
        let likely = |first: u8| if first < 0x60 { 0x80 | [0, 1, 2, 2, 2, 8, 9, 10][usize::from(first & 7)] } else { first };
        let input: Vec<u8> = pieces
            .iter()
            .flat_map(|(first, second, tail)| [&[likely(*first), *second], &tail[..]].concat())
            .collect();
        prop_assert_eq!(run([&input[..]].into_iter()), run(input.chunks(step)));
    }

    /// Any bytes as a request: no panic, and the same however they are cut.
    #[test]
    fn any_request_in_any_parts(
        head in "(GET|POST|G) [ -~]{0,9} HTTP/1.[01](\r\n|\n)([A-Za-z-]{0,5}: ?[ -~]{0,9}(\r\n|\r|\n)){0,4}\r\n",
        bytes in proptest::collection::vec(any::<u8>(), 0..30),
        step in 1..30_usize,
    ) {
        let input = [head.as_bytes(), &bytes].concat();
        let whole = feed(&mut layer(WebSocketSettings::default()), &input);
        let (mut layer, mut below, mut result) = (layer(WebSocketSettings::default()), Vec::new(), Ok(()));
        for part in input.chunks(step) {
            let mut fed = feed(&mut layer, part);
            below.append(&mut fed.2);
            result = fed.0;
            if result.is_err() {
                break;
            }
        }
        prop_assert_eq!((result, below), (whole.0, whole.2));
    }
}
