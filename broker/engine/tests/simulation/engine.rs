//! The only file of the simulator that calls the engine: shards, the lanes between them and the
//! clock. It empties the outbox and returns plain events in a fixed order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use grapnel_engine::hook::{ChainTable, HookPoint, InstanceEntry, Link, PluginHandle};
use grapnel_engine::id::{ConnKey, ShardId};
use grapnel_engine::limits::Limits;
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{
    BehalfAction, BehalfClient, ClientDetails, Command, Completion, Counters, Ended, Envelope, Input, Lane,
    ListenerInfo, Next, OnBehalf, OwnedChange, Peer, Scope, Setup, Shard,
};
use grapnel_engine::time::Now;
use grapnel_plugin_abi::raw::Flow;

/// A connection: its shard and its key there.
pub type Place = (usize, ConnKey);

/// Work of a step for the code outside of the engine.
#[derive(Debug)]
pub enum Event {
    /// A connection has ended with these last bytes.
    Closing(Place, Vec<u8>),
    /// A connection has bytes to send.
    Dirty(Place),
    /// A connection is to be read again.
    Resume(Place),
    /// A connection should have sent something by now.
    Overdue(Place),
    /// A plugin has failed too often.
    Tripped(PluginHandle),
}

/// The result of an offer of bytes.
pub enum Offered {
    Read(usize),
    Paused(usize),
    Closed(usize),
    /// The connection continues at this place, and no bytes were taken. `None` if that shard
    /// accepts no connection.
    Moved(Option<Place>),
}

pub struct Engine {
    shards: Vec<Shard>,
    /// Envelopes between two shards, by `from * shards + to`, for both kinds of lanes.
    lanes: Vec<[VecDeque<Envelope>; 2]>,
    held: Vec<bool>,
    now: Now,
    peer: Peer,
    /// Number of chain tables that were mounted.
    tables: u64,
}

const BATCH: usize = 64;

