//! The phases of a scenario: connect, warm up, measure, optionally count system calls, drain, close;
//! and the readings at their borders. A connect storm ends after its connects. [`super::run`] calls
//! [`drive`]; the engine does the work between two calls of [`Run::advance`].

use super::report::{Measured, Reading, Report, Syscalls};
use super::syscalls::{self, Counter};
use super::target::Target;
use super::usage::{Sampler, Times, own_times};
use super::{Scenario, Waiting};
use crate::clock::nanos;
use crate::engine::ledger::Ledger;
use crate::engine::{Engine, MessageRecord, Schedule, Shared};
use crate::plan::{Pace, Setup};
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// Time between two readings of the broker's threads: the maximum CPU time of an ending thread that
/// is missed.
const SAMPLE_NS: u64 = 500_000_000;
/// Timeout for the ends of the connections.
const CLOSE_NS: u64 = 5_000_000_000;

/// Carries out a scenario.
pub fn drive(scenario: &Scenario, setup: &Setup, target: &Target, stop: &AtomicBool) -> Result<Report> {
    let mut run = Run::new(scenario, setup, target)?;
    while run.phase != Phase::Over {
        if run.phase.awaits_perf() {
            // perf shares this CPU; with real-time priority the generator would keep it while it
            // spins.
            std::thread::yield_now();
        }
        let spins = scenario.waiting == Waiting::Spin && (run.phase.is_load() || setup.leaves);
        run.engine.turn(spins, run.phase.until_ns(run.engine.shared.now_ns))?;
        run.advance(stop);
        run.show_progress();
    }
    run.engine.progress.clear();
    Ok(run.report())
}

/// Phase of a run; times are those at which the phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    fn is_load(self) -> bool {
        use Phase::{Attaching, Counting, Detaching, Measuring, WarmUp};
        matches!(self, WarmUp(_) | Measuring(_) | Attaching(_) | Counting(_) | Detaching(_))
    }

    /// Whether the next step is perf's.
    fn awaits_perf(self) -> bool {
        matches!(self, Self::Attaching(_) | Self::Detaching(_))
    }

    /// When its time is over.
    fn until_ns(self, now_ns: u64) -> u64 {
        match self {
            Self::WarmUp(until) | Self::Measuring(until) | Self::Counting(until) | Self::Closing(until) => {
                until
            }
            // It ends when perf answers, for which there is no event.
            Self::Attaching(_) | Self::Detaching(_) => now_ns + 1_000_000,
            Self::Connecting | Self::Draining | Self::Over => u64::MAX,
        }
    }

    /// Its name in messages.
    fn name(self) -> &'static str {
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

#[derive(Debug)]
struct Run<'s> {
    scenario: &'s Scenario,
    target: &'s Target,
    engine: Engine<'s>,
    phase: Phase,
    measured: Measured,
    sampler: Option<Sampler>,
    next_sample_ns: u64,
    /// Counts system calls.
    counter: Option<Counter>,
    /// Number of deliveries when it began, and then in its window.
    delivered: u64,
    /// Time of the last delivery or acknowledgement, and their number.
    progressed: (u64, u64),
    interrupted: bool,
}

impl<'s> Run<'s> {
    fn new(scenario: &'s Scenario, setup: &'s Setup, target: &'s Target) -> Result<Self> {
        let mut sampler = target.pid.map(Sampler::new).transpose()?;
        let before = sampler.as_mut().map(Sampler::times).transpose()?;
        let memory_before = sampler.as_ref().map(Sampler::memory).transpose()?;
        let window = if let Pace::Credit { window, .. } = setup.pace { Some(window) } else { None };
        let mut engine = Engine::new(setup, MessageRecord::Ledger(Ledger::new(&setup.shape, window)))?;
        if matches!(setup.pace, Pace::Rate(_)) && scenario.waiting == Waiting::Sleep {
            engine.sleep_exactly()?;
        }
        Ok(Self {
            scenario,
            target,
            engine,
            phase: Phase::Connecting,
            measured: Measured { before, memory_before, ..Measured::default() },
            sampler,
            next_sample_ns: 0,
            counter: None,
            delivered: 0,
            progressed: (0, 0),
            interrupted: false,
        })
    }

