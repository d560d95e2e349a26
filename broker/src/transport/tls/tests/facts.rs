//! What is known of a connection and of a certificate, and the user name that is made of it.

use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, SerialNumber};
use rustls::ALL_VERSIONS;

use super::certificates::{Ca, Listener, params};
use super::session::{Session, TLS12, TLS13, client};
use crate::transport::tls::x509::{ALTERNATIVE_NAMES_MAX, CERTIFICATE_BYTES_MAX, facts};
use crate::transport::tls::{ClientCertificates, Identity, identity_of};
use crate::transport::{CertificateFacts, Layer as _, PeerFacts, TlsFacts};

#[test]
fn version_cipher_and_server_name_are_known() {
    assert_eq!(ALL_VERSIONS.len(), 2);
    let listener = Listener::new();
    let config = listener.load();
    let known = Session::open(&config, client(&listener.ca, TLS13, None)).facts();
    let expected = TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
        server_name: "broker.test".to_owned(),
        certificate: None,
    };
    assert_eq!(known, expected);
    let known = Session::open(&config, client(&listener.ca, TLS12, None)).facts();
    assert_eq!(known.version, "TLSv1.2");
    assert_eq!(known.cipher, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
}

#[test]
fn what_a_proxy_says_of_its_own_tls_does_not_count() {
    let listener = Listener::new();
    let session = Session::open(&listener.load(), client(&listener.ca, TLS13, None));
    let of_proxy = TlsFacts { version: "TLSv1.2".to_owned(), ..TlsFacts::default() };
    let certificate =
        Some(CertificateFacts { common_name: "admin".to_owned(), ..CertificateFacts::default() });
    let of_proxy = TlsFacts { certificate, ..of_proxy };
    let mut facts = PeerFacts { tls: Some(of_proxy.into()), ..PeerFacts::default() };
    session.layer.describe(&mut facts);
    assert_eq!(facts.tls.as_deref(), Some(&session.facts()), "nobody has shown a certificate here");
}

#[test]
fn a_verified_certificate_is_described() {
    let listener = Listener::with_clients(ClientCertificates::Required);
    let mut params = params("device 7", &["device-7.test"]);
    params.distinguished_name.push(DnType::OrganizationName, "Grapes, Inc.");
    params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xff, 0x01]));
    params.subject_alt_names.extend([
        SanType::URI("spiffe://test/device/7".try_into().unwrap()),
        SanType::Rfc822Name("device@example.test".try_into().unwrap()),
        SanType::IpAddress([192, 0, 2, 7].into()),
        SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
    ]);
    let own = listener.ca.pair(&params);
    let der = own.certificate.der().to_vec();
    let expected = CertificateFacts {
        subject: "O=Grapes\\, Inc.,CN=device 7".to_owned(),
        common_name: "device 7".to_owned(),
        alternative_names: [
            "DNS:device-7.test",
            "URI:spiffe://test/device/7",
            "email:device@example.test",
            "IP:192.0.2.7",
            "IP:::1",
        ]
        .map(str::to_owned)
        .to_vec(),
        issuer: "CN=Test CA".to_owned(),
        serial: "0aff01".to_owned(),
        fingerprint: ring::digest::digest(&ring::digest::SHA256, &der)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    };
    for version in [TLS12, TLS13] {
        let session = Session::open(&listener.load(), client(&listener.ca, version, Some(&own)));
        assert_eq!(session.facts().certificate, Some(expected.clone()));
        assert!(session.layer.memory_bytes() > der.len());
    }
}

/// The subject of a certificate with these attributes.
fn described(attributes: &[(DnType, DnValue)]) -> CertificateFacts {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in attributes {
        params.distinguished_name.push(kind.clone(), value.clone());
    }
    facts(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
}

fn utf8(text: &str) -> DnValue {
    DnValue::Utf8String(text.to_owned())
}

#[test]
fn subjects_are_written_as_rfc_4514_says() {
    // RFC 4514, section 4, and section 2.4 for the escapes.
    for (value, expected) in [
        ("James \"Jim\" Smith, III", "CN=James \\\"Jim\\\" Smith\\, III"),
        ("Before\rAfter", "CN=Before\\0DAfter"),
        ("Lu\u{10d}i\u{107}", "CN=Lu\u{10d}i\u{107}"),
        ("# number", "CN=\\# number"),
        (" both ends ", "CN=\\ both ends\\ "),
        (" ", "CN=\\ "),
        ("a+b;c<d>e\\f=g", "CN=a\\+b\\;c\\<d\\>e\\\\f=g"),
        ("nul\0", "CN=nul\\00"),
        ("", "CN="),
    ] {
        assert_eq!(described(&[(DnType::CommonName, utf8(value))]).subject, expected);
    }
    let several = described(&[
        (
            DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]),
            DnValue::Ia5String("net".try_into().unwrap()),
        ),
        (DnType::CommonName, utf8("J. Smith")),
        (
            DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
            DnValue::Ia5String("a@b".try_into().unwrap()),
        ),
        (DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 1466, 0]), utf8("Hi")),
    ]);
    assert_eq!(several.subject, "1.3.6.1.4.1.1466.0=#0c024869,emailAddress=a@b,CN=J. Smith,DC=net");
    assert_eq!(several.common_name, "J. Smith");
    let wide = described(&[(DnType::CommonName, DnValue::BmpString("b\u{e9}".try_into().unwrap()))]);
    assert_eq!((wide.subject.as_str(), wide.common_name.as_str()), ("CN=b\u{e9}", "b\u{e9}"));
}

