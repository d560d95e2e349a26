//! The operator's configuration, in our own keys or in those of EMQX's `emqx_extension_hook.conf`,
//! and its checks.

mod driver;
mod span;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grapnel_plugin_abi::{Error, FaultPolicy, HookPoint};
use serde::Deserialize;

use crate::queue::Limits;
pub use driver::{Driver, PLACES};
use driver::{absolute, searched};
use span::Span;

/// The keys of `[plugins.exhook] config`, as they are written.
#[derive(Clone, Debug, Deserialize)]
pub struct RawConfig {
    driver: Option<String>,
    python: Option<PathBuf>,
    java: Option<PathBuf>,
    #[serde(default)]
    java_options: Vec<String>,
    java_jar: Option<PathBuf>,
    path: Option<String>,
    working_directory: Option<PathBuf>,
    #[serde(default)]
    environment: Vec<String>,
    init_module: Option<String>,
    call_timeout: Option<Span>,
    start_timeout: Option<Span>,
    farewell_timeout: Option<Span>,
    while_down: Option<WhileDown>,
    pool_size: Option<u32>,
    failed_action: Option<FailedAction>,
    auto_reconnect: Option<bool>,
    queue_max: Option<u64>,
    queue_bytes_max: Option<u64>,
    client_queue_max: Option<u64>,
    client_queue_bytes_max: Option<u64>,
    address_queue_max: Option<u64>,
    address_queue_bytes_max: Option<u64>,
    frame_bytes_max: Option<usize>,
    clients_max: Option<u32>,
    login_bytes_max: Option<usize>,
    logins_bytes_max: Option<usize>,
    node: Option<String>,
    #[serde(default)]
    topics: BTreeMap<String, Vec<String>>,
    /// aMQTT's own configuration file.
    config: Option<PathBuf>,
    #[serde(default)]
    options: serde_json::Map<String, serde_json::Value>,
    // EMQX's keys.
    #[serde(rename = "exhook.drivers")]
    emqx_drivers: Option<String>,
    #[serde(rename = "exhook.drivers.python3.path")]
    python3_path: Option<String>,
    #[serde(rename = "exhook.drivers.python3.call_timeout")]
    python3_call_timeout: Option<Span>,
    #[serde(rename = "exhook.drivers.python3.init_module")]
    python3_init_module: Option<String>,
    #[serde(rename = "exhook.drivers.python3.pool_size")]
    python3_pool_size: Option<Count>,
    #[serde(rename = "exhook.drivers.java.path")]
    java_path: Option<String>,
    #[serde(rename = "exhook.drivers.java.call_timeout")]
    java_call_timeout: Option<Span>,
    #[serde(rename = "exhook.drivers.java.init_module")]
    java_init_module: Option<String>,
    #[serde(rename = "exhook.drivers.java.pool_size")]
    java_pool_size: Option<Count>,
}

/// EMQX's keys for one driver.
#[derive(Clone, Debug, Default)]
struct EmqxLines {
    path: Option<String>,
    call_timeout: Option<Span>,
    init_module: Option<String>,
    pool_size: Option<Count>,
}

/// A number, or a number as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u32),
    Text(String),
}

impl Count {
    fn read(&self) -> Option<u32> {
        match self {
            Count::Number(number) => Some(*number),
            Count::Text(text) => text.trim().parse().ok(),
        }
    }
}

/// The effective configuration of one driver.
#[derive(Clone, Debug)]
pub struct Config {
    /// `python3` runs hooks of our own API and of EMQX's, `amqtt` those of aMQTT, `java` EMQX's in
    /// Java.
    pub driver: Driver,
    /// The program that runs the hooks: an absolute path, or a name that is looked up in PATH.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its environment, besides the variables that every worker gets.
    pub environment: Vec<Variable>,
    /// Its working directory.
    pub working_directory: PathBuf,
    /// Search path: folders, and files whose folders are searched. Absolute paths.
    pub paths: Vec<PathBuf>,
    /// Folders of EMQX's keys that do not exist.
    pub missing: Vec<PathBuf>,
    /// The module that is imported.
    pub init_module: String,
    /// How long an answer may take.
    pub call_timeout: Duration,
    /// How long a worker may take until it is ready.
    pub start_timeout: Duration,
    /// How long a worker may take to end by itself, including its hooks' own shutdown.
    pub shutdown_timeout: Duration,
    /// What happens to calls while a worker restarts.
    pub while_down: WhileDown,
    /// Number of workers; a client is always served by the same one.
    pub pool_size: u32,
    /// The result of a failed call, at all hook points. By default `deny` where a hook decides what
    /// a client may do, and `ignore` elsewhere.
    pub failed_action: Option<FailedAction>,
    /// Whether a worker that has ended is restarted.
    pub auto_reconnect: bool,
    /// Limits of the queue of one worker: in all, of each client and of each address.
    pub queue: Limits,
    /// The longest frame a worker may send, bytes.
    pub frame_bytes_max: usize,
    /// Most clients of a shard that one worker knows.
    pub clients_max: u32,
    /// Most bytes that are stored of one login for the next worker.
    pub login_bytes_max: usize,
    /// Most bytes that are stored of all logins of one worker.
    pub logins_bytes_max: usize,
    /// The broker's name, as hooks see it.
    pub node: String,
    /// Topic filters for each hook point about a message; they replace those that the workers
    /// request.
    pub topics: BTreeMap<String, Vec<String>>,
    /// Options of the driver itself.
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// One entry of `environment`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Variable {
    /// `NAME`: passed on from the broker's environment, if it is set there.
    PassedOn(String),
    /// `NAME=value`.
    Set(String, String),
}

