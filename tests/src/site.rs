//! A broker with a listener of each kind, and clients that connect to them. Used by the tests of
//! transports.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustls::{DEFAULT_VERSIONS, SupportedProtocolVersion};

use crate::broker::Builder;
use crate::certificates::Certificates;
use crate::client::Connack;
use crate::layers::Layers;
use crate::{Broker, Client, Connect, PATIENCE, Version};

/// How the shards wait for sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Io {
    /// With a ring.
    Ring,
    /// With epoll.
    Epoll,
}

/// The listeners of a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// MQTT over TCP.
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// MQTT over TLS; clients must show a certificate, whose common name is the user name.
    Mutual,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
    /// MQTT over a Unix socket.
    Unix,
    /// MQTT over TCP behind the PROXY protocol.
    Proxy,
    /// MQTT over TLS behind the PROXY protocol.
    ProxyTls,
}

impl Kind {
    /// All of them, in the order of the configuration.
    pub const ALL: [Kind; 8] =
        [Kind::Tcp, Kind::Tls, Kind::Mutual, Kind::Ws, Kind::Wss, Kind::Unix, Kind::Proxy, Kind::ProxyTls];

    /// Name of its listener.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Tls => "tls",
            Kind::Mutual => "mutual",
            Kind::Ws => "ws",
            Kind::Wss => "wss",
            Kind::Unix => "unix",
            Kind::Proxy => "proxy",
            Kind::ProxyTls => "proxy-tls",
        }
    }

    /// Whether it has TLS.
    pub fn has_tls(self) -> bool {
        matches!(self, Kind::Tls | Kind::Mutual | Kind::Wss | Kind::ProxyTls)
    }

    /// Whether it has WebSocket.
    pub fn has_websocket(self) -> bool {
        matches!(self, Kind::Ws | Kind::Wss)
    }

    /// Whether its connections begin with a header of the PROXY protocol.
    pub fn has_proxy(self) -> bool {
        matches!(self, Kind::Proxy | Kind::ProxyTls)
    }
}

/// A running broker with all listeners, and its certificates.
pub struct Site {
    broker: Broker,
    certificates: Certificates,
    addresses: Vec<(Kind, SocketAddr)>,
    unix: PathBuf,
}

/// How a site is to be started.
pub struct Plan {
    io: Io,
    shards: usize,
    keys: Vec<(Kind, String)>,
    tls: String,
    websocket: String,
    more: String,
    certificates: Certificates,
}

impl Plan {
    /// Number of shards; the default is 2.
    pub fn shards(mut self, shards: usize) -> Plan {
        self.shards = shards;
        self
    }

    /// Lines for the table of one listener.
    pub fn listener(mut self, kind: Kind, lines: &str) -> Plan {
        self.keys.push((kind, lines.to_owned()));
        self
    }

    /// Lines for the TLS of all listeners.
    pub fn tls(mut self, lines: &str) -> Plan {
        self.tls.push_str(lines);
        self.tls.push('\n');
        self
    }

    /// Lines for the WebSocket of all listeners.
    pub fn websocket(mut self, lines: &str) -> Plan {
        self.websocket.push_str(lines);
        self.websocket.push('\n');
        self
    }

    /// Tables for the end of the configuration.
    pub fn config(mut self, lines: &str) -> Plan {
        self.more.push_str(lines);
        self.more.push('\n');
        self
    }

    /// The configuration of this plan. The Unix socket is `socket`.
    fn toml(&self, socket: &std::path::Path) -> String {
        let files = &self.certificates;
        let mut text = String::new();
        for kind in Kind::ALL {
            let bind = match kind {
                Kind::Unix => format!("unix:{}", socket.display()),
                _ => "127.0.0.1:0".to_owned(),
            };
            text += &format!("[[listeners]]\nname = {:?}\nbind = {bind:?}\n", kind.name());
            if !self.keys.iter().any(|(other, lines)| *other == kind && lines.contains("allow_anonymous")) {
                // Not the default behind a proxy.
                text += "allow_anonymous = true\n";
            }
            if kind.has_proxy() {
                text += "proxy_protocol = true\nproxy_sources = [\"127.0.0.1\"]\n";
            }
            for (_, lines) in self.keys.iter().filter(|(other, _)| *other == kind) {
                text += &format!("{lines}\n");
            }
            if kind.has_tls() {
                let (cert, key) = (files.server(), files.server_key());
                text += &format!("[listeners.tls]\ncert = {cert:?}\nkey = {key:?}\n{}", self.tls);
            }
            if kind == Kind::Mutual {
                text += &format!("client_ca = {:?}\nidentity = \"cn\"\n", files.authority());
            }
            if kind.has_websocket() {
                text += &format!("[listeners.websocket]\n{}", self.websocket);
            }
        }
        text + &self.more
    }

