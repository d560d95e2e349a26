//! Generates `tests/CLIENTS.md` from the capabilities and the refusals that the tests assert. With
//! `GRAPNEL_TESTS_WRITE=1` the test writes the file instead of comparing it.

use std::fmt::Write;
use std::path::PathBuf;

use grapnel_tests::Version;

use crate::driver::Client;
use crate::matrix::Capability;
use crate::refusals::{self, REFUSALS};

const OPENING: &str = "\
# Clients

What each client library can do with Grapnel. Every cell is a test of `tests/tests/clients`
(`scripts/test --only clients`). In a cell with a number the library refuses, or cannot show the result, and the
test asserts that. This file is generated from the tests (`GRAPNEL_TESTS_WRITE=1 scripts/test --only clients --
clients_md`): change `refusals.rs`, not this file.

";

#[test]
fn clients_md_says_what_the_tests_assert() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("CLIENTS.md");
    let made = made();
    if std::env::var_os("GRAPNEL_TESTS_WRITE").is_some() {
        std::fs::write(&path, &made).expect("the working copy can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "{} is out of date; its first lines tell how it is made", path.display());
}

fn made() -> String {
    let mut text = OPENING.to_owned();
    text.push_str("| client | MQTT |");
    for capability in Capability::ALL {
        write!(text, " {} |", capability.title()).unwrap();
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(Capability::ALL.len()));
    for client in Client::ALL {
        let (name, release) = client.release();
        for version in Version::ALL {
            write!(text, "\n| {name} {release} | {} |", number(version)).unwrap();
            for &capability in Capability::ALL {
                write!(text, " {} |", cell(client, version, capability)).unwrap();
            }
        }
    }
    text.push_str("\n\n## Where a library refuses\n\nEach line ends with the library's own message, or, if it has none, with what the test's driver saw instead. The test compares it.\n\n");
    for (index, refusal) in REFUSALS.iter().enumerate() {
        let (name, release) = refusal.client.release();
        let versions: Vec<&str> = refusal.versions.iter().map(|&version| number(version)).collect();
        let titles: Vec<String> =
            refusal.capabilities.iter().map(|capability| format!("\"{}\"", capability.title())).collect();
        let everything = refusal.capabilities.len() == Capability::ALL.len();
        let what = if everything { "everything".to_owned() } else { titles.join(", ") };
        writeln!(
            text,
            "{}. {name} {release}, MQTT {}, {}: {}. Seen as: `{}`",
            index + 1,
            versions.join(", "),
            what,
            refusal.how,
            refusal.says
        )
        .unwrap();
    }
    text
}

fn cell(client: Client, version: Version, capability: Capability) -> String {
    if let Some(refusal) = refusals::of(client, version, capability) {
        let index = REFUSALS.iter().position(|other| std::ptr::eq(other, refusal)).expect("found in it");
        return format!("refused ({})", index + 1);
    }
    if capability == Capability::SessionPresent && version == Version::V31 {
        return "not in 3.1".to_owned();
    }
    "yes".to_owned()
}

fn number(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}
