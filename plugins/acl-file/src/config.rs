//! The configuration of acl-file. Read once at load.

use std::path::PathBuf;

use serde::Deserialize;

/// `[plugins.acl-file.config]`.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The access control file, in Mosquitto's format.
    pub path: PathBuf,
    /// Seconds between looks whether the file changed; 0: it is read at load only. Default 1.
    #[serde(default = "reload_s")]
    pub reload_s: u64,
    /// Largest file that is read, bytes. Default 16 777 216 (16 MiB).
    #[serde(default = "file_bytes_max")]
    pub file_bytes_max: u64,
    /// What becomes of a request on which no line of the file has a say: `deny`, as with Mosquitto, or `ignore`, which leaves
    /// it to the next plugin and to the broker's `authorization.no_match`. Default `deny`.
    #[serde(default)]
    pub no_match: NoMatch,
}

/// What becomes of a request on which no line has a say.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum NoMatch {
    /// Refused.
    #[default]
    Deny,
    /// Not answered here.
    Ignore,
}

fn reload_s() -> u64 {
    1
}

fn file_bytes_max() -> u64 {
    16 << 20
}
