//! What black-box tests speak below MQTT: plain TCP, or what `GRAPNEL_TESTS_TRANSPORT` names. The
//! broker of a test gets its main listener with that transport, and a second one with plain TCP for
//! programs that cannot speak it. Used by `broker.rs`, and by what connects to its brokers.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustls::{ClientConfig, DEFAULT_VERSIONS};

use crate::PATIENCE;
use crate::certificates::Certificates;
use crate::layers::Layers;
use crate::process::Process;
use crate::socket::Socket;

/// What lies below MQTT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// A Unix socket.
    Unix,
    /// TCP behind the PROXY protocol, version 2. The header has the client's own address.
    Proxy,
}

impl Transport {
    /// The transport that the environment selects.
    ///
    /// # Panics
    /// For an unknown name.
    pub fn chosen() -> Transport {
        match std::env::var("GRAPNEL_TESTS_TRANSPORT").as_deref() {
            Err(_) | Ok("" | "tcp") => Transport::Tcp,
            Ok("tls") => Transport::Tls,
            Ok("ws") => Transport::Ws,
            Ok("wss") => Transport::Wss,
            Ok("unix") => Transport::Unix,
            Ok("proxy") => Transport::Proxy,
            Ok(other) => {
                panic!("GRAPNEL_TESTS_TRANSPORT is {other:?}; it may be tcp, tls, ws, wss, unix or proxy")
            }
        }
    }

    /// Whether it has TLS.
    pub fn has_tls(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// Whether it has WebSocket.
    pub fn has_websocket(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }
}

/// The main listener of a broker.
pub struct Listener {
    transport: Transport,
    /// Unused by a Unix socket.
    address: SocketAddr,
    /// What the broker's configuration names: certificates, and the folder of a Unix socket.
    files: Option<Certificates>,
    tls: Option<Arc<ClientConfig>>,
}

impl Listener {
    /// With plain TCP, at this address.
    pub fn tcp(address: SocketAddr) -> Listener {
        Listener { transport: Transport::Tcp, address, files: None, tls: None }
    }

    /// With another transport, in the files of [`config`].
    ///
    /// # Panics
    /// If the broker has not printed where it listens.
    #[track_caller]
    pub fn found(transport: Transport, files: Certificates, broker: &Process) -> Listener {
        let tls = transport.has_tls().then(|| files.client_config(false, DEFAULT_VERSIONS));
        // The main listener is the first.
        let addresses =
            broker.lines(|line| line.strip_prefix("listening on ")?.split_once("://")?.1.parse().ok());
        let address = *addresses.first().expect("the listener with plain TCP has an address at least");
        Listener { transport, address, files: Some(files), tls }
    }

    /// Its transport.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Port of TCP.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Path of the authority's certificate, for clients of TLS.
    pub fn authority(&self) -> Option<PathBuf> {
        self.files.as_ref().filter(|_| self.transport.has_tls()).map(Certificates::authority)
    }

    /// Path of the Unix socket.
    pub fn unix(&self) -> Option<PathBuf> {
        self.files.as_ref().filter(|_| self.transport == Transport::Unix).map(unix_path)
    }

    /// Opens a connection, and shakes hands on its layers; with TCP below, from this address of
    /// loopback.
    ///
    /// # Panics
    /// If the broker does not accept it.
    #[track_caller]
    pub fn connect(&self, source: Ipv4Addr) -> Socket {
        let mut stream = match self.unix() {
            // The standard library has two types for one thing. What is used of this one works on
            // every stream socket.
            Some(path) => {
                let stream = UnixStream::connect(path).expect("the broker accepts connections");
                TcpStream::from(OwnedFd::from(stream))
            }
            None => from_address(source, self.address),
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("not a zero timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("not a zero timeout");
        if self.transport == Transport::Proxy {
            let from = stream.local_addr().expect("a connected socket has an address");
            stream.write_all(&proxy_header(from, self.address)).expect("a new connection takes a header");
        }
        let path = self.transport.has_websocket().then_some("/mqtt");
        if self.tls.is_none() && path.is_none() {
            return Socket::over(stream, None);
        }
        let layers = Layers::open(&mut stream, self.tls.clone(), path)
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.transport));
        Socket::over(stream, Some(Box::new(layers)))
    }
}

fn unix_path(files: &Certificates) -> PathBuf {
    files.folder().join("mqtt.sock")
}

/// Tables for the configuration of a broker: a listener with this transport, and one with plain
/// TCP.
pub(crate) fn config(transport: Transport, files: &Certificates) -> String {
    let bind = match transport {
        Transport::Unix => format!("unix:{}", unix_path(files).display()),
        _ => "127.0.0.1:0".to_owned(),
    };
    let mut text = format!("[[listeners]]\nname = \"main\"\nbind = {bind:?}\n");
    if transport == Transport::Proxy {
        text += "allow_anonymous = true\nproxy_protocol = true\nproxy_sources = [\"127.0.0.0/8\"]\n";
    }
    if transport.has_tls() {
        let (cert, key) = (files.server(), files.server_key());
        text += &format!("[listeners.tls]\ncert = {cert:?}\nkey = {key:?}\n");
    }
    if transport.has_websocket() {
        text += "[listeners.websocket]\n";
    }
    text + "[[listeners]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\n"
}

fn from_address(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("there are descriptors");
    if source != Ipv4Addr::LOCALHOST {
        bind(&socket, &SocketAddr::from((source, 0))).expect("loopback has free ports");
    }
    connect(&socket, &address).expect("the broker accepts connections");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).expect("a fresh socket takes options");
    stream
}

/// The header of version 2 for TCP over IPv4 (section 2.2 of the specification).
fn proxy_header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { panic!("{from} or {to} is not IPv4") };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C".to_vec();
    header.extend(from.ip().octets());
    header.extend(to.ip().octets());
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header
}
