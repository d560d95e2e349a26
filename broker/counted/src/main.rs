//! The program `grapnel-counted`: the broker on an allocator that counts, so that `grapnel-ctl
//! status` shows what is allocated and not freed. The leak tests run it. Everything else is the
//! library of `grapnel`, compiled once.

use std::alloc::System;
use std::process::ExitCode;

use grapnel::control::wire::Allocations;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

// The system's allocator and not mimalloc: the crate can wrap no other on stable Rust, and what is freed too late or never is
// the same with both.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    grapnel::program::main(Some(count))
}

fn count() -> Allocations {
    let stats = ALLOCATOR.stats();
    // The counters are read one after the other while other threads go on: what is freed in between may not yet be counted as
    // allocated.
    let live = |taken: usize, freed: usize| taken.saturating_sub(freed) as u64;
    Allocations {
        live: live(stats.allocations, stats.deallocations),
        live_bytes: live(stats.bytes_allocated, stats.bytes_deallocated),
        total: stats.allocations as u64,
        total_bytes: stats.bytes_allocated as u64,
    }
}
