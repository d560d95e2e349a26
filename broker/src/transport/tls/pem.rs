//! Reads certificates, keys and revocation lists from PEM files. `load` calls this at start and at
//! a reload, never a shard. Each error names the file and what to do.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::settings::TlsError;

/// More than any chain, CA bundle or key has, bytes. Distributions ship bundles of 250 KiB.
pub(super) const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;
/// More than common revocation lists have, bytes.
pub(super) const CRL_BYTES_MAX: u64 = 64 << 20;

/// All certificates of a file, at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(file, CERTIFICATES_BYTES_MAX, "certificates")?;
    let found = sections(file, &text)?;
    if found.is_empty() {
        return Err(TlsError::NoSection {
            file: name(file),
            what: "certificate",
            label: "CERTIFICATE",
            command: "x509",
        });
    }
    Ok(found)
}

/// All revocation lists of a file, at least one.
pub(super) fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let text = read(file, CRL_BYTES_MAX, "a revocation list")?;
    let found = sections(file, &text)?;
    if found.is_empty() {
        return Err(TlsError::NoSection {
            file: name(file),
            what: "revocation list",
            label: "X509 CRL",
            command: "crl",
        });
    }
    Ok(found)
}

/// The first private key of a file.
pub(super) fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(file, CERTIFICATES_BYTES_MAX, "a key")?;
    // PKCS#8 says so in its label, and the old forms of OpenSSL in a header.
    if contains(&text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(&text, b"Proc-Type: 4,ENCRYPTED")
    {
        return Err(TlsError::EncryptedKey { file: name(file) });
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(TlsError::NoSection {
            file: name(file),
            what: "private key",
            label: "PRIVATE KEY",
            command: "pkey",
        }),
        Err(error) => Err(damaged(file, &error)),
    }
}

/// The file as errors and warnings name it.
pub(super) fn name(file: &Path) -> String {
    file.display().to_string()
}

fn sections<T: PemObject>(file: &Path, text: &[u8]) -> Result<Vec<T>, TlsError> {
    T::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| damaged(file, &error))
}

fn damaged(file: &Path, error: &pem::Error) -> TlsError {
    let why = match error {
        // rustls prints the label as a list of numbers.
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("it ends before \"{}\"; is it still being written?", end_marker.escape_ascii())
        }
        error => error.to_string(),
    };
    TlsError::BadPem { file: name(file), why }
}

fn read(file: &Path, bytes_max: u64, what: &'static str) -> Result<Vec<u8>, TlsError> {
    let unreadable = |why: String| TlsError::Unreadable { file: name(file), why };
    let metadata = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?;
    // A pipe would let the start wait for ever.
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".to_owned()));
    }
    let opened = File::open(file).map_err(|error| unreadable(error.to_string()))?;
    let mut text = Vec::new();
    opened.take(bytes_max + 1).read_to_end(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > bytes_max {
        return Err(TlsError::TooLarge { file: name(file), bytes_max, what });
    }
    Ok(text)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
