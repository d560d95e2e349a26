//! A loaded plugin in the chains: its code, its hooks with the operator's settings, and its
//! instance on each shard. Also compiles the chains of a shard from a list of plugins. Used by
//! transactions and reports.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grapnel_engine::hook::{
    ChainTable, Entry, FaultPolicy, HookPoint, InstanceEntry, Link, LinkIdentity, PluginHandle,
};
use grapnel_engine::id::ShardId;

use super::loaded::{Callee, Instance, Loaded};
use super::requested::RequestedPlugin;
use crate::config::{HookOverride, HookOverrides, hooks};
use crate::plugin::error::LoadError;
use crate::plugin::file::manifest::{Hook, Opened, PluginManifest};
use crate::plugin::host::mounts::Mounted;
use crate::plugin::host::services::Services;
use crate::plugin::report::{HookInfo, PluginInfo, PluginState};

/// A hook with its identity among all hooks.
pub(in crate::plugin) struct ActiveHook {
    pub hook: Hook,
    pub identity: LinkIdentity,
    /// Plugin and hook, for logs and reports.
    pub label: Arc<str>,
    /// Its number, if it was mounted at run time.
    pub number: Option<u64>,
}

/// A plugin with an instance on every shard.
pub(in crate::plugin) struct Active {
    pub name: Arc<str>,
    wanted: Mutex<RequestedPlugin>,
    pub about: PluginManifest,
    pub file: PathBuf,
    pub generation: u32,
    pub loaded_at_ms: u64,
    pub hooks: Vec<ActiveHook>,
    pub loaded: Arc<Loaded>,
    pub instances: Instances,
    warnings: Mutex<Vec<String>>,
    admitted: RequestGuard,
    run_time: RunTime,
}

/// While this value lives, the generation may send requests to the broker. Dropping it also ends
/// the generation's threads.
pub(in crate::plugin) struct RequestGuard {
    handle: PluginHandle,
    /// Its bit in the ancestry of messages.
    bit: u8,
    services: &'static Services,
}

impl RequestGuard {
    /// # Errors
    /// [`LoadError::Ancestry`].
    pub(in crate::plugin) fn new(
        services: &'static Services,
        handle: PluginHandle,
        name: &str,
        hooks: &[Hook],
    ) -> Result<RequestGuard, LoadError> {
        let bit = services.admit(handle, &name.into(), hooks);
        let bit = bit.ok_or_else(|| LoadError::Ancestry { name: name.to_owned() })?;
        Ok(RequestGuard { handle, bit, services })
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.services.end_generation(self.handle, self.bit);
    }
}

/// What may change about a plugin while it is in the chains.
pub(in crate::plugin) struct RunTime {
    /// Its position in the order of mounting; a reload keeps it.
    order: AtomicU64,
    /// Hooks that the plugin mounted at run time, each with its position in the order of mounting.
    mounted: Mutex<Vec<(u64, ActiveHook)>>,
    /// Whether the plugin has been in the chains: hooks that it mounts from then on come after all
    /// hooks that were mounted before.
    compiled: AtomicBool,
    /// Whether the chains must be compiled again.
    changed: AtomicBool,
    /// The shard on which it failed too often; its hooks are not called since then.
    tripped: Mutex<Option<ShardId>>,
    /// The operator's settings for its hooks.
    overrides: Mutex<HookOverrides>,
}

impl RunTime {
    /// State of a plugin that comes next in the order of mounting.
    pub(in crate::plugin) fn next(services: &Services) -> RunTime {
        RunTime {
            order: AtomicU64::new(services.next_mount()),
            mounted: Mutex::default(),
            compiled: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            tripped: Mutex::default(),
            overrides: Mutex::default(),
        }
    }

    fn mounted(&self) -> MutexGuard<'_, Vec<(u64, ActiveHook)>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of a plugin that has been loaded on every shard.
pub(in crate::plugin) struct Parts {
    pub wanted: RequestedPlugin,
    pub opened: Opened,
    pub generation: u32,
    pub loaded_at_ms: u64,
    pub hooks: Vec<ActiveHook>,
    pub loaded: Arc<Loaded>,
    /// One for each shard.
    pub instances: Vec<Option<Instance>>,
    pub admitted: RequestGuard,
}

/// One instance per shard, until it is taken out to be destroyed.
pub(in crate::plugin) struct Instances(Mutex<Vec<Option<Instance>>>);

impl Instances {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Instance>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn callbacks(&self, shard: ShardId, plugin: PluginHandle) -> Option<(PluginHandle, InstanceEntry)> {
        let instances = self.lock();
        instances.get(shard.index())?.as_ref()?.callbacks().map(|entry| (plugin, entry))
    }