impl Engine {
    pub fn new(shards: usize, limits: Limits, no_match_allow: bool, seed: u64) -> Engine {
        let limits = Arc::new(limits);
        let setup = |index: usize| Setup {
            id: ShardId(index as u8),
            shards,
            limits: Arc::clone(&limits),
            no_match_allow,
            keys: [seed | 1, 2, 3, 4],
            seed: seed + index as u64,
        };
        let listener =
            Arc::new(ListenerInfo { name: "test".into(), allow_anonymous: true, ..ListenerInfo::default() });
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let mut engine = Engine {
            shards: (0..shards).map(|index| Shard::new(setup(index))).collect(),
            lanes: (0..shards * shards).map(|_| [VecDeque::new(), VecDeque::new()]).collect(),
            held: vec![false; shards * shards],
            now: Now { mono_ms: 1000, wall_ms: 1_700_000_000_000 },
            peer: Peer::new(listener, address(40000), address(1883)),
            tables: 0,
        };
        engine.pass_ms(0);
        engine
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    pub fn now_ms(&self) -> u64 {
        self.now.mono_ms
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        for shard in &mut self.shards {
            shard.advance(self.now);
        }
    }

    pub fn open(&mut self, shard: usize) -> Option<Place> {
        let key = self.shards[shard].open(self.peer.clone())?;
        Some((shard, key))
    }

    pub fn offer(&mut self, (shard, key): Place, bytes: &Bytes, owned: bool) -> Offered {
        let input = if owned { Input::Owned(bytes) } else { Input::Scratch(bytes) };
        let received = self.shards[shard].receive(key, input);
        match received.next {
            Next::Read => Offered::Read(received.consumed),
            Next::Pause => Offered::Paused(received.consumed),
            Next::Closed => Offered::Closed(received.consumed),
            Next::Handoff(home) => Offered::Moved(self.open(home.index())),
        }
    }

    pub fn closed(&mut self, (shard, key): Place, stuck: bool) {
        self.shards[shard].closed(key, if stuck { Ended::Stuck } else { Ended::ByPeer });
    }

    pub fn deadline_checked(&mut self, (shard, key): Place) {
        self.shards[shard].deadline_checked(key);
    }

    /// Takes at most `most` bytes from a connection.
    pub fn take_bytes(&mut self, (shard, key): Place, most: usize, into: &mut Vec<u8>) {
        let Some(outbound) = self.shards[shard].outbound(key) else { return };
        let mut left = most;
        while left > 0 && !outbound.is_empty() {
            let front = outbound.front();
            let count = front.len().min(left);
            into.extend_from_slice(&front[..count]);
            outbound.advance(count);
            left -= count;
        }
        if left < most {
            self.shards[shard].written(key);
        }
    }

    /// One turn of every shard: timers and sliced work, then the outbox, then the lanes by one hop.
    /// Returns whether anything has moved.
    pub fn turn(&mut self, events: &mut Vec<Event>) -> bool {
        let mut moved = false;
        for index in 0..self.shards.len() {
            moved |= self.shards[index].advance(self.now);
            self.take_events(index, events);
        }
        for from in 0..self.shards.len() {
            moved |= self.move_lanes(from);
        }
        self.collect(events);
        moved || !events.is_empty()
    }

    /// Collects the events of calls since the turn.
    pub fn collect(&mut self, events: &mut Vec<Event>) {
        for index in 0..self.shards.len() {
            self.take_events(index, events);
        }
    }

    fn take_events(&mut self, index: usize, events: &mut Vec<Event>) {
        let outbox = self.shards[index].outbox();
        // Ended connections come first: another connection of the same client may have begun in the
        // same step.
        for mut closing in outbox.closing.drain(..) {
            let mut last = Vec::new();
            while !closing.outbound.is_empty() {
                last.extend_from_slice(closing.outbound.front());
                let count = closing.outbound.front().len();
                closing.outbound.advance(count);
            }
            events.push(Event::Closing((index, closing.conn), last));
        }
        events.extend(outbox.dirty.drain(..).map(|key| Event::Dirty((index, key))));
        events.extend(outbox.resume.drain(..).map(|key| Event::Resume((index, key))));
        events.extend(outbox.overdue.drain(..).map(|key| Event::Overdue((index, key))));
        events.extend(outbox.tripped.drain(..).map(Event::Tripped));
    }

    fn move_lanes(&mut self, from: usize) -> bool {
        let count = self.shards.len();
        let mut moved = false;
        for to in (0..count).filter(|to| *to != from) {
            let pair = from * count + to;
            if self.held[pair] {
                continue;
            }
            for (which, lane) in [Lane::Control, Lane::Data].into_iter().enumerate() {
                if lane == Lane::Data && !self.shards[to].takes_messages() {
                    continue;
                }
                let mut batch = Vec::new();
                self.shards[from].outbox().take_batch(ShardId(to as u8), lane, BATCH, &mut batch);
                self.lanes[pair][which].extend(batch);
                while let Some(envelope) = self.lanes[pair][which].pop_front() {
                    moved = true;
                    self.shards[to].envelope(ShardId(from as u8), envelope);
                }
            }
        }
        self.shards[from].lanes_moved();
        moved
    }

    pub fn hold(&mut self, from: usize, to: usize, on: bool) {
        let count = self.shards.len();
        self.held[from % count * count + to % count] = on;
    }

    pub fn release_all(&mut self) {
        self.held.fill(false);
    }

    pub fn any_held(&self) -> bool {
        self.held.contains(&true)
    }

    /// Mounts the links and the plugin instances on every shard; some plugins are suspended.
    pub fn mount(
        &mut self,
        links: &[(HookPoint, Link)],
        instances: &[(PluginHandle, InstanceEntry)],
        suspended: &[PluginHandle],
    ) {
        self.tables += 1;
        for shard in &mut self.shards {
            let table = ChainTable::compile(self.tables, links.iter().cloned());
            shard.swap_chains(
                table.with_instances(instances.to_vec()).with_suspended_plugins(suspended.to_vec()),
            );
        }
    }

    /// Hands the state of a plugin to another version, on every shard.
    pub fn hand_over(&mut self, from: PluginHandle, to: PluginHandle) {
        self.shards.iter_mut().for_each(|shard| shard.redirect_answers(from, to));
    }

    /// A request of a plugin on behalf of a client, on the client's shard, or on the first shard if
    /// it has none.
    pub fn on_behalf(&mut self, client_id: &str, plugin: PluginHandle, answer: u64, action: BehalfAction) {
        let home = self.shards.iter().position(|shard| shard.client(client_id).is_some());
        let client = BehalfClient::Client(client_id.into());
        let request = OnBehalf { plugin, client, answer: Some(answer), action };
        self.shards[home.unwrap_or(0)].command(Command::As(Box::new(request)));
    }

    pub fn complete(&mut self, ticket: u64, flow: Flow, changes: Vec<OwnedChange>) {
        let shard = grapnel_engine::shard::ticket_shard(ticket).index();
        self.shards[shard].complete(Completion { ticket, flow, changes });
    }

    pub fn invalidate(&mut self, scope: &Scope) {
        for shard in &mut self.shards {
            shard.command(Command::Invalidate(scope.clone()));
        }
    }

    pub fn kick(&mut self, client_id: &str, discard: bool) {
        for shard in &mut self.shards {
            shard.kick(client_id, ReasonCode::ADMINISTRATIVE_ACTION, discard);
        }
    }

    /// Describes the first shard whose ledger differs from the sum of its holders, or which has a
    /// timer without an owner.
    pub fn wrong_ledger(&mut self) -> Option<String> {
        self.shards.iter_mut().find_map(|shard| {
            let (armed, timers) = shard.timers();
            if armed != timers {
                return Some(format!("{shard:?} has {armed} timers armed, of which {timers} are held"));
            }
            let (mut counted, mut held) = (shard.ledger(), shard.recount());
            // Work that a step leaves to the next may move at any call.
            for _ in 0..100 {
                shard.settle_memory();
                (counted, held) = (shard.ledger(), shard.recount());
                if counted == held {
                    break;
                }
            }
            (counted != held).then(|| format!("{shard:?} counts {counted:?} and holds {held:?}"))
        })
    }

    pub fn details(&self, client_id: &str) -> Option<ClientDetails> {
        self.shards.iter().find_map(|shard| shard.client(client_id))
    }

    /// The filters that a client has subscribed to.
    pub fn filters(&self, client_id: &str) -> Vec<String> {
        let rows = self.shards.iter().flat_map(|shard| shard.subscriptions(Some(client_id), 0, 1000).0);
        rows.map(|row| row.filter).collect()
    }

    /// The wall clock, milliseconds.
    pub fn wall_ms(&self) -> u64 {
        self.now.wall_ms
    }

    /// Counters of all shards.
    pub fn counters(&mut self) -> Counters {
        let mut all = Counters::default();
        for shard in &mut self.shards {
            all.add(shard.counters());
        }
        all
    }
}
