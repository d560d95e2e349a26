//! What a listener says about TLS, and why it may be refused. `load` reads the files that are named
//! here; the configuration of the broker fills the fields. Nothing here reads a file.

use std::path::PathBuf;

/// How a listener uses TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    /// Certificates of the broker, with their keys. The first is shown to a client whose server
    /// name no certificate has, and to a client that sends none. At least one.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// PEM file with the CA certificates that certificates of clients must come from. Needed if
    /// `client_certificates` is not [`ClientCertificates::None`], and refused otherwise.
    pub client_ca: Option<PathBuf>,
    /// PEM files with certificate revocation lists. If there is one, each CA that has issued a
    /// client's certificate must have a list in these files.
    pub client_crl: Vec<PathBuf>,
    /// The oldest version of TLS that is accepted.
    pub version_min: TlsVersion,
    /// Names of protocols (ALPN), the preferred one first, 1 to 255 bytes each. A client that
    /// offers names, and none of these, is refused (RFC 7301, section 3.2). A client that offers
    /// none is accepted. With an empty list, the offer of a client is ignored.
    pub alpn: Vec<String>,
    /// Whether clients get tickets, with which they come back without a full handshake. The broker
    /// remembers nothing for a ticket.
    pub tickets: bool,
    /// Sessions that the broker remembers for clients that come back and have no ticket; 0 is none.
    /// Each takes up to [`super::sessions::SESSION_BYTES_MAX`] bytes.
    pub sessions_max: usize,
    /// What of a client's certificate is its user name; `None` is nothing. Needs certificates of
    /// clients.
    pub identity: Option<Identity>,
}

/// Name that MQTT has in the list of ALPN protocols of IANA.
pub(crate) const ALPN_MQTT: &str = "mqtt";
/// Name that a WebSocket client offers, whose connection begins as HTTP/1.1.
pub(crate) const ALPN_WEBSOCKET: &str = "http/1.1";
/// Default of [`TlsSettings::sessions_max`].
pub(crate) const SESSIONS_DEFAULT: usize = 1024;

impl TlsSettings {
    /// The defaults: no certificate yet, no certificates of clients, TLS 1.2 and newer, ALPN
    /// `mqtt`, tickets.
    pub fn new(certificates: Vec<CertificateFiles>) -> TlsSettings {
        TlsSettings {
            certificates,
            client_certificates: ClientCertificates::None,
            client_ca: None,
            client_crl: Vec::new(),
            version_min: TlsVersion::V1_2,
            alpn: vec![ALPN_MQTT.to_owned()],
            tickets: true,
            sessions_max: SESSIONS_DEFAULT,
            identity: None,
        }
    }

    /// Every file that is read, in the order of the settings.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for certificate in &self.certificates {
            files.push(certificate.chain.clone());
            files.push(certificate.key.clone());
        }
        files.extend(self.client_ca.clone());
        files.extend(self.client_crl.iter().cloned());
        files
    }
}

/// One certificate of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    /// PEM file: the certificate of the broker, then the CAs between it and a root.
    pub chain: PathBuf,
    /// PEM file with its private key: PKCS#8, PKCS#1 (RSA) or SEC1 (ECDSA), not encrypted.
    pub key: PathBuf,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// They are asked. One without a certificate is accepted; one with a bad certificate is not.
    Optional,
    /// One without a certificate is refused.
    Required,
}

/// A version of TLS. Older ones are not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    #[default]
    V1_2,
    /// TLS 1.3, RFC 8446.
    V1_3,
}

/// What of a certificate is the client's user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// `cn`: the last common name of the subject.
    CommonName,
    /// `san`: the first subject alternative name, without its kind.
    AlternativeName,
    /// `subject`: the whole subject, as RFC 4514 writes it.
    Subject,
}

impl Identity {
    /// Its word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Identity::CommonName => "cn",
            Identity::AlternativeName => "san",
            Identity::Subject => "subject",
        }
    }
}

