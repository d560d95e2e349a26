//! Serves one process: sends it the queued calls, puts its answers into their tickets, and logs
//! what it prints, until it ends or the plugin ends. Runs on the worker's thread.

mod received;

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{HookPoint, Level, counted};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::call_queue::PendingCalls;
use crate::frame::Frame;
use crate::printed::{Lines, Printed};
use crate::process::Process;
use crate::wire;
use crate::worker::Worker;

pub use received::ReadResult;

/// Most unfinished calls that a worker may have.
const SENT_MAX: u64 = 4096;
/// How often the thread checks whether the plugin is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How often it checks for overdue calls in the queue while the worker takes nothing.
pub const QUEUE_CHECK_EVERY: Duration = Duration::from_millis(20);
/// How long a process may take to end after it has closed its socket, and how long its last output
/// is read.
const LAST: Duration = Duration::from_millis(200);
/// Most printed lines that are shown as the reason why a worker was never ready.
const EARLY_LINES_MAX: usize = 20;
/// Bytes per read.
const READ: usize = 64 << 10;
/// Most reads of a worker's output in one turn.
const PRINT_READS: usize = 16;

/// Why a process is no longer served.
pub enum End {
    /// The plugin is to end.
    Stop,
    /// Another process is to replace it; that one has received nothing yet.
    Renewed,
    /// The process has ended or was ended, with the reason.
    Lost(String),
}

/// A process that is being served.
pub struct Serving<'w> {
    pub(crate) worker: &'w mut Worker,
    pub(crate) process: Process,
    pub(crate) out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    /// The calls of the frame that is being sent.
    frame: Frame,
    /// Calls that the process has received and not finished.
    open: u64,
    /// When it last finished something, or received the first of its present calls.
    last_progress: Instant,
    pending: PendingCalls,
    /// Since when the plugin is to end.
    stopping: Option<Instant>,
    /// Whether the worker may still write into its socket.
    pub(crate) is_open: bool,
    /// When the queue is checked next.
    queue_check: Instant,
    ready: bool,
    /// Number of this process. The queue has the next process's number as soon as this one has
    /// ended.
    epoch: u64,
    /// Whether it may store login data.
    stores_logins: bool,
    printed: [Printed; 2],
    pub(crate) lines: Lines,
    /// What it printed to stderr before it was ready, unless it has reported itself why it cannot
    /// run.
    pub early_output: Option<Vec<String>>,
    buffer: Vec<u8>,
}

