//! The effect of a message: the retained store, this shard's subscribers, the other shards. A
//! message that must wait has not taken effect yet, and returns what it waits for.

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{deliver, notify, retain, send, wake};
use crate::counters::DropReason;
use crate::envelope::{EnvelopeBody, Lane};
use crate::id::{SessionKey, ShardId, ShardSet};
use crate::message::MessageView;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::route::{GroupId, GroupRef, Matched};
use crate::session::{Source, Storage};
use crate::shared_message::{SharedMessage, shared_message};
use crate::work::FanOut;

/// Result of a message.
pub(crate) enum Effect {
    /// It took effect; the code for the acknowledgement.
    Done(ReasonCode),
    /// It waits in a slot; the value is its state at the owner of its topic.
    Waits(Storage),
}

/// The picked shard of each matching shared subscription.
type PickedShards = SmallVec<[(GroupRef, ShardId); 2]>;

/// Applies the effect of a message for the publish in slot `number` of the session, or for a
/// publish that would get this slot. `stored` is the answer of the topic's owner, if there was a
/// request: the number of the stored message, 0 if there was no room.
pub(crate) fn effect(
    parts: &mut Parts,
    session: SessionKey,
    (number, source): (u64, Source),
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
    mut stored: Option<u64>,
) -> Effect {
    if view.retain && stored.is_none() && parts.setup.limits.choices.retain_available {
        let owner = parts.router.owner_of(view.topic);
        if owner == parts.setup.id {
            stored = Some(retain::store_retained(parts, view, shared).unwrap_or(0));
        } else if must_wait_for_lane(parts, session, owner) {
            wake::wait_for_lane(parts, session, owner);
            return Effect::Waits(Storage::NotRequested);
        } else {
            parts.work.lanes().passed();
            // The owner stores it first: a subscriber that the routes do not include yet finds it
            // there.
            let id = parts.work.begin_store(session, number);
            let message = Arc::clone(shared_message(view, shared));
            send::push_envelope(parts, owner, Lane::Data, EnvelopeBody::Store { id, message });
            return Effect::Waits(Storage::Requested(id));
        }
    }
    if source == Source::Store {
        return Effect::Done(ReasonCode::SUCCESS);
    }
    let matched = parts.router.matches(view.topic);
    let picked = pick_shards(parts, &matched);
    let destinations = destinations(parts, &matched, &picked);
    if let Some(lane) = destinations.iter().find(|lane| must_wait_for_lane(parts, session, *lane)) {
        wake::wait_for_lane(parts, session, lane);
        // A stored message stays stored; only the routing is left.
        return Effect::Waits(stored.map_or(Storage::NotRequested, Storage::Answered));
    }
    parts.work.lanes().passed();
    // A full store does not store the message; the routing continues.
    let is_behalf = source == Source::Behalf;
    // A plugin that receives 0x97 would retry, although the message was delivered.
    let full = stored == Some(0) && !is_behalf && is_v5(parts, session);
    let numbered;
    let view = if stored.unwrap_or(0) == view.stored {
        view
    } else {
        numbered = MessageView { stored: stored.unwrap_or(0), ..*view };
        &numbered
    };
    if matched.is_empty() {
        notify::count_drop(parts, DropReason::NoSubscribers, view, None);
        let quiet = !is_behalf && !is_v5(parts, session);
        return Effect::Done(if full {
            ReasonCode::QUOTA_EXCEEDED
        } else if quiet {
            ReasonCode::SUCCESS
        } else {
            ReasonCode::NO_MATCHING_SUBSCRIBERS
        });
    }
    forward(parts, view, shared, &matched, &picked, destinations);
    serve_local(parts, view, shared, &matched);
    for (group, shard) in picked {
        if shard == parts.setup.id {
            serve_group(parts, group, view, shared, false);
        }
    }
    Effect::Done(if full { ReasonCode::QUOTA_EXCEEDED } else { ReasonCode::SUCCESS })
}

