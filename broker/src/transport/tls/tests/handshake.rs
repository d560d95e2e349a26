//! Handshakes that succeed: kinds of keys, versions, server names, ALPN; and those that do not.

use std::sync::Arc;

use rcgen::KeyPair;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConnection, Error};

use super::certificates::{Ca, Files, Listener, P256, P256_SEC1, RSA, RSA_PKCS1, params};
use super::session::{Session, TLS12, TLS13, client, refusal};
use crate::transport::Layer as _;
use crate::transport::tls::{ALPN_WEBSOCKET, TlsSettings, TlsVersion, load};

#[test]
fn every_kind_of_key_and_both_versions_work() {
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    // The form that the broker reads, and the same key for rcgen.
    let kinds = [
        (RSA, RSA, TLS12),
        (RSA_PKCS1, RSA, TLS13),
        (P256, P256, TLS13),
        (P256_SEC1, P256, TLS12),
        (&p384, &p384, TLS12),
        (&ed25519, &ed25519, TLS13),
    ];
    for (form, key, version) in kinds {
        let (files, ca) = (Files::new(), Ca::new("CA"));
        let certificate = ca.issue(&params("broker", &["broker.test"]), &KeyPair::from_pem(key).unwrap());
        let settings = TlsSettings::new(vec![files.text_pair("broker", &certificate.pem(), form)]);
        let (config, warnings) = load(&settings).unwrap();
        assert_eq!(warnings, []);
        let mut session = Session::open(&config, client(&ca, version, None));
        session.check_data();
        assert_eq!(session.facts().server_name, "broker.test");
    }
}

#[test]
fn an_old_version_is_refused_with_an_alert() {
    let mut listener = Listener::new();
    listener.settings.version_min = TlsVersion::V1_3;
    let config = listener.load();
    let mut session = Session::new(&config, client(&listener.ca, TLS12, None));
    assert!(refusal(session.exchange()).contains("no version of TLS that is accepted here"));
    assert_eq!(session.client_error, Some(Error::AlertReceived(AlertDescription::ProtocolVersion)));
    Session::open(&config, client(&listener.ca, TLS13, None));
}

#[test]
fn a_client_that_does_not_trust_the_broker_says_so() {
    let listener = Listener::new();
    let mut session = Session::new(&listener.load(), client(&Ca::new("Another"), TLS13, None));
    assert_eq!(
        refusal(session.exchange()),
        "TLS: the client has ended the connection with the alert UnknownCA"
    );
    assert!(!session.layer.is_open());
}

/// The common name of the certificate that the broker shows for a name.
fn shown_for(config: &Arc<crate::transport::tls::TlsConfig>, ca: &Ca, name: &str) -> Vec<u8> {
    let client = Arc::new(client(ca, TLS13, None));
    let mut session = Session::named(config, &client, name);
    // The client refuses a certificate with another name, and knows it nevertheless.
    let mut hello = session.client_output();
    let _ = session.feed_layer(&hello);
    hello.clear();
    session.client.peer_certificates().map(|chain| chain[0].to_vec()).unwrap_or_default()
}

#[test]
fn the_certificate_is_chosen_by_the_server_name() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    let default = ca.pair(&params("default", &["a.test", "default.test"]));
    let exact = ca.pair(&params("exact", &["B.test", "one.wild.test"]));
    let wildcard = ca.pair(&params("wildcard", &["*.wild.test"]));
    let settings = TlsSettings::new(vec![
        files.pair("default", &default),
        files.pair("wildcard", &wildcard),
        files.pair("exact", &exact),
    ]);
    let (config, warnings) = load(&settings).unwrap();
    assert_eq!(warnings, []);
    for (name, expected) in
        [("a.test", &default), ("b.test", &exact), ("one.wild.test", &exact), ("two.wild.test", &wildcard)]
    {
        assert_eq!(shown_for(&config, &ca, name), expected.certificate.der().to_vec(), "{name}");
    }
    // The default for names that none has, where a client that accepts any certificate sees it.
    for name in ["wild.test", "x.two.wild.test", "unknown.test"] {
        let mut session = Session::named(&config, &Arc::new(client(&ca, TLS13, None)), name);
        let why = session.exchange();
        assert!(matches!(session.client_error, Some(Error::InvalidCertificate(_))), "{name}: {why:?}");
        assert!(format!("{:?}", session.client_error).contains("default.test"), "{name}");
    }
}

#[test]
fn of_two_certificates_for_a_name_the_one_that_fits_the_client_is_shown() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    let rsa = ca.issue(&params("rsa", &["broker.test"]), &KeyPair::from_pem(RSA).unwrap());
    let ecdsa = ca.issue(&params("ecdsa", &["broker.test"]), &KeyPair::from_pem(P256).unwrap());
    let settings = TlsSettings::new(vec![
        files.text_pair("ecdsa", &ecdsa.pem(), P256),
        files.text_pair("rsa", &rsa.pem(), RSA),
    ]);
    let (config, _) = load(&settings).unwrap();
    let mut only_rsa = client(&ca, TLS12, None);
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.certificate.der().clone()).unwrap();
    let any = Session::open(&config, only_rsa.clone());
    assert_eq!(any.client.peer_certificates().unwrap()[0], *ecdsa.der());
    only_rsa = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let fits = Session::open(&config, only_rsa);
    assert_eq!(fits.client.peer_certificates().unwrap()[0], *rsa.der());
}

#[test]
fn a_client_without_a_server_name_gets_the_default() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    let mut params = params("broker", &["broker.test"]);
    params.subject_alt_names.push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
    let settings = TlsSettings::new(vec![files.pair("broker", &ca.pair(&params))]);
    let (config, _) = load(&settings).unwrap();
    let mut session = Session::new(&config, client(&ca, TLS13, None));
    let address = ServerName::try_from("127.0.0.1").unwrap();
    session.client = ClientConnection::new(Arc::new(client(&ca, TLS13, None)), address).unwrap();
    assert_eq!(session.exchange(), Ok(()));
    assert!(session.layer.is_open());
    assert_eq!(session.facts().server_name, "");
}

#[test]
fn alpn_is_agreed_on_or_refused() {
    let mut listener = Listener::new();
    let connect = |listener: &Listener, offer: &[&str]| {
        let mut client = client(&listener.ca, TLS13, None);
        client.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut session = Session::new(&listener.load(), client);
        let result = session.exchange();
        (session.client.alpn_protocol().map(<[u8]>::to_vec), session.client_error, result.is_ok())
    };
    assert_eq!(connect(&listener, &["x", "mqtt"]), (Some(b"mqtt".to_vec()), None, true));
    assert_eq!(connect(&listener, &[]), (None, None, true));
    let refused = Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol));
    assert_eq!(connect(&listener, &["h2", "http/1.1"]), (None, refused.clone(), false));
    listener.settings.alpn = vec![ALPN_WEBSOCKET.to_owned()];
    assert_eq!(connect(&listener, &["h2", "http/1.1"]), (Some(b"http/1.1".to_vec()), None, true));
    assert_eq!(connect(&listener, &["mqtt"]), (None, refused, false));
    listener.settings.alpn.clear();
    assert_eq!(connect(&listener, &["anything"]), (None, None, true));
}
