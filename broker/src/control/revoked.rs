//! Counts the subscriptions that a change of the rules has revoked. Reads the counters of the
//! shards before the change, and again until all rechecks have ended or the answer timeout is over.
//! Used by changes of plugins and by `authz invalidate`.

use std::time::Duration;

use grapnel_engine::shard::Shard;

use super::gather::Shards;
use super::wire::Revoked;

/// Pause between two reads of the counters; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The count before the change.
pub(super) struct Revocations {
    before: u64,
    /// Whether every shard has answered.
    whole: bool,
}

impl Revocations {
    /// Reads the counters. To be called before the change.
    pub(super) async fn before(shards: &Shards) -> Revocations {
        let gathered = shards.call_all(Shard::rechecks).await;
        let before = gathered.answers.iter().map(|(_, rechecks)| rechecks.revoked).sum();
        Revocations { before, whole: gathered.unanswered.is_empty() }
    }

    /// The subscriptions revoked since then. Waits until all rechecks have ended, but at most as
    /// long as a shard may take to answer.
    pub(super) async fn await_end(self, shards: &Shards) -> Revoked {
        let deadline = tokio::time::Instant::now() + shards.timeout;
        let mut pause = PAUSE_MIN;
        loop {
            let gathered = shards.call_all(Shard::rechecks).await;
            let rechecks = || gathered.answers.iter().map(|(_, rechecks)| rechecks);
            let revoked: u64 = rechecks().map(|rechecks| rechecks.revoked).sum();
            let whole = self.whole && gathered.unanswered.is_empty();
            let over = !rechecks().any(|rechecks| rechecks.under_way);
            // Does not wait for rechecks that a plugin leaves unanswered: they may take a minute. A
            // shard that does not answer has used up the timeout already.
            if over || !whole || tokio::time::Instant::now() >= deadline {
                let complete = over && whole && !rechecks().any(|rechecks| rechecks.unanswered);
                return Revoked { subscriptions: revoked.saturating_sub(self.before), complete };
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
