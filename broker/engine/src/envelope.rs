//! The envelopes between shards: messages, interest, retained messages. Plain data;
//! `flow/envelope.rs` processes it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::id::SessionKey;
use crate::message::Message;
use crate::route::retained::Cursor;
use crate::route::{GroupId, InterestBatch};
use crate::session::readers::{PageReceiver, PageRequest, RetainedSubscription};

/// The lane of an envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Interest, acknowledgements, answers: never dropped; their causes bound their number.
    Control,
    /// Messages: limited in number and bytes.
    Data,
}

/// One item of a lane. The shell uses only its size.
#[derive(Debug)]
pub struct Envelope {
    pub(crate) body: EnvelopeBody,
}

impl Envelope {
    /// Bytes that it counts against `lane_bytes_max`.
    pub fn bytes(&self) -> usize {
        self.body.bytes()
    }
}

/// The kinds of envelopes.
#[derive(Debug)]
pub(crate) enum EnvelopeBody {
    /// Interest changes of the sender.
    Interest(Arc<InterestBatch>),
    /// The sender has applied the changes of the receiver up to this number.
    InterestAck(u64),
    /// A message for subscribers on the receiver.
    Message {
        message: Arc<Message>,
        /// Whether it is for plain subscriptions too.
        plain: bool,
        /// The shared subscriptions for which the sender picked the receiver; no others get it.
        groups: SmallVec<[GroupId; 1]>,
        /// Whether it was already forwarded once because no member was left.
        forwarded: bool,
        /// See [`MessageView::stored`](crate::message::MessageView::stored).
        stored: u64,
    },
    /// A retained message for the owner of its topic.
    Store { id: u64, message: Arc<Message> },
    /// The owner has stored it under this number; 0 if it had no room.
    Stored { id: u64, number: u64 },
    /// New subscriptions request the mark of the receiver: the number of its last stored message.
    Mark { session: SessionKey, batch: u64, wanted: Arc<[RetainedSubscription]> },
    /// The mark, and the indexes of the subscriptions that may have messages there.
    Marked { session: SessionKey, batch: u64, mark: u64, found: Vec<u32> },
    /// A request for a page, for a session with room or for a plugin.
    Page { receiver: PageReceiver, request: PageRequest },
    /// The page.
    Paged { receiver: PageReceiver, page: u64, body: PageBody },
}

impl EnvelopeBody {
    /// Bytes that it counts against `lane_bytes_max`.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            EnvelopeBody::Message { message, .. } | EnvelopeBody::Store { message, .. } => message.bytes(),
            _ => 0,
        }
    }
}

/// A retained message for a reader.
#[derive(Debug)]
pub(crate) struct PageItem {
    pub(crate) reader: u64,
    pub(crate) number: u64,
    pub(crate) message: Arc<Message>,
}

/// A page of retained messages.
#[derive(Debug)]
pub(crate) struct PageBody {
    /// The messages, ordered by reader.
    pub(crate) items: Vec<PageItem>,
    /// Where each served reader continues; `None` = it is done.
    pub(crate) ends: Vec<(u64, Option<Cursor>)>,
}
