//! An event for unit tests: fields by number, as in the broker, with an overlay for each hook call.

mod access;

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::{Completed, CompletedChange, Outcome, RemainingHooks};
use crate::host::{Entry, EventAccess, FieldChange};
use crate::point::HookPoint;
use crate::raw::{self, Event, Field, Flow, Slice};
use crate::sdk::{Action, MountSpec, Reason, Verdict};
use crate::topic;

#[derive(Clone, Debug)]
pub(super) enum Stored {
    Number(u64),
    Bytes(Vec<u8>),
    Pair(Vec<u8>, Vec<u8>),
}

/// The state before a hook, to undo its changes.
#[derive(Debug, Default)]
struct Snapshot {
    fields: BTreeMap<(u32, u32), Stored>,
    /// Number of messages added before.
    added: usize,
}

/// An event for hooks, and the hooks' changes to it. Made for one hook point. Methods named
/// `with_…` set the values that the test needs; getters return what the hooks have changed.
#[derive(Debug)]
pub struct FakeEvent {
    pub(super) point: HookPoint,
    proto_ver: u8,
    pub(super) fields: BTreeMap<(u32, u32), Stored>,
    /// Values that were replaced while a hook ran, because the hook may still have views of them.
    replaced: Vec<Stored>,
    waiting: Option<Receiver<Completed>>,
    /// The state of the event before the hook that deferred.
    before: Snapshot,
    /// Fields that the running hook has set to an invalid value, and not to a valid one since.
    refused: Vec<Field>,
    /// Topic name and payload of the messages that hooks have added.
    added: Vec<(String, Vec<u8>)>,
    /// The hooks after the one that deferred.
    pub(super) remaining: Option<RemainingHooks>,
}

impl FakeEvent {
    /// An event of any hook point, for a client named `client` with MQTT 5 over TCP.
    pub fn new(point: HookPoint) -> FakeEvent {
        let fields = BTreeMap::new();
        let event = FakeEvent {
            point,
            proto_ver: 5,
            fields,
            replaced: Vec::new(),
            waiting: None,
            before: Snapshot::default(),
            refused: Vec::new(),
            added: Vec::new(),
            remaining: None,
        };
        event
            .with_text(Field::CLIENT_ID, "client")
            .with_text(Field::PEER_HOST, "127.0.0.1")
            .with_number(Field::PEER_PORT, 40_000)
            .with_text(Field::LISTENER, "default")
            .with_text(Field::TRANSPORT, "tcp")
    }

    /// `message.publish` with QoS 0.
    pub fn publish(topic: &str, payload: &[u8]) -> FakeEvent {
        FakeEvent::new(HookPoint::MessagePublish)
            .with_text(Field::TOPIC, topic)
            .with_bytes(Field::PAYLOAD, payload)
    }

    /// `message.delivered` with QoS 0, to the client named `client`.
    pub fn delivered(topic: &str, payload: &[u8]) -> FakeEvent {
        FakeEvent { point: HookPoint::MessageDelivered, ..FakeEvent::publish(topic, payload) }
    }

    /// `client.authenticate` with user name and password, for a client that connects and has no
    /// session.
    pub fn authenticate(username: &str, password: &[u8]) -> FakeEvent {
        FakeEvent::new(HookPoint::ClientAuthenticate)
            .with_username(username)
            .with_bytes(Field::PASSWORD, password)
            .with_number(Field::SESSION_PRESENT, 0)
    }

    /// `client.authorize`.
    pub fn authorize(action: Action, topic: &str) -> FakeEvent {
        let action = match action {
            Action::Publish => 1,
            Action::Subscribe => 2,
            Action::Deliver => 3,
            Action::Will => 4,
        };
        FakeEvent::new(HookPoint::ClientAuthorize)
            .with_number(Field::ACTION, action)
            .with_text(Field::TOPIC, topic)
    }

