//! Which addresses share one limit, for plugins that limit clients by address.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

/// The name of the owner for a client at `host` that has not authenticated: its IPv4 address, or
/// the /64 network of its IPv6 address, because one customer usually has a whole /64. An IPv4
/// address gives the same name in both notations. A host that is not an address is returned as it
/// is.
pub fn address_share(host: &str) -> Cow<'_, str> {
    let Ok(IpAddr::V6(address)) = host.parse() else { return Cow::Borrowed(host) };
    match address.to_ipv4_mapped() {
        Some(address) => address.to_string().into(),
        None => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::address_share;

    #[test]
    fn a_share_is_an_address_or_a_network_of_64_bits() {
        for (host, share) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
            ("somewhere", "somewhere"),
            ("", ""),
        ] {
            assert_eq!(address_share(host), share);
        }
    }
}
