//! Bytes from a connection: frames are cut, packets handed to what handles them, and broken rules answered.

use bytes::Bytes;

use super::connection::State;
use super::{Input, Next, Received, Shard};
use crate::codec::{self, DecodeError, Frame};
use crate::hook::HookPoint;
use crate::id::{ConnKey, SessionKey};
use crate::packet::{Ack, Disconnect, Packet, PacketType, Version};
use crate::reason::ReasonCode;
use crate::session::inflight::AckError;
use crate::session::{EndCause, Slot, SlotBody};

/// What became of one packet.
pub(super) enum Handled {
    /// Go on with the next.
    Next,
    /// Nothing more is taken for now.
    Pause,
    /// The connection goes to another shard with this packet.
    Handoff(crate::id::ShardId),
    /// The connection has ended.
    Closed,
}

impl Shard {
    /// Bytes from a connection. A stale key answers `Closed`.
    pub fn receive(&mut self, key: ConnKey, input: Input<'_>) -> Received {
        let (buffer, owner) = match input {
            Input::Scratch(bytes) => (bytes, None),
            Input::Owned(bytes) => (&bytes[..], Some(bytes)),
        };
        let mut consumed = 0;
        let next = loop {
            let Some(conn) = self.conns.get_mut(key) else { break Next::Closed };
            if conn.paused {
                break Next::Pause;
            }
            let rest = &buffer[consumed..];
            if let (State::New, Some(first)) = (&conn.state, rest.first())
                && first >> 4 != PacketType::Connect as u8
            {
                // The first packet must be CONNECT [MQTT-3.1.0-1].
                self.end_connection(key, EndCause::ByBroker(ReasonCode::PROTOCOL_ERROR), None);
                break Next::Closed;
            }
            match codec::frame(rest, conn.receive_bytes_max) {
                Ok(None) => break Next::Read,
                Ok(Some(frame)) => {
                    conn.last_received_ms = self.now.mono_ms;
                    match self.handle_frame(key, &frame, &rest[..frame.len], owner) {
                        Handled::Next => consumed += frame.len,
                        Handled::Pause => {
                            consumed += frame.len;
                            break Next::Pause;
                        }
                        Handled::Handoff(shard) => {
                            self.conns.remove(key);
                            break Next::Handoff(shard);
                        }
                        Handled::Closed => {
                            consumed += frame.len;
                            break Next::Closed;
                        }
                    }
                }
                Err(error) => {
                    self.broken_rule(key, error);
                    break Next::Closed;
                }
            }
        };
        self.counters.bytes_received += consumed as u64;
        Received { consumed, next }
    }

    fn handle_frame(
        &mut self,
        key: ConnKey,
        frame: &Frame<'_>,
        whole: &[u8],
        owner: Option<&Bytes>,
    ) -> Handled {
        let Some(conn) = self.conns.get(key) else { return Handled::Closed };
        let (version, traced) = (conn.version, conn.traced);
        if matches!(conn.state, State::New) {
            return self.first_packet(key, frame, whole);
        }
        let admitting = matches!(conn.state, State::Admitting(_));
        self.counters.packets_received += 1;
        if let Some(kind) = frame.packet_type() {
            self.tell_received(key, kind, whole);
        }
        match codec::decode(frame, version) {
            Ok(Packet::Disconnect(_)) if admitting => {
                self.end_connection(key, EndCause::ByClient(false), None);
                Handled::Closed
            }
            // Before CONNACK a client that was asked for AUTH may send nothing else (section 4.12).
            Ok(packet) if admitting && packet.packet_type() != PacketType::Auth => {
                self.refuse(key, ReasonCode::PROTOCOL_ERROR, Some(b"a packet before authentication is over"))
            }
            Ok(packet) => {
                if traced {
                    self.trace(key, true, || super::trace::describe(&packet));
                }
                self.handle_packet(key, &packet, whole, owner)
            }
            Err(error) => {
                self.broken_rule(key, error);
                Handled::Closed
            }
        }
    }

