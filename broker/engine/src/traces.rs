//! `trace client ID`: the packets of chosen clients, in and out, bounded. A client that nobody traces costs one flag test.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;

use crate::interface::TraceLine;
use crate::message::MessageView;
use crate::packet::{Packet, QoS};

/// What is remembered of one client.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) lines: VecDeque<TraceLine>,
    pub(crate) lost: u64,
}

/// Traces by client identifier.
pub(crate) type Traces = HashMap<Box<str>, Trace, ahash::RandomState>;

/// A packet in one line.
pub(crate) fn describe(packet: &Packet<'_>) -> String {
    let name = packet.packet_type().name();
    match packet {
        Packet::Connect(connect) => format!(
            "{name} v{} c{} k{} '{}' user {:?} will {:?}",
            connect.version.level(),
            u8::from(connect.clean_start),
            connect.keep_alive_s,
            connect.client_id,
            connect.username,
            connect.will.map(|will| will.topic)
        ),
        Packet::ConnAck(connack) => {
            format!("{name} rc{:02x} session present {}", connack.code, connack.session_present)
        }
        Packet::Publish(publish) => format!(
            "{name} q{} r{} d{} m{} '{}' ({} bytes)",
            publish.qos.as_u8(),
            u8::from(publish.retain),
            u8::from(publish.dup),
            publish.packet_id.map_or(0, NonZeroU16::get),
            publish.topic,
            publish.payload.len()
        ),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            format!("{name} m{} rc{:02x}", ack.packet_id, ack.reason.0)
        }
        Packet::Subscribe(subscribe) => {
            let filters: Vec<String> = subscribe
                .filters
                .map(|(filter, options)| format!("'{filter}' q{}", options.qos.as_u8()))
                .collect();
            format!("{name} m{} {}", subscribe.packet_id, filters.join(", "))
        }
        Packet::SubAck(suback) => format!("{name} m{} {:02x?}", suback.packet_id, suback.codes),
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<&str> = unsubscribe.filters.collect();
            format!("{name} m{} '{}'", unsubscribe.packet_id, filters.join("', '"))
        }
        Packet::UnsubAck(unsuback) => format!("{name} m{} {:02x?}", unsuback.packet_id, unsuback.codes),
        Packet::Disconnect(disconnect) => format!("{name} rc{:02x}", disconnect.reason.0),
        Packet::Auth(auth) => format!("{name} rc{:02x}", auth.reason.0),
        Packet::PingReq | Packet::PingResp => name.to_owned(),
    }
}

/// A delivery in one line.
pub(crate) fn describe_publish(
    view: &MessageView<'_>,
    qos: QoS,
    retain: bool,
    dup: bool,
    packet_id: Option<NonZeroU16>,
) -> String {
    format!(
        "PUBLISH q{} r{} d{} m{} '{}' ({} bytes)",
        qos.as_u8(),
        u8::from(retain),
        u8::from(dup),
        packet_id.map_or(0, NonZeroU16::get),
        view.topic,
        view.payload.as_slice().len()
    )
}
