//! The program `grapnel-ctl`: a thin client of the control API, with tables for people and `--json`
//! for programs. Only `plugins check` and verbs that a plugin declares as local work without a
//! broker, on a file. Called by the binary; the broker uses nothing here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

mod authz;
mod clients;
mod config;
mod connection;
mod follows;
mod hooks;
mod metrics;
mod output;
mod plugin_config;
mod plugins;
mod printable;
mod schema;
mod status;
mod table;
mod trace;
mod verbs;

use connection::Broker;
use output::Output;

use crate::config::Environment;
use crate::usage;

/// Shows and changes a running Grapnel broker.
#[derive(Debug, Parser)]
#[command(
    name = "grapnel-ctl",
    version,
    max_term_width = 100,
    after_help = "Plugins add commands of their own: `grapnel-ctl plugins verbs` lists them, `grapnel-ctl PLUGIN --help` says more.\n`grapnel-ctl passwd FILE USER` is that of auth-file: it sets or deletes a password, without a broker."
)]
struct Ctl {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// The broker's control socket [default: $GRAPNEL_CONTROL_SOCKET, else the broker's default]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,
    /// Seconds to wait for an answer, or for the check of a plugin
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the broker's state: versions, addresses, plugins, counts and memory
    Status,
    /// List, load, unload and configure plugins
    #[command(subcommand)]
    Plugins(plugins::PluginsCommand),
    /// List and change the hooks of plugins in their chains
    #[command(subcommand)]
    Hooks(hooks::HooksCommand),
    /// List, show and disconnect clients, connected or with a stored session
    #[command(subcommand)]
    Clients(clients::ClientsCommand),
    /// List subscriptions
    #[command(subcommand)]
    Subscriptions(clients::SubscriptionsCommand),
    /// Recheck what plugins have allowed
    #[command(subcommand)]
    Authz(authz::AuthzCommand),
    /// Show the configuration in force, and read it again
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show all counters, summed over the shards
    Metrics(metrics::MetricsCommand),
    /// Show packets while they are received and sent
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// A command of a plugin
    #[command(external_subcommand)]
    OfPlugin(Vec<OsString>),
}

/// Why a command failed. Each kind has its own exit code.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    /// The request was refused, the thing does not exist, or the answer is incomplete.
    #[error("{0}")]
    Refused(String),
    /// The command line is not valid.
    #[error("{0}")]
    Usage(String),
    /// No broker can be reached.
    #[error("{0}")]
    Unreachable(String),
    /// A plugin's command has printed its output. The program ends with this exit code and prints
    /// nothing more.
    #[error("exit code {0}")]
    Ended(u8),
    /// Standard output cannot be written to.
    #[error("cannot write the answer: {0}")]
    Output(std::io::Error),
}

impl CtlError {
    fn exit_code(&self) -> u8 {
        match self {
            // In `grapnel-ctl … | head` the reader has closed the pipe; this is no failure.
            CtlError::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            CtlError::Refused(_) | CtlError::Output(_) => 1,
            CtlError::Usage(_) => 2,
            CtlError::Unreachable(_) => 3,
            CtlError::Ended(code) => *code,
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Some(code) = crate::plugin::check::main_of_child() {
        return code;
    }
    let ctl: Ctl = match usage::parse() {
        Ok(ctl) => ctl,
        Err(code) => return code,
    };
    let command = name_of(&ctl.command);
    let mut output = Output::of_process(ctl.global.json);
    let result = run(ctl, &Environment::of_process(), &mut output).and_then(|()| output.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            if code != 0 && !matches!(error, CtlError::Ended(_)) {
                let text = match &error {
                    CtlError::Usage(text) => usage::with_remedy(text, &command),
                    other => other.to_string(),
                };
                output.complain(&text);
            }
            ExitCode::from(code)
        }
    }
}

/// The command of this process, whose help an error names.
fn name_of(command: &Command) -> String {
    match command {
        Command::OfPlugin(words) => {
            let plugin = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
            format!("grapnel-ctl {}", printable::printable(&plugin))
        }
        _ => usage::command_of(&Ctl::command(), std::env::args_os().skip(1)),
    }
}

fn run(ctl: Ctl, environment: &Environment, output: &mut Output) -> Result<(), CtlError> {
    let Ctl { global, command } = ctl;
    if let Command::Plugins(plugins::PluginsCommand::Check(command)) = command {
        return plugins::check(&command, Duration::from_secs(global.timeout), output);
    }
    if let Command::OfPlugin(words) = command {
        return verbs::run(words, global, environment, output);
    }
    let broker = Broker::new(global.socket, environment, global.timeout);
    runtime()?.block_on(async {
        match command {
            Command::Status => status::run(&broker, output).await,
            Command::Plugins(command) => plugins::run(&broker, command, output).await,
            Command::Hooks(command) => hooks::run(&broker, command, output).await,
            Command::Clients(command) => clients::run(&broker, command, output).await,
            Command::Subscriptions(command) => clients::run_subscriptions(&broker, command, output).await,
            Command::Authz(command) => authz::run(&broker, command, output).await,
            Command::Config(command) => config::run(&broker, command, output).await,
            Command::Metrics(command) => metrics::run(&broker, &command, output).await,
            Command::Trace(command) => trace::run(&broker, command, output).await,
            // Handled above.
            Command::OfPlugin(_) => Ok(()),
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, CtlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CtlError::Refused(format!("cannot start: {error}")))
}

#[cfg(test)]
mod tests;

/// Runs every command that changes nothing. The broker must have a client `c1` that has subscribed
/// to `x`.
#[cfg(test)]
pub(crate) fn check_against(socket: &std::path::Path) {
    tests::check_against(socket);
}
