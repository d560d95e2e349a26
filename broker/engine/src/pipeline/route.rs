//! The effect of a message: the retained store, this shard's subscribers, the other shards. What cannot go now says what it
//! waits for, and nothing of it has happened yet.

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::envelope::EnvelopeBody;
use super::tell::Loss;
use super::turns::FanOut;
use super::{Lane, Shard};
use crate::id::{SessionKey, ShardId, ShardSet};
use crate::message::MessageView;
use crate::reason::ReasonCode;
use crate::route::{GroupId, GroupRef, Matched};
use crate::session::{Held, Stage};

/// What became of a message.
pub(super) enum Effect {
    /// It took effect; the code for the acknowledgement.
    Done(ReasonCode),
    /// It did not, for this reason.
    Refused(ReasonCode),
    /// It waits in a slot at this stage.
    Waits(Stage),
}

/// Where the deliveries of matching shared subscriptions go.
type Draws = SmallVec<[(GroupRef, ShardId); 2]>;

impl Shard {
    /// Has a message take effect for the publish that is, or would be, slot `number` of the session. `stored` says that the
    /// owner of its topic has stored it already.
    pub(super) fn effect(
        &mut self,
        session: SessionKey,
        number: u64,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
        stored: bool,
    ) -> Effect {
        if view.retain && !stored {
            let owner = self.routes.owner_of(view.topic);
            if owner == self.setup.id {
                if self.store_retained(view, held).is_err() {
                    return Effect::Refused(ReasonCode::QUOTA_EXCEEDED);
                }
            } else if self.lane_is_full(owner) {
                return self.wait_for_lane(session, Stage::Decided);
            } else {
                // The owner first: whoever is not routed to now will find it there.
                let id = self.next_store;
                self.next_store += 1;
                self.stores.insert(id, (session, number));
                let message = Arc::clone(hold(view, held));
                self.push_envelope(owner, Lane::Data, EnvelopeBody::Store { id, message });
                return Effect::Waits(Stage::Storing(id));
            }
        }
        let matched = self.routes.matches(view.topic);
        let draws = self.draw(&matched);
        let destinations = self.destinations(&matched, &draws);
        if destinations.iter().any(|shard| self.lane_is_full(shard)) {
            // What is stored stays stored; only the routing is still to come.
            let stage = if view.retain { Stage::Stored } else { Stage::Decided };
            return self.wait_for_lane(session, stage);
        }
        if matched.is_empty() {
            self.count_drop(Loss::NoSubscribers, view, None);
            let quiet = !self.is_v5(session);
            return Effect::Done(if quiet {
                ReasonCode::SUCCESS
            } else {
                ReasonCode::NO_MATCHING_SUBSCRIBERS
            });
        }
        self.forward(view, held, &matched, &draws, destinations);
        self.serve_local(view, held, &matched);
        for (group, shard) in draws {
            if shard == self.setup.id {
                self.serve_group(group, view, held, false);
            }
        }
        Effect::Done(ReasonCode::SUCCESS)
    }

    fn is_v5(&self, session: SessionKey) -> bool {
        self.sessions.get(session).is_some_and(|session| session.identity.version.is_v5())
    }

    fn wait_for_lane(&mut self, session: SessionKey, stage: Stage) -> Effect {
        if !self.lane_waiters.contains(&session) {
            self.lane_waiters.push_back(session);
        }
        Effect::Waits(stage)
    }

    /// Whether a publisher has to wait for room to that shard.
    pub(super) fn lane_is_full(&self, shard: ShardId) -> bool {
        let index = shard.index();
        self.out.data[index].len() as u64 >= self.setup.limits.lane_envelopes_max
            || self.out.data_bytes[index] as u64 >= self.setup.limits.lane_bytes_max
    }

    /// The shard whose member gets the message, for each matching shared subscription.
    fn draw(&mut self, matched: &Matched) -> Draws {
        let mut draws = Draws::new();
        for &group in &matched.groups {
            let random = self.random();
            if let Some(shard) = self.routes.pick_shared(group, random) {
                draws.push((group, shard));
            }
        }
        draws
    }

    fn destinations(&self, matched: &Matched, draws: &Draws) -> ShardSet {
        let mut set = matched.shards;
        for (_, shard) in draws {
            set.insert(*shard);
        }
        set.remove(self.setup.id);
        set
    }

    /// One envelope for each shard that wants it, whatever the number of its subscribers.
    fn forward(
        &mut self,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
        matched: &Matched,
        draws: &Draws,
        destinations: ShardSet,
    ) {
        for shard in destinations.iter() {
            let groups: SmallVec<[GroupId; 1]> = draws
                .iter()
                .filter(|(_, drawn)| *drawn == shard)
                .filter_map(|(group, _)| self.routes.group_id(*group))
                .collect();
            let plain = matched.shards.contains(shard);
            let message = Arc::clone(hold(view, held));
            self.counters.messages_forwarded += 1;
            let body = EnvelopeBody::Message { message, plain, groups, forwarded: false };
            self.push_envelope(shard, Lane::Data, body);
        }
    }

