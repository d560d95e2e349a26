//! The thread of one worker: starts the process, serves it until it ends, and restarts it. When the
//! plugin ends, pending requests are finished first. Shards never wait for this thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::Host;

use crate::call_queue::{CallQueue, PendingCalls};
use crate::command::FailedCommand;
use crate::config::{Config, WhileDown};
use crate::logins::{LoginStore, NotStored};
use crate::notices::{LogInterval, Notices};
use crate::process::Process;
use crate::queue::Call;
use crate::serving::{End, QUEUE_CHECK_EVERY, Serving};
use crate::stats::{Lost, WorkerStats};
use crate::verdict::Ticket;
use crate::wire::Ready;

/// Shortest and longest pause before a restart.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A worker that has run for this long restarts with the shortest pause.
const SETTLED: Duration = Duration::from_secs(10);
/// The shortest time between two renewals.
const RENEWAL: Duration = Duration::from_secs(1);
/// Time that the thread may take beyond calls and shutdown, to kill a process and read its last
/// output.
const SPARE: Duration = Duration::from_secs(2);

/// One worker.
pub struct Worker {
    /// The driver's configuration.
    pub config: Arc<Config>,
    /// The calls for this worker.
    pub queue: Arc<CallQueue>,
    /// The login data of its hooks.
    pub logins: Arc<LoginStore>,
    /// The broker.
    pub host: Host,
    /// Index in the pool.
    pub index: u32,
    /// Receives the first process's result: ready, or the error.
    pub first: Option<SyncSender<Result<Ready, String>>>,
    /// Whether the broker has started.
    pub started: Arc<AtomicBool>,
    /// Whether its first process has declared that it stores login data.
    pub stores_logins: Option<bool>,
    /// Answers that were invalid or reported a failure.
    pub wrong: u64,
    /// Calls that were not answered in time.
    pub late: u64,
    /// Losses that are still to be logged, and when some were logged last.
    pub lost: (Lost, LogInterval),
    /// The same for login data.
    pub not_stored: (NotStored, LogInterval),
    /// Commands that failed and are still to be logged.
    pub not_done: Notices,
}

impl Worker {
    /// Its name in the log.
    pub fn name(&self) -> String {
        format!("{}/{}", self.config.driver.name(), self.index)
    }

    /// How long its thread may take after the plugin begins to end: requests are answered, and the
    /// process shuts down.
    pub fn patience(config: &Config) -> Duration {
        config.call_timeout + config.shutdown_timeout + SPARE
    }

