//! Changes of a loaded plugin: reload, new configuration, settings for one hook, disable and
//! enable. Called by the control plane.

use std::sync::Arc;

use grapnel_engine::hook::HookPoint;
use serde_json::Value;

use super::active::{Active, PluginSlot, slots};
use super::handover::Handover;
use super::json_merge::merged;
use super::loader_state::{LoaderState, Staged};
use super::overrides::{self, HookChange, HookError};
use super::requested::RequestedPlugin;
use super::swap::not_back;
use super::{PluginManager, names, needed_by, with_object};
use crate::config::hooks;
use crate::plugin::error::LoadError;
use crate::plugin::file::manifest::check_config;
use crate::plugin::report::{Configured, HookRow, PluginInfo};

impl PluginManager {
    /// Reads a plugin's file again and replaces the old code by the new code; clients are not
    /// affected. `config` replaces its configuration. The state that the plugin exports is handed
    /// over to the new instances without losing an event. A plugin that had failed is tried again;
    /// a disabled plugin stays disabled.
    ///
    /// # Errors
    /// [`LoadError`]; the old version is still in force then, as [`LoadError::GoesOn`] says.
    pub fn reload(&self, name: &str, config: Option<Value>) -> Result<PluginInfo, LoadError> {
        self.reload_with(name, config, false)
    }

    /// As [`PluginManager::reload`]; `force` allows it even if no plugin would then decide who may
    /// connect or what clients may do.
    ///
    /// # Errors
    /// As [`PluginManager::reload`]; [`LoadError::LastDecider`].
    pub fn reload_with(
        &self,
        name: &str,
        config: Option<Value>,
        force: bool,
    ) -> Result<PluginInfo, LoadError> {
        let mut loader = self.begin();
        let result = self.reload_in(&mut loader, name, config, ("reload", force));
        self.end(loader);
        let info = result.map_err(|error| self.goes_on("reload", name, error))?;
        Ok(self.recorded(&info.name).unwrap_or(info))
    }

    /// Why a plugin was not replaced, with the version that is still loaded.
    fn goes_on(&self, doing: &'static str, name: &str, error: LoadError) -> LoadError {
        let view = self.view();
        let Some(plugin) = view.active.iter().find(|plugin| &*plugin.name == name) else { return error };
        LoadError::GoesOn {
            error: Box::new(error),
            doing,
            name: name.to_owned(),
            version: plugin.about.version.clone(),
            enabled: plugin.is_enabled(),
        }
    }

