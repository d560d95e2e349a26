//! Envelopes between shards. The receiver queues or drops the content and never waits. It always
//! accepts the control lanes, and delays messages only for fan-outs of its own. So shards with full
//! lanes cannot deadlock.

use super::{filter_barrier, notify, pages, pump, retain, retained, route, send};
use crate::counters::DropReason;
use crate::envelope::{Envelope, EnvelopeBody, Lane};
use crate::id::ShardId;
use crate::message::MessageView;
use crate::parts::Parts;
use crate::shared_message::SharedMessage;
use crate::work::Scan;

/// Handles an envelope from another shard. It is always accepted.
pub(crate) fn envelope(parts: &mut Parts, from: ShardId, envelope: Envelope) {
    match envelope.body {
        EnvelopeBody::Interest(batch) => {
            let seq = parts.router.apply(from, &batch);
            send::push_envelope(parts, from, Lane::Control, EnvelopeBody::InterestAck(seq));
        }
        EnvelopeBody::InterestAck(seq) => {
            let before = parts.router.barrier();
            parts.router.acked(from, seq);
            if parts.router.barrier() > before {
                filter_barrier::barrier_moved(parts);
            }
        }
        EnvelopeBody::Message { message, plain, groups, forwarded, stored } => {
            let shared = SharedMessage::new(message.into());
            let mut kept = Some(SharedMessage::clone(&shared));
            let view = MessageView { stored, ..shared.view() };
            if plain {
                let matched = parts.router.matches_local(view.topic);
                route::serve_local(parts, &view, &mut kept, &matched);
            }
            for id in groups {
                match parts.router.group_by_id(id) {
                    Some(group) => route::serve_group(parts, group, &view, &mut kept, forwarded),
                    None => notify::count_drop(parts, DropReason::NoMember, &view, None),
                }
            }
        }
        EnvelopeBody::Store { id, message } => retain::store_for(parts, from, id, &message),
        EnvelopeBody::Stored { id, number } => pump::stored(parts, id, number),
        EnvelopeBody::Mark { session, batch, wanted } => {
            retained::set_mark_for(parts, from, session, batch, &wanted)
        }
        EnvelopeBody::Marked { session, batch, mark, found } => {
            retained::marked(parts, from, session, batch, mark, &found);
        }
        EnvelopeBody::Page { receiver, request } => {
            parts.work.push_scan(Scan { requester: from, receiver, request })
        }
        EnvelopeBody::Paged { receiver, page, body } => pages::page_came(parts, from, receiver, page, body),
    }
}