    /// Runs until the plugin ends.
    pub fn run(mut self) {
        let _loaded = self.queue.stats.loaded();
        self.go_on();
        self.log_lost(true);
        self.log_failed_commands(true);
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
                        "{name} is restarted: some hooks of exhook were not called for a time, or still are not, so that it may not \
                         know of sessions that have ended"
                    ));
                    self.pause_before_renewal(began.elapsed());
                    self.queue.stats.restarted();
                    continue;
                }
            };
            let again = self.starts_again();
            if let Some(first) = self.first.take() {
                // `load` returns the text to the operator; nothing is mounted.
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
                self.host.error(format_args!(
                    "{name} {lost}; it is not restarted, because auto_reconnect is false"
                ));
                return;
            }
            if began.elapsed() > SETTLED {
                pause = BACKOFF.0;
            }
            self.host.error(format_args!("{name} {lost}; it is restarted in {} ms", pause.as_millis()));
            if self.wait_for_restart(pause) {
                self.fail_remaining(Vec::new());
                return;
            }
            pause = (pause * 2).min(BACKOFF.1);
            self.queue.stats.restarted();
        }
    }

    /// Waits until a process may be renewed that has run for `ran`, or until the plugin is to end.
    /// Calls stay in the queue meanwhile.
    fn pause_before_renewal(&mut self, ran: Duration) {
        let until = Instant::now() + renewal_pause(ran, self.config.call_timeout);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.host.wait_stop(left.min(QUEUE_CHECK_EVERY)) {
                return;
            }
            self.run_periodic_work(Instant::now());
        }
    }

    /// Whether broker.started has been called.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether the plugin is to end.
    pub fn is_stopping(&self) -> bool {
        self.host.wait_stop(Duration::ZERO)
    }

    /// Waits without a process. Returns whether the plugin is to end and no request waits for the
    /// next process.
    fn wait_for_restart(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stops = self.host.wait_stop(left.min(QUEUE_CHECK_EVERY));
            self.run_periodic_work(Instant::now());
            if stops && !self.queue.has_pending() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            if stops {
                // `wait_stop` returns at once from now on.
                std::thread::park_timeout(left.min(QUEUE_CHECK_EVERY));
            }
        }
    }

    /// Regular work of the thread.
    pub fn run_periodic_work(&mut self, now: Instant) {
        self.fail_overdue();
        self.logins.expire(now);
        self.log_lost(false);
        self.log_failed_commands(false);
    }

    /// Whether a process that declares `stores_logins` may store login data: only if the first
    /// process did, because that decided which hooks are mounted to see sessions end.
    pub fn stores_logins(&mut self, stores_logins: bool) -> bool {
        *self.stores_logins.get_or_insert(stores_logins) && stores_logins
    }

    /// Fails by policy what has waited in the queue for longer than `call_timeout`.
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

    /// Fails a call that was not answered in time.
    pub fn fail_late(&mut self, ticket: Ticket) {
        self.late += 1;
        // To limit the log, only the first, second, fourth, eighth … are logged.
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

    /// Closes the queue: pending requests fail by policy. `here` was taken from the queue and not
    /// sent. Returns the number of lost notifications.
    pub fn fail_remaining(&self, here: Vec<Call>) -> usize {
        let (pending, notified) = self.queue.cut(here);
        self.fail_all(pending);
        notified
    }

    /// Fails these by policy.
    pub fn fail_all(&self, pending: PendingCalls) {
        for pending in pending.into_values() {
            fail(&self.queue.stats, pending.ticket);
        }
    }

    /// Logs losses, at most once in a while, or `at_the_end`.
    pub fn log_lost(&mut self, at_the_end: bool) {
        self.log_not_stored(at_the_end);
        let (lost, pace) = &mut self.lost;
        lost.add(self.queue.take_lost());
        if lost.is_empty() || !pace.may_log(Instant::now()) && !at_the_end {
            return;
        }
        let lost = std::mem::take(lost);
        self.host.warn(format_args!("{}: {lost}", self.name()));
    }

    fn log_not_stored(&mut self, at_the_end: bool) {
        let (unkept, pace) = &mut self.not_stored;
        unkept.add(self.logins.take_not_stored());
        if unkept.count() + unkept.indistinguishable == 0 || !pace.may_log(Instant::now()) && !at_the_end {
            return;
        }
        let unkept = std::mem::take(unkept);
        self.host.warn(format_args!("{}: {unkept}", self.name()));
    }

    /// Counts and logs a command that failed.
    pub fn command_failed(&mut self, FailedCommand { kind, why }: FailedCommand) {
        self.queue.stats.command_failed();
        if let Some(line) = self.not_done.note(kind, why, Instant::now()) {
            self.host.warn(format_args!("{}: {line}", self.name()));
        }
    }

    /// Logs commands that failed, at most once in a while, or `at_the_end`.
    pub fn log_failed_commands(&mut self, at_the_end: bool) {
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
        serving.send_first_frame();
        let end = serving.turns();
        serving.over(&end);
        match (end, serving.early_output) {
            (End::Lost(_), Some(words))
                if words.iter().any(|line| line.ends_with("No module named grapnel_exhook")) =>
            {
                let python = self.config.program.display();
                End::Lost(format!(
                    "cannot run: {python} does not have the package grapnel-exhook; install it with `{python} -m pip \
                     install`, from plugins/exhook/sdk/python"
                ))
            }
            // Nothing else says why it failed.
            (End::Lost(why), Some(words)) if !words.is_empty() => {
                End::Lost(format!("{why}; it printed:\n{}", words.join("\n")))
            }
            (end, _) => end,
        }
    }
}

/// How long a renewal waits, so that an operator's tool which removes and restores hooks repeatedly
/// does not start a process each time. Requests that come meanwhile have half of their time left.
fn renewal_pause(ran: Duration, call_timeout: Duration) -> Duration {
    RENEWAL.min(call_timeout / 2).saturating_sub(ran)
}

/// Fails a call by policy: it got no answer, or an invalid one.
pub fn fail(stats: &WorkerStats, ticket: Ticket) {
    stats.failed();
    ticket.fail();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reauthentication_waits_for_a_pause_after_the_last_one() {
        let (zero, ms) = (Duration::ZERO, Duration::from_millis);
        assert_eq!(renewal_pause(RENEWAL, ms(60_000)), zero);
        assert_eq!(renewal_pause(ms(10), ms(60_000)), RENEWAL - ms(10));
        assert_eq!((renewal_pause(zero, ms(10)), renewal_pause(ms(6), ms(10))), (ms(5), zero));
    }
}
