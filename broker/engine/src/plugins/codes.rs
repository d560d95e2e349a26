//! Answers without room among the stored instance messages of a suspended plugin: only the number
//! of each request and its code. So every request that was not refused at once gets an answer,
//! whatever the number of requests.

use std::collections::{HashMap, VecDeque};

use crate::hook::PluginHandle;
use crate::reason::ReasonCode;

/// Maximum number of stored codes. Other limits apply earlier: the requests that wait for a shard
/// when a plugin is disabled (`limits.plugin_commands_max`, at most this), and then
/// `limits.behalf_requests_max`.
const CODES_MAX: usize = 1 << 24;

/// Codes by the version that gets them.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    plugins: HashMap<PluginHandle, VecDeque<(u64, ReasonCode)>>,
    len: usize,
}

impl Codes {
    /// Stores the code of a request; false if there is no room.
    pub(crate) fn keep(&mut self, plugin: PluginHandle, number: u64, code: ReasonCode) -> bool {
        if self.len >= CODES_MAX {
            return false;
        }
        self.len += 1;
        self.plugins.entry(plugin).or_default().push_back((number, code));
        true
    }

    /// The versions with codes.
    pub(super) fn plugins(&self) -> impl Iterator<Item = PluginHandle> {
        self.plugins.keys().copied()
    }

    /// Takes the first codes of a version, at most `max`.
    pub(crate) fn take(&mut self, plugin: PluginHandle, max: usize) -> Vec<(u64, ReasonCode)> {
        let Some(codes) = self.plugins.get_mut(&plugin) else { return Vec::new() };
        let taken: Vec<_> = codes.drain(..codes.len().min(max)).collect();
        self.len -= taken.len();
        if codes.is_empty() {
            self.plugins.remove(&plugin);
        }
        taken
    }

    /// Removes the codes of versions for which `is_wanted` returns false; returns their number.
    pub(super) fn remove_unwanted(&mut self, is_wanted: impl Fn(PluginHandle) -> bool) -> u64 {
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
        assert_eq!(codes.remove_unwanted(|plugin| plugin == one), 1);
        assert_eq!(numbers(codes.take(other, 3)), [0; 0]);
        assert_eq!(numbers(codes.take(one, 3)), [3, 4]);
        assert_eq!((codes.len, codes.plugins.len()), (0, 0));
    }
}
