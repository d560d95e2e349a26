//! What events show of a client's TLS connection, for the description of the client.

/// The TLS connection of an event's client, if there is one.
macro_rules! tls {
    ($event:expr) => {{
        let event = &*$event;
        let text = Option::unwrap_or_default;
        let certificate = event.tls_fingerprint().map(|fingerprint| $crate::clients::CertificateDetails {
            subject: text(event.tls_subject()),
            common_name: text(event.tls_common_name()),
            alternative_names: event.tls_alternative_names().collect(),
            issuer: text(event.tls_issuer()),
            serial: text(event.tls_serial()),
            fingerprint,
        });
        let version = event.tls_version();
        (version.is_some() || certificate.is_some()).then(|| $crate::clients::TlsDetails {
            version: text(version),
            cipher: text(event.tls_cipher()),
            server_name: text(event.tls_server_name()),
            certificate,
        })
    }};
}

pub(super) use tls;