    /// Starts the broker and waits until it accepts connections.
    ///
    /// # Panics
    /// If it does not start; the message contains its log.
    #[track_caller]
    pub fn start(self) -> Site {
        self.start_with(|builder| builder)
    }

    /// The same with more settings of the process.
    ///
    /// # Panics
    /// As [`Plan::start`].
    #[track_caller]
    pub fn start_with(self, change: impl FnOnce(Builder) -> Builder) -> Site {
        let unix = self.certificates.folder().join("mqtt.sock");
        let io = match self.io {
            Io::Ring => "io_uring",
            Io::Epoll => "epoll",
        };
        let builder = Broker::builder().listen(&[]).config(&self.toml(&unix)).shards(self.shards);
        let broker = change(builder.environment("GRAPNEL_RUNTIME_IO", io)).start();
        // The last lines of the start come before "ready", which was waited for.
        let bound = broker.process().lines(|line| {
            line.strip_prefix("listening on ")?.split_once("://").map(|(_, address)| address.parse().ok())
        });
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Unix);
        let addresses: Vec<_> = kinds.zip(bound.into_iter().flatten()).collect();
        assert_eq!(addresses.len(), Kind::ALL.len() - 1, "{}", broker.process().log());
        Site { broker, certificates: self.certificates, addresses, unix }
    }
}

impl Site {
    /// A site with default settings, to be changed before it starts.
    pub fn plan(io: Io) -> Plan {
        Plan {
            io,
            shards: 2,
            keys: Vec::new(),
            tls: String::new(),
            websocket: String::new(),
            more: String::new(),
            certificates: Certificates::new(),
        }
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Its certificates.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Path of its Unix socket.
    pub fn unix(&self) -> &std::path::Path {
        &self.unix
    }

    /// Address of a listener.
    ///
    /// # Panics
    /// For the Unix socket, which has none.
    #[track_caller]
    pub fn address(&self, kind: Kind) -> SocketAddr {
        let found = self.addresses.iter().find(|(other, _)| *other == kind);
        found.unwrap_or_else(|| panic!("{kind:?} has no address")).1
    }

    /// Opens a socket, on which nothing was sent.
    ///
    /// # Panics
    /// If the broker does not accept it.
    #[track_caller]
    pub fn socket(&self, kind: Kind) -> TcpStream {
        let stream = if kind == Kind::Unix {
            let stream = UnixStream::connect(&self.unix).expect("the broker accepts connections");
            // The standard library has two types for one thing. What is used of this one (reading,
            // writing, timeouts, shutting down) works on every stream socket.
            TcpStream::from(OwnedFd::from(stream))
        } else {
            let stream = TcpStream::connect(self.address(kind)).expect("the broker accepts connections");
            stream.set_nodelay(true).expect("a fresh socket takes options");
            stream
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("not a zero timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("not a zero timeout");
        stream
    }

    /// Opens a connection through all layers of a listener.
    ///
    /// # Errors
    /// Why a handshake failed.
    #[track_caller]
    pub fn try_dial(
        &self,
        kind: Kind,
        version: Version,
        tls: &[&'static SupportedProtocolVersion],
    ) -> Result<Client, String> {
        let mut stream = self.socket(kind);
        if kind.has_proxy() {
            let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 1883\r\n";
            std::io::Write::write_all(&mut stream, header).map_err(|error| error.to_string())?;
        }
        let config = kind.has_tls().then(|| self.certificates.client_config(kind == Kind::Mutual, tls));
        let layers = match kind {
            Kind::Tcp | Kind::Unix | Kind::Proxy => None,
            _ => Some(Layers::open(&mut stream, config, kind.has_websocket().then_some("/mqtt"))?),
        };
        Ok(Client::over(stream, layers, version))
    }

    /// The same, with the versions of TLS that rustls has.
    ///
    /// # Panics
    /// If a handshake fails.
    #[track_caller]
    pub fn dial(&self, kind: Kind, version: Version) -> Client {
        self.try_dial(kind, version, DEFAULT_VERSIONS).unwrap_or_else(|error| panic!("{kind:?}: {error}"))
    }

    /// Connects. Returns the CONNACK, whatever its code.
    ///
    /// # Panics
    /// If a handshake fails.
    #[track_caller]
    pub fn attempt(&self, kind: Kind, connect: &Connect) -> (Client, Connack) {
        let mut client = self.dial(kind, connect.version);
        let connack = client.log_in(connect);
        (client, connack)
    }

    /// Connects, and panics if that is refused.
    #[track_caller]
    pub fn connect(&self, kind: Kind, connect: &Connect) -> Client {
        let (client, connack) = self.attempt(kind, connect);
        assert_eq!(connack.code, 0, "CONNACK of {:?} at {kind:?}: {connack:?}", connect.client_id);
        client
    }

    /// Connects with a clean start and nothing else.
    #[track_caller]
    pub fn hello(&self, kind: Kind, version: Version, client_id: &str) -> Client {
        self.connect(kind, &Connect::new(version, client_id))
    }
}
