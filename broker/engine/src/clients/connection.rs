//! A network connection in the engine, and the only place that puts packets on its outbound queue.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::rc::Rc;

use grapnel_plugin_abi::raw::Ticket;

use super::reading::{Pause, Reading};
use crate::clients::admission::{Admission, Renewal};
use crate::codec;
use crate::counters::Counters;
use crate::id::{ConnKey, SessionKey};
use crate::interface::Peer;
use crate::limits::Limits;
use crate::outbox::{Outbound, Outbox};
use crate::packet::{Packet, PacketType, Version};
use crate::reason::ReasonCode;
use crate::session::Identity;
use crate::timer::Timer;

/// The state of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Only CONNECT is valid [MQTT-3.1.0-1].
    New,
    /// Its CONNECT is not decided yet; [`Handshake::admission`] is set.
    Admitting,
    /// CONNECT was accepted.
    Live,
}

/// What a connection has until its CONNECT is accepted. After that only clients with an
/// authentication method have it, because they may authenticate again.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    /// What is known of it below MQTT, until its CONNECT is accepted. Then the identity has all that
    /// is still needed.
    pub(crate) peer: Option<Peer>,
    /// A CONNECT that is not decided.
    pub(crate) admission: Option<Box<Admission>>,
    /// Deadline for the CONNECT or the next AUTH of the client, monotonic milliseconds; `None` if
    /// none is due.
    pub(crate) packet_due_ms: Option<u64>,
    /// Authentication method of CONNECT.
    pub(crate) auth_method: Option<Box<str>>,
    /// A re-authentication, if one is going on.
    pub(crate) renewal: Option<Box<Renewal>>,
}

/// Topic aliases of an MQTT 5 connection in both directions (section 3.3.2.3.4), from the first one
/// that is set.
#[derive(Debug)]
pub(crate) struct Aliases {
    /// Set by the client: alias − 1 → topic.
    pub(crate) inbound: Vec<Option<Rc<str>>>,
    /// Set by the broker: topic → alias.
    pub(crate) outbound: HashMap<Box<str>, u16, ahash::RandomState>,
    /// Bytes of all these topics.
    pub(crate) bytes: usize,
}

impl Aliases {
    /// None is set.
    pub(crate) fn new(hasher: ahash::RandomState) -> Aliases {
        Aliases { inbound: Vec::new(), outbound: HashMap::with_hasher(hasher), bytes: 0 }
    }

    /// Bytes that they are charged for: the topics, an entry for each, and the tables.
    pub(crate) fn charge(&self) -> usize {
        let inbound = self.inbound.len() * size_of::<Option<Rc<str>>>();
        size_of::<Aliases>() + self.bytes + inbound + self.outbound.len() * size_of::<(Box<str>, u16)>()
    }

    /// Recomputes `bytes`.
    pub(crate) fn recount(&self) -> usize {
        let inbound = self.inbound.iter().flatten().map(|topic| topic.len());
        inbound.chain(self.outbound.keys().map(|topic| topic.len())).sum()
    }
}

/// The timer of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watch {
    /// When it is due, monotonic milliseconds.
    pub(crate) due_ms: u64,
    pub(crate) timer: Timer,
    /// Whether it is on the 10 ms wheel, which CONNECT and AUTH need.
    pub(crate) is_exact: bool,
}

/// A network connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: ConnKey,
    /// What it needs only until it is let in, and to authenticate again.
    handshake: Option<Box<Handshake>>,
    pub(crate) state: State,
    pub(crate) version: Version,
    pub(crate) session: Option<SessionKey>,
    /// Identity of the client, once CONNECT was read.
    pub(crate) identity: Option<Rc<Identity>>,
    pub(crate) out: Outbound,
    /// Whether it is in the list of the outbox.
    pub(crate) dirty: bool,
    /// Whether it is read; the shell is notified of each change.
    pub(crate) reading: Reading,
    /// Bytes that the shell has read and the engine has not taken.
    pub(crate) read_bytes: usize,
    /// When its socket last accepted bytes or had none to send, monotonic milliseconds.
    pub(crate) taken_ms: u64,
    /// Whether the outbox has listed it as overdue and the shell has not answered yet.
    pub(crate) overdue: bool,
    /// Whether its keep alive is over; then the timer is not armed.
    pub(crate) silent: bool,
    /// The timer that checks whether the client is late or silent.
    pub(crate) watch: Option<Watch>,
    /// When a packet was last received, monotonic milliseconds.
    pub(crate) last_received_ms: u64,
    /// One and a half times the keep alive, milliseconds; 0 for none [MQTT-3.1.2-22].
    pub(crate) silence_max_ms: u32,
    /// Maximum packet size that the client may send, bytes.
    pub(crate) receive_bytes_max: u32,
    /// The Receive Maximum that the broker granted.
    pub(crate) receive_maximum: u16,
    /// Maximum Packet Size of the client [MQTT-3.1.2-24].
    pub(crate) packet_bytes_max: u32,
    /// Whether failures may carry reason strings [MQTT-3.1.2-29].
    pub(crate) problem_info: bool,
    /// Whether the operator allows reason strings.
    pub(crate) reason_strings: bool,
    /// Maximum number of topic aliases that the client may set.
    pub(crate) inbound_aliases_max: u16,
    /// Maximum number of topic aliases that the broker may set.
    pub(crate) outbound_aliases_max: u16,
    /// Topic aliases; `None` before the first one is set.
    pub(crate) aliases: Option<Box<Aliases>>,
    pub(crate) traced: bool,
    /// Whether its client sees topics without their mount point, which its identity has.
    pub(crate) is_mounted: bool,
}

