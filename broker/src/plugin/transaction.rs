//! The steps that plugins are loaded, reloaded and unloaded in, and how each is undone. One at a time: the manager holds its
//! transaction lock around every call here. Never called on a shard's thread.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grapnel_engine::hook::{ChainTable, HookPoint, LinkIdentity, LinkStats, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::pipeline::Shard;

use super::active::{Active, ActiveHook, Admitted, Defaults, Instances, RunTime, Wanted, compile};
use super::error::LoadError;
use super::everywhere;
use super::kept::Texts;
use super::library::{self, Library};
use super::loaded::{About, Hook, Instance, Loaded};
use super::overrides::Overrides;
use super::services;
use super::view::Gone;
use crate::shard::handle::{ShardHandle, Unanswered};

/// What a link did since it was mounted, but for what the chains in force still count themselves.
pub(super) type Totals = HashMap<(ShardId, PluginHandle, LinkIdentity), LinkStats>;

/// Where shards leave the shared parts they have let go of: a plugin's end may be slow, and no shard waits for it.
type Graveyard = Arc<Mutex<Vec<Arc<Loaded>>>>;

/// What only transactions touch.
pub(super) struct Workshop {
    pub shards: Vec<ShardHandle>,
    pub answer_timeout: Duration,
    pub defaults: Defaults,
    pub copies: PathBuf,
    pub table_generation: u64,
    /// What has been retired since the view was told.
    pub retired: Vec<Gone>,
    pub totals: Totals,
    /// What the operator says about single hooks.
    pub overrides: Overrides,
    /// Names and versions of what was retired.
    texts: Texts,
    identities: HashMap<(String, HookPoint, String), LinkIdentity>,
    /// Last generation of each name that was ever loaded.
    generations: HashMap<String, u32>,
    graveyard: Graveyard,
}

/// A plugin that is ready to be put into the chains.
pub(super) type Staged = Arc<Active>;

impl Workshop {
    pub(super) fn new(
        shards: Vec<ShardHandle>,
        answer_timeout: Duration,
        defaults: Defaults,
        copies: PathBuf,
    ) -> Workshop {
        Workshop {
            shards,
            answer_timeout,
            defaults,
            copies,
            table_generation: 0,
            retired: Vec::new(),
            totals: Totals::new(),
            overrides: Overrides::default(),
            texts: Texts::default(),
            identities: HashMap::new(),
            generations: HashMap::new(),
            graveyard: Graveyard::default(),
        }
    }

    /// Opens, checks and loads a plugin and makes its instances; nothing calls it yet. Whatever fails is undone.
    pub(super) fn stage(
        &mut self,
        wanted: &Wanted,
        file: &Path,
        taken: impl Fn(&str) -> bool,
    ) -> Result<Staged, LoadError> {
        let library = match library::open(file, &self.copies) {
            Ok(library) => library,
            Err(refused) => {
                if refused.bytes > 0 {
                    self.retire(&file.display().to_string(), "", 0, refused.bytes);
                }
                return Err(refused.error);
            }
        };
        let staged = self.stage_mapped(library, wanted, file, taken);
        if let Err(error) = &staged {
            tracing::debug!(file = %file.display(), %error, "a plugin was not loaded");
            let name = wanted.name.clone().unwrap_or_else(|| file.display().to_string());
            self.retire(&name, "", 0, library.bytes);
        }
        staged
    }

    fn stage_mapped(
        &mut self,
        library: Library,
        wanted: &Wanted,
        file: &Path,
        taken: impl Fn(&str) -> bool,
    ) -> Result<Staged, LoadError> {
        let about = library.about(&file.display().to_string())?;
        let name = wanted.name.clone().unwrap_or_else(|| about.name.clone());
        if taken(&name) {
            return Err(LoadError::AlreadyLoaded { name });
        }
        let hooks = library.hooks(&name)?;
        let config = wanted.config.to_string();
        library.check_config(&name, &config)?;
        let (handle, generation) = self.next_handle(&name);
        let admitted = Admitted::new(handle, &name, &hooks);
        let loaded = Loaded::load(library, handle, self.shards.len(), &name, &config)?;
        let instances = self.init_shards(&name, &loaded)?;
        let hooks = hooks.into_iter().map(|hook| self.identify(&name, hook)).collect();
        Ok(Arc::new(Active {
            name: name.as_str().into(),
            wanted: Wanted { name: Some(name), ..wanted.clone() },
            about,
            file: file.to_owned(),
            generation,
            loaded_at_ms: now_ms(),
            hooks,
            loaded,
            instances: Instances::new(instances),
            warnings: Mutex::default(),
            _admitted: admitted,
            run_time: RunTime::next(),
        }))
    }

    fn next_handle(&mut self, name: &str) -> (PluginHandle, u32) {
        let generation = self.generations.entry(name.to_owned()).or_insert(0);
        // Also where the load fails later: what the plugin left behind must not be taken for the next one.
        *generation += 1;
        (services::handle_of(name, *generation), *generation)
    }

    fn identify(&mut self, plugin: &str, hook: Hook) -> ActiveHook {
        let next = LinkIdentity(self.identities.len() as u32 + 1);
        let key = (plugin.to_owned(), hook.point, hook.name.clone());
        let identity = *self.identities.entry(key).or_insert(next);
        ActiveHook { identity, label: format!("{plugin}/{}", hook.name).into(), hook, number: None }
    }

