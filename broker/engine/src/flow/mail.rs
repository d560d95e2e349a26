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
/// Mails that were kept which are looked at in one turn.
const SLICE: usize = 1024;

/// Calls the instance, or keeps the mail for it.
pub(crate) fn bring_mail(parts: &mut Parts, plugin: PluginHandle, from: u32, number: u64, bytes: Bytes) {
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    bring(parts, KeptMail { plugin, from, number, bytes, page: None, until_ms });
}

/// The same of mail in full. While kept mail is looked at again it waits behind that, which then gets shorter with each one.
fn bring(parts: &mut Parts, mail: KeptMail) {
    if !parts.hooks.kept().is_settling() {
        return hand(parts, mail);
    }
    parts.hooks.desk().settling().push_back(mail);
    settle_some(parts, 2);
}

fn hand(parts: &mut Parts, mail: KeptMail) {
    match parts.hooks.chains().instance_awake(mail.plugin) {
        Some(instance) => {
            parts.hooks.calls().enter_untimely(mail.plugin, Untimely::Mail);
            instance.mail(mail.from, mail.number, &mail.bytes);
            parts.hooks.calls().leave();
        }
        None => keep_mail(parts, mail),
    }
}

/// Hands over mail that was kept for plugins which are called now, and lets go of what nobody waits for any more: a slice at once, the
/// others turn by turn.
pub(crate) fn settle_mails(parts: &mut Parts) {
    parts.hooks.desk().settle_mails();
    settle_some(parts, SLICE);
}

fn settle_some(parts: &mut Parts, slice: usize) {
    for _ in 0..slice {
        let desk = parts.hooks.desk();
        let Some(mut kept) = desk.settling().pop_front() else { return };
        kept.plugin = desk.answers().of(kept.plugin);
        let is_late = kept.until_ms <= parts.clock.now().mono_ms && !parts.hooks.is_waited_for(kept.plugin);
        if parts.hooks.chains().instance_awake(kept.plugin).is_some() {
            hand(parts, kept);
        } else if is_late || parts.hooks.is_gone(kept.plugin) {
            parts.counters.plugin_mail_stale += 1;
        } else {
            keep_mail(parts, kept);
        }
    }
}

/// Goes on with mail that is looked at again, and then with answers beyond what was kept.
pub(crate) fn go_on_with_mails(parts: &mut Parts) {
    if parts.hooks.kept().is_settling() {
        return settle_some(parts, SLICE);
    }
    let Some((asker, plugin)) = parts.hooks.codes_to_tell() else { return };
    let until_ms = parts.clock.now().mono_ms + EARLY_MS;
    for (number, code) in parts.hooks.desk().codes().take(asker, SLICE) {
        let bytes = Bytes::copy_from_slice(&[code.0]);
        hand(parts, KeptMail { plugin, from: FROM_THE_BROKER, number, bytes, page: None, until_ms });
    }
}

/// Whether mail is left for a next turn.
pub(crate) fn has_mails(parts: &Parts) -> bool {
    parts.hooks.kept().is_settling() || parts.hooks.codes_to_tell().is_some()
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

/// Keeps it, or counts that there is no room. What is owed comes all the same: a code behind everything else, and instead of a page,
/// that there was no room for it.
fn keep_mail(parts: &mut Parts, mail: KeptMail) {
    let limits = Arc::clone(&parts.setup.limits);
    let desk = parts.hooks.desk();
    let Err(mut mail) = desk.keep_mail(mail, &limits) else { return };
    let (plugin, page) = (mail.plugin, mail.page.take());
    let mail = if page.is_some() {
        mail.bytes = Bytes::from_static(&[ReasonCode::QUOTA_EXCEEDED.0]);
        desk.keep_mail(mail, &limits).err()
    } else {
        Some(mail)
    };
    if let Some(mail) = mail {
        let is_kept = match (mail.from == FROM_THE_BROKER, mail.bytes.as_ref()) {
            (true, [code]) => desk.codes().keep(plugin, mail.number, ReasonCode(*code)),
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
    let plugin = parts.hooks.desk().answers().of(asker);
    let is_kept = !parts.hooks.is_gone(plugin) && parts.hooks.desk().codes().keep(plugin, number, code);
    parts.counters.plugin_mail_stale += u64::from(!is_kept);
}
