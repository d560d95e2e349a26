//! What the manager shows: plugins, hooks with their counts, and metrics.

use std::sync::Arc;

use grapnel_engine::hook::HookPoint;
use grapnel_engine::id::ShardId;
use serde_json::Value;

use super::active::{Active, Defaults, compile, slots};
use super::loader_state::{Totals, add_counts, merge};
use super::stats::HookStats;
use super::view::View;
use super::{PluginManager, names, stats, view};
use crate::plugin::host::metrics::MetricReading;
use crate::plugin::report::{HookReport, PluginInfo, PluginList};

impl PluginManager {
    /// All plugins: the loaded ones in order of mounting, the failed ones, and retired generations.
    pub fn list(&self) -> PluginList {
        self.view().list(self.services)
    }

    /// One plugin, loaded or failed.
    pub fn show(&self, name: &str) -> Option<PluginInfo> {
        let view = self.view();
        let mut info = view.show(name)?;
        info.warnings.extend(self.lost_by_a_restart(&view, name));
        Some(info)
    }

    /// A warning for a plugin whose configuration differs from the one of the broker's
    /// configuration file, which is in force again after a restart; `None` if they are equal.
    fn lost_by_a_restart(&self, view: &View, name: &str) -> Option<String> {
        let configured = self.configured();
        let table = configured.iter().find(|table| table.name == name)?;
        let plugin = view.active.iter().find(|plugin| &*plugin.name == name)?;
        let config_of = |config: &Value| config.as_object().cloned().unwrap_or_default();
        let differs = config_of(&plugin.wanted().config) != config_of(&table.config);
        let at = &table.origin;
        differs.then(|| {
            format!(
                "its configuration is not the one of [plugins.{name}] at {at}, which is in force again after a restart of the \
                 broker: to keep what it has now, write it there"
            )
        })
    }

    /// The counts of every link, by shard and in sum.
    pub fn hook_stats(&self) -> HookStats {
        let Counted { active, totals, unanswered, .. } = self.counted();
        stats::of(&active, &totals, unanswered)
    }

    /// How often each plugin was tripped, by name.
    pub fn trips(&self) -> Vec<(Arc<str>, u64)> {
        self.services.trips()
    }

    /// The values of the loaded plugins' own metrics.
    pub fn metrics(&self) -> Vec<MetricReading> {
        let names: Vec<String> = names(&self.view().active);
        self.services.metrics(&names)
    }

    /// The compiled chains with the counts of each link, summed over the shards. `all` also lists
    /// points without a link.
    pub fn hooks(&self, all: bool) -> HookReport {
        let Counted { active, totals, generation, unanswered } = self.counted();
        // Compiled as for a shard, so that the order is the order of the calls.
        let defaults = Defaults { deadline_ms: self.settings.defer_deadline_ms };
        let table = compile(generation, &slots(&active), ShardId(0), defaults);
        let rows = HookPoint::ALL
            .iter()
            .flat_map(|point| view::rows(&table, *point, &active, &totals, all))
            .collect();
        HookReport { rows, generation, unanswered }
    }

    /// The plugins with the counts of their links: from earlier chains and from those in force.
    fn counted(&self) -> Counted {
        loop {
            let (active, totals, generation) = {
                let view = self.view();
                (view.active.clone(), view.totals.clone(), view.table_generation)
            };
            let mut counted = Counted { active, totals, generation, unanswered: Vec::new() };
            let mut newest = 0;
            for handle in &self.settings.shards {
                let answer = handle.call(self.settings.answer_timeout, |shard| {
                    let mut counted = Totals::new();
                    add_counts(&mut counted, shard.id(), shard.chains());
                    (shard.chains().generation(), counted)
                });
                match answer {
                    Ok((generation, more)) => {
                        newest = newest.max(generation);
                        merge(&mut counted.totals, more);
                    }
                    Err(_) => counted.unanswered.push(handle.id().0),
                }
            }
            if newest <= generation {
                return counted;
            }
            // A shard has newer chains than the view, so that the counts of its previous chains are
            // not in the totals yet. Waits for the running transaction, which will add them.
            drop(self.begin());
            if self.view().table_generation <= generation {
                return counted;
            }
        }
    }
}

/// The counts at one moment.
struct Counted {
    active: Vec<Arc<Active>>,
    totals: Totals,
    generation: u64,
    /// Shards that did not answer.
    unanswered: Vec<u8>,
}
