//! Measures the time of the units with criterion: `cargo bench -p grapnel-bench --bench time`. For
//! comparisons on one quiet machine; `instructions` counts the same steps with repeatable results.

#![allow(missing_docs)]

mod units;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

fn all(criterion: &mut Criterion) {
    for name in units::NAMES {
        let mut unit = units::prepare(name);
        criterion.bench_function(name, |bencher| bencher.iter(|| unit.step()));
    }
}

/// About two minutes for all units; `--measurement-time` and `--warm-up-time` change it.
fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = config(); targets = all }
criterion_main!(benches);