    fn reload_in(
        &self,
        loader: &mut LoaderState,
        name: &str,
        config: Option<Value>,
        (doing, force): (&'static str, bool),
    ) -> Result<PluginInfo, LoadError> {
        let before = self.view().active.clone();
        let Some(old) = find(name, &before) else {
            let failed = self.view().failed.iter().find(|failed| failed.name() == name).cloned();
            let Some(failed) = failed else { return Err(not_loaded(name, &before)) };
            let wanted = with_config(&failed.wanted, config);
            let opened = self.open(loader, &wanted)?;
            return self.load_in(loader, &wanted, opened);
        };
        let wanted = with_config(&old.wanted(), config);
        self.reload_as(loader, &old, &wanted, (doing, force))
    }

    /// Replaces a loaded plugin by what is wanted instead, which has the same name.
    pub(super) fn reload_as(
        &self,
        loader: &mut LoaderState,
        old: &Staged,
        wanted: &RequestedPlugin,
        (doing, force): (&'static str, bool),
    ) -> Result<PluginInfo, LoadError> {
        let before = self.view().active.clone();
        let name = &*old.name;
        let wanted = with_object(wanted);
        let opened = self.open(loader, &wanted)?;
        let beside: Vec<_> = before.iter().filter(|plugin| !Arc::ptr_eq(plugin, old)).cloned().collect();
        let new = loader.stage(&wanted, opened, &beside)?;
        let replaced = |plugin: &Staged| if Arc::ptr_eq(plugin, old) { &new } else { plugin }.clone();
        let after: Vec<_> = before.iter().map(replaced).collect();
        let checked = loader.check_access((doing, name), (&slots(&before), &slots(&after)), force);
        checked.inspect_err(|_| loader.discard(&new))?;
        self.replace(loader, &before, old, &new)
    }

    /// Replaces the loaded version by a staged one, or discards the staged one.
    fn replace(
        &self,
        loader: &mut LoaderState,
        before: &[Staged],
        old: &Staged,
        new: &Staged,
    ) -> Result<PluginInfo, LoadError> {
        new.take_place_of(old);
        let replaced = |plugin: &Staged| if Arc::ptr_eq(plugin, old) { new } else { plugin }.clone();
        let after: Vec<_> = before.iter().map(replaced).collect();
        let swapped = loader.try_handover(old, new).and_then(|mut handover| {
            let lost = loader.swap_over(&old.name, &slots(before), &slots(&after), &mut handover)?;
            let handed = handover.without(&lost);
            Ok((lost, handed))
        });
        let (lost, handed) = swapped.inspect_err(|_| {
            loader.end_pieces(old);
            loader.discard(new);
        })?;
        if old.is_enabled() {
            old.loaded.deactivate();
            if let Err(reason) = new.loaded.activate() {
                let shards = self.settings.shards.clone();
                for (shard, reason) in loader.swap_back(&shards, &slots(before), &handed) {
                    old.warn(not_back(shard, &reason));
                }
                if let Err(reason) = old.loaded.activate() {
                    old.warn(format!("it could not be activated again after a reload that failed: {reason}"));
                }
                loader.discard(new);
                return Err(LoadError::Activate { name: old.name.to_string(), reason });
            }
        }
        if handed.has_pieces() {
            loader.end_pieces(new);
        }
        self.commit(loader, after, |_| {});
        loader.discard(old);
        for (shard, reason) in lost {
            new.warn(format!(
                "on shard {shard} its state went over when the reload was tried and not again when the shard swapped, so that \
                 what came between is lost: {reason}"
            ));
        }
        tracing::info!(
            plugin = &*new.name,
            generation = new.generation,
            version = new.about.version,
            state_pieces = handed.moved.pieces,
            state_bytes = handed.moved.bytes,
            longest_piece_us = handed.moved.longest.as_micros() as u64,
            "reloaded"
        );
        new.log_unmounted();
        Ok(new.info())
    }

    /// Gives a plugin another configuration: while it runs if the plugin supports that, otherwise
    /// by a reload. With `merge`, `config` is a JSON Merge Patch (RFC 7396): it has only the
    /// changes, tables are merged, and null removes a key.
    ///
    /// # Errors
    /// [`LoadError`]; the configuration is then unchanged.
    pub fn configure(&self, name: &str, config: Value, merge: bool) -> Result<Configured, LoadError> {
        self.configure_with(name, config, merge, false)
    }

    /// As [`PluginManager::configure`]; `force` allows a reload even if no plugin would then decide
    /// who may connect or what clients may do.
    ///
    /// # Errors
    /// As [`PluginManager::configure`]; [`LoadError::LastDecider`].
    pub fn configure_with(
        &self,
        name: &str,
        config: Value,
        merge: bool,
        force: bool,
    ) -> Result<Configured, LoadError> {
        let mut loader = self.begin();
        let result = self.configure_in(&mut loader, name, (config, merge), force);
        self.end(loader);
        let Configured { reloaded, plugin } = result.map_err(|error| match error {
            // The error says already what is still in force.
            LoadError::Configure { .. } => error,
            error => self.goes_on("configure", name, error),
        })?;
        Ok(Configured { reloaded, plugin: self.recorded(&plugin.name).unwrap_or(plugin) })
    }

    pub(super) fn configure_in(
        &self,
        loader: &mut LoaderState,
        name: &str,
        (config, merge): (Value, bool),
        force: bool,
    ) -> Result<Configured, LoadError> {
        let active = self.view().active.clone();
        let plugin = find(name, &active).ok_or_else(|| not_loaded(name, &active))?;
        let config = if merge { merged(plugin.wanted().config, config) } else { config };
        check_config(&plugin.loaded.library, &plugin.about, name, &config)?;
        let taken = plugin.loaded.configure(&config.to_string());
        let taken = taken.map_err(|reason| LoadError::Configure { name: name.to_owned(), reason })?;
        if !taken {
            let plugin = self.reload_in(loader, name, Some(config), ("configure", force))?;
            return Ok(Configured { reloaded: true, plugin });
        }
        plugin.set_config(config);
        if !loader.notify_configured(&plugin) {
            plugin.warn(
                "a shard has not looked at its new configuration yet; it will when it answers again"
                    .to_owned(),
            );
        }
        tracing::info!(plugin = name, "configured");
        Ok(Configured { reloaded: false, plugin: plugin.info() })
    }

    /// Changes the settings of one or more hooks of a loaded plugin in one swap, and stores them
    /// for the next start. Returns the row of the first hook.
    ///
    /// # Errors
    /// [`HookError`]; nothing has changed then. If only the file could not be written, the change
    /// is in force, and the plugin's warnings say so.
    pub fn override_hook(&self, wanted: &HookChange) -> Result<HookRow, HookError> {
        let HookChange { plugin: name, point, hook, also, clear, change, force } = wanted;
        let known = HookPoint::from_name(point).ok_or_else(|| HookError::Point { point: point.clone() })?;
        change.check().map_err(HookError::Value)?;
        let mut loader = self.begin();
        let active = self.view().active.clone();
        let Some(plugin) = active.iter().find(|plugin| *plugin.name == **name) else {
            let error = LoadError::NotLoaded { name: name.clone(), loaded: names(&active) };
            return Err(error.into());
        };
        let keys = plugin.hook_keys();
        let wanted: Vec<String> =
            std::iter::once(hooks::key(known, hook)).chain(also.iter().cloned()).collect();
        if let Some(missing) = wanted.iter().find(|key| !keys.contains(key)) {
            let (point, hook) = missing.split_once('/').unwrap_or((missing, ""));
            let (plugin, point, hook) = (name.clone(), point.to_owned(), hook.to_owned());
            return Err(HookError::Hook { plugin, point, hook, known: keys });
        }
        let before = loader.overrides.clone();
        wanted.iter().for_each(|key| loader.overrides.set(name, key, *clear, *change));
        let slots = slots(&active);
        let checked = if *force {
            Ok(())
        } else {
            let after = (&slots[..], &loader.overrides);
            loader.access.check(("change a hook of", name), (&slots, &before), after)
        };
        if let Err(error) = checked.and_then(|()| loader.swap(name, &slots, &slots)) {
            loader.overrides = before;
            plugin.change();
            return Err(error.into());
        }
        if let Some(record) = &self.settings.record
            && let Err(error) = loader.overrides.write(&overrides::file_beside(record))
        {
            plugin.warn(format!("what was set for its hooks holds, but not after a restart: {error}"));
        }
        for key in &wanted {
            let overrides = loader.overrides.of(name).get(key).copied().unwrap_or_default();
            tracing::info!(plugin = name, hook = key, "what the operator says of the hook: {overrides}");
        }
        self.end(loader);
        let row = self.hooks(false).rows.into_iter();
        let row = row.filter(|row| row.plugin == *name && row.hook == *hook).find(|row| row.point == *point);
        Ok(row.unwrap_or_default())
    }

    /// Takes a plugin out of every chain. It stays loaded with its configuration and its instances,
    /// and is disabled after a restart too.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`], [`LoadError::NeededBy`], [`LoadError::LastDecider`] or
    /// [`LoadError::Shard`]; nothing has changed then.
    pub fn disable(&self, name: &str) -> Result<PluginInfo, LoadError> {
        self.disable_with(name, false)
    }

    /// As [`PluginManager::disable`]; `force` allows it even if no plugin would then decide who may
    /// connect or what clients may do.
    ///
    /// # Errors
    /// As [`PluginManager::disable`].
    pub fn disable_with(&self, name: &str, force: bool) -> Result<PluginInfo, LoadError> {
        let mut loader = self.begin();
        let active = self.view().active.clone();
        let plugin = find(name, &active).ok_or_else(|| not_loaded(name, &active))?;
        let by = needed_by(name, &active).filter(|other| other.is_enabled());
        let by: Vec<String> = by.map(|other| other.name.to_string()).collect();
        if !by.is_empty() {
            return Err(LoadError::NeededBy { doing: "disable", name: name.to_owned(), by });
        }
        if plugin.is_enabled() {
            let before = slots(&active);
            let after: Vec<PluginSlot> =
                before.iter().cloned().map(|slot| slot.switched(&plugin, false)).collect();
            loader.check_access(("disable", name), (&before, &after), force)?;
            switch(&mut loader, &active, &plugin, false)?;
            plugin.loaded.deactivate();
            tracing::info!(plugin = name, "disabled");
        }
        self.end(loader);
        Ok(self.recorded(name).unwrap_or_else(|| plugin.info()))
    }

    /// Puts a disabled plugin back to its position in the chains, with its existing instances.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`]; [`LoadError::Needs`] if a plugin that it needs is disabled;
    /// [`LoadError::Activate`] or [`LoadError::Shard`], after which it is still disabled.
    pub fn enable(&self, name: &str) -> Result<PluginInfo, LoadError> {
        let mut loader = self.begin();
        let active = self.view().active.clone();
        let plugin = find(name, &active).ok_or_else(|| not_loaded(name, &active))?;
        if !plugin.is_enabled() {
            let disabled = active.iter().find(|other| plugin.needs(&other.name) && !other.is_enabled());
            if let Some(missing) = disabled {
                let (name, missing) = (name.to_owned(), missing.name.to_string());
                return Err(LoadError::Needs { name, missing, disabled: true });
            }
            self.enable_in(&mut loader, &active, &plugin)?;
            tracing::info!(plugin = name, "enabled");
            plugin.log_unmounted();
        }
        self.end(loader);
        Ok(self.recorded(name).unwrap_or_else(|| plugin.info()))
    }

    fn enable_in(
        &self,
        loader: &mut LoaderState,
        active: &[Staged],
        plugin: &Staged,
    ) -> Result<(), LoadError> {
        switch(loader, active, plugin, true)?;
        if let Err(reason) = plugin.loaded.activate() {
            plugin.set_enabled(false);
            let shards = self.settings.shards.clone();
            loader.swap_back(&shards, &slots(active), &Handover::default());
            return Err(LoadError::Activate { name: plugin.name.to_string(), reason });
        }
        Ok(())
    }
}

/// Puts a plugin into the chains of every shard or takes it out of them; changes nothing on
/// failure.
fn switch(
    loader: &mut LoaderState,
    active: &[Staged],
    plugin: &Staged,
    enabled: bool,
) -> Result<(), LoadError> {
    let before = slots(active);
    let after: Vec<PluginSlot> = before.iter().cloned().map(|slot| slot.switched(plugin, enabled)).collect();
    loader.swap(&plugin.name, &before, &after)?;
    plugin.set_enabled(enabled);
    Ok(())
}

fn find(name: &str, active: &[Arc<Active>]) -> Option<Arc<Active>> {
    active.iter().find(|plugin| &*plugin.name == name).cloned()
}

fn not_loaded(name: &str, active: &[Arc<Active>]) -> LoadError {
    LoadError::NotLoaded { name: name.to_owned(), loaded: names(active) }
}

fn with_config(wanted: &RequestedPlugin, config: Option<Value>) -> RequestedPlugin {
    RequestedPlugin { config: config.unwrap_or_else(|| wanted.config.clone()), ..wanted.clone() }
}
