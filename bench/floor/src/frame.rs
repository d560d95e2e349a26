//! Splits a byte stream into control packets. Relay and load generator call it for every packet; it
//! has no state.

/// Description of an invalid packet. Two registers, unlike a `String`: it is part of the result for
/// every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// One complete control packet at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The packet with its fixed header.
    pub bytes: &'a [u8],
    /// The bytes after the fixed header.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Packet type, the upper half of the first byte.
    pub fn kind(&self) -> u8 {
        self.bytes[0] >> 4
    }
}

/// The front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front<'a> {
    /// A complete frame.
    Whole(Frame<'a>),
    /// An incomplete frame of this total length, in bytes.
    Partial(usize),
    /// Too few bytes for the length.
    Unknown,
}

/// Examines the front of `bytes`. Fails if the remaining length takes more than four bytes.
#[inline]
pub fn front(bytes: &[u8]) -> Result<Front<'_>, Malformed> {
    // Most packets are short, and this runs for each.
    match bytes {
        [_, length @ 0..=0x7F, ..] => {
            let total = 2 + usize::from(*length);
            Ok(match bytes.get(..total) {
                Some(whole) => Front::Whole(Frame { bytes: whole, body: &whole[2..] }),
                None => Front::Partial(total),
            })
        }
        _ => front_of_long(bytes),
    }
}

fn front_of_long(bytes: &[u8]) -> Result<Front<'_>, Malformed> {
    let mut length = 0_usize;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let head = 2 + at;
            let total = head + length;
            return Ok(match bytes.get(..total) {
                Some(whole) => Front::Whole(Frame { bytes: whole, body: &whole[head..] }),
                None => Front::Partial(total),
            });
        }
    }
    if bytes.len() >= 5 {
        return Err(Malformed("packet whose length takes more than four bytes"));
    }
    Ok(Front::Unknown)
}

/// Memory that a connection keeps for incomplete packets, after one that was larger.
const KEPT_CAPACITY_BYTES: usize = 1024 * 1024;

/// The bytes of an incomplete packet of a connection. Reads use a buffer that connections share.
#[derive(Debug, Default)]
pub struct Incomplete(Vec<u8>);

impl Incomplete {
    /// Copies the bytes to the front of a buffer; the next read goes after them. Returns how many
    /// bytes were copied: 0 if they are more than half of the buffer, which [`Incomplete::go_on`]
    /// handles.
    pub fn put_into(&self, buffer: &mut [u8]) -> usize {
        let in_front = if self.0.len() <= buffer.len() / 2 { self.0.len() } else { 0 };
        buffer[..in_front].copy_from_slice(&self.0[..in_front]);
        in_front
    }

    /// Passes the bytes to `take`, which consumes the complete packets, and stores the rest.
    /// `bytes` are those that [`Incomplete::put_into`] copied, `in_front` of them, and those read;
    /// `take` returns how many it consumed.
    #[inline]
    pub fn go_on<E>(
        &mut self,
        bytes: &[u8],
        in_front: usize,
        take: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        if in_front == self.0.len() {
            let taken = take(bytes)?;
            self.0.clear();
            self.0.extend_from_slice(&bytes[taken..]);
        } else {
            self.0.extend_from_slice(bytes);
            let taken = take(&self.0)?;
            self.0.drain(..taken);
            if taken > 0 && self.0.capacity() > KEPT_CAPACITY_BYTES {
                self.0 = self.0.as_slice().to_vec();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stream_is_cut_at_frame_borders_wherever_the_reads_end() {
        let mut stream = vec![0xD0, 0];
        stream.extend([0x40, 2, 0, 9]);
        stream.extend([0x30, 0xC8, 0x01]);
        stream.extend([7; 200]);
        let whole_stream = stream.len();
        stream.push(0xE0);

        let mut at = 0;
        let mut lengths = Vec::new();
        while let Front::Whole(frame) = front(&stream[at..]).unwrap() {
            lengths.push(frame.bytes.len());
            at += frame.bytes.len();
        }
        assert_eq!((lengths, at), (vec![2, 4, 203], whole_stream));
        assert_eq!(front(&stream[at..]).unwrap(), Front::Unknown);

        for cut in 9..whole_stream {
            assert_eq!(front(&stream[6..cut]).unwrap(), Front::Partial(203), "cut at {cut}");
        }
        assert_eq!(front(&stream[6..8]).unwrap(), Front::Unknown, "the length itself is cut");
        assert_eq!(front(&[]).unwrap(), Front::Unknown);
    }

    #[test]
    fn the_remaining_length_has_at_most_four_bytes() {
        assert_eq!(front(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).unwrap(), Front::Partial(268_435_455 + 5));
        assert!(front(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
        assert_eq!(front(&[0x30, 0x80, 0x80, 0x80]).unwrap(), Front::Unknown);
    }
}
