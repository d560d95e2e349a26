//! Swaps the chain tables on every shard or on none. The same job moves the state of a plugin that
//! replaces another one. Used by transactions; never on a shard's thread.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use grapnel_engine::hook::{ChainTable, HookPoint, LinkIdentity, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Shard;

use super::active::{PluginSlot, compile};
use super::broadcast;
use super::handover::{Handover, InstancePair, MoveStats};
use super::loaded::{Callee, More};
use super::loader_state::{LoaderState, add_counts};
use crate::plugin::error::LoadError;
use crate::plugin::host::called_hooks::{self, CalledHooks};
use crate::shard::handle::ShardHandle;

/// The result of the swap step of one shard.
enum Swap {
    /// The chains are in force.
    Done {
        old: Box<ChainTable>,
        /// Why the state was not handed over; the new instance then has only the state of the
        /// trial.
        lost: Option<String>,
        moved: MoveStats,
        /// Needed to notify the plugins again when the previous chains are put back.
        callees: Callees,
    },
    /// A piece was handed over that was not the last one; the chains are unchanged.
    NotYet(MoveStats),
    /// A piece could not be handed over; nothing has changed.
    Failed(String),
}

/// The plugin instances of a shard that may get a `configured` call because of a swap. `remaining`
/// are the hooks that the plugins themselves have mounted both before and after the swap. A plugin
/// gets no `configured` call for a hook that it mounted or unmounted itself: it could otherwise
/// cause such calls in an endless loop.
struct Callees {
    of: Vec<(PluginHandle, Callee)>,
    remaining: Arc<HashSet<LinkIdentity>>,
}

impl Callees {
    fn of(slots: &[PluginSlot], shard: ShardId, remaining: &Arc<HashSet<LinkIdentity>>) -> Callees {
        let callee = |slot: &PluginSlot| Some((slot.plugin.handle(), slot.plugin.instances.callee(shard)?));
        Callees { of: slots.iter().filter_map(callee).collect(), remaining: Arc::clone(remaining) }
    }

    /// Calls `configured` of each plugin for which `table` calls other hooks of [`LIFE`] than the
    /// current chains do. The cause is the operator, who mounted or unmounted hooks, or that the
    /// plugin was disabled or tripped. The plugin will miss events, or has missed some. The call is
    /// in the step of the swap, before the swap, so that it precedes the next event. A plugin of
    /// which `table` calls no hook is left out. An instance that has taken over a state is compared
    /// with the instance before it, because it inherits what that one has seen and missed.
    fn look_again(&self, engine: &Shard, table: &ChainTable, passing: Option<(InstancePair, bool)>) {
        let (mut before, after) = (self.called(engine.chains()), self.called(table));
        if let Some((passing, true)) = passing {
            let (from, to) = passing.handles();
            let over = |(plugin, point, link)| (if plugin == from { to } else { plugin }, point, link);
            before = before.into_iter().map(over).collect();
        }
        let changed: HashSet<PluginHandle> =
            after.symmetric_difference(&before).map(|(plugin, ..)| *plugin).collect();
        if changed.is_empty() {
            return;
        }
        let (called_before, called) = (CalledHooks::of(engine.chains()), CalledHooks::of(table));
        let receiver = passing.map(|(passing, _)| passing.receiver());
        let others = self.of.iter().copied().filter(|(of, _)| receiver.is_none_or(|(to, _)| *of != to));
        let callees: Vec<Callee> = others
            .chain(receiver)
            .filter(|(of, _)| changed.contains(of) && called.has_any_of(*of))
            .map(|(_, callee)| callee)
            .collect();
        let called_before = match passing {
            Some((passing, true)) => {
                let (from, to) = passing.handles();
                called_before.handed_over(from, to)
            }
            _ => called_before,
        };
        called_hooks::show(called_before, called, || callees.iter().for_each(Callee::configured));
    }

    /// The hooks of [`LIFE`] that a table calls, restricted to `remaining`.
    fn called(&self, table: &ChainTable) -> HashSet<(PluginHandle, HookPoint, LinkIdentity)> {
        let links =
            LIFE.iter().flat_map(|point| table.chain(*point).links().map(move |(link, _)| (point, link)));
        let links = links
            .filter(|(_, link)| !link.entry.is_tripped() && self.remaining.contains(&link.identity))
            .map(|(point, link)| (link.plugin, *point, link.identity));
        links.collect()
    }
}