    /// `client.subscribe` with topic filters and their options bytes.
    pub fn subscribe(filters: &[(&str, u8)]) -> FakeEvent {
        let mut event = FakeEvent::new(HookPoint::ClientSubscribe);
        for (index, (filter, options)) in (0..).zip(filters) {
            event.put(Field::FILTER, index, Stored::Bytes(filter.as_bytes().to_vec()));
            event.put(Field::FILTER_OPTIONS, index, Stored::Number(u64::from(*options)));
        }
        event
    }

    /// Sets the client identifier.
    #[must_use]
    pub fn with_client_id(self, client_id: &str) -> FakeEvent {
        self.with_text(Field::CLIENT_ID, client_id)
    }

    /// Sets the user name.
    #[must_use]
    pub fn with_username(self, username: &str) -> FakeEvent {
        self.with_text(Field::USERNAME, username)
    }

    /// Sets the protocol level of the client: 3, 4 or 5.
    #[must_use]
    pub fn with_proto_ver(mut self, proto_ver: u8) -> FakeEvent {
        self.proto_ver = proto_ver;
        self
    }

    /// Sets the quality of service, 0 to 2.
    #[must_use]
    pub fn with_qos(self, qos: u8) -> FakeEvent {
        self.with_number(Field::QOS, u64::from(qos))
    }

    /// Sets the retain flag.
    #[must_use]
    pub fn with_retain(self, retain: bool) -> FakeEvent {
        self.with_number(Field::RETAIN, u64::from(retain))
    }

    /// Appends a user property.
    #[must_use]
    pub fn with_user_property(mut self, key: &str, value: &str) -> FakeEvent {
        let pair = Stored::Pair(key.as_bytes().to_vec(), value.as_bytes().to_vec());
        self.put(Field::USER_PROPERTY, self.count(Field::USER_PROPERTY), pair);
        self
    }

    /// Gives the client a TLS connection with a verified certificate: the common name is all of its
    /// subject, and the alternative names are such as `DNS:pump.example`. Other fields of it can be
    /// set one by one, such as [`Field::TLS_ISSUER`].
    #[must_use]
    pub fn with_certificate(self, common_name: &str, alternative_names: &[&str]) -> FakeEvent {
        let mut event = self
            .with_text(Field::TRANSPORT, "tls")
            .with_text(Field::TLS_VERSION, "TLSv1.3")
            .with_text(Field::TLS_CIPHER, "TLS_AES_128_GCM_SHA256")
            .with_text(Field::TLS_SUBJECT, &format!("CN={common_name}"))
            .with_text(Field::TLS_COMMON_NAME, common_name)
            .with_number(Field::TLS_ALTERNATIVE_NAMES, alternative_names.len() as u64);
        for (index, name) in (0..).zip(alternative_names) {
            event.put(Field::TLS_ALTERNATIVE_NAME, index, Stored::Bytes(name.as_bytes().to_vec()));
        }
        event
    }

    /// Sets a user name that the listener has taken from the client's certificate.
    #[must_use]
    pub fn with_certified_username(self, username: &str) -> FakeEvent {
        self.with_username(username).with_number(Field::USERNAME_CERTIFIED, 1)
    }

    /// Sets any field that is a number or a flag.
    #[must_use]
    pub fn with_number(mut self, field: Field, number: u64) -> FakeEvent {
        self.put(field, 0, Stored::Number(number));
        self
    }

    /// Sets any field that is text.
    #[must_use]
    pub fn with_text(self, field: Field, text: &str) -> FakeEvent {
        self.with_bytes(field, text.as_bytes())
    }

    /// Sets any field that is bytes.
    #[must_use]
    pub fn with_bytes(mut self, field: Field, bytes: &[u8]) -> FakeEvent {
        self.put(field, 0, Stored::Bytes(bytes.to_vec()));
        self
    }

    /// The hook point it was made for.
    pub fn point(&self) -> HookPoint {
        self.point
    }

    /// The topic name, or the filter at `client.authorize`.
    pub fn topic(&self) -> &str {
        self.text(Field::TOPIC, 0).unwrap_or("")
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.bytes(Field::PAYLOAD, 0).unwrap_or(&[])
    }

