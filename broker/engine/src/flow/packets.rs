//! Bytes from a connection: splits them into frames, dispatches the packets, and answers protocol
//! errors.

use bytes::Bytes;

use super::reading::Handled;
use super::{
    admission, connack, ending, first_packet, notify, publish, pump, reading, send, settle, user_properties,
    wake,
};
use crate::clients::Connection;
use crate::clients::connection::State;
use crate::clients::reading::{Pause, Reading};
use crate::codec;
use crate::codec::{DecodeError, Frame};
use crate::id::{ConnKey, SessionKey};
use crate::interface::{Input, Next, Received};
use crate::packet::{Ack, Disconnect, DisconnectRequest, Packet, PacketType, Version};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::filters::FilterPacket;
use crate::session::inflight::AckError;
use crate::session::{Delivery, EndCause, Slot, SlotBody};

/// Handles bytes from a connection. Returns `Closed` for a stale key.
pub(crate) fn receive(parts: &mut Parts, key: ConnKey, input: Input<'_>) -> Received {
    let (buffer, owner) = match input {
        Input::Scratch(bytes) => (bytes, None),
        Input::Owned(bytes) => (&bytes[..], Some(bytes)),
    };
    let (mut consumed, mut published) = (0, false);
    wake::begin_step(parts);
    let next = loop {
        // Work that the previous packet has made ready comes before the next packet.
        settle::settle(parts);
        // The client's own packets are too much for one step.
        let stops = consumed > 0
            && (consumed < buffer.len() && parts.work.run().is_used_up()
                || published && parts.work.has_many_fanouts());
        let Some(conn) = parts.connections.get_mut(key) else { break Next::Closed };
        if conn.is_paused() {
            break Next::Pause;
        }
        if stops {
            reading::pause_for_work(parts, key);
            break Next::Pause;
        }
        let rest = &buffer[consumed..];
        if let (State::New, Some(first)) = (conn.state, rest.first())
            && first >> 4 != PacketType::Connect as u8
        {
            // The first packet must be CONNECT [MQTT-3.1.0-1].
            ending::end_connection(parts, key, EndCause::ByBroker(ReasonCode::PROTOCOL_ERROR), None);
            break Next::Closed;
        }
        match codec::frame(rest, conn.receive_bytes_max) {
            Ok(None) => break Next::Read,
            Ok(Some(frame)) => {
                conn.last_received_ms = parts.clock.now().mono_ms;
                published = frame.packet_type() == Some(PacketType::Publish);
                let state = Reader::of(conn);
                match handle_frame(parts, key, state, &frame, &rest[..frame.len], owner) {
                    Handled::Next => {
                        consumed += frame.len;
                        if consumed == buffer.len() && !state.new && has_made_nothing_ready(parts) {
                            break Next::Read;
                        }
                    }
                    Handled::Pause => {
                        consumed += frame.len;
                        break Next::Pause;
                    }
                    Handled::Handoff(shard) => {
                        reading::remove_connection(parts, key);
                        break Next::Handoff(shard);
                    }
                    Handled::Closed => {
                        consumed += frame.len;
                        break Next::Closed;
                    }
                }
            }
            Err(error) => {
                ending::broken_rule(parts, key, error);
                break Next::Closed;
            }
        }
    };
    parts.counters.bytes_received += consumed as u64;
    settle::settle(parts);
    Received { consumed, next }
}

/// State of a connection that decides how its next frame is read.
#[derive(Clone, Copy)]
struct Reader {
    version: Version,
    traced: bool,
    admitting: bool,
    new: bool,
}

impl Reader {
    #[inline]
    fn of(conn: &Connection) -> Reader {
        Reader {
            version: conn.version,
            traced: conn.traced,
            admitting: conn.state == State::Admitting,
            new: conn.state == State::New,
        }
    }
}

