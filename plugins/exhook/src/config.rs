//! What the operator configures, in our own words or in those of EMQX's `emqx_extension_hook.conf`, and what is wrong with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grapnel_plugin_abi::{Error, FaultPolicy, HookPoint};
use serde::Deserialize;

use crate::queue::Limits;

/// The keys of `[plugins.exhook] config`, as they are written.
#[derive(Clone, Debug, Deserialize)]
pub struct Written {
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
    // EMQX's lines.
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

/// What EMQX's lines say of one driver.
#[derive(Clone, Debug, Default)]
struct EmqxLines {
    path: Option<String>,
    call_timeout: Option<Span>,
    init_module: Option<String>,
    pool_size: Option<Count>,
}

/// A time: `5s`, `500ms`, `1h30m`, or a number of milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Span {
    Ms(u64),
    Text(String),
}

/// A number, or the text of one.
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

impl Span {
    fn read(&self, key: &str) -> Result<Duration, Error> {
        let text = match self {
            Span::Ms(ms) => return Ok(Duration::from_millis(*ms)),
            Span::Text(text) => text.trim(),
        };
        let wrong =
            || Error::new(format!("{key} = {text:?}: write a time, as in \"5s\", \"500ms\" or \"1h30m\""));
        if let Ok(ms) = text.parse() {
            return Ok(Duration::from_millis(ms));
        }
        milliseconds(text).map(Duration::from_millis).ok_or_else(wrong)
    }
}

/// A time as EMQX's configuration has it: numbers with units one behind the other, which add up, such as `1h30m` or `1.5s`. A part of a
/// millisecond counts as a whole one.
fn milliseconds(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0_f64);
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, behind) = rest.split_at(number);
        let unit = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, behind) = behind.split_at(unit);
        let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
        // Neither `.5s` nor `5.s`.
        if !number.starts_with(|c: char| c.is_ascii_digit()) || number.ends_with('.') {
            return None;
        }
        sum += number.parse::<f64>().ok()? * ms;
        rest = behind;
    }
    (!text.is_empty() && sum < TIME_MAX_MS).then(|| sum.ceil() as u64)
}

/// Units of times: fortnights, weeks, days, hours, minutes, seconds and milliseconds.
const UNITS: [(&str, f64); 7] = [
    ("f", 1_209_600_000.0),
    ("w", 604_800_000.0),
    ("d", 86_400_000.0),
    ("h", 3_600_000.0),
    ("m", 60_000.0),
    ("s", 1000.0),
    ("ms", 1.0),
];
/// Numbers up to this one are exact; no setting takes as much.
const TIME_MAX_MS: f64 = 9e15;

/// What it means for one driver.
#[derive(Clone, Debug)]
pub struct Config {
    /// `python3` takes hooks of our own API and of EMQX's, `amqtt` those of aMQTT, `java` EMQX's in Java.
    pub driver: Driver,
    /// What runs the hooks: an absolute path, or a name that is looked up in PATH.
    pub program: PathBuf,
    /// What it is started with.
    pub arguments: Vec<OsString>,
    /// What its environment has besides the names that every worker's has.
    pub environment: Vec<Variable>,
    /// Where it runs.
    pub working_directory: PathBuf,
    /// Files, whose folders are searched, and folders: absolute paths.
    pub paths: Vec<PathBuf>,
    /// Folders of EMQX's lines that are not there.
    pub missing: Vec<PathBuf>,
    /// The module that is imported.
    pub init_module: String,
    /// How long an answer may take.
    pub call_timeout: Duration,
    /// How long a worker may take until it is ready.
    pub start_timeout: Duration,
    /// How long a worker may take to end by itself, its hooks' own farewell included.
    pub farewell_timeout: Duration,
    /// What becomes of calls while a worker is started anew.
    pub while_down: WhileDown,
    /// How many workers run; one client always meets the same one.
    pub pool_size: u32,
    /// What a failed call means, everywhere; without it `deny` where it is asked whether a client may, and `ignore` elsewhere.
    pub failed_action: Option<FailedAction>,
    /// Whether a worker that has ended is started anew.
    pub auto_reconnect: bool,
    /// What may wait for one worker, in all and of each client.
    pub queue: Limits,
    /// The longest frame a worker may send, bytes.
    pub frame_bytes_max: usize,
    /// Most clients that a shard keeps described to one worker.
    pub clients_max: u32,
    /// Most bytes that are kept of one login for the next worker.
    pub login_bytes_max: usize,
    /// Most bytes that are kept of all logins of one worker.
    pub logins_bytes_max: usize,
    /// The broker's name, as hooks see it.
    pub node: String,
    /// Topic filters per hook point about a message, in the place of those that the workers ask for.
    pub topics: BTreeMap<String, Vec<String>>,
    /// The driver's own.
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// One entry of `environment`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Variable {
    /// `NAME`: as the broker has it, if it does.
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

/// Who runs the hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// Our own API and EMQX's, told apart by the module.
    Python3,
    /// aMQTT's plugins.
    Amqtt,
    /// EMQX's hooks in Java.
    Java,
}

