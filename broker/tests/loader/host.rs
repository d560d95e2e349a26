//! Tests of host functions outside of events: metrics, threads, and hooks mounted at run time.

use std::time::{Duration, Instant};

use grapnel::plugin::{MetricValue, PluginState};
use grapnel_engine::hook::HookPoint;
use serde_json::json;

use super::shards::{Fixture, LONG, Log};

/// Waits until a condition holds.
#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {LONG:?}: {what}");
        std::thread::yield_now();
    }
}

fn count(broker: &Fixture, metric: &str) -> i64 {
    match measured(broker, metric) {
        Some(MetricValue::Counter(value) | MetricValue::Gauge(value)) => value,
        other => panic!("{metric} is {other:?}"),
    }
}

fn left(broker: &Fixture) -> usize {
    broker.manager.list().retired.iter().map(|retired| retired.threads_left).sum()
}

/// Waits until both shards have this chain.
#[track_caller]
fn await_chain(broker: &Fixture, links: &[&str]) {
    until(&links.join(", "), || broker.shards.chains() == [links, links]);
}

/// A metric of `host-calls` whose name ends with this.
fn measured(broker: &Fixture, metric: &str) -> Option<MetricValue> {
    let name = format!("plugin_host_calls_{metric}");
    broker.manager.metrics().into_iter().find(|found| found.name == name).map(|found| found.value)
}

/// In one test, because metrics belong to the process.
#[test]
fn metrics_of_a_plugin_are_shown_while_it_is_loaded_and_go_on_through_a_reload() {
    let broker = Fixture::with(2, |settings| settings.limits.plugin_metrics_max = 9);
    broker.load("host-calls", json!({})).unwrap();
    assert_eq!(measured(&broker, "publishes"), Some(MetricValue::Counter(0)));
    broker.shards.publish(0, 3);
    broker.shards.publish(1, 2);
    broker.manager.reload("host-calls", None).unwrap();
    broker.shards.publish(1, 1);
    assert_eq!(measured(&broker, "publishes"), Some(MetricValue::Counter(6)));
    assert_eq!(measured(&broker, "last_payload_bytes"), Some(MetricValue::Gauge(2)));
    let sizes = MetricValue::Histogram { buckets: vec![(4, 6), (16, 6)], count: 6, sum: 12 };
    assert_eq!(measured(&broker, "payload_bytes"), Some(sizes));

    broker.manager.unload("host-calls").unwrap();
    assert_eq!(broker.manager.metrics(), []);
    broker.load("host-calls", json!({"metric": "one_more"})).unwrap();
    assert_eq!(measured(&broker, "publishes"), Some(MetricValue::Counter(6)));
    broker.manager.unload("host-calls").unwrap();
    let error = broker.load("host-calls", json!({"metric": "Upper-Case"})).unwrap_err();
    assert!(error.contains("the value cannot be taken"), "{error}");
    let error = broker.load("host-calls", json!({"metric": "one_too_many"})).unwrap_err();
    assert!(error.contains("a limit is reached"), "{error}");
}

#[test]
fn threads_of_a_plugin_are_requested_to_end_and_joined_with_their_generation() {
    let broker = Fixture::new(2);
    broker.load("host-calls", json!({"threads": 2})).unwrap();
    until("both threads run", || count(&broker, "threads") == 2);
    broker.manager.reload("host-calls", None).unwrap();
    // Threads of the previous generation have been joined; otherwise they would be counted.
    until("the new threads run", || count(&broker, "threads") == 2);
    broker.manager.unload("host-calls").unwrap();
    assert_eq!(left(&broker), 0);
    broker.load("host-calls", json!({})).unwrap();
    assert_eq!(count(&broker, "threads"), 0);
}

#[test]
fn a_thread_that_does_not_end_is_named_and_counted_until_it_does() {
    let log = Log::install();
    let broker = Fixture::with(1, |settings| settings.limits.plugin_thread_join_ms = 50);
    broker.load("host-calls", json!({"threads": 1, "stubborn_ms": 1_000})).unwrap();
    broker.manager.unload("host-calls").unwrap();
    assert_eq!(left(&broker), 1);
    let said = "but 1 of its threads have not ended within 50 ms: stubborn; they must return soon";
    assert!(log.text().contains(said), "{}", log.text());
    until("it ends", || left(&broker) == 0);
}

/// A thread that has requested time may finish. Meanwhile the next version is called, the list
/// shows the previous one as ending, and its requests are carried out until it has ended. Nothing
/// of it remains. The operator limits the time.
#[test]
fn a_thread_that_brings_something_to_its_end_has_its_time_in_the_background() {
    let log = Log::install();
    let broker = Fixture::with(1, |settings| settings.limits.plugin_thread_join_ms = 20);
    broker.load("host-calls", json!({"threads": 1, "stubborn_ms": 400, "patience_ms": 20_000})).unwrap();
    let begun = Instant::now();
    broker.manager.reload("host-calls", Some(json!({}))).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(400), "the reload does not wait: {:?}", begun.elapsed());
    let retired = broker.manager.list().retired;
    assert_eq!((retired[0].threads_left, retired.len()), (1, 1));
    assert!(matches!(retired[0].ends_within_ms, Some(1..=20_000)), "{:?}", retired[0].ends_within_ms);
    until("it ends", || left(&broker) == 0);
    until("its end is known", || broker.manager.list().retired[0].ends_within_ms.is_none());
    let said = log.text();
    assert!(said.contains("stubborn: the broker answers: Ok(())"), "{said}");
    assert!(!said.contains("have not ended within"), "{said}");
    until("the old version is unloaded", || count(&broker, "loaded") == 1);
}

