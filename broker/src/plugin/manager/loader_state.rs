//! The steps that load, reload and unload plugins, and how each step is undone. There is one
//! transaction at a time: the manager holds its lock around every call here. Never called on a
//! shard's thread.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use grapnel_engine::hook::{ChainTable, HookPoint, LinkIdentity, LinkStats, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Shard;

use super::access::Access;
use super::active::{Active, ActiveHook, Defaults, Parts, PluginSlot, RequestGuard, compile};
use super::broadcast;
use super::loaded::{Instance, Loaded};
use super::order::{self, Node};
use super::overrides::Overrides;
use super::requested::RequestedPlugin;
use super::retired::RetiredCode;
use super::settings::Bounds;
use crate::fatal;
use crate::plugin::error::LoadError;
use crate::plugin::file::copies::Copies;
use crate::plugin::file::library::{self, Library, Open};
use crate::plugin::file::manifest::{Hook, Opened, check_config};
use crate::plugin::file::mapped::Mapped;
use crate::plugin::file::read_only::ReadOnlyPages;
use crate::plugin::host::leaked::Texts;
use crate::plugin::host::services::Services;
use crate::shard::handle::ShardHandle;

/// The counts of each link since it was mounted, without the counts that the chains in force still
/// have.
pub(in crate::plugin) type Totals = HashMap<(ShardId, PluginHandle, LinkIdentity), LinkStats>;

/// Shards put shared parts here that they no longer use: ending a plugin may be slow, and no shard
/// may wait for it.
type ReclaimList = Arc<Mutex<Vec<Arc<Loaded>>>>;

/// The state of the loader. Only transactions use it.
pub(in crate::plugin) struct LoaderState {
    /// The functions that plugins may call.
    pub services: &'static Services,
    pub shards: Vec<ShardHandle>,
    pub answer_timeout: Duration,
    pub defaults: Defaults,
    /// Removed with the loader; each copy in it is removed much earlier.
    pub copies: Copies,
    /// Limits of a state handover.
    pub state_bounds: Bounds,
    /// Whether the broker stops: long work is then given up.
    pub stopping: Arc<AtomicBool>,
    pub table_generation: u64,
    /// The mapped libraries that are in use.
    mapped: Mapped,
    /// Pages of libraries that are no longer in use. They are given back after the last calls have
    /// ended.
    unused: Vec<ReadOnlyPages>,
    /// Generations that were retired since the view was last updated.
    pub retired: Vec<RetiredCode>,
    pub totals: Totals,
    /// The operator's settings for single hooks.
    pub overrides: Overrides,
    /// Which plugins decide about logins and rights.
    pub access: Access,
    /// Names and versions of retired generations.
    texts: Texts,
    identities: HashMap<(String, HookPoint, String), LinkIdentity>,
    /// The last generation number of each name that was ever loaded.
    generations: HashMap<String, u32>,
    reclaim: ReclaimList,
    /// Generations that no chain names any more, and whose threads still have work to finish.
    pub retiring: Vec<Retiring>,
}

/// A plugin that is ready to be put into the chains.
pub(in crate::plugin) type Staged = Arc<Active>;

/// A generation that is about to end.
pub(in crate::plugin) struct Retiring {
    pub plugin: Staged,
    /// When its threads were requested to end, and how long they may take from then on.
    pub end_requested_at: Instant,
    pub patience: Duration,
}

impl LoaderState {
    pub(in crate::plugin) fn new(
        services: &'static Services,
        shards: Vec<ShardHandle>,
        answer_timeout: Duration,
        defaults: Defaults,
        copies: Copies,
        state_bounds: Bounds,
        access: Access,
    ) -> LoaderState {
        LoaderState {
            services,
            shards,
            answer_timeout,
            defaults,
            copies,
            state_bounds,
            stopping: Arc::default(),
            mapped: Mapped::default(),
            unused: Vec::new(),
            table_generation: 0,
            retired: Vec::new(),
            totals: Totals::new(),
            overrides: Overrides::default(),
            access,
            texts: Texts::default(),
            identities: HashMap::new(),
            generations: HashMap::new(),
            reclaim: ReclaimList::default(),
            retiring: Vec::new(),
        }
    }

