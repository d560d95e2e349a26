//! The verb `passwd`, called by `grapnel-ctl passwd`: sets or deletes a user's entry in a file,
//! without a broker. The file is replaced as a whole, so that the plugin reads either the old file
//! or the new one.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use argon2::{Argon2, PasswordHasher};
use grapnel_plugin_abi::verb::Answer;
use grapnel_plugin_abi::{Secret, VerbCall, VerbError};

grapnel_plugin_abi::arguments! {
    /// What `passwd` is given.
    pub(crate) struct Passwd {
        /// The password file; it is created if it does not exist, readable only by its owner
        file: PathBuf,
        /// The user name that clients send
        user: String,
        /// Delete this user instead of setting a password
        delete: bool,
        /// The new password
        password: Option<Secret> {
            required: true,
            prompt: "Password of {user}",
            twice: true,
            // The maximum length in CONNECT (section 3.1.3.6).
            max: 65_535,
            unless: "delete",
        },
    }
}

pub(crate) fn passwd(given: Passwd, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
    let Passwd { file, user, delete: deletes, password } = given;
    check_user(&user)?;
    let shown = file.display();
    let (text, action) = if deletes {
        delete(&file, &user)?;
        (format!("user {user} was deleted from {shown}"), "deleted")
    } else {
        let Secret(password) = password
            .filter(|Secret(password)| !password.is_empty())
            .ok_or_else(|| VerbError::new("the password is empty; nothing was changed"))?;
        set(&file, &user, &password)?;
        (format!("the password of {user} was set in {shown}"), "set")
    };
    let done = Done { file: &file, user: &user, action };
    Ok(Answer::text(text).value(&done)?)
}

#[derive(serde::Serialize)]
struct Done<'a> {
    file: &'a Path,
    user: &'a str,
    action: &'static str,
}

fn check_user(user: &str) -> Result<(), VerbError> {
    let wrong = match user {
        "" => "must not be empty",
        _ if user.contains(':') => "must not hold a colon, which ends it in the file",
        _ if user.starts_with('#') => "must not begin with #, which begins a comment in the file",
        _ if user.contains(char::is_control) => "must not hold control characters",
        _ if user.len() > usize::from(u16::MAX) => "must have at most 65535 bytes",
        _ => return Ok(()),
    };
    Err(VerbError::usage(format!("a user name {wrong}")))
}

/// Sets a user's entry: replaces the existing one, or appends it.
fn set(path: &Path, user: &str, password: &str) -> Result<(), VerbError> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    let hash = hash.map_err(|error| VerbError::new(format!("cannot hash the password: {error}")))?;
    let entry = format!("{user}:{hash}");
    let text = read(path)?.unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().collect();
    let place = lines.iter().position(|line| is_entry_of(line, user));
    match place {
        Some(place) => lines[place] = &entry,
        None => lines.push(&entry),
    }
    replace(path, &lines)
}

fn delete(path: &Path, user: &str) -> Result<(), VerbError> {
    let missing = || VerbError::new(format!("there is no user {user} in {}", path.display()));
    let text = read(path)?.ok_or_else(missing)?;
    let others: Vec<&str> = text.lines().filter(|line| !is_entry_of(line, user)).collect();
    if others.len() == text.lines().count() {
        return Err(missing());
    }
    replace(path, &others)
}

fn is_entry_of(line: &str, user: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| name == user)
}

/// The file's text; `None` if there is no file.
fn read(path: &Path) -> Result<Option<String>, VerbError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(VerbError::new(format!("cannot read {}: {error}", path.display()))),
    }
}

fn replace(path: &Path, lines: &[&str]) -> Result<(), VerbError> {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let shown = path.display();
    if let Some(folder) = missing_folder(path) {
        let folder = folder.display();
        return Err(VerbError::new(format!(
            "cannot write {shown}: there is no folder {folder}; make it with mkdir -p {folder}, or give another path"
        )));
    }
    write_whole(path, &text)
        .map_err(|error| VerbError::new(format!("cannot write {shown}: {error}; it is as it was")))
}

/// The folder of a file that is to be written, if it does not exist.
fn missing_folder(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let folder = path.parent()?;
    let missing = std::fs::metadata(folder).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    missing.then(|| folder.to_owned())
}

/// Writes a new file beside the old one and renames it. A new file can be read only by its owner.
/// An existing file keeps its owner and mode, so that the broker can still read it.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    // Resolves a link first, because the rename would replace the link.
    let old = std::fs::metadata(path).ok();
    let path = if old.is_some() { std::fs::canonicalize(path)? } else { std::path::absolute(path)? };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .prefix(".grapnel-passwd-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    if let Some(old) = old {
        let new = file.as_file().metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        file.as_file().set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use argon2::PasswordVerifier;
    use argon2::password_hash::phc::PasswordHash;

    use super::*;

    fn opens(path: &Path, user: &str, password: &str) -> bool {
        let text = std::fs::read_to_string(path).unwrap();
        let entry = text.lines().find_map(|line| line.strip_prefix(&format!("{user}:"))).unwrap().to_owned();
        assert!(entry.starts_with("$argon2id$v=19$"), "{entry}");
        let hash = PasswordHash::new(&entry).unwrap();
        Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
    }

    #[test]
    fn a_new_file_is_private_and_its_entry_accepts_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        set(&path, "ann", "secret").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(opens(&path, "ann", "secret"));
        assert!(!opens(&path, "ann", "Secret"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_entry_is_replaced_in_its_place_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::fs::write(&path, "# ours\nann:old\nann2:x\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        set(&path, "ann", "secret").unwrap();
        set(&path, "bob", "b").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[2], lines.len()), ("# ours", "ann2:x", 4));
        assert!(opens(&path, "ann", "secret") && opens(&path, "bob", "b"));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640, "the broker can still read it");
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("users"), dir.path().join("link"));
        std::fs::write(&path, "ann:x\n").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        set(&link, "bob", "b").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(opens(&path, "bob", "b"));
    }

    #[test]
    fn deleting_removes_the_user_or_reports_that_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        assert!(delete(&path, "ann").unwrap_err().to_string().starts_with("there is no user ann in "));
        std::fs::write(&path, "ann:x\nann2:y\n").unwrap();
        delete(&path, "ann").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ann2:y\n");
        assert!(delete(&path, "ann").is_err());
    }

    #[test]
    fn a_missing_folder_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("nodir");
        let error = set(&folder.join("users"), "ann", "secret").unwrap_err().to_string();
        let folder = folder.display();
        let expected = format!(
            "cannot write {folder}/users: there is no folder {folder}; make it with mkdir -p {folder}, or give another path"
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn user_names_that_the_file_cannot_contain_are_refused() {
        for user in ["", "a:b", "#a", "a\nb"] {
            assert!(
                check_user(user).is_err_and(|error| error.to_string().starts_with("a user name must")),
                "{user:?}"
            );
        }
        assert!(check_user("jürgen o'neil").is_ok());
    }
}
