//! Requests of plugins on behalf of clients. They wait in order in a request queue for each plugin
//! and client, and go through client.authorize as if the client had sent them. The identity is that
//! of the client's session. Without a session, or where the session belongs to another principal,
//! it is the identity that the plugin has stored. A request that is not answered in time is
//! refused.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::host::FetchedWriter;

use super::hooks::Answer;
use super::refusals::{self, note_refused};
use super::{authorize, fetch, filters, hooks, instance_message, new_session, subscriptions, wake};
use crate::envelope::PageBody;
use crate::hook::PluginHandle;
use crate::hook::tickets::OpenTicket;
use crate::hook::view::Action;
use crate::id::{SessionKey, ShardId};
use crate::interface::{BehalfAction, BehalfClient, OnBehalf};
use crate::message::Message;
use crate::outbox::BehalfRefused;
use crate::packet::QoS;
use crate::parts::Parts;
use crate::plugins::request_queues::{self, Waiting};
use crate::plugins::{PageKey, PageSubject};
use crate::reason::ReasonCode;
use crate::session::fetch::{OpenPage, ROUNDS_MAX};
use crate::session::publish::{Authorization, PublishMetadata, Refused, Verdict};
use crate::session::{Behalf, BehalfKind, Identity, PublishSlot, Slot, SlotBody, Source, Stage};
use crate::topic;

/// What client.authorize decides about: the source, and the message or, where there is none, a
/// placeholder.
type AuthorizationSubject = (Source, Message);

/// Handles a request of a plugin on behalf of a client. Called between two events.
pub(crate) fn request(parts: &mut Parts, request: OnBehalf) {
    let OnBehalf { plugin, client, answer, action } = request;
    let (kind, mut subject) = plan_of(action, matches!(client, BehalfClient::Client(_)));
    if let Some(number) = answer
        && !parts.hooks.may_store_answer(plugin, &parts.setup.limits)
    {
        // The plugin is not called and goes on sending requests. The request is refused, and its
        // refusal is stored as a code, which takes no space from other answers.
        parts.counters.behalf_no_room += 1;
        let (client_id, about) = (client.client_id().into(), about(&kind, subject));
        refuse(parts, (plugin, None), client_id, about, ReasonCode::QUOTA_EXCEEDED);
        return instance_message::store_code(parts, (plugin, number), ReasonCode::QUOTA_EXCEEDED);
    }
    let identity = match client {
        BehalfClient::Identity(kept) => current_identity(parts, Rc::new(*kept)),
        BehalfClient::Client(client_id) => match client_session(parts, &client_id) {
            Some(identity) => identity,
            None => {
                let (about, reason) = (about(&kind, subject), ReasonCode::CLIENT_ID_NOT_VALID);
                return refuse(parts, (plugin, answer), client_id.into(), about, reason);
            }
        },
    };
    let outside = |topic: &str| identity.mount.as_ref().is_some_and(|mount| !mount.has(topic));
    if subject.as_ref().is_some_and(|(_, message)| outside(&message.topic)) {
        // The client itself cannot name what is not below its mount point, so no rule is about it.
        let (about, reason) = (about(&kind, subject), ReasonCode::NOT_AUTHORIZED);
        return refuse(parts, (plugin, answer), Arc::clone(&identity.client_id), about, reason);
    }
    if let Some((source, message)) = &mut subject {
        let choices = &parts.setup.limits.choices;
        if *source == Source::Behalf && message.retain && !choices.retain_available {
            // The client's own publish would be refused too [MQTT-3.2.2-14].
            let (about, reason) = (about(&kind, subject), ReasonCode::RETAIN_NOT_SUPPORTED);
            return refuse(parts, (plugin, answer), Arc::clone(&identity.client_id), about, reason);
        }
        if *source == Source::Behalf {
            // The plugin chose the QoS; the broker offers no more than this maximum.
            message.qos = message.qos.min(choices.maximum_qos);
        }
        // A request of the plugin itself has no client.
        if *source != Source::Behalf || identity.connection != 0 {
            message.from = Arc::clone(&identity.client_id);
        }
    }
    put(parts, Behalf { plugin, identity, kind, answer, epoch: 0, rounds: 0, authorization: None }, subject);
}

