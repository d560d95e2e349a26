//! Peers that break the protocol, or use it to cost memory or work.

use super::certificates::Listener;
use super::raw::{ALERT, DATA, HANDSHAKE, Raw};
use super::session::{Session, TLS12, TLS13, client, refusal};
use crate::transport::tls::{
    ClientCertificates, HANDSHAKE_BYTES_MAX, RECORD_BYTES_MAX, SLICE_BYTES, TlsLayer,
};
use crate::transport::{Layer as _, LayerError};

fn layer() -> TlsLayer {
    TlsLayer::new(&Listener::new().load()).unwrap()
}

/// Gives bytes to a layer. Returns the result and what is to be sent.
fn receive(layer: &mut TlsLayer, bytes: &[u8]) -> (Result<(), LayerError>, Vec<u8>) {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    let result = layer.receive(bytes, &mut above, &mut below);
    assert!(above.len() <= bytes.len());
    (result, below)
}

fn raw(version: &'static rustls::SupportedProtocolVersion) -> Raw {
    let listener = Listener::new();
    Raw::new(Session::open(&listener.load(), client(&listener.ca, version, None)))
}

/// A plain handshake record.
fn plain(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[HANDSHAKE, 3, 1, length[0], length[1]][..], content].concat()
}

#[test]
fn what_is_not_tls_is_named_and_answered_with_an_alert() {
    for (input, byte) in
        [(&b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"[..], "0x10"), (b"GET / HTTP/1.1\r\n\r\n", "0x47")]
    {
        let mut layer = layer();
        let (result, below) = receive(&mut layer, input);
        assert_eq!(
            refusal(result),
            format!("TLS: what the client sends is not TLS, it begins with the byte {byte}")
        );
        // A fatal alert decode_error.
        assert_eq!(below, [ALERT, 3, 3, 0, 2, 2, 50]);
        assert_eq!(receive(&mut layer, input), (Err(LayerError::Closed), Vec::new()));
        let mut below = Vec::new();
        layer.close(&mut below);
        assert_eq!(below, b"");
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut state: u64 = 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    let config = Listener::new().load();
    for round in 0..2_000 {
        let mut input: Vec<u8> = (0..100 + round % 400).map(|_| next()).collect();
        if round % 2 == 0 {
            // A header that is accepted.
            input[..5].copy_from_slice(&[HANDSHAKE, 3, 1, 0, 60]);
        }
        let mut layer = TlsLayer::new(&config).unwrap();
        for part in input.chunks(usize::from(next()).max(1)) {
            if receive(&mut layer, part).0.is_err() {
                break;
            }
        }
        assert!(layer.kept.len() <= HANDSHAKE_BYTES_MAX);
    }
}

#[test]
fn changed_bytes_of_a_handshake_never_panic() {
    let listener = Listener::with_clients(ClientCertificates::Optional);
    let config = listener.load();
    for version in [TLS12, TLS13] {
        let length = Session::new(&config, client(&listener.ca, version, None)).client_output().len();
        for place in 0..length {
            let mut session = Session::new(&config, client(&listener.ca, version, None));
            let mut hello = session.client_output();
            if let Some(byte) = hello.get_mut(place) {
                *byte ^= 0x55;
            }
            if session.feed_layer(&hello).is_ok() {
                let _ = session.exchange();
            }
            assert!(session.layer.kept.len() <= HANDSHAKE_BYTES_MAX);
        }
    }
}

#[test]
fn garbage_behind_a_client_hello_ends_the_handshake() {
    let listener = Listener::new();
    for garbage in [&[0xff; 5_000][..], &[DATA, 3, 3, 0xff, 0xff], &plain(&[99; 50]), &[DATA, 3, 3, 0, 0]] {
        for version in [TLS12, TLS13] {
            let mut session = Session::new(&listener.load(), client(&listener.ca, version, None));
            let hello = [&session.client_output()[..], garbage].concat();
            let (result, below) = receive(&mut session.layer, &hello);
            assert!(refusal(result).starts_with("TLS: "));
            // The answer to the ClientHello was sent before.
            assert!(below.len() > 500, "{}", below.len());
            assert_eq!(session.layer.kept.capacity(), 0);
        }
    }
}

#[test]
fn a_message_that_announces_much_is_refused_when_it_is_too_long() {
    // A ClientHello of 16 MiB: refused with its first record.
    let (result, _) = receive(&mut layer(), &plain(&[1, 0xff, 0xff, 0xff, 3, 3]));
    assert!(refusal(result).starts_with("TLS: received corrupt message"));
    // One of 60,000 bytes, which rustls would take.
    let mut layer = layer();
    let mut records = plain(&[&[1, 0, 0xea, 0x60][..], &[0; 996]].concat());
    let mut received = 0;
    let why = loop {
        received += records.len();
        let (result, below) = receive(&mut layer, &records);
        assert_eq!(below, b"");
        if result.is_err() {
            break refusal(result);
        }
        assert!(layer.kept.capacity() <= HANDSHAKE_BYTES_MAX + SLICE_BYTES);
        records = plain(&[0; 1_000]);
    };
    assert_eq!(why, format!("TLS: a message has more than {HANDSHAKE_BYTES_MAX} bytes"));
    assert!((HANDSHAKE_BYTES_MAX..HANDSHAKE_BYTES_MAX + 2_000).contains(&received));
    assert_eq!(layer.kept.capacity(), 0);
}

#[test]
fn a_client_hello_in_records_of_one_byte_works_within_the_limit() {
    let listener = Listener::new();
    for version in [TLS12, TLS13] {
        let mut session = Session::new(&listener.load(), client(&listener.ca, version, None));
        let hello = session.client_output();
        let small: Vec<u8> = hello[5..].iter().flat_map(|&byte| plain(&[byte])).collect();
        assert_eq!(session.feed_layer(&small), Ok(()));
        assert_eq!(session.exchange(), Ok(()));
        session.check_data();
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_by_its_header() {
    for version in [TLS12, TLS13] {
        let mut other = raw(version);
        let (result, below) = receive(&mut other.layer, &[DATA, 3, 3, 0x48, 0x01]);
        assert!(refusal(result).starts_with("TLS: "));
        assert!(!below.is_empty());
        // One that is not too long is kept until it is whole, and no more than that.
        let mut raw = raw(version);
        let mut input = vec![DATA, 3, 3, 0x40, 0x11];
        input.resize(0x4011 + 4, 0);
        for part in input.chunks(100) {
            assert_eq!(receive(&mut raw.layer, part).0, Ok(()));
            assert!(raw.layer.kept.capacity() <= 2 * RECORD_BYTES_MAX);
        }
        assert!(raw.layer.memory_bytes() > input.len());
        let (result, below) = receive(&mut raw.layer, &[0]);
        assert_eq!(refusal(result), "TLS: cannot decrypt peer's message");
        assert!(!below.is_empty());
        assert_eq!(raw.layer.kept.capacity(), 0);
    }
}

#[test]
fn empty_records_are_bounded() {
    for version in [TLS12, TLS13] {
        let mut raw = raw(version);
        // 32 in a row are allowed, and data set the count back.
        for _ in 0..3 {
            let empty: Vec<u8> = (0..32).flat_map(|_| raw.record(DATA, b"")).collect();
            assert_eq!(receive(&mut raw.layer, &empty).0, Ok(()));
            let data = raw.record(DATA, b"x");
            assert_eq!(receive(&mut raw.layer, &data).0, Ok(()));
        }
        let empty: Vec<u8> = (0..33).flat_map(|_| raw.record(DATA, b"")).collect();
        assert!(refusal(receive(&mut raw.layer, &empty).0).contains("TooManyEmptyFragments"));
    }
}

#[test]
fn records_of_one_byte_cost_work_in_proportion() {
    for version in [TLS12, TLS13] {
        let mut raw = raw(version);
        let records: Vec<u8> = (0..20_000).flat_map(|_| raw.record(DATA, b"x")).collect();
        let (mut above, mut below) = (Vec::new(), Vec::new());
        raw.layer.receive(&records, &mut above, &mut below).unwrap();
        assert_eq!((above.len(), below.len(), raw.layer.kept.capacity()), (20_000, 0, 0));
    }
}

#[test]
fn key_updates_without_data_are_bounded() {
    let listener = Listener::new();
    let mut session = Session::open(&listener.load(), client(&listener.ca, TLS13, None));
    let mut answered = 0;
    for round in 0..33 {
        session.client.refresh_traffic_keys().unwrap();
        let bytes = session.client_output();
        let (result, below) = receive(&mut session.layer, &bytes);
        answered += below.len();
        match result {
            Ok(()) => assert!(round < 32),
            refused => {
                assert_eq!(round, 32);
                assert!(refusal(refused).contains("TooManyKeyUpdateRequests"));
            }
        }
    }
    // The request is answered with the next data at the earliest: a flood of them makes nothing
    // grow.
    assert_eq!(answered, 0);
}

#[test]
fn a_message_after_the_handshake_is_bounded_too() {
    let mut raw = raw(TLS13);
    // A KeyUpdate that announces 60,000 bytes and comes in pieces.
    let mut content = [&[24, 0, 0xea, 0x60][..], &[0; 996]].concat();
    let why = loop {
        let record = raw.record(HANDSHAKE, &content);
        let result = receive(&mut raw.layer, &record).0;
        if result.is_err() {
            break refusal(result);
        }
        content = vec![0; 1_000];
        assert!(raw.layer.kept.len() <= RECORD_BYTES_MAX);
    };
    assert_eq!(why, format!("TLS: a message has more than {RECORD_BYTES_MAX} bytes"));
}

#[test]
fn renegotiation_is_declined_once_and_then_ends_the_connection() {
    let listener = Listener::new();
    let hello = Session::new(&listener.load(), client(&listener.ca, TLS12, None)).client_output();
    let mut raw = raw(TLS12);
    let first = raw.record(HANDSHAKE, &hello[5..]);
    let (result, below) = receive(&mut raw.layer, &first);
    // A warning no_renegotiation, encrypted.
    assert_eq!((result, below.first(), below.len()), (Ok(()), Some(&ALERT), 5 + 8 + 2 + 16));
    let data = raw.record(DATA, b"still works");
    assert_eq!(receive(&mut raw.layer, &data).0, Ok(()));
    let second = raw.record(HANDSHAKE, &hello[5..]);
    assert!(refusal(receive(&mut raw.layer, &second).0).contains("TooManyRenegotiationRequests"));
}

#[test]
fn warnings_are_bounded() {
    let mut raw = raw(TLS12);
    // user_canceled, as a warning.
    let warnings: Vec<u8> = (0..4).flat_map(|_| raw.record(ALERT, &[1, 90])).collect();
    assert_eq!(receive(&mut raw.layer, &warnings), (Ok(()), Vec::new()));
    let fifth = raw.record(ALERT, &[1, 90]);
    assert!(refusal(receive(&mut raw.layer, &fifth).0).contains("TooManyWarningAlertsReceived"));
}

#[test]
fn a_record_that_was_changed_or_repeated_ends_the_connection_with_an_alert() {
    for version in [TLS12, TLS13] {
        let mut raw = raw(version);
        let record = raw.record(DATA, b"data");
        assert_eq!(receive(&mut raw.layer, &record).0, Ok(()));
        let mut above = Vec::new();
        let mut below = Vec::new();
        let fresh = raw.record(DATA, b"before");
        let input = [&fresh[..], &record].concat();
        let result = raw.layer.receive(&input, &mut above, &mut below);
        assert_eq!(refusal(result), "TLS: cannot decrypt peer's message");
        // What was good before it has arrived.
        assert_eq!(above, b"before");
        assert!(!below.is_empty());
        assert!(!raw.layer.is_open());
    }
}
