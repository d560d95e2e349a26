//! Makes certificates, keys and revocation lists for the other tests, in files of a folder of their
//! own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use tempfile::TempDir;

use crate::transport::tls::{CertificateFiles, ClientCertificates, TlsConfig, TlsSettings, load};

pub(super) const RSA: &str = include_str!("keys/rsa.pem");
pub(super) const RSA_PKCS1: &str = include_str!("keys/rsa-pkcs1.pem");
pub(super) const P256: &str = include_str!("keys/p256.pem");
pub(super) const P256_SEC1: &str = include_str!("keys/p256-sec1.pem");
pub(super) const ENCRYPTED: &str = include_str!("keys/encrypted.pem");
pub(super) const ENCRYPTED_PKCS1: &str = include_str!("keys/encrypted-pkcs1.pem");

/// A certification authority.
pub(super) struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pub certificate: Certificate,
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Ca { params, key, certificate }
    }

    pub fn issue(&self, params: &CertificateParams, key: &KeyPair) -> Certificate {
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap()
    }

    /// A certificate with a new key.
    pub fn pair(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair { certificate: self.issue(params, &key), key }
    }

    /// A list that has revoked these serial numbers, with the year of its next update.
    pub fn crl(&self, revoked: &[u64], next_update: i32) -> String {
        let revoked = revoked.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2019, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap().pem().unwrap()
    }
}

/// A certificate with its key.
pub(super) struct Pair {
    pub certificate: Certificate,
    pub key: KeyPair,
}

/// A certificate for a common name and DNS names, valid for long.
pub(super) fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// The files of one test.
pub(super) struct Files(TempDir);

impl Files {
    pub fn new() -> Files {
        Files(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file as tools for certificates do: under another name first, so that it gets a new
    /// inode.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }

    pub fn pair(&self, name: &str, pair: &Pair) -> CertificateFiles {
        self.text_pair(name, &pair.certificate.pem(), &pair.key.serialize_pem())
    }

    pub fn text_pair(&self, name: &str, chain: &str, key: &str) -> CertificateFiles {
        CertificateFiles {
            chain: self.write(&format!("{name}.crt"), chain),
            key: self.write(&format!("{name}.key"), key),
        }
    }
}

/// A listener that the CA has issued a certificate `broker.test` for.
pub(super) struct Listener {
    pub files: Files,
    pub ca: Ca,
    pub settings: TlsSettings,
}

impl Listener {
    pub fn new() -> Listener {
        let (files, ca) = (Files::new(), Ca::new("Test CA"));
        let pair = ca.pair(&params("broker", &["broker.test"]));
        let settings = TlsSettings::new(vec![files.pair("broker", &pair)]);
        Listener { files, ca, settings }
    }

    /// The same, for clients with certificates of the same CA.
    pub fn with_clients(mode: ClientCertificates) -> Listener {
        let mut listener = Listener::new();
        listener.settings.client_certificates = mode;
        listener.settings.client_ca = Some(listener.files.write("ca.crt", &listener.ca.certificate.pem()));
        listener
    }

    pub fn load(&self) -> Arc<TlsConfig> {
        let (config, warnings) = load(&self.settings).unwrap();
        assert_eq!(warnings, []);
        config
    }
}

/// The text of a file name in an error.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}
