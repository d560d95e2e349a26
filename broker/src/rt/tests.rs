//! What both drivers promise, each on real sockets.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Instant;

use super::*;

const BOTH: [Io; 2] = [Io::IoUring, Io::Epoll];
const PATIENCE: Duration = Duration::from_secs(20);

struct Bed {
    driver: Driver,
    wakeup: Arc<Wakeup>,
}

impl Bed {
    fn new(io: Io) -> Bed {
        let wakeup = Arc::new(Wakeup::new().unwrap());
        let sizes = BufferSizes { read: 65536, turn: 262_144 };
        Bed { driver: Driver::new(io, sizes, Arc::clone(&wakeup)).unwrap(), wakeup }
    }

    /// The next event, which must come.
    fn event(&mut self) -> Event {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.driver.next_event() {
                return event;
            }
            assert!(Instant::now() < until, "no event came");
            self.driver.wait(Some(Duration::from_millis(100))).unwrap();
        }
    }

    /// Nothing happens, although the driver has been asked several times.
    fn nothing(&mut self) {
        for _ in 0..5 {
            self.driver.wait(Some(Duration::from_millis(2))).unwrap();
            let event = self.driver.next_event();
            assert!(event.is_none(), "{event:?}");
        }
    }

    /// Receives this number of bytes of one socket.
    fn receive(&mut self, id: SocketId, how: Reading, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            self.driver.read(id, how);
            match self.event() {
                Event::Received { owner: 7, chunk } => {
                    bytes.extend_from_slice(self.driver.bytes(&chunk));
                    self.driver.give_back(chunk);
                }
                other => panic!("{other:?} after {} bytes", bytes.len()),
            }
        }
        bytes
    }
}

fn pair() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    (client, server.into())
}

fn numbers(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn bytes_are_received_in_order_however_many_there_are() {
    for io in BOTH {
        for how in [Reading::Once, Reading::Stream] {
            let mut bed = Bed::new(io);
            let (mut client, server) = pair();
            let id = bed.driver.add(server, 7);
            let sent = numbers(3_000_000);
            let expected = sent.clone();
            let writer = std::thread::spawn(move || {
                client.write_all(&sent).unwrap();
                client
            });
            assert!(bed.receive(id, how, expected.len()) == expected, "{io:?} {how:?}");
            drop(writer.join().unwrap());
            bed.driver.read(id, how);
            assert!(matches!(bed.event(), Event::Ended { owner: 7 }), "{io:?} {how:?}");
        }
    }
}

#[test]
fn a_socket_that_is_not_read_reports_nothing_but_its_end() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let (mut client, server) = pair();
        let id = bed.driver.add(server, 7);
        client.write_all(b"early").unwrap();
        bed.nothing();
        bed.driver.pause(id);
        bed.nothing();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(matches!(bed.event(), Event::Closed { owner: 7, broken: false }), "{io:?}");
        bed.nothing();
        assert_eq!(bed.receive(id, Reading::Stream, 5), b"early", "{io:?}");
        assert!(matches!(bed.event(), Event::Ended { owner: 7 }), "{io:?}");
    }
}

#[test]
fn each_pause_reports_the_end_once() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let (client, server) = pair();
        let id = bed.driver.add(server, 7);
        client.shutdown(Shutdown::Write).unwrap();
        for _ in 0..3 {
            bed.driver.pause(id);
            assert!(matches!(bed.event(), Event::Closed { owner: 7, broken: false }), "{io:?}");
            bed.nothing();
        }
    }
}

#[test]
fn a_reset_of_a_socket_that_is_not_read_is_reported_as_broken() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let (client, server) = pair();
        rustix::net::send(&server, b"never read", rustix::net::SendFlags::empty()).unwrap();
        let id = bed.driver.add(server, 7);
        bed.driver.pause(id);
        bed.nothing();
        // Closing a socket with unread bytes resets the connection.
        drop(client);
        assert!(matches!(bed.event(), Event::Closed { owner: 7, broken: true }), "{io:?}");
    }
}

#[test]
fn nothing_is_lost_of_what_comes_around_pauses() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let (mut client, server) = pair();
        let id = bed.driver.add(server, 7);
        let sent = numbers(1_000_000);
        let expected = sent.clone();
        let writer = std::thread::spawn(move || {
            for piece in sent.chunks(10_000) {
                client.write_all(piece).unwrap();
            }
            client
        });
        let mut bytes = Vec::new();
        let mut round = 0;
        while bytes.len() < expected.len() {
            bed.driver.read(id, Reading::Stream);
            match bed.event() {
                Event::Received { owner: 7, chunk } => {
                    bytes.extend_from_slice(bed.driver.bytes(&chunk));
                    bed.driver.give_back(chunk);
                }
                other => panic!("{other:?}"),
            }
            round += 1;
            if round % 3 == 0 {
                bed.driver.pause(id);
            }
        }
        assert!(bytes == expected, "{io:?}");
        drop(writer.join().unwrap());
    }
}

