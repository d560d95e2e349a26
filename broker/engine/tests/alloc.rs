//! After its first run, the path of a QoS 0 message from the client's bytes to the subscribers'
//! outbound queues allocates nothing: codec, hooks, routing and delivery, with 0, 1 and 8 links
//! mounted. A publish also stores nothing for subscribers that wait for other messages. An idle client
//! takes little memory.
#![allow(missing_docs, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;
use std::net::SocketAddr;
use std::sync::Arc;

use grapnel_engine::codec;
use grapnel_engine::hook::{ChainTable, Entry, FaultPolicy, HookPoint, Link, LinkIdentity, PluginHandle};
use grapnel_engine::id::{ConnKey, ShardId};
use grapnel_engine::limits::Limits;
use grapnel_engine::packet::{
    Connect, Filters, Packet, Properties, Publish, QoS, Subscribe, SubscriptionOptions, Version,
    push_subscription,
};
use grapnel_engine::shard::{Input, ListenerInfo, Next, Peer, Setup, Shard};
use grapnel_engine::time::Now;
use grapnel_plugin_abi::raw::{Event, Flow};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
    static FREED: Cell<u64> = const { Cell::new(0) };
}

fn count(size: usize) {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
    BYTES.with(|bytes| bytes.set(bytes.get() + size as u64));
}

fn free(size: usize) {
    FREED.with(|bytes| bytes.set(bytes.get() + size as u64));
}

/// Bytes that this thread has allocated and not freed.
fn live_bytes() -> u64 {
    BYTES.with(Cell::get) - FREED.with(Cell::get)
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a
// constant-initialised thread-local alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        free(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        free(layout.size());
        count(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

unsafe extern "C" fn continues(_instance: *mut c_void, event: *const Event) -> Flow {
    // SAFETY: the event is alive during the call.
    let event = unsafe { &*event };
    if event.client_id.len == 0 { Flow::FAULT } else { Flow::CONTINUE }
}

fn shard() -> Shard {
    let mut shard = Shard::new(Setup {
        id: ShardId(0),
        shards: 1,
        limits: Arc::new(Limits::default()),
        no_match_allow: true,
        keys: [1, 2, 3, 4],
        seed: 1,
    });
    shard.advance(Now { mono_ms: 1000, wall_ms: 1_700_000_000_000 });
    shard
}

fn send(shard: &mut Shard, key: ConnKey, packet: &Packet<'_>, version: Version) {
    let mut bytes = Vec::new();
    codec::encode(packet, version, &mut bytes);
    let received = shard.receive(key, Input::Scratch(&bytes));
    assert_eq!((received.consumed, received.next), (bytes.len(), Next::Read));
}

fn connect(shard: &mut Shard, client_id: &str, version: Version) -> ConnKey {
    let listener =
        Arc::new(ListenerInfo { name: "test".into(), allow_anonymous: true, ..ListenerInfo::default() });
    connect_at(shard, &listener, client_id, version)
}

fn connect_at(shard: &mut Shard, listener: &Arc<ListenerInfo>, client_id: &str, version: Version) -> ConnKey {
    let listener = Arc::clone(listener);
    let [peer, local] =
        ["127.0.0.1:40000", "127.0.0.1:1883"].map(|address| address.parse::<SocketAddr>().ok());
    let peer = Peer::new(listener, peer, local);
    let key = shard.open(peer).unwrap();
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id,
        username: None,
        password: None,
        will: None,
        properties: Properties::default(),
    };
    send(shard, key, &Packet::Connect(connect), version);
    key
}

fn subscribe(shard: &mut Shard, key: ConnKey, filter: &str, version: Version) {
    let mut payload = Vec::new();
    push_subscription(&mut payload, filter, SubscriptionOptions::of_qos(QoS::AtMostOnce));
    let subscribe = Subscribe {
        packet_id: std::num::NonZeroU16::MIN,
        properties: Properties::default(),
        filters: Filters::from_encoded(&payload),
    };
    send(shard, key, &Packet::Subscribe(subscribe), version);
}

/// Flushes the connections, as the shell does after each read; it also releases their memory.
fn flush(shard: &mut Shard, keys: &mut Vec<ConnKey>, release: bool) -> usize {
    let mut sent = 0;
    std::mem::swap(keys, &mut shard.outbox().dirty);
    for key in keys.drain(..) {
        if let Some(outbound) = shard.outbound(key) {
            let bytes = outbound.len();
            outbound.advance(bytes);
            if outbound.is_empty() && release {
                outbound.release();
            }
            sent += bytes;
            shard.written(key);
        }
    }
    sent
}

#[test]
fn qos_0_allocates_nothing_in_steady_state() {
    let points = [
        HookPoint::ClientAuthorize,
        HookPoint::MessagePublish,
        HookPoint::MessageDelivered,
        HookPoint::PacketReceived,
        HookPoint::PacketSent,
    ];
    for links in [0u32, 1, 8] {
        let mut shard = shard();
        let publisher = connect(&mut shard, "publisher", Version::V311);
        for (name, version) in [("three", Version::V311), ("five", Version::V5)] {
            let key = connect(&mut shard, name, version);
            subscribe(&mut shard, key, "sensors/+/temperature", version);
            subscribe(&mut shard, key, "sensors/7/temperature", version);
        }
        let mounted = (0..links).flat_map(|number| {
            points.map(|point| {
                let link = Link {
                    // SAFETY: the function ignores its instance and is part of this program.
                    entry: unsafe { Entry::new(continues, std::ptr::null_mut()) },
                    plugin: PluginHandle(u64::from(number)),
                    identity: LinkIdentity(number * 64 + point as u32),
                    name: "test".into(),
                    priority: 0,
                    deadline_ms: 1000,
                    policy: FaultPolicy::Ignore,
                    topics: None,
                    deliver: false,
                    bit: 0,
                };
                (point, link)
            })
        });
        shard.swap_chains(ChainTable::compile(1, mounted));
        let mut bytes = Vec::new();
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "sensors/7/temperature",
            packet_id: None,
            properties: Properties::default(),
            payload: &[7; 64],
        };
        codec::encode(&Packet::Publish(publish), Version::V311, &mut bytes);
        let mut keys = Vec::new();
        let mut step = |shard: &mut Shard| {
            let received = shard.receive(publisher, Input::Scratch(&bytes));
            assert_eq!(received.next, Next::Read);
            flush(shard, &mut keys, false)
        };
        (0..100).for_each(|_| {
            step(&mut shard);
        });
        let before = ALLOCATIONS.with(Cell::get);
        let mut sent = 0;
        for _ in 0..1000 {
            sent += step(&mut shard);
        }
        let made = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(made, 0, "{links} links: {made} allocations in 1,000 messages");
        assert_eq!(sent, 1000 * (2 * bytes.len() + 1), "both subscribers got every message");
        let calls: Vec<u64> = points
            .iter()
            .flat_map(|point| {
                shard.chains().chain(*point).links().map(|(_, stats)| stats.calls).collect::<Vec<_>>()
            })
            .collect();
        assert!(calls.iter().all(|calls| *calls >= 1100), "every link was called: {calls:?}");
        assert_eq!(calls.len(), points.len() * links as usize);
    }
}

