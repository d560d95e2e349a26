//! The settings of a manager, and requests to it. Made at the start and by the control plane.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grapnel_engine::limits::Limits;
use serde_json::Value;

use super::access::OpenListener;
use crate::config::{Bind, Config, ListenerConfig, NoMatch, TlsIdentity};
use crate::net::Address;
use crate::plugin::host::HostSettings;
use crate::shard::handle::ShardHandle;
use crate::shard::limits::ShellLimits;

/// The settings with which a manager is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every shard, in order of their ids. They answer once `start` is called.
    pub shards: Vec<ShardHandle>,
    /// The folder in which plugins are looked up by name.
    pub plugins_dir: PathBuf,
    /// Folder for the private copies of plugin files. Each copy is mapped and removed at once.
    /// `None` stands for the system's temporary folder.
    pub copies_dir: Option<PathBuf>,
    /// The file in which loads through ctl are recorded; `None` records nothing.
    pub record: Option<PathBuf>,
    /// Time that all shards together may take to answer one step.
    pub answer_timeout: Duration,
    /// Deadline in milliseconds of a deferred verdict, if the hook sets none.
    pub defer_deadline_ms: u32,
    /// Maximum number of retired generations that are still mapped. Beyond it, no plugin is loaded.
    pub retired_max: usize,
    /// Maximum size in bytes of a state that is handed over as a whole.
    pub state_bytes_max: usize,
    /// Maximum size in bytes of a piece of a state that is handed over in pieces.
    pub state_piece_bytes_max: usize,
    /// Time in which all shards must have handed over all pieces.
    pub state_handover_timeout: Duration,
    /// The limits of what one plugin may use.
    pub limits: ShellLimits,
    /// Where clients reach the broker.
    pub listeners: Vec<OpenListener>,
    /// Whether an action is allowed if no link of client.authorize decides.
    pub no_match_allow: bool,
    /// The keys by which clients are assigned to shards:
    /// [`Setup::keys`](grapnel_engine::shard::Setup::keys). They are not part of the configuration.
    pub home_keys: [u64; 4],
    /// Limits of the messages that plugins publish, and of the changes of deferred verdicts.
    pub message_limits: Arc<Limits>,
}

impl Settings {
    /// The settings of a configuration. Loads are recorded in `plugins.json` in the state folder.
    /// Private copies are made there too, because a temporary folder may forbid execution.
    pub fn of(config: &Config, shards: Vec<ShardHandle>) -> Settings {
        let copies_dir = std::fs::create_dir_all(&config.state_dir).is_ok().then(|| config.state_dir.clone());
        Settings {
            shards,
            plugins_dir: config.plugins_dir.clone(),
            copies_dir,
            record: Some(config.state_dir.join("plugins.json")),
            answer_timeout: Duration::from_millis(config.shell_limits.plugin_answer_timeout_ms),
            defer_deadline_ms: u32::try_from(config.limits.defer_deadline_ms).unwrap_or(u32::MAX),
            retired_max: usize::try_from(config.shell_limits.plugins_retired_max).unwrap_or(usize::MAX),
            state_bytes_max: usize::try_from(config.shell_limits.state_bytes_max).unwrap_or(usize::MAX),
            state_piece_bytes_max: usize::try_from(config.shell_limits.state_piece_bytes_max)
                .unwrap_or(usize::MAX),
            state_handover_timeout: Duration::from_millis(config.shell_limits.state_handover_timeout_ms),
            limits: config.shell_limits.clone(),
            listeners: config.listeners.iter().map(open_listener).collect(),
            no_match_allow: config.authorization.no_match == NoMatch::Allow,
            home_keys: [0; 4],
            message_limits: Arc::new(config.limits.clone()),
        }
    }
}

fn open_listener(listener: &ListenerConfig) -> OpenListener {
    let address = match &listener.bind {
        Bind::Tcp(address) => Address::Tcp(*address),
        Bind::Unix(path) => Address::Unix(path.clone()),
    };
    let identity = listener.tls.as_ref().is_some_and(|tls| tls.identity != TlsIdentity::None);
    OpenListener {
        address,
        allow_anonymous: listener.allow_anonymous,
        identity,
        behind_proxy: listener.trusts_proxies(),
    }
}

impl Settings {
    /// The settings of the host functions.
    pub(in crate::plugin) fn host(&self) -> HostSettings {
        HostSettings {
            shards: self.shards.clone(),
            limits: self.limits.clone(),
            home_keys: self.home_keys,
            message_limits: Arc::clone(&self.message_limits),
        }
    }

    /// The limits of a state handover.
    pub(in crate::plugin) fn state_bounds(&self) -> Bounds {
        Bounds {
            whole_bytes_max: self.state_bytes_max,
            piece_bytes_max: self.state_piece_bytes_max,
            timeout: self.state_handover_timeout,
        }
    }
}

/// The limits of a state handover.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugin) struct Bounds {
    /// Maximum size in bytes of a state that is handed over as a whole.
    pub whole_bytes_max: usize,
    /// Maximum size in bytes of a piece.
    pub piece_bytes_max: usize,
    /// Time for all pieces of all shards.
    pub timeout: Duration,
}

/// A plugin to load.
#[derive(Clone)]
pub struct LoadRequest {
    /// Name of the plugin, which is looked up, or path of its file.
    pub source: String,
    /// Name of the plugin here. Without it, the plugin gets the name that was looked up, or, for a
    /// path, the name of its manifest.
    pub name: Option<String>,
    /// Its configuration, an object; null stands for an empty one. It may contain secrets and is
    /// never logged.
    pub config: Value,
    /// Whether the values of the configuration file, path and priority included, are used where
    /// this request has none.
    pub merge: bool,
    /// Priority of all of its hooks; replaces the priorities that the plugin sets.
    pub priority: Option<i32>,
    /// Do not load it again after a restart.
    pub once: bool,
    /// Do not start the broker without it after a restart. Has no effect with `once`.
    pub required: bool,
}

impl std::fmt::Debug for LoadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadRequest")
            .field("source", &self.source)
            .field("once", &self.once)
            .finish_non_exhaustive()
    }
}
