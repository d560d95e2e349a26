//! Tests of exhausted resources: room in a socket, memory for packets, descriptors, the time of a
//! shard.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use grapnel_engine::id::ShardId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::{Client, connect, publish};
use super::{Broker, End, PATIENCE, open_descriptors, wait_for};

#[test]
fn a_shard_that_panics_ends_the_broker_with_its_cause() {
    let broker = Broker::start(2);
    broker.shards.handles()[1].submit(Box::new(|_| panic!("a hook went wrong")));
    let end = broker.shards.wait();
    let cause = "panicked: a hook went wrong".to_owned();
    assert_eq!(end, End::Died { shard: ShardId(1), cause });
    assert_eq!(end.exit_code(), 70);
}

#[test]
fn a_subscriber_that_reads_nothing_is_closed_and_delays_no_other() {
    let broker = Broker::with(2, |_, shell| shell.write_stall_timeout_ms = 300);
    let mut stuck = broker.connect("stuck");
    stuck.subscribe("flood", 0);
    let mut reader = broker.connect("reader");
    reader.subscribe("end", 0);
    let mut writer = broker.connect("writer");
    let payload = vec![b'x'; 60_000];
    let began = Instant::now();
    // Far more than two socket buffers and the outbound queue can hold.
    for _ in 0..400 {
        writer.send(&publish("flood", &payload));
    }
    writer.send(&publish("end", b""));
    assert_eq!(reader.packet().publish().0, "end");
    broker.wait_for_count("connections_count", 2);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_subscriber_that_reads_late_gets_everything_in_order_and_is_not_closed() {
    let broker = Broker::with(2, |limits, _| {
        limits.outbound_bytes_max = 64 << 20;
        limits.session_queue_bytes_max = 64 << 20;
    });
    let mut late = broker.connect("late");
    late.subscribe("flood", 0);
    let mut writer = broker.connect("writer");
    for n in 0..300_u32 {
        let mut payload = vec![0; 60_000];
        payload[..4].copy_from_slice(&n.to_be_bytes());
        writer.send(&publish("flood", &payload));
    }
    writer.ping();
    for n in 0..300_u32 {
        let (_, payload) = late.packet().publish();
        assert_eq!((&payload[..4], payload.len()), (&n.to_be_bytes()[..], 60_000));
    }
    late.ping();
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn unfinished_packets_beyond_their_bound_end_one_sender_alone() {
    let broker = Broker::with(1, |limits, _| limits.partial_bytes_max = 250_000);
    let packet = publish("partial", &vec![b'x'; 100_000]);
    let (beginning, end) = packet.split_at(90_000);
    let mut clients: Vec<Client> = (0..3).map(|n| broker.connect(&format!("partial-{n}"))).collect();
    for client in &mut clients {
        // The client that is chosen may be closed while it still writes.
        let _ = client.socket.write_all(beginning);
    }
    broker.wait_for_count("connections_count", 2);
    let mut served = 0;
    for client in &mut clients {
        if client.socket.write_all(end).and_then(|()| client.socket.write_all(&[0xC0, 0])).is_ok() {
            served += usize::from(client.next().is_some_and(|packet| packet.first == 0xD0));
        }
    }
    assert_eq!(served, 2);
    // The memory that they used is free again.
    let mut fourth = broker.connect("fourth");
    fourth.send(beginning);
    fourth.send(end);
    fourth.ping();
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn sockets_that_send_much_before_connect_pay_for_it_themselves() {
    let broker = Broker::with(1, |limits, _| {
        limits.connects_pending_bytes_max = 250_000;
        limits.partial_bytes_max = 250_000;
    });
    let packet = publish("partial", &vec![b'x'; 100_000]);
    let (beginning, end) = packet.split_at(90_000);
    let mut known = broker.connect("known");
    known.send(beginning);
    let mut strangers: Vec<Client> = (0..10).map(|_| Client::open(broker.address)).collect();
    for stranger in &mut strangers {
        // The beginning of a CONNECT of 120,000 bytes.
        let _ = stranger.socket.write_all(&[vec![0x10, 0xC0, 0xA9, 0x07], vec![0; 110_000]].concat());
    }
    broker.wait_for_count("connections_evicted", 9);
    known.send(end);
    known.ping();
    assert_eq!(broker.count("connections_count"), 2);
    assert_eq!(broker.drain(), End::Signal(15));
}

/// Sends PINGREQ without end on a thread of its own, until the broker closes.
fn ping_for_ever(client: &Client) -> std::thread::JoinHandle<()> {
    let mut socket = client.socket.try_clone().unwrap();
    std::thread::spawn(move || while socket.write_all(&[0xC0, 0].repeat(30_000)).is_ok() {})
}

#[test]
fn a_client_that_pings_and_never_reads_is_not_read_and_is_closed() {
    let broker = Broker::with(1, |_, shell| shell.write_stall_timeout_ms = 1000);
    let deaf = broker.connect("deaf");
    let pings = ping_for_ever(&deaf);
    let mut bystander = broker.connect("bystander");
    broker.wait_for_count("pauses_outbound", 1);
    bystander.ping();
    broker.wait_for_count("connections_count", 1);
    pings.join().unwrap();
    bystander.ping();
    assert_eq!(broker.drain(), End::Signal(15));
}

/// Checks that a client is closed for reading too slowly: it reads this number of bytes 20 times a
/// second and pings faster.
#[allow(clippy::disallowed_methods, reason = "a client that reads slowly is what is tested")]
fn is_closed_for_reading_slowly(bytes: usize, change: impl Fn(&mut crate::shard::limits::ShellLimits)) {
    let broker = Broker::with(1, |_, shell| {
        shell.write_stall_timeout_ms = 1000;
        change(shell);
    });
    let mut slow = broker.connect("slow");
    let pings = ping_for_ever(&slow);
    broker.wait_for_count("pauses_outbound", 1);
    let began = Instant::now();
    while slow.socket.read(&mut vec![0; bytes]).is_ok_and(|count| count > 0) {
        std::thread::sleep(Duration::from_millis(50));
        assert!(began.elapsed() < PATIENCE, "it is not closed");
        if broker.count("connections_count") == 0 {
            break;
        }
    }
    pings.join().unwrap();
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_client_that_reads_a_little_now_and_then_makes_no_progress() {
    // A kilobyte, 20 times a second: some of it in every stall, but less than 32 KiB in a second.
    is_closed_for_reading_slowly(1000, |_| {});
}

#[test]
fn progress_is_counted_in_bytes() {
    // The socket takes bytes more than once in each interval, but fewer than it must.
    is_closed_for_reading_slowly(64 << 10, |shell| shell.write_stall_bytes_min = 16 << 20);
}

#[test]
fn the_end_of_a_client_is_seen_while_it_is_not_read() {
    // The stall timeout is too long to find it in the time of this test.
    let broker = Broker::with(1, |_, shell| shell.write_stall_timeout_ms = 3_600_000);
    let deaf = broker.connect("deaf");
    let pings = ping_for_ever(&deaf);
    broker.wait_for_count("pauses_outbound", 1);
    deaf.socket.shutdown(std::net::Shutdown::Write).unwrap();
    pings.join().unwrap();
    // The client closes with unread bytes, which resets the connection.
    drop(deaf);
    broker.wait_for_count("connections_count", 0);
    assert_eq!(broker.drain(), End::Signal(15));
}

/// Changes a limit of the whole process, so this test needs a runner with a process for each test.
#[test]
fn without_descriptors_new_connections_are_closed_and_existing_ones_continue() {
    let broker = Broker::with(1, |_, shell| shell.accept_pause_ms = 20);
    let mut first = broker.connect("first");
    // Both ends are in this process, so that the clients get their descriptors before none are
    // left.
    let newcomers: Vec<Socket> =
        (0..20).map(|_| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap()).collect();
    let before = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(open_descriptors() as u64 + 4), maximum: before.maximum };
    setrlimit(Resource::Nofile, few).unwrap();
    for newcomer in &newcomers {
        newcomer.connect(&broker.address.into()).unwrap();
        newcomer.set_nonblocking(true).unwrap();
    }
    first.ping();
    let closed = |newcomer: &&Socket| matches!((&**newcomer).read(&mut [0]), Ok(0));
    wait_for("newcomers to be closed", || (newcomers.iter().filter(closed).count() >= 10).then_some(()));
    first.ping();
    drop(newcomers);
    setrlimit(Resource::Nofile, before).unwrap();
    let mut later = Client::open(broker.address);
    later.send(&connect("later"));
    assert_eq!(later.packet(), super::client::CONNACK, "accepts again by itself");
    first.ping();
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_drain_does_not_wait_longer_than_it_may_for_a_client_that_does_not_read() {
    let broker = Broker::with(2, |_, shell| shell.linger_ms = 600_000);
    let _deaf = broker.connect("deaf");
    let began = Instant::now();
    assert_eq!(broker.shards.drain(15, Duration::from_millis(300), Duration::ZERO, || {}), End::Signal(15));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < PATIENCE, "{took:?}");
}

/// The last work of a drain may take its declared time, in addition to the time of the clients.
#[test]
fn a_drain_waits_for_what_is_done_at_last_as_long_as_that_may_take() {
    for (patience, waits) in [(Duration::ZERO, false), (PATIENCE, true)] {
        let broker = Broker::with(1, |_, _| {});
        let done = Arc::new(AtomicBool::new(false));
        let last = Arc::clone(&done);
        let work = move || {
            // Longer than the minimum time for it.
            let until = Instant::now() + Duration::from_millis(1_500);
            while Instant::now() < until {
                std::thread::park_timeout(Duration::from_millis(100));
            }
            last.store(true, Ordering::Relaxed);
        };
        let end = broker.shards.drain(15, Duration::from_millis(100), patience, work);
        assert_eq!((end, done.load(Ordering::Relaxed)), (End::Signal(15), waits), "{patience:?}");
    }
}

#[test]
fn a_client_that_does_not_close_its_end_is_closed_after_the_linger() {
    let broker = Broker::with(1, |_, shell| shell.linger_ms = 100);
    // Descriptors that the shard opens only once are open after this.
    let _other = broker.connect("other");
    let before = open_descriptors();
    let mut client = broker.connect("lingers");
    client.send(&[0xE0, 0]);
    assert_eq!(client.next(), None, "told that nothing more comes");
    // Our end stays open; the broker closes its end nevertheless.
    wait_for("the broker's end to be closed", || (open_descriptors() <= before + 1).then_some(()));
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_held_shard_delays_only_its_own_clients() {
    let broker = Broker::start(2);
    // Clients by shard: a client's shard is the one whose engine has it.
    let mut by_shard: [Vec<Client>; 2] = [Vec::new(), Vec::new()];
    for n in 0.. {
        let id = format!("held-{n}");
        let client = broker.connect(&id);
        let name = id.clone();
        let there =
            broker.shards.handles()[0].call(PATIENCE, move |shard| shard.client(&name).is_some()).unwrap();
        by_shard[usize::from(!there)].push(client);
        if by_shard.iter().all(|clients| clients.len() >= 2) {
            break;
        }
    }
    let [_, others] = &mut by_shard;
    others[0].subscribe("other", 0);
    let (release, held) = std::sync::mpsc::channel::<()>();
    broker.shards.handles()[0].submit(Box::new(move |_| {
        // As a hook that sleeps: the shard does nothing else until it is released.
        let _ = held.recv_timeout(Duration::from_secs(5));
    }));
    for n in 0..100_u8 {
        others[1].send(&publish("other", &[n]));
        assert_eq!(others[0].packet().publish().1, [n]);
    }
    drop(release);
    by_shard[0][0].ping();
    assert_eq!(broker.drain(), End::Signal(15));
}

/// A blocked shard uses up the time in which clients should go; plugins still have their own time.
#[test]
fn plugins_have_their_own_time_to_end() {
    let broker = Broker::start(1);
    let (release, held) = channel::<()>();
    broker.shards.handles()[0].submit(Box::new(move |_| {
        let _ = held.recv();
    }));
    let ended = Arc::new(AtomicBool::new(false));
    let last = {
        let ended = Arc::clone(&ended);
        move || {
            // Longer than the time in which shards must end.
            std::thread::park_timeout(Duration::from_millis(500));
            ended.store(true, Ordering::Relaxed);
            drop(release);
        }
    };
    // Longer than the minimum time of plugins.
    let end = broker.shards.drain(15, Duration::from_millis(1_100), Duration::ZERO, last);
    assert!(end == End::Signal(15) && ended.load(Ordering::Relaxed));
}

/// A shard that dies while plugins end is the end of the broker, whatever the plugins still do.
#[test]
fn a_shard_that_dies_while_plugins_end_is_seen() {
    let broker = Broker::start(2);
    let handle = broker.shards.handles()[1].clone();
    let (release, held) = channel::<()>();
    let last = move || {
        handle.submit(Box::new(|_| panic!("a hook went wrong")));
        // As a plugin that waits for the shard.
        let _ = held.recv();
    };
    let began = Instant::now();
    let end = broker.shards.drain(15, PATIENCE, PATIENCE, last);
    let cause = "panicked: a hook went wrong".to_owned();
    assert_eq!(end, End::Died { shard: ShardId(1), cause });
    assert!(began.elapsed() < PATIENCE, "the others are not waited for");
    drop(release);
}
