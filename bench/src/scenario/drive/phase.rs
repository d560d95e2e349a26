//! The course of a run: connect, warm up, measure, perhaps count system calls, drain, close; and the readings at the
//! borders. Part of the loop, called once per turn.

use super::Run;
use crate::client::State;
use crate::clock::nanos;
use crate::poll::link::Link;
use crate::scenario::Pace;
use crate::scenario::client::Shared;
use crate::scenario::report::{Measured, Reading, Report};
use crate::scenario::schedule::Schedule;
use crate::scenario::syscalls::{self, Counter};
use crate::scenario::usage::{Sampler, Times, own_times};
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// Between two looks at the threads of the broker, so that one that ends takes at most this much unseen with it.
const SAMPLE_NS: u64 = 500_000_000;
/// The ends of the connections are awaited this long.
const CLOSE_NS: u64 = 5_000_000_000;

/// Where a run stands; times are those at which the phase is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Clients connect and subscribe.
    Connecting,
    /// Load, not yet measured.
    WarmUp(u64),
    /// Load, measured.
    Measuring(u64),
    /// Load, until perf counts.
    Attaching(u64),
    /// Load, perf counts.
    Counting(u64),
    /// Load, until perf has stopped.
    Detaching(u64),
    /// Nothing new is sent.
    Draining,
    /// DISCONNECT is sent.
    Closing(u64),
    /// Done.
    Over,
}

impl Phase {
    /// Whether publishers publish.
    pub fn is_load(self) -> bool {
        use Phase::{Attaching, Counting, Detaching, Measuring, WarmUp};
        matches!(self, WarmUp(_) | Measuring(_) | Attaching(_) | Counting(_) | Detaching(_))
    }

    /// Whether the next step is that of perf.
    pub fn awaits_perf(self) -> bool {
        matches!(self, Self::Attaching(_) | Self::Detaching(_))
    }

    /// Nanoseconds until its time is over.
    pub fn rest_ns(self, now_ns: u64) -> u64 {
        match self {
            Self::WarmUp(until) | Self::Measuring(until) | Self::Counting(until) | Self::Closing(until) => {
                until.saturating_sub(now_ns)
            }
            // It is over when perf answers, which no event tells.
            Self::Attaching(_) | Self::Detaching(_) => 1_000_000,
            Self::Connecting | Self::Draining | Self::Over => u64::MAX,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::WarmUp(_) => "warming up",
            Self::Measuring(_) => "measuring",
            Self::Attaching(_) | Self::Counting(_) | Self::Detaching(_) => "counting system calls",
            Self::Draining => "draining",
            Self::Closing(_) | Self::Over => "closing",
        }
    }
}

/// The window in which system calls are counted.
#[derive(Debug, Default)]
pub struct Calls {
    counter: Option<Counter>,
    /// Deliveries when it began.
    delivered_before: u64,
    /// Deliveries in it.
    pub delivered: u64,
    /// The count.
    pub count: Option<u64>,
    /// Why there is none.
    pub why_not: Option<String>,
}

