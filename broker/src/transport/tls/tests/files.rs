//! Settings and files that are refused or warned of: each sentence names the file and the remedy.

use std::path::PathBuf;

use rcgen::{KeyPair, date_time_ymd};

use super::certificates::{Ca, ENCRYPTED, ENCRYPTED_PKCS1, Files, Listener, P256, RSA, params, shown};
use crate::transport::tls::{
    CertificateFiles, ClientCertificates, Identity, TlsError, TlsSettings, TlsWarning, load,
};

fn refused(settings: &TlsSettings) -> TlsError {
    load(settings).map(|_| ()).unwrap_err()
}

#[test]
fn keys_that_do_not_fit_or_cannot_be_read_are_refused() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    let pair = ca.pair(&params("broker", &["broker.test"]));
    let chain = pair.certificate.pem();
    let with = |key: &str| TlsSettings::new(vec![files.text_pair("a", &chain, key)]);
    let (certificate, key) = (shown(&files.path("a.crt")), shown(&files.path("a.key")));
    for encrypted in [ENCRYPTED, ENCRYPTED_PKCS1] {
        let error = refused(&with(encrypted));
        assert_eq!(error, TlsError::EncryptedKey { file: key.clone() });
        assert_eq!(
            error.to_string(),
            format!(
                "the key in {key} is encrypted, and the broker cannot enter a passphrase; write it \
                 without one: `openssl pkey -in {key} -out NEW`"
            )
        );
    }
    for other in [RSA, P256] {
        let error = refused(&with(other));
        assert_eq!(error, TlsError::KeyMismatch { chain: certificate.clone(), key: key.clone() });
    }
    let empty = refused(&with("no key\n"));
    assert!(empty.to_string().starts_with(&format!("{key} has no private key in PEM form")), "{empty}");
    assert!(empty.to_string().contains(&format!("`openssl pkey -inform DER -in {key} -out NEW`")));
    let damaged = refused(&with("-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----\n"));
    assert!(matches!(damaged, TlsError::BadPem { ref file, .. } if *file == key), "{damaged}");
    let short = refused(&with("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"));
    assert!(matches!(short, TlsError::BadKey { ref file, .. } if *file == key), "{short}");
}

#[test]
fn files_that_are_no_certificates_are_refused() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    let pair = ca.pair(&params("broker", &["broker.test"]));
    let key = pair.key.serialize_pem();
    let settings = |chain: &str| TlsSettings::new(vec![files.text_pair("a", chain, &key)]);
    let file = shown(&files.path("a.crt"));
    assert!(matches!(refused(&settings("")), TlsError::NoSection { file: f, .. } if f == file));
    // A key where the chain should be.
    let text = refused(&settings(&key)).to_string();
    assert!(text.starts_with(&format!("{file} has no certificate in PEM form")), "{text}");
    let bad =
        format!("{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", pair.certificate.pem());
    assert!(
        matches!(refused(&settings(&bad)), TlsError::BadCertificate { file: f, number: 2, .. } if f == file)
    );
    let cut = &pair.certificate.pem()[..200];
    assert!(matches!(refused(&settings(cut)), TlsError::BadPem { file: f, .. } if f == file));
    let missing = CertificateFiles { chain: files.path("missing.crt"), key: files.path("a.key") };
    let text = refused(&TlsSettings::new(vec![missing])).to_string();
    assert!(
        text.starts_with(&format!("cannot read {}: No such file", shown(&files.path("missing.crt")))),
        "{text}"
    );
    // What would never end, or wait for ever.
    for path in ["/dev/zero", "/"] {
        let endless = CertificateFiles { chain: PathBuf::from(path), key: files.path("a.key") };
        let text = refused(&TlsSettings::new(vec![endless])).to_string();
        assert!(text.contains("it is not a regular file"), "{text}");
    }
    let large = "x".repeat((4 << 20) + 1);
    let error = refused(&settings(&large));
    assert!(matches!(error, TlsError::TooLarge { file: f, bytes_max: 4_194_304, .. } if f == file));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert_eq!(refused(&TlsSettings::new(Vec::new())), TlsError::NoCertificate);
    let mut listener = Listener::new();
    listener.settings.identity = Some(Identity::CommonName);
    assert_eq!(refused(&listener.settings), TlsError::IdentityUnused);
    listener.settings.client_certificates = ClientCertificates::Optional;
    assert_eq!(refused(&listener.settings), TlsError::NoClientCa);
    listener.settings.client_ca = Some(listener.files.write("ca.crt", &listener.ca.certificate.pem()));
    assert!(load(&listener.settings).is_ok());
    listener.settings.client_certificates = ClientCertificates::None;
    let file = shown(&listener.files.path("ca.crt"));
    assert_eq!(refused(&listener.settings), TlsError::ClientFileUnused { file });
    for (name, is_bad) in [(String::new(), true), ("x".repeat(255), false), ("x".repeat(256), true)] {
        let mut settings = Listener::new().settings;
        let listener = Listener::new();
        settings.certificates = listener.settings.certificates.clone();
        settings.alpn = vec![name];
        assert_eq!(load(&settings).is_err(), is_bad);
    }
}

