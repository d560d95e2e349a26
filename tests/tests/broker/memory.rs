//! Memory that clients can make the broker use, measured with the whole program by the kernel. A
//! client that reads nothing, or never sends CONNECT, uses a bounded amount, is charged for it
//! itself, and affects no other client.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use grapnel_tests::bystander::resident;
use grapnel_tests::flood::{allow_open_files, known, pour};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Socket, Subscribe, Version, scenario};

/// Memory of the broker's process, MiB.
fn resident_mib(broker: &Broker) -> u64 {
    resident(broker) / MIB as u64
}

/// Maximum round-trip time of a bystander's pings.
fn worst_ping(bystander: &mut Client, times: usize) -> Duration {
    let ping = |_| {
        let began = Instant::now();
        bystander.ping();
        began.elapsed()
    };
    (0..times).map(ping).max().unwrap_or_default()
}

const MIB: usize = 1 << 20;
/// Memory that a flood may add to the broker: its limits are a megabyte for each client, and
/// allocators keep some freed memory.
const SLACK_MIB: u64 = 24;

scenario! {
    /// PUBREL with unknown identifiers, and PINGREQ: each is answered, and no answer is read.
    fn a_client_that_never_reads_is_bounded_and_then_closed(
        broker in Broker::builder().grapnel_only().config("[limits]\nwrite_stall_timeout_ms = 3000")
    ) {
        let mut bystander = Client::connect(broker, &Connect::new(Version::V5, "bystander"));
        let calm = worst_ping(&mut bystander, 200);
        for (name, packet) in [("pubrel", &[0x62, 2, 0x30, 0x39][..]), ("pingreq", &[0xC0, 0][..])] {
            let before = resident_mib(broker);
            let mut socket = known(broker, name);
            let until = Instant::now() + PATIENCE;
            let flood = std::thread::spawn({
                let packets = packet.repeat(16_384);
                move || (pour(&mut socket, &packets, 500 * MIB, until), socket)
            });
            let mut highest = before;
            while !flood.is_finished() {
                highest = highest.max(resident_mib(broker));
                bystander.ping();
            }
            let (sent, _socket) = flood.join().unwrap();
            assert!(sent < 100 * MIB, "{name}: {} MiB were taken of a client that reads nothing", sent / MIB);
            assert!(highest <= before + SLACK_MIB, "{name}: {before} MiB before, {highest} MiB");
            assert!(Instant::now() < until, "{name}: it is not closed");
        }
        let after = worst_ping(&mut bystander, 200);
        eprintln!("slowest of 200 round trips of a bystander: {calm:?} before, {after:?} after");
    }
}

scenario! {
    /// 4 KiB in 5 s; the test uses a tenth of that time and of the stall timeout.
    fn a_client_that_reads_too_little_is_bounded_and_then_closed(
        broker in Broker::builder().grapnel_only().config("[limits]\nwrite_stall_timeout_ms = 3000")
    ) {
        let before = resident_mib(broker);
        let mut socket = known(broker, "slow");
        let until = Instant::now() + PATIENCE;
        let Some(mut writer) = socket.try_clone() else {
            eprintln!("skipped: one thread writes and another reads, which layers do not allow");
            return;
        };
        let flood = std::thread::spawn(move || pour(&mut writer, &[0xC0, 0].repeat(16_384), usize::MAX, until));
        let mut highest = before;
        socket.stream().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        while !flood.is_finished() {
            let mut left = 4096;
            let pause = Instant::now();
            while left > 0 && !flood.is_finished() {
                match socket.read(&mut vec![0; left]) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => left -= count,
                }
            }
            while pause.elapsed() < Duration::from_millis(500) && !flood.is_finished() {
                highest = highest.max(resident_mib(broker));
                std::thread::yield_now();
            }
        }
        assert!(Instant::now() < until, "it is not closed");
        assert!(highest <= before + SLACK_MIB, "{before} MiB before, {highest} MiB");
    }
}

