//! Sections of documents and of the Python SDK that are generated from the list of hook points in
//! `plugin-abi/src/point.rs`. Markers show where they begin and end. With `GRAPNEL_WRITE_ABI=1`
//! these tests write them; otherwise they fail if a section is not up to date. The texts about the
//! fields for workers are the comments of the methods in `plugins/exhook/src/hooks.rs` that write
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use grapnel_plugin_abi::point::{FaultPolicy, HookPoint};
use grapnel_tests::markdown::names_in;
use grapnel_tests::repository::{assert_none, files_with, root, text};

/// A hook point as the list has it.
struct Row {
    point: HookPoint,
    /// The name as an identifier.
    hook: &'static str,
    /// Its event in the SDK.
    event: &'static str,
    when: &'static str,
    fields: &'static str,
    /// What a hook may do, what the result means, what can be changed; empty for a notification.
    decides: &'static [&'static str],
}

macro_rules! rows {
    ($($group:ident.$event:ident: $point:ident, $hook:ident, $type:ident {
        $(#[$doc:meta])*
        $number:literal, $kind:ident, $defer:literal, $policy:ident;
        when $when:literal;
        fields $fields:literal;
        $(may $may:literal; result $result:literal; changes $changes:literal;)?
    })*) => {
        const ROWS: &[Row] = &[$(Row {
            point: HookPoint::$point,
            hook: stringify!($hook),
            event: stringify!($type),
            when: $when,
            fields: $fields,
            decides: &[$($may, $result, $changes)?],
        }),*];
    };
}

grapnel_plugin_abi::for_each_point! { rows }

const PYTHON: &str = "plugins/exhook/sdk/python/src/grapnel_exhook";

/// Compares a section with its generated text, or writes it.
#[track_caller]
fn assert_section(file: &str, section: &str, due: &str) {
    let now = text(file);
    let begin = format!("Begin: {section}");
    let at = now.find(&begin).unwrap_or_else(|| panic!("{file} has no section that says \"{begin}\""));
    let line = now[at..].split('\n').next().unwrap_or_default();
    assert!(line.contains("just abi"), "{file}: the line \"{begin}\" does not name `just abi`");
    let at = at + line.len() + 1;
    let end = now[at..].find(&format!("End: {section}")).expect("a section has an end");
    let end = now[at..at + end].rfind('\n').map_or(at, |line| at + line + 1);
    assert_is(file, &format!("{}{due}{}", &now[..at], &now[end..]));
}

#[track_caller]
fn assert_is(file: &str, due: &str) {
    if std::env::var_os("GRAPNEL_WRITE_ABI").is_some() {
        std::fs::write(root().join(file), due).expect("the repository can be written");
    }
    let now = text(file);
    let line = now.lines().zip(due.lines()).position(|(now, due)| now != due).map(|line| line + 1);
    assert!(
        now == due,
        "{file} is not what the list of hook points says (line {line:?}); write it anew with: just abi"
    );
}

/// Rows with the same other cells are merged, at the place of the first.
fn table(header: &[&str], cells: impl IntoIterator<Item = (String, String)>) -> String {
    let mut lines: Vec<(Vec<String>, String)> = Vec::new();
    for (first, others) in cells {
        match lines.iter_mut().find(|(_, known)| *known == others) {
            Some((firsts, _)) => firsts.push(first),
            None => lines.push((vec![first], others)),
        }
    }
    let mut table = format!("\n| {} |\n|{}\n", header.join(" | "), "---|".repeat(header.len()));
    for (firsts, others) in lines {
        let _ = writeln!(table, "| {} | {others} |", firsts.join(", "));
    }
    table + "\n"
}

fn code(name: &str) -> String {
    format!("`{name}`")
}

#[test]
fn the_guide_says_what_each_point_is_for_and_shows() {
    let header =
        ["hook point", "called when", "a hook may", "defer", "on a fault", "the chain's result means"];
    // Each has a row of its own.
    let mut due = table(&header, []);
    due.pop();
    for Row { point, when, decides, .. } in ROWS {
        let (may, result) = (decides.first().unwrap_or(&"observe only"), decides.get(1).unwrap_or(&"–"));
        let defer = if point.may_defer() { "yes" } else { "no" };
        let fault = if point.fault_policy() == FaultPolicy::Deny { "deny" } else { "ignore" };
        let _ = writeln!(due, "| `{}` | {when} | {may} | {defer} | {fault} | {result} |", point.name());
    }
    let file = "plugin-abi/src/guide/points.md";
    assert_section(file, "what each hook point is for", &(due + "\n"));

    let cells = ROWS.iter().map(|row| {
        let changes = row.decides.get(2).unwrap_or(&"none");
        (code(row.point.name()), format!("`{}` | {} | {changes}", row.event, row.fields))
    });
    let header = ["hook point", "type", "fields beside the client's", "fields that can be changed"];
    assert_section(file, "the fields of each hook point", &table(&header, cells));
}

/// The fields for workers at each point, with the class of the event in Python.
fn workers() -> BTreeMap<&'static str, (String, String)> {
    let source = text("plugins/exhook/src/hooks.rs");
    let mut found: BTreeMap<&str, (String, String)> = BTreeMap::new();
    for Row { hook, .. } in ROWS {
        let (before, _) = source
            .split_once(&format!("    fn {hook}(&mut self"))
            .unwrap_or_else(|| panic!("plugins/exhook/src/hooks.rs has no method {hook}"));
        let comment: Vec<&str> =
            before.lines().rev().map_while(|line| line.trim_start().strip_prefix("/// ")).collect();
        let comment = comment.into_iter().rev().collect::<Vec<_>>().join(" ");
        let row = match comment.strip_prefix("As `").and_then(|other| other.strip_suffix("`.")) {
            Some(other) => found.get(other).cloned(),
            None => comment
                .strip_suffix("`.")
                .and_then(|comment| comment.split_once(". Python: `"))
                .map(|(data, class)| (data.to_owned(), class.to_owned())),
        };
        let row = row.unwrap_or_else(|| {
            panic!(
                "plugins/exhook/src/hooks.rs: above {hook} stands {comment:?}, and should stand \
                 \"`[DATA]`. Python: `CLASS`.\" or \"As `OTHER`.\""
            )
        });
        found.insert(*hook, row);
    }
    found
}

