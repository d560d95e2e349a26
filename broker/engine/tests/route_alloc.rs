//! Allocations of routing: none for a message with a known topic, and a bounded number of bytes per
//! filter for very many filters. It is a process of its own because it counts every allocation.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use grapnel_engine::id::{SessionKey, ShardId};
use grapnel_engine::route::{RouteLimits, Routes, SubOptions};

thread_local! {
    // Only the test's own thread is counted: other threads of the test runner allocate at any time.
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to `System`, which keeps the contract; the counters are
// constant-initialised thread-locals.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        LIVE.with(|live| live.set(live.get().wrapping_add(layout.size())));
        // SAFETY: the caller's promise about `layout` is the one `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.with(|live| live.set(live.get().wrapping_sub(layout.size())));
        // SAFETY: `at` came from `alloc` above, so from `System`, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn session(index: u32) -> SessionKey {
    SessionKey { index, generation: 1 }
}

#[test]
fn a_repeated_topic_allocates_nothing() {
    let mut routes = Routes::new(ShardId(0), 4, [1, 2, 3, 4], RouteLimits::default());
    let topics: Vec<String> = (0..100).map(|at| format!("site/{at}/temperature")).collect();
    for (at, topic) in (0..).zip(&topics) {
        routes.subscribe(topic, session(at), SubOptions::default());
        routes.subscribe("site/+/temperature", session(at), SubOptions::default());
        routes.subscribe_shared("g", "site/#", session(at), SubOptions::default(), true);
    }
    for topic in &topics {
        assert_eq!(routes.matches(topic).local.len(), 100);
    }
    let before = CALLS.get();
    let mut served = 0;
    for round in 0..100u64 {
        for topic in &topics {
            let matched = routes.matches(topic);
            served += matched.local.len();
            let shard = routes.pick_shared(matched.groups[0], round << 57);
            served += usize::from(shard == Some(ShardId(0)));
            served += usize::from(routes.pick_member(matched.groups[0], |_| true).is_some());
        }
    }
    assert_eq!(CALLS.get() - before, 0);
    assert_eq!(served, 100 * 100 * (100 + 1 + 1));
}

#[test]
fn a_filter_takes_a_bounded_number_of_bytes() {
    let count = 200_000;
    for (shape, bytes_max) in [("device/{}/command", 160), ("device/{}/+", 260), ("+/{}/state/#", 320)] {
        let before = LIVE.get();
        let mut routes = Routes::new(ShardId(0), 1, [1, 2, 3, 4], RouteLimits::default());
        for at in 0..count {
            routes.subscribe(&shape.replace("{}", &at.to_string()), session(at), SubOptions::default());
        }
        let each = LIVE.get().wrapping_sub(before) / count as usize;
        assert!(each <= bytes_max, "{shape}: {each} bytes for each filter");
        assert!(!routes.matches("device/77/command").is_empty() || shape.starts_with('+'));
    }
}

#[test]
fn a_literal_filter_of_another_shard_takes_a_few_bytes() {
    let mut there = Routes::new(ShardId(1), 2, [1, 2, 3, 4], RouteLimits::default());
    let count = 200_000;
    for at in 0..count {
        there.subscribe(&format!("device/{at}/command"), session(at), SubOptions::default());
    }
    let batch = there.take_changes().unwrap();
    let mut here = Routes::new(ShardId(0), 2, [1, 2, 3, 4], RouteLimits::default());
    let before = LIVE.get();
    here.apply(ShardId(1), &batch);
    let each = LIVE.get().wrapping_sub(before) / count as usize;
    assert!(each <= 32, "{each} bytes for each filter");
    assert!(here.matches("device/77/command").shards.contains(ShardId(1)));
}
