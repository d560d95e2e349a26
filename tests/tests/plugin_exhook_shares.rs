//! The shares of exhook's queues on a live broker: which client is charged for a call, and how
//! metrics and log show it.

#![allow(clippy::unwrap_used)]

mod exhook_common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use exhook_common::{folder, load, load_with, puback, send, until, workers};
use grapnel_tests::broker::Builder;
use grapnel_tests::wire::Will;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Publish, Version, paho};
use rustix::process::Signal;

/// The hooks of `claims.py`.
fn claims(more: &[&str]) -> Vec<String> {
    let path = format!("path={:?}", folder());
    let settings = ["driver=python3", &path, "init_module=claims", "call_timeout=60s"];
    settings.iter().chain(more).map(|setting| (*setting).to_owned()).collect()
}

/// A broker with short waits for threads.
fn with_short_waits(more: &str) -> Builder {
    exhook_common::broker().config(&format!("[limits]\nplugin_thread_join_ms = 50\n{more}"))
}

/// The current value of a statistic of the worker.
fn figure(broker: &Broker, which: &str) -> i64 {
    let name = format!("plugin_exhook_worker_python3_0_{which}");
    let metrics = broker.ctl_json(&["metrics"]);
    let metric = metrics["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == name.as_str());
    metric.unwrap_or_else(|| panic!("{name}: {metrics}"))["value"].as_i64().unwrap()
}

#[track_caller]
fn connack(client: &mut Client) -> u8 {
    client.receive_where("CONNACK", |packet| match packet {
        Packet::Connack { code, .. } => Some(*code),
        _ => None,
    })
}

/// Loads exhook with a program in place of Python.
fn load_program(broker: &Broker, settings: &[String], program: &Path) {
    let mut arguments = load_with(settings);
    arguments.extend(["--set".to_owned(), format!("python={program:?}")]);
    broker.ctl_ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A program in place of Python, which can be made unavailable.
struct Python {
    dir: tempfile::TempDir,
}

impl Python {
    fn new() -> Python {
        let python = Python { dir: tempfile::tempdir().unwrap() };
        python.allow_worker();
        python
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("python")
    }

    fn load(&self, broker: &Broker, settings: &[String]) {
        load_program(broker, settings, &self.path());
    }

    /// Ends the worker, so that none can be started.
    fn stop_worker(&self, broker: &Broker) {
        std::fs::remove_file(self.path()).unwrap();
        send(workers(broker)[0], Signal::KILL);
        broker.process().wait_for_lines("it cannot be started", 1, PATIENCE, |line| {
            line.contains("it is restarted in 800 ms").then_some(())
        });
    }

    fn allow_worker(&self) {
        std::fs::write(self.path(), format!("#!/bin/sh\nexec {:?} \"$@\"\n", paho::python())).unwrap();
        std::fs::set_permissions(self.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A client that has not logged in may name any client identifier, but uses nothing of that client:
/// its calls use the share of its address, and it does not see data that hooks have stored with the
/// client.
#[test]
fn a_pending_login_uses_nothing_of_the_client_it_names() {
    let broker = with_short_waits("packet_bytes_max = 1000000").start();
    load(&broker, &claims(&["failed_action=deny", "client_queue_max=4", "address_queue_max=4"]));
    let login = |name: &str, password: &str| Connect::new(Version::V5, name).login("u", password);
    let mut client = Client::connect(&broker, &login("c", "right"));
    client.subscribe("t", 0);
    let mut writer = Client::connect(&broker, &login("writer", "right"));
    send(workers(&broker)[0], Signal::STOP);
    // More than the socket accepts.
    let calls = figure(&broker, "calls");
    writer.send_publish(&Publish::new("large", "x".repeat(900_000)).qos(1));
    until("the worker is given it", || figure(&broker, "calls") > calls);
    let mut flood: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = Client::dial(&broker, Version::V5);
            client.send(&login("c", "wrong").encode());
            client
        })
        .collect();
    until("the address has no room left", || figure(&broker, "refused") == 16);
    client.send_publish(&Publish::new("t", "x").qos(1));
    until("the client has", || figure(&broker, "queue") == 6);
    assert_eq!(figure(&broker, "refused"), 16);
    broker.process().wait_for_lines("the log says so", 1, PATIENCE, |line| {
        line.contains("found no room left of its address (address_queue_max, address_queue_bytes_max)")
            .then_some(())
    });
    send(workers(&broker)[0], Signal::CONT);
    assert_eq!(puback(&mut client), 0);
    assert!(puback(&mut writer) < 0x80);
    assert_eq!(client.message().text(), "logins 1", "nothing that a worker has of it has gone");
    // Refused because of a wrong password, or for lack of space.
    let codes: Vec<u8> = flood.iter_mut().map(connack).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 0, "{codes:?}");
    until("nothing is held any more", || figure(&broker, "queue_bytes") == 0);
}

/// With a worker that only authorizes: the will of a client that is not admitted uses nothing of
/// the client whose identifier it names.
#[test]
fn the_will_of_a_pending_login_uses_nothing_of_the_client_it_names() {
    let python = Python::new();
    let broker = with_short_waits("").start();
    let mut settings = claims(&["failed_action=deny", "client_queue_max=4", "address_queue_max=4"]);
    settings[2] = "init_module=rights".to_owned();
    python.load(&broker, &settings);
    let mut client = Client::connect(&broker, &Connect::new(Version::V5, "c"));
    client.publish(&Publish::new("t", "x").qos(1));
    python.stop_worker(&broker);
    let stranger = Connect::new(Version::V5, "c").will(Will::new("t", "gone"));
    let _flood: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = Client::dial(&broker, Version::V5);
            client.send(&stranger.encode());
            client
        })
        .collect();
    until("the address has no room left", || figure(&broker, "refused") == 16);
    client.send_publish(&Publish::new("t", "x").qos(1));
    until("the client has", || figure(&broker, "queue") == 5);
    assert_eq!(figure(&broker, "refused"), 16);
    python.allow_worker();
    until("nothing is held any more", || figure(&broker, "queue_bytes") == 0);
}

