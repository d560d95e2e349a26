//! Bytes that a client must not send. Each ends the connection, in MQTT 5 with the right reason if
//! one is sent, and the broker continues.

use grapnel_tests::client::Event;
use grapnel_tests::wire::encode::frame;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Version, scenario};

/// A packet that must end the connection, its error, and the reasons that section 4.13 or the
/// statement allows.
struct Bad {
    name: &'static str,
    bytes: Vec<u8>,
    reasons: &'static [u8],
}

fn bad(name: &'static str, first: u8, body: &[u8], reasons: &'static [u8]) -> Bad {
    Bad { name, bytes: frame(first, body), reasons }
}

const MALFORMED: &[u8] = &[0x81];
const PROTOCOL: &[u8] = &[0x82];
/// The specification calls it an error and does not say which of the two.
const EITHER: &[u8] = &[0x81, 0x82];

/// Flags of the first byte; MQTT 3.1 only says that they are not used.
fn flags() -> Vec<Bad> {
    vec![
        bad("SUBSCRIBE with flags 0 [MQTT-3.8.1-1]", 0x80, &[0, 1, 0, 1, b'a', 0], MALFORMED),
        bad("UNSUBSCRIBE with flags 0 [MQTT-3.10.1-1]", 0xA0, &[0, 1, 0, 1, b'a'], MALFORMED),
        bad("PUBREL with flags 0 [MQTT-3.6.1-1]", 0x60, &[0, 1], MALFORMED),
        bad("PUBACK with flags 1 [MQTT-2.1.3-1]", 0x41, &[0, 1], MALFORMED),
        bad("PINGREQ with flags [MQTT-2.1.3-1]", 0xC1, &[], MALFORMED),
        bad("DISCONNECT with flags [MQTT-3.14.1-1]", 0xE1, &[], MALFORMED),
    ]
}

/// Errors in every version; a packet identifier is followed by `p`, the empty properties of MQTT 5.
fn in_every_version(version: Version) -> Vec<Bad> {
    let p: &[u8] = if version.is_5() { &[0] } else { &[] };
    let with = |head: &[u8], tail: &[u8]| [head, p, tail].concat();
    vec![
        bad("PUBLISH with QoS 3 [MQTT-3.3.1-4]", 0x36, &with(&[0, 1, b'a', 0, 1], b"x"), EITHER),
        bad("QoS 1 with packet id 0 [MQTT-2.2.1-3]", 0x32, &with(&[0, 1, b'a', 0, 0], b"x"), EITHER),
        bad("QoS 2 with packet id 0 [MQTT-2.2.1-3]", 0x34, &with(&[0, 1, b'a', 0, 0], b"x"), EITHER),
        bad("topic with + [MQTT-3.3.2-2]", 0x30, &with(&[0, 3, b'a', b'/', b'+'], b"x"), &[0x81, 0x82, 0x90]),
        bad("topic with # [MQTT-3.3.2-2]", 0x30, &with(&[0, 1, b'#'], b"x"), &[0x81, 0x82, 0x90]),
        bad("topic longer than the packet", 0x30, &[0, 9, b'a'], MALFORMED),
        bad("topic not UTF-8 [MQTT-1.5.4-1]", 0x30, &with(&[0, 2, 0xC3, 0x28], b"x"), &[0x81, 0x90]),
        bad(
            "surrogate in a topic [MQTT-1.5.4-1]",
            0x30,
            &with(&[0, 3, 0xED, 0xA0, 0x80], b"x"),
            &[0x81, 0x90],
        ),
        bad("topic with U+0000 [MQTT-1.5.4-2]", 0x30, &with(&[0, 2, b'a', 0], b"x"), &[0x81, 0x90]),
        bad("PUBLISH without a topic", 0x30, &[], EITHER),
        bad("SUBSCRIBE with packet id 0 [MQTT-2.2.1-3]", 0x82, &with(&[0, 0], &[0, 1, b'a', 0]), EITHER),
        bad("SUBSCRIBE without a filter [MQTT-3.8.3-2]", 0x82, &with(&[0, 1], &[]), EITHER),
        bad("SUBSCRIBE without options", 0x82, &with(&[0, 1], &[0, 1, b'a']), EITHER),
        bad("SUBSCRIBE with QoS 3 [MQTT-3.8.3-4]", 0x82, &with(&[0, 1], &[0, 1, b'a', 3]), EITHER),
        bad("SUBSCRIBE with a filter not UTF-8", 0x82, &with(&[0, 1], &[0, 1, 0xFF, 0]), &[0x81, 0x8F]),
        bad("UNSUBSCRIBE with packet id 0", 0xA2, &with(&[0, 0], &[0, 1, b'a']), EITHER),
        bad("UNSUBSCRIBE without a filter [MQTT-3.10.3-2]", 0xA2, &with(&[0, 1], &[]), EITHER),
        bad("PUBACK of one byte", 0x40, &[0], MALFORMED),
        bad("PUBACK without a body", 0x40, &[], MALFORMED),
        bad("PINGREQ with a body", 0xC0, &[0], EITHER),
        bad("packet type 0", 0x00, &[], EITHER),
        bad("CONNACK from a client", 0x20, &with(&[0, 0], &[]), EITHER),
        bad("SUBACK from a client", 0x90, &with(&[0, 1], &[0]), EITHER),
        bad("UNSUBACK from a client", 0xB0, &with(&[0, 1], &[0]), EITHER),
        bad("PINGRESP from a client", 0xD0, &[], EITHER),
        Bad {
            name: "remaining length of five bytes",
            bytes: vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            reasons: MALFORMED,
        },
    ]
}

