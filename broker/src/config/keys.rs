//! The list of all keys of the configuration: name, accepted values, comment, and how the value is
//! set. The readers, the suggestions for unknown keys and the printed configuration use this list.

use grapnel_engine::id::SHARDS_MAX;
use grapnel_engine::limits::{LimitError, Limits, Setting};

use crate::shard::limits::ShellLimits;

use super::value::Value;
use super::{Config, ListenerDraft, LogLevel, NoMatch, PluginConfig};

mod control;
mod mqtt;

pub use control::SOCKET_PATH_BYTES_MAX;
use control::control_keys;

/// A key of `T`: the whole configuration, one listener or one plugin.
pub(super) struct Key<T> {
    /// Dotted path; for a listener or plugin only the last part.
    pub path: String,
    /// The accepted values, in words.
    pub takes: String,
    /// What the key does, and the reason for its default. Printed in front of the key.
    pub reason: &'static str,
    /// How it is printed.
    pub printed: Printed,
    /// Sets the value, or returns an error in words.
    pub set: Setter<T>,
}

type Setter<T> = Box<dyn Fn(&mut T, &Value) -> Result<(), String>>;

/// The value that the printed configuration shows for a key.
pub(super) enum Printed {
    /// The default, not commented out.
    Default(String),
    /// An example, commented out: there is no default, or it depends on the machine.
    Example(String),
}

impl<T> Key<T> {
    fn new(
        path: &str,
        takes: &str,
        reason: &'static str,
        printed: Printed,
        set: impl Fn(&mut T, &Value) -> Result<(), String> + 'static,
    ) -> Key<T> {
        Key { path: path.to_owned(), takes: takes.to_owned(), reason, printed, set: Box::new(set) }
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
pub(super) const TABLES: [(&str, &str); 8] = [
    ("", ""),
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
pub(super) const NOT_YET: [(&str, &str); 12] = [
    ("tls", "TLS is"),
    ("listeners.tls", "TLS is"),
    ("listeners.cert", "TLS is"),
    ("listeners.websocket", "WebSocket is"),
    ("listeners.ws", "WebSocket is"),
    ("websocket", "WebSocket is"),
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
    let mut keys = vec![
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
        ),
        Key::new(
            "authorization.no_match",
            "\"allow\" or \"deny\"",
            "what a client may do when no plugin decides; by default a broker without an access list allows everything. Set it to deny if a list must name everything that is allowed",
            Printed::Default("\"allow\"".to_owned()),
            |config: &mut Config, value| {
                config.authorization.no_match =
                    value.word(&[("allow", NoMatch::Allow), ("deny", NoMatch::Deny)])?;
                Ok(())
            },
        ),
    ];
    keys.extend(mqtt::keys());
    keys.extend(limit_keys());
    keys.push(Key::new(
        "plugins.dir",
        "a folder",
        "where a plugin is looked up by name; by default the folder of the executable if it contains plugins (a build folder), else the folder where packages install them",
        Printed::Example("\"/usr/lib/grapnel/plugins\"".to_owned()),
        |config: &mut Config, value| {
            config.plugins_dir = value.path()?;
            Ok(())
        },
    ));
    keys.extend(control_keys());
    keys.push(Key::new(
        "state.dir",
        "a folder",
        "the state folder; by default /var/lib/grapnel for root, else $XDG_STATE_HOME/grapnel, else ~/.local/state/grapnel",
        Printed::Example("\"/var/lib/grapnel\"".to_owned()),
        |config: &mut Config, value| {
            config.state_dir = value.path()?;
            Ok(())
        },
    ));
    keys.push(Key::new(
        "log.level",
        "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        "what is logged; info is starts, stops, plugins and what needs attention, but nothing per client. The variable GRAPNEL_LOG filters by module",
        Printed::Default("\"info\"".to_owned()),
        |config: &mut Config, value| {
            config.log_level = value.word(&LogLevel::WORDS)?;
            Ok(())
        },
    ));
    keys
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
    Key::new(
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
    )
}

/// The keys of one `[[listeners]]`.
pub(super) fn listener_keys() -> Vec<Key<ListenerDraft>> {
    vec![
        Key::new(
            "bind",
            "an IP address and a port; port 0 lets the system choose",
            "where clients connect; the default is MQTT's port on this machine only, until you decide who else may connect",
            Printed::Default("\"127.0.0.1:1883\"".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.bind = Some(value.address()?);
                Ok(())
            },
        ),
        Key::new(
            "allow_anonymous",
            "true or false",
            "whether a client is let in that no plugin has accepted or refused. With true, a client without a user name is let in, and a client with one if no authentication plugin is loaded. With false, only clients that a plugin accepts are let in. The default is true on a loopback address, else false",
            Printed::Default("true".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.allow_anonymous = Some(value.flag()?);
                Ok(())
            },
        ),
        Key::new(
            "name",
            "text",
            "how plugins, the log and grapnel-ctl status name the listener; by default its address",
            Printed::Example("\"inside\"".to_owned()),
            |listener: &mut ListenerDraft, value| match value.text()? {
                name if name.is_empty() || name.len() > 64 => Err("must have 1 to 64 bytes".to_owned()),
                name => {
                    listener.name = Some(name.to_owned());
                    Ok(())
                }
            },
        ),
    ]
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
        ),
        Key::new(
            "required",
            "true or false",
            "whether the broker refuses to start when the plugin cannot be loaded; set it to true for plugins that decide who may connect or what clients may do",
            Printed::Example("false".to_owned()),
            |plugin: &mut PluginConfig, value| {
                plugin.required = value.flag()?;
                Ok(())
            },
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
        ),
    ]
}
