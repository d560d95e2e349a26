//! Mail to an instance of a plugin on this shard, from its other instances and from the broker. Called between two events, so that
//! no plugin is called while a call of it is going on. An instance that is not in the chains finds its mail later, within bounds.

use std::sync::Arc;

use bytes::Bytes;

use super::refusals;
use crate::hook::{PluginHandle, Untimely};
use crate::interface::FROM_THE_BROKER;
use crate::parts::Parts;
use crate::plugins::{KeptMail, PageAbout};
use crate::reason::ReasonCode;

/// How long mail and timers of a plugin that is not in the chains yet wait for it, milliseconds.
pub(crate) const EARLY_MS: u64 = 60_000;

/// Calls the instance, or keeps the mail for it.
pub(crate) fn bring_mail(parts: &mut Parts, plugin: PluginHandle, from: u32, number: u64, bytes: Bytes) {
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    bring(parts, KeptMail { plugin, from, number, bytes, page: None, until_ms });
}

/// The same of mail that has been kept.
pub(crate) fn bring(parts: &mut Parts, mail: KeptMail) {
    match parts.hooks.chains().instance_awake(mail.plugin) {
        Some(instance) => {
            parts.hooks.calls().enter_untimely(mail.plugin, Untimely::Mail);
            instance.mail(mail.from, mail.number, &mail.bytes);
            parts.hooks.calls().leave();
        }
        None => keep_mail(parts, mail),
    }
}

/// Brings what became of a request to the version that has the state of the one which asked. Where there is none, nobody is told.
/// `page` says what it is about where it is a page, and no code.
pub(crate) fn bring_answer(
    parts: &mut Parts,
    (asker, number): (PluginHandle, u64),
    bytes: Bytes,
    page: Option<Box<PageAbout>>,
) {
    let plugin = parts.hooks.desk().answers().of(asker);
    if parts.hooks.is_gone(plugin) {
        parts.counters.plugin_mail_stale += 1;
        return;
    }
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    bring(parts, KeptMail { plugin, from: FROM_THE_BROKER, number, bytes, page, until_ms });
}

/// Keeps it, or counts that there is no room. What is owed comes all the same: instead of a page, that there was no room for it.
pub(crate) fn keep_mail(parts: &mut Parts, mail: KeptMail) {
    let limits = Arc::clone(&parts.setup.limits);
    let desk = parts.hooks.desk();
    let Err(mut mail) = desk.keep_mail(mail, &limits) else { return };
    if let Some(page) = mail.page.take() {
        mail.bytes = Bytes::from_static(&[ReasonCode::QUOTA_EXCEEDED.0]);
        let plugin = mail.plugin;
        let is_kept = desk.keep_mail(mail, &limits).is_ok();
        parts.counters.behalf_no_room += 1;
        parts.counters.plugin_mail_stale += u64::from(!is_kept);
        refusals::page_refused(parts, plugin, *page);
        return;
    }
    parts.counters.plugin_mail_stale += 1;
}
