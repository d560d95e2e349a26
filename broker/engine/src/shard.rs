//! One shard's engine: what the shell feeds with bytes, envelopes, completions and time, and what it takes bytes and
//! envelopes from. Everything a client experiences is decided below this type; the shell only moves bytes.
//!
//! Order of calls, all on the shard's thread: [`Shard::advance`] with the time of the step, then any of `open`, `receive`,
//! `closed`, `envelope`, `complete` and the commands, then the shell empties [`Shard::outbox`]. Nothing returned borrows a
//! session, so the shell may await between any two calls.

use std::sync::Arc;

use crate::flow::{
    admin, authority, commands, connect, ending, hooks, memory, notify, packets, reading, route, send,
    settle, timers, trace, turns, wake,
};
use crate::hook::notification::BrokerView;
use crate::hook::{CallCell, ChainTable, HookPoint, PluginHandle};
use crate::id::{ConnKey, ShardId};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::time::Now;

pub use crate::clients::reading::{Pause, Reading};
pub use crate::counters::Counters;
pub use crate::envelope::{Envelope, Lane};
pub use crate::flow::home::home_among;
pub use crate::hook::tickets::OwnedChange;
pub use crate::interface::*;
pub use crate::ledger::Ledger;
pub use crate::outbox::{BehalfRefused, Closing, ConnectRefused, Outbound, Outbox, RefusedAnswer, Revoked};
pub use crate::totals::Totals;

/// One shard's engine.
pub struct Shard {
    parts: Parts,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Shard({}, {} connections, {} sessions)",
            self.parts.setup.id,
            self.parts.connections.len(),
            self.parts.sessions.len()
        )
    }
}

impl Shard {
    /// An empty shard.
    pub fn new(setup: Setup) -> Shard {
        Shard { parts: Parts::new(setup) }
    }

    /// One input: what it does itself, and then whatever that has made possible, within the budget of a step.
    fn step<R>(&mut self, input: impl FnOnce(&mut Parts) -> R) -> R {
        wake::begin_step(&mut self.parts);
        let answer = input(&mut self.parts);
        settle::settle(&mut self.parts);
        answer
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.parts.setup.id
    }

    /// The time of the running step.
    pub fn now(&self) -> Now {
        self.parts.clock.now()
    }

    /// What the last calls left to be done.
    pub fn outbox(&mut self) -> &mut Outbox {
        if self.parts.router.has_changes() {
            route::announce_interest(&mut self.parts);
        }
        if self.parts.hooks.calls().faults().is_waiting() {
            hooks::judge_faults(&mut self.parts);
        }
        &mut self.parts.out
    }

    /// Where the shard says which plugin it is calling, for a watchdog on another thread. Before the first hook.
    pub fn set_call_cell(&mut self, calls: Arc<CallCell>) {
        self.parts.hooks.set_call_cell(calls);
    }

    /// Where all shards of the process count their connections and sessions. Before the first connection.
    pub fn share_totals(&mut self, totals: Arc<Totals>) {
        self.parts.connections.share_totals(Arc::clone(&totals));
        self.parts.sessions.share_totals(totals);
    }

    /// The shell has not taken what a plugin has answered, for this reason: too much of it. Nothing of it counts, and the ticket
    /// stays open. Nothing happens for a ticket that is closed.
    pub fn refuse_answer(&mut self, ticket: u64, reason: &str) {
        hooks::refuse_answer(&mut self.parts, ticket, reason);
    }

    /// Whether the shell takes messages of other shards now: not while many large fan-outs are under way, so that those who cause
    /// them wait, on whatever shard they are. What else comes is always taken.
    pub fn takes_messages(&self) -> bool {
        !self.parts.work.has_many_fanouts()
    }

    /// What clients make this shard hold, as of the last [`Shard::settle_memory`] or [`Shard::advance`].
    pub fn ledger(&self) -> Ledger {
        memory::ledger(&self.parts)
    }

    /// The same counted anew from every packet and message: linear in what is held, for tests.
    pub fn recount(&self) -> Ledger {
        memory::recount(&self.parts)
    }

