//! Random operations on one shard, compared with a plain list of subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Subscribe(String, u32, u8),
    Unsubscribe(String, u32),
    Join(u8, String, u32, bool),
    Leave(u8, String, u32),
    Connect(u8, String, u32, bool),
    Publish(String),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let sessions = 0..12u32;
    // Few groups, so that they get many members.
    let shared = || prop::sample::select(vec!["a", "a/+", "#", "+/b"]).prop_map(str::to_owned);
    let act = prop_oneof![
        4 => (filters(), sessions.clone(), 0..3u8).prop_map(|(f, s, q)| Act::Subscribe(f, s, q)),
        2 => (filters(), sessions.clone()).prop_map(|(f, s)| Act::Unsubscribe(f, s)),
        4 => (0..2u8, shared(), sessions.clone(), any::<bool>()).prop_map(|(g, f, s, c)| Act::Join(g, f, s, c)),
        2 => (0..2u8, shared(), sessions.clone()).prop_map(|(g, f, s)| Act::Leave(g, f, s)),
        2 => (0..2u8, shared(), sessions, any::<bool>()).prop_map(|(g, f, s, c)| Act::Connect(g, f, s, c)),
        6 => topics().prop_map(Act::Publish),
    ];
    prop::collection::vec(act, 1..200)
}

#[derive(Default)]
struct Model {
    plain: BTreeMap<(String, u32), u8>,
    /// (group, filter) → member → connected
    shared: BTreeMap<(String, String), BTreeMap<u32, bool>>,
}

impl Model {
    fn local(&self, topic: &str) -> BTreeMap<u32, Vec<u8>> {
        let mut found: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for ((filter, session), qos) in &self.plain {
            if naive_match(filter, topic) {
                found.entry(*session).or_default().push(*qos);
            }
        }
        found.values_mut().for_each(|options| options.sort_unstable());
        found
    }

    fn groups(&self, topic: &str) -> BTreeSet<(String, String)> {
        self.shared.keys().filter(|(_, filter)| naive_match(filter, topic)).cloned().collect()
    }
}

fn group_name(group: u8) -> String {
    format!("g{group}")
}

fn act(routes: &mut Routes, model: &mut Model, act: Act) {
    match act {
        Act::Subscribe(filter, at, level) => {
            let done = routes.subscribe(&filter, session(at), qos(level));
            assert_eq!(done.is_new, model.plain.insert((filter, at), level).is_none());
        }
        Act::Unsubscribe(filter, at) => {
            let done = routes.unsubscribe(&filter, session(at));
            assert_eq!(done, model.plain.remove(&(filter, at)).is_some());
        }
        Act::Join(group, filter, at, connected) => {
            let group = group_name(group);
            let done = routes.subscribe_shared(&group, &filter, session(at), qos(1), connected);
            let members = model.shared.entry((group, filter)).or_default();
            assert_eq!(done.is_new, members.insert(at, connected).is_none());
        }
        Act::Leave(group, filter, at) => {
            let key = (group_name(group), filter);
            let done = routes.unsubscribe_shared(&key.0, &key.1, session(at));
            assert_eq!(done, model.shared.get_mut(&key).is_some_and(|members| members.remove(&at).is_some()));
            model.shared.retain(|_, members| !members.is_empty());
        }
        Act::Connect(group, filter, at, connected) => {
            let key = (group_name(group), filter);
            routes.set_connected(&key.0, &key.1, session(at), connected);
            if let Some(known) = model.shared.get_mut(&key).and_then(|members| members.get_mut(&at)) {
                *known = connected;
            }
        }
        Act::Publish(topic) => check(routes, model, &topic),
    }
}

fn check(routes: &mut Routes, model: &Model, topic: &str) {
    let matched = routes.matches(topic);
    let mut found: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for target in &matched.local {
        let mut levels: Vec<u8> = target.subs.iter().map(|one| one.options.qos).collect();
        levels.sort_unstable();
        assert!(found.insert(target.session.index, levels).is_none(), "one target a session");
    }
    assert_eq!(found, model.local(topic), "topic {topic:?}");
    assert!(matched.shards.is_empty());

    let mut groups = BTreeSet::new();
    for key in &matched.groups {
        let (group, filter) = routes.group_name(*key).unwrap();
        let name = (group.to_owned(), filter.to_owned());
        assert_eq!(routes.group_by_name(group, filter), Some(*key));
        assert_eq!(routes.group_by_id(routes.group_id(*key).unwrap()), Some(*key));
        check_group(routes, *key, &model.shared[&name]);
        assert!(groups.insert(name), "each group once");
    }
    assert_eq!(groups, model.groups(topic), "topic {topic:?}");
}

/// One round picks each connected member once, or each member if none is connected.
fn check_group(routes: &mut Routes, key: GroupRef, members: &BTreeMap<u32, bool>) {
    let connected: BTreeSet<u32> =
        members.iter().filter(|(_, connected)| **connected).map(|(at, _)| *at).collect();
    let count = MemberCount { connected: connected.len() as u32, total: members.len() as u32 };
    assert_eq!(routes.group_counts(key).collect::<Vec<_>>(), [(ShardId(0), count)]);
    let all: BTreeSet<u32> = members.keys().copied().collect();
    let wanted = if connected.is_empty() { &all } else { &connected };
    let served: BTreeSet<u32> =
        wanted.iter().map(|_| routes.pick_member(key, |_| true).unwrap().0.index).collect();
    assert_eq!(&served, wanted);
    // Members that are not eligible are skipped, down to those that are not connected.
    let one = *all.last().unwrap();
    assert_eq!(routes.pick_member(key, |who| who.index == one).unwrap().0.index, one);
    assert_eq!(routes.pick_member(key, |_| false), None);
    assert_eq!(routes.pick_shared(key, u64::MAX), Some(ShardId(0)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_shard_agrees_with_a_list(
        acts in acts(), cache in prop::sample::select(vec![0usize, 1, 3, 64]),
        mask in prop::sample::select(vec![0, 1, u64::MAX])
    ) {
        let limits = RouteLimits { topic_cache_entries_max: cache, ..RouteLimits::default() };
        let mut routes = Routes::with_hashes(ShardId(0), 1, Hashes::colliding(mask), limits);
        let mut model = Model::default();
        for one in acts {
            act(&mut routes, &mut model, one);
            let members: usize = model.shared.values().map(BTreeMap::len).sum();
            prop_assert_eq!(routes.stats().subscriptions, model.plain.len() + members);
            prop_assert!(routes.stats().cache.entries <= cache);
        }
        let plain: Vec<_> = model.plain.keys().cloned().collect();
        for (filter, at) in plain {
            act(&mut routes, &mut model, Act::Unsubscribe(filter, at));
        }
        for ((group, filter), members) in std::mem::take(&mut model.shared) {
            for at in members.keys() {
                prop_assert!(routes.unsubscribe_shared(&group, &filter, session(*at)));
            }
        }
        let stats = routes.stats();
        prop_assert_eq!((stats.filters, stats.trie_nodes, stats.groups, stats.subscriptions), (0, 0, 0, 0));
    }
}
