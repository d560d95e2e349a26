//! A plugin outside of the workspace: built from the published crate alone, loaded, and refused if
//! it was built for a later version of the ABI.

use std::path::{Path, PathBuf};
use std::process::Command;

use grapnel_tests::plugin::{argument, directory};
use grapnel_tests::{Broker, Client, PATIENCE, Publish, Version};

/// Builds `tests/outside-plugin` as its author would, in a build directory of its own beside ours,
/// which is reused by the next run. One build at a time: the next one replaces the file.
#[track_caller]
fn built(features: &[&str]) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("outside-plugin");
    let target = directory().join("outside-plugin");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--quiet", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .args(features)
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug/liboutside_plugin.so")
}

fn is_loaded_and_called(broker: &Broker, file: &Path) {
    broker.ctl_ok(&["plugins", "load", argument(file), "--set", "greeting=\"Hello\"", "--once"]);
    let show = broker.ctl_json(&["plugins", "show", "outside-plugin"]);
    assert_eq!((show["name"].as_str(), show["version"].as_str()), (Some("outside-plugin"), Some("3.1.4")));
    let mut client = Client::hello(broker, Version::V5, "visitor");
    let greeting = |line: &str| line.contains("Hello, visitor").then_some(());
    broker.process().wait_for_line("the greeting", PATIENCE, greeting);
    client.subscribe("t", 0);
    client.send_publish(&Publish::new("t", "x"));
    assert_eq!(client.message().properties.user("outside"), ["1"]);
    broker.ctl_ok(&["plugins", "unload", "outside-plugin"]);
}

fn is_refused_with_a_sentence(broker: &Broker, file: &Path) {
    let refused = broker.ctl_refused(&["plugins", "load", argument(file), "--set", "greeting=\"Hello\""]);
    assert!(refused.contains("built for ABI 1.1, this broker speaks 1.0"), "{refused}");
    assert!(
        refused.contains("rebuild it with grapnel-plugin-abi ~1.0, or load it into a broker that"),
        "{refused}"
    );
    Client::hello(broker, Version::V5, "after").ping();
}

#[test]
fn a_plugin_built_from_the_published_crate_is_loaded_unless_its_abi_is_newer() {
    let broker = Broker::builder().grapnel_only().start();
    is_loaded_and_called(&broker, &built(&[]));
    is_refused_with_a_sentence(&broker, &built(&["--features", "later"]));
}
