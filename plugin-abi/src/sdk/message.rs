//! The events with a message: a publish that is received, and a delivery to a subscriber.

use std::time::Duration;

use super::error::Refused;
use super::event::{at, bytes, client_getters, number, pair, user_property_getters, wrapper};
use super::outgoing::Outgoing;
use super::reason::Reason;
use super::ticket::{PublishTicket, deadline_ms};
use crate::raw::{APPEND, Change, FLAG_DUP, FLAG_RETAIN, Field};

wrapper! {
    /// A message came in (`message.publish`). It is authorized already, and is routed and
    /// acknowledged after the last hook. Called on the publisher's shard, in order of arrival.
    ///
    /// A client's message to a topic that begins with `$` is refused with 0x87 after the last hook,
    /// unless a hook has dropped it (as a plugin does that processes the message itself) or changed
    /// its topic, or the operator allows such topics.
    Publish
}

wrapper! {
    /// A message is about to be encoded for one subscriber (`message.delivered`). Called on the
    /// subscriber's shard; changes apply to this subscriber only.
    Delivered
}

macro_rules! message_getters {
    () => {
        /// Topic name.
        pub fn topic(&self) -> &'a str {
            self.context.text_at_hand(Field::TOPIC, self.context.event().topic)
        }

        /// Payload.
        pub fn payload(&self) -> &'a [u8] {
            self.context.bytes_at_hand(Field::PAYLOAD, self.context.event().payload)
        }

        /// Quality of service, 0 to 2.
        pub fn qos(&self) -> u8 {
            self.context.number_at_hand(Field::QOS, u64::from(self.context.event().qos)) as u8
        }

        /// The retain flag.
        pub fn retain(&self) -> bool {
            let at_hand = u64::from(self.context.event().flags & FLAG_RETAIN != 0);
            self.context.number_at_hand(Field::RETAIN, at_hand) != 0
        }

        /// The DUP flag of the packet.
        pub fn dup(&self) -> bool {
            self.context.event().flags & FLAG_DUP != 0
        }

        /// Content type.
        pub fn content_type(&self) -> Option<&'a str> {
            self.context.text(Field::CONTENT_TYPE, 0)
        }

        /// Response topic.
        pub fn response_topic(&self) -> Option<&'a str> {
            self.context.text(Field::RESPONSE_TOPIC, 0)
        }

        /// Correlation data.
        pub fn correlation_data(&self) -> Option<&'a [u8]> {
            self.context.bytes(Field::CORRELATION_DATA, 0)
        }

        /// Message expiry interval, seconds.
        pub fn message_expiry_s(&self) -> Option<u32> {
            self.context.number(Field::MESSAGE_EXPIRY_S, 0).map(|seconds| seconds as u32)
        }

        /// Payload format indicator: 0 bytes, 1 text.
        pub fn payload_format(&self) -> Option<u8> {
            self.context.number(Field::PAYLOAD_FORMAT, 0).map(|format| format as u8)
        }

        /// Whether the payload format indicator says that the payload is UTF-8.
        pub fn payload_is_text(&self) -> bool {
            self.payload_format() == Some(1)
        }

        /// Number of the message, unique while this broker process runs.
        pub fn message_id(&self) -> Option<u64> {
            self.context.number(Field::MESSAGE_ID, 0)
        }

        /// Client identifier of the publisher; `None` for a message of the broker itself.
        pub fn from(&self) -> Option<&'a str> {
            self.context.text(Field::FROM, 0)
        }

        /// Whether it is a message of the broker itself.
        pub fn is_sys(&self) -> bool {
            self.context.event().flags & crate::raw::FLAG_SYS != 0
        }

        /// When the message came in, milliseconds since 1970.
        pub fn timestamp_ms(&self) -> Option<u64> {
            self.context.number(Field::TIMESTAMP_MS, 0)
        }
    };
}

pub(super) use message_getters;

impl Publish<'_> {
    /// Whether it is the will of a client that has disconnected.
    pub fn is_will(&self) -> bool {
        self.context.event().flags & crate::raw::FLAG_WILL != 0
    }
}

