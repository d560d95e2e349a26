//! Messages to an instance of a plugin on this shard, from its other instances and from the broker.
//! Called between two events, so that a plugin is never called during another call of it. Messages
//! for an instance that is not in the chains are stored, within limits.

use std::sync::Arc;

use bytes::Bytes;

use super::refusals;
use crate::clock::Overdue;
use crate::hook::{Callback, PluginHandle};
use crate::interface::FROM_THE_BROKER;
use crate::parts::Parts;
use crate::plugins::{PageSubject, StoredInstanceMessage};
use crate::reason::ReasonCode;

/// How long instance messages and timers wait for a plugin that is not in the chains yet.
/// Milliseconds.
pub(crate) const EARLY_MS: u64 = 60_000;
/// Stored instance messages that one turn processes.
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
    deliver_complete(parts, StoredInstanceMessage { plugin, from, number, bytes, page: None, until_ms });
}

/// As `deliver_instance_message`, with a complete message. While stored messages are processed
/// again, the message goes behind them. Each new message processes two, so the queue gets shorter.
fn deliver_complete(parts: &mut Parts, message: StoredInstanceMessage) {
    if !parts.hooks.plugins().is_settling() {
        return hand_over(parts, message);
    }
    parts.hooks.plugins_mut().settling().push_back(message);
    settle_some(parts, 2);
}

fn hand_over(parts: &mut Parts, message: StoredInstanceMessage) {
    match parts.hooks.chains().instance_awake(message.plugin) {
        Some(instance) => {
            parts.hooks.calls().enter_callback(message.plugin, Callback::InstanceMessage);
            instance.instance_message(message.from, message.number, &message.bytes);
            parts.hooks.calls().leave();
        }
        None => store_instance_message(parts, message),
    }
}

/// Hands over stored messages to plugins that are called now, and drops messages whose plugin has
/// gone or is too late. One slice runs at once, the rest in later turns. Called when the chains
/// have changed, when a plugin has gone, and when the first message may be too late.
pub(crate) fn settle_stored_messages(parts: &mut Parts) {
    let timer = parts.hooks.plugins_mut().settle_stored_messages();
    parts.clock.cancel_overdue(timer);
    settle_some(parts, SLICE);
}

fn settle_some(parts: &mut Parts, slice: usize) {
    for _ in 0..slice {
        let plugins = parts.hooks.plugins_mut();
        let Some(mut kept) = plugins.settling().pop_front() else { return };
        kept.plugin = plugins.answers().of(kept.plugin);
        let is_late = kept.until_ms <= parts.clock.now().mono_ms && !parts.hooks.is_waited_for(kept.plugin);
        if parts.hooks.chains().instance_awake(kept.plugin).is_some() {
            hand_over(parts, kept);
        } else if is_late || parts.hooks.is_removed(kept.plugin) {
            parts.counters.plugin_mail_stale += 1;
        } else {
            store_instance_message(parts, kept);
        }
    }
}

/// Continues with stored messages, and after them with answer codes that did not fit among the
/// stored messages.
pub(crate) fn continue_stored_messages(parts: &mut Parts) {
    if parts.hooks.plugins().is_settling() {
        return settle_some(parts, SLICE);
    }
    let Some((requester, plugin)) = parts.hooks.undelivered_codes() else { return };
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    for (number, code) in parts.hooks.plugins_mut().codes().take(requester, SLICE) {
        let bytes = Bytes::copy_from_slice(&[code.0]);
        hand_over(
            parts,
            StoredInstanceMessage { plugin, from: FROM_THE_BROKER, number, bytes, page: None, until_ms },
        );
    }
}

/// Whether instance messages are left for the next turn.
pub(crate) fn has_stored_messages(parts: &Parts) -> bool {
    parts.hooks.plugins().is_settling() || parts.hooks.undelivered_codes().is_some()
}

/// Delivers the answer to a request to the version that has the state of the requesting one.
/// Without such a version the answer is dropped and counted. `page` describes the page where the
/// answer is a page and not a code.
pub(crate) fn deliver_answer(
    parts: &mut Parts,
    (requester, number): (PluginHandle, u64),
    bytes: Bytes,
    page: Option<Box<PageSubject>>,
) {
    let plugin = parts.hooks.plugins_mut().answers().of(requester);
    if parts.hooks.is_removed(plugin) {
        parts.counters.plugin_mail_stale += 1;
        return;
    }
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    deliver_complete(
        parts,
        StoredInstanceMessage { plugin, from: FROM_THE_BROKER, number, bytes, page, until_ms },
    );
}

/// Stores the message, or counts that there is no room. An answer is never lost: without room a
/// code is stored behind everything else, and a page is replaced by the code for "no room".
fn store_instance_message(parts: &mut Parts, message: StoredInstanceMessage) {
    expect_plugin(parts, message.plugin, message.until_ms);
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

/// Arms the timer of stored messages for this time, unless it is armed for an earlier one or the
/// plugin is waited for. Whenever a plugin is no longer waited for, the stored messages are
/// processed again.
fn expect_plugin(parts: &mut Parts, plugin: PluginHandle, until_ms: u64) {
    let armed = *parts.hooks.plugins_mut().lateness();
    if armed.is_some_and(|(due_ms, _)| due_ms <= until_ms) || parts.hooks.is_waited_for(plugin) {
        return;
    }
    parts.clock.cancel_overdue(armed.map(|(_, timer)| timer));
    let timer = parts.clock.arm_overdue(until_ms, Overdue::InstanceMessages);
    *parts.hooks.plugins_mut().lateness() = Some((until_ms, timer));
}

/// Stores the code that answers a request of a plugin that is not called now.
pub(crate) fn store_code(parts: &mut Parts, (requester, number): (PluginHandle, u64), code: ReasonCode) {
    let plugin = parts.hooks.plugins_mut().answers().of(requester);
    let is_kept =
        !parts.hooks.is_removed(plugin) && parts.hooks.plugins_mut().codes().keep(plugin, number, code);
    parts.counters.plugin_mail_stale += u64::from(!is_kept);
}
