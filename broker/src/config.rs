//! The configuration: a TOML file, then the environment, then the command line, checked as a whole
//! before anything starts. Called by `program`. All other code gets the finished [`Config`] and
//! reads no file or variable itself.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use grapnel_engine::limits::Limits;

use crate::shard::limits::ShellLimits;

mod draft;
mod environment;
mod error;
mod file;
pub(crate) mod hooks;
mod keys;
mod listener;
mod listener_draft;
mod nearest;
mod network;
mod places;
mod settings;
mod text;
mod value;

use draft::Draft;
pub use error::{ConfigErrors, Origin, Sources};
pub use file::FILE_BYTES_MAX;
pub use hooks::{HookOverride, HookOverrides, OnFault};
pub use keys::{SOCKET_PATH_BYTES_MAX, When};
pub use listener::{
    Bind, Certificate, ClientCertificate, Forwarded, ListenerConfig, MountPiece, MountPoint, ProxyProtocol,
    SocketOptions, TlsIdentity, TlsListener, TlsVersion, UnixOptions, Versions, WebSocketListener,
};
use listener_draft::ListenerDraft;
pub use network::Network;
pub use places::Environment;
pub use settings::{Difference, Setting, difference, is_same_listener};
use value::Value;
pub use value::to_json;

/// The options of the command line that override the configuration. For `#[command(flatten)]`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CliOverrides {
    /// Configuration file (TOML); without one the broker uses its defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on, such as 0.0.0.0:1883 or unix:/run/mqtt.sock; may be repeated [default:
    /// the listeners of the configuration, else 127.0.0.1:1883]
    ///
    /// Port 0 takes a free port, which the broker prints. Write an IPv6 address in brackets. The
    /// addresses replace those of the configuration: each takes the listener that is configured
    /// with it, else the next one, which keeps its allow_anonymous. If there are more addresses
    /// than listeners, the additional ones have the allow_anonymous of the first listener; if there
    /// are fewer, the other listeners are left out.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// Number of shards, 1 to 64, or auto for one per core
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// Control socket, where grapnel-ctl reaches the broker
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// The whole configuration, checked. Paths are absolute.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// How many shards, 1 to 64.
    pub shards: usize,
    /// How shards wait for sockets.
    pub io: Io,
    /// Where clients connect; never empty.
    pub listeners: Vec<ListenerConfig>,
    /// What clients may do.
    pub authorization: AuthorizationConfig,
    /// The limits of the engine, the first part of `[limits]`.
    pub limits: Limits,
    /// The limits of the shell, the other part of `[limits]`.
    pub shell_limits: ShellLimits,
    /// Where plugins are looked up by name.
    pub plugins_dir: PathBuf,
    /// Plugins to load at start, in this order.
    pub plugins: Vec<PluginConfig>,
    /// Addresses and limits of the control API.
    pub control: ControlConfig,
    /// Folder of what is stored between two starts; may not exist yet.
    pub state_dir: PathBuf,
    /// What is logged, if GRAPNEL_LOG is not set.
    pub log_level: LogLevel,
    /// Where each key was set, except those of listeners.
    pub sources: Sources,
}

/// How shards wait for sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// With io_uring where the kernel allows it, else with epoll.
    Auto,
    /// With io_uring.
    IoUring,
    /// With epoll.
    Epoll,
}

impl Io {
    const WORDS: [(&'static str, Io); 3] =
        [("auto", Io::Auto), ("io_uring", Io::IoUring), ("epoll", Io::Epoll)];
}

/// `[authorization]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorizationConfig {
    /// The decision if no link of client.authorize decides.
    pub no_match: NoMatch,
}

/// The decision if no link of client.authorize decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMatch {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

impl NoMatch {
    const WORDS: [(&'static str, NoMatch); 2] = [("allow", NoMatch::Allow), ("deny", NoMatch::Deny)];
}

/// `[plugins.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginConfig {
    /// Its name.
    pub name: String,
    /// Its file. Without one the plugin is looked up by name.
    pub path: Option<PathBuf>,
    /// Priority of its hooks instead of their own.
    pub priority: Option<i32>,
    /// Whether the broker refuses to start without it. `None` where the configuration does not say:
    /// then it is so if the plugin was also loaded with `grapnel-ctl plugins load --required`.
    pub required: Option<bool>,
    /// Its own configuration, an object.
    pub config: serde_json::Value,
    /// The operator's settings for single hooks of it.
    pub hooks: HookOverrides,
    /// Where it was configured.
    pub origin: Origin,
}

impl PluginConfig {
    /// Whether another configuration says the same of it, wherever it is written there.
    pub fn is_same(&self, other: &PluginConfig) -> bool {
        *self == PluginConfig { origin: self.origin.clone(), ..other.clone() }
    }
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The same API on TCP, loopback only.
    pub http_bind: Option<SocketAddr>,
    /// Connections at a time, per listening socket.
    pub connections_max: usize,
    /// How many of them traces, changes and verbs of plugins leave free for other requests.
    pub connections_free_min: usize,
    /// Largest request body, bytes.
    pub request_bytes_max: usize,
    /// How long a shard may take to answer.
    pub answer_timeout: Duration,
    /// Time that the head of a request may take to arrive, then its body, and that a connection may
    /// be idle.
    pub request_timeout: Duration,
    /// Time in which the other end must take 4096 bytes of an answer that waits.
    pub stall_timeout: Duration,
    /// Clients traced at a time.
    pub traces_max: usize,
}

impl Default for ControlConfig {
    fn default() -> Self {
        ControlConfig {
            socket: PathBuf::new(),
            http_bind: None,
            connections_max: 64,
            connections_free_min: 8,
            request_bytes_max: 1 << 20,
            answer_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            traces_max: 16,
        }
    }
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What needs attention.
    Warn,
    /// Starts, stops, plugins.
    Info,
    /// What helps to find a fault in the broker or in a plugin.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const WORDS: [(&'static str, LogLevel); 5] = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = LogLevel::WORDS.iter().find(|(_, level)| level == self).map_or("info", |(word, _)| word);
        write!(f, "{word}")
    }
}

impl Config {
    /// Where the broker listens if no listener is configured.
    pub const DEFAULT_BIND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);

