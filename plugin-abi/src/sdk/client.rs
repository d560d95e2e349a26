//! The events about a client: how it connects, what it may do, and how it disconnects.

use std::time::Duration;

use super::error::Refused;
use super::event::{at, bytes, client_getters, login_getters, number, pair, user_property_getters, wrapper};
use super::reason::Reason;
use super::ticket::{AuthenticateTicket, AuthorizeTicket, ConnectTicket, deadline_ms};
use crate::raw::{APPEND, Change, FLAG_REPLAY, FLAG_RETAIN, Field};

wrapper! {
    /// CONNECT was read and nothing is decided yet (`client.connect`). The hook may change the
    /// properties or refuse the client.
    Connect
}

wrapper! {
    /// Decides whether the client may connect (`client.authenticate`). Without a verdict, a client
    /// is accepted only if it has no user name and the listener allows anonymous clients, or if the
    /// listener takes its user name from its certificate. A fault denies: the client is refused
    /// with 0x88, server unavailable.
    Authenticate
}

wrapper! {
    /// Decides whether the client may publish to a topic name or subscribe to a topic filter
    /// (`client.authorize`). Without a verdict, `authorization.no_match` decides. A fault denies.
    /// The verdict may be cached for this client and topic.
    Authorize
}

wrapper! {
    /// The client is connected: CONNACK with success is on its way (`client.connected`). Nothing
    /// can be changed.
    Connected
}

wrapper! {
    /// The connection is about to close (`client.disconnected`). Nothing can be changed.
    Disconnected
}

/// The verdict of a chain so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// No verdict yet.
    Unanswered,
    /// Accepted, or allowed.
    Allow,
    /// Refused.
    Deny,
}

impl Verdict {
    pub(super) const ALLOW: u64 = 1;
    pub(super) const DENY: u64 = 2;
    pub(super) const ANOTHER_ROUND: u64 = 3;

    pub(crate) fn from_number(number: Option<u64>) -> Verdict {
        match number {
            Some(Self::ALLOW) => Verdict::Allow,
            Some(Self::DENY) => Verdict::Deny,
            _ => Verdict::Unanswered,
        }
    }
}

/// The will in a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Will<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// The retain flag.
    pub retain: bool,
}

/// The action that is authorized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Publishing to a topic name.
    Publish,
    /// Subscribing to a topic filter.
    Subscribe,
    /// Receiving a message of a topic name.
    Deliver,
    /// Leaving a will for a topic name.
    Will,
}

/// Getters of the values in CONNECT that CONNACK does not answer.
macro_rules! connect_getters {
    () => {
        /// Protocol name of CONNECT: `MQTT`, or `MQIsdp` of MQTT 3.1.
        pub fn proto_name(&self) -> &'a str {
            self.context.text(crate::raw::Field::PROTO_NAME, 0).unwrap_or("")
        }

        /// Whether the client starts clean.
        pub fn clean_start(&self) -> bool {
            self.context.number(crate::raw::Field::CLEAN_START, 0) == Some(1)
        }

        /// When the connection was made, milliseconds since 1970.
        pub fn connected_at_ms(&self) -> Option<u64> {
            self.context.number(crate::raw::Field::CONNECTED_AT_MS, 0)
        }

        /// Number of the network connection, unique while this broker process runs. All rounds of
        /// one authentication have the same number.
        pub fn connection(&self) -> u64 {
            self.context.number(crate::raw::Field::CONNECTION, 0).unwrap_or(0)
        }

        /// Whether the client requests response information.
        pub fn wants_response_info(&self) -> bool {
            self.context.number(crate::raw::Field::REQUEST_RESPONSE_INFO, 0) == Some(1)
        }

        /// Whether the client accepts reason strings and user properties in packets that report a
        /// failure.
        pub fn wants_problem_info(&self) -> bool {
            self.context.number(crate::raw::Field::REQUEST_PROBLEM_INFO, 0) == Some(1)
        }
    };
}
pub(super) use connect_getters;

