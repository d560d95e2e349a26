//! Tests of the relay without sockets: bytes in, bytes out. Expected packets are written by hand or
//! by `publish` below, not by the code under test.
#![allow(clippy::unwrap_used)]

use super::relay::{Ended, Relay};

/// The pieces of CONNACK for MQTT 5 are explained in `relay`; the tests only need it complete.
const CONNACK_V5: &[u8] =
    &[0x20, 19, 0, 0, 16, 0x11, 0, 0, 0, 0, 0x25, 0, 0x29, 0, 0x2A, 0, 0x27, 4, 0, 0, 0];

/// Bytes of a CONNECT: clean, client identifier "c", `properties` if the level has them.
fn connect(level: u8, properties: &[u8]) -> Vec<u8> {
    let name: &[u8] = if level == 3 { b"\0\x06MQIsdp" } else { b"\0\x04MQTT" };
    let mut body = [name, &[level, 2, 0, 60]].concat();
    if level == 5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend(properties);
    }
    body.extend(b"\0\x01c");
    [&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()
}

fn short(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    [&[first, u8::try_from(body.len()).unwrap()], &body[..]].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn subscribe(level: u8, filter: &str, options: u8) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    short(0x82, &[&[0, 9], properties, &text(filter), &[options]])
}

fn publish(level: u8, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let (id, properties) = (id.to_be_bytes(), [0]);
    let (id, properties): (&[u8], &[u8]) =
        (if qos == 0 { &[] } else { &id }, if level == 5 { &properties } else { &[] });
    short(0x30 | qos << 1, &[&text(topic), id, properties, payload])
}

trait Drive {
    fn feed(&mut self, from: u32, bytes: &[u8]);
    fn faulty(&mut self, from: u32, bytes: &[u8]) -> &'static str;
    fn take(&mut self, index: u32) -> Vec<u8>;
    fn client(&mut self, level: u8, properties: &[u8]) -> u32;
    fn subscriber(&mut self, level: u8, filter: &str, options: u8) -> u32;
}

impl Drive for Relay {
    /// Passes complete packets, which must be accepted.
    fn feed(&mut self, from: u32, bytes: &[u8]) {
        assert_eq!(self.receive(from, bytes), Ok(bytes.len()), "{bytes:02x?}");
    }

    fn faulty(&mut self, from: u32, bytes: &[u8]) -> &'static str {
        match self.receive(from, bytes) {
            Err(Ended::Faulty(why)) => why.0,
            other => panic!("{other:?} for {bytes:02x?}"),
        }
    }

    /// All bytes that are sent to a connection.
    fn take(&mut self, index: u32) -> Vec<u8> {
        let bytes = self.peer(index).unsent().to_vec();
        self.peer(index).sent(bytes.len());
        bytes
    }

    fn client(&mut self, level: u8, properties: &[u8]) -> u32 {
        let index = self.open();
        self.feed(index, &connect(level, properties));
        assert_eq!(self.take(index), if level == 5 { CONNACK_V5 } else { &[0x20, 2, 0, 0] });
        index
    }

    fn subscriber(&mut self, level: u8, filter: &str, options: u8) -> u32 {
        let index = self.client(level, &[]);
        self.feed(index, &subscribe(level, filter, options));
        let properties: &[u8] = if level == 5 { &[0] } else { &[] };
        assert_eq!(self.take(index), short(0x90, &[&[0, 9], properties, &[options & 3]]));
        index
    }
}

#[test]
fn every_version_and_qos_reaches_every_other() {
    for (from, to) in [3, 4, 5].into_iter().flat_map(|from| [3, 4, 5].map(|to| (from, to))) {
        for (sent, granted) in (0..3).flat_map(|sent| (0..3).map(move |granted| (sent, granted))) {
            let mut relay = Relay::new();
            let subscriber = relay.subscriber(to, "t/1", granted);
            let publisher = relay.client(from, &[]);
            for payload in [&b"first"[..], b"second"] {
                relay.feed(publisher, &publish(from, sent, 700, "t/1", payload));
                let answer: &[u8] = match sent {
                    0 => &[],
                    1 => &[0x40, 2, 2, 0xBC],
                    _ => &[0x50, 2, 2, 0xBC],
                };
                assert_eq!(relay.take(publisher), answer, "QoS {sent}");
            }
            let qos = sent.min(granted);
            let expected =
                [publish(to, qos, 1, "t/1", b"first"), publish(to, qos, 2, "t/1", b"second")].concat();
            assert_eq!(relay.take(subscriber), expected, "from {from} QoS {sent} to {to} QoS {granted}");
        }
    }
}

