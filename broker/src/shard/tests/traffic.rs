//! Tests of normal traffic: between shards, through handoff, in pieces of any size, to the end of a
//! connection.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::{Client, Packet, connect, publish, publish_qos_1};
use super::{Broker, End, PATIENCE, open_descriptors, wait_for};

/// Each client sends to each other client through a topic of its own.
fn each_reaches_each(shards: usize, count: usize) {
    let broker = Broker::start(shards);
    let mut clients: Vec<Client> = (0..count).map(|n| broker.connect(&format!("client-{n}"))).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.subscribe(&format!("to/{n}/+"), 0);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let packets: Vec<Vec<u8>> =
            (0..count).map(|to| publish(&format!("to/{to}/{n}"), n.to_string().as_bytes())).collect();
        client.send(&packets.concat());
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let mut from: Vec<usize> = (0..count)
            .map(|_| {
                let (topic, payload) = client.packet().publish();
                assert!(topic.starts_with(&format!("to/{n}/")), "{topic} came to {n}");
                String::from_utf8(payload).unwrap().parse().unwrap()
            })
            .collect();
        from.sort_unstable();
        assert_eq!(from, (0..count).collect::<Vec<_>>());
    }
    drop(clients);
    broker.wait_for_count("connections_count", 0);
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn each_client_reaches_each_on_one_shard() {
    each_reaches_each(1, 8);
}

#[test]
fn each_client_reaches_each_on_two_shards() {
    each_reaches_each(2, 12);
}

#[test]
fn each_client_reaches_each_on_more_shards_than_cores() {
    each_reaches_each(16, 24);
}

#[test]
fn as_many_shards_as_there_may_be() {
    each_reaches_each(64, 16);
}

