//! Counts the instructions of one step of each unit with callgrind, through gungraun. `just
//! bench-instructions` runs it and compares the result with the committed baseline.

#![allow(missing_docs)]

#[macro_use]
mod units;

use gungraun::{library_benchmark, library_benchmark_group, main};
use units::{Unit, prepare};

/// A benchmark for each group, with the group's name, and a case for each unit in it.
macro_rules! benchmarks {
    ($($group:ident { $($name:ident => $make:expr;)* })*) => {
        $(
            #[library_benchmark]
            $(#[bench::$name(args = (concat!(stringify!($group), "/", stringify!($name))), setup = prepare)])*
            fn $group(mut unit: Box<dyn Unit>) -> (Box<dyn Unit>, u64) {
                let done = unit.step();
                (unit, done)
            }
        )*

        library_benchmark_group!(name = units_group, benchmarks = [$($group),*]);
    };
}

for_each_unit! { benchmarks }

main!(library_benchmark_groups = units_group);