/// The action of a request, and what client.authorize decides about it. `by_id` says that the
/// plugin named a client identifier and not an identity.
fn plan_of(action: BehalfAction, by_id: bool) -> (BehalfKind, Option<AuthorizationSubject>) {
    match action {
        BehalfAction::Publish(message) => (BehalfKind::Publish, Some((Source::Behalf, message))),
        BehalfAction::Subscribe { filter, options, id } => {
            let subject = about_filter(&filter, options.qos);
            (BehalfKind::Subscribe { filter, options, id }, Some(subject))
        }
        BehalfAction::Unsubscribe { filter } => (BehalfKind::Unsubscribe { filter }, None),
        BehalfAction::Fetch(fetch) => {
            let subject = about_filter(&fetch.filter, fetch.qos);
            (BehalfKind::Fetch { fetch, by_id }, Some(subject))
        }
        BehalfAction::Authorize { action: Action::Subscribe, topic, qos, .. } => {
            (BehalfKind::Authorize, Some(about_filter(&topic, qos)))
        }
        BehalfAction::Authorize { action, topic, qos, retain } => (
            BehalfKind::Authorize,
            Some((Source::AuthorizationRequest(action), no_message(&topic, qos, retain))),
        ),
    }
}

/// The subject is the filter itself, as for a SUBSCRIBE of the client.
fn about_filter(filter: &str, qos: QoS) -> AuthorizationSubject {
    let filter = topic::parse_filter(filter).map_or("", |parsed| parsed.filter);
    (Source::AuthorizationRequest(Action::Subscribe), no_message(filter, qos, false))
}

/// A placeholder for an authorization request without a message.
fn no_message(topic: &str, qos: QoS, retain: bool) -> Message {
    Message {
        id: 0,
        topic: topic.into(),
        payload: Bytes::new(),
        properties: Box::default(),
        qos,
        retain,
        from: Arc::default(),
        origin: None,
        expires_at_ms: None,
        wall_ms: 0,
        ancestry: 0,
        flow: None,
    }
}

/// Kind and topic of a request, for the log.
fn about(kind: &BehalfKind, subject: Option<AuthorizationSubject>) -> (&'static str, Box<str>) {
    let topic = subject.map_or_else(|| kind.filter().into(), |(_, message)| message.topic);
    (kind.words(), topic)
}

/// The identity of the client with this identifier, from its session.
fn client_session(parts: &Parts, client_id: &str) -> Option<Rc<Identity>> {
    let session = parts.sessions.get(parts.sessions.by_client_id(client_id)?)?;
    session.is_usable().then(|| Rc::clone(&session.identity))
}

/// The current identity of a client from its session, or `kept` if there is no session of the same
/// principal.
pub(crate) fn current_identity(parts: &Parts, kept: Rc<Identity>) -> Rc<Identity> {
    let session = session_of(parts, &kept).and_then(|key| parts.sessions.get(key));
    session.map_or(kept, |session| Rc::clone(&session.identity))
}

/// The session of a client, if there is one of the same principal under its identifier.
fn session_of(parts: &Parts, identity: &Identity) -> Option<SessionKey> {
    let key = parts.sessions.by_client_id(&identity.client_id)?;
    let session = parts.sessions.get(key)?;
    // A request of the plugin itself has no client, even if a client has the same identifier.
    let is_a_client = identity.connection != 0;
    let same = session.identity.principal() == identity.principal();
    (is_a_client && same && session.is_usable()).then_some(key)
}

