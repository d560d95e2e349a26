//! The results of the engine for the shell: connections with bytes to send, sockets to close,
//! envelopes by lane. The shell empties it after each step; the vectors keep their memory.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::envelope::{Envelope, Lane};
use crate::hook::{HookPoint, PluginHandle};
use crate::id::{ConnKey, ShardId};
use crate::reason::ReasonCode;

/// Bytes on their way to one socket. A connection with nothing to send has no memory here.
#[derive(Debug, Default)]
pub struct Outbound(Option<Box<Pieces>>);

/// Bytes in pieces. The first one is apart from the others, because most often there is one.
#[derive(Debug, Default)]
struct Pieces {
    /// `None` if there are no bytes.
    front: Option<Segment>,
    rest: VecDeque<Segment>,
    /// Bytes of the first segment that have been sent.
    sent: usize,
    bytes: usize,
}

/// Size from which a segment of copied bytes gets no more bytes. Memory is freed one segment at a
/// time, so a segment that grows while it is sent would keep all its sent bytes.
const SEGMENT_BYTES: usize = 65536;

#[derive(Debug)]
enum Segment {
    Copied(Vec<u8>),
    Shared(Bytes),
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Copied(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
        }
    }
}

impl Pieces {
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.front.iter().chain(&self.rest)
    }

    fn push(&mut self, segment: Segment) {
        match &self.front {
            None => self.front = Some(segment),
            Some(_) => self.rest.push_back(segment),
        }
    }

    fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.bytes, "more left than there was");
        self.bytes -= count.min(self.bytes);
        let mut gone = self.sent + count;
        while let Some(front) = &mut self.front {
            let length = front.as_slice().len();
            if gone < length {
                break;
            }
            gone -= length;
            match front {
                // The last copied segment keeps its memory for the next packets of the turn.
                Segment::Copied(bytes) if self.rest.is_empty() => {
                    bytes.clear();
                    self.sent = 0;
                    return;
                }
                _ => self.front = self.rest.pop_front(),
            }
        }
        self.sent = gone;
    }
}

impl Outbound {
    /// Bytes that have not been sent.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |pieces| pieces.bytes)
    }

    /// Bytes of memory: unsent bytes, sent bytes of the first segment, and the segments themselves.
    pub fn memory_bytes(&self) -> usize {
        let Some(pieces) = &self.0 else { return 0 };
        let segments = usize::from(pieces.front.is_some()) + pieces.rest.len();
        pieces.bytes + pieces.sent + segments * size_of::<Segment>()
    }

    /// Recomputes `memory_bytes`.
    pub(crate) fn recount(&self) -> usize {
        let segments = self.0.iter().flat_map(|pieces| pieces.iter());
        segments.map(|segment| size_of::<Segment>() + segment.as_slice().len()).sum()
    }

    /// Whether nothing is to be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first contiguous piece.
    pub fn front(&self) -> &[u8] {
        let Some(pieces) = &self.0 else { return &[] };
        pieces.front.as_ref().map_or(&[], |segment| &segment.as_slice()[pieces.sent..])
    }

    /// The pieces in order, for a vectored write; at most `N`.
    pub fn pieces<const N: usize>(&self) -> smallvec::SmallVec<[&[u8]; N]> {
        let Some(pieces) = &self.0 else { return smallvec::SmallVec::new() };
        let mut skip = pieces.sent;
        pieces
            .iter()
            .take(N)
            .map(|segment| {
                let piece = &segment.as_slice()[skip..];
                skip = 0;
                piece
            })
            .collect()
    }

    /// Marks `count` bytes as sent (at most [`Outbound::len`]).
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "more left than there was");
        if let Some(pieces) = &mut self.0 {
            pieces.advance(count);
        }
    }

    /// The last `count` copied bytes, before shared ones after them; fewer if they are not
    /// contiguous.
    pub(crate) fn copied_tail(&self, count: usize) -> &[u8] {
        let copied = self.0.as_ref().and_then(|pieces| {
            pieces.iter().rev().find_map(|segment| match segment {
                Segment::Copied(bytes) => Some(&bytes[..]),
                Segment::Shared(_) => None,
            })
        });
        copied.map_or(&[], |bytes| &bytes[bytes.len().saturating_sub(count)..])
    }

    /// Frees the memory of an empty queue.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.0 = None;
        }
    }

    /// Appends by copying: `write` gets the buffer of the last segment and may only append to it.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let Pieces { front, rest, bytes, .. } = &mut **self.0.get_or_insert_default();
        let last = if rest.is_empty() { front.as_mut() } else { rest.back_mut() };
        if let Some(Segment::Copied(buffer)) = last
            && buffer.len() < SEGMENT_BYTES
        {
            let before = buffer.len();
            write(buffer);
            *bytes += buffer.len() - before;
            return;
        }
        let mut buffer = Vec::new();
        write(&mut buffer);
        *bytes += buffer.len();
        match front {
            None => *front = Some(Segment::Copied(buffer)),
            Some(_) => rest.push_back(Segment::Copied(buffer)),
        }
    }

    /// Appends a shared payload by reference.
    pub(crate) fn append_shared(&mut self, payload: Bytes) {
        let pieces = self.0.get_or_insert_default();
        pieces.bytes += payload.len();
        pieces.push(Segment::Shared(payload));
    }
}