#[test]
fn a_connection_is_handed_over_with_every_byte_however_it_was_cut() {
    let broker = Broker::start(4);
    let mut watcher = broker.connect("watcher");
    watcher.subscribe("cut/#", 0);
    for cut in 1..40 {
        let id = format!("cut-{cut}");
        let bytes =
            [connect(&id), publish(&format!("cut/{cut}"), b"after the handoff"), vec![0xE0, 0]].concat();
        let mut client = Client::open(broker.address);
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        client.send(first);
        if cut % 2 == 0 {
            // The pieces must arrive separately. The first piece has no answer, so that a round
            // trip of another client is the wait.
            watcher.ping();
        }
        client.send(second);
        assert_eq!(watcher.packet().publish(), (format!("cut/{cut}"), b"after the handoff".to_vec()));
    }
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn publish_and_disconnect_in_one_segment_arrive_although_the_client_has_gone() {
    let broker = Broker::start(3);
    let mut watcher = broker.connect("watcher");
    watcher.subscribe("gone", 0);
    for n in 0..50 {
        let mut client = Client::open(broker.address);
        client.send(&[connect(&format!("gone-{n}")), publish("gone", b"x"), vec![0xE0, 0]].concat());
        drop(client);
        assert_eq!(watcher.packet().publish().0, "gone");
    }
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_client_that_closes_its_end_first_still_reads_what_was_sent_to_it() {
    let broker = Broker::start(2);
    let mut client = Client::open(broker.address);
    client.send(&[connect("half"), vec![0xC0, 0]].concat());
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.packet(), super::client::CONNACK);
    assert_eq!(client.packet(), Packet { first: 0xD0, body: Vec::new() });
    assert_eq!(client.next(), None);
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_megabyte_crosses_shards_whole_and_in_order_with_what_is_around_it() {
    let broker = Broker::start(4);
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut readers: Vec<Client> = (0..4).map(|n| broker.connect(&format!("reader-{n}"))).collect();
    for reader in &mut readers {
        reader.subscribe("large/#", 0);
    }
    let mut writer = broker.connect("writer");
    let bytes =
        [publish("large/1", b"before"), publish("large/2", &large), publish("large/3", b"after")].concat();
    for piece in bytes.chunks(7919) {
        writer.send(piece);
    }
    for reader in &mut readers {
        assert_eq!(reader.packet().publish(), ("large/1".to_owned(), b"before".to_vec()));
        let (topic, payload) = reader.packet().publish();
        assert_eq!((topic.as_str(), payload == large), ("large/2", true));
        assert_eq!(reader.packet().publish(), ("large/3".to_owned(), b"after".to_vec()));
    }
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn narrow_lanes_hold_publishers_back_and_lose_nothing() {
    const MESSAGES: u16 = 2000;
    let broker = Broker::with(4, |limits, shell| {
        limits.lane_envelopes_max = 64;
        limits.lane_bytes_max = 65536;
        limits.session_queue_messages_max = 100_000;
        limits.receive_max = 65535;
        // Room for everything that a reader gets: a reader that is not scheduled for a moment would
        // otherwise lose QoS 0 messages.
        limits.outbound_bytes_max = 64 << 20;
        shell.lane_batches_max = 2;
        shell.lane_transit_bytes_max = 65536;
        shell.turn_envelopes_max = 64;
    });
    let payload = vec![b'x'; 1000];
    let mut readers: Vec<Client> = (0..4).map(|n| broker.connect(&format!("reader-{n}"))).collect();
    for reader in &mut readers {
        reader.subscribe("narrow/+", 0);
    }
    let readers: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            std::thread::spawn(move || {
                let mut next = [0_u16; 4];
                for _ in 0..4 * MESSAGES {
                    let (topic, payload) = reader.packet().publish();
                    let writer: usize = topic["narrow/".len()..].parse().unwrap();
                    let number = u16::from_be_bytes([payload[0], payload[1]]);
                    assert_eq!(number, next[writer], "from writer {writer}");
                    next[writer] += 1;
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let payload = payload.clone();
            let mut client = broker.connect(&format!("writer-{n}"));
            std::thread::spawn(move || {
                let mut socket = client.socket.try_clone().unwrap();
                let sender = std::thread::spawn(move || {
                    for number in 0..MESSAGES {
                        let payload = [&number.to_be_bytes()[..], &payload].concat();
                        socket
                            .write_all(&publish_qos_1(&format!("narrow/{n}"), number + 1, &payload))
                            .unwrap();
                    }
                });
                for number in 0..MESSAGES {
                    let puback = client.packet();
                    assert_eq!((puback.first, &puback.body[..2]), (0x40, &(number + 1).to_be_bytes()[..]));
                }
                sender.join().unwrap();
            })
        })
        .collect();
    for thread in writers.into_iter().chain(readers) {
        thread.join().unwrap();
    }
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_drain_sends_the_reason_to_every_client_and_closes_every_connection() {
    let before = open_descriptors();
    let broker = Broker::start(3);
    let running = open_descriptors();
    let mut clients: Vec<Client> = (0..20).map(|n| broker.connect(&format!("client-{n}"))).collect();
    let address = broker.address;
    let ending = std::thread::spawn(move || broker.drain());
    for client in &mut clients {
        let disconnect = client.packet();
        assert_eq!((disconnect.first, disconnect.body.first()), (0xE0, Some(&0x8B)), "Server shutting down");
        assert_eq!(client.next(), None);
    }
    drop(clients);
    assert_eq!(ending.join().unwrap(), End::Signal(15));
    assert!(std::net::TcpStream::connect(address).is_err(), "somebody still listens");
    // The executors keep their descriptors; sockets and listeners are closed.
    let after = open_descriptors();
    assert!(after < running, "{before} descriptors before, {running} running, {after} after");
}

#[test]
fn connections_leave_no_descriptor_behind_however_they_end() {
    let broker = Broker::start(4);
    // Descriptors that the process opens only once are open after this.
    drop(broker.connect("first"));
    broker.wait_for_count("connections_count", 0);
    let before = open_descriptors();
    for _ in 0..10 {
        let mut clients: Vec<Client> = (0..10).map(|n| broker.connect(&format!("leak-{n}"))).collect();
        // Taken over by the same id.
        let _again = broker.connect("leak-0");
        assert_eq!(clients[0].packet().first, 0xE0);
        // Ended properly.
        clients[1].send(&[0xE0, 0]);
        assert_eq!(clients[1].next(), None);
        // Closed by the broker for an invalid packet.
        clients[2].send(&[0x00, 0x00]);
        while clients[2].next().is_some() {}
        // Closed without DISCONNECT, in the middle of a packet.
        clients[3].send(&[0x30, 0x7f, 0x00]);
        // A connection without a CONNECT.
        let silent = Client::open(broker.address);
        drop((clients, silent));
    }
    broker.wait_for_count("connections_count", 0);
    wait_for("every descriptor to be closed", || (open_descriptors() <= before).then_some(()));
    assert_eq!(broker.drain(), End::Signal(15));
}

/// A shard that sends more large fan-outs than another can handle must not block messages of other
/// shards.
#[test]
fn lanes_are_taken_in_turn() {
    let broker = Broker::with(3, |limits, _| limits.turn_budget_deliveries = 64);
    let mut names = (0..).map(|n| format!("c{n}"));
    let mut connect_at = |shard: usize| loop {
        let name = names.next().unwrap();
        let client = broker.connect(&name);
        let handle = &broker.shards.handles()[shard];
        if handle.call(PATIENCE, move |shard| shard.client(&name).is_some()).unwrap() {
            return client;
        }
    };
    // More than a turn serves. They never read, and lose messages beyond their limits.
    let clients: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = connect_at(1);
            client.subscribe("all", 0);
            client
        })
        .collect();
    let mut reader = connect_at(1);
    reader.subscribe("one", 0);
    let (flood, mut quiet) = (connect_at(0), connect_at(2));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut socket = flood.socket.try_clone().unwrap();
            let many = publish("all", b"x").repeat(1000);
            while !stop.load(Ordering::Relaxed) && socket.write_all(&many).is_ok() {}
        }
    });
    for n in 0..20_u8 {
        quiet.send(&publish("one", &[n]));
        assert_eq!(reader.packet().publish(), ("one".to_owned(), vec![n]));
    }
    stop.store(true, Ordering::Relaxed);
    drop(clients);
    assert_eq!(broker.drain(), End::Signal(15));
    sender.join().unwrap();
}
