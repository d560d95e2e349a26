//! The clients of a scenario: topics of each publisher, filters of each subscriber, and so who
//! receives what. Computed once, before the first connect.

use super::{Kind, Scenario};
use crate::plan::{NOT_RECEIVED, PublisherShape, Shape, SubscriberShape};

/// Maximum number of topics of one load; a larger tree is sampled.
const TOPICS_MAX: usize = 4096;

/// The clients of a scenario, below topics that no other run uses.
pub fn shape_of(scenario: &Scenario, run: u32) -> Shape {
    let root = format!("bench/{run:08x}");
    let sends = |topic: String, receivers| PublisherShape { topics: vec![topic], receivers: vec![receivers] };
    let hears = |filter: String, first_publisher, count: u32| SubscriberShape {
        filters: vec![filter],
        first_publisher,
        received: vec![Vec::new(); count as usize],
    };
    let (publishers, subscribers) = (scenario.publishers, scenario.subscribers);
    match scenario.kind {
        Kind::Wildcards => tree(scenario, &root),
        Kind::ConnectStorm | Kind::Idle => Shape { idle: scenario.connections, ..Shape::default() },
        kind if kind.is_pairs() => Shape {
            publishers: (0..publishers).map(|n| sends(format!("{root}/{n}"), 1)).collect(),
            subscribers: (0..publishers).map(|n| hears(format!("{root}/{n}"), n as usize, 1)).collect(),
            idle: 0,
        },
        kind => {
            let topic = |n| if kind == Kind::FanIn { format!("{root}/{n}") } else { format!("{root}/all") };
            let filter = if kind == Kind::FanIn { format!("{root}/+") } else { topic(0) };
            Shape {
                publishers: (0..publishers).map(|n| sends(topic(n), subscribers)).collect(),
                subscribers: (0..subscribers).map(|_| hears(filter.clone(), 0, publishers)).collect(),
                idle: 0,
            }
        }
    }
}

/// A filter over three levels; `None` is `+`, and missing levels make a `#`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<Option<usize>>);

impl Pattern {
    fn matches(&self, topic: [usize; 3]) -> bool {
        self.0.iter().zip(topic).all(|(wanted, level)| wanted.is_none_or(|wanted| wanted == level))
    }

    fn text(&self, root: &str) -> String {
        let mut text = root.to_owned();
        for (level, letter) in self.0.iter().zip(["s", "d", "m"]) {
            text.push('/');
            match level {
                Some(number) => text.push_str(&format!("{letter}{number}")),
                None => text.push('+'),
            }
        }
        if self.0.len() < 3 {
            text.push_str("/#");
        }
        text
    }
}

/// The patterns over a tree that is `width` wide at each of three levels, by kind. Patterns of one
/// kind match disjoint sets of topics; each topic is matched by one pattern of each kind.
fn patterns(width: usize) -> [Vec<Pattern>; 5] {
    let one = || 0..width;
    let two = || one().flat_map(move |a| one().map(move |b| (a, b)));
    [
        one().map(|site| Pattern(vec![Some(site)])).collect(),
        one().map(|metric| Pattern(vec![None, None, Some(metric)])).collect(),
        two().map(|(device, metric)| Pattern(vec![None, Some(device), Some(metric)])).collect(),
        two().map(|(site, metric)| Pattern(vec![Some(site), None, Some(metric)])).collect(),
        two().map(|(site, device)| Pattern(vec![Some(site), Some(device), None])).collect(),
    ]
}

/// Exactly so many patterns, over the smallest tree that has them. The surplus is removed evenly
/// from the largest kinds.
fn choose(filters: usize) -> (usize, [Vec<Pattern>; 5]) {
    let width = (1..).find(|width| 3 * width * width + 2 * width >= filters).unwrap_or(1);
    let mut kinds = patterns(width);
    for _ in filters..kinds.iter().map(Vec::len).sum() {
        let largest = kinds.iter_mut().max_by_key(|kind| kind.len()).expect("there are five kinds");
        largest.pop();
    }
    (width, kinds)
}