/// Getters of the values that CONNECT requests.
macro_rules! connection_getters {
    () => {
        connect_getters! {}

        /// The largest packet that the client accepts, bytes; `None` without a limit.
        pub fn maximum_packet_size(&self) -> Option<u32> {
            self.context.number(Field::MAXIMUM_PACKET_SIZE, 0).map(|bytes| bytes as u32)
        }

        /// How many topic aliases the client accepts; 0 for none.
        pub fn topic_alias_maximum(&self) -> u16 {
            self.context.number(Field::TOPIC_ALIAS_MAXIMUM, 0).unwrap_or(0) as u16
        }

        /// Keep alive, seconds; 0 for none.
        pub fn keep_alive_s(&self) -> u16 {
            self.context.number(Field::KEEP_ALIVE_S, 0).unwrap_or(0) as u16
        }

        /// Session expiry interval, seconds.
        pub fn session_expiry_s(&self) -> u32 {
            self.context.number(Field::SESSION_EXPIRY_S, 0).unwrap_or(0) as u32
        }

        /// How many unacknowledged QoS 1 and 2 messages the client accepts.
        pub fn receive_maximum(&self) -> Option<u16> {
            self.context.number(Field::RECEIVE_MAXIMUM, 0).map(|maximum| maximum as u16)
        }
    };
}

impl<'a> Connect<'a> {
    client_getters! {}
    login_getters! {}
    connection_getters! {}
    user_property_getters! {}

    fn change(&mut self, change: Change) -> Result<(), Refused> {
        self.context.change(&change)
    }

    /// The client's will.
    pub fn will(&self) -> Option<Will<'a>> {
        let topic = self.context.text(Field::WILL_TOPIC, 0)?;
        let number = |field| self.context.number(field, 0).unwrap_or(0);
        Some(Will {
            topic,
            payload: self.context.bytes(Field::WILL_PAYLOAD, 0).unwrap_or(&[]),
            qos: number(Field::WILL_QOS) as u8,
            retain: number(Field::WILL_RETAIN) == 1,
        })
    }

    /// The verdict so far: [`Verdict::Deny`] if an earlier plugin has refused the client and
    /// continued the chain.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.context.number(Field::VERDICT, 0))
    }

    /// Changes the keep alive, seconds; a client of MQTT 5 is notified with Server Keep Alive.
    ///
    /// # Errors
    /// [`Refused`] for a value the broker does not grant.
    pub fn set_keep_alive_s(&mut self, seconds: u16) -> Result<(), Refused> {
        self.change(number(Field::KEEP_ALIVE_S, u64::from(seconds)))
    }

    /// Changes the session expiry interval, seconds.
    ///
    /// # Errors
    /// [`Refused`] for a value the broker does not grant.
    pub fn set_session_expiry_s(&mut self, seconds: u32) -> Result<(), Refused> {
        self.change(number(Field::SESSION_EXPIRY_S, u64::from(seconds)))
    }

    /// Changes how many QoS 1 and 2 messages may be sent to the client unacknowledged.
    ///
    /// # Errors
    /// [`Refused`] for 0.
    pub fn set_receive_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::RECEIVE_MAXIMUM, u64::from(maximum)))
    }

    /// Changes the size of the largest packet that is sent to the client, bytes.
    ///
    /// # Errors
    /// [`Refused`] for 0.
    pub fn set_maximum_packet_size(&mut self, bytes: u32) -> Result<(), Refused> {
        self.change(number(Field::MAXIMUM_PACKET_SIZE, u64::from(bytes)))
    }

    /// Changes how many topic aliases the broker may set for the client.
    ///
    /// # Errors
    /// None in this ABI version.
    pub fn set_topic_alias_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::TOPIC_ALIAS_MAXIMUM, u64::from(maximum)))
    }

    /// Appends a user property. Later hooks see it as if it were part of CONNECT.
    ///
    /// # Errors
    /// [`Refused`] for more than 65,535 bytes or U+0000.
    pub fn add_user_property(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        self.change(pair(Field::USER_PROPERTY, APPEND, key, value))
    }

    /// Removes the `index`-th user property; later ones move up.
    ///
    /// # Errors
    /// [`Refused`] if there is no such property.
    pub fn remove_user_property(&mut self, index: u32) -> Result<(), Refused> {
        self.change(at(index, number(Field::USER_PROPERTY, 1)))
    }

    /// Refuses the client with a reason code and, for MQTT 5, a text.
    ///
    /// # Errors
    /// [`Refused`] for a reason code that CONNACK does not have.
    pub fn refuse(&mut self, reason: Reason, text: &str) -> Result<(), Refused> {
        self.change(number(Field::REASON_CODE, u64::from(reason.0)))?;
        if !text.is_empty() {
            self.change(bytes(Field::REASON_STRING, text.as_bytes()))?;
        }
        self.change(number(Field::VERDICT, Verdict::DENY))
    }

    /// Takes a ticket to complete later, from any thread; then return [`crate::Flow::Defer`].
    /// Changes made before it apply, unless the ticket ends with a fault. A zero `deadline` means
    /// the maximum: the hook's `deadline_ms`, or the operator's `defer_deadline_ms` if the hook
    /// sets none. A missed deadline is a fault: the client continues, unless the operator
    /// configures otherwise.
    ///
    /// # Errors
    /// [`Refused`] if no ticket is left (`tickets_max`).
    pub fn defer(&mut self, deadline: Duration) -> Result<ConnectTicket, Refused> {
        let ticket = self.context.defer(deadline_ms(deadline))?;
        Ok(ConnectTicket::new(ticket, self.context.host()))
    }
}

