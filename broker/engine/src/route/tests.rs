//! Examples of the routing of one shard, and helpers for all tests of routing.
#![allow(clippy::unwrap_used)]

use super::*;

mod cached;
mod groups;
mod mesh;
mod model;

use proptest::prelude::*;

const SEEDS: [u64; 4] = [1, 2, 3, 4];

fn one_shard() -> Routes {
    Routes::new(ShardId(0), 1, SEEDS, RouteLimits::default())
}

fn session(index: u32) -> SessionKey {
    SessionKey { index, generation: 1 }
}

fn qos(qos: u8) -> SubOptions {
    SubOptions { qos, ..SubOptions::default() }
}

/// Section 4.7 implemented literally, level by level, as the reference for the tests.
pub(in crate::route) fn naive_match(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('#') || filter.starts_with('+')) {
        return false;
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    let (fixed, open) = match filter.split_last() {
        Some((&"#", fixed)) => (fixed, true),
        _ => (&filter[..], false),
    };
    (if open { topic.len() >= fixed.len() } else { topic.len() == fixed.len() })
        && fixed.iter().zip(&topic).all(|(wanted, level)| *wanted == "+" || wanted == level)
}

/// Topic names with few levels of few values, so that many match.
pub(in crate::route) fn topics() -> impl Strategy<Value = String> {
    let first = prop::sample::select(vec!["a", "b", "", "$s", "!", "\u{1}", "a\u{1}", "ab"]);
    let rest = prop::sample::select(vec!["a", "b", "", "$s", "!", "\u{1}"]);
    (first, prop::collection::vec(rest, 0..3))
        .prop_map(|(first, rest)| std::iter::once(first).chain(rest).collect::<Vec<_>>().join("/"))
        .prop_filter("no topic name is empty", |topic| !topic.is_empty())
}

/// Filters over the same levels.
pub(in crate::route) fn filters() -> impl Strategy<Value = String> {
    let first = prop::sample::select(vec!["a", "b", "", "$s", "!", "\u{1}", "ab", "+", "+"]);
    let rest = prop::sample::select(vec!["a", "b", "", "$s", "!", "\u{1}", "+", "+"]);
    let levels = (first, prop::collection::vec(rest, 0..3), any::<bool>()).prop_map(|(first, rest, open)| {
        let open = open.then_some("#");
        std::iter::once(first).chain(rest).chain(open).collect::<Vec<_>>().join("/")
    });
    prop_oneof![1 => Just("#".to_owned()), 12 => levels]
        .prop_filter("no filter is empty", |filter| !filter.is_empty())
}

/// The sessions that a topic reaches here, sorted.
fn reached(routes: &mut Routes, topic: &str) -> Vec<u32> {
    let mut found: Vec<u32> = routes.matches(topic).local.iter().map(|target| target.session.index).collect();
    found.sort_unstable();
    found
}

#[test]
fn filters_match_as_section_4_7_says() {
    let mut routes = one_shard();
    let filters =
        ["sport/tennis/player1/#", "sport/#", "#", "sport/tennis/+", "+", "+/+", "/+", "sport/+", "/finance"];
    for (at, filter) in (0..).zip(filters) {
        routes.subscribe(filter, session(at), qos(0));
    }
    // Section 4.7.1.2 and 4.7.1.3, the examples that are not normative.
    assert_eq!(reached(&mut routes, "sport/tennis/player1"), [0, 1, 2, 3]);
    assert_eq!(reached(&mut routes, "sport/tennis/player1/ranking"), [0, 1, 2]);
    assert_eq!(reached(&mut routes, "sport/tennis/player1/score/wimbledon"), [0, 1, 2]);
    assert_eq!(reached(&mut routes, "sport"), [1, 2, 4]);
    assert_eq!(reached(&mut routes, "sport/"), [1, 2, 5, 7]);
    assert_eq!(reached(&mut routes, "/finance"), [2, 5, 6, 8]);
}

#[test]
fn leading_wildcards_do_not_match_dollar_topics() {
    // [MQTT-4.7.2-1]
    let mut routes = one_shard();
    for (at, filter) in
        (0..).zip(["#", "+/monitor/Clients", "$SYS/#", "$SYS/monitor/+", "+", "$SYS/monitor/Clients"])
    {
        routes.subscribe(filter, session(at), qos(0));
    }
    assert_eq!(reached(&mut routes, "$SYS/monitor/Clients"), [2, 3, 5]);
    assert_eq!(reached(&mut routes, "$SYS"), [2]);
    assert_eq!(reached(&mut routes, "x/$SYS"), [0]);
}

