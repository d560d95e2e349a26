//! CONNECT (MQTT 5.0 section 3.1): the home shard, client.connect, client.authenticate, and the
//! session that is created, resumed, taken over or discarded.

use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::reading::Handled;
use super::{
    connack, ending, home, hooks, inherit, new_session, notify, reading, subscriptions, takeover, wake,
};
use crate::address::Address;
use crate::clients::Connection;
use crate::clients::admission::Admission;
use crate::clients::connection::State;
use crate::hook::HookPoint;
use crate::id::{ConnKey, SessionKey};
use crate::interface::{ListenerInfo, Peer};
use crate::limits::Limits;
use crate::message::{Message, Origin};
use crate::mount_point::{Mount, MountError};
use crate::packet::{Connect, PACKET_BYTES_MAX, Properties, Property, PropertyId, Version, push_property};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::{EndReason, Identity, LifecycleState, Session, Will};
use crate::{codec, topic};

/// The properties of CONNECT that are stored for hooks, without the authentication properties.
pub(crate) fn kept_properties(properties: &Properties<'_>) -> Box<[u8]> {
    if properties.is_empty() {
        return Box::default();
    }
    let mut kept = Vec::new();
    let secret =
        |property: &Property<'_>| matches!(property.id(), PropertyId::AuthMethod | PropertyId::AuthData);
    properties
        .iter()
        .filter(|property| !secret(property))
        .for_each(|property| push_property(&mut kept, property));
    kept.into()
}

/// The identity with the values that CONNACK grants.
fn granted_identity(identity: Rc<Identity>, granted: &Properties<'_>) -> Rc<Identity> {
    let keep_alive_s = granted.server_keep_alive_s().unwrap_or(identity.keep_alive_s);
    let expiry_s = granted.session_expiry_s().unwrap_or(identity.expiry_s);
    if (keep_alive_s, expiry_s) == (identity.keep_alive_s, identity.expiry_s) {
        return identity;
    }
    Rc::new(Identity { keep_alive_s, expiry_s, ..Identity::clone(&identity) })
}

/// The expiry interval the broker grants.
pub(crate) fn granted_expiry(asked_s: u32, max_s: u64) -> u32 {
    u32::try_from(u64::from(asked_s).min(max_s)).unwrap_or(u32::MAX)
}

/// The keep alive that the broker grants, before client.connect.
fn granted_keep_alive_s(connect: &Connect<'_>, limits: &Limits, listener: &ListenerInfo) -> u16 {
    let max_s = listener.keep_alive_max_s.map_or(u16::MAX, NonZeroU16::get);
    let max_s = max_s.min(limits.keep_alive_max_s as u16);
    match (connect.version, connect.keep_alive_s) {
        // The client must use the value of Server Keep Alive [MQTT-3.2.2-21].
        (Version::V5, 0) if max_s < u16::MAX => max_s,
        (Version::V5, asked) => asked.min(max_s),
        // CONNACK of MQTT 3 has no place for another value, and a client that does not know of it
        // would be disconnected again and again. Without Server Keep Alive the value of CONNECT
        // applies [MQTT-3.2.2-22].
        (_, asked) => asked,
    }
}

/// The identity of a client that wants to get in.
pub(crate) fn identity_of(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    assigned: bool,
) -> Option<Identity> {
    let client_id: Arc<str> =
        if assigned { home::assign_client_id(parts).into() } else { Arc::from(connect.client_id) };
    let limits = Arc::clone(&parts.setup.limits);
    let expiry_s = match connect.version {
        Version::V5 => {
            granted_expiry(connect.properties.session_expiry_s().unwrap_or(0), limits.session_expiry_max_s)
        }
        _ if connect.clean_start => 0,
        _ => granted_expiry(limits.session_expiry_v3_s as u32, u64::from(u32::MAX)),
    };
    let now = parts.clock.now();
    let entrance = parts.connections.entrance(key)?;
    let peer = parts.connections.get(key)?.peer()?;
    let username = peer.username.as_deref().or(connect.username);
    Some(Identity {
        client_id,
        username: username.map(Box::from),
        is_certified: peer.username.is_some(),
        superuser: false,
        peer: Address::new(peer.peer),
        entrance,
        transport: Some(peer.listener.transport),
        tls: peer.tls.clone(),
        version: connect.version,
        clean_start: connect.clean_start,
        keep_alive_s: granted_keep_alive_s(connect, &limits, &peer.listener),
        expiry_s,
        requested_expiry_s: connect.properties.session_expiry_s().unwrap_or(0),
        receive_maximum: connect.properties.receive_maximum().unwrap_or(u16::MAX),
        connected_at_ms: now.wall_ms,
        connection: u64::from(parts.setup.id.0) << 56
            | u64::from(key.generation) << 24
            | u64::from(key.index),
        session: 0,
        anonymous: true,
        properties: kept_properties(&connect.properties),
        mount: None,
    })
}

