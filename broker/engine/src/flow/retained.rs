//! Retained messages (MQTT 5.0 section 3.3.1.3). The message of a topic belongs to one shard, its
//! owner. The shard of a subscriber sends two kinds of requests to the owner. Behind the barrier it
//! requests a mark: what is stored after the mark is delivered live and only live [MQTT-3.3.1-9 of
//! 3.1.1]. Then it requests pages of what is older, one at a time and never more than the session
//! has room for.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{deliver, send, wake};
use crate::clock::Overdue;
use crate::envelope::{EnvelopeBody, Lane, PageBody, PageItem};
use crate::id::{SessionKey, ShardId, ShardSet};
use crate::packet::QoS;
use crate::parts::Parts;
use crate::session::delivery::{DeliveryOptions, lower};
use crate::session::filters::{FilterPacket, FilterStep, Granted};
use crate::session::readers::{Page, PageReceiver, PageRequest, RetainedSubscription, Room};
use crate::session::{Session, SlotBody, Subscriptions, readers};
use crate::shared_message::SharedMessage;
use crate::topic;
use crate::work::Scan;

/// Topics that an owner checks to find out whether it has messages for a filter. With more topics
/// it answers that it may have some.
const MATCH_BUDGET: usize = 8;
/// How long a message that was stored before a mark may still arrive live, because a shard was
/// late. Milliseconds.
const SETTLE_MS: u64 = 30_000;
/// Retained messages of a session that may wait in its queue behind live ones.
const QUEUED_PAGE: usize = 8;

// --- marks

/// Adds the subscriptions of a packet that are in force so far to its batch, which separates live
/// messages from stored ones.
pub(crate) fn add_to_batch(parts: &mut Parts, session_key: SessionKey, packet: &mut FilterPacket) {
    if matches!(packet.step, FilterStep::Chain(..) | FilterStep::Authorize(_) | FilterStep::Notify(_)) {
        return;
    }
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let fresh = packet.granted[packet.in_batch..].iter().filter(|one| one.is_new && one.reader != 0);
    for granted in fresh {
        let readers = session.readers.get_or_insert_default();
        readers.set_in_force(packet.batch, granted.number);
    }
    packet.in_batch = packet.granted.len();
}

/// Requests marks from the owners of retained messages.
pub(crate) fn request_marks(parts: &mut Parts, session_key: SessionKey, packet: &mut FilterPacket) {
    let wanted: Arc<[RetainedSubscription]> =
        packet.granted.iter().filter(|granted| granted.reader != 0).map(wanted_of).collect();
    let me = parts.setup.id;
    let mut owners = ShardSet::EMPTY;
    for one in &*wanted {
        if topic::has_wildcard(&one.filter) {
            owners = ShardSet::all(parts.setup.shards);
            break;
        }
        owners.insert(parts.router.owner_of(&one.filter));
    }
    let mine = owners.contains(me).then(|| set_mark(parts, &wanted));
    owners.remove(me);
    let nothing = mine.as_ref().is_some_and(|(_, found)| found.is_empty());
    if owners.is_empty() && packet.in_batch == 0 && nothing {
        // Nothing was in force before this step and nothing is stored: no separation is needed.
        return;
    }
    add_to_batch(parts, session_key, packet);
    let batch = packet.batch;
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let mut asked = owners;
    if mine.is_some() {
        asked.insert(me);
    }
    let readers = session.readers.get_or_insert_default();
    readers.request_marks(batch, asked.iter(), Arc::clone(&wanted));
    if let Some((mark, found)) = mine {
        readers.mark(batch, me, mark, &found, |_| true);
    }
    if parts.setup.shards == 1 && !parts.work.has_fanouts() {
        // No message that was stored before the mark is under way.
        readers.settle(batch);
        return;
    }
    let settles_ms = parts.clock.now().mono_ms + SETTLE_MS;
    readers.settle_at(batch, settles_ms);
    if session.rare().settles_ms.is_none() {
        session.set_rare().settles_ms = Some(settles_ms);
        parts.work.settling().insert(settles_ms, session_key);
        watch_settling(parts, settles_ms);
    }
    if owners.is_empty() {
        return;
    }
    for owner in owners.iter() {
        let wanted = Arc::clone(&wanted);
        let body = EnvelopeBody::Mark { session: session_key, batch, wanted };
        send::push_envelope(parts, owner, Lane::Control, body);
    }
}

