//! The commands of a plugin to the broker, in a test: publishes are recorded, timers use a clock
//! that the test advances, and instance messages wait until the test delivers them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{NEXT, Registered, TestPlugin, registry};
use crate::host::{Behalf, FetchedWriter, PluginMessage};
use crate::raw::{ALL_SHARDS, Action, FROM_BROKER, NewMessage, OnBehalf, Slice, Status};
use crate::sdk::{Exported, Outgoing, Reason};

thread_local! {
    /// The shard that this thread simulates.
    static SHARD: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Simulates a shard during the call.
pub(super) fn on_shard<R>(shard: u32, call: impl FnOnce() -> R) -> R {
    let before = SHARD.replace(Some(shard));
    let result = call();
    SHARD.set(before);
    result
}

/// A message that a plugin has published with [`crate::Host::publish`] or
/// [`crate::Host::publish_as`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Client identifier of the publisher; empty for the plugin.
    pub from: String,
    /// Client identifier if it was published on behalf of a client; `None` for the plugin's own
    /// message.
    pub on_behalf_of: Option<String>,
    /// Payload format indicator.
    pub payload_format: Option<u8>,
    /// Message expiry interval, seconds; 0 for none.
    pub message_expiry_s: u32,
    /// Content type; may be present and empty.
    pub content_type: Option<String>,
    /// Response topic; empty for none.
    pub response_topic: String,
    /// Correlation data; may be present and empty.
    pub correlation_data: Option<Vec<u8>>,
    /// User properties, as key and value.
    pub user_properties: Vec<(String, String)>,
    /// The flow that it is counted in until the test reads it; 0 for none.
    pub flow: u32,
}

/// A request of a plugin on behalf of a client, except publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BehalfRequest {
    /// The client.
    pub client_id: String,
    /// The requested action.
    pub what: BehalfAction,
    /// The number of the requested answer; `None` if none is requested.
    pub number: Option<u64>,
}

/// The requested action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BehalfAction {
    /// A subscription to this topic filter, with this options byte.
    Subscribe(String, u8),
    /// Unsubscribing from this topic filter.
    Unsubscribe(String),
    /// Authorization of this action for this topic name or filter.
    Authorize(Action, String),
    /// A page of the retained messages of this topic filter, with the start of the page.
    Fetch(String, Vec<u8>),
}

#[derive(Clone, Debug)]
struct FakeTimer {
    shard: u32,
    due_ms: u64,
    number: u64,
}

#[derive(Clone, Debug)]
struct FakeInstanceMessage {
    to: u32,
    from: u32,
    number: u64,
    bytes: Vec<u8>,
}

/// A requested answer to a publish: its shard, its number, and the client of the publish.
#[derive(Clone, Debug)]
struct Unanswered {
    shard: u32,
    number: u64,
    client_id: String,
}

/// The commands of one plugin.
#[derive(Debug, Default)]
pub(super) struct FakeCommands {
    shards: u32,
    now_ms: u64,
    published: Vec<Published>,
    /// The answers to publishes that have not been given yet.
    unanswered: Vec<Unanswered>,
    requests: Vec<BehalfRequest>,
    timers: BTreeMap<u64, FakeTimer>,
    refuses_timers: bool,
    messages: Vec<FakeInstanceMessage>,
}

impl FakeCommands {
    pub(super) fn of(shards: u32) -> FakeCommands {
        FakeCommands { shards, ..FakeCommands::default() }
    }

    /// For a plugin that is loaded beside this one, from its first call: the same clock, and the
    /// same setting of `refuse_timers`.
    pub(super) fn beside(plugin: u64) -> FakeCommands {
        let beside = |fake: &mut FakeCommands| FakeCommands {
            shards: fake.shards,
            now_ms: fake.now_ms,
            refuses_timers: fake.refuses_timers,
            ..FakeCommands::default()
        };
        with(plugin, beside).unwrap_or_default()
    }
}

/// Moves the outstanding answers of one load of a plugin to the load that has taken over its state.
pub(super) fn pass_answers(from: u64, to: u64) {
    let unanswered = with(from, |fake| std::mem::take(&mut fake.unanswered)).unwrap_or_default();
    with(to, |fake| fake.unanswered.splice(0..0, unanswered).for_each(drop));
}

fn with<R>(plugin: u64, call: impl FnOnce(&mut FakeCommands) -> R) -> Option<R> {
    let mut registry: Registered = registry();
    registry.command_queues.get_mut(&plugin).map(call)
}