/// Why TLS settings are refused. Each text is one sentence that names the file and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TlsError {
    /// No certificate at all.
    #[error("a TLS listener needs at least one certificate: name the files of a chain and of its key")]
    NoCertificate,
    /// The file cannot be read.
    #[error("cannot read {file}: {why}; it must be a file that the user of the broker may read")]
    Unreadable { file: String, why: String },
    /// The file is too large to be what it should be.
    #[error("{file} has more than {bytes_max} bytes, which is too much for {what}; name another file")]
    TooLarge { file: String, bytes_max: u64, what: &'static str },
    /// There is no section of the kind in the file.
    #[error(
        "{file} has no {what} in PEM form (no line -----BEGIN {label}-----); name another file, or \
         convert it with `openssl {command} -inform DER -in {file} -out NEW`"
    )]
    NoSection { file: String, what: &'static str, label: &'static str, command: &'static str },
    /// A section of the file is damaged.
    #[error("{file} is not a correct PEM file: {why}; write it anew")]
    BadPem { file: String, why: String },
    /// The key has a passphrase.
    #[error(
        "the key in {file} is encrypted, and the broker cannot enter a passphrase; write it without \
         one: `openssl pkey -in {file} -out NEW`"
    )]
    EncryptedKey { file: String },
    /// The key is damaged, or of a kind that is not supported.
    #[error(
        "the key in {file} cannot be used: {why}; use RSA with 2048 to 4096 bits, ECDSA on P-256 or \
         P-384, or Ed25519"
    )]
    BadKey { file: String, why: String },
    /// Key and certificate are not a pair.
    #[error(
        "the key in {key} does not belong to the first certificate in {chain}; put the broker's own \
         certificate first, and compare `openssl pkey -in {key} -pubout` with `openssl x509 -in \
         {chain} -noout -pubkey`"
    )]
    KeyMismatch { chain: String, key: String },
    /// A certificate cannot be used.
    #[error(
        "certificate {number} in {file} cannot be used: {why}; look at it with `openssl x509 -in \
         {file} -noout -text`, and replace it"
    )]
    BadCertificate { file: String, number: usize, why: String },
    /// A revocation list cannot be used.
    #[error(
        "the revocation list in {file} cannot be used: {why}; look at it with `openssl crl -in {file} \
         -noout -text`, and replace it"
    )]
    BadCrl { file: String, why: String },
    /// Clients should show certificates, and no CA is named.
    #[error(
        "certificates of clients cannot be checked without a CA: name the file with the CA \
         certificates, or ask clients for none"
    )]
    NoClientCa,
    /// A CA or a revocation list is named, and clients are not asked for certificates.
    #[error(
        "{file} is for certificates of clients, which this listener does not ask for; ask for them \
         (optional or required), or leave the file out"
    )]
    ClientFileUnused { file: String },
    /// An identity from certificates that clients are not asked for.
    #[error(
        "the identity cannot come from certificates that this listener does not ask for; ask \
         clients for them (optional or required), or leave the identity out"
    )]
    IdentityUnused,
    /// A name of a protocol has a wrong length.
    #[error(
        "the ALPN name `{name}` has {} bytes; use a name with 1 to 255 bytes, such as `mqtt`",
        .name.len()
    )]
    BadAlpn { name: String },
    /// rustls does not accept the whole.
    #[error("these TLS settings cannot be used: {why}; check the versions and files of the listener")]
    Settings { why: String },
    /// A reload has failed.
    #[error("{0}; what was loaded before stays in force")]
    Kept(Box<TlsError>),
}

/// What an operator should know about settings that are in force nevertheless. The text is for the
/// log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TlsWarning {
    /// A certificate of the broker or of a CA has expired.
    #[error("certificate {number} in {file} has expired: it was valid until {until}; renew it")]
    Expired { file: String, number: usize, until: String },
    /// A certificate of the broker or of a CA expires soon.
    #[error("certificate {number} in {file} expires at {until}; renew it before")]
    ExpiresSoon { file: String, number: usize, until: String },
    /// A certificate of the broker or of a CA is not valid yet.
    #[error("certificate {number} in {file} is not valid before {from}; check the clock of this machine")]
    NotYetValid { file: String, number: usize, from: String },
    /// Clients cannot choose this certificate, because it has no name.
    #[error(
        "the certificate in {file} has no DNS name (subject alternative name) and is not the first of \
         its listener, so that no client can choose it; issue it with a name"
    )]
    NoName { file: String },
    /// A revocation list has expired.
    #[error(
        "the revocation list in {file} has expired: its next update was due at {due}; clients with \
         certificates of its issuer are refused until you replace it"
    )]
    CrlExpired { file: String, due: String },
}
