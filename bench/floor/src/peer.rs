//! One connection of the relay, without its socket: its negotiated properties, its unsent bytes,
//! and its window of unacknowledged messages. Owned by `relay`; no I/O here.

use super::wire;
use std::collections::VecDeque;

/// Maximum of unacknowledged messages to a client, whatever it allows. Identifiers are assigned in
/// turn and repeat after 65,535, so that none is in use twice even if a client acknowledges out of
/// order.
const WINDOW_MAX: u16 = 16_384;

/// Memory that a connection keeps for the next messages once all are sent. One turn of a fan-in
/// needs as much.
const KEPT_CAPACITY_BYTES: usize = 16 * 1024 * 1024;

/// State of a connection.
#[derive(Debug, Default)]
pub struct Peer {
    /// Its CONNECT has been accepted.
    pub connected: bool,
    /// Packets have properties.
    pub v5: bool,
    /// It has published.
    pub publishes: bool,
    /// It is in the relay's list of connections with new bytes.
    pub dirty: bool,
    /// Its Maximum Packet Size, in bytes.
    pub packet_bytes_max: u32,
    /// Every filter it has subscribed to, once.
    pub filters: Vec<Box<[u8]>>,
    out: Vec<u8>,
    sent: usize,
    last_id: u16,
    in_flight: u16,
    window: u16,
    /// PUBLISH packets that do not fit the window, each with the offset of its identifier.
    waiting: VecDeque<(Box<[u8]>, usize)>,
    waiting_bytes: usize,
}

impl Peer {
    /// Bytes that may be sent now.
    pub fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// The first `count` bytes of [`Peer::unsent`] are sent. Memory is kept for the next ones,
    /// unless it is very large.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
            if self.out.capacity() > KEPT_CAPACITY_BYTES {
                self.out = Vec::new();
            }
        } else if self.sent > self.out.len() / 2 {
            // Each byte is moved at most once for each time that as many were sent.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Bytes of messages that wait for acknowledgements of earlier ones.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Stores the contents of CONNECT.
    pub fn accept(&mut self, hello: &wire::Hello<'_>) {
        self.connected = true;
        self.v5 = hello.v5;
        self.packet_bytes_max = hello.packet_bytes_max;
        self.window = hello.receive_maximum.min(WINDOW_MAX);
    }

    /// Clears everything for the next connection with the same index, except that the index is in
    /// the relay's list.
    pub fn reset(&mut self) {
        *self = Self { dirty: self.dirty, ..Self::default() };
    }

    /// Appends bytes to be sent.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends an acknowledgement without a reason code: in MQTT 5 that means success.
    #[inline]
    pub fn push_ack(&mut self, first: u8, packet_id: u16) {
        wire::push_ack(first, packet_id, &mut self.out);
    }

    /// Appends a PUBLISH of QoS 1 or 2 with this connection's own identifier at `id_at`, or queues
    /// it. Returns by how many bytes the queue has grown.
    #[inline(always)]
    pub fn push_with_id(&mut self, packet: &[u8], id_at: usize) -> usize {
        if self.in_flight >= self.window {
            return self.wait(packet, id_at);
        }
        self.in_flight += 1;
        self.last_id = if self.last_id == u16::MAX { 1 } else { self.last_id + 1 };
        let at = self.out.len() + id_at;
        self.out.extend_from_slice(packet);
        self.out[at..at + 2].copy_from_slice(&self.last_id.to_be_bytes());
        0
    }

    #[cold]
    #[inline(never)]
    fn wait(&mut self, packet: &[u8], id_at: usize) -> usize {
        self.waiting.push_back((packet.into(), id_at));
        self.waiting_bytes += packet.len();
        packet.len()
    }

    /// A message is completely acknowledged, and the next waiting one is sent. Returns by how many
    /// bytes the queue has shrunk.
    #[inline]
    pub fn acknowledged(&mut self) -> usize {
        // More acknowledgements than messages are an error of the client and change nothing.
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.waiting.is_empty() { 0 } else { self.push_waiting() }
    }

    #[cold]
    #[inline(never)]
    fn push_waiting(&mut self) -> usize {
        // The acknowledgement has made room in the window, so it does not wait again.
        let Some((packet, id_at)) = self.waiting.pop_front() else { return 0 };
        self.waiting_bytes -= packet.len();
        self.push_with_id(&packet, id_at);
        packet.len()
    }
}
