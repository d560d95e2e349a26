//! Two other codecs as oracles, `mqtt-proto` and `rmqtt-codec`: each difference from them must have
//! a listed reason. A packet that both accept must have the same meaning: the oracle encodes what
//! it has decoded, and we decode that.

use bytes::BytesMut;
use grapnel_engine::codec::{Frame, decode, encode, frame};
use grapnel_engine::packet::{Packet, Properties, Property, Version};
use grapnel_engine::reason::ReasonCode;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokio_util::codec::{Decoder, Encoder};

use crate::identity::recipe;
use crate::{malformed, notation, table};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Oracle {
    MqttProto,
    Rmqtt,
}

use Oracle::{MqttProto, Rmqtt};

const ORACLES: [Oracle; 2] = [MqttProto, Rmqtt];

impl Oracle {
    /// Decodes one complete frame and encodes it again. `None` if it is refused; "needs more bytes"
    /// after the complete frame and a panic are refusals too.
    fn reread(self, bytes: &[u8], version: Version) -> Option<Vec<u8>> {
        let read = || match (self, version.is_v5()) {
            (MqttProto, false) => {
                Some(mqtt_proto::v3::Packet::decode(bytes).ok()??.encode().ok()?.as_ref().to_vec())
            }
            (MqttProto, true) => {
                Some(mqtt_proto::v5::Packet::decode(bytes).ok()??.encode().ok()?.as_ref().to_vec())
            }
            (Rmqtt, false) => through(&mut rmqtt_codec::v3::Codec::new(0), bytes),
            (Rmqtt, true) => through(&mut rmqtt_codec::v5::Codec::new(0, 0), bytes),
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).ok().flatten()
    }
}

fn through<P, C: Decoder<Item = (P, u32)> + Encoder<P>>(codec: &mut C, bytes: &[u8]) -> Option<Vec<u8>> {
    let (packet, _) = codec.decode(&mut BytesMut::from(bytes)).ok()??;
    let mut out = BytesMut::new();
    codec.encode(packet, &mut out).ok()?;
    Some(out.to_vec())
}

/// Rules that an oracle does not check: it accepts what we refuse.
const LAX: &[(Oracle, &str, &str)] = &[
    (MqttProto, "MQTT-1.5.5-1", "takes a remaining length with padding"),
    (MqttProto, "section 2.1.4", "ignores what follows the content"),
    (MqttProto, "MQTT-1.5.4-2", "checks U+0000 in topics only"),
    (MqttProto, "MQTT-3.1.2-13", "takes will retain without a will"),
    (MqttProto, "MQTT-3.1.2-22 of 3.1.1", "takes a password without a user name"),
    (MqttProto, "MQTT-4.7.3-1", "takes empty topics"),
    (MqttProto, "MQTT-4.7.1-2", "takes a character of several bytes behind +"),
    (MqttProto, "section 3.1.2.11.10", "takes authentication data without a method"),
    (MqttProto, "section 3.1.2.11.3", "takes receive maximum 0"),
    (MqttProto, "section 3.1.2.11.4", "takes maximum packet size 0"),
    (MqttProto, "MQTT-3.2.2-6", "takes session present with a refusal"),
    (MqttProto, "MQTT-3.3.1-2", "takes DUP with QoS 0"),
    (MqttProto, "section 3.3.2.1", "takes an empty topic without an alias"),
    (MqttProto, "MQTT-3.3.2-8", "takes topic alias 0"),
    (MqttProto, "section 3.8.2.1.2", "takes subscription identifier 0"),
    (MqttProto, "MQTT-3.8.3-4", "takes no local on a shared subscription"),
    (MqttProto, "MQTT-3.8.4-6", "takes a SUBACK without codes"),
    (MqttProto, "MQTT-3.11.3-2", "takes an UNSUBACK without codes"),
    (MqttProto, "section 3.15.2.2.2", "takes an AUTH without a method"),
    (Rmqtt, "MQTT-1.5.5-1", "takes variable byte integers with padding"),
    (Rmqtt, "section 2.1.4", "ignores what follows the content"),
    (Rmqtt, "section 1.5", "takes an AUTH that ends before its property length"),
    (Rmqtt, "MQTT-1.5.4-2", "does not check U+0000"),
    (Rmqtt, "MQTT-3.1.2-2", "takes MQIsdp with level 4"),
    (Rmqtt, "MQTT-3.1.2-11", "takes a will QoS without a will"),
    (Rmqtt, "MQTT-3.1.2-13", "takes will retain without a will"),
    (Rmqtt, "MQTT-3.1.2-22 of 3.1.1", "takes a password without a user name"),
    (Rmqtt, "MQTT-4.7.0-1", "takes wildcards in a will topic"),
    (Rmqtt, "MQTT-4.7.3-1", "takes empty topics and filters"),
    (Rmqtt, "section 3.1.2.11.10", "takes authentication data without a method"),
    (Rmqtt, "MQTT-3.2.2-6", "takes session present with a refusal"),
    (Rmqtt, "MQTT-3.2.2-8", "takes any return code in 3.x"),
    (Rmqtt, "section 3.2.2.3.4", "takes maximum QoS 2"),
    (Rmqtt, "MQTT-3.3.1-2", "takes DUP with QoS 0"),
    (Rmqtt, "MQTT-3.3.2-2", "takes wildcards in a topic name"),
    (Rmqtt, "section 3.3.2.1", "takes an empty topic without an alias"),
    (Rmqtt, "MQTT-3.3.2-14", "takes wildcards in a response topic"),
    (Rmqtt, "MQTT-3-8.3-4 of 3.1.1", "ignores reserved bits of the requested QoS"),
    (Rmqtt, "MQTT-3.8.3-4", "takes no local on a shared subscription"),
    (Rmqtt, "MQTT-4.7.1-1", "does not check # in filters"),
    (Rmqtt, "MQTT-4.7.1-2", "does not check + in filters"),
    (Rmqtt, "MQTT-4.8.2-1", "takes an empty share name"),
    (Rmqtt, "MQTT-4.8.2-2", "takes a share name without a filter"),
    (Rmqtt, "MQTT-3.8.4-6", "takes a SUBACK without codes"),
    (Rmqtt, "MQTT-3.11.3-2", "takes an UNSUBACK without codes"),
    (Rmqtt, "section 3.15.2.2.2", "takes an AUTH without a method"),
];