/// The hook points that report the begin and the end of connections and sessions.
const LIFE: [HookPoint; 8] = [
    HookPoint::ClientConnack,
    HookPoint::ClientConnected,
    HookPoint::ClientDisconnected,
    HookPoint::SessionCreated,
    HookPoint::SessionResumed,
    HookPoint::SessionDiscarded,
    HookPoint::SessionTakenover,
    HookPoint::SessionTerminated,
];

/// The hooks that plugins have mounted, as of the last refresh.
fn own_hooks(slots: &[PluginSlot]) -> HashSet<LinkIdentity> {
    let mut hooks = HashSet::new();
    slots.iter().for_each(|slot| slot.plugin.each_hook(|hook| hooks.extend([hook.identity])));
    hooks
}

/// Runs on the shard's thread.
fn swap_here(engine: &mut Shard, table: ChainTable, passing: Option<InstancePair>, callees: Callees) -> Swap {
    let (lost, moved) = match passing {
        None => (None, MoveStats::default()),
        Some(passing) if passing.in_pieces() => match passing.last_piece() {
            Ok((More::No, moved)) => (None, moved),
            Ok((More::Yes, moved)) => return Swap::NotYet(moved),
            Err(reason) => return Swap::Failed(reason),
        },
        Some(passing) => match passing.pass() {
            Ok(true) => (None, MoveStats::default()),
            Ok(false) => (Some("it was not wanted any more".to_owned()), MoveStats::default()),
            Err(reason) => (Some(reason), MoveStats::default()),
        },
    };
    if let (Some(passing), None) = (passing, &lost) {
        passing.redirect_answers(engine);
    }
    callees.look_again(engine, &table, passing.map(|passing| (passing, lost.is_none())));
    Swap::Done { old: Box::new(engine.swap_chains(table)), lost, moved, callees }
}

impl LoaderState {
    /// Puts `after` into force on every shard in place of `before`, or on none.
    pub(in crate::plugin) fn swap(
        &mut self,
        name: &str,
        before: &[PluginSlot],
        after: &[PluginSlot],
    ) -> Result<(), LoadError> {
        self.swap_over(name, before, after, &mut Handover::default()).map(drop)
    }

    /// As `swap`, and hands over a state in the same step: the whole state, or its last piece. A
    /// shard that has more pieces swaps later. Returns the shards on which the handover of a whole
    /// state failed although the trial had succeeded, each with the reason.
    pub(in crate::plugin) fn swap_over(
        &mut self,
        name: &str,
        before: &[PluginSlot],
        after: &[PluginSlot],
        handover: &mut Handover,
    ) -> Result<Vec<(ShardId, String)>, LoadError> {
        let mut remaining = own_hooks(before);
        for PluginSlot { plugin, .. } in after {
            let overrides = self.overrides.of(&plugin.name);
            plugin.refresh(overrides, |hook| self.identify(&plugin.name, hook));
        }
        self.limit_leaving_requests((before, after), handover);
        let own = own_hooks(after);
        remaining.retain(|hook| own.contains(hook));
        let remaining = Arc::new(remaining);
        self.note_suspended(after);
        self.table_generation += 1;
        let (mut pending, mut swapped, mut lost) = (self.shards.clone(), Vec::new(), Vec::new());
        let mut failure = None;
        while !pending.is_empty() && failure.is_none() {
            let mut again = Vec::new();
            let answers = self.request_swap(&pending, (before, after), (handover, &remaining));
            for (handle, answer) in pending.into_iter().zip(answers) {
                let (shard, name) = (handle.id(), name.to_owned());
                match answer {
                    Ok(Swap::Done { old, lost: reason, moved, .. }) => {
                        add_counts(&mut self.totals, shard, &old);
                        handover.moved.add(&moved);
                        lost.extend(reason.map(|reason| (shard, reason)));
                        swapped.push(handle);
                    }
                    Ok(Swap::NotYet(moved)) => {
                        handover.moved.add(&moved);
                        again.push(handle);
                    }
                    Ok(Swap::Failed(reason)) => {
                        failure.get_or_insert(LoadError::Handover { name, shard, reason });
                    }
                    Err(unanswered) => {
                        failure.get_or_insert(LoadError::Shard { name, unanswered });
                    }
                }
            }
            if let (Some(first), Some(reason)) = (again.first(), self.must_end(handover)) {
                let name = name.to_owned();
                failure.get_or_insert(LoadError::Handover { name, shard: first.id(), reason });
            }
            pending = again;
        }
        let Some(failure) = failure else { return Ok(lost) };
        let handed = handover.clone().without(&lost);
        for (shard, reason) in self.swap_back(&swapped, before, &handed) {
            tracing::warn!(plugin = name, "{}", not_back(shard, &reason));
        }
        Err(failure)
    }

