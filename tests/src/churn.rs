//! Thousands of clients that connect and disconnect, each with its own connection, in every way in
//! which a client can disconnect. Used by the leak tests; it never makes more connections per
//! second than configured.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use crate::transport::Listener;
use crate::wire::{Decoded, Packet, decode};
use crate::{Broker, Socket, Version, pause};

/// How a client disconnects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// With a reset, before its CONNECT is complete.
    ResetWithinConnect,
    /// With a reset, as soon as it has sent everything.
    ResetUnread,
    /// With a reset, when all answers have arrived.
    Reset,
    /// With DISCONNECT; it closes at once.
    Disconnect,
    /// With DISCONNECT; it waits for the broker to close.
    DisconnectAndWait,
}

/// The actions of one client.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Version of the protocol.
    pub version: Version,
    /// CONNECT, and the packets sent directly after it.
    pub bytes: Vec<u8>,
    /// Number of packets that answer that.
    pub answers: usize,
    /// How it disconnects.
    pub leave: Leave,
}

/// Connections that are open at a time, of each thread.
const BATCH: u32 = 50;
const THREADS: u32 = 2;
/// Source addresses 127.0.0.2 to 127.0.0.9, so that ports do not run out.
const SOURCES: u32 = 8;

/// Makes these visits as `plan` returns for each number, at most `per_second` a second.
///
/// # Panics
/// If a client does not receive the expected answers.
pub fn visit(broker: &Broker, visits: Range<u32>, per_second: u32, plan: impl Fn(u32) -> Visit + Sync) {
    let begun = Instant::now();
    let next = AtomicU32::new(visits.start);
    let worker = || {
        loop {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= visits.end {
                return;
            }
            let due = Duration::from_secs_f64(f64::from(first - visits.start) / f64::from(per_second));
            pause(due.saturating_sub(begun.elapsed()));
            batch(broker.listener(), first..visits.end.min(first + BATCH), &plan);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// All connect, then all read their answers, then all disconnect.
fn batch(listener: &Listener, visits: Range<u32>, plan: &impl Fn(u32) -> Visit) {
    let mut visitors: Vec<(Visit, Socket)> = Vec::with_capacity(BATCH as usize);
    for number in visits {
        let visit = plan(number);
        let source = Ipv4Addr::new(127, 0, 0, (2 + number % SOURCES) as u8);
        let mut stream = listener.connect(source);
        let sent = match visit.leave {
            Leave::ResetWithinConnect => &visit.bytes[..8],
            _ => &visit.bytes[..],
        };
        stream.write_all(sent).expect("a new connection takes a packet");
        visitors.push((visit, stream));
    }
    for (visit, stream) in &mut visitors {
        if !matches!(visit.leave, Leave::ResetWithinConnect | Leave::ResetUnread) {
            read_answers(visit, stream);
        }
    }
    visitors.into_iter().for_each(|(visit, stream)| leave(visit.leave, stream));
}

fn read_answers(visit: &Visit, stream: &mut Socket) {
    let mut buffer = Vec::new();
    let (mut used, mut answers) = (0, 0);
    while answers < visit.answers {
        match decode(visit.version, &buffer[used..]).expect("the broker sends what it may") {
            Decoded::Packet(packet, length) => {
                if let Packet::Connack { code, .. } = packet {
                    assert_eq!(code, 0, "CONNACK to {visit:?}");
                }
                used += length;
                answers += 1;
            }
            Decoded::More => {
                let mut chunk = [0; 1024];
                let read = stream.read(&mut chunk).expect("the broker answers");
                assert!(read > 0, "the broker closed after {answers} answers to {visit:?}");
                buffer.extend_from_slice(&chunk[..read]);
            }
        }
    }
}

fn leave(how: Leave, mut stream: Socket) {
    match how {
        Leave::ResetWithinConnect | Leave::ResetUnread | Leave::Reset => {
            set_socket_linger(stream.stream(), Some(Duration::ZERO)).expect("an open socket takes options");
        }
        Leave::Disconnect => stream.write_all(&[0xE0, 0]).expect("the broker reads"),
        Leave::DisconnectAndWait => {
            stream.write_all(&[0xE0, 0]).expect("the broker reads");
            let read = stream.read(&mut [0]).expect("the broker closes");
            assert_eq!(read, 0, "the broker has something to say after DISCONNECT, [MQTT-3.14.4-1]");
        }
    }
}