    /// The defaults on this machine.
    ///
    /// The state folder is the empty path if there is no default for it; [`Config::load`] refuses
    /// that.
    pub fn defaults(environment: &Environment) -> Config {
        Config {
            file: None,
            shards: environment.default_shards(),
            io: Io::Auto,
            listeners: vec![default_listener()],
            authorization: AuthorizationConfig { no_match: NoMatch::Allow },
            limits: Limits::default(),
            shell_limits: ShellLimits::default(),
            plugins_dir: environment.default_plugins_dir(),
            plugins: Vec::new(),
            control: ControlConfig { socket: environment.default_socket(), ..ControlConfig::default() },
            state_dir: environment.default_state_dir().unwrap_or_default(),
            log_level: LogLevel::Info,
            sources: Sources::default(),
        }
    }

    /// Reads the file, then the environment, then the command line.
    ///
    /// # Errors
    /// All faults, each with its file and line, variable or option. Nothing has been started or
    /// changed.
    pub fn load(cli: &CliOverrides, environment: &Environment) -> Result<Config, ConfigErrors> {
        let mut draft = Draft::new(Config::defaults(environment));
        if let Some(path) = &cli.config {
            file::read(path, &mut draft);
            draft.config.file = Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        }
        if draft.listeners.is_empty() {
            let bind = Some(Bind::Tcp(Config::DEFAULT_BIND));
            draft.listeners.push(ListenerDraft { bind, ..ListenerDraft::default() });
        }
        environment::apply(environment, &mut draft);
        apply_options(cli, &mut draft);
        draft.finish()
    }

    /// A configuration file with every key, its range and the reason for its default. Reading it
    /// gives the defaults.
    pub fn default_text() -> String {
        text::default_text()
    }
}

/// The listener of a configuration that has none.
fn default_listener() -> ListenerConfig {
    let bind = Some(Bind::Tcp(Config::DEFAULT_BIND));
    let draft = ListenerDraft { bind, ..ListenerDraft::default() };
    draft.finish().expect("it has an address and nothing that could contradict itself")
}

fn apply_options(cli: &CliOverrides, draft: &mut Draft) {
    listen_on(&cli.listen, draft);
    if let Some(shards) = &cli.shards {
        draft.set("shards", &Value::Plain(shards.clone()), &Origin::Option("--shards"));
    }
    if let Some(socket) = &cli.socket {
        let origin = Origin::Option("--socket");
        match socket.to_str() {
            Some(path) => draft.set("control.socket", &Value::Plain(path.to_owned()), &origin),
            None => draft.fail(&origin, "the path is not UTF-8"),
        }
    }
}

/// Applies `--listen`. Each address goes to the listener that is configured with it, else to the
/// first listener that no address has taken; only the address of a listener changes. Additional
/// addresses get `allow_anonymous` of the first listener and names of their own. Listeners without
/// an address are removed.
fn listen_on(addresses: &[String], draft: &mut Draft) {
    if addresses.is_empty() {
        return;
    }
    let origin = Origin::Option("--listen");
    let configured = std::mem::take(&mut draft.listeners);
    let first = configured.first().and_then(|listener| listener.allow_anonymous);
    let mut left: Vec<Option<ListenerDraft>> = configured.into_iter().map(Some).collect();
    let mut take = |wanted: &dyn Fn(&ListenerDraft) -> bool| {
        left.iter_mut().find(|place| place.as_ref().is_some_and(wanted)).and_then(Option::take)
    };
    let named = |listen: &String| {
        let bind = keys::bind(&Value::Plain(listen.clone())).ok();
        take(&|listener| bind.is_some() && listener.bind == bind)
    };
    let mut taken: Vec<Option<ListenerDraft>> = addresses.iter().map(named).collect();
    for (listen, place) in addresses.iter().zip(&mut taken) {
        let more = || ListenerDraft { allow_anonymous: first, ..ListenerDraft::default() };
        let listener = place.take().or_else(|| take(&|_| true)).unwrap_or_else(more);
        draft.listeners.push(ListenerDraft { bind: None, origin: Some(origin.clone()), ..listener });
        let index = draft.listeners.len() - 1;
        draft.set_of_listener(index, "bind", &Value::Plain(listen.clone()), &origin);
    }
}

#[cfg(test)]
mod readers;
#[cfg(test)]
mod tests;
