//! CONNACK as a plugin sees it: the values that the broker sends and grants to the client.

use super::client::connect_getters;
use super::error::Refused;
use super::event::{at, bytes, client_getters, number, pair, user_property_getters, wrapper};
use super::reason::Reason;
use crate::raw::{APPEND, Change, Field};

wrapper! {
    /// CONNACK is about to be sent, with success or with a refusal (`client.connack`). Called on
    /// the client's shard. The verdict is final. The hook may change the properties, without effect
    /// for a client of MQTT 3. The user properties are those of CONNACK.
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

    /// The reason code of MQTT 5, also for an older client; 0x00 if the client is accepted.
    pub fn reason(&self) -> Reason {
        Reason(self.context.event().reason_code)
    }

    /// Whether the client resumes its session.
    pub fn session_present(&self) -> bool {
        self.context.number(Field::SESSION_PRESENT, 0) == Some(1)
    }

    /// The client identifier that the broker chose, if the client gave none.
    pub fn assigned_client_id(&self) -> Option<&'a str> {
        self.context.text(Field::ASSIGNED_CLIENT_ID, 0)
    }

    /// Reason string.
    pub fn reason_text(&self) -> Option<&'a str> {
        self.context.text(Field::REASON_STRING, 0)
    }

    /// Response information, if the client requested it.
    pub fn response_info(&self) -> Option<&'a str> {
        self.context.text(Field::RESPONSE_INFO, 0)
    }

    /// Another server for the client to use.
    pub fn server_reference(&self) -> Option<&'a str> {
        self.context.text(Field::SERVER_REFERENCE, 0)
    }

    /// Granted keep alive, seconds; 0 for none.
    pub fn keep_alive_s(&self) -> u16 {
        self.seconds(Field::KEEP_ALIVE_S) as u16
    }

    /// Granted session expiry interval, seconds.
    pub fn session_expiry_s(&self) -> u32 {
        self.seconds(Field::SESSION_EXPIRY_S)
    }

    /// How many QoS 1 and 2 publishes of the client may be unacknowledged. In a refusal: the
    /// client's own value from CONNECT.
    pub fn receive_maximum(&self) -> Option<u16> {
        self.context.number(Field::RECEIVE_MAXIMUM, 0).map(|maximum| maximum as u16)
    }

    /// Size of the largest packet that the client may send, bytes. In a refusal: the client's own
    /// value from CONNECT.
    pub fn maximum_packet_size(&self) -> Option<u32> {
        self.context.number(Field::MAXIMUM_PACKET_SIZE, 0).map(|bytes| bytes as u32)
    }

    /// How many topic aliases the client may set. In a refusal: the client's own value from
    /// CONNECT.
    pub fn topic_alias_maximum(&self) -> Option<u16> {
        self.context.number(Field::TOPIC_ALIAS_MAXIMUM, 0).map(|maximum| maximum as u16)
    }

    /// Sets the reason string. It is omitted if CONNACK would be too large for the client.
    ///
    /// # Errors
    /// [`Refused`] for more than 65,535 bytes or U+0000.
    pub fn set_reason_text(&mut self, text: &str) -> Result<(), Refused> {
        self.change(bytes(Field::REASON_STRING, text.as_bytes()))
    }

    /// Sets the response information.
    ///
    /// # Errors
    /// [`Refused`] in a refusal, if the client did not request it, and as
    /// [`Connack::set_reason_text`].
    pub fn set_response_info(&mut self, text: &str) -> Result<(), Refused> {
        self.change(bytes(Field::RESPONSE_INFO, text.as_bytes()))
    }

    /// Names another server, if the reason is 0x9C (use another server) or 0x9D (server moved).
    ///
    /// # Errors
    /// [`Refused`] for any other reason, and as [`Connack::set_reason_text`].
    pub fn set_server_reference(&mut self, server: &str) -> Result<(), Refused> {
        self.change(bytes(Field::SERVER_REFERENCE, server.as_bytes()))
    }

    /// Changes the granted keep alive, seconds; 0 for none.
    ///
    /// # Errors
    /// [`Refused`] in a refusal.
    pub fn set_keep_alive_s(&mut self, seconds: u16) -> Result<(), Refused> {
        self.change(number(Field::KEEP_ALIVE_S, u64::from(seconds)))
    }

    /// Changes the granted session expiry interval, seconds.
    ///
    /// # Errors
    /// [`Refused`] in a refusal, and above `session_expiry_max_s`.
    pub fn set_session_expiry_s(&mut self, seconds: u32) -> Result<(), Refused> {
        self.change(number(Field::SESSION_EXPIRY_S, u64::from(seconds)))
    }

    /// Lowers how many QoS 1 and 2 publishes of the client may be unacknowledged.
    ///
    /// # Errors
    /// [`Refused`] in a refusal, for 0, and above `receive_max`.
    pub fn set_receive_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::RECEIVE_MAXIMUM, u64::from(maximum)))
    }

    /// Lowers the size of the largest packet that the client may send, bytes.
    ///
    /// # Errors
    /// [`Refused`] in a refusal, for 0, and above `packet_bytes_max`.
    pub fn set_maximum_packet_size(&mut self, bytes: u32) -> Result<(), Refused> {
        self.change(number(Field::MAXIMUM_PACKET_SIZE, u64::from(bytes)))
    }

    /// Lowers how many topic aliases the client may set.
    ///
    /// # Errors
    /// [`Refused`] in a refusal, and above `topic_alias_max`.
    pub fn set_topic_alias_maximum(&mut self, maximum: u16) -> Result<(), Refused> {
        self.change(number(Field::TOPIC_ALIAS_MAXIMUM, u64::from(maximum)))
    }

    /// Appends a user property. All user properties are omitted if CONNACK would be too large for
    /// the client.
    ///
    /// # Errors
    /// [`Refused`] for more than 65,535 bytes or U+0000.
    pub fn add_user_property(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        self.change(pair(Field::USER_PROPERTY, APPEND, key, value))
    }

    /// Replaces the `index`-th user property.
    ///
    /// # Errors
    /// [`Refused`] if there is no such property, and as [`Connack::add_user_property`].
    pub fn set_user_property(&mut self, index: u32, key: &str, value: &str) -> Result<(), Refused> {
        self.change(pair(Field::USER_PROPERTY, index, key, value))
    }

    /// Removes the `index`-th user property; later ones move up.
    ///
    /// # Errors
    /// [`Refused`] if there is no such property.
    pub fn remove_user_property(&mut self, index: u32) -> Result<(), Refused> {
        self.change(at(index, number(Field::USER_PROPERTY, 1)))
    }
}
