//! The plugin manager: finds, checks, loads, reloads and retires plugins while clients are
//! connected. Called at the start and by the control plane, on threads that may block: every method
//! may wait as long as shards may take to answer. Shards see only the chain tables that they get
//! between two steps.

mod access;
mod active;
mod ancestry;
mod attendant;
mod change;
pub mod check;
mod commands;
mod copies;
mod elf;
mod error;
mod everywhere;
mod gone;
mod handover;
mod kept;
mod known;
mod library;
mod living;
mod loaded;
mod lookup;
mod manifest;
mod mapped;
mod metrics;
mod mounts;
mod order;
mod overrides;
mod read_only;
mod record;
mod report;
mod request;
mod retiring;
mod revoked;
mod schema;
mod services;
mod start;
mod state_file;
mod stats;
mod swap;
mod threads;
mod transaction;
mod view;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use grapnel_engine::hook::{Called, HookPoint, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{BehalfRefused, RefusedAnswer, Revoked};
use serde_json::Value;

pub use access::OpenListener;
use active::{Active, Defaults, Wanted, compile, seats};
use attendant::Attendant;
use copies::Copies;
pub use error::LoadError;
use handover::Handover;
use manifest::Opened;
pub use metrics::{MetricReading, MetricValue};
pub use overrides::{HookChange, HookError, HookOverride, HookOverrides, OnFault, parse as parse_overrides};
use record::Record;
pub use report::{
    ByHand, Configured, HookInfo, HookReport, HookRow, Origin, PluginInfo, PluginList, PluginState, Retired,
    Unloaded,
};
pub use request::{LoadRequest, Settings, is_name};
pub use stats::{HookStat, HookStats, Times};
use transaction::{Totals, Workshop, absorb, merge};
use view::View;

use crate::config::PluginConfig;
use crate::fatal;

/// The name of the plugin that a shard says it calls. Any thread.
pub fn name_of(called: Called) -> Option<String> {
    match called {
        Called::Plugin(handle) => services::name_of(handle).map(|name| name.to_string()),
        Called::Hook(link) => {
            let (plugin, _) = fatal::hook_name(link)?.split_once('/')?;
            Some(plugin.to_owned())
        }
    }
}

/// A shard does not call a plugin any more, because it has failed too often there. Returns at once; called by that shard.
pub fn tripped(plugin: PluginHandle, shard: ShardId) {
    services::tripped(plugin, shard);
}

/// An answer of a plugin was refused as a whole: the operator's log says so. For a shard that has had it.
pub fn answer_refused(refused: &RefusedAnswer) {
    services::answer_refused(refused);
}

/// Subscriptions were taken back because the rules of client.authorize have changed: the operator's log says so. Returns at once;
/// called by the shard that had them.
pub fn revoked(revoked: Revoked) {
    services::revoked(revoked);
}

/// Something was refused that a plugin asked for on behalf of a client: the operator's log says so. For a shard that has had it.
pub fn behalf_refused(refused: &BehalfRefused) {
    services::behalf_refused(refused);
}

/// All plugins of a broker. One per process.
pub struct PluginManager {
    settings: Settings,
    record: Option<Record>,
    /// Whether the broker stops, for a transaction that is under way.
    stopping: Arc<AtomicBool>,
    /// Held for the length of a transaction.
    workshop: Arc<Mutex<Workshop>>,
    view: Arc<RwLock<View>>,
    /// What the configuration has for plugins, since the start.
    configured: OnceLock<Vec<PluginConfig>>,
    _attendant: Attendant,
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
    /// Where the folder for private copies can be made neither in its place nor among temporary files.
    pub fn new(settings: Settings) -> io::Result<PluginManager> {
        let copies = Copies::make_in_either(settings.copies_dir.as_deref(), &std::env::temp_dir())?;
        services::attach(&settings);
        let defaults = Defaults { deadline_ms: settings.defer_deadline_ms };
        let workshop = Workshop::new(
            settings.shards.clone(),
            settings.answer_timeout,
            defaults,
            copies,
            settings.state_bounds(),
            access::Access::new(settings.listeners.clone(), settings.no_match_allow),
        );
        let mut workshop = workshop;
        let stopping = Arc::clone(&workshop.stopping);
        if let Some(record) = &settings.record
            && let Err(error) = workshop.overrides.read(&overrides::file_beside(record))
        {
            tracing::error!("what was set for hooks through ctl does not come back: {error}");
        }
        let (workshop, view) = (Arc::new(Mutex::new(workshop)), Arc::<RwLock<View>>::default());
        let attendant = Attendant::start(Arc::clone(&workshop), Arc::clone(&view))?;
        services::attend(attendant.errands());
        let record = settings.record.clone().map(Record::at);
        let configured = OnceLock::new();
        Ok(PluginManager { settings, record, stopping, workshop, view, configured, _attendant: attendant })
    }

