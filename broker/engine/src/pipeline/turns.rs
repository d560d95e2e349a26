//! Work that one turn does not finish: large fan-outs, scans, sessions being taken down. Each turn does a slice.

use std::rc::Rc;

use super::Shard;
use crate::hook::told::RetainedChange;
use crate::route::Matched;
use crate::session::Held;
use crate::time::Now;

/// A message on its way to more sessions than one turn serves.
#[derive(Debug)]
pub(super) struct FanOut {
    pub(super) message: Held,
    pub(super) matched: Rc<Matched>,
    /// The next target.
    pub(super) next: usize,
}

/// Filters whose interest is taken back in one turn.
const SWEEP: usize = 256;
/// Retained messages that are expired in one turn.
const EXPIRE: usize = 256;

impl Shard {
    /// Sets the time of the step and runs what is due: keep alive, deadlines, expiry, delayed wills, sliced work. Returns
    /// whether sliced work is left, so that the shell calls again after it has let others run.
    pub fn advance(&mut self, now: Now) -> bool {
        self.now = now;
        self.run_timers();
        self.fan_out();
        self.scan_retained();
        self.end_sessions();
        self.replay();
        self.review();
        self.routes.sweep(SWEEP);
        if self.retained.next_expiry_ms().is_some_and(|at| at <= now.mono_ms) {
            let mut gone = Vec::new();
            self.retained.expire(now.mono_ms, EXPIRE, |_, message| gone.push(message));
            for message in gone {
                self.tell_retained(&message.view(), RetainedChange::Expired);
            }
        }
        self.has_work()
    }

    /// Whether the last step left sliced work: the shell then calls [`Shard::advance`] once more, after others have run.
    pub fn has_work(&self) -> bool {
        !(self.fanouts.is_empty()
            && self.scans.is_empty()
            && self.ending.is_empty()
            && !self.has_replays()
            && !self.has_reviews())
    }

    fn fan_out(&mut self) {
        let mut left = self.setup.limits.turn_budget_deliveries as usize;
        while left > 0 {
            let Some(mut fanout) = self.fanouts.pop_front() else { return };
            let end = fanout.matched.local.len().min(fanout.next + left);
            let mut held = Some(Rc::clone(&fanout.message));
            let view = fanout.message.view();
            self.frames.begin();
            for target in &fanout.matched.local[fanout.next..end] {
                self.serve_target(target, &view, &mut held);
            }
            left -= end - fanout.next;
            fanout.next = end;
            if fanout.next < fanout.matched.local.len() {
                self.fanouts.push_front(fanout);
            }
        }
    }
}
