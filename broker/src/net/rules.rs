//! What a listener says of its connections: properties for the engine, options of sockets, layers,
//! and how many there may be. One set for all shards; a reload of the configuration replaces it for
//! connections that are accepted from then on.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grapnel_engine::shard::ListenerInfo;
use rustix::net::sockopt;

use crate::transport::layers::Layers;
use crate::transport::proxy::{ProxyProtocol, ProxySettings};
use crate::transport::tls::{TlsHandle, TlsLayer};
use crate::transport::websocket::{WebSocket, WebSocketSettings};
use crate::transport::{Layer, LayerError};

/// What a listener says of its connections.
#[derive(Debug, Default)]
pub struct ListenerRules {
    /// What the engine knows of the listener.
    pub info: Arc<ListenerInfo>,
    /// Options of the sockets.
    pub socket: SocketOptions,
    /// What lies between the sockets and MQTT.
    pub layers: LayerRules,
    /// Connections at a time, over all shards; 0: no limit of its own.
    pub connections_max: u64,
    /// New connections in a second, over all shards; 0: no limit.
    pub connects_per_second_max: u64,
    /// What is counted over all shards, and over reloads.
    pub counts: Arc<ListenerCounts>,
}

impl ListenerRules {
    /// Those of a listener that has nothing but its properties.
    pub fn plain(info: Arc<ListenerInfo>) -> ListenerRules {
        ListenerRules { info, ..ListenerRules::default() }
    }

    /// The same with other properties for the engine.
    pub fn with_info(&self, info: ListenerInfo) -> ListenerRules {
        ListenerRules {
            info: Arc::new(info),
            socket: self.socket,
            layers: self.layers.clone(),
            connections_max: self.connections_max,
            connects_per_second_max: self.connects_per_second_max,
            counts: Arc::clone(&self.counts),
        }
    }
}

/// Options of the sockets of a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_NODELAY: whole packets are sent at once, so waiting for more would only delay them.
    pub nodelay: bool,
    /// Idle time before the kernel probes the other end, and time between probes, seconds; 0: it does
    /// not.
    pub keepalive_s: u32,
    /// SO_SNDBUF, bytes; 0: as the system has it.
    pub send_buffer_bytes: u32,
    /// SO_RCVBUF, bytes; 0: as the system has it.
    pub receive_buffer_bytes: u32,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions { nodelay: true, keepalive_s: 0, send_buffer_bytes: 0, receive_buffer_bytes: 0 }
    }
}

impl SocketOptions {
    /// Sets those that connections inherit from the socket of their listener, which costs no call
    /// for each of them.
    ///
    /// # Errors
    /// The kernel's, for a socket that is no TCP socket.
    pub(crate) fn apply_to_listener(&self, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(socket, self.nodelay)?;
        sockopt::set_socket_keepalive(socket, self.keepalive_s > 0)?;
        if self.keepalive_s > 0 {
            let interval = Duration::from_secs(u64::from(self.keepalive_s));
            sockopt::set_tcp_keepidle(socket, interval)?;
            sockopt::set_tcp_keepintvl(socket, interval)?;
        }
        // It counts for connections only if it is set before they begin: it decides on the window.
        match self.receive_buffer_bytes {
            0 => Ok(()),
            bytes => sockopt::set_socket_recv_buffer_size(socket, bytes as usize),
        }
    }

    /// Sets those of a TCP connection that it does not inherit, because a reload could not take
    /// them back from the listener.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) fn apply_to_connection(&self, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
        match self.send_buffer_bytes {
            0 => Ok(()),
            bytes => sockopt::set_socket_send_buffer_size(socket, bytes as usize),
        }
    }
}

/// The layers of a listener's connections, in their order from the socket.
#[derive(Clone, Debug, Default)]
pub struct LayerRules {
    pub(crate) proxy: Option<Arc<ProxySettings>>,
    pub(crate) tls: Option<Arc<TlsHandle>>,
    pub(crate) websocket: Option<Arc<WebSocketSettings>>,
    /// Time from accept until TLS is open, milliseconds; 0 without TLS.
    pub(crate) handshake_timeout_ms: u64,
    /// Connections of a shard that are accepted at a time while their layers are not open; 0: no
    /// limit.
    pub(crate) handshakes_max: u64,
}

impl LayerRules {
    /// Whether connections have no layer.
    pub(crate) fn is_plain(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && self.websocket.is_none()
    }

    /// Whether a proxy may name the clients.
    pub(crate) fn trusts_proxies(&self) -> bool {
        let by_header = self.websocket.as_ref().is_some_and(|settings| !settings.trusted_proxies.is_empty());
        self.proxy.is_some() || by_header
    }

