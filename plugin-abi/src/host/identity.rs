//! A client's identity as bytes that a plugin stores: the client's data that client.authorize
//! reads. Only the broker writes them. The reader is strict, because a plugin may have truncated
//! them or stored them in a file.

use std::net::{IpAddr, SocketAddr};

use super::cursor::Cursor;
use super::tls::TlsIdentity;
use crate::raw::{IDENTITY_BYTES_MAX, Status};

/// Value of the first byte. Another layout has another number.
const LAYOUT: u8 = 3;

const HAS_USERNAME: u8 = 1;
const SUPERUSER: u8 = 2;
const ANONYMOUS: u8 = 4;
const CLEAN_START: u8 = 8;
const CERTIFIED: u8 = 16;
const KNOWN_FLAGS: u8 = HAS_USERNAME | SUPERUSER | ANONYMOUS | CLEAN_START | CERTIFIED;

/// A client's identity at an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientIdentity<'a> {
    /// Client identifier.
    pub client_id: &'a str,
    /// User name.
    pub username: Option<&'a str>,
    /// Whether the listener took the user name from the client's verified certificate.
    pub is_certified: bool,
    /// Whether authentication made it a superuser.
    pub superuser: bool,
    /// Whether nobody has authenticated it.
    pub anonymous: bool,
    /// Clean start.
    pub clean_start: bool,
    /// Protocol level: 3, 4 or 5.
    pub proto_ver: u8,
    /// Keep alive, seconds.
    pub keep_alive_s: u16,
    /// Session expiry interval, seconds.
    pub expiry_s: u32,
    /// Receive Maximum.
    pub receive_maximum: u16,
    /// Time of the connection, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// Number of the network connection; 0 for none.
    pub connection: u64,
    /// Number of the session; 0 for none.
    pub session: u64,
    /// Remote address of the connection.
    pub peer: Option<SocketAddr>,
    /// Local address of the connection.
    pub local: Option<SocketAddr>,
    /// Name of the listener.
    pub listener: &'a str,
    /// How it has reached the broker: `tcp`, `tls`, `ws`, `wss` or `unix`; empty for what is no
    /// client, such as a plugin that publishes.
    pub transport: &'a str,
    /// Its TLS connection.
    pub tls: Option<TlsIdentity<'a>>,
    /// Encoded properties of CONNECT; not checked.
    pub properties: &'a [u8],
}

impl<'a> ClientIdentity<'a> {
    /// Appends the identity's bytes.
    ///
    /// # Errors
    /// [`Status::FULL`] above [`IDENTITY_BYTES_MAX`]; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        let names = self.client_id.len() + self.username.map_or(0, str::len) + self.listener.len();
        let texts = names + self.transport.len() + TlsIdentity::encoded_len(self.tls.as_ref());
        // Numbers, addresses and lengths need fewer bytes than this.
        if texts + self.properties.len() + FIXED_BYTES > IDENTITY_BYTES_MAX as usize {
            return Err(Status::FULL);
        }
        let mut flags = 0;
        for (flag, is_set) in [
            (HAS_USERNAME, self.username.is_some()),
            (SUPERUSER, self.superuser),
            (ANONYMOUS, self.anonymous),
            (CLEAN_START, self.clean_start),
            (CERTIFIED, self.is_certified),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        out.extend([LAYOUT, flags, self.proto_ver]);
        out.extend(self.keep_alive_s.to_le_bytes());
        out.extend(self.expiry_s.to_le_bytes());
        out.extend(self.receive_maximum.to_le_bytes());
        out.extend(self.connected_at_ms.to_le_bytes());
        out.extend(self.connection.to_le_bytes());
        out.extend(self.session.to_le_bytes());
        put_address(out, self.peer);
        put_address(out, self.local);
        for part in [
            self.client_id.as_bytes(),
            self.username.unwrap_or("").as_bytes(),
            self.listener.as_bytes(),
            self.transport.as_bytes(),
            self.properties,
        ] {
            out.extend((part.len() as u32).to_le_bytes());
            out.extend(part);
        }
        TlsIdentity::encode(self.tls.as_ref(), out);
        Ok(())
    }

    /// Reads an identity from its bytes.
    ///
    /// # Errors
    /// [`Status::INVALID`] for any other bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<ClientIdentity<'a>, Status> {
        let whole = bytes.len() <= IDENTITY_BYTES_MAX as usize;
        whole.then(|| read(bytes)).flatten().ok_or(Status::INVALID)
    }
}

/// Upper limit for all fields except texts and properties.
const FIXED_BYTES: usize = 128;

fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address.map(|address| (address.ip(), address.port())) {
        None => out.push(0),
        Some((IpAddr::V4(ip), port)) => {
            out.push(4);
            out.extend(ip.octets());
            out.extend(port.to_le_bytes());
        }
        Some((IpAddr::V6(ip), port)) => {
            out.push(6);
            out.extend(ip.octets());
            out.extend(port.to_le_bytes());
        }
    }
}