/// A connection that has ended, with the bytes to send before its socket is closed.
#[derive(Debug)]
pub struct Closing {
    /// Its former key; stale for the engine.
    pub conn: ConnKey,
    /// The last bytes, such as a DISCONNECT or a refusing CONNACK. They are sent with a deadline,
    /// best effort.
    pub outbound: Outbound,
}

/// An answer of a plugin that was refused as a whole, for the log.
#[derive(Debug)]
pub struct RefusedAnswer {
    /// The plugin.
    pub plugin: PluginHandle,
    /// Plugin and hook; `None` if the link is gone.
    pub link: Option<Arc<str>>,
    /// The hook point.
    pub point: HookPoint,
    /// What was refused, and why.
    pub reason: String,
}

/// Subscriptions that were revoked because the rules of client.authorize changed, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revoked {
    /// The plugin that refused them; `None` if no link allowed them and `authorization.no_match` is
    /// to deny.
    pub plugin: Option<PluginHandle>,
    /// Number of subscriptions.
    pub subscriptions: u64,
}

/// A request of a plugin on behalf of a client that was refused, for the log.
#[derive(Debug)]
pub struct BehalfRefused {
    /// The plugin.
    pub plugin: PluginHandle,
    /// The client.
    pub client_id: Arc<str>,
    /// The request, as text that the topic follows.
    pub what: &'static str,
    /// The topic name or filter.
    pub topic: Box<str>,
    /// Why it was refused.
    pub reason: ReasonCode,
    /// Number of refusals since the last one that was logged.
    pub unlogged: u64,
}

/// Whose limit of pending CONNECTs was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectLimit {
    /// That of all clients of the shard.
    Shard,
    /// That of an address.
    Address(IpAddr),
    /// That of an address, by clients of Unix sockets, which count as one.
    UnixSockets,
}

/// A CONNECT that was refused because too many clients wait for admission, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectRefused {
    /// The limit that was reached.
    pub limit: ConnectLimit,
    /// Number of refusals since the last one that was logged, of all addresses.
    pub unlogged: u64,
}

/// All results of the engine for the shell.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Connections whose outbound queue got bytes since they were last taken from here; each at
    /// most once.
    pub dirty: Vec<ConnKey>,
    /// Connections to which unread bytes are to be passed again, and to be read again. Some may
    /// have ended.
    pub resume: Vec<ConnKey>,
    /// Connections whose client seems late or silent. Pass in what their sockets have received by
    /// now, then call [`Shard::deadline_checked`](crate::shard::Shard::deadline_checked). Some may
    /// have ended.
    pub overdue: Vec<ConnKey>,
    /// Connections that have ended.
    pub closing: Vec<Closing>,
    /// Control envelopes by destination shard, in order.
    pub control: Vec<VecDeque<Envelope>>,
    /// Data envelopes by destination shard, in order. Envelopes without room in the lane stay here;
    /// the engine holds publishers back while there are too many.
    pub data: Vec<VecDeque<Envelope>>,
    /// Shards with envelopes in `control` or `data`.
    pub pending: crate::id::ShardSet,
    /// Bytes of the data envelopes per destination; the shell subtracts what it moves.
    pub data_bytes: Vec<usize>,
    /// Why a retained message was not stored, for the log; at most once in ten seconds.
    pub retained_full: Option<crate::route::retained::Full>,
    /// Plugins that were tripped on this shard; the code that compiles chains must be notified.
    pub tripped: Vec<PluginHandle>,
    /// Subscriptions revoked since this was last taken from here; one entry for each plugin.
    pub revoked: Vec<Revoked>,
    /// Answers of plugins that were refused; for messages at most one a second for each hook.
    pub refused: Vec<RefusedAnswer>,
    /// Refused requests on behalf of clients; at most once in ten seconds for each plugin.
    pub behalf_refused: Vec<BehalfRefused>,
    /// A client that was refused because too many wait; at most once in ten seconds.
    pub connect_refused: Option<ConnectRefused>,
}

