//! The hook state of a shard: the chains in force, tickets, faults, and what is stored for plugins.
//! The flows call it; it runs no chain.

use std::collections::HashMap;
use std::sync::Arc;

use crate::hook::breaker::Breaker;
use crate::hook::tickets::{OpenTicket, Tickets};
use crate::hook::{CallCell, Chain, ChainTable, HookPoint, LinkIdentity, PluginHandle};
use crate::id::ShardId;
use crate::interface::Scope;
use crate::limits::Limits;
use crate::log_rate::LogRate;
use crate::plugins::{Cleanup, PluginStore};
use crate::recheck_queue::RecheckQueue;
use crate::rules::Rules;
use crate::timer::Timer;

/// The hook state of a shard.
#[derive(Debug)]
pub(crate) struct Hooks {
    chains: ChainTable,
    /// Number of calls of the links of earlier tables.
    calls_before: u64,
    calls: Arc<CallCell>,
    breaker: Breaker,
    tickets: Tickets,
    plugins: PluginStore,
    rules: Rules,
    rechecks: RecheckQueue,
    refusals: Refusals,
}

/// What is needed to run a chain.
pub(crate) struct ChainContext<'a> {
    pub(crate) chain: &'a mut Chain,
    /// The call cell, which shows the link that is running.
    pub(crate) calls: &'a Arc<CallCell>,
    /// Tickets for links that defer.
    pub(crate) tickets: &'a mut Tickets,
}

/// Rate limits, by link, of the log lines about refused changes.
#[derive(Debug)]
struct Refusals {
    links: HashMap<LinkIdentity, LogRate, ahash::RandomState>,
}

/// Minimum interval between log lines about refused changes of one hook, milliseconds.
const REFUSAL_LOGGED_EVERY_MS: u64 = 1_000;

impl Hooks {
    pub(crate) fn new(shard: ShardId, tickets_max: u64, hasher: ahash::RandomState) -> Hooks {
        Hooks {
            chains: ChainTable::empty(),
            calls_before: 0,
            calls: Arc::default(),
            breaker: Breaker::default(),
            tickets: Tickets::new(shard, tickets_max),
            plugins: PluginStore::default(),
            rules: Rules::new(hasher.clone()),
            rechecks: RecheckQueue::default(),
            refusals: Refusals { links: HashMap::with_hasher(hasher) },
        }
    }

    // --- chains

    /// The chain of a hook point.
    #[inline]
    pub(crate) fn chain(&self, point: HookPoint) -> &Chain {
        self.chains.chain(point)
    }

