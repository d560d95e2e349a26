//! The plugin manager: loads, reloads and unloads plugins, each in a transaction over all shards.
//! Called at the start and by the control plane, on threads that may block: every method may wait
//! as long as shards may take to answer.

pub(super) mod access;
mod active;
mod broadcast;
mod change;
mod handover;
mod json_merge;
pub(super) mod loaded;
mod loader_state;
pub(super) mod order;
pub(super) mod overrides;
mod recompiler;
mod reconfigure;
pub(super) mod record;
mod reports;
mod requested;
mod retired;
mod retiring;
pub(super) mod settings;
mod start;
mod state_file;
pub(super) mod stats;
mod swap;
pub(super) mod verbs;
mod view;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;

use active::{Active, Defaults, slots};
use handover::Handover;
use loader_state::LoaderState;
use recompiler::Recompiler;
use record::Record;
use requested::RequestedPlugin;
use settings::{LoadRequest, Settings};
use view::View;

use super::error::LoadError;
use super::file::copies::Copies;
use super::file::lookup::{self, is_name};
use super::file::manifest::Opened;
use super::host::services::Services;
use super::report::{ByHand, Origin, PluginInfo, Unloaded};
use crate::config::PluginConfig;

/// All plugins of a broker. One per process.
pub struct PluginManager {
    settings: Settings,
    services: &'static Services,
    record: Option<Record>,
    /// Whether the broker stops; a running transaction then ends early.
    stopping: Arc<AtomicBool>,
    /// Locked for the duration of a transaction.
    loader: Arc<Mutex<LoaderState>>,
    view: Arc<RwLock<View>>,
    /// The plugins of the configuration: as of the start, or of the last reload.
    configured: RwLock<Arc<[PluginConfig]>>,
    _recompiler: Recompiler,
}