impl<'a> Authenticate<'a> {
    client_getters! {}
    login_getters! {}
    connection_getters! {}
    user_property_getters! {}

    fn change(&mut self, change: Change) -> Result<(), Refused> {
        self.context.change(&change)
    }

    /// The password, if the client gave one.
    pub fn password(&self) -> Option<&'a [u8]> {
        self.context.bytes(Field::PASSWORD, 0)
    }

    /// Authentication method of MQTT 5.
    pub fn auth_method(&self) -> Option<&'a str> {
        self.context.text(Field::AUTH_METHOD, 0)
    }

    /// Authentication data of MQTT 5.
    pub fn auth_data(&self) -> Option<&'a [u8]> {
        self.context.bytes(Field::AUTH_DATA, 0)
    }

    /// The client's will.
    pub fn will(&self) -> Option<Will<'a>> {
        let topic = self.context.text(Field::WILL_TOPIC, 0)?;
        let number = |field| self.context.number(field, 0).unwrap_or(0);
        Some(Will {
            topic,
            payload: self.context.bytes(Field::WILL_PAYLOAD, 0).unwrap_or(&[]),
            qos: number(Field::WILL_QOS) as u8,
            retain: number(Field::WILL_RETAIN) == 1,
        })
    }

    /// Whether a session exists for this client identifier, stored or connected. If the client is
    /// accepted and is a different user than [`Authenticate::session_owner`], the operator's
    /// setting `session_owner` decides about the session.
    pub fn has_session(&self) -> bool {
        self.context.number(Field::SESSION_PRESENT, 0) == Some(1)
    }

    /// Whether the client is already connected and re-authenticates (MQTT 5.0, section 4.12.1). The
    /// only existing session is then the client's own.
    pub fn is_renewal(&self) -> bool {
        self.context.number(Field::SESSION_PRESENT, 0).is_none()
    }

    /// User name of the owner of that session; `None` if there is no session or its owner has no
    /// user name.
    pub fn session_owner(&self) -> Option<&'a str> {
        self.context.text(Field::SESSION_OWNER, 0)
    }

    /// The verdict so far.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.context.number(Field::VERDICT, 0))
    }

    /// Accepts the client, unless a later plugin changes the verdict; return [`crate::Flow::Stop`]
    /// to make it final.
    ///
    /// # Errors
    /// None in this ABI version.
    pub fn allow(&mut self) -> Result<(), Refused> {
        self.change(number(Field::VERDICT, Verdict::ALLOW))
    }

    /// Refuses the client, unless a later plugin changes the verdict; return [`crate::Flow::Stop`]
    /// to make it final.
    ///
    /// # Errors
    /// [`Refused`] for a reason code that CONNACK does not have.
    pub fn deny(&mut self, reason: Reason) -> Result<(), Refused> {
        self.change(number(Field::REASON_CODE, u64::from(reason.0)))?;
        self.change(number(Field::VERDICT, Verdict::DENY))
    }

    /// Requests another AUTH from the client with this data, unless a later plugin changes the
    /// verdict. Only if CONNECT named an authentication method. The chain runs again with the
    /// client's AUTH and the same [`Authenticate::connection`].
    ///
    /// # Errors
    /// [`Refused`] for data longer than 65,535 bytes.
    pub fn another_round(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.change(bytes(Field::AUTH_DATA, data))?;
        self.change(number(Field::VERDICT, Verdict::ANOTHER_ROUND))
    }

    /// Sets the authentication data of the CONNACK, or of the AUTH, that accepts the client.
    ///
    /// # Errors
    /// [`Refused`] for data longer than 65,535 bytes.
    pub fn set_auth_data(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.change(bytes(Field::AUTH_DATA, data))
    }

    /// Sets whether the client is a superuser, who may do everything.
    ///
    /// # Errors
    /// None in this ABI version.
    pub fn set_superuser(&mut self, superuser: bool) -> Result<(), Refused> {
        self.change(number(Field::IS_SUPERUSER, u64::from(superuser)))
    }

    /// Takes a ticket to complete later, from any thread; then return [`crate::Flow::Defer`].
    /// Changes made before it apply, unless the ticket ends with a fault. A zero `deadline` means
    /// the maximum: the hook's `deadline_ms`, or the operator's `defer_deadline_ms` if the hook
    /// sets none. After the deadline the client is denied.
    ///
    /// # Errors
    /// [`Refused`] if no ticket is left (`tickets_max`).
    pub fn defer(&mut self, deadline: Duration) -> Result<AuthenticateTicket, Refused> {
        let ticket = self.context.defer(deadline_ms(deadline))?;
        Ok(AuthenticateTicket::new(ticket, self.context.host()))
    }
}

