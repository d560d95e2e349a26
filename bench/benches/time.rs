//! How long the units take, by criterion: `cargo bench -p grapnel-bench --bench time`. For comparing on one quiet machine;
//! `instructions` says the same in numbers that repeat.

#![allow(missing_docs)]

mod units;

use criterion::{Criterion, criterion_group, criterion_main};

fn all(criterion: &mut Criterion) {
    for name in units::NAMES {
        let mut unit = units::prepare(name);
        criterion.bench_function(name, |bencher| bencher.iter(|| unit.step()));
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