#[test]
fn the_protocol_has_the_data_of_each_point() {
    let workers = workers();
    let cells = ROWS.iter().map(|row| (code(row.point.name()), workers[row.hook].0.clone()));
    let due = table(&["point", "`data`"], cells);
    assert_section("plugins/exhook/PROTOCOL.md", "the data of each hook point", &due);
}

#[test]
fn the_python_sdk_has_an_event_for_each_point() {
    let workers = workers();
    let mut due = "OF_POINT: dict[str, type[Event]] = {\n".to_owned();
    for Row { point, hook, .. } in ROWS {
        let _ = writeln!(due, "    \"{}\": {},", point.name(), workers[hook].1);
    }
    assert_section(&format!("{PYTHON}/events.py"), "the class of events of each hook point", &(due + "}\n"));

    let classes: BTreeSet<&str> = workers.values().map(|(_, class)| class.as_str()).collect();
    let file = format!("{PYTHON}/__init__.py");
    let imports: String =
        classes.iter().map(|class| format!("from .events import {class} as {class}\n")).collect();
    assert_section(&file, "the classes of events", &imports);
    let mut names = "__all__ += [\n".to_owned();
    classes.iter().for_each(|class| {
        let _ = writeln!(names, "    \"{class}\",");
    });
    assert_section(&file, "the names of the classes of events", &(names + "]\n"));
}

#[test]
fn the_python_sdk_has_a_decorator_for_each_point() {
    let workers = workers();
    let mut due = String::new();
    for Row { point, hook, event, .. } in ROWS {
        let (name, class) = (point.name(), &workers[hook].1);
        let _ = match (point.may_defer(), point.has_topics()) {
            (true, _) => writeln!(due, "    {hook} = _{event}Verdict()"),
            (false, true) => writeln!(due, "    {hook} = _MessageNotification[events.{class}](\"{name}\")"),
            (false, false) => writeln!(due, "    {hook} = _Notification[events.{class}](\"{name}\")"),
        };
    }
    assert_section(&format!("{PYTHON}/hooks.py"), "a decorator for each hook point", &due);
}

#[test]
fn the_python_readme_lists_the_points_that_notify() {
    let workers = workers();
    let rows = ROWS.iter().filter(|row| !row.point.may_defer());
    let cells = rows.map(|row| {
        let topics = if row.point.has_topics() { "yes" } else { "no" };
        (format!("`on.{}`", row.hook), format!("`{}` | {topics}", workers[row.hook].1))
    });
    let due = table(&["decorator", "event", "may have `topics=[…]`"], cells);
    let file = "plugins/exhook/sdk/python/README.md";
    assert_section(file, "the decorators of hook points that notify", &due);
}

#[test]
fn the_tests_of_workers_know_each_point() {
    let workers = workers();
    let (mut numbers, mut answering, mut data) = (String::new(), String::new(), String::new());
    for Row { point, hook, .. } in ROWS {
        let (name, number) = (point.name(), *point as u16);
        let _ = writeln!(numbers, "    \"{name}\": {number},");
        if point.may_defer() {
            let _ = writeln!(answering, "    \"{name}\",");
        }
        let names = names_in(&workers[hook].0).into_iter().next().unwrap_or_default();
        let _ = writeln!(data, "    \"{name}\": \"{names}\",");
    }
    let due = format!(
        "POINTS = {{\n{numbers}}}\nANSWERING = {{\n{answering}}}\n# The data of a call, by the names of PROTOCOL.md.\n\
         DATA = {{\n{data}}}\n"
    );
    assert_section("plugins/exhook/sdk/python/tests/fake_broker.py", "the hook points", &due);
}

