//! Files that are not plugins for this broker, and plugins that fail: each is refused with one
//! sentence that names the problem and the remedy, and the broker continues.

use std::path::{Path, PathBuf};

use grapnel_tests::{Broker, Client, Publish, Version, plugin, scenario};

fn builder() -> grapnel_tests::broker::Builder {
    Broker::builder().grapnel_only()
}

/// Two connected clients that must not be affected.
struct Bystanders {
    subscriber: Client,
    publisher: Client,
    rounds: u32,
}

impl Bystanders {
    fn new(broker: &Broker) -> Bystanders {
        let mut subscriber = Client::hello(broker, Version::V5, "bystander subscriber");
        subscriber.subscribe("bystanders", 1);
        Bystanders {
            subscriber,
            publisher: Client::hello(broker, Version::V5, "bystander publisher"),
            rounds: 0,
        }
    }

    #[track_caller]
    fn continue_working(&mut self) {
        self.rounds += 1;
        self.publisher.publish(&Publish::new("bystanders", self.rounds.to_string()).qos(1));
        let message = self.subscriber.message();
        assert_eq!(message.text(), self.rounds.to_string());
        assert_eq!(message.properties.0, [], "nothing of a refused plugin is mounted");
    }
}

/// Tries a load that must be refused with one line that contains each of these texts.
#[track_caller]
fn refused(broker: &Broker, source: &str, more: &[&str], expected: &[&str]) {
    let mut arguments = vec!["plugins", "load", source, "--once"];
    arguments.extend(more);
    let error = broker.ctl_refused(&arguments);
    // Further lines, such as an error in a file, are indented.
    let sentences = error.lines().filter(|line| !line.starts_with("  ")).count();
    assert_eq!(sentences, 1, "one sentence, not: {error}");
    for text in expected {
        assert!(error.contains(text), "{text:?} is not in: {error}");
    }
    let list = broker.ctl_json(&["plugins", "list"]);
    assert_eq!(list["plugins"], serde_json::json!([]), "nothing stays behind");
}

/// A file in the broker's directory.
fn file(broker: &Broker, name: &str, bytes: &[u8]) -> PathBuf {
    let path = broker.home().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn path_of(name: &str) -> PathBuf {
    plugin::library(name)
}

fn text(path: &Path) -> &str {
    plugin::argument(path)
}

scenario! {
    /// A file truncated at any place: it is checked before the dynamic linker maps it, which would
    /// cause SIGBUS.
    fn a_truncated_file_is_refused(broker in builder()) {
        let mut bystanders = Bystanders::new(broker);
        let whole = std::fs::read(path_of("noop")).unwrap();
        for length in [1, 63, 64, 1000, whole.len() / 2, whole.len() - 1] {
            let path = file(broker, &format!("cut-{length}.so"), &whole[..length]);
            refused(broker, text(&path), &[], &[text(&path)]);
            bystanders.continue_working();
        }
        let half = file(broker, "half.so", &whole[..whole.len() / 2]);
        refused(broker, text(&half), &[], &["truncated", "build or copy it again"]);
    }
}

scenario! {
    /// Not a library: an empty file, a text, a program, a folder, a missing file.
    fn a_file_that_is_no_library_is_refused(broker in builder()) {
        let mut bystanders = Bystanders::new(broker);
        let empty = file(broker, "empty.so", b"");
        let script = file(broker, "script.so", &b"#!/bin/sh\necho hello\n".repeat(50));
        let missing = broker.home().join("missing.so");
        for path in [&empty, &script, &missing] {
            refused(broker, text(path), &[], &[text(path)]);
            bystanders.continue_working();
        }
        refused(broker, text(broker.home()), &[], &[]);
        refused(broker, "no-such-plugin", &[], &["no-such-plugin", "looked for"]);
        bystanders.continue_working();
    }
}

scenario! {
    /// Other libraries: no plugin, another ABI, the same version with another layout.
    fn a_library_that_is_no_plugin_is_refused(broker in builder()) {
        let mut bystanders = Bystanders::new(broker);
        for (name, expected) in [
            ("not-a-plugin", "not a Grapnel plugin"),
            ("foreign-abi", "built for ABI 2.1"),
            ("foreign-layout", "rebuild it"),
            ("foreign-hash", "rebuild it"),
        ] {
            let path = path_of(name);
            refused(broker, text(&path), &[], &[expected]);
            bystanders.continue_working();
        }
    }
}

scenario! {
    /// A plugin that panics or fails during its load is removed completely.
    fn a_plugin_that_panics_during_its_load_is_refused(broker in builder()) {
        let mut bystanders = Bystanders::new(broker);
        // The panic of the plugin is in the log; the broker itself does not panic.
        broker.may_end_badly();
        for place in ["load", "init_shard", "activate"] {
            for fail in ["true", "false"] {
                let set = [format!("panic_in={place}"), format!("fail={fail}")];
                refused(broker, "panic-in-load", &["--set", &set[0], "--set", &set[1]], &["panic-in-load"]);
                bystanders.continue_working();
            }
        }
    }
}

scenario! {
    /// An unknown key, a value of the wrong type, and a file that is not TOML.
    fn a_plugin_with_a_wrong_configuration_is_refused(broker in builder()) {
        let mut bystanders = Bystanders::new(broker);
        refused(broker, "topic-rewrite", &["--set", "ruels=[]"], &["topic-rewrite", "ruels"]);
        refused(broker, "tap", &["--set", "levels=\"many\""], &["tap", "configuration is wrong"]);
        refused(broker, "tap", &["--set", "levels=0"], &["tap", "levels"]);
        let broken = file(broker, "broken.toml", b"levels = = 1");
        refused(broker, "tap", &["--config", text(&broken)], &["broken.toml"]);
        bystanders.continue_working();
    }
}

#[test]
fn a_bad_plugin_in_the_configuration_file_stops_the_broker_only_if_it_is_required() {
    let config = "[plugins.no-such-plugin]\nrequired = false";
    let broker = builder().config(config).start();
    Bystanders::new(&broker).continue_working();
    drop(broker);

    let mut builder = builder().config("[plugins.no-such-plugin]\nrequired = true").argument("--listen");
    let (mut command, _home) = builder.grapnel_command();
    command.arg("127.0.0.1:0");
    let mut process = grapnel_tests::process::Process::start("grapnel", command, None);
    let status = process.wait(grapnel_tests::PATIENCE).expect("it does not start");
    assert!(!status.success());
    assert!(process.log().contains("no-such-plugin"), "{}", process.log());
}
