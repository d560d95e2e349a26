//! The log on standard error. A line that cannot be written is dropped and counted: if the pipe is
//! closed, the disk is full, or nothing reads the pipe. Started by `program`; `control` shows the
//! count.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::EnvFilter;

/// Bytes that a write to a ready pipe takes without blocking (PIPE_BUF on Linux).
const PIECE_BYTES: usize = 4096;
/// How long a line waits for a full pipe. At most one line of all threads waits within [`PAUSE`]:
/// this is enough for a slow reader, and does not delay the clients of a shard for long.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Time after a wait in which lines that do not fit are dropped without waiting.
const PAUSE: Duration = Duration::from_secs(1);

static LINES_LOST: AtomicU64 = AtomicU64::new(0);
static GATE: Mutex<Gate> = Mutex::new(Gate { waited: None });

/// Lines of the log that could not be written since the start. Any thread.
pub fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Changes what is logged while the process runs. Cheap to clone; any thread.
#[derive(Clone)]
pub struct Level {
    /// `None`: `GRAPNEL_LOG` decides.
    filter: Option<Arc<SetFilter>>,
}

type SetFilter = dyn Fn(EnvFilter) -> bool + Send + Sync;

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Level").field("can_change", &self.filter.is_some()).finish()
    }
}

impl Level {
    /// Logs from now on what this level has. Returns whether that is so: not if `GRAPNEL_LOG`
    /// decides what is logged.
    pub fn set(&self, level: &str) -> bool {
        self.filter.as_ref().is_some_and(|set| set(EnvFilter::new(level)))
    }

    /// Whether `GRAPNEL_LOG` decides what is logged.
    pub fn is_fixed(&self) -> bool {
        self.filter.is_none()
    }

    /// One that changes nothing, for tests.
    #[cfg(test)]
    pub(crate) fn fixed() -> Level {
        Level { filter: None }
    }
}

/// Starts the log of this process, once. `GRAPNEL_LOG` in the environment overrides the configured
/// level.
pub fn start(level: &str) -> Level {
    let of_environment = EnvFilter::try_from_env("GRAPNEL_LOG").ok();
    let is_fixed = of_environment.is_some();
    let filter = of_environment.unwrap_or_else(|| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        .with_ansi(io::stderr().is_terminal())
        // The subscriber would report errors with `eprintln!`, which panics if standard error has
        // failed.
        .log_internal_errors(false)
        .with_filter_reloading();
    let handle = log.reload_handle();
    log.init();
    let set = move |filter| handle.reload(filter).is_ok();
    Level { filter: (!is_fixed).then(|| Arc::new(set) as Arc<SetFilter>) }
}

/// Writes whole lines to standard error. It never fails and never panics.
#[derive(Clone, Copy, Debug)]
struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A poisoned lock is used: the gate contains only a time, which is valid after a panic too.
        let mut gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        if !gate.put(&io::stderr(), line) {
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets one line be written at a time, and stores when a line has last waited.
#[derive(Debug)]
struct Gate {
    waited: Option<Instant>,
}

impl Gate {
    /// Writes a whole line. Returns whether that was possible.
    fn put(&mut self, to: &impl AsFd, line: &[u8]) -> bool {
        let mut left = line;
        while !left.is_empty() {
            if !self.takes(to) {
                return false;
            }
            match rustix::io::write(to, &left[..left.len().min(PIECE_BYTES)]) {
                Ok(0) => return false,
                Ok(written) => left = &left[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether a write returns at once, with success or an error. Waits up to [`WAIT`] for that if
    /// no line has waited within [`PAUSE`].
    fn takes(&mut self, to: &impl AsFd) -> bool {
        let ready = |wait: &Timespec| {
            poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(wait)).is_ok_and(|ready| ready > 0)
        };
        if ready(&Timespec { tv_sec: 0, tv_nsec: 0 }) {
            return true;
        }
        if self.waited.is_some_and(|waited| waited.elapsed() < PAUSE) {
            return false;
        }
        let ready = ready(&WAIT);
        self.waited = Some(Instant::now());
        ready
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{PipeReader, Read, pipe};
    use std::path::Path;

    use super::*;

    fn gate() -> Gate {
        Gate { waited: None }
    }

    #[test]
    fn a_line_of_any_length_is_written_unchanged() {
        let (mut reader, writer) = pipe().unwrap();
        let line = [b'x'; PIECE_BYTES * 2 + 1];
        assert!(gate().put(&writer, &line));
        assert!(gate().put(&writer, b""));
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, line);
    }

    #[test]
    fn log_lines_that_cannot_be_written_are_dropped() {
        let (reader, writer) = pipe().unwrap();
        drop::<PipeReader>(reader);
        assert!(!gate().put(&writer, b"x\n"));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(!gate().put(&full, b"x\n"));
    }

    #[test]
    fn a_full_pipe_is_waited_for_once_and_used_again_after_a_read() {
        let (mut reader, writer) = pipe().unwrap();
        let mut gate = gate();
        let piece = [b'x'; PIECE_BYTES];
        while gate.put(&writer, &piece) {}
        let began = Instant::now();
        (0..1000).for_each(|_| assert!(!gate.put(&writer, &piece)));
        assert!(began.elapsed() < PAUSE, "{:?}", began.elapsed());
        reader.read_exact(&mut [0; PIECE_BYTES]).unwrap();
        assert!(gate.put(&writer, &piece));
    }

    /// `print!` and similar macros panic if they cannot write; the lints `print_stdout` and
    /// `print_stderr` forbid them. Direct use of the streams is allowed only in files that ignore
    /// write errors visibly.
    #[test]
    fn only_the_log_writes_to_the_standard_streams() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        // The last one is a test that prints what it measures.
        let may = ["log.rs", "program.rs", "usage.rs", "ctl/output.rs", "transport/tls/tests/measure.rs"];
        let mut folders = vec![source.clone()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if !may.contains(&name.as_str()) {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let words = ["io::stderr", "io::stdout", "println!(", "print!(", "dbg!("];
                    found.extend(
                        words.iter().filter(|word| text.contains(**word)).map(|word| (name.clone(), *word)),
                    );
                }
            }
        }
        assert_eq!(found, []);
    }
}