#[test]
fn the_readme_counts_the_points() {
    let readme = text("README.md");
    let (before, behind) = readme.split_once(" hook points.**").expect("README.md counts the hook points");
    let before = before.trim_end_matches(|each: char| each.is_ascii_digit());
    assert_is("README.md", &format!("{before}{} hook points.**{behind}", ROWS.len()));
}

/// EMQX's hooks are fixed, so that a new point does not change their two lists.
#[test]
fn the_drivers_for_emqx_name_points_that_there_are() {
    let java = "plugins/exhook/sdk/java/src/io/grapnel/exhook/Hooks.java";
    let mut lists = Vec::new();
    for (file, of_hook) in [(java, "        kind(\""), (&*format!("{PYTHON}/drivers/emqx.py"), "    \"")] {
        let source = text(file);
        let lines = source.lines().filter(|line| line.starts_with(of_hook) && !line.contains("\"\"\""));
        let hooks = lines.filter_map(|line| {
            let mut words = line.split('"').skip(1).step_by(2);
            let (hook, point) = (words.next()?, HookPoint::from_name(words.next()?));
            let answers = line.to_lowercase().contains("true");
            let point = point.unwrap_or_else(|| panic!("{file}: there is no such hook point: {line}"));
            assert!(!answers || point.may_defer(), "{file}: nobody waits there for an answer: {line}");
            Some((hook.to_owned(), point, answers))
        });
        lists.push(hooks.collect::<BTreeSet<_>>());
    }
    assert_eq!(lists[0], lists[1], "the same hooks in Java and in Python");
    assert!(lists[0].len() > 15, "{lists:?} are not all of them");
}

/// Files that name most of the points by hand, each with the reason. The section "a hook point" in
/// CONTRIBUTING.md lists those that a new point must be added to.
const BY_HAND: [(&str, &str); 10] = [
    ("plugin-abi/src/point.rs", "the list"),
    ("plugin-abi/include/grapnel_plugin.h", "made by the test `header` of plugin-abi"),
    ("plugins/exhook/src/hooks.rs", "of a new point"),
    (
        "plugins/exhook/sdk/python/src/grapnel_exhook/events.py",
        "of a new point, if it has a class of its own",
    ),
    ("broker/engine/tests/engine/table.rs", "of a new point"),
    ("tests/tests/table/rows.rs", "of a new point"),
    ("tests/tests/table/points.rs", "the points of 1.0, which do not change"),
    ("tests/tests/broker/plugins.rs", "the order of what one client brings about"),
    ("broker/engine/tests/engine/points.rs", "tests of single points"),
    ("plugins/exhook/sdk/python/tests/test_own.py", "tests of single points"),
];

/// A file that names so many of the points counts as a list.
const LISTED: usize = 20;

/// A file without its generated sections.
fn by_hand(file: &str) -> String {
    let text = text(file);
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        inside = (inside || line.contains("Begin: ")) && !line.contains("End: ");
        !inside
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// How many points a text names, in any form.
fn named(text: &str) -> usize {
    let words = text.split(|each: char| !(each.is_ascii_alphanumeric() || "._".contains(each)));
    let words: BTreeSet<&str> = words.flat_map(|word| word.split('.').chain([word])).collect();
    let named = ROWS.iter().filter(|row| {
        let (variant, constant) = (format!("{:?}", row.point), row.hook.to_uppercase());
        let in_c = format!("GRAPNEL_POINT_{constant}");
        [row.point.name(), row.hook, &variant, &constant, &in_c].iter().any(|form| words.contains(form))
    });
    named.count()
}

#[test]
fn no_other_file_lists_the_points_by_hand() {
    let files = files_with(&["rs", "py", "java", "c", "cpp", "h", "md", "toml"]);
    let files = files.iter().map(|file| file.display().to_string());
    let lists: BTreeSet<String> = files.filter(|file| named(&by_hand(file)) >= LISTED).collect();
    let known: BTreeSet<String> = BY_HAND.iter().map(|(file, _)| (*file).to_owned()).collect();
    let new: Vec<String> = lists.difference(&known).cloned().collect();
    let gone: Vec<String> = known.difference(&lists).cloned().collect();
    assert_none("lists of hook points beside the one in plugin-abi/src/point.rs", &new);
    assert_none("files of BY_HAND that list no hook points", &gone);
}

#[test]
fn contributing_names_the_files_of_a_new_point() {
    let page = text("CONTRIBUTING.md");
    let (_, section) = page.split_once("### … a hook point\n").expect("the section is there");
    let section = section.split("\n### ").next().unwrap_or_default();
    let items: Vec<&str> =
        section.lines().filter(|line| line.starts_with(|each: char| each.is_ascii_digit())).collect();
    assert!(!items.is_empty() && items.len() <= 8, "{} files by hand are too many: {items:#?}", items.len());
    let mut faults = Vec::new();
    for item in items {
        let file = names_in(item).into_iter().next().unwrap_or_default();
        if file.is_empty() || !root().join(&file).exists() {
            faults.push(format!("{item}: there is no {file}"));
        }
    }
    assert_none("files of a new hook point", &faults);
}