    /// Takes the instance of a shard out; no chain may name it any more.
    pub(in crate::plugin) fn take(&self, shard: ShardId) -> Option<Instance> {
        self.lock().get_mut(shard.index()).and_then(Option::take)
    }

    /// The instance of a shard, for a job of that shard. That job must be submitted before the job
    /// that destroys the instance.
    pub(in crate::plugin) fn callee(&self, shard: ShardId) -> Option<Callee> {
        self.lock().get(shard.index()).and_then(Option::as_ref).and_then(Instance::callee)
    }
}

/// Values that all plugins of a compilation share.
#[derive(Clone, Copy)]
pub(in crate::plugin) struct Defaults {
    /// Deadline in milliseconds of a deferred verdict, if the hook sets none.
    pub deadline_ms: u32,
}

impl Active {
    pub(in crate::plugin) fn new(staged: Parts) -> Active {
        let Parts { wanted, opened, generation, loaded_at_ms, hooks, loaded, instances, admitted } = staged;
        let Opened { name, about, file, .. } = opened;
        let wanted = RequestedPlugin { name: Some(name.clone()), ..wanted };
        let run_time = RunTime::next(admitted.services);
        Active {
            name: name.as_str().into(),
            wanted: Mutex::new(wanted),
            about,
            file,
            generation,
            loaded_at_ms,
            hooks,
            loaded,
            instances: Instances(Mutex::new(instances)),
            warnings: Mutex::default(),
            admitted,
            run_time,
        }
    }

    /// What the operator requests for it now.
    pub(in crate::plugin) fn wanted(&self) -> RequestedPlugin {
        self.wanted_mut().clone()
    }

    fn wanted_mut(&self) -> MutexGuard<'_, RequestedPlugin> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its hooks are to be in the chains.
    pub(in crate::plugin) fn is_enabled(&self) -> bool {
        !self.wanted_mut().disabled
    }

    pub(in crate::plugin) fn set_enabled(&self, enabled: bool) {
        self.wanted_mut().disabled = !enabled;
    }

    /// Replaces the request, whose source, configuration and priority must be those in force.
    pub(in crate::plugin) fn set_wanted(&self, wanted: RequestedPlugin) {
        *self.wanted_mut() = wanted;
    }

    pub(in crate::plugin) fn set_config(&self, config: serde_json::Value) {
        self.wanted_mut().config = config;
    }

    pub(in crate::plugin) fn needs(&self, name: &str) -> bool {
        self.about.depends.iter().any(|needed| needed == name)
    }

    pub(in crate::plugin) fn handle(&self) -> PluginHandle {
        self.loaded.handle
    }