    /// Opens a plugin's file and reads its manifest. On failure everything is undone except for the
    /// mapping. If `full` has a reason, no new library is mapped.
    pub(in crate::plugin) fn open(
        &mut self,
        wanted: &RequestedPlugin,
        file: PathBuf,
        full: Option<LoadError>,
    ) -> Result<Opened, LoadError> {
        let mapped = &mut self.mapped;
        let again = |content| match (mapped.again(wanted.name.as_deref(), content), full) {
            (None, Some(full)) => Err(full),
            (library, _) => Ok(library),
        };
        let library = match library::open(&file, &self.copies, again) {
            Ok(Open::Again(library)) => library,
            Ok(Open::Mapped(library, source)) => {
                self.mapped.add(library, source);
                library
            }
            Err(refused) => {
                if refused.bytes > 0 {
                    self.note_retired(&file.display().to_string(), "", 0, refused.bytes);
                }
                return Err(refused.error);
            }
        };
        let shown = file.display().to_string();
        let described = library.about(&shown).and_then(|about| {
            let name = wanted.name.clone().unwrap_or_else(|| about.name.clone());
            library.hooks(&name).map(|hooks| (name, about, hooks))
        });
        match described {
            Ok((name, about, hooks)) => {
                if about.in_place {
                    self.mapped.allow_again(library, &name);
                }
                Ok(Opened { library, file, name, about, hooks })
            }
            Err(error) => {
                self.retire(wanted.name.as_deref().unwrap_or(&shown), "", 0, library);
                Err(error)
            }
        }
    }

    /// Loads an opened plugin beside the loaded ones and makes its instances; no chain calls it
    /// yet. On failure everything is undone except for the mapping.
    pub(in crate::plugin) fn stage(
        &mut self,
        wanted: &RequestedPlugin,
        opened: Opened,
        beside: &[Staged],
    ) -> Result<Staged, LoadError> {
        let (name, library) = (opened.name.clone(), opened.library);
        let staged = self.stage_steps(wanted, opened, beside);
        if let Err(error) = &staged {
            tracing::debug!(plugin = name, %error, "a plugin was not loaded");
            self.retire(&name, "", 0, library);
        }
        staged
    }

    fn stage_steps(
        &mut self,
        wanted: &RequestedPlugin,
        opened: Opened,
        beside: &[Staged],
    ) -> Result<Staged, LoadError> {
        if beside.iter().any(|plugin| *plugin.name == *opened.name) {
            return Err(LoadError::AlreadyLoaded { name: opened.name });
        }
        find_needed(&opened, beside)?;
        let Opened { library, file, name, about, hooks } = &opened;
        check_config(library, about, name, &wanted.config)?;
        let (handle, generation) = self.next_handle(name);
        let admitted = RequestGuard::new(self.services, handle, name, hooks)?;
        let config = wanted.config.to_string();
        let loaded = Loaded::load(self.services, *library, handle, self.shards.len(), file, name, &config)?;
        let instances = self.init_shards(name, &loaded)?;
        let hooks = hooks.iter().map(|hook| self.identify(name, hook.clone())).collect();
        let loaded_at_ms = now_ms();
        let wanted = wanted.clone();
        Ok(Arc::new(Active::new(Parts {
            wanted,
            opened,
            generation,
            loaded_at_ms,
            hooks,
            loaded,
            instances,
            admitted,
        })))
    }

    /// Gives up an opened plugin that will not be staged.
    pub(in crate::plugin) fn close(&mut self, opened: &Opened) {
        self.retire(&opened.name, "", 0, opened.library);
    }

    fn next_handle(&mut self, name: &str) -> (PluginHandle, u32) {
        let generation = self.generations.entry(name.to_owned()).or_insert(0);
        // Counted even if the load fails later: a late thread of the failed load must not share a
        // handle with the next load.
        *generation += 1;
        (self.services.handle_of(name, *generation), *generation)
    }

