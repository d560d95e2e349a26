//! Options of `grapnel-bench compare`, checked as a whole before anything is started.

use super::case::{Case, LAYERED, USUAL};
use crate::options::seconds;
use crate::scenario::args::{CpuArgs, Cpus};
use crate::transport::TrustArgs;
use anyhow::{Context, Result, ensure};
use clap::{ArgAction, Args};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// `grapnel-bench compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Name of a broker and the command that starts it, with {listen}, {port}, {dir} and {scheme} as in run; without
    /// {scheme} it is left out of cases with TLS or WebSocket; may be repeated
    #[arg(long = "broker", value_name = "NAME=COMMAND", required = true)]
    pub brokers: Vec<MeasuredBroker>,
    /// The broker that the others are compared with [default: floor, the baseline relay of this program]
    #[arg(long, value_name = "NAME=COMMAND")]
    pub reference: Option<MeasuredBroker>,
    /// A scenario with options of run, such as pairs,qos=1,size=1024; may be repeated [default: all scenarios, also
    /// with other QoS and sizes where they matter, and with --cafile or --insecure through TLS and WebSocket]
    #[arg(long = "case", value_name = "SCENARIO[,OPTION=VALUE]...")]
    pub cases: Vec<String>,
    /// How often each case is measured with each broker, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Length of each measured window in seconds, more than 0
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub duration: Duration,
    /// Count the brokers' system calls too, in a second window of the same length (needs root, and tracefs at /sys/kernel/tracing)
    #[arg(long)]
    pub syscalls: bool,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub cpus: CpuArgs,
    /// Write the table to this file too
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write all numbers and all reports to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// A measured broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeasuredBroker {
    /// Its name in reports.
    pub name: String,
    /// The command that starts it.
    pub command: String,
}

/// Checked options.
#[derive(Debug)]
pub struct CheckedOptions {
    /// The reference first.
    pub contestants: Vec<MeasuredBroker>,
    /// The cases, in order.
    pub cases: Vec<Case>,
    /// The CPUs of generator and broker.
    pub cpus: Cpus,
}

impl std::str::FromStr for MeasuredBroker {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text
            .split_once('=')
            .filter(|(name, command)| !name.is_empty() && !command.trim().is_empty() && !name.contains(' '))
            .context("it is not NAME=COMMAND")?;
        Ok(MeasuredBroker { name: name.to_owned(), command: command.to_owned() })
    }
}

impl MeasuredBroker {
    /// Whether it can be started for a case: every broker has TCP, and those whose command takes a
    /// scheme have the rest.
    pub fn can(&self, case: &Case) -> bool {
        !case.scenario.transport.is_layered() || self.command.contains("{scheme}")
    }

    fn baseline() -> Result<MeasuredBroker> {
        let program = std::env::current_exe().context("cannot find this program to start its floor")?;
        Ok(MeasuredBroker {
            name: "floor".to_owned(),
            command: format!("'{}' floor --listen {{listen}}", program.display()),
        })
    }
}

impl CompareArgs {
    /// Checks everything that can be checked without starting a process.
    pub fn settle(&self) -> Result<CheckedOptions> {
        let mut contestants = vec![self.reference.clone().map_or_else(MeasuredBroker::baseline, Ok)?];
        for broker in &self.brokers {
            let known = contestants.iter().any(|other| other.name == broker.name);
            ensure!(!known, "two brokers are named {:?}; give each a name of its own", broker.name);
            contestants.push(broker.clone());
        }
        ensure!(!self.duration.is_zero(), "--duration must be more than nothing");
        let named: Vec<&str> = self.cases.iter().map(String::as_str).collect();
        let layered = if self.trust.is_given() { LAYERED } else { &[] };
        let names = if named.is_empty() { [USUAL, layered].concat() } else { named };
        let parse = |name: &&str| Case::parse(name, &self.trust);
        let mut cases = names.iter().map(parse).collect::<Result<Vec<_>>>()?;
        for case in &mut cases {
            ensure!(
                contestants.iter().any(|broker| broker.can(case)),
                "no broker can run the case {:?}; put {{scheme}} into a command, it becomes mqtts, ws or wss",
                case.name
            );
            case.scenario.options.duration = self.duration;
            case.scenario.options.syscalls = self.syscalls && case.scenario.kind.has_messages();
        }
        Ok(CheckedOptions { contestants, cases, cpus: self.cpus.settle(true) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn settle(arguments: &[&str]) -> Result<CheckedOptions> {
        let words = ["grapnel-bench", "compare"].into_iter().chain(arguments.iter().copied());
        let Command::Compare(args) = Cli::try_parse_from(words)?.command else {
            anyhow::bail!("not compare")
        };
        args.settle()
    }

    #[test]
    fn the_floor_is_the_reference_unless_another_is_named() {
        let settled = settle(&["--broker", "a=x --listen {listen}"]).unwrap();
        assert_eq!(settled.contestants[0].name, "floor");
        assert!(settled.contestants[0].command.ends_with("floor --listen {listen}"));
        assert_eq!(
            settled.contestants[1],
            MeasuredBroker { name: "a".into(), command: "x --listen {listen}".into() }
        );
        assert_eq!(settled.cases.len(), USUAL.len());
        let settled =
            settle(&["--broker", "a=x", "--reference", "b=y", "--case", "pairs", "--duration", "1"]).unwrap();
        assert_eq!(settled.contestants[0].name, "b");
        assert_eq!(settled.cases[0].scenario.options.duration.as_secs(), 1);
    }
}