/// Packets that we accept and an oracle refuses or encodes differently.
struct Strict {
    oracle: Oracle,
    why: &'static str,
    applies: fn(&Packet<'_>, Frame<'_>, Version) -> bool,
}

const STRICT: &[Strict] = &[
    Strict {
        oracle: MqttProto,
        why: "applies the reserved bits of 3.1.1 to 3.1, which calls them unused and lets DUP be set",
        applies: unused_bits_of_v31,
    },
    Strict {
        oracle: MqttProto,
        why: "does not let the remaining length of a 3.1 CONNECT take precedence over its flags",
        applies: credentials_missing,
    },
    Strict {
        oracle: MqttProto,
        why: "writes the code 0x80 of a 3.x SUBACK as 3",
        applies: |packet, _, version| matches!(packet, Packet::SubAck(suback) if !version.is_v5() && suback.codes.contains(&0x80)),
    },
    Strict {
        oracle: MqttProto,
        why: "treats $share/ as v5 does in 3.x too",
        applies: |packet, _, version| {
            let shared = |filter: &str| filter.starts_with("$share/");
            !version.is_v5()
                && match packet {
                    Packet::Subscribe(subscribe) => {
                        subscribe.filters.into_iter().any(|(filter, _)| shared(filter))
                    }
                    Packet::Unsubscribe(unsubscribe) => unsubscribe.filters.into_iter().any(shared),
                    _ => false,
                }
        },
    },
    Strict {
        oracle: MqttProto,
        why: "allows one subscription identifier in PUBLISH; section 3.3.2.3.8 allows several",
        applies: |packet, _, _| matches!(packet, Packet::Publish(publish) if publish.properties.subscription_ids().count() > 1),
    },
    Strict {
        oracle: MqttProto,
        why: "compares the payload with its format indicator, which section 3.3.2.3.2 lets a receiver do",
        applies: |packet, _, _| match packet {
            Packet::Publish(publish) => {
                publish.properties.payload_format() == Some(1)
                    && std::str::from_utf8(publish.payload).is_err()
            }
            Packet::Connect(connect) => connect.will.is_some_and(|will| {
                will.properties.payload_format() == Some(1) && std::str::from_utf8(will.payload).is_err()
            }),
            _ => false,
        },
    },
    Strict {
        oracle: MqttProto,
        why: "refuses 0x8C in DISCONNECT: table 2-6 gives it to CONNACK and DISCONNECT, table 3-10 leaves it out",
        applies: |packet, _, _| {
            matches!(packet, Packet::Disconnect(disconnect)
                if disconnect.reason == ReasonCode::BAD_AUTHENTICATION_METHOD)
        },
    },
    Strict { oracle: Rmqtt, why: "as mqtt-proto: unused bits of 3.1", applies: unused_bits_of_v31 },
    Strict {
        oracle: Rmqtt,
        why: "writes a 3.1 CONNECT with level 4, so nothing can be compared",
        applies: |packet, _, version| version == Version::V31 && matches!(packet, Packet::Connect(_)),
    },
    Strict {
        oracle: Rmqtt,
        why: "refuses an empty client identifier without clean start; a server's decision (section 3.1.3.1)",
        applies: |packet, _, _| matches!(packet, Packet::Connect(connect) if connect.client_id.is_empty() && !connect.clean_start),
    },
    Strict {
        oracle: Rmqtt,
        why: "refuses a message expiry of 0, which section 3.3.2.3.3 allows",
        applies: |packet, _, _| matches!(packet, Packet::Publish(publish) if publish.properties.message_expiry_s() == Some(0)),
    },
    Strict {
        oracle: Rmqtt,
        why: "reads F0 00 and writes it as F0 02 00 00, which lacks the method (section 3.15.2.2.2)",
        applies: |packet, _, _| matches!(packet, Packet::Auth(auth) if auth.properties.is_empty()),
    },
];

