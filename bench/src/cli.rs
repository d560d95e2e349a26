//! The command line: options like emqtt-bench's, checked as a whole and converted into a `Load`.
//! `main` calls it first; nothing here opens a connection.

mod check;

use crate::compare::args::CompareArgs;
use crate::options::{Address, Output, millis, seconds, version};
use crate::plan::Version;
use crate::scenario::args::RunArgs;
use crate::topic::Template;
use crate::transport::TransportArgs;
use clap::{ArgAction, Args, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Load generator for MQTT brokers.
#[derive(Debug, Parser)]
#[command(name = "grapnel-bench", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What the tool is asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One kind of client.
    #[command(flatten)]
    Load(Box<LoadCommand>),
    /// Run publishers and subscribers together in a scenario, and measure what they cost the broker
    #[command(disable_help_flag = true, args_override_self = true)]
    Run(Box<RunArgs>),
    /// Run scenarios against several brokers in turn, and print the cost of each as a multiple of a reference
    #[command(disable_help_flag = true, args_override_self = false)]
    Compare(Box<CompareArgs>),
    /// Run the baseline relay, the least MQTT possible, to compare brokers with; it runs until SIGINT or SIGTERM
    Floor {
        /// Address to listen on; port 0: any free port
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:1883")]
        listen: SocketAddr,
    },
}

/// Each becomes one `Load`, see `check`.
#[derive(Debug, Subcommand)]
pub enum LoadCommand {
    /// Publish with many clients
    #[command(disable_help_flag = true, args_override_self = true)]
    Pub(PubArgs),
    /// Subscribe with many clients and count what arrives
    #[command(disable_help_flag = true, args_override_self = true)]
    Sub(SubArgs),
    /// Connect many clients and keep them connected
    #[command(disable_help_flag = true, args_override_self = true)]
    Conn(CommonArgs),
}

impl LoadCommand {
    /// The options that all three have.
    pub fn common(&self) -> &CommonArgs {
        match self {
            Self::Pub(PubArgs { common, .. }) | Self::Sub(SubArgs { common, .. }) | Self::Conn(common) => {
                common
            }
        }
    }

    /// The name in the summary.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pub(_) => "pub",
            Self::Sub(_) => "sub",
            Self::Conn(_) => "conn",
        }
    }

    /// Messages in all: to send for publishers, to receive for subscribers; `None` without a limit.
    pub fn limit(&self) -> Option<u64> {
        match self {
            Self::Pub(PubArgs { limit, .. }) | Self::Sub(SubArgs { limit, .. }) => {
                Some(*limit).filter(|limit| *limit > 0)
            }
            Self::Conn(_) => None,
        }
    }
}

/// `grapnel-bench pub`
#[derive(Debug, Args)]
pub struct PubArgs {
    /// Topic to publish to; %i is the client number, %c the client id, %u the user name, %% a percent sign
    #[arg(short = 't', long)]
    pub topic: Template,
    /// QoS of the messages: 0, 1 or 2
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload size in bytes, 0 to 268369904; with --payload-hdrs not less than the header
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 256)]
    pub size: usize,
    /// Whether messages have the RETAIN flag: true or false; without a value, true
    #[arg(short = 'r', long, value_name = "BOOL", num_args = 0..=1, require_equals = false,
          default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub retain: bool,
    /// Milliseconds between two messages of one client, fractions allowed; 0: as fast as the window (QoS 1, 2) or the
    /// socket (QoS 0) allows
    #[arg(short = 'I', long, alias = "interval_of_msg", value_name = "MS", default_value = "1000", value_parser = millis)]
    pub interval_of_msg: Duration,
    /// Maximum number of unacknowledged QoS 1 and 2 messages of one client, 1 to 65535; the broker's Receive Maximum
    /// may lower it
    #[arg(short = 'w', long, short_alias = 'F', alias = "inflight", value_name = "MESSAGES", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub window: u16,
    /// Number of messages of all clients together, shared evenly among them; the run ends when they are acknowledged;
    /// 0: no limit
    #[arg(short = 'L', long, value_name = "MESSAGES", default_value_t = 0)]
    pub limit: u64,
    /// Begin each payload with a header: cnt (publisher and sequence number), ts (time), or both as cnt,ts
    #[arg(long, value_name = "cnt,ts", value_delimiter = ',')]
    pub payload_hdrs: Vec<PayloadHeader>,
    /// Publish only after every client has connected or failed
    #[arg(long)]
    pub wait_before_publishing: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `grapnel-bench sub`