impl Variable {
    fn read(written: &str) -> Result<Variable, Error> {
        let (name, value) = match written.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (written, None),
        };
        if name.is_empty() || written.contains('\0') {
            return Err(Error::new(format!("environment: {written:?} is neither NAME nor NAME=value")));
        }
        if name.starts_with(OWN_PREFIX) {
            return Err(Error::new(format!(
                "environment: {name} is the broker's own; names that begin with {OWN_PREFIX} are not for workers"
            )));
        }
        Ok(match value {
            Some(value) => Variable::Set(name.to_owned(), value.to_owned()),
            None => Variable::PassedOn(name.to_owned()),
        })
    }
}

/// The result of a failed call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailedAction {
    /// The request is denied.
    Deny,
    /// The chain continues as if there were no hook.
    Ignore,
}

/// What happens to calls while a worker restarts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhileDown {
    /// They wait for the next process, at most for `call_timeout`.
    #[default]
    Wait,
    /// Requests end by policy at once; notifications are dropped.
    Policy,
}

/// Where workers run by default: only root can put a file into this folder.
const WORKING_DIRECTORY: &str = "/";
/// Prefix of the variables that configure the broker itself.
pub const OWN_PREFIX: &str = "GRAPNEL_";
/// The least number of queued calls: notifications get half of it.
const CALLS_LEAST: u64 = 2;
/// The least memory of the queue, bytes: a call with the description of its client needs no more
/// than a few thousand besides payloads.
const BYTES_LEAST: u64 = 64 << 10;
/// Most workers of one pool.
const WORKERS_MAX: u32 = 256;

