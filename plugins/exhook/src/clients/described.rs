//! How a client is described to a worker: what events show of it, and the map that is sent.

use crate::logins::{Connection, owner_of};
use crate::wire::Writer;

/// A client as an event shows it.
#[derive(Clone, Copy, Debug, Hash)]
pub struct EventClient<'a> {
    /// The client identifier.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// Whether it is a superuser.
    pub superuser: bool,
    /// Whether the user name was not verified.
    pub anonymous: bool,
    /// MQTT protocol level: 3, 4 or 5.
    pub version: u8,
    /// Address of the peer.
    pub peer_host: Option<&'a str>,
    /// Port of the peer.
    pub peer_port: Option<u16>,
    /// The local port of the connection.
    pub local_port: Option<u16>,
    /// The listener of the connection.
    pub listener: Option<&'a str>,
    /// The number of its session; before it is in, of the session under its client identifier. 0
    /// for none.
    pub session: u64,
}

/// What is known only while a client connects, or just after.
#[derive(Clone, Debug, Default)]
pub struct ConnectDetails<'a> {
    /// Whether it is in already, so that there is no password, and nothing is known of a will.
    pub late: bool,
    /// Whether the worker handles logins, so that a new process has missed this one.
    pub is_login_call: bool,
    /// Any bytes.
    pub password: Option<&'a [u8]>,
    /// Of CONNECT.
    pub clean_start: bool,
    /// Seconds.
    pub keep_alive_s: u16,
    /// Seconds.
    pub session_expiry_s: u32,
    /// Of CONNECT.
    pub receive_maximum: Option<u16>,
    /// Milliseconds since 1970.
    pub connected_at_ms: Option<u64>,
    /// Topic, payload, QoS and retain flag.
    pub will: Option<(&'a str, &'a [u8], u8, bool)>,
    /// User properties.
    pub properties: Vec<(&'a str, &'a str)>,
}

/// The CONNECT data without the password: `pairs` pairs of a map.
#[derive(Clone, Debug)]
pub(super) struct ConnectData {
    pub(super) pairs: usize,
    pub(super) bytes: Box<[u8]>,
}

impl EventClient<'_> {
    pub(super) fn connection(&self) -> Connection<'_> {
        Connection {
            client_id: self.client_id,
            host: self.peer_host.unwrap_or(""),
            port: self.peer_port.unwrap_or(0),
        }
    }

    /// Its session, and who is charged for its stored data.
    pub(super) fn session(&self) -> (u64, u64) {
        (self.session, self.owner())
    }

    fn owner(&self) -> u64 {
        owner_of(self.username.filter(|_| !self.anonymous), self.peer_host.unwrap_or(""))
    }
}

impl ConnectDetails<'_> {
    /// All but the password, as pairs of a map.
    pub(super) fn connect_data(&self) -> ConnectData {
        let mut bytes = Vec::new();
        let out = &mut Writer(&mut bytes);
        out.text("clean_start").flag(self.clean_start);
        out.text("keep_alive_s").number(self.keep_alive_s);
        out.text("session_expiry_s").number(self.session_expiry_s);
        out.text("receive_maximum").number(self.receive_maximum.unwrap_or(u16::MAX));
        out.text("connected_at_ms").number(self.connected_at_ms.unwrap_or(0));
        if !self.late {
            out.text("will");
        }
        match self.will {
            Some((topic, payload, qos, retain)) => {
                out.map(4).text("topic").text(topic).text("payload").bytes(payload);
                out.text("qos").number(qos).text("retain").flag(retain);
            }
            None if !self.late => {
                out.nil();
            }
            None => {}
        }
        out.text("properties").list(self.properties.len());
        for (key, value) in &self.properties {
            out.list(2).text(key).text(value);
        }
        ConnectData { pairs: if self.late { 6 } else { 7 }, bytes: bytes.into() }
    }
}

/// What a description contains besides.
#[derive(Clone, Copy, Debug)]
pub(super) enum ExtraFields<'a> {
    /// Nothing.
    None,
    /// For a client that connects: its password, and the result of
    /// [`ConnectDetails::connect_data`].
    Connecting(Option<&'a [u8]>, &'a ConnectData),
    /// For a client that connected before this process started: the result of
    /// [`ConnectDetails::connect_data`] at that time.
    Earlier(&'a ConnectData),
}

/// Stored data that hooks of another process returned.
#[derive(Debug, Default)]
pub(super) struct StoredData {
    /// For its login.
    pub(super) login: Option<Box<[u8]>>,
    /// For the login that began the session of its identifier.
    pub(super) stored: Option<Box<[u8]>>,
}

/// A description: a map in MessagePack.
pub(super) fn described_as(who: &EventClient<'_>, more: ExtraFields<'_>, given: &StoredData) -> Vec<u8> {
    let mut bytes = Vec::new();
    let out = &mut Writer(&mut bytes);
    let sent = match more {
        ExtraFields::None => 0,
        ExtraFields::Connecting(password, sent) => sent.pairs + usize::from(password.is_some()),
        ExtraFields::Earlier(sent) => 1 + sent.pairs,
    };
    out.map(10 + sent + usize::from(given.login.is_some()) + usize::from(given.stored.is_some()));
    out.text("client_id").text(who.client_id);
    out.text("username").text_or_nil(who.username);
    out.text("superuser").flag(who.superuser);
    out.text("anonymous").flag(who.anonymous);
    out.text("version").number(who.version);
    out.text("peer_host").text(who.peer_host.unwrap_or(""));
    out.text("peer_port").number(who.peer_port.unwrap_or(0));
    out.text("local_port").number(who.local_port.unwrap_or(0));
    out.text("listener").text(who.listener.unwrap_or(""));
    out.text("session").number_or_nil(Some(who.session).filter(|session| *session > 0));
    for (key, bytes) in [("login", &given.login), ("stored", &given.stored)] {
        if let Some(bytes) = bytes {
            out.text(key).bytes(bytes);
        }
    }
    match more {
        ExtraFields::None => {}
        ExtraFields::Connecting(password, sent) => {
            if let Some(password) = password {
                out.text("password").bytes(password);
            }
            out.0.extend_from_slice(&sent.bytes);
        }
        ExtraFields::Earlier(sent) => {
            out.text("earlier").flag(true);
            out.0.extend_from_slice(&sent.bytes);
        }
    }
    bytes
}
