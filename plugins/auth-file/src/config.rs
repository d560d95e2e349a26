//! The configuration of auth-file. Read once at load.

use std::path::PathBuf;

use serde::Deserialize;

/// `[plugins.auth-file.config]`.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file of users: one `user:$argon2id$…` per line, as `grapnel-ctl passwd` writes it.
    pub path: PathBuf,
    /// Seconds between checks whether the file changed; 0: it is read at load only. Default 1.
    #[serde(default = "defaults::reload_s")]
    pub reload_s: u64,
    /// Maximum size of the file, bytes. Default 16 777 216 (16 MiB).
    #[serde(default = "defaults::file_bytes_max")]
    pub file_bytes_max: u64,
    /// Threads that check passwords, 1 to 64. Each uses as much memory as the most expensive entry
    /// requires. Default 2.
    #[serde(default = "defaults::threads")]
    pub threads: usize,
    /// Maximum number of logins that wait for a thread, 1 to 100 000; further ones are refused with
    /// 0x89, server busy. Default 1 000.
    #[serde(default = "defaults::queue_max")]
    pub queue_max: usize,
    /// Maximum number of these from one address, or one /64 network of IPv6, 1 to 100 000. Further
    /// ones are refused with 0x89; logins from other addresses are not affected. Default 50.
    #[serde(default = "defaults::address_queue_max")]
    pub address_queue_max: usize,
    /// Time after which a login without a result is refused, milliseconds, 1 to 600 000. Default
    /// 10 000.
    #[serde(default = "defaults::deadline_ms")]
    pub deadline_ms: u32,
    /// Maximum length of a password, bytes, 1 to 65 535; a longer one counts as wrong. Default
    /// 1 024.
    #[serde(default = "defaults::password_bytes_max")]
    pub password_bytes_max: usize,
    /// Maximum memory of an entry (m of its argon2 parameters), KiB. Default 65 536 (64 MiB).
    #[serde(default = "defaults::memory_kib_max")]
    pub memory_kib_max: u32,
    /// Maximum number of passes of an entry (t of its argon2 parameters). Default 10.
    #[serde(default = "defaults::passes_max")]
    pub passes_max: u32,
    /// Users of the file who become superusers after a correct password. Default: none.
    #[serde(default)]
    pub superusers: Vec<String>,
    /// The verdict for a user name that is not in the file: `deny`, or `ignore`, which leaves it to
    /// the next plugin (the response time then reveals which names are in the file). Default
    /// `deny`.
    #[serde(default)]
    pub unknown: Unknown,
}

/// The verdict for a user name that is not in the file.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Refused like a wrong password, after the same work.
    #[default]
    Deny,
    /// No verdict from this plugin.
    Ignore,
}

mod defaults {
    pub fn reload_s() -> u64 {
        1
    }
    pub fn file_bytes_max() -> u64 {
        16 << 20
    }
    pub fn threads() -> usize {
        2
    }
    pub fn queue_max() -> usize {
        1000
    }
    // Work for two threads for half a second.
    pub fn address_queue_max() -> usize {
        50
    }
    pub fn deadline_ms() -> u32 {
        10_000
    }
    pub fn password_bytes_max() -> usize {
        1024
    }
    pub fn memory_kib_max() -> u32 {
        65_536
    }
    pub fn passes_max() -> u32 {
        10
    }
}

impl Config {
    /// Checks all ranges.
    ///
    /// # Errors
    /// The key, its value and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("threads", self.threads as u64, 64),
            ("queue_max", self.queue_max as u64, 100_000),
            ("address_queue_max", self.address_queue_max as u64, 100_000),
            ("deadline_ms", self.deadline_ms.into(), 600_000),
            ("password_bytes_max", self.password_bytes_max as u64, 65_535),
        ];
        match ranges.into_iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
            Some((key, value, max)) => Err(format!("{key} = {value}: must be from 1 to {max}")),
            None => Ok(()),
        }
    }
}
