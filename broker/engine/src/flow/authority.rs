//! Verdicts of client.authorize and changes of the rules: deliveries that are authorized one by one
//! with cached verdicts, and rechecks of subscriptions in force. The number of requests of each
//! kind that wait for plugins is limited; the others wait. A granted subscription stays until a
//! verdict revokes it.

use std::ops::Bound;
use std::rc::Rc;

use super::hooks::{Answer, ChainOutcome};
use super::{authorize, deliver, deliver_rights, ending, subscriptions};
use crate::clock::Deadline;
use crate::hook::PluginHandle;
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::hook::verdict::Rechecked;
use crate::hook::view::{Action, Request};
use crate::id::SessionKey;
use crate::interface::{Rechecks, Scope};
use crate::limits::Revoke;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::recheck_queue::{OpenRecheck, RecheckScope};
use crate::session::deliveries::Deliveries;
use crate::session::delivery::options_of;
use crate::session::{Delivery, EndCause, Identity, Recheck, Session, Subscription};
use crate::topic;

/// Subscriptions and sessions that one turn checks.
const SLICE: usize = 128;

/// Handles a change of the client.authorize rules: cached verdicts and subscriptions in force of
/// `scope` are authorized again.
pub(crate) fn invalidate(parts: &mut Parts, scope: Scope) {
    parts.hooks.rules_changed(&scope);
    let (sessions, hasher) = (&parts.sessions, parts.numbers.hasher());
    let session_of = |client_id: &str| sessions.by_client_id(client_id);
    parts.hooks.rechecks().begin_walk(&scope, sessions.places(), hasher, session_of);
}

/// Progress of the rechecks of subscriptions in force.
pub(crate) fn rechecks(parts: &mut Parts) -> Rechecks {
    let revoked = parts.counters.subscriptions_revoked;
    let rechecks = parts.hooks.rechecks();
    Rechecks { revoked, under_way: rechecks.is_under_way(), unanswered: rechecks.timer().is_some() }
}

/// Whether the next turn can go on with rechecks or deliveries.
pub(crate) fn has_rechecks(parts: &Parts) -> bool {
    let limits = &parts.setup.limits;
    parts.hooks.has_rechecks(limits.rechecks_max, limits.deliver_requests_max)
}

fn may_recheck(parts: &Parts) -> bool {
    parts.hooks.may_recheck(parts.setup.limits.rechecks_max)
}

/// Rechecks a slice of the subscriptions in force, while the window has room.
pub(crate) fn recheck(parts: &mut Parts) {
    let mut left = SLICE;
    while may_recheck(parts) {
        let Some((key, filter)) = next_to_recheck(parts, &mut left) else { return };
        if let Some(session) = parts.sessions.get(key) {
            let client = Rc::clone(&session.identity);
            let request = authorize::new_request(parts, &client);
            begin_recheck(parts, OpenRecheck { session: key, filter, client, request });
        }
    }
}

/// The next subscription to recheck. `None` if there is none, or after `left` more were visited.
fn next_to_recheck(parts: &mut Parts, left: &mut usize) -> Option<(SessionKey, Box<str>)> {
    while *left > 0 {
        *left -= 1;
        let walk = parts.hooks.rechecks().first_walk()?;
        if let Some((key, after)) = &mut walk.session {
            let session = parts.sessions.get(*key);
            let next = session.and_then(|session| {
                let (filter, subscription) = filters_after(session, after.as_deref()).next()?;
                Some((&*session.identity, filter, subscription))
            });
            let Some((identity, filter, subscription)) = next else {
                walk.session = None;
                continue;
            };
            *after = Some(filter.clone());
            if walk.scope.concerns(identity, filter, subscription) {
                return Some((*key, filter.clone()));
            }
            continue;
        }
        if walk.is_done() {
            parts.hooks.rechecks().end_walk();
            continue;
        }
        let sessions = &parts.sessions;
        let key = walk.next(sessions.places(), |place| sessions.key_at(place));
        let found = key.and_then(|key| sessions.get(key)).filter(|session| walk.scope.may_concern(session));
        walk.session = found.map(|session| (session.key, None));
    }
    None
}