impl Driver {
    /// Its name in the configuration and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Driver::Python3 => "python3",
            Driver::Amqtt => "amqtt",
            Driver::Java => "java",
        }
    }

    /// Which of the plugin's hooks are its: drivers of one language have one place, so that at most one of them runs at a time.
    pub const fn place(self) -> usize {
        match self {
            Driver::Python3 | Driver::Amqtt => 0,
            Driver::Java => 1,
        }
    }

    /// What is imported unless the configuration says otherwise.
    const fn init_module(self) -> &'static str {
        match self {
            Driver::Python3 | Driver::Amqtt => "main",
            Driver::Java => "Main",
        }
    }
}

/// How many places there are for drivers.
pub const PLACES: usize = 2;

/// What a failed call means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailedAction {
    /// What was asked for is refused.
    Deny,
    /// As if the hook had not been there.
    Ignore,
}

/// What becomes of calls while a worker is started anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhileDown {
    /// They wait for the next process, as long as an answer may take.
    #[default]
    Wait,
    /// They end by their policy at once; what only tells is dropped.
    Policy,
}

/// What runs hooks in Java.
const JAR: &str = "grapnel-exhook.jar";
/// How Python is told to run our package: it searches no folder that is not named by an absolute path, so that a file in the folder
/// where it happens to run never takes the place of a module.
const RUN_PACKAGE: &str = "import sys; sys.path[:] = [path for path in sys.path if path.startswith('/')]; import runpy; \
    runpy.run_module('grapnel_exhook', run_name='__main__', alter_sys=True)";
/// Where workers run unless the operator says otherwise: a folder in which nobody but the system's owner can put a file.
const WORKING_DIRECTORY: &str = "/";
/// What the names begin with by which the broker itself is configured.
pub const OWN_PREFIX: &str = "GRAPNEL_";
/// The least that may wait: notifications have half of it.
const CALLS_LEAST: u64 = 2;
/// The same in bytes: a call with a description of its client is no more than a few thousand, but for payloads.
const BYTES_LEAST: u64 = 64 << 10;
/// Most workers of one pool.
const WORKERS_MAX: u32 = 256;

impl Driver {
    fn read(name: &str) -> Result<Driver, Error> {
        match name.trim() {
            "python3" | "python" => Ok(Driver::Python3),
            "amqtt" => Ok(Driver::Amqtt),
            "java" => Ok(Driver::Java),
            "python2" => Err(Error::new(
                "driver python2: Python 2 has ended; the same hooks run with driver = \"python3\" once they are Python 3",
            )),
            several if several.contains(',') => Err(Error::new(format!(
                "driver = {several:?}: one driver for each load; load exhook once more under another name (--name)"
            ))),
            other => Err(Error::new(format!("driver = {other:?}: there are python3, amqtt and java"))),
        }
    }
}

impl Written {
    /// What it means, one for each driver: several are only in EMQX's lines. `beside` is the folder that the plugin was loaded from.
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
        let lines = match driver {
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
        };
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
            // EMQX passed its list on to a search path, where what is not there does no harm.
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
            farewell_timeout: time(&self.farewell_timeout, "farewell_timeout", 10)?,
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