/// Queues a request behind earlier requests of the plugin on behalf of the same client. `subject`
/// goes through client.authorize.
fn put(parts: &mut Parts, behalf: Behalf, subject: Option<AuthorizationSubject>) {
    let (plugin, client_id) = (behalf.plugin, Arc::clone(&behalf.identity.client_id));
    let bytes = behalf.bytes() + subject.as_ref().map_or(0, |(_, message)| message.bytes());
    let limits = Arc::clone(&parts.setup.limits);
    let queues = parts.hooks.plugins_mut().request_queues();
    if !queues.has_room(plugin.number(), queues.owner_of(&behalf.identity), bytes, &limits) {
        parts.counters.behalf_no_room += 1;
        let (about, reason) = (about(&behalf.kind, subject), ReasonCode::QUOTA_EXCEEDED);
        return refuse(parts, (plugin, behalf.answer), client_id, about, reason);
    }
    let queue = request_queue_of(parts, &behalf);
    let slot = slot(parts, behalf, subject);
    if let Some(session) = parts.sessions.get_mut(queue) {
        session.slots.push(slot);
        wake::wake_slots(parts, queue);
        settle_request_queue(parts, queue);
    }
}

/// The session whose slots are the request queue of a plugin and client. Lists do not show it, and
/// no client can resume it.
fn request_queue_of(parts: &mut Parts, behalf: &Behalf) -> SessionKey {
    let (number, client_id) = (behalf.plugin.number(), &behalf.identity.client_id);
    if let Some(queue) = parts.hooks.plugins_mut().request_queues().session(number, client_id) {
        return queue;
    }
    let queue = new_session::of_plugin(parts, &behalf.identity);
    if let Some(session) = parts.sessions.get_mut(queue) {
        session.set_rare().request_queue = Some(number as u32);
    }
    let queues = parts.hooks.plugins_mut().request_queues();
    let owner = queues.owner_of(&behalf.identity);
    queues.open(number, owner, queue);
    queue
}

/// Updates the count of what waits in a request queue, and closes the queue when it is empty.
pub(crate) fn settle_request_queue(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get(key) else { return };
    let Some(number) = session.rare().request_queue.map(u64::from) else { return };
    if !session.slots.is_empty() {
        return count_request(parts, key);
    }
    let client_id = Arc::clone(&session.identity.client_id);
    parts.hooks.plugins_mut().request_queues().close(number, &client_id);
    parts.sessions.discard_of_plugin(key);
}

fn count_request(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get(key) else { return };
    let Some(number) = session.rare().request_queue.map(u64::from) else { return };
    let now = Waiting { requests: session.slots.len(), bytes: session.slots.bytes() };
    parts.hooks.plugins_mut().request_queues().count(number, &session.identity.client_id, now);
}

/// The slot of a request that begins to wait.
fn slot(parts: &mut Parts, behalf: Behalf, subject: Option<AuthorizationSubject>) -> Slot {
    let Some((source, mut message)) = subject else {
        let metadata = PublishMetadata { packet_id: None, packet_qos: QoS::AtMostOnce, dup: false };
        let verdict = Verdict::code(ReasonCode::SUCCESS);
        let waits = Refused { metadata, verdict, behalf: Some(Box::new(behalf)) };
        return Slot::new(None, SlotBody::Refused(Box::new(waits)));
    };
    let now = parts.clock.now();
    message.id = parts.numbers.message_id();
    message.wall_ms = now.wall_ms;
    message.expires_at_ms = message.expires_at_ms.map(|after_ms| now.mono_ms + after_ms);
    parts.counters.messages_plugins += u64::from(source == Source::Behalf);
    let metadata = PublishMetadata::of_message(&message);
    // Authorized in parallel with the requests in front, where nothing forbids it.
    let rounds = behalf.rounds;
    let request = authorize::new_request(parts, &behalf.identity).after_rounds(rounds);
    let stage = Stage::Authorize(Box::new(Authorization { request, after: None, first: None }));
    let (message, behalf) = (Arc::new(message), Some(Box::new(behalf)));
    let publish = PublishSlot { behalf, rounds, ..PublishSlot::new(message, metadata, source, stage) };
    Slot::new(None, SlotBody::Publish(Box::new(publish)))
}

