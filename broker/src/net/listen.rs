//! Listeners: one port with a socket for each shard, so that the kernel spreads new connections.
//! Bound by `program` before anything else starts; each shard's acceptor accepts from its socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grapnel_engine::shard::Peer;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::address::{Address, FileOwner, SocketFile, remove_left_over};
use super::rules::ListenerRules;

/// A listener as configured.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where; port 0 takes any free one.
    pub bind: Address,
    /// Mode and owner, if it is a Unix socket.
    pub owner: FileOwner,
    /// What it says of its connections.
    pub rules: Arc<ListenerRules>,
    /// Whether a listener of this process that is about to be closed has the address. Then the
    /// sockets are bound beside its sockets, and take no connection before [`Bound::begin`].
    pub takes_over: bool,
}

/// A listener with its sockets. They already take connections into their backlog, unless they are
/// to take over the address of another one.
#[derive(Debug)]
pub struct Bound {
    /// What it says of its connections.
    pub rules: Arc<ListenerRules>,
    /// The bound address; a port 0 is replaced by the port that the system has chosen.
    pub local: Address,
    /// A socket for each shard; a Unix socket for the first one alone, because there can be no
    /// second.
    sockets: Vec<Socket>,
    file: Option<SocketFile>,
    /// The backlog with which they are still to listen.
    begins: Option<i32>,
}

impl Bound {
    /// Has sockets listen that take over an address, once the other listener is to be closed.
    ///
    /// # Errors
    /// What the kernel says. It has accepted the address already.
    pub fn begin(&mut self) -> io::Result<()> {
        let Some(backlog) = self.begins.take() else { return Ok(()) };
        self.sockets.iter().try_for_each(|socket| socket.listen(backlog))
    }

    /// The socket of each shard, in the order of their numbers.
    pub fn into_shares(self) -> impl Iterator<Item = Listening> {
        let Bound { rules, local, sockets, mut file, .. } = self;
        sockets.into_iter().map(move |socket| Listening {
            rules: Arc::clone(&rules),
            local: local.clone(),
            socket: socket.into(),
            file: file.take(),
        })
    }
}

/// One shard's share of a listener.
#[derive(Debug)]
pub struct Listening {
    /// What it says of its connections.
    pub(crate) rules: Arc<ListenerRules>,
    /// The bound address; may be the unspecified address.
    pub(crate) local: Address,
    /// A nonblocking socket.
    pub(crate) socket: OwnedFd,
    /// The file of a Unix socket.
    pub(crate) file: Option<SocketFile>,
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {bind}: {}", reason(.cause, .bind))]
pub struct ListenError {
    /// The configured address.
    pub bind: Address,
    /// What the kernel said.
    #[source]
    pub cause: io::Error,
}

impl ListenError {
    /// Whether the address is in use. It may be in use by a process that has just ended.
    pub fn is_in_use(&self) -> bool {
        self.cause.kind() == io::ErrorKind::AddrInUse
    }
}

fn reason(cause: &io::Error, bind: &Address) -> String {
    let choose = match bind {
        Address::Tcp(_) => "choose another with --listen",
        Address::Unix(_) => "choose another path",
    };
    let privileged = matches!(bind, Address::Tcp(address) if address.port() < 1024);
    match cause.raw_os_error().map(Errno::from_raw_os_error) {
        _ if cause.kind() == io::ErrorKind::AddrInUse => format!("address in use; another broker? {choose}"),
        _ if cause.kind() == io::ErrorKind::AlreadyExists => {
            format!("there is a file that is no socket; remove it, or {choose}")
        }
        Some(Errno::ACCESS) if privileged => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, or choose another with --listen"
                .to_owned()
        }
        Some(Errno::PERM) if matches!(bind, Address::Unix(_)) => {
            "the broker may not give the file to another user or group; run it as root, or leave unix_owner and unix_group out"
                .to_owned()
        }
        Some(Errno::ADDRNOTAVAIL) => {
            "this machine has no such address; see `ip address`, or listen on 0.0.0.0 or [::] for all of them"
                .to_owned()
        }
        Some(Errno::NOENT) => "its folder does not exist; make it, or choose another path".to_owned(),
        Some(Errno::AFNOSUPPORT) => {
            "this machine has no IPv6; choose an IPv4 address with --listen".to_owned()
        }
        _ => cause.to_string(),
    }
}

/// Binds the sockets of a listener and listens on them, with a backlog of `backlog` connections
/// each.
///
/// # Errors
/// [`ListenError`] with a remedy; nothing stays bound.
pub fn bind(listen: &Listen, shards: usize, backlog: u64) -> Result<Bound, ListenError> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let rules = Arc::clone(&listen.rules);
    let bound = match &listen.bind {
        Address::Tcp(address) => {
            let begins = listen.takes_over.then_some(backlog);
            bind_tcp(*address, &rules, shards, backlog, begins.is_some()).map(|(local, sockets)| Bound {
                rules,
                local: local.into(),
                sockets,
                file: None,
                begins,
            })
        }
        Address::Unix(path) => bind_unix(path, listen.owner, backlog).map(|(socket, file)| Bound {
            rules,
            local: listen.bind.clone(),
            sockets: vec![socket],
            file: Some(file),
            begins: None,
        }),
    };
    bound.map_err(|cause| ListenError { bind: listen.bind.clone(), cause })
}

