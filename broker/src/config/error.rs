//! All errors of a configuration together. Made by the readers of the file, the environment and the
//! command line; printed by `program`.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written, for error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the value is a default of the broker.
    Default,
    /// A line of the configuration file, from 1.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Its line.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// An option of the command line, such as `--shards`.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "{name}"),
            Origin::Option(name) => write!(f, "{name}"),
        }
    }
}

/// All errors of a configuration; the broker does not start with it.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors {
    /// One message for each error, with its origin in front; never empty.
    pub sentences: Vec<String>,
}

impl ConfigErrors {
    /// The process's exit code for them: EX_CONFIG of sysexits.
    pub const EXIT_CODE: u8 = 78;
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sentences.join("\n"))
    }
}
