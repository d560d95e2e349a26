//! Sessions and their subscriptions, when they begin and end.

use super::event::{client_getters, wrapper};
use super::filter::Filter;
use super::reason::Reason;
use crate::raw::{FLAG_REPLAY, Field};

wrapper! {
    /// A session was created, was resumed, or ended (`session.created`, `session.resumed`,
    /// `session.discarded`, `session.takenover`, `session.terminated`). Called on the session's
    /// shard, which is the client's home. Nothing can be changed.
    ///
    /// The subscriptions of a discarded or terminated session end with it: `session.unsubscribed`
    /// is not called for them.
    Session
}

wrapper! {
    /// A subscription is in force because SUBACK has granted it, or has ended
    /// (`session.subscribed`, `session.unsubscribed`). Called on the session's shard. Nothing can
    /// be changed.
    Subscription
}

/// Getters of the session's state.
macro_rules! session_getters {
    () => {
        /// When the session was created, milliseconds since 1970.
        pub fn created_at_ms(&self) -> u64 {
            self.count(Field::SESSION_CREATED_AT_MS)
        }

        /// Whether the session outlives its connection.
        pub fn is_persistent(&self) -> bool {
            self.count(Field::SESSION_PERSISTENT) == 1
        }

        /// The current session expiry interval, seconds; `u32::MAX` means never.
        pub fn expiry_s(&self) -> u32 {
            self.count(Field::SESSION_EXPIRY_S) as u32
        }

        /// How many subscriptions it has.
        pub fn subscriptions(&self) -> u64 {
            self.count(Field::SESSION_SUBSCRIPTIONS)
        }

        /// How many QoS 1 and 2 messages are sent to the client and not acknowledged.
        pub fn inflight(&self) -> u64 {
            self.count(Field::SESSION_INFLIGHT)
        }

        /// How many messages are queued for the client.
        pub fn queued(&self) -> u64 {
            self.count(Field::SESSION_QUEUED)
        }

        /// How many QoS 2 messages of the client wait for PUBREL.
        pub fn awaiting_rel(&self) -> u64 {
            self.count(Field::SESSION_AWAITING_REL)
        }

        fn count(&self, field: Field) -> u64 {
            self.context.number(field, 0).unwrap_or(0)
        }

        /// Whether this event is a replay, requested with [`crate::Host::replay`].
        pub fn is_replay(&self) -> bool {
            self.context.event().flags & FLAG_REPLAY != 0
        }
    };
}

impl<'a> Session<'a> {
    client_getters! {}
    session_getters! {}

    /// Why the session ends, as one word; `None` if it does not end. At `session.terminated`:
    /// `closed` (with its connection), `expired`, `kicked`, or `takenover` (by another connection,
    /// and the session does not outlive its own).
    pub fn cause(&self) -> Option<&'a str> {
        self.context.text(Field::CAUSE, 0)
    }

    /// The reason code for the cause. For `closed` it is the reason code of the connection's end.
    pub fn reason(&self) -> Option<Reason> {
        self.context.number(Field::REASON_CODE, 0).map(|code| Reason(code as u8))
    }
}

impl<'a> Subscription<'a> {
    client_getters! {}
    session_getters! {}

    /// The topic filter with its options, as granted.
    pub fn filter(&self) -> Filter<'a> {
        // SAFETY: what is at hand lives as long as the event.
        let filter = unsafe { self.context.event().topic.text() };
        let share_group = self.context.text(Field::SHARE_GROUP, 0);
        Filter {
            index: 0,
            filter,
            share_group,
            options: self.count(Field::FILTER_OPTIONS) as u8,
            refused: false,
        }
    }

    /// Subscription identifier, if it has one.
    pub fn subscription_id(&self) -> Option<u32> {
        self.context.number(Field::SUBSCRIPTION_ID, 0).map(|id| id as u32)
    }

    /// At `session.subscribed`: whether the subscription is new.
    pub fn is_new(&self) -> bool {
        self.context.number(Field::IS_NEW, 0) == Some(1)
    }

    /// At `session.subscribed`: `plugin` if a plugin made the subscription, `None` if the client
    /// did. At `session.unsubscribed`, one word: `unsubscribe` (by the client), `plugin` (by a
    /// plugin), `revoked` (client.authorize no longer allows it), or `barrier` (another shard did
    /// not answer in time when the subscription was changed).
    pub fn cause(&self) -> Option<&'a str> {
        self.context.text(Field::CAUSE, 0)
    }
}
