//! A client that has done its handshake with rustls and then writes records by itself, so that they
//! can be what rustls would never send.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use super::session::Session;
use crate::transport::tls::TlsLayer;

pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;

/// The writing side of a client, and the layer that it is connected to.
pub(super) struct Raw {
    pub layer: TlsLayer,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    is_tls13: bool,
}

impl Raw {
    /// Takes over a client that has finished its handshake.
    pub fn new(session: Session) -> Raw {
        let is_tls13 = session.facts().version == "TLSv1.3";
        let (sequence, secrets) = session.client.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another cipher") };
        Raw {
            layer: session.layer,
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap()),
            iv: iv.as_ref().try_into().unwrap(),
            sequence,
            is_tls13,
        }
    }

    /// An encrypted record: RFC 8446, section 5.2, or RFC 5288, section 3.
    pub fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        if self.is_tls13 {
            let mut nonce = self.iv;
            nonce[4..].iter_mut().zip(sequence).for_each(|(byte, other)| *byte ^= other);
            let mut sealed = content.to_vec();
            sealed.push(kind);
            let length = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
            let header = [DATA, 3, 3, length[0], length[1]];
            self.seal(nonce, &header, &mut sealed);
            [&header[..], &sealed].concat()
        } else {
            let mut nonce = self.iv;
            nonce[4..].copy_from_slice(&sequence);
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            let additional = [&sequence[..], &[kind, 3, 3, length[0], length[1]]].concat();
            let mut sealed = content.to_vec();
            self.seal(nonce, &additional, &mut sealed);
            let length = u16::try_from(sealed.len() + 8).unwrap().to_be_bytes();
            [&[kind, 3, 3, length[0], length[1]][..], &sequence, &sealed].concat()
        }
    }

    fn seal(&self, nonce: [u8; 12], additional: &[u8], sealed: &mut Vec<u8>) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(additional), sealed).unwrap();
    }
}
