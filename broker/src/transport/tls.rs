//! TLS for the connections of a listener, as a layer without a socket, by rustls with the
//! cryptography of ring. `shard` makes a [`TlsLayer`] for each connection that it accepts, with the
//! configuration of the listener's [`TlsHandle`].
//!
//! Of the two interfaces of rustls, this uses the one without buffers
//! (`UnbufferedServerConnection`):
//!
//! * Memory: `ServerConnection` keeps its receive buffer of at least 4 KiB for as long as a
//!   connection lives. Here the buffer is ours, and an idle connection has none.
//! * Copies: both interfaces read plaintext where it is (`send` hands each 16 KiB of the shared
//!   buffer to the cipher), encrypt it into a record of their own and copy that record out. The
//!   interface without buffers writes it into `below` directly; the other puts it into a queue
//!   first, which refuses more than 64 KiB. Received bytes are copied once, because rustls decrypts
//!   in place and [`Layer::receive`] may not change its input.
//!
//! An idle connection takes 3.5 KiB, and a little more than its certificate if the client has shown
//! one; with `ServerConnection` it takes 7.6 KiB. In the handshake it takes up to 5.3 KiB. These
//! are bytes that the C library has given out (x86-64, rustls 0.23.46), `TlsLayer` included; the
//! test `measure_tls` prints them.
//!
//! The end of a handshake, data and close_notify may come in one input. [`Layer::receive`] then
//! returns [`LayerError::Closed`] with data in `above`, and the layer was never open in between;
//! [`Layer::describe`] works nevertheless.
//!
//! What a peer can make a layer keep is bounded by [`HANDSHAKE_BYTES_MAX`] before the handshake is
//! over, and by [`RECORD_BYTES_MAX`] after it. rustls bounds what costs work and no bytes: records
//! without content, key updates without data between them, renegotiation, warnings.

use std::sync::Arc;

use rustls::PeerIncompatible;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

mod handle;
mod identity;
mod load;
mod names;
mod pem;
mod sessions;
mod settings;
#[cfg(test)]
mod tests;
mod x509;

pub(crate) use handle::TlsHandle;
pub(crate) use identity::identity_of;
pub(crate) use load::TlsConfig;
#[cfg(test)]
pub(crate) use load::load;
#[cfg(test)]
pub(crate) use settings::TlsError;
pub(crate) use settings::{
    ALPN_MQTT, ALPN_WEBSOCKET, CertificateFiles, ClientCertificates, Identity, SESSIONS_DEFAULT, TlsSettings,
    TlsVersion, TlsWarning,
};

use super::{Layer, LayerError, PeerFacts, TlsFacts};

/// What a layer keeps of unfinished handshake messages at most, bytes. The messages with which
/// clients show three certificates have 5 KiB.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 32 << 10;
/// What a layer keeps of an unfinished record at most, bytes: a record of TLS 1.2 has up to 18,437
/// (RFC 5246, section 6.2.3), one of TLS 1.3 has 16,645, and a post-handshake message may lie
/// before.
pub(crate) const RECORD_BYTES_MAX: usize = 18_500;

/// How much of an input is decrypted at a time, bytes: what has come is copied, and the copy should
/// stay in the cache.
const SLICE_BYTES: usize = 16 << 10;
/// The largest content of one record, bytes (RFC 8446, section 5.1).
const CONTENT_BYTES_MAX: usize = 16 << 10;
/// What a record has besides its content, bytes: at most 5 for the header, 8 for the nonce of
/// TLS 1.2, 1 for the type, 16 for the tag.
const OVERHEAD_BYTES: usize = 30;

/// The heap that rustls uses for an open connection, without certificates of the client, bytes;
/// measured.
const HEAP_OPEN_BYTES: usize = 2_400;
/// The same during the handshake.
const HEAP_HANDSHAKE_BYTES: usize = 4_200;

/// Content type `handshake`, with which a client begins (RFC 8446, section 5.1).
const RECORD_HANDSHAKE: u8 = 22;

/// The TLS side of one connection.
pub(crate) struct TlsLayer {
    connection: UnbufferedServerConnection,
    config: Arc<TlsConfig>,
    /// Received bytes that rustls still needs: a part of a record, or of a handshake message.
    kept: Vec<u8>,
    phase: Phase,
    /// What the client has asked for (SNI), at most 253 bytes.
    server_name: Option<Box<str>>,
    /// The first byte that has come, to say what a peer that is no TLS client may be.
    first: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Open,
    /// This side has closed. What comes then is not looked at: rustls would have to answer errors
    /// in it, and nothing may follow a close_notify.
    Closing,
    /// [`Layer::receive`] has returned an error.
    Ended,
}

