//! How many clients wait to be let in, in all and from one network, so that whoever has one address does not take every place. Held by
//! `Connections`; asked where a CONNECT comes. Knows nothing of connections but where they come from.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::log_rate::LogRate;

/// A map keeps room for so many.
const SPARE: usize = 64;

/// What counts as one address: one of IPv4, and 64 bits of IPv6, since that is what one customer has of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    fn of(address: IpAddr) -> Network {
        // A client of IPv4 at a listener of both has one of IPv6 that says so.
        match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.to_bits()),
            IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Which bound keeps a client out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Busy {
    /// So many wait as may.
    All,
    /// So many of its address.
    Address,
}

/// The clients of a shard that wait to be let in.
#[derive(Debug)]
pub(crate) struct Waiting {
    count: u64,
    /// Of each network from which one waits.
    networks: HashMap<Network, u64, ahash::RandomState>,
    /// Of the line about those that were refused.
    refusals: LogRate,
}

impl Waiting {
    pub(crate) fn new(hasher: ahash::RandomState) -> Waiting {
        Waiting { count: 0, networks: HashMap::with_hasher(hasher), refusals: LogRate::default() }
    }

    /// Whether another one of this address may wait: fewer than `max` do, and fewer than `address_max` of its network.
    #[inline]
    pub(crate) fn has_room(&self, address: IpAddr, max: u64, address_max: u64) -> Result<(), Busy> {
        if self.count >= max {
            return Err(Busy::All);
        }
        // Mostly nobody waits.
        if self.count >= address_max
            && self.networks.get(&Network::of(address)).is_some_and(|count| *count >= address_max)
        {
            return Err(Busy::Address);
        }
        Ok(())
    }

    /// One of this address waits.
    pub(crate) fn begins(&mut self, address: IpAddr) {
        self.count += 1;
        *self.networks.entry(Network::of(address)).or_default() += 1;
    }

    /// One of this address waits no more.
    pub(crate) fn ends(&mut self, address: IpAddr) {
        self.count -= 1;
        let network = Network::of(address);
        let Some(count) = self.networks.get_mut(&network) else { return };
        *count -= 1;
        if *count == 0 {
            self.networks.remove(&network);
            if self.networks.capacity() > SPARE.max(4 * self.networks.len()) {
                self.networks.shrink_to(2 * self.networks.len());
            }
        }
    }

    /// One was refused: whether that is logged, and how many before it were not.
    pub(crate) fn refused(&mut self, now_ms: u64) -> Option<u64> {
        self.refusals.say(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Waiting {
        Waiting::new(ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_one_of_ipv4_or_64_bits_of_ipv6() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("::ffff:10.0.0.1", "::1", false),
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
        let addresses: Vec<IpAddr> = (0..10_000_u32).map(|n| IpAddr::V4(n.into())).collect();
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
