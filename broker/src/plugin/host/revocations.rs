//! Collects the subscriptions that shards have revoked after a change of the rules, and logs one
//! line for each change instead of one for each client. Filled by shards, emptied by the recompiler
//! (`recompiler`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The line is logged when no revocation has come for this time.
const QUIET: Duration = Duration::from_millis(300);
/// The line is logged after this time in any case.
const LONGEST: Duration = Duration::from_secs(5);

/// Revocations that are not in the log yet. One entry for each plugin that refuses.
#[derive(Debug, Default)]
pub(in crate::plugin) struct Revocations {
    by: BTreeMap<Option<Arc<str>>, u64>,
    /// When the first and the last revocation came.
    since: Option<(Instant, Instant)>,
}

impl Revocations {
    /// Adds revocations. Returns whether they are the first since the last log line.
    pub(in crate::plugin) fn add(
        &mut self,
        plugin: Option<Arc<str>>,
        subscriptions: u64,
        now: Instant,
    ) -> bool {
        *self.by.entry(plugin).or_default() += subscriptions;
        let is_first = self.since.is_none();
        self.since = Some((self.since.map_or(now, |(first, _)| first), now));
        is_first
    }

    /// When the line is to be logged; `None` if there is nothing to log.
    pub(in crate::plugin) fn due(&self) -> Option<Instant> {
        self.since.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }

    /// Logs the line and removes the entries.
    pub(in crate::plugin) fn log(&mut self) {
        if let Some(line) = self.take_line() {
            tracing::warn!("{line}");
        }
    }

    fn take_line(&mut self) -> Option<String> {
        self.since = None;
        let by = std::mem::take(&mut self.by);
        let count: u64 = by.values().sum();
        let causes: Vec<String> = by
            .iter()
            .map(|(plugin, count)| match plugin {
                Some(plugin) => format!("{count} refused by {plugin}"),
                None => format!("{count} allowed by no plugin, and authorization.no_match is \"deny\""),
            })
            .collect();
        let (noun, are) =
            if count == 1 { ("subscription was", "it is") } else { ("subscriptions were", "they are") };
        (count > 0).then(|| {
            format!(
                "{count} {noun} revoked, because {are} no longer allowed by client.authorize: {}",
                causes.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn revocations_at_the_same_time_are_one_log_line() {
        let mut all = Revocations::default();
        assert_eq!((all.due(), all.take_line()), (None, None));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(all.add(Some("acl".into()), 2, at(0)), "somebody has to be told to wait for it");
        assert_eq!(all.due(), Some(at(300)));
        assert!(!all.add(Some("acl".into()), 3, at(100)));
        assert!(!all.add(None, 1, at(200)));
        assert_eq!(all.due(), Some(at(500)));
        let line = "6 subscriptions were revoked, because they are no longer allowed by client.authorize: 1 allowed by no plugin, and \
                    authorization.no_match is \"deny\", 5 refused by acl";
        assert_eq!(all.take_line().unwrap(), line);
        assert_eq!((all.due(), all.take_line()), (None, None));
        // A long series is logged while it goes on.
        for n in 0..100 {
            all.add(Some("acl".into()), 1, at(n * 100));
        }
        assert_eq!(all.due(), Some(at(5_000)));
        all.take_line();
        all.add(Some("acl".into()), 1, at(0));
        let one = "1 subscription was revoked, because it is no longer allowed by client.authorize: 1 refused by acl";
        assert_eq!(all.take_line().unwrap(), one);
    }
}
