//! paho-mqtt, the Python client: scenarios are functions of `tests/paho/scenarios.py`, run by the interpreter that
//! `scripts/test` prepares.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Process, command};
use crate::{Broker, Transport, Version, plugin};

/// Runs one scenario. Returns its result.
///
/// # Panics
/// If there is no interpreter with paho-mqtt, the scenario fails, or it does not end in time.
#[track_caller]
pub fn run(broker: &Broker, version: Version, scenario: &str) -> Value {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("paho/scenarios.py");
    let mut command = command(python());
    let listener = broker.listener();
    let port = if listener.transport() == Transport::Proxy {
        eprintln!("paho-mqtt over plain TCP: it does not speak the PROXY protocol");
        broker.address().port()
    } else {
        listener.port()
    };
    command.arg("-u").arg(script).arg(port.to_string());
    if let Some(path) = listener.unix() {
        command.env("UNIX_SOCKET", path);
    }
    if let Some(path) = listener.authority() {
        command.env("CA_FILE", path);
    }
    if listener.transport().has_websocket() {
        command.env("WEBSOCKET_PATH", "/mqtt");
    }
    command.arg(version.level().to_string()).arg(scenario);
    let mut process = Process::start("paho-mqtt", command, None);
    let log = process.succeed(Duration::from_secs(60));
    let last = log.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{scenario}: {error} in {log}"))
}

/// The interpreter of the environment that `scripts/test` makes, or the one that
/// `GRAPNEL_TESTS_PYTHON` names.
///
/// # Panics
/// If there is none; the message contains the command that makes it.
pub fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("GRAPNEL_TESTS_PYTHON") {
        return path.into();
    }
    let target = plugin::directory().parent().expect("target/PROFILE").to_owned();
    let path = target.join("venv/bin/python");
    assert!(path.exists(), "{} is missing; make it first: scripts/test --prepare", path.display());
    path
}
