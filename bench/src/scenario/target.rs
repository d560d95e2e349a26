//! The measured broker, started by this process or already running; and the CPUs of both. `args`
//! makes a target, `run` uses it. A broker started here is ended, however this process ends.

use super::usage::process;
use super::{Kind, Scenario, Waiting};
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Timeout of a started broker until it accepts a CONNECT, and for its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two attempts to connect to a starting broker.
const PAUSE: Duration = Duration::from_millis(20);
/// Lines shown of a failed broker's log.
const LOG_LINES: usize = 20;
/// Text before the scheme and address that Grapnel prints once it listens.
const LISTENING: &str = "listening on ";

/// A broker, as reports describe it.
#[derive(Debug, Clone, Serialize)]
pub struct Broker {
    /// Its address.
    pub address: SocketAddr,
    /// Its process, if known: needed to measure its CPU time and memory.
    pub pid: Option<u32>,
    /// The command it was started with.
    pub command: Option<String>,
    /// Its CPUs; empty if the system selects them.
    pub cpus: Vec<usize>,
}

/// A broker to be measured.
#[derive(Debug)]
pub struct Target {
    pub broker: Broker,
    process: Option<Process>,
}

/// An unexpected end of a broker.
#[derive(Debug)]
pub struct End {
    /// A sentence about it.
    pub what: String,
    /// The end of its log.
    pub log: String,
}

impl Target {
    /// A broker that runs already.
    pub fn at(address: SocketAddr, pid: Option<u32>) -> Self {
        Self { broker: Broker { address, pid, command: None, cpus: Vec::new() }, process: None }
    }

    /// Starts `command` on these CPUs and waits until it accepts a CONNECT as in
    /// `scenario`. In the command `{listen}` stands for an address with a free port, `{port}` for the port alone,
    /// `{dir}` for a fresh directory, `{scheme}` for how clients connect; without the first two the
    /// broker must print `listening on SCHEME://ADDR:PORT`. Dropping the target ends the broker.
    pub fn start(command: &str, cpus: &[usize], scenario: &Scenario) -> Result<Self> {
        // It inherits our limit of open files; that of a login shell is low for a broker.
        grapnel_floor::descriptors::raise_limit();
        let process = Process::start(command, cpus, scenario.transport.scheme())?;
        let address = process.promised.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let mut target = Self::at(address, Some(process.child.id()));
        (target.broker.command, target.broker.cpus) = (Some(command.to_owned()), cpus.to_vec());
        target.process = Some(process);
        target.await_ready(scenario)?;
        Ok(target)
    }

    fn await_ready(&mut self, wanted: &Scenario) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = format!(
            "it did not say \"listening on {}://ADDR:PORT\"; put {{listen}} or {{port}} into --broker",
            wanted.transport.scheme()
        );
        loop {
            if let Some(end) = self.ended(Duration::ZERO) {
                bail!("the broker did not start: {}\n{}", end.what, end.log);
            }
            let Some(process) = &mut self.process else { return Ok(()) };
            if let Some(addr) = process.address() {
                self.broker.address = addr;
                match connect_once(addr, wanted) {
                    Ok(()) => return Ok(()),
                    Err(error) => last = format!("{error:#}"),
                }
            }
            if Instant::now() >= deadline {
                let log = process.log();
                bail!("the broker accepted no CONNECT within {} s: {last}\n{log}", PATIENCE.as_secs());
            }
            ends_within(&process.child, PAUSE);
        }
    }

    /// How the broker ended, if it was started here and ends within this time.
    pub fn ended(&mut self, within: Duration) -> Option<End> {
        let process = self.process.as_mut()?;
        ends_within(&process.child, within);
        let status = process.child.try_wait().ok()??;
        Some(End { what: format!("the broker ended with {status}"), log: process.log() })
    }
}

/// Connects once. Fails with the reason if there is no successful CONNACK within a second.
fn connect_once(broker: SocketAddr, wanted: &Scenario) -> Result<()> {
    let mut scenario = Scenario::new(Kind::ConnectStorm);
    (scenario.connections, scenario.waiting) = (1, Waiting::Sleep);
    (scenario.options.version, scenario.options.patience) = (wanted.options.version, Duration::from_secs(1));
    scenario.transport = wanted.transport.clone();
    let report = super::run(&scenario, &mut Target::at(broker, None), &AtomicBool::new(false))?;
    report.errors.into_keys().next().map_or(Ok(()), |error| bail!("{error}"))
}

/// A broker process with its directory.
#[derive(Debug)]
struct Process {
    child: Child,
    /// The address that the command line gave it.
    promised: Option<SocketAddr>,
    scheme: &'static str,
    dir: TempDir,
}

