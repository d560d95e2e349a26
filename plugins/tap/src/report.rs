//! The log lines of tap, made on a separate thread that reads the counters and blocks no shard.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use grapnel_plugin_abi::counted;

use crate::count::{Counts, Total};

/// One line with these totals, the difference to `before`, and the dropped messages by cause.
pub fn line(totals: &[Total], before: &[Total], drops: &[(&str, u64)]) -> String {
    let sum = |totals: &[Total]| {
        totals
            .iter()
            .fold((0, 0), |(messages, bytes), total| (messages + total.messages, bytes + total.bytes))
    };
    let ((messages, bytes), (messages_before, bytes_before)) = (sum(totals), sum(before));
    // Totals of two moments differ: a group may have moved into (other) and back.
    let mut line = format!(
        "{}, {} (since the last report {}, {})",
        counted(messages, "message"),
        counted(bytes, "byte"),
        messages.saturating_sub(messages_before),
        bytes.saturating_sub(bytes_before),
    );
    for (index, total) in totals.iter().enumerate() {
        let separator = if index == 0 { ": " } else { "; " };
        // Writing to a String cannot fail.
        let (messages, bytes) = (counted(total.messages, "message"), counted(total.bytes, "byte"));
        let _ = write!(line, "{separator}{:?} {messages} {bytes}", total.group);
    }
    for (index, (cause, drops)) in drops.iter().enumerate() {
        let separator = if index == 0 { "; dropped: " } else { ", " };
        let _ = write!(line, "{separator}{cause} {drops}");
    }
    line
}

/// The reporting thread. Dropping it writes the last report and ends the thread.
#[derive(Debug)]
pub struct Reporter {
    /// Nothing is sent; dropping the sender ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts periodic reports; zero: only at the end.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        counts: Arc<Counts>,
        every: Duration,
        log: impl Fn(&str) + Send + 'static,
    ) -> std::io::Result<Reporter> {
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            let (mut before, mut drops_before) = (Vec::new(), Vec::new());
            loop {
                let ended = if every.is_zero() {
                    stopped.recv().is_err()
                } else {
                    stopped.recv_timeout(every) == Err(RecvTimeoutError::Disconnected)
                };
                let (totals, drops) = (counts.totals(), counts.drops());
                if ended || totals != before || drops != drops_before {
                    log(&line(&totals, &before, &drops));
                }
                if ended {
                    return;
                }
                (before, drops_before) = (totals, drops);
            }
        };
        let thread = std::thread::Builder::new().name("tap-report".into()).spawn(run)?;
        Ok(Reporter { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic of the thread; nothing must be undone here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Config;
    use crate::count::Counter;

    #[test]
    fn a_report_is_written_if_something_was_counted_and_at_the_end() {
        let config = Config::default();
        let counts = Counts::new(&config, 1);
        let mut counter = Counter::new(&config, Arc::clone(&counts), 0);
        counter.count("a/b", 5);
        counter.count_drop("no_subscribers");
        let (log, lines) = mpsc::channel();
        let reporter =
            Reporter::start(counts, Duration::from_millis(1), move |line| log.send(line.to_owned()).unwrap());
        let first = lines.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(first.starts_with("1 message, 5 bytes (since the last report 1, 5)"), "{first}");
        drop(reporter.unwrap());
        let last = lines.iter().last().unwrap();
        let expected = "1 message, 5 bytes (since the last report 0, 0): \"a\" 1 message 5 bytes; dropped: no_subscribers 1";
        assert_eq!(last, expected);
    }

    #[test]
    fn without_an_interval_only_one_report_is_written_at_the_end() {
        let counts = Counts::new(&Config::default(), 1);
        let (log, lines) = mpsc::channel();
        let reporter =
            Reporter::start(counts, Duration::ZERO, move |line| log.send(line.to_owned()).unwrap());
        drop(reporter.unwrap());
        assert_eq!(lines.iter().collect::<Vec<_>>(), ["0 messages, 0 bytes (since the last report 0, 0)"]);
    }
}
