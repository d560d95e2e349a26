//! What comes back after a restart: the plugins that were loaded with ctl and without `--once`, and
//! which plugins are disabled. Used by the manager and by `--check-config`.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state_file;

/// One remembered load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::plugin) struct Recorded {
    pub name: String,
    /// Name or absolute path, as it is looked up again.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    #[serde(default)]
    pub config: serde_json::Value,
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::plugin) struct Content {
    /// In order of loading.
    pub plugins: Vec<Recorded>,
    /// Names of those that are disabled, also of such that the configuration names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<String>,
}

/// The file.
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

    /// What was remembered; nothing where there is no file.
    ///
    /// # Errors
    /// As [`state_file::read`].
    pub(in crate::plugin) fn read(&self) -> io::Result<Content> {
        state_file::read(&self.path)
    }

    /// Names of what was remembered, as far as it can be read. Changes nothing.
    pub(in crate::plugin) fn names(&self) -> Vec<String> {
        let content: Content = state_file::look(&self.path);
        content.plugins.into_iter().map(|plugin| plugin.name).collect()
    }

    /// Remembers this and nothing else.
    ///
    /// # Errors
    /// As [`state_file::write`].
    pub(in crate::plugin) fn write(&self, content: &Content) -> io::Result<()> {
        state_file::write(&self.path, content)
    }
}
