//! Plugins that misbehave at the same time, and a broker that continues to serve its clients.

use grapnel_tests::plugin::Compiled;
use grapnel_tests::{Broker, Client, Publish, Version};

const CONFIG: &str = "\
[limits]
breaker_faults_max = 10
plugin_publishes_per_second_max = 1000
plugin_thread_join_ms = 100
plugin_threads_max = 4
";

/// The state and the faults of a plugin, from the lists.
fn state(broker: &Broker, name: &str) -> String {
    let list = broker.ctl_json(&["plugins", "list"]);
    let plugins = list["plugins"].as_array().expect("a list");
    let plugin = plugins.iter().find(|plugin| plugin["name"] == name);
    plugin.unwrap_or_else(|| panic!("{name} is not in {list}"))["state"].to_string()
}

/// The plugins: one panics, one sleeps, one floods, one completes tickets twice, one returns
/// invalid answers, one leaves threads behind, and two publish on each other's publishes.
#[test]
fn a_broker_serves_clients_while_plugins_misbehave() {
    let broker = Broker::builder().grapnel_only().shards(2).config(CONFIG).start();
    // A plugin's panic is in the log.
    broker.may_end_badly();
    let nonsense = Compiled::of("testing/c-nonsense");
    let load = |name: &str, file: &str, how: &str| {
        let how = format!("how={how:?}");
        broker.ctl_ok(&["plugins", "load", file, "--name", name, "--set", &how, "--once"]);
    };
    let rust = grapnel_tests::plugin::library("misbehaves");
    let rust = grapnel_tests::plugin::argument(&rust);
    for how in ["panic", "sleep", "flood", "threads"] {
        load(how, rust, how);
    }
    load("echo-one", rust, "echo");
    load("echo-two", rust, "echo");
    load("twice", nonsense.path(), "twice");
    load("absurd", nonsense.path(), "absurd");

    let mut subscriber = Client::hello(&broker, Version::V5, "subscriber");
    subscriber.subscribe("quiet/#", 1);
    let mut publishers = ["one", "two"].map(|name| Client::hello(&broker, Version::V5, name));
    for number in 0..200 {
        for publisher in &mut publishers {
            let payload = number.to_string();
            assert_eq!(publisher.publish(&Publish::new("quiet/t", payload.as_str()).qos(1)), 0);
            assert_eq!(subscriber.message().text(), payload);
        }
    }

    // Each of the two sees the client's message and the other's message, and never its own: four
    // more, and then no more.
    let mut echoes = Client::hello(&broker, Version::V5, "echoes");
    echoes.subscribe("echo/#", 1);
    assert_eq!(publishers[0].publish(&Publish::new("echo/x", "once").qos(1)), 0);
    for _ in 0..5 {
        assert_eq!(echoes.message().text(), "once");
    }
    echoes.expect_no_message();

    for (name, expected) in [("panic", "tripped"), ("absurd", "tripped")] {
        assert!(state(&broker, name).contains(expected), "{name}: {}", state(&broker, name));
    }
    for name in ["sleep", "flood", "threads", "echo-one", "echo-two", "twice"] {
        assert!(state(&broker, name).contains("loaded"), "{name}: {}", state(&broker, name));
    }
    let metrics = broker.ctl_ok(&["metrics", "tickets_stale"]);
    assert!(!metrics.trim().ends_with(" 0"), "tickets that are completed twice are counted: {metrics}");

    for name in ["panic", "sleep", "flood", "threads", "echo-one", "echo-two", "twice", "absurd"] {
        broker.ctl_ok(&["plugins", "unload", name]);
    }
    assert!(broker.ctl_ok(&["plugins", "list"]).contains("thread"), "what was left behind is named");
    assert_eq!(publishers[1].publish(&Publish::new("quiet/t", "last").qos(1)), 0);
    assert_eq!(subscriber.message().text(), "last");
}
