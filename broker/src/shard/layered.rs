//! The layers of a connection at work: received bytes go through them to the engine, and what the
//! engine sends goes through them to the socket. A plain connection has none of this.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grapnel_engine::shard::{Outbound, Peer};

use super::conn::Flushed;
use crate::net::{self, ListenerRules, Sent};
use crate::transport::layers::Layers;
use crate::transport::tls::identity_of;
use crate::transport::{LayerError, PeerFacts};

/// Encoded bytes that wait for the socket, beyond which nothing more is encoded.
const OUTPUT_BYTES: usize = 64 << 10;
/// Capacity of the buffer of encoded bytes that stays while it is empty.
const OUTPUT_KEPT_BYTES: usize = 1024;
/// Pieces of an outbound queue that are encoded at a time.
const PIECES: usize = 16;
/// Memory of open layers that is not charged as unfinished packets, bytes: what an idle connection
/// has, which no client can increase.
const OPEN_BYTES: usize = 4096;

/// A place among the handshakes that a listener has under way on a shard, given back on drop.
#[derive(Debug)]
pub(crate) struct HandshakePlace(Arc<AtomicU64>);

impl HandshakePlace {
    /// One more of these.
    pub fn new(handshakes: &Arc<AtomicU64>) -> HandshakePlace {
        handshakes.fetch_add(1, Ordering::Relaxed);
        HandshakePlace(Arc::clone(handshakes))
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The layers of a connection.
pub(crate) struct Layered {
    layers: Layers,
    rules: Arc<ListenerRules>,
    /// Encoded bytes, of which the first `sent` are in the socket.
    output: Vec<u8>,
    sent: usize,
    /// Received bytes that wait for a turn of the handshake.
    pub held: Vec<u8>,
    /// Whether the engine was told what the layers know of the peer.
    pub identified: bool,
    /// Why the layers have ended; what the peer sent before is still to be offered.
    pub ended: Option<LayerError>,
    /// Its place among the handshakes of its listener, until they are over.
    pub handshake: Option<HandshakePlace>,
}

impl std::fmt::Debug for Layered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Layered({} bytes to send, identified {})", self.output.len() - self.sent, self.identified)
    }
}

impl Layered {
    /// The layers of a connection that has just been accepted; `None` if it has none.
    ///
    /// # Errors
    /// The connection is not allowed, and is to be closed without an answer.
    pub fn new(rules: &Arc<ListenerRules>, peer: &Peer) -> Result<Option<Box<Layered>>, LayerError> {
        if rules.layers.is_plain() {
            return Ok(None);
        }
        let layers = rules.layers.layers(peer.peer)?;
        Ok(Some(Box::new(Layered {
            layers,
            rules: Arc::clone(rules),
            output: Vec::new(),
            sent: 0,
            held: Vec::new(),
            identified: false,
            ended: None,
            handshake: None,
        })))
    }

    /// Memory that is charged to the connection beside its read buffer, bytes.
    pub fn memory(&self) -> usize {
        let free = if self.is_open() { OPEN_BYTES } else { 0 };
        self.layers.memory_bytes().saturating_sub(free) + self.output.capacity() + self.held.capacity()
    }

    /// Decodes received bytes and appends the result to `decoded`.
    ///
    /// # Errors
    /// The connection must end, after what is decoded and what is to be sent.
    pub fn receive(&mut self, bytes: &[u8], decoded: &mut Vec<u8>) -> Result<(), LayerError> {
        self.layers.receive(bytes, decoded, &mut self.output)
    }

    /// Whether every handshake is over.
    pub fn is_open(&self) -> bool {
        self.layers.is_open()
    }

    /// Whether bytes pass as they are from now on, so that the layers can be dropped.
    pub fn is_done(&self) -> bool {
        self.layers.is_plain() && self.output.is_empty() && self.identified
    }

    /// What the layers know of the peer, once they are open, beside what the socket has told.
    ///
    /// # Errors
    /// The connection is to be closed: its certificate has no user name, and the listener takes the
    /// user name from it.
    pub fn identify(&mut self, peer: Peer) -> Result<Peer, LayerError> {
        let PeerFacts { peer: address, local, tls } = self.layers.describe();
        let identity = self.rules.layers.tls.as_ref().and_then(|handle| handle.current().identity());
        let certified = tls.as_ref().filter(|facts| facts.certificate.is_some());
        let username = match (identity, certified) {
            (Some(identity), Some(facts)) => {
                let name = identity_of(facts, identity).ok_or_else(|| {
                    LayerError::Refused(
                        "the client's certificate has no name that can be a user name".to_owned(),
                    )
                })?;
                Some(name.into())
            }
            _ => None,
        };
        Ok(Peer { peer: address.or(peer.peer), local: local.or(peer.local), tls, username, ..peer })
    }