/// Notes the verdict of client.authorize or message.publish on the request in slot `number`. A
/// refusal is logged here, while its topic is known.
pub(crate) fn decided(parts: &mut Parts, queue: SessionKey, number: u64, code: ReasonCode) {
    let publish = parts.sessions.get_mut(queue).and_then(|session| session.slots.publish_mut(number));
    let Some(PublishSlot { message, source, behalf: Some(behalf), .. }) = publish else { return };
    if let (Source::AuthorizationRequest(action), false) = (*source, code.is_error()) {
        behalf.authorization = Some((action, Arc::clone(message)));
    }
    // A pure authorization request has no effect that could be refused.
    if code.is_error() && !matches!(behalf.kind, BehalfKind::Authorize) {
        let (plugin, client_id) = (behalf.plugin, Arc::clone(&behalf.identity.client_id));
        let (what, topic) = (behalf.kind.words(), message.topic.clone());
        note_refused(parts, BehalfRefused { plugin, client_id, what, topic, reason: code, unlogged: 0 });
    }
}

/// Ends a request that has reached the front: applies its effect and notifies the plugin of the
/// code.
pub(crate) fn ended(parts: &mut Parts, queue: SessionKey, behalf: Behalf, said: ReasonCode) {
    let topic = behalf.authorization.as_ref().map(|(_, message)| &*message.topic);
    let is_old = !authorize::is_current(parts, behalf.epoch, &behalf.identity, topic);
    let code = match &behalf.kind {
        _ if said.is_error() => said,
        // The rules have changed since. A recheck did not cover this request, because it is not in
        // force yet.
        BehalfKind::Subscribe { .. } | BehalfKind::Fetch { .. } | BehalfKind::Authorize if is_old => {
            return authorize_again(parts, queue, behalf);
        }
        BehalfKind::Fetch { .. } => {
            // It no longer waits.
            count_request(parts, queue);
            return fetch(parts, behalf);
        }
        BehalfKind::Subscribe { filter, options, id } => {
            let session = session_of(parts, &behalf.identity).ok_or(ReasonCode::CLIENT_ID_NOT_VALID);
            let done = session.and_then(|key| filters::subscribe_for(parts, key, filter, *options, *id));
            done.map_or_else(|reason| reason, |()| ReasonCode(options.qos.as_u8()))
        }
        BehalfKind::Unsubscribe { filter } => match session_of(parts, &behalf.identity) {
            Some(session) => subscriptions::unsubscribe(parts, session, filter, "plugin"),
            None => ReasonCode::CLIENT_ID_NOT_VALID,
        },
        BehalfKind::Publish | BehalfKind::Authorize => said,
    };
    let Behalf { plugin, identity, kind, answer, .. } = behalf;
    if code.is_error() && !said.is_error() {
        let about = (kind.words(), kind.filter().into());
        return refuse(parts, (plugin, answer), Arc::clone(&identity.client_id), about, code);
    }
    parts.counters.behalf_refused += u64::from(code.is_error() && !matches!(kind, BehalfKind::Authorize));
    notify_plugin(parts, plugin, answer, code);
}