/// Whether the connection of a packet is as the packet has left it, so that it is read further. Most
/// often the packet was the last one, and this saves a look-up.
#[inline]
fn has_made_nothing_ready(parts: &Parts) -> bool {
    !settle::has_ready(parts) && !parts.work.has_many_fanouts()
}

fn handle_frame(
    parts: &mut Parts,
    key: ConnKey,
    Reader { version, traced, admitting, new }: Reader,
    frame: &Frame<'_>,
    whole: &[u8],
    owner: Option<&Bytes>,
) -> Handled {
    if new {
        return first_packet::first_packet(parts, key, frame, whole);
    }
    parts.counters.packets_received += 1;
    let kind = frame.packet_type();
    if let Some(kind) = kind {
        notify::notify_received(parts, key, kind, whole);
    }
    if !(admitting || traced || parts.setup.limits.choices.refuses_control_characters)
        && let Some(handled) = frequent_packet(parts, key, version, frame, owner)
    {
        return handled_packet(parts, key, handled);
    }
    match codec::decode(frame, version) {
        Ok(Packet::Disconnect(_)) if admitting => {
            ending::end_connection(parts, key, EndCause::ByClient(ReasonCode::SUCCESS), None);
            Handled::Closed
        }
        // Before CONNACK a client in an AUTH exchange may send nothing else (section 4.12).
        Ok(packet) if admitting && packet.packet_type() != PacketType::Auth => connack::refuse(
            parts,
            key,
            ReasonCode::PROTOCOL_ERROR,
            Some(b"a packet before authentication is over"),
        ),
        Ok(packet) if user_properties::refuses_controls(parts, &packet) => {
            ending::broken_rule(parts, key, control_character());
            Handled::Closed
        }
        Ok(packet) => {
            if traced {
                send::trace(parts, key, true, || crate::traces::describe(&packet));
            }
            handle_packet(parts, key, &packet, owner)
        }
        Err(error) => {
            // A packet that clients must not send is an error, whatever its content.
            let error = match kind {
                Some(kind) if kind.is_servers() => not_a_clients(),
                _ => error,
            };
            ending::broken_rule(parts, key, error);
            Handled::Closed
        }
    }
}

/// Handles a frame of one of the most frequent types; `None` for others. They take this way because
/// the enum of all packets is large to pass on.
fn frequent_packet(
    parts: &mut Parts,
    key: ConnKey,
    version: Version,
    frame: &Frame<'_>,
    owner: Option<&Bytes>,
) -> Option<Result<(), DecodeError>> {
    let kind = frame.packet_type()?;
    let on_ack = match kind {
        PacketType::Publish => {
            let publish = codec::decode_publish(frame, version);
            return Some(publish.and_then(|publish| publish::on_publish(parts, key, &publish, owner)));
        }
        PacketType::PingReq if frame.body.is_empty() && frame.first & 0x0F == 0 => {
            on_pingreq(parts, key);
            return Some(Ok(()));
        }
        PacketType::PubAck => on_puback,
        PacketType::PubRec => on_pubrec,
        PacketType::PubRel => on_pubrel,
        PacketType::PubComp => on_pubcomp,
        _ => return None,
    };
    Some(codec::decode_ack(frame, kind, version).and_then(|ack| {
        user_properties::check_user_properties(&ack.properties, &parts.setup.limits)?;
        on_ack(parts, key, &ack)
    }))
}

/// Answers PINGREQ at once, even if other packets wait [MQTT-3.12.4-1].
fn on_pingreq(parts: &mut Parts, key: ConnKey) {
    parts.counters.packets_pingreq_received += 1;
    send::send_pingresp(parts, key);
}