    /// What may wait. A client has no more than all have.
    fn queue(&self) -> Limits {
        let (calls_max, bytes_max) =
            (self.queue_max.unwrap_or(100_000), self.queue_bytes_max.unwrap_or(64 << 20));
        Limits {
            calls_max,
            bytes_max,
            client_calls_max: self.client_queue_max.unwrap_or(calls_max.min(10_000)),
            client_bytes_max: self.client_queue_bytes_max.unwrap_or(bytes_max.min(16 << 20)),
        }
    }

    /// What runs the hooks of a driver, and with which arguments.
    fn program(&self, driver: Driver, beside: Option<&Path>) -> Result<(PathBuf, Vec<OsString>), Error> {
        if driver != Driver::Java {
            let python = self.python.as_deref().unwrap_or(Path::new("python3"));
            return Ok((program("python", python)?, ["-u", "-c", RUN_PACKAGE].map(OsString::from).to_vec()));
        }
        let jar = self.java_jar.clone().or_else(|| Some(beside?.join(JAR)));
        let jar = jar.ok_or_else(|| Error::new(format!("java_jar is missing: where {JAR} is")))?;
        let jar = searched("java_jar", &jar)?;
        if !jar.exists() {
            return Err(Error::new(format!(
                "there is no {}: build it with plugins/exhook/sdk/java/build, or say where it is with `java_jar`",
                jar.display()
            )));
        }
        // What later versions of Java mean by text without being told; the operator's options come behind it.
        let mut arguments = vec![OsString::from("-Dfile.encoding=UTF-8")];
        arguments.extend(self.java_options.iter().map(OsString::from));
        arguments.extend([OsString::from("-cp"), jar.into(), OsString::from("io.grapnel.exhook.Worker")]);
        Ok((program("java", self.java.as_deref().unwrap_or(Path::new("java")))?, arguments))
    }
}

/// A path of the configuration as it is from the broker's working directory: workers run elsewhere.
fn absolute(key: &str, path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| Error::new(format!("{key} = {}: {error}", path.display())))
}

/// The same of a path that workers search: they take several with `:` between.
fn searched(key: &str, path: &Path) -> Result<PathBuf, Error> {
    let path = absolute(key, path)?;
    if path.as_os_str().as_bytes().contains(&b':') {
        return Err(Error::new(format!("{key}: {} has a `:`, which separates paths", path.display())));
    }
    Ok(path)
}