fn unused_bits_of_v31(packet: &Packet<'_>, frame: Frame<'_>, version: Version) -> bool {
    let unused = match packet {
        Packet::Publish(_) => false,
        // The lowest connect flag, the first byte of CONNACK.
        Packet::Connect(_) if frame.body[9] & 1 != 0 => true,
        Packet::ConnAck(_) if frame.body[0] != 0 => true,
        _ => frame.first & 0x0F != packet.packet_type().reserved_flags(),
    };
    version == Version::V31 && unused
}

fn credentials_missing(packet: &Packet<'_>, frame: Frame<'_>, version: Version) -> bool {
    let Packet::Connect(connect) = packet else { return false };
    let announced = frame.body[9];
    version == Version::V31
        && ((announced & 0x80 != 0 && connect.username.is_none())
            || (announced & 0x40 != 0 && connect.password.is_none()))
}

fn section_mut<'p, 'a>(packet: &'p mut Packet<'a>) -> Option<&'p mut Properties<'a>> {
    Some(match packet {
        Packet::Connect(connect) => &mut connect.properties,
        Packet::ConnAck(connack) => &mut connack.properties,
        Packet::Publish(publish) => &mut publish.properties,
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            &mut ack.properties
        }
        Packet::Subscribe(subscribe) => &mut subscribe.properties,
        Packet::SubAck(suback) => &mut suback.properties,
        Packet::Unsubscribe(unsubscribe) => &mut unsubscribe.properties,
        Packet::UnsubAck(unsuback) => &mut unsuback.properties,
        Packet::PingReq | Packet::PingResp => return None,
        Packet::Disconnect(disconnect) => &mut disconnect.properties,
        Packet::Auth(auth) => &mut auth.properties,
    })
}

fn is_default(property: &Property<'_>) -> bool {
    matches!(
        property,
        Property::RetainAvailable(true)
            | Property::WildcardAvailable(true)
            | Property::SubscriptionIdAvailable(true)
            | Property::SharedAvailable(true)
            | Property::RequestProblemInfo(true)
            | Property::RequestResponseInfo(false)
            | Property::ReceiveMaximum(65_535)
            | Property::TopicAliasMaximum(0)
            | Property::PayloadFormat(0)
            | Property::SessionExpiry(0)
            | Property::WillDelay(0)
    )
}

