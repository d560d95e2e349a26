//! What plugins ask for on behalf of clients. It waits in the slots of the plugin, in order, and goes through client.authorize as
//! if the client had sent it: with the client as its session knows it, or, where that has gone or is another principal's, as
//! the plugin has kept it. Nobody's silence opens anything: what is not answered in time is refused.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::{authorize, filters, mail, plugin_publish, subscriptions, wake};
use crate::hook::PluginHandle;
use crate::hook::view::Action;
use crate::id::SessionKey;
use crate::interface::{FROM_THE_BROKER, OnBehalf, Whom, Wish};
use crate::message::Message;
use crate::outbox::BehalfRefused;
use crate::packet::QoS;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::publish::{Authorization, Head};
use crate::session::{Behalf, Deed, Identity, PublishSlot, Slot, SlotBody, Source, Stage};
use crate::topic;

/// Does what a plugin asks for. Between two events.
pub(crate) fn request(parts: &mut Parts, request: OnBehalf) {
    let OnBehalf { plugin, whom, answer, wish } = request;
    let Some(identity) = identity_of(parts, whom) else {
        parts.counters.behalf_refused += 1;
        return tell(parts, plugin, answer, ReasonCode::CLIENT_ID_NOT_VALID);
    };
    let (source, message, deed) = match wish {
        Wish::Publish(mut message) => {
            if message.retain && !parts.setup.limits.choices.retain_available {
                // As the client's own would be [MQTT-3.2.2-14].
                let (topic, reason) = (message.topic, ReasonCode::RETAIN_NOT_SUPPORTED);
                return refuse(parts, (plugin, answer), (&identity, Action::Publish, topic), reason);
            }
            // The plugin has chosen it, and nobody can have it with more.
            message.qos = message.qos.min(parts.setup.limits.choices.maximum_qos);
            // What a plugin has said itself has no client.
            if identity.connection != 0 {
                message.from = Arc::clone(&identity.client_id);
            }
            (Source::Behalf, message, Deed::Publish)
        }
        Wish::Subscribe { filter, options, id } => {
            // What is authorised is the filter itself, as where the client subscribes.
            let filtered = topic::parse_filter(&filter).map_or("", |parsed| parsed.filter);
            let message = asked_about(&identity, filtered, options.qos, false);
            (Source::Ask(Action::Subscribe), message, Deed::Subscribe { filter, options, id })
        }
        Wish::Unsubscribe { filter } => {
            let code = match session_of(parts, &identity) {
                Some(session) => subscriptions::unsubscribe(parts, session, &filter, "plugin"),
                None => ReasonCode::CLIENT_ID_NOT_VALID,
            };
            parts.counters.behalf_refused += u64::from(code.is_error());
            return tell(parts, plugin, answer, code);
        }
        Wish::Ask { action, topic, qos, retain } => {
            let filter = (action == Action::Subscribe).then(|| topic::parse_filter(&topic).ok()).flatten();
            let topic = filter.map_or(&*topic, |parsed| parsed.filter);
            (Source::Ask(action), asked_about(&identity, topic, qos, retain), Deed::Ask)
        }
    };
    let behalf = Behalf { plugin, identity, deed, answer, epoch: 0 };
    put(parts, behalf, source, message);
}

/// Whoever it is now: the client as its session knows it, if that is of the same principal.
fn identity_of(parts: &Parts, whom: Whom) -> Option<Rc<Identity>> {
    match whom {
        Whom::Client(client_id) => {
            let session = parts.sessions.get(parts.sessions.by_client_id(&client_id)?)?;
            session.is_there().then(|| Rc::clone(&session.identity))
        }
        Whom::Identity(kept) => {
            let session = session_of(parts, &kept).and_then(|key| parts.sessions.get(key));
            Some(session.map_or_else(|| Rc::new(*kept), |session| Rc::clone(&session.identity)))
        }
    }
}

/// The session of a client, if one under its identifier is there and is of the same principal.
fn session_of(parts: &Parts, identity: &Identity) -> Option<SessionKey> {
    let key = parts.sessions.by_client_id(&identity.client_id)?;
    let session = parts.sessions.get(key)?;
    // A plugin that has spoken for itself is nobody's client, whoever is called like it.
    let is_a_client = identity.connection != 0;
    let same = session.identity.principal() == identity.principal();
    (is_a_client && same && session.is_there()).then_some(key)
}

