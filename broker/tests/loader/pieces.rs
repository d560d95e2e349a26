//! Tests of a state handover in pieces: of any size, while events continue, and back when a reload
//! is taken back. The plugin `stateful` counts the events of each shard's instance, and writes each
//! count into one of its entries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use grapnel::config::HookOverride;
use grapnel::plugin::{HookChange, MetricValue};
use grapnel_engine::hook::{ChainTable, HookPoint};
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Shard;
use grapnel_plugin_abi::testing::FakeEvent;
use serde_json::{Value, json};

use crate::shards::{Fixture, LONG};

/// Makes the plugin count one publish. Returns the count, and the sum of the numbers in its
/// entries.
fn publish_in(engine: &Shard) -> (u64, u64) {
    let mut links = engine.chains().chain(HookPoint::MessagePublish).links();
    let (link, _) = links.find(|(link, _)| link.name.starts_with("stateful/")).unwrap();
    let mut event = FakeEvent::publish("a", b"");
    event.call(link.entry, 0);
    let properties = event.user_properties();
    let number = |name| properties.iter().find(|(key, _)| key == name).unwrap().1.parse().unwrap();
    (number("count"), number("sum"))
}

fn publish(broker: &Fixture, shard: usize) -> (u64, u64) {
    broker.shards.handles[shard].call(LONG, |engine| publish_in(engine)).unwrap()
}

/// Expected sum of the entries after so many publishes: each has the last count that was written to
/// it.
fn sum(count: u64, entries: u64) -> u64 {
    (count.saturating_sub(entries) + 1..=count).sum()
}

fn broker(shards: usize, config: Value, change: impl FnOnce(&mut grapnel::plugin::Settings)) -> Fixture {
    let broker = Fixture::with(shards, change);
    broker.load("noop", json!({})).unwrap();
    broker.load("stateful", config).unwrap();
    broker
}

