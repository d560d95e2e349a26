//! Delivery of a message to a session: message.delivered, window, queue, encoding. A delivery queues or drops; it never waits
//! and never blocks its publisher.

use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Shard;
use super::connection::count_sent;
use super::route::hold;
use super::subscribe::lower;
use super::tell::Loss;
use crate::delivery::{SHARED_PAYLOAD_BYTES, Shape};
use crate::hook::HookPoint;
use crate::hook::message::Disposition;
use crate::id::SessionKey;
use crate::message::{MessageView, Origin, Payload};
use crate::packet::{PacketType, QoS};
use crate::reason::ReasonCode;
use crate::route::{GroupId, SubOptions, Target};
use crate::session::{Delivery, Fate, Held, Phase};

/// How a message goes to one session.
pub(super) struct Manner {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) subscription_ids: SmallVec<[u32; 2]>,
    pub(super) group: Option<GroupId>,
    /// Whether the view is the message that the frame cache was begun with.
    pub(super) cached: bool,
}

enum Sent {
    Yes,
    /// The outbound queue is full.
    NoRoom,
    /// It can never be sent to this client.
    TooLarge,
}

impl Shard {
    /// A plain subscriber: its matching subscriptions are one delivery with the highest QoS and all identifiers
    /// [MQTT-3.3.4-2] [MQTT-3.3.4-4].
    pub(super) fn serve_target(&mut self, target: &Target, view: &MessageView<'_>, held: &mut Option<Held>) {
        let own = view.origin == Some(Origin { shard: self.setup.id, session: target.session });
        let mut qos = None;
        let mut retain = false;
        let mut subscription_ids = SmallVec::new();
        for options in &target.subs {
            // [MQTT-3.8.3-3]
            if options.no_local && own {
                continue;
            }
            qos = qos.max(Some(options.qos));
            // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
            retain |= options.retain_as_published && view.retain;
            if options.subscription_id != 0 {
                subscription_ids.push(options.subscription_id);
            }
        }
        let Some(qos) = qos else { return };
        let manner =
            Manner { qos: lower(view.qos, qos), retain, subscription_ids, group: None, cached: true };
        self.deliver(target.session, manner, view, held);
    }

    /// The member of a shared subscription whose turn it is.
    pub(super) fn serve_member(
        &mut self,
        session: SessionKey,
        options: SubOptions,
        group: Option<GroupId>,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) {
        let mut subscription_ids = SmallVec::new();
        if options.subscription_id != 0 {
            subscription_ids.push(options.subscription_id);
        }
        let manner = Manner {
            qos: lower(view.qos, options.qos),
            retain: options.retain_as_published && view.retain,
            subscription_ids,
            group,
            cached: true,
        };
        self.deliver(session, manner, view, held);
    }

    /// Queues a message for a session, or drops it and counts why.
    pub(super) fn deliver(
        &mut self,
        key: SessionKey,
        manner: Manner,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.fate == Fate::Ends {
            return;
        }
        if !session.fetches.is_empty() {
            // Its stored version, on its way already, is the older one now.
            let fingerprint = self.hasher.hash_one(view.topic);
            session.fetches.iter_mut().for_each(|fetch| {
                fetch.live.insert(fingerprint);
            });
        }
        if session.conn.is_none() && manner.qos == QoS::AtMostOnce {
            // Nothing is promised for QoS 0 to who is away (section 4.1).
            return;
        }
        if self.asks_for_deliveries() && !self.may_deliver(key, &manner, view, held) {
            return;
        }
        self.deliver_checked(key, manner, view, held);
    }

    /// As `deliver`, for what client.authorize has let pass.
    pub(super) fn deliver_checked(
        &mut self,
        key: SessionKey,
        mut manner: Manner,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) {
        let Some(session) = self.sessions.get(key) else { return };
        if session.conn.is_none() && manner.qos == QoS::AtMostOnce {
            // It has left while its delivery was asked about.
            return;
        }
        if self.chains.chain(HookPoint::MessageDelivered).is_empty() {
            self.deliver_as(key, &manner, view, held);
            return;
        }
        let identity = Rc::clone(&session.identity);
        let draft = self.run_delivered(&identity, *view);
        if draft.disposition != Disposition::Pass {
            self.count_drop(Loss::Hook, view, Some(key));
            return;
        }
        if draft.leaves_message() {
            self.deliver_as(key, &manner, view, held);
            return;
        }
        manner.cached = false;
        if let Some(qos) = draft.qos {
            manner.qos = lower(manner.qos, qos.as_u8());
        }
        let changed = draft.view(*view, self.now.mono_ms);
        self.deliver_as(key, &manner, &changed, &mut None);
    }