#[test]
fn room_in_a_full_socket_is_reported_once() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let (mut client, server) = pair();
        let id = bed.driver.add(server, 7);
        bed.driver.read(id, Reading::Stream);
        let mut sent = 0;
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        while let Ok(count) = rustix::net::send(bed.driver.fd(id), &[1; 65536], flags) {
            sent += count;
        }
        bed.driver.want_room(id);
        bed.nothing();
        let mut taken = vec![0; sent];
        client.read_exact(&mut taken).unwrap();
        assert!(matches!(bed.event(), Event::Room { owner: 7 }), "{io:?}");
        bed.nothing();
        client.write_all(b"still read").unwrap();
        assert_eq!(bed.receive(id, Reading::Stream, 10), b"still read");
    }
}

#[test]
fn a_socket_that_is_read_once_is_released_at_once() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let (mut client, server) = pair();
        let id = bed.driver.add(server, 7);
        client.write_all(b"first").unwrap();
        assert_eq!(bed.receive(id, Reading::Once, 5), b"first");
        let Release::Now(socket) = bed.driver.release(id) else { panic!("{io:?} is not released at once") };
        client.write_all(b"second").unwrap();
        let mut bytes = [0; 6];
        let mut socket = TcpStream::from(socket);
        socket.set_nonblocking(false).unwrap();
        socket.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"second");
    }
}

#[test]
fn a_socket_is_released_in_the_middle_of_a_stream_with_every_byte() {
    for io in BOTH {
        for _ in 0..20 {
            let mut bed = Bed::new(io);
            let (mut client, server) = pair();
            let id = bed.driver.add(server, 7);
            let sent = numbers(300_000);
            let expected = sent.clone();
            let writer = std::thread::spawn(move || client.write_all(&sent).unwrap());
            let mut bytes = bed.receive(id, Reading::Stream, 20_000);
            bed.driver.want_room(id);
            let socket = match bed.driver.release(id) {
                Release::Now(socket) => socket,
                Release::Later => loop {
                    match bed.event() {
                        Event::Received { owner: 7, chunk } => {
                            bytes.extend_from_slice(bed.driver.bytes(&chunk));
                            bed.driver.give_back(chunk);
                        }
                        Event::Room { owner: 7 } => {}
                        Event::Released { owner: 7, socket } => break socket,
                        other => panic!("{other:?}"),
                    }
                },
            };
            let mut socket = TcpStream::from(socket);
            socket.set_nonblocking(false).unwrap();
            socket.read_to_end(&mut bytes).unwrap();
            assert!(bytes == expected, "{io:?}");
            writer.join().unwrap();
        }
    }
}

#[test]
fn a_removed_socket_is_closed_and_never_reported_again() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let before = open_descriptors();
        for round in 0..50_usize {
            let (mut client, server) = pair();
            let id = bed.driver.add(server, round);
            bed.driver.read(id, Reading::Stream);
            if round % 2 == 0 {
                client.write_all(b"in flight").unwrap();
                bed.driver.wait(Some(Duration::ZERO)).unwrap();
            }
            if round % 3 == 0 {
                bed.driver.pause(id);
                bed.driver.want_room(id);
            }
            bed.driver.remove(id);
            // Its place may be taken by the next socket at once.
            let (_other, another) = pair();
            let next = bed.driver.add(another, 1000 + round);
            bed.driver.read(next, Reading::Stream);
            bed.nothing();
            // A connection with unread bytes is reset.
            match client.read(&mut [0]) {
                Ok(0) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                other => panic!("{io:?}: {other:?}"),
            }
            bed.driver.remove(next);
            bed.nothing();
        }
        assert_eq!(open_descriptors(), before, "{io:?}");
    }
}

#[test]
fn a_listener_reports_connections_until_it_is_closed() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        bed.driver.listen(listener.into(), 3);
        let before = open_descriptors();
        for _ in 0..50 {
            let client = TcpStream::connect(address).unwrap();
            assert!(matches!(bed.event(), Event::Waiting { listener: 3 }), "{io:?}");
            drop(rustix::net::accept(bed.driver.listener(3).unwrap()).unwrap());
            drop(client);
        }
        assert_eq!(open_descriptors(), before, "{io:?}");
        bed.driver.unlisten(3);
        assert!(bed.driver.listener(3).is_none());
        bed.nothing();
        assert!(TcpStream::connect(address).is_err(), "{io:?} has closed it");
        assert_eq!(open_descriptors(), before - 1, "{io:?}");
    }
}

#[test]
fn a_wait_ends_with_a_ring_from_another_thread_and_not_without_one() {
    // On threads of their own: closing a ring interrupts later waits of its thread once.
    for io in BOTH {
        std::thread::spawn(move || a_wait_ends_with_a_ring(io)).join().unwrap();
    }
}

