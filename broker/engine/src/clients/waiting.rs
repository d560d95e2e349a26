//! Number of clients whose CONNECT waits, in total and for each network, so that one address cannot
//! use all places. `Connections` owns it; it is checked at CONNECT. It stores addresses only.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::log_rate::LogRate;
use crate::shrink;

/// Minimum capacity of the map.
const SPARE: usize = 64;

/// What counts as one address: an IPv4 address, or the first 64 bits of an IPv6 address, because
/// one customer gets all addresses with these bits. Clients without an address, which are those of
/// Unix sockets, are on one machine, and count as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Network {
    Local,
    V4(u32),
    V6(u64),
}

impl Network {
    fn of(address: Option<IpAddr>) -> Network {
        // A listener for both families gives IPv4 clients an IPv4-mapped IPv6 address.
        match address.map(|address| address.to_canonical()) {
            None => Network::Local,
            Some(IpAddr::V4(address)) => Network::V4(address.to_bits()),
            Some(IpAddr::V6(address)) => Network::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// The limit that keeps a client out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Busy {
    /// The limit for all clients.
    All,
    /// The limit for its address.
    Address,
}

/// The clients of a shard whose CONNECT waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    count: u64,
    /// Number of waiting clients by network.
    networks: HashMap<Network, u64, ahash::RandomState>,
    /// Rate limit of the log line about refused clients.
    refusals: LogRate,
}

impl Waiting {
    pub(crate) fn new(hasher: ahash::RandomState) -> Waiting {
        Waiting { count: 0, networks: HashMap::with_hasher(hasher), refusals: LogRate::default() }
    }

    /// Whether one more of this address may wait: fewer than `max` wait, and fewer than
    /// `address_max` of its network.
    #[inline]
    pub(crate) fn has_room(&self, address: Option<IpAddr>, max: u64, address_max: u64) -> Result<(), Busy> {
        if self.count >= max {
            return Err(Busy::All);
        }
        // Usually nobody waits, so the cheap check comes first.
        if self.count >= address_max
            && self.networks.get(&Network::of(address)).is_some_and(|count| *count >= address_max)
        {
            return Err(Busy::Address);
        }
        Ok(())
    }

    /// A client of this address starts to wait.
    pub(crate) fn begins(&mut self, address: Option<IpAddr>) {
        self.count += 1;
        *self.networks.entry(Network::of(address)).or_default() += 1;
    }

    /// A client of this address no longer waits.
    pub(crate) fn ends(&mut self, address: Option<IpAddr>) {
        self.count -= 1;
        let network = Network::of(address);
        let Some(count) = self.networks.get_mut(&network) else { return };
        *count -= 1;
        if *count == 0 {
            self.networks.remove(&network);
            shrink::map(&mut self.networks, SPARE);
        }
    }

    /// A client was refused. If that is to be logged, returns the number of earlier refusals that
    /// were not.
    pub(crate) fn refused(&mut self, now_ms: u64) -> Option<u64> {
        self.refusals.record(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Waiting {
        Waiting::new(ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    /// An address; `None` for `unix`.
    fn address(text: &str) -> Option<IpAddr> {
        (text != "unix").then(|| text.parse().expect("an address"))
    }

    #[test]
    fn an_address_is_one_of_ipv4_or_64_bits_of_ipv6() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("::ffff:10.0.0.1", "::1", false),
            ("unix", "unix", true),
            ("unix", "::", false),
            ("unix", "0.0.0.0", false),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
        ] {
            let mut waiting = waiting();
            waiting.begins(address(one));
            let expected = if same { Err(Busy::Address) } else { Ok(()) };
            assert_eq!(waiting.has_room(address(other), 9, 1), expected, "{one} and {other}");
            assert_eq!(waiting.has_room(address(other), 1, 9), Err(Busy::All));
        }
    }

    #[test]
    fn each_address_has_its_own_places_and_a_storm_leaves_nothing() {
        let mut waiting = waiting();
        let addresses: Vec<_> = (0..10_000_u32).map(|n| Some(IpAddr::V4(n.into()))).collect();
        for _ in 0..2 {
            addresses.iter().for_each(|one| waiting.begins(*one));
        }
        for (max, room) in [(1, Err(Busy::Address)), (2, Err(Busy::Address)), (3, Ok(()))] {
            assert_eq!(waiting.has_room(addresses[7], u64::MAX, max), room);
        }
        addresses.iter().for_each(|one| waiting.ends(*one));
        assert_eq!(waiting.has_room(addresses[7], u64::MAX, 2), Ok(()));
        addresses.iter().for_each(|one| waiting.ends(*one));
        assert_eq!((waiting.count, waiting.networks.len()), (0, 0));
        assert!(waiting.networks.capacity() <= 2 * SPARE, "room for {}", waiting.networks.capacity());
    }
}
