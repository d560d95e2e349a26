//! `grapnel-ctl plugins`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::CtlError;
use super::connection::{Broker, encoded};
use super::output::Output;
use super::plugin_config;
use super::table::{self, Column, or_dash, printable, since};
use crate::control::wire::Unloaded;
use crate::plugin::{Origin, PluginInfo, PluginList, PluginState, Retired};

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginsCommand {
    /// All of them: loaded, failed, and retired ones whose code is still mapped
    List,
    /// Everything about one, with its hooks
    Show {
        /// Its name
        name: String,
    },
    /// Load one while clients are connected
    Load(LoadCommand),
    /// Take one out of every chain
    Unload {
        /// Its name
        name: String,
    },
    /// Read one's file again; no client notices
    Reload {
        /// Its name
        name: String,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Call one again that was tripped because it failed too often
    Rearm {
        /// Its name
        name: String,
    },
}

/// What to load, and how.
#[derive(Debug, Args)]
pub(super) struct LoadCommand {
    /// Name, looked up in the broker's plugins.dir, or path of a .so
    #[arg(value_name = "NAME|PATH")]
    source: String,
    #[command(flatten)]
    config: ConfigArguments,
    /// Name it shall go by here instead of its own
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Priority of all its hooks; higher runs earlier
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Do not load it again when the broker restarts
    #[arg(long)]
    once: bool,
}

/// The plugin's own configuration.
#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    /// Its configuration: a file of TOML or JSON
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One value of its configuration, over the file's; a.b=1 sets b in the table a
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub(super) async fn run(
    broker: &Broker,
    command: PluginsCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    match command {
        PluginsCommand::List => print_list(&broker.get("/api/v1/plugins").await?, output),
        PluginsCommand::Show { name } => {
            print_one(&broker.get(&format!("/api/v1/plugins/{}", encoded(&name))).await?, output)
        }
        PluginsCommand::Load(command) => {
            let config = plugin_config::read(command.config.config.as_deref(), &command.config.set)?;
            let body = json!({
                "source": absolute(&command.source),
                "name": command.name,
                "config": config,
                "priority": command.priority,
                "once": command.once,
            });
            let info: PluginInfo = broker.json(Method::POST, "/api/v1/plugins", Some(&body)).await?;
            print_done("loaded", &info, output)
        }
        PluginsCommand::Unload { name } => {
            let path = format!("/api/v1/plugins/{}", encoded(&name));
            let done: Unloaded = broker.json(Method::DELETE, &path, None).await?;
            if output.json {
                return output.value(&done);
            }
            output.line(&format!("plugin {} is unloaded", printable(&done.unloaded)))
        }
        PluginsCommand::Reload { name, config } => {
            let config = plugin_config::read(config.config.as_deref(), &config.set)?;
            let path = format!("/api/v1/plugins/{}/reload", encoded(&name));
            let body = json!({ "config": config });
            let info: PluginInfo = broker.json(Method::POST, &path, Some(&body)).await?;
            print_done("reloaded", &info, output)
        }
        PluginsCommand::Rearm { name } => {
            let path = format!("/api/v1/plugins/{}/rearm", encoded(&name));
            let info: PluginInfo = broker.json(Method::POST, &path, None).await?;
            if output.json {
                return output.value(&info);
            }
            output.line(&format!("plugin {} is armed", printable(&info.name)))
        }
    }
}

/// A path means the same to the broker, wherever that runs.
fn absolute(source: &str) -> String {
    if !source.contains('/') && !source.ends_with(".so") {
        return source.to_owned();
    }
    std::path::absolute(Path::new(source))
        .map_or_else(|_| source.to_owned(), |path| path.display().to_string())
}

pub(super) fn print_list(list: &PluginList, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(list);
    }
    let columns = [
        Column::Left("NAME"),
        Column::Left("VERSION"),
        Column::Left("STATE"),
        Column::Right("GENERATION"),
        Column::Right("HOOKS"),
        Column::Left("LOADED"),
    ];
    if list.plugins.is_empty() {
        output.line("no plugin is loaded")?;
    } else {
        table::print(output, columns, list.plugins.iter().map(plugin_row))?;
    }
    for plugin in &list.plugins {
        if let PluginState::Failed(reason) | PluginState::Tripped(reason) = &plugin.state {
            output.line(&format!("{}: {}", plugin.name, printable(reason)))?;
        }
        for warning in &plugin.warnings {
            output.line(&format!("{}: {}", plugin.name, printable(warning)))?;
        }
    }
    if !list.retired.is_empty() {
        let kib = list.retired.iter().map(|retired| retired.mapped_bytes).sum::<u64>() / 1024;
        output.line(&match list.retired.len() {
            1 => format!("1 retired generation keeps {kib} KiB mapped"),
            count => format!("{count} retired generations keep {kib} KiB mapped"),
        })?;
    }
    for retired in list.retired.iter().filter(|retired| retired.threads_left > 0) {
        let Retired { name, generation, threads_left, .. } = retired;
        let threads = if *threads_left == 1 { "thread has" } else { "threads have" };
        output.line(&format!(
            "{name}: generation {generation} is retired, but {threads_left} of its {threads} not ended"
        ))?;
    }
    Ok(())
}

