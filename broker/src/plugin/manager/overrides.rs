//! What the operator has set for single hooks: by the configuration for every start, and through ctl,
//! field by field, in a file beside the record of plugins. Used by the manager; read when chains are
//! compiled.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state_file;
use crate::config::{HookOverride, HookOverrides};

/// Something to say about one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookChange {
    /// The plugin.
    pub plugin: String,
    /// The hook point, such as `message.publish`.
    pub point: String,
    /// The hook's name.
    pub hook: String,
    /// Others of the plugin, as `POINT/HOOK`, of which the same is said in the same change: all or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Whether what was said before through ctl is taken back first.
    #[serde(default)]
    pub clear: bool,
    /// What is said now.
    #[serde(default)]
    pub change: HookOverride,
    /// Also where nobody would decide any more who may connect or what clients may do.
    #[serde(default)]
    pub force: bool,
}

/// All that the operator says about hooks, by plugin.
#[derive(Clone, Debug, Default)]
pub(in crate::plugin) struct Overrides {
    configured: BTreeMap<String, HookOverrides>,
    /// Through ctl.
    set: BTreeMap<String, HookOverrides>,
}

impl Overrides {
    /// Takes what the configuration says about a plugin.
    pub(in crate::plugin) fn configure(&mut self, plugin: &str, hooks: &HookOverrides) {
        self.configured.insert(plugin.to_owned(), hooks.clone());
    }

    /// What holds for the hooks of a plugin.
    pub(in crate::plugin) fn of(&self, plugin: &str) -> HookOverrides {
        let mut all = self.configured.get(plugin).cloned().unwrap_or_default();
        for (hook, set) in self.set.get(plugin).into_iter().flatten() {
            let below = all.get(hook).copied().unwrap_or_default();
            all.insert(hook.clone(), set.over(below));
        }
        all
    }

    /// Says something more about a hook, or with `clear` nothing but this.
    pub(in crate::plugin) fn set(&mut self, plugin: &str, hook: &str, clear: bool, change: HookOverride) {
        let hooks = self.set.entry(plugin.to_owned()).or_default();
        let before =
            if clear { HookOverride::default() } else { hooks.get(hook).copied().unwrap_or_default() };
        let mut now = change.over(before);
        let configured = self.configured.get(plugin).and_then(|hooks| hooks.get(hook)).copied();
        // Mounted is what a hook is anyhow.
        if now.mounted == Some(true) && configured.is_none_or(|below| below.mounted != Some(false)) {
            now.mounted = None;
        }
        if now.is_empty() {
            hooks.remove(hook);
        } else {
            hooks.insert(hook.to_owned(), now);
        }
        self.set.retain(|_, hooks| !hooks.is_empty());
    }

    /// Brings back what was set through ctl before the last stop.
    ///
    /// # Errors
    /// As [`state_file::read`].
    pub(in crate::plugin) fn read(&mut self, file: &Path) -> io::Result<()> {
        self.set = state_file::read::<Content>(file)?.hooks;
        Ok(())
    }

    /// Remembers what was set through ctl.
    ///
    /// # Errors
    /// As [`state_file::write`].
    pub(in crate::plugin) fn write(&self, file: &Path) -> io::Result<()> {
        state_file::write(file, Content { hooks: self.set.clone() })
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    /// By plugin, then by point and hook.
    hooks: BTreeMap<String, HookOverrides>,
}

/// Where overrides are remembered: beside the record of the plugins.
pub(in crate::plugin) fn file_beside(record: &Path) -> PathBuf {
    record.with_file_name("hooks.json")
}

/// Why an override was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A hook point that there is not.
    #[error("there is no hook point {point}; `grapnel-ctl hooks list --all` names them")]
    Point {
        /// What was given.
        point: String,
    },
    /// The plugin does not have such a hook.
    #[error("plugin {plugin} has no hook {hook} at {point}; its hooks are {}", known.join(", "))]
    Hook {
        /// The plugin.
        plugin: String,
        /// The point.
        point: String,
        /// What was given.
        hook: String,
        /// Point and name of those it has.
        known: Vec<String>,
    },
    /// A value that cannot be.
    #[error("{0}")]
    Value(String),
    /// The plugin is not loaded, or a shard did not answer.
    #[error(transparent)]
    Plugin(#[from] crate::plugin::LoadError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PRIORITY: HookOverride =
        HookOverride { priority: Some(5), deadline_ms: None, fault_policy: None, mounted: None };
    const UNMOUNTED: HookOverride =
        HookOverride { priority: None, deadline_ms: None, fault_policy: None, mounted: Some(false) };
    const MOUNTED: HookOverride =
        HookOverride { priority: None, deadline_ms: None, fault_policy: None, mounted: Some(true) };

    #[test]
    fn what_ctl_says_goes_over_the_configuration_field_by_field() {
        let mut overrides = Overrides::default();
        let configured = HookOverride { deadline_ms: Some(9), ..UNMOUNTED };
        overrides.configure("p", &HookOverrides::from([("message.publish/a".to_owned(), configured)]));
        overrides.set("p", "message.publish/a", false, PRIORITY);
        overrides.set("p", "message.publish/a", false, MOUNTED);
        let both = HookOverride { priority: Some(5), deadline_ms: Some(9), ..MOUNTED };
        assert_eq!(overrides.of("p")["message.publish/a"], both);
        overrides.set("p", "message.publish/a", true, HookOverride::default());
        assert_eq!(overrides.of("p")["message.publish/a"], configured);
        assert!(overrides.of("q").is_empty());
    }

    #[test]
    fn a_hook_that_is_mounted_again_is_not_overridden_any_more() {
        let mut overrides = Overrides::default();
        overrides.set("p", "message.publish/a", false, UNMOUNTED);
        assert_eq!(overrides.of("p").len(), 1);
        overrides.set("p", "message.publish/a", false, MOUNTED);
        assert!(overrides.set.is_empty());
    }

    #[test]
    fn what_was_set_is_read_again_and_what_was_configured_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/hooks.json");
        let mut overrides = Overrides::default();
        overrides.read(&file).unwrap();
        overrides.configure("c", &HookOverrides::from([("message.publish/a".to_owned(), PRIORITY)]));
        overrides.set("p", "client.connect/b", false, UNMOUNTED);
        overrides.write(&file).unwrap();
        let mut again = Overrides::default();
        again.read(&file).unwrap();
        assert_eq!(again.of("p")["client.connect/b"], UNMOUNTED);
        assert!(again.of("c").is_empty());
        std::fs::write(&file, "{").unwrap();
        assert!(again.read(&file).is_err());
        // It is not overwritten: an operator may still need it.
        again.write(&file).unwrap();
        assert_eq!(std::fs::read_to_string(file.with_extension("unreadable")).unwrap(), "{");
    }
}
