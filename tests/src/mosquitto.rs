//! mosquitto_pub and mosquitto_sub with the broker's address.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Process, command};
use crate::{Broker, PATIENCE, Transport, Version};

/// A running mosquitto_sub whose subscriptions are in force.
pub struct Subscriber {
    process: Process,
    seen: usize,
}

/// A message as mosquitto_sub printed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: String,
    /// QoS it was delivered with.
    pub qos: u64,
    /// RETAIN flag.
    pub retain: bool,
    /// Properties as mosquitto names them; null before MQTT 5.
    pub properties: Value,
}

fn client(program: &str, broker: &Broker, version: Version, arguments: &[&str]) -> Command {
    let mut command = command(program);
    let listener = broker.listener();
    match listener.transport() {
        Transport::Unix => {
            command.arg("--unix").arg(listener.unix().expect("it has a socket"));
        }
        Transport::Tls => {
            command.args(["-h", "127.0.0.1", "-p", &listener.port().to_string()]);
            command.arg("--cafile").arg(listener.authority().expect("it has certificates"));
        }
        other => {
            if other != Transport::Tcp {
                eprintln!("{program} over plain TCP: it does not speak {other:?}");
            }
            command.args(["-h", "127.0.0.1", "-p", &broker.address().port().to_string()]);
        }
    }
    command.args(["-V", version.mosquitto()]).args(arguments);
    command
}

/// Runs mosquitto_pub to its end.
///
/// # Panics
/// If it does not end with status 0 in time.
#[track_caller]
pub fn publish(broker: &Broker, version: Version, arguments: &[&str]) {
    let command = client("mosquitto_pub", broker, version, arguments);
    Process::start("mosquitto_pub", command, None).succeed(PATIENCE);
}

/// Runs mosquitto_pub with `-l`: each line of `input` is a message.
///
/// # Panics
/// As [`publish`].
#[track_caller]
pub fn publish_lines(broker: &Broker, version: Version, arguments: &[&str], input: &str) {
    let mut command = client("mosquitto_pub", broker, version, arguments);
    command.arg("-l");
    Process::start("mosquitto_pub", command, Some(input.as_bytes())).succeed(PATIENCE);
}

/// Starts any mosquitto client with debug output and leaves it running.
pub fn start(program: &str, broker: &Broker, version: Version, arguments: &[&str]) -> Process {
    let mut command = client(program, broker, version, arguments);
    command.arg("-d");
    Process::start(program, command, None)
}

impl Subscriber {
    /// Starts mosquitto_sub and waits for its SUBACK.
    ///
    /// # Panics
    /// If no SUBACK comes in time.
    #[track_caller]
    pub fn start(broker: &Broker, version: Version, arguments: &[&str]) -> Subscriber {
        let subscriber = Subscriber::connecting(broker, version, arguments);
        subscriber
            .process
            .wait_for_line("SUBACK", PATIENCE, |line| line.starts_with("Subscribed").then_some(()));
        subscriber
    }

    /// Starts mosquitto_sub without waiting.
    pub fn connecting(broker: &Broker, version: Version, arguments: &[&str]) -> Subscriber {
        let mut command = client("mosquitto_sub", broker, version, arguments);
        command.args(["-d", "-F", "%j"]);
        Subscriber { process: Process::start("mosquitto_sub", command, None), seen: 0 }
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The next message.
    ///
    /// # Panics
    /// If none comes in time.
    #[track_caller]
    pub fn message(&mut self) -> Message {
        self.messages(1).remove(0)
    }

    /// The next `count` messages, and no more than those if more have come.
    ///
    /// # Panics
    /// If they do not come in time.
    #[track_caller]
    pub fn messages(&mut self, count: usize) -> Vec<Message> {
        let wanted = self.seen + count;
        let all = self.process.wait_for_lines("a message", wanted, PATIENCE, parse);
        let new = all[self.seen..wanted].to_vec();
        self.seen = wanted;
        new
    }

    /// The messages up to one with the payload `last`, which is left out.
    ///
    /// # Panics
    /// If it does not come in time.
    #[track_caller]
    pub fn messages_until(&mut self, last: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.message();
            if message.payload == last {
                return messages;
            }
            messages.push(message);
        }
    }

    /// Sends SIGINT, like Ctrl-C: it disconnects properly.
    #[track_caller]
    pub fn interrupt(mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        assert!(self.process.wait(Duration::from_secs(10)).is_some(), "mosquitto_sub ends on SIGTERM");
    }
}

fn parse(line: &str) -> Option<Message> {
    let json: Value = line.starts_with('{').then(|| serde_json::from_str(line).ok())??;
    let payload = match &json["payload"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(Message {
        topic: json["topic"].as_str()?.to_owned(),
        payload,
        qos: json["qos"].as_u64()?,
        retain: json["retain"].as_u64()? != 0,
        properties: json["properties"].clone(),
    })
}
