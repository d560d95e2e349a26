//! The TLS connection of a client as a part of its identity, borrowed from the broker or from an
//! identity's bytes. `identity.rs` writes and reads it.

use super::cursor::Cursor;

/// What is known of a client's TLS connection. A text is empty where it is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsIdentity<'a> {
    /// Protocol version, such as `TLSv1.3`.
    pub version: &'a str,
    /// Cipher suite, by its IANA name.
    pub cipher: &'a str,
    /// The server name that the client asked for (SNI).
    pub server_name: &'a str,
    /// The client's certificate, if it has shown one that was verified.
    pub certificate: Option<CertificateIdentity<'a>>,
}

/// What is known of a client's certificate. A text is empty where it is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CertificateIdentity<'a> {
    /// Subject, as RFC 4514 writes it.
    pub subject: &'a str,
    /// The last common name of the subject.
    pub common_name: &'a str,
    /// Subject alternative names: `DNS:…`, `URI:…`, `email:…`, `IP:…`.
    pub alternative_names: Names<'a>,
    /// Issuer, as RFC 4514 writes it.
    pub issuer: &'a str,
    /// Serial number, hexadecimal in lower case.
    pub serial: &'a str,
    /// SHA-256 of the certificate (DER), hexadecimal in lower case.
    pub fingerprint: &'a str,
}

/// A list of texts.
#[derive(Clone, Copy)]
pub struct Names<'a>(Inner<'a>);

#[derive(Clone, Copy)]
enum Inner<'a> {
    Listed(&'a [String]),
    /// Texts with their lengths in front; checked.
    Encoded(&'a [u8]),
}

/// Values of the byte in front of what is known.
const NONE: u8 = 0;
const WITHOUT_CERTIFICATE: u8 = 1;
const WITH_CERTIFICATE: u8 = 2;

/// Bytes of the length of a text.
const LENGTH: usize = 4;

impl<'a> Names<'a> {
    /// These texts.
    pub fn of(names: &'a [String]) -> Names<'a> {
        Names(Inner::Listed(names))
    }

    /// The texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (listed, encoded): (&[String], &[u8]) = match self.0 {
            Inner::Listed(names) => (names, &[]),
            Inner::Encoded(bytes) => (&[], bytes),
        };
        let mut rest = Cursor(encoded);
        listed.iter().map(String::as_str).chain(std::iter::from_fn(move || rest.text()))
    }
}

impl PartialEq for Names<'_> {
    fn eq(&self, other: &Names<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Names<'_> {}

impl std::fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> TlsIdentity<'a> {
    /// How many bytes [`TlsIdentity::encode`] appends for it.
    pub(super) fn encoded_len(tls: Option<&TlsIdentity<'_>>) -> usize {
        let Some(tls) = tls else { return 1 };
        let texts = tls.texts().map(|text| LENGTH + text.len()).into_iter().sum::<usize>();
        let certificate = tls.certificate.map_or(0, |certificate| {
            let texts = certificate.texts().map(|text| LENGTH + text.len());
            texts.into_iter().sum::<usize>() + LENGTH + certificate.names_len()
        });
        1 + texts + certificate
    }

    pub(super) fn encode(tls: Option<&TlsIdentity<'_>>, out: &mut Vec<u8>) {
        let Some(tls) = tls else { return out.push(NONE) };
        out.push(if tls.certificate.is_some() { WITH_CERTIFICATE } else { WITHOUT_CERTIFICATE });
        tls.texts().into_iter().for_each(|text| put(out, text));
        let Some(certificate) = &tls.certificate else { return };
        certificate.texts().into_iter().for_each(|text| put(out, text));
        out.extend((certificate.names_len() as u32).to_le_bytes());
        certificate.alternative_names.iter().for_each(|name| put(out, name));
    }

    /// Reads what [`TlsIdentity::encode`] has written; `None` for any other bytes.
    pub(super) fn read(rest: &mut Cursor<'a>) -> Option<Option<TlsIdentity<'a>>> {
        let [kind] = rest.array()?;
        if kind == NONE {
            return Some(None);
        }
        let (version, cipher, server_name) = (rest.text()?, rest.text()?, rest.text()?);
        let certificate = match kind {
            WITHOUT_CERTIFICATE => None,
            WITH_CERTIFICATE => Some(CertificateIdentity::read(rest)?),
            _ => return None,
        };
        Some(Some(TlsIdentity { version, cipher, server_name, certificate }))
    }

    fn texts(&self) -> [&'a str; 3] {
        [self.version, self.cipher, self.server_name]
    }
}

impl<'a> CertificateIdentity<'a> {
    fn texts(&self) -> [&'a str; 5] {
        [self.subject, self.common_name, self.issuer, self.serial, self.fingerprint]
    }

    fn names_len(&self) -> usize {
        self.alternative_names.iter().map(|name| LENGTH + name.len()).sum()
    }

    fn read(rest: &mut Cursor<'a>) -> Option<CertificateIdentity<'a>> {
        let (subject, common_name) = (rest.text()?, rest.text()?);
        let (issuer, serial, fingerprint) = (rest.text()?, rest.text()?, rest.text()?);
        let names = rest.part()?;
        let mut unread = Cursor(names);
        while !unread.0.is_empty() {
            unread.text()?;
        }
        let alternative_names = Names(Inner::Encoded(names));
        Some(CertificateIdentity { subject, common_name, alternative_names, issuer, serial, fingerprint })
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}
