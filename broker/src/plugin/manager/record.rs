//! The record of what is restored after a restart: the plugins that were loaded with ctl and
//! without `--once`, and which plugins are disabled. Used by the manager and by `--check-config`.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state_file;

/// A recorded load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::plugin) struct Recorded {
    pub name: String,
    /// Name or absolute path, from which the file is looked up again.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    #[serde(default)]
    pub config: serde_json::Value,
    /// Whether the broker does not start without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// The content of the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::plugin) struct Content {
    /// In order of loading.
    pub plugins: Vec<Recorded>,
    /// Names of disabled plugins, also of those that the configuration file loads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<String>,
}

/// The file of the record.
#[derive(Debug)]
pub(in crate::plugin) struct Record {
    path: PathBuf,
}

impl Record {
    pub(in crate::plugin) fn at(path: PathBuf) -> Record {
        Record { path }
    }

    pub(in crate::plugin) fn path(&self) -> &Path {
        &self.path
    }

    /// The recorded content; the default if there is no file.
    ///
    /// # Errors
    /// As [`state_file::read`].
    pub(in crate::plugin) fn read(&self) -> io::Result<Content> {
        state_file::read(&self.path)
    }

    /// Names of the recorded plugins, as far as the file can be read. Changes nothing.
    pub(in crate::plugin) fn names(&self) -> Vec<String> {
        let content: Content = state_file::look(&self.path);
        content.plugins.into_iter().map(|plugin| plugin.name).collect()
    }

    /// Replaces the record by `content`.
    ///
    /// # Errors
    /// As [`state_file::write`].
    pub(in crate::plugin) fn write(&self, content: &Content) -> io::Result<()> {
        state_file::write(&self.path, content)
    }
}