#[test]
fn each_subscriber_has_packet_identifiers_of_its_own() {
    let mut relay = Relay::new();
    let both = relay.subscriber(4, "+/x", 1);
    let one = relay.subscriber(4, "b/x", 1);
    let publisher = relay.client(4, &[]);
    for (topic, id) in [("a/x", 40), ("b/x", 41)] {
        relay.feed(publisher, &publish(4, 1, id, topic, b"p"));
    }
    assert_eq!(
        relay.take(both),
        [publish(4, 1, 1, "a/x", b"p"), publish(4, 1, 2, "b/x", b"p")].concat(),
        "its own, in turn"
    );
    assert_eq!(relay.take(one), publish(4, 1, 1, "b/x", b"p"));
}

#[test]
fn packet_identifiers_wrap_around_without_zero() {
    let mut relay = Relay::new();
    let subscriber = relay.subscriber(4, "t", 1);
    let publisher = relay.client(4, &[]);
    let mut last = 0;
    for _ in 0..70_000 {
        relay.feed(publisher, &publish(4, 1, 1, "t", b""));
        let packet = relay.take(subscriber);
        let id = u16::from_be_bytes([packet[5], packet[6]]);
        assert_eq!(id, if last == u16::MAX { 1 } else { last + 1 });
        relay.feed(subscriber, &short(0x40, &[&id.to_be_bytes()]));
        relay.take(publisher);
        last = id;
    }
}

#[test]
fn the_qos_2_exchange_is_complete_on_both_sides() {
    let mut relay = Relay::new();
    let subscriber = relay.subscriber(5, "t", 2);
    let publisher = relay.client(5, &[]);
    relay.feed(publisher, &publish(5, 2, 7, "t", b"p"));
    assert_eq!(relay.take(publisher), [0x50, 2, 0, 7]);
    relay.feed(publisher, &[0x62, 2, 0, 7]);
    assert_eq!(relay.take(publisher), [0x70, 2, 0, 7]);
    assert_eq!(relay.take(subscriber), publish(5, 2, 1, "t", b"p"));
    relay.feed(subscriber, &[0x50, 2, 0, 1]);
    assert_eq!(relay.take(subscriber), [0x62, 2, 0, 1]);
    relay.feed(subscriber, &[0x70, 2, 0, 1]);
    assert_eq!((relay.take(subscriber), relay.take(publisher)), (vec![], vec![]));
}

#[test]
fn subscribers_do_not_get_dup_and_packet_id_of_the_publisher() {
    let mut relay = Relay::new();
    let subscriber = relay.subscriber(4, "t", 1);
    let publisher = relay.client(4, &[]);
    for (first, qos) in [(0x31, 0), (0x33, 1), (0x3A, 1), (0x3B, 1)] {
        let mut packet = publish(4, qos, 3, "t", b"p");
        packet[0] = first;
        relay.feed(publisher, &packet);
        let got = relay.take(subscriber);
        assert_eq!(got[0], 0x30 | qos << 1, "for {first:02x}");
        assert_eq!(got.len(), packet.len());
    }
}

#[test]
fn properties_are_sent_in_mqtt_5_only() {
    let mut relay = Relay::new();
    let five = relay.subscriber(5, "t", 0);
    let three = relay.subscriber(4, "t", 0);
    let publisher = relay.client(5, &[]);
    let properties =
        [&[1, 1, 3][..], &text("text/plain"), &[8], &text("r"), &[0x26], &text("k"), &text("v")].concat();
    let length = [u8::try_from(properties.len()).unwrap()];
    let packet = short(0x30, &[&text("t"), &length, &properties, b"p"]);
    relay.feed(publisher, &packet);
    assert_eq!(relay.take(five), packet);
    assert_eq!(relay.take(three), publish(4, 0, 0, "t", b"p"));
    // Another QoS is another form, and keeps the properties too.
    let with_id = short(0x32, &[&text("t"), &[0, 5], &length, &properties, b"p"]);
    relay.feed(publisher, &with_id);
    assert_eq!(relay.take(five), packet);
}

#[test]
fn a_packet_split_anywhere_is_processed_when_it_is_complete() {
    let large = [&[0x30, 0xCB, 0x01][..], b"\0\x01t", &[7; 200]].concat();
    let stream = [publish(4, 0, 0, "t", b"a"), large.clone(), publish(4, 0, 0, "t", b"b")].concat();
    for cut in 0..stream.len() {
        let mut relay = Relay::new();
        let subscriber = relay.subscriber(4, "t", 0);
        let publisher = relay.client(4, &[]);
        let taken = relay.receive(publisher, &stream[..cut]).unwrap();
        assert!(taken <= cut);
        relay.feed(publisher, &stream[taken..]);
        assert_eq!(relay.take(subscriber), stream, "cut at {cut}");
    }
}

