//! A shard's engine with its sockets, and the begin and end of each step. The tasks of the shard
//! (turn, acceptors, connections) borrow this for one poll each and never across an await. It uses
//! tasks and threads only through wakers.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use grapnel_engine::id::{ConnKey, ShardId};
use grapnel_engine::log_rate::LogRate;
use grapnel_engine::shard::{Closing, Envelope, Peer, Shard};
use grapnel_engine::time::Now;
use slab::Slab;

use super::alarm::Alarms;
use super::conn::{Conn, Linger, Phase, Token};
use super::handle::ShardHandle;
use super::heartbeat::Clock;
use super::limits::ShellLimits;
use super::mesh::Mesh;
use super::read_buffer::ReadBuffer;
use crate::net::Watch;
use crate::rt::Stream;

/// A step takes this fraction of the turn's budget for envelopes of other shards.
const STEPS_OF_A_TURN: usize = 8;
/// Number of free entries up to which tables of connections do not shrink.
const SPARE_PLACES: usize = 1024;

/// A connection that moves to its home shard.
#[derive(Debug)]
pub(crate) struct Handoff {
    /// Closed on drop if it does not arrive.
    pub socket: OwnedFd,
    /// Bytes that were read of it; the engine has taken none of them.
    pub unread: Vec<u8>,
    /// Where it comes from.
    pub peer: Peer,
}

/// The lanes between the shards.
pub(crate) type EngineMesh = Mesh<Envelope, Box<Handoff>>;

/// The data that all tasks of a shard share.
pub(crate) struct Shared {
    /// Borrowed for one poll at a time.
    pub state: RefCell<State>,
}

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
}

/// One shard's engine and connections.
pub(crate) struct State {
    pub(super) engine: Shard,
    pub(super) config: ShardConfig,
    pub(super) now: Now,
    pub(super) conns: Slab<Box<Conn>>,
    /// For each index of the engine's connection table: generation and token of the connection that
    /// has it now.
    by_key: Vec<Option<(u32, Token)>>,
    next_serial: u32,
    /// Connections whose task has not been started.
    opened: Vec<Token>,
    pub(super) scratch: Box<[u8]>,
    /// Size of the last bytes of ended connections.
    closing_bytes: usize,
    /// Reports the end of connections that are not read.
    pub(super) watch: Watch,
    pub(super) alarms: Alarms,
    /// Acceptors that wait, each with the millisecond until which it accepts nothing (0 if it waits
    /// for a connection).
    pub(super) acceptors: Slab<(u64, Waker)>,
    turn: Option<Waker>,
    /// When the turn's timer is due, milliseconds.
    pub(super) armed_ms: Option<u64>,
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

impl State {
    /// Makes a shard without connections.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(mut engine: Shard, config: ShardConfig) -> std::io::Result<State> {
        let watch = Watch::new()?;
        engine.set_call_cell(std::sync::Arc::clone(config.handle.heartbeat().call()));
        let scratch = vec![0; config.limits.read_scratch_bytes_max as usize].into_boxed_slice();
        Ok(State {
            engine,
            now: config.clock.now(),
            conns: Slab::new(),
            by_key: Vec::new(),
            next_serial: 0,
            opened: Vec::new(),
            scratch,
            closing_bytes: 0,
            watch,
            alarms: Alarms::default(),
            acceptors: Slab::new(),
            turn: None,
            armed_ms: None,
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
            self.wake_turn();
        }
    }

    /// Updates the engine's time. Returns whether sliced work is left.
    pub(super) fn advance(&mut self, now: Now) -> bool {
        self.now = now;
        self.engine.advance(now)
    }

    /// Ends a step of a connection or an acceptor. Takes some of the envelopes from other shards,
    /// so that a busy shard does not delay them; empties the outbox; wakes the turn if something is
    /// due. `spawns` if the caller itself starts the tasks of new connections.
    pub fn finish(&mut self, spawns: bool) {
        let budget = self.config.limits.turn_envelopes_max as usize / STEPS_OF_A_TURN;
        let behind = self.config.mesh.has_arrivals(self.id()) && self.take_arrivals(budget);
        self.empty_outbox();
        let due = self.next_due_ms();
        let late = due.is_some_and(|due| self.armed_ms.is_none_or(|armed| due < armed));
        if behind || late || self.draining || (!spawns && !self.opened.is_empty()) {
            self.wake_turn();
        }
        self.config.handle.heartbeat().end();
    }

