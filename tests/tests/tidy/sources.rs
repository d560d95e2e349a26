//! Which files have `unsafe`, how sources are named and begin, and which files the documents name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use grapnel_tests::markdown::Page;
use grapnel_tests::repository::{assert_none, files, files_with, is_of_tests, text};

/// Rust sources of the product: without tests, benchmarks, and plugins for tests.
fn product() -> Vec<PathBuf> {
    let mut sources = files_with(&["rs"]);
    sources.retain(|path| {
        let is_product =
            ["broker", "plugin-abi", "plugins", "bench"].iter().any(|folder| path.starts_with(folder));
        let for_tests = ["plugins/testing", "bench/benches"].iter().any(|folder| path.starts_with(folder));
        is_product && !for_tests && !is_of_tests(path)
    });
    sources
}

/// Whether a line of code has the keyword.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let mut places = code.match_indices("unsafe");
    places.any(|(at, word)| {
        let before = code[..at].chars().next_back();
        let behind = &code[at + word.len()..];
        let is_word = !before.is_some_and(|each| each.is_alphanumeric() || each == '_' || each == '"');
        is_word && [" {", " fn", " impl", " extern", "("].iter().any(|next| behind.starts_with(next))
    })
}

/// The files in which CONTRIBUTING.md allows `unsafe`; a folder stands for all its files.
fn allowed() -> BTreeSet<String> {
    let contributing = text("CONTRIBUTING.md");
    let (_, rest) = contributing.split_once("**`unsafe`**").expect("the paragraph is there");
    let (paragraph, _) = rest.split_once("\n\n").expect("it ends");
    let mut allowed = BTreeSet::new();
    let mut folder = "";
    for span in paragraph.split('`').skip(1).step_by(2).filter(|span| !span.contains("SAFETY")) {
        // `in FOLDER the files A, B`: each of them is named below the folder.
        if paragraph.contains(&format!("in `{span}` the files")) {
            folder = span;
        } else if span.contains("src") {
            allowed.insert(span.to_owned());
        } else {
            allowed.insert(format!("{folder}/{span}"));
        }
    }
    allowed
}

#[test]
fn unsafe_is_only_where_contributing_allows_it() {
    let allowed = allowed();
    let has = |path: &PathBuf| text(path).lines().any(has_unsafe);
    let found: BTreeSet<String> = product()
        .iter()
        .filter(|path| has(path))
        .map(|path| path.to_string_lossy().into_owned())
        .map(|path| allowed.iter().find(|allowed| path.starts_with(*allowed)).cloned().unwrap_or(path))
        .collect();
    assert_eq!(found, allowed, "left: files with unsafe; right: what CONTRIBUTING.md names");
}

#[test]
fn the_keyword_is_found() {
    for line in ["unsafe { a }", "pub unsafe fn a()", "    let b = unsafe { c };", "#[unsafe(no_mangle)]"] {
        assert!(has_unsafe(line), "{line}");
    }
    for line in ["// unsafe { a }", "#![forbid(unsafe_code)]", "not_unsafe(a)", "\"unsafe \""] {
        assert!(!has_unsafe(line), "{line}");
    }
}

#[test]
fn files_have_names_and_heads() {
    let mut faults = Vec::new();
    for path in files_with(&["rs"]) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if matches!(&*name, "utils.rs" | "types.rs" | "common.rs" | "helpers.rs") {
            faults.push(format!("{}: a name that says what it is for", path.display()));
        }
        // Files that cargo would take for a test or a benchmark.
        if name == "mod.rs" && !is_of_tests(&path) && !path.starts_with("bench/benches") {
            faults.push(format!("{}: FOLDER.rs beside FOLDER instead", path.display()));
        }
        if !is_of_tests(&path) && !text(&path).starts_with("//!") {
            faults.push(format!("{}: it does not begin with what it is for", path.display()));
        }
    }
    assert_none("files", &faults);
}

/// Whether a code span is the name of a file or a folder, and not an example.
fn is_path(span: &str) -> bool {
    let endings = [".rs", ".md", ".py", ".toml", ".h", ".txt", ".json", ".c", ".cpp", ".sh", ".java"];
    let is_file = endings.iter().any(|ending| span.ends_with(ending));
    let plain = |each: char| each.is_ascii_lowercase() || each.is_ascii_digit() || "._-/".contains(each);
    let is_plain = span.chars().all(|each| plain(each) || each.is_ascii_uppercase());
    // NAME stands for any name; a path from the root is one of the machine.
    is_plain
        && !span.contains("NAME")
        && !span.starts_with(['/', '-', '.'])
        && (is_file || span.contains('/'))
}

#[test]
fn files_named_in_the_documents_for_contributors_exist() {
    let mut known: BTreeSet<PathBuf> = files().into_iter().collect();
    let folders: Vec<PathBuf> =
        known.iter().flat_map(|file| file.ancestors().skip(1).map(Path::to_owned)).collect();
    known.extend(folders);
    let mut faults = Vec::new();
    let mut seen = 0;
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"].map(Page::read) {
        for (line, span) in page.spans() {
            // Cargo's output does not exist yet, and `foo` is an example.
            if !is_path(&span) || span.starts_with("target") || span.starts_with("foo") {
                continue;
            }
            seen += 1;
            let name = Path::new(span.trim_end_matches('/'));
            if !known.iter().any(|file| file.ends_with(name)) {
                faults.push(format!("{}: `{span}`", page.at(line)));
            }
        }
    }
    assert!(seen > 200, "{seen} are not all of them");
    assert_none("files that there are not", &faults);
}
