//! Decides whether a session gets a stored message live or from the store: never both, and never an
//! older message behind a newer one. Called for each delivery of a stored message.

use super::notify;
use crate::id::SessionKey;
use crate::message::MessageView;
use crate::parts::Parts;
use crate::session::readers::LiveDelivery;

/// Whether the store delivers a message for one subscription of a session instead, as a retained
/// one. Called for messages that their owner has stored, on any shard.
pub(crate) fn is_delivered_from_store(
    parts: &mut Parts,
    session_key: SessionKey,
    filter: u32,
    view: &MessageView<'_>,
) -> bool {
    let seen_max = parts.setup.limits.session_queue_messages_max as usize;
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let Some(readers) = &mut session.readers else { return false };
    match readers.live_delivery(filter, parts.router.owner_of(view.topic), view.stored, seen_max) {
        LiveDelivery::Live => false,
        LiveDelivery::Stored => true,
        LiveDelivery::TooMany => {
            notify::count_drop(parts, crate::counters::DropReason::QueueFull, view, Some(session_key));
            true
        }
    }
}

/// Notes that a stored message was delivered live. A message of its topic in a page that is under
/// way is older.
pub(crate) fn note_live(parts: &mut Parts, session_key: SessionKey, view: &MessageView<'_>) {
    let topic = parts.numbers.hash_of(view.topic);
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if let Some(readers) = &mut session.readers {
        readers.note_live(parts.router.owner_of(view.topic), topic, view.stored);
    }
}