/// What is to be in front of the topics of a client that wants to get in; `None` for nothing.
///
/// # Errors
/// Why the client cannot have the mount point of its listener.
pub(crate) fn mount_of(
    parts: &Parts,
    key: ConnKey,
    identity: &Identity,
) -> Result<Option<Box<Mount>>, MountError> {
    let peer = parts.connections.get(key).and_then(Connection::peer);
    let Some(point) = peer.and_then(|peer| peer.listener.mount_point.as_ref()) else { return Ok(None) };
    let mount = point.of_client(&identity.client_id, identity.username.as_deref())?;
    Ok(Some(Box::new(mount)))
}

/// The will of a CONNECT, if it is valid. Its authorization follows separately.
pub(crate) fn will_of(
    parts: &Parts,
    connect: &Connect<'_>,
    identity: &Rc<Identity>,
) -> Result<Option<Box<Will>>, ReasonCode> {
    let Some(will) = &connect.will else { return Ok(None) };
    let limits = &parts.setup.limits;
    let mut will_topic = will.topic.to_owned();
    if let Some(mount) = &identity.mount {
        mount.put_topic(will.topic, &mut will_topic);
    }
    if will_topic.len() as u64 > limits.topic_bytes_max
        || topic::check_levels(&will_topic, limits.topic_levels_max as u16).is_err()
    {
        return Err(ReasonCode::TOPIC_NAME_INVALID);
    }
    if will.qos > limits.choices.maximum_qos {
        // [MQTT-3.2.2-12]
        return Err(ReasonCode::QOS_NOT_SUPPORTED);
    }
    if will.retain && !limits.choices.retain_available {
        // [MQTT-3.2.2-13]
        return Err(ReasonCode::RETAIN_NOT_SUPPORTED);
    }
    if will.payload.len() as u64 > limits.payload_bytes_max {
        return Err(ReasonCode::QUOTA_EXCEEDED);
    }
    let delay_max_s = limits.will_delay_max_s;
    let mut forwarded = Vec::new();
    let properties = match codec::forwardable_properties(&will.properties, &mut forwarded) {
        true => will.properties.as_bytes(),
        false => &forwarded,
    };
    let message = Message {
        id: 0,
        topic: will_topic.into(),
        payload: Bytes::copy_from_slice(will.payload),
        properties: properties.into(),
        qos: will.qos,
        retain: will.retain,
        from: Arc::clone(&identity.client_id),
        origin: None,
        expires_at_ms: None,
        wall_ms: 0,
        ancestry: 0,
        flow: None,
    };
    Ok(Some(Box::new(Will {
        message,
        expiry_s: will.properties.message_expiry_s(),
        delay_s: granted_expiry(will.properties.will_delay_s().unwrap_or(0), delay_max_s),
        epoch: parts.hooks.authz_epoch(),
    })))
}

/// Admits the client: takeover, resumption or a new session, CONNACK, then the messages that
/// waited.
pub(crate) fn establish(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    admission: Admission,
    discards: bool,
) -> Handled {
    let Admission { mut identity, assigned, will, final_auth_data, inheritance, .. } = admission;
    let section = connack::connack_section(parts, connect, &identity, assigned, final_auth_data.as_deref());
    let clean = connect.clean_start || discards;
    let existing = parts.sessions.by_client_id(&identity.client_id);
    let goes_on = existing.is_some_and(|session| !clean && can_go_on(parts, session));
    if let Err(text) = make_room(parts, existing, clean, goes_on) {
        return connack::refuse(parts, key, ReasonCode::SERVER_BUSY, text);
    }
    let present = existing.and_then(|session| end_older(parts, session, clean));
    debug_assert_eq!(present.is_some(), goes_on, "what was reserved is used");
    parts.counters.session_owner_discarded += u64::from(discards);
    let number = session_number(parts, present);
    set_session(parts, key, &mut identity, number);
    let section = connack::run_connack(parts, &identity, ReasonCode::SUCCESS, present.is_some(), section);
    if !connack::connack_fits(parts, key, &section) {
        if present.is_none() {
            parts.sessions.give_back();
        }
        set_session(parts, key, &mut identity, 0);
        // Links have added properties that may not be omitted [MQTT-3.2.0-1].
        return connack::refuse(parts, key, ReasonCode::PACKET_TOO_LARGE, None);
    }
    if let Some(session) = present
        && takeover::is_foreign(parts, session, &identity)
    {
        inherit::hand_over(parts, session, inheritance.as_deref());
    }
    let session_key = present.unwrap_or_else(|| create_session(parts, &identity));
    let granted = Properties::from_encoded(&section);
    let identity = granted_identity(identity, &granted);
    let Some(()) = attach_session(parts, session_key, key, &identity, will) else { return Handled::Closed };
    if present.is_some() {
        parts.counters.session_resumed += 1;
    }
    let Some(()) = attach_connection(parts, key, session_key, &identity, connect, &granted) else {
        return Handled::Closed;
    };
    parts.counters.client_connected += 1;
    connack::send_connack(parts, key, present.is_some(), 0, &section);
    hooks::notify_client(parts, HookPoint::ClientConnected, &identity, ReasonCode::SUCCESS);
    let point = match present {
        Some(_) => HookPoint::SessionResumed,
        None => HookPoint::SessionCreated,
    };
    notify::notify_session(parts, point, session_key, None);
    subscriptions::update_groups(parts, session_key);
    wake::wake_queue(parts, session_key);
    Handled::Next
}

