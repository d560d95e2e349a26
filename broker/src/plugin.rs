//! Plugins: finding, checking, loading, reloading and retiring them, while clients are connected. Called by the start of the
//! broker and by the control plane, from a helper thread: every method may block for as long as shards are given to answer.
//! Shards see none of this, only the chain tables that are handed to them between two steps.

mod active;
mod attendant;
mod commands;
mod elf;
mod error;
mod everywhere;
mod kept;
mod library;
mod living;
mod loaded;
mod lookup;
mod metrics;
mod mounts;
mod overrides;
mod record;
mod report;
mod request;
mod services;
mod stats;
mod threads;
mod transaction;
mod view;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use grapnel_engine::hook::{HookPoint, PluginHandle};
use grapnel_engine::id::ShardId;
use serde_json::Value;

use active::{Active, Defaults, Wanted, compile};
use attendant::Attendant;
pub use error::LoadError;
pub use metrics::{MetricReading, MetricValue};
pub use overrides::{HookChange, HookError, HookOverride, HookOverrides, OnFault, parse as parse_overrides};
use record::{Record, Recorded};
pub use report::{HookInfo, HookReport, HookRow, Origin, PluginInfo, PluginList, PluginState, Retired};
pub use request::{LoadRequest, Settings, is_name};
pub use stats::{HookStat, HookStats, Times};
use transaction::{Totals, Workshop, absorb, merge};
use view::{Failed, View};

use crate::config::PluginConfig;

/// The name of a plugin that is or was loaded in this process, by the handle that links and tickets carry. Any thread.
pub fn name_of(handle: PluginHandle) -> Option<Arc<str>> {
    services::name_of(handle)
}

/// A shard does not call a plugin any more, because it has failed too often there. Returns at once; called by that shard.
pub fn tripped(plugin: PluginHandle, shard: ShardId) {
    services::tripped(plugin, shard);
}

/// All plugins of a broker. One per process.
pub struct PluginManager {
    settings: Settings,
    record: Option<Record>,
    /// Held for the length of a transaction.
    workshop: Arc<Mutex<Workshop>>,
    view: Arc<RwLock<View>>,
    _attendant: Attendant,
    /// Removed with the manager; the copies in it are gone long before.
    _copies: tempfile::TempDir,
}

