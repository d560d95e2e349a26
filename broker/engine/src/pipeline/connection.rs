//! A network connection as the engine sees it, and the one place where packets are put on its outbound queue.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::rc::Rc;

use super::admission::{Admission, Renewal};
use super::outbox::{Outbound, Outbox};
use super::{Counters, Peer, Shard};
use crate::codec;
use crate::id::{ConnKey, SessionKey};
use crate::packet::{Packet, PacketType, Version};
use crate::reason::ReasonCode;
use crate::session::Identity;

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing but CONNECT is welcome [MQTT-3.1.0-1].
    New,
    /// Its CONNECT is not decided yet.
    Admitting(Box<Admission>),
    /// In.
    Live,
}

impl State {
    /// Whether the client must send CONNECT or AUTH within `connect_timeout_ms`.
    pub(super) fn owes_a_packet(&self) -> bool {
        match self {
            State::New => true,
            State::Admitting(admission) => admission.waits_for_client(),
            State::Live => false,
        }
    }
}

/// Topic aliases of an MQTT 5 connection, both ways (section 3.3.2.3.4).
#[derive(Debug)]
pub(super) struct Aliases {
    /// How many the client may set.
    pub(super) inbound_max: u16,
    /// Set by the client: alias − 1 → topic.
    pub(super) inbound: Vec<Option<Rc<str>>>,
    /// Set by us: topic → alias.
    pub(super) outbound: HashMap<Box<str>, u16, ahash::RandomState>,
    /// How many we may set.
    pub(super) outbound_max: u16,
}

/// A network connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: ConnKey,
    pub(super) peer: Peer,
    pub(super) state: State,
    pub(super) version: Version,
    pub(super) session: Option<SessionKey>,
    /// Who it is, once CONNECT was read.
    pub(super) identity: Option<Rc<Identity>>,
    pub(super) out: Outbound,
    /// Whether the outbox lists it.
    pub(super) dirty: bool,
    /// Whether the shell has been told to read nothing.
    pub(super) paused: bool,
    /// Whether the outbox has listed it as overdue, and the shell has not answered yet.
    pub(super) overdue: bool,
    /// Monotonic milliseconds.
    pub(super) last_received_ms: u64,
    /// One and a half times the keep alive, 0 for none [MQTT-3.1.2-22].
    pub(super) silence_max_ms: u64,
    /// The largest packet it may send, bytes.
    pub(super) receive_bytes_max: u32,
    /// The Receive Maximum it was given.
    pub(super) receive_maximum: u16,
    /// The client's Maximum Packet Size [MQTT-3.1.2-24].
    pub(super) packet_bytes_max: u32,
    /// Whether failures may carry reason strings [MQTT-3.1.2-29].
    pub(super) problem_info: bool,
    pub(super) aliases: Option<Box<Aliases>>,
    pub(super) traced: bool,
    /// Authentication method of CONNECT.
    pub(super) auth_method: Option<Box<str>>,
    /// A re-authentication that is going on.
    pub(super) renewal: Option<Box<Renewal>>,
}

impl Connection {
    pub(super) fn new(key: ConnKey, peer: Peer, now_ms: u64, receive_bytes_max: u32) -> Connection {
        Connection {
            key,
            peer,
            state: State::New,
            version: Version::V311,
            session: None,
            identity: None,
            out: Outbound::default(),
            dirty: false,
            paused: false,
            overdue: false,
            last_received_ms: now_ms,
            silence_max_ms: 0,
            receive_bytes_max,
            receive_maximum: u16::MAX,
            packet_bytes_max: u32::MAX,
            problem_info: true,
            aliases: None,
            traced: false,
            auth_method: None,
            renewal: None,
        }
    }

    /// Has the shell send what is queued.
    #[inline]
    pub(super) fn touch(&mut self, out: &mut Outbox) {
        if !self.dirty {
            self.dirty = true;
            out.dirty.push(self.key);
        }
    }

