//! `grapnel-ctl plugins`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::CtlError;
use super::authz::print_revoked;
use super::connection::{Broker, encoded};
use super::follows;
use super::output::Output;
use super::plugin_config;
use super::printable::printable;
use super::schema;
use super::table::{self, Column, or_dash, since};
use crate::control::wire::Changed;
use crate::plugin::check::{self, Checked};
use crate::plugin::{
    ByHand, Configured, HookInfo, Origin, PluginInfo, PluginList, PluginState, Retired, Unloaded,
};

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

#[allow(clippy::too_many_lines, reason = "one arm for each command")]
pub(super) async fn run(
    broker: &Broker,
    command: PluginsCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    match command {
        PluginsCommand::List => print_list(&broker.get("/api/v1/plugins").await?, output),
        PluginsCommand::Verbs => super::verbs::list(broker, output).await,
        PluginsCommand::Show { name } => {
            print_one(&broker.get(&format!("/api/v1/plugins/{}", encoded(&name))).await?, output)
        }
        PluginsCommand::Load(command) => {
            let config = plugin_config::read(command.config.config.as_deref(), &command.config.set)?;
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
            print_loaded(done, command.config.set.is_empty(), output)
        }
        PluginsCommand::Unload { name, force } => {
            follows::say(broker, &name, None, output).await?;
            let path = format!("/api/v1/plugins/{}{}", encoded(&name), force.query());
            let done: Changed<Unloaded> = broker.json(Method::DELETE, &path, None).await?;
            if output.json {
                return output.value(&done);
            }
            let Changed { now: done, revoked, .. } = done;
            let name = printable(&done.unloaded);
            output.line(&match done.mapped_bytes / 1024 {
                0 => format!("plugin {name} is unloaded"),
                kib => format!("plugin {name} is unloaded; its code keeps {kib} KiB mapped"),
            })?;
            print_revoked(revoked, output)?;
            match (done.threads_left, done.ends_within_ms) {
                (0, _) => Ok(()),
                (_, Some(left_ms)) => output.line(&format!("{name} {}", ends(left_ms))),
                (left, None) => {
                    output.complain(&format!("{left} of its threads did not end when requested"));
                    Ok(())
                }
            }
        }
        PluginsCommand::Reload { name, force, config } => {
            let config = plugin_config::read(config.config.as_deref(), &config.set)?;
            let path = format!("/api/v1/plugins/{}/reload{}", encoded(&name), force.query());
            let body = json!({ "config": config });
            let info = broker.json(Method::POST, &path, Some(&body)).await?;
            print_done("reloaded", &info, output)
        }
        PluginsCommand::Rearm { name } => {
            let path = format!("/api/v1/plugins/{}/rearm", encoded(&name));
            let info: Changed<PluginInfo> = broker.json(Method::POST, &path, None).await?;
            if output.json {
                return output.value(&info);
            }
            output.line(&format!("plugin {} is armed", printable(&info.now.name)))?;
            print_revoked(info.revoked, output)
        }
        PluginsCommand::Configure { name, force, config } => {
            let merge = config.config.is_none();
            let Some(config) = plugin_config::read(config.config.as_deref(), &config.set)? else {
                return Err(CtlError::Usage(
                    "say what to change: --set KEY=VALUE or --config FILE".to_owned(),
                ));
            };
            let path = format!("/api/v1/plugins/{}/configure{}", encoded(&name), force.query());
            let body = json!({ "config": config, "merge": merge });
            let done: Changed<Configured> = broker.json(Method::POST, &path, Some(&body)).await?;
            if output.json {
                return output.value(&done);
            }
            let Changed { now: Configured { reloaded, plugin }, revoked, follows } = done;
            let what = if reloaded { "reloaded with its new configuration" } else { "configured" };
            print_done(what, &Changed { now: plugin, revoked, follows }, output)
        }
        // Handled without a broker.
        PluginsCommand::Check(_) => Ok(()),
        PluginsCommand::Disable { name, force } => switch(broker, &name, "disable", force, output).await,
        PluginsCommand::Enable { name } => switch(broker, &name, "enable", Force::default(), output).await,
    }
}

/// `plugins check`: prints a description of the file. Returns an error if the broker would not load
/// it.
pub(super) fn check(command: &CheckCommand, timeout: Duration, output: &mut Output) -> Result<(), CtlError> {
    let config = plugin_config::read(command.config.config.as_deref(), &command.config.set)?;
    let checked = check::check(&command.file, None, config.as_ref(), timeout)
        .map_err(|error| CtlError::Refused(format!("cannot check {}: {error}", command.file.display())))?;
    print_checked(&checked, output)?;
    checked.error.map_or(Ok(()), |error| Err(CtlError::Refused(error)))
}

fn print_checked(checked: &Checked, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(checked);
    }
    if checked.name.is_empty() {
        return Ok(());
    }
    let config = match &checked.error {
        _ if checked.config_is_good => "good",
        // The report contains the error.
        Some(_) => "",
        None => "not checked",
    };
    let pairs = [
        ("name", checked.name.clone()),
        ("version", checked.version.clone()),
        ("description", checked.description.clone()),
        ("built with", checked.sdk.clone()),
        ("file", checked.file.display().to_string()),
        ("mapped", format!("{} KiB", checked.mapped_bytes / 1024)),
        ("needs", checked.depends.join(", ")),
        ("configuration", config.to_owned()),
    ];
    table::print_pairs(output, pairs.into_iter().filter(|(_, value)| !value.is_empty()))?;
    if !checked.hooks.is_empty() {
        output.line("")?;
        print_mounts(&checked.hooks, output)?;
    }
    super::verbs::of_file(&checked.name, &checked.verbs, output)?;
    schema::print(checked.config_schema.as_ref(), output)
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
    print_done(&format!("{verb}d"), &info, output)
}

