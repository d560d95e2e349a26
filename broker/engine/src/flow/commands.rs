//! Commands of plugins outside of a hook call: publish, kick, subscribe, instance messages, timers.
//! A command runs between two events, so that a plugin is never called during another call of it.
//! The ancestry of its messages names the plugins that caused them.

use super::instance_message::{self, EARLY_MS};
use super::{authority, ending, filters, hooks, notify, on_behalf, plugin_publish, subscriptions};
use crate::clock::Deadline;
use crate::hook::{Callback, ChainTable, PluginHandle};
use crate::interface::{Command, Outcome, Scope};
use crate::parts::Parts;
use crate::plugins::Replay;
use crate::session::Source;

/// How often the timer of a plugin that is not in the chains yet is checked again. Milliseconds.
const EARLY_STEP_MS: u64 = 50;
/// Session table positions that a replay covers in one turn.
const REPLAY_SLICE: usize = 256;

/// Executes a command of a plugin. Called between two events.
pub(crate) fn command(parts: &mut Parts, command: Command) {
    match command {
        Command::As(request) => on_behalf::request(parts, *request),
        Command::Sought { search, command } => search.note(about_client(parts, *command)),
        Command::Publish { plugin, message } => {
            plugin_publish::publish_for(parts, plugin, message, Source::Plugin);
        }
        Command::Store { plugin, message } => {
            plugin_publish::publish_for(parts, plugin, message, Source::Store);
        }
        about @ (Command::Kick { .. } | Command::Subscribe { .. } | Command::Unsubscribe { .. }) => {
            about_client(parts, about);
        }
        Command::InstanceMessage { plugin, from, number, bytes } => {
            // Messages from threads of a replaced version go to the version that has its state.
            let plugin = parts.hooks.plugins_mut().answers().of(plugin);
            instance_message::deliver_instance_message(parts, plugin, from, number, bytes);
        }
        Command::Timer { plugin, timer, after_ms, number } => {
            let due_ms = parts.clock.now().mono_ms.saturating_add(after_ms);
            let armed = parts.clock.arm_deadline(due_ms, Deadline::Plugin { timer, number });
            parts.hooks.plugins_mut().arm_timer(timer, plugin, due_ms.saturating_add(EARLY_MS), armed);
        }
        Command::CancelTimer { plugin, timer } => {
            let armed = parts.hooks.plugins_mut().cancel_timer(timer, plugin);
            parts.clock.cancel_deadline(armed);
        }
        Command::Invalidate(scope) => authority::invalidate(parts, scope),
        Command::Replay { plugin } => {
            parts.hooks.plugins_mut().begin_replay(plugin, parts.clock.now().mono_ms + EARLY_MS);
        }
    }
    parts.hooks.publish_timers();
}

/// Executes a command about a client, if the client is on this shard. Returns the outcome.
fn about_client(parts: &mut Parts, about: Command) -> Outcome {
    match about {
        Command::Kick { client_id, reason, discard } => {
            match ending::kick(parts, &client_id, reason, discard) {
                true => Outcome::Done,
                false if parts.sessions.by_client_id(&client_id).is_some() => Outcome::Refused,
                false => Outcome::Absent,
            }
        }
        Command::Subscribe { client_id, filter, options, id } => {
            let Some(session) = parts.sessions.by_client_id(&client_id) else { return Outcome::Absent };
            let done = filters::subscribe_for(parts, session, &filter, options, id);
            if done.is_ok() { Outcome::Done } else { Outcome::Refused }
        }
        Command::Unsubscribe { client_id, filter } => {
            subscriptions::unsubscribe_for(parts, &client_id, &filter)
        }
        other => {
            command(parts, other);
            Outcome::Done
        }
    }
}

/// Whether a replay is under way.
pub(crate) fn has_replays(parts: &Parts) -> bool {
    parts.hooks.has_replays()
}

