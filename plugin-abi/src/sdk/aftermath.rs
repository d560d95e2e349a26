//! The end of messages: acknowledged by a subscriber, dropped, or retained.

use super::event::{client_getters, user_property_getters, wrapper};
use super::message::message_getters;
use crate::raw::{FLAG_DUP, FLAG_RETAIN, Field};

wrapper! {
    /// A subscriber has acknowledged a message for good, with PUBACK or PUBCOMP (`message.acked`). The client is the subscriber, the
    /// message as it was delivered. Called on the subscriber's shard. Nothing can be changed.
    Acked
}

wrapper! {
    /// A message was dropped, for one subscriber or for all (`message.dropped`). Called where it was dropped: on the subscriber's
    /// shard, or on a publisher's. There is a client where [`Dropped::by`] names one; otherwise its getters are empty. Nothing can
    /// be changed.
    Dropped
}

wrapper! {
    /// A retained message was set, cleared, or has expired (`message.retained`). Called on the shard that owns the topic. There is
    /// no client; [`Retained::from`] says whose message it is. Nothing can be changed.
    Retained
}

/// What became of a retained message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetainedChange {
    /// It was stored, in the place of one that may have been there.
    Set,
    /// It was taken out by an empty one.
    Cleared,
    /// Its message expiry interval is over.
    Expired,
}

impl<'a> Acked<'a> {
    client_getters! {}
    message_getters! {}
    user_property_getters! {}
}

impl<'a> Dropped<'a> {
    client_getters! {}
    message_getters! {}
    user_property_getters! {}

    /// Whom it was dropped for: a client identifier, or `node` for nobody in particular.
    pub fn by(&self) -> &'a str {
        self.context.text(Field::DROPPED_BY, 0).unwrap_or("")
    }

    /// Why, in one word: `no_subscribers`, `queue_full`, `expired`, `too_large` (for the client's Maximum Packet Size), `hook` (a
    /// plugin dropped or vetoed it), `lane_full`, `no_member` (of a shared subscription),
    /// `not_authorized` (client.authorize does not allow the delivery). Later brokers may have more.
    pub fn cause(&self) -> &'a str {
        self.context.text(Field::CAUSE, 0).unwrap_or("")
    }
}

impl<'a> Retained<'a> {
    client_getters! {}
    message_getters! {}
    user_property_getters! {}

    /// What became of it.
    pub fn change(&self) -> RetainedChange {
        match self.context.number(Field::RETAINED_CHANGE, 0) {
            Some(2) => RetainedChange::Cleared,
            Some(3) => RetainedChange::Expired,
            _ => RetainedChange::Set,
        }
    }
}