    /// The chain of a hook point, to run it, and what is needed for that.
    #[inline]
    pub(crate) fn at(&mut self, point: HookPoint) -> ChainContext<'_> {
        ChainContext { chain: self.chains.chain_mut(point), calls: &self.calls, tickets: &mut self.tickets }
    }

    /// The chains in force.
    #[inline]
    pub(crate) fn chains(&self) -> &ChainTable {
        &self.chains
    }

    /// Replaces the chains. Returns the former ones, and the plugins that are no longer in the
    /// chains.
    pub(crate) fn swap_chains(&mut self, table: ChainTable) -> (ChainTable, Vec<PluginHandle>) {
        let old = std::mem::replace(&mut self.chains, table);
        self.calls_before += old.calls();
        let gone = old.plugins_removed(&self.chains);
        gone.iter().for_each(|plugin| self.breaker.forget(*plugin));
        let chains = &self.chains;
        self.refusals.links.retain(|link, _| chains.has_link(*link));
        (old, gone)
    }

    /// Number of calls of links on this shard, with those of all earlier tables.
    pub(crate) fn calls_count(&self) -> u64 {
        self.calls_before + self.chains.calls()
    }

    /// The call cell, which shows the link that is running.
    #[inline]
    pub(crate) fn calls(&self) -> &CallCell {
        &self.calls
    }

    /// Sets the call cell. To be called before the first hook.
    pub(crate) fn set_call_cell(&mut self, calls: Arc<CallCell>) {
        self.calls = calls;
    }

    // --- tickets

    /// The open tickets.
    #[inline]
    pub(crate) fn tickets(&mut self) -> &mut Tickets {
        &mut self.tickets
    }

    /// A ticket; `None` if it is not open.
    #[inline]
    pub(crate) fn open_ticket(&self, ticket: grapnel_plugin_abi::raw::Ticket) -> Option<&OpenTicket> {
        self.tickets.get(ticket)
    }

    // --- the rules of client.authorize

    /// Version of the rules, to be stored with each decision.
    #[inline]
    pub(crate) fn authz_epoch(&self) -> u64 {
        self.rules.version()
    }

    /// Whether the rules of an earlier version still apply to this client and topic; without a
    /// topic, to all topics. If not, it must be authorized again.
    #[inline]
    pub(crate) fn are_rules_current(
        &self,
        epoch: u64,
        client_id: &str,
        username: Option<&str>,
        topic: Option<&str>,
    ) -> bool {
        self.rules.are_current(epoch, client_id, username, topic)
    }

    /// Records a change of the rules for this scope.
    pub(crate) fn rules_changed(&mut self, scope: &Scope) {
        self.rules.change(scope);
        self.rechecks.shorten_pause();
    }

    /// The queue of rechecks and of deliveries to authorize.
    #[inline]
    pub(crate) fn rechecks(&mut self) -> &mut RecheckQueue {
        &mut self.rechecks
    }

    /// Whether another recheck may begin: at most `max` wait for a plugin, and each may need a
    /// ticket.
    pub(crate) fn may_recheck(&self, max: u64) -> bool {
        self.rechecks.may_recheck(max) && self.tickets.has_room()
    }

    /// Whether another delivery may be authorized: at most `max` wait for a plugin, and each may
    /// need a ticket.
    #[inline]
    pub(crate) fn may_authorize_delivery(&self, max: u64) -> bool {
        self.rechecks.may_authorize_delivery(max) && self.tickets.has_room()
    }

    /// Whether walks or deliveries can continue within these limits.
    pub(crate) fn has_rechecks(&self, rechecks_max: u64, deliveries_max: u64) -> bool {
        self.rechecks.has_walks() && self.may_recheck(rechecks_max)
            || self.rechecks.has_sessions() && self.may_authorize_delivery(deliveries_max)
    }

    // --- what is stored for plugins

    /// Sessions, timers, instance messages and replays of plugins, to change.
    #[inline]
    pub(crate) fn plugins_mut(&mut self) -> &mut PluginStore {
        &mut self.plugins
    }

    /// Sessions, timers, instance messages and replays of plugins.
    #[inline]
    pub(crate) fn plugins(&self) -> &PluginStore {
        &self.plugins
    }

    /// Whether a version of a plugin is not in the chains, not about to be, and cannot come back.
    pub(crate) fn is_removed(&mut self, plugin: PluginHandle) -> bool {
        let is_there = self.chains.instance(plugin).is_some() || self.plugins.is_detached(plugin);
        !is_there && self.plugins.answers().was_there(plugin)
    }

    /// Whether one more answer may be stored for the version that gets the answers of `requester`.
    /// One that can be called gets answers at once.
    pub(crate) fn may_store_answer(&mut self, requester: PluginHandle, limits: &Limits) -> bool {
        let plugin = self.plugins.answers().of(requester);
        self.chains.instance_awake(plugin).is_some() || self.plugins.may_store_answer(plugin, limits)
    }

    /// A version with stored codes, and the version that gets them now.
    pub(crate) fn undelivered_codes(&self) -> Option<(PluginHandle, PluginHandle)> {
        self.plugins.codes_for(|plugin| self.chains.instance_awake(plugin).is_some())
    }

    /// Whether a version is suspended: it is disabled, tripped, or out of the chains and may come
    /// back.
    pub(crate) fn is_waited_for(&self, plugin: PluginHandle) -> bool {
        self.chains.is_plugin_suspended(plugin) || self.plugins.is_detached(plugin)
    }

    /// These versions have left the chains. Returns timers to cancel in the clock, of versions that
    /// came back with another's state.
    pub(crate) fn detach(&mut self, gone: &[PluginHandle]) -> Vec<Timer> {
        let chains = &self.chains;
        let timers = self.plugins.attach_again(|plugin| chains.instance(plugin).is_some());
        self.plugins.detach(gone);
        timers
    }

    /// Removes what is stored for a version that has left the chains for good; nothing if it is in
    /// them.
    pub(crate) fn forget(&mut self, gone: PluginHandle) -> Option<Cleanup> {
        let chains = &self.chains;
        let is_there = |plugin| chains.instance(plugin).is_some();
        (!is_there(gone)).then(|| self.plugins.forget(gone, is_there))
    }

    /// Whether pages of retained messages wait for a turn.
    pub(crate) fn has_pages(&self) -> bool {
        self.plugins.has_pages()
    }

    /// Whether a replay is not complete.
    pub(crate) fn has_replays(&self) -> bool {
        self.plugins.has_replays()
    }

    /// Updates the number of armed timers for the watchdog.
    #[inline]
    pub(crate) fn publish_timers(&self) {
        self.calls.set_timers(self.plugins.timers_len() as u64);
    }

    // --- faults

    /// Counts the faults since the last call, and trips plugins with too many: `bounds` are faults
    /// and milliseconds, see [`Breaker::note`]. Returns the number of faults and adds the tripped
    /// plugins to the list.
    pub(crate) fn trip_faulty_plugins(
        &mut self,
        now_ms: u64,
        bounds: (u64, u64),
        tripped: &mut Vec<PluginHandle>,
    ) -> u64 {
        let mut faults = 0;
        for (plugin, count) in self.calls.faults().take() {
            faults += count;
            if self.breaker.note(plugin, count, now_ms, bounds) {
                self.chains.trip(plugin);
                tripped.push(plugin);
            }
        }
        faults
    }

    /// A change of a link was refused. If that is to be logged, returns the number of earlier
    /// refusals that were not.
    pub(crate) fn refused(&mut self, link: LinkIdentity, now_ms: u64) -> Option<u64> {
        self.refusals.links.entry(link).or_default().record_within(REFUSAL_LOGGED_EVERY_MS, now_ms)
    }
}
