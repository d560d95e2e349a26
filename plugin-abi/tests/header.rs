//! Tests of the C header: the committed header matches the Rust source, C and C++ compile it
//! without warnings, and their layout of every table is that of rustc.

#[path = "header/source.rs"]
mod source;
#[path = "header/write.rs"]
mod write;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Source files of the tables and numbers, in the order of the header.
const RAW: [&str; 6] =
    ["raw.rs", "raw/slice.rs", "raw/numbers.rs", "raw/event.rs", "raw/requests.rs", "raw/host.rs"];

fn inside(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
#[cfg(not(feature = "abi-test-grown"))]
fn the_header_says_what_the_source_says() {
    let header = write::header(
        &RAW.map(|file| text(&format!("src/{file}"))),
        &text("src/module.rs"),
        &text("tests/header/helpers.h"),
    );
    let file = inside("include/grapnel_plugin.h");
    if std::env::var_os("GRAPNEL_WRITE_ABI").is_some() {
        std::fs::write(&file, &header).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = header.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        header == committed,
        "include/grapnel_plugin.h is not what the source says (first in line {}); write it anew with: just abi",
        differs.unwrap_or_else(|| header.lines().count().min(committed.lines().count())) + 1
    );
}

#[test]
fn the_header_is_made_of_every_file() {
    let files = std::fs::read_dir(inside("src/raw")).expect("the folder is there");
    let files = files.map(|file| file.expect("an entry").file_name().to_string_lossy().into_owned());
    let forgotten: Vec<String> =
        files.filter(|file| !RAW.contains(&format!("raw/{file}").as_str())).collect();
    assert!(forgotten.is_empty(), "tests/header.rs does not read {forgotten:?}");
}

/// A minimal plugin, so that a compiler has a file to compile.
const MINIMAL: &str = r#"
#include "grapnel_plugin.h"
static grapnel_plugin_module module;
const grapnel_plugin_module *grapnel_plugin_v1(void) {
    static const grapnel_slice name = GRAPNEL_LITERAL("minimal");
    module = grapnel_module();
    return grapnel_starts_with(name, grapnel_text("mini")) ? &module : NULL;
}
"#;

fn compile(compiler: &str, language: &str, standard: &str, source_text: &str) {
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let (source, object) = (folder.path().join("minimal"), folder.path().join("minimal.o"));
    std::fs::write(&source, source_text).expect("the folder is ours");
    let output = Command::new(compiler)
        .args(["-x", language, standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", "-I"])
        .arg(inside("include"))
        .arg("-o")
        .args([object, source])
        .output()
        .unwrap_or_else(|error| panic!("{compiler} cannot be started: {error}; install build-essential"));
    assert!(output.status.success(), "{compiler} {standard}:\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_header_compiles_in_c_without_a_warning() {
    compile("cc", "c", "-std=c11", MINIMAL);
}

#[test]
fn the_header_compiles_in_cplusplus_without_a_warning() {
    compile("c++", "c++", "-std=c++17", MINIMAL);
}

#[test]
fn the_header_compiles_with_clang_if_it_is_installed() {
    for (compiler, language, standard) in [("clang", "c", "-std=c11"), ("clang++", "c++", "-std=c++17")] {
        if Command::new(compiler).arg("--version").output().is_ok() {
            compile(compiler, language, standard, MINIMAL);
        }
    }
}

#[test]
fn the_example_in_the_guide_compiles() {
    let guide = text("src/guide/c.md");
    let example = guide.split_once("```c\n").and_then(|(_, rest)| rest.split_once("```"));
    compile("cc", "c", "-std=c11", example.expect("the chapter has an example").0);
}