/// Rechecks a subscription in force, from where the request stands.
fn begin_recheck(parts: &mut Parts, recheck: OpenRecheck) {
    let OpenRecheck { session: key, filter, client, request: mut auth_request } = recheck;
    let Some(session) = parts.sessions.get(key) else { return };
    let Some(subscription) = session.subscriptions.get(&filter) else { return };
    if matches!(subscription.recheck, Recheck::Open(_)) {
        // A recheck under way restarts by itself if the rules have changed.
        return;
    }
    let Ok(parsed) = topic::parse_filter(&filter) else { return };
    let request = Request {
        action: Action::Subscribe,
        topic: parsed.filter,
        qos: subscription.options.qos,
        retain: false,
    };
    let number = parts.hooks.rechecks().next_number();
    let waiter = Waiter::Recheck(number);
    if let ChainOutcome::Completed =
        authorize::ask(parts, &mut auth_request, (&client, request), None, waiter)
    {
        rechecked(parts, key, &filter, &auth_request);
        return;
    }
    mark(parts, key, &filter, Recheck::Open(number));
    parts.hooks.rechecks().open(number, OpenRecheck { session: key, filter, client, request: auth_request });
}

/// Takes a deferred verdict on a subscription in force.
pub(crate) fn recheck_answered(parts: &mut Parts, number: u64, ticket: &OpenTicket, answer: Answer<'_>) {
    let Some(mut recheck) = parts.hooks.rechecks().close(number) else { return };
    let Some(session) = parts.sessions.get(recheck.session) else { return };
    let client = Rc::clone(&session.identity);
    mark(parts, recheck.session, &recheck.filter, Recheck::None);
    let filter = topic::parse_filter(&recheck.filter).map_or("", |parsed| parsed.filter);
    let ends = authorize::request_answered(parts, (&client, filter), &mut recheck.request, ticket, answer);
    if !Rc::ptr_eq(&client, &recheck.client) {
        // The session has another connection by now. The verdict was about the earlier one.
        recheck.request = authorize::new_request(parts, &client);
        recheck.client = client;
        begin_recheck(parts, recheck);
    } else if ends {
        rechecked(parts, recheck.session, &recheck.filter, &recheck.request);
    } else {
        begin_recheck(parts, recheck);
    }
}

/// Applies the verdict of the chain: the subscription stays, is revoked, or is rechecked later.
fn rechecked(parts: &mut Parts, key: SessionKey, filter: &str, request: &AuthorizationRequest) {
    let superuser = parts.sessions.get(key).is_some_and(|session| session.identity.superuser);
    match request.accumulator.rechecked(parts.setup.no_match_allow) {
        _ if superuser => mark(parts, key, filter, Recheck::None),
        Rechecked::Repeat => {
            parts.counters.rechecks_unanswered += 1;
            mark(parts, key, filter, Recheck::Again);
            recheck_later(parts);
        }
        Rechecked::Stays => mark(parts, key, filter, Recheck::None),
        Rechecked::Revoked(_) => revoke(parts, key, filter, request.accumulator.refused_by),
    }
}

/// Revokes a subscription that its client may no longer have. The configuration says whether the
/// client is disconnected.
fn revoke(parts: &mut Parts, key: SessionKey, filter: &str, by: Option<PluginHandle>) {
    subscriptions::unsubscribe(parts, key, filter, "revoked");
    let Some(session) = parts.sessions.get(key) else { return };
    let (conn, rest, stays) = (session.conn, session.subscriptions.len(), session.is_persistent());
    let disconnects = parts.setup.limits.choices.revoke == Revoke::Disconnect;
    let count = match conn {
        // The whole session ends with its connection.
        Some(_) if disconnects && !stays => 1 + rest as u64,
        // The session is being taken down: all of it was counted when its client was disconnected.
        None if disconnects && !stays => return,
        _ => 1,
    };
    parts.counters.subscriptions_revoked += count;
    parts.out.add_revoked(by, count);
    if let Some(conn) = conn.filter(|_| disconnects) {
        let reason = ReasonCode::NOT_AUTHORIZED;
        let told = Some((reason, Some("a subscription is not allowed any more")));
        ending::end_connection(parts, conn, EndCause::ByBroker(reason), told);
    }
}

