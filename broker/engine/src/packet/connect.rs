//! The packets that begin and end a connection: CONNECT, CONNACK, DISCONNECT, AUTH (sections 3.1,
//! 3.2, 3.14, 3.15). Plain views; reading and writing them is in `codec`.

use super::{Properties, QoS, Version};
use crate::reason::ReasonCode;

/// The first packet of a client (section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect<'a> {
    /// The version that the client speaks; the packet is written in it.
    pub version: Version,
    /// Clean Start in v5, Clean Session in 3.x.
    pub clean_start: bool,
    /// Keep alive in seconds, 0 for none.
    pub keep_alive_s: u16,
    /// The client identifier; it may be empty, and the session decides whether that is accepted.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password: binary data.
    pub password: Option<&'a [u8]>,
    /// The will message.
    pub will: Option<Will<'a>>,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
}

/// The will message inside CONNECT (section 3.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Will<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// The payload of the message.
    pub payload: &'a [u8],
    /// The QoS of the message.
    pub qos: QoS,
    /// Whether it is to be retained.
    pub retain: bool,
    /// The will properties, will delay included; empty in 3.x.
    pub properties: Properties<'a>,
}

/// The answer to CONNECT (section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnAck<'a> {
    /// Whether the server resumes a session. MQTT 3.1 has no such flag.
    pub session_present: bool,
    /// The code on the wire: a reason code in v5, a return code from 0 to 5 in 3.x
    /// (`ReasonCode::connack_v3`).
    pub code: u8,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
}

/// The last packet of a connection (section 3.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disconnect<'a> {
    /// The reason; always success in 3.x.
    pub reason: ReasonCode,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
}

/// A step of enhanced authentication (section 3.15), v5 only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Auth<'a> {
    /// Success, continue authentication or re-authenticate.
    pub reason: ReasonCode,
    /// The properties. Without properties and with success, the packet is `F0 00`.
    pub properties: Properties<'a>,
}
