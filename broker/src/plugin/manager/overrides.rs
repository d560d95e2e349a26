//! The operator's settings for single hooks: from the configuration at every start, and through
//! ctl, field by field, stored in a file beside the record of plugins. Used by the manager; read
//! when chains are compiled.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state_file;
use crate::config::{HookOverride, HookOverrides};

/// A change of the settings of one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookChange {
    /// The plugin.
    pub plugin: String,
    /// The hook point, such as `message.publish`.
    pub point: String,
    /// The hook's name.
    pub hook: String,
    /// Further hooks of the plugin, as `POINT/HOOK`, that get the same change: all or none is
    /// changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Whether settings made through ctl are removed first.
    #[serde(default)]
    pub clear: bool,
    /// The new settings.
    #[serde(default)]
    pub change: HookOverride,
    /// Make the change even if no plugin would then decide who may connect or what clients may do.
    #[serde(default)]
    pub force: bool,
}

/// All settings of the operator for hooks, by plugin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::plugin) struct Overrides {
    configured: BTreeMap<String, HookOverrides>,
    /// Set through ctl.
    set: BTreeMap<String, HookOverrides>,
}

impl Overrides {
    /// Sets what the configuration has for a plugin.
    pub(in crate::plugin) fn configure(&mut self, plugin: &str, hooks: &HookOverrides) {
        self.configured.insert(plugin.to_owned(), hooks.clone());
    }

    /// The settings in force for the hooks of a plugin.
    pub(in crate::plugin) fn of(&self, plugin: &str) -> HookOverrides {
        let mut all = self.configured.get(plugin).cloned().unwrap_or_default();
        for (hook, set) in self.set.get(plugin).into_iter().flatten() {
            let below = all.get(hook).copied().unwrap_or_default();
            all.insert(hook.clone(), set.over(below));
        }
        all
    }

    /// Adds settings for a hook. With `clear`, they replace all earlier ones of ctl.
    pub(in crate::plugin) fn set(&mut self, plugin: &str, hook: &str, clear: bool, change: HookOverride) {
        let hooks = self.set.entry(plugin.to_owned()).or_default();
        let before =
            if clear { HookOverride::default() } else { hooks.get(hook).copied().unwrap_or_default() };
        let mut now = change.over(before);
        let configured = self.configured.get(plugin).and_then(|hooks| hooks.get(hook)).copied();
        // A hook is mounted by default, so that this setting needs no entry.
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

    /// Reads what was set through ctl before the last stop.
    ///
    /// # Errors
    /// As [`state_file::read`].
    pub(in crate::plugin) fn read(&mut self, file: &Path) -> io::Result<()> {
        self.set = state_file::read::<Content>(file)?.hooks;
        Ok(())
    }

    /// Stores what was set through ctl.
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

/// The file of the overrides, beside the record of the plugins.
pub(in crate::plugin) fn file_beside(record: &Path) -> PathBuf {
    record.with_file_name("hooks.json")
}

/// Why an override was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no such hook point.
    #[error("there is no hook point {point}; `grapnel-ctl hooks list --all` names them")]
    Point {
        /// The given name.
        point: String,
    },
    /// The plugin does not have such a hook.
    #[error("plugin {plugin} has no hook {hook} at {point}; its hooks are {}", known.join(", "))]
    Hook {
        /// The plugin.
        plugin: String,
        /// The point.
        point: String,
        /// The given name.
        hook: String,
        /// Point and name of the hooks that it has.
        known: Vec<String>,
    },
    /// An invalid value.
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
    fn overrides_of_ctl_replace_the_configuration_field_by_field() {
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
    fn mounting_a_hook_again_removes_its_override() {
        let mut overrides = Overrides::default();
        overrides.set("p", "message.publish/a", false, UNMOUNTED);
        assert_eq!(overrides.of("p").len(), 1);
        overrides.set("p", "message.publish/a", false, MOUNTED);
        assert!(overrides.set.is_empty());
    }

    #[test]
    fn overrides_are_stored_and_configured_settings_are_not() {
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
        // The file is kept, because an operator may still need it.
        again.write(&file).unwrap();
        assert_eq!(std::fs::read_to_string(file.with_extension("unreadable")).unwrap(), "{");
    }
}