    /// One instance per shard, or none at all.
    fn init_shards(&self, name: &str, loaded: &Arc<Loaded>) -> Result<Vec<Option<Instance>>, LoadError> {
        let graveyard = Arc::clone(&self.graveyard);
        let answers = everywhere::ask(
            &self.shards,
            self.answer_timeout,
            |shard| {
                let held = Held { loaded: Some(Arc::clone(loaded)), graveyard: Arc::clone(&self.graveyard) };
                Box::new(move |_: &mut Shard| held.init_shard(shard))
            },
            move |_, late: Result<Instance, String>| {
                if let Ok(instance) = late {
                    bury(&graveyard, instance);
                }
            },
        );
        let mut instances = Vec::with_capacity(answers.len());
        let mut failure = None;
        for (handle, answer) in self.shards.iter().zip(answers) {
            let name = name.to_owned();
            let problem = match answer {
                Ok(Ok(instance)) => {
                    instances.push(Some(instance));
                    continue;
                }
                Ok(Err(said)) => LoadError::InitShard { name, shard: handle.id(), said },
                Err(unanswered) => LoadError::Shard { name, unanswered },
            };
            instances.push(None);
            failure.get_or_insert(problem);
        }
        match failure {
            None => Ok(instances),
            Some(problem) => {
                self.destroy(&Instances::new(instances));
                Err(problem)
            }
        }
    }

    /// Lets every shard destroy its instance, behind whatever it has been asked before.
    fn destroy(&self, instances: &Instances) {
        let all = everywhere::tell(&self.shards, self.answer_timeout, |shard| {
            let instance = instances.take(shard);
            let graveyard = Arc::clone(&self.graveyard);
            Box::new(move |_: &mut Shard| {
                if let Some(instance) = instance {
                    bury(&graveyard, instance);
                }
            })
        });
        if !all {
            tracing::warn!(
                "a shard has not destroyed its instance of a plugin yet; it will when it answers again"
            );
        }
    }

    /// Puts `after` into force on every shard in place of `before`, or on none.
    pub(super) fn swap(&mut self, name: &str, before: &[Staged], after: &[Staged]) -> Result<(), LoadError> {
        for plugin in after {
            let overrides = self.overrides.of(&plugin.name);
            plugin.refresh(overrides, |hook| self.identify(&plugin.name, hook));
        }
        self.table_generation += 1;
        let (generation, defaults) = (self.table_generation, self.defaults);
        let answers = everywhere::ask(
            &self.shards,
            self.answer_timeout,
            |shard| {
                let table = compile(generation, after, shard, defaults);
                Box::new(move |engine: &mut Shard| engine.swap_chains(table))
            },
            |engine, old: ChainTable| drop(engine.swap_chains(old)),
        );
        let mut swapped = Vec::new();
        let mut failure: Option<Unanswered> = None;
        for (handle, answer) in self.shards.iter().zip(answers) {
            match answer {
                Ok(old) => {
                    absorb(&mut self.totals, handle.id(), &old);
                    swapped.push(handle.clone());
                }
                Err(unanswered) => {
                    failure.get_or_insert(unanswered);
                }
            }
        }
        let Some(unanswered) = failure else { return Ok(()) };
        self.swap_back(&swapped, before);
        Err(LoadError::Shard { name: name.to_owned(), unanswered })
    }

    /// Puts `before` into force again. A shard that does not answer does so later, before anything else it is asked.
    pub(super) fn swap_back(&mut self, shards: &[ShardHandle], before: &[Staged]) {
        self.table_generation += 1;
        let (generation, defaults) = (self.table_generation, self.defaults);
        everywhere::tell(shards, self.answer_timeout, |shard| {
            let table = compile(generation, before, shard, defaults);
            Box::new(move |engine: &mut Shard| drop(engine.swap_chains(table)))
        });
    }

    /// Ends a plugin that no chain names any more. Its code stays mapped.
    pub(super) fn discard(&mut self, plugin: &Staged) {
        services::end(plugin.handle());
        self.destroy(&plugin.instances);
        self.totals.retain(|(_, handle, _), _| *handle != plugin.handle());
        let About { version, .. } = &plugin.about;
        self.retire(&plugin.name, version, plugin.generation, plugin.loaded.library.bytes);
    }

    fn retire(&mut self, name: &str, version: &str, generation: u32, mapped_bytes: u64) {
        let (name, version) = (self.texts.keep(name), self.texts.keep(version));
        self.retired.push(Gone { name, version, generation, mapped_bytes });
    }

    /// Lets go of what shards have left behind; the plugins' own ends run here.
    pub(super) fn reap(&self) {
        let dead = std::mem::take(&mut *self.graveyard.lock().unwrap_or_else(PoisonError::into_inner));
        drop(dead);
    }
}

/// A shared part on its way through a shard, which must not be the last to hold it.
struct Held {
    loaded: Option<Arc<Loaded>>,
    graveyard: Graveyard,
}

impl Held {
    fn init_shard(self, shard: ShardId) -> Result<Instance, String> {
        match &self.loaded {
            Some(loaded) => loaded.init_shard(shard),
            None => Err("it has ended already".to_owned()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            self.graveyard.lock().unwrap_or_else(PoisonError::into_inner).push(loaded);
        }
    }
}

fn bury(graveyard: &Graveyard, instance: Instance) {
    if let Some(loaded) = instance.destroy() {
        graveyard.lock().unwrap_or_else(PoisonError::into_inner).push(loaded);
    }
}

/// Adds what the chains of a table have counted.
pub(super) fn absorb(totals: &mut Totals, shard: ShardId, table: &ChainTable) {
    let links = HookPoint::ALL.iter().flat_map(|point| table.chain(*point).links());
    merge(totals, links.map(|(link, stats)| ((shard, link.plugin, link.identity), *stats)));
}

/// Adds counts to counts.
pub(super) fn merge(
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
