//! The thread of one worker: it starts the process, sends it what waits on the line, puts its answers into their tickets, writes
//! what it prints into the log, and starts it anew when it has ended. No shard ever waits for it.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{HookPoint, Host, Level};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::command;
use crate::config::Config;
use crate::figures::Figures;
use crate::line::{Asked, Calls, Line};
use crate::printed::{Lines, Printed};
use crate::process::Process;
use crate::verdict::Ticket;
use crate::wire::{self, Answer, HEAD, Ready, Said};

/// Most calls of one frame.
const FRAME_CALLS_MAX: usize = 512;
/// Most bytes of one frame, but for a single call that is longer.
const FRAME_BYTES_MAX: usize = 256 << 10;
/// Most calls that a worker has been sent and is not done with.
const SENT_MAX: u64 = 4096;
/// How soon a worker is started anew, and how slowly at the slowest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A worker that has run for so long begins with the shortest pause again.
const SETTLED: Duration = Duration::from_secs(10);
/// How often the thread looks whether the plugin is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How often it looks whether something has waited on the line for too long, where the worker takes nothing.
const LINE_LOOK: Duration = Duration::from_millis(20);
/// How long a worker may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most lines of what a worker printed that are given as the reason why it was never ready.
const FIRST_WORDS_MAX: usize = 20;
/// Bytes read at once.
const READ: usize = 64 << 10;

/// One worker.
pub struct Worker {
    /// What the operator configured.
    pub config: Arc<Config>,
    /// Where the calls come from.
    pub line: Arc<Line>,
    /// The broker.
    pub host: Host,
    /// Which of the pool.
    pub index: u32,
    /// Where its first process says that it is ready.
    pub first: Option<SyncSender<Result<Ready, String>>>,
    /// Answers that were wrong, or said what went wrong.
    pub wrong: u64,
}

/// Why a process is served no longer.
enum End {
    /// The plugin is to end.
    Stop,
    /// It ended, or had to.
    Lost(String),
}

impl Worker {
    /// Its name in the log.
    pub fn name(&self) -> String {
        format!("{}/{}", self.config.driver.name(), self.index)
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
            if !again {
                self.host.error(format_args!("{name} {lost}; it stays away, as auto_reconnect is off"));
                return;
            }
            if began.elapsed() > SETTLED {
                pause = BACKOFF.0;
            }
            self.host.error(format_args!("{name} {lost}; it is started anew in {} ms", pause.as_millis()));
            if self.rest(pause) {
                self.fail_all(self.line.cut(false));
                return;
            }
            pause = (pause * 2).min(BACKOFF.1);
            self.line.figures.restarted();
        }
    }

    /// Waits without a process; whether the plugin is to end.
    fn rest(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.host.wait_stop(left.min(LINE_LOOK)) {
                return true;
            }
            self.fail_overdue();
            if left.is_zero() {
                return false;
            }
        }
    }

    /// What has waited on the line for longer than an answer may take ends by policy.
    fn fail_overdue(&self) {
        let Some(before) = Instant::now().checked_sub(self.config.call_timeout) else { return };
        for asked in self.line.overdue(before) {
            self.line.figures.timed_out();
            fail(&self.config, &self.line.figures, asked.ticket);
        }
    }

    /// Whether another process follows the one that ends.
    fn starts_again(&self) -> bool {
        self.config.auto_reconnect && self.first.is_none()
    }

    /// What was on the line ends by policy.
    fn fail_all(&self, calls: Calls) {
        let told = calls.ends.len() - calls.asked.len();
        self.line.figures.dropped(told);
        for asked in calls.asked {
            fail(&self.config, &self.line.figures, asked.ticket);
        }
    }

    fn serve(&mut self) -> End {
        let process = match Process::start(&self.config) {
            Ok(process) => process,
            Err(error) => {
                self.fail_all(self.line.cut(self.starts_again()));
                return End::Lost(error);
            }
        };
        let mut serving = Serving::new(self, process);
        serving.introduce();
        let end = serving.turns();
        serving.say_what_is_printed();
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
fn fail(config: &Config, figures: &Figures, ticket: Ticket) {
    figures.failed();
    let policy = config.policy(ticket.point());
    ticket.fail(policy);
}

/// A process that is being served.
struct Serving<'w> {
    worker: &'w mut Worker,
    process: Process,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    /// Taken from the line and not sent yet; `next` of them are.
    batch: Calls,
    next: usize,
    /// Calls it was sent and is not done with.
    open: u64,
    /// When it was last done with something, or was given the first of what it has.
    heard: Instant,
    asked: HashMap<u64, (Instant, Ticket)>,
    /// The same in the order in which they time out.
    due: VecDeque<(Instant, u64)>,
    /// Since when the plugin is to end.
    stopping: Option<Instant>,
    /// When the line is looked at next.
    line_look: Instant,
    ready: bool,
    printed: [Printed; 2],
    lines: Lines,
    /// What it printed as errors before it was ready, unless it has said itself why it cannot be.
    first_words: Option<Vec<String>>,
    buffer: Vec<u8>,
}

