//! The state that readers of the manager see while transactions run, and the rows that are made of
//! it.

use std::path::PathBuf;
use std::sync::Arc;

use grapnel_engine::hook::{ChainTable, HookPoint, Link, LinkStats};

use super::active::Active;
use super::loader_state::Totals;
use super::record::{Content, Recorded};
use super::requested::RequestedPlugin;
use super::retired::RetiredList;
use crate::plugin::file::lookup;
use crate::plugin::host::services::Services;
use crate::plugin::report::{HookRow, Origin, PluginInfo, PluginList, PluginState, policy_name};

/// A plugin that was requested and could not be loaded.
pub(in crate::plugin) struct Failed {
    pub wanted: RequestedPlugin,
    pub reason: String,
}

impl Failed {
    pub(in crate::plugin) fn name(&self) -> &str {
        self.wanted.name.as_deref().unwrap_or(&self.wanted.source)
    }

    fn info(&self) -> PluginInfo {
        PluginInfo {
            name: self.name().to_owned(),
            state: PluginState::Failed(self.reason.clone()),
            version: String::new(),
            description: String::new(),
            sdk: String::new(),
            file: lookup::is_path(&self.wanted.source).then(|| PathBuf::from(&self.wanted.source)),
            origin: self.wanted.origin,
            required: self.wanted.required,
            generation: 0,
            priority: self.wanted.priority,
            hooks: Vec::new(),
            depends: Vec::new(),
            closable: false,
            config_schema: None,
            mapped_bytes: 0,
            loaded_at_ms: 0,
            warnings: Vec::new(),
        }
    }
}

/// The state that readers see; replaced at the end of a transaction.
#[derive(Default)]
pub(in crate::plugin) struct View {
    /// In order of mounting.
    pub active: Vec<Arc<Active>>,
    pub failed: Vec<Arc<Failed>>,
    pub retired: RetiredList,
    pub totals: Totals,
    pub table_generation: u64,
}

impl View {
    pub(in crate::plugin) fn list(&self, services: &Services) -> PluginList {
        let loaded = self.active.iter().map(|plugin| plugin.info());
        let plugins = loaded.chain(self.failed.iter().map(|failed| failed.info())).collect();
        PluginList { plugins, retired: self.retired.rows(services) }
    }

    pub(in crate::plugin) fn show(&self, name: &str) -> Option<PluginInfo> {
        let loaded =
            self.active.iter().find(|plugin| &*plugin.name == name).map(|plugin| plugin.whole_info());
        loaded.or_else(|| self.failed.iter().find(|failed| failed.name() == name).map(|failed| failed.info()))
    }

    /// The content of the record for the next start.
    pub(in crate::plugin) fn recorded(&self) -> Content {
        let active = self.active.iter().map(|plugin| plugin.wanted());
        let wanted: Vec<RequestedPlugin> =
            active.chain(self.failed.iter().map(|failed| failed.wanted.clone())).collect();
        let disabled = wanted
            .iter()
            .filter(|wanted| wanted.disabled && wanted.origin != Origin::Once)
            .map(|wanted| wanted.name.clone().unwrap_or_else(|| wanted.source.clone()))
            .collect();
        let recorded = wanted.into_iter().filter(|wanted| wanted.origin == Origin::Recorded);
        let plugins = recorded.map(|wanted| Recorded {
            name: wanted.name.unwrap_or_else(|| wanted.source.clone()),
            source: wanted.source,
            priority: wanted.priority,
            config: wanted.config,
            required: wanted.required,
        });
        Content { plugins: plugins.collect(), disabled }
    }
}

/// The rows of one point: its links in the order of the calls, then the hooks that the operator has
/// unmounted there. A point without a link gets one empty row if `all` is set.
pub(in crate::plugin) fn rows(
    table: &ChainTable,
    point: HookPoint,
    active: &[Arc<Active>],
    totals: &Totals,
    all: bool,
) -> Vec<HookRow> {
    let chain = table.chain(point);
    let empty = HookRow { point: point.name().to_owned(), ..HookRow::default() };
    let row = |(place, (link, _)): (u32, (&Link, _))| {
        let mut stats = LinkStats::default();
        let mine = totals
            .iter()
            .filter(|((_, plugin, identity), _)| (*plugin, *identity) == (link.plugin, link.identity));
        mine.for_each(|(_, more)| stats.merge(more));
        let (plugin, hook) = link.name.split_once('/').unwrap_or((&link.name, ""));
        HookRow {
            place,
            plugin: plugin.to_owned(),
            hook: hook.to_owned(),
            priority: link.priority,
            generation: (link.plugin.0 >> 32) as u32,
            mounted: true,
            deadline_ms: link.deadline_ms,
            policy: policy_name(link.policy).to_owned(),
            topics: link.topics.iter().flat_map(|topics| topics.iter().map(ToString::to_string)).collect(),
            tripped: link.entry.is_tripped(),
            calls: stats.calls,
            stops: stats.stops,
            deferrals: stats.deferrals,
            faults: stats.faults,
            ..empty.clone()
        }
    };
    let mut rows: Vec<HookRow> = (1..).zip(chain.links()).map(row).collect();
    for plugin in active {
        plugin.each_hook(|active| {
            let overrides = plugin.overridden(&active.hook);
            if active.hook.point != point || overrides.is_empty() {
                return;
            }
            let mine = |row: &&mut HookRow| row.plugin == *plugin.name && row.hook == active.hook.name;
            if let Some(row) = rows.iter_mut().find(mine) {
                row.overridden = overrides.words();
                return;
            }
            rows.push(HookRow {
                plugin: plugin.name.to_string(),
                hook: active.hook.name.clone(),
                generation: plugin.generation,
                overridden: overrides.words(),
                ..empty.clone()
            });
        });
    }
    if rows.is_empty() && all {
        rows.push(empty);
    }
    rows
}
