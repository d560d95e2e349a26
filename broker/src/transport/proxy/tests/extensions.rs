//! Extensions of version 2 (section 2.2).

use super::*;
use crate::transport::CertificateFacts;

/// HAProxy: a client with a certificate that was verified. With checksum, server name, an empty
/// unique identifier, TLS.
pub(super) fn haproxy_tls() -> Vec<u8> {
    hex("0d0a0d0a000d0a515549540a2111005e7f0000017f000001d2a24a3b0300043ca562d502000e62726f6b65722e6578616d\
         706c650500002000340700000000210007544c5376312e3322000973656e736f722d3137230016544c535f4145535f3235365f\
         47434d5f534841333834")
}

/// The same without a certificate. HAProxy says "verified" here.
const HAPROXY_NO_CERTIFICATE: &str = "0d0a0d0a000d0a515549540a211100527f0000017f000001d2a64a3b0300043\
    52db76802000e62726f6b65722e6578616d706c650500002000280100000000210007544c5376312e33230016544c535f4145\
    535f3235365f47434d5f534841333834";

/// The same with a certificate that could not be verified.
const HAPROXY_NOT_VERIFIED: &str = "0d0a0d0a000d0a515549540a2111005e7f0000017f000001d2b64a3c0300045dd\
    a825002000e62726f6b65722e6578616d706c650500002000340700000013210007544c5376312e3322000973656e736f722d\
    3137230016544c535f4145535f3235365f47434d5f534841333834";

/// An extension.
fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    v2(0x21, 0x11, &[&V4_ADDRESSES[..], &extensions.concat()].concat())
}

/// The extension about TLS: flags of the client, result of the verification, what it contains.
fn ssl(client: u8, verify: u32, inner: &[Vec<u8>]) -> Vec<u8> {
    extension(0x20, &[&[client], &verify.to_be_bytes()[..], &inner.concat()].concat())
}

fn tls(header: &[u8]) -> Option<TlsFacts> {
    facts(header).tls.map(|facts| TlsFacts::clone(&facts))
}

#[test]
fn what_haproxy_says_of_tls() {
    let expected = TlsFacts {
        version: "TLSv1.3".into(),
        cipher: "TLS_AES_256_GCM_SHA384".into(),
        server_name: "broker.example".into(),
        certificate: Some(CertificateFacts {
            common_name: "sensor-17".into(),
            ..CertificateFacts::default()
        }),
    };
    assert_eq!(tls(&haproxy_tls()), Some(expected.clone()));
    let without = TlsFacts { certificate: None, ..expected };
    assert_eq!(tls(&hex(HAPROXY_NO_CERTIFICATE)), Some(without.clone()));
    assert_eq!(tls(&hex(HAPROXY_NOT_VERIFIED)), Some(without));
}

#[test]
fn a_certificate_counts_only_if_it_was_shown_and_verified() {
    let certificate = |client, verify| {
        tls(&with(&[ssl(client, verify, &[extension(0x22, b"cn")])])).and_then(|tls| tls.certificate)
    };
    for client in 0..8 {
        let shown = client & 1 != 0 && client & 6 != 0;
        assert_eq!(certificate(client, 0).is_some(), shown, "{client}");
        assert_eq!(certificate(client, 1), None);
        assert_eq!(certificate(client, u32::MAX), None);
    }
}

#[test]
fn without_tls_there_are_no_facts_about_it() {
    assert_eq!(tls(&with(&[extension(2, b"broker.example")])), None);
    assert_eq!(tls(&with(&[ssl(0, 0, &[extension(0x21, b"TLSv1.3")])])), None);
    assert_eq!(tls(&with(&[ssl(1, 0, &[])])), Some(TlsFacts::default()));
}

#[test]
fn unknown_extensions_are_ignored() {
    let header = with(&[extension(0xe0, b"own"), extension(4, b""), extension(0xff, &[0; 300])]);
    assert_eq!(facts(&header), v4_facts());
    assert_eq!(tls(&with(&[ssl(1, 0, &[extension(0x99, b"x")])])), Some(TlsFacts::default()));
}

#[test]
fn malformed_extensions_are_refused() {
    for header in [
        with(&[vec![4]]),
        with(&[vec![4, 0]]),
        with(&[vec![4, 0, 1]]),
        with(&[vec![4, 0xff, 0xff, 0]]),
        with(&[extension(2, b"\xff")]),
        with(&[extension(0x20, b"\x01\0\0\0")]),
        with(&[ssl(1, 0, &[vec![0x21, 0, 1]])]),
        // A name that is no UTF-8 must not become another name.
        with(&[ssl(7, 0, &[extension(0x22, b"\xe9")])]),
        with(&[extension(3, b"\0\0\0")]),
    ] {
        let error = read(&header).unwrap_err();
        assert!(error.contains("malformed"), "{error} for {}", header.escape_ascii());
    }
}

/// "If it is not, the receiver MUST treat the TCP connection providing the header as invalid."
#[test]
fn a_wrong_checksum_is_refused() {
    // With addresses alone, as HAProxy sends it.
    let v2 = hex("0d0a0d0a000d0a515549540a211100137f0000017f000001d2084a3a030004c99b25c5");
    for header in [v2, haproxy_tls()] {
        assert!(facts(&header).peer.is_some());
        // Without byte 28, its kind, there is no checksum to compare with.
        for at in (16..header.len()).filter(|at| *at != 28) {
            let mut damaged = header.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "byte {at}");
        }
    }
}
