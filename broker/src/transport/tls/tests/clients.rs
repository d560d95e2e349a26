//! Certificates of clients: asked for or not, good or bad, revoked.

use rcgen::{CertificateParams, SerialNumber, date_time_ymd};
use rustls::{AlertDescription, Error};

use super::certificates::{Ca, Listener, Pair, params};
use super::session::{Session, TLS12, TLS13, client, refusal};
use crate::transport::Layer as _;
use crate::transport::tls::{ClientCertificates, TlsWarning, load};

fn numbered(serial: u64) -> CertificateParams {
    let mut params = params("device", &[]);
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

/// Connects with a certificate, in both versions. Returns the refusal and the alert, if refused.
fn connect(listener: &Listener, own: Option<&Pair>) -> Option<(String, Option<AlertDescription>)> {
    let (config, _) = load(&listener.settings).unwrap();
    let mut results = [TLS12, TLS13].map(|version| {
        let mut session = Session::new(&config, client(&listener.ca, version, own));
        match session.exchange() {
            Ok(()) => {
                session.check_data();
                assert_eq!(session.facts().certificate.is_some(), own.is_some() && asks(listener));
                None
            }
            refused => {
                assert!(!session.layer.is_open());
                let alert = match session.client_error {
                    Some(Error::AlertReceived(alert)) => Some(alert),
                    _ => None,
                };
                Some((refusal(refused), alert))
            }
        }
    });
    let [_, last] = &mut results;
    let last = last.take();
    assert_eq!(results[0].is_some(), last.is_some(), "both versions agree");
    last
}

fn asks(listener: &Listener) -> bool {
    listener.settings.client_certificates != ClientCertificates::None
}

#[test]
fn a_certificate_is_shown_only_where_it_is_asked_for() {
    for mode in [ClientCertificates::None, ClientCertificates::Optional, ClientCertificates::Required] {
        let listener = match mode {
            ClientCertificates::None => Listener::new(),
            _ => Listener::with_clients(mode),
        };
        let good = listener.ca.pair(&params("device", &[]));
        assert_eq!(connect(&listener, Some(&good)), None);
        let without = connect(&listener, None);
        if mode == ClientCertificates::Required {
            let (why, alert) = without.unwrap();
            assert_eq!(why, "TLS: peer sent no certificates");
            assert_eq!(alert, Some(AlertDescription::CertificateRequired));
        } else {
            assert_eq!(without, None);
        }
    }
}

#[test]
fn a_bad_certificate_is_refused_even_where_none_is_needed() {
    for mode in [ClientCertificates::Optional, ClientCertificates::Required] {
        let listener = Listener::with_clients(mode);
        // The same name as the CA of the listener, and another key.
        let foreign = Ca::new("Test CA").pair(&params("device", &[]));
        let (why, alert) = connect(&listener, Some(&foreign)).unwrap();
        assert!(why.starts_with("TLS: invalid peer certificate: "), "{why}");
        assert!(alert.is_some());
        let mut expired = params("device", &[]);
        expired.not_after = date_time_ymd(2020, 1, 1);
        let (why, alert) = connect(&listener, Some(&listener.ca.pair(&expired))).unwrap();
        assert!(why.starts_with("TLS: invalid peer certificate: certificate expired"), "{why}");
        assert_eq!(alert, Some(AlertDescription::CertificateExpired));
        let mut early = params("device", &[]);
        early.not_before = date_time_ymd(2999, 1, 1);
        early.not_after = date_time_ymd(3000, 1, 1);
        let (why, _) = connect(&listener, Some(&listener.ca.pair(&early))).unwrap();
        assert!(why.contains("not valid yet"), "{why}");
    }
}

#[test]
fn a_revoked_certificate_is_refused() {
    let mut listener = Listener::with_clients(ClientCertificates::Required);
    let crl = listener.ca.crl(&[7], 2999);
    listener.settings.client_crl = vec![listener.files.write("crl.pem", &crl)];
    assert_eq!(connect(&listener, Some(&listener.ca.pair(&numbered(8)))), None);
    let (why, alert) = connect(&listener, Some(&listener.ca.pair(&numbered(7)))).unwrap();
    assert_eq!(why, "TLS: invalid peer certificate: Revoked");
    assert_eq!(alert, Some(AlertDescription::CertificateRevoked));
}

#[test]
fn an_expired_list_or_a_missing_one_refuses_every_certificate_of_its_issuer() {
    let mut listener = Listener::with_clients(ClientCertificates::Optional);
    let expired = listener.files.write("crl.pem", &listener.ca.crl(&[7], 2020));
    listener.settings.client_crl = vec![expired.clone()];
    let (_, warnings) = load(&listener.settings).unwrap();
    let file = super::certificates::shown(&expired);
    assert_eq!(warnings, [TlsWarning::CrlExpired { file, due: "2020-01-01T00:00:00Z".to_owned() }]);
    let good = listener.ca.pair(&numbered(8));
    let (why, _) = connect(&listener, Some(&good)).unwrap();
    assert!(why.contains("revocation list expired") || why.contains("ExpiredRevocationList"), "{why}");
    // Who shows none is not concerned.
    assert_eq!(connect(&listener, None), None);
    let foreign = Ca::new("Another").crl(&[], 2999);
    listener.settings.client_crl = vec![listener.files.write("crl.pem", &foreign)];
    let (why, _) = connect(&listener, Some(&good)).unwrap();
    assert_eq!(why, "TLS: invalid peer certificate: UnknownRevocationStatus");
}