/// Errors in MQTT 5: properties, reserved bits, reason codes.
fn in_mqtt_5() -> Vec<Bad> {
    let publish = |properties: &[u8]| {
        let mut body = vec![0, 1, b'a', properties.len() as u8];
        body.extend(properties);
        body.push(b'x');
        body
    };
    let subscribe = |properties: &[u8], options: u8| {
        let mut body = vec![0, 1, properties.len() as u8];
        body.extend(properties);
        body.extend([0, 1, b'a', options]);
        body
    };
    vec![
        bad("unknown property", 0x30, &publish(&[0x7F, 0]), EITHER),
        bad("property of another packet (2.2.2.2)", 0x30, &publish(&[0x21, 0, 9]), EITHER),
        bad("property twice", 0x30, &publish(&[0x01, 0, 0x01, 0]), EITHER),
        bad("property cut short", 0x30, &publish(&[0x02, 0, 0]), EITHER),
        bad("property length beyond the packet", 0x30, &[0, 1, b'a', 99, 1, 0], EITHER),
        bad("payload format 2 (3.3.2.3.2)", 0x30, &publish(&[0x01, 2]), EITHER),
        bad("subscription identifier from a client [MQTT-3.3.4-6]", 0x30, &publish(&[0x0B, 1]), EITHER),
        bad("topic alias 0 [MQTT-3.3.2-8]", 0x30, &publish(&[0x23, 0, 0]), &[0x82, 0x94]),
        bad("topic alias beyond the maximum [MQTT-3.3.2-9]", 0x30, &publish(&[0x23, 0xFF, 0xFF]), &[0x94]),
        bad("unknown alias without a topic", 0x30, &[0, 0, 3, 0x23, 0, 1, b'x'], &[0x82, 0x94]),
        bad("neither topic nor alias", 0x30, &[0, 0, 0, b'x'], PROTOCOL),
        bad(
            "response topic with wildcard [MQTT-3.3.2-14]",
            0x30,
            &publish(&[0x08, 0, 1, b'#']),
            &[0x81, 0x82, 0x90],
        ),
        bad("user property not UTF-8", 0x30, &publish(&[0x26, 0, 1, 0xFF, 0, 0]), EITHER),
        bad("reserved bits in options [MQTT-3.8.3-5]", 0x82, &subscribe(&[], 0x40), EITHER),
        bad("retain handling 3 (3.8.3.1)", 0x82, &subscribe(&[], 0x30), EITHER),
        bad("subscription identifier 0 (3.8.2.1.2)", 0x82, &subscribe(&[0x0B, 0], 0), EITHER),
        bad("two subscription identifiers", 0x82, &subscribe(&[0x0B, 1, 0x0B, 2], 0), EITHER),
        bad(
            "no local on a shared one [MQTT-3.8.3-4]",
            0x82,
            &{
                let mut body = vec![0, 1, 0, 0, 10];
                body.extend(b"$share/g/a");
                body.push(4);
                body
            },
            EITHER,
        ),
        bad("DISCONNECT with an unknown reason", 0xE0, &[0x05], EITHER),
        bad("session expiry from 0 to 60 (3.14.2.2.2)", 0xE0, &[0, 5, 0x11, 0, 0, 0, 60], PROTOCOL),
        bad("PUBACK with an unknown reason", 0x40, &[0, 1, 0x77], EITHER),
        bad("AUTH with an unknown reason", 0xF0, &[0x77], EITHER),
    ]
}

fn ends(broker: &Broker, version: Version, bad: &Bad) -> Option<String> {
    let mut client = Client::hello(broker, version, "naughty");
    client.send_anyway(&bad.bytes);
    let mut reason = None;
    loop {
        match client.next(PATIENCE) {
            Event::Closed => break,
            Event::Packet(Packet::Disconnect { code, .. }) => reason = Some(code),
            other => return Some(format!("{}: {other:?} instead of the end", bad.name)),
        }
    }
    match reason {
        Some(code) if !bad.reasons.contains(&code) => Some(format!("{}: reason {code:#04x}", bad.name)),
        // Section 4.13.1 says SHOULD; we always do it.
        None if version.is_5()
            && !broker.mosquitto_differs("section 4.13.1", "often closes without DISCONNECT") =>
        {
            Some(format!("{}: no DISCONNECT", bad.name))
        }
        _ => None,
    }
}

