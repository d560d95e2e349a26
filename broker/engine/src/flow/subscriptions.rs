//! Adds and removes subscriptions: in the session, in the routes, and in the shared subscriptions,
//! which track the state of their members.

use std::sync::Arc;

use super::{hooks, notify, wake};
use crate::hook::requested::Requested;
use crate::id::SessionKey;
use crate::interface::Outcome;
use crate::packet::{RetainHandling, SubscriptionOptions};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::route::SubOptions;
use crate::session::filters::Granted;
use crate::session::{GroupUpdate, Recheck, Subscription};
use crate::topic;

/// Removes a filter from the routes.
pub(crate) fn unroute(parts: &mut Parts, key: SessionKey, filter: &str) {
    if let Ok(parsed) = topic::parse_filter(filter) {
        match parsed.share {
            Some(group) => parts.router.unsubscribe_shared(group, parsed.filter, key),
            None => parts.router.unsubscribe(parsed.filter, key),
        };
    }
}

/// Shared subscriptions of a session that one slice of work updates.
const GROUPS_SLICE: usize = 64;

/// Updates the shared subscriptions of a session whose client has connected or disconnected. Those
/// beyond a slice follow in the next turns.
#[inline]
pub(crate) fn update_groups(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get(key) else { return };
    // A session without shared subscriptions pays nothing for its others.
    if !session.subscriptions.is_empty() && session.subscriptions.shared_after(None).next().is_some() {
        begin_group_update(parts, key, false);
    }
}

/// Marks a session, whose queue has drained, as able to receive for its shared subscriptions again.
pub(crate) fn end_full_groups(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    session.in_full_group = false;
    begin_group_update(parts, key, true);
}

/// Begins to update the shared subscriptions of a session: whether its client is connected, and
/// whether its queue has `drained`.
fn begin_group_update(parts: &mut Parts, key: SessionKey, drained: bool) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if session.rare().group_update.is_some()
        && let Some(group_update) = &mut session.set_rare().group_update
    {
        // It is in the work queue already, and restarts.
        group_update.after = None;
        group_update.drained |= drained;
        return;
    }
    update_some_groups(parts, key, GroupUpdate { after: None, drained });
}

/// Continues with sessions that have more than a slice, as far as the turn's budget goes.
pub(crate) fn continue_group_updates(parts: &mut Parts) {
    while !parts.work.is_turn_spent() {
        let Some(key) = parts.work.pop_group_update() else { return };
        let session = parts.sessions.get_mut(key);
        let group_update = session.and_then(|session| session.take_rare(|rare| rare.group_update.take()));
        let Some(group_update) = group_update else { continue };
        update_some_groups(parts, key, *group_update);
    }
}

/// Updates a slice of them, and queues the session for the next turn if some are left.
fn update_some_groups(parts: &mut Parts, key: SessionKey, group_update: GroupUpdate) {
    if let Some(rest) = update_group_slice(parts, key, group_update)
        && let Some(session) = parts.sessions.get_mut(key)
    {
        session.set_rare().group_update = Some(Box::new(rest));
        parts.work.push_group_update(key);
    }
}

/// Updates a slice of them. Returns what is left.
fn update_group_slice(parts: &mut Parts, key: SessionKey, group_update: GroupUpdate) -> Option<GroupUpdate> {
    let session = parts.sessions.get(key)?;
    let connected = session.conn.is_some();
    // A client that connects with a short queue has room, even if its groups were marked full
    // meanwhile.
    let queue_max = parts.setup.limits.session_queue_messages_max;
    let has_room = group_update.drained || connected && session.queue.len() as u64 * 2 <= queue_max;
    let mut told = 0;
    let mut last = None;
    for filter in session.subscriptions.shared_after(group_update.after.as_deref()).take(GROUPS_SLICE) {
        told += 1;
        last = Some(filter);
        let Ok(topic::ParsedFilter { share: Some(name), filter }) = topic::parse_filter(filter) else {
            continue;
        };
        parts.router.set_connected(name, filter, key, connected);
        if has_room && let Some(group) = parts.router.group_by_name(name, filter) {
            parts.router.set_group_full(group, false);
        }
    }
    let rest = last
        .filter(|_| told == GROUPS_SLICE)
        .map(|last| GroupUpdate { after: Some(last.into()), drained: group_update.drained });
    wake::spend(parts, told as u64);
    rest
}

/// Checks that a subscription may have this filter, and parses it.
pub(crate) fn filter_of<'a>(
    parts: &Parts,
    request: &'a Requested,
) -> Result<topic::ParsedFilter<'a>, ReasonCode> {
    let filter = request.filter_text();
    let limits = &parts.setup.limits;
    let parsed = topic::parse_filter(filter).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
    if filter.len() as u64 > limits.topic_bytes_max
        || topic::check_levels(parsed.filter, limits.topic_levels_max as u16).is_err()
    {
        return Err(ReasonCode::TOPIC_FILTER_INVALID);
    }
    Ok(parsed)
}