    pub(in crate::plugin) fn identify(&mut self, plugin: &str, hook: Hook) -> ActiveHook {
        let next = LinkIdentity(self.identities.len() as u32 + 1);
        let key = (plugin.to_owned(), hook.point, hook.name.clone());
        let identity = *self.identities.entry(key).or_insert(next);
        let label = format!("{plugin}/{}", hook.name).into();
        fatal::remember_hook(identity, &label);
        ActiveHook { identity, label, hook, number: None }
    }

    /// Makes one instance per shard, or none at all.
    fn init_shards(&self, name: &str, loaded: &Arc<Loaded>) -> Result<Vec<Option<Instance>>, LoadError> {
        let reclaim = Arc::clone(&self.reclaim);
        let answers = broadcast::call(
            &self.shards,
            self.answer_timeout,
            |shard| {
                let held =
                    SharedPartGuard { loaded: Some(Arc::clone(loaded)), reclaim: Arc::clone(&self.reclaim) };
                Box::new(move |_: &mut Shard| held.init_shard(shard))
            },
            move |engine, late: Result<Instance, String>| {
                if let Ok(instance) = late {
                    destroy_and_reclaim(engine, &reclaim, instance);
                }
            },
        );
        let mut instances: Vec<Option<Instance>> = Vec::with_capacity(answers.len());
        let mut failure = None;
        for (handle, answer) in self.shards.iter().zip(answers) {
            let name = name.to_owned();
            let problem = match answer {
                Ok(Ok(instance)) => {
                    instances.push(Some(instance));
                    continue;
                }
                Ok(Err(reason)) => LoadError::InitShard { name, shard: handle.id(), reason },
                Err(unanswered) => LoadError::Shard { name, unanswered },
            };
            instances.push(None);
            failure.get_or_insert(problem);
        }
        match failure {
            None => Ok(instances),
            Some(problem) => {
                self.destroy(|shard| instances.get_mut(shard.index()).and_then(Option::take));
                Err(problem)
            }
        }
    }

    /// Destroys the instance on every shard, after all jobs that were submitted before.
    fn destroy(&self, mut take: impl FnMut(ShardId) -> Option<Instance>) {
        let all = broadcast::send(&self.shards, self.answer_timeout, |shard| {
            let instance = take(shard);
            let reclaim = Arc::clone(&self.reclaim);
            Box::new(move |engine: &mut Shard| {
                if let Some(instance) = instance {
                    destroy_and_reclaim(engine, &reclaim, instance);
                }
            })
        });
        if !all {
            tracing::warn!(
                "a shard has not destroyed its instance of a plugin yet; it will when it answers again"
            );
        }
    }

    /// Logs which plugins decide about logins and rights, if that has changed.
    pub(in crate::plugin) fn log_access(&mut self, slots: &[PluginSlot]) {
        let table = compile(self.table_generation, slots, ShardId(0), self.defaults);
        self.access.log(&table);
    }

