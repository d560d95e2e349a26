//! What a connection costs: bytes while it is idle, and CPU time of its handshake. Prints figures:
//! `cargo test --release -p grapnel --lib -- --ignored --nocapture measure_tls`.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use rustls::server::ServerConnection;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use x509_cert::der::Decode as _;
use x509_cert::name::RelativeDistinguishedName;

use super::certificates::{Listener, P256, Pair, RSA, params};
use super::session::{Session, TLS12, TLS13, client};
use crate::transport::Layer as _;
use crate::transport::tls::x509::CERTIFICATE_BYTES_MAX;
use crate::transport::tls::{ClientCertificates, TlsConfig, TlsLayer};

const CONNECTIONS: usize = 500;

/// Bytes that this process has from the C library's allocator.
fn allocated() -> usize {
    // SAFETY: the function only reads counters of the allocator, and has no arguments.
    unsafe { libc::mallinfo2() }.uordblks
}

/// CPU time of this thread, microseconds.
fn cpu_us() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000).unwrap()
}

/// Bytes of one open connection that has sent and received, and what it says itself.
fn of_layer(config: &Arc<TlsConfig>, client: &Arc<ClientConfig>) -> (usize, usize) {
    let mut layers: Vec<Box<TlsLayer>> = Vec::with_capacity(CONNECTIONS);
    let before = allocated();
    for _ in 0..CONNECTIONS {
        let mut session = Session::named(config, client, "broker.test");
        session.exchange().unwrap();
        session.check_data();
        layers.push(Box::new(session.layer));
    }
    let bytes = (allocated() - before) / CONNECTIONS;
    (bytes, layers[0].memory_bytes())
}

/// The same with the interface of rustls that has buffers.
fn of_buffered(config: &Arc<TlsConfig>, client: &Arc<ClientConfig>) -> usize {
    let mut connections: Vec<Box<ServerConnection>> = Vec::with_capacity(CONNECTIONS);
    let before = allocated();
    for _ in 0..CONNECTIONS {
        let mut session = Session::named(config, client, "broker.test");
        let mut server = Box::new(ServerConnection::new(Arc::clone(&config.server)).unwrap());
        for round in 0..4 {
            if round == 2 {
                session.client.writer().write_all(b"to the broker").unwrap();
                server.writer().write_all(b"to the client").unwrap();
            }
            let bytes = session.client_output();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut below = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut below).unwrap();
            }
            session.feed_client(&below);
        }
        let mut received = [0; 13];
        server.reader().read_exact(&mut received).unwrap();
        connections.push(server);
    }
    (allocated() - before) / CONNECTIONS
}

/// Bytes of a connection whose ClientHello is not complete.
fn of_half_open(config: &Arc<TlsConfig>, client: &Arc<ClientConfig>) -> (usize, usize) {
    let hello = Session::named(config, client, "broker.test").client_output();
    let mut layers: Vec<Box<TlsLayer>> = Vec::with_capacity(CONNECTIONS);
    let before = allocated();
    for _ in 0..CONNECTIONS {
        let mut layer = Box::new(TlsLayer::new(config).unwrap());
        layer.receive(&hello[..10], &mut Vec::new(), &mut Vec::new()).unwrap();
        layers.push(layer);
    }
    ((allocated() - before) / CONNECTIONS, layers[0].memory_bytes())
}

/// Bytes of a connection that waits for the client's second flight.
fn of_handshake(config: &Arc<TlsConfig>, client: &Arc<ClientConfig>) -> (usize, usize) {
    let mut layers: Vec<Box<TlsLayer>> = Vec::with_capacity(CONNECTIONS);
    let before = allocated();
    for _ in 0..CONNECTIONS {
        let mut session = Session::named(config, client, "broker.test");
        let hello = session.client_output();
        session.layer.receive(&hello, &mut Vec::new(), &mut Vec::new()).unwrap();
        layers.push(Box::new(session.layer));
    }
    ((allocated() - before) / CONNECTIONS, layers[0].memory_bytes())
}

