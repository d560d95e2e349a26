//! The files of the repository, for tests that read them: documents, sources and manifests.

use std::path::{Path, PathBuf};

/// Folders with built or installed files.
const MADE: [&str; 5] = ["target", "node_modules", "venv", "__pycache__", "book"];
/// Hidden folders that belong to the repository.
const HIDDEN: [&str; 3] = [".ci", ".cargo", ".config"];

/// The folder with the workspace's `Cargo.toml`.
///
/// # Panics
/// If this package is at the root of a file system.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the repository")
}

/// All files, relative to the root, in order.
///
/// # Panics
/// If a folder cannot be read.
pub fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the repository can be read") {
            let entry = entry.expect("the repository can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("the file system knows what it has");
            if kind.is_file() {
                found.push(relative(&entry.path()));
            } else if kind.is_dir() && !is_made(&name) {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn is_made(name: &str) -> bool {
    MADE.contains(&name) || name.ends_with(".egg-info") || (name.starts_with('.') && !HIDDEN.contains(&name))
}

fn relative(path: &Path) -> PathBuf {
    path.strip_prefix(root()).expect("found below the root").to_owned()
}

/// Files with one of these endings.
pub fn files_with(endings: &[&str]) -> Vec<PathBuf> {
    let mut files = files();
    files.retain(|file| file.extension().is_some_and(|ending| endings.iter().any(|each| ending == *each)));
    files
}

/// The text of a file, which is named relative to the root.
///
/// # Panics
/// If it cannot be read.
pub fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a file is part of the tests: in a folder `tests`, or with that name.
pub fn is_of_tests(path: &Path) -> bool {
    path.iter().any(|part| part == "tests") || path.ends_with("tests.rs")
}

/// Fails with all `faults`, one per line, unless there are none.
///
/// # Panics
/// If there is one.
#[track_caller]
pub fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}\n", faults.join("\n  "));
}
