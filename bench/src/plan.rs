//! A load with all settings: addresses, the work of the clients, and their pace. `load` builds it
//! for pub, sub and conn, `scenario` for run; the engine carries it out without changing it.

pub use grapnel_engine::packet::Version;

use crate::header::Fields;
use crate::topic::Template;
use crate::transport::Transport;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Connects from one local address; it has about 28,000 ports, of which other programs use a few.
const CONNECTS_PER_SOURCE: usize = 20_000;

/// All settings of the engine.
#[derive(Debug)]
pub struct Setup {
    /// Address of the broker.
    pub broker: SocketAddr,
    /// What carries MQTT.
    pub transport: Transport,
    /// Local addresses to connect from.
    pub sources: Sources,
    /// Protocol version of every client.
    pub version: Version,
    /// Client ids and credentials.
    pub names: Names,
    /// Seconds, 0 for none.
    pub keep_alive_s: u16,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Seconds; MQTT 5 only.
    pub session_expiry_s: Option<u32>,
    /// The clients and their work.
    pub shape: Shape,
    /// Each client disconnects as soon as its CONNACK has arrived.
    pub leaves: bool,
    /// What publishers send, and with which QoS subscribers subscribe.
    pub messages: Messages,
    /// When publishers send.
    pub pace: Pace,
    /// Pause between two connects.
    pub connect_gap: Duration,
    /// Connects under way at once.
    pub connects_pending_max: usize,
    /// From connect() until the last answer of the handshake.
    pub connect_timeout: Duration,
    /// Progress and the first error of each kind go to stderr.
    pub talks: bool,
}

/// Local addresses to connect from.
#[derive(Debug)]
pub enum Sources {
    /// These in turn; if there are none, the system selects one.
    Listed(Vec<IpAddr>),
    /// Another loopback address for each [`CONNECTS_PER_SOURCE`] connects; for other brokers the
    /// system selects one.
    AsNeeded,
}

impl Sources {
    /// The address for a connect, counted from 0.
    pub fn of(&self, broker: SocketAddr, ordinal: usize) -> Option<IpAddr> {
        match self {
            Self::Listed(sources) => (!sources.is_empty()).then(|| sources[ordinal % sources.len()]),
            Self::AsNeeded => {
                let at = u32::try_from(ordinal / CONNECTS_PER_SOURCE).ok()?;
                let on_loopback = matches!(broker.ip(), IpAddr::V4(addr) if addr.is_loopback());
                // 127.0.0.1 itself is left to other programs.
                let address = || Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + at);
                (on_loopback && at > 0).then(|| IpAddr::V4(address()))
            }
        }
    }
}

/// Client ids and credentials.
#[derive(Debug, Default)]
pub struct Names {
    /// Client id = prefix and number.
    pub prefix: String,
    /// Number of the first client.
    pub first: u32,
    /// May contain `%i` and `%c`.
    pub user_name: Option<Template>,
    /// The same for all.
    pub password: Option<String>,
}