    /// Bounds the authorization requests of versions that leave the chains, as long as the change
    /// may be taken back. A version whose state is handed over is left out: the version that gets
    /// the state gets its answers too.
    fn limit_leaving_requests(&self, (before, after): (&[PluginSlot], &[PluginSlot]), handover: &Handover) {
        let handed = handover.handles();
        if let Some((from, to)) = handed {
            self.services.share_waiting_requests(from, to);
        }
        let stays = |slot: &PluginSlot| {
            let plugin = slot.plugin.handle();
            let is_handed = handed.is_some_and(|(from, _)| from == plugin);
            is_handed || after.iter().any(|slot| slot.plugin.handle() == plugin)
        };
        for slot in before.iter().filter(|slot| !stays(slot)) {
            self.services.set_suspended(slot.plugin.handle(), true);
        }
    }

    /// Bounds the requests on behalf of clients of plugins that are not called: the answers have to
    /// be stored until the plugin is called again.
    fn note_suspended(&self, slots: &[PluginSlot]) {
        for slot in slots {
            self.services.set_suspended(slot.plugin.handle(), slot.is_suspended());
        }
    }

    fn request_swap(
        &self,
        shards: &[ShardHandle],
        (before, after): (&[PluginSlot], &[PluginSlot]),
        (handover, remaining): (&Handover, &Arc<HashSet<LinkIdentity>>),
    ) -> Vec<Result<Swap, crate::shard::handle::Unanswered>> {
        broadcast::call(
            shards,
            self.answer_timeout,
            |shard| {
                let table = compile(self.table_generation, after, shard, self.defaults);
                let (passing, callees) = (handover.on(shard), Callees::of(before, shard, remaining));
                Box::new(move |engine: &mut Shard| swap_here(engine, table, passing, callees))
            },
            |engine, late| {
                if let Swap::Done { old, callees, .. } = late {
                    callees.look_again(engine, &old, None);
                    drop(engine.swap_chains(*old));
                }
            },
        )
    }

    /// Puts `before` into force again. In the same step, a state that was handed over comes back,
    /// with all changes since. A shard that does not answer in time does so later, before any other
    /// job. Returns the shards on which the state did not come back, each with the reason.
    pub(in crate::plugin) fn swap_back(
        &mut self,
        shards: &[ShardHandle],
        before: &[PluginSlot],
        handed: &Handover,
    ) -> Vec<(ShardId, String)> {
        self.note_suspended(before);
        let lost = self.pieces_back(shards, handed);
        let handed = handed.clone().without(&lost);
        self.table_generation += 1;
        let (generation, defaults) = (self.table_generation, self.defaults);
        let lost = Arc::new(Mutex::new(lost));
        let own = Arc::new(own_hooks(before));
        broadcast::send(shards, self.answer_timeout, |shard| {
            let table = compile(generation, before, shard, defaults);
            let (passing, lost) = (handed.moved_back_on(shard), Arc::clone(&lost));
            let callees = Callees::of(before, shard, &own);
            Box::new(move |engine: &mut Shard| {
                let reason = passing.and_then(|passing| passing.move_back());
                if let (Some(passing), None) = (passing, &reason) {
                    passing.redirect_answers(engine);
                }
                callees.look_again(engine, &table, passing.map(|passing| (passing, reason.is_none())));
                let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
                lost.extend(reason.map(|reason| (shard, reason)));
                drop(engine.swap_chains(table));
            })
        });
        std::mem::take(&mut *lost.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The log text for a state that did not come back.
pub(in crate::plugin) fn not_back(shard: ShardId, reason: &str) -> String {
    format!(
        "a reload was taken back after shard {shard} had swapped, and the state of the new version did not come back there, so that \
         what came between is lost: {reason}"
    )
}