impl std::fmt::Debug for PluginManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginManager").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PluginManager {
    /// A manager without a plugin. Plugins' completions go to these shards from now on.
    ///
    /// # Errors
    /// Where the folder for private copies cannot be made.
    pub fn new(settings: Settings) -> io::Result<PluginManager> {
        let mut builder = tempfile::Builder::new();
        let copies = match &settings.copies_dir {
            Some(dir) => builder.prefix("grapnel-plugins-").tempdir_in(dir)?,
            None => builder.prefix("grapnel-plugins-").tempdir()?,
        };
        services::attach(&settings);
        let defaults = Defaults { deadline_ms: settings.defer_deadline_ms };
        let workshop = Workshop::new(
            settings.shards.clone(),
            settings.answer_timeout,
            defaults,
            copies.path().to_owned(),
        );
        let mut workshop = workshop;
        if let Some(record) = &settings.record
            && let Err(error) = workshop.overrides.read(&overrides::file_beside(record))
        {
            tracing::error!("what was set for hooks through ctl does not come back: {error}");
        }
        let (workshop, view) = (Arc::new(Mutex::new(workshop)), Arc::<RwLock<View>>::default());
        let attendant = Attendant::start(Arc::clone(&workshop), Arc::clone(&view))?;
        services::attend(attendant.errands());
        let record = settings.record.clone().map(Record::at);
        Ok(PluginManager { settings, record, workshop, view, _attendant: attendant, _copies: copies })
    }

    /// Loads what the configuration wants, then what was loaded through ctl before the last stop. What fails is logged and
    /// listed as failed.
    ///
    /// # Errors
    /// The first plugin that is marked `required` and cannot be loaded.
    pub fn start(&self, configured: &[PluginConfig]) -> Result<(), LoadError> {
        for plugin in configured {
            self.begin().overrides.configure(&plugin.name, &plugin.hooks);
            let source = match &plugin.path {
                Some(path) => path.display().to_string(),
                None => plugin.name.clone(),
            };
            let wanted = Wanted {
                name: Some(plugin.name.clone()),
                source,
                config: plugin.config.clone(),
                priority: plugin.priority,
                origin: Origin::Configured,
            };
            if let Err(error) = self.load_wanted(wanted, true)
                && plugin.required
            {
                return Err(error);
            }
        }
        let recorded = match self.record.as_ref().map_or(Ok(Vec::new()), Record::read) {
            Ok(recorded) => recorded,
            Err(error) => {
                tracing::error!("plugins that were loaded through ctl do not come back: {error}");
                Vec::new()
            }
        };
        for Recorded { name, source, priority, config } in recorded {
            if self.show(&name).is_some() {
                tracing::info!(
                    plugin = name,
                    "the configuration names a plugin that ctl had loaded; it has its way"
                );
                continue;
            }
            let wanted = Wanted { name: Some(name), source, config, priority, origin: Origin::Recorded };
            // Logged and listed; the record keeps it.
            let _ = self.load_wanted(wanted, true);
        }
        Ok(())
    }

    /// Loads a plugin on every shard, or on none.
    ///
    /// # Errors
    /// [`LoadError`]; everything that had been done is undone.
    pub fn load(&self, request: LoadRequest) -> Result<PluginInfo, LoadError> {
        let LoadRequest { source, name, config, priority, once } = request;
        let by_path = lookup::is_path(&source);
        let absolute = std::path::absolute(&source).ok().filter(|_| by_path);
        let source = absolute.map_or(source, |path| path.display().to_string());
        let name = name.or_else(|| (!by_path).then(|| source.clone()));
        let origin = if once { Origin::Once } else { Origin::Recorded };
        let info = self.load_wanted(Wanted { name, source, config, priority, origin }, false)?;
        Ok(self.recorded(&info.name).unwrap_or(info))
    }

    /// Takes a plugin out of every chain and ends it. Its code stays mapped. One that failed is forgotten. A plugin of the
    /// configuration comes back with the next start.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`], or [`LoadError::Shard`], after which it is still loaded.
    pub fn unload(&self, name: &str) -> Result<(), LoadError> {
        let mut workshop = self.begin();
        let before = self.view().active.clone();
        let Some(plugin) = before.iter().find(|plugin| &*plugin.name == name) else {
            let mut view = self.view_mut();
            let known = view.failed.len();
            view.failed.retain(|failed| failed.name() != name);
            if view.failed.len() == known {
                return Err(LoadError::NotLoaded { name: name.to_owned(), loaded: names(&view.active) });
            }
            drop(view);
            self.write_record();
            return Ok(());
        };
        let after: Vec<_> = before.iter().filter(|other| !Arc::ptr_eq(other, plugin)).cloned().collect();
        workshop.swap(name, &before, &after)?;
        plugin.loaded.deactivate();
        self.commit(&mut workshop, after, |_| {});
        workshop.discard(plugin);
        self.commit_counts(&mut workshop);
        tracing::info!(plugin = name, generation = plugin.generation, "unloaded");
        drop(before);
        workshop.reap();
        self.write_record();
        Ok(())
    }

    /// Reads a plugin's file again and lets the new code take the old one's place, without a client noticing; `config`
    /// replaces its configuration. A plugin that had failed is tried again.
    ///
    /// # Errors
    /// [`LoadError`]; the old version is still in force then.
    pub fn reload(&self, name: &str, config: Option<Value>) -> Result<PluginInfo, LoadError> {
        let mut workshop = self.begin();
        let result = self.reload_in(&mut workshop, name, config);
        // Also where it failed: what was mapped on the way is retired.
        self.commit_counts(&mut workshop);
        workshop.reap();
        let info = result?;
        Ok(self.recorded(&info.name).unwrap_or(info))
    }

    fn reload_in(
        &self,
        workshop: &mut Workshop,
        name: &str,
        config: Option<Value>,
    ) -> Result<PluginInfo, LoadError> {
        let before = self.view().active.clone();
        let Some(old) = before.iter().find(|plugin| &*plugin.name == name).cloned() else {
            let failed = self.view().failed.iter().find(|failed| failed.name() == name).cloned();
            let Some(failed) = failed else {
                return Err(LoadError::NotLoaded { name: name.to_owned(), loaded: names(&before) });
            };
            return self.load_in(workshop, with_config(&failed.wanted, config), false);
        };
        let wanted = with_config(&old.wanted, config);
        let new = self.stage(workshop, &wanted, |_| false)?;
        new.take_place_of(&old);
        let replaced = |plugin: &Arc<Active>| if Arc::ptr_eq(plugin, &old) { &new } else { plugin }.clone();
        let after: Vec<_> = before.iter().map(replaced).collect();
        if let Err(error) = workshop.swap(name, &before, &after) {
            workshop.discard(&new);
            return Err(error);
        }
        old.loaded.deactivate();
        if let Err(said) = new.loaded.activate() {
            let shards = self.settings.shards.clone();
            workshop.swap_back(&shards, &before);
            if let Err(said) = old.loaded.activate() {
                old.warn(format!("it could not be activated again after a reload that failed: {said}"));
            }
            workshop.discard(&new);
            return Err(LoadError::Activate { name: name.to_owned(), said });
        }
        self.commit(workshop, after, |_| {});
        workshop.discard(&old);
        tracing::info!(plugin = name, generation = new.generation, version = new.about.version, "reloaded");
        Ok(new.info())
    }

    /// All plugins: those that are loaded in order of mounting, those that failed, and what is gone but mapped.
    pub fn list(&self) -> PluginList {
        self.view().list()
    }

    /// One plugin, loaded or failed.
    pub fn show(&self, name: &str) -> Option<PluginInfo> {
        self.view().show(name)
    }

    /// Lets a plugin that was tripped be called again; nothing where it was not.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`], or [`LoadError::Shard`], after which it is still tripped.
    pub fn rearm(&self, name: &str) -> Result<PluginInfo, LoadError> {
        let mut workshop = self.begin();
        let active = self.view().active.clone();
        let Some(plugin) = active.iter().find(|plugin| &*plugin.name == name) else {
            return Err(LoadError::NotLoaded { name: name.to_owned(), loaded: names(&active) });
        };
        if let Some(shard) = plugin.rearm() {
            workshop.swap(name, &active, &active).inspect_err(|_| {
                plugin.trip(shard);
            })?;
            self.commit_counts(&mut workshop);
            tracing::info!(plugin = name, "the plugin that was tripped is called again");
        }
        Ok(plugin.info())
    }

    /// Says something more about a hook of a plugin that is loaded, and puts it into force; remembered for the next start.
    ///
    /// # Errors
    /// [`HookError`]; nothing has changed then, unless only the file could not be written, which is logged.
    pub fn override_hook(&self, wanted: &HookChange) -> Result<HookRow, HookError> {
        let HookChange { plugin: name, point, hook, clear, change } = wanted;
        let known = HookPoint::from_name(point).ok_or_else(|| HookError::Point { point: point.clone() })?;
        change.check().map_err(HookError::Value)?;
        let mut workshop = self.begin();
        let active = self.view().active.clone();
        let Some(plugin) = active.iter().find(|plugin| *plugin.name == **name) else {
            let error = LoadError::NotLoaded { name: name.clone(), loaded: names(&active) };
            return Err(error.into());
        };
        let key = overrides::key(known, hook);
        let keys = plugin.hook_keys();
        if !keys.contains(&key) {
            let (plugin, point, hook) = (name.clone(), point.clone(), hook.clone());
            return Err(HookError::Hook { plugin, point, hook, known: keys });
        }
        let before = workshop.overrides.clone();
        workshop.overrides.set(name, &key, *clear, *change);
        if let Err(error) = workshop.swap(name, &active, &active) {
            workshop.overrides = before;
            plugin.change();
            return Err(error.into());
        }
        self.commit_counts(&mut workshop);
        if let Some(record) = &self.settings.record
            && let Err(error) = workshop.overrides.write(&overrides::file_beside(record))
        {
            plugin.warn(format!("what was set for its hooks holds, but not after a restart: {error}"));
        }
        drop(workshop);
        tracing::info!(plugin = name, hook = key, "the hook is overridden by the operator: {change:?}");
        let row = self.hooks(false).rows.into_iter();
        let row = row.filter(|row| row.plugin == *name && row.hook == *hook).find(|row| row.point == *point);
        Ok(row.unwrap_or_default())
    }

    /// What every link did, by shard and summed.
    pub fn hook_stats(&self) -> HookStats {
        let Counted { active, totals, unanswered, .. } = self.counted();
        stats::of(&active, &totals, unanswered)
    }

    /// How often each plugin was tripped, by name.
    pub fn trips(&self) -> Vec<(Arc<str>, u64)> {
        services::trips()
    }

    /// What the plugins that are loaded have measured with metrics of their own.
    pub fn metrics(&self) -> Vec<MetricReading> {
        let names: Vec<String> = names(&self.view().active);
        services::metrics(&names)
    }

    /// The compiled chains with what each link did, summed over the shards. `all` lists points without a link too.
    pub fn hooks(&self, all: bool) -> HookReport {
        let Counted { active, totals, generation, unanswered } = self.counted();
        // Compiled as for a shard, so that the order is that of the calls.
        let defaults = Defaults { deadline_ms: self.settings.defer_deadline_ms };
        let table = compile(generation, &active, ShardId(0), defaults);
        let rows = HookPoint::ALL
            .iter()
            .flat_map(|point| view::rows(&table, *point, &active, &totals, all))
            .collect();
        HookReport { rows, generation, unanswered }
    }

    /// The plugins with what their links did: in the chains that were, and in those in force.
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
                    absorb(&mut counted, shard.id(), shard.chains());
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
            // A shard has chains that are newer than what was read: those before them have been counted nowhere. The transaction
            // that is about to note it is waited for.
            drop(self.begin());
            if self.view().table_generation <= generation {
                return counted;
            }
        }
    }

    /// Ends every plugin, the last one first, while the shards still answer. The record stays: what was loaded comes back.
    pub fn shutdown(&self) {
        let mut workshop = self.begin();
        let mut active = self.view().active.clone();
        while let Some(plugin) = active.pop() {
            let before: Vec<_> = active.iter().chain([&plugin]).cloned().collect();
            if let Err(error) = workshop.swap(&plugin.name, &before, &active) {
                tracing::warn!("{error}; it is not told that the broker ends");
                continue;
            }
            plugin.loaded.deactivate();
            workshop.discard(&plugin);
            self.commit(&mut workshop, active.clone(), |_| {});
            drop((before, plugin));
            workshop.reap();
        }
    }

    fn load_wanted(&self, wanted: Wanted, list_failure: bool) -> Result<PluginInfo, LoadError> {
        let mut workshop = self.begin();
        self.load_in(&mut workshop, wanted, list_failure)
    }

    fn load_in(
        &self,
        workshop: &mut Workshop,
        wanted: Wanted,
        list_failure: bool,
    ) -> Result<PluginInfo, LoadError> {
        let result = self.load_steps(workshop, &wanted);
        if let Err(error) = &result
            && list_failure
        {
            tracing::error!("{error}");
            let failed = Failed { wanted, reason: error.to_string() };
            self.view_mut().failed.push(Arc::new(failed));
        }
        workshop.reap();
        self.commit_counts(workshop);
        result
    }

    fn load_steps(&self, workshop: &mut Workshop, wanted: &Wanted) -> Result<PluginInfo, LoadError> {
        let before = self.view().active.clone();
        let taken = |name: &str| before.iter().any(|plugin| &*plugin.name == name);
        let new = self.stage(workshop, wanted, taken)?;
        let after: Vec<_> = before.iter().chain([&new]).cloned().collect();
        if let Err(error) = workshop.swap(&new.name, &before, &after) {
            workshop.discard(&new);
            return Err(error);
        }
        if let Err(said) = new.loaded.activate() {
            let shards = self.settings.shards.clone();
            workshop.swap_back(&shards, &before);
            workshop.discard(&new);
            return Err(LoadError::Activate { name: new.name.to_string(), said });
        }
        self.commit(workshop, after, |view| view.failed.retain(|failed| failed.name() != &*new.name));
        tracing::info!(plugin = &*new.name, version = new.about.version, file = %new.file.display(), "loaded");
        Ok(new.info())
    }

    /// What comes before any code of the plugin's: name, file, limits.
    fn stage(
        &self,
        workshop: &mut Workshop,
        wanted: &Wanted,
        taken: impl Fn(&str) -> bool,
    ) -> Result<Arc<Active>, LoadError> {
        let known = wanted.name.clone().unwrap_or_else(|| wanted.source.clone());
        if let Some(name) = &wanted.name {
            if !is_name(name) {
                return Err(LoadError::Name { name: name.clone() });
            }
            if taken(name) {
                return Err(LoadError::AlreadyLoaded { name: name.clone() });
            }
        }
        let config = match &wanted.config {
            Value::Null => Value::Object(serde_json::Map::new()),
            Value::Object(_) => wanted.config.clone(),
            _ => return Err(LoadError::ConfigShape { name: known }),
        };
        let (retired, bytes) = self.view().retired_bytes();
        if retired >= self.settings.retired_max {
            return Err(LoadError::RetiredFull { name: known, retired, bytes });
        }
        let file = lookup::find(&wanted.source, &self.settings.plugins_dir)?;
        workshop.stage(&Wanted { config, ..wanted.clone() }, &file, taken)
    }

    /// Remembers what was loaded through ctl; the plugin of this name is told of it if that fails.
    fn recorded(&self, name: &str) -> Option<PluginInfo> {
        if let Err(error) = self.write_record_to_disk()
            && let Some(plugin) = self.view().active.iter().find(|plugin| &*plugin.name == name)
        {
            plugin.warn(format!("it works, but will not come back as it is after a restart: {error}"));
        }
        self.show(name)
    }

    fn write_record(&self) {
        if let Err(error) = self.write_record_to_disk() {
            tracing::error!("a restart will not know what was unloaded: {error}");
        }
    }

    fn write_record_to_disk(&self) -> io::Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let recorded = self.view().recorded();
        record
            .write(&recorded)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", record.path().display())))
    }

    fn begin(&self) -> MutexGuard<'_, Workshop> {
        let workshop = self.workshop.lock().unwrap_or_else(PoisonError::into_inner);
        workshop.reap();
        workshop
    }

    fn commit(&self, workshop: &mut Workshop, active: Vec<Arc<Active>>, also: impl FnOnce(&mut View)) {
        let mut view = self.view_mut();
        view.active = active;
        also(&mut view);
        drop(view);
        self.commit_counts(workshop);
    }

    fn commit_counts(&self, workshop: &mut Workshop) {
        let mut view = self.view_mut();
        view.retired.append(&mut workshop.retired);
        view.totals.clone_from(&workshop.totals);
        view.table_generation = workshop.table_generation;
    }

    fn view(&self) -> std::sync::RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> std::sync::RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn names(active: &[Arc<Active>]) -> Vec<String> {
    active.iter().map(|plugin| plugin.name.to_string()).collect()
}

fn with_config(wanted: &Wanted, config: Option<Value>) -> Wanted {
    Wanted { config: config.unwrap_or_else(|| wanted.config.clone()), ..wanted.clone() }
}

/// What was counted up to one moment.
struct Counted {
    active: Vec<Arc<Active>>,
    totals: Totals,
    generation: u64,
    /// Shards that did not answer.
    unanswered: Vec<u8>,
}
