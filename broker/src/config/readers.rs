//! Tests that every setting is read and every counter is raised somewhere. They search the source
//! of the engine and the shell. Test code only.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use grapnel_engine::limits::Limits;
use grapnel_engine::shard::Counters;

use crate::shard::limits::ShellLimits;

/// Settings that no code reads yet. The list may only get shorter: a setting that is read must be
/// removed from it.
const UNREAD: [&str; 0] = [];
/// Counters that no code raises yet. The same rule holds.
const UNRAISED: [&str; 0] = [];

/// A source file without comments, string contents and tests.
struct Source {
    file: PathBuf,
    code: String,
}

/// All sources of the engine and the shell.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("engine/src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let of_tests = path.file_stem().is_some_and(|name| name == "tests" || name == "readers");
            if path.is_dir() && !of_tests {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !of_tests {
                let code = code(&std::fs::read_to_string(&path).unwrap());
                sources.push(Source { file: path.strip_prefix(root).unwrap().to_owned(), code });
            }
        }
    }
    assert!(sources.len() > 100, "these are not the sources: {}", sources.len());
    sources
}

/// The source without comments, without the contents of strings and without the test module at its
/// end.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut left = text;
    while let Some(next) = left.chars().next() {
        let skipped = match next {
            '/' if left.starts_with("//") => left.find('\n').unwrap_or(left.len()),
            '/' if left.starts_with("/*") => left.find("*/").map_or(left.len(), |end| end + 2),
            '"' => text_len(left),
            'r' if left.starts_with("r#\"") => left.find("\"#").map_or(left.len(), |end| end + 2),
            // A character literal. A lifetime has no second quote here.
            '\'' if left.starts_with("'\\") => 2 + left[2..].find('\'').map_or(0, |end| end.max(1) + 1),
            '\'' if left.chars().nth(2) == Some('\'') => {
                left.char_indices().nth(3).map_or(left.len(), |(at, _)| at)
            }
            _ => {
                code.push(next);
                left = &left[next.len_utf8()..];
                continue;
            }
        };
        code.push(' ');
        left = &left[skipped..];
    }
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => code[..tests].to_owned(),
        None => code,
    }
}

/// Bytes of a string literal, with its quotes.
fn text_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, each) in text.char_indices().skip(1) {
        match each {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_word(each: char) -> bool {
    each.is_ascii_alphanumeric() || each == '_'
}

/// Each occurrence of a whole word: the text before it and the text after it.
fn places<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = code.match_indices(word).map(|(at, _)| (&code[..at], &code[at + word.len()..]));
    all.filter(|(before, behind)| !before.ends_with(is_word) && !behind.starts_with(is_word))
}

/// Whether a value is assigned there.
fn is_set(behind: &str) -> bool {
    let behind = behind.trim_start();
    let assigned = behind.starts_with('=') && !behind.starts_with("==") && !behind.starts_with("=>");
    assigned || (behind.get(1..2) == Some("=") && behind.starts_with(['+', '-', '*', '|', '&']))
}

/// Whether a field of this name is read somewhere. With `of`, only reads through a variable or call
/// whose name ends in `of` count.
fn is_read(sources: &[Source], name: &str, of: &str) -> bool {
    let reads = |(before, behind): (&str, &str)| {
        let of_whom =
            before.trim_end().strip_suffix('.').map(|before| before.trim_end().trim_end_matches("()"));
        of_whom.is_some_and(|whom| whom.ends_with(of)) && !is_set(behind)
    };
    sources.iter().any(|source| places(&source.code, name).any(reads))
}

/// All sources except those that declare the settings and read them from files.
fn users() -> Vec<Source> {
    let mut sources = sources();
    sources.retain(|source| {
        !source.file.starts_with("src/config")
            && !source.file.ends_with("limits.rs")
            && !source.file.ends_with("config.rs")
    });
    sources
}

#[test]
fn every_limit_is_read() {
    let sources = users();
    let engine = Limits::SETTINGS.iter().filter(|setting| !is_read(&sources, setting.name, "limits"));
    // The shell's limits are read from a variable named `limits` or `shell`.
    let shell = ShellLimits::SETTINGS.iter().filter(|setting| {
        !is_read(&sources, setting.name, "limits") && !is_read(&sources, setting.name, "shell")
    });
    let unread: Vec<_> = engine.chain(shell).map(|setting| setting.name).collect();
    assert_eq!(unread, UNREAD, "left: what nothing reads; right: what is known not to be read");
}

/// The keys outside of `[limits]`, by the fields of the configuration that they set.
#[test]
fn every_other_key_is_read() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let text = |file: &str| std::fs::read_to_string(source.join(file)).unwrap();
    let declared = code(&(text("config.rs") + &code(&text("config/listener.rs"))));
    let structs = ["Config", "AuthorizationConfig", "PluginConfig", "ControlConfig"];
    let of_listener = ["ListenerConfig", "UnixOptions", "Versions", "SocketOptions", "ProxyProtocol"];
    let of_layers = ["TlsListener", "Certificate", "WebSocketListener"];
    let structs = structs.into_iter().chain(of_listener).chain(of_layers);
    let mut unread = Vec::new();
    let sources = users();
    let mut seen = 0;
    for name in structs {
        let (_, body) = declared.split_once(&format!("pub struct {name} {{")).unwrap();
        let (body, _) = body.split_once('}').unwrap();
        for field in
            body.split("pub ").filter_map(|field| field.split_once(':')).map(|(field, _)| field.trim())
        {
            seen += 1;
            // Names that other types have too are read in any case.
            if field != "sources" && !is_read(&sources, field, "") {
                unread.push(format!("{name}::{field}"));
            }
        }
    }
    assert_eq!(unread, [""; 0], "nothing reads these fields");
    assert!(seen > 60, "{seen} fields are not all of them");
}

