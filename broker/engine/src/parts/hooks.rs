//! What plugins are called with on a shard: the chains in force, tickets, faults, and what is kept for plugins. Called by the flows;
//! it runs no chain itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::hook::breaker::Breaker;
use crate::hook::tickets::{OpenTicket, Tickets};
use crate::hook::{CallCell, Chain, ChainTable, HookPoint, LinkIdentity, PluginHandle};
use crate::id::ShardId;
use crate::interface::Scope;
use crate::limits::Limits;
use crate::log_rate::LogRate;
use crate::plugins::{Forgotten, PluginStore};
use crate::recheck_queue::RecheckQueue;
use crate::rules::Rules;
use crate::timer::Timer;

/// What plugins are called with.
#[derive(Debug)]
pub(crate) struct Hooks {
    chains: ChainTable,
    /// Calls of the links of earlier tables.
    calls_before: u64,
    calls: Arc<CallCell>,
    breaker: Breaker,
    tickets: Tickets,
    plugins: PluginStore,
    rules: Rules,
    rechecks: RecheckQueue,
    refusals: Refusals,
}

/// What it takes to run a chain.
pub(crate) struct AtPoint<'a> {
    pub(crate) chain: &'a mut Chain,
    /// Where the shard says which plugin it is calling.
    pub(crate) calls: &'a Arc<CallCell>,
    /// For links that answer later.
    pub(crate) tickets: &'a mut Tickets,
}

/// Of the lines about hooks whose changes were refused.
#[derive(Debug)]
struct Refusals {
    links: HashMap<LinkIdentity, LogRate, ahash::RandomState>,
}

