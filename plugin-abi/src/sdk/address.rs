//! What counts as one address, for plugins that give each address a share of something.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

/// Whose share somebody at `host` takes, who has not logged in: that of the address, or of its network of 64 bits, since that is what
/// one customer has of IPv6. An address of IPv4 is the same in whichever form; a host that is no address stands for itself.
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
