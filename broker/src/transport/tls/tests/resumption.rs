//! Sessions that are resumed: with tickets, with the memory of the broker, and not at all; and the
//! certificate of the client, which is checked again.

use std::io::Write as _;
use std::sync::Arc;

use rcgen::SerialNumber;
use rustls::HandshakeKind::{self, Full, Resumed};
use rustls::server::StoresServerSessions as _;
use rustls::{ClientConfig, SupportedProtocolVersion};

use super::certificates::{Listener, Pair, params};
use super::session::{Session, TLS12, TLS13, client, refusal};
use crate::transport::LayerError;
use crate::transport::tls::sessions::{SESSION_BYTES_MAX, Sessions};
use crate::transport::tls::{ClientCertificates, TlsConfig, load};

/// Connects twice with one configuration of a client. Returns how the second handshake was.
fn twice(
    first: &Arc<TlsConfig>,
    second: &Arc<TlsConfig>,
    client: ClientConfig,
) -> (Option<HandshakeKind>, Result<(), LayerError>, Session) {
    let client = Arc::new(client);
    let mut session = Session::named(first, &client, "broker.test");
    session.exchange().unwrap();
    session.check_data();
    assert_eq!(session.client.handshake_kind(), Some(Full));
    let mut session = Session::named(second, &client, "broker.test");
    // With TLS 1.3 this comes in one input with the end of the handshake.
    session.client.writer().write_all(b"hello").unwrap();
    let result = session.exchange();
    assert_eq!(session.above, if result.is_ok() { &b"hello"[..] } else { b"" });
    (session.client.handshake_kind(), result, session)
}

#[test]
fn sessions_are_resumed_with_tickets_or_from_memory_or_not() {
    let versions: [&'static SupportedProtocolVersion; 2] = [TLS12, TLS13];
    for (tickets, sessions_max, expected) in [(true, 0, Resumed), (false, 10, Resumed), (false, 0, Full)] {
        for version in versions {
            let mut listener = Listener::new();
            listener.settings.tickets = tickets;
            listener.settings.sessions_max = sessions_max;
            let config = listener.load();
            let (kind, result, mut session) = twice(&config, &config, client(&listener.ca, version, None));
            assert_eq!((kind, result), (Some(expected), Ok(())), "{tickets} {sessions_max} {version:?}");
            session.check_data();
            assert_eq!(session.facts().server_name, "broker.test");
        }
    }
}

#[test]
fn a_session_does_not_outlive_the_configuration() {
    let listener = Listener::new();
    for version in [TLS12, TLS13] {
        let (kind, result, _) =
            twice(&listener.load(), &listener.load(), client(&listener.ca, version, None));
        assert_eq!((kind, result), (Some(Full), Ok(())));
    }
}

fn mutual(tickets: bool) -> (Listener, Pair) {
    let mut listener = Listener::with_clients(ClientCertificates::Required);
    listener.settings.tickets = tickets;
    let mut params = params("device", &[]);
    params.serial_number = Some(SerialNumber::from(7));
    let own = listener.ca.pair(&params);
    (listener, own)
}

#[test]
fn a_resumed_session_still_has_the_certificate_of_the_client() {
    for (version, tickets) in [(TLS12, true), (TLS13, true), (TLS12, false), (TLS13, false)] {
        let (listener, own) = mutual(tickets);
        let config = listener.load();
        let (kind, result, session) = twice(&config, &config, client(&listener.ca, version, Some(&own)));
        assert_eq!((kind, result), (Some(Resumed), Ok(())));
        assert_eq!(session.facts().certificate.unwrap().common_name, "device");
    }
}

#[test]
fn a_certificate_that_is_no_longer_good_ends_a_resumed_session() {
    for version in [TLS12, TLS13] {
        let (mut listener, own) = mutual(true);
        let config = listener.load();
        let crl = listener.ca.crl(&[7], 2999);
        listener.settings.client_crl = vec![listener.files.write("crl.pem", &crl)];
        let (stricter, _) = load(&listener.settings).unwrap();
        // A certificate expires without a reload. Here the same tickets meet a stricter check.
        let mut server = rustls::ServerConfig::clone(&stricter.server);
        server.ticketer = Arc::clone(&config.server.ticketer);
        let stricter = Arc::new(stricter.with_server(server));
        let client = client(&listener.ca, version, Some(&own));
        let (kind, result, mut session) = twice(&config, &stricter, client);
        assert_eq!(kind, Some(Resumed));
        assert_eq!(refusal(result), "TLS: the resumed session is refused: invalid peer certificate: Revoked");
        assert_eq!(session.client_sends(b"x"), Err(LayerError::Closed));
    }
}

#[test]
fn a_session_that_is_too_large_is_not_remembered() {
    let sessions = Sessions::new(4);
    assert!(sessions.put(vec![1; 32], vec![0; SESSION_BYTES_MAX - 32]));
    assert!(!sessions.put(vec![2; 32], vec![0; SESSION_BYTES_MAX - 31]));
    assert!(sessions.get(&[1; 32]).is_some() && sessions.get(&[2; 32]).is_none());
    for place in 3..100 {
        sessions.put(vec![place; 32], vec![0; 10]);
    }
    assert!((0..100).filter(|&place| sessions.get(&[place; 32]).is_some()).count() <= 5);
}
