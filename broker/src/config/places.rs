//! Default paths: control socket, state folder, plugins. Used by the configuration and by
//! `grapnel-ctl`, which must find the same socket. Reads the file system and changes nothing.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use grapnel_engine::id::SHARDS_MAX;

/// What the defaults depend on: the process's environment, its user, its executable, its cores.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Environment variables.
    pub vars: Vec<(OsString, OsString)>,
    /// Effective user id.
    pub uid: u32,
    /// Folder of the running executable, where it is known.
    pub executable_dir: Option<PathBuf>,
    /// Cores that this process may use, at least 1.
    pub cores: usize,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        Environment {
            vars: std::env::vars_os().collect(),
            uid: rustix::process::geteuid().as_raw(),
            executable_dir: std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// The value of a variable; an empty one counts as absent, as the XDG specification requires.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.vars
            .iter()
            .find(|(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value.as_os_str())
    }

    /// A folder named by a variable; a relative one is ignored, as the XDG specification requires.
    fn dir(&self, name: &str) -> Option<PathBuf> {
        self.var(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
    }

    /// The default control socket of broker and `grapnel-ctl`: `/run/grapnel.sock` for root, else
    /// `$XDG_RUNTIME_DIR/grapnel.sock`, else `/tmp/grapnel-UID.sock`.
    pub fn default_socket(&self) -> PathBuf {
        if self.uid == 0 {
            return PathBuf::from("/run/grapnel.sock");
        }
        match self.dir("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("grapnel.sock"),
            None => PathBuf::from(format!("/tmp/grapnel-{}.sock", self.uid)),
        }
    }

    /// The default state folder: `/var/lib/grapnel` for root, else `$XDG_STATE_HOME/grapnel`, else
    /// `~/.local/state/grapnel`. `None` without a home folder: the state decides which plugins are
    /// loaded, so it must not be in a folder that other users can write to.
    pub fn default_state_dir(&self) -> Option<PathBuf> {
        if self.uid == 0 {
            return Some(PathBuf::from("/var/lib/grapnel"));
        }
        self.dir("XDG_STATE_HOME")
            .or_else(|| self.dir("HOME").map(|home| home.join(".local/state")))
            .map(|dir| dir.join("grapnel"))
    }

    /// The default folder of plugins: the executable's folder if it contains any (a build folder),
    /// else `/usr/lib/grapnel/plugins`.
    pub fn default_plugins_dir(&self) -> PathBuf {
        match &self.executable_dir {
            Some(dir) if holds_plugins(dir) => dir.clone(),
            _ => PathBuf::from("/usr/lib/grapnel/plugins"),
        }
    }

    /// A shard for each core, at most 64.
    pub fn default_shards(&self) -> usize {
        self.cores.clamp(1, SHARDS_MAX)
    }
}

fn holds_plugins(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| {
        entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with("libgrapnel_") && name.ends_with(".so"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(vars: &[(&str, &str)]) -> Environment {
        let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        Environment { vars, uid: 1000, executable_dir: None, cores: 2 }
    }

    #[test]
    fn root_has_the_system_folders_whatever_its_environment_says() {
        let root = Environment { uid: 0, ..user(&[("XDG_RUNTIME_DIR", "/run/user/0"), ("HOME", "/root")]) };
        assert_eq!(root.default_socket(), Path::new("/run/grapnel.sock"));
        assert_eq!(root.default_state_dir().unwrap(), Path::new("/var/lib/grapnel"));
    }

    #[test]
    fn a_user_has_the_folders_of_the_xdg_specification() {
        let env = user(&[("XDG_RUNTIME_DIR", "/run/user/1000"), ("XDG_STATE_HOME", "/s"), ("HOME", "/h")]);
        assert_eq!(env.default_socket(), Path::new("/run/user/1000/grapnel.sock"));
        assert_eq!(env.default_state_dir().unwrap(), Path::new("/s/grapnel"));
        assert_eq!(
            user(&[("HOME", "/h")]).default_state_dir().unwrap(),
            Path::new("/h/.local/state/grapnel")
        );
    }

    #[test]
    fn relative_and_empty_folders_are_ignored() {
        assert_eq!(user(&[("XDG_RUNTIME_DIR", "run")]).default_socket(), Path::new("/tmp/grapnel-1000.sock"));
        assert_eq!(user(&[("XDG_STATE_HOME", ""), ("HOME", "h")]).default_state_dir(), None);
    }

    #[test]
    fn plugins_beside_the_executable_are_found_there() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment { executable_dir: Some(dir.path().into()), ..user(&[]) };
        assert_eq!(env.default_plugins_dir(), Path::new("/usr/lib/grapnel/plugins"));
        std::fs::write(dir.path().join("libgrapnel_tap.so"), b"").unwrap();
        assert_eq!(env.default_plugins_dir(), dir.path());
    }

    #[test]
    fn shards_follow_the_cores_up_to_what_a_shard_set_can_name() {
        assert_eq!(Environment { cores: 3, ..user(&[]) }.default_shards(), 3);
        assert_eq!(Environment { cores: 200, ..user(&[]) }.default_shards(), 64);
    }
}