    fn handle_packet(
        &mut self,
        key: ConnKey,
        packet: &Packet<'_>,
        whole: &[u8],
        owner: Option<&Bytes>,
    ) -> Handled {
        let handled = match packet {
            Packet::Publish(publish) => self.on_publish(key, publish, owner),
            Packet::PubAck(ack) => self.on_puback(key, ack),
            Packet::PubRec(ack) => self.on_pubrec(key, ack),
            Packet::PubRel(ack) => self.on_pubrel(key, ack),
            Packet::PubComp(ack) => self.on_pubcomp(key, ack),
            Packet::PingReq => {
                self.counters.packets_pingreq_received += 1;
                // At once, whatever waits [MQTT-3.12.4-1].
                self.send(key, &Packet::PingResp);
                Ok(())
            }
            Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::Disconnect(_) => {
                if self.must_wait(key) {
                    self.park(key, whole);
                    Ok(())
                } else {
                    self.handle_in_turn(key, packet, whole)
                }
            }
            Packet::Auth(auth) => self.on_auth(key, auth),
            // A second CONNECT [MQTT-3.1.0-2], and packets that only a server sends.
            _ => Err(DecodeError {
                reason: ReasonCode::PROTOCOL_ERROR,
                detail: "a packet that a client must not send here",
            }),
        };
        if let Err(error) = handled {
            self.broken_rule(key, error);
            return Handled::Closed;
        }
        self.pause_if_full(key)
    }