fn check(broker: &Broker, version: Version, table: &[Bad]) {
    let mut bystander = Client::hello(broker, version, "bystander");
    let wrong: Vec<String> = table.iter().filter_map(|bad| ends(broker, version, bad)).collect();
    if broker.mosquitto_differs("the table", "is lenient here and there") {
        return wrong.iter().for_each(|line| eprintln!("mosquitto: {line}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    bystander.ping();
}

scenario! {
    /// Each packet of the table ends the connection, with one of its reasons in MQTT 5.
    fn malformed_in_every_version(broker, version) {
        check(broker, version, &in_every_version(version));
        if version != Version::V31 {
            check(broker, version, &flags());
        }
    }
}

scenario! {
    /// The same for packets that only MQTT 5 has.
    fn malformed_in_mqtt_5(broker) {
        check(broker, Version::V5, &in_mqtt_5());
    }
}

/// A CONNECT that no broker may accept, and the matching CONNACK codes of MQTT 5.
fn bad_connects() -> Vec<(&'static str, Vec<u8>)> {
    let v5 = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Connect::new(Version::V5, "c").encode();
        edit(&mut bytes);
        bytes
    };
    vec![
        ("reserved connect flag [MQTT-3.1.2-3]", v5(&|b| b[9] |= 1)),
        ("protocol name XQTT [MQTT-3.1.2-1]", v5(&|b| b[4] = b'X')),
        ("will QoS without will [MQTT-3.1.2-11]", v5(&|b| b[9] |= 0x08)),
        ("will retain without will [MQTT-3.1.2-13]", v5(&|b| b[9] |= 0x20)),
        ("user name flag without user name", v5(&|b| b[9] |= 0x80)),
        ("receive maximum 0 (3.1.2.11.3)", with_property(&[0x21, 0, 0])),
        ("maximum packet size 0 (3.1.2.11.4)", with_property(&[0x27, 0, 0, 0, 0])),
        ("session expiry twice", with_property(&[0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1])),
        ("request problem information 2", with_property(&[0x17, 2])),
        ("authentication data without a method (3.1.2.11.10)", with_property(&[0x16, 0, 1, 0])),
        ("a property that CONNECT has not", with_property(&[0x23, 0, 1])),
        (
            "bytes behind the end",
            v5(&|b| {
                b[1] += 1;
                b.push(0);
            }),
        ),
        ("client identifier not UTF-8 [MQTT-3.1.3-4]", v5(&|b| *b.last_mut().unwrap() = 0xFF)),
        ("flags in the first byte", v5(&|b| b[0] = 0x11)),
    ]
}

fn with_property(property: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, property.len() as u8];
    body.extend(property);
    body.extend([0, 1, b'c']);
    frame(0x10, &body)
}

scenario! {
    /// A bad CONNECT is refused with a CONNACK of 0x80 or above, or closed at once [MQTT-3.1.4-1].
    fn malformed_connects(broker) {
        for (name, bytes) in bad_connects() {
            let mut client = Client::dial(broker, Version::V5);
            client.send_anyway(&bytes);
            if broker.mosquitto_differs("section 3.1.2", "takes some of these") {
                continue;
            }
            let answer = client.raw_until_closed();
            // Nothing, a refusal of MQTT 5, or that of 3.1.1 to a client whose version could not be
            // read.
            let refused = matches!(answer.as_slice(), [] | [0x20, 2, 0, 1] | [0x20, _, 0, 0x80..=0xFF, ..]);
            assert!(refused, "{name}: {answer:02x?}");
        }
        Client::hello(broker, Version::V5, "fine").ping();
    }
}

scenario! {
    /// A packet larger than `packet_bytes_max` is answered with 0x95 (section 3.2.2.3.6), as soon
    /// as its length is known.
    fn a_packet_too_large_ends_the_connection(broker in Broker::builder().config("[limits]\npacket_bytes_max = 2000").mosquitto("max_packet_size 2000")) {
        let mut client = Client::hello(broker, Version::V5, "large");
        client.subscribe("a", 0);
        client.publish(&grapnel_tests::Publish::new("a", vec![b'x'; 1900]));
        assert_eq!(client.message().payload.len(), 1900);
        // Only the fixed header: the answer must not wait for the remaining bytes.
        client.send_anyway(&[0x30, 0xD1, 0x0F]);
        if broker.mosquitto_differs("section 3.2.2.3.6", "waits for the packet's bytes first") {
            return;
        }
        assert_eq!(client.end(), Some(0x95));
    }
}
