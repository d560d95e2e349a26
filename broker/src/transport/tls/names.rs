//! Chooses the certificate of the broker by the server name that a client asks for (SNI). rustls
//! calls this once in each handshake, on the thread of the connection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificates of a listener. The first is the default.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
    /// Places in `all`, by a name in lower case.
    exact: HashMap<String, Vec<usize>>,
    /// The same for names `*.rest`, by `rest`.
    wildcard: HashMap<String, Vec<usize>>,
}

thread_local! {
    /// The server name of the handshake that this thread has just worked on. rustls gives it to the
    /// resolver alone when its interface without buffers is used, and the resolver is shared by all
    /// connections.
    static ASKED_FOR: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Takes the server name that a client has asked for since the last call on this thread.
pub(super) fn take_asked_for() -> Option<Box<str>> {
    ASKED_FOR.take()
}

impl Certificates {
    /// Adds a certificate that is valid for these DNS names.
    pub(super) fn add(&mut self, certificate: Arc<CertifiedKey>, names: &[String]) {
        let place = self.all.len();
        self.all.push(certificate);
        for name in names {
            let name = normal(name);
            let (map, key) = match name.strip_prefix("*.") {
                Some(rest) => (&mut self.wildcard, rest.to_owned()),
                None => (&mut self.exact, name),
            };
            map.entry(key).or_default().push(place);
        }
    }

    /// The certificates for a name: those that have it before those with a wildcard, which stands
    /// for one label (RFC 6125, section 6.4.3).
    fn matching(&self, name: &str) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let name = normal(name);
        let exact = self.exact.get(&name);
        let wildcard = name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        exact.into_iter().chain(wildcard).flatten().filter_map(|&place| self.all.get(place))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        ASKED_FOR.set(name.map(Box::from));
        // A listener may have an RSA and an ECDSA certificate for the same name.
        let usable = |certificate: &&Arc<CertifiedKey>| {
            certificate.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        name.and_then(|name| self.matching(name).find(usable))
            .or_else(|| self.all.iter().find(usable))
            .or_else(|| self.all.first())
            .cloned()
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
