//! Finds the receiver of an answer to a request on behalf of a client, if the version of the plugin
//! that made the request was replaced. If its state was handed over, the new version gets the
//! answer. If not, the request number means nothing to the new version, and nobody gets it.

use std::collections::HashMap;

use crate::hook::PluginHandle;

/// Receivers, by number of a plugin.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    plugins: HashMap<u64, Successor>,
    /// The latest version of each plugin that has left the chains. An earlier one may be in them
    /// again.
    removed: HashMap<u64, PluginHandle>,
}

/// The version that has the state of the versions from `since` to `until`.
#[derive(Debug)]
struct Successor {
    now: PluginHandle,
    since: PluginHandle,
    until: PluginHandle,
}

impl Answers {
    /// The state of one version is handed over to another one, which replaces it.
    pub(crate) fn hand_over(&mut self, from: PluginHandle, to: PluginHandle) {
        let successor = self.plugins.entry(from.number());
        let successor = successor.or_insert(Successor { now: from, since: from, until: from });
        if successor.now != from {
            // It has no state of the versions before.
            (successor.since, successor.until) = (from, from);
        }
        successor.now = to;
        successor.until = PluginHandle(successor.until.0.max(from.0));
    }

    /// The version that gets the answers to requests of this version.
    pub(crate) fn of(&self, requester: PluginHandle) -> PluginHandle {
        let successor = self
            .plugins
            .get(&requester.number())
            .filter(|successor| successor.since.0 <= requester.0 && requester.0 <= successor.until.0);
        successor.map_or(requester, |successor| successor.now)
    }

    /// Whether it got the state of another version since it was last in the chains.
    pub(crate) fn has_state(&self, plugin: PluginHandle) -> bool {
        self.plugins.get(&plugin.number()).is_some_and(|successor| successor.now == plugin)
    }

    /// A version has left the chains.
    pub(crate) fn remove(&mut self, plugin: PluginHandle) {
        if self.plugins.get(&plugin.number()).is_some_and(|successor| successor.now == plugin) {
            self.plugins.remove(&plugin.number());
        }
        let latest = self.removed.entry(plugin.number()).or_insert(plugin);
        latest.0 = latest.0.max(plugin.0);
    }

    /// Whether a version was in the chains before, judged by the numbers. After an undone reload
    /// this includes one that is in them.
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
        assert_eq!([1, 2, 3].map(|requester| answers.of(version(requester))), [version(3); 3]);
        assert!(answers.was_there(version(2)) && !answers.was_there(version(3)));
        assert_eq!(answers.of(PluginHandle(1 << 32 | 6)), PluginHandle(1 << 32 | 6), "another plugin");
        // A version that got no state: its request numbers are its own.
        answers.remove(version(3));
        assert_eq!([1, 3, 4].map(|requester| answers.of(version(requester))), [1, 3, 4].map(version));
    }

    #[test]
    fn a_reload_that_is_taken_back_takes_them_back() {
        let mut answers = Answers::default();
        answers.hand_over(version(1), version(2));
        answers.remove(version(1));
        answers.hand_over(version(2), version(1));
        answers.remove(version(2));
        assert_eq!([1, 2].map(|requester| answers.of(version(requester))), [version(1); 2]);
        // State that went to a version did not come back: it gets no answers, and the next one
        // takes over from the first.
        answers.hand_over(version(1), version(3));
        answers.remove(version(3));
        answers.hand_over(version(1), version(4));
        assert_eq!([1, 3].map(|requester| answers.of(version(requester))), [version(4), version(3)]);
        // The first version leaves after the later one that it had replaced again: the later one
        // stays removed.
        answers.remove(version(1));
        assert!(answers.was_there(version(1)) && answers.was_there(version(3)));
    }

    #[test]
    fn answers_go_to_the_last_of_any_number_of_reloads() {
        let mut answers = Answers::default();
        for generation in 1..1_000 {
            answers.hand_over(version(generation), version(generation + 1));
            answers.remove(version(generation));
        }
        assert_eq!([1, 500, 999].map(|requester| answers.of(version(requester))), [version(1_000); 3]);
        assert_eq!(answers.removed.len(), 1);
    }
}