#[test]
fn a_thread_that_exceeds_its_requested_time_is_named() {
    let log = Log::install();
    for (patience_ms, retire_ms_max) in [(60, 60_000), (60_000, 60)] {
        let broker = Fixture::with(1, |settings| {
            settings.limits.plugin_thread_join_ms = 20;
            settings.limits.plugin_retire_ms_max = retire_ms_max;
        });
        let config = json!({"stubborn_ms": 1_000, "patience_ms": patience_ms});
        broker.load("host-calls", config).unwrap();
        broker.manager.unload("host-calls").unwrap();
        let said = "but 1 of its threads have not ended within 60 ms: stubborn; they must return soon";
        until("it is named", || log.text().matches(said).count() > usize::from(patience_ms > 60));
        until("it ends", || left(&broker) == 0);
    }
}

/// The end of the broker waits for all of these threads, also those that a reload has left in the
/// background.
#[test]
fn the_end_of_the_broker_waits_for_threads_that_have_said_so() {
    let log = Log::install();
    let broker = Fixture::with(1, |settings| settings.limits.plugin_thread_join_ms = 20);
    let config = json!({"stubborn_ms": 300, "patience_ms": 20_000});
    broker.load("host-calls", config).unwrap();
    broker.manager.reload("host-calls", None).unwrap();
    assert_eq!(broker.manager.patience(), Duration::from_secs(20));
    broker.manager.shutdown();
    assert_eq!(log.text().matches("stubborn: the broker answers: Ok(())").count(), 2, "{}", log.text());
    assert_eq!(left(&broker), 0);
}

#[test]
fn threads_are_limited_and_those_of_a_load_that_fails_are_joined() {
    let broker = Fixture::with(1, |settings| settings.limits.plugin_threads_max = 2);
    let error = broker.load("host-calls", json!({"threads": 3})).unwrap_err();
    assert!(error.contains("a limit is reached"), "{error}");
    broker.load("host-calls", json!({"threads": 2})).unwrap();
    until("as many as may run", || count(&broker, "threads") == 2);
}

#[test]
fn a_hook_is_mounted_and_unmounted_at_run_time_on_every_shard() {
    let broker = Fixture::new(2);
    broker.load("host-calls", json!({})).unwrap();
    await_chain(&broker, &["host-calls/publish"]);
    broker.shards.publish_to(0, "host-calls/mount", b"12345", 1);
    await_chain(&broker, &["host-calls/publish", "host-calls/late"]);
    broker.shards.publish(1, 3);
    assert_eq!((count(&broker, "late"), count(&broker, "late_args")), (3, 5));
    assert_eq!(broker.manager.show("host-calls").unwrap().hooks.len(), 2);

    // The same function mounted twice at one point.
    broker.shards.publish_to(1, "host-calls/mount", b"1", 1);
    assert_eq!(count(&broker, "refused"), 1);

    broker.shards.publish_to(1, "host-calls/unmount", b"", 1);
    await_chain(&broker, &["host-calls/publish"]);
    broker.shards.publish_to(0, "host-calls/unmount", b"", 1);
    assert_eq!(count(&broker, "refused"), 2, "a handle of what is gone is stale");

    broker.shards.publish_to(1, "host-calls/mount-first", b"", 1);
    await_chain(&broker, &["host-calls/late", "host-calls/publish"]);
    broker.shards.publish_to(1, "host-calls/unmount", b"", 1);
    await_chain(&broker, &["host-calls/publish"]);
    broker.shards.publish_to(1, "host-calls/mount-from-a-thread", b"", 1);
    await_chain(&broker, &["host-calls/publish", "host-calls/late"]);
    broker.shards.publish(1, 1);
    assert_eq!(count(&broker, "late_args"), 3);
    broker.manager.unload("host-calls").unwrap();
    assert_eq!(broker.shards.chains(), [[""; 0], []]);
}

#[test]
fn hooks_mounted_during_load_are_in_the_first_chains() {
    let broker = Fixture::new(2);
    broker.load("host-calls", json!({"mount_in_load": "only/+"})).unwrap();
    let both = ["host-calls/publish", "host-calls/late"];
    assert_eq!(broker.shards.chains(), [both, both]);
    broker.shards.publish_to(0, "only/these", b"", 2);
    broker.shards.publish_to(1, "others/too", b"", 2);
    assert_eq!((count(&broker, "late"), count(&broker, "late_args")), (2, 7));
}

