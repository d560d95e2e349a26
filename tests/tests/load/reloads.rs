//! topic-rewrite is loaded, reloaded and unloaded a hundred times while 200 clients exchange 5,000
//! messages a second. Every message is checked: one stamp while it is loaded, none while it is not,
//! never two. No message is lost or duplicated, and no client is disconnected.

use grapnel_tests::ledger::{self, Ledger};
use grapnel_tests::load::{Load, Phase, Plan, Report};
use grapnel_tests::{Broker, Client, Peer, Publish, Version};
use serde_json::Value;

const CYCLES: usize = 100;
const PER_SECOND: u32 = 5000;
/// Messages that must pass in each pause between two changes: about one from every publisher.
const QUIET: u64 = 100;

fn plan() -> Plan {
    Plan {
        pairs: 100,
        per_second: PER_SECOND,
        original: "load/in".to_owned(),
        rewritten: "load/out".to_owned(),
        stamp: "generation".to_owned(),
    }
}

const CONFIG: &str = r#"
stamp = "generation"

[[rules]]
action = "publish"
filter = "load/in/+"
destination = "load/out/$1"
"#;

#[test]
fn a_plugin_is_loaded_and_unloaded_a_hundred_times_under_load() {
    let broker = Broker::builder().shards(2).grapnel_only().start();
    let config = broker.home().join("rewrite.toml");
    std::fs::write(&config, CONFIG).expect("the directory is ours");
    let config = grapnel_tests::plugin::argument(&config);
    let load = Load::start(&broker, plan());
    load.settle(QUIET);
    for _ in 0..CYCLES {
        load.enter(Phase::Changing);
        broker.ctl_ok(&["plugins", "load", "topic-rewrite", "--config", config, "--once"]);
        load.enter(Phase::StampedByOne);
        load.settle(QUIET);
        load.enter(Phase::Stamped);
        broker.ctl_ok(&["plugins", "reload", "topic-rewrite"]);
        load.enter(Phase::StampedByOne);
        load.settle(QUIET);
        load.enter(Phase::Changing);
        broker.ctl_ok(&["plugins", "unload", "topic-rewrite"]);
        load.enter(Phase::Plain);
        load.settle(QUIET);
    }
    let report = load.finish();
    eprintln!("{CYCLES} cycles: {report:?}");
    assert_eq!(report.generations, 2 * CYCLES, "each load and each reload has a stamp of its own");
    assert!(report.stamped > 0 && report.stamped < report.received);
    // The test requires this load: on a slower machine it has tested nothing.
    assert!(report.rate > f64::from(PER_SECOND) * 0.8, "only {:.0} messages/s", report.rate);
}

/// The driver alone, with any broker: it only relies on what MQTT guarantees.
#[test]
fn the_load_driver_reports_errors_correctly() {
    let broker = Broker::builder().shards(if Peer::chosen() == Peer::Grapnel { 2 } else { 1 }).start();
    let load = Load::start(&broker, plan());
    load.settle(5000);
    let report = load.finish();
    eprintln!("{report:?}");
    assert_eq!(report.stamped, 0);
}

const RELOADS: u64 = 1_000;
const WARM_UP: u64 = 50;

/// Mapped bytes of plugin files: of their private copies, which have no name any more.
fn mapped(broker: &Broker) -> u64 {
    let path = format!("/proc/{}/maps", broker.process().id());
    let maps = std::fs::read_to_string(path).expect("the broker is our child");
    let copies = maps.lines().filter(|line| line.ends_with(".so (deleted)") && line.contains("/plugin-"));
    let bytes = copies.map(|line| {
        let (start, rest) = line.split_once('-').expect("a range");
        let (end, _) = rest.split_once(' ').expect("what may be done there");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        address(end) - address(start)
    });
    bytes.sum()
}

