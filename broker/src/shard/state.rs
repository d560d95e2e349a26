//! A shard's engine with its sockets, and the begin of each step. The shard's loop (`turn.rs`) owns
//! it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use grapnel_engine::chunk_table::ChunkTable;
use grapnel_engine::id::{ConnKey, ShardId};
use grapnel_engine::log_rate::LogRate;
use grapnel_engine::shard::{Closing, Envelope, Peer, Shard};
use grapnel_engine::time::Now;
use slab::Slab;

use super::acceptor::Acceptor;
use super::alarm::Alarms;
use super::conn::{Conn, Linger, Phase, Token};
use super::handle::ShardHandle;
use super::heartbeat::Clock;
use super::layered::Layered;
use super::limits::ShellLimits;
use super::mesh::Mesh;
use super::read_buffer::ReadBuffer;
use crate::net::ListenerPlace;
use crate::rt::{BufferSizes, Driver, Io, Wakeup};

/// Number of free entries up to which the table of keys does not shrink.
const SPARE_PLACES: usize = 1024;

/// A connection that comes to a shard: from a listener, or from the shard that accepted it.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Closed on drop if it does not arrive.
    pub socket: OwnedFd,
    /// Where it comes from.
    pub peer: Peer,
    /// Bytes that another shard has received of it; the engine has taken none of them. `None` if it
    /// comes from a listener.
    pub unread: Option<Vec<u8>>,
    /// Its layers.
    pub layered: Option<Box<Layered>>,
    /// Its place among the connections of its listener.
    pub place: Option<ListenerPlace>,
}

/// The lanes between the shards.
pub(crate) type EngineMesh = Mesh<Envelope, Box<Arrival>>;

/// What a shard needs beside its engine.
pub(crate) struct ShardConfig {
    /// Limits of the sockets and lanes.
    pub limits: Arc<ShellLimits>,
    /// The handle by which other threads reach the shard.
    pub handle: ShardHandle,
    /// The lanes to other shards.
    pub mesh: Arc<EngineMesh>,
    /// The process's clock.
    pub clock: Clock,
    /// How many shards there are.
    pub shards: usize,
    /// How the shard waits for its sockets.
    pub io: Io,
}

/// The connection that has an index of the engine's connection table now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Keyed {
    generation: u32,
    token: u32,
}

impl Keyed {
    /// None: no key of the engine has the generation 0.
    const NONE: Keyed = Keyed { generation: 0, token: 0 };

    fn new(key: ConnKey, token: Token) -> Keyed {
        Keyed { generation: key.generation, token: token as u32 }
    }
}

/// One shard's engine and connections.
pub(crate) struct State {
    pub(super) engine: Shard,
    pub(super) config: ShardConfig,
    pub(super) now: Now,
    pub(super) conns: ChunkTable<Conn>,
    /// By the index of the engine's connection table.
    pub(super) by_key: Vec<Keyed>,
    next_serial: u32,
    /// Connections that are to be continued without an event of their sockets.
    pub(super) listed: VecDeque<Token>,
    pub(super) driver: Driver,
    pub(super) wakeup: Arc<Wakeup>,
    /// Bytes offered to the engine since the outbox was emptied.
    pub(super) offered_bytes: usize,
    /// Connections whose layers are not open.
    /// Of these, how many hold bytes until it is their turn.
    pub(super) held_handshakes: u64,
    /// Steps of handshakes that are left in this round.
    pub(super) handshake_steps: usize,
    /// Decoded bytes; empty between two steps.
    pub(super) decoded: Vec<u8>,
    /// Rate limit of the log line about connections that their layers have refused.
    pub(super) layers_refused: LogRate,
    /// The last round has left it to this one to send.
    pub(super) postponed: bool,
    /// Size of the last bytes of ended connections.
    closing_bytes: usize,
    pub(super) alarms: Alarms,
    pub(super) acceptors: Slab<Acceptor>,
    /// The turn has more to do than wait.
    pub(super) turn_due: bool,
    /// The shard whose data lane is read next.
    pub(super) next_lane: ShardId,
    /// No connection is accepted any more.
    pub(super) draining: bool,
    /// Lists that are swapped with the engine's, so that both reuse their memory.
    pub(super) spare_keys: Vec<ConnKey>,
    pub(super) spare_closing: Vec<Closing>,
    /// Rate limit of the log line about refused commands of plugins.
    pub(super) commands_refused: LogRate,
}

