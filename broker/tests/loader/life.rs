//! Tests of a loaded plugin: schema, dependencies, state over a reload, new configuration, disable
//! and enable. The plugin `stateful` counts the events of each shard's instance and fails where it
//! is configured to.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use grapnel::config::{Origin as ConfigOrigin, PluginConfig};
use grapnel::plugin::{LoadRequest, PluginState};
use grapnel_engine::hook::HookPoint;
use grapnel_engine::shard::Shard;
use grapnel_plugin_abi::testing::FakeEvent;
use serde_json::{Value, json};

use crate::shards::{Fixture, LONG, plugin_file, request};

/// Makes the plugin count one publish with the instance that is now in this shard's chains.
fn count_in(engine: &Shard, shard: usize) -> Option<u64> {
    let mut links = engine.chains().chain(HookPoint::MessagePublish).links();
    let (link, _) = links.find(|(link, _)| link.name.starts_with("stateful/"))?;
    let mut event = FakeEvent::publish("a", b"");
    event.call(link.entry, shard as u32);
    let properties = event.user_properties();
    properties.iter().find(|(key, _)| key == "count").map(|(_, value)| value.parse().unwrap())
}

fn count(broker: &Fixture, shard: usize) -> Option<u64> {
    broker.shards.handles[shard].call(LONG, move |engine| count_in(engine, shard)).unwrap()
}

/// A broker with `stateful` and its dependency.
fn counting(shards: usize, config: Value) -> Fixture {
    let broker = Fixture::new(shards);
    broker.load("noop", json!({})).unwrap();
    broker.load("stateful", config).unwrap();
    broker
}

fn configured(name: &str, file: &str, required: bool) -> PluginConfig {
    PluginConfig {
        name: name.to_owned(),
        path: Some(plugin_file(file)),
        priority: None,
        required: Some(required),
        config: json!({}),
        hooks: grapnel::config::HookOverrides::default(),
        origin: ConfigOrigin::Default,
    }
}

