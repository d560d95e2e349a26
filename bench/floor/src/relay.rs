//! The relay without its sockets: bytes of a connection in, bytes for connections out. Called by
//! the loop, which owns the sockets and their order, and by tests. No I/O, no clock; allocates only
//! when a buffer grows or a topic is new.

use super::frame::{Front, front};
use super::group::Grant;
use super::outbox::Outbox;
use super::peer::Peer;
use super::routes::Routes;
use super::wire::{self, Fields, Malformed, PublishMetadata};

/// Largest accepted packet, in bytes. CONNACK announces it to MQTT 5 clients.
pub const PACKET_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Why a connection must be closed, after one attempt to send the unsent bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It sent DISCONNECT.
    Left,
    /// It sent an invalid packet, or requested an unsupported feature.
    Faulty(Malformed),
}

impl From<Malformed> for Ended {
    fn from(malformed: Malformed) -> Self {
        Self::Faulty(malformed)
    }
}

/// Every connection with its subscriptions.
#[derive(Debug)]
pub struct Relay {
    /// Outgoing data.
    pub out: Outbox,
    free: Vec<u32>,
    routes: Routes,
    packets: u64,
}

impl Relay {
    /// Without connections.
    pub fn new() -> Self {
        Self { out: Outbox::default(), free: Vec::new(), routes: Routes::new(), packets: 0 }
    }