    /// The quality of service.
    pub fn qos(&self) -> u8 {
        self.number(Field::QOS, 0).unwrap_or(0) as u8
    }

    /// The retain flag.
    pub fn retain(&self) -> bool {
        self.number(Field::RETAIN, 0) == Some(1)
    }

    /// All user properties.
    pub fn user_properties(&self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (0..)
            .map_while(|index| match self.fields.get(&(Field::USER_PROPERTY.0, index)) {
                Some(Stored::Pair(key, value)) => Some((text(key), text(value))),
                _ => None,
            })
            .collect()
    }

    /// The verdict of `client.connect`, `client.authenticate` or `client.authorize`.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.number(Field::VERDICT, 0))
    }

    /// The verdict for the `index`-th topic filter of `client.subscribe`.
    pub fn filter_verdict(&self, index: u32) -> Verdict {
        Verdict::from_number(self.number(Field::VERDICT, index))
    }

    /// The `index`-th topic filter of `client.subscribe`.
    pub fn filter(&self, index: u32) -> Option<&str> {
        self.text(Field::FILTER, index)
    }

    /// The reason code of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        self.number(Field::REASON_CODE, 0).map(|code| Reason(code as u8))
    }

    /// The text of a refusal.
    pub fn reason_text(&self) -> Option<&str> {
        self.text(Field::REASON_STRING, 0)
    }

    /// Whether the client was made a superuser.
    pub fn is_superuser(&self) -> bool {
        self.number(Field::IS_SUPERUSER, 0) == Some(1)
    }

    /// Whether the message was dropped (publish) or vetoed (delivered).
    pub fn is_dropped(&self) -> bool {
        self.number(Field::DISPOSITION, 0) == Some(1)
    }

    /// Whether the message was rejected.
    pub fn is_rejected(&self) -> bool {
        self.number(Field::DISPOSITION, 0) == Some(2)
    }

    /// Whether the publisher will be disconnected.
    pub fn is_disconnected(&self) -> bool {
        self.number(Field::DISPOSITION, 0) == Some(3)
    }

    /// Any field that is a number or a flag.
    pub fn number(&self, field: Field, index: u32) -> Option<u64> {
        match self.fields.get(&(field.0, index)) {
            Some(Stored::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// Any field that is text.
    pub fn text(&self, field: Field, index: u32) -> Option<&str> {
        self.bytes(field, index).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// Any field that is bytes.
    pub fn bytes(&self, field: Field, index: u32) -> Option<&[u8]> {
        match self.fields.get(&(field.0, index)) {
            Some(Stored::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Waits until the ticket of a deferred verdict is completed, and applies its changes. If the
    /// verdict continues the chain, the later hooks are called on this thread; if one of them
    /// defers too, its ticket is waited for as well. Returns [`Outcome::Fault`] for a dropped
    /// ticket, which discards all changes of its hook, and [`Outcome::Deferred`] after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Outcome {
        let until = Instant::now() + timeout;
        loop {
            let outcome = self.wait_for_ticket(until.saturating_duration_since(Instant::now()));
            if outcome == Outcome::Deferred {
                return outcome;
            }
            match self.remaining.take().filter(|_| outcome == Outcome::Continue).map(|rest| rest.run(self)) {
                Some(Outcome::Deferred) => {}
                Some(outcome) => return outcome,
                None => return outcome,
            }
        }
    }

    /// Whether the broker would call this hook with this event.
    pub(super) fn is_for(&self, mount: &MountSpec) -> bool {
        let is_delivery =
            self.point == HookPoint::ClientAuthorize && self.number(Field::ACTION, 0) == Some(3);
        let topics = mount.topic_list();
        (mount.delivers() || !is_delivery)
            && (topics.is_empty() || topics.iter().any(|filter| topic::matches(filter, self.topic())))
    }

    fn wait_for_ticket(&mut self, timeout: Duration) -> Outcome {
        let Some(waiting) = &self.waiting else { return Outcome::Fault };
        let Ok(completed) = waiting.recv_timeout(timeout) else { return Outcome::Deferred };
        self.waiting = None;
        let outcome = match completed.flow {
            Flow::CONTINUE => Outcome::Continue,
            Flow::STOP => Outcome::Stop,
            _ => return self.undo(),
        };
        for CompletedChange { field, index, number, bytes, key } in &completed.changes {
            let change = FieldChange { field: *field, index: *index, number: *number, bytes, key };
            if self.set(change).is_err() {
                return self.undo();
            }
        }
        outcome
    }

    /// Restores the event to its state before the failed hook.
    fn undo(&mut self) -> Outcome {
        let Snapshot { fields, added } = std::mem::take(&mut self.before);
        self.fields = fields;
        self.added.truncate(added);
        Outcome::Fault
    }

    /// Calls one hook with this event, as a chain would; for tests of code that makes entries.
    pub fn call(&mut self, entry: Entry, shard: u32) -> Flow {
        self.before = Snapshot { fields: self.fields.clone(), added: self.added.len() };
        let mut event = self.at_hand(shard);
        self.refused.clear();
        let flow = entry.call(&mut event, self);
        self.replaced.clear();
        let refused = !std::mem::take(&mut self.refused).is_empty();
        // As in the broker: a Defer without a ticket is a fault, and so is a ticket without a
        // Defer. An invalid value in a message discards all changes of the hook, even if the hook
        // ignores the error.
        match (flow, self.waiting.is_some()) {
            (Flow::CONTINUE | Flow::STOP | Flow::DEFER, _) if refused => {
                self.waiting = None;
                self.undo();
                Flow::FAULT
            }
            (Flow::CONTINUE | Flow::STOP, false) | (Flow::DEFER, true) => flow,
            (Flow::UNANSWERED, false) => {
                self.undo();
                Flow::UNANSWERED
            }
            _ => {
                self.waiting = None;
                self.undo();
                Flow::FAULT
            }
        }
    }

    /// The ABI struct of the event. Its views point into `self.fields`, whose values do not move
    /// until the hook has returned.
    fn at_hand(&self, shard: u32) -> Event {
        let view = |field| self.bytes(field, 0).map_or(Slice::EMPTY, Slice::of);
        let flag = |field, flag| if self.number(field, 0) == Some(1) { flag } else { 0 };
        let given = |field, flag| if self.bytes(field, 0).is_some() { flag } else { 0 };
        Event {
            proto_ver: self.proto_ver,
            qos: self.qos(),
            flags: flag(Field::RETAIN, raw::FLAG_RETAIN)
                | flag(Field::DUP, raw::FLAG_DUP)
                | flag(Field::IS_SUPERUSER, raw::FLAG_SUPERUSER)
                | flag(Field::SYS, raw::FLAG_SYS)
                | given(Field::USERNAME, raw::FLAG_HAS_USERNAME)
                | given(Field::PASSWORD, raw::FLAG_HAS_PASSWORD),
            action: self.number(Field::ACTION, 0).or(self.number(Field::PACKET_TYPE, 0)).unwrap_or(0) as u8,
            reason_code: self.number(Field::REASON_CODE, 0).unwrap_or(0) as u8,
            client_id: view(Field::CLIENT_ID),
            username: view(Field::USERNAME),
            topic: view(Field::TOPIC),
            payload: view(Field::PAYLOAD),
            ..Event::at(self.point, shard, self.number(Field::TIMESTAMP_MS, 0).unwrap_or(1_000))
        }
    }

    /// Topic name and payload of the messages that hooks have added, in order.
    pub fn added(&self) -> &[(String, Vec<u8>)] {
        &self.added
    }

    pub(super) fn put(&mut self, field: Field, index: u32, value: Stored) {
        self.replaced.extend(self.fields.insert((field.0, index), value));
    }

    fn count(&self, field: Field) -> u32 {
        self.fields.range((field.0, 0)..=(field.0, u32::MAX)).count() as u32
    }
}
