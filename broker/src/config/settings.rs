//! The configuration as a list of keys with values: what is in force and where it was set, what
//! differs between two configurations, and what of a difference a running broker can take. Used by
//! `reload` and by `grapnel-ctl config`.

use serde_json::Value as Json;

use super::error::Sources;
use super::keys::{self, Key, When};
use super::listener::ListenerConfig;
use super::value::Value;
use super::{Config, PluginConfig};

/// What stands for a text of the configuration of a plugin, which may be a secret.
const HIDDEN: &str = "(hidden)";

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its dotted path; those of a listener or plugin have its name in it.
    pub key: String,
    /// Its value. Texts of a plugin's configuration are hidden.
    pub value: Json,
    /// Where it was set, in words.
    pub source: String,
    /// When a changed value has its effect.
    pub when: When,
}

/// What differs between two configurations in one place: a key, a whole listener or a whole plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The dotted path.
    pub key: String,
    /// The value before; `None` if it was not there.
    pub old: Option<Json>,
    /// The value after; `None` if it is not there any more.
    pub new: Option<Json>,
    /// When it has its effect.
    pub when: When,
}

impl Config {
    /// All keys that have a value, in the order in which they are printed.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        list(&keys::keys(), self, ("", &self.sources), &mut settings);
        for listener in &self.listeners {
            let prefix = format!("listeners.{}.", listener.name);
            list(&keys::listener_keys(), listener, (&prefix, &listener.sources), &mut settings);
            name_short_form(listener, &prefix, &mut settings);
        }
        for plugin in &self.plugins {
            let prefix = format!("plugins.{}.", plugin.name);
            list(&keys::plugin_keys(), &shown(plugin), (&prefix, &self.sources), &mut settings);
        }
        settings
    }

    /// The configuration after a reload of `new`: keys that need a start keep their values.
    #[must_use]
    pub fn taking(&self, new: &Config) -> Config {
        let mut taken = new.clone();
        for key in keys::keys().iter().filter(|key| key.when == When::Start) {
            let now = (key.get)(self);
            if now == (key.get)(new) {
                continue;
            }
            let set = scalar(&now).is_some_and(|value| (key.set)(&mut taken, &Value::Toml(value)).is_ok());
            debug_assert!(set, "the setter of {} takes what its getter gives", key.path);
            taken.sources.take_over(&key.path, &self.sources);
        }
        for listener in &mut taken.listeners {
            if let Some(old) = self.listeners.iter().find(|old| is_same_listener(old, listener)) {
                listener.unix = old.unix.clone();
            }
        }
        taken
    }
}

/// A value that is no list and no table, for the setter of its key.
fn scalar(value: &Json) -> Option<toml::Value> {
    match value {
        Json::String(text) => Some(toml::Value::String(text.clone())),
        Json::Bool(flag) => Some(toml::Value::Boolean(*flag)),
        Json::Number(number) => number.as_i64().map(toml::Value::Integer),
        _ => None,
    }
}

fn list<D, T>(keys: &[Key<D, T>], of: &T, (prefix, sources): (&str, &Sources), settings: &mut Vec<Setting>) {
    for key in keys {
        let value = (key.get)(of);
        if value.is_null() {
            continue;
        }
        // Sources of plugins have the whole path, those of listeners do not.
        let path = format!("{prefix}{}", key.path);
        let source = if prefix.starts_with("plugins.") { sources.of(&path) } else { sources.of(&key.path) };
        settings.push(Setting { key: path, value, source: source.to_string(), when: key.when });
    }
}

/// `tls.cert` and `tls.key` are listed as an entry of `tls.certificates`, with the place where the
/// short form was written.
fn name_short_form(listener: &ListenerConfig, prefix: &str, settings: &mut [Setting]) {
    let key = format!("{prefix}tls.certificates");
    if let Some(setting) = settings.iter_mut().find(|setting| setting.key == key)
        && setting.source == super::Origin::Default.to_string()
    {
        setting.source = listener.sources.of("tls.cert").to_string();
    }
}

