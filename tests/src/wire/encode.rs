//! Packets a client sends, as bytes.

use super::{Ack, Connect, Packet, Properties, Publish, Subscribe, Value, Version, Will};

impl Connect {
    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        text(&mut body, self.version.name());
        body.push(self.version.level());
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.password.is_some()) << 6 | u8::from(self.username.is_some()) << 7;
        body.push(flags);
        body.extend(self.keep_alive_s.to_be_bytes());
        properties(&mut body, self.version, &self.properties);
        text(&mut body, &self.client_id);
        if let Some(Will { topic, payload, properties: will_properties, .. }) = &self.will {
            properties(&mut body, self.version, will_properties);
            text(&mut body, topic);
            binary(&mut body, payload);
        }
        if let Some(username) = &self.username {
            text(&mut body, username);
        }
        if let Some(password) = &self.password {
            binary(&mut body, password);
        }
        frame(0x10, &body)
    }
}

impl Publish {
    /// The packet.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = Vec::with_capacity(self.payload.len() + 64);
        text(&mut body, &self.topic);
        if let Some(id) = self.id {
            body.extend(id.to_be_bytes());
        }
        properties(&mut body, version, &self.properties);
        body.extend(&self.payload);
        frame(first, &body)
    }
}

impl Subscribe {
    /// The packet.
    pub fn encode(&self, version: Version, id: u16) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        properties(&mut body, version, &self.properties);
        for (filter, options) in &self.filters {
            text(&mut body, filter);
            body.push(*options);
        }
        frame(0x82, &body)
    }
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    properties(&mut body, version, &Properties::default());
    for filter in filters {
        text(&mut body, filter);
    }
    frame(0xA2, &body)
}

impl Packet {
    /// The packet as a client sends it.
    ///
    /// # Panics
    /// For packets that only servers send.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        match self {
            Packet::Publish(publish) => publish.encode(version),
            Packet::Puback(ack) => ack_packet(0x40, version, ack),
            Packet::Pubrec(ack) => ack_packet(0x50, version, ack),
            Packet::Pubrel(ack) => ack_packet(0x62, version, ack),
            Packet::Pubcomp(ack) => ack_packet(0x70, version, ack),
            Packet::Pingreq => vec![0xC0, 0],
            Packet::Disconnect { code, properties } => reason_packet(0xE0, version, *code, properties),
            Packet::Auth { code, properties } => reason_packet(0xF0, version, *code, properties),
            other => panic!("a client does not send {other:?}"),
        }
    }
}

fn ack_packet(first: u8, version: Version, ack: &Ack) -> Vec<u8> {
    let mut body = ack.id.to_be_bytes().to_vec();
    // Section 3.4.2.1: reason and property length may be left out on success.
    if version.is_5() && (ack.code != 0 || !ack.properties.0.is_empty()) {
        body.push(ack.code);
        properties(&mut body, version, &ack.properties);
    }
    frame(first, &body)
}

fn reason_packet(first: u8, version: Version, code: u8, list: &Properties) -> Vec<u8> {
    let mut body = Vec::new();
    if version.is_5() && (code != 0 || !list.0.is_empty()) {
        body.push(code);
        properties(&mut body, version, list);
    }
    frame(first, &body)
}

/// First byte, remaining length, body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(body.len() + 5);
    packet.push(first);
    variable(&mut packet, body.len() as u32);
    packet.extend(body);
    packet
}

fn variable(out: &mut Vec<u8>, mut number: u32) {
    loop {
        let low = (number & 0x7F) as u8;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    binary(out, text.as_bytes());
}

fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a test writes no string beyond 65,535 bytes");
    out.extend(length.to_be_bytes());
    out.extend(bytes);
}

fn properties(out: &mut Vec<u8>, version: Version, list: &Properties) {
    if !version.is_5() {
        assert!(list.0.is_empty(), "MQTT {version:?} has no properties");
        return;
    }
    let mut encoded = Vec::new();
    for (id, value) in &list.0 {
        encoded.push(*id);
        match value {
            Value::Byte(n) => encoded.push(*n),
            Value::U16(n) => encoded.extend(n.to_be_bytes()),
            Value::U32(n) => encoded.extend(n.to_be_bytes()),
            Value::Variable(n) => variable(&mut encoded, *n),
            Value::Text(t) => text(&mut encoded, t),
            Value::Binary(b) => binary(&mut encoded, b),
            Value::Pair(k, v) => {
                text(&mut encoded, k);
                text(&mut encoded, v);
            }
        }
    }
    variable(out, encoded.len() as u32);
    out.extend(encoded);
}
