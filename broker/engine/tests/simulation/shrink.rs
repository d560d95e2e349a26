//! Runs, and the shrinking of a failed one: it searches for the fewest operations that still break
//! the same rule, by leaving out halves, quarters and so on down to single operations.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::checker::{Rule, Violation};
use crate::generate::generate;
use crate::op::Op;
use crate::settings::settings;
use crate::world::World;

/// Operations of one world; longer runs are several worlds with seeds one after another.
pub const WORLD_OPS: usize = 2000;

/// The result of a run.
pub struct Outcome {
    pub violations: Vec<Violation>,
    /// Number of applied operations; all of them for rules that are checked at the end.
    pub after: usize,
    /// How often each rule was broken that the engine is known to break.
    pub known: Vec<(Rule, u64)>,
}

/// Applies operations to the world of a seed until a rule is broken.
pub fn run(seed: u64, ops: &[Op]) -> Outcome {
    run_traced(seed, ops, false).0
}

/// As `run`; records every packet if `traced`.
fn run_traced(seed: u64, ops: &[Op], traced: bool) -> (Outcome, Vec<String>) {
    let mut after = 0;
    let mut world = World::new(seed);
    world.traced = traced.then(Vec::new);
    let result = catch_unwind(AssertUnwindSafe(|| {
        for op in ops {
            world.trace(|| format!("{op:?}"));
            world.apply(op);
            after += 1;
            if !world.checker.violations.is_empty() {
                return;
            }
        }
        world.quiesce();
    }));
    let mut violations = std::mem::take(&mut world.checker.violations);
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.checker.broken(Rule::NoPanic, || text.unwrap_or_default());
        violations = std::mem::take(&mut world.checker.violations);
        violations.rotate_right(1);
    }
    let trace = world.traced.take().unwrap_or_default();
    (Outcome { violations, after, known: std::mem::take(&mut world.checker.known) }, trace)
}

/// Whether a run still breaks the rule.
fn breaks(seed: u64, ops: &[Op], rule: Rule) -> bool {
    run(seed, ops).violations.iter().any(|violation| violation.rule == rule)
}

/// The fewest operations that break the rule, as far as leaving out can find them.
pub fn shrink(seed: u64, ops: Vec<Op>, rule: Rule) -> Vec<Op> {
    let mut ops = ops;
    let mut size = ops.len().div_ceil(2);
    loop {
        let mut at = 0;
        let mut shrunk = false;
        while at < ops.len() {
            let end = (at + size).min(ops.len());
            let mut fewer = ops[..at].to_vec();
            fewer.extend_from_slice(&ops[end..]);
            if breaks(seed, &fewer, rule) {
                ops = fewer;
                shrunk = true;
            } else {
                at = end;
            }
        }
        match size {
            1 if !shrunk => return ops,
            1 => {}
            _ => size = size.div_ceil(2),
        }
    }
}

/// A rule that was broken, with the run that broke it.
pub struct Failure {
    pub seed: u64,
    /// Number of operations of its world: the last rules are checked at its end.
    pub world_ops: usize,
    pub ops: Vec<Op>,
    pub violation: Violation,
}

/// The result of so many operations from a seed on.
#[derive(Default)]
pub struct Summary {
    /// How often each rule was broken that the engine is known to break.
    pub known: Vec<(Rule, u64)>,
    /// The first failure of each rule.
    pub failures: Vec<Failure>,
}

/// Runs so many operations from a seed on, to the end or to the first failure.
pub fn simulate(seed: u64, count: usize, to_the_end: bool) -> Summary {
    let mut summary = Summary::default();
    let mut left = count;
    let mut seed = seed;
    while left > 0 && (to_the_end || summary.failures.is_empty()) {
        let ops = generate(seed, left.min(WORLD_OPS));
        left -= ops.len();
        let outcome = run(seed, &ops);
        for (rule, times) in outcome.known {
            match summary.known.iter_mut().find(|(other, _)| *other == rule) {
                Some((_, count)) => *count += times,
                None => summary.known.push((rule, times)),
            }
        }
        if let Some(violation) = outcome.violations.into_iter().next()
            && !summary.failures.iter().any(|failure| failure.violation.rule == violation.rule)
        {
            let world_ops = ops.len();
            let ops = ops[..outcome.after].to_vec();
            summary.failures.push(Failure { seed, world_ops, ops, violation });
        }
        seed += 1;
    }
    summary
}

/// A readable failure: the rule, and the fewest operations that break it.
pub fn report(failure: &Failure) -> String {
    let (seed, count, rule) = (failure.seed, failure.ops.len(), failure.violation.rule);
    let world_ops = failure.world_ops;
    let fewest = shrink(seed, failure.ops.clone(), rule);
    let (again, trace) = run_traced(seed, &fewest, true);
    let details = again.violations.iter().find(|violation| violation.rule == rule);
    let details = details.map_or(&failure.violation.details, |violation| &violation.details);
    let list: Vec<String> = fewest.iter().map(|op| format!("    {op:?},")).collect();
    format!(
        "seed {seed}, {count} operations: {}\n  {rule:?}: {details}\n  {} operations are enough ({}):\n{}\n  \
         what is sent and received:\n    {}\n  again: just simulate --seed {seed} --ops {world_ops}",
        rule.sentence(),
        fewest.len(),
        settings(seed).text(),
        list.join("\n"),
        trace.iter().take(200).cloned().collect::<Vec<_>>().join("\n    "),
    )
}
