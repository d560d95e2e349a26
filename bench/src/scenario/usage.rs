//! Resources of a process, from /proc: CPU time of all its threads, also of those that have ended
//! meanwhile, and memory. The loop reads it at the borders of the measured window and a few times
//! within it.

use anyhow::{Context, Result};
use procfs::ProcResult;
use procfs::process::{Process, Task};
use std::collections::HashMap;

/// CPU time used until some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Nanoseconds, from the scheduler; for a running thread up to one scheduler tick too low.
    pub total_ns: u64,
    /// Nanoseconds in which threads were ready but had no CPU.
    pub waited_ns: u64,
    /// In user space, in clock ticks.
    pub user_ticks: u64,
    /// In the kernel, in clock ticks.
    pub system_ticks: u64,
}

impl Times {
    /// CPU time since an earlier moment.
    pub fn since(self, earlier: Times) -> Times {
        Times {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }

    fn add(&mut self, other: Times) {
        self.total_ns += other.total_ns;
        self.waited_ns += other.waited_ns;
        self.user_ticks += other.user_ticks;
        self.system_ticks += other.system_ticks;
    }

    /// The fraction of `total_ns` that was spent in user space, split in the ratio of the ticks;
    /// `None` without a tick.
    pub fn user_share(self) -> Option<f64> {
        let ticks = self.user_ticks + self.system_ticks;
        (ticks > 0).then(|| self.user_ticks as f64 / ticks as f64)
    }
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Resident now.
    pub rss_bytes: u64,
    /// Maximum of resident memory.
    pub rss_peak_bytes: u64,
}

/// The process `pid`; fails if there is none.
pub fn process(pid: u32) -> ProcResult<Process> {
    Process::new_with_root(format!("/proc/{pid}").into())
}

/// Follows the CPU time of a process, and of the processes that it has started.
#[derive(Debug)]
pub struct Sampler {
    pid: u32,
    process: Process,
    threads: Threads,
    children: Threads,
}

/// Maximum number of descendants that are read; more are left out.
const DESCENDANTS_MAX: usize = 4096;

impl Sampler {
    /// A sampler of the process `pid`, which must exist.
    pub fn new(pid: u32) -> Result<Self> {
        let attached = process(pid).map_err(anyhow::Error::from).and_then(|process| {
            let mut sampler =
                Self { pid, process, threads: Threads::default(), children: Threads::default() };
            sampler.times()?;
            Ok(sampler)
        });
        attached.with_context(|| {
            format!("cannot read the CPU time of process {pid}; is it running, and may this user see it?")
        })
    }

    /// CPU time until now. Threads that began and ended between two calls are missed.
    pub fn times(&mut self) -> Result<Times> {
        self.threads.look(&self.process)?;
        Ok(self.threads.sum())
    }

    /// Total CPU time until now of the processes that it has started, and of their descendants. The
    /// time that one of them uses between the last call and its end is missed; so are all of them
    /// if the kernel does not list children (CONFIG_PROC_CHILDREN).
    pub fn children_times(&mut self) -> Times {
        for pid in descendants(self.pid) {
            // It may have ended meanwhile.
            let _ = process(pid).and_then(|child| self.children.look(&child));
        }
        self.children.sum()
    }

    /// Memory now.
    pub fn memory(&self) -> Result<Memory> {
        let status = self.process.status().context("cannot read the memory of the broker")?;
        // proc_pid_status(5): kibibytes, although the file says kB. Kernel threads have none.
        let bytes = |kibibytes: Option<u64>| kibibytes.map(|kibibytes| kibibytes * 1024);
        let memory = bytes(status.vmrss).zip(bytes(status.vmhwm));
        let (rss_bytes, rss_peak_bytes) =
            memory.with_context(|| format!("process {} has no resident memory", self.pid))?;
        Ok(Memory { rss_bytes, rss_peak_bytes })
    }
}

/// CPU time of the calling thread.
pub fn own_times() -> Option<Times> {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    times_of(&Process::myself().ok()?.task_from_tid(thread).ok()?).ok()
}

fn times_of(task: &Task) -> ProcResult<Times> {
    let (scheduled, stat) = (task.schedstat()?, task.stat()?);
    Ok(Times {
        total_ns: scheduled.sum_exec_runtime,
        waited_ns: scheduled.run_delay,
        user_ticks: stat.utime,
        system_ticks: stat.stime,
    })
}

/// The descendants of a process, at most [`DESCENDANTS_MAX`].
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied()
        && found.len() <= DESCENDANTS_MAX
    {
        at += 1;
        let Ok(tasks) = process(parent).and_then(|parent| parent.tasks()) else { continue };
        // Each is listed under the thread that started it.
        found.extend(tasks.flatten().flat_map(|task| task.children().unwrap_or_default()));
    }
    found.remove(0);
    found
}