/// Publishes on every shard while `work` runs. Checks that each count follows the previous one,
/// with all entries present. Returns the number of publishes on each shard.
fn publishing(broker: &Fixture, entries: u64, work: impl FnOnce()) -> Vec<u64> {
    let stop = AtomicBool::new(false);
    let counts: Vec<AtomicU64> = broker.shards.handles.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for (shard, count) in counts.iter().enumerate() {
            let stop = &stop;
            scope.spawn(move || {
                let (mut last, _) = publish(broker, shard);
                while !stop.load(Ordering::Relaxed) {
                    let next = publish(broker, shard);
                    assert_eq!(next, (last + 1, sum(last + 1, entries)), "on shard {shard}");
                    last = next.0;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Stops also if `work` panics: otherwise the join of the threads would wait forever.
        let _ended = Stop(&stop);
        work();
    });
    counts.into_iter().map(AtomicU64::into_inner).collect()
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// 18 MB and 100 MB, where a state in one piece is limited to 1 MiB.
#[test]
fn a_state_of_any_size_goes_over_while_events_go_on() {
    for entries in [18_000, 50_000] {
        let shards = if entries == 18_000 { 1 } else { 2 };
        let config = json!({"pieces": true, "entries": entries, "entry_bytes": 1_000});
        let broker = broker(shards, config, |_| {});
        let mut took = Duration::ZERO;
        let published = publishing(&broker, entries, || {
            let began = Instant::now();
            let info = broker.manager.reload("stateful", Some(json!({"pieces": true}))).unwrap();
            took = began.elapsed();
            assert!(info.warnings.is_empty(), "{:?}", info.warnings);
            assert_eq!(info.generation, 2);
        });
        // More than 270 pieces have been handed over, with publishes in between.
        assert!(published.iter().all(|count| *count > 100), "{published:?} publishes in {took:?}");
        let (count, entries_sum) = publish(&broker, 0);
        assert_eq!(entries_sum, sum(count, entries));
    }
}

#[test]
fn a_reload_that_fails_at_any_piece_leaves_the_old_version_as_it_is() {
    let entries = 3_000;
    let config = json!({"pieces": true, "entries": entries, "entry_bytes": 100});
    let broker = broker(2, config, |settings| settings.state_piece_bytes_max = 4_096);
    publishing(&broker, entries, || {
        for (side, call) in [("import", 1), ("import", 2_000), ("complete", 1)] {
            let failing = json!({"pieces": true, "fail": {"side": side, "shard": 1, "call": call}});
            let error = broker.manager.reload("stateful", Some(failing)).unwrap_err().to_string();
            let expected = "cannot reload stateful: its state on shard 1 cannot be handed over: import_piece: failed as configured; \
                            nothing has changed; version 0.1.0 goes on";
            assert_eq!(error, expected);
        }
        let failing = json!({"pieces": true, "fail_activate_after": 50});
        let error = broker.manager.reload("stateful", Some(failing)).unwrap_err().to_string();
        assert!(error.contains("failed as configured"), "{error}");
        let shown = broker.manager.show("stateful").unwrap();
        assert!(shown.warnings.is_empty(), "{:?}", shown.warnings);
        // The next reload succeeds, with the counts of all versions.
        assert_eq!(broker.manager.reload("stateful", Some(json!({"pieces": true}))).unwrap().generation, 6);
    });
}

#[test]
fn a_piece_that_cannot_be_written_is_a_sentence() {
    let fail = json!({"side": "export", "shard": 0, "call": 3});
    let broker = broker(1, json!({"pieces": true, "entries": 10, "fail": fail}), |_| {});
    let error = broker.manager.reload("stateful", Some(json!({"pieces": true}))).unwrap_err().to_string();
    assert!(error.contains("export_piece: export_piece panicked: failed as configured"), "{error}");
    assert_eq!(publish(&broker, 0), (1, 1));

    broker.load("c-entry", json!({"huge_pieces": true})).unwrap();
    let error = broker.manager.reload("c-entry", None).unwrap_err().to_string();
    let expected = "export_piece: a piece of its state has more than the 65536 bytes that were requested; this is an error of the \
                    plugin; nothing has changed; version 0.1.0 goes on";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn endless_pieces_are_abandoned_and_waiting_operations_continue() {
    let timeout = Duration::from_millis(400);
    let broker = broker(2, json!({"pieces": true, "endless": true}), |settings| {
        settings.state_handover_timeout = timeout
    });
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| broker.manager.reload("stateful", None).unwrap_err().to_string());
        wait_for_pieces(&broker);
        // A command during the handover waits its turn.
        broker.manager.disable("stateful").unwrap();
        let error = reload.join().unwrap();
        let expected = "cannot reload stateful: its state on shard 0 cannot be handed over: it was not complete after 400 ms, with ";
        assert!(error.starts_with(expected), "{error}");
    });
    broker.manager.unload("stateful").unwrap();
}

#[test]
fn a_broker_that_stops_waits_for_no_pieces() {
    let broker = broker(1, json!({"pieces": true, "endless": true}), |settings| {
        settings.state_handover_timeout = 10 * LONG;
    });
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| broker.manager.reload("stateful", None).unwrap_err().to_string());
        wait_for_pieces(&broker);
        broker.manager.shutdown();
        assert!(reload.join().unwrap().contains("cannot be handed over: the broker stops"));
    });
    assert!(broker.loaded().is_empty());
}

/// Waits until the plugin has been called for a piece.
fn wait_for_pieces(broker: &Fixture) {
    let deadline = Instant::now() + LONG;
    let asked = || {
        let metrics = broker.manager.metrics();
        let asked = metrics.iter().find(|metric| metric.name.ends_with("keys_asked"));
        asked.is_some_and(|metric| matches!(metric.value, MetricValue::Counter(count) if count > 0))
    };
    while !asked() {
        assert!(Instant::now() < deadline, "pieces go over: {:?}", broker.manager.metrics());
        std::thread::yield_now();
    }
}

/// If only one of the two versions supports pieces, the state is handed over as a whole.
#[test]
fn a_version_without_pieces_gives_and_takes_the_whole() {
    for (before, after) in [(true, false), (false, true)] {
        let broker = broker(1, json!({"pieces": before}), |_| {});
        let publish = || {
            broker.shards.handles[0].call(LONG, |engine| {
                let mut links = engine.chains().chain(HookPoint::MessagePublish).links();
                let (link, _) = links.find(|(link, _)| link.name.starts_with("stateful/")).unwrap();
                let mut event = FakeEvent::publish("a", b"");
                event.call(link.entry, 0);
                event.user_properties().into_iter().next().unwrap().1
            })
        };
        assert_eq!(publish().unwrap(), "1");
        broker.manager.reload("stateful", Some(json!({"pieces": after}))).unwrap();
        assert_eq!(publish().unwrap(), "2");
    }
}

