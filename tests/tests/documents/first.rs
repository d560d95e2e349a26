//! The plugins of README.md and of the first pages for authors that no other test builds. The Rust
//! plugin of README.md is a documentation test of `grapnel-plugin-abi`.

use std::process::Command;

use grapnel_tests::markdown::Page;
use grapnel_tests::plugin::argument;
use grapnel_tests::repository::root;
use grapnel_tests::{Broker, Client, Connect, Publish, Version, paho};

/// The first block of a page in a language.
fn block(page: &str, language: &str) -> String {
    let blocks = Page::read(page).blocks();
    let block = blocks.into_iter().find(|block| block.language == language);
    block.unwrap_or_else(|| panic!("{page} has no block in {language}")).text
}

/// Checks that a page contains what `grapnel-ctl` prints when the plugin is loaded.
fn is_said(page: &str, printed: &str) {
    let line = printed.lines().find(|line| line.contains("is loaded: ")).expect("a line for people");
    let is_shown = Page::read(page).blocks().iter().any(|block| block.text.lines().any(|each| each == line));
    assert!(is_shown, "{page} does not say: {line}");
}

#[test]
fn the_first_plugin_in_cpp_counts() {
    let page = "docs/src/plugins/first-cpp.md";
    let broker = Broker::builder().grapnel_only().start();
    let source = broker.home().join("counter.cpp");
    let library = broker.home().join("libgrapnel_counter.so");
    std::fs::write(&source, block(page, "cpp")).expect("the folder is the test's");
    let output = Command::new("c++")
        .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-I"])
        .arg(root().join("plugin-abi/include"))
        .arg("-o")
        .args([&library, &source])
        .output()
        .expect("scripts/test installs a compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    is_said(page, &broker.ctl_ok(&["plugins", "load", argument(&library), "--once"]));
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("a", 0);
    client.send_publish(&Publish::new("a", "x"));
    assert_eq!(client.message().properties.user("count"), ["1"]);
}

#[test]
fn the_first_plugin_in_python_works_as_described() {
    let page = "README.md";
    let sdk = root().join("plugins/exhook/sdk/python/src");
    let broker = Broker::builder().grapnel_only().environment("PYTHONPATH", argument(&sdk)).start();
    let source = broker.home().join("shout.py");
    std::fs::write(&source, block(page, "python")).expect("the folder is the test's");
    let python = format!("python={}", paho::python().display());
    let path = format!("path={}", source.display());
    let settings = ["driver=python3", &python, &path, "init_module=shout", "environment=[\"PYTHONPATH\"]"];
    let mut arguments = vec!["plugins", "load", "exhook", "--once"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    is_said(page, &broker.ctl_ok(&arguments));
    let login = |password| Connect::new(Version::V5, "c").login("ann", password);
    let (_, connack) = Client::attempt(&broker, &login("wrong"));
    assert_ne!(connack.code, 0);
    let mut client = Client::connect(&broker, &login("secret"));
    client.subscribe("shout/#", 0);
    client.send_publish(&Publish::new("shout/a", "quiet"));
    assert_eq!(client.message().payload, b"QUIET");
}
