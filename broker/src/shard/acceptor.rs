//! A listener on one shard. It accepts in bursts, pauses when no descriptor is left for clients,
//! and ends when the shard drains.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grapnel_engine::log_rate::LogRate;
use grapnel_engine::shard::Peer;

use super::layered::{HandshakePlace, Layered};
use super::state::{Arrival, State};
use crate::net::{
    self, Accepted, Address, ListenerRules, Listening, SocketFile, accept, descriptors_for_clients,
};

/// One listener on one shard.
#[derive(Debug)]
pub(super) struct Acceptor {
    rules: Arc<ListenerRules>,
    local: Address,
    /// The file of a Unix socket, which goes with the listener.
    _file: Option<SocketFile>,
    /// Connections may wait.
    waiting: bool,
    /// Nothing is accepted until this millisecond; 0 if it does not pause.
    pub until_ms: u64,
    /// A spare descriptor. It is closed when none are left, so that a waiting connection can be
    /// accepted and closed instead of hanging.
    reserve: Option<File>,
    /// Clients get only descriptors with smaller numbers.
    end: u64,
    /// When descriptors were last missing, until the log says that connections are accepted again.
    exhausted_ms: Option<u64>,
    /// Rate limit of the log line about connections that are not allowed.
    refused: LogRate,
    /// Its connections whose handshakes are under way.
    handshakes: Arc<AtomicU64>,
}

/// Time without a refusal after which the log says that connections are accepted again. If clients
/// come and go at the limit, there would otherwise be a line for each.
const ENOUGH_AGAIN_MS: u64 = 1000;
/// Interval of the log line about connections that are not allowed, milliseconds.
const LOG_EVERY_MS: u64 = 1000;
/// Time after which a listener with as many handshakes as it may have looks again, milliseconds.
const HANDSHAKES_PAUSE_MS: u64 = 10;

impl State {
    /// Accepts from a listener from now on.
    pub(super) fn listen(&mut self, listening: Listening) {
        if self.draining {
            return;
        }
        let Listening { rules, local, socket, file } = listening;
        let end = descriptors_for_clients(self.config.limits.descriptors_free_min);
        // Connections may wait already, of which no event tells.
        let place = self.acceptors.insert(Acceptor {
            rules,
            local,
            _file: file,
            waiting: true,
            until_ms: 0,
            reserve: open_reserve(),
            end,
            exhausted_ms: None,
            refused: LogRate::default(),
            handshakes: Arc::default(),
        });
        self.driver.listen(socket, place);
    }

    /// Closes the listener with this name, if there is one.
    pub(super) fn unlisten(&mut self, name: &Arc<str>) {
        let named = |acceptor: &Acceptor| acceptor.rules.info.name == *name;
        let places: Vec<usize> =
            self.acceptors.iter().filter(|(_, acceptor)| named(acceptor)).map(|(place, _)| place).collect();
        for place in places {
            self.acceptors.remove(place);
            self.driver.unlisten(place);
        }
    }

    /// Gives other properties to the listener with this name, for connections from now on.
    pub(super) fn relisten(&mut self, name: &Arc<str>, rules: &Arc<ListenerRules>) {
        let named = |acceptor: &Acceptor| acceptor.rules.info.name == *name;
        for (place, acceptor) in self.acceptors.iter_mut().filter(|(_, acceptor)| named(acceptor)) {
            if matches!(acceptor.local, Address::Tcp(_))
                && let Some(socket) = self.driver.listener(place)
                && let Err(error) = rules.socket.apply_to_listener(socket)
            {
                tracing::warn!("listener {name} keeps its socket options: {}", std::io::Error::from(error));
            }
            // The kernel takes no size back; the others stay as they are with 0.
            if rules.socket.receive_buffer_bytes == 0 && acceptor.rules.socket.receive_buffer_bytes > 0 {
                tracing::warn!(
                    "listener {name}: receive_buffer_bytes = 0 has its effect with the next start"
                );
            }
            acceptor.rules = Arc::clone(rules);
        }
    }

    /// Accepts no connection any more.
    pub(super) fn unlisten_all(&mut self) {
        for (place, _) in std::mem::take(&mut self.acceptors) {
            self.driver.unlisten(place);
        }
    }

    pub(super) fn connection_waits(&mut self, listener: usize) {
        if let Some(acceptor) = self.acceptors.get_mut(listener) {
            acceptor.waiting = true;
        }
    }

    /// Accepts a burst from each listener that has connections waiting. Returns whether there may
    /// be more.
    pub(super) fn accept_waiting(&mut self) -> bool {
        let mut more = false;
        let mut place = 0;
        // By number, because a connection that is opened may not borrow the table.
        while place < self.acceptors.capacity() && !self.acceptors.is_empty() {
            let now_ms = self.now.mono_ms;
            if let Some(acceptor) = self.acceptors.get_mut(place)
                && acceptor.waiting
                && acceptor.until_ms <= now_ms
            {
                acceptor.until_ms = 0;
                more |= self.accept_burst(place);
            }
            place += 1;
        }
        more
    }