/// What stands for a question that is about no message.
fn asked_about(identity: &Identity, topic: &str, qos: QoS, retain: bool) -> Message {
    Message {
        id: 0,
        topic: topic.into(),
        payload: Bytes::new(),
        properties: Box::default(),
        qos,
        retain,
        from: Arc::clone(&identity.client_id),
        origin: None,
        expires_at_ms: None,
        wall_ms: 0,
        ancestry: 0,
        flow: None,
    }
}

/// Puts it behind what the plugin has asked for before.
fn put(parts: &mut Parts, behalf: Behalf, source: Source, mut message: Message) {
    let now = parts.clock.now();
    message.id = parts.numbers.message_id();
    message.wall_ms = now.wall_ms;
    message.expires_at_ms = message.expires_at_ms.map(|after_ms| now.mono_ms + after_ms);
    let session_key = plugin_publish::session_for(parts, behalf.plugin);
    let bounds = (parts.setup.limits.slots_max, parts.setup.limits.slot_bytes_max);
    let Some(session) = parts.sessions.get(session_key) else { return };
    if !plugin_publish::has_room(session, message.bytes() + behalf.bytes(), bounds) {
        let about = (&*behalf.identity, source.action(), message.topic);
        return refuse(parts, (behalf.plugin, behalf.answer), about, ReasonCode::QUOTA_EXCEEDED);
    }
    parts.counters.messages_plugins += u64::from(source == Source::Behalf);
    let head = Head::of_message(&message);
    // Where nothing forbids it, it is asked about beside those in front.
    let ask = authorize::new_ask(parts, &behalf.identity);
    let stage = Stage::Authorize(Box::new(Authorization { ask, after: None }));
    let (message, behalf) = (Arc::new(message), Some(Box::new(behalf)));
    let publish = PublishSlot { message, head, source, behalf, stage };
    if let Some(session) = parts.sessions.get_mut(session_key) {
        session.slots.push(Slot::new(None, SlotBody::Publish(Box::new(publish))));
        wake::wake_slots(parts, session_key);
    }
}

/// It has its end, with this code.
pub(crate) fn ended(parts: &mut Parts, behalf: Behalf, code: ReasonCode) {
    let Behalf { plugin, ref identity, ref deed, answer, epoch } = behalf;
    let code = match deed {
        Deed::Subscribe { .. } if !code.is_error() && epoch != parts.hooks.authz_epoch() => {
            // The rules have changed since: a recheck has not seen it, since it is not in force yet.
            let Deed::Subscribe { filter, options, id } = behalf.deed else { return };
            let whom = Whom::Identity(Box::new(Identity::clone(identity)));
            let wish = Wish::Subscribe { filter, options, id };
            return request(parts, OnBehalf { plugin, whom, answer, wish });
        }
        Deed::Subscribe { filter, options, id } if !code.is_error() => {
            let session = session_of(parts, identity).ok_or(ReasonCode::CLIENT_ID_NOT_VALID);
            let done = session.and_then(|key| filters::subscribe_for(parts, key, filter, *options, *id));
            done.map_or_else(|reason| reason, |()| ReasonCode(options.qos.as_u8()))
        }
        Deed::Subscribe { .. } | Deed::Publish | Deed::Ask => code,
    };
    // What is only asked has no effect that could be refused.
    parts.counters.behalf_refused += u64::from(code.is_error() && !matches!(deed, Deed::Ask));
    tell(parts, plugin, answer, code);
}

/// It is refused at once.
fn refuse(
    parts: &mut Parts,
    (plugin, answer): (PluginHandle, Option<u64>),
    (identity, action, topic): (&Identity, Action, Box<str>),
    reason: ReasonCode,
) {
    let client_id = Arc::clone(&identity.client_id);
    note_refused(parts, BehalfRefused { plugin, client_id, action, topic, reason, unlogged: 0 });
    parts.counters.behalf_refused += 1;
    tell(parts, plugin, answer, reason);
}

/// Has the shell log that: once in a while, since who is refused once is refused again.
#[cold]
pub(crate) fn note_refused(parts: &mut Parts, refused: BehalfRefused) {
    let now_ms = parts.clock.now().mono_ms;
    if let Some(unlogged) = parts.hooks.desk().refused(now_ms) {
        parts.out.behalf_refused = Some(BehalfRefused { unlogged, ..refused });
    }
}

/// Tells the plugin what became of it, if it wants to know.
fn tell(parts: &mut Parts, plugin: PluginHandle, answer: Option<u64>, code: ReasonCode) {
    if let Some(number) = answer {
        mail::bring_mail(parts, plugin, FROM_THE_BROKER, number, Bytes::copy_from_slice(&[code.0]));
    }
}
