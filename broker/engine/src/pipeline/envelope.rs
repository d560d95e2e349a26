//! What shards tell each other, and what each does with it. A receiver always takes an envelope: it queues or drops, and never
//! waits, which is why no circle of full lanes can stop the mesh.

use std::sync::Arc;

use smallvec::SmallVec;

use super::retained::Scan;
use super::tell::Loss;
use super::{Envelope, Lane, Shard};
use crate::id::ShardId;
use crate::message::Message;
use crate::route::retained::Cursor;
use crate::route::{GroupId, InterestBatch};
use crate::session::Held;

/// The kinds of envelopes.
#[derive(Debug)]
pub(super) enum EnvelopeBody {
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
    },
    /// A retained message for the topic's owner.
    Store { id: u64, message: Arc<Message> },
    /// The owner has stored it, or has no room.
    Stored { id: u64, full: bool },
    /// Which retained messages does the receiver own? First without a cursor, which asks for one only.
    Fetch { id: u64, filter: Arc<str>, cursor: Option<Cursor> },
    /// A page of them, the first one empty.
    Fetched { id: u64, messages: Vec<Arc<Message>>, next: Option<Cursor> },
}

impl EnvelopeBody {
    /// What it counts against `lane_bytes_max`.
    pub(super) fn bytes(&self) -> usize {
        match self {
            EnvelopeBody::Message { message, .. } | EnvelopeBody::Store { message, .. } => message.bytes(),
            _ => 0,
        }
    }
}

impl Shard {
    pub(super) fn push_envelope(&mut self, to: ShardId, lane: Lane, body: EnvelopeBody) {
        self.out.push(to, lane, Envelope { body });
    }

    /// An envelope from another shard. Always taken, never refused.
    pub fn envelope(&mut self, from: ShardId, envelope: Envelope) {
        match envelope.body {
            EnvelopeBody::Interest(batch) => {
                let seq = self.routes.apply(from, &batch);
                self.push_envelope(from, Lane::Control, EnvelopeBody::InterestAck(seq));
            }
            EnvelopeBody::InterestAck(seq) => {
                let before = self.routes.barrier();
                self.routes.acked(from, seq);
                if self.routes.barrier() > before {
                    self.barrier_moved();
                }
            }
            EnvelopeBody::Message { message, plain, groups, forwarded } => {
                let held = Held::new(message);
                let mut kept = Some(Held::clone(&held));
                let view = held.view();
                if plain {
                    let matched = self.routes.matches_local(view.topic);
                    self.serve_local(&view, &mut kept, &matched);
                }
                for id in groups {
                    match self.routes.group_by_id(id) {
                        Some(group) => self.serve_group(group, &view, &mut kept, forwarded),
                        None => self.count_drop(Loss::NoMember, &view, None),
                    }
                }
            }
            EnvelopeBody::Store { id, message } => self.store_for(from, id, &message),
            EnvelopeBody::Stored { id, full } => self.stored(id, full),
            EnvelopeBody::Fetch { id, filter: _, cursor: None } => {
                let next = Some(self.retained.mark());
                self.push_envelope(
                    from,
                    Lane::Control,
                    EnvelopeBody::Fetched { id, messages: Vec::new(), next },
                );
            }
            EnvelopeBody::Fetch { id, filter, cursor: Some(cursor) } => {
                self.scans.push_back(Scan { asker: from, id, filter, cursor });
            }
            EnvelopeBody::Fetched { id, messages, next } => self.fetched(from, id, messages, next),
        }
    }

    /// Other shards have caught up: SUBACKs that waited for them.
    pub(super) fn barrier_moved(&mut self) {
        for session in std::mem::take(&mut self.barrier_waiters) {
            self.pump_slots(session);
            let waits = self.sessions.get(session).is_some_and(|s| {
                s.slots.iter().any(|slot| matches!(slot.body, crate::session::SlotBody::Subscribe { .. }))
            });
            if waits {
                self.wait_for_barrier(session);
            }
        }
    }

    /// Tells every other shard what has changed in this one's interest.
    pub(super) fn tell_interest(&mut self) {
        let Some(batch) = self.routes.take_changes() else { return };
        let batch = Arc::new(batch);
        for index in 0..self.setup.shards {
            if index != self.setup.id.index() {
                let body = EnvelopeBody::Interest(Arc::clone(&batch));
                self.push_envelope(ShardId(index as u8), Lane::Control, body);
            }
        }
    }
}
