//! Tests of the operator's settings for single hooks, and of how they are shown.

use grapnel::config::{HookOverride, HookOverrides, OnFault};
use grapnel::config::{Origin, PluginConfig};
use grapnel::plugin::{HookChange, HookRow, LoadRequest};
use grapnel_engine::hook::{FaultPolicy, HookPoint};
use serde_json::json;

use super::shards::{Fixture, Log, plugin_file, request};

const NOTHING: HookOverride =
    HookOverride { priority: None, deadline_ms: None, fault_policy: None, mounted: None };

fn say(broker: &Fixture, plugin: &str, clear: bool, change: HookOverride) -> HookRow {
    let (point, hook) = ("message.publish".to_owned(), "publish".to_owned());
    let (plugin, also) = (plugin.to_owned(), Vec::new());
    let change = HookChange { plugin, point, hook, also, clear, change, force: false };
    broker.manager.override_hook(&change).unwrap()
}

fn refusal(broker: &Fixture, plugin: &str, point: &str, hook: &str, change: HookOverride) -> String {
    let (plugin, point, hook) = (plugin.to_owned(), point.to_owned(), hook.to_owned());
    let change = HookChange { plugin, point, hook, also: Vec::new(), clear: false, change, force: false };
    broker.manager.override_hook(&change).unwrap_err().to_string()
}

fn load_two(broker: &Fixture) {
    for name in ["first", "second"] {
        let file = plugin_file("noop").display().to_string();
        let named = LoadRequest { name: Some(name.to_owned()), ..request(&file, json!({})) };
        broker.manager.load(named).unwrap();
    }
}

#[test]
fn overrides_of_a_hook_apply_at_once_and_after_reloads_and_restarts() {
    let broker = Fixture::new(2);
    load_two(&broker);
    let row = say(&broker, "second", false, HookOverride { priority: Some(5), ..NOTHING });
    assert_eq!((row.place, row.priority, row.overridden), (1, 5, vec!["priority".to_owned()]));
    let swapped = ["second/publish", "first/publish"];
    assert_eq!(broker.shards.chains(), [swapped, swapped]);
    let change = HookOverride { deadline_ms: Some(200), fault_policy: Some(OnFault::Deny), ..NOTHING };
    say(&broker, "second", false, change);
    broker.manager.reload("second", None).unwrap();
    let link = &broker.shards.links(1, HookPoint::MessagePublish)[0];
    assert_eq!((&*link.name, link.deadline_ms, link.policy), ("second/publish", 200, FaultPolicy::Deny));

    say(&broker, "first", false, HookOverride { mounted: Some(false), ..NOTHING });
    assert_eq!(broker.shards.chains(), [["second/publish"], ["second/publish"]]);
    let rows = broker.manager.hooks(false).rows;
    assert_eq!((rows.len(), rows[1].plugin.as_str(), rows[1].mounted, rows[1].place), (2, "first", false, 0));

    let broker = Fixture::over(broker.restart(), 2, |_| {});
    broker.manager.start(&[]).unwrap();
    assert_eq!(broker.shards.chains(), [["second/publish"], ["second/publish"]]);
    let link = &broker.shards.links(0, HookPoint::MessagePublish)[0];
    assert_eq!((link.priority, link.deadline_ms, link.policy), (5, 200, FaultPolicy::Deny));

    say(&broker, "first", false, HookOverride { mounted: Some(true), ..NOTHING });
    let row = say(&broker, "second", true, NOTHING);
    assert_eq!((row.place, row.policy.as_str(), row.overridden.len()), (2, "ignore", 0));
    let mounted = ["first/publish", "second/publish"];
    assert_eq!(broker.shards.chains(), [mounted, mounted]);
    let broker = Fixture::over(broker.restart(), 2, |_| {});
    broker.manager.start(&[]).unwrap();
    assert_eq!(broker.shards.chains(), [mounted, mounted]);
}

#[test]
fn invalid_overrides_of_a_hook_are_refused_with_an_error_text() {
    let broker = Fixture::new(1);
    load_two(&broker);
    assert_eq!(
        refusal(&broker, "first", "message.publsh", "publish", NOTHING),
        "there is no hook point message.publsh; `grapnel-ctl hooks list --all` names them"
    );
    assert_eq!(
        refusal(&broker, "first", "message.publish", "stamp", NOTHING),
        "plugin first has no hook stamp at message.publish; its hooks are message.publish/publish"
    );
    assert!(refusal(&broker, "third", "message.publish", "publish", NOTHING).contains("third"));
    let change = HookOverride { deadline_ms: Some(0), ..NOTHING };
    let said = refusal(&broker, "first", "message.publish", "publish", change);
    assert_eq!(said, "deadline_ms must be between 1 and 600000, not 0");
}

