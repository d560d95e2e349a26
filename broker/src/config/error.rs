//! All errors of a configuration together. Made by the readers of the file, the environment and the
//! command line; printed by `program`.

use std::collections::BTreeMap;
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

/// Where the keys of a configuration were set. A key that is not in it has its default. It is not
/// compared: a configuration is the same wherever it was written.
#[derive(Clone, Debug, Default, Eq)]
pub struct Sources(BTreeMap<String, Origin>);

impl PartialEq for Sources {
    fn eq(&self, _: &Sources) -> bool {
        true
    }
}

impl Sources {
    /// Where a key was set last.
    pub fn of(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }

    pub(super) fn set(&mut self, key: &str, origin: &Origin) {
        self.0.insert(key.to_owned(), origin.clone());
    }

    /// Takes the source of one key from another configuration.
    pub(super) fn take_over(&mut self, key: &str, from: &Sources) {
        match from.0.get(key) {
            Some(origin) => self.set(key, origin),
            None => drop(self.0.remove(key)),
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