/// The same of a program; a name without a slash is looked up in PATH.
fn program(key: &str, program: &Path) -> Result<PathBuf, Error> {
    if program.as_os_str().as_bytes().contains(&b'/') { absolute(key, program) } else { Ok(program.into()) }
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
            ("farewell_timeout", self.farewell_timeout),
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

    /// What a failed call means at a point: what the operator says, else what a fault means there.
    pub fn policy(&self, point: HookPoint) -> FaultPolicy {
        match self.failed_action {
            Some(FailedAction::Deny) => FaultPolicy::Deny,
            Some(FailedAction::Ignore) => FaultPolicy::Ignore,
            None => point.fault_policy(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn read_all(value: Value) -> Result<Vec<Config>, String> {
        let written: Written = serde_json::from_value(value).map_err(|error| error.to_string())?;
        written.read(Some(Path::new("/plugins"))).map_err(|error| error.to_string())
    }

    fn read(value: Value) -> Result<Config, String> {
        read_all(value).map(|mut configs| configs.remove(0))
    }

    #[test]
    fn what_is_not_said_is_as_the_documentation_has_it() {
        let config = read(json!({"driver": "python3", "path": "/tmp"})).unwrap();
        assert_eq!((config.driver, config.pool_size, config.auto_reconnect), (Driver::Python3, 1, true));
        assert_eq!((config.init_module.as_str(), config.call_timeout), ("main", Duration::from_secs(5)));
        assert_eq!((config.while_down, config.farewell_timeout), (WhileDown::Wait, Duration::from_secs(10)));
        let denies: Vec<_> = HookPoint::ALL
            .iter()
            .filter(|point| config.policy(**point) == FaultPolicy::Deny)
            .map(|point| point.name())
            .collect();
        assert_eq!(denies, ["client.authenticate", "client.authorize", "client.subscribe"]);
    }

    #[test]
    fn emqx_lines_are_taken_as_they_are() {
        let config = read(json!({
            "exhook.drivers": "python3",
            "exhook.drivers.python3.path": "/tmp",
            "exhook.drivers.python3.call_timeout": "1500ms",
            "exhook.drivers.python3.init_module": "hooks",
            "exhook.drivers.python3.pool_size": "4",
        }));
        let config = config.unwrap();
        assert_eq!((config.init_module.as_str(), config.pool_size), ("hooks", 4));
        assert_eq!(config.call_timeout, Duration::from_millis(1500));
    }

    #[test]
    fn times_are_read_as_emqx_reads_them() {
        let read =
            |text: &str| Span::Text(text.to_owned()).read("key").ok().map(|time| time.as_millis() as u64);
        for (text, ms) in [
            ("500ms", 500),
            ("5s", 5000),
            (" 2m ", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("1w", 604_800_000),
            ("1f", 1_209_600_000),
            ("1.5s", 1500),
            ("0.1ms", 1),
            ("30m1h", 5_400_000),
            ("700", 700),
        ] {
            assert_eq!(read(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "s",
            "5 s",
            "1h 30m",
            "5x",
            "1h30",
            ".5s",
            "5.s",
            "1.2.3s",
            "-1s",
            "1e3s",
            "5S",
            "99999999999999999999d",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let mut lines = json!({"exhook.drivers": "python3", "exhook.drivers.python3.path": "/tmp"});
        for (text, expected) in [("1h", Some(3600)), ("59m59s", Some(3599)), ("1h1ms", None)] {
            lines["exhook.drivers.python3.call_timeout"] = json!(text);
            let timeout = super::tests::read(lines.clone()).ok().map(|config| config.call_timeout.as_secs());
            assert_eq!(timeout, expected, "{text}");
        }
    }

    #[test]
    fn of_several_folders_in_emqx_lines_those_count_that_are_there() {
        let of = |key: &str, path: &str| {
            read(
                json!({"exhook.drivers": "python3", "driver": if key == "path" { Some("python3") } else { None }, key: path}),
            )
        };
        let emqx = "exhook.drivers.python3.path";
        let config = of(emqx, "/no/such:/tmp:/nor/this").unwrap();
        assert_eq!(config.paths, [PathBuf::from("/tmp")]);
        assert_eq!(config.missing, ["/no/such", "/nor/this"].map(PathBuf::from));
        assert!(of(emqx, "/no/such:/nor/this").unwrap_err().contains("there is no /no/such"));
        assert!(
            of("path", "/no/such:/tmp").unwrap_err().contains("there is no /no/such"),
            "our own words are meant"
        );
    }

    #[test]
    fn both_of_emqx_drivers_run_beside_each_other() {
        let configs = read_all(json!({
            "exhook.drivers": "java, python3",
            "exhook.drivers.java.path": "/tmp",
            "exhook.drivers.java.init_module": "Sample",
            "exhook.drivers.python3.path": "/usr",
            "java_jar": "/dev/null",
            "java_options": ["-Xmx64m"],
            "pool_size": 2,
        }));
        let [java, python] = &configs.unwrap()[..] else { panic!("two drivers") };
        assert_eq!(
            (java.driver, &java.paths[..], java.init_module.as_str()),
            (Driver::Java, &["/tmp".into()][..], "Sample")
        );
        assert_eq!(java.program, Path::new("java"));
        assert_eq!(
            java.arguments,
            ["-Dfile.encoding=UTF-8", "-Xmx64m", "-cp", "/dev/null", "io.grapnel.exhook.Worker"]
        );
        assert_eq!(
            (python.driver, &python.paths[..], python.init_module.as_str()),
            (Driver::Python3, &["/usr".into()][..], "main")
        );
        assert_eq!((python.program.as_path(), python.pool_size), (Path::new("python3"), 2));
    }

    /// Workers run elsewhere: what is written from the broker's working directory on is given to them as an absolute path.
    #[test]
    fn paths_are_those_of_the_broker() {
        let here = std::env::current_dir().unwrap();
        let config = read(
            json!({"driver": "amqtt", "path": "src:/tmp:", "python": "venv/bin/python", "config": "a.yaml"}),
        );
        let config = config.unwrap();
        assert_eq!(config.paths, [here.join("src"), "/tmp".into()]);
        assert_eq!(config.program, here.join("venv/bin/python"));
        assert_eq!(config.options["config"], here.join("a.yaml").to_str().unwrap());
        assert_eq!(config.working_directory, Path::new("/"));
        let config = read(json!({"driver": "java", "path": "src", "java_jar": "Cargo.toml"})).unwrap();
        assert!(config.arguments.contains(&here.join("Cargo.toml").into()), "{:?}", config.arguments);
    }

    #[test]
    fn the_environment_is_read_as_names_and_settings() {
        let mut written = with_environment("A");
        written["environment"] = json!(["A", "B=", "C=x=y"]);
        let set = |name: &str, value: &str| Variable::Set(name.to_owned(), value.to_owned());
        assert_eq!(
            read(written).unwrap().environment,
            [Variable::PassedOn("A".to_owned()), set("B", ""), set("C", "x=y")]
        );
    }

    fn with_environment(entry: &str) -> Value {
        json!({"driver": "python3", "path": "/tmp", "environment": [entry]})
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (value, expected) in [
            (json!({"path": "/tmp"}), "driver is missing"),
            (json!({"driver": "python2", "path": "/tmp"}), "Python 2 has ended"),
            (json!({"driver": "perl", "path": "/tmp"}), "driver = \"perl\""),
            (json!({"driver": "python3,java", "path": "/tmp"}), "one driver for each load"),
            (
                json!({"exhook.drivers": "python3,python3", "path": "/tmp"}),
                "names python3 and python3: load exhook once more",
            ),
            (json!({"driver": "java", "path": "/tmp"}), "there is no /plugins/grapnel-exhook.jar: build it"),
            (json!({"driver": "python3"}), "path is missing"),
            (json!({"driver": "python3", "path": "/no/such"}), "there is no /no/such"),
            (json!({"driver": "python3", "path": "/tmp", "pool_size": 0}), "pool_size = 0"),
            (json!({"driver": "python3", "path": "/tmp", "clients_max": 0}), "clients_max = 0"),
            (
                json!({"driver": "python3", "path": "/tmp", "queue_max": 0}),
                "queue_max = 0: must be at least 2",
            ),
            (
                json!({"driver": "python3", "path": "/tmp", "queue_max": 1}),
                "queue_max = 1: must be at least 2",
            ),
            (
                json!({"driver": "python3", "path": "/tmp", "queue_bytes_max": 65_535}),
                "queue_bytes_max = 65535: must be at least 65536",
            ),
            (json!({"driver": "python3", "path": "/tmp", "client_queue_max": 0}), "client_queue_max = 0"),
            (
                json!({"driver": "python3", "path": "/tmp", "client_queue_bytes_max": 0}),
                "client_queue_bytes_max = 0: must be at least 65536",
            ),
            (json!({"driver": "python3", "path": "/tmp", "call_timeout": "soon"}), "call_timeout = \"soon\""),
            (json!({"driver": "python3", "path": "/tmp", "call_timeout": "0s"}), "call_timeout"),
            (json!({"driver": "python3", "path": "/tmp", "farewell_timeout": "61m"}), "farewell_timeout"),
            (
                json!({"driver": "python3", "path": "/tmp", "working_directory": "/no/such"}),
                "no folder /no/such",
            ),
            (json!({"driver": "java", "path": "/tmp", "java_jar": "/a:."}), "java_jar: /a:. has a `:`"),
            (with_environment("=x"), "\"=x\" is neither NAME nor NAME=value"),
            (with_environment(""), "\"\" is neither NAME nor NAME=value"),
            (with_environment("A=\0"), "is neither NAME nor NAME=value"),
            (with_environment("GRAPNEL_STATE_DIR"), "GRAPNEL_STATE_DIR is the broker's own"),
            (with_environment("GRAPNEL_X=1"), "GRAPNEL_X is the broker's own"),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }
}