/// Begins to read a page of retained messages. From here on the page waits for other shards and
/// plugins, and blocks no request behind it.
fn fetch(parts: &mut Parts, behalf: Behalf) {
    let Behalf { plugin, identity, kind, answer, epoch, rounds, .. } = behalf;
    let BehalfKind::Fetch { fetch, by_id } = kind else { return };
    let client_id = Arc::clone(&identity.client_id);
    let limits = Arc::clone(&parts.setup.limits);
    let owners = (parts.setup.shards, fetch::only_owner(parts, &fetch.filter));
    let now = (epoch, rounds, parts.clock.now().mono_ms);
    let fetch = fetch.within(limits.behalf_page_messages_max, request_queues::page_bytes_max(&limits));
    let page = OpenPage::new(plugin, (identity, by_id), answer, fetch, now, owners);
    let queues = parts.hooks.plugins_mut().request_queues();
    let owner = queues.owner_of(&page.identity);
    if !queues.has_room_for_page(plugin.number(), owner, page.reserved_bytes(), &limits) {
        parts.counters.behalf_no_room += 1;
        let kind = BehalfKind::Fetch { fetch: page.fetch, by_id };
        let about = (kind.words(), kind.filter().into());
        return refuse(parts, (plugin, answer), client_id, about, ReasonCode::QUOTA_EXCEEDED);
    }
    let done = fetch::begin(parts, page);
    fetched(parts, done);
}

/// Takes the retained messages that a shard has found for a page.
pub(crate) fn page_came(parts: &mut Parts, number: u64, owner: ShardId, body: PageBody) {
    fetch::page_came(parts, number, owner, body);
}

/// Continues with the pages that wait for a turn.
pub(crate) fn continue_pages(parts: &mut Parts) {
    for _ in 0..parts.hooks.plugins_mut().pages().row_len() {
        if parts.work.is_turn_spent() {
            return;
        }
        let Some(number) = parts.hooks.plugins_mut().pages().pop() else { return };
        let done = fetch::in_turn(parts, number);
        fetched(parts, done);
    }
}

/// Takes a plugin's verdict on whether a client may have a message of a page.
pub(crate) fn fetch_answered(parts: &mut Parts, number: u64, ticket: &OpenTicket, answer: Answer<'_>) {
    let done = fetch::answered(parts, number, ticket, answer);
    fetched(parts, done);
}

/// Delivers a finished page to the plugin.
fn fetched(parts: &mut Parts, page: Option<OpenPage>) {
    let Some(page) = page else { return };
    let OpenPage { plugin, answer, by_id, rounds, .. } = page;
    let is_there = !by_id || session_of(parts, &page.identity).is_some();
    let is_old = !authorize::is_current(parts, page.epoch, &page.identity, Some(&page.fetch.filter));
    let reason = if !is_there {
        // The session has ended or belongs to another principal.
        ReasonCode::CLIENT_ID_NOT_VALID
    } else if page.failed == Some(ReasonCode::QUOTA_EXCEEDED) {
        ReasonCode::QUOTA_EXCEEDED
    } else if is_old && rounds < ROUNDS_MAX {
        // The rules have changed since: the right to subscribe and every message are authorized
        // again.
        let identity = current_identity(parts, page.identity);
        let (source, message) = about_filter(&page.fetch.filter, page.fetch.qos);
        let subject = (source, Message { from: Arc::clone(&identity.client_id), ..message });
        let kind = BehalfKind::Fetch { fetch: page.fetch, by_id };
        let (rounds, authorization) = (rounds + 1, None);
        return put(
            parts,
            Behalf { plugin, identity, kind, answer, epoch: 0, rounds, authorization },
            Some(subject),
        );
    } else if is_old {
        ReasonCode::SERVER_UNAVAILABLE
    } else {
        page.failed.unwrap_or(ReasonCode::SUCCESS)
    };
    if reason.is_error() {
        let kind = BehalfKind::Fetch { fetch: page.fetch, by_id };
        let about = (kind.words(), kind.filter().into());
        return refuse(parts, (plugin, answer), Arc::clone(&page.identity.client_id), about, reason);
    }
    parts.counters.messages_fetched += page.messages.len() as u64;
    let Some(number) = answer else { return };
    let now_ms = parts.clock.now().mono_ms;
    let next = page.following().map(|place| place.encode()).unwrap_or_default();
    let mut bytes = FetchedWriter::new(&next);
    for message in &page.messages {
        message.view().write_to_page(&mut bytes, message.qos.min(page.fetch.qos), now_ms);
    }
    let about = PageSubject { client_id: Arc::clone(&page.identity.client_id), filter: page.fetch.filter };
    instance_message::deliver_answer(parts, (plugin, number), bytes.finish().into(), Some(Box::new(about)));
}