fn text(bytes: &[u8]) -> Result<String, Status> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Status::INVALID)
}

fn noted(message: &PluginMessage<'_>) -> Result<Published, Status> {
    let topic = text(message.topic)?;
    crate::topic::check_name(&topic).map_err(|_| Status::INVALID)?;
    let pairs = message.user_properties.iter().map(|(key, value)| Ok((text(key)?, text(value)?)));
    Ok(Published {
        topic,
        payload: message.payload.to_vec(),
        qos: message.qos,
        retain: message.retain,
        from: text(message.from)?,
        on_behalf_of: None,
        payload_format: message.payload_format,
        message_expiry_s: message.message_expiry_s,
        content_type: message.content_type.map(text).transpose()?,
        response_topic: text(message.response_topic)?,
        correlation_data: message.correlation_data.map(<[u8]>::to_vec),
        user_properties: pairs.collect::<Result<_, Status>>()?,
        flow: message.flow,
    })
}

/// Published messages that the test has not read yet count as in flight.
pub(super) unsafe extern "C" fn in_flight(plugin: u64, flow: u32, out: *mut u64) -> Status {
    // SAFETY: the contract of `in_flight`: null or writable.
    let Some(out) = (unsafe { out.as_mut() }) else { return Status::INVALID };
    let count = with(plugin, |fake| {
        fake.published.iter().filter(|message| message.flow == flow && flow != 0).count()
    });
    count.map_or(Status::STALE, |count| {
        *out = count as u64;
        Status::OK
    })
}

pub(super) unsafe extern "C" fn publish(plugin: u64, message: *const NewMessage) -> Status {
    // SAFETY: the contract of `publish`: null or a table that lives through the call, as what it
    // points to does.
    match unsafe { PluginMessage::of(message) }.and_then(|message| noted(&message)) {
        Ok(message) => {
            with(plugin, |fake| fake.published.push(message)).map_or(Status::STALE, |()| Status::OK)
        }
        Err(status) => status,
    }
}

pub(super) unsafe extern "C" fn publish_as(
    plugin: u64,
    behalf: *const OnBehalf,
    message: *const NewMessage,
) -> Status {
    // SAFETY: the contract of `publish_as`: null or tables that live through the call, as what they
    // point to does.
    let read = unsafe { Behalf::of(behalf).and_then(|behalf| Ok((behalf, PluginMessage::of(message)?))) };
    let noted = read.and_then(|(behalf, message)| Ok((behalf, noted(&message)?)));
    let (behalf, message) = match noted {
        Ok(both) => both,
        Err(status) => return status,
    };
    let client_id = behalf.client.client_id().to_owned();
    let message = Published { from: client_id.clone(), on_behalf_of: Some(client_id.clone()), ..message };
    let shard = SHARD.get().unwrap_or(0);
    let done = with(plugin, |fake| {
        fake.published.push(message);
        fake.unanswered.extend(behalf.answer.map(|number| Unanswered { shard, number, client_id }));
    });
    done.map_or(Status::STALE, |()| Status::OK)
}

fn note_request(
    plugin: u64,
    behalf: Result<Behalf<'_>, Status>,
    what: Result<BehalfAction, Status>,
) -> Status {
    let request = behalf.and_then(|behalf| {
        Ok(BehalfRequest {
            client_id: behalf.client.client_id().to_owned(),
            what: what?,
            number: behalf.answer,
        })
    });
    match request {
        Ok(request) => {
            with(plugin, |fake| fake.requests.push(request)).map_or(Status::STALE, |()| Status::OK)
        }
        Err(status) => status,
    }
}

pub(super) unsafe extern "C" fn subscribe_as(
    plugin: u64,
    behalf: *const OnBehalf,
    filter: Slice,
    options: u32,
    _subscription_id: u32,
) -> Status {
    // SAFETY: the plugin lends the table, what it points to and the text for the call.
    let (behalf, filter) = unsafe { (Behalf::of(behalf), text(filter.bytes())) };
    note_request(plugin, behalf, filter.map(|filter| BehalfAction::Subscribe(filter, options as u8)))
}

pub(super) unsafe extern "C" fn unsubscribe_as(
    plugin: u64,
    behalf: *const OnBehalf,
    filter: Slice,
) -> Status {
    // SAFETY: the plugin lends the table, what it points to and the text for the call.
    let (behalf, filter) = unsafe { (Behalf::of(behalf), text(filter.bytes())) };
    note_request(plugin, behalf, filter.map(BehalfAction::Unsubscribe))
}

