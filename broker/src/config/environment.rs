//! Overrides from the environment: `GRAPNEL_` and the path of the key in upper case, with `_` for
//! every separator. Used by `Config::load`, after the file and before the command line.

use super::draft::Draft;
use super::error::Origin;
use super::keys::{self, OWN_VARIABLES, TESTS_PREFIX, VARIABLE_PREFIX};
use super::listener_draft::ListenerDraft;
use super::nearest::nearest;
use super::places::Environment;
use super::value::Value;

/// What a variable sets.
enum Target {
    Key(String),
    Listener(usize, String),
    Plugin(String, String),
}

/// Applies every variable that begins with `GRAPNEL_`. One that matches no key is an error.
pub(super) fn apply(environment: &Environment, draft: &mut Draft) {
    let mut ours: Vec<(&str, Option<&str>)> = environment
        .vars
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value.to_str())))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .filter(|(name, _)| !name.starts_with(TESTS_PREFIX) && !OWN_VARIABLES.contains(name))
        .collect();
    // The environment has no order, but listeners must be added in the order of their indexes.
    ours.sort_unstable();
    for (name, value) in ours {
        let origin = Origin::Environment(name.to_owned());
        let Some(value) = value else {
            draft.fail(&origin, "its value is not UTF-8");
            continue;
        };
        let value = Value::Plain(value.to_owned());
        match target(name, draft) {
            Some(Target::Key(path)) => draft.set(&path, &value, &origin),
            Some(Target::Listener(index, key)) => {
                if index == draft.listeners.len() {
                    draft
                        .listeners
                        .push(ListenerDraft { origin: Some(origin.clone()), ..ListenerDraft::default() });
                }
                if index < draft.listeners.len() {
                    draft.set_of_listener(index, &key, &value, &origin);
                } else {
                    let count = draft.listeners.len();
                    draft.fail(&origin, format_args!("the next listener is number {count}, counted from 0"));
                }
            }
            Some(Target::Plugin(plugin, key)) => {
                if let Some(index) = draft.plugin(&plugin, &origin) {
                    draft.set_of_plugin(index, &key, &value, &origin);
                }
            }
            None => fail_unknown(name, draft, &origin),
        }
    }
}

fn target(name: &str, draft: &Draft) -> Option<Target> {
    if let Some(key) = draft.keys.iter().find(|key| key.variable() == name) {
        return Some(Target::Key(key.path.clone()));
    }
    let rest = name.strip_prefix(VARIABLE_PREFIX)?;
    if let Some(rest) = rest.strip_prefix("LISTENERS_") {
        let (index, key) = rest.split_once('_')?;
        let index = index.parse().ok()?;
        let key = draft
            .listener_keys
            .iter()
            .find(|known| keys::variable(&known.path) == format!("{VARIABLE_PREFIX}{key}"))?;
        return Some(Target::Listener(index, key.path.clone()));
    }
    let rest = rest.strip_prefix("PLUGINS_")?;
    let key = draft
        .plugin_keys
        .iter()
        .find(|key| rest.ends_with(&format!("_{}", key.path.to_ascii_uppercase())))?;
    let plugin = &rest[..rest.len() - key.path.len() - 1];
    // A plugin of the file keeps the spelling of its name; a new one gets `-` for `_`.
    let known = draft.config.plugins.iter().find(|known| {
        keys::variable(&known.name).strip_prefix(VARIABLE_PREFIX).is_some_and(|variable| variable == plugin)
    });
    let plugin =
        known.map_or_else(|| plugin.to_ascii_lowercase().replace('_', "-"), |known| known.name.clone());
    Some(Target::Plugin(plugin, key.path.clone()))
}

fn fail_unknown(name: &str, draft: &mut Draft, origin: &Origin) {
    let path = name.trim_start_matches(VARIABLE_PREFIX).to_ascii_lowercase();
    let listener = path.strip_prefix("listeners_").and_then(|rest| rest.split_once('_'));
    let later = keys::not_yet(&path)
        .or_else(|| listener.and_then(|(_, key)| keys::not_yet(&format!("listeners.{key}"))));
    if let Some(what) = later {
        return draft.fail(origin, format_args!("{what} not in this version"));
    }
    let listeners =
        draft.listener_keys.iter().map(|key| keys::variable(&format!("listeners.0.{}", key.path)));
    let plugins = draft.plugin_keys.iter().map(|key| keys::variable(&format!("plugins.NAME.{}", key.path)));
    let known: Vec<String> = draft
        .keys
        .iter()
        .map(keys::Key::variable)
        .chain(listeners)
        .chain(plugins)
        .chain(OWN_VARIABLES.map(str::to_owned))
        .collect();
    let meant = nearest(name, known.iter().map(String::as_str)).unwrap_or("GRAPNEL_SHARDS");
    draft.fail(origin, format_args!("no key has this variable; the nearest is {meant}"));
}
