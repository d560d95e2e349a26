//! The address of a client or of a listener, with its text, as connections keep it. Used by the
//! identity of a client and by what hooks see of it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

/// The longest text of an IPv4 address, bytes.
const IPV4_BYTES_MAX: usize = 15;

/// An address, with its text without the port. Every client has one, so IPv4 needs no memory of its
/// own, and no room for the longest IPv6 address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Address(Stored);

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Stored {
    #[default]
    None,
    /// The text has `len` bytes.
    V4 {
        ip: Ipv4Addr,
        port: u16,
        len: u8,
        text: [u8; IPV4_BYTES_MAX],
    },
    V6(Box<(SocketAddrV6, Box<str>)>),
}

impl Address {
    /// No address: that of a client of a Unix socket.
    pub const NONE: Address = Address(Stored::None);

    /// Stores an address. IPv4 skips the formatter, because every connection needs this text.
    pub fn new(address: Option<SocketAddr>) -> Address {
        Address(match address {
            None => Stored::None,
            Some(SocketAddr::V4(address)) => {
                let mut text = [0; IPV4_BYTES_MAX];
                let len = dotted(address.ip().octets(), &mut text).len() as u8;
                Stored::V4 { ip: *address.ip(), port: address.port(), len, text }
            }
            Some(SocketAddr::V6(address)) => Stored::V6(Box::new((address, address.ip().to_string().into()))),
        })
    }

    /// The address.
    #[inline]
    pub fn get(&self) -> Option<SocketAddr> {
        match &self.0 {
            Stored::None => None,
            Stored::V4 { ip, port, .. } => Some(SocketAddr::from((*ip, *port))),
            Stored::V6(stored) => Some(stored.0.into()),
        }
    }

    /// The address as text, without its port; empty for none.
    #[inline]
    pub fn host(&self) -> &str {
        match &self.0 {
            Stored::None => "",
            Stored::V4 { len, text, .. } => {
                text.get(..usize::from(*len)).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default()
            }
            Stored::V6(stored) => &stored.1,
        }
    }

    /// Bytes that it has allocated.
    pub(crate) fn bytes(&self) -> usize {
        match &self.0 {
            Stored::None | Stored::V4 { .. } => 0,
            Stored::V6(stored) => size_of_val(&**stored) + stored.1.len(),
        }
    }
}

/// Four numbers with dots between them.
fn dotted(octets: [u8; 4], room: &mut [u8; IPV4_BYTES_MAX]) -> &str {
    let mut len = 0;
    let mut put = |byte| {
        room[len] = byte;
        len += 1;
    };
    for (place, octet) in octets.into_iter().enumerate() {
        if place > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
    }
    str::from_utf8(&room[..len]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn hosts_read_as_the_standard_library_writes_them() {
        for host in [
            "0.0.0.0",
            "127.0.0.1",
            "9.10.99.100",
            "255.255.255.255",
            "::1",
            "2001:db8::ff00:42:8329",
            "::ffff:255.255.255.255",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let ip: IpAddr = host.parse().unwrap();
            let address = Some(SocketAddr::new(ip, 1883));
            let stored = Address::new(address);
            assert_eq!((stored.host(), stored.get()), (&*ip.to_string(), address));
        }
        assert_eq!((Address::NONE.host(), Address::NONE.get()), ("", None));
    }
}