impl Names {
    /// Number of the client at `index`, counted from 0.
    pub fn number(&self, index: usize) -> u32 {
        self.first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Id of the client at `index`.
    pub fn client_id(&self, index: usize) -> String {
        format!("{}{}", self.prefix, self.number(index))
    }

    /// User name of the client at `index`.
    pub fn user_name(&self, index: usize) -> Option<String> {
        let number = self.number(index).to_string();
        Some(self.user_name.as_ref()?.expand(&number, &self.client_id(index), ""))
    }

    /// A topic or filter of the client at `index`.
    pub fn topic(&self, template: &Template, index: usize) -> String {
        let (number, client_id) = (self.number(index).to_string(), self.client_id(index));
        // `cli` refuses %u without a user name.
        template.expand(&number, &client_id, &self.user_name(index).unwrap_or_default())
    }
}

/// Instead of a rank: not for this subscriber.
pub const NOT_RECEIVED: u32 = u32::MAX;

/// All clients: publishers first, then subscribers, then those that only connect.
#[derive(Debug, Default)]
pub struct Shape {
    /// By publisher number.
    pub publishers: Vec<PublisherShape>,
    /// By subscriber number.
    pub subscribers: Vec<SubscriberShape>,
    /// Clients that only connect.
    pub idle: u32,
}

impl Shape {
    /// Connections in all.
    pub fn clients(&self) -> usize {
        self.publishers.len() + self.subscribers.len() + self.idle as usize
    }
}

/// One publisher.
#[derive(Debug)]
pub struct PublisherShape {
    /// Used in turn.
    pub topics: Vec<String>,
    /// For each topic, how many subscribers receive a message on it; empty if the load does not
    /// define it.
    pub receivers: Vec<u32>,
}

/// One subscriber.
#[derive(Debug)]
pub struct SubscriberShape {
    /// No two of them match the same topic: brokers may deliver such a message once or twice
    /// [MQTT-3.3.4-2].
    pub filters: Vec<String>,
    /// Number of the first publisher from which it receives; the others follow.
    pub first_publisher: usize,
    /// What it receives from each: for each topic of the publisher its index among the received
    /// ones, or [`NOT_RECEIVED`]; no index if all are received. Empty if the load does not define
    /// it.
    pub received: Vec<Vec<u32>>,
}

/// What publishers send, and with which QoS subscribers subscribe.
#[derive(Debug, Default)]
pub struct Messages {
    /// 0 to 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// The payload, shared by all; a header overwrites its front.
    pub payload: Box<[u8]>,
    /// Fields of that header.
    pub fields: Fields,
    /// Marks this run in payload headers.
    pub run: u32,
    /// Messages in flight per client with QoS 1 and 2.
    pub window: u16,
}

/// When a publisher sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Each publisher by itself, at this interval; zero means as fast as the window and the socket
    /// allow.
    Interval {
        /// Between two messages of a publisher.
        gap: Duration,
        /// Messages of all publishers together.
        limit: Option<u64>,
    },
    /// Closed loop: a publisher sends while fewer than `window` of its messages have not been
    /// received by all their subscribers; `burst` at once.
    Credit {
        /// Messages of one publisher, at least 1.
        window: u32,
        /// 1 to `window`.
        burst: u32,
    },
    /// Open loop: so many messages a second in total, whatever the broker does; at least 1.
    Rate(u64),
}

impl Pace {
    /// How many messages the publisher `index` of `publishers` may send: the limit is shared
    /// evenly, and the first publishers send the remainder.
    pub fn quota(self, index: usize, publishers: usize) -> u64 {
        let Self::Interval { limit: Some(limit), .. } = self else { return u64::MAX };
        let count = publishers.max(1) as u64;
        limit / count + u64::from((index as u64) < limit % count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_connects_are_spread_over_local_addresses() {
        let broker = "127.0.0.1:1883".parse().unwrap();
        let source = |ordinal| Sources::AsNeeded.of(broker, ordinal);
        assert_eq!((source(0), source(CONNECTS_PER_SOURCE - 1)), (None, None));
        assert_eq!(source(CONNECTS_PER_SOURCE), Some("127.0.0.2".parse().unwrap()));
        assert_eq!(source(3 * CONNECTS_PER_SOURCE), Some("127.0.0.4".parse().unwrap()));
        for elsewhere in ["10.0.0.1:1883", "[::1]:1883"] {
            let elsewhere = elsewhere.parse().unwrap();
            assert_eq!(Sources::AsNeeded.of(elsewhere, 3 * CONNECTS_PER_SOURCE), None);
        }
    }

    #[test]
    fn a_limit_is_shared_evenly() {
        let pace = Pace::Interval { gap: Duration::ZERO, limit: Some(8) };
        assert_eq!([0, 1, 2].map(|index| pace.quota(index, 3)), [3, 3, 2]);
        assert_eq!(Pace::Rate(1).quota(0, 1), u64::MAX);
    }
}
