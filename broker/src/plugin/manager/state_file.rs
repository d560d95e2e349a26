//! A small JSON file in the state folder, with a format version. It is written to a temporary file
//! and renamed, so that after a crash either the old or the new file is there. It may contain
//! secrets of configurations, so only its owner can read it. Used for the record of plugins and for
//! settings of hooks.

use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Format version of all of these files.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The content of the file; the default if there is no file.
///
/// # Errors
/// The file cannot be read or parsed. A file that cannot be parsed is renamed to `NAME.unreadable`,
/// so that the next write does not overwrite it.
pub(in crate::plugin) fn read<T: Default + DeserializeOwned>(path: &Path) -> io::Result<T> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(error),
    };
    let why = match understood(&text) {
        Ok(content) => return Ok(content),
        Err(why) => why,
    };
    let aside = path.with_extension("unreadable");
    std::fs::rename(path, &aside)?;
    let text = format!("{} cannot be understood ({why}); it is now {}", path.display(), aside.display());
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// As [`read`], but changes nothing: the default if the file cannot be read or parsed.
pub(in crate::plugin) fn look<T: Default + DeserializeOwned>(path: &Path) -> T {
    std::fs::read(path).ok().and_then(|text| understood(&text).ok()).unwrap_or_default()
}

/// The error names a position and no content, because the content may be a secret.
fn understood<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let place = |error: serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    let Version { version } = serde_json::from_slice(text).map_err(place)?;
    if version != VERSION {
        return Err(format!("it has form {version}, this broker knows {VERSION}"));
    }
    serde_json::from_slice(text).map(|Versioned { content, .. }| content).map_err(place)
}

/// Replaces the file. A file with the same content is not written again: most changes of plugins do
/// not concern it, and a disk may be slow.
///
/// # Errors
/// The file cannot be written; the old file is unchanged.
pub(in crate::plugin) fn write<T: Serialize>(path: &Path, content: T) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut text = serde_json::to_vec_pretty(&Versioned { version: VERSION, content })?;
    text.push(b'\n');
    if std::fs::read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    // `NamedTempFile` is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Content {
        words: BTreeMap<String, String>,
    }

    fn content(word: &str) -> Content {
        Content { words: BTreeMap::from([("password".to_owned(), word.to_owned())]) }
    }

    #[test]
    fn state_files_are_readable_only_by_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/words.json");
        assert_eq!(read::<Content>(&path).unwrap(), Content::default());
        write(&path, content("s3cret")).unwrap();
        assert_eq!(read::<Content>(&path).unwrap(), content("s3cret"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write(&path, content("other")).unwrap();
        assert_eq!(look::<Content>(&path), content("other"));
        let files = std::fs::read_dir(dir.path().join("new")).unwrap().count();
        assert_eq!(files, 1, "no temporary file is left");
    }

    #[test]
    fn unchanged_content_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words.json");
        let file = || std::fs::metadata(&path).unwrap().ino();
        write(&path, content("one")).unwrap();
        let first = file();
        write(&path, content("one")).unwrap();
        assert_eq!(file(), first);
        write(&path, content("two")).unwrap();
        assert_ne!(file(), first);
    }

    #[test]
    fn an_unreadable_file_is_renamed_and_its_content_is_not_logged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words.json");
        let aside = dir.path().join("words.unreadable");
        let texts =
            ["{\"password\": s3cret", "{\"version\": 9, \"words\": {}}", "{\"version\": 1}", "[]", ""];
        for text in texts {
            std::fs::write(&path, text).unwrap();
            assert_eq!(look::<Content>(&path), Content::default());
            assert!(path.exists(), "a look changes nothing");
            let error = read::<Content>(&path).unwrap_err().to_string();
            assert!(error.contains("words.unreadable") && !error.contains("s3cret"), "{error}");
            assert_eq!(std::fs::read_to_string(&aside).unwrap(), text);
            assert_eq!(read::<Content>(&path).unwrap(), Content::default());
        }
    }
}
