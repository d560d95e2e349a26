//! Counts the requests on behalf of clients of a generation while it is disabled or tripped. Their
//! answers are stored until it is called again, so there is a limit. Held by the accounts of
//! `commands`.

use std::sync::atomic::{AtomicU64, Ordering};

/// 0 while the generation is called. While it is suspended, 1 and the number of requests since
/// then.
#[derive(Default)]
pub(super) struct SuspendedRequests(AtomicU64);

impl SuspendedRequests {
    /// Sets whether the generation is suspended. If it is suspended already, the count goes on.
    pub(super) fn set(&self, is_suspended: bool) {
        if is_suspended {
            self.0.fetch_max(1, Ordering::Relaxed);
        } else {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Takes back the count of a request that was not passed to the shard.
    pub(super) fn give_back(&self) {
        let decremented = |count: u64| (count > 1).then(|| count - 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, decremented);
    }

    /// Counts a request that has an answer; false if `max` requests wait already. Refusals are
    /// logged the first, second, fourth, eighth … time.
    pub(super) fn may_request(&self, plugin: &str, client_id: &str, max: u64) -> bool {
        let incremented = |count: u64| (count > 0).then(|| count.saturating_add(1));
        let Ok(count) = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, incremented) else {
            // It is not suspended: it gets its answer at once.
            return true;
        };
        let times = count.saturating_sub(max);
        if times.is_power_of_two() {
            tracing::warn!(
                plugin,
                "{plugin}: a request on behalf of client {client_id:?} is refused ({times} so far): the plugin is disabled or \
                 tripped, and as many answers as may (limits.behalf_requests_max) wait for it"
            );
        }
        times == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_plugin_has_a_limited_number_of_requests() {
        let suspended = SuspendedRequests::default();
        let request =
            |times: usize| (0..times).map(|_| suspended.may_request("p", "c", 2)).collect::<Vec<_>>();
        assert_eq!(request(4), [true; 4], "it is called");
        suspended.set(true);
        assert_eq!(request(4), [true, true, false, false]);
        suspended.set(true);
        assert_eq!(request(1), [false], "it was not called in between");
        suspended.set(false);
        assert_eq!(request(4), [true; 4]);
        suspended.set(true);
        assert_eq!(request(3), [true, true, false]);
    }

    #[test]
    fn requests_not_passed_to_a_shard_are_not_counted() {
        let suspended = SuspendedRequests::default();
        suspended.give_back();
        assert!(suspended.may_request("p", "c", 0), "it is called");
        suspended.set(true);
        suspended.give_back();
        for _ in 0..10 {
            assert!(suspended.may_request("p", "c", 1));
            suspended.give_back();
        }
        assert!(suspended.may_request("p", "c", 1));
        assert!(!suspended.may_request("p", "c", 1), "it is not called all the same");
    }
}
