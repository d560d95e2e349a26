//! Deferred verdicts: a ticket is taken in a hook, sent to any thread, and completed there once. A
//! dropped ticket completes as a fault, so that no client waits for a thread that has died.

use std::time::Duration;

use super::client::Verdict;
use super::event::{at, bytes, number, pair};
use super::host::Host;
use super::message::{disposition, message_setters, publish_setters};
use super::reason::Reason;
use crate::raw::{APPEND, Change, Field, Flow, Slice, Status, Ticket};

/// A deadline in milliseconds for the ABI. 0 means the operator's default, so a shorter duration
/// than 1 ms becomes 1.
pub(super) fn deadline_ms(deadline: Duration) -> u32 {
    u32::try_from(deadline.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

#[derive(Debug)]
struct OwnedChange {
    field: Field,
    index: u32,
    number: u64,
    bytes: Box<[u8]>,
    key: Box<[u8]>,
}

/// The common part of all tickets.
#[derive(Debug)]
struct Open {
    ticket: Ticket,
    host: Host,
    changes: Vec<OwnedChange>,
    done: bool,
}

impl Open {
    fn new(ticket: Ticket, host: Host) -> Open {
        Open { ticket, host, changes: Vec::new(), done: false }
    }

    fn change(&mut self, change: Change) {
        // SAFETY: both views were made from borrows that the calling setter still holds.
        let (bytes, key) = unsafe { (change.bytes.bytes().into(), change.key.bytes().into()) };
        self.changes.push(OwnedChange {
            field: change.field,
            index: change.index,
            number: change.number,
            bytes,
            key,
        });
    }

    fn complete(&mut self, flow: Flow) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let changes: Vec<Change> = self
            .changes
            .iter()
            .map(|change| Change {
                field: change.field,
                index: change.index,
                number: change.number,
                bytes: Slice::of(&change.bytes),
                key: Slice::of(&change.key),
            })
            .collect();
        let complete = self.host.api().complete;
        // SAFETY: `complete` may be called from any thread; `changes` and what they point to live
        // through the call.
        let status = unsafe { complete(self.ticket, flow, changes.as_ptr(), changes.len()) };
        if status != Status::OK && status != Status::STALE {
            self.host.error(format_args!(
                "the broker did not take a deferred verdict: {status:?}; it counts as a fault"
            ));
            // SAFETY: as above, without changes.
            unsafe { complete(self.ticket, Flow::FAULT, std::ptr::null(), 0) };
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.complete(Flow::FAULT);
    }
}

/// The methods of every ticket.
macro_rules! ends {
    () => {
        /// Discards all changes made on this ticket so far, for example after an error in the data
        /// they come from.
        pub fn forget_changes(&mut self) {
            self.0.changes.clear();
        }

        /// Completes without a verdict, for example because a process or a database that the plugin
        /// uses cannot be reached. The fault policy decides, and what was granted before stays
        /// granted. It does not count towards the plugin's breaker. Changes made on this ticket are
        /// discarded.
        pub fn unanswered(mut self) {
            self.0.changes.clear();
            self.0.complete(Flow::UNANSWERED);
        }

        /// Continues with the next plugin, with the changes made on this ticket.
        pub fn proceed(mut self) {
            self.0.complete(Flow::CONTINUE);
        }

        /// Ends the chain, with the changes made on this ticket; no later plugin is called.
        pub fn stop(mut self) {
            self.0.complete(Flow::STOP);
        }
    };
}

/// The verdicts at the points that authenticate or authorize.
macro_rules! answers {
    () => {
        /// Accepts the client, or allows the action; no later plugin is called.
        pub fn allow(mut self) {
            self.set_allowed();
            self.stop();
        }

        /// Refuses with this reason; no later plugin is called.
        pub fn deny(mut self, reason: Reason) {
            self.set_denied(reason);
            self.stop();
        }

        /// Accepts the client, or allows the action, unless a later plugin changes the verdict.
        /// Then call `proceed`.
        pub fn set_allowed(&mut self) {
            self.0.change(number(Field::VERDICT, Verdict::ALLOW));
        }

        /// Refuses with this reason, unless a later plugin changes the verdict. Then call
        /// `proceed`. A reason code that the acknowledgement packet does not have makes the ticket
        /// a fault.
        pub fn set_denied(&mut self, reason: Reason) {
            self.0.change(number(Field::REASON_CODE, u64::from(reason.0)));
            self.0.change(number(Field::VERDICT, Verdict::DENY));
        }
    };
}

/// Completes `client.authenticate` later. Send it to any thread. If it is dropped, the fault policy
/// denies.
#[derive(Debug)]
#[must_use = "a ticket that is dropped is a fault"]
pub struct AuthenticateTicket(Open);

impl AuthenticateTicket {
    pub(super) fn new(ticket: Ticket, host: Host) -> AuthenticateTicket {
        AuthenticateTicket(Open::new(ticket, host))
    }

    /// Sets whether the client is a superuser.
    pub fn set_superuser(&mut self, superuser: bool) {
        self.0.change(number(Field::IS_SUPERUSER, u64::from(superuser)));
    }

    answers! {}

    /// Requests another AUTH from the client with this data. Only if CONNECT named an
    /// authentication method. The chain runs again with the client's AUTH and the same
    /// [`super::Authenticate::connection`].
    pub fn another_round(mut self, data: &[u8]) {
        self.set_another_round(data);
        self.stop();
    }

    /// Requests another AUTH from the client, unless a later plugin changes the verdict. Then call
    /// [`AuthenticateTicket::proceed`].
    pub fn set_another_round(&mut self, data: &[u8]) {
        self.0.change(bytes(Field::AUTH_DATA, data));
        self.0.change(number(Field::VERDICT, Verdict::ANOTHER_ROUND));
    }

    /// Sets the authentication data of the CONNACK, or of the AUTH, that accepts the client.
    pub fn set_auth_data(&mut self, data: &[u8]) {
        self.0.change(bytes(Field::AUTH_DATA, data));
    }

    ends! {}
}

/// Completes `client.connect` later. Send it to any thread. If it is dropped, it counts as a fault.
#[derive(Debug)]
#[must_use = "a ticket that is dropped is a fault"]
pub struct ConnectTicket(Open);

impl ConnectTicket {
    pub(super) fn new(ticket: Ticket, host: Host) -> ConnectTicket {
        ConnectTicket(Open::new(ticket, host))
    }

    /// Changes the keep alive, seconds.
    pub fn set_keep_alive_s(&mut self, seconds: u16) {
        self.0.change(number(Field::KEEP_ALIVE_S, u64::from(seconds)));
    }

    /// Changes the session expiry interval, seconds.
    pub fn set_session_expiry_s(&mut self, seconds: u32) {
        self.0.change(number(Field::SESSION_EXPIRY_S, u64::from(seconds)));
    }

    /// Changes how many QoS 1 and 2 messages may be sent to the client unacknowledged; 0 makes the
    /// ticket a fault.
    pub fn set_receive_maximum(&mut self, maximum: u16) {
        self.0.change(number(Field::RECEIVE_MAXIMUM, u64::from(maximum)));
    }

    /// Changes the size of the largest packet that is sent to the client, bytes; 0 makes the ticket
    /// a fault.
    pub fn set_maximum_packet_size(&mut self, bytes: u32) {
        self.0.change(number(Field::MAXIMUM_PACKET_SIZE, u64::from(bytes)));
    }

    /// Changes how many topic aliases the broker may set for the client.
    pub fn set_topic_alias_maximum(&mut self, maximum: u16) {
        self.0.change(number(Field::TOPIC_ALIAS_MAXIMUM, u64::from(maximum)));
    }

    /// Appends a user property.
    pub fn add_user_property(&mut self, key: &str, value: &str) {
        self.0.change(pair(Field::USER_PROPERTY, APPEND, key, value));
    }

    /// Removes the `index`-th user property; later ones move up. If there is no such property, the
    /// ticket becomes a fault.
    pub fn remove_user_property(&mut self, index: u32) {
        self.0.change(at(index, number(Field::USER_PROPERTY, 1)));
    }

    /// Refuses the client with a reason code and, for MQTT 5, a text; no later plugin is called.
    pub fn refuse(mut self, reason: Reason, text: &str) {
        self.set_refused(reason, text);
        self.stop();
    }

    /// Refuses the client with a reason code and, for MQTT 5, a text, at the end of the chain. Then
    /// call [`ConnectTicket::proceed`]. A reason code that CONNACK does not have makes the ticket a
    /// fault.
    pub fn set_refused(&mut self, reason: Reason, text: &str) {
        self.0.change(number(Field::REASON_CODE, u64::from(reason.0)));
        if !text.is_empty() {
            self.0.change(bytes(Field::REASON_STRING, text.as_bytes()));
        }
        self.0.change(number(Field::VERDICT, Verdict::DENY));
    }

    ends! {}
}

/// Completes `client.authorize` later. Send it to any thread. If it is dropped, the fault policy
/// denies.
#[derive(Debug)]
#[must_use = "a ticket that is dropped is a fault"]
pub struct AuthorizeTicket(Open);

impl AuthorizeTicket {
    pub(super) fn new(ticket: Ticket, host: Host) -> AuthorizeTicket {
        AuthorizeTicket(Open::new(ticket, host))
    }

    /// Sets whether the verdict may be cached for this client and topic. The default is true.
    pub fn set_cacheable(&mut self, cacheable: bool) {
        self.0.change(number(Field::CACHEABLE, u64::from(cacheable)));
    }

    answers! {}
    ends! {}
}

/// Completes `client.subscribe` or `client.unsubscribe` later. Send it to any thread. If it is
/// dropped, it counts as a fault.
#[derive(Debug)]
#[must_use = "a ticket that is dropped is a fault"]
pub struct FiltersTicket(Open);

impl FiltersTicket {
    pub(super) fn new(ticket: Ticket, host: Host) -> FiltersTicket {
        FiltersTicket(Open::new(ticket, host))
    }

    /// Replaces the `index`-th topic filter.
    pub fn rewrite(&mut self, index: u32, filter: &str) {
        self.0.change(at(index, bytes(Field::FILTER, filter.as_bytes())));
    }

    /// Changes the options byte of the `index`-th filter; only for SUBSCRIBE.
    pub fn set_options(&mut self, index: u32, options: u8) {
        self.0.change(at(index, number(Field::FILTER_OPTIONS, u64::from(options))));
    }

    /// Refuses the `index`-th filter; the acknowledgement has the reason at this index.
    pub fn refuse(&mut self, index: u32, reason: Reason) {
        self.0.change(at(index, number(Field::REASON_CODE, u64::from(reason.0))));
        self.0.change(at(index, number(Field::VERDICT, Verdict::DENY)));
    }

    ends! {}
}

/// Completes `message.publish` later. Send it to any thread. If it is dropped, it counts as a
/// fault.
#[derive(Debug)]
#[must_use = "a ticket that is dropped is a fault"]
pub struct PublishTicket(Open);

impl PublishTicket {
    message_setters! {}
    publish_setters! {}

    pub(super) fn new(ticket: Ticket, host: Host) -> PublishTicket {
        PublishTicket(Open::new(ticket, host))
    }

    fn change(&mut self, change: Change) {
        self.0.change(change);
    }

    ends! {}

    /// Drops the message and acknowledges it; no later plugin sees it.
    pub fn drop_message(mut self) {
        self.set_dropped();
        self.stop();
    }

    /// Refuses the message with a reason code and a text; no later plugin sees it.
    pub fn reject(mut self, reason: Reason, text: &str) {
        self.set_rejected(reason, text);
        self.stop();
    }

    /// Refuses the message and disconnects its publisher.
    pub fn disconnect(mut self, reason: Reason, text: &str) {
        self.set_disconnected(reason, text);
        self.stop();
    }

    /// Drops the message and acknowledges it at the end of the chain. Then call
    /// [`PublishTicket::proceed`]. Later plugins see the message, and can read this decision with
    /// [`super::Publish::disposition`].
    pub fn set_dropped(&mut self) {
        self.0.change(number(Field::DISPOSITION, disposition::DROP));
    }

    /// Refuses the message with a reason code and a text; otherwise as
    /// [`PublishTicket::set_dropped`]. A reason code that PUBACK and PUBREC do not have makes the
    /// ticket a fault.
    pub fn set_rejected(&mut self, reason: Reason, text: &str) {
        self.set_refusal(disposition::REJECT, reason, text);
    }

    /// Refuses the message and disconnects its publisher; otherwise as
    /// [`PublishTicket::set_rejected`].
    pub fn set_disconnected(&mut self, reason: Reason, text: &str) {
        self.set_refusal(disposition::DISCONNECT, reason, text);
    }

    fn set_refusal(&mut self, disposition: u64, reason: Reason, text: &str) {
        self.0.change(number(Field::REASON_CODE, u64::from(reason.0)));
        if !text.is_empty() {
            self.0.change(bytes(Field::REASON_STRING, text.as_bytes()));
        }
        self.0.change(number(Field::DISPOSITION, disposition));
    }
}
