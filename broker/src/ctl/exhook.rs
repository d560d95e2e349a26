//! `grapnel-ctl exhook drivers`: the workers of the plugin exhook, from its metrics and the list of
//! plugins.

mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::CtlError;
use super::connection::Broker;
use super::output::Output;
use super::plugins::Force;
use super::table::{self, Column};
use crate::control::wire::{Metric, Metrics};
use crate::plugin::{PluginInfo, PluginList};

/// What to do with exhook.
#[derive(Debug, Subcommand)]
pub(super) enum ExhookCommand {
    /// Its drivers, which run hooks in other languages
    #[command(subcommand)]
    Drivers(DriversCommand),
}

/// What to do with drivers.
#[derive(Debug, Subcommand)]
pub(super) enum DriversCommand {
    /// The drivers that are loaded
    List,
    /// Call the hooks of a driver again
    Enable(Driver),
    /// Do not call the hooks of a driver until it is enabled
    Disable(DisableCommand),
    /// What each worker has done, and how long its answers took
    Stats(StatsCommand),
}

/// Which driver.
#[derive(Debug, Args)]
pub(super) struct Driver {
    /// Its name, as `exhook drivers list` shows it, or PLUGIN/DRIVER; all drivers of a plugin where it is a plugin's
    driver: String,
}

/// Which driver to disable.
#[derive(Debug, Args)]
pub(super) struct DisableCommand {
    #[command(flatten)]
    driver: Driver,
    #[command(flatten)]
    force: Force,
}

/// How to measure.
#[derive(Debug, Args)]
pub(super) struct StatsCommand {
    /// Seconds over which the rate is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// A driver that is loaded.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct DriverRow {
    driver: String,
    plugin: String,
    state: String,
    workers: usize,
    calls: i64,
}

/// What a worker has done.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct WorkerRow {
    plugin: String,
    driver: String,
    worker: u32,
    calls: i64,
    /// Calls a second, over the interval.
    rate: i64,
    /// Microseconds that half of the answers took at most; `None` where there were none.
    p50_us: Option<i64>,
    /// And 99 of 100.
    p99_us: Option<i64>,
    failed: i64,
    timeouts: i64,
    /// Notifications that were dropped, those among them whose client had no room left, or whose address, and questions that found
    /// no room.
    dropped: i64,
    dropped_client: i64,
    dropped_address: i64,
    refused: i64,
    restarts: i64,
    /// Commands that were not done.
    commands_failed: i64,
    queue: i64,
    queue_bytes: i64,
}

pub(super) async fn run(
    broker: &Broker,
    command: ExhookCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    let ExhookCommand::Drivers(command) = command;
    match command {
        DriversCommand::List => {
            let list: PluginList = broker.get("/api/v1/plugins").await?;
            print_drivers(&loaded(broker, &list).await?, output)
        }
        DriversCommand::Enable(driver) => {
            switch::switch(broker, &driver.driver, "enable", Force::default(), output).await
        }
        DriversCommand::Disable(DisableCommand { driver, force }) => {
            switch::switch(broker, &driver.driver, "disable", force, output).await
        }
        DriversCommand::Stats(StatsCommand { interval }) => {
            let list: PluginList = broker.get("/api/v1/plugins").await?;
            let before: Metrics = broker.get("/api/v1/metrics").await?;
            tokio::time::sleep(Duration::from_secs(interval)).await;
            let after: Metrics = broker.get("/api/v1/metrics").await?;
            let rows = rated(&workers(&list, &before.metrics), workers(&list, &after.metrics), interval);
            print_workers(&rows, output)
        }
    }
}

/// The plugins that are exhook, under whatever name.
fn exhooks(list: &PluginList) -> impl Iterator<Item = &PluginInfo> {
    list.plugins.iter().filter(|plugin| {
        let file = plugin.file.as_ref().and_then(|file| file.file_stem());
        file.is_some_and(|stem| stem.to_string_lossy().trim_start_matches("libgrapnel_") == "exhook")
    })
}

/// Upper bounds of a histogram with what is counted up to each.
type Buckets = Vec<(i64, i64)>;

