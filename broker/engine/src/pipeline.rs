//! One shard's engine: what the shell feeds with bytes, envelopes, completions and time, and what it takes bytes and
//! envelopes from. Everything a client experiences is decided below this type; the shell only moves bytes.
//!
//! Order of calls, all on the shard's thread: [`Shard::advance`] with the time of the step, then any of `open`, `receive`,
//! `closed`, `envelope`, `complete` and the commands, then the shell empties [`Shard::outbox`]. Nothing returned borrows a
//! session, so the shell may await between any two calls.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use std::collections::{HashMap, VecDeque};

use crate::delivery::FrameCache;
use crate::hook::breaker::Breaker;
use crate::hook::tickets::Tickets;
use crate::hook::{CallCell, ChainTable};
use crate::id::{SessionKey, ShardId, Table};
use crate::limits::Limits;
use crate::message::Message;
use crate::route::retained::{Retained, RetainedLimits};
use crate::route::{RouteLimits, Routes};
use crate::session::Session;
use crate::time::Now;
use crate::timer::Wheel;

mod admin;
mod admission;
mod asking;
mod authority;
mod commands;
mod connack;
mod connect;
mod connection;
mod counters;
mod deliver;
mod ending;
mod envelope;
mod hooks;
mod outbox;
mod packets;
mod publish;
mod pump;
mod retained;
mod route;
mod subscribe;
mod tell;
mod timers;
mod trace;
mod turns;

pub use admin::{ClientDetails, ClientSummary, SubscriptionRow, TraceLine};
pub use authority::{Deliveries, Scope};
pub use commands::{Command, FROM_A_THREAD};
pub use counters::Counters;
pub use outbox::{Closing, Envelope, Lane, Outbound, Outbox};

use connection::Connection;
use timers::{Deadline, Overdue};
use trace::Trace;
use turns::FanOut;

/// What a shard is made with; the same for all shards but for `id` and `seed`.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This shard.
    pub id: ShardId,
    /// How many there are, 1 to 64.
    pub shards: usize,
    /// All bounds.
    pub limits: Arc<Limits>,
    /// `authorization.no_match`: whether what no link answers is allowed.
    pub no_match_allow: bool,
    /// Keys of the hashes that shards must agree on; random per process.
    pub keys: [u64; 4],
    /// Seed of this shard's own randomness.
    pub seed: u64,
}

/// What the engine knows of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its name, for conn info.
    pub name: Arc<str>,
    /// Whether a client without user name may come in where no link of client.authenticate answered.
    pub allow_anonymous: bool,
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Through which listener.
    pub listener: Arc<ListenerInfo>,
    /// The client's address.
    pub peer: SocketAddr,
    /// Our address.
    pub local: SocketAddr,
}

/// Bytes read from a connection, beginning at a packet's first byte.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// In the shard's scratch buffer: whatever outlives the call is copied.
    Scratch(&'a [u8]),
    /// In a buffer of their own, from which a large payload is taken without a copy.
    Owned(&'a Bytes),
}

/// What became of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes that were taken; the rest must be offered again, with more behind it.
    pub consumed: usize,
    /// What the shell does next.
    pub next: Next,
}

/// What the shell does after [`Shard::receive`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Read on. The rest, if any, is the beginning of a packet.
    Read,
    /// Read nothing until the outbox lists the connection in `resume`; then offer the rest again before reading.
    Pause,
    /// The client's home is another shard: move the socket there with all bytes from `consumed` on, `open` and offer them
    /// there. This engine has forgotten the connection.
    Handoff(ShardId),
    /// The connection has ended; what is still to be sent is in the outbox under `closing`. The engine has forgotten it.
    Closed,
}

/// Why the shell reports the end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The peer closed, or the socket failed: the will is sent.
    ByPeer,
    /// Nothing could be written for too long.
    Stuck,
    /// The shell is out of memory for partial packets.
    Overload,
}

