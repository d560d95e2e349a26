//! Files of at most 500 lines and functions of at most 70, outside of tests.

use std::path::{Path, PathBuf};

use grapnel_tests::repository::{assert_none, files, is_of_tests, text};

const LINES_OF_FILE_MAX: usize = 500;
const LINES_OF_FUNCTION_MAX: usize = 70;

/// The one longer file: the C header, which is generated from the ABI's source.
const GENERATED: &str = "plugin-abi/include/grapnel_plugin.h";

/// Sources outside of tests.
fn sources() -> Vec<PathBuf> {
    let endings = ["rs", "py", "c", "cpp", "h", "hpp", "java", "mjs"];
    let mut files = files();
    files.retain(|file| {
        let ending = file.extension().and_then(|ending| ending.to_str());
        let is_script = file.starts_with("scripts") || file.starts_with(".ci");
        (is_script || ending.is_some_and(|ending| endings.contains(&ending))) && !is_of_tests(file)
    });
    assert!(files.len() > 300, "{} sources are not all of them", files.len());
    files
}

/// The text of a source without its test module, which is at its end.
fn without_tests(path: &Path) -> String {
    let text = text(path);
    let module = text.match_indices("\n#[cfg(test)]\n").find(|(at, attribute)| {
        let behind = &text[at + attribute.len()..];
        behind.lines().find(|line| !line.starts_with('#')).is_some_and(|line| line.ends_with('{'))
    });
    module.map_or(text.clone(), |(at, _)| text[..=at].to_owned())
}

#[test]
fn no_file_is_long() {
    let sources = sources();
    assert!(sources.iter().any(|path| path == Path::new(GENERATED)), "{GENERATED} is gone");
    let mut faults = Vec::new();
    for path in sources.iter().filter(|path| *path != Path::new(GENERATED)) {
        let lines = without_tests(path).lines().count();
        if lines > LINES_OF_FILE_MAX {
            faults.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert_none(&format!("files of more than {LINES_OF_FILE_MAX} lines: split them"), &faults);
}

/// Functions of a source in rustfmt's form, with the lines that clippy counts: those of the body,
/// without empty ones and comments.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut functions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        // `$name` is a function that a macro makes.
        let Some(name) = name_of_function(line).filter(|name| !name.starts_with('$')) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let head = lines[at..].iter().take_while(|line| !line.ends_with(['{', ';', '}'])).count();
        if !lines.get(at + head).is_some_and(|line| line.ends_with('{')) {
            continue;
        }
        let end = format!("{indent}}}");
        let body = lines[at + head + 1..].iter().take_while(|line| **line != end);
        let counted = body.filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//")).count();
        functions.push((name.to_owned(), counted));
    }
    functions
}

fn name_of_function(line: &str) -> Option<&str> {
    let (before, behind) = line.split_once("fn ")?;
    let words =
        ["pub", "pub(super)", "pub(crate)", "const", "async", "unsafe", "extern", "\"C\"", "\"C-unwind\""];
    let is_head = before.split_whitespace().all(|word| words.contains(&word) || word.starts_with("pub(in"));
    is_head.then(|| behind.split(['(', '<']).next().unwrap_or(behind))
}

#[test]
fn no_function_is_long() {
    let mut long = Vec::new();
    let mut seen = 0;
    for path in sources().iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        for (name, lines) in functions(&without_tests(path)) {
            seen += 1;
            if lines > LINES_OF_FUNCTION_MAX {
                long.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(seen > 3000, "{seen} functions are not all of them");
    assert_none(&format!("functions of more than {LINES_OF_FUNCTION_MAX} lines: split them"), &long);
}

#[test]
fn clippy_and_the_documents_have_the_same_numbers() {
    let clippy = format!("too-many-lines-threshold = {LINES_OF_FUNCTION_MAX}\n");
    assert!(text("clippy.toml").contains(&clippy), "clippy.toml does not say {clippy}");
    let contributing = text("CONTRIBUTING.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let numbers =
        format!("more than {LINES_OF_FILE_MAX} lines or a function of more than {LINES_OF_FUNCTION_MAX}");
    assert!(contributing.contains(&numbers), "CONTRIBUTING.md does not say: {numbers}");
}

#[test]
fn lines_are_counted_as_clippy_does() {
    let text = "impl A {\n    pub(super) async fn one<'a>(\n        b: &'a u8,\n    ) -> u8 {\n        // no line\n\n        \
                if b {\n            c\n        }\n    }\n    fn two(self);\n    fn three() {}\n}\n";
    assert_eq!(functions(text), [("one".to_owned(), 3)]);
}
