//! A client of rustls and a layer, which exchange bytes in memory.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::certificates::{Ca, Pair};
use crate::transport::tls::{TlsConfig, TlsLayer};
use crate::transport::{Layer as _, LayerError, PeerFacts, TlsFacts};

pub(super) static TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
pub(super) static TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// The configuration of a client that trusts the CA.
pub(super) fn client(
    ca: &Ca,
    version: &'static SupportedProtocolVersion,
    own: Option<&Pair>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        Some(pair) => {
            let key = PrivateKeyDer::try_from(pair.key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![pair.certificate.der().clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_secret_extraction = true;
    config
}

/// Both ends of a connection.
pub(super) struct Session {
    pub client: ClientConnection,
    pub layer: TlsLayer,
    /// What the layer has decrypted.
    pub above: Vec<u8>,
    /// What the client has decrypted.
    pub received: Vec<u8>,
    /// Why the client has ended the connection.
    pub client_error: Option<rustls::Error>,
}

impl Session {
    pub fn new(config: &Arc<TlsConfig>, client: ClientConfig) -> Session {
        Session::named(config, &Arc::new(client), "broker.test")
    }

    pub fn named(config: &Arc<TlsConfig>, client: &Arc<ClientConfig>, name: &str) -> Session {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Session {
            client: ClientConnection::new(Arc::clone(client), name).unwrap(),
            layer: TlsLayer::new(config).unwrap(),
            above: Vec::new(),
            received: Vec::new(),
            client_error: None,
        }
    }

    /// After a handshake that must succeed.
    pub fn open(config: &Arc<TlsConfig>, client: ClientConfig) -> Session {
        let mut session = Session::new(config, client);
        assert_eq!(session.exchange(), Ok(()));
        assert_eq!(session.client_error, None);
        assert!(session.layer.is_open());
        session
    }

    /// What the client wants to send.
    pub fn client_output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Gives bytes to the layer, and its answer to the client.
    pub fn feed_layer(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        let mut below = Vec::new();
        let result = self.layer.receive(bytes, &mut self.above, &mut below);
        self.feed_client(&below);
        result
    }

    pub fn feed_client(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.client_error.is_none() {
            if self.client.read_tls(&mut bytes).unwrap() == 0 {
                return;
            }
            self.client_error = self.client.process_new_packets().err();
            // The end of the data is an error of this reader.
            let _ = self.client.reader().read_to_end(&mut self.received);
        }
    }

    /// Until the client has nothing more to send.
    pub fn exchange(&mut self) -> Result<(), LayerError> {
        loop {
            let bytes = self.client_output();
            if bytes.is_empty() {
                return Ok(());
            }
            self.feed_layer(&bytes)?;
        }
    }

    /// The client sends data, and the layer gets it.
    pub fn client_sends(&mut self, data: &[u8]) -> Result<(), LayerError> {
        let mut rest = data;
        while !rest.is_empty() {
            let written = self.client.writer().write(rest).unwrap();
            rest = &rest[written..];
            self.exchange()?;
        }
        Ok(())
    }

    /// The layer sends data, and the client gets it.
    pub fn layer_sends(&mut self, data: &[u8]) {
        let mut below = Vec::new();
        assert_eq!(self.layer.send(data, &mut below), Ok(()));
        self.feed_client(&below);
    }

    pub fn facts(&self) -> TlsFacts {
        let mut facts = PeerFacts::default();
        self.layer.describe(&mut facts);
        TlsFacts::clone(&facts.tls.unwrap())
    }

    /// Data passes in both directions.
    pub fn check_data(&mut self) {
        let (above, received) = (self.above.len(), self.received.len());
        assert_eq!(self.client_sends(b"to the broker"), Ok(()));
        self.layer_sends(b"to the client");
        assert_eq!(&self.above[above..], b"to the broker");
        assert_eq!(&self.received[received..], b"to the client");
    }
}

/// The text of a refusal.
pub(super) fn refusal(result: Result<(), LayerError>) -> String {
    match result {
        Err(LayerError::Refused(why)) => why,
        other => panic!("not refused but {other:?}"),
    }
}
