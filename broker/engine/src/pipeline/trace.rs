//! `trace client ID`: the packets of chosen clients, in and out, bounded. A client that nobody traces costs one flag test.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use super::{Shard, TraceLine};
use crate::id::ConnKey;
use crate::message::MessageView;
use crate::packet::{Packet, QoS};

/// What is remembered of one client.
#[derive(Debug, Default)]
pub(super) struct Trace {
    lines: VecDeque<TraceLine>,
    lost: u64,
}

impl Shard {
    /// Remembers a packet of a traced connection.
    #[cold]
    pub(super) fn trace(&mut self, key: ConnKey, inbound: bool, text: impl FnOnce() -> String) {
        let Some(conn) = self.conns.get(key) else { return };
        let client_id = match (&conn.state, conn.session.and_then(|session| self.sessions.get(session))) {
            (super::connection::State::Admitting(pending), _) => {
                std::sync::Arc::clone(&pending.identity.client_id)
            }
            (_, Some(session)) => std::sync::Arc::clone(&session.identity.client_id),
            _ => return,
        };
        self.trace_client(&client_id, inbound, text);
    }

    /// Remembers a packet of a client, if it is traced.
    pub(super) fn trace_client(&mut self, client_id: &str, inbound: bool, text: impl FnOnce() -> String) {
        let wall_ms = self.now.wall_ms;
        let max = self.setup.limits.trace_lines_max as usize;
        let Some(trace) = self.traces.get_mut(client_id) else { return };
        if trace.lines.len() >= max {
            trace.lines.pop_front();
            trace.lost += 1;
        }
        trace.lines.push_back(TraceLine { wall_ms, inbound, text: text() });
    }

    /// Begins to remember the packets of a client, also of one that is yet to connect; `trace_lines_max` bounds them.
    pub fn trace_start(&mut self, client_id: &str) {
        self.traces.entry(client_id.into()).or_default();
        self.set_traced(client_id, true);
    }

    /// Takes what was remembered since the last call, with the number of lines lost to the bound.
    pub fn trace_take(&mut self, client_id: &str) -> (Vec<TraceLine>, u64) {
        self.traces.get_mut(client_id).map_or((Vec::new(), 0), |trace| {
            (trace.lines.drain(..).collect(), std::mem::take(&mut trace.lost))
        })
    }

    /// Forgets a trace.
    pub fn trace_stop(&mut self, client_id: &str) {
        self.traces.remove(client_id);
        self.set_traced(client_id, false);
    }

    fn set_traced(&mut self, client_id: &str, traced: bool) {
        let session = self.by_client.get(client_id).and_then(|key| self.sessions.get(*key));
        if let Some(conn) = session.and_then(|session| session.conn).and_then(|key| self.conns.get_mut(key)) {
            conn.traced = traced;
        }
    }
}

/// A packet in one line.
pub(super) fn describe(packet: &Packet<'_>) -> String {
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
pub(super) fn describe_publish(
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
