//! The program `grapnel-bench`: a load generator for MQTT brokers, with options like emqtt-bench's,
//! and the baseline relay (`floor`) that brokers are compared with. It reads the command line,
//! makes the load and prints the result. It exits with 1 if connections or messages failed, and
//! with 2 for invalid arguments.

mod cli;
mod clock;
mod compare;
mod engine;
mod frames;
mod header;
mod load;
mod options;
mod plan;
mod reason;
mod report;
mod scenario;
mod sequence;
mod socket;
mod topic;
mod transport;
#[path = "../../broker/src/usage.rs"]
mod usage;

use anyhow::{Context, Result};
use clap::CommandFactory;
use options::Usage;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli: cli::Cli = match usage::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            let (said, code) = if error.is::<Usage>() {
                let command = usage::command_of(&cli::Cli::command(), std::env::args_os().skip(1));
                (usage::with_remedy(&format!("{error:#}"), &command), usage::EXIT_CODE)
            } else {
                (format!("{error:#}"), EXIT_FAILED)
            };
            // Without an open stderr there is still the exit code.
            let _ = writeln!(std::io::stderr(), "grapnel-bench: {said}");
            ExitCode::from(code)
        }
    }
}

/// True if no connection failed and every message arrived.
fn run(command: cli::Command) -> Result<bool> {
    match command {
        cli::Command::Load(command) => {
            let load = command.into_load().map_err(Usage)?;
            let outcome = load::drive(&load, &*stop_on_signals()?)?;
            let summary = report::Summary::new(&load, &outcome);
            report::print(&summary, load.command.common().output.json)?;
            Ok(summary.is_success())
        }
        cli::Command::Run(args) => scenario::args::command(&args, &*stop_on_signals()?),
        cli::Command::Compare(args) => compare::command(&args, &*stop_on_signals()?),
        cli::Command::Floor { listen } => grapnel_floor::serve(listen).map(|()| true),
    }
}

/// The first signal ends the run cleanly, the second at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the default action of a signal must see the flag from before that signal.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot install a signal handler")?;
    }
    Ok(stop)
}
