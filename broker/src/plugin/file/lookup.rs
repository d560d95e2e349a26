//! Finds a plugin's file: a path is used as it is, a name is looked up in `plugins.dir`.

use std::path::{Path, PathBuf};

use crate::plugin::error::LoadError;

/// Names of our plugins in other brokers.
const ALIASES: [(&str, &str); 1] = [("emqx_extension_hook", "exhook")];

/// The file for the name or path that the operator gave.
pub(in crate::plugin) fn find(source: &str, dir: &Path) -> Result<PathBuf, LoadError> {
    if is_path(source) {
        return Ok(PathBuf::from(source));
    }
    if !is_name(source) {
        return Err(LoadError::Name { name: source.to_owned() });
    }
    let alias = ALIASES.iter().find(|(alias, _)| *alias == source);
    let candidates = [
        format!("libgrapnel_{}.so", source.replace('-', "_")),
        format!("{source}.so"),
        format!("lib{source}.so"),
    ];
    let looked: Vec<PathBuf> = candidates.iter().map(|candidate| dir.join(candidate)).collect();
    match (looked.iter().find(|path| path.exists()), alias) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some((_, name))) => find(name, dir),
        (None, None) => Err(LoadError::NotFound { name: source.to_owned(), looked }),
    }
}

/// Whether the operator gave a path instead of a name.
pub(in crate::plugin) fn is_path(source: &str) -> bool {
    source.contains('/') || source.ends_with(".so")
}

/// Whether a text can be the name of a plugin: 1 to 64 letters, digits, `-` and `_`.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plugin_is_found_by_each_spelling_of_its_file_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["libmy-guard.so", "my-guard.so", "libgrapnel_my_guard.so"] {
            std::fs::write(dir.path().join(file), b"").unwrap();
            assert_eq!(find("my-guard", dir.path()).unwrap(), dir.path().join(file));
        }
    }

    #[test]
    fn emqx_s_plugin_name_means_exhook_unless_there_is_such_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("libgrapnel_exhook.so"), b"").unwrap();
        assert_eq!(find("emqx_extension_hook", dir.path()).unwrap(), dir.path().join("libgrapnel_exhook.so"));
        std::fs::write(dir.path().join("emqx_extension_hook.so"), b"").unwrap();
        assert_eq!(
            find("emqx_extension_hook", dir.path()).unwrap(),
            dir.path().join("emqx_extension_hook.so")
        );
    }

    #[test]
    fn the_error_for_an_unknown_name_lists_the_searched_paths() {
        let error = find("my-guard", Path::new("/p")).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no plugin named my-guard; looked for /p/libgrapnel_my_guard.so, /p/my-guard.so, /p/libmy-guard.so; \
             build it, or give the path of its file"
        );
    }

    #[test]
    fn a_path_is_used_unchanged_and_a_name_cannot_leave_the_folder() {
        assert_eq!(find("./x.so", Path::new("/p")).unwrap(), Path::new("./x.so"));
        assert_eq!(find("/a/b", Path::new("/p")).unwrap(), Path::new("/a/b"));
        assert!(matches!(find("..", Path::new("/p")), Err(LoadError::Name { .. })));
        assert!(matches!(find("", Path::new("/p")), Err(LoadError::Name { .. })));
    }
}