/// CPU time of the broker's side of a handshake, microseconds.
fn handshake_us(config: &Arc<TlsConfig>, client: &Arc<ClientConfig>, kind: HandshakeKind) -> u64 {
    const ROUNDS: u64 = 300;
    let mut spent = 0;
    for _ in 0..ROUNDS {
        let mut session = Session::named(config, client, "broker.test");
        loop {
            let bytes = session.client_output();
            if bytes.is_empty() {
                break;
            }
            let mut below = Vec::new();
            let before = cpu_us();
            session.layer.receive(&bytes, &mut session.above, &mut below).unwrap();
            spent += cpu_us() - before;
            session.feed_client(&below);
        }
        assert_eq!(session.client.handshake_kind(), Some(kind));
    }
    spent / ROUNDS
}

fn listener(key: &str, mode: ClientCertificates) -> (Listener, Pair) {
    let mut listener = match mode {
        ClientCertificates::None => Listener::new(),
        _ => Listener::with_clients(mode),
    };
    let own = rcgen::KeyPair::from_pem(key).unwrap();
    let certificate = listener.ca.issue(&params("broker", &["broker.test"]), &own);
    listener.settings.certificates = vec![listener.files.text_pair("own", &certificate.pem(), key)];
    let device = listener.ca.pair(&params("device", &[]));
    (listener, device)
}

/// CPU time to read the worst subject of a certificate that is read: one set of attributes, the
/// last first. Microseconds.
fn worst_subject_us() -> u64 {
    let count = u16::try_from(CERTIFICATE_BYTES_MAX / 11).unwrap();
    let attribute = |place: u16| [&[0x30, 9, 6, 3, 0x55, 4, 3, 12, 2][..], &place.to_be_bytes()].concat();
    let attributes: Vec<u8> = (0..count).rev().flat_map(attribute).collect();
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    let der = [&[0x31, 0x82][..], &length, &attributes].concat();
    let before = cpu_us();
    let read = RelativeDistinguishedName::from_der(&der).unwrap();
    assert_eq!(read.len(), usize::from(count));
    cpu_us() - before
}

#[test]
#[ignore = "prints figures"]
#[allow(clippy::print_stdout)]
fn measure_tls() {
    let versions: [&'static SupportedProtocolVersion; 2] = [TLS12, TLS13];
    println!("TlsLayer itself: {} bytes; the figures below include it", size_of::<TlsLayer>());
    println!("the worst subject: {} µs", worst_subject_us());
    for mode in [ClientCertificates::None, ClientCertificates::Required] {
        for version in versions {
            let (listener, device) = listener(P256, mode);
            let config = listener.load();
            let client = Arc::new(client(&listener.ca, version, Some(&device)));
            // The first use of everything allocates what stays.
            of_layer(&config, &client);
            println!(
                "{version:?}, certificates of clients {mode:?}: idle {:?} (allocated, charged), \
                 with buffers {}, half a ClientHello {:?}, in the handshake {:?}",
                of_layer(&config, &client),
                of_buffered(&config, &client),
                of_half_open(&config, &client),
                of_handshake(&config, &client),
            );
        }
    }
    for (name, key) in [("RSA 2048", RSA), ("ECDSA P-256", P256)] {
        for mode in [ClientCertificates::None, ClientCertificates::Required] {
            for version in versions {
                let (mut listener, device) = listener(key, mode);
                let client = Arc::new(client(&listener.ca, version, Some(&device)));
                let resuming = listener.load();
                Session::named(&resuming, &client, "broker.test").exchange().unwrap();
                let resumed = handshake_us(&resuming, &client, HandshakeKind::Resumed);
                listener.settings.tickets = false;
                listener.settings.sessions_max = 0;
                let full = handshake_us(&listener.load(), &client, HandshakeKind::Full);
                println!("{name}, {version:?}, clients {mode:?}: full {full} µs, resumed {resumed} µs");
            }
        }
    }
}
