//! What a whole header of the PROXY protocol means. The crate `proxy-header` cuts it into fields.
//! Called by `proxy.rs` with exactly the bytes of one header.

use std::net::SocketAddr;
use std::sync::Arc;

use proxy_header::{ParseConfig, Protocol, ProxyHeader, SslInfo, Tlv};

use crate::transport::{CertificateFacts, PeerFacts, TlsFacts};

/// How version 1 begins.
pub(super) const V1_PREFIX: &[u8] = b"PROXY ";
/// How version 2 begins.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Command LOCAL of version 2, with the version in the upper half.
const V2_LOCAL: u8 = 0x20;
/// The low bits of the byte behind: the header is for datagrams.
const V2_DATAGRAM: u8 = 2;
/// Kind of the extension with the checksum.
const CRC32C: u8 = 0x03;

/// Reads `header`, which is whole and has nothing behind it.
///
/// # Errors
/// Why the connection must be refused.
pub(super) fn read(header: &[u8]) -> Result<PeerFacts, String> {
    // "The receiver must accept this connection as valid and must use the real connection endpoints
    // and discard the protocol block including the family" (section 2.2, LOCAL).
    if header.starts_with(SIGNATURE) && header.get(SIGNATURE.len()) == Some(&V2_LOCAL) {
        return Ok(PeerFacts::default());
    }
    if header.starts_with(SIGNATURE)
        && header.get(SIGNATURE.len() + 1).is_some_and(|family| family & 0x0F == V2_DATAGRAM)
    {
        return Err("the PROXY protocol header is for datagrams".to_owned());
    }
    let (parsed, length) = ProxyHeader::parse(header, ParseConfig::default())
        .map_err(|_| "the PROXY protocol header is malformed".to_owned())?;
    if length != header.len() {
        return Err("the PROXY protocol header is malformed".to_owned());
    }
    let mut facts = PeerFacts::default();
    // None for UNKNOWN, for a family that is not given, and for unix addresses: then the addresses
    // of the socket are all there is.
    if let Some(addresses) = parsed.proxied_address() {
        if addresses.protocol != Protocol::Stream {
            return Err("the PROXY protocol header is for datagrams".to_owned());
        }
        facts.peer = Some(canonical(addresses.source));
        facts.local = Some(canonical(addresses.destination));
    }
    facts.tls = extensions(&parsed, header)?.map(Arc::new);
    Ok(facts)
}

/// An IPv4 address that is mapped into IPv6 becomes IPv4, so that rules see one form of it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn extensions(parsed: &ProxyHeader<'_>, header: &[u8]) -> Result<Option<TlsFacts>, String> {
    let mut tls = None;
    let mut server_name = String::new();
    for extension in parsed.tlvs() {
        match extension.map_err(|_| "an extension of the PROXY protocol header is malformed".to_owned())? {
            Tlv::Authority(name) => server_name = name.into_owned(),
            Tlv::Crc32c(told) => check(header, told)?,
            Tlv::Ssl(ssl) => tls = tls_of(&ssl)?,
            _ => {}
        }
    }
    // A name alone does not show that the client uses TLS (section 2.2.2, PP2_TYPE_AUTHORITY).
    Ok(tls.map(|tls: TlsFacts| TlsFacts { server_name, ..tls }))
}

fn tls_of(ssl: &SslInfo<'_>) -> Result<Option<TlsFacts>, String> {
    let mut facts = TlsFacts::default();
    let mut common_name = String::new();
    for extension in ssl.tlvs() {
        match extension.map_err(|_| "the TLS part of the PROXY protocol header is malformed".to_owned())? {
            Tlv::SslVersion(version) => facts.version = version.into_owned(),
            Tlv::SslCipher(cipher) => facts.cipher = cipher.into_owned(),
            Tlv::SslCn(name) => common_name = name.into_owned(),
            _ => {}
        }
    }
    if !ssl.client_ssl() {
        return Ok(None);
    }
    // HAProxy says that the verification succeeded where there was no certificate to verify, so the
    // flags count too.
    let shown = ssl.client_cert_conn() || ssl.client_cert_sess();
    if shown && ssl.verify() == 0 {
        facts.certificate = Some(CertificateFacts { common_name, ..CertificateFacts::default() });
    }
    Ok(Some(facts))
}

/// Compares the checksum `told` with that of `header`, in which the checksum itself counts as zeros
/// (section 2.2.3).
fn check(header: &[u8], told: u32) -> Result<(), String> {
    let wrong = || "the checksum of the PROXY protocol header is wrong".to_owned();
    let at = checksum_at(header).ok_or_else(wrong)?;
    let (before, rest) = header.split_at_checked(at).ok_or_else(wrong)?;
    let (_, after) = rest.split_at_checked(size_of::<u32>()).ok_or_else(wrong)?;
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
    match sum == told {
        true => Ok(()),
        false => Err(wrong()),
    }
}

/// Where the value of the first checksum of a header of version 2 begins; the parser does not say it.
fn checksum_at(header: &[u8]) -> Option<usize> {
    let addresses = match header.get(SIGNATURE.len() + 1)? >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return None,
    };
    let mut at = SIGNATURE.len() + 4 + addresses;
    loop {
        let &[kind, high, low] = header.get(at..at + 3)? else { return None };
        if kind == CRC32C {
            return Some(at + 3);
        }
        at += 3 + usize::from(u16::from_be_bytes([high, low]));
    }
}
