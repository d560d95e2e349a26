//! A configuration that is being read. Takes values from the file, the environment and the command
//! line, collects errors, and returns the finished [`Config`]. Used by `Config::load` alone.

use std::path::Path;

use super::error::{ConfigErrors, Origin};
use super::keys::{self, Key, ListenerKey};
use super::listener_draft::ListenerDraft;
use super::nearest::nearest;
use super::value::Value;
use super::{Config, PluginConfig};

pub(super) struct Draft {
    pub config: Config,
    pub listeners: Vec<ListenerDraft>,
    pub keys: Vec<Key<Config>>,
    pub listener_keys: Vec<ListenerKey>,
    pub plugin_keys: Vec<Key<PluginConfig>>,
    errors: Vec<String>,
}

impl Draft {
    pub fn new(defaults: Config) -> Draft {
        Draft {
            config: Config { listeners: Vec::new(), ..defaults },
            listeners: Vec::new(),
            keys: keys::keys(),
            listener_keys: keys::listener_keys(),
            plugin_keys: keys::plugin_keys(),
            errors: Vec::new(),
        }
    }

    pub fn fail(&mut self, origin: &Origin, sentence: impl std::fmt::Display) {
        self.errors.push(format!("{origin}: {sentence}"));
    }

    /// Sets a key that does not belong to a listener or a plugin. An unknown path becomes an error.
    pub fn set(&mut self, path: &str, value: &Value, origin: &Origin) {
        let Some(key) = self.keys.iter().find(|key| key.path == path) else {
            return self.fail_unknown(path, origin);
        };
        match (key.set)(&mut self.config, value) {
            Ok(()) => self.config.sources.set(path, origin),
            Err(error) => self.fail(origin, format_args!("{path} {error}")),
        }
    }

    /// Sets a key of a listener that exists.
    pub fn set_of_listener(&mut self, index: usize, name: &str, value: &Value, origin: &Origin) {
        let Some(key) = self.listener_keys.iter().find(|key| key.path == name) else {
            return self.fail_unknown(&format!("listeners.{name}"), origin);
        };
        match (key.set)(&mut self.listeners[index], value) {
            Ok(()) => self.listeners[index].sources.set(name, origin),
            Err(error) => {
                self.listeners[index].refused = true;
                self.fail(origin, format_args!("listeners.{name} {error}"));
            }
        }
    }

    /// Sets a key of a plugin that exists.
    pub fn set_of_plugin(&mut self, index: usize, name: &str, value: &Value, origin: &Origin) {
        let plugin = &mut self.config.plugins[index];
        let path = format!("plugins.{}.{name}", plugin.name);
        let Some(key) = self.plugin_keys.iter().find(|key| key.path == name) else {
            return self.fail_unknown(&path, origin);
        };
        match (key.set)(plugin, value) {
            Ok(()) => self.config.sources.set(&path, origin),
            Err(error) => self.fail(origin, format_args!("{path} {error}")),
        }
    }

    /// The index of a plugin, which is added if it is new. `None`, with an error, if the name is
    /// not valid.
    pub fn plugin(&mut self, name: &str, origin: &Origin) -> Option<usize> {
        if let Some(index) = self.config.plugins.iter().position(|plugin| plugin.name == name) {
            return Some(index);
        }
        let fits = !name.is_empty() && name.len() <= 64;
        if !fits || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            self.fail(
                origin,
                format_args!("plugins.\"{name}\" is no name of a plugin: 1 to 64 letters, digits, - and _"),
            );
            return None;
        }
        self.config.plugins.push(PluginConfig {
            name: name.to_owned(),
            path: None,
            priority: None,
            required: None,
            config: serde_json::Value::Object(serde_json::Map::new()),
            hooks: super::HookOverrides::new(),
            origin: origin.clone(),
        });
        Some(self.config.plugins.len() - 1)
    }

    /// Adds the error for an unknown key: it names the nearest key, or says that the feature is not
    /// in this version.
    pub fn fail_unknown(&mut self, path: &str, origin: &Origin) {
        if let Some(what) = keys::not_yet(path) {
            return self.fail(origin, format_args!("{path}: {what} not in this version"));
        }
        let own = path.rsplit_once('.').and_then(|(table, _)| table.strip_prefix("plugins."));
        let listeners = self.listener_keys.iter().map(|key| format!("listeners.{}", key.path));
        let plugin = own.unwrap_or("NAME");
        let plugins = self.plugin_keys.iter().map(|key| format!("plugins.{plugin}.{}", key.path));
        let tables = keys::TABLES.iter().skip(1).map(|(table, _)| (*table).to_owned());
        let known: Vec<String> = self
            .keys
            .iter()
            .map(|key| key.path.clone())
            .chain(listeners)
            .chain(plugins)
            .chain(tables.chain(["listeners".to_owned()]))
            .collect();
        let meant = nearest(path, known.iter().map(String::as_str)).unwrap_or("shards");
        self.fail(origin, format_args!("there is no key {path}; the nearest is {meant}"));
    }

    /// The finished configuration, or all errors.
    pub fn finish(mut self) -> Result<Config, ConfigErrors> {
        if self.config.state_dir == Path::new("") {
            self.fail(
                &Origin::Default,
                "state.dir has no default without HOME or XDG_STATE_HOME; set it in the file or as GRAPNEL_STATE_DIR",
            );
        }
        for draft in std::mem::take(&mut self.listeners) {
            let origin = draft.origin.clone().unwrap_or(Origin::Default);
            let is_named = draft.name.is_some();
            match draft.finish() {
                Ok(mut listener) => {
                    // Two listeners may have the address 127.0.0.1:0, but not the same name.
                    if !is_named && listener.bind.is_any_port() {
                        listener.name = self.free_name(listener.name);
                    }
                    self.config.listeners.push(listener);
                }
                Err(sentences) => sentences.iter().for_each(|sentence| self.fail(&origin, sentence)),
            }
        }
        self.refuse_doubled_listeners();
        if self.errors.is_empty() { Ok(self.config) } else { Err(ConfigErrors { sentences: self.errors }) }
    }

    /// The name, or the name with the first number that makes it another one than those of the
    /// listeners before it.
    fn free_name(&self, name: String) -> String {
        let is_taken = |name: &str| self.config.listeners.iter().any(|listener| listener.name == name);
        let numbered = (2..).map(|number| format!("{name} ({number})"));
        std::iter::once(name.clone()).chain(numbered).find(|name| !is_taken(name)).unwrap_or(name)
    }

    fn refuse_doubled_listeners(&mut self) {
        let mut sentences = Vec::new();
        for (index, listener) in self.config.listeners.iter().enumerate() {
            for other in &self.config.listeners[..index] {
                if listener.bind == other.bind && !listener.bind.is_any_port() {
                    sentences.push(format!("{}: two listeners bind to {}", listener.origin, listener.bind));
                } else if listener.name == other.name {
                    sentences.push(format!(
                        "{}: two listeners are named \"{}\"; give one of them another name",
                        listener.origin, listener.name
                    ));
                }
            }
        }
        self.errors.append(&mut sentences);
    }
}
