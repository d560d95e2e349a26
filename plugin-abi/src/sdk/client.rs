//! The events about a client: how it connects, what it may do, and how it disconnects.

use std::time::Duration;

use super::error::Refused;
use super::event::{at, bytes, client_getters, number, pair, user_property_getters, wrapper};
use super::reason::Reason;
use super::ticket::{AuthenticateTicket, AuthorizeTicket, ConnectTicket, deadline_ms};
use crate::raw::{APPEND, Change, FLAG_REPLAY, FLAG_RETAIN, Field};

wrapper! {
    /// CONNECT was read and nothing is decided yet (`client.connect`). Its properties may be changed, or the client refused.
    Connect
}

wrapper! {
    /// Who is it, and may it come in (`client.authenticate`). A client that nobody answers for comes in only without a user
    /// name and where the listener allows anonymous ones. A fault denies: the client is refused with 0x88, server unavailable.
    Authenticate
}

wrapper! {
    /// May the client do this (`client.authorize`): publish to a topic name, subscribe to a topic filter. Unanswered,
    /// `authorization.no_match` decides. A fault denies. The answer may be remembered for this client and topic.
    Authorize
}

wrapper! {
    /// The client is in: CONNACK with success is on its way (`client.connected`). Nothing can be changed.
    Connected
}

wrapper! {
    /// The connection is about to close (`client.disconnected`). Nothing can be changed.
    Disconnected
}

/// What a chain has answered so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nobody has answered.
    Unanswered,
    /// Let in, allowed.
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

/// What is authorised.
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

/// Getters of what CONNECT said, apart from what CONNACK answers.
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

        /// Whether the client asks for response information.
        pub fn wants_response_info(&self) -> bool {
            self.context.number(crate::raw::Field::REQUEST_RESPONSE_INFO, 0) == Some(1)
        }

        /// Whether the client wants reason strings and user properties where something fails.
        pub fn wants_problem_info(&self) -> bool {
            self.context.number(crate::raw::Field::REQUEST_PROBLEM_INFO, 0) == Some(1)
        }
    };
}
pub(super) use connect_getters;

/// Getters of what CONNECT asked for.
macro_rules! connection_getters {
    () => {
        connect_getters! {}

        /// The largest packet the client takes, bytes; `None` where it sets no limit.
        pub fn maximum_packet_size(&self) -> Option<u32> {
            self.context.number(Field::MAXIMUM_PACKET_SIZE, 0).map(|bytes| bytes as u32)
        }

        /// How many topic aliases the client takes.
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

        /// How many QoS 1 and 2 messages the client takes unacknowledged.
        pub fn receive_maximum(&self) -> Option<u16> {
            self.context.number(Field::RECEIVE_MAXIMUM, 0).map(|maximum| maximum as u16)
        }
    };
}

impl<'a> Connect<'a> {
    client_getters! {}
    connection_getters! {}
    user_property_getters! {}

    fn change(&mut self, change: Change) -> Result<(), Refused> {
        self.context.change(&change)
    }

    /// The will that the client leaves.
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