    fn ledger(&self) -> &Ledger {
        let MessageRecord::Ledger(ledger) = &self.engine.shared.record else { unreachable!("see `new`") };
        ledger
    }

    /// Begins the next phase once the current one is complete or its time is over.
    fn advance(&mut self, stop: &AtomicBool) {
        let now_ns = self.engine.shared.now_ns;
        if self.phase.is_load() || self.phase == Phase::Draining {
            self.note_progress();
        }
        if stop.load(Ordering::Relaxed)
            && !matches!(self.phase, Phase::Draining | Phase::Closing(_) | Phase::Over)
        {
            self.interrupted = true;
            if self.phase == Phase::Connecting {
                self.end_connecting();
            }
            self.drain();
        } else if self.phase.is_load() && (self.is_broken() || self.is_stalled()) {
            // Later measurements would not be of the requested load.
            if !self.is_broken() {
                let patience_s = self.scenario.options.patience.as_secs_f64();
                self.engine.shared.counts.error(&format!(
                    "nothing came for {patience_s} s although messages were outstanding; the run was ended"
                ));
            }
            self.drain();
        }
        match self.phase {
            Phase::Connecting if self.is_connected() => self.begin_load(),
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
            Phase::Draining if self.is_drained() || self.is_broken() || self.is_stalled() => self.close(),
            Phase::Closing(until_ns) if self.engine.live == 0 || now_ns >= until_ns => {
                self.phase = Phase::Over;
            }
            _ => {}
        }
    }

    /// Whether every client is ready or has failed; in a connect storm also whether it has left.
    fn is_connected(&self) -> bool {
        self.engine.is_settled() && (!self.engine.shared.setup.leaves || self.engine.live == 0)
    }

    fn end_connecting(&mut self) {
        self.measured.connect_ns = self.engine.shared.now_ns;
        self.measured.connected = self.sample();
        if self.engine.shared.setup.leaves && self.scenario.options.syscalls {
            let why_not = "system calls are counted per message, and there are none";
            self.measured.syscalls_why_not = Some(why_not.to_owned());
        }
    }

    /// Begins the load, or ends the run.
    fn begin_load(&mut self) {
        self.end_connecting();
        if self.engine.shared.setup.leaves || self.is_broken() {
            self.close();
            return;
        }
        let now_ns = self.engine.shared.now_ns;
        self.progressed = (now_ns, 0);
        self.phase = Phase::WarmUp(now_ns + nanos(self.scenario.options.warm_up));
        self.engine.publishing = true;
        let publishers = self.engine.shared.setup.shape.publishers.len();
        if let Pace::Rate(per_second) = self.scenario.pace {
            self.engine.shared.schedule = Some(Schedule::new(now_ns, per_second, publishers));
        } else {
            self.engine.ready.extend(0..publishers);
        }
    }

    fn begin_measuring(&mut self) {
        self.engine.shared.counts.measure(true);
        self.engine.update_clock();
        self.measured.start = Some(self.reading());
        self.next_sample_ns = self.engine.shared.now_ns + SAMPLE_NS;
        self.phase = Phase::Measuring(self.engine.shared.now_ns + nanos(self.scenario.options.duration));
    }

    fn end_measuring(&mut self) {
        self.measured.end = Some(self.reading());
        self.measured.memory = self.sampler.as_ref().and_then(|sampler| sampler.memory().ok());
        self.record_what_waits();
        self.engine.shared.counts.measure(false);
        if self.scenario.options.syscalls {
            self.attach();
        } else {
            self.drain();
        }
    }

    /// For an open loop: a message that was due in the window and has not arrived at its end has
    /// waited at least until then. Without these values, a broker that delivers less would look
    /// faster.
    fn record_what_waits(&mut self) {
        let Shared {
            schedule: Some(schedule), record: MessageRecord::Ledger(ledger), counts, now_ns, ..
        } = &mut self.engine.shared
        else {
            return;
        };
        let due = |publisher| schedule.assigned_to(publisher);
        ledger.awaited(due, |publisher, sequence| {
            counts.latency.record(now_ns.saturating_sub(schedule.due_of(publisher, sequence)));
        });
    }

