//! The configuration of acl-file. Read once at load.

use std::path::PathBuf;

use serde::Deserialize;

/// `[plugins.acl-file.config]`.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The access control file, in Mosquitto's format.
    pub path: PathBuf,
    /// Seconds between checks whether the file changed; 0: it is read at load only. Default 1.
    #[serde(default = "reload_s")]
    pub reload_s: u64,
    /// Maximum size of the file, bytes. Default 16 777 216 (16 MiB).
    #[serde(default = "file_bytes_max")]
    pub file_bytes_max: u64,
    /// The verdict if no line of the file applies: `deny`, as in Mosquitto, or `ignore`, which
    /// leaves it to the next plugin and to the broker's `authorization.no_match`. Default `deny`.
    #[serde(default)]
    pub no_match: NoMatch,
}

/// The verdict if no line applies.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum NoMatch {
    /// Refused.
    #[default]
    Deny,
    /// No verdict from this plugin.
    Ignore,
}

fn reload_s() -> u64 {
    1
}

fn file_bytes_max() -> u64 {
    16 << 20
}