/// What the metrics say of workers: `plugin_NAME_worker_DRIVER_INDEX_WHAT`.
fn workers(list: &PluginList, metrics: &[Metric]) -> Vec<WorkerRow> {
    let mut rows = Vec::new();
    for plugin in exhooks(list) {
        let prefix = format!("plugin_{}_worker_", plugin.name.replace('-', "_"));
        let mut found: BTreeMap<(String, u32), (WorkerRow, Buckets)> = BTreeMap::new();
        let mut loaded = BTreeSet::new();
        for metric in metrics {
            let Some((driver, index, what)) = metric.name.strip_prefix(&prefix).and_then(parts) else {
                continue;
            };
            let (row, buckets) = found.entry((driver.to_owned(), index)).or_default();
            match what {
                "calls" => row.calls = metric.value,
                "failed" => row.failed = metric.value,
                "timeouts" => row.timeouts = metric.value,
                "dropped" => row.dropped = metric.value,
                "dropped_client" => row.dropped_client = metric.value,
                "dropped_address" => row.dropped_address = metric.value,
                "commands_failed" => row.commands_failed = metric.value,
                "refused" => row.refused = metric.value,
                "restarts" => row.restarts = metric.value,
                "queue" => row.queue = metric.value,
                "queue_bytes" => row.queue_bytes = metric.value,
                "loaded" => {
                    loaded.extend((metric.value > 0).then(|| (driver.to_owned(), index)));
                }
                what => buckets.extend(bound(what).map(|bound| (bound, metric.value))),
            }
        }
        // What a version before this one had is measured no longer.
        found.retain(|worker, _| loaded.contains(worker));
        rows.extend(found.into_iter().map(|((driver, worker), (row, buckets))| WorkerRow {
            plugin: plugin.name.clone(),
            driver,
            worker,
            p50_us: quantile(&buckets, 50),
            p99_us: quantile(&buckets, 99),
            ..row
        }));
    }
    rows
}

/// Driver, number and what is measured, of the end of a metric's name.
fn parts(name: &str) -> Option<(&str, u32, &str)> {
    let (driver, rest) = name.split_once('_')?;
    let (index, what) = rest.split_once('_')?;
    Some((driver, index.parse().ok()?, what))
}

/// The upper bound of a bucket of the times of answers.
fn bound(what: &str) -> Option<i64> {
    let bound = what.strip_prefix("answer_us_bucket{le=\"")?.strip_suffix("\"}")?;
    if bound == "+Inf" { Some(i64::MAX) } else { bound.parse().ok() }
}

/// The bound below which so many of a hundred are, of buckets that each count what the ones before do.
fn quantile(buckets: &[(i64, i64)], percent: i64) -> Option<i64> {
    let all = buckets.iter().map(|(_, count)| *count).max().filter(|all| *all > 0)?;
    let mut buckets = buckets.to_vec();
    buckets.sort_unstable();
    buckets.iter().find(|(_, count)| count * 100 >= all * percent).map(|(bound, _)| *bound)
}

fn rated(before: &[WorkerRow], after: Vec<WorkerRow>, interval: u64) -> Vec<WorkerRow> {
    let same = |row: &WorkerRow| {
        before
            .iter()
            .find(|old| (&old.plugin, &old.driver, old.worker) == (&row.plugin, &row.driver, row.worker))
    };
    let seconds = i64::try_from(interval).unwrap_or(1).max(1);
    let rate = |row: &WorkerRow| same(row).map_or(0, |old| (row.calls - old.calls).max(0) / seconds);
    after.into_iter().map(|row| WorkerRow { rate: rate(&row), ..row }).collect()
}

/// The drivers that are loaded.
async fn loaded(broker: &Broker, list: &PluginList) -> Result<Vec<DriverRow>, CtlError> {
    let metrics: Metrics = broker.get("/api/v1/metrics").await?;
    Ok(drivers(list, &workers(list, &metrics.metrics)))
}

