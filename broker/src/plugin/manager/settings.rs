//! The settings of a manager, and the requests to it. Made at the start and by the control plane.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grapnel_engine::limits::Limits;
use serde_json::Value;

use super::access::OpenListener;
use crate::config::{Config, NoMatch};
use crate::plugin::host::HostSettings;
use crate::shard::handle::ShardHandle;
use crate::shard::limits::ShellLimits;

/// What a manager is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every shard, in order. They answer from `start` on.
    pub shards: Vec<ShardHandle>,
    /// Where plugins are looked up by name.
    pub plugins_dir: PathBuf,
    /// Folder for the private copies that are mapped and removed at once; the system's temporary folder if there is none.
    pub copies_dir: Option<PathBuf>,
    /// The file that remembers what was loaded through ctl; `None` forgets.
    pub record: Option<PathBuf>,
    /// How long all shards together may take for one step.
    pub answer_timeout: Duration,
    /// Deadline of a deferred verdict where the hook names none, milliseconds.
    pub defer_deadline_ms: u32,
    /// Generations that may be retired and still mapped before nothing is loaded any more.
    pub retired_max: usize,
    /// Bytes of state that an instance may hand to the version that replaces it at once.
    pub state_bytes_max: usize,
    /// Bytes of a piece, where it hands it over in pieces.
    pub state_piece_bytes_max: usize,
    /// How long the pieces of all shards may take.
    pub state_handover_timeout: Duration,
    /// What one plugin may have of the broker.
    pub limits: ShellLimits,
    /// Where clients reach the broker.
    pub listeners: Vec<OpenListener>,
    /// Whether what no link of client.authorize answers is allowed.
    pub no_match_allow: bool,
    /// By which the shards share out the clients: [`Setup::keys`](grapnel_engine::shard::Setup::keys), which no configuration knows.
    pub home_keys: [u64; 4],
    /// Bounds of the messages that plugins publish, and of the changes that come with deferred verdicts.
    pub message_limits: Arc<Limits>,
}

impl Settings {
    /// What the configuration says. Loads are remembered in `plugins.json` in the state folder; private copies are made there
    /// too, because a temporary folder may forbid execution.
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
            listeners: config
                .listeners
                .iter()
                .map(|listener| OpenListener {
                    address: listener.bind,
                    allow_anonymous: listener.allow_anonymous,
                })
                .collect(),
            no_match_allow: config.authorization.no_match == NoMatch::Allow,
            home_keys: [0; 4],
            message_limits: Arc::new(config.limits.clone()),
        }
    }
}

impl Settings {
    /// What requests of plugins go to.
    pub(in crate::plugin) fn host(&self) -> HostSettings {
        HostSettings {
            shards: self.shards.clone(),
            limits: self.limits.clone(),
            home_keys: self.home_keys,
            message_limits: Arc::clone(&self.message_limits),
        }
    }

    /// How much of a state goes over at a time.
    pub(in crate::plugin) fn state_bounds(&self) -> Bounds {
        Bounds {
            whole_bytes_max: self.state_bytes_max,
            piece_bytes_max: self.state_piece_bytes_max,
            timeout: self.state_handover_timeout,
        }
    }
}

/// How much of a state goes over at a time, and how long all of it may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugin) struct Bounds {
    /// Bytes of a state that goes over whole.
    pub whole_bytes_max: usize,
    /// Bytes of a piece.
    pub piece_bytes_max: usize,
    /// For all pieces of all shards.
    pub timeout: Duration,
}

/// A plugin to load.
#[derive(Clone)]
pub struct LoadRequest {
    /// Its name, to be looked up, or the path of its file.
    pub source: String,
    /// Name it shall go by; where there is none, the looked-up one, or at a path the one it gives itself.
    pub name: Option<String>,
    /// Its configuration, an object; null stands for an empty one. May hold secrets and is never logged.
    pub config: Value,
    /// Whether what the configuration file has for it, path and priority included, holds where nothing else is said here.
    pub merge: bool,
    /// Priority of all of its hooks instead of their own.
    pub priority: Option<i32>,
    /// Do not load it again after a restart.
    pub once: bool,
}

impl std::fmt::Debug for LoadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadRequest")
            .field("source", &self.source)
            .field("once", &self.once)
            .finish_non_exhaustive()
    }
}
