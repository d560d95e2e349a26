//! What a shard authorizes without a request of a client: subscriptions in force after a change of
//! the client.authorize rules, and deliveries.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use grapnel_plugin_abi::raw::Ticket;

use crate::hook::suspended::AuthorizationRequest;
use crate::id::SessionKey;
use crate::interface::Scope;
use crate::session::Identity;
use crate::timer::Timer;

/// Which subscriptions are rechecked.
#[derive(Debug)]
pub(crate) enum RecheckScope {
    /// All subscriptions.
    All,
    /// Those that could bring a topic of this filter.
    Topics(Box<str>),
    /// Those of these sessions, by position in the table: at most one session for each position.
    Clients(BTreeMap<u32, SessionKey>),
    /// Those of these users, by hash of the name. Users with the same hash are rechecked together.
    Users(HashSet<u64, ahash::RandomState>),
    /// Those whose last recheck was not answered.
    Unanswered,
}

/// A walk over the sessions of a shard that rechecks their subscriptions, a slice a turn. It
/// collects no list: of the current session it stores only the last filter.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) scope: RecheckScope,
    /// The next position in the session table.
    place: usize,
    /// Number of positions still to be visited. After the last position comes the first.
    left: usize,
    /// The current session and the last filter that was checked.
    pub(crate) session: Option<(SessionKey, Option<Box<str>>)>,
    /// Whether it has begun. Then its set of subscriptions is fixed, so that it ends.
    begun: bool,
}

impl Walk {
    fn new(scope: RecheckScope, places: usize) -> Walk {
        Walk { scope, place: 0, left: places, session: None, begun: false }
    }

    /// Whether it has visited everything.
    pub(crate) fn is_done(&self) -> bool {
        match &self.scope {
            RecheckScope::Clients(keys) => keys.is_empty(),
            _ => self.left == 0,
        }
    }

    /// The session at the next position, if there is one.
    pub(crate) fn next(
        &mut self,
        places: usize,
        key_at: impl FnOnce(usize) -> Option<SessionKey>,
    ) -> Option<SessionKey> {
        if let RecheckScope::Clients(keys) = &mut self.scope {
            return keys.pop_first().map(|(_, key)| key);
        }
        let place = self.place;
        self.place = (place + 1) % places.max(1);
        self.left = self.left.saturating_sub(1);
        key_at(place)
    }
}

/// A recheck that waits for a plugin.
#[derive(Debug)]
pub(crate) struct OpenRecheck {
    pub(crate) session: SessionKey,
    pub(crate) filter: Box<str>,
    /// The client's identity when its authorization was requested.
    pub(crate) client: Rc<Identity>,
    pub(crate) request: AuthorizationRequest,
}

/// What the shard authorizes without a request of a client: rechecks of subscriptions in force, and
/// deliveries.
#[derive(Debug, Default)]
pub(crate) struct RecheckQueue {
    walks: VecDeque<Walk>,
    /// Rechecks that wait for a plugin, by number.
    open: HashMap<u64, OpenRecheck>,
    last_number: u64,
    /// The timer after which unanswered rechecks are repeated.
    again: Option<Timer>,
    /// Length of that pause in milliseconds.
    pause_ms: u64,
    /// Sessions whose first delivery is to be authorized; each at most once.
    row: VecDeque<SessionKey>,
    /// Number of deliveries that wait for a plugin.
    deliveries_waiting: u64,
}

/// Topic filters that have walks under way at most. With more, one walk over all subscriptions
/// replaces them.
const TOPICS_MAX: usize = 32;
/// Users of one walk at most. With more, a walk over all subscriptions replaces it.
const USERS_MAX: usize = 16_384;
/// Pause before unanswered rechecks are repeated. It doubles each time, until an answer comes.
const PAUSE_MIN_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 60_000;

impl RecheckQueue {
    // --- walks

    /// Begins to recheck the subscriptions that a change of the rules concerns, in a table of
    /// `places` positions; `session_of` finds the session of a client. A walk over all
    /// subscriptions replaces all other walks, except for those of unanswered rechecks. A walk that
    /// is under way is extended to end where it stands now, so frequent changes do not keep it from
    /// the last session.
    pub(crate) fn begin_walk(
        &mut self,
        scope: &Scope,
        places: usize,
        hasher: ahash::RandomState,
        session_of: impl FnOnce(&str) -> Option<SessionKey>,
    ) {
        match scope {
            Scope::All => self.walk_all(places),
            Scope::Client(client_id) => {
                if let Some(key) = session_of(client_id) {
                    self.walk_client(key);
                }
            }
            Scope::User(username) => self.walk_user(username, places, hasher),
            Scope::Topics(topics) => self.walk_topics(topics, places),
        }
    }

    /// Begins a walk over unanswered rechecks.
    pub(crate) fn walk_unanswered(&mut self, places: usize) {
        let known = self.walks.iter_mut().find(|walk| matches!(walk.scope, RecheckScope::Unanswered));
        match known {
            Some(walk) => walk.left = places,
            None => self.walks.push_back(Walk::new(RecheckScope::Unanswered, places)),
        }
    }

