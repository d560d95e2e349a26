//! The verbs of exhook for `grapnel-ctl`: list drivers, show their workers' statistics, enable and
//! disable a driver's hooks. The broker runs them on its threads for such calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::verb::{Answer, Then};
use grapnel_plugin_abi::{HookInfo, PluginInfo, VerbCall, VerbError, Verbs};
use serde::Serialize;

use crate::Exhook;
use crate::stats::Totals;

/// How long a call sleeps between checks whether its caller still waits.
const WAIT_SLICE: Duration = Duration::from_millis(250);

grapnel_plugin_abi::arguments! {
    /// What `drivers list` is given.
    pub(crate) struct List {
        about: PluginInfo,
    }
}

grapnel_plugin_abi::arguments! {
    /// What `drivers stats` is given.
    pub(crate) struct Stats {
        /// Time over which the rate is measured
        interval: Duration { defaults_to: "1s", min: 1_000, max: 3_600_000, extends_deadline: true },
        about: PluginInfo,
    }
}

grapnel_plugin_abi::arguments! {
    /// What `drivers enable` is given.
    pub(crate) struct Enable {
        /// A driver as `drivers list` shows it, or PLUGIN/DRIVER; with the name of a plugin, all of its drivers
        driver: String { listed_in: "drivers list/driver" },
        about: PluginInfo,
    }
}

grapnel_plugin_abi::arguments! {
    /// What `drivers disable` is given.
    pub(crate) struct Disable {
        /// A driver as `drivers list` shows it, or PLUGIN/DRIVER; with the name of a plugin, all of its drivers
        driver: String { listed_in: "drivers list/driver" },
        /// Also if no hook is left that decides who may connect or what clients may do
        force: bool,
        about: PluginInfo,
    }
}

/// A loaded driver.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct DriverRow {
    driver: &'static str,
    plugin: String,
    state: &'static str,
    workers: usize,
    calls: i64,
}

/// The statistics of one worker.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct WorkerRow {
    plugin: String,
    driver: &'static str,
    worker: usize,
    calls: i64,
    /// Calls per second, over the interval.
    rate: i64,
    /// Median time of an answer in microseconds, rounded up to a bucket; `None` without answers.
    p50_us: Option<i64>,
    /// The 99th percentile of the same.
    p99_us: Option<i64>,
    failed: i64,
    timeouts: i64,
    /// Dropped notifications in all, because of the client's limit, because of the address's limit,
    /// and because of the account's limit; and requests without room.
    dropped: i64,
    dropped_client: i64,
    dropped_address: i64,
    dropped_account: i64,
    refused: i64,
    restarts: i64,
    /// Commands that failed.
    commands_failed: i64,
    queue: i64,
    queue_bytes: i64,
}

/// The result of a switch.
#[derive(Serialize)]
struct Switched<'a> {
    plugin: &'a str,
    drivers: Vec<&'static str>,
    state: &'static str,
}

pub(crate) fn verbs() -> Verbs<Exhook> {
    Verbs::new()
        .read("drivers list", "The drivers that are loaded", |plugin, List { about }: List, _| {
            list(&rows(plugin, &about))
        })
        .read("drivers stats", "What each worker has done, and how long its answers took", stats)
        .change("drivers enable", "Call the hooks of a driver again", |plugin, given: Enable, _| {
            let Enable { driver, about } = given;
            enable(&rows(plugin, &about), &about, &driver)
        })
        .change(
            "drivers disable",
            "Do not call the hooks of a driver until it is enabled",
            |plugin, given: Disable, _| {
                let Disable { driver, force, about } = given;
                disable(&rows(plugin, &about), &about, &driver, force)
            },
        )
}

fn rows(plugin: &Arc<Exhook>, about: &PluginInfo) -> Vec<DriverRow> {
    let alone = plugin.pools.len() < 2;
    let row = |pool: &Arc<crate::Pool>| {
        let driver = pool.config.driver.name();
        DriverRow {
            driver,
            plugin: about.name.clone(),
            state: state(about, driver, alone),
            workers: pool.queues.len(),
            calls: pool.queues.iter().map(|queue| queue.stats.totals().calls).sum(),
        }
    };
    let mut rows: Vec<DriverRow> = plugin.pools.iter().map(row).collect();
    rows.sort_by_key(|row| row.driver);
    rows
}