#[test]
fn a_certificate_that_cannot_be_read_has_a_fingerprint() {
    let known = facts(b"no certificate");
    assert_eq!(known.fingerprint.len(), 64);
    assert_eq!(
        known,
        CertificateFacts { fingerprint: known.fingerprint.clone(), ..CertificateFacts::default() }
    );
    // A certificate that is cut or changed anywhere is read or not, and no panic.
    let der = Ca::new("CA").pair(&params("x", &["a.test", "b.test"])).certificate.der().to_vec();
    for place in 0..der.len() {
        facts(&der[..place]);
        let mut changed = der.clone();
        changed[place] ^= 0xff;
        facts(&changed);
        changed[place] = 0x80;
        facts(&changed);
    }
}

/// A certificate with so many alternative names.
fn with_names(count: usize) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let name = |place| SanType::DnsName(format!("n{place}.test").try_into().unwrap());
    params.subject_alt_names = (0..count).map(name).collect();
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn what_is_kept_of_a_certificate_is_bounded() {
    let der = with_names(ALTERNATIVE_NAMES_MAX + 1);
    let known = facts(&der);
    assert_eq!(known.alternative_names.len(), ALTERNATIVE_NAMES_MAX);
    assert_eq!(known.alternative_names[0], "DNS:n0.test");
    let der = with_names(2_000);
    assert!(der.len() > CERTIFICATE_BYTES_MAX);
    let known = facts(&der);
    assert_eq!(
        known,
        CertificateFacts { fingerprint: known.fingerprint.clone(), ..CertificateFacts::default() }
    );
    assert_eq!(known.fingerprint.len(), 64);
}

fn of_client(common_name: &str, alternative_names: &[&str], subject: &str) -> TlsFacts {
    TlsFacts {
        certificate: Some(CertificateFacts {
            subject: subject.to_owned(),
            common_name: common_name.to_owned(),
            alternative_names: alternative_names.iter().map(|&name| name.to_owned()).collect(),
            ..CertificateFacts::default()
        }),
        ..TlsFacts::default()
    }
}

#[test]
fn an_identity_comes_from_the_part_that_is_asked_for() {
    let facts = of_client("device", &["URI:urn:x:1", "DNS:a.test"], "O=x,CN=device");
    let expected = [
        (Identity::CommonName, "device"),
        (Identity::AlternativeName, "urn:x:1"),
        (Identity::Subject, "O=x,CN=device"),
    ];
    for (identity, text) in expected {
        assert_eq!(identity_of(&facts, identity).as_deref(), Some(text));
        assert_eq!(identity_of(&TlsFacts::default(), identity), None);
        assert_eq!(identity_of(&of_client("", &[], ""), identity), None);
    }
}

#[test]
fn what_mqtt_forbids_in_a_user_name_is_no_identity() {
    for bad in ["admin\0x", "line\nbreak", "\u{7f}", "\u{9f}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}", ""] {
        let facts = of_client(bad, &[&format!("DNS:{bad}")], bad);
        for identity in [Identity::CommonName, Identity::AlternativeName, Identity::Subject] {
            assert_eq!(identity_of(&facts, identity), None, "{bad:?}");
        }
    }
    let longest = "x".repeat(65_535);
    assert_eq!(identity_of(&of_client(&longest, &[], ""), Identity::CommonName), Some(longest.clone()));
    assert_eq!(identity_of(&of_client(&format!("{longest}x"), &[], ""), Identity::CommonName), None);
    let allowed = "\u{fffd} b\u{e9} \u{1f347}";
    assert_eq!(identity_of(&of_client(allowed, &[], ""), Identity::CommonName).as_deref(), Some(allowed));
}
