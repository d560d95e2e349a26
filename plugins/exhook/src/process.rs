//! A worker's process: its start, its socket and its pipes. It is killed when the broker dies, and
//! inherits no other descriptor of the broker.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::config::{Config, Driver, OWN_PREFIX, Variable};

/// Variables of the broker's environment that every worker gets, besides `LC_…`: user, folders and
/// locale.
const PASSED_ON: [&str; 11] = [
    "HOME",
    "JAVA_HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
];

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Frames in both directions; non-blocking.
    pub socket: UnixStream,
    /// Its standard output.
    pub stdout: ChildStdout,
    /// Its standard error.
    pub stderr: ChildStderr,
}

impl Process {
    /// Starts a process.
    ///
    /// # Errors
    /// A sentence that names the program.
    pub fn start(config: &Config) -> Result<Process, String> {
        let program = &config.program;
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound if config.driver == Driver::Java => {
                format!(
                    "there is no {}: install Java 17 or newer, or say where it is with `java`",
                    program.display()
                )
            }
            io::ErrorKind::NotFound => format!(
                "there is no {}: install Python 3.10 or newer, or say where it is with `python`",
                program.display()
            ),
            _ => format!("cannot start {}: {error}", program.display()),
        };
        let (socket, theirs) = UnixStream::pair().map_err(cannot)?;
        socket.set_nonblocking(true).map_err(cannot)?;
        let mut command = Command::new(program);
        command
            .args(&config.arguments)
            .current_dir(&config.working_directory)
            .env_clear()
            .envs(environment(config, std::env::vars_os()))
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal to the broker's process group, such as Ctrl-C in its terminal, is for the
            // broker: the broker ends workers itself.
            .process_group(0);
        let theirs: OwnedFd = theirs.into();
        let passed = if config.driver == Driver::Java {
            // Java can only use an inherited socket as its standard input.
            command.env("GRAPNEL_WORKER_FD", "0").stdin(theirs);
            None
        } else {
            command.env("GRAPNEL_WORKER_FD", theirs.as_raw_fd().to_string());
            Some(theirs)
        };
        // SAFETY: between fork and exec only system calls are made, on a descriptor that is open there and a set of signals.
        unsafe {
            command.pre_exec(move || {
                // A service manager may signal all processes of a service before the worker can
                // handle it.
                block_signals()?;
                if let Some(fd) = &passed {
                    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
                }
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(cannot)?;
        drop(command);
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("cannot read what {} prints", program.display()));
        };
        for pipe in [rustix::fd::AsFd::as_fd(&stdout), rustix::fd::AsFd::as_fd(&stderr)] {
            let flags = rustix::fs::fcntl_getfl(pipe).map_err(|error| cannot(error.into()))?;
            rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)
                .map_err(|error| cannot(error.into()))?;
        }
        Ok(Process { child, socket, stdout, stderr })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits at most `patience` until it has ended, then kills it.
    pub fn end(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        while self.ended().is_none() {
            if Instant::now() >= until {
                // It may have ended meanwhile.
                let _ = self.child.kill();
                return self.child.wait().ok();
            }
            let left = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(5));
            std::thread::park_timeout(left);
        }
        self.ended()
    }
}

/// Blocks the termination signals, which are for the broker. Called between fork and exec.
fn block_signals() -> rustix::io::Result<()> {
    // SAFETY: a set is plain data, which `sigemptyset` fills before it is read, and all of these are safe after fork.
    let failed = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(rustix::io::Errno::from_raw_os_error(failed)) }
}

/// The environment of a worker, based on that of the broker.
fn environment(
    config: &Config,
    ours: impl Iterator<Item = (OsString, OsString)>,
) -> BTreeMap<OsString, OsString> {
    let wanted = |name: &str| {
        let is_named = |each: &Variable| matches!(each, Variable::PassedOn(wanted) if wanted == name);
        let everybodys = PASSED_ON.contains(&name) || name.starts_with("LC_");
        everybodys || config.environment.iter().any(is_named)
    };
    let passed_on = ours
        .filter(|(name, _)| name.to_str().is_some_and(|name| wanted(name) && !name.starts_with(OWN_PREFIX)));
    let set = config.environment.iter().filter_map(|each| match each {
        Variable::Set(name, value) => Some((name.into(), value.into())),
        Variable::PassedOn(_) => None,
    });
    passed_on.chain(set).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::config::RawConfig;

    #[test]
    fn a_worker_gets_only_the_configured_environment() {
        let written = json!({
            "driver": "python3",
            "path": "/tmp",
            "environment": ["PGHOST", "TZ=UTC", "MISSING", "EMPTY="],
        });
        let written: RawConfig = serde_json::from_value(written).unwrap();
        let config = written.read(None).unwrap().remove(0);
        let ours = [
            ("HOME", "/root"),
            ("LC_ALL", "C"),
            ("PGHOST", "db"),
            ("PGPASSWORD", "secret"),
            ("PYTHONPATH", "."),
            ("PYTHONSTARTUP", "x.py"),
            ("CLASSPATH", "."),
            ("JAVA_TOOL_OPTIONS", "-javaagent:x.jar"),
            ("LD_PRELOAD", "x.so"),
            ("TZ", "CET"),
            ("GRAPNEL_STATE_DIR", "/x"),
            ("NOTIFY_SOCKET", "/run/x"),
        ];
        let ours = ours.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let theirs = environment(&config, ours.into_iter());
        let expected = [("EMPTY", ""), ("HOME", "/root"), ("LC_ALL", "C"), ("PGHOST", "db"), ("TZ", "UTC")];
        assert_eq!(theirs, expected.map(|(name, value)| (name.into(), value.into())).into());
    }
}