impl std::fmt::Debug for PluginManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginManager").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PluginManager {
    /// A manager without a plugin. The shards of `settings` get the completions of plugins.
    ///
    /// # Errors
    /// No folder for private copies can be made in `copies_dir` or in the temporary folder.
    pub fn new(settings: Settings) -> io::Result<PluginManager> {
        let copies = Copies::make_in_either(settings.copies_dir.as_deref(), &std::env::temp_dir())?;
        let services = Services::of_process();
        services.attach(&settings.host());
        let defaults = Defaults { deadline_ms: settings.defer_deadline_ms };
        let loader = LoaderState::new(
            services,
            settings.shards.clone(),
            settings.answer_timeout,
            defaults,
            copies,
            settings.state_bounds(),
            access::Access::new(settings.listeners.clone(), settings.no_match_allow),
        );
        let mut loader = loader;
        let stopping = Arc::clone(&loader.stopping);
        if let Some(record) = &settings.record
            && let Err(error) = loader.overrides.read(&overrides::file_beside(record))
        {
            tracing::error!("settings of hooks made with grapnel-ctl are not restored: {error}");
        }
        let (loader, view) = (Arc::new(Mutex::new(loader)), Arc::<RwLock<View>>::default());
        let recompiler = Recompiler::start(Arc::clone(&loader), Arc::clone(&view))?;
        services.attend(recompiler.jobs());
        let record = settings.record.clone().map(Record::at);
        let configured = RwLock::new(Arc::default());
        Ok(PluginManager {
            settings,
            services,
            record,
            stopping,
            loader,
            view,
            configured,
            _recompiler: recompiler,
        })
    }

    /// Loads a plugin on every shard, or on none.
    ///
    /// # Errors
    /// [`LoadError`]; everything is undone then.
    pub fn load(&self, request: LoadRequest) -> Result<PluginInfo, LoadError> {
        self.load_by_hand(request).map(|ByHand { plugin, .. }| plugin)
    }

    /// As [`PluginManager::load`]; also returns whether values of the configuration were used.
    ///
    /// # Errors
    /// As [`PluginManager::load`].
    pub fn load_by_hand(&self, request: LoadRequest) -> Result<ByHand, LoadError> {
        let LoadRequest { source, name, config, merge, priority, once, required } = request;
        let by_path = lookup::is_path(&source);
        let absolute = std::path::absolute(&source).ok().filter(|_| by_path);
        let source = absolute.map_or(source, |path| path.display().to_string());
        let name = name.or_else(|| (!by_path).then(|| source.clone()));
        let origin = if once { Origin::Once } else { Origin::Recorded };
        let mut wanted =
            RequestedPlugin { name, source, config, priority, origin, required, disabled: false };
        let configured = self.configured();
        let table = |name: &str| configured.iter().find(|table| merge && table.name == name);
        if let Some(path) = wanted.name.as_deref().and_then(table).and_then(|table| table.path.as_ref())
            && !by_path
        {
            wanted.source = path.display().to_string();
        }
        let mut loader = self.begin();
        let mut configured_at = None;
        let result = self.open(&mut loader, &wanted).and_then(|opened| {
            if let Some(table) = table(&opened.name) {
                wanted = wanted.over(table);
                configured_at = Some(table.origin.to_string());
            }
            self.load_in(&mut loader, &wanted, opened)
        });
        self.end(loader);
        let plugin = result?;
        let plugin = self.recorded(&plugin.name).unwrap_or(plugin);
        Ok(ByHand { plugin, configured_at })
    }

    /// Takes a plugin out of every chain and ends it. Its code stays mapped. The entry of a failed
    /// plugin is removed. A plugin of the configuration is loaded again at the next start.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`]; [`LoadError::NeededBy`], [`LoadError::LastDecider`] or
    /// [`LoadError::Shard`], after which it is still loaded.
    pub fn unload(&self, name: &str) -> Result<Unloaded, LoadError> {
        self.unload_with(name, false)
    }

    /// As [`PluginManager::unload`]; `force` allows it even if no plugin would then decide who may
    /// connect or what clients may do.
    ///
    /// # Errors
    /// As [`PluginManager::unload`].
    pub fn unload_with(&self, name: &str, force: bool) -> Result<Unloaded, LoadError> {
        let mut loader = self.begin();
        let result = self.unload_in(&mut loader, name, force);
        self.end(loader);
        let unloaded = result?;
        self.write_record();
        Ok(unloaded)
    }

    fn unload_in(&self, loader: &mut LoaderState, name: &str, force: bool) -> Result<Unloaded, LoadError> {
        let before = self.view().active.clone();
        let Some(plugin) = before.iter().find(|plugin| &*plugin.name == name) else {
            let mut view = self.view_mut();
            let known = view.failed.len();
            view.failed.retain(|failed| failed.name() != name);
            if view.failed.len() == known {
                return Err(LoadError::NotLoaded { name: name.to_owned(), loaded: names(&view.active) });
            }
            return Ok(Unloaded { unloaded: name.to_owned(), ..Unloaded::default() });
        };
        let by: Vec<String> = needed_by(name, &before).map(|other| other.name.to_string()).collect();
        if !by.is_empty() {
            return Err(LoadError::NeededBy { doing: "unload", name: name.to_owned(), by });
        }
        let after: Vec<_> = before.iter().filter(|other| !Arc::ptr_eq(other, plugin)).cloned().collect();
        loader.check_access(("unload", name), (&slots(&before), &slots(&after)), force)?;
        loader.swap(name, &slots(&before), &slots(&after))?;
        if plugin.is_enabled() {
            plugin.loaded.deactivate();
        }
        self.commit(loader, after, |_| {});
        loader.discard(plugin);
        tracing::info!(plugin = name, generation = plugin.generation, "unloaded");
        Ok(Unloaded {
            unloaded: name.to_owned(),
            mapped_bytes: plugin.loaded.library.bytes,
            threads_left: self.services.threads_left(name, plugin.generation),
            ends_within_ms: self.services.ends_within_ms(name, plugin.generation),
        })
    }

    /// Re-arms a tripped plugin, so that it is called again; does nothing if it is not tripped.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`], or [`LoadError::Shard`], after which it is still tripped.
    pub fn rearm(&self, name: &str) -> Result<PluginInfo, LoadError> {
        let mut loader = self.begin();
        let active = self.view().active.clone();
        let Some(plugin) = active.iter().find(|plugin| &*plugin.name == name) else {
            return Err(LoadError::NotLoaded { name: name.to_owned(), loaded: names(&active) });
        };
        if let Some(shard) = plugin.rearm() {
            loader.swap(name, &slots(&active), &slots(&active)).inspect_err(|_| {
                plugin.trip(shard);
            })?;
            tracing::info!(plugin = name, "the plugin that was tripped is called again");
        }
        self.end(loader);
        Ok(plugin.info())
    }

    /// How long [`PluginManager::shutdown`] waits for threads that finish their work.
    pub fn patience(&self) -> Duration {
        self.services.patience()
    }

    /// Ends every plugin, the last one first, while the shards still answer. Waits for the threads
    /// of all plugins at the same time. The record is kept for the next start.
    pub fn shutdown(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let mut loader = self.begin();
        let mut active = self.view().active.clone();
        let mut ending = Vec::new();
        while let Some(plugin) = active.pop() {
            let before: Vec<_> = active.iter().chain([&plugin]).cloned().collect();
            if let Err(error) = loader.swap(&plugin.name, &slots(&before), &slots(&active)) {
                tracing::warn!("{error}; its `deactivate` is not called");
                continue;
            }
            if plugin.is_enabled() {
                plugin.loaded.deactivate();
            }
            self.services.begin_end(plugin.handle());
            self.commit(&mut loader, active.clone(), |_| {});
            ending.push(plugin);
        }
        for plugin in ending {
            if let Some((asked, patience)) = self.services.begin_end(plugin.handle()) {
                self.services.wait_ended(plugin.handle(), asked + patience);
            }
            loader.discard(&plugin);
            self.commit_counts(&mut loader);
            drop(plugin);
            loader.drop_reclaimed();
        }
        loader.wait_retiring();
    }

    /// The checks before any code of the plugin runs: name, limits, file. Then opens the file.
    fn open(&self, loader: &mut LoaderState, wanted: &RequestedPlugin) -> Result<Opened, LoadError> {
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
        loader.open(wanted, file, full)
    }

    /// Adds an opened plugin after the loaded ones.
    fn load_in(
        &self,
        loader: &mut LoaderState,
        wanted: &RequestedPlugin,
        opened: Opened,
    ) -> Result<PluginInfo, LoadError> {
        let before = self.view().active.clone();
        let new = loader.stage(&with_object(wanted), opened, &before)?;
        let after: Vec<_> = before.iter().chain([&new]).cloned().collect();
        if let Err(error) = loader.swap(&new.name, &slots(&before), &slots(&after)) {
            loader.discard(&new);
            return Err(error);
        }
        if new.is_enabled()
            && let Err(reason) = new.loaded.activate()
        {
            let shards = self.settings.shards.clone();
            loader.swap_back(&shards, &slots(&before), &Handover::default());
            loader.discard(&new);
            return Err(LoadError::Activate { name: new.name.to_string(), reason });
        }
        self.commit(loader, after, |view| view.failed.retain(|failed| failed.name() != &*new.name));
        tracing::info!(plugin = &*new.name, version = new.about.version, file = %new.file.display(), "loaded");
        new.log_unmounted();
        Ok(new.info())
    }

    /// Writes the record; if that fails, the plugin of this name gets a warning.
    fn recorded(&self, name: &str) -> Option<PluginInfo> {
        if let Err(error) = self.write_record_to_disk()
            && let Some(plugin) = self.view().active.iter().find(|plugin| &*plugin.name == name)
        {
            plugin.warn(format!("it works, but a restart will not restore it as it is: {error}"));
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

    /// The plugins of the configuration.
    fn configured(&self) -> Arc<[PluginConfig]> {
        Arc::clone(&self.configured.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_configured(&self, plugins: &[PluginConfig]) {
        *self.configured.write().unwrap_or_else(PoisonError::into_inner) = plugins.into();
    }

    fn begin(&self) -> MutexGuard<'_, LoaderState> {
        let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        loader.drop_reclaimed();
        loader
    }

    /// Ends a transaction, also a failed one: retires mappings, and runs the ends of plugins.
    fn end(&self, mut loader: MutexGuard<'_, LoaderState>) {
        self.commit_counts(&mut loader);
        let slots = slots(&self.view().active);
        loader.log_access(&slots);
        loader.drop_reclaimed();
    }

    fn commit(&self, loader: &mut LoaderState, active: Vec<Arc<Active>>, also: impl FnOnce(&mut View)) {
        let mut view = self.view_mut();
        view.active = active;
        also(&mut view);
        drop(view);
        self.commit_counts(loader);
    }

    fn commit_counts(&self, loader: &mut LoaderState) {
        let mut view = self.view_mut();
        loader.retired.drain(..).for_each(|gone| view.retired.add(gone));
        view.totals.clone_from(&loader.totals);
        view.table_generation = loader.table_generation;
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

/// The plugins that declare that they need this one.
fn needed_by<'a>(name: &'a str, active: &'a [Arc<Active>]) -> impl Iterator<Item = &'a Arc<Active>> {
    active.iter().filter(move |plugin| plugin.needs(name))
}

/// Replaces a missing configuration by an empty one.
fn with_object(wanted: &RequestedPlugin) -> RequestedPlugin {
    let config = match &wanted.config {
        Value::Null => Value::Object(serde_json::Map::new()),
        config => config.clone(),
    };
    RequestedPlugin { config, ..wanted.clone() }
}
