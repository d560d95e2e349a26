//! Counts the subscriptions that a change of the rules has taken back. It asks the shards before
//! the change, and again until all rechecks have ended or the time for an answer is over. Used by
//! changes of plugins and by `authz invalidate`.

use std::time::Duration;

use grapnel_engine::shard::Shard;

use super::gather::Shards;
use super::wire::Revoked;

/// Pauses between two questions: twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How many there were before the change.
pub(super) struct Revocations {
    before: u64,
    /// Whether every shard has said how many.
    whole: bool,
}

impl Revocations {
    /// Before the change.
    pub(super) async fn before(shards: &Shards) -> Revocations {
        let gathered = shards.call_all(Shard::rechecks).await;
        let before = gathered.answers.iter().map(|(_, rechecks)| rechecks.revoked).sum();
        Revocations { before, whole: gathered.unanswered.is_empty() }
    }

    /// How many have come since, once all is looked at, or what is known after as long as a shard may take to answer.
    pub(super) async fn await_end(self, shards: &Shards) -> Revoked {
        let deadline = tokio::time::Instant::now() + shards.timeout;
        let mut pause = PAUSE_MIN;
        loop {
            let gathered = shards.call_all(Shard::rechecks).await;
            let rechecks = || gathered.answers.iter().map(|(_, rechecks)| rechecks);
            let revoked: u64 = rechecks().map(|rechecks| rechecks.revoked).sum();
            let whole = self.whole && gathered.unanswered.is_empty();
            let over = !rechecks().any(|rechecks| rechecks.under_way);
            // What nobody has answered may take a minute, and a shard that does not answer has been waited for.
            if over || !whole || tokio::time::Instant::now() >= deadline {
                let complete = over && whole && !rechecks().any(|rechecks| rechecks.unanswered);
                return Revoked { subscriptions: revoked.saturating_sub(self.before), complete };
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