fn drivers(list: &PluginList, workers: &[WorkerRow]) -> Vec<DriverRow> {
    let mut rows = Vec::new();
    for plugin in exhooks(list) {
        let mine = workers.iter().filter(|row| row.plugin == plugin.name);
        let mut names: Vec<_> = mine.clone().map(|row| row.driver.as_str()).collect();
        names.dedup();
        let one = names.len() < 2;
        if names.is_empty() {
            names.push("");
        }
        for driver in names {
            let of_it = || plugin.hooks.iter().filter(|hook| is_of(&hook.name, driver, one));
            let all_out = of_it().count() > 0 && of_it().all(|hook| hook.unmounted);
            let mine = mine.clone().filter(|row| row.driver == driver);
            rows.push(DriverRow {
                driver: driver.to_owned(),
                plugin: plugin.name.clone(),
                state: if all_out { "disabled" } else { super::plugins::state(plugin) }.to_owned(),
                workers: mine.clone().count(),
                calls: mine.map(|row| row.calls).sum(),
            });
        }
    }
    rows
}

/// Whether a hook of a plugin is that of a driver. Where the plugin runs several, the names say so.
fn is_of(hook: &str, driver: &str, alone: bool) -> bool {
    alone || hook.starts_with("java_") == (driver == "java")
}

fn print_drivers(rows: &[DriverRow], output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(&rows);
    }
    if rows.is_empty() {
        return output.line("exhook is not loaded");
    }
    let columns = [
        Column::Left("DRIVER"),
        Column::Left("PLUGIN"),
        Column::Left("STATE"),
        Column::Right("WORKERS"),
        Column::Right("CALLS"),
    ];
    let row = |row: &DriverRow| {
        let driver = if row.driver.is_empty() { "-" } else { &row.driver };
        [
            driver.to_owned(),
            row.plugin.clone(),
            row.state.clone(),
            row.workers.to_string(),
            row.calls.to_string(),
        ]
    };
    table::print(output, columns, rows.iter().map(row))
}

