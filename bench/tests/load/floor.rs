//! Tests of the baseline relay with real sockets and clients, and for cases that the relay's own
//! tests cannot show: slow, ended or hostile connections, signals, and exhausted descriptors.

use super::once_and_in_order;
use super::relay::{Client, Floor, packet, publish, text};
use super::tool::{Tool, expect_counts, run};
use rustix::process::Signal;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MIB: usize = 1024 * 1024;

#[test]
fn sigint_and_sigterm_end_it_with_0_and_its_counts() {
    for signal in [Signal::INT, Signal::TERM] {
        let floor = Floor::start();
        let (mut publisher, mut subscriber) = (floor.client(), floor.subscriber("t", 0));
        publisher.send(&publish(0, 0, "t", b"p"));
        subscriber.expect(&publish(0, 0, "t", b"p"));
        let ended = floor.end(signal);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stdout.starts_with("4 packets in "), "{}", ended.stdout);
        subscriber.expect_end(&[]);
    }
}

#[test]
fn an_address_in_use_is_reported() {
    let floor = Floor::start();
    let ended = Tool::spawn(["floor", "--listen", &floor.addr.to_string()]).end();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("choose another with --listen"), "{}", ended.stderr);
}

#[test]
fn a_load_of_every_version_and_qos_arrives_once_and_in_order() {
    let floor = Floor::start();
    for version in 3..=5 {
        for qos in 0..=2 {
            let load = format!("-V {version} -q {qos} -i 0 -t all --payload-hdrs cnt");
            let sub = Tool::start(floor.addr, &format!("sub {load} -c 7 -L 14000")).ready();
            run(floor.addr, &format!("pub {load} -c 4 -I 0 -w 50 -L 2000")).succeeded();
            expect_counts(&sub.end().succeeded(), &load, &once_and_in_order(14_000));
        }
    }
}

#[test]
fn mosquitto_clients_work_with_it() {
    let floor = Floor::start();
    let port = floor.addr.port().to_string();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            // With -d it prints when it is subscribed, if its output is not buffered.
            let mut sub = Command::new("stdbuf")
                .args(["-oL", "mosquitto_sub", "-p", &port, "-V", version, "-q", qos])
                .args(["-t", "a/+", "-C", "1", "-W", "20", "-d", "-v"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut text = String::new();
            let mut stdout = sub.stdout.take().unwrap();
            let mut chunk = [0; 256];
            while !text.contains("Subscribed (mid") {
                let read = stdout.read(&mut chunk).unwrap();
                assert!(read > 0, "mosquitto_sub, which scripts/test installs, has ended: {text}");
                text += &String::from_utf8_lossy(&chunk[..read]);
            }
            let sent = Command::new("mosquitto_pub")
                .args(["-p", &port, "-V", version, "-q", qos, "-t", "a/b", "-m", "hello"])
                .status()
                .unwrap();
            assert!(sent.success(), "{version} QoS {qos}");
            stdout.read_to_string(&mut text).unwrap();
            assert!(sub.wait().unwrap().success(), "{version} QoS {qos}: {text}");
            assert!(text.contains(&format!("received PUBLISH (d0, q{qos}, r0")), "{text}");
            assert!(text.contains("a/b hello\n"), "{text}");
        }
    }
}

#[test]
fn garbage_closes_the_connection_it_came_on_and_no_other() {
    let floor = Floor::start();
    let mut observer = floor.subscriber("t", 0);
    // Before CONNECT, after it, and after a message that is still delivered.
    let mut early = floor.socket();
    early.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    early.expect_end(&[]);
    let mut late = floor.client();
    late.send(&[publish(0, 0, "t", b"last words"), vec![0xF7; 100_000]].concat());
    late.expect_end(&[]);
    let mut other = floor.socket();
    other.send(b"\x10\x0D\0\x04MQTT\x07\x02\0\0\0\x01c");
    other.expect_end(&[0x20, 2, 0, 1]);
    observer.expect(&publish(0, 0, "t", b"last words"));
    observer.expect_nothing();
    let ended = floor.end(Signal::TERM);
    assert_eq!(ended.stderr.matches("grapnel-bench: closed 127.0.0.1:").count(), 3, "{}", ended.stderr);
}

#[test]
fn a_message_larger_than_the_read_buffer_arrives_whole() {
    let floor = Floor::start();
    let mut subscriber = floor.subscriber("t", 1);
    let mut publisher = floor.client();
    for size in [60_000, 65_536, 200_000, 10 * MIB] {
        let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let id = u16::try_from(size % 60_000 + 1).unwrap();
        publisher.send(&publish(1, id, "t", &payload));
        // Before and after it, to check that the next packet is found correctly.
        publisher.send(&publish(0, 0, "t", b"small"));
        publisher.expect(&packet(0x40, &[&id.to_be_bytes()]));
        let head = 1 + if size > 2 * MIB { 4 } else { 3 } + 3;
        let got = subscriber.take(head + 2 + size);
        assert!(got[head + 2..] == payload, "{size} bytes");
        subscriber.send(&packet(0x40, &[&got[head..head + 2]]));
        subscriber.expect(&publish(0, 0, "t", b"small"));
    }
}

/// Eight mebibytes in messages of 1 KiB each.
fn eight_mib() -> Vec<u8> {
    publish(0, 0, "slow", &[b'x'; 1015]).repeat(8 * 1024)
}