fn a_wait_ends_with_a_ring(io: Io) {
    {
        let mut bed = Bed::new(io);
        for _ in 0..50 {
            bed.wakeup.begin_wait();
            let wakeup = Arc::clone(&bed.wakeup);
            let ringer = std::thread::spawn(move || wakeup.ring());
            bed.driver.wait(Some(PATIENCE)).unwrap();
            bed.wakeup.end_wait();
            ringer.join().unwrap();
        }
        // Nobody waits: the ring costs nothing and ends no later wait.
        bed.wakeup.ring();
        let began = Instant::now();
        bed.driver.wait(Some(Duration::from_millis(30))).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(30), "{io:?}");
    }
}

#[test]
fn many_sockets_share_the_buffers_and_none_starves() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let mut clients = Vec::new();
        for owner in 0..200 {
            let (mut client, server) = pair();
            let id = bed.driver.add(server, owner);
            bed.driver.read(id, Reading::Stream);
            client.write_all(&[owner as u8; 20_000]).unwrap();
            clients.push((client, 0));
        }
        while clients.iter().any(|(_, count)| *count < 20_000) {
            let Event::Received { owner, chunk } = bed.event() else { panic!("{io:?}") };
            let bytes = bed.driver.bytes(&chunk);
            assert!(bytes.iter().all(|byte| *byte == owner as u8), "{io:?}");
            clients[owner].1 += bytes.len();
            bed.driver.give_back(chunk);
        }
    }
}

/// Receives that a ring makes for so many sockets, of which every second has bytes at once and the
/// others when all those have been received.
fn receives_made(sockets: usize) -> usize {
    let mut bed = Bed::new(Io::IoUring);
    let mut clients = Vec::new();
    for owner in 0..sockets {
        let (mut client, server) = pair();
        let id = bed.driver.add(server, owner);
        bed.driver.read(id, Reading::Once);
        if owner % 2 == 0 {
            client.write_all(b"first").unwrap();
        }
        clients.push(client);
    }
    for odd in [0, 1] {
        for _ in 0..sockets / 2 {
            let Event::Received { owner, chunk } = bed.event() else { panic!("another event") };
            assert_eq!(owner % 2, odd);
            bed.driver.give_back(chunk);
        }
        let later = clients.iter_mut().skip(1).step_by(2).filter(|_| odd == 0);
        later.for_each(|client| client.write_all(b"later").unwrap());
    }
    let Driver::Ring(ring) = &bed.driver else { panic!("another driver") };
    ring.receives_made
}

#[test]
fn sockets_that_wait_for_a_buffer_cost_no_more_the_more_they_are() {
    let (few, many) = (receives_made(600), receives_made(1200));
    assert!(few <= 3 * 600, "{few} receives for 600 sockets");
    assert!(many <= 2 * few + 64, "{few} receives for 600 sockets, {many} for 1,200");
}

#[test]
fn sends_on_many_sockets_come_each_to_its_own_end() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let mut clients = Vec::new();
        let mut ids = Vec::new();
        for owner in 0..300 {
            let (client, server) = pair();
            ids.push(bed.driver.add(server, owner));
            clients.push(client);
        }
        let payloads: Vec<Vec<u8>> = (0..300).map(|n| vec![n as u8; 1 + n]).collect();
        for count in [1, 3, 4, 300] {
            let mut sends: Vec<Send<'_>> = ids[..count]
                .iter()
                .zip(&payloads)
                .map(|(&socket, bytes)| Send { socket, bytes, sent: Sent::Full })
                .collect();
            bed.driver.send_all(&mut sends);
            for (n, send) in sends.iter().enumerate() {
                assert_eq!(send.sent, Sent::Bytes(1 + n), "{io:?}");
                let mut received = vec![0; 1 + n];
                clients[n].read_exact(&mut received).unwrap();
                assert_eq!(received, payloads[n], "{io:?}");
            }
        }
    }
}

#[test]
fn a_full_socket_and_a_broken_one_among_many_are_told_apart() {
    for io in BOTH {
        let mut bed = Bed::new(io);
        let pairs: Vec<(TcpStream, OwnedFd)> = (0..8).map(|_| pair()).collect();
        let (mut clients, mut ids) = (Vec::new(), Vec::new());
        for (owner, (client, server)) in pairs.into_iter().enumerate() {
            clients.push(client);
            ids.push(bed.driver.add(server, owner));
        }
        while let Sent::Bytes(_) = net::send_bytes(bed.driver.fd(ids[2]), &[0; 65536]) {}
        clients.remove(5);
        // The reset of a closed peer comes with the answer to the first bytes.
        let broken = ids[5];
        let until = Instant::now() + PATIENCE;
        while net::send_bytes(bed.driver.fd(broken), b"x") != Sent::Closed {
            assert!(Instant::now() < until, "no reset came");
            std::thread::yield_now();
        }
        let mut sends: Vec<Send<'_>> =
            ids.iter().map(|&socket| Send { socket, bytes: b"payload", sent: Sent::Closed }).collect();
        bed.driver.send_all(&mut sends);
        for (n, send) in sends.iter().enumerate() {
            let expected = match n {
                2 => Sent::Full,
                5 => Sent::Closed,
                _ => Sent::Bytes(7),
            };
            assert_eq!(send.sent, expected, "{io:?}, socket {n}");
        }
    }
}