/// How often the log names a refused change of one hook, at most, milliseconds.
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

    /// The chain of a point.
    #[inline]
    pub(crate) fn chain(&self, point: HookPoint) -> &Chain {
        self.chains.chain(point)
    }

    /// The chain of a point, to be run, with what that takes.
    #[inline]
    pub(crate) fn at(&mut self, point: HookPoint) -> AtPoint<'_> {
        AtPoint { chain: self.chains.chain_mut(point), calls: &self.calls, tickets: &mut self.tickets }
    }

    /// The chains in force.
    #[inline]
    pub(crate) fn chains(&self) -> &ChainTable {
        &self.chains
    }

    /// Puts other chains in force. Hands over those before, and the plugins that are gone with them.
    pub(crate) fn swap_chains(&mut self, table: ChainTable) -> (ChainTable, Vec<PluginHandle>) {
        let old = std::mem::replace(&mut self.chains, table);
        self.calls_before += old.calls();
        let gone = old.plugins_removed(&self.chains);
        gone.iter().for_each(|plugin| self.breaker.forget(*plugin));
        let chains = &self.chains;
        self.refusals.links.retain(|link, _| chains.has_link(*link));
        (old, gone)
    }

    /// How many calls the links of this shard have had, of all tables so far.
    pub(crate) fn calls_count(&self) -> u64 {
        self.calls_before + self.chains.calls()
    }

    /// Where the shard says which plugin it is calling.
    #[inline]
    pub(crate) fn calls(&self) -> &CallCell {
        &self.calls
    }

    /// Says so there from now on. Before the first hook.
    pub(crate) fn set_call_cell(&mut self, calls: Arc<CallCell>) {
        self.calls = calls;
    }

    // --- tickets

    /// The open tickets.
    #[inline]
    pub(crate) fn tickets(&mut self) -> &mut Tickets {
        &mut self.tickets
    }

    /// A ticket, if it is open.
    #[inline]
    pub(crate) fn open_ticket(&self, ticket: grapnel_plugin_abi::raw::Ticket) -> Option<&OpenTicket> {
        self.tickets.get(ticket)
    }

    // --- the rules of client.authorize

    /// Version of the rules: what is decided now notes it.
    #[inline]
    pub(crate) fn authz_epoch(&self) -> u64 {
        self.rules.version()
    }

    /// Whether the rules that a client was judged by under a version are still in force for it and this topic, any where there is none:
    /// if not, it is asked again.
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

    /// The rules have changed for these.
    pub(crate) fn rules_changed(&mut self, scope: &Scope) {
        self.rules.change(scope);
        self.rechecks.shorten_pause();
    }

    /// What the shard authorizes by itself.
    #[inline]
    pub(crate) fn rechecks(&mut self) -> &mut RecheckQueue {
        &mut self.rechecks
    }

    /// Whether another recheck may begin: at most `max` wait for a plugin, and each may need a ticket.
    pub(crate) fn may_recheck(&self, max: u64) -> bool {
        self.rechecks.may_recheck(max) && self.tickets.has_room()
    }

    /// Whether another delivery may be authorized: at most `max` wait for a plugin, and each may need a ticket.
    #[inline]
    pub(crate) fn may_authorize_delivery(&self, max: u64) -> bool {
        self.rechecks.may_authorize_delivery(max) && self.tickets.has_room()
    }

    /// Whether walks or deliveries are left that have room within these bounds.
    pub(crate) fn has_rechecks(&self, rechecks_max: u64, deliveries_max: u64) -> bool {
        self.rechecks.has_walks() && self.may_recheck(rechecks_max)
            || self.rechecks.has_sessions() && self.may_authorize_delivery(deliveries_max)
    }

    // --- what is kept for plugins

    /// Sessions, timers, instance messages and replays of plugins.
    #[inline]
    pub(crate) fn plugins_mut(&mut self) -> &mut PluginStore {
        &mut self.plugins
    }

    /// The same, to be looked at.
    #[inline]
    pub(crate) fn plugins(&self) -> &PluginStore {
        &self.plugins
    }

    /// Whether a version of a plugin is neither in the chains nor on its way into them, nor may it come back into them.
    pub(crate) fn is_gone(&mut self, plugin: PluginHandle) -> bool {
        let is_there = self.chains.instance(plugin).is_some() || self.plugins.is_detached(plugin);
        !is_there && self.plugins.answers().was_there(plugin)
    }

    /// Whether one more answer may be owed to whoever is told what this version asks for. One that is called is told at once.
    pub(crate) fn may_owe(&mut self, asker: PluginHandle, limits: &Limits) -> bool {
        let plugin = self.plugins.answers().of(asker);
        self.chains.instance_awake(plugin).is_some() || self.plugins.may_owe(plugin, limits)
    }

    /// A version for which codes are kept, and who is told them now.
    pub(crate) fn codes_to_tell(&self) -> Option<(PluginHandle, PluginHandle)> {
        self.plugins.codes_for(|plugin| self.chains.instance_awake(plugin).is_some())
    }

    /// Whether a version is not called for now: it is disabled or tripped, or has left the chains and may come back.
    pub(crate) fn is_waited_for(&self, plugin: PluginHandle) -> bool {
        self.chains.is_plugin_suspended(plugin) || self.plugins.is_detached(plugin)
    }

    /// These have left the chains. Hands over timers for the clock to forget, of those that have come back with another's state.
    pub(crate) fn detach(&mut self, gone: &[PluginHandle]) -> Vec<Timer> {
        let chains = &self.chains;
        let timers = self.plugins.attach_again(|plugin| chains.instance(plugin).is_some());
        self.plugins.detach(gone);
        timers
    }

    /// Forgets what is kept for a version that has left the chains for good; nothing of one that is in them.
    pub(crate) fn forget(&mut self, gone: PluginHandle) -> Option<Forgotten> {
        let chains = &self.chains;
        let is_there = |plugin| chains.instance(plugin).is_some();
        (!is_there(gone)).then(|| self.plugins.forget(gone, is_there))
    }

    /// Whether pages of retained messages wait for a turn.
    pub(crate) fn has_pages(&self) -> bool {
        self.plugins.has_pages()
    }

    /// Whether a plugin has not been told of everything yet.
    pub(crate) fn has_replays(&self) -> bool {
        self.plugins.has_replays()
    }

    /// Has the watchdog know how many timers are armed.
    #[inline]
    pub(crate) fn publish_timers(&self) {
        self.calls.set_timers(self.plugins.timers_len() as u64);
    }

    // --- faults

    /// Counts the faults since the last time, and trips the plugins that have had too many: `bounds` are faults and milliseconds,
    /// see [`Breaker::note`]. How many faults there were; who was tripped is put into the list.
    pub(crate) fn judge_faults(
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

    /// A change of a link was refused: how many before it were not logged, if this one is; `None` if it is not.
    pub(crate) fn refused(&mut self, link: LinkIdentity, now_ms: u64) -> Option<u64> {
        self.refusals.links.entry(link).or_default().say_within(REFUSAL_LOGGED_EVERY_MS, now_ms)
    }
}
