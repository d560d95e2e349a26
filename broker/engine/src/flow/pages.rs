//! Pages of retained messages: this shard's, for whoever has asked for them, and what other shards have sent, to whom it belongs.
//! Called by the turn and where an envelope comes.

use super::{on_behalf, retained, send};
use crate::envelope::{EnvelopeBody, Lane, PageBody};
use crate::id::ShardId;
use crate::parts::Parts;
use crate::session::readers::PageFor;

/// Goes on with what plugins read: authorizes what was found for it.
pub(crate) fn judge_pages(parts: &mut Parts) {
    on_behalf::go_on_with_pages(parts);
}

/// Looks through one page each for those who asked.
pub(crate) fn scan_pages(parts: &mut Parts) {
    // Only those that wait now: a small one leads to the next of its own at once.
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

/// A page has come.
pub(crate) fn page_came(parts: &mut Parts, owner: ShardId, whose: PageFor, page: u64, body: PageBody) {
    match whose {
        PageFor::Session(session_key) => {
            retained::take_page(parts, owner, session_key, page, body);
            retained::pull_retained(parts, session_key);
        }
        PageFor::Plugin => on_behalf::page_came(parts, page, owner, body),
    }
}