    /// Timers that are armed, and how many of these somebody holds; the same, or one has been left behind. Linear, for tests.
    pub fn timers(&mut self) -> (usize, usize) {
        memory::timers(&mut self.parts)
    }

    /// How many bytes the shell has received from a connection that the engine has not taken: their memory, as it was asked for.
    pub fn charge_read_buffer(&mut self, conn: ConnKey, bytes: usize) {
        memory::charge_read_buffer(&mut self.parts, conn, bytes);
    }

    /// How many bytes the shell has of connections that have ended.
    pub fn charge_closing(&mut self, bytes: usize) {
        memory::charge_closing(&mut self.parts, bytes);
    }

    /// Brings the ledger up to date, and ends who holds most where a limit is passed. [`Shard::advance`] does it too.
    pub fn settle_memory(&mut self) {
        self.step(memory::settle_memory);
    }

    /// Whether a connection is read; `None` for a stale key.
    pub fn reading(&self, conn: ConnKey) -> Option<Reading> {
        reading::reading(&self.parts, conn)
    }

    /// Swaps the chain table; the old one comes back for the loader, which destroys instances only after it has it.
    pub fn swap_chains(&mut self, table: ChainTable) -> ChainTable {
        commands::swap_chains(&mut self.parts, table)
    }

    /// The instance of a version of a plugin that has left the chains is destroyed: what it had armed and asked for is forgotten. Until
    /// then it waits, and is there again where the version comes back into the chains, since the change was taken back.
    pub fn forget_plugin(&mut self, gone: PluginHandle) {
        commands::forget_plugin(&mut self.parts, gone);
    }

    /// The state of a plugin has gone over to the version that takes its place: what the one before is owed is answered to the other.
    /// Before the swap, in the same step.
    pub fn hand_answers_over(&mut self, from: PluginHandle, to: PluginHandle) {
        self.parts.hooks.plugins_mut().answers().hand_over(from, to);
    }

    /// The chains in force.
    pub fn chains(&self) -> &ChainTable {
        self.parts.hooks.chains()
    }

    /// Counters since the start, gauges brought up to date. Cheap to copy.
    pub fn counters(&mut self) -> &Counters {
        admin::gauges(&mut self.parts);
        &self.parts.counters
    }

    /// Connected clients and stored sessions, in no particular order, `limit` from the `cursor`-th place on, with the next
    /// cursor if there may be more.
    pub fn clients(&self, cursor: usize, limit: usize) -> (Vec<ClientSummary>, Option<usize>) {
        admin::clients(&self.parts, cursor, limit)
    }

    /// All about one client, if this shard has it.
    pub fn client(&self, client_id: &str) -> Option<ClientDetails> {
        admin::client(&self.parts, client_id)
    }

    /// Subscriptions of one client or of all, at least `limit` of them from the `cursor`-th session on if there are that
    /// many, with the next cursor if there may be more.
    pub fn subscriptions(
        &self,
        client_id: Option<&str>,
        cursor: usize,
        limit: usize,
    ) -> (Vec<SubscriptionRow>, Option<usize>) {
        admin::subscriptions(&self.parts, client_id, cursor, limit)
    }

    /// The rules of client.authorize have changed for these: what was remembered is asked again, and so are subscriptions in force.
    pub fn invalidate(&mut self, scope: Scope) {
        authority::invalidate(&mut self.parts, scope)
    }

    /// How far that has come, for who waits for its end.
    pub fn rechecks(&mut self) -> Rechecks {
        authority::rechecks(&mut self.parts)
    }

    /// So many commands of plugins have found no room with the shell: they are counted.
    pub fn note_commands_refused(&mut self, refused: u64) {
        self.parts.counters.plugin_commands_refused += refused;
    }

    /// So many requests on behalf of clients were refused by the shell, since too many answers wait for a plugin that is not called:
    /// they are counted.
    pub fn note_questions_refused(&mut self, refused: u64) {
        self.parts.counters.behalf_no_room += refused;
        self.parts.counters.behalf_refused += refused;
    }

    /// Does what a plugin has asked for. Between two events.
    pub fn command(&mut self, command: Command) {
        self.step(|parts| commands::command(parts, command))
    }

