//! Runs of the test suite: one million operations over ten seeds, or what the environment sets
//! (`just simulate`).

use crate::known_faults::KNOWN;
use crate::shrink::{report, simulate};

/// A number of the environment.
fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs from a seed on, and panics with everything that is needed to repeat a failure.
fn check(seed: u64, ops: u64, to_the_end: bool) {
    let summary = simulate(seed, ops as usize, to_the_end);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let reports: Vec<String> = summary.failures.iter().map(report).collect();
    std::panic::set_hook(hook);
    let known: Vec<String> = summary
        .known
        .iter()
        .filter_map(|(rule, times)| {
            let fault = KNOWN.iter().find(|fault| fault.rule == *rule)?;
            Some(format!("known, {times} times: {rule:?}: {}", fault.how))
        })
        .collect();
    assert!(reports.is_empty(), "{}\n{}", reports.join("\n\n"), known.join("\n"));
}

/// One part of the million; each part has its own seeds. `scripts/mutants` sets a smaller number
/// because of time, and then a failure is not shrunk.
fn part(number: u64) {
    let seed = number * 1_000_000;
    let Some(ops) = from_environment("GRAPNEL_SIMULATE_PART_OPS") else { return check(seed, 100_000, false) };
    let summary = simulate(seed, ops as usize, false);
    let broken: Vec<_> = summary.failures.iter().map(|failure| failure.violation.rule).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// `just simulate --seed N --ops N`.
#[test]
fn run_with_the_seed_from_the_environment() {
    let Some(seed) = from_environment("GRAPNEL_SIMULATE_SEED") else { return };
    let ops = from_environment("GRAPNEL_SIMULATE_OPS").unwrap_or(100_000);
    check(seed, ops, from_environment("GRAPNEL_SIMULATE_ALL").is_some());
}

macro_rules! parts {
    ($($name:ident: $number:literal;)*) => {
        $(#[test]
        fn $name() {
            part($number);
        })*
    };
}

parts! {
    seeds_from_one: 1;
    seeds_from_two: 2;
    seeds_from_three: 3;
    seeds_from_four: 4;
    seeds_from_five: 5;
    seeds_from_six: 6;
    seeds_from_seven: 7;
    seeds_from_eight: 8;
    seeds_from_nine: 9;
    seeds_from_ten: 10;
}
