//! Connections, half of them ended by a reset.

use grapnel_tests::churn::{Leave, Visit, visit};
use grapnel_tests::ledger::{self, Ledger};
use grapnel_tests::wire::property;
use grapnel_tests::{Broker, Connect, Publish, Subscribe, Version, Will};

const PER_SECOND: u32 = 5000;

/// Every second one ends with a reset; its earlier actions vary with all other parameters.
fn client(number: u32) -> Visit {
    let leave = match number % 8 {
        0 => Leave::ResetWithinConnect,
        2 => Leave::ResetUnread,
        4 | 6 => Leave::Reset,
        1 | 5 => Leave::Disconnect,
        _ => Leave::DisconnectAndWait,
    };
    let kind = number / 8;
    let every = |nth: u32| kind.is_multiple_of(nth);
    let version = [Version::V311, Version::V5, Version::V31][kind as usize % 3];
    let mut connect = Connect::new(version, &format!("visitor {number}"));
    if every(2) {
        connect = connect.keep_alive(ledger::KEEP_ALIVE_S);
    }
    if every(5) {
        connect = connect.will(Will::new("visitors/gone", "without a word"));
    }
    if every(2) && version.is_5() {
        connect = connect.with(property::TOPIC_ALIAS_MAXIMUM, property::Value::U16(8));
    }
    let (mut bytes, mut answers) = (connect.encode(), 1);
    if every(4) {
        bytes.extend(Subscribe::to(&format!("visitors/{number}"), 1).encode(version, 1));
        answers += 1;
    }
    if every(7) {
        bytes.extend(Publish::new("visitors/came", "hello").qos(1).id(2).encode(version));
        answers += 1;
    }
    Visit { version, bytes, answers, leave }
}

fn connect_and_disconnect(shards: usize, warm_up: u32, visits: u32) {
    let broker = Broker::builder().shards(shards).config(ledger::CONFIG).counted().start();
    Ledger::open(&broker).check(
        &format!("{visits} connections on {shards} shards"),
        || visit(&broker, 0..warm_up, PER_SECOND, client),
        || visit(&broker, warm_up..warm_up + visits, PER_SECOND, client),
    );
}

#[test]
fn shards_2_a_hundred_thousand_connections() {
    connect_and_disconnect(2, 10_000, 90_000);
}

#[test]
fn shards_1() {
    connect_and_disconnect(1, 10_000, 20_000);
}

#[test]
fn shards_8() {
    // Each of 56 pairs of shards keeps an empty batch after the first use.
    connect_and_disconnect(8, 30_000, 10_000);
}