#[test]
fn a_subscriber_that_does_not_read_stops_publishers_and_loses_nothing() {
    let floor = Floor::start();
    let mut slow = floor.subscriber("slow", 0);
    let mut publisher = floor.client();
    let batch = eight_mib();
    let (whole, rest) = publisher.send_until_blocked(&batch, 64);
    // 64 MiB, twice that while a buffer grows, and some for the process itself.
    assert!(floor.memory_max() < 160 * MIB as u64, "{} bytes", floor.memory_max());
    // Clients that do not publish are served meanwhile.
    let mut other = floor.subscriber("other", 0);
    other.expect_nothing();

    let reader = std::thread::spawn(move || {
        for batch_number in 0..=whole {
            assert!(slow.take(batch.len()) == batch, "batch {batch_number}");
        }
        slow.expect_nothing();
    });
    publisher.send(&rest);
    reader.join().unwrap();
    publisher.send(&publish(0, 0, "other", b"p"));
    other.expect(&publish(0, 0, "other", b"p"));
}

#[test]
fn publishers_continue_after_a_subscriber_that_does_not_read_has_left() {
    let floor = Floor::start();
    let slow = floor.subscriber("slow", 0);
    let mut publisher = floor.client();
    let (_, rest) = publisher.send_until_blocked(&eight_mib(), 64);
    drop(slow);
    let mut other = floor.subscriber("other", 0);
    publisher.send(&rest);
    publisher.send(&publish(0, 0, "other", b"p"));
    other.expect(&publish(0, 0, "other", b"p"));
}

/// A subscriber to `t` with MQTT 5, QoS 1 and a Receive Maximum of 1.
fn one_at_a_time(floor: &Floor) -> Client {
    let mut client = floor.socket();
    client.send(b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\x01\0\x01c");
    client.take(21);
    client.send(&packet(0x82, &[&[0, 9, 0], &text("t"), &[1]]));
    client.expect(&[0x90, 4, 0, 9, 0, 1]);
    client
}

#[test]
fn a_subscriber_that_does_not_acknowledge_stops_publishers_and_loses_nothing() {
    let floor = Floor::start();
    let mut slow = one_at_a_time(&floor);
    let payload = vec![b'x'; MIB];
    let mut publisher = floor.client();
    // A publisher without QoS 1 would leave no identifier for the delivery; its PUBACKs are few.
    let (whole, rest) = publisher.send_until_blocked(&publish(1, 7, "t", &payload), 512);
    assert!(floor.memory_max() < 300 * MIB as u64, "{} bytes", floor.memory_max());
    let reader = std::thread::spawn(move || {
        for number in 0..=whole {
            let got = slow.take(1 + 3 + 3 + 2 + 1 + MIB);
            let id = u16::try_from(number + 1).unwrap().to_be_bytes();
            assert_eq!(got[7..9], id, "the identifier of message {number}");
            slow.send(&packet(0x40, &[&id]));
        }
        slow.expect_nothing();
    });
    publisher.send(&rest);
    reader.join().unwrap();
    publisher.expect(&[0x40, 2, 0, 7].repeat(whole + 1));
}

#[test]
fn a_client_that_publishes_to_itself_without_acknowledging_is_closed() {
    let floor = Floor::start();
    let mut selfish = one_at_a_time(&floor);
    // One KiB each, so that the delivered one and the PUBACKs fit the socket; 256 MiB if all were
    // sent.
    let batch = packet(0x32, &[&text("t"), &[0, 7, 0], &[b'x'; 1015]]).repeat(1024);
    let refused = (0..256).find_map(|_| std::io::Write::write_all(&mut selfish.stream, &batch).err());
    assert!(refused.is_some_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    assert!(floor.memory_max() < 400 * MIB as u64, "{} bytes", floor.memory_max());
    let stderr = floor.end(Signal::TERM).stderr;
    assert!(stderr.contains("more than it acknowledges"), "{stderr}");
}

#[test]
fn a_client_that_sends_requests_without_reading_is_not_read() {
    let floor = Floor::start();
    let mut asking = floor.client();
    let pings = [0xC0, 0].repeat(MIB);
    let (whole, rest) = asking.send_until_blocked(&pings, 64);
    assert!(floor.memory_max() < 32 * MIB as u64, "{} bytes", floor.memory_max());
    let mut writing = asking.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut writing, &rest).unwrap());
    for _ in 0..=whole {
        assert!(asking.take(2 * MIB) == [0xD0, 0].repeat(MIB));
    }
    writer.join().unwrap();
}

#[test]
fn without_descriptors_left_it_waits_for_connections_to_close() {
    let floor = Floor::start_with_descriptors(48);
    let sockets: Vec<_> = (0..60).map(|_| floor.socket()).collect();
    let mut first = sockets.into_iter().next().unwrap();
    first.send(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c");
    first.expect(&[0x20, 2, 0, 0]);
    // The client never waits in vain, so only a closed connection can make the relay accept again.
    // All other connections, accepted or not, have closed by now.
    let enough = Arc::new(AtomicBool::new(false));
    let busy = std::thread::spawn({
        let enough = Arc::clone(&enough);
        move || {
            while !enough.load(Ordering::Relaxed) {
                first.expect_nothing();
            }
        }
    });
    let mut more: Vec<_> = (0..20).map(|_| floor.client()).collect();
    more.iter_mut().for_each(Client::expect_nothing);
    enough.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    assert_eq!(floor.end(Signal::TERM).code, Some(0));
}