    /// What is to be sent on a connection, to be written from the front and `advance`d.
    pub fn outbound(&mut self, conn: ConnKey) -> Option<&mut Outbound> {
        send::outbound(&mut self.parts, conn)
    }

    /// Tells that bytes of a connection's outbound queue have left, so that waiting messages may move up.
    pub fn written(&mut self, conn: ConnKey) {
        self.step(|parts| packets::written(parts, conn))
    }

    /// A new connection, before its first byte. `None` when `connections_max` is reached or the broker drains: close the
    /// socket.
    pub fn open(&mut self, peer: Peer) -> Option<ConnKey> {
        connect::open(&mut self.parts, peer)
    }

    /// Disconnects a client with a reason (MQTT 5: DISCONNECT; 3.x: the socket closes). The session stays if it is persistent,
    /// unless `discard`. False if it is not here.
    pub fn kick(&mut self, client_id: &str, reason: ReasonCode, discard: bool) -> bool {
        self.step(|parts| ending::kick(parts, client_id, reason, discard))
    }

    /// Disconnects everybody with 0x8B and takes no new connection; the shell goes on until `drained`.
    pub fn drain(&mut self) {
        self.step(ending::drain)
    }

    /// Whether no connection is left.
    pub fn drained(&self) -> bool {
        ending::drained(&self.parts)
    }

    /// An envelope from another shard. Always taken, never refused.
    pub fn envelope(&mut self, from: ShardId, envelope: Envelope) {
        self.step(|parts| crate::flow::envelope::envelope(parts, from, envelope))
    }

    /// Bytes from a connection. A stale key answers `Closed`.
    pub fn receive(&mut self, key: ConnKey, input: Input<'_>) -> Received {
        packets::receive(&mut self.parts, key, input)
    }

    /// The connection's socket has ended; the key is stale afterwards. A stale key is ignored.
    pub fn closed(&mut self, key: ConnKey, why: Ended) {
        self.step(|parts| ending::closed(parts, key, why))
    }

    /// Envelopes have left the staging of some lane: publishers that waited for room may go on, first come first served. Once
    /// a turn.
    pub fn lanes_moved(&mut self) {
        self.step(settle::lanes_moved)
    }

    /// Tells of the broker itself: one of the points named `broker.…`. The shell calls it on one shard alone.
    pub fn notify_broker(&mut self, point: HookPoint, broker: BrokerView<'_>) {
        notify::notify_broker(&mut self.parts, point, broker)
    }

    /// When `advance` has something to do at the latest, in monotonic milliseconds; `None` while nothing is armed.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        timers::next_deadline_ms(&self.parts)
    }

    /// Everything that the socket of a connection in `overdue` held when it was listed has been offered: one that is still
    /// silent ends, whatever came later. A stale key is ignored, and so is one that is not overdue.
    pub fn deadline_checked(&mut self, key: ConnKey) {
        self.step(|parts| timers::deadline_checked(parts, key))
    }

    /// A deferred verdict. Late or doubled ones are counted and ignored.
    pub fn complete(&mut self, completion: Completion) {
        self.step(|parts| timers::complete(parts, completion))
    }

    /// Begins to remember the packets of a client, also of one that is yet to connect; `trace_lines_max` bounds them.
    pub fn trace_start(&mut self, client_id: &str) {
        trace::trace_start(&mut self.parts, client_id)
    }

    /// Takes what was remembered since the last call, with the number of lines lost to the bound.
    pub fn trace_take(&mut self, client_id: &str) -> (Vec<TraceLine>, u64) {
        trace::trace_take(&mut self.parts, client_id)
    }

    /// Forgets a trace.
    pub fn trace_stop(&mut self, client_id: &str) {
        trace::trace_stop(&mut self.parts, client_id)
    }

    /// Sets the time of the step and runs what is due: keep alive, deadlines, expiry, delayed wills, sliced work. Returns
    /// whether sliced work is left, so that the shell calls again after it has let others run.
    pub fn advance(&mut self, now: Now) -> bool {
        turns::advance(&mut self.parts, now)
    }

    /// Whether the last step left sliced work: the shell then calls [`Shard::advance`] once more, after others have run.
    pub fn has_work(&self) -> bool {
        turns::has_work(&self.parts)
    }
}
