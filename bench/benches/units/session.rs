//! Complete exchanges through a shard: from a client's bytes to the outgoing bytes, with the
//! acknowledgements of both sides.

use grapnel_engine::hook::HookPoint;
use grapnel_engine::id::ConnKey;
use grapnel_engine::packet::{Packet, Property, Version};

use super::Unit;
use super::bed::{self, Bed};
use super::chain;
use super::codec::{PAYLOAD, section};

const TOPIC: &str = "sensors/17/temperature";
const V311: Version = Version::V311;

fn pair(bed: &mut Bed, qos: u8, version: Version) -> (ConnKey, ConnKey) {
    let publisher = bed.connect("publisher", version);
    let subscriber = bed.connect("subscriber", version);
    bed.subscribe(subscriber, TOPIC, qos, version);
    (publisher, subscriber)
}

/// One publisher, one subscriber. Packet identifiers of deliveries count up, as in the broker; they
/// are acknowledged on arrival.
pub fn publish(qos: u8) -> impl Unit {
    let mut bed = Bed::new();
    let (publisher, subscriber) = pair(&mut bed, qos, V311);
    let publish = bed::publish(TOPIC, qos, V311);
    let release = bed::ack(Packet::PubRel, 1);
    let mut answers = Answers::new();
    move || {
        bed.send(publisher, &publish);
        let mut sent = bed.collect();
        match qos {
            0 => {}
            1 => bed.send(subscriber, answers.next(PUBACK)),
            _ => {
                bed.send(publisher, &release);
                bed.send(subscriber, answers.next(PUBREC));
                sent += bed.collect();
                bed.send(subscriber, answers.last(PUBCOMP));
            }
        }
        sent + bed.collect()
    }
}

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

/// A subscriber's acknowledgements, for the identifiers that the broker assigns one after another.
struct Answers {
    packet: [u8; 4],
    packet_id: u16,
}

impl Answers {
    fn new() -> Answers {
        Answers { packet: [0, 2, 0, 0], packet_id: 0 }
    }

    fn next(&mut self, first: u8) -> &[u8] {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        self.last(first)
    }

    fn last(&mut self, first: u8) -> &[u8] {
        self.packet[0] = first;
        self.packet[2..].copy_from_slice(&self.packet_id.to_be_bytes());
        &self.packet
    }
}

/// A client sends the same bytes repeatedly; each exchange is complete at once.
fn sending(mut bed: Bed, client: ConnKey, bytes: Vec<u8>) -> impl Unit {
    move || {
        bed.send(client, &bytes);
        bed.collect()
    }
}

/// A client makes a change and undoes it.
fn changing(mut bed: Bed, client: ConnKey, there: Vec<u8>, back: Vec<u8>) -> impl Unit {
    move || {
        bed.send(client, &there);
        let sent = bed.settle();
        bed.send(client, &back);
        sent + bed.settle()
    }
}

pub fn publish_v5() -> impl Unit {
    let mut bed = Bed::new();
    let (publisher, _) = pair(&mut bed, 0, Version::V5);
    let properties = section(&[Property::ContentType("application/json"), Property::User("site", "north")]);
    let publish = bed::publish_with(TOPIC, 0, Version::V5, false, &PAYLOAD, &properties);
    sending(bed, publisher, publish)
}

/// QoS 0 to one subscriber with links at each of the three points that see a message.
pub fn publish_through(links: u32) -> impl Unit {
    let mut bed = Bed::new();
    let (publisher, _) = pair(&mut bed, 0, V311);
    let points = [HookPoint::ClientAuthorize, HookPoint::MessagePublish, HookPoint::MessageDelivered];
    bed.shard.swap_chains(chain::links(links, &points));
    sending(bed, publisher, bed::publish(TOPIC, 0, V311))
}

pub fn publish_unrouted() -> impl Unit {
    let mut bed = Bed::new();
    let publisher = bed.connect("publisher", V311);
    let mut unit = sending(bed, publisher, bed::publish(TOPIC, 0, V311));
    move || unit.step() + 1
}

/// So many clients that subscribe to the same filter.
fn subscribed(bed: &mut Bed, count: u16, filter: &str, qos: u8) -> Vec<ConnKey> {
    let subscriber = |number| {
        let key = bed.connect(&format!("s{number}"), V311);
        bed.subscribe(key, filter, qos, V311);
        key
    };
    (0..count).map(subscriber).collect()
}

pub fn fan_out(subscribers: u16, qos: u8) -> impl Unit {
    let mut bed = Bed::new();
    let publisher = bed.connect("publisher", V311);
    let keys = subscribed(&mut bed, subscribers, TOPIC, qos);
    let publish = bed::publish(TOPIC, qos, V311);
    let mut answers = Answers::new();
    move || {
        bed.send(publisher, &publish);
        let sent = bed.settle();
        if qos > 0 {
            answers.next(PUBACK);
            for key in &keys {
                bed.send(*key, answers.last(PUBACK));
            }
        }
        sent + bed.settle()
    }
}

pub fn shared(members: u16) -> impl Unit {
    let mut bed = Bed::new();
    let publisher = bed.connect("publisher", V311);
    subscribed(&mut bed, members, &format!("$share/g/{TOPIC}"), 0);
    let publish = bed::publish(TOPIC, 0, V311);
    move || {
        bed.send(publisher, &publish);
        bed.settle()
    }
}

pub fn connect_disconnect() -> impl Unit {
    let mut bed = Bed::new();
    let connect = bed::connect("visitor", V311, true);
    move || {
        let key = bed.open();
        bed.send(key, &connect);
        let sent = bed.collect();
        bed.shard.receive(key, grapnel_engine::shard::Input::Scratch(&[0xE0, 0]));
        sent + bed.settle()
    }
}

/// A client resumes its session, receives the queued messages, acknowledges them and disconnects;
/// then again.
pub fn resume(queued: u16) -> impl Unit {
    let mut bed = Bed::new();
    let connect = bed::connect("sleeper", V311, false);
    let key = bed.open();
    bed.send(key, &connect);
    bed.subscribe(key, TOPIC, 1, V311);
    bed.shard.receive(key, grapnel_engine::shard::Input::Scratch(&[0xE0, 0]));
    bed.settle();
    let publisher = bed.connect("publisher", V311);
    let publish = bed::publish(TOPIC, 1, V311);
    let mut answers = Answers::new();
    move || {
        for _ in 0..queued {
            bed.send(publisher, &publish);
        }
        bed.settle();
        let key = bed.open();
        bed.send(key, &connect);
        let sent = bed.settle();
        for _ in 0..queued {
            bed.send(key, answers.next(PUBACK));
        }
        bed.shard.receive(key, grapnel_engine::shard::Input::Scratch(&[0xE0, 0]));
        sent + bed.settle()
    }
}

pub fn subscribe_unsubscribe() -> impl Unit {
    let mut bed = Bed::new();
    let client = bed.connect("client", V311);
    let filter = "site/+/state/#";
    changing(bed, client, bed::subscribe(filter, 1, V311), bed::unsubscribe(filter, V311))
}

pub fn retained_set_clear() -> impl Unit {
    let mut bed = Bed::new();
    let client = bed.connect("client", V311);
    let retained = |payload| bed::publish_with(TOPIC, 1, V311, true, payload, &[]);
    changing(bed, client, retained(&PAYLOAD), retained(&[]))
}

pub fn ping() -> impl Unit {
    let mut bed = Bed::new();
    let client = bed.connect("client", V311);
    sending(bed, client, vec![0xC0, 0])
}
