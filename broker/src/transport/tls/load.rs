//! Turns the settings of a listener into a configuration for rustls: reads the files, checks that
//! they fit together, and says what is wrong or doubtful. The start, a reload and `--check-config`
//! call this; no shard does, because it reads files.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CommonState, HandshakeKind, InconsistentKeys, RootCertStore, ServerConfig};

use super::names::Certificates;
use super::pem;
use super::sessions::Sessions;
use super::settings::{
    CertificateFiles, ClientCertificates, Identity, TlsError, TlsSettings, TlsVersion, TlsWarning,
};
use super::x509;

/// A configuration that is ready for connections. It does not change; any thread may use it.
#[derive(Debug)]
pub(crate) struct TlsConfig {
    /// What rustls works with.
    pub(super) server: Arc<ServerConfig>,
    /// Checks certificates of clients, if they are asked for one.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    identity: Option<Identity>,
    /// When its certificates and those of its CA expire.
    pub(super) expiries: Vec<Expiry>,
}

/// When a certificate expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    /// Its file.
    file: String,
    /// Its place in the file, from 1.
    number: usize,
    /// The last second, since 1970, and as text.
    until: (u64, String),
}

impl Expiry {
    /// A warning, if it expires at or after `from` and has expired at `now`, both in seconds since
    /// 1970.
    pub fn between(&self, from: u64, now: u64) -> Option<TlsWarning> {
        let Expiry { file, number, until } = self;
        let expires = (from..now).contains(&until.0);
        expires.then(|| TlsWarning::Expired { file: file.clone(), number: *number, until: until.1.clone() })
    }
}

/// How long before it expires the log says so at a load, seconds: 14 days.
const SOON_S: u64 = 14 * 24 * 60 * 60;

impl TlsConfig {
    /// What of a client's certificate is its user name, as the settings say.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// The same with another configuration of rustls.
    #[cfg(test)]
    pub(super) fn with_server(&self, server: ServerConfig) -> TlsConfig {
        TlsConfig {
            server: Arc::new(server),
            verifier: self.verifier.clone(),
            identity: self.identity,
            expiries: Vec::new(),
        }
    }

    /// Checks the certificate of a client that has resumed a session. It was verified when the
    /// session began; meanwhile it may have expired or been revoked.
    ///
    /// # Errors
    /// Why it is no longer good.
    pub(super) fn check_resumed(&self, connection: &CommonState) -> Result<(), rustls::Error> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        match connection.peer_certificates() {
            Some([own, others @ ..]) => verifier.verify_client_cert(own, others, UnixTime::now()).map(|_| ()),
            _ if verifier.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            _ => Ok(()),
        }
    }
}

/// Reads and checks all files of the settings. Blocks for as long as that takes. Each call makes
/// new keys for tickets and an empty store of sessions: a session that began under other settings
/// is not resumed.
///
/// # Errors
/// [`TlsError`] if anything is wrong.
pub(crate) fn load(settings: &TlsSettings) -> Result<(Arc<TlsConfig>, Vec<TlsWarning>), TlsError> {
    check(settings)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut found = Found::default();
    let certificates = own_certificates(&settings.certificates, &provider, &mut found)?;
    let verifier = client_verifier(settings, &provider, &mut found)?;
    let versions: &[_] = match settings.version_min {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| TlsError::Settings { why: error.to_string() })?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(Arc::new(certificates));
    server.alpn_protocols = settings.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    resume(settings, &mut server)?;
    let Found { warnings, expiries } = found;
    let config = TlsConfig { server: Arc::new(server), verifier, identity: settings.identity, expiries };
    Ok((Arc::new(config), warnings))
}

/// What the files say beside what rustls needs.
#[derive(Default)]
struct Found {
    warnings: Vec<TlsWarning>,
    expiries: Vec<Expiry>,
}

/// What can be refused without a file.
fn check(settings: &TlsSettings) -> Result<(), TlsError> {
    if settings.certificates.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    if let Some(name) = settings.alpn.iter().find(|name| !(1..=255).contains(&name.len())) {
        return Err(TlsError::BadAlpn { name: name.clone() });
    }
    if settings.client_certificates == ClientCertificates::None {
        if let Some(file) = settings.client_ca.iter().chain(&settings.client_crl).next() {
            return Err(TlsError::ClientFileUnused { file: pem::name(file) });
        }
        if settings.identity.is_some() {
            return Err(TlsError::IdentityUnused);
        }
    } else if settings.client_ca.is_none() {
        return Err(TlsError::NoClientCa);
    }
    Ok(())
}