    /// Accepts waiting connections. Returns whether there may be more.
    fn accept_burst(&mut self, place: usize) -> bool {
        for _ in 0..self.config.limits.accept_burst_max {
            if !self.may_accept(place) {
                return false;
            }
            let second = self.now.mono_ms / 1000;
            let Some(socket) = self.driver.listener(place) else { return false };
            let acceptor = &mut self.acceptors[place];
            match accept(socket, &acceptor.rules, &acceptor.local, acceptor.end) {
                Accepted::Connection(socket, peer) => {
                    let now_ms = self.now.mono_ms;
                    if acceptor.exhausted_ms.is_some_and(|last_ms| now_ms >= last_ms + ENOUGH_AGAIN_MS) {
                        acceptor.exhausted_ms = None;
                        tracing::info!("accepts connections on {} again", acceptor.local);
                        acceptor.reserve = acceptor.reserve.take().or_else(open_reserve);
                    }
                    self.admit(place, socket, peer);
                }
                Accepted::Closed => acceptor.rules.not_accepted(second),
                Accepted::Nobody => {
                    acceptor.rules.not_accepted(second);
                    acceptor.waiting = false;
                    return false;
                }
                Accepted::Reserved => {
                    acceptor.rules.not_accepted(second);
                    self.pause_accepting(place, None);
                    return false;
                }
                Accepted::Exhausted(errno) => {
                    acceptor.rules.not_accepted(second);
                    // The connection that has waited longest is accepted and closed, which would
                    // otherwise time out.
                    if acceptor.reserve.take().is_some() {
                        drop(accept(socket, &acceptor.rules, &acceptor.local, acceptor.end));
                    }
                    acceptor.reserve = open_reserve();
                    self.pause_accepting(place, Some(errno));
                    return false;
                }
            }
        }
        true
    }

    /// Whether a listener may accept one more connection now. If it may not, connections wait in its
    /// backlog: until the next second, or until a handshake has ended.
    fn may_accept(&mut self, place: usize) -> bool {
        let now_ms = self.now.mono_ms;
        let acceptor = &mut self.acceptors[place];
        let handshakes_max = acceptor.rules.layers.handshakes_max;
        if handshakes_max > 0 && acceptor.handshakes.load(Ordering::Relaxed) >= handshakes_max {
            // Asked again soon, because nothing else says that a handshake has ended.
            acceptor.until_ms = now_ms + HANDSHAKES_PAUSE_MS;
            return false;
        }
        if !acceptor.rules.may_accept(now_ms / 1000) {
            acceptor.until_ms = (now_ms / 1000 + 1) * 1000;
            return false;
        }
        true
    }

    /// Opens an accepted connection, unless its listener does not allow it.
    fn admit(&mut self, place: usize, socket: OwnedFd, peer: Peer) {
        let now_ms = self.now.mono_ms;
        let acceptor = &mut self.acceptors[place];
        let allowed = match (acceptor.rules.place(), Layered::new(&acceptor.rules, &peer)) {
            (None, _) => {
                let max = acceptor.rules.connections_max;
                Err(format!("the listener has {max} connections (connections_max)"))
            }
            (_, Err(error)) => Err(error.to_string()),
            (Some(taken), Ok(layered)) => Ok((taken, layered)),
        };
        match allowed {
            Ok((taken, mut layered)) => {
                if let Some(layered) = &mut layered {
                    layered.handshake = Some(HandshakePlace::new(&acceptor.handshakes));
                }
                self.open(Arrival { socket, peer, unread: None, layered, place: Some(taken) });
            }
            Err(why) => {
                net::count_refused_by_listener();
                let Some(unlogged) = acceptor.refused.record_within(LOG_EVERY_MS, now_ms) else { return };
                let from = peer.peer.map_or_else(String::new, |address| format!(" from {address}"));
                let more = match unlogged {
                    0 => String::new(),
                    more => format!("; {more} more since the last line"),
                };
                let name = &acceptor.rules.info.name;
                tracing::warn!("a connection{from} to listener {name} was closed: {why}{more}");
            }
        }
    }

    /// Accepts no connection for a while, and logs the reason once.
    fn pause_accepting(&mut self, place: usize, errno: Option<rustix::io::Errno>) {
        let limits = &self.config.limits;
        let acceptor = &mut self.acceptors[place];
        acceptor.until_ms = self.now.mono_ms + limits.accept_pause_ms;
        if acceptor.exhausted_ms.replace(self.now.mono_ms).is_some() {
            return;
        }
        let why = errno.map_or_else(
            || {
                let free = limits.descriptors_free_min;
                format!("only the {free} descriptors of limits.descriptors_free_min are left, which are not for clients")
            },
            |errno| std::io::Error::from(errno).to_string(),
        );
        tracing::error!(
            "cannot accept connections on {}: {why}; closes new ones until descriptors are free again (raise `ulimit -n`)",
            acceptor.local
        );
    }
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
