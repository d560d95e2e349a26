//! A listener as configured: where it listens, whom it lets in, and the layers between its sockets
//! and MQTT. Plain data; `draft` makes it and refuses what contradicts itself.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::{Origin, Sources};
use super::network::Network;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// An address and a port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket, at most 107 bytes.
    Unix(PathBuf),
}

impl Bind {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Tcp(address) => address.ip().is_loopback(),
            Bind::Unix(_) => true,
        }
    }

    /// Whether two listeners can both have it: each gets another port.
    pub fn is_any_port(&self) -> bool {
        matches!(self, Bind::Tcp(address) if address.port() == 0)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => write!(f, "{address}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One `[[listeners]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name for plugins, the log and the status; each listener has another one.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// Owner and mode of the file, if it is a Unix socket.
    pub unix: UnixOptions,
    /// Whether a client is let in if no link of client.authenticate decides about it.
    pub allow_anonymous: bool,
    /// What stands in front of all topics of its clients.
    pub mount_point: MountPoint,
    /// Connections at a time, over all shards; 0: no limit of its own.
    pub connections_max: u64,
    /// New connections in a second, over all shards; 0: no limit.
    pub connects_per_second_max: u64,
    /// The versions of MQTT that its clients may have.
    pub versions: Versions,
    /// Longest keep alive, seconds, 10 to 65535; `limits.keep_alive_max_s` holds beside it. 65535
    /// is no cap.
    pub keep_alive_s_max: u16,
    /// Options of its sockets.
    pub socket: SocketOptions,
    /// What the PROXY protocol is accepted from; `None`: no connection has its header.
    pub proxy: Option<ProxyProtocol>,
    /// TLS; `None`: its connections are not encrypted.
    pub tls: Option<TlsListener>,
    /// WebSocket; `None`: its clients send MQTT itself.
    pub websocket: Option<WebSocketListener>,
    /// Where it was configured.
    pub origin: Origin,
    /// Where each of its keys was set.
    pub sources: Sources,
}

impl ListenerConfig {
    /// Whether a proxy may name its clients, which are then from anywhere.
    pub fn trusts_proxies(&self) -> bool {
        let by_header =
            self.websocket.as_ref().is_some_and(|websocket| !websocket.trusted_proxies.is_empty());
        self.proxy.is_some() || by_header
    }

    /// Whether only programs of this machine connect.
    pub fn is_for_this_machine(&self) -> bool {
        self.bind.is_local() && !self.trusts_proxies()
    }
}

/// Owner and mode of a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixOptions {
    /// Its mode, 0 to 0o777; `None`: 0o660.
    pub mode: Option<u32>,
    /// Name or number of its owner; `None`: the user of the broker.
    pub owner: Option<String>,
    /// Name or number of its group; `None`: the group of the broker.
    pub group: Option<String>,
}

impl UnixOptions {
    /// The mode without a setting.
    pub const MODE_DEFAULT: u32 = 0o660;
}

/// What stands in front of all topics of a client: fixed text, its client identifier, its user
/// name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountPoint {
    /// As it was written; empty: nothing.
    pub text: String,
}

/// A piece of a [`MountPoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountPiece<'a> {
    /// This text.
    Text(&'a str),
    /// The client identifier.
    ClientId,
    /// The user name.
    UserName,
}

impl MountPoint {
    /// Longest mount point, bytes.
    pub const BYTES_MAX: usize = 1024;

    /// How the names of a client are written, as in Mosquitto and as in EMQX.
    const NAMES: [(&'static str, MountPiece<'static>); 4] = [
        ("%c", MountPiece::ClientId),
        ("${clientid}", MountPiece::ClientId),
        ("%u", MountPiece::UserName),
        ("${username}", MountPiece::UserName),
    ];