    /// Index for a new connection. Indexes of closed ones are used again.
    pub fn open(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.out.peers.push(Peer::default());
            u32::try_from(self.out.peers.len() - 1).expect("far fewer file descriptors than that")
        })
    }

    /// Ends a connection and its subscriptions.
    pub fn close(&mut self, index: u32) {
        for filter in &self.out.peers[index as usize].filters {
            self.routes.unsubscribe(filter, index);
        }
        self.out.reset(index);
        self.free.push(index);
    }

    /// The connection with an index.
    pub fn peer(&mut self, index: u32) -> &mut Peer {
        &mut self.out.peers[index as usize]
    }

    /// Number of packets accepted in total.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Handles every complete packet at the front of `bytes`. Returns their number of bytes.
    pub fn receive(&mut self, from: u32, bytes: &[u8]) -> Result<usize, Ended> {
        let mut rest = bytes;
        loop {
            match front(rest)? {
                Front::Whole(frame) => {
                    rest = &rest[frame.bytes.len()..];
                    self.packets += 1;
                    // Packets of every message first; the others are distinguished below.
                    let peer = &mut self.out.peers[from as usize];
                    match frame.bytes[0] {
                        0x30..=0x3F if peer.connected => {
                            peer.publishes = true;
                            let v5 = peer.v5;
                            self.publish(from, v5, frame.bytes, frame.bytes.len() - frame.body.len())?;
                        }
                        0x40 if peer.connected => self.acknowledged(from, frame.body)?,
                        first => self.take(from, first, frame.body)?,
                    }
                }
                Front::Partial(total) if total > PACKET_BYTES_MAX as usize => {
                    return Err(Malformed("packet larger than 64 MiB").into());
                }
                Front::Partial(_) if rest[0] != 0x10 && !self.out.peers[from as usize].connected => {
                    // A client of another protocol would wait forever for an answer.
                    return Err(Malformed("something before CONNECT").into());
                }
                Front::Partial(_) | Front::Unknown => return Ok(bytes.len() - rest.len()),
            }
        }
    }

    #[inline(never)]
    fn take(&mut self, from: u32, first: u8, body: &[u8]) -> Result<(), Ended> {
        if !self.out.peers[from as usize].connected {
            return self.connect(from, first, body);
        }
        // The lower half of the first byte is fixed, except in PUBLISH [MQTT-2.1.3-1].
        match first {
            // PUBREC and PUBCOMP of a subscriber
            0x50 => Ok(self.received(from, body)?),
            0x70 => Ok(self.acknowledged(from, body)?),
            // PUBREL of a publisher, whose message was sent on when it arrived
            0x62 => Ok(self.answer(from, 0x70, body)?),
            0x82 => self.subscribe(from, body),
            0xA2 => self.unsubscribe(from, body),
            0xC0 if body.is_empty() => {
                self.out.push(from, &[0xD0, 0]);
                Ok(())
            }
            0xE0 => Err(Ended::Left),
            _ => Err(Malformed("packet that a client does not send").into()),
        }
    }

    #[inline(never)]
    fn publish(&mut self, from: u32, v5: bool, packet: &[u8], body_at: usize) -> Result<(), Malformed> {
        let (first, body) = (packet[0], &packet[body_at..]);
        let PublishMetadata { topic, packet_id, .. } = wire::publish_metadata(v5, first, body)?;
        let Some(groups) = self.routes.find(topic) else {
            self.routes.learn(topic)?;
            return self.publish(from, v5, packet, body_at);
        };
        if packet_id > 0 {
            self.out.push_ack(from, if first & 6 == 2 { 0x40 } else { 0x50 }, packet_id);
        }
        for group in groups {
            // Plain subscribers with the publisher's version and QoS get the packet unchanged,
            // unless it is marked as retained or as a duplicate: these flags are not for
            // subscribers.
            if first == 0x30 && group.is_plain_of(v5) {
                self.out.deliver(&group.to, packet);
            } else if first == group.first_with_id && group.is_plain_of(v5) {
                self.out.deliver_with_id(&group.to, packet, body_at + 2 + topic.len());
            } else {
                self.out.deliver_anew(from, &wire::publish(v5, first, body)?, group);
            }
        }
        Ok(())
    }

    #[inline]
    fn acknowledged(&mut self, from: u32, body: &[u8]) -> Result<(), Malformed> {
        Fields(body).packet_id()?;
        self.out.acknowledged(from);
        Ok(())
    }

    /// PUBREC of a subscriber: answered with PUBREL, unless the subscriber has refused the message,
    /// which ends the exchange (section 4.3.3).
    #[inline(never)]
    fn received(&mut self, from: u32, body: &[u8]) -> Result<(), Malformed> {
        match body {
            [_, _, reason, ..] if *reason >= 0x80 => self.acknowledged(from, body),
            _ => self.answer(from, 0x62, body),
        }
    }

    fn answer(&mut self, to: u32, first: u8, body: &[u8]) -> Result<(), Malformed> {
        self.out.push_ack(to, first, Fields(body).packet_id()?);
        Ok(())
    }

    #[inline(never)]
    fn connect(&mut self, from: u32, first: u8, body: &[u8]) -> Result<(), Ended> {
        if first != 0x10 {
            return Err(Malformed("something before CONNECT").into());
        }
        let Some(hello) = wire::connect(body)? else {
            self.out.push(from, &[0x20, 2, 0, 1]);
            return Err(Malformed("CONNECT for a protocol other than MQTT 3.1, 3.1.1 and 5.0").into());
        };
        if hello.authentication {
            self.out.push(from, &[0x20, 3, 0, 0x8C, 0]);
            return Err(Malformed("CONNECT with an authentication method").into());
        }
        if !hello.v5 && hello.client_id.is_empty() && !hello.clean {
            self.out.push(from, &[0x20, 2, 0, 2]); // [MQTT-3.1.3-8]
            return Err(Malformed("CONNECT without client identifier that is to keep its session").into());
        }
        self.out.peers[from as usize].accept(&hello);
        if !hello.v5 {
            self.out.push(from, &[0x20, 2, 0, 0]);
            return Ok(());
        }
        // Unsupported: sessions that outlive the connection, retained messages, subscription
        // identifiers, shared subscriptions. An absent Topic Alias Maximum means 0.
        let mut properties = vec![0x11, 0, 0, 0, 0, 0x25, 0, 0x29, 0, 0x2A, 0, 0x27];
        properties.extend(PACKET_BYTES_MAX.to_be_bytes());
        if hello.client_id.is_empty() {
            let id = format!("floor-{from}");
            properties.extend([0x12, 0, u8::try_from(id.len()).expect("a number has few digits")]);
            properties.extend(id.as_bytes());
        }
        let length = u8::try_from(properties.len()).expect("under forty bytes");
        self.out.push(from, &[0x20, length + 3, 0, 0, length]);
        self.out.push(from, &properties);
        Ok(())
    }

    #[inline(never)]
    fn subscribe(&mut self, from: u32, body: &[u8]) -> Result<(), Ended> {
        self.each_filter(from, 0x90, body, |peer, routes, filter, fields| {
            let options = fields.byte()?;
            let known = if peer.v5 { 0x3F } else { 0x03 };
            if options & !known != 0 || options & 3 == 3 || !wire::is_filter(filter) {
                return Err(Malformed("SUBSCRIBE with a filter or options that are not valid"));
            }
            let qos = options & 3;
            let failure = |code: u8| if peer.v5 { code } else { 0x80 };
            if filter.starts_with(b"$share/") {
                return Ok(failure(0x9E));
            }
            let grant = Grant {
                v5: peer.v5,
                qos,
                packet_bytes_max: peer.packet_bytes_max,
                no_local: options & 4 != 0,
            };
            let added = routes.subscribe(filter, from, grant);
            if added == Some(true) {
                peer.filters.push(filter.into());
            }
            Ok(if added.is_some() { qos } else { failure(0x97) })
        })
    }

    #[inline(never)]
    fn unsubscribe(&mut self, from: u32, body: &[u8]) -> Result<(), Ended> {
        self.each_filter(from, 0xB0, body, |peer, routes, filter, _| {
            if !routes.unsubscribe(filter, from) {
                return Ok(0x11);
            }
            peer.filters.retain(|held| **held != *filter);
            Ok(0)
        })
    }

    /// Reads a SUBSCRIBE or UNSUBSCRIBE, calls `code` for each of its filters, and answers with the
    /// codes.
    fn each_filter(
        &mut self,
        from: u32,
        answer: u8,
        body: &[u8],
        code: impl Fn(&mut Peer, &mut Routes, &[u8], &mut Fields<'_>) -> Result<u8, Malformed>,
    ) -> Result<(), Ended> {
        let peer = &mut self.out.peers[from as usize];
        let mut fields = Fields(body);
        let packet_id = fields.packet_id()?;
        if peer.v5 {
            fields.properties(only_user_properties)?;
        }
        let mut codes = Vec::new();
        while !fields.0.is_empty() || codes.is_empty() {
            let filter = fields.prefixed()?;
            codes.push(code(peer, &mut self.routes, filter, &mut fields)?);
        }
        let properties: &[u8] = if peer.v5 { &[0] } else { &[] };
        if answer == 0xB0 && !peer.v5 {
            // Before MQTT 5, UNSUBACK has no codes.
            codes.clear();
        }
        let mut packet = vec![answer];
        wire::push_variable(2 + properties.len() + codes.len(), &mut packet);
        packet.extend(packet_id.to_be_bytes());
        packet.extend(properties);
        packet.extend(codes);
        self.out.push(from, &packet);
        Ok(())
    }
}

fn only_user_properties(id: u8, _value: Fields<'_>) -> Result<(), Malformed> {
    if id == 0x26 {
        Ok(())
    } else {
        Err(Malformed("SUBSCRIBE or UNSUBSCRIBE with a property that CONNACK had not allowed"))
    }
}