fn handle_packet(parts: &mut Parts, key: ConnKey, packet: &Packet<'_>, owner: Option<&Bytes>) -> Handled {
    let handled = match packet {
        Packet::Publish(publish) => publish::on_publish(parts, key, publish, owner),
        packet if user_properties::beyond_user_properties(packet, &parts.setup.limits) => {
            Err(user_properties::too_many_user_properties())
        }
        Packet::PubAck(ack) => on_puback(parts, key, ack),
        Packet::PubRec(ack) => on_pubrec(parts, key, ack),
        Packet::PubRel(ack) => on_pubrel(parts, key, ack),
        Packet::PubComp(ack) => on_pubcomp(parts, key, ack),
        Packet::PingReq => {
            on_pingreq(parts, key);
            Ok(())
        }
        Packet::Subscribe(subscribe) => {
            let most = parts.setup.limits.filters_per_subscribe_max as usize;
            enqueue(parts, key, FilterPacket::of_subscribe(subscribe, most));
            Ok(())
        }
        Packet::Unsubscribe(unsubscribe) => {
            let most = parts.setup.limits.filters_per_unsubscribe_max as usize;
            enqueue(parts, key, FilterPacket::of_unsubscribe(unsubscribe, most));
            Ok(())
        }
        Packet::Disconnect(disconnect) => on_disconnect(parts, key, disconnect),
        Packet::Auth(auth) => admission::on_auth(parts, key, auth),
        // A second CONNECT [MQTT-3.1.0-2], and packets that only a server sends.
        _ => Err(not_a_clients()),
    };
    handled_packet(parts, key, handled)
}

/// Ends the connection if a packet broke a rule. Otherwise pauses it if it is at its limits.
#[inline]
fn handled_packet(parts: &mut Parts, key: ConnKey, handled: Result<(), DecodeError>) -> Handled {
    if let Err(error) = handled {
        ending::broken_rule(parts, key, error);
        return Handled::Closed;
    }
    reading::pause_if_full(parts, key)
}

/// Queues SUBSCRIBE or UNSUBSCRIBE, which starts when nothing is in front of it.
fn enqueue(parts: &mut Parts, key: ConnKey, packet: FilterPacket) {
    let Some(session_key) = reading::session_of(parts, key) else { return };
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let is_first = session.slots.is_empty();
    session.slots.push(Slot::new(Some(key), SlotBody::Filters(Box::new(packet))));
    if is_first {
        wake::wake_slots(parts, session_key);
    }
}

/// Handles DISCONNECT. It waits behind packets that still wait.
fn on_disconnect(parts: &mut Parts, key: ConnKey, disconnect: &Disconnect<'_>) -> Result<(), DecodeError> {
    let Some(session_key) = reading::session_of(parts, key) else { return Ok(()) };
    let Some(session) = parts.sessions.get_mut(session_key) else { return Ok(()) };
    let leave = DisconnectRequest::of(disconnect, session.identity.requested_expiry_s);
    if session.slots.is_empty() {
        return pump::leave(parts, key, leave);
    }
    session.slots.push(Slot::new(Some(key), SlotBody::Disconnect(leave)));
    pump::disconnect_waits(parts, session_key, leave);
    Ok(())
}

fn on_puback(parts: &mut Parts, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
    parts.counters.packets_puback_received += 1;
    let Some(session_key) = reading::session_of(parts, key) else { return Ok(()) };
    let Some(session) = parts.sessions.get_mut(session_key) else { return Ok(()) };
    let outcome = session.inflight.puback(ack.packet_id);
    acked(parts, session_key, outcome)
}

fn on_pubrec(parts: &mut Parts, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
    parts.counters.packets_pubrec_received += 1;
    let Some(session_key) = reading::session_of(parts, key) else { return Ok(()) };
    let Some(session) = parts.sessions.get_mut(session_key) else { return Ok(()) };
    if ack.reason.is_error() {
        // The receiver refused the message: the identifier is free again [MQTT-4.3.3-4].
        if session.inflight.pubrec_failed(ack.packet_id) == Err(AckError::Unexpected) {
            return Err(unexpected_ack());
        }
        wake::wake_queue(parts, session_key);
        return Ok(());
    }
    let reason = match session.inflight.pubrec(ack.packet_id) {
        Ok(_) => ReasonCode::SUCCESS,
        Err(AckError::Unknown) => ReasonCode::PACKET_ID_NOT_FOUND,
        Err(AckError::Unexpected) => return Err(unexpected_ack()),
    };
    // PUBREL answers every PUBREC [MQTT-4.3.3-3].
    send::send_ack(parts, key, PacketType::PubRel, ack.packet_id, reason);
    Ok(())
}