    /// Its pieces in order. A text that the configuration has accepted has no other `%` and `${`.
    pub fn pieces(&self) -> Vec<MountPiece<'_>> {
        let mut pieces = Vec::new();
        let mut rest = self.text.as_str();
        while !rest.is_empty() {
            let name = MountPoint::NAMES.into_iter().find(|(name, _)| rest.starts_with(name));
            let (piece, bytes) = match name {
                Some((name, piece)) => (piece, name.len()),
                None => {
                    let next = MountPoint::NAMES.iter().filter_map(|(name, _)| rest.find(name)).min();
                    let bytes = next.unwrap_or(rest.len());
                    (MountPiece::Text(&rest[..bytes]), bytes)
                }
            };
            pieces.push(piece);
            rest = &rest[bytes..];
        }
        pieces
    }

    /// Parses it.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence about the key.
    pub(super) fn parse(text: &str) -> Result<MountPoint, String> {
        if text.len() > MountPoint::BYTES_MAX {
            return Err(format!("must have at most {} bytes", MountPoint::BYTES_MAX));
        }
        let point = MountPoint { text: text.to_owned() };
        let pieces = point.pieces();
        let texts = || {
            pieces.iter().filter_map(|piece| match piece {
                MountPiece::Text(text) => Some(*text),
                MountPiece::ClientId | MountPiece::UserName => None,
            })
        };
        if texts().any(|text| text.contains("${") || text.contains('%')) {
            return Err(format!(
                "may have only %c or ${{clientid}} for the client identifier, and %u or ${{username}} for the user name, not \"{text}\""
            ));
        }
        if texts().any(|text| text.contains(['+', '#']) || text.contains(char::is_control))
            || matches!(pieces.first(), Some(MountPiece::Text(first)) if first.starts_with('$'))
        {
            return Err(format!(
                "must be the beginning of a topic, without +, # and control characters, and not begin with $, not \"{text}\""
            ));
        }
        if !text.is_empty() && !text.ends_with('/') {
            // Otherwise "a" and the topic "b/c" would be the same as "ab" and the topic "/c".
            return Err(format!("must end with /, such as \"{text}/\""));
        }
        if text.split('/').any(|level| {
            let level = MountPoint { text: level.to_owned() };
            level.pieces().iter().filter(|piece| !matches!(piece, MountPiece::Text(_))).count() > 1
        }) {
            // Otherwise two clients could have the same mount point: "a" and "bc", "ab" and "c".
            return Err(format!("may have one name in each level, as in \"%u/%c/\", not \"{text}\""));
        }
        Ok(point)
    }
}

/// The versions of MQTT that a listener accepts; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// MQTT 3.1.
    pub v3_1: bool,
    /// MQTT 3.1.1.
    pub v3_1_1: bool,
    /// MQTT 5.
    pub v5: bool,
}

impl Versions {
    /// All.
    pub const ALL: Versions = Versions { v3_1: true, v3_1_1: true, v5: true };

    /// Their words in the configuration.
    pub fn words(&self) -> Vec<&'static str> {
        let all = [("3.1", self.v3_1), ("3.1.1", self.v3_1_1), ("5", self.v5)];
        all.into_iter().filter(|(_, there)| *there).map(|(word, _)| word).collect()
    }
}

/// Options of the sockets of a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// Idle time before the kernel probes the other end, seconds; 0: it does not.
    pub keepalive_s: u32,
    /// SO_SNDBUF, bytes; 0: as the system has it.
    pub send_buffer_bytes: u32,
    /// SO_RCVBUF, bytes; 0: as the system has it.
    pub receive_buffer_bytes: u32,
}

/// The PROXY protocol, versions 1 and 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Addresses of the proxies. A connection of another address is closed. Empty for a Unix
    /// socket, where every connection is that of a proxy.
    pub sources: Vec<Network>,
}

