//! Clients in other languages: each is a small program in `tests/clients` with one connection of
//! its library. It reads commands and writes events as lines of JSON. This file is the other side
//! of that protocol.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use grapnel_tests::process::{Process, command};
use grapnel_tests::{Broker, PATIENCE, Version, paho, plugin};
use serde_json::{Value, json};

use crate::driver::{Client, Driver, Message, Refused, Settings};

struct Scripted {
    process: Process,
    /// Number of the first unread line.
    line: usize,
    inbox: VecDeque<Message>,
    session_present: Result<bool, Refused>,
}

/// Starts the program, connects and subscribes.
#[track_caller]
pub fn open(
    client: Client,
    broker: &Broker,
    version: Version,
    settings: &Settings,
) -> Result<Box<dyn Driver>, Refused> {
    let (mut scripted, _) = Scripted::start(client);
    let will = settings.will.as_ref().map(|will| {
        json!({"topic": will.topic, "payload": hex(&will.payload), "qos": will.qos, "retain": will.retain})
    });
    let layers = settings.layers.as_ref();
    let tls = layers.filter(|layers| layers.kind.has_tls()).map(|layers| {
        let (certificate, key) = &layers.shown;
        json!({"authority": layers.authority, "certificate": certificate, "key": key})
    });
    let path = layers.filter(|layers| layers.kind.has_websocket()).map(|_| "/mqtt");
    let connected = scripted.request(&json!({
        "do": "connect", "port": settings.port(broker), "version": name(version), "client_id": settings.client_id,
        "clean": settings.clean, "expiry_s": settings.expiry_s(), "will": will, "comes_back": settings.comes_back,
        "tls": tls, "path": path,
    }))?;
    let instead = Refused(connected["instead"].as_str().unwrap_or_default().to_owned());
    scripted.session_present = connected["session_present"].as_bool().ok_or(instead);
    for filter in &settings.filters {
        let granted = scripted.request(&json!({"do": "subscribe", "filter": filter, "qos": settings.qos}))?;
        assert_eq!(granted["granted"], settings.qos, "what SUBACK granted for {filter}");
    }
    Ok(Box::new(scripted))
}

/// The version that the library reports.
pub fn release(client: Client) -> String {
    Scripted::start(client).1
}

impl Scripted {
    /// Starts the program. Returns the version of its library too.
    #[track_caller]
    fn start(client: Client) -> (Scripted, String) {
        let session_present = Err(Refused("not connected yet".to_owned()));
        let mut scripted =
            Scripted { process: program(client), line: 0, inbox: VecDeque::new(), session_present };
        let ready = scripted.event(PATIENCE);
        let (library, _) = client.release();
        let version = ready.and_then(|event| event["version"].as_str().map(str::to_owned));
        let Some(version) = version else {
            panic!("{library} does not start:\n{}", scripted.process.log());
        };
        (scripted, version)
    }

    /// Sends a command and waits for its answer; messages that arrive meanwhile are stored.
    #[track_caller]
    fn request(&mut self, command: &Value) -> Result<Value, Refused> {
        self.process.write(format!("{command}\n").into_bytes());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(event) = self.event(left) else {
                panic!("no answer to {}; it printed:\n{}", short(command), shorter(&self.process.log()));
            };
            match event["event"].as_str() {
                Some("message") => self.inbox.push_back(message(&event)),
                Some("refused") => {
                    return Err(refused(&event));
                }
                _ => return Ok(event),
            }
        }
    }

    fn event(&mut self, timeout: Duration) -> Option<Value> {
        self.process.next_line(&mut self.line, timeout, |line| {
            line.starts_with('{').then(|| serde_json::from_str(line).ok())?
        })
    }
}

impl Driver for Scripted {
    fn session_present(&self) -> Result<bool, Refused> {
        self.session_present.clone()
    }

    fn publish(&mut self, message: &Message) -> Result<(), Refused> {
        self.request(&json!({
            "do": "publish", "topic": message.topic, "payload": hex(&message.payload), "qos": message.qos,
            "retain": message.retain,
        }))?;
        Ok(())
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Message>, Refused> {
        if let Some(message) = self.inbox.pop_front() {
            return Ok(Some(message));
        }
        let Some(event) = self.event(timeout) else { return Ok(None) };
        match event["event"].as_str() {
            Some("message") => Ok(Some(message(&event))),
            Some("refused") => Err(refused(&event)),
            _ => panic!("nobody asked for {event}"),
        }
    }

    fn disconnect(mut self: Box<Self>) -> Result<(), Refused> {
        self.request(&json!({"do": "disconnect"})).map(drop)
    }

    fn drop_connection(mut self: Box<Self>) {
        self.process.kill();
    }
}

fn program(client: Client) -> Process {
    let programs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients");
    let python = |script: &str| -> Command {
        let mut command = command(paho::python());
        command.arg("-u").arg(programs.join(script));
        // The folder is part of the source tree: no compiled copies in it.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let command = match client {
        Client::Paho => python("paho_driver.py"),
        Client::Aiomqtt => python("aiomqtt_driver.py"),
        Client::MqttJs => {
            let mut command = command("node");
            command.arg(programs.join("mqttjs_driver.mjs")).arg(node_modules());
            command
        }
        other => unreachable!("{other:?} is not scripted"),
    };
    Process::start_listening(client.release().0, command)
}

/// The directory that `scripts/test` installs mqtt.js into, or the one `GRAPNEL_TESTS_NODE` names.
fn node_modules() -> PathBuf {
    if let Some(path) = std::env::var_os("GRAPNEL_TESTS_NODE") {
        return path.into();
    }
    let path = plugin::directory().parent().expect("target/PROFILE").join("node");
    assert!(
        path.join("node_modules/mqtt").exists(),
        "{} has no mqtt.js; make it first: scripts/test --prepare",
        path.display()
    );
    path
}

fn name(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}

fn message(event: &Value) -> Message {
    Message {
        topic: event["topic"].as_str().expect("a topic").to_owned(),
        payload: from_hex(event["payload"].as_str().expect("a payload")),
        qos: event["qos"].as_u64().and_then(|qos| qos.try_into().ok()).expect("a QoS"),
        retain: event["retain"].as_bool().expect("a flag"),
    }
}

fn refused(event: &Value) -> Refused {
    Refused(event["error"].as_str().unwrap_or_default().to_owned())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Payloads are sent as hexadecimal digits, which every language handles exactly.
///
/// # Panics
/// For anything else.
pub fn from_hex(digits: &str) -> Vec<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).expect("a hexadecimal digit");
    let byte = |pair: &[u8]| u8::try_from(value(pair[0]) * 16 + value(pair[1])).expect("two digits");
    digits.as_bytes().chunks_exact(2).map(byte).collect()
}

fn short(command: &Value) -> String {
    command.to_string().chars().take(200).collect()
}

fn shorter(log: &str) -> String {
    log.lines().map(|line| line.chars().take(200).collect::<String>() + "\n").collect()
}