#[derive(Debug, Args)]
pub struct SubArgs {
    /// Topic filter to subscribe to, may be repeated; %i is the client number, %c the client id, %u the user name, %% a
    /// percent sign
    #[arg(short = 't', long, required = true)]
    pub topic: Vec<Template>,
    /// QoS of the subscriptions: 0, 1 or 2
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// The run ends when all clients together have received this many messages; 0: no limit
    #[arg(short = 'L', long, value_name = "MESSAGES", default_value_t = 0)]
    pub limit: u64,
    /// End the run when no message has arrived for this many seconds, after the first one
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub idle: Option<Duration>,
    /// Count messages without a header as errors, whichever fields are named; headers are always read
    #[arg(long, value_name = "cnt,ts", value_delimiter = ',')]
    pub payload_hdrs: Vec<PayloadHeader>,
    /// Number of gaps in the sequence of one publisher that each receiver remembers; older gaps stay counted as lost
    #[arg(long, value_name = "GAPS", default_value_t = 65_536)]
    pub gaps_max: usize,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What every subcommand that makes a load takes.
#[derive(Debug, Args)]
pub struct CommonArgs {
    #[command(flatten)]
    pub address: Address,
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Protocol version: 3 (MQTT 3.1), 4 (MQTT 3.1.1) or 5 (MQTT 5.0)
    #[arg(short = 'V', long, default_value = "5", value_parser = version())]
    pub version: Version,
    /// Number of clients, at least 1
    #[arg(short = 'c', long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// The first client has this number plus 1
    #[arg(short = 'n', long, default_value_t = 0)]
    pub startnumber: u32,
    /// Milliseconds between two connects, fractions allowed; 0: as fast as possible
    #[arg(short = 'i', long, value_name = "MS", default_value = "10", value_parser = millis)]
    pub interval: Duration,
    /// User name; %i is the client number, %c the client id, %% a percent sign
    #[arg(short = 'u', long)]
    pub username: Option<Template>,
    /// Password, the same for all clients
    #[arg(short = 'P', long)]
    pub password: Option<String>,
    /// Keep alive in seconds, 0 to 65535; 0: none
    #[arg(short = 'k', long, value_name = "S", default_value_t = 300)]
    pub keepalive: u16,
    /// Clean session, or with MQTT 5 clean start: true or false; without a value, true
    #[arg(short = 'C', long, value_name = "BOOL", num_args = 0..=1, default_value_t = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub clean: bool,
    /// Session Expiry Interval in seconds (only MQTT 5) [default: not sent]
    #[arg(short = 'x', long, value_name = "S")]
    pub session_expiry: Option<u32>,
    /// Each client id is this prefix and the client number [default: a prefix that differs from run to run]
    #[arg(long)]
    pub prefix: Option<String>,
    /// Local addresses to connect from, used in turn [default: the system selects one]
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub ifaddr: Vec<IpAddr>,
    /// Length of the run in seconds, counted from when every client is ready or has failed [default: no end]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Maximum number of seconds from the TCP connect to CONNACK, with sub to SUBACK
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub connect_timeout: Duration,
    /// At the end of the run, maximum number of seconds to wait for acknowledgements, and then again for the broker to
    /// close the connections
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// Maximum number of clients that are connecting at the same time, at least 1
    #[arg(long, value_name = "CLIENTS", default_value_t = 512)]
    pub connects_pending_max: usize,
    /// Create this file when every client is ready: connected, with sub also subscribed; not if one has failed
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// A field of `--payload-hdrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PayloadHeader {
    /// Publisher and sequence number
    #[value(alias = "cnt64")]
    Cnt,
    /// Time at which the message was due
    Ts,
}

/// The load that a command line asks for.
#[cfg(test)]
pub fn load(arguments: &str) -> anyhow::Result<crate::load::Load> {
    let words = std::iter::once("grapnel-bench").chain(arguments.split_whitespace());
    match Cli::try_parse_from(words)?.command {
        Command::Load(load) => load.into_load(),
        other => anyhow::bail!("{other:?} is no load"),
    }
}