impl TlsLayer {
    /// The layer of a new connection. The client begins, so that nothing is to be sent yet.
    ///
    /// # Errors
    /// [`LayerError`] if rustls does not accept the configuration, which no loaded one causes.
    pub fn new(config: &Arc<TlsConfig>) -> Result<TlsLayer, LayerError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&config.server))
            .map_err(|error| LayerError::Refused(format!("TLS: {error}")))?;
        Ok(TlsLayer {
            connection,
            config: Arc::clone(config),
            kept: Vec::new(),
            phase: Phase::Handshake,
            server_name: None,
            first: None,
        })
    }

    /// Takes one slice of what was received.
    fn receive_slice(
        &mut self,
        slice: &[u8],
        above: &mut Vec<u8>,
        below: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        self.first = self.first.or(slice.first().copied());
        self.kept.extend_from_slice(slice);
        let before = above.len();
        let step = self.work(above, below);
        if let Some(name) = names::take_asked_for() {
            self.server_name = Some(name);
        }
        if self.phase == Phase::Handshake && !self.connection.is_handshaking() {
            // Data may have come with the end of the handshake. Nobody gets it from a client that
            // is not allowed.
            if let Err(error) = self.config.check_resumed(&self.connection) {
                above.truncate(before);
                self.send_close_notify(below);
                return Err(LayerError::Refused(format!("TLS: the resumed session is refused: {error}")));
            }
            self.phase = Phase::Open;
        }
        match step {
            Step::Failed(error) => {
                // The alert, if rustls has made one.
                self.phase = Phase::Ended;
                self.with_traffic(below, |_, _| ());
                Err(LayerError::Refused(self.words(&error)))
            }
            Step::Closed => {
                self.send_close_notify(below);
                Err(LayerError::Closed)
            }
            Step::Waits if self.kept.len() > self.kept_bytes_max() => {
                self.send_close_notify(below);
                let bytes_max = self.kept_bytes_max();
                Err(LayerError::Refused(format!("TLS: a message has more than {bytes_max} bytes")))
            }
            Step::Waits => Ok(()),
        }
    }

    /// Lets rustls work on what is kept until it needs more.
    fn work(&mut self, above: &mut Vec<u8>, below: &mut Vec<u8>) -> Step {
        let mut done = 0;
        let step = loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut self.kept[done..]);
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => loop {
                    match records.next_record() {
                        Some(Ok(record)) => {
                            above.extend_from_slice(record.payload);
                            discard += record.discard;
                        }
                        Some(Err(error)) => break Some(Step::Failed(error)),
                        None => break None,
                    }
                },
                Ok(ConnectionState::EncodeTlsData(record)) => {
                    append_record(record, below);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done();
                    None
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Step::Closed),
                // `BlockedHandshake` and `WriteTraffic`. Early data is not enabled.
                Ok(_) => Some(Step::Waits),
                Err(error) => Some(Step::Failed(error)),
            };
            done += discard;
            if let Some(step) = step {
                break step;
            }
        };
        self.kept.drain(..done.min(self.kept.len()));
        step
    }

    /// Appends what rustls has to send itself. Then calls `action`, if data can be sent.
    ///
    /// After an error, rustls may not look at what was received once more. It does not as long as
    /// it has something to send, so that this stops before.
    fn with_traffic<R>(
        &mut self,
        below: &mut Vec<u8>,
        action: impl FnOnce(WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> R,
    ) -> Option<R> {
        loop {
            if !self.connection.wants_write() && self.phase == Phase::Ended {
                return None;
            }
            match self.connection.process_tls_records(&mut self.kept).state {
                Ok(ConnectionState::EncodeTlsData(record)) => append_record(record, below),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::WriteTraffic(traffic)) => return Some(action(traffic, below)),
                _ => return None,
            }
        }
    }

    /// Appends close_notify. Before the handshake is over there is none to send; the end of the TCP
    /// connection then says the same.
    fn send_close_notify(&mut self, below: &mut Vec<u8>) {
        self.with_traffic(below, |mut traffic, below| {
            append(below, OVERHEAD_BYTES, |room| traffic.queue_close_notify(room).map_err(needed))
        });
    }

    fn kept_bytes_max(&self) -> usize {
        if self.phase == Phase::Handshake { HANDSHAKE_BYTES_MAX } else { RECORD_BYTES_MAX }
    }

    fn words(&self, error: &rustls::Error) -> String {
        match (error, self.first) {
            (rustls::Error::AlertReceived(alert), _) => {
                format!("TLS: the client has ended the connection with the alert {alert:?}")
            }
            (rustls::Error::InvalidMessage(_), Some(first)) if first != RECORD_HANDSHAKE => {
                format!("TLS: what the client sends is not TLS, it begins with the byte {first:#04x}")
            }
            (rustls::Error::PeerIncompatible(why), _) => match incompatible(why) {
                Some(words) => format!("TLS: {words}"),
                None => format!("TLS: {error}"),
            },
            _ => format!("TLS: {error}"),
        }
    }
}

