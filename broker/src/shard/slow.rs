//! Finds slow calls of plugins, for the log. The chains time a sample of the calls and count the
//! slow ones. A call outside the sample is found if two checks of the watchdog see it. Used by the
//! watchdog, one instance for each shard.

use grapnel_engine::hook::{CallCell, Called};
use grapnel_engine::id::ShardId;

/// Minimum time between two log lines about one shard, milliseconds.
const QUIET_MS: u64 = 1000;

/// A slow call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slow {
    pub called: Called,
    /// The hook point, or the function outside of events.
    what: &'static str,
    ms: u64,
    /// Whether it was timed; otherwise it was seen for at least `ms`.
    timed: bool,
    /// Number of further slow calls since the last line.
    others: u64,
}

impl Slow {
    pub(super) fn sentence(&self, plugin: &str, shard: ShardId) -> String {
        let Slow { what, ms, timed, others, .. } = self;
        let took = if *timed { "took" } else { "took at least" };
        let others = match others {
            0 => String::new(),
            1 => ", and so was one other call since the last such line".to_owned(),
            others => format!(", and so were {others} other calls since the last such line"),
        };
        format!("slow call: {plugin} {took} {ms} ms at {what} on shard {shard}{others}")
    }
}

/// The slow calls of a shard.
#[derive(Debug, Default)]
pub(super) struct SlowCalls {
    /// The call that was running at the last check: its number, its plugin, its function, first and
    /// last seen (milliseconds).
    running: Option<(u64, Called, &'static str, u64, u64)>,
    /// Number of slow calls that the chains had counted.
    noted: u64,
    /// When the last line was logged; `left_out` calls were left out since.
    line_ms: Option<u64>,
    left_out: u64,
}

impl SlowCalls {
    /// Checks the shard's calls. Returns a slow call, unless a line was logged a short time ago.
    pub(super) fn look(&mut self, calls: &CallCell, now_ms: u64, slow_ms: u64) -> Option<Slow> {
        if slow_ms == 0 {
            return None;
        }
        let ended = self.watch(calls, now_ms, slow_ms);
        let (noted, last) = calls.slow();
        let more = noted - self.noted;
        self.noted = noted;
        let timed = last.filter(|_| more > 0).map(|(called, what, ns)| Slow {
            called,
            what,
            ms: ns / 1_000_000,
            timed: true,
            others: 0,
        });
        // A timed call is more exact than the same call seen by the watchdog.
        let found = timed.or(ended)?;
        let count = more.max(1);
        if self.line_ms.is_some_and(|line_ms| now_ms - line_ms < QUIET_MS) {
            self.left_out += count;
            return None;
        }
        self.line_ms = Some(now_ms);
        Some(Slow { others: std::mem::take(&mut self.left_out) + count - 1, ..found })
    }

    /// Follows the running call. Returns a call that has ended and was slow.
    fn watch(&mut self, calls: &CallCell, now_ms: u64, slow_ms: u64) -> Option<Slow> {
        let going_on = calls.number().zip(calls.current_name());
        if let Some((number, called, _, _, last_ms)) = &mut self.running
            && going_on.is_some_and(|(now, (whose, _))| (now, whose) == (*number, *called))
        {
            *last_ms = now_ms;
            return None;
        }
        let next = going_on.map(|(number, (called, what))| (number, called, what, now_ms, now_ms));
        let (_, called, what, first_ms, last_ms) = std::mem::replace(&mut self.running, next)?;
        let ms = last_ms - first_ms;
        (ms >= slow_ms).then_some(Slow { called, what, ms, timed: false, others: 0 })
    }
}

#[cfg(test)]
mod tests {
    use grapnel_engine::hook::{HookPoint, LinkIdentity};

    use super::*;

    const TAP: LinkIdentity = LinkIdentity(3);

    fn enter(calls: &CallCell, point: HookPoint) {
        calls.enter(point, 0);
        calls.turn_of(TAP);
    }

    fn said(slow: Option<Slow>) -> Option<String> {
        slow.map(|slow| slow.sentence("tap", ShardId(1)))
    }

    #[test]
    fn a_call_seen_by_two_checks_is_reported_when_it_has_ended() {
        let (calls, mut slow) = (CallCell::default(), SlowCalls::default());
        enter(&calls, HookPoint::MessagePublish);
        assert_eq!(slow.look(&calls, 100, 5), None);
        assert_eq!(slow.look(&calls, 112, 5), None, "it goes on");
        calls.leave();
        let line = "slow call: tap took at least 12 ms at message.publish on shard 1";
        assert_eq!(said(slow.look(&calls, 117, 5)).as_deref(), Some(line));
        assert_eq!(slow.look(&calls, 122, 5), None);
    }

    #[test]
    fn quick_calls_of_one_plugin_are_not_taken_for_a_slow_one() {
        let (calls, mut slow) = (CallCell::default(), SlowCalls::default());
        for look in 0..100 {
            enter(&calls, HookPoint::MessageDelivered);
            assert_eq!(slow.look(&calls, look * 5, 5), None);
            calls.leave();
        }
    }

    #[test]
    fn timed_slow_calls_are_logged_once_and_at_a_limited_rate() {
        let (calls, mut slow) = (CallCell::default(), SlowCalls::default());
        calls.set_slow_from_ns(5_000_000);
        let mut at = |now_ms, times_ms: &[u64]| {
            for ms in times_ms {
                calls.timed(TAP, HookPoint::MessagePublish, ms * 1_000_000);
            }
            said(slow.look(&calls, now_ms, 5))
        };
        assert_eq!(at(10, &[4]), None);
        let line = "slow call: tap took 7 ms at message.publish on shard 1";
        assert_eq!(at(20, &[7]).as_deref(), Some(line));
        assert_eq!(at(500, &[8, 8]), None, "too soon");
        let line = "slow call: tap took 9 ms at message.publish on shard 1, and so were 2 other calls since the last such line";
        assert_eq!(at(1_020, &[9]).as_deref(), Some(line));
        assert_eq!(at(9_000, &[]), None);
    }

    #[test]
    fn nothing_is_slow_where_the_operator_wants_no_line() {
        let (calls, mut slow) = (CallCell::default(), SlowCalls::default());
        enter(&calls, HookPoint::MessagePublish);
        assert_eq!(slow.look(&calls, 0, 0), None);
        calls.leave();
        assert_eq!(slow.look(&calls, 10_000, 0), None);
    }
}
