//! Records as they come: in pieces, several at once, large; the end of a connection; and a layer
//! that moves to another thread.

use std::io::Read as _;

use super::certificates::Listener;
use super::raw::{DATA, Raw};
use super::session::{Session, TLS12, TLS13, client};
use crate::transport::{Layer as _, LayerError};

#[test]
fn a_connection_works_however_its_bytes_are_cut() {
    let listener = Listener::new();
    let config = listener.load();
    for version in [TLS12, TLS13] {
        // Each byte by itself.
        let mut session = Session::new(&config, client(&listener.ca, version, None));
        for _ in 0..2 {
            loop {
                let bytes = session.client_output();
                if bytes.is_empty() {
                    break;
                }
                for byte in bytes {
                    assert_eq!(session.feed_layer(&[byte]), Ok(()));
                }
            }
            session.client_sends(b"hello").unwrap();
        }
        assert_eq!(session.above, b"hellohello");
        // One cut, at each place of the first flight and of a record.
        let length = Session::new(&config, client(&listener.ca, version, None)).client_output().len();
        for place in 1..length {
            let mut session = Session::new(&config, client(&listener.ca, version, None));
            let hello = session.client_output();
            session.feed_layer(&hello[..place.min(hello.len())]).unwrap();
            session.feed_layer(&hello[place.min(hello.len())..]).unwrap();
            assert_eq!(session.exchange(), Ok(()));
            assert!(session.layer.is_open(), "cut at {place}");
        }
        let mut raw = Raw::new(Session::open(&config, client(&listener.ca, version, None)));
        for place in 0..=raw.record(DATA, b"some data").len() {
            let mut raw = Raw::new(Session::open(&config, client(&listener.ca, version, None)));
            let record = raw.record(DATA, b"some data");
            let mut above = Vec::new();
            raw.layer.receive(&record[..place], &mut above, &mut Vec::new()).unwrap();
            raw.layer.receive(&record[place..], &mut above, &mut Vec::new()).unwrap();
            assert_eq!(above, b"some data", "cut at {place}");
        }
    }
}

#[test]
fn several_records_and_a_part_of_another_in_one_input() {
    let listener = Listener::new();
    for version in [TLS12, TLS13] {
        let mut raw = Raw::new(Session::open(&listener.load(), client(&listener.ca, version, None)));
        let records =
            [raw.record(DATA, b"one "), raw.record(DATA, b"two "), raw.record(DATA, b"three")].concat();
        let (first, rest) = records.split_at(records.len() - 10);
        let (mut above, mut below) = (Vec::new(), Vec::new());
        raw.layer.receive(first, &mut above, &mut below).unwrap();
        assert_eq!(above, b"one two ");
        assert!(!raw.layer.kept.is_empty());
        raw.layer.receive(rest, &mut above, &mut below).unwrap();
        assert_eq!(above, b"one two three");
        assert_eq!((raw.layer.kept.capacity(), below.len()), (0, 0));
        // What is already there is not touched.
        let record = raw.record(DATA, b"!");
        raw.layer.receive(&record, &mut above, &mut below).unwrap();
        assert_eq!(above, b"one two three!");
    }
}

#[test]
fn a_mebibyte_passes_in_both_directions() {
    let listener = Listener::new();
    let payload: Vec<u8> =
        (0..1 << 20).map(|place: u32| place.to_le_bytes()[1] ^ place.to_le_bytes()[0]).collect();
    for version in [TLS12, TLS13] {
        let mut session = Session::open(&listener.load(), client(&listener.ca, version, None));
        session.client_sends(&payload).unwrap();
        assert!(session.above == payload);
        session.layer_sends(&payload);
        assert!(session.received == payload);
        // 64 records with at most 30 bytes around each.
        let mut below = b"before".to_vec();
        session.layer.send(&payload, &mut below).unwrap();
        assert!(below.starts_with(b"before") && below.len() <= 6 + payload.len() + 64 * 30);
        // All of it in one input.
        let mut raw = Raw::new(Session::open(&listener.load(), client(&listener.ca, version, None)));
        let records: Vec<u8> = payload.chunks(16_384).flat_map(|content| raw.record(DATA, content)).collect();
        let mut above = Vec::new();
        raw.layer.receive(&records, &mut above, &mut Vec::new()).unwrap();
        assert!(above == payload);
        assert_eq!(raw.layer.kept.capacity(), 0);
    }
}

#[test]
fn nothing_to_send_makes_no_record() {
    let listener = Listener::new();
    let mut session = Session::open(&listener.load(), client(&listener.ca, TLS13, None));
    let mut below = Vec::new();
    assert_eq!(session.layer.send(b"", &mut below), Ok(()));
    assert_eq!(below, b"");
    session.check_data();
}

