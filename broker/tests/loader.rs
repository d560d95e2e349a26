//! Tests of the plugin loader with threads in place of shards: what it loads, what it refuses and
//! why, and that a failure changes nothing. The plugins are those of `plugins/testing`; build the
//! workspace first.
#![allow(clippy::unwrap_used)]

#[path = "loader/access.rs"]
mod access;
#[path = "loader/life.rs"]
mod life;
#[path = "loader/shards.rs"]
mod shards;

#[path = "loader/host.rs"]
mod host;

#[path = "loader/operator.rs"]
mod operator;

#[path = "loader/pieces.rs"]
mod pieces;

#[path = "loader/requests.rs"]
mod requests;

#[path = "loader/memory.rs"]
mod memory;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use grapnel::config::{Origin as ConfigOrigin, PluginConfig};
use grapnel::plugin::{LoadRequest, Origin, PluginState};
use grapnel_engine::hook::HookPoint;
use grapnel_plugin_abi::raw::Flow;
use grapnel_plugin_abi::testing::FakeEvent;
use serde_json::json;
use shards::{FakeShards, Fixture, LONG, Log, plugin_file, plugins_dir, request};

#[test]
fn a_plugin_is_loaded_on_every_shard_shown_and_unloaded() {
    let broker = Fixture::new(3);
    let info = broker.load("noop", json!({})).unwrap();
    assert_eq!((info.name.as_str(), info.version.as_str(), info.generation), ("noop", "0.1.0", 1));
    assert_eq!(info.state, PluginState::Loaded);
    assert_eq!(info.file, Some(plugin_file("noop")));
    assert!(info.mapped_bytes > 4096 && info.loaded_at_ms > 0 && info.warnings.is_empty());
    assert!(info.closable, "as its manifest says");
    assert_eq!(info.description, "A hook that does nothing, to load and to measure");
    assert_eq!((info.hooks[0].point.as_str(), info.hooks[0].name.as_str()), ("message.publish", "publish"));
    assert_eq!(broker.shards.chains(), [["noop/publish"], ["noop/publish"], ["noop/publish"]]);
    let instances: BTreeSet<_> = (0..3)
        .map(|shard| format!("{:?}", broker.shards.links(shard, HookPoint::MessagePublish)[0].entry))
        .collect();
    assert_eq!(instances.len(), 3, "each shard has an instance of its own");

    broker.manager.unload("noop").unwrap();
    assert!(broker.loaded().is_empty());
    assert_eq!(broker.shards.chains(), [[""; 0], [], []]);
    let retired = broker.manager.list().retired;
    assert_eq!(retired.len(), 1);
    assert_eq!((retired[0].name.as_str(), retired[0].generation), ("noop", 1));
    assert_eq!(retired[0].mapped_bytes, info.mapped_bytes);
    assert_eq!(broker.load("noop", json!({})).unwrap().generation, 2);
}

#[test]
fn a_plugin_in_c_is_opened_by_its_symbol_and_its_hook_gets_what_it_was_mounted_with() {
    let broker = Fixture::new(2);
    let info = broker.load("c-entry", json!({})).unwrap();
    assert_eq!((info.name.as_str(), info.closable), ("c-entry", false));
    let entry = broker.shards.links(1, HookPoint::MessagePublish)[0].entry;
    let flow = broker.shards.handles[1].call(LONG, move |_| FakeEvent::publish("a", b"").call(entry, 1));
    assert_eq!(flow.unwrap(), Flow::STOP);
    assert_eq!(broker.manager.reload("c-entry", None).unwrap().generation, 2);
    broker.manager.unload("c-entry").unwrap();
    assert_eq!(broker.manager.list().retired.len(), 2);
}

#[test]
fn nothing_is_left_of_private_copies() {
    let broker = Fixture::with(1, |settings| settings.record = None);
    broker.load("noop", json!({})).unwrap();
    broker.load("not-a-plugin", json!({})).unwrap_err();
    let copies = std::fs::read_dir(broker.dir.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_dir(copies).unwrap().count(), 0);
    let Fixture { manager, shards, dir } = broker;
    manager.shutdown();
    drop((manager, shards));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the folder itself");
}

