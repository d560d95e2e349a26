//! A broker whose plugin fails: repeatedly, which trips the plugin, or fatally, which ends the
//! process with a line that names the plugin.

use std::os::unix::process::ExitStatusExt;

use grapnel_tests::{Broker, Client, Publish, Version};

/// Publishes to a topic that ends the broker. Returns the signal it ended with, and its output.
fn crash(topic: &str) -> (Option<i32>, String) {
    let mut broker = Broker::builder().grapnel_only().shards(2).start();
    broker.may_end_badly();
    broker.ctl_ok(&["plugins", "load", "crasher", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.send_publish(&Publish::new(topic, "x"));
    let status = broker.wait().expect("it ends");
    (status.signal(), broker.process().log())
}

#[track_caller]
fn assert_logged(log: &str, line: &str) {
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("grapnel: SIG")).collect();
    assert_eq!(lines.len(), 1, "one line:\n{log}");
    let shard_left_out = lines[0].replace("on shard 0", "on shard N").replace("on shard 1", "on shard N");
    assert_eq!(shard_left_out, line, "{log}");
}

const SIGSEGV: Option<i32> = Some(11);
const SIGABRT: Option<i32> = Some(6);

#[test]
fn a_hook_that_writes_to_a_null_pointer_is_named_and_the_process_ends_by_the_signal() {
    let (signal, log) = crash("crash/null");
    assert_eq!(signal, SIGSEGV, "{log}");
    assert_logged(
        &log,
        "grapnel: SIGSEGV in plugin crasher, hook publish at message.publish, on shard N; the process ends",
    );
}

#[test]
fn a_hook_that_aborts_is_named() {
    let (signal, log) = crash("crash/abort");
    assert_eq!(signal, SIGABRT, "{log}");
    assert_logged(
        &log,
        "grapnel: SIGABRT in plugin crasher, hook publish at message.publish, on shard N; the process ends",
    );
}

#[test]
fn of_two_hooks_at_one_point_the_one_that_ran_is_named() {
    let (signal, log) = crash("crash/second");
    assert_eq!(signal, SIGSEGV, "{log}");
    assert_logged(
        &log,
        "grapnel: SIGSEGV in plugin crasher, hook second at message.publish, on shard N; the process ends",
    );
}

#[test]
fn a_fault_in_a_thread_of_a_plugin_names_the_plugin() {
    let (signal, log) = crash("crash/spawned");
    assert_eq!(signal, SIGSEGV, "{log}");
    assert_logged(&log, "grapnel: SIGSEGV in a thread of plugin crasher; the process ends");
}

#[test]
fn a_fault_in_a_foreign_thread_names_the_plugin_by_its_code() {
    let (signal, log) = crash("crash/own-thread");
    assert_eq!(signal, SIGSEGV, "{log}");
    assert_logged(&log, "grapnel: SIGSEGV in code of plugin crasher; the process ends");
}

/// A fault under `ignore` passes the message on; a plugin that fails too often is tripped until it
/// is armed again.
#[test]
fn a_plugin_that_fails_too_often_is_tripped_and_can_be_rearmed() {
    let config = "[limits]\nbreaker_faults_max = 3\n";
    let broker = Broker::builder().grapnel_only().shards(2).config(config).start();
    broker.ctl_ok(&["plugins", "load", "host-calls", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("host-calls/fail", 1);
    let failing = Publish::new("host-calls/fail", "x").qos(1);
    let fail = |client: &mut Client, times: usize| {
        for _ in 0..times {
            assert_eq!(client.publish(&failing), 0);
            client.message();
        }
    };
    fail(&mut client, 3);
    let tripped = "the plugin is tripped, because it failed too often on shard";
    broker.process().wait_for_line("tripped", std::time::Duration::from_secs(10), |line| {
        line.contains(tripped).then_some(())
    });
    let list = broker.ctl_json(&["plugins", "list"]);
    assert_eq!(list["plugins"][0]["state"], "tripped", "{list}");
    assert!(broker.ctl_ok(&["plugins", "list"]).contains("it failed too often on shard"));
    fail(&mut client, 4);
    let faults = || broker.ctl_json(&["hooks", "list"])["rows"][0]["faults"].as_u64();
    assert_eq!(faults(), Some(3), "it is not called");
    let policy = |word| {
        broker.ctl_ok(&["hooks", "set", "host-calls", "message.publish", "publish", "--fault-policy", word]);
    };
    policy("deny");
    assert!(client.publish(&failing) >= 0x80, "a tripped plugin refuses under deny");
    policy("ignore");

    assert_eq!(broker.ctl_ok(&["plugins", "rearm", "host-calls"]), "plugin host-calls is armed");
    assert_eq!(broker.ctl_json(&["plugins", "list"])["plugins"][0]["state"], "loaded");
    fail(&mut client, 1);
    assert_eq!(faults(), Some(4), "it is called again");
    let metrics = broker.ctl_ok(&["metrics", "hook_faults"]);
    assert!(metrics.contains('4'), "{metrics}");
    assert_eq!(broker.process().lines(|line| line.contains(tripped).then_some(())).len(), 1, "told once");
}
