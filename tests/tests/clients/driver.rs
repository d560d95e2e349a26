//! The interface of a client in a scenario, for any library. `mosquitto.rs`, `scripted.rs` and
//! `rumqttc.rs` implement it.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use grapnel_tests::{Broker, Kind, PATIENCE, Site, Version};

use crate::link::Link;
use crate::{mosquitto, rumqttc, scripted};

/// The clients, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// mosquitto_pub and mosquitto_sub, C.
    Mosquitto,
    /// paho-mqtt, Python.
    Paho,
    /// aiomqtt, Python with asyncio; paho-mqtt underneath.
    Aiomqtt,
    /// mqtt.js, Node.
    MqttJs,
    /// rumqttc, Rust.
    Rumqttc,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 5] =
        [Client::Mosquitto, Client::Paho, Client::Aiomqtt, Client::MqttJs, Client::Rumqttc];

    /// Its name and the version that `scripts/test` installs. Debian sets the last number of
    /// mosquitto's version.
    pub fn release(self) -> (&'static str, &'static str) {
        match self {
            Client::Mosquitto => ("mosquitto_sub, mosquitto_pub", "2.0"),
            Client::Paho => ("paho-mqtt", "2.1.0"),
            Client::Aiomqtt => ("aiomqtt", "2.5.1"),
            Client::MqttJs => ("mqtt.js", "5.16.0"),
            // Pinned by the workspace's Cargo.toml.
            Client::Rumqttc => ("rumqttc", "0.25.1"),
        }
    }

    /// The version that is running.
    pub fn running_release(self) -> String {
        match self {
            Client::Mosquitto => mosquitto::release(),
            Client::Paho | Client::Aiomqtt | Client::MqttJs => scripted::release(self),
            Client::Rumqttc => rumqttc::release(),
        }
    }
}

/// A message, sent or received.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS it is sent or received with.
    pub qos: u8,
    /// RETAIN flag.
    pub retain: bool,
}

impl Message {
    /// Not retained.
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>, qos: u8) -> Message {
        Message { topic: topic.to_owned(), payload: payload.into(), qos, retain: false }
    }

    /// With RETAIN.
    pub fn retained(mut self) -> Message {
        self.retain = true;
        self
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retain = if self.retain { ", retained" } else { "" };
        let payload = String::from_utf8_lossy(&self.payload[..self.payload.len().min(40)]);
        let length = self.payload.len();
        write!(f, "{} (QoS {}{retain}, {length} bytes: {payload:?})", self.topic, self.qos)
    }
}

/// How a client connects, and its first subscriptions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Client identifier.
    pub client_id: String,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Will message.
    pub will: Option<Message>,
    /// Topic filters.
    pub filters: Vec<String>,
    /// QoS of all of them.
    pub qos: u8,
    /// Largest packet that the library should send and accept; `None` for its own default.
    pub packet_bytes_max: Option<u32>,
    /// Whether the library should reconnect by itself, if that can be configured.
    pub comes_back: bool,
    /// Port to connect to instead of the broker's.
    pub port: Option<u16>,
    /// Layers of the connection; none is plain TCP.
    pub layers: Option<Layers>,
}

/// How a client connects to a listener with TLS or WebSocket.
#[derive(Clone, Debug)]
pub struct Layers {
    /// The listener.
    pub kind: Kind,
    /// Certificate of the authority that the client trusts.
    pub authority: PathBuf,
    /// Certificate and key that the client shows.
    pub shown: (PathBuf, PathBuf),
    /// Settings of TLS, for a client in Rust.
    pub tls: std::sync::Arc<rustls::ClientConfig>,
}

impl Settings {
    /// A clean start without will and subscriptions.
    pub fn new(client_id: &str) -> Settings {
        let client_id = client_id.to_owned();
        let (comes_back, port) = (false, None);
        Settings {
            client_id,
            clean: true,
            will: None,
            filters: Vec::new(),
            qos: 0,
            packet_bytes_max: None,
            comes_back,
            port,
            layers: None,
        }
    }

    /// Without a clean start; the session is stored for at least a minute.
    pub fn persistent(mut self) -> Settings {
        self.clean = false;
        self
    }

    /// Session Expiry Interval in seconds, for MQTT 5.
    pub fn expiry_s(&self) -> Option<u32> {
        (!self.clean).then_some(60)
    }

