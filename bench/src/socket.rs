//! Sockets of the load's connections: opening them without blocking, and room for them among the process's
//! file descriptors. Called by the poll loop.

use anyhow::{Result, ensure};
use mio::net::TcpStream;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Descriptors that are not connections: standard streams, epoll, and what libraries open.
const OTHER_DESCRIPTORS: u64 = 32;

/// Begins to connect; the outcome shows when the stream becomes writable.
pub fn connect(broker: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(broker), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    match socket.connect(&SockAddr::from(broker)) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// What a failed connect means, with a remedy where the cause is on this side.
pub fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "no free local port or no such local address; give more addresses with --ifaddr, or fewer clients"
                .to_owned()
        }
        io::ErrorKind::ConnectionRefused => "connection refused; nobody listens there".to_owned(),
        _ => error.to_string(),
    }
}

/// Raises the soft limit of open files to the hard one, for this process and those it starts.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || (limit.maximum.is_none() && limit.current.is_some()) {
        // A refusal shows where the descriptors are needed.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Raises the limit of open files as far as it goes, and checks that `count` connections fit.
pub fn reserve_descriptors(count: u32) -> Result<()> {
    raise_descriptor_limit();
    let needed = u64::from(count) + OTHER_DESCRIPTORS;
    let held = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        needed <= held,
        "{count} clients need {needed} open files, and the limit is {held}: raise it (ulimit -Hn), or run fewer"
    );
    Ok(())
}
