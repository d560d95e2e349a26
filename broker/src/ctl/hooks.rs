//! `grapnel-ctl hooks`: the chains, the counters of their links, and the operator's settings for
//! single hooks.

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde_json::json;

use super::CtlError;
use super::authz::print_revoked;
use super::connection::Broker;
use super::follows;
use super::output::Output;
use super::plugins::Force;
use super::table::{self, Column};
use crate::config::{HookOverride, OnFault};
use crate::control::wire::{Changed, Status};
use crate::plugin::{HookChange, HookReport, HookRow, HookStats};

/// Commands about hooks.
#[derive(Debug, Subcommand)]
pub(super) enum HooksCommand {
    /// List the links of every chain, in the order in which they run
    List {
        /// Also hook points without a link
        #[arg(long)]
        all: bool,
    },
    /// Show the counters of each link and how long its calls took; a sample of the calls is timed
    Stats {
        /// Of this shard instead of all shards together
        #[arg(long, value_name = "N")]
        shard: Option<u8>,
    },
    /// Add an unmounted hook to its chain again
    Mount(HookArguments),
    /// Remove a hook from its chain
    Unmount(UnmountCommand),
    /// Override the settings of one hook of a plugin
    Set(SetCommand),
}

/// Selects a hook.
#[derive(Debug, Args)]
pub(super) struct HookArguments {
    /// The plugin
    plugin: String,
    /// The hook point, such as message.publish
    point: String,
    /// The name of the hook, as in `hooks list`
    hook: String,
}

/// The hook to remove.
#[derive(Debug, Args)]
pub(super) struct UnmountCommand {
    #[command(flatten)]
    hook: HookArguments,
    #[command(flatten)]
    force: Force,
}

/// The settings for a hook.
#[derive(Debug, Args)]
pub(super) struct SetCommand {
    #[command(flatten)]
    hook: HookArguments,
    /// Higher runs earlier
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// How long a deferred verdict may take, milliseconds
    #[arg(long, value_name = "N")]
    deadline_ms: Option<u32>,
    /// What a fault or a missed deadline means
    #[arg(long)]
    fault_policy: Option<Policy>,
    /// Remove earlier settings of this hook, also those of mount and unmount
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    force: Force,
}

/// What a fault means.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    /// The request is refused
    Deny,
    /// No answer: the next hook is called. At client.authenticate, a client with a user name that
    /// no hook allows is still refused
    Ignore,
}

impl From<Policy> for OnFault {
    fn from(policy: Policy) -> OnFault {
        match policy {
            Policy::Deny => OnFault::Deny,
            Policy::Ignore => OnFault::Ignore,
        }
    }
}

pub(super) async fn run(broker: &Broker, command: HooksCommand, output: &mut Output) -> Result<(), CtlError> {
    match command {
        HooksCommand::List { all } => {
            let report: HookReport = broker.get(&format!("/api/v1/hooks?all={all}")).await?;
            print_list(&report, output)?;
            complete(&report.unanswered)
        }
        HooksCommand::Stats { shard } => {
            let stats: HookStats = broker.get("/api/v1/hooks/stats").await?;
            if let Some(shard) = shard {
                let shards = broker.get::<Status>("/api/v1/status").await?.shards.len();
                if usize::from(shard) >= shards {
                    return Err(CtlError::Refused(format!(
                        "there is no shard {shard}; the broker has {shards}, from 0"
                    )));
                }
            }
            print_stats(stats, shard, output)
        }
        HooksCommand::Mount(hook) => {
            let change = HookOverride { mounted: Some(true), ..HookOverride::default() };
            say(broker, hook, (false, change), Force::default(), output).await
        }
        HooksCommand::Unmount(UnmountCommand { hook, force }) => {
            let key = format!("{}/{}", hook.point, hook.hook);
            follows::say(broker, &hook.plugin, Some(&[key]), output).await?;
            let change = HookOverride { mounted: Some(false), ..HookOverride::default() };
            say(broker, hook, (false, change), force, output).await
        }
        HooksCommand::Set(SetCommand { hook, priority, deadline_ms, fault_policy, clear, force }) => {
            let fault_policy = fault_policy.map(OnFault::from);
            let change = HookOverride { priority, deadline_ms, fault_policy, mounted: None };
            if change.is_empty() && !clear {
                let sentence = "nothing to set; give --priority, --deadline-ms, --fault-policy or --clear";
                return Err(CtlError::Usage(sentence.to_owned()));
            }
            say(broker, hook, (clear, change), force, output).await
        }
    }
}

