//! Reads a page of retained messages for a plugin, on behalf of a client that may subscribe to the
//! filter. It reads one shard after the other while there is room, and authorizes each message like
//! a delivery to the client. Called by `on_behalf`, which passes the page to the plugin. Each page
//! ends, because shards answer and tickets have deadlines.

use std::rc::Rc;
use std::sync::Arc;

use super::authorize::{self, RequestOutcome};
use super::hooks::Answer;
use super::{deliver_rights, retained, send, wake};
use crate::envelope::{EnvelopeBody, Lane, PageBody};
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::hook::view::{Action, Request};
use crate::id::ShardId;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::fetch::OpenPage;
use crate::session::readers::{PageReceiver, PageRequest, ReaderRequest, Room};
use crate::topic;
use crate::work::Scan;

/// The only shard with topics of a filter; `None` where any shard may have some.
pub(crate) fn only_owner(parts: &Parts, filter: &str) -> Option<ShardId> {
    (!topic::has_wildcard(filter)).then(|| parts.router.owner_of(filter))
}

/// Begins a page. Returns it if it is complete already.
pub(crate) fn begin(parts: &mut Parts, page: OpenPage) -> Option<OpenPage> {
    let number = wake::next_reader(parts);
    parts.hooks.plugins_mut().begin_page(number, page);
    go_on(parts, number, None)
}

/// Takes what a shard has found for a page. It is authorized in the page's turn.
pub(crate) fn page_came(parts: &mut Parts, number: u64, owner: ShardId, body: PageBody) {
    take(parts, number, owner, body);
    parts.hooks.plugins_mut().pages().push(number);
}

/// Takes the verdict on whether the client may have the first message that was found.
pub(crate) fn answered(
    parts: &mut Parts,
    number: u64,
    ticket: &OpenTicket,
    answer: Answer<'_>,
) -> Option<OpenPage> {
    let asked = |page: &mut OpenPage| {
        let request = page.request.take_if(|request| request.waits_for(ticket.number))?;
        Some((request, Rc::clone(&page.identity), Arc::clone(page.found.front()?)))
    };
    let (mut request, identity, message) = parts.hooks.plugins_mut().change_page(number, asked)??;
    if !authorize::request_answered(parts, (&identity, &message.topic), &mut request, ticket, answer) {
        return go_on(parts, number, Some(request));
    }
    match authorize::outcome(parts, &request) {
        RequestOutcome::Answered(verdict) => decided(parts, number, verdict.is_ok()),
        RequestOutcome::Unanswered(_) | RequestOutcome::Waits(_) => {
            fail(parts, number, ReasonCode::SERVER_UNAVAILABLE)
        }
    }
    go_on(parts, number, None)
}

/// Continues a page whose turn has come.
pub(crate) fn in_turn(parts: &mut Parts, number: u64) -> Option<OpenPage> {
    go_on(parts, number, None)
}

/// Reads and authorizes until it must wait. `request` is the state of the authorization of the
/// first message.
fn go_on(parts: &mut Parts, number: u64, mut request: Option<AuthorizationRequest>) -> Option<OpenPage> {
    loop {
        if !authorize_found(parts, number, request.take()) {
            return None;
        }
        let page = parts.hooks.plugins().page(number)?;
        let Some((owner, cursor, messages, bytes)) = page.next() else {
            return parts.hooks.plugins_mut().end_page(number);
        };
        let (filter, qos) = (Arc::clone(&page.fetch.filter), page.fetch.qos);
        let reader = ReaderRequest { reader: 0, filter, qos, cursor };
        let room = Room { window: messages, bytes };
        let page_request =
            PageRequest { owner, page: number, room, messages_max: messages, readers: vec![reader] };
        wake::spend(parts, 1);
        if owner != parts.setup.id {
            let body = EnvelopeBody::Page { receiver: PageReceiver::Plugin, request: page_request };
            send::push_envelope(parts, owner, Lane::Control, body);
            return None;
        }
        if parts.work.is_turn_spent() || parts.work.scans_len() > 0 {
            parts.work.push_scan(Scan {
                requester: owner,
                receiver: PageReceiver::Plugin,
                request: page_request,
            });
            return None;
        }
        let body = retained::scan_page(parts, &page_request);
        take(parts, number, owner, body);
    }
}

/// Adds what a shard has found to a page.
fn take(parts: &mut Parts, number: u64, owner: ShardId, body: PageBody) {
    let shards = parts.setup.shards;
    let next = body.ends.into_iter().next().and_then(|(_, next)| next);
    let found = body.items.into_iter().map(|item| item.message);
    parts.hooks.plugins_mut().change_page(number, |page| {
        let goes_on = topic::has_wildcard(&page.fetch.filter) && owner.index() + 1 < shards;
        page.read(found, next, goes_on.then(|| ShardId(owner.0 + 1)));
    });
    let limits = Arc::clone(&parts.setup.limits);
    if !parts.hooks.plugins_mut().has_room_for_found(number, &limits) {
        // Treated like other large requests on behalf of the client: a retry finds room when
        // nothing else waits.
        parts.counters.behalf_no_room += 1;
        fail(parts, number, ReasonCode::QUOTA_EXCEEDED);
    }
}

/// Authorizes the messages that were found, one after the other. Returns false if it waits for a
/// plugin.
fn authorize_found(parts: &mut Parts, number: u64, mut auth_request: Option<AuthorizationRequest>) -> bool {
    loop {
        let Some(page) = parts.hooks.plugins().page(number) else { return false };
        let Some(message) = page.found.front().map(Arc::clone) else { return true };
        let (identity, qos) = (Rc::clone(&page.identity), page.fetch.qos.min(message.qos));
        if auth_request.is_none() && parts.work.is_turn_spent() {
            parts.hooks.plugins_mut().pages().push(number);
            return false;
        }
        wake::spend(parts, 1);
        if !deliver_rights::authorizes_deliveries(parts) {
            decided(parts, number, true);
            continue;
        }
        let request = Request { action: Action::Deliver, topic: &message.topic, qos, retain: true };
        if auth_request.is_none() && !identity.superuser && !deliver_rights::may_authorize_delivery(parts) {
            // The maximum number of deliveries waits for plugins; a retry finds room.
            fail(parts, number, ReasonCode::SERVER_UNAVAILABLE);
            continue;
        }
        let begun = auth_request.take().unwrap_or_else(|| authorize::new_request(parts, &identity));
        let waiter = Waiter::Fetch(number);
        match authorize::authorize(parts, &identity, request, begun, None, waiter) {
            RequestOutcome::Answered(answer) => decided(parts, number, answer.is_ok()),
            RequestOutcome::Unanswered(_) => fail(parts, number, ReasonCode::SERVER_UNAVAILABLE),
            RequestOutcome::Waits(waiting) => {
                parts.hooks.plugins_mut().change_page(number, |page| page.request = Some(waiting));
                return false;
            }
        }
    }
}

fn decided(parts: &mut Parts, number: u64, may: bool) {
    let now_ms = parts.clock.now().mono_ms;
    parts.hooks.plugins_mut().change_page(number, |page| {
        page.decided(may);
        page.end_if_late(now_ms);
    });
}

fn fail(parts: &mut Parts, number: u64, reason: ReasonCode) {
    parts.hooks.plugins_mut().change_page(number, |page| page.fail(reason));
}