#[test]
fn the_window_of_a_client_is_respected_and_no_message_is_lost() {
    let mut relay = Relay::new();
    // Receive Maximum 2.
    let subscriber = relay.client(5, &[0x21, 0, 2]);
    relay.feed(subscriber, &subscribe(5, "t", 2));
    relay.take(subscriber);
    let publisher = relay.client(5, &[]);
    for payload in *b"abcde" {
        relay.feed(publisher, &publish(5, 1 + payload % 2, 9, "t", &[payload]));
    }
    // b and d have QoS 1, the others QoS 2.
    let sent = [publish(5, 2, 1, "t", b"a"), publish(5, 1, 2, "t", b"b")].concat();
    assert_eq!(relay.take(subscriber), sent);
    assert_eq!(relay.out.waiting_bytes(), 3 * publish(5, 2, 1, "t", b"a").len());
    relay.feed(subscriber, &[0x40, 2, 0, 2]);
    assert_eq!(relay.take(subscriber), publish(5, 2, 3, "t", b"c"), "after PUBACK");
    relay.feed(subscriber, &[0x50, 2, 0, 1]);
    assert_eq!(relay.take(subscriber), [0x62, 2, 0, 1], "PUBREC opens nothing");
    relay.feed(subscriber, &[0x70, 2, 0, 1]);
    assert_eq!(relay.take(subscriber), publish(5, 1, 4, "t", b"d"), "after PUBCOMP");
    // A refusal ends the exchange (MQTT 5.0 section 4.3.3).
    relay.feed(subscriber, &[0x50, 3, 0, 3, 0x97]);
    assert_eq!(relay.take(subscriber), publish(5, 2, 5, "t", b"e"), "after a PUBREC that refuses");
    assert_eq!(relay.out.waiting_bytes(), 0);
    relay.feed(subscriber, &[0x40, 2, 0, 4, 0x40, 2, 0, 9]);
    assert!(relay.take(subscriber).is_empty(), "nothing waits, and too many acknowledgements do no harm");
}

#[test]
fn a_reused_connection_index_gets_no_messages_of_the_closed_connection() {
    let mut relay = Relay::new();
    let subscriber = relay.client(5, &[0x21, 0, 1]);
    for filter in ["t", "+", "#"] {
        relay.feed(subscriber, &subscribe(5, filter, 1));
    }
    let publisher = relay.client(4, &[]);
    for _ in 0..2 {
        relay.feed(publisher, &publish(4, 1, 1, "t", b"p"));
    }
    assert!(relay.out.waiting_bytes() > 0);
    relay.close(subscriber);
    assert_eq!(relay.out.waiting_bytes(), 0);
    let next = relay.client(4, &[]);
    assert_eq!(next, subscriber, "the same place");
    relay.feed(publisher, &publish(4, 1, 1, "t", b"p"));
    assert!(relay.take(next).is_empty());
    assert_eq!(relay.receive(next, &[0xE0, 0]), Err(Ended::Left));
}

#[test]
fn a_client_receives_only_messages_that_it_subscribed_to() {
    let mut relay = Relay::new();
    let own = relay.client(5, &[]);
    relay.feed(own, &subscribe(5, "t", 4));
    // Maximum Packet Size 20.
    let small = relay.client(5, &[0x27, 0, 0, 0, 20]);
    relay.feed(small, &subscribe(5, "t", 0));
    relay.take(own);
    relay.take(small);
    relay.feed(own, &publish(5, 0, 0, "t", b"mine"));
    assert!(relay.take(own).is_empty(), "No Local");
    assert_eq!(relay.take(small), publish(5, 0, 0, "t", b"mine"));
    let large = publish(5, 0, 0, "t", &[b'x'; 15]);
    relay.feed(small, &large);
    assert_eq!(relay.take(own), large);
    assert_eq!((relay.take(small), large.len()), (vec![], 21));
}

#[test]
fn subscriptions_end_and_shared_ones_are_refused() {
    let mut relay = Relay::new();
    let five = relay.subscriber(5, "t", 0);
    relay.feed(five, &short(0xA2, &[&[0, 3, 0], &text("t"), &text("u")]));
    assert_eq!(relay.take(five), [0xB0, 5, 0, 3, 0, 0, 0x11]);
    let three = relay.subscriber(4, "t", 0);
    relay.feed(three, &short(0xA2, &[&[0, 3], &text("t")]));
    assert_eq!(relay.take(three), [0xB0, 2, 0, 3]);
    let publisher = relay.client(4, &[]);
    relay.feed(publisher, &publish(4, 0, 0, "t", b"p"));
    assert_eq!((relay.take(five), relay.take(three)), (vec![], vec![]));

    relay.feed(five, &short(0x82, &[&[0, 4, 0], &text("$share/g/t"), &[0], &text("a"), &[1]]));
    assert_eq!(relay.take(five), [0x90, 5, 0, 4, 0, 0x9E, 1]);
    relay.feed(three, &subscribe(4, "$share/g/t", 0));
    assert_eq!(relay.take(three), [0x90, 3, 0, 9, 0x80]);
}