pub(super) unsafe extern "C" fn authorize_as(
    plugin: u64,
    behalf: *const OnBehalf,
    action: Action,
    topic: Slice,
    _qos: u32,
    _retain: u32,
) -> Status {
    // SAFETY: the plugin lends the table, what it points to and the text for the call.
    let (behalf, topic) = unsafe { (Behalf::of_answered(behalf), text(topic.bytes())) };
    note_request(plugin, behalf, topic.map(|topic| BehalfAction::Authorize(action, topic)))
}

pub(super) unsafe extern "C" fn fetch_as(
    plugin: u64,
    behalf: *const OnBehalf,
    filter: Slice,
    _qos: u32,
    place: Slice,
    _messages_max: u32,
    _bytes_max: u32,
) -> Status {
    // SAFETY: the plugin lends the table, what it points to, the text and the bytes for the call.
    let (behalf, filter, place) =
        unsafe { (Behalf::of_answered(behalf), text(filter.bytes()), place.bytes()) };
    note_request(plugin, behalf, filter.map(|filter| BehalfAction::Fetch(filter, place.to_vec())))
}

pub(super) unsafe extern "C" fn instance_message(
    plugin: u64,
    to_shard: u32,
    number: u64,
    bytes: Slice,
) -> Status {
    // SAFETY: the plugin lends the bytes for the call.
    let bytes = unsafe { bytes.bytes() }.to_vec();
    let from = SHARD.get().unwrap_or(ALL_SHARDS);
    let sent = with(plugin, |fake| {
        let to = if to_shard == ALL_SHARDS { 0..fake.shards } else { to_shard..to_shard.saturating_add(1) };
        if to.end > fake.shards {
            return Status::INVALID;
        }
        fake.messages.extend(to.map(|to| FakeInstanceMessage { to, from, number, bytes: bytes.clone() }));
        Status::OK
    });
    sent.unwrap_or(Status::STALE)
}

pub(super) unsafe extern "C" fn timer(plugin: u64, after_ms: u64, number: u64, out: *mut u64) -> Status {
    let Some(shard) = SHARD.get() else { return Status::WRONG_MOMENT };
    // SAFETY: the contract of `timer`: null or writable.
    let Some(out) = (unsafe { out.as_mut() }) else { return Status::INVALID };
    *out = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let armed = with(plugin, |fake| {
        if fake.refuses_timers {
            return Status::FULL;
        }
        let due_ms = fake.now_ms.saturating_add(after_ms);
        fake.timers.insert(*out, FakeTimer { shard, due_ms, number });
        Status::OK
    });
    armed.unwrap_or(Status::STALE)
}

pub(super) unsafe extern "C" fn cancel_timer(plugin: u64, timer: u64) -> Status {
    let Some(shard) = SHARD.get() else { return Status::WRONG_MOMENT };
    let cancelled = with(plugin, |fake| {
        let own = fake.timers.get(&timer).is_some_and(|timer| timer.shard == shard);
        own && fake.timers.remove(&timer).is_some()
    });
    if cancelled == Some(true) { Status::OK } else { Status::STALE }
}

impl<P: Exported> TestPlugin<P> {
    /// The messages published since the last call of this method.
    pub fn published(&self) -> Vec<Published> {
        with(self.handle, |fake| std::mem::take(&mut fake.published)).unwrap_or_default()
    }

    /// The requests on behalf of clients since the last call of this method, except publishes.
    pub fn take_requests(&self) -> Vec<BehalfRequest> {
        with(self.handle, |fake| std::mem::take(&mut fake.requests)).unwrap_or_default()
    }

    /// Answers a request on behalf of a client: calls `on_answer` of the shard's instance.
    pub fn answer_on(&mut self, shard: u32, number: u64, reason: Reason) {
        let instance = self.shards[shard as usize];
        let code = [reason.0];
        // SAFETY: the instance lives as long as `self`, which stays on its thread; the byte lives
        // through the call.
        on_shard(shard, || unsafe {
            self.table.on_instance_message()(instance, FROM_BROKER, number, Slice::of(&code));
        });
    }

