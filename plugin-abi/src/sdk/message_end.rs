//! The end of messages: acknowledged by a subscriber, dropped, or retained.

use super::event::{client_getters, user_property_getters, wrapper};
use super::message::message_getters;
use crate::raw::{FLAG_DUP, FLAG_RETAIN, Field};

wrapper! {
    /// A subscriber has acknowledged a message completely, with PUBACK or PUBCOMP
    /// (`message.acked`). The client is the subscriber; the message is as it was delivered. Called
    /// on the subscriber's shard. Nothing can be changed.
    Acked
}

wrapper! {
    /// A message was dropped, for one subscriber or for all (`message.dropped`). Called on the
    /// shard that dropped it: a subscriber's or a publisher's. The event has a client if
    /// [`Dropped::by`] names one; otherwise the client getters return empty values. Nothing can be
    /// changed.
    Dropped
}

wrapper! {
    /// A retained message was set, cleared, or has expired (`message.retained`). Called on the
    /// shard that owns the topic. The event has no client; [`Retained::from`] returns the
    /// publisher. Nothing can be changed.
    Retained
}

/// The change of a retained message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetainedChange {
    /// It was stored, and replaced an earlier one if there was one.
    Set,
    /// It was removed by an empty message.
    Cleared,
    /// Its message expiry interval has ended.
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

    /// The client identifier of the subscriber that it was dropped for; `node` if there is no
    /// particular one.
    pub fn by(&self) -> &'a str {
        self.context.text(Field::DROPPED_BY, 0).unwrap_or("")
    }

    /// The reason as one word: `no_subscribers`, `queue_full`, `expired`, `too_large` (for the
    /// client's Maximum Packet Size), `hook` (a plugin dropped or vetoed it), `lane_full`,
    /// `no_member` (of a shared subscription), `not_authorized` (client.authorize does not allow
    /// the delivery). Later versions of the broker may add words.
    pub fn cause(&self) -> &'a str {
        self.context.text(Field::CAUSE, 0).unwrap_or("")
    }
}

impl<'a> Retained<'a> {
    client_getters! {}
    message_getters! {}
    user_property_getters! {}

    /// The change of the retained message.
    pub fn change(&self) -> RetainedChange {
        match self.context.number(Field::RETAINED_CHANGE, 0) {
            Some(2) => RetainedChange::Cleared,
            Some(3) => RetainedChange::Expired,
            _ => RetainedChange::Set,
        }
    }
}