#[test]
fn the_configuration_says_it_too_and_ctl_has_the_last_word() {
    let broker = Fixture::new(1);
    let change = HookOverride { priority: Some(-7), mounted: Some(false), ..NOTHING };
    let configured = PluginConfig {
        name: "noop".to_owned(),
        path: None,
        priority: Some(3),
        required: Some(true),
        config: json!({}),
        hooks: HookOverrides::from([("message.publish/publish".to_owned(), change)]),
        origin: Origin::Default,
    };
    broker.manager.start(&[configured]).unwrap();
    assert_eq!(broker.shards.chains(), [[""; 0]]);
    let row = say(&broker, "noop", false, HookOverride { mounted: Some(true), ..NOTHING });
    assert_eq!(
        (row.place, row.priority, row.overridden),
        (1, -7, vec!["priority".to_owned(), "mounted".to_owned()])
    );
    say(&broker, "noop", true, NOTHING);
    assert_eq!(broker.shards.chains(), [[""; 0]], "what the configuration says holds again");
}

#[test]
fn a_hook_that_was_mounted_at_run_time_is_overridden_like_any_other() {
    let broker = Fixture::new(1);
    broker.load("host-calls", json!({"mount_in_load": "#"})).unwrap();
    let change = HookChange {
        plugin: "host-calls".to_owned(),
        point: "message.publish".to_owned(),
        hook: "late".to_owned(),
        also: Vec::new(),
        clear: false,
        force: false,
        change: HookOverride { priority: Some(1), ..NOTHING },
    };
    let row = broker.manager.override_hook(&change).unwrap();
    assert_eq!((row.place, row.topics), (1, vec!["#".to_owned()]));
    assert_eq!(broker.shards.chains(), [["host-calls/late", "host-calls/publish"]]);
}

/// One change overrides several hooks, or none of them.
#[test]
fn several_hooks_are_overridden_in_one_change() {
    let broker = Fixture::new(1);
    broker.load("host-calls", json!({"mount_in_load": "#"})).unwrap();
    let says = |also: &str, mounted: bool| {
        broker.manager.override_hook(&HookChange {
            plugin: "host-calls".to_owned(),
            point: "message.publish".to_owned(),
            hook: "late".to_owned(),
            also: vec![also.to_owned()],
            clear: false,
            force: false,
            change: HookOverride { mounted: Some(mounted), ..NOTHING },
        })
    };
    let error = says("message.publish/nowhere", false).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
    assert_eq!(broker.shards.chains()[0].len(), 2, "nothing has changed");
    says("message.publish/publish", false).unwrap();
    assert_eq!(broker.shards.chains(), [[""; 0]]);
    says("message.publish/publish", true).unwrap();
    assert_eq!(broker.shards.chains()[0].len(), 2);
}

#[test]
fn links_are_counted_and_timed_by_shard_and_summed_through_swaps() {
    let broker = Fixture::new(2);
    broker.load("noop", json!({})).unwrap();
    broker.shards.publish(0, 5);
    broker.shards.publish(1, 2);
    broker.load("host-calls", json!({})).unwrap();
    broker.shards.publish_to(1, "host-calls/fail", b"", 1);
    let rows = broker.manager.hook_stats().rows;
    let counts: Vec<_> = rows
        .iter()
        .map(|row| (row.plugin.as_str(), row.shard, row.calls, row.faults, row.times.timed))
        .collect();
    let expected = [
        ("host-calls", None, 1, 1, 1),
        ("host-calls", Some(0), 0, 0, 0),
        ("host-calls", Some(1), 1, 1, 1),
        ("noop", None, 8, 0, 8),
        ("noop", Some(0), 5, 0, 5),
        ("noop", Some(1), 3, 0, 3),
    ];
    assert_eq!(counts, expected);
}

/// A damaged file of overrides loses its settings, but the broker starts.
#[test]
fn overrides_that_cannot_be_read_are_named_in_the_log() {
    let log = Log::install();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hooks.json"), "{").unwrap();
    let broker = Fixture::over(dir, 1, |_| {});
    assert!(
        log.text().contains("settings of hooks made with grapnel-ctl are not restored"),
        "{}",
        log.text()
    );
    load_two(&broker);
}