/// Drops a page because the shard is over its memory limit and this page is the largest item. The
/// plugin is notified that there was no room.
pub(crate) fn drop_page(parts: &mut Parts, place: PageKey) {
    parts.counters.behalf_no_room += 1;
    match place {
        PageKey::Open(number) => {
            let Some(mut page) = parts.hooks.plugins_mut().end_page(number) else { return };
            page.ticket().map(|ticket| hooks::close_ticket(parts, ticket));
            page.fail(ReasonCode::QUOTA_EXCEEDED);
            fetched(parts, Some(page));
        }
        PageKey::Stored(_) | PageKey::Settling(_) => {
            let answer = Bytes::from_static(&[ReasonCode::QUOTA_EXCEEDED.0]);
            if let Some((plugin, page)) = parts.hooks.plugins_mut().replace_page(place, answer) {
                refusals::page_refused(parts, plugin, *page);
            }
        }
    }
}

/// Refuses the requests in a queue because the shard is over its memory limit and this queue is the
/// largest item. Requests whose effect has begun stay.
pub(crate) fn refuse_queue(parts: &mut Parts, queue: SessionKey) {
    let Some(session) = parts.sessions.get(queue) else { return };
    for number in session.slots.front_number()..session.slots.next_number() {
        let Some(session) = parts.sessions.get_mut(queue) else { return };
        let publish = session.slots.publish_mut(number).filter(|publish| publish.may_be_refused());
        let Some(ticket) = publish.map(|publish| publish.stage.ticket()) else { continue };
        ticket.map(|ticket| hooks::close_ticket(parts, ticket));
        parts.counters.behalf_no_room += 1;
        decided(parts, queue, number, ReasonCode::QUOTA_EXCEEDED);
        if let Some(session) = parts.sessions.get_mut(queue) {
            session.slots.refuse(number, Verdict::code(ReasonCode::QUOTA_EXCEEDED));
        }
    }
    count_request(parts, queue);
    wake::wake_slots(parts, queue);
}

/// Authorizes a request again that older rules had allowed, before the requests behind it.
fn authorize_again(parts: &mut Parts, queue: SessionKey, behalf: Behalf) {
    let identity = current_identity(parts, Rc::clone(&behalf.identity));
    let Some((action, message)) = &behalf.authorization else { return };
    let subject = (Source::AuthorizationRequest(*action), Message::clone(message));
    let rounds = behalf.rounds.saturating_add(1);
    let slot = slot(parts, Behalf { identity, rounds, authorization: None, ..behalf }, Some(subject));
    if let Some(session) = parts.sessions.get_mut(queue) {
        session.slots.push_front(slot);
    }
}

/// Refuses a request at once.
fn refuse(
    parts: &mut Parts,
    (plugin, answer): (PluginHandle, Option<u64>),
    client_id: Arc<str>,
    (what, topic): (&'static str, Box<str>),
    reason: ReasonCode,
) {
    note_refused(parts, BehalfRefused { plugin, client_id, what, topic, reason, unlogged: 0 });
    parts.counters.behalf_refused += 1;
    notify_plugin(parts, plugin, answer, reason);
}

/// Notifies the plugin of the code, if it requested an answer.
fn notify_plugin(parts: &mut Parts, plugin: PluginHandle, answer: Option<u64>, code: ReasonCode) {
    if let Some(number) = answer {
        instance_message::deliver_answer(parts, (plugin, number), Bytes::copy_from_slice(&[code.0]), None);
    }
}
