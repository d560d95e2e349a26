//! Generated packets: an encoded packet decodes to the same packet, and no bytes make the codec
//! panic. The generator makes valid packets only; broken ones are made by changing bytes of the
//! tables.

use grapnel_engine::codec::{connect_version, decode, encode, encoded_len, frame, frame_len};
use grapnel_engine::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Filters, Packet, PacketType, Properties, Property, PropertyId,
    PropertyOwner, Publish, QoS, RetainHandling, SubAck, Subscribe, SubscriptionOptions, TopicFilters,
    UnsubAck, Unsubscribe, Version, Will, push_filter, push_property, push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::table::{id, whole};

/// The parts of a packet of any type, owned; [`Recipe::packet`] borrows them.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub version: Version,
    kind: PacketType,
    packet_id: u16,
    qos: QoS,
    flags: [bool; 4],
    number: u16,
    text: String,
    name: String,
    data: Vec<u8>,
    payload: Vec<u8>,
    properties: Vec<u8>,
    will_properties: Vec<u8>,
    filters: Vec<(String, SubscriptionOptions)>,
    codes: Vec<u8>,
    /// The payload of SUBSCRIBE or UNSUBSCRIBE, made of `filters`.
    encoded: Vec<u8>,
}

impl Recipe {
    pub fn packet(&self) -> Packet<'_> {
        let properties = Properties::from_encoded(&self.properties);
        let packet_id = id(self.packet_id);
        let reason = ReasonCode(self.codes[0]);
        let ack = Ack { packet_id, reason, properties };
        match self.kind {
            PacketType::Connect => Packet::Connect(self.connect(properties)),
            PacketType::ConnAck => {
                let code = self.codes[0];
                let session_present = self.flags[0] && code == 0 && self.version != Version::V31;
                Packet::ConnAck(ConnAck { session_present, code, properties })
            }
            PacketType::Publish => Packet::Publish(Publish {
                dup: self.flags[0] && self.qos != QoS::AtMostOnce,
                qos: self.qos,
                retain: self.flags[1],
                topic: &self.name,
                packet_id: (self.qos != QoS::AtMostOnce).then_some(packet_id),
                properties,
                payload: &self.payload,
            }),
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            PacketType::PubComp => Packet::PubComp(ack),
            PacketType::Subscribe => Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                filters: Filters::from_encoded(&self.encoded),
            }),
            PacketType::SubAck => Packet::SubAck(SubAck { packet_id, properties, codes: &self.codes }),
            PacketType::Unsubscribe => {
                let filters = TopicFilters::from_encoded(&self.encoded);
                Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters })
            }
            PacketType::UnsubAck => {
                let codes = if self.version.is_v5() { self.codes.as_slice() } else { &[] };
                Packet::UnsubAck(UnsubAck { packet_id, properties, codes })
            }
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect { reason, properties }),
            PacketType::Auth => Packet::Auth(Auth { reason, properties }),
        }
    }

    fn connect<'a>(&'a self, properties: Properties<'a>) -> Connect<'a> {
        let [clean_start, has_will, named, secret] = self.flags;
        Connect {
            version: self.version,
            clean_start,
            keep_alive_s: self.number,
            client_id: &self.text,
            username: named.then_some(&self.text),
            password: (secret && (named || self.version.is_v5())).then_some(&self.data),
            will: has_will.then(|| Will {
                topic: &self.name,
                payload: &self.data,
                qos: self.qos,
                retain: self.number.is_multiple_of(2),
                properties: Properties::from_encoded(&self.will_properties),
            }),
            properties,
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    // Every plane, no U+0000.
    "[ -~éß日\u{FEFF}\u{10FFFF}\u{1}]{0,12}"
}

fn topic_name() -> impl Strategy<Value = String> {
    "[a-c$/é日 ]{1,12}"
}

fn topic_filter() -> impl Strategy<Value = String> {
    let levels = vec(prop_oneof!["[a-c$é]{0,3}", Just("+".to_owned())], 1..5);
    (levels, any::<bool>()).prop_map(|(mut levels, all)| {
        if all {
            levels.push("#".to_owned());
        }
        let filter = levels.join("/");
        if filter.is_empty() { "/".to_owned() } else { filter }
    })
}

fn options(version: Version) -> impl Strategy<Value = SubscriptionOptions> {
    let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
    (qos(), any::<bool>(), any::<bool>(), select(handling.to_vec())).prop_map(
        move |(qos, nl, rap, retain_handling)| match version {
            Version::V5 => {
                SubscriptionOptions { qos, no_local: nl, retain_as_published: rap, retain_handling }
            }
            _ => SubscriptionOptions::of_qos(qos),
        },
    )
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn push_random(
    out: &mut Vec<u8>,
    id: PropertyId,
    number: u32,
    one: &str,
    two: &str,
    topic: &str,
    data: &[u8],
) {
    let (flag, short) = (number % 2 == 1, (number as u16).max(1));
    push_property(
        out,
        match id {
            PropertyId::PayloadFormat => Property::PayloadFormat(flag.into()),
            PropertyId::MessageExpiry => Property::MessageExpiry(number),
            PropertyId::ContentType => Property::ContentType(one),
            PropertyId::ResponseTopic => Property::ResponseTopic(topic),
            PropertyId::CorrelationData => Property::CorrelationData(data),
            PropertyId::SubscriptionId => Property::SubscriptionId((number % 268_435_455).max(1)),
            PropertyId::SessionExpiry => Property::SessionExpiry(number),
            PropertyId::AssignedClientId => Property::AssignedClientId(one),
            PropertyId::ServerKeepAlive => Property::ServerKeepAlive(short),
            PropertyId::AuthMethod => Property::AuthMethod(one),
            PropertyId::AuthData => Property::AuthData(data),
            PropertyId::RequestProblemInfo => Property::RequestProblemInfo(flag),
            PropertyId::WillDelay => Property::WillDelay(number),
            PropertyId::RequestResponseInfo => Property::RequestResponseInfo(flag),
            PropertyId::ResponseInfo => Property::ResponseInfo(one),
            PropertyId::ServerReference => Property::ServerReference(one),
            PropertyId::ReasonString => Property::ReasonString(one),
            PropertyId::ReceiveMaximum => Property::ReceiveMaximum(short),
            PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(short),
            PropertyId::TopicAlias => Property::TopicAlias(short),
            PropertyId::MaximumQos => Property::MaximumQos(flag.into()),
            PropertyId::RetainAvailable => Property::RetainAvailable(flag),
            PropertyId::User => Property::User(one, two),
            PropertyId::MaximumPacketSize => Property::MaximumPacketSize(number.max(1)),
            PropertyId::WildcardAvailable => Property::WildcardAvailable(flag),
            PropertyId::SubscriptionIdAvailable => Property::SubscriptionIdAvailable(flag),
            PropertyId::SharedAvailable => Property::SharedAvailable(flag),
        },
    );
}

/// A property section that `owner` may have, in any order.
fn section(owner: PropertyOwner) -> impl Strategy<Value = Vec<u8>> {
    let mut allowed: Vec<PropertyId> =
        PropertyId::ALL.iter().copied().filter(|id| id.allowed_in(owner)).collect();
    let again: Vec<PropertyId> = allowed.iter().copied().filter(|id| id.repeats_in(owner)).collect();
    allowed.extend(again.repeat(2));
    let count = allowed.len();
    let values = vec((any::<u32>(), text(), text(), topic_name(), vec(any::<u8>(), 0..9)), count);
    (subsequence(allowed, 0..=count).prop_shuffle(), values).prop_map(move |(mut ids, values)| {
        // Rules between properties: data needs a method, AUTH needs a method.
        let is_auth = owner == PropertyOwner::Packet(PacketType::Auth);
        if (is_auth || ids.contains(&PropertyId::AuthData)) && !ids.contains(&PropertyId::AuthMethod) {
            ids.push(PropertyId::AuthMethod);
        }
        let mut out = Vec::new();
        for (id, (number, one, two, topic, data)) in ids.into_iter().zip(values.iter().cycle()) {
            push_random(&mut out, id, *number, one, two, topic, data);
        }
        out
    })
}

fn codes(kind: PacketType, version: Version) -> Vec<u8> {
    match (kind, version.is_v5()) {
        (PacketType::ConnAck, true) => vec![0, 0x80, 0x8A, 0x8C, 0x9F],
        (PacketType::ConnAck, false) => vec![0, 1, 2, 3, 4, 5],
        (PacketType::SubAck, true) => vec![0, 1, 2, 0x80, 0xA2],
        (PacketType::SubAck, false) => vec![0, 1, 2, 0x80],
        (_, false) => vec![0],
        (PacketType::PubAck | PacketType::PubRec, _) => vec![0, 0x10, 0x99],
        (PacketType::PubRel | PacketType::PubComp, _) => vec![0, 0x92],
        (PacketType::UnsubAck, _) => vec![0, 0x11, 0x8F],
        (PacketType::Disconnect, _) => vec![0, 4, 0x80, 0xA2],
        (PacketType::Auth, _) => vec![0, 0x18, 0x19],
        _ => vec![0],
    }
}

fn recipe_of(kind: PacketType, version: Version) -> impl Strategy<Value = Recipe> {
    let sections = (section(PropertyOwner::Packet(kind)), section(PropertyOwner::Will));
    let texts = (text(), topic_name(), vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..300));
    let filters = vec((topic_filter(), options(version)), 1..5);
    (
        sections,
        texts,
        filters,
        vec(select(codes(kind, version)), 1..6),
        any::<[bool; 4]>(),
        qos(),
        1u16..,
        any::<u16>(),
    )
        .prop_map(move |(sections, texts, filters, codes, flags, qos, packet_id, number)| {
            let (properties, will_properties) = if version.is_v5() { sections } else { Default::default() };
            let (text, name, data, payload) = texts;
            let mut encoded = Vec::new();
            for (filter, options) in &filters {
                match kind {
                    PacketType::Unsubscribe => push_filter(&mut encoded, filter),
                    _ => push_subscription(&mut encoded, filter, *options),
                }
            }
            Recipe {
                version,
                kind,
                packet_id,
                qos,
                flags,
                number,
                text,
                name,
                data,
                payload,
                properties,
                will_properties,
                filters,
                codes,
                encoded,
            }
        })
}

/// A valid packet of any type and version.
pub fn recipe() -> impl Strategy<Value = Recipe> {
    let kinds = PacketType::ALL.into_iter().flat_map(|kind| {
        [Version::V31, Version::V311, Version::V5]
            .into_iter()
            .filter(move |version| version.is_v5() || kind != PacketType::Auth)
            .map(move |version| (kind, version))
    });
    select(kinds.collect::<Vec<_>>()).prop_flat_map(|(kind, version)| recipe_of(kind, version))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn encoded_packets_decode_to_the_same_values(recipe in recipe()) {
        let packet = recipe.packet();
        let mut out = Vec::new();
        encode(&packet, recipe.version, &mut out);
        prop_assert_eq!(encoded_len(&packet, recipe.version), out.len());
        prop_assert_eq!(frame_len(&out), Some(out.len()));
        prop_assert_eq!(decode(&whole(&out), recipe.version), Ok(packet));
        if let Packet::Subscribe(subscribe) = packet {
            prop_assert_eq!(subscribe.filters.len(), recipe.filters.len());
            let expected = recipe.filters.iter().map(|(filter, options)| (filter.as_str(), *options));
            prop_assert!(subscribe.filters.eq(expected));
        }
    }

    #[test]
    fn the_beginning_of_a_packet_is_never_an_error(recipe in recipe()) {
        let mut out = Vec::new();
        encode(&recipe.packet(), recipe.version, &mut out);
        for end in 0..out.len() {
            prop_assert_eq!(frame(&out[..end], u32::MAX), Ok(None));
        }
    }

    #[test]
    fn a_packet_with_changed_bytes_is_refused_or_decoded(
        recipe in recipe(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut out = Vec::new();
        encode(&recipe.packet(), recipe.version, &mut out);
        for (at, byte) in &changes {
            let at = at.index(out.len());
            out[at] = *byte;
        }
        check_any(&out);
        out.truncate(cut.index(out.len()));
        check_any(&out);
    }

    #[test]
    fn random_bytes_cause_no_panic(bytes in vec(any::<u8>(), 0..64), kind in 0u8..16) {
        check_any(&bytes);
        // The same as the body of a packet of each type, so that the decoder gets further.
        let mut framed = vec![kind << 4 | if matches!(kind, 6 | 8 | 10) { 2 } else { 0 }, bytes.len() as u8];
        framed.extend_from_slice(&bytes);
        check_any(&framed);
    }
}

/// The decoder does not panic, and an accepted packet is encoded to bytes with the same meaning.
fn check_any(bytes: &[u8]) {
    let Ok(Some(frame)) = frame(bytes, u32::MAX) else { return };
    let _ = connect_version(&frame);
    for version in [Version::V31, Version::V311, Version::V5] {
        let Ok(packet) = decode(&frame, version) else { continue };
        let mut out = Vec::new();
        encode(&packet, version, &mut out);
        assert_eq!(decode(&whole(&out), version), Ok(packet), "{bytes:02X?}");
        assert!(out.len() <= frame.len || version == Version::V31, "{bytes:02X?}");
    }
}

/// Each byte of each row of the tables, changed to each value.
#[test]
fn a_packet_with_one_changed_byte_is_refused_or_decoded() {
    for row in crate::table::all().iter().filter(|row| row.bytes.len() < 100) {
        let mut bytes = row.bytes.clone();
        for at in 0..bytes.len() {
            for value in 0..=u8::MAX {
                bytes[at] = value;
                check_any(&bytes);
            }
            bytes[at] = row.bytes[at];
        }
    }
}

#[test]
fn too_long_texts_are_cut_to_valid_utf8() {
    let long = "é".repeat(40_000);
    let mut encoded = Vec::new();
    push_property(&mut encoded, Property::User(&long, "v"));
    push_property(&mut encoded, Property::CorrelationData(long.as_bytes()));
    push_property(&mut encoded, Property::SubscriptionId(u32::MAX));
    let section = Properties::check(&encoded, PropertyOwner::Packet(PacketType::Publish)).unwrap();
    let (name, _) = section.user().next().unwrap();
    // 65,535 is odd, so the last character does not fit.
    assert_eq!(name.len(), 65_534);
    assert_eq!(section.correlation_data().unwrap().len(), 65_535);
    assert_eq!(section.subscription_ids().collect::<Vec<_>>(), [268_435_455]);
    let publish = Packet::Publish(Publish { properties: section, ..crate::table::publish("a", b"x") });
    let mut out = Vec::new();
    encode(&publish, Version::V5, &mut out);
    assert_eq!(decode(&whole(&out), Version::V5), Ok(publish));
}

#[test]
fn values_that_mqtt_cannot_express_are_not_encoded() {
    let mut out = Vec::new();
    let auth = Packet::Auth(Auth { reason: ReasonCode::SUCCESS, properties: Properties::default() });
    encode(&auth, Version::V311, &mut out);
    assert_eq!((out.as_slice(), encoded_len(&auth, Version::V311)), ([].as_slice(), 0));
    let payload = vec![0; 268_435_455];
    let fits =
        |topic| Packet::Publish(Publish { payload: &payload[3..], ..crate::table::publish(topic, b"") });
    assert_eq!(encoded_len(&fits("a"), Version::V311), grapnel_engine::packet::PACKET_BYTES_MAX as usize);
    assert_eq!(encoded_len(&fits("ab"), Version::V311), 0);
    encode(&fits("ab"), Version::V311, &mut out);
    assert!(out.is_empty());
}
