//! The folder of private copies of plugin files. Only this user can use it, whatever the umask. Its
//! name is unpredictable, and it is accessed through its descriptor, so that no other user can
//! replace it. Folders of killed brokers are removed. Used by `library`; made by the manager.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, chmod, fchmod, flock, mkdirat, openat, unlinkat,
};
use rustix::io::Errno;

/// Prefix of the folders' names.
const PREFIX: &str = "grapnel-plugins-";
/// The folder with the process's open descriptors.
const PROC: &str = "/proc/self/fd";
/// Maximum number of attempts, if other brokers remove the folder again and again.
const ATTEMPTS_MAX: usize = 8;

/// A folder for copies; it is removed when this value is dropped.
#[derive(Debug)]
pub(in crate::plugin) struct Copies {
    path: PathBuf,
    /// Descriptor of the folder. It is locked while this process lives, so that other brokers see
    /// that the folder is in use.
    folder: OwnedFd,
}

/// One copy; it is removed when this value is dropped. Its mappings stay.
#[derive(Debug)]
pub(in crate::plugin) struct Copy<'a> {
    copies: &'a Copies,
    name: String,
}

impl Copies {
    /// Makes a folder in `dir`, or in `other` if `dir` is not writable, which is logged.
    ///
    /// # Errors
    /// The error names both folders and says what to do.
    pub(in crate::plugin) fn make_in_either(dir: Option<&Path>, other: &Path) -> io::Result<Copies> {
        let refused = match dir.map(|dir| (dir, Copies::make(dir))) {
            Some((_, Ok(copies))) => return Ok(copies),
            Some((dir, Err(error))) => Some(format!("{}: {error}", dir.display())),
            None => None,
        };
        let copies = Copies::make(other).map_err(|error| {
            let first = refused.as_ref().map_or_else(String::new, |refused| format!("{refused}; "));
            let text = format!(
                "{first}{}: {error}; make one of them writable, or choose others with state.dir and TMPDIR",
                other.display()
            );
            io::Error::new(error.kind(), text)
        })?;
        if let Some(refused) = refused {
            tracing::warn!("private copies of plugins are made in {}: {refused}", other.display());
        }
        Ok(copies)
    }

    /// Makes a folder in `parent`, and removes folders that dead brokers of this user have left
    /// there.
    pub(in crate::plugin) fn make(parent: &Path) -> io::Result<Copies> {
        remove_left_over(parent);
        for _ in 0..ATTEMPTS_MAX {
            let path = parent.join(format!("{PREFIX}{}", random_name()?));
            match mkdirat(CWD, &path, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let folder = open_new(&path)?;
            // Between the two steps, another starting broker may have removed it as left over.
            if lock(&folder) && is_named(&path, &folder) {
                return Ok(Copies { path, folder });
            }
        }
        Err(io::Error::other("folders that are made there are removed again and again"))
    }

    /// The path of the folder.
    pub(in crate::plugin) fn folder(&self) -> &Path {
        &self.path
    }

    /// Writes a copy.
    pub(in crate::plugin) fn add(&self, bytes: &[u8]) -> io::Result<Copy<'_>> {
        let name = format!("plugin-{}.so", random_name()?);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(&self.folder, name.as_str(), flags, mode)?;
        let copy = Copy { copies: self, name };
        fchmod(&file, mode)?;
        File::from(file).write_all(bytes)?;
        Ok(copy)
    }

    /// Writes a file, removes its name, and returns it open for reading.
    pub(in crate::plugin) fn without_name(&self, bytes: &[u8]) -> io::Result<File> {
        let copy = self.add(bytes)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(File::from(openat(&self.folder, copy.name.as_str(), flags, Mode::empty())?))
    }

    #[cfg(test)]
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.path).expect("it is there");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        if is_named(&self.path, &self.folder) {
            // Files that cannot be removed are removed by the next broker.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Copy<'_> {
    /// The path of the copy through the folder's descriptor. Each copy has its own path: the
    /// dynamic linker would take a second library with the same path for the first.
    pub(in crate::plugin) fn path(&self) -> PathBuf {
        PathBuf::from(format!("{PROC}/{}/{}", self.copies.folder.as_raw_fd(), self.name))
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        // A copy that cannot be removed is removed with the folder.
        let _ = unlinkat(&self.copies.folder, self.name.as_str(), AtFlags::empty());
    }
}

