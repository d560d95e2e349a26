//! Plugins that are loaded, reloaded and unloaded while a client is connected, and files that are
//! refused.
//!
//! An unloaded plugin stays mapped on purpose (ARCHITECTURE.md, "What an unloaded plugin leaves").
//! The broker's own data about it is stored in chunks.

use grapnel_tests::ledger::{self, Ledger};
use grapnel_tests::{Broker, Client, Publish, Version};

/// Loads, reloads and unloads plugins; every second one defers. One message goes through each
/// generation.
fn churn(broker: &Broker, rounds: u32) {
    let mut client = Client::hello(broker, Version::V5, "publisher");
    let mut publish = || assert!(client.publish(&Publish::new("plugins", "through it").qos(1)) < 0x80);
    for round in 0..rounds {
        let (plugin, config) =
            [("noop", &[][..]), ("defer-publish", &["--set", "delay_ms=1"][..])][round as usize % 2];
        broker.ctl_ok(&[&["plugins", "load", plugin, "--once"], config].concat());
        publish();
        broker.ctl_ok(&["plugins", "reload", plugin]);
        publish();
        broker.ctl_ok(&["plugins", "unload", plugin]);
    }
    client.disconnect();
}

#[test]
fn reloads_free_a_thousand_generations() {
    const ROUNDS: u32 = 500;
    let broker = Broker::builder().shards(2).config(ledger::CONFIG).counted().start();
    Ledger::open(&broker).check(
        &format!("{} generations of a plugin", 2 * ROUNDS),
        || churn(&broker, 50),
        || churn(&broker, ROUNDS),
    );
}

#[test]
fn refused_files_leave_nothing_behind() {
    const TIMES: u32 = 200;
    let broker = Broker::builder().shards(2).config(ledger::CONFIG).counted().start();
    let refuse = |times: u32| {
        for _ in 0..times {
            broker.ctl_refused(&["plugins", "load", "not-a-plugin"]);
            broker.ctl_refused(&["plugins", "load", "no-such-plugin"]);
        }
    };
    Ledger::open(&broker).check(&format!("{TIMES} refused plugins"), || refuse(20), || refuse(TIMES));
}
