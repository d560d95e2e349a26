//! A shard without sockets, and clients whose bytes it receives and sends as through the shell.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use grapnel_engine::id::{ConnKey, ShardId};
use grapnel_engine::limits::Limits;
use grapnel_engine::packet::{
    Ack, Connect, Filters, Packet, Properties, Publish, QoS, Subscribe, SubscriptionOptions, TopicFilters,
    Unsubscribe, Version, push_filter, push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Input, ListenerInfo, Next, Peer, Setup, Shard};
use grapnel_engine::time::Now;

use super::codec::{PAYLOAD, encoded};

/// One shard with a stopped clock.
pub struct Bed {
    pub shard: Shard,
    listener: Arc<ListenerInfo>,
    /// Addresses of clients, and of the listener.
    addresses: [SocketAddr; 2],
    dirty: Vec<ConnKey>,
}

impl Bed {
    pub fn new() -> Bed {
        let mut shard = Shard::new(Setup {
            id: ShardId(0),
            shards: 1,
            limits: Arc::new(Limits::default()),
            no_match_allow: true,
            keys: [1, 2, 3, 4],
            seed: 1,
        });
        shard.advance(Now { mono_ms: 1000, wall_ms: 1_700_000_000_000 });
        let listener =
            Arc::new(ListenerInfo { name: "bench".into(), allow_anonymous: true, ..ListenerInfo::default() });
        let addresses = ["127.0.0.1:40000", "127.0.0.1:1883"].map(|address| address.parse().unwrap());
        Bed { shard, listener, addresses, dirty: Vec::new() }
    }

    /// A connection, before its first byte.
    pub fn open(&mut self) -> ConnKey {
        let [peer, local] = self.addresses.map(Some);
        self.shard.open(Peer::new(Arc::clone(&self.listener), peer, local)).unwrap()
    }

    /// A client that is connected.
    pub fn connect(&mut self, client_id: &str, version: Version) -> ConnKey {
        let key = self.open();
        self.send(key, &connect(client_id, version, true));
        assert!(self.collect() > 0, "CONNACK");
        key
    }

    /// Passes a client's bytes to the shard, complete packets.
    pub fn send(&mut self, key: ConnKey, bytes: &[u8]) {
        let received = self.shard.receive(key, Input::Scratch(bytes));
        assert_eq!((received.consumed, received.next), (bytes.len(), Next::Read));
    }

    /// Subscribes a client.
    pub fn subscribe(&mut self, key: ConnKey, filter: &str, qos: u8, version: Version) {
        self.send(key, &subscribe(filter, qos, version));
        assert!(self.collect() > 0, "SUBACK");
    }

    /// What the shell does after a read: sends the outgoing bytes, and removes ended connections.
    /// Returns the number of sent bytes.
    pub fn collect(&mut self) -> u64 {
        let Bed { shard, dirty, .. } = self;
        let mut sent = 0;
        let outbox = shard.outbox();
        std::mem::swap(dirty, &mut outbox.dirty);
        for closing in outbox.closing.drain(..) {
            sent += closing.outbound.len();
        }
        for key in dirty.drain(..) {
            if let Some(outbound) = shard.outbound(key) {
                let bytes = outbound.len();
                outbound.advance(bytes);
                sent += bytes;
                shard.written(key);
            }
        }
        sent as u64
    }

    /// Finishes sliced work. Returns the number of sent bytes.
    pub fn settle(&mut self) -> u64 {
        let mut sent = self.collect();
        while self.shard.has_work() {
            let now = self.shard.now();
            self.shard.advance(now);
            sent += self.collect();
        }
        sent
    }
}

pub fn connect(client_id: &str, version: Version, clean_start: bool) -> Vec<u8> {
    let connect = Connect {
        version,
        clean_start,
        keep_alive_s: 0,
        client_id,
        username: None,
        password: None,
        will: None,
        properties: Properties::default(),
    };
    encoded(&Packet::Connect(connect), version)
}

pub fn publish(topic: &str, qos: u8, version: Version) -> Vec<u8> {
    publish_with(topic, qos, version, false, &PAYLOAD, &[])
}

pub fn publish_with(
    topic: &str,
    qos: u8,
    version: Version,
    retain: bool,
    payload: &[u8],
    properties: &[u8],
) -> Vec<u8> {
    let qos = QoS::from_u8(qos).unwrap();
    let publish = Publish {
        dup: false,
        qos,
        retain,
        topic,
        packet_id: (qos != QoS::AtMostOnce).then_some(NonZeroU16::MIN),
        properties: Properties::from_encoded(properties),
        payload,
    };
    encoded(&Packet::Publish(publish), version)
}

pub fn subscribe(filter: &str, qos: u8, version: Version) -> Vec<u8> {
    let mut payload = Vec::new();
    push_subscription(&mut payload, filter, SubscriptionOptions::of_qos(QoS::from_u8(qos).unwrap()));
    let filters = Filters::from_encoded(&payload);
    let subscribe = Subscribe { packet_id: NonZeroU16::MIN, properties: Properties::default(), filters };
    encoded(&Packet::Subscribe(subscribe), version)
}

pub fn unsubscribe(filter: &str, version: Version) -> Vec<u8> {
    let mut payload = Vec::new();
    push_filter(&mut payload, filter);
    let filters = TopicFilters::from_encoded(&payload);
    let unsubscribe = Unsubscribe { packet_id: NonZeroU16::MIN, properties: Properties::default(), filters };
    encoded(&Packet::Unsubscribe(unsubscribe), version)
}

pub fn ack(kind: fn(Ack<'static>) -> Packet<'static>, packet_id: u16) -> Vec<u8> {
    let packet_id = NonZeroU16::new(packet_id).unwrap();
    encoded(&kind(Ack::new(packet_id, ReasonCode::SUCCESS)), Version::V311)
}
