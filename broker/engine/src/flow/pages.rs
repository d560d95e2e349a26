//! Pages of retained messages: reads those of this shard for their requesters, and passes those of
//! other shards on. Called by the turn and for an envelope.

use super::{on_behalf, retained, send};
use crate::envelope::{EnvelopeBody, Lane, PageBody};
use crate::id::ShardId;
use crate::parts::Parts;
use crate::session::readers::PageFor;

/// Continues with pages that plugins read: authorizes the messages that were found.
pub(crate) fn judge_pages(parts: &mut Parts) {
    on_behalf::go_on_with_pages(parts);
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
        let (whose, page) = (scan.whose, scan.request.page);
        if scan.requester == parts.setup.id {
            page_came(parts, scan.requester, whose, page, body);
        } else {
            send::push_envelope(
                parts,
                scan.requester,
                Lane::Control,
                EnvelopeBody::Paged { whose, page, body },
            );
        }
    }
}

/// Takes a page from its owner.
pub(crate) fn page_came(parts: &mut Parts, owner: ShardId, whose: PageFor, page: u64, body: PageBody) {
    match whose {
        PageFor::Session(session_key) => {
            retained::take_page(parts, owner, session_key, page, body);
            retained::pull_retained(parts, session_key);
        }
        PageFor::Plugin => on_behalf::page_came(parts, page, owner, body),
    }
}
