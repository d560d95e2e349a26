//! Examples of configurations, which the program or the plugin must accept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use grapnel_tests::markdown::{Block, Page};
use grapnel_tests::plugin;
use grapnel_tests::repository::{assert_none, files_with};
use tempfile::TempDir;

use super::names::{bundled, library_of};

/// The program that reads an example.
#[derive(Debug, PartialEq)]
enum Reader {
    Broker,
    Plugin(String),
    /// A manifest, a service of systemd, a file of another program: read by none of our programs.
    Other,
}

/// Tables of the broker's file.
const TABLES: [&str; 8] =
    ["[[listeners]]", "[plugins", "[mqtt]", "[limits]", "[control]", "[authorization]", "[state]", "[log]"];

/// Files of other programs, listed with their places, so that every new example has a reader.
const OTHERS: [(&str, &str, &str); 3] = [
    ("docs/src/service.md", "ini", "a unit of systemd"),
    ("plugin-abi/src/guide/shipping.md", "toml", "a Cargo.toml"),
    ("plugins/exhook/docs/moving-from-amqtt.md", "yaml", "a file of aMQTT"),
];

/// The keys to which an example of single exhook keys is added.
const REST_OF_EXHOOK: &str = "driver = \"amqtt\"\nconfig = \"/srv/shop/amqtt.yaml\"\n";

fn reader(page: &Page, block: &Block) -> Option<Reader> {
    if block.text.lines().any(|line| TABLES.iter().any(|table| line.starts_with(table))) {
        return Some(Reader::Broker);
    }
    let path = page.path.to_string_lossy();
    if OTHERS.iter().any(|(page, language, _)| path == *page && block.language == *language) {
        return Some(Reader::Other);
    }
    let folder = path.strip_prefix("plugins/")?.split('/').next()?;
    Some(Reader::Plugin(folder.to_owned()))
}

/// The files of the plugins of the examples, including those in C and C++.
struct Plugins {
    folder: TempDir,
}

impl Plugins {
    fn made() -> Plugins {
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let mut compiled = Vec::new();
        for name in bundled() {
            let file = PathBuf::from(library_of(&name, &mut compiled));
            let file_name = file.file_name().expect("a file");
            std::fs::copy(&file, folder.path().join(file_name)).expect("the folder is ours");
        }
        Plugins { folder }
    }
}

/// The error of the program for an example.
fn fault_of(plugins: &Plugins, reader: &Reader, text: &str) -> Option<String> {
    let file = plugins.folder.path().join("example.toml");
    let is_part = *reader == Reader::Plugin("exhook".to_owned()) && !text.contains("driver = ");
    let text = if is_part { format!("{REST_OF_EXHOOK}{text}") } else { text.to_owned() };
    std::fs::write(&file, text).expect("the folder is ours");
    let mut command = match reader {
        Reader::Broker => {
            let mut command = Command::new(plugin::built("grapnel"));
            command.arg("--config").arg(&file).arg("--check-config");
            command.env("GRAPNEL_PLUGINS_DIR", plugins.folder.path());
            command.env("GRAPNEL_STATE_DIR", plugins.folder.path().join("state"));
            command
        }
        Reader::Plugin(name) => {
            let library = format!("libgrapnel_{}.so", name.replace('-', "_"));
            let mut command = Command::new(plugin::built("grapnel-ctl"));
            command.args(["plugins", "check"]).arg(plugins.folder.path().join(library));
            command.arg("--config").arg(&file);
            command
        }
        Reader::Other => return None,
    };
    let output = command.output().expect("a built program starts");
    let output_text = [output.stdout, output.stderr].concat();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output_text).into_owned())
}

#[test]
fn every_example_of_a_configuration_is_valid() {
    let plugins = Plugins::made();
    let mut faults = Vec::new();
    let mut seen = BTreeMap::<String, usize>::new();
    for path in files_with(&["md"]) {
        let page = Page::read(path);
        for block in page.blocks() {
            if !matches!(&*block.language, "toml" | "yaml" | "json" | "ini") {
                continue;
            }
            let Some(reader) = reader(&page, &block) else {
                faults.push(format!("{}: nothing says whose example this is", page.at(block.line)));
                continue;
            };
            *seen.entry(format!("{reader:?}")).or_default() += 1;
            let fault = fault_of(&plugins, &reader, &block.text);
            faults.extend(fault.map(|fault| format!("{}: {fault}", page.at(block.line))));
        }
    }
    assert!(seen["Broker"] > 10, "{seen:?}");
    assert_none("examples that are refused", &faults);
}