impl Outbox {
    /// An outbox for this number of shards.
    pub fn new(shards: usize) -> Outbox {
        Outbox {
            control: (0..shards).map(|_| VecDeque::new()).collect(),
            data: (0..shards).map(|_| VecDeque::new()).collect(),
            data_bytes: vec![0; shards],
            ..Outbox::default()
        }
    }

    /// Adds revoked subscriptions.
    pub(crate) fn add_revoked(&mut self, plugin: Option<PluginHandle>, subscriptions: u64) {
        match self.revoked.iter_mut().find(|revoked| revoked.plugin == plugin) {
            Some(known) => known.subscriptions += subscriptions,
            None => self.revoked.push(Revoked { plugin, subscriptions }),
        }
    }

    /// Moves the next envelopes for a shard from one lane into `batch`, at most `max`.
    pub fn take_batch(&mut self, to: ShardId, lane: Lane, max: usize, batch: &mut Vec<Envelope>) {
        let index = to.index();
        let queue = match lane {
            Lane::Control => &mut self.control[index],
            Lane::Data => &mut self.data[index],
        };
        let count = queue.len().min(max);
        for envelope in queue.drain(..count) {
            if lane == Lane::Data {
                self.data_bytes[index] = self.data_bytes[index].saturating_sub(envelope.bytes());
            }
            batch.push(envelope);
        }
        if self.control[index].is_empty() && self.data[index].is_empty() {
            self.pending.remove(to);
        }
    }

    pub(crate) fn push(&mut self, to: ShardId, lane: Lane, envelope: Envelope) {
        let index = to.index();
        match lane {
            Lane::Control => self.control[index].push_back(envelope),
            Lane::Data => {
                self.data_bytes[index] += envelope.bytes();
                self.data[index].push_back(envelope);
            }
        }
        self.pending.insert(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Copied bytes, shared ones, and copied ones after them.
    fn three() -> Outbound {
        let mut out = Outbound::default();
        out.append(|buffer| buffer.extend(b"abc"));
        out.append(|buffer| buffer.extend(b"de"));
        out.append_shared(Bytes::from_static(b"fgh"));
        out.append(|buffer| buffer.extend(b"ij"));
        out
    }

    #[test]
    fn bytes_leave_in_order_however_many_at_a_time() {
        for step in 1..=10 {
            let (mut out, mut sent) = (three(), Vec::<u8>::new());
            while !out.is_empty() {
                assert_eq!(out.len(), 10 - sent.len());
                assert_eq!(out.memory_bytes(), out.recount());
                assert!(out.memory_bytes() >= out.len());
                let pieces = out.pieces::<2>().concat();
                assert!(pieces.starts_with(out.front()));
                let whole = out.pieces::<8>().concat();
                assert_eq!(whole.len(), out.len());
                assert!(whole.starts_with(&pieces));
                let count = step.min(out.len());
                sent.extend(&whole[..count]);
                out.advance(count);
            }
            assert_eq!(sent, b"abcdefghij");
            assert_eq!(out.front(), b"");
            assert_eq!(out.memory_bytes(), out.recount());
            // The last copied segment keeps its memory for the next bytes; `release` frees that
            // too.
            out.append(|buffer| buffer.extend(b"k"));
            assert_eq!((out.front(), out.len()), (&b"k"[..], 1));
            out.release();
            assert_eq!(out.front(), b"k", "it has not left yet");
            out.advance(1);
            out.release();
            assert_eq!((out.len(), out.memory_bytes()), (0, 0));
        }
    }

    #[test]
    fn a_vectored_write_gets_as_many_pieces_as_it_takes() {
        let mut out = three();
        out.advance(1);
        assert_eq!(out.pieces::<2>().to_vec(), [&b"bcde"[..], b"fgh"]);
        assert_eq!(out.pieces::<3>().to_vec(), [&b"bcde"[..], b"fgh", b"ij"]);
        out.advance(4);
        assert_eq!(out.pieces::<3>().to_vec(), [&b"fgh"[..], b"ij"]);
    }

    #[test]
    fn a_long_segment_is_followed_by_another() {
        let mut out = Outbound::default();
        out.append(|buffer| buffer.resize(SEGMENT_BYTES - 1, 0));
        out.append(|buffer| buffer.push(1));
        assert_eq!(out.front().len(), SEGMENT_BYTES);
        out.append(|buffer| buffer.push(2));
        assert_eq!((out.front().len(), out.len()), (SEGMENT_BYTES, SEGMENT_BYTES + 1));
        assert_eq!(out.copied_tail(1), [2]);
        assert_eq!(out.copied_tail(9), [2], "no more than lie together");
        out.append_shared(Bytes::from_static(b"x"));
        assert_eq!(out.copied_tail(1), [2]);
        assert_eq!(Outbound::default().copied_tail(1), [0_u8; 0]);
    }
}