fn is_v5(parts: &Parts, session: SessionKey) -> bool {
    parts.sessions.get(session).is_some_and(|session| session.identity.version.is_v5())
}

/// Whether a publisher must wait for a lane: the lane is full, or others wait for it already.
fn must_wait_for_lane(parts: &Parts, session: SessionKey, lane: ShardId) -> bool {
    lane_is_full(parts, lane) || parts.work.are_before(session, lane)
}

/// Whether the lane to a shard is full.
pub(crate) fn lane_is_full(parts: &Parts, shard: ShardId) -> bool {
    let index = shard.index();
    parts.out.data[index].len() as u64 >= parts.setup.limits.lane_envelopes_max
        || parts.out.data_bytes[index] as u64 >= parts.setup.limits.lane_bytes_max
}

/// Picks the shard whose member gets the message, for each matching shared subscription.
fn pick_shards(parts: &mut Parts, matched: &Matched) -> PickedShards {
    let mut picked = PickedShards::new();
    for &group in &matched.groups {
        let random = parts.numbers.random();
        if let Some(shard) = parts.router.pick_shared(group, random) {
            picked.push((group, shard));
        }
    }
    picked
}

fn destinations(parts: &Parts, matched: &Matched, picked: &PickedShards) -> ShardSet {
    let mut set = matched.shards;
    for (_, shard) in picked {
        set.insert(*shard);
    }
    set.remove(parts.setup.id);
    set
}

/// Sends one envelope to each interested shard, however many subscribers it has.
fn forward(
    parts: &mut Parts,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
    matched: &Matched,
    picked: &PickedShards,
    destinations: ShardSet,
) {
    for shard in destinations.iter() {
        let groups: SmallVec<[GroupId; 1]> = picked
            .iter()
            .filter(|(_, drawn)| *drawn == shard)
            .filter_map(|(group, _)| parts.router.group_id(*group))
            .collect();
        let plain = matched.shards.contains(shard);
        let message = Arc::clone(shared_message(view, shared));
        parts.counters.messages_forwarded += 1;
        let body = EnvelopeBody::Message { message, plain, groups, forwarded: false, stored: view.stored };
        send::push_envelope(parts, shard, Lane::Data, body);
    }
}

/// Delivers to this shard's plain subscribers: at once, or in slices if they exceed the turn's
/// budget.
pub(crate) fn serve_local(
    parts: &mut Parts,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
    matched: &Rc<Matched>,
) {
    if matched.local.is_empty() {
        return;
    }
    // A message must not overtake a sliced fan-out to the same sessions.
    if parts.work.has_fanouts() || matched.local.len() as u64 > parts.setup.limits.turn_budget_deliveries {
        let message = Rc::clone(shared_message(view, shared));
        parts.memory.pool().count(&message);
        parts.work.push_fanout(FanOut { message, stored: view.stored, matched: Rc::clone(matched), next: 0 });
        return;
    }
    parts.work.run().spend(matched.local.len() as u64);
    parts.counters.work_units += matched.local.len() as u64;
    parts.encoder.begin();
    for target in &matched.local {
        deliver::serve_target(parts, target, view, shared);
    }
}

