//! `trace client ID`: the packets of chosen clients, in and out, limited in number. Other clients
//! cost one flag test.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;

use crate::interface::TraceLine;
use crate::message::MessageView;
use crate::packet::{Packet, QoS};

/// The recorded packets of one client.
#[derive(Debug, Default)]
struct Trace {
    lines: VecDeque<TraceLine>,
    lost: u64,
}

/// Traces by client identifier.
#[derive(Debug)]
pub(crate) struct Traces {
    clients: HashMap<Box<str>, Trace, ahash::RandomState>,
}

impl Traces {
    pub(crate) fn new(hasher: ahash::RandomState) -> Traces {
        Traces { clients: HashMap::with_hasher(hasher) }
    }

    /// Starts to record the packets of a client. A running trace continues.
    pub(crate) fn start(&mut self, client_id: &str) {
        self.clients.entry(client_id.into()).or_default();
    }

    /// Stops recording a client and drops its record.
    pub(crate) fn stop(&mut self, client_id: &str) {
        self.clients.remove(client_id);
    }

    /// Whether the packets of a client are recorded.
    #[inline]
    pub(crate) fn has(&self, client_id: &str) -> bool {
        self.clients.contains_key(client_id)
    }

    /// Records a packet of a client, if it is traced; beyond `lines_max` the oldest line is
    /// dropped.
    pub(crate) fn add(&mut self, client_id: &str, lines_max: usize, line: impl FnOnce() -> TraceLine) {
        let Some(trace) = self.clients.get_mut(client_id) else { return };
        if trace.lines.len() >= lines_max {
            trace.lines.pop_front();
            trace.lost += 1;
        }
        trace.lines.push_back(line());
    }

    /// Takes the lines recorded since the last call, with the number of dropped lines.
    pub(crate) fn take(&mut self, client_id: &str) -> (Vec<TraceLine>, u64) {
        self.clients.get_mut(client_id).map_or((Vec::new(), 0), |trace| {
            (trace.lines.drain(..).collect(), std::mem::take(&mut trace.lost))
        })
    }
}

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
