//! The thread of one worker: it starts the process, has it served until it ends, and starts it anew. Where the plugin is to end, what
//! has been asked is brought to its end first. No shard ever waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::Host;

use crate::call_queue::{CallQueue, PendingCalls};
use crate::command::NotDone;
use crate::config::{Config, WhileDown};
use crate::logins::{LoginStore, NotStored};
use crate::notices::{Notices, Pace};
use crate::process::Process;
use crate::queue::Call;
use crate::serving::{End, QUEUE_LOOK, Serving};
use crate::stats::{Lost, WorkerStats};
use crate::verdict::Ticket;
use crate::wire::Ready;

/// How soon a worker is started anew, and how slowly at the slowest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A worker that has run for so long begins with the shortest pause again.
const SETTLED: Duration = Duration::from_secs(10);
/// The least time between two renewals.
const RENEWAL: Duration = Duration::from_secs(1);
/// How much longer its thread may take than calls and farewell: to kill what has not ended, and to read the last of it.
const SPARE: Duration = Duration::from_secs(2);

/// One worker.
pub struct Worker {
    /// What the operator configured.
    pub config: Arc<Config>,
    /// Where the calls come from.
    pub queue: Arc<CallQueue>,
    /// What its hooks know of logins.
    pub logins: Arc<LoginStore>,
    /// The broker.
    pub host: Host,
    /// Which of the pool.
    pub index: u32,
    /// Where its first process says that it is ready.
    pub first: Option<SyncSender<Result<Ready, String>>>,
    /// Whether the broker has started.
    pub started: Arc<AtomicBool>,
    /// Whether its first process has said that it has something kept of logins.
    pub keeps: Option<bool>,
    /// Answers that were wrong, or said what went wrong.
    pub wrong: u64,
    /// Calls that were not answered in time.
    pub late: u64,
    /// What has found no room and is yet to be said, and when something was said last.
    pub lost: (Lost, Pace),
    /// The same of what logins gave.
    pub not_stored: (NotStored, Pace),
    /// Commands that were not done.
    pub not_done: Notices,
}

impl Worker {
    /// Its name in the log.
    pub fn name(&self) -> String {
        format!("{}/{}", self.config.driver.name(), self.index)
    }

    /// How long its thread may take from when the plugin is to end: what has been asked is answered, and the process says farewell.
    pub fn patience(config: &Config) -> Duration {
        config.call_timeout + config.shutdown_timeout + SPARE
    }

    /// Until the plugin ends.
    pub fn run(mut self) {
        let _loaded = self.queue.stats.loaded();
        self.go_on();
        self.say_lost(true);
        self.say_not_done(true);
    }

    fn go_on(&mut self) {
        let mut pause = BACKOFF.0;
        loop {
            let began = Instant::now();
            let lost = match self.serve() {
                End::Stop => return,
                End::Lost(lost) => lost,
                End::Renewed => {
                    let name = self.name();
                    self.host.info(format_args!(
                        "{name} is started anew, since hooks of exhook were not called for a time, or are not, and sessions may \
                         have ended unseen"
                    ));
                    self.rest_before_renewal(began.elapsed());
                    self.queue.stats.restarted();
                    continue;
                }
            };
            let again = self.starts_again();
            if let Some(first) = self.first.take() {
                // `load` has the text for the operator; nothing is mounted.
                let _ = first.send(Err(lost));
                return;
            }
            let name = self.name();
            if self.is_stopping() && !self.queue.has_pending() {
                self.host.error(format_args!("{name} {lost}; it was about to end"));
                self.fail_remaining(Vec::new());
                return;
            }
            if !again {
                self.host.error(format_args!("{name} {lost}; it stays away, as auto_reconnect is off"));
                return;
            }
            if began.elapsed() > SETTLED {
                pause = BACKOFF.0;
            }
            self.host.error(format_args!("{name} {lost}; it is started anew in {} ms", pause.as_millis()));
            if self.wait_for_restart(pause) {
                self.fail_remaining(Vec::new());
                return;
            }
            pause = (pause * 2).min(BACKOFF.1);
            self.queue.stats.restarted();
        }
    }

