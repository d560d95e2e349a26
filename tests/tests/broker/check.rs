//! `grapnel-ctl plugins check` and `grapnel --check-config`: they check a plugin's file without a
//! broker and without side effects.

use std::process::Command;
use std::time::{Duration, Instant};

use grapnel_tests::plugin;
use grapnel_tests::process::{Process, command};
use serde_json::Value;

/// Runs a program to its end. Returns whether it succeeded, its standard output, and its standard
/// error.
fn run(mut command: Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn check(file: &str, more: &[&str]) -> Command {
    let mut command = command(plugin::built("grapnel-ctl"));
    command.args(["plugins", "check", file]).args(more);
    command
}

fn file(name: &str) -> String {
    plugin::argument(&plugin::library(name)).to_owned()
}

#[test]
fn check_shows_the_hooks_of_a_valid_plugin() {
    let (success, output, error) = run(check(&file("stateful"), &["--set", "step=2"]));
    assert!(success, "{error}");
    for text in
        ["stateful", "noop", "message.publish", "ignore", "JSON Schema", "whole number, 0 to 1000000", "good"]
    {
        assert!(output.contains(text), "{text:?} is not in: {output}");
    }
    let (success, json, _) = run(check(&file("stateful"), &["--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(success);
    assert_eq!(
        (&json["name"], &json["error"], &json["depends"][0]),
        (&"stateful".into(), &Value::Null, &"noop".into())
    );
    assert_eq!(json["hooks"][0]["point"], "message.publish");
    assert_eq!(json["config_is_good"], false, "none was given");
}

#[test]
fn check_prints_the_error_that_a_load_would_have() {
    let missing = std::env::temp_dir().join("grapnel-there-is-no-such.so");
    for (path, more, expected) in [
        (file("not-a-plugin"), &[][..], "not a Grapnel plugin"),
        (file("foreign-abi"), &[], "built for ABI 2.1"),
        (file("foreign-layout"), &[], "laid out differently"),
        (file("foreign-hash"), &[], "laid out differently"),
        (missing.display().to_string(), &[], "cannot read it"),
        (file("stateful"), &["--set", "step=s3cret"], "step: the value is not of type \"integer\""),
        (file("stateful"), &["--set", "stepp=1"], "the key stepp is not known; did you mean step?"),
    ] {
        let (success, output, error) = run(check(&path, more));
        assert!(!success && error.contains(expected) && !error.contains("s3cret"), "{path}: {error}");
        assert!(!output.contains("not checked"), "a configuration that is wrong has been checked: {output}");
        assert_eq!(error.lines().count(), 1, "one sentence, not: {error}");
    }
}

#[test]
fn check_reports_a_crashing_or_hanging_plugin() {
    let path = file("bad-constructor");
    assert!(run(check(&path, &[])).0, "without a reason it does none of it");
    for (what, expected) in
        [("crash", "crashed (signal 6, SIGABRT)"), ("end", "was ended by it (exit code 0)")]
    {
        let mut command = check(&path, &[]);
        command.env("GRAPNEL_TESTS_CONSTRUCTOR", what);
        let (success, _, error) = run(command);
        assert!(!success && error.contains(expected) && error.contains("opening it"), "{what}: {error}");
    }
    let mut command = check(&path, &["--timeout", "1"]);
    command.env("GRAPNEL_TESTS_CONSTRUCTOR", "hang");
    let start = Instant::now();
    let (success, _, error) = run(command);
    assert!(!success && error.contains("opening it hung: it did not come back within 1000 ms"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
}

/// Runs `grapnel --check-config` with a configuration.
fn check_config(config: &str) -> (bool, String) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("grapnel.toml");
    let state = format!("{config}\n[state]\ndir = {:?}", home.path().join("state"));
    std::fs::write(&path, state).unwrap();
    let mut command = command(plugin::built("grapnel"));
    command.args(["--check-config", "--config"]).arg(&path);
    let mut process = Process::start("grapnel", command, None);
    let status = process.wait(Duration::from_secs(60)).expect("it ends");
    (status.success(), process.log())
}

#[test]
fn check_config_checks_the_plugins_too() {
    let of = |name: &str| format!("path = {:?}", file(name));
    let (noop, stateful) = (of("noop"), of("stateful"));
    let good = format!("[plugins.stateful]\n{stateful}\nconfig = {{ step = 3 }}\n[plugins.noop]\n{noop}");
    let (success, log) = check_config(&good);
    assert!(success && log.contains("the configuration is good"), "{log}");

    let bad = format!(
        "[plugins.stateful]\n{stateful}\nconfig = {{ step = \"s3cret\" }}\n[plugins.noop]\n{noop}\nconfig = {{ x = 1 }}\n\
         [plugins.none]\npath = \"/there/is/none.so\""
    );
    let (success, log) = check_config(&bad);
    assert!(!success && !log.contains("s3cret"), "{log}");
    for expected in [
        "grapnel.toml:1: cannot load stateful: its configuration is wrong: step: the value is not of type",
        "grapnel.toml:4: cannot load noop: its configuration is wrong",
        "grapnel.toml:7: cannot load /there/is/none.so: cannot read it",
    ] {
        assert!(log.contains(expected), "{expected:?} is not in: {log}");
    }
    // Nothing is loaded, so files that a plugin reads itself are not opened.
    let users = format!("[plugins.auth-file]\n{}\nconfig = {{ path = \"/there/is/none\" }}", of("auth-file"));
    let (success, log) = check_config(&users);
    assert!(success, "{log}");
    let (success, log) = check_config(&format!("[plugins.stateful]\n{stateful}"));
    assert!(!success && log.contains("it needs plugin noop, which is neither configured nor"), "{log}");
    let (success, log) = check_config(&format!("[plugins.noop]\n{stateful}"));
    assert!(!success && log.contains("plugins need each other in a circle: noop needs noop"), "{log}");
}
