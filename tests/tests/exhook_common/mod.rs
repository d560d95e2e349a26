//! Shared by the tests of exhook's adapters: a broker whose workers find the SDK, and the calls
//! that hooks of `tests/exhook` print, one JSON line each, in the broker's log.

#![allow(dead_code, reason = "not every test file needs all of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use grapnel_tests::broker::Builder;
use grapnel_tests::wire::Ack;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Publish, Version, paho};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Where the hooks of these tests are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("exhook")
}

/// Settings with which exhook's workers find the SDK, and a program in place of Python finds
/// Python.
pub const ENVIRONMENT: &str = "environment=[\"PYTHONPATH\", \"TESTS_PYTHON\"]";

/// A broker whose workers find the SDK in the source tree, or in `GRAPNEL_TESTS_EXHOOK_SDK`; use it
/// with [`ENVIRONMENT`] in their configuration.
pub fn broker() -> Builder {
    Broker::builder()
        .grapnel_only()
        .environment("PYTHONPATH", &sdk())
        .environment("TESTS_PYTHON", paho::python().to_str().expect("a path that is text"))
}

/// Folder of the SDK.
pub fn sdk() -> String {
    std::env::var("GRAPNEL_TESTS_EXHOOK_SDK").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/exhook/sdk/python/src").to_owned()
    })
}

/// A broker that accepts topics of the maximum length.
pub fn roomy_broker() -> Builder {
    broker().config("[limits]\ntopic_bytes_max = 65535\npacket_bytes_max = 2097152")
}

/// A CONNECT with a password of any bytes.
pub fn with_password(client_id: &str, password: &[u8]) -> Connect {
    let mut connect = Connect::new(Version::V5, client_id).login("u", "");
    connect.password = Some(password.to_vec());
    connect
}

/// All byte values.
pub fn all_bytes() -> Vec<u8> {
    (0..=255).collect()
}

/// Any bytes reach the hooks and come back unchanged. The hooks reverse payloads below `mirror/`
/// and allow a login with all byte values as password. Covers payloads, passwords, empty ones, and
/// the longest topic.
pub fn any_bytes_pass_unchanged_in_both_directions(broker: &Broker) {
    let mut client = Client::connect(broker, &with_password("c", &all_bytes()));
    client.subscribe("mirror/#", 0);
    let long = format!("mirror/{}", "x".repeat(65_535 - 7));
    for (topic, payload) in [
        ("mirror/a", all_bytes()),
        ("mirror/a", Vec::new()),
        ("mirror/a", [0xFF, 0].repeat(1 << 19)),
        ("mirror/a", b"\xC3\x28".to_vec()),
        (&long, all_bytes()),
    ] {
        assert_eq!(client.publish(&Publish::new(topic, payload.clone()).qos(1)), 0);
        let message = client.message();
        let turned: Vec<u8> = payload.into_iter().rev().collect();
        assert_eq!((message.topic.as_str(), message.payload == turned), (topic, true));
    }
    let (_, connack) = Client::attempt(broker, &with_password("d", b"other"));
    assert_eq!(connack.code, 0x87);
}

/// The arguments of `plugins load exhook` with these settings, and with the Python that has the
/// packages.
pub fn load_with(settings: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = ["plugins", "load", "exhook", "--once"].map(String::from).into();
    let python = format!("python=\"{}\"", paho::python().display());
    // The last value counts: a test may set its own.
    for setting in [&ENVIRONMENT.to_owned()].into_iter().chain(settings).chain([&python]) {
        arguments.extend(["--set".to_owned(), setting.clone()]);
    }
    arguments
}

/// Loads exhook.
#[track_caller]
pub fn load(broker: &Broker, settings: &[String]) -> String {
    let arguments = load_with(settings);
    broker.ctl_ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Tries a load of exhook that must be refused. Returns the message.
#[track_caller]
pub fn load_refused(broker: &Broker, settings: &[String]) -> String {
    let arguments = load_with(settings);
    broker.ctl_refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Printed calls of hooks, in order of arrival.
pub struct Calls<'b> {
    broker: &'b Broker,
    line: AtomicUsize,
}

impl<'b> Calls<'b> {
    /// Calls from now on.
    pub fn of(broker: &'b Broker) -> Calls<'b> {
        let line = broker.process().lines(|_| Some(())).len();
        Calls { broker, line: AtomicUsize::new(line) }
    }

    /// The next call: its hook, and its arguments.
    ///
    /// # Panics
    /// If none arrives in time.
    #[track_caller]
    pub fn next(&self) -> (String, Value) {
        let mut from = self.line.load(Relaxed);
        let found = self.broker.process().next_line(&mut from, PATIENCE, call_of);
        self.line.store(from, Relaxed);
        found.expect("a hook is called")
    }

    /// The next calls, which must be of these hooks, in this order. Returns their arguments.
    #[track_caller]
    pub fn expect<const N: usize>(&self, hooks: [&str; N]) -> [Value; N] {
        let mut seen = Vec::new();
        hooks.map(|hook| {
            let (called, arguments) = self.next();
            seen.push(called.clone());
            assert_eq!(called, hook, "called so far: {seen:?}, expected: {hooks:?}");
            arguments
        })
    }

    /// Skips calls up to one of a hook that `pick` accepts.
    #[track_caller]
    pub fn until(&self, hook: &str, pick: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (called, arguments) = self.next();
            if called == hook && pick(&arguments) {
                return arguments;
            }
        }
    }
}

/// `CALL ["hook", arguments]` in a line of the log, whose fields follow.
fn call_of(line: &str) -> Option<(String, Value)> {
    let (_, text) = line.split_once(" CALL ")?;
    let call = serde_json::Deserializer::from_str(text).into_iter().next();
    Some(call.and_then(Result::ok).unwrap_or_else(|| panic!("{line:?} is no call")))
}

/// Processes of workers that have reported ready, in order.
pub fn workers(broker: &Broker) -> Vec<u32> {
    broker.process().lines(|line| {
        let (_, rest) = line.split_once("/0 is ready: ")?;
        let number = rest.split_once(", process ")?.1;
        number.split(' ').next()?.parse().ok()
    })
}

/// Sends a worker a signal.
pub fn send(worker: u32, signal: Signal) {
    kill_process(Pid::from_raw(worker as i32).unwrap(), signal).unwrap();
}

/// Repeats a check until it is true.
#[track_caller]
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
    }
}

/// The reason code of the next PUBACK.
#[track_caller]
pub fn puback(client: &mut Client) -> u8 {
    client.receive_where("PUBACK", |packet| match packet {
        Packet::Puback(Ack { code, .. }) => Some(*code),
        _ => None,
    })
}
