//! `grapnel-ctl config`: shows the configuration in force, and makes the broker read it again.

use clap::{Args, Subcommand};
use hyper::Method;

use super::CtlError;
use super::authz::print_revoked;
use super::connection::Broker;
use super::output::Output;
use super::printable::printable;
use super::table::{Column, print};
use crate::control::wire::{Changed, ConfigSettings};
use crate::reload::Reloaded;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every key with its value and where it was set
    Show(ShowArguments),
    /// Read the configuration file again and apply what differs; clients stay connected
    Reload(ReloadArguments),
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// Show what a reload of the file would change instead
    #[arg(long)]
    diff: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReloadArguments {
    /// Reload even if no plugin would then decide who may connect or what clients may do
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(
    broker: &Broker,
    command: ConfigCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    match command {
        ConfigCommand::Show(ShowArguments { diff: false }) => {
            let settings: ConfigSettings = broker.get("/api/v1/config").await?;
            print_settings(&settings, output)
        }
        ConfigCommand::Show(ShowArguments { diff: true }) => {
            let found: Reloaded = broker.get("/api/v1/config/diff").await?;
            if output.json { output.value(&found) } else { print_reloaded(&found, "would change", output) }
        }
        ConfigCommand::Reload(ReloadArguments { force }) => {
            let path = format!("/api/v1/config/reload?force={force}");
            let done: Changed<Reloaded> = broker.json(Method::POST, &path, None).await?;
            if output.json {
                return output.value(&done);
            }
            print_reloaded(&done.now, "changed", output)?;
            print_revoked(done.revoked, output)
        }
    }
}

fn print_settings(shown: &ConfigSettings, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(shown);
    }
    let columns = ["KEY", "VALUE", "SET BY", "CHANGES WITH"].map(Column::Left);
    let rows = shown.settings.iter().map(|setting| {
        let with = if setting.needs_restart { "restart" } else { "reload" };
        [setting.key.clone(), setting.value.to_string(), setting.source.clone(), with.to_owned()]
    });
    print(output, columns, rows)
}

fn print_reloaded(reloaded: &Reloaded, changed: &str, output: &mut Output) -> Result<(), CtlError> {
    if reloaded.changed.is_empty() && reloaded.needs_restart.is_empty() && reloaded.left.is_empty() {
        return output.line(&printable(&format!("{} has what is in force", reloaded.file)));
    }
    for key in &reloaded.changed {
        output.line(&printable(&format!("{changed}  {}", key.line())))?;
    }
    for key in &reloaded.needs_restart {
        output.line(&printable(&format!("needs a restart  {}", key.line())))?;
    }
    for sentence in &reloaded.left {
        output.line(&printable(&format!("left  {sentence}")))?;
    }
    Ok(())
}
