//! The operator's settings for single hooks, `[plugins.NAME.hooks]`: priority, deadline, fault
//! policy, and whether a hook is mounted. Read from the configuration and set by `grapnel-ctl`.

use std::collections::BTreeMap;
use std::fmt;

use grapnel_engine::hook::{FaultPolicy, HookPoint};
use serde::{Deserialize, Serialize};

/// Priorities that an operator may give.
pub const PRIORITY_RANGE: std::ops::RangeInclusive<i32> = -1_000_000..=1_000_000;
/// Longest deadline that an operator may give, milliseconds.
pub const DEADLINE_MS_MAX: u32 = 600_000;

/// What a fault or a missed deadline means, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFault {
    /// The request is refused, and no later hook can allow it.
    Deny,
    /// The next hook is called, as if this link did not exist.
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

/// The operator's settings for one hook. For what is absent the plugin's own setting is used.
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
    /// Whether the hook is in its chain. If absent, it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<bool>,
}

impl HookOverride {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == HookOverride::default()
    }

    /// Whether the numbers are in their ranges.
    ///
    /// # Errors
    /// A message about the number that is out of range.
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

    /// The names of the keys that are set.
    pub(crate) fn words(&self) -> Vec<String> {
        let words = [
            ("priority", self.priority.is_some()),
            ("deadline_ms", self.deadline_ms.is_some()),
            ("fault_policy", self.fault_policy.is_some()),
            (if self.mounted == Some(false) { "unmounted" } else { "mounted" }, self.mounted.is_some()),
        ];
        words.iter().filter(|(_, said)| *said).map(|(word, _)| (*word).to_owned()).collect()
    }

    /// These settings, with those of `below` for what is not set here.
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

/// Overrides by `POINT/HOOK`, such as `message.publish/stamp`.
pub type HookOverrides = BTreeMap<String, HookOverride>;

/// Reads the overrides of one plugin from a table of its configuration.
///
/// # Errors
/// A message that names the entry: an unknown hook point, an unknown key or an invalid value.
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
pub(crate) fn key(point: HookPoint, hook: &str) -> String {
    format!("{}/{hook}", point.name())
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

    #[test]
    fn overrides_are_shown_as_words() {
        let all = HookOverride { deadline_ms: Some(9), fault_policy: Some(OnFault::Deny), ..UNMOUNTED };
        assert_eq!(all.to_string(), "unmounted, deadline 9 ms, a fault denies");
        assert_eq!(PRIORITY.to_string(), "priority 5");
        assert_eq!(HookOverride::default().to_string(), "it is as the plugin has it");
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