#[test]
fn every_counter_is_raised_and_shown() {
    let sources = sources();
    let rows = Counters::default().rows();
    let raised = |name: &str| {
        let raises = |(before, behind): (&str, &str)| {
            // Raised as a whole, or passed as `&mut` to code that raises it.
            let field = before.trim_end().ends_with('.');
            field && (is_set(behind) || lent(before))
        };
        sources.iter().any(|source| places(&source.code, name).any(raises))
    };
    let unraised: Vec<_> = rows.iter().map(|(name, ..)| *name).filter(|name| !raised(name)).collect();
    assert_eq!(unraised, UNRAISED, "left: what nothing raises; right: what is known not to be raised");
    // `rows` lists each field of the struct, because it takes the struct apart. The API shows all
    // rows in both formats.
    let shows = sources.iter().find(|source| source.file.ends_with("control/status.rs")).unwrap();
    assert!(shows.code.matches("all.rows()").count() >= 2, "metrics are no longer all rows");
}

/// Whether the text before a field ends in `&mut` and a path.
fn lent(before: &str) -> bool {
    let path = before.trim_end_matches(|each: char| is_word(each) || ".()".contains(each));
    path.trim_end().ends_with("&mut")
}

#[test]
fn comments_texts_and_tests_are_no_readers() {
    let text = "a.one; // b.two\n/* c.three */ d(\"e.four \\\" f.five\", '\"', 'x', r#\"g.six\"#, h::<'a>(i.seven));\n\
        #[cfg(test)]\nmod tests { j.eight }";
    let code = code(text);
    let has = |name| places(&code, name).next().is_some();
    assert!(has("one") && has("seven"), "{code}");
    for name in ["two", "three", "four", "five", "six", "eight"] {
        assert!(!has(name), "{name} in {code}");
    }
    assert!(is_set(" = 1") && is_set(" += 1") && !is_set(" == 1") && !is_set(" => {}") && !is_set(">= 1"));
    let source = |code: &str| [Source { file: PathBuf::new(), code: code.to_owned() }];
    assert!(is_read(&source("self.limits().x_max"), "x_max", "limits"));
    assert!(!is_read(&source("self.limits.x_max = 3"), "x_max", "limits"));
    assert!(!is_read(&source("self.other.x_max"), "x_max", "limits"));
    assert!(!is_read(&source("self.limits.xx_max + x_max"), "x_max", "limits"));
}
