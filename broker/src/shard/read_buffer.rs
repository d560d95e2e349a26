//! The read buffer of one connection: bytes that could not be taken yet, because a packet is
//! incomplete or the engine reads nothing. Used by the connection's read step. It parses the length
//! of packets and nothing else.

use bytes::Bytes;
use grapnel_engine::codec::frame_len;
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{Input, Next, Received};

/// A packet of at least this size is passed to the engine in its own buffer, so that its payload is
/// not copied. Smaller payloads are copied by the engine anyway.
const OWNED_BYTES_MIN: usize = 4096;

/// Longest fixed header (MQTT 5 section 2.1.4): a type and four bytes of remaining length.
const FIXED_HEADER_BYTES_MAX: usize = 5;

/// The read buffer of a connection. An idle connection has an empty one, which owns no memory.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    /// Bytes at the front that the engine has taken.
    start: usize,
}

/// What the caller must do after bytes have been offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read on.
    Read,
    /// Read nothing until the engine says so.
    Pause,
    /// Move the connection to this shard, with these bytes, which no engine has taken.
    Handoff(ShardId, Vec<u8>),
    /// The engine has ended the connection.
    Closed,
}

impl ReadBuffer {
    /// The bytes that a connection brings from the shard that accepted it.
    pub fn brought(bytes: Vec<u8>) -> ReadBuffer {
        ReadBuffer { bytes, start: 0 }
    }

