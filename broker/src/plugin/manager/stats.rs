//! What every link did, by shard and summed, with the times of the calls that were timed. Computed
//! for the control plane from the counts of the chains.

use std::collections::BTreeMap;
use std::sync::Arc;

use grapnel_engine::hook::latency::Latency;
use grapnel_engine::hook::{HookPoint, LinkStats};
use serde::{Deserialize, Serialize};

use super::active::Active;
use super::loader_state::Totals;

/// How long the calls of a sample took, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// How many calls were timed.
    pub timed: u64,
    /// What half of them did not exceed, up to 42 % too high; `None` where none was timed.
    pub p50_ns: Option<u64>,
    /// What 99 of 100 did not exceed, up to 42 % too high.
    pub p99_ns: Option<u64>,
    /// The longest.
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

/// What one link did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStat {
    /// Hook point.
    pub point: String,
    /// Plugin.
    pub plugin: String,
    /// The hook's name within the plugin.
    pub hook: String,
    /// On which shard; `None` for all together.
    pub shard: Option<u8>,
    /// Times it was called.
    pub calls: u64,
    /// Times it ended the chain.
    pub stops: u64,
    /// Times it answered later.
    pub deferrals: u64,
    /// Panics, nonsense and missed deadlines.
    pub faults: u64,
    /// How long its calls took.
    #[serde(flatten)]
    pub times: Times,
}

/// What all links did since their plugins were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStats {
    /// By point, plugin and hook: all shards together, then each.
    pub rows: Vec<HookStat>,
    /// Shards that did not answer: what they counted since the last change of the chains is missing.
    pub unanswered: Vec<u8>,
}

/// Puts what was counted in rows.
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
