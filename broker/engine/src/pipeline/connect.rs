//! CONNECT (MQTT 5.0 section 3.1): the home shard, client.connect, client.authenticate, and the session that is created,
//! resumed, taken over or discarded.

use std::collections::HashMap;
use std::hash::Hasher;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Shard;
use super::connection::{Aliases, State};
use super::packets::Handled;
use crate::codec::{self, Frame};
use crate::hook::HookPoint;
use crate::id::{ConnKey, SessionKey, ShardId};
use crate::message::{Message, Origin};
use crate::packet::{
    Connect, PACKET_BYTES_MAX, Packet, Properties, Property, PropertyId, Version, push_property,
};
use crate::reason::ReasonCode;
use crate::session::{EndCause, Fate, Identity, Inflight, Last, Session, Slots, Will};
use crate::topic;

/// The properties of CONNECT that are kept for hooks: not what the client authenticates with.
pub(super) fn kept_properties(properties: &Properties<'_>) -> Box<[u8]> {
    let mut kept = Vec::new();
    let secret =
        |property: &Property<'_>| matches!(property.id(), PropertyId::AuthMethod | PropertyId::AuthData);
    properties
        .iter()
        .filter(|property| !secret(property))
        .for_each(|property| push_property(&mut kept, property));
    kept.into()
}

/// Who it is with what CONNACK grants it.
fn granted_identity(identity: Rc<Identity>, granted: &Properties<'_>) -> Rc<Identity> {
    let keep_alive_s = granted.server_keep_alive_s().unwrap_or(identity.keep_alive_s);
    let expiry_s = granted.session_expiry_s().unwrap_or(identity.expiry_s);
    if (keep_alive_s, expiry_s) == (identity.keep_alive_s, identity.expiry_s) {
        return identity;
    }
    Rc::new(Identity { keep_alive_s, expiry_s, ..Identity::clone(&identity) })
}

/// The expiry interval the broker grants.
pub(super) fn granted_expiry(asked_s: u32, max_s: u64) -> u32 {
    u32::try_from(u64::from(asked_s).min(max_s)).unwrap_or(u32::MAX)
}

impl Shard {
    /// The home shard of a client identifier: a keyed hash, so that nobody can aim at one shard.
    pub(super) fn home_of(&self, client_id: &str) -> ShardId {
        let mut hasher = siphasher::sip::SipHasher13::new_with_keys(self.setup.keys[0], self.setup.keys[1]);
        hasher.write(client_id.as_bytes());
        ShardId((hasher.finish() % self.setup.shards as u64) as u8)
    }

    /// A client identifier whose home is this shard [MQTT-3.1.3-6].
    fn assign_client_id(&mut self) -> String {
        loop {
            let id = format!("grapnel-{:016x}{:08x}", self.random(), self.random() as u32);
            if self.home_of(&id) == self.setup.id && !self.by_client.contains_key(id.as_str()) {
                return id;
            }
        }
    }

    /// The first packet of a connection.
    pub(super) fn first_packet(&mut self, key: ConnKey, frame: &Frame<'_>, whole: &[u8]) -> Handled {
        let version = codec::connect_version(frame);
        if let (Some(version), Some(conn)) = (version, self.conns.get_mut(key)) {
            conn.version = version;
        }
        let connect = match codec::decode(frame, Version::V5) {
            Ok(Packet::Connect(connect)) => connect,
            Ok(_) => {
                self.end_connection(key, EndCause::ByBroker(ReasonCode::PROTOCOL_ERROR), None);
                return Handled::Closed;
            }
            Err(error) => {
                self.counters.packets_malformed += 1;
                // MQTT 5 and an unknown level are told [MQTT-3.1.2-2] [MQTT-3.1.4-1]; a broken CONNECT of 3.x, and what is no
                // MQTT at all [MQTT-3.1.2-1], just ends.
                let unsupported = error.reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
                if version == Some(Version::V5) || (version.is_some() && unsupported) {
                    return self.refuse(key, error.reason, None);
                }
                self.end_connection(key, EndCause::ByBroker(error.reason), None);
                return Handled::Closed;
            }
        };
        if connect.client_id.len() as u64 > self.limits().client_id_bytes_max {
            return self.refuse(key, ReasonCode::CLIENT_ID_NOT_VALID, None);
        }
        let assigned = connect.client_id.is_empty();
        if assigned {
            // 3.1 wants an identifier; 3.1.1 gives one only to clean sessions [MQTT-3.1.3-8]; 5 always.
            let refused = match connect.version {
                Version::V31 => true,
                Version::V311 => !connect.clean_start,
                Version::V5 => false,
            };
            if refused {
                return self.refuse(key, ReasonCode::CLIENT_ID_NOT_VALID, None);
            }
        } else {
            let home = self.home_of(connect.client_id);
            if home != self.setup.id {
                return Handled::Handoff(home);
            }
        }
        self.counters.packets_received += 1;
        self.counters.packets_connect_received += 1;
        self.counters.client_connect += 1;
        self.admit(key, &connect, whole, assigned)
    }