    /// Loads a plugin on every shard, or on none.
    ///
    /// # Errors
    /// [`LoadError`]; everything that had been done is undone.
    pub fn load(&self, request: LoadRequest) -> Result<PluginInfo, LoadError> {
        self.load_by_hand(request).map(|ByHand { plugin, .. }| plugin)
    }

    /// The same; says too whether the configuration has had a part in it.
    ///
    /// # Errors
    /// As [`PluginManager::load`].
    pub fn load_by_hand(&self, request: LoadRequest) -> Result<ByHand, LoadError> {
        let LoadRequest { source, name, config, merge, priority, once } = request;
        let by_path = lookup::is_path(&source);
        let absolute = std::path::absolute(&source).ok().filter(|_| by_path);
        let source = absolute.map_or(source, |path| path.display().to_string());
        let name = name.or_else(|| (!by_path).then(|| source.clone()));
        let origin = if once { Origin::Once } else { Origin::Recorded };
        let mut wanted = Wanted { name, source, config, priority, origin, disabled: false };
        let table = |name: &str| self.configured.get()?.iter().find(|table| merge && table.name == name);
        if let Some(path) = wanted.name.as_deref().and_then(table).and_then(|table| table.path.as_ref())
            && !by_path
        {
            wanted.source = path.display().to_string();
        }
        let mut workshop = self.begin();
        let mut configured_at = None;
        let result = self.open(&mut workshop, &wanted).and_then(|opened| {
            if let Some(table) = table(&opened.name) {
                wanted = wanted.over(table);
                configured_at = Some(table.origin.to_string());
            }
            self.load_in(&mut workshop, &wanted, opened)
        });
        self.end(workshop);
        let plugin = result?;
        let plugin = self.recorded(&plugin.name).unwrap_or(plugin);
        Ok(ByHand { plugin, configured_at })
    }

    /// Takes a plugin out of every chain and ends it. Its code stays mapped. One that failed is forgotten. A plugin of the
    /// configuration comes back with the next start.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`]; [`LoadError::NeededBy`], [`LoadError::LastGuard`] or [`LoadError::Shard`], after which it is still
    /// loaded.
    pub fn unload(&self, name: &str) -> Result<Unloaded, LoadError> {
        self.unload_with(name, false)
    }

    /// The same; with `force` also where nobody would decide any more who may connect or what clients may do.
    ///
    /// # Errors
    /// As [`PluginManager::unload`].
    pub fn unload_with(&self, name: &str, force: bool) -> Result<Unloaded, LoadError> {
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
            return Ok(Unloaded { unloaded: name.to_owned(), ..Unloaded::default() });
        };
        let by: Vec<String> = needed_by(name, &before).map(|other| other.name.to_string()).collect();
        if !by.is_empty() {
            return Err(LoadError::NeededBy { doing: "unload", name: name.to_owned(), by });
        }
        let after: Vec<_> = before.iter().filter(|other| !Arc::ptr_eq(other, plugin)).cloned().collect();
        workshop.check_access(("unload", name), (&seats(&before), &seats(&after)), force)?;
        workshop.swap(name, &seats(&before), &seats(&after))?;
        if plugin.is_enabled() {
            plugin.loaded.deactivate();
        }
        self.commit(&mut workshop, after, |_| {});
        workshop.discard(plugin);
        tracing::info!(plugin = name, generation = plugin.generation, "unloaded");
        let unloaded = Unloaded {
            unloaded: name.to_owned(),
            mapped_bytes: plugin.loaded.library.bytes,
            threads_left: services::threads_left(name, plugin.generation),
            ends_within_ms: ends_within_ms(name, plugin.generation),
        };
        drop(before);
        self.end(workshop);
        self.write_record();
        Ok(unloaded)
    }

    /// All plugins: those that are loaded in order of mounting, those that failed, and what is gone but mapped.
    pub fn list(&self) -> PluginList {
        self.view().list()
    }

    /// One plugin, loaded or failed.
    pub fn show(&self, name: &str) -> Option<PluginInfo> {
        let view = self.view();
        let mut info = view.show(name)?;
        info.warnings.extend(self.lost_by_a_restart(&view, name));
        Some(info)
    }

    /// What to say of a plugin that runs with another configuration than the broker's own configuration has for it, which is in
    /// force again after a restart.
    fn lost_by_a_restart(&self, view: &View, name: &str) -> Option<String> {
        let table = self.configured.get()?.iter().find(|table| table.name == name)?;
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
            workshop.swap(name, &seats(&active), &seats(&active)).inspect_err(|_| {
                plugin.trip(shard);
            })?;
            tracing::info!(plugin = name, "the plugin that was tripped is called again");
        }
        self.end(workshop);
        Ok(plugin.info())
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
        let table = compile(generation, &seats(&active), ShardId(0), defaults);
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

    /// How long [`PluginManager::shutdown`] waits for threads that bring something to its end.
    pub fn patience(&self) -> Duration {
        services::patience()
    }

