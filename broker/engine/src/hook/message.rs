//! Events about a message: publish and delivered. The accumulator is a draft over the message, so
//! that a message without changes is never copied.

use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::host::{
    ClientIdentity, EventAccess, FetchedWriter, FieldChange, FieldValue, PluginMessage,
};
use grapnel_plugin_abi::raw::{Event, FLAG_DUP, FLAG_RETAIN, FLAG_SYS, Field, Slice, Status, Ticket};
use smallvec::SmallVec;

use super::chain::Fold;
use super::draft::{Draft, DraftRules, Extra};
use super::section::{Section, change_over};
use super::tickets::{SavedAccumulator, TicketIssuer};
use super::view::{ClientView, user_property};
use super::{CannotTake, FaultPolicy, HookPoint, Link, Refusal};
use crate::id::ShardId;
use crate::limits::Limits;
use crate::message::MessageView;
use crate::packet::{Properties, QoS};
use crate::time::Now;

impl<'a> MessageView<'a> {
    /// One of the fields that every message has for hooks; `None` for another field.
    pub(super) fn field(
        &self,
        field: Field,
        index: u32,
        now_ms: u64,
    ) -> Option<Result<FieldValue<'a>, Status>> {
        let properties = || Properties::from_encoded(self.properties);
        let number = |value: Option<u64>| value.map(FieldValue::Number).ok_or(Status::ABSENT);
        let bytes = |value: Option<&'a [u8]>| value.map(FieldValue::Bytes).ok_or(Status::ABSENT);
        Some(match field {
            Field::TOPIC => Ok(FieldValue::Bytes(self.topic.as_bytes())),
            Field::PAYLOAD => Ok(FieldValue::Bytes(self.payload.as_slice())),
            Field::QOS => number(Some(u64::from(self.qos.as_u8()))),
            Field::RETAIN => number(Some(u64::from(self.retain))),
            Field::SYS => number(Some(u64::from(self.is_sys()))),
            Field::MESSAGE_ID => number(Some(self.id)),
            Field::FROM if self.is_sys() => Err(Status::ABSENT),
            Field::FROM => Ok(FieldValue::Bytes(self.from.as_bytes())),
            Field::TIMESTAMP_MS => number(Some(self.wall_ms)),
            Field::CONTENT_TYPE => bytes(properties().content_type().map(str::as_bytes)),
            Field::RESPONSE_TOPIC => bytes(properties().response_topic().map(str::as_bytes)),
            Field::CORRELATION_DATA => bytes(properties().correlation_data()),
            Field::MESSAGE_EXPIRY_S => number(self.expiry_left_s(now_ms).map(u64::from)),
            Field::PAYLOAD_FORMAT => number(properties().payload_format().map(u64::from)),
            Field::USER_PROPERTY | Field::USER_PROPERTIES => user_property(properties(), field, index),
            _ => return None,
        })
    }
}

impl MessageView<'_> {
    /// Writes the message into a page of retained messages for a plugin, with this QoS.
    pub(crate) fn write_to_page(&self, page: &mut FetchedWriter, qos: QoS, now_ms: u64) {
        // Names all fields, so that the compiler reports a new one that is missing here.
        let &MessageView {
            topic,
            payload,
            properties,
            from,
            wall_ms,
            expires_at_ms: _,
            qos: _,
            retain: _,
            // Internal to the broker.
            id: _,
            origin: _,
            ancestry: _,
            stored: _,
            flow: _,
        } = self;
        let properties = Properties::from_encoded(properties);
        page.begin_message();
        page.field(Field::QOS, FieldValue::Number(u64::from(qos.as_u8())));
        page.field(Field::TOPIC, FieldValue::Bytes(topic.as_bytes()));
        page.field(Field::PAYLOAD, FieldValue::Bytes(payload.as_slice()));
        page.field(Field::TIMESTAMP_MS, FieldValue::Number(wall_ms));
        for (field, text) in [
            (Field::FROM, Some(from.as_bytes()).filter(|_| !self.is_sys())),
            (Field::CONTENT_TYPE, properties.content_type().map(str::as_bytes)),
            (Field::RESPONSE_TOPIC, properties.response_topic().map(str::as_bytes)),
            (Field::CORRELATION_DATA, properties.correlation_data()),
        ] {
            text.into_iter().for_each(|text| page.field(field, FieldValue::Bytes(text)));
        }
        for (field, number) in [
            (Field::MESSAGE_EXPIRY_S, self.expiry_left_s(now_ms).map(u64::from)),
            (Field::PAYLOAD_FORMAT, properties.payload_format().map(u64::from)),
        ] {
            number.into_iter().for_each(|number| page.field(field, FieldValue::Number(number)));
        }
        for (key, value) in properties.user() {
            page.field(Field::USER_PROPERTY, FieldValue::Pair(key.as_bytes(), value.as_bytes()));
        }
        page.end_message();
    }
}

