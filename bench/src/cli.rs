//! The command line: options like emqtt-bench's, checked as a whole and converted into a `Load`.
//! `main` calls it first; nothing here opens a connection.

mod check;

use crate::compare::args::CompareArgs;
use crate::options::{Address, Output, millis, seconds, version};
use crate::plan::Version;
use crate::scenario::args::RunArgs;
use crate::topic::Template;
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
    /// Run a scenario: publishers and subscribers together, and what it costs the broker
    #[command(disable_help_flag = true, args_override_self = true)]
    Run(Box<RunArgs>),
    /// Run scenarios against several brokers, turn by turn, and print each as a multiple of the floor
    #[command(disable_help_flag = true, args_override_self = false)]
    Compare(Box<CompareArgs>),
    /// Relay messages with the least MQTT possible, as a floor to compare brokers with; stays until SIGINT or SIGTERM
    Floor(BaselineArgs),
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
    Conn(ConnArgs),
}

/// `grapnel-bench pub`
#[derive(Debug, Args)]
pub struct PubArgs {
    /// Topic to publish on; %i client number, %c client id, %u user name
    #[arg(short = 't', long)]
    pub topic: Template,
    /// QoS of the messages: 0, 1 or 2
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload size in bytes
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 256)]
    pub size: usize,
    /// Set the retain flag
    #[arg(short = 'r', long, value_name = "BOOL", num_args = 0..=1, require_equals = false,
          default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub retain: bool,
    /// Milliseconds between messages of one client; 0 for as fast as the window and the socket allow
    #[arg(short = 'I', long, alias = "interval_of_msg", value_name = "MS", default_value = "1000", value_parser = millis)]
    pub interval_of_msg: Duration,
    /// Messages in flight per client with QoS 1 and 2
    #[arg(short = 'w', long, short_alias = 'F', alias = "inflight", value_name = "MESSAGES", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub window: u16,
    /// Messages to send in all, shared evenly among the clients, 0 for no limit; the run ends once they are
    /// acknowledged
    #[arg(short = 'L', long, value_name = "MESSAGES", default_value_t = 0)]
    pub limit: u64,
    /// Put a header into each payload: cnt (publisher and sequence number), ts (time), or both
    #[arg(long, value_name = "cnt,ts", value_delimiter = ',')]
    pub payload_hdrs: Vec<PayloadHeader>,
    /// Publish only when all clients are connected
    #[arg(long)]
    pub wait_before_publishing: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `grapnel-bench sub`
#[derive(Debug, Args)]
pub struct SubArgs {
    /// Topic filter to subscribe to; %i client number, %c client id, %u user name; may be given repeatedly
    #[arg(short = 't', long, required = true)]
    pub topic: Vec<Template>,
    /// QoS of the subscriptions: 0, 1 or 2
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Messages to receive in all before the run ends, 0 for no limit
    #[arg(short = 'L', long, value_name = "MESSAGES", default_value_t = 0)]
    pub limit: u64,
    /// End the run this long after the last message arrived
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub idle: Option<Duration>,
    /// Count messages without this header as errors; headers that are there are read anyway
    #[arg(long, value_name = "cnt,ts", value_delimiter = ',')]
    pub payload_hdrs: Vec<PayloadHeader>,
    /// Gaps in a publisher's sequence that each receiver remembers; older ones are written off as lost
    #[arg(long, value_name = "GAPS", default_value_t = 65_536)]
    pub gaps_max: usize,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `grapnel-bench conn`
#[derive(Debug, Args)]
pub struct ConnArgs {
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `grapnel-bench floor`
#[derive(Debug, Args)]
pub struct BaselineArgs {
    /// Address to listen on; port 0 for any that is free
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:1883")]
    pub listen: SocketAddr,
}

/// What every subcommand that makes a load takes.
#[derive(Debug, Args)]
pub struct CommonArgs {
    #[command(flatten)]
    pub address: Address,
    /// Protocol version: 3 (MQTT 3.1), 4 (3.1.1) or 5 (5.0)
    #[arg(short = 'V', long, default_value = "5", value_parser = version())]
    pub version: Version,
    /// Number of clients
    #[arg(short = 'c', long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// The first client has the number after this one
    #[arg(short = 'n', long, default_value_t = 0)]
    pub startnumber: u32,
    /// Milliseconds between connects; 0 for as fast as possible
    #[arg(short = 'i', long, value_name = "MS", default_value = "10", value_parser = millis)]
    pub interval: Duration,
    /// User name; %i client number, %c client id
    #[arg(short = 'u', long)]
    pub username: Option<Template>,
    /// Password
    #[arg(short = 'P', long)]
    pub password: Option<String>,
    /// Keep alive in seconds, 0 for none
    #[arg(short = 'k', long, value_name = "S", default_value_t = 300)]
    pub keepalive: u16,
    /// Clean session (MQTT 5: clean start)
    #[arg(short = 'C', long, value_name = "BOOL", num_args = 0..=1, default_value_t = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub clean: bool,
    /// Session expiry in seconds (MQTT 5)
    #[arg(short = 'x', long, value_name = "S")]
    pub session_expiry: Option<u32>,
    /// Client id prefix: ids are PREFIX and the client number, the same in every run
    #[arg(long)]
    pub prefix: Option<String>,
    /// Local addresses to connect from, in turn
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub ifaddr: Vec<IpAddr>,
    /// Length of the run in seconds, from when every client is ready or has failed
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Seconds from connect to the end of the handshake, SUBACK included
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub connect_timeout: Duration,
    /// Seconds to wait for outstanding acknowledgements, and then for the connections to end
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// Connects under way at once
    #[arg(long, value_name = "CLIENTS", default_value_t = 512)]
    pub connects_pending_max: usize,
    /// Create this file when every client is ready (sub: has its SUBACK)
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
