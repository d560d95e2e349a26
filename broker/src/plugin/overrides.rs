//! The operator's settings for single hooks: priority, deadline, fault policy, and whether a hook
//! is mounted. The configuration sets them for every start; ctl overrides them field by field, and
//! its settings are stored in a file beside the record of plugins. Used by the manager; read when
//! chains are compiled.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use grapnel_engine::hook::{FaultPolicy, HookPoint};
use serde::{Deserialize, Serialize};

use super::state_file;

/// Priorities that an operator may give.
pub const PRIORITY_RANGE: std::ops::RangeInclusive<i32> = -1_000_000..=1_000_000;
/// Longest deadline that an operator may give, milliseconds.
pub const DEADLINE_MS_MAX: u32 = 600_000;

/// What a fault or a missed deadline means, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFault {
    /// A refusal: nobody after it can allow.
    Deny,
    /// As if the link had not been there.
    Ignore,
}

impl From<OnFault> for FaultPolicy {
    fn from(word: OnFault) -> FaultPolicy {
        match word {
            OnFault::Deny => FaultPolicy::Deny,
            OnFault::Ignore => FaultPolicy::Ignore,
        }
    }
}

impl From<FaultPolicy> for OnFault {
    fn from(policy: FaultPolicy) -> OnFault {
        match policy {
            FaultPolicy::Deny => OnFault::Deny,
            FaultPolicy::Ignore => OnFault::Ignore,
        }
    }
}

/// What the operator says about one hook; what is absent is as the plugin has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookOverride {
    /// Higher runs earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// How long a deferred verdict may take, milliseconds; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
    /// What a fault or a missed deadline means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_policy: Option<OnFault>,
    /// Whether it is in the chain; it is where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<bool>,
}

impl HookOverride {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == HookOverride::default()
    }

    /// Whether the numbers are in their ranges.
    ///
    /// # Errors
    /// A sentence on the one that is not.
    pub fn check(&self) -> Result<(), String> {
        if let Some(priority) = self.priority
            && !PRIORITY_RANGE.contains(&priority)
        {
            let (min, max) = (PRIORITY_RANGE.start(), PRIORITY_RANGE.end());
            return Err(format!("priority must be between {min} and {max}, not {priority}"));
        }
        match self.deadline_ms {
            Some(deadline_ms) if !(1..=DEADLINE_MS_MAX).contains(&deadline_ms) => {
                Err(format!("deadline_ms must be between 1 and {DEADLINE_MS_MAX}, not {deadline_ms}"))
            }
            _ => Ok(()),
        }
    }

    /// The keys that it has something for.
    pub(super) fn words(&self) -> Vec<String> {
        let words = [
            ("priority", self.priority.is_some()),
            ("deadline_ms", self.deadline_ms.is_some()),
            ("fault_policy", self.fault_policy.is_some()),
            (if self.mounted == Some(false) { "unmounted" } else { "mounted" }, self.mounted.is_some()),
        ];
        words.iter().filter(|(_, said)| *said).map(|(word, _)| (*word).to_owned()).collect()
    }

    /// What this says, and for the rest what `below` says.
    #[must_use]
    pub fn over(self, below: HookOverride) -> HookOverride {
        HookOverride {
            priority: self.priority.or(below.priority),
            deadline_ms: self.deadline_ms.or(below.deadline_ms),
            fault_policy: self.fault_policy.or(below.fault_policy),
            mounted: self.mounted.or(below.mounted),
        }
    }
}

