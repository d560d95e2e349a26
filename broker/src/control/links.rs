//! Metrics of the links of the chains, by hook point and link. Each shard counts; this file sums.

use std::collections::BTreeMap;
use std::sync::Arc;

use grapnel_engine::hook::{ChainTable, HookPoint, LinkStats};
use grapnel_engine::id::ShardId;

use super::prometheus::Text;

/// The counters of one link on one shard.
#[derive(Clone, Debug)]
pub(super) struct LinkRow {
    point: &'static str,
    name: Arc<str>,
    stats: LinkStats,
}

/// Copies the counters of all links. Runs on the shard.
pub(super) fn counted(chains: &ChainTable) -> Vec<LinkRow> {
    let rows = |point: &HookPoint| {
        let point = *point;
        chains.chain(point).links().map(move |(link, stats)| LinkRow {
            point: point.name(),
            name: link.name.clone(),
            stats,
        })
    };
    HookPoint::ALL.iter().flat_map(rows).collect()
}

type StatColumn = (&'static str, &'static str, fn(&LinkStats) -> u64);

const LINK_METRICS: [StatColumn; 4] = [
    ("link_calls", "calls of a plugin's link since this version of the plugin was loaded", |stats| {
        stats.calls
    }),
    ("link_stops", "calls of a plugin's link that ended the chain", |stats| stats.stops),
    ("link_deferrals", "calls of a plugin's link that answered later", |stats| stats.deferrals),
    ("link_faults", "calls of a plugin's link that failed", |stats| stats.faults),
];

/// Writes the counters, summed over the shards or for each shard.
pub(super) fn write(text: &mut Text, rows: Vec<(ShardId, Vec<LinkRow>)>, per_shard: bool) {
    let mut sums: BTreeMap<(&'static str, Arc<str>, Option<ShardId>), LinkStats> = BTreeMap::new();
    for (shard, rows) in rows {
        for row in rows {
            let sum = sums.entry((row.point, row.name, per_shard.then_some(shard))).or_default();
            sum.calls += row.stats.calls;
            sum.stops += row.stats.stops;
            sum.deferrals += row.stats.deferrals;
            sum.faults += row.stats.faults;
        }
    }
    for (name, help, figure) in LINK_METRICS {
        text.family(name, help, false);
        for ((point, link, shard), stats) in &sums {
            let shard = shard.map(|shard| shard.to_string());
            let (plugin, hook) = link.split_once('/').unwrap_or((link, ""));
            let mut labels = vec![("point", *point), ("plugin", plugin), ("hook", hook)];
            labels.extend(shard.as_deref().map(|shard| ("shard", shard)));
            text.sample(name, &labels, figure(stats));
        }
    }
}