/// In words, what a client offers that this side does not accept. rustls names its own settings.
fn incompatible(why: &PeerIncompatible) -> Option<&'static str> {
    Some(match why {
        PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            "the client offers no version of TLS that is accepted here (version_min)"
        }
        PeerIncompatible::NoCipherSuitesInCommon => "the client offers no cipher suite that is accepted here",
        PeerIncompatible::NoKxGroupsInCommon => "the client offers no key exchange that is accepted here",
        PeerIncompatible::NoSignatureSchemesInCommon => {
            "the client accepts no signature that a key of this listener can make"
        }
        _ => return None,
    })
}

/// Why rustls has stopped.
enum Step {
    /// It needs more bytes, or there is nothing to do.
    Waits,
    /// The peer has sent close_notify.
    Closed,
    Failed(rustls::Error),
}

impl Layer for TlsLayer {
    fn receive(&mut self, input: &[u8], above: &mut Vec<u8>, below: &mut Vec<u8>) -> Result<(), LayerError> {
        match self.phase {
            Phase::Handshake | Phase::Open => {}
            Phase::Closing => return Ok(()),
            Phase::Ended => return Err(LayerError::Closed),
        }
        for slice in input.chunks(SLICE_BYTES) {
            if let Err(error) = self.receive_slice(slice, above, below) {
                self.phase = Phase::Ended;
                self.kept = Vec::new();
                return Err(error);
            }
        }
        // An idle connection has no buffer, and one that waits for the rest of a record has one of
        // about the size of what has come.
        if self.kept.capacity() > 2 * self.kept.len() {
            self.kept.shrink_to_fit();
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], below: &mut Vec<u8>) -> Result<(), LayerError> {
        if !self.is_open() {
            return Err(LayerError::Refused("TLS: the connection is not open".to_owned()));
        }
        let records = bytes.len().div_ceil(CONTENT_BYTES_MAX);
        below.reserve(bytes.len() + records * OVERHEAD_BYTES);
        let sent = self.with_traffic(below, |mut traffic, below| {
            bytes.chunks(CONTENT_BYTES_MAX).all(|content| {
                let room = content.len() + OVERHEAD_BYTES;
                append(below, room, |room| traffic.encrypt(content, room).map_err(needed))
            })
        });
        if sent == Some(true) {
            return Ok(());
        }
        Err(LayerError::Refused("TLS: the keys of the connection are used up".to_owned()))
    }

    fn close(&mut self, below: &mut Vec<u8>) {
        if matches!(self.phase, Phase::Handshake | Phase::Open) {
            self.send_close_notify(below);
            self.phase = Phase::Closing;
            self.kept = Vec::new();
        }
    }

    fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    fn memory_bytes(&self) -> usize {
        let heap = if self.phase == Phase::Handshake { HEAP_HANDSHAKE_BYTES } else { HEAP_OPEN_BYTES };
        let certificates = self.connection.peer_certificates().unwrap_or_default();
        let shown: usize =
            certificates.iter().map(|certificate| size_of_val(certificate) + certificate.len()).sum();
        let name = self.server_name.as_ref().map_or(0, |name| name.len());
        size_of::<TlsLayer>() + heap + self.kept.capacity() + shown + name
    }

    fn describe(&self, facts: &mut PeerFacts) {
        // What a proxy has said of TLS between the client and itself does not count here: this is
        // the connection that the listener's rules about certificates are for.
        let version = self.connection.protocol_version().and_then(|version| version.as_str());
        let suite = self.connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let certificate = self.connection.peer_certificates().and_then(<[_]>::first);
        facts.tls = Some(Arc::new(TlsFacts {
            version: version.map_or_else(String::new, |name| name.replace('_', ".")),
            // rustls marks the suites of TLS 1.3, IANA does not.
            cipher: suite.map_or_else(String::new, |name| name.replacen("TLS13_", "TLS_", 1)),
            server_name: self.server_name.as_deref().unwrap_or_default().to_owned(),
            certificate: certificate.map(|certificate| x509::facts(certificate)),
        }));
    }
}

/// Appends a record that rustls has made itself.
fn append_record(mut record: EncodeTlsData<'_, ServerConnectionData>, below: &mut Vec<u8>) {
    append(below, 0, |room| {
        record.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    });
}

/// Lets `write` fill room at the end of `below`. If it fails with a number of bytes, it gets so
/// many. Returns whether it has written.
fn append(
    below: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> bool {
    let start = below.len();
    let mut room = room;
    loop {
        below.resize(start + room, 0);
        match write(&mut below[start..]) {
            Ok(written) => {
                below.truncate(start + written);
                return true;
            }
            Err(Some(more)) if more > room => room = more,
            Err(_) => {
                below.truncate(start);
                return false;
            }
        }
    }
}

/// How many bytes rustls needs to encrypt; `None` if it cannot at all.
fn needed(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}