impl<'w> Serving<'w> {
    fn new(worker: &'w mut Worker, process: Process) -> Serving<'w> {
        let lines = Lines::new(worker.host, worker.name());
        Serving {
            worker,
            lines,
            process,
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            batch: Calls::default(),
            next: 0,
            open: 0,
            heard: Instant::now(),
            asked: HashMap::new(),
            due: VecDeque::new(),
            stopping: None,
            line_look: Instant::now(),
            ready: false,
            printed: Default::default(),
            first_words: Some(Vec::new()),
            buffer: vec![0; READ],
        }
    }

    fn introduce(&mut self) {
        let Worker { config, index, .. } = &*self.worker;
        let name = self.worker.name();
        wire::frame(&mut self.out, |out| {
            out.list(2).number(0_u64).map(13);
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
            out.text("node").text(&config.node);
            out.text("version").text(env!("CARGO_PKG_VERSION"));
            out.text("points").map(HookPoint::ALL.len());
            for point in HookPoint::ALL {
                out.text(point.name()).number(*point as u64);
            }
        });
    }

    fn turns(&mut self) -> End {
        let began = Instant::now();
        loop {
            let now = Instant::now();
            if self.worker.host.wait_stop(Duration::ZERO) {
                // What was begun is brought to its end: after a reload the next version has other workers.
                let since = *self.stopping.get_or_insert(now);
                if self.is_idle() || now - since > FAREWELL {
                    return End::Stop;
                }
            }
            if !self.ready && now - began > self.worker.config.start_timeout {
                return End::Lost("was not ready in time".to_owned());
            }
            self.time_out(now);
            if self.open > 0 && now - self.heard > self.worker.config.call_timeout {
                return End::Lost(format!(
                    "has not done anything for {} ms and is killed",
                    self.worker.config.call_timeout.as_millis()
                ));
            }
            self.fill();
            if let Err(error) = self.send() {
                return End::Lost(error);
            }
            self.wait(now);
            match self.receive() {
                Ok(()) => {}
                Err(error) => return End::Lost(error),
            }
            self.print();
        }
    }

    /// Whether nothing is under way, neither here nor at the worker.
    fn is_idle(&self) -> bool {
        let all_sent = self.out.is_empty() && self.next == self.batch.ends.len();
        !self.ready || (all_sent && self.open == 0 && self.worker.line.sleeps())
    }

    /// Puts the next frame together, once the one before is on its way.
    fn fill(&mut self) {
        if !self.ready || !self.out.is_empty() || self.open >= SENT_MAX {
            return;
        }
        if self.next == self.batch.ends.len() {
            self.batch.bytes.clear();
            self.batch.ends.clear();
            self.batch.asked.clear();
            self.next = 0;
            if !self.worker.line.take(&mut self.batch) {
                return;
            }
            let timeout = self.worker.config.call_timeout;
            for Asked { id, ticket, since } in self.batch.asked.drain(..) {
                self.asked.insert(id, (since, ticket));
                self.due.push_back((since + timeout, id));
            }
        }
        let ends = &self.batch.ends;
        let start = self.next.checked_sub(1).map_or(0, |last| ends[last]);
        let mut until = self.next + 1;
        while until < ends.len()
            && until - self.next < FRAME_CALLS_MAX
            && ends[until] - start <= FRAME_BYTES_MAX
        {
            until += 1;
        }
        let calls = until - self.next;
        let bytes = &self.batch.bytes[start..ends[until - 1]];
        wire::frame(&mut self.out, |out| {
            out.list(2).number(1_u64).list(calls);
            out.0.extend_from_slice(bytes);
        });
        self.next = until;
        if self.open == 0 {
            self.heard = Instant::now();
        }
        self.open += calls as u64;
        self.worker.line.figures.called(calls);
    }

    fn send(&mut self) -> Result<(), String> {
        while self.sent < self.out.len() {
            match self.process.socket.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                // Why it has gone stands in what it says last.
                Err(_) => return self.receive().and(Err(self.gone())),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    fn gone(&mut self) -> String {
        match self.process.end(Duration::from_millis(200)) {
            Some(status) => format!("has ended ({status})"),
            None => "has ended".to_owned(),
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self, now: Instant) {
        // From here on a call wakes this thread, unless one has come meanwhile or there is no room for it.
        let could = self.ready && self.out.is_empty() && self.open < SENT_MAX;
        let mut until = now + if could && self.stopping.is_none() { LOOK } else { LINE_LOOK };
        if let Some((due, _)) = self.due.front() {
            until = until.min(*due);
        }
        let more = could && (self.next < self.batch.ends.len() || !self.worker.line.sleeps());
        let left = if more { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let socket = if self.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let wake = self.worker.line.wake_fd();
        let pipes = [self.process.stdout.as_fd(), self.process.stderr.as_fd()];
        let mut fds = [wake; 4].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        fds[1] = PollFd::new(&self.process.socket, socket);
        let mut open = 2;
        // A pipe that it has closed would be ready for ever.
        for (pipe, _) in pipes.into_iter().zip(&self.printed).filter(|(_, printed)| !printed.closed) {
            fds[open] = PollFd::from_borrowed_fd(pipe, PollFlags::IN);
            open += 1;
        }
        // A signal or a wake too many costs one turn.
        let _ = rustix::event::poll(&mut fds[..open], Some(&timeout));
        let _ = rustix::io::read(wake, &mut [0; 8]);
    }

    fn receive(&mut self) -> Result<(), String> {
        for _ in 0..16 {
            match self.process.socket.read(&mut self.buffer) {
                Ok(0) => {
                    self.frames()?;
                    return Err(self.gone());
                }
                Ok(count) => self.input.extend_from_slice(&self.buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(self.gone()),
            }
            self.frames()?;
        }
        Ok(())
    }

    /// What has come whole.
    fn frames(&mut self) -> Result<(), String> {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(len) = wire::frame_len(&input[at..]) {
            let max = self.worker.config.frame_bytes_max;
            if len > max {
                return Err(format!("sends a frame of {len} bytes, more than frame_bytes_max ({max})"));
            }
            let Some(frame) = input.get(at + HEAD..at + HEAD + len) else { break };
            self.said(wire::read(frame)?)?;
            at += HEAD + len;
        }
        self.input = input;
        self.input.drain(..at);
        Ok(())
    }

    fn said(&mut self, said: Said<'_>) -> Result<(), String> {
        let host = self.worker.host;
        match said {
            Said::Ready(ready) if !self.ready => {
                self.ready = true;
                self.first_words = None;
                let (name, hooks) = (self.worker.name(), ready.hooks.len());
                host.info(format_args!(
                    "{name} is ready: {}, {hooks} hooks, process {}",
                    ready.sdk,
                    self.process.id()
                ));
                if let Some(first) = self.worker.first.take() {
                    let _ = first.send(Ok(ready));
                }
            }
            Said::Failed(text) => {
                self.first_words = None;
                return Err(format!("cannot run: {text}"));
            }
            Said::Answers(answers, done) if self.ready => {
                // What it logs meanwhile is no sign that it does what it was asked.
                if done > 0 || !answers.is_empty() {
                    self.heard = Instant::now();
                }
                self.open = self.open.saturating_sub(done);
                for answer in answers {
                    self.answer(&answer);
                }
            }
            Said::Log(level, text) => {
                let level = match level {
                    1 => Level::Error,
                    2 => Level::Warn,
                    3 => Level::Info,
                    _ => Level::Debug,
                };
                self.lines.say(level, &text);
            }
            Said::Commands(commands) if self.ready => {
                for command in commands {
                    if let Err(error) = command::run(host, &command) {
                        host.warn(format_args!("{}: {error}", self.worker.name()));
                    }
                }
            }
            Said::Ready(_) => return Err("introduced itself twice".to_owned()),
            Said::Answers(..) | Said::Commands(_) => return Err("spoke before it was ready".to_owned()),
        }
        Ok(())
    }

    fn answer(&mut self, answer: &Answer<'_>) {
        // It may have timed out.
        let Some((since, ticket)) = self.asked.remove(&answer.id) else { return };
        self.worker.line.figures.answered(since.elapsed());
        let wrong = match answer.code {
            0 | 1 => ticket.answer(&answer.value, answer.code == 1),
            2 => Err((ticket, format!("failed: {}", wire::text_of(&answer.value).unwrap_or_default()))),
            code => Err((ticket, format!("answered with the unknown code {code}"))),
        };
        if let Err((ticket, text)) = wrong {
            self.worker.wrong += 1;
            // Nothing logs per packet: the first, second, fourth, eighth … failure do.
            if self.worker.wrong.is_power_of_two() {
                let (host, name) = (self.worker.host, self.worker.name());
                host.warn(format_args!("{name} {text} (failure {})", self.worker.wrong));
            }
            fail(&self.worker.config, &self.worker.line.figures, ticket);
        }
    }

    fn time_out(&mut self, now: Instant) {
        if now >= self.line_look {
            self.line_look = now + LINE_LOOK;
            self.worker.fail_overdue();
            let here = self.batch.ends.len() - self.next;
            self.worker.line.figures.waiting(here + self.worker.line.waiting());
        }
        while self.due.front().is_some_and(|(due, id)| *due <= now || !self.asked.contains_key(id)) {
            let Some((_, id)) = self.due.pop_front() else { break };
            if let Some((_, ticket)) = self.asked.remove(&id) {
                self.worker.line.figures.timed_out();
                fail(&self.worker.config, &self.worker.line.figures, ticket);
            }
        }
    }

    fn print(&mut self) {
        let ([out, err], lines) = (&mut self.printed, &mut self.lines);
        out.read(&mut self.process.stdout, &mut self.buffer, |line| lines.say(Level::Info, line));
        let first_words = &mut self.first_words;
        err.read(&mut self.process.stderr, &mut self.buffer, |line| {
            lines.say(Level::Warn, line);
            if let Some(words) = first_words.as_mut().filter(|words| words.len() < FIRST_WORDS_MAX) {
                words.push(line.to_owned());
            }
        });
    }

    /// The last of it, also without an end of line.
    fn say_what_is_printed(&mut self) {
        self.print();
        let ([out, err], lines) = (&mut self.printed, &mut self.lines);
        out.rest(|line| lines.say(Level::Info, line));
        err.rest(|line| lines.say(Level::Warn, line));
        lines.new_second();
    }

    /// Ends the process, and what it was asked by policy. The line is cut before anybody hears of that: what a client does next is
    /// for the next process.
    fn over(&mut self, end: &End) {
        let open = matches!(end, End::Lost(_)) && self.worker.starts_again();
        let waiting = self.worker.line.cut(open);
        for (_, (_, ticket)) in self.asked.drain() {
            fail(&self.worker.config, &self.worker.line.figures, ticket);
        }
        self.worker.fail_all(waiting);
        self.worker.line.figures.dropped(self.batch.ends.len().saturating_sub(self.next));
        if matches!(end, End::Stop) && self.ready {
            self.out.clear();
            wire::frame(&mut self.out, |out| {
                out.list(1).number(2_u64);
            });
            // One that does not read its farewell is ended without.
            let _ = self.process.socket.write(&self.out);
            self.process.end(FAREWELL);
            self.say_what_is_printed();
        } else {
            self.process.end(Duration::ZERO);
        }
    }
}
