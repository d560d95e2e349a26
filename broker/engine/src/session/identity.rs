//! The identity of a client and the way it connected.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use grapnel_plugin_abi::host::ClientIdentity;

use crate::address::Address;
use crate::hook::view::ClientView;
use crate::mount_point::{self, Mount};
use crate::packet::{PacketType, Properties, PropertyOwner, Version};
use crate::transport::{TlsFacts, Transport};

/// Where a client has entered the broker. Most clients share it with others, because it is the same
/// for all connections to one address of one listener.
#[derive(PartialEq, Eq, Debug)]
pub struct Entrance {
    /// Name of the listener.
    pub listener: Arc<str>,
    /// The address of the broker on the connection; none for a Unix socket.
    pub local: Address,
    /// Whether many clients share it, so that none is charged for it.
    pub is_shared: bool,
}

impl Entrance {
    /// An entrance.
    pub fn new(listener: Arc<str>, local: Option<SocketAddr>, is_shared: bool) -> Entrance {
        Entrance { listener, local: Address::new(local), is_shared }
    }

    /// An entrance of one client.
    pub fn own(listener: Arc<str>, local: Option<SocketAddr>) -> Arc<Entrance> {
        Arc::new(Entrance::new(listener, local, false))
    }

    fn bytes(&self) -> usize {
        if self.is_shared { 0 } else { size_of::<Entrance>() + self.local.bytes() }
    }
}

/// The identity of a client and the way it connected. Fixed for the life of a connection.
/// Connection and session share it, so that the view of a hook borrows from neither.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Client identifier.
    pub client_id: Arc<str>,
    /// User name.
    pub username: Option<Box<str>>,
    /// Whether the listener took the user name from the client's verified certificate.
    pub is_certified: bool,
    /// Whether authentication made it a superuser.
    pub superuser: bool,
    /// The address of the client; none for a client of a Unix socket.
    pub peer: Address,
    /// The listener, and the address of the broker.
    pub entrance: Arc<Entrance>,
    /// How it has reached the broker; `None` for the session of a plugin.
    pub transport: Option<Transport>,
    /// Its TLS connection.
    pub tls: Option<Arc<TlsFacts>>,
    /// Protocol version.
    pub version: Version,
    /// Clean start.
    pub clean_start: bool,
    /// Keep alive in force, seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Session expiry interval granted, seconds.
    pub expiry_s: u32,
    /// The session expiry interval in CONNECT, seconds; it limits the one that DISCONNECT may set.
    pub requested_expiry_s: u32,
    /// Receive Maximum of the client.
    pub receive_maximum: u16,
    /// Connected, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// Number of the network connection in this run of the broker; 0 for none.
    pub connection: u64,
    /// Number of the session in this run of the broker; 0 for none. It is set when the client is
    /// let in, and is the same for all connections of the session.
    pub session: u64,
    /// Whether nobody has authenticated it: neither a link of client.authenticate nor its
    /// certificate.
    pub anonymous: bool,
    /// Encoded properties of CONNECT, without those of authentication.
    pub properties: Box<[u8]>,
    /// What is in front of its topics in the broker; `None` for nothing, and for a client as stored
    /// by a plugin.
    pub mount: Option<Box<Mount>>,
}

/// The principal to which a session belongs. A user name that the listener takes from a certificate
/// is the same user as one that a plugin has verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Principal<'a> {
    /// A client with this user name.
    User(&'a str),
    /// A client without a user name that a plugin authenticated.
    Nameless,
    /// A client without a user name that nobody authenticated.
    Anonymous,
}

/// Who is charged where one user may have many client identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account<'a> {
    /// A user name that a plugin or a certificate has verified.
    User(&'a str),
    /// All clients without an address: those of Unix sockets.
    Local,
    /// An IPv4 address.
    Address(u64),
    /// The network of an IPv6 address: its first 64 bits.
    Network(u64),
}

