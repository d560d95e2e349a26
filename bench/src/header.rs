//! The header that `pub --payload-hdrs` writes at the front of a payload, and `sub` reads: its
//! publisher, its sequence number, when it was due. Independent of MQTT packets.
//!
//! Layout, big endian: `Gbh`, one byte of flags (1 = cnt, 2 = ts), then with `cnt` the run (4
//! bytes), the client number (4) and the sequence number from 1 (8), then with `ts` nanoseconds
//! since 1970 (8).

use bytes::{Buf, BufMut};
use std::hash::{BuildHasher, RandomState};

const MAGIC: &[u8; 3] = b"Gbh";
const FLAG_CNT: u8 = 1;
const FLAG_TS: u8 = 2;

/// Which fields a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fields {
    /// Publisher and sequence number.
    pub cnt: bool,
    /// Time at which the message was due.
    pub ts: bool,
}

impl Fields {
    /// Bytes that the header takes at the front of the payload.
    pub fn len(self) -> usize {
        if !self.any() {
            return 0;
        }
        4 + if self.cnt { 16 } else { 0 } + if self.ts { 8 } else { 0 }
    }

    /// Whether there is a header at all.
    pub fn any(self) -> bool {
        self.cnt || self.ts
    }

    /// Writes the header over the first [`Fields::len`] bytes of `payload`, which must be that
    /// long.
    #[inline]
    pub fn write(self, mut payload: &mut [u8], publisher: Publisher, sequence: u64, due_ns: u64) {
        if !self.any() {
            return;
        }
        payload.put_slice(MAGIC);
        payload.put_u8(if self.cnt { FLAG_CNT } else { 0 } | if self.ts { FLAG_TS } else { 0 });
        if self.cnt {
            payload.put_u64(publisher.0);
            payload.put_u64(sequence);
        }
        if self.ts {
            payload.put_u64(due_ns);
        }
    }
}

/// Marks a run. It uses the random seed of the standard library's hash maps, which differs between
/// runs; nothing more is needed.
pub fn random_run() -> u32 {
    let random = RandomState::new().hash_one(std::process::id());
    u32::try_from(random >> 32).expect("32 bits")
}

/// One publishing client of one run: the run in the upper half, the client number in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publisher(u64);

impl Publisher {
    /// `run` is drawn once per process, so that no run continues the sequence of another.
    pub fn new(run: u32, client: u32) -> Self {
        Self(u64::from(run) << 32 | u64::from(client))
    }

    /// The client number, if the message is of this run.
    #[inline]
    pub fn client_of(self, run: u32) -> Option<u32> {
        let client = u32::try_from(self.0 & u64::from(u32::MAX)).expect("masked to 32 bits");
        (self.0 >> 32 == u64::from(run)).then_some(client)
    }
}

impl std::fmt::Display for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}/{}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// Contents of a payload's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Publisher and sequence number, with `cnt`.
    pub sequence: Option<(Publisher, u64)>,
    /// Nanoseconds since 1970, with `ts`.
    pub due_ns: Option<u64>,
}

/// Reads the header, or `None` if the payload has none.
#[inline]
pub fn read(payload: &[u8]) -> Option<Stamp> {
    let mut rest = payload.strip_prefix(MAGIC)?;
    let flags = rest.try_get_u8().ok()?;
    if flags == 0 || flags & !(FLAG_CNT | FLAG_TS) != 0 {
        return None;
    }
    let mut number = || rest.try_get_u64().ok();
    let sequence = if flags & FLAG_CNT == 0 { None } else { Some((Publisher(number()?), number()?)) };
    let due_ns = if flags & FLAG_TS == 0 { None } else { Some(number()?) };
    Some(Stamp { sequence, due_ns })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn written_headers_are_read_back_for_every_choice_of_fields() {
        let publisher = Publisher::new(0xdead_beef, 42);
        for (cnt, ts) in [(true, false), (false, true), (true, true)] {
            let fields = Fields { cnt, ts };
            let mut payload = vec![b'a'; fields.len() + 3];
            fields.write(&mut payload, publisher, 7, 99);
            let stamp = read(&payload).unwrap();
            assert_eq!(stamp.sequence, cnt.then_some((publisher, 7)));
            assert_eq!(stamp.due_ns, ts.then_some(99));
            assert_eq!(&payload[fields.len()..], b"aaa", "the filler behind the header stays");
            assert_eq!(read(&payload[..fields.len() - 1]), None, "a cut header is none");
        }
        assert_eq!(publisher.to_string(), "deadbeef/42");
    }

    #[test]
    fn no_field_means_no_header() {
        let mut payload = *b"abcdefgh";
        Fields::default().write(&mut payload, Publisher::new(1, 1), 1, 1);
        assert_eq!(&payload, b"abcdefgh");
        assert_eq!(Fields::default().len(), 0);
    }

    #[test]
    fn foreign_payloads_have_no_header() {
        assert_eq!(read(b""), None);
        assert_eq!(read(b"hello world, this is long enough for one"), None);
        assert_eq!(read(b"Gbh\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), None);
        assert_eq!(read(b"Gbh\x07aaaaaaaaaaaaaaaaaaaaaaaaaaaa"), None);
    }
}