impl<'a> Authorize<'a> {
    client_getters! {}

    fn change(&mut self, change: Change) -> Result<(), Refused> {
        self.context.change(&change)
    }

    /// The action that is authorized.
    pub fn action(&self) -> Action {
        match self.context.event().action {
            2 => Action::Subscribe,
            3 => Action::Deliver,
            4 => Action::Will,
            _ => Action::Publish,
        }
    }

    /// Topic name; for [`Action::Subscribe`] the topic filter, without the `$share/NAME/` of a
    /// shared subscription.
    pub fn topic(&self) -> &'a str {
        self.context.text_at_hand(Field::TOPIC, self.context.event().topic)
    }

    /// Requested quality of service, 0 to 2.
    pub fn qos(&self) -> u8 {
        self.context.event().qos
    }

    /// The retain flag of a publish.
    pub fn retain(&self) -> bool {
        self.context.event().flags & FLAG_RETAIN != 0
    }

    /// The verdict so far.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.context.number(Field::VERDICT, 0))
    }

    /// Allows the action, unless a later plugin changes the verdict; return [`crate::Flow::Stop`]
    /// to make it final.
    ///
    /// # Errors
    /// None in this ABI version.
    pub fn allow(&mut self) -> Result<(), Refused> {
        self.change(number(Field::VERDICT, Verdict::ALLOW))
    }

    /// Refuses the action, unless a later plugin changes the verdict; return [`crate::Flow::Stop`]
    /// to make it final.
    ///
    /// # Errors
    /// [`Refused`] for a reason code that the acknowledgement packet does not have.
    pub fn deny(&mut self, reason: Reason) -> Result<(), Refused> {
        self.change(number(Field::REASON_CODE, u64::from(reason.0)))?;
        self.change(number(Field::VERDICT, Verdict::DENY))
    }

    /// Sets whether the verdict may be cached for this client and topic. The default is true.
    ///
    /// # Errors
    /// None in this ABI version.
    pub fn set_cacheable(&mut self, cacheable: bool) -> Result<(), Refused> {
        self.change(number(Field::CACHEABLE, u64::from(cacheable)))
    }

    /// Takes a ticket to complete later, from any thread; then return [`crate::Flow::Defer`].
    /// Changes made before it apply, unless the ticket ends with a fault. A zero `deadline` means
    /// the maximum: the hook's `deadline_ms`, or the operator's `defer_deadline_ms` if the hook
    /// sets none. After the deadline the action is denied.
    ///
    /// # Errors
    /// [`Refused`] if no ticket is left (`tickets_max`).
    pub fn defer(&mut self, deadline: Duration) -> Result<AuthorizeTicket, Refused> {
        let ticket = self.context.defer(deadline_ms(deadline))?;
        Ok(AuthorizeTicket::new(ticket, self.context.host()))
    }
}

impl<'a> Connected<'a> {
    client_getters! {}
    connection_getters! {}
    user_property_getters! {}

    /// Whether this event is a replay, requested with [`crate::Host::replay`].
    pub fn is_replay(&self) -> bool {
        self.context.event().flags & FLAG_REPLAY != 0
    }
}

impl<'a> Disconnected<'a> {
    client_getters! {}
    connection_getters! {}
    user_property_getters! {}

    /// The reason code; 0x00 if the client left with DISCONNECT.
    pub fn reason(&self) -> Reason {
        Reason(self.context.event().reason_code)
    }
}