/// Sites, devices and metrics; publishers share the topics, subscribers the filters.
fn tree(scenario: &Scenario, root: &str) -> Shape {
    let (width, kinds) = choose(scenario.filters as usize);
    let leaves = width.pow(3);
    let publishers = scenario.publishers as usize;
    let topics_each = (leaves.min(TOPICS_MAX) / publishers).max(1);
    // Coprime to any tree of this size, so that a sample is spread over all levels.
    const STRIDE: usize = 2_654_435_761;
    let topic_of = |publisher: usize, turn: usize| {
        let leaf = (turn * publishers + publisher) * STRIDE % leaves;
        [leaf / width / width, leaf / width % width, leaf % width]
    };

    let each = (scenario.filters as usize).div_ceil(scenario.subscribers as usize);
    let groups = kinds.iter().flat_map(|kind| kind.chunks(each));
    let subscribers: Vec<_> = groups
        .map(|group| SubscriberShape {
            filters: group.iter().map(|pattern| pattern.text(root)).collect(),
            first_publisher: 0,
            received: (0..publishers)
                .map(|publisher| {
                    let mut heard = 0..;
                    let mut rank = |turn| {
                        let topic = topic_of(publisher, turn);
                        let matched = group.iter().any(|pattern| pattern.matches(topic));
                        matched.then(|| heard.next()).flatten().unwrap_or(NOT_RECEIVED)
                    };
                    (0..topics_each).map(&mut rank).collect()
                })
                .collect(),
        })
        .collect();
    let publishers = (0..publishers).map(|publisher| PublisherShape {
        topics: (0..topics_each)
            .map(|turn| {
                let [site, device, metric] = topic_of(publisher, turn);
                format!("{root}/s{site}/d{device}/m{metric}")
            })
            .collect(),
        receivers: (0..topics_each)
            .map(|turn| {
                let hears =
                    |subscriber: &&SubscriberShape| subscriber.received[publisher][turn] != NOT_RECEIVED;
                u32::try_from(subscribers.iter().filter(hears).count()).unwrap_or(u32::MAX)
            })
            .collect(),
    });
    Shape { publishers: publishers.collect(), subscribers, idle: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grapnel_floor::wire::matches;

    fn scenario(kind: Kind) -> Scenario {
        Scenario::new(kind)
    }

    #[test]
    fn clients_are_as_many_as_the_scenario_says() {
        for (kind, publishers, subscribers, idle) in [
            (Kind::OneToOne, 1, 1, 0),
            (Kind::Pairs, 50, 50, 0),
            (Kind::FanOut, 1, 500, 0),
            (Kind::FanIn, 200, 1, 0),
            (Kind::Idle, 0, 0, 10_000),
        ] {
            let shape = shape_of(&scenario(kind), 1);
            let counts = (shape.publishers.len(), shape.subscribers.len(), shape.idle);
            assert_eq!(counts, (publishers, subscribers, idle), "{kind:?}");
        }
    }

    #[test]
    fn every_pair_has_a_topic_of_its_own() {
        let shape = shape_of(&scenario(Kind::Pairs), 0xAB);
        for (n, (publisher, subscriber)) in shape.publishers.iter().zip(&shape.subscribers).enumerate() {
            assert_eq!(publisher.topics, subscriber.filters);
            assert_eq!(subscriber.first_publisher, n);
        }
        assert_eq!(shape.publishers[7].topics, ["bench/000000ab/7"]);
    }

    #[test]
    fn the_expected_receivers_of_a_topic_match_the_filters() {
        for filters in [1, 7, 100, 1000] {
            let mut scenario = scenario(Kind::Wildcards);
            (scenario.filters, scenario.publishers, scenario.subscribers) = (filters, 3, 20);
            let shape = shape_of(&scenario, 5);
            assert_eq!(
                shape.subscribers.iter().map(|one| one.filters.len()).sum::<usize>(),
                filters as usize
            );
            for (number, publisher) in shape.publishers.iter().enumerate() {
                for (turn, topic) in publisher.topics.iter().enumerate() {
                    let mut receivers = 0;
                    for subscriber in &shape.subscribers {
                        let covers = |filter: &&String| matches(filter.as_bytes(), topic.as_bytes());
                        let matching = subscriber.filters.iter().filter(covers);
                        let matching = u32::try_from(matching.count()).expect("few filters");
                        assert!(matching < 2, "{:?} overlap at {topic}", subscriber.filters);
                        receivers += matching;
                        let ranks = &subscriber.received[number];
                        let before = ranks[..turn].iter().filter(|rank| **rank != NOT_RECEIVED).count();
                        let rank =
                            if matching == 1 { u32::try_from(before).expect("few") } else { NOT_RECEIVED };
                        assert_eq!(ranks[turn], rank, "{topic} for {:?}", subscriber.filters);
                    }
                    assert_eq!(publisher.receivers[turn], receivers, "{topic}");
                }
            }
        }
    }

    #[test]
    fn a_message_in_the_tree_is_matched_by_several_filters() {
        let shape = shape_of(&scenario(Kind::Wildcards), 5);
        let (mut topics, mut receivers) = (0, 0);
        for publisher in &shape.publishers {
            topics += publisher.topics.len();
            receivers += publisher.receivers.iter().map(|count| *count as usize).sum::<usize>();
        }
        assert_eq!(topics, 4090);
        assert!((4 * topics..=5 * topics).contains(&receivers), "{receivers} for {topics} topics");
    }
}