/// Setters of a message, for the event and for its ticket; `change` receives each change.
macro_rules! message_setters {
    ($($out:tt)*) => {
        /// Replaces the payload.
        pub fn set_payload(&mut self, payload: &[u8]) $($out)* {
            self.change(bytes(Field::PAYLOAD, payload))
        }

        /// Changes the quality of service, 0 to 2.
        pub fn set_qos(&mut self, qos: u8) $($out)* {
            self.change(number(Field::QOS, u64::from(qos)))
        }

        /// Changes the content type.
        pub fn set_content_type(&mut self, content_type: &str) $($out)* {
            self.change(bytes(Field::CONTENT_TYPE, content_type.as_bytes()))
        }

        /// Changes the response topic.
        pub fn set_response_topic(&mut self, topic: &str) $($out)* {
            self.change(bytes(Field::RESPONSE_TOPIC, topic.as_bytes()))
        }

        /// Changes the correlation data.
        pub fn set_correlation_data(&mut self, data: &[u8]) $($out)* {
            self.change(bytes(Field::CORRELATION_DATA, data))
        }

        /// Changes the message expiry interval, seconds.
        pub fn set_message_expiry_s(&mut self, seconds: u32) $($out)* {
            self.change(number(Field::MESSAGE_EXPIRY_S, u64::from(seconds)))
        }

        /// Sets the payload format indicator: whether the payload is UTF-8.
        pub fn set_payload_is_text(&mut self, text: bool) $($out)* {
            self.change(number(Field::PAYLOAD_FORMAT, u64::from(text)))
        }

        /// Appends a user property.
        pub fn add_user_property(&mut self, key: &str, value: &str) $($out)* {
            self.change(pair(Field::USER_PROPERTY, APPEND, key, value))
        }

        /// Replaces the `index`-th user property.
        pub fn set_user_property(&mut self, index: u32, key: &str, value: &str) $($out)* {
            self.change(pair(Field::USER_PROPERTY, index, key, value))
        }

        /// Removes the `index`-th user property; later ones move up.
        pub fn remove_user_property(&mut self, index: u32) $($out)* {
            self.change(at(index, number(Field::USER_PROPERTY, 1)))
        }
    };
}
pub(super) use message_setters;

/// What happens to a published message, as values of [`Field::DISPOSITION`].
pub(super) mod disposition {
    /// Dropped, and acknowledged as if it had been routed.
    pub const DROP: u64 = 1;
    /// Refused with a reason code.
    pub const REJECT: u64 = 2;
    /// Refused, and the connection is closed.
    pub const DISCONNECT: u64 = 3;
    /// Not delivered to this subscriber.
    pub const VETO: u64 = 1;
}

/// What will happen to a published message, as set by the plugins so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// It is routed.
    Route,
    /// It is dropped, and acknowledged as if it had been routed.
    Drop,
    /// It is refused with a reason code.
    Reject,
    /// It is refused, and its publisher is disconnected.
    Disconnect,
}

/// Setters and verdicts of a publish, for the event and for its ticket.
macro_rules! publish_setters {
    ($($out:tt)*) => {
        /// Changes the topic name; the new topic is authorized again.
        pub fn set_topic(&mut self, topic: &str) $($out)* {
            self.change(bytes(Field::TOPIC, topic.as_bytes()))
        }

        /// Changes the retain flag.
        pub fn set_retain(&mut self, retain: bool) $($out)* {
            self.change(number(Field::RETAIN, u64::from(retain)))
        }
    };
}
pub(super) use publish_setters;

impl<'a> Publish<'a> {
    client_getters! {}
    message_getters! {}
    user_property_getters! {}
    message_setters! { -> Result<(), Refused> }
    publish_setters! { -> Result<(), Refused> }

    fn change(&mut self, change: Change) -> Result<(), Refused> {
        self.context.change(&change)
    }

