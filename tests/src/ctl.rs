//! Runs `grapnel-ctl` against a broker under test.

use std::time::Duration;

use serde_json::Value;

use crate::process::{Process, command};
use crate::{Broker, plugin};

/// Result of a ctl command.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it ended with status 0.
    pub success: bool,
    /// Its standard output and standard error.
    pub text: String,
}

/// Timeout of one command, long enough for a busy machine.
const COMMAND: Duration = Duration::from_secs(30);

impl Broker {
    /// Runs `grapnel-ctl --socket ... ARGUMENTS`.
    ///
    /// # Panics
    /// If it does not end in time.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Outcome {
        let mut command = command(plugin::built("grapnel-ctl"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        let mut process = Process::start("grapnel-ctl", command, None);
        let status =
            process.wait(COMMAND).unwrap_or_else(|| panic!("grapnel-ctl {arguments:?} does not end"));
        Outcome { success: status.success(), text: process.log() }
    }

    /// Runs a command that must succeed. Returns its output.
    #[track_caller]
    pub fn ctl_ok(&self, arguments: &[&str]) -> String {
        let outcome = self.ctl(arguments);
        assert!(outcome.success, "grapnel-ctl {arguments:?} failed: {}", outcome.text);
        outcome.text
    }

    /// Runs a command that must be refused. Returns its output.
    #[track_caller]
    pub fn ctl_refused(&self, arguments: &[&str]) -> String {
        let outcome = self.ctl(arguments);
        assert!(
            !outcome.success,
            "grapnel-ctl {arguments:?} was expected to fail and said: {}",
            outcome.text
        );
        outcome.text
    }

    /// Runs a command with `--json` and parses its output.
    #[track_caller]
    pub fn ctl_json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let text = self.ctl_ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("grapnel-ctl {all:?}: {error} in {text}"))
    }
}