impl Process {
    fn start(command: &str, cpus: &[usize], scheme: &'static str) -> Result<Self> {
        let dir =
            TempDir::with_prefix("grapnel-bench-").context("cannot create a directory for the broker")?;
        let mut words = shlex::split(command).context("a quote in --broker is not closed")?;
        let wants_port = words.iter().any(|word| word.contains("{listen}") || word.contains("{port}"));
        let promised = if wants_port { Some(free_address()?) } else { None };
        for word in &mut words {
            if let Some(addr) = promised {
                *word =
                    word.replace("{listen}", &addr.to_string()).replace("{port}", &addr.port().to_string());
            }
            *word = word.replace("{dir}", &dir.path().to_string_lossy()).replace("{scheme}", scheme);
        }
        // The kernel ends it with us even if we are killed; without setpriv, only our own end does.
        if Path::new("/usr/bin/setpriv").exists() {
            let before = ["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"];
            words.splice(0..0, before.map(str::to_owned));
        }
        let log = File::create(dir.path().join("log")).context("cannot create the broker's log")?;
        let (program, arguments) = words.split_first().context("--broker is empty; give a command")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the broker's log")?)
            .stderr(log)
            // Ctrl-C at the terminal must reach only this process, which ends the broker after the
            // run.
            .process_group(0);
        // The child has its CPUs from the first instruction on, and so have all its threads.
        let ours = sched_getaffinity(None).context("cannot read the CPU affinity")?;
        pin(cpus)?;
        let started = command.spawn().with_context(|| format!("cannot start {program}; is it there?"));
        sched_setaffinity(None, &ours).context("cannot restore the CPU affinity")?;
        Ok(Self { child: started?, promised, scheme, dir })
    }

    fn said(&self) -> String {
        fs::read(self.dir.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its log.
    fn log(&self) -> String {
        let said = self.said();
        let lines: Vec<_> = said.lines().collect();
        if lines.is_empty() {
            return "it said nothing".to_owned();
        }
        let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("the end of its log:\n  {}", shown.join("\n  "))
    }

    /// Its address: from the command line, or from its log.
    fn address(&self) -> Option<SocketAddr> {
        self.promised.or_else(|| listening(&self.said(), self.scheme))
    }
}

impl Drop for Process {
    /// Ends the broker, and kills it after a timeout. If it has already ended, only its status is
    /// collected.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        if !ends_within(&self.child, PATIENCE) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Waits until a child ends, at most this long; true if it has.
fn ends_within(child: &Child, patience: Duration) -> bool {
    let Ok(process) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else { return true };
    let timeout = Timespec::try_from(patience).ok();
    matches!(poll(&mut [PollFd::new(&process, PollFlags::IN)], timeout.as_ref()), Ok(1..))
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    listener.local_addr().context("cannot read the address of a listener")
}

fn listening(log: &str, scheme: &str) -> Option<SocketAddr> {
    let whole_lines = &log[..=log.rfind('\n')?];
    whole_lines.lines().find_map(|line| {
        let address = line.split_once(LISTENING)?.1.strip_prefix(scheme)?.strip_prefix("://")?;
        address.split_whitespace().next()?.parse().ok()
    })
}

/// Binds the calling thread, and what it starts from now on, to these CPUs; an empty list changes
/// nothing.
pub fn pin(cpus: &[usize]) -> Result<()> {
    pin_thread(None, cpus)
}

/// Binds every thread of a running process to these CPUs.
pub fn pin_process(pid: u32, cpus: &[usize]) -> Result<()> {
    let threads = process(pid).and_then(|process| process.tasks());
    for thread in threads.with_context(|| format!("cannot read /proc/{pid}; is the process running?"))? {
        if let Some(id) = Pid::from_raw(thread?.tid) {
            pin_thread(Some(id), cpus)?;
        }
    }
    Ok(())
}

fn pin_thread(thread: Option<Pid>, cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    sched_setaffinity(thread, &set)
        .with_context(|| format!("cannot bind to the CPUs {cpus:?}; are they there?"))
}

/// CPUs of this process, the first for the generator and the last for the broker; empty if there is
/// only one.
pub fn usual_cpus() -> (Vec<usize>, Vec<usize>) {
    let allowed = sched_getaffinity(None).ok();
    let is_allowed = |cpu: &usize| allowed.as_ref().is_some_and(|allowed| allowed.is_set(*cpu));
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(is_allowed).collect();
    match cpus.as_slice() {
        [first, .., last] => (vec![*first], vec![*last]),
        _ => (Vec::new(), Vec::new()),
    }
}

/// Reads a list such as `0-2,5`.
pub fn parse_cpus(text: &str) -> Result<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let range = from.trim().parse().ok().zip(to.trim().parse().ok());
        let (from, to): (usize, usize) =
            range.with_context(|| format!("{text:?} is not a list such as 0-2,5"))?;
        ensure!(from <= to && to < CpuSet::MAX_CPU, "{part:?} is not a range of CPUs");
        cpus.extend(from..=to);
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_address_is_read_from_a_whole_line() {
        let addr = "127.0.0.1:4711".parse().unwrap();
        let listening = |log: &str| listening(log, "mqtt");
        assert_eq!(listening("hello\nlistening on mqtt://127.0.0.1:4711\nready\n"), Some(addr));
        assert_eq!(
            listening("listening on mqtts://127.0.0.1:1\nlistening on mqtt://127.0.0.1:4711\n"),
            Some(addr)
        );
        assert_eq!(listening("INFO listening on mqtt://127.0.0.1:4711 (plain)\n"), Some(addr));
        assert_eq!(listening("hello\nlistening on mqtt://127.0.0.1:47"), None, "the rest is yet to come");
        assert_eq!(listening(""), None);
    }

    #[test]
    fn cpu_lists_are_read() {
        assert_eq!(parse_cpus("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert_eq!(parse_cpus("3").unwrap(), [3]);
        for wrong in ["", "a", "2-1", "1-", "99999"] {
            assert!(parse_cpus(wrong).is_err(), "{wrong:?}");
        }
    }
}
