//! Plugins after a reload of the configuration: those that are new in it are loaded, those that it
//! changes get what it says, those that it has no more are unloaded. One transaction: if a step
//! fails, those before it are undone. Called by `reload`.

use std::sync::Arc;

use super::active::slots;
use super::loader_state::{LoaderState, Staged};
use super::order::{self, Node};
use super::overrides::Overrides;
use super::requested::RequestedPlugin;
use super::{Origin, PluginManager};
use crate::config::{Config, NoMatch, PluginConfig};
use crate::plugin::error::LoadError;
use crate::plugin::host::HostSettings;
use crate::plugin::manager::access::OpenListener;

/// A step that was done, and what undoes it.
enum Done {
    Loaded(String),
    /// It runs as another request says; this is the request before.
    Changed(Staged, RequestedPlugin),
    Unloaded(RequestedPlugin),
}

/// A reload of the plugins.
struct Change<'a> {
    old: &'a [PluginConfig],
    new: &'a [PluginConfig],
    /// Whether it is allowed even if no plugin would then decide who may connect or what clients
    /// may do.
    force: bool,
    done: Vec<Done>,
    /// What was not done, one sentence each.
    left: Vec<String>,
}

impl PluginManager {
    /// Makes the plugins of the configuration `new` out of those of `old`. Plugins that are the same
    /// in both stay as they are, also if they were changed with ctl. Blocks while shards answer.
    /// Returns a sentence for each plugin that was left as it is although it differs.
    ///
    /// # Errors
    /// [`LoadError`] of the first step that failed. The steps before it are undone; what cannot be
    /// undone is logged.
    pub fn reconfigure(
        &self,
        old: &[PluginConfig],
        new: &[PluginConfig],
        force: bool,
    ) -> Result<Vec<String>, LoadError> {
        let mut loader = self.begin();
        let overrides = loader.overrides.clone();
        let mut change = Change { old, new, force, done: Vec::new(), left: Vec::new() };
        let result = self.reconfigure_in(&mut loader, &overrides, &mut change);
        if result.is_err() {
            self.undo(&mut loader, overrides, change.done);
        } else {
            self.set_configured(new);
        }
        self.end(loader);
        self.write_record();
        result.map(|()| change.left)
    }

    fn reconfigure_in(
        &self,
        loader: &mut LoaderState,
        overrides: &Overrides,
        change: &mut Change<'_>,
    ) -> Result<(), LoadError> {
        for gone in change.old.iter().filter(|plugin| named(change.new, &plugin.name).is_none()) {
            loader.overrides.configure(&gone.name, &crate::config::HookOverrides::new());
        }
        for plugin in change.new {
            loader.overrides.configure(&plugin.name, &plugin.hooks);
        }
        let mut to_load = Vec::new();
        for plugin in change.new {
            if !named(change.old, &plugin.name).is_some_and(|before| before.is_same(plugin)) {
                self.change_one(loader, plugin, change, &mut to_load)?;
            }
        }
        self.load_all(loader, to_load, change)?;
        self.mount_as_configured(loader, overrides, change)?;
        for gone in change.old.iter().filter(|plugin| named(change.new, &plugin.name).is_none()) {
            self.unload_one(loader, &gone.name, change)?;
        }
        Ok(())
    }

    /// Gives a loaded plugin what the configuration says, or notes that it has to be loaded.
    fn change_one(
        &self,
        loader: &mut LoaderState,
        plugin: &PluginConfig,
        change: &mut Change<'_>,
        to_load: &mut Vec<RequestedPlugin>,
    ) -> Result<(), LoadError> {
        let name = &plugin.name;
        let active = self.view().active.iter().find(|active| *active.name == **name).cloned();
        let Some(active) = active else {
            let has_failed = self.view().failed.iter().any(|failed| failed.name() == name);
            if named(change.old, name).is_none() || has_failed {
                to_load.push(RequestedPlugin::configured(plugin, false));
            } else {
                change.left.push(format!(
                    "plugin {name} was unloaded with grapnel-ctl and stays so; `grapnel-ctl plugins load {name}` loads it"
                ));
            }
            return Ok(());
        };
        let before = active.wanted();
        let wanted = RequestedPlugin::configured(plugin, before.disabled);
        let is_other = (&wanted.source, wanted.priority) != (&before.source, before.priority);
        let now = if is_other {
            self.reload_as(loader, &active, &wanted, ("reload", change.force))?;
            self.view().active.iter().find(|active| *active.name == **name).cloned().unwrap_or(active)
        } else {
            if wanted.config != before.config {
                self.configure_in(loader, name, (wanted.config.clone(), false), change.force)?;
            }
            // It is another one if the plugin could not take the configuration while it runs.
            let now = self.view().active.iter().find(|active| *active.name == **name).cloned();
            let now = now.unwrap_or(active);
            now.set_wanted(wanted);
            now
        };
        change.done.push(Done::Changed(now, before));
        Ok(())
    }