/// The connection of an engine's key, if the key is still valid.
pub(super) fn token_of(by_key: &[Keyed], key: ConnKey) -> Option<Token> {
    let keyed = by_key.get(key.index as usize)?;
    (keyed.generation == key.generation).then_some(keyed.token as usize)
}

impl State {
    /// Makes a shard without connections.
    ///
    /// # Errors
    /// The kernel refuses a driver, or the process has no descriptor left.
    pub fn new(mut engine: Shard, config: ShardConfig) -> std::io::Result<State> {
        let limits = &config.limits;
        let sizes = BufferSizes {
            read: limits.read_scratch_bytes_max as usize,
            turn: limits.read_turn_bytes_max as usize,
        };
        let wakeup = Arc::new(Wakeup::new()?);
        let driver = Driver::new(config.io, sizes, Arc::clone(&wakeup))?;
        config.handle.signal().register(Arc::clone(&wakeup).into());
        engine.set_call_cell(std::sync::Arc::clone(config.handle.heartbeat().call()));
        Ok(State {
            engine,
            now: config.clock.now(),
            conns: ChunkTable::default(),
            by_key: Vec::new(),
            next_serial: 0,
            listed: VecDeque::new(),
            driver,
            wakeup,
            offered_bytes: 0,
            held_handshakes: 0,
            handshake_steps: 0,
            decoded: Vec::new(),
            layers_refused: LogRate::default(),
            postponed: false,
            closing_bytes: 0,
            alarms: Alarms::default(),
            acceptors: Slab::new(),
            // What other threads have sent before the start is taken in the first turn.
            turn_due: true,
            next_lane: ShardId(0),
            draining: false,
            commands_refused: LogRate::default(),
            spare_keys: Vec::new(),
            spare_closing: Vec::new(),
            config,
        })
    }

    pub(super) fn id(&self) -> ShardId {
        self.config.handle.id()
    }

    /// Begins a step: updates the heartbeat and the engine's time.
    pub fn begin(&mut self) {
        let now = self.config.clock.now();
        self.config.handle.heartbeat().begin(now.mono_ms);
        if now.mono_ms != self.now.mono_ms && self.advance(now) {
            self.turn_due = true;
        }
    }

    /// Updates the engine's time. Returns whether sliced work is left.
    pub(super) fn advance(&mut self, now: Now) -> bool {
        self.now = now;
        self.engine.advance(now)
    }

