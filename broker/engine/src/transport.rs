//! What is known of a connection below MQTT: its transport, and what TLS has verified. The shell
//! passes it in, hooks read it, and nothing here decides anything. It depends on nothing of the
//! engine.

use grapnel_plugin_abi::host::{CertificateIdentity, Names, TlsIdentity};

/// How the clients of a listener reach the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// A Unix socket. Its clients have no address, unless a proxy tells one.
    Unix,
}

impl Transport {
    /// All of them.
    pub const ALL: [Transport; 5] =
        [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss, Transport::Unix];

    /// The word for it that hooks and operators see.
    pub const fn word(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
            Transport::Unix => "unix",
        }
    }

    /// The transport with this word.
    pub fn from_word(word: &str) -> Option<Transport> {
        Transport::ALL.into_iter().find(|transport| transport.word() == word)
    }
}

/// What is known of a client's TLS connection, to the broker or to a proxy in front of it. A text
/// is empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// Protocol version, such as `TLSv1.3`.
    pub version: String,
    /// Cipher suite, by its IANA name.
    pub cipher: String,
    /// The server name that the client asked for (SNI).
    pub server_name: String,
    /// The client's certificate, if it has shown one that was verified.
    pub certificate: Option<CertificateFacts>,
}

/// What is known of a client's certificate. A text is empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Subject, as RFC 4514 writes it.
    pub subject: String,
    /// The last common name of the subject.
    pub common_name: String,
    /// Subject alternative names: `DNS:…`, `URI:…`, `email:…`, `IP:…`.
    pub alternative_names: Vec<String>,
    /// Issuer, as RFC 4514 writes it.
    pub issuer: String,
    /// Serial number, hexadecimal in lower case.
    pub serial: String,
    /// SHA-256 of the certificate (DER), hexadecimal in lower case.
    pub fingerprint: String,
}

impl TlsFacts {
    /// Bytes that a client is charged for them.
    pub fn bytes(&self) -> usize {
        let texts = [&self.version, &self.cipher, &self.server_name].map(String::len);
        let certificate = self.certificate.as_ref().map_or(0, CertificateFacts::bytes);
        size_of::<TlsFacts>() + texts.iter().sum::<usize>() + certificate
    }

    /// The same, borrowed, for hooks.
    pub fn view(&self) -> TlsIdentity<'_> {
        TlsIdentity {
            version: &self.version,
            cipher: &self.cipher,
            server_name: &self.server_name,
            certificate: self.certificate.as_ref().map(CertificateFacts::view),
        }
    }

    /// A copy of what a plugin has stored.
    pub fn of(stored: &TlsIdentity<'_>) -> TlsFacts {
        TlsFacts {
            version: stored.version.to_owned(),
            cipher: stored.cipher.to_owned(),
            server_name: stored.server_name.to_owned(),
            certificate: stored.certificate.as_ref().map(CertificateFacts::of),
        }
    }
}

impl CertificateFacts {
    /// Bytes beside the struct itself.
    fn bytes(&self) -> usize {
        let texts = [&self.subject, &self.common_name, &self.issuer, &self.serial, &self.fingerprint];
        let names = self.alternative_names.iter().map(|name| size_of::<String>() + name.len());
        texts.iter().map(|text| text.len()).chain(names).sum()
    }

    fn view(&self) -> CertificateIdentity<'_> {
        CertificateIdentity {
            subject: &self.subject,
            common_name: &self.common_name,
            alternative_names: Names::of(&self.alternative_names),
            issuer: &self.issuer,
            serial: &self.serial,
            fingerprint: &self.fingerprint,
        }
    }

    fn of(stored: &CertificateIdentity<'_>) -> CertificateFacts {
        CertificateFacts {
            subject: stored.subject.to_owned(),
            common_name: stored.common_name.to_owned(),
            alternative_names: stored.alternative_names.iter().map(str::to_owned).collect(),
            issuer: stored.issuer.to_owned(),
            serial: stored.serial.to_owned(),
            fingerprint: stored.fingerprint.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> TlsFacts {
        let text = |length: usize| "x".repeat(length);
        TlsFacts {
            version: text(1),
            cipher: text(20),
            server_name: text(300),
            certificate: Some(CertificateFacts {
                subject: text(4_000),
                common_name: text(50_000),
                alternative_names: vec![text(600_000), text(7_000_000)],
                issuer: text(80_000_000),
                serial: text(2),
                fingerprint: text(10),
            }),
        }
    }

    #[test]
    fn every_text_is_charged() {
        let names = 2 * size_of::<String>();
        assert_eq!(facts().bytes(), size_of::<TlsFacts>() + names + 87_654_333);
        assert_eq!(TlsFacts::default().bytes(), size_of::<TlsFacts>());
    }

    #[test]
    fn what_a_plugin_has_stored_is_the_same_again() {
        for facts in [TlsFacts { certificate: None, ..facts() }, facts()] {
            assert_eq!(TlsFacts::of(&facts.view()), facts);
        }
        for transport in Transport::ALL {
            assert_eq!(Transport::from_word(transport.word()), Some(transport));
        }
        assert_eq!(Transport::from_word(""), None);
    }
}
