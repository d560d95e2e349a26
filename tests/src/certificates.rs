//! Certificates of one test: an authority, the broker's certificate and one of a client, as files.
//! Used by `site.rs`, and by tests that give the files to other programs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;

/// Common name of the client's certificate.
pub const CLIENT_NAME: &str = "device-7";

/// The files of one test. They are deleted with it.
pub struct Certificates {
    folder: TempDir,
    authority: CertificateParams,
    authority_key: KeyPair,
}

impl Certificates {
    /// Makes all of them.
    ///
    /// # Panics
    /// If the folder for temporary files cannot be written.
    pub fn new() -> Certificates {
        let mut authority = params("Test CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate().expect("ring makes keys");
        let certificate = authority.self_signed(&authority_key).expect("the parameters are complete");
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let made = Certificates { folder, authority, authority_key };
        made.write("ca.pem", &certificate.pem());
        made.renew_server("grapnel");
        made.issue("client", params(CLIENT_NAME));
        made
    }

    /// Makes another certificate and key of the broker and puts them into the place of the old
    /// ones. It is for `localhost` and 127.0.0.1; `common_name` tells it from others.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn renew_server(&self, common_name: &str) {
        let mut server = params(common_name);
        server.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into().expect("plain ASCII")),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        self.issue("server", server);
        // What haproxy reads: both in one file.
        let both =
            [self.server(), self.server_key()].map(|path| std::fs::read_to_string(path).expect("ours"));
        self.write("both.pem", &both.concat());
    }

    fn issue(&self, name: &str, mut params: CertificateParams) {
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("ring makes keys");
        let issuer = Issuer::from_params(&self.authority, &self.authority_key);
        let certificate = params.signed_by(&key, &issuer).expect("the parameters are complete");
        self.write(&format!("{name}.key"), &key.serialize_pem());
        self.write(&format!("{name}.pem"), &certificate.pem());
    }

    /// Writes a file as tools for certificates do: under another name first, so that a reader never
    /// sees half of it.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).expect("the folder is ours");
        std::fs::rename(&new, self.path(name)).expect("the folder is ours");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of the files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The broker's certificate.
    pub fn server(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// The broker's key.
    pub fn server_key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// The broker's certificate and key in one file.
    pub fn server_both(&self) -> PathBuf {
        self.path("both.pem")
    }

    /// The certificate of the client, whose common name is [`CLIENT_NAME`].
    pub fn client(&self) -> PathBuf {
        self.path("client.pem")
    }

    /// The key of the client.
    pub fn client_key(&self) -> PathBuf {
        self.path("client.key")
    }

    /// Settings of a TLS client that trusts the authority, shows the client's certificate if
    /// `shows`, and speaks only these versions.
    ///
    /// # Panics
    /// Never with files that this struct has made.
    pub fn client_config(
        &self,
        shows: bool,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.authority()).expect("ours");
        roots.add(authority).expect("it is an authority");
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("ring has suites for both")
            .with_root_certificates(roots);
        Arc::new(if shows {
            let certificate = CertificateDer::from_pem_file(self.client()).expect("ours");
            let key = PrivateKeyDer::from_pem_file(self.client_key()).expect("ours");
            builder.with_client_auth_cert(vec![certificate], key).expect("they belong together")
        } else {
            builder.with_no_client_auth()
        })
    }
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new()
    }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