/// What a fold needs from the shard.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Its limits.
    pub limits: &'a Limits,
    /// The time of the step.
    pub now: Now,
}

/// Refused changes of an event.
#[derive(Debug, Default)]
struct Refused {
    /// Fields for which the running link set an invalid value and no other value since; each field
    /// once.
    fields: Vec<(Field, &'static str)>,
    /// Changes for which a call was undone, for the log.
    refusals: Vec<Refusal>,
    /// How many of them are faults that are not counted elsewhere.
    faults: u64,
}

/// An event about a message in its chain.
#[derive(Debug)]
pub struct MessageFold<'a> {
    point: HookPoint,
    client: ClientView<'a>,
    base: MessageView<'a>,
    rules: Rules<'a>,
    /// The running link.
    running: Option<&'a Link>,
    /// The draft of the links so far; at the end the result of the chain.
    pub draft: Draft,
    overlay: Option<Draft>,
    /// What was refused; `None` if nothing was.
    refused: Option<Box<Refused>>,
    /// Values that were replaced during the event: a view that a hook holds stays valid.
    replaced: SmallVec<[Bytes; 2]>,
    issuer: Option<TicketIssuer<'a>>,
}

impl<'a> MessageFold<'a> {
    /// An event at `point` about a message from or to a client; links may defer only with a ticket
    /// issuer.
    #[inline]
    pub fn new(
        point: HookPoint,
        client: ClientView<'a>,
        base: MessageView<'a>,
        draft: Draft,
        rules: Rules<'a>,
        issuer: Option<TicketIssuer<'a>>,
    ) -> MessageFold<'a> {
        MessageFold {
            point,
            client,
            base,
            rules,
            running: None,
            draft,
            overlay: None,
            refused: None,
            replaced: SmallVec::new(),
            issuer,
        }
    }

    /// The event for this fold.
    #[inline]
    pub fn event(&self, shard: ShardId, wall_ms: u64, dup: bool) -> Event {
        let mut event = self.client.event(self.point, shard, wall_ms);
        self.show(&mut event);
        if dup {
            event.flags |= FLAG_DUP;
        }
        if self.base.is_sys() {
            event.flags |= FLAG_SYS;
        }
        event
    }

    fn show(&self, event: &mut Event) {
        let (draft, base) = (&self.draft, &self.base);
        event.topic = Slice::of(draft.topic_text().unwrap_or(base.topic).as_bytes());
        event.payload = Slice::of(draft.payload.as_deref().unwrap_or(base.payload.as_slice()));
        event.qos = draft.qos.unwrap_or(base.qos).as_u8();
        let retain = draft.retain.unwrap_or(base.retain);
        event.flags = if retain { event.flags | FLAG_RETAIN } else { event.flags & !FLAG_RETAIN };
    }

    fn current(&self) -> &Draft {
        self.overlay.as_ref().unwrap_or(&self.draft)
    }

    /// Applies one change to the overlay.
    fn change(&mut self, change: &FieldChange<'_>) -> Result<(), Status> {
        let rules = DraftRules { limits: self.rules.limits, properties: self.base.properties };
        let changed = change_over(&mut self.overlay, &self.draft, &mut self.replaced, |next| {
            next.change(self.point, change, rules)
        });
        match changed {
            // A hook may set another value after one that was refused.
            Ok(()) => {
                if let Some(refused) = &mut self.refused {
                    refused.fields.retain(|(field, _)| *field != change.field);
                }
            }
            Err(CannotTake { reason, .. }) => {
                reason.into_iter().for_each(|reason| self.refuse(change.field, reason))
            }
        }
        changed.map_err(|CannotTake { status, .. }| status)
    }

    fn refuse(&mut self, field: Field, reason: &'static str) {
        let Refused { fields, .. } = &mut **self.refused.get_or_insert_default();
        fields.retain(|(refused, _)| *refused != field);
        fields.push((field, reason));
    }

    /// Takes the refused changes for which a call was undone, and how many of them are faults that
    /// are not counted elsewhere.
    pub fn take_refusals(&mut self) -> (Vec<Refusal>, u64) {
        self.refused.take().map_or((Vec::new(), 0), |refused| (refused.refusals, refused.faults))
    }

    /// Commits the overlay.
    fn keep(&mut self) {
        if let Some(next) = self.overlay.take() {
            let before = std::mem::replace(&mut self.draft, next);
            let properties = before.properties.and_then(Section::seen);
            let parts = [before.topic, before.payload, properties, before.reason_string];
            if parts.iter().any(Option::is_some) {
                self.replaced.extend(parts.into_iter().flatten());
            }
        }
    }
}

