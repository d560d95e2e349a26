//! Sessions and their subscriptions, when they begin and end.

use super::event::{client_getters, wrapper};
use super::filter::Filter;
use super::reason::Reason;
use crate::raw::{FLAG_REPLAY, Field};

wrapper! {
    /// A session came, went on or ended (`session.created`, `session.resumed`, `session.discarded`, `session.takenover`,
    /// `session.terminated`). Called on the session's shard, the client's home. Nothing can be changed.
    ///
    /// A session that is discarded or terminated takes its subscriptions with it: `session.unsubscribed` is not called for each.
    Session
}

wrapper! {
    /// A subscription is in force, because SUBACK has granted it, or is gone (`session.subscribed`, `session.unsubscribed`).
    /// Called on the session's shard. Nothing can be changed.
    Subscription
}

/// Getters of what a session holds.
macro_rules! session_getters {
    () => {
        /// When the session was made, milliseconds since 1970.
        pub fn created_at_ms(&self) -> u64 {
            self.count(Field::SESSION_CREATED_AT_MS)
        }

        /// Whether it outlives its connection.
        pub fn is_persistent(&self) -> bool {
            self.count(Field::SESSION_PERSISTENT) == 1
        }

        /// Its expiry interval in force, seconds; `u32::MAX` is never.
        pub fn expiry_s(&self) -> u32 {
            self.count(Field::SESSION_EXPIRY_S) as u32
        }

        /// How many subscriptions it has.
        pub fn subscriptions(&self) -> u64 {
            self.count(Field::SESSION_SUBSCRIPTIONS)
        }

        /// How many QoS 1 and 2 messages were sent to the client and are not acknowledged.
        pub fn inflight(&self) -> u64 {
            self.count(Field::SESSION_INFLIGHT)
        }

        /// How many messages wait for the client.
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

        /// Whether this tells of what was there before the plugin, which asked for it with [`crate::Host::replay`].
        pub fn is_replay(&self) -> bool {
            self.context.event().flags & FLAG_REPLAY != 0
        }
    };
}

impl<'a> Session<'a> {
    client_getters! {}
    session_getters! {}

    /// Why it ends, in one word, where it does. At `session.terminated`: `closed` (with its connection), `expired`, `kicked`, or
    /// `takenover` (by another connection, and it was not to outlive its own).
    pub fn cause(&self) -> Option<&'a str> {
        self.context.text(Field::CAUSE, 0)
    }

    /// The reason code that goes with the cause: of `closed` that of its connection's end.
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

    /// Subscription identifier, where it has one.
    pub fn subscription_id(&self) -> Option<u32> {
        self.context.number(Field::SUBSCRIPTION_ID, 0).map(|id| id as u32)
    }

    /// At `session.subscribed`: whether it was not there before.
    pub fn is_new(&self) -> bool {
        self.context.number(Field::IS_NEW, 0) == Some(1)
    }

    /// At `session.subscribed`: `plugin` where a plugin has made it, and nothing where its client has. At `session.unsubscribed`: why
    /// it is gone, in one word. `unsubscribe` is the client's own; `plugin` that of a plugin,
    /// `revoked` that client.authorize no longer allows it, `barrier` that another shard did not answer in time when it was changed.
    pub fn cause(&self) -> Option<&'a str> {
        self.context.text(Field::CAUSE, 0)
    }
}