/// Every refusal in one test: none changes the chains, the list or the stored state.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn invalid_plugins_are_refused_with_an_error_text_and_the_broker_continues() {
    let broker = Fixture::new(2);
    let dir = broker.dir.path();
    let whole = std::fs::read(plugin_file("noop")).unwrap();
    std::fs::write(dir.join("cut.so"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(dir.join("text.so"), "#!/bin/sh\n").unwrap();
    std::fs::create_dir(dir.join("folder.so")).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let built = |name: &str| plugin_file(name).display().to_string();
    let secret = json!({"panic_in": "nowhere", "s3cret_key": "s3cret"});
    let notifications = [
        (path("cut.so"), json!({}), format!("cannot load {}: it is truncated (", path("cut.so"))),
        (path("text.so"), json!({}), "it is not an ELF file; give the .so of a plugin".to_owned()),
        (path("folder.so"), json!({}), "it is a folder".to_owned()),
        (path("none.so"), json!({}), "cannot read it: No such file or directory".to_owned()),
        ("none".to_owned(), json!({}), "there is no plugin named none; looked for ".to_owned()),
        (
            built("not-a-plugin"),
            json!({}),
            "it is a library but not a Grapnel plugin; export one with the plugin! macro".to_owned(),
        ),
        (
            built("foreign-abi"),
            json!({}),
            "built for ABI 2.1, this broker speaks 1.0; rebuild it with grapnel-plugin-abi 1".to_owned(),
        ),
        (
            built("foreign-layout"),
            json!({}),
            "it claims ABI 1.0.0, but its tables are laid out differently (abi_stable found".to_owned(),
        ),
        (
            built("foreign-hash"),
            json!({}),
            "it claims ABI 1.0.0, but its tables are laid out differently (hash ".to_owned(),
        ),
        (
            "panic-in-load".to_owned(),
            json!({}),
            "cannot load panic-in-load: load panicked: panicked as configured".to_owned(),
        ),
        (
            "panic-in-load".to_owned(),
            json!({"panic_in": "load", "fail": true}),
            "cannot load panic-in-load: failed as configured".to_owned(),
        ),
        (
            "panic-in-load".to_owned(),
            json!({"panic_in": "init_shard", "shard": 1}),
            "cannot load panic-in-load: on shard 1: init_shard panicked: panicked as configured".to_owned(),
        ),
        (
            "panic-in-load".to_owned(),
            json!({"panic_in": "activate"}),
            "cannot load panic-in-load: activate panicked: panicked as configured; nothing has changed"
                .to_owned(),
        ),
        (
            "panic-in-load".to_owned(),
            secret,
            "its configuration is wrong: the key s3cret_key is not known; the keys are panic_in, shard, fail"
                .to_owned(),
        ),
        (
            "panic-in-load".to_owned(),
            json!({"panic_im": "nowhere"}),
            "its configuration is wrong: the key panic_im is not known; did you mean panic_in?".to_owned(),
        ),
        ("panic-in-load".to_owned(), json!([1]), "must be a table of keys and values".to_owned()),
        ("not/../a name.so".to_owned(), json!({}), "cannot read it".to_owned()),
        ("a name".to_owned(), json!({}), "is no name of a plugin: 1 to 64 letters".to_owned()),
    ];
    for (source, config, text) in notifications {
        let error = broker.load(&source, config).unwrap_err();
        assert!(error.contains(&text), "{source}: {error}");
        assert!(!error.contains('\n'), "one sentence: {error}");
        assert_eq!(broker.shards.chains(), [[""; 0], []], "{source}");
        assert!(broker.loaded().is_empty(), "{source}");
    }
    assert!(!dir.join("plugins.json").exists(), "nothing was loaded, nothing is remembered");
    broker.load("panic-in-load", json!({"panic_in": "nowhere"})).unwrap();
    assert_eq!(broker.shards.chains(), [["panic-in-load/publish"], ["panic-in-load/publish"]]);
}

#[test]
fn a_plugin_that_panics_does_not_stop_the_broker() {
    let broker = Fixture::new(1);
    for place in ["hook", "deactivate", "drop_shard"] {
        broker.load("panic-in-load", json!({"panic_in": place})).unwrap();
        let entry = broker.shards.links(0, HookPoint::MessagePublish)[0].entry;
        let flow = broker.shards.handles[0].call(LONG, move |_| FakeEvent::publish("a", b"").call(entry, 0));
        assert_eq!(flow.unwrap(), if place == "hook" { Flow::FAULT } else { Flow::CONTINUE });
        broker.manager.unload("panic-in-load").unwrap();
    }
    assert!(broker.loaded().is_empty());
}

#[test]
fn a_reload_takes_the_place_of_the_old_version_and_one_that_fails_leaves_it() {
    let broker = Fixture::new(2);
    broker.load("panic-in-load", json!({"panic_in": "hook"})).unwrap();
    broker.load("noop", json!({})).unwrap();
    let before = broker.shards.links(1, HookPoint::MessagePublish)[0].clone();
    for bad in
        [json!({"panic_in": "load"}), json!({"panic_in": "init_shard"}), json!({"panic_in": "activate"})]
    {
        let retired = broker.manager.list().retired.len();
        broker.manager.reload("panic-in-load", Some(bad)).unwrap_err();
        assert_eq!(broker.manager.list().retired.len(), retired, "it was mapped already");
        let now = broker.shards.links(1, HookPoint::MessagePublish)[0].clone();
        assert_eq!(format!("{:?}", now.entry), format!("{:?}", before.entry));
        assert_eq!(broker.manager.show("panic-in-load").unwrap().generation, 1);
    }
    let info = broker.manager.reload("panic-in-load", None).unwrap();
    assert_eq!(info.generation, 5, "three that failed lie between");
    let links = broker.shards.links(1, HookPoint::MessagePublish);
    assert_eq!(links[0].name, before.name, "it keeps its place in the order");
    assert_eq!(links[0].identity, before.identity, "an event that waits knows it by its identity");
    assert_ne!(links[0].plugin, before.plugin);
    let entry = links[0].entry;
    let flow = broker.shards.handles[1].call(LONG, move |_| FakeEvent::publish("a", b"").call(entry, 1));
    assert_eq!(flow.unwrap(), Flow::FAULT, "its configuration is still the one of the load");
    assert!(
        broker
            .manager
            .reload("none", None)
            .unwrap_err()
            .to_string()
            .contains("loaded are: panic-in-load, noop")
    );
}

#[test]
fn a_hundred_reloads_keep_working_and_are_reported() {
    let broker = Fixture::new(2);
    broker.load("noop", json!({})).unwrap();
    for generation in 2..=100 {
        assert_eq!(broker.manager.reload("noop", None).unwrap().generation, generation);
    }
    assert!(broker.manager.list().retired.is_empty(), "the file has not changed");
    assert_eq!(broker.shards.chains(), [["noop/publish"], ["noop/publish"]]);
}

#[test]
fn retired_generations_are_bounded() {
    let broker = Fixture::with(1, |settings| settings.retired_max = 1);
    // Each load of it has its own mapping.
    broker.load("c-entry", json!({})).unwrap();
    broker.manager.reload("c-entry", None).unwrap();
    let error = broker.manager.reload("c-entry", None).unwrap_err().to_string();
    assert!(error.contains("1 retired generation with ") && error.contains("plugins_retired_max"), "{error}");
    assert_eq!(broker.shards.chains(), [["c-entry/publish"]], "the one in force stays");
}

#[test]
fn one_file_can_be_loaded_under_two_names_and_not_twice_under_one() {
    let broker = Fixture::new(1);
    broker.load("noop", json!({})).unwrap();
    assert!(broker.load("noop", json!({})).unwrap_err().contains("plugin noop is loaded already"));
    let file = plugin_file("noop").display().to_string();
    assert!(broker.load(&file, json!({})).unwrap_err().contains("plugin noop is loaded already"));
    let other = LoadRequest { name: Some("other".to_owned()), ..request(&file, json!({})) };
    assert_eq!(broker.manager.load(other).unwrap().name, "other");
    assert_eq!(broker.loaded(), ["noop", "other"]);
    let links = broker.shards.links(0, HookPoint::MessagePublish);
    assert_ne!(links[0].identity, links[1].identity);
}

#[test]
fn order_is_by_priority_then_by_mounting_and_the_operator_has_the_last_word() {
    let broker = Fixture::new(1);
    let load = |name: &str, priority| {
        let file = plugin_file("noop").display().to_string();
        let request = LoadRequest { name: Some(name.to_owned()), priority, ..request(&file, json!({})) };
        broker.manager.load(request).unwrap();
    };
    load("first", None);
    load("low", Some(-5));
    load("second", None);
    load("high", Some(7));
    assert_eq!(broker.shards.chains(), [["high/publish", "first/publish", "second/publish", "low/publish"]]);
    let report = broker.manager.hooks(false);
    let rows: Vec<_> = report.rows.iter().map(|row| (row.place, row.plugin.as_str(), row.priority)).collect();
    assert_eq!(rows, [(1, "high", 7), (2, "first", 0), (3, "second", 0), (4, "low", -5)]);
    let all = broker.manager.hooks(true);
    assert_eq!(all.rows.len(), 4 + 25, "every other point has a row without a link");
    let acked = all.rows.iter().find(|row| row.point == "message.acked").unwrap();
    assert_eq!(acked.place, 0);
    broker.manager.reload("first", None).unwrap();
    assert_eq!(broker.manager.hooks(false).rows[1].plugin, "first", "a reload keeps its place");
}

#[test]
fn a_shard_that_does_not_answer_leaves_everything_as_it_was_and_comes_back_clean() {
    let broker = Fixture::with(2, |settings| settings.answer_timeout = Duration::from_millis(50));
    broker.load("noop", json!({})).unwrap();
    let held = broker.shards.hold(1);
    let error = broker.load("panic-in-load", json!({"panic_in": "nowhere"})).unwrap_err();
    assert!(error.contains("shard 1 did not answer within 50 ms"), "{error}");
    let error = broker.manager.unload("noop").unwrap_err().to_string();
    assert!(error.contains("shard 1 did not answer"), "{error}");
    assert_eq!(broker.loaded(), ["noop"]);
    assert_eq!(broker.manager.hooks(false).unanswered, [1]);
    drop(held);
    assert_eq!(broker.shards.chains(), [["noop/publish"], ["noop/publish"]]);
    broker.load("panic-in-load", json!({"panic_in": "nowhere"})).unwrap();
    broker.manager.unload("noop").unwrap();
    assert_eq!(broker.shards.chains(), [["panic-in-load/publish"], ["panic-in-load/publish"]]);
}

#[test]
fn a_shard_blocked_in_init_shard_drops_the_instance_afterwards() {
    let broker = Fixture::with(2, |settings| settings.answer_timeout = Duration::from_millis(50));
    // The sleeper sleeps in its hook. Here a hook blocks the shard while the next plugin is
    // initialised.
    broker.load("sleeper", json!({"sleep_ms": 300, "topic_prefix": "slow"})).unwrap();
    let entry = broker.shards.links(1, HookPoint::MessagePublish)[0].entry;
    broker.shards.handles[1].submit(Box::new(move |_| {
        FakeEvent::publish("slow", b"").call(entry, 1);
    }));
    let error = broker.load("noop", json!({})).unwrap_err();
    assert!(error.contains("shard 1 did not answer"), "{error}");
    assert_eq!(broker.shards.chains(), [["sleeper/publish"], ["sleeper/publish"]]);
}

#[test]
fn plugins_loaded_by_ctl_return_after_a_restart_and_failed_ones_stay_recorded() {
    let broker = Fixture::new(1);
    broker.load("sleeper", json!({"sleep_ms": 1, "topic_prefix": "s3cret"})).unwrap();
    broker.load("noop", json!({})).unwrap();
    broker
        .manager
        .load(LoadRequest { once: true, ..request("defer-publish", json!({"delay_ms": 1})) })
        .unwrap();
    let copy = broker.dir.path().join("mine.so");
    std::fs::copy(plugin_file("panic-in-load"), &copy).unwrap();
    broker.load(&copy.display().to_string(), json!({"panic_in": "nowhere"})).unwrap();
    assert_eq!(broker.loaded(), ["sleeper", "noop", "defer-publish", "panic-in-load"]);

    let broker = Fixture::over(broker.restart(), 2, |_| {});
    std::fs::remove_file(&copy).unwrap();
    broker.manager.start(&[]).unwrap();
    assert_eq!(broker.loaded(), ["sleeper", "noop", "panic-in-load"]);
    let failed = broker.manager.show("panic-in-load").unwrap();
    assert!(matches!(&failed.state, PluginState::Failed(reason) if reason.contains("cannot read it")));
    assert_eq!(failed.origin, Origin::Recorded);
    broker.manager.unload("noop").unwrap();

    std::fs::copy(plugin_file("panic-in-load"), &copy).unwrap();
    let broker = Fixture::over(broker.restart(), 1, |_| {});
    broker.manager.start(&[]).unwrap();
    assert_eq!(broker.loaded(), ["sleeper", "panic-in-load"]);
    assert_eq!(broker.manager.show("panic-in-load").unwrap().state, PluginState::Loaded);
    broker.manager.unload("panic-in-load").unwrap();
    broker.manager.unload("sleeper").unwrap();

    let broker = Fixture::over(broker.restart(), 1, |_| {});
    broker.manager.start(&[]).unwrap();
    assert!(broker.loaded().is_empty());
}

#[test]
fn a_plugin_that_failed_can_be_tried_again_or_forgotten() {
    let broker = Fixture::new(1);
    let copy = broker.dir.path().join("mine.so");
    let mut configured = configured("mine", Some(copy.clone()));
    broker.manager.start(std::slice::from_ref(&configured)).unwrap();
    assert!(matches!(broker.manager.show("mine").unwrap().state, PluginState::Failed(_)));
    std::fs::copy(plugin_file("noop"), &copy).unwrap();
    assert_eq!(broker.manager.reload("mine", None).unwrap().state, PluginState::Loaded);
    assert_eq!(broker.loaded(), ["mine"]);
    assert_eq!(broker.manager.show("mine").unwrap().origin, Origin::Configured);

    std::fs::remove_file(&copy).unwrap();
    configured.name = "other".to_owned();
    broker.manager.start(&[configured]).unwrap();
    broker.manager.unload("other").unwrap();
    assert_eq!(broker.loaded(), ["mine"]);
    let error = broker.manager.unload("other").unwrap_err().to_string();
    assert_eq!(error, "no plugin named other is loaded; loaded are: mine");
}

fn configured(name: &str, path: Option<std::path::PathBuf>) -> PluginConfig {
    PluginConfig {
        name: name.to_owned(),
        path,
        priority: None,
        required: None,
        config: json!({}),
        hooks: Default::default(),
        origin: ConfigOrigin::Default,
    }
}

#[test]
fn a_required_plugin_that_fails_stops_the_start_and_another_does_not() {
    let broker = Fixture::new(1);
    let missing = configured("missing", None);
    broker.manager.start(&[missing.clone(), configured("noop", None)]).unwrap();
    assert_eq!(broker.loaded(), ["noop", "missing"]);
    let required = PluginConfig { required: Some(true), ..missing };
    let error = Fixture::new(1).manager.start(&[required]).unwrap_err().to_string();
    assert!(error.starts_with("there is no plugin named missing"), "{error}");
    let says = "the broker does not start without plugin missing: plugins.missing.required is true";
    assert!(error.ends_with(says), "{error}");
}

/// A plugin that was loaded as required is so too where the configuration names it, unless the
/// configuration says otherwise.
#[test]
fn a_plugin_that_was_loaded_as_required_stays_so_when_it_is_configured() {
    let broker = Fixture::new(1);
    let file = broker.dir.path().join("guard.so");
    std::fs::copy(plugin_file("noop"), &file).unwrap();
    let load = |required| {
        let source = file.display().to_string();
        LoadRequest { name: Some("guard".to_owned()), required, ..request(&source, json!({})) }
    };
    broker.manager.load(load(true)).unwrap();
    let dir = broker.restart();
    std::fs::remove_file(&file).unwrap();
    let named = |required| PluginConfig { required, ..configured("guard", Some(file.clone())) };
    let broker = Fixture::over(dir, 1, |_| {});
    let error = broker.manager.start(&[named(None)]).unwrap_err().to_string();
    let says = "the broker does not start without plugin guard: it was loaded with --required, and \
                plugins.guard.required does not say otherwise; to start without it, set plugins.guard.required to false";
    assert!(error.ends_with(says), "{error}");
    let broker = Fixture::over(broker.restart(), 1, |_| {});
    let error = broker.manager.start(&[named(Some(true))]).unwrap_err().to_string();
    assert!(error.ends_with("plugin guard: plugins.guard.required is true"), "{error}");
    let broker = Fixture::over(broker.restart(), 1, |_| {});
    broker.manager.start(&[named(Some(false))]).unwrap();
    // One that was not loaded as required is not.
    std::fs::copy(plugin_file("noop"), &file).unwrap();
    let broker = Fixture::new(1);
    broker.manager.load(load(false)).unwrap();
    let dir = broker.restart();
    std::fs::remove_file(&file).unwrap();
    Fixture::over(dir, 1, |_| {}).manager.start(&[named(None)]).unwrap();
}

/// `panic-in-load` fails with its default configuration, so that the configuration it received is
/// visible.
#[test]
fn a_plugin_that_is_loaded_by_hand_has_what_the_configuration_says_of_it() {
    let broker = Fixture::new(1);
    let file = plugin_file("panic-in-load");
    let table = PluginConfig {
        config: json!({"panic_in": "nowhere", "shard": 9}),
        priority: Some(5),
        origin: ConfigOrigin::File { path: "/etc/grapnel.toml".into(), line: 7 },
        ..configured("guard", Some(file.clone()))
    };
    broker.manager.start(&[table]).unwrap();
    broker.manager.unload("guard").unwrap();
    let path = file.display().to_string();
    let by_hand = |source: &str, name: Option<&str>, config| {
        let request = request(source, config);
        let request = LoadRequest { merge: true, name: name.map(str::to_owned), ..request };
        broker.manager.load_by_hand(request).map_err(|error| error.to_string())
    };
    let done = by_hand("guard", None, json!(null)).unwrap();
    assert_eq!((done.plugin.file, done.plugin.priority), (Some(file), Some(5)));
    assert_eq!(done.configured_at.as_deref(), Some("/etc/grapnel.toml:7"));
    broker.manager.unload("guard").unwrap();
    // Given values replace those of the configuration one by one, also if a file is given.
    assert!(by_hand(&path, Some("guard"), json!({"shard": 1})).unwrap().configured_at.is_some());
    broker.manager.unload("guard").unwrap();
    let error = by_hand("guard", None, json!({"panic_in": "load"})).unwrap_err();
    assert!(error.contains("panicked as configured"), "{error}");
    // Another name does not use the configured values, nor does a load with a complete
    // configuration.
    assert!(by_hand(&path, Some("other"), json!(null)).is_err());
    let whole = LoadRequest { name: Some("guard".to_owned()), ..request(&path, json!({})) };
    assert!(broker.manager.load_by_hand(whole).is_err());
}

#[test]
fn changes_that_a_restart_undoes_are_reported_for_configured_plugins() {
    let broker = Fixture::new(1);
    let table = PluginConfig {
        config: json!({"panic_in": "nowhere"}),
        origin: ConfigOrigin::File { path: "/etc/grapnel.toml".into(), line: 7 },
        ..configured("guard", Some(plugin_file("panic-in-load")))
    };
    broker.manager.start(&[table]).unwrap();
    let warnings = || broker.manager.show("guard").unwrap().warnings;
    assert_eq!(warnings(), Vec::<String>::new());
    let change = |shard: serde_json::Value| {
        let done = broker.manager.configure("guard", json!({"shard": shard}), true).unwrap();
        done.plugin.warnings
    };
    let said = change(json!(9));
    assert!(said[0].contains("not the one of [plugins.guard] at /etc/grapnel.toml:7"), "{said:?}");
    assert_eq!(said, warnings());
    // Back to the original configuration.
    assert_eq!(change(json!(null)), Vec::<String>::new());
    // Loaded by hand with a value that the table does not have.
    broker.manager.unload("guard").unwrap();
    let request = LoadRequest { merge: true, ..request("guard", json!({"shard": 9})) };
    let warnings = broker.manager.load(request).unwrap().warnings;
    assert!(warnings[0].contains("in force again after a restart"), "{warnings:?}");
}

#[test]
fn a_plugin_that_is_not_replaced_goes_on_and_that_is_said() {
    let broker = Fixture::new(1);
    broker.load("panic-in-load", json!({"panic_in": "nowhere"})).unwrap();
    let reload = |config| broker.manager.reload("panic-in-load", Some(config)).unwrap_err().to_string();
    let error = reload(json!({"panic_in": "load"}));
    assert!(error.ends_with("; version 0.1.0 goes on"), "{error}");
    assert!(error.starts_with("cannot reload panic-in-load: load panicked: "), "{error}");
    broker.manager.disable("panic-in-load").unwrap();
    let error = reload(json!({"panic_in": "load"}));
    assert!(error.ends_with("; version 0.1.0 stays loaded, and disabled"), "{error}");
    let error = broker.manager.reload("nobody", None).unwrap_err().to_string();
    assert!(error.ends_with("loaded are: panic-in-load"), "{error}");
}

#[test]
fn links_are_counted_over_all_shards_and_through_swaps() {
    let broker = Fixture::new(2);
    broker.load("noop", json!({})).unwrap();
    broker.load("panic-in-load", json!({"panic_in": "hook"})).unwrap();
    let counts = || {
        let rows = broker.manager.hooks(false).rows;
        rows.iter().map(|row| (row.plugin.clone(), row.generation, row.calls, row.faults)).collect::<Vec<_>>()
    };
    broker.shards.publish(0, 3);
    broker.shards.publish(1, 4);
    assert_eq!(counts(), [("noop".to_owned(), 1, 7, 0), ("panic-in-load".to_owned(), 1, 7, 7)]);
    broker.manager.reload("noop", None).unwrap();
    broker.shards.publish(1, 5);
    assert_eq!(counts(), [("noop".to_owned(), 2, 5, 0), ("panic-in-load".to_owned(), 1, 12, 12)]);
    broker.manager.unload("noop").unwrap();
    broker.shards.publish(0, 1);
    assert_eq!(counts(), [("panic-in-load".to_owned(), 1, 13, 13)]);
}

#[test]
fn a_record_that_cannot_be_written_is_a_warning_on_a_plugin_that_works() {
    let broker = Fixture::with(1, |settings| settings.record = Some("/proc/nowhere/plugins.json".into()));
    let info = broker.load("noop", json!({})).unwrap();
    assert_eq!(info.state, PluginState::Loaded);
    assert!(info.warnings[0].contains("a restart will not restore it as it is"), "{:?}", info.warnings);
}

#[test]
fn a_deferred_verdict_comes_back_to_the_shard_of_its_ticket() {
    let broker = Fixture::new(1);
    broker.load("defer-publish", json!({"delay_ms": 1})).unwrap();
    let entry = broker.shards.links(0, HookPoint::MessagePublish)[0].entry;
    let flow = broker.shards.handles[0].call(LONG, move |_| FakeEvent::publish("a", b"").call(entry, 0));
    assert_eq!(flow.unwrap(), Flow::DEFER);
    let began = Instant::now();
    let completion = loop {
        if let Some(completion) = broker.shards.handles[0].next_completion() {
            break completion;
        }
        assert!(began.elapsed() < LONG, "the plugin's thread completes its ticket");
        std::thread::yield_now();
    };
    assert_eq!(completion.flow, Flow::CONTINUE);
    assert_eq!(
        (&completion.changes[0].key[..], &completion.changes[0].bytes[..]),
        (&b"deferred"[..], &b"1"[..])
    );
    broker.manager.unload("defer-publish").unwrap();
}

#[test]
fn logs_name_the_plugin_and_never_show_its_configuration() {
    let log = Log::install();
    let broker = Fixture::new(1);
    let secret = || json!({"sleep_ms": 1, "topic_prefix": "s3cret"});
    broker.load("sleeper", secret()).unwrap();
    broker.manager.reload("sleeper", Some(secret())).unwrap();
    broker.load("sleeper", secret()).unwrap_err();
    broker.load("sleeper", json!({"sleep_ms": "s3cret"})).unwrap_err();
    broker.load("panic-in-load", json!({"panic_in": "hook"})).unwrap();
    let entry = broker.shards.links(0, HookPoint::MessagePublish)[1].entry;
    broker.shards.handles[0].call(LONG, move |_| FakeEvent::publish("a", b"").call(entry, 0)).unwrap();
    let text = log.text();
    assert!(
        text.contains("plugin=\"panic-in-load\"") && text.contains("panicked as configured (fault 1)"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
    assert!(!format!("{:?}", request("sleeper", secret())).contains("s3cret"));
    assert!(!format!("{:?} {:?}", broker.manager, broker.manager.list()).contains("s3cret"));
}

#[test]
fn the_fake_shards_run_their_jobs() {
    let shards = FakeShards::start(1);
    assert_eq!(shards.handles[0].call(LONG, |shard| shard.id()).unwrap().index(), 0);
    assert!(plugins_dir().is_dir());
}
