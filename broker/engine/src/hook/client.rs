//! Events about a client: connect, authenticate, authorize, connected, disconnected. What hooks read of the client, and
//! the accumulator of the points that decide whether it may do something.

use std::net::SocketAddr;

use bytes::Bytes;
use grapnel_plugin_abi::host::{EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{
    Event, FLAG_DUP, FLAG_HAS_PASSWORD, FLAG_HAS_USERNAME, FLAG_RETAIN, FLAG_SUPERUSER, Field, Slice, Status,
    Ticket,
};

use super::chain::Fold;
use super::section::{put, put_user};
use super::tickets::{Before, TicketDesk};
use super::{HookPoint, Link};
use crate::id::ShardId;
use crate::packet::{Properties, Property, QoS, Version, Will};
use crate::reason::ReasonCode;

/// What hooks may read of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientView<'a> {
    /// Client identifier.
    pub client_id: &'a str,
    /// User name.
    pub username: Option<&'a str>,
    /// Password, at authenticate alone.
    pub password: Option<&'a [u8]>,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// The host part of `peer` as text.
    pub peer_host: &'a str,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The host part of `local` as text.
    pub local_host: &'a str,
    /// Name of the listener.
    pub listener: &'a str,
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
    /// Number of the network connection in this run; 0 for none.
    pub connection: u64,
    /// Whether authentication made it a superuser.
    pub superuser: bool,
    /// Whether nobody vouched for it.
    pub anonymous: bool,
    /// Encoded properties of CONNECT; those of authentication at connect and authenticate alone.
    pub properties: &'a [u8],
    /// The will in CONNECT, at connect and authenticate.
    pub will: Option<Will<'a>>,
}

impl<'a> ClientView<'a> {
    /// Reads one of the client's fields.
    ///
    /// # Errors
    /// UNSUPPORTED where the field is not one of the client's, ABSENT where it has none.
    pub fn get(&self, field: Field, index: u32) -> Result<FieldValue<'a>, Status> {
        let text = |value: Option<&'a str>| {
            value.map(|text| FieldValue::Bytes(text.as_bytes())).ok_or(Status::ABSENT)
        };
        let number = |value: Option<u64>| value.map(FieldValue::Number).ok_or(Status::ABSENT);
        let port = |address: Option<SocketAddr>| {
            address.map(|address| FieldValue::Number(u64::from(address.port()))).ok_or(Status::ABSENT)
        };
        match field {
            Field::CLIENT_ID => text(Some(self.client_id)),
            Field::USERNAME => text(self.username),
            Field::PASSWORD => self.password.map(FieldValue::Bytes).ok_or(Status::ABSENT),
            Field::PEER_HOST => text(self.peer.map(|_| self.peer_host)),
            Field::PEER_PORT => port(self.peer),
            Field::SOCK_HOST => text(self.local.map(|_| self.local_host)),
            Field::SOCK_PORT => port(self.local),
            Field::LISTENER => text(Some(self.listener)),
            Field::PROTO_NAME => text(Some(self.version.protocol_name())),
            Field::PROTO_VER => Ok(FieldValue::Number(u64::from(self.version.level()))),
            Field::CLEAN_START => Ok(FieldValue::Number(u64::from(self.clean_start))),
            Field::KEEP_ALIVE_S => Ok(FieldValue::Number(u64::from(self.keep_alive_s))),
            Field::SESSION_EXPIRY_S => Ok(FieldValue::Number(u64::from(self.expiry_s))),
            Field::RECEIVE_MAXIMUM => Ok(FieldValue::Number(u64::from(self.receive_maximum))),
            Field::CONNECTION => Ok(FieldValue::Number(self.connection)),
            Field::CONNECTED_AT_MS => Ok(FieldValue::Number(self.connected_at_ms)),
            Field::IS_SUPERUSER => Ok(FieldValue::Number(u64::from(self.superuser))),
            Field::ANONYMOUS => Ok(FieldValue::Number(u64::from(self.anonymous))),
            // There is no TLS yet, and no listener puts anything in front of topics.
            Field::TLS_SUBJECT | Field::MOUNTPOINT => Err(Status::ABSENT),
            Field::WILL_TOPIC => text(self.will.map(|will| will.topic)),
            Field::WILL_PAYLOAD => {
                self.will.map(|will| FieldValue::Bytes(will.payload)).ok_or(Status::ABSENT)
            }
            Field::WILL_QOS => number(self.will.map(|will| u64::from(will.qos.as_u8()))),
            Field::WILL_RETAIN => number(self.will.map(|will| u64::from(will.retain))),
            Field::AUTH_METHOD => text(self.properties().auth_method()),
            Field::AUTH_DATA => self.properties().auth_data().map(FieldValue::Bytes).ok_or(Status::ABSENT),
            Field::MAXIMUM_PACKET_SIZE => number(self.properties().maximum_packet_size().map(u64::from)),
            // What CONNECT leaves out has a value of its own [sections 3.1.2.11.5 to 3.1.2.11.7].
            Field::TOPIC_ALIAS_MAXIMUM => {
                number(Some(self.properties().topic_alias_maximum().unwrap_or(0).into()))
            }
            Field::REQUEST_RESPONSE_INFO => number(Some(self.wants_response_info().into())),
            Field::REQUEST_PROBLEM_INFO => {
                number(Some(self.properties().request_problem_info().unwrap_or(true).into()))
            }
            Field::USER_PROPERTY | Field::USER_PROPERTIES => user_property(self.properties(), field, index),
            _ => Err(Status::UNSUPPORTED),
        }
    }

    fn properties(&self) -> Properties<'a> {
        Properties::from_encoded(self.properties)
    }

    /// Whether it asked for Response Information (section 3.1.2.11.6).
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

    /// An event about this client, with nothing in it but the client.
    pub fn event(&self, point: HookPoint, shard: ShardId, wall_ms: u64) -> Event {
        Event {
            proto_ver: self.version.level(),
            flags: self.flags(),
            client_id: Slice::of(self.client_id.as_bytes()),
            username: Slice::of(self.username.unwrap_or("").as_bytes()),
            ..nobodys_event(point, shard, wall_ms)
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

/// An event that is about no client.
pub(super) fn nobodys_event(point: HookPoint, shard: ShardId, wall_ms: u64) -> Event {
    Event::at(point, u32::from(shard.0), wall_ms)
}

/// What a client wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Publish to a topic.
    Publish = 1,
    /// Subscribe to a filter.
    Subscribe = 2,
    /// Get a message.
    Deliver = 3,
    /// Leave a will.
    Will = 4,
}

/// A request at client.authorize.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What.
    pub action: Action,
    /// Topic name or filter.
    pub topic: &'a str,
    /// QoS of message or subscription.
    pub qos: QoS,
    /// RETAIN of the message.
    pub retain: bool,
}

