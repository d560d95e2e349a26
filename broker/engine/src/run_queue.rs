//! Sessions that can continue, and sessions that wait for room in a lane.

use std::collections::VecDeque;

use crate::id::{SessionKey, ShardId, ShardSet};

/// Sessions that can continue, and the budget of this step.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    sessions: VecDeque<SessionKey>,
    /// Units of work left: a unit is a step of a waiting packet, or a delivery.
    budget: u64,
}

/// Sessions whose first publish waits for a lane, by lane, first come first served.
#[derive(Debug)]
pub(crate) struct LaneWaiters {
    lanes: Vec<VecDeque<SessionKey>>,
    /// Lanes with a waiting session. Later sessions wait too, even if there is room.
    waited: ShardSet,
    /// Those of `waited` that have fallen to the low mark and have not been full since.
    open: ShardSet,
    /// The session whose turn it is: it may send one publish without waiting behind the others.
    turn: Option<SessionKey>,
}

/// Capacity that the queue of a lane keeps while it is empty.
const KEPT_PLACES: usize = 1024;

impl RunQueue {
    /// Starts a step with this many units of work.
    #[inline]
    pub(crate) fn begin_step(&mut self, units: u64) {
        self.budget = units;
    }

    /// Takes units from the budget of this step.
    #[inline]
    pub(crate) fn spend(&mut self, units: u64) {
        self.budget = self.budget.saturating_sub(units);
    }

    /// Whether the budget is used up; the rest continues in the next turn.
    #[inline]
    pub(crate) fn is_used_up(&self) -> bool {
        self.budget == 0
    }

    /// Adds a session that can continue. The caller ensures that it is here at most once.
    #[inline]
    pub(crate) fn push(&mut self, session: SessionKey) {
        self.sessions.push_back(session);
    }

    /// Takes the session that continues next.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<SessionKey> {
        self.sessions.pop_front()
    }

    /// Whether it has no session.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl LaneWaiters {
    pub(crate) fn new(shards: usize) -> LaneWaiters {
        LaneWaiters {
            lanes: (0..shards).map(|_| VecDeque::new()).collect(),
            waited: ShardSet::EMPTY,
            open: ShardSet::EMPTY,
            turn: None,
        }
    }

    /// Whether others wait for a lane and it is not this session's turn.
    #[inline]
    pub(crate) fn are_before(&self, session: SessionKey, lane: ShardId) -> bool {
        self.waited.contains(lane) && self.turn != Some(session)
    }

    /// Adds a session behind those that wait for a lane. The caller ensures that it waits there at
    /// most once.
    #[inline]
    pub(crate) fn wait(&mut self, session: SessionKey, lane: ShardId) {
        self.lanes[lane.index()].push_back(session);
        self.waited.insert(lane);
    }

    /// Starts the turn of this session, until a publish of it has [`passed`](LaneWaiters::passed).
    #[inline]
    pub(crate) fn begin_turn(&mut self, session: SessionKey) {
        self.turn = Some(session);
    }

    /// A publish has passed, or the turn is over: the session's next publish waits behind the
    /// others.
    #[inline]
    pub(crate) fn passed(&mut self) {
        self.turn = None;
    }

    /// Whether a lane has room for a waiting session.
    #[inline]
    pub(crate) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// A lane that seems to have room for a waiting session.
    #[inline]
    pub(crate) fn first_open(&self) -> Option<ShardId> {
        self.open.iter().next()
    }

    /// Marks lanes with waiting sessions as open where `is_low`.
    #[inline]
    pub(crate) fn open_lanes(&mut self, is_low: impl Fn(ShardId) -> bool) {
        for lane in self.waited.iter().filter(|lane| is_low(*lane)) {
            self.open.insert(lane);
        }
    }

    /// A lane is full: its sessions continue to wait.
    #[inline]
    pub(crate) fn close(&mut self, lane: ShardId) {
        self.open.remove(lane);
    }

    /// Takes the session that has waited longest for a lane.
    #[inline]
    pub(crate) fn pop(&mut self, lane: ShardId) -> Option<SessionKey> {
        let queue = &mut self.lanes[lane.index()];
        let session = queue.pop_front();
        if queue.is_empty() {
            if queue.capacity() > KEPT_PLACES {
                *queue = VecDeque::new();
            }
            self.waited.remove(lane);
            self.open.remove(lane);
        }
        session
    }
}
