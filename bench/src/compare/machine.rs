//! The environment of a measurement, as far as the system reports it. It is printed with every
//! table.

use procfs::Current;
use serde::Serialize;
use std::fs;
use std::process::Command;

/// This machine, this program and when.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Number of CPUs that this process may use.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// Commit of the working directory, with `-dirty` where files differ from it; null outside a
    /// repository.
    pub commit: Option<String>,
    /// The command line, paths of programs shortened to their names.
    pub command: String,
    /// Day, UTC.
    pub day: String,
}

impl Machine {
    /// Reads the values from the system; an unavailable one is "unknown".
    pub fn this() -> Machine {
        let unknown = || "unknown".to_owned();
        Machine {
            cpu: cpu().unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            commit: said(&["git", "describe", "--always", "--dirty", "--abbrev=10"]),
            command: command_line(),
            day: said(&["date", "-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
        }
    }
}

fn cpu() -> Option<String> {
    procfs::CpuInfo::current().ok()?.model_name(0).map(str::to_owned)
}

fn said(words: &[&str]) -> Option<String> {
    let output = Command::new(words.first()?).args(&words[1..]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The command line in a form that can be typed again, with the base name of this program.
fn command_line() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(program) = words.first_mut() {
        *program = program.rsplit('/').next().unwrap_or_default().to_owned();
    }
    // Only a NUL cannot be quoted, and no argument contains one.
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
}
