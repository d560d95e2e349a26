//! Dependencies between the modules of the engine go only downwards, and a shard has one public
//! interface. The test reads the source and reports every cycle.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules by path (`flow::publish`), with the text of their files.
type Modules = BTreeMap<String, String>;
/// The modules that each module names.
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

/// The code without comments.
fn uncommented(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The code without the tests at the end of the file.
fn code(text: &str) -> String {
    uncommented(&text[..text.find("#[cfg(test)]").unwrap_or(text.len())])
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

/// The module that a path seen in `from` names, if it is a module of the engine.
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

/// The shortest path from a module back to itself, or `None`.
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
fn modules_depend_on_lower_modules_only() {
    let modules = modules_of(&source());
    assert!(modules.len() > 40, "the source was read: {}", modules.len());
    if let Some(circle) = circle(&arrows_of(&modules)) {
        panic!("modules go round in a circle: {}", circle.join(" -> "));
    }
}

#[test]
fn a_cycle_is_found() {
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
fn a_shard_has_one_public_type() {
    for (module, text) in modules_of(&source()) {
        let has = code(&text).contains("impl Shard ");
        assert!(!has || module == "shard", "{module} has `impl Shard`: that stands in shard.rs alone");
    }
}

#[test]
fn only_the_public_type_and_flows_see_all_parts() {
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

/// Maximum number of parts of a shard. Its settings are not a part: they never change.
const PARTS_MAX: usize = 12;
/// Parts that are plain data: counters that all modules use, and the outbox that the shell empties.
const OPEN_PARTS: [&str; 2] = ["Counters", "Outbox"];

/// A struct: whether it is `Copy`, and its fields with their types.
#[derive(Debug, Default, PartialEq, Eq)]
struct Structure {
    is_value: bool,
    fields: Vec<Field>,
}

#[derive(Debug, PartialEq, Eq)]
struct Field {
    is_private: bool,
    /// Empty for a field without a name.
    name: String,
    of_type: String,
}

/// A struct by its name, from the code of a module.
fn structure(code: &str, name: &str) -> Option<Structure> {
    let is_end = |letter: char| !letter.is_alphanumeric() && letter != '_';
    let (place, begin) = code
        .match_indices("struct ")
        .map(|(place, word)| (place, place + word.len()))
        .find(|(_, begin)| code[*begin..].strip_prefix(name).is_some_and(|rest| rest.starts_with(is_end)))?;
    let before = code[..place].rfind(['}', ';']).map_or(0, |end| end + 1);
    let is_value = code[before..place].contains("Copy");
    let rest = &code[begin..];
    let open = rest.find(['{', '(', ';'])?;
    let (mut fields, mut depth, mut field) = (Vec::new(), 0, String::new());
    for letter in rest[open..].replace("->", "").chars() {
        depth += i32::from("{([<".contains(letter)) - i32::from("})]>".contains(letter));
        match letter {
            ',' if depth == 1 => fields.push(std::mem::take(&mut field)),
            '{' | '(' if depth == 1 && field.is_empty() => {}
            _ if depth == 0 => break,
            _ => field.push(letter),
        }
    }
    fields.push(field);
    Some(Structure { is_value, fields: fields.iter().filter_map(|text| field_of(text)).collect() })
}

/// `pub(crate) name: Type`, or `Type` alone.
fn field_of(text: &str) -> Option<Field> {
    let mut text = text.trim();
    while let Some(attribute) = text.strip_prefix("#[") {
        text = attribute.split_once(']')?.1.trim();
    }
    let is_private = !text.starts_with("pub ") && !text.starts_with("pub(");
    if text.starts_with("pub(") {
        text = text.split_once(')')?.1;
    }
    let text = text.strip_prefix("pub ").unwrap_or(text).trim();
    let (name, of_type) = match text.split_once(':').filter(|(name, rest)| {
        !rest.starts_with(':') && name.trim().chars().all(|letter| letter.is_alphanumeric() || letter == '_')
    }) {
        Some((name, of_type)) => (name.trim().to_owned(), of_type.trim().to_owned()),
        None => (String::new(), text.to_owned()),
    };
    (!text.is_empty()).then_some(Field { is_private, name, of_type })
}

/// The struct that a type name refers to in another module, with that module.
fn defined(modules: &Modules, from: &str, name: &str) -> Option<(String, Structure)> {
    let code = uncommented(modules.get(from)?);
    if let Some(found) = structure(&code, name) {
        return Some((from.to_owned(), found));
    }
    let named = paths(&code).into_iter().find(|path| path.ends_with(&format!("::{name}")))?;
    let below = format!("{from}::{}", named.split("::").next()?);
    let next = target(modules, from, &named).or_else(|| modules.contains_key(&below).then_some(below))?;
    (next != from).then(|| defined(modules, &next, name))?
}

/// Faults in the parts of a shard: too many parts, or fields that flows could access without their
/// methods. The fields of a part are checked too, unless the part is `Copy`.
fn faults_of_parts(modules: &Modules) -> Vec<String> {
    let Some((_, whole)) = defined(modules, "parts", "Parts") else { return vec!["no Parts".to_owned()] };
    let parts: Vec<&str> = whole
        .fields
        .iter()
        .map(|field| field.of_type.as_str())
        .filter(|of_type| !of_type.starts_with("Fixed<"))
        .collect();
    let mut faults = Vec::new();
    if parts.len() > PARTS_MAX {
        faults.push(format!("{} parts: {}", parts.len(), parts.join(", ")));
    }
    let mut seen = BTreeSet::new();
    let mut left: Vec<(String, String)> = parts
        .iter()
        .filter(|part| !OPEN_PARTS.contains(part))
        .map(|part| ("parts".to_owned(), (*part).to_owned()))
        .collect();
    while let Some((from, of_type)) = left.pop() {
        let name = of_type.split('<').next().unwrap_or(&of_type);
        let Some((module, found)) = defined(modules, &from, name) else {
            if parts.contains(&of_type.as_str()) {
                faults.push(format!("{name} is no struct of the engine"));
            }
            continue;
        };
        if found.is_value || !seen.insert((module.clone(), name.to_owned())) {
            continue;
        }
        for field in found.fields {
            if !field.is_private {
                faults.push(format!("{module}::{name} shows {}", field.name));
            }
            left.push((module.clone(), field.of_type));
        }
    }
    faults
}

#[test]
fn a_shard_has_at_most_twelve_parts_with_private_fields() {
    let faults = faults_of_parts(&modules_of(&source()));
    assert!(faults.is_empty(), "a part keeps its own fields in order: {}", faults.join("; "));
}

#[test]
fn too_many_parts_and_public_fields_are_found() {
    let many: String = (0..13).map(|number| format!("p{number}: A, ")).collect();
    let modules = Modules::from([
        (
            "parts".to_owned(),
            format!(
                "mod c;\nuse crate::b::A;\nuse c::C;\nstruct Parts {{ setup: Fixed<A>, c: C<u8, A>, {many} }}"
            ),
        ),
        (
            "b".to_owned(),
            "pub struct A {\n    #[cfg(test)]\n    pub(crate) x: Vec<(u8, u8)>,\n    y: u8,\n}".to_owned(),
        ),
        ("parts::c".to_owned(), "use crate::d::{D, E};\nstruct C<T>(pub u8, D, E);".to_owned()),
        (
            "d".to_owned(),
            "#[derive(Copy)]\nstruct E { pub z: u8 }\npub(crate) struct D { pub z: u8, e: E }".to_owned(),
        ),
    ]);
    let mut found = faults_of_parts(&modules);
    found.sort();
    assert_eq!(
        found,
        [
            format!("14 parts: C<u8, A>, {}", ["A"; 13].join(", ")),
            "b::A shows x".to_owned(),
            "d::D shows z".to_owned(),
            "parts::c::C shows ".to_owned()
        ]
    );
}