#[test]
fn a_session_is_one_target_with_all_its_options() {
    let mut routes = one_shard();
    for (id, filter) in (1..).zip(["a/b", "a/+", "a/#", "#"]) {
        let options = SubOptions { subscription_id: id, qos: 1, ..SubOptions::default() };
        assert!(routes.subscribe(filter, session(7), options).is_new);
    }
    routes.subscribe("a/+", session(8), qos(2));
    let matched = routes.matches("a/b");
    assert_eq!(matched.local.len(), 2);
    let target = matched.local.iter().find(|target| target.session == session(7)).unwrap();
    let mut ids: Vec<u32> = target.subs.iter().map(|one| one.options.subscription_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn subscribing_again_replaces_the_options_at_once() {
    // [MQTT-3.8.4-3], with the topic in the cache before.
    let mut routes = one_shard();
    for filter in ["a/b", "a/+"] {
        assert!(routes.subscribe(filter, session(1), qos(0)).is_new);
        assert_eq!(routes.matches("a/b").local[0].subs[0].options.qos, 0);
        assert!(!routes.subscribe(filter, session(1), qos(2)).is_new);
        assert_eq!(routes.matches("a/b").local[0].subs.len(), 1);
        assert_eq!(routes.matches("a/b").local[0].subs[0].options, qos(2));
        assert!(routes.unsubscribe(filter, session(1)));
        assert!(!routes.unsubscribe(filter, session(1)));
    }
    assert!(routes.matches("a/b").is_empty());
    assert_eq!(routes.stats().filters, 0);
}

#[test]
fn many_subscribers_of_one_filter_stay_fast_and_exact() {
    let mut routes = one_shard();
    let count = 20_000;
    for at in 0..count {
        routes.subscribe("news", session(at), qos(0));
        routes.subscribe("news/#", session(at / 2), qos(1));
    }
    assert_eq!(reached(&mut routes, "news"), (0..count).collect::<Vec<_>>());
    let matched = routes.matches("news");
    let both = matched.local.iter().filter(|target| target.subs.len() == 2).count();
    assert_eq!(both, count as usize / 2);
    for at in (0..count).filter(|at| at % 100 != 0) {
        assert!(routes.unsubscribe("news", session(at)));
    }
    for at in 0..count / 2 {
        assert!(routes.unsubscribe("news/#", session(at)));
    }
    assert_eq!(reached(&mut routes, "news"), (0..count).step_by(100).collect::<Vec<_>>());
}

#[test]
fn topics_and_filters_of_any_depth_are_walked_without_recursion() {
    let mut routes = one_shard();
    let deep = "a/".repeat(30_000);
    let filters = [format!("{deep}#"), format!("{deep}+"), "+/".repeat(30_000) + "#", "#".to_owned()];
    for (at, filter) in (0..).zip(&filters) {
        routes.subscribe(filter, session(at), qos(0));
    }
    assert_eq!(reached(&mut routes, &format!("{deep}b")), [0, 1, 2, 3]);
    for (at, filter) in (0..).zip(&filters) {
        assert!(routes.unsubscribe(filter, session(at)));
    }
    assert_eq!(routes.stats().trie_nodes, 0);
    assert_eq!(routes.stats().filters, 0);
}

#[test]
fn a_single_shard_needs_no_barrier_and_sends_no_changes() {
    let mut routes = one_shard();
    let plain = routes.subscribe("a/b", session(1), qos(0));
    let shared = routes.subscribe_shared("g", "a/#", session(1), qos(0), true);
    assert_eq!((plain.interest, plain.barrier_seq), (Interest::Acknowledged, 0));
    assert_eq!((shared.interest, shared.barrier_seq), (Interest::Acknowledged, 0));
    assert!(routes.unsubscribe("a/b", session(1)));
    assert!(routes.unsubscribe_shared("g", "a/#", session(1)));
    routes.sweep(10);
    assert_eq!(routes.take_changes(), None);
    assert_eq!(routes.barrier(), u64::MAX);
    let stats = routes.stats();
    assert_eq!((stats.filters, stats.groups, stats.idle_filters, stats.subscriptions), (0, 0, 0, 0));
}

#[test]
fn every_suback_on_a_filter_waits_for_its_add() {
    let mut routes = Routes::new(ShardId(1), 3, SEEDS, RouteLimits::default());
    let first = routes.subscribe("a/b", session(1), qos(0));
    assert_eq!((first.interest, first.barrier_seq), (Interest::Pending, 1));
    let batch = routes.take_changes().unwrap();
    assert_eq!((batch.seq, batch.changes.len()), (1, 1));
    let second = routes.subscribe("a/b", session(2), qos(0));
    assert_eq!((second.is_new, second.barrier_seq), (true, 1));
    assert_eq!(routes.take_changes(), None, "the second subscriber is no news");
    assert_eq!(routes.subscribe("a/#", session(2), qos(0)).barrier_seq, 2);
    assert_eq!(routes.take_changes().unwrap().seq, 2);

    routes.acked(ShardId(0), 2);
    assert_eq!(routes.barrier(), 0, "shard 2 has not heard anything");
    routes.acked(ShardId(2), 1);
    assert_eq!(routes.barrier(), 1);
    assert_eq!(routes.subscribe("a/b", session(3), qos(0)).barrier_seq, 0);
    assert_eq!(routes.subscribe("a/#", session(3), qos(0)).barrier_seq, 2);
    routes.acked(ShardId(2), 2);
    assert_eq!(routes.subscribe("a/#", session(4), qos(0)).interest, Interest::Acknowledged);
}

#[test]
fn a_filter_resubscribed_before_the_sweep_is_not_announced_again() {
    let mut routes = Routes::new(ShardId(0), 2, SEEDS, RouteLimits::default());
    for filter in ["a/b", "a/+"] {
        routes.subscribe(filter, session(1), qos(0));
        let seq = routes.take_changes().unwrap().seq;
        routes.acked(ShardId(1), seq);
        assert!(routes.unsubscribe(filter, session(1)));
        assert_eq!(routes.take_changes(), None);
        assert_eq!(routes.subscribe(filter, session(2), qos(0)).barrier_seq, 0);
        routes.sweep(10);
        assert_eq!(routes.take_changes(), None);

        assert!(routes.unsubscribe(filter, session(2)));
        routes.sweep(10);
        assert_eq!(routes.take_changes().unwrap().changes.len(), 1);
        assert_eq!(routes.stats().filters, 0);
        assert_ne!(routes.subscribe(filter, session(2), qos(0)).barrier_seq, 0, "the others have dropped it");
        routes.unsubscribe(filter, session(2));
        routes.sweep(10);
        routes.take_changes();
    }
}

#[test]
fn filters_without_subscribers_do_not_pile_up_between_sweeps() {
    let limits = RouteLimits { idle_filters_max: 8, ..RouteLimits::default() };
    let mut routes = Routes::new(ShardId(0), 2, SEEDS, limits);
    for at in 0..1000 {
        let filter = format!("f/{at}");
        routes.subscribe(&filter, session(1), qos(0));
        routes.unsubscribe(&filter, session(1));
        assert!(routes.stats().filters <= 9);
    }
}

#[test]
fn the_bound_on_subscriptions_counts_both_kinds() {
    let limits = RouteLimits { shard_subscriptions_max: 2, ..RouteLimits::default() };
    let mut routes = Routes::new(ShardId(0), 1, SEEDS, limits);
    routes.subscribe("a", session(1), qos(0));
    routes.subscribe("a", session(1), qos(1));
    assert!(!routes.is_full());
    routes.subscribe_shared("g", "a", session(1), qos(0), true);
    assert!(routes.is_full());
    routes.unsubscribe("a", session(1));
    assert!(!routes.is_full());
}

#[test]
fn a_batch_may_go_to_other_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<InterestBatch>();
}

#[test]
fn every_shard_names_the_same_owner_and_spreads_topics() {
    let shards: Vec<Routes> =
        (0..4).map(|me| Routes::new(ShardId(me), 4, SEEDS, RouteLimits::default())).collect();
    let mut counts = [0; 4];
    for at in 0..4000 {
        let topic = format!("t/{at}");
        let owner = shards[0].owner_of(&topic);
        assert!(shards.iter().all(|shard| shard.owner_of(&topic) == owner));
        counts[owner.index()] += 1;
    }
    assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
}

#[test]
fn the_nodes_of_wildcard_filters_are_counted() {
    let mut routes = one_shard();
    let before = routes.stats().trie_nodes;
    routes.subscribe("a/+/c", session(1), qos(0));
    routes.subscribe("a/+/d", session(1), qos(0));
    assert_eq!(routes.stats().trie_nodes - before, 4, "a, + and two ends");
    assert!(routes.unsubscribe("a/+/c", session(1)) && routes.unsubscribe("a/+/d", session(1)));
    while routes.stats().idle_filters > 0 {
        routes.sweep(10);
    }
    assert_eq!(routes.stats().trie_nodes, before);
}