impl Connection {
    /// The ticket for which its CONNECT or its re-authentication waits.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        match self.admission() {
            Some(admission) => admission.ticket(),
            None => self.handshake()?.renewal.as_ref()?.ticket(),
        }
    }

    /// What it needs until it is let in, and to authenticate again; `None` if it needs nothing of
    /// that.
    #[inline]
    pub(crate) fn handshake(&self) -> Option<&Handshake> {
        self.handshake.as_deref()
    }

    /// The same, to change.
    #[inline]
    pub(crate) fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        self.handshake.as_deref_mut()
    }

    /// The same, to set something of it.
    pub(crate) fn set_handshake(&mut self) -> &mut Handshake {
        self.handshake.get_or_insert_default()
    }

    /// Its CONNECT was accepted, with this authentication method.
    pub(crate) fn let_in(&mut self, auth_method: Option<&str>) {
        self.state = State::Live;
        // The identity has what is needed of the peer.
        self.handshake = auth_method
            .map(|method| Box::new(Handshake { auth_method: Some(method.into()), ..Handshake::default() }));
    }

    /// What is known of it below MQTT, until its CONNECT is accepted.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.handshake()?.peer.as_ref()
    }

    /// Its CONNECT, if that is not decided.
    pub(crate) fn admission(&self) -> Option<&Admission> {
        self.handshake()?.admission.as_deref()
    }

    fn packet_due_ms(&self) -> Option<u64> {
        self.handshake()?.packet_due_ms
    }

    /// Whether its CONNECT or AUTH is due at this time, monotonic milliseconds.
    pub(crate) fn is_packet_due(&self, due_ms: u64) -> bool {
        self.packet_due_ms() == Some(due_ms)
    }

    /// The CONNECT or AUTH that was due has come.
    pub(crate) fn packet_came(&mut self) {
        if let Some(handshake) = self.handshake_mut() {
            handshake.packet_due_ms = None;
        }
    }

    pub(crate) fn new(key: ConnKey, peer: Peer, now_ms: u64, receive_bytes_max: u32) -> Connection {
        Connection {
            key,
            handshake: Some(Box::new(Handshake { peer: Some(peer), ..Handshake::default() })),
            state: State::New,
            version: Version::V311,
            session: None,
            identity: None,
            out: Outbound::default(),
            dirty: false,
            reading: Reading::Reading,
            read_bytes: 0,
            taken_ms: now_ms,
            overdue: false,
            silent: false,
            watch: None,
            last_received_ms: now_ms,
            silence_max_ms: 0,
            receive_bytes_max,
            receive_maximum: u16::MAX,
            packet_bytes_max: u32::MAX,
            problem_info: true,
            reason_strings: true,
            inbound_aliases_max: 0,
            outbound_aliases_max: 0,
            aliases: None,
            traced: false,
            is_mounted: false,
        }
    }

    /// The client's address without its port; `None` for a client of a Unix socket, and once CONNECT
    /// is accepted.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.peer()?.address()
    }

    /// Whether it is not read.
    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        self.reading != Reading::Reading
    }

    /// Stops reading from it.
    pub(crate) fn pause(&mut self, why: Pause) {
        self.reading = Reading::Paused(why);
    }

    /// Whether QoS 0 may be queued beyond `outbound_bytes_max`: its client reads fast enough, and
    /// the shard has room.
    pub(crate) fn may_burst(&self, now_ms: u64, limits: &Limits, room: usize) -> bool {
        let beyond = self.out.len() as u64 - limits.outbound_bytes_max;
        now_ms.saturating_sub(self.taken_ms) <= limits.outbound_burst_ms && beyond < room as u64
    }

    /// Whether the client is late with its CONNECT or AUTH.
    pub(crate) fn is_late(&self, now_ms: u64) -> bool {
        self.packet_due_ms().is_some_and(|due_ms| now_ms >= due_ms)
    }

    /// Whether the client has sent nothing for too long. The time does not count while the broker
    /// does not read [MQTT-3.1.2-22].
    pub(crate) fn is_silent(&self, now_ms: u64) -> bool {
        self.silence_max_ms > 0
            && now_ms >= self.last_received_ms + u64::from(self.silence_max_ms)
            && !self.is_paused()
    }

    /// The earliest time at which its client may be late or silent, monotonic milliseconds; `None`
    /// for never.
    pub(crate) fn next_check_ms(&self, now_ms: u64) -> Option<u64> {
        let since_ms = if self.is_paused() { now_ms } else { self.last_received_ms };
        let silent_ms = (self.silence_max_ms > 0).then_some(since_ms + u64::from(self.silence_max_ms));
        match (self.packet_due_ms(), silent_ms) {
            (Some(packet_ms), Some(silent_ms)) => Some(packet_ms.min(silent_ms)),
            (one, other) => one.or(other),
        }
    }

    /// Whether it may get reason strings.
    pub(crate) fn takes_reasons(&self) -> bool {
        self.problem_info && self.reason_strings
    }

    /// Whether a packet is within the client's Maximum Packet Size [MQTT-3.1.2-24].
    pub(crate) fn takes(&self, packet: &Packet<'_>) -> bool {
        self.packet_bytes_max == u32::MAX
            || codec::encoded_len(packet, self.version) <= self.packet_bytes_max as usize
    }

    /// Lists it in the outbox, so that the shell sends what is queued.
    #[inline]
    pub(crate) fn touch(&mut self, out: &mut Outbox) {
        if !self.dirty {
            self.dirty = true;
            out.dirty.push(self.key);
        }
    }

    /// Queues a packet and returns its bytes. A packet beyond the client's Maximum Packet Size is
    /// not sent [MQTT-3.1.2-24]; the result is 0.
    pub(crate) fn send(&mut self, packet: &Packet<'_>, out: &mut Outbox, counters: &mut Counters) -> usize {
        if !self.takes(packet) {
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

    /// Queues an acknowledgement and returns its bytes.
    #[inline]
    pub(crate) fn send_ack(
        &mut self,
        kind: PacketType,
        packet_id: NonZeroU16,
        reason: ReasonCode,
        out: &mut Outbox,
        counters: &mut Counters,
    ) -> usize {
        let version = self.version;
        self.queue(kind, out, counters, |buffer| codec::encode_ack(kind, packet_id, reason, version, buffer))
    }

    /// Queues PINGRESP and returns its bytes: 0 if the client accepts no packet of two
    /// [MQTT-3.1.2-24].
    pub(crate) fn send_pingresp(&mut self, out: &mut Outbox, counters: &mut Counters) -> usize {
        if self.packet_bytes_max < 2 {
            return 0;
        }
        self.queue(PacketType::PingResp, out, counters, codec::encode_pingresp)
    }

    /// Queues a CONNACK of 3.x and returns its bytes. It has no properties, so no size limit
    /// applies.
    #[inline]
    pub(crate) fn send_connack_v3(
        &mut self,
        session_present: bool,
        code: u8,
        out: &mut Outbox,
        counters: &mut Counters,
    ) -> usize {
        // MQTT 3.1 has no session present flag.
        let present = session_present && self.version != Version::V31;
        self.queue(PacketType::ConnAck, out, counters, |buffer| {
            codec::encode_connack_v3(present, code, buffer);
        })
    }

    /// Queues a packet of this type, written by `encode`, and returns its bytes.
    #[inline]
    fn queue(
        &mut self,
        kind: PacketType,
        out: &mut Outbox,
        counters: &mut Counters,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let before = self.out.len();
        self.out.append(encode);
        let sent = self.out.len() - before;
        counters.bytes_sent += sent as u64;
        count_sent(kind, counters);
        self.touch(out);
        sent
    }
}

/// Counts a packet that was queued.
pub(crate) fn count_sent(kind: PacketType, counters: &mut Counters) {
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