/// Delivers to one member of a shared subscription on this shard. If the queues of all members are
/// full, the message is dropped: on another shard it could arrive behind a later message of its
/// publisher [MQTT-4.6.0-5]. If there is no member any more, it goes to another shard, once.
pub(crate) fn serve_group(
    parts: &mut Parts,
    group: GroupRef,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
    forwarded: bool,
) {
    let id = parts.router.group_id(group);
    let sessions = &parts.sessions;
    let queue_max = parts.setup.limits.session_queue_messages_max;
    let (mut stays, mut asked) = (false, 0);
    let member = parts.router.pick_member(group, |key| {
        asked += 1;
        sessions.get(key).is_some_and(|session| {
            let remains = session.lifecycle == crate::session::LifecycleState::Stays;
            stays |= remains;
            remains && (session.queue.len() as u64) < queue_max
        })
    });
    parts.work.run().spend(asked);
    parts.counters.work_units += asked;
    if let Some((session, options)) = member {
        parts.encoder.begin();
        deliver::serve_member(parts, session, options, id, view, shared);
        let waiting = parts.sessions.get(session).map_or(0, |session| session.queue.len() as u64);
        if parts.router.note_pick(group, waiting * 4 >= queue_max * 3) {
            note_full_group(parts, group);
        }
        return;
    }
    if stays {
        if !parts.router.is_group_full(group) {
            note_full_group(parts, group);
        }
        notify::count_drop(parts, DropReason::NoMember, view, None);
        return;
    }
    let mut others = ShardSet::all(parts.setup.shards);
    others.remove(parts.setup.id);
    let random = parts.numbers.random();
    let elsewhere = parts.router.pick_shared_among(group, others, random).filter(|_| !forwarded);
    match (elsewhere, id) {
        (Some(shard), Some(id)) => {
            let message = Arc::clone(shared_message(view, shared));
            let groups = SmallVec::from_elem(id, 1);
            let body = EnvelopeBody::Message { message, plain: false, groups, forwarded: true, stored: 0 };
            push_reserved(parts, shard, body);
        }
        _ => notify::count_drop(parts, DropReason::NoMember, view, None),
    }
}

/// If the queues of all members of a shared subscription on this shard are long, has other shards
/// picked. Each of these members ends that when its queue has drained.
fn note_full_group(parts: &mut Parts, group: GroupRef) {
    let queue_max = parts.setup.limits.session_queue_messages_max;
    let members: Vec<SessionKey> = parts.router.group_members(group).map(|(session, _)| session).collect();
    let has_room = |key: &SessionKey| {
        parts
            .sessions
            .get(*key)
            .is_some_and(|session| session.conn.is_some() && session.queue.len() as u64 * 2 <= queue_max)
    };
    let full = !members.iter().any(has_room);
    parts.router.set_group_full(group, full);
    if full {
        for key in members {
            if let Some(session) = parts.sessions.get_mut(key) {
                session.in_full_group = true;
            }
        }
    }
}

/// Delivers a message to another member, after the picked one has left.
pub(crate) fn pick_again(parts: &mut Parts, group: GroupId, message: &SharedMessage) {
    let Some(group) = parts.router.group_by_id(group) else { return };
    let random = parts.numbers.random();
    let view = message.view();
    let mut shared = Some(Rc::clone(message));
    match parts.router.pick_shared(group, random) {
        Some(shard) if shard == parts.setup.id => serve_group(parts, group, &view, &mut shared, false),
        Some(shard) => {
            let Some(id) = parts.router.group_id(group) else { return };
            let message = Arc::clone(message);
            let groups = SmallVec::from_elem(id, 1);
            push_reserved(
                parts,
                shard,
                EnvelopeBody::Message { message, plain: false, groups, forwarded: false, stored: 0 },
            );
        }
        None => {}
    }
}

/// Sends an envelope that cannot wait. Beyond the lane's limit it uses a reserve; beyond that it is
/// dropped and counted.
pub(crate) fn push_reserved(parts: &mut Parts, shard: ShardId, body: EnvelopeBody) {
    let limits = &parts.setup.limits;
    let most = limits.lane_envelopes_max + limits.lane_reserve_envelopes_max;
    if parts.out.data[shard.index()].len() as u64 >= most {
        if let EnvelopeBody::Message { message, .. } = &body {
            notify::count_drop(parts, DropReason::LaneFull, &message.view(), None);
        }
        return;
    }
    send::push_envelope(parts, shard, Lane::Data, body);
}

/// Sends the changes of this shard's interest to all other shards.
pub(crate) fn announce_interest(parts: &mut Parts) {
    let Some(batch) = parts.router.take_changes() else { return };
    let batch = Arc::new(batch);
    for index in 0..parts.setup.shards {
        if index != parts.setup.id.index() {
            let body = EnvelopeBody::Interest(Arc::clone(&batch));
            send::push_envelope(parts, ShardId(index as u8), Lane::Control, body);
        }
    }
}
