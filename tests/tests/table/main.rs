//! Every hook point in every case, on live brokers: a plugin in Rust and one in C, alone and as
//! three copies, with clients of MQTT 3.1.1 and 5. The plugins (`plugins/testing/table` and
//! `c-table`) do what the client identifier of a case says, and record their calls and what they
//! saw. The expected result is computed here from the rules of the hook points, not from the
//! broker. `broker/engine/tests/engine/table.rs` is the same table on the engine alone.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod action;
mod broker_points;
mod fixture;
mod points;
mod rows;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use grapnel_tests::Version;

use action::{ACTS, Action, Case, Flow, Language};
use fixture::{Clients, Fixture};
use points::Policy;
use rows::{Change, ROWS, Row};

/// Cases that are played in parallel.
const PLAYERS: usize = 8;
/// Failed cases that are reported; after so many, the others are not played.
const FAILURES_MAX: usize = 20;

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// Plays one case. Returns what is wrong with it.
fn run(fixture: &Fixture, clients: &mut Clients<'_>, row: &Row, case: &Case) -> Result<(), String> {
    let due = case.due(row);
    let id = case.script(row);
    // A panic means that the client did not get an answer in time.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let outcome = (row.run)(fixture, case, &id);
        (outcome, clients.calls_of(case.number, row.point.name, due.calls.len()))
    }));
    let (outcome, calls) = outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| "a panic".to_owned())
    })?;
    let expected = (row.expect)(due.effect, case.version);
    if outcome != expected {
        return Err(format!("what came of it is {outcome:?}, and should be {expected:?}"));
    }
    if calls != due.calls {
        return Err(format!(
            "the plugins that were called, each with what it saw, are {calls:?}, and should be {:?}",
            due.calls
        ));
    }
    Ok(())
}

/// Plays all cases with so many copies of the plugin of a language. `policy` is the operator's, if
/// it differs from the design's.
fn table(language: Language, copies: usize, acts: &[Action], policy: Option<fn(Policy) -> Policy>) {
    let fixture = Fixture::open(language, copies, policy);
    let mut cases = Vec::new();
    for row in ROWS {
        let policy = policy.map_or(row.point.policy, |policy| policy(row.point.policy));
        for &action in acts {
            for version in VERSIONS {
                for place in 0..copies {
                    cases.push((row, Case { action, version, place, copies, policy, number: cases.len() }));
                }
            }
        }
    }
    let (next, played) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..PLAYERS {
            let mut clients = fixture.clients(number);
            let (fixture, cases, next, played, failures) = (&fixture, &cases, &next, &played, &failures);
            scope.spawn(move || {
                while let Some((row, case)) = cases.get(next.fetch_add(1, Relaxed)) {
                    if let Err(problem) = run(fixture, &mut clients, row, case) {
                        let mut failures = failures.lock().unwrap();
                        failures.push(format!("{}: {problem}", case.name(row, language)));
                        if failures.len() >= FAILURES_MAX {
                            return;
                        }
                    }
                    played.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
    // No case was left out, in the table or in playing it.
    assert_eq!(played.load(Relaxed), ROWS.len() * acts.len() * VERSIONS.len() * copies);
    let cases = cases.iter().map(|(row, case)| (row.point.name, case.place, case.due(row).counts));
    fixture.assert_counted(cases);
    eprintln!("{} cases in {language:?} with {copies} copies", played.into_inner());
    fixture.close();
}

/// The operator sets for every hook the opposite of its point's default: refuse where a fault is
/// ignored, and ignore where it refuses.
fn inverted(language: Language, copies: usize) {
    let faults: Vec<Action> = ACTS.into_iter().filter(|action| action.flow == Flow::Fault).collect();
    let contrary = |policy| if policy == Policy::Deny { Policy::Ignore } else { Policy::Deny };
    table(language, copies, &faults, Some(contrary));
}

#[test]
fn faults_by_the_operators_policy_in_rust() {
    inverted(Language::Rust, 1);
    inverted(Language::Rust, 3);
}

#[test]
fn faults_by_the_operators_policy_in_c() {
    inverted(Language::C, 1);
    inverted(Language::C, 3);
}

/// Every point has a row, or belongs to the broker itself.
#[test]
fn the_table_has_every_point() {
    let played = ROWS.iter().map(|row| row.point.name).chain(broker_points::points().map(|point| point.name));
    let played: std::collections::BTreeSet<&str> = played.collect();
    assert_eq!(played, points::all().map(|point| point.name).collect());
    for row in ROWS {
        assert_eq!(row.point.folds, row.change != Change::NONE, "{}", row.point.name);
    }
}

#[test]
fn one_plugin_in_rust() {
    table(Language::Rust, 1, &ACTS, None);
}

#[test]
fn three_plugins_in_rust() {
    table(Language::Rust, 3, &ACTS, None);
}

#[test]
fn one_plugin_in_c() {
    table(Language::C, 1, &ACTS, None);
}

#[test]
fn three_plugins_in_c() {
    table(Language::C, 3, &ACTS, None);
}
