//! A minimal broker for the tests of the load tool: CONNECT, SUBSCRIBE, PUBLISH of every QoS,
//! filters with wildcards and round-robin shared subscriptions, and faults on demand. One blocking
//! thread per connection.

use grapnel_floor::frame::{Front, front};
use grapnel_floor::wire::{self, Fields, Parts};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Faults and limits of this broker.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behaviour {
    /// CONNACK code for the user name `mallory`.
    pub refuse_mallory: Option<u8>,
    /// SUBACK code instead of the requested QoS.
    pub suback: Option<u8>,
    /// Close a connection after this many PUBLISH packets from it.
    pub drop_after: Option<u32>,
    /// Do not forward every n-th message.
    pub lose_every: Option<u32>,
    /// Forward every n-th message twice.
    pub double_every: Option<u32>,
    /// Receive Maximum in the CONNACK of MQTT 5.
    pub receive_maximum: Option<u16>,
    /// PUBACK with this reason code instead of success.
    pub puback: Option<u8>,
    /// Never acknowledge a PUBLISH.
    pub no_acks: bool,
    /// Close in the same write as soon as a subscriber was sent this many messages.
    pub close_subscriber_after: Option<u32>,
    /// Hold messages until there are so many, then forward them all.
    pub hold: Option<usize>,
    /// Forward nothing to the n-th subscriber, counted from 0.
    pub mute_subscriber: Option<usize>,
    /// Before the n-th message is forwarded, do nothing for so many milliseconds.
    pub pause: Option<(u32, u64)>,
    /// Never answer a CONNECT.
    pub no_connack: bool,
}

/// Events that it saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub client_ids: Vec<String>,
    pub protocol_levels: Vec<u8>,
    pub topics: HashMap<String, u32>,
    /// Maximum number of PUBLISH packets of one connection that had arrived before any was
    /// acknowledged.
    pub unacknowledged_max: usize,
    /// DISCONNECT packets.
    pub goodbyes: u32,
    /// Maximum number of messages held at once.
    pub held_max: usize,
    /// PUBLISH packets.
    pub published: u32,
}

#[derive(Debug, Default)]
struct Hub {
    subscribers: Vec<Subscriber>,
    forwarded: u32,
    shared_turn: usize,
    held: Vec<Held>,
    /// One counter for all connections: a packet id must not be in use twice on any.
    packet_id: u16,
    seen: Seen,
}

/// A message that is not forwarded yet.
#[derive(Debug)]
struct Held {
    topic: String,
    qos: u8,
    payload: Vec<u8>,
}

#[derive(Debug)]
struct Subscriber {
    filter: String,
    qos: u8,
    v5: bool,
    stream: TcpStream,
    sent: u32,
}

/// A broker on a port of its own. Its threads end with the test process.
pub struct Broker {
    pub addr: SocketAddr,
    hub: Arc<Mutex<Hub>>,
}

impl Broker {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let hub = Arc::new(Mutex::new(Hub::default()));
        let shared = Arc::clone(&hub);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, behaviour, &hub));
            }
        });
        Self { addr, hub }
    }

    pub fn seen(&self) -> Seen {
        self.hub.lock().unwrap().seen.clone()
    }
}

