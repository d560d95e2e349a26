//! Floods a broker: with endless bytes, on sockets that need not read, or with an action at a
//! steady rate. Used by the tests of memory and the load tests.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Broker, Connect, Socket, Version, pause};

/// A connected MQTT 3.1.1 client, as a socket whose CONNACK has been read.
///
/// # Panics
/// If it is refused.
#[track_caller]
pub fn known(broker: &Broker, client_id: &str) -> Socket {
    let mut socket = broker.connect();
    socket.write_all(&Connect::new(Version::V311, client_id).encode()).expect("it takes a CONNECT");
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).expect("it answers");
    assert_eq!(connack, [0x20, 2, 0, 0], "CONNACK");
    socket
}

/// Sends the same bytes repeatedly until so many have left, the broker closes, or the time is over.
/// Returns the number of sent bytes.
///
/// # Panics
/// Never: every socket supports the timeout.
pub fn pour(socket: &mut Socket, bytes: &[u8], total: usize, until: Instant) -> usize {
    socket.stream().set_write_timeout(Some(Duration::from_millis(200))).expect("not a zero timeout");
    let mut sent = 0;
    while sent < total && Instant::now() < until {
        match socket.write(bytes) {
            Ok(count) => sent += count,
            // A socket that accepts nothing for the timeout is tried again; any other error ends
            // it.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    sent
}

/// Runs an action so many times, once in every interval; a late one runs at once.
pub fn paced(every: Duration, times: u32, mut each: impl FnMut(u32)) {
    let begun = Instant::now();
    for number in 0..times {
        pause((begun + every * number).saturating_duration_since(Instant::now()));
        each(number);
    }
}

/// Raises the limit of open files of this process, and of the brokers it starts.
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