    /// Queues a packet; its bytes. One beyond the client's Maximum Packet Size is left out [MQTT-3.1.2-24], which are 0.
    pub(super) fn send(&mut self, packet: &Packet<'_>, out: &mut Outbox, counters: &mut Counters) -> usize {
        if self.packet_bytes_max != u32::MAX
            && codec::encoded_len(packet, self.version) > self.packet_bytes_max as usize
        {
            return 0;
        }
        let before = self.out.len();
        let version = self.version;
        self.out.append(|buffer| codec::encode(packet, version, buffer));
        let sent = self.out.len() - before;
        counters.bytes_sent += sent as u64;
        count_sent(packet.packet_type(), counters);
        self.touch(out);
        sent
    }

    /// Queues an acknowledgement; its bytes.
    #[inline]
    pub(super) fn send_ack(
        &mut self,
        kind: PacketType,
        packet_id: NonZeroU16,
        reason: ReasonCode,
        out: &mut Outbox,
        counters: &mut Counters,
    ) -> usize {
        let version = self.version;
        let before = self.out.len();
        self.out.append(|buffer| codec::encode_ack(kind, packet_id, reason, version, buffer));
        let sent = self.out.len() - before;
        counters.bytes_sent += sent as u64;
        count_sent(kind, counters);
        self.touch(out);
        sent
    }
}

/// Counts a packet that was queued.
pub(super) fn count_sent(kind: PacketType, counters: &mut Counters) {
    counters.packets_sent += 1;
    match kind {
        PacketType::ConnAck => counters.packets_connack_sent += 1,
        PacketType::Publish => counters.packets_publish_sent += 1,
        PacketType::PubAck => counters.packets_puback_sent += 1,
        PacketType::PubRec => counters.packets_pubrec_sent += 1,
        PacketType::PubRel => counters.packets_pubrel_sent += 1,
        PacketType::PubComp => counters.packets_pubcomp_sent += 1,
        PacketType::SubAck => counters.packets_suback_sent += 1,
        PacketType::UnsubAck => counters.packets_unsuback_sent += 1,
        PacketType::PingResp => counters.packets_pingresp_sent += 1,
        PacketType::Disconnect => counters.packets_disconnect_sent += 1,
        _ => {}
    }
}

impl Shard {
    /// Queues a packet for a connection, if it is still there.
    pub(super) fn send(&mut self, key: ConnKey, packet: &Packet<'_>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let sent = conn.send(packet, &mut self.out, &mut self.counters);
        if sent == 0 {
            return;
        }
        if conn.traced {
            self.trace(key, false, || super::trace::describe(packet));
        }
        self.tell_sent(key, packet.packet_type(), sent, sent);
    }

    /// Queues an acknowledgement for a connection, if it is still there.
    #[inline]
    pub(super) fn send_ack(
        &mut self,
        key: ConnKey,
        kind: PacketType,
        packet_id: NonZeroU16,
        reason: ReasonCode,
    ) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let sent = conn.send_ack(kind, packet_id, reason, &mut self.out, &mut self.counters);
        if conn.traced {
            self.trace(key, false, || format!("{} m{packet_id} rc{:02x}", kind.name(), reason.0));
        }
        self.tell_sent(key, kind, sent, sent);
    }

    /// What is to be sent on a connection, to be written from the front and `advance`d.
    pub fn outbound(&mut self, conn: ConnKey) -> Option<&mut Outbound> {
        let conn = self.conns.get_mut(conn)?;
        conn.dirty = false;
        Some(&mut conn.out)
    }

    /// Tells that bytes of a connection's outbound queue have left, so that waiting messages may move up.
    pub fn written(&mut self, conn: ConnKey) {
        if let Some(session) = self.conns.get(conn).and_then(|conn| conn.session) {
            self.pump_queue(session);
        }
    }

    /// A new connection, before its first byte. `None` when `connections_max` is reached or the broker drains: close the
    /// socket.
    pub fn open(&mut self, peer: Peer) -> Option<ConnKey> {
        if self.draining || self.conns.len() as u64 >= self.limits().connections_max {
            return None;
        }
        let now_ms = self.now.mono_ms;
        let bytes_max = self.limits().packet_bytes_max as u32;
        let key = self.conns.insert_with(|key| Connection::new(key, peer, now_ms, bytes_max));
        self.deadlines
            .arm(now_ms + self.setup.limits.connect_timeout_ms, super::timers::Deadline::Connect(key));
        Some(key)
    }
}
