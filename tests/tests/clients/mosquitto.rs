//! mosquitto_sub and mosquitto_pub as one client: each connection of a scenario is a mosquitto_sub,
//! and each of its publications a mosquitto_pub of its own, because no mosquitto tool does both.

use std::process::Command;
use std::time::Duration;

use grapnel_tests::process::{Process, command};
use grapnel_tests::{Broker, PATIENCE, Version};
use rustix::process::Signal;

use crate::driver::{Driver, Layers, Message, Refused, Settings};
use crate::scripted::from_hex;

struct Mosquitto {
    port: u16,
    version: Version,
    process: Process,
    /// Number of the first unread line.
    line: usize,
    has_will: bool,
    layers: Option<Layers>,
}

/// Starts mosquitto_sub and waits for its SUBACK. The program needs a subscription, so a client
/// without one gets a topic without publishers.
#[track_caller]
pub fn open(broker: &Broker, version: Version, settings: &Settings) -> Result<Box<dyn Driver>, Refused> {
    let port = broker.address().port();
    let port = settings.layers.as_ref().map_or(port, |_| settings.port(broker));
    let layers = settings.layers.clone();
    let mut command = tool("mosquitto_sub", settings.port(broker), version, layers.as_ref());
    command.args(["-d", "-F", "message %q %r %x %t", "-i", &settings.client_id]);
    command.args(["-q", &settings.qos.to_string()]);
    if !settings.clean {
        command.arg("-c");
    }
    if let (Some(expiry_s), true) = (settings.expiry_s(), version.is_5()) {
        command.args(["-x", &expiry_s.to_string()]);
    }
    if let Some(will) = &settings.will {
        let payload = String::from_utf8(will.payload.clone()).expect("wills of the scenarios are text");
        command.args(["--will-topic", &will.topic, "--will-payload", &payload]);
        command.args(["--will-qos", &will.qos.to_string()]);
        if will.retain {
            command.arg("--will-retain");
        }
    }
    let filters = if settings.filters.is_empty() { &["nothing".to_owned()] } else { &settings.filters[..] };
    for filter in filters {
        command.args(["-t", filter]);
    }
    let process = Process::start("mosquitto_sub", command, None);
    let (mut line, has_will) = (0, settings.will.is_some());
    let subscribed = process.next_line(&mut line, PATIENCE, |line| {
        line.starts_with("Subscribed (mid").then(|| line.split("): ").nth(1).unwrap_or_default().to_owned())
    });
    let Some(granted) = subscribed else {
        return Err(Refused(process.log()));
    };
    assert_eq!(granted, vec![settings.qos.to_string(); filters.len()].join(", "), "what SUBACK granted");
    // Messages may have arrived before SUBACK.
    Ok(Box::new(Mosquitto { port, version, process, line: 0, has_will, layers }))
}

/// The version of the tools, such as `2.0.11`.
pub fn release() -> String {
    let mut command = command("mosquitto_pub");
    command.arg("--version");
    let process = Process::start("mosquitto_pub", command, None);
    process.wait_for_line("the version", PATIENCE, |line| {
        line.strip_prefix("mosquitto_pub version ")?.split(' ').next().map(str::to_owned)
    })
}

fn tool(program: &str, port: u16, version: Version, layers: Option<&Layers>) -> Command {
    let mut command = command(program);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", version.mosquitto()]);
    if let Some(layers) = layers.filter(|layers| layers.kind.has_tls()) {
        command.arg("--cafile").arg(&layers.authority);
        command.arg("--cert").arg(&layers.shown.0).arg("--key").arg(&layers.shown.1);
    }
    if layers.is_some_and(|layers| layers.kind.has_websocket()) {
        command.arg("--ws");
    }
    command
}

impl Driver for Mosquitto {
    fn session_present(&self) -> Result<bool, Refused> {
        let line = self.process.wait_for_line("CONNACK", PATIENCE, |line| {
            line.find("received CONNACK").map(|at| line[at..].to_owned())
        });
        Err(Refused(line))
    }

    fn publish(&mut self, message: &Message) -> Result<(), Refused> {
        let mut command = tool("mosquitto_pub", self.port, self.version, self.layers.as_ref());
        command.args(["-t", &message.topic, "-q", &message.qos.to_string()]);
        if message.retain {
            command.arg("-r");
        }
        command.arg(if message.payload.is_empty() { "-n" } else { "-s" });
        let mut process = Process::start("mosquitto_pub", command, Some(&message.payload));
        let status = process.wait(PATIENCE).expect("mosquitto_pub ends in time");
        if status.success() { Ok(()) } else { Err(Refused(process.log())) }
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Message>, Refused> {
        Ok(self.process.next_line(&mut self.line, timeout, message))
    }

    fn disconnect(mut self: Box<Self>) -> Result<(), Refused> {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait(PATIENCE).is_some(), "mosquitto_sub ends on SIGTERM");
        if self.has_will && self.version.is_5() {
            return Err(Refused("mosquitto_sub ends with DISCONNECT 0x04 (with will message)".to_owned()));
        }
        Ok(())
    }

    fn drop_connection(mut self: Box<Self>) {
        self.process.kill();
    }
}

/// A line as `-F` above makes it: QoS, RETAIN, payload, topic.
fn message(line: &str) -> Option<Message> {
    let mut words = line.strip_prefix("message ")?.splitn(4, ' ');
    Some(Message {
        qos: words.next()?.parse().ok()?,
        retain: words.next()? == "1",
        payload: from_hex(words.next()?),
        topic: words.next()?.to_owned(),
    })
}