/// `[listeners.tls]`. Paths are absolute; the files are read where the listener is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListener {
    /// The certificates, at least one; the server name that a client names chooses one, and the
    /// first is for the others.
    pub certificates: Vec<Certificate>,
    /// The file of the authorities that sign certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Whether clients have to show a certificate. There is a `client_ca` unless it is `None`.
    pub client_certificate: ClientCertificate,
    /// Files of revoked certificates of clients.
    pub crl: Vec<PathBuf>,
    /// The oldest version.
    pub version_min: TlsVersion,
    /// Time from accept until the handshake is over, milliseconds.
    pub handshake_timeout_ms: u64,
    /// Handshakes at a time, per shard.
    pub handshakes_max: u64,
    /// What of the certificate of a client is its user name.
    pub identity: TlsIdentity,
    /// Whether clients may resume a TLS session.
    pub session_tickets: bool,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The file of the chain, in PEM; the certificate of the server is first.
    pub cert: PathBuf,
    /// The file of its key, in PEM.
    pub key: PathBuf,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// They are not asked for one.
    None,
    /// They may; one that is shown must be valid.
    Optional,
    /// They must.
    Required,
}

impl ClientCertificate {
    pub(super) const WORDS: [(&'static str, ClientCertificate); 3] = [
        ("none", ClientCertificate::None),
        ("optional", ClientCertificate::Optional),
        ("required", ClientCertificate::Required),
    ];
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl TlsVersion {
    pub(super) const WORDS: [(&'static str, TlsVersion); 2] =
        [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
}

/// What of the certificate of a client is its user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsIdentity {
    /// Nothing: the user name is that of CONNECT.
    None,
    /// The common name of the subject.
    CommonName,
    /// The first subject alternative name.
    AlternativeName,
    /// The whole subject, as RFC 4514 writes it.
    Subject,
}

impl TlsIdentity {
    pub(super) const WORDS: [(&'static str, TlsIdentity); 4] = [
        ("none", TlsIdentity::None),
        ("cn", TlsIdentity::CommonName),
        ("san", TlsIdentity::AlternativeName),
        ("subject", TlsIdentity::Subject),
    ];
}

/// `[listeners.websocket]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketListener {
    /// The path of the request, which begins with `/`.
    pub path: String,
    /// Values of the header Origin that are accepted, `*` for all; empty: what the listener is for.
    /// Requests without it are accepted in any case.
    pub origins: Vec<String>,
    /// Proxies whose word about the client is believed.
    pub trusted_proxies: Vec<Network>,
    /// The header in which they name the client.
    pub forwarded: Forwarded,
}

/// The header in which a proxy names the client of a WebSocket connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, as RFC 7239 defines it.
    Rfc7239,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mount_point_is_taken_apart_where_its_templates_are() {
        let pieces = |text: &str| {
            let point = MountPoint::parse(text).unwrap();
            point.pieces().iter().map(|piece| format!("{piece:?}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(pieces(""), "");
        assert_eq!(pieces("site/é/"), "Text(\"site/é/\")");
        assert_eq!(pieces("a/%u/%c/"), "Text(\"a/\") UserName Text(\"/\") ClientId Text(\"/\")");
        assert_eq!(
            pieces("x-${username}-y/${clientid}/"),
            "Text(\"x-\") UserName Text(\"-y/\") ClientId Text(\"/\")"
        );
        let wrong = |text: &str| MountPoint::parse(text).unwrap_err();
        for text in ["a/+/", "a#/", "a\u{7}/", "$SYS/"] {
            assert!(wrong(text).contains("the beginning of a topic"), "{text}");
        }
        for text in ["100%/", "a/%d/", "%é/", "${client}/", "${clientid/", "%{u}/"] {
            assert!(wrong(text).contains("may have only %c or ${clientid}"), "{text}");
        }
        for text in ["a", "%u", "a/b"] {
            assert!(wrong(text).contains(&format!("must end with /, such as \"{text}/\"")), "{text}");
        }
        for text in ["%c%u/", "a/%u-%c/", "%u${username}/"] {
            assert!(wrong(text).contains("one name in each level"), "{text}");
        }
        assert!(MountPoint::parse(&format!("{}/", "x".repeat(1023))).is_ok());
        assert!(wrong(&"x".repeat(1025)).contains("at most 1024 bytes"));
    }
}
