//! Subscriptions of every kind, made and ended one by one or with the session.

use grapnel_tests::ledger::{self, Ledger};
use grapnel_tests::wire::{Packet, encode};
use grapnel_tests::{Broker, Client, Subscribe, Version};

/// Filters of one SUBSCRIBE, and packets under way at a time.
const FILTERS: u32 = 10;
const PACKETS: u32 = 20;
/// After so many rounds a client disconnects with its subscriptions, and another connects.
const ROUNDS: u32 = 10;

fn filter(number: u32) -> String {
    match number % 6 {
        0 => format!("leak/{number}/literal"),
        1 => format!("leak/+/{number}"),
        2 => format!("leak/{number}/#"),
        3 => format!("+/{number}/level/+"),
        4 => format!("$share/group {number}/leak/{number}"),
        _ => format!("$share/group/leak/{number}/#"),
    }
}

fn acknowledged(client: &mut Client) {
    client.receive_where("SUBACK or UNSUBACK", |packet| match packet {
        Packet::Suback { codes, .. } | Packet::Unsuback { codes, .. } => {
            assert!(codes.iter().all(|code| *code < 0x80), "{codes:02x?}");
            Some(())
        }
        _ => None,
    });
}

/// Subscribes to these filters and unsubscribes from them, in packets of several.
fn subscribe_and_unsubscribe(client: &mut Client, filters: &[String]) {
    subscribe(client, filters);
    for (id, part) in (1..).zip(filters.chunks(FILTERS as usize)) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        client.send(&encode::unsubscribe(client.version(), id, &part));
    }
    filters.chunks(FILTERS as usize).for_each(|_| acknowledged(client));
}

fn subscribe(client: &mut Client, filters: &[String]) {
    for (id, part) in (1..).zip(filters.chunks(FILTERS as usize)) {
        let packet = Subscribe {
            filters: part.iter().map(|filter| (filter.clone(), 1)).collect(),
            ..Subscribe::default()
        };
        client.send(&packet.encode(client.version(), id));
    }
    filters.chunks(FILTERS as usize).for_each(|_| acknowledged(client));
}

/// Two clients at a time, often on different shards, use the same filters.
fn churn(broker: &Broker, filters: std::ops::Range<u32>) {
    let mut next = filters.start;
    while next < filters.end {
        let mut pair =
            ["one", "other"].map(|name| Client::hello(broker, Version::V5, &format!("{name} {next}")));
        for round in 0..ROUNDS {
            let names: Vec<String> = (next..next + FILTERS * PACKETS).map(filter).collect();
            for client in &mut pair {
                match round {
                    9 => subscribe(client, &names),
                    _ => subscribe_and_unsubscribe(client, &names),
                }
            }
            next += FILTERS * PACKETS;
        }
        pair.into_iter().for_each(Client::disconnect);
    }
}

fn leaves_nothing(shards: usize, warm_up: u32, filters: u32) {
    let broker = Broker::builder().shards(shards).config(ledger::CONFIG).counted().start();
    Ledger::open(&broker).check(
        &format!("{filters} filters on {shards} shards"),
        || churn(&broker, 0..warm_up),
        || churn(&broker, warm_up..warm_up + filters),
    );
}

#[test]
fn shards_1() {
    leaves_nothing(1, 20_000, 20_000);
}

#[test]
fn shards_2_a_hundred_thousand_filters() {
    leaves_nothing(2, 20_000, 100_000);
}

#[test]
fn shards_8() {
    // Each of 56 pairs of shards keeps a few empty batches, as many as were ever under way at a
    // time.
    leaves_nothing(8, 60_000, 10_000);
}
