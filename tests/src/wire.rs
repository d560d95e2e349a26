//! MQTT packets as the tests write and check them, for 3.1, 3.1.1 and 5.0. Written from the
//! specification and on purpose not from the broker's codec. Packets of the server are decoded
//! strictly: anything that the specification forbids a server to send fails the test that received
//! it.

mod decode;
pub mod encode;
pub mod property;

pub use decode::{Decoded, decode};
pub use property::{Properties, Value};

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// MQTT 3.1, level 3, protocol name `MQIsdp`.
    V31,
    /// MQTT 3.1.1, level 4.
    V311,
    /// MQTT 5.0, level 5.
    V5,
}

impl Version {
    /// All three.
    pub const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

    /// Protocol level of CONNECT.
    pub fn level(self) -> u8 {
        match self {
            Version::V31 => 3,
            Version::V311 => 4,
            Version::V5 => 5,
        }
    }

    /// Protocol name of CONNECT.
    pub fn name(self) -> &'static str {
        if self == Version::V31 { "MQIsdp" } else { "MQTT" }
    }

    /// Its name for the option `-V` of mosquitto_pub and mosquitto_sub.
    pub fn mosquitto(self) -> &'static str {
        match self {
            Version::V31 => "mqttv31",
            Version::V311 => "mqttv311",
            Version::V5 => "mqttv5",
        }
    }

    /// Whether it has properties and reason codes.
    pub fn is_5(self) -> bool {
        self == Version::V5
    }
}

/// CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Version to speak.
    pub version: Version,
    /// Client identifier.
    pub client_id: String,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Keep alive in seconds.
    pub keep_alive_s: u16,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Will message.
    pub will: Option<Will>,
    /// Properties, MQTT 5 only.
    pub properties: Properties,
}

impl Connect {
    /// A clean start without keep alive, credentials or will.
    pub fn new(version: Version, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive_s: 0,
            username: None,
            password: None,
            will: None,
            properties: Properties::default(),
        }
    }

    /// Requests a session that outlives the connection: clean session 0, in MQTT 5 with a session
    /// expiry of a minute.
    pub fn persistent(mut self) -> Connect {
        self.clean = false;
        if self.version.is_5() {
            self.properties.push(property::SESSION_EXPIRY, Value::U32(60));
        }
        self
    }

    /// Adds a property.
    pub fn with(mut self, id: u8, value: Value) -> Connect {
        self.properties.push(id, value);
        self
    }

    /// Sets the keep alive.
    pub fn keep_alive(mut self, seconds: u16) -> Connect {
        self.keep_alive_s = seconds;
        self
    }

    /// Sets the will.
    pub fn will(mut self, will: Will) -> Connect {
        self.will = Some(will);
        self
    }

    /// Sets user name and password.
    pub fn login(mut self, username: &str, password: &str) -> Connect {
        self.username = Some(username.to_owned());
        self.password = Some(password.as_bytes().to_vec());
        self
    }
}

/// The will of a CONNECT.
#[derive(Clone, Debug)]
pub struct Will {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Will properties, MQTT 5 only.
    pub properties: Properties,
}

impl Will {
    /// A QoS 0 will without retain.
    pub fn new(topic: &str, payload: &str) -> Will {
        let payload = payload.as_bytes().to_vec();
        Will { topic: topic.to_owned(), payload, qos: 0, retain: false, properties: Properties::default() }
    }

    /// Adds a will property.
    pub fn with(mut self, id: u8, value: Value) -> Will {
        self.properties.push(id, value);
        self
    }
}

/// PUBLISH, in either direction.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Publish {
    /// DUP flag.
    pub dup: bool,
    /// QoS.
    pub qos: u8,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name; may be empty with a topic alias.
    pub topic: String,
    /// Packet identifier; `None` with QoS 0. A client sets it if it is missing.
    pub id: Option<u16>,
    /// Properties, MQTT 5 only.
    pub properties: Properties,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Publish {
    /// A QoS 0 message.
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Publish {
        Publish { topic: topic.to_owned(), payload: payload.as_ref().to_vec(), ..Publish::default() }
    }

    /// Sets the QoS.
    pub fn qos(mut self, qos: u8) -> Publish {
        self.qos = qos;
        self
    }

    /// Sets RETAIN.
    pub fn retain(mut self) -> Publish {
        self.retain = true;
        self
    }

    /// Sets the packet identifier.
    pub fn id(mut self, id: u16) -> Publish {
        self.id = Some(id);
        self
    }

    /// Sets DUP.
    pub fn dup(mut self) -> Publish {
        self.dup = true;
        self
    }

    /// Adds a property.
    pub fn with(mut self, id: u8, value: Value) -> Publish {
        self.properties.push(id, value);
        self
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// SUBSCRIBE.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    /// Topic filters, each with its options byte.
    pub filters: Vec<(String, u8)>,
    /// Properties, MQTT 5 only.
    pub properties: Properties,
}

impl Subscribe {
    /// One filter with an options byte; without options it is the QoS.
    pub fn to(filter: &str, options: u8) -> Subscribe {
        Subscribe::default().and(filter, options)
    }

    /// One more filter.
    pub fn and(mut self, filter: &str, options: u8) -> Subscribe {
        self.filters.push((filter.to_owned(), options));
        self
    }

    /// Adds a property.
    pub fn with(mut self, id: u8, value: Value) -> Subscribe {
        self.properties.push(id, value);
        self
    }
}

/// No Local, in the options byte of SUBSCRIBE (section 3.8.3.1).
pub const NO_LOCAL: u8 = 0x04;
/// Retain As Published.
pub const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Retain Handling 1: retained messages only if the subscription is new.
pub const RETAINED_IF_NEW: u8 = 0x10;
/// Retain Handling 2: no retained messages.
pub const RETAINED_NEVER: u8 = 0x20;

/// Contents of an acknowledgement of one packet.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Ack {
    /// Packet identifier.
    pub id: u16,
    /// Reason code; 0 before MQTT 5.
    pub code: u8,
    /// Properties, MQTT 5 only.
    pub properties: Properties,
}

impl Ack {
    /// Success.
    pub fn of(id: u16) -> Ack {
        Ack { id, ..Ack::default() }
    }
}

/// A packet in either direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    /// CONNACK.
    Connack {
        /// Session present flag.
        session_present: bool,
        /// Reason code, or return code before MQTT 5.
        code: u8,
        /// Properties.
        properties: Properties,
    },
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK.
    Puback(Ack),
    /// PUBREC.
    Pubrec(Ack),
    /// PUBREL.
    Pubrel(Ack),
    /// PUBCOMP.
    Pubcomp(Ack),
    /// SUBACK.
    Suback {
        /// Packet identifier.
        id: u16,
        /// One code for each filter.
        codes: Vec<u8>,
        /// Properties.
        properties: Properties,
    },
    /// UNSUBACK.
    Unsuback {
        /// Packet identifier.
        id: u16,
        /// One code for each filter; none before MQTT 5.
        codes: Vec<u8>,
        /// Properties.
        properties: Properties,
    },
    /// PINGREQ, from clients only.
    Pingreq,
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect {
        /// Reason code.
        code: u8,
        /// Properties.
        properties: Properties,
    },
    /// AUTH.
    Auth {
        /// Reason code.
        code: u8,
        /// Properties.
        properties: Properties,
    },
}
