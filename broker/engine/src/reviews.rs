//! What a shard authorizes by itself: subscriptions in force, since the rules of client.authorize have changed, and deliveries.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use grapnel_plugin_abi::raw::Ticket;

use crate::hook::suspended::AuthorizationRequest;
use crate::id::SessionKey;
use crate::interface::Scope;
use crate::session::Identity;
use crate::timer::Timer;

/// Which subscriptions are rechecked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those of a scope.
    Scope(Scope),
    /// Those whose last recheck nobody has answered.
    Unanswered,
}

/// A walk along the sessions of a shard, whose subscriptions are rechecked, a slice a turn. What it has found
/// is not kept: of a session it remembers the last filter alone.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) whose: Whose,
    /// The next place in the table of sessions.
    pub(crate) place: usize,
    /// How many places are still to be visited; behind the last one comes the first.
    pub(crate) left: usize,
    /// The session that is looked at, and the last filter of it that was.
    pub(crate) session: Option<(SessionKey, Option<Box<str>>)>,
}

/// A recheck that waits for a plugin.
#[derive(Debug)]
pub(crate) struct OpenRecheck {
    pub(crate) session: SessionKey,
    pub(crate) filter: Box<str>,
    /// The client as it was when it was asked about.
    pub(crate) client: Rc<Identity>,
    pub(crate) ask: AuthorizationRequest,
}

/// What the shard authorizes by itself: rechecks of subscriptions in force, and deliveries.
#[derive(Debug, Default)]
pub(crate) struct Reviews {
    walks: VecDeque<Walk>,
    /// Rechecks that wait for a plugin, by number.
    open: HashMap<u64, OpenRecheck>,
    last_number: u64,
    /// When those that nobody has answered are asked about again.
    again: Option<Timer>,
    /// How long that pause is.
    pause_ms: u64,
    /// Sessions whose first delivery is to be authorized; each at most once.
    row: VecDeque<SessionKey>,
    /// How many deliveries wait for a plugin.
    asked: u64,
}

/// Walks that may wait; one of everything takes the place of more.
const WALKS_MAX: usize = 32;
/// Time after which what nobody has answered is asked again: twice as long each time, until an answer comes.
const PAUSE_MIN_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 60_000;

impl Reviews {
    // --- walks

    /// Begins a walk along `places` sessions; `place_of` is where the session of a client stands. One of everybody's
    /// subscriptions takes the place of all others but of those that nobody has answered, and one that is under way goes on to
    /// where it stands now: whoever changes the rules often does not keep it from the last session.
    pub(crate) fn begin_walk(
        &mut self,
        whose: Whose,
        places: usize,
        place_of: impl FnOnce(&str) -> Option<usize>,
    ) {
        let walks = &mut self.walks;
        let everybody = Whose::Scope(Scope::All);
        let whose = if walks.len() >= WALKS_MAX { Whose::Scope(Scope::All) } else { whose };
        if whose == everybody {
            walks.retain(|walk| walk.whose == everybody || walk.whose == Whose::Unanswered);
        }
        if let Whose::Scope(Scope::Client(client_id)) = &whose {
            let Some(place) = place_of(client_id) else { return };
            walks.retain(|walk| walk.whose != whose);
            walks.push_back(Walk { place, left: 1, whose, session: None });
        } else if let Some(walk) = walks.iter_mut().find(|walk| walk.whose == whose) {
            walk.left = places;
        } else {
            walks.push_back(Walk { place: 0, left: places, whose, session: None });
        }
    }

    /// The walk that goes on next.
    pub(crate) fn first_walk(&mut self) -> Option<&mut Walk> {
        self.walks.front_mut()
    }

    /// The walk in front is over.
    pub(crate) fn end_walk(&mut self) {
        self.walks.pop_front();
    }

    /// Whether some walk is not over.
    pub(crate) fn has_walks(&self) -> bool {
        !self.walks.is_empty()
    }

    /// Whether some subscription is still to be rechecked, or its recheck waits for a plugin.
    pub(crate) fn is_under_way(&self) -> bool {
        self.has_walks() || !self.open.is_empty()
    }

    // --- rechecks that wait for a plugin

    /// Whether another may wait, at most `max` at a time.
    pub(crate) fn may_recheck(&self, max: u64) -> bool {
        (self.open.len() as u64) < max
    }

    /// A number for a recheck.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// A recheck waits for a plugin.
    pub(crate) fn open(&mut self, number: u64, recheck: OpenRecheck) {
        self.open.insert(number, recheck);
    }

    /// The tickets that rechecks wait for.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.open.values().filter_map(|recheck| recheck.ask.ticket())
    }

    /// A recheck has been answered, or is nobody's any more.
    pub(crate) fn close(&mut self, number: u64) -> Option<OpenRecheck> {
        self.open.remove(&number)
    }

    // --- the pause before what nobody has answered is asked again

    /// The pauses are short again, since the rules have changed.
    pub(crate) fn shorten_pause(&mut self) {
        self.pause_ms = 0;
    }

    /// Something was not answered: when the pause ends that begins with it, monotonic milliseconds; `None` within a pause.
    pub(crate) fn pause_from(&mut self, now_ms: u64) -> Option<u64> {
        if self.again.is_some() {
            return None;
        }
        self.pause_ms = (self.pause_ms * 2).clamp(PAUSE_MIN_MS, PAUSE_MAX_MS);
        Some(now_ms + self.pause_ms)
    }

    /// It begins, and this ends it.
    pub(crate) fn begin_pause(&mut self, timer: Timer) {
        self.again = Some(timer);
    }

    /// Ends the pause; `None` where there was none.
    pub(crate) fn end_pause(&mut self) -> Option<Timer> {
        self.again.take()
    }

    /// The timer of the pause.
    pub(crate) fn timer(&self) -> Option<Timer> {
        self.again
    }

    // --- deliveries

    /// The first delivery of a session is to be authorized. The caller sees to it that the session is here once.
    #[inline]
    pub(crate) fn push_session(&mut self, session: SessionKey) {
        self.row.push_back(session);
    }

    /// The session whose deliveries are authorized next.
    pub(crate) fn pop_session(&mut self) -> Option<SessionKey> {
        self.row.pop_front()
    }

    /// Whether some session waits for that.
    pub(crate) fn has_sessions(&self) -> bool {
        !self.row.is_empty()
    }

    /// Whether another delivery may wait for a plugin, at most `max` at a time.
    #[inline]
    pub(crate) fn may_ask(&self, max: u64) -> bool {
        self.asked < max
    }

    /// A delivery waits for a plugin.
    #[inline]
    pub(crate) fn delivery_waits(&mut self) {
        self.asked += 1;
    }

    /// A delivery waits no more: it was answered, or its session is taken down.
    #[inline]
    pub(crate) fn delivery_goes_on(&mut self) {
        self.asked -= 1;
    }
}
