//! A client that a test controls completely: it sends what the test says, byte by byte if needed,
//! and does nothing by itself.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::layers::{End, Layers};
use crate::wire::{Ack, Decoded, Properties, decode, encode};
use crate::{Broker, Connect, PATIENCE, Packet, Publish, Socket, Subscribe, Version};

/// The next event of a connection.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// A packet.
    Packet(Packet),
    /// The server closed the connection.
    Closed,
    /// Nothing within the timeout.
    Silence,
}

/// A connection, and the received packets that the test has not read yet.
pub struct Client {
    stream: TcpStream,
    /// What lies between the packets and the stream; nothing on a plain listener.
    layers: Option<Box<Layers>>,
    version: Version,
    buffer: Vec<u8>,
    aside: VecDeque<Packet>,
    last_id: u16,
}

/// Contents of CONNACK.
#[derive(Debug, PartialEq)]
pub struct Connack {
    /// Session present flag.
    pub session_present: bool,
    /// Reason or return code.
    pub code: u8,
    /// Properties.
    pub properties: Properties,
}

impl Client {
    /// A connection on which nothing of MQTT has been sent.
    ///
    /// # Panics
    /// If the broker does not accept it.
    #[track_caller]
    pub fn dial(broker: &Broker, version: Version) -> Client {
        let (stream, layers) = broker.connect().into_parts();
        Client { layers, ..Client::over(stream, None, version) }
    }

    /// The same for another listener than the broker's first, with plain TCP.
    ///
    /// # Panics
    /// As [`Client::dial`].
    #[track_caller]
    pub fn dial_at(address: SocketAddr, version: Version) -> Client {
        let stream = TcpStream::connect(address).expect("the broker accepts connections");
        stream.set_nodelay(true).expect("a fresh socket takes options");
        Client::over(stream, None, version)
    }

    /// A client on a connection that is open, with the layers that have shaken hands on it.
    pub fn over(stream: TcpStream, layers: Option<Layers>, version: Version) -> Client {
        let layers = layers.map(Box::new);
        Client { stream, layers, version, buffer: Vec::new(), aside: VecDeque::new(), last_id: 0 }
    }

    /// Sends CONNECT. Returns the CONNACK, whatever its code.
    #[track_caller]
    pub fn log_in(&mut self, connect: &Connect) -> Connack {
        self.send(&connect.encode());
        self.connack()
    }

    /// The layers, for tests that make what travels themselves.
    ///
    /// # Panics
    /// If the connection has none.
    #[track_caller]
    pub fn layers(&mut self) -> &mut Layers {
        self.layers.as_mut().expect("the connection has layers")
    }

    /// The bytes that carry `bytes` on this connection.
    pub fn encoded(&mut self, bytes: &[u8]) -> Vec<u8> {
        match &mut self.layers {
            Some(layers) => layers.encode(bytes),
            None => bytes.to_vec(),
        }
    }

    /// How the server has ended the layers so far.
    ///
    /// # Panics
    /// If the connection has none.
    #[track_caller]
    pub fn end_of_layers(&mut self) -> End {
        self.layers().end().clone()
    }

    /// Connects. Returns the CONNACK, whatever its code.
    #[track_caller]
    pub fn attempt(broker: &Broker, connect: &Connect) -> (Client, Connack) {
        let mut client = Client::dial(broker, connect.version);
        let connack = client.log_in(connect);
        (client, connack)
    }

    /// The same for another listener than the broker's first, with plain TCP.
    #[track_caller]
    pub fn attempt_at(address: SocketAddr, connect: &Connect) -> (Client, Connack) {
        let mut client = Client::dial_at(address, connect.version);
        let connack = client.log_in(connect);
        (client, connack)
    }

    /// Connects, and panics if that is refused.
    #[track_caller]
    pub fn connect(broker: &Broker, connect: &Connect) -> Client {
        let (client, connack) = Client::attempt(broker, connect);
        assert_eq!(connack.code, 0, "CONNACK of {:?}: {connack:?}", connect.client_id);
        client
    }

    /// Connects with a clean start and nothing else.
    #[track_caller]
    pub fn hello(broker: &Broker, version: Version, client_id: &str) -> Client {
        Client::connect(broker, &Connect::new(version, client_id))
    }

    /// Version of the protocol.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The TCP stream, for tests that need the socket itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns the connection, for a driver of many.
    ///
    /// # Panics
    /// If a packet has arrived that was not read.
    #[track_caller]
    pub fn into_socket(self) -> Socket {
        assert!(self.buffer.is_empty() && self.aside.is_empty(), "unread: {:?}", self.aside);
        Socket::over(self.stream, self.layers)
    }