impl Run<'_> {
    /// Moves on to the next phase once the present one has served its purpose or its time.
    pub(super) fn advance_phase(&mut self, stop: &AtomicBool) -> Result<()> {
        let now_ns = self.shared.now_ns;
        if self.phase.is_load() || self.phase == Phase::Draining {
            self.note_progress();
        }
        if stop.load(Ordering::Relaxed)
            && !matches!(self.phase, Phase::Draining | Phase::Closing(_) | Phase::Over)
        {
            self.interrupted = true;
            self.drain();
        } else if self.phase.is_load() && (self.is_broken() || self.is_stalled()) {
            // Whatever is measured from here on says nothing about the load that was asked for.
            if !self.is_broken() {
                let patience_s = self.scenario.patience.as_secs_f64();
                self.shared.tally.error(&format!(
                    "nothing came for {patience_s} s although messages were outstanding; the run was ended"
                ));
            }
            self.drain();
        }
        match self.phase {
            Phase::Connecting => self.settle(),
            Phase::WarmUp(until_ns) if now_ns >= until_ns => self.begin_measuring(),
            Phase::Measuring(until_ns) => {
                if now_ns >= until_ns {
                    self.end_measuring();
                } else if now_ns >= self.next_sample_ns {
                    self.next_sample_ns = now_ns + SAMPLE_NS;
                    self.sample();
                }
            }
            Phase::Attaching(give_up_ns) => self.attached(give_up_ns),
            Phase::Counting(until_ns) if now_ns >= until_ns => self.end_counting(),
            Phase::Detaching(give_up_ns) => self.detached(give_up_ns),
            Phase::Draining if self.is_drained() || self.is_broken() || self.is_stalled() => self.close_all(),
            Phase::Closing(until_ns) if self.live == 0 || now_ns >= until_ns => self.phase = Phase::Over,
            _ => {}
        }
        Ok(())
    }

    /// Once every client is ready or has failed: begins the load, or gives up.
    fn settle(&mut self) {
        let tally = &self.shared.tally;
        let clients = self.shared.shape.clients();
        let settled = (tally.ready + tally.failed) as usize == clients;
        let now_ns = self.shared.now_ns;
        if !settled {
            // Whatever it waits for, it does not come.
            if now_ns.saturating_sub(self.progressed.0) > nanos(self.scenario.patience) {
                if u64::from(tally.ready + tally.failed) == self.progressed.1 {
                    self.give_up_connecting();
                }
                let tally = &self.shared.tally;
                self.progressed = (now_ns, u64::from(tally.ready + tally.failed));
            }
            return;
        }
        self.measured.connect_ns = now_ns;
        self.measured.connected = self.sample();
        if self.is_broken() {
            self.close_all();
            return;
        }
        self.progressed = (now_ns, 0);
        self.phase = Phase::WarmUp(now_ns + nanos(self.scenario.warm_up));
        if let Pace::Rate(per_second) = self.scenario.pace {
            self.shared.schedule =
                Some(Schedule::new(now_ns, per_second, self.shared.shape.publishers.len()));
        } else {
            self.ready.extend(0..self.shared.shape.publishers.len());
        }
    }

    fn give_up_connecting(&mut self) {
        for index in 0..self.conns.len() {
            let state = self.conns[index].client.state;
            if matches!(state, State::Connecting | State::AwaitConnack | State::AwaitSuback) {
                self.fail(index, &crate::client::Failure::Timeout(state));
            }
        }
    }

    fn begin_measuring(&mut self) {
        self.shared.tally.measure(true);
        self.tell_time();
        self.measured.start = Some(self.reading());
        self.next_sample_ns = self.shared.now_ns + SAMPLE_NS;
        self.phase = Phase::Measuring(self.shared.now_ns + nanos(self.scenario.duration));
    }

    fn end_measuring(&mut self) {
        self.measured.end = Some(self.reading());
        self.measured.memory = self.sampler.as_ref().and_then(|sampler| sampler.memory().ok());
        self.record_what_waits();
        self.shared.tally.measure(false);
        if self.scenario.syscalls {
            self.attach();
        } else {
            self.drain();
        }
    }

    /// Of an open loop: what was due in the window and has not arrived at its end has waited until then at least. Left out,
    /// it would make a broker look the faster the more it leaves undone.
    fn record_what_waits(&mut self) {
        let Shared { schedule: Some(schedule), ledger, tally, now_ns, .. } = &mut self.shared else { return };
        let due = |publisher| schedule.dealt_to(publisher);
        ledger.awaited(due, |publisher, sequence| {
            tally.latency.record(now_ns.saturating_sub(schedule.due_of(publisher, sequence)));
        });
    }

    /// The counts of this moment.
    fn reading(&mut self) -> Reading {
        let used = self.sample();
        Reading {
            at_ns: self.clock.now_ns(),
            sent: self.shared.ledger.sent,
            delivered: self.shared.ledger.delivered,
            delivered_bytes: self.shared.tally.delivered_bytes,
            idle_ns: self.idle_ns,
            used,
            children: self.sampler.as_mut().map(Sampler::children_times),
            own: own_times(),
        }
    }

    fn sample(&mut self) -> Option<Times> {
        let sampler = self.sampler.as_mut()?;
        // So that a child which ends takes little unseen with it.
        sampler.children_times();
        match sampler.times() {
            Ok(times) => Some(times),
            Err(error) => {
                // Its end shows in the connections; here it must only be said why the columns are empty.
                self.shared.tally.error(&format!("{error:#}"));
                self.sampler = None;
                None
            }
        }
    }

    fn attach(&mut self) {
        let attached = match self.target.pid {
            Some(pid) => Counter::attach(pid).and_then(|mut counter| counter.ask(true).map(|()| counter)),
            None => Err(anyhow::anyhow!("whose system calls? Give --broker or --pid")),
        };
        match attached {
            Ok(counter) => {
                self.calls.counter = Some(counter);
                self.phase = Phase::Attaching(self.shared.now_ns + nanos(syscalls::PATIENCE));
            }
            Err(error) => self.no_calls(&error),
        }
    }

    fn no_calls(&mut self, error: &anyhow::Error) {
        self.calls.why_not = Some(format!("{error:#}"));
        self.calls.counter = None;
        self.drain();
    }

    /// Whether perf has carried out the last command; gives up on it after a while.
    fn perf_has_answered(&mut self, give_up_ns: u64) -> bool {
        let late = self.shared.now_ns >= give_up_ns;
        let answered = match &mut self.calls.counter {
            Some(counter) => counter.has_answered(),
            None => Ok(false),
        };
        match answered {
            Ok(true) => return true,
            Ok(false) if late => self.no_calls(&anyhow::anyhow!("perf did not answer within five seconds")),
            Ok(false) => {}
            Err(error) => self.no_calls(&error),
        }
        false
    }

    fn attached(&mut self, give_up_ns: u64) {
        if self.perf_has_answered(give_up_ns) {
            self.calls.delivered_before = self.shared.ledger.delivered;
            self.phase = Phase::Counting(self.shared.now_ns + nanos(self.scenario.duration));
        }
    }

    fn end_counting(&mut self) {
        self.calls.delivered = self.shared.ledger.delivered - self.calls.delivered_before;
        match self.calls.counter.as_mut().map_or(Ok(()), |counter| counter.ask(false)) {
            Ok(()) => self.phase = Phase::Detaching(self.shared.now_ns + nanos(syscalls::PATIENCE)),
            Err(error) => self.no_calls(&error),
        }
    }

    fn detached(&mut self, give_up_ns: u64) {
        if self.perf_has_answered(give_up_ns) {
            if let Some(counter) = self.calls.counter.take() {
                match counter.finish() {
                    Ok(count) => self.calls.count = Some(count),
                    Err(error) => self.calls.why_not = Some(format!("{error:#}")),
                }
            }
            self.drain();
        }
    }

    /// Stops publishing.
    fn drain(&mut self) {
        self.shared.tally.measure(false);
        self.ready.clear();
        self.progressed.0 = self.shared.now_ns;
        self.phase = Phase::Draining;
    }

    fn note_progress(&mut self) {
        let done = self.shared.ledger.delivered + self.shared.tally.acked;
        let awaits = self.shared.ledger.outstanding() + self.shared.tally.in_flight > 0;
        if done != self.progressed.1 || !awaits {
            self.progressed = (self.shared.now_ns, done);
        }
    }

    fn is_stalled(&self) -> bool {
        self.shared.now_ns.saturating_sub(self.progressed.0) > nanos(self.scenario.patience)
    }

    fn is_broken(&self) -> bool {
        self.shared.tally.failed > 0 || self.shared.tally.disconnects > 0
    }

    fn is_drained(&self) -> bool {
        self.shared.ledger.outstanding() == 0
            && self.shared.tally.in_flight == 0
            && !self.conns.iter().any(|conn| conn.link.as_ref().is_some_and(Link::has_unsent))
    }

    fn close_all(&mut self) {
        self.phase = Phase::Closing(self.shared.now_ns + CLOSE_NS);
        for index in 0..self.conns.len() {
            let conn = &mut self.conns[index];
            if conn.link.is_none() {
                continue;
            }
            let in_handshake = matches!(conn.client.state, State::Connecting | State::AwaitConnack);
            conn.client.close(&mut self.out);
            if in_handshake || self.produce_and_send(index, false).is_err() {
                // Nobody to say goodbye to.
                self.fail(index, &crate::client::Failure::Closed);
            }
        }
    }

    /// What came of it.
    pub(super) fn report(self) -> Report {
        let Run { scenario, target, shared, measured, calls, interrupted, .. } = self;
        let measured = Measured { calls_delivered: calls.delivered, calls: calls.count, ..measured };
        Report::new(scenario, target, &shared, &measured, calls.why_not, interrupted)
    }
}