/// Sets a mark for new subscriptions of another shard.
pub(crate) fn set_mark_for(
    parts: &mut Parts,
    from: ShardId,
    session: SessionKey,
    batch: u64,
    wanted: &[RetainedSubscription],
) {
    let (mark, found) = set_mark(parts, wanted);
    send::push_envelope(parts, from, Lane::Control, EnvelopeBody::Marked { session, batch, mark, found });
}

/// Sets a mark and returns the indexes of the filters that may have messages here. An empty store
/// costs nothing.
fn set_mark(parts: &mut Parts, wanted: &[RetainedSubscription]) -> (u64, Vec<u32>) {
    let mark = parts.retained.mark();
    let mut found = Vec::new();
    if parts.retained.is_empty() {
        wake::spend(parts, 1);
        return (mark, found);
    }
    for (place, one) in wanted.iter().enumerate() {
        if !topic::has_wildcard(&one.filter) && parts.router.owner_of(&one.filter) != parts.setup.id {
            continue;
        }
        let (may, visited) = parts.retained.may_match(&one.filter, MATCH_BUDGET, parts.clock.now().mono_ms);
        wake::spend(parts, 1 + visited as u64);
        if may {
            found.push(place as u32);
        }
    }
    (mark, found)
}

/// An owner has set its mark.
pub(crate) fn marked(
    parts: &mut Parts,
    from: ShardId,
    session_key: SessionKey,
    batch: u64,
    mark: u64,
    found: &[u32],
) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let Some(readers) = &mut session.readers else { return };
    let subscriptions = &session.subscriptions;
    let known = readers.mark(batch, from, mark, found, |one| is_current(subscriptions, one));
    if !known || !readers.is_marked(batch) {
        return;
    }
    session.drop_empty_readers();
    let waits = matches!(
        session.slots.front_mut().map(|slot| &slot.body),
        Some(SlotBody::Filters(packet)) if packet.batch == batch
    );
    if waits {
        wake::wake_slots(parts, session_key);
    } else {
        // The mark came after the deadline of SUBACK, which has been sent.
        pull_retained(parts, session_key);
    }
}

pub(crate) fn is_marked(parts: &Parts, session_key: SessionKey, batch: u64) -> bool {
    let readers = parts.sessions.get(session_key).and_then(|session| session.readers.as_ref());
    readers.is_none_or(|readers| readers.is_marked(batch))
}

/// SUBACK has been sent: pages of this batch may be requested.
pub(crate) fn begin_batch(parts: &mut Parts, session_key: SessionKey, batch: u64) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let Some(readers) = &mut session.readers else { return };
    let subscriptions = &session.subscriptions;
    readers.begin(batch, |one| is_current(subscriptions, one));
    session.drop_empty_readers();
}

/// Removes a batch whose marks are not requested.
pub(crate) fn forget_batch(parts: &mut Parts, session_key: SessionKey, packet: &FilterPacket) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    if let Some(readers) = &mut session.readers {
        readers.abandon(packet.batch);
        session.drop_empty_readers();
    }
}

/// Arms the timer for sessions that settle, if it is not armed.
fn watch_settling(parts: &mut Parts, due_ms: u64) {
    if !parts.work.settling().is_watched() {
        let timer = parts.clock.arm_overdue(due_ms, Overdue::Settled);
        parts.work.settling().begin_watch(timer);
    }
}

/// Settles the batches that are due: all live messages from before their marks have arrived.
pub(crate) fn settle_due(parts: &mut Parts) {
    let now_ms = parts.clock.now().mono_ms;
    parts.work.settling().end_watch();
    while let Some(session_key) = parts.work.settling().pop_due(now_ms) {
        let Some(session) = parts.sessions.get_mut(session_key) else { continue };
        let next_ms = session.readers.as_mut().and_then(|readers| readers.settle_due(now_ms));
        match next_ms {
            Some(next_ms) => session.set_rare().settles_ms = Some(next_ms),
            None => session.take_rare(|rare| rare.settles_ms = None),
        }
        session.drop_empty_readers();
        if let Some(next_ms) = next_ms {
            parts.work.settling().insert(next_ms, session_key);
        }
    }
    if let Some(due_ms) = parts.work.settling().next_due_ms() {
        watch_settling(parts, due_ms);
    }
}

