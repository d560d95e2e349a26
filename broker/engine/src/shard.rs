//! The engine of one shard. The shell passes in bytes, envelopes, completions and time, and takes
//! out bytes and envelopes. The engine makes all protocol decisions; the shell only moves bytes.
//!
//! Order of calls, all on the shard's thread: [`Shard::advance`] with the time of the step, then
//! any of `open`, `identify`, `receive`, `closed`, `envelope`, `complete` and the commands, then
//! the shell empties [`Shard::outbox`]. Returned values borrow no session, so the shell may
//! handle other events between any two calls.

use std::sync::Arc;

use crate::flow::{
    admin, authority, commands, connect, ending, hooks, memory, notify, packets, reading, route, send,
    settle, timers, trace, turns, wake,
};
use crate::hook::notification::BrokerView;
use crate::hook::{CallCell, ChainTable, HookPoint, PluginHandle};
use crate::id::{ConnKey, ShardId};
use crate::limits::Limits;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::time::Now;

pub use crate::clients::reading::{Pause, Reading};
pub use crate::counters::Counters;
pub use crate::envelope::{Envelope, Lane};
pub use crate::flow::home::home_of_keys;
pub use crate::hook::tickets::OwnedChange;
pub use crate::interface::*;
pub use crate::ledger::Ledger;
pub use crate::mount_point::{Mount, MountPiece, MountPoint};
pub use crate::outbox::{
    BehalfRefused, Closing, ConnectLimit, ConnectRefused, Outbound, Outbox, RefusedAnswer, Revoked,
};
pub use crate::totals::Totals;