/// 32 hexadecimal digits from the system's random numbers.
fn random_name() -> io::Result<String> {
    let half = || getrandom::u64().map_err(io::Error::other);
    Ok(format!("{:016x}{:016x}", half()?, half()?))
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a folder that was just made, and gives its owner the rights that the umask may have
/// removed.
fn open_new(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(CWD, path, flags, Mode::empty())?;
    chmod(format!("{PROC}/{}", place.as_raw_fd()), Mode::RWXU).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("{PROC}, where /proc must be mounted: {error}"))
    })?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&place, ".", flags, Mode::empty())?)
}

fn lock(folder: &impl AsFd) -> bool {
    flock(folder, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Whether the path still leads to this folder.
fn is_named(path: &Path, folder: &OwnedFd) -> bool {
    let ours = rustix::fs::fstat(folder).map(|found| (found.st_dev, found.st_ino));
    let named = std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
}

/// Removes folders of this user that no living process has locked. Ignores folders that cannot be
/// removed.
fn remove_left_over(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let user = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(folder) = open_folder(&path) else { continue };
        let own = rustix::fs::fstat(&folder).is_ok_and(|found| found.st_uid == user);
        if !own || !lock(&folder) {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!("removed {}, which a broker that was killed had left", path.display()),
            Err(error) => tracing::warn!(
                "cannot remove {}, which a broker that was killed has left: {error}",
                path.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// Changes the umask of the whole process, so this test needs a runner with a process for each
    /// test.
    #[test]
    fn folder_and_copies_are_private_with_any_umask() {
        for mask in [0o000, 0o002, 0o022, 0o777] {
            let parent = tempfile::tempdir().unwrap();
            let before = rustix::process::umask(Mode::from_raw_mode(mask));
            let copies = Copies::make(parent.path());
            let copy = copies.as_ref().map(|copies| copies.add(b"code"));
            rustix::process::umask(before);
            let copy = copy.unwrap().unwrap();
            assert_eq!((mode(&copy.copies.path), mode(&copy.path())), (0o700, 0o600), "umask {mask:03o}");
            assert_eq!(std::fs::read(copy.path()).unwrap(), b"code");
            let name = copy.copies.path.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(name.len(), PREFIX.len() + 32, "{name}");
        }
    }

    #[test]
    fn an_unwritable_folder_is_replaced_by_a_temporary_one() {
        let parent = tempfile::tempdir().unwrap();
        let (file, other) = (parent.path().join("file"), parent.path().join("other"));
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(&other).unwrap();
        let copies = Copies::make_in_either(Some(&file), &other).unwrap();
        assert_eq!(copies.folder().parent(), Some(&*other));
        let copies = Copies::make_in_either(Some(&other), &file).unwrap();
        assert_eq!(copies.folder().parent(), Some(&*other));
        let error = Copies::make_in_either(Some(&file), &file).unwrap_err().to_string();
        let named = format!("{}: Not a directory", file.display());
        assert_eq!(error.matches(&named).count(), 2, "{error}");
        assert!(error.ends_with("choose others with state.dir and TMPDIR"), "{error}");
    }

    #[test]
    fn a_copy_has_its_own_path_and_is_removed_when_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let copies = Copies::make(parent.path()).unwrap();
        let first = copies.add(b"one").unwrap();
        let path = first.path();
        drop(first);
        let second = copies.add(b"two").unwrap();
        assert_ne!(second.path(), path);
        assert_eq!(copies.names(), std::slice::from_ref(&second.name));
        drop(second);
        drop(copies);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_has_replaced_ours_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let copies = Copies::make(parent.path()).unwrap();
        let copy = copies.add(b"ours").unwrap();
        let aside = parent.path().join("aside");
        std::fs::rename(&copies.path, &aside).unwrap();
        std::fs::create_dir(&copies.path).unwrap();
        std::fs::write(copies.path.join(&copy.name), b"planted").unwrap();
        assert_eq!(std::fs::read(copy.path()).unwrap(), b"ours");
        drop(copy);
        assert_eq!(std::fs::read_dir(&aside).unwrap().count(), 0);
        let planted = copies.path.clone();
        drop(copies);
        assert!(planted.exists(), "what is not ours is not removed");
    }

    #[test]
    fn copies_of_dead_brokers_are_removed_and_those_of_running_ones_stay() {
        let parent = tempfile::tempdir().unwrap();
        let living = Copies::make(parent.path()).unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        let link = parent.path().join(format!("{PREFIX}link"));
        let other = parent.path().join("precious");
        for folder in [&dead, &other] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("plugin-1.so"), b"code").unwrap();
        }
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let next = Copies::make(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path.exists() && next.path.exists() && link.exists());
        assert!(other.join("plugin-1.so").exists());
    }
}