    /// With a will.
    pub fn will(mut self, will: Message) -> Settings {
        self.will = Some(will);
        self
    }

    /// With a limit of two mebibytes, if the library has its own limit.
    pub fn roomy(mut self) -> Settings {
        self.packet_bytes_max = Some(2 << 20);
        self
    }

    /// Over a link that will be cut and restored, with the library's own reconnect.
    pub fn over(mut self, link: &Link) -> Settings {
        self.comes_back = true;
        self.port = Some(link.port());
        self
    }

    /// To a listener with layers.
    pub fn at(mut self, site: &Site, kind: Kind) -> Settings {
        let files = site.certificates();
        self.port = Some(site.address(kind).port());
        self.layers = Some(Layers {
            kind,
            authority: files.authority(),
            shown: (files.client(), files.client_key()),
            tls: files.client_config(kind == Kind::Mutual, rustls::DEFAULT_VERSIONS),
        });
        self
    }

    /// Where to connect.
    pub fn port(&self, broker: &Broker) -> u16 {
        self.port.unwrap_or(broker.address().port())
    }

    /// With subscriptions.
    pub fn subscribed(mut self, filters: &[&str], qos: u8) -> Settings {
        self.filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        self.qos = qos;
        self
    }
}

/// The library does not do what was requested; with its own message if it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused(pub String);

/// A connected client whose subscriptions are in force. Dropping it is equal to
/// [`Driver::drop_connection`].
pub trait Driver {
    /// Session present flag of its CONNACK.
    fn session_present(&self) -> Result<bool, Refused>;

    /// Publishes, and waits until the library reports the message as delivered.
    fn publish(&mut self, message: &Message) -> Result<(), Refused>;

    /// The next message within `timeout`. An error if the library has given up the connection.
    fn next(&mut self, timeout: Duration) -> Result<Option<Message>, Refused>;

    /// Disconnects as its users do; an error says what the library did beyond that.
    fn disconnect(self: Box<Self>) -> Result<(), Refused>;

    /// Ends without DISCONNECT, as a crash does.
    fn drop_connection(self: Box<Self>);
}

impl dyn Driver {
    /// The next message.
    ///
    /// # Panics
    /// If none comes in time.
    #[track_caller]
    pub fn message(&mut self) -> Result<Message, Refused> {
        Ok(self.next(PATIENCE)?.expect("a message comes in time"))
    }

    /// The messages up to the one with the payload `last`, which is left out.
    ///
    /// # Panics
    /// If it does not come in time.
    #[track_caller]
    pub fn messages_until(&mut self, last: &str) -> Result<Vec<Message>, Refused> {
        let mut messages = Vec::new();
        loop {
            let message = self.message()?;
            if message.payload == last.as_bytes() {
                return Ok(messages);
            }
            messages.push(message);
        }
    }
}

/// Waits for `count` messages in total, received by any of `drivers`. Returns a list for each.
///
/// # Panics
/// If they do not arrive in time.
#[track_caller]
pub fn messages_of_all(drivers: &mut [Box<dyn Driver>], count: usize) -> Result<Vec<Vec<Message>>, Refused> {
    let deadline = Instant::now() + PATIENCE;
    let mut got = vec![Vec::new(); drivers.len()];
    while got.iter().map(Vec::len).sum::<usize>() < count {
        assert!(Instant::now() < deadline, "{count} messages do not come in time, but {got:?}");
        for (driver, got) in drivers.iter_mut().zip(&mut got) {
            // A short wait, because the message may arrive at the next one.
            got.extend(driver.next(Duration::from_millis(5))?);
        }
    }
    Ok(got)
}

/// One client in one version, and the broker it connects to.
pub struct World<'a> {
    /// The broker.
    pub broker: &'a Broker,
    /// Which library.
    pub client: Client,
    /// Version of MQTT.
    pub version: Version,
}

impl World<'_> {
    /// Connects and subscribes.
    pub fn open(&self, settings: &Settings) -> Result<Box<dyn Driver>, Refused> {
        match self.client {
            Client::Mosquitto => mosquitto::open(self.broker, self.version, settings),
            Client::Paho | Client::Aiomqtt | Client::MqttJs => {
                scripted::open(self.client, self.broker, self.version, settings)
            }
            Client::Rumqttc => rumqttc::open(self.broker, self.version, settings),
        }
    }
}