    /// Sends these bytes.
    ///
    /// # Panics
    /// If the connection has ended.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        let bytes = self.encoded(bytes);
        self.send_encoded(&bytes);
    }

    /// Sends bytes as they are, below all layers.
    ///
    /// # Panics
    /// As [`Client::send`].
    #[track_caller]
    pub fn send_encoded(&mut self, bytes: &[u8]) {
        self.stream.set_write_timeout(Some(PATIENCE)).expect("not a zero timeout");
        self.stream.write_all(bytes).expect("the server takes what is sent");
    }

    /// Sends bytes to a server that may have closed already.
    pub fn send_anyway(&mut self, bytes: &[u8]) {
        let bytes = self.encoded(bytes);
        drop(self.stream.write_all(&bytes));
    }

    /// Sends a packet.
    #[track_caller]
    pub fn send_packet(&mut self, packet: &Packet) {
        let bytes = packet.encode(self.version);
        self.send(&bytes);
    }

    /// The next event, within `timeout`.
    ///
    /// # Panics
    /// If the server sends a packet that no server may send.
    #[track_caller]
    pub fn next(&mut self, timeout: Duration) -> Event {
        if let Some(packet) = self.aside.pop_front() {
            return Event::Packet(packet);
        }
        self.next_from_socket(timeout)
    }

    #[track_caller]
    fn next_from_socket(&mut self, timeout: Duration) -> Event {
        let deadline = Instant::now() + timeout;
        loop {
            match decode(self.version, &self.buffer) {
                Ok(Decoded::Packet(packet, used)) => {
                    self.buffer.drain(..used);
                    return Event::Packet(packet);
                }
                Ok(Decoded::More) => {}
                Err(error) => panic!("the server sent {error}"),
            }
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).expect("not a zero timeout");
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Event::Closed,
                Ok(read) => self.take_in(&chunk[..read]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Event::Silence;
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return Event::Closed;
                }
                Err(e) => panic!("reading from the server: {e}"),
            }
        }
    }

    /// Adds what was received to the buffer, without its layers.
    #[track_caller]
    fn take_in(&mut self, bytes: &[u8]) {
        let Some(layers) = &mut self.layers else { return self.buffer.extend_from_slice(bytes) };
        match layers.decode(bytes, &mut self.buffer) {
            // It may have closed meanwhile, which the next read shows.
            Ok(answers) => drop(self.stream.write_all(&answers)),
            Err(error) => panic!("the server sent {error}"),
        }
    }

    /// The next packet.
    ///
    /// # Panics
    /// If none arrives in time.
    #[track_caller]
    pub fn receive(&mut self) -> Packet {
        match self.next(PATIENCE) {
            Event::Packet(packet) => packet,
            other => panic!("{other:?} instead of a packet"),
        }
    }

    /// The next packet that `pick` accepts; others are stored for later calls, in order.
    ///
    /// # Panics
    /// If none arrives in time.
    #[track_caller]
    pub fn receive_where<T>(&mut self, what: &str, pick: impl Fn(&Packet) -> Option<T>) -> T {
        if let Some(place) = self.aside.iter().position(|packet| pick(packet).is_some()) {
            let packet = self.aside.remove(place).expect("just found");
            return pick(&packet).expect("just found");
        }
        loop {
            match self.next_from_socket(PATIENCE) {
                Event::Packet(packet) => match pick(&packet) {
                    Some(found) => return found,
                    None => self.aside.push_back(packet),
                },
                other => panic!("{other:?} instead of {what}; kept: {:?}", self.aside),
            }
        }
    }

    #[track_caller]
    fn connack(&mut self) -> Connack {
        match self.receive() {
            Packet::Connack { session_present, code, properties } => {
                Connack { session_present, code, properties }
            }
            other => panic!("{other:?} instead of CONNACK, [MQTT-3.2.0-1]"),
        }
    }

    /// A packet identifier that was not used before.
    pub fn fresh_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// Subscribes and returns the codes of SUBACK.
    #[track_caller]
    pub fn subscribe_all(&mut self, subscribe: &Subscribe) -> Vec<u8> {
        let id = self.fresh_id();
        self.send(&subscribe.encode(self.version, id));
        self.receive_where("SUBACK", |packet| match packet {
            Packet::Suback { id: got, codes, .. } if *got == id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Subscribes to one filter, and panics if the granted QoS differs from the options byte.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) {
        let codes = self.subscribe_all(&Subscribe::to(filter, options));
        assert_eq!(codes, [options & 3], "SUBACK of {filter:?}");
    }

    /// Unsubscribes and returns the codes of UNSUBACK, none before MQTT 5.
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.fresh_id();
        self.send(&encode::unsubscribe(self.version, id, filters));
        self.receive_where("UNSUBACK", |packet| match packet {
            Packet::Unsuback { id: got, codes, .. } if *got == id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Sends a PUBLISH, with a fresh identifier if it needs one and has none. Returns the
    /// identifier.
    #[track_caller]
    pub fn send_publish(&mut self, publish: &Publish) -> Option<u16> {
        let mut publish = publish.clone();
        if publish.qos > 0 && publish.id.is_none() {
            publish.id = Some(self.fresh_id());
        }
        self.send(&publish.encode(self.version));
        publish.id
    }

    /// Publishes and completes the acknowledgement. Returns the reason code of PUBACK or PUBREC, 0
    /// with QoS 0.
    #[track_caller]
    pub fn publish(&mut self, publish: &Publish) -> u8 {
        let Some(id) = self.send_publish(publish) else { return 0 };
        if publish.qos == 1 {
            return self.receive_where("PUBACK", |packet| match packet {
                Packet::Puback(ack) if ack.id == id => Some(ack.code),
                _ => None,
            });
        }
        let code = self.receive_where("PUBREC", |packet| match packet {
            Packet::Pubrec(ack) if ack.id == id => Some(ack.code),
            _ => None,
        });
        if code < 0x80 {
            self.send_packet(&Packet::Pubrel(Ack::of(id)));
            self.receive_where("PUBCOMP", |packet| {
                matches!(packet, Packet::Pubcomp(ack) if ack.id == id).then_some(())
            });
        }
        code
    }

    /// The next PUBLISH, without an acknowledgement.
    #[track_caller]
    pub fn receive_publish(&mut self) -> Publish {
        self.receive_where("PUBLISH", |packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
    }

    /// The next message, with the complete acknowledgement of its QoS.
    #[track_caller]
    pub fn message(&mut self) -> Publish {
        let publish = self.receive_publish();
        self.acknowledge(&publish);
        publish
    }

    /// Completes the acknowledgement of a received PUBLISH.
    #[track_caller]
    pub fn acknowledge(&mut self, publish: &Publish) {
        match (publish.qos, publish.id) {
            (1, Some(id)) => self.send_packet(&Packet::Puback(Ack::of(id))),
            (2, Some(id)) => {
                self.send_packet(&Packet::Pubrec(Ack::of(id)));
                self.receive_where("PUBREL", |p| {
                    matches!(p, Packet::Pubrel(ack) if ack.id == id).then_some(())
                });
                self.send_packet(&Packet::Pubcomp(Ack::of(id)));
            }
            _ => {}
        }
    }

    /// All messages up to the one with the payload `last`, which is left out.
    #[track_caller]
    pub fn messages_until(&mut self, last: &str) -> Vec<Publish> {
        let mut messages = Vec::new();
        loop {
            let message = self.message();
            if message.payload == last.as_bytes() {
                return messages;
            }
            messages.push(message);
        }
    }

    /// A round trip: when it returns, everything that the server had queued for this client has
    /// arrived.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send_packet(&Packet::Pingreq);
        self.receive_where("PINGRESP", |packet| matches!(packet, Packet::Pingresp).then_some(()));
    }

    /// Panics if a message arrives before a round trip ends. Only messages routed before are sure
    /// to be seen: with several shards, let the publisher send a last message first.
    #[track_caller]
    pub fn expect_no_message(&mut self) {
        self.ping();
        let waiting = self.aside.iter().find(|packet| matches!(packet, Packet::Publish(_)));
        assert_eq!(waiting, None, "a message nobody expected");
    }

    /// Waits until the server ends the connection. Returns the reason code of its DISCONNECT, if it
    /// sent one.
    ///
    /// # Panics
    /// If it does not close, or sends something after DISCONNECT.
    #[track_caller]
    pub fn end(&mut self) -> Option<u8> {
        let mut reason = None;
        loop {
            match self.next(PATIENCE) {
                Event::Closed => return reason,
                Event::Packet(Packet::Disconnect { code, .. }) => {
                    assert_eq!(reason, None, "a second DISCONNECT");
                    reason = Some(code);
                }
                Event::Packet(other) => {
                    assert_eq!(reason, None, "{other:?} after DISCONNECT, [MQTT-3.14.4-1]")
                }
                Event::Silence => panic!("the server neither closed nor said anything"),
            }
        }
    }

    /// All bytes until the server closes.
    ///
    /// # Panics
    /// If it does not close in time.
    #[track_caller]
    pub fn raw_until_closed(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("not a zero timeout");
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server does not close: {error}, after {bytes:02x?}"),
        }
        self.take_in(&bytes);
        std::mem::take(&mut self.buffer)
    }

    /// Sends DISCONNECT, and waits until the server has closed.
    #[track_caller]
    pub fn disconnect(mut self) {
        self.send(&[0xE0, 0]);
        self.end();
    }

    /// Closes without DISCONNECT, and waits until the server has closed its end too: later
    /// publishes meet a session without a connection.
    ///
    /// # Panics
    /// If the server does not close in time.
    #[track_caller]
    pub fn drop_connection(mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
        self.raw_until_closed();
    }
}
