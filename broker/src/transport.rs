//! What lies between a connection's socket and the engine: TLS, WebSocket, the PROXY protocol. Each
//! is a layer without a socket: bytes in, bytes out. `shard` reads and writes the socket. A plain
//! connection has no layers.

use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) use grapnel_engine::shard::{CertificateFacts, TlsFacts};

pub(crate) mod tls;

pub(crate) mod address_list;
pub(crate) mod layers;
pub(crate) mod proxy;
pub(crate) mod websocket;

/// One layer of a connection. "Below" is the socket, or a layer nearer to it; "above" is the
/// engine, or a layer nearer to it. A layer is used by one thread at a time and moves with its
/// connection to another shard.
pub(crate) trait Layer: Send {
    /// Takes all of `input`, which came from below. What it decodes is appended to `above`, and
    /// what it must send itself (a handshake, a pong) to `below`. An incomplete record or frame is
    /// kept in the layer, whose memory is bounded whatever the peer announces. `above` gets no more
    /// bytes than the layer has received.
    ///
    /// # Errors
    /// [`LayerError`] if the connection must end. What is in `below` is still to be sent; nothing
    /// further may be received.
    /// further may be received. What is in `above` came before the error and still counts: a
    /// DISCONNECT and the end of TLS often arrive in one piece.
    fn receive(&mut self, input: &[u8], above: &mut Vec<u8>, below: &mut Vec<u8>) -> Result<(), LayerError>;

    /// Encodes bytes that come from above and appends the result to `below`. Only called when
    /// [`Layer::is_open`].
    ///
    /// # Errors
    /// [`LayerError`] if nothing can be sent any more.
    fn send(&mut self, bytes: &[u8], below: &mut Vec<u8>) -> Result<(), LayerError>;

    /// Begins the end of the connection from this side: appends what tells the peer (an alert, a
    /// close frame). Called once at most.
    fn close(&mut self, below: &mut Vec<u8>);

    /// Whether the handshake is over, so that bytes from above can be sent.
    fn is_open(&self) -> bool;

    /// Memory that the layer owns now, bytes; it is charged to the connection.
    fn memory_bytes(&self) -> usize;

    /// Adds what the layer knows of the peer. Called once, when the layer is open.
    fn describe(&self, facts: &mut PeerFacts);
}

/// What layers know of the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerFacts {
    /// The address of the client, where a proxy has told it.
    pub peer: Option<SocketAddr>,
    /// The address that the client connected to, where a proxy has told it.
    pub local: Option<SocketAddr>,
    /// Of the client's TLS connection, to the broker or to a proxy in front of it.
    pub tls: Option<Arc<TlsFacts>>,
}

/// Why a layer ends its connection. The text is for the log: it names what was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LayerError {
    /// The peer has ended the connection as the protocol says.
    #[error("the peer has closed the connection")]
    Closed,
    /// The peer has broken the protocol, or is not allowed.
    #[error("{0}")]
    Refused(String),
}