impl<'w> Serving<'w> {
    /// A process that has just been started.
    pub fn new(worker: &'w mut Worker, process: Process) -> Serving<'w> {
        let (lines, epoch) = (Lines::new(worker.host, worker.name()), worker.queue.epoch());
        Serving {
            worker,
            lines,
            process,
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            frame: Frame::new(epoch),
            open: 0,
            last_progress: Instant::now(),
            pending: PendingCalls::new(),
            stopping: None,
            is_open: true,
            queue_check: Instant::now(),
            ready: false,
            epoch,
            stores_logins: false,
            printed: Default::default(),
            early_output: Some(Vec::new()),
            buffer: vec![0; READ],
        }
    }

    /// Sends the first frame: names, settings and options.
    pub fn send_first_frame(&mut self) {
        let Worker { config, index, .. } = &*self.worker;
        let name = self.worker.name();
        wire::frame(&mut self.out, |out| {
            out.list(2).number(0_u64).map(15);
            out.text("protocol").number(1_u64);
            out.text("driver").text(config.driver.name());
            let paths: Vec<_> = config.paths.iter().map(|path| path.to_string_lossy()).collect();
            out.text("path").list(paths.len());
            for path in &paths {
                out.text(path);
            }
            out.text("init_module").text(&config.init_module);
            out.text("config").json(&serde_json::Value::Object(config.options.clone()));
            out.text("worker").text(&name);
            out.text("index").number(*index);
            out.text("pool_size").number(config.pool_size);
            out.text("frame_bytes_max").number(config.frame_bytes_max as u64);
            out.text("call_timeout_ms").number(config.call_timeout.as_millis() as u64);
            out.text("farewell_timeout_ms").number(config.shutdown_timeout.as_millis() as u64);
            out.text("node").text(&config.node);
            out.text("version").text(env!("CARGO_PKG_VERSION"));
            out.text("running").flag(self.worker.has_started());
            out.text("points").map(HookPoint::ALL.len());
            for point in HookPoint::ALL {
                out.text(point.name()).number(*point as u64);
            }
        });
    }

    /// Serves the process until its end.
    pub fn turns(&mut self) -> End {
        let began = Instant::now();
        loop {
            let now = Instant::now();
            if self.worker.host.wait_stop(Duration::ZERO) {
                // Calls that were sent are finished first: after a reload the next version has
                // other workers. After this time no request is pending, and notifications have had
                // their time.
                let since = *self.stopping.get_or_insert(now);
                if self.is_idle() || now - since > self.worker.config.call_timeout {
                    return End::Stop;
                }
            }
            if !self.ready && now - began > self.worker.config.start_timeout {
                return End::Lost("was not ready in time".to_owned());
            }
            self.time_out(now);
            if self.worker.queue.renews() {
                if !self.ready {
                    self.worker.queue.goes_on();
                } else if self.has_nothing() {
                    return End::Renewed;
                }
            }
            if self.open > 0 && now - self.last_progress > self.worker.config.call_timeout {
                return End::Lost(format!(
                    "has not done anything for {} ms and is killed",
                    self.worker.config.call_timeout.as_millis()
                ));
            }
            self.fill();
            if !self.send() {
                // Its last messages contain the reason.
                return End::Lost(self.receive_all().err().unwrap_or_else(|| self.exit_reason()));
            }
            self.wait(now);
            match self.receive() {
                Ok(ReadResult::Nothing | ReadResult::Something) => {}
                Ok(ReadResult::End) => return End::Lost(self.exit_reason()),
                Err(error) => return End::Lost(error),
            }
            self.print(PRINT_READS);
        }
    }

    /// Whether nothing is pending, neither here nor at the worker.
    fn is_idle(&self) -> bool {
        if !self.ready {
            return !self.worker.queue.has_pending();
        }
        // A call that waits for something else counts as done before its answer comes.
        self.has_nothing() && self.worker.queue.sleeps()
    }

    /// Whether the worker has finished and answered all that it received.
    fn has_nothing(&self) -> bool {
        self.out.is_empty() && self.open == 0 && self.pending.is_empty()
    }

    /// Builds the next frame, once the one before has been sent.
    fn fill(&mut self) {
        if !self.ready || !self.out.is_empty() || self.open >= SENT_MAX {
            return;
        }
        let Worker { queue: line, logins: kept, .. } = &*self.worker;
        let (calls, bytes) = self.frame.fill(line, kept, &mut self.pending);
        if calls == 0 {
            return;
        }
        wire::frame(&mut self.out, |out| {
            out.list(2).number(1_u64).list(calls);
            out.0.extend_from_slice(bytes);
        });
        if self.open == 0 {
            self.last_progress = Instant::now();
        }
        self.open += calls as u64;
        self.worker.queue.stats.called(calls);
    }

    /// Sends as much as the socket takes. Returns false if the worker takes no more.
    pub(crate) fn send(&mut self) -> bool {
        while self.sent < self.out.len() {
            match self.process.socket.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        self.out.clear();
        self.sent = 0;
        self.worker.queue.release(&mut self.frame.calls);
        true
    }

    fn exit_reason(&mut self) -> String {
        match self.process.end(LAST) {
            Some(status) => format!("has ended ({status})"),
            None => "has ended".to_owned(),
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self, now: Instant) {
        // From here on a call wakes this thread, unless one has come meanwhile or there is no room
        // for it.
        let is_given = self.ready && !self.worker.queue.renews();
        let could = is_given && self.out.is_empty() && self.open < SENT_MAX;
        let mut until = now + if could && self.stopping.is_none() { LOOK } else { QUEUE_CHECK_EVERY };
        if let Some(first) = self.pending.first() {
            until = until.min(first.since + self.worker.config.call_timeout);
        }
        let more = could && !self.worker.queue.sleeps();
        let left = if more { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
        self.poll(left);
    }

    /// Sleeps for at most `left`, until the worker has sent or printed something or takes more, or
    /// calls have come.
    pub(crate) fn poll(&self, left: Duration) {
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let socket = if self.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let wake = self.worker.queue.wake_fd();
        let pipes = [self.process.stdout.as_fd(), self.process.stderr.as_fd()];
        let mut fds = [wake; 4].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let mut open = 1;
        // `poll` would report a closed socket all the time.
        if self.is_open {
            fds[open] = PollFd::new(&self.process.socket, socket);
            open += 1;
        }
        for (pipe, _) in pipes.into_iter().zip(&self.printed).filter(|(_, printed)| !printed.closed) {
            fds[open] = PollFd::from_borrowed_fd(pipe, PollFlags::IN);
            open += 1;
        }
        // A signal or a superfluous wake costs one turn.
        let _ = rustix::event::poll(&mut fds[..open], Some(&timeout));
        let _ = rustix::io::read(wake, &mut [0; 8]);
    }

    fn time_out(&mut self, now: Instant) {
        if now >= self.queue_check {
            self.queue_check = now + QUEUE_CHECK_EVERY;
            self.worker.run_periodic_work(now);
        }
        let Some(before) = now.checked_sub(self.worker.config.call_timeout) else { return };
        // They are in the order of their numbers, which is that of time.
        while let Some(first) = self.pending.pop_overdue(before) {
            self.worker.fail_late(first.ticket);
        }
    }

    /// Logs what it has printed, in at most `times` reads. Returns whether there was something.
    pub(crate) fn print(&mut self, times: usize) -> bool {
        let ([out, err], lines) = (&mut self.printed, &mut self.lines);
        let printed = out.read(&mut self.process.stdout, (&mut self.buffer, times), |line| {
            lines.log(Level::Info, line);
        });
        let early_output = &mut self.early_output;
        let complained = err.read(&mut self.process.stderr, (&mut self.buffer, times), |line| {
            lines.log(Level::Warn, line);
            if let Some(words) = early_output.as_mut().filter(|words| words.len() < EARLY_LINES_MAX) {
                words.push(line.to_owned());
            }
        });
        printed || complained
    }

    /// As `print`, and an unterminated last line too.
    pub(crate) fn print_rest(&mut self) {
        self.print(PRINT_READS);
        let ([out, err], lines) = (&mut self.printed, &mut self.lines);
        out.unterminated(|line| lines.log(Level::Info, line));
        err.unterminated(|line| lines.log(Level::Warn, line));
        lines.end_shutdown();
    }

    /// Ends the process, and fails its pending requests by policy. The queue is closed or handed on
    /// before any client gets a result: what a client does then, and calls that were not sent, are
    /// for the next process, if there is one to wait for.
    pub fn over(&mut self, end: &End) {
        let (stops, is_renewed) = (matches!(end, End::Stop), matches!(end, End::Renewed));
        let waits = is_renewed || !stops && self.worker.waits_for_the_next();
        if waits && self.ready {
            // The process ignores an incomplete frame.
            let rest = std::mem::take(&mut self.frame.calls);
            let mut pending = PendingCalls::new();
            for call in &rest {
                self.pending.remove(call.id).map(|waits| pending.insert(call.id, waits));
            }
            self.worker.queue.put_back(rest, pending);
        } else if !waits {
            // At a shutdown, the rest of a frame is still sent; otherwise its calls are dropped.
            let here = if stops { Vec::new() } else { std::mem::take(&mut self.frame.calls) };
            let notified = self.worker.fail_remaining(here);
            if stops && notified > 0 {
                let name = self.worker.name();
                let events = counted(notified, "event");
                self.worker.host.warn(format_args!("{name} has ended, and {events} were not sent to it"));
            }
        }
        self.worker.fail_all(std::mem::take(&mut self.pending));
        if (stops || is_renewed) && self.ready {
            self.shut_down();
        } else {
            self.process.end(Duration::ZERO);
        }
        // An error in the last messages no longer matters.
        let _ = self.receive_all();
        self.print_rest();
    }
}