    /// Takes the position of the previous version in the order of mounting.
    pub(in crate::plugin) fn take_place_of(&self, other: &Active) {
        self.run_time.order.store(other.run_time.order.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn tripped(&self) -> MutexGuard<'_, Option<ShardId>> {
        self.run_time.tripped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the calls of its hooks, because it failed too often on a shard; takes effect with the
    /// next compilation. Returns whether it was not tripped before.
    pub(in crate::plugin) fn trip(&self, shard: ShardId) -> bool {
        let news = self.tripped().replace(shard).is_none();
        // Also if it was tripped already: a shard that was re-armed in between has tripped it
        // again.
        self.change();
        news
    }

    /// Lets its hooks be called again; takes effect with the next compilation. Returns the shard
    /// that had tripped it, if it was tripped.
    pub(in crate::plugin) fn rearm(&self) -> Option<ShardId> {
        let was = self.tripped().take();
        if was.is_some() {
            self.change();
        }
        was
    }

    /// Requests that its chains are compiled again.
    pub(in crate::plugin) fn change(&self) {
        self.run_time.changed.store(true, Ordering::Release);
    }

    /// Whether its chains must be compiled again.
    pub(in crate::plugin) fn is_changed(&self) -> bool {
        self.run_time.changed.load(Ordering::Acquire) || self.admitted.services.mounts_changed(self.handle())
    }

    /// Before a compilation: takes the hooks that the plugin has mounted by now, and the operator's
    /// settings for its hooks. `identify` assigns the identity of a hook.
    pub(in crate::plugin) fn refresh(
        &self,
        overrides: HookOverrides,
        mut identify: impl FnMut(Hook) -> ActiveHook,
    ) {
        *self.run_time.overrides.lock().unwrap_or_else(PoisonError::into_inner) = overrides;
        self.run_time.changed.store(false, Ordering::Release);
        let early = !self.run_time.compiled.swap(true, Ordering::Relaxed);
        let order = self.run_time.order.load(Ordering::Relaxed);
        let mut mounted = self.run_time.mounted();
        let before = std::mem::take(&mut *mounted);
        let place = |number: u64, before: &[(u64, ActiveHook)]| {
            let known = before.iter().find(|(_, active)| active.number == Some(number));
            known.map_or(if early { order } else { number }, |(place, _)| *place)
        };
        *mounted = self
            .admitted
            .services
            .mounts(self.handle())
            .into_iter()
            .map(|Mounted { number, hook }| {
                let active = ActiveHook { number: Some(number), ..identify(hook) };
                (place(number, &before), active)
            })
            .collect();
    }

    /// The operator's settings for a hook.
    pub(in crate::plugin) fn overridden(&self, hook: &Hook) -> HookOverride {
        let overrides = self.run_time.overrides.lock().unwrap_or_else(PoisonError::into_inner);
        overrides.get(&hooks::key(hook.point, &hook.name)).copied().unwrap_or_default()
    }

    fn priority(&self, hook: &Hook) -> i32 {
        self.overridden(hook).priority.or(self.wanted_mut().priority).unwrap_or(hook.priority)
    }

    fn policy(&self, hook: &Hook) -> FaultPolicy {
        self.overridden(hook).fault_policy.map_or_else(|| hook.policy(), FaultPolicy::from)
    }

    /// Calls `look` for each hook: those of the plugin's list, then those mounted at run time.
    pub(in crate::plugin) fn each_hook(&self, mut look: impl FnMut(&ActiveHook)) {
        self.hooks.iter().for_each(&mut look);
        self.run_time.mounted().iter().for_each(|(_, active)| look(active));
    }

    /// Whether it has a hook mounted on a point: by its present mounts, and by `said`, the
    /// operator's settings.
    pub(in crate::plugin) fn mounts_at(&self, point: HookPoint, overrides: &HookOverrides) -> bool {
        let mounted = self.admitted.services.mounted_by(self.handle());
        let hooks =
            self.hooks.iter().map(|active| &active.hook).chain(mounted.iter().map(|mounted| &mounted.hook));
        hooks.filter(|hook| hook.point == point).any(|hook| {
            overrides
                .get(&hooks::key(point, &hook.name))
                .is_none_or(|overrides| overrides.mounted != Some(false))
        })
    }

    /// Point and name of each of its hooks.
    pub(in crate::plugin) fn hook_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        self.each_hook(|active| keys.push(hooks::key(active.hook.point, &active.hook.name)));
        keys
    }

    fn links(&self, shard: ShardId, defaults: Defaults) -> Vec<(u64, HookPoint, Link)> {
        let instances = self.instances.lock();
        let Some(Some(instance)) = instances.get(shard.index()) else { return Vec::new() };
        let tripped = self.tripped().is_some();
        let link = |active: &ActiveHook| Link {
            entry: if tripped { Entry::tripped() } else { instance.entry(&active.hook) },
            plugin: self.handle(),
            identity: active.identity,
            name: Arc::clone(&active.label),
            priority: self.priority(&active.hook),
            deadline_ms: match self.overridden(&active.hook).deadline_ms.unwrap_or(active.hook.deadline_ms) {
                0 => defaults.deadline_ms,
                own => own,
            },
            policy: self.policy(&active.hook),
            topics: active.hook.topics.clone(),
            deliver: active.hook.deliver,
            bit: self.admitted.bit,
        };
        let order = self.run_time.order.load(Ordering::Relaxed);
        let wanted = |active: &ActiveHook| self.overridden(&active.hook).mounted != Some(false);
        let listed = self
            .hooks
            .iter()
            .filter(|active| wanted(active))
            .map(|active| (order, active.hook.point, link(active)));
        let mounted = self.run_time.mounted();
        let mounted = mounted
            .iter()
            .filter(|(_, active)| wanted(active))
            .map(|(order, active)| (*order, active.hook.point, link(active)));
        listed.chain(mounted).collect()
    }

    pub(in crate::plugin) fn info(&self) -> PluginInfo {
        let mounted = self.run_time.mounted();
        let all = self.hooks.iter().chain(mounted.iter().map(|(_, active)| active));
        let hooks = all.map(|active| {
            let hook = &active.hook;
            let overridden = self.overridden(hook);
            let deadline_ms = overridden.deadline_ms.unwrap_or(hook.deadline_ms);
            let info = hook.info(self.priority(hook), deadline_ms, self.policy(hook));
            HookInfo { unmounted: overridden.mounted == Some(false), ..info }
        });
        let (origin, required, priority, enabled) = {
            let wanted = self.wanted_mut();
            (wanted.origin, wanted.required, wanted.priority, !wanted.disabled)
        };
        let tripped = *self.tripped();
        PluginInfo {
            name: self.name.to_string(),
            state: match tripped {
                _ if !enabled => PluginState::Disabled,
                None => PluginState::Loaded,
                Some(shard) => PluginState::Tripped(format!(
                    "it failed too often on shard {shard} (limits.breaker_faults_max within limits.breaker_window_ms); its hooks \
                     act by their fault policies until it is armed again"
                )),
            },
            version: self.about.version.clone(),
            description: self.about.description.clone(),
            sdk: self.about.sdk.clone(),
            file: Some(self.file.clone()),
            origin,
            required,
            generation: self.generation,
            priority,
            hooks: hooks.collect(),
            depends: self.about.depends.clone(),
            closable: self.about.closable,
            config_schema: None,
            mapped_bytes: self.loaded.library.bytes,
            loaded_at_ms: self.loaded_at_ms,
            warnings: self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// As `info`, with the fields that are shown only when a single plugin is requested.
    pub(in crate::plugin) fn whole_info(&self) -> PluginInfo {
        let config_schema = self.about.schema.as_ref().map(|schema| schema.value().clone());
        PluginInfo { config_schema, ..self.info() }
    }

    /// Logs which of its hooks the operator has unmounted, if there are any. Called when a plugin
    /// is loaded or enabled, so that the operator sees at that moment why it does not do its work.
    pub(in crate::plugin) fn log_unmounted(&self) {
        let hooks = self.info().hooks;
        let out: Vec<String> = hooks.iter().filter(|hook| hook.unmounted).map(HookInfo::key).collect();
        if !out.is_empty() {
            tracing::warn!(
                plugin = &*self.name,
                "not called, because the operator has unmounted it: {}; see `grapnel-ctl hooks list` and `hooks mount`",
                out.join(", ")
            );
        }
    }

    pub(in crate::plugin) fn warn(&self, warning: String) {
        tracing::warn!(plugin = &*self.name, "{warning}");
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }
}

/// A plugin in the order of mounting.
#[derive(Clone)]
pub(in crate::plugin) struct PluginSlot {
    pub plugin: Arc<Active>,
    /// Whether its hooks are in the chains. Its timers and instance messages are in the chain table
    /// either way.
    pub enabled: bool,
}

impl PluginSlot {
    /// Whether it is disabled or tripped: its timers, instance messages and answers wait.
    pub(in crate::plugin) fn is_suspended(&self) -> bool {
        !self.enabled || self.plugin.tripped().is_some()
    }

    /// The same slot, enabled or disabled if it belongs to `plugin`.
    pub(in crate::plugin) fn switched(self, plugin: &Arc<Active>, enabled: bool) -> PluginSlot {
        if Arc::ptr_eq(&self.plugin, plugin) { PluginSlot { enabled, ..self } } else { self }
    }
}

/// The plugins as they are now, in order of mounting.
pub(in crate::plugin) fn slots(plugins: &[Arc<Active>]) -> Vec<PluginSlot> {
    let slot = |plugin: &Arc<Active>| PluginSlot { plugin: Arc::clone(plugin), enabled: plugin.is_enabled() };
    plugins.iter().map(slot).collect()
}

/// Compiles the chains of one shard; plugins are mounted in the order of the list.
pub(in crate::plugin) fn compile(
    generation: u64,
    slots: &[PluginSlot],
    shard: ShardId,
    defaults: Defaults,
) -> ChainTable {
    let instances = slots
        .iter()
        .filter_map(|PluginSlot { plugin, .. }| plugin.instances.callbacks(shard, plugin.handle()));
    let suspended = slots.iter().filter(|slot| slot.is_suspended());
    let suspended = suspended.map(|slot| slot.plugin.handle());
    let enabled = slots.iter().filter(|slot| slot.enabled);
    let mut links: Vec<_> = enabled.flat_map(|slot| slot.plugin.links(shard, defaults)).collect();
    links.sort_by_key(|(order, ..)| *order);
    ChainTable::compile(generation, links.into_iter().map(|(_, point, link)| (point, link)))
        .with_instances(instances.collect())
        .with_suspended_plugins(suspended.collect())
}
