//! Reads certificates: who they are for, and how long they are valid. Of a client's certificate
//! this is called once it has been verified, and of the broker's own ones when they are loaded.
//!
//! The parser is x509-cert of RustCrypto: pure Rust without `unsafe`, kept together with the other
//! formats of that project, and with a third of the dependencies of x509-parser. The names are
//! written here, because the order and escapes of RFC 4514 decide who a client is.
//!
//! The work is linear in the size of a certificate, except that x509-cert sorts the attributes of
//! one set. So very large certificates of clients are not read.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{Decode, Encode as _, Reader as _, SliceReader, Tag, Tagged as _};
use x509_cert::name::{Name, RelativeDistinguishedName};

use crate::transport::CertificateFacts;

/// Alternative names of a certificate beyond this number are left out of its facts.
pub(super) const ALTERNATIVE_NAMES_MAX: usize = 64;

/// Of a client's certificate with more bytes, only the fingerprint is known. Sorting as many
/// attributes as fit into this takes about 4 ms, and common certificates have 1 to 2 KiB.
pub(super) const CERTIFICATE_BYTES_MAX: usize = 16 << 10;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALTERNATIVE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// The names of attributes: those of RFC 4514, section 3, and six more that are registered and that
/// OpenSSL writes too.
const ATTRIBUTES: [(ObjectIdentifier, &str); 15] = [
    (COMMON_NAME, "CN"),
    (ObjectIdentifier::new_unwrap("2.5.4.7"), "L"),
    (ObjectIdentifier::new_unwrap("2.5.4.8"), "ST"),
    (ObjectIdentifier::new_unwrap("2.5.4.10"), "O"),
    (ObjectIdentifier::new_unwrap("2.5.4.11"), "OU"),
    (ObjectIdentifier::new_unwrap("2.5.4.6"), "C"),
    (ObjectIdentifier::new_unwrap("2.5.4.9"), "STREET"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25"), "DC"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1"), "UID"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"), "emailAddress"),
    (ObjectIdentifier::new_unwrap("2.5.4.5"), "serialNumber"),
    (ObjectIdentifier::new_unwrap("2.5.4.4"), "SN"),
    (ObjectIdentifier::new_unwrap("2.5.4.42"), "GN"),
    (ObjectIdentifier::new_unwrap("2.5.4.12"), "title"),
    (ObjectIdentifier::new_unwrap("2.5.4.46"), "dnQualifier"),
];

/// What is known of a client's certificate. If it cannot be read here, or has more than
/// [`CERTIFICATE_BYTES_MAX`], only the fingerprint is known.
pub(super) fn facts(certificate: &[u8]) -> CertificateFacts {
    let fingerprint = hexadecimal(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref());
    let read = (certificate.len() <= CERTIFICATE_BYTES_MAX).then(|| Certificate::from_der(certificate));
    let Some(Ok(read)) = read else {
        return CertificateFacts { fingerprint, ..CertificateFacts::default() };
    };
    let known = read.tbs_certificate();
    CertificateFacts {
        subject: distinguished_name(known.subject()),
        common_name: common_name(known.subject()),
        alternative_names: alternative_names(&read),
        issuer: distinguished_name(known.issuer()),
        serial: hexadecimal(known.serial_number().as_bytes()),
        fingerprint,
    }
}

/// DNS names and validity of a certificate of the broker or of a CA.
pub(super) struct OwnCertificate {
    /// The DNS names among its subject alternative names.
    pub names: Vec<String>,
    /// Seconds since 1970 from which on it is valid, and the same in words.
    pub from: (u64, String),
    /// The last second at which it is valid, and the same in words.
    pub until: (u64, String),
}

/// Reads a certificate of the broker or of a CA.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn own_certificate(certificate: &[u8]) -> Result<OwnCertificate, String> {
    let read = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let validity = read.tbs_certificate().validity();
    let names = alternative_names(&read);
    Ok(OwnCertificate {
        names: names.iter().filter_map(|name| name.strip_prefix("DNS:")).map(str::to_owned).collect(),
        from: (
            validity.not_before.to_unix_duration().as_secs(),
            validity.not_before.to_date_time().to_string(),
        ),
        until: (
            validity.not_after.to_unix_duration().as_secs(),
            validity.not_after.to_date_time().to_string(),
        ),
    })
}