    pub(super) fn identity_of(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        assigned: bool,
    ) -> Option<Identity> {
        let client_id: Arc<str> =
            if assigned { self.assign_client_id().into() } else { Arc::from(connect.client_id) };
        let limits = Arc::clone(&self.setup.limits);
        let expiry_s = match connect.version {
            Version::V5 => granted_expiry(
                connect.properties.session_expiry_s().unwrap_or(0),
                limits.session_expiry_max_s,
            ),
            _ if connect.clean_start => 0,
            _ => granted_expiry(limits.session_expiry_v3_s as u32, u64::from(u32::MAX)),
        };
        // Only MQTT 5 can be told of a shorter one [MQTT-3.1.2-21].
        let keep_alive_max_s = limits.keep_alive_max_s as u16;
        let keep_alive_s = match (connect.version, connect.keep_alive_s) {
            (Version::V5, 0) if keep_alive_max_s < u16::MAX => keep_alive_max_s,
            (Version::V5, asked) => asked.min(keep_alive_max_s),
            (_, asked) => asked,
        };
        let now = self.now;
        let conn = self.conns.get(key)?;
        Some(Identity {
            client_id,
            username: connect.username.map(Box::from),
            superuser: false,
            peer: conn.peer.peer,
            peer_host: conn.peer.peer.ip().to_string().into(),
            local: conn.peer.local,
            local_host: conn.peer.local.ip().to_string().into(),
            listener: Arc::clone(&conn.peer.listener.name),
            version: connect.version,
            clean_start: connect.clean_start,
            keep_alive_s,
            expiry_s,
            receive_maximum: connect.properties.receive_maximum().unwrap_or(u16::MAX),
            connected_at_ms: now.wall_ms,
            connection: u64::from(self.setup.id.0) << 56
                | u64::from(key.generation) << 24
                | u64::from(key.index),
            anonymous: true,
            properties: kept_properties(&connect.properties),
        })
    }

    /// The will, if there can be such a one; whether the client may leave it is another question.
    pub(super) fn will_of(
        &self,
        connect: &Connect<'_>,
        identity: &Rc<Identity>,
    ) -> Result<Option<Box<Will>>, ReasonCode> {
        let Some(will) = &connect.will else { return Ok(None) };
        let limits = self.limits();
        if will.topic.len() as u64 > limits.topic_bytes_max
            || topic::check_levels(will.topic, limits.topic_levels_max as u16).is_err()
        {
            return Err(ReasonCode::TOPIC_NAME_INVALID);
        }
        let delay_max_s = limits.will_delay_max_s;
        let mut forwarded = Vec::new();
        let properties = match codec::forwardable_properties(&will.properties, &mut forwarded) {
            true => will.properties.as_bytes(),
            false => &forwarded,
        };
        let message = Message {
            id: 0,
            topic: will.topic.into(),
            payload: Bytes::copy_from_slice(will.payload),
            properties: properties.into(),
            qos: will.qos,
            retain: will.retain,
            from: Arc::clone(&identity.client_id),
            origin: None,
            expires_at_ms: None,
            wall_ms: 0,
            ancestry: 0,
        };
        Ok(Some(Box::new(Will {
            message,
            expiry_s: will.properties.message_expiry_s(),
            delay_s: granted_expiry(will.properties.will_delay_s().unwrap_or(0), delay_max_s),
            epoch: self.authz_epoch,
        })))
    }