#[test]
fn the_broker_closes() {
    let listener = Listener::new();
    for version in [TLS12, TLS13] {
        let mut session = Session::open(&listener.load(), client(&listener.ca, version, None));
        let mut below = Vec::new();
        session.layer.close(&mut below);
        session.feed_client(&below);
        // The end, and not an error as after a cut connection.
        assert_eq!(session.client.reader().read(&mut [0; 9]).unwrap(), 0);
        assert!(!session.layer.is_open());
        // What comes later is not looked at, and nothing is sent any more.
        assert_eq!(session.client_sends(b"late"), Ok(()));
        assert_eq!(session.feed_layer(b"no TLS at all"), Ok(()));
        assert_eq!(session.above, b"");
        below.clear();
        assert!(session.layer.send(b"late", &mut below).is_err());
        session.layer.close(&mut below);
        assert_eq!(below, b"");
    }
}

#[test]
fn the_client_closes_and_its_last_data_count() {
    let listener = Listener::new();
    for version in [TLS12, TLS13] {
        let mut session = Session::open(&listener.load(), client(&listener.ca, version, None));
        std::io::Write::write_all(&mut session.client.writer(), b"DISCONNECT").unwrap();
        session.client.send_close_notify();
        let mut bytes = session.client_output();
        bytes.extend_from_slice(b"ignored: RFC 8446, section 6.1");
        assert_eq!(session.feed_layer(&bytes), Err(LayerError::Closed));
        assert_eq!(session.above, b"DISCONNECT");
        // It was answered.
        assert_eq!(session.client_error, None);
        assert_eq!(session.client.reader().read(&mut [0; 9]).unwrap(), 0);
        assert!(!session.layer.is_open());
        assert_eq!(session.feed_layer(b"x"), Err(LayerError::Closed));
    }
}

#[test]
fn a_client_that_closes_with_the_end_of_its_handshake_is_known_nevertheless() {
    let listener = Listener::new();
    let config = listener.load();
    let mut session = Session::new(&config, client(&listener.ca, TLS13, None));
    let hello = session.client_output();
    session.feed_layer(&hello).unwrap();
    std::io::Write::write_all(&mut session.client.writer(), b"CONNECT").unwrap();
    session.client.send_close_notify();
    let rest = session.client_output();
    assert_eq!(session.feed_layer(&rest), Err(LayerError::Closed));
    assert_eq!(session.above, b"CONNECT");
    assert!(!session.layer.is_open());
    assert_eq!(session.facts().version, "TLSv1.3");
}

#[test]
fn a_close_before_the_handshake_is_over_says_nothing() {
    let listener = Listener::new();
    let mut session = Session::new(&listener.load(), client(&listener.ca, TLS13, None));
    let hello = session.client_output();
    session.feed_layer(&hello[..100]).unwrap();
    let mut below = Vec::new();
    session.layer.close(&mut below);
    assert_eq!(below, b"");
    assert_eq!(session.feed_layer(&hello[100..]), Ok(()));
    assert!(session.layer.send(b"x", &mut below).is_err());
}

#[test]
fn data_cannot_be_sent_before_the_handshake_is_over() {
    let listener = Listener::new();
    let mut session = Session::new(&listener.load(), client(&listener.ca, TLS13, None));
    let mut below = Vec::new();
    assert!(session.layer.send(b"x", &mut below).is_err());
    assert_eq!(below, b"");
    assert_eq!(session.exchange(), Ok(()));
    session.check_data();
}

#[test]
fn a_layer_moves_to_another_thread_in_the_middle_of_a_record() {
    let listener = Listener::new();
    let config = listener.load();
    for version in [TLS12, TLS13] {
        // In the middle of the ClientHello, too: the server name must not be lost.
        let mut session = Session::new(&config, client(&listener.ca, version, None));
        let hello = session.client_output();
        session.feed_layer(&hello[..hello.len() / 2]).unwrap();
        let mut session = std::thread::spawn(move || {
            session.feed_layer(&hello[hello.len() / 2..]).unwrap();
            session
        })
        .join()
        .unwrap();
        assert_eq!(session.exchange(), Ok(()));
        assert_eq!(session.facts().server_name, "broker.test");
        let mut raw = Raw::new(session);
        let record = raw.record(DATA, &[7; 10_000]);
        raw.layer.receive(&record[..5_000], &mut Vec::new(), &mut Vec::new()).unwrap();
        let (above, below) = std::thread::spawn(move || {
            let (mut above, mut below) = (Vec::new(), Vec::new());
            raw.layer.receive(&record[5_000..], &mut above, &mut below).unwrap();
            raw.layer.send(b"answer", &mut below).unwrap();
            (above, below)
        })
        .join()
        .unwrap();
        assert!(above == [7; 10_000] && below.len() > 6);
    }
}

#[test]
fn more_key_updates_of_the_client_are_followed_as_long_as_data_come_between() {
    let listener = Listener::new();
    let mut session = Session::open(&listener.load(), client(&listener.ca, TLS13, None));
    for _ in 0..200 {
        session.client.refresh_traffic_keys().unwrap();
        session.check_data();
    }
}
