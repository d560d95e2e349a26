//! Who may go on: sessions that something has become possible for, and sessions that wait for room in a lane.

use std::collections::VecDeque;

use crate::id::{SessionKey, ShardId, ShardSet};

/// Sessions that may go on, and how much of this step is left for them.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    pub(crate) sessions: VecDeque<SessionKey>,
    /// Units of work: a step of a waiting packet, a delivery.
    pub(crate) budget: u64,
}

/// Sessions whose publish in front waits for a lane, for each lane, first come first served.
#[derive(Debug)]
pub(crate) struct LaneWaiters {
    pub(crate) lanes: Vec<VecDeque<SessionKey>>,
    /// Lanes that somebody waits for. Whoever comes later waits too, whether or not there is room.
    pub(crate) waited: ShardSet,
    /// Of them those that have come down to the low mark and have not been full since.
    pub(crate) open: ShardSet,
    /// The session whose turn it is: for one publish it need not wait behind the others.
    pub(crate) turn: Option<SessionKey>,
}

impl RunQueue {
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

    /// A publish has passed: the next one of the same session is nobody's turn.
    #[inline]
    pub(crate) fn passed(&mut self) {
        self.turn = None;
    }
}