/// A deferred verdict on its way back to its shard, made by the shell's ticket office from any thread.
#[derive(Debug)]
pub struct Completion {
    /// The ticket's number as it was given out by [`Shard`]; see [`ticket_shard`].
    pub ticket: u64,
    /// CONTINUE, STOP or FAULT.
    pub flow: grapnel_plugin_abi::raw::Flow,
    /// Changes of the accumulator, owned.
    pub changes: Vec<OwnedChange>,
}

/// A change that outlives the call it was made in.
#[derive(Clone, Debug)]
pub struct OwnedChange {
    /// Which field.
    pub field: grapnel_plugin_abi::raw::Field,
    /// Which of several.
    pub index: u32,
    /// The new number.
    pub number: u64,
    /// The new bytes, or the value of a pair.
    pub bytes: Bytes,
    /// The key of a pair.
    pub key: Bytes,
}

impl OwnedChange {
    /// The change as the accumulators take it.
    pub fn borrow(&self) -> grapnel_plugin_abi::host::FieldChange<'_> {
        grapnel_plugin_abi::host::FieldChange {
            field: self.field,
            index: self.index,
            number: self.number,
            bytes: &self.bytes,
            key: &self.key,
        }
    }
}

/// The shard that gave a ticket out: its highest byte.
pub const fn ticket_shard(ticket: u64) -> ShardId {
    ShardId((ticket >> 56) as u8)
}

/// One shard's engine.
pub struct Shard {
    setup: Setup,
    now: Now,
    conns: Table<Connection>,
    /// Connections whose CONNECT waits for an answer.
    admitting: u64,
    sessions: Table<Session>,
    by_client: HashMap<Arc<str>, SessionKey, ahash::RandomState>,
    routes: Routes,
    retained: Retained<Message>,
    chains: ChainTable,
    calls: Arc<CallCell>,
    breaker: Breaker,
    tickets: Tickets,
    /// 10 ms: tickets, barriers, CONNECT.
    deadlines: Wheel<Deadline>,
    /// 1 s: keep alive, expiry, delayed wills.
    seconds: Wheel<Overdue>,
    out: Outbox,
    counters: Counters,
    frames: FrameCache,
    /// State of the shard's own randomness.
    random: u64,
    /// How many messages have got a number here.
    messages: u64,
    hasher: ahash::RandomState,
    /// Deliveries of messages with more recipients than a turn takes, in order.
    fanouts: VecDeque<FanOut>,
    /// Sessions whose subscriptions are being taken down, a slice at a time.
    ending: VecDeque<SessionKey>,
    /// Sessions whose publish in front met a full lane, first come first served.
    lane_waiters: VecDeque<SessionKey>,
    /// Sessions whose SUBACK waits for the other shards.
    barrier_waiters: Vec<SessionKey>,
    /// Retained publishes that their owner is storing: which slot waits.
    stores: HashMap<u64, (SessionKey, u64), ahash::RandomState>,
    next_store: u64,
    /// Fetches of retained messages: which session waits.
    fetches: HashMap<u64, SessionKey, ahash::RandomState>,
    next_fetch: u64,
    /// Own scans that go on next turn.
    scans: VecDeque<retained::Scan>,
    traces: HashMap<Box<str>, Trace, ahash::RandomState>,
    scratch: Vec<u8>,
    draining: bool,
    desk: commands::PluginDesk,
    /// Version of the rules of client.authorize: what was decided under an older one is asked again.
    authz_epoch: u64,
    reviews: authority::Reviews,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Shard({}, {} connections, {} sessions)",
            self.setup.id,
            self.conns.len(),
            self.sessions.len()
        )
    }
}