    /// Refuses a change that takes the last hook from a point that decides about logins or rights,
    /// unless the operator forces it.
    ///
    /// # Errors
    /// [`LoadError::LastDecider`].
    pub(in crate::plugin) fn check_access(
        &self,
        (doing, name): (&'static str, &str),
        (before, after): (&[PluginSlot], &[PluginSlot]),
        force: bool,
    ) -> Result<(), LoadError> {
        if force {
            return Ok(());
        }
        self.access.check((doing, name), (before, &self.overrides), (after, &self.overrides))
    }

    /// Ends a plugin that no chain names any more: at once, or in the background if its threads
    /// have work that takes longer. Its code stays mapped, and the next generation may use it.
    pub(in crate::plugin) fn discard(&mut self, plugin: &Staged) {
        self.end_threads(plugin);
        let threads_left = self.services.threads_left(&plugin.name, plugin.generation);
        self.destroy(|shard| plugin.instances.take(shard));
        self.totals.retain(|(_, handle, _), _| *handle != plugin.handle());
        let (library, generation) = (plugin.loaded.library, plugin.generation);
        let version = &plugin.about.version;
        if !self.retire(&plugin.name, version, generation, library) && threads_left > 0 {
            // Its code belongs to the next generation; only its threads are listed.
            self.note_retired(&plugin.name, version, generation, 0);
        }
    }

    /// A load has ended. Its mapping is retired unless another load uses it. Returns whether it is
    /// retired.
    fn retire(&mut self, name: &str, version: &str, generation: u32, library: Library) -> bool {
        let Some(pages) = self.mapped.leave(library) else { return false };
        self.unused.push(pages);
        self.note_retired(name, version, generation, library.bytes);
        true
    }

    fn note_retired(&mut self, name: &str, version: &str, generation: u32, mapped_bytes: u64) {
        let (name, version) = (self.texts.intern(name), self.texts.intern(version));
        self.retired.push(RetiredCode { name, version, generation, mapped_bytes });
    }

    /// Drops the shared parts that shards have left in the reclaim list; `unload` of the plugins
    /// runs here. After that, only a thread that has not ended may still use their code.
    pub(in crate::plugin) fn drop_reclaimed(&mut self) {
        let dead = std::mem::take(&mut *self.reclaim.lock().unwrap_or_else(PoisonError::into_inner));
        drop(dead);
        self.unused.drain(..).for_each(|pages| pages.give_back(&self.copies));
    }
}

/// The plugins that a plugin needs must be loaded and enabled, and must not need it in turn.
fn find_needed(opened: &Opened, beside: &[Staged]) -> Result<(), LoadError> {
    let Opened { name, about, .. } = opened;
    let own = Node { name, needs: &about.depends };
    let others = beside.iter().map(|plugin| Node { name: &plugin.name, needs: &plugin.about.depends });
    let nodes: Vec<Node<'_>> = [own].into_iter().chain(others).collect();
    let cycles = order::sorted(&nodes).cycles;
    if let Some((_, cycle)) = cycles.into_iter().find(|(index, _)| *index == 0) {
        return Err(LoadError::Cycle { name: name.clone(), cycle });
    }
    for missing in &about.depends {
        let there = beside.iter().find(|plugin| *plugin.name == **missing);
        if !there.is_some_and(|plugin| plugin.is_enabled()) {
            let (name, missing) = (name.clone(), missing.clone());
            return Err(LoadError::Needs { name, missing, disabled: there.is_some() });
        }
    }
    Ok(())
}

/// A shared part during a shard's job. The shard must not drop the last `Arc`.
struct SharedPartGuard {
    loaded: Option<Arc<Loaded>>,
    reclaim: ReclaimList,
}

impl SharedPartGuard {
    fn init_shard(self, shard: ShardId) -> Result<Instance, String> {
        match &self.loaded {
            Some(loaded) => loaded.init_shard(shard),
            None => Err("it has ended already".to_owned()),
        }
    }
}

impl Drop for SharedPartGuard {
    fn drop(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            self.reclaim.lock().unwrap_or_else(PoisonError::into_inner).push(loaded);
        }
    }
}

fn destroy_and_reclaim(engine: &mut Shard, reclaim: &ReclaimList, instance: Instance) {
    if let Some(loaded) = instance.destroy() {
        // No change that is taken back can call this generation again.
        engine.forget_plugin(loaded.handle);
        reclaim.lock().unwrap_or_else(PoisonError::into_inner).push(loaded);
    }
}

/// Adds what the chains of a table have counted.
pub(in crate::plugin) fn add_counts(totals: &mut Totals, shard: ShardId, table: &ChainTable) {
    let links = HookPoint::ALL.iter().flat_map(|point| table.chain(*point).links());
    merge(totals, links.map(|(link, stats)| ((shard, link.plugin, link.identity), stats)));
}

/// Adds `counted` to the totals.
pub(in crate::plugin) fn merge(
    totals: &mut Totals,
    counted: impl IntoIterator<Item = ((ShardId, PluginHandle, LinkIdentity), LinkStats)>,
) {
    for (link, stats) in counted {
        totals.entry(link).or_default().merge(&stats);
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