/// The engine of one shard.
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

    /// Handles one input, and then moves whatever it has made ready, within the budget of a step.
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

    /// Output and notices of the last calls, which the shell has to process.
    pub fn outbox(&mut self) -> &mut Outbox {
        if self.parts.router.has_changes() {
            route::announce_interest(&mut self.parts);
        }
        if self.parts.hooks.calls().faults().is_waiting() {
            hooks::trip_faulty_plugins(&mut self.parts);
        }
        &mut self.parts.out
    }

    /// Sets the cell in which the shard notes the plugin that it is calling, for a watchdog on
    /// another thread. Call it before the first hook.
    pub fn set_call_cell(&mut self, calls: Arc<CallCell>) {
        self.parts.hooks.set_call_cell(calls);
    }

    /// Replaces the limits, and what is allowed if no link of client.authorize decides
    /// (`authorization.no_match`). What a client was granted under the earlier limits stays: its
    /// subscriptions, stored messages, and what CONNACK announced. The limits of
    /// [`Limits::AT_START`](crate::limits::Limits::AT_START) do not change. Between two steps.
    pub fn set_rules(&mut self, limits: Arc<Limits>, no_match_allow: bool) {
        self.parts.set_rules(limits, no_match_allow);
    }

    /// Sets the totals in which all shards of the process count connections and sessions. Call it
    /// before the first connection.
    pub fn share_totals(&mut self, totals: Arc<Totals>) {
        self.parts.connections.share_totals(Arc::clone(&totals));
        self.parts.sessions.share_totals(totals);
    }

    /// Notes that the shell refused a plugin's answer for `reason`, because it was too large. The
    /// answer is ignored and the ticket stays open. A closed ticket is ignored.
    pub fn refuse_answer(&mut self, ticket: u64, reason: &str) {
        hooks::refuse_answer(&mut self.parts, ticket, reason);
    }

    /// Whether the shell may pass in messages of other shards now. False while too many large
    /// fan-outs are under way, so that their publishers wait, on whatever shard they are. Other
    /// envelopes are always accepted.
    pub fn takes_messages(&self) -> bool {
        !self.parts.work.has_many_fanouts()
    }

    /// Memory of this shard that clients cause, as of the last [`Shard::settle_memory`] or
    /// [`Shard::advance`].
    pub fn ledger(&self) -> Ledger {
        memory::ledger(&self.parts)
    }

    /// The same, counted anew from every packet and message. Linear in the amount of data; for
    /// tests.
    pub fn recount(&self) -> Ledger {
        memory::recount(&self.parts)
    }

    /// Number of armed timers, and how many of them have an owner. Unequal numbers mean a leaked
    /// timer. Linear; for tests.
    pub fn timers(&mut self) -> (usize, usize) {
        memory::timers(&mut self.parts)
    }

    /// Sets the allocated size of the shell's buffer with bytes of a connection that the engine has
    /// not consumed.
    pub fn charge_read_buffer(&mut self, conn: ConnKey, bytes: usize) {
        memory::charge_read_buffer(&mut self.parts, conn, bytes);
    }

    /// Sets how many bytes the shell holds for connections that have ended.
    pub fn charge_closing(&mut self, bytes: usize) {
        memory::charge_closing(&mut self.parts, bytes);
    }

    /// Updates the ledger. Where a limit is exceeded, ends the largest holders. [`Shard::advance`]
    /// does the same.
    pub fn settle_memory(&mut self) {
        self.step(memory::settle_memory);
    }

    /// Whether a connection is read; `None` for a stale key.
    pub fn reading(&self, conn: ConnKey) -> Option<Reading> {
        reading::reading(&self.parts, conn)
    }

    /// Swaps the chain table. Returns the old one to the loader, which destroys instances only
    /// after that.
    pub fn swap_chains(&mut self, table: ChainTable) -> ChainTable {
        commands::swap_chains(&mut self.parts, table)
    }

    /// Forgets timers and requests of a plugin version that has left the chains and whose instance
    /// is destroyed. Until this call they stay, so that the version finds them again if the change
    /// is taken back.
    pub fn forget_plugin(&mut self, gone: PluginHandle) {
        commands::forget_plugin(&mut self.parts, gone);
    }

    /// Directs answers that are owed to version `from` to version `to`, which has taken over its
    /// state. Call it before the swap, in the same step.
    pub fn redirect_answers(&mut self, from: PluginHandle, to: PluginHandle) {
        self.parts.hooks.plugins_mut().answers().hand_over(from, to);
    }

    /// The chain table in force.
    pub fn chains(&self) -> &ChainTable {
        self.parts.hooks.chains()
    }

    /// Counters since the start, with the gauges brought up to date. Cheap to copy.
    pub fn counters(&mut self) -> &Counters {
        admin::gauges(&mut self.parts);
        &self.parts.counters
    }

    /// Connected clients and stored sessions in no particular order: up to `limit`, beginning at
    /// position `cursor`. Also returns the next cursor if there may be more.
    pub fn clients(&self, cursor: usize, limit: usize) -> (Vec<ClientSummary>, Option<usize>) {
        admin::clients(&self.parts, cursor, limit)
    }

    /// Details of one client, if this shard has it.
    pub fn client(&self, client_id: &str) -> Option<ClientDetails> {
        admin::client(&self.parts, client_id)
    }

    /// The client identifier of a connection, once it has been admitted.
    pub fn client_id_of(&self, key: ConnKey) -> Option<&str> {
        admin::client_id_of(&self.parts, key)
    }

    /// Subscriptions of one client or of all, beginning at session `cursor`: at least `limit` if
    /// there are that many. Also returns the next cursor if there may be more.
    pub fn subscriptions(
        &self,
        client_id: Option<&str>,
        cursor: usize,
        limit: usize,
    ) -> (Vec<SubscriptionRow>, Option<usize>) {
        admin::subscriptions(&self.parts, client_id, cursor, limit)
    }

    /// Handles a change of the client.authorize rules: cached verdicts and subscriptions in force
    /// of `scope` are authorized again.
    pub fn invalidate(&mut self, scope: Scope) {
        authority::invalidate(&mut self.parts, scope)
    }

    /// Progress of these rechecks.
    pub fn rechecks(&mut self) -> Rechecks {
        authority::rechecks(&mut self.parts)
    }

    /// Counts commands of plugins for which the shell had no room.
    pub fn note_commands_refused(&mut self, refused: u64) {
        self.parts.counters.plugin_commands_refused += refused;
    }

    /// Counts requests on behalf of clients that the shell refused, because too many answers wait
    /// for a plugin that is not called.
    pub fn note_requests_refused(&mut self, refused: u64) {
        self.parts.counters.behalf_no_room += refused;
        self.parts.counters.behalf_refused += refused;
    }

    /// Executes a command of a plugin. Call it between two events.
    pub fn command(&mut self, command: Command) {
        self.step(|parts| commands::command(parts, command))
    }

    /// The outbound queue of a connection, to be written from the front and `advance`d.
    pub fn outbound(&mut self, conn: ConnKey) -> Option<&mut Outbound> {
        send::outbound(&mut self.parts, conn)
    }

    /// The same, to be looked at.
    pub fn queued(&self, conn: ConnKey) -> Option<&Outbound> {
        send::queued(&self.parts, conn)
    }

    /// Notes that bytes of a connection's outbound queue were written, so that waiting messages
    /// move up.
    pub fn written(&mut self, conn: ConnKey) {
        self.step(|parts| packets::written(parts, conn))
    }

    /// Opens a connection, before its first byte and before any handshake. `None` when `connections_max` or
    /// `connections_total_max` is reached or the broker drains: close the socket.
    pub fn open(&mut self, peer: Peer) -> Option<ConnKey> {
        connect::open(&mut self.parts, peer)
    }

    /// Replaces what is known of a connection, after its handshake and before its first MQTT byte is
    /// passed in. Returns false, and changes nothing, for a stale key and for a connection that has
    /// sent its CONNECT: the shell then closes the socket. After a handoff it is not needed, because
    /// [`Shard::open`] gets the same `peer`.
    #[must_use]
    pub fn identify(&mut self, conn: ConnKey, peer: Peer) -> bool {
        connect::identify(&mut self.parts, conn, peer)
    }

    /// Disconnects a client with a reason (MQTT 5: DISCONNECT; 3.x: the socket closes). A
    /// persistent session stays, unless `discard`. Returns false if the client is not here.
    pub fn kick(&mut self, client_id: &str, reason: ReasonCode, discard: bool) -> bool {
        self.step(|parts| ending::kick(parts, client_id, reason, discard))
    }

    /// Disconnects all clients with 0x8B and accepts no new connections. The shell continues until
    /// `drained`.
    pub fn drain(&mut self) {
        self.step(ending::drain)
    }

    /// Whether no connection is left.
    pub fn drained(&self) -> bool {
        ending::drained(&self.parts)
    }

    /// Handles an envelope from another shard. It is always accepted.
    pub fn envelope(&mut self, from: ShardId, envelope: Envelope) {
        self.step(|parts| crate::flow::envelope::envelope(parts, from, envelope))
    }

    /// Handles bytes from a connection. Returns `Closed` for a stale key.
    pub fn receive(&mut self, key: ConnKey, input: Input<'_>) -> Received {
        packets::receive(&mut self.parts, key, input)
    }

    /// Notes that the socket of a connection has ended. The key is stale afterwards; a stale key is
    /// ignored.
    pub fn closed(&mut self, key: ConnKey, why: Ended) {
        self.step(|parts| ending::closed(parts, key, why))
    }

    /// Lets publishers continue that waited for room in a lane, first come first served. Call it
    /// once a turn, after envelopes have left the staging of a lane.
    pub fn lanes_moved(&mut self) {
        self.step(settle::lanes_moved)
    }

    /// Notifies one of the points named `broker.…`. The shell calls it on one shard only.
    pub fn notify_broker(&mut self, point: HookPoint, broker: BrokerView<'_>) {
        notify::notify_broker(&mut self.parts, point, broker)
    }

    /// The latest time of the next `advance`, in monotonic milliseconds; `None` while no timer is
    /// armed.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        timers::next_deadline_ms(&self.parts)
    }

    /// Checks the deadline of a connection in `overdue`, after all bytes that its socket held when
    /// it was listed have been offered. Ends it if it is still silent. A key that is stale or not
    /// overdue is ignored.
    pub fn deadline_checked(&mut self, key: ConnKey) {
        self.step(|parts| timers::deadline_checked(parts, key))
    }

    /// Handles a deferred verdict. A late or repeated one is counted and ignored.
    pub fn complete(&mut self, completion: Completion) {
        self.step(|parts| timers::complete(parts, completion))
    }

    /// Begins to record the packets of a client, which may connect later. At most `trace_lines_max`
    /// lines are stored.
    pub fn trace_start(&mut self, client_id: &str) {
        trace::trace_start(&mut self.parts, client_id)
    }

    /// Takes what was recorded since the last call, and the number of lines lost to the limit.
    pub fn trace_take(&mut self, client_id: &str) -> (Vec<TraceLine>, u64) {
        trace::trace_take(&mut self.parts, client_id)
    }

    /// Ends a trace and drops its lines.
    pub fn trace_stop(&mut self, client_id: &str) {
        trace::trace_stop(&mut self.parts, client_id)
    }

    /// Sets the time of the step and runs what is due: keep alive, deadlines, expiry, delayed
    /// wills, sliced work. Returns whether sliced work is left; the shell then calls again after
    /// other tasks have run.
    pub fn advance(&mut self, now: Now) -> bool {
        turns::advance(&mut self.parts, now)
    }

    /// Whether the last step left sliced work. The shell then calls [`Shard::advance`] again after
    /// other tasks have run.
    pub fn has_work(&self) -> bool {
        turns::has_work(&self.parts)
    }
}
