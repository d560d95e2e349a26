//! Who is told what has become of a request on behalf of a client that a version of a plugin made which has been replaced since. Where
//! the state went over, the new version knows what it was about; where it did not, the numbers are another's, and nobody is told.

use std::collections::HashMap;

use crate::hook::PluginHandle;

/// By the number of a plugin.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    plugins: HashMap<u64, Heir>,
    /// The latest version of each that was in the chains and has gone. One before it may be in them again.
    removed: HashMap<u64, PluginHandle>,
}

/// The version that has the state of those from `since` to `until`.
#[derive(Debug)]
struct Heir {
    now: PluginHandle,
    since: PluginHandle,
    until: PluginHandle,
}

impl Answers {
    /// The state of one version goes over to another one, which takes its place.
    pub(crate) fn hand_over(&mut self, from: PluginHandle, to: PluginHandle) {
        let heir = self.plugins.entry(from.number());
        let heir = heir.or_insert(Heir { now: from, since: from, until: from });
        if heir.now != from {
            // Of those before, nothing has come to this one.
            (heir.since, heir.until) = (from, from);
        }
        heir.now = to;
        heir.until = PluginHandle(heir.until.0.max(from.0));
    }

    /// Who is told what this version has asked for.
    pub(crate) fn of(&self, asker: PluginHandle) -> PluginHandle {
        let heir = self
            .plugins
            .get(&asker.number())
            .filter(|heir| heir.since.0 <= asker.0 && asker.0 <= heir.until.0);
        heir.map_or(asker, |heir| heir.now)
    }

    /// Whether the state of another version has gone over to this one since it was in the chains last.
    pub(crate) fn has_state(&self, plugin: PluginHandle) -> bool {
        self.plugins.get(&plugin.number()).is_some_and(|heir| heir.now == plugin)
    }

    /// A version is in the chains no more.
    pub(crate) fn remove(&mut self, plugin: PluginHandle) {
        if self.plugins.get(&plugin.number()).is_some_and(|heir| heir.now == plugin) {
            self.plugins.remove(&plugin.number());
        }
        let latest = self.removed.entry(plugin.number()).or_insert(plugin);
        latest.0 = latest.0.max(plugin.0);
    }

    /// Whether a version was there before, as far as numbers say. Where a reload was taken back, one that is in the chains was, too.
    pub(crate) fn was_there(&self, plugin: PluginHandle) -> bool {
        self.removed.get(&plugin.number()).is_some_and(|last| plugin.0 <= last.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(generation: u64) -> PluginHandle {
        PluginHandle(generation << 32 | 5)
    }

    #[test]
    fn answers_follow_the_state() {
        let mut answers = Answers::default();
        answers.hand_over(version(1), version(2));
        answers.remove(version(1));
        answers.hand_over(version(2), version(3));
        answers.remove(version(2));
        assert_eq!([1, 2, 3].map(|asker| answers.of(version(asker))), [version(3); 3]);
        assert!(answers.was_there(version(2)) && !answers.was_there(version(3)));
        assert_eq!(answers.of(PluginHandle(1 << 32 | 6)), PluginHandle(1 << 32 | 6), "another plugin");
        // A version that took nothing over: its numbers are its own.
        answers.remove(version(3));
        assert_eq!([1, 3, 4].map(|asker| answers.of(version(asker))), [1, 3, 4].map(version));
    }

    #[test]
    fn a_reload_that_is_taken_back_takes_them_back() {
        let mut answers = Answers::default();
        answers.hand_over(version(1), version(2));
        answers.remove(version(1));
        answers.hand_over(version(2), version(1));
        answers.remove(version(2));
        assert_eq!([1, 2].map(|asker| answers.of(version(asker))), [version(1); 2]);
        // What went over to a version did not come back: that one is owed nothing, and the next one takes over from the first.
        answers.hand_over(version(1), version(3));
        answers.remove(version(3));
        answers.hand_over(version(1), version(4));
        assert_eq!([1, 3].map(|asker| answers.of(version(asker))), [version(4), version(3)]);
        // The first goes after the later one that it had come back from: that one stays gone.
        answers.remove(version(1));
        assert!(answers.was_there(version(1)) && answers.was_there(version(3)));
    }

    #[test]
    fn what_is_owed_follows_through_any_number_of_reloads() {
        let mut answers = Answers::default();
        for generation in 1..1_000 {
            answers.hand_over(version(generation), version(generation + 1));
            answers.remove(version(generation));
        }
        assert_eq!([1, 500, 999].map(|asker| answers.of(version(asker))), [version(1_000); 3]);
        assert_eq!(answers.removed.len(), 1);
    }
}
