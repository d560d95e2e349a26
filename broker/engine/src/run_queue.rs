//! Who may go on: sessions that something has become possible for, and sessions that wait for room in a lane.

use std::collections::VecDeque;

use crate::id::{SessionKey, ShardId, ShardSet};

/// Sessions that may go on, and how much of this step is left for them.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    sessions: VecDeque<SessionKey>,
    /// Units of work: a step of a waiting packet, a delivery.
    budget: u64,
}

/// Sessions whose publish in front waits for a lane, for each lane, first come first served.
#[derive(Debug)]
pub(crate) struct LaneWaiters {
    lanes: Vec<VecDeque<SessionKey>>,
    /// Lanes that somebody waits for. Whoever comes later waits too, whether or not there is room.
    waited: ShardSet,
    /// Of them those that have come down to the low mark and have not been full since.
    open: ShardSet,
    /// The session whose turn it is: for one publish it need not wait behind the others.
    turn: Option<SessionKey>,
}

/// Sessions for which a lane's memory is kept while nobody waits for it.
const KEPT_PLACES: usize = 1024;

impl RunQueue {
    /// A step begins, with so many units of work.
    #[inline]
    pub(crate) fn begin_step(&mut self, units: u64) {
        self.budget = units;
    }

    /// Takes from what is left of this step.
    #[inline]
    pub(crate) fn spend(&mut self, units: u64) {
        self.budget = self.budget.saturating_sub(units);
    }

    /// Whether nothing is left: the rest goes on in the next turn.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    /// A session may go on. The caller sees to it that it is here once.
    #[inline]
    pub(crate) fn push(&mut self, session: SessionKey) {
        self.sessions.push_back(session);
    }

    /// The session that goes on next.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<SessionKey> {
        self.sessions.pop_front()
    }

    /// Whether no session is here.
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

    /// Whether others wait for a lane, and it is not this session's turn.
    #[inline]
    pub(crate) fn are_before(&self, session: SessionKey, lane: ShardId) -> bool {
        self.waited.contains(lane) && self.turn != Some(session)
    }

    /// A session waits for a lane, behind those that wait already. The caller sees to it that it waits there once.
    #[inline]
    pub(crate) fn wait(&mut self, session: SessionKey, lane: ShardId) {
        self.lanes[lane.index()].push_back(session);
        self.waited.insert(lane);
    }

    /// It is this session's turn, until a publish of it has [`passed`](LaneWaiters::passed).
    #[inline]
    pub(crate) fn begin_turn(&mut self, session: SessionKey) {
        self.turn = Some(session);
    }

    /// A publish has passed, or the turn is over: the next one of the same session is nobody's turn.
    #[inline]
    pub(crate) fn passed(&mut self) {
        self.turn = None;
    }

    /// Whether some lane has room for somebody who waits.
    #[inline]
    pub(crate) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// A lane with room for somebody who waits, as far as is known.
    #[inline]
    pub(crate) fn first_open(&self) -> Option<ShardId> {
        self.open.iter().next()
    }

    /// Lanes that somebody waits for have room again where `is_low`.
    #[inline]
    pub(crate) fn open_lanes(&mut self, is_low: impl Fn(ShardId) -> bool) {
        for lane in self.waited.iter().filter(|lane| is_low(*lane)) {
            self.open.insert(lane);
        }
    }

    /// A lane is full: who waits for it waits on.
    #[inline]
    pub(crate) fn close(&mut self, lane: ShardId) {
        self.open.remove(lane);
    }

    /// The session that waits for a lane longest, which waits there no more.
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