    /// This shard's plain subscribers, at once or, where they are more than a turn takes, in slices.
    pub(super) fn serve_local(
        &mut self,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
        matched: &Rc<Matched>,
    ) {
        if matched.local.is_empty() {
            return;
        }
        // Nothing overtakes a sliced fan-out to the same sessions.
        if !self.fanouts.is_empty() || matched.local.len() as u64 > self.setup.limits.turn_budget_deliveries {
            let message = Rc::clone(hold(view, held));
            self.fanouts.push_back(FanOut { message, matched: Rc::clone(matched), next: 0 });
            return;
        }
        self.frames.begin();
        for target in &matched.local {
            self.serve_target(target, view, held);
        }
    }

    /// One member of a shared subscription on this shard; where none is eligible, once another shard, then a drop.
    pub(super) fn serve_group(
        &mut self,
        group: GroupRef,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
        forwarded: bool,
    ) {
        let id = self.routes.group_id(group);
        let sessions = &self.sessions;
        let queue_max = self.setup.limits.session_queue_messages_max;
        let member = self.routes.pick_member(group, |key| {
            sessions.get(key).is_some_and(|session| {
                session.fate == crate::session::Fate::Stays && (session.queue.len() as u64) < queue_max
            })
        });
        if let Some((session, options)) = member {
            self.frames.begin();
            self.serve_member(session, options, id, view, held);
            return;
        }
        let mut others = ShardSet::all(self.setup.shards);
        others.remove(self.setup.id);
        let random = self.random();
        let elsewhere = self.routes.pick_shared_among(group, others, random).filter(|_| !forwarded);
        match (elsewhere, id) {
            (Some(shard), Some(id)) => {
                let message = Arc::clone(hold(view, held));
                let groups = SmallVec::from_elem(id, 1);
                let body = EnvelopeBody::Message { message, plain: false, groups, forwarded: true };
                self.push_reserved(shard, body);
            }
            _ => self.count_drop(Loss::NoMember, view, None),
        }
    }

    /// A message that was drawn for a member that has left.
    pub(super) fn redraw(&mut self, group: GroupId, message: &Held) {
        let Some(group) = self.routes.group_by_id(group) else { return };
        let random = self.random();
        let view = message.view();
        let mut held = Some(Rc::clone(message));
        match self.routes.pick_shared(group, random) {
            Some(shard) if shard == self.setup.id => self.serve_group(group, &view, &mut held, false),
            Some(shard) => {
                let Some(id) = self.routes.group_id(group) else { return };
                let message = Arc::clone(message);
                let groups = SmallVec::from_elem(id, 1);
                self.push_reserved(
                    shard,
                    EnvelopeBody::Message { message, plain: false, groups, forwarded: false },
                );
            }
            None => {}
        }
    }

    /// An envelope of what cannot be paused: beyond the lane's limit there is a reserve, beyond that a counted drop.
    pub(super) fn push_reserved(&mut self, shard: ShardId, body: EnvelopeBody) {
        let limits = &self.setup.limits;
        let most = limits.lane_envelopes_max + limits.lane_reserve_envelopes_max;
        if self.out.data[shard.index()].len() as u64 >= most {
            if let EnvelopeBody::Message { message, .. } = &body {
                self.count_drop(Loss::LaneFull, &message.view(), None);
            }
            return;
        }
        self.push_envelope(shard, Lane::Data, body);
    }

    /// Envelopes have left the staging of some lane: publishers that waited for room may go on, first come first served. Once
    /// a turn.
    pub fn lanes_moved(&mut self) {
        // Each is looked at once; one that still finds no room queues again at the end.
        for _ in 0..self.lane_waiters.len() {
            if !self.lanes_are_low() {
                return;
            }
            let Some(session) = self.lane_waiters.pop_front() else { return };
            self.pump_slots(session);
        }
    }

    fn lanes_are_low(&self) -> bool {
        let limits = &self.setup.limits;
        let low = |index: usize| {
            self.out.data[index].len() as u64 <= limits.lane_envelopes_max / 2
                && self.out.data_bytes[index] as u64 <= limits.lane_bytes_max / 2
        };
        (0..self.setup.shards).any(|index| index != self.setup.id.index() && low(index))
    }
}

/// The message to keep, made once.
pub(super) fn hold<'a>(view: &MessageView<'_>, held: &'a mut Option<Held>) -> &'a Held {
    held.get_or_insert_with(|| Rc::new(Arc::new(view.to_message())))
}