/// The state, in the terms of `plugins list`.
fn state(about: &PluginInfo, driver: &str, alone: bool) -> &'static str {
    let mut hooks = of_driver(about, driver, alone).peekable();
    match (about.state.as_str(), about.origin.as_str()) {
        _ if hooks.peek().is_some() && hooks.all(|hook| hook.unmounted) => "disabled",
        ("disabled", _) => "disabled",
        ("tripped", _) => "tripped",
        (_, "configured") => "configured",
        (_, "once") => "loaded once",
        _ => "loaded",
    }
}

/// The hooks of a driver. If the plugin runs several drivers, the names of the hooks distinguish
/// them.
fn of_driver<'a>(about: &'a PluginInfo, driver: &str, alone: bool) -> impl Iterator<Item = &'a HookInfo> {
    let is_java = driver == "java";
    about.hooks.iter().filter(move |hook| alone || hook.name.starts_with("java_") == is_java)
}

fn list(rows: &[DriverRow]) -> Result<Answer, VerbError> {
    Ok(Answer::rows(rows)?)
}

fn stats(plugin: &Arc<Exhook>, given: Stats, call: &VerbCall<'_>) -> Result<Answer, VerbError> {
    let Stats { interval, about } = given;
    let totals = || -> Vec<Vec<Totals>> {
        let of_pool =
            |pool: &Arc<crate::Pool>| pool.queues.iter().map(|queue| queue.stats.totals()).collect();
        plugin.pools.iter().map(of_pool).collect()
    };
    let before = totals();
    let passed = slept(
        interval,
        |slice| {
            plugin.host.wait_stop(slice).then_some("the plugin was unloaded or reloaded meanwhile; ask again")
        },
        || call.is_awaited(),
    )?;
    let mut workers = Vec::new();
    for ((pool, before), after) in plugin.pools.iter().zip(before).zip(totals()) {
        for (worker, (before, after)) in before.into_iter().zip(after).enumerate() {
            let rate = per_second(after.calls - before.calls, passed);
            workers.push(row(&about.name, pool.config.driver.name(), worker, rate, after));
        }
    }
    workers.sort_by_key(|row| (row.driver, row.worker));
    Ok(table(&workers).value(&workers)?)
}

/// Sleeps in slices. Ends early if the caller no longer waits. Returns the time that has passed.
fn slept(
    interval: Duration,
    sleep: impl Fn(Duration) -> Option<&'static str>,
    is_awaited: impl Fn() -> bool,
) -> Result<Duration, VerbError> {
    let begun = Instant::now();
    loop {
        let passed = begun.elapsed();
        let left = interval.saturating_sub(passed);
        if left.is_zero() {
            return Ok(passed);
        }
        // At least the broker's resolution, so that the last slice is not empty.
        if let Some(said) = sleep(left.clamp(Duration::from_millis(1), WAIT_SLICE)) {
            return Err(VerbError::new(said));
        }
        if !is_awaited() {
            return Err(VerbError::new("nobody waits for the answer any more"));
        }
    }
}

/// Rounded to the nearest whole number.
fn per_second(calls: i64, passed: Duration) -> i64 {
    let ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX).max(1);
    calls.max(0).saturating_mul(1_000).saturating_add(ms / 2) / ms
}

fn row(plugin: &str, driver: &'static str, worker: usize, rate: i64, totals: Totals) -> WorkerRow {
    let Totals {
        calls,
        failed,
        timeouts,
        dropped,
        dropped_client,
        dropped_address,
        dropped_account,
        refused,
        restarts,
        commands_failed,
        queue,
        queue_bytes,
        ref answers,
    } = totals;
    WorkerRow {
        plugin: plugin.to_owned(),
        driver,
        worker,
        calls,
        rate,
        p50_us: quantile(answers, 50),
        p99_us: quantile(answers, 99),
        failed,
        timeouts,
        dropped,
        dropped_client,
        dropped_address,
        dropped_account,
        refused,
        restarts,
        commands_failed,
        queue,
        queue_bytes,
    }
}