/// Nobody has answered.
pub const UNANSWERED: u8 = 0;
/// Allowed.
pub const ALLOW: u8 = 1;
/// Refused.
pub const DENY: u8 = 2;
/// At client.authenticate: the client is asked for another AUTH.
pub const ANOTHER_ROUND: u8 = 3;

/// The accumulator of the points that decide about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientVerdict {
    /// [`UNANSWERED`], [`ALLOW`], [`DENY`] or [`ANOTHER_ROUND`].
    pub verdict: u8,
    /// Reason of a refusal.
    pub reason: ReasonCode,
    /// Text of a refusal.
    pub reason_string: Option<Bytes>,
    /// Whether the client is a superuser.
    pub superuser: bool,
    /// Keep alive, seconds (connect alone).
    pub keep_alive_s: u16,
    /// Session expiry, seconds (connect alone).
    pub expiry_s: u32,
    /// Encoded properties of CONNECT (connect alone).
    pub properties: Bytes,
    /// Data for the client's next AUTH, or for CONNACK (authenticate alone).
    pub auth_data: Option<Bytes>,
    /// Whether the verdict may be remembered (authorize alone).
    pub cacheable: bool,
}

impl ClientVerdict {
    /// Unanswered; `refusal` is the reason a refusal has that names none.
    pub fn unanswered(client: &ClientView<'_>, refusal: ReasonCode) -> ClientVerdict {
        ClientVerdict {
            verdict: UNANSWERED,
            reason: refusal,
            reason_string: None,
            superuser: client.superuser,
            keep_alive_s: client.keep_alive_s,
            expiry_s: client.expiry_s,
            properties: Bytes::new(),
            auth_data: None,
            cacheable: true,
        }
    }

    /// Forgets what was said to a question of client.authorize; `refusal` as in [`ClientVerdict::unanswered`].
    pub fn begin_anew(&mut self, refusal: ReasonCode) {
        self.verdict = UNANSWERED;
        self.reason = refusal;
        self.reason_string = None;
        self.cacheable = true;
    }