/// The last values of each thread.
#[derive(Debug, Default)]
struct Threads {
    seen: HashMap<i32, Times>,
    /// Total of threads whose id another thread has now.
    ended: Times,
}

impl Threads {
    /// Reads every thread of a process.
    fn look(&mut self, process: &Process) -> ProcResult<()> {
        for task in process.tasks()?.flatten() {
            // A thread may end between its listing and its reading.
            if let Ok(times) = times_of(&task) {
                self.see(task.tid, times);
            }
        }
        Ok(())
    }

    fn see(&mut self, id: i32, times: Times) {
        let last = self.seen.insert(id, times);
        // The time of a thread never decreases: otherwise this is another thread with the id of one
        // that has ended.
        if let Some(last) = last.filter(|last| last.total_ns > times.total_ns) {
            self.ended.add(last);
        }
    }

    fn sum(&self) -> Times {
        let mut sum = self.ended;
        for times in self.seen.values() {
            sum.add(*times);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn times(total_ns: u64) -> Times {
        Times { total_ns, waited_ns: 3, user_ticks: total_ns / 10, system_ticks: 1 }
    }

    #[test]
    fn a_thread_that_ends_keeps_its_time() {
        let mut threads = Threads::default();
        threads.see(1, times(100));
        threads.see(2, times(50));
        threads.see(1, times(130));
        assert_eq!(threads.sum(), Times { total_ns: 180, waited_ns: 6, user_ticks: 18, system_ticks: 2 });
        // Its id is given to a new thread.
        threads.see(2, times(10));
        assert_eq!(threads.sum().total_ns, 190);
        threads.see(2, times(20));
        assert_eq!(threads.sum().total_ns, 200);
    }

    #[test]
    fn the_split_follows_the_ticks() {
        let earlier = Times { total_ns: 10, waited_ns: 2, user_ticks: 5, system_ticks: 5 };
        let used = Times { total_ns: 1000, waited_ns: 9, user_ticks: 8, system_ticks: 14 }.since(earlier);
        assert_eq!((used.total_ns, used.waited_ns, used.user_share()), (990, 7, Some(0.25)));
        assert_eq!(Times::default().user_share(), None);
    }

    #[test]
    fn work_of_this_process_shows() {
        let mut sampler = Sampler::new(std::process::id()).unwrap();
        let before = sampler.times().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while sampler.times().unwrap().since(before).total_ns < 20_000_000 {
            assert!(std::time::Instant::now() < deadline, "no CPU time in thirty seconds");
        }
        let memory = sampler.memory().unwrap();
        assert!(memory.rss_bytes > 0 && memory.rss_peak_bytes >= memory.rss_bytes / 2);
    }

    #[test]
    fn work_of_a_child_shows_apart() {
        use std::io::Read;
        use std::process::{Command, Stdio};
        let mut sampler = Sampler::new(std::process::id()).unwrap();
        // The child's child works, and reports when it is done; both then wait for the end of their
        // input.
        let script = "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read x'";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        let (own, children) = (sampler.times().unwrap(), sampler.children_times());
        assert!(children.total_ns > 5_000_000, "{children:?} beside {own:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(sampler.children_times().total_ns >= children.total_ns, "what has ended is not forgotten");
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Sampler::new(u32::MAX).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the CPU time of process 4294967295"), "{error}");
    }
}