/// Binds one socket for each shard.
///
/// The first socket is bound and listens without SO_REUSEPORT, so a port that another process has
/// is refused, also if that process is a Grapnel broker. Then SO_REUSEPORT is set on it, and the
/// other sockets are bound to the same port. One that `takes_over` an address has SO_REUSEPORT from
/// the start, and none of its sockets listens yet.
fn bind_tcp(
    bind: SocketAddr,
    rules: &ListenerRules,
    shards: usize,
    backlog: i32,
    takes_over: bool,
) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let socket_for = |address| {
        let socket = socket_for(address)?;
        rules.socket.apply_to_listener(socket.as_fd())?;
        io::Result::Ok(socket)
    };
    let first = socket_for(bind)?;
    if takes_over {
        first.set_reuse_port(true)?;
    }
    first.bind(&bind.into())?;
    if !takes_over {
        first.listen(backlog)?;
        first.set_reuse_port(true)?;
    }
    let local = first.local_addr()?.as_socket().unwrap_or(bind);
    let mut sockets = vec![first];
    for _ in 1..shards {
        let socket = socket_for(local)?;
        socket.set_reuse_port(true)?;
        socket.bind(&local.into())?;
        if !takes_over {
            socket.listen(backlog)?;
        }
        sockets.push(socket);
    }
    Ok((local, sockets))
}

fn bind_unix(path: &Path, owner: FileOwner, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    remove_left_over(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    // Nobody can connect before it listens.
    owner.apply(path)?;
    socket.listen(backlog)?;
    Ok((socket, file))
}

fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Otherwise it would depend on a sysctl whether [::] accepts IPv4 too.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

static REFUSED_FOR_DESCRIPTORS: AtomicU64 = AtomicU64::new(0);

/// Connections that were closed since the start because no descriptor was free for clients. Any
/// thread.
pub(crate) fn refused_for_descriptors() -> u64 {
    REFUSED_FOR_DESCRIPTORS.load(Ordering::Relaxed)
}

/// The lowest descriptor number that no client may get, so that `free` descriptors of the process
/// stay free. The kernel assigns the lowest free number, so if it assigns this one, all lower
/// numbers are in use.
pub(crate) fn descriptors_for_clients(free: u64) -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(free)
}

/// The result of [`accept`].
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection and its addresses.
    Connection(OwnedFd, Peer),
    /// No connection is waiting.
    Nobody,
    /// A waiting connection was closed before it was accepted.
    Closed,
    /// A connection was accepted and closed, because the last descriptors are kept free.
    Reserved,
    /// The process or the machine has no descriptor or memory for another connection.
    Exhausted(Errno),
}