/// When the next update of a revocation list was announced for: seconds since 1970, and in words.
/// `None` if it does not say.
///
/// # Errors
/// What is wrong with the list, in words.
pub(super) fn next_update(list: &[u8]) -> Result<Option<(u64, String)>, String> {
    let read = <x509_cert::crl::CertificateList>::from_der(list).map_err(|error| error.to_string())?;
    let due = read.tbs_cert_list.next_update;
    Ok(due.map(|due| (due.to_unix_duration().as_secs(), due.to_date_time().to_string())))
}

/// A name as RFC 4514 writes it: the last part first.
fn distinguished_name(name: &Name) -> String {
    let mut text = String::new();
    let parts: Vec<&RelativeDistinguishedName> = name.iter_rdn().collect();
    for (place, part) in parts.into_iter().rev().enumerate() {
        if place > 0 {
            text.push(',');
        }
        for (place, attribute) in part.iter().enumerate() {
            if place > 0 {
                text.push('+');
            }
            write_attribute(attribute, &mut text);
        }
    }
    text
}

/// RFC 4514, section 2.3 and 2.4.
fn write_attribute(attribute: &AttributeTypeAndValue, text: &mut String) {
    let known = ATTRIBUTES.iter().find(|(identifier, _)| *identifier == attribute.oid);
    match (known, value_text(attribute)) {
        (Some((_, name)), Some(value)) => {
            text.push_str(name);
            text.push('=');
            write_escaped(&value, text);
        }
        (known, _) => {
            match known {
                Some((_, name)) => text.push_str(name),
                None => text.push_str(&attribute.oid.to_string()),
            }
            text.push_str("=#");
            text.push_str(&hexadecimal(&attribute.value.to_der().unwrap_or_default()));
        }
    }
}

fn write_escaped(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (place, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            '#' if place == 0 => text.push_str("\\#"),
            ' ' if place == 0 || place == last => text.push_str("\\ "),
            _ if character.is_control() => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    write_hexadecimal(byte, '\\', text);
                }
            }
            _ => text.push(character),
        }
    }
}

fn common_name(name: &Name) -> String {
    let named = name.iter().filter(|attribute| attribute.oid == COMMON_NAME);
    named.last().and_then(value_text).unwrap_or_default()
}

/// The value of an attribute, if it is a text.
fn value_text(attribute: &AttributeTypeAndValue) -> Option<String> {
    let bytes = attribute.value.value();
    match attribute.value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::PrintableString | Tag::Ia5String | Tag::VisibleString | Tag::NumericString => ascii(bytes),
        // CAs that use it mean ISO 8859-1 by it, whatever T.61 says.
        Tag::TeletexString => Some(bytes.iter().map(|&byte| char::from(byte)).collect()),
        Tag::BmpString => {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = pairs.iter().map(|&pair| u16::from_be_bytes(pair)).collect();
            if rest.is_empty() { String::from_utf16(&units).ok() } else { None }
        }
        _ => None,
    }
}

fn ascii(bytes: &[u8]) -> Option<String> {
    if bytes.is_ascii() { String::from_utf8(bytes.to_vec()).ok() } else { None }
}

/// The subject alternative names of the four kinds that have a plain text, in the order of the
/// certificate. Each is read by itself, so that one of another kind hides none.
fn alternative_names(certificate: &Certificate) -> Vec<String> {
    let extensions = certificate.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
    let Some(names) = extensions.iter().find(|extension| extension.extn_id == SUBJECT_ALTERNATIVE_NAME)
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    // What follows a damaged name is left out.
    let _ = general_names(names.extn_value.as_bytes(), &mut found);
    found
}

/// GeneralNames of RFC 5280, section 4.2.1.6.
fn general_names(bytes: &[u8], found: &mut Vec<String>) -> Result<(), x509_cert::der::Error> {
    let sequence = AnyRef::from_der(bytes)?;
    let mut names = SliceReader::new(sequence.value())?;
    while !names.is_finished() && found.len() < ALTERNATIVE_NAMES_MAX {
        let name = AnyRef::decode(&mut names)?;
        let Tag::ContextSpecific { number, .. } = name.tag() else { continue };
        let value = name.value();
        let text = match number.value() {
            1 => ascii(value).map(|text| format!("email:{text}")),
            2 => ascii(value).map(|text| format!("DNS:{text}")),
            6 => ascii(value).map(|text| format!("URI:{text}")),
            7 => address(value).map(|address| format!("IP:{address}")),
            _ => None,
        };
        found.extend(text);
    }
    Ok(())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn write_hexadecimal(byte: u8, before: char, text: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{before}{byte:02X}");
}