    /// Lets the client in: takeover, resume or a new session, CONNACK, and what waited for it.
    pub(super) fn establish(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        identity: Rc<Identity>,
        assigned: bool,
        (will, auth_data): (Option<Box<Will>>, Option<Bytes>),
    ) -> Handled {
        let existing = self.by_client.get(&*identity.client_id).copied();
        let present = existing.and_then(|session| self.make_way(session, connect.clean_start));
        let session_key = match present {
            Some(session) => session,
            None if self.sessions.len() as u64 >= self.limits().sessions_max => {
                return self.refuse(key, ReasonCode::SERVER_BUSY, None);
            }
            None => self.create_session(&identity),
        };
        let section = self.welcome(connect, &identity, assigned, present.is_some(), auth_data.as_deref());
        let granted = Properties::from_encoded(&section);
        let identity = granted_identity(identity, &granted);
        self.set_identity(key, Rc::clone(&identity));
        let Some(session) = self.sessions.get_mut(session_key) else { return Handled::Closed };
        session.conn = Some(key);
        session.expiry_s = identity.expiry_s;
        session.since_wall_ms = self.now.wall_ms;
        session.epoch = session.epoch.wrapping_add(1);
        session.will = will;
        if let Some(will) = &mut session.will {
            will.message.origin = Some(Origin { shard: self.setup.id, session: session_key });
        }
        let window = self.setup.limits.inflight_max.min(u64::from(identity.receive_maximum)) as usize;
        session.inflight.restart(window);
        session.identity = Rc::clone(&identity);
        if present.is_some() {
            self.counters.session_resumed += 1;
        }
        let Some(conn) = self.conns.get_mut(key) else { return Handled::Closed };
        conn.state = State::Live;
        conn.auth_method = connect.properties.auth_method().map(Box::from);
        // If it was overdue with its CONNECT, that is answered.
        conn.overdue = false;
        conn.session = Some(session_key);
        conn.last_received_ms = self.now.mono_ms;
        conn.silence_max_ms = u64::from(identity.keep_alive_s) * 1500;
        if conn.silence_max_ms > 0 {
            let due = self.now.mono_ms + conn.silence_max_ms;
            self.seconds.arm(due, super::timers::Overdue::KeepAlive(key));
        }
        if connect.version.is_v5() {
            let theirs = Properties::from_encoded(&identity.properties).topic_alias_maximum().unwrap_or(0);
            conn.receive_maximum = granted.receive_maximum().unwrap_or(u16::MAX);
            conn.receive_bytes_max = granted.maximum_packet_size().unwrap_or(PACKET_BYTES_MAX);
            conn.aliases = Some(Box::new(Aliases {
                inbound: Vec::new(),
                inbound_max: granted.topic_alias_maximum().unwrap_or(0),
                outbound: HashMap::with_hasher(self.hasher.clone()),
                outbound_max: theirs.min(self.setup.limits.topic_alias_max as u16),
            }));
        }
        self.counters.client_connected += 1;
        self.send_connack(key, present.is_some(), 0, &section);
        self.notify_client(HookPoint::ClientConnected, &identity, ReasonCode::SUCCESS);
        let point = match present {
            Some(_) => HookPoint::SessionResumed,
            None => HookPoint::SessionCreated,
        };
        self.tell_session(point, session_key, None);
        self.set_shared_connected(session_key, true);
        self.pump_queue(session_key);
        Handled::Next
    }

    /// An older connection or session under the same client identifier: whether it goes on as this session.
    fn make_way(&mut self, session_key: SessionKey, clean_start: bool) -> Option<SessionKey> {
        let session = self.sessions.get_mut(session_key)?;
        let persistent = session.is_persistent();
        let (old, reason) = (session.conn, ReasonCode::SESSION_TAKEN_OVER);
        if clean_start {
            session.last = Some(Last::Discarded);
            let end = Some((Last::Discarded.word(), reason));
            self.tell_session(HookPoint::SessionDiscarded, session_key, end);
        } else if !persistent {
            session.last = Some(Last::Takenover);
        } else if old.is_some() {
            let end = Some((Last::Takenover.word(), reason));
            self.tell_session(HookPoint::SessionTakenover, session_key, end);
        }
        if let Some(old) = old {
            self.counters.session_takenover += 1;
            if clean_start && let Some(session) = self.sessions.get_mut(session_key) {
                // It ends with its connection, and its will with it [MQTT-3.1.4-3] [MQTT-3.1.4-4].
                session.expiry_s = 0;
            }
            self.end_connection(old, EndCause::ByBroker(reason), Some((reason, None)));
        }
        let session = self.sessions.get_mut(session_key)?;
        if clean_start || !persistent || session.fate == Fate::Ends {
            self.counters.session_discarded += 1;
            self.retire(session_key, Last::Takenover);
            return None;
        }
        // The session continues, so the will of its last connection is no longer due [MQTT-3.1.3-9].
        session.delayed_will = None;
        Some(session_key)
    }

    fn create_session(&mut self, identity: &Rc<Identity>) -> SessionKey {
        let key = self.new_session(identity);
        self.by_client.insert(Arc::clone(&identity.client_id), key);
        self.counters.session_created += 1;
        key
    }

    /// A session that no client identifier leads to yet.
    pub(super) fn new_session(&mut self, identity: &Rc<Identity>) -> SessionKey {
        let now = self.now;
        let hasher = self.hasher.clone();
        let window = self.limits().inflight_max as usize;
        self.sessions.insert_with(|key| Session {
            key,
            identity: Rc::clone(identity),
            conn: None,
            expiry_s: identity.expiry_s,
            created_wall_ms: now.wall_ms,
            since_wall_ms: now.wall_ms,
            epoch: 0,
            last: None,
            fate: Fate::Stays,
            orphan: false,
            takedown: false,
            subscriptions: HashMap::with_hasher(hasher),
            inflight: Inflight::new(window),
            queue: std::collections::VecDeque::new(),
            queue_bytes: 0,
            awaiting_rel: Vec::new(),
            slots: Slots::default(),
            will: None,
            delayed_will: None,
            fetches: Vec::new(),
            deliveries: None,
            dropped: 0,
        })
    }
}
