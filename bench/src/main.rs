//! The program `grapnel-bench`: a load generator for MQTT brokers, with options like emqtt-bench's,
//! and the baseline relay (`floor`) that brokers are compared with. It reads the command line,
//! makes the load and prints the result. It exits with 1 if connections or messages failed, and
//! with 2 for bad arguments.

mod cli;
mod clock;
mod compare;
mod engine;
mod frames;
mod header;
mod load;
mod plan;
mod reason;
mod report;
mod scenario;
mod sequence;
mod socket;
mod topic;

use anyhow::{Context, Result};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Load(load) => drive_load(load),
        cli::Command::Run(args) => {
            stop_on_signals().and_then(|stop| finish(scenario::args::command(&args, &stop)))
        }
        cli::Command::Compare(args) => {
            stop_on_signals().and_then(|stop| finish(compare::command(&args, &stop)))
        }
        cli::Command::Floor(args) => grapnel_floor::serve(args.listen).map(|()| ExitCode::SUCCESS),
    }
    .unwrap_or_else(|error| complain(&error, EXIT_FAILED))
}

fn drive_load(command: Box<cli::LoadCommand>) -> Result<ExitCode> {
    let load = match command.into_load() {
        Ok(load) => load,
        Err(error) => return Ok(complain(&error, EXIT_USAGE)),
    };
    let outcome = load::drive(&load, &*stop_on_signals()?)?;
    let summary = report::Summary::new(&load, &outcome);
    let text = if load.json { summary.to_json()? } else { summary.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the summary")?;
    Ok(if summary.is_success() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn finish(done: Result<Result<bool>, scenario::args::Usage>) -> Result<ExitCode> {
    match done {
        Ok(done) => done.map(|success| if success { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }),
        Err(usage) => Ok(complain(&usage.0, EXIT_USAGE)),
    }
}

/// The first signal ends the run in order, the second at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the default action of a signal must find the flag as the signal before left it.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot install a signal handler")?;
    }
    Ok(stop)
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    // Whoever closed stderr still gets the exit code.
    let _ = writeln!(std::io::stderr(), "grapnel-bench: {error:#}");
    ExitCode::from(code)
}
