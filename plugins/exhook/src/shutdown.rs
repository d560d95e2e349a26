//! Shuts a process down: it finishes its calls, its hooks run their own shutdown, and all its
//! messages and output are read until it has ended. Runs on the worker's thread, after the queue is
//! closed.

use std::time::{Duration, Instant};

use crate::serving::{QUEUE_CHECK_EVERY, ReadResult, Serving};
use crate::wire;

/// Pause while the log is too slow.
const PAUSE: Duration = Duration::from_millis(5);

impl Serving<'_> {
    /// Requests the process to end, and reads its output until it has. Kills it after
    /// `shutdown_timeout`.
    pub(crate) fn shut_down(&mut self) {
        let timeout = self.worker.config.shutdown_timeout;
        let until = Instant::now() + timeout;
        self.lines.begin_shutdown();
        // Sent after the rest of the present frame.
        wire::frame(&mut self.out, |out| {
            out.list(1).number(2_u64);
        });
        let (mut takes, mut wrong, mut status) = (true, None, None);
        loop {
            takes = takes && self.send();
            if !takes {
                self.out.clear();
            }
            // After its end, everything that it sent can be read.
            status = status.or_else(|| self.process.ended());
            let mut more = self.lines.go_on();
            if !more {
                more = self.print(1);
                match self.is_open.then(|| self.receive()) {
                    Some(Ok(came)) => more |= came == ReadResult::Something,
                    Some(Err(error)) => wrong = Some(error),
                    None => {}
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || status.is_some() && !more {
                break;
            }
            if self.lines.go_on() {
                // It has printed more than the log takes.
                std::thread::park_timeout(left.min(PAUSE));
            } else {
                self.poll(left.min(QUEUE_CHECK_EVERY));
            }
        }
        self.process.end(Duration::ZERO);
        let (host, name) = (self.worker.host, self.worker.name());
        if let Some(wrong) = wrong {
            host.warn(format_args!("{name} {wrong} during shutdown; what it says after that is not read"));
        }
        match status {
            Some(status) if status.success() => {}
            Some(status) => host.warn(format_args!("{name} has ended during shutdown ({status})")),
            None => host.warn(format_args!(
                "{name} has not ended within {} ms of the shutdown (farewell_timeout) and is killed; its unfinished work is lost",
                timeout.as_millis()
            )),
        }
    }
}
