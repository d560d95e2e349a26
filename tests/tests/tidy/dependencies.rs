//! Every dependency has its line in ARCHITECTURE.md and is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use grapnel_tests::markdown::names_in;
use grapnel_tests::repository::{assert_none, files, text};

/// External dependencies of a manifest.
fn of_manifest(path: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in text(path).lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            assert!(!section.contains("dependencies."), "{}: {section} is not understood", path.display());
        } else if inside
            && let Some((name, _)) = line.split_once(['=', '.'])
            && !line.starts_with('#')
        {
            names.insert(name.trim().to_owned());
        }
    }
    names.retain(|name| !name.starts_with("grapnel"));
    names
}

fn manifests() -> BTreeMap<PathBuf, BTreeSet<String>> {
    let all = files().into_iter().filter(|file| file.ends_with("Cargo.toml"));
    let manifests: BTreeMap<_, _> = all.map(|path| (path.clone(), of_manifest(&path))).collect();
    assert!(manifests.len() > 20, "{} manifests are not all of them", manifests.len());
    manifests
}

/// Packages of other languages in the same list.
const OF_WORKERS: [&str; 2] = ["msgpack", "msgpack-core"];

#[test]
fn every_dependency_has_its_line_and_every_line_its_dependency() {
    let architecture = text("ARCHITECTURE.md");
    let (_, section) = architecture.split_once("\n## Dependencies\n").expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter_map(|line| line.strip_prefix("* "));
    let described: BTreeSet<String> =
        lines.flat_map(|line| names_in(line.split(": ").next().unwrap_or_default())).collect();
    let used: BTreeSet<String> = manifests().into_values().flatten().collect();
    let missing: Vec<_> = used.difference(&described).cloned().collect();
    let gone: Vec<_> =
        described.difference(&used).filter(|name| !OF_WORKERS.contains(&name.as_str())).cloned().collect();
    assert_none("dependencies without a line in ARCHITECTURE.md", &missing);
    assert_none("lines of ARCHITECTURE.md without a dependency", &gone);
}

/// Whether a package's source names a crate.
fn names(sources: &str, dependency: &str) -> bool {
    let name = dependency.replace('-', "_");
    sources.match_indices(&name).any(|(at, _)| {
        let before = sources[..at].chars().next_back();
        let behind = &sources[at + name.len()..];
        let begins = !before.is_some_and(|each| each.is_alphanumeric() || each == '_' || each == '.');
        begins && ["::", ";", " as ", ",", "}"].iter().any(|next| behind.starts_with(next))
    })
}

#[test]
fn every_dependency_is_used_by_its_package() {
    let manifests = manifests();
    let all = files();
    let mut faults = Vec::new();
    for (manifest, dependencies) in &manifests {
        let folder = manifest.parent().unwrap_or(Path::new(""));
        // The workspace's own list is the source for packages.
        if folder == Path::new("") {
            let taken: BTreeSet<&String> =
                manifests.iter().filter(|(path, _)| *path != manifest).flat_map(|(_, names)| names).collect();
            let left = dependencies.iter().filter(|name| !taken.contains(name));
            faults.extend(left.map(|name| format!("Cargo.toml: no package takes {name}")));
            continue;
        }
        let is_inner = |file: &&PathBuf| {
            let nearest =
                file.ancestors().skip(1).find(|folder| manifests.contains_key(&folder.join("Cargo.toml")));
            nearest == Some(folder) && file.extension().is_some_and(|ending| ending == "rs")
        };
        let sources: String = all.iter().filter(is_inner).map(text).collect();
        let unused = dependencies.iter().filter(|name| !names(&sources, name));
        faults.extend(unused.map(|name| format!("{}: no source names {name}", manifest.display())));
    }
    assert_none("dependencies that are not used", &faults);
}
