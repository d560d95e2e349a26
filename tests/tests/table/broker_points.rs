//! The points of the broker itself, which have no client: each broker is started, serves a client
//! of each version, and is stopped, and its plugins have the same action at all of these points.

use std::path::Path;

use grapnel_tests::{Broker, Client, Publish, Version};

use crate::VERSIONS;
use crate::action::{ACTS, Action, Case, Language};
use crate::fixture::{Library, Record, plugins};
use crate::points::{Point, all};
use crate::rows::{Change, Row};

pub fn points() -> impl Iterator<Item = Point> {
    all().filter(|point| point.name.starts_with("broker."))
}

/// The rows of the points; they are not played.
fn rows() -> Vec<Row> {
    let row = |point| Row { point, change: Change::NONE, run: |_, _, _| String::new(), expect: |_, _| "" };
    points().map(row).collect()
}

/// A broker from start to stop, with an action at each point. Returns the number of cases.
fn live(language: Language, library: &Library, action: Action, place: usize, copies: usize) -> usize {
    let rows = rows();
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let path = folder.path().join("record");
    let case = |number: usize| {
        let policy = rows[number].point.policy;
        Case { action, version: Version::V5, place, copies, policy, number }
    };
    let scripts: Vec<String> =
        rows.iter().enumerate().map(|(number, row)| case(number).script(row)).collect();
    serve(&plugins(library.path(), copies, &path, &scripts.join(";"), ""));
    let mut record = Record::open(Path::new(&path));
    for (number, row) in rows.iter().enumerate() {
        let due = case(number).due(row).calls;
        let due: Vec<_> =
            due.into_iter().map(|(place, saw)| (place, row.point.name.to_owned(), saw)).collect();
        assert_eq!(record.of(number), due, "{}", case(number).name(row, language));
    }
    rows.len()
}

/// A broker works whatever its plugins do at these points: it starts, serves, and ends cleanly.
fn serve(config: &str) {
    let mut broker = Broker::builder().grapnel_only().config(config).start();
    for version in VERSIONS {
        let mut client = Client::hello(&broker, version, "client");
        client.subscribe("topic", 1);
        assert_eq!(client.publish(&Publish::new("topic", "own").qos(1)), 0);
        assert_eq!(client.message().text(), "own");
        client.disconnect();
    }
    // Plugins panic on purpose, which is in the log.
    broker.may_end_badly();
    broker.process().signal(rustix::process::Signal::TERM);
    let status = broker.wait();
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", broker.process().log());
}

fn table(language: Language) {
    let library = Library::of(language);
    // None of these points has tickets, so all deferred actions are the same: a Defer.
    let (later, mut acts): (Vec<Action>, Vec<Action>) = ACTS.into_iter().partition(|action| action.later);
    acts.extend(later.first());
    let mut played = 0;
    for &action in &acts {
        for (place, copies) in [(0, 1), (0, 3), (1, 3), (2, 3)] {
            played += live(language, &library, action, place, copies);
        }
    }
    assert_eq!(played, points().count() * acts.len() * 4);
    eprintln!("{played} cases of the broker's life in {language:?}");
}

#[test]
fn broker_points_run_in_rust() {
    table(Language::Rust);
}

#[test]
fn broker_points_run_in_c() {
    table(Language::C);
}