    /// Loads plugins, those that others need first.
    fn load_all(
        &self,
        loader: &mut LoaderState,
        wanted: Vec<RequestedPlugin>,
        change: &mut Change<'_>,
    ) -> Result<(), LoadError> {
        let mut opened = Vec::with_capacity(wanted.len());
        let mut failed = None;
        for wanted in wanted {
            match self.open(loader, &wanted) {
                Ok(plugin) => opened.push(Some((wanted, plugin))),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let nodes = opened.iter().flatten();
        let nodes: Vec<Node<'_>> =
            nodes.map(|(_, plugin)| Node { name: &plugin.name, needs: &plugin.about.depends }).collect();
        let order::Order { indexes, cycles } = order::sorted(&nodes);
        if let Some((index, cycle)) = cycles.into_iter().next() {
            failed = failed.or(Some(LoadError::Cycle { name: nodes[index].name.to_owned(), cycle }));
        }
        for index in indexes {
            let Some((wanted, plugin)) = opened[index].take() else { continue };
            if failed.is_some() {
                loader.close(&plugin);
                continue;
            }
            let name = plugin.name.clone();
            match self.load_in(loader, &wanted, plugin) {
                Ok(_) => change.done.push(Done::Loaded(name)),
                Err(error) => failed = Some(error),
            }
        }
        for (_, plugin) in opened.into_iter().flatten() {
            loader.close(&plugin);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Compiles the chains again if the operator's settings for hooks differ.
    fn mount_as_configured(
        &self,
        loader: &mut LoaderState,
        before: &Overrides,
        change: &Change<'_>,
    ) -> Result<(), LoadError> {
        let active = self.view().active.clone();
        let is_other = |plugin: &&Staged| before.of(&plugin.name) != loader.overrides.of(&plugin.name);
        let Some(first) = active.iter().find(is_other).cloned() else { return Ok(()) };
        let slots = slots(&active);
        if !change.force {
            let after = (&slots[..], &loader.overrides);
            loader.access.check(("change a hook of", &first.name), (&slots, before), after)?;
        }
        active.iter().filter(is_other).for_each(|plugin| plugin.change());
        loader.swap(&first.name, &slots, &slots)
    }

    fn unload_one(
        &self,
        loader: &mut LoaderState,
        name: &str,
        change: &mut Change<'_>,
    ) -> Result<(), LoadError> {
        let view = self.view();
        let active = view.active.iter().find(|active| *active.name == *name).map(|active| active.wanted());
        let failed = view.failed.iter().find(|failed| failed.name() == name);
        let failed = failed.map(|failed| failed.wanted.clone());
        drop(view);
        match active.or(failed) {
            None => {}
            Some(wanted) if wanted.origin == Origin::Configured => {
                self.unload_in(loader, name, change.force)?;
                change.done.push(Done::Unloaded(wanted));
            }
            Some(_) => change.left.push(format!(
                "plugin {name} was loaded with grapnel-ctl and stays; `grapnel-ctl plugins unload {name}` unloads it"
            )),
        }
        Ok(())
    }

    /// Undoes the steps, the last one first.
    fn undo(&self, loader: &mut LoaderState, overrides: Overrides, done: Vec<Done>) {
        let is_mounted_otherwise = loader.overrides != overrides;
        loader.overrides = overrides;
        for step in done.into_iter().rev() {
            let undone = match step {
                Done::Loaded(name) => self.unload_in(loader, &name, true).map(drop),
                Done::Unloaded(wanted) => self
                    .open(loader, &wanted)
                    .and_then(|opened| self.load_in(loader, &wanted, opened))
                    .map(drop),
                Done::Changed(now, before) => self.change_back(loader, &now, before),
            };
            if let Err(error) = undone {
                tracing::error!(
                    "a reload of the configuration that failed is not undone as a whole: {error}"
                );
            }
        }
        if !is_mounted_otherwise {
            return;
        }
        let active = self.view().active.clone();
        active.iter().for_each(|plugin| plugin.change());
        let slots = slots(&active);
        if let Err(error) = loader.swap("of the configuration", &slots, &slots) {
            tracing::error!("settings of hooks are not undone yet: {error}");
        }
    }

    fn change_back(
        &self,
        loader: &mut LoaderState,
        now: &Staged,
        before: RequestedPlugin,
    ) -> Result<(), LoadError> {
        let wanted = now.wanted();
        if (&wanted.source, wanted.priority) != (&before.source, before.priority) {
            return self.reload_as(loader, now, &before, ("reload", true)).map(drop);
        }
        if wanted.config != before.config {
            self.configure_in(loader, &now.name, (before.config.clone(), false), true)?;
        }
        let active = self.view().active.iter().find(|active| active.name == now.name).cloned();
        active.unwrap_or_else(|| Arc::clone(now)).set_wanted(before);
        Ok(())
    }

    /// Takes the limits of a configuration for what plugins may request from now on, and what
    /// applies if no plugin decides. `listeners` are those of the configuration, with the ports
    /// that the system has chosen.
    pub fn set_rules(&self, config: &Config, listeners: Vec<OpenListener>) {
        self.services.attach(&HostSettings {
            limits: config.shell_limits.clone(),
            message_limits: Arc::new(config.limits.clone()),
            ..self.settings.host()
        });
        let mut loader = self.begin();
        loader.access.set(listeners, config.authorization.no_match == NoMatch::Allow);
        self.end(loader);
    }
}

fn named<'a>(plugins: &'a [PluginConfig], name: &str) -> Option<&'a PluginConfig> {
    plugins.iter().find(|plugin| plugin.name == name)
}
