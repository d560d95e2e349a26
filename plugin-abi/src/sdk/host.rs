//! The broker as a plugin sees it outside of events: the log, and how many shards there are.

use std::fmt::Display;

use crate::raw::{HostApi, Slice};

/// How important a line of the log is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is wrong, and work goes on.
    Warn = 2,
    /// Something worth knowing happened.
    Info = 3,
    /// For the plugin's developers.
    Debug = 4,
    /// For the plugin's developers, in full.
    Trace = 5,
}

/// The broker. Cheap to copy, valid for as long as the process runs, and usable from any thread.
#[derive(Clone, Copy)]
pub struct Host {
    api: &'static HostApi,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.api.plugin)
    }
}

impl Host {
    pub(crate) const fn new(api: &'static HostApi) -> Host {
        Host { api }
    }

    pub(crate) const fn api(self) -> &'static HostApi {
        self.api
    }

    /// Number of this load of the plugin: no other plugin has it, and a reload gets another one.
    pub const fn handle(self) -> u64 {
        self.api.plugin
    }

    /// How many shards there are, 1 to 64.
    pub const fn shards(self) -> u32 {
        self.api.shards
    }

    /// Writes a line to the broker's log, under the plugin's name.
    pub fn log(self, level: Level, message: impl Display) {
        let message = message.to_string();
        // SAFETY: the table is the broker's own, `log` may be called from any thread, and the text is alive during the call.
        unsafe { (self.api.log)(self.api.plugin, level as u32, Slice::of(message.as_bytes())) }
    }

    /// Logs an error.
    pub fn error(self, message: impl Display) {
        self.log(Level::Error, message);
    }

    /// Logs a warning.
    pub fn warn(self, message: impl Display) {
        self.log(Level::Warn, message);
    }

    /// Logs something worth knowing.
    pub fn info(self, message: impl Display) {
        self.log(Level::Info, message);
    }

    /// Logs for developers.
    pub fn debug(self, message: impl Display) {
        self.log(Level::Debug, message);
    }
}
