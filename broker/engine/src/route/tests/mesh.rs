//! Several shards that exchange their interest over lanes of random speed; each lane keeps its
//! order. The promise of SUBACK must hold at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;

const SHARDS: usize = 4;
const TOPICS: [&str; 8] = ["a", "b", "a/a", "a/b", "b/a", "$s/a", "/a", "a/b/!"];

#[derive(Clone, Debug)]
enum Act {
    Subscribe(usize, String, u32),
    Unsubscribe(usize, String, u32),
    Join(usize, String, u32, bool),
    Leave(usize, String, u32),
    Connect(usize, String, u32, bool),
    Sweep(usize, usize),
    Send(usize),
    Deliver(usize, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    // Few filters, so that they are removed and added again.
    let filters = prop::sample::select(vec!["a", "a/b", "b/a", "/a", "a/+", "+/a", "#", "$s/#", "+", "a/#"]);
    let filters = filters.prop_map(str::to_owned);
    let shared = prop::sample::select(vec!["a", "+/a"]).prop_map(str::to_owned);
    let shard = || 0..SHARDS;
    let session = || 0..3u32;
    let act = prop_oneof![
        4 => (shard(), filters.clone(), session()).prop_map(|(n, f, s)| Act::Subscribe(n, f, s)),
        4 => (shard(), filters.clone(), session()).prop_map(|(n, f, s)| Act::Unsubscribe(n, f, s)),
        2 => (shard(), shared.clone(), session(), any::<bool>()).prop_map(|(n, f, s, c)| Act::Join(n, f, s, c)),
        2 => (shard(), shared.clone(), session()).prop_map(|(n, f, s)| Act::Leave(n, f, s)),
        1 => (shard(), shared.clone(), session(), any::<bool>()).prop_map(|(n, f, s, c)| Act::Connect(n, f, s, c)),
        2 => (shard(), 1..4usize).prop_map(|(n, budget)| Act::Sweep(n, budget)),
        4 => shard().prop_map(Act::Send),
        16 => (shard(), shard()).prop_map(|(from, to)| Act::Deliver(from, to)),
    ];
    prop::collection::vec(act, 1..250)
}

enum LaneMessage {
    Batch(Arc<InterestBatch>),
    Ack(u64),
}

struct Mesh {
    shards: Vec<Routes>,
    lanes: BTreeMap<(usize, usize), VecDeque<LaneMessage>>,
    /// (shard, filter) → session → what its SUBACK waits for
    plain: BTreeMap<(usize, String), BTreeMap<u32, u64>>,
    /// (shard, filter) → member → (what its SUBACK waits for, connected), all in group `g`
    shared: BTreeMap<(usize, String), BTreeMap<u32, (u64, bool)>>,
}

impl Mesh {
    fn new(mask: u64) -> Self {
        // A small cache, so that entries are replaced as well.
        let limits = RouteLimits { topic_cache_entries_max: 6, ..RouteLimits::default() };
        let shards = (0..SHARDS as u8)
            .map(|me| Routes::with_hashes(ShardId(me), SHARDS, Hashes::colliding(mask), limits))
            .collect();
        Mesh { shards, lanes: BTreeMap::new(), plain: BTreeMap::new(), shared: BTreeMap::new() }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Subscribe(at, filter, who) => {
                let done = self.shards[at].subscribe(&filter, session(who), qos(0));
                self.check_answer(at, done);
                self.plain.entry((at, filter)).or_default().insert(who, done.barrier_seq);
            }
            Act::Unsubscribe(at, filter, who) => {
                let done = self.shards[at].unsubscribe(&filter, session(who));
                let known = self.plain.entry((at, filter)).or_default().remove(&who);
                assert_eq!(done, known.is_some());
            }
            Act::Join(at, filter, who, connected) => {
                let done = self.shards[at].subscribe_shared("g", &filter, session(who), qos(0), connected);
                self.check_answer(at, done);
                self.shared.entry((at, filter)).or_default().insert(who, (done.barrier_seq, connected));
            }
            Act::Leave(at, filter, who) => {
                let done = self.shards[at].unsubscribe_shared("g", &filter, session(who));
                let known = self.shared.entry((at, filter)).or_default().remove(&who);
                assert_eq!(done, known.is_some());
            }
            Act::Connect(at, filter, who, connected) => {
                self.shards[at].set_connected("g", &filter, session(who), connected);
                if let Some(known) = self.shared.entry((at, filter)).or_default().get_mut(&who) {
                    known.1 = connected;
                }
            }
            Act::Sweep(at, budget) => self.shards[at].sweep(budget),
            Act::Send(at) => self.send(at),
            Act::Deliver(from, to) => {
                self.deliver(from, to);
            }
        }
    }

