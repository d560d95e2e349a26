//! Floods a broker: bytes without end, on sockets that need not read, or an action at a steady
//! pace. Used by the tests of memory and the load tests.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Broker, Connect, Version, pause};

/// A socket that is in, with MQTT 3.1.1, and whose CONNACK has been read.
///
/// # Panics
/// If it is not let in.
#[track_caller]
pub fn known(broker: &Broker, client_id: &str) -> TcpStream {
    let mut socket = TcpStream::connect(broker.address()).expect("the broker accepts connections");
    socket.write_all(&Connect::new(Version::V311, client_id).encode()).expect("it takes a CONNECT");
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).expect("it answers");
    assert_eq!(connack, [0x20, 2, 0, 0], "CONNACK");
    socket
}

/// Sends the same bytes again and again until so many have left, the broker closes, or the time is over; what left.
///
/// # Panics
/// Never: every socket takes the timeout.
pub fn pour(mut socket: &TcpStream, bytes: &[u8], total: usize, until: Instant) -> usize {
    socket.set_write_timeout(Some(Duration::from_millis(200))).expect("not a zero timeout");
    let mut sent = 0;
    while sent < total && Instant::now() < until {
        match socket.write(bytes) {
            Ok(count) => sent += count,
            // A socket that takes nothing for the timeout is tried again; any other error is its end.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    sent
}

/// Does something so many times, once in every interval; what is late is done at once.
pub fn paced(every: Duration, times: u32, mut each: impl FnMut(u32)) {
    let begun = Instant::now();
    for number in 0..times {
        pause((begun + every * number).saturating_duration_since(Instant::now()));
        each(number);
    }
}

/// Lets this process, and the brokers it starts, open so many files.
///
/// # Panics
/// If the system does not allow as many.
#[track_caller]
pub fn allow_open_files(files: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < files) {
        let enough = maximum.is_none_or(|maximum| maximum >= files);
        assert!(enough, "{maximum:?} files may be open and {files} are needed; raise ulimit -Hn");
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        raised.expect("a process may raise its limit up to the maximum");
    }
}
