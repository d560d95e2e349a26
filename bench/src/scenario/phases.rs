//! The phases of a scenario: connect, warm up, measure, optionally count system calls, drain, close;
//! and the readings at their borders. A connect storm ends after its connects. [`super::run`] calls
//! [`drive`]; the engine does the work.

use super::report::{Measured, Reading, Report, Syscalls};
use super::syscalls::Counter;
use super::target::Target;
use super::usage::{Sampler, Times, own_times};
use super::{Scenario, Waiting};
use crate::clock::nanos;
use crate::engine::ledger::Ledger;
use crate::engine::{Engine, MessageRecord, Schedule, Shared};
use crate::plan::{Pace, Setup};
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time between two readings of the broker's threads: the maximum CPU time of an ending thread that
/// is missed.
const SAMPLE_NS: u64 = 500_000_000;
/// Timeout for the ends of the connections.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Carries out a scenario.
pub fn drive(scenario: &Scenario, setup: &Setup, target: &Target, stop: &AtomicBool) -> Result<Report> {
    let mut run = Run::new(scenario, setup, target, stop)?;
    run.connect()?;
    if !run.interrupted && !setup.leaves && !run.is_broken() {
        run.load()?;
        run.drain()?;
    }
    run.engine.close(CLOSE_PATIENCE)?;
    let Run { engine, measured, interrupted, .. } = run;
    Ok(Report::new(scenario, target, &engine.shared, measured, interrupted))
}

struct Run<'s> {
    scenario: &'s Scenario,
    target: &'s Target,
    stop: &'s AtomicBool,
    engine: Engine<'s>,
    measured: Measured,
    sampler: Option<Sampler>,
    next_sample_ns: u64,
    /// Time of the last delivery or acknowledgement, and their number.
    progressed: (u64, u64),
    /// A signal ended the connects or the load.
    interrupted: bool,
}

impl<'s> Run<'s> {
    fn new(
        scenario: &'s Scenario,
        setup: &'s Setup,
        target: &'s Target,
        stop: &'s AtomicBool,
    ) -> Result<Self> {
        let mut sampler = target.broker.pid.map(Sampler::new).transpose()?;
        let before = sampler.as_mut().map(Sampler::times).transpose()?;
        let memory_before = sampler.as_ref().map(Sampler::memory).transpose()?;
        let window = if let Pace::Credit { window, .. } = setup.pace { Some(window) } else { None };
        let record = MessageRecord::Ledger(Ledger::new(&setup.shape, window));
        Ok(Self {
            scenario,
            target,
            stop,
            engine: Engine::new(setup, record)?,
            measured: Measured { before, memory_before, ..Measured::default() },
            sampler,
            next_sample_ns: 0,
            progressed: (0, 0),
            interrupted: false,
        })
    }

    fn ledger(&self) -> &Ledger {
        let MessageRecord::Ledger(ledger) = &self.engine.shared.record else { unreachable!("see `new`") };
        ledger
    }

    /// Turns the engine until `ends`, or until a time; true if that time has come.
    fn turn_until(
        &mut self,
        phase: &str,
        until_ns: u64,
        mut ends: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        while !ends(self) {
            if self.engine.shared.now_ns >= until_ns {
                return Ok(true);
            }
            let loads = self.engine.publishing || self.engine.shared.setup.leaves;
            self.engine.turn(loads && self.scenario.waiting == Waiting::Spin, until_ns)?;
            self.note_progress();
            self.show_progress(phase);
        }
        Ok(false)
    }

    /// Notes a signal; true once there was one.
    fn is_interrupted(&mut self) -> bool {
        self.interrupted = self.stop.load(Ordering::Relaxed);
        self.interrupted
    }

    /// Until every client is ready or has failed; in a connect storm also until it has left.
    fn connect(&mut self) -> Result<()> {
        let leaves = self.engine.shared.setup.leaves;
        self.turn_until("connecting", u64::MAX, |run| {
            run.is_interrupted() || (run.engine.is_settled() && (!leaves || run.engine.live == 0))
        })?;
        self.measured.connect_ns = self.engine.shared.now_ns;
        self.measured.connected = self.sample();
        if leaves && self.scenario.options.syscalls {
            let why_not = "system calls are counted per message, and there are none";
            self.measured.syscalls = Some(Err(why_not.to_owned()));
        }
        Ok(())
    }

