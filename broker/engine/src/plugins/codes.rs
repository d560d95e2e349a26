//! Answers that find no room among what is kept for a plugin which is not called: the number of each request with its code, and no
//! more. Whoever has asked and was not refused at once is told what became of it, however much it has asked for.

use std::collections::{HashMap, VecDeque};

use crate::hook::PluginHandle;
use crate::reason::ReasonCode;

/// Codes that are kept at most. What may be asked bounds them before: the requests that wait for a shard when a plugin is disabled
/// (`limits.plugin_commands_max`, which is at most this), and `limits.behalf_requests_max` after that.
const CODES_MAX: usize = 1 << 24;

/// By the version that they are for.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    plugins: HashMap<PluginHandle, VecDeque<(u64, ReasonCode)>>,
    len: usize,
}

impl Codes {
    /// Keeps what became of a request; false where there is no room.
    pub(crate) fn keep(&mut self, plugin: PluginHandle, number: u64, code: ReasonCode) -> bool {
        if self.len >= CODES_MAX {
            return false;
        }
        self.len += 1;
        self.plugins.entry(plugin).or_default().push_back((number, code));
        true
    }

    /// For which versions there are some.
    pub(super) fn plugins(&self) -> impl Iterator<Item = PluginHandle> {
        self.plugins.keys().copied()
    }

    /// Takes the first ones of a version, at most so many.
    pub(crate) fn take(&mut self, plugin: PluginHandle, max: usize) -> Vec<(u64, ReasonCode)> {
        let Some(codes) = self.plugins.get_mut(&plugin) else { return Vec::new() };
        let taken: Vec<_> = codes.drain(..codes.len().min(max)).collect();
        self.len -= taken.len();
        if codes.is_empty() {
            self.plugins.remove(&plugin);
        }
        taken
    }

    /// Forgets those of versions that are not wanted; how many those were.
    pub(super) fn forget_unwanted(&mut self, is_wanted: impl Fn(PluginHandle) -> bool) -> u64 {
        let before = self.len;
        self.plugins.retain(|plugin, _| is_wanted(*plugin));
        self.len = self.plugins.values().map(VecDeque::len).sum();
        (before - self.len) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_in_order_and_go_with_their_version() {
        let mut codes = Codes::default();
        let (one, other) = (PluginHandle(1), PluginHandle(2));
        for number in 0..5 {
            assert!(codes.keep(one, number, ReasonCode::QUOTA_EXCEEDED));
        }
        assert!(codes.keep(other, 7, ReasonCode::SUCCESS));
        let numbers = |taken: Vec<(u64, ReasonCode)>| taken.iter().map(|one| one.0).collect::<Vec<_>>();
        assert_eq!(numbers(codes.take(one, 3)), [0, 1, 2]);
        assert_eq!(codes.forget_unwanted(|plugin| plugin == one), 1);
        assert_eq!(numbers(codes.take(other, 3)), [0; 0]);
        assert_eq!(numbers(codes.take(one, 3)), [3, 4]);
        assert_eq!((codes.len, codes.plugins.len()), (0, 0));
    }
}