/// Makes a path absolute, because the broker may run in another folder.
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
        if let Some(left_ms) = retired.ends_within_ms {
            output.line(&format!("{name}: generation {generation} {}", ends(left_ms)))?;
            continue;
        }
        let threads = if *threads_left == 1 { "thread has" } else { "threads have" };
        output.line(&format!(
            "{name}: generation {generation} is retired, but {threads_left} of its {threads} not ended"
        ))?;
    }
    Ok(())
}

/// Describes a generation that is in no chain any more and has not ended yet.
fn ends(left_ms: u64) -> String {
    format!("finishes its pending work, for at most {} s", left_ms.div_ceil(1000))
}

fn plugin_row(plugin: &PluginInfo) -> [String; 6] {
    let loaded = !matches!(plugin.state, PluginState::Failed(_));
    [
        plugin.name.clone(),
        or_dash(Some(plugin.version.as_str()).filter(|version| !version.is_empty())),
        if plugin.required { format!("{}, required", state(plugin)) } else { state(plugin).to_owned() },
        plugin.generation.to_string(),
        plugin.hooks.iter().filter(|hook| !hook.unmounted).count().to_string(),
        if loaded { format!("{} ago", since(plugin.loaded_at_ms)) } else { "-".to_owned() },
    ]
}

/// The state in one or two words.
pub(super) fn state(plugin: &PluginInfo) -> &'static str {
    match &plugin.state {
        PluginState::Loaded => origin(plugin.origin),
        PluginState::Tripped(_) => "tripped",
        PluginState::Disabled => "disabled",
        PluginState::Failed(_) => "failed",
    }
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
        PluginState::Disabled => format!("disabled ({})", origin(plugin.origin)),
        PluginState::Failed(reason) => format!("failed: {reason}"),
    };
    let mut pairs = vec![
        ("name", plugin.name.clone()),
        ("state", state),
        (
            "required",
            if plugin.required { "the broker does not start without it".to_owned() } else { String::new() },
        ),
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
        ("needs", plugin.depends.join(", ")),
    ];
    pairs.extend(plugin.warnings.iter().map(|warning| ("warning", warning.clone())));
    table::print_pairs(output, pairs.into_iter().filter(|(_, value)| !value.is_empty()))?;
    if !plugin.hooks.is_empty() {
        output.line("")?;
        print_mounts(&plugin.hooks, output)?;
    }
    schema::print(plugin.config_schema.as_ref(), output)
}

/// Prints the hooks of a plugin with their settings.
fn print_mounts(hooks: &[HookInfo], output: &mut Output) -> Result<(), CtlError> {
    let columns = [
        Column::Left("POINT"),
        Column::Left("HOOK"),
        Column::Right("PRIORITY"),
        Column::Right("DEADLINE"),
        Column::Left("ON A FAULT"),
        Column::Left("TOPICS"),
    ];
    let rows = hooks.iter().map(|hook| {
        [
            hook.point.clone(),
            hook.name.clone(),
            hook.priority.to_string(),
            if hook.deadline_ms == 0 { "-".to_owned() } else { format!("{} ms", hook.deadline_ms) },
            match hook {
                HookInfo { unmounted: true, .. } => "unmounted by the operator".to_owned(),
                HookInfo { deliver: true, .. } => format!("{}, also for deliveries", hook.policy),
                _ => hook.policy.clone(),
            },
            if hook.topics.is_empty() { "all".to_owned() } else { hook.topics.join(" ") },
        ]
    });
    table::print(output, columns, rows)
}

/// Prints a plugin that was just loaded. Also prints where its configuration comes from, unless all
/// of it was given on the command line.
fn print_loaded(done: Changed<ByHand>, alone: bool, output: &mut Output) -> Result<(), CtlError> {
    let Changed { now: ByHand { plugin, configured_at }, revoked, follows } = done;
    let done = Changed { now: plugin, revoked, follows };
    print_done("loaded", &done, output)?;
    let Some(at) = configured_at else { return Ok(()) };
    let with = if alone { "" } else { ", with what --set says" };
    output
        .line(&printable(&format!("its configuration is that of [plugins.{}] at {at}{with}", done.now.name)))
}

fn print_done(what: &str, done: &Changed<PluginInfo>, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(done);
    }
    let Changed { now: plugin, revoked, .. } = done;
    let (out, called): (Vec<&HookInfo>, Vec<&HookInfo>) =
        plugin.hooks.iter().partition(|hook| hook.unmounted);
    let mut points: Vec<&str> = Vec::new();
    for hook in called {
        if !points.contains(&hook.point.as_str()) {
            points.push(&hook.point);
        }
    }
    let hooks = if points.is_empty() { "no hooks".to_owned() } else { points.join(", ") };
    output.line(&printable(&format!("plugin {} {} is {what}: {hooks}", plugin.name, plugin.version)))?;
    for hook in out {
        output.complain(&format!(
            "its hook {} at {} is not called, because the operator has unmounted it; \
             `grapnel-ctl hooks mount {} {} {}` puts it in again",
            hook.name, hook.point, plugin.name, hook.point, hook.name
        ));
    }
    print_revoked(*revoked, output)?;
    for warning in &plugin.warnings {
        output.complain(warning);
    }
    Ok(())
}