/// Memory that a library's segments take in whole pages (ELF-64: Program Header).
fn segments(file: &[u8]) -> u64 {
    const PAGE: u64 = 4096;
    let number = |at: usize, bytes: usize| {
        file[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let (first, size, count) = (number(32, 8) as usize, number(54, 2) as usize, number(56, 2) as usize);
    let headers = (0..count).map(|index| first + index * size).filter(|at| number(*at, 4) == 1);
    let pages = headers.map(|at| {
        let (start, in_memory) = (number(at + 16, 8), number(at + 40, 8));
        ((start + in_memory).div_ceil(PAGE) - start / PAGE) * PAGE
    });
    pages.sum()
}

/// Total counts of the instances of `stateful` on all shards: one client of each shard requests
/// them, and its own messages are subtracted.
fn counted(broker: &Broker, shards: usize) -> u64 {
    let mut counts = vec![None; shards];
    let mut sent = 0;
    for number in 0.. {
        let name = format!("asks-{number}");
        let mut client = Client::hello(broker, Version::V5, &name);
        let shown = broker.ctl_json(&["clients", "show", &name]);
        let shard = shown["shard"].as_u64().expect("a shard") as usize;
        if counts[shard].is_none() {
            client.subscribe(&name, 0);
            client.publish(&Publish::new(&name, "?").qos(1));
            let count = client.message().properties.user("count");
            counts[shard] = count.first().map(|count| count.parse::<u64>().expect("a number") - 1);
            sent += 1;
        }
        client.disconnect();
        if sent == shards {
            break;
        }
    }
    counts.into_iter().flatten().sum()
}

/// Reloads a plugin with a count on each of four shards repeatedly under load. Returns the report
/// of the load, and the bytes mapped by all reloads.
fn reload_under_load(broker: &Broker, reloads: u64) -> (Report, u64) {
    let plan =
        Plan { per_second: 10_000, rewritten: "load/in".to_owned(), stamp: "count".to_owned(), ..plan() };
    let load = Load::start(broker, plan);
    load.settle(QUIET);
    load.enter(Phase::Changing);
    broker.ctl_ok(&["plugins", "load", "noop", "--once"]);
    broker.ctl_ok(&["plugins", "load", "stateful", "--once"]);
    load.enter(Phase::Stamped);
    load.settle(QUIET);
    let before = mapped(broker);
    for _ in 0..reloads {
        broker.ctl_ok(&["plugins", "reload", "stateful"]);
    }
    let grown = mapped(broker) - before;
    load.settle(QUIET);
    (load.finish(), grown)
}

/// Allowed growth of the broker's own memory, as a share.
const HEAP_SHARE_MAX: f64 = 0.05;

/// Under 10,000 QoS 1 messages a second, a thousand reloads lose, duplicate and reorder no message
/// and disconnect no client. Every message is counted once, and the broker's own memory is back
/// within 5 % when the clients have gone. No reload maps anything, since the file has not changed.
/// An unloaded plugin stays mapped, once, as `plugins list` shows to the byte.
#[test]
fn a_thousand_reloads_keep_the_state() {
    let shards = 4;
    let broker = Broker::builder().shards(shards).config(ledger::CONFIG).counted().start();
    let mut shown = Value::Null;
    let mut mapped_by = 0;
    let unload = || {
        broker.ctl_ok(&["plugins", "unload", "stateful"]);
        broker.ctl_ok(&["plugins", "unload", "noop"]);
    };
    let (before, after) = Ledger::open(&broker).check(
        &format!("{RELOADS} reloads under load"),
        || {
            reload_under_load(&broker, WARM_UP);
            counted(&broker, shards);
            unload();
        },
        || {
            let (report, mapped) = reload_under_load(&broker, RELOADS);
            eprintln!("{RELOADS} reloads: {report:?}, {mapped} bytes mapped");
            assert_eq!(counted(&broker, shards), report.stamped, "every message is counted once");
            assert!(report.rate > 8_000.0, "only {:.0} messages/s", report.rate);
            mapped_by = mapped;
            unload();
            shown = broker.ctl_json(&["plugins", "list"]);
        },
    );
    // ARCHITECTURE.md, "What an unloaded plugin leaves", says what each generation keeps.
    let share = after.live_bytes as f64 / before.live_bytes as f64 - 1.0;
    assert!(share <= HEAP_SHARE_MAX, "the heap has grown by {:.1} %: {before:?}, {after:?}", share * 100.0);
    let file = std::fs::read(grapnel_tests::plugin::library("stateful")).expect("it has been built");
    assert_eq!(mapped_by, 0, "a reload of the same file maps nothing");
    let retired = shown["retired"].as_array().expect("a list").iter().filter(|row| row["name"] == "stateful");
    let rows: Vec<_> =
        retired.map(|row| (row["generation"].as_u64(), row["mapped_bytes"].as_u64())).collect();
    let whole = segments(&file);
    let expected = [WARM_UP + 1, WARM_UP + RELOADS + 2].map(|last| (Some(last), Some(whole)));
    assert_eq!(
        rows, expected,
        "what is reported is what is mapped: two loads, each with its last generation"
    );
}
