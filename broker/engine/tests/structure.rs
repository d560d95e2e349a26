//! The layout holds: arrows between the modules of the engine point down only, and a shard has one face. Read from the source, so
//! that a circle fails here before anybody has to find it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules by path (`flow::publish`), with the text of their files.
type Modules = BTreeMap<String, String>;
/// Which modules a module names.
type Arrows = BTreeMap<String, BTreeSet<String>>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn modules_of(root: &Path) -> Modules {
    let mut modules = Modules::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "lib.rs" {
                let relative = path.strip_prefix(root).unwrap().with_extension("");
                let module = relative.to_string_lossy().replace('/', "::");
                if !module.split("::").any(|part| part == "tests") {
                    modules.insert(module, std::fs::read_to_string(&path).unwrap());
                }
            }
        }
    }
    modules
}

/// The code without comments and without the tests at the end of the file.
fn code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..tests].lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expanded(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, inner)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or(tree).trim().to_owned()];
    };
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let (mut parts, mut depth, mut part) = (Vec::new(), 0, String::new());
    for letter in inner.chars() {
        match letter {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {
                depth += i32::from(letter == '{') - i32::from(letter == '}');
                part.push(letter);
            }
        }
    }
    parts.push(part);
    parts
        .iter()
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| expanded(part).into_iter().map(|path| format!("{}{path}", before.trim())))
        .collect()
}

/// Every path in the code that begins with `crate` or `super`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(place) = rest.find("use ") {
        let begins =
            rest[..place].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_');
        rest = &rest[place + 4..];
        if let (true, Some(end)) = (begins, rest.find(';')) {
            found.extend(expanded(&rest[..end]));
        }
    }
    for start in ["crate::", "super::"] {
        found.extend(code.match_indices(start).map(|(place, _)| {
            let path = &code[place..];
            let end = path.find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
            path[..end.unwrap_or(path.len())].trim_end_matches(':').to_owned()
        }));
    }
    found
}

/// The module that a path seen in `from` names, if it is one of ours.
fn target(modules: &Modules, from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").map(str::trim).filter(|part| *part != "self").collect();
    let mut base: Vec<&str> = match *parts.first()? {
        "crate" => Vec::new(),
        "super" => from.split("::").collect(),
        _ => return None,
    };
    while parts.first().is_some_and(|part| *part == "super") {
        parts.remove(0);
        base.pop();
    }
    if parts.first().is_some_and(|part| *part == "crate") {
        parts.remove(0);
    }
    base.extend(parts);
    while !base.is_empty() {
        let name = base.join("::");
        if modules.contains_key(&name) {
            return Some(name);
        }
        base.pop();
    }
    None
}

fn arrows_of(modules: &Modules) -> Arrows {
    let mut arrows = Arrows::new();
    for (module, text) in modules {
        let named = paths(&code(text)).into_iter().filter_map(|path| target(modules, module, &path));
        arrows.insert(module.clone(), named.filter(|named| named != module).collect());
    }
    arrows
}

/// A way from a module back to itself, the shortest through it; `None` where there is none.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    arrows.keys().find_map(|start| {
        let mut ways = std::collections::VecDeque::from([vec![start.clone()]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop_front() {
            for next in arrows.get(way.last()?)? {
                let longer: Vec<String> = way.iter().chain([next]).cloned().collect();
                if next == start {
                    return Some(longer);
                }
                if seen.insert(next.clone()) {
                    ways.push_back(longer);
                }
            }
        }
        None
    })
}

#[test]
fn arrows_between_modules_point_down_only() {
    let modules = modules_of(&source());
    assert!(modules.len() > 40, "the source was read: {}", modules.len());
    if let Some(circle) = circle(&arrows_of(&modules)) {
        panic!("modules go round in a circle: {}", circle.join(" -> "));
    }
}

#[test]
fn a_circle_is_found() {
    let modules = Modules::from([
        ("a".to_owned(), "use crate::{b::{self, B}, d};".to_owned()),
        ("b".to_owned(), "fn f() { super::c::g() }".to_owned()),
        ("c".to_owned(), "// use crate::nothing\nuse crate::a::A;".to_owned()),
        ("d".to_owned(), "use crate::e::E;\n#[cfg(test)]\nmod tests { use crate::a::A; }".to_owned()),
    ]);
    let found = circle(&arrows_of(&modules)).unwrap();
    assert_eq!(found, ["a", "b", "c", "a"]);
}

#[test]
fn a_shard_has_one_face() {
    for (module, text) in modules_of(&source()) {
        let has = code(&text).contains("impl Shard ");
        assert!(!has || module == "shard", "{module} has `impl Shard`: that stands in shard.rs alone");
    }
}

#[test]
fn only_the_face_and_flows_see_all_parts() {
    for (module, text) in modules_of(&source()) {
        let sees = code(&text).contains("Parts");
        let may = module == "parts" || module == "shard" || module.starts_with("flow");
        assert!(!sees || may, "{module} names Parts: below the flows a part knows nothing of the others");
    }
}

#[test]
fn a_packet_is_decoded_once() {
    for (module, text) in modules_of(&source()) {
        let decodes = code(&text).contains("codec::decode(");
        let may = !module.starts_with("flow") || module == "flow::packets" || module == "flow::first_packet";
        assert!(may || !decodes, "{module} decodes a packet: what waits owns it as it was parsed");
    }
}