/// Replays a slice of the sessions.
pub(crate) fn replay(parts: &mut Parts) {
    let Some(&Replay { plugin, place: from, until_ms }) = parts.hooks.plugins_mut().first_replay() else {
        return;
    };
    if parts.hooks.chains().instance(plugin).is_none() {
        // The plugin may enter the chains soon; other work continues meanwhile.
        if parts.clock.now().mono_ms >= until_ms {
            parts.hooks.plugins_mut().end_replay();
        }
        return;
    }
    let end = (from + REPLAY_SLICE).min(parts.sessions.places());
    parts.hooks.plugins_mut().move_replay(end);
    if end == parts.sessions.places() {
        parts.hooks.plugins_mut().end_replay();
    }
    for place in from..end {
        if let Some(key) = parts.sessions.key_at(place) {
            notify::replay_session(parts, plugin, key);
        }
    }
}

pub(crate) fn plugin_timer_due(parts: &mut Parts, timer: u64, number: u64) {
    let Some((plugin, until_ms)) = parts.hooks.plugins_mut().timer(timer) else { return };
    match parts.hooks.chains().instance_awake(plugin) {
        Some(instance) => {
            parts.hooks.plugins_mut().end_timer(timer);
            parts.hooks.calls().enter_callback(plugin, Callback::Timer);
            instance.timer(timer, number);
            parts.hooks.calls().leave();
        }
        // It is called when its plugin is called again.
        None if parts.hooks.is_waited_for(plugin) => parts.hooks.plugins_mut().suspend_timer(timer, number),
        // Armed while the plugin was loaded: the plugin may still enter the chains.
        None if parts.clock.now().mono_ms < until_ms => {
            let again_ms = parts.clock.now().mono_ms + EARLY_STEP_MS;
            let armed = parts.clock.arm_deadline(again_ms, Deadline::Plugin { timer, number });
            parts.hooks.plugins_mut().rearm_timer(timer, armed);
        }
        None => {
            parts.hooks.plugins_mut().end_timer(timer);
        }
    }
    parts.hooks.publish_timers();
}

/// Forgets the timers and requests of a plugin version that has left the chains for good.
pub(crate) fn forget_plugin(parts: &mut Parts, gone: PluginHandle) {
    let Some(forgotten) = parts.hooks.forget(gone) else { return };
    for timer in forgotten.timers {
        parts.clock.cancel_deadline(Some(timer));
    }
    for ticket in forgotten.tickets {
        hooks::close_ticket(parts, ticket);
    }
    parts.counters.plugin_mail_stale += forgotten.codes;
    if parts.hooks.plugins().has_stored_messages_of(gone) {
        instance_message::settle_stored_messages(parts);
    }
    parts.hooks.publish_timers();
}

/// After a swap of the chains, hands stored messages and timers to plugins that are in the chains
/// now or are called again. Those of plugins that have left stay stored, because the change may be
/// taken back.
fn settle_plugins(parts: &mut Parts, gone: &[PluginHandle]) {
    for timer in parts.hooks.detach(gone) {
        parts.clock.cancel_deadline(Some(timer));
    }
    for (timer, number) in parts.hooks.plugins_mut().take_suspended_timers() {
        match parts.hooks.plugins_mut().timer(timer) {
            Some((plugin, _)) if parts.hooks.is_waited_for(plugin) => {
                parts.hooks.plugins_mut().suspend_timer(timer, number)
            }
            Some(_) => {
                let now_ms = parts.clock.now().mono_ms;
                let armed = parts.clock.arm_deadline(now_ms, Deadline::Plugin { timer, number });
                parts.hooks.plugins_mut().rearm_timer(timer, armed);
            }
            // Cancelled, or its plugin has left.
            None => {}
        }
    }
    instance_message::settle_stored_messages(parts);
    parts.hooks.publish_timers();
}

/// Swaps the chain table. Returns the old one.
pub(crate) fn swap_chains(parts: &mut Parts, table: ChainTable) -> ChainTable {
    let (old, gone) = parts.hooks.swap_chains(table);
    if !old.authorizes_like(parts.hooks.chains()) {
        authority::invalidate(parts, Scope::All);
    }
    authority::recheck_now(parts);
    settle_plugins(parts, &gone);
    old
}
