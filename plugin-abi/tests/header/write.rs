//! Writes the C header: the list of the source in C, with offsets, sizes and the hash of the
//! compiled crate.

use std::fmt::Write;

use grapnel_plugin_abi::for_each_point;
use grapnel_plugin_abi::layout::{ABI_HASH, TABLES};
use grapnel_plugin_abi::point::{FaultPolicy, HookPoint, Kind};

use super::source::{self, Entry, snake};

/// Maximum length of a line.
const WIDTH: usize = 120;

const INTRODUCTION: &str = "\
The plugin interface of the Grapnel MQTT broker, for C and C++.

A plugin is a shared library that exports one function:

    GRAPNEL_EXPORT const grapnel_plugin_module *grapnel_plugin_v1(void);

It returns a table of functions, which stays as it is. Begin with grapnel_module() and set what the plugin has of its own;
grapnel_plugin_module says what each function is for and which thread calls it.

What everything else follows from:

* A plugin has one shared part (`load`) and an instance for each shard (`init_shard`). An instance is only ever called on
  its shard's thread, so that its state needs no lock. A hook must not block: the shard's clients wait for it.
* A slice is a borrowed view, valid during the call it was given in, and not ended by a zero byte. What a hook was shown
  stays as it was until the hook returns, also after a setter. What a plugin hands to the host is copied.
* Nothing may unwind into the broker: no C++ exception and no longjmp.
* A status other than GRAPNEL_STATUS_OK that a setter answers leaves the event as it was.
* Times are in the unit that ends their name, wall clocks in milliseconds since 1970.

Generated from the Rust source by the test `header` of grapnel-plugin-abi; `just abi` writes it anew.";

/// The whole header.
pub fn header(raw: &[String], module: &str, helpers: &str) -> String {
    let raw: Vec<Entry> = raw.iter().flat_map(|file| source::entries(file)).collect();
    let module = source::entries(module);
    let mut out = Out { text: String::new(), names: Names::of(&raw, &module) };
    let introduction = INTRODUCTION.to_owned();
    out.comment("", &introduction, false);
    out.line("#ifndef GRAPNEL_PLUGIN_H\n#define GRAPNEL_PLUGIN_H\n");
    out.line("#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <string.h>\n");
    out.line(
        "#ifdef __cplusplus\n#define GRAPNEL_STATIC_ASSERT(condition, text) static_assert(condition, text)",
    );
    out.line(
        "#else\n#define GRAPNEL_STATIC_ASSERT(condition, text) _Static_assert(condition, text)\n#endif\n",
    );
    out.line("/** Before the definition of grapnel_plugin_v1: exported also where the compiler hides what it can. */");
    out.line("#define GRAPNEL_EXPORT __attribute__((visibility(\"default\")))\n");
    out.line("#ifdef __cplusplus\nextern \"C\" {\n#endif\n");
    let hash =
        "Hash over every table, field and number; part of grapnel_plugin_module, and compared by the loader.";
    out.constant("GRAPNEL_ABI_HASH", &format!("UINT64_C(0x{ABI_HASH:016x})"), hash);
    for entry in raw.iter().chain(&module) {
        if let Entry::Table { name, .. } = entry {
            let name = snake(name);
            out.line(&format!("typedef struct {name} {name};"));
        }
    }
    out.line("");
    raw.iter().for_each(|entry| out.entry(entry));
    out.points();
    module.iter().for_each(|entry| out.entry(entry));
    out.line("/** The plugin's entry: a table that stays, or a null pointer, which is refused. Called once for each mapping. */");
    out.line("GRAPNEL_EXPORT const grapnel_plugin_module *grapnel_plugin_v1(void);\n");
    out.layout();
    out.line(helpers);
    out.line("#ifdef __cplusplus\n}\n#endif\n\n#endif");
    out.text
}

/// The hook points with their documentation.
macro_rules! points {
    ($($group:ident.$event:ident: $point:ident, $hook:ident, $type:ident {
        #[doc = $doc:literal]
        $number:literal, $($rest:tt)*
    })*) => {
        const POINTS: &[(HookPoint, &str)] = &[$((HookPoint::$point, $doc)),*];
    };
}