/// The upper bound of the bucket with this percentile; buckets are given with their upper bounds.
fn quantile(buckets: &[(i64, i64)], percent: i64) -> Option<i64> {
    let all: i64 = buckets.iter().map(|(_, count)| *count).sum();
    let mut below = 0_i64;
    let mut reached = buckets.iter().filter(|_| all > 0).filter(|(_, count)| {
        below += count;
        below * 100 >= all * percent
    });
    reached.next().map(|(bound, _)| *bound)
}

fn table(workers: &[WorkerRow]) -> Answer {
    if workers.is_empty() {
        return Answer::text("exhook has no workers");
    }
    let columns = [
        "PLUGIN",
        "WORKER",
        ">CALLS",
        ">PER S",
        ">P50 µs",
        ">P99 µs",
        ">FAILED",
        ">TIMEOUTS",
        ">REFUSED",
        ">DROPPED",
        ">RESTARTS",
        ">QUEUE",
        ">BYTES",
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
    Answer::default().table(columns, workers.iter().map(row))
}

/// The driver with this name, or `PLUGIN/DRIVER`; all drivers for the plugin's name.
fn chosen<'a>(rows: &'a [DriverRow], name: &str) -> Result<Vec<&'a DriverRow>, VerbError> {
    let is_it = |row: &&DriverRow| {
        row.plugin == name || row.driver == name || format!("{}/{}", row.plugin, row.driver) == name
    };
    let mine: Vec<_> = rows.iter().filter(is_it).collect();
    if mine.is_empty() {
        let said = format!("no driver {name} is loaded; see `grapnel-ctl exhook drivers list`");
        return Err(VerbError::absent(said));
    }
    Ok(mine)
}

fn disable(rows: &[DriverRow], about: &PluginInfo, name: &str, force: bool) -> Result<Answer, VerbError> {
    let mine = chosen(rows, name)?;
    let answer = switched(about, &mine, rows.len(), "disabled")?;
    if mine.len() == rows.len() {
        return Ok(answer.then(Then::Disable { force }));
    }
    // Other drivers of the plugin continue.
    let hooks = |row: &DriverRow| of_driver(about, row.driver, false).map(HookInfo::key).collect();
    Ok(mine.iter().fold(answer, |answer, row| answer.then(Then::Unmount { hooks: hooks(row), force })))
}

/// Enables the plugin, its hooks, or both, whichever was disabled.
fn enable(rows: &[DriverRow], about: &PluginInfo, name: &str) -> Result<Answer, VerbError> {
    let mine = chosen(rows, name)?;
    let mut answer = switched(about, &mine, rows.len(), "enabled")?;
    for row in &mine {
        let out = of_driver(about, row.driver, rows.len() == 1).filter(|hook| hook.unmounted);
        let hooks: Vec<String> = out.map(HookInfo::key).collect();
        if !hooks.is_empty() {
            answer = answer.then(Then::Mount { hooks });
        }
    }
    let whole = about.state == "disabled" || mine.len() == rows.len();
    Ok(if whole { answer.then(Then::Enable) } else { answer })
}