    fn walk_all(&mut self, places: usize) {
        self.walks.retain(|walk| matches!(walk.scope, RecheckScope::All | RecheckScope::Unanswered));
        match self.walks.iter_mut().find(|walk| matches!(walk.scope, RecheckScope::All)) {
            Some(walk) => walk.left = places,
            None => self.walks.push_back(Walk::new(RecheckScope::All, places)),
        }
    }

    /// There are at most as many clients as sessions, in two walks: one under way, and one behind
    /// it.
    fn walk_client(&mut self, key: SessionKey) {
        let mut waiting = None;
        for walk in &mut self.walks {
            if let RecheckScope::Clients(keys) = &mut walk.scope {
                if keys.get(&key.index) == Some(&key) {
                    return;
                }
                waiting = (!walk.begun).then_some(keys);
            }
        }
        match waiting {
            Some(keys) => {
                keys.insert(key.index, key);
            }
            None => {
                let keys = BTreeMap::from([(key.index, key)]);
                self.walks.push_back(Walk::new(RecheckScope::Clients(keys), 0));
            }
        }
    }

    /// The same for users.
    fn walk_user(&mut self, username: &str, places: usize, hasher: ahash::RandomState) {
        let waiting = self.walks.iter_mut().filter(|walk| !walk.begun).find_map(|walk| {
            let RecheckScope::Users(users) = &mut walk.scope else { return None };
            walk.left = places;
            Some(users)
        });
        match waiting {
            Some(users) if users.len() >= USERS_MAX => self.walk_all(places),
            Some(users) => {
                users.insert(fingerprint(users, username));
            }
            None => {
                let mut users = HashSet::with_hasher(hasher);
                users.insert(fingerprint(&users, username));
                self.walks.push_back(Walk::new(RecheckScope::Users(users), places));
            }
        }
    }

    fn walk_topics(&mut self, topics: &str, places: usize) {
        let (mut same, mut others) = (None, 0);
        for walk in &mut self.walks {
            if let RecheckScope::Topics(known) = &walk.scope {
                others += 1;
                same = if **known == *topics { Some(walk) } else { same };
            }
        }
        match same {
            Some(walk) => walk.left = places,
            None if others >= TOPICS_MAX => self.walk_all(places),
            None => self.walks.push_back(Walk::new(RecheckScope::Topics(topics.into()), places)),
        }
    }

    /// The walk that goes on next.
    pub(crate) fn first_walk(&mut self) -> Option<&mut Walk> {
        let walk = self.walks.front_mut()?;
        walk.begun = true;
        Some(walk)
    }

    /// Removes the first walk, which is over.
    pub(crate) fn end_walk(&mut self) {
        self.walks.pop_front();
    }

    /// Whether a walk is left.
    pub(crate) fn has_walks(&self) -> bool {
        !self.walks.is_empty()
    }

    /// Whether a subscription is still to be rechecked, or its recheck waits for a plugin.
    pub(crate) fn is_under_way(&self) -> bool {
        self.has_walks() || !self.open.is_empty()
    }

    // --- rechecks that wait for a plugin

    /// Whether another recheck may wait for a plugin; at most `max` may.
    pub(crate) fn may_recheck(&self, max: u64) -> bool {
        (self.open.len() as u64) < max
    }

    /// Returns a new number for a recheck.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Stores a recheck that waits for a plugin.
    pub(crate) fn open(&mut self, number: u64, recheck: OpenRecheck) {
        self.open.insert(number, recheck);
    }

    /// The tickets of rechecks that wait.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.open.values().filter_map(|recheck| recheck.request.ticket())
    }

    /// Removes a recheck that was answered or is no longer needed.
    pub(crate) fn close(&mut self, number: u64) -> Option<OpenRecheck> {
        self.open.remove(&number)
    }

    // --- the pause before unanswered rechecks are repeated

    /// Resets the pause to its shortest length, since the rules have changed.
    pub(crate) fn shorten_pause(&mut self) {
        self.pause_ms = 0;
    }

    /// Notes an unanswered recheck. Returns when the new pause ends, in monotonic milliseconds;
    /// `None` within a pause.
    pub(crate) fn pause_from(&mut self, now_ms: u64) -> Option<u64> {
        if self.again.is_some() {
            return None;
        }
        self.pause_ms = (self.pause_ms * 2).clamp(PAUSE_MIN_MS, PAUSE_MAX_MS);
        Some(now_ms + self.pause_ms)
    }

    /// Stores the timer of the pause that begins.
    pub(crate) fn begin_pause(&mut self, timer: Timer) {
        self.again = Some(timer);
    }

    /// Ends the pause. Returns its timer, `None` if there was no pause.
    pub(crate) fn end_pause(&mut self) -> Option<Timer> {
        self.again.take()
    }

    /// The timer of the pause.
    pub(crate) fn timer(&self) -> Option<Timer> {
        self.again
    }

    // --- deliveries

    /// Adds a session whose first delivery is to be authorized. The caller adds each session only
    /// once.
    #[inline]
    pub(crate) fn push_session(&mut self, session: SessionKey) {
        self.row.push_back(session);
    }

    /// Removes the next session whose delivery is authorized.
    pub(crate) fn pop_session(&mut self) -> Option<SessionKey> {
        self.row.pop_front()
    }

    /// Whether a session waits for that.
    pub(crate) fn has_sessions(&self) -> bool {
        !self.row.is_empty()
    }

    /// Whether another delivery may wait for a plugin; at most `max` may.
    #[inline]
    pub(crate) fn may_authorize_delivery(&self, max: u64) -> bool {
        self.deliveries_waiting < max
    }

    /// Counts a delivery that waits for a plugin.
    #[inline]
    pub(crate) fn delivery_waits(&mut self) {
        self.deliveries_waiting += 1;
    }

    /// Counts a delivery that no longer waits: it was answered, or its session is taken down.
    #[inline]
    pub(crate) fn delivery_goes_on(&mut self) {
        self.deliveries_waiting -= 1;
    }
}

