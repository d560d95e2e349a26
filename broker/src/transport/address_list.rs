//! Lists of addresses and networks that an operator trusts: proxies that send the PROXY protocol,
//! and proxies whose header of an HTTP request names the client. Read from the configuration;
//! consulted once for each connection.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// A list of addresses and networks. An empty list contains no address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressList {
    networks: Vec<IpNet>,
}

/// Why a text is no entry of an [`AddressList`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressListError {
    /// The text is neither an address nor a network.
    #[error(
        "{0:?} is no address or network; write an address such as 10.0.0.7, or a network such as 10.0.0.0/8"
    )]
    Syntax(String),
    /// An address is given where the network is meant, or the other way round.
    #[error("{text:?} has bits beyond its prefix; write {network} for the network, or only the address")]
    HostBits {
        /// The text as given.
        text: String,
        /// The network that it lies in.
        network: IpNet,
    },
}

impl AddressList {
    /// Reads a list. Each text is an address (`10.0.0.7`, `::1`) or a network (`10.0.0.0/8`,
    /// `fd00::/8`). An IPv4 address that is written as IPv6 (`::ffff:10.0.0.7`) is that IPv4 address.
    ///
    /// # Errors
    /// [`AddressListError`] for the first text that is neither.
    pub(crate) fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, AddressListError> {
        let networks = texts.into_iter().map(network).collect::<Result<_, _>>()?;
        Ok(AddressList { networks })
    }

    /// Whether the list contains `address`. An IPv4 address that is mapped into IPv6, as a socket
    /// for both shows it, is treated as the IPv4 address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether the list has no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }
}

fn network(text: &str) -> Result<IpNet, AddressListError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let network: IpNet = text.parse().map_err(|_| AddressListError::Syntax(text.to_owned()))?;
    if network.trunc() != network {
        return Err(AddressListError::HostBits { text: text.to_owned(), network: network.trunc() });
    }
    Ok(unmapped(network))
}

/// A network of IPv4 addresses that are mapped into IPv6 (`::ffff:0:0/96` and smaller), as IPv4.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_PREFIX: u8 = 96;
    let IpNet::V6(six) = network else { return network };
    let (Some(address), Some(prefix)) =
        (six.addr().to_ipv4_mapped(), six.prefix_len().checked_sub(MAPPED_PREFIX))
    else {
        return network;
    };
    let prefix = prefix.min(u8::try_from(Ipv4Addr::BITS).unwrap_or(u8::MAX));
    Ipv4Net::new(address, prefix).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(entry: &str, address: &str) -> bool {
        AddressList::parse([entry]).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_its_first_and_last_address_and_none_beside_them() {
        assert!(contains("10.0.0.0/8", "10.0.0.0"));
        assert!(contains("10.0.0.0/8", "10.255.255.255"));
        assert!(!contains("10.0.0.0/8", "9.255.255.255"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("fd00::/8", "fdff::1"));
        assert!(!contains("fd00::/8", "fe00::1"));
    }

    #[test]
    fn an_address_stands_for_itself() {
        assert!(contains("::1", "::1"));
        assert!(!contains("::1", "::2"));
        assert!(contains("192.0.2.7", "192.0.2.7"));
        assert!(!contains("192.0.2.7", "192.0.2.6"));
    }

    #[test]
    fn mapped_addresses_are_ipv4_on_both_sides() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(contains("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(contains("::ffff:192.0.2.7", "192.0.2.7"));
        assert!(!contains("::ffff:10.0.0.0/104", "11.0.0.0"));
    }

    #[test]
    fn a_network_of_everything_is_of_one_family() {
        assert!(contains("0.0.0.0/0", "203.0.113.5"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "2001:db8::1"));
        // An IPv4 client must not slip in because an operator trusts all of IPv6.
        assert!(!contains("::/0", "::ffff:203.0.113.5"));
    }

    #[test]
    fn an_empty_list_contains_nothing() {
        let none = AddressList::parse([]).unwrap();
        assert!(none.is_empty());
        assert!(!none.contains(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn a_wrong_entry_is_named() {
        for text in
            ["", "proxy", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0", "10.0.0.0/8/8", "::1/129", "fe80::1%1"]
        {
            assert_eq!(AddressList::parse([text]), Err(AddressListError::Syntax(text.to_owned())), "{text}");
        }
        let error = AddressList::parse(["10.0.0.0/8", "10.0.0.7/8"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"10.0.0.7/8\" has bits beyond its prefix; write 10.0.0.0/8 for the network, or only the address"
        );
    }
}
