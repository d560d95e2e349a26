//! Versions of the rules of client.authorize. Each decision stores the version under which it was
//! made; this module checks whether that version still applies to the client and topic. A change
//! for one client, user or topic filter affects only that one, so frequent changes do not delay the
//! decisions on others.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::interface::Scope;
use crate::topic;

/// Maximum number of clients and users whose last change is stored. Beyond it the oldest change is
/// removed, and everything that was allowed before that change is authorized again.
const SINGLE_MAX: usize = 16_384;
/// Maximum number of topic filters whose last change is stored; each is compared with earlier
/// decisions.
const TOPICS_MAX: usize = 32;

/// The changes, and their scopes.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Number of changes so far.
    version: u64,
    /// The last change that may affect every client.
    everybody: u64,
    /// The last change of a client or user, by fingerprint: two with the same fingerprint are
    /// authorized again together.
    single: HashMap<u64, u64, ahash::RandomState>,
    /// The same, by number of the change.
    by_change: BTreeMap<u64, u64>,
    /// The last changes of topic filters, oldest first.
    topics: VecDeque<(u64, Box<str>)>,
}

impl Rules {
    pub(crate) fn new(hasher: ahash::RandomState) -> Rules {
        let single = HashMap::with_hasher(hasher);
        Rules { version: 0, everybody: 0, single, by_change: BTreeMap::new(), topics: VecDeque::new() }
    }

    /// The version in force.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Records a change for this scope.
    pub(crate) fn change(&mut self, scope: &Scope) {
        self.version += 1;
        let whom = match scope {
            Scope::Client(client_id) => self.client(client_id),
            Scope::User(username) => self.user(username),
            Scope::Topics(topics) => return self.change_topics(topics),
            Scope::All => {
                self.everybody = self.version;
                self.single = HashMap::with_hasher(self.single.hasher().clone());
                self.by_change = BTreeMap::new();
                self.topics = VecDeque::new();
                return;
            }
        };
        if let Some(before) = self.single.insert(whom, self.version) {
            self.by_change.remove(&before);
        }
        self.by_change.insert(self.version, whom);
        if self.by_change.len() > SINGLE_MAX
            && let Some((oldest, whom)) = self.by_change.pop_first()
        {
            self.single.remove(&whom);
            self.everybody = self.everybody.max(oldest);
        }
    }

    fn change_topics(&mut self, topics: &str) {
        self.topics.retain(|(_, known)| **known != *topics);
        self.topics.push_back((self.version, topics.into()));
        if self.topics.len() > TOPICS_MAX
            && let Some((oldest, _)) = self.topics.pop_front()
        {
            self.everybody = self.everybody.max(oldest);
        }
    }

    /// Whether the rules for this client and topic are unchanged since `version`. `topic` is the
    /// topic name or filter; `None` if it may be any topic.
    #[inline]
    pub(crate) fn are_current(
        &self,
        version: u64,
        client_id: &str,
        username: Option<&str>,
        topic: Option<&str>,
    ) -> bool {
        version == self.version || self.are_the_same(version, client_id, username, topic)
    }

    fn are_the_same(
        &self,
        version: u64,
        client_id: &str,
        username: Option<&str>,
        topic: Option<&str>,
    ) -> bool {
        let is_changed = |whom: u64| self.single.get(&whom).is_some_and(|change| *change > version);
        let mut since = self.topics.iter().rev().take_while(|(change, _)| *change > version);
        version >= self.everybody
            && !is_changed(self.client(client_id))
            && !username.is_some_and(|username| is_changed(self.user(username)))
            && !since.any(|(_, topics)| topic.is_none_or(|topic| topic::overlap(topics, topic)))
    }

    fn client(&self, client_id: &str) -> u64 {
        self.single.hasher().hash_one((false, client_id))
    }

