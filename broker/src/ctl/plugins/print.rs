//! What `grapnel-ctl plugins` prints.

use crate::control::wire::{Changed, Revoked};
use crate::ctl::CtlError;
use crate::ctl::authz::print_revoked;
use crate::ctl::output::Output;
use crate::ctl::printable::printable;
use crate::ctl::schema;
use crate::ctl::table::{self, Column, or_dash, since};
use crate::plugin::check::Checked;
use crate::plugin::{ByHand, HookInfo, Origin, PluginInfo, PluginList, PluginState, Retired, Unloaded};

pub(in crate::ctl) fn print_list(list: &PluginList, output: &mut Output) -> Result<(), CtlError> {
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
fn state(plugin: &PluginInfo) -> &'static str {
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

pub(in crate::ctl) fn print_one(plugin: &PluginInfo, output: &mut Output) -> Result<(), CtlError> {
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

pub(super) fn print_checked(checked: &Checked, output: &mut Output) -> Result<(), CtlError> {
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
    crate::ctl::verbs::of_file(&checked.name, &checked.verbs, output)?;
    schema::print(checked.config_schema.as_ref(), output)
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
pub(super) fn print_loaded(done: Changed<ByHand>, alone: bool, output: &mut Output) -> Result<(), CtlError> {
    let Changed { now: ByHand { plugin, configured_at }, revoked, follows } = done;
    let done = Changed { now: plugin, revoked, follows };
    print_done("loaded", &done, output)?;
    let Some(at) = configured_at else { return Ok(()) };
    let with = if alone { "" } else { ", with what --set says" };
    output
        .line(&printable(&format!("its configuration is that of [plugins.{}] at {at}{with}", done.now.name)))
}

/// Prints a plugin that was just unloaded, and what of it has not ended.
pub(super) fn print_unloaded(done: &Unloaded, revoked: Revoked, output: &mut Output) -> Result<(), CtlError> {
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

/// Describes a generation that is in no chain any more and has not ended yet.
fn ends(left_ms: u64) -> String {
    format!("finishes its pending work, for at most {} s", left_ms.div_ceil(1000))
}

pub(super) fn print_done(
    what: &str,
    done: &Changed<PluginInfo>,
    output: &mut Output,
) -> Result<(), CtlError> {
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