/// A counter of the plugin, over all shards and versions.
fn count(broker: &Fixture, what: &str) -> i64 {
    let (metrics, name) = (broker.manager.metrics(), format!("plugin_stateful_{what}"));
    match metrics.iter().find(|metric| metric.name == name).map(|metric| &metric.value) {
        Some(MetricValue::Counter(count)) => *count,
        other => panic!("{other:?}"),
    }
}

/// The operator mounts or unmounts a hook of the plugin.
fn switch(broker: &Fixture, (point, hook): (&str, &str), mounted: bool) {
    let (plugin, point, hook) = ("stateful".to_owned(), point.to_owned(), hook.to_owned());
    let mounted = HookOverride { mounted: Some(mounted), ..HookOverride::default() };
    let change =
        HookChange { plugin, point, hook, also: Vec::new(), clear: false, change: mounted, force: true };
    broker.manager.override_hook(&change).unwrap();
}

/// An instance is notified if it, or the instance before it, has missed beginnings or ends of
/// sessions, and of nothing else. It sees then whether its hook at their ends is called. In one
/// test, because metrics belong to the process.
#[test]
fn an_instance_that_missed_session_events_is_notified_and_so_is_its_successor() {
    const ENDED: (&str, &str) = ("session.terminated", "ended");
    let broker = broker(2, json!({"pieces": true}), |_| {});
    let counts = || ["told", "ended_left", "ended_came"].map(|what| count(&broker, what));
    let mut before = counts();
    // The notifications that have come since the last call, and those of them that found the hook
    // no longer called, or called again.
    let mut come = || {
        let (now, then) = (counts(), std::mem::replace(&mut before, counts()));
        (now[0] - then[0], now[1] - then[1], now[2] - then[2])
    };
    switch(&broker, ("message.publish", "publish"), false);
    switch(&broker, ("message.publish", "publish"), true);
    broker.manager.reload("stateful", None).unwrap();
    assert_eq!(come(), (0, 0, 0), "no session began or ended unseen");
    switch(&broker, ENDED, false);
    assert_eq!(come(), (2, 2, 0), "on both shards");
    switch(&broker, ENDED, true);
    assert_eq!(come(), (2, 0, 2));
    broker.manager.disable("stateful").unwrap();
    assert_eq!(come(), (0, 0, 0), "none of its hooks is called");
    broker.manager.enable("stateful").unwrap();
    assert_eq!(come(), (2, 0, 2));

    let link = || broker.shards.links(0, HookPoint::SessionTerminated).remove(0);
    let trip = || {
        grapnel::plugin::tripped(link().plugin, ShardId(0));
        let deadline = Instant::now() + LONG;
        while !link().entry.is_tripped() {
            assert!(Instant::now() < deadline, "it is tripped");
            std::thread::yield_now();
        }
    };
    trip();
    broker.manager.reload("stateful", None).unwrap();
    assert_eq!(come(), (2, 0, 2), "the version before was not called at the end");
    // A shard trips it, and the loader has not received that yet.
    let plugin = link().plugin;
    let trips = broker.shards.handles[0].call(LONG, move |engine| {
        let mut table = engine.swap_chains(ChainTable::compile(0, []));
        table.trip(plugin);
        drop(engine.swap_chains(table));
    });
    trips.unwrap();
    assert!(link().entry.is_tripped());
    broker.manager.reload("stateful", None).unwrap();
    assert_eq!(come(), (1, 0, 1), "on that shard alone");
    broker.manager.reload("stateful", Some(json!({"pieces": true, "fail_activate": true}))).unwrap_err();
    assert_eq!(come(), (0, 0, 0), "all that came between has come back");
    trip();
    broker.manager.rearm("stateful").unwrap();
    assert_eq!(come(), (2, 0, 2));

    // Hooks that it mounts itself cause no notification: otherwise there would be no end.
    broker.manager.reload("stateful", Some(json!({"restless": true}))).unwrap();
    assert_eq!(come(), (0, 0, 0));
    switch(&broker, ENDED, false);
    let deadline = Instant::now() + LONG;
    while broker.shards.links(0, HookPoint::SessionCreated).is_empty() {
        assert!(Instant::now() < deadline, "it has mounted a hook");
        std::thread::yield_now();
    }
    assert_eq!(come(), (2, 2, 0), "of what the operator did");
}