fn on_pubrel(parts: &mut Parts, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
    parts.counters.packets_pubrel_received += 1;
    let most = parts.setup.limits.awaiting_rel_max;
    let Some(session) = reading::session_of(parts, key).and_then(|session| parts.sessions.get_mut(session))
    else {
        return Ok(());
    };
    let awaiting = session.awaiting_rel.get_mut();
    let reason = if awaiting.is_some_and(|awaiting| awaiting.remove(&ack.packet_id)) {
        if (session.awaiting_rel.len() as u64) < most {
            parts.clock.cancel_deadline(session.end_release_wait());
        }
        ReasonCode::SUCCESS
    } else {
        // PUBCOMP must be sent anyway [MQTT-4.3.3-11].
        ReasonCode::PACKET_ID_NOT_FOUND
    };
    let session = (!session.slots.is_empty()).then_some(session.key);
    send::send_ack(parts, key, PacketType::PubComp, ack.packet_id, reason);
    if let Some(session) = session {
        // A publish may have waited for this PUBREL.
        wake::wake_slots(parts, session);
    }
    Ok(())
}

fn on_pubcomp(parts: &mut Parts, key: ConnKey, ack: &Ack<'_>) -> Result<(), DecodeError> {
    parts.counters.packets_pubcomp_received += 1;
    let Some(session_key) = reading::session_of(parts, key) else { return Ok(()) };
    let Some(session) = parts.sessions.get_mut(session_key) else { return Ok(()) };
    let outcome = session.inflight.pubcomp(ack.packet_id);
    acked(parts, session_key, outcome)
}

/// Handles the last acknowledgement of a message that was sent. Its place in the window is free
/// again.
fn acked(
    parts: &mut Parts,
    session_key: SessionKey,
    outcome: Result<Delivery, AckError>,
) -> Result<(), DecodeError> {
    match outcome {
        Ok(delivery) => {
            parts.counters.messages_acked += 1;
            notify::notify_acked(parts, session_key, &delivery);
        }
        // A late or repeated one: ignored.
        Err(AckError::Unknown) => {}
        // One for a message of another QoS is a protocol error.
        Err(AckError::Unexpected) => return Err(unexpected_ack()),
    }
    wake::wake_queue(parts, session_key);
    Ok(())
}

fn not_a_clients() -> DecodeError {
    DecodeError { reason: ReasonCode::PROTOCOL_ERROR, detail: "a packet that a client must not send here" }
}

fn unexpected_ack() -> DecodeError {
    DecodeError {
        reason: ReasonCode::PROTOCOL_ERROR,
        detail: "an acknowledgement that does not fit the packet",
    }
}

/// Notes that bytes of a connection's outbound queue were written, so that waiting messages move
/// up.
pub(crate) fn written(parts: &mut Parts, conn: ConnKey) {
    let now_ms = parts.clock.now().mono_ms;
    let Some(found) = parts.connections.get_mut(conn) else { return };
    found.taken_ms = now_ms;
    let paused = found.reading == Reading::Paused(Pause::Outbound);
    if let Some(session) = found.session {
        wake::wake_queue(parts, session);
    }
    if paused {
        reading::resume_from(parts, conn, Pause::Outbound);
    }
}

fn control_character() -> DecodeError {
    DecodeError {
        reason: ReasonCode::MALFORMED_PACKET,
        detail: "a control character or a noncharacter in a string",
    }
}
