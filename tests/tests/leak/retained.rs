//! Retained messages, set and cleared again, or left to expire.

use std::ops::Range;

use grapnel_tests::ledger::{self, Ledger};
use grapnel_tests::wire::{Ack, Packet, Value, property};
use grapnel_tests::{Broker, Client, Publish, Version};

/// Publishes under way at a time: below the broker's Receive Maximum.
const WINDOW: u32 = 48;

/// Every eighth expires by itself; every sixteenth is so large that it is stored apart from its
/// header.
fn message(number: u32) -> Publish {
    let bytes = if number.is_multiple_of(16) { 5000 } else { 20 };
    let message =
        Publish::new(&format!("retained/{number}/value"), vec![b'x'; bytes]).qos((number % 3) as u8).retain();
    if expires(number) { message.with(property::MESSAGE_EXPIRY, Value::U32(1)) } else { message }
}

fn expires(number: u32) -> bool {
    number.is_multiple_of(8)
}

fn clearing(number: u32) -> Publish {
    Publish { payload: Vec::new(), ..message(number) }
}

/// Sends a window of messages and waits for all their acknowledgements.
fn publish(client: &mut Client, messages: impl Iterator<Item = Publish>) {
    let mut open = 0;
    for message in messages {
        open += usize::from(message.qos > 0);
        client.send_publish(&message);
    }
    while open > 0 {
        match client.receive() {
            Packet::Puback(_) | Packet::Pubcomp(_) => open -= 1,
            Packet::Pubrec(ack) => client.send_packet(&Packet::Pubrel(Ack::of(ack.id))),
            other => panic!("{other:?} instead of an acknowledgement"),
        }
    }
    client.ping();
}

fn churn(broker: &Broker, topics: Range<u32>) {
    let mut client = Client::hello(broker, Version::V5, "publisher");
    for first in topics.clone().step_by(WINDOW as usize) {
        let window = first..topics.end.min(first + WINDOW);
        publish(&mut client, window.clone().map(message));
        publish(&mut client, window.filter(|number| !expires(*number)).map(clearing));
    }
    client.disconnect();
}

fn leaves_nothing(shards: usize, topics: u32) {
    let broker = Broker::builder().shards(shards).config(ledger::CONFIG).counted().start();
    Ledger::open(&broker).check(
        &format!("{topics} retained messages on {shards} shards"),
        || churn(&broker, 0..20_000),
        || churn(&broker, 20_000..20_000 + topics),
    );
}

#[test]
fn shards_1() {
    leaves_nothing(1, 20_000);
}

#[test]
fn shards_2_a_hundred_thousand_topics() {
    leaves_nothing(2, 100_000);
}

#[test]
fn shards_8() {
    leaves_nothing(8, 20_000);
}