scenario! {
    /// 134 sockets send a megabyte before CONNECT, or the maximum size of a CONNECT: no connected
    /// client loses a packet that arrives in two pieces.
    fn connections_that_send_much_before_connect_are_limited(broker in Broker::builder().grapnel_only()) {
        let mut clients: Vec<Client> =
            (0..20).map(|n| Client::connect(broker, &Connect::new(Version::V311, &format!("known-{n}")))).collect();
        let publish = [vec![0x30, 0xA2, 0x9C, 0x01, 0, 5], b"halfs".to_vec(), vec![b'x'; 19_995]].concat();
        let (beginning, end) = publish.split_at(10_000);
        clients.iter_mut().for_each(|client| client.send(beginning));
        let before = resident_mib(broker);
        // The maximum size of a CONNECT, and of the largest packet.
        let announced = |bytes: usize| [0x10, bytes as u8 | 0x80, (bytes >> 7) as u8 | 0x80, (bytes >> 14) as u8];
        let until = Instant::now() + PATIENCE;
        let strangers: Vec<Socket> = (0..134)
            .map(|n| {
                let mut socket = broker.connect();
                let bytes = if n % 2 == 0 { MIB - 5 } else { 131_000 };
                let _ = socket.write_all(&announced(bytes));
                pour(&mut socket, &[0; 65536], bytes - 1, until);
                socket
            })
            .collect();
        for client in &mut clients {
            client.send(end);
            client.ping();
        }
        let after = resident_mib(broker);
        assert!(after <= before + 40, "{before} MiB before, {after} MiB");
        drop(strangers);
    }
}

scenario! {
    /// 20 MB at once, to a reader that begins to read when all has been sent: the broker is faster
    /// than any reader, and that alone must not cause drops.
    fn a_reader_that_keeps_up_loses_no_qos_0(
        // The machine may be busy with other work.
        broker in Broker::builder().grapnel_only().config("[limits]\noutbound_burst_ms = 60000")
    ) {
        let mut reader = Client::connect(broker, &Connect::new(Version::V311, "reader"));
        reader.subscribe("flood", 0);
        let mut publisher = Client::connect(broker, &Connect::new(Version::V311, "publisher"));
        let packet = [vec![0x30, 0x97, 0x4E, 0, 5], b"flood".to_vec(), vec![b'x'; 10_000]].concat();
        (0..2000).for_each(|_| publisher.send(&packet));
        publisher.ping();
        for n in 0..2000 {
            assert_eq!(reader.receive_publish().payload.len(), 10_000, "message {n}");
        }
        reader.ping();
    }
}

/// Idle clients of the test of their memory.
const IDLE_CLIENTS: u64 = 4000;

/// Memory that an idle client may take, bytes. It is measured to be about 900; what the allocator
/// and the system round up is in the rest.
const IDLE_BYTES_MAX: u64 = 1280;

/// The same for a client with one subscription; about 1150.
const SUBSCRIBED_BYTES_MAX: u64 = 1600;

/// Memory that belongs to the broker alone, bytes: the kernel's count for its process without
/// mapped files.
fn anonymous(broker: &Broker) -> u64 {
    let process = broker.process().id();
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// One shard, because on many shards there are more tables that are not full.
fn idle_clients_take_little(driver: &str) {
    allow_open_files(IDLE_CLIENTS + 256);
    let Some(broker) = Broker::builder()
        .grapnel_only()
        .config(&format!("[runtime]\nio = \"{driver}\""))
        .start_with_shards(1)
    else {
        return;
    };
    let each = |clients: &[Socket], before| (anonymous(&broker) - before) / clients.len() as u64;
    drop(known(&broker, "first"));
    let before = anonymous(&broker);
    let mut clients: Vec<Socket> =
        (0..IDLE_CLIENTS).map(|number| known(&broker, &format!("idle-{number:05}"))).collect();
    let idle = each(&clients, before);
    for (number, client) in clients.iter_mut().enumerate() {
        let subscribe = Subscribe::to(&format!("idle/{number:05}"), 0);
        client.write_all(&subscribe.encode(Version::V311, 1)).unwrap();
        let mut suback = [0; 5];
        client.read_exact(&mut suback).unwrap();
        assert_eq!(suback, [0x90, 3, 0, 1, 0]);
    }
    let subscribed = each(&clients, before);
    eprintln!("{idle} bytes for an idle client, {subscribed} with a subscription");
    assert!(idle <= IDLE_BYTES_MAX, "{idle} bytes for an idle client");
    assert!(subscribed <= SUBSCRIBED_BYTES_MAX, "{subscribed} bytes for a client with a subscription");
}

#[test]
fn idle_clients_take_little_memory_with_epoll() {
    idle_clients_take_little("epoll");
}

#[test]
fn idle_clients_take_little_memory_with_the_preferred_driver() {
    idle_clients_take_little("auto");
}
