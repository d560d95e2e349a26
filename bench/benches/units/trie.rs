//! Subscribing, and matching a topic against 10,000 filters with and without the topic cache.

use std::hint::black_box;

use grapnel_engine::id::{SessionKey, ShardId};
use grapnel_engine::route::{RouteLimits, Routes, SubOptions};

use super::Unit;

const FILTERS: u32 = 10_000;

fn session(index: u32) -> SessionKey {
    SessionKey { index, generation: 1 }
}

/// Half of the filters name one device, a quarter has a `+`, a quarter ends with `#`.
fn routes(topic_cache_entries_max: usize) -> Routes {
    let limits = RouteLimits { topic_cache_entries_max, ..RouteLimits::default() };
    let mut routes = Routes::new(ShardId(0), 1, [1, 2, 3, 4], limits);
    for at in 0..FILTERS {
        let filter = match at % 4 {
            0 | 1 => format!("site/{at}/temperature"),
            2 => format!("site/+/{at}/state"),
            _ => format!("site/{at}/#"),
        };
        routes.subscribe(&filter, session(at), SubOptions::default());
    }
    routes
}

fn matching(mut routes: Routes, topic: &'static str, expected: usize) -> impl Unit {
    assert_eq!(routes.matches(topic).local.len(), expected);
    move || routes.matches(black_box(topic)).local.len() as u64
}

pub fn match_cached() -> impl Unit {
    matching(routes(1024), "site/4/temperature", 1)
}

pub fn match_literal() -> impl Unit {
    matching(routes(0), "site/4/temperature", 1)
}

pub fn match_none() -> impl Unit {
    matching(routes(0), "elsewhere/4/temperature", 0)
}

/// One of each kind: `site/7/#` and `site/+/6/state`.
pub fn match_wildcards() -> impl Unit {
    matching(routes(0), "site/7/6/state", 2)
}

/// Sixteen levels, with `+` or the name at each of the first eight: 256 paths through the trie.
pub fn match_deep() -> impl Unit {
    let mut routes = routes(0);
    for ways in 0..256u32 {
        let levels =
            (0..8).map(|at| if ways >> at & 1 == 1 { "+" } else { "l" }).collect::<Vec<_>>().join("/");
        routes.subscribe(&format!("{levels}/l/l/l/l/l/l/l/#"), session(ways), SubOptions::default());
    }
    matching(routes, "l/l/l/l/l/l/l/l/l/l/l/l/l/l/l/l", 256)
}

/// Subscribes and unsubscribes again.
pub fn subscribe(filter: &'static str) -> impl Unit {
    let mut routes = routes(1024);
    move || {
        let subscribed = routes.subscribe(black_box(filter), session(FILTERS), SubOptions::default());
        let removed = routes.unsubscribe(filter, session(FILTERS));
        // The shard does this while it has no other work.
        routes.sweep(16);
        u64::from(subscribed.is_new) + u64::from(removed)
    }
}
