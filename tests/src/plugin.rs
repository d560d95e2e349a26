//! Where the built programs and plugins are, and how broken ones are made of them.

use std::path::{Path, PathBuf};

/// The directory of the build the running test belongs to, such as `target/checked`.
///
/// # Panics
/// If the test executable is not where cargo puts it.
pub fn directory() -> PathBuf {
    let test = std::env::current_exe().expect("the kernel knows our path");
    let deps = test.parent().expect("an executable is in a directory");
    deps.parent().expect("cargo puts tests under target/PROFILE/deps").to_owned()
}

/// Path of a built program.
///
/// # Panics
/// If it has not been built; the message names the command that does it.
pub fn built(program: &str) -> PathBuf {
    existing(directory().join(program))
}

/// Path of the plugin `name`, such as `topic-rewrite`.
///
/// # Panics
/// As [`built`].
pub fn library(name: &str) -> PathBuf {
    existing(directory().join(format!("libgrapnel_{}.so", name.replace('-', "_"))))
}

/// A path as an argument.
///
/// # Panics
/// If it is not UTF-8.
pub fn argument(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain")
}

fn existing(path: PathBuf) -> PathBuf {
    let profile = directory().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let profile = if profile == "debug" { "dev".to_owned() } else { profile };
    assert!(
        path.exists(),
        "{} is missing; build it first: cargo build --workspace --profile {profile}",
        path.display()
    );
    path
}
