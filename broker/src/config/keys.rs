//! The list of all keys of the configuration: name, accepted values, comment, and how the value is
//! set. The readers, the suggestions for unknown keys and the printed configuration use this list.

use std::path::Path;

use grapnel_engine::id::SHARDS_MAX;
use grapnel_engine::limits::{LimitError, Limits, Setting};
use serde_json::Value as Json;

use super::value::Value;
use super::{Config, Io, LogLevel, NoMatch, PluginConfig};
use crate::shard::limits::ShellLimits;

mod control;
mod listener;
mod mqtt;
mod tls;

pub use control::SOCKET_PATH_BYTES_MAX;
use control::control_keys;
pub(super) use listener::{ListenerKey, bind};

/// When a changed value has its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With a reload of the configuration.
    Now,
    /// With the next start of the broker.
    Start,
}

/// A key of the whole configuration, one listener or one plugin: of `D` while it is read, and of
/// `T` afterwards.
pub(super) struct Key<D, T = D> {
    /// Dotted path; for a listener or plugin only the last part.
    pub path: String,
    /// The accepted values, in words.
    pub takes: String,
    /// What the key does, and the reason for its default. Printed in front of the key.
    pub reason: &'static str,
    /// How it is printed.
    pub printed: Printed,
    /// When a changed value has its effect.
    pub when: When,
    /// Sets the value, or returns an error in words.
    pub set: Setter<D>,
    /// The value, in a form that `set` takes. Null: there is none.
    pub get: Getter<T>,
}

type Setter<D> = Box<dyn Fn(&mut D, &Value) -> Result<(), String>>;
type Getter<T> = Box<dyn Fn(&T) -> Json>;

/// The value that the printed configuration shows for a key.
pub(super) enum Printed {
    /// The default, not commented out.
    Default(String),
    /// An example, commented out: there is no default, or it depends on the machine.
    Example(String),
}

impl<D, T> Key<D, T> {
    /// A key whose changes have their effect with a reload.
    fn new(
        path: &str,
        takes: &str,
        reason: &'static str,
        printed: Printed,
        set: impl Fn(&mut D, &Value) -> Result<(), String> + 'static,
        get: impl Fn(&T) -> Json + 'static,
    ) -> Key<D, T> {
        let (set, get) = (Box::new(set), Box::new(get));
        Key { path: path.to_owned(), takes: takes.to_owned(), reason, printed, when: When::Now, set, get }
    }

    /// The same key, whose changes have their effect with the next start.
    fn at_start(self) -> Key<D, T> {
        Key { when: When::Start, ..self }
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit_once('.').map_or(&self.path, |(_, name)| name)
    }

    /// The environment variable that overrides it.
    pub fn variable(&self) -> String {
        variable(&self.path)
    }
}

