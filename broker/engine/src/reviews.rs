//! What a shard authorizes by itself: subscriptions in force, since the rules of client.authorize have changed, and deliveries.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::hook::suspended::AuthorizationRequest;
use crate::id::SessionKey;
use crate::interface::Scope;
use crate::session::Identity;

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
    pub(crate) walks: VecDeque<Walk>,
    /// Rechecks that wait for a plugin, by number: at most `rechecks_max`.
    pub(crate) open: HashMap<u64, OpenRecheck>,
    pub(crate) next: u64,
    /// When those that nobody has answered are asked about again, and how long that pause is.
    pub(crate) again_ms: Option<u64>,
    pub(crate) pause_ms: u64,
    /// Sessions whose first delivery is to be authorized; each at most once.
    pub(crate) row: VecDeque<SessionKey>,
    /// How many deliveries wait for a plugin: at most `deliver_requests_max`.
    pub(crate) asked: u64,
}