#[test]
fn a_ping_is_answered_and_a_client_without_identifier_gets_one() {
    let mut relay = Relay::new();
    let client = relay.client(4, &[]);
    relay.feed(client, &[0xC0, 0]);
    assert_eq!(relay.take(client), [0xD0, 0]);

    let nameless = relay.open();
    relay.feed(nameless, b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0");
    let connack = relay.take(nameless);
    assert_eq!(&connack[connack.len() - 10..], b"\x12\0\x07floor-1");
}

#[test]
fn a_connect_that_is_not_for_the_floor_is_refused_in_its_own_form() {
    for (connect, connack) in [
        (&b"\x10\x0D\0\x04MQTT\x06\x02\0\0\0\x01c"[..], &[0x20, 2, 0, 1][..]),
        (b"\x10\x0D\0\x04HTTP\x04\x02\0\0\0\x01c", &[0x20, 2, 0, 1]),
        (b"\x10\x0C\0\x04MQTT\x04\0\0\0\0\0", &[0x20, 2, 0, 2]),
        (b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x15\0\x01x\0\x01c", &[0x20, 3, 0, 0x8C, 0]),
    ] {
        let mut relay = Relay::new();
        let client = relay.open();
        relay.faulty(client, connect);
        assert_eq!(relay.take(client), connack, "{connect:02x?}");
    }
}

/// Errors after an MQTT 3.1.1 CONNECT, or an MQTT 5 one.
const FAULTS: &[(u8, &[u8], &str)] = &[
    (4, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], "more than four bytes"),
    (4, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F], "larger than 64 MiB"),
    (4, &[0x30, 3, 0, 9, b't'], "cut short"),
    (4, &[0x30, 1, 0], "cut short"),
    (4, &[0x30, 0], "cut short"),
    (4, &[0x36, 5, 0, 1, b't', 0, 1], "QoS 3"),
    (4, &[0x38, 3, 0, 1, b't'], "duplicate"),
    (4, &[0x32, 5, 0, 1, b't', 0, 0], "identifier 0"),
    (4, &[0x32, 4, 0, 1, b't', 0], "cut short"),
    (4, &[0x30, 2, 0, 0], "no topic"),
    (4, &[0x30, 5, 0, 3, b'a', b'/', b'#'], "no topic"),
    (4, &[0x30, 3, 0, 1, 0xFF], "no topic"),
    (5, &[0x30, 3, 0, 1, b't'], "cut short"),
    (5, &[0x30, 4, 0, 1, b't', 9], "cut short"),
    (5, &[0x30, 7, 0, 1, b't', 3, 0x23, 0, 1], "topic alias"),
    (5, &[0x30, 6, 0, 1, b't', 2, 0x0B, 1], "belongs elsewhere"),
    (5, &[0x30, 6, 0, 1, b't', 2, 0x7E, 1], "belongs elsewhere"),
    (5, &[0x30, 8, 0, 1, b't', 4, 0x03, 0, 9, b'x'], "cut short"),
    (5, &[0x30, 8, 0, 1, b't', 0xFF, 0xFF, 0xFF, 0xFF, 1], "more than four bytes"),
    (4, &[0x40, 1, 0], "cut short"),
    (4, &[0x40, 2, 0, 0], "identifier 0"),
    (4, &[0x50, 0], "cut short"),
    (4, &[0x60, 2, 0, 1], "does not send"),
    (4, &[0x62, 2, 0, 0], "identifier 0"),
    (4, &[0x80, 6, 0, 1, 0, 1, b't', 0], "does not send"),
    (4, &[0x82, 2, 0, 1], "cut short"),
    (4, &[0x82, 6, 0, 1, 0, 1, b't', 3], "not valid"),
    (4, &[0x82, 6, 0, 1, 0, 1, b't', 4], "not valid"),
    (4, &[0x82, 7, 0, 1, 0, 2, b't', b'#', 0], "not valid"),
    (4, &[0x82, 8, 0, 1, 0, 3, b'#', b'/', b'a', 0], "not valid"),
    (5, &[0x82, 9, 0, 1, 2, 0x0B, 1, 0, 1, b't', 0], "had not allowed"),
    (4, &[0xA2, 2, 0, 1], "cut short"),
    (4, &[0xC0, 1, 0], "does not send"),
    (4, &[0x20, 2, 0, 0], "does not send"),
    (4, &[0xD0, 0], "does not send"),
    (5, &[0xF0, 0], "does not send"),
    (4, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", "does not send"),
];

#[test]
fn a_client_that_violates_the_protocol_is_closed_without_effect_on_others() {
    for (level, bytes, why) in FAULTS {
        let mut relay = Relay::new();
        let observer = relay.subscriber(4, "w", 0);
        let client = relay.client(*level, &[]);
        let received = relay.faulty(client, bytes);
        assert!(received.contains(why), "{received} for {bytes:02x?}");
        relay.close(client);
        relay.feed(observer, &publish(4, 0, 0, "w", b"p"));
        assert_eq!(relay.take(observer), publish(4, 0, 0, "w", b"p"));
    }
}

#[test]
fn a_connect_that_breaks_the_rules_ends_the_connection() {
    for bytes in [
        &[0x30, 3, 0, 1, b't'][..],
        &[0x11, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'c'],
        b"\x10\x0B\0\x04MQTT\x04\x02\0\0\0",
        b"\x10\x0E\0\x04MQTT\x04\x02\0\0\0\x01cx",
        b"\x10\x0D\0\x04MQTT\x04\x82\0\0\0\x01c",
        b"\x10\x0D\0\x04MQTT\x04\x06\0\0\0\x01c",
        b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01c",
        b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x7E\0\0\x01c",
    ] {
        let mut relay = Relay::new();
        let client = relay.open();
        relay.faulty(client, bytes);
    }
}

#[test]
fn no_input_panics_and_accepted_input_is_kept() {
    // Valid packets with some changed bytes get further than random bytes.
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap()
    };
    let valid: Vec<Vec<u8>> = FAULTS
        .iter()
        .map(|(_, bytes, _)| bytes.to_vec())
        .chain([connect(5, &[0x21, 0, 5]), subscribe(5, "a/+/#", 1), subscribe(4, "a", 2)])
        .chain((0..3).flat_map(|qos| [4, 5].map(|level| publish(level, qos, 2, "a/b", b"payload"))))
        .collect();
    let mut relay = Relay::new();
    let mut client = relay.open();
    let mut survived = 0;
    for _ in 0..200_000 {
        let mut bytes = valid[random() % valid.len()].clone();
        for _ in 0..random() % 3 {
            let at = random() % bytes.len();
            bytes[at] = u8::try_from(random() % 256).unwrap();
        }
        match relay.receive(client, &bytes) {
            Ok(taken) => {
                assert!(taken <= bytes.len());
                survived += usize::from(taken > 0);
            }
            Err(_) => {
                relay.close(client);
                client = relay.open();
                relay.feed(client, &connect(4 + u8::try_from(random() % 2).unwrap(), &[]));
            }
        }
        relay.take(client);
    }
    assert!(survived > 10_000, "{survived} packets were taken");
}