fn plugin_row(plugin: &PluginInfo) -> [String; 6] {
    let loaded = !matches!(plugin.state, PluginState::Failed(_));
    let state = match &plugin.state {
        PluginState::Loaded => origin(plugin.origin),
        PluginState::Tripped(_) => "tripped",
        PluginState::Failed(_) => "failed",
    };
    [
        plugin.name.clone(),
        or_dash(Some(plugin.version.as_str()).filter(|version| !version.is_empty())),
        state.to_owned(),
        plugin.generation.to_string(),
        plugin.hooks.len().to_string(),
        if loaded { format!("{} ago", since(plugin.loaded_at_ms)) } else { "-".to_owned() },
    ]
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Configured => "configured",
        Origin::Recorded => "loaded",
        Origin::Once => "loaded once",
    }
}

pub(super) fn print_one(plugin: &PluginInfo, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(plugin);
    }
    let state = match &plugin.state {
        PluginState::Loaded => format!("{}, {} ago", origin(plugin.origin), since(plugin.loaded_at_ms)),
        PluginState::Tripped(reason) => format!("tripped: {reason}"),
        PluginState::Failed(reason) => format!("failed: {reason}"),
    };
    let mut pairs = vec![
        ("name", plugin.name.clone()),
        ("state", state),
        ("version", plugin.version.clone()),
        ("description", plugin.description.clone()),
        ("built with", plugin.sdk.clone()),
        ("file", or_dash(plugin.file.as_ref().map(|file| file.display().to_string()).as_deref())),
        ("generation", plugin.generation.to_string()),
        (
            "priority",
            plugin.priority.map_or_else(|| "its hooks' own".to_owned(), |priority| priority.to_string()),
        ),
        ("mapped", format!("{} KiB", plugin.mapped_bytes / 1024)),
    ];
    pairs.extend(plugin.warnings.iter().map(|warning| ("warning", warning.clone())));
    table::print_pairs(output, pairs.into_iter().filter(|(_, value)| !value.is_empty()))?;
    if plugin.hooks.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let columns = [Column::Left("POINT"), Column::Left("HOOK"), Column::Right("PRIORITY")];
    let rows =
        plugin.hooks.iter().map(|hook| [hook.point.clone(), hook.name.clone(), hook.priority.to_string()]);
    table::print(output, columns, rows)
}

fn print_done(what: &str, plugin: &PluginInfo, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(plugin);
    }
    let points: Vec<&str> = plugin.hooks.iter().map(|hook| hook.point.as_str()).collect();
    let hooks = if points.is_empty() { "no hooks".to_owned() } else { points.join(", ") };
    output.line(&printable(&format!("plugin {} {} is {what}: {hooks}", plugin.name, plugin.version)))?;
    for warning in &plugin.warnings {
        output.complain(warning);
    }
    Ok(())
}
