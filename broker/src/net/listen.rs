//! Listeners: one port with a socket for each shard, so that the kernel spreads new connections.
//! Bound by `program` before anything else starts; each shard's acceptor accepts from its socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grapnel_engine::shard::{ListenerInfo, Peer};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// A listener as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port; port 0 takes any free one.
    pub bind: SocketAddr,
    /// Its name and who may come in.
    pub info: Arc<ListenerInfo>,
}

/// A listener with its sockets, which already take connections into their backlog.
#[derive(Debug)]
pub struct Bound {
    /// Name and who may come in.
    pub info: Arc<ListenerInfo>,
    /// Address with the port it really has.
    pub local: SocketAddr,
    /// A socket for each shard.
    sockets: Vec<Socket>,
}

impl Bound {
    /// The socket of each shard, in the order of their numbers.
    pub fn into_shares(self) -> impl Iterator<Item = Listening> {
        let Bound { info, local, sockets } = self;
        sockets.into_iter().map(move |socket| Listening {
            info: Arc::clone(&info),
            local,
            socket: socket.into(),
        })
    }
}

/// One shard's share of a listener.
#[derive(Debug)]
pub struct Listening {
    /// Name and who may come in.
    pub(crate) info: Arc<ListenerInfo>,
    /// What it is bound to; the address may be the unspecified one.
    pub(crate) local: SocketAddr,
    /// Does not block.
    pub(crate) socket: OwnedFd,
}

/// Why a listener is not there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {bind}: {}", reason(.cause, *.bind))]
pub struct ListenError {
    /// What was to be bound.
    pub bind: SocketAddr,
    /// What the kernel said.
    #[source]
    pub cause: io::Error,
}

impl ListenError {
    /// Whether somebody has the address, which may be a process that has just died.
    pub fn is_in_use(&self) -> bool {
        self.cause.kind() == io::ErrorKind::AddrInUse
    }
}

fn reason(cause: &io::Error, bind: SocketAddr) -> String {
    match cause.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => "address in use; another broker? choose another with --listen".to_owned(),
        Some(Errno::ACCESS) if bind.port() < 1024 => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, or choose another with --listen"
                .to_owned()
        }
        Some(Errno::ADDRNOTAVAIL) => {
            "this machine has no such address; see `ip address`, or listen on 0.0.0.0 or [::] for all of them"
                .to_owned()
        }
        Some(Errno::AFNOSUPPORT) => {
            "this machine has no IPv6; choose an IPv4 address with --listen".to_owned()
        }
        _ => cause.to_string(),
    }
}

/// Binds a listener once for each shard and lets the kernel collect connections up to `backlog` each.
///
/// The first socket is bound and listens alone, so that a port somebody else has, another broker of ours too, is refused; it
/// shares the port only from then on, and the others join.
///
/// # Errors
/// [`ListenError`] with what to do; nothing stays bound.
pub fn bind(listen: &Listen, shards: usize, backlog: u64) -> Result<Bound, ListenError> {
    let failed = |cause| ListenError { bind: listen.bind, cause };
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let first = socket_for(listen.bind).map_err(failed)?;
    first.bind(&listen.bind.into()).map_err(failed)?;
    first.listen(backlog).map_err(failed)?;
    first.set_reuse_port(true).map_err(failed)?;
    let local = first.local_addr().map_err(failed)?.as_socket().unwrap_or(listen.bind);
    let mut sockets = vec![first];
    for _ in 1..shards {
        let socket = socket_for(local).map_err(failed)?;
        socket.set_reuse_port(true).map_err(failed)?;
        socket.bind(&local.into()).map_err(failed)?;
        socket.listen(backlog).map_err(failed)?;
        sockets.push(socket);
    }
    Ok(Bound { info: Arc::clone(&listen.info), local, sockets })
}

fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run that linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Otherwise [::] would take IPv4 too or not, as the machine's sysctl has it.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

static REFUSED_FOR_DESCRIPTORS: AtomicU64 = AtomicU64::new(0);

/// Connections that were closed since the start because the process had no descriptor for them. Any thread.
pub(crate) fn refused_for_descriptors() -> u64 {
    REFUSED_FOR_DESCRIPTORS.load(Ordering::Relaxed)
}

/// The first descriptor number that no client gets, so that `free` of those the process may have stay free. The kernel gives
/// away the lowest free number: where it gives this one, all below are in use, whoever uses them.
pub(crate) fn descriptors_for_clients(free: u64) -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(free)
}

/// What `accept` found.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection, and where it comes from.
    Connection(OwnedFd, Peer),
    /// Nobody is waiting.
    Nobody,
    /// Somebody had been waiting and has gone.
    Gone,
    /// Somebody had been waiting and was closed, because the descriptors that are left are kept free.
    Reserved,
    /// The process or the machine has no descriptor or memory left for one more.
    Exhausted(Errno),
}