    /// Waits until another process may take the place of one that has run for so long, or the plugin is to end; what comes meanwhile
    /// waits on the line.
    fn rest_before_renewal(&mut self, ran: Duration) {
        let until = Instant::now() + renewal_pause(ran, self.config.call_timeout);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.host.wait_stop(left.min(QUEUE_LOOK)) {
                return;
            }
            self.look(Instant::now());
        }
    }

    /// Whether broker.started has been already.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether the plugin is to end.
    pub fn is_stopping(&self) -> bool {
        self.host.wait_stop(Duration::ZERO)
    }

    /// Waits without a process; whether the plugin is to end, and nobody waits for an answer of the next one.
    fn wait_for_restart(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stops = self.host.wait_stop(left.min(QUEUE_LOOK));
            self.look(Instant::now());
            if stops && !self.queue.has_pending() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            if stops {
                // That has waited for nothing.
                std::thread::park_timeout(left.min(QUEUE_LOOK));
            }
        }
    }

    /// What is to be done now and then.
    pub fn look(&mut self, now: Instant) {
        self.fail_overdue();
        self.logins.expire(now);
        self.say_lost(false);
        self.say_not_done(false);
    }

    /// Whether a process that says of itself that it `keeps` may do so: only where the first one has, by which it was decided whether
    /// anybody sees sessions end.
    pub fn keeps(&mut self, keeps: bool) -> bool {
        *self.keeps.get_or_insert(keeps) && keeps
    }

    /// What has waited on the line for longer than an answer may take ends by policy.
    pub fn fail_overdue(&mut self) {
        let Some(before) = Instant::now().checked_sub(self.config.call_timeout) else { return };
        loop {
            let overdue = self.queue.overdue(before);
            if overdue.is_empty() {
                return;
            }
            overdue.into_iter().for_each(|pending| self.fail_late(pending.ticket));
        }
    }

    /// A call that got no answer in time.
    pub fn fail_late(&mut self, ticket: Ticket) {
        self.late += 1;
        // Nothing logs per packet: the first, second, fourth, eighth … do.
        if self.late.is_power_of_two() {
            let (name, timeout) = (self.name(), self.config.call_timeout.as_millis());
            self.host
                .warn(format_args!("{name} did not answer within {timeout} ms (the {}. time)", self.late));
        }
        self.queue.stats.timed_out();
        fail(&self.queue.stats, ticket);
    }

    /// Whether another process follows the one that ends.
    fn starts_again(&self) -> bool {
        self.config.auto_reconnect && self.first.is_none()
    }

    /// Whether calls that come while no process runs wait for the next one.
    pub fn waits_for_the_next(&self) -> bool {
        self.starts_again() && self.config.while_down == WhileDown::Wait
    }

    /// Nobody takes calls any more: what is waited for on the line ends by policy. How many notifications are lost.
    /// `here` was taken from it, and has not been given to a process.
    pub fn fail_remaining(&self, here: Vec<Call>) -> usize {
        let (asked, told) = self.queue.cut(here);
        self.fail_all(asked);
        told
    }

    /// These end by policy.
    pub fn fail_all(&self, asked: PendingCalls) {
        for pending in asked.into_values() {
            fail(&self.queue.stats, pending.ticket);
        }
    }

    /// Says what has found no room, now and then, or at the end.
    pub fn say_lost(&mut self, at_the_end: bool) {
        self.log_not_stored(at_the_end);
        let (lost, pace) = &mut self.lost;
        lost.add(self.queue.take_lost());
        if lost.is_empty() || !pace.may_say(Instant::now()) && !at_the_end {
            return;
        }
        let lost = std::mem::take(lost);
        self.host.warn(format_args!("{}: {lost}", self.name()));
    }

    fn log_not_stored(&mut self, at_the_end: bool) {
        let (unkept, pace) = &mut self.not_stored;
        unkept.add(self.logins.take_not_stored());
        if unkept.count() + unkept.untold == 0 || !pace.may_say(Instant::now()) && !at_the_end {
            return;
        }
        let unkept = std::mem::take(unkept);
        self.host.warn(format_args!("{}: {unkept}", self.name()));
    }

    /// A command was not done.
    pub fn command_failed(&mut self, NotDone { kind, why }: NotDone) {
        self.queue.stats.command_failed();
        if let Some(line) = self.not_done.note(kind, why, Instant::now()) {
            self.host.warn(format_args!("{}: {line}", self.name()));
        }
    }

    /// Says which commands were not done and are yet to be said, now and then, or at the end.
    pub fn say_not_done(&mut self, at_the_end: bool) {
        for line in self.not_done.due(Instant::now(), at_the_end) {
            self.host.warn(format_args!("{}: {line}", self.name()));
        }
    }

    fn serve(&mut self) -> End {
        let process = match Process::start(&self.config) {
            Ok(process) => process,
            Err(error) => {
                if !self.waits_for_the_next() {
                    self.fail_remaining(Vec::new());
                }
                return End::Lost(error);
            }
        };
        let mut serving = Serving::new(self, process);
        serving.introduce();
        let end = serving.turns();
        serving.over(&end);
        match (end, serving.first_words) {
            (End::Lost(_), Some(words))
                if words.iter().any(|line| line.ends_with("No module named grapnel_exhook")) =>
            {
                let python = self.config.program.display();
                End::Lost(format!(
                    "cannot run: {python} does not have the package grapnel-exhook; install it with `{python} -m pip \
                     install`, from plugins/exhook/sdk/python"
                ))
            }
            // Nobody else says why.
            (End::Lost(why), Some(words)) if !words.is_empty() => {
                End::Lost(format!("{why}; it printed:\n{}", words.join("\n")))
            }
            (end, _) => end,
        }
    }
}

/// How long a renewal waits: whoever takes hooks out and puts them back all the time starts no process each time. What is asked
/// meanwhile has half of its time left.
fn renewal_pause(ran: Duration, call_timeout: Duration) -> Duration {
    RENEWAL.min(call_timeout / 2).saturating_sub(ran)
}

/// A call that got no answer, or a wrong one.
pub fn fail(stats: &WorkerStats, ticket: Ticket) {
    stats.failed();
    ticket.fail();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_waits_where_there_was_one_just_before() {
        let (zero, ms) = (Duration::ZERO, Duration::from_millis);
        assert_eq!(renewal_pause(RENEWAL, ms(60_000)), zero);
        assert_eq!(renewal_pause(ms(10), ms(60_000)), RENEWAL - ms(10));
        assert_eq!((renewal_pause(zero, ms(10)), renewal_pause(ms(6), ms(10))), (ms(5), zero));
    }
}