    /// Delivers a page of retained messages: calls `on_fetched` of the shard's instance. `next` is
    /// the start of the next page; empty if this is the last page.
    pub fn fetched_on(&mut self, shard: u32, number: u64, messages: &[Outgoing], next: &[u8]) {
        let instance = self.shards[shard as usize];
        let mut page = FetchedWriter::new(next);
        messages.iter().for_each(|message| message.write_to_page(&mut page));
        let bytes = page.finish();
        // SAFETY: the instance lives as long as `self`, which stays on its thread; the bytes live
        // through the call.
        on_shard(shard, || unsafe {
            self.table.on_instance_message()(instance, FROM_BROKER, number, Slice::of(&bytes));
        });
    }

    /// Answers all publishes on behalf of clients with success, if an answer is requested,
    /// including those that are published meanwhile. Returns the number of answers.
    pub fn answer_published(&mut self) -> usize {
        let mut answered = 0;
        loop {
            match self.answer_published_with(|_| Reason::SUCCESS) {
                0 => return answered,
                count => answered += count,
            }
        }
    }

    /// Answers all publishes on behalf of clients so far, if an answer is requested. `reason`
    /// returns the reason code for a client identifier. Returns the number of answers.
    pub fn answer_published_with(&mut self, reason: impl FnMut(&str) -> Reason) -> usize {
        self.answer_all(None, reason)
    }

    /// As [`TestPlugin::answer_published_with`], with all answers on this shard. If another plugin
    /// is the client, the answer arrives on the shard of that plugin's name, which may differ from
    /// the shard that published.
    pub fn answer_published_on(&mut self, shard: u32, reason: impl FnMut(&str) -> Reason) -> usize {
        self.answer_all(Some(shard), reason)
    }

    fn answer_all(&mut self, on: Option<u32>, mut reason: impl FnMut(&str) -> Reason) -> usize {
        let unanswered = with(self.handle, |fake| std::mem::take(&mut fake.unanswered)).unwrap_or_default();
        for Unanswered { shard, number, client_id } in &unanswered {
            self.answer_on(on.unwrap_or(*shard), *number, reason(client_id));
        }
        unanswered.len()
    }

    /// Refuses new timers, or allows them again, as a broker does when there are too many. Existing
    /// timers continue. The setting also applies to a version that takes over.
    pub fn refuse_timers(&mut self, refuse: bool) {
        with(self.handle, |fake| fake.refuses_timers = refuse);
    }

    /// Advances the clock: calls `on_timer` for all timers that fall due, in order, including
    /// timers that are set meanwhile.
    pub fn advance(&mut self, time: Duration) {
        let until_ms = with(self.handle, |fake| fake.now_ms).unwrap_or(0) + time.as_millis() as u64;
        while let Some((number, timer)) = with(self.handle, |fake| fake.take_due(until_ms)).flatten() {
            let instance = self.shards[timer.shard as usize];
            // SAFETY: the instance lives as long as `self`, which stays on its thread.
            on_shard(timer.shard, || unsafe { self.table.on_timer()(instance, number, timer.number) });
        }
        with(self.handle, |fake| fake.now_ms = until_ms);
    }

    /// Delivers all instance messages, including those that are sent meanwhile. Returns their
    /// number.
    ///
    /// # Panics
    /// If the messages do not end.
    pub fn deliver_messages(&mut self) -> usize {
        let mut delivered = 0;
        loop {
            let message = with(self.handle, |fake| std::mem::take(&mut fake.messages)).unwrap_or_default();
            if message.is_empty() {
                return delivered;
            }
            for message in message {
                let instance = self.shards[message.to as usize];
                let bytes = Slice::of(&message.bytes);
                // SAFETY: the instance lives as long as `self`, which stays on its thread; the
                // bytes live through the call.
                on_shard(message.to, || unsafe {
                    self.table.on_instance_message()(instance, message.from, message.number, bytes)
                });
                delivered += 1;
            }
            assert!(delivered < 1_000_000, "the instances write each other without end");
        }
    }
}

impl FakeCommands {
    fn take_due(&mut self, until_ms: u64) -> Option<(u64, FakeTimer)> {
        let (timer, due_ms) = self
            .timers
            .iter()
            .map(|(timer, fake)| (*timer, fake.due_ms))
            .min_by_key(|(timer, due)| (*due, *timer))?;
        if due_ms > until_ms {
            return None;
        }
        self.now_ms = self.now_ms.max(due_ms);
        self.timers.remove(&timer).map(|fake| (timer, fake))
    }
}
