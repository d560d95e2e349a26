//! Mail to an instance of a plugin on this shard, from its other instances and from the broker. Called between two events, so that
//! no plugin is called while a call of it is going on. An instance that is not in the chains finds its mail later, within bounds.

use std::sync::Arc;

use bytes::Bytes;

use crate::hook::{PluginHandle, Untimely};
use crate::interface::FROM_THE_BROKER;
use crate::parts::Parts;
use crate::plugins::KeptMail;
use crate::reason::ReasonCode;

/// How long mail and timers of a plugin that is not in the chains yet wait for it, milliseconds.
pub(crate) const EARLY_MS: u64 = 60_000;

/// Calls the instance, or keeps the mail for it.
pub(crate) fn bring_mail(parts: &mut Parts, plugin: PluginHandle, from: u32, number: u64, bytes: Bytes) {
    match parts.hooks.chains().instance_awake(plugin) {
        Some(instance) => {
            parts.hooks.calls().enter_untimely(plugin, Untimely::Mail);
            instance.mail(from, number, &bytes);
            parts.hooks.calls().leave();
        }
        None => {
            let until_ms = parts.clock.now().mono_ms + EARLY_MS;
            keep_mail(parts, KeptMail { plugin, from, number, bytes, until_ms });
        }
    }
}

/// Brings what became of a request to the version that has the state of the one which asked. Where there is none, nobody is told.
pub(crate) fn bring_answer(parts: &mut Parts, asker: PluginHandle, number: u64, bytes: Bytes) {
    let plugin = parts.hooks.desk().answers().of(asker);
    if parts.hooks.is_gone(plugin) {
        parts.counters.plugin_mail_stale += 1;
        return;
    }
    bring_mail(parts, plugin, FROM_THE_BROKER, number, bytes);
}

/// Keeps it, or counts that there is no room. What is owed comes all the same: instead of a page, that there was no room for it.
pub(crate) fn keep_mail(parts: &mut Parts, mail: KeptMail) {
    let KeptMail { plugin, from, number, until_ms, .. } = mail;
    let is_page = from == FROM_THE_BROKER && mail.bytes.len() > 1;
    let limits = Arc::clone(&parts.setup.limits);
    let desk = parts.hooks.desk();
    let refusal = Bytes::from_static(&[ReasonCode::QUOTA_EXCEEDED.0]);
    let instead = KeptMail { plugin, from, number, bytes: refusal, until_ms };
    if !(desk.keep_mail(mail, &limits) || is_page && desk.keep_mail(instead, &limits)) {
        parts.counters.plugin_mail_stale += 1;
    }
}
