//! topic-rewrite is loaded, reloaded and unloaded a hundred times while 200 clients exchange 5,000 messages a second. Every
//! message is judged: one stamp while it is loaded, none while it is not, never two, none lost, none doubled, nobody
//! disconnected.
#![allow(clippy::print_stderr, reason = "the test says what load it made")]

use grapnel_tests::load::{Load, Phase, Plan};
use grapnel_tests::{Broker, Peer};

const CYCLES: usize = 100;
const PER_SECOND: u32 = 5000;
/// Messages that must pass in each quiet time between two changes: every publisher about once.
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
fn a_plugin_comes_and_goes_a_hundred_times_under_load() {
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
    // The promise is about this load: a machine that cannot make it has not tested it.
    assert!(report.rate > f64::from(PER_SECOND) * 0.8, "only {:.0} messages/s", report.rate);
}

/// The driver alone, with any broker: what it asks of one is what MQTT promises.
#[test]
fn the_load_itself_is_judged_right() {
    let broker = Broker::builder().shards(if Peer::chosen() == Peer::Grapnel { 2 } else { 1 }).start();
    let load = Load::start(&broker, plan());
    load.settle(5000);
    let report = load.finish();
    eprintln!("{report:?}");
    assert_eq!(report.stamped, 0);
}