    /// Tells the peer that this side ends the connection.
    pub fn close(&mut self) {
        self.layers.close(&mut self.output);
    }

    /// Sends what the layers themselves have to send. Returns how far that came, and the number of
    /// bytes.
    pub fn flush_own(&mut self, socket: BorrowedFd<'_>) -> (Flushed, usize) {
        let mut left = 0;
        while self.sent < self.output.len() {
            match net::send_bytes(socket, &self.output[self.sent..]) {
                Sent::Bytes(count) => {
                    self.sent += count;
                    left += count;
                }
                Sent::Full => {
                    // Otherwise it would grow for as long as the socket never takes all.
                    if self.sent >= OUTPUT_BYTES {
                        self.output.drain(..self.sent);
                        self.sent = 0;
                    }
                    return (Flushed::Full, left);
                }
                Sent::Closed => return (Flushed::Broken, left),
            }
        }
        self.sent = 0;
        self.output.clear();
        if self.output.capacity() > OUTPUT_KEPT_BYTES {
            self.output = Vec::new();
        }
        (Flushed::All, left)
    }

    /// Whether so much of the layers' own waits for the socket that the peer is not read: it makes
    /// this side answer and does not take the answers.
    pub fn is_choked(&self) -> bool {
        self.output.len() - self.sent > OUTPUT_BYTES
    }

    /// The name of its listener.
    pub fn listener(&self) -> &str {
        &self.rules.info.name
    }

    /// Encodes and sends as much of a queue as the socket takes now, and removes from the queue
    /// what is encoded. Returns how far that came, and the number of bytes that were sent.
    pub fn flush(&mut self, socket: BorrowedFd<'_>, outbound: &mut Outbound) -> (Flushed, usize) {
        let mut left = 0;
        loop {
            let (flushed, count) = self.flush_own(socket);
            left += count;
            if flushed != Flushed::All || outbound.is_empty() {
                return (flushed, left);
            }
            if self.ended.is_some() {
                // Nothing reaches the peer any more.
                while !outbound.is_empty() {
                    outbound.advance(outbound.front().len());
                }
                return (Flushed::All, left);
            }
            if !self.is_open() {
                return (flushed, left);
            }
            let mut taken = 0;
            for piece in outbound.pieces::<PIECES>() {
                let piece = &piece[..piece.len().min(OUTPUT_BYTES - self.output.len())];
                if self.layers.send(piece, &mut self.output).is_err() {
                    return (Flushed::Broken, left);
                }
                taken += piece.len();
                if self.output.len() >= OUTPUT_BYTES {
                    break;
                }
            }
            outbound.advance(taken);
        }
    }

    /// Whether it is late where its alarm is due: the handshake has a limit and is not over.
    pub fn is_late(&self) -> bool {
        !self.identified && self.handshake_timeout_ms().is_some()
    }

    /// Time from accept until the layers must be open, milliseconds.
    pub fn handshake_timeout_ms(&self) -> Option<u64> {
        Some(self.rules.layers.handshake_timeout_ms).filter(|ms| *ms > 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::net::LayerRules;
    use crate::transport::websocket::WebSocketSettings;

    #[test]
    fn answers_that_nobody_takes_are_bounded_and_go_out_when_somebody_does() {
        let websocket = Some(Arc::new(WebSocketSettings::default()));
        let layers = LayerRules { websocket, ..LayerRules::default() };
        let rules = Arc::new(ListenerRules { layers, ..ListenerRules::plain(Arc::default()) });
        let peer = Peer::new(Arc::clone(&rules.info), None, None);
        let mut layered = Layered::new(&rules, &peer).unwrap().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut decoded = Vec::new();
        let request = "GET /mqtt HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                       Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        layered.receive(request.as_bytes(), &mut decoded).unwrap();
        assert!(layered.is_open() && !layered.is_choked());
        // An empty ping with an empty mask.
        let ping = [0x89, 0x80, 0, 0, 0, 0];
        let (mut pings, mut sent) = (0, 0);
        while !layered.is_choked() {
            layered.receive(&ping, &mut decoded).unwrap();
            sent += layered.flush_own(ours.as_fd()).1;
            pings += 1;
            assert!(pings < 10_000_000, "it is never choked");
        }
        assert!(layered.output.len() - layered.sent <= OUTPUT_BYTES + 2);
        let mut read = 0;
        while layered.sent < layered.output.len() {
            read += theirs.read(&mut [0; 65_536]).unwrap();
            sent += layered.flush_own(ours.as_fd()).1;
        }
        assert!(!layered.is_choked() && layered.output.capacity() <= OUTPUT_KEPT_BYTES);
        while read < sent {
            read += theirs.read(&mut [0; 65_536]).unwrap();
        }
        assert_eq!((read, decoded.len()), (sent, 0));
    }
}
