//! A load as it will be run: what `cli` has checked and resolved, and the poll loop carries out.
//! A later subcommand that runs a scenario builds plans of its own and drives them the same way.

use crate::header::Fields;
use crate::topic::{Identity, Template};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Protocol version, as `-V` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1
    V31,
    /// MQTT 3.1.1
    V311,
    /// MQTT 5.0
    V5,
}

/// Everything one run needs to know.
#[derive(Debug)]
pub struct Plan {
    /// Where the broker listens.
    pub broker: SocketAddr,
    /// Local addresses to connect from, in turn; empty for the system's choice.
    pub sources: Vec<IpAddr>,
    /// Protocol version of every client.
    pub version: Version,
    /// How many clients.
    pub count: u32,
    /// The first client has the number after this one.
    pub start_number: u32,
    /// Pause between two connects.
    pub connect_gap: Duration,
    /// Connects under way at once.
    pub connects_pending_max: usize,
    /// Client ids and credentials.
    pub names: Names,
    /// Seconds, 0 for none.
    pub keep_alive_s: u16,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Seconds; MQTT 5 only.
    pub session_expiry_s: Option<u32>,
    /// From connect() until the last answer of the handshake.
    pub connect_timeout: Duration,
    /// How long acknowledgements, and then the ends of connections, are waited for.
    pub drain_timeout: Duration,
    /// Length of the run once every client is ready or has failed.
    pub duration: Option<Duration>,
    /// Ends the run this long after the last message was received.
    pub idle: Option<Duration>,
    /// Messages in all: to send for publishers, to receive for subscribers.
    pub limit: Option<u64>,
    /// Remembered gaps per publisher and receiver.
    pub gaps_max: usize,
    /// What the clients do once connected.
    pub role: Role,
    /// What is printed, and where.
    pub output: Output,
}

/// What the clients of a plan do.
#[derive(Debug)]
pub enum Role {
    /// Publish.
    Publish(PublishPlan),
    /// Subscribe and count.
    Subscribe(SubscribePlan),
    /// Stay connected.
    Hold,
}

/// What publishers send.
#[derive(Debug)]
pub struct PublishPlan {
    /// One topic per client.
    pub topic: Template,
    /// 0 to 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// The payload, shared by all; a header is written over its front.
    pub payload: Arc<[u8]>,
    /// Fields of that header.
    pub fields: Fields,
    /// Between two messages of a client; zero for as fast as the window and the socket allow.
    pub interval: Duration,
    /// Messages in flight per client with QoS 1 and 2.
    pub window: u16,
    /// Begin only when all are connected.
    pub wait_for_all: bool,
    /// Marks this run in payload headers.
    pub run: u32,
}

/// What subscribers ask for.
#[derive(Debug)]
pub struct SubscribePlan {
    /// Every client subscribes to all of them.
    pub filters: Vec<Template>,
    /// 0 to 2.
    pub qos: u8,
    /// Count messages without a sequence header as errors.
    pub header_expected: bool,
}

/// Client ids and credentials.
#[derive(Debug)]
pub struct Names {
    /// Client id = prefix and number.
    pub prefix: String,
    /// May hold `%i` and `%c`.
    pub user_name: Option<Template>,
    /// The same for all.
    pub password: Option<String>,
}

impl Names {
    /// Id of a client.
    pub fn client_id(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    /// User name of a client.
    pub fn user_name(&self, number: u32, client_id: &str) -> Option<String> {
        let template = self.user_name.as_ref()?;
        Some(template.expand(Identity { number, client_id, user_name: None }))
    }

    /// A topic or filter of a client.
    pub fn topic(&self, template: &Template, number: u32) -> String {
        let client_id = self.client_id(number);
        let user_name = self.user_name(number, &client_id);
        template.expand(Identity { number, client_id: &client_id, user_name: user_name.as_deref() })
    }
}

/// What is printed, and where.
#[derive(Debug, Default)]
pub struct Output {
    /// One JSON object instead of a table.
    pub json: bool,
    /// Nothing but the summary.
    pub quiet: bool,
    /// Created when every client is ready.
    pub ready_file: Option<PathBuf>,
}