    /// What has been answered so far: [`Verdict::Deny`] where a plugin before this one has refused the client and let the chain
    /// go on.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.context.number(Field::VERDICT, 0))
    }

    /// Changes the keep alive; a client of MQTT 5 is told with Server Keep Alive.
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

    /// Changes how many QoS 1 and 2 messages the client gets unacknowledged.
    ///
    /// # Errors
    /// [`Refused`] for 0.
    pub fn set_receive_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::RECEIVE_MAXIMUM, u64::from(maximum)))
    }

    /// Changes the largest packet that the client gets, bytes.
    ///
    /// # Errors
    /// [`Refused`] for 0.
    pub fn set_maximum_packet_size(&mut self, bytes: u32) -> Result<(), Refused> {
        self.change(number(Field::MAXIMUM_PACKET_SIZE, u64::from(bytes)))
    }

    /// Changes how many topic aliases the broker may set for the client.
    ///
    /// # Errors
    /// [`Refused`], which no broker of this ABI answers here.
    pub fn set_topic_alias_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::TOPIC_ALIAS_MAXIMUM, u64::from(maximum)))
    }

    /// Adds a user property behind those there are. Later hooks see it as if CONNECT had it.
    ///
    /// # Errors
    /// [`Refused`] for more than 65,535 bytes or U+0000.
    pub fn add_user_property(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        self.change(pair(Field::USER_PROPERTY, APPEND, key, value))
    }

    /// Takes the `index`-th user property out; those behind it move up.
    ///
    /// # Errors
    /// [`Refused`] for one that is not there.
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

    /// Takes a ticket to answer later, from any thread; return [`crate::Flow::Defer`] then. Changes made before it are kept,
    /// unless it ends by a fault. A zero `deadline` means the longest there is: the hook's `deadline_ms`, or the operator's
    /// default (`defer_deadline_ms`) where the hook names none. After it, it is a fault, which lets the client go on unless
    /// the operator says otherwise.
    ///
    /// # Errors
    /// [`Refused`] where no ticket is left (`tickets_max`).
    pub fn defer(&mut self, deadline: Duration) -> Result<ConnectTicket, Refused> {
        let ticket = self.context.defer(deadline_ms(deadline))?;
        Ok(ConnectTicket::new(ticket, self.context.host()))
    }
}

impl<'a> Authenticate<'a> {
    client_getters! {}
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

    /// The will that the client leaves.
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

    /// Whether there is a session under the client identifier, stored or connected. If the client is let in and is another user than
    /// [`Authenticate::session_owner`], the operator's `session_owner` says what becomes of it.
    pub fn has_session(&self) -> bool {
        self.context.number(Field::SESSION_PRESENT, 0) == Some(1)
    }

    /// Whether the client is in already and authenticates anew (MQTT 5.0, section 4.12.1): there is no session to ask about then but
    /// its own.
    pub fn is_renewal(&self) -> bool {
        self.context.number(Field::SESSION_PRESENT, 0).is_none()
    }