/// Adds an allowed subscription to the session and the routes.
pub(crate) fn put_subscription(
    parts: &mut Parts,
    session_key: SessionKey,
    parsed: topic::ParsedFilter<'_>,
    request: &Requested,
    id: u32,
) -> Result<Granted, ReasonCode> {
    let filter = request.filter_text();
    let subscriptions_max = parts.setup.limits.subscriptions_max as usize;
    let session = parts.sessions.get(session_key).ok_or(ReasonCode::UNSPECIFIED_ERROR)?;
    let known = session.subscriptions.get(filter).copied();
    if known.is_none() && (session.subscriptions.len() >= subscriptions_max || parts.router.is_full()) {
        return Err(ReasonCode::QUOTA_EXCEEDED);
    }
    let options = request.options;
    // [MQTT-3.3.1-9] to [MQTT-3.3.1-11]; a shared subscription gets none (section 4.8.2).
    let wants_retained = parsed.share.is_none()
        && match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => known.is_none(),
            RetainHandling::DoNotSend => false,
        };
    let fresh = if wants_retained { wake::next_reader(parts) } else { 0 };
    let Some(session) = parts.sessions.get_mut(session_key) else {
        return Err(ReasonCode::UNSPECIFIED_ERROR);
    };
    let mut reader = fresh;
    if let (Some(known), Some(readers)) = (known, &mut session.readers) {
        if wants_retained {
            readers.remove(known.reader, None);
        } else {
            // Retained messages that its reader has not delivered yet are delivered with the new
            // options.
            readers.regrant(known.reader, options, id);
            reader = known.reader;
        }
    }
    let subscription = Subscription { options, id, reader, recheck: Recheck::None };
    let connected = session.conn.is_some();
    let before = session.subscriptions.insert(filter.into(), subscription);
    forget_recheck(parts, before);
    let routed = sub_options(options, id);
    let subscribed = match parsed.share {
        Some(group) => parts.router.subscribe_shared(group, parsed.filter, session_key, routed, connected),
        None => parts.router.subscribe(parsed.filter, session_key, routed),
    };
    Ok(Granted {
        place: 0,
        filter: Arc::from(filter),
        barrier_seq: subscribed.barrier_seq,
        is_new: known.is_none(),
        reader: fresh,
        number: subscribed.filter,
        options,
        id,
    })
}

/// Removes a subscription from a session and notifies plugins; `cause` is one word for who did it
/// or why. Returns the code for UNSUBACK [MQTT-3.11.3-2].
pub(crate) fn unsubscribe(
    parts: &mut Parts,
    session_key: SessionKey,
    filter: &str,
    cause: &'static str,
) -> ReasonCode {
    let Some(gone) = take_subscription(parts, session_key, filter) else {
        return ReasonCode::NO_SUBSCRIPTION_EXISTED;
    };
    forget_recheck(parts, Some(gone));
    notify::notify_unsubscribed(parts, session_key, filter, gone, cause);
    ReasonCode::SUCCESS
}

pub(crate) fn sub_options(options: SubscriptionOptions, id: u32) -> SubOptions {
    SubOptions {
        qos: options.qos.as_u8(),
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        subscription_id: id,
    }
}

/// Takes back a subscription that some shard has not acknowledged in time.
pub(crate) fn withdraw(parts: &mut Parts, session_key: SessionKey, grant: &Granted) {
    let gone = take_subscription(parts, session_key, &grant.filter);
    // No notification was sent for a new one.
    if let Some(gone) = gone.filter(|_| !grant.is_new) {
        notify::notify_unsubscribed(parts, session_key, &grant.filter, gone, "barrier");
    }
}

/// Unsubscribes a client, if it is here and has the subscription. Returns the outcome.
pub(crate) fn unsubscribe_for(parts: &mut Parts, client_id: &str, filter: &str) -> Outcome {
    let Some(session_key) = parts.sessions.by_client_id(client_id) else { return Outcome::Absent };
    let session = parts.sessions.get(session_key);
    if !session.is_some_and(|session| session.subscriptions.contains_key(filter)) {
        return Outcome::Refused;
    }
    unsubscribe(parts, session_key, filter, "plugin");
    Outcome::Done
}

/// Removes a subscription from the session and the routes, and stops its retained messages
/// [MQTT-3.10.4-2].
pub(crate) fn take_subscription(
    parts: &mut Parts,
    session_key: SessionKey,
    filter: &str,
) -> Option<Subscription> {
    let session = parts.sessions.get_mut(session_key)?;
    let gone = session.subscriptions.remove(filter)?;
    if let Some(readers) = &mut session.readers {
        readers.remove(gone.reader, parts.router.filter_number(filter));
        session.drop_empty_readers();
    }
    unroute(parts, session_key, filter);
    Some(gone)
}

/// Closes an open recheck of a subscription that has ended or was replaced.
pub(crate) fn forget_recheck(parts: &mut Parts, gone: Option<Subscription>) {
    if let Some(Subscription { recheck: Recheck::Open(number), .. }) = gone
        && let Some(recheck) = parts.hooks.rechecks().close(number)
        && let Some(ticket) = recheck.request.ticket()
    {
        hooks::close_ticket(parts, ticket);
    }
}