    /// What will happen to the message, as set by the earlier plugins.
    pub fn disposition(&self) -> Disposition {
        match self.context.number(Field::DISPOSITION, 0) {
            Some(disposition::DROP) => Disposition::Drop,
            Some(disposition::REJECT) => Disposition::Reject,
            Some(disposition::DISCONNECT) => Disposition::Disconnect,
            _ => Disposition::Route,
        }
    }

    /// Drops the message; the publisher gets a success acknowledgement. Return
    /// [`crate::Flow::Stop`] if no later plugin shall see the message.
    ///
    /// # Errors
    /// None in this ABI version.
    pub fn drop_message(&mut self) -> Result<(), Refused> {
        self.change(number(Field::DISPOSITION, disposition::DROP))
    }

    /// Refuses the message. A client of MQTT 5 gets the reason code and the text in PUBACK or
    /// PUBREC. For an older client, and with QoS 0, the message is only dropped. Return
    /// [`crate::Flow::Stop`] if no later plugin shall see the message.
    ///
    /// # Errors
    /// [`Refused`] for a reason code that PUBACK and PUBREC do not have, or a text that is too
    /// long.
    pub fn reject(&mut self, reason: Reason, text: &str) -> Result<(), Refused> {
        self.verdict(disposition::REJECT, reason, text)
    }

    /// Refuses the message and disconnects its publisher with this reason.
    ///
    /// # Errors
    /// As [`Publish::reject`].
    pub fn disconnect(&mut self, reason: Reason, text: &str) -> Result<(), Refused> {
        self.verdict(disposition::DISCONNECT, reason, text)
    }

    /// Publishes another message if this one is published: after this one, and before its
    /// acknowledgement. It passes the hooks of all other plugins.
    ///
    /// # Errors
    /// [`Refused`] for an invalid topic or property, and above `extra_messages_max`.
    pub fn add_message(&mut self, message: &Outgoing) -> Result<(), Refused> {
        self.context.add_message(message)
    }

    fn verdict(&mut self, disposition: u64, reason: Reason, text: &str) -> Result<(), Refused> {
        self.change(number(Field::REASON_CODE, u64::from(reason.0)))?;
        if !text.is_empty() {
            self.change(bytes(Field::REASON_STRING, text.as_bytes()))?;
        }
        self.change(number(Field::DISPOSITION, disposition))
    }

    /// Takes a ticket to complete later, from any thread; then return [`crate::Flow::Defer`].
    /// Changes made before it apply, unless the ticket ends with a fault. A zero `deadline` means
    /// the maximum: the hook's `deadline_ms`, or the operator's `defer_deadline_ms` if the hook
    /// sets none. A missed deadline is a fault.
    ///
    /// # Errors
    /// [`Refused`] if no ticket is left (`tickets_max`).
    pub fn defer(&mut self, deadline: Duration) -> Result<PublishTicket, Refused> {
        let ticket = self.context.defer(deadline_ms(deadline))?;
        Ok(PublishTicket::new(ticket, self.context.host()))
    }
}

impl<'a> Delivered<'a> {
    client_getters! {}
    message_getters! {}
    user_property_getters! {}
    message_setters! { -> Result<(), Refused> }

    fn change(&mut self, change: Change) -> Result<(), Refused> {
        self.context.change(&change)
    }

    /// Changes the topic name for this subscriber.
    ///
    /// # Errors
    /// [`Refused`] for an empty topic name or one with a wildcard.
    pub fn set_topic(&mut self, topic: &str) -> Result<(), Refused> {
        self.change(bytes(Field::TOPIC, topic.as_bytes()))
    }

    /// Whether an earlier plugin withholds the message from this subscriber.
    pub fn is_vetoed(&self) -> bool {
        self.context.number(Field::DISPOSITION, 0) == Some(disposition::VETO)
    }

    /// Withholds the message from this subscriber.
    ///
    /// # Errors
    /// None in this ABI version.
    pub fn veto(&mut self) -> Result<(), Refused> {
        self.change(number(Field::DISPOSITION, disposition::VETO))
    }
}