#[test]
fn authorities_and_revocation_lists_are_checked() {
    let mut listener = Listener::with_clients(ClientCertificates::Required);
    let crl = listener.ca.crl(&[1], 2999);
    listener.settings.client_crl = vec![listener.files.write("crl.pem", &crl)];
    assert!(load(&listener.settings).is_ok());
    let file = shown(&listener.files.path("crl.pem"));
    listener.files.write("crl.pem", &listener.ca.certificate.pem());
    let text = refused(&listener.settings).to_string();
    assert!(text.starts_with(&format!("{file} has no revocation list in PEM form")), "{text}");
    listener.files.write("crl.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    assert!(matches!(refused(&listener.settings), TlsError::BadCrl { file: f, .. } if f == file));
    listener.files.write("crl.pem", &crl);
    let file = shown(&listener.files.path("ca.crt"));
    listener.files.write("ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let error = refused(&listener.settings);
    assert!(matches!(error, TlsError::BadCertificate { file: f, number: 1, .. } if f == file));
}

/// The log says 14 days before that a certificate expires.
#[test]
fn a_certificate_that_expires_soon_is_warned_of() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    for (days, soon) in [(1, true), (13, true), (15, false)] {
        let mut short = params("short", &["broker.test"]);
        short.not_after =
            (std::time::SystemTime::now() + std::time::Duration::from_secs(days * 86_400)).into();
        let settings = TlsSettings::new(vec![files.pair("short", &ca.pair(&short))]);
        let (_, warnings) = load(&settings).unwrap();
        let is_soon = matches!(&warnings[..], [TlsWarning::ExpiresSoon { number: 1, .. }]);
        assert_eq!(is_soon, soon, "{days} days: {warnings:?}");
        assert_eq!(warnings.is_empty(), !soon);
    }
}

#[test]
fn expired_early_and_nameless_certificates_are_warned_of() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    let mut expired = params("expired", &["broker.test"]);
    expired.not_after = date_time_ymd(2020, 2, 29);
    let mut early = params("early", &["early.test"]);
    early.not_before = date_time_ymd(2999, 1, 1);
    early.not_after = date_time_ymd(3000, 1, 1);
    let settings = TlsSettings::new(vec![
        files.pair("expired", &ca.pair(&expired)),
        files.pair("early", &ca.pair(&early)),
        files.pair("nameless", &ca.pair(&params("nameless", &[]))),
    ]);
    let (_, warnings) = load(&settings).unwrap();
    let file = |name: &str| shown(&files.path(name));
    let expected = [
        TlsWarning::Expired {
            file: file("expired.crt"),
            number: 1,
            until: "2020-02-29T00:00:00Z".to_owned(),
        },
        TlsWarning::NotYetValid {
            file: file("early.crt"),
            number: 1,
            from: "2999-01-01T00:00:00Z".to_owned(),
        },
        TlsWarning::NoName { file: file("nameless.crt") },
    ];
    assert_eq!(warnings, expected);
    assert_eq!(
        warnings[0].to_string(),
        format!(
            "certificate 1 in {} has expired: it was valid until 2020-02-29T00:00:00Z; renew it",
            file("expired.crt")
        )
    );
}

#[test]
fn a_chain_with_an_intermediate_is_shown_whole() {
    let (files, ca) = (Files::new(), Ca::new("CA"));
    let mut middle = params("Intermediate", &[]);
    middle.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    middle.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let middle_key = KeyPair::generate().unwrap();
    let middle_certificate = ca.issue(&middle, &middle_key);
    let key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_params(&middle, &middle_key);
    let own = params("broker", &["broker.test"]).signed_by(&key, &issuer).unwrap();
    let chain = format!("{}{}", own.pem(), middle_certificate.pem());
    let settings = TlsSettings::new(vec![files.text_pair("a", &chain, &key.serialize_pem())]);
    let (config, warnings) = load(&settings).unwrap();
    assert_eq!(warnings, []);
    super::session::Session::open(&config, super::session::client(&ca, super::session::TLS13, None))
        .check_data();
    // The other way round, the key does not belong to the first.
    let swapped = format!("{}{}", middle_certificate.pem(), own.pem());
    let settings = TlsSettings::new(vec![files.text_pair("a", &swapped, &key.serialize_pem())]);
    assert!(matches!(refused(&settings), TlsError::KeyMismatch { .. }));
}