impl EventAccess for MessageFold<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        let draft = self.current();
        if let Some(count) = draft.properties.as_ref().and_then(|section| section.user_count(field)) {
            return Ok(count);
        }
        let (properties, index) = match &draft.properties {
            Some(section) => section.shown(field, index),
            None => (self.base.properties, index),
        };
        let view = MessageView { properties, ..draft.view_beside(self.base, self.rules.now.mono_ms) };
        match field {
            Field::DISPOSITION => Ok(FieldValue::Number(draft.disposition as u64)),
            Field::REASON_CODE => {
                draft.reason.map(|reason| FieldValue::Number(u64::from(reason.0))).ok_or(Status::ABSENT)
            }
            Field::REASON_STRING => {
                draft.reason_string.as_deref().map(FieldValue::Bytes).ok_or(Status::ABSENT)
            }
            _ => view
                .field(field, index, self.rules.now.mono_ms)
                .unwrap_or_else(|| self.client.get(field, index)),
        }
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        self.change(&change)
    }

    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        Ok(self.client.identity())
    }

    fn add_message(&mut self, message: &PluginMessage<'_>) -> Result<(), Status> {
        let Some(link) = self.running else { return Err(Status::WRONG_MOMENT) };
        if self.point != HookPoint::MessagePublish {
            return Err(Status::UNSUPPORTED);
        }
        let added = self.current().extra.as_ref().map_or(0, |extra| extra.len());
        if added as u64 >= self.rules.limits.extra_messages_max {
            return Err(Status::FULL);
        }
        let ancestry = self.base.ancestry | link.ancestry_bit();
        if message.store_only {
            // Added messages are always published, so a message that is only stored is invalid.
            return Err(Status::INVALID);
        }
        // A missing sender is filled in when the message is published.
        let message =
            super::outgoing::message_of(message, "", ancestry, self.rules.limits).inspect_err(|_| {
                self.refuse(Field::MESSAGE_ID, "a message it adds is none that a client may publish");
            })?;
        let extra = Extra { plugin: link.plugin, message };
        if self.overlay.is_none() {
            self.overlay = Some(self.draft.clone());
        }
        if let Some(next) = &mut self.overlay {
            next.extra.get_or_insert_default().push(extra);
        }
        Ok(())
    }

    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status> {
        let issuer = self.issuer.as_mut().ok_or(Status::UNSUPPORTED)?;
        issuer.take(self.running.ok_or(Status::WRONG_MOMENT)?, deadline_ms)
    }
}

impl<'a> Fold<'a> for MessageFold<'a> {
    #[inline]
    fn begin(&mut self, link: &'a Link) {
        self.running = Some(link);
    }

    fn topic(&self) -> &str {
        self.draft.topic_text().unwrap_or(self.base.topic)
    }

    #[inline]
    fn commit(&mut self, event: &mut Event) -> bool {
        if let Some(issuer) = &mut self.issuer {
            issuer.answered();
        }
        let Some(overlay) = &self.overlay else { return false };
        let moved = overlay.topic != self.draft.topic;
        self.keep();
        self.show(event);
        moved
    }

    fn on_defer(&mut self) {
        if let (Some(next), Some(issuer)) = (self.overlay.take(), &mut self.issuer) {
            issuer.keep(SavedAccumulator::Message(std::mem::replace(&mut self.draft, next)));
        }
    }

    fn is_refused(&self) -> bool {
        self.refused.as_ref().is_some_and(|refused| !refused.fields.is_empty())
    }

    fn note_refused(&mut self) {
        self.refused.get_or_insert_default().faults += 1;
    }

    fn rollback(&mut self) {
        if let Some(refused) = &mut self.refused {
            let last = refused.fields.pop();
            refused.fields.clear();
            if let (Some((_, reason)), Some(link)) = (last, self.running) {
                let (plugin, name) = (link.plugin, Arc::clone(&link.name));
                refused.refusals.push(Refusal { plugin, link: link.identity, name, reason });
            }
        }
        self.overlay = None;
        if let Some(issuer) = &mut self.issuer {
            issuer.rollback();
        }
    }

    #[inline]
    fn ticket(&self) -> Option<Ticket> {
        self.issuer.as_ref().and_then(|issuer| issuer.taken)
    }

    fn has_no_free_ticket(&self) -> bool {
        self.issuer.as_ref().is_some_and(TicketIssuer::is_full)
    }

    fn fail(&mut self, policy: FaultPolicy) {
        if let Some(issuer) = &mut self.issuer {
            issuer.answered();
        }
        self.draft.fail(policy);
    }
}