/// Removes a session that ends from those that settle.
pub(crate) fn forget_settling(parts: &mut Parts, session_key: SessionKey, settles_ms: Option<u64>) {
    if let Some(settles_ms) = settles_ms {
        let nobody_left = parts.work.settling().remove(settles_ms, session_key);
        parts.clock.cancel_overdue(nobody_left);
    }
}

// --- pages

/// Requests the next pages of a session that has room for them.
pub(crate) fn pull_retained(parts: &mut Parts, session_key: SessionKey) {
    loop {
        let Some(session) = parts.sessions.get(session_key) else { return };
        if !session.readers.as_ref().is_some_and(|readers| readers.has_work()) {
            return;
        }
        let Some(room) = reader_room(parts, session) else { return };
        let page = wake::next_reader(parts);
        let readers = parts.sessions.get_mut(session_key).and_then(|session| session.readers.as_mut());
        let Some(request) = readers.and_then(|readers| readers.next_page(page, room)) else { return };
        wake::spend(parts, 1 + request.readers.len() as u64);
        let owner = request.owner;
        if owner != parts.setup.id {
            send::push_envelope(
                parts,
                owner,
                Lane::Control,
                EnvelopeBody::Page { receiver: PageReceiver::Session(session_key), request },
            );
        } else if !parts.work.is_turn_spent() && parts.work.scans_len() == 0 {
            let body = scan_page(parts, &request);
            take_page(parts, owner, session_key, page, body);
        } else {
            parts.work.push_scan(Scan {
                requester: owner,
                receiver: PageReceiver::Session(session_key),
                request,
            });
        }
    }
}

/// How much a session has room for; `None` for nothing.
fn reader_room(parts: &Parts, session: &Session) -> Option<Room> {
    let limits = &parts.setup.limits;
    let conn = session.conn.and_then(|conn| parts.connections.get(conn))?;
    if session.deliveries.as_ref().is_some_and(|deliveries| !deliveries.is_empty()) {
        return None;
    }
    // Half of the space, so that live messages have the other half.
    let bytes = (limits.outbound_bytes_max as usize / 2).saturating_sub(conn.out.len());
    let window = if session.queue.is_empty() {
        session.inflight.room()
    } else if session
        .readers
        .as_ref()
        .is_some_and(|readers| readers.has_queued() || readers.is_refused(queue_of(session)))
    {
        0
    } else if queue_has_room(parts, session, 0) {
        // A queue that is never empty must not block retained messages for ever.
        QUEUED_PAGE
    } else {
        0
    };
    (bytes > 0).then_some(Room { window, bytes })
}

/// Length of a session's queue, in messages and bytes.
fn queue_of(session: &Session) -> (usize, usize) {
    (session.queue.len(), session.queue.bytes())
}

fn queue_has_room(parts: &Parts, session: &Session, bytes: usize) -> bool {
    let limits = &parts.setup.limits;
    (session.queue.len() as u64) < limits.session_queue_messages_max.div_ceil(2)
        && (session.queue.bytes() + bytes) as u64 <= limits.session_queue_bytes_max
}

/// Whether a retained message that has arrived can be delivered now.
fn has_room_for(parts: &Parts, session: &Session, qos: QoS, bytes: usize) -> bool {
    let limits = &parts.setup.limits;
    let Some(conn) = session.conn.and_then(|conn| parts.connections.get(conn)) else { return false };
    if session.deliveries.as_ref().is_some_and(|deliveries| !deliveries.is_empty())
        || conn.out.len() as u64 >= limits.outbound_bytes_max
    {
        return false;
    }
    qos == QoS::AtMostOnce
        || (session.queue.is_empty() && session.inflight.has_room())
        || queue_has_room(parts, session, bytes)
}