/// Whether there is room for the session of a client. A new session is reserved, before another one
/// is ended for it. The error is the reason string for the client.
fn make_room(
    parts: &mut Parts,
    existing: Option<SessionKey>,
    clean: bool,
    goes_on: bool,
) -> Result<(), Option<&'static [u8]>> {
    if let Some(session) = existing
        && !clean
        && is_too_busy(parts, session)
    {
        // The old connection has as many packets waiting as allowed. The client can reconnect when
        // some of them have taken effect, and the old connection continues meanwhile. Dropping the
        // will instead would break MQTT.
        return Err(Some(b"packets of this session wait, and their number is at its limit"));
    }
    if !goes_on && !reserve_session(parts, existing.is_some()) {
        parts.counters.sessions_refused += 1;
        return Err(None);
    }
    Ok(())
}

/// Gives a new or resumed session its connection, its identity and its will.
fn attach_session(
    parts: &mut Parts,
    session_key: SessionKey,
    key: ConnKey,
    identity: &Rc<Identity>,
    will: Option<Box<Will>>,
) -> Option<()> {
    let session = parts.sessions.get_mut(session_key)?;
    session.conn = Some(key);
    session.slots.note_return(parts.clock.now().mono_ms);
    // The session continues, so the will of its last connection is cancelled [MQTT-3.1.3-9].
    drop(session.take_rare(|rare| rare.delayed_will.take()));
    ending::cancel_end(&mut parts.clock, session);
    session.expiry_s = identity.expiry_s;
    session.since_wall_ms = parts.clock.now().wall_ms;
    session.epoch = session.epoch.wrapping_add(1);
    session.will = will;
    if let Some(will) = &mut session.will {
        will.message.origin = Some(Origin { shard: parts.setup.id, session: session_key });
    }
    let window = parts.setup.limits.inflight_max.min(u64::from(identity.receive_maximum)) as usize;
    session.inflight.restart(window);
    session.identity = Rc::clone(identity);
    Some(())
}

/// Gives a connection its session, and the limits and times that CONNACK grants.
fn attach_connection(
    parts: &mut Parts,
    key: ConnKey,
    session_key: SessionKey,
    identity: &Rc<Identity>,
    connect: &Connect<'_>,
    granted: &Properties<'_>,
) -> Option<()> {
    let conn = parts.connections.get_mut(key)?;
    conn.let_in(connect.properties.auth_method());
    conn.identity = Some(Rc::clone(identity));
    // An overdue CONNECT has been answered.
    conn.overdue = false;
    // From here on any packet is accepted.
    conn.receive_bytes_max = parts.setup.limits.packet_bytes_max as u32;
    conn.session = Some(session_key);
    conn.is_mounted = identity.mount.is_some();
    conn.last_received_ms = parts.clock.now().mono_ms;
    conn.silence_max_ms = u32::from(identity.keep_alive_s) * 1500;
    reading::watch_anew(&mut parts.clock, conn);
    if connect.version.is_v5() {
        let theirs = Properties::from_encoded(&identity.properties).topic_alias_maximum().unwrap_or(0);
        conn.receive_maximum = granted.receive_maximum().unwrap_or(u16::MAX);
        conn.receive_bytes_max = granted.maximum_packet_size().unwrap_or(PACKET_BYTES_MAX);
        conn.inbound_aliases_max = granted.topic_alias_maximum().unwrap_or(0);
        conn.outbound_aliases_max = theirs.min(parts.setup.limits.topic_alias_max as u16);
    }
    Some(())
}

/// Whether a session would exceed its limit of waiting packets once its connection has ended.
fn is_too_busy(parts: &Parts, session: SessionKey) -> bool {
    let (slots_max, bytes_max) = (parts.setup.limits.slots_max, parts.setup.limits.slot_bytes_max);
    parts
        .sessions
        .get(session)
        .is_some_and(|session| session.is_persistent() && !session.has_room_for_end(slots_max, bytes_max))
}