/// The hash that is stored instead of a user name.
fn fingerprint(users: &HashSet<u64, ahash::RandomState>, username: &str) -> u64 {
    users.hasher().hash_one(username)
}

impl RecheckScope {
    /// Whether a user is in the set.
    pub(crate) fn has_user(users: &HashSet<u64, ahash::RandomState>, username: Option<&str>) -> bool {
        username.is_some_and(|username| users.contains(&fingerprint(users, username)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(rechecks: &mut RecheckQueue, scope: &Scope) {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        rechecks.begin_walk(scope, 100, hasher, |client_id| {
            let index = client_id.parse().ok()?;
            Some(SessionKey { index, generation: 1 })
        });
    }

    fn user(number: usize) -> Scope {
        Scope::User(number.to_string().into())
    }

    /// Topic filters and users have a limit, beyond which all subscriptions are rechecked. Clients
    /// are only limited by the number of sessions.
    #[test]
    fn walks_are_bounded_and_few() {
        let mut rechecks = RecheckQueue::default();
        (0..50_000).for_each(|number: u32| begin(&mut rechecks, &Scope::Client(number.to_string().into())));
        begin(&mut rechecks, &Scope::Client("absent".into()));
        (0..USERS_MAX).for_each(|number| begin(&mut rechecks, &user(number)));
        (0..TOPICS_MAX).for_each(|number| begin(&mut rechecks, &Scope::Topics(number.to_string().into())));
        begin(&mut rechecks, &Scope::Topics("0".into()));
        assert_eq!(rechecks.walks.len(), 2 + TOPICS_MAX);
        for scope in [user(USERS_MAX), Scope::Topics("more".into())] {
            let mut rechecks = RecheckQueue::default();
            (0..USERS_MAX).for_each(|number| begin(&mut rechecks, &user(number)));
            (0..TOPICS_MAX)
                .for_each(|number| begin(&mut rechecks, &Scope::Topics(number.to_string().into())));
            begin(&mut rechecks, &scope);
            assert!(matches!(rechecks.walks.make_contiguous(), [Walk { scope: RecheckScope::All, .. }]));
        }
    }

    /// Repeated changes for clients and users do not lengthen a walk that is under way, and every
    /// one of them is rechecked.
    #[test]
    fn a_running_walk_does_not_grow() {
        let mut rechecks = RecheckQueue::default();
        begin(&mut rechecks, &Scope::Client("1".into()));
        begin(&mut rechecks, &Scope::Client("2".into()));
        let first = rechecks.first_walk().and_then(|walk| walk.next(100, |_| None));
        assert_eq!(first, Some(SessionKey { index: 1, generation: 1 }));
        // The first one was checked before this, the second one was not.
        for client in ["1", "2", "3"] {
            begin(&mut rechecks, &Scope::Client(client.into()));
        }
        let places = |walk: &Walk| match &walk.scope {
            RecheckScope::Clients(keys) => keys.keys().copied().collect::<Vec<_>>(),
            _ => panic!("{walk:?}"),
        };
        assert_eq!(rechecks.walks.iter().map(places).collect::<Vec<_>>(), [vec![2], vec![1, 3]]);
        let mut rechecks = RecheckQueue::default();
        begin(&mut rechecks, &user(1));
        rechecks.first_walk();
        begin(&mut rechecks, &user(1));
        begin(&mut rechecks, &user(2));
        let names = |walk: &Walk| match &walk.scope {
            RecheckScope::Users(users) => {
                [1, 2].map(|number| RecheckScope::has_user(users, Some(&number.to_string())))
            }
            _ => panic!("{walk:?}"),
        };
        assert_eq!(rechecks.walks.iter().map(names).collect::<Vec<_>>(), [[true, false], [true, true]]);
    }
}