/// Accepts the next connection of a listener. It is closed at once if its descriptor is not below
/// `end`.
pub(crate) fn accept(socket: BorrowedFd<'_>, rules: &ListenerRules, bound: &Address, end: u64) -> Accepted {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (connection, from) = match rustix::net::acceptfrom_with(socket, flags) {
        Ok(accepted) => accepted,
        Err(Errno::AGAIN) => return Accepted::Nobody,
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
            REFUSED_FOR_DESCRIPTORS.fetch_add(1, Ordering::Relaxed);
            return Accepted::Exhausted(errno);
        }
        // Linux reports errors of the new connection here. accept(2) says to treat them like
        // EAGAIN.
        Err(_) => return Accepted::Closed,
    };
    if u64::try_from(connection.as_raw_fd()).is_ok_and(|number| number >= end) {
        REFUSED_FOR_DESCRIPTORS.fetch_add(1, Ordering::Relaxed);
        return Accepted::Reserved;
    }
    let Address::Tcp(bound) = bound else {
        return Accepted::Connection(connection, Peer::new(Arc::clone(&rules.info), None, None));
    };
    if rules.socket.apply_to_connection(connection.as_fd()).is_err() {
        return Accepted::Closed;
    }
    let Some(peer) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { return Accepted::Closed };
    let local = if bound.ip().is_unspecified() { local_address(connection.as_fd()) } else { Some(*bound) };
    let Some(local) = local else { return Accepted::Closed };
    Accepted::Connection(connection, Peer::new(Arc::clone(&rules.info), peer, local))
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

    use grapnel_engine::shard::ListenerInfo;

    use super::*;

    fn listen(bind: &str) -> Listen {
        let info =
            Arc::new(ListenerInfo { name: "test".into(), allow_anonymous: true, ..ListenerInfo::default() });
        let address: SocketAddr = bind.parse().unwrap();
        let rules = Arc::new(ListenerRules::plain(info));
        Listen { bind: address.into(), owner: FileOwner::default(), rules, takes_over: false }
    }

    fn tcp(address: &Address) -> SocketAddr {
        match address {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    fn accept_all(shares: &[Listening], wanted: usize) -> Vec<(usize, OwnedFd, Peer)> {
        let until = Instant::now() + Duration::from_secs(5);
        let mut all = Vec::new();
        while all.len() < wanted && Instant::now() < until {
            for (shard, share) in shares.iter().enumerate() {
                match accept(share.socket.as_fd(), &share.rules, &share.local, u64::MAX) {
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
        let address = tcp(&bound.local);
        assert_ne!(address.port(), 0);
        let shares: Vec<Listening> = bound.into_shares().collect();
        assert_eq!(shares.len(), 4);
        let clients: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted = accept_all(&shares, clients.len());
        assert_eq!(accepted.len(), clients.len());
        for shard in 0..4 {
            // The kernel spreads connections by a hash. The chance that one of four shards gets
            // none of 64 is one in 25 million.
            assert!(accepted.iter().any(|(by, ..)| *by == shard), "shard {shard} accepted nobody");
        }
        let ours: Vec<SocketAddr> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
        assert!(
            accepted
                .iter()
                .all(|(_, _, peer)| ours.contains(&peer.peer.unwrap()) && peer.local == Some(address))
        );
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
        let address = tcp(&first.local);
        let mut client = TcpStream::connect(address).unwrap();
        let shares: Vec<Listening> = first.into_shares().collect();
        // The side that closes first keeps the connection in TIME_WAIT.
        drop(accept_all(&shares, 1));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop((client, shares));
        bind(&listen(&address.to_string()), 1, 128).expect("TIME_WAIT does not hold the port");
    }

    #[test]
    fn the_last_descriptors_stay_free() {
        let bound = bind(&listen("127.0.0.1:0"), 1, 128).unwrap();
        let address = tcp(&bound.local);
        let share = bound.into_shares().next().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let before = refused_for_descriptors();
        // Numbers below 3 are the standard streams, so the connection has a number of at least 3.
        let accepted = accept(share.socket.as_fd(), &share.rules, &share.local, 3);
        assert!(matches!(accepted, Accepted::Reserved), "{accepted:?}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is closed, not left hanging");
        assert!(refused_for_descriptors() > before);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert_eq!(descriptors_for_clients(0), limit);
        assert_eq!(descriptors_for_clients(7), limit - 7);
        assert_eq!(descriptors_for_clients(u64::MAX), 0);
    }

    #[test]
    fn connections_have_the_socket_options_of_their_listener() {
        use super::super::SocketOptions;
        use rustix::net::sockopt;

        let both = [
            SocketOptions {
                nodelay: true,
                keepalive_s: 7,
                send_buffer_bytes: 65_536,
                receive_buffer_bytes: 32_768,
            },
            SocketOptions { nodelay: false, receive_buffer_bytes: 16_384, ..SocketOptions::default() },
        ];
        let rules = both.map(|socket| ListenerRules { socket, ..ListenerRules::plain(Arc::default()) });
        let [first, second] = rules.map(Arc::new);
        let listen = Listen { rules: Arc::clone(&first), ..listen("127.0.0.1:0") };
        let bound = bind(&listen, 1, 128).unwrap();
        let address = tcp(&bound.local);
        let mut shares: Vec<Listening> = bound.into_shares().collect();
        for (rules, is_reload) in [(first, false), (second, true)] {
            if is_reload {
                rules.socket.apply_to_listener(shares[0].socket.as_fd()).unwrap();
                shares[0].rules = Arc::clone(&rules);
            }
            let _client = TcpStream::connect(address).unwrap();
            let accepted = accept_all(&shares, 1);
            let socket = accepted[0].1.as_fd();
            assert_eq!(sockopt::tcp_nodelay(socket).unwrap(), rules.socket.nodelay);
            let receive_bytes = rules.socket.receive_buffer_bytes as usize;
            assert_eq!(sockopt::socket_recv_buffer_size(socket).unwrap(), 2 * receive_bytes);
            assert_eq!(sockopt::socket_keepalive(socket).unwrap(), rules.socket.keepalive_s > 0);
            if rules.socket.keepalive_s > 0 {
                assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), Duration::from_secs(7));
                assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), Duration::from_secs(7));
                // The kernel doubles what is set.
                assert_eq!(sockopt::socket_send_buffer_size(socket).unwrap(), 2 * 65_536);
            } else {
                assert_ne!(sockopt::socket_send_buffer_size(socket).unwrap(), 2 * 65_536);
            }
        }
    }

    #[test]
    fn an_unspecified_address_gives_each_connection_its_local_address() {
        let bound = bind(&listen("0.0.0.0:0"), 1, 128).unwrap();
        let port = tcp(&bound.local).port();
        let shares: Vec<Listening> = bound.into_shares().collect();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let accepted = accept_all(&shares, 1);
        assert_eq!(accepted[0].2.local, Some(SocketAddr::from(([127, 0, 0, 1], port))));
    }

    #[test]
    fn v6_leaves_the_same_port_of_v4_to_others() {
        let v6 = match bind(&listen("[::]:0"), 1, 128) {
            Ok(bound) => bound,
            // On a machine without IPv6 the error says so.
            Err(error) => return assert!(error.to_string().contains("no IPv6"), "{error}"),
        };
        // The sysctl bindv6only is off on most machines, so the socket option must be set.
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