    /// Ends every plugin, the last one first, while the shards still answer, and waits for threads that bring something to its end:
    /// those of all plugins at a time. The record stays: what was loaded comes back.
    pub fn shutdown(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let mut workshop = self.begin();
        let mut active = self.view().active.clone();
        let mut ending = Vec::new();
        while let Some(plugin) = active.pop() {
            let before: Vec<_> = active.iter().chain([&plugin]).cloned().collect();
            if let Err(error) = workshop.swap(&plugin.name, &seats(&before), &seats(&active)) {
                tracing::warn!("{error}; it is not told that the broker ends");
                continue;
            }
            if plugin.is_enabled() {
                plugin.loaded.deactivate();
            }
            services::begin_end(plugin.handle());
            self.commit(&mut workshop, active.clone(), |_| {});
            ending.push(plugin);
        }
        for plugin in ending {
            if let Some((asked, patience)) = services::begin_end(plugin.handle()) {
                services::wait_ended(plugin.handle(), asked + patience);
            }
            workshop.discard(&plugin);
            self.commit_counts(&mut workshop);
            drop(plugin);
            workshop.reap();
        }
        workshop.wait_retiring();
    }

    /// What comes before any code of the plugin's: name, limits, file. Then the file is opened.
    fn open(&self, workshop: &mut Workshop, wanted: &Wanted) -> Result<Opened, LoadError> {
        let known = wanted.name.clone().unwrap_or_else(|| wanted.source.clone());
        if let Some(name) = &wanted.name
            && !is_name(name)
        {
            return Err(LoadError::Name { name: name.clone() });
        }
        if !wanted.config.is_object() && !wanted.config.is_null() {
            return Err(LoadError::ConfigShape { name: known });
        }
        let (retired, bytes) = self.view().retired.totals();
        let full = retired >= self.settings.retired_max;
        let full = full.then_some(LoadError::RetiredFull { name: known, retired, bytes });
        let file = lookup::find(&wanted.source, &self.settings.plugins_dir)?;
        workshop.open(wanted, file, full)
    }

    /// Puts an opened plugin behind those that are there.
    fn load_in(
        &self,
        workshop: &mut Workshop,
        wanted: &Wanted,
        opened: Opened,
    ) -> Result<PluginInfo, LoadError> {
        let before = self.view().active.clone();
        let new = workshop.stage(&with_object(wanted), opened, &before)?;
        let after: Vec<_> = before.iter().chain([&new]).cloned().collect();
        if let Err(error) = workshop.swap(&new.name, &seats(&before), &seats(&after)) {
            workshop.discard(&new);
            return Err(error);
        }
        if new.is_enabled()
            && let Err(said) = new.loaded.activate()
        {
            let shards = self.settings.shards.clone();
            workshop.swap_back(&shards, &seats(&before), &Handover::default());
            workshop.discard(&new);
            return Err(LoadError::Activate { name: new.name.to_string(), said });
        }
        self.commit(workshop, after, |view| view.failed.retain(|failed| failed.name() != &*new.name));
        tracing::info!(plugin = &*new.name, version = new.about.version, file = %new.file.display(), "loaded");
        new.tell_unmounted();
        Ok(new.info())
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
        let mut workshop = self.workshop.lock().unwrap_or_else(PoisonError::into_inner);
        workshop.reap();
        workshop
    }

    /// The end of a transaction, whatever became of it: what was mapped on the way is retired, plugins' own ends run.
    fn end(&self, mut workshop: MutexGuard<'_, Workshop>) {
        self.commit_counts(&mut workshop);
        let seats = seats(&self.view().active);
        workshop.tell_access(&seats);
        workshop.reap();
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
        workshop.retired.drain(..).for_each(|gone| view.retired.add(gone));
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

/// How much longer a generation may take for what it brings to its end, milliseconds.
fn ends_within_ms(name: &str, generation: u32) -> Option<u64> {
    services::ends_within(name, generation).map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

fn names(active: &[Arc<Active>]) -> Vec<String> {
    active.iter().map(|plugin| plugin.name.to_string()).collect()
}

/// Plugins that have said that they need this one.
fn needed_by<'a>(name: &'a str, active: &'a [Arc<Active>]) -> impl Iterator<Item = &'a Arc<Active>> {
    active.iter().filter(move |plugin| plugin.needs(name))
}

/// No configuration stands for an empty one.
fn with_object(wanted: &Wanted) -> Wanted {
    let config = match &wanted.config {
        Value::Null => Value::Object(serde_json::Map::new()),
        config => config.clone(),
    };
    Wanted { config, ..wanted.clone() }
}

/// What was counted up to one moment.
struct Counted {
    active: Vec<Arc<Active>>,
    totals: Totals,
    generation: u64,
    /// Shards that did not answer.
    unanswered: Vec<u8>,
}
