//! What plugins ask for outside of an answer: publish, kick, subscribe, instance messages, timers. A command runs between two events, never
//! inside one, so that no plugin is called while a call of it is going on. Its messages know which plugins led to them.

use super::instance_message::{self, EARLY_MS};
use super::{authority, ending, filters, hooks, notify, on_behalf, plugin_publish, subscriptions};
use crate::clock::Deadline;
use crate::hook::{Callback, ChainTable, PluginHandle};
use crate::interface::{Command, Outcome, Scope};
use crate::parts::Parts;
use crate::plugins::Replay;
use crate::session::Source;

/// How often a timer of such a plugin is looked at again, milliseconds.
const EARLY_STEP_MS: u64 = 50;
/// Sessions that a plugin is told of in one turn.
const REPLAY_SLICE: usize = 256;

/// Does what a plugin has asked for. Between two events.
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
            // What threads of a version that has been replaced still send is for the one that has its state.
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

/// Does a command about a client, if it is this shard's; what came of it.
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

/// Whether a plugin has not been told of everything yet.
pub(crate) fn has_replays(parts: &Parts) -> bool {
    parts.hooks.has_replays()
}

/// Tells of a slice of the sessions.
pub(crate) fn replay(parts: &mut Parts) {
    let Some(&Replay { plugin, place: from, until_ms }) = parts.hooks.plugins_mut().first_replay() else {
        return;
    };
    if parts.hooks.chains().instance(plugin).is_none() {
        // It may be on its way into the chains; other work goes on meanwhile.
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
        // It is brought when its plugin is called again.
        None if parts.hooks.is_waited_for(plugin) => parts.hooks.plugins_mut().suspend_timer(timer, number),
        // Armed while it was loaded: it may still come into the chains.
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

/// A version of a plugin that has left the chains is there no more: what it had armed and asked for is forgotten.
pub(crate) fn forget_plugin(parts: &mut Parts, gone: PluginHandle) {
    let Some(forgotten) = parts.hooks.forget(gone) else { return };
    for timer in forgotten.timers {
        parts.clock.cancel_deadline(Some(timer));
    }
    for ticket in forgotten.tickets {
        hooks::close_ticket(parts, ticket);
    }
    parts.counters.plugin_mail_stale += forgotten.codes;
    if parts.hooks.plugins().has_mail_of(gone) {
        instance_message::settle_mails(parts);
    }
    parts.hooks.publish_timers();
}

/// The chains have been swapped: what waited for plugins that are in the chains now, or are called again, is handed over. What is
/// kept for those that are gone waits: a change that is taken back has them called again.
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
            // Cancelled, or its plugin has gone.
            None => {}
        }
    }
    instance_message::settle_mails(parts);
    parts.hooks.publish_timers();
}

/// Swaps the chain table; the old one comes back.
pub(crate) fn swap_chains(parts: &mut Parts, table: ChainTable) -> ChainTable {
    let (old, gone) = parts.hooks.swap_chains(table);
    if !old.authorizes_like(parts.hooks.chains()) {
        authority::invalidate(parts, Scope::All);
    }
    authority::recheck_now(parts);
    settle_plugins(parts, &gone);
    old
}
