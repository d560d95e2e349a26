//! The server side of WebSocket (RFC 6455) for MQTT (MQTT 5.0, section 6): one layer of a
//! connection. `Layers` calls it; it has no socket.
//!
//! The upgrade request is parsed by `httparse`. The frame protocol is our own, because no library
//! fits below a broker that holds many connections: tungstenite and fastwebsockets hand out a frame
//! once all of it is in memory, soketto reads from an asynchronous stream, and websocket-sans-io, the
//! only one that passes a frame on as it arrives, neither checks the order of frames nor the form of
//! their lengths, and is still at version 0.1. tungstenite is the client in our tests.
//!
//! MQTT packets may begin and end anywhere in frames [MQTT-6.0.0-2], so a payload is unmasked and
//! passed on as its bytes arrive. A layer holds one frame header and one control frame at most. That
//! is why there is no limit for frames or messages: the size of a frame costs nothing here, and the
//! engine limits the packets that are inside.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Layer, LayerError, PeerFacts};
use end::CloseCode;
use frames::Frames;
pub(crate) use settings::{Origins, WebSocketSettings};

mod answer;
mod end;
pub(crate) mod forwarded;
mod frames;
mod request;
mod settings;
#[cfg(test)]
mod tests;

/// The layer of one connection.
#[derive(Debug)]
pub(crate) struct WebSocket {
    settings: Arc<WebSocketSettings>,
    /// The other side of the socket, which may be a proxy.
    peer: Option<SocketAddr>,
    /// The client, if the peer is a proxy that is trusted.
    forwarded: Option<SocketAddr>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What has arrived of the upgrade request.
    Request(request::Head),
    Open(Frames),
    /// This side has sent its close frame and waits for the peer's; data is discarded.
    Closing(Frames),
    Ended,
}

impl WebSocket {
    /// The layer of a new connection whose socket has the address `peer` on the other side; `None`
    /// for a Unix socket.
    pub(crate) fn new(settings: Arc<WebSocketSettings>, peer: impl Into<Option<SocketAddr>>) -> Self {
        let peer = peer.into();
        WebSocket { settings, peer, forwarded: None, state: State::Request(request::Head::default()) }
    }

    /// Takes bytes of the upgrade request from the front of `input`, and answers it once it is whole.
    fn upgrade(&mut self, input: &mut &[u8], below: &mut Vec<u8>) -> Result<(), LayerError> {
        let State::Request(head) = &mut self.state else { return Ok(()) };
        let judged = match head.collect(input) {
            Ok(None) => return Ok(()),
            Ok(Some(bytes)) => request::judge(&bytes, &self.settings),
            Err(refusal) => Err(refusal),
        };
        match judged {
            Ok(accepted) => {
                answer::switch(&accepted, below);
                self.forwarded = accepted.forwarded;
                self.state = State::Open(Frames::default());
                Ok(())
            }
            Err(refusal) => {
                self.state = State::Ended;
                answer::refuse(&refusal, below);
                Err(LayerError::Refused(refusal.log))
            }
        }
    }
}

impl Layer for WebSocket {
    fn receive(
        &mut self,
        mut input: &[u8],
        above: &mut Vec<u8>,
        below: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        self.upgrade(&mut input, below)?;
        let result = match &mut self.state {
            State::Request(_) => return Ok(()),
            State::Open(frames) => frames.receive(input, above, below),
            State::Closing(frames) => {
                // RFC 6455 section 1.4: after its close frame a side discards what it gets. It
                // answers neither a ping nor the peer's close frame any more.
                let (data, answers) = (above.len(), below.len());
                let result = frames.receive(input, above, below);
                above.truncate(data);
                below.truncate(answers);
                result
            }
            State::Ended => Err(LayerError::Closed),
        };
        if result.is_err() {
            self.state = State::Ended;
        }
        result
    }

    fn send(&mut self, bytes: &[u8], below: &mut Vec<u8>) -> Result<(), LayerError> {
        if !matches!(self.state, State::Open(_)) {
            return Err(LayerError::Closed);
        }
        frames::write_data(bytes, below);
        Ok(())
    }

    fn close(&mut self, below: &mut Vec<u8>) {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Open(frames) => {
                frames::write_close(CloseCode::NORMAL, below);
                State::Closing(frames)
            }
            // Without a handshake there is nothing to end.
            State::Request(_) | State::Closing(_) | State::Ended => State::Ended,
        };
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    fn memory_bytes(&self) -> usize {
        let held = match &self.state {
            State::Request(head) => head.memory_bytes(),
            State::Open(frames) | State::Closing(frames) => frames.memory_bytes(),
            State::Ended => 0,
        };
        size_of::<Self>() + held
    }

    fn describe(&self, facts: &mut PeerFacts) {
        // A layer below may have named another peer than the socket's. If that is a client, its
        // header is as good as its word.
        // Whoever reaches a Unix socket is on this machine, and a proxy if there are any.
        let trusted = match facts.peer.or(self.peer) {
            Some(peer) => self.settings.trusted_proxies.contains(peer.ip()),
            None => !self.settings.trusted_proxies.is_empty(),
        };
        if self.forwarded.is_some() && trusted {
            facts.peer = self.forwarded;
        }
    }
}
