//! One connection of the floor, without its socket: what it has agreed to, what waits to be sent to it, and its window
//! of unacknowledged messages. Owned by `relay`, which alone knows who is who; no I/O here.

use super::frame::{Front, front};
use super::wire;

/// Unacknowledged messages that a client gets at most, whatever it allows. Identifiers are given out in turn and
/// come round after 65,535, so that one is never given twice even if a client acknowledges out of order.
const WINDOW_MAX: u16 = 16_384;

/// Memory that a connection keeps for the next messages once all are sent. One turn of a fan-in takes as much.
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
    /// It stands in the relay's list of those to send to.
    pub dirty: bool,
    /// Largest packet it takes, in bytes.
    pub packet_bytes_max: u32,
    /// Every filter it has subscribed to, once.
    pub filters: Vec<Box<[u8]>>,
    out: Vec<u8>,
    sent: usize,
    last_id: u16,
    in_flight: u16,
    window: u16,
    /// PUBLISH packets that the window has no room for, and where the first begins.
    waiting: Vec<u8>,
    waiting_at: usize,
}

impl Peer {
    /// Bytes that may be sent now.
    pub fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// The first `count` of [`Peer::unsent`] are sent. Memory is kept for the next ones, unless it is very much.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
            if self.out.capacity() > KEPT_CAPACITY_BYTES {
                self.out = Vec::new();
            }
        } else if self.sent > self.out.len() / 2 {
            // Each byte is moved once at most for each time that as many were sent.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Bytes of messages that wait for acknowledgements of earlier ones.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.len() - self.waiting_at
    }

    /// What the CONNECT said.
    pub fn accept(&mut self, hello: &wire::Hello<'_>) {
        self.connected = true;
        self.v5 = hello.v5;
        self.packet_bytes_max = hello.packet_bytes_max;
        self.window = hello.receive_maximum.min(WINDOW_MAX);
    }

    /// Forgets everything for the next connection in the same place, except that the place is in the relay's list.
    pub fn reset(&mut self) {
        *self = Self { dirty: self.dirty, ..Self::default() };
    }

    /// Appends to what is to be sent.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends an acknowledgement without reason: in MQTT 5 that means success.
    #[inline]
    pub fn push_ack(&mut self, first: u8, packet_id: u16) {
        wire::push_ack(first, packet_id, &mut self.out);
    }

    /// Appends a PUBLISH of QoS 1 or 2 with an identifier of this connection's own at `id_at`, or has it wait.
    /// Answers how many bytes wait more than before.
    #[inline(always)]
    pub fn push_with_id(&mut self, packet: &[u8], id_at: usize) -> usize {
        if self.in_flight >= self.window {
            return self.wait(packet);
        }
        let id = self.next_id();
        let at = self.out.len() + id_at;
        self.out.extend_from_slice(packet);
        self.out[at..at + 2].copy_from_slice(&id.to_be_bytes());
        0
    }

    #[cold]
    #[inline(never)]
    fn wait(&mut self, packet: &[u8]) -> usize {
        self.waiting.extend_from_slice(packet);
        packet.len()
    }

    fn next_id(&mut self) -> u16 {
        self.in_flight += 1;
        self.last_id = if self.last_id == u16::MAX { 1 } else { self.last_id + 1 };
        self.last_id
    }

    /// A message is acknowledged for good, and the next that waits goes out. Answers how many bytes wait less.
    #[inline]
    pub fn acknowledged(&mut self) -> usize {
        // More acknowledgements than messages are the client's mistake and move nothing.
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.waiting.is_empty() { 0 } else { self.push_waiting() }
    }

    #[cold]
    #[inline(never)]
    fn push_waiting(&mut self) -> usize {
        let Ok(Front::Whole(frame)) = front(&self.waiting[self.waiting_at..]) else { return 0 };
        let length = frame.bytes.len();
        let Some(id_at) = wire::id_at(frame.bytes) else { return 0 };
        let packet = self.waiting_at..self.waiting_at + length;
        let at = self.out.len() + id_at;
        self.out.extend_from_slice(&self.waiting[packet]);
        let id = self.next_id();
        self.out[at..at + 2].copy_from_slice(&id.to_be_bytes());
        self.waiting_at += length;
        if self.waiting_at > self.waiting.len() / 2 {
            self.waiting.drain(..self.waiting_at);
            self.waiting_at = 0;
            if self.waiting.is_empty() && self.waiting.capacity() > KEPT_CAPACITY_BYTES {
                self.waiting = Vec::new();
            }
        }
        length
    }
}
