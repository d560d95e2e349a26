//! Examples of the topic cache: the effect of a change, and its limits.

use super::*;

fn misses(routes: &mut Routes, topic: &str) -> u64 {
    let before = routes.stats().cache.misses;
    routes.matches(topic);
    routes.stats().cache.misses - before
}

#[test]
fn a_literal_change_touches_only_its_topic() {
    let mut routes = one_shard();
    for topic in ["a/b", "a/c"] {
        assert_eq!(misses(&mut routes, topic), 1);
        assert_eq!(misses(&mut routes, topic), 0);
    }
    routes.subscribe("a/b", session(1), qos(0));
    assert_eq!(misses(&mut routes, "a/b"), 1);
    assert_eq!(misses(&mut routes, "a/c"), 0);
}

#[test]
fn a_wildcard_change_touches_its_first_level_and_a_leading_wildcard_all() {
    let mut routes = one_shard();
    for topic in ["a/b", "z/c"] {
        misses(&mut routes, topic);
    }
    routes.subscribe("a/+", session(1), qos(0));
    assert_eq!((misses(&mut routes, "a/b"), misses(&mut routes, "z/c")), (1, 0));
    routes.subscribe("+/x", session(1), qos(0));
    assert_eq!((misses(&mut routes, "a/b"), misses(&mut routes, "z/c")), (1, 1));
    routes.unsubscribe("+/x", session(1));
    assert_eq!((misses(&mut routes, "a/b"), misses(&mut routes, "z/c")), (1, 1));
    assert_eq!((misses(&mut routes, "a/b"), misses(&mut routes, "z/c")), (0, 0));
}

#[test]
fn used_entries_stay_and_entries_used_once_are_evicted() {
    let limits = RouteLimits { topic_cache_entries_max: 100, ..RouteLimits::default() };
    let mut routes = Routes::new(ShardId(0), 1, SEEDS, limits);
    let used: Vec<String> = (0..50).map(|at| format!("used/{at}")).collect();
    let mut missed = 0;
    for round in 0..1000 {
        for topic in &used {
            missed += misses(&mut routes, topic);
        }
        for at in 0..10 {
            routes.matches(&format!("once/{round}/{at}"));
        }
        assert!(routes.stats().cache.entries <= 100);
    }
    assert!(
        missed <= 100,
        "of 50,000 look-ups each topic may miss its first and one when the cache fills: {missed}"
    );
}

#[test]
fn the_oldest_entries_are_evicted_first() {
    let limits = RouteLimits { topic_cache_entries_max: 100, ..RouteLimits::default() };
    let mut routes = Routes::new(ShardId(0), 1, SEEDS, limits);
    for at in 0..1000 {
        routes.matches(&format!("t/{at}"));
        if at >= 10 {
            assert_eq!(misses(&mut routes, &format!("t/{}", at - 10)), 0);
        }
    }
}

#[test]
fn a_huge_fan_out_does_not_take_the_cache() {
    let bytes_max = 64 << 10;
    let limits = RouteLimits { topic_cache_bytes_max: bytes_max, ..RouteLimits::default() };
    let mut routes = Routes::new(ShardId(0), 1, SEEDS, limits);
    for at in 0..1000 {
        routes.subscribe("all", session(at), qos(0));
        routes.subscribe("some/#", session(at % 20), qos(0));
    }
    misses(&mut routes, "small");
    assert_eq!(routes.matches("all").local.len(), 1000);
    assert_eq!((misses(&mut routes, "all"), misses(&mut routes, "small")), (1, 0));
    for at in 0..1000 {
        routes.matches(&format!("some/{at}"));
        assert!(routes.stats().cache.bytes <= bytes_max);
    }
    assert!(routes.stats().cache.entries > 20);
    assert!(routes.stats().cache.evictions > 0);
}

#[test]
fn the_cache_keeps_to_its_bytes_as_to_its_entries() {
    let bytes_max = 100_000;
    let limits = RouteLimits {
        topic_cache_bytes_max: bytes_max,
        topic_cache_entries_max: 1_000_000,
        ..RouteLimits::default()
    };
    let mut routes = Routes::new(ShardId(0), 1, SEEDS, limits);
    let mut most = 0;
    for at in 0..2_000 {
        routes.matches(&format!("{at}/{}", "x".repeat(200)));
        let cache = routes.stats().cache;
        assert!(cache.bytes <= bytes_max, "{} bytes after {at}", cache.bytes);
        assert!(cache.bytes >= cache.entries * 200 && cache.bytes <= cache.entries * 600, "{cache:?}");
        most = most.max(cache.entries);
    }
    assert!(most >= 100, "{most} topics at a time");
}