fn mark(parts: &mut Parts, key: SessionKey, filter: &str, recheck: Recheck) {
    let session = parts.sessions.get_mut(key);
    if let Some(subscription) = session.and_then(|session| session.subscriptions.get_mut(filter)) {
        subscription.recheck = recheck;
    }
}

/// Arms the pause after which unanswered rechecks are repeated.
fn recheck_later(parts: &mut Parts) {
    let now_ms = parts.clock.now().mono_ms;
    if let Some(due_ms) = parts.hooks.rechecks().pause_from(now_ms) {
        let timer = parts.clock.arm_deadline(due_ms, Deadline::Recheck);
        parts.hooks.rechecks().begin_pause(timer);
    }
}

/// Repeats unanswered rechecks now, since the links may have changed.
pub(crate) fn recheck_now(parts: &mut Parts) {
    if let Some(timer) = parts.hooks.rechecks().end_pause() {
        parts.clock.cancel_deadline(Some(timer));
        parts.hooks.rechecks().walk_unanswered(parts.sessions.places());
    }
}

/// Authorizes deliveries that wait, a slice a turn, while the window has room.
pub(crate) fn authorize_deliveries(parts: &mut Parts) {
    let mut left = parts.setup.limits.turn_budget_deliveries;
    while left > 0 && deliver_rights::may_authorize_delivery(parts) {
        let Some(key) = parts.hooks.rechecks().pop_session() else { return };
        if let Some(deliveries) = deliver_rights::deliveries_of(parts, key) {
            deliveries.is_queued = false;
        }
        while left > 0 && deliver_rights::may_authorize_delivery(parts) {
            let Some(next) = deliver_rights::deliveries_of(parts, key).and_then(Deliveries::pop_front) else {
                break;
            };
            left -= 1;
            authorize_next(parts, key, &next);
        }
        deliver_rights::queue_for_authorization(parts, key);
    }
}

fn authorize_next(parts: &mut Parts, key: SessionKey, next: &Delivery) {
    let view = next.message.view();
    let mut shared = Some(Rc::clone(&next.message));
    let options = options_of(next);
    if deliver_rights::may_deliver_now(parts, key, &options, &view, &mut shared) {
        deliver::deliver_checked(parts, key, options, &view, &mut shared);
    }
}

impl RecheckScope {
    /// Whether subscriptions of a session may be in the set. A superuser needs no authorization.
    fn may_concern(&self, session: &Session) -> bool {
        let theirs = match self {
            RecheckScope::All
            | RecheckScope::Topics(_)
            | RecheckScope::Clients(_)
            | RecheckScope::Unanswered => true,
            RecheckScope::Users(users) => RecheckScope::has_user(users, session.identity.username.as_deref()),
        };
        theirs && !session.detached && !session.identity.superuser
    }

    /// Whether a subscription of such a session is in the set.
    fn concerns(&self, client: &Identity, filter: &str, subscription: &Subscription) -> bool {
        match self {
            RecheckScope::Topics(topics) => {
                let parsed = topic::parse_filter(filter);
                parsed.is_ok_and(|parsed| topic::overlap(client.seen(parsed.filter), topics))
            }
            RecheckScope::All | RecheckScope::Clients(_) | RecheckScope::Users(_) => true,
            RecheckScope::Unanswered => subscription.recheck == Recheck::Again,
        }
    }
}

fn filters_after<'a>(
    session: &'a Session,
    after: Option<&str>,
) -> impl Iterator<Item = (&'a Box<str>, &'a Subscription)> + use<'a> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    session.subscriptions.range(from)
}
