//! Events of the notification points, and of CONNACK and UNSUBSCRIBE, for unit tests. `event` has
//! the events with their own setters.

use super::FakeEvent;
use super::event::Stored;
use crate::point::HookPoint;
use crate::raw::Field;
use crate::sdk::{Reason, RetainedChange};

impl FakeEvent {
    fn at(mut self, point: HookPoint) -> FakeEvent {
        self.point = point;
        self
    }

    /// `client.connack` with a reason code; 0x00 accepts the client.
    pub fn connack(reason: Reason) -> FakeEvent {
        FakeEvent::new(HookPoint::ClientConnack).with_number(Field::REASON_CODE, u64::from(reason.0))
    }

    /// `client.unsubscribe` with topic filters.
    pub fn unsubscribe(filters: &[&str]) -> FakeEvent {
        let mut event = FakeEvent::new(HookPoint::ClientUnsubscribe);
        for (index, filter) in (0..).zip(filters) {
            event.put(Field::FILTER, index, Stored::Bytes(filter.as_bytes().to_vec()));
        }
        event
    }

    /// One of the points `session.created`, `.resumed`, `.discarded`, `.takenover` and
    /// `.terminated`; with the cause if the session ends.
    pub fn session(point: HookPoint, cause: Option<&str>) -> FakeEvent {
        let event = FakeEvent::new(point);
        match cause {
            Some(cause) => event.with_text(Field::CAUSE, cause),
            None => event,
        }
    }

    /// `session.subscribed` with the options byte; the subscription is new.
    pub fn subscribed(filter: &str, options: u8) -> FakeEvent {
        let event = FakeEvent::unsubscribe(&[filter]).at(HookPoint::SessionSubscribed);
        event
            .with_text(Field::TOPIC, filter)
            .with_number(Field::FILTER_OPTIONS, u64::from(options))
            .with_number(Field::IS_NEW, 1)
    }

    /// `session.unsubscribed` with its cause.
    pub fn unsubscribed(filter: &str, cause: &str) -> FakeEvent {
        let event = FakeEvent::unsubscribe(&[filter]).at(HookPoint::SessionUnsubscribed);
        event.with_text(Field::TOPIC, filter).with_text(Field::CAUSE, cause)
    }

    /// `message.acked` by the client named `client`.
    pub fn acked(topic: &str, payload: &[u8]) -> FakeEvent {
        FakeEvent::publish(topic, payload).at(HookPoint::MessageAcked)
    }

    /// `message.dropped` for this client identifier, or for `node`, with its cause.
    pub fn dropped(topic: &str, payload: &[u8], by: &str, cause: &str) -> FakeEvent {
        let event = FakeEvent::publish(topic, payload).at(HookPoint::MessageDropped);
        event
            .with_client_id(if by == "node" { "" } else { by })
            .with_text(Field::DROPPED_BY, by)
            .with_text(Field::CAUSE, cause)
    }

    /// `message.retained`.
    pub fn retained(topic: &str, payload: &[u8], change: RetainedChange) -> FakeEvent {
        let change = match change {
            RetainedChange::Set => 1,
            RetainedChange::Cleared => 2,
            RetainedChange::Expired => 3,
        };
        let event = FakeEvent::publish(topic, payload).at(HookPoint::MessageRetained);
        event.with_client_id("").with_retain(true).with_number(Field::RETAINED_CHANGE, change)
    }

    /// `packet.received` or `packet.sent` with the bytes of the packet.
    pub fn packet(point: HookPoint, bytes: &[u8]) -> FakeEvent {
        let kind = bytes.first().map_or(0, |first| u64::from(first >> 4));
        FakeEvent::new(point)
            .with_number(Field::PACKET_TYPE, kind)
            .with_bytes(Field::PAYLOAD, bytes)
            .with_number(Field::PACKET_BYTES, bytes.len() as u64)
    }

    /// One of the points named `broker.…`, with the addresses of the listeners.
    pub fn broker(point: HookPoint, listeners: &[&str]) -> FakeEvent {
        let mut event = FakeEvent::new(point);
        event.fields.clear();
        event = event
            .with_text(Field::BROKER_VERSION, env!("CARGO_PKG_VERSION"))
            .with_number(Field::BROKER_UPTIME_MS, 1000);
        for (index, address) in (0..).zip(listeners) {
            event.put(Field::BROKER_LISTENER, index, Stored::Bytes(address.as_bytes().to_vec()));
        }
        event
    }
}