    /// Takes one change.
    ///
    /// # Errors
    /// UNSUPPORTED for what cannot be changed at this point, INVALID for a value out of its range.
    pub fn set(&mut self, point: HookPoint, change: &FieldChange<'_>) -> Result<(), Status> {
        let decides = matches!(
            point,
            HookPoint::ClientConnect | HookPoint::ClientAuthenticate | HookPoint::ClientAuthorize
        );
        match (change.field, point) {
            (Field::VERDICT, _) if decides => {
                let most = if point == HookPoint::ClientAuthenticate { ANOTHER_ROUND } else { DENY };
                self.verdict =
                    u8::try_from(change.number).ok().filter(|v| *v <= most).ok_or(Status::INVALID)?;
            }
            (Field::REASON_CODE, _) if decides => {
                let code = ReasonCode(u8::try_from(change.number).map_err(|_| Status::INVALID)?);
                // A refused request has an answer of another kind each: the code is checked where that is known.
                let fits = match point {
                    HookPoint::ClientAuthorize => code.is_defined() && code.is_error(),
                    _ => code.refuses_connect(),
                };
                if !fits {
                    return Err(Status::INVALID);
                }
                self.reason = code;
            }
            (Field::REASON_STRING, _) if decides => {
                super::text(change.bytes)?;
                self.reason_string = Some(Bytes::copy_from_slice(change.bytes));
            }
            (Field::AUTH_DATA, HookPoint::ClientAuthenticate) => {
                if change.bytes.len() > usize::from(u16::MAX) {
                    return Err(Status::INVALID);
                }
                self.auth_data = Some(Bytes::copy_from_slice(change.bytes));
            }
            (Field::CACHEABLE, HookPoint::ClientAuthorize) => self.cacheable = change.number != 0,
            (Field::IS_SUPERUSER, HookPoint::ClientAuthenticate) => self.superuser = change.number != 0,
            (Field::KEEP_ALIVE_S, HookPoint::ClientConnect) => {
                self.keep_alive_s = u16::try_from(change.number).map_err(|_| Status::INVALID)?;
            }
            (Field::SESSION_EXPIRY_S, HookPoint::ClientConnect) => {
                self.expiry_s = u32::try_from(change.number).map_err(|_| Status::INVALID)?;
            }
            (_, HookPoint::ClientConnect) => self.properties = self.changed_properties(change)?,
            _ => return Err(Status::UNSUPPORTED),
        }
        Ok(())
    }

    /// The properties of CONNECT with one changed, added or taken out.
    fn changed_properties(&self, change: &FieldChange<'_>) -> Result<Bytes, Status> {
        let before = Properties::from_encoded(&self.properties);
        let number = |min: u64, max: u64| {
            (min..=max).contains(&change.number).then_some(change.number).ok_or(Status::INVALID)
        };
        let property = match change.field {
            Field::USER_PROPERTY => return put_user(before, change),
            // 0 would be a protocol error in these two [sections 3.1.2.11.3 and 3.1.2.11.4].
            Field::RECEIVE_MAXIMUM => Property::ReceiveMaximum(number(1, u16::MAX.into())? as u16),
            Field::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(number(1, u32::MAX.into())? as u32),
            Field::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(number(0, u16::MAX.into())? as u16),
            Field::REQUEST_RESPONSE_INFO => Property::RequestResponseInfo(number(0, 1)? == 1),
            Field::REQUEST_PROBLEM_INFO => Property::RequestProblemInfo(number(0, 1)? == 1),
            _ => return Err(Status::UNSUPPORTED),
        };
        put(before, property.id(), Some(property), 0)
    }
}

/// A client's event on its way along a chain.
#[derive(Debug)]
pub struct ClientFold<'a> {
    point: HookPoint,
    client: ClientView<'a>,
    request: Option<Request<'a>>,
    /// What the links before have left; the chain's answer at the end.
    pub verdict: ClientVerdict,
    overlay: Option<ClientVerdict>,
    /// Reason strings that were replaced during the event: a view a hook took of one stays valid.
    replaced: Vec<Bytes>,
    desk: Option<TicketDesk<'a>>,
    /// The running link.
    running: Option<&'a Link>,
}