    fn check_answer(&self, at: usize, done: Subscribed) {
        assert_eq!(done.interest == Interest::Pending, done.barrier_seq > 0);
        assert!(done.barrier_seq == 0 || done.barrier_seq > self.shards[at].barrier());
    }

    fn send(&mut self, at: usize) {
        let Some(batch) = self.shards[at].take_changes() else { return };
        let batch = Arc::new(batch);
        for to in (0..SHARDS).filter(|to| *to != at) {
            self.lanes.entry((at, to)).or_default().push_back(LaneMessage::Batch(Arc::clone(&batch)));
        }
    }

    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(message) = self.lanes.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return false;
        };
        match message {
            LaneMessage::Batch(batch) => {
                let seq = self.shards[to].apply(ShardId(from as u8), &batch);
                assert_eq!(seq, batch.seq);
                self.lanes.entry((to, from)).or_default().push_back(LaneMessage::Ack(seq));
            }
            LaneMessage::Ack(seq) => self.shards[to].acked(ShardId(from as u8), seq),
        }
        true
    }

    fn settle(&mut self) {
        for at in 0..SHARDS {
            self.shards[at].sweep(usize::MAX);
            self.send(at);
        }
        while (0..SHARDS).any(|from| (0..SHARDS).any(|to| self.deliver(from, to))) {}
    }

    /// A message from any shard reaches every subscriber whose SUBACK may have been sent.
    fn check_promise(&mut self) {
        for ((home, filter), members) in &self.plain {
            let barrier = self.shards[*home].barrier();
            for (who, _) in members.iter().filter(|(_, seq)| **seq <= barrier) {
                for topic in TOPICS.iter().filter(|topic| naive_match(filter, topic)) {
                    for at in 0..SHARDS {
                        let matched = self.shards[at].matches(topic);
                        let reached = if at == *home {
                            matched.local.iter().any(|target| target.session == session(*who))
                        } else {
                            matched.shards.contains(ShardId(*home as u8))
                        };
                        assert!(reached, "{topic} on shard {at} misses {filter} of {who} on shard {home}");
                        assert!(!matched.shards.contains(ShardId(at as u8)), "a shard is no other to itself");
                    }
                }
            }
        }
        for ((home, filter), members) in &self.shared {
            let barrier = self.shards[*home].barrier();
            if members.values().any(|(seq, _)| *seq <= barrier) {
                for topic in TOPICS.iter().filter(|topic| naive_match(filter, topic)) {
                    for at in 0..SHARDS {
                        let matched = self.shards[at].matches(topic);
                        let key = self.shards[at].group_by_name("g", filter).unwrap();
                        assert!(matched.groups.contains(&key));
                        let only = ShardSet(1 << home);
                        assert_eq!(
                            self.shards[at].pick_shared_among(key, only, 7),
                            Some(ShardId(*home as u8)),
                            "{topic} on shard {at} cannot choose {filter} on shard {home}"
                        );
                    }
                }
            }
        }
    }

    /// After all batches are applied, no SUBACK waits.
    fn check_nobody_waits(&self) {
        let plain =
            self.plain.iter().flat_map(|((home, _), members)| members.values().map(|seq| (*home, *seq)));
        let shared =
            self.shared.iter().flat_map(|((home, _), members)| members.values().map(|one| (*home, one.0)));
        for (home, seq) in plain.chain(shared) {
            assert!(seq <= self.shards[home].barrier(), "batch {seq} of shard {home} was never sent");
        }
    }

    /// After all batches and sweeps, no shard lacks interest, and none has too much unless
    /// fingerprints collide.
    fn check_exact(&mut self, exact: bool) {
        self.plain.retain(|_, members| !members.is_empty());
        self.shared.retain(|_, members| !members.is_empty());
        for at in 0..SHARDS {
            for topic in TOPICS {
                let matched = self.shards[at].matches(topic);
                let mut wanted = ShardSet::EMPTY;
                for ((home, filter), _) in self.plain.iter().filter(|((home, _), _)| *home != at) {
                    if naive_match(filter, topic) {
                        wanted.insert(ShardId(*home as u8));
                    }
                }
                assert_eq!(matched.shards.union(wanted), matched.shards, "{topic} on shard {at}");
                assert!(!exact || matched.shards == wanted, "{topic} on shard {at}: {matched:?}");
            }
            let groups: BTreeSet<&String> = self.shared.keys().map(|(_, filter)| filter).collect();
            assert_eq!(self.shards[at].stats().groups, groups.len());
            for filter in groups {
                let key = self.shards[at].group_by_name("g", filter).unwrap();
                let mut counts: Vec<_> = self.shards[at].group_counts(key).collect();
                counts.sort_unstable_by_key(|(shard, _)| *shard);
                let wanted: Vec<_> = (0..SHARDS)
                    .filter_map(|home| {
                        let members = self.shared.get(&(home, filter.clone()))?;
                        let connected = members.values().filter(|(_, connected)| *connected).count() as u32;
                        let total = members.len() as u32;
                        Some((ShardId(home as u8), MemberCount { connected, total }))
                    })
                    .collect();
                assert_eq!(counts, wanted, "{filter} on shard {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_its_suback_a_subscriber_is_reached_from_every_shard(
        acts in acts(),
        mask in prop::sample::select(vec![0, 1, u64::MAX])
    ) {
        let mut mesh = Mesh::new(mask);
        for act in acts {
            mesh.act(act);
            mesh.check_promise();
        }
        mesh.settle();
        mesh.check_promise();
        mesh.check_nobody_waits();
        mesh.check_exact(mask == u64::MAX);
        for at in 0..SHARDS {
            prop_assert_eq!(mesh.shards[at].stats().idle_filters, 0);
            for ((home, filter), members) in mesh.plain.clone() {
                for who in members.keys().filter(|_| home == at) {
                    mesh.act(Act::Unsubscribe(at, filter.clone(), *who));
                }
            }
            for ((home, filter), members) in mesh.shared.clone() {
                for who in members.keys().filter(|_| home == at) {
                    mesh.act(Act::Leave(at, filter.clone(), *who));
                }
            }
        }
        mesh.settle();
        for shard in &mesh.shards {
            let stats = shard.stats();
            let left = (stats.filters, stats.trie_nodes, stats.literal_interest, stats.groups, stats.subscriptions);
            prop_assert_eq!(left, (0, 0, 0, 0, 0));
        }
    }
}

#[test]
fn a_repeated_batch_changes_nothing() {
    let mut one = Routes::new(ShardId(0), 2, SEEDS, RouteLimits::default());
    let mut two = Routes::new(ShardId(1), 2, SEEDS, RouteLimits::default());
    one.subscribe("a", session(1), qos(0));
    let add = one.take_changes().unwrap();
    one.unsubscribe("a", session(1));
    one.sweep(1);
    let remove = one.take_changes().unwrap();
    assert_eq!(two.apply(ShardId(0), &add), 1);
    assert_eq!(two.apply(ShardId(0), &remove), 2);
    assert_eq!(two.apply(ShardId(0), &add), 2);
    assert!(two.matches("a").is_empty());
}