impl fmt::Display for HookOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.mounted.map(|mounted| if mounted { "mounted" } else { "unmounted" }.to_owned()),
            self.priority.map(|priority| format!("priority {priority}")),
            self.deadline_ms.map(|deadline_ms| format!("deadline {deadline_ms} ms")),
            self.fault_policy.map(|policy| match policy {
                OnFault::Deny => "a fault denies".to_owned(),
                OnFault::Ignore => "a fault is ignored".to_owned(),
            }),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(if words.is_empty() { "it is as the plugin has it" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

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

/// Overrides by `POINT/HOOK`, such as `message.publish/stamp`.
pub type HookOverrides = BTreeMap<String, HookOverride>;

/// Reads the overrides of one plugin from a table of its configuration.
///
/// # Errors
/// A sentence that names the entry: an unknown point, an unknown key, a value that cannot be.
pub fn parse(table: &serde_json::Value) -> Result<HookOverrides, String> {
    let entries = table.as_object().ok_or("must be a table")?;
    let parsed = entries.iter().map(|(key, value)| {
        let (point, hook) = key.split_once('/').unwrap_or((key, ""));
        if HookPoint::from_name(point).is_none() {
            let nearest = HookPoint::ALL.iter().map(|point| point.name());
            let nearest = nearest.min_by_key(|name| strsim::damerau_levenshtein(name, point));
            let nearest = nearest.unwrap_or("message.publish");
            return Err(format!("names {key:?}: there is no hook point {point}; the nearest is {nearest}"));
        }
        if hook.is_empty() {
            return Err(format!(
                "names {key:?}, which must be a hook point and a hook, such as \"{point}/HOOK\""
            ));
        }
        let hook = HookOverride::deserialize(value).map_err(|error| format!("has {key:?}: {error}"))?;
        hook.check().map_err(|error| format!("has {key:?}: {error}"))?;
        Ok((key.clone(), hook))
    });
    parsed.collect()
}

/// The key of a hook in [`HookOverrides`].
pub(super) fn key(point: HookPoint, hook: &str) -> String {
    format!("{}/{hook}", point.name())
}

/// All that the operator says about hooks, by plugin.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides {
    configured: BTreeMap<String, HookOverrides>,
    /// Through ctl.
    set: BTreeMap<String, HookOverrides>,
}

impl Overrides {
    /// Takes what the configuration says about a plugin.
    pub(super) fn configure(&mut self, plugin: &str, hooks: &HookOverrides) {
        self.configured.insert(plugin.to_owned(), hooks.clone());
    }

    /// What holds for the hooks of a plugin.
    pub(super) fn of(&self, plugin: &str) -> HookOverrides {
        let mut all = self.configured.get(plugin).cloned().unwrap_or_default();
        for (hook, set) in self.set.get(plugin).into_iter().flatten() {
            let below = all.get(hook).copied().unwrap_or_default();
            all.insert(hook.clone(), set.over(below));
        }
        all
    }

    /// Says something more about a hook, or with `clear` nothing but this.
    pub(super) fn set(&mut self, plugin: &str, hook: &str, clear: bool, change: HookOverride) {
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
    pub(super) fn read(&mut self, file: &Path) -> io::Result<()> {
        self.set = state_file::read::<Content>(file)?.hooks;
        Ok(())
    }

    /// Remembers what was set through ctl.
    ///
    /// # Errors
    /// As [`state_file::write`].
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        state_file::write(file, Content { hooks: self.set.clone() })
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    /// By plugin, then by point and hook.
    hooks: BTreeMap<String, HookOverrides>,
}

/// Where overrides are remembered: beside the record of the plugins.
pub(super) fn file_beside(record: &Path) -> PathBuf {
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
    Plugin(#[from] super::LoadError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

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
    fn what_is_said_is_shown_in_words() {
        let all = HookOverride { deadline_ms: Some(9), fault_policy: Some(OnFault::Deny), ..UNMOUNTED };
        assert_eq!(all.to_string(), "unmounted, deadline 9 ms, a fault denies");
        assert_eq!(PRIORITY.to_string(), "priority 5");
        assert_eq!(HookOverride::default().to_string(), "it is as the plugin has it");
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

    #[test]
    fn a_table_of_the_configuration_is_read_or_its_error_named() {
        let table = json!({"message.publish/a": {"priority": -3, "fault_policy": "deny", "mounted": false}});
        let read = parse(&table).unwrap()["message.publish/a"];
        assert_eq!(
            (read.priority, read.fault_policy, read.mounted),
            (Some(-3), Some(OnFault::Deny), Some(false))
        );
        let said = |table: serde_json::Value| parse(&table).unwrap_err();
        assert_eq!(
            said(json!({"message.publsh/a": {}})),
            "names \"message.publsh/a\": there is no hook point message.publsh; the nearest is message.publish"
        );
        assert!(said(json!({"message.publish": {}})).contains("such as \"message.publish/HOOK\""));
        assert!(said(json!({"message.publish/a": {"prio": 1}})).contains("unknown field `prio`"));
        assert!(said(json!({"message.publish/a": {"fault_policy": "die"}})).contains("`deny` or `ignore`"));
        assert!(
            said(json!({"message.publish/a": {"deadline_ms": 0}})).contains("between 1 and 600000, not 0")
        );
        assert!(said(json!({"message.publish/a": {"priority": 2_000_000}})).contains("not 2000000"));
    }
}
