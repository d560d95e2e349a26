//! A slow subscriber, a slow plugin and ten thousand idle clients, each beside 5,000 messages a
//! second: none of these messages is lost, no client is disconnected, and the bystanders' times
//! before and during are printed as a row of a table.

use std::io::{Read, Write};
use std::time::Duration;

use grapnel_tests::bystander::{Beside, Bystanders};
use grapnel_tests::flood::{allow_open_files, known, paced};
use grapnel_tests::load::{Load, Plan};
use grapnel_tests::row::Row;
use grapnel_tests::{Broker, Client, Publish, Socket, Subscribe, Version};

use crate::{connect_all, load_plugin};

const PER_SECOND: u32 = 5_000;
const SECONDS: u32 = 6;

/// Runs `work` beside bystanders and a load of [`PER_SECOND`]; both must receive every message.
fn beside_load<T>(broker: &Broker, what: &str, work: impl FnOnce() -> T) -> Beside<T> {
    let plan = Plan {
        pairs: 100,
        per_second: PER_SECOND,
        original: "neighbours".to_owned(),
        rewritten: "neighbours".to_owned(),
        stamp: "stamp".to_owned(),
    };
    let load = Load::start(broker, plan);
    let bystanders = Bystanders::start(broker);
    load.settle(u64::from(PER_SECOND));
    let beside = bystanders.beside("-", &format!("{what}, beside {PER_SECOND}/s"), work);
    bystanders.finish();
    let report = load.finish();
    // The test requires this load: on a slower machine it has tested nothing.
    assert!(report.rate > f64::from(PER_SECOND) * 0.8, "only {:.0} messages/s", report.rate);
    beside
}

/// Makes the plugin defer each message of the row for 2 ms.
fn load_slow_plugin(broker: &Broker) {
    load_plugin(broker, "defer-publish", &["delay_ms=2", "topic_prefix=\"row/\""]);
}

/// Every message arrives once, in order, and is acknowledged.
fn behind_slow_plugin(broker: &Broker) {
    Row { messages: 400 * u64::from(SECONDS), window: 1 }.run(broker, "deferred");
}

/// 5 MB a second are sent to a subscriber that reads 4 KB a second, and stays connected.
fn slow_subscriber(broker: &Broker) {
    let mut slow = known(broker, "slow subscriber");
    let subscribe = Subscribe::to("slow", 0).encode(Version::V311, 1);
    slow.write_all(&subscribe).expect("the broker takes a SUBSCRIBE");
    let mut suback = [0; 5];
    slow.read_exact(&mut suback).expect("it answers");
    assert_eq!(suback, [0x90, 3, 0, 1, 0]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Client::hello(broker, Version::V5, "publishes to the slow one");
            let publish = Publish::new("slow", vec![b'x'; 10_000]).qos(1);
            paced(Duration::from_millis(2), 500 * SECONDS, |_| assert_eq!(publisher.publish(&publish), 0));
        });
        paced(Duration::from_secs(1), SECONDS, |_| read(&mut slow, 4_096));
    });
    read(&mut slow, 4_096);
}

/// Reads so many bytes; the broker has more.
fn read(socket: &mut Socket, bytes: usize) {
    socket.read_exact(&mut vec![0; bytes]).expect("a slow subscriber stays, and more has come for it");
}

const IDLE: usize = 10_000;

fn connect_idle(broker: &Broker) -> Vec<Client> {
    connect_all(broker, &(0..IDLE).map(|n| format!("idle {n}")).collect::<Vec<_>>())
}

#[test]
fn a_slow_subscriber() {
    let broker = Broker::builder().grapnel_only().start();
    beside_load(&broker, "a subscriber that reads 4 KB/s of 5 MB/s", || slow_subscriber(&broker));
}

#[test]
fn a_slow_plugin() {
    let broker = Broker::builder().grapnel_only().start();
    load_slow_plugin(&broker);
    beside_load(&broker, "a plugin that defers each verdict 2 ms", || behind_slow_plugin(&broker));
}

/// A hook must not do this: it blocks its shard, and so all clients there, for the whole time.
#[test]
fn a_plugin_that_works_on_the_shard() {
    let broker = Broker::builder().grapnel_only().start();
    load_plugin(&broker, "sleeper", &["sleep_ms=2", "topic_prefix=\"sleep\""]);
    beside_load(&broker, "a plugin that holds a shard for 2 ms, 50 times/s", || {
        let mut publisher = Client::hello(&broker, Version::V5, "publisher");
        paced(Duration::from_millis(20), 50 * SECONDS, |_| {
            publisher.publish(&Publish::new("sleep", "").qos(1));
        });
    });
}

#[test]
fn idle_clients() {
    allow_open_files(IDLE as u64 + 1_000);
    let broker = Broker::builder().grapnel_only().start();
    let mut idle = Vec::new();
    beside_load(&broker, &format!("{IDLE} clients connect"), || idle = connect_idle(&broker));
    beside_load(&broker, &format!("{IDLE} idle clients"), || paced(Duration::from_secs(1), SECONDS, |_| {}));
    idle.iter_mut().for_each(Client::ping);
}

#[test]
fn all_of_them_at_once() {
    allow_open_files(IDLE as u64 + 1_000);
    let broker = Broker::builder().grapnel_only().start();
    load_slow_plugin(&broker);
    let mut idle = Vec::new();
    beside_load(&broker, &format!("all of them, and {IDLE} clients connect"), || {
        std::thread::scope(|scope| {
            scope.spawn(|| slow_subscriber(&broker));
            scope.spawn(|| behind_slow_plugin(&broker));
            idle = connect_idle(&broker);
        });
    });
    idle.iter_mut().for_each(Client::ping);
}
