//! Views of a client and of its requests for hooks. They decide and change nothing.

use grapnel_plugin_abi::host::{ClientIdentity, FieldValue};
use grapnel_plugin_abi::raw::{
    Event, FLAG_HAS_PASSWORD, FLAG_HAS_USERNAME, FLAG_SUPERUSER, Field, Slice, Status,
};

use super::HookPoint;
use crate::address::Address;
use crate::id::ShardId;
use crate::packet::{Properties, QoS, Version, Will};
use crate::transport::{TlsFacts, Transport};

/// Fields of a client for hooks.
#[derive(Clone, Copy, Debug)]
pub struct ClientView<'a> {
    /// Client identifier.
    pub client_id: &'a str,
    /// User name.
    pub username: Option<&'a str>,
    /// Whether the listener took the user name from the client's verified certificate.
    pub is_certified: bool,
    /// User name in CONNECT, only at connect and authenticate.
    pub connect_username: Option<&'a str>,
    /// Password, only at authenticate.
    pub password: Option<&'a [u8]>,
    /// The address of the client.
    pub peer: &'a Address,
    /// The address of the broker on this connection.
    pub local: &'a Address,
    /// Name of the listener.
    pub listener: &'a str,
    /// How the client has reached the broker; `None` for the session of a plugin.
    pub transport: Option<Transport>,
    /// Its TLS connection.
    pub tls: Option<&'a TlsFacts>,
    /// Protocol version.
    pub version: Version,
    /// Clean start.
    pub clean_start: bool,
    /// Keep alive, seconds.
    pub keep_alive_s: u16,
    /// Session expiry interval, seconds.
    pub expiry_s: u32,
    /// Receive maximum.
    pub receive_maximum: u16,
    /// When the connection was made, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// Number of the network connection in this run of the broker; 0 for none.
    pub connection: u64,
    /// Number of the session in this run of the broker; 0 for none. Before the client is in, that
    /// of the session under its client identifier.
    pub session: u64,
    /// Whether authentication made it a superuser.
    pub superuser: bool,
    /// Whether it was accepted without an answer of client.authenticate.
    pub anonymous: bool,
    /// Encoded properties of CONNECT; those of authentication only at connect and authenticate.
    pub properties: &'a [u8],
    /// The will in CONNECT, at connect and authenticate.
    pub will: Option<Will<'a>>,
    /// The session under its client identifier, at authenticate.
    pub stored: Option<StoredSession<'a>>,
}

/// The session under a client identifier as client.authenticate sees it, connected or not.
#[derive(Clone, Copy, Debug)]
pub enum StoredSession<'a> {
    /// There is none.
    Absent,
    /// A session with this user name, or with none.
    Of(Option<&'a str>),
}

#[cfg(test)]
impl ClientView<'static> {
    /// A placeholder client for tests.
    pub(crate) const NOBODY: ClientView<'static> = ClientView {
        client_id: "",
        username: None,
        is_certified: false,
        connect_username: None,
        password: None,
        peer: &Address::NONE,
        local: &Address::NONE,
        listener: "",
        transport: None,
        tls: None,
        version: Version::V5,
        clean_start: true,
        keep_alive_s: 0,
        expiry_s: 0,
        receive_maximum: u16::MAX,
        connected_at_ms: 0,
        connection: 0,
        session: 0,
        superuser: false,
        anonymous: true,
        properties: &[],
        will: None,
        stored: None,
    };
}

