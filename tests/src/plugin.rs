//! Paths of the built programs and plugins, and the build of plugins in C for a test.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

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
/// If it has not been built; the message contains the command for that.
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

/// A plugin in C or C++, compiled for one test and deleted with it.
pub struct Compiled {
    library: PathBuf,
    _folder: TempDir,
}

impl Compiled {
    /// Compiles `plugins/NAME` as its README says.
    ///
    /// # Panics
    /// If there is no compiler, or it prints a warning.
    #[track_caller]
    pub fn of(name: &str) -> Compiled {
        Compiled::with(name, &[])
    }

    /// The same with more arguments for the compiler.
    ///
    /// # Panics
    /// As [`Compiled::of`].
    #[track_caller]
    pub fn with(name: &str, arguments: &[&str]) -> Compiled {
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let stem = name.rsplit('/').next().unwrap_or(name).replace('-', "_");
        let sources = root.join("plugins").join(name);
        let (compiler, standard, source) = match sources.join(format!("{stem}.c")) {
            source if source.exists() => ("cc", "-std=c11", source),
            _ => ("c++", "-std=c++17", sources.join(format!("{stem}.cpp"))),
        };
        let library = folder.path().join(format!("libgrapnel_{stem}.so"));
        let output = Command::new(compiler)
            .args([
                standard,
                "-O2",
                "-shared",
                "-fPIC",
                "-pthread",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
            ])
            .arg("-I")
            .arg(root.join("plugin-abi/include"))
            .args(arguments)
            .arg("-o")
            .args([&library, &source])
            .output()
            .unwrap_or_else(|error| {
                panic!("{compiler} cannot be started: {error}; scripts/test installs it")
            });
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Compiled { library, _folder: folder }
    }

    /// The library, as an argument.
    pub fn path(&self) -> &str {
        argument(&self.library)
    }
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