/// A plugin with the texts of its configuration hidden.
fn shown(plugin: &PluginConfig) -> PluginConfig {
    PluginConfig { config: hidden(&plugin.config), ..plugin.clone() }
}

fn hidden(value: &Json) -> Json {
    match value {
        Json::String(_) => HIDDEN.into(),
        Json::Array(items) => items.iter().map(hidden).collect::<Vec<_>>().into(),
        Json::Object(table) => {
            Json::Object(table.iter().map(|(key, value)| (key.clone(), hidden(value))).collect())
        }
        other => other.clone(),
    }
}

/// Whether two listeners of two configurations are the same one, whose settings may differ: both
/// have one address, or both leave the port to the system and have one name.
pub fn is_same_listener(one: &ListenerConfig, other: &ListenerConfig) -> bool {
    one.bind == other.bind && (!one.bind.is_any_port() || one.name == other.name)
}

/// What differs between two configurations, in the order of the keys.
pub fn difference(old: &Config, new: &Config) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(&keys::keys(), (old, new), "", &mut found);
    for listener in &old.listeners {
        if !new.listeners.iter().any(|other| is_same_listener(listener, other)) {
            let (key, bind) = (format!("listeners.{}", listener.name), listener.bind.to_string());
            found.push(Difference { key, old: Some(bind.into()), new: None, when: When::Now });
        }
    }
    for listener in &new.listeners {
        match old.listeners.iter().find(|other| is_same_listener(listener, other)) {
            Some(before) => {
                let prefix = format!("listeners.{}.", before.name);
                compare(&keys::listener_keys(), (before, listener), &prefix, &mut found);
            }
            None => {
                let (key, bind) = (format!("listeners.{}", listener.name), listener.bind.to_string());
                found.push(Difference { key, old: None, new: Some(bind.into()), when: When::Now });
            }
        }
    }
    plugins(old, new, &mut found);
    found
}

fn plugins(old: &Config, new: &Config, found: &mut Vec<Difference>) {
    let source = |plugin: &PluginConfig| {
        let path = plugin.path.as_ref().map(|path| path.display().to_string());
        Some(path.unwrap_or_else(|| plugin.name.clone()).into())
    };
    let named =
        |plugins: &[PluginConfig], name: &str| plugins.iter().find(|plugin| plugin.name == name).cloned();
    for plugin in old.plugins.iter().filter(|plugin| named(&new.plugins, &plugin.name).is_none()) {
        let key = format!("plugins.{}", plugin.name);
        found.push(Difference { key, old: source(plugin), new: None, when: When::Now });
    }
    for plugin in &new.plugins {
        let Some(before) = named(&old.plugins, &plugin.name) else {
            let key = format!("plugins.{}", plugin.name);
            found.push(Difference { key, old: None, new: source(plugin), when: When::Now });
            continue;
        };
        let mut of_plugin = Vec::new();
        compare(
            &keys::plugin_keys(),
            (&before, plugin),
            &format!("plugins.{}.", plugin.name),
            &mut of_plugin,
        );
        for difference in &mut of_plugin {
            if difference.key.ends_with(".config") {
                difference.old = difference.old.as_ref().map(hidden);
                difference.new = difference.new.as_ref().map(hidden);
            }
        }
        found.append(&mut of_plugin);
    }
}

fn compare<D, T>(keys: &[Key<D, T>], (old, new): (&T, &T), prefix: &str, found: &mut Vec<Difference>) {
    let some = |value: Json| (!value.is_null()).then_some(value);
    for key in keys {
        let (before, after) = ((key.get)(old), (key.get)(new));
        if before != after {
            let (key, when) = (format!("{prefix}{}", key.path), key.when);
            found.push(Difference { key, old: some(before), new: some(after), when });
        }
    }
}

#[cfg(test)]
mod tests;
