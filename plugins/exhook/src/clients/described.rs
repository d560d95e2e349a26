//! How a client is described to a worker: what events show of it, and the map that is sent.

use crate::logins::{Connection, owner_of};
use crate::queue::Account;
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
    /// Number of the network connection; 0 for none.
    pub connection: u64,
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
    /// How the client has reached the broker.
    pub transport: &'a str,
    /// If the listener took the user name from the certificate: the one in CONNECT, which is not
    /// known late.
    pub certified: Option<Option<&'a str>>,
    /// The TLS connection.
    pub tls: Option<TlsDetails<'a>>,
}

/// A TLS connection; a text is empty where it is not known.
#[derive(Clone, Debug)]
pub struct TlsDetails<'a> {
    /// Such as `TLSv1.3`.
    pub version: &'a str,
    /// By its IANA name.
    pub cipher: &'a str,
    /// Of SNI.
    pub server_name: &'a str,
    /// The client's certificate, if it has shown one that was verified.
    pub certificate: Option<CertificateDetails<'a>>,
}

/// A certificate of a client; a text is empty where it is not known.
#[derive(Clone, Debug)]
pub struct CertificateDetails<'a> {
    /// As RFC 4514 writes it.
    pub subject: &'a str,
    /// The last one of the subject.
    pub common_name: &'a str,
    /// `DNS:…`, `URI:…`, `email:…`, `IP:…`.
    pub alternative_names: Vec<&'a str>,
    /// As RFC 4514 writes it.
    pub issuer: &'a str,
    /// Hexadecimal.
    pub serial: &'a str,
    /// SHA-256, hexadecimal.
    pub fingerprint: &'a str,
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

    /// The account that its calls are charged to; `None` for what is no client, such as a plugin
    /// that publishes.
    pub fn account(&self) -> Option<Account> {
        let is_verified = self.username.is_some() && !self.anonymous;
        let is_anybody = is_verified || self.peer_host.is_some_and(|host| !host.is_empty());
        is_anybody.then(|| Account(self.owner()))
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
        let of_transport = self.write_transport(out);
        ConnectData { pairs: if self.late { 6 } else { 7 } + of_transport, bytes: bytes.into() }
    }

    /// Writes what is known of the transport, and returns how many pairs it is.
    fn write_transport(&self, out: &mut Writer<'_>) -> usize {
        let mut pairs = 1;
        out.text("transport").text(self.transport);
        if let Some(username) = self.certified {
            pairs += 1;
            out.text("certified").flag(true);
            if !self.late {
                pairs += 1;
                out.text("connect_username").text_or_nil(username);
            }
        }
        if let Some(tls) = &self.tls {
            pairs += 1;
            tls.write(out.text("tls"));
        }
        pairs
    }
}

impl TlsDetails<'_> {
    fn write(&self, out: &mut Writer<'_>) {
        out.map(4).text("version").text(self.version).text("cipher").text(self.cipher);
        out.text("server_name").text(self.server_name).text("certificate");
        let Some(certificate) = &self.certificate else {
            out.nil();
            return;
        };
        out.map(6).text("subject").text(certificate.subject);
        out.text("common_name").text(certificate.common_name);
        out.text("alternative_names").list(certificate.alternative_names.len());
        for name in &certificate.alternative_names {
            out.text(name);
        }
        out.text("issuer").text(certificate.issuer).text("serial").text(certificate.serial);
        out.text("fingerprint").text(certificate.fingerprint);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const WHO: EventClient<'static> = EventClient {
        client_id: "c",
        username: Some("pump"),
        superuser: false,
        anonymous: false,
        version: 5,
        peer_host: None,
        peer_port: None,
        local_port: None,
        listener: None,
        session: 0,
    };

    /// What a worker reads of the transport, as JSON.
    fn described(details: &ConnectDetails<'_>) -> String {
        let data = details.connect_data();
        let bytes = described_as(&WHO, ExtraFields::Connecting(None, &data), &StoredData::default());
        let mut rest = &bytes[..];
        let map = rmpv::decode::read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "the map has as many pairs as it says");
        let keys = ["transport", "certified", "connect_username", "tls"];
        let pairs = map.as_map().unwrap().iter();
        let ours = pairs.filter(|(key, _)| keys.contains(&key.as_str().unwrap()));
        ours.map(|(key, value)| format!("{}: {value}", key.as_str().unwrap())).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_transport_and_the_certificate_are_described() {
        let plain = ConnectDetails { transport: "unix", ..ConnectDetails::default() };
        assert_eq!(described(&plain), r#"transport: "unix""#);
        let certificate = CertificateDetails {
            subject: "CN=pump",
            common_name: "pump",
            alternative_names: vec!["DNS:a", "IP:::1"],
            issuer: "CN=CA",
            serial: "0a",
            fingerprint: "ff",
        };
        let tls =
            |certificate| Some(TlsDetails { version: "TLSv1.3", cipher: "X", server_name: "", certificate });
        let without = ConnectDetails { transport: "wss", tls: tls(None), ..ConnectDetails::default() };
        let session = r#"tls: {"version": "TLSv1.3", "cipher": "X", "server_name": "", "certificate": "#;
        assert_eq!(described(&without), format!(r#"transport: "wss", {session}nil}}"#));
        let with =
            ConnectDetails { certified: Some(Some("ann")), tls: tls(Some(certificate)), ..without.clone() };
        let shown = r#"{"subject": "CN=pump", "common_name": "pump", "alternative_names": ["DNS:a", "IP:::1"], "issuer": "CN=CA", "serial": "0a", "fingerprint": "ff"}"#;
        let login = r#"transport: "wss", certified: true, connect_username: "ann", "#;
        assert_eq!(described(&with), format!("{login}{session}{shown}}}"));
        let late = ConnectDetails { late: true, certified: Some(None), ..without };
        assert_eq!(described(&late), format!(r#"transport: "wss", certified: true, {session}nil}}"#));
    }
}