/// Whether a session can continue with another connection without clean start.
fn can_go_on(parts: &Parts, session: SessionKey) -> bool {
    parts.sessions.get(session).is_some_and(Session::outlives_connection)
}

/// Reserves a new session, which the caller creates or gives back. A session that replaces another
/// one may exceed the limit, because the other one is taken down a little later.
fn reserve_session(parts: &Parts, replaces: bool) -> bool {
    let (limits, more) = (&parts.setup.limits, u64::from(replaces));
    let (max, total_max) = (limits.sessions_max, limits.sessions_total_max);
    parts.sessions.reserve(max.saturating_add(more), total_max.saturating_add(more))
}

/// Ends an older connection or session under the same client identifier. Returns the session if it
/// continues.
fn end_older(parts: &mut Parts, session_key: SessionKey, clean_start: bool) -> Option<SessionKey> {
    let session = parts.sessions.get_mut(session_key)?;
    let persistent = session.is_persistent();
    let old = session.conn;
    if clean_start {
        session.end_reason = Some(EndReason::Discarded);
        let end = Some((EndReason::Discarded.word(), ReasonCode::SESSION_TAKEN_OVER));
        notify::notify_session(parts, HookPoint::SessionDiscarded, session_key, end);
        if let Some(session) = parts.sessions.get_mut(session_key).filter(|_| old.is_some()) {
            // The session ends with its connection, and so does its will [MQTT-3.1.4-3]
            // [MQTT-3.1.4-4].
            session.expiry_s = 0;
        }
    } else if !persistent {
        session.end_reason = Some(EndReason::Takenover);
    }
    if let Some(old) = old {
        takeover::take_over(parts, session_key, old);
    }
    let session = parts.sessions.get_mut(session_key)?;
    if clean_start || !persistent || session.lifecycle == LifecycleState::Ends {
        parts.counters.session_discarded += 1;
        ending::retire(parts, session_key, EndReason::Takenover);
        return None;
    }
    Some(session_key)
}

/// The number of the session that a connection gets: that of the session it resumes, or a new one.
fn session_number(parts: &mut Parts, present: Option<SessionKey>) -> u64 {
    let resumed = present.and_then(|session| parts.sessions.get(session));
    match resumed {
        Some(session) => session.identity.session,
        None => u64::from(parts.setup.id.0) << 56 | parts.sessions.next_number(),
    }
}

/// Sets the number of the session in a client's identity, before its hooks see it as let in.
fn set_session(parts: &mut Parts, key: ConnKey, identity: &mut Rc<Identity>, number: u64) {
    // Otherwise the identity would be copied.
    reading::take_identity(parts, key);
    Rc::make_mut(identity).session = number;
    reading::set_identity(parts, key, Rc::clone(identity));
}

fn create_session(parts: &mut Parts, identity: &Rc<Identity>) -> SessionKey {
    let key = new_session::new_session(parts, identity);
    parts.sessions.name(Arc::clone(&identity.client_id), key);
    parts.counters.session_created += 1;
    key
}

/// Opens a connection, before its first byte. `None` when `connections_max` or
/// `connections_total_max` is reached or the broker drains: close the socket.
pub(crate) fn open(parts: &mut Parts, peer: Peer) -> Option<ConnKey> {
    if parts.connections.is_draining() {
        return None;
    }
    let (max, total_max) = (parts.setup.limits.connections_max, parts.setup.limits.connections_total_max);
    if !parts.connections.reserve(max, total_max) {
        parts.counters.connections_refused += 1;
        return None;
    }
    let now_ms = parts.clock.now().mono_ms;
    // Before it is admitted, its packets are limited to the size of a CONNECT.
    let bytes_max = parts.setup.limits.packet_bytes_max.min(parts.setup.limits.connect_bytes_max) as u32;
    let reason_strings = parts.setup.limits.choices.reason_strings;
    let key = parts.connections.insert_with(|key| {
        let mut conn = Connection::new(key, peer, now_ms, bytes_max);
        conn.reason_strings = reason_strings;
        conn
    });
    reading::expect_packet(parts, key);
    Some(key)
}

/// Replaces what is known of a connection whose CONNECT has not been read. Returns false for any
/// other one: its identity is made already, and its address may be counted.
pub(crate) fn identify(parts: &mut Parts, key: ConnKey, peer: Peer) -> bool {
    let Some(conn) = parts.connections.get_mut(key) else { return false };
    let is_new = conn.state == State::New && conn.identity.is_none();
    if is_new {
        conn.set_handshake().peer = Some(peer);
    }
    is_new
}
