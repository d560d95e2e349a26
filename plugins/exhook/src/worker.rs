//! The thread of one worker: it starts the process, has it served until it ends, and starts it anew. Where the plugin is to end, what
//! has been asked is brought to its end first. No shard ever waits for it.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::Host;

use crate::config::{Config, WhileDown};
use crate::figures::Figures;
use crate::kept::Kept;
use crate::line::{Calls, Line};
use crate::process::Process;
use crate::serving::{End, LINE_LOOK, Serving};
use crate::verdict::Ticket;
use crate::wire::Ready;

/// How soon a worker is started anew, and how slowly at the slowest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A worker that has run for so long begins with the shortest pause again.
const SETTLED: Duration = Duration::from_secs(10);
/// How much longer its thread may take than calls and farewell: to kill what has not ended, and to read the last of it.
const SPARE: Duration = Duration::from_secs(2);

/// One worker.
pub struct Worker {
    /// What the operator configured.
    pub config: Arc<Config>,
    /// Where the calls come from.
    pub line: Arc<Line>,
    /// What its hooks know of logins.
    pub kept: Arc<Kept>,
    /// The broker.
    pub host: Host,
    /// Which of the pool.
    pub index: u32,
    /// Where its first process says that it is ready.
    pub first: Option<SyncSender<Result<Ready, String>>>,
    /// Answers that were wrong, or said what went wrong.
    pub wrong: u64,
    /// Calls that were not answered in time.
    pub late: u64,
}

impl Worker {
    /// Its name in the log.
    pub fn name(&self) -> String {
        format!("{}/{}", self.config.driver.name(), self.index)
    }

    /// How long its thread may take from when the plugin is to end: what has been asked is answered, and the process says farewell.
    pub fn patience(config: &Config) -> Duration {
        config.call_timeout + config.farewell_timeout + SPARE
    }

    /// Until the plugin ends.
    pub fn run(mut self) {
        let _loaded = self.line.figures.loaded();
        let mut pause = BACKOFF.0;
        loop {
            let began = Instant::now();
            let End::Lost(lost) = self.serve() else { return };
            let again = self.starts_again();
            if let Some(first) = self.first.take() {
                // `load` has the text for the operator; nothing is mounted.
                let _ = first.send(Err(lost));
                return;
            }
            let name = self.name();
            if self.is_stopping() && !self.line.is_asked() {
                self.host.error(format_args!("{name} {lost}; it was about to end"));
                return self.fail_all(self.line.cut(false));
            }
            if !again {
                self.host.error(format_args!("{name} {lost}; it stays away, as auto_reconnect is off"));
                return;
            }
            if began.elapsed() > SETTLED {
                pause = BACKOFF.0;
            }
            self.host.error(format_args!("{name} {lost}; it is started anew in {} ms", pause.as_millis()));
            if self.rest(pause) {
                return self.fail_all(self.line.cut(false));
            }
            pause = (pause * 2).min(BACKOFF.1);
            self.line.figures.restarted();
        }
    }

    /// Whether the plugin is to end.
    pub fn is_stopping(&self) -> bool {
        self.host.wait_stop(Duration::ZERO)
    }

    /// Waits without a process; whether the plugin is to end, and nobody waits for an answer of the next one.
    fn rest(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stops = self.host.wait_stop(left.min(LINE_LOOK));
            self.fail_overdue();
            if stops && !self.line.is_asked() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            if stops {
                // That has waited for nothing.
                std::thread::park_timeout(left.min(LINE_LOOK));
            }
        }
    }

    /// What has waited on the line for longer than an answer may take ends by policy.
    pub fn fail_overdue(&mut self) {
        let Some(before) = Instant::now().checked_sub(self.config.call_timeout) else { return };
        for asked in self.line.overdue(before) {
            self.fail_late(asked.ticket);
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
        self.line.figures.timed_out();
        fail(&self.line.figures, ticket);
    }

    /// Whether another process follows the one that ends.
    fn starts_again(&self) -> bool {
        self.config.auto_reconnect && self.first.is_none()
    }

    /// Whether calls that come while no process runs wait for the next one.
    pub fn waits_for_the_next(&self) -> bool {
        self.starts_again() && self.config.while_down == WhileDown::Wait
    }

    /// What was on the line ends by policy.
    pub fn fail_all(&self, calls: Calls) {
        let told = calls.ends.len() - calls.asked.len();
        self.line.figures.dropped(told);
        for asked in calls.asked {
            fail(&self.line.figures, asked.ticket);
        }
    }

    fn serve(&mut self) -> End {
        let process = match Process::start(&self.config) {
            Ok(process) => process,
            Err(error) => {
                if !self.waits_for_the_next() {
                    self.fail_all(self.line.cut(false));
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

/// A call that got no answer, or a wrong one.
pub fn fail(figures: &Figures, ticket: Ticket) {
    figures.failed();
    ticket.fail();
}