impl<'a> ClientFold<'a> {
    /// An event at `point`; a desk lets links defer.
    pub fn new(
        point: HookPoint,
        client: ClientView<'a>,
        request: Option<Request<'a>>,
        verdict: ClientVerdict,
        desk: Option<TicketDesk<'a>>,
    ) -> ClientFold<'a> {
        ClientFold {
            point,
            client,
            request,
            verdict,
            overlay: None,
            replaced: Vec::new(),
            desk,
            running: None,
        }
    }

    /// The event that goes with it.
    pub fn event(&self, shard: ShardId, wall_ms: u64) -> Event {
        let mut event = self.client.event(self.point, shard, wall_ms);
        event.reason_code = self.verdict.reason.0;
        if let Some(request) = &self.request {
            event.topic = Slice::of(request.topic.as_bytes());
            event.qos = request.qos.as_u8();
            event.action = request.action as u8;
            if request.retain {
                event.flags |= FLAG_RETAIN;
            }
            event.flags &= !FLAG_DUP;
        }
        event
    }

    /// The client; at client.connect with the properties as they are now.
    fn client(&self) -> ClientView<'_> {
        if self.point != HookPoint::ClientConnect {
            return self.client;
        }
        let properties = &self.current().properties;
        let receive_maximum = Properties::from_encoded(properties).receive_maximum().unwrap_or(u16::MAX);
        ClientView { properties, receive_maximum, ..self.client }
    }

    fn current(&self) -> &ClientVerdict {
        self.overlay.as_ref().unwrap_or(&self.verdict)
    }
}

impl EventAccess for ClientFold<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        let verdict = self.current();
        match (field, &self.request) {
            (Field::VERDICT, _) => Ok(FieldValue::Number(u64::from(verdict.verdict))),
            (Field::REASON_CODE, _) => Ok(FieldValue::Number(u64::from(verdict.reason.0))),
            (Field::REASON_STRING, _) => {
                verdict.reason_string.as_ref().map(|text| FieldValue::Bytes(text)).ok_or(Status::ABSENT)
            }
            (Field::IS_SUPERUSER, _) => Ok(FieldValue::Number(u64::from(verdict.superuser))),
            (Field::KEEP_ALIVE_S, _) => Ok(FieldValue::Number(u64::from(verdict.keep_alive_s))),
            (Field::SESSION_EXPIRY_S, _) => Ok(FieldValue::Number(u64::from(verdict.expiry_s))),
            (Field::CACHEABLE, Some(_)) => Ok(FieldValue::Number(u64::from(verdict.cacheable))),
            (Field::ACTION, Some(request)) => Ok(FieldValue::Number(request.action as u64)),
            (Field::TOPIC, Some(request)) => Ok(FieldValue::Bytes(request.topic.as_bytes())),
            (Field::QOS, Some(request)) => Ok(FieldValue::Number(u64::from(request.qos.as_u8()))),
            (Field::RETAIN, Some(request)) => Ok(FieldValue::Number(u64::from(request.retain))),
            _ => self.client().get(field, index),
        }
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        let mut next = self.current().clone();
        next.set(self.point, &change)?;
        if let Some(before) = self.overlay.replace(next) {
            let gone = [before.reason_string, before.auth_data, Some(before.properties)];
            self.replaced.extend(gone.into_iter().flatten());
        }
        Ok(())
    }

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status> {
        let desk = self.desk.as_mut().ok_or(Status::UNSUPPORTED)?;
        desk.take(self.running.ok_or(Status::WRONG_MOMENT)?, deadline_ms)
    }
}

impl<'a> Fold<'a> for ClientFold<'a> {
    #[inline]
    fn begin(&mut self, link: &'a Link) {
        self.running = Some(link);
    }

    fn topic(&self) -> &str {
        self.request.map_or("", |request| request.topic)
    }

    fn commit(&mut self, event: &mut Event) -> bool {
        if let Some(next) = self.overlay.take() {
            if next.superuser {
                event.flags |= FLAG_SUPERUSER;
            } else {
                event.flags &= !FLAG_SUPERUSER;
            }
            event.reason_code = next.reason.0;
            self.verdict = next;
        }
        false
    }

    fn park(&mut self) {
        if let (Some(next), Some(desk)) = (self.overlay.take(), &mut self.desk) {
            desk.keep(Before::Client(std::mem::replace(&mut self.verdict, next)));
        }
    }

    fn rollback(&mut self) {
        self.overlay = None;
        if let Some(desk) = &mut self.desk {
            desk.rollback();
        }
    }

    fn ticket(&self) -> Option<Ticket> {
        self.desk.as_ref().and_then(|desk| desk.taken)
    }

    fn deny(&mut self) {
        self.verdict.verdict = DENY;
    }
}