impl<'a> ClientView<'a> {
    /// Reads one of the client's fields.
    ///
    /// # Errors
    /// UNSUPPORTED for a field that a client does not have, ABSENT for one without a value.
    pub fn get(&self, field: Field, index: u32) -> Result<FieldValue<'a>, Status> {
        let text = |value: Option<&'a str>| {
            value.map(|text| FieldValue::Bytes(text.as_bytes())).ok_or(Status::ABSENT)
        };
        let number = |value: Option<u64>| value.map(FieldValue::Number).ok_or(Status::ABSENT);
        let host = |address: &'a Address| text(address.get().map(|_| address.host()));
        let port = |address: &Address| {
            address.get().map(|address| FieldValue::Number(u64::from(address.port()))).ok_or(Status::ABSENT)
        };
        match field {
            Field::CLIENT_ID => text(Some(self.client_id)),
            Field::USERNAME => text(self.username),
            Field::PASSWORD => self.password.map(FieldValue::Bytes).ok_or(Status::ABSENT),
            Field::PEER_HOST => host(self.peer),
            Field::PEER_PORT => port(self.peer),
            Field::SOCK_HOST => host(self.local),
            Field::SOCK_PORT => port(self.local),
            Field::LISTENER => text(Some(self.listener)),
            Field::PROTO_NAME => text(Some(self.version.protocol_name())),
            Field::PROTO_VER => Ok(FieldValue::Number(u64::from(self.version.level()))),
            Field::CLEAN_START => Ok(FieldValue::Number(u64::from(self.clean_start))),
            Field::KEEP_ALIVE_S => Ok(FieldValue::Number(u64::from(self.keep_alive_s))),
            Field::SESSION_EXPIRY_S => Ok(FieldValue::Number(u64::from(self.expiry_s))),
            Field::RECEIVE_MAXIMUM => Ok(FieldValue::Number(u64::from(self.receive_maximum))),
            Field::CONNECTION => Ok(FieldValue::Number(self.connection)),
            Field::SESSION => number(Some(self.session).filter(|session| *session > 0)),
            Field::CONNECTED_AT_MS => Ok(FieldValue::Number(self.connected_at_ms)),
            Field::IS_SUPERUSER => Ok(FieldValue::Number(u64::from(self.superuser))),
            Field::ANONYMOUS => Ok(FieldValue::Number(u64::from(self.anonymous))),
            Field::TRANSPORT => text(self.transport.map(Transport::word)),
            Field::USERNAME_CERTIFIED => Ok(FieldValue::Number(u64::from(self.is_certified))),
            Field::CONNECT_USERNAME => text(self.connect_username),
            // No listener adds a prefix to topics.
            Field::MOUNTPOINT => Err(Status::ABSENT),
            Field::WILL_TOPIC => text(self.will.map(|will| will.topic)),
            Field::WILL_PAYLOAD => {
                self.will.map(|will| FieldValue::Bytes(will.payload)).ok_or(Status::ABSENT)
            }
            Field::WILL_QOS => number(self.will.map(|will| u64::from(will.qos.as_u8()))),
            Field::WILL_RETAIN => number(self.will.map(|will| u64::from(will.retain))),
            Field::AUTH_METHOD => text(self.properties().auth_method()),
            Field::AUTH_DATA => self.properties().auth_data().map(FieldValue::Bytes).ok_or(Status::ABSENT),
            Field::MAXIMUM_PACKET_SIZE => number(self.properties().maximum_packet_size().map(u64::from)),
            // A property that CONNECT omits has a default value [sections 3.1.2.11.5 to
            // 3.1.2.11.7].
            Field::TOPIC_ALIAS_MAXIMUM => {
                number(Some(self.properties().topic_alias_maximum().unwrap_or(0).into()))
            }
            Field::REQUEST_RESPONSE_INFO => number(Some(self.wants_response_info().into())),
            Field::REQUEST_PROBLEM_INFO => {
                number(Some(self.properties().request_problem_info().unwrap_or(true).into()))
            }
            Field::USER_PROPERTY | Field::USER_PROPERTIES => user_property(self.properties(), field, index),
            Field::SESSION_PRESENT | Field::SESSION_OWNER => self.stored_session(field),
            _ => self.of_tls(field, index),
        }
    }

    /// A field of the TLS connection or of the certificate; ABSENT without them, and where a text is
    /// not known.
    fn of_tls(&self, field: Field, index: u32) -> Result<FieldValue<'a>, Status> {
        let certificate = self.tls.and_then(|tls| tls.certificate.as_ref());
        let names = certificate.map(|certificate| &certificate.alternative_names);
        let text = match field {
            Field::TLS_VERSION => self.tls.map(|tls| &tls.version),
            Field::TLS_CIPHER => self.tls.map(|tls| &tls.cipher),
            Field::TLS_SERVER_NAME => self.tls.map(|tls| &tls.server_name),
            Field::TLS_SUBJECT => certificate.map(|certificate| &certificate.subject),
            Field::TLS_COMMON_NAME => certificate.map(|certificate| &certificate.common_name),
            Field::TLS_ALTERNATIVE_NAME => names.and_then(|names| names.get(index as usize)),
            Field::TLS_ALTERNATIVE_NAMES => {
                let count = names.ok_or(Status::ABSENT)?.len();
                return Ok(FieldValue::Number(count as u64));
            }
            Field::TLS_ISSUER => certificate.map(|certificate| &certificate.issuer),
            Field::TLS_SERIAL => certificate.map(|certificate| &certificate.serial),
            Field::TLS_FINGERPRINT => certificate.map(|certificate| &certificate.fingerprint),
            _ => return Err(Status::UNSUPPORTED),
        };
        let known = text.filter(|text| !text.is_empty());
        known.map(|text| FieldValue::Bytes(text.as_bytes())).ok_or(Status::ABSENT)
    }

    /// Its identity, for a plugin to store.
    pub fn identity(&self) -> ClientIdentity<'a> {
        ClientIdentity {
            client_id: self.client_id,
            username: self.username,
            is_certified: self.is_certified,
            superuser: self.superuser,
            anonymous: self.anonymous,
            clean_start: self.clean_start,
            proto_ver: self.version.level(),
            keep_alive_s: self.keep_alive_s,
            expiry_s: self.expiry_s,
            receive_maximum: self.receive_maximum,
            connected_at_ms: self.connected_at_ms,
            connection: self.connection,
            session: self.session,
            peer: self.peer.get(),
            local: self.local.get(),
            listener: self.listener,
            transport: self.transport.map_or("", Transport::word),
            tls: self.tls.map(TlsFacts::view),
            properties: self.properties,
        }
    }

    fn stored_session(&self, field: Field) -> Result<FieldValue<'a>, Status> {
        let stored = self.stored.ok_or(Status::UNSUPPORTED)?;
        match (stored, field) {
            (_, Field::SESSION_PRESENT) => {
                Ok(FieldValue::Number(u64::from(matches!(stored, StoredSession::Of(_)))))
            }
            (StoredSession::Of(Some(owner)), _) => Ok(FieldValue::Bytes(owner.as_bytes())),
            _ => Err(Status::ABSENT),
        }
    }

    fn properties(&self) -> Properties<'a> {
        Properties::from_encoded(self.properties)
    }

    /// Whether it requested Response Information (section 3.1.2.11.6).
    pub fn wants_response_info(&self) -> bool {
        self.properties().request_response_info().unwrap_or(false)
    }

    /// The flags of an event about this client.
    pub fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.superuser {
            flags |= FLAG_SUPERUSER;
        }
        if self.username.is_some() {
            flags |= FLAG_HAS_USERNAME;
        }
        if self.password.is_some() {
            flags |= FLAG_HAS_PASSWORD;
        }
        flags
    }

    /// An event with no data but the client.
    pub fn event(&self, point: HookPoint, shard: ShardId, wall_ms: u64) -> Event {
        Event {
            proto_ver: self.version.level(),
            flags: self.flags(),
            client_id: Slice::of(self.client_id.as_bytes()),
            username: Slice::of(self.username.unwrap_or("").as_bytes()),
            ..clientless_event(point, shard, wall_ms)
        }
    }
}

/// The user properties of a packet, by index, or how many there are.
pub(super) fn user_property(
    properties: Properties<'_>,
    field: Field,
    index: u32,
) -> Result<FieldValue<'_>, Status> {
    if field == Field::USER_PROPERTIES {
        return Ok(FieldValue::Number(properties.user().count() as u64));
    }
    let pair = properties.user().nth(index as usize);
    pair.map(|(key, value)| FieldValue::Pair(key.as_bytes(), value.as_bytes())).ok_or(Status::ABSENT)
}

/// An event without a client.
pub(super) fn clientless_event(point: HookPoint, shard: ShardId, wall_ms: u64) -> Event {
    Event::at(point, u32::from(shard.0), wall_ms)
}

/// What a client requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Publish to a topic.
    Publish = 1,
    /// Subscribe to a filter.
    Subscribe = 2,
    /// Get a message.
    Deliver = 3,
    /// Set a will.
    Will = 4,
}

/// A request at client.authorize.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The action.
    pub action: Action,
    /// Topic name or filter.
    pub topic: &'a str,
    /// QoS of message or subscription.
    pub qos: QoS,
    /// RETAIN of the message.
    pub retain: bool,
}