/// A packet as text, with its properties sorted by identifier: oracles encode them in their own
/// order.
fn meaning(mut packet: Packet<'_>) -> String {
    let sorted = |section: &mut Properties<'_>| {
        let mut all: Vec<Property<'_>> = std::mem::take(section).iter().collect();
        all.retain(|property| !is_default(property));
        all.sort_by_key(Property::id);
        format!("{all:?}")
    };
    let mut sections = section_mut(&mut packet).map(sorted).unwrap_or_default();
    if let Packet::Connect(connect) = &mut packet {
        sections += &connect.will.as_mut().map(|will| sorted(&mut will.properties)).unwrap_or_default();
    }
    format!("{packet:?} {sections}")
}

/// Result for one frame: agreement, a listed difference with its reason, or one that is not listed.
enum Outcome {
    Agreed,
    Listed(&'static str),
    New(String),
}

fn compare(oracle: Oracle, bytes: &[u8], version: Version) -> Outcome {
    let framed = frame(bytes, u32::MAX);
    let ours =
        framed.and_then(|framed| framed.map(|frame| Ok((frame, decode(&frame, version)?))).transpose());
    let theirs = oracle.reread(bytes, version);
    match (ours, theirs) {
        (Ok(None), _) | (Err(_), None) => Outcome::Agreed,
        (Err(error), Some(_)) => {
            let lax = LAX.iter().find(|(lax, rule, _)| *lax == oracle && malformed::cites(&error, rule));
            match lax {
                Some((_, _, why)) => Outcome::Listed(why),
                None => Outcome::New(format!("{oracle:?} accepts {version} {bytes:02X?}: {error}")),
            }
        }
        (Ok(Some((ours, packet))), theirs) => {
            let again = theirs.as_deref().and_then(|theirs| {
                let frame = frame(theirs, u32::MAX).ok()??;
                decode(&frame, version).ok().map(meaning)
            });
            if again == Some(meaning(packet)) {
                return Outcome::Agreed;
            }
            match STRICT
                .iter()
                .find(|strict| strict.oracle == oracle && (strict.applies)(&packet, ours, version))
            {
                Some(strict) => Outcome::Listed(strict.why),
                None if theirs.is_none() => {
                    Outcome::New(format!("{oracle:?} refuses {version} {bytes:02X?}: {packet:?}"))
                }
                None => Outcome::New(format!(
                    "{oracle:?} reads {version} {bytes:02X?} as {again:?}, not {packet:?}"
                )),
            }
        }
    }
}

/// The tables show no difference but the listed ones, and every list entry has a difference.
#[test]
fn both_decoders_differ_on_the_listed_rows_only() {
    let rows = table::all().into_iter().map(|row| (row.bytes, row.version));
    let broken = malformed::all().map(|&(_, version, notation, _)| (notation::bytes(notation), version));
    let rows: Vec<(Vec<u8>, Version)> = rows.chain(broken).collect();
    let mut new = Vec::new();
    for oracle in ORACLES {
        let mut unused: Vec<&str> = LAX.iter().filter(|lax| lax.0 == oracle).map(|lax| lax.2).collect();
        unused.extend(STRICT.iter().filter(|strict| strict.oracle == oracle).map(|strict| strict.why));
        for (bytes, version) in &rows {
            match compare(oracle, bytes, *version) {
                Outcome::Agreed => {}
                Outcome::Listed(why) => unused.retain(|&other| other != why),
                Outcome::New(difference) => new.push(difference),
            }
        }
        assert!(unused.is_empty(), "{oracle:?} no longer differs in this: {unused:#?}");
    }
    assert!(new.is_empty(), "{new:#?}");
}

fn config() -> ProptestConfig {
    // The same packets in every run, so that an unknown difference of an oracle does not fail
    // unrelated work. To search for more, use another seed and a few hundred thousand cases.
    let rng_seed = RngSeed::Fixed(0x4752_4150);
    ProptestConfig { cases: 3_000, failure_persistence: None, rng_seed, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Generated packets, unchanged and with up to two bytes changed.
    #[test]
    fn both_decoders_differ_on_generated_packets_only_as_listed(
        recipe in recipe(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = Vec::new();
        encode(&recipe.packet(), recipe.version, &mut bytes);
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        if let Ok(Some(frame)) = frame(&bytes, u32::MAX) {
            let len = frame.len;
            bytes.truncate(len);
        }
        for oracle in ORACLES {
            if let Outcome::New(difference) = compare(oracle, &bytes, recipe.version) {
                prop_assert!(false, "{}", difference);
            }
        }
    }
}