impl Shard {
    /// An empty shard.
    pub fn new(setup: Setup) -> Shard {
        let limits = Arc::clone(&setup.limits);
        let size = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        let hasher =
            ahash::RandomState::with_seeds(setup.keys[0], setup.keys[1], setup.keys[2], setup.keys[3]);
        let route_limits = RouteLimits {
            topic_cache_entries_max: size(limits.topic_cache_entries_max),
            topic_cache_bytes_max: size(limits.topic_cache_bytes_max),
            shard_subscriptions_max: size(limits.shard_subscriptions_max),
            idle_filters_max: size(limits.idle_filters_max),
        };
        Shard {
            now: Now::default(),
            conns: Table::default(),
            admitting: 0,
            sessions: Table::default(),
            by_client: HashMap::with_hasher(hasher.clone()),
            routes: Routes::new(setup.id, setup.shards, setup.keys, route_limits),
            retained: Retained::new(RetainedLimits {
                retained_messages_max: size(limits.retained_messages_max),
                retained_bytes_max: size(limits.retained_bytes_max),
            }),
            chains: ChainTable::empty(),
            calls: Arc::default(),
            breaker: Breaker::default(),
            tickets: Tickets::new(setup.id, limits.tickets_max),
            deadlines: Wheel::new(10),
            seconds: Wheel::new(1000),
            out: Outbox::new(setup.shards),
            counters: Counters::default(),
            frames: FrameCache::default(),
            random: setup.seed | 1,
            messages: 0,
            fanouts: VecDeque::new(),
            ending: VecDeque::new(),
            lane_waiters: VecDeque::new(),
            barrier_waiters: Vec::new(),
            stores: HashMap::with_hasher(hasher.clone()),
            next_store: 1,
            fetches: HashMap::with_hasher(hasher.clone()),
            next_fetch: 1,
            scans: VecDeque::new(),
            traces: HashMap::with_hasher(hasher.clone()),
            scratch: Vec::new(),
            draining: false,
            desk: commands::PluginDesk::default(),
            authz_epoch: 0,
            reviews: authority::Reviews::default(),
            hasher,
            setup,
        }
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.setup.id
    }

    /// The time of the running step.
    pub fn now(&self) -> Now {
        self.now
    }

    fn limits(&self) -> &Limits {
        &self.setup.limits
    }

    /// The next number of the shard's own randomness (splitmix64): for choices, never for secrets.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number for a message: this shard's in the highest byte, then a count.
    fn next_message_id(&mut self) -> u64 {
        self.messages += 1;
        u64::from(self.setup.id.0) << 56 | self.messages
    }

    /// What the last calls left to be done.
    pub fn outbox(&mut self) -> &mut Outbox {
        self.tell_interest();
        if self.calls.faults().is_waiting() {
            self.judge_faults();
        }
        &mut self.out
    }

    /// Trips the plugins that have failed too often, on this shard; the outbox names them.
    #[cold]
    fn judge_faults(&mut self) {
        let bounds = (self.limits().breaker_faults_max, self.limits().breaker_window_ms);
        let (calls, now_ms) = (Arc::clone(&self.calls), self.now.mono_ms);
        for (plugin, count) in calls.faults().take() {
            self.counters.hook_faults += count;
            if self.breaker.note(plugin, count, now_ms, bounds) {
                self.chains.trip(plugin);
                self.out.tripped.push(plugin);
            }
        }
    }

    /// Where the shard says which plugin it is calling, for a watchdog on another thread. Before the first hook.
    pub fn set_call_cell(&mut self, calls: Arc<CallCell>) {
        self.calls = calls;
    }

    /// Swaps the chain table; the old one comes back for the loader, which destroys instances only after it has it.
    pub fn swap_chains(&mut self, table: ChainTable) -> ChainTable {
        let old = std::mem::replace(&mut self.chains, table);
        let gone = old.plugins_gone(&self.chains);
        if !old.authorizes_like(&self.chains) {
            self.invalidate(Scope::All);
        }
        self.settle_plugins(&gone);
        old
    }

    /// The chains in force.
    pub fn chains(&self) -> &ChainTable {
        &self.chains
    }

    /// Counters since the start, gauges brought up to date. Cheap to copy.
    pub fn counters(&mut self) -> &Counters {
        self.counters.connections_count = self.conns.len() as u64;
        self.counters.sessions_count = (self.sessions.len() - self.plugin_sessions()) as u64;
        self.counters.subscriptions_count = self.routes.stats().subscriptions as u64;
        self.counters.messages_retained_count = self.retained.len() as u64;
        self.counters.messages_retained_bytes = self.retained.bytes() as u64;
        &self.counters
    }
}
