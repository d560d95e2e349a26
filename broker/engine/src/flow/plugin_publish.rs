//! Messages that plugins publish, or add to a publish that has taken effect. They wait in the slots
//! of a session without a client.

use std::rc::Rc;
use std::sync::Arc;

use super::{new_session, notify, wake};
use crate::address::Address;
use crate::hook::PluginHandle;
use crate::hook::draft::{Extra, Extras};
use crate::id::SessionKey;
use crate::message::Message;
use crate::packet::Version;
use crate::parts::Parts;
use crate::session::publish::PublishMetadata;
use crate::session::{Entrance, Identity, PublishSlot, Session, Slot, SlotBody, Source, Stage};

/// Publishes a plugin's own message, behind its earlier publishes.
pub(crate) fn publish_for(parts: &mut Parts, plugin: PluginHandle, mut message: Message, source: Source) {
    message.id = parts.numbers.message_id();
    message.wall_ms = parts.clock.now().wall_ms;
    message.expires_at_ms = message.expires_at_ms.map(|after_ms| parts.clock.now().mono_ms + after_ms);
    let session_key = match known_session(parts, plugin) {
        Some(key) => key,
        None => session_of_plugin(parts, plugin, &message.from),
    };
    let (slots_max, bytes_max) = (parts.setup.limits.slots_max, parts.setup.limits.slot_bytes_max);
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if !has_room(session, message.bytes(), (slots_max, bytes_max)) {
        // A plugin cannot be paused. Beyond its reserve the message is dropped and counted.
        notify::count_drop(parts, crate::counters::DropReason::QueueFull, &message.view(), None);
        return;
    }
    parts.counters.messages_plugins += 1;
    let metadata = PublishMetadata::of_message(&message);
    let publish = PublishSlot::new(Arc::new(message), metadata, source, Stage::Unstarted);
    session.slots.push(Slot::new(None, SlotBody::Publish(Box::new(publish))));
    wake::wake_slots(parts, session_key);
}

/// Whether the session of a plugin has room for `bytes` more, within the given number of slots and
/// bytes.
fn has_room(session: &Session, bytes: usize, (slots_max, bytes_max): (u64, u64)) -> bool {
    (session.slots.len() as u64) < slots_max && (session.slots.bytes() + bytes) as u64 <= bytes_max
}

/// Publishes messages that links have added to a publish that has taken effect.
#[inline]
pub(crate) fn publish_extra(parts: &mut Parts, extra: Extras) {
    if let Some(extra) = extra {
        publish_added(parts, *extra);
    }
}

fn publish_added(parts: &mut Parts, extra: Vec<Extra>) {
    for Extra { plugin, mut message } in extra {
        if message.from.is_empty() {
            message.from = parts.hooks.chains().plugin_name(plugin).unwrap_or("a plugin").into();
        }
        publish_for(parts, plugin, message, Source::Plugin);
    }
}

/// The session of a plugin, if it exists. Later versions of the plugin use the same one and so keep
/// the order.
fn known_session(parts: &mut Parts, plugin: PluginHandle) -> Option<SessionKey> {
    parts.hooks.plugins_mut().session(plugin.number())
}

/// Creates the session of a plugin. Lists do not show it, and no client can resume it.
fn session_of_plugin(parts: &mut Parts, plugin: PluginHandle, name: &Arc<str>) -> SessionKey {
    let identity = Rc::new(Identity {
        client_id: Arc::clone(name),
        username: None,
        is_certified: false,
        superuser: true,
        peer: Address::NONE,
        entrance: Entrance::own("".into(), None),
        transport: None,
        tls: None,
        version: Version::V5,
        clean_start: true,
        keep_alive_s: 0,
        expiry_s: u32::MAX,
        requested_expiry_s: u32::MAX,
        receive_maximum: u16::MAX,
        connected_at_ms: parts.clock.now().wall_ms,
        connection: 0,
        session: 0,
        anonymous: false,
        properties: Box::default(),
        mount: None,
    });
    let key = new_session::of_plugin(parts, &identity);
    parts.hooks.plugins_mut().add_session(plugin.number(), key);
    key
}
