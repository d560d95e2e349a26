//! A retained message at the owner of its topic: it is stored or cleared, or a full store refuses
//! it.

use std::sync::Arc;

use super::{notify, send};
use crate::envelope::{EnvelopeBody, Lane};
use crate::hook::notification::RetainedChange;
use crate::id::ShardId;
use crate::message::{Message, MessageView};
use crate::parts::Parts;
use crate::route::retained::Full;
use crate::shared_message::{SharedMessage, shared_message};

/// Stores or clears the message of a topic that this shard owns. Returns the number of the stored
/// message.
pub(crate) fn store_retained(
    parts: &mut Parts,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) -> Result<u64, Full> {
    if view.payload.as_slice().is_empty() {
        // An empty payload clears [MQTT-3.3.1-6] [MQTT-3.3.1-7].
        if let Some(cleared) = parts.retained.clear(view.topic) {
            notify::notify_retained(parts, &cleared.view(), RetainedChange::Cleared);
        }
        return Ok(parts.retained.mark());
    }
    let message: Arc<Message> = Arc::clone(shared_message(view, shared));
    let bytes = message.bytes();
    if let Err(full) = parts.retained.set(view.topic, message, bytes, view.expires_at_ms, view.from) {
        parts.counters.messages_retained_refused += 1;
        note_full(parts, full);
        return Err(full);
    }
    notify::notify_retained(parts, view, RetainedChange::Set);
    Ok(parts.retained.mark())
}

/// Stores the message of another shard's publish to a topic that this shard owns.
pub(crate) fn store_for(parts: &mut Parts, from: ShardId, id: u64, message: &Arc<Message>) {
    let mut shared = Some(SharedMessage::new(Arc::clone(message).into()));
    let number = store_retained(parts, &message.view(), &mut shared).unwrap_or(0);
    send::push_envelope(parts, from, Lane::Control, EnvelopeBody::Stored { id, number });
}

/// Has the shell log that a retained message was not stored. The rate is limited.
#[cold]
pub(crate) fn note_full(parts: &mut Parts, full: Full) {
    if parts.work.begin_full_note(parts.clock.now().mono_ms) {
        parts.out.retained_full = Some(full);
    }
}