#[test]
fn a_running_relay_allocates_nothing() {
    for qos in 0..3 {
        let mut relay = Relay::new();
        let publisher = relay.client(4, &[]);
        // Every kind of delivery: unchanged, in another version, in another QoS, by wildcard.
        let subscribers = [(4, "t/1", 2), (5, "t/1", 2), (4, "t/1", 0), (4, "t/+", 1)]
            .map(|(level, filter, granted)| relay.subscriber(level, filter, granted));
        let packets = publish(4, qos, 77, "t/1", &[b'p'; 64]).repeat(20);
        let acks = [0x40, 2, 0, 1].repeat(20);
        let step = |relay: &mut Relay| {
            relay.feed(publisher, &packets);
            let mut messages = 0;
            while let Some(index) = relay.out.pop_dirty() {
                // Like a socket that accepts it in two parts.
                let unsent = relay.peer(index).unsent().len();
                relay.peer(index).sent(unsent / 3);
                relay.peer(index).sent(unsent - unsent / 3);
                messages += usize::from(index != publisher);
            }
            for index in subscribers {
                // The windows are never full: acknowledgements need not have the right identifiers.
                relay.feed(index, &acks);
            }
            messages
        };
        (0..10).for_each(|_| assert_eq!(step(&mut relay), 4));
        let made = allocation_counter::measure(|| {
            (0..1000).for_each(|_| assert_eq!(step(&mut relay), 4));
        });
        assert_eq!(made.count_total, 0, "QoS {qos}");
    }
}
