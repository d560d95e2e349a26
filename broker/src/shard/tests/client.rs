//! The smallest MQTT 5 client that these tests need: sends bytes, receives whole packets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// CONNACK, accepted, compared without its properties.
pub(super) const CONNACK: Packet = Packet { first: 0x20, body: Vec::new() };

/// A packet: its first byte and what follows the remaining length. CONNACK is read without its body.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Packet {
    /// Topic and payload of a PUBLISH with QoS 0 or 1 and no property.
    pub fn publish(&self) -> (String, Vec<u8>) {
        assert_eq!(self.first >> 4, 3, "{self:?} is no PUBLISH");
        let length = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let topic = String::from_utf8(self.body[2..2 + length].to_vec()).unwrap();
        let packet_id = if self.first & 0b110 == 0 { 0 } else { 2 };
        let properties = self.body[2 + length + packet_id];
        assert_eq!(properties, 0, "a PUBLISH with properties");
        (topic, self.body[2 + length + packet_id + 1..].to_vec())
    }
}

/// A connection.
pub(super) struct Client {
    pub socket: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub fn open(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { socket, read: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// The next packet, which must come.
    pub fn packet(&mut self) -> Packet {
        self.next().expect("the broker closed the connection")
    }

    /// The next packet, or `None` when the broker has closed.
    pub fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(length) =
                grapnel_engine::codec::frame_len(&self.read).filter(|length| *length <= self.read.len())
            {
                let rest = self.read.split_off(length);
                let frame = std::mem::replace(&mut self.read, rest);
                let header = 1 + frame[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
                let body = if frame[0] == 0x20 {
                    assert_eq!(frame[header + 1], 0, "CONNACK with reason {:#x}", frame[header + 1]);
                    Vec::new()
                } else {
                    frame[header..].to_vec()
                };
                return Some(Packet { first: frame[0], body });
            }
            let mut buffer = [0; 65536];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.read.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = vec![0, 1, 0];
        body.extend(string(filter));
        body.push(qos);
        self.send(&packet(0x82, &body));
        let suback = self.packet();
        assert_eq!((suback.first, suback.body.last().copied()), (0x90, Some(qos)), "{suback:?}");
    }

    /// A round trip: the broker has taken everything that was sent before.
    pub fn ping(&mut self) {
        self.send(&[0xC0, 0]);
        assert_eq!(self.packet(), Packet { first: 0xD0, body: Vec::new() });
    }
}

/// CONNECT of MQTT 5, clean start, keep alive off.
pub(super) fn connect(client_id: &str) -> Vec<u8> {
    let mut body = string("MQTT");
    body.extend([5, 0b10, 0, 0, 0]);
    body.extend(string(client_id));
    packet(0x10, &body)
}

pub(super) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let body = [&string(topic), &[0][..], payload].concat();
    packet(0x30, &body)
}

pub(super) fn publish_qos_1(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let body = [&string(topic), &id.to_be_bytes()[..], &[0], payload].concat();
    packet(0x32, &body)
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes.extend_from_slice(body);
    bytes
}
