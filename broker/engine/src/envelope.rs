//! What shards send each other: messages, interest, retained messages. Plain data; `flow/envelope.rs` says what each does.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::id::SessionKey;
use crate::message::Message;
use crate::route::retained::Cursor;
use crate::route::{GroupId, InterestBatch};
use crate::session::readers::{PageFor, PageRequest, Wanted};

/// Which of the two lanes to a shard an envelope takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Interest, acknowledgements, answers: never dropped, bounded by what causes them.
    Control,
    /// Messages: bounded in envelopes and bytes.
    Data,
}

/// What crosses a lane. Opaque to the shell but for its size.
#[derive(Debug)]
pub struct Envelope {
    pub(crate) body: EnvelopeBody,
}

impl Envelope {
    /// What it counts against `lane_bytes_max`.
    pub fn bytes(&self) -> usize {
        self.body.bytes()
    }
}

/// The kinds of envelopes.
#[derive(Debug)]
pub(crate) enum EnvelopeBody {
    /// Changes of the sender's interest.
    Interest(Arc<InterestBatch>),
    /// The sender has applied our changes up to this number.
    InterestAck(u64),
    /// A message that the receiver has subscribers for.
    Message {
        message: Arc<Message>,
        /// Whether its plain subscribers get it.
        plain: bool,
        /// Shared subscriptions for which it was chosen; it serves no others.
        groups: SmallVec<[GroupId; 1]>,
        /// Whether it was passed on once already for want of a member.
        forwarded: bool,
        /// See [`MessageView::stored`](crate::message::MessageView::stored).
        stored: u64,
    },
    /// A retained message for the topic's owner.
    Store { id: u64, message: Arc<Message> },
    /// The owner has stored it under this number, or has no room (0).
    Stored { id: u64, number: u64 },
    /// New subscriptions want their retained messages: what is the last that the receiver has stored?
    Mark { session: SessionKey, batch: u64, wanted: Arc<[Wanted]> },
    /// That, and for which of them it may have any.
    Marked { session: SessionKey, batch: u64, mark: u64, found: Vec<u32> },
    /// A session has room for some of them, or a plugin for a page.
    Page { whose: PageFor, ask: PageRequest },
    /// Those.
    Paged { whose: PageFor, page: u64, body: PageBody },
}

impl EnvelopeBody {
    /// What it counts against `lane_bytes_max`.
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
    /// The messages, reader by reader.
    pub(crate) items: Vec<PageItem>,
    /// Where each reader that was served goes on; `None` = it is done.
    pub(crate) ends: Vec<(u64, Option<Cursor>)>,
}