/// The word of a value, which must be one of them.
fn shown_word<V: PartialEq + Copy>(words: &[(&'static str, V)], value: V) -> Json {
    words.iter().find(|(_, known)| *known == value).map_or(Json::Null, |(word, _)| (*word).into())
}

fn path(path: &Path) -> Json {
    path.display().to_string().into()
}

/// The environment variable of a dotted path: the prefix, then the path in upper case, with `_` for
/// every character that is not a letter or a digit.
pub(super) fn variable(path: &str) -> String {
    let name: String =
        path.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("{VARIABLE_PREFIX}{name}")
}

/// Prefix of the variables that override keys.
pub(super) const VARIABLE_PREFIX: &str = "GRAPNEL_";

/// Variables with this prefix that the broker reads and that are not keys.
pub(super) const OWN_VARIABLES: [&str; 2] = ["GRAPNEL_DIE_WITH_PARENT", "GRAPNEL_LOG"];

/// Prefix of the variables of the test suite. The broker ignores them, because a broker that a test
/// starts inherits them.
pub(super) const TESTS_PREFIX: &str = "GRAPNEL_TESTS_";

/// Tables with their comments, in the order in which they are printed. The first is the document
/// itself.
pub(super) const TABLES: [(&str, &str); 9] = [
    ("", ""),
    ("runtime", "How shards run."),
    ("authorization", "What clients may do when no plugin decides."),
    ("mqtt", "Choices that MQTT leaves to the broker."),
    (
        "limits",
        "Limits, each with its unit in its name. A limit per shard is multiplied by the number of shards.",
    ),
    (
        "plugins",
        "Plugins to load at start. Plugins that were loaded with grapnel-ctl are loaded again without being named here.",
    ),
    ("control", "Where grapnel-ctl and programs reach the broker."),
    ("state", "What the broker stores between two starts."),
    ("log", "What the broker logs on standard error."),
];

/// Keys of features that later versions will have: the path (also as a prefix before `.` or `_`)
/// and the beginning of the error message.
pub(super) const NOT_YET: [(&str, &str); 6] = [
    ("storage", "storage on disk is"),
    ("persistence", "storage on disk is"),
    ("bridge", "bridging is"),
    ("bridges", "bridging is"),
    ("cluster", "clustering is"),
    ("control.tls", "TLS is"),
];

/// The beginning of the error message, if the path belongs to a feature of a later version.
pub(super) fn not_yet(path: &str) -> Option<&'static str> {
    NOT_YET.iter().find_map(|(known, what)| {
        let rest = path.strip_prefix(known)?;
        (rest.is_empty() || rest.starts_with(['.', '_'])).then_some(*what)
    })
}

/// All keys except those of listeners and plugins, with the defaults of this version.
pub(super) fn keys() -> Vec<Key<Config>> {
    let mut keys = vec![shards_key(), io_key(), no_match_key()];
    keys.extend(mqtt::keys());
    keys.extend(limit_keys());
    keys.push(plugins_dir_key());
    keys.extend(control_keys());
    keys.push(state_dir_key());
    keys.push(log_level_key());
    keys
}
fn shards_key() -> Key<Config> {
    Key::new(
        "shards",
        "\"auto\" or 1 to 64",
        "number of shards; \"auto\" is one for each core that the process may use",
        Printed::Default("\"auto\"".to_owned()),
        |config: &mut Config, value| {
            if !matches!(value.text(), Ok("auto")) {
                let wanted = value.number(1, SHARDS_MAX as i64);
                config.shards =
                    wanted.map_err(|error| format!("{error}; \"auto\" is one for each core"))? as usize;
            }
            Ok(())
        },
        |config: &Config| config.shards.into(),
    )
    .at_start()
}

fn io_key() -> Key<Config> {
    Key::new(
        "runtime.io",
        "\"auto\", \"io_uring\" or \"epoll\"",
        "how shards wait for sockets; \"auto\" is io_uring where the kernel allows it, else epoll",
        Printed::Default("\"auto\"".to_owned()),
        |config: &mut Config, value| {
            config.io = value.word(&Io::WORDS)?;
            Ok(())
        },
        |config: &Config| shown_word(&Io::WORDS, config.io),
    )
    .at_start()
}

fn no_match_key() -> Key<Config> {
    Key::new(
        "authorization.no_match",
        "\"allow\" or \"deny\"",
        "what a client may do when no plugin decides; by default a broker without an access list allows everything. Set it to deny if a list must name everything that is allowed",
        Printed::Default("\"allow\"".to_owned()),
        |config: &mut Config, value| {
            config.authorization.no_match = value.word(&NoMatch::WORDS)?;
            Ok(())
        },
        |config: &Config| shown_word(&NoMatch::WORDS, config.authorization.no_match),
    )
}

fn plugins_dir_key() -> Key<Config> {
    Key::new(
        "plugins.dir",
        "a folder",
        "where a plugin is looked up by name; by default the folder of the executable if it contains plugins (a build folder), else the folder where packages install them",
        Printed::Example("\"/usr/lib/grapnel/plugins\"".to_owned()),
        |config: &mut Config, value| {
            config.plugins_dir = value.path()?;
            Ok(())
        },
        |config: &Config| path(&config.plugins_dir),
    )
    .at_start()
}

fn state_dir_key() -> Key<Config> {
    Key::new(
        "state.dir",
        "a folder",
        "the state folder; by default /var/lib/grapnel for root, else $XDG_STATE_HOME/grapnel, else ~/.local/state/grapnel",
        Printed::Example("\"/var/lib/grapnel\"".to_owned()),
        |config: &mut Config, value| {
            config.state_dir = value.path()?;
            Ok(())
        },
        |config: &Config| path(&config.state_dir),
    )
    .at_start()
}

fn log_level_key() -> Key<Config> {
    Key::new(
        "log.level",
        "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        "what is logged; info is starts, stops, plugins and what needs attention, but nothing per client. The variable GRAPNEL_LOG filters by module",
        Printed::Default("\"info\"".to_owned()),
        |config: &mut Config, value| {
            config.log_level = value.word(&LogLevel::WORDS)?;
            Ok(())
        },
        |config: &Config| config.log_level.to_string().into(),
    )
}

fn limit_keys() -> impl Iterator<Item = Key<Config>> {
    let (engine, shell) = (Limits::default(), ShellLimits::default());
    let engine = Limits::SETTINGS.iter().map(move |setting| {
        limit_key(setting, engine.value(setting.name), |config, name, value| config.limits.set(name, value))
    });
    let shell = ShellLimits::SETTINGS.iter().map(move |setting| {
        limit_key(setting, shell.value(setting.name), |config, name, value| {
            config.shell_limits.set(name, value)
        })
    });
    engine.chain(shell)
}

fn limit_key(
    setting: &'static Setting,
    default: Option<u64>,
    set: fn(&mut Config, &str, u64) -> Result<(), LimitError>,
) -> Key<Config> {
    let key = Key::new(
        &format!("limits.{}", setting.name),
        &format!("{} to {}", setting.min, setting.max),
        setting.reason,
        Printed::Default(default.unwrap_or(setting.min).to_string()),
        move |config: &mut Config, value| {
            // TOML integers end at 2^63 - 1.
            let max = i64::try_from(setting.max).unwrap_or(i64::MAX);
            let number = value.number(setting.min as i64, max)?;
            set(config, setting.name, number as u64).map_err(|error| error.to_string())
        },
        move |config: &Config| {
            let value = config.limits.value(setting.name).or_else(|| config.shell_limits.value(setting.name));
            value.map_or(Json::Null, Json::from)
        },
    );
    let at_start = Limits::AT_START.contains(&setting.name) || ShellLimits::AT_START.contains(&setting.name);
    if at_start { key.at_start() } else { key }
}

/// The keys of one `[[listeners]]`.
pub(super) fn listener_keys() -> Vec<ListenerKey> {
    listener::keys()
}

/// The keys of one `[plugins.NAME]`.
pub(super) fn plugin_keys() -> Vec<Key<PluginConfig>> {
    vec![
        Key::new(
            "path",
            "a path of a .so",
            "the plugin's file; by default the first of libgrapnel_NAME.so (with _ for - in the name), NAME.so and libNAME.so in plugins.dir",
            Printed::Example("\"/usr/lib/grapnel/plugins/libgrapnel_NAME.so\"".to_owned()),
            |plugin: &mut PluginConfig, value| {
                plugin.path = Some(value.path()?);
                Ok(())
            },
            |plugin: &PluginConfig| plugin.path.as_deref().map_or(Json::Null, path),
        ),
        Key::new(
            "priority",
            "-1000000 to 1000000",
            "priority of all hooks of the plugin; higher runs earlier. Without it each hook has the priority that its plugin gave it, usually 0",
            Printed::Example("0".to_owned()),
            |plugin: &mut PluginConfig, value| {
                plugin.priority = Some(value.number(-1_000_000, 1_000_000)? as i32);
                Ok(())
            },
            |plugin: &PluginConfig| plugin.priority.map_or(Json::Null, Json::from),
        ),
        Key::new(
            "required",
            "true or false",
            "whether the broker refuses to start when the plugin cannot be loaded; set it to true for plugins that decide who may connect or what clients may do",
            Printed::Example("false".to_owned()),
            |plugin: &mut PluginConfig, value| {
                plugin.required = Some(value.flag()?);
                Ok(())
            },
            |plugin: &PluginConfig| plugin.required.into(),
        ),
        Key::new(
            "config",
            "a table",
            "the plugin's own configuration, which the plugin checks",
            Printed::Example("{}".to_owned()),
            |plugin: &mut PluginConfig, value| {
                plugin.config = value.object()?;
                Ok(())
            },
            |plugin: &PluginConfig| plugin.config.clone(),
        ),
        Key::new(
            "hooks",
            "tables named by hook point and hook, with priority, deadline_ms, fault_policy (\"deny\" or \"ignore\") and mounted",
            "overrides for single hooks; grapnel-ctl hooks list names the hooks",
            Printed::Example("{ \"message.publish/publish\" = { priority = 5, mounted = true } }".to_owned()),
            |plugin: &mut PluginConfig, value| {
                plugin.hooks = super::hooks::parse(&value.object()?)?;
                Ok(())
            },
            |plugin: &PluginConfig| serde_json::to_value(&plugin.hooks).unwrap_or_default(),
        ),
    ]
}