for_each_point! { points }

fn number_of(point: HookPoint) -> String {
    format!("GRAPNEL_POINT_{}", point.name().to_uppercase().replace('.', "_"))
}

/// C names of the Rust names.
struct Names(Vec<(String, String)>);

impl Names {
    fn of(raw: &[Entry], module: &[Entry]) -> Names {
        let mut names = Vec::new();
        for entry in raw.iter().chain(module) {
            match entry {
                Entry::Table { name, fields, .. } => {
                    names.push((name.clone(), snake(name)));
                    for field in fields {
                        let c = format!("{}.{}", snake(name), field.name);
                        names.push((format!("{name}::{}", field.name), c));
                    }
                }
                Entry::Alias { name, .. } | Entry::Function { name, .. } => {
                    names.push((name.clone(), snake(name)));
                }
                Entry::Numbers { name, values, .. } => {
                    names.push((name.clone(), snake(name)));
                    for value in values {
                        names.push((format!("{name}::{}", value.name), number(name, &value.name)));
                    }
                }
                Entry::Constant { name, .. } => names.push((name.clone(), format!("GRAPNEL_{name}"))),
            }
        }
        names.push(("ABI_HASH".to_owned(), "GRAPNEL_ABI_HASH".to_owned()));
        Names(names)
    }

    /// A comment with its links replaced by C names.
    fn translated(&self, doc: &str) -> String {
        let doc = doc.replace(" of [`crate::raw`]", "");
        let mut rest = doc.as_str();
        let mut text = String::new();
        while let Some(start) = rest.find("[`") {
            let (before, link) = rest.split_at(start);
            let end = link.find("`]").unwrap_or_else(|| panic!("a link has no end in: {doc}"));
            let name = link[2..end].trim_start_matches("crate::raw::").trim_start_matches("crate::module::");
            let (_, c) = self
                .0
                .iter()
                .find(|(rust, _)| rust == name)
                .unwrap_or_else(|| panic!("the header has no word for {name}, in: {doc}"));
            text.push_str(before);
            text.push_str(c);
            rest = &link[end + 2..];
            // The target of the link is for Rust only.
            rest =
                rest.strip_prefix('(').and_then(|to| to.split_once(')')).map_or(rest, |(_, behind)| behind);
        }
        text.push_str(rest);
        text.replace("`FLAG_…`", "GRAPNEL_FLAG_…")
            .replace("`MOUNT_…`", "GRAPNEL_MOUNT_…")
            .replace("`BEHALF_…`", "GRAPNEL_BEHALF_…")
            .replace("`MESSAGE_HAS_…`", "GRAPNEL_MESSAGE_HAS_…")
            .replace("`MANIFEST_…`", "GRAPNEL_MANIFEST_…")
    }
}

fn number(table: &str, name: &str) -> String {
    format!("{}_{name}", snake(table).to_uppercase())
}

struct Out {
    text: String,
    names: Names,
}

