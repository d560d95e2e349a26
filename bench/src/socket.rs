//! Opens the sockets of a load's connections without blocking. Called by the loop for each
//! connection.

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Begins to connect; the stream becomes writable when the result is known.
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

/// Text for a failed connect, with a remedy if the cause is on this machine.
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