async fn say(
    broker: &Broker,
    hook: HookArguments,
    (clear, change): (bool, HookOverride),
    Force { force }: Force,
    output: &mut Output,
) -> Result<(), CtlError> {
    let HookArguments { plugin, point, hook } = hook;
    let change = HookChange { plugin, point, hook, also: Vec::new(), clear, change, force };
    let row = apply(broker, change).await?;
    if output.json {
        return output.value(&row);
    }
    output.line(&described(&row.now))?;
    print_revoked(row.revoked, output)
}

/// Sends the change to the broker. Returns the state of the hook after it.
pub(super) async fn apply(broker: &Broker, change: HookChange) -> Result<Changed<HookRow>, CtlError> {
    broker.json(Method::POST, "/api/v1/hooks", Some(&json!(change))).await
}

fn described(row: &HookRow) -> String {
    let HookRow { point, place, plugin, hook, priority, deadline_ms, policy, .. } = row;
    if row.mounted {
        format!(
            "hook {plugin}/{hook} is number {place} at {point}: priority {priority}, deadline {deadline_ms} ms, \
             fault policy {policy}"
        )
    } else {
        format!("hook {plugin}/{hook} is not mounted at {point}")
    }
}

fn complete(unanswered: &[u8]) -> Result<(), CtlError> {
    if unanswered.is_empty() {
        return Ok(());
    }
    let shards: Vec<String> = unanswered.iter().map(u8::to_string).collect();
    let sentence = format!("the counts are incomplete: shard {} did not answer", shards.join(", "));
    Err(CtlError::Refused(sentence))
}

pub(super) fn print_list(report: &HookReport, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(report);
    }
    if report.rows.is_empty() {
        return output.line("no plugin has mounted a hook; --all lists the hook points");
    }
    let columns = [
        Column::Left("POINT"),
        Column::Right("#"),
        Column::Left("PLUGIN"),
        Column::Left("HOOK"),
        Column::Right("PRIO"),
        Column::Right("GEN"),
        Column::Left("FAULT"),
        Column::Right("DEADLINE"),
        Column::Left("TOPICS"),
        Column::Left("OVERRIDDEN"),
    ];
    table::print(output, columns, report.rows.iter().map(list_row))
}

fn list_row(row: &HookRow) -> [String; 10] {
    let mut cells: [String; 10] = Default::default();
    cells[0].clone_from(&row.point);
    if row.plugin.is_empty() {
        "-".clone_into(&mut cells[2]);
        return cells;
    }
    cells[2].clone_from(&row.plugin);
    cells[3].clone_from(&row.hook);
    cells[5] = row.generation.to_string();
    cells[9] = if row.overridden.is_empty() { "-".to_owned() } else { row.overridden.join(",") };
    if !row.mounted {
        "-".clone_into(&mut cells[1]);
        return cells;
    }
    cells[1] = row.place.to_string();
    cells[4] = row.priority.to_string();
    cells[6] = if row.tripped { format!("{} (tripped)", row.policy) } else { row.policy.clone() };
    cells[7] = format!("{} ms", row.deadline_ms);
    cells[8] = if row.topics.is_empty() { "all".to_owned() } else { row.topics.join(" ") };
    cells
}

pub(super) fn print_stats(
    mut stats: HookStats,
    shard: Option<u8>,
    output: &mut Output,
) -> Result<(), CtlError> {
    if shard.is_some() || !output.json {
        stats.rows.retain(|row| row.shard == shard);
    }
    if output.json {
        output.value(&stats)?;
        return complete(&stats.unanswered);
    }
    if stats.rows.is_empty() {
        output.line(match shard {
            Some(_) => "no hook has been called on this shard",
            None => "no plugin has mounted a hook",
        })?;
        return complete(&stats.unanswered);
    }
    let columns = [
        Column::Left("POINT"),
        Column::Left("PLUGIN"),
        Column::Left("HOOK"),
        Column::Right("CALLS"),
        Column::Right("STOPS"),
        Column::Right("DEFERS"),
        Column::Right("FAULTS"),
        Column::Right("P50"),
        Column::Right("P99"),
        Column::Right("MAX"),
    ];
    let rows = stats.rows.iter().map(|row| {
        let timed = row.times.timed > 0;
        [
            row.point.clone(),
            row.plugin.clone(),
            row.hook.clone(),
            row.calls.to_string(),
            row.stops.to_string(),
            row.deferrals.to_string(),
            row.faults.to_string(),
            micros(row.times.p50_ns),
            micros(row.times.p99_ns),
            micros(timed.then_some(row.times.max_ns)),
        ]
    });
    table::print(output, columns, rows)?;
    complete(&stats.unanswered)
}

/// Formats nanoseconds as microseconds.
fn micros(ns: Option<u64>) -> String {
    match ns {
        None => "-".to_owned(),
        Some(ns) if ns < 100_000 => format!("{}.{} µs", ns / 1_000, ns / 100 % 10),
        Some(ns) => format!("{} µs", ns / 1_000),
    }
}