impl Out {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A comment, its paragraphs wrapped unless they are laid out by hand.
    fn comment(&mut self, indent: &str, doc: &str, wrap: bool) {
        let doc = self.names.translated(doc);
        let mut lines: Vec<String> = Vec::new();
        if wrap {
            for paragraph in doc.split("\n\n") {
                if !lines.is_empty() {
                    lines.push(String::new());
                }
                let mut line = String::new();
                for word in paragraph.split_whitespace() {
                    let room = WIDTH - indent.len() - " *  ".len() - " */".len();
                    if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                        lines.push(std::mem::take(&mut line));
                    }
                    if !line.is_empty() {
                        line.push(' ');
                    }
                    line.push_str(word);
                }
                lines.push(line);
            }
        } else {
            lines.extend(doc.lines().map(str::to_owned));
        }
        let last = lines.len() - 1;
        for (at, line) in lines.iter().enumerate() {
            let begin = if at == 0 { "/** " } else { " *  " };
            let end = if at == last { " */" } else { "" };
            let line = format!("{indent}{begin}{line}{end}");
            self.line(line.trim_end());
        }
    }

    fn constant(&mut self, name: &str, value: &str, doc: &str) {
        self.comment("", doc, true);
        self.line(&format!("#define {name} {value}\n"));
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Constant { name, doc, repr, value } => {
                let value = match repr.as_str() {
                    "uint16_t" => value.clone(),
                    _ if value == "UINT32_MAX" => value.clone(),
                    _ => format!("UINT32_C({value})"),
                };
                self.constant(&format!("GRAPNEL_{name}"), &value, doc);
            }
            Entry::Alias { name, doc, of } => {
                self.comment("", doc, true);
                self.line(&format!("typedef {of} {};\n", snake(name)));
            }
            Entry::Function { doc, declarator, .. } => {
                self.comment("", doc, true);
                self.line(&format!("typedef {declarator};\n"));
            }
            Entry::Numbers { name, doc, repr, values } => {
                self.comment("", doc, true);
                self.line(&format!("typedef {repr} {};", snake(name)));
                for value in values {
                    self.comment("", &value.doc, true);
                    let (c, number) = (number(name, &value.name), value.number);
                    self.line(&format!("#define {c} UINT32_C({number})"));
                }
                self.line("");
            }
            Entry::Table { name, doc, fields } => {
                self.comment("", doc, true);
                self.line(&format!("struct {} {{", snake(name)));
                for field in fields {
                    self.comment("    ", &field.doc, true);
                    self.line(&format!("    {};", field.declaration));
                }
                self.line("};\n");
            }
        }
    }

    fn points(&mut self) {
        self.line("/** Number of a hook point. */\ntypedef uint16_t grapnel_point;");
        for (point, doc) in POINTS {
            let kind = match point.kind() {
                Kind::Fold => "Links may change its event",
                Kind::Run => "Links observe only",
            };
            let policy = match point.fault_policy() {
                FaultPolicy::Deny => "a fault denies",
                FaultPolicy::Ignore => "a fault is ignored",
            };
            let doc = format!("{}: {} {kind}; {policy}.", point.name(), doc.trim());
            self.comment("", &doc, true);
            self.line(&format!("#define {} {}", number_of(*point), *point as u16));
        }
        self.line("");
        let doc = "Calls X(number, name, may_change, may_defer) for each hook point, in the order of the numbers: \
                   its GRAPNEL_POINT_…, its name as text, whether links may change its event, and whether \
                   they may answer later.";
        self.comment("", doc, true);
        self.line("#define GRAPNEL_FOR_EACH_POINT(X) \\");
        for (at, (point, _)) in POINTS.iter().enumerate() {
            let (changes, end) =
                (point.kind() == Kind::Fold, if at + 1 < POINTS.len() { " \\" } else { "\n" });
            let (name, defers) = (point.name(), point.may_defer());
            self.line(&format!("    X({}, \"{name}\", {changes}, {defers}){end}", number_of(*point)));
        }
    }

    /// Checks for the compiler of a plugin: its tables have the layout of the broker's.
    fn layout(&mut self) {
        self.line("/* ---- Every table as the broker has it: where a compiler lays one out otherwise, it says so here. ---- */\n");
        self.line("#define GRAPNEL_CHECK_FIELD(table, field, offset, bytes) \\");
        self.line(
            "    GRAPNEL_STATIC_ASSERT(offsetof(table, field) == (offset) && sizeof(((table *)0)->field) == (bytes), \\",
        );
        self.line("                          #table \".\" #field \" lies elsewhere than in the broker\")\n");
        for table in TABLES {
            let (name, size) = (snake(table.name), table.size);
            self.line(&format!(
                "GRAPNEL_STATIC_ASSERT(sizeof({name}) == {size}, \"{name} has another size than in the broker\");"
            ));
            for field in table.fields {
                let (field, offset, size) = (field.name, field.offset, field.size);
                self.line(&format!("GRAPNEL_CHECK_FIELD({name}, {field}, {offset}, {size});"));
            }
            let _ = writeln!(self.text);
        }
    }
}