    fn user(&self, username: &str) -> u64 {
        self.single.hasher().hash_one((true, username))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::new(ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    fn client(name: &str) -> Scope {
        Scope::Client(name.into())
    }

    #[test]
    fn a_change_for_one_client_or_user_concerns_nobody_else() {
        let mut rules = rules();
        let before = rules.version();
        rules.change(&client("c"));
        rules.change(&Scope::User("ann".into()));
        let now = rules.version();
        for (client_id, username, holds) in [
            ("c", None, false),
            ("c", Some("bob"), false),
            ("d", Some("ann"), false),
            ("d", Some("bob"), true),
            ("d", None, true),
            // The name of a user is not that of a client.
            ("ann", Some("c"), true),
        ] {
            assert_eq!(
                rules.are_current(before, client_id, username, None),
                holds,
                "{client_id} {username:?}"
            );
            assert!(rules.are_current(now, client_id, username, None));
        }
        // A version between the two changes.
        assert!(
            rules.are_current(before + 1, "c", None, None)
                && !rules.are_current(before + 1, "d", Some("ann"), None)
        );
    }

    #[test]
    fn a_change_for_all_concerns_everybody() {
        let mut rules = rules();
        rules.change(&client("c"));
        rules.change(&Scope::Topics("a".into()));
        let before = rules.version();
        rules.change(&Scope::All);
        assert!(
            !rules.are_current(before, "c", None, None) && !rules.are_current(before, "d", None, Some("b"))
        );
        assert!(rules.are_current(rules.version(), "c", None, None));
        let known = (rules.single.len(), rules.by_change.len(), rules.topics.len());
        assert_eq!(known, (0, 0, 0), "nothing else is to be known");
    }

    #[test]
    fn a_change_for_topics_concerns_what_could_be_about_one_of_them() {
        let mut rules = rules();
        let before = rules.version();
        rules.change(&Scope::Topics("a/+".into()));
        for (topic, holds) in [("a/b", false), ("a/#", false), ("#", false), ("a/b/c", true), ("b", true)] {
            assert_eq!(rules.are_current(before, "c", None, Some(topic)), holds, "{topic}");
            assert!(rules.are_current(rules.version(), "c", None, Some(topic)));
        }
        assert!(!rules.are_current(before, "c", None, None), "what may be about any topic");
        // The oldest stored change is removed, and everything that was allowed before it is
        // authorized again.
        let changes: Vec<u64> = (0..TOPICS_MAX)
            .map(|number| {
                rules.change(&Scope::Topics(format!("t/{number}").into()));
                rules.version()
            })
            .collect();
        assert!(
            !rules.are_current(before, "c", None, Some("b"))
                && rules.are_current(changes[0], "c", None, Some("b"))
        );
        assert!(
            !rules.are_current(changes[0], "c", None, Some("t/9"))
                && rules.are_current(changes[9], "c", None, Some("t/9"))
        );
        // Another change of a stored one removes none.
        (0..10 * TOPICS_MAX).for_each(|_| rules.change(&Scope::Topics("t/9".into())));
        assert!(rules.are_current(changes[0], "c", None, Some("b")) && rules.topics.len() == TOPICS_MAX);
    }

    /// The stored changes are limited, and what was allowed before a removed one is authorized
    /// again.
    #[test]
    fn allowed_requests_older_than_the_stored_changes_are_authorized_again() {
        let mut rules = rules();
        rules.change(&client("first"));
        let (after_first, before) = (rules.version(), rules.version() - 1);
        for number in 1..SINGLE_MAX {
            rules.change(&client(&number.to_string()));
        }
        assert!(
            rules.are_current(before, "other", None, None) && !rules.are_current(before, "first", None, None),
            "at the bound"
        );
        // Another change of a stored one does not affect the others.
        (0..10 * SINGLE_MAX).for_each(|_| rules.change(&client("1")));
        assert!(rules.are_current(before, "other", None, None));
        rules.change(&client("one more"));
        assert_eq!((rules.single.len(), rules.by_change.len()), (SINGLE_MAX, SINGLE_MAX));
        assert!(
            !rules.are_current(before, "other", None, None)
                && !rules.are_current(before, "first", None, None)
        );
        assert!(
            rules.are_current(after_first, "other", None, None)
                && rules.are_current(after_first, "first", None, None)
        );
        assert!(!rules.are_current(after_first, "2", None, None));
    }
}
