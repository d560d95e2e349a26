//! Deferred verdicts in large numbers: a thousand clients that authenticate slowly at the same
//! time, and one publisher whose every message waits for a plugin.

use grapnel_tests::Broker;
use grapnel_tests::bystander::Bystanders;
use grapnel_tests::row::Row;
use grapnel_tests::storm::Storm;

use crate::load_plugin;

/// Number of threads that authenticate.
const THREADS: usize = 256;
/// Time for one client, in milliseconds.
const DELAY_MS: usize = 200;

fn load_slow_auth(broker: &Broker, delay_ms: usize) {
    let (threads, delay) = (format!("threads={THREADS}"), format!("delay_ms={delay_ms}"));
    load_plugin(broker, "slow-auth", &[&threads, &delay, "client_prefix=\"storm\""]);
}

/// A thousand clients whose authentication blocks a thread for 200 ms each, 256 at a time, are all
/// admitted, and the messages of others pass meanwhile. The plugin is unloaded with all its
/// threads.
#[test]
fn a_thousand_clients_at_once_are_authenticated_slowly() {
    let clients = 1_000;
    let broker = Broker::builder().shards(2).grapnel_only().start();
    load_slow_auth(&broker, DELAY_MS);
    let bystanders = Bystanders::start(&broker);
    let what = format!("{clients} clients are authenticated slowly at once");
    let storm = bystanders.beside("-", &what, || Storm::run(&broker, clients, "storm")).done;
    let refused: Vec<_> = storm.codes.iter().filter(|(_, code)| *code != 0).collect();
    assert!(refused.is_empty(), "{} of {clients} refused: {refused:?}", refused.len());
    let ideal_ms = clients.div_ceil(THREADS) * DELAY_MS;
    eprintln!(
        "{clients} clients, {THREADS} threads, {DELAY_MS} ms each: first in after {:?}, all after {:?}, ideal {ideal_ms} ms",
        storm.first, storm.last
    );
    bystanders.finish();
    broker.ctl_ok(&["plugins", "unload", "slow-auth"]);
    let list = broker.ctl_json(&["plugins", "list"]);
    assert_eq!(list["retired"][0]["threads_left"], 0, "{list}");
}

/// A shard has at most `connects_pending_max` clients that wait for their authentication. Further
/// ones are refused at once with "server busy", and the others are admitted.
#[test]
fn clients_beyond_connects_pending_max_get_server_busy() {
    let (clients, max) = (300, 100);
    let config = format!("[limits]\nconnects_pending_max = {max}\n");
    let broker = Broker::builder().shards(1).grapnel_only().config(&config).start();
    load_slow_auth(&broker, 2_000);
    let storm = Storm::run(&broker, clients, "storm");
    let count = |code| storm.codes.iter().filter(|(_, other)| *other == code).count();
    let (welcome, busy) = (count(0), count(0x89));
    eprintln!("{clients} clients, {max} may wait: {welcome} in, {busy} told that the server is busy");
    assert_eq!(welcome + busy, clients, "{:?}", storm.codes);
    assert!(welcome >= max && busy > 0, "{welcome} in, {busy} refused");
    // Each admitted client has freed its place.
    let again = Storm::run(&broker, max, "storm again");
    assert!(again.codes.iter().all(|(_, code)| *code == 0), "{:?}", again.codes);
}

/// One publisher with 64 messages in flight through a hook that answers each a millisecond later;
/// 32 may wait at a time.
#[test]
fn messages_of_one_publisher_pass_a_hook_that_defers_each() {
    let broker = Broker::builder().shards(1).grapnel_only().start();
    load_plugin(&broker, "defer-publish", &["delay_ms=1"]);
    let row = Row { messages: 30_000, window: 64 };
    let ran = row.run(&broker, "deferred");
    eprintln!("{row:?}: {:.0} messages/s, none longer than {:?}", ran.rate, ran.longest);
}