fn print_workers(rows: &[WorkerRow], output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(&rows);
    }
    if rows.is_empty() {
        return output.line("exhook is not loaded, or has no workers");
    }
    let columns = [
        Column::Left("PLUGIN"),
        Column::Left("WORKER"),
        Column::Right("CALLS"),
        Column::Right("PER S"),
        Column::Right("P50 µs"),
        Column::Right("P99 µs"),
        Column::Right("FAILED"),
        Column::Right("TIMEOUTS"),
        Column::Right("REFUSED"),
        Column::Right("DROPPED"),
        Column::Right("RESTARTS"),
        Column::Right("QUEUE"),
        Column::Right("BYTES"),
    ];
    let time = |us: Option<i64>| match us {
        None => "-".to_owned(),
        Some(i64::MAX) => ">5000000".to_owned(),
        Some(us) => format!("≤{us}"),
    };
    let row = |row: &WorkerRow| {
        [
            row.plugin.clone(),
            format!("{}/{}", row.driver, row.worker),
            row.calls.to_string(),
            row.rate.to_string(),
            time(row.p50_us),
            time(row.p99_us),
            row.failed.to_string(),
            row.timeouts.to_string(),
            row.refused.to_string(),
            row.dropped.to_string(),
            row.restarts.to_string(),
            row.queue.to_string(),
            row.queue_bytes.to_string(),
        ]
    };
    table::print(output, columns, rows.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::HookInfo;

    fn metric(name: &str, value: i64) -> Metric {
        Metric { name: name.to_owned(), value, shards: Vec::new(), gauge: false, help: String::new() }
    }

    fn plugin(name: &str, file: &str) -> PluginInfo {
        PluginInfo {
            name: name.to_owned(),
            state: crate::plugin::PluginState::Loaded,
            version: String::new(),
            description: String::new(),
            sdk: String::new(),
            file: Some(file.into()),
            origin: crate::plugin::Origin::Once,
            generation: 1,
            priority: None,
            hooks: Vec::new(),
            depends: Vec::new(),
            config_schema: None,
            closable: false,
            mapped_bytes: 0,
            loaded_at_ms: 0,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn two_drivers_of_one_plugin_are_two_rows_with_states_of_their_own() {
        let hook =
            |name: &str, unmounted| HookInfo { name: name.to_owned(), unmounted, ..HookInfo::default() };
        let mut exhook = plugin("exhook", "/p/libgrapnel_exhook.so");
        exhook.hooks = vec![hook("client_connect", false), hook("java_client_connect", true)];
        let list = PluginList { plugins: vec![exhook], ..PluginList::default() };
        let metrics = [
            metric("plugin_exhook_worker_java_0_calls", 2),
            metric("plugin_exhook_worker_java_0_loaded", 1),
            metric("plugin_exhook_worker_python3_0_calls", 3),
            metric("plugin_exhook_worker_python3_0_loaded", 1),
        ];
        let rows = drivers(&list, &workers(&list, &metrics));
        let seen: Vec<_> =
            rows.iter().map(|row| (row.driver.as_str(), row.state.as_str(), row.calls)).collect();
        assert_eq!(seen, [("java", "disabled", 2), ("python3", "loaded once", 3)]);
    }

    #[test]
    fn drivers_go_by_their_names_and_by_those_of_their_plugins() {
        let row = |plugin: &str, driver: &str| DriverRow {
            driver: driver.to_owned(),
            plugin: plugin.to_owned(),
            state: String::new(),
            workers: 1,
            calls: 0,
        };
        let rows = [row("one", "python3"), row("one", "java"), row("two", "python3")];
        let found = |name: &str| {
            let found = switch::chosen(&rows, name).map_err(|error| error.to_string())?;
            Ok(found.iter().map(|row| format!("{}/{}", row.plugin, row.driver)).collect::<Vec<_>>())
        };
        assert_eq!(found("java"), Ok(vec!["one/java".to_owned()]));
        assert_eq!(found("one"), Ok(vec!["one/python3".to_owned(), "one/java".to_owned()]));
        assert_eq!(found("two/python3"), Ok(vec!["two/python3".to_owned()]));
        let several = "the plugins one, two all run python3; name one of them, or one/python3, two/python3";
        assert_eq!(found("python3"), Err(several.to_owned()));
        assert!(found("ruby").is_err_and(|said| said.starts_with("no driver ruby is loaded")));
        let none = switch::chosen(&[], "java").map_err(|error| error.to_string());
        assert_eq!(none.unwrap_err(), "exhook is not loaded");
    }

    #[test]
    fn the_figures_of_each_worker_are_found_under_the_name_of_its_plugin() {
        let list = PluginList {
            plugins: vec![
                plugin("my-hooks", "/p/libgrapnel_exhook.so"),
                plugin("tap", "/p/libgrapnel_tap.so"),
            ],
            ..PluginList::default()
        };
        let metrics = [
            metric("plugin_my_hooks_worker_python3_0_calls", 7),
            metric("plugin_my_hooks_worker_python3_0_loaded", 1),
            metric("plugin_my_hooks_worker_python3_1_loaded", 2),
            metric("plugin_my_hooks_worker_python3_2_loaded", 0),
            metric("plugin_my_hooks_worker_python3_2_calls", 3),
            metric("plugin_my_hooks_worker_python3_1_calls", 5),
            metric("plugin_my_hooks_worker_python3_1_restarts", 2),
            metric("plugin_my_hooks_worker_python3_1_answer_us_bucket{le=\"100\"}", 50),
            metric("plugin_my_hooks_worker_python3_1_answer_us_bucket{le=\"300\"}", 98),
            metric("plugin_my_hooks_worker_python3_1_answer_us_bucket{le=\"+Inf\"}", 100),
            metric("plugin_my_hooks_worker_python3_1_answer_us_count", 100),
            metric("plugin_tap_worker_python3_0_calls", 9),
        ];
        let rows = workers(&list, &metrics);
        let figures: Vec<_> = rows.iter().map(|row| (row.worker, row.calls, row.restarts)).collect();
        assert_eq!(figures, [(0, 7, 0), (1, 5, 2)]);
        assert_eq!((rows[0].p50_us, rows[1].p50_us, rows[1].p99_us), (None, Some(100), Some(i64::MAX)));
        let drivers = drivers(&list, &rows);
        assert_eq!((drivers.len(), drivers[0].workers, drivers[0].calls), (1, 2, 12));
        let later = [("calls", 27), ("loaded", 1)]
            .map(|(what, value)| metric(&format!("plugin_my_hooks_worker_python3_0_{what}"), value));
        let later = workers(&list, &later);
        assert_eq!(rated(&rows, later, 2)[0].rate, 10);
    }
}