fn read(bytes: &[u8]) -> Option<ClientIdentity<'_>> {
    let mut rest = Cursor(bytes);
    let [layout, flags, proto_ver] = rest.array()?;
    if layout != LAYOUT || flags & !KNOWN_FLAGS != 0 || !(3..=5).contains(&proto_ver) {
        return None;
    }
    let keep_alive_s = u16::from_le_bytes(rest.array()?);
    let expiry_s = u32::from_le_bytes(rest.array()?);
    let receive_maximum = u16::from_le_bytes(rest.array()?);
    let connected_at_ms = u64::from_le_bytes(rest.array()?);
    let connection = u64::from_le_bytes(rest.array()?);
    let session = u64::from_le_bytes(rest.array()?);
    let (peer, local) = (rest.address()?, rest.address()?);
    let (client_id, username) = (rest.text()?, rest.text()?);
    let (listener, transport, properties) = (rest.text()?, rest.text()?, rest.part()?);
    let tls = TlsIdentity::read(&mut rest)?;
    let has_username = flags & HAS_USERNAME != 0;
    if client_id.is_empty() || !has_username && !username.is_empty() || !rest.0.is_empty() {
        return None;
    }
    Some(ClientIdentity {
        client_id,
        username: has_username.then_some(username),
        is_certified: flags & CERTIFIED != 0,
        superuser: flags & SUPERUSER != 0,
        anonymous: flags & ANONYMOUS != 0,
        clean_start: flags & CLEAN_START != 0,
        proto_ver,
        keep_alive_s,
        expiry_s,
        receive_maximum,
        connected_at_ms,
        connection,
        session,
        peer,
        local,
        listener,
        transport,
        tls,
        properties,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tls::{CertificateIdentity, Names};
    use super::*;

    fn somebody<'a>() -> ClientIdentity<'a> {
        ClientIdentity {
            client_id: "pump-1",
            username: Some(""),
            is_certified: false,
            superuser: true,
            anonymous: false,
            clean_start: true,
            proto_ver: 5,
            keep_alive_s: 60,
            expiry_s: u32::MAX,
            receive_maximum: 20,
            connected_at_ms: 1 << 40,
            connection: 7,
            session: 9,
            peer: Some("[2001:db8::1]:40000".parse().unwrap()),
            local: Some("127.0.0.1:1883".parse().unwrap()),
            listener: "default",
            transport: "tcp",
            tls: None,
            properties: b"\x21\x00\x14",
        }
    }

    /// Somebody with this TLS connection and a certificate with these names.
    fn with_certificate(names: &[String]) -> ClientIdentity<'_> {
        let certificate = CertificateIdentity {
            subject: "CN=pump-1,O=Works",
            common_name: "pump-1",
            alternative_names: Names::of(names),
            issuer: "CN=Works CA",
            serial: "0a",
            fingerprint: "00ff",
        };
        let tls = TlsIdentity {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            server_name: "",
            certificate: Some(certificate),
        };
        ClientIdentity { is_certified: true, transport: "wss", tls: Some(tls), ..somebody() }
    }

    #[test]
    fn an_identity_decodes_to_the_same_values() {
        let nobody =
            ClientIdentity { username: None, peer: None, local: None, properties: b"", ..somebody() };
        let names = ["DNS:pump-1.works", "", "IP:10.0.0.1"].map(str::to_owned);
        let certified = with_certificate(&names);
        let tls = certified.tls.map(|tls| TlsIdentity { certificate: None, ..tls });
        for identity in [
            somebody(),
            nobody,
            ClientIdentity { anonymous: true, proto_ver: 3, ..somebody() },
            certified,
            with_certificate(&[]),
            ClientIdentity { tls, ..somebody() },
        ] {
            let mut bytes = Vec::new();
            identity.encode(&mut bytes).unwrap();
            assert_eq!(ClientIdentity::decode(&bytes), Ok(identity));
        }
    }

    #[test]
    fn an_identity_of_wrong_length_or_layout_is_refused() {
        let mut bytes = Vec::new();
        let names = ["DNS:pump-1.works".to_owned()];
        with_certificate(&names).encode(&mut bytes).unwrap();
        for len in 0..bytes.len() {
            assert_eq!(ClientIdentity::decode(&bytes[..len]), Err(Status::INVALID), "{len} bytes");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(ClientIdentity::decode(&longer), Err(Status::INVALID));
        for (at, value) in [(0, 0), (0, 1), (0, 2), (0, 4), (1, 0xff), (2, 0), (2, 6), (35, 5)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert_eq!(ClientIdentity::decode(&other), Err(Status::INVALID), "byte {at} is {value}");
        }
        // With any single byte changed, the result is an identity or an error, never a panic.
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut other = bytes.clone();
                other[at] = value;
                let _ = ClientIdentity::decode(&other);
            }
        }
    }

    #[test]
    fn the_bytes_are_bounded() {
        // One byte says that there is no TLS connection.
        let room = IDENTITY_BYTES_MAX as usize - FIXED_BYTES - "pump-1defaulttcp".len() - 1;
        for (len, expected) in [(room, Ok(())), (room + 1, Err(Status::FULL))] {
            let properties = vec![0; len];
            let mut bytes = Vec::new();
            let identity = ClientIdentity { properties: &properties, ..somebody() };
            assert_eq!(identity.encode(&mut bytes), expected);
            assert_eq!(bytes.is_empty(), expected.is_err());
            assert!(bytes.len() <= IDENTITY_BYTES_MAX as usize);
        }
    }
    #[test]
    fn a_certificate_counts_towards_the_bound() {
        let len_of = |names: &[String]| {
            let mut bytes = Vec::new();
            with_certificate(names).encode(&mut bytes).map(|()| bytes.len())
        };
        let max = IDENTITY_BYTES_MAX as usize;
        let with = |length: &usize| len_of(&["x".repeat(*length)]);
        let lengths: Vec<usize> = (0..=max).collect();
        let beyond = lengths.partition_point(|length| with(length).is_ok());
        assert!((max - FIXED_BYTES..=max).contains(&with(&(beyond - 1)).unwrap()));
        assert_eq!(with(&beyond), Err(Status::FULL));
        // The length of each name counts, and not its text alone.
        assert_eq!(len_of(&vec![String::new(); max / 4]), Err(Status::FULL));
    }
}