/// One connection, until it ends.
fn serve(mut stream: TcpStream, behaviour: Behaviour, hub: &Mutex<Hub>) {
    let mut session = Session { behaviour, v5: false, published: 0, acks: Vec::new() };
    let _ = stream.set_nodelay(true);
    let _ = session.run(&mut stream, hub);
    // The hub may have a copy of the stream: dropping this one would not close it.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

struct Session {
    behaviour: Behaviour,
    v5: bool,
    published: u32,
    acks: Vec<u8>,
}

impl Session {
    fn run(&mut self, stream: &mut TcpStream, hub: &Mutex<Hub>) -> Option<()> {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut chunk) {
            buffer.extend_from_slice(&chunk[..read]);
            while let Ok(Front::Whole(frame)) = front(&buffer) {
                let (length, first, body) = (frame.bytes.len(), frame.bytes[0], frame.body.to_vec());
                buffer.drain(..length);
                self.take(first, &body, stream, hub)?;
            }
            hub.lock().unwrap().release(self.behaviour);
            // Acknowledgements are sent per read, so that a window that is too wide is visible.
            let seen = &mut hub.lock().unwrap().seen;
            seen.unacknowledged_max = seen.unacknowledged_max.max(self.acks.len() / 4);
            if !self.behaviour.no_acks {
                stream.write_all(&self.acks).ok()?;
            }
            self.acks.clear();
        }
        None
    }

    /// `None` ends the connection.
    fn take(&mut self, first: u8, body: &[u8], stream: &mut TcpStream, hub: &Mutex<Hub>) -> Option<()> {
        match first >> 4 {
            1 => return self.connect(body, stream, hub),
            3 => return self.publish(first, body, hub),
            // PUBREC from a subscriber, PUBREL from a publisher.
            5 => stream.write_all(&[0x62, 2, body[0], body[1]]).ok()?,
            6 => stream.write_all(&[0x70, 2, body[0], body[1]]).ok()?,
            8 => self.subscribe(body, stream, hub)?,
            12 => stream.write_all(&[0xD0, 0]).ok()?,
            14 => {
                hub.lock().unwrap().seen.goodbyes += 1;
                return None;
            }
            _ => {}
        }
        Some(())
    }

    fn connect(&mut self, body: &[u8], stream: &mut TcpStream, hub: &Mutex<Hub>) -> Option<()> {
        let mut fields = Fields(body);
        let (name, level) = (text(&mut fields), fields.byte().unwrap());
        assert_eq!(name, if level == 3 { "MQIsdp" } else { "MQTT" });
        self.v5 = level == 5;
        let (flags, _keep_alive_s) = (fields.byte().unwrap(), fields.number().unwrap());
        if self.v5 {
            fields.skip_properties().unwrap();
        }
        let client_id = text(&mut fields);
        let user_name = if flags & 0x80 != 0 { text(&mut fields) } else { String::new() };
        let mut hub = hub.lock().unwrap();
        hub.seen.client_ids.push(client_id);
        hub.seen.protocol_levels.push(level);
        drop(hub);
        if self.behaviour.no_connack {
            return Some(());
        }

        let code = self.behaviour.refuse_mallory.filter(|_| user_name == "mallory").unwrap_or(0);
        let maximum = self.behaviour.receive_maximum.unwrap_or(u16::MAX).to_be_bytes();
        let connack: &[u8] =
            if self.v5 { &[0x20, 6, 0, code, 3, 0x21, maximum[0], maximum[1]] } else { &[0x20, 2, 0, code] };
        stream.write_all(connack).ok()?;
        (code == 0).then_some(())
    }

    fn subscribe(&self, body: &[u8], stream: &mut TcpStream, hub: &Mutex<Hub>) -> Option<()> {
        let mut fields = Fields(if self.v5 { &body[3..] } else { &body[2..] });
        let mut codes = Vec::new();
        let mut hub = hub.lock().unwrap();
        while !fields.0.is_empty() {
            let (filter, qos) = (text(&mut fields), fields.byte().unwrap());
            codes.push(self.behaviour.suback.unwrap_or(qos));
            let (v5, stream) = (self.v5, stream.try_clone().unwrap());
            hub.subscribers.push(Subscriber { filter, qos, v5, stream, sent: 0 });
        }
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        let length = u8::try_from(2 + properties.len() + codes.len()).unwrap();
        let suback = [&[0x90, length, body[0], body[1]], properties, &codes].concat();
        stream.write_all(&suback).ok()
    }

    fn publish(&mut self, first: u8, body: &[u8], hub: &Mutex<Hub>) -> Option<()> {
        self.published += 1;
        let Parts { qos, topic, packet_id, payload, .. } = wire::publish(self.v5, first, body).unwrap();
        let topic = String::from_utf8(topic.to_vec()).unwrap();
        if qos > 0 {
            let (ack, [high, low]) = (if qos == 1 { 0x40 } else { 0x50 }, packet_id.to_be_bytes());
            match self.behaviour.puback {
                Some(code) => self.acks.extend([ack, 3, high, low, code]),
                None => self.acks.extend([ack, 2, high, low]),
            }
        }
        let mut hub = hub.lock().unwrap();
        hub.seen.published += 1;
        if self.behaviour.hold.is_some() {
            hub.held.push(Held { topic, qos, payload: payload.to_vec() });
        } else {
            hub.forward(&topic, qos, payload, self.behaviour);
        }
        (self.behaviour.drop_after != Some(self.published)).then_some(())
    }
}

impl Hub {
    /// Forwards the held messages, if there are enough of them.
    fn release(&mut self, behaviour: Behaviour) {
        self.seen.held_max = self.seen.held_max.max(self.held.len());
        if behaviour.hold.is_some_and(|hold| self.held.len() >= hold) {
            for held in std::mem::take(&mut self.held) {
                self.forward(&held.topic, held.qos, &held.payload, behaviour);
            }
        }
    }

    fn forward(&mut self, topic: &str, qos: u8, payload: &[u8], behaviour: Behaviour) {
        *self.seen.topics.entry(topic.to_owned()).or_default() += 1;
        self.forwarded += 1;
        if let Some((_, pause_ms)) = behaviour.pause.filter(|(number, _)| *number == self.forwarded) {
            #[allow(clippy::disallowed_methods, reason = "the pause is what is tested")]
            std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        }
        let every = |n: Option<u32>| n.is_some_and(|n| self.forwarded.is_multiple_of(n));
        let copies =
            if every(behaviour.lose_every) { 0 } else { 1 + u32::from(every(behaviour.double_every)) };
        let shared: Vec<_> = (0..self.subscribers.len())
            .filter(|at| self.subscribers[*at].filter == format!("$share/g/{topic}"))
            .collect();
        self.shared_turn += 1;
        let chosen = (!shared.is_empty()).then(|| shared[self.shared_turn % shared.len()]);
        for _ in 0..copies {
            for (at, subscriber) in self.subscribers.iter_mut().enumerate() {
                if behaviour.mute_subscriber == Some(at) {
                    continue;
                }
                if wire::matches(subscriber.filter.as_bytes(), topic.as_bytes()) || chosen == Some(at) {
                    self.packet_id = self.packet_id % u16::MAX + 1;
                    subscriber.send(topic, qos, self.packet_id, payload);
                    if behaviour.close_subscriber_after == Some(subscriber.sent) {
                        let _ = subscriber.stream.shutdown(std::net::Shutdown::Both);
                    }
                }
            }
        }
    }
}

impl Subscriber {
    fn send(&mut self, topic: &str, qos: u8, packet_id: u16, payload: &[u8]) {
        self.sent += 1;
        let (qos, topic) = (qos.min(self.qos), topic.as_bytes());
        let mut frame = Vec::new();
        wire::push_publish(self.v5, &Parts { qos, topic, packet_id, properties: &[], payload }, &mut frame);
        // A subscriber that has left does not matter here.
        let _ = self.stream.write_all(&frame);
    }
}

fn text(fields: &mut Fields<'_>) -> String {
    String::from_utf8(fields.prefixed().unwrap().to_vec()).unwrap()
}