    /// The load, until its last window is over or it has ended early.
    fn load(&mut self) -> Result<()> {
        let now_ns = self.engine.shared.now_ns;
        self.engine.publishing = true;
        let publishers = self.engine.shared.setup.shape.publishers.len();
        if let Pace::Rate(per_second) = self.scenario.pace {
            self.engine.shared.schedule = Some(Schedule::new(now_ns, per_second, publishers));
        } else {
            self.engine.ready.extend(0..publishers);
        }
        let options = &self.scenario.options;
        if !self.load_for("warming up", options.warm_up)? {
            return Ok(());
        }
        self.engine.shared.counts.measure(true);
        self.engine.update_clock();
        self.measured.start = Some(self.reading());
        if !self.load_for("measuring", options.duration)? {
            return Ok(());
        }
        self.measured.end = Some(self.reading());
        self.measured.memory = self.sampler.as_ref().and_then(|sampler| sampler.memory().ok());
        self.record_what_waits();
        self.engine.shared.counts.measure(false);
        if options.syscalls { self.count_syscalls() } else { Ok(()) }
    }

    /// Loads the broker for this long; true unless the load has ended early.
    fn load_for(&mut self, phase: &str, duration: Duration) -> Result<bool> {
        let until_ns = self.engine.shared.now_ns + nanos(duration);
        let is_complete = self.turn_until(phase, until_ns, |run| {
            if run.engine.shared.now_ns >= run.next_sample_ns {
                run.next_sample_ns = run.engine.shared.now_ns + SAMPLE_NS;
                run.sample();
            }
            // Later measurements would not be of the requested load.
            run.is_interrupted() || run.is_broken() || run.is_stalled()
        })?;
        if !is_complete && !self.interrupted && !self.is_broken() {
            let patience_s = self.scenario.options.patience.as_secs_f64();
            self.engine.shared.counts.error(&format!(
                "nothing came for {patience_s} s although messages were outstanding; the run was ended"
            ));
        }
        Ok(is_complete)
    }

    /// Counts the broker's system calls, in a window as long as the measured one.
    fn count_syscalls(&mut self) -> Result<()> {
        let pid = self.target.broker.pid.context("whose system calls? Give --broker or --pid");
        let counted = match pid.and_then(Counter::begin) {
            Ok(counter) => {
                let before = self.ledger().delivered;
                if !self.load_for("counting system calls", self.scenario.options.duration)? {
                    return Ok(());
                }
                counter.count().map(|count| Syscalls::of(count, self.ledger().delivered - before))
            }
            Err(error) => Err(error),
        };
        self.measured.syscalls = Some(counted.map_err(|error| format!("{error:#}")));
        Ok(())
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

    /// Stops publishing, and waits until everything has arrived.
    fn drain(&mut self) -> Result<()> {
        self.engine.shared.counts.measure(false);
        (self.engine.connecting, self.engine.publishing) = (false, false);
        self.engine.ready.clear();
        self.progressed.0 = self.engine.shared.now_ns;
        self.turn_until("draining", u64::MAX, |run| {
            let is_drained = run.ledger().outstanding() == 0 && run.engine.is_drained();
            is_drained || run.is_broken() || run.is_stalled()
        })?;
        Ok(())
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

    fn show_progress(&mut self, phase: &str) {
        let (count, what) = match self.measured.connect_ns {
            0 => (self.engine.shared.counts.ready.into(), "clients ready"),
            _ => (self.ledger().delivered, "delivered"),
        };
        let (kind, now_ns) = (self.scenario.kind, self.engine.shared.now_ns);
        self.engine.progress.show(now_ns, [count, 0], |[per_s, _]| {
            format!("{}: {phase}  {count} {what} ({per_s:.0}/s)", kind.name())
        });
    }
}
