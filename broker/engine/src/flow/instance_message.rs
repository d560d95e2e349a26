//! Messages to an instance of a plugin on this shard, from its other instances and from the broker. Called between two events, so that
//! no plugin is called while a call of it is going on. An instance that is not in the chains finds its instance messages later, within bounds.

use std::sync::Arc;

use bytes::Bytes;

use super::refusals;
use crate::hook::{Callback, PluginHandle};
use crate::interface::FROM_THE_BROKER;
use crate::parts::Parts;
use crate::plugins::{PageAbout, StoredInstanceMessage};
use crate::reason::ReasonCode;

/// How long instance messages and timers of a plugin that is not in the chains yet wait for it, milliseconds.
pub(crate) const EARLY_MS: u64 = 60_000;
/// Instance messages that were kept which are looked at in one turn.
const SLICE: usize = 1024;

/// Calls the instance, or stores the message for it.
pub(crate) fn deliver_instance_message(
    parts: &mut Parts,
    plugin: PluginHandle,
    from: u32,
    number: u64,
    bytes: Bytes,
) {
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    bring(parts, StoredInstanceMessage { plugin, from, number, bytes, page: None, until_ms });
}

/// The same of instance messages in full. While kept instance messages is looked at again it waits behind that, which then gets shorter with each one.
fn bring(parts: &mut Parts, message: StoredInstanceMessage) {
    if !parts.hooks.plugins().is_settling() {
        return hand(parts, message);
    }
    parts.hooks.plugins_mut().settling().push_back(message);
    settle_some(parts, 2);
}

fn hand(parts: &mut Parts, message: StoredInstanceMessage) {
    match parts.hooks.chains().instance_awake(message.plugin) {
        Some(instance) => {
            parts.hooks.calls().enter_callback(message.plugin, Callback::InstanceMessage);
            instance.instance_message(message.from, message.number, &message.bytes);
            parts.hooks.calls().leave();
        }
        None => store_instance_message(parts, message),
    }
}

/// Hands over instance messages that was kept for plugins which are called now, and lets go of what nobody waits for any more: a slice at once, the
/// others turn by turn.
pub(crate) fn settle_mails(parts: &mut Parts) {
    parts.hooks.plugins_mut().settle_mails();
    settle_some(parts, SLICE);
}

fn settle_some(parts: &mut Parts, slice: usize) {
    for _ in 0..slice {
        let plugins = parts.hooks.plugins_mut();
        let Some(mut kept) = plugins.settling().pop_front() else { return };
        kept.plugin = plugins.answers().of(kept.plugin);
        let is_late = kept.until_ms <= parts.clock.now().mono_ms && !parts.hooks.is_waited_for(kept.plugin);
        if parts.hooks.chains().instance_awake(kept.plugin).is_some() {
            hand(parts, kept);
        } else if is_late || parts.hooks.is_gone(kept.plugin) {
            parts.counters.plugin_mail_stale += 1;
        } else {
            store_instance_message(parts, kept);
        }
    }
}

/// Goes on with instance messages that is looked at again, and then with answers beyond what was kept.
pub(crate) fn go_on_with_mails(parts: &mut Parts) {
    if parts.hooks.plugins().is_settling() {
        return settle_some(parts, SLICE);
    }
    let Some((asker, plugin)) = parts.hooks.codes_to_tell() else { return };
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    for (number, code) in parts.hooks.plugins_mut().codes().take(asker, SLICE) {
        let bytes = Bytes::copy_from_slice(&[code.0]);
        hand(
            parts,
            StoredInstanceMessage { plugin, from: FROM_THE_BROKER, number, bytes, page: None, until_ms },
        );
    }
}

/// Whether instance messages is left for a next turn.
pub(crate) fn has_mails(parts: &Parts) -> bool {
    parts.hooks.plugins().is_settling() || parts.hooks.codes_to_tell().is_some()
}

/// Brings what became of a request to the version that has the state of the one which asked. Where there is none, nobody is told.
/// `page` says what it is about where it is a page, and no code.
pub(crate) fn bring_answer(
    parts: &mut Parts,
    (asker, number): (PluginHandle, u64),
    bytes: Bytes,
    page: Option<Box<PageAbout>>,
) {
    let plugin = parts.hooks.plugins_mut().answers().of(asker);
    if parts.hooks.is_gone(plugin) {
        parts.counters.plugin_mail_stale += 1;
        return;
    }
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    bring(parts, StoredInstanceMessage { plugin, from: FROM_THE_BROKER, number, bytes, page, until_ms });
}

/// Keeps it, or counts that there is no room. What is owed comes all the same: a code behind everything else, and instead of a page,
/// that there was no room for it.
fn store_instance_message(parts: &mut Parts, message: StoredInstanceMessage) {
    let limits = Arc::clone(&parts.setup.limits);
    let plugins = parts.hooks.plugins_mut();
    let Err(mut message) = plugins.store_instance_message(message, &limits) else { return };
    let (plugin, page) = (message.plugin, message.page.take());
    let message = if page.is_some() {
        message.bytes = Bytes::from_static(&[ReasonCode::QUOTA_EXCEEDED.0]);
        plugins.store_instance_message(message, &limits).err()
    } else {
        Some(message)
    };
    if let Some(message) = message {
        let is_kept = match (message.from == FROM_THE_BROKER, message.bytes.as_ref()) {
            (true, [code]) => plugins.codes().keep(plugin, message.number, ReasonCode(*code)),
            _ => false,
        };
        parts.counters.plugin_mail_stale += u64::from(!is_kept);
    }
    if let Some(page) = page {
        parts.counters.behalf_no_room += 1;
        refusals::page_refused(parts, plugin, *page);
    }
}

/// Keeps what became of a request for whoever is told it, which is not called.
pub(crate) fn keep_code(parts: &mut Parts, (asker, number): (PluginHandle, u64), code: ReasonCode) {
    let plugin = parts.hooks.plugins_mut().answers().of(asker);
    let is_kept =
        !parts.hooks.is_gone(plugin) && parts.hooks.plugins_mut().codes().keep(plugin, number, code);
    parts.counters.plugin_mail_stale += u64::from(!is_kept);
}