#[test]
fn a_configuration_is_held_against_the_schema_and_no_value_is_shown() {
    let broker = Fixture::new(1);
    broker.load("noop", json!({})).unwrap();
    let error = broker.load("stateful", json!({"step": "s3cret", "password": "s3cret s3cret"})).unwrap_err();
    assert!(error.starts_with("cannot load stateful: its configuration is wrong: "), "{error}");
    assert!(error.contains("step: the value is not of type \"integer\""), "{error}");
    assert!(error.contains("password: the value is longer than 8 characters"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    assert_eq!(broker.loaded(), ["noop"]);
    broker.load("stateful", json!({"step": 2})).unwrap();
    let shown = broker.manager.show("stateful").unwrap();
    assert_eq!(shown.config_schema.unwrap()["properties"]["step"]["maximum"], 1_000_000);
    assert!(broker.manager.list().plugins.iter().all(|plugin| plugin.config_schema.is_none()));
    assert_eq!(broker.manager.show("noop").unwrap().config_schema, None);
}

#[test]
fn dependencies_must_be_loaded_before_and_stay_loaded() {
    let broker = Fixture::new(1);
    let error = broker.load("stateful", json!({})).unwrap_err();
    assert_eq!(error, "cannot load stateful: it needs plugin noop, which is not loaded; load that first");
    broker.load("noop", json!({})).unwrap();
    broker.load("stateful", json!({})).unwrap();
    assert_eq!(broker.manager.show("stateful").unwrap().depends, ["noop"]);
    let error = broker.manager.unload("noop").unwrap_err().to_string();
    assert_eq!(error, "cannot unload noop: it is needed by stateful; unload that first");
    let error = broker.manager.disable("noop").unwrap_err().to_string();
    assert_eq!(error, "cannot disable noop: it is needed by stateful; disable that first");
    assert_eq!(broker.shards.chains(), [["noop/publish", "stateful/publish"]]);
    broker.manager.reload("noop", None).unwrap();

    broker.manager.disable("stateful").unwrap();
    broker.manager.disable("noop").unwrap();
    let error = broker.manager.enable("stateful").unwrap_err().to_string();
    assert!(error.contains("it needs plugin noop, which is disabled; enable that first"), "{error}");
    let other = LoadRequest {
        name: Some("other".to_owned()),
        ..request(&plugin_file("stateful").display().to_string(), json!({}))
    };
    let error = broker.manager.load(other).unwrap_err().to_string();
    assert!(error.contains("it needs plugin noop, which is disabled; enable that first"), "{error}");

    broker.manager.unload("stateful").unwrap();
    let unloaded = broker.manager.unload("noop").unwrap();
    let mut retired = broker.manager.list().retired.into_iter();
    let retired = retired.find(|retired| retired.name == "noop" && retired.generation > 0).unwrap();
    assert_eq!(unloaded.mapped_bytes, retired.mapped_bytes);
    assert!(unloaded.mapped_bytes > 4096);
}

#[test]
fn the_start_loads_dependencies_first_and_names_a_cycle() {
    let broker = Fixture::new(1);
    let plugins = [
        configured("sleepless", "panic-in-load", false),
        configured("stateful", "stateful", true),
        configured("noop", "noop", false),
    ];
    let mut plugins = plugins.to_vec();
    plugins[0].config = json!({"panic_in": "nowhere"});
    broker.manager.start(&plugins).unwrap();
    assert_eq!(broker.loaded(), ["sleepless", "noop", "stateful"]);

    // The file of `stateful` under the name of its dependency.
    let broker = Fixture::new(1);
    broker.manager.start(&[configured("noop", "stateful", false)]).unwrap();
    let failed = broker.manager.show("noop").unwrap();
    let PluginState::Failed(reason) = failed.state else { panic!("{:?}", failed.state) };
    assert_eq!(reason, "cannot load noop: plugins need each other in a circle: noop needs noop");
    assert_eq!(broker.shards.chains(), [[""; 0]]);

    let broker = Fixture::new(1);
    let error = broker.manager.start(&[configured("stateful", "stateful", true)]).unwrap_err().to_string();
    assert!(error.contains("it needs plugin noop, which is not loaded"), "{error}");
}

#[test]
fn configured_plugins_may_depend_on_plugins_loaded_by_ctl() {
    let broker = Fixture::new(1);
    broker.load("noop", json!({})).unwrap();
    let broker = Fixture::over(broker.restart(), 1, |_| {});
    broker.manager.start(&[configured("stateful", "stateful", true)]).unwrap();
    assert_eq!(broker.loaded(), ["noop", "stateful"]);
}

/// Publishes continue on both shards while the plugin is reloaded: each instance's count increases
/// by exactly one each time.
#[test]
fn no_event_falls_between_the_state_that_is_handed_over_and_the_swap() {
    let broker = counting(2, json!({}));
    let stop = Arc::new(AtomicBool::new(false));
    let counted: Vec<Arc<Mutex<Vec<u64>>>> = (0..2).map(|_| Arc::default()).collect();
    let publishers: Vec<_> = (0..2)
        .map(|shard| {
            let (handle, stop) = (broker.shards.handles[shard].clone(), Arc::clone(&stop));
            let counted = Arc::clone(&counted[shard]);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let counted = Arc::clone(&counted);
                    let job =
                        move |engine: &mut Shard| counted.lock().unwrap().extend(count_in(engine, shard));
                    handle.call(LONG, job).unwrap();
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let before: Vec<usize> = counted.iter().map(|counted| counted.lock().unwrap().len()).collect();
        let info = broker.manager.reload("stateful", None).unwrap();
        assert!(info.warnings.is_empty(), "{:?}", info.warnings);
        let deadline = std::time::Instant::now() + LONG;
        while counted.iter().zip(&before).any(|(counted, before)| counted.lock().unwrap().len() <= *before) {
            assert!(std::time::Instant::now() < deadline, "publishes go on");
            std::thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    for counted in counted {
        let counted = counted.lock().unwrap();
        let expected: Vec<u64> = (1..=counted.len() as u64).collect();
        assert_eq!(*counted, expected);
    }
    assert_eq!(broker.manager.show("stateful").unwrap().generation, 21);
}

#[test]
fn a_state_that_cannot_be_handed_over_keeps_the_old_version() {
    let broker = Fixture::with(2, |settings| settings.state_bytes_max = 64);
    broker.load("noop", json!({})).unwrap();
    broker.load("stateful", json!({"fail": {"side": "export", "shard": 1, "call": 1}})).unwrap();
    assert_eq!((count(&broker, 0), count(&broker, 1)), (Some(1), Some(1)));
    let error = broker.manager.reload("stateful", Some(json!({}))).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot reload stateful: its state on shard 1 cannot be handed over: export_state: failed as configured; nothing has \
         changed; version 0.1.0 goes on"
    );
    assert_eq!((count(&broker, 0), count(&broker, 1)), (Some(2), Some(2)));

    broker.manager.unload("stateful").unwrap();
    broker.load("stateful", json!({"pad_bytes": 56})).unwrap();
    assert_eq!(count(&broker, 0), Some(1));
    let failing = json!({"fail": {"side": "import", "shard": 0, "call": 1}});
    let error = broker.manager.reload("stateful", Some(failing)).unwrap_err().to_string();
    assert!(error.contains("shard 0 cannot be handed over: import_state: failed as configured"), "{error}");
    // A state exactly at the limit is handed over; one byte more is not.
    broker.manager.reload("stateful", Some(json!({"pad_bytes": 57}))).unwrap();
    assert_eq!(count(&broker, 0), Some(2));
    let error = broker.manager.reload("stateful", None).unwrap_err().to_string();
    assert!(
        error.contains("export_state: its state is larger than 64 bytes; raise state_bytes_max"),
        "{error}"
    );
    assert_eq!(count(&broker, 0), Some(3));
    assert_eq!(broker.manager.show("stateful").unwrap().generation, 5, "the second, fourth and sixth failed");
}

#[test]
fn a_plugin_without_handover_starts_with_new_state() {
    for (from, to) in [(true, false), (false, true)] {
        let broker = counting(1, json!({"stateless": from}));
        assert_eq!((count(&broker, 0), count(&broker, 0)), (Some(1), Some(2)));
        let info = broker.manager.reload("stateful", Some(json!({"stateless": to}))).unwrap();
        assert!(info.warnings.is_empty());
        assert_eq!(count(&broker, 0), Some(1));
    }
}

#[test]
fn a_state_that_fails_at_the_swap_is_replaced_by_that_of_the_trial() {
    let broker = counting(2, json!({}));
    assert_eq!(count(&broker, 1), Some(1));
    let failing = json!({"fail": {"side": "import", "shard": 1, "call": 2}});
    let info = broker.manager.reload("stateful", Some(failing)).unwrap();
    assert_eq!(info.warnings.len(), 1, "{:?}", info.warnings);
    assert!(info.warnings[0].starts_with("on shard 1 its state went over when the reload was tried"));
    assert!(info.warnings[0].ends_with("import_state: failed as configured"));
    assert_eq!(count(&broker, 1), Some(2), "nothing came between");
}

#[test]
fn a_reload_that_cannot_be_activated_gives_the_shards_back_to_the_old_version() {
    let broker = counting(2, json!({}));
    assert_eq!(count(&broker, 1), Some(1));
    let error = broker.manager.reload("stateful", Some(json!({"fail_activate": true}))).unwrap_err();
    assert!(error.to_string().contains("failed as configured"), "{error}");
    assert_eq!(count(&broker, 1), Some(2));
    assert!(broker.manager.show("stateful").unwrap().warnings.is_empty());
}

#[test]
fn counts_of_a_version_that_was_not_activated_return_to_the_old_one() {
    let broker = counting(2, json!({}));
    let published = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                broker.shards.publish(1, 1);
                published.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..5 {
            let error =
                broker.manager.reload("stateful", Some(json!({"fail_activate_after": 3}))).unwrap_err();
            assert!(error.to_string().contains("failed as configured"), "{error}");
        }
        done.store(true, Ordering::Relaxed);
    });
    let published = published.into_inner();
    assert!(published >= 15);
    assert_eq!((count(&broker, 0), count(&broker, 1)), (Some(1), Some(published + 1)));
    assert!(broker.manager.show("stateful").unwrap().warnings.is_empty());

    // A state that cannot come back is reported as lost, and the old version continues with its own
    // state.
    let broker = counting(1, json!({"fail": {"side": "import", "shard": 0, "call": 1}}));
    assert_eq!(count(&broker, 0), Some(1));
    broker.manager.reload("stateful", Some(json!({"fail_activate": true}))).unwrap_err();
    let warnings = broker.manager.show("stateful").unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("a reload was taken back after shard 0 had swapped"), "{warnings:?}");
    assert!(warnings[0].ends_with("import_state: failed as configured"), "{warnings:?}");
    assert_eq!(count(&broker, 0), Some(2));
}

#[test]
fn no_two_names_share_a_place_in_the_ancestry_of_messages() {
    let broker = Fixture::new(1);
    let named = |source: &str, name: String, config: Value| {
        broker.manager.load(LoadRequest { name: Some(name), once: true, ..request(source, config) })
    };
    // Names that cannot occur in a message use no place: here are more than there are places.
    let path = broker.dir.path().join("acl");
    std::fs::write(&path, "").unwrap();
    for number in 0..70 {
        let name = format!("guard-{number}");
        named("acl-file", name.clone(), json!({"path": path})).unwrap();
        broker.manager.unload(&name).unwrap();
    }
    let mut bits = std::collections::BTreeSet::new();
    for number in 0..64 {
        let name = format!("maker-{number}");
        named("noop", name.clone(), json!({})).unwrap();
        bits.insert(broker.shards.links(0, HookPoint::MessagePublish)[0].bit);
        broker.manager.unload(&name).unwrap();
    }
    assert_eq!(bits.len(), 64, "each has a bit of its own");
    let error = named("noop", "maker-64".to_owned(), json!({})).unwrap_err().to_string();
    assert!(error.starts_with("cannot load maker-64: 64 other plugins are loaded or have led to"), "{error}");
    assert!(broker.loaded().is_empty());
    named("noop", "maker-7".to_owned(), json!({})).unwrap();
    assert_eq!(broker.shards.links(0, HookPoint::MessagePublish)[0].bit, 7);
}

#[test]
fn a_configuration_goes_into_the_running_plugin_or_reloads_it() {
    let broker = counting(2, json!({"step": 2, "password": "s3cret"}));
    assert_eq!(count(&broker, 1), Some(2));
    let done = broker.manager.configure("stateful", json!({"step": 10}), true).unwrap();
    assert_eq!((done.reloaded, done.plugin.generation), (false, 1));
    assert_eq!((count(&broker, 0), count(&broker, 1)), (Some(10), Some(12)));

    let done = broker.manager.configure("stateful", json!({"fixed": 1}), true).unwrap();
    assert_eq!((done.reloaded, done.plugin.generation), (true, 2));
    assert_eq!(count(&broker, 1), Some(22), "the state went over, and the step stayed");

    for (wrong, text) in [
        (json!({"step": "s3cret"}), "its configuration is wrong: step: the value is not of type"),
        (json!({"stepp": 1}), "the key stepp is not known"),
        (
            json!({"refuse": "not today"}),
            "cannot configure stateful: not today; its configuration is the one it had",
        ),
        (json!([]), "must be a table of keys and values"),
    ] {
        let error = broker.manager.configure("stateful", wrong, true).unwrap_err().to_string();
        assert!(error.contains(text) && !error.contains("s3cret"), "{error}");
        assert_eq!(broker.manager.show("stateful").unwrap().generation, 2);
    }
    let error = broker.manager.configure("none", json!({}), false).unwrap_err().to_string();
    assert!(error.contains("no plugin named none is loaded"), "{error}");

    let dir = broker.restart();
    let record = std::fs::read_to_string(dir.path().join("plugins.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["plugins"][1]["config"], json!({"step": 10, "password": "s3cret", "fixed": 1}));
    let broker = Fixture::over(dir, 1, |_| {});
    broker.manager.start(&[]).unwrap();
    assert_eq!(count(&broker, 0), Some(10));
    broker.manager.configure("stateful", json!({"fixed": 1}), false).unwrap();
    assert_eq!(count(&broker, 0), Some(11), "without merging the rest is as by default");
}

#[test]
fn a_disabled_plugin_is_in_no_chain_keeps_its_instances_and_is_remembered() {
    let broker = counting(2, json!({}));
    assert_eq!(count(&broker, 1), Some(1));
    let info = broker.manager.disable("stateful").unwrap();
    assert_eq!(info.state, PluginState::Disabled);
    assert_eq!(count(&broker, 1), None);
    assert_eq!(broker.shards.chains(), [["noop/publish"], ["noop/publish"]]);
    assert_eq!(broker.manager.hooks(false).rows.len(), 1);
    broker.manager.disable("stateful").unwrap();
    broker.manager.reload("stateful", None).unwrap();
    assert_eq!(count(&broker, 1), None, "a reload leaves it disabled");
    broker.manager.configure("stateful", json!({"step": 5}), true).unwrap();
    let info = broker.manager.enable("stateful").unwrap();
    assert_eq!((info.state, info.generation), (PluginState::Loaded, 2));
    assert_eq!(count(&broker, 1), Some(6), "the count went through the reload");
    broker.manager.enable("stateful").unwrap();
    broker.manager.disable("stateful").unwrap();

    // Also if the configuration names it.
    let broker = Fixture::over(broker.restart(), 1, |_| {});
    broker.manager.start(&[configured("stateful", "stateful", false)]).unwrap();
    assert_eq!(broker.manager.show("stateful").unwrap().state, PluginState::Disabled);
    assert_eq!(count(&broker, 0), None);
    broker.manager.enable("stateful").unwrap();
    assert_eq!(count(&broker, 0), Some(1));
    let broker = Fixture::over(broker.restart(), 1, |_| {});
    broker.manager.start(&[]).unwrap();
    assert_eq!(broker.loaded(), ["noop"], "what is no longer configured is forgotten");
}

#[test]
fn a_disabled_plugin_can_be_unloaded_and_one_that_cannot_be_activated_stays_disabled() {
    let broker = counting(1, json!({}));
    broker.manager.disable("stateful").unwrap();
    broker.manager.configure("stateful", json!({"fail_activate": true}), true).unwrap();
    let error = broker.manager.enable("stateful").unwrap_err().to_string();
    assert!(error.contains("failed as configured"), "{error}");
    assert_eq!(broker.manager.show("stateful").unwrap().state, PluginState::Disabled);
    assert_eq!(count(&broker, 0), None);
    broker.manager.unload("stateful").unwrap();
    assert_eq!(broker.loaded(), ["noop"]);
    assert!(broker.manager.enable("stateful").unwrap_err().to_string().contains("no plugin named stateful"));
}