/// Retained messages that a client has yet to receive store nothing of later publishes.
#[test]
fn a_publish_allocates_nothing_for_open_readers() {
    let bytes = [0, 500].map(|readers| {
        let mut shard = shard();
        let publisher = connect(&mut shard, "publisher", Version::V311);
        let publish = |shard: &mut Shard, topic: &str, qos: QoS| {
            let publish = Publish {
                dup: false,
                qos,
                retain: qos != QoS::AtMostOnce,
                topic,
                packet_id: (qos != QoS::AtMostOnce).then_some(std::num::NonZeroU16::MIN),
                properties: Properties::default(),
                payload: &[7; 64],
            };
            send(shard, publisher, &Packet::Publish(publish), Version::V311);
        };
        for n in 0..500 {
            publish(&mut shard, &format!("r/{n}"), QoS::AtLeastOnce);
        }
        if readers > 0 {
            let subscriber = connect(&mut shard, "subscriber", Version::V311);
            let mut payload = Vec::new();
            for n in 0..readers {
                let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
                push_subscription(&mut payload, &format!("r/{n}"), options);
            }
            let packet_id = std::num::NonZeroU16::MIN;
            let filters = Filters::from_encoded(&payload);
            let subscribe = Subscribe { packet_id, properties: Properties::default(), filters };
            send(&mut shard, subscriber, &Packet::Subscribe(subscribe), Version::V311);
            let now = Now { mono_ms: 1001, wall_ms: 1_700_000_000_001 };
            while shard.advance(now) {}
            let sent = shard.counters().messages_sent;
            assert!((1..100).contains(&sent), "{sent} fill its window, the others wait");
        }
        flush(&mut shard, &mut Vec::new(), true);
        let topics: Vec<String> = (0..1000).map(|n| format!("other/{n}")).collect();
        let before = BYTES.with(Cell::get);
        for topic in &topics {
            publish(&mut shard, topic, QoS::AtMostOnce);
        }
        BYTES.with(Cell::get) - before
    });
    assert!(bytes[1] <= bytes[0] + 4096, "{bytes:?} bytes without readers and with them");
}

/// Clients of the test of memory: whole chunks of every table.
const CLIENTS: u64 = 4096;

/// The most bytes that an idle client may take in the engine.
const IDLE_BYTES_MAX: u64 = 640;

/// The most bytes that its only subscription may add.
const SUBSCRIPTION_BYTES_MAX: u64 = 270;

/// What a client takes in the engine that does nothing but stay connected, and what a subscription
/// adds. The client identifier has 11 bytes and the filter 10.
#[test]
fn an_idle_client_takes_little_memory() {
    for version in [Version::V311, Version::V5] {
        let mut shard = shard();
        let listener =
            Arc::new(ListenerInfo { name: "test".into(), allow_anonymous: true, ..ListenerInfo::default() });
        let mut dirty = Vec::new();
        let mut keys = Vec::with_capacity(CLIENTS as usize);
        let empty = live_bytes();
        for n in 0..CLIENTS {
            keys.push(connect_at(&mut shard, &listener, &format!("client-{n:04}"), version));
            flush(&mut shard, &mut dirty, true);
        }
        while shard.advance(Now { mono_ms: 1001, wall_ms: 1_700_000_000_001 }) {}
        let idle = live_bytes() - empty;
        for (n, key) in keys.iter().enumerate() {
            subscribe(&mut shard, *key, &format!("idle/{n:05}"), version);
            flush(&mut shard, &mut dirty, true);
        }
        while shard.advance(Now { mono_ms: 1002, wall_ms: 1_700_000_000_002 }) {}
        let subscribed = live_bytes() - empty - idle;
        let each = (idle / CLIENTS, subscribed / CLIENTS);
        assert!(each.0 <= IDLE_BYTES_MAX, "{} bytes for an idle client of {version:?}", each.0);
        assert!(each.1 <= SUBSCRIPTION_BYTES_MAX, "{} bytes for a subscription of {version:?}", each.1);
    }
}
