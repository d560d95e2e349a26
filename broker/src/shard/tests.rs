//! Tests of running shards: real drivers, real sockets and the real engine in this process. They
//! test sockets, lanes and threads; the engine's decisions are tested without these.
#![allow(clippy::unwrap_used)]

mod client;
mod listeners;
mod overload;
mod traffic;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grapnel_engine::id::ShardId;
use grapnel_engine::limits::Limits;
use grapnel_engine::shard::{ListenerInfo, Setup};

use super::heartbeat::Clock;
use super::limits::ShellLimits;
use super::supervise::{End, Shards};
use crate::net::{Address, FileOwner, Listen, ListenerRules, bind};
use crate::rt::Io;
use client::Client;

/// Maximum time of each wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker without control plane and plugins.
struct Broker {
    shards: Shards,
    address: SocketAddr,
}

impl Broker {
    fn start(shards: usize) -> Broker {
        Broker::with(shards, |_, _| {})
    }

    fn with(shards: usize, set: impl FnOnce(&mut Limits, &mut ShellLimits)) -> Broker {
        let (mut limits, mut shell) = (Limits::default(), ShellLimits::default());
        set(&mut limits, &mut shell);
        let limits = Arc::new(limits);
        let setups = (0..shards).map(|shard| Setup {
            id: ShardId(shard as u8),
            shards,
            limits: Arc::clone(&limits),
            no_match_allow: true,
            keys: [11, 12, 13, 14],
            seed: shard as u64 + 1,
        });
        let listen = listen("test");
        let bound = bind(&listen, shards, shell.listen_backlog_max).unwrap();
        let address = tcp(&bound.local);
        let shards =
            Shards::start(setups.collect(), &Arc::new(shell), (Clock::start(), io()), Box::new(|_| None))
                .unwrap();
        shards.listen(bound);
        Broker { shards, address }
    }

    fn connect(&self, client_id: &str) -> Client {
        let mut client = Client::open(self.address);
        client.send(&client::connect(client_id));
        assert_eq!(client.packet(), client::CONNACK, "{client_id} is not let in");
        client
    }

    /// The sum of a counter over all shards.
    fn count(&self, counter: &str) -> u64 {
        let rows = self
            .shards
            .handles()
            .iter()
            .flat_map(|handle| handle.call(PATIENCE, |shard| shard.counters().rows()).unwrap());
        rows.filter(|(name, ..)| *name == counter).map(|(_, value, _)| value).sum()
    }

    fn wait_for_count(&self, counter: &str, wanted: u64) {
        wait_for(&format!("{counter} = {wanted}"), || (self.count(counter) == wanted).then_some(()));
    }

    fn drain(self) -> End {
        self.shards.drain(15, PATIENCE, Duration::ZERO, || {})
    }
}

/// A listener on any port of loopback.
fn listen(name: &str) -> Listen {
    let info = ListenerInfo { name: name.into(), allow_anonymous: true, ..ListenerInfo::default() };
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let rules = Arc::new(ListenerRules::plain(Arc::new(info)));
    Listen { bind: address.into(), owner: FileOwner::default(), rules, takes_over: false }
}

fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        Address::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

/// How the shards of these tests wait. One run of the tests takes io_uring, another one epoll.
fn io() -> Io {
    match std::env::var("GRAPNEL_TESTS_IO").as_deref() {
        Ok("epoll") => Io::Epoll,
        _ => Io::IoUring,
    }
}

/// Calls `look` until it returns a value.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Number of open descriptors, without the spare descriptor of each acceptor.
fn open_descriptors() -> usize {
    let reserve = Path::new("/dev/null");
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter(|entry| std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|to| to != reserve))
        .count()
}