    /// The layers of a new connection. `peer` is the other side of its socket; `None` for a Unix
    /// socket.
    ///
    /// # Errors
    /// The connection is not allowed, and is to be closed without an answer.
    pub(crate) fn layers(&self, peer: Option<SocketAddr>) -> Result<Layers, LayerError> {
        let proxy = self.proxy.as_ref().map(|proxy| ProxyProtocol::new(proxy, peer)).transpose()?;
        let tls = self.tls.as_ref().map(|tls| TlsLayer::new(&tls.current())).transpose()?;
        let websocket = self.websocket.as_ref().map(|settings| WebSocket::new(Arc::clone(settings), peer));
        Ok(Layers::new(
            proxy.map(|layer| Box::new(layer) as Box<dyn Layer>),
            tls.map(|layer| Box::new(layer) as Box<dyn Layer>),
            websocket.map(|layer| Box::new(layer) as Box<dyn Layer>),
        ))
    }
}

static REFUSED_BY_LISTENER: AtomicU64 = AtomicU64::new(0);

/// Counts a connection that was closed because of the rules of its listener: too many connections,
/// a proxy that is not listed, a failed handshake.
pub(crate) fn count_refused_by_listener() {
    REFUSED_BY_LISTENER.fetch_add(1, Ordering::Relaxed);
}

/// The number of these since the start. Any thread.
pub(crate) fn refused_by_listener() -> u64 {
    REFUSED_BY_LISTENER.load(Ordering::Relaxed)
}

/// What is counted of a listener over all shards.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    connections: AtomicU64,
    /// The second of the process's clock, and the connections that were accepted in it.
    accepted: AtomicU64,
}

/// Bits of [`ListenerCounts::accepted`] that count connections.
const ACCEPTED_BITS: u32 = 32;

/// A connection's place among those of its listener, which it gives back on drop.
#[derive(Debug)]
pub(crate) struct ListenerPlace {
    counts: Arc<ListenerCounts>,
}

impl Drop for ListenerPlace {
    fn drop(&mut self) {
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ListenerRules {
    /// A place for one more connection; `None` if `connections_max` have one.
    pub(crate) fn place(&self) -> Option<ListenerPlace> {
        let before = self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let place = ListenerPlace { counts: Arc::clone(&self.counts) };
        // Without a limit they are counted too: a reload may set one.
        (self.connections_max == 0 || before < self.connections_max).then_some(place)
    }

    /// Whether one more connection may be accepted in this second of the process's clock.
    pub(crate) fn may_accept(&self, second: u64) -> bool {
        if self.connects_per_second_max == 0 {
            return true;
        }
        let count_of = |packed: u64| {
            if packed >> ACCEPTED_BITS == second { packed & u64::from(u32::MAX) } else { 0 }
        };
        let counted = self.counts.accepted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let count = count_of(packed);
            (count < self.connects_per_second_max).then_some((second << ACCEPTED_BITS) | (count + 1))
        });
        counted.is_ok()
    }

    /// Takes back what [`ListenerRules::may_accept`] has counted, where nothing was accepted.
    pub(crate) fn not_accepted(&self, second: u64) {
        if self.connects_per_second_max > 0 {
            // In another second nothing is to be taken back.
            let _ = self.counts.accepted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
                let counts = packed >> ACCEPTED_BITS == second && packed & u64::from(u32::MAX) > 0;
                counts.then(|| packed - 1)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_as_many_as_the_limit_and_come_back() {
        let rules = ListenerRules { connections_max: 2, ..ListenerRules::default() };
        let (first, second) = (rules.place(), rules.place());
        assert!(first.is_some() && second.is_some());
        assert!(rules.place().is_none());
        assert!(rules.place().is_none(), "a refusal takes no place");
        drop(first);
        let third = rules.place();
        assert!(third.is_some() && rules.place().is_none());
        // A reload counts those of before.
        let lower = ListenerRules {
            connections_max: 1,
            counts: Arc::clone(&rules.counts),
            ..ListenerRules::default()
        };
        assert!(lower.place().is_none());
        drop((second, third));
        assert!(lower.place().is_some());
    }

    #[test]
    fn a_second_has_as_many_accepts_as_the_limit() {
        let rules = ListenerRules { connects_per_second_max: 2, ..ListenerRules::default() };
        let accepted = |second| (0..5).filter(|_| rules.may_accept(second)).count();
        assert_eq!((accepted(7), accepted(7), accepted(8)), (2, 0, 2));
        rules.not_accepted(7);
        assert_eq!(accepted(8), 0, "another second");
        rules.not_accepted(8);
        assert_eq!(accepted(8), 1);
        let unlimited = ListenerRules::default();
        assert!((0..100).all(|_| unlimited.may_accept(0)));
    }
}