    /// The counters at this moment.
    fn reading(&mut self) -> Reading {
        let used = self.sample();
        Reading {
            at_ns: self.engine.clock.now_ns(),
            sent: self.engine.shared.counts.sent,
            delivered: self.ledger().delivered,
            delivered_bytes: self.engine.shared.counts.received_bytes,
            idle_ns: self.engine.idle_ns,
            used,
            children: self.sampler.as_mut().map(Sampler::children_times),
            own: own_times(),
        }
    }

    fn sample(&mut self) -> Option<Times> {
        let sampler = self.sampler.as_mut()?;
        // So that little CPU time of an ending child is missed.
        sampler.children_times();
        match sampler.times() {
            Ok(times) => Some(times),
            Err(error) => {
                // The connections show its end; this only explains why the columns are empty.
                self.engine.shared.counts.error(&format!("{error:#}"));
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
                self.counter = Some(counter);
                self.phase = Phase::Attaching(self.engine.shared.now_ns + nanos(syscalls::PATIENCE));
            }
            Err(error) => self.no_calls(&error),
        }
    }

    fn no_calls(&mut self, error: &anyhow::Error) {
        self.measured.syscalls_why_not = Some(format!("{error:#}"));
        self.counter = None;
        self.drain();
    }

    /// Whether perf has carried out the last command; fails after a timeout.
    fn perf_has_answered(&mut self, give_up_ns: u64) -> bool {
        let late = self.engine.shared.now_ns >= give_up_ns;
        let answered = match &mut self.counter {
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
            self.delivered = self.ledger().delivered;
            self.phase = Phase::Counting(self.engine.shared.now_ns + nanos(self.scenario.options.duration));
        }
    }

    fn end_counting(&mut self) {
        self.delivered = self.ledger().delivered - self.delivered;
        match self.counter.as_mut().map_or(Ok(()), |counter| counter.ask(false)) {
            Ok(()) => self.phase = Phase::Detaching(self.engine.shared.now_ns + nanos(syscalls::PATIENCE)),
            Err(error) => self.no_calls(&error),
        }
    }

    fn detached(&mut self, give_up_ns: u64) {
        if self.perf_has_answered(give_up_ns) {
            match self.counter.take().map(Counter::finish).transpose() {
                Ok(count) => {
                    self.measured.syscalls = count.map(|count| Syscalls::of(count, self.delivered));
                    self.drain();
                }
                Err(error) => self.no_calls(&error),
            }
        }
    }

    /// Stops publishing.
    fn drain(&mut self) {
        self.engine.shared.counts.measure(false);
        (self.engine.connecting, self.engine.publishing) = (false, false);
        self.engine.ready.clear();
        self.progressed.0 = self.engine.shared.now_ns;
        self.phase = Phase::Draining;
    }

    fn note_progress(&mut self) {
        let counts = &self.engine.shared.counts;
        let done = self.ledger().delivered + counts.acked;
        let awaits = self.ledger().outstanding() + counts.in_flight > 0;
        if done != self.progressed.1 || !awaits {
            self.progressed = (self.engine.shared.now_ns, done);
        }
    }

    fn is_stalled(&self) -> bool {
        self.engine.shared.now_ns.saturating_sub(self.progressed.0) > nanos(self.scenario.options.patience)
    }

    fn is_broken(&self) -> bool {
        let counts = &self.engine.shared.counts;
        counts.failed > 0 || counts.disconnects > 0
    }

    fn is_drained(&self) -> bool {
        self.ledger().outstanding() == 0 && self.engine.is_drained()
    }

    fn close(&mut self) {
        self.engine.close_all();
        self.phase = match self.engine.live {
            0 => Phase::Over,
            _ => Phase::Closing(self.engine.shared.now_ns + CLOSE_NS),
        };
    }

    fn show_progress(&mut self) {
        let (count, what) = match self.phase {
            Phase::Connecting => (self.engine.shared.counts.ready.into(), "clients ready"),
            _ => (self.ledger().delivered, "delivered"),
        };
        let (kind, phase, now_ns) = (self.scenario.kind, self.phase.name(), self.engine.shared.now_ns);
        self.engine.progress.show(now_ns, [count, 0], |[per_s, _]| {
            format!("{}: {phase}  {count} {what} ({per_s:.0}/s)", kind.name())
        });
    }

    /// The report of the run.
    fn report(self) -> Report {
        let Run { scenario, target, engine, measured, interrupted, .. } = self;
        Report::new(scenario, target, &engine.shared, measured, interrupted)
    }
}
