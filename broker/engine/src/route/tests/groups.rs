//! Examples of shared subscriptions: the pick of the next member.

use std::collections::BTreeMap;

use super::*;

fn two_shards() -> [Routes; 2] {
    [0, 1].map(|me| Routes::new(ShardId(me), 2, SEEDS, RouteLimits::default()))
}

fn exchange(from: &mut Routes, to: &mut Routes) {
    if let Some(batch) = from.take_changes() {
        let seq = to.apply(from.me, &batch);
        from.acked(to.me, seq);
    }
}

#[test]
fn shards_are_picked_by_their_number_of_connected_members() {
    let [mut here, mut there] = two_shards();
    here.subscribe_shared("g", "a/+", session(0), qos(1), true);
    for at in 0..3 {
        there.subscribe_shared("g", "a/+", session(at), qos(1), true);
    }
    there.subscribe_shared("g", "a/+", session(9), qos(1), false);
    exchange(&mut there, &mut here);
    let group = here.matches("a/b").groups[0];
    let mut drawn = BTreeMap::new();
    for step in 0..1000u64 {
        let random = step * (u64::MAX / 1000);
        *drawn.entry(here.pick_shared(group, random).unwrap()).or_insert(0) += 1;
    }
    assert!((245..=255).contains(&drawn[&ShardId(0)]), "one of four connected is here: {drawn:?}");

    here.set_connected("g", "a/+", session(0), false);
    assert!((0..64).all(|shift| here.pick_shared(group, u64::MAX >> shift) == Some(ShardId(1))));
    for at in 0..3 {
        there.set_connected("g", "a/+", session(at), false);
    }
    exchange(&mut there, &mut here);
    assert_eq!(here.pick_shared(group, 0), Some(ShardId(0)), "nobody is connected: drawn by all members");
    assert_eq!(here.pick_shared(group, u64::MAX), Some(ShardId(1)));
    assert_eq!(here.pick_shared_among(group, ShardSet(1), u64::MAX), Some(ShardId(0)));
}

#[test]
fn members_take_turns_and_the_connected_come_first() {
    let mut routes = one_shard();
    for at in 0..6 {
        routes.subscribe_shared("g", "a", session(at), qos(1), at % 2 == 0);
    }
    let group = routes.group_by_name("g", "a").unwrap();
    let mut served = BTreeMap::new();
    for _ in 0..30 {
        *served.entry(routes.pick_member(group, |_| true).unwrap().0.index).or_insert(0) += 1;
    }
    assert_eq!(served, BTreeMap::from([(0, 10), (2, 10), (4, 10)]));
    let mut served = BTreeMap::new();
    for _ in 0..30 {
        let odd = routes.pick_member(group, |who| who.index % 2 == 1).unwrap();
        *served.entry(odd.0.index).or_insert(0) += 1;
    }
    assert_eq!(served, BTreeMap::from([(1, 10), (3, 10), (5, 10)]));
}

#[test]
fn a_group_is_known_elsewhere_by_its_id_and_gone_with_its_last_member() {
    let [mut here, mut there] = two_shards();
    let done = there.subscribe_shared("g", "a/b", session(1), qos(2), true);
    assert_eq!(done.barrier_seq, 1);
    there.subscribe_shared("other", "a/b", session(1), qos(2), true);
    assert_eq!(here.matches("a/b").groups.len(), 0);
    exchange(&mut there, &mut here);
    assert_eq!(there.barrier(), 1);
    let matched = here.matches("a/b");
    assert_eq!(matched.groups.len(), 2);
    assert!(matched.local.is_empty() && matched.shards.is_empty());
    let group = here.group_by_name("g", "a/b").unwrap();
    let id = here.group_id(group).unwrap();
    let named = there.group_by_id(id).unwrap();
    assert_eq!(there.group_name(named), Some(("g", "a/b")));
    assert_eq!(there.pick_member(named, |_| true), Some((session(1), qos(2))));

    assert!(there.unsubscribe_shared("g", "a/b", session(1)));
    exchange(&mut there, &mut here);
    assert_eq!(here.matches("a/b").groups.len(), 1);
    assert_eq!(here.group_name(group), None, "a stale reference finds nothing");
    assert_eq!(here.pick_shared(group, 1), None);
    assert_eq!(there.group_by_id(id), None);
}

#[test]
fn a_member_that_joins_and_leaves_within_a_turn_still_fills_its_batch() {
    // Otherwise a SUBACK would wait for a number that is never sent.
    let [mut here, mut there] = two_shards();
    let done = here.subscribe_shared("g", "a", session(1), qos(0), true);
    here.unsubscribe_shared("g", "a", session(1));
    exchange(&mut here, &mut there);
    assert!(here.barrier() >= done.barrier_seq);
    assert_eq!(here.stats().groups + there.stats().groups, 0);
    assert_eq!(here.stats().filters + there.stats().filters, 0);
}

#[test]
fn a_member_between_the_connected_and_the_others_keeps_both_counts_right() {
    let mut routes = one_shard();
    for at in 0..100 {
        routes.subscribe_shared("g", "a", session(at), qos(0), true);
    }
    for at in (0..100).step_by(3) {
        routes.set_connected("g", "a", session(at), false);
        routes.set_connected("g", "a", session(at), false);
    }
    for at in (0..100).step_by(2) {
        assert!(routes.unsubscribe_shared("g", "a", session(at)));
    }
    let group = routes.group_by_name("g", "a").unwrap();
    let wanted = MemberCount { connected: 33, total: 50 };
    assert_eq!(routes.group_counts(group).collect::<Vec<_>>(), [(ShardId(0), wanted)]);
    let members: Vec<u32> = routes.group_members(group).map(|(who, _)| who.index).collect();
    assert!(members[..33].iter().all(|at| at % 3 != 0) && members[33..].iter().all(|at| at % 3 == 0));
}

#[test]
fn only_the_first_member_on_a_shard_is_waited_for() {
    let [mut here, mut there] = two_shards();
    assert_eq!(here.subscribe_shared("g", "a", session(1), qos(0), true).barrier_seq, 1);
    assert_eq!(here.subscribe_shared("g", "a", session(2), qos(0), true).barrier_seq, 1);
    exchange(&mut here, &mut there);
    assert_eq!(here.subscribe_shared("g", "a", session(3), qos(0), true).barrier_seq, 0);
    // The same call again changes no count, so there may be no batch to wait for.
    let again = here.subscribe_shared("g", "a", session(3), qos(1), true);
    assert_eq!((again.is_new, again.interest, again.barrier_seq), (false, Interest::Acknowledged, 0));
}

#[test]
fn a_group_that_lives_on_elsewhere_has_to_hear_of_the_first_member_again() {
    let [mut here, mut there] = two_shards();
    there.subscribe_shared("g", "a", session(1), qos(0), true);
    exchange(&mut there, &mut here);
    here.subscribe_shared("g", "a", session(1), qos(0), true);
    exchange(&mut here, &mut there);
    here.unsubscribe_shared("g", "a", session(1));
    exchange(&mut here, &mut there);
    assert_eq!(here.subscribe_shared("g", "a", session(1), qos(0), true).barrier_seq, 3);
}
