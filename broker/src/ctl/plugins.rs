//! `grapnel-ctl plugins`.

pub(super) mod print;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::authz::print_revoked;
use super::connection::{Broker, encoded};
use super::output::Output;
use super::printable::printable;
use super::{CtlError, follows, plugin_config};
use crate::control::wire::Changed;
use crate::plugin::check;
use crate::plugin::{ByHand, Configured, PluginInfo, Unloaded};

/// Commands about plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginsCommand {
    /// List plugins: loaded, failed, and retired ones whose code is still mapped
    List,
    /// List the commands that plugins add to grapnel-ctl
    Verbs,
    /// Show the details of a plugin, with its hooks
    Show {
        /// Its name
        name: String,
    },
    /// Load a plugin while clients are connected; without --config it gets its configuration from
    /// the broker's configuration file
    Load(LoadCommand),
    /// Remove a plugin from every chain and unload it
    Unload {
        /// Its name
        name: String,
        #[command(flatten)]
        force: Force,
    },
    /// Load a plugin's file again, without an interruption for clients
    Reload {
        /// Its name
        name: String,
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Call a plugin again that was tripped because it failed too often
    Rearm {
        /// Its name
        name: String,
    },
    /// Check a plugin's file, and a configuration for it, without a broker
    Check(CheckCommand),
    /// Change the configuration of a running plugin; --set alone changes single values of the
    /// current one
    Configure {
        /// Its name
        name: String,
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Remove a plugin from every chain and keep it loaded, also after a restart
    Disable {
        /// Its name
        name: String,
        #[command(flatten)]
        force: Force,
    },
    /// Add a disabled plugin to the chains again
    Enable {
        /// Its name
        name: String,
    },
}

/// Whether to force a change.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Force {
    /// Also if no plugin is left that decides who may connect or what clients may do, although
    /// other machines can reach the broker
    #[arg(long)]
    pub force: bool,
}

impl Force {
    /// The query string for it.
    fn query(self) -> &'static str {
        if self.force { "?force=true" } else { "" }
    }
}

/// The plugin to load.
#[derive(Debug, Args)]
pub(super) struct LoadCommand {
    /// Name of a plugin in the broker's plugins.dir, or path of a .so
    #[arg(value_name = "NAME|PATH")]
    source: String,
    #[command(flatten)]
    config: ConfigArguments,
    /// Name to use instead of the plugin's own name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Priority of all its hooks; higher runs earlier
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Do not load it again when the broker restarts
    #[arg(long)]
    once: bool,
    /// Do not start the broker again without it
    #[arg(long, conflicts_with = "once")]
    required: bool,
}

/// The file to check.
#[derive(Debug, Args)]
pub(super) struct CheckCommand {
    /// Path of a .so
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArguments,
}

/// The plugin's own configuration.
#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    /// Its configuration: a file of TOML or JSON, or one of `key = value` lines that ends in .conf
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One value of its configuration, in place of the file's; a.b=1 sets b in the table a
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArguments {
    /// The configuration that is given; `None` if none is.
    fn read(&self) -> Result<Option<Value>, CtlError> {
        plugin_config::read(self.config.as_deref(), &self.set)
    }
}

pub(super) async fn run(
    broker: &Broker,
    command: PluginsCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    match command {
        PluginsCommand::List => print::print_list(&broker.get("/api/v1/plugins").await?, output),
        PluginsCommand::Verbs => super::verbs::list(broker, output).await,
        PluginsCommand::Show { name } => {
            let plugin = broker.get(&format!("/api/v1/plugins/{}", encoded(&name))).await?;
            print::print_one(&plugin, output)
        }
        PluginsCommand::Load(command) => load(broker, command, output).await,
        PluginsCommand::Unload { name, force } => unload(broker, &name, force, output).await,
        PluginsCommand::Reload { name, force, config } => reload(broker, &name, force, &config, output).await,
        PluginsCommand::Rearm { name } => rearm(broker, &name, output).await,
        PluginsCommand::Configure { name, force, config } => {
            configure(broker, &name, force, &config, output).await
        }
        // Handled without a broker.
        PluginsCommand::Check(_) => Ok(()),
        PluginsCommand::Disable { name, force } => switch(broker, &name, "disable", force, output).await,
        PluginsCommand::Enable { name } => switch(broker, &name, "enable", Force::default(), output).await,
    }
}

