//! Who a client is and how it came in.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use grapnel_plugin_abi::host::ClientIdentity;

use crate::hook::view::ClientView;
use crate::packet::{PacketType, Properties, PropertyOwner, Version};

/// The longest text of an address without its port, bytes: IPv6 with IPv4 at its end.
const HOST_BYTES_MAX: usize = 45;

/// An address without its port, as text.
pub type Host = arrayvec::ArrayString<HOST_BYTES_MAX>;

/// The host of an address as text. Every connection has two, so the usual kind goes without the formatter.
pub fn host_of(address: &SocketAddr) -> Host {
    let mut text = Host::new();
    match address.ip() {
        IpAddr::V4(ip) => text.push_str(dotted(ip.octets(), &mut [0; 15])),
        ip => {
            // It has room for the longest address there is.
            let _ = write!(text, "{ip}");
        }
    }
    text
}

/// Four numbers with dots between them.
fn dotted(octets: [u8; 4], room: &mut [u8; 15]) -> &str {
    let mut len = 0;
    let mut put = |byte| {
        room[len] = byte;
        len += 1;
    };
    for (place, octet) in octets.into_iter().enumerate() {
        if place > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
    }
    str::from_utf8(&room[..len]).unwrap_or_default()
}

/// Who a client is and how it came in; fixed for the life of a connection. Shared by connection and session, so that a hook's
/// view of the client borrows neither.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Client identifier.
    pub client_id: Arc<str>,
    /// User name.
    pub username: Option<Box<str>>,
    /// Whether authentication made it a superuser.
    pub superuser: bool,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The host part of it as text.
    pub peer_host: Host,
    /// Our end.
    pub local: SocketAddr,
    /// The host part of it as text.
    pub local_host: Host,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Protocol version.
    pub version: Version,
    /// Clean start.
    pub clean_start: bool,
    /// Keep alive in force, seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Session expiry interval granted, seconds.
    pub expiry_s: u32,
    /// The one that CONNECT said, seconds; what DISCONNECT may say goes by it.
    pub requested_expiry_s: u32,
    /// Its Receive Maximum.
    pub receive_maximum: u16,
    /// Connected, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// Number of the network connection in this run; 0 for none.
    pub connection: u64,
    /// Whether it came in without anybody vouching for it.
    pub anonymous: bool,
    /// Encoded properties of CONNECT, without those of authentication.
    pub properties: Box<[u8]>,
}

/// Whom a session belongs to. There is no TLS yet; what it says of a client will come before the user name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Principal<'a> {
    /// Who gave this user name.
    User(&'a str),
    /// A client without a user name that a plugin let in.
    Nameless,
    /// A client without a user name that nobody vouched for.
    Anonymous,
}

impl Identity {
    /// Whom it logs in. The one place that decides it: plugins have no way to name another principal yet.
    pub fn principal(&self) -> Principal<'_> {
        match &self.username {
            Some(name) => Principal::User(name),
            None if self.anonymous => Principal::Anonymous,
            None => Principal::Nameless,
        }
    }

    /// A client as a plugin has kept it. `None` for what no client can have been.
    pub fn from_stored(kept: &ClientIdentity<'_>) -> Option<Identity> {
        let versions = [Version::V31, Version::V311, Version::V5];
        let version = versions.into_iter().find(|version| version.level() == kept.proto_ver)?;
        Properties::check(kept.properties, PropertyOwner::Packet(PacketType::Connect)).ok()?;
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let (peer, local) = (kept.peer.unwrap_or(nowhere), kept.local.unwrap_or(nowhere));
        Some(Identity {
            client_id: kept.client_id.into(),
            username: kept.username.map(Box::from),
            superuser: kept.superuser,
            peer,
            peer_host: host_of(&peer),
            local,
            local_host: host_of(&local),
            listener: kept.listener.into(),
            version,
            clean_start: kept.clean_start,
            keep_alive_s: kept.keep_alive_s,
            expiry_s: kept.expiry_s,
            requested_expiry_s: kept.expiry_s,
            receive_maximum: kept.receive_maximum,
            connected_at_ms: kept.connected_at_ms,
            connection: kept.connection,
            anonymous: kept.anonymous,
            properties: kept.properties.into(),
        })
    }

    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        let username = self.username.as_deref().map_or(0, str::len);
        size_of::<Identity>() + self.client_id.len() + username + self.properties.len()
    }

    /// What hooks see.
    pub fn view(&self) -> ClientView<'_> {
        ClientView {
            client_id: &self.client_id,
            username: self.username.as_deref(),
            password: None,
            peer: Some(self.peer),
            peer_host: &self.peer_host,
            local: Some(self.local),
            local_host: &self.local_host,
            listener: &self.listener,
            version: self.version,
            clean_start: self.clean_start,
            keep_alive_s: self.keep_alive_s,
            expiry_s: self.expiry_s,
            receive_maximum: self.receive_maximum,
            connected_at_ms: self.connected_at_ms,
            connection: self.connection,
            superuser: self.superuser,
            anonymous: self.anonymous,
            properties: &self.properties,
            will: None,
            stored: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_read_as_the_standard_library_writes_them() {
        for host in [
            "0.0.0.0",
            "127.0.0.1",
            "9.10.99.100",
            "255.255.255.255",
            "::1",
            "2001:db8::ff00:42:8329",
            "::ffff:255.255.255.255",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let ip: IpAddr = host.parse().unwrap();
            assert_eq!(host_of(&SocketAddr::new(ip, 1883)).as_str(), ip.to_string());
        }
    }
}