/// Reads a page from this shard's store, within the room that the requester has.
pub(crate) fn scan_page(parts: &mut Parts, request: &PageRequest) -> PageBody {
    let mut budget = parts.setup.limits.retained_page_messages_max as usize;
    let Room { mut window, mut bytes } = request.room;
    let mut body = PageBody { items: Vec::new(), ends: Vec::with_capacity(request.readers.len()) };
    for reader in &request.readers {
        let items = &mut body.items;
        let scanned = parts.retained.scan(
            &reader.filter,
            reader.cursor.clone(),
            budget,
            parts.clock.now().mono_ms,
            |number, message| {
                let windowed = message.qos.min(reader.qos) != QoS::AtMostOnce;
                let size = message.bytes();
                let is_full = items.len() >= request.messages_max || size > bytes && !items.is_empty();
                if windowed && window == 0 || is_full {
                    return false;
                }
                window -= usize::from(windowed);
                bytes = bytes.saturating_sub(size);
                items.push(PageItem { reader: reader.reader, number, message: Arc::clone(message) });
                true
            },
        );
        parts.counters.work_units += 1 + scanned.visited as u64;
        parts.work.charge_turn(1 + scanned.visited as u64);
        budget = budget.saturating_sub(scanned.visited);
        let goes_on = scanned.next.is_some();
        body.ends.push((reader.reader, scanned.next));
        if goes_on || budget == 0 {
            break;
        }
    }
    body
}

/// Delivers the messages of a page for which there is room, and requests the rest again.
pub(crate) fn take_page(
    parts: &mut Parts,
    owner: ShardId,
    session_key: SessionKey,
    page: u64,
    body: PageBody,
) {
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let Some(readers) = &mut session.readers else { return };
    let Some(page) = readers.page_came(owner, page).filter(|page| !page.stale) else { return };
    let taken =
        body.items.iter().take_while(|item| take_item(parts, owner, session_key, &page, item)).count();
    let stopped = body.items.get(taken);
    let Some(session) = parts.sessions.get_mut(session_key) else { return };
    let queue = queue_of(session);
    let Some(readers) = &mut session.readers else { return };
    if taken == 0 && stopped.is_some() {
        readers.refused(queue);
    }
    for (reader, next) in body.ends {
        if let Some(item) = stopped
            && item.reader == reader
        {
            readers.advance(owner, reader, readers::Next::At(&item.message.topic));
            break;
        }
        readers.advance(owner, reader, next.map_or(readers::Next::Done, readers::Next::Cursor));
    }
    session.drop_empty_readers();
}

/// Delivers a message of a page, unless no subscription needs it any more. Returns false if there
/// is no room for it.
fn take_item(
    parts: &mut Parts,
    owner: ShardId,
    session_key: SessionKey,
    page: &Page,
    item: &PageItem,
) -> bool {
    wake::spend(parts, 1);
    let topic = parts.numbers.hash_of(&item.message.topic);
    let Some(session) = parts.sessions.get(session_key) else { return true };
    let Some(readers) = &session.readers else { return true };
    let Some((granted, subscription_id)) =
        readers.page_delivery(page, owner, item.reader, item.number, topic)
    else {
        return true;
    };
    // [MQTT-3.8.3-3]: the client identifier says whose message it is, on whatever shard it is
    // stored.
    if readers.no_local(owner, item.reader) && item.message.from == session.identity.client_id {
        return true;
    }
    let qos = lower(item.message.qos, granted.as_u8());
    if !has_room_for(parts, session, qos, item.message.bytes()) {
        return false;
    }
    let mut subscription_ids = SmallVec::new();
    if subscription_id != 0 {
        subscription_ids.push(subscription_id);
    }
    let options = DeliveryOptions {
        qos,
        // [MQTT-3.3.1-8]
        retain: true,
        subscription_ids,
        group: None,
        reader: item.reader,
        cached: false,
    };
    let mut shared = Some(SharedMessage::new(Arc::clone(&item.message).into()));
    deliver::deliver(parts, session_key, options, &item.message.view(), &mut shared);
    true
}

fn wanted_of(granted: &Granted) -> RetainedSubscription {
    RetainedSubscription {
        reader: granted.reader,
        filter: Arc::clone(&granted.filter),
        qos: granted.options.qos,
        subscription_id: granted.id,
        no_local: granted.options.no_local,
    }
}

/// Whether the subscription that requested these retained messages still exists unchanged.
fn is_current(subscriptions: &Subscriptions, wanted: &RetainedSubscription) -> bool {
    subscriptions.get(&wanted.filter).is_some_and(|subscription| subscription.reader == wanted.reader)
}
