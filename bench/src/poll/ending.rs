//! How a run comes to its end: when it is settled and when complete, waiting for what is outstanding, closing the
//! connections. Part of the poll loop, called once per turn.

use super::link::Link;
use super::{Conn, Phase, Run};
use crate::client::{Failure, State};
use crate::clock::nanos;
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

impl Run<'_> {
    /// Moves on to the next phase once the present one has served its purpose or its time.
    pub(super) fn advance_phase(&mut self, stop: &AtomicBool) -> Result<()> {
        let now_ns = self.shared.now_ns;
        match self.phase {
            Phase::Running => {
                self.settle()?;
                let idle = self.live == 0 && self.settled_ns.is_some();
                if stop.load(Ordering::Relaxed) {
                    self.interrupted = true;
                }
                if idle || self.interrupted || self.is_complete() {
                    self.phase = Phase::Draining(now_ns + nanos(self.plan.drain_timeout));
                    return self.advance_phase(stop);
                }
            }
            Phase::Draining(until_ns) => {
                let drained = self.shared.in_flight == 0
                    && !self.conns.iter().any(|conn| conn.link.as_ref().is_some_and(Link::has_unsent));
                if drained || now_ns >= until_ns {
                    self.phase = Phase::Closing(now_ns + nanos(self.plan.drain_timeout));
                    self.close_all();
                    return self.advance_phase(stop);
                }
            }
            Phase::Closing(until_ns) => {
                if self.live == 0 || now_ns >= until_ns {
                    self.phase = Phase::Over;
                }
            }
            Phase::Over => {}
        }
        Ok(())
    }

    /// Once every client is ready or has failed: says so, and lets publishers begin that waited for it.
    fn settle(&mut self) -> Result<()> {
        let stats = &self.shared.stats;
        if self.settled_ns.is_some() || stats.ready + stats.failed < self.plan.count {
            return Ok(());
        }
        let now_ns = self.shared.now_ns;
        self.settled_ns = Some(now_ns);
        self.progress.announce(self.plan, stats)?;
        if let Some(publish) = self.publish_plan().filter(|publish| publish.wait_for_all) {
            // Spread over the first interval, so that the load is even from the start.
            let share_ns = nanos(publish.interval) / u64::from(self.plan.count);
            for index in 0..self.conns.len() {
                self.conns[index].client.begin(now_ns + share_ns * index as u64);
                self.serve(index, false, false);
            }
        }
        Ok(())
    }

    /// Whether the run has come to the end that its options set.
    fn is_complete(&self) -> bool {
        let (stats, now_ns) = (&self.shared.stats, self.shared.now_ns);
        let over = |since_ns: Option<u64>, length: Option<std::time::Duration>| match (since_ns, length) {
            (Some(since_ns), Some(length)) => now_ns >= since_ns + nanos(length),
            _ => false,
        };
        let received_all =
            self.publish_plan().is_none() && self.plan.limit.is_some_and(|limit| stats.received >= limit);
        let sent_all = self.shared.remaining == 0 && self.settled_ns.is_some();
        sent_all
            || received_all
            || over(self.settled_ns, self.plan.duration)
            || over(stats.receiving.last_ns(), self.plan.idle)
    }

    fn close_all(&mut self) {
        for index in 0..self.conns.len() {
            let Conn { client, link: Some(_), .. } = &mut self.conns[index] else { continue };
            let in_handshake = matches!(client.state, State::Connecting | State::AwaitConnack);
            client.close(&mut self.out);
            if in_handshake || self.produce_and_send(index, false).is_err() {
                // Nobody to say goodbye to.
                self.fail(index, &Failure::Closed);
            }
        }
    }
}