#[test]
fn equal_priorities_run_in_the_order_of_mounting_whoever_mounts() {
    let broker = Fixture::new(2);
    broker.load("host-calls", json!({})).unwrap();
    broker.load("noop", json!({})).unwrap();
    broker.shards.publish_to(0, "host-calls/mount", b"", 1);
    await_chain(&broker, &["host-calls/publish", "noop/publish", "host-calls/late"]);
    broker
        .manager
        .load(grapnel::plugin::LoadRequest {
            name: Some("noop-2".to_owned()),
            ..super::shards::request("noop", json!({}))
        })
        .unwrap();
    let all = ["host-calls/publish", "noop/publish", "host-calls/late", "noop-2/publish"];
    assert_eq!(broker.shards.chains(), [all, all]);
    // The new generation has the place of the old one, and has mounted nothing.
    broker.manager.reload("host-calls", None).unwrap();
    let all = ["host-calls/publish", "noop/publish", "noop-2/publish"];
    assert_eq!(broker.shards.chains(), [all, all]);
}

#[test]
fn hooks_mounted_at_run_time_are_limited() {
    let broker = Fixture::with(1, |settings| settings.limits.plugin_hooks_max = 0);
    let error = broker.load("host-calls", json!({"mount_in_load": "a"})).unwrap_err();
    assert!(error.contains("a limit is reached"), "{error}");
}

/// A shard that does not answer keeps its chains until it does; nothing is lost.
#[test]
fn a_mount_comes_into_force_when_a_shard_that_was_held_up_answers_again() {
    let log = Log::install();
    let broker = Fixture::with(2, |settings| settings.answer_timeout = Duration::from_millis(50));
    broker.load("host-calls", json!({})).unwrap();
    let release = broker.shards.hold(1);
    broker.shards.publish_to(0, "host-calls/mount", b"", 1);
    until("the other one does not answer", || {
        log.text().contains("the chains are not as they should be yet")
    });
    drop(release);
    await_chain(&broker, &["host-calls/publish", "host-calls/late"]);
}

/// Whether the plugin's first link is called, by shard.
fn armed(broker: &Fixture) -> [bool; 2] {
    [0, 1].map(|shard| !broker.shards.links(shard, HookPoint::MessagePublish)[0].entry.is_tripped())
}

#[test]
fn a_plugin_that_fails_too_often_on_one_shard_is_tripped_on_all_until_it_is_armed_again() {
    let log = Log::install();
    let broker = Fixture::new(2);
    broker.load("host-calls", json!({})).unwrap();
    broker.shards.publish_to(0, "host-calls/fail", b"", 99);
    assert_eq!((armed(&broker), count(&broker, "publishes")), ([true, true], 99));
    broker.shards.publish_to(0, "host-calls/fail", b"", 1);
    until("it is tripped on both shards", || armed(&broker) == [false, false]);
    let state = broker.manager.show("host-calls").unwrap().state;
    assert!(matches!(&state, PluginState::Tripped(why) if why.starts_with("it failed too often on shard 0")));
    assert_eq!(log.text().matches("the plugin is tripped").count(), 1);
    assert_eq!(broker.manager.trips(), [("host-calls".into(), 1)]);
    broker.shards.publish(1, 7);
    assert_eq!(count(&broker, "publishes"), 100, "it is not called");
    assert_eq!(broker.manager.hooks(false).rows[0].faults, 100, "nor does it fail");

    // It stays tripped through other changes of the chains.
    broker.load("noop", json!({})).unwrap();
    assert_eq!(armed(&broker), [false, false]);
    assert_eq!(broker.manager.rearm("host-calls").unwrap().state, PluginState::Loaded);
    assert_eq!(armed(&broker), [true, true]);
    broker.shards.publish(1, 7);
    assert_eq!(count(&broker, "publishes"), 107);
    assert!(broker.manager.rearm("nobody").is_err());
}

#[test]
fn a_tripped_plugin_is_armed_again_by_itself_where_the_operator_wants_it() {
    let broker = Fixture::with(2, |settings| settings.limits.breaker_rearm_ms = 50);
    broker.load("host-calls", json!({})).unwrap();
    broker.shards.publish_to(1, "host-calls/fail", b"", 100);
    until("it is tripped", || !broker.manager.trips().is_empty());
    until("it is armed again", || armed(&broker) == [true, true]);
    broker.shards.publish(0, 1);
    assert_eq!(count(&broker, "publishes"), 101);
}

#[test]
fn a_reload_arms_a_tripped_plugin() {
    let broker = Fixture::new(2);
    broker.load("host-calls", json!({})).unwrap();
    broker.shards.publish_to(1, "host-calls/fail", b"", 100);
    until("it is tripped", || armed(&broker) == [false, false]);
    assert_eq!(broker.manager.reload("host-calls", None).unwrap().state, PluginState::Loaded);
    assert_eq!(armed(&broker), [true, true]);
}
