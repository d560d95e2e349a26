//! The operator's settings for single hooks: their order, whether they are mounted, and the counts
//! of their calls.

use grapnel_tests::{Broker, Client, Publish, Version};

fn builder() -> grapnel_tests::broker::Builder {
    Broker::builder().grapnel_only()
}

/// Plugin and place of each link of message.publish.
fn order(broker: &Broker) -> Vec<(String, u64)> {
    let list = broker.ctl_json(&["hooks", "list"]);
    let rows = list["rows"].as_array().unwrap().iter().filter(|row| row["point"] == "message.publish");
    rows.map(|row| (row["plugin"].as_str().unwrap().to_owned(), row["place"].as_u64().unwrap())).collect()
}

fn named(places: &[(&str, u64)]) -> Vec<(String, u64)> {
    places.iter().map(|(name, place)| ((*name).to_owned(), *place)).collect()
}

#[test]
fn changes_of_hooks_with_ctl_hold_after_a_restart() {
    let broker = builder().start();
    broker.ctl_ok(&["plugins", "load", "noop"]);
    broker.ctl_ok(&["plugins", "load", "host-calls"]);
    assert_eq!(order(&broker), named(&[("noop", 1), ("host-calls", 2)]));
    let hook = ["host-calls", "message.publish", "publish"];
    let with = |verb: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        ["hooks", verb].into_iter().chain(hook).chain(more.iter().copied()).collect()
    };
    let output =
        broker.ctl_ok(&with("set", &["--priority", "-5", "--deadline-ms", "200", "--fault-policy", "deny"]));
    assert!(
        output.contains("is number 2 at message.publish: priority -5, deadline 200 ms, fault policy deny"),
        "{output}"
    );
    broker.ctl_ok(&with("set", &["--priority", "5"]));
    assert_eq!(order(&broker), named(&[("host-calls", 1), ("noop", 2)]));
    let table = broker.ctl_ok(&["hooks", "list"]);
    assert!(table.contains("priority,deadline_ms,fault_policy"), "{table}");

    let broker = builder().home(broker.stop()).start();
    assert_eq!(order(&broker), named(&[("host-calls", 1), ("noop", 2)]));
    assert!(broker.ctl_ok(&with("unmount", &[])).contains("is not mounted at message.publish"));
    assert_eq!(order(&broker), named(&[("noop", 1), ("host-calls", 0)]));
    broker.ctl_ok(&with("mount", &[]));
    broker.ctl_ok(&with("set", &["--clear"]));
    assert_eq!(order(&broker), named(&[("noop", 1), ("host-calls", 2)]));
    assert!(
        broker
            .ctl_refused(&["hooks", "unmount", "noop", "message.publish", "stamp"])
            .contains("has no hook stamp")
    );
}

/// If a plugin has a hook that was unmounted earlier, its load or enable reports that the hook is
/// not called.
#[test]
fn load_and_enable_report_unmounted_hooks() {
    let broker = builder().start();
    broker.ctl_ok(&["plugins", "load", "noop"]);
    broker.ctl_ok(&["hooks", "unmount", "noop", "message.publish", "publish"]);
    let table = broker.ctl_ok(&["hooks", "list", "--all"]);
    assert!(table.lines().any(|line| line.contains("noop") && line.contains("unmounted")), "{table}");
    broker.ctl_ok(&["plugins", "unload", "noop"]);
    let output = [
        broker.ctl_ok(&["plugins", "load", "noop"]),
        broker.ctl_ok(&["plugins", "reload", "noop"]),
        broker.ctl_ok(&["plugins", "enable", "noop"]),
    ];
    for output in output {
        assert!(output.contains(": no hooks"), "{output}");
        assert!(
            output.contains(
                "its hook publish at message.publish is not called, because the operator has unmounted it; \
                 `grapnel-ctl hooks mount noop message.publish publish` puts it in again"
            ),
            "{output}"
        );
    }
    let log = broker.process().log();
    let line = "not called, because the operator has unmounted it: message.publish/publish";
    assert_eq!(log.matches(line).count(), 2, "at the load and at the reload: {log}");
    let list = broker.ctl_json(&["plugins", "show", "noop"]);
    assert_eq!(list["hooks"][0]["unmounted"], true, "{list}");
    broker.ctl_ok(&["hooks", "mount", "noop", "message.publish", "publish"]);
    let output = broker.ctl_ok(&["plugins", "reload", "noop"]);
    assert!(output.contains("is reloaded: message.publish") && !output.contains("not called"), "{output}");
}

#[test]
fn the_configuration_overrides_single_hooks() {
    let config = "[plugins.noop]\n[plugins.host-calls.hooks.\"message.publish/publish\"]\npriority = 7\n";
    let broker = builder().config(config).start();
    assert_eq!(order(&broker), named(&[("host-calls", 1), ("noop", 2)]));
}

#[test]
fn counts_and_times_of_links_are_shown() {
    let broker = builder().shards(2).start();
    broker.ctl_ok(&["plugins", "load", "noop", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    for _ in 0..10 {
        client.publish(&Publish::new("a", "x").qos(1));
    }
    let stats = broker.ctl_json(&["hooks", "stats"]);
    let rows = stats["rows"].as_array().unwrap();
    let all = rows.iter().find(|row| row["shard"].is_null()).expect("all shards together");
    assert_eq!(
        (all["plugin"].as_str(), all["calls"].as_u64(), all["timed"].as_u64()),
        (Some("noop"), Some(10), Some(10))
    );
    assert!(all["max_ns"].as_u64() >= all["p50_ns"].as_u64() && all["p50_ns"].as_u64() > Some(0), "{all}");
    let shards: u64 =
        rows.iter().filter(|row| !row["shard"].is_null()).map(|row| row["calls"].as_u64().unwrap()).sum();
    assert_eq!(shards, 10);
    let table = broker.ctl_ok(&["hooks", "stats"]);
    assert!(table.contains("P99") && table.contains("µs"), "{table}");
}

/// A slow call is logged with its plugin, its point and its time; `slow_call_ms` sets the
/// threshold.
#[test]
fn a_slow_call_is_named_in_the_log() {
    let broker = builder().shards(2).config("[limits]\nslow_call_ms = 30\n").start();
    let sleep =
        ["plugins", "load", "sleeper", "--set", "sleep_ms=60", "--set", "topic_prefix=\"sleep\"", "--once"];
    broker.ctl_ok(&sleep);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.publish(&Publish::new("awake", "x").qos(1));
    client.publish(&Publish::new("sleep/x", "x").qos(1));
    let line = broker.process().wait_for_line("a slow call", std::time::Duration::from_secs(10), |line| {
        line.contains("slow call: ").then(|| line.to_owned())
    });
    let took = line
        .split_once("sleeper took ")
        .and_then(|(_, rest)| rest.split_once(" ms at message.publish on shard "));
    let ms: u64 = took.and_then(|(ms, _)| ms.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    assert!(ms >= 60, "{line}");
}