    fn deliver_as(
        &mut self,
        key: SessionKey,
        manner: &Manner,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) {
        let now_ms = self.now.mono_ms;
        if view.is_expired(now_ms) {
            self.count_drop(Loss::Expired, view, Some(key));
            return;
        }
        if manner.qos == QoS::AtMostOnce {
            match self.write_publish(key, manner, view, None, false, held) {
                Sent::Yes => {}
                Sent::NoRoom => self.count_drop(Loss::QueueFull, view, Some(key)),
                // Discarded as if it had been delivered [MQTT-3.1.2-25].
                Sent::TooLarge => self.count_drop(Loss::TooLarge, view, Some(key)),
            }
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let at_once = session.conn.is_some() && session.queue.is_empty() && session.inflight.has_room();
        let conn_has_room = self.has_room(key);
        let delivery = delivery_of(manner, view, held);
        if at_once && conn_has_room {
            self.publish_now(key, manner, delivery, view, held);
            return;
        }
        let (messages_max, bytes_max) =
            (self.setup.limits.session_queue_messages_max, self.setup.limits.session_queue_bytes_max);
        if let Some(session) = self.sessions.get_mut(key)
            && !session.enqueue(delivery, messages_max, bytes_max)
        {
            self.count_drop(Loss::QueueFull, view, Some(key));
        }
    }

    fn publish_now(
        &mut self,
        key: SessionKey,
        manner: &Manner,
        delivery: Delivery,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let packet_id = session.inflight.next_packet_id();
        match self.write_publish(key, manner, view, Some(packet_id), false, held) {
            Sent::Yes | Sent::NoRoom => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.inflight.publish(packet_id, delivery);
                }
            }
            Sent::TooLarge => self.count_drop(Loss::TooLarge, view, Some(key)),
        }
    }

    /// Whether the socket's queue takes more.
    fn has_room(&self, key: SessionKey) -> bool {
        let conn =
            self.sessions.get(key).and_then(|session| session.conn).and_then(|conn| self.conns.get(conn));
        conn.is_some_and(|conn| (conn.out.len() as u64) < self.setup.limits.outbound_bytes_max)
    }

    /// Puts a PUBLISH on the outbound queue of a session's connection.
    fn write_publish(
        &mut self,
        key: SessionKey,
        manner: &Manner,
        view: &MessageView<'_>,
        packet_id: Option<std::num::NonZeroU16>,
        dup: bool,
        held: &mut Option<Held>,
    ) -> Sent {
        let now_ms = self.now.mono_ms;
        let Some(conn_key) = self.sessions.get(key).and_then(|session| session.conn) else {
            return Sent::NoRoom;
        };
        let Some(conn) = self.conns.get_mut(conn_key) else { return Sent::NoRoom };
        // A packet with an identifier has its place in the window, so it must be sent.
        if packet_id.is_none() && conn.out.len() as u64 >= self.setup.limits.outbound_bytes_max {
            return Sent::NoRoom;
        }
        let alias = match &conn.aliases {
            Some(aliases) if aliases.outbound_max > 0 => alias_for(aliases, view.topic),
            _ => None,
        };
        let shape = Shape {
            version: conn.version,
            qos: manner.qos,
            retain: manner.retain,
            dup,
            subscription_ids: &manner.subscription_ids,
            topic_alias: alias.map(|(alias, _)| alias),
            topic_known: alias.is_some_and(|(_, known)| known),
        };
        let frame = self.frames.frame(view, &shape, manner.cached, now_ms);
        if frame.len == 0 || frame.len > conn.packet_bytes_max as usize {
            return Sent::TooLarge;
        }
        conn.out.append(|buffer| frame.copy_to(buffer, packet_id));
        let (copied_bytes, sent_bytes) = (frame.bytes.len(), frame.len);
        let payload = view.payload.as_slice();
        if payload.len() >= SHARED_PAYLOAD_BYTES {
            let payload: Bytes = match view.payload {
                Payload::Shared(bytes) => bytes.clone(),
                Payload::Borrowed(_) => hold(view, held).payload.clone(),
            };
            conn.out.append_shared(payload);
        }
        // The client knows the alias only once a packet with it is on its way.
        if let (Some((alias, false)), Some(aliases)) = (alias, &mut conn.aliases) {
            aliases.outbound.insert(view.topic.into(), alias);
        }
        conn.touch(&mut self.out);
        self.counters.bytes_sent += sent_bytes as u64;
        count_sent(PacketType::Publish, &mut self.counters);
        self.counters.messages_sent += 1;
        match manner.qos {
            QoS::AtMostOnce => self.counters.messages_qos0_sent += 1,
            QoS::AtLeastOnce => self.counters.messages_qos1_sent += 1,
            QoS::ExactlyOnce => self.counters.messages_qos2_sent += 1,
        }
        if conn.traced {
            let text = super::trace::describe_publish(view, manner.qos, manner.retain, dup, packet_id);
            self.trace(conn_key, false, || text);
        }
        self.tell_sent(conn_key, PacketType::Publish, copied_bytes, sent_bytes);
        Sent::Yes
    }

    /// Sends what may be sent: first what an earlier connection left unacknowledged, with DUP and in order
    /// [MQTT-4.4.0-1], then the queue.
    pub(super) fn pump_queue(&mut self, key: SessionKey) {
        loop {
            let has_room = self.has_room(key);
            let Some(session) = self.sessions.get_mut(key) else { return };
            let Some(conn) = session.conn else { return };
            if !has_room {
                return;
            }
            if let Some(outgoing) = session.inflight.next_resend() {
                match outgoing.phase {
                    Phase::Published(delivery) => self.resend(key, outgoing.packet_id, &delivery),
                    Phase::Released(_) => {
                        self.send_ack(conn, PacketType::PubRel, outgoing.packet_id, ReasonCode::SUCCESS);
                    }
                }
                continue;
            }
            if !session.inflight.has_room() {
                return;
            }
            let Some(delivery) = session.dequeue() else { break };
            self.send_queued(key, delivery);
        }
        self.pull_retained(key);
    }

    fn resend(&mut self, key: SessionKey, packet_id: std::num::NonZeroU16, delivery: &Delivery) {
        let manner = manner_of(delivery);
        let view = delivery.message.view();
        let mut held = Some(Rc::clone(&delivery.message));
        if let Sent::TooLarge = self.write_publish(key, &manner, &view, Some(packet_id), true, &mut held) {
            if let Some(session) = self.sessions.get_mut(key) {
                // This connection's client takes no such packet: as if it had been delivered.
                let _ = session.inflight.puback(packet_id).is_err()
                    && session.inflight.pubrec_failed(packet_id).is_err();
            }
            self.count_drop(Loss::TooLarge, &view, Some(key));
        }
    }

    fn send_queued(&mut self, key: SessionKey, delivery: Delivery) {
        let message = Rc::clone(&delivery.message);
        let view = message.view();
        if view.is_expired(self.now.mono_ms) {
            self.count_drop(Loss::Expired, &view, Some(key));
            return;
        }
        let manner = manner_of(&delivery);
        let mut held = Some(Rc::clone(&message));
        self.publish_now(key, &manner, delivery, &view, &mut held);
    }
}

pub(super) fn manner_of(delivery: &Delivery) -> Manner {
    Manner {
        qos: delivery.qos,
        retain: delivery.retain,
        subscription_ids: delivery.subscription_ids.iter().copied().collect(),
        group: delivery.group,
        cached: false,
    }
}

/// The delivery to keep.
pub(super) fn delivery_of(manner: &Manner, view: &MessageView<'_>, held: &mut Option<Held>) -> Delivery {
    Delivery {
        message: Rc::clone(hold(view, held)),
        qos: manner.qos,
        retain: manner.retain,
        subscription_ids: manner.subscription_ids.as_slice().into(),
        group: manner.group,
    }
}

/// The alias to write for a topic, and whether the client knows it; `None` when all are taken.
fn alias_for(aliases: &super::connection::Aliases, topic: &str) -> Option<(u16, bool)> {
    if let Some(alias) = aliases.outbound.get(topic) {
        return Some((*alias, true));
    }
    let next = aliases.outbound.len() as u16 + 1;
    (next <= aliases.outbound_max).then_some((next, false))
}