    /// When the next timed work of the shard is due.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let acceptors =
            self.acceptors.iter().map(|(_, acceptor)| acceptor.until_ms).filter(|until_ms| *until_ms > 0);
        [self.engine.next_deadline_ms(), self.alarms.next_ms(), acceptors.min()].into_iter().flatten().min()
    }

    /// Opens a new connection. If the engine has too many, the socket is closed.
    pub fn open(&mut self, arrival: Arrival) {
        let Arrival { socket, peer, unread, layered, place } = arrival;
        // What is known of the peer is needed for a handoff, by the shard that accepted the
        // connection, and until the layers have told the rest.
        let handshake = layered.as_ref().is_some_and(|layered| !layered.identified);
        let kept = (self.config.shards > 1 && unread.is_none() || handshake).then(|| Box::new(peer.clone()));
        // The engine may reuse the index of a connection that has just ended. That connection can
        // be found by its index only until then.
        self.begin_closing();
        let Some(key) = self.engine.open(peer) else { return };
        self.next_serial = self.next_serial.wrapping_add(1);
        let rest = ReadBuffer::brought(unread.unwrap_or_default());
        let (driver, serial) = (&mut self.driver, self.next_serial);
        let token = self.conns.insert_with(|token| Conn::new(driver.add(socket, token), key, serial, rest));
        let conn = &mut self.conns[token];
        (conn.peer, conn.layered, conn.place) = (kept, layered, place);
        self.engine.charge_read_buffer(key, conn.memory());
        if handshake
            && let Some(ms) = conn.layered.as_ref().and_then(|layered| layered.handshake_timeout_ms())
        {
            conn.set_alarm(token, self.now.mono_ms + ms, &mut self.alarms);
        }
        let resumed = conn.resumed;
        let place = key.index as usize;
        if place >= self.by_key.len() {
            self.by_key.resize(place + 1, Keyed::NONE);
        }
        self.by_key[place] = Keyed::new(key, token);
        if resumed { self.list(token) } else { self.read(token) }
    }

    /// Continues a connection soon.
    pub(super) fn list(&mut self, token: Token) {
        let conn = &mut self.conns[token];
        if !std::mem::replace(&mut conn.listed, true) {
            self.listed.push_back(token);
        }
    }

    /// The connection of an engine's key, if the key is still valid.
    pub(super) fn token(&self, key: ConnKey) -> Option<Token> {
        token_of(&self.by_key, key)
    }

    /// Removes the engine's key of a connection, because the engine has dropped the connection or
    /// will.
    pub(super) fn forget_key(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(token) else { return };
        let place = conn.key.index as usize;
        if self.by_key.get(place) != Some(&Keyed::new(conn.key, token)) {
            return;
        }
        self.by_key[place] = Keyed::NONE;
        // The engine reuses the lowest indexes first, so that entries of a burst of connections are
        // at the end.
        while self.by_key.last() == Some(&Keyed::NONE) {
            self.by_key.pop();
        }
        if self.by_key.capacity() > SPARE_PLACES.max(4 * self.by_key.len()) {
            self.by_key.shrink_to(2 * self.by_key.len());
        }
    }

    /// Ends a connection, which sends nothing more. It is removed later, because the caller may
    /// still have its token.
    pub(super) fn end(&mut self, token: Token) {
        self.forget_key(token);
        self.set_phase(token, Phase::Ended);
        self.list(token);
    }

    /// Counts a connection no longer among those whose layers are not open.
    pub(super) fn end_handshake(&mut self, token: Token) {
        let layered = self.conns[token].layered.as_mut().filter(|layered| !layered.identified);
        if let Some(layered) = layered {
            layered.identified = true;
            layered.handshake = None;
            self.held_handshakes -= u64::from(!layered.held.is_empty());
            layered.held = Vec::new();
        }
    }

    /// Removes a connection and closes its socket.
    pub(super) fn remove(&mut self, token: Token) {
        let conn = self.take(token);
        self.driver.remove(conn.socket);
    }

    /// Removes a connection from the tables. Its socket stays with the driver.
    pub(super) fn take(&mut self, token: Token) -> Conn {
        self.forget_key(token);
        self.set_phase(token, Phase::Ended);
        self.end_handshake(token);
        self.conns.take(token).expect("it was there one line above")
    }

    /// Sets the phase of a connection and counts its last bytes. Beyond `closing_bytes_max` the
    /// last bytes are dropped.
    pub(super) fn set_phase(&mut self, token: Token, mut phase: Phase) {
        let conn = &mut self.conns[token];
        let mut closing_bytes = self.closing_bytes - conn.phase.bytes();
        if (closing_bytes + phase.bytes()) as u64 > self.config.limits.closing_bytes_max
            && let Phase::Lingering(linger) = &mut phase
        {
            **linger = Linger::default();
        }
        closing_bytes += phase.bytes();
        conn.phase = phase;
        if closing_bytes != self.closing_bytes {
            self.closing_bytes = closing_bytes;
            self.engine.charge_closing(closing_bytes);
        }
    }
}