async fn load(broker: &Broker, command: LoadCommand, output: &mut Output) -> Result<(), CtlError> {
    let config = command.config.read()?;
    let body = json!({
        "source": absolute(&command.source),
        "name": command.name,
        "config": config,
        // Without a whole configuration, the given values go over those of the broker's
        // configuration file.
        "merge": command.config.config.is_none(),
        "priority": command.priority,
        "once": command.once,
        "required": command.required,
    });
    let done: Changed<ByHand> = broker.json(Method::POST, "/api/v1/plugins", Some(&body)).await?;
    if output.json {
        return output.value(&done);
    }
    print::print_loaded(done, command.config.set.is_empty(), output)
}

async fn unload(broker: &Broker, name: &str, force: Force, output: &mut Output) -> Result<(), CtlError> {
    follows::say(broker, name, None, output).await?;
    let path = format!("/api/v1/plugins/{}{}", encoded(name), force.query());
    let done: Changed<Unloaded> = broker.json(Method::DELETE, &path, None).await?;
    if output.json {
        return output.value(&done);
    }
    print::print_unloaded(&done.now, done.revoked, output)
}

async fn reload(
    broker: &Broker,
    name: &str,
    force: Force,
    config: &ConfigArguments,
    output: &mut Output,
) -> Result<(), CtlError> {
    let path = format!("/api/v1/plugins/{}/reload{}", encoded(name), force.query());
    let body = json!({ "config": config.read()? });
    let info = broker.json(Method::POST, &path, Some(&body)).await?;
    print::print_done("reloaded", &info, output)
}

async fn rearm(broker: &Broker, name: &str, output: &mut Output) -> Result<(), CtlError> {
    let path = format!("/api/v1/plugins/{}/rearm", encoded(name));
    let info: Changed<PluginInfo> = broker.json(Method::POST, &path, None).await?;
    if output.json {
        return output.value(&info);
    }
    output.line(&format!("plugin {} is armed", printable(&info.now.name)))?;
    print_revoked(info.revoked, output)
}

async fn configure(
    broker: &Broker,
    name: &str,
    force: Force,
    config: &ConfigArguments,
    output: &mut Output,
) -> Result<(), CtlError> {
    let merge = config.config.is_none();
    let Some(config) = config.read()? else {
        return Err(CtlError::Usage("say what to change: --set KEY=VALUE or --config FILE".to_owned()));
    };
    let path = format!("/api/v1/plugins/{}/configure{}", encoded(name), force.query());
    let body = json!({ "config": config, "merge": merge });
    let done: Changed<Configured> = broker.json(Method::POST, &path, Some(&body)).await?;
    if output.json {
        return output.value(&done);
    }
    let Changed { now: Configured { reloaded, plugin }, revoked, follows } = done;
    let what = if reloaded { "reloaded with its new configuration" } else { "configured" };
    print::print_done(what, &Changed { now: plugin, revoked, follows }, output)
}

/// `plugins check`: prints a description of the file. Returns an error if the broker would not load
/// it.
pub(super) fn check(command: &CheckCommand, timeout: Duration, output: &mut Output) -> Result<(), CtlError> {
    let config = command.config.read()?;
    let checked = check::check(&command.file, None, config.as_ref(), timeout)
        .map_err(|error| CtlError::Refused(format!("cannot check {}: {error}", command.file.display())))?;
    print::print_checked(&checked, output)?;
    checked.error.map_or(Ok(()), |error| Err(CtlError::Refused(error)))
}

pub(super) async fn switch(
    broker: &Broker,
    name: &str,
    verb: &str,
    force: Force,
    output: &mut Output,
) -> Result<(), CtlError> {
    if verb == "disable" {
        follows::say(broker, name, None, output).await?;
    }
    let path = format!("/api/v1/plugins/{}/{verb}{}", encoded(name), force.query());
    let info = broker.json(Method::POST, &path, None).await?;
    print::print_done(&format!("{verb}d"), &info, output)
}

/// Makes a path absolute, because the broker may run in another folder.
fn absolute(source: &str) -> String {
    if !source.contains('/') && !source.ends_with(".so") {
        return source.to_owned();
    }
    std::path::absolute(Path::new(source))
        .map_or_else(|_| source.to_owned(), |path| path.display().to_string())
}
