//! A supervised process: its output is stored line by line, every wait is bounded, and it ends with
//! the test. Used for brokers and third-party clients.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    open_pipes: usize,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A running program. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    status: Option<ExitStatus>,
    input: Option<Sender<Vec<u8>>>,
}

/// A program and its arguments, to be started by [`Process::start`]. Its output is line-buffered.
/// The kernel kills it when the thread that started it ends, so that an aborted test leaves nothing
/// behind.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "stdbuf", "-oL"]).arg(program);
    command
}

impl Process {
    /// Starts `command` with its input closed (or fed with `input`) and collects its output.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(name: &str, command: Command, input: Option<&[u8]>) -> Process {
        let mut process =
            Process::spawn(name, command, if input.is_some() { Stdio::piped() } else { Stdio::null() });
        if let Some(bytes) = input {
            process.write(bytes.to_vec());
            process.input = None;
        }
        process
    }

    /// Starts `command` with an input that [`Process::write`] feeds, until the process is dropped.
    ///
    /// # Panics
    /// As [`Process::start`].
    pub fn start_listening(name: &str, command: Command) -> Process {
        Process::spawn(name, command, Stdio::piped())
    }

    /// Starts `command` with its input closed and its standard error in `stderr`; its standard
    /// output is collected.
    ///
    /// # Panics
    /// As [`Process::start`].
    pub fn start_with_stderr(name: &str, command: Command, stderr: Stdio) -> Process {
        Process::spawn_with_stderr(name, command, Stdio::null(), stderr)
    }

    fn spawn(name: &str, command: Command, stdin: Stdio) -> Process {
        Process::spawn_with_stderr(name, command, stdin, Stdio::piped())
    }

    fn spawn_with_stderr(name: &str, mut command: Command, stdin: Stdio, stderr: Stdio) -> Process {
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        // The command holds copies of the descriptors; the write end of a pipe must belong to the
        // program alone.
        drop(command);
        let output = Arc::new(Output::default());
        let stderr = child.stderr.take();
        output.lock().open_pipes = if stderr.is_some() { 2 } else { 1 };
        collect(child.stdout.take().expect("piped above"), Arc::clone(&output));
        if let Some(stderr) = stderr {
            collect(stderr, Arc::clone(&output));
        }
        let input = child.stdin.take().map(|mut pipe| {
            let (sender, receiver) = channel::<Vec<u8>>();
            // A thread, because a program that does not read would block the test; a broken pipe is
            // visible in the exit status.
            std::thread::spawn(move || receiver.iter().try_for_each(|bytes| pipe.write_all(&bytes)));
            sender
        });
        Process { name: name.to_owned(), child, output, status: None, input }
    }

    /// Writes to the input of a process that [`Process::start_listening`] started; returns at once.
    ///
    /// # Panics
    /// If it was started otherwise.
    pub fn write(&self, bytes: Vec<u8>) {
        let input = self.input.as_ref().expect("started with an input");
        // An error means that the program has ended, which its missing output shows.
        let _ = input.send(bytes);
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output and standard error so far.
    pub fn log(&self) -> String {
        self.output.lock().all.join("\n")
    }

    /// All lines so far that `pick` accepts.
    pub fn lines<T>(&self, pick: impl Fn(&str) -> Option<T>) -> Vec<T> {
        self.output.lock().all.iter().filter_map(|line| pick(line)).collect()
    }

    /// Waits for a line that `pick` accepts. Returns the result of `pick` for the first one.
    ///
    /// # Panics
    /// If none appears in time or the program ends without it; the message contains its output.
    #[track_caller]
    pub fn wait_for_line<T>(&self, what: &str, timeout: Duration, pick: impl Fn(&str) -> Option<T>) -> T {
        self.wait_for_lines(what, 1, timeout, pick).remove(0)
    }

    /// Waits for `count` lines that `pick` accepts. Returns its results for all that are there by
    /// then.
    ///
    /// # Panics
    /// As [`Process::wait_for_line`].
    #[track_caller]
    pub fn wait_for_lines<T>(
        &self,
        what: &str,
        count: usize,
        timeout: Duration,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.output.lock();
        loop {
            let found: Vec<T> = lines.all.iter().filter_map(|line| pick(line)).collect();
            if found.len() >= count {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.open_pipes == 0 {
                let end = if lines.open_pipes == 0 { "it ended" } else { "the time was up" };
                let log = lines.all.join("\n");
                panic!(
                    "{}: {} of {count} lines with {what} when {end}; it printed:\n{log}",
                    self.name,
                    found.len()
                );
            }
            lines = self
                .output
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the next line that `pick` accepts, from the line number `from` on, which is
    /// advanced past it; `None` when the time is over or the program has ended. Reads no line
    /// twice, for long dialogues.
    pub fn next_line<T>(
        &self,
        from: &mut usize,
        timeout: Duration,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.output.lock();
        loop {
            while let Some(line) = lines.all.get(*from) {
                *from += 1;
                if let Some(found) = pick(line) {
                    return Some(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.open_pipes == 0 {
                return None;
            }
            lines = self
                .output
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Sends a signal to this process.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // An error means that it has just ended, which `wait` reports.
            let _ = kill_process(self.pid(), signal);
        }
    }

    /// Waits for its end and the last of its output; `None` when the time is over.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        if self.status.is_none() {
            if !exits_within(self.pid(), timeout) {
                return None;
            }
            self.status = Some(self.child.wait().expect("our own child, not yet waited for"));
        }
        let mut lines = self.output.lock();
        while lines.open_pipes > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            lines = self
                .output
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        self.status
    }

    /// Waits until it has ended, and leaves its status for [`Process::wait`].
    ///
    /// # Panics
    /// If it does not end in time; the message contains its output.
    #[track_caller]
    pub fn wait_for_ending(&self, timeout: Duration) {
        assert!(exits_within(self.pid(), timeout), "{} does not end:\n{}", self.name, self.log());
    }

    /// Waits for its end and checks the status. Returns its output.
    ///
    /// # Panics
    /// If it does not end in time, or with another status than 0; the message contains its output.
    #[track_caller]
    pub fn succeed(&mut self, timeout: Duration) -> String {
        let status = self.wait(timeout);
        let log = self.log();
        assert!(
            status.is_some_and(|s| s.success()),
            "{} ended with {status:?} and printed:\n{log}",
            self.name
        );
        log
    }

    /// Kills it like `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.wait(Duration::from_secs(10));
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
        }
    }
}

fn exits_within(pid: Pid, timeout: Duration) -> bool {
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let timeout = Timespec::try_from(timeout).expect("test timeouts are short");
    let mut watched = [PollFd::new(&descriptor, PollFlags::IN)];
    matches!(poll(&mut watched, Some(&timeout)), Ok(1))
}

fn collect(pipe: impl Read + Send + 'static, output: Arc<Output>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            output.lock().all.push(text);
            output.changed.notify_all();
            line.clear();
        }
        output.lock().open_pipes -= 1;
        output.changed.notify_all();
    });
}
