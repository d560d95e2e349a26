//! `exhook drivers enable` and `disable`. A driver is a plugin of its own, or some hooks of a
//! plugin.

use super::super::CtlError;
use super::super::connection::Broker;
use super::super::output::Output;
use super::super::plugins::Force;
use super::{DriverRow, exhooks, is_of, loaded};
use crate::config::HookOverride;
use crate::control::wire::Changed;
use crate::plugin::{HookChange, HookInfo, HookRow, PluginList, PluginState};

/// The driver that goes by this name, or `PLUGIN/DRIVER`; all of a plugin where it is a plugin's name.
pub(super) fn chosen<'a>(rows: &'a [DriverRow], name: &str) -> Result<Vec<&'a DriverRow>, CtlError> {
    if rows.is_empty() {
        return Err(CtlError::Refused("exhook is not loaded".to_owned()));
    }
    let of_plugin: Vec<_> = rows.iter().filter(|row| row.plugin == name).collect();
    if !of_plugin.is_empty() {
        return Ok(of_plugin);
    }
    let is_it = |row: &&DriverRow| row.driver == name || format!("{}/{}", row.plugin, row.driver) == name;
    let mine: Vec<_> = rows.iter().filter(is_it).collect();
    match mine.as_slice() {
        [_] => Ok(mine),
        [] => Err(CtlError::Refused(format!(
            "no driver {name} is loaded; see `grapnel-ctl exhook drivers list`"
        ))),
        several => {
            let names: Vec<_> = several.iter().map(|row| format!("{}/{name}", row.plugin)).collect();
            let plugins: Vec<_> = several.iter().map(|row| row.plugin.as_str()).collect();
            Err(CtlError::Usage(format!(
                "the plugins {} all run {name}; name one of them, or {}",
                plugins.join(", "),
                names.join(", ")
            )))
        }
    }
}

/// Disables drivers, or enables them, whatever had disabled them: the plugin as a whole, or its hooks.
pub(super) async fn switch(
    broker: &Broker,
    name: &str,
    verb: &str,
    force: Force,
    output: &mut Output,
) -> Result<(), CtlError> {
    let list: PluginList = broker.get("/api/v1/plugins").await?;
    let rows = loaded(broker, &list).await?;
    let mine = chosen(&rows, name)?;
    let Some(plugin) = exhooks(&list).find(|plugin| mine.iter().any(|row| row.plugin == plugin.name)) else {
        return Err(CtlError::Refused(format!("plugin {name} is loaded no longer")));
    };
    let all = rows.iter().filter(|row| row.plugin == plugin.name).count();
    let hooks = |row: &DriverRow, out: bool| -> Vec<String> {
        let of_it = plugin.hooks.iter().filter(|hook| is_of(&hook.name, &row.driver, all == 1));
        let keys = of_it.filter(|hook| !out || hook.unmounted);
        keys.map(HookInfo::key).collect()
    };
    if verb == "disable" {
        if mine.len() == all {
            return crate::ctl::plugins::switch(broker, &plugin.name, verb, force, output).await;
        }
        // The others of the plugin go on.
        for row in mine {
            let keys = hooks(row, false);
            crate::ctl::follows::say(broker, &plugin.name, Some(&keys), output).await?;
            let done = mount(broker, &plugin.name, &keys, (false, force.force)).await?;
            print_switched(row, &keys, verb, &done, output)?;
        }
        return Ok(());
    }
    let whole = plugin.state == PluginState::Disabled || mine.len() == all;
    for row in mine {
        let keys = hooks(row, true);
        let done = mount(broker, &plugin.name, &keys, (true, false)).await?;
        if !whole {
            print_switched(row, &hooks(row, false), verb, &done, output)?;
        }
    }
    if whole { crate::ctl::plugins::switch(broker, &plugin.name, verb, force, output).await } else { Ok(()) }
}

/// Takes hooks of a plugin out of their chains in one change, or puts them in again; nothing where there are none.
async fn mount(
    broker: &Broker,
    plugin: &str,
    keys: &[String],
    (mounted, force): (bool, bool),
) -> Result<Changed<HookRow>, CtlError> {
    let Some((first, also)) = keys.split_first() else { return Ok(Changed::default()) };
    let (point, hook) = first.split_once('/').unwrap_or((first, ""));
    let change = HookChange {
        plugin: plugin.to_owned(),
        point: point.to_owned(),
        hook: hook.to_owned(),
        also: also.to_vec(),
        clear: false,
        change: HookOverride { mounted: Some(mounted), ..HookOverride::default() },
        force,
    };
    crate::ctl::hooks::apply(broker, change).await
}

fn print_switched(
    row: &DriverRow,
    keys: &[String],
    verb: &str,
    done: &Changed<HookRow>,
    output: &mut Output,
) -> Result<(), CtlError> {
    if output.json {
        return output.value(done);
    }
    let points: Vec<_> = keys.iter().filter_map(|key| key.split_once('/')).map(|(point, _)| point).collect();
    let DriverRow { driver, plugin, .. } = row;
    output.line(&format!("driver {driver} of plugin {plugin} is {verb}d: {}", points.join(", ")))?;
    crate::ctl::authz::print_revoked(done.revoked, output)
}