    /// User name of whom that session belongs to; `None` where there is none, or it is of a client without a user name.
    pub fn session_owner(&self) -> Option<&'a str> {
        self.context.text(Field::SESSION_OWNER, 0)
    }

    /// What has been answered so far.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.context.number(Field::VERDICT, 0))
    }

    /// Lets the client in, unless a later plugin changes the answer; return [`crate::Flow::Stop`] to have the last word.
    ///
    /// # Errors
    /// [`Refused`], which no broker of this ABI answers here.
    pub fn allow(&mut self) -> Result<(), Refused> {
        self.change(number(Field::VERDICT, Verdict::ALLOW))
    }

    /// Refuses the client, unless a later plugin changes the answer; return [`crate::Flow::Stop`] to have the last word.
    ///
    /// # Errors
    /// [`Refused`] for a reason code that CONNACK does not have.
    pub fn deny(&mut self, reason: Reason) -> Result<(), Refused> {
        self.change(number(Field::REASON_CODE, u64::from(reason.0)))?;
        self.change(number(Field::VERDICT, Verdict::DENY))
    }

    /// Asks the client for another AUTH, with this data, unless a later plugin changes the answer; only where CONNECT named an
    /// authentication method. The chain runs again with what the client answers, and the same [`Authenticate::connection`].
    ///
    /// # Errors
    /// [`Refused`] for data longer than 65,535 bytes.
    pub fn another_round(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.change(bytes(Field::AUTH_DATA, data))?;
        self.change(number(Field::VERDICT, Verdict::ANOTHER_ROUND))
    }

    /// Gives the client data with the CONNACK, or the AUTH, that lets it in.
    ///
    /// # Errors
    /// [`Refused`] for data longer than 65,535 bytes.
    pub fn set_auth_data(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.change(bytes(Field::AUTH_DATA, data))
    }

    /// Number of the network connection: no other one of this run of the broker has it, and all rounds of one authentication
    /// have it in common.
    pub fn connection(&self) -> u64 {
        self.context.number(Field::CONNECTION, 0).unwrap_or(0)
    }

    /// Makes the client a superuser, who may do everything, or not.
    ///
    /// # Errors
    /// [`Refused`], which no broker of this ABI answers here.
    pub fn set_superuser(&mut self, superuser: bool) -> Result<(), Refused> {
        self.change(number(Field::IS_SUPERUSER, u64::from(superuser)))
    }

    /// Takes a ticket to answer later, from any thread; return [`crate::Flow::Defer`] then. Changes made before it are kept,
    /// unless it ends by a fault. A zero `deadline` means the longest there is: the hook's `deadline_ms`, or the operator's
    /// default (`defer_deadline_ms`) where the hook names none. After it, the client is denied.
    ///
    /// # Errors
    /// [`Refused`] where no ticket is left (`tickets_max`).
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

    /// What the client wants to do.
    pub fn action(&self) -> Action {
        match self.context.event().action {
            2 => Action::Subscribe,
            3 => Action::Deliver,
            4 => Action::Will,
            _ => Action::Publish,
        }
    }

    /// Topic name; at [`Action::Subscribe`] the topic filter, of a shared subscription what stands behind `$share/NAME/`.
    pub fn topic(&self) -> &'a str {
        self.context.text_at_hand(Field::TOPIC, self.context.event().topic)
    }

    /// Quality of service that is asked for, 0 to 2.
    pub fn qos(&self) -> u8 {
        self.context.event().qos
    }

    /// The retain flag of a publish.
    pub fn retain(&self) -> bool {
        self.context.event().flags & FLAG_RETAIN != 0
    }

    /// What has been answered so far.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.context.number(Field::VERDICT, 0))
    }

    /// Allows it, unless a later plugin changes the answer; return [`crate::Flow::Stop`] to have the last word.
    ///
    /// # Errors
    /// [`Refused`], which no broker of this ABI answers here.
    pub fn allow(&mut self) -> Result<(), Refused> {
        self.change(number(Field::VERDICT, Verdict::ALLOW))
    }

    /// Refuses it, unless a later plugin changes the answer; return [`crate::Flow::Stop`] to have the last word.
    ///
    /// # Errors
    /// [`Refused`] for a reason code that the answering packet does not have.
    pub fn deny(&mut self, reason: Reason) -> Result<(), Refused> {
        self.change(number(Field::REASON_CODE, u64::from(reason.0)))?;
        self.change(number(Field::VERDICT, Verdict::DENY))
    }

    /// Whether the verdict may be remembered for this client and topic; it may unless said otherwise.
    ///
    /// # Errors
    /// [`Refused`], which no broker of this ABI answers here.
    pub fn set_cacheable(&mut self, cacheable: bool) -> Result<(), Refused> {
        self.change(number(Field::CACHEABLE, u64::from(cacheable)))
    }

    /// Takes a ticket to answer later, from any thread; return [`crate::Flow::Defer`] then. Changes made before it are kept,
    /// unless it ends by a fault. A zero `deadline` means the longest there is: the hook's `deadline_ms`, or the operator's
    /// default (`defer_deadline_ms`) where the hook names none. After it, it is denied.
    ///
    /// # Errors
    /// [`Refused`] where no ticket is left (`tickets_max`).
    pub fn defer(&mut self, deadline: Duration) -> Result<AuthorizeTicket, Refused> {
        let ticket = self.context.defer(deadline_ms(deadline))?;
        Ok(AuthorizeTicket::new(ticket, self.context.host()))
    }
}

impl<'a> Connected<'a> {
    client_getters! {}
    connection_getters! {}
    user_property_getters! {}

    /// Whether this tells of what was there before the plugin, which asked for it with [`crate::Host::replay`].
    pub fn is_replay(&self) -> bool {
        self.context.event().flags & FLAG_REPLAY != 0
    }
}

impl<'a> Disconnected<'a> {
    client_getters! {}
    connection_getters! {}
    user_property_getters! {}

    /// Why: 0x00 where the client left with DISCONNECT.
    pub fn reason(&self) -> Reason {
        Reason(self.context.event().reason_code)
    }
}