impl RawConfig {
    /// The effective configuration, one for each driver: only EMQX's keys allow several. `beside`
    /// is the folder that the plugin was loaded from.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn read(mut self, beside: Option<&Path>) -> Result<Vec<Config>, Error> {
        let drivers = match (&self.driver, &self.emqx_drivers) {
            (Some(driver), _) => vec![Driver::read(driver)?],
            (None, Some(drivers)) => drivers.split(',').map(Driver::read).collect::<Result<_, _>>()?,
            (None, None) => return Err(Error::new("driver is missing: python3, amqtt or java")),
        };
        for (index, driver) in drivers.iter().enumerate() {
            let before = drivers[..index].iter().find(|before| before.place() == driver.place());
            if let Some(before) = before {
                return Err(Error::new(format!(
                    "exhook.drivers names {} and {}: load exhook once more under another name (--name) for one of them",
                    before.name(),
                    driver.name()
                )));
            }
        }
        drivers.into_iter().map(|driver| self.read_driver(driver, beside)).collect()
    }

    fn read_driver(&mut self, driver: Driver, beside: Option<&Path>) -> Result<Config, Error> {
        let time = |span: &Option<Span>, key: &str, default_s: u64| {
            span.as_ref().map_or(Ok(Duration::from_secs(default_s)), |span| span.read(key))
        };
        let lines = self.emqx_lines(driver);
        let pool_size = match lines.pool_size {
            None => self.pool_size.unwrap_or(1),
            Some(count) => count.read().unwrap_or(0),
        };
        let mut options = self.options.clone();
        if let Some(file) = &self.config {
            options.insert("config".to_owned(), absolute("config", file)?.to_string_lossy().into());
        }
        let (program, arguments) = self.program(driver, beside)?;
        let of_emqx = lines.path.is_some();
        let path = lines.path.or_else(|| self.path.clone()).unwrap_or_default();
        let paths = path.split(':').filter(|path| !path.is_empty());
        let mut paths = paths.map(|path| searched("path", Path::new(path))).collect::<Result<Vec<_>, _>>()?;
        let mut missing = Vec::new();
        if of_emqx && paths.iter().any(|path| path.exists()) {
            // EMQX passes its list to a search path, where a missing folder does no harm.
            missing = paths.extract_if(.., |path| !path.exists()).collect();
        }
        let config = Config {
            driver,
            program,
            arguments,
            environment: self
                .environment
                .iter()
                .map(|each| Variable::read(each))
                .collect::<Result<_, _>>()?,
            working_directory: match &self.working_directory {
                Some(folder) => absolute("working_directory", folder)?,
                None => WORKING_DIRECTORY.into(),
            },
            paths,
            missing,
            init_module: lines
                .init_module
                .or_else(|| self.init_module.clone())
                .unwrap_or_else(|| driver.init_module().to_owned()),
            call_timeout: time(&lines.call_timeout.or_else(|| self.call_timeout.clone()), "call_timeout", 5)?,
            start_timeout: time(&self.start_timeout, "start_timeout", 30)?,
            shutdown_timeout: time(&self.farewell_timeout, "farewell_timeout", 10)?,
            while_down: self.while_down.unwrap_or_default(),
            pool_size,
            failed_action: self.failed_action,
            auto_reconnect: self.auto_reconnect.unwrap_or(true),
            queue: self.queue(),
            frame_bytes_max: self.frame_bytes_max.unwrap_or(16 << 20),
            clients_max: self.clients_max.unwrap_or(100_000),
            login_bytes_max: self.login_bytes_max.unwrap_or(16 << 10),
            logins_bytes_max: self.logins_bytes_max.unwrap_or(8 << 20),
            node: self.node.clone().unwrap_or_else(|| "grapnel@127.0.0.1".to_owned()),
            topics: self.topics.clone(),
            options,
        };
        config.check()?;
        Ok(config)
    }

    /// EMQX's keys for a driver.
    fn emqx_lines(&mut self, driver: Driver) -> EmqxLines {
        match driver {
            Driver::Python3 => EmqxLines {
                path: self.python3_path.take(),
                call_timeout: self.python3_call_timeout.take(),
                init_module: self.python3_init_module.take(),
                pool_size: self.python3_pool_size.take(),
            },
            Driver::Java => EmqxLines {
                path: self.java_path.take(),
                call_timeout: self.java_call_timeout.take(),
                init_module: self.java_init_module.take(),
                pool_size: self.java_pool_size.take(),
            },
            Driver::Amqtt => EmqxLines::default(),
        }
    }

    /// Limits of the queue. By default one client or one address gets at most 10 000 calls, and
    /// never more than all. Pending logins of many devices behind one router share an address.
    fn queue(&self) -> Limits {
        let (calls_max, bytes_max) =
            (self.queue_max.unwrap_or(100_000), self.queue_bytes_max.unwrap_or(64 << 20));
        Limits {
            calls_max,
            bytes_max,
            client_calls_max: self.client_queue_max.unwrap_or(calls_max.min(10_000)),
            client_bytes_max: self.client_queue_bytes_max.unwrap_or(bytes_max.min(16 << 20)),
            address_calls_max: self.address_queue_max.unwrap_or(calls_max.min(10_000)),
            address_bytes_max: self.address_queue_bytes_max.unwrap_or(bytes_max.min(16 << 20)),
        }
    }
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::new(text));
        if self.pool_size == 0 || self.pool_size > WORKERS_MAX {
            return wrong(format!("pool_size = {}: must be 1 to {WORKERS_MAX}", self.pool_size));
        }
        for (key, value) in [
            ("call_timeout", self.call_timeout),
            ("start_timeout", self.start_timeout),
            ("farewell_timeout", self.shutdown_timeout),
        ] {
            if value.is_zero() || value > Duration::from_secs(3600) {
                return wrong(format!("{key}: must be 1 ms to 60 minutes"));
            }
        }
        if self.frame_bytes_max < 1024 {
            return wrong(format!("frame_bytes_max = {}: must be at least 1024", self.frame_bytes_max));
        }
        for (key, value, least) in [
            ("queue_max", self.queue.calls_max, CALLS_LEAST),
            ("client_queue_max", self.queue.client_calls_max, CALLS_LEAST),
            ("queue_bytes_max", self.queue.bytes_max, BYTES_LEAST),
            ("client_queue_bytes_max", self.queue.client_bytes_max, BYTES_LEAST),
            ("address_queue_max", self.queue.address_calls_max, CALLS_LEAST),
            ("address_queue_bytes_max", self.queue.address_bytes_max, BYTES_LEAST),
        ] {
            if value < least {
                return wrong(format!("{key} = {value}: must be at least {least}"));
            }
        }
        if self.clients_max == 0 {
            return wrong("clients_max = 0: must be at least 1".to_owned());
        }
        for path in &self.paths {
            if !path.exists() {
                return wrong(format!("path: there is no {}", path.display()));
            }
        }
        if !self.working_directory.is_dir() {
            return wrong(format!(
                "working_directory: there is no folder {}",
                self.working_directory.display()
            ));
        }
        if self.driver != Driver::Amqtt && self.paths.is_empty() {
            return wrong("path is missing: the file or folder of the hooks".to_owned());
        }
        Ok(())
    }

    /// The result of a failed call at a point: `failed_action` if it is set, otherwise the point's
    /// own policy.
    pub fn policy(&self, point: HookPoint) -> FaultPolicy {
        match self.failed_action {
            Some(FailedAction::Deny) => FaultPolicy::Deny,
            Some(FailedAction::Ignore) => FaultPolicy::Ignore,
            None => point.fault_policy(),
        }
    }
}

#[cfg(test)]
mod tests;
