//! Pages of retained messages: reads those of this shard for their requesters, and passes those of
//! other shards on. Called by the turn and for an envelope.

use super::{on_behalf, retained, send};
use crate::envelope::{EnvelopeBody, Lane, PageBody};
use crate::id::ShardId;
use crate::parts::Parts;
use crate::session::readers::PageReceiver;

/// Continues with pages that plugins read: authorizes the messages that were found.
pub(crate) fn continue_page_reads(parts: &mut Parts) {
    on_behalf::continue_pages(parts);
}

/// Reads one page for each request.
pub(crate) fn scan_pages(parts: &mut Parts) {
    // Only the requests that wait now: a short page may cause the next request at once.
    for _ in 0..parts.work.scans_len() {
        if parts.work.is_turn_spent() {
            return;
        }
        let Some(scan) = parts.work.pop_scan() else { return };
        let body = retained::scan_page(parts, &scan.request);
        let (receiver, page) = (scan.receiver, scan.request.page);
        if scan.requester == parts.setup.id {
            page_came(parts, scan.requester, receiver, page, body);
        } else {
            send::push_envelope(
                parts,
                scan.requester,
                Lane::Control,
                EnvelopeBody::Paged { receiver, page, body },
            );
        }
    }
}

/// Takes a page from its owner.
pub(crate) fn page_came(
    parts: &mut Parts,
    owner: ShardId,
    receiver: PageReceiver,
    page: u64,
    body: PageBody,
) {
    match receiver {
        PageReceiver::Session(session_key) => {
            retained::take_page(parts, owner, session_key, page, body);
            retained::pull_retained(parts, session_key);
        }
        PageReceiver::Plugin => on_behalf::page_came(parts, page, owner, body),
    }
}
