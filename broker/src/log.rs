//! The log on standard error. A line that cannot be written is dropped and counted, whatever the
//! reason: a closed pipe, a full disk, or no reader. Started by `program`; `control` shows the
//! count.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::EnvFilter;

/// Bytes that a pipe which can be written to takes without blocking (PIPE_BUF on Linux).
const PIECE_BYTES: usize = 4096;
/// How long a line waits for a pipe that is full. All threads together wait so long at most once in [`PAUSE`]: long enough for a
/// reader that is only slow, short enough for the clients of a shard.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// After a wait, lines that do not fit are lost at once for so long.
const PAUSE: Duration = Duration::from_secs(1);

static LINES_LOST: AtomicU64 = AtomicU64::new(0);
static GATE: Mutex<Gate> = Mutex::new(Gate { waited: None });

/// Lines of the log that could not be written since the start. Any thread.
pub fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Starts the log of this process, once. `GRAPNEL_LOG` in the environment wins over the configured level.
pub fn start(level: &str) {
    let filter = EnvFilter::try_from_env("GRAPNEL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        .with_ansi(io::stderr().is_terminal())
        // It would report with `eprintln!`, which panics where standard error is what has failed.
        .log_internal_errors(false)
        .init();
}

/// Standard error for whole lines; it never fails and never panics.
#[derive(Clone, Copy, Debug)]
struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // After a panic of a writer the gate is as good as before: it holds a time.
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

/// One line at a time, and when a line has last waited.
#[derive(Debug)]
struct Gate {
    waited: Option<Instant>,
}

impl Gate {
    /// Writes all of a line; whether it could.
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

    /// Whether a piece can be written, or fails at once; waits for it where no line has waited lately.
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
    fn a_line_is_written_as_it_is_however_long() {
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
    fn what_cannot_be_written_is_lost() {
        let (reader, writer) = pipe().unwrap();
        drop::<PipeReader>(reader);
        assert!(!gate().put(&writer, b"x\n"));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(!gate().put(&full, b"x\n"));
    }

    #[test]
    fn a_full_pipe_is_waited_for_once_and_written_to_as_soon_as_it_is_read() {
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

    /// `print!` and its like panic where they cannot write; the lints `print_stdout` and `print_stderr` forbid them. What is left
    /// is the streams themselves, which are to be used where an error is seen to be let go.
    #[test]
    fn nobody_else_writes_to_the_standard_streams() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let may = ["log.rs", "program.rs", "ctl/output.rs"];
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
