//! Common options of several commands: times, addresses, the form of the report, and the error for
//! invalid arguments.

use crate::plan::Version;
use anyhow::{Context, Result, ensure};
use clap::builder::TypedValueParser;
use clap::{ArgAction, Args};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Invalid arguments, in contrast to a run that failed.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Usage(pub anyhow::Error);

/// How a load reports.
#[derive(Debug, Clone, Args)]
pub struct Output {
    /// Print the report as one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Print only the report, without progress and errors of clients on stderr
    #[arg(long)]
    pub quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Reads the number of a protocol version.
pub fn version() -> impl TypedValueParser<Value = Version> {
    clap::value_parser!(u8).range(3..=5).map(|number| match number {
        3 => Version::V31,
        4 => Version::V311,
        _ => Version::V5,
    })
}

/// Reads a time in milliseconds, fractions allowed.
pub fn millis(text: &str) -> Result<Duration> {
    Ok(seconds(text)? / 1000)
}

/// Reads a time in seconds, fractions allowed.
pub fn seconds(text: &str) -> Result<Duration> {
    // All times are nanoseconds in 64 bits; ten years are well below their maximum.
    const MAX_S: f64 = 315_360_000.0;
    let value = text.parse().unwrap_or(f64::NAN);
    ensure!((0.0..=MAX_S).contains(&value), "must be a time from 0 to ten years");
    Ok(Duration::from_secs_f64(value))
}

/// A broker that runs already.
#[derive(Debug, Clone, Args)]
pub struct Address {
    /// Address or name of the broker
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the broker
    #[arg(short = 'p', long, default_value_t = 1883)]
    pub port: u16,
}

impl Address {
    /// The first address of the host.
    pub fn resolve(&self) -> Result<SocketAddr> {
        let Self { host, port } = self;
        let mut addresses = (host.as_str(), *port).to_socket_addrs().with_context(|| {
            format!("cannot resolve --host {host}; give an address or a name that resolves")
        })?;
        addresses.next().with_context(|| format!("--host {host} has no address"))
    }
}