/// No login data is stored for a worker that has not declared it: the end of the sessions would not
/// be reported to it.
#[test]
fn no_login_data_is_stored_for_a_worker_that_has_not_declared_it() {
    let broker = with_short_waits("").start();
    let mut settings = claims(&[]);
    settings[2] = "init_module=rights".to_owned();
    load(&broker, &settings);
    let mut client = Client::connect(&broker, &Connect::new(Version::V5, "c"));
    client.publish(&Publish::new("keep", "x").qos(1));
    broker.process().wait_for_line("it is not done", PATIENCE, |line| {
        line.contains("keep: the worker, or its first process, has not said in `ready` that it `keeps`")
            .then_some(())
    });
    assert_eq!(figure(&broker, "commands_failed"), 1);
}

/// What a worker stores at its shutdown counts as its own, not as that of the next process: the
/// next process receives it.
#[test]
fn data_stored_at_shutdown_is_shown_to_the_next_worker() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("worker");
    let script = folder().join("data_at_shutdown.py");
    std::fs::write(&program, format!("#!/bin/sh\nexec {:?} {script:?}\n", paho::python())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let broker = with_short_waits("").start();
    load_program(&broker, &claims(&[]), &program);
    let connect = Connect::new(Version::V5, "c").login("u", "p").persistent();
    let mut client = Client::connect(&broker, &connect);
    client.publish(&Publish::new("t", "x").qos(1));
    // After the first event, another process takes its place.
    broker.ctl_ok(&["plugins", "disable", "exhook"]);
    broker.ctl_ok(&["plugins", "enable", "exhook"]);
    client.publish(&Publish::new("t", "x").qos(1));
    broker.process().wait_for_lines("the next process", 2, PATIENCE, |line| {
        line.contains("is ready: last moment").then_some(())
    });
    client.disconnect();
    Client::connect(&broker, &connect);
    // The plugin's name follows the text.
    let shown = |line: &str| {
        let (_, shown) = line.split_once("stored: ")?;
        Some(shown.strip_suffix(" plugin=\"exhook\"").unwrap_or(shown).to_owned())
    };
    let shown = broker.process().wait_for_lines("two logins", 2, PATIENCE, shown);
    assert_eq!(shown[0], "None");
    assert!(shown[1].contains("at the last moment"), "{shown:?}");
}

/// While no process runs, the statistics show the calls that wait for the next one.
#[test]
fn statistics_are_correct_while_no_worker_runs() {
    let python = Python::new();
    let broker = with_short_waits("").start();
    python.load(&broker, &claims(&[]));
    let mut client = Client::connect(&broker, &Connect::new(Version::V5, "c").login("u", "right"));
    python.stop_worker(&broker);
    client.send_publish(&Publish::new("t", "x").qos(1));
    until("one call waits", || figure(&broker, "queue") == 1 && figure(&broker, "queue_bytes") > 0);
    python.allow_worker();
    assert!(puback(&mut client) < 0x80);
    until("none waits any more", || figure(&broker, "queue") == 0 && figure(&broker, "queue_bytes") == 0);
}

/// Refused commands are counted, and the log has a line of each kind once in a while, not one for
/// each command.
#[test]
fn a_worker_whose_commands_fail_does_not_fill_the_log() {
    let broker = with_short_waits("plugin_publishes_per_second_max = 1").start();
    load(&broker, &claims(&[]));
    let mut client = Client::connect(&broker, &Connect::new(Version::V5, "c").login("u", "right"));
    client.publish(&Publish::new("flood", "x").qos(1));
    until("all have been refused", || figure(&broker, "commands_failed") >= 900);
    broker.ctl_ok(&["plugins", "unload", "exhook"]);
    let of_kind = |line: &str| line.contains("python3/0: publish: ").then(|| line.to_owned());
    let lines = broker.process().wait_for_lines("at the end all is said", 2, PATIENCE, of_kind);
    assert!(lines[1].contains(" more of the kind since the last line)"), "{lines:?}");
    assert!(lines.len() <= 3, "{lines:?}");
}