fn own_certificates(
    files: &[CertificateFiles],
    provider: &CryptoProvider,
    found: &mut Found,
) -> Result<Certificates, TlsError> {
    let mut certificates = Certificates::default();
    for (place, files) in files.iter().enumerate() {
        let file = pem::name(&files.chain);
        let chain = pem::certificates(&files.chain)?;
        let names = names_of(&chain, &file, found)?;
        if names.is_empty() && place > 0 {
            found.warnings.push(TlsWarning::NoName { file: file.clone() });
        }
        let key_file = pem::name(&files.key);
        let key = provider.key_provider.load_private_key(pem::key(&files.key)?);
        let key = key.map_err(|error| TlsError::BadKey { file: key_file.clone(), why: words(&error) })?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(TlsError::KeyMismatch { chain: file, key: key_file });
            }
            Err(error) => return Err(TlsError::BadCertificate { file, number: 1, why: words(&error) }),
        }
        certificates.add(Arc::new(pair), &names);
    }
    Ok(certificates)
}

/// Looks at each certificate of a file. Returns the DNS names of the first.
fn names_of(chain: &[CertificateDer<'_>], file: &str, found: &mut Found) -> Result<Vec<String>, TlsError> {
    let now = seconds_since_1970();
    let mut names = None;
    for (place, certificate) in chain.iter().enumerate() {
        let (file, number) = (file.to_owned(), place + 1);
        let read = match x509::own_certificate(certificate) {
            Ok(read) => read,
            Err(why) => return Err(TlsError::BadCertificate { file, number, why }),
        };
        let until = read.until.1.clone();
        found.expiries.push(Expiry { file: file.clone(), number, until: read.until.clone() });
        if now > read.until.0 {
            found.warnings.push(TlsWarning::Expired { file, number, until });
        } else if now < read.from.0 {
            found.warnings.push(TlsWarning::NotYetValid { file, number, from: read.from.1 });
        } else if now.saturating_add(SOON_S) > read.until.0 {
            found.warnings.push(TlsWarning::ExpiresSoon { file, number, until });
        }
        names.get_or_insert(read.names);
    }
    Ok(names.unwrap_or_default())
}

fn client_verifier(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    found: &mut Found,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(ca) = &settings.client_ca else { return Ok(None) };
    let file = pem::name(ca);
    let certificates = pem::certificates(ca)?;
    names_of(&certificates, &file, found)?;
    let mut roots = RootCertStore::empty();
    for (place, certificate) in certificates.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| TlsError::BadCertificate {
            file: file.clone(),
            number: place + 1,
            why: words(&error),
        })?;
    }
    let roots = Arc::new(roots);
    // An expired list says nothing about the present, so that its clients are refused, as OpenSSL
    // refuses them: whoever keeps new lists from reaching the broker must gain nothing by it.
    let empty = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        .only_check_end_entity_revocation()
        .enforce_revocation_expiration();
    let mut builder = match settings.client_certificates {
        ClientCertificates::Required => empty.clone(),
        _ => empty.clone().allow_unauthenticated(),
    };
    for path in &settings.client_crl {
        let file = pem::name(path);
        let lists = pem::revocation_lists(path)?;
        for list in &lists {
            match x509::next_update(list) {
                Ok(Some((due, text))) if seconds_since_1970() > due => {
                    found.warnings.push(TlsWarning::CrlExpired { file: file.clone(), due: text });
                }
                Ok(_) => {}
                Err(why) => return Err(TlsError::BadCrl { file, why }),
            }
        }
        // By itself, because the error for all lists does not say which one is meant.
        let alone = empty.clone().with_crls(lists.iter().cloned()).build();
        alone.map_err(|error| TlsError::BadCrl { file, why: error.to_string() })?;
        builder = builder.with_crls(lists);
    }
    let built = builder.build().map_err(|error| TlsError::Settings { why: error.to_string() })?;
    Ok(Some(built))
}

/// How clients resume sessions. Nothing of a store or of a key for tickets outlives this
/// configuration.
fn resume(settings: &TlsSettings, server: &mut ServerConfig) -> Result<(), TlsError> {
    server.session_storage = match settings.sessions_max {
        0 => Arc::new(NoServerSessionStorage {}),
        sessions_max => Arc::new(Sessions::new(sessions_max)),
    };
    if settings.tickets {
        server.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|error| TlsError::Settings { why: error.to_string() })?;
    }
    // One is enough: a client of MQTT comes back with one connection, and gets the next ticket
    // then.
    server.send_tls13_tickets = usize::from(settings.tickets || settings.sessions_max > 0);
    Ok(())
}

/// An error of rustls about a file, without the words about a peer.
fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::General(why) => why.clone(),
        rustls::Error::InvalidCertificate(why) => why.to_string(),
        other => other.to_string(),
    }
}

pub(super) fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}
