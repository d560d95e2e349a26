//! The counts of every link, by shard and in sum, with the durations of the calls that were timed.
//! Computed for the control plane from the counts of the chains.

use std::collections::BTreeMap;
use std::sync::Arc;

use grapnel_engine::hook::latency::Latency;
use grapnel_engine::hook::{HookPoint, LinkStats};
use serde::{Deserialize, Serialize};

use super::active::Active;
use super::loader_state::Totals;

/// Durations of a sample of the calls, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// How many calls were timed.
    pub timed: u64,
    /// Median, up to 42 % too high; `None` if no call was timed.
    pub p50_ns: Option<u64>,
    /// 99th percentile, up to 42 % too high; `None` if no call was timed.
    pub p99_ns: Option<u64>,
    /// The longest call.
    pub max_ns: u64,
}

impl From<&Latency> for Times {
    fn from(latency: &Latency) -> Times {
        Times {
            timed: latency.samples,
            p50_ns: latency.quantile_ns(0.5),
            p99_ns: latency.quantile_ns(0.99),
            max_ns: latency.max_ns,
        }
    }
}

/// The counts of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStat {
    /// Hook point.
    pub point: String,
    /// Plugin.
    pub plugin: String,
    /// The hook's name within the plugin.
    pub hook: String,
    /// The shard; `None` for the sum of all shards.
    pub shard: Option<u8>,
    /// Times it was called.
    pub calls: u64,
    /// Times it ended the chain.
    pub stops: u64,
    /// Times it deferred its verdict.
    pub deferrals: u64,
    /// Panics, invalid answers and missed deadlines.
    pub faults: u64,
    /// Durations of its calls.
    #[serde(flatten)]
    pub times: Times,
}

/// The counts of all links since their plugins were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStats {
    /// By point, plugin and hook: the sum of all shards, then each shard.
    pub rows: Vec<HookStat>,
    /// Shards that did not answer: their counts since the last change of the chains are missing.
    pub unanswered: Vec<u8>,
}

/// Makes rows of the totals.
pub(in crate::plugin) fn of(active: &[Arc<Active>], totals: &Totals, unanswered: Vec<u8>) -> HookStats {
    let mut sums: BTreeMap<(HookPoint, String, String), BTreeMap<Option<u8>, LinkStats>> = BTreeMap::new();
    for plugin in active {
        plugin.each_hook(|active| {
            let key = (active.hook.point, plugin.name.to_string(), active.hook.name.clone());
            let mine = totals.iter().filter(|((_, handle, identity), _)| {
                (*handle, *identity) == (plugin.handle(), active.identity)
            });
            let shards = sums.entry(key).or_default();
            shards.entry(None).or_default();
            for ((shard, ..), stats) in mine {
                shards.entry(None).or_default().merge(stats);
                shards.entry(Some(shard.0)).or_default().merge(stats);
            }
        });
    }
    let rows = sums.iter().flat_map(|((point, plugin, hook), shards)| {
        shards.iter().map(|(shard, stats)| HookStat {
            point: point.name().to_owned(),
            plugin: plugin.clone(),
            hook: hook.clone(),
            shard: *shard,
            calls: stats.calls,
            stops: stats.stops,
            deferrals: stats.deferrals,
            faults: stats.faults,
            times: Times::from(&stats.latency),
        })
    });
    HookStats { rows: rows.collect(), unanswered }
}