/// Takes the next connection that waits on a listener, if its descriptor is below `end`.
pub(crate) fn accept(
    socket: BorrowedFd<'_>,
    info: &Arc<ListenerInfo>,
    bound: SocketAddr,
    end: u64,
) -> Accepted {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (connection, from) = match rustix::net::acceptfrom_with(socket, flags) {
        Ok(accepted) => accepted,
        Err(Errno::AGAIN) => return Accepted::Nobody,
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
            REFUSED_FOR_DESCRIPTORS.fetch_add(1, Ordering::Relaxed);
            return Accepted::Exhausted(errno);
        }
        // Linux hands over errors of the new connection here; accept(2) says to go on as after EAGAIN.
        Err(_) => return Accepted::Gone,
    };
    if u64::try_from(connection.as_raw_fd()).is_ok_and(|number| number >= end) {
        REFUSED_FOR_DESCRIPTORS.fetch_add(1, Ordering::Relaxed);
        return Accepted::Reserved;
    }
    // Packets are whole when they are sent; holding them back for more would only delay them.
    if rustix::net::sockopt::set_tcp_nodelay(&connection, true).is_err() {
        return Accepted::Gone;
    }
    let Some(peer) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { return Accepted::Gone };
    let local = if bound.ip().is_unspecified() { local_address(connection.as_fd()) } else { Some(bound) };
    let Some(local) = local else { return Accepted::Gone };
    Accepted::Connection(connection, Peer { listener: Arc::clone(info), peer, local })
}

fn local_address(connection: BorrowedFd<'_>) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(connection).ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use super::*;

    fn listen(bind: &str) -> Listen {
        let info = Arc::new(ListenerInfo { name: "test".into(), allow_anonymous: true });
        Listen { bind: bind.parse().unwrap(), info }
    }

    fn accept_all(shares: &[Listening], wanted: usize) -> Vec<(usize, OwnedFd, Peer)> {
        let until = Instant::now() + Duration::from_secs(5);
        let mut all = Vec::new();
        while all.len() < wanted && Instant::now() < until {
            for (shard, share) in shares.iter().enumerate() {
                match accept(share.socket.as_fd(), &share.info, share.local, u64::MAX) {
                    Accepted::Connection(socket, peer) => all.push((shard, socket, peer)),
                    Accepted::Nobody => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        all
    }

    #[test]
    fn port_0_gives_one_port_that_all_shards_accept_from() {
        let bound = bind(&listen("127.0.0.1:0"), 4, 128).unwrap();
        let address = bound.local;
        assert_ne!(address.port(), 0);
        let shares: Vec<Listening> = bound.into_shares().collect();
        assert_eq!(shares.len(), 4);
        let clients: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted = accept_all(&shares, clients.len());
        assert_eq!(accepted.len(), clients.len());
        for shard in 0..4 {
            // The kernel spreads by a hash: that one of four gets none of 64 happens once in 25 million runs.
            assert!(accepted.iter().any(|(by, ..)| *by == shard), "shard {shard} accepted nobody");
        }
        let ours: Vec<SocketAddr> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
        assert!(accepted.iter().all(|(_, _, peer)| ours.contains(&peer.peer) && peer.local == address));
    }

    #[test]
    fn a_port_that_another_broker_shares_among_its_shards_is_refused() {
        let first = bind(&listen("127.0.0.1:0"), 2, 128).unwrap();
        let second = bind(&listen(&first.local.to_string()), 2, 128).expect_err("two brokers on one port");
        assert_eq!(
            second.to_string(),
            format!(
                "cannot listen on {}: address in use; another broker? choose another with --listen",
                first.local
            )
        );
        drop(first);
        bind(&listen(&second.bind.to_string()), 2, 128).expect("the port is free again");
    }

    #[test]
    fn a_broker_that_starts_again_does_not_wait_for_closed_connections() {
        let first = bind(&listen("127.0.0.1:0"), 1, 128).unwrap();
        let address = first.local;
        let mut client = TcpStream::connect(address).unwrap();
        let shares: Vec<Listening> = first.into_shares().collect();
        // Closed by us first, the connection stays in TIME_WAIT here.
        drop(accept_all(&shares, 1));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop((client, shares));
        bind(&listen(&address.to_string()), 1, 128).expect("TIME_WAIT does not hold the port");
    }

    #[test]
    fn the_last_descriptors_are_kept_free() {
        let bound = bind(&listen("127.0.0.1:0"), 1, 128).unwrap();
        let address = bound.local;
        let share = bound.into_shares().next().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let before = refused_for_descriptors();
        // Those below are the standard streams, so that the connection has this number or a higher one.
        let accepted = accept(share.socket.as_fd(), &share.info, share.local, 3);
        assert!(matches!(accepted, Accepted::Reserved), "{accepted:?}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is closed, not left hanging");
        assert!(refused_for_descriptors() > before);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert_eq!(descriptors_for_clients(0), limit);
        assert_eq!(descriptors_for_clients(7), limit - 7);
        assert_eq!(descriptors_for_clients(u64::MAX), 0);
    }

    #[test]
    fn an_unspecified_address_tells_each_connection_its_own() {
        let bound = bind(&listen("0.0.0.0:0"), 1, 128).unwrap();
        let port = bound.local.port();
        let shares: Vec<Listening> = bound.into_shares().collect();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let accepted = accept_all(&shares, 1);
        assert_eq!(accepted[0].2.local, SocketAddr::from(([127, 0, 0, 1], port)));
    }

    #[test]
    fn v6_leaves_the_same_port_of_v4_to_others() {
        let v6 = match bind(&listen("[::]:0"), 1, 128) {
            Ok(bound) => bound,
            // A machine without IPv6 says so in one sentence.
            Err(error) => return assert!(error.to_string().contains("no IPv6"), "{error}"),
        };
        // The sysctl bindv6only is off on most machines, so it must be asked for.
        assert!(v6.sockets.iter().all(|socket| socket.only_v6().unwrap()));
    }

    #[test]
    fn an_address_of_another_machine_is_refused_with_what_to_do() {
        let error = bind(&listen("192.0.2.1:1883"), 1, 128).expect_err("TEST-NET-1 is nobody's");
        assert!(
            error
                .to_string()
                .starts_with("cannot listen on 192.0.2.1:1883: this machine has no such address")
        );
    }
}