    /// Bytes of memory in use, which count against `partial_bytes_max`.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether there is nothing to offer.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Adds bytes that were received while nothing is to be offered.
    pub fn hold(&mut self, received: &[u8]) {
        self.keep(received);
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Offers the stored bytes, then `incoming`, to `receive` (the engine) until it wants no more;
    /// stores the rest.
    pub fn offer(&mut self, mut incoming: &[u8], mut receive: impl FnMut(Input<'_>) -> Received) -> Step {
        while !self.is_empty() {
            let taken = self.complete_packet(&mut incoming);
            let received = self.offer_unread(&mut receive);
            match received.next {
                Next::Read if received.consumed == 0 && (incoming.is_empty() || !taken) => {
                    // The packet is incomplete. (Further bytes after a complete packet are not
                    // possible here: the engine takes a complete packet, pauses or closes.)
                    self.keep(incoming);
                    return Step::Read;
                }
                Next::Read => {}
                next => return self.stop(next, incoming),
            }
        }
        if incoming.is_empty() {
            return Step::Read;
        }
        let received = receive(Input::Scratch(incoming));
        let left = &incoming[received.consumed.min(incoming.len())..];
        match received.next {
            Next::Read => {
                self.keep(left);
                Step::Read
            }
            next => self.stop(next, left),
        }
    }

    /// Moves the missing bytes of the begun packet from `incoming` to the buffer. Returns whether
    /// there were any.
    ///
    /// Memory grows as bytes arrive, not by the length that a header announces, and not beyond the
    /// end of the packet: the buffer of a large PUBLISH becomes the message's final memory.
    fn complete_packet(&mut self, incoming: &mut &[u8]) -> bool {
        let before = incoming.len();
        loop {
            let held = self.bytes.len() - self.start;
            let whole = frame_len(self.unread());
            let wanted = match whole {
                Some(length) => length.saturating_sub(held),
                // A header longer than five bytes is invalid; the engine rejects it when it gets
                // these bytes.
                None => FIXED_HEADER_BYTES_MAX.saturating_sub(held),
            };
            let count = wanted.min(incoming.len());
            if count == 0 {
                break;
            }
            let (now, later) = incoming.split_at(count);
            self.append(now, whole.unwrap_or(0));
            *incoming = later;
        }
        incoming.len() < before
    }

    fn append(&mut self, more: &[u8], packet: usize) {
        let needed = self.bytes.len() + more.len();
        if needed > self.bytes.capacity() {
            let grown = needed.max((self.bytes.capacity() * 2).min(self.start + packet));
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
    }

    fn offer_unread(&mut self, receive: &mut impl FnMut(Input<'_>) -> Received) -> Received {
        let held = self.bytes.len();
        let one_packet = self.start == 0 && held >= OWNED_BYTES_MIN && frame_len(&self.bytes) == Some(held);
        if !one_packet {
            let received = receive(Input::Scratch(self.unread()));
            self.start = (self.start + received.consumed).min(held);
            if self.is_empty() {
                *self = ReadBuffer::default();
            }
            return received;
        }
        let packet = Bytes::from(std::mem::take(&mut self.bytes));
        let received = receive(Input::Owned(&packet));
        if received.consumed < packet.len() {
            self.bytes = packet.slice(received.consumed..).into();
        }
        received
    }

    fn stop(&mut self, next: Next, left: &[u8]) -> Step {
        match next {
            Next::Read => Step::Read,
            Next::Pause => {
                self.keep(left);
                Step::Pause
            }
            Next::Handoff(shard) => {
                self.keep(left);
                let mut unread = std::mem::take(self);
                unread.bytes.drain(..unread.start);
                Step::Handoff(shard, unread.bytes)
            }
            Next::Closed => {
                *self = ReadBuffer::default();
                Step::Closed
            }
        }
    }

    fn keep(&mut self, left: &[u8]) {
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes whole packets as the engine does, and records how each was passed.
    #[derive(Default)]
    struct Taker {
        packets: Vec<Vec<u8>>,
        owned: Vec<usize>,
        /// The answer after this number of packets.
        then: Option<(usize, Next)>,
        calls: usize,
    }

    impl Taker {
        fn take(&mut self, input: Input<'_>) -> Received {
            self.calls += 1;
            let (mut bytes, owned): (&[u8], bool) = match input {
                Input::Scratch(bytes) => (bytes, false),
                Input::Owned(bytes) => (bytes, true),
            };
            let before = bytes.len();
            while let Some(length) = frame_len(bytes).filter(|length| *length <= bytes.len()) {
                if let Some((after, next)) = self.then
                    && self.packets.len() == after
                {
                    return Received { consumed: before - bytes.len(), next };
                }
                self.packets.push(bytes[..length].to_vec());
                if owned {
                    self.owned.push(length);
                }
                bytes = &bytes[length..];
            }
            Received { consumed: before - bytes.len(), next: Next::Read }
        }
    }

    /// A PUBLISH with this number of bytes after its header, none of them zero.
    fn packet(remaining: usize) -> Vec<u8> {
        let mut bytes = vec![0x30];
        let mut rest = remaining;
        loop {
            let more = rest >> 7 != 0;
            bytes.push((rest & 0x7f) as u8 | if more { 0x80 } else { 0 });
            rest >>= 7;
            if !more {
                break;
            }
        }
        bytes.extend((0..remaining).map(|n| (n % 251) as u8 + 1));
        bytes
    }

    fn feed(rest: &mut ReadBuffer, taker: &mut Taker, bytes: &[u8]) -> Step {
        rest.offer(bytes, |input| taker.take(input))
    }

    #[test]
    fn whole_packets_leave_nothing_and_no_memory() {
        let (mut rest, mut taker) = (ReadBuffer::default(), Taker::default());
        let bytes = [packet(2), packet(300)].concat();
        assert_eq!(feed(&mut rest, &mut taker, &bytes), Step::Read);
        assert_eq!((taker.packets.len(), taker.calls), (2, 1));
        assert_eq!(rest.memory(), 0);
    }

    #[test]
    fn packets_cut_at_every_place_arrive_as_they_were_sent() {
        let stream = [packet(2), packet(0), packet(200), packet(9000), packet(5), packet(4100)].concat();
        let mut whole = Taker::default();
        feed(&mut ReadBuffer::default(), &mut whole, &stream);
        for step in [1, 2, 3, 7, 64, 1000, 4096, 8191] {
            let (mut rest, mut taker) = (ReadBuffer::default(), Taker::default());
            for piece in stream.chunks(step) {
                assert_eq!(feed(&mut rest, &mut taker, piece), Step::Read);
            }
            assert_eq!(taker.packets, whole.packets, "cut every {step} bytes");
            assert_eq!(rest.memory(), 0, "cut every {step} bytes");
        }
    }

    #[test]
    fn a_large_packet_is_handed_over_in_its_own_buffer_and_nothing_else_is_in_it() {
        let (mut rest, mut taker) = (ReadBuffer::default(), Taker::default());
        let stream = [packet(100_000), packet(3)].concat();
        let (first, second) = stream.split_at(65_536);
        feed(&mut rest, &mut taker, first);
        assert_eq!(feed(&mut rest, &mut taker, second), Step::Read);
        assert_eq!(taker.owned, [100_004]);
        assert_eq!(taker.packets.len(), 2);
    }

    #[test]
    fn memory_is_allocated_for_received_bytes_only() {
        let (mut rest, mut taker) = (ReadBuffer::default(), Taker::default());
        let stream = packet(1_000_000);
        feed(&mut rest, &mut taker, &stream[..100]);
        assert!(rest.memory() <= 200, "{} bytes held for 100", rest.memory());
        for piece in stream[100..900_000].chunks(10_000) {
            feed(&mut rest, &mut taker, piece);
        }
        assert!(
            rest.memory() <= stream.len(),
            "{} bytes held for a packet of {}",
            rest.memory(),
            stream.len()
        );
    }

    #[test]
    fn a_pause_keeps_everything_and_goes_on_where_it_stopped() {
        let (mut rest, mut taker) =
            (ReadBuffer::default(), Taker { then: Some((1, Next::Pause)), ..Taker::default() });
        let stream: Vec<Vec<u8>> = vec![packet(3), packet(4), packet(5000), packet(6)];
        assert_eq!(feed(&mut rest, &mut taker, &stream.concat()), Step::Pause);
        assert_eq!(taker.packets.len(), 1);
        taker.then = Some((2, Next::Pause));
        assert_eq!(feed(&mut rest, &mut taker, &[]), Step::Pause);
        taker.then = None;
        assert_eq!(feed(&mut rest, &mut taker, &[]), Step::Read);
        assert_eq!(taker.packets, stream);
        assert_eq!(rest.memory(), 0);
    }

    #[test]
    fn a_pause_within_a_packet_that_is_not_whole_keeps_its_beginning() {
        let (mut rest, mut taker) =
            (ReadBuffer::default(), Taker { then: Some((0, Next::Pause)), ..Taker::default() });
        let stream = [packet(10), packet(20)].concat();
        assert_eq!(feed(&mut rest, &mut taker, &stream[..15]), Step::Pause);
        taker.then = None;
        assert_eq!(feed(&mut rest, &mut taker, &[]), Step::Read);
        assert_eq!(feed(&mut rest, &mut taker, &stream[15..]), Step::Read);
        assert_eq!(taker.packets.concat(), stream);
    }

    #[test]
    fn a_handoff_takes_every_unread_byte_along() {
        for cut in [1, 5, 12, 20] {
            let (mut rest, mut taker) = (
                ReadBuffer::default(),
                Taker { then: Some((0, Next::Handoff(ShardId(3)))), ..Taker::default() },
            );
            let stream = [packet(10), packet(20)].concat();
            let mut handed = feed(&mut rest, &mut taker, &stream[..cut]);
            if handed == Step::Read {
                handed = feed(&mut rest, &mut taker, &stream[cut..]);
                assert_eq!(handed, Step::Handoff(ShardId(3), stream.clone()), "cut at {cut}");
            } else {
                assert_eq!(handed, Step::Handoff(ShardId(3), stream[..cut].to_vec()), "cut at {cut}");
            }
            assert_eq!(rest.memory(), 0);
        }
    }

    #[test]
    fn an_end_forgets_what_was_held() {
        let (mut rest, mut taker) =
            (ReadBuffer::default(), Taker { then: Some((0, Next::Closed)), ..Taker::default() });
        assert_eq!(feed(&mut rest, &mut taker, &packet(10)[..5]), Step::Read);
        assert_eq!(feed(&mut rest, &mut taker, &packet(10)[5..]), Step::Closed);
        assert_eq!(rest.memory(), 0);
    }

    #[test]
    fn a_header_that_never_ends_reaches_the_engine_and_ends_there() {
        // A header whose length is invalid. The buffer must not offer it again and again to an
        // engine that asks for more bytes.
        let (mut rest, mut taker) = (ReadBuffer::default(), Taker::default());
        assert_eq!(feed(&mut rest, &mut taker, &[0x30, 0xff]), Step::Read);
        assert_eq!(feed(&mut rest, &mut taker, &[0xff, 0xff, 0xff, 0xff, 0xff]), Step::Read);
        assert_eq!(taker.packets.len(), 0);
    }
}
