//! Refused requests of plugins on behalf of clients, for the log. The rate is limited, since one
//! refusal is often followed by more. Called by `on_behalf` and by `instance_message`.

use crate::hook::PluginHandle;
use crate::outbox::BehalfRefused;
use crate::parts::Parts;
use crate::plugins::PageSubject;
use crate::reason::ReasonCode;

/// Reports a refusal for the log.
#[cold]
pub(crate) fn note_refused(parts: &mut Parts, refused: BehalfRefused) {
    let now_ms = parts.clock.now().mono_ms;
    if let Some(unlogged) = parts.hooks.plugins_mut().refused(refused.plugin, now_ms) {
        parts.out.behalf_refused.push(BehalfRefused { unlogged, ..refused });
    }
}

/// Reports and counts a page for which there is no room while it waits for its plugin.
#[cold]
pub(crate) fn page_refused(
    parts: &mut Parts,
    plugin: PluginHandle,
    PageSubject { client_id, filter }: PageSubject,
) {
    let (topic, reason) = (filter.as_ref().into(), ReasonCode::QUOTA_EXCEEDED);
    note_refused(parts, BehalfRefused { plugin, client_id, what: "a page of", topic, reason, unlogged: 0 });
    parts.counters.behalf_refused += 1;
}