    /// When the next timed work of the shard is due.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let acceptors =
            self.acceptors.iter().map(|(_, (until_ms, _))| *until_ms).filter(|until_ms| *until_ms > 0);
        [self.engine.next_deadline_ms(), self.alarms.next_ms(), acceptors.min()].into_iter().flatten().min()
    }

    /// Opens a new connection. If the engine has too many, the socket is closed. `brought` are the
    /// bytes that another shard has read of it.
    pub fn open(&mut self, socket: OwnedFd, peer: Peer, brought: Option<Vec<u8>>) {
        // The address is needed only for a handoff: by the shard that accepted the connection,
        // before the engine has taken any byte of it.
        let kept = (self.config.shards > 1 && brought.is_none()).then(|| Box::new(peer.clone()));
        // The engine may reuse the index of a connection that has just ended. That connection can
        // be found by its index only until then.
        self.begin_closing();
        let Some(key) = self.engine.open(peer) else { return };
        self.next_serial = self.next_serial.wrapping_add(1);
        let rest = ReadBuffer::brought(brought.unwrap_or_default());
        self.engine.charge_read_buffer(key, rest.memory());
        let conn = Conn::new(Stream::new(socket), key, self.next_serial, rest, kept);
        let token = self.conns.insert(Box::new(conn));
        let place = key.index as usize;
        if place >= self.by_key.len() {
            self.by_key.resize(place + 1, None);
        }
        self.by_key[place] = Some((key.generation, token));
        self.opened.push(token);
    }

    /// Takes a connection whose task has not been started.
    pub fn next_opened(&mut self) -> Option<Token> {
        self.opened.pop()
    }

    /// The connection of an engine's key, if the key is still valid.
    pub(super) fn token(&self, key: ConnKey) -> Option<Token> {
        let (generation, token) = (*self.by_key.get(key.index as usize)?)?;
        (generation == key.generation).then_some(token)
    }

    /// Removes the engine's key of a connection, because the engine has dropped the connection or
    /// will.
    pub(super) fn forget_key(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(token) else { return };
        let place = conn.key.index as usize;
        if self.by_key.get(place) != Some(&Some((conn.key.generation, token))) {
            return;
        }
        self.by_key[place] = None;
        // The engine reuses the lowest indexes first, so that entries of a burst of connections are
        // at the end.
        while self.by_key.last() == Some(&None) {
            self.by_key.pop();
        }
        if self.by_key.capacity() > SPARE_PLACES.max(4 * self.by_key.len()) {
            self.by_key.shrink_to(2 * self.by_key.len());
        }
    }

    /// Ends a connection, which sends nothing more; its task then removes it.
    pub(super) fn end(&mut self, token: Token) {
        self.forget_key(token);
        self.set_phase(token, Phase::Ended);
        self.conns[token].wake();
    }

    /// Removes a connection; dropping it closes its socket. Called only by its own task, which then
    /// ends.
    pub(super) fn remove(&mut self, token: Token) -> Box<Conn> {
        self.forget_key(token);
        self.set_phase(token, Phase::Ended);
        let conn = self.conns.remove(token);
        if self.conns.is_empty() && self.conns.capacity() > SPARE_PLACES {
            self.conns = Slab::new();
        }
        if conn.watched {
            self.watch.forget(conn.stream.as_fd());
        }
        conn
    }

    /// Sets the phase of a connection and counts its last bytes. Beyond `closing_bytes_max` the
    /// last bytes are dropped.
    pub(super) fn set_phase(&mut self, token: Token, mut phase: Phase) {
        let conn = &mut *self.conns[token];
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

    /// Makes the executor poll the turn.
    pub fn wake_turn(&self) {
        if let Some(waker) = &self.turn {
            waker.wake_by_ref();
        }
    }

    /// Sets the waker of the turn.
    pub(super) fn set_turn(&mut self, waker: &Waker) {
        if !self.turn.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.turn = Some(waker.clone());
        }
    }
}

/// Makes a shard without connections, in the form that its tasks share.
///
/// # Errors
/// The process has no descriptor left.
pub(crate) fn share(engine: Shard, config: ShardConfig) -> std::io::Result<Rc<Shared>> {
    Ok(Rc::new(Shared { state: RefCell::new(State::new(engine, config)?) }))
}