impl Identity {
    /// The principal that this client logs in as. The only place that decides it: plugins cannot
    /// name another principal yet.
    pub fn principal(&self) -> Principal<'_> {
        match &self.username {
            Some(name) => Principal::User(name),
            None if self.anonymous => Principal::Anonymous,
            None => Principal::Nameless,
        }
    }

    /// Who is charged for what plugins request on behalf of this client: the user, if the user name
    /// is verified, otherwise the address.
    pub fn account(&self) -> Account<'_> {
        match (&self.username, self.peer.get().map(|peer| peer.ip())) {
            (Some(name), _) if !self.anonymous => Account::User(name),
            (_, None) => Account::Local,
            (_, Some(IpAddr::V4(ip))) => Account::Address(ip.to_bits().into()),
            (_, Some(IpAddr::V6(ip))) => match ip.to_ipv4_mapped() {
                Some(ip) => Account::Address(ip.to_bits().into()),
                // One customer usually has a whole /64.
                None => Account::Network((ip.to_bits() >> 64) as u64),
            },
        }
    }

    /// A client as stored by a plugin. `None` if no client can have this identity.
    pub fn from_stored(kept: &ClientIdentity<'_>) -> Option<Identity> {
        let versions = [Version::V31, Version::V311, Version::V5];
        let version = versions.into_iter().find(|version| version.level() == kept.proto_ver)?;
        Properties::check(kept.properties, PropertyOwner::Packet(PacketType::Connect)).ok()?;
        let transport = match kept.transport {
            "" => None,
            word => Some(Transport::from_word(word)?),
        };
        Some(Identity {
            client_id: kept.client_id.into(),
            username: kept.username.map(Box::from),
            is_certified: kept.is_certified,
            superuser: kept.superuser,
            peer: Address::new(kept.peer),
            entrance: Entrance::own(kept.listener.into(), kept.local),
            transport,
            tls: kept.tls.map(|tls| Arc::new(TlsFacts::of(&tls))),
            version,
            clean_start: kept.clean_start,
            keep_alive_s: kept.keep_alive_s,
            expiry_s: kept.expiry_s,
            requested_expiry_s: kept.expiry_s,
            receive_maximum: kept.receive_maximum,
            connected_at_ms: kept.connected_at_ms,
            connection: kept.connection,
            session: kept.session,
            anonymous: kept.anonymous,
            properties: kept.properties.into(),
            mount: None,
        })
    }

    /// A topic or filter of the broker, without a share name, as the client names it.
    #[inline]
    pub(crate) fn seen<'a>(&self, topic: &'a str) -> &'a str {
        mount_point::seen(self.mount.as_deref(), topic)
    }

    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        let username = self.username.as_deref().map_or(0, str::len);
        let tls = self.tls.as_ref().map_or(0, |tls| tls.bytes());
        let addresses = self.peer.bytes() + self.entrance.bytes();
        let mount = self.mount.as_ref().map_or(0, |mount| mount.bytes());
        let names = self.client_id.len() + username + self.properties.len();
        size_of::<Identity>() + names + tls + addresses + mount
    }

    /// The view for hooks.
    pub fn view(&self) -> ClientView<'_> {
        ClientView {
            client_id: &self.client_id,
            username: self.username.as_deref(),
            is_certified: self.is_certified,
            connect_username: None,
            password: None,
            peer: &self.peer,
            local: &self.entrance.local,
            listener: &self.entrance.listener,
            transport: self.transport,
            tls: self.tls.as_deref(),
            version: self.version,
            clean_start: self.clean_start,
            keep_alive_s: self.keep_alive_s,
            expiry_s: self.expiry_s,
            receive_maximum: self.receive_maximum,
            connected_at_ms: self.connected_at_ms,
            connection: self.connection,
            session: self.session,
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
    fn a_user_is_charged_where_the_name_is_verified_and_the_address_elsewhere() {
        let account = |username, anonymous, peer: &str| {
            let identity = ClientIdentity {
                client_id: "c",
                username,
                is_certified: false,
                superuser: false,
                anonymous,
                clean_start: true,
                proto_ver: 5,
                keep_alive_s: 0,
                expiry_s: 0,
                receive_maximum: 1,
                connected_at_ms: 0,
                connection: 1,
                session: 1,
                peer: peer.parse().ok(),
                local: None,
                listener: "",
                transport: "",
                tls: None,
                properties: b"",
            };
            let identity = Identity::from_stored(&identity).unwrap();
            match identity.account() {
                Account::User(name) => format!("user {name}"),
                Account::Local => "local".to_owned(),
                Account::Address(ip) => format!("address {ip:x}"),
                Account::Network(ip) => format!("network {ip:x}"),
            }
        };
        for (username, anonymous, peer, expected) in [
            (Some("ann"), false, "10.0.0.1:1", "user ann"),
            (Some("ann"), true, "10.0.0.1:1", "address a000001"),
            (None, false, "10.0.0.1:2", "address a000001"),
            (None, true, "[::ffff:10.0.0.1]:2", "address a000001"),
            (None, true, "[2001:db8::7]:2", "network 20010db800000000"),
            (Some("ann"), true, "", "local"),
            (Some("ann"), false, "", "user ann"),
        ] {
            assert_eq!(account(username, anonymous, peer), expected);
        }
    }
}
