//! What the operator configures, and what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grapnel_plugin_abi::{Error, FaultPolicy};
use serde::Deserialize;

/// The keys of `[plugins.exhook] config`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `python3` takes hooks of our own API and of EMQX's, `amqtt` those of aMQTT.
    pub driver: Driver,
    /// The Python to run; the `python3` of the broker's PATH unless said otherwise.
    #[serde(default = "default_python")]
    pub python: PathBuf,
    /// A file, whose folder is searched; a folder; or several of them with `:` between.
    #[serde(default)]
    pub path: String,
    /// The module that is imported.
    #[serde(default = "default_init_module")]
    pub init_module: String,
    /// How long an answer may take, milliseconds.
    #[serde(default = "default_call_timeout_ms")]
    pub call_timeout_ms: u64,
    /// How long a worker may take until it is ready, milliseconds.
    #[serde(default = "default_start_timeout_ms")]
    pub start_timeout_ms: u64,
    /// How many workers run; one client always meets the same one.
    #[serde(default = "default_pool_size")]
    pub pool_size: u32,
    /// What a failed call means, everywhere; without it `deny` where it is asked whether a client may, and `ignore` elsewhere.
    pub failed_action: Option<FailedAction>,
    /// Whether a worker that has ended is started anew.
    #[serde(default = "default_true")]
    pub auto_reconnect: bool,
    /// Most calls that wait for one worker; what only tells is dropped beyond it, and counted.
    #[serde(default = "default_queue_max")]
    pub queue_max: u32,
    /// Most bytes of calls that wait for one worker.
    #[serde(default = "default_queue_bytes_max")]
    pub queue_bytes_max: usize,
    /// The longest frame a worker may send, bytes.
    #[serde(default = "default_frame_bytes_max")]
    pub frame_bytes_max: usize,
    /// Topic filters per hook point about a message, in the place of those that the workers ask for.
    #[serde(default)]
    pub topics: BTreeMap<String, Vec<String>>,
    /// The driver's own: of `amqtt` the path of aMQTT's configuration file under `config`, for instance.
    #[serde(default)]
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// Who runs the hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Our own API and EMQX's, told apart by the module.
    Python3,
    /// aMQTT's plugins.
    Amqtt,
}

impl Driver {
    /// Its name in the configuration and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Driver::Python3 => "python3",
            Driver::Amqtt => "amqtt",
        }
    }
}

/// What a failed call means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailedAction {
    /// What was asked for is refused.
    Deny,
    /// As if the hook had not been there.
    Ignore,
}

fn default_python() -> PathBuf {
    "python3".into()
}

fn default_init_module() -> String {
    "main".to_owned()
}

const fn default_call_timeout_ms() -> u64 {
    5_000
}

const fn default_start_timeout_ms() -> u64 {
    30_000
}

const fn default_pool_size() -> u32 {
    1
}

const fn default_true() -> bool {
    true
}

const fn default_queue_max() -> u32 {
    100_000
}

const fn default_queue_bytes_max() -> usize {
    64 << 20
}

const fn default_frame_bytes_max() -> usize {
    16 << 20
}

/// Most workers of one pool.
const WORKERS_MAX: u32 = 256;

impl Config {
    /// Says what no worker could be started with.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::new(text));
        if self.pool_size == 0 || self.pool_size > WORKERS_MAX {
            return wrong(format!("pool_size = {}: must be 1 to {WORKERS_MAX}", self.pool_size));
        }
        for (key, value) in
            [("call_timeout_ms", self.call_timeout_ms), ("start_timeout_ms", self.start_timeout_ms)]
        {
            if value == 0 || value > 3_600_000 {
                return wrong(format!("{key} = {value}: must be 1 to 3600000"));
            }
        }
        if self.frame_bytes_max < 1024 {
            return wrong(format!("frame_bytes_max = {}: must be at least 1024", self.frame_bytes_max));
        }
        for path in self.paths() {
            if !path.exists() {
                return wrong(format!("path: there is no {}", path.display()));
            }
        }
        if self.driver == Driver::Python3 && self.path.is_empty() {
            return wrong("path is missing: the file or folder of the hooks".to_owned());
        }
        Ok(())
    }

    /// The files and folders.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.path.split(':').filter(|path| !path.is_empty()).map(Path::new)
    }

    /// How long an answer may take.
    pub const fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.call_timeout_ms)
    }

    /// What a failed call means at a point that asks whether a client may, or at another.
    pub fn policy(&self, is_question: bool) -> FaultPolicy {
        match self.failed_action {
            Some(FailedAction::Deny) => FaultPolicy::Deny,
            Some(FailedAction::Ignore) => FaultPolicy::Ignore,
            None if is_question => FaultPolicy::Deny,
            None => FaultPolicy::Ignore,
        }
    }
}
