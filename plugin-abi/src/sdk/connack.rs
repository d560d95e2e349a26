//! CONNACK as a plugin sees it: what the client is about to be sent, and granted.

use super::client::connect_getters;
use super::error::Refused;
use super::event::{at, bytes, client_getters, number, pair, user_property_getters, wrapper};
use super::reason::Reason;
use crate::raw::{APPEND, Change, Field};

wrapper! {
    /// CONNACK is about to be sent, with success or with a refusal (`client.connack`). Called on the client's shard. What is decided
    /// stays decided; its properties may be changed, which has no effect for a client of MQTT 3. The user properties are those of
    /// CONNACK.
    Connack
}

impl<'a> Connack<'a> {
    client_getters! {}
    connect_getters! {}
    user_property_getters! {}

    fn change(&mut self, change: Change) -> Result<(), Refused> {
        self.context.change(&change)
    }

    fn seconds(&self, field: Field) -> u32 {
        self.context.number(field, 0).unwrap_or(0) as u32
    }

    /// The reason code of MQTT 5, also for an older client; 0x00 where the client is let in.
    pub fn reason(&self) -> Reason {
        Reason(self.context.event().reason_code)
    }

    /// Whether the client comes back to its session.
    pub fn session_present(&self) -> bool {
        self.context.number(Field::SESSION_PRESENT, 0) == Some(1)
    }

    /// The client identifier that the broker chose, where the client gave none.
    pub fn assigned_client_id(&self) -> Option<&'a str> {
        self.context.text(Field::ASSIGNED_CLIENT_ID, 0)
    }

    /// Reason string.
    pub fn reason_text(&self) -> Option<&'a str> {
        self.context.text(Field::REASON_STRING, 0)
    }

    /// Response information, where the client asked for it.
    pub fn response_info(&self) -> Option<&'a str> {
        self.context.text(Field::RESPONSE_INFO, 0)
    }

    /// Another server for the client to use.
    pub fn server_reference(&self) -> Option<&'a str> {
        self.context.text(Field::SERVER_REFERENCE, 0)
    }

    /// Keep alive that is granted, seconds; 0 for none.
    pub fn keep_alive_s(&self) -> u16 {
        self.seconds(Field::KEEP_ALIVE_S) as u16
    }

    /// Session expiry interval that is granted, seconds.
    pub fn session_expiry_s(&self) -> u32 {
        self.seconds(Field::SESSION_EXPIRY_S)
    }

    /// How many QoS 1 and 2 publishes of the client may be unacknowledged; of a refusal, what the client said for its own side.
    pub fn receive_maximum(&self) -> Option<u16> {
        self.context.number(Field::RECEIVE_MAXIMUM, 0).map(|maximum| maximum as u16)
    }

    /// The largest packet that the client may send, bytes; of a refusal, what the client said for its own side.
    pub fn maximum_packet_size(&self) -> Option<u32> {
        self.context.number(Field::MAXIMUM_PACKET_SIZE, 0).map(|bytes| bytes as u32)
    }

    /// How many topic aliases the client may set; of a refusal, what the client said for its own side.
    pub fn topic_alias_maximum(&self) -> Option<u16> {
        self.context.number(Field::TOPIC_ALIAS_MAXIMUM, 0).map(|maximum| maximum as u16)
    }

    /// Sets the reason string. It is left out where CONNACK would be too large for the client.
    ///
    /// # Errors
    /// [`Refused`] for more than 65,535 bytes or U+0000.
    pub fn set_reason_text(&mut self, text: &str) -> Result<(), Refused> {
        self.change(bytes(Field::REASON_STRING, text.as_bytes()))
    }

    /// Sets the response information.
    ///
    /// # Errors
    /// [`Refused`] at a refusal, where the client did not ask for it, and as [`Connack::set_reason_text`].
    pub fn set_response_info(&mut self, text: &str) -> Result<(), Refused> {
        self.change(bytes(Field::RESPONSE_INFO, text.as_bytes()))
    }

    /// Names another server, where the reason is 0x9C (use another server) or 0x9D (server moved).
    ///
    /// # Errors
    /// [`Refused`] for any other reason, and as [`Connack::set_reason_text`].
    pub fn set_server_reference(&mut self, server: &str) -> Result<(), Refused> {
        self.change(bytes(Field::SERVER_REFERENCE, server.as_bytes()))
    }

    /// Grants another keep alive, seconds; 0 for none.
    ///
    /// # Errors
    /// [`Refused`] at a refusal.
    pub fn set_keep_alive_s(&mut self, seconds: u16) -> Result<(), Refused> {
        self.change(number(Field::KEEP_ALIVE_S, u64::from(seconds)))
    }

    /// Grants another session expiry interval, seconds.
    ///
    /// # Errors
    /// [`Refused`] at a refusal, and above `session_expiry_max_s`.
    pub fn set_session_expiry_s(&mut self, seconds: u32) -> Result<(), Refused> {
        self.change(number(Field::SESSION_EXPIRY_S, u64::from(seconds)))
    }

    /// Lowers how many QoS 1 and 2 publishes of the client may be unacknowledged.
    ///
    /// # Errors
    /// [`Refused`] at a refusal, for 0, and above `receive_max`.
    pub fn set_receive_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::RECEIVE_MAXIMUM, u64::from(maximum)))
    }

    /// Lowers the largest packet that the client may send, bytes.
    ///
    /// # Errors
    /// [`Refused`] at a refusal, for 0, and above `packet_bytes_max`.
    pub fn set_maximum_packet_size(&mut self, bytes: u32) -> Result<(), Refused> {
        self.change(number(Field::MAXIMUM_PACKET_SIZE, u64::from(bytes)))
    }

    /// Lowers how many topic aliases the client may set.
    ///
    /// # Errors
    /// [`Refused`] at a refusal, and above `topic_alias_max`.
    pub fn set_topic_alias_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::TOPIC_ALIAS_MAXIMUM, u64::from(maximum)))
    }

    /// Adds a user property behind those there are. All are left out where CONNACK would be too large for the client.
    ///
    /// # Errors
    /// [`Refused`] for more than 65,535 bytes or U+0000.
    pub fn add_user_property(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        self.change(pair(Field::USER_PROPERTY, APPEND, key, value))
    }

    /// Replaces the `index`-th user property.
    ///
    /// # Errors
    /// [`Refused`] for one that is not there, and as [`Connack::add_user_property`].
    pub fn set_user_property(&mut self, index: u32, key: &str, value: &str) -> Result<(), Refused> {
        self.change(pair(Field::USER_PROPERTY, index, key, value))
    }

    /// Takes the `index`-th user property out; those behind it move up.
    ///
    /// # Errors
    /// [`Refused`] for one that is not there.
    pub fn remove_user_property(&mut self, index: u32) -> Result<(), Refused> {
        self.change(at(index, number(Field::USER_PROPERTY, 1)))
    }
}
