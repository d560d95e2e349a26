//! Certificates and keys from PEM files, and the verifier that trusts every broker. Only `args`
//! calls it.

use anyhow::{Context, Result, anyhow, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// The CAs of `--cafile`.
pub fn roots(cafile: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--cafile", cafile)? {
        roots.add(certificate).with_context(|| {
            format!("--cafile {} has a certificate that is not one of a CA", cafile.display())
        })?;
    }
    Ok(roots)
}

/// The certificate of the clients and those of the CAs behind it.
pub fn chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>> {
    certificates("--cert", cert)
}

fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| anyhow!("cannot read {option} {}: {error}", file.display()))?;
    ensure!(
        !certificates.is_empty(),
        "{option} {} has no certificate; it must be a PEM file with BEGIN CERTIFICATE",
        file.display()
    );
    Ok(certificates)
}

/// The key of the clients.
pub fn key(key: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(key).map_err(|error| {
        anyhow!(
            "cannot read --key {}: {error}; it must be a PEM file with a key that is not encrypted",
            key.display()
        )
    })
}

/// Trusts every certificate. Signatures are still checked, as they are part of what a handshake
/// costs.
#[derive(Debug)]
pub struct TrustAll(pub Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