fn switched(
    about: &PluginInfo,
    mine: &[&DriverRow],
    all: usize,
    state: &'static str,
) -> Result<Answer, VerbError> {
    let plugin = &about.name;
    let line = |row: &&DriverRow| {
        let points: Vec<&str> =
            of_driver(about, row.driver, all == 1).map(|hook| hook.point.as_str()).collect();
        format!("driver {} of plugin {plugin} is {state}: {}\n", row.driver, points.join(", "))
    };
    let text: String = mine.iter().map(line).collect();
    let drivers = mine.iter().map(|row| row.driver).collect();
    Ok(Answer::text(text).value(&Switched { plugin, drivers, state })?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn about(state: &str, hooks: &[(&str, bool)]) -> PluginInfo {
        let hook = |(name, unmounted): &(&str, bool)| HookInfo {
            point: "message.publish".to_owned(),
            name: (*name).to_owned(),
            unmounted: *unmounted,
        };
        PluginInfo {
            name: "hooks".to_owned(),
            state: state.to_owned(),
            origin: "recorded".to_owned(),
            hooks: hooks.iter().map(hook).collect(),
        }
    }

    fn drivers(about: &PluginInfo, names: &[&'static str]) -> Vec<DriverRow> {
        let row = |&driver: &&'static str| DriverRow {
            driver,
            plugin: about.name.clone(),
            state: state(about, driver, names.len() < 2),
            workers: 1,
            calls: 0,
        };
        names.iter().map(row).collect()
    }

    #[test]
    fn two_drivers_of_one_plugin_have_states_of_their_own() {
        let about = about("loaded", &[("publish", false), ("java_publish", true)]);
        let states: Vec<_> = drivers(&about, &["java", "python3"]).iter().map(|row| row.state).collect();
        assert_eq!(states, ["disabled", "loaded"]);
        let tripped = PluginInfo { state: "tripped".to_owned(), ..about };
        assert_eq!(drivers(&tripped, &["python3"])[0].state, "tripped");
    }

    #[test]
    fn drivers_go_by_their_names_and_by_those_of_their_plugin() {
        let about = about("loaded", &[]);
        let rows = drivers(&about, &["java", "python3"]);
        let found = |name: &str| {
            chosen(&rows, name)
                .map(|rows| rows.iter().map(|row| row.driver).collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        assert_eq!(found("java"), Ok(vec!["java"]));
        assert_eq!(found("hooks"), Ok(vec!["java", "python3"]));
        assert_eq!(found("hooks/python3"), Ok(vec!["python3"]));
        assert!(found("ruby").unwrap_err().starts_with("no driver ruby is loaded"));
    }

    #[test]
    fn one_driver_of_two_takes_its_own_hooks_and_all_take_the_plugin() {
        let about = about("loaded", &[("publish", false), ("java_publish", true)]);
        let rows = drivers(&about, &["java", "python3"]);
        let unmount = Then::Unmount { hooks: vec!["message.publish/publish".to_owned()], force: true };
        assert_eq!(disable(&rows, &about, "python3", true).unwrap().then, [unmount]);
        assert_eq!(disable(&rows, &about, "hooks", false).unwrap().then, [Then::Disable { force: false }]);
        let mount = Then::Mount { hooks: vec!["message.publish/java_publish".to_owned()] };
        assert_eq!(enable(&rows, &about, "java").unwrap().then, std::slice::from_ref(&mount));
        assert_eq!(enable(&rows, &about, "hooks").unwrap().then, [mount, Then::Enable]);
        assert!(enable(&rows, &about, "python3").unwrap().then.is_empty());
    }

    #[test]
    fn a_rate_is_of_the_time_that_has_passed() {
        let rates = [(3, 1_500), (10, 1_001), (7, 1_000), (-1, 1_000), (1, 0), (0, 250)];
        let rates = rates.map(|(calls, ms)| per_second(calls, Duration::from_millis(ms)));
        assert_eq!(rates, [2, 10, 7, 0, 1_000, 0]);
        assert_eq!(per_second(i64::MAX, Duration::MAX), 1);
    }

    #[test]
    fn a_call_that_nobody_waits_for_ends_within_a_slice() {
        let slices = std::cell::RefCell::new(Vec::new());
        let sleep = |slice: Duration| {
            slices.borrow_mut().push(slice);
            None
        };
        let left = slept(Duration::from_secs(3_600), sleep, || slices.borrow().len() < 3);
        assert_eq!(left.unwrap_err().to_string(), "nobody waits for the answer any more");
        assert_eq!(*slices.borrow(), [WAIT_SLICE; 3]);
        let ends = slept(Duration::from_secs(3_600), |_| Some("it ends"), || true);
        assert_eq!(ends.unwrap_err().to_string(), "it ends");
        let interval = Duration::from_millis(5);
        assert!(slept(interval, |_| None, || true).unwrap() >= interval);
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        assert_eq!(quantile(&[(100, 0), (300, 0)], 50), None);
        let buckets = [(100, 50), (300, 48), (i64::MAX, 2)];
        assert_eq!(
            (quantile(&buckets, 50), quantile(&buckets, 98), quantile(&buckets, 99)),
            (Some(100), Some(300), Some(i64::MAX))
        );
    }
}
