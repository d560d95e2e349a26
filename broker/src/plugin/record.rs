//! The record of plugins for the next start: those that were loaded with ctl and without `--once`.
//! Written as a whole and renamed into place, so that a crash leaves the old file or the new one.
//! The file may hold secrets of configurations, so only its owner can read it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One remembered load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Recorded {
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
pub(super) struct Content {
    /// Version of this file's form.
    version: u32,
    /// In order of loading.
    pub plugins: Vec<Recorded>,
    /// Names of those that are disabled, also of such that the configuration names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<String>,
}

impl Content {
    pub(super) fn new(plugins: Vec<Recorded>, disabled: Vec<String>) -> Content {
        Content { version: VERSION, plugins, disabled }
    }
}

const VERSION: u32 = 1;

/// The file.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
}

impl Record {
    pub(super) fn at(path: PathBuf) -> Record {
        Record { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was remembered; nothing where there is no file. One that cannot be understood is put aside, so that nothing of it
    /// is lost, and is an error.
    pub(super) fn read(&self) -> io::Result<Content> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Content>(&text) {
            Ok(content) if content.version == VERSION => Ok(content),
            other => {
                let aside = self.path.with_extension("unreadable");
                std::fs::rename(&self.path, &aside)?;
                let why = match other {
                    Ok(content) => format!("it has form {}, this broker knows {VERSION}", content.version),
                    Err(error) => format!("line {}, column {}", error.line(), error.column()),
                };
                let text = format!(
                    "{} cannot be understood ({why}); it is now {}",
                    self.path.display(),
                    aside.display()
                );
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    /// Names of what was remembered, as far as it can be read. Changes nothing.
    pub(super) fn names(&self) -> Vec<String> {
        let content = std::fs::read(&self.path).ok();
        let content = content.and_then(|text| serde_json::from_slice::<Content>(&text).ok());
        content
            .map_or_else(Vec::new, |content| content.plugins.into_iter().map(|plugin| plugin.name).collect())
    }

    /// Remembers this and nothing else.
    pub(super) fn write(&self, content: &Content) -> io::Result<()> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');
        // Most reloads change nothing of it, and a disk may take its time.
        if std::fs::read(&self.path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        // `NamedTempFile` is made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        std::fs::File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn guard() -> Recorded {
        Recorded {
            name: "guard".to_owned(),
            source: "/p/guard.so".to_owned(),
            priority: Some(-3),
            config: serde_json::json!({"password": "s3cret"}),
        }
    }

    #[test]
    fn what_is_written_is_read_again_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::at(dir.path().join("new/plugins.json"));
        assert_eq!(record.read().unwrap(), Content::default());
        let content = Content::new(vec![guard()], vec!["guard".to_owned()]);
        record.write(&content).unwrap();
        assert_eq!(record.read().unwrap(), content);
        let mode = std::fs::metadata(record.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        record.write(&Content::new(Vec::new(), Vec::new())).unwrap();
        assert_eq!(record.read().unwrap().plugins, []);
        assert_eq!(
            std::fs::read_dir(dir.path().join("new")).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::at(dir.path().join("plugins.json"));
        let file = || std::fs::metadata(record.path()).unwrap().ino();
        let content = Content::new(vec![guard()], Vec::new());
        record.write(&content).unwrap();
        let first = file();
        record.write(&content).unwrap();
        assert_eq!(file(), first);
        record.write(&Content::new(vec![guard()], vec!["guard".to_owned()])).unwrap();
        assert_ne!(file(), first);
    }

    #[test]
    fn what_cannot_be_understood_is_put_aside_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::at(dir.path().join("plugins.json"));
        for text in ["{\"password\": s3cret", "{\"version\": 9, \"plugins\": []}"] {
            std::fs::write(record.path(), text).unwrap();
            let error = record.read().unwrap_err().to_string();
            assert!(error.contains("plugins.unreadable") && !error.contains("s3cret"), "{error}");
            assert_eq!(std::fs::read_to_string(dir.path().join("plugins.unreadable")).unwrap(), text);
            assert_eq!(record.read().unwrap(), Content::default());
        }
    }
}