    /// A packet whose turn has come: SUBSCRIBE, UNSUBSCRIBE or DISCONNECT with nothing in front.
    pub(super) fn handle_in_turn(
        &mut self,
        key: ConnKey,
        packet: &Packet<'_>,
        whole: &[u8],
    ) -> Result<(), DecodeError> {
        match packet {
            Packet::Subscribe(subscribe) => {
                self.on_subscribe(key, subscribe, whole);
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.on_unsubscribe(key, unsubscribe, whole);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.on_disconnect(key, disconnect),
            _ => Ok(()),
        }
    }

    fn must_wait(&self, key: ConnKey) -> bool {
        self.session_of(key)
            .and_then(|session| self.sessions.get(session))
            .is_some_and(|s| !s.slots.is_empty())
    }

    fn park(&mut self, key: ConnKey, whole: &[u8]) {
        let Some(session) = self.session_of(key).and_then(|session| self.sessions.get_mut(session)) else {
            return;
        };
        let body = SlotBody::Packet(Bytes::copy_from_slice(whole));
        session.slots.push(Slot { conn: Some(key), bytes: whole.len(), body });
    }

    /// Stops reading a connection whose session has as many packets waiting as it may.
    fn pause_if_full(&mut self, key: ConnKey) -> Handled {
        let limits = self.limits();
        let (slots_max, bytes_max, window) = (limits.slots_max, limits.slot_bytes_max, limits.defer_window);
        let Some(conn) = self.conns.get_mut(key) else { return Handled::Closed };
        let full = conn.session.and_then(|session| self.sessions.get(session)).is_some_and(|s| {
            !s.slots.is_empty()
                && (s.slots.len() as u64 >= slots_max
                    || s.slots.bytes() as u64 >= bytes_max
                    || s.slots.deferred() as u64 >= window)
        });
        if full {
            conn.paused = true;
            return Handled::Pause;
        }
        Handled::Next
    }

    /// Reads a connection on whose session has room again.
    pub(super) fn resume_if_room(&mut self, session: crate::id::SessionKey) {
        let window = self.limits().defer_window;
        let (slots_max, bytes_max) = (self.limits().slots_max, self.limits().slot_bytes_max);
        let Some(session) = self.sessions.get(session) else { return };
        // Half, so that a connection does not flutter at the limit.
        let room = session.slots.len() as u64 <= slots_max / 2
            && session.slots.bytes() as u64 <= bytes_max / 2
            && session.slots.deferred() as u64 <= window / 2;
        if let Some(conn) = session.conn.and_then(|key| self.conns.get_mut(key))
            && conn.paused
            && room
        {
            conn.paused = false;
            // Keep alive does not run while we refuse to read.
            conn.last_received_ms = self.now.mono_ms;
            self.out.resume.push(conn.key);
        }
    }

    /// The session of a live connection.
    pub(super) fn session_of(&self, key: ConnKey) -> Option<crate::id::SessionKey> {
        self.conns.get(key).and_then(|conn| conn.session)
    }

    /// The client broke a rule: MQTT 5 is told which, the connection ends [MQTT-4.13.1-1].
    pub(super) fn broken_rule(&mut self, key: ConnKey, error: DecodeError) {
        self.counters.packets_malformed += 1;
        let Some(conn) = self.conns.get(key) else { return };
        if conn.traced {
            self.trace(key, true, || format!("(broken) {}: {}", error.reason, error.detail));
        }
        self.end_connection(key, EndCause::ByBroker(error.reason), Some((error.reason, Some(error.detail))));
    }

    fn on_puback(&mut self, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
        self.counters.packets_puback_received += 1;
        let Some(session_key) = self.session_of(key) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(session_key) else { return Ok(()) };
        match session.inflight.puback(ack.packet_id) {
            Ok(delivery) => {
                self.counters.messages_acked += 1;
                self.tell_acked(session_key, &delivery);
            }
            // A late or repeated one: nothing waits for it any more. One for a QoS 2 message breaks the exchange.
            Err(AckError::Unknown) => {}
            Err(AckError::Unexpected) => return Err(unexpected_ack()),
        }
        self.pump_queue(session_key);
        Ok(())
    }

    fn on_pubrec(&mut self, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
        self.counters.packets_pubrec_received += 1;
        let Some(session_key) = self.session_of(key) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(session_key) else { return Ok(()) };
        if ack.reason.is_error() {
            // The receiver refused the message: the identifier is free again [MQTT-4.3.3-4].
            if session.inflight.pubrec_failed(ack.packet_id) == Err(AckError::Unexpected) {
                return Err(unexpected_ack());
            }
            self.pump_queue(session_key);
            return Ok(());
        }
        let reason = match session.inflight.pubrec(ack.packet_id) {
            Ok(_) => ReasonCode::SUCCESS,
            Err(AckError::Unknown) => ReasonCode::PACKET_ID_NOT_FOUND,
            Err(AckError::Unexpected) => return Err(unexpected_ack()),
        };
        // PUBREL answers every PUBREC [MQTT-4.3.3-3].
        self.send_ack(key, PacketType::PubRel, ack.packet_id, reason);
        Ok(())
    }

    fn on_pubrel(&mut self, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
        self.counters.packets_pubrel_received += 1;
        let Some(session) = self.session_of(key).and_then(|session| self.sessions.get_mut(session)) else {
            return Ok(());
        };
        let known = session.awaiting_rel.iter().position(|id| *id == ack.packet_id);
        let reason = match known {
            Some(place) => {
                session.awaiting_rel.swap_remove(place);
                ReasonCode::SUCCESS
            }
            // PUBCOMP is due all the same [MQTT-4.3.3-11].
            None => ReasonCode::PACKET_ID_NOT_FOUND,
        };
        self.send_ack(key, PacketType::PubComp, ack.packet_id, reason);
        Ok(())
    }

    fn on_pubcomp(&mut self, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
        self.counters.packets_pubcomp_received += 1;
        let Some(session_key) = self.session_of(key) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(session_key) else { return Ok(()) };
        match session.inflight.pubcomp(ack.packet_id) {
            Ok(delivery) => {
                self.counters.messages_acked += 1;
                self.tell_acked(session_key, &delivery);
            }
            Err(AckError::Unknown) => {}
            Err(AckError::Unexpected) => return Err(unexpected_ack()),
        }
        self.pump_queue(session_key);
        Ok(())
    }

    fn on_disconnect(&mut self, key: ConnKey, disconnect: &Disconnect<'_>) -> Result<(), DecodeError> {
        self.counters.packets_disconnect_received += 1;
        let with_will = disconnect.reason == ReasonCode::DISCONNECT_WITH_WILL;
        let expiry_max_s = self.limits().session_expiry_max_s;
        let Some(session) = self.session_of(key).and_then(|session| self.sessions.get_mut(session)) else {
            return Ok(());
        };
        if let Some(expiry_s) = disconnect.properties.session_expiry_s() {
            // What was 0 at CONNECT stays 0 [MQTT-3.14.2-2].
            if session.identity.expiry_s == 0 && expiry_s > 0 {
                return Err(DecodeError {
                    reason: ReasonCode::PROTOCOL_ERROR,
                    detail: "session expiry set at DISCONNECT, which was 0 at CONNECT",
                });
            }
            session.expiry_s = super::connect::granted_expiry(expiry_s, expiry_max_s);
        }
        self.end_connection(key, EndCause::ByClient(with_will), None);
        Ok(())
    }

    /// Ends a connection: the last packet is queued, hooks are told, the session goes on without it.
    pub(super) fn end_connection(
        &mut self,
        key: ConnKey,
        cause: EndCause,
        disconnect: Option<(ReasonCode, Option<&'static str>)>,
    ) {
        if let (Some((reason, detail)), Some(conn)) = (disconnect, self.conns.get(key))
            && conn.version == Version::V5
            && matches!(conn.state, State::Live)
        {
            let mut properties = Vec::new();
            if let (Some(text), true) = (detail, conn.problem_info) {
                crate::packet::push_property(&mut properties, crate::packet::Property::ReasonString(text));
            }
            let properties = crate::packet::Properties::from_encoded(&properties);
            // A plugin may have named one that only other packets have.
            let reason = reason.fitted(ReasonCode::ends_connection);
            self.send(key, &Packet::Disconnect(Disconnect { reason, properties }));
        }
        let Some(mut conn) = self.conns.remove(key) else { return };
        self.out.closing.push(super::Closing { conn: key, outbound: std::mem::take(&mut conn.out) });
        if let State::Admitting(_) = conn.state {
            // Its ticket dies with it: the completion will find a stale key.
            self.admitting -= 1;
            return;
        }
        let Some(session_key) = conn.session else { return };
        let cause = match cause {
            EndCause::Lost => self.parked_disconnect(session_key, key).unwrap_or(cause),
            cause => cause,
        };
        self.counters.client_disconnected += 1;
        if let Some(session) = self.sessions.get(session_key) {
            let identity = std::rc::Rc::clone(&session.identity);
            self.notify_client(HookPoint::ClientDisconnected, &identity, cause.reason());
        }
        self.detach(session_key, key, cause);
    }

    /// How a client has taken its leave, where its DISCONNECT waits behind what it had sent before: it is not one that was lost
    /// [MQTT-3.14.4-3].
    fn parked_disconnect(&self, session_key: SessionKey, key: ConnKey) -> Option<EndCause> {
        let session = self.sessions.get(session_key)?;
        session.slots.iter().filter(|slot| slot.conn == Some(key)).find_map(|slot| {
            let SlotBody::Packet(bytes) = &slot.body else { return None };
            let frame = codec::frame(bytes, u32::MAX).ok()??;
            match codec::decode(&frame, session.identity.version) {
                Ok(Packet::Disconnect(disconnect)) => {
                    Some(EndCause::ByClient(disconnect.reason == ReasonCode::DISCONNECT_WITH_WILL))
                }
                _ => None,
            }
        })
    }

    /// The connection's socket has ended; the key is stale afterwards. A stale key is ignored.
    pub fn closed(&mut self, key: ConnKey, why: super::Ended) {
        let cause = match why {
            super::Ended::ByPeer => EndCause::Lost,
            super::Ended::Stuck => EndCause::ByBroker(ReasonCode::QUOTA_EXCEEDED),
            super::Ended::Overload => EndCause::ByBroker(ReasonCode::SERVER_BUSY),
        };
        self.end_connection(key, cause, None);
        // The shell has the socket already: nothing is left to be sent.
        if self.out.closing.last().is_some_and(|closing| closing.conn == key) {
            self.out.closing.pop();
        } else {
            self.out.closing.retain(|closing| closing.conn != key);
        }
    }
}

fn unexpected_ack() -> DecodeError {
    DecodeError {
        reason: ReasonCode::PROTOCOL_ERROR,
        detail: "an acknowledgement that does not fit the packet",
    }
}
